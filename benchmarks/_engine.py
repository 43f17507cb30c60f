"""Times, accuracy and memory of the transport engine and its peers, one cell at a time."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import ot
import torch
from _common import NOT_INSTALLED, timed
from _velocities import (
    CONTENDERS,
    OURS,
    POT64,
    NotReachedError,
    Problem,
    quietly,
    reference,
    relative_error,
    worst_error,
)
from torch import Tensor

from skwgf.flows.sliced import random_directions, sliced_velocity
from skwgf.transport import exact_plan, mean_cost

N_PROJECTIONS = 128
TOL, DEFAULT_TOL = 1e-3, 1e-4
DEFAULT = f"{OURS}, tol {DEFAULT_TOL:g}"
EMD, FRESH, AUTOGRAD = "POT emd", f"{OURS}, fresh directions", "POT and autograd"
AGAIN = "cold, moved"  # what a warm start saves is measured on the same problem
STEP = 0.1  # of the flow, before a warm start
PATIENCE = 10.0  # a contender sits out further rounds once it has taken so many seconds


def clouds(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return n points of N(0, I) and n of a narrower normal law two units away."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 0.7 * rng.normal(size=(n, d)) + 2 / d**0.5


def make_problem(n: int, d: int, rel: float, seed: int) -> Problem:
    """Return a problem whose regularisation is `rel` of the mean cost."""
    x, y = clouds(n, d, seed)
    return Problem(x, y, rel * mean_cost(torch.as_tensor(x), torch.as_tensor(y)))


def in_turns(runs: dict, repeats: int) -> dict:
    """Return the medians of what the calls of each function took, called in turns.

    Processor time is what counts: others on the machine disturb it less. Each function has been
    called before.
    """
    processor: dict = {key: [] for key in runs}
    wall: dict = {key: [] for key in runs}
    for _, (key, run) in itertools.product(range(repeats), runs.items()):
        if sum(processor[key]) < PATIENCE:
            _, took, used = timed(quietly, run)
            wall[key].append(took)
            processor[key].append(used)
    return {
        key: {
            "seconds": float(np.median(processor[key])),
            "fastest": min(processor[key]),
            "wall": float(np.median(wall[key])),
            "runs": len(wall[key]),
        }
        for key in runs
    }


def velocities(n: int, d: int, rel: float, seed: int, repeats: int) -> list[dict]:
    """Return a row for every contender in one cell, cold and, where it can be, warm."""
    problem = make_problem(n, d, rel, seed)
    truth = reference(problem)
    moved = Problem(problem.x + STEP * truth, problem.y, problem.reg)
    there = reference(moved)
    cases = {"cold": (problem, truth), "warm": (moved, there), AGAIN: (moved, there)}
    rows, runs = {}, {}
    for name in (*CONTENDERS, DEFAULT):
        prepare = CONTENDERS.get(name, CONTENDERS[OURS])
        found = None
        for kind in cases if name in (OURS, DEFAULT, POT64) else ("cold",):
            case, exact = cases[kind]
            row = {"part": "velocity", "n": n, "d": d, "reg": rel, "name": name, "start": kind}
            rows[name, kind] = row
            try:
                start = None if kind == AGAIN else found
                run = quietly(prepare, case, DEFAULT_TOL if name == DEFAULT else TOL, start)
            except (NotReachedError, ImportError) as reason:
                missing = isinstance(reason, ImportError)
                row["failure"] = NOT_INSTALLED if missing else str(reason)
                break
            found = quietly(run)
            row["iterations"] = "+".join(map(str, found.n_iter))
            row["marginal_error"] = worst_error(case, found)
            row["velocity_error"] = relative_error(found.velocity, exact)
            runs[name, kind] = run
    for key, took in in_turns(runs, repeats).items():
        rows[key] |= took
    for name, kind in runs:
        if kind == "cold" and name in CONTENDERS:
            rows[name, kind]["peak_mib"] = peak_memory(name, n, d, rel, seed)
    return list(rows.values())


def peak_memory(*cell: object) -> float:
    """Return by how much a new process grows at most, in MiB, over one velocity; NaN off Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    # Freed matrices then leave the process at once, also those of what went before.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(growth, *cell).result()


