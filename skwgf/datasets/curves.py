"""Toy measures on curves of the plane: a uniform position plus Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import ellipeinc, ndtri

from skwgf.datasets._sampling import (
    RandomState,
    check_parameters,
    draw_counts,
    make_rng,
    sobol_uniforms,
)

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def make_circle(
    n_samples: int = 1000,
    *,
    radius: float = 1.0,
    noise: float = 0.05,
    stratified: bool = False,
    random_state: RandomState = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Draw points uniform on a circle around the origin, plus Gaussian noise.

    The mean is 0 and the covariance :math:`(r^2 / 2 + \sigma^2) I`, r the radius and
    :math:`\sigma` the noise.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of points.
    radius : float, default=1.0
        Radius of the circle, positive.
    noise : float, default=0.05
        Standard deviation of the noise in every coordinate; 0 leaves the points on the curve.
    stratified : bool, default=False
        False draws independent points; True draws a low-variance reference sample: position and
        noise together are scrambled Sobol points.
    random_state : int, RandomState or None, default=None
        Seed; None takes fresh entropy of the system at every call.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        The points, in random order.
    t : ndarray of shape (n_samples,)
        Position on the curve: the fraction of its length, counter-clockwise from the positive x
        axis, in (0, 1).

    Raises
    ------
    ValueError
        If an argument is out of its range.

    See Also
    --------
    make_oval : The same on an ellipse.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.datasets import make_circle
    >>> X, t = make_circle(100, noise=0.0, random_state=0)
    >>> bool(np.allclose(np.hypot(*X.T), 1.0))
    True
    """
    check_parameters(
        "make_circle", n_samples=n_samples, radius=radius, noise=noise, stratified=stratified
    )
    return _draw_on_curve(
        lambda t: _ellipse(2.0 * np.pi * t, radius, radius),
        n_samples,
        noise,
        make_rng(random_state),
        stratified=stratified,
    )


