"""Where the particles that minimise a functional start."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from skwgf._tensor import to_tensor
from skwgf.estimators._generator import choose
from skwgf.estimators._particles import check_earlier, given_particles
from skwgf.flows.newton import coincident
from skwgf.functionals import Functional

# Particles where nothing else gives their number, and the least that are a law.
PARTICLES, LEAST = 100, 2
# Noise on particles that coincide, in length scales.
_JITTER = 0.01


def start_cloud(
    functional: Functional,
    X: NDArray[Any],
    *,
    earlier: Tensor | None,
    init: Any,
    n_particles: int | None,
    generator: torch.Generator,
) -> Tensor:
    """Return the cloud that a fitted functional is minimised from.

    It is the `earlier` cloud, where a fit goes on; the particles that `init` holds; or what `init`
    names, None being the functional's own start, or the rows of X for one without data.
    """
    device, dtype, d = functional.device_, functional.dtype_, functional.n_dim_
    if earlier is not None:
        check_earlier(earlier, d, "functional")
        return to_tensor(earlier, device=device, dtype=dtype)
    learns = functional.learns_from_data
    n = n_particles or (PARTICLES if learns else len(X))
    if init is None and learns:
        z = functional.draw_start(n, generator)
    elif isinstance(init, str) and init == "normal":
        z = torch.randn(n, d, generator=generator, dtype=torch.float64)
    elif init is None or isinstance(init, str):
        z = _rows(X, n, functional, generator)
    else:
        z = to_tensor(given_particles(init, d, n_particles=n_particles))
    return z.to(device, dtype)


def part(z: Tensor, scale: float, generator: torch.Generator) -> tuple[Tensor, int, float]:
    """Add noise to particles on one spot; return the cloud, their number, and its size."""
    same, amount = coincident(z), _JITTER * scale
    if not bool(same.any()):
        return z, 0, amount
    normal = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z)
    return z + torch.where(same[:, None], amount * normal, 0.0), int(same.sum()), amount


def _rows(X: NDArray[Any], n: int, functional: Functional, generator: torch.Generator) -> Tensor:
    """Return rows of X to start from, with noise where they are data or come up again."""
    rows = to_tensor(X, dtype=torch.float64)
    if rows.shape[1] != functional.n_dim_:
        raise ValueError(
            f"init='data' starts from rows of X, which have {rows.shape[1]} columns, but a "
            f"particle has {functional.n_dim_} coordinates. Leave init out."
        )
    if n == len(rows) and not functional.learns_from_data:
        return rows
    chosen = rows[choose(len(rows), n, generator)]
    if n <= len(rows) and not functional.learns_from_data:
        return chosen
    noise = torch.randn(chosen.shape, generator=generator, dtype=torch.float64)
    return chosen + _JITTER * functional.length_scale_ * noise
