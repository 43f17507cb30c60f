"""What the flows of all samplers are made of: batches of rows, and independent clouds in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import make_generator
from skwgf.flows import ParticleCarrier, Velocity, VelocityField
from skwgf.flows.loop import History
from skwgf.targets import Target


class Flow(NamedTuple):
    """A carrier for the loop, with the rule that ends it."""

    carrier: ParticleCarrier
    stop: Callable[[History], bool]


class Minibatches:
    """The score of a target on fresh rows at every call."""

    def __init__(self, target: Target, batch_size: int, seed: int) -> None:
        self.target = target
        self.batch_size = batch_size
        self.generator = make_generator(seed)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the scores with the likelihood of few rows, scaled up."""
        n_rows = self.target.n_rows_ or 0
        rows = torch.randperm(n_rows, generator=self.generator)[: self.batch_size]
        return self.target.grad_log_prob(z, rows.to(z.device))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the generator back."""
        self.generator.set_state(state["generator"])


class Restarts:
    """Independent clouds in one: each part of the points has a field of its own."""

    def __init__(self, fields: list[VelocityField]) -> None:
        self.fields = fields

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocities of all clouds, and the largest energy."""
        clouds = torch.tensor_split(x, len(self.fields))
        found = [field(cloud) for field, cloud in zip(self.fields, clouds, strict=True)]
        energies = torch.tensor([v.energy for v in found])  # whose maximum keeps NaN
        return Velocity(torch.cat([v.direction for v in found]), float(energies.max()))
