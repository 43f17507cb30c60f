r"""How far to go along a direction: searches that never let the energy rise, up to rounding.

Products of fields are those of :math:`L^2(\mu)`, :math:`\langle g, d \rangle = \frac1n \sum_i g_i
\cdot d_i`. A trial whose energy is NaN or infinite counts as too long.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skwgf.flows.carriers import rms

__all__ = ["armijo", "escape", "inner", "newton_search", "polish"]

Energy = Callable[[Tensor], float]
Gradient = Callable[[Tensor], Tensor]

# Share of the decrease that the first-order or second-order model promises.
_FIRST_ORDER, _SECOND_ORDER = 1e-4, 0.25
_MOST_TRIALS = 50
# A polishing step has to divide the gradient by that.
_POLISH = 2.0


def inner(a: Tensor, b: Tensor) -> float:
    """Return the product of two fields of shape (n, d)."""
    return float((a * b).sum(1).mean())


def armijo(
    energy: Energy, x: Tensor, start: float, d: Tensor, slope: float, step: float, noise: float
) -> tuple[Tensor, float] | None:
    """Return the first x - t d with a fair share of the decrease, and t; None if there is none.

    t starts at `step`. `start` is the energy at x, `slope` the product of gradient and d, and
    decreases below `noise` cannot be seen.
    """
    t = step
    for _ in range(_MOST_TRIALS):
        if not t * slope > noise:
            return None
        trial = x - t * d
        value = energy(trial)
        if value <= start - _FIRST_ORDER * t * slope:
            return trial, t
        t *= _shortened(value - start, t * slope)
    return None


def polish(
    energy: Energy,
    gradient: Gradient,
    x: Tensor,
    start: float,
    d: Tensor,
    g: Tensor,
    step: float,
    noise: float,
) -> tuple[Tensor, float] | None:
    """Return x - step d and step if only the gradient changes there, and becomes much smaller.

    Close to a minimum the energy is flat to the last digit long before the gradient vanishes.
    """
    trial = x - step * d
    if energy(trial) <= start + noise and _POLISH * rms(gradient(trial)) <= rms(g):
        return trial, step
    return None


def newton_search(
    gradient: Gradient, x: Tensor, g: Tensor, d: Tensor, step: float
) -> tuple[Tensor, float] | None:
    """Return the first x - t d with a smaller gradient, and t; None if there is none.

    Along Newton's direction the norm of the gradient falls, whereas the energy may rise.
    """
    t = step
    for _ in range(_MOST_TRIALS):
        trial = x - t * d
        norm = rms(gradient(trial))
        if norm < (1 - _FIRST_ORDER * t) * rms(g):
            return trial, t
        t *= 0.5
    return None


def escape(
    energy: Energy, x: Tensor, start: float, u: Tensor, curvature: float, step: float, noise: float
) -> Tensor | None:
    """Return a point on the line x + t u, both ways, with a fair share of the decrease.

    `curvature` is that along u, which is negative; t starts at `step`. None if there is none.
    """
    t = step
    for _ in range(_MOST_TRIALS):
        promised = -0.5 * t * t * curvature
        if not promised > noise:
            return None
        for trial in (x + t * u, x - t * u):
            if energy(trial) <= start - _SECOND_ORDER * promised:
                return trial
        t *= 0.5
    return None


def limited(d: Tensor, step: float, max_step: float | None) -> Tensor:
    """Return d, shortened where `step` times it would move some particle by more than max_step."""
    if max_step is None:
        return d
    longest = step * float(torch.linalg.vector_norm(d, dim=1).amax())
    return d * min(1.0, max_step / longest) if longest > 0 else d


def _shortened(rise: float, slope: float) -> float:
    """Return what to multiply a step by: to a parabola's minimum, from a tenth to a half."""
    if not math.isfinite(rise):
        return 0.25
    return min(max(0.5 * slope / (rise + slope), 0.1), 0.5)
