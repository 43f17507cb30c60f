"""The flow of a sampler whose velocity a network learns: fields, steppers and stopping rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import derive_seed, make_generator
from skwgf.estimators._clouds import Flow, Minibatches, Restarts
from skwgf.flows import ParticleCarrier, Velocity, VelocityField, euler
from skwgf.flows.affine import affine_start, whiten
from skwgf.flows.frozen import FlowMap, RecordingStepper
from skwgf.flows.regularizers import DiagonalQuadratic, HuberCost, LpCost, Regularizer
from skwgf.flows.residual import ResidualVelocity
from skwgf.flows.steppers import Adagrad, Adam, Cooling, Stepper
from skwgf.flows.whitened import CautiousEuler, at_level, stein_energy, stopping_level
from skwgf.nn.divergence import DivergenceMLP

# Default steps: of a whitened cloud, on all rows and on minibatches; of Adam and RMSProp.
_WHITENED_STEP, _NOISY_STEP, _ADAPTIVE_STEP = 0.15, 0.03, 0.01
# Particles per dimension from which a cloud is whitened.
_MANY = 2
# Steps without a fall that count as rest, at the usual size.
_WINDOW = 15
_MAX_SPEED = 1.0
# Random streams of a Gaussian start, and of the networks, one after the other.
_START, _NETWORK = 9, 10


class ResidualFlow(NamedTuple):
    """A flow, its velocities, and, where they are kept, its steps and the law at its start."""

    flow: Flow
    fields: list[ResidualVelocity]
    recording: RecordingStepper | None
    base: tuple[Tensor, Tensor] | None

    def flow_map(self) -> FlowMap | None:
        """Return the flow so far as a map, where its steps are kept."""
        if self.recording is None or self.base is None:
            return None
        return FlowMap(*self.base, tuple(self.recording.steps))


class Judged:
    """A residual velocity, with the Stein energy of its cloud, that stops at a level of it."""

    def __init__(self, field: ResidualVelocity, level: float) -> None:
        self.field = field
        self.level = level
        self.dissipation = math.nan

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity, zero at the level, and the Stein energy."""
        velocity, self.dissipation = self.field(x, side)
        if not math.isfinite(self.dissipation):
            return Velocity(velocity, math.nan)
        assert self.field.last_cloud is not None
        energy = stein_energy(*self.field.last_cloud)
        return Velocity(torch.zeros_like(x) if energy <= self.level else velocity, energy)


class Unjudged:
    """A residual velocity of a cloud too small for a Stein energy."""

    def __init__(self, field: ResidualVelocity) -> None:
        self.field = field
        self.dissipation = math.nan

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity and the dissipation."""
        velocity = self.field(x, side)
        self.dissipation = velocity.energy
        return velocity


def make_cost(regularizer: str | Regularizer, p: float, z: Tensor, coordinates: str) -> Regularizer:
    """Return the cost that a parameter stands for; "quadratic" scales by the cloud's variances."""
    if not isinstance(regularizer, str):
        return regularizer
    if regularizer == "quadratic":
        variances = z.var(0, correction=0)
        return DiagonalQuadratic(variances if coordinates == "raw" else torch.ones_like(variances))
    return HuberCost() if regularizer == "huber" else LpCost(p)


def check_widths(sizes: Any) -> None:
    """Refuse widths of hidden layers that no network has."""
    if sizes is not None and not all(isinstance(size, Integral) for size in sizes):
        raise ValueError(f"hidden_layer_sizes must be a tuple of integers or None, got {sizes!r}.")


def residual_flow(
    score_fn: Callable[[Tensor], Tensor],
    full_score_fn: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    regularizer: str | Regularizer,
    p: float,
    hidden_layer_sizes: tuple[int, ...] | None,
    activation: Any,
    score_skip: bool | None,
    last_layer: str | None,
    optimizer: str | None,
    step_size: float | None,
    tol: float | None,
    max_iter: int,
    n_restarts: int,
    affine: bool,
    track_density: bool,
    seed: int,
    **options: Any,
) -> ResidualFlow:
    """Return the flow that parameters and cloud ask for.

    A cloud of two particles per dimension, or more, is whitened, after an affine start on all rows
    where `affine` says that it may be far off. A smaller one is standardised, and follows its own
    scores: of the density of so few, no more than the variances are known.
    """
    clouds = list(torch.tensor_split(z, n_restarts))
    n, d = min(map(len, clouds)), z.shape[1]
    many = n >= _MANY * d
    noisy = isinstance(score_fn, Minibatches)
    if track_density:
        _check_trackable(n_restarts, many, noisy, optimizer, score_skip)
    if affine and many:
        clouds = [affine_start(full_score_fn, cloud)[0] for cloud in clouds]
    base: tuple[Tensor, Tensor] | None = None
    if track_density:
        base = clouds[0].mean(0), whiten(clouds[0])[1]
        clouds = [_gaussian(len(clouds[0]), *base, make_generator(derive_seed(seed, _START)))]
    direct = options["parametrization"] == "direct"
    skip = (not many and not direct) if score_skip is None else score_skip
    fields = [
        _field(
            score_fn,
            cloud,
            cost=make_cost(regularizer, p, cloud, options["coordinates"]),
            hidden_layer_sizes=_hidden(hidden_layer_sizes, n, many=many, direct=direct),
            activation=activation,
            whitening="full" if many else "diagonal",
            solve=(last_layer or ("trained" if direct else "solved")) == "solved",
            score_skip=skip,
            max_speed=_MAX_SPEED if many else math.inf,
            seed=derive_seed(seed, _NETWORK + k),
            **options,
        )
        for k, cloud in enumerate(clouds)
    ]
    level = 0.0 if noisy else stopping_level(n, d) if tol is None else tol
    judged = [Judged(field, level) if many else Unjudged(field) for field in fields]
    stepper, usual_step = _steps(optimizer, many=many, noisy=noisy)
    step_size = usual_step if step_size is None else step_size
    window = _window(optimizer, solved=fields[0].solve, step_size=step_size)
    stop = at_level(level, window=window)
    if track_density:
        stepper = RecordingStepper(fields[0])
    recording = stepper if isinstance(stepper, RecordingStepper) else None
    if noisy or not many:
        stepper, stop = Cooling(stepper, max_iter), _never
    parts: list[Any] = [
        part for part in (stepper, *fields, score_fn) if hasattr(part, "state_dict")
    ]
    whole: VelocityField = judged[0] if n_restarts == 1 else Restarts(list(judged))
    carrier = ParticleCarrier(
        torch.cat(clouds),
        whole,
        step_size=step_size,
        stepper=stepper,
        parts=tuple(parts),
        figures=partial(_figures, judged),
    )
    return ResidualFlow(Flow(carrier, stop), fields, recording, base)


