"""Densities on a grid: of a target, and of particles on a torus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.special import i0e

from skwgf._tensor import to_numpy, to_tensor

# Shares of the mass that the regions of two dimensions hold.
MASSES = (0.99, 0.95, 0.8, 0.5, 0.2)
# Blank space around the particles, as a share of their range.
_MARGIN = 0.25


def mass_levels(
    density: NDArray[np.float64], masses: Sequence[float] = MASSES
) -> NDArray[np.float64]:
    """Return the increasing levels above which given shares of a density on a grid lie."""
    values = np.sort(density.ravel())[::-1]
    share = np.cumsum(values) / values.sum()
    levels: NDArray[np.float64] = np.unique(values[np.searchsorted(share, masses)])
    return levels


def von_mises_density(
    particles: NDArray[np.float64], grid: tuple[NDArray[np.float64], ...], bandwidth: float | None
) -> NDArray[np.float64]:
    """Return the density of particles on the torus at the points of a grid, by a product kernel."""
    n, d = particles.shape
    kernels = []
    for column, points in zip(particles.T, grid, strict=True):
        width = _half_scott(column, d) if bandwidth is None else bandwidth
        kappa = (2 * np.pi * width) ** -2
        cosines = np.cos(2 * np.pi * (points[:, None] - column))
        kernels.append(np.exp(kappa * (cosines - 1)) / i0e(kappa))
    density: NDArray[np.float64] = kernels[0].mean(axis=1) if d == 1 else kernels[0] @ kernels[1].T
    return density if d == 1 else density / n


def _half_scott(angles: NDArray[np.float64], d: int) -> float:
    """Return half of Scott's bandwidth, in turns."""
    resultant = abs(np.exp(2j * np.pi * angles).mean())
    spread = np.sqrt(-2 * np.log(np.clip(resultant, 1e-12, 1 - 1e-12))) / (2 * np.pi)
    return float(0.5 * min(spread, 12**-0.5) * len(angles) ** (-1 / (d + 4)))


def axis_limits(target: Any, particles: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return the ends of the axes: the circle, or the particles with a margin in the support."""
    support = target.support_
    if particles.shape[1] > 2:
        raise ValueError(
            f"DensityDisplay draws one or two columns, but the particles have "
            f"{particles.shape[1]}. FlowDisplay draws any number."
        )
    limits = []
    blocks = [block for block in support.blocks for _ in range(block.size)]
    for k, block in enumerate(blocks):
        if block.name == "torus":
            limits.append((0.0, 1.0))
            continue
        if block.name in ("simplex", "ordered"):
            raise ValueError(
                f"The columns of a support {block.name!r} are tied to each other, so that no "
                "rectangle holds them. FlowDisplay draws the particles alone."
            )
        low = {"positive": 0.0, "interval": block.low}.get(block.name, -np.inf)
        high = block.high if block.name == "interval" else np.inf
        if support.shift is not None:
            shift, scale = float(support.shift[k]), float(support.scale[k])
            low, high = shift + scale * low, shift + scale * high
        limits.append(_around(particles[:, k], low, high))
    return limits


def _around(column: NDArray[np.float64], low: float, high: float) -> tuple[float, float]:
    """Return the range of a column with a margin, strictly inside of its bounds."""
    size = float(np.ptp(column)) or 1.0
    inside = 1e-3 * size
    ends = column.min() - _MARGIN * size, column.max() + _MARGIN * size
    return (
        float(min(max(ends[0], low + inside), column.min())),
        float(max(min(ends[1], high - inside), column.max())),
    )


def grid_density(target: Any, grid: tuple[NDArray[np.float64], ...]) -> NDArray[np.float64]:
    """Return the density of a target on a grid, normalised by the trapezoidal rule."""
    points = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1).reshape(-1, len(grid))
    z = target.unconstrain(to_tensor(points, device=target.device_, dtype=target.dtype_))
    log_density = to_numpy(target.log_prob(z) - target.support_.constrain(z).log_jacobian)
    log_density = np.nan_to_num(log_density.astype(np.float64), nan=-np.inf, posinf=-np.inf)
    density = np.exp(log_density - log_density.max()).reshape(tuple(map(len, grid)))
    total = density
    for axis in reversed(range(len(grid))):
        total = trapezoid(total, grid[axis], axis=axis)
    normalised: NDArray[np.float64] = density / total
    return normalised
