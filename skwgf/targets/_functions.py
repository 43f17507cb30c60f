"""Calling a user's log density or gradient: torch or numpy, for a batch or for one row."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from skwgf._tensor import is_tensor, to_numpy, to_tensor

Mode = Literal["batched", "vmap", "loop"]

_HOW = {
    "batched": "called with the batch",
    "vmap": "mapped over the rows by torch.vmap",
    "loop": "called row by row",
}


@dataclass(frozen=True)
class RowFunction:
    """A user's function, made one from (n, p) tensors to tensors with n rows.

    Attributes
    ----------
    fn : callable
        The user's function.

    is_numpy : bool
        Whether it reads and returns numpy arrays.

    mode : {"batched", "vmap", "loop"}
        Whether it is called once with all rows, once through :func:`torch.vmap`, or with each row.
    """

    fn: Callable[[Any], Any]
    is_numpy: bool
    mode: Mode

    def __call__(self, x: Tensor) -> Tensor:
        """Return the values at the rows of `x`, on its device and in its precision."""
        if self.is_numpy:
            rows = to_numpy(x)
            values = self.fn(rows) if self.mode == "batched" else [self.fn(row) for row in rows]
            for value in values if isinstance(values, list) else [values]:
                if not isinstance(value, np.ndarray | np.generic | float | int):
                    raise TypeError(f"returned {type(value).__name__}, not a numpy array")
            return to_tensor(np.asarray(values), device=x.device, dtype=x.dtype)
        if self.mode == "batched":
            result = self.fn(x)
        elif self.mode == "vmap":
            result = torch.vmap(self.fn)(x)
        else:
            result = [self.fn(row) for row in x]
            if all(is_tensor(value) for value in result):
                result = torch.stack(result)
        if not isinstance(result, Tensor):
            raise TypeError(f"returned {type(result).__name__}, not a torch tensor")
        return result


def find_form(
    fn: Callable[[Any], Any],
    probe: Tensor,
    shape: tuple[int, ...],
    *,
    name: str,
    batched: bool | None,
    may_be_numpy: bool,
) -> RowFunction:
    """Return `fn` in the first form that gives a result of the right shape at `probe`.

    Parameters
    ----------
    fn : callable
        The user's function.

    probe : Tensor of shape (n, p)
        Points to try, n different from p so that a function of one row cannot pass for one of a
        batch. With a gradient required, functions that leave torch are refused.

    shape : tuple of int
        Shape of the result at `probe`.

    name : str
        Name of the parameter, for the error.

    batched : bool or None
        Whether `fn` takes all rows at once; None tries both.

    may_be_numpy : bool
        Whether numpy arrays are tried, before tensors.

    Returns
    -------
    RowFunction

    Raises
    ------
    ValueError
        If no form works; what each gave is told.
    """
    modes: list[Mode] = ["batched"] if batched in (None, True) else []
    modes += ["vmap", "loop"] if not batched else []
    reasons = []
    for is_numpy in (True, False) if may_be_numpy else (False,):
        for mode in modes:
            if is_numpy and mode == "vmap":
                continue
            form = RowFunction(fn, is_numpy, mode)
            # Whatever goes wrong in a form that does not fit is told if none fits.
            try:
                with warnings.catch_warnings(action="ignore"):
                    result = form(probe)
            except Exception as error:
                reasons.append((is_numpy, mode, f"{type(error).__name__}: {error}"))
                continue
            if tuple(result.shape) != shape:
                reasons.append((is_numpy, mode, f"shape {tuple(result.shape)} in all"))
            elif mode == "batched" and not _is_rowwise(form, probe, result):
                reasons.append((is_numpy, mode, "a row's result depends on the other rows"))
            else:
                return form
    n, p = probe.shape
    attempts = "\n".join(
        f"  {_HOW[mode]} of {'numpy arrays' if is_numpy else 'torch tensors'}: "
        + reason.splitlines()[0]
        for is_numpy, mode, reason in reasons
    )
    raise ValueError(
        f"{name} does not work: for {n} rows of {p} coordinates a result of shape {shape} is "
        f"needed, at once or row by row. What was tried:\n{attempts}\n"
        + (
            "The function and its gradient may be written in torch or in numpy."
            if may_be_numpy
            else "Without grad, it must be written in torch operations; a numpy function needs "
            "its gradient as grad."
        )
    )


def _is_rowwise(form: RowFunction, probe: Tensor, result: Tensor) -> bool:
    """Tell whether the first row alone has the result that it has among others.

    A gradient of one row may well return the right shape for many: -x * sum(x**2), say.
    """
    alone = form(probe[:1])
    tol = torch.finfo(probe.dtype).eps ** 0.5
    return alone.shape == result[:1].shape and torch.allclose(
        alone, result[:1], rtol=tol, atol=tol, equal_nan=True
    )
