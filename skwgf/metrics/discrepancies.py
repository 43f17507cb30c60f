"""Distances between the laws of two samples: arrays or tensors in, one number out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skwgf._tensor import best_float, draw_seed, is_tensor, resolve_dtype, to_numpy, to_tensor
from skwgf.metrics._checks import check_positive, check_samples, check_weights
from skwgf.transport.cost import check_power, half_squared_distance
from skwgf.transport.exact import exact_plan, quantile_coupling
from skwgf.transport.sinkhorn import sinkhorn_divergence as _sinkhorn_divergence

_TILE_ROWS = 512
_SUBSET_ROWS = 512  # rows of each sample that the median heuristic reads
_MARGINAL_TOL = {torch.float32: 1e-5, torch.float64: 1e-6}


def wasserstein_distance(
    X: Any, Y: Any, *, p: float = 2.0, weights_X: Any = None, weights_Y: Any = None
) -> float:
    r"""Exact Wasserstein distance between two weighted samples.

    .. math:: W_p(X, Y) = \Big(\min_P \sum_{ij} P_{ij} |x_i - y_j|^p\Big)^{1/p}

    The minimum is over the plans P with the weights as marginals. One column is solved by sorting,
    more by the network simplex, with memory for n times m numbers.

    Parameters
    ----------
    X : array-like or Tensor of shape (n, d)
        First sample.
    Y : array-like or Tensor of shape (m, d)
        Second sample.
    p : float, default=2.0
        Order of the distance, at least 1.
    weights_X, weights_Y : array-like of shape (n,) and (m,), default=None
        Non-negative weights, normalised to sum one; None gives equal weights.

    Returns
    -------
    float
        The distance, in the unit of the columns.

    Raises
    ------
    ValueError
        If the samples, the weights or `p` are not as described.

    Notes
    -----
    Two samples of one law are not at distance zero: in d > 4 dimensions the distance between two
    samples of n rows falls no faster than :math:`n^{-1/d}`. Compare with the figure for two real
    samples of the same size.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.metrics import wasserstein_distance
    >>> X = np.random.default_rng(0).normal(size=(50, 2))
    >>> round(wasserstein_distance(X, X + [3.0, 4.0]), 6)
    5.0
    """
    check_power(p)
    X, Y = check_samples(X=X, Y=Y)
    (x, a), (y, b) = _support(X, weights_X, "weights_X"), _support(Y, weights_Y, "weights_Y")
    if x.shape[1] > 1:
        plan = exact_plan(x, y, weights_x=a, weights_y=b, p=p)
        return float((p * plan.cost) ** (1 / p))
    (x, order_x), (y, order_y) = torch.sort(x[:, 0]), torch.sort(y[:, 0])
    rows, cols, mass = quantile_coupling(a[order_x], b[order_y])
    return float((mass @ (x[rows] - y[cols]).abs() ** p) ** (1 / p))


def sinkhorn_divergence(
    X: Any, Y: Any, *, reg: float | None = None, weights_X: Any = None, weights_Y: Any = None
) -> float | Tensor:
    r"""Sinkhorn divergence between two weighted samples, for the cost :math:`|x - y|^2/2`.

    .. math:: S(X, Y) = OT(X, Y) - OT(X, X)/2 - OT(Y, Y)/2,

    where OT is the transport cost plus `reg` times the Kullback-Leibler divergence of the plan
    from the product measure. It goes from half the squared Wasserstein distance, for small `reg`,
    to half the squared distance of the means, for large `reg`, and vanishes between equal laws
    only.

    Parameters
    ----------
    X : array-like or Tensor of shape (n, d)
        First sample.
    Y : array-like or Tensor of shape (m, d)
        Second sample.
    reg : float, default=None
        Regularisation in the unit of the cost. None takes .05 of the mean cost between `X` and
        `Y`, which changes with the samples: fix `reg` to compare figures. In the gradient it
        counts as a constant.
    weights_X, weights_Y : array-like of shape (n,) and (m,), default=None
        Non-negative weights, normalised to sum one; None gives equal weights.

    Returns
    -------
    float or Tensor
        A float for arrays. When `X` or `Y` is a torch tensor, a scalar tensor on its device,
        differentiable once in the tensors.

    Raises
    ------
    ValueError
        If the samples or the weights are not as described, or `reg` is not positive or too small
        for the precision of the samples.

    Warns
    -----
    ConvergenceWarning
        If the iterations end above a marginal error of 1e-6 (1e-5 for float32 samples).

    References
    ----------
    J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré, "Interpolating between
    optimal transport and MMD using Sinkhorn divergences", AISTATS 2019, arXiv 1810.08278.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.metrics import sinkhorn_divergence
    >>> X = np.random.default_rng(0).normal(size=(50, 2))
    >>> round(sinkhorn_divergence(X, X + [3.0, 4.0], reg=0.5), 3)
    12.5
    """
    arrays = check_samples(X=X, Y=Y)
    tensors = [Z for Z in (X, Y) if is_tensor(Z)]
    device = tensors[0].device if tensors else torch.device("cpu")
    dtype = resolve_dtype(None, np.result_type(*arrays), device)
    # Tensors stay themselves, so that the gradient reaches them.
    sources = [Z if is_tensor(Z) else array for Z, array in zip((X, Y), arrays, strict=True)]
    x, a = _support(sources[0], weights_X, "weights_X", dtype, device)
    y, b = _support(sources[1], weights_Y, "weights_Y", dtype, device)
    if reg is None:
        reg = 0.05 * _mean_cost(x, y, a, b) or 1.0
    tol = _MARGINAL_TOL[dtype]
    value = _sinkhorn_divergence(x, y, reg, weights_x=a, weights_y=b, tol=tol)
    return value if tensors else float(value)


def sliced_wasserstein(
    X: Any,
    Y: Any,
    *,
    p: float = 2.0,
    n_projections: int = 200,
    random_state: int | np.random.RandomState | None = 0,
) -> float:
    r"""Sliced Wasserstein distance between two samples.

    .. math:: SW_p(X, Y) = \Big(\frac{1}{L} \sum_{l=1}^{L}
        W_p(\langle X, \theta_l\rangle, \langle Y, \theta_l\rangle)^p\Big)^{1/p}

    over L random directions :math:`\theta_l` of the unit sphere.

    Parameters
    ----------
    X : array-like or Tensor of shape (n, d)
        First sample.
    Y : array-like or Tensor of shape (m, d)
        Second sample.
    p : float, default=2.0
        Order of the distance, at least 1.
    n_projections : int, default=200
        Number of directions L; the figure scatters by about :math:`L^{-1/2}` of itself between
        draws of the directions.
    random_state : int, RandomState or None, default=0
        Draws the directions. The default gives the same directions at every call.

    Returns
    -------
    float
        The distance, in the unit of the columns. For p = 2 a shift s counts as
        :math:`|s| / \sqrt d` on average.

    Raises
    ------
    ValueError
        If the samples, `p` or `n_projections` are not as described.

    References
    ----------
    N. Bonneel, J. Rabin, G. Peyré, H. Pfister, "Sliced and Radon Wasserstein barycenters of
    measures", J. Math. Imaging Vis. 51, 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf.metrics import sliced_wasserstein
    >>> X = np.random.default_rng(0).normal(size=(50, 1))
    >>> round(sliced_wasserstein(X, X + 2.0), 6)
    2.0
    """
    check_power(p)
    if n_projections < 1:
        raise ValueError(f"n_projections must be at least 1, got {n_projections!r}.")
    X, Y = check_samples(X=X, Y=Y)
    X, Y = X.astype(np.float64, copy=False), Y.astype(np.float64, copy=False)
    normals = np.random.default_rng(draw_seed(random_state)).normal(
        size=(n_projections, X.shape[1])
    )
    directions = normals / np.linalg.norm(normals, axis=1, keepdims=True)
    # The quantile plan depends on the counts alone: one serves every direction.
    levels = (torch.full((len(Z),), 1.0 / len(Z), dtype=torch.float64) for Z in (X, Y))
    rows, cols, mass = (to_numpy(part) for part in quantile_coupling(*levels))
    total = 0.0
    for block in np.array_split(directions, -(-n_projections // 32)):
        x, y = np.sort(block @ X.T, axis=1), np.sort(block @ Y.T, axis=1)
        total += float((np.abs(x[:, rows] - y[:, cols]) ** p @ mass).sum())
    return float((total / n_projections) ** (1 / p))


def mmd(X: Any, Y: Any, *, bandwidth: float | None = None) -> float:
    r"""Maximum mean discrepancy between two samples, for a Gaussian kernel.

    .. math:: MMD^2(X, Y) = \overline{k(x, x')} - 2\, \overline{k(x, y)} + \overline{k(y, y')},
        \quad k(x, y) = \exp\big(-|x - y|^2 / (2\, \text{bandwidth}^2)\big),

    with means over all pairs, those of a row with itself included: the biased estimate, which is
    the distance between the two empirical laws. The root is returned.

    Parameters
    ----------
    X : array-like or Tensor of shape (n, d)
        First sample.
    Y : array-like or Tensor of shape (m, d)
        Second sample.
    bandwidth : float, default=None
        Standard deviation of the kernel, in the unit of the columns. None takes the median
        distance between the rows of a subset of both samples together, of at most 512 rows of
        each at even spacing: fix it to compare figures.

    Returns
    -------
    float
        Between 0 (equal samples only) and the square root of 2. For two samples of n rows of one
        law the mean of its square is below 2/n.

    Raises
    ------
    ValueError
        If the samples are not as described or `bandwidth` is not positive.

    References
    ----------
    A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf, A. Smola, "A kernel two-sample test",
    JMLR 13, 2012.

    Examples
    --------
    >>> from skwgf.metrics import mmd
    >>> round(mmd([[0.0]], [[1.0]], bandwidth=1.0) ** 2, 4)
    0.7869
    """
    X, Y = check_samples(X=X, Y=Y)
    x, y = (to_tensor(Z, dtype=torch.float64) for Z in (X, Y))
    width = _median_distance(x, y) if bandwidth is None else check_positive(bandwidth, "bandwidth")
    squared = _mean_kernel(x, x, width) - 2 * _mean_kernel(x, y, width) + _mean_kernel(y, y, width)
    return float(max(squared, 0.0) ** 0.5)


def _support(
    X: Any,
    weights: Any,
    name: str,
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the rows of positive weight and their weights; a tensor keeps its graph."""
    masses = check_weights(weights, len(X), name)
    kept = np.flatnonzero(masses)
    cloud = X.to(device, dtype) if is_tensor(X) else to_tensor(X, device=device, dtype=dtype)
    if len(kept) < len(masses):
        cloud = cloud[to_tensor(kept, device=device)]
    return cloud, to_tensor(masses[kept], device=device, dtype=best_float(cloud.device))


