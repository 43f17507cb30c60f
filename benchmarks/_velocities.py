"""The debiased Sinkhorn velocity T_xy - T_xx of a cloud, by every contender, at a given accuracy.

A contender is a function `prepare(problem, tol, start)` that returns a function without arguments:
the whole computation, from the points to the velocity. What it takes to find out how many
iterations a solver needs for `tol` lies in `prepare`, which is not timed: POT runs as many as its
own stopping rule would take if its threshold, on another norm, were set just right. `start` is what
the same contender found for the cloud before it moved, or None.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import ot
import torch

from skwgf.flows.sinkhorn import SinkhornVelocity, debiased_map
from skwgf.transport.cost import half_squared_distance

PROBLEMS = ("toward", "own")  # in the state of SinkhornVelocity
PATIENCE = 30.0  # seconds in which a solver has to reach its tolerance once


@dataclass(frozen=True)
class Problem:
    """The clouds, in float64, and the regularisation in the unit of the cost |x - y|^2 / 2."""

    x: np.ndarray
    y: np.ndarray
    reg: float

    def pairs(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Return the clouds of the cross problem and those of the self problem."""
        return (self.x, self.y), (self.x, self.x)


Potentials = tuple[np.ndarray | None, np.ndarray]


class Solved(NamedTuple):
    """A velocity, the potentials (f, g) of both problems, and the iterations that they took.

    f is None where the map makes the row marginal exact. `state` is what a warm start needs beside
    the potentials.
    """

    velocity: np.ndarray
    cross: Potentials
    own: Potentials
    n_iter: tuple[int, int]
    state: dict | None = None


class NotReachedError(Exception):
    """A solver that fails at this regularisation or is out of time."""


Run = Callable[[], Solved]
Prepare = Callable[[Problem, float, Solved | None], Run]


def marginal_error(
    points: tuple[np.ndarray, np.ndarray], potentials: Potentials, reg: float
) -> float:
    """Return the L1 error of both marginals together, evaluated in float64."""
    x, y = (torch.as_tensor(z) for z in points)
    f, g = potentials
    scores = half_squared_distance(x, y).neg_().add_(torch.as_tensor(g).double()).div_(reg)
    if f is None:
        scores.sub_(scores.logsumexp(1, keepdim=True) - np.log(len(y)))
    else:
        scores.add_(torch.as_tensor(f).double()[:, None] / reg)
    errors = (
        (scores.logsumexp(axis) - np.log(scores.shape[axis])).exp().sub(1).abs().mean()
        for axis in (1, 0)
    )
    return float(sum(errors))


def worst_error(problem: Problem, solved: Solved) -> float:
    """Return the larger marginal error of the two problems."""
    errors = (
        marginal_error(points, potentials, problem.reg)
        for points, potentials in zip(problem.pairs(), (solved.cross, solved.own), strict=True)
    )
    return max(errors)


def skwgf_velocity(
    problem: Problem, tol: float, start: Solved | None, dtype: torch.dtype = torch.float32
) -> Run:
    """Prepare ours: cold the one-shot function, warm the field that keeps its potentials."""
    x, y = (torch.as_tensor(z, dtype=dtype) for z in (problem.x, problem.y))
    options = {"tol": tol, "max_iter": 100_000}
    field = SinkhornVelocity(y, problem.reg, **options)
    if start is not None:
        field.load_state_dict(start.state)
    direction = field(x).direction
    state = field.state_dict()
    potentials = ((None, state[key]["potentials"][-1].flatten().numpy()) for key in PROBLEMS)
    solved = Solved(direction.numpy(), *potentials, field.n_iter, state)

    def run() -> Solved:
        if start is None:
            direction = debiased_map(x, y, problem.reg, **options)
        else:
            field.load_state_dict(start.state)
            direction = field(x).direction
        return solved._replace(velocity=direction.numpy())

    return run


Matrix = np.ndarray | torch.Tensor
Scalings = tuple[Matrix, Matrix]  # logarithms, of the rows and of the columns
Scaled = tuple[Matrix, Scalings]


def pot_plain(M: Matrix, reg: float, n_iter: int, start: Scalings | None) -> Scaled:
    """Return plan and log scalings of POT's matrix scaling."""
    plan, log = ot.sinkhorn([], [], M, reg, warmstart=start, log=True, **exactly(n_iter))
    logarithm = torch.log if isinstance(M, torch.Tensor) else np.log
    return plan, (logarithm(log["u"]), logarithm(log["v"]))


def pot_stabilised(M: Matrix, reg: float, n_iter: int, start: Scalings | None) -> Scaled:
    """Return plan and log scalings of POT's stabilised matrix scaling."""
    start = None if start is None else (reg * start[0], reg * start[1])
    plan, log = ot.bregman.sinkhorn_stabilized(
        [], [], M, reg, warmstart=start, log=True, **exactly(n_iter)
    )
    return plan, (log["logu"], log["logv"])


def pot_log(M: Matrix, reg: float, n_iter: int, start: Scalings | None) -> Scaled:
    """Return plan and log scalings of POT's iteration in the log domain."""
    plan, log = ot.sinkhorn(
        [], [], M, reg, method="sinkhorn_log", warmstart=start, log=True, **exactly(n_iter)
    )
    return plan, (log["log_u"], log["log_v"])


