"""Speed of a step of Stein variational gradient descent against its peers, and its memory.

Every contender makes the same step with the same fixed Gaussian kernel, in one process and in
single precision. Written to svgd.md and svgd.csv.
"""

from __future__ import annotations

import os
from collections.abc import Callable

# Read by JAX at its first import: one thread for all.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import pandas as pd
from _common import installed, machine, markdown, parse_options, write_results
from _stein_steps import (
    BLACKJAX,
    CONTENDERS,
    JAX,
    LIMIT,
    OURS,
    cell,
    peak_memory,
)

SIZES, DIMENSIONS, REPEATS = (200, 1000, 5000), (10, 100), 15
LARGE = (50_000, 10)
QUICK_SIZES, QUICK_REPEATS, QUICK_LARGE = (200,), 3, (5000, 10)


def compare(sizes: tuple[int, ...], repeats: int, seed: int) -> pd.DataFrame:
    """Return a row of figures for every contender in every cell."""
    rows: list[dict] = []
    for d in DIMENSIONS:
        for n in sizes:
            rows += cell(n, d, seed, repeats)
            print(n, d, f"{len(rows)} rows", flush=True)
    return pd.DataFrame(rows)


def table(
    raw: pd.DataFrame, names: tuple[str, ...], fill: Callable[[pd.DataFrame, str], str]
) -> str:
    """Return Markdown with a row a cell and a column a contender."""
    rows = []
    for (d, n), group in raw.groupby(["d", "n"]):
        figures = group.set_index("name")
        failures = figures["failure"].dropna()
        cells = {
            name: failures[name] if name in failures else fill(figures, name) for name in names
        }
        rows.append({"d": d, "n": n} | cells)
    return markdown(pd.DataFrame(rows))


def milliseconds(figures: pd.DataFrame, name: str) -> str:
    """Return the time of a step, and how many times ours it is."""
    seconds = figures["fastest"]
    ratio = "" if name == OURS else f" ({seconds[name] / seconds[OURS]:.2g}x)"
    return f"{1e3 * seconds[name]:.3g}{ratio}"


def plain(column: str, text: str) -> Callable[[pd.DataFrame, str], str]:
    """Return a filler with the figures of one column."""
    return lambda figures, name: format(figures.at[name, column], text)


def report(raw: pd.DataFrame, memory: float, large: tuple[int, int], repeats: int) -> str:
    """Return the page of results."""
    everyone = tuple(CONTENDERS)
    compiled = (JAX, BLACKJAX)
    others = tuple(name for name in everyone if name != LIMIT)
    return f"""# A step of Stein variational gradient descent

n particles from N(0, I) moved by one half, towards N(0, I), kernel exp(-r^2 / 2d), Euler steps in
float32. Milliseconds of processor time for a step, in the fastest of up to {repeats} runs of steps
in turns; in brackets how many times ours. {machine()} blackjax {installed("blackjax")}, jax
{installed("jax")}, pyro-ppl {installed("pyro-ppl")}.

Ours is a step of the carrier: scores, velocity, the squared kernel Stein discrepancy of every
particle, the move and its record. The others make the velocity and the move. "{LIMIT}" is what two
matrix products and a power of two cost when every pair is looked at once, and no more: it is no
velocity. Of blackjax and of pyro the kernels are used at a fixed bandwidth, without their search
for a median; what they compile or load at the first call is counted apart.

{table(raw, everyone, milliseconds)}

## First call, seconds

{table(raw, compiled, plain("first", ".2f"))}

## Relative error of the step

Against the step in float64.

{table(raw, others, plain("error", ".0e"))}

## Memory

One step of ours at n = {large[0]}, d = {large[1]} makes a fresh process grow by {memory:.0f} MiB at
its peak, counted from after its imports and the points. The matrix of all pairs would take
{4 * large[0] ** 2 / 2**20:.0f} MiB, an array of all pairs and coordinates
{4 * large[0] ** 2 * large[1] / 2**20:.0f} MiB.
"""


def main() -> None:
    """Run the comparison."""
    options = parse_options(__doc__, seeds=(0,))
    sizes, repeats, large = (
        (QUICK_SIZES, QUICK_REPEATS, QUICK_LARGE) if options.quick else (SIZES, REPEATS, LARGE)
    )
    raw = compare(sizes, repeats, options.seeds[0])
    raw = raw.reindex(columns=list(dict.fromkeys([*raw.columns, "failure"])))
    memory = peak_memory(*large)
    raw = raw.assign(peak_mib=np.where(raw["name"] == OURS, memory, np.nan))
    write_results(options.out, "svgd", raw, report(raw, memory, large, repeats))


if __name__ == "__main__":
    main()
