"""Synthetic tables: SinkhornFlowGenerator at its defaults, mixtures, kernel densities, copulas.

Every method sees two thirds of a table; its draws are compared with the other third, and models are
trained on draws and scored there. Written to tables.md and tables.csv.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from _common import (
    Column,
    Options,
    comparison,
    conditions,
    markdown,
    parse_options,
    timed,
    write_results,
)
from scipy.stats import norm, rankdata
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_wine,
    make_blobs,
    make_low_rank_matrix,
)
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import SinkhornFlowGenerator
from skwgf.metrics import neighbor_distance_ratio, two_sample_accuracy, wasserstein_distance

N_HOUSES, HOUSES_SEED = 2000, 0
N_SETS = 5  # sets of draws that the figures against the test rows are averaged over
FACTOR = 3  # draws that models are trained on, and moments taken of, per training row
BANDWIDTHS = np.geomspace(0.03, 3, 21)
COMPONENTS, SHAPES = (1, 2, 3, 4, 6, 8, 12), ("full", "tied", "diag")
DRAW_SEED = 40_000

OURS, TRUTH = "Sinkhorn flow (default)", "training rows themselves"
COLUMNS = {
    "forest": Column("forest, synthetic to real", 3, 1.0),
    "linear": Column("linear model, synthetic to real", 3, 1.0),
    "w1": Column("W1 to test rows", 3, 0.0),
    "two_sample": Column("two-sample 1-NN", 3, 0.5),
    "neighbor_ratio": Column("neighbour-distance ratio", 2, 1.0),
    "mean_error": Column("means", 3, 0.0),
    "sd_error": Column("standard deviations", 3, 0.0),
    "correlation_error": Column("correlations", 3, 0.0),
    "seconds": Column("fit, processor s", 1),
}

Rows = np.ndarray
Draw = Callable[[int, int], Rows]  # number of rows and seed to rows
LabelledDraw = Callable[[Rows, int], Rows]  # class of each row, and seed, to rows


@dataclass(frozen=True)
class Table:
    """Rows to imitate; `y` are classes, or None where the last column is the target."""

    name: str
    rows: Rows
    y: Rows | None


def tables() -> Iterator[Table]:
    """Yield the tables; a class is conditioned on, a numeric target is one more column."""
    yield Table("breast_cancer", *load_breast_cancer(return_X_y=True))
    yield Table("wine", *load_wine(return_X_y=True))
    yield Table("diabetes", np.column_stack(load_diabetes(return_X_y=True, scaled=False)), None)
    yield Table("houses", houses(N_HOUSES, HOUSES_SEED), None)


def houses(n: int, seed: int) -> Rows:
    """Return a made-up table of districts: clustered places, long tails, counts, capped columns.

    Columns: two coordinates, age (whole years, capped), income, rooms, population, occupancy, and
    the price, which depends on place and income in a non-linear way, with noise, and is capped.
    """
    rng = np.random.default_rng(seed)
    towns = [[0, 0], [4, -3], [5, 2]]
    place, _ = make_blobs(n, 2, centers=towns, cluster_std=0.7, random_state=seed)
    factors = make_low_rank_matrix(n, 5, effective_rank=3, tail_strength=0.3, random_state=seed)
    age, income, rooms, people, density = ((factors - factors.mean(0)) / factors.std(0)).T
    near = np.exp(-0.5 * (place**2).sum(axis=1)) + 0.6 * (place[:, 1] > 0)
    income = np.exp(1 + 0.4 * income + 0.2 * near)
    return np.column_stack(
        [
            place,
            np.clip(np.round(29 + 14 * age), 1, 52),
            income,
            np.exp(1.6 + 0.3 * rooms),
            np.round(np.exp(7 + 0.7 * people)),
            np.exp(1 + 0.2 * density + 0.1 * people),
            np.clip(0.35 * income * (1 + near) + 0.2 * rng.standard_normal(n), 0.15, 5.0),
        ]
    )


def sinkhorn_flow(rows: Rows, y: Rows | None, seed: int, *, quick: bool) -> LabelledDraw:
    """Fit SinkhornFlowGenerator at its defaults, to each class where there are classes."""
    settings: dict[str, Any] = {"max_iter": 2} if quick else {}
    flow = SinkhornFlowGenerator(conditional=y is not None, random_state=seed, **settings)
    flow.fit(rows, y)
    return lambda labels, seed: flow.sample(
        len(labels), y=None if y is None else labels, random_state=seed
    )


def by_class(fit: Callable[[Rows, int], Draw]) -> Callable[..., LabelledDraw]:
    """Return the fit of a model to the standardised rows, to each class on its own."""

    def fitted(rows: Rows, y: Rows | None, seed: int, *, quick: bool) -> LabelledDraw:
        scaler = StandardScaler().fit(rows)
        codes = np.zeros(len(rows), dtype=int) if y is None else y
        models = {c: fit(scaler.transform(rows[codes == c]), seed) for c in np.unique(codes)}

        def draw(labels: Rows, seed: int) -> Rows:
            out = np.empty((len(labels), rows.shape[1]))
            for c, model in models.items():
                out[labels == c] = model(int((labels == c).sum()), seed)
            return scaler.inverse_transform(out)

        return draw

    return fitted


def mixture(rows: Rows, seed: int) -> Draw:
    """Fit a GaussianMixture whose number and shape of components have the least BIC."""
    candidates = [
        GaussianMixture(k, covariance_type=shape, n_init=2, random_state=seed).fit(rows)
        for k in COMPONENTS
        for shape in SHAPES
        if 3 * k <= len(rows)
    ]
    best = min(candidates, key=lambda model: model.bic(rows))

    def draw(n: int, seed: int) -> Rows:
        best.set_params(random_state=seed)
        return best.sample(n)[0]

    return draw


def kernel_density(rows: Rows, seed: int) -> Draw:
    """Fit a KernelDensity whose bandwidth has the best held-out likelihood, in five folds."""
    search = GridSearchCV(KernelDensity(), {"bandwidth": BANDWIDTHS}, cv=5)
    shuffled = np.random.default_rng(seed).permutation(rows)
    best = search.fit(shuffled).best_estimator_
    return lambda n, seed: best.sample(n, random_state=seed)


def gaussian_copula(rows: Rows, seed: int) -> Draw:
    """Fit a Gaussian copula with the empirical marginals, interpolated between their values."""
    ranks = rankdata(rows, axis=0) / (len(rows) + 1)
    root = np.linalg.cholesky(np.corrcoef(norm.ppf(ranks).T) + 1e-9 * np.eye(rows.shape[1]))

    def draw(n: int, seed: int) -> Rows:
        normal = np.random.default_rng(seed).standard_normal((n, rows.shape[1])) @ root.T
        levels = norm.cdf(normal / np.linalg.norm(root, axis=1))
        pairs = zip(rows.T, levels.T, strict=True)
        return np.column_stack([np.quantile(column, level) for column, level in pairs])

    return draw


def training_rows(rows: Rows, seed: int) -> Draw:
    """Draw from the rows: without replacement up to their number."""

    def draw(n: int, seed: int) -> Rows:
        order = np.random.default_rng(seed).permutation(len(rows))
        return rows[np.resize(order, n)]

    return draw


METHODS: dict[str, Callable[..., LabelledDraw]] = {
    OURS: sinkhorn_flow,
    "GaussianMixture (BIC)": by_class(mixture),
    "KernelDensity (CV)": by_class(kernel_density),
    "Gaussian copula": by_class(gaussian_copula),
    TRUTH: by_class(training_rows),
}


def models(y: Rows | None, seed: int) -> dict[str, Any]:
    """Return the forest and the linear model that are trained on draws."""
    if y is None:
        linear = RidgeCV(np.geomspace(1e-3, 1e3, 13))
        forest = RandomForestRegressor(random_state=seed)
    else:
        linear = LogisticRegression(max_iter=2000)
        forest = RandomForestClassifier(random_state=seed)
    return {"forest": forest, "linear": make_pipeline(StandardScaler(), linear)}


def figures(
    draw: LabelledDraw, train: Rows, test: Rows, y: tuple[Rows, Rows] | None, seed: int
) -> dict[str, float]:
    """Return the figures of draws; `y` are the classes of the training and the test rows."""
    codes = (np.zeros(len(train)), np.zeros(len(test))) if y is None else y
    labels = np.tile(codes[0], FACTOR)
    scaler = StandardScaler().fit(train)
    real, seen = scaler.transform(test), scaler.transform(train)
    raw = draw(labels, DRAW_SEED + 1000 * seed)
    drawn = scaler.transform(raw)
    sets = [
        scaler.transform(draw(codes[1], DRAW_SEED + 1000 * seed + 1 + i)) for i in range(N_SETS)
    ]
    upper = np.triu_indices(train.shape[1], 1)
    gap = np.abs(np.corrcoef(drawn.T) - np.corrcoef(real.T))[upper]
    found = {
        "w1": np.mean([wasserstein_distance(rows, real, p=1) for rows in sets]),
        "two_sample": np.mean([two_sample_accuracy(rows, real) for rows in sets]),
        "neighbor_ratio": neighbor_distance_ratio(drawn, seen, real),
        "mean_error": np.abs((drawn.mean(0) - real.mean(0)) / real.std(0)).mean(),
        "sd_error": np.abs(drawn.std(0) / real.std(0) - 1).mean(),
        "correlation_error": gap.mean(),
    }
    for name, model in models(None if y is None else y[0], seed).items():
        if y is None:
            score = model.fit(raw[:, :-1], raw[:, -1]).score(test[:, :-1], test[:, -1])
        else:
            score = model.fit(raw, labels).score(test, codes[1])
        found[name] = score
    return found


def compare(table: Table, options: Options) -> Iterator[dict[str, object]]:
    """Yield a row of figures for every method and split of one table."""
    for seed in options.seeds:
        index = np.arange(len(table.rows))
        split = train_test_split(index, test_size=1 / 3, stratify=table.y, random_state=seed)
        train, test = (table.rows[part] for part in split)
        y = None if table.y is None else tuple(table.y[part] for part in split)
        for name, fit in METHODS.items():
            draw, _, seconds = timed(fit, train, y and y[0], seed, quick=options.quick)
            row = {"table": table.name, "method": name, "seed": seed}
            yield row | figures(draw, train, test, y, seed) | {"seconds": seconds}


def ranks(raw: pd.DataFrame) -> str:
    """Return the mean rank of each method over the tables, for each figure, as Markdown."""
    columns = {name: c for name, c in COLUMNS.items() if c.perfect is not None}
    fitted = raw[raw["method"] != TRUTH]
    cells = pd.DataFrame({"method": [name for name in METHODS if name != TRUTH]})
    for name, column in columns.items():
        gaps = (fitted[name] - column.perfect).abs().groupby([fitted["table"], fitted["method"]])
        mean = gaps.mean().unstack().rank(axis=1).mean()
        cells[column.heading] = [f"{mean[method]:.2f}" for method in cells["method"]]
    return markdown(cells)


def report(raw: pd.DataFrame, sizes: dict[str, str], options: Options) -> str:
    """Return the page of results."""
    parts = [
        f"## {name}\n\n{sizes[name]}\n\n{comparison(group, COLUMNS, apart=(TRUTH,))}"
        for name, group in raw.groupby("table", sort=False)
    ]
    details = "\n\n".join(parts)
    return f"""# Synthetic tables

