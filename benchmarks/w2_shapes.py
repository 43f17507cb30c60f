"""W2FlowGenerator at its defaults: modes, curves, eight and 64 columns, tables, and its time.

The same settings everywhere, against the goals that they are held to. Written to w2_shapes.md,
w2_shapes.csv and w2_shapes.png.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from _common import (
    Column,
    Options,
    comparison,
    conditions,
    markdown,
    parse_options,
    save_picture,
    timed,
    write_results,
)
from _modes import (
    DRAW_SEED,
    FRESH_SEED,
    N_FLOOR,
    N_SHAPE,
    N_TRAIN,
    REFERENCE_SEED,
    RING,
    SIX_PLUS_TWO,
    Law,
    distance_floor,
    figures,
)
from _peers import Sampler
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from skwgf import W2FlowGenerator
from skwgf.datasets import make_swiss_roll_2d, make_two_moons, random_gaussian_mixture
from skwgf.metrics import neighbor_distance_ratio, two_sample_accuracy

N_DISTANCE, QUICK_DISTANCE = 4096, 256
LOOP_SEEDS, DIGITS_SEEDS = (0,), (0, 1, 2)
LOOP = {"persistence": 10, "step_size": 0.5}  # the paper's: a potential for every step
MIXTURE = random_gaussian_mixture(random_state=0)
CURVES = {"moons": make_two_moons, "swiss roll": make_swiss_roll_2d}
SIZES, QUICK_SIZES, DIMENSIONS = (5000, 20_000, 50_000, 200_000), (1000,), (2, 8)
FACTOR = 3  # draws per training row of the digits
N_SETS = 20  # sets of draws that a two-sample accuracy is the mean over
COLUMNS = {
    "fit_processor_seconds": Column("fit, processor s", 1),
    "mass_tv": Column("mode-mass TV", 4),
    "off_mode": Column("off-mode share", 4),
    "eigenvalue_min": Column("least eigenvalue ratio", 2),
    "eigenvalue_max": Column("greatest eigenvalue ratio", 2),
    "trace_median": Column("median trace ratio", 2),
    "w2": Column("W2", 3),
    "rare_mass": Column("rare mass ratio", 2),
    "two_sample": Column("two-sample 1-NN", 3),
    "variance": Column("within-mode variance", 2),
    "synthetic_to_real": Column("1-NN, synthetic to real", 3),
    "neighbor_ratio": Column("neighbour-distance ratio", 2),
    "mean_error": Column("largest error of a mean, sd", 3),
    "sd_min": Column("least sd ratio", 2),
    "sd_max": Column("greatest sd ratio", 2),
    "correlation_error": Column("largest error of a correlation", 3),
}
# Least and most of each figure, by the kind of data.
GOALS: dict[str, dict[str, tuple[float, float]]] = {
    "modes": {
        "fit_processor_seconds": (0, 30),
        "mass_tv": (0, 0.012),
        "off_mode": (0, 0.01),
        "eigenvalue_min": (0.75, np.inf),
        "eigenvalue_max": (0, 1.25),
        "trace_median": (0.9, 1.1),
        "rare_mass": (0.9, 1.1),
    },
    "curves": {"two_sample": (0, 0.52)},
    "mixture": {"two_sample": (0, 0.54), "variance": (0.9, 1.1)},
    "digits": {
        "two_sample": (0, 0.60),
        "synthetic_to_real": (0.98, 1),
        "neighbor_ratio": (0.85, 1.1),
    },
    "tables": {
        "mean_error": (0, 0.1),
        "sd_min": (0.85, np.inf),
        "sd_max": (0, 1.15),
        "correlation_error": (0, 0.15),
    },
}

Rows = np.ndarray


def fit(X: Rows, seed: int, options: Options, **settings: object) -> tuple[Sampler, float]:
    """Fit at the defaults, but for what is named; return the sampler and processor seconds."""
    if options.quick:
        settings["max_iter"] = 2
    flow, _, seconds = timed(W2FlowGenerator(random_state=seed, **settings).fit, X)
    return Sampler(lambda n, seed: flow.sample(n, random_state=seed), passes=1), seconds


def modes(law: Law, reference: Rows, seed: int, options: Options, **settings: object) -> dict:
    """Return the figures on one of the two toy laws."""
    X = law.rows(N_TRAIN, seed)
    sampler, seconds = fit(X, seed, options, **settings)
    found = figures(sampler, X, reference, seed, law, to_rows=True)
    return found | {"fit_processor_seconds": seconds}


def curves(make: Callable[..., tuple[Rows, Rows]], seed: int, options: Options) -> dict:
    """Return the two-sample accuracy on rows along a curve."""
    sampler, seconds = fit(make(N_TRAIN, random_state=seed)[0], seed, options)
    return {"fit_processor_seconds": seconds, "two_sample": told_apart(sampler, make, seed)}


def told_apart(sampler: Sampler, make: Callable[..., tuple[Rows, Rows]], seed: int) -> float:
    """Return the mean two-sample accuracy over sets of draws and of fresh rows."""
    sets = range(N_SETS * seed, N_SETS * (seed + 1))
    return float(
        np.mean(
            [
                two_sample_accuracy(
                    sampler.draw(N_TRAIN, DRAW_SEED + i),
                    make(N_TRAIN, random_state=FRESH_SEED + i)[0],
                )
                for i in sets
            ]
        )
    )


def mixture(seed: int, options: Options) -> dict:
    """Return the figures on ten modes in eight dimensions."""

    def variances(rows: Rows) -> Rows:
        owner = pairwise_distances_argmin(rows, MIXTURE.centers)
        return np.array([rows[owner == k].var(axis=0).mean() for k in range(MIXTURE.n_modes)])

    X = MIXTURE.sample(N_TRAIN, random_state=seed)[0]
    sampler, seconds = fit(X, seed, options)
    Z = sampler.draw(N_SHAPE, DRAW_SEED + seed)
    fresh = MIXTURE.sample(N_TRAIN, random_state=FRESH_SEED + seed)[0]
    return {
        "fit_processor_seconds": seconds,
        "two_sample": told_apart(sampler, MIXTURE.sample, seed),
        "variance": np.median(variances(Z) / variances(X)),
        "neighbor_ratio": neighbor_distance_ratio(Z[:N_TRAIN], X, fresh),
    }


def digits(seed: int, options: Options) -> dict:
    """Return the figures of a generator for each class of scikit-learn's digits."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=1 / 3, stratify=y, random_state=seed)
    fitted = [fit(X[y == c], seed, options) for c in range(10)]

    def draw(labels: Rows, seed: int) -> Rows:
        out = np.empty((len(labels), X.shape[1]))
        for c, (sampler, _) in enumerate(fitted):
            out[labels == c] = sampler.draw(int((labels == c).sum()), 10 * seed + c)
        return out

    labels = np.tile(y, FACTOR)
    many = draw(labels, DRAW_SEED)
    sets = [two_sample_accuracy(draw(y_test, DRAW_SEED + 1 + i), X_test) for i in range(N_SETS)]
    return {
        "fit_processor_seconds": sum(seconds for _, seconds in fitted),
        "two_sample": np.mean(sets),
        "synthetic_to_real": KNeighborsClassifier(1).fit(many, labels).score(X_test, y_test),
        "neighbor_ratio": neighbor_distance_ratio(many, X, X_test),
    }


