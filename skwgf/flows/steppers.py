r"""How a step follows a velocity: :math:`(v, x, \tau) \mapsto x'`.

A stepper is a plain function `stepper(field, x, step_size, side)` that returns the moved points
and the energy at the points it started from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from skwgf.flows.carriers import VelocityField


class Stepper(Protocol):
    """A rule that moves points along a velocity field."""

    def __call__(
        self, field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Return the moved points and the energy before the step."""


def euler(
    field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
) -> tuple[Tensor, float]:
    r"""Explicit Euler step :math:`x + \tau v(x)`, of order one.

    Parameters
    ----------
    field : VelocityField
        The velocity.

    x : Tensor of shape (n, d)
        The points.

    step_size : float
        Step :math:`\tau` in flow time.

    side : Tensor of shape (n, k), default=None
        What travels with the points, handed to the field.

    Returns
    -------
    moved : Tensor of shape (n, d)
    energy : float
        The energy at `x`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import Velocity, euler
    >>> euler(lambda x, side=None: Velocity(-x, 0.5), torch.ones(1, 2), 0.25)
    (tensor([[0.7500, 0.7500]]), 0.5)
    """
    velocity = field(x, side)
    return x + step_size * velocity.direction, velocity.energy


def projected_euler(low: Tensor, high: Tensor) -> Stepper:
    r"""Return the Euler step followed by the projection on a box.

    .. math:: x' = \min(\max(x + \tau v(x), l), h)

    Parameters
    ----------
    low, high : Tensor of shape (d,)
        Limits of each coordinate, which may be infinite.

    Returns
    -------
    Stepper

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import Velocity, projected_euler
    >>> step = projected_euler(torch.tensor([0.0, 0.0]), torch.tensor([0.5, torch.inf]))
    >>> step(lambda x, side=None: Velocity(torch.ones_like(x), 0.5), torch.zeros(1, 2), 2.0)
    (tensor([[0.5000, 2.0000]]), 0.5)
    """

    def step(
        field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
    ) -> tuple[Tensor, float]:
        moved, energy = euler(field, x, step_size, side)
        return torch.clamp(moved, low, high), energy

    return step
