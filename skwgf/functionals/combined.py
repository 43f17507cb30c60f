"""Functionals made of others: sums and multiples."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from skwgf.functionals.base import Device, Expansion, Functional, Precision

__all__ = ["Scaled", "Sum"]

_START = 200  # particles that a part without data takes its scales from


class Sum(Functional):
    """The sum of two functionals, also written ``left + right``.

    Parameters
    ----------
    left, right : Functional
        What is added. If one learns from data, so does the sum; the other one, if it does not,
        takes its number of coordinates from particles that the first one draws.

    Attributes
    ----------
    left_, right_ : Functional
        The fitted copies.

    Raises
    ------
    ValueError
        At `fit`, if the particles of the two have different numbers of coordinates.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import PotentialEnergy
    >>> bowl = PotentialEnergy(lambda x: x.square().sum(1))
    >>> both = (bowl + 2 * bowl).fit(np.ones((4, 2)))
    >>> both.value(torch.ones(4, 2, dtype=torch.float64))
    tensor(6., dtype=torch.float64)
    """

    def __init__(self, left: Functional, right: Functional) -> None:
        self.left = left
        self.right = right

    @property
    def learns_from_data(self) -> bool:
        """Whether one of the two learns from data."""
        return self.left.learns_from_data or self.right.learns_from_data

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Fit copies of both, see :meth:`Functional.fit`."""
        self.left_, self.right_ = clone(self.left), clone(self.right)
        ahead, behind = self.left_, self.right_
        if behind.learns_from_data and not ahead.learns_from_data:
            ahead, behind = behind, ahead
        ahead.fit(X, y, device=device, dtype=dtype)
        if ahead.learns_from_data and not behind.learns_from_data:
            generator = torch.Generator(ahead.device_).manual_seed(0)
            start = ahead.draw_start(_START, generator)
            behind.fit(start, device=device, dtype=ahead.dtype_)
        else:
            behind.fit(X, y, device=device, dtype=ahead.dtype_)
        if self.left_.n_dim_ != self.right_.n_dim_:
            raise ValueError(
                "The particles of the two functionals of a sum must have the same coordinates, got "
                f"{self.left_.n_dim_} and {self.right_.n_dim_}."
            )
        self._leader = ahead
        self._settle(
            ahead.n_dim_,
            length_scale=ahead.length_scale_,
            follow=np.float64,
            device=ahead.device_,
            dtype=ahead.dtype_,
        )
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw particles as the one that learns from data does, or else the left one."""
        start: Tensor = self._leader.draw_start(n, generator)
        return start

    def _value(self, z: Tensor) -> Tensor:
        value: Tensor = self.left_.value(z) + self.right_.value(z)
        return value

    def _expand(self, z: Tensor) -> Expansion:
        left, right = self.left_.expand(z), self.right_.expand(z)
        return Expansion(
            left.value + right.value,
            left.gradient + right.gradient,
            lambda fields: left.hessian(fields) + right.hessian(fields),
        )


class Scaled(Functional):
    """A multiple of a functional, also written ``factor * functional``.

    Parameters
    ----------
    functional : Functional
        What is multiplied.

    factor : float
        A finite number; a negative one asks for a maximum.

    Attributes
    ----------
    functional_ : Functional
        The fitted copy.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import PotentialEnergy
    >>> half = (0.5 * PotentialEnergy(lambda x: x.square().sum(1))).fit(np.ones((3, 1)))
    >>> half.expand(torch.ones(3, 1, dtype=torch.float64)).gradient.T
    tensor([[1., 1., 1.]], dtype=torch.float64)
    """

    def __init__(self, functional: Functional, factor: float) -> None:
        self.functional = functional
        self.factor = factor

    @property
    def learns_from_data(self) -> bool:
        """Whether the functional learns from data."""
        return self.functional.learns_from_data

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Fit a copy, see :meth:`Functional.fit`."""
        if not math.isfinite(self.factor):
            raise ValueError(f"factor must be finite, got {self.factor!r}.")
        self.functional_ = clone(self.functional).fit(X, y, device=device, dtype=dtype)
        self._settle(
            self.functional_.n_dim_,
            length_scale=self.functional_.length_scale_,
            follow=np.float64,
            device=self.functional_.device_,
            dtype=self.functional_.dtype_,
        )
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw particles as the functional does."""
        start: Tensor = self.functional_.draw_start(n, generator)
        return start

    def _value(self, z: Tensor) -> Tensor:
        value: Tensor = self.factor * self.functional_.value(z)
        return value

    def _expand(self, z: Tensor) -> Expansion:
        value, gradient, hessian = self.functional_.expand(z)
        return Expansion(
            self.factor * value,
            self.factor * gradient,
            lambda fields: self.factor * hessian(fields),
        )
