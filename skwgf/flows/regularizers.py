r"""Convex costs g of a velocity, their conjugates, and the rules for an adaptive exponent.

The generalised flow moves along :math:`\nabla g^*(r)`, r the residual
:math:`\nabla\log\pi - \nabla\log\rho`, which maximises :math:`f \cdot r - g(f)`. All costs here
are sums over coordinates, all methods act on rows. For :math:`f = \nabla g^*(r)`, equivalently
:math:`r = \nabla g(f)`, Fenchel's equality :math:`g(f) + g^*(r) = f \cdot r` holds.

References
----------
.. [1] Z. Cheng, S. Zhang, L. Yu, C. Zhang. *Particle-based variational inference with generalized
   Wasserstein gradient flow*. NeurIPS 2023, arXiv:2310.16516.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from skwgf._tensor import best_float

__all__ = [
    "DiagonalQuadratic",
    "ExponentRule",
    "HuberCost",
    "LpCost",
    "Regularizer",
    "exponent_gradient",
    "next_exponent",
]

ExponentRule = Literal["dissipation", "conjugate", "frozen"]
EXPONENT_RANGE = (1.1, 6.0)


class Regularizer(Protocol):
    """A convex cost of a velocity: rows of shape (n, d) in; rows, or sums of shape (n,), out.

    Examples
    --------
    A cost of your own, :math:`g(f) = |f|^2`, whose flow is half as fast as that of
    :class:`LpCost`:

    >>> import torch
    >>> from skwgf.flows.regularizers import LpCost, Regularizer
    >>> class Twice:
    ...     def value(self, f):
    ...         return f.square().sum(1)
    ...     def gradient(self, f):
    ...         return 2 * f
    ...     def conjugate(self, r):
    ...         return r.square().sum(1) / 4
    ...     def conjugate_gradient(self, r):
    ...         return r / 2
    >>> cost: Regularizer = Twice()
    >>> r = torch.tensor([[2.0, -4.0]])
    >>> cost.conjugate_gradient(r), LpCost(2.0).conjugate_gradient(r)
    (tensor([[ 1., -2.]]), tensor([[ 2., -4.]]))
    """

    def value(self, f: Tensor) -> Tensor:
        """Return g(f), of shape (n,)."""

    def gradient(self, f: Tensor) -> Tensor:
        """Return the gradient of g, the inverse function of `conjugate_gradient`."""

    def conjugate(self, r: Tensor) -> Tensor:
        """Return g*(r), of shape (n,)."""

    def conjugate_gradient(self, r: Tensor) -> Tensor:
        """Return the gradient of g*: the velocity that belongs to the residual r."""


@dataclass(frozen=True)
class LpCost:
    r"""The cost :math:`g(f) = \sum_k |f_k|^p / p`.

    .. math:: \nabla g^*(r) = \operatorname{sign}(r)\, |r|^{q - 1}, \qquad q = p / (p - 1)

    Parameters
    ----------
    p : float, default=2.0
        Exponent above 1. At 2 the flow is the gradient flow of the L2 Wasserstein geometry; above,
        particles with a large residual are slowed down and the others sped up.

    Raises
    ------
    ValueError
        If `p` is not a finite number above 1.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.regularizers import LpCost
    >>> LpCost(1.5).conjugate_gradient(torch.tensor([[-2.0, 0.5]]))
    tensor([[-4.0000,  0.2500]])
    """

    p: float = 2.0

    def __post_init__(self) -> None:
        if not 1 < self.p < math.inf:
            raise ValueError(
                f"p must be a finite number above 1, got {self.p!r}: at 1 the cost has no smooth "
                "conjugate. Take 1.1 or more."
            )

    @property
    def q(self) -> float:
        """The conjugate exponent, 1/p + 1/q = 1."""
        return self.p / (self.p - 1)

    def value(self, f: Tensor) -> Tensor:
        """Return g(f), of shape (n,)."""
        return f.abs().pow(self.p).sum(1) / self.p

    def gradient(self, f: Tensor) -> Tensor:
        """Return the gradient of g."""
        return f.sign() * f.abs().pow(self.p - 1)

    def conjugate(self, r: Tensor) -> Tensor:
        """Return g*(r), of shape (n,)."""
        return r.abs().pow(self.q).sum(1) / self.q

    def conjugate_gradient(self, r: Tensor) -> Tensor:
        """Return the velocity that belongs to the residual r."""
        return r.sign() * r.abs().pow(self.q - 1)


@dataclass(frozen=True, eq=False)
class DiagonalQuadratic:
    r"""The cost :math:`g(f) = \tfrac12 \sum_k f_k^2 / a_k`, a preconditioned flow.

    .. math:: \nabla g^*(r) = a \circ r

    Parameters
    ----------
    scale : Tensor of shape (d,)
        The positive factors a on the velocity, such as the variances of the coordinates.

    Raises
    ------
    ValueError
        If a factor is not positive and finite.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.regularizers import DiagonalQuadratic
    >>> DiagonalQuadratic(torch.tensor([1.0, 4.0])).conjugate_gradient(torch.ones(1, 2))
    tensor([[1., 4.]])
    """

    scale: Tensor

    def __post_init__(self) -> None:
        valid = (self.scale > 0) & torch.isfinite(self.scale)
        if self.scale.ndim != 1 or not bool(valid.all()):
            raise ValueError(
                f"scale must be a vector of positive numbers, got {self.scale.tolist()}."
            )

    def value(self, f: Tensor) -> Tensor:
        """Return g(f), of shape (n,)."""
        return 0.5 * (f.square() / self.scale.to(f)).sum(1)

    def gradient(self, f: Tensor) -> Tensor:
        """Return the gradient of g."""
        return f / self.scale.to(f)

    def conjugate(self, r: Tensor) -> Tensor:
        """Return g*(r), of shape (n,)."""
        return 0.5 * (r.square() * self.scale.to(r)).sum(1)

    def conjugate_gradient(self, r: Tensor) -> Tensor:
        """Return the velocity that belongs to the residual r."""
        return r * self.scale.to(r)


@dataclass(frozen=True)
class HuberCost:
    r"""A cost whose conjugate is quadratic up to `delta` and nearly linear beyond.

    .. math:: \nabla g^*(r) = \operatorname{sign}(r)
        \bigl( \min(|r|, \delta) + \kappa \, (|r| - \delta)_+ \bigr)

    for each coordinate: stray particles are brought back at a bounded pace, up to the slope
    :math:`\kappa`, that keeps g finite; Huber's function is the limit :math:`\kappa \to 0`.

    Parameters
    ----------
    delta : float, default=1.0
        Where the slope changes, positive, in the unit of the residual.

    slope : float, default=0.1
        The slope :math:`\kappa` beyond, in (0, 1]. At 1 the cost is quadratic.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.regularizers import HuberCost
    >>> HuberCost(delta=1.0, slope=0.5).conjugate_gradient(torch.tensor([[-3.0, 0.5]]))
    tensor([[-2.0000,  0.5000]])
    """

    delta: float = 1.0
    slope: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.delta < math.inf:
            raise ValueError(f"delta must be a positive number, got {self.delta!r}.")
        if not 0 < self.slope <= 1:
            raise ValueError(f"slope must lie in (0, 1], got {self.slope!r}.")

    def value(self, f: Tensor) -> Tensor:
        """Return g(f), of shape (n,)."""
        return _bent_square(f, self.delta, 1 / self.slope)

    def gradient(self, f: Tensor) -> Tensor:
        """Return the gradient of g."""
        return _bent_line(f, self.delta, 1 / self.slope)

    def conjugate(self, r: Tensor) -> Tensor:
        """Return g*(r), of shape (n,)."""
        return _bent_square(r, self.delta, self.slope)

    def conjugate_gradient(self, r: Tensor) -> Tensor:
        """Return the velocity that belongs to the residual r."""
        return _bent_line(r, self.delta, self.slope)


def exponent_gradient(r: Tensor, p: float, rule: ExponentRule) -> float:
    r"""Return the derivative in p of the quantity that a rule follows.

    Named by the quantity and by what stays as it is while p changes, with q = p / (p - 1):

    * "dissipation": :math:`\mathbb{E} |r|_q^q`, r fixed: how fast the energy falls;
    * "conjugate": :math:`\mathbb{E} |r|_q^q / q = \mathbb{E}\, g^*(r)`, r fixed;
    * "frozen": :math:`\mathbb{E} |f|_p^p / p = \mathbb{E}\, g(f)`, with the velocity
      :math:`f = \nabla g^*(r)` fixed. By the envelope theorem it is minus "conjugate".

    Parameters
    ----------
    r : Tensor of shape (n, d)
        Residuals of the particles.

    p : float
        Exponent above 1.

    rule : {"dissipation", "conjugate", "frozen"}
        What to follow.

    Returns
    -------
    float
        The derivative; the norms are sums over the coordinates, the expectation is the mean over
        the particles.

    Raises
    ------
    ValueError
        If `p` is not above 1 or the rule is unknown.

    References
    ----------
    Z. Cheng, S. Zhang, L. Yu, C. Zhang. *Particle-based variational inference with generalized
    Wasserstein gradient flow*. NeurIPS 2023, arXiv:2310.16516, on the adaptive flow.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.regularizers import exponent_gradient
    >>> r = torch.tensor([[1.0], [-1.0]])
    >>> [exponent_gradient(r, 2.0, rule) for rule in ("dissipation", "conjugate", "frozen")]
    [-0.0, 0.25, -0.25]
    """
    if rule not in get_args(ExponentRule):
        raise ValueError(f"rule={rule!r} is not known. Use one of {get_args(ExponentRule)}.")
    q = LpCost(p).q
    size = r.abs().to(best_float(r.device))
    power = size.pow(q)
    # xlogy: a residual of zero adds nothing, where its logarithm would make it not a number.
    logs = float(torch.xlogy(power, size).sum(1).mean())
    if rule == "dissipation":
        return -logs / (p - 1) ** 2
    conjugate = float(power.sum(1).mean()) / p**2 - logs / (p * (p - 1))
    return conjugate if rule == "conjugate" else -conjugate


def next_exponent(
    r: Tensor,
    p: float,
    rule: ExponentRule,
    rate: float,
    limits: tuple[float, float] = EXPONENT_RANGE,
) -> float:
    """Return the exponent after one step of gradient ascent, held within limits.

    Parameters
    ----------
    r : Tensor of shape (n, d)
        Residuals of the particles.

    p : float
        Exponent above 1.

    rule : {"dissipation", "conjugate", "frozen"}
        What to raise, see :func:`exponent_gradient`.

    rate : float
        Step along the derivative for each coordinate, which does not grow with d.

    limits : tuple of (float, float), default=(1.1, 6.0)
        Least and largest exponent.

    Returns
    -------
    float

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.regularizers import next_exponent
    >>> next_exponent(torch.ones(5, 3), 2.0, "conjugate", rate=1.0)
    2.25
    >>> next_exponent(torch.ones(5, 3), 2.0, "frozen", rate=100.0)
    1.1
    """
    least, largest = limits
    moved = p + rate * exponent_gradient(r, p, rule) / r.shape[1]
    return min(max(moved, least), largest)


def _bent_line(x: Tensor, knee: float, slope: float) -> Tensor:
    """Return the odd function of slope 1 up to the knee and `slope` beyond."""
    size = x.abs()
    return x.sign() * (size.clamp(max=knee) + slope * (size - knee).clamp(min=0))


def _bent_square(x: Tensor, knee: float, slope: float) -> Tensor:
    """Return the row sums of the integral of :func:`_bent_line` from zero."""
    size = x.abs()
    inner, outer = size.clamp(max=knee), (size - knee).clamp(min=0)
    return (0.5 * inner.square() + knee * outer + 0.5 * slope * outer.square()).sum(1)
