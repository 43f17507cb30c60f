"""One network pass a sample: SinkhornFlowGenerator, W2FlowGenerator, and flow matching in many.

From N(0, I) to a ring of eight modes and to six heavy modes with two rare ones, then from an oval
to a circle. Written to one_step.md, one_step.csv, one_step_transfer.csv and two pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from _common import (
    Options,
    conditions,
    markdown,
    parse_options,
    save_picture,
    timed,
    write_results,
)
from _modes import (
    COLUMNS,
    COST,
    N_FLOOR,
    N_SHAPE,
    N_TRAIN,
    REFERENCE_SEED,
    RING,
    SIX_PLUS_TWO,
    TRUTH,
    Law,
    distance_floor,
    figures,
    mass_noise,
    table,
    truth,
)
from _peers import Sampler, flow_matching, has_torchcfm
from _transfer import compare_transfer, transfer_table
from sklearn.exceptions import ConvergenceWarning

from skwgf import SinkhornFlowGenerator, W2FlowGenerator

LAWS = (RING, SIX_PLUS_TWO)
N_DISTANCE, QUICK_DISTANCE = 4096, 256
# Flow matching gets the optimiser steps of a default SinkhornFlowGenerator and its pairs a step.
CFM_STEPS, CFM_TIMES, CFM_RATE = 6000, 2, 1e-2
CFM_PASSES = (1, 5, 100)
DEFAULT, LOOP, W2 = "Sinkhorn flow (default)", "Sinkhorn flow, loop, persistence 10", "W2 flow"
CFM = {passes: f"OT-CFM, {passes} evaluation{'s' * (passes > 1)}" for passes in CFM_PASSES}
PEER = CFM[max(CFM_PASSES)]

Fit = Callable[..., tuple[Sampler, ...]]


@dataclass(frozen=True)
class Method:
    """One fit and the rows of the table that it gives: `fit(X, seed=, quick=)`."""

    names: tuple[str, ...]
    fit: Fit
    available: bool = True


def generator(
    kind: type, X: np.ndarray, *, seed: int, quick: bool, **settings: object
) -> tuple[Sampler]:
    """Fit a generator at its defaults, but for what is named."""
    if quick:
        settings["max_iter"] = 2
    flow = kind(random_state=seed, **settings).fit(X)
    return (Sampler(lambda n, seed: flow.sample(n, random_state=seed), passes=1),)


def cfm(X: np.ndarray, *, seed: int, quick: bool) -> tuple[Sampler, ...]:
    """Fit flow matching with the network of the generators and the time as one more input."""
    sampler = flow_matching(
        X,
        steps=5 if quick else CFM_STEPS,
        learning_rate=CFM_RATE,
        seed=seed,
        activation="relu",
        times=CFM_TIMES,
    )
    return tuple(sampler(passes) for passes in CFM_PASSES)


METHODS = (
    Method((DEFAULT,), partial(generator, SinkhornFlowGenerator)),
    Method((LOOP,), partial(generator, SinkhornFlowGenerator, persistence=10)),
    Method((W2,), partial(generator, W2FlowGenerator)),
    Method(tuple(CFM.values()), cfm, available=has_torchcfm()),
)


def compare(law: Law, seed: int, reference: np.ndarray, *, quick: bool) -> list[dict[str, object]]:
    """Return a row of figures for each method on one law; rows of a missing peer are empty."""
    X = law.rows(N_TRAIN, seed)
    rows: list[dict[str, object]] = []
    for method in METHODS:
        if not method.available:
            rows += [{"method": name} for name in method.names]
            continue
        samplers, wall, processor = timed(method.fit, X, seed=seed, quick=quick)
        times = {"fit_seconds": wall, "fit_processor_seconds": processor}
        for name, sampler in zip(method.names, samplers, strict=True):
            found = figures(sampler, X, reference, seed, law, to_rows=True)
            rows.append({"method": name, **times, **found})
            print(
                law.name, seed, *(f"{v:.4g}" if k != "method" else v for k, v in rows[-1].items())
            )
    rows.append({"method": TRUTH, **figures(truth(law), X, reference, seed, law, to_rows=True)})
    for row in rows:
        if "passes" in row:
            row["time_ratio"] = (
                row["sample_processor_seconds"] / rows[0]["sample_processor_seconds"]
            )
        row |= {"law": law.name, "seed": seed, "mass_noise": mass_noise(law.coverage(X))}
    return rows


def goals(raw: pd.DataFrame, floor: pd.DataFrame, *, rare: bool) -> pd.DataFrame:
    """Return which goals each row of figures meets."""
    most = floor["w2"].mean() + 2 * floor["w2"].std()
    met = {
        "mode-mass TV <= .012": raw["mass_tv"] <= 0.012,
        "off-mode share <= .01": raw["off_mode"] <= 0.01,
        "eigenvalues in [.75, 1.25]": (raw["eigenvalue_min"] >= 0.75)
        & (raw["eigenvalue_max"] <= 1.25),
        "median trace in [.9, 1.1]": raw["trace_median"].between(0.9, 1.1),
        f"W2 <= {most:.3f}": raw["w2"] <= most,
    }
    if rare:
        met["rare mass within 10%"] = raw["rare_mass"].between(0.9, 1.1)
    return pd.DataFrame(met)


def against_peer(raw: pd.DataFrame) -> pd.DataFrame:
    """Return where each row of figures is no worse than flow matching with the most passes."""
    peer = raw[raw["method"] == PEER].set_index("seed").loc[raw["seed"]].reset_index()
    off = {
        "TV": lambda frame: frame["mass_tv"],
        "off-mode": lambda frame: frame["off_mode"],
        "trace": lambda frame: (frame["trace_median"] - 1).abs(),
    }
    return pd.DataFrame(
        {
            f"{name} no worse than {PEER}": gap(raw).to_numpy() <= gap(peer).to_numpy()
            for name, gap in off.items()
        },
        index=raw.index,
    )


def counts(raw: pd.DataFrame, met: pd.DataFrame) -> str:
    """Return on how many seeds each method meets each column, as Markdown."""
    rows = []
    for method, group in raw.groupby("method", sort=False):
        fitted = group["passes"].notna()
        cells = met.loc[group.index][fitted].sum()
        rows.append([method, *(f"{count} of {fitted.sum()}" for count in cells)])
    return markdown(pd.DataFrame(rows, columns=["method", *met.columns]))


def law_report(law: Law, raw: pd.DataFrame, floor: pd.DataFrame, n_distance: int) -> str:
    """Return the tables of one law."""
    raw = raw[raw["law"] == law.name].dropna(axis="columns", how="all").reset_index(drop=True)
    cost = [name for name in COST if name in raw]
    shape = [name for name in COLUMNS if name in raw and name not in COST]
    return f"""## {law.name}

