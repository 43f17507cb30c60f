"""Rare modes kept or lost, over a sweep of the regularisation: Sinkhorn flow and softmax fields.

Six heavy modes and two rare ones far away, from N(0, I): the flow of particles to its rest, and
networks trained by the loop. Written to mode_coverage.md, mode_coverage.csv and
mode_coverage.png.
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
    timed,
    write_results,
)
from _modes import DRAW_SEED, N_SHAPE, N_TRAIN, SIX_PLUS_TWO, mass_distance
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skwgf import SinkhornFlowGenerator
from skwgf.flows.sinkhorn import SinkhornVelocity
from skwgf.transport import half_squared_distance, mean_cost

REGS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
N_PARTICLES = 1000
# The flow is at rest when a step is shorter (rms) than that share of the root mean cost.
MAX_STEPS, REST = 200, 3e-4
NETWORK_REGS = (0.01, 0.05, 0.2)
NETWORK_ITER, PERSISTENCE = 400, 5
FLOW, NETWORK = "particles at rest", "network, loop"
SINKHORN, KL, DRIFTING = "Sinkhorn", "softmax over rows", "softmax over rows and columns"
KINDS = {SINKHORN: "sinkhorn", KL: "kl"}
COLUMNS = {
    "rare": "mass on the rare modes over that of the rows",
    "mass_tv": "mode-mass TV",
}
# Exponents are cut there: exp is slow where it underflows.
LEAST_EXPONENT = -60.0

Field = Callable[[Tensor], Tensor]


def drifting_field(y: Tensor, reg: float) -> Field:
    r"""Return the field of drifting models towards the rows `y`.

    Data and cloud together get the weights :math:`\sqrt{r c}`, r a softmax of -cost/reg over the
    rows of the matrix and c one over its columns; a point does not see itself. With A the total
    weight of the data, B that of the cloud, the velocity is B times the weighted sum of the data
    minus A times that of the cloud (Deng, Li, Li, Du, He, arXiv:2602.04770), here with the cost
    |x - y|^2/2 that the other fields have.
    """

    def velocity(x: Tensor) -> Tensor:
        n = len(x)
        logits = half_squared_distance(x, torch.cat([x, y])).div_(-reg)
        logits[:, :n].fill_diagonal_(-torch.inf)
        # Roots first: the product could leave the range of floats.
        weights = softmax(logits, 1).sqrt_() * softmax(logits, 0).sqrt_()
        own, data = weights[:, :n], weights[:, n:]
        return own.sum(1, keepdim=True) * (data @ y) - data.sum(1, keepdim=True) * (own @ x)

    return velocity


def softmax(logits: Tensor, dim: int) -> Tensor:
    """Return the softmax without exponents so low that exp is slow."""
    shifted = logits - logits.amax(dim, keepdim=True)
    weights = shifted.clamp_min_(LEAST_EXPONENT).exp_()
    return weights.div_(weights.sum(dim, keepdim=True))


def field_of(name: str, y: Tensor, reg: float) -> Field:
    """Return the velocity of that name."""
    if name == DRIFTING:
        return drifting_field(y, reg)
    field = SinkhornVelocity(y, reg, velocity=KINDS[name], tol=1e-3, max_iter=100)
    return lambda x: field(x).direction


def run_particles(name: str, X: np.ndarray, reg: float, seed: int, max_steps: int) -> dict:
    """Run a cloud from N(0, I) to rest; return its figures."""
    y = torch.as_tensor(X, dtype=torch.float32)
    unit = mean_cost(y, y)
    x = torch.randn(N_PARTICLES, 2, generator=torch.Generator().manual_seed(DRAW_SEED + seed))
    field, steps, length = field_of(name, y, reg * unit), 0, np.inf
    while steps < max_steps and length > REST:
        move = field(x)
        x = x + move
        steps += 1
        length = float(move.square().sum(1).mean().sqrt()) / unit**0.5
    return coverage_figures(x.numpy(), X) | {"steps": steps, "step": length}


def run_network(name: str, X: np.ndarray, reg: float, seed: int, max_iter: int) -> dict:
    """Train a network by the loop at one regularisation; return the figures of its draws."""
    generator = SinkhornFlowGenerator(
        KINDS[name],
        persistence=PERSISTENCE,
        reg=reg,
        reg_start=reg,
        max_iter=max_iter,
        random_state=seed,
    )
    _, wall, processor = timed(generator.fit, X)
    draws = generator.sample(N_SHAPE, random_state=DRAW_SEED + seed)
    times = {"fit_seconds": wall, "fit_processor_seconds": processor}
    return coverage_figures(draws, X) | times


def coverage_figures(Z: np.ndarray, X: np.ndarray) -> dict[str, float]:
    """Return what share of the rare modes a sample keeps, and its mode masses."""
    found, trained = SIX_PLUS_TWO.coverage(Z), SIX_PLUS_TWO.coverage(X)
    rare = list(SIX_PLUS_TWO.rare)
    shares = found.mass[rare] / trained.mass[rare]
    return {
        "rare": float(found.mass[rare].sum() / trained.mass[rare].sum()),
        "rarer": float(shares.min()),
        "mass_tv": mass_distance(found, trained),
        "off_mode": found.off_mode,
    }


def sweep(options: Options) -> pd.DataFrame:
    """Return a row of figures for each field, regularisation and seed."""
    rows = []

    def add(carrier: str, name: str, reg: float, seed: int, figures: dict) -> None:
        rows.append({"carrier": carrier, "field": name, "reg": reg, "seed": seed, **figures})
        print(carrier, name, reg, seed, *(f"{k}={v:.4g}" for k, v in figures.items()))

    for seed in options.seeds:
        X = SIX_PLUS_TWO.rows(N_PARTICLES, seed)
        for reg in REGS:
            for name in (SINKHORN, KL, DRIFTING):
                steps = 3 if options.quick else MAX_STEPS
                add(FLOW, name, reg, seed, run_particles(name, X, reg, seed, steps))
    for seed in options.seeds:
        X = SIX_PLUS_TWO.rows(N_TRAIN, seed)
        for reg in NETWORK_REGS:
            for name in KINDS:
                steps = 3 if options.quick else NETWORK_ITER
                add(NETWORK, name, reg, seed, run_network(name, X, reg, seed, steps))
    return pd.DataFrame(rows)


def sweep_table(raw: pd.DataFrame, carrier: str, column: str) -> str:
    """Return one figure of all fields (columns) at all regularisations (rows) as Markdown."""
    shown = raw[raw["carrier"] == carrier]
    names = list(dict.fromkeys(shown["field"]))
    rows = [
        [f"{reg:g}"]
        + [mean_and_range(group.loc[group["field"] == name, column], 3) for name in names]
        for reg, group in shown.groupby("reg")
    ]
    return markdown(pd.DataFrame(rows, columns=["reg / mean cost", *names]))


def at_rest(raw: pd.DataFrame) -> str:
    """Return the sentence that says how many clouds came to rest."""
    shown = raw[raw["carrier"] == FLOW]
    counts = (shown["step"] <= REST).groupby(shown["field"], sort=False).agg(["sum", "size"])
    return "; ".join(f"{name} {row['sum']} of {row['size']}" for name, row in counts.iterrows())


def report(raw: pd.DataFrame, options: Options) -> str:
    """Return the page of results."""
    return f"""# Rare modes over a sweep of the regularisation