def tables(seed: int) -> dict[str, Rows]:
    """Return tables with columns of different units, and a Gaussian of condition 1e4."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(20, 20)))[0] * np.geomspace(1, 1e-2, 20)
    return {
        "breast_cancer": load_breast_cancer().data,
        "wine": load_wine().data,
        "diabetes": np.column_stack(load_diabetes(return_X_y=True, scaled=False)),
        "Gaussian, 20 columns": rng.normal(size=(2000, 20)) @ axes.T,
    }


def table(X: Rows, seed: int, options: Options) -> dict:
    """Return how far the moments of draws are from those of the rows."""
    sampler, seconds = fit(X, seed, options)
    Z = sampler.draw(N_SHAPE, DRAW_SEED + seed)
    ratios = Z.std(axis=0) / X.std(axis=0)
    return {
        "fit_processor_seconds": seconds,
        "mean_error": np.abs((Z.mean(axis=0) - X.mean(axis=0)) / X.std(axis=0)).max(),
        "sd_min": ratios.min(),
        "sd_max": ratios.max(),
        "correlation_error": np.abs(np.corrcoef(Z.T) - np.corrcoef(X.T)).max(),
    }


def growth(options: Options) -> list[dict[str, object]]:
    """Return the time of fits to more and more rows, in two and eight dimensions."""
    rows: list[dict[str, object]] = []
    for d in DIMENSIONS:
        law = random_gaussian_mixture(10, d, random_state=0)
        for n in QUICK_SIZES if options.quick else SIZES:
            _, seconds = fit(law.sample(n, random_state=0)[0], 0, options)
            rows.append({"kind": "time", "data": f"{d} columns", "n": n, "seconds": seconds})
            print(rows[-1], flush=True)
    return rows


def compare(options: Options, references: dict[str, Rows]) -> list[dict[str, object]]:
    """Return a row of figures for each law and seed."""
    rows: list[dict[str, object]] = []

    def add(kind: str, data: str, seed: int, found: dict, method: str = "default") -> None:
        rows.append({"kind": kind, "data": data, "method": method, "seed": seed, **found})
        print(kind, data, seed, *(f"{k}={v:.4g}" for k, v in found.items()), flush=True)

    for seed in options.seeds:
        for law in (RING, SIX_PLUS_TWO):
            reference = references[law.name]
            add("modes", law.name, seed, modes(law, reference, seed, options))
            if seed in LOOP_SEEDS:
                found = modes(law, reference, seed, options, **LOOP)
                add("modes", law.name, seed, found, "loop")
        for name, make in CURVES.items():
            add("curves", name, seed, curves(make, seed, options))
        add("mixture", "mixture of 10, 8 columns", seed, mixture(seed, options))
        for name, X in tables(seed).items():
            add("tables", name, seed, table(X, seed, options))
        if seed in DIGITS_SEEDS:
            add("digits", "digits, by class", seed, digits(seed, options))
    return rows


def met(group: pd.DataFrame, goals: dict[str, tuple[float, float]]) -> str:
    """Return on how many seeds each goal is met."""
    shown = []
    for name, (low, high) in goals.items():
        if group[name].notna().all():
            inside = int(group[name].between(low, high).sum())
            bounds = f"<= {high:g}" if low == 0 else f">= {low:g}"
            bounds = f"in [{low:g}, {high:g}]" if low > 0 and high < np.inf else bounds
            shown.append([COLUMNS[name].heading, bounds, f"{inside} of {len(group)}"])
    return markdown(pd.DataFrame(shown, columns=["figure", "goal", "met"]))


def report(raw: pd.DataFrame, floors: dict[str, pd.DataFrame], options: Options) -> str:
    """Return the page of results."""
    parts = []
    for data, group in raw[raw["kind"] != "time"].groupby("data", sort=False):
        group = group.dropna(axis="columns", how="all")
        columns = {name: column for name, column in COLUMNS.items() if name in group}
        text = f"## {data}\n\n{comparison(group, columns, apart=())}\n\n"
        default = group[group["method"] == "default"].assign(
            **{name: np.nan for name in COLUMNS if name not in group}
        )
        text += met(default, GOALS[group["kind"].iloc[0]])
        if data in floors:
            w2 = floors[data]["w2"]
            limit = w2.mean() + 2 * w2.std()
            count = int((default["w2"] <= limit).sum())
            text += (
                f"\n\nW2 of {N_DISTANCE} samples to a stratified reference; floor, {len(w2)} "
                f"independent samples of the law: {w2.mean():.3f} (sd {w2.std():.3f}). At most two "
                f"sd above it, {limit:.3f}: {count} of {len(default)}."
            )
        parts.append(text)
    times = raw[raw["kind"] == "time"]
    shown = times.pivot(index="n", columns="data", values="seconds").map("{:.1f}".format)
    details = "\n\n".join(parts)
    return f"""# W2FlowGenerator at its defaults

