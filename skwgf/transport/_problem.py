"""Entropic problems in the unit of their cost: checked, scaled to bits, solved, scaled back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.transport._kernel import CrossKernel, SelfKernel
from skwgf.transport._scaling import Secants, State, cold_start, largest_cost, solve
from skwgf.transport._tiles import Workspace

# Largest cost, in bits of reg, whose rounding leaves the kernel right to about one percent; and
# least cost that is not lost in the rounding of a kernel near one, where float32 can be left.
_MOST_BITS = {torch.float32: 2.0**18, torch.float64: 2.0**46}
_LEAST_BITS = 2.0**-8
# Sweeps after which a narrow precision is taken for the reason that the tolerance is not met.
_PATIENCE = 200


@dataclass(frozen=True)
class Settings:
    """How problems are solved: the cost |x - y|^p / p, when to stop, and where the kernel lies."""

    p: int = 2
    tol: float = 1e-4
    max_iter: int = 1000
    tiled: bool = False

    def __post_init__(self) -> None:
        if self.max_iter < 1 or not self.tol >= 0:
            raise ValueError(
                "max_iter must be at least 1 and tol not negative, got "
                f"{self.max_iter!r} and {self.tol!r}."
            )
        if self.p not in (1, 2):
            raise ValueError(f"p must be 1 or 2, the cost |x - y|^p / p, got {self.p!r}.")


class Solution(NamedTuple):
    """Potentials in the unit of the cost, and the kernel in bits they were found with."""

    f: Tensor
    g: Tensor
    error: Tensor
    n_iter: int
    kernel: CrossKernel | SelfKernel
    bit: float

    def average(self, values: Tensor) -> Tensor:
        """Return the mean of `values`, of shape (k, m, q), given each point x."""
        return self.kernel.average(self.g / self.bit, values)


@torch.no_grad()
def solve_cross(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    reg: float,
    settings: Settings,
    *,
    init: Tensor | None = None,
    workspace: Workspace | None = None,
    secants: Secants | None = None,
) -> Solution:
    """Solve between groups of clouds, of shapes (k, n, d) and (k, m, d), from `init` or cold."""
    scaled_x, scaled_y = _resolved(x, y, reg, settings.p)
    problem = scaled_x, scaled_y, a, b
    options: dict[str, Any] = {
        "power": settings.p,
        "tiled": settings.tiled,
        "workspace": workspace or Workspace(),
    }
    g = cold_start(*problem, **options) if init is None else init / bit(reg)
    kernel = CrossKernel(*problem, **options)
    widest = best_float(x.device)
    most = settings.max_iter if scaled_x.dtype == widest else min(settings.max_iter, _PATIENCE)
    state, n_iter = solve(kernel, g, tol=settings.tol, max_iter=most, secants=secants)
    left = settings.max_iter - n_iter
    if left > 0 and not bool((state.error <= settings.tol).all()):
        # Between clusters far apart mass hangs on entries that a narrow kernel cuts.
        wide = x.to(widest), y.to(widest), a, b, reg, replace(settings, max_iter=left)
        solution = solve_cross(*wide, init=init, workspace=workspace)
        return solution._replace(n_iter=solution.n_iter + n_iter)
    return _solution(state, n_iter, kernel, reg)


@torch.no_grad()
def solve_self(
    x: Tensor,
    a: Tensor,
    reg: float,
    settings: Settings,
    *,
    init: Tensor | None = None,
    workspace: Workspace | None = None,
    secants: Secants | None = None,
) -> Solution:
    """Solve groups of clouds, of shape (k, n, d), each with itself."""
    x, _ = _resolved(x, x, reg, settings.p)
    if init is None:
        f = torch.zeros_like(a)
    else:  # no further off than the bounds of the solution, see SelfKernel
        lowest = -torch.log2(a.sqrt().sum(1, keepdim=True))
        f = torch.minimum(torch.maximum(init / bit(reg), lowest), -torch.log2(a) / 2)
    kernel = SelfKernel(
        *(x, a), power=settings.p, tiled=settings.tiled, workspace=workspace or Workspace()
    )
    state, n_iter = solve(kernel, f, tol=settings.tol, max_iter=settings.max_iter, secants=secants)
    # The mean of the potential and its soft minimum keeps the dual value of the pair.
    middle = (state.f + state.g) / 2
    return _solution(state._replace(f=middle, g=middle), n_iter, kernel, reg)


def bit(reg: float) -> float:
    """Return the unit of the iterations, in the unit of the cost."""
    return reg * math.log(2)


def in_bits(x: Tensor, y: Tensor, reg: float, p: int) -> tuple[Tensor, Tensor]:
    """Return groups of clouds, centred and scaled to costs in bits, in a precision that has them.

    The shapes are (k, n, d) and (k, m, d).
    """
    centre, size = y.mean(dim=1, keepdim=True), bit(reg) ** (1 / p)
    scaled_x, scaled_y = (x - centre) / size, (y - centre) / size
    widest = best_float(x.device)
    bits = largest_cost(scaled_x, scaled_y, p)
    if x.dtype != widest and not _LEAST_BITS <= bits <= _MOST_BITS[x.dtype]:
        return in_bits(x.to(widest), y.to(widest), reg, p)
    return scaled_x, scaled_y


def _resolved(x: Tensor, y: Tensor, reg: float, p: int) -> tuple[Tensor, Tensor]:
    """Return the clouds in bits, or raise a ValueError if no precision resolves `reg` on them."""
    if not 0 < reg < math.inf:
        raise ValueError(f"reg must be a positive, finite number, got {reg!r}.")
    x, y = in_bits(x, y, reg, p)
    bits = largest_cost(x, y, p)
    if not bits <= _MOST_BITS[x.dtype]:
        needed = bits / _MOST_BITS[x.dtype] * reg
        raise ValueError(
            f"reg={reg:.3g} is below what {x.dtype} resolves on clouds of this size: use at least "
            f"{needed:.3g} (.05 of the mean cost is common), or exact_plan for no regularisation."
        )
    return x, y


def _solution(state: State, n_iter: int, kernel: CrossKernel | SelfKernel, reg: float) -> Solution:
    """Return a state in the unit of the cost."""
    unit = bit(reg)
    return Solution(state.f * unit, state.g * unit, state.error, n_iter, kernel, unit)
