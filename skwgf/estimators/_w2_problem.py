"""The transport problem behind a Wasserstein-2 generator, in scaled coordinates: pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from skwgf._tensor import derive_seed, make_generator, to_tensor
from skwgf.estimators._coordinates import Coordinates, normal_points
from skwgf.estimators._features import Features, features_of
from skwgf.estimators._generator import POTENTIAL, choose
from skwgf.estimators._w2_ends import ends_from_noise
from skwgf.flows import VelocityField, debiased_velocity, tracked_velocity, transport_velocity
from skwgf.flows.carriers import Draw, Stateful
from skwgf.flows.regression import Pairs
from skwgf.transport import (
    MinibatchTransport,
    NetworkTransport,
    SemidiscreteTransport,
    batch_map,
    mean_cost,
)

# Points that the first potential is solved on: as many as rows up to the size that an exact plan
# takes ten seconds for, more for the entropic one beyond it, and never fewer than some.
_FEW_POINTS, _EXACT_POINTS, _ENTROPIC_POINTS = 1000, 5000, 16384
# Latents mapped in advance: this many, or as many numbers in all.
_POOL_ROWS, _POOL_NUMBERS = 200_000, 2**24
# Training of the potential networks. In scaled coordinates the learning rate may be four times the
# one known to be safe for raw ones: within the same time W1 on rings and moons is halved.
_DUAL_BATCH, _DUAL_RATE = 512, 2e-3


@dataclass(frozen=True)
class Problem:
    """A reference law to be moved to the rows `y`, all tensors on one device.

    Attributes
    ----------
    y : Tensor of shape (m, d)
        Target rows.

    source : Tensor of shape (n, d) or None
        Reference rows; None is N(0, I).

    features_source, features_target : Tensor of shape (n, c) and (m, c), or None
        What the cost compares in place of the rows; None are the rows themselves.

    features : callable or None
        From other rows to such features.

    side_source, side_target : Tensor of shape (n, k) and (m, k), or None
        Coordinates of the class term in the cost.

    low, high : Tensor of shape (d,)
        Limits of the columns, infinite where there are none.

    weights : Tensor of shape (n,) or None
        Weights of the reference rows; None where all have the same.

    reg : float
        Regularisation of the plans, in the unit of the cost.

    seed : int
        Seed of the fit.
    """

    y: Tensor
    source: Tensor | None
    side_source: Tensor | None
    side_target: Tensor | None
    weights: Tensor | None
    low: Tensor
    high: Tensor
    reg: float
    seed: int
    features_source: Tensor | None = None
    features_target: Tensor | None = None
    features: Features | None = None

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return n reference points and what travels with them."""
        if self.source is None:
            z = torch.randn(n, self.y.shape[1], generator=generator)
            return z.to(self.y), None
        index = self.draw_index(n, generator)
        return self.source[index], None if self.side_source is None else self.side_source[index]

    def draw_index(self, n: int, generator: torch.Generator) -> Tensor:
        """Return the index of n source rows, drawn by their weights."""
        assert self.source is not None
        if self.weights is None:
            index = choose(len(self.source), n, generator)
        else:
            index = torch.multinomial(self.weights.cpu(), n, True, generator=generator)
        return index.to(self.y.device)


