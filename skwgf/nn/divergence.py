r"""Networks from R^d to R^d whose divergence is known, exactly wherever that is cheap.

For two hidden layers, :math:`f = W_3 s(W_2 s(W_1 x + b_1) + b_2) + b_3` with the pre-activations
:math:`a_1, a_2`, the trace of the chain rule is a bilinear form in the slopes of the activations,

.. math:: \operatorname{div} f = \operatorname{tr}(W_3 D_2 W_2 D_1 W_1)
    = s'(a_2)^\top \bigl( W_2 \circ (W_1 W_3)^\top \bigr) s'(a_1), \qquad
    D_l = \operatorname{diag} s'(a_l) ,

so that value and divergence come out of one forward pass, without noise, and are differentiated
with respect to the weights by one backward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from skwgf.nn.mlp import mlp

__all__ = [
    "DivergenceMLP",
    "DivergenceNetwork",
    "WithDivergence",
    "exact_divergence",
    "hutchinson_divergence",
]

SmoothActivation = Literal["tanh", "silu"]
_MOST_LAYERS = 3  # hidden ones with a closed form here


class DivergenceNetwork(nn.Module, ABC):
    """A network from R^d to R^d that knows its divergence."""

    @abstractmethod
    def value_and_divergence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x) of shape (n, d) and div f(x) of shape (n,) for `x` of shape (n, d)."""


