"""The transport engine against its peers: Sinkhorn velocities, exact plans, sliced velocities.

Every contender computes the same thing from the same points, at the same marginal error where it
can be set, in turns within one process. Written to sinkhorn_engine.md and sinkhorn_engine.csv.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from _common import installed, machine, markdown, parse_options, write_results
from _engine import (
    AGAIN,
    AUTOGRAD,
    DEFAULT,
    DEFAULT_TOL,
    EMD,
    FRESH,
    N_PROJECTIONS,
    STEP,
    TOL,
    exact_steps,
    sliced_steps,
    velocities,
)
from _velocities import CONTENDERS, OURS, POT64

SIZES, DIMENSIONS, REGULARISATIONS = (500, 2000), (2, 64), (0.05, 0.005)
N_EXACT, REPEATS = 2048, 7
QUICK_SIZE, QUICK_REPEATS = 500, 3

WARM = (OURS, POT64, DEFAULT)

Cell = dict[str, str]


def compare(sizes: tuple[int, ...], n_exact: int, repeats: int, seed: int) -> pd.DataFrame:
    """Return a row of figures for every contender in every cell."""
    rows: list[dict] = []
    for n in sizes:
        for d in DIMENSIONS:
            for rel in REGULARISATIONS:
                rows += velocities(n, d, rel, seed, repeats)
                print(n, d, rel, f"{len(rows)} rows")
    for d in DIMENSIONS:
        rows += exact_steps(n_exact, d, seed, repeats)
        rows += sliced_steps(n_exact, d, seed, repeats)
    return pd.DataFrame(rows)


def table(shown: pd.DataFrame, keys: list[str], fill: Callable[[pd.DataFrame], Cell]) -> str:
    """Return Markdown with a row for each combination of `keys`."""
    rows = []
    for values, group in shown.groupby(keys, sort=False):
        labels = (value if isinstance(value, str) else f"{value:g}" for value in values)
        rows.append(dict(zip(keys, labels, strict=True)) | fill(group.set_index("name")))
    return markdown(pd.DataFrame(rows).rename(columns={"reg": "reg / mean cost"}))


def times(*names: str) -> Callable[[pd.DataFrame], Cell]:
    """Return a filler: milliseconds, and how many times those of the first of `names` they are."""

    def fill(group: pd.DataFrame) -> Cell:
        base = group.at[names[0], "seconds"]
        return {name: time_cell(group.loc[name], base) for name in names}

    return fill


def time_cell(row: pd.Series, base: float) -> str:
    """Return milliseconds and their ratio to `base`, or why there are none."""
    if not np.isfinite(row["seconds"]):
        return str(row["failure"])
    ratio = row["seconds"] / base
    return f"{1e3 * row['seconds']:.0f}" + (f" ({ratio:.1f}x)" if ratio != 1 else "")


def figures(column: str, text: str, *names: str) -> Callable[[pd.DataFrame], Cell]:
    """Return a filler: one figure in the format `text`, a dash where there is none."""

    def fill(group: pd.DataFrame) -> Cell:
        values = group[column].reindex(names)
        return {k: format(v, text) if np.isfinite(v) else "-" for k, v in values.items()}

    return fill


def warm_times(group: pd.DataFrame) -> Cell:
    """Return times after a step, over ours, and over the same contender's without its start."""
    warm, cold = (group[group["start"] == start] for start in ("warm", AGAIN))
    texts = times(*WARM)(warm)
    gains = warm["seconds"] / cold["seconds"]
    return texts | {f"{name}: warm / cold": f"{gains[name]:.2f}" for name in WARM}


def report(raw: pd.DataFrame, n_exact: int, seed: int, repeats: int) -> str:
    """Return the page of results."""
    parts = dict(tuple(raw.groupby("part")))
    velocity = parts["velocity"]
    cold = velocity[velocity["start"] == "cold"]
    cell = ["n", "d", "reg"]
    everyone = (*CONTENDERS, DEFAULT)
    return f"""# The transport engine and its peers

Medians of up to {repeats} calls, in turns with the other contenders, in milliseconds of processor
time; in brackets how many times ours. n points of N(0, I) and n of a narrower normal law two units
away; seed {seed}. {machine()} geomloss {installed("geomloss")}.

## Debiased Sinkhorn velocity, cold

T_xy - T_xx from the points, at an L1 marginal error of {TOL:g} in both problems; ours in
float32. The last column is ours at its default tolerance, {DEFAULT_TOL:g}. The accuracy of geomloss
cannot be set: see the errors below.

{table(cold, cell, times(*everyone))}

## Warm, after a step of {STEP:g} of the flow

{table(velocity[velocity["name"].isin(WARM)], cell, warm_times)}

## Relative error of the velocity

Against the velocity converged in float64 to 1e-9, from a cold start.

{table(cold, cell, figures("velocity_error", ".0e", *everyone))}

## L1 marginal error

The larger one of the two problems, evaluated afterwards in float64.

{table(cold, cell, figures("marginal_error", ".0e", *everyone))}

## Peak memory, MiB

Growth of a fresh process over one velocity. A float32 matrix of n = 2000 takes 15 MiB.

{table(cold, cell, figures("peak_mib", ".0f", *CONTENDERS))}

## Exact steps

Plan, potentials and barycentric map at n = {n_exact}, in float64; warm: from the potentials before
a step of {STEP:g} along the flow, with a random part half as large. The optima agree to 1e-10.

{table(parts["exact"], ["d", "start"], times(OURS, EMD))}

## Sliced velocity

{N_PROJECTIONS} directions at n = {n_exact}, in float32; relative difference of the velocities in
the same directions: {parts["sliced"]["velocity_error"].max():.0e}.

{table(parts["sliced"], ["d", "n"], times(OURS, FRESH, AUTOGRAD))}
"""


def main() -> None:
    """Run the comparison."""
    options = parse_options(__doc__)
    seed = options.seeds[0]
    sizes, n_exact, repeats = (
        ((QUICK_SIZE,), QUICK_SIZE, QUICK_REPEATS) if options.quick else (SIZES, N_EXACT, REPEATS)
    )
    raw = compare(sizes, n_exact, repeats, seed)
    write_results(options.out, "sinkhorn_engine", raw, report(raw, n_exact, seed, repeats))


if __name__ == "__main__":
    main()
