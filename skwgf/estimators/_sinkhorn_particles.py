"""The Sinkhorn flow of particles to its end, and the tracers that they carry along."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skwgf._tensor import derive_seed, make_generator
from skwgf._warnings import caller_level
from skwgf.estimators._coordinates import normal_points
from skwgf.estimators._generator import POTENTIAL
from skwgf.estimators._sinkhorn_problem import Group, Problem, resolved_reg
from skwgf.flows import ParticleCarrier, Velocity, projected_euler, run_flow
from skwgf.flows.regression import Pairs
from skwgf.flows.sinkhorn import SinkhornVelocity

# From step to step the regularisation falls by that factor at most; steps after it has arrived, and
# in all with a source.
_COOLING, _LAST_STEPS, _LEAST_STEPS = 1.6, 2, 6
# The particles of one flow: as many as rows, up to the most, and no fewer than some, so that no
# particle weighs much in its own surroundings; of many classes, each may have fewer, and so may a
# fit that uses few pairs for each of them.
_PARTICLES, _CLASS_PARTICLES, _MOST_PARTICLES, _MOST_FLOWS = 4000, 1000, 5000, 8
_PAIRS_PER_PARTICLE, _PAIRS_PER_TRACER = 64, 4
# Tracers carried along in all: so many, or as many numbers.
_TRACERS, _TRACER_NUMBERS = 40_000, 2**22
# When the plans of a step are good enough: the next step corrects what is left.
_TOL, _MAX_ITER = 1e-3, 300
# Marginal error of the last plans that deserves a word.
_ASTRAY = 0.02


def schedule(problem: Problem) -> list[float]:
    """Return the regularisation at each step of the particle flow."""
    fall = problem.reg_start / problem.reg
    n_cooling = math.ceil(math.log(fall) / math.log(_COOLING)) if fall > 1 else 0
    cooling = [problem.reg_start * fall ** (-k / n_cooling) for k in range(n_cooling)]
    n_last = 1 + _LAST_STEPS
    if problem.groups[0].source is not None:
        n_last = max(n_last, _LEAST_STEPS - n_cooling)
    repeats = math.ceil(1 / problem.step_size)
    return [reg for reg in cooling + n_last * [problem.reg] for _ in range(repeats)]


def end_points(problem: Problem, n_pairs: int) -> tuple[Pairs, dict[str, list[float]]]:
    """Run the particle flows to their end.

    Returns what draws inputs of the network with the end points of their paths, and
    the energy and the step along the flows, in the mean over them. `n_pairs` bounds the number of
    pairs that will be used in all.
    """
    generator = make_generator(derive_seed(problem.seed, POTENTIAL))
    d = len(problem.low)
    n_groups = len(problem.groups)
    n_tracers = min(_TRACERS, max(_TRACER_NUMBERS // d, 1), n_pairs // _PAIRS_PER_TRACER)
    n_tracers = max(math.ceil(n_tracers / n_groups), 1)
    n_particles = min(
        max(_PARTICLES // n_groups, _CLASS_PARTICLES), n_pairs // (_PAIRS_PER_PARTICLE * n_groups)
    )
    inputs, ends, histories = [], [], []
    for group in problem.groups:
        parts = split(group, generator)
        for part in parts:
            z, end, history = run_group(
                problem,
                part,
                n_particles=max(n_particles, len(part.y)),
                n_tracers=math.ceil(n_tracers / len(parts)),
                generator=generator,
            )
            inputs.append(part.with_code(z))
            ends.append(end)
            histories.append(history)
    pairs = Pairs(torch.cat(inputs), torch.cat(ends), generator)
    mean_history = {
        key: [
            sum(values) / len(values) for values in zip(*(h[key] for h in histories), strict=True)
        ]
        for key in ("objective", "step")
    }
    return pairs, mean_history


def split(group: Group, generator: torch.Generator) -> list[Group]:
    """Cut a group into parts of a size that one particle flow can carry.

    Only what is larger than that is dealt out; what is not goes whole into each part.
    """
    n_source = 0 if group.source is None else len(group.source)
    n_parts = min(math.ceil(max(len(group.y), n_source) / _MOST_PARTICLES), _MOST_FLOWS)

    def deal(n: int) -> list[Tensor]:
        if n <= _MOST_PARTICLES:
            return n_parts * [torch.arange(n, device=group.y.device)]
        order = torch.randperm(n, generator=generator)[: n_parts * _MOST_PARTICLES]
        return list(torch.tensor_split(order.to(group.y.device), n_parts))

    return [
        replace(
            group,
            y=group.y[rows],
            side_y=None if group.side_y is None else group.side_y[rows],
            source=None if group.source is None else group.source[source],
            side_source=None if group.side_source is None else group.side_source[source],
        )
        for rows, source in zip(deal(len(group.y)), deal(n_source), strict=True)
    ]


def run_group(
    problem: Problem,
    group: Group,
    *,
    n_particles: int,
    n_tracers: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, dict[str, list[float]]]:
    """Run the flow of one group; return reference points, where they end, and the history.

    From N(0, I) the points that are returned are tracers: they are carried by the field of the
    particles, but do not weigh in it, so that they do not end on the rows. They start at the affine
    image of N(0, I) that has the mean and the covariance of the rows.
    """
    if group.source is None:
        d = group.y.shape[1]
        latents, z = (
            normal_points(n, d, int(torch.randint(2**31, (1,), generator=generator))).to(group.y)
            for n in (n_particles, n_tracers)
        )
        start = affine_map(group.y)(torch.cat([latents, z]))
    else:
        z, start, n_particles = group.source, group.source, len(group.source)
    regs = schedule(problem)
    field = GuidedVelocity(problem, group, n_particles)
    following = iter([*regs, regs[-1]])

    def set_reg(_: float = 0.0) -> None:
        field.reg = next(following)

    set_reg()
    carrier = ParticleCarrier(
        start,
        field,
        step_size=problem.step_size,
        stepper=projected_euler(problem.low, problem.high),
        side=group.side_source,
        on_step=set_reg,
    )
    result = run_flow(carrier, max_iter=len(regs))
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if not field.marginal_error <= _ASTRAY:
        warnings.warn(
            f"The last plan of the particle flow has a marginal error of "
            f"{field.marginal_error:.2g}: the draws will miss the rows by that share of their "
            "mass. A larger reg helps, and so does a scaling in which no column sets groups of "
            "rows far apart.",
            ConvergenceWarning,
            stacklevel=caller_level(),
        )
    return z, carrier.particles[-len(z) :], result.history


def affine_map(y: Tensor) -> Callable[[Tensor], Tensor]:
    """Return z -> m + S z, with m the mean and S the symmetric root of the covariance of the rows.

    It is the optimal map from N(0, I) to the Gaussian with these moments.
    """
    center = y.mean(0)
    _, singular, axes = torch.linalg.svd((y - center).double(), full_matrices=False)
    axes = axes.to(y)
    scale = (singular / math.sqrt(max(len(y) - 1, 1))).to(y)

    def image(z: Tensor) -> Tensor:
        start: Tensor = center + ((z @ axes.T) * scale) @ axes
        return start

    return image


class GuidedVelocity:
    """The velocity of a cloud whose first points are particles and whose others follow.

    With guidance w it is (1 + w) v - w u, with u the velocity towards the rows of all classes.
    """

    def __init__(self, problem: Problem, group: Group, n_particles: int) -> None:
        self.problem = problem
        self.root = math.sqrt(group.unit)
        self.n_particles = n_particles
        self.reg = problem.reg_start
        self.rows = self._features(group.y)
        self.fields = [(1.0 + problem.guidance, self._toward(group.y, group.side_y))]
        if problem.guidance > 0:
            everything = problem.all_rows(_MOST_PARTICLES)
            self.fields.append((-problem.guidance, self._toward(everything, None)))

    @property
    def marginal_error(self) -> float:
        """The largest error of the last plans."""
        return max(field.marginal_error for _, field in self.fields)

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity of particles and tracers `x`."""
        side = None if side is None else side / self.root
        particles, tracers = x[: self.n_particles], x[self.n_particles :]
        for _, field in self.fields:
            field.reg = resolved_reg(self.reg, self._features(particles), self.rows)
        found = [(weight, field(particles, side), field) for weight, field in self.fields]
        moves = [weight * v.direction for weight, v, _ in found]
        if len(tracers):
            carried = [weight * field.at(tracers) for weight, _, field in found]
            moves = [torch.cat(pair) for pair in zip(moves, carried, strict=True)]
        return Velocity(torch.stack(moves).sum(0), found[0][1].energy)

    def _features(self, x: Tensor) -> Tensor:
        """Return what the cost compares, in units that make it one in the mean."""
        return self.problem.features(x) / self.root

    def _toward(self, y: Tensor, side_y: Tensor | None) -> SinkhornVelocity:
        """Return the velocity towards the rows `y`."""
        return SinkhornVelocity(
            y,
            self.reg,
            side=None if side_y is None else side_y / self.root,
            feature_map=self._features,
            velocity=self.problem.velocity,
            tol=_TOL,
            max_iter=_MAX_ITER,
        )
