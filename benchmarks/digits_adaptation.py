"""A digit classifier carried from one collection to another: W2FlowGenerator and POT's transports.

A classifier is trained on source rows that were mapped to the target, with the source labels, and
scored on all test rows of the target. Fits see the target's training rows without labels. Some
pairs are compared by features as well, histograms of gradients and a network learnt on source
labels. Written to digits_adaptation.md and digits_adaptation.csv.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ot
import pandas as pd
from _common import (
    Options,
    conditions,
    markdown,
    mean_and_range,
    parse_options,
    timed,
    write_results,
)
from _digit_features import DigitFeatures, GradientHistograms
from sklearn.base import TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.utils import Bunch

from skwgf import W2FlowGenerator
from skwgf.datasets import load_digit_domains

Way = str | tuple[str, str]
Transform = Callable[[np.ndarray], np.ndarray]

OPTDIGITS_CASES: tuple[tuple[str, str, Way], ...] = (
    ("mnist", "optdigits", "plain"),
    ("mnist", "optdigits", "crop"),
    ("mnist", "optdigits", ("crop", "plain")),
    ("optdigits", "mnist", "plain"),
    ("optdigits", "mnist", "crop"),
    ("optdigits", "mnist", ("plain", "crop")),
)
USPS_CASES: tuple[tuple[str, str, Way], ...] = (
    ("mnist", "usps", "plain"),
    ("mnist", "usps", "crop"),
    ("usps", "mnist", "plain"),
    ("usps", "mnist", "crop"),
)
# Pairs that are compared by features too.
FEATURE_CASES = (OPTDIGITS_CASES[0], USPS_CASES[2])
PIXELS, HISTOGRAMS, NETWORK = "pixels", "histograms of gradients", "network, histograms"
# Passes over the source rows that the network is trained for.
N_EPOCHS = 20
USPS_FILE = Path("digits") / "usps.h5"

# One setting of ours for all pairs: the networks of the demo, wider than the default.
SETTINGS = {"hidden_layer_sizes": (256, 256), "batch_size": 256}
MAX_ITER = 60
# Peers: regularisations as shares of the largest cost. Of each grid the entry with the best 1-NN
# accuracy on target *test* rows is shown, which favours the peer.
SINKHORN_REGS = (0.01, 0.02, 0.05, 0.1)
LPL1_GRID = ((0.03, 0.1),)
# Entropic peers see few rows of the domains that are larger: at 7291 they take minutes a fit.
ENTROPIC_LIMIT, ENTROPIC_FEW = 3000, 2000
SUBSAMPLE_SEED = 0
QUICK_ROWS = 300

SOURCE_ONLY, CEILING = "source only", "trained on target labels"
EMD, LINEAR = "POT, exact (EMDTransport)", "POT, linear (LinearTransport)"
SINKHORN, LPL1 = "POT, SinkhornTransport", "POT, SinkhornLpl1Transport"
OURS, OURS_LABELLED = "W2 flow, no labels", "W2 flow, y_source"
OURS_FEATURES = "W2 flow, y_source and feature_map"
METHODS = (SOURCE_ONLY, EMD, SINKHORN, LPL1, LINEAR, OURS, OURS_LABELLED, OURS_FEATURES, CEILING)
SCORES = {
    "knn": "1-NN",
    "svc": "SVC",
    "knn_fewer": "1-NN, as many seen rows",
    "knn_unseen": "1-NN, unseen source rows",
}
# Draws of as many mapped source rows as there are unseen ones.
FEWER_DRAWS = 5
TIMES = {"seconds": "fit, s", "processor_seconds": "fit, processor s"}


@dataclass(frozen=True)
class Fitted:
    """A fitted adaptation: the map of source rows, its times, and what was set."""

    transform: Transform
    seconds: float
    processor_seconds: float
    setting: str = ""


def scores(domains: Bunch, transform: Transform) -> dict[str, float]:
    """Return target test accuracies of classifiers trained on mapped source rows."""
    mapped, labels = transform(domains.X_source), domains.y_source
    unseen = transform(domains.X_source_test)
    rng, size = np.random.default_rng(SUBSAMPLE_SEED), min(len(unseen), len(mapped))
    fewer = [rng.choice(len(mapped), size, replace=False) for _ in range(FEWER_DRAWS)]
    return {
        "knn": accuracy(KNeighborsClassifier(1), mapped, labels, domains),
        "svc": accuracy(SVC(), mapped, labels, domains),
        "knn_fewer": float(
            np.mean(
                [accuracy(KNeighborsClassifier(1), mapped[i], labels[i], domains) for i in fewer]
            )
        ),
        "knn_unseen": accuracy(KNeighborsClassifier(1), unseen, domains.y_source_test, domains),
    }


def accuracy(
    classifier: KNeighborsClassifier | SVC, X: np.ndarray, y: np.ndarray, domains: Bunch
) -> float:
    """Return the target test accuracy of a classifier trained on (X, y)."""
    return float(classifier.fit(X, y).score(domains.X_target_test, domains.y_target_test))


def peers(domains: Bunch) -> Iterator[tuple[str, list[Fitted]]]:
    """Yield POT's transports, each with the fits of its grid."""
    source, labels = limited(domains.X_source, domains.y_source)
    (target,) = limited(domains.X_target)
    dropped = len(source) < len(domains.X_source) or len(target) < len(domains.X_target)
    few = f", fitted to {len(source)} x {len(target)} rows" if dropped else ""

    yield EMD, [pot(ot.da.EMDTransport(max_iter=1_000_000), domains.X_source, domains.X_target)]
    yield (
        SINKHORN,
        [
            pot(
                ot.da.SinkhornTransport(reg_e=reg, norm="max"),
                source,
                target,
                setting=f"reg {reg:g}{few}",
            )
            for reg in SINKHORN_REGS
        ],
    )
    yield (
        LPL1,
        [
            pot(
                ot.da.SinkhornLpl1Transport(reg_e=reg, reg_cl=group, norm="max"),
                source,
                target,
                labels,
                setting=f"reg {reg:g}, group {group:g}{few}",
            )
            for reg, group in LPL1_GRID
        ],
    )
    yield LINEAR, [pot(ot.da.LinearTransport(), domains.X_source, domains.X_target)]


