"""Coordinates in which generators are trained, and the map back to the units of the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from skwgf._tensor import best_float, to_tensor
from skwgf.nn import PushForward


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of order one: `(x - shift) / scale`, column by column."""

    shift: Tensor
    scale: Tensor
    constant: Tensor

    def apply(self, X: NDArray[Any]) -> Tensor:
        """Return the rows of X in these coordinates, in float64 on the CPU."""
        return (to_tensor(X, dtype=torch.float64) - self.shift) / self.scale

    def undo(self, x: Tensor) -> Tensor:
        """Return rows in these coordinates in the units of the data, in float64 on the CPU."""
        return self.shift + self.scale * x.to("cpu", torch.float64)


def fit_coordinates(X: NDArray[Any], *, standardize: bool = False) -> Coordinates:
    """Return coordinates in which X is centred, with a mean squared entry of one.

    One scale for all columns keeps the geometry, and with it the optimal plan, of the data; with
    `standardize` each column has its own. Constant columns count for nothing. Squares are taken
    after a division by the largest entry, so that data of any size is welcome.
    """
    rows = to_tensor(X, dtype=torch.float64)
    first = rows[0]
    constant = (rows == first).all(0)
    size = rows.abs().amax(0)
    if not standardize:
        size = size.amax().expand_as(size)
    size = torch.where(size > 0, size, 1.0)
    rows = rows / size
    center = rows.mean(0)
    spread = torch.where(constant, 0.0, rows - center).square().mean(0)
    if not standardize:
        spread = (spread.sum() / max(int((~constant).sum()), 1)).expand_as(spread)
    scale = size * spread.sqrt()
    shift = torch.where(constant, first, center * size)
    return Coordinates(shift, torch.where(scale > 0, scale, 1.0), constant)


def normal_points(n: int, d: int, seed: int) -> Tensor:
    """Return n scrambled Sobol points of N(0, I_d): spread more evenly than random draws."""
    engine = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
        d, scramble=True, seed=seed
    )
    points: Tensor = torch.special.ndtri(engine.draw(n).double().clamp(1e-6, 1 - 1e-6))
    return points


def push_forward(
    core: torch.nn.Module,
    coordinates: Coordinates,
    *,
    n_inputs: int,
    residual: bool,
    device: torch.device,
    low: Tensor | None = None,
    high: Tensor | None = None,
) -> PushForward:
    """Return the map in the units of the data, for float64 where the device has it.

    Of the `n_inputs` columns the first are in the units of the data with `residual`; the others
    are read as they are.
    """
    in_shift = torch.zeros(n_inputs, dtype=torch.float64)
    in_scale = torch.ones(n_inputs, dtype=torch.float64)
    if residual:
        d = len(coordinates.shift)
        in_shift[:d], in_scale[:d] = coordinates.shift, coordinates.scale
    module = PushForward(
        core,
        in_shift=in_shift,
        in_scale=in_scale,
        out_shift=coordinates.shift,
        out_scale=torch.where(coordinates.constant, 0.0, coordinates.scale),
        residual=residual,
        low=low,
        high=high,
    )
    return module.to(device=device, dtype=best_float(device)).requires_grad_(False).eval()
