"""Persistent training: several optimiser steps on the same pairs, against one, and against GANs.

The same generator network learns from potential networks with one step an iteration (the W2-GAN)
and with more, and from the critic of a WGAN-GP; 12 settings of each were tried. W1 and W2 fall
along the training, against processor seconds and against epochs; then the persistence grows until
it harms. Written to persistence.md, persistence.csv, persistence.png and persistence_sweep.png.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _adversarial import Contender, exact_flow, network_flow, wgan_gp
from _common import (
    Column,
    Options,
    comparison,
    conditions,
    markdown,
    mean_and_range,
    parse_options,
    save_picture,
    timed,
    write_results,
)
from _modes import (
    DRAW_SEED,
    N_FLOOR,
    REFERENCE_SEED,
    RING,
    VALIDATION_SEED,
    Law,
    distance_floor,
)
from _peers import BATCH, HIDDEN
from sklearn.exceptions import ConvergenceWarning

from skwgf import W2FlowGenerator
from skwgf.datasets import random_gaussian_mixture
from skwgf.metrics import wasserstein_distance

TEN_MODES = Law("Ten modes in 8 columns", random_gaussian_mixture(random_state=0))
N_ROWS, N_EVAL = 2000, 1000
TUNING_SEED = 100
HELD_ITER, HELD_BATCH = 150, 512
LEVEL = 1 / 3  # of the first W2: how long it takes to get there is told
SWEEP = (1, 3, 10, 30, 100, 300, "auto")

WGAN, W2_GAN, PERSISTENT, STUBBORN = "WGAN-GP", "W2-GAN (K = 1)", "K = 10", "K = 100"
EXACT_ONE, EXACT_TEN, HELD = "exact potential, K = 1", "exact potential, K = 10", "plan held"
REFERENCES = (EXACT_ONE, EXACT_TEN, HELD)
COLORS = {
    W2_GAN: "C1",
    PERSISTENT: "C0",
    STUBBORN: "C4",
    WGAN: "C3",
    EXACT_ONE: "0.6",
    EXACT_TEN: "0.35",
    HELD: "k",
}
COLUMNS = {
    "w1": Column("W1", 3, 0.0),
    "w2": Column("W2", 3, 0.0),
    "updates": Column("iterations", 0),
    "epochs": Column("epochs", 0),
    "reached": Column("seeds that get to a third of the first W2, share", 1),
    "seconds_to_level": Column("processor s to there", 1),
    "epochs_to_level": Column("epochs to there", 0),
}

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


GAN_GRID = grid(learning_rate=(1e-3, 3e-3, 1e-2), critic_rate=(1e-3, 3e-3), penalty=(0.1, 1.0))
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
    Method(W2_GAN, partial(network_flow, persistence=1), ONE_GRID),
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
    yield row("start") | {"seconds": 0.0}
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
    """Return the figures of all persistences at one setting, by updates and by seconds."""
    reference = law.rows(N_EVAL, REFERENCE_SEED, stratified=True)
    rows = []
    for seed, persistence in itertools.product(options.seeds, SWEEP):
        new = partial(
            network_flow, law.rows(N_ROWS, seed), seed=seed, persistence=persistence, **setting
        )
        marks = np.array([budget.seconds])
        for row in follow(new, reference, seed, marks=marks, updates=budget.updates):
            about = {"part": "sweep", "persistence": persistence, "seed": seed, "law": law.name}
            rows.append(row | about | {"method": f"K = {persistence}"})
        show(law, rows[-1])
    return rows


def time_to_level(path: pd.DataFrame) -> Row:
    """Return when W2 first falls to a share of its first value, between marks by interpolation."""
    w2 = path["w2"].to_numpy()
    below = np.flatnonzero(w2 <= LEVEL * w2[0])
    found: Row = {"reached": len(below) > 0, "seconds_to_level": np.nan, "epochs_to_level": np.nan}
    if len(below) == 0:
        return found
    i = below[0]
    share = np.log(LEVEL * w2[0] / w2[i - 1]) / np.log(w2[i] / w2[i - 1])
    for axis in ("seconds", "epochs"):
        x = path[axis].to_numpy()
        found[f"{axis}_to_level"] = x[i - 1] + share * (x[i] - x[i - 1])
    return found


def finals(raw: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of every curve, with the time to the level."""
    curves = raw[raw["part"] == "curves"]
    starts = curves[curves["at"] == "start"].groupby(["law", "seed"]).head(1)
    rows = []
    for (law, seed, method), path in curves.groupby(["law", "seed", "method"], sort=False):
        if method == HELD:  # its fit starts from the law that the others start from
            first = starts[(starts["law"] == law) & (starts["seed"] == seed)]
            path = pd.concat([first, path])
        rows.append(path.iloc[-1].to_dict() | time_to_level(path))
    return pd.DataFrame(rows)


