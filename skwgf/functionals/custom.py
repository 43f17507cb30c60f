"""Functionals given as a function of the particles."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from skwgf._tensor import make_generator
from skwgf.functionals._start import jitter_rows
from skwgf.functionals._trial import try_function
from skwgf.functionals.base import (
    Device,
    Expansion,
    Functional,
    Precision,
    check_rows,
    expand_by_autograd,
    spread,
)

__all__ = ["TorchFunctional", "as_functional"]

_TRIAL_ROWS = 50


class TorchFunctional(Functional):
    r"""A functional given as a torch function of the particles, or of the particles and X.

    Gradient and Hessian products come from automatic differentiation.

    Parameters
    ----------
    fn : callable
        `fn(particles)` or `fn(particles, X)`, from tensors of shape (n, d) and (n_samples, d) to a
        tensor of shape (). It reads X if its second positional parameter has no default value. It
        must be twice differentiable, mean the same for any number of particles, and not depend on
        their order: then it is a functional of their law.

    Attributes
    ----------
    length_scale_ : float
        The spread of the rows of X, 1 for a single row.

    Raises
    ------
    TypeError
        At `fit`, if `fn` cannot be called or does not return a tensor.

    ValueError
        At `fit`, if what `fn` returns for trial particles is not a scalar, is not finite, or has
        no gradient.

    Notes
    -----
    `draw_start` draws rows of X with replacement and moves them by a tenth of their spread; for
    one row, which has none, it draws from N(0, I).

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import TorchFunctional
    >>> gap = TorchFunctional(lambda z, X: (z.mean(0) - X.mean(0)).square().sum())
    >>> gap.learns_from_data
    True
    >>> gap.fit(np.array([[0.0], [4.0]])).expand(torch.zeros(2, 1, dtype=torch.float64)).gradient
    tensor([[-4.],
            [-4.]], dtype=torch.float64)
    """

    def __init__(self, fn: Callable[..., Tensor]) -> None:
        self.fn = fn

    @property
    def learns_from_data(self) -> bool:
        """Whether the second positional parameter of `fn` has no default value."""
        return reads_data(self.fn)

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take X as data or as the starting cloud, and try the function; y is ignored."""
        rows = check_rows(X, self)
        self._settle(
            rows.shape[1],
            length_scale=spread(rows),
            follow=rows.dtype,
            device=device,
            dtype=dtype,
        )
        self._rows = self._tensor(rows)
        self._data = (self._rows,) if self.learns_from_data else ()
        probe = self._rows[:_TRIAL_ROWS]
        if self._data or len(rows) == 1:
            # On the rows of X themselves a function of the distances to them may be singular, and
            # of one particle a spread.
            n = max(2, len(probe))
            probe = self.draw_start(n, make_generator(0, self.device_))
        try_function(self.fn, probe, (), *self._data, name="fn")
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of X, with jitter."""
        return jitter_rows(self._rows, n, self.length_scale_, generator)

    def _value(self, z: Tensor) -> Tensor:
        return self.fn(z, *self._data)

    def _expand(self, z: Tensor) -> Expansion:
        return expand_by_autograd(self._value, z)


def as_functional(obj: Functional | Callable[..., Tensor]) -> Functional:
    """Return a functional as it is, and a function as a :class:`TorchFunctional`.

    Parameters
    ----------
    obj : Functional or callable
        A functional, fitted or not, or a torch function of the particles or of particles and X.

    Returns
    -------
    Functional

    Raises
    ------
    TypeError
        If `obj` is neither.

    Examples
    --------
    >>> from skwgf.functionals import SecondMoment, as_functional
    >>> as_functional(SecondMoment())
    SecondMoment()
    >>> type(as_functional(lambda z: z.square().mean())).__name__
    'TorchFunctional'
    """
    if isinstance(obj, Functional):
        return obj
    if isinstance(obj, type):
        raise TypeError(f"A functional is needed, got the class {obj.__name__}: add parentheses.")
    if not callable(obj):
        raise TypeError(
            "A functional must be one of skwgf.functionals or a torch function of the particles, "
            f"got {type(obj).__name__}."
        )
    return TorchFunctional(obj)


def reads_data(fn: Any) -> bool:
    """Tell whether the second positional parameter of a function has no default value."""
    called = fn.forward if isinstance(fn, torch.nn.Module) else fn
    if not callable(called):
        return False
    try:
        parameters = inspect.signature(called).parameters.values()
    except ValueError:  # some built-in functions have no signature
        return False
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in parameters if parameter.kind in kinds]
    return len(positional) > 1 and positional[1].default is inspect.Parameter.empty
