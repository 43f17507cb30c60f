"""Measures on curves: exact moments by quadrature, uniform positions, noise of the right size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kstest

from skwgf.datasets import make_circle, make_oval, make_swiss_roll_2d, make_two_moons
from skwgf.datasets.curves import _ellipse_angle


def curve_moments(x, y, speed, start, stop):
    """Mean and covariance of a curve under the density proportional to `speed`, by quadrature."""
    total = quad(speed, start, stop)[0]

    def expect(f):
        return quad(lambda t: f(t) * speed(t), start, stop, limit=200)[0] / total

    mean = np.array([expect(x), expect(y)])
    xy = expect(lambda t: x(t) * y(t))
    second = np.array([[expect(lambda t: x(t) ** 2), xy], [xy, expect(lambda t: y(t) ** 2)]])
    return mean, second - np.outer(mean, mean)


def circle_moments():
    return np.zeros(2), 1.5**2 / 2 * np.eye(2)


def oval_moments():
    a, b = 2.0, 0.75
    return curve_moments(
        lambda t: a * np.cos(t),
        lambda t: b * np.sin(t),
        lambda t: np.hypot(a * np.sin(t), b * np.cos(t)),
        0.0,
        2 * np.pi,
    )


def moons_moments():
    # by hand, from E cos = 0, E sin = 2/pi, E cos^2 = E sin^2 = 1/2 on a half circle
    covariance = [[0.75, 0.125 - 1 / np.pi], [0.125 - 1 / np.pi, 0.5625 - 1 / np.pi]]
    return np.array([0.5, 0.25]), np.array(covariance)


def roll_moments():
    return curve_moments(
        lambda t: t * np.cos(t),
        lambda t: t * np.sin(t),
        lambda t: 1.0,
        1.5 * np.pi,
        4.5 * np.pi,
    )


CURVES = [
    pytest.param(lambda n, **k: make_circle(n, radius=1.5, **k), circle_moments, id="circle"),
    pytest.param(make_oval, oval_moments, id="oval"),
    pytest.param(make_two_moons, moons_moments, id="moons"),
    pytest.param(make_swiss_roll_2d, roll_moments, id="roll"),
]


@pytest.mark.parametrize(("make", "moments"), CURVES)
@pytest.mark.parametrize("stratified", [False, True])
def test_mean_and_covariance_are_those_of_the_curve_plus_noise(make, moments, stratified):
    # catches uniform angle instead of arc length, a shifted moon, noise^2 for noise
    n, noise = 40_000, 0.3
    mean, covariance = moments()
    covariance = covariance + noise**2 * np.eye(2)
    X, _ = make(n, noise=noise, stratified=stratified, random_state=0)
    centred = X - mean
    assert (np.abs(centred.mean(axis=0)) < 4.5 * np.sqrt(np.diag(covariance) / n)).all()
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0) / np.sqrt(n)
    assert (np.abs(products.mean(axis=0) - covariance) < 4.5 * error).all()


@pytest.mark.parametrize(("make", "moments"), CURVES)
def test_stratified_mean_has_a_fraction_of_the_sampling_error(make, moments):
    # catches a reference whose position or noise is pseudo-random
    n, repeats = 1000, 20
    mean, covariance = moments()
    errors = [
        make(n, noise=0.1, stratified=True, random_state=seed)[0].mean(axis=0) - mean
        for seed in range(repeats)
    ]
    rms = np.sqrt((np.array(errors) ** 2).sum(axis=1).mean())
    assert rms < 0.1 * np.sqrt(np.trace(covariance) / n)


@pytest.mark.parametrize("axes", [(2.0, 0.75), (0.75, 2.0), (1.0, 1.0), (1.0, 0.02)])
def test_oval_positions_are_fractions_of_the_arc_length(axes):
    # the length between two positions, by quadrature, is their difference times the total
    a, b = axes
    t = np.array([0.0, 0.03, 0.25, 0.4, 0.5, 0.77, 0.999])
    angle = _ellipse_angle(t, a, b)

    def speed(u):
        return np.hypot(a * np.sin(u), b * np.cos(u))

    quarter = quad(speed, 0.0, np.pi / 2, epsabs=1e-12, limit=500)[0]
    for position, reached in zip(t, angle, strict=True):
        turns = [k * np.pi / 2 for k in range(5) if k * np.pi / 2 < reached] + [reached]
        length = sum(quad(speed, u, v, epsabs=1e-12, limit=500)[0] for u, v in pairwise(turns))
        assert length == pytest.approx(4 * quarter * position, abs=1e-9)


def test_oval_with_equal_axes_is_the_circle():
    X, t = make_oval(200, axes=(1.0, 1.0), random_state=0)
    X_circle, t_circle = make_circle(200, random_state=0)
    np.testing.assert_array_equal(t, t_circle)
    np.testing.assert_allclose(X, X_circle, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (make_circle, 0.0, 1.0),
        (make_oval, 0.0, 1.0),
        (make_swiss_roll_2d, 1.5 * np.pi, 4.5 * np.pi),
    ],
)
def test_positions_are_uniform(make, low, high):
    _, t = make(2000, random_state=0)
    assert kstest((t - low) / (high - low), "uniform").pvalue > 1e-3


def test_stratified_rows_come_in_random_order():
    # successive points of a Sobol sequence lie in opposite halves of [0, 1]: catches rows left in
    # that order, whose batches are not exchangeable
    _, t = make_circle(1024, stratified=True, random_state=0)
    opposite = np.mean((t[::2] < 0.5) != (t[1::2] < 0.5))
    assert abs(opposite - 0.5) < 4.5 * np.sqrt(0.25 / 512)


def test_positions_belong_to_their_points():
    # catches positions shuffled apart from the points
    X, t = make_circle(100, radius=2.0, noise=0.0, stratified=True, random_state=0)
    expected = 2.0 * np.column_stack([np.cos(2 * np.pi * t), np.sin(2 * np.pi * t)])
    np.testing.assert_allclose(X, expected, atol=1e-12)


@pytest.mark.parametrize("stratified", [False, True])
def test_two_moons_without_noise_lie_on_their_half_circles(stratified):
    X, y = make_two_moons(501, noise=0.0, stratified=stratified, random_state=0)
    centers, side = np.array([[0.0, 0.0], [1.0, 0.5]])[y], np.array([1.0, -1.0])[y]
    np.testing.assert_allclose(np.linalg.norm(X - centers, axis=1), 1.0, rtol=1e-12)
    assert (side * (X - centers)[:, 1] >= 0).all()
    if stratified:
        assert np.bincount(y).tolist() == [251, 250]


def test_noise_is_gaussian_and_isotropic_around_the_curve():
    # the same seed with and without noise differs by the noise alone
    noisy, t = make_oval(20_000, noise=0.2, random_state=0)
    clean, t_clean = make_oval(20_000, noise=0.0, random_state=0)
    np.testing.assert_array_equal(t, t_clean)
    z = (noisy - clean) / 0.2
    assert kstest(z.ravel(), "norm").pvalue > 1e-3
    assert np.abs(np.cov(z.T) - np.eye(2)).max() < 4.5 * np.sqrt(2 / len(z))


@pytest.mark.parametrize("axes", [(1.0, 0.0), (-1.0, 1.0), (1.0,), 2.0, (1.0, np.nan)])
def test_bad_axes_are_refused(axes):
    with pytest.raises(ValueError, match="axes must be two positive finite numbers"):
        make_oval(10, axes=axes)


def test_bad_radius_is_refused():
    with pytest.raises(ValueError, match="'radius' parameter of make_circle"):
        make_circle(10, radius=-1.0)
