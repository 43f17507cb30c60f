"""Parameters of the kernels: their checks, and the rules for a bandwidth."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

RULES = ("median", "scale")
_SUBSET_ROWS = 1000  # rows at even spacing that the median is taken from


def squared_bandwidth(x: Tensor, rule: str) -> float:
    r"""Return the squared length that a rule finds in a cloud `x` of shape (n, d).

    With m the median of the squared distances between different points, "scale" is m, and
    "median" is :math:`m / \log(n + 1)`. Where all points coincide, m is 1: there the velocity
    does not depend on it.
    """
    n = len(x)
    rows = torch.linspace(0, n - 1, min(n, _SUBSET_ROWS), dtype=torch.float64).round().long()
    distances = torch.pdist(x[rows.to(x.device)])
    distances = distances[distances > 0]
    squared = float(distances.median()) ** 2 if len(distances) else 1.0
    return squared / math.log(n + 1) if rule == "median" else squared


def check_number(value: object, name: str, wanted: str, valid: Callable[[float], bool]) -> float:
    """Return `value` as a float, or raise a ValueError unless it is a finite, valid number."""
    if isinstance(value, Real) and math.isfinite(value) and valid(float(value)):
        return float(value)
    raise ValueError(f"{name} must be {wanted}, got {value!r}.")


def check_bandwidth(bandwidth: object) -> float | str:
    """Return a bandwidth, or raise a ValueError unless it is a positive number or a rule's name."""
    if isinstance(bandwidth, str) and bandwidth in RULES:
        return bandwidth
    wanted = "a positive number, 'median' or 'scale'"
    return check_number(bandwidth, "bandwidth", wanted, lambda value: value > 0)
