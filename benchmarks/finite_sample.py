"""How the velocity of a batch, and a network fitted to few rows, approach those of the law.

The error of the debiased entropic map T_xy - T_xx' of batches of m points, at fixed points and a
fixed regularisation, against that of a batch of 8192; beside it the error of generators fitted to
m rows. Written to finite_sample.md, finite_sample.csv and finite_sample.png.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import (
    Options,
    conditions,
    markdown,
    mean_and_range,
    parse_options,
    save_picture,
    write_results,
)
from _modes import DRAW_SEED, FLOOR_SEED, REFERENCE_SEED, RING
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skwgf import SinkhornFlowGenerator
from skwgf.metrics import sinkhorn_divergence, wasserstein_distance
from skwgf.transport import mean_cost
from skwgf.transport.sinkhorn import sinkhorn, sinkhorn_self

SIZES = (64, 128, 256, 512, 1024, 2048)
N_REFERENCE, N_QUERIES, REPETITIONS = 8192, 512, 12
REGS = (0.01, 0.05, 0.2)
START, END = "at the start: N(0, I) to the ring", "at the end: ring to ring"
BATCHES = {"two batches": True, "one batch": False}
TOL = 1e-4
# Fits to few rows, short ones: a sixth of the default.
MAX_ITER, N_DISTANCE, DIVERGENCE_REG = 100, 2048, 0.05
GENERATOR, ROWS, FLOOR = "generator", "the rows themselves", "independent draws of the law"
DISTANCES = {"w1": "W1", "divergence": "Sinkhorn divergence"}
BATCH_SEED = 100_000

Draw = Callable[[int, int], Tensor]


def normal(n: int, seed: int) -> Tensor:
    """Return points of N(0, I)."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed))


def ring(n: int, seed: int) -> Tensor:
    """Return rows of the ring."""
    return torch.as_tensor(RING.rows(n, seed), dtype=torch.float32)


def ring_unit() -> float:
    """Return the mean cost within the ring, which regularisations are relative to."""
    rows = ring(N_REFERENCE, BATCH_SEED - 1)
    return mean_cost(rows, rows)


STATES: dict[str, Draw] = {START: normal, END: ring}


def velocity(
    law: Draw, size: int, seed: int, queries: Tensor, reg: float, *, second: bool
) -> Tensor:
    """Return the velocity of batches of one size at points outside of them.

    The self term is taken to a second batch of the law, or to the batch itself.
    """
    x, other, y = law(size, seed), law(size, seed + 1), ring(size, seed + 2)
    own = sinkhorn(x, other, reg, tol=TOL) if second else sinkhorn_self(x, reg, tol=TOL)
    toward = sinkhorn(x, y, reg, tol=TOL)
    return toward.barycentric_map(queries) - own.barycentric_map(queries)


def velocity_errors(*, quick: bool) -> pd.DataFrame:
    """Return the rms error of every batch, for each state, regularisation, size and repetition."""
    sizes, n_reference = (SIZES[:2], 512) if quick else (SIZES, N_REFERENCE)
    rows = []
    for state, law in STATES.items():
        queries = law(N_QUERIES, DRAW_SEED)
        for relative in REGS:
            reg = relative * ring_unit()
            reference = velocity(law, n_reference, REFERENCE_SEED, queries, reg, second=True)
            length = float(reference.square().sum(1).mean().sqrt())
            for batches, second in BATCHES.items():
                for size in sizes:
                    for repetition in range(2 if quick else REPETITIONS):
                        seed = BATCH_SEED + 3 * repetition
                        found = velocity(law, size, seed, queries, reg, second=second)
                        error = float((found - reference).square().sum(1).mean().sqrt())
                        rows.append(
                            {
                                "state": state,
                                "reg": relative,
                                "batches": batches,
                                "size": size,
                                "repetition": repetition,
                                "error": error,
                                "length": length,
                            }
                        )
            print(state, relative, f"|v| = {length:.3f}")
    return pd.DataFrame(rows)


def generator_errors(options: Options) -> pd.DataFrame:
    """Return how far generators fitted to few rows, and these rows, are from the law."""
    reference = RING.rows(N_DISTANCE, REFERENCE_SEED, stratified=True)
    reg = DIVERGENCE_REG * ring_unit()
    rows = []

    def add(name: str, size: int, seed: int, Z: np.ndarray) -> None:
        figures = {
            "w1": wasserstein_distance(Z, reference, p=1),
            "divergence": sinkhorn_divergence(Z, reference, reg=reg),
        }
        rows.append({"method": name, "size": size, "seed": seed, **figures})
        print(name, size, seed, *(f"{key}={value:.4g}" for key, value in figures.items()))

    for seed in options.seeds:
        add(FLOOR, N_DISTANCE, seed, RING.rows(N_DISTANCE, FLOOR_SEED + seed))
        for size in SIZES[:2] if options.quick else SIZES:
            X = RING.rows(size, seed)
            iterations = 2 if options.quick else MAX_ITER
            flow = SinkhornFlowGenerator(max_iter=iterations, random_state=seed).fit(X)
            add(GENERATOR, size, seed, flow.sample(N_DISTANCE, random_state=DRAW_SEED + seed))
            add(ROWS, size, seed, X)
    return pd.DataFrame(rows)