def _mean_cost(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> float:
    """Return the mean of |x - y|^2/2 over independent rows of the weighted clouds."""
    x, y = x.detach().to(a.dtype), y.detach().to(b.dtype)
    mean_x, mean_y = a @ x, b @ y
    spread = a @ ((x - mean_x) ** 2).sum(dim=1) + b @ ((y - mean_y) ** 2).sum(dim=1)
    return float(spread + ((mean_x - mean_y) ** 2).sum()) / 2


def _mean_kernel(x: Tensor, y: Tensor, bandwidth: float) -> float:
    """Return the mean of the Gaussian kernel over all pairs, a row tile at a time."""
    total = 0.0
    for rows in torch.split(x, _TILE_ROWS):
        exponent = half_squared_distance(rows, y).div_(-(bandwidth**2))
        # Cut far below the rounding of the mean: exp is slow where it underflows.
        total += float(exponent.clamp_min_(-80.0).exp_().sum())
    return total / (len(x) * len(y))


def _median_distance(x: Tensor, y: Tensor) -> float:
    """Return the median positive distance in an evenly spaced subset, or 1 if there is none."""
    pooled = torch.cat([z[:: -(-len(z) // _SUBSET_ROWS)] for z in (x, y)])
    distances = torch.pdist(pooled)
    positive = distances[distances > 0]
    return float(positive.median()) if len(positive) else 1.0
