"""Values whose gradients are known in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def with_gradients(
    x: Tensor, y: Tensor, value: float, grad_x: Tensor | None, grad_y: Tensor | None
) -> Tensor:
    """Return `value` as a scalar, differentiable once, of given gradients in two clouds."""
    result: Tensor = _Envelope.apply(  # type: ignore[no-untyped-call]
        x, y, x.new_tensor(value), grad_x, grad_y
    )
    return result


class _Envelope(torch.autograd.Function):
    """A value whose gradients in two clouds are known in closed form."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, value: Tensor, grad_x: Tensor | None, grad_y: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, y, grad_x, grad_y)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad_value: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *gradients = ctx.saved_tensors
        scaled = (
            grad_value * _Constant.apply(gradient, x, y)  # type: ignore[no-untyped-call]
            if gradient is not None
            else None
            for gradient in gradients
        )
        return *scaled, None, None, None


class _Constant(torch.autograd.Function):
    """A gradient that refuses to be differentiated in the clouds it belongs to."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, grad_gradient: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "sinkhorn_divergence is differentiable once: its gradient holds the potentials "
            "constant. Take second derivatives by differences of gradients."
        )
