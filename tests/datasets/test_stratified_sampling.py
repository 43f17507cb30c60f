"""Counts and points of the samplers, by their defining properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from skwgf.datasets import _sampling
from skwgf.datasets._sampling import draw_counts, draw_normals, largest_remainder, sobol_uniforms


@settings(deadline=None)
@given(
    raw=st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=12),
    n=st.integers(0, 5000),
)
def test_largest_remainder_keeps_the_total_and_the_quota(raw, n):
    # catches a rounding that loses or invents points, or moves a mode by one or more
    weights = np.array(raw) / np.sum(raw)
    counts = largest_remainder(weights, n)
    assert counts.sum() == n
    assert (np.abs(counts - n * weights) < 1 + 1e-9).all()


def test_largest_remainder_on_an_example_done_by_hand():
    # quotas 4.7, 3.1, 2.2: floors 4, 3, 2 and one point left for the remainder .7
    assert largest_remainder(np.array([0.47, 0.31, 0.22]), 10).tolist() == [5, 3, 2]


@pytest.mark.parametrize("n", [10, 1000, 999_990])
def test_largest_remainder_is_exact_where_the_quotas_are_integers(n):
    # n * 0.1 is not an integer in floating point: catches a bare floor
    assert largest_remainder(np.array([0.7, 0.2, 0.1]), n).tolist() == [
        7 * n // 10,
        n // 5,
        n // 10,
    ]


def test_largest_remainder_serves_ties_in_the_order_of_the_modes():
    # catches an unstable sort: the counts would depend on the platform
    weights = np.resize([1.0, 2.0, 3.0], 300) / 600.0
    quotas = 250 * weights
    floors = np.floor(quotas).astype(int)
    served = sorted(range(300), key=lambda k: floors[k] - quotas[k])[: 250 - floors.sum()]
    assert largest_remainder(weights, 250).tolist() == [
        floors[k] + (k in served) for k in range(300)
    ]


def test_counts_are_multinomial_unless_stratified():
    # catches an i.i.d. sampler with fixed counts: its counts would have the variance 0
    weights, n, repeats = np.array([0.7, 0.3]), 100, 400
    rng = np.random.default_rng(0)
    first = [draw_counts(weights, n, rng, stratified=False)[0] for _ in range(repeats)]
    expected = n * 0.7 * 0.3
    # the relative standard error of a variance is sqrt(2 / repeats)
    assert abs(np.var(first) / expected - 1.0) < 4.0 * np.sqrt(2.0 / repeats)
    assert {tuple(draw_counts(weights, n, rng, stratified=True)) for _ in range(5)} == {(70, 30)}


@pytest.mark.parametrize("n", [0, 1, 2, 3, 63, 64, 65])
@pytest.mark.parametrize("d", [1, 5])
def test_sobol_points_have_the_right_shape_and_lie_inside(n, d):
    # catches a coordinate of 0 or 1 (an infinite normal) and a wrong count off the powers of two
    points = sobol_uniforms(n, d, np.random.default_rng(0))
    assert points.shape == (n, d)
    assert ((points > 0) & (points < 1)).all()


def test_sobol_points_sit_in_the_middle_of_their_cells(monkeypatch):
    # with 3 bits the cells are eighths and all are visited: catches the corner, which is 0 once
    # in 2^bits and then an infinite normal
    monkeypatch.setattr(_sampling, "_SOBOL_BITS", 3)
    points = sobol_uniforms(8, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(points.ravel()), (np.arange(8) + 0.5) / 8)


def test_sobol_points_fill_dyadic_cells_evenly():
    # a (0, m, 2) net has one point in each of the 2^m cells of area 2^-m: catches lost scrambling
    # structure, for instance points of two nets mixed
    points = sobol_uniforms(64, 2, np.random.default_rng(3))
    for rows, columns in ((8, 8), (64, 1), (1, 64), (4, 16)):
        cells = np.floor(points * [rows, columns]).astype(int)
        assert len({tuple(cell) for cell in cells}) == 64


def test_sobol_scrambling_follows_the_generator():
    a, b, c = (sobol_uniforms(16, 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.parametrize("stratified", [False, True])
def test_normals_are_standard(stratified):
    # catches a wrong quantile map: mean, variance and fourth moment (3) of a normal
    n = 4096
    z = draw_normals(n, 3, np.random.default_rng(1), stratified=stratified)
    assert np.abs(z.mean(axis=0)).max() < 4.0 / np.sqrt(n)
    assert np.abs(np.cov(z.T) - np.eye(3)).max() < 4.0 * np.sqrt(2.0 / n)
    assert np.abs((z**4).mean(axis=0) - 3.0).max() < 4.0 * np.sqrt(96.0 / n)  # var z^4 = 96


def test_stratified_normals_have_low_discrepancy():
    # catches normals that silently come from the pseudo-random branch
    from scipy.special import ndtr

    rng = np.random.default_rng(0)
    even, random = (
        qmc.discrepancy(ndtr(draw_normals(512, 2, rng, stratified=kind))) for kind in (True, False)
    )
    assert even < 0.05 * random
