"""Metrics: closed forms, invariances, statistical levels, kinds of input, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2, norm, wasserstein_distance_nd

from skwgf.metrics import (
    mmd,
    mode_coverage,
    neighbor_distance_ratio,
    sinkhorn_divergence,
    sliced_wasserstein,
    two_sample_accuracy,
    wasserstein_distance,
)

DISTANCES = [wasserstein_distance, sinkhorn_divergence, sliced_wasserstein, mmd]


def normal(n, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


@pytest.mark.parametrize("distance", DISTANCES)
class TestEveryDistance:
    def test_zero_for_equal_samples(self, distance):
        X = normal(40)
        assert abs(distance(X, X[::-1])) < 1e-7

    def test_symmetric(self, distance):
        X, Y = normal(40), normal(30, seed=1)
        assert distance(X, Y) == pytest.approx(distance(Y, X), rel=1e-6)

    def test_grows_with_the_shift(self, distance):
        X, Y = normal(60), normal(60, seed=1)
        figures = [distance(X, Y + shift) for shift in (0.0, 0.5, 1.0, 2.0)]
        assert all(np.diff(figures) > 0)

    def test_arrays_frames_lists_and_tensors_agree(self, distance):
        X, Y = normal(20), normal(25, seed=1)
        expected = distance(X, Y)
        assert isinstance(expected, float)
        for kind in (pd.DataFrame, np.ndarray.tolist, torch.tensor, np.asfortranarray):
            assert float(distance(kind(X), kind(Y))) == pytest.approx(expected, rel=1e-9)
        narrow = distance(X.astype(np.float32), Y.astype(np.float32))
        assert narrow == pytest.approx(expected, rel=1e-4)

    def test_leaves_its_input_alone(self, distance):
        X, Y = normal(20), normal(20, seed=1)
        kept = X.copy(), Y.copy()
        X.flags.writeable = False
        distance(X, Y)
        assert np.array_equal(X, kept[0])
        assert np.array_equal(Y, kept[1])

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            (np.zeros(4), "2D array"),
            (np.array([[0.0, np.nan]]), "Input X contains NaN"),
            (np.array([[0.0, np.inf]]), "Input X contains infinity"),
            (np.zeros((0, 2)), "0 sample"),
            (np.zeros((3, 5)), "X has 5, Y has 2"),
        ],
    )
    def test_bad_samples(self, distance, X, message):
        with pytest.raises(ValueError, match=message):
            distance(X, normal(5))


class TestWassersteinDistance:
    @pytest.mark.parametrize("p", [1, 2, 3])
    @pytest.mark.parametrize("d", [1, 2, 5])
    def test_translation(self, p, d):
        X = normal(30, d)
        assert wasserstein_distance(X, X + 2.0, p=p) == pytest.approx(2 * math.sqrt(d), rel=1e-9)

    def test_quantile_formula(self):
        # Equal counts on the line: pair the sorted values.
        X, Y = normal(50, 1), 2 * normal(50, 1, seed=1) + 1
        gap = np.sort(X[:, 0]) - np.sort(Y[:, 0])
        for p in (1.0, 2.0, 4.0):
            expected = np.mean(np.abs(gap) ** p) ** (1 / p)
            assert wasserstein_distance(X, Y, p=p) == pytest.approx(expected, rel=1e-12)

    def test_line_and_plane_agree(self):
        # One column is solved by sorting, two by the network simplex.
        X, Y = normal(30, 1), normal(21, 1, seed=1)
        w = np.arange(30.0)
        flat = [np.hstack([Z, np.zeros_like(Z)]) for Z in (X, Y)]
        for p in (1.0, 2.5):
            assert wasserstein_distance(X, Y, p=p, weights_X=w) == pytest.approx(
                wasserstein_distance(*flat, p=p, weights_X=w), rel=1e-9
            )

    def test_agrees_with_scipy(self):
        X, Y = normal(12, 3), normal(9, 3, seed=1)
        expected = wasserstein_distance_nd(X, Y)
        assert wasserstein_distance(X, Y, p=1) == pytest.approx(expected, rel=1e-9)

    def test_scale(self):
        X, Y = normal(30), normal(30, seed=1)
        for unit in (1e-30, 1e30):
            expected = unit * wasserstein_distance(X, Y)
            assert wasserstein_distance(unit * X, unit * Y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("distance", [wasserstein_distance, sinkhorn_divergence])
@pytest.mark.parametrize("d", [1, 2])
class TestWeights:
    def test_weight_is_repetition(self, distance, d):
        X, Y = normal(12, d), normal(15, d, seed=1)
        counts = np.arange(12) % 3  # zero weights too
        expected = distance(np.repeat(X, counts, axis=0), Y)
        assert distance(X, Y, weights_X=counts) == pytest.approx(expected, rel=1e-6)
        assert distance(Y, X, weights_Y=torch.tensor(counts)) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (np.ones(3), "one weight per row"),
            (np.ones((5, 1)), "one weight per row"),
            ([1, 1, -1, 1, 1], "non-negative"),
            ([0, 0, 0, 0, 0], "positive sum"),
            ([1, 1, np.nan, 1, 1], "finite"),
        ],
    )
    def test_bad_weights(self, distance, d, weights, message):
        with pytest.raises(ValueError, match=message):
            distance(normal(5, d), normal(6, d), weights_X=weights)


@pytest.mark.parametrize("p", [0.5, math.inf, math.nan])
@pytest.mark.parametrize("distance", [wasserstein_distance, sliced_wasserstein])
def test_bad_order(distance, p):
    with pytest.raises(ValueError, match="p must be"):
        distance(normal(5, 1), normal(5, 1), p=p)


class TestSinkhornDivergence:
    def test_limits_in_reg(self):
        X, Y = normal(40), normal(40, seed=1) + 1
        half = wasserstein_distance(X, Y) ** 2 / 2
        assert sinkhorn_divergence(X, Y, reg=0.02) == pytest.approx(half, rel=0.02)
        shift = X.mean(0) - Y.mean(0)
        assert sinkhorn_divergence(X, Y, reg=1e4) == pytest.approx(shift @ shift / 2, rel=1e-3)

    def test_default_reg_is_a_twentieth_of_the_mean_cost(self):
        X, Y, w = normal(30), normal(20, seed=1) + 100, np.arange(30.0)
        cost = ((X[:, None] - Y) ** 2).sum(2).mean(1) @ w / w.sum() / 2
        expected = sinkhorn_divergence(X, Y, reg=0.05 * cost, weights_X=w)
        assert sinkhorn_divergence(X, Y, weights_X=w) == pytest.approx(expected, rel=1e-9)

    def test_gradient_reaches_tensors(self):
        X = torch.tensor(normal(10)).requires_grad_()
        Y, w = normal(8, seed=1), np.r_[0, np.ones(9)]
        value = sinkhorn_divergence(X, Y, reg=0.5, weights_X=w)
        (gradient,) = torch.autograd.grad(value, X)
        step = 1e-4 * torch.tensor(normal(10, seed=2))
        plus, minus = (
            sinkhorn_divergence(X.detach() + s * step, Y, reg=0.5, weights_X=w) for s in (1, -1)
        )
        assert float(plus - minus) / 2 == pytest.approx(float((gradient * step).sum()), rel=1e-4)
        assert torch.equal(gradient[0], torch.zeros(2, dtype=torch.float64))  # no weight, no pull

    def test_types(self):
        X, Y = normal(10), normal(10, seed=1)
        value = sinkhorn_divergence(torch.tensor(X, dtype=torch.float32), Y.astype(np.float32))
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert sinkhorn_divergence(np.ones((3, 2)), np.ones((4, 2))) == pytest.approx(0, abs=1e-12)

    def test_bad_reg(self):
        with pytest.raises(ValueError, match="reg must be"):
            sinkhorn_divergence(normal(5), normal(5), reg=0.0)


class TestSlicedWasserstein:
    def test_one_column_needs_no_slices(self):
        X, Y = normal(40, 1), normal(25, 1, seed=1)
        for p in (1, 2):
            expected = wasserstein_distance(X, Y, p=p)
            assert sliced_wasserstein(X, Y, p=p, n_projections=3) == pytest.approx(expected)

    def test_shift_counts_by_the_root_of_the_dimension(self):
        # The mean of <theta, s>^2 is |s|^2/d; its relative variance is 2 (d-1)/(d+2) / L.
        X, d, L = normal(20, 8), 8, 4000
        shift = np.full(d, 0.5)
        squared = sliced_wasserstein(X, X + shift, n_projections=L) ** 2
        sd = math.sqrt(2 * (d - 1) / (d + 2) / L)
        assert squared == pytest.approx(shift @ shift / d, rel=4 * sd)

    def test_below_the_distance(self):
        X, Y = normal(30, 3), normal(30, 3, seed=1) + 0.3
        assert sliced_wasserstein(X, Y) < wasserstein_distance(X, Y)

    def test_directions(self):
        X, Y = normal(30), normal(35, seed=1)
        assert sliced_wasserstein(X, Y) == sliced_wasserstein(X, Y)
        assert sliced_wasserstein(X, Y, random_state=1) != sliced_wasserstein(X, Y)
        # Many projections come in blocks: the mean must be over all of them.
        many = sliced_wasserstein(X, Y, n_projections=5000)
        assert many == pytest.approx(sliced_wasserstein(X, Y, n_projections=4999), rel=1e-3)
        with pytest.raises(ValueError, match="n_projections"):
            sliced_wasserstein(X, Y, n_projections=0)


class TestMMD:
    def test_against_the_double_sum(self):
        X, Y = normal(600, 3), normal(530, 3, seed=1) + 0.2  # more rows than a tile

        def mean(U, V):
            return np.exp(-((U[:, None] - V) ** 2).sum(2) / (2 * 1.3**2)).mean()

        squared = mean(X, X) + mean(Y, Y) - 2 * mean(X, Y)
        assert mmd(X, Y, bandwidth=1.3) ** 2 == pytest.approx(squared, rel=1e-8)

    def test_level_of_the_biased_estimate(self):
        # Equal laws: the mean of the square is (2/n)(1 - E k(x, x')). For N(0, 1) and bandwidth 1,
        # x - x' ~ N(0, 2), so E k = 3^(-1/2).
        n, repeats = 50, 200
        squares = [
            mmd(normal(n, 1, seed), normal(n, 1, 1000 + seed), bandwidth=1.0) ** 2
            for seed in range(repeats)
        ]
        expected = 2 / n * (1 - 3**-0.5)
        error = np.std(squares) / math.sqrt(repeats)
        assert abs(np.mean(squares) - expected) < 4 * error

    def test_median_heuristic(self):
        # The bandwidth scales with the data, so that the figure does not.
        X, Y = normal(50), normal(50, seed=1) + 1
        assert mmd(1e5 * X, 1e5 * Y) == pytest.approx(mmd(X, Y), rel=1e-9)
        pooled = np.concatenate([X, Y])
        pairs = np.linalg.norm(pooled[:, None] - pooled, axis=2)[np.triu_indices(100, 1)]
        assert mmd(X, Y) == pytest.approx(mmd(X, Y, bandwidth=np.median(pairs)), rel=1e-2)
        assert mmd(np.ones((3, 1)), np.ones((5, 1))) == 0.0

    def test_bad_bandwidth(self):
        with pytest.raises(ValueError, match="bandwidth must be"):
            mmd(normal(5), normal(5), bandwidth=0.0)


class TestModeCoverage:
    centers = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])

    def sample(self, counts, scales, seed=0, d=2):
        centers = np.pad(self.centers, ((0, 0), (0, d - 2)))
        rows = np.repeat(np.arange(3), counts)
        return centers, centers[rows] + np.asarray(scales)[rows, None] * normal(len(rows), d, seed)

    @pytest.mark.parametrize("d", [2, 10, 64])
    def test_exact_modes(self, d):
        # A radius of four scales in every dimension would leave 99% of the rows off mode at d=64.
        n = 3000
        centers, X = self.sample([n] * 3, [0.5, 1.0, 1.5], d=d)
        coverage = mode_coverage(X, centers, [0.5, 1.0, 1.5])
        outside = math.exp(-8)
        sd = math.sqrt(outside / (3 * n))
        assert abs(coverage.off_mode - outside) < 4 * sd
        np.testing.assert_allclose(coverage.mass, (1 - outside) / 3, atol=4 * sd)
        assert coverage.mass.sum() + coverage.off_mode == pytest.approx(1.0)
        np.testing.assert_allclose(coverage.trace_ratios, 1, atol=4 * math.sqrt(2 / (n * d)) + 0.01)
        # Sample eigenvalues spread over the Marchenko-Pastur interval.
        edge = math.sqrt(d / n)
        assert coverage.eigenvalue_ratios.shape == (3, d)
        assert coverage.eigenvalue_ratios.max() < (1 + edge) ** 2 + 0.1
        assert coverage.eigenvalue_ratios.min() > (1 - edge) ** 2 - 0.1
        assert (np.diff(coverage.eigenvalue_ratios, axis=1) <= 0).all()

    def test_shrunk_and_flattened_modes_are_seen(self):
        # Mass alone would call both perfect.
        centers, X = self.sample([2000] * 3, [0.5, 1.0, 1.0])
        X[-2000:, 0] = 0.0  # the third mode loses its first direction
        coverage = mode_coverage(torch.tensor(X), centers, 1.0)
        np.testing.assert_allclose(coverage.mass, 1 / 3, atol=1e-3)
        np.testing.assert_allclose(coverage.eigenvalue_ratios[0], 0.25, rtol=0.1)
        np.testing.assert_allclose(coverage.eigenvalue_ratios[2], [1.0, 0.0], atol=0.1)
        np.testing.assert_allclose(coverage.trace_ratios, [0.25, 1.0, 0.5], rtol=0.1)

    def test_missing_modes_and_strays(self):
        X = np.concatenate([normal(50), [[20.0, 0.0]], np.full((49, 2), 10.0)])
        coverage = mode_coverage(X, self.centers, 1.0)
        np.testing.assert_allclose(coverage.mass, [0.5, 0.01, 0.0])
        assert coverage.off_mode == pytest.approx(0.49)
        assert np.isfinite(coverage.trace_ratios[0])
        assert np.isnan(coverage.eigenvalue_ratios[1:]).all()

    def test_radius(self):
        for d in (1, 2, 7):
            radius = math.sqrt(chi2.isf(math.exp(-8), d))
            X = np.zeros((2, d))
            X[:, 0] = radius * np.array([0.999, 1.001])
            assert mode_coverage(X, np.zeros((1, d)), 1.0).off_mode == 0.5
        planar = mode_coverage([[2.99, 0.0], [0.0, 3.01]], [[0.0, 0.0]], 1.0, n_sd=3)
        assert planar.off_mode == 0.5

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale": 0.0}, "scale must be"),
            ({"scale": [1.0, 2.0]}, "scale must be"),
            ({"scale": 1.0, "n_sd": -1.0}, "n_sd must be"),
            ({"scale": 1.0, "centers": np.zeros((2, 3))}, "X has 2, centers has 3"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            mode_coverage(normal(5), **{"centers": self.centers, **options})


class TestTwoSampleAccuracy:
    @pytest.mark.parametrize("d", [2, 10])
    def test_same_law(self, d):
        figure = two_sample_accuracy(normal(1000, d), normal(1000, d, seed=1))
        assert abs(figure - 0.5) < 3 / math.sqrt(4 * 1000)

    def test_separated_and_copied(self):
        X = normal(200)
        assert two_sample_accuracy(X, X + 50) == 1.0
        assert two_sample_accuracy(X, X + 1e-9) < 0.05  # every row's nearest is its copy

    def test_unequal_counts_keep_the_level(self):
        # Without equal counts the larger label would win by its number: .75 here.
        X, Y = normal(600), normal(1800, seed=1)
        figures = [two_sample_accuracy(X, Y, random_state=seed) for seed in range(3)]
        assert max(abs(figure - 0.5) for figure in figures) < 3 / math.sqrt(4 * 600)
        assert two_sample_accuracy(X, Y, random_state=0) == figures[0]
        assert len(set(figures)) > 1

    def test_a_wider_law_is_told_apart(self):
        # Tests the spread: the means agree.
        assert two_sample_accuracy(normal(1000, 5), 2 * normal(1000, 5, seed=1)) > 0.6

    def test_bad_input(self):
        with pytest.raises(ValueError, match="at least two rows"):
            two_sample_accuracy(normal(1), normal(9))
        with pytest.raises(ValueError, match="X has 2, Y has 3"):
            two_sample_accuracy(normal(9), normal(9, 3))


class TestNeighborDistanceRatio:
    @pytest.mark.parametrize("d", [2, 40])
    def test_copies_new_draws_and_strays(self, d):
        train, test, new = normal(800, d), normal(400, d, 1), normal(400, d, 2)
        assert neighbor_distance_ratio(train[:300], train, test) == 0.0
        # A sample median of 400 has a relative standard deviation of about 5% at d = 2.
        assert neighbor_distance_ratio(new, train, test) == pytest.approx(1.0, abs=0.2)
        assert neighbor_distance_ratio(3 * new, train, test) > 1.5
        jittered = train[:300] + 0.01 * normal(300, d, 3)
        assert neighbor_distance_ratio(jittered, train, test) < 0.6

    def test_bad_input(self):
        X = normal(20)
        with pytest.raises(ValueError, match="held-out rows"):
            neighbor_distance_ratio(X, X, X)
        with pytest.raises(ValueError, match="test has 3"):
            neighbor_distance_ratio(X, X, normal(9, 3))


def test_normal_quantiles_give_the_distance_of_normal_laws():
    # W2 between N(0, 1) and N(m, s^2) is sqrt(m^2 + (s - 1)^2); midpoint quantiles make the
    # error O(1/n).
    u = norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    assert wasserstein_distance(u, 0.7 + 1.8 * u) == pytest.approx(math.hypot(0.7, 0.8), rel=1e-3)
