"""Where the particles of a sampler start."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from skwgf._tensor import to_tensor
from skwgf.estimators._generator import choose
from skwgf.estimators._particles import check_earlier, given_particles
from skwgf.targets import Target

# Particles where nothing else gives their number.
_PARTICLES = 200
# Noise on repeated starting points, in standard deviations (or as it is where there are none).
_JITTER = 0.1


def start_cloud(
    target: Target,
    X: NDArray[Any],
    *,
    earlier: Tensor | None,
    init: Any,
    n_particles: int | None,
    n_restarts: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the cloud to start from, in the coordinates of a fitted target.

    It is the `earlier` cloud, where a fit goes on; the particles that `init` holds; or what `init`
    names.
    """
    device, dtype = target.device_, target.dtype_
    if earlier is not None:
        check_earlier(earlier, target.n_dim_, "target")
        return to_tensor(earlier, device=device, dtype=dtype)
    if init is None or isinstance(init, str):
        return _drawn(target, X, init, n_particles, n_restarts, generator)
    rows = given_particles(
        init, len(target.parameter_names_), n_particles=n_particles, n_clouds=n_restarts
    )
    z = target.unconstrain(to_tensor(rows, device=device, dtype=dtype))
    return _parted(z, z, generator)


def _drawn(
    target: Target,
    X: NDArray[Any],
    init: str | None,
    n_particles: int | None,
    n_restarts: int,
    generator: torch.Generator,
) -> Tensor:
    """Return a cloud from the rows of X, from the target's own start, or from N(0, I)."""
    device, dtype = target.device_, target.dtype_
    unfit = "data" if target.learns_from_data else "prior"
    if init == unfit:
        raise ValueError(
            f"init={unfit!r} does not fit this target: a bare log density starts from the rows "
            "of X ('data'), all other targets from their own draws ('prior')."
        )
    if init == "normal":
        n = n_restarts * (n_particles or _PARTICLES)
        normal = torch.randn(n, target.n_dim_, generator=generator, dtype=torch.float64)
        return normal.to(device, dtype)
    if target.learns_from_data:
        n = n_restarts * (n_particles or _PARTICLES)
        return target.draw_start(n, generator).to(device, dtype)
    rows = target.unconstrain(to_tensor(X, device=device, dtype=dtype))
    n = n_particles or len(X)
    clouds = []
    for _ in range(n_restarts):
        index = torch.arange(n) if n == len(X) else choose(len(X), n, generator)
        clouds.append(rows[index.to(device)])
    return _parted(torch.cat(clouds), rows, generator)


def _parted(cloud: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to particles on one spot, and to columns in which all agree.

    Particles on one spot would stay together for ever.
    """
    if len(cloud) == 1:
        return cloud
    spread = rows.std(0, correction=0)
    flat = spread <= 100 * torch.finfo(rows.dtype).eps * rows.abs().amax(0)
    _, place, counts = torch.unique(cloud, dim=0, return_inverse=True, return_counts=True)
    moved = (counts[place] > 1)[:, None] | flat
    amount = torch.where(flat, _JITTER, _JITTER * spread)
    noise = torch.randn(cloud.shape, generator=generator, dtype=torch.float64).to(cloud)
    return cloud + torch.where(moved, amount * noise, 0.0)
