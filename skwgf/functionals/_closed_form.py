"""Scalars whose first and second derivatives are known in closed form, as autograd sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skwgf.functionals.base import Expansion


def closed_form(
    z: Tensor, value: Callable[[Tensor], Tensor], expand: Callable[[Tensor], Expansion]
) -> Tensor:
    """Return `value(z)` as a scalar that autograd differentiates twice through `expand`.

    The Hessian products of `expand` must not write in place, so that they can be batched.
    """
    if not (z.requires_grad and torch.is_grad_enabled()):
        return value(z.detach())
    result: Tensor = _Value.apply(z, value, expand)  # type: ignore[no-untyped-call]
    return result


class _Value(torch.autograd.Function):
    """The value; its backward pass is the gradient, which is computed only there."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        value: Callable[[Tensor], Tensor],
        expand: Callable[[Tensor], Expansion],
    ) -> Tensor:
        ctx.save_for_backward(z)
        ctx.expand = expand
        return value(z.detach())

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:
        (z,) = ctx.saved_tensors
        gradient: Tensor = _Gradient.apply(z, ctx.expand)  # type: ignore[no-untyped-call]
        return cotangent * gradient, None, None


class _Gradient(torch.autograd.Function):
    """The gradient; its backward pass is a Hessian product."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, expand: Callable[[Tensor], Expansion]) -> Tensor:
        expansion = expand(z.detach())
        ctx.hessian = expansion.hessian
        return expansion.gradient / len(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return ctx.hessian(cotangent[None])[0] / len(cotangent), None