def make_oval(
    n_samples: int = 1000,
    *,
    axes: tuple[float, float] = (2.0, 0.75),
    noise: float = 0.05,
    stratified: bool = False,
    random_state: RandomState = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Draw points uniform by arc length on an ellipse around the origin, plus Gaussian noise.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of points.
    axes : tuple of two floats, default=(2.0, 0.75)
        Semi-axes along x and y, both positive.
    noise : float, default=0.05
        Standard deviation of the noise in every coordinate; 0 leaves the points on the curve.
    stratified : bool, default=False
        False draws independent points; True draws a low-variance reference sample: position and
        noise together are scrambled Sobol points.
    random_state : int, RandomState or None, default=None
        Seed; None takes fresh entropy of the system at every call.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        The points, in random order.
    t : ndarray of shape (n_samples,)
        Position on the curve: the fraction of its length, counter-clockwise from the positive x
        axis, in (0, 1).

    Raises
    ------
    ValueError
        If an argument is out of its range.

    See Also
    --------
    make_circle : The same on a circle, for instance as the target of a transfer.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.datasets import make_oval
    >>> X, t = make_oval(100, axes=(3.0, 1.0), noise=0.0, random_state=0)
    >>> bool(np.allclose((X[:, 0] / 3.0) ** 2 + X[:, 1] ** 2, 1.0))
    True
    """
    check_parameters("make_oval", n_samples=n_samples, noise=noise, stratified=stratified)
    a, b = _check_axes(axes)
    return _draw_on_curve(
        lambda t: _ellipse(_ellipse_angle(t, a, b), a, b),
        n_samples,
        noise,
        make_rng(random_state),
        stratified=stratified,
    )


def make_two_moons(
    n_samples: int = 1000,
    *,
    noise: float = 0.05,
    stratified: bool = False,
    random_state: RandomState = None,
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    r"""Draw points uniform on two interleaved half circles of radius 1, plus Gaussian noise.

    The upper moon (label 0) is centred at the origin, the lower moon (label 1) at
    :math:`(1, 1/2)`; each has the weight 1/2. Unlike scikit-learn's generator of the same curves,
    which spaces the points evenly, the default draws are independent.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of points.
    noise : float, default=0.05
        Standard deviation of the noise in every coordinate; 0 leaves the points on the curve.
    stratified : bool, default=False
        False draws independent points; True draws a low-variance reference sample: equal counts,
        and scrambled Sobol points within each moon.
    random_state : int, RandomState or None, default=None
        Seed; None takes fresh entropy of the system at every call.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        The points, in random order.
    y : ndarray of shape (n_samples,)
        The moon of each point, 0 or 1.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.datasets import make_two_moons
    >>> X, y = make_two_moons(101, stratified=True, random_state=0)
    >>> X.shape, np.bincount(y)
    ((101, 2), array([51, 50]))
    """
    check_parameters("make_two_moons", n_samples=n_samples, noise=noise, stratified=stratified)
    rng = make_rng(random_state)
    counts = draw_counts(np.array([0.5, 0.5]), n_samples, rng, stratified=stratified)
    moons = [
        _draw_on_curve(curve, int(count), noise, rng, stratified=stratified)[0]
        for curve, count in zip((_upper_moon, _lower_moon), counts, strict=True)
    ]
    order = rng.permutation(n_samples)
    return np.concatenate(moons)[order], np.repeat(np.arange(2), counts)[order]


def make_swiss_roll_2d(
    n_samples: int = 1000,
    *,
    noise: float = 0.5,
    stratified: bool = False,
    random_state: RandomState = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Draw points on a spiral of the plane, plus Gaussian noise.

    The curve is :math:`(t \cos t, t \sin t)` with t uniform in
    :math:`[3 \pi / 2, 9 \pi / 2]`: the section of scikit-learn's three-dimensional roll, in its
    unit (one and a half turns, :math:`2 \pi` apart, of radius up to 14.1). Since t is uniform,
    not the arc length, the inner end is denser.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of points.
    noise : float, default=0.5
        Standard deviation of the noise in every coordinate; 0 leaves the points on the curve.
    stratified : bool, default=False
        False draws independent points; True draws a low-variance reference sample: position and
        noise together are scrambled Sobol points.
    random_state : int, RandomState or None, default=None
        Seed; None takes fresh entropy of the system at every call.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        The points, in random order.
    t : ndarray of shape (n_samples,)
        Position on the curve: the angle t.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.datasets import make_swiss_roll_2d
    >>> X, t = make_swiss_roll_2d(100, noise=0.0, random_state=0)
    >>> bool(np.allclose(np.hypot(*X.T), t))
    True
    """
    check_parameters("make_swiss_roll_2d", n_samples=n_samples, noise=noise, stratified=stratified)
    X, t = _draw_on_curve(
        lambda t: _spiral(_roll_angle(t)),
        n_samples,
        noise,
        make_rng(random_state),
        stratified=stratified,
    )
    return X, _roll_angle(t)


def _draw_on_curve(
    curve: Curve, n: int, noise: float, rng: np.random.Generator, *, stratified: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return n noisy points of a curve of [0, 1] and their positions, in random order."""
    if stratified:
        points = sobol_uniforms(n, 3, rng)
        points = points[rng.permutation(n)]
        t, normals = points[:, 0], ndtri(points[:, 1:])
    else:
        t, normals = rng.random(n), rng.standard_normal((n, 2))
    return curve(t) + noise * normals, t


def _ellipse(angle: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """Return the points (a cos, b sin) of an ellipse."""
    return np.column_stack([a * np.cos(angle), b * np.sin(angle)])


def _ellipse_angle(t: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """Return the angles of (a cos, b sin) at the fractions t of the arc length.

    The length up to an angle is b E(angle | 1 - (a/b)^2), E the incomplete elliptic integral of
    the second kind; it is inverted by a table and polished by Newton's steps.
    """
    m = 1.0 - (a / b) ** 2
    table = np.linspace(0.0, 2.0 * np.pi, 4097)
    fractions = ellipeinc(table, m) / ellipeinc(2.0 * np.pi, m)
    angle: NDArray[np.float64] = np.interp(t, fractions, table)
    for _ in range(2):
        excess = ellipeinc(angle, m) - t * ellipeinc(2.0 * np.pi, m)
        angle = angle - excess / np.sqrt(1.0 - m * np.sin(angle) ** 2)
    return angle


def _check_axes(axes: tuple[float, float]) -> tuple[float, float]:
    """Return the two semi-axes as floats, or raise ValueError."""
    pair = np.asarray(axes, dtype=np.float64)
    if pair.shape != (2,) or not (np.isfinite(pair) & (pair > 0)).all():
        raise ValueError(f"axes must be two positive finite numbers, got {axes!r}.")
    return float(pair[0]), float(pair[1])


def _upper_moon(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper half of the unit circle."""
    return _ellipse(np.pi * t, 1.0, 1.0)


def _lower_moon(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower half of the unit circle around (1, 1/2)."""
    return np.array([1.0, 0.5]) - _upper_moon(t)


def _roll_angle(t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angle of the spiral at the position t in [0, 1]."""
    return 1.5 * np.pi * (1.0 + 2.0 * t)


def _spiral(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points of Archimedes' spiral of pitch 2 pi."""
    return np.column_stack([angle * np.cos(angle), angle * np.sin(angle)])