def end_points(problem: Problem, n_pairs: int) -> Pairs:
    """Return what draws reference points with their images under the optimal map.

    `n_pairs` bounds the number of pairs that will be used in all.
    """
    y, generator = problem.y, make_generator(derive_seed(problem.seed, POTENTIAL))
    if problem.source is not None:
        z, image = problem.source, source_images(problem)
    elif problem.reg == 0:
        z, image = ends_from_noise(y, problem.low, problem.high, n_pairs=n_pairs, seed=problem.seed)
    else:
        n_pool = min(_POOL_ROWS, _POOL_NUMBERS // y.shape[1], n_pairs)
        z, _ = problem.draw(n_pool, generator)
        transport = SemidiscreteTransport(y, reg=problem.reg)
        transport.solve(normal_points(_n_points(len(y)), y.shape[1], problem.seed).to(y))
        image = transport(z)
    return Pairs(z, image, generator)


def compared(
    feature_map: Any,
    X_source: NDArray[Any],
    X: NDArray[Any],
    coordinates: Coordinates,
    like: Tensor,
) -> tuple[Tensor, Tensor, Features]:
    """Return the features of both sides, and the function from rows in coordinates to more of them.

    They lie around zero, in a unit in which their mean cost is one, and are made of rows as they
    were given. Place and unit are taken out in float64; the results are of the kind of `like`.
    """
    found_source, found = (
        features_of(feature_map, to_tensor(rows, dtype=torch.float64), like).to(
            "cpu", torch.float64
        )
        for rows in (X_source, X)
    )
    shift = found.mean(0)
    size = max(float((points - shift).abs().max()) for points in (found_source, found)) or 1.0
    unit = math.sqrt(mean_cost((found_source - shift) / size, (found - shift) / size)) or 1.0

    def place(points: Tensor) -> Tensor:
        return ((points.to("cpu", torch.float64) - shift) / size / unit).to(like)

    def features(rows: Tensor) -> Tensor:
        return place(features_of(feature_map, coordinates.undo(rows), like))

    return place(found_source), place(found), features


def source_images(problem: Problem) -> Tensor:
    """Return the images of all source rows under one plan to all target rows."""
    assert problem.source is not None
    # What the cost compares; the images are made of the rows.
    source = problem.source if problem.features_source is None else problem.features_source
    y = problem.y if problem.features_target is None else problem.features_target
    side = problem.side_source
    # An entropic plan is in reach beyond the size of an exact one; it was found for the labels too.
    labelled = side is not None and problem.reg > 0
    if labelled or max(len(source), len(y)) <= _EXACT_POINTS:
        return batch_map(
            source,
            y,
            side_x=side,
            side_y=problem.side_target,
            images=problem.y,
            weights_x=problem.weights,
            reg=problem.reg,
        )
    transport = SemidiscreteTransport(
        y, side=problem.side_target, images=problem.y, reg=problem.reg
    )
    generator = make_generator(derive_seed(problem.seed, POTENTIAL))
    index = problem.draw_index(_n_points(len(y)), generator)
    transport.solve(source[index], None if side is None else side[index])
    return transport(source, side)


def velocity(
    problem: Problem,
    potential: str,
    push: Draw,
    *,
    debias: bool,
    batch_size: int,
    generator: torch.Generator,
) -> tuple[VelocityField, Stateful, Callable[[float], None] | None]:
    """Return the velocity with re-estimated potentials, the potential, and its step hook.

    `push(n)` returns n points of the moving law and what travels with them.
    """
    y, side = problem.y, problem.side_target
    if potential == "semidiscrete":
        semidiscrete = SemidiscreteTransport(y, side=side, reg=problem.reg)
        semidiscrete.solve(*push(_n_points(len(y))))
        return tracked_velocity(semidiscrete), semidiscrete, semidiscrete.shrink
    if potential == "minibatch":
        minibatch = MinibatchTransport(y, side=side, reg=problem.reg, generator=generator)
        if debias:
            field = debiased_velocity(minibatch, push, lambda n: min(n, len(y)), problem.reg)
            return field, minibatch, None
        return transport_velocity(minibatch), minibatch, None
    network = NetworkTransport(
        y,
        batch_size=min(_DUAL_BATCH, batch_size),
        learning_rate=_DUAL_RATE,
        generator=generator,
    )
    return transport_velocity(network), network, None


def _n_points(n_rows: int) -> int:
    """Return the number of points to solve the first potential on."""
    return max(n_rows, _FEW_POINTS) if n_rows <= _EXACT_POINTS else _ENTROPIC_POINTS