Two thirds of each table are fitted, the rest are test rows. {conditions(options)}

* Classes are conditioned on (peers are fitted to each class on its own); a numeric target is one
  more column of the table. `SinkhornFlowGenerator` is at its defaults everywhere.
* Synthetic to real: accuracy, or R^2, on the test rows of a random forest (100 trees) and of a
  logistic or ridge regression that were trained on {FACTOR} draws per training row.
* W1, two-sample accuracy (.5 is perfect) and neighbour-distance ratio are taken in columns that are
  standardised by the training rows; the first two are means over {N_SETS} sets of as many draws as
  test rows. A ratio far below 1 means copies of training rows.
* Means, standard deviations, correlations: mean absolute error over the columns (pairs) of
  {FACTOR} draws per training row against the test rows, in test standard deviations, relative, and
  absolute.
* Bold is nearest to perfect among the fitted methods. "{TRUTH}" is what draws of the
  law itself would get, but for the neighbour-distance ratio: the test rows are a sample as well.

## Mean rank over the tables

1 is best of {len(METHODS) - 1}.

{ranks(raw)}

{details}
"""


def main() -> None:
    """Run all tables."""
    options = parse_options(__doc__)
    # The budget is the default one; the figures show how far it takes.
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows, sizes = [], {}
    for table in tables():
        target = "the last is the target" if table.y is None else f"{len(set(table.y))} classes"
        sizes[table.name] = f"{len(table.rows)} rows, {table.rows.shape[1]} columns, {target}."
        for row in compare(table, options):
            rows.append(row)
            print(*(f"{v:.3f}" if isinstance(v, float) else v for v in row.values()), flush=True)
        if options.quick:
            break
    raw = pd.DataFrame(rows)
    write_results(options.out, "tables", raw, report(raw, sizes, options))


if __name__ == "__main__":
    main()
