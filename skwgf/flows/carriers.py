r"""What carries a measure along a flow: a cloud of particles, or a network.

Particles move themselves, :math:`x_i \leftarrow x_i + \tau v(x_i)`. A network :math:`G` carries
the law of :math:`G(z)`, z drawn from a reference, and moves by regression.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from skwgf.flows.steppers import Stepper, euler
from skwgf.nn import Regressor


class Velocity(NamedTuple):
    """A velocity field at n points, and the energy there.

    Attributes
    ----------
    direction : Tensor of shape (n, d)
        The velocity v(x) of each point.

    energy : float
        The energy whose gradient flow this is, estimated from the same quantities.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import Velocity
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> toward_zero = Velocity(direction=-x, energy=0.5 * float(x.square().sum(1).mean()))
    >>> toward_zero.energy
    2.5
    """

    direction: Tensor
    energy: float


class VelocityField(Protocol):
    """A velocity: `field(x, side)` with `x` of shape (n, d) returns a :class:`Velocity`.

    `side`, of shape (n, k) or None, is what travels with the points but does not move, such as
    their class labels.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import Velocity, VelocityField
    >>> def spring(x, side=None):
    ...     return Velocity(-x, energy=0.5 * float(x.square().sum(1).mean()))
    >>> field: VelocityField = spring
    >>> field(torch.tensor([[2.0]])).direction
    tensor([[-2.]])
    """

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity and the energy at `x`."""


class Stateful(Protocol):
    """A part whose state changes along the flow and belongs to the carrier's."""

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""


class RandomStream:
    """The state of a generator that a flow draws from, as a part of its carrier's."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the generator back."""
        self.generator.set_state(state["generator"])


Draw = Callable[[int], tuple[Tensor, Tensor | None]]


def rms(x: Tensor) -> float:
    """Return the root mean squared norm of the rows of `x`."""
    return float(x.square().sum(1).mean().sqrt())


class ParticleCarrier:
    r"""A cloud of particles of equal weight.

    Parameters
    ----------
    particles : Tensor of shape (n, d)
        Where the cloud starts; copied.

    field : VelocityField
        The velocity.

    step_size : float
        Step :math:`\tau` in flow time.

    stepper : callable, default=euler
        How a step follows the velocity, see :mod:`skwgf.flows.steppers`.

    side : Tensor of shape (n, k), default=None
        What travels with the particles (labels), handed to the field.

    on_step : callable, default=None
        Called after every step with the flow time made, `step_size`.

    parts : tuple of Stateful, default=()
        What changes beside the particles (a tracked potential, say) and is put back with them.

    figures : callable, default=None
        Called after every step: further figures of it, for the history.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import ParticleCarrier, Velocity
    >>> def field(x, side=None):
    ...     return Velocity(-x, energy=0.5 * float(x.square().sum(1).mean()))
    >>> cloud = ParticleCarrier(torch.tensor([[1.0], [3.0]]), field, step_size=0.5)
    >>> cloud.advance()["objective"], cloud.particles.flatten().tolist()
    (2.5, [0.5, 1.5])
    """

    def __init__(
        self,
        particles: Tensor,
        field: VelocityField,
        *,
        step_size: float,
        stepper: Stepper = euler,
        side: Tensor | None = None,
        on_step: Callable[[float], None] | None = None,
        parts: tuple[Stateful, ...] = (),
        figures: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self.particles = particles.clone()
        self.field = field
        self.step_size = step_size
        self.stepper = stepper
        self.side = side
        self.on_step = on_step
        self.parts = parts
        self.figures = figures

    def advance(self) -> dict[str, float]:
        """Move every particle along one step."""
        moved, energy = self.stepper(self.field, self.particles, self.step_size, self.side)
        step = rms(moved - self.particles)
        self.particles = moved
        if self.on_step is not None:
            self.on_step(self.step_size)
        more = {} if self.figures is None else self.figures()
        return {"objective": energy, "step": step} | more

    def is_finite(self) -> bool:
        """Tell whether all coordinates are finite."""
        return bool(torch.isfinite(self.particles).all())

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the cloud and of the parts."""
        return {
            "particles": self.particles.clone(),
            "parts": [part.state_dict() for part in self.parts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the cloud and the parts back."""
        self.particles = state["particles"].clone()
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)


class NetworkCarrier:
    """A network :math:`G`, whose output on a reference law is the measure.

    Parameters
    ----------
    regressor : Regressor
        The network with its optimiser and its averaged weights.

    update : callable
        `update(regressor, progress)` takes the optimiser steps of one iteration and returns its
        record, see :mod:`skwgf.flows.regression`. `progress` in (0, 1) is the share of the
        iterations that is done, for the learning-rate schedule.

    max_iter : int
        Number of iterations that the schedule is laid out for.

    parts : tuple of Stateful, default=()
        What changes beside the network (the potential, say) and is put back with it.

    Examples
    --------
    A network of one input is regressed on twice that input:

    >>> import torch
    >>> from skwgf.flows import NetworkCarrier, pair_update, run_flow
    >>> from skwgf.nn import Regressor, mlp
    >>> generator = torch.Generator().manual_seed(0)
    >>> def draw(n):
    ...     z = torch.randn(n, 1, generator=generator)
    ...     return z, 2 * z
    >>> regressor = Regressor(mlp(1, 1, (16,), generator=generator))
    >>> update = pair_update(draw, batch_size=64, n_inner=10)
    >>> result = run_flow(NetworkCarrier(regressor, update, max_iter=30), max_iter=30)
    >>> result.history["objective"][-1] < 0.01 * result.history["objective"][0]
    True
    """

    def __init__(
        self,
        regressor: Regressor,
        update: Callable[[Regressor, float], dict[str, float]],
        *,
        max_iter: int,
        parts: tuple[Stateful, ...] = (),
    ) -> None:
        self.regressor = regressor
        self.update = update
        self.max_iter = max_iter
        self.parts = parts
        self.n_advanced = 0

    def advance(self) -> dict[str, float]:
        """Move the law along one step."""
        progress = min((self.n_advanced + 0.5) / self.max_iter, 1.0)
        record = self.update(self.regressor, progress)
        self.n_advanced += 1
        return record

    def is_finite(self) -> bool:
        """Tell whether all weights are finite."""
        return self.regressor.is_finite()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the network, its average, its optimiser and the parts."""
        return {
            "regressor": self.regressor.state_dict(),
            "n_advanced": self.n_advanced,
            "parts": [part.state_dict() for part in self.parts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the network and the parts back."""
        self.regressor.load_state_dict(state["regressor"])
        self.n_advanced = state["n_advanced"]
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
