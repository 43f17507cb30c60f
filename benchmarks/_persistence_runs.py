"""Training runs with figures on the way, the choice of their settings, and the sweep of K."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from _adversarial import Contender, exact_flow, network_flow, wgan_gp
from _common import Options, timed
from _modes import DRAW_SEED, REFERENCE_SEED, VALIDATION_SEED, Law
from _peers import BATCH, HIDDEN

from skwgf import W2FlowGenerator
from skwgf.datasets import random_gaussian_mixture
from skwgf.metrics import wasserstein_distance
from skwgf.nn import squared_loss

TEN_MODES = Law("Ten modes in 8 columns", random_gaussian_mixture(random_state=0))
N_ROWS, N_EVAL = 2000, 1000
TUNING_SEED = 100
HELD_ITER, HELD_BATCH = 150, 512
SWEEP = (1, 3, 10, 30, 100, 300, "auto")

WGAN, W2_GAN, PERSISTENT, STUBBORN = "WGAN-GP", "W2-GAN (K = 1)", "K = 10", "K = 100"
EXACT_ONE, EXACT_TEN, HELD = "exact potential, K = 1", "exact potential, K = 10", "plan held"
REFERENCES = (EXACT_ONE, EXACT_TEN, HELD)

Setting = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """How long a run is: processor seconds of choosing and of comparing, and points of a curve."""

    tuning: float = 5.0
    seconds: float = 8.0
    marks: int = 8
    updates: int = 30  # iterations, in the sweep
    settings: int = 12  # to choose from


def grid(**values: tuple[float, ...]) -> tuple[Setting, ...]:
    """Return all combinations of some values."""
    names = list(values)
    return tuple(dict(zip(names, v, strict=True)) for v in itertools.product(*values.values()))


GAN_GRID = grid(learning_rate=(3e-3, 1e-2), critic_rate=(1e-3, 3e-3, 1e-2), penalty=(0.1, 1.0))
# With Adam and K = 1 the step in flow time has no effect: other numbers are tried in its place.
ONE_GRID = grid(learning_rate=(3e-4, 1e-3, 3e-3), dual_rate=(5e-4, 2e-3), penalty=(5.0, 20.0))
FLOW_GRID = grid(
    learning_rate=(1e-3, 3e-3), dual_rate=(2e-3,), step_size=(0.2, 1.0), penalty=(5.0, 20.0, 200.0)
)


@dataclass(frozen=True)
class Method:
    """A way of training, `new(X, seed=, **setting)`, with the settings to choose from."""

    name: str
    new: Callable[..., Contender]
    grid: tuple[Setting, ...]


METHODS = (
    Method(W2_GAN, partial(network_flow, persistence=1, loss=squared_loss), ONE_GRID),
    Method(PERSISTENT, partial(network_flow, persistence=10), FLOW_GRID),
    Method(STUBBORN, partial(network_flow, persistence=100), FLOW_GRID),
    Method(WGAN, wgan_gp, GAN_GRID),
    Method(EXACT_ONE, partial(exact_flow, persistence=1), ({"learning_rate": 1e-2},)),
    Method(EXACT_TEN, partial(exact_flow, persistence=10), ({"learning_rate": 1e-2},)),
)


def distances(Z: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return W1 and W2 of rows to others; of a network that has diverged, NaN."""
    if not np.isfinite(Z).all():
        return {"w1": math.nan, "w2": math.nan}
    return {f"w{p}": wasserstein_distance(Z, reference, p=p) for p in (1, 2)}


def follow(
    new: Callable[[], Contender],
    reference: np.ndarray,
    seed: int,
    *,
    marks: np.ndarray,
    updates: int = 0,
) -> Iterator[Row]:
    """Train until the last mark, and for some iterations at least; yield the figures on the way.

    They are taken at the start, at each mark in processor seconds, and after `updates` iterations
    if that is not 0; taking them does not count.
    """

    def row(at: str) -> Row:
        place = {"at": at, "seconds": clock, "updates": n, "epochs": steps * BATCH / N_ROWS}
        return place | distances(contender.draw(N_EVAL, DRAW_SEED + seed), reference)

    n, steps, left = 0, 0, list(marks)
    contender, _, clock = timed(new)
    yield row("start")
    while left or n < updates:
        taken, _, seconds = timed(contender.advance)
        n, steps, clock = n + 1, steps + taken, clock + seconds
        if n == updates:
            yield row("updates")
        if left and clock >= left[0]:
            left = [mark for mark in left if mark > clock]
            yield row("path" if left else "end")


