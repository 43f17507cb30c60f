"""The loss of a two-layer network, to second order in its neurons."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skwgf.functionals._activations import Activation
from skwgf.functionals._losses import Loss


class Neurons(NamedTuple):
    """Neurons, or k fields on them: weights with bias (..., n, p + 1), outputs (..., n, q)."""

    w: Tensor
    a: Tensor


class Block(NamedTuple):
    """The summed loss of some rows to second order in n neurons, in matrices (rows, n)."""

    X: Tensor  # with a column of ones
    a: Tensor
    factor: float  # of the outputs
    value: Tensor  # of the activation
    slope: Tensor
    bend: Tensor  # weighted by `pull`
    pull: Tensor  # slope of the loss by the value of each neuron's activation
    loss: Tensor
    loss_slope: Tensor
    loss_curvature: Callable[[Tensor], Tensor]

    @classmethod
    def at(
        cls,
        X: Tensor,
        y: Tensor,
        neurons: Neurons,
        activation: Activation,
        loss: Loss,
        offset: Tensor,
        factor: float,
    ) -> Block:
        """Expand at the neurons."""
        w, a = neurons
        value, slope, bend = activation.jet(X @ w.T)
        jet = loss.jet(offset + (factor / len(a)) * (value @ a), y)
        pull = factor * (jet.slope @ a.T)
        return cls(
            X, a, factor, value, slope, bend.mul_(pull), pull, jet.value, jet.slope, jet.curvature
        )

    def gradient(self) -> Tensor:
        """Return the Wasserstein gradient, (n, d)."""
        inner = self.pull * self.slope
        outer = self.factor * (self.value.T @ self.loss_slope)
        return torch.cat([inner.T @ self.X, outer], dim=1)

    def product(self, fields: Neurons) -> Tensor:
        """Return the Hessian products of k fields, (k, n, d)."""
        # Changes along the fields, each of shape (k, rows, ...).
        inputs = self.X @ fields.w.mT
        values = self.slope * inputs
        outputs = (self.factor / len(self.a)) * (values @ self.a + self.value @ fields.a)
        slopes = self.loss_curvature(outputs)
        # Both terms of the change of `pull`, the outer products by a and by its field, at once.
        left = torch.cat([slopes, self.loss_slope.expand_as(slopes)], dim=2)
        right = torch.cat([self.a.expand_as(fields.a), fields.a], dim=2)
        pulls = left @ (self.factor * right).mT
        inner = pulls.mul_(self.slope).addcmul_(inputs, self.bend)
        outer = self.factor * (values.mT @ self.loss_slope + self.value.T @ slopes)
        return torch.cat([inner.mT @ self.X, outer], dim=2)