Six heavy modes and two rare ones (2.5% of the mass each) at distance 5, from N(0, I).
{conditions(options)} A mode's mass is that within 4 sd of its centre; "rare" is the mass of both
rare modes over that of the rows.

* {SINKHORN}: the debiased entropic map at convergence, the flow of the Sinkhorn divergence.
* {KL}: half an iteration, `velocity="kl"`. Every row of weights is normalised, for the data and for
  the cloud apart.
* {DRIFTING}: the field of drifting models, which normalises data and cloud together over
  rows and columns; with the cost |x - y|^2/2, so that one axis serves all fields.

![Rare modes and mode masses](mode_coverage.png)

## Particles at rest

{N_PARTICLES} particles and rows; steps of 1 until the rms step is below {REST:g} of the root mean
cost, at most {MAX_STEPS}. At rest: {at_rest(raw)}.

Mass on the rare modes over that of the rows:

{sweep_table(raw, FLOW, "rare")}

Mode-mass TV:

{sweep_table(raw, FLOW, "mass_tv")}

## Networks trained by the loop

{N_TRAIN} rows, `SinkhornFlowGenerator(velocity, persistence={PERSISTENCE}, reg=reg, reg_start=reg,
max_iter={NETWORK_ITER})`, {N_SHAPE} draws.

Mass on the rare modes over that of the rows:

{sweep_table(raw, NETWORK, "rare")}

Mode-mass TV:

{sweep_table(raw, NETWORK, "mass_tv")}
"""


def draw(raw: pd.DataFrame, path: Path) -> None:
    """Draw the mean over the seeds with a band from the least to the greatest."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained", sharey="row")
    colors = {SINKHORN: "C0", KL: "C1", DRIFTING: "C3"}
    for row, column in zip(axes, ("rare", "mass_tv"), strict=True):
        for axis, carrier in zip(row, (FLOW, NETWORK), strict=True):
            shown = raw[raw["carrier"] == carrier]
            for name, group in shown.groupby("field", sort=False):
                found = group.groupby("reg")[column].agg(["mean", "min", "max"])
                axis.plot(found.index, found["mean"], "o-", color=colors[name], label=name, ms=4)
                axis.fill_between(
                    found.index, found["min"], found["max"], color=colors[name], alpha=0.2, lw=0
                )
            axis.set(xscale="log", xlabel="reg / mean cost", title=carrier)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(COLUMNS[column])
    for axis in axes[0]:
        axis.axhline(1.0, color="0.5", lw=1, ls="--")
    axes[1, 1].legend(*axes[0, 0].get_legend_handles_labels(), fontsize="small")
    save_picture(figure, path)


def main() -> None:
    """Run the sweep."""
    options = parse_options(__doc__, seeds=(0, 1, 2, 3, 4))
    # Loops of a fixed length; the tables show how far they came.
    warnings.simplefilter("ignore", ConvergenceWarning)
    raw = sweep(options)
    write_results(options.out, "mode_coverage", raw, report(raw, options))
    draw(raw, options.out / "mode_coverage.png")


if __name__ == "__main__":
    main()