class HeldPlan:
    """A callback that takes the figures of a fit at some iterations; taking them does not count."""

    def __init__(self, reference: np.ndarray, seed: int, at: set[int]) -> None:
        self.reference, self.seed, self.at = reference, seed, at
        self.rows: list[Row] = []
        self.start = time.process_time()

    def setup(self, estimator: W2FlowGenerator, context: Any) -> None:
        """Leave the clock as it is: it has run since before the plan."""

    def teardown(self, estimator: W2FlowGenerator, context: Any) -> None:
        """Leave nothing behind."""

    def on_fit_task_begin(self, estimator: W2FlowGenerator, context: Any) -> None:
        """Let an iteration begin."""

    def on_fit_task_end(
        self, estimator: W2FlowGenerator, context: Any, *, fitted_estimator: W2FlowGenerator
    ) -> None:
        """Take the figures after an iteration that is asked for."""
        now = time.process_time()
        n = context.task_id + 1
        if context.task_name == "iteration" and n in self.at:
            Z = fitted_estimator.sample(N_EVAL, random_state=DRAW_SEED + self.seed)
            place = {
                "at": "path" if n < estimator.max_iter else "end",
                "seconds": now - self.start,
                "updates": n,
                "epochs": n * 10 * HELD_BATCH / N_ROWS,
            }
            self.rows.append(place | distances(Z, self.reference))
        self.start += time.process_time() - now


def held_plan(X: np.ndarray, reference: np.ndarray, seed: int, max_iter: int) -> list[Row]:
    """Return the figures along a fit at the defaults, but for the network that all share."""
    at = np.unique(np.geomspace(1, max_iter, 8).astype(int))
    monitor = HeldPlan(reference, seed, set(at.tolist()))
    flow = W2FlowGenerator(
        hidden_layer_sizes=HIDDEN, batch_size=HELD_BATCH, max_iter=max_iter, random_state=seed
    )
    flow.set_callbacks(monitor).fit(X)
    return monitor.rows


def tune(law: Law, method: Method, budget: Budget) -> tuple[Setting, list[Row]]:
    """Return the setting of the least W1 to validation rows, and the figures of all."""
    settings = method.grid[: budget.settings]
    if len(settings) == 1:
        return settings[0], []
    X, validation = law.rows(N_ROWS, TUNING_SEED), law.rows(N_EVAL, VALIDATION_SEED)
    rows = []
    for setting in settings:
        new = partial(method.new, X, seed=TUNING_SEED, **setting)
        *_, last = follow(new, validation, TUNING_SEED, marks=np.array([budget.tuning]))
        rows.append(last | {"part": "tuning", "method": method.name} | setting)
        show(law, rows[-1])
    scores = [row["w1"] for row in rows]
    return settings[int(np.nanargmin(scores))], rows


def show(law: Law, row: Row) -> None:
    """Print a row of figures."""
    cells = (f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values())
    print(law.name, *cells, flush=True)


def compare(law: Law, options: Options, budget: Budget) -> tuple[list[Row], dict[str, Setting]]:
    """Return the figures of all methods on one law, and the settings that were chosen."""
    chosen: dict[str, Setting] = {}
    rows: list[Row] = []
    for method in METHODS:
        chosen[method.name], tried = tune(law, method, budget)
        rows += tried
    marks = np.geomspace(0.04 * budget.seconds, budget.seconds, budget.marks)
    reference = law.rows(N_EVAL, REFERENCE_SEED, stratified=True)
    for seed in options.seeds:
        X = law.rows(N_ROWS, seed)
        for method in METHODS:
            new = partial(method.new, X, seed=seed, **chosen[method.name])
            path = list(follow(new, reference, seed, marks=marks))
            rows += [row | {"part": "curves", "method": method.name, "seed": seed} for row in path]
            show(law, rows[-1])
        held = held_plan(X, reference, seed, 10 if options.quick else HELD_ITER)
        rows += [row | {"part": "curves", "method": HELD, "seed": seed} for row in held]
        show(law, rows[-1])
    return [row | {"law": law.name} for row in rows], chosen


def sweep(law: Law, options: Options, budget: Budget, setting: Setting) -> list[Row]:
    """Return the figures of all persistences, by updates and by seconds.

    At one setting, and at the same with the whole step in flow time.
    """
    reference = law.rows(N_EVAL, REFERENCE_SEED, stratified=True)
    marks = np.array([budget.seconds])
    rows = []
    for step_size in dict.fromkeys((setting["step_size"], 1.0)):
        for seed, persistence in itertools.product(options.seeds, SWEEP):
            new = partial(
                network_flow,
                law.rows(N_ROWS, seed),
                seed=seed,
                **setting | {"persistence": persistence, "step_size": step_size},
            )
            about = {"part": "sweep", "persistence": persistence, "step_size": step_size}
            about |= {"method": f"K = {persistence}", "seed": seed, "law": law.name}
            path = follow(new, reference, seed, marks=marks, updates=budget.updates)
            rows += [row | about for row in path if row["at"] != "start"]
            show(law, rows[-1])
    return rows
