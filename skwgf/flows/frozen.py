r"""A flow as a map: its steps kept as functions, and the density that they carry along.

A step :math:`T(x) = x + \tau v(x)` takes a density q to :math:`q(T(x)) = q(x) \,/\, |\det(I + \tau
\nabla v(x))|`, of which :math:`\log q - \tau \operatorname{div} v` is the first order. Points drawn
afresh from the law that a flow started with, and taken along its steps, are independent draws of a
law whose density is known: what importance sampling of the target asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from skwgf.flows.regularizers import Regularizer
from skwgf.flows.whitened import CautiousEuler

if TYPE_CHECKING:
    from skwgf.flows.carriers import VelocityField

__all__ = ["FlowMap", "FrozenVelocity", "RecordingStepper", "TrackedDraws"]

# Jacobians that are held in memory at a time.
_BLOCK = 2**22


def shorten(rows: Tensor, limit: float) -> Tensor:
    """Shorten the rows that are longer than a limit to it."""
    if math.isinf(limit):
        return rows
    lengths = rows.square().sum(-1, keepdim=True).clamp(min=1e-30).sqrt()
    return torch.where(lengths > limit, rows * (limit / lengths), rows)


@dataclass(frozen=True, eq=False)
class FrozenVelocity:
    """The velocity of one call of a residual flow, as a function of any points.

    Attributes
    ----------
    center : Tensor of shape (d,)
    root : Tensor of shape (d, d)
        The network's coordinates are z = root^-1 (x - center).

    field : callable
        What the network gives at z, (n, d) to (n, d).

    cost : Regularizer
        The cost g.

    direct : bool
        Whether the network gives velocities, not residuals.

    raw : bool
        Whether g measures velocities in the coordinates of x, not in the network's.

    longest, fastest : float
        Lengths that residuals, and velocities in the network's coordinates, are cut to.
    """

    center: Tensor
    root: Tensor
    field: Callable[[Tensor], Tensor]
    cost: Regularizer
    direct: bool
    raw: bool
    longest: float
    fastest: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return the velocity at points x (n, d), differentiable in them."""
        z = torch.linalg.solve_triangular(self.root, (x - self.center).T, upper=False).T
        return self.velocity(shorten(self.residual(self.field(z)), self.longest))

    def residual(self, output: Tensor) -> Tensor:
        """Return r, in the coordinates of g, from what the network gives."""
        if self.direct:
            return self.cost.gradient(output @ self.root.T if self.raw else output)
        if not self.raw:
            return output
        raw: Tensor = torch.linalg.solve_triangular(self.root, output, upper=False, left=False)
        return raw

    def velocity(self, residual: Tensor) -> Tensor:
        """Return the velocity, in the coordinates of x, of a residual in those of g."""
        velocity = self.cost.conjugate_gradient(residual)
        if self.raw:
            if math.isinf(self.fastest):
                return velocity
            velocity = torch.linalg.solve_triangular(self.root, velocity.T, upper=False).T
        return shorten(velocity, self.fastest) @ self.root.T


class Freezing(Protocol):
    """A velocity field that can hand out its last velocity as a function."""

    def freeze(self) -> FrozenVelocity:
        """Return the velocity of the last call."""


