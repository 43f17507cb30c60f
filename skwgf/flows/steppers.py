r"""How a step follows a velocity: :math:`(v, x, \tau) \mapsto x'`.

A stepper is called as `stepper(field, x, step_size, side)` and returns the moved points and the
energy at the points it started from. Those that remember something are objects, to be handed to the
carrier among its `parts` as well, so that their state is put back with the particles.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

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


class Adagrad:
    r"""Steps divided by a running root mean square of the velocity, the rule usual for SVGD.

    .. math:: x' = x + \tau \, \frac{v}{\sqrt{a} + \epsilon}, \quad
        a \leftarrow m \, a + (1 - m) \, v^2

    for each coordinate of each particle, with a = v^2 at the first step: each moves by about
    :math:`\tau`, whatever the size of its velocity. The path is no gradient flow: the energy need
    not fall at every step, and with a step size that is not small the particles keep trembling.

    Parameters
    ----------
    memory : float, default=0.9
        The decay m, in [0, 1).

    epsilon : float, default=1e-6
        Keeps the quotient finite, in the unit of the velocity.

    References
    ----------
    Q. Liu, D. Wang. *Stein variational gradient descent: a general purpose Bayesian inference
    algorithm*. NeurIPS 2016, arXiv:1608.04471, section 5.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import Velocity
    >>> from skwgf.flows.steppers import Adagrad
    >>> x = torch.tensor([[1.0, 100.0]])
    >>> Adagrad()(lambda x, side=None: Velocity(-x, 0.5), x, 0.25)
    (tensor([[ 0.7500, 99.7500]]), 0.5)
    """

    def __init__(self, memory: float = 0.9, epsilon: float = 1e-6) -> None:
        _check_decay("memory", memory)
        self.memory = memory
        self.epsilon = epsilon
        self.square: Tensor | None = None

    def __call__(
        self, field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Return the moved points and the energy before the step."""
        velocity = field(x, side)
        square = velocity.direction.square()
        self.square = square if self.square is None else self.square.lerp(square, 1 - self.memory)
        step = velocity.direction / (self.square.sqrt() + self.epsilon)
        return x + step_size * step, velocity.energy

    def state_dict(self) -> dict[str, Any]:
        """Return the running square, which is never changed in place."""
        return {"square": self.square}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the running square back."""
        self.square = state["square"]


class Adam:
    r"""Adam steps along the velocity.

    .. math:: x' = x + \tau \, \frac{\hat m}{\sqrt{\hat a} + \epsilon}

    with running means m of v and a of v^2 and their start corrected for, for each coordinate of
    each particle. What holds of :class:`Adagrad` holds here: the path is no gradient flow.

    Parameters
    ----------
    betas : tuple of (float, float), default=(0.9, 0.999)
        Decays of the two means, each in [0, 1).

    epsilon : float, default=1e-8
        Keeps the quotient finite, in the unit of the velocity.

    References
    ----------
    D. Kingma, J. Ba. *Adam: a method for stochastic optimization*. ICLR 2015, arXiv:1412.6980.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import Velocity
    >>> from skwgf.flows.steppers import Adam
    >>> Adam()(lambda x, side=None: Velocity(-x, 0.5), torch.tensor([[1.0, 100.0]]), 0.25)
    (tensor([[ 0.7500, 99.7500]]), 0.5)
    """

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8) -> None:
        for beta in betas:
            _check_decay("Each of betas", beta)
        self.betas = betas
        self.epsilon = epsilon
        self.n_steps = 0
        self.means: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Return the moved points and the energy before the step."""
        velocity = field(x, side)
        v = velocity.direction
        first, second = (torch.zeros_like(v),) * 2 if self.means is None else self.means
        self.means = (
            first.lerp(v, 1 - self.betas[0]),
            second.lerp(v.square(), 1 - self.betas[1]),
        )
        self.n_steps += 1
        mean = self.means[0] / (1 - self.betas[0] ** self.n_steps)
        square = self.means[1] / (1 - self.betas[1] ** self.n_steps)
        return x + step_size * mean / (square.sqrt() + self.epsilon), velocity.energy

    def state_dict(self) -> dict[str, Any]:
        """Return the means, which are never changed in place."""
        return {"n_steps": self.n_steps, "means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the means back."""
        self.n_steps, self.means = state["n_steps"], state["means"]


class Heun:
    r"""Steps of Heun's method in flow time, of order two, whose size is chosen as they go.

    .. math:: x' = x + \tfrac{h}{2} \, (v(x) + v(x + h \, v(x)))

    The gap :math:`\tfrac h2 |v(x + h v(x)) - v(x)|` to the Euler step is the estimate of the error.
    A step is taken again, shorter, while its root mean square over the particles is above `tol`
    times their root mean squared distance from their mean (times 1 where they all coincide), and h
    grows where there is room. A call makes one step: the flow time made so far is :attr:`time`. The
    `step_size` of the call is the first h to try, and no more.

    The velocity has to be a function of x: random minibatches would be taken for errors.

    Parameters
    ----------
    tol : float, default=1e-3
        Error allowed in a step, relative to the spread of the cloud.

    max_step : float, default=inf
        Largest h, in flow time.

    Attributes
    ----------
    time : float
        Flow time made so far.

    Examples
    --------
    The flow of v(x) = -x contracts by exp(-t):

    >>> import torch
    >>> from skwgf.flows import ParticleCarrier, Velocity, run_flow
    >>> from skwgf.flows.steppers import Heun
    >>> heun = Heun(tol=1e-4)
    >>> start = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    >>> def field(x, side=None):
    ...     return Velocity(-x, 0.5)
    >>> cloud = ParticleCarrier(start, field, step_size=0.1, stepper=heun, parts=(heun,))
    >>> result = run_flow(cloud, max_iter=50)
    >>> error = cloud.particles / start - torch.exp(torch.tensor(-heun.time))
    >>> bool(error.abs().max() < 1e-4)
    True
    """

    def __init__(self, tol: float = 1e-3, max_step: float = math.inf) -> None:
        for name, value in (("tol", tol), ("max_step", max_step)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value!r}.")
        self.tol = tol
        self.max_step = max_step
        self.time = 0.0
        self.next_step: float | None = None

    def __call__(
        self, field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Return the moved points and the energy before the step."""
        start = field(x, side)
        spread = float((x - x.mean(0)).square().sum(1).mean().sqrt())
        allowed = self.tol * (spread or 1.0)
        step = min(self.next_step or step_size, self.max_step)
        for _ in range(_MOST_TRIALS):
            predicted = x + step * start.direction
            change = 0.5 * step * (field(predicted, side).direction - start.direction)
            error = float(change.square().sum(1).mean().sqrt())
            if error <= allowed:
                break
            # Not a number counts as too large.
            step *= max(_factor(allowed, error), 0.1) if math.isfinite(error) else 0.1
        self.time += step
        self.next_step = step * min(_factor(allowed, error), 2.0)
        return predicted + change, start.energy

    def state_dict(self) -> dict[str, Any]:
        """Return the flow time and the next step to try."""
        return {"time": self.time, "next_step": self.next_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the flow time and the next step back."""
        self.time, self.next_step = state["time"], state["next_step"]


class Cooling:
    r"""A stepper whose steps shrink to nothing over the last part of a run.

    Velocities that are noisy, as on minibatches, keep particles trembling by as much as a step: the
    steps have to come to an end, for the average over the last ones to be taken.

    Parameters
    ----------
    stepper : Stepper
        What makes the steps.

    n_steps : int
        Length of the run.

    share : float, default=0.4
        Last part of it over which the size falls, linearly, in (0, 1].

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import Velocity, euler
    >>> from skwgf.flows.steppers import Cooling
    >>> stepper, x = Cooling(euler, 4, share=0.5), torch.zeros(1)
    >>> for _ in range(4):
    ...     x, _ = stepper(lambda x, side=None: Velocity(torch.ones(1), 0.0), x, 1.0)
    ...     print(x.item())
    1.0
    2.0
    3.0
    3.5
    """

    def __init__(self, stepper: Stepper, n_steps: int, share: float = 0.4) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share!r}.")
        self.stepper = stepper
        self.n_steps = n_steps
        self.share = share
        self.n_taken = 0

    def __call__(
        self, field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Return the moved points and the energy before the step."""
        left = max(self.n_steps - self.n_taken, 0) / self.n_steps
        self.n_taken += 1
        return self.stepper(field, x, min(1.0, left / self.share) * step_size, side)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps taken, and the state of the stepper, if it has one."""
        inner = self.stepper.state_dict() if hasattr(self.stepper, "state_dict") else None
        return {"n_taken": self.n_taken, "stepper": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back."""
        self.n_taken = state["n_taken"]
        if hasattr(self.stepper, "load_state_dict"):
            self.stepper.load_state_dict(state["stepper"])


_MOST_TRIALS = 30  # each a tenth at least: what fails then is not a matter of the step


def _factor(allowed: float, error: float) -> float:
    """Return what to multiply a step by: the error of Euler's goes with its square."""
    return 0.9 * math.sqrt(allowed / error) if error > 0 else 1.0


def _check_decay(name: str, value: float) -> None:
    """Raise a ValueError unless a decay is in [0, 1)."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}.")
