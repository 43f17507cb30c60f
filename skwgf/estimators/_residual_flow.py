"""The flow of a sampler whose velocity a network learns: fields, steppers and stopping rules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import derive_seed, make_generator
from skwgf.estimators._clouds import Flow, Minibatches, Restarts
from skwgf.flows import ParticleCarrier, Velocity, VelocityField, euler, plateau
from skwgf.flows.affine import affine_start, whiten
from skwgf.flows.frozen import FlowMap, RecordingStepper
from skwgf.flows.regularizers import DiagonalQuadratic, HuberCost, LpCost, Regularizer
from skwgf.flows.residual import ResidualVelocity
from skwgf.flows.steppers import Adagrad, Adam, Cooling, Stepper
from skwgf.flows.whitened import CautiousEuler, at_level, stein_energy, stopping_level
from skwgf.nn.divergence import DivergenceMLP

# Default steps: of a whitened cloud, on all rows and on minibatches; of Adam and RMSProp.
_WHITENED_STEP, _NOISY_STEP, _ADAPTIVE_STEP = 0.15, 0.03, 0.01
# A cloud without a Stein energy has come to rest when its dissipation falls no more.
_TOL, _PATIENCE = 1e-3, 50
# Particles that come to rest on solved features would only stray when these change.
_WINDOW = 10
_MAX_SPEED = 1.0
# Random streams of the networks.
_NETWORK = 10


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


def make_cost(regularizer: str | Regularizer, p: float, z: Tensor) -> Regularizer:
    """Return the cost that a parameter stands for; "quadratic" scales by the cloud's variances."""
    if not isinstance(regularizer, str):
        return regularizer
    if regularizer == "quadratic":
        return DiagonalQuadratic(z.var(0, correction=0))
    return HuberCost() if regularizer == "huber" else LpCost(p)


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

    A cloud of more particles than dimensions is whitened, after an affine start on all rows where
    `affine` says that it may be far off. A smaller one is standardised, and follows its own scores:
    of the density of so few, no more than the variances are known.
    """
    clouds = list(torch.tensor_split(z, n_restarts))
    n, d = min(map(len, clouds)), z.shape[1]
    many = n > d + 1
    noisy = isinstance(score_fn, Minibatches)
    if track_density:
        _check_trackable(n_restarts, many, noisy, optimizer)
    if affine and many:
        clouds = [affine_start(full_score_fn, cloud)[0] for cloud in clouds]
    base: tuple[Tensor, Tensor] | None = None
    if track_density:
        generator = make_generator(derive_seed(seed, _NETWORK - 1))
        mean, root = clouds[0].mean(0), whiten(clouds[0])[1]
        draws = torch.randn(clouds[0].shape, generator=generator, dtype=torch.float64)
        clouds = [mean + draws.to(root) @ root.T]
        base = (mean, root)
    direct = options["parametrization"] == "direct"
    skip = (not many and not direct) if score_skip is None else score_skip
    fields = [
        _field(
            score_fn,
            cloud,
            cost=make_cost(regularizer, p, cloud),
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
    stop = (
        at_level(level, window=_WINDOW)
        if many
        else plateau("objective", tol=tol or _TOL, patience=_PATIENCE)
    )
    stepper, usual_step = _steps(optimizer, many=many, noisy=noisy)
    if track_density:
        stepper = RecordingStepper(fields[0])
    recording = stepper if isinstance(stepper, RecordingStepper) else None
    if noisy:
        stepper, stop = Cooling(stepper, max_iter), _never
    parts: list[Any] = [
        part for part in (stepper, *fields, score_fn) if hasattr(part, "state_dict")
    ]
    whole: VelocityField = judged[0] if n_restarts == 1 else Restarts(list(judged))

    def figures() -> dict[str, float]:
        shown = {"dissipation": sum(field.dissipation for field in judged) / len(judged)}
        exponents = [f.cost.p for f in fields if isinstance(f.cost, LpCost)]
        return shown | ({"exponent": sum(exponents) / len(exponents)} if exponents else {})

    carrier = ParticleCarrier(
        torch.cat(clouds),
        whole,
        step_size=usual_step if step_size is None else step_size,
        stepper=stepper,
        parts=tuple(parts),
        figures=figures,
    )
    return ResidualFlow(Flow(carrier, stop), fields, recording, base)


def _never(history: dict[str, list[float]]) -> bool:
    """Return False: the noise of minibatches never settles, and a lucky batch is no reason."""
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


def _check_trackable(n_restarts: int, many: bool, noisy: bool, optimizer: str | None) -> None:
    """Refuse flows whose density is not known."""
    for misfit, remedy in (
        (n_restarts > 1, "n_restarts=1"),
        (not many, "more particles than dimensions"),
        (noisy, "batch_size=None"),
        (optimizer not in (None, "euler"), "optimizer='euler'"),
    ):
        if misfit:
            raise ValueError(f"track_density=True follows one plain flow: it needs {remedy}.")
