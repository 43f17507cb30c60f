"""Groups of weighted clouds that carry values, and the means of these values under a kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skwgf.transport._problem import Settings, Solution, bit, in_bits, solve_cross, solve_self
from skwgf.transport._scaling import Secants
from skwgf.transport._tiles import Workspace, soft_rows
from skwgf.transport.cost import check_cloud, unit_weights


class Measure(NamedTuple):
    """Points (k, n, d) that enter the cost, weights (k, n), and values (k, n, q) to average."""

    points: Tensor
    weights: Tensor
    values: Tensor

    @classmethod
    def of(
        cls, points: Tensor, weights: Tensor | None, values: Tensor | None, name: str
    ) -> Measure:
        """Return the measure of a cloud, or of groups where `points` has three dimensions."""
        values = points if values is None else values
        if values.ndim != points.ndim or values.shape[:-1] != points.shape[:-1]:
            raise ValueError(
                f"values_{name} must have one row for each row of {name}, "
                f"got {tuple(values.shape)} for {tuple(points.shape)}."
            )
        if points.ndim != 3:
            check_cloud(points, name)
            points, values = points[None], values[None]
            weights = weights if weights is None else weights[None]
        elif 0 in points.shape:
            raise ValueError(f"{name} must not be empty, got shape {tuple(points.shape)}.")
        else:
            check_cloud(points.flatten(0, 1), name)
        if weights is None:
            unit = unit_weights(None, points[0], name).expand(points.shape[:2]).contiguous()
        else:
            if weights.shape != points.shape[:2]:
                raise ValueError(
                    f"weights_{name} must have one weight per point, shape "
                    f"{tuple(points.shape[:2])} for the groups, got {tuple(weights.shape)}."
                )
            pairs = zip(weights, points, strict=True)
            unit = torch.stack(
                [unit_weights(row, cloud, f"weights_{name}") for row, cloud in pairs]
            )
        return cls(points.detach(), unit, values.detach())


@torch.no_grad()
def kernel_means(
    points: Tensor, y: Measure, potential: Tensor | None, reg: float, p: int
) -> tuple[Tensor, Tensor]:
    r"""Return the means of the values of y seen from `points`, and the logarithms of their mass.

    The weights of the mean are :math:`b_j \exp((g_j - |x - y_j|^p/p) / reg)`, g the `potential`
    (None: zero) and their sum the mass. Nothing overflows, wherever the points lie.
    """
    x, scaled_y = in_bits(points, y.points, reg, p)
    exponents = torch.log2(y.weights)
    if potential is not None:
        exponents = exponents + potential / bit(reg)
    means, logs = [], []
    for tile, shift in soft_rows(x, scaled_y, exponents, p):
        mass = tile.sum(dim=2, keepdim=True)
        means.append((tile / mass).to(y.values.dtype) @ y.values)
        logs.append(torch.log2(mass[..., 0].to(shift.dtype)) + shift)
    return torch.cat(means, dim=1), torch.cat(logs, dim=1) * (bit(reg) / reg)


def entropic_means(
    x: Measure,
    y: Measure | None,
    reg: float,
    settings: Settings,
    *,
    init: Tensor | None = None,
    workspace: Workspace | None = None,
    secants: Secants | None = None,
) -> tuple[Tensor, Solution]:
    """Solve from x to y (None: to x itself); return the means of the values seen from x.

    The last kernel of the iterations gives the means: it is not computed again.
    """
    if y is None:
        solution = solve_self(
            *(x.points, x.weights, reg, settings),
            init=init,
            workspace=workspace,
            secants=secants,
        )
        return solution.average(x.values), solution
    solution = solve_cross(
        *(x.points, y.points, x.weights, y.weights, reg, settings),
        init=init,
        workspace=workspace,
        secants=secants,
    )
    return solution.average(y.values), solution


def kernel_direction(
    mu: Measure, nu: Measure, other: Measure, reg: float, p: int, velocity: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the velocity without iterations, and the log masses of `other` and nu seen from mu."""
    toward, log_y = kernel_means(mu.points, nu, None, reg, p)
    away, log_x = kernel_means(mu.points, other, None, reg, p)
    if velocity == "kl":
        return toward - away, log_x, log_y
    return unnormalised(mu.values, toward, away, log_y, log_x), log_x, log_y


def unnormalised(
    values: Tensor, toward: Tensor, away: Tensor, log_y: Tensor, log_x: Tensor
) -> Tensor:
    """Return the means as moves, times the mass of their kernels."""
    mass_y, mass_x = (log.exp().to(values.dtype)[..., None] for log in (log_y, log_x))
    return mass_y * (toward - values) - mass_x * (away - values)


def check_agreement(*measures: Measure) -> None:
    """Raise a ValueError unless groups, features, precision, device and values agree."""
    kinds = {
        (len(m.points), m.points.shape[2], m.points.dtype, m.points.device, m.values.shape[2])
        for m in measures
    }
    if len(kinds) > 1:
        raise ValueError(
            "The clouds must agree in groups, features, precision, device and values, got shapes "
            f"{[tuple(m.points.shape) for m in measures]} with values "
            f"{[tuple(m.values.shape) for m in measures]} of {[m.points.dtype for m in measures]}."
        )
