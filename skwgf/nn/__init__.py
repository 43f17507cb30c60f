"""Networks, the one-pass map they make, and the step that trains them."""

from __future__ import annotations

from skwgf.nn.mlp import Activation, mlp
from skwgf.nn.push_forward import PushForward, evaluate
from skwgf.nn.training import (
    Regressor,
    constant_schedule,
    cosine_schedule,
    norm_loss,
    squared_loss,
)

__all__ = [
    "Activation",
    "PushForward",
    "Regressor",
    "constant_schedule",
    "cosine_schedule",
    "evaluate",
    "mlp",
    "norm_loss",
    "squared_loss",
]