{N_TRAIN} training rows of the toy laws; the same settings everywhere. {conditions(options)}

* Masses and covariances of modes are compared with those of the training rows, on {N_SHAPE} draws;
  draws with exactly their masses would have a total variation of .0074 in the mean.
* Two-sample: accuracy of telling draws from as many fresh rows by the nearest other row, a mean
  over {N_SETS} sets of {N_TRAIN} of each (chance error .002), or of draws of digits. The laws of
  modes, where it has no goal, have a single set (.007).
* Digits: a generator for each class; seeds {", ".join(map(str, DIGITS_SEEDS))}.
* Loop: {LOOP}, the potential estimated again at every step, on seed {LOOP_SEEDS[0]}.
* Tables: moments of {N_SHAPE} draws against those of all rows.

{details}

## Time of a fit

Processor seconds by the number of rows.

{markdown(shown.reset_index().astype({"n": int}))}

![Time of a fit by the number of rows](w2_shapes.png)
"""


def draw_growth(raw: pd.DataFrame, path: Path) -> None:
    """Draw the time of a fit against the number of rows, beside a linear one."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    times = raw[raw["kind"] == "time"]
    for name, group in times.groupby("data"):
        axis.loglog(group["n"], group["seconds"], "o-", label=name)
    n = np.sort(times["n"].unique())
    axis.loglog(n, times["seconds"].max() * n / n.max(), "k--", lw=1, label="linear")
    axis.set(xlabel="rows", ylabel="processor seconds of a fit")
    axis.legend()
    axis.grid(alpha=0.3)
    save_picture(figure, path)


def main() -> None:
    """Run all laws, then the growth."""
    options = parse_options(__doc__, seeds=(0, 1, 2, 3, 4))
    # Fits of a fixed length; the tables show how far they came.
    warnings.simplefilter("ignore", ConvergenceWarning)
    n = QUICK_DISTANCE if options.quick else N_DISTANCE
    laws = (RING, SIX_PLUS_TWO)
    references = {law.name: law.rows(n, REFERENCE_SEED, stratified=True) for law in laws}
    floors = {
        law.name: distance_floor(law, references[law.name], 2 if options.quick else N_FLOOR)
        for law in laws
    }
    raw = pd.DataFrame(growth(options) + compare(options, references))
    options.out.mkdir(parents=True, exist_ok=True)
    draw_growth(raw, options.out / "w2_shapes.png")
    write_results(options.out, "w2_shapes", raw, report(raw, floors, options))


if __name__ == "__main__":
    main()
