"""Handwritten digits from their class: SinkhornFlowGenerator in one pass, and its peers.

scikit-learn's 8 x 8 digits; two thirds of the rows are fitted, class by class. Written to
digits_generation.md, .csv and .png (`--tune`: digits_generation_tuning).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import (
    NOT_INSTALLED,
    Column,
    Options,
    comparison,
    conditions,
    markdown,
    parse_options,
    timed,
    write_results,
)
from _peers import BLOCK, Trainer, global_seed, has_torchcfm, integrate, scaled
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KernelDensity, KNeighborsClassifier, NearestNeighbors

from skwgf import SinkhornFlowGenerator
from skwgf.metrics import neighbor_distance_ratio
from skwgf.nn import mlp

Rows = np.ndarray
Draw = Callable[[Rows, int], Rows]  # labels and seed to rows
Split = tuple[Rows, Rows, Rows, Rows]

TEST_SHARE, VALIDATION_SHARE = 1 / 3, 1 / 4
VALIDATION_SEEDS = (100, 101)
FACTOR, N_SETS, N_TIMED = 3, 20, 10_000
LEAST_RATIO, MOST_RATIO = 0.85, 1.1
CUTS = (True, False)  # whether draws of KDE and GMM are cut to the range of the training rows
DRAW_SEED = 40_000

# The particle flow with its regression, then the loop on the network's own law.
HIDDEN = (256, 256, 256)
FLOW = {"max_iter": 100, "hidden_layer_sizes": HIDDEN, "reg_start": 0.2, "reg": 0.2}
LOOP = {"max_iter": 300, "persistence": 1, "batch_size": 640}
CFM_BATCH, CFM_STEPS, CFM_PASSES = 512, 1200, 100

OURS, FLOW_ONLY = "Sinkhorn flow, then its loop", "Sinkhorn flow"
KDE, GMM, CFM, COPIES = "KDE", "GMM", "OT-CFM (torchcfm), 100 passes", "training rows themselves"
COLUMNS = {
    "synthetic_to_real": Column("1-NN, synthetic to real", 3, 1.0),
    "two_sample": Column("two-sample 1-NN", 3, 0.5),
    "generated_found": Column("generated recognised", 2, 0.5),
    "real_found": Column("real recognised", 2, 0.5),
    "neighbor_ratio": Column("neighbour-distance ratio", 2, 1.0),
    "seconds": Column("fit, processor s", 1),
    "sample_seconds": Column(f"{N_TIMED} samples, processor s", 2),
    "passes": Column("network passes a sample", 0),
}


def sinkhorn_flow(
    X: Rows, y: Rows, seed: int, *, rate: float | None = None, reg: float = 0.0, quick: bool
) -> Draw:
    """Fit SinkhornFlowGenerator: the particle flow, and with `rate` the loop from there on."""
    short: dict[str, Any] = {"max_iter": 2} if quick else {}
    flow = SinkhornFlowGenerator(
        conditional=True, standardize=False, validation_fraction=0, random_state=seed
    )
    flow.set_params(**FLOW | short).fit(X, y)
    if rate is not None:
        flow.set_params(warm_start=True, learning_rate=rate, reg_start=reg, reg=reg)
        flow.set_params(**LOOP | short).fit(X, y)
    return lambda labels, seed: flow.sample(len(labels), y=labels, random_state=seed)


def by_class(fit: Callable[..., Any]) -> Callable[..., Draw]:
    """Return the fit of one scikit-learn density to each class.

    Draws are cut to the range of each pixel in X, unless told otherwise.
    """

    def fitted(X: Rows, y: Rows, seed: int, *, cut: bool = True, **settings: Any) -> Draw:
        low, high = X.min(axis=0), X.max(axis=0)
        models = {c: fit(X[y == c], seed, **settings) for c in np.unique(y)}

        def draw(labels: Rows, seed: int) -> Rows:
            out = np.empty((len(labels), X.shape[1]))
            for c, model in models.items():
                out[labels == c] = model(int((labels == c).sum()), seed)
            return np.clip(out, low, high) if cut else out

        return draw

    return fitted


def kernel_density(X: Rows, seed: int, *, bandwidth: float, quick: bool) -> Callable[..., Rows]:
    """Fit a Gaussian kernel density, which draws its rows with replacement."""
    model = KernelDensity(bandwidth=bandwidth).fit(X)
    return lambda n, seed: model.sample(n, random_state=seed)


def mixture(
    X: Rows, seed: int, *, components: int, floor: float, quick: bool
) -> Callable[..., Rows]:
    """Fit a mixture of Gaussians of full covariance, with a floor under its variances."""
    model = GaussianMixture(components, reg_covar=floor, random_state=seed).fit(X)

    def draw(n: int, seed: int) -> Rows:
        model.set_params(random_state=seed)
        return model.sample(n)[0]

    return draw


def training_rows(X: Rows, seed: int, *, quick: bool) -> Callable[..., Rows]:
    """Draw the rows, each once as long as there are enough."""

    def draw(n: int, seed: int) -> Rows:
        return X[np.resize(np.random.default_rng(seed).permutation(len(X)), n)]

    return draw


def ot_cfm(X: Rows, y: Rows, seed: int, *, learning_rate: float, quick: bool) -> Draw:
    """Train flow matching given the class, on exact minibatch plans within each class.

    The network has the layers of ours; it also reads the time, and is smooth (SiLU).
    """
    from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher

    generator = torch.Generator().manual_seed(seed)
    rows, shift, scale = scaled(X)
    low, high = X.min(axis=0), X.max(axis=0)
    labels, d = np.unique(y), X.shape[1]
    names = torch.eye(len(labels))
    classes = [rows[torch.as_tensor(np.flatnonzero(y == label))] for label in labels]
    network = mlp(d + 1 + len(labels), d, HIDDEN, activation="silu", generator=generator)
    steps, size = 10 if quick else CFM_STEPS, CFM_BATCH // len(labels)
    step = Trainer(network, learning_rate, steps)
    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0)
    codes = names.repeat_interleave(size, dim=0)
    with global_seed(seed):
        for _ in range(steps):
            parts = []
            for own in classes:
                z = torch.randn(size, d, generator=generator)
                chosen = own[torch.randint(len(own), (size,), generator=generator)]
                parts.append(matcher.sample_location_and_conditional_flow(z, chosen))
            t, x, velocity = (torch.cat(column) for column in zip(*parts, strict=True))
            prediction = network(torch.cat([x, t[:, None], codes], dim=1))
            step((prediction - velocity).square().sum(dim=1).mean())
    average = step.average

    @torch.no_grad()
    def draw(drawn: Rows, seed: int) -> Rows:
        z = torch.randn(len(drawn), d, generator=torch.Generator().manual_seed(seed))
        given = names[torch.as_tensor(np.searchsorted(labels, drawn))]
        blocks = [
            integrate(lambda xt, own=own: average(torch.cat([xt, own], dim=1)), start, CFM_PASSES)
            for start, own in zip(z.split(BLOCK), given.split(BLOCK), strict=True)
        ]
        return np.clip(torch.cat(blocks).double().numpy() * scale + shift, low, high)

    return draw


# Method: its fit, and the number of network passes of a draw (0: none).
METHODS: dict[str, tuple[Callable[..., Draw], int]] = {
    OURS: (sinkhorn_flow, 1),
    FLOW_ONLY: (sinkhorn_flow, 1),
    KDE: (by_class(kernel_density), 0),
    GMM: (by_class(mixture), 0),
    CFM: (ot_cfm, CFM_PASSES),
    COPIES: (by_class(training_rows), 0),
}
# What --tune chose among the settings below it, for every method by the same rule.
CHOSEN: dict[str, dict[str, Any]] = {
    OURS: {"rate": 1e-3, "reg": 0.1},
    KDE: {"bandwidth": 2.5, "cut": True},
    GMM: {"components": 5, "floor": 1.0, "cut": False},
    CFM: {"learning_rate": 1e-2},
}
GRIDS: dict[str, list[dict[str, Any]]] = {
    OURS: [{"rate": r, "reg": e} for r, e in ((3e-3, 0.05), (3e-3, 0.1), (3e-3, 0.2), (1e-3, 0.1))],
    KDE: [
        {"bandwidth": h, "cut": cut} for h in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0) for cut in CUTS
    ],
    GMM: [
        {"components": k, "floor": floor, "cut": cut}
        for k, floor, cut in product((1, 2, 3, 5), (1e-2, 1e-1, 1.0), CUTS)
    ],
    CFM: [{"learning_rate": rate} for rate in (1e-3, 3e-3, 1e-2)],
}


def split(seed: int) -> Split:
    """Return training rows, test rows and their labels."""
    X, y = load_digits(return_X_y=True)
    return tuple(train_test_split(X, y, test_size=TEST_SHARE, stratify=y, random_state=seed))


def recognised(generated: Rows, real: Rows) -> tuple[float, float]:
    """Return the shares of generated and of real rows whose nearest other row is of their kind."""
    pooled = np.concatenate([generated, real])
    made = np.arange(len(pooled)) < len(generated)
    nearest = NearestNeighbors(n_neighbors=1).fit(pooled).kneighbors(return_distance=False)[:, 0]
    right = made[nearest] == made
    return float(right[made].mean()), float(right[~made].mean())


def quality(draw: Draw, data: Split) -> dict[str, float]:
    """Return how good draws are, judged by rows that the fit has not seen."""
    X, X_test, y, y_test = data
    labels = np.tile(y, FACTOR)
    many = draw(labels, DRAW_SEED)
    sets = [recognised(draw(y_test, DRAW_SEED + 1 + i), X_test) for i in range(N_SETS)]
    generated, real = np.mean(sets, axis=0)
    return {
        "synthetic_to_real": KNeighborsClassifier(1).fit(many, labels).score(X_test, y_test),
        "two_sample": 0.5 * (generated + real),
        "generated_found": generated,
        "real_found": real,
        "neighbor_ratio": neighbor_distance_ratio(many, X, X_test),
    }


def compare(options: Options) -> pd.DataFrame:
    """Return a row of figures for each method and split, and draw the picture of the first."""
    rows = []
    for seed in options.seeds:
        data = X, X_test, y, y_test = split(seed)
        for name, (fit, passes) in METHODS.items():
            if name == CFM and not has_torchcfm():
                print(f"{CFM}: {NOT_INSTALLED}")
                continue
            settings = CHOSEN.get(name, {})
            draw, _, seconds = timed(fit, X, y, seed, quick=options.quick, **settings)
            _, _, sampling = timed(draw, np.resize(y, N_TIMED), DRAW_SEED)
            row = {"method": name, "seed": seed, **quality(draw, data), "seconds": seconds}
            row |= {"sample_seconds": sampling, "passes": passes or np.nan}
            rows.append(row)
            print(*(f"{v:.3f}" if isinstance(v, float) else v for v in row.values()), flush=True)
            if name == OURS and seed == options.seeds[0]:
                labels = np.repeat(np.unique(y), 10)
                picture(draw(labels, DRAW_SEED), examples(X_test, y_test), options.out)
    return pd.DataFrame(rows)


def examples(X: Rows, y: Rows) -> Rows:
    """Return the first ten rows of every class."""
    return np.concatenate([X[y == label][:10] for label in np.unique(y)])


def picture(generated: Rows, real: Rows, out: Path) -> None:
    """Draw ten generated rows of every class beside ten of the test rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, rows, title in zip(axes, (generated, real), ("generated", "test rows"), strict=True):
        tiles = np.pad(rows.reshape(10, 10, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
        axis.imshow(tiles.transpose(0, 2, 1, 3).reshape(100, 100), cmap="gray_r", vmin=0, vmax=16)
        axis.set_title(title)
        axis.set_axis_off()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "digits_generation.png", dpi=100)


def tune(options: Options) -> None:
    """Write figures on a part of the training rows of the first split, for every setting."""
    X, _, y, _ = split(options.seeds[0])
    rows = []
    for name, grid in GRIDS.items():
        if name == CFM and not has_torchcfm():
            continue
        for settings, seed in product(grid, VALIDATION_SEEDS):
            data = tuple(
                train_test_split(X, y, test_size=VALIDATION_SHARE, stratify=y, random_state=seed)
            )
            draw = METHODS[name][0](data[0], data[2], seed, quick=options.quick, **settings)
            label = ", ".join(f"{key} {value:g}" for key, value in settings.items())
            rows.append({"method": name, "setting": label, "seed": seed, **quality(draw, data)})
            shown = rows[-1].values()
            print(*(f"{v:.3f}" if isinstance(v, float) else v for v in shown), flush=True)
    raw = pd.DataFrame(rows)
    write_results(options.out, "digits_generation_tuning", raw, tuning_report(raw, options))


def tuning_report(raw: pd.DataFrame, options: Options) -> str:
    """Return the page of the choice of settings."""
    halves = raw[["generated_found", "real_found"]]
    raw = raw.assign(off=(halves - 0.5).abs().mean(axis=1))
    names = [name for name in COLUMNS if name in raw]
    mean = raw.groupby(["method", "setting"], sort=False)[[*names, "off"]].mean().reset_index()
    inside = mean["neighbor_ratio"].between(LEAST_RATIO, MOST_RATIO)
    chosen = set(mean[inside].groupby("method")["off"].idxmin())
    cells = mean[["method", "setting"]].copy()
    for name in names:
        cells[COLUMNS[name].heading] = mean[name].map("{:.3f}".format)
    cells["chosen"] = ["yes" if i in chosen else "" for i in mean.index]
    return (
        "# Digits from their class: choice of settings\n\n"
        f"Means over {len(VALIDATION_SEEDS)} cuts of the training rows of split "
        f"{options.seeds[0]} into rows to fit and {VALIDATION_SHARE:.0%} to judge by. Chosen is, "
        f"among neighbour-distance ratios in [{LEAST_RATIO}, {MOST_RATIO}], where the shares of "
        "generated and of real rows that are recognised are least far from .5 in the mean: errors "
        f"to both sides do not cancel.\n\n{markdown(cells)}"
    )


def report(raw: pd.DataFrame, options: Options) -> str:
    """Return the page of results."""
    missing = "" if has_torchcfm() else "\n\ntorchcfm is not installed: `make bench` installs it."
    settings = "; ".join(
        f"{name}: " + ", ".join(f"{k} {v:g}" for k, v in chosen.items())
        for name, chosen in CHOSEN.items()
    )
    return f"""# Digits from their class

scikit-learn's digits, 1797 rows of 8 x 8 pixels, a third of them (599) for testing, stratified.
{conditions(options)}{missing}

{comparison(raw, COLUMNS, apart=(COPIES,))}

![generated digits, ten of every class, beside test rows](digits_generation.png)

* 1-NN, synthetic to real: accuracy on the test rows of the nearest of {FACTOR} labelled draws per
  training row.
* Two-sample 1-NN: accuracy of telling as many draws as test rows, of the same classes, from the
  test rows by the nearest other row; mean over {N_SETS} sets of draws. .5 is perfect, but look at
  both halves: too many draws recognised means rows off the law, too few beside many real ones
  recognised means draws that crowd where the law is dense, which can average to .5 as well.
* Neighbour-distance ratio: median distance of draws to the nearest training row over that of test
  rows. Far below 1 means copies.
* Settings chosen by `--tune` on a part of the training rows: {settings}. Ours, otherwise:
  the flow with {FLOW}, then with `warm_start=True` the loop with {LOOP}; `standardize=False`,
  `validation_fraction=0`. OT-CFM: {CFM_STEPS} steps of {CFM_BATCH} rows.
* OT-CFM, and KDE and GMM where "cut" is 1, are cut to the range that each pixel has in the training
  rows; ours limits by itself what piles up.
* The picture shows draws of split {options.seeds[0]}, the first ten of every class, and the first
  test rows.
* Bold is nearest to perfect among the fitted methods.
"""


def main() -> None:
    """Run the comparison, or the choice of settings."""
    options = parse_options(__doc__, tunes=True)
    # Fits of a fixed length; the table shows how far they came.
    warnings.simplefilter("ignore", ConvergenceWarning)
    if options.tune:
        tune(options)
        return
    raw = compare(options)
    write_results(options.out, "digits_generation", raw, report(raw, options))


if __name__ == "__main__":
    main()