def limited(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the rows of a domain, or a fixed random choice of them when there are too many."""
    n = len(arrays[0])
    if n <= ENTROPIC_LIMIT:
        return arrays
    rows = np.random.default_rng(SUBSAMPLE_SEED).choice(n, ENTROPIC_FEW, replace=False)
    return tuple(array[rows] for array in arrays)


def pot(
    method: ot.da.BaseTransport,
    source: np.ndarray,
    target: np.ndarray,
    labels: np.ndarray | None = None,
    setting: str = "",
) -> Fitted:
    """Fit a transport of POT; rows it was not fitted to move with their nearest fitted row."""
    _, *times = timed(method.fit, Xs=source, ys=labels, Xt=target)
    return Fitted(lambda X: method.transform(Xs=X), *times, setting)


def ours(
    domains: Bunch, *, labelled: bool, seed: int, quick: bool, feature_map: object = None
) -> Fitted:
    """Fit W2FlowGenerator to the unlabelled target rows."""
    flow = W2FlowGenerator(
        feature_map=feature_map, max_iter=2 if quick else MAX_ITER, random_state=seed, **SETTINGS
    )
    labels = domains.y_source if labelled else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        _, *times = timed(flow.fit, domains.X_target, X_source=domains.X_source, y_source=labels)
    warned = any("more harm than good" in str(warning.message) for warning in caught)
    return Fitted(flow.transform, *times, "warned" if warned else "")


def run_case(domains: Bunch, options: Options, *, space: str) -> Iterator[dict[str, object]]:
    """Yield a row of figures for every method and seed of one pair of domains in a space."""
    # What has no seed is computed once. Features of a network have the seed of that network.
    seeds = options.seeds if space == NETWORK else options.seeds[:1]
    maps = {seed: feature_map(space, domains, seed, options) for seed in seeds}
    spaces = {seed: in_features(domains, maps[seed]) for seed in seeds}
    first = spaces[seeds[0]]
    for seed in seeds:
        yield {"method": SOURCE_ONLY, "seed": seed, **scores(spaces[seed], lambda X: X)}
    for name, grid in peers(first):
        found = [figures(fitted, first) for fitted in grid]
        best = int(np.argmax([row["knn"] for row in found]))
        for i, row in enumerate(found):
            yield {"method": name, "shown": i == best, **row}
    for seed in options.seeds:
        there, found = spaces.get(seed, first), maps.get(seed, maps[seeds[0]])
        for name, labelled in ((OURS, False), (OURS_LABELLED, True)):
            fitted = ours(there, labelled=labelled, seed=seed, quick=options.quick)
            yield {"method": name, "seed": seed, **figures(fitted, there)}
        if found is not None:
            yield {
                "method": OURS_FEATURES,
                "seed": seed,
                **mapped_in_pixels(domains, there, found, seed=seed, quick=options.quick),
            }
    for seed in seeds:
        there = spaces[seed]
        trained = {
            name: accuracy(classifier, there.X_target, there.y_target, there)
            for name, classifier in (("knn", KNeighborsClassifier(1)), ("svc", SVC()))
        }
        yield {"method": CEILING, "seed": seed, **trained}


def feature_map(space: str, domains: Bunch, seed: int, options: Options) -> TransformerMixin | None:
    """Return the features of a space, learnt on source labels where there is something to learn."""
    if space == PIXELS:
        return None
    if space == HISTOGRAMS:
        return GradientHistograms()
    network = DigitFeatures(n_epochs=1 if options.quick else N_EPOCHS, random_state=seed)
    _, seconds, _ = timed(network.fit, domains.X_source, domains.y_source)
    print(f"features learnt in {seconds:.0f} s")
    return network


def in_features(domains: Bunch, features: TransformerMixin | None) -> Bunch:
    """Return the domains with features in place of pixels."""
    if features is None:
        return domains
    names = ("X_source", "X_source_test", "X_target", "X_target_test")
    return Bunch(**domains | {name: features.transform(domains[name]) for name in names})


def mapped_in_pixels(
    domains: Bunch, featured: Bunch, features: TransformerMixin, *, seed: int, quick: bool
) -> dict[str, object]:
    """Return figures of pixels that moved under a plan between features, compared by these."""
    fitted = ours(domains, labelled=True, seed=seed, quick=quick, feature_map=features)
    seen = Bunch(
        **featured | {"X_source": domains.X_source, "X_source_test": domains.X_source_test}
    )
    then = replace(fitted, transform=lambda X: features.transform(fitted.transform(X)))
    return figures(then, seen)


def figures(fitted: Fitted, domains: Bunch) -> dict[str, object]:
    """Return times, setting and scores of a fitted adaptation."""
    times = {"seconds": fitted.seconds, "processor_seconds": fitted.processor_seconds}
    return {"setting": fitted.setting, **times, **scores(domains, fitted.transform)}


def case_name(source: str, target: str, way: Way) -> str:
    """Return the heading of a pair."""
    ways = (way, way) if isinstance(way, str) else way
    return f"{source} ({ways[0]}) to {target} ({ways[1]})"


def bold_best(values: pd.Series, texts: list[str]) -> list[str]:
    """Return the texts with the best method bold; the ceiling does not take part."""
    best = values.drop(CEILING).idxmax()
    return [f"**{t}**" if m == best else t for m, t in zip(values.index, texts, strict=True)]


def overview(shown: pd.DataFrame, column: str) -> str:
    """Return one accuracy of all methods (columns) on all pairs (rows) as Markdown."""
    rows = []
    for (case, space), group in shown.groupby(["case", "features"], sort=False):
        values = group.groupby("method")[column].mean().reindex(METHODS)
        texts = ["-" if np.isnan(v) else f"{v:.3f}" for v in values]
        rows.append([case, space, *bold_best(values, texts)])
    return markdown(pd.DataFrame(rows, columns=["source to target", "features", *METHODS]))


def details(shown: pd.DataFrame, sizes: dict[str, str]) -> str:
    """Return a table for every pair and space."""
    parts = []
    for (case, space), group in shown.groupby(["case", "features"], sort=False):
        by_method = group.groupby("method")
        cells = pd.DataFrame({"method": METHODS})
        for column, heading in SCORES.items():
            values = by_method[column].mean().reindex(METHODS)
            texts = [mean_and_range(group.loc[group["method"] == m, column], 3) for m in METHODS]
            cells[heading] = bold_best(values, texts)
        for column, heading in TIMES.items():
            cells[heading] = [
                mean_and_range(group.loc[group["method"] == m, column], 1) for m in METHODS
            ]
        cells["setting"] = [
            ", ".join(group.loc[group["method"] == m, "setting"].dropna().unique()) for m in METHODS
        ]
        cells = cells[cells["method"].isin(set(group["method"]))]
        parts.append(f"### {case}, {space}\n\n{sizes[case]}\n\n{markdown(cells)}")
    return "\n\n".join(parts)


def report(raw: pd.DataFrame, sizes: dict[str, str], options: Options, skipped: list[str]) -> str:
    """Return the page of results."""
    shown = raw[raw["shown"].fillna(value=True).astype(bool)]
    absent = f"\n\nNot run: {', '.join(skipped)}. They need {USPS_FILE} in the folder of --data."
    labels = f"max_iter={MAX_ITER}, " + ", ".join(f"{k}={v}" for k, v in SETTINGS.items())
    return f"""# Digits: a classifier carried from one collection to another

8 x 8 pixels; accuracy on all target test rows of a classifier trained on mapped source rows with
their source labels. Fits see target training rows without labels. "Unseen source rows" are source
test rows, which no fit has seen, mapped and used for training instead; "as many seen rows" is the
mean over {FEWER_DRAWS} choices of as many fitted rows: what a smaller training set alone costs.
{conditions(options)}{absent if skipped else ""}

* "plain" averages the whole frame, "crop" the square around the ink.
* The regularisation of POT's Sinkhorn transports (shares of the largest cost: {SINKHORN_REGS}) is
  the one with the best 1-NN accuracy **on the target's test rows**: an upper bound that favours the
  peer, seconds are of that one fit. SinkhornLpl1Transport reads the source labels; its (entropy,
  group) weights: {LPL1_GRID}. Of a domain of more than {ENTROPIC_LIMIT} rows both are fitted to a
  fixed random choice of {ENTROPIC_FEW}, and map the others by POT's out-of-sample rule.
* W2FlowGenerator has one setting everywhere: {labels}. "y_source" reads source labels only;
  "warned" is a fit that said that a map may do more harm than good.
* Features are histograms of gradients, or these beside the last layer but one of a small
  convolutional network, trained on the labelled source rows, turned, zoomed, shifted and lit at
  random (a network a seed; POT's transports see that of the first). All methods work on the
  features, rows and classifier alike, but "feature_map": its plan compares features, the rows move
  in pixels, and the classifier compares the features of moved rows. "Source only" is what the
  features do without adaptation.
* Bold is best without target labels.

## 1-NN accuracy

{overview(shown, "knn")}

## SVC accuracy

{overview(shown, "svc")}

## Each pair

{details(shown, sizes)}
"""


def main() -> None:
    """Run all pairs whose data are at hand."""
    options = parse_options(__doc__)
    # Fits of a fixed length on a small budget; the table shows how far they came.
    warnings.simplefilter("ignore", ConvergenceWarning)
    cases, skipped, usps = list(OPTDIGITS_CASES), [], None
    if options.data is None:
        skipped = [case_name(*case) for case in USPS_CASES]
    else:
        usps = options.data / USPS_FILE
        cases += USPS_CASES
    rows, sizes = [], {}
    for source, target, way in cases[:1] if options.quick else cases:
        domains = load_digit_domains(source, target, resize=way, usps_path=usps)
        if options.quick:
            domains |= {name: domains[name][:QUICK_ROWS] for name in domains if name[1] == "_"}
        case = case_name(source, target, way)
        sizes[case] = (
            f"{len(domains.X_source)} source rows ({len(domains.X_source_test)} unseen), "
            f"{len(domains.X_target)} target rows, {len(domains.X_target_test)} test rows."
        )
        with_features = (source, target, way) in FEATURE_CASES
        for space in (PIXELS, HISTOGRAMS, NETWORK) if with_features else (PIXELS,):
            for row in run_case(domains, options, space=space):
                rows.append({"case": case, "features": space, **row})
                print(*(f"{v:.3f}" if isinstance(v, float) else v for v in rows[-1].values()))
            # After every space, so that an interrupted run keeps those that are done.
            raw = pd.DataFrame(rows)
            page = report(raw, sizes, options, skipped)
            write_results(options.out, "digits_adaptation", raw, page)


if __name__ == "__main__":
    main()
