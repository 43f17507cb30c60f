"""Trying a user's function of the particles before it is minimised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def try_function(
    fn: Callable[..., Any], probe: Tensor, shape: tuple[int, ...], *data: Tensor, name: str
) -> None:
    """Raise unless `fn(probe, *data)` has the shape, is finite and depends on the particles."""
    if not callable(fn):
        raise TypeError(f"{name} must be a function of the particles, got {type(fn).__name__}.")
    with torch.enable_grad():
        particles = probe.detach().clone().requires_grad_()
        try:
            result = fn(particles, *data)
        except Exception as error:
            error.add_note(f"in a trial call of {name} with particles of shape {_shape(probe)}")
            raise
    if not isinstance(result, Tensor):
        raise TypeError(
            f"{name} must return a torch tensor, got {type(result).__name__}: it must be written "
            "in torch operations, so that it can be differentiated."
        )
    if result.shape != shape:
        raise ValueError(
            f"{name} must return a tensor of shape {shape} for particles of shape "
            f"{_shape(probe)}, got shape {_shape(result)}."
        )
    if not bool(result.isfinite().all()):
        raise ValueError(
            f"{name} is NaN or infinite at the trial particles. Start from particles where it is "
            "finite."
        )
    slope = None
    if result.requires_grad:
        (slope,) = torch.autograd.grad(result.sum(), particles, allow_unused=True)
    if slope is None:
        raise ValueError(
            f"What {name} returns cannot be differentiated by the particles: it does not depend on "
            "them, or detach(), item(), numpy or torch.no_grad() cuts the graph."
        )
    if not bool(slope.isfinite().all()):
        raise ValueError(
            f"The gradient of {name} is NaN or infinite at the trial particles. Common causes are "
            "a norm or a square root at zero; add a small number inside."
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape as it prints."""
    return tuple(tensor.shape)
