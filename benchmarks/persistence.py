"""Persistent training: several optimiser steps on the same pairs, against one, and against GANs.

The same generator network learns from potential networks with one step an iteration (the W2-GAN)
and with more, and from the critic of a WGAN-GP; 12 settings of each were tried. W1 and W2 fall
along the training, against processor seconds and against epochs; then the persistence grows until
it harms. Written to persistence.md, persistence.csv, persistence.png and persistence_sweep.png.
"""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import (
    Column,
    Options,
    comparison,
    conditions,
    markdown,
    mean_and_range,
    parse_options,
    save_picture,
    write_results,
)
from _modes import N_FLOOR, REFERENCE_SEED, RING, Law, distance_floor
from _peers import BATCH, HIDDEN
from _persistence_runs import (
    EXACT_ONE,
    EXACT_TEN,
    HELD,
    HELD_BATCH,
    HELD_ITER,
    N_EVAL,
    N_ROWS,
    PERSISTENT,
    REFERENCES,
    STUBBORN,
    TEN_MODES,
    W2_GAN,
    WGAN,
    Budget,
    Row,
    Setting,
    compare,
    sweep,
)
from sklearn.exceptions import ConvergenceWarning

TICKS = (0.1, 0.2, 0.3, 0.5, 1, 2, 3, 4, 6)
LEVEL = 1 / 3  # of the first W2: how long it takes to get there is told
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


def time_to_level(path: pd.DataFrame) -> Row:
    """Return when W2 first falls to a share of its first value.

    Between marks by interpolation; at the first mark if it is there by then, since the time before
    may have gone to a plan.
    """
    w2 = path["w2"].to_numpy()
    below = np.flatnonzero(w2 <= LEVEL * w2[0])
    found: Row = {"reached": len(below) > 0, "seconds_to_level": np.nan, "epochs_to_level": np.nan}
    if len(below) == 0:
        return found
    i = below[0]
    share = 1.0 if i == 1 else np.log(LEVEL * w2[0] / w2[i - 1]) / np.log(w2[i] / w2[i - 1])
    for axis in ("seconds", "epochs"):
        x = path[axis].to_numpy()
        found[f"{axis}_to_level"] = x[i - 1] + share * (x[i] - x[i - 1])
    return found


def with_levels(raw: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the time to the level beside the last figures of every curve."""
    curves = raw[raw["part"] == "curves"]
    starts = curves[curves["at"] == "start"]
    found = {}
    for (law, seed, method), path in curves.groupby(["law", "seed", "method"], sort=False):
        if method == HELD:  # its fit starts from the law that the others start from
            first = starts[(starts["law"] == law) & (starts["seed"] == seed)]
            path = pd.concat([first.head(1), path])
        found[path.index[-1]] = time_to_level(path)
    return raw.join(pd.DataFrame.from_dict(found, orient="index"))


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
    for (step_size, persistence), group in swept.groupby(["step_size", "persistence"], sort=False):
        row = {"step": f"{step_size:g}", "K": persistence}
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
    curves = raw[(raw["law"] == law.name) & (raw["part"] == "curves")]
    start, ends = (curves[curves["at"] == at] for at in ("start", "end"))
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

{RING.name}, potential networks, every K at the setting chosen for K = 10
({setting}) and at the same with the whole
step in flow time, 1: after {budget.updates} iterations, so that the potentials have had equally
many updates, and after {budget.seconds:g} processor seconds. "auto" ends an iteration when the
network lags behind by less than a quarter of the way, after 50 steps at the latest. K = 100 is
above at a setting of its own.

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
            plain_ticks(ax.yaxis, TICKS)
            if axis == "seconds":
                plain_ticks(ax.xaxis, (0.5, 1, 2, 4, 8))
            ax.set_ylabel(f"{name.upper()} to held-out rows")
            ax.grid(alpha=0.3, which="both")
        column[0].set_title(f"{law.name}, by {axis}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    save_picture(figure, path)


def draw_sweep(raw: pd.DataFrame, floor: pd.DataFrame, budget: Budget, path: Path) -> None:
    """Draw the distances against the persistence, at equal updates and in equal time."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    swept = raw[(raw["part"] == "sweep") & (raw["persistence"] != "auto")]
    swept = swept.assign(persistence=swept["persistence"].astype(int))
    places = {
        "updates": (f"after {budget.updates} iterations", "C2"),
        "end": (f"after {budget.seconds:g} processor seconds", "C0"),
    }
    for ax, name in zip(axes, ("w1", "w2"), strict=True):
        for (at, step_size), group in swept.groupby(["at", "step_size"]):
            label, color = places[at]
            style = "--" if step_size == 1.0 else "-"
            found = group.groupby("persistence")[name].agg(["mean", "min", "max"])
            label = f"{label}, step {step_size:g}"
            ax.plot(found.index, found["mean"], f"o{style}", color=color, label=label, ms=4)
            ax.fill_between(found.index, found["min"], found["max"], color=color, alpha=0.15, lw=0)
        ax.axhline(floor[name].mean(), color="0.5", lw=1, ls=":", label="floor")
        ax.set(xscale="log", yscale="log", xlabel="persistence K")
        plain_ticks(ax.yaxis, TICKS)
        plain_ticks(ax.xaxis, (1, 3, 10, 30, 100, 300))
        ax.set_ylabel(f"{name.upper()} to held-out rows")
        ax.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize="small")
    figure.suptitle(f"{RING.name}: too little and too much persistence")
    save_picture(figure, path)


def plain_ticks(axis: Any, places: tuple[float, ...]) -> None:
    """Label some places of a logarithmic axis by their numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(places))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


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
    raw = with_levels(pd.DataFrame(rows))
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
