"""Choosing an adaptation without target labels: how good the choice of each scorer is.

Pipelines without an adapter, and with three, are scored by the label-free scorers of
skwgf.metrics on the rows of the fit; the accuracy on target test rows tells what the choice costs.
Simulated shifts, batch effects, and all four pairs of digits where USPS is at hand. Written to
label_free.md and label_free.csv.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from _common import Options, conditions, markdown, parse_options, write_results
from _domain_shift import Domains, cases
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from skwgf import DomainAdapter, SinkhornFlowGenerator, SourceOnly, W2FlowGenerator
from skwgf.datasets import load_digit_domains
from skwgf.metrics import (
    CircularScorer,
    EntropyScorer,
    ImportanceWeightedScorer,
    NeighborScorer,
)

SCORERS: dict[str, Any] = {
    "neighbours": NeighborScorer(),
    "circular": CircularScorer(),
    "entropy": EntropyScorer(),
    "entropy, diversity": EntropyScorer(diversity=True),
    "importance weighted": ImportanceWeightedScorer(),
}
NONE, ALWAYS = "no adaptation", "W2 flow, labels"
DIGITS = {
    "mnist to optdigits": ("mnist", "optdigits", ("crop", "plain")),
    "optdigits to mnist": ("optdigits", "mnist", ("plain", "crop")),
    "mnist to usps": ("mnist", "usps", "plain"),
    "usps to mnist": ("usps", "mnist", "plain"),
}
USPS_FILE = Path("digits") / "usps.h5"
# Of a domain of digits that many rows are fitted to; of the tests all are scored.
N_DIGITS = 1500


def candidates(seed: int, quick: bool) -> dict[str, Any]:
    """Return the steps to choose among."""
    few = {"max_iter": 2} if quick else {"max_iter": 30}
    w2 = W2FlowGenerator(hidden_layer_sizes=(64, 64), random_state=seed, **few)
    sinkhorn = SinkhornFlowGenerator(batch_size=256, random_state=seed, **few)
    return {
        NONE: "passthrough",
        "W2 flow": DomainAdapter(w2, use_labels=False, target_shift="reweight"),
        ALWAYS: DomainAdapter(w2, target_shift="reweight"),
        "Sinkhorn flow": DomainAdapter(sinkhorn, use_labels=False, target_shift="reweight"),
    }


def digits(pair: str, options: Options) -> Callable[[int], Domains]:
    """Return the function from a seed to two collections of digits."""
    source, target, resize = DIGITS[pair]
    usps = {} if options.data is None else {"usps_path": options.data / USPS_FILE}

    def draw(seed: int) -> Domains:
        rng = np.random.default_rng(seed)
        found = load_digit_domains(source, target, resize=resize, **usps)
        few = [rng.permutation(len(y))[:N_DIGITS] for y in (found.y_source, found.y_target)]
        return Domains(
            found.X_source[few[0]],
            found.y_source[few[0]],
            found.X_target[few[1]],
            found.y_target[few[1]],
            found.X_target_test,
            found.y_target_test,
        )

    return draw


def all_cases(options: Options) -> dict[str, Callable[[int], Domains]]:
    """Return the pairs of domains by name."""
    found = cases()
    for pair in DIGITS:
        if options.data is not None or "usps" not in pair:
            found[pair] = digits(pair, options)
    return dict(list(found.items())[:1]) if options.quick else found


def run_case(domains: Domains, seed: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the scores and the accuracy of every candidate with every classifier."""
    X, y, domain = domains.stacked()
    classifiers: dict[str, BaseEstimator] = {
        "1-NN": KNeighborsClassifier(1),
        "logistic regression": LogisticRegression(max_iter=1000),
    }
    for name, step in candidates(seed, quick).items():
        for heading, classifier in classifiers.items():
            if len(domains.X_test) > 500 and heading != "1-NN":
                continue  # digits
            pipeline = Pipeline([("adapt", step), ("predict", SourceOnly(classifier))])
            pipeline.fit(X, y, sample_domain=domain)
            yield {
                "classifier": heading,
                "method": name,
                "accuracy": pipeline.score(domains.X_test, domains.y_test),
                **{s: score(pipeline, X, y, sample_domain=domain) for s, score in SCORERS.items()},
            }


def choices(raw: pd.DataFrame) -> pd.DataFrame:
    """Return, for each fit, the accuracy of what each rule chooses; ties go to the first."""
    rows = []
    keys = ["case", "classifier", "seed"]
    for key, group in raw.groupby(keys, sort=False):
        truth = group.set_index("method")["accuracy"]
        found = {"never": truth[NONE], "always": truth[ALWAYS], "best in hindsight": truth.max()}
        for scorer in SCORERS:
            found[scorer] = truth[group.set_index("method")[scorer].idxmax()]
        rows.append(dict(zip(keys, key, strict=True)) | found)
    return pd.DataFrame(rows)


def report(raw: pd.DataFrame, options: Options) -> str:
    """Return the page of results."""
    chosen = choices(raw)
    rules = ["never", "always", *SCORERS, "best in hindsight"]
    by_case = chosen.groupby(["case", "classifier"], sort=False)[rules].mean()
    summary = pd.DataFrame(
        {
            "rule": rules,
            "mean accuracy": [f"{by_case[r].mean():.3f}" for r in rules],
            "worst loss against never": [
                f"{max(0.0, (by_case['never'] - by_case[r]).max()):.3f}" for r in rules
            ],
            "cases worse than never by .01": [
                str(int((by_case[r] < by_case["never"] - 0.01).sum())) for r in rules
            ],
            "cases better than never by .01": [
                str(int((by_case[r] > by_case["never"] + 0.01).sum())) for r in rules
            ],
        }
    )
    table = by_case.map("{:.3f}".format).reset_index()
    steps = raw.pivot_table(
        index=["case", "classifier"], columns="method", values="accuracy", sort=False
    )
    return f"""# Choosing an adaptation without target labels

Candidates: no adaptation, DomainAdapter with a W2 flow (30 iterations, two layers of 64) without
and with the labels of the source, and with a Sinkhorn flow (30 iterations) without; all with
target_shift="reweight". A scorer sees the rows of the fit and no label of the target; a cell is the
accuracy on target test rows of what it chooses, the mean over the seeds. The first eight cases are
simulated by skada, then real tables of two laboratories (see domain_shift.md), then digits
({N_DIGITS} rows of a domain, 1-NN). {conditions(options)}

## In short

Over {len(by_case)} cases and classifiers. "always" is the W2 flow with labels.

{markdown(summary)}

## Each case

{markdown(table)}

## Accuracy of every candidate

{markdown(steps.map("{:.3f}".format).reset_index())}
"""


def main() -> None:
    """Run all cases."""
    options = parse_options(__doc__)
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", message="Sinkhorn did not converge")
    sklearn.set_config(enable_metadata_routing=True)
    rows = []
    for case, draw in all_cases(options).items():
        for seed in options.seeds:
            for row in run_case(draw(seed), seed, options.quick):
                rows.append({"case": case, "seed": seed, **row})
                if seed == options.seeds[0]:
                    print(*(f"{v:.3f}" if isinstance(v, float) else v for v in rows[-1].values()))
        raw = pd.DataFrame(rows)
        write_results(options.out, "label_free", raw, report(raw, options))


if __name__ == "__main__":
    main()
