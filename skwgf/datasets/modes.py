"""Toy measures made of Gaussian modes: the ring, six plus two, random centres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skwgf.datasets._sampling import RandomState, check_parameters, make_rng
from skwgf.datasets.mixtures import GaussianMixtureSpec


def ring_of_gaussians(
    n_modes: int = 8, *, radius: float = 2.0, scale: float = 0.1
) -> GaussianMixtureSpec:
    r"""Return the ring: equal isotropic modes, evenly spaced on a circle around the origin.

    Mode k sits at the angle :math:`2 \pi k / n`. With three modes or more the mean is 0 and the
    covariance :math:`(r^2 / 2 + s^2) I`, r the radius and s the scale.

    Parameters
    ----------
    n_modes : int, default=8
        Number of modes.
    radius : float, default=2.0
        Radius of the circle, positive.
    scale : float, default=0.1
        Standard deviation of every coordinate within a mode, positive.

    Returns
    -------
    GaussianMixtureSpec

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> from skwgf.datasets import ring_of_gaussians
    >>> spec = ring_of_gaussians(4, radius=1.0)
    >>> spec.centers.round(3) + 0.0
    array([[ 1.,  0.],
           [ 0.,  1.],
           [-1.,  0.],
           [ 0., -1.]])
    """
    check_parameters("ring_of_gaussians", n_modes=n_modes, radius=radius, scale=scale)
    return GaussianMixtureSpec.isotropic(radius * _directions(n_modes), scale)


def six_plus_two(
    *, rare_weight: float = 0.025, radius: float = 2.0, far: float = 5.0, scale: float = 0.1
) -> GaussianMixtureSpec:
    """Return six heavy modes on a circle and two light modes far out: a test of mode coverage.

    The heavy modes (0 to 5) share the weight `1 - 2 * rare_weight` equally and sit on a circle,
    the first on the positive x axis. The light modes (6 and 7) sit at `(0, far)` and `(0, -far)`.

    Parameters
    ----------
    rare_weight : float, default=0.025
        Weight of each of the two light modes, in (0, 0.5).
    radius : float, default=2.0
        Radius of the circle of heavy modes, positive.
    far : float, default=5.0
        Distance of the light modes from the origin, positive.
    scale : float, default=0.1
        Standard deviation of every coordinate within a mode, positive.

    Returns
    -------
    GaussianMixtureSpec

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> from skwgf.datasets import six_plus_two
    >>> six_plus_two().weights.round(4)
    array([0.1583, 0.1583, 0.1583, 0.1583, 0.1583, 0.1583, 0.025 , 0.025 ])
    """
    check_parameters("six_plus_two", rare_weight=rare_weight, radius=radius, far=far, scale=scale)
    centers = np.vstack([radius * _directions(6), [[0.0, far], [0.0, -far]]])
    heavy = (1.0 - 2.0 * rare_weight) / 6.0
    return GaussianMixtureSpec.isotropic(centers, scale, [heavy] * 6 + [rare_weight] * 2)


def random_gaussian_mixture(
    n_modes: int = 10,
    n_features: int = 8,
    *,
    spread: float = 2.0,
    scale: float = 0.5,
    anisotropy: float = 1.0,
    random_state: RandomState = None,
) -> GaussianMixtureSpec:
    r"""Return a mixture of equal weights with random centres, in any dimension.

    The centres are drawn from :math:`N(0, \sigma^2 I)`, :math:`\sigma` the spread. The covariance
    of each mode has the trace :math:`d s^2`, s the scale; its standard deviations along randomly
    rotated axes are in geometric progression, the largest `anisotropy` times the smallest.

    Parameters
    ----------
    n_modes : int, default=10
        Number of modes.
    n_features : int, default=8
        Dimension d of the space.
    spread : float, default=2.0
        Standard deviation of the centres in every coordinate, positive.
    scale : float, default=0.5
        Root mean square, over the coordinates, of the standard deviations within a mode; positive.
    anisotropy : float, default=1.0
        Ratio of the largest standard deviation of a mode to its smallest, at least 1; 1 makes the
        modes isotropic. Without effect in one dimension.
    random_state : int, RandomState or None, default=None
        Seed of the centres and of the rotations, not of any sample; None takes fresh entropy of
        the system.

    Returns
    -------
    GaussianMixtureSpec

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> from skwgf.datasets import random_gaussian_mixture
    >>> spec = random_gaussian_mixture(random_state=0)
    >>> X_train, _ = spec.sample(4000, random_state=1)
    >>> X_reference, _ = spec.stratified(4000, random_state=2)
    >>> X_train.shape
    (4000, 8)
    """
    check_parameters(
        "random_gaussian_mixture",
        n_modes=n_modes,
        n_features=n_features,
        spread=spread,
        scale=scale,
        anisotropy=anisotropy,
    )
    rng = make_rng(random_state)
    centers = spread * rng.standard_normal((n_modes, n_features))
    variances = np.geomspace(1.0, anisotropy**2, n_features)
    variances *= scale**2 / variances.mean()
    rotations = np.linalg.qr(rng.standard_normal((n_modes, n_features, n_features))).Q
    covariances = (rotations * variances) @ rotations.transpose(0, 2, 1)
    symmetric = 0.5 * (covariances + covariances.transpose(0, 2, 1))
    return GaussianMixtureSpec(np.full(n_modes, 1.0 / n_modes), centers, symmetric)


def make_ring(
    n_samples: int = 1000,
    *,
    n_modes: int = 8,
    radius: float = 2.0,
    scale: float = 0.1,
    stratified: bool = False,
    random_state: RandomState = None,
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Draw from a ring of Gaussian modes in the plane.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of points.
    n_modes, radius, scale
        The law, as in :func:`ring_of_gaussians`.
    stratified : bool, default=False
        False draws independent points; True draws the low-variance reference sample of
        :meth:`GaussianMixtureSpec.stratified`.
    random_state : int, RandomState or None, default=None
        Seed; None takes fresh entropy of the system at every call.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        The points, in random order.
    y : ndarray of shape (n_samples,)
        The mode of each point.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> from skwgf.datasets import make_ring
    >>> X, y = make_ring(200, random_state=0)
    >>> X.shape, sorted(set(y.tolist()))
    ((200, 2), [0, 1, 2, 3, 4, 5, 6, 7])
    """
    check_parameters("make_ring", stratified=stratified)
    spec = ring_of_gaussians(n_modes, radius=radius, scale=scale)
    draw = spec.stratified if stratified else spec.sample
    return draw(n_samples, random_state=random_state)


