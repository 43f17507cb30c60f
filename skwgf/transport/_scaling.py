r"""The iterations behind :mod:`skwgf.transport.sinkhorn`, in the units of their kernels.

Anderson's extrapolation of the fixed-point iteration on the potential g of y needs about a tenth
of the plain iterations. Every tensor has a leading dimension of groups: independent problems of
the same size, each with its own extrapolation, that stop together.
"""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skwgf.transport._kernel import CrossKernel, SelfKernel
from skwgf.transport._tiles import Workspace

_WINDOW = 12  # iterates that the extrapolation combines
_RIDGE = 1e-12  # relative ridge of its least-squares problem
_FAR = 0.5  # marginal error above which plain steps are taken
_STRETCH, _MOST_PLAIN = 3.0, 8.0  # growth of plain steps, and how many may follow one another
_NEAR = 400.0  # largest cost, in bits, up to which a start from zero needs no coarser problem
_REFINEMENT = 4.0  # ratio of the regularisations of a cold start, at most
_LEVEL_TOL, _LEVEL_SWEEPS = 0.005, 100  # loose levels cost far more iterations in the end


class State(NamedTuple):
    """Potentials in bits, with the fixed-point residual and the marginal error they leave."""

    error: Tensor
    f: Tensor
    g: Tensor
    residual: Tensor


class Retreat(NamedTuple):
    """The plain steps that follow an extrapolation that did harm.

    There are twice as many after every further one, up to a bound, each longer than the one before
    while that does no harm either: between clusters far apart a potential has to drift by many
    bits, at a pace that no secant shows.
    """

    left: Tensor
    stretch: Tensor
    series: Tensor

    @classmethod
    def of(cls, error: Tensor) -> Retreat:
        """Return no retreat, for groups of some marginal `error`."""
        ones = torch.ones_like(error)
        return cls(torch.zeros_like(error), ones, ones)

    def after(self, harmful: Tensor, far: Tensor) -> Retreat:
        """Return what follows a step that was `harmful` in some groups, and `far` off in some."""
        left, stretch, series = self
        begins = harmful & (left == 0)
        longer = (left > 1) & ~harmful & ~far
        return Retreat(
            torch.where(begins, series, (left - 1).clamp_min(0)),
            torch.where(longer, _STRETCH * stretch, torch.ones_like(stretch)),
            torch.where(begins, (2 * series).clamp_max(_MOST_PLAIN), series),
        )


class Secants:
    """Anderson's extrapolation: the last moves of g and the turns of the residual they made."""

    def __init__(self, weights: Tensor, damping: float) -> None:
        shape = (len(weights), _WINDOW, weights.shape[1])
        self.root = weights.sqrt()
        self.damping = damping
        self.turns, self.moves = weights.new_zeros(shape), weights.new_zeros(shape)
        self.count = 0

    def add(self, move: Tensor, turn: Tensor) -> None:
        """Take in a pair, in the place of the oldest."""
        slot = self.count % _WINDOW
        self.turns[:, slot] = turn * self.root
        self.moves[:, slot] = move + self.damping * turn
        self.count += 1

    def forget(self, groups: Tensor) -> None:
        """Drop all pairs of some groups: those without a turn have no part in a step."""
        self.turns[groups] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state."""
        return {key: copy.deepcopy(value) for key, value in vars(self).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Secants:
        """Return secants in a state returned by `state_dict`."""
        secants = cls.__new__(cls)
        vars(secants).update(copy.deepcopy(state))
        return secants

    def correction(self, residual: Tensor) -> Tensor:
        """Return what the combination of past iterates of least residual adds to a damped step."""
        gram = self.turns @ self.turns.mT
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal += _RIDGE * diagonal.amax(1, keepdim=True) + torch.finfo(gram.dtype).tiny
        mix = torch.linalg.solve(gram, self.turns @ (residual * self.root)[..., None])
        correction: Tensor = -(mix.mT @ self.moves)[:, 0]
        return correction


def solve(
    kernel: CrossKernel | SelfKernel,
    g: Tensor,
    *,
    tol: float,
    max_iter: int,
    secants: Secants | None = None,
) -> tuple[State, int]:
    """Iterate from the potential `g` of y until the marginal error is at most `tol`.

    Returns the best iterate and the number of iterations. Its f makes the row marginal exact; the
    error is that of the columns. `secants` of an earlier, similar problem save iterations; they
    are renewed here.
    """
    secants = secants or Secants(kernel.weights, kernel.damping)
    best = last = _evaluated(kernel, g)
    retreat = Retreat.of(best.error)
    n_iter = 1
    while n_iter < max_iter and not bool((best.error <= tol).all()):
        far = last.error > _FAR
        plain = far | (retreat.left > 0)
        if bool(plain.any()):
            secants.forget(plain)
        length = torch.where(plain, kernel.plain_step * retreat.stretch, kernel.damping)[:, None]
        step = length * last.residual + secants.correction(last.residual)
        state = _evaluated(kernel, last.g + step)
        if n_iter == 1:  # inherited secants that gain little at once are worn out
            secants.forget(state.error > 0.5 * best.error)
        secants.add(state.g - last.g, state.residual - last.residual)
        safe = plain & (retreat.stretch == 1)
        harmful = ~(state.error <= 2 * best.error) & ~safe
        retreat = retreat.after(harmful, far)
        best = _chosen(state.error < best.error, state, best)
        last = _chosen(harmful, last, state)
        n_iter += 1
    return best, n_iter


def cold_start(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    power: int,
    tiled: bool,
    workspace: Workspace,
) -> Tensor:
    """Return a starting potential of y: zero, or the solution at a coarser regularisation.

    Mass then moves over long distances first. The coarsest problem is one that iterations from
    zero solve in a few sweeps.
    """
    g = torch.zeros_like(b)
    level = max(1.0, largest_cost(x, y, power) / _NEAR)
    n_levels = math.ceil(math.log(level, _REFINEMENT))
    ratio = level ** (1 / max(n_levels, 1))
    for k in range(n_levels, 0, -1):
        size = ratio ** (k / power)
        kernel = CrossKernel(
            *(x / size, y / size, a, b), power=power, tiled=tiled, workspace=workspace
        )
        state, _ = solve(kernel, g, tol=_LEVEL_TOL, max_iter=_LEVEL_SWEEPS)
        g = state.g * ratio
    return g


def largest_cost(x: Tensor, y: Tensor, power: int) -> float:
    """Return a bound, within a factor of four, on the largest cost between centred clouds."""
    norms = ((cloud * cloud).sum(dim=-1).max() for cloud in (x, y))
    return float(sum(norm if power == 2 else norm.sqrt() for norm in norms))


def _evaluated(kernel: CrossKernel | SelfKernel, g: Tensor) -> State:
    """Return the state at `g`."""
    f, residual = kernel.iterate(g)
    error = (kernel.weights * (torch.exp2(-residual) - 1).abs()).sum(1)
    return State(error, f, g, residual)


def _chosen(groups: Tensor, first: State, second: State) -> State:
    """Return the state that is `first` in some groups and `second` in the others."""
    rows = groups[:, None]
    return State(
        torch.where(groups, first.error, second.error),
        torch.where(rows, first.f, second.f),
        torch.where(rows, first.g, second.g),
        torch.where(rows, first.residual, second.residual),
    )