def mean_error(group: pd.DataFrame) -> pd.Series:
    """Return the root of the mean squared error, by size."""
    return group.groupby("size")["error"].agg(lambda e: float(np.sqrt((e**2).mean())))


def slope(errors: pd.Series) -> float:
    """Return the slope of log error over log size."""
    return float(np.polyfit(np.log(errors.index), np.log(errors), 1)[0])


def velocity_table(raw: pd.DataFrame) -> str:
    """Return the rms error by size, and the slope, as Markdown."""
    rows = []
    for (state, reg, batches), group in raw.groupby(["state", "reg", "batches"], sort=False):
        errors = mean_error(group)
        cells = [f"{error:.4f}" for error in errors]
        length = f"{group['length'].iloc[0]:.3f}"
        rows.append([state, f"{reg:g}", batches, length, *cells, f"{slope(errors):.3f}"])
    sizes = [f"m = {size}" for size in sorted(raw["size"].unique())]
    heading = ["state", "reg / mean cost", "self term", "rms velocity", *sizes, "slope"]
    return markdown(pd.DataFrame(rows, columns=heading))


def generator_table(raw: pd.DataFrame) -> str:
    """Return the distances to the law by number of rows, as Markdown."""
    parts = []
    for column, heading in DISTANCES.items():
        cells = {"rows": sorted(raw.loc[raw["method"] == GENERATOR, "size"].unique())}
        for name in (GENERATOR, ROWS):
            shown = raw[raw["method"] == name].groupby("size")[column]
            cells[f"{heading}, {name}"] = [mean_and_range(values, 4) for _, values in shown]
        floor = mean_and_range(raw.loc[raw["method"] == FLOOR, column], 4)
        parts.append(f"{markdown(pd.DataFrame(cells))}\n\nFloor: {FLOOR}, {heading} {floor}.")
    return "\n\n".join(parts)


def report(velocities: pd.DataFrame, generators: pd.DataFrame, options: Options) -> str:
    """Return the page of results."""
    return f"""# From batches to the law

Target: the ring of 8. {conditions(options)}

![Errors against the number of points](finite_sample.png)

## The velocity of a batch

T_xy - T_xx' of batches x, y (and x') of m points each, at {N_QUERIES} fixed points outside of them,
at a fixed regularisation; root of the mean squared error over points and {REPETITIONS} repetitions,
against batches of {N_REFERENCE}. The slope of log error over log m is -1/2 for an error that is the
noise of the batch. "One batch": the self term is taken on x itself; its reference is the same.
The rms velocity is that of the reference; at the end of the flow it is noise alone.

{velocity_table(velocities)}

## Generators fitted to m rows

`SinkhornFlowGenerator(max_iter={MAX_ITER})`, a sixth of the default length; {N_DISTANCE} draws
against a stratified reference of as many, and the m rows themselves against it; the divergence is
at {DIVERGENCE_REG} of the mean cost. A generator that is nearer to the law than its rows has
smoothed them.

{generator_table(generators)}

Draws have noise of their own, which the floor shows: below it nothing can be told of a generator.
"""


def draw(velocities: pd.DataFrame, generators: pd.DataFrame, path: Path) -> None:
    """Draw errors against the number of points, with the line of slope -1/2."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
    shown = velocities[velocities["batches"] == "two batches"]
    for axis, (state, of_state) in zip(axes, shown.groupby("state", sort=False), strict=False):
        for reg, group in of_state.groupby("reg"):
            errors = mean_error(group)
            label = f"reg {reg:g}: slope {slope(errors):.2f}"
            axis.loglog(errors.index, errors, "o-", ms=4, label=label)
            by_repetition = group.groupby("size")["error"]
            axis.fill_between(errors.index, by_repetition.min(), by_repetition.max(), alpha=0.15)
        line = errors.iloc[0] * 0.7 * (errors.index.to_numpy() / errors.index[0]) ** -0.5
        axis.loglog(errors.index, line, "k--", lw=1, label="slope -1/2")
        axis.set(title=f"velocity {state}", xlabel="m", ylabel="rms error")
    for name, color in ((GENERATOR, "C0"), (ROWS, "C7")):
        by_size = generators[generators["method"] == name].groupby("size")["w1"]
        mean = by_size.mean()
        label = f"{name}: slope {slope(mean):.2f}"
        axes[2].loglog(mean.index, mean, "o-", ms=4, color=color, label=label)
        axes[2].fill_between(mean.index, by_size.min(), by_size.max(), color=color, alpha=0.15)
    floor = generators.loc[generators["method"] == FLOOR, "w1"].mean()
    axes[2].axhline(floor, color="k", lw=1, ls=":", label=f"{N_DISTANCE} {FLOOR}")
    axes[2].set(title="generator fitted to m rows", xlabel="m", ylabel="W1 to the law")
    for axis in axes:
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="small")
    save_picture(figure, path)


def main() -> None:
    """Measure both errors."""
    options = parse_options(__doc__)
    # Short fits; the figures show how far they came.
    warnings.simplefilter("ignore", ConvergenceWarning)
    velocities = velocity_errors(quick=options.quick)
    generators = generator_errors(options)
    raw = pd.concat([velocities, generators])
    text = report(velocities, generators, options)
    write_results(options.out, "finite_sample", raw, text)
    draw(velocities, generators, options.out / "finite_sample.png")


if __name__ == "__main__":
    main()
