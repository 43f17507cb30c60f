"""Problems of the Sinkhorn flow to pose to it in tests."""

from __future__ import annotations

import torch
from scenarios import normal

from skwgf.estimators._sinkhorn_problem import Group, Problem, make_group

KINDS = ("sinkhorn", "kl", "mmd")
NO_CODE = torch.empty(0)
SHIFT = torch.tensor([3.0, -2.0])


def cloud(n: int, seed: int, d: int = 2) -> torch.Tensor:
    """Return normal rows in the precision of the flows."""
    return normal(n, d, seed).float()


def unchanged(x: torch.Tensor) -> torch.Tensor:
    """Return the points themselves as features."""
    return x


def group(
    y: torch.Tensor, source: torch.Tensor | None = None, code: torch.Tensor = NO_CODE
) -> Group:
    """Return a group that is compared by its points."""
    return make_group(y, source, code, unchanged)


def problem(*groups: Group, **options: object) -> Problem:
    """Return a problem without limits, at reg .1."""
    d = groups[0].y.shape[1]
    settings = {
        "groups": groups,
        "n_classes": 0 if len(groups) == 1 else len(groups),
        "features": unchanged,
        "low": torch.full((d,), -torch.inf),
        "high": torch.full((d,), torch.inf),
        "velocity": "sinkhorn",
        "step_size": 1.0,
        "guidance": 0.0,
        "reg_start": 0.1,
        "reg": 0.1,
        "seed": 0,
    }
    return Problem(**(settings | options))
