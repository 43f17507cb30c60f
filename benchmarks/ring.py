"""One pass from noise to eight Gaussians: W2FlowGenerator, its loops, and two peers.

Every method starts from N(0, I), sees the same 4000 rows of a ring of eight Gaussians, and has a
number of steps that takes about the same time. Written to ring.md and ring.csv.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from _common import (
    Options,
    conditions,
    markdown,
    parse_options,
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
    TRUTH,
    VALIDATION_SEED,
    distance_floor,
    figures,
    table,
    truth,
)
from _peers import Sampler, has_torchcfm, ot_cfm, wgan_gp
from sklearn.exceptions import ConvergenceWarning

from skwgf import W2FlowGenerator
from skwgf.metrics import wasserstein_distance

N_DISTANCE = 2048
BUDGET = 20  # seconds of one core that the numbers of steps below are meant for
LEARNING_RATES = (1e-3, 3e-3, 1e-2, 3e-2)

Fit = Callable[..., Sampler]


@dataclass(frozen=True)
class Method:
    """A row of the table: `fit(X, steps=, learning_rate=, seed=)` gives a sampler."""

    name: str
    fit: Fit
    steps: int
    learning_rate: float
    tuned: bool = True


def w2_flow(
    X: np.ndarray, *, steps: int, learning_rate: float, seed: int, **settings: object
) -> Sampler:
    """Fit W2FlowGenerator at its defaults, but for what is named."""
    flow = W2FlowGenerator(
        max_iter=steps, learning_rate=learning_rate, random_state=seed, **settings
    ).fit(X)
    return Sampler(lambda n, seed: flow.sample(n, random_state=seed), passes=1)


# Learning rates: the best of LEARNING_RATES by W1 to a validation sample (`--tune`, results in
# ring_tuning.md), but for the first method, which keeps its default.
METHODS = (
    Method("W2 flow (default)", w2_flow, 300, 1e-2, tuned=False),
    Method("W2 flow, loop, persistence 10", partial(w2_flow, persistence=10), 150, 1e-2),
    Method("W2 flow, two-batch plans", partial(w2_flow, potential="minibatch"), 35, 3e-2),
    Method("W2 flow, network potential", partial(w2_flow, potential="network"), 70, 1e-2),
    Method(
        "W2-GAN (network potential, K = 1)",
        partial(w2_flow, potential="network", persistence=1),
        140,
        1e-3,
    ),
    Method("WGAN-GP, penalty 10", wgan_gp, 500, 3e-3),
    Method("WGAN-GP, penalty 0.1", partial(wgan_gp, weight=0.1), 500, 3e-3),
    Method("OT-CFM (torchcfm)", ot_cfm, 1500, 3e-2),
)


def compare(options: Options, methods: tuple[Method, ...], reference: np.ndarray) -> pd.DataFrame:
    """Return a row of figures for each method and seed; rows of missing peers are empty."""
    rows = []
    for seed in options.seeds:
        X = RING.rows(N_TRAIN, seed)
        for method in methods:
            row = {"method": method.name, "seed": seed}
            if method.fit is not ot_cfm or has_torchcfm():
                sampler, wall, processor = timed(
                    method.fit,
                    X,
                    steps=method.steps,
                    learning_rate=method.learning_rate,
                    seed=seed,
                )
                row |= {"fit_seconds": wall, "fit_processor_seconds": processor}
                row |= figures(sampler, X, reference, seed, RING)
            rows.append(row)
            print(*(f"{k}={v:.4g}" if isinstance(v, float) else v for k, v in row.items()))
        found = figures(truth(RING), X, reference, seed, RING)
        rows.append({"method": TRUTH, "seed": seed, **found})
    return pd.DataFrame(rows)


def tune(options: Options, methods: tuple[Method, ...]) -> None:
    """Write W1 to a validation sample for every learning rate, on the first seed."""
    X, held_out = RING.rows(N_TRAIN, options.seeds[0]), RING.rows(N_DISTANCE, VALIDATION_SEED)
    rows = []
    for method in methods:
        if not method.tuned or (method.fit is ot_cfm and not has_torchcfm()):
            continue
        for rate in LEARNING_RATES:
            sampler = method.fit(X, steps=method.steps, learning_rate=rate, seed=options.seeds[0])
            w1 = wasserstein_distance(sampler.draw(N_DISTANCE, VALIDATION_SEED), held_out, p=1)
            rows.append({"method": method.name, "learning_rate": rate, "w1": w1})
            print(rows[-1])
    raw = pd.DataFrame(rows)
    write_results(options.out, "ring_tuning", raw, tuning_report(raw, options.seeds[0]))


def tuning_report(raw: pd.DataFrame, seed: int) -> str:
    """Return the page of the choice of learning rates."""
    shown = raw.pivot(index="method", columns="learning_rate", values="w1")
    frame = shown.loc[raw["method"].unique()].map("{:.3f}".format).reset_index()
    return (
        "# Ring of 8: choice of the learning rate\n\n"
        f"W1 of {N_DISTANCE} samples to as many validation rows, by learning rate; seed {seed}. "
        f"Numbers of steps as in ring.md.\n\n{markdown(frame)}"
    )


def report(raw: pd.DataFrame, floor: pd.DataFrame, options: Options) -> str:
    """Return the page of results."""
    cost = [name for name in COST if name in raw]
    shape = [name for name in COLUMNS if name in raw and name not in COST]
    missing = "" if has_torchcfm() else "\n\ntorchcfm is not installed: `make bench` installs it."
    steps = "; ".join(f"{m.name}: {m.steps} at {m.learning_rate:g}" for m in METHODS)
    return f"""# Ring of 8 from N(0, I)

