"""Smooth activations with their first two derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Jet(NamedTuple):
    """An activation and its first two derivatives at the same inputs."""

    value: Tensor
    slope: Tensor
    bend: Tensor


class Activation(NamedTuple):
    """An activation as a function to differentiate, and in closed form to second order."""

    apply: Callable[[Tensor], Tensor]
    jet: Callable[[Tensor], Jet]


def _tanh_jet(u: Tensor) -> Jet:
    value = u.tanh()
    slope = 1 - value.square()
    return Jet(value, slope, -2 * value * slope)


def _softplus_jet(u: Tensor) -> Jet:
    gate = u.sigmoid()
    return Jet(torch.nn.functional.softplus(u), gate, gate * (1 - gate))


def _silu_jet(u: Tensor) -> Jet:
    gate = u.sigmoid()
    slope = gate * (1 - gate)
    return Jet(u * gate, gate + u * slope, slope * (2 + u * (1 - 2 * gate)))


def _gelu_jet(u: Tensor) -> Jet:
    below = torch.special.ndtr(u)
    density = torch.exp(-0.5 * u.square()) / math.sqrt(2 * math.pi)
    return Jet(u * below, below + u * density, density * (2 - u.square()))


ACTIVATIONS = {
    "tanh": Activation(torch.tanh, _tanh_jet),
    "softplus": Activation(torch.nn.functional.softplus, _softplus_jet),
    "silu": Activation(torch.nn.functional.silu, _silu_jet),
    "gelu": Activation(torch.nn.functional.gelu, _gelu_jet),
}
