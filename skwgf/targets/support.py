r"""Supports of log densities: the map from unconstrained to constrained coordinates.

A density of x on a constrained set becomes one of :math:`z \in \mathbb{R}^k` through a smooth
bijection :math:`x = T(z)`,

.. math:: \log p_z(z) = \log p_x(T(z)) + \log |\det DT(z)| .
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    SigmoidTransform,
    StickBreakingTransform,
    Transform,
    identity_transform,
)

__all__ = ["Block", "Support", "parse_support"]

_NAMES = ("real", "positive", "interval", "simplex", "ordered", "torus")
_HOW_TO = (
    "support is None, one name for all columns, or a tuple with one entry per block of columns: "
    "a name (one column), (name, size), or ('interval', size, low, high). The names are "
    + ", ".join(map(repr, _NAMES))
    + "."
)


class _OrderedTransform(Transform):
    """Increasing vectors: the first entry is free, the gaps are exponentials."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], x[..., 1:].exp()], dim=-1).cumsum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1], y.diff(dim=-1).log()], dim=-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the logarithms of the gaps."""
        return x[..., 1:].sum(-1)


class _WrapTransform(Transform):
    """The circle [0, 1): points one turn apart are the same, and nothing is stretched."""

    domain = constraints.real
    codomain = constraints.real

    def _call(self, x: Tensor) -> Tensor:
        wrapped = x - x.floor()
        # Just below an integer the difference rounds to one.
        return torch.where(wrapped < 1, wrapped, wrapped - wrapped.detach())

    def _inverse(self, y: Tensor) -> Tensor:
        wrapped: Tensor = self._call(y)
        return wrapped

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return zero."""
        return torch.zeros_like(x)


def _on_simplex(x: Tensor) -> Tensor:
    """Tell which rows are positive and sum to one up to rounding."""
    slack = 1e3 * torch.finfo(x.dtype).eps
    return (x > 0).all(1) & ((x.sum(1) - 1).abs() < slack * x.shape[1])


@dataclass(frozen=True)
class Block:
    """Neighbouring columns with a common support.

    Attributes
    ----------
    name : str
        One of "real", "positive", "interval", "simplex", "ordered" and "torus".

    size : int
        Number of columns.

    low, high : float
        Ends of an interval.

    Examples
    --------
    >>> from skwgf.targets.support import Block
    >>> Block("simplex", 3).n_dim
    2
    """

    name: str
    size: int
    low: float = 0.0
    high: float = 1.0

    @property
    def n_dim(self) -> int:
        """Number of unconstrained coordinates: one less than columns on a simplex."""
        return self.size - (self.name == "simplex")

    def transform(self) -> Transform:
        """Return the map from unconstrained to constrained coordinates."""
        transforms: dict[str, Callable[[], Transform]] = {
            "real": lambda: identity_transform,
            "positive": ExpTransform,
            "interval": lambda: ComposeTransform(
                [SigmoidTransform(), AffineTransform(self.low, self.high - self.low)]
            ),
            "simplex": StickBreakingTransform,
            "ordered": _OrderedTransform,
            "torus": _WrapTransform,
        }
        return transforms[self.name]()

    def contains(self, x: Tensor) -> Tensor:
        """Tell which rows of `x` lie inside, boundaries left out."""
        finite = x.isfinite().all(1)
        if self.name == "positive":
            return finite & (x > 0).all(1)
        if self.name == "interval":
            return finite & ((x > self.low) & (x < self.high)).all(1)
        if self.name == "simplex":
            return finite & _on_simplex(x)
        if self.name == "ordered":
            return finite & (x.diff(dim=1) > 0).all(1)
        return finite

    def describe(self) -> str:
        """Return what a row must be."""
        return {
            "positive": "positive",
            "interval": f"strictly between {self.low:g} and {self.high:g}",
            "simplex": "positive with sum 1",
            "ordered": "strictly increasing",
        }.get(self.name, "finite")


class Constrained(NamedTuple):
    """Points in constrained coordinates.

    Attributes
    ----------
    x : Tensor of shape (n, p)
        The points.

    log_jacobian : Tensor of shape (n,)
        Logarithm of the volume factor of the map at each point.
    """

    x: Tensor
    log_jacobian: Tensor


@dataclass(frozen=True, eq=False)
class Support:
    r"""A product of blocks, and the map :math:`T` onto it.

    Attributes
    ----------
    blocks : tuple of Block
        The blocks, in the order of the columns.

    shift, scale : Tensor of shape (p,), default=None
        Change of units after the map, :math:`x = \text{shift} + \text{scale} \cdot T(z)`. Its
        constant volume factor is left out of the log-Jacobian.

    Examples
    --------
    >>> import torch
    >>> from skwgf.targets.support import parse_support
    >>> support = parse_support(("real", ("simplex", 3)))
    >>> support.n_features, support.n_dim
    (4, 3)
    >>> support.constrain(torch.zeros(1, 3)).x
    tensor([[0.0000, 0.3333, 0.3333, 0.3333]])
    """

    blocks: tuple[Block, ...]
    shift: Tensor | None = None
    scale: Tensor | None = None

    @property
    def n_features(self) -> int:
        """Number of constrained coordinates p."""
        return sum(block.size for block in self.blocks)

    @property
    def n_dim(self) -> int:
        """Number of unconstrained coordinates k."""
        return sum(block.n_dim for block in self.blocks)

    @property
    def is_real(self) -> bool:
        """Whether the map is the identity."""
        return self.shift is None and all(block.name == "real" for block in self.blocks)

    def constrain(self, z: Tensor) -> Constrained:
        """Return :math:`T(z)` for `z` of shape (n, k), and the log-Jacobian there."""
        if self.is_real:
            return Constrained(z, z.new_zeros(len(z)))
        parts, log_jacobian = [], z.new_zeros(len(z))
        sizes = [block.n_dim for block in self.blocks]
        for block, part in zip(self.blocks, torch.split(z, sizes, 1), strict=True):
            transform: Any = block.transform()  # torch leaves its methods untyped
            x = transform(part)
            terms = transform.log_abs_det_jacobian(part, x)
            log_jacobian = log_jacobian + terms.reshape(len(z), -1).sum(1)
            parts.append(x)
        constrained = torch.cat(parts, dim=1)
        if self.shift is not None and self.scale is not None:
            constrained = self.shift + self.scale * constrained
        return Constrained(constrained, log_jacobian)

    def unconstrain(self, x: Tensor) -> Tensor:
        """Return :math:`T^{-1}(x)` for `x` of shape (n, p); points of a torus are wrapped.

        Raises
        ------
        ValueError
            If a row is not inside the support; the first such row is named.
        """
        if self.shift is not None and self.scale is not None:
            x = (x - self.shift) / self.scale
        parts, first = [], 0
        for block in self.blocks:
            part = x[:, first : first + block.size]
            inside = block.contains(part)
            if not inside.all():
                row = int((~inside).nonzero()[0, 0])
                where = (
                    f"column {first}"
                    if block.size == 1
                    else f"columns {first} to {first + block.size - 1}"
                )
                raise ValueError(
                    f"Row {row} is outside of the support: {where} must be {block.describe()}, "
                    f"got {part[row].tolist()}."
                )
            parts.append(block.transform().inv(part))
            first += block.size
        return torch.cat(parts, dim=1)


def parse_support(support: Any, n_features: int | None = None) -> Support:
    """Return the support described by a name or a tuple.

    Parameters
    ----------
    support : None, str or tuple
        None is "real". A name holds for all columns, of which "simplex" and "ordered" make one
        block. A tuple has one entry per block: a name (one column), `(name, size)`, or
        `("interval", size, low, high)`; an interval is (0, 1) unless told.

    n_features : int, default=None
        Number of columns; a tuple tells it by itself.

    Returns
    -------
    Support

    Raises
    ------
    ValueError
        If the description is not one of these, the sizes do not add up to `n_features`, or
        nothing tells the number of columns.

    Examples
    --------
    >>> from skwgf.targets.support import parse_support
    >>> parse_support("positive", 2).blocks
    (Block(name='positive', size=2, low=0.0, high=1.0),)
    """
    if isinstance(support, tuple):
        parsed = Support(tuple(_parse_block(entry) for entry in support))
        if parsed.n_features != (n_features or parsed.n_features) or not support:
            raise ValueError(
                f"The blocks of support={support!r} have {parsed.n_features} columns in all, but "
                f"there are {n_features} features."
            )
        return parsed
    if n_features is None:
        raise ValueError(
            "The number of dimensions of the log density is not known: pass n_features, a tuple "
            "as support, or a starting cloud X."
        )
    return Support((_parse_block(("real" if support is None else support, n_features)),))


def _parse_block(entry: Any) -> Block:
    """Return the block that an entry of `support` describes."""
    name, size, *limits = entry if isinstance(entry, tuple) and len(entry) > 1 else (entry, 1)
    if not isinstance(name, str) or name not in _NAMES:
        raise ValueError(f"{entry!r} does not describe a block. {_HOW_TO}")
    if not isinstance(size, Integral) or size < 1 + (name == "simplex"):
        least = "at least 2 columns" if name == "simplex" else "a whole number of columns"
        raise ValueError(f"A block {name!r} needs {least}, got {entry!r}. {_HOW_TO}")
    if not limits:
        return Block(name, int(size))
    finite = len(limits) == 2 and all(
        isinstance(limit, Real) and abs(float(limit)) < float("inf") for limit in limits
    )
    if name != "interval" or not finite or not limits[0] < limits[1]:
        raise ValueError(f"{entry!r} does not describe a block with limits low < high. {_HOW_TO}")
    return Block(name, int(size), float(limits[0]), float(limits[1]))
