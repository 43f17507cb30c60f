"""Known densities: scipy's values, unit mass, and draws that have the moments and the law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from skwgf.targets import Banana, Funnel, Gaussian, GaussianMixture, MonomialGamma, Ring

COVARIANCE = np.array([[2.0, 0.6], [0.6, 0.5]])
MEANS = ((0.0, 1.0), (3.0, -1.0))
TARGETS = {
    "gaussian": Gaussian((1.0, -2.0), covariance=COVARIANCE),
    "mixture": GaussianMixture(MEANS, covariances=(COVARIANCE, (0.3, 0.2)), weights=(1, 3)),
    "banana": Banana(1.5, curvature=0.4),
    "funnel": Funnel(2, scale=0.8),
    "ring": Ring(1.0, width=0.5),
    "monomial": MonomialGamma(2, exponent=1.3, rate=0.7),
}
Z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = np.array(Z.tolist())


def density(target, x):
    return target.log_prob(torch.tensor(np.asarray(x).tolist(), dtype=torch.float64)).exp()


@pytest.mark.parametrize("name", TARGETS)
def test_mass_and_moments_by_quadrature(name):
    # The trapezoidal rule is exact up to the tails for smooth densities; the cusps of the monomial
    # gamma cost it the step to the power 1 + a = 2.3, times the density there.
    target, grid = TARGETS[name].fit(), np.linspace(-20, 20, 1601)
    z = torch.cartesian_prod(*[torch.tensor(grid.tolist(), dtype=torch.float64)] * 2)
    weights = target.log_prob(z).exp() * (grid[1] - grid[0]) ** 2
    assert float(weights.sum()) == pytest.approx(1, abs=1e-3 if name == "monomial" else 1e-5)
    mean, covariance = target.moments()
    found = weights @ z
    centred = z - found
    spread = centred.T @ (weights[:, None] * centred)
    # The tails beyond the grid weigh more in the moments.
    assert np.allclose(found.tolist(), mean, atol=1e-3)
    assert np.allclose(spread.tolist(), covariance, atol=3e-3)


@pytest.mark.parametrize("name", TARGETS)
def test_draws_have_the_moments(name):
    # Five standard errors, those of the variances from the draws: means alone would not see a
    # wrong spread.
    target = TARGETS[name]
    mean, covariance = target.moments()
    x = target.sample(200_000, random_state=0)
    assert x.shape == (200_000, 2)
    centred = x - mean
    assert (abs(centred.mean(0)) < 5 * x.std(0) / math.sqrt(len(x))).all()
    products = centred[:, :, None] * centred[:, None, :]
    tol = 5 * products.std(0) / math.sqrt(len(x)) + 1e-12
    assert (abs(products.mean(0) - covariance) < tol).all()


@pytest.mark.parametrize("name", TARGETS)
def test_draws_have_the_density(name):
    # Counts in squares against the density averaged over them. Catches draws of another law with
    # the same moments.
    target = TARGETS[name].fit()
    x = target.sample(100_000, random_state=1)
    for centre in ((0.3, 0.4), (-0.5, 0.8), (1.0, 0.1)):
        inside = (abs(x - centre) < 0.2).all(1)
        edges = np.linspace(-0.2, 0.2, 21)
        cell = np.stack(np.meshgrid(edges, edges), -1).reshape(-1, 2) + centre
        expected = float(density(target, cell).mean()) * 0.16
        tol = 5 * math.sqrt(expected / len(x)) + 0.03 * expected
        assert inside.mean() == pytest.approx(expected, abs=tol)


@pytest.mark.parametrize("name", TARGETS)
def test_draws_are_repeatable(name):
    draw = TARGETS[name].sample
    assert np.array_equal(draw(5, random_state=3), draw(5, random_state=3))
    assert not np.array_equal(draw(5), draw(5))
    assert draw().shape == (1, 2)


@pytest.mark.parametrize(
    ("covariance", "matrix"),
    [(None, np.eye(2)), (3.0, 3 * np.eye(2)), ((2.0, 0.5), np.diag([2.0, 0.5])), (COVARIANCE,) * 2],
)
def test_gaussian_against_scipy(covariance, matrix):
    target = Gaussian((1.0, -2.0), covariance=covariance).fit()
    expected = stats.multivariate_normal((1.0, -2.0), matrix).logpdf(X)
    assert np.allclose(target.log_prob(Z).tolist(), expected, atol=1e-12)
    assert np.allclose(target.moments()[1], matrix)


def test_mixture_against_scipy():
    target = TARGETS["mixture"].fit()
    laws = [
        stats.multivariate_normal(MEANS[0], COVARIANCE),
        stats.multivariate_normal(MEANS[1], np.diag([0.3, 0.2])),
    ]
    expected = np.log(0.25 * laws[0].pdf(X) + 0.75 * laws[1].pdf(X))
    assert np.allclose(target.log_prob(Z).tolist(), expected, atol=1e-12)


def test_mixture_far_from_all_means():
    target = GaussianMixture(MEANS).fit()
    far = torch.full((1, 2), 1e4, dtype=torch.float64)
    assert target.log_prob(far).isfinite().all()
    torch.testing.assert_close(target.grad_log_prob(far)[0, 0], far[0, 0] * 0 + 3 - 1e4)


def test_special_cases_are_gaussian():
    exact = Gaussian((0.0, 0.0), covariance=(4.0, 1.0)).fit()
    torch.testing.assert_close(Banana(2.0, curvature=0.0).fit().log_prob(Z), exact.log_prob(Z))
    exact = Gaussian((0.0, 0.0)).fit()
    torch.testing.assert_close(
        MonomialGamma(2, exponent=2.0, rate=0.5).fit().log_prob(Z), exact.log_prob(Z)
    )


def test_defaults_of_the_monomial_gamma():
    target = MonomialGamma(2).fit()
    ratio = target.log_prob(Z[:1]) - target.log_prob(Z[1:2])
    expected = -0.3 * (Z[:1].abs() ** 0.905 - Z[1:2].abs() ** 0.905).sum(1)
    torch.testing.assert_close(ratio, expected)


@pytest.mark.parametrize("target", [Ring(), MonomialGamma(2)])
def test_the_gradient_at_a_kink_is_finite(target):
    assert target.fit().grad_log_prob(torch.zeros(1, 2, dtype=torch.float64)).eq(0).all()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Gaussian(()), "mean must be"),
        (Gaussian((0.0, np.nan)), "mean must be"),
        (Gaussian((0.0, 0.0), covariance=-1.0), "positive definite"),
        (Gaussian((0.0, 0.0), covariance=(1.0, 1.0, 1.0)), "got shape"),
        (Gaussian((0.0, 0.0), covariance=[[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (GaussianMixture((0.0, 1.0)), "n_components, n_features"),
        (GaussianMixture(MEANS, weights=(1.0,)), "one of each per component"),
        (GaussianMixture(MEANS, covariances=(1.0,)), "one of each per component"),
        (GaussianMixture(MEANS, weights=(1.0, -1.0)), "weights must be positive"),
        (Banana(0.0), "scale must be positive"),
        (Funnel(1), "n_features must be at least 2"),
        (Funnel(2, scale=-1.0), "scale must be positive"),
        (Ring(-1.0), "radius must be positive"),
        (Ring(width=math.inf), "width must be positive"),
        (MonomialGamma(2, exponent=0.0), "exponent must be positive"),
    ],
)
def test_wrong_parameters_are_told_at_fit(target, words):
    with pytest.raises(ValueError, match=words):
        target.fit()