class DivergenceMLP(DivergenceNetwork):
    r"""Perceptron R^d -> R^d with an exact divergence in closed form.

    With slopes :math:`\sigma_l = s'(a_l)` of the hidden layers the divergence is

    * no hidden layer: :math:`\operatorname{tr} W_1`;
    * one: :math:`\sigma_1^\top \operatorname{diag}(W_1 W_2)`, at O(n h);
    * two: :math:`\sigma_2^\top (W_2 \circ (W_1 W_3)^\top)\, \sigma_1`, at O(n h^2);
    * three: :math:`\sum_{l, j} (W_4 D_3 W_3)_{lj}\, \sigma_{2,j}\, (W_2 D_1 W_1)_{jl}`, at
      O(n min(d, h) h^2) and with O(n min(d, h) h) numbers in memory. For d > h the middle product
      is taken around the other way, with :math:`W_1 W_4` in the place of :math:`W_1`.

    The linear skip :math:`A x`, which starts from zero, adds :math:`\operatorname{tr} A`.

    Parameters
    ----------
    n_features : int
        Dimension d, at least 1.
    hidden_layer_sizes : sequence of int, default=(32, 32)
        Widths of the hidden layers, up to three. An empty sequence gives an affine map.
    activation : {"tanh", "silu"}, default="tanh"
        Smooth function applied after each hidden layer.
    linear_skip : bool, default=True
        Whether to add a linear map of the input, so that affine fields are in easy reach.
    generator : torch.Generator
        Source of the starting weights, see :func:`skwgf.nn.mlp`.
    zero_last : bool, default=False
        Whether the last layer starts from zero as well, so that the network is the zero field at
        first. The hidden layers then take many optimiser steps to have a say.
    dtype : torch.dtype, default=torch.float32
        Precision of the weights.
    device : torch.device or None, default=None
        Device of the weights; None is the device of `generator`.

    Raises
    ------
    ValueError
        If there are more than three hidden layers, a width below 1, or an unknown activation.

    References
    ----------
    Z. Cheng, S. Zhang, L. Yu, C. Zhang. *Particle-based variational inference with generalized
    Wasserstein gradient flow*. NeurIPS 2023, arXiv:2310.16516 (where the divergence is estimated).

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn.divergence import DivergenceMLP
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = DivergenceMLP(3, (8, 8), generator=generator, zero_last=True)
    >>> _ = torch.nn.init.eye_(network.skip)
    >>> value, divergence = network.value_and_divergence(torch.tensor([[1.0, 2.0, 3.0]]))
    >>> value.tolist(), divergence.tolist()
    ([[1.0, 2.0, 3.0]], [3.0])
    """

    skip: nn.Parameter | None

    def __init__(
        self,
        n_features: int,
        hidden_layer_sizes: Sequence[int] = (32, 32),
        *,
        activation: SmoothActivation = "tanh",
        linear_skip: bool = True,
        generator: torch.Generator,
        zero_last: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if len(hidden_layer_sizes) > _MOST_LAYERS:
            raise ValueError(
                f"hidden_layer_sizes={tuple(hidden_layer_sizes)} has more than {_MOST_LAYERS} "
                "layers, for which there is no closed form here. Take fewer, or wrap the network "
                "in WithDivergence."
            )
        if activation not in get_args(SmoothActivation):
            raise ValueError(
                f"activation={activation!r} has no slope here. Use one of "
                f"{get_args(SmoothActivation)}."
            )
        self.core = mlp(
            n_features,
            n_features,
            hidden_layer_sizes,
            activation=activation,
            generator=generator,
            zero_last=zero_last,
            dtype=dtype,
            device=device,
        )
        self.n_hidden = len(hidden_layer_sizes)
        self._activate = _tanh if activation == "tanh" else _silu
        skip = next(self.core.parameters()).new_zeros(n_features, n_features)
        self.register_parameter("skip", nn.Parameter(skip) if linear_skip else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), of the shape (n, d) of `x`."""
        value: Tensor = self.core(x)
        return value if self.skip is None else value + x @ self.skip.T

    def value_and_divergence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x) and its exact divergence from one forward pass.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Points, in the precision of the weights.

        Returns
        -------
        value : Tensor of shape (n, d)
        divergence : Tensor of shape (n,)
            Both are differentiable in the weights and in `x`.
        """
        linears: list[nn.Linear] = [layer for layer in self.core if isinstance(layer, nn.Linear)]
        layer, slopes = x, []
        for linear in linears[:-1]:
            layer, slope = self._activate(linear(layer))
            slopes.append(slope)
        value: Tensor = linears[-1](layer)
        divergence = _chain_trace([linear.weight for linear in linears], slopes)
        if self.skip is not None:
            value = value + x @ self.skip.T
            divergence = divergence + self.skip.trace()
        return value, divergence.expand(len(x))

    def hidden(self, x: Tensor) -> Tensor:
        """Return the values (n, h) of the last hidden layer at `x` (n, d)."""
        for layer in list(self.core)[:-1]:
            x = layer(x)
        return x

    def hidden_features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return what the last layer sees, and its mean gradient.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Points, in the precision of the weights.

        Returns
        -------
        features : Tensor of shape (n, h)
            Values of the last hidden layer, h = 0 without one.
        gradient : Tensor of shape (h, d)
            The mean over the points of the gradient of each feature.
        """
        linears = [layer for layer in self.core if isinstance(layer, nn.Linear)][:-1]
        layer, slopes = x, []
        for linear in linears:
            layer, slope = self._activate(linear(layer))
            slopes.append(slope)
        weights = [linear.weight for linear in linears]
        match slopes:
            case []:
                return x.new_empty(len(x), 0), x.new_empty(0, x.shape[1])
            case [slope]:
                return layer, slope.mean(0)[:, None] * weights[0]
            case [slope, next_slope]:
                mixed = (next_slope.T @ slope / len(x)) * weights[1]
                return layer, mixed @ weights[0]
        # The first two layers of every point, then the mean over the points with the third slope.
        inner = slopes[1][:, :, None] * (weights[1] @ (slopes[0][:, :, None] * weights[0]))
        return layer, (slopes[2][:, :, None] * (weights[2] @ inner)).mean(0)


class WithDivergence(DivergenceNetwork):
    r"""A module of any architecture together with its divergence, by automatic differentiation.

    Up to `exact_up_to` dimensions the divergence is exact, at d backward passes; beyond, it is
    Hutchinson's estimate with one new probe a call, whose noise enters the gradient.

    Parameters
    ----------
    module : torch.nn.Module
        Smooth map from (n, d) to (n, d) that treats each row on its own.
    generator : torch.Generator
        Draws the probes, on the device of the points.
    exact_up_to : int, default=8
        Largest dimension for which the exact divergence is taken.

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn.divergence import WithDivergence
    >>> network = WithDivergence(torch.nn.Tanh(), generator=torch.Generator().manual_seed(0))
    >>> network.value_and_divergence(torch.zeros(2, 3))[1].tolist()
    [3.0, 3.0]
    """

    def __init__(
        self, module: nn.Module, *, generator: torch.Generator, exact_up_to: int = 8
    ) -> None:
        super().__init__()
        self.module = module
        self.generator = generator
        self.exact_up_to = exact_up_to

    def forward(self, x: Tensor) -> Tensor:
        """Return f(x), of the shape (n, d) of `x`."""
        value: Tensor = self.module(x)
        return value

    def value_and_divergence(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(x) of shape (n, d) and its divergence of shape (n,), exact or estimated."""
        if x.shape[1] <= self.exact_up_to:
            return exact_divergence(self.module, x)
        return hutchinson_divergence(self.module, x, generator=self.generator)


def exact_divergence(field: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return a field and its divergence :math:`\sum_k \partial_k f_k` by d backward passes.

    Parameters
    ----------
    field : callable
        Smooth map from (n, d) to (n, d) that treats each row on its own.
    x : Tensor of shape (n, d)
        Points; no gradient flows back to them.

    Returns
    -------
    value : Tensor of shape (n, d)
    divergence : Tensor of shape (n,)
        Both are differentiable in what `field` holds, unless gradients are switched off.

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn.divergence import exact_divergence
    >>> exact_divergence(lambda x: x.square(), torch.tensor([[1.0, 3.0]]))
    (tensor([[1., 9.]], grad_fn=<PowBackward0>), tensor([8.], grad_fn=<SumBackward1>))
    """
    axes = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return _projected_divergence(field, x, [axis.expand_as(x) for axis in axes])


def hutchinson_divergence(
    field: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    generator: torch.Generator,
    n_probes: int = 1,
) -> tuple[Tensor, Tensor]:
    r"""Return a field and an unbiased estimate of its divergence.

    .. math:: \operatorname{div} f = \mathbb{E}\, \epsilon^\top \nabla\! f \,\epsilon ,

    :math:`\epsilon` of independent random signs, so that a diagonal Jacobian is met exactly.

    Parameters
    ----------
    field : callable
        Smooth map from (n, d) to (n, d) that treats each row on its own.
    x : Tensor of shape (n, d)
        Points; no gradient flows back to them.
    generator : torch.Generator
        Draws the signs, on the device of `x`.
    n_probes : int, default=1
        Number of probes that the estimate is the mean of, one backward pass each.

    Returns
    -------
    value : Tensor of shape (n, d)
    divergence : Tensor of shape (n,)
        Both are differentiable in what `field` holds, unless gradients are switched off.

    Raises
    ------
    ValueError
        If `n_probes` is below 1.

    References
    ----------
    M. Hutchinson. *A stochastic estimator of the trace of the influence matrix for Laplacian
    smoothing splines*. Communications in Statistics 18 (1989).

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn.divergence import hutchinson_divergence
    >>> generator = torch.Generator().manual_seed(0)
    >>> with torch.no_grad():
    ...     hutchinson_divergence(torch.sin, torch.zeros(1, 4), generator=generator)
    (tensor([[0., 0., 0., 0.]]), tensor([4.]))
    """
    if n_probes < 1:
        raise ValueError(f"n_probes must be at least 1, got {n_probes}.")
    shape = (n_probes, *x.shape)
    coins = torch.rand(shape, generator=generator, device=x.device) < 0.5
    value, total = _projected_divergence(field, x, list(1 - 2 * coins.to(x)))
    return value, total / n_probes


def _projected_divergence(
    field: Callable[[Tensor], Tensor], x: Tensor, probes: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the field and the sum over the probes e of e' Jf e."""
    learning = torch.is_grad_enabled()
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        value = field(points)
        parts = []
        for probe in probes:
            (pulled,) = torch.autograd.grad(
                value, points, probe, retain_graph=True, create_graph=learning
            )
            parts.append((pulled * probe).sum(1))
        divergence = torch.stack(parts).sum(0)
    return (value, divergence) if learning else (value.detach(), divergence.detach())


def _tanh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh and its slope."""
    value = a.tanh()
    return value, 1 - value * value


def _silu(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return a sigmoid(a) and its slope."""
    gate = a.sigmoid()
    value = a * gate
    return value, gate + value * (1 - gate)


def _chain_trace(weights: list[Tensor], slopes: list[Tensor]) -> Tensor:
    """Return the divergence of each row, (n,), from the slopes; () without hidden layers."""
    match slopes:
        case []:
            return weights[0].trace()
        case [slope]:
            first, last = weights
            return slope @ (first * last.T).sum(1)
        case [slope, next_slope]:
            first, second, last = weights
            return ((next_slope @ (second * (first @ last).T)) * slope).sum(1)
    first, second, third, last = weights
    if len(last) <= len(third):
        back = (slopes[2][:, None, :] * last) @ third
        ahead = (slopes[0][:, None, :] * first.T) @ second.T
    else:  # sum over the units of the last hidden layer, not over the coordinates
        back = slopes[2][:, :, None] * third
        ahead = (slopes[0][:, None, :] * (first @ last).T) @ second.T
    return ((back * ahead).sum(1) * slopes[1]).sum(1)