def on_grid(path: pd.DataFrame, axis: str, column: str, at: np.ndarray) -> np.ndarray:
    """Return a figure of one curve at some places, by interpolation over their logarithms."""
    path = path[path["at"] != "start"]
    return np.interp(np.log(at), np.log(path[axis]), path[column])


def common(paths: list[pd.DataFrame], axis: str, n: int) -> np.ndarray:
    """Return a geometric grid that all curves cover."""
    spans = [path.loc[path["at"] != "start", axis] for path in paths]
    return np.geomspace(max(s.iloc[0] for s in spans), min(s.iloc[-1] for s in spans), n)


def lead(raw: pd.DataFrame, law: Law) -> str:
    """Return on how many seeds K = 10 is below its rivals along the way, as Markdown."""
    curves = raw[(raw["law"] == law.name) & (raw["part"] == "curves")]
    rows = []
    for rival, axis, column in itertools.product(
        (W2_GAN, WGAN), ("seconds", "epochs"), ("w1", "w2")
    ):
        counts = np.zeros(5, dtype=int)
        for _, group in curves.groupby("seed"):
            paths = [group[group["method"] == name] for name in (PERSISTENT, rival)]
            ours, theirs = (
                on_grid(path, axis, column, common(paths, axis, len(counts))) for path in paths
            )
            counts += ours < theirs
        head = {"rival": rival, "distance": column.upper(), "at the same": axis}
        quarters = dict(zip(("start", "1/4", "1/2", "3/4", "end"), counts, strict=True))
        rows.append(head | quarters)
    return markdown(pd.DataFrame(rows))


def sweep_table(raw: pd.DataFrame) -> str:
    """Return the figures of the sweep as Markdown."""
    swept = raw[raw["part"] == "sweep"]
    rows = []
    for persistence, group in swept.groupby("persistence", sort=False):
        row = {"K": persistence}
        for at, name in (("updates", "same updates"), ("end", "same time")):
            there = group[group["at"] == at]
            for column in ("w1", "w2"):
                row[f"{column.upper()}, {name}"] = mean_and_range(there[column], 3)
        row["iterations in that time"] = mean_and_range(there["updates"], 0)
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def choices(chosen: dict[str, Setting]) -> str:
    """Return the settings that were chosen, as a list."""
    lines = []
    for name, setting in chosen.items():
        values = ", ".join(f"{key} {value:g}" for key, value in setting.items())
        lines.append(f"* {name}: {values}")
    return "\n".join(lines)


def law_report(law: Law, raw: pd.DataFrame, floor: pd.DataFrame, chosen: dict[str, Setting]) -> str:
    """Return the tables of one law."""
    ends = finals(raw[raw["law"] == law.name])
    start = raw[(raw["law"] == law.name) & (raw["part"] == "curves") & (raw["at"] == "start")]
    return f"""## {law.name}

At the start W1 is {start["w1"].mean():.3f} and W2 {start["w2"].mean():.3f}. Floor, {len(floor)}
independent samples of the law: W1 {floor["w1"].mean():.3f} (sd {floor["w1"].std():.3f}), W2
{floor["w2"].mean():.3f} (sd {floor["w2"].std():.3f}).

{comparison(ends, COLUMNS, apart=REFERENCES)}

On how many seeds K = 10 is below a rival, at five places (geometric) of the span that both cover:

{lead(raw, law)}

Chosen:

{choices(chosen)}
"""


def report(
    raw: pd.DataFrame,
    floors: dict[str, pd.DataFrame],
    chosen: dict[str, dict[str, Setting]],
    options: Options,
    budget: Budget,
) -> str:
    """Return the page of results."""
    laws = "\n".join(
        law_report(law, raw, floors[law.name], chosen[law.name]) for law in (RING, TEN_MODES)
    )
    setting = ", ".join(f"{k} {v:g}" for k, v in chosen[RING.name][PERSISTENT].items())
    return f"""# Persistent training

From N(0, I) to {N_ROWS} rows, by one generator network ({len(HIDDEN)} layers of {HIDDEN[0]}, ReLU),
batches of {BATCH}, constant learning rates, averaged weights; {budget.seconds:g} processor seconds
of training a run. {conditions(options)}

W1 and W2 are those of {N_EVAL} draws to a stratified sample of as many, which no fit has seen; the
time to take them does not count. An iteration improves the potentials, or the critic, by five
optimiser steps, and the generator by K. Epochs count every optimiser step of every network:
steps times {BATCH}, over the number of rows; an iteration is
{(5 + 1) * BATCH / N_ROWS:.2f} epochs at K = 1 and {(5 + 10) * BATCH / N_ROWS:.2f} at K = 10.

Equal tuning: {budget.settings} settings of each method (learning rate of the generator, penalty,
learning rate of the adversary or, for K > 1, the step in flow time), {budget.tuning:g} processor
seconds each on another seed; the least W1 to validation rows is taken. Exact potentials and the
held plan are references, not tuned, and not in bold: "plan held" is `W2FlowGenerator()` with this
network, batches of {HELD_BATCH} and {HELD_ITER} iterations, whose learning rate falls to 0.

![W1 and W2 along the training](persistence.png)

{laws}
## Too much persistence

{RING.name}, potential networks, every K at the setting chosen for K = 10 ({setting}): after
{budget.updates} iterations, so that the potentials have had equally many updates, and after
{budget.seconds:g} processor seconds. "auto" ends an iteration when the network lags behind by less
than a quarter of the way, after 50 steps at the latest. K = 100 is above at a setting of its own.

![W1 and W2 by persistence](persistence_sweep.png)

{sweep_table(raw)}
"""


