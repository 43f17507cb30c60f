"""A Gaussian mixture whose weights, centres and moments are known exactly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skwgf.datasets._sampling import (
    RandomState,
    check_parameters,
    draw_counts,
    draw_normals,
    make_rng,
)


@dataclass(frozen=True, eq=False)
class GaussianMixtureSpec:
    r"""A Gaussian mixture that is known exactly, with two samplers.

    The law is :math:`\sum_k w_k N(c_k, C_k)`. Its first two moments are

    .. math::

        m = \sum_k w_k c_k, \qquad
        \Sigma = \sum_k w_k \bigl(C_k + (c_k - m)(c_k - m)^T\bigr).

    Parameters
    ----------
    weights : array-like of shape (n_modes,)
        Probabilities of the modes; positive, summing to 1.
    centers : array-like of shape (n_modes, n_features)
        Means of the modes.
    covariances : array-like of shape (n_modes, n_features, n_features)
        Covariance matrices of the modes; symmetric and positive definite.

    Attributes
    ----------
    weights, centers, covariances : ndarray
        Read-only float64 copies of the parameters.

    Raises
    ------
    ValueError
        If the shapes disagree, a value is not finite, the weights are not probabilities or a
        covariance matrix is not symmetric and positive definite.

    See Also
    --------
    ring_of_gaussians : Equal modes on a circle.
    six_plus_two : Six heavy modes and two light ones far away.
    random_gaussian_mixture : Random centres in any dimension.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.datasets import GaussianMixtureSpec
    >>> spec = GaussianMixtureSpec([0.5, 0.5], [[-1.0], [1.0]], [[[0.04]], [[0.04]]])
    >>> spec.mean, spec.covariance
    (array([0.]), array([[1.04]]))
    >>> X, labels = spec.stratified(100, random_state=0)
    >>> X.shape, np.bincount(labels)
    ((100, 1), array([50, 50]))
    """

    weights: NDArray[np.float64]
    centers: NDArray[np.float64]
    covariances: NDArray[np.float64] = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("weights", "centers", "covariances"):
            array = np.array(getattr(self, name), dtype=np.float64)
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has NaN or infinite values; all must be finite.")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        _check_shapes(self.weights, self.centers, self.covariances)
        _check_weights(self.weights)
        _check_covariances(self.covariances)

    @classmethod
    def isotropic(
        cls, centers: ArrayLike, scale: float, weights: ArrayLike | None = None
    ) -> GaussianMixtureSpec:
        """Return the mixture whose modes all have the covariance `scale**2` times the identity.

        Parameters
        ----------
        centers : array-like of shape (n_modes, n_features)
            Means of the modes.
        scale : float
            Standard deviation of every coordinate within a mode, positive.
        weights : array-like of shape (n_modes,), default=None
            Probabilities of the modes; None makes them equal.

        Returns
        -------
        GaussianMixtureSpec

        Raises
        ------
        ValueError
            If `scale` is not positive and finite, or as in the constructor.

        Examples
        --------
        >>> from skwgf.datasets import GaussianMixtureSpec
        >>> GaussianMixtureSpec.isotropic([[0.0, 0.0], [4.0, 0.0]], 0.5).covariance
        array([[4.25, 0.  ],
               [0.  , 0.25]])
        """
        check_parameters("GaussianMixtureSpec.isotropic", scale=scale)
        centers = np.array(centers, dtype=np.float64)
        if centers.ndim != 2 or len(centers) == 0:
            raise ValueError(
                f"centers must have shape (n_modes, n_features), got {centers.shape}. "
                "Reshape it with one row per mode."
            )
        n_modes, n_features = centers.shape
        share = np.full(n_modes, 1.0 / n_modes) if weights is None else np.asarray(weights)
        covariances = np.tile(scale**2 * np.eye(n_features), (n_modes, 1, 1))
        return cls(share, centers, covariances)

    @property
    def n_modes(self) -> int:
        """Number of modes."""
        return int(self.centers.shape[0])

    @property
    def n_features(self) -> int:
        """Dimension of the space."""
        return int(self.centers.shape[1])

    @property
    def mean(self) -> NDArray[np.float64]:
        """Exact mean of the mixture, shape (n_features,)."""
        mean: NDArray[np.float64] = self.weights @ self.centers
        return mean

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Exact covariance of the mixture (within plus between modes), (n_features, n_features)."""
        offsets = self.centers - self.mean
        within = np.tensordot(self.weights, self.covariances, axes=1)
        between = (self.weights[:, None] * offsets).T @ offsets
        covariance: NDArray[np.float64] = within + between
        return covariance

    @property
    def scale(self) -> float:
        """Root of the mean within-mode variance per coordinate; the common one when isotropic."""
        traces = np.trace(self.covariances, axis1=1, axis2=2)
        return float(np.sqrt(self.weights @ traces / self.n_features))

    def sample(
        self, n_samples: int = 1, *, random_state: RandomState = None
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Draw independent points.

        Parameters
        ----------
        n_samples : int, default=1
            Number of points.
        random_state : int, RandomState or None, default=None
            Seed; None takes fresh entropy of the system at every call.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            The points, in random order.
        labels : ndarray of shape (n_samples,)
            The mode of each point.

        Raises
        ------
        ValueError
            If `n_samples` is less than 1 or not an integer.

        Examples
        --------
        >>> from skwgf.datasets import ring_of_gaussians
        >>> X, labels = ring_of_gaussians().sample(5, random_state=0)
        >>> X.shape, labels.shape
        ((5, 2), (5,))
        """
        check_parameters("GaussianMixtureSpec.sample", n_samples=n_samples)
        return self._draw(n_samples, make_rng(random_state), stratified=False)

    def stratified(
        self, n_samples: int = 1, *, random_state: RandomState = None
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        r"""Draw a reference sample: a low-variance picture of the law to measure distances to.

        The number of points of mode k is :math:`n w_k` rounded by largest remainder, and within
        a mode the points are scrambled Sobol points mapped to the Gaussian. The distance from an
        i.i.d. sample to such a reference shows the error of the sample, hardly that of the
        reference. The points are not independent: do not use them as data.

        Parameters
        ----------
        n_samples : int, default=1
            Number of points; a mode gets none when its share of them rounds to zero.
        random_state : int, RandomState or None, default=None
            Seed of the scrambling and of the row order; None takes fresh entropy of the system.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            The points, in random order.
        labels : ndarray of shape (n_samples,)
            The mode of each point.

        Raises
        ------
        ValueError
            If `n_samples` is less than 1 or not an integer.

        References
        ----------
        .. [1] A. B. Owen, "Scrambled net variance for integrals of smooth functions",
           Annals of Statistics 25, 1997.

        Examples
        --------
        >>> import numpy as np
        >>> from skwgf.datasets import six_plus_two
        >>> X, labels = six_plus_two().stratified(1000, random_state=0)
        >>> np.bincount(labels)[-2:]
        array([25, 25])
        """
        check_parameters("GaussianMixtureSpec.stratified", n_samples=n_samples)
        return self._draw(n_samples, make_rng(random_state), stratified=True)

    def _draw(
        self, n: int, rng: np.random.Generator, *, stratified: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Share n points among the modes, draw each mode, shuffle the rows."""
        counts = draw_counts(self.weights, n, rng, stratified=stratified)
        roots = np.linalg.cholesky(self.covariances)
        modes = [
            center + draw_normals(int(count), self.n_features, rng, stratified=stratified) @ root.T
            for count, center, root in zip(counts, self.centers, roots, strict=True)
        ]
        order = rng.permutation(n)
        return np.concatenate(modes)[order], np.repeat(np.arange(self.n_modes), counts)[order]


def _check_shapes(
    weights: NDArray[np.float64], centers: NDArray[np.float64], covariances: NDArray[np.float64]
) -> None:
    """Raise ValueError unless the three arrays speak of the same modes and features."""
    if centers.ndim == 2 and centers.size:
        k, d = centers.shape
        if weights.shape == (k,) and covariances.shape == (k, d, d):
            return
    raise ValueError(
        "weights, centers and covariances must have the shapes (n_modes,), (n_modes, n_features) "
        "and (n_modes, n_features, n_features), got "
        f"{weights.shape}, {centers.shape} and {covariances.shape}."
    )


def _check_weights(weights: NDArray[np.float64]) -> None:
    """Raise ValueError unless the weights are positive and sum to 1 (to 1e-12)."""
    if (weights <= 0).any() or abs(weights.sum() - 1.0) > 1e-12:
        raise ValueError(
            f"weights must be positive and sum to 1, got {weights} with sum {weights.sum()}. "
            "Leave out empty modes and divide by the sum."
        )


def _check_covariances(covariances: NDArray[np.float64]) -> None:
    """Raise ValueError unless every matrix is symmetric and positive definite."""
    tolerance = 1e-10 * np.abs(covariances).max()
    if (np.abs(covariances - covariances.transpose(0, 2, 1)) > tolerance).any():
        raise ValueError("covariances must be symmetric. Average each matrix with its transpose.")
    smallest = np.linalg.eigvalsh(covariances)[:, 0]
    if (smallest <= 0).any():
        raise ValueError(
            f"covariances must be positive definite, but mode {int(smallest.argmin())} has the "
            f"eigenvalue {smallest.min():.3g}. Add a small multiple of the identity to it."
        )