W1 and W2 of {n_distance} samples to a stratified reference of as many. Floor, {len(floor)}
independent samples of the law: W1 {floor["w1"].mean():.3f} (sd {floor["w1"].std():.3f}), W2
{floor["w2"].mean():.3f} (sd {floor["w2"].std():.3f}). Floor of the mode-mass TV, draws that have
exactly the masses of the rows: {raw["mass_noise"].mean():.4f}.

{table(raw, cost)}

{table(raw, shape)}

Number of seeds on which a goal is met:

{counts(raw, goals(raw, floor, rare=bool(law.rare)))}

{counts(raw, against_peer(raw)) if has_torchcfm() else ""}
"""


def report(
    raw: pd.DataFrame, floors: dict[str, pd.DataFrame], transfer: pd.DataFrame, options: Options
) -> str:
    """Return the page of results."""
    n_distance = QUICK_DISTANCE if options.quick else N_DISTANCE
    missing = "" if has_torchcfm() else "\n\ntorchcfm is not installed: `make bench` installs it."
    parts = [
        law_report(law, raw, floors[law.name], n_distance)
        for law in LAWS
        if (raw["law"] == law.name).any()
    ]
    return f"""# One network pass a sample

{N_TRAIN} training rows, every method from N(0, I). {conditions(options)}{missing}

Shape is taken on {N_SHAPE} samples and compared with the *training rows*: total variation between
the shares of the modes and of "no mode"; share of samples farther than 4 sd from every centre;
eigenvalues of the covariance on each mode over those of the rows there (least and greatest of all,
median of the traces). Two-sample: accuracy of telling {N_TRAIN} samples from as many fresh
independent rows by the nearest other row; .5 means alike. Bold is best among the fitted methods.
OT-CFM: {CFM_STEPS} steps of 256 pairs at {CFM_TIMES} times each, at the learning rate {CFM_RATE:g}.

![Quality against the time of sampling](one_step.png)

{"".join(parts)}
{transfer_table(transfer)}
"""


def draw_quality(raw: pd.DataFrame, path: Path) -> None:
    """Draw mode masses, off-mode share and width against the time that sampling takes."""
    import matplotlib.pyplot as plt

    panels = {
        "mass_tv": "mode-mass TV",
        "off_mode": "off-mode share",
        "trace_median": "median trace",
    }
    laws = raw["law"].unique()
    figure, axes = plt.subplots(
        len(laws), len(panels), figsize=(12, 3.5 * len(laws)), squeeze=False, layout="constrained"
    )
    shown = raw[(raw["method"] != TRUTH) & raw["passes"].notna()]
    for row, law in zip(axes, laws, strict=True):
        for axis, (column, title) in zip(row, panels.items(), strict=True):
            for name, group in shown[shown["law"] == law].groupby("method", sort=False):
                found, time = group[column], group["sample_processor_seconds"].mean()
                low, high = found.mean() - found.min(), found.max() - found.mean()
                axis.errorbar(
                    time, found.mean(), [[low], [high]], fmt="o", capsize=3, ms=6, label=name
                )
            axis.set(xscale="log", title=f"{law}: {title}")
            axis.grid(alpha=0.3)
            if column == "trace_median":
                axis.axhline(1.0, color="0.5", lw=1, ls="--")
            else:
                axis.set_yscale("log")
    for axis in axes[-1]:
        axis.set_xlabel("processor seconds of 10,000 samples")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save_picture(figure, path)


def main() -> None:
    """Run the comparison on both laws, then the transfer."""
    options = parse_options(__doc__, seeds=(0, 1, 2, 3, 4))
    # Fits of a fixed length; the tables show how far they came.
    warnings.simplefilter("ignore", ConvergenceWarning)
    if not has_torchcfm():
        print("torchcfm is not installed: its rows stay empty. `make bench` installs it.")
    rows: list[dict[str, object]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    transfer = compare_transfer(options, options.out / "one_step_transfer.png")
    transfer.to_csv(options.out / "one_step_transfer.csv", index=False, float_format="%.6g")
    n = QUICK_DISTANCE if options.quick else N_DISTANCE
    references = {law.name: law.rows(n, REFERENCE_SEED, stratified=True) for law in LAWS}
    floors = {
        law.name: distance_floor(law, references[law.name], 2 if options.quick else N_FLOOR)
        for law in LAWS
    }
    for seed in options.seeds:
        for law in LAWS:
            rows += compare(law, seed, references[law.name], quick=options.quick)
        # After every seed, so that an interrupted run keeps those that are done.
        raw = pd.DataFrame(rows)
        write_results(options.out, "one_step", raw, report(raw, floors, transfer, options))
        draw_quality(raw, options.out / "one_step.png")


if __name__ == "__main__":
    main()
