"""The named mixtures have the geometry that their docstrings state."""

from __future__ import annotations

import numpy as np
import pytest

from skwgf.datasets import (
    make_ring,
    make_six_plus_two,
    random_gaussian_mixture,
    ring_of_gaussians,
    six_plus_two,
)


@pytest.mark.parametrize("n_modes", [3, 5, 8])
def test_ring_has_the_closed_form_moments(n_modes):
    # equally spaced unit vectors form a tight frame: sum u u^T = n/2 I for n >= 3
    spec = ring_of_gaussians(n_modes, radius=1.5, scale=0.2)
    np.testing.assert_allclose(spec.mean, 0.0, atol=1e-15)
    np.testing.assert_allclose(
        spec.covariance, (1.5**2 / 2 + 0.2**2) * np.eye(2), rtol=1e-14, atol=1e-15
    )
    np.testing.assert_allclose(np.hypot(*spec.centers.T), 1.5, rtol=1e-15)


def test_ring_modes_are_evenly_spaced():
    # neighbours 2 r sin(pi / 8) apart: catches angles that repeat the first mode at the end
    centers = ring_of_gaussians().centers
    gaps = np.linalg.norm(centers - np.roll(centers, 1, axis=0), axis=1)
    np.testing.assert_allclose(gaps, 4.0 * np.sin(np.pi / 8), rtol=1e-14)


def test_six_plus_two_geometry():
    spec = six_plus_two()
    np.testing.assert_allclose(spec.weights[:6], 0.95 / 6, rtol=1e-15)
    assert spec.weights[6:].tolist() == [0.025, 0.025]
    np.testing.assert_allclose(np.hypot(*spec.centers.T), [2.0] * 6 + [5.0] * 2, rtol=1e-15)
    # the light modes are far from every heavy one: over 30 standard deviations
    gaps = np.linalg.norm(spec.centers[6:, None] - spec.centers[None, :6], axis=2)
    assert gaps.min() > 30 * spec.scale
    # total second moment by hand: .95 r^2 + .05 far^2 + 2 s^2
    assert np.trace(spec.covariance) == pytest.approx(0.95 * 4 + 0.05 * 25 + 2 * 0.01, rel=1e-13)


def test_make_functions_draw_from_the_named_laws():
    # catches a keyword that does not reach the law
    X, y = make_ring(500, n_modes=5, radius=3.0, scale=0.01, random_state=0)
    centers = ring_of_gaussians(5, radius=3.0).centers
    assert np.linalg.norm(X - centers[y], axis=1).max() < 0.01 * 6
    law = {"rare_weight": 0.1, "radius": 1.0, "far": 9.0, "scale": 0.02}
    X, y = make_six_plus_two(500, **law, stratified=True, random_state=0)
    assert np.linalg.norm(X - six_plus_two(**law).centers[y], axis=1).max() < 0.02 * 6
    assert np.bincount(y)[6:].tolist() == [50, 50]


@pytest.mark.parametrize("stratified", [False, True])
def test_make_functions_are_the_samplers_of_the_laws(stratified):
    kind = "stratified" if stratified else "sample"
    X, y = make_ring(50, stratified=stratified, random_state=7)
    X_spec, y_spec = getattr(ring_of_gaussians(), kind)(50, random_state=7)
    np.testing.assert_array_equal(X, X_spec)
    np.testing.assert_array_equal(y, y_spec)


def test_the_seed_fixes_the_random_law_and_not_the_sample():
    a, b = (random_gaussian_mixture(random_state=3) for _ in range(2))
    np.testing.assert_array_equal(a.centers, b.centers)
    assert not np.array_equal(a.sample(4)[0], b.sample(4)[0])
    assert not np.array_equal(random_gaussian_mixture().centers, random_gaussian_mixture().centers)


def test_one_mode_in_one_dimension_is_a_plain_gaussian():
    spec = random_gaussian_mixture(1, 1, scale=0.5, anisotropy=4.0, random_state=0)
    assert spec.covariance.item() == pytest.approx(0.25, rel=1e-14)


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (ring_of_gaussians, {"n_modes": 0}),
        (ring_of_gaussians, {"n_modes": 2.5}),
        (ring_of_gaussians, {"radius": 0.0}),
        (ring_of_gaussians, {"scale": -0.1}),
        (six_plus_two, {"rare_weight": 0.5}),
        (six_plus_two, {"rare_weight": 0.0}),
        (six_plus_two, {"far": -1.0}),
        (random_gaussian_mixture, {"n_features": 0}),
        (random_gaussian_mixture, {"spread": np.inf}),
        (random_gaussian_mixture, {"anisotropy": 0.5}),
        (make_ring, {"stratified": "yes"}),
        (make_six_plus_two, {"stratified": None}),
    ],
)
def test_arguments_out_of_range_are_refused(make, bad):
    name = next(iter(bad))
    with pytest.raises(ValueError, match=rf"'{name}' parameter of {make.__name__} must be"):
        make(**bad)
