"""The density that a tracked flow ends with: evidence, weights and their diagnostic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning

from skwgf import GWGSampler
from skwgf._tensor import derive_seed, draw_seed, make_generator
from skwgf.targets import (
    Banana,
    Gaussian,
    LinearRegressionPosterior,
    LogDensity,
    LogisticRegressionPosterior,
)

MEAN, COVARIANCE = np.array([1.0, -2.0]), np.array([[2.0, 1.2], [1.2, 1.5]])


def cloud(n=150, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def bell(factor=0.0):
    """Return exp(factor) times an unnormalised correlated Gaussian density."""
    precision, mean = torch.tensor(np.linalg.inv(COVARIANCE)), torch.tensor(MEAN)
    return LogDensity(
        lambda x: factor - 0.5 * ((x - mean) @ precision * (x - mean)).sum(1), 2, batched=True
    )


def tracked(target, X=None, y=None, **options):
    """Return a fitted sampler that keeps its steps, with a small network."""
    options = {"hidden_layer_sizes": (16,)} | options
    sampler = GWGSampler(target, track_density=True, random_state=0, **options)
    return sampler.fit(cloud() if X is None else X, y)


class TestEvidence:
    @pytest.mark.parametrize("factor", [0.0, -5000.0])
    def test_of_a_gaussian(self, factor):
        # log (2 pi |C|^(1/2)); the second catches weights that underflow.
        sampler = tracked(bell(factor), hidden_layer_sizes=None)
        draws = sampler.importance_sample(2000, random_state=1)
        expected = factor + math.log(2 * math.pi) + 0.5 * np.linalg.slogdet(COVARIANCE)[1]
        assert draws.standard_error < 0.02
        assert abs(draws.log_evidence - expected) < 4 * draws.standard_error
        assert draws.pareto_k < 0.5
        assert draws.effective_size > 2000 / (1 + 2000 * 0.02**2)  # what that error asks for

    def test_standard_error_is_that_of_repeated_draws(self):
        # Over 20 sets of draws the standard deviation has a relative error of 1 / 40^(1/2) = .16.
        sampler = tracked(bell(), hidden_layer_sizes=(8,))
        sets = [sampler.importance_sample(200, random_state=k) for k in range(20)]
        spread = np.std([draws.log_evidence for draws in sets], ddof=1)
        usual = np.mean([draws.standard_error for draws in sets])
        assert 0.5 < spread / usual < 1.6

    @pytest.mark.parametrize(
        "options",
        [
            {"p": 1.5},
            {"coordinates": "raw"},
            {"parametrization": "direct"},
            {"regularizer": "huber"},
        ],
        ids=str,
    )
    def test_of_a_gaussian_by_every_kind_of_step(self, options):
        draws = tracked(bell(), **options).importance_sample(2000, random_state=1)
        expected = math.log(2 * math.pi) + 0.5 * np.linalg.slogdet(COVARIANCE)[1]
        # Of four, one in two hundred thousand is four standard errors off by chance.
        assert abs(draws.log_evidence - expected) < 4 * draws.standard_error
        assert draws.standard_error < 0.05

    def test_of_a_banana(self):
        # A normalised density: zero. The law at the start, a Gaussian one, is worth 190 of 2000
        # draws and has a Pareto k of .9: catches a density that is not carried along.
        sampler = tracked(Banana(), cloud(300), hidden_layer_sizes=None)
        draws = sampler.importance_sample(2000, random_state=1)
        assert abs(draws.log_evidence) < 4 * draws.standard_error
        assert draws.standard_error < 0.03
        assert draws.effective_size > 1000
        assert draws.pareto_k < 0.5

    def test_in_unconstrained_coordinates(self):
        # exp(-x) on x > 0 integrates to one; catches a change of coordinates that is left out.
        target = LogDensity(lambda x: -x.sum(1), 1, support="positive")
        draws = tracked(target, np.abs(cloud(150, 1)) + 0.1).importance_sample(2000, random_state=1)
        assert draws.particles.min() > 0
        assert abs(draws.log_evidence) < 4 * draws.standard_error
        assert draws.standard_error < 0.02
        weights = np.exp(draws.log_weights - draws.log_weights.max())
        mean = np.average(draws.particles[:, 0], weights=weights)
        # The mean is 1, the deviation 1.
        assert abs(mean - 1) < 4 / math.sqrt(draws.effective_size)

    def test_of_a_linear_regression_with_known_noise(self):
        # y ~ N(0, s^2 I + D D'), D the design with its column of ones.
        rng = np.random.default_rng(0)
        X = rng.normal(size=(25, 2))
        y = X @ [1.0, -0.5] + 0.6 * rng.normal(size=25)
        target = LinearRegressionPosterior(noise_scale=0.6, normalize_y=False)
        draws = tracked(target, X, y, n_particles=150).importance_sample(2000, random_state=1)
        design = np.c_[X, np.ones(25)]
        expected = multivariate_normal(cov=0.36 * np.eye(25) + design @ design.T).logpdf(y)
        assert abs(draws.log_evidence - expected) < 4 * draws.standard_error
        assert draws.standard_error < 0.02

    def test_of_a_linear_regression_with_learnt_noise(self):
        # The same, averaged over the half-Cauchy prior of the noise by quadrature.
        rng = np.random.default_rng(0)
        X = rng.normal(size=(25, 2))
        y = X @ [1.0, -0.5] + 0.6 * rng.normal(size=25)
        target = LinearRegressionPosterior(normalize_y=False)
        draws = tracked(target, X, y, n_particles=150).importance_sample(2000, random_state=1)
        design = np.c_[X, np.ones(25)]

        def likelihood(noise):
            law = multivariate_normal(cov=noise**2 * np.eye(25) + design @ design.T)
            return math.exp(law.logpdf(y) + 30) * 2 / math.pi / (1 + noise**2)

        expected = math.log(quad(likelihood, 0.2, 3.0, epsrel=1e-8)[0]) - 30
        assert abs(draws.log_evidence - expected) < 4 * draws.standard_error
        assert draws.standard_error < 0.05

    def test_of_a_logistic_regression_by_quadrature(self):
        X = np.array([-2.0, -1.5, -1, -0.5, 0.2, 0.5, 1, 1.5, 2])[:, None]
        y = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1])
        target = LogisticRegressionPosterior(prior_scale=3.0)
        draws = tracked(target, X, y, n_particles=150).importance_sample(2000, random_state=1)
        axis = torch.linspace(-14, 14, 400, dtype=torch.float64)
        cells = target.fit(X, y).log_prob(torch.cartesian_prod(axis, axis))
        expected = float(cells.logsumexp(0) + 2 * (axis[1] - axis[0]).log())
        assert abs(draws.log_evidence - expected) < 4 * draws.standard_error
        assert draws.standard_error < 0.03

    def test_more_of_the_flow_is_worth_more_draws(self):
        # From the Gaussian start to the banana. Catches steps that are left out of the map.
        with pytest.warns(ConvergenceWarning):
            short = tracked(Banana(), cloud(300), hidden_layer_sizes=None, max_iter=1, tol=0.0)
        full = tracked(Banana(), cloud(300), hidden_layer_sizes=None)
        sizes = [s.importance_sample(1000, random_state=1).effective_size for s in (short, full)]
        assert sizes[1] > 1.5 * sizes[0]


class TestDensity:
    def test_an_affine_flow_keeps_the_law_gaussian(self):
        # N(m, C) goes to N(m + t v(m), J C J') with J = I + t grad v, step after step. Catches a
        # determinant of another step's, or of the network's coordinates instead of x.
        target = LogDensity(lambda x: (x - x.exp()).sum(1) - 0.1 * x.prod(1), 2, batched=True)
        options = {"hidden_layer_sizes": (), "clip_quantile": 1.0, "max_iter": 12, "tol": 0.0}
        with pytest.warns(ConvergenceWarning):
            sampler = tracked(target, **options)
        flow_map = sampler._flow_map
        mean, covariance = flow_map.mean, flow_map.root @ flow_map.root.T
        eye = torch.eye(2, dtype=torch.float64)
        for velocity, time in flow_map.steps:
            shift = velocity(mean[None])[0]
            jacobian = eye + time * (velocity(mean + eye) - shift).T
            mean = mean + time * shift
            covariance = jacobian @ covariance @ jacobian.T
        assert len(flow_map.steps) > 5
        assert float((mean - flow_map.mean).abs().max()) > 1e-3
        draws = sampler.importance_sample(500, random_state=1)
        law = multivariate_normal(mean.numpy(), covariance.numpy())
        assert np.abs(draws.log_prob - law.logpdf(draws.particles)).max() < 1e-8

    def test_of_a_gaussian_target_it_is_the_target(self):
        # But for the shape of the 150 particles that the steps go by: d (d + 3) / (4 n) = .017 of
        # a relative entropy, and errors of 150 and of 500 draws in the moments.
        with pytest.warns(ConvergenceWarning):
            sampler = tracked(
                Gaussian(MEAN, covariance=COVARIANCE), hidden_layer_sizes=(), max_iter=10, tol=0.0
            )
        draws = sampler.importance_sample(500, random_state=1)
        law = multivariate_normal(MEAN, COVARIANCE)
        assert abs((draws.log_prob - law.logpdf(draws.particles)).mean()) < 0.08
        whitened = np.linalg.solve(np.linalg.cholesky(COVARIANCE), (draws.particles - MEAN).T)
        error = 1 / math.sqrt(150) + 1 / math.sqrt(500)
        assert np.abs(whitened.mean(1)).max() < 3 * error
        assert np.abs(np.cov(whitened) - np.eye(2)).max() < 4 * error

    @pytest.mark.parametrize(
        "options",
        [{}, {"tol": 0.4}, {"tol": 0.0, "max_iter": 8}, {"p": 1.5, "max_iter": 30}],
        ids=str,
    )
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_the_map_takes_the_start_to_the_particles(self, options):
        # The particles are draws of the law at the start, from a stream of the seed: taken along
        # the steps that were kept, they have to be where the flow left them. Catches a velocity
        # that is kept although the cloud stood still at the level of its energy, and steps that
        # were undone.
        sampler = tracked(Banana(), cloud(300), hidden_layer_sizes=None, **options)
        generator = make_generator(derive_seed(draw_seed(0), 9))
        x, _, _ = sampler._flow_map.draw(300, generator)
        assert np.allclose(x.numpy(), sampler.particles_, rtol=0, atol=1e-6)

    def test_weights_make_averages_those_of_the_target(self):
        # A flow that stopped half way: the mean of the draws is off, the weighted one is not.
        start = cloud() - 1
        with pytest.warns(ConvergenceWarning):
            sampler = tracked(Gaussian((0.0, 0.0)), init=start, max_iter=5, step_size=0.1, tol=0.0)
        draws = sampler.importance_sample(4000, random_state=1)
        weights = np.exp(draws.log_weights - draws.log_weights.max())
        weights /= weights.sum()
        mean = weights @ draws.particles
        error = np.sqrt(np.square(weights) @ np.square(draws.particles - mean))
        assert np.abs(draws.particles.mean(0)).min() > 0.4
        assert np.all(np.abs(mean) < 4 * error)
        assert abs(draws.log_evidence) < 4 * draws.standard_error
        assert draws.effective_size == pytest.approx(1 / np.square(weights).sum())

    def test_draws_repeat_with_their_seed(self):
        sampler = tracked(Gaussian())
        one, two, other = (
            sampler.importance_sample(50, random_state=seed).particles for seed in (1, 1, 2)
        )
        assert np.array_equal(one, two)
        assert not np.allclose(one, other)
        fresh = [sampler.importance_sample(50).particles for _ in range(2)]
        assert not np.allclose(*fresh)
        # They are no particles of the fit.
        assert not np.isin(one[:, 0], sampler.particles_[:, 0]).any()

    def test_single_precision(self):
        draws = tracked(bell(), dtype="float32").importance_sample(1000, random_state=1)
        expected = math.log(2 * math.pi) + 0.5 * np.linalg.slogdet(COVARIANCE)[1]
        assert draws.particles.dtype == np.float32
        assert abs(draws.log_evidence - expected) < 4 * draws.standard_error + 1e-3

    def test_warm_start_goes_on_from_the_law_of_the_cloud(self):
        sampler = GWGSampler(
            Banana(), track_density=True, warm_start=True, max_iter=5, tol=0.0, random_state=0
        )
        with pytest.warns(ConvergenceWarning):
            sampler.fit(cloud())
        with pytest.warns(ConvergenceWarning):
            sampler.fit(cloud())
        draws = sampler.importance_sample(2000, random_state=1)
        assert abs(draws.log_evidence) < 4 * draws.standard_error

    def test_folds_are_reported(self):
        # Steps far too long turn the space over where the velocity falls steeply.
        with pytest.warns(ConvergenceWarning):
            sampler = tracked(
                LogDensity(lambda x: -x.abs().pow(1.5).sum(1), 2, batched=True),
                p=5.0,
                init=cloud() + 3,
                max_iter=5,
                step_size=1.0,
                tol=0.0,
            )
        with pytest.warns(UserWarning, match="turns the space over"):
            sampler.importance_sample(500, random_state=1)


class TestBadInput:
    def test_before_tracking(self):
        sampler = GWGSampler(Gaussian(), random_state=0).fit(cloud(30))
        with pytest.raises(ValueError, match="track_density=True"):
            sampler.importance_sample()

    def test_a_fit_without_tracking_forgets_the_steps(self):
        sampler = tracked(Gaussian(), cloud(30))
        sampler.set_params(track_density=False).fit(cloud(30))
        with pytest.raises(ValueError, match="track_density=True"):
            sampler.importance_sample()

    @pytest.mark.parametrize(("n", "error"), [(24, ValueError), (0, ValueError), (2.5, TypeError)])
    def test_number_of_draws(self, n, error):
        with pytest.raises(error, match="n_samples"):
            tracked(Gaussian(), cloud(30)).importance_sample(n)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_restarts": 2}, "n_restarts=1"),
            ({"optimizer": "adam"}, "optimizer='euler'"),
            ({"optimizer": "rmsprop"}, "optimizer='euler'"),
            ({"score_skip": True}, "score_skip"),
        ],
    )
    def test_flows_whose_density_is_not_known(self, options, message):
        with pytest.raises(ValueError, match=f"track_density=True.*{message}"):
            tracked(Gaussian(), **options)

    def test_few_particles(self):
        with pytest.raises(ValueError, match="twice as many particles"):
            tracked(Gaussian(np.zeros(20)), cloud(20, 20))

    def test_minibatches(self):
        X, y = cloud(40), np.arange(40.0)
        with pytest.raises(ValueError, match="batch_size=None"):
            tracked(LinearRegressionPosterior(), X, y, batch_size=10)

    def test_a_law_at_the_start_that_leaves_the_support(self):
        # All rows are positive, but draws of their Gaussian law are not.
        target = LogDensity(lambda x: (x.sqrt() - x).sum(1), 1)
        with pytest.raises(ValueError, match="support"):
            tracked(target, np.abs(cloud(60, 1)) + 0.1)