def _gaussian(n: int, mean: Tensor, root: Tensor, generator: torch.Generator) -> Tensor:
    """Draw n points of a Gaussian law."""
    draws = torch.randn(n, len(mean), generator=generator, dtype=torch.float64)
    return mean + draws.to(root) @ root.T


def _figures(judged: Sequence[Judged | Unjudged]) -> dict[str, float]:
    """Return the mean dissipation of the clouds, and the mean exponent where there is one."""
    shown = {"dissipation": sum(part.dissipation for part in judged) / len(judged)}
    costs = [part.field.cost for part in judged]
    exponents = [cost.p for cost in costs if isinstance(cost, LpCost)]
    return shown | ({"exponent": sum(exponents) / len(exponents)} if exponents else {})


def _window(optimizer: str | None, *, solved: bool, step_size: float) -> int:
    """Return the number of steps without a fall that count as rest.

    Particles rest on solved features, and would only stray when these change; on trained ones, and
    with steps of a length of their own, they tremble, and get on more slowly.
    """
    if not solved:
        return 50
    if optimizer in ("adam", "rmsprop"):
        return 25
    return max(_WINDOW, math.ceil(_WINDOW * _WHITENED_STEP / step_size))


def _never(history: dict[str, list[float]]) -> bool:
    """Return False.

    The noise of minibatches never settles, and the dissipation of a small cloud may fall and rise
    again, as that of a model does while its noise shrinks.
    """
    return False


def _hidden(sizes: tuple[int, ...] | None, n: int, *, many: bool, direct: bool) -> tuple[int, ...]:
    """Return the widths of the network: as many solved features as a cloud can tell apart."""
    if sizes is not None:
        return tuple(sizes)
    if direct:
        return (32, 32)
    return (32, min(max(n // 5, 8), 100)) if many else ()


def _field(
    score_fn: Callable[[Tensor], Tensor],
    cloud: Tensor,
    *,
    cost: Regularizer,
    hidden_layer_sizes: tuple[int, ...],
    activation: Any,
    seed: int,
    **options: Any,
) -> ResidualVelocity:
    """Return the velocity of one cloud, with a network of its own."""
    generator = make_generator(seed)
    network = DivergenceMLP(
        cloud.shape[1],
        hidden_layer_sizes,
        activation=activation,
        generator=generator,
        device=cloud.device,
    )
    return ResidualVelocity(score_fn, network, generator=generator, cost=cost, **options)


def _steps(optimizer: str | None, *, many: bool, noisy: bool) -> tuple[Stepper, float]:
    """Return the stepper of a rule, and the usual size of its steps."""
    rule = optimizer or ("euler" if many else "adam")
    if rule == "euler":
        # The noise of minibatches is no rise of the energy.
        cautious = many and not noisy
        return CautiousEuler() if cautious else euler, _NOISY_STEP if noisy else _WHITENED_STEP
    return Adam() if rule == "adam" else Adagrad(), _ADAPTIVE_STEP


def _check_trackable(
    n_restarts: int, many: bool, noisy: bool, optimizer: str | None, score_skip: bool | None
) -> None:
    """Refuse flows whose density is not known."""
    for misfit, remedy in (
        (n_restarts > 1, "n_restarts=1"),
        (not many, "twice as many particles as dimensions"),
        (noisy, "batch_size=None"),
        (optimizer not in (None, "euler"), "optimizer='euler'"),
        (score_skip, "score_skip=None"),
    ):
        if misfit:
            raise ValueError(f"track_density=True follows one plain flow: it needs {remedy}.")