def growth(name: str, n: int, d: int, rel: float, seed: int) -> float:
    """Return the growth of this process, in MiB, over one velocity that has been prepared.

    The tolerance is loose, since the memory does not depend on the number of iterations.
    """
    quietly(quietly(CONTENDERS[name], make_problem(64, d, rel, seed), 0.5, None))  # lazy imports
    run = quietly(CONTENDERS[name], make_problem(n, d, rel, seed), 0.5, None)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmHWM")
    quietly(run)
    return (status("VmHWM") - before) / 1024


def status(field: str) -> int:
    """Return a field of the status of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def exact_steps(n: int, d: int, seed: int, repeats: int) -> list[dict]:
    """Return rows of exact plans and their maps, cold and after a step of a flow."""
    x, y = clouds(n, d, seed)
    target = torch.as_tensor(y)
    plan = exact_plan(torch.as_tensor(x), target)
    way = plan.barycenter(target).numpy() - x
    # The exact flow keeps its plan. Other flows do not: a part of the step is at random.
    noise = np.random.default_rng(seed + 1).normal(size=x.shape)
    way += 0.5 * noise * np.linalg.norm(way) / np.linalg.norm(noise)
    potentials = plan.potential_x, plan.potential_y

    def ours(x: Tensor, init: tuple[Tensor, Tensor] | None) -> float:
        plan = exact_plan(x, target, init=init)
        plan.barycenter(target)
        return plan.cost

    def peer(x: Tensor, init: tuple[Tensor, Tensor] | None) -> float:
        start = None if init is None else tuple(z.numpy() for z in init)
        plan, log = ot.emd(
            *([], [], ot.dist(x.numpy(), y) / 2),
            numItermax=10**9,
            log=True,
            potentials_init=start,
        )
        n * plan @ y
        return float(log["cost"])

    runs = {
        (name, start): partial(solve, torch.as_tensor(points), init)
        for name, solve in ((OURS, ours), (EMD, peer))
        for start, points, init in (("cold", x, None), ("warm", x + STEP * way, potentials))
    }
    for start in ("cold", "warm"):
        np.testing.assert_allclose(runs[OURS, start](), runs[EMD, start](), rtol=1e-10)
    return [
        {"part": "exact", "n": n, "d": d, "name": name, "start": start, **took}
        for (name, start), took in in_turns(runs, repeats).items()
    ]


def sliced_steps(n: int, d: int, seed: int, repeats: int) -> list[dict]:
    """Return rows of sliced velocities in the same float32 directions."""
    x, y = (torch.as_tensor(z, dtype=torch.float32) for z in clouds(n, d, seed))
    directions = random_directions(N_PROJECTIONS, d, torch.Generator().manual_seed(seed))
    projections = directions.to(x).T

    def field(*, fresh: bool) -> Callable[[], Tensor]:
        generator = torch.Generator().manual_seed(seed)
        velocity = sliced_velocity(y, N_PROJECTIONS, generator=generator, fresh=fresh)
        return lambda: velocity(x).direction

    def peer() -> Tensor:
        moving = x.clone().requires_grad_()
        squared = ot.sliced_wasserstein_distance(moving, y, projections=projections) ** 2
        (gradient,) = torch.autograd.grad(d / 2 * squared, moving)
        return -n * gradient

    runs = {OURS: field(fresh=False), FRESH: field(fresh=True), AUTOGRAD: peer}
    error = relative_error(runs[OURS]().numpy(), peer().numpy())
    return [
        {"part": "sliced", "n": n, "d": d, "name": name, "velocity_error": error, **took}
        for name, took in in_turns(runs, repeats).items()
    ]