class RecordingStepper:
    """Cautious steps that are kept, those that are undone left out.

    Parameters
    ----------
    field : Freezing
        Whose velocities are kept, after every call.

    Attributes
    ----------
    steps : list of (FrozenVelocity, float)
        Velocities, and the flow time each of them was followed for.
    """

    def __init__(self, field: Freezing) -> None:
        self.field = field
        self.stepper = CautiousEuler()
        self.steps: list[tuple[FrozenVelocity, float]] = []

    def __call__(
        self, field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Return the moved points, and the energy of the points that they were moved from."""
        before = self.stepper.kept
        moved, energy = self.stepper(field, x, step_size, side)
        if self.stepper.kept is before:
            # A step that was undone is taken again, shorter, along the velocity it began with.
            velocity = self.steps.pop()[0]
        elif torch.equal(moved, x):  # the field lets the cloud rest, whatever it has learnt
            return moved, energy
        else:
            velocity = self.field.freeze()
        self.steps.append((velocity, step_size * self.stepper.factor))
        return moved, energy

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the steps, and the steps so far."""
        return {"stepper": self.stepper.state_dict(), "steps": list(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.stepper.load_state_dict(state["stepper"])
        self.steps = list(state["steps"])


class TrackedDraws(NamedTuple):
    """Independent draws of the law that a flow ended with.

    Attributes
    ----------
    x : Tensor of shape (n, d)
        The draws.

    log_prob : Tensor of shape (n,)
        The logarithm of their density.

    folds : int
        Number of draws at which a step turned the space over, so that it is not one to one: the
        density there is that of one branch alone.
    """

    x: Tensor
    log_prob: Tensor
    folds: int


@dataclass(frozen=True, eq=False)
class FlowMap:
    """A Gaussian law, and the steps that it was taken along.

    Attributes
    ----------
    mean : Tensor of shape (d,)
    root : Tensor of shape (d, d)
        The law at the start is that of mean + root xi, xi standard normal; lower triangular.

    steps : tuple of (callable, float)
        Velocities, functions of points (n, d), and flow times.

    Examples
    --------
    One step that shrinks N(0, 1) to half:

    >>> import torch
    >>> from skwgf.flows.frozen import FlowMap
    >>> flow = FlowMap(torch.zeros(1), torch.eye(1), ((lambda x: -x, 0.5),))
    >>> x, log_prob, folds = flow.draw(3, torch.Generator().manual_seed(0))
    >>> torch.allclose(log_prob, torch.distributions.Normal(0.0, 0.5).log_prob(x[:, 0])), folds
    (True, 0)
    """

    mean: Tensor
    root: Tensor
    steps: tuple[tuple[Callable[[Tensor], Tensor], float], ...]

    def draw(self, n: int, generator: torch.Generator) -> TrackedDraws:
        """Draw n points at the start, and take them along.

        Parameters
        ----------
        n : int
            Number of draws.

        generator : torch.Generator
            Draws the start, on its own device, in double precision.

        Returns
        -------
        TrackedDraws
        """
        d = len(self.mean)
        shape, device = (n, d), generator.device
        xi = torch.randn(shape, generator=generator, device=device, dtype=torch.float64)
        xi = xi.to(self.mean)
        x = self.mean + xi @ self.root.T
        log_prob = -0.5 * (xi.square().sum(1) + d * math.log(2 * math.pi))
        log_prob -= self.root.diagonal().log().sum()
        folded = torch.zeros(n, dtype=torch.bool, device=x.device)
        rows = max(1, _BLOCK // d**2)
        for velocity, time in self.steps:
            for part in range(0, n, rows):
                block = slice(part, part + rows)
                sign, logs = _log_determinant(velocity, x[block], time)
                log_prob[block] -= logs
                folded[block] |= sign <= 0
            with torch.no_grad():
                x = x + time * velocity(x)
        return TrackedDraws(x, log_prob, int(folded.sum()))


def _log_determinant(
    velocity: Callable[[Tensor], Tensor], x: Tensor, time: float
) -> tuple[Tensor, Tensor]:
    """Return sign and logarithm of the determinant of I + time grad v, at each point."""
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        value = velocity(points)
        # Each row of v depends on its own point: a sum over the points keeps them apart.
        gradients = [
            torch.autograd.grad(value[:, k].sum(), points, retain_graph=True)[0]
            for k in range(x.shape[1])
        ]
    jacobian = torch.stack(gradients, 1).mul_(time)
    jacobian.diagonal(dim1=1, dim2=2).add_(1)
    sign, logs = torch.linalg.slogdet(jacobian)
    return sign, logs
