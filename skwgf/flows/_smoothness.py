r"""Whether a minimisation may start: the functional is finite and twice differentiable there.

Along a segment of random direction v the fundamental theorem

.. math:: g(z + h v) - g(z) = \int_0^h H(z + t v) \, v \, dt

holds for gradients that are absolutely continuous. Where the gradient jumps, as that of a ReLU
network or of |x| does, the jumps are on the left alone, and no refinement of the quadrature on the
right makes up for them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skwgf.flows._curvature import normal_like
from skwgf.functionals.base import Functional

__all__ = ["check_finite", "check_start", "check_twice_differentiable", "coincident"]

# Length of the segment, in length scales. Long enough to cross kinks, short for smooth functionals.
_LENGTH = 0.1
# Relative mismatch that is fine at once, and one that no smooth functional has on fine panels.
_FINE, _BROKEN = 1e-3, 0.05
_PANELS = (1, 4, 16)
# Nodes of Gauss and Legendre on (0, 1).
_NODES = (0.5 - math.sqrt(1 / 12), 0.5 + math.sqrt(1 / 12))


def check_twice_differentiable(
    functional: Functional, z: Tensor, generator: torch.Generator
) -> None:
    """Raise a ValueError if the gradient of a functional jumps near a cloud.

    Parameters
    ----------
    functional : Functional
        A fitted functional.

    z : Tensor of shape (n, d)
        Particles.

    generator : torch.Generator
        Draws the direction.

    Raises
    ------
    ValueError
        If the gradient changes by what is not in the Hessian products.

    Notes
    -----
    Costs two gradients and two Hessian products for a smooth functional, and up to 42 where the
    curvature varies within a tenth of `length_scale_`. A kink that no particle comes across goes
    unseen.
    """
    v = normal_like(z, generator)
    v = v * (_LENGTH * functional.length_scale_ / v.square().sum(1).mean().sqrt())
    first = functional.expand(z).gradient
    change = functional.expand(z + v).gradient - first
    rounding = 1e4 * torch.finfo(z.dtype).eps * float(first.norm())
    mismatches = []
    for panels in _PANELS:
        integral = torch.zeros_like(v)
        for k in range(panels):
            for node in _NODES:
                hessian = functional.expand(z + (k + node) / panels * v).hessian
                integral = integral + hessian(v[None])[0] / (2 * panels)
        mismatch = float((change - integral).norm())
        size = float(change.norm() + integral.norm())
        if not math.isfinite(size) or mismatch <= max(_FINE * size, rounding):
            return
        mismatches.append(mismatch / size)
    if mismatches[-1] > _BROKEN and mismatches[-1] > 0.25 * min(mismatches[:-1]):
        raise ValueError(
            f"{type(functional).__name__} is not twice differentiable: along a short line its "
            f"gradient changes by {float(change.norm()):.3g}, of which its Hessian products miss "
            f"{100 * mismatches[-1]:.0f}%. Second-order steps need a smooth functional: replace "
            "kinks such as those of relu, abs, max or an un-squared norm by smooth functions "
            "(softplus, sqrt(x**2 + eps), logsumexp)."
        )


def check_start(functional: Functional, particles: Tensor, generator: torch.Generator) -> None:
    """Raise a ValueError unless a functional is finite and twice differentiable at a start."""
    value, gradient, _ = functional.expand(particles)
    check_finite(functional, value, gradient)
    check_twice_differentiable(functional, particles, generator)


def check_finite(functional: Functional, value: Tensor, gradient: Tensor) -> None:
    """Raise a ValueError if a value or a gradient is NaN or infinite."""
    name = type(functional).__name__
    if not bool(torch.isfinite(value)):
        raise ValueError(
            f"{name} is {float(value)} at the particles. Start where the functional is finite."
        )
    lost = ~torch.isfinite(gradient).all(1)
    if bool(lost.any()):
        k = int(lost.nonzero()[0, 0])
        raise ValueError(
            f"The gradient of {name} is not finite at particle {k}. Start elsewhere, or replace "
            "roots and logarithms by functions that are smooth there."
        )


def coincident(particles: Tensor) -> Tensor:
    """Return a mask of the particles that are on one spot with another one."""
    _, place, counts = torch.unique(particles, dim=0, return_inverse=True, return_counts=True)
    mask: Tensor = counts[place] > 1
    return mask
