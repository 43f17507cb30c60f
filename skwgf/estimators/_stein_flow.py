"""The flow of a Stein sampler's particles: fields, steppers and stopping rules put together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from skwgf.estimators._clouds import Flow, Minibatches, Restarts
from skwgf.flows import ParticleCarrier, VelocityField, euler
from skwgf.flows.affine import affine_start
from skwgf.flows.stein import SteinVelocity, ksd_plateau
from skwgf.flows.steppers import Adagrad, Adam, Heun, Stepper
from skwgf.flows.torus import TorusVelocity
from skwgf.flows.whitened import CautiousEuler, WhitenedStein, at_level, stopping_level
from skwgf.kernels import Gaussian, Kernel, RieszKernel
from skwgf.targets import KernelDensityTarget, Target

# Default steps: of the default flow, on all rows and on minibatches; else.
_WHITENED_STEP, _NOISY_STEP, _STEP = 0.3, 0.03, 0.1
# Relative fall of the discrepancy over so many steps that counts as progress.
_TOL, _LOOSE_TOL, _PATIENCE = 1e-2, 0.1, 20


def _independent(field: VelocityField) -> float:
    """Return the mean squared discrepancy of as many independent draws.

    Minus infinity for kernels without a discrepancy, whose energy says nothing: these flows run to
    their end.
    """
    field = cast(SteinVelocity, field)
    kernel = field.resolved
    if kernel is None or not kernel.has_discrepancy:
        return -math.inf
    assert field.points is not None
    assert field.scores is not None
    return float(kernel.stein_diagonal(field.points, field.scores).mean()) / len(field.points)


def stein_flow(
    score_fn: Callable[[Tensor], Tensor],
    target: Target,
    z: Tensor,
    *,
    kernel: Kernel | RieszKernel | None,
    optimizer: str | None,
    step_size: float | None,
    tol: float | None,
    n_restarts: int,
    on_torus: bool,
    affine: bool,
) -> Flow:
    """Return the flow that parameters and target ask for.

    The default flow begins with an affine start, on all rows, where `affine` says that the cloud
    may be far off. A density of data, whose start is a sample of it, is followed at its own scale:
    a smoother field would drag particles out of light modes.
    """
    clouds = torch.tensor_split(z, n_restarts)
    n = min(map(len, clouds))
    own_kernel = isinstance(target, KernelDensityTarget) and kernel is None
    if own_kernel:
        kernel = Gaussian(cast(KernelDensityTarget, target).bandwidth_)
    # Fewer particles than dimensions have no covariance to whiten by.
    whitened = kernel is None and not on_torus and n > z.shape[1] + 1
    noisy = isinstance(score_fn, Minibatches)
    if whitened and optimizer in ("adagrad", "adam"):
        raise ValueError(
            f"optimizer={optimizer!r} steps along the columns of the target, which the default "
            "flow whitens. Use it with a kernel, or leave it out."
        )
    if noisy and optimizer == "heun":
        raise ValueError(
            "optimizer='heun' takes the noise of minibatches for errors. Use another one, or "
            "batch_size=None."
        )
    if whitened:
        # One lucky batch is no reason to stop.
        level = 0.0 if noisy else stopping_level(n, z.shape[1]) if tol is None else tol
        fields: list[VelocityField] = [WhitenedStein(score_fn, level=level) for _ in clouds]
        if affine:
            z = torch.cat([affine_start(target.grad_log_prob, cloud)[0] for cloud in clouds])
        stop = at_level(level)
    else:
        fields = [_field(score_fn, kernel, z, on_torus) for _ in clouds]
        anywhere = on_torus or own_kernel
        default = _LOOSE_TOL if anywhere else _TOL
        stop = ksd_plateau(
            lambda: math.inf if anywhere else min(map(_independent, fields)),
            tol=default if tol is None else tol,
            patience=_PATIENCE,
        )
    adaptive = on_torus or (own_kernel and not noisy)
    usual = "whitened" if whitened else "heun" if adaptive else "adagrad"
    stepper, usual_step = _steps(optimizer or usual, whitened=whitened, noisy=noisy)
    step_size = usual_step if step_size is None else step_size
    parts: list[Any] = [
        part for part in (stepper, *fields, score_fn) if hasattr(part, "state_dict")
    ]
    field = fields[0] if n_restarts == 1 else Restarts(fields)
    carrier = ParticleCarrier(z, field, step_size=step_size, stepper=stepper, parts=tuple(parts))
    return Flow(carrier, stop)


def _steps(rule: str, *, whitened: bool, noisy: bool) -> tuple[Stepper, float]:
    """Return the stepper of a rule, and the size of its steps."""
    # The noise of minibatches is no rise of the energy.
    cautious = (lambda: euler) if noisy else CautiousEuler
    makers: dict[str, Callable[[], Stepper]] = {
        "whitened": cautious,
        "euler": lambda: euler,
        "adagrad": Adagrad,
        "adam": Adam,
        "heun": Heun,
    }
    whitened_step = _NOISY_STEP if noisy else _WHITENED_STEP
    return makers[rule](), whitened_step if whitened else _STEP


def _field(
    score_fn: Callable[[Tensor], Tensor],
    kernel: Kernel | RieszKernel | None,
    z: Tensor,
    on_torus: bool,
) -> VelocityField:
    """Return the velocity of a kernel; too few particles to whiten by follow a Gaussian one."""
    if not on_torus:
        kernel = Gaussian("median") if kernel is None else kernel
        return SteinVelocity(score_fn, cast(Kernel, kernel))
    return TorusVelocity(score_fn, z.shape[1], cast("RieszKernel | None", kernel))
