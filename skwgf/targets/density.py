r"""A density learnt from data: the Gaussian kernel density estimate."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from skwgf._tensor import best_float, make_generator, to_numpy
from skwgf.targets._tiles import tile_rows
from skwgf.targets.base import (
    Device,
    Precision,
    Target,
    check_rows,
    is_number,
    standard_normal,
)
from skwgf.targets.support import Block, Support

__all__ = ["KernelDensityTarget", "likelihood_bandwidth"]

_N_SUBSET = 512
_N_BANDWIDTHS = 21


class KernelDensityTarget(Target):
    r"""The law of the rows of X, smoothed by a Gaussian kernel.

    .. math:: p(x) = \frac1N \sum_j \frac{1}{(2 \pi h^2)^{d/2}} \, e^{-|x - x_j|^2 / 2 h^2}

    Parameters
    ----------
    bandwidth : float or {"likelihood", "scott", "silverman"}, default="likelihood"
        The bandwidth h, in the units of X, or a rule. With s the root of the mean variance of the
        columns, "scott" is :math:`s N^{-1/(d+4)}` and "silverman"
        :math:`s (N (d + 2) / 4)^{-1/(d+4)}`: both are made for one bell and blur well separated
        modes. "likelihood" maximises the leave-one-out likelihood, see
        :func:`~skwgf.targets.density.likelihood_bandwidth`. A rule gives 1 where all rows are
        equal.

    Attributes
    ----------
    bandwidth_ : float
        The bandwidth used.

    n_dim_ : int
        Number of features.

    Raises
    ------
    ValueError
        At `fit`, if `bandwidth` is neither positive nor a rule.

    Notes
    -----
    With a minibatch of rows it is the density estimate of these rows alone.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import KernelDensityTarget
    >>> target = KernelDensityTarget(bandwidth=0.5).fit(np.array([[-1.0], [1.0]]))
    >>> target.grad_log_prob(torch.tensor([[0.0]], dtype=torch.float64))
    tensor([[0.]], dtype=torch.float64)
    >>> target.score_samples([[0.0]]).round(4)  # log(exp(-2) / sqrt(pi / 2))
    array([-2.2258])
    """

    learns_from_data: ClassVar[bool] = True

    def __init__(self, bandwidth: float | str = "likelihood") -> None:
        self.bandwidth = bandwidth

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Learn the law of the rows of X; y is ignored."""
        array = check_rows(X, self)
        n_rows, d = array.shape
        self._settle(
            Support((Block("real", d),)),
            follow=array.dtype,
            n_rows=n_rows,
            device=device,
            dtype=dtype,
        )
        self._center = self._tensor(array.mean(0))
        # Squared distances by products lose digits far from the origin.
        self._X = self._tensor(array - array.mean(0))
        self.bandwidth_ = self._find_bandwidth()
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of X, each before any is repeated, and add the noise of the kernel."""
        assert self.n_rows_ is not None
        device = generator.device
        rounds = -(-n // self.n_rows_)
        rows = torch.cat(
            [
                torch.randperm(self.n_rows_, generator=generator, device=device)
                for _ in range(rounds)
            ]
        )[:n].to(self.device_)
        noise = standard_normal(self, n, self.n_dim_, generator)
        return self._X[rows] + self._center + self.bandwidth_ * noise

    def score_samples(self, X: Any) -> NDArray[Any]:
        """Return the log density at the rows of X, an array of shape (n_samples,)."""
        z = self._tensor(check_rows(X, self, self.n_dim_))
        return to_numpy(self.log_prob(z))

    def _find_bandwidth(self) -> float:
        """Return the bandwidth that the parameter asks for."""
        rule: Any = self.bandwidth
        if not isinstance(rule, str):
            if not (is_number(rule) and 0 < rule < math.inf):
                raise ValueError(f"bandwidth must be positive and finite, got {rule!r}.")
            return float(rule)
        n, d = self._X.shape
        scale = float(self._X.square().mean().sqrt())
        # Equal rows are not zero after centring, only small.
        if scale <= 100 * torch.finfo(self._X.dtype).eps * float(self._center.abs().max()):
            scale = 0.0
        if rule == "likelihood":
            return likelihood_bandwidth(self._X)
        if rule in ("scott", "silverman"):
            count = n if rule == "scott" else n * (d + 2) / 4
            return scale * math.pow(count, -1 / (d + 4)) or 1.0
        raise ValueError(
            "bandwidth must be a positive number, 'likelihood', 'scott' or 'silverman', got "
            f"{rule!r}."
        )

    def _log_kernels(self, z: Tensor, centers: Tensor) -> Tensor:
        """Return -|z - x|^2 / 2 h^2 for centred points, of shape (n, rows)."""
        return squared_distances(z, centers) * (-0.5 / self.bandwidth_**2)

    def _pairs(self, z: Tensor, rows: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return tiles of the centred points, and the rows they are compared with."""
        centers = self._X if rows is None else self._X[rows]
        tiles = torch.split(z - self._center, tile_rows(len(centers), z.device))
        return tiles, centers

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        tiles, centers = self._pairs(z, rows)
        d = centers.shape[1]
        log_norm = math.log(len(centers)) + d * math.log(self.bandwidth_ * math.sqrt(2 * math.pi))
        sums = [self._log_kernels(tile, centers).logsumexp(1) for tile in tiles]
        return torch.cat(sums) - log_norm

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        tiles, centers = self._pairs(z, rows)
        pulls = [self._log_kernels(tile, centers).softmax(1) @ centers - tile for tile in tiles]
        return torch.cat(pulls) / self.bandwidth_**2


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2 for centred points, by one product; rounding never makes it negative."""
    squares = torch.addmm(x.square().sum(1, keepdim=True), x, y.T, alpha=-2)
    return (squares + y.square().sum(1)).clamp_min(0)


def likelihood_bandwidth(X: Tensor) -> float:
    r"""Return the bandwidth of the largest leave-one-out likelihood.

    .. math:: \max_h \; \sum_i \log \frac{1}{n_i} \sum_{j : x_j \neq x_i}
        \frac{1}{(2 \pi h^2)^{d/2}} \, e^{-|x_i - x_j|^2 / 2 h^2}

    The search is over h = s / 2^{k/4} for k = 0, ..., 20, where s is Scott's value. It runs on at
    most 512 rows, drawn by a fixed generator, and the result is scaled to the number of rows by
    :math:`N^{-1/(d+4)}`. Repeated rows do not count as neighbours of each other: with them the
    likelihood would have no maximum.

    Parameters
    ----------
    X : Tensor of shape (N, d)
        Centred rows.

    Returns
    -------
    float
        1.0 if all rows are equal.

    Examples
    --------
    >>> import torch
    >>> from skwgf.targets.density import likelihood_bandwidth
    >>> noise = torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    >>> modes = torch.tensor([[-10.0], [10.0]]).repeat(150, 1)
    >>> round(likelihood_bandwidth(modes + noise), 2)  # Scott's rule would give 3.2
    0.4
    """
    n, d = X.shape
    X = X.to(best_float(X.device))
    if n > _N_SUBSET:
        X = X[torch.randperm(n, generator=make_generator(0))[:_N_SUBSET].to(X.device)]
    m = len(X)
    scott = float((X - X.mean(0)).square().mean().sqrt()) * math.pow(m, -1 / (d + 4))
    squares = squared_distances(X, X)
    # Coincident rows, up to rounding: each row itself among them.
    apart = squares > 1e3 * torch.finfo(X.dtype).eps * X.square().sum(1).max()
    counts = apart.sum(1)
    if scott == 0 or not counts.any():
        return 1.0
    squares = squares.masked_fill(~apart, math.inf)[counts > 0]
    best, figure = scott, -math.inf
    for k in range(_N_BANDWIDTHS):
        h = scott * 2 ** (-k / 4)
        sums = (squares * (-0.5 / h**2)).logsumexp(1) - counts[counts > 0].log()
        likelihood = float(sums.mean()) - d * math.log(h)
        if likelihood > figure:
            best, figure = h, likelihood
    return best * math.pow(m / n, 1 / (d + 4))
