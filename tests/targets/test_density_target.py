"""The kernel density estimate: scikit-learn's values, its bandwidth rules, and its draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity

from skwgf.targets import KernelDensityTarget

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)) @ np.diag([1.0, 2.0, 0.5]) + 100.0


def tensor(array):
    return torch.tensor(np.asarray(array).tolist(), dtype=torch.float64)


@pytest.mark.parametrize("bandwidth", [0.1, 0.7, "scott", "silverman", "likelihood"])
def test_it_is_that_of_scikit_learn(bandwidth):
    target = KernelDensityTarget(bandwidth).fit(X)
    # In one leaf: its tree adds and subtracts bounds, and is off by whole units in the far tails.
    peer = KernelDensity(bandwidth=target.bandwidth_, leaf_size=len(X)).fit(X)
    queries = X[:50] + RNG.normal(size=(50, 3))
    assert np.allclose(target.score_samples(queries), peer.score_samples(queries), atol=1e-9)


def test_a_minibatch_is_the_estimate_of_its_rows():
    target, rows = KernelDensityTarget(0.5).fit(X), torch.arange(10, 60)
    part = KernelDensityTarget(0.5).fit(X[10:60])
    z = tensor(X[:5])
    torch.testing.assert_close(target.log_prob(z, rows), part.log_prob(z))
    torch.testing.assert_close(target.grad_log_prob(z, rows), part.grad_log_prob(z))


def test_small_tiles_change_nothing(monkeypatch):
    target, z = KernelDensityTarget(0.5).fit(X), tensor(X[:40] + 0.1)
    whole = target.log_prob(z), target.grad_log_prob(z)
    monkeypatch.setattr("skwgf.targets._tiles._CPU_TILE", 1000)
    monkeypatch.setattr("skwgf.targets._tiles._LEAST_ROWS", 1)
    torch.testing.assert_close(target.log_prob(z), whole[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(target.grad_log_prob(z), whole[1], rtol=1e-12, atol=1e-12)


def test_data_far_from_the_origin_in_single_precision():
    # Without centring, |x|^2 = 3e8 would leave no digit of distances of order one.
    shifted = (X + 1e4).astype(np.float32)
    target = KernelDensityTarget(0.5).fit(shifted)
    exact = KernelDensityTarget(0.5).fit(shifted.astype(np.float64))
    assert np.allclose(
        target.score_samples(shifted[:20]), exact.score_samples(shifted[:20]), atol=1e-2
    )


def test_scott_and_silverman_of_a_unit_square():
    scale = np.sqrt(X.var(0).mean())
    assert KernelDensityTarget("scott").fit(X).bandwidth_ == pytest.approx(scale * 300 ** (-1 / 7))
    assert KernelDensityTarget("silverman").fit(X).bandwidth_ == pytest.approx(
        scale * (300 * 5 / 4) ** (-1 / 7)
    )


def test_the_likelihood_rule_is_the_best_of_a_grid():
    # By leaving out one row after the other, with scikit-learn.
    rows = RNG.normal(size=(60, 2))
    found = KernelDensityTarget().fit(rows).bandwidth_
    scott = KernelDensityTarget("scott").fit(rows).bandwidth_
    grid = scott * 2.0 ** (-np.arange(21) / 4)

    def likelihood(h):
        return sum(
            KernelDensity(bandwidth=h).fit(np.delete(rows, i, axis=0)).score(rows[i : i + 1])
            for i in range(60)
        )

    assert found == pytest.approx(grid[np.argmax([likelihood(h) for h in grid])])


def test_the_likelihood_rule_resolves_modes():
    # Eight modes of sd .1 on a circle: the best for one of them is .1 * 125^(-1/6) = .045.
    angles = np.arange(1000) % 8 * np.pi / 4
    ring = 3 * np.stack([np.cos(angles), np.sin(angles)], 1) + 0.1 * RNG.normal(size=(1000, 2))
    assert 0.025 < KernelDensityTarget().fit(ring).bandwidth_ < 0.08
    assert KernelDensityTarget("scott").fit(ring).bandwidth_ > 0.5


def test_the_likelihood_rule_counts_repeated_rows_once():
    rows = RNG.normal(size=(100, 2))
    once = KernelDensityTarget().fit(rows).bandwidth_
    twice = KernelDensityTarget().fit(np.repeat(rows, 2, axis=0)).bandwidth_
    assert 0.5 * once < twice <= once * 1.01


@pytest.mark.parametrize("rule", ["likelihood", "scott", "silverman"])
@pytest.mark.parametrize("rows", [np.ones((1, 2)), np.ones((5, 2))])
def test_equal_rows_have_bandwidth_one(rule, rows):
    assert KernelDensityTarget(rule).fit(rows).bandwidth_ == 1.0


def test_the_start_has_the_law_of_the_estimate():
    # Draws without repetition, plus the noise of the kernel: mean of X, variance of X plus h^2.
    target = KernelDensityTarget(0.9).fit(X)
    start = target.draw_start(3000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(start.mean(0), tensor(X.mean(0)), atol=5 * 0.9 / 3000**0.5, rtol=0)
    spread = start.var(0)
    assert torch.allclose(spread, tensor(X.var(0)) + 0.81, rtol=0.15)
    few = KernelDensityTarget(1e-9).fit(X).draw_start(300, torch.Generator().manual_seed(0))
    torch.testing.assert_close(few.sort(0).values, tensor(np.sort(X, axis=0)))


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, float("nan"), float("inf"), "median"])
def test_wrong_bandwidths_are_told(bandwidth):
    with pytest.raises(ValueError, match="bandwidth must be"):
        KernelDensityTarget(bandwidth).fit(X)


def test_other_features_are_told():
    with pytest.raises(ValueError, match="has 3 features, but X has 2"):
        KernelDensityTarget().fit(X).score_samples(X[:, :2])