def make_six_plus_two(
    n_samples: int = 1000,
    *,
    rare_weight: float = 0.025,
    radius: float = 2.0,
    far: float = 5.0,
    scale: float = 0.1,
    stratified: bool = False,
    random_state: RandomState = None,
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Draw from six heavy Gaussian modes and two light ones far away.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of points.
    rare_weight, radius, far, scale
        The law, as in :func:`six_plus_two`.
    stratified : bool, default=False
        False draws independent points; True draws the low-variance reference sample of
        :meth:`GaussianMixtureSpec.stratified`.
    random_state : int, RandomState or None, default=None
        Seed; None takes fresh entropy of the system at every call.

    Returns
    -------
    X : ndarray of shape (n_samples, 2)
        The points, in random order.
    y : ndarray of shape (n_samples,)
        The mode of each point; 6 and 7 are the light ones.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.datasets import make_six_plus_two
    >>> X, y = make_six_plus_two(400, stratified=True, random_state=0)
    >>> np.bincount(y)
    array([64, 64, 63, 63, 63, 63, 10, 10])
    """
    check_parameters("make_six_plus_two", stratified=stratified)
    spec = six_plus_two(rare_weight=rare_weight, radius=radius, far=far, scale=scale)
    draw = spec.stratified if stratified else spec.sample
    return draw(n_samples, random_state=random_state)


def _directions(n: int) -> NDArray[np.float64]:
    """Return n evenly spaced unit vectors of the plane, the first on the x axis."""
    angles = 2.0 * np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angles), np.sin(angles)])