def exactly(n_iter: int) -> dict[str, object]:
    """Return the options that make a solver of POT take just so many iterations."""
    return {"numItermax": n_iter, "stopThr": 0.0, "warn": False}


def pot_velocity(
    problem: Problem,
    tol: float,
    start: Solved | None,
    *,
    solve: Callable,
    convert: Callable = np.asarray,
) -> Run:
    """Prepare a solver of POT; `convert` makes an array what the solver works on."""
    reg, n = problem.reg, len(problem.x)
    pairs = [tuple(convert(z) for z in points) for points in problem.pairs()]
    starts: list[Scalings | None] = [None, None]
    if start is not None:
        starts = [
            tuple(convert(z / reg - np.log(n)) for z in potentials)
            for potentials in (start.cross, start.own)
        ]
    counts = tuple(
        iterations_needed(solve, points, reg, tol, first)
        for points, first in zip(pairs, starts, strict=True)
    )

    def run() -> Solved:
        images, potentials = [], []
        for (x, y), first, n_iter in zip(pairs, starts, counts, strict=True):
            plan, scalings = solve(ot.dist(x, y) / 2, reg, n_iter, first)
            images.append(plan @ y / plan.sum(1)[:, None])
            potentials.append(to_potentials(scalings, reg))
        return Solved(np.asarray(images[0] - images[1]), *potentials, counts)

    return run


def iterations_needed(
    solve: Callable, points: tuple, reg: float, tol: float, scalings: Scalings | None
) -> int:
    """Return how many iterations a solver of POT takes to `tol`, or raise NotReachedError.

    It tests its own stopping rule at the first iteration and every ten from there.
    """
    M = ot.dist(*points) / 2
    exact = tuple(np.asarray(z, dtype=np.float64) for z in points)
    n_iter, end = 0, time.process_time() + PATIENCE
    error = last = np.inf
    while time.process_time() < end:
        steps = 10 if n_iter else 1
        _, scalings = solve(M, reg, steps, scalings)
        n_iter += steps
        last, error = error, marginal_error(exact, to_potentials(scalings, reg), reg)
        if error <= tol:
            return n_iter
        if not np.isfinite(error) or error == last:  # it goes back to where it was, and stops
            raise NotReachedError("fails")
    raise NotReachedError(f"{error:.0e} after {PATIENCE:g} s")


def to_potentials(scalings: Scalings, reg: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the potentials of scalings of the kernel, for weights that are in the plan."""
    return tuple(reg * (np.asarray(z, dtype=np.float64) + np.log(len(z))) for z in scalings)


def pot_best_velocity(problem: Problem, tol: float, start: Solved | None) -> Run:
    """Prepare POT's matrix scaling in float64; stabilised where the plain one fails."""
    try:
        return pot_velocity(problem, tol, start, solve=pot_plain)
    except NotReachedError:
        return pot_velocity(problem, tol, start, solve=pot_stabilised)


def geomloss_velocity(problem: Problem, tol: float, start: Solved | None, *, scaling: float) -> Run:
    """Prepare geomloss, whose accuracy is set by `scaling` and not by a tolerance."""
    from geomloss import SamplesLoss

    x, y = (torch.as_tensor(z, dtype=torch.float32) for z in (problem.x, problem.y))
    options = {
        "p": 2,
        "blur": problem.reg**0.5,
        "scaling": scaling,
        "backend": "tensorized",
    }
    loss = SamplesLoss("sinkhorn", debias=True, **options)
    dual = SamplesLoss("sinkhorn", debias=False, potentials=True, **options)
    with torch.no_grad():
        potentials = [tuple(z.flatten().numpy() for z in dual(x, other)) for other in (y, x)]

    def run() -> Solved:
        moving = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(moving, y), moving)
        return Solved((-len(x) * gradient).numpy(), *potentials, (0, 0))

    return run


def float32_tensor(z: np.ndarray) -> torch.Tensor:
    """Return an array as a float32 tensor."""
    return torch.as_tensor(z, dtype=torch.float32)


OURS, POT64 = "skwgf", "POT, float64"
CONTENDERS: dict[str, Prepare] = {
    OURS: skwgf_velocity,
    POT64: pot_best_velocity,
    "POT, float32": partial(pot_velocity, solve=pot_plain, convert=float32_tensor),
    "POT log, float32": partial(pot_velocity, solve=pot_log, convert=float32_tensor),
    "geomloss .5": partial(geomloss_velocity, scaling=0.5),
    "geomloss .9": partial(geomloss_velocity, scaling=0.9),
}


def reference(problem: Problem) -> np.ndarray:
    """Return the velocity converged in float64, its marginals checked."""
    solved = skwgf_velocity(problem, 1e-9, None, dtype=torch.float64)()
    error = worst_error(problem, solved)
    if not error < 1e-8:
        raise RuntimeError(f"The reference has a marginal error of {error:.1e}.")
    return solved.velocity


def relative_error(velocity: np.ndarray, exact: np.ndarray) -> float:
    """Return the rms error of a velocity over the rms of the exact one."""
    return float(np.linalg.norm(velocity - exact) / np.linalg.norm(exact))


def quietly(function: Callable, *args: object) -> object:
    """Call without the warnings that solvers give on the way to their failure."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return function(*args)
