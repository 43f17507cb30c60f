"""Figures of what a sample is like: its modes, its likeness to other rows, its copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import chi2
from sklearn.neighbors import NearestNeighbors

from skwgf._tensor import draw_seed, tensor_to_array
from skwgf.metrics._checks import check_positive, check_samples


@dataclass(frozen=True)
class ModeCoverage:
    """How a sample is spread over known modes; returned by :func:`mode_coverage`.

    Parameters
    ----------
    mass : array of shape (k,)
        Share of all rows that lie on each mode. With `off_mode` the sum is one.
    off_mode : float
        Share of the rows on no mode.
    eigenvalue_ratios : array of shape (k, d)
        Eigenvalues of the covariance of the rows on each mode over the true variance scale^2, in
        falling order. One is right, below is too narrow. NaN for a mode of fewer than two rows.
    trace_ratios : array of shape (k,)
        Their mean over the d directions.

    Examples
    --------
    >>> from skwgf.metrics import mode_coverage
    >>> coverage = mode_coverage([[0.0], [0.1], [4.0], [9.0]], centers=[[0.0], [4.0]], scale=0.1)
    >>> coverage.mass, coverage.off_mode
    (array([0.5 , 0.25]), 0.25)
    """

    mass: NDArray[np.float64]
    off_mode: float
    eigenvalue_ratios: NDArray[np.float64]
    trace_ratios: NDArray[np.float64]


def mode_coverage(X: Any, centers: Any, scale: Any, *, n_sd: float = 4.0) -> ModeCoverage:
    r"""Mass and shape of a sample on the isotropic Gaussian modes of a known mixture.

    A row belongs to the centre that is nearest in units of the mode's scale, and lies on that mode
    when its distance is at most

    .. math:: \text{scale} \, \sqrt{F_d^{-1}(1 - e^{-n_{sd}^2/2})},

    with :math:`F_d` the chi-squared law of d degrees of freedom. In the plane this is
    n_sd * scale, and in every dimension an exact mode leaves the same share
    :math:`e^{-n_{sd}^2/2}` of its rows outside (.0003 at the default). A fixed multiple of the
    scale would not do: in high dimension nearly all of a mode lies beyond it.

    Parameters
    ----------
    X : array-like or Tensor of shape (n, d)
        Sample to judge.
    centers : array-like of shape (k, d)
        Means of the modes.
    scale : float or array-like of shape (k,)
        Standard deviation of the modes along each axis.
    n_sd : float, default=4.0
        Radius of a mode in the plane, in standard deviations.

    Returns
    -------
    ModeCoverage
        `mass`, `off_mode`, `eigenvalue_ratios` and `trace_ratios`.

    Raises
    ------
    ValueError
        If the shapes do not fit, or `scale` or `n_sd` is not positive.

    Notes
    -----
    Read mass and ratios together: a method that shrinks the modes has a perfect mass. With n rows
    on a mode the trace ratio of an exact sample scatters by :math:`\sqrt{2 / (n d)}`.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.metrics import mode_coverage
    >>> rng = np.random.default_rng(0)
    >>> centers = np.array([[0.0, 0.0], [10.0, 0.0]])
    >>> X = np.repeat(centers, 500, axis=0) + 0.5 * rng.normal(size=(1000, 2))
    >>> coverage = mode_coverage(X, centers, scale=0.5)
    >>> coverage.mass
    array([0.5, 0.5])
    >>> bool(np.all(abs(coverage.trace_ratios - 1) < 0.15))
    True
    """
    X, centers = check_samples(X=X, centers=centers)
    k, d = centers.shape
    scales = np.asarray(tensor_to_array(scale), dtype=np.float64)
    if scales.shape not in ((), (k,)) or not ((scales > 0) & np.isfinite(scales)).all():
        raise ValueError(
            f"scale must be a positive number or one for each of the {k} centers, got {scale!r}."
        )
    scales = np.broadcast_to(scales, (k,))
    radius = chi2.isf(np.exp(-(check_positive(n_sd, "n_sd") ** 2) / 2), d) ** 0.5
    distances = cdist(X, centers) / scales
    nearest = distances.argmin(axis=1)
    nearest[distances.min(axis=1) > radius] = k  # the class of the rows on no mode
    mass = np.bincount(nearest, minlength=k + 1) / len(X)
    ratios = np.stack([_variances(X[nearest == j]) / scales[j] ** 2 for j in range(k)])
    return ModeCoverage(
        mass=mass[:k],
        off_mode=float(mass[k]),
        eigenvalue_ratios=ratios,
        trace_ratios=ratios.mean(axis=1),
    )


def two_sample_accuracy(
    X: Any, Y: Any, *, random_state: int | np.random.RandomState | None = None
) -> float:
    r"""Accuracy of telling two samples apart by the nearest other row.

    Both samples are pooled in equal counts, and each row is given the label of its nearest
    neighbour among all others (leave-one-out 1-NN). Columns count in their own units.

    Parameters
    ----------
    X : array-like or Tensor of shape (n, d)
        First sample.
    Y : array-like or Tensor of shape (m, d)
        Second sample, of rows that the maker of `X` has not seen.
    random_state : int, RandomState or None, default=None
        Draws the rows of the larger sample that take part; not used for equal counts.

    Returns
    -------
    float
        About .5 when the laws are equal, with a standard deviation below
        :math:`1 / \sqrt{4 \min(n, m)}`, towards 1 when they differ; well below .5 when rows of
        one sample are copies of rows of the other.

    Raises
    ------
    ValueError
        If the samples are not as described or one of them has fewer than two rows.

    References
    ----------
    D. Lopez-Paz, M. Oquab, "Revisiting classifier two-sample tests", ICLR 2017, arXiv 1610.06545.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.metrics import two_sample_accuracy
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> two_sample_accuracy(X, X + 100.0)
    1.0
    """
    X, Y = check_samples(X=X, Y=Y)
    size = min(len(X), len(Y))
    if size < 2:
        raise ValueError(f"Both samples need at least two rows, got {len(X)} and {len(Y)}.")
    rng = np.random.default_rng(draw_seed(random_state))
    pooled = np.concatenate(
        [Z if len(Z) == size else Z[rng.choice(len(Z), size, replace=False)] for Z in (X, Y)]
    )
    labels = np.arange(2 * size) < size
    neighbors = NearestNeighbors(n_neighbors=1).fit(pooled).kneighbors(return_distance=False)[:, 0]
    return float((labels[neighbors] == labels).mean())


def neighbor_distance_ratio(generated: Any, train: Any, test: Any) -> float:
    """Median distance to the nearest training row, of generated rows over that of test rows.

    Parameters
    ----------
    generated : array-like or Tensor of shape (n, d)
        Rows to judge.
    train : array-like or Tensor of shape (m, d)
        Rows that the generator has seen.
    test : array-like or Tensor of shape (q, d)
        Rows of the same law that it has not seen.

    Returns
    -------
    float
        About 1 for new draws of the law; below 1 when generated rows lie closer to training rows
        than they should, 0 for copies; above 1 for rows off the law.

    Raises
    ------
    ValueError
        If the samples are not as described, or at least half of the test rows are training rows.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.metrics import neighbor_distance_ratio
    >>> rows = np.random.default_rng(0).normal(size=(300, 2))
    >>> neighbor_distance_ratio(rows[:50], train=rows[:200], test=rows[200:])
    0.0
    """
    generated, train, test = check_samples(generated=generated, train=train, test=test)
    index = NearestNeighbors(n_neighbors=1).fit(train)
    ours, theirs = (
        # From differences: the search's own distances of copies are not exactly zero.
        np.median(
            np.linalg.norm(Z - train[index.kneighbors(Z, return_distance=False)[:, 0]], axis=1)
        )
        for Z in (generated, test)
    )
    if theirs == 0:
        raise ValueError(
            "At least half of the rows of test are rows of train, which leaves no distance to "
            "compare with: pass held-out rows."
        )
    return float(ours / theirs)


def _variances(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return the eigenvalues of the covariance in falling order, NaN for fewer than two rows."""
    if len(rows) < 2:
        return np.full(rows.shape[1], np.nan)
    spectrum: NDArray[np.float64] = np.linalg.eigvalsh(np.atleast_2d(np.cov(rows.T)))[::-1]
    return np.maximum(spectrum, 0.0)
