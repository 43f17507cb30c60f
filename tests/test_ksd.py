"""The kernel Stein discrepancy of arrays: levels, coordinates, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from skwgf.kernels import Gaussian, Laplace
from skwgf.metrics import ksd
from skwgf.targets import Gaussian as GaussianTarget
from skwgf.targets import KernelDensityTarget, LogDensity


def normal(n, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_exact_draws_are_at_the_floor():
    # Of n draws the mean square is E k(x, x)/n = (E|x|^2 + d)/n = 2 d/n for the default kernel of
    # unit length; the law is a sum of chi squares, so below three times its mean.
    n, d = 500, 2
    figures = [ksd(normal(n, d, seed), GaussianTarget()) ** 2 for seed in range(20)]
    assert np.mean(figures) == pytest.approx(2 * d / n, rel=0.2)
    assert max(figures) < 3 * 2 * d / n


@pytest.mark.parametrize("change", [lambda X: X + 0.4, lambda X: 0.7 * X, lambda X: 1.4 * X])
def test_other_laws_are_above(change):
    X = normal(500)
    assert ksd(change(X), GaussianTarget()) > 2 * ksd(X, GaussianTarget())


def test_it_goes_with_the_target():
    X = normal(100)
    moved = GaussianTarget(mean=(10.0, -3.0))
    assert ksd(X + np.array([10.0, -3.0]), moved) == pytest.approx(ksd(X, GaussianTarget()))


def test_a_constrained_density_is_judged_in_its_coordinates():
    # The logarithm of a log-normal law is normal: catches a Jacobian left out.
    X = normal(200)
    target = LogDensity(
        lambda x: -0.5 * x.log().square().sum(-1) - x.log().sum(-1),
        n_features=2,
        support="positive",
    )
    assert ksd(np.exp(X), target) == pytest.approx(ksd(X, GaussianTarget()), rel=1e-9)


def test_the_kernel_may_be_chosen():
    X = normal(60)
    wide = ksd(X, GaussianTarget(), kernel=Gaussian(bandwidth=100.0))
    # A very wide kernel sees the mean of the scores alone, but for the trace d/bandwidth^2.
    assert wide == pytest.approx(np.linalg.norm(X.mean(0)), rel=0.05)
    assert ksd(X, GaussianTarget(), kernel=Gaussian("scale")) > 0
    with pytest.raises(ValueError, match="Use InverseMultiquadric"):
        ksd(X, GaussianTarget(), kernel=Laplace())


def test_a_density_of_data_has_to_be_fitted():
    X = normal(80)
    with pytest.raises(NotFittedError, match="learns from data"):
        ksd(X, KernelDensityTarget())
    target = KernelDensityTarget().fit(normal(400, seed=1))
    assert ksd(X, target) < ksd(X + 1, target)


def test_the_target_is_not_changed():
    target = GaussianTarget()
    ksd(normal(10), target)
    assert not hasattr(target, "n_dim_")


def test_kinds_of_input():
    X = normal(50)
    expected = ksd(X, GaussianTarget())
    assert isinstance(expected, float)
    assert ksd(torch.tensor(X), GaussianTarget()) == expected
    assert ksd(X.tolist(), GaussianTarget()) == expected
    single = ksd(X.astype(np.float32), GaussianTarget())
    assert single == pytest.approx(expected, rel=1e-4)
    one = ksd(X[:1], GaussianTarget())
    assert one == pytest.approx(math.sqrt((X[0] ** 2).sum() + 2))  # |s|^2 + d


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.zeros(4), "2D array"),
        (np.zeros((5, 3)), "3"),
    ],
)
def test_bad_samples(X, message):
    with pytest.raises(ValueError, match=message):
        ksd(X, GaussianTarget(mean=(0.0, 0.0)).fit(normal(5)))
