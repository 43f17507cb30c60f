"""Losses of a network's outputs, with their first two derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class LossJet(NamedTuple):
    """A loss of many rows, to second order in the outputs.

    Attributes
    ----------
    value : Tensor of shape ()
        The sum over the rows.

    slope : Tensor of shape (rows, q)
        The gradient by the outputs.

    curvature : callable
        Applies the Hessian of each row to changes of the outputs, (k, rows, q) to the same.
    """

    value: Tensor
    slope: Tensor
    curvature: Callable[[Tensor], Tensor]


class Loss(NamedTuple):
    """A loss as a sum over rows to differentiate, and in closed form to second order."""

    total: Callable[[Tensor, Tensor], Tensor]
    jet: Callable[[Tensor, Tensor], LossJet]


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * (outputs - targets).square().sum()


def _squared_jet(outputs: Tensor, targets: Tensor) -> LossJet:
    residual = outputs - targets
    return LossJet(0.5 * residual.square().sum(), residual, lambda change: change)


def _binary(outputs: Tensor, targets: Tensor) -> Tensor:
    return (torch.nn.functional.softplus(outputs) - targets * outputs).sum()


def _binary_jet(outputs: Tensor, targets: Tensor) -> LossJet:
    probability = outputs.sigmoid()
    variance = probability * (1 - probability)
    return LossJet(
        _binary(outputs, targets), probability - targets, lambda change: variance * change
    )


def _softmax(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.logsumexp(1).sum() - (targets * outputs).sum()


def _softmax_jet(outputs: Tensor, targets: Tensor) -> LossJet:
    probability = outputs.softmax(1)

    def curvature(change: Tensor) -> Tensor:
        weighted = probability * change
        return weighted - probability * weighted.sum(2, keepdim=True)

    return LossJet(_softmax(outputs, targets), probability - targets, curvature)


SQUARED = Loss(_squared, _squared_jet)
BINARY = Loss(_binary, _binary_jet)  # targets 0 or 1, one output: the log-odds
SOFTMAX = Loss(_softmax, _softmax_jet)  # targets one-hot, an output per class