def draw_curves(raw: pd.DataFrame, floors: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw the mean over the seeds with a band from the least to the greatest."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(16, 7.5), layout="constrained")
    panels = itertools.product((RING, TEN_MODES), ("seconds", "epochs"))
    labels = {"seconds": "processor seconds", "epochs": "epochs (all optimiser steps)"}
    for column, (law, axis) in zip(axes.T, panels, strict=True):
        curves = raw[(raw["law"] == law.name) & (raw["part"] == "curves")]
        for name, ax in zip(("w1", "w2"), column, strict=True):
            for method, color in COLORS.items():
                group = curves[curves["method"] == method]
                paths = [path for _, path in group.groupby("seed")]
                at = common(paths, axis, 40)
                found = np.array([on_grid(path, axis, name, at) for path in paths])
                style = "--" if method in REFERENCES else "-"
                ax.plot(at, found.mean(0), style, color=color, label=method)
                ax.fill_between(at, found.min(0), found.max(0), color=color, alpha=0.18, lw=0)
            ax.axhline(floors[law.name][name].mean(), color="0.5", lw=1, ls=":", label="floor")
            ax.set(xscale="log", yscale="log", xlabel=labels[axis])
            ax.set_ylabel(f"{name.upper()} to held-out rows")
            ax.grid(alpha=0.3, which="both")
        column[0].set_title(f"{law.name}, by {axis}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    save_picture(figure, path)


def draw_sweep(raw: pd.DataFrame, floor: pd.DataFrame, budget: Budget, path: Path) -> None:
    """Draw the distances against the persistence, at equal updates and in equal time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    swept = raw[(raw["part"] == "sweep") & (raw["persistence"] != "auto")]
    names = {
        "updates": f"after {budget.updates} iterations",
        "end": f"after {budget.seconds:g} processor seconds",
    }
    for ax, name in zip(axes, ("w1", "w2"), strict=True):
        for at, color in (("updates", "C2"), ("end", "C0")):
            there = swept[swept["at"] == at]
            found = there.groupby(there["persistence"].astype(int))[name].agg(
                ["mean", "min", "max"]
            )
            ax.plot(found.index, found["mean"], "o-", color=color, label=names[at], ms=4)
            ax.fill_between(found.index, found["min"], found["max"], color=color, alpha=0.2, lw=0)
        ax.axhline(floor[name].mean(), color="0.5", lw=1, ls=":", label="floor")
        ax.set(xscale="log", yscale="log", xlabel="persistence K")
        ax.set_ylabel(f"{name.upper()} to held-out rows")
        ax.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize="small")
    figure.suptitle(f"{RING.name}: too little and too much persistence")
    save_picture(figure, path)


def main() -> None:
    """Tune, compare, and sweep the persistence."""
    options = parse_options(__doc__, seeds=(0, 1, 2, 3, 4))
    # Fits of a fixed length; the curves show how far they came.
    warnings.simplefilter("ignore", ConvergenceWarning)
    budget = (
        Budget(tuning=0.1, seconds=1.0, marks=3, updates=2, settings=2)
        if options.quick
        else Budget()
    )
    rows, chosen, floors = [], {}, {}
    for law in (RING, TEN_MODES):
        reference = law.rows(N_EVAL, REFERENCE_SEED, stratified=True)
        floors[law.name] = distance_floor(law, reference, 2 if options.quick else N_FLOOR)
        found, chosen[law.name] = compare(law, options, budget)
        rows += found
    rows += sweep(RING, options, budget, chosen[RING.name][PERSISTENT])
    raw = pd.DataFrame(rows)
    kept = [floor.assign(law=law, method="floor", part="floor") for law, floor in floors.items()]
    write_results(
        options.out,
        "persistence",
        pd.concat([raw, *kept]),
        report(raw, floors, chosen, options, budget),
    )
    draw_curves(raw, floors, options.out / "persistence.png")
    draw_sweep(raw, floors[RING.name], budget, options.out / "persistence_sweep.png")


if __name__ == "__main__":
    main()
