"""Batches of a Sinkhorn generator's own law, and their velocity towards batches of the rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skwgf.estimators._generator import choose
from skwgf.estimators._sinkhorn_particles import affine_map
from skwgf.estimators._sinkhorn_problem import Group, Problem, resolved_reg
from skwgf.flows import Velocity
from skwgf.flows.regression import Update
from skwgf.flows.sinkhorn import debiased_map
from skwgf.nn import Regressor

# Batches smaller than that say nothing about a law.
_LEAST_BATCH = 16
# Rows that stand for all classes.
_ALL_ROWS = 5000
# When the plans are good enough: an error that is small against the noise of the batches.
_TOL, _MAX_ITER = 1e-2, 30


def affine_pairs(
    problem: Problem, generator: torch.Generator
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return a function that draws inputs of the network with their affine images.

    A network that starts near a constant would stay there long: all points of a law on one spot
    are sent to the same place.
    """
    maps = [affine_map(group.y) for group in problem.groups]

    def draw(n: int) -> tuple[Tensor, Tensor]:
        size = math.ceil(n / len(maps))
        drawn = [group.draw(size, generator)[0] for group in problem.groups]
        d = len(problem.low)
        images = [image(inputs[:, :d]) for image, inputs in zip(maps, drawn, strict=True)]
        return torch.cat(drawn), torch.cat(images)

    return draw


def preceded(first: Update, then: Update, *, share: float) -> Update:
    """Return the update that is `first` for a share of the iterations and `then` afterwards."""

    def update(regressor: Regressor, progress: float) -> dict[str, float]:
        if progress >= share:
            return then(regressor, progress)
        return {**first(regressor, progress), "lag": 1.0, "n_inner": 0.0}

    return update


class Batches:
    """Batches of the moving law, and their velocity towards batches of the rows.

    The inputs of an iteration are two halves of `batch_size` points, as many of every group. A half
    is the second, independent batch in the self term of the other one; without `debias` the self
    term is taken on the half itself.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        batch_size: int,
        debias: bool,
        n_annealing: int,
        generator: torch.Generator,
    ) -> None:
        self.problem = problem
        self.debias = debias
        self.generator = generator
        self.size = max(batch_size // len(problem.groups), _LEAST_BATCH)
        self.n_annealing = n_annealing
        self.n_calls = 0
        self.targets = [
            (group, problem.compared(group, group.y, group.side_y)) for group in problem.groups
        ]

    def draw(self, n: int) -> tuple[Tensor, Tensor | None]:
        """Return the inputs of one iteration, and what travels with them."""
        halves = [
            group.draw(self.size, self.generator) for _ in range(2) for group in self.problem.groups
        ]
        sides = [side for _, side in halves if side is not None]
        return torch.cat([z for z, _ in halves]), torch.cat(sides) if sides else None

    def velocity(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the two-batch velocity at the points `x` of one iteration."""
        problem, size = self.problem, self.size
        points = torch.stack(torch.split(x, size))
        sides = [None] * len(points) if side is None else torch.split(side, size)
        groups = 2 * self.targets
        compared = torch.stack(
            [
                problem.compared(group, rows, own)
                for (group, _), rows, own in zip(groups, points, sides, strict=True)
            ]
        )
        pairs = [self._target_batch(group, features) for group, features in groups]
        rows, features = (torch.stack(column) for column in zip(*pairs, strict=True))
        n_groups = len(self.targets)

        def swap(halves: Tensor) -> Tensor:
            return torch.cat([halves[n_groups:], halves[:n_groups]]) if self.debias else halves

        reg = resolved_reg(self._reg(), compared.flatten(0, 1), features.flatten(0, 1))
        if not math.isfinite(reg):  # the loop goes back to the last good state
            return Velocity(torch.full_like(x, math.nan), math.nan)
        settings: dict[str, Any] = {
            "reg": reg,
            "velocity": problem.velocity,
            "tol": _TOL,
            "max_iter": _MAX_ITER,
        }
        direction = debiased_map(
            compared,
            features,
            other=swap(compared),
            values_x=points,
            values_y=rows,
            values_other=swap(points),
            **settings,
        )
        if problem.guidance > 0:
            direction = direction + problem.guidance * self._toward_class(
                compared, points, features, rows, settings
            )
        direction = direction.flatten(0, 1)
        return Velocity(direction, 0.5 * float(direction.square().sum(1).mean()))

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from call to call."""
        return {"n_calls": self.n_calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""
        self.n_calls = state["n_calls"]

    def _reg(self) -> float:
        """Return the regularisation of this call."""
        problem = self.problem
        share = min(self.n_calls / self.n_annealing, 1.0)
        self.n_calls += 1
        return float(problem.reg_start * (problem.reg / problem.reg_start) ** share)

    def _target_batch(self, group: Group, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return a batch of the rows of a group, and of what the cost compares."""
        index = choose(len(group.y), self.size, self.generator).to(features.device)
        return group.y[index], features[index]

    def _toward_class(
        self,
        compared: Tensor,
        points: Tensor,
        features: Tensor,
        rows: Tensor,
        settings: dict[str, Any],
    ) -> Tensor:
        """Return the map to rows of the own class minus the map to rows of all classes."""
        everything = self.problem.all_rows(_ALL_ROWS)
        index = choose(len(everything), self.size, self.generator).to(points.device)
        batch = everything[index]
        pooled = torch.stack(
            [self.problem.compared(group, batch, None) for group, _ in 2 * self.targets]
        )
        return debiased_map(
            compared,
            features,
            other=pooled,
            values_x=points,
            values_y=rows,
            values_other=batch.expand(len(points), -1, -1),
            **settings,
        )
