"""Functions of the squared distance that make energies of pairs: kernels, distance, torch code."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skwgf.functionals._pair_sums import Derivatives, PairFunction
from skwgf.kernels import Gaussian, InverseMultiquadric, Kernel, Scaled, Sum
from skwgf.kernels.radial import Radial

# Powers of two below are negligible, and ten times slower to compute.
_FLOOR = {torch.float32: -120.0, torch.float64: -1000.0}


def pair_function(kernel: Kernel) -> PairFunction:
    """Return a resolved kernel as a function of squared distances.

    Raises
    ------
    TypeError
        If the kernel is not a function of the distance.

    ValueError
        If it is not twice differentiable where points coincide.
    """
    if isinstance(kernel, Sum | Scaled):
        terms = _terms(kernel, 1.0)
        return terms[0] if len(terms) == 1 else _total(terms)
    if not isinstance(kernel, Radial):
        raise TypeError(
            "The kernel must be a function of the distance, one of Gaussian, InverseMultiquadric "
            f"and Matern, or a sum or multiple of such, got {kernel!r}."
        )
    if not kernel.has_discrepancy:
        raise ValueError(
            f"{type(kernel).__name__} is not twice differentiable where two points coincide, so "
            "that it makes no energy with a Hessian. Use Gaussian, InverseMultiquadric or Matern; "
            "for the distance itself, EnergyDistance."
        )
    if isinstance(kernel, Gaussian):
        return _gaussian(kernel._length())
    if isinstance(kernel, InverseMultiquadric):
        return _multiquadric(kernel._length(), kernel.exponent)
    return _profiled(kernel)


def negative_distance(smoothing: float) -> PairFunction:
    """Return -sqrt(u + smoothing^2)."""
    power = _multiquadric(smoothing, 0.5)
    a, b, c = power.weights
    return power._replace(weights=(-smoothing * a, -smoothing * b, -smoothing * c))


def differentiated(function: Callable[[Tensor], Any]) -> PairFunction:
    """Return an elementwise torch function of u, whose derivatives autograd takes."""
    return PairFunction(function, partial(_differentiate, function))


def _differentiate(function: Callable[[Tensor], Any], u: Tensor) -> Derivatives:
    """Return a function of u with its first two derivatives."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        energy = function(u)
        slope = _derivative(energy, u, create_graph=True)
        bend = _derivative(slope, u, create_graph=False)
    return Derivatives(energy.detach(), slope.detach(), bend)


def _derivative(values: Tensor, u: Tensor, *, create_graph: bool) -> Tensor:
    """Return the derivative of each entry by its own entry of u."""
    if not values.requires_grad:
        return torch.zeros_like(u)
    (slope,) = torch.autograd.grad(
        values.sum(), u, create_graph=create_graph, materialize_grads=True
    )
    return slope


def _gaussian(length: float) -> PairFunction:
    """Return the Gaussian kernel, which is its own derivative up to a factor."""
    rate = 0.5 / length**2
    bits = rate / math.log(2)
    return PairFunction(
        partial(_power, bits), partial(_powers, bits), (1.0, -rate, rate**2), one_matrix=True
    )


def _power(bits: float, u: Tensor) -> Tensor:
    """Return 2^(-bits u)."""
    return u.mul_(-bits).clamp_(min=_FLOOR[u.dtype]).exp2_()


def _powers(bits: float, u: Tensor) -> Derivatives:
    """Return 2^(-bits u), which serves for its derivatives as well."""
    power = _power(bits, u)
    return Derivatives(power, power, power)


def _multiquadric(length: float, exponent: float) -> PairFunction:
    """Return (1 + u / length^2)^exponent."""
    square = length**2
    first, second = exponent / square, exponent * (exponent - 1) / square**2
    return PairFunction(
        partial(_root, square, exponent), partial(_roots, square, exponent), (1.0, first, second)
    )


def _root(square: float, exponent: float, u: Tensor) -> Tensor:
    """Return (1 + u / square)^exponent."""
    return u.div_(square).add_(1).pow_(exponent)


def _roots(square: float, exponent: float, u: Tensor) -> Derivatives:
    """Return this power, and the next two lower ones."""
    base = u.div_(square).add_(1)
    power = base.pow(exponent)
    # Roots are cheap, divisions are not.
    inverse = power.square() if exponent == -0.5 else base.reciprocal_()
    slope = power * inverse
    return Derivatives(power, slope, inverse.mul_(slope))


def _profiled(kernel: Radial) -> PairFunction:
    """Return a kernel by its profile, the trace of which is 4 u w'' in dimension 0."""
    square = kernel._length() ** 2
    return PairFunction(
        partial(_profile_value, kernel, square),
        partial(_profile, kernel, square),
        (1.0, 1 / square, 0.25 / square**2),
    )


def _profile_value(kernel: Radial, square: float, u: Tensor) -> Tensor:
    """Return a kernel of bandwidth one at u / square."""
    return kernel._profile(u.div_(square), 0).value


def _profile(kernel: Radial, square: float, u: Tensor) -> Derivatives:
    """Return this value and the derivatives that its profile holds."""
    u = u.div_(square)
    zero = u == 0
    value, slope, trace = kernel._profile(u.clone(), 0)
    assert trace is not None  # the kernel is smooth
    return Derivatives(value, slope, trace.div_(u).masked_fill_(zero, 0.0))


def _terms(kernel: Kernel, factor: float) -> list[PairFunction]:
    """Return what a kernel made of others is the sum of."""
    if isinstance(kernel, Sum):
        return _terms(kernel.left, factor) + _terms(kernel.right, factor)
    if isinstance(kernel, Scaled):
        assert kernel.factor is not None  # the kernel is resolved
        return _terms(kernel.kernel, factor * kernel.factor)
    function = pair_function(kernel)
    a, b, c = function.weights
    return [function._replace(weights=(factor * a, factor * b, factor * c))]


def _total(terms: list[PairFunction]) -> PairFunction:
    """Return the sum of functions."""
    return PairFunction(partial(_total_value, terms), partial(_total_derivatives, terms))


def _total_value(terms: list[PairFunction], u: Tensor) -> Tensor:
    """Return the weighted sum of values."""
    total = torch.zeros_like(u)
    for term in terms:
        total.add_(term.value(u.clone()), alpha=term.weights[0])
    return total


def _total_derivatives(terms: list[PairFunction], u: Tensor) -> Derivatives:
    """Return the weighted sums of values and derivatives."""
    totals = Derivatives(*(torch.zeros_like(u) for _ in range(3)))
    for term in terms:
        for total, part, weight in zip(
            totals, term.derivatives(u.clone()), term.weights, strict=True
        ):
            total.add_(part, alpha=weight)
    return totals
