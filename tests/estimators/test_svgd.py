"""SVGDSampler: posteriors with known answers, predictions, and the life around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import SVGDSampler
from skwgf.datasets import make_six_plus_two
from skwgf.estimators._predictions import mixture_quantiles
from skwgf.kernels import Gaussian as GaussianKernel
from skwgf.kernels import InverseMultiquadric, Laplace, Matern, RieszKernel
from skwgf.targets import (
    Gaussian,
    GaussianMixture,
    KernelDensityTarget,
    LinearRegressionPosterior,
    LogDensity,
    LogisticRegressionPosterior,
)


def cloud(n=200, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


class TestGaussianTargets:
    @pytest.mark.parametrize("d", [1, 2, 10, 50])
    def test_default_flow_keeps_the_spread(self, d):
        # Bug caught: the classic collapse, a mean variance of .1 at d = 50 (a test of the mean
        # passes it). The affine start alone has the first two moments.
        start = 3 * cloud(200, d) + 2
        sampler = SVGDSampler(Gaussian(np.zeros(d)), random_state=0).fit(start)
        assert np.abs(sampler.particles_.mean(0)).max() < 0.05
        assert abs(sampler.particles_.var(0).mean() - 1) < 0.03
        assert abs(sampler.spread_ratio_ - 1) < 0.03

    def test_correlated(self):
        covariance = np.array([[4.0, 1.9], [1.9, 1.0]])
        sampler = SVGDSampler(Gaussian((1.0, -1.0), covariance=covariance), random_state=0)
        found = np.cov(sampler.fit(cloud(200)).particles_.T, bias=True)
        assert np.allclose(found, covariance, atol=0.1)

    def test_classic_collapse_is_reported(self):
        sampler = SVGDSampler(
            Gaussian(np.zeros(30)), kernel=GaussianKernel("median"), max_iter=200, random_state=0
        )
        with pytest.warns(UserWarning, match=r"spread ratio .* default flow"):
            sampler.fit(cloud(100, 30))
        assert sampler.particles_.var(0).mean() < 0.6
        assert sampler.spread_ratio_ < 0.8


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("optimizer", ["euler", "adagrad", "adam", "heun"])
@pytest.mark.parametrize(
    "kernel",
    [GaussianKernel("scale"), InverseMultiquadric("scale"), Matern("scale"), Laplace("scale")],
    ids=lambda kernel: type(kernel).__name__,
)
def test_every_kernel_and_optimizer_samples_the_plane(kernel, optimizer):
    # Variances of N(0, I_2) to a fifth. Bug caught: a repulsion of the wrong sign (variance 0).
    step = {"euler": 1.0, "heun": 1.0}.get(optimizer, 0.1)
    sampler = SVGDSampler(
        Gaussian(), kernel=kernel, optimizer=optimizer, step_size=step, random_state=0
    )
    particles = sampler.fit(0.5 * cloud(80) + 1).particles_
    assert np.abs(particles.mean(0)).max() < 0.15
    assert np.abs(particles.var(0) - 1).max() < 0.3
    assert sampler.kernel_ is not kernel
    assert sampler.kernel_.get_params() == kernel.get_params()


class TestModels:
    def test_classifier_beside_logistic_regression(self):
        # Averaging over the posterior costs nothing in accuracy and calibration.
        X, y = load_breast_cancer(return_X_y=True)
        X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=y)
        sampler = SVGDSampler(LogisticRegressionPosterior(), random_state=0)
        model = make_pipeline(StandardScaler(), sampler).fit(X, y)
        peer = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
        assert is_classifier(model)
        assert model.score(X_test, y_test) >= peer.score(X_test, y_test) - 0.01
        assert log_loss(y_test, model.predict_proba(X_test)) < 0.11
        figure = model[-1].log_predictive_density(model[0].transform(X_test), y_test)
        assert figure == pytest.approx(-log_loss(y_test, model.predict_proba(X_test)), rel=1e-6)

    def test_labels_and_three_classes(self):
        X, y = load_iris(return_X_y=True)
        X = X - X.mean(0)
        names = np.array(["setosa", "versicolor", "virginica"])[y]
        sampler = SVGDSampler(LogisticRegressionPosterior(), random_state=0).fit(
            X - X.mean(0), names
        )
        assert sampler.classes_.tolist() == ["setosa", "versicolor", "virginica"]
        proba = sampler.predict_proba(X)
        assert np.allclose(proba.sum(1), 1)
        assert np.allclose(np.exp(sampler.predict_log_proba(X)), proba)
        assert sampler.score(X, names) > 0.95

    def test_regression_beside_bayesian_ridge(self):
        # Both are Gaussian models with learnt noise: mean, deviation and coverage agree.
        X, y = load_diabetes(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        X, X_test, y, y_test = train_test_split(X, y, random_state=0)
        sampler = SVGDSampler(LinearRegressionPosterior(), random_state=0).fit(X, y)
        mean, std, limits = sampler.predict(X_test, return_std=True, interval=0.9)
        expected, deviation = BayesianRidge().fit(X, y).predict(X_test, return_std=True)
        assert is_regressor(sampler)
        assert np.sqrt(np.mean((mean - expected) ** 2)) < 0.05 * deviation.mean()
        assert np.abs(std / deviation - 1).max() < 0.05
        covered = np.mean((limits[:, 0] < y_test) & (y_test < limits[:, 1]))
        assert abs(covered - 0.9) < 0.07
        # A normal law's central interval: 1.645 deviations to each side.
        assert np.allclose((limits[:, 1] - limits[:, 0]) / std, 2 * 1.645, atol=0.1)

    def test_minibatches_find_the_same_posterior(self):
        rng = np.random.default_rng(0)
        X = rng.normal(size=(2000, 2))
        y = X @ [1.0, -2.0] + 0.5 * rng.normal(size=2000)
        full = SVGDSampler(LinearRegressionPosterior(), random_state=0).fit(X, y)
        batched = SVGDSampler(LinearRegressionPosterior(), batch_size=500, random_state=0)
        with pytest.warns(ConvergenceWarning):  # the noise of the batches never settles
            batched.fit(X, y)
        deviations = full.particles_.std(0)
        assert np.abs(batched.particles_.std(0) / deviations - 1).max() < 0.2
        assert batched.history_["step"].min() > 0  # no lucky batch stops it
        shift = np.abs(full.particles_.mean(0) - batched.particles_.mean(0)) / deviations
        assert shift.max() < 0.5

    def test_search_over_the_prior(self):
        X, y = load_breast_cancer(return_X_y=True)
        model = make_pipeline(
            StandardScaler(),
            SVGDSampler(LogisticRegressionPosterior(), n_particles=50, random_state=0),
        )
        grid = {"svgdsampler__target__prior_scale": [0.01, 1.0]}
        search = GridSearchCV(model, grid, cv=2, scoring="neg_log_loss").fit(X, y)
        assert search.best_params_ == {"svgdsampler__target__prior_scale": 1.0}
        assert cross_val_score(model, X, y, cv=2).min() > 0.9

    def test_quantiles_of_a_mixture(self):
        mean, sd = torch.tensor([[0.0, -3.0], [0.0, 3.0]]), torch.ones(2, 2)
        found = mixture_quantiles(mean, sd, torch.tensor([0.5, 0.9]))
        assert torch.allclose(found[0], torch.tensor([0.0, 1.2816]), atol=1e-3)
        assert torch.allclose(found[1], torch.tensor([0.0, 3.8416]), atol=1e-3)


class TestDensitiesOfData:
    def test_default_learns_the_law_of_the_rows(self):
        # As good as a kernel density on held-out rows. Bug caught: an affine start, which draws
        # the two moons into one bell (a mean log density of -2.5 and less).
        X, _ = make_moons(1000, noise=0.1, random_state=0)
        sampler = SVGDSampler(random_state=0).fit(X[:500])
        density = KernelDensityTarget().fit(X[:500])
        assert sampler.score(X[500:]) > density.score_samples(X[500:]).mean() - 0.3
        assert sampler.score_samples(X[500:]).mean() == pytest.approx(sampler.score(X[500:]))
        assert sampler.particles_.shape == (200, 2)
        assert np.abs(sampler.particles_.std(0) / X.std(0) - 1).max() < 0.1

    def test_light_modes_keep_their_particles(self):
        # Two modes of 2.5% each, far away. Bug caught: a smooth field drags their particles out
        # (a mean log density of -15.7 on this draw; that of 200 rows is -.28).
        X, _ = make_six_plus_two(1200, random_state=116)
        sampler = SVGDSampler(random_state=0).fit(X[:600])
        assert sampler.score(X[600:]) > -0.5

    def test_restarts_are_clouds_of_their_own(self):
        X, _ = make_moons(300, noise=0.1, random_state=0)
        sampler = SVGDSampler(n_particles=50, n_restarts=3, random_state=0).fit(X)
        clouds = sampler.particles_.reshape(3, 50, 2)
        assert not np.allclose(clouds[0], clouds[1])
        # The mean of 50 independent draws has a deviation of .12 and .07.
        for one in clouds:
            assert np.all(np.abs(one.mean(0) - X.mean(0)) < 3 * X.std(0) / 50**0.5)


class TestTorus:
    VON_MISES = staticmethod(lambda x: 2 * torch.cos(2 * torch.pi * x).sum(1))

    def test_on_the_circle(self):
        # Quantiles of the density proportional to exp(2 cos 2 pi x), by numerical integration.
        target = LogDensity(self.VON_MISES, 1, support="torus")
        start = np.linspace(0, 1, 100)[:, None] ** 2
        sampler = SVGDSampler(target, step_size=20.0, tol=0.1, random_state=0).fit(start)
        grid = np.linspace(-0.5, 0.5, 20_001)
        mass = np.exp(2 * np.cos(2 * np.pi * grid))
        quantiles = np.interp((np.arange(100) + 0.5) / 100, np.cumsum(mass) / mass.sum(), grid)
        found = np.sort((sampler.particles_[:, 0] + 0.5) % 1 - 0.5)
        assert sampler.converged_
        assert np.abs(found - quantiles)[5:-5].max() < 0.02
        assert sampler.particles_.min() >= 0
        assert sampler.particles_.max() < 1

    def test_discrepancy_of_the_torus(self):
        # Even spacing has I = 1/(12 n^2) for the exact kernel of order 2, see flows.torus.
        target = LogDensity(lambda x: 0 * x.sum(1), 1, support="torus")
        sampler = SVGDSampler(target, max_iter=1).fit((np.arange(50)[:, None] + 0.3) / 50)
        assert sampler.ksd() ** 2 == pytest.approx(1 / (12 * 50**2), rel=1e-6)

    def test_a_class_is_no_target(self):
        with pytest.raises(TypeError, match=r"pass an instance of it, Gaussian\(\)"):
            SVGDSampler(Gaussian).fit(cloud(20))

    def test_kernels_keep_to_their_spaces(self):
        target = LogDensity(self.VON_MISES, 1, support="torus")
        with pytest.raises(ValueError, match="a torus takes a RieszKernel"):
            SVGDSampler(target, kernel=GaussianKernel()).fit(cloud(10, 1))
        with pytest.raises(ValueError, match="a torus takes a RieszKernel"):
            SVGDSampler(Gaussian(), kernel=RieszKernel(2.0)).fit(cloud(10))

    def test_mixed_supports_are_refused(self):
        target = LogDensity(lambda x: -x.square().sum(1), support=("torus", "real"))
        with pytest.raises(ValueError, match="mixes 'torus' with other columns"):
            SVGDSampler(target).fit(np.abs(cloud(10)) % 1)


class TestLife:
    def test_positive_support(self):
        # An exponential law: mean 1, deviation 1, on the scale of the user.
        target = LogDensity(lambda x: -x.sum(1), 1, support="positive")
        sampler = SVGDSampler(target, random_state=0).fit(np.abs(cloud(200, 1)) + 0.1)
        assert sampler.particles_.min() > 0
        assert sampler.particles_.mean() == pytest.approx(1, abs=0.05)
        assert sampler.particles_.std() == pytest.approx(1, abs=0.1)

    def test_sample(self):
        sampler = SVGDSampler(Gaussian(), random_state=0).fit(cloud(50))
        assert np.array_equal(sampler.sample(50), sampler.particles_)
        some = sampler.sample(20, random_state=0)
        assert len(np.unique(some, axis=0)) == 20
        assert np.array_equal(some, sampler.sample(20, random_state=0))
        many = sampler.sample(500, random_state=0)
        assert many.shape == (500, 2)
        assert len(np.unique(many, axis=0)) <= 50

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_precision_follows_the_rows(self, dtype):
        sampler = SVGDSampler(Gaussian(), max_iter=5, tol=10.0).fit(cloud(30).astype(dtype))
        assert sampler.particles_.dtype == dtype

    def test_same_seed_same_particles(self):
        X, y = load_iris(return_X_y=True)
        one, two, other = (
            SVGDSampler(LogisticRegressionPosterior(), random_state=seed).fit(X, y).particles_
            for seed in (0, 0, 1)
        )
        assert np.array_equal(one, two)
        assert not np.array_equal(one, other)

    def test_warm_start_goes_on(self):
        sampler = SVGDSampler(
            Gaussian(np.zeros(3)), kernel=GaussianKernel("scale"), max_iter=5, warm_start=True
        )
        with pytest.warns(ConvergenceWarning):
            sampler.fit(cloud(40, 3) + 5)
        far = np.abs(sampler.particles_.mean(0)).max()
        sampler.set_params(max_iter=200)
        sampler.fit(cloud(40, 3) + 5)
        assert len(sampler.history_["objective"]) > 5
        assert np.abs(sampler.particles_.mean(0)).max() < 0.2 < far

    def test_score_of_a_bare_density_is_minus_ksd_squared(self):
        good, bad = (
            SVGDSampler(Gaussian(), kernel=GaussianKernel("scale"), max_iter=k, step_size=0.01)
            for k in (200, 1)
        )
        for sampler in (good, bad):
            with pytest.warns(ConvergenceWarning):
                sampler.fit(cloud(50) + 2)
        assert good.score(cloud(50)) == pytest.approx(-(good.ksd() ** 2))
        assert good.score(cloud(50)) > bad.score(cloud(50))

    def test_fit_changes_nothing_it_was_given(self):
        target, start = LogisticRegressionPosterior(prior_scale=2.0), cloud(40)
        sampler = SVGDSampler(target, n_particles=30)
        before = start.copy()
        sampler.fit(start, np.arange(40) % 2)
        assert sampler.target is target
        assert not hasattr(target, "n_dim_")
        assert np.array_equal(start, before)
        assert clone(sampler).target.prior_scale == 2.0

    def test_init_array_and_two_modes(self):
        # Particles placed in both modes of a mixture stay there in equal shares.
        target = GaussianMixture([[-3.0, 0.0], [3.0, 0.0]])
        start = cloud(200) + np.where(np.arange(200) % 2, 3.0, -3.0)[:, None] * [1.0, 0.0]
        sampler = SVGDSampler(target, init=start, random_state=0).fit(start[:5])
        share = np.mean(sampler.particles_[:, 0] > 0)
        assert 0.4 < share < 0.6
        assert abs(np.abs(sampler.particles_[:, 0]).mean() - 3) < 0.2


class TestBadInput:
    def test_start_is_no_longer_where_it_cannot_be(self):
        # Bug caught: particles on one spot never part; only 20 of 200 are different at the end.
        particles = (
            SVGDSampler(Gaussian(), random_state=0).fit(np.repeat(cloud(20), 10, 0)).particles_
        )
        assert len(np.unique(particles, axis=0)) == 200
        assert np.abs(particles.var(0) - 1).max() < 0.1

    def test_out_of_an_undeclared_support(self):
        # The score 1/x - 1 is finite below 0, where the log density is not.
        target = LogDensity(lambda x: (x.log() - x).sum(1), 1)
        with pytest.warns(UserWarning, match="Declare the support"):
            SVGDSampler(target, kernel=GaussianKernel(1.0), optimizer="euler", step_size=3.0).fit(
                np.abs(cloud(20, 1)) + 0.1
            )

    @pytest.mark.parametrize(
        ("options", "X", "message"),
        [
            ({"batch_size": 5}, cloud(20), "batch_size=5 takes rows of data"),
            ({"init": "prior"}, cloud(20), "init='prior' does not fit this target"),
            ({"init": cloud(3), "n_restarts": 5}, cloud(20), "init has 3 particles"),
            ({"init": cloud(30), "n_particles": 50}, cloud(20), "init has 30 particles"),
            ({"optimizer": "adagrad"}, cloud(20), "which the default flow whitens"),
        ],
    )
    def test_settings_that_do_not_fit(self, options, X, message):
        with pytest.raises(ValueError, match=message):
            SVGDSampler(Gaussian(), **options).fit(X)

    def test_heun_and_batches(self):
        X, y = load_iris(return_X_y=True)
        sampler = SVGDSampler(LogisticRegressionPosterior(), batch_size=20, optimizer="heun")
        with pytest.raises(ValueError, match="noise of minibatches"):
            sampler.fit(X, y)

    def test_warm_start_with_another_number_of_columns(self):
        sampler = SVGDSampler(warm_start=True, n_particles=20).fit(cloud(30))
        with pytest.raises(ValueError, match="20 particles of 2 coordinates"):
            sampler.fit(cloud(30, 3))

    def test_fewer_particles_than_dimensions_collapse_and_say_so(self):
        with pytest.warns(UserWarning, match="more particles than dimensions"):
            SVGDSampler(Gaussian(np.zeros(60)), random_state=0).fit(cloud(40, 60))

    def test_constant_y(self):
        sampler = SVGDSampler(LinearRegressionPosterior(), random_state=0)
        # Without noise its posterior has no end towards zero: finite answers are what is asked.
        mean, std = sampler.fit(cloud(50), np.full(50, 0.1)).predict(cloud(5), return_std=True)
        assert np.all(np.abs(mean - 0.1) < 1e-3)
        assert np.all(np.isfinite(std))

    def test_vague_gamma_priors(self):
        # Bug caught: logarithms of draws that underflow.
        X = cloud(100)
        target = LinearRegressionPosterior(noise_prior=("gamma", 1e-3, 1e-3))
        sampler = SVGDSampler(target, random_state=0).fit(X, X @ [1.0, 2.0])
        assert sampler.score(X, X @ [1.0, 2.0]) > 0.99

    def test_nan_at_the_start_names_the_row(self):
        target = LogDensity(lambda x: torch.log(x).sum(1), 1)
        start = np.array([[1.0], [2.0], [-1.0], [3.0]])
        with pytest.raises(ValueError, match="row 2"):
            SVGDSampler(target).fit(start)

    def test_nan_after_some_steps_keeps_the_last_good_state(self):
        def log_density(x):
            return -0.5 * x.square().sum(1) + 1e-6 * x[:, 0].sqrt()

        start = np.abs(cloud(20)) + 3
        sampler = SVGDSampler(
            LogDensity(log_density, 2, batched=True), kernel=GaussianKernel(1.0), step_size=0.1
        )
        with (
            pytest.warns(ConvergenceWarning, match="NaN or infinity"),
            pytest.warns(UserWarning, match="not finite at particle") as caught,
        ):
            sampler.fit(start)
        assert np.isfinite(sampler.particles_).all()
        first = int(np.flatnonzero(sampler.particles_[:, 0] < 0)[0])
        assert any(f"particle {first} of" in str(warning.message) for warning in caught)

    def test_one_particle_climbs_and_is_reported(self):
        with pytest.warns(UserWarning, match="single particle"):
            sampler = SVGDSampler(Gaussian(), max_iter=300, step_size=0.05).fit([[2.0, 1.0]])
        assert np.abs(sampler.particles_).max() < 0.2

    @pytest.mark.parametrize(
        ("init", "message"),
        [
            (np.zeros((5, 3)), "init must be a table of particles with 2 columns"),
            (np.full((5, 2), np.nan), "init contains NaN"),
            ("nowhere", "'init' parameter"),
        ],
    )
    def test_init(self, init, message):
        with pytest.raises(ValueError, match=message):
            SVGDSampler(Gaussian(), init=init).fit(cloud(5))

    def test_a_function_is_no_target_yet(self):
        with pytest.raises(TypeError, match=r"target=LogDensity\(fn\)"):
            SVGDSampler(lambda x: -x.square().sum(1)).fit(cloud(5))

    def test_columns_of_the_start(self):
        with pytest.raises(ValueError, match="2 features, but X has 3"):
            SVGDSampler(Gaussian()).fit(cloud(5, 3))

    def test_constant_column_of_a_start_is_spread(self):
        start = cloud(50)
        start[:, 1] = 0.0
        particles = SVGDSampler(Gaussian(), random_state=0).fit(start).particles_
        assert particles.std(0).min() > 0.9

    def test_unknown_label(self):
        X, y = load_iris(return_X_y=True)
        sampler = SVGDSampler(LogisticRegressionPosterior(), n_particles=20).fit(X, y)
        with pytest.raises(ValueError, match="label 7"):
            sampler.log_predictive_density(X, np.full(len(X), 7))

    def test_methods_follow_the_target(self):
        assert not hasattr(SVGDSampler(), "predict")
        assert not hasattr(SVGDSampler(LinearRegressionPosterior()), "predict_proba")
        assert not hasattr(SVGDSampler(Gaussian()), "score_samples")
        assert hasattr(SVGDSampler(LogisticRegressionPosterior()), "predict_log_proba")
