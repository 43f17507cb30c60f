"""GWGSampler: targets with known answers, predictions, and the life around them."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_diabetes, load_iris, make_moons
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import GWGSampler, SVGDSampler
from skwgf.datasets import make_six_plus_two
from skwgf.targets import (
    Gaussian,
    GaussianMixture,
    KernelDensityTarget,
    LinearRegressionPosterior,
    LogDensity,
    LogisticRegressionPosterior,
    NeuralNetworkPosterior,
)

EULER_GAMMA, LOG_GAMMA_SD = 0.5772156649, math.pi / math.sqrt(6)


def cloud(n=200, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def log_gamma(scale=1.0):
    """Return the law of `scale` times logarithms of exponential variables, which are skewed."""
    return LogDensity(lambda x: (x / scale - (x / scale).exp()).sum(1), 2, batched=True)


def wave(n=60):
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (n, 1))
    return X, np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=n)


class TestGaussianTargets:
    @pytest.mark.parametrize("d", [1, 2, 10, 50])
    def test_default_flow_keeps_the_spread(self, d):
        # The affine start has the first two moments exactly; the flow must not lose them. Bug
        # caught: a network that follows the noise of the cloud, which spreads it or draws it in
        # by a tenth and more.
        sampler = GWGSampler(Gaussian(np.zeros(d)), random_state=0).fit(3 * cloud(200, d) + 2)
        assert np.abs(sampler.particles_.mean(0)).max() < 0.02
        assert abs(sampler.particles_.var(0).mean() - 1) < 0.02
        assert abs(sampler.spread_ratio_ - 1) < 0.02
        assert abs(sampler.fisher_ratio_ - 1) < 0.02

    def test_correlated(self):
        rng = np.random.default_rng(1)
        root = np.eye(5) + 0.8 * rng.normal(size=(5, 5)).cumsum(0) / 3
        mean, covariance = np.arange(5.0), root @ root.T
        sampler = GWGSampler(Gaussian(mean, covariance=covariance), random_state=0).fit(cloud(d=5))
        found = np.cov(sampler.particles_.T, bias=True)
        # In units of the target. Bug caught: a transposed root, of no effect on the plane.
        inverse = np.linalg.inv(np.linalg.cholesky(covariance))
        assert np.abs(inverse @ (sampler.particles_.mean(0) - mean)).max() < 0.02
        assert np.abs(inverse @ found @ inverse.T - np.eye(5)).max() < 0.05


class TestShapes:
    def test_skewed_law(self):
        # 300 independent draws have standard errors .06 of the mean, .05 of the spread and .2 of
        # the skewness, -1.14; an affine field ends at a spread of .82 and a skewness of -.2.
        sampler = GWGSampler(log_gamma(), random_state=0).fit(cloud(300))
        standard = (sampler.particles_ + EULER_GAMMA) / LOG_GAMMA_SD
        spread = standard.std(0)
        assert np.abs(standard.mean(0)).max() < 0.06
        assert np.abs(spread - 1).max() < 0.06
        assert (((standard - standard.mean(0)) / spread) ** 3).mean(0).max() < -0.8
        assert sampler.converged_

    @pytest.mark.parametrize("coordinates", ["whitened", "raw"])
    def test_whitened_flow_takes_units_as_they_come(self, coordinates):
        # Powers of two: the same numbers, bit by bit but for the networks' single precision. Raw
        # coordinates are of another flow in other units.
        one, other = (
            GWGSampler(
                log_gamma(scale), coordinates=coordinates, max_iter=12, tol=0, random_state=0
            )
            for scale in (1.0, 2.0**-6)
        )
        with pytest.warns(ConvergenceWarning):
            one.fit(cloud(100))
        with pytest.warns(ConvergenceWarning):
            other.fit(cloud(100) * 2.0**-6)
        same = np.allclose(one.particles_, 64 * other.particles_, atol=1e-3)
        assert same == (coordinates == "whitened")

    def test_two_modes_keep_their_shares(self):
        # Particles placed in both modes stay there; an affine start would draw them into one.
        start = cloud(200) + np.where(np.arange(200) % 2, 3.0, -3.0)[:, None] * [1.0, 0.0]
        target = GaussianMixture([[-3.0, 0.0], [3.0, 0.0]])
        sampler = GWGSampler(target, init=start, random_state=0).fit(start[:5])
        assert 0.45 < np.mean(sampler.particles_[:, 0] > 0) < 0.55
        assert abs(np.abs(sampler.particles_[:, 0]).mean() - 3) < 0.2

    def test_positive_support(self):
        # An exponential law: mean 1, deviation 1, on the scale of the user.
        target = LogDensity(lambda x: -x.sum(1), 1, support="positive")
        sampler = GWGSampler(target, random_state=0).fit(np.abs(cloud(150, 1)) + 0.1)
        assert sampler.particles_.min() > 0
        assert sampler.particles_.mean() == pytest.approx(1, abs=0.06)
        assert sampler.particles_.std() == pytest.approx(1, abs=0.12)

    @pytest.mark.slow
    @pytest.mark.parametrize("scale", [1.0, 30.0])
    def test_moments_of_a_skewed_law_over_seeds(self, scale):
        # Bias over five seeds, in which the noise of single runs averages out. 500 independent
        # draws: .045 for the mean, .032 for the spread (.05 here, by the kurtosis), times
        # (2 coordinates x 5 seeds)^(-1/2).
        means, spreads, skews, tails = [], [], [], []
        for seed in range(5):
            sampler = GWGSampler(log_gamma(scale), random_state=seed)
            sampler.fit(scale * cloud(500, seed=seed))
            standard = (sampler.particles_ / scale + EULER_GAMMA) / LOG_GAMMA_SD
            means.append(standard.mean(0))
            spreads.append(standard.std(0))
            skews.append((((standard - means[-1]) / spreads[-1]) ** 3).mean(0))
            # Below the 2 per cent quantile of the law.
            quantile = (math.log(-math.log(1 - 0.02)) + EULER_GAMMA) / LOG_GAMMA_SD
            tails.append((standard < quantile).mean(0))
        assert np.abs(np.mean(means)) < 0.045
        assert abs(np.mean(spreads) - 1) < 0.04
        assert abs(np.mean(skews) + 1.14) < 0.25
        assert 0.01 < np.mean(tails) < 0.03


class TestModels:
    def test_linear_posterior_is_the_exact_one(self):
        # Conjugate: precision X'X / s^2 + I, a Gaussian.
        rng = np.random.default_rng(0)
        X = rng.normal(size=(40, 3)) + 1
        y = X @ [1.0, -2.0, 0.5] + 0.7 * rng.normal(size=40)
        target = LinearRegressionPosterior(noise_scale=0.7, normalize_y=False)
        sampler = GWGSampler(target, random_state=0).fit(X, y)
        design = np.c_[X, np.ones(40)]
        covariance = np.linalg.inv(design.T @ design / 0.49 + np.eye(4))
        mean = covariance @ design.T @ y / 0.49
        deviation = np.sqrt(covariance.diagonal())
        assert np.abs((sampler.particles_.mean(0) - mean) / deviation).max() < 0.03
        found = np.cov(sampler.particles_.T, bias=True)
        assert np.abs((found - covariance) / np.outer(deviation, deviation)).max() < 0.05

    def test_regression_beside_bayesian_ridge(self):
        # Both are Gaussian models with learnt noise: mean, deviation and coverage agree.
        X, y = load_diabetes(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        sampler = GWGSampler(LinearRegressionPosterior(), random_state=0).fit(X[:300], y[:300])
        mean, std, limits = sampler.predict(X[300:], return_std=True, interval=0.9)
        expected, deviation = BayesianRidge().fit(X[:300], y[:300]).predict(X[300:], True)
        assert is_regressor(sampler)
        assert np.sqrt(np.mean((mean - expected) ** 2)) < 0.05 * deviation.mean()
        assert abs(np.median(std / deviation) - 1) < 0.02
        assert np.abs(std / deviation - 1).max() < 0.08
        assert abs(np.mean((limits[:, 0] < y[300:]) & (y[300:] < limits[:, 1])) - 0.9) < 0.07

    @pytest.mark.parametrize("make", [GWGSampler, SVGDSampler])
    def test_logistic_posterior_by_quadrature(self, make):
        # Few rows, nearly separated: a skewed posterior of slope and intercept, integrated on a
        # grid. Both samplers are held to the same: 200 draws have a standard error of .07.
        X = np.array([-2.0, -1.5, -1, -0.5, 0.2, 0.5, 1, 1.5, 2])[:, None]
        y = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1])
        target = LogisticRegressionPosterior(prior_scale=3.0)
        particles = make(target, random_state=0).fit(X, y).particles_
        axis = torch.linspace(-14, 14, 400, dtype=torch.float64)
        grid = torch.cartesian_prod(axis, axis)
        mass = target.fit(X, y).log_prob(grid).softmax(0).numpy()
        mean = mass @ grid.numpy()
        deviation = np.sqrt(mass @ (grid.numpy() - mean) ** 2)
        assert np.abs((particles.mean(0) - mean) / deviation).max() < 0.07
        assert np.abs(particles.std(0) / deviation - 1).max() < 0.07

    def test_labels_and_three_classes(self):
        X, y = load_iris(return_X_y=True)
        names = np.array(["setosa", "versicolor", "virginica"])[y]
        sampler = GWGSampler(LogisticRegressionPosterior(), random_state=0)
        sampler.fit(X - X.mean(0), names)
        assert is_classifier(sampler)
        assert sampler.classes_.tolist() == ["setosa", "versicolor", "virginica"]
        proba = sampler.predict_proba(X - X.mean(0))
        assert np.allclose(proba.sum(1), 1)
        assert np.allclose(np.exp(sampler.predict_log_proba(X - X.mean(0))), proba)
        assert sampler.score(X - X.mean(0), names) > 0.95

    def test_minibatches_find_the_same_posterior(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(1000, 2))
        y = X @ [1.0, -2.0] + 0.5 * rng.normal(size=1000)
        target = LinearRegressionPosterior()
        full = GWGSampler(target, n_particles=100, random_state=0).fit(X, y)
        batched = GWGSampler(target, n_particles=100, batch_size=250, max_iter=100, random_state=0)
        with pytest.warns(ConvergenceWarning):  # the noise of the batches never settles
            batched.fit(X, y)
        deviations = full.particles_.std(0)
        assert np.abs(batched.particles_.std(0) / deviations - 1).max() < 0.2
        shift = np.abs(full.particles_.mean(0) - batched.particles_.mean(0)) / deviations
        assert shift.max() < 0.5
        # The steps come to an end. Bug caught: a run of which the last step is as long as any.
        steps = batched.history_["step"]
        assert steps.min() > 0  # no lucky batch stops it
        assert steps[-3:].mean() < 0.15 * steps[40:60].mean()

    def test_search_over_exponent_and_widths(self):
        X, y = load_iris(return_X_y=True)
        target = LogisticRegressionPosterior()
        sampler = GWGSampler(target, n_particles=30, max_iter=5, random_state=0)
        model = make_pipeline(StandardScaler(), sampler)
        grid = {"gwgsampler__p": [2.0, 3.0], "gwgsampler__hidden_layer_sizes": [(), (8,)]}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            search = GridSearchCV(model, grid, cv=2, scoring="neg_log_loss").fit(X, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        # All are near the posterior after the affine start; log 3 is a guess.
        assert search.cv_results_["mean_test_score"].min() > -0.35


class TestDensitiesOfData:
    def test_default_learns_the_law_of_the_rows(self):
        # As good as a kernel density on held-out rows. Bug caught: an affine start, which draws
        # the two moons into one bell.
        X, _ = make_moons(1000, noise=0.1, random_state=0)
        sampler = GWGSampler(random_state=0).fit(X[:500])
        density = KernelDensityTarget().fit(X[:500])
        assert sampler.score(X[500:]) > density.score_samples(X[500:]).mean() - 0.3
        assert sampler.score_samples(X[500:]).mean() == pytest.approx(sampler.score(X[500:]))
        assert sampler.particles_.shape == (200, 2)
        assert np.abs(sampler.particles_.std(0) / X.std(0) - 1).max() < 0.1

    def test_light_modes_keep_their_particles(self):
        # Two modes of 2.5% each, far away. Bug caught: a smooth field drags their particles out.
        X, _ = make_six_plus_two(1200, random_state=116)
        assert GWGSampler(random_state=0).fit(X[:600]).score(X[600:]) > -0.5


@pytest.mark.filterwarnings("ignore:The particles of GWGSampler:UserWarning")
class TestFewerParticlesThanDimensions:
    """No covariance to whiten by: particles follow their own scores, apart from each other."""

    def test_gaussian(self):
        # 40 particles in 60 dimensions. Bug caught: the collapse of kernels in high dimension, and
        # an affine part of rank 39 that is taken for the target's.
        sampler = GWGSampler(Gaussian(np.zeros(60)), random_state=0).fit(1.5 * cloud(40, 60) + 0.5)
        assert abs(sampler.particles_.var(0).mean() - 1) < 0.05
        # Independent draws have a standard error of .16; the start was .5 off.
        assert np.abs(sampler.particles_.mean(0)).max() < 0.1
        assert abs(sampler.spread_ratio_ - 1) < 0.05

    def test_neural_network_on_all_rows(self):
        # 33 parameters. Bug caught: a run that counts the passing low of the dissipation, which
        # grows again as the noise of the model falls, for its end (R^2 .82, noise .6).
        X, y = wave()
        target = NeuralNetworkPosterior(hidden_layer_sizes=(10,))
        sampler = GWGSampler(target, n_particles=20, random_state=0).fit(X, y)
        assert sampler.score(X, y) > 0.95
        spread = sampler.particles_.std(0)
        assert spread.shape == (33,)
        assert spread.min() > 0.01
        _, std = sampler.predict(X, return_std=True)
        assert 0.07 < std.mean() < 0.35

    def test_neural_network_on_batches(self):
        # Most weights are as spread as their prior, of unit variance: 20 rows cannot tell them.
        # Bug caught: particles that agree, whose predictions have no spread where there is no data.
        X, y = wave()
        target = NeuralNetworkPosterior(hidden_layer_sizes=(10,))
        sampler = GWGSampler(target, n_particles=20, batch_size=20, max_iter=250, random_state=0)
        with pytest.warns(ConvergenceWarning):
            sampler.fit(X, y)
        assert sampler.score(X, y) > 0.9
        assert np.median(sampler.particles_[:, :31].std(0)) > 0.4
        _, inside = sampler.predict(X, return_std=True)
        _, outside = sampler.predict(np.array([[-8.0], [8.0]]), return_std=True)
        assert outside.min() > 2 * inside.mean()

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_all_steps_are_run(self):
        # Bug caught: a dissipation that dips, before it grows again, taken for rest.
        sampler = GWGSampler(Gaussian(np.zeros(60)), max_iter=120, random_state=0)
        assert sampler.fit(cloud(40, 60)).n_iter_ == 120


class TestLife:
    def test_attributes(self):
        sampler = GWGSampler(Gaussian(), n_restarts=2, random_state=0).fit(cloud(40))
        assert sampler.particles_.shape == (80, 2)
        assert len(sampler.networks_) == 2
        assert all(isinstance(network, torch.nn.Module) for network in sampler.networks_)
        assert sampler.exponent_ == 2.0
        assert sampler.n_features_in_ == 2
        assert sampler.target_ is not sampler.target
        keys = {"objective", "dissipation", "exponent", "step", "seconds"}
        assert set(sampler.history_) == keys
        assert all(len(values) == sampler.n_iter_ for values in sampler.history_.values())
        assert all(np.isfinite(values).all() for values in sampler.history_.values())
        assert np.diff(sampler.history_["seconds"]).min() > 0
        assert sampler.history_["dissipation"].min() > 0

    def test_restarts_are_clouds_of_their_own(self):
        X, _ = make_moons(300, noise=0.1, random_state=0)
        sampler = GWGSampler(n_particles=50, n_restarts=3, random_state=0).fit(X)
        clouds = sampler.particles_.reshape(3, 50, 2)
        assert not np.allclose(clouds[0], clouds[1])
        # The mean of 50 independent draws has a deviation of .12 and .07.
        for one in clouds:
            assert np.all(np.abs(one.mean(0) - X.mean(0)) < 3 * X.std(0) / 50**0.5)

    def test_score_is_minus_ksd_squared(self):
        sampler = GWGSampler(Gaussian(), random_state=0).fit(cloud(50))
        assert sampler.score(cloud(50)) == pytest.approx(-(sampler.ksd() ** 2))
        # Closer than 50 independent draws, whose squared discrepancy is E k(z, z) / n = 4 / 50:
        # with d = 2, k(z, z) = |z|^2 + d for the kernel (1 + r^2)^(-1/2).
        assert sampler.ksd() ** 2 < 0.5 * 4 / 50

    def test_sample(self):
        sampler = GWGSampler(Gaussian(), random_state=0).fit(cloud(50))
        assert np.array_equal(sampler.sample(50), sampler.particles_)
        some = sampler.sample(20, random_state=0)
        assert len(np.unique(some, axis=0)) == 20
        assert sampler.sample(500, random_state=0).shape == (500, 2)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_precision(self, dtype):
        followed = GWGSampler(log_gamma(), random_state=0).fit(cloud(100).astype(dtype))
        asked = GWGSampler(log_gamma(), dtype=dtype, random_state=0).fit(cloud(100))
        assert followed.particles_.dtype == asked.particles_.dtype == dtype
        # The networks' precision is single anyway.
        wide = GWGSampler(log_gamma(), random_state=0).fit(cloud(100))
        assert np.allclose(asked.particles_, wide.particles_, atol=0.05)

    def test_same_seed_same_particles_and_no_global_state(self):
        # Bug caught: weights or held-out particles from torch's global generator.
        global_torch = torch.get_rng_state()
        global_numpy = np.random.get_state()[1].copy()  # noqa: NPY002
        X, y = load_iris(return_X_y=True)
        runs = []
        for seed in (0, 0, 1):
            sampler = GWGSampler(LogisticRegressionPosterior(), max_iter=5, random_state=seed)
            with pytest.warns(ConvergenceWarning):
                runs.append(sampler.fit(X, y).particles_)
            torch.rand(3)  # the global state is another at the next run
        assert np.array_equal(runs[0], runs[1])
        assert not np.allclose(runs[0], runs[2])
        torch.set_rng_state(global_torch)
        GWGSampler(Gaussian(), random_state=0).fit(cloud(30))
        GWGSampler(Gaussian()).fit(cloud(30))
        assert torch.equal(torch.get_rng_state(), global_torch)
        assert np.array_equal(np.random.get_state()[1], global_numpy)  # noqa: NPY002

    def test_warm_start_goes_on(self):
        sampler = GWGSampler(
            log_gamma(), max_iter=4, step_size=0.05, warm_start=True, random_state=0
        )
        with pytest.warns(ConvergenceWarning):
            sampler.fit(cloud(100))
        early, first = sampler.history_["objective"].copy(), sampler.particles_.copy()
        sampler.set_params(max_iter=60, step_size=0.15).fit(cloud(100))
        assert np.array_equal(sampler.history_["objective"][:4], early)
        assert len(sampler.history_["objective"]) == 4 + sampler.n_iter_
        # From where it was, without another affine start: the particles keep their order.
        assert sampler.history_["objective"][4] < 1.2 * early[-1]
        assert np.corrcoef(first[:, 0], sampler.particles_[:, 0])[0, 1] > 0.95
        assert np.diff(sampler.history_["seconds"]).min() > 0

    def test_more_steps_do_no_harm(self):
        # At the level of the energy a cloud is left where it is.
        start = cloud(100)
        short = GWGSampler(log_gamma(), random_state=0).fit(start)
        again = GWGSampler(log_gamma(), init=short.particles_, random_state=0).fit(start)
        assert short.converged_
        if short.history_["objective"][-1] <= 0.08:  # the level for 100 particles on the plane
            assert again.n_iter_ == 1
            assert np.allclose(again.particles_, short.particles_)

    def test_clone_and_set_params(self):
        target = LogisticRegressionPosterior(prior_scale=2.0)
        sampler = GWGSampler(target, n_particles=30, p=3.0, hidden_layer_sizes=(4,))
        copy = clone(sampler).set_params(p=1.5, target__prior_scale=0.5)
        assert (sampler.p, copy.p) == (3.0, 1.5)
        assert (target.prior_scale, copy.target.prior_scale) == (2.0, 0.5)
        assert copy.hidden_layer_sizes == (4,)
        assert not hasattr(target, "n_dim_")

    def test_fit_changes_nothing_it_was_given(self):
        target, start = LogisticRegressionPosterior(), cloud(40)
        sizes = [8]
        sampler = GWGSampler(target, n_particles=30, hidden_layer_sizes=sizes, random_state=0)
        before, parameters = start.copy(), sampler.get_params()
        sampler.fit(start, np.arange(40) % 2)
        assert sampler.target is target
        assert not hasattr(target, "n_dim_")
        assert np.array_equal(start, before)
        assert sampler.get_params() == parameters
        assert sizes == [8]

    def test_pickle(self):
        sampler = GWGSampler(Gaussian(), track_density=True, random_state=0).fit(cloud(40))
        again = pickle.loads(pickle.dumps(sampler))
        assert np.array_equal(again.particles_, sampler.particles_)
        assert again.ksd() == sampler.ksd()
        ours, theirs = (s.importance_sample(50, random_state=0) for s in (sampler, again))
        assert np.array_equal(ours.log_weights, theirs.log_weights)

    def test_interrupt_keeps_the_state(self):
        # Of the step before: an interruption in the middle of one leaves it half done.
        calls = []

        def interrupted(x):
            calls.append(1)
            if len(calls) == 20:
                raise KeyboardInterrupt
            return (x - x.exp()).sum(1)

        options = {"init": cloud(60), "step_size": 0.02, "tol": 0.0, "random_state": 0}
        sampler = GWGSampler(LogDensity(interrupted, 2, batched=True), **options)
        with pytest.warns(UserWarning, match="was interrupted"):
            sampler.fit(cloud(5))
        assert not sampler.converged_
        assert 0 < sampler.n_iter_ < 20
        assert all(len(values) == sampler.n_iter_ for values in sampler.history_.values())
        short = GWGSampler(log_gamma(), max_iter=sampler.n_iter_, **options)
        with pytest.warns(ConvergenceWarning):
            short.fit(cloud(5))
        assert np.array_equal(sampler.particles_, short.particles_)
        assert np.isfinite(sampler.ksd())

    def test_verbose(self, capsys):
        sampler = GWGSampler(Gaussian(), max_iter=4, tol=0.0, verbose=2, random_state=0)
        with pytest.warns(ConvergenceWarning):
            sampler.fit(cloud(30))
        lines = capsys.readouterr().out.splitlines()
        assert [line.split("  ")[0] for line in lines] == [
            "[GWGSampler] iteration 2",
            "[GWGSampler] iteration 4",
        ]
        assert "dissipation" in lines[0]

    def test_callbacks_see_the_particles_of_each_step(self):
        monitor = ScoringMonitor(scoring={"score": lambda model, X, y: model.score(X)})
        sampler = GWGSampler(log_gamma(), step_size=0.05, max_iter=5, tol=0.0, random_state=0)
        with pytest.warns(ConvergenceWarning):
            sampler.set_callbacks(monitor).fit(cloud(60))
        log = monitor.get_logs().data_as_pandas
        scores = log[log.task_name == "iteration"].score
        assert scores.nunique() == 5
        assert scores.iloc[-1] == pytest.approx(sampler.score(cloud(60)))

    def test_not_fitted(self):
        for method in ("score", "sample", "ksd", "importance_sample"):
            with pytest.raises(NotFittedError):
                getattr(GWGSampler(), method)(*([cloud()] if method == "score" else []))

    def test_methods_follow_the_target(self):
        assert not hasattr(GWGSampler(), "predict")
        assert not hasattr(GWGSampler(LinearRegressionPosterior()), "predict_proba")
        assert not hasattr(GWGSampler(Gaussian()), "score_samples")
        assert hasattr(GWGSampler(LogisticRegressionPosterior()), "predict_log_proba")
