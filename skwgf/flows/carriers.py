r"""What carries a measure along a flow: a cloud of particles, or a network.

Particles move themselves, :math:`x_i \leftarrow x_i + \tau v(x_i)`. A network :math:`G` carries
the law of :math:`G(z)`, z drawn from a reference; it moves by regression on its own moved output,
:math:`G(z) \approx \mathrm{stopgrad}(G(z) + \tau v(G(z)))`, some optimiser steps on the same
draws (*persistent training*).
"""

from __future__ import annotations

import math
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
    """

    direction: Tensor
    energy: float


class VelocityField(Protocol):
    """A velocity: `field(x, side)` with `x` of shape (n, d) returns a :class:`Velocity`.

    `side`, of shape (n, k) or None, is what travels with the points but does not move, such as
    their class labels.
    """

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity and the energy at `x`."""


class Stateful(Protocol):
    """A part whose state changes along the flow and belongs to the carrier's."""

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""


Draw = Callable[[int], tuple[Tensor, Tensor | None]]


def rms(x: Tensor) -> float:
    """Return the root mean squared norm of the rows of `x`."""
    return float(x.square().sum(1).mean().sqrt())


class ParticleCarrier:
    """A cloud of particles of equal weight.

    Parameters
    ----------
    particles : Tensor of shape (n, d)
        Where the cloud starts; copied.

    field : VelocityField
        The velocity.

    step_size : float
        Step :math:`\\tau` in flow time.

    stepper : callable, default=euler
        How a step follows the velocity, see :mod:`skwgf.flows.steppers`.

    side : Tensor of shape (n, k), default=None
        What travels with the particles (labels), handed to the field.
    """

    def __init__(
        self,
        particles: Tensor,
        field: VelocityField,
        *,
        step_size: float,
        stepper: Stepper = euler,
        side: Tensor | None = None,
    ) -> None:
        self.particles = particles.clone()
        self.field = field
        self.step_size = step_size
        self.stepper = stepper
        self.side = side

    def advance(self) -> dict[str, float]:
        """Move every particle along one step."""
        moved, energy = self.stepper(self.field, self.particles, self.step_size, self.side)
        step = rms(moved - self.particles)
        self.particles = moved
        return {"objective": energy, "step": step}

    def is_finite(self) -> bool:
        """Tell whether all coordinates are finite."""
        return bool(torch.isfinite(self.particles).all())

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the cloud."""
        return {"particles": self.particles.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the cloud back."""
        self.particles = state["particles"].clone()


class NetworkCarrier:
    r"""The law of :math:`G(z)`, moved by persistent regression.

    One step draws latents :math:`z_i`, computes the moved outputs
    :math:`\zeta_i = G(z_i) + \tau v(G(z_i))` once, and takes several optimiser steps on
    :math:`G(z_i) \approx \zeta_i` with these same pairs.

    Parameters
    ----------
    regressor : Regressor
        The network :math:`G` with its optimiser and its averaged weights.

    draw : callable
        `draw(n)` returns n latents and what travels with them (or None).

    field : VelocityField
        The velocity.

    step_size : float
        Step :math:`\tau` in flow time.

    persistence : int or "auto"
        Number of optimiser steps on the same pairs. "auto" stops as soon as the network lags
        behind the moved points by less than a quarter of the step, after 50 at the latest.

    batch_size : int
        Number of latents a step.

    max_iter : int
        Number of steps the learning-rate schedule is laid out for.

    parts : tuple of Stateful, default=()
        What changes beside the network (the potential, say) and is put back with it.
    """

    _AUTO_FRACTION = 0.25
    _AUTO_CAP = 50

    def __init__(
        self,
        regressor: Regressor,
        draw: Draw,
        field: VelocityField,
        *,
        step_size: float,
        persistence: int | str,
        batch_size: int,
        max_iter: int,
        parts: tuple[Stateful, ...] = (),
    ) -> None:
        self.regressor = regressor
        self.draw = draw
        self.field = field
        self.step_size = step_size
        self.persistence = persistence
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.parts = parts
        self.n_advanced = 0

    def push(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Return n fresh points of the law carried at present, and what travels with them."""
        z, side = self.draw(n)
        with torch.no_grad():
            return self.regressor.module(z), side

    def advance(self) -> dict[str, float]:
        """Move the law along one step."""
        z, side = self.draw(self.batch_size)
        with torch.no_grad():
            x = self.regressor.module(z)
        velocity = self.field(x, side)
        displacement = self.step_size * velocity.direction
        step = rms(displacement)
        lag, n_inner = self._follow(z, x + displacement, step)
        self.n_advanced += 1
        return {
            "objective": velocity.energy,
            "step": step,
            "lag": lag / step if step > 0 else 0.0,
            "n_inner": float(n_inner),
        }

    def _follow(self, z: Tensor, target: Tensor, step: float) -> tuple[float, int]:
        """Regress on the moved points; return the lag before the last step, and the steps."""
        progress = min(self.n_advanced / self.max_iter, 1.0)
        if self.persistence != "auto":
            n_inner = int(self.persistence)
            for _ in range(n_inner):
                residual = self.regressor.step(z, target, progress)
            return math.sqrt(float(residual)), n_inner
        for n_inner in range(1, self._AUTO_CAP + 1):
            lag = math.sqrt(float(self.regressor.step(z, target, progress)))
            if not lag > self._AUTO_FRACTION * step:
                break
        return lag, n_inner

    def is_finite(self) -> bool:
        """Tell whether all weights are finite."""
        return self.regressor.is_finite()

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the network, its average and its optimiser."""
        return {
            "regressor": self.regressor.state_dict(),
            "n_advanced": self.n_advanced,
            "parts": [part.state_dict() for part in self.parts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the network back."""
        self.regressor.load_state_dict(state["regressor"])
        self.n_advanced = state["n_advanced"]
        for part, saved in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(saved)