{N_TRAIN} training rows; mode standard deviation 0.1 on a circle of radius 2. Every method has a
fixed number of steps, meant for about {BUDGET} s of one idle core (the time it took is in the
table). {conditions(options)}{missing}

## Cost and distance

W1 and W2 of {N_DISTANCE} samples to a stratified reference of as many. Floor, {len(floor)}
independent samples of the law: W1 {floor["w1"].mean():.3f} (sd {floor["w1"].std():.3f}), W2
{floor["w2"].mean():.3f} (sd {floor["w2"].std():.3f}). Bold is best among the fitted methods.

{table(raw, cost)}

## Shape

On {N_SHAPE} samples: total variation between the shares of the eight modes and of "no mode" and
those of the training rows; share of samples farther than 4 sd from every centre; eigenvalues of the
covariance of the samples on each mode over the true ones (least and greatest of the 16, median of
the traces; modes without samples are left out). Two-sample: accuracy of telling {N_TRAIN} samples
from as many fresh independent rows by the nearest other row; .5 means alike. Bold has the least
mean distance to 0, 1 or .5.

{table(raw, shape)}

Steps and learning rates: {steps}. Learning rates of all but the first were chosen by `--tune`.
"""


def main() -> None:
    """Run the comparison, or the choice of learning rates."""
    options = parse_options(__doc__, tunes=True)
    # Loops that stop at a time limit have not settled; the table shows how far they came.
    warnings.simplefilter("ignore", ConvergenceWarning)
    methods = METHODS
    if options.quick:
        methods = tuple(
            Method(m.name, m.fit, max(2, m.steps // 50), m.learning_rate, m.tuned) for m in METHODS
        )
    if not has_torchcfm():
        print("torchcfm is not installed: its rows stay empty. `make bench` installs it.")
    if options.tune:
        tune(options, methods)
        return
    reference = RING.rows(N_DISTANCE, REFERENCE_SEED, stratified=True)
    floor = distance_floor(RING, reference, 2 if options.quick else N_FLOOR)
    raw = compare(options, methods, reference)
    kept = pd.concat([raw, floor.assign(method="floor, independent samples")])
    write_results(options.out, "ring", kept, report(raw, floor, options))


if __name__ == "__main__":
    main()
