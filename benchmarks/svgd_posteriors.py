"""The sampler as users call it: reference posteriors, Gaussians, and pipelines, beside peers.

Five reference posteriors against independent draws and the classic algorithm of four packages,
Gaussians with every kernel, and two searches in a pipeline. Written to svgd_posteriors.md and
svgd_posteriors.csv. Needs --data, the folder that holds posteriordb/.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import (
    NOT_INSTALLED,
    Options,
    conditions,
    installed,
    markdown,
    mean_and_range,
    parse_options,
    write_results,
)
from _posteriors import Posterior, load_posteriors, standard_starts
from _svgd_peers import blackjax_run, numpyro_run, pyro_run
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import BayesianRidge, LogisticRegressionCV
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from skwgf import SVGDSampler
from skwgf.kernels import (
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Linear,
    Matern,
    Preconditioned,
    Scaled,
)
from skwgf.targets import (
    Gaussian as GaussianTarget,
)
from skwgf.targets import (
    LinearRegressionPosterior,
    LogDensity,
    LogisticRegressionPosterior,
)

N_PARTICLES = 500
# The best of these on the first seed, by the largest mean error, is shown.
STEPS = (0.1, 1.0)
LONGER = 5  # times the evaluations, for a row of the classic algorithm

OURS, CLASSIC, LONG = "skwgf, default", "skwgf, classic", f"skwgf, classic, {LONGER} x longer"
PYRO, NUMPYRO, BLACKJAX = "pyro", "numpyro", "blackjax"

DIMENSIONS, SIZES, CORRELATION = (2, 10, 50, 100), (200, 500), 0.9
START_MEAN, START_SD = 1.0, 2.0
KERNELS: dict[str, Kernel | None] = {
    "default": None,
    'Gaussian("median"), the classic': Gaussian("median"),
    'Gaussian("scale")': Gaussian("scale"),
    "InverseMultiquadric": InverseMultiquadric(),
    "Laplace": Laplace(),
    "Matern, nu 1.5": Matern(nu=1.5),
    "Matern, nu 2.5": Matern(nu=2.5),
    "Linear": Linear(),
    "Gaussian + Linear": Gaussian() + Linear(),
    "Scaled(Gaussian) + Linear": Scaled(Gaussian("scale")) + Linear(),
    "Preconditioned(Gaussian)": Preconditioned(Gaussian()),
}
COLLAPSED = 0.64  # mean marginal variance: sds of .8

PRIOR_SCALES = (0.1, 0.3, 1.0, 3.0)
TEST_SHARE, FOLDS, LEVEL = 0.3, 5, 0.9

# From the starting cloud, the number of steps and their size to the particles.
Run = Callable[[Posterior, Tensor, int, float], Tensor]


def quiet_fit(model: Any, *data: Any) -> tuple[Any, bool]:
    """Return the fitted model, and whether it has warned of a spread that is too small."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(*data)
    return model, any("closer together" in str(warning.message) for warning in caught)


def default_run(posterior: Posterior, start: Tensor, seed: int) -> dict[str, Any]:
    """Return the figures of the sampler with default settings."""
    n_evaluations = 0

    def score_fn(z: Tensor) -> Tensor:
        nonlocal n_evaluations
        n_evaluations += len(z) == len(start)  # not the trial of single rows
        return posterior.score(z)

    target = LogDensity(posterior.log_prob, posterior.dim, batched=True, grad=score_fn)
    began = time.process_time()
    sampler, _ = quiet_fit(SVGDSampler(target, random_state=seed), start.numpy())
    seconds = time.process_time() - began
    return judged(posterior, torch.as_tensor(sampler.particles_)) | {
        "evaluations": n_evaluations,
        "seconds": seconds,
        "converged": sampler.converged_,
        "spread_ratio": sampler.spread_ratio_,
    }


def classic_run(posterior: Posterior, start: Tensor, n_steps: int, step: float) -> Tensor:
    """Run the classic algorithm of this package, for so many steps."""
    sampler = SVGDSampler(
        LogDensity(posterior.log_prob, posterior.dim, batched=True, grad=posterior.score),
        kernel=Gaussian("median"),
        max_iter=n_steps,
        step_size=step,
        tol=0,
        random_state=0,
    )
    return torch.as_tensor(quiet_fit(sampler, start.numpy())[0].particles_)


def judged(posterior: Posterior, z: Tensor) -> dict[str, Any]:
    """Return the errors of particles, and how many sds lie outside of 99% of the floor's."""
    error, ratios = posterior.figures(z)
    _, floor = posterior.floor(len(z))
    low, high = np.quantile(floor, [0.005, 0.995], axis=0)
    return {
        "error": error,
        "sd_least": ratios.min(),
        "sd_greatest": ratios.max(),
        "outside": int(((ratios < low) | (ratios > high)).sum()),
    }


def tuned(
    run: Run, posterior: Posterior, seeds: tuple[int, ...], n_steps: list[int]
) -> Iterable[dict[str, Any]]:
    """Yield the figures of a method that needs a step size, a row a seed, at its best one."""
    found = {step: one_run(run, posterior, seeds[0], n_steps[0], step) for step in STEPS}
    # NaN, a run that has diverged, is no minimum.
    step = min(STEPS, key=lambda step: np.nan_to_num(found[step]["error"], nan=np.inf))
    yield found[step]
    for seed, n in list(zip(seeds, n_steps, strict=False))[1:]:
        yield one_run(run, posterior, seed, n, step)


def one_run(run: Run, posterior: Posterior, seed: int, n_steps: int, step: float) -> dict[str, Any]:
    """Return the figures of one run of a method that takes a step size."""
    start = standard_starts(posterior.dim, N_PARTICLES, seed)
    began = time.process_time()
    z = run(posterior, start, n_steps, step)
    row = {"seed": seed, "step": step, "evaluations": n_steps}
    return judged(posterior, z) | row | {"seconds": time.process_time() - began}


def posterior_rows(posterior: Posterior, options: Options) -> list[dict[str, Any]]:
    """Return the rows of all methods on a posterior."""
    assert options.data is not None
    shared = {"part": "posteriors", "target": posterior.name, "n": N_PARTICLES}
    rows = [
        default_run(posterior, standard_starts(posterior.dim, N_PARTICLES, seed), seed)
        | {"method": OURS, "seed": seed}
        for seed in options.seeds
    ]
    counts = [3 if options.quick else row["evaluations"] for row in rows]
    peers: dict[str, Run] = {
        CLASSIC: classic_run,
        PYRO: pyro_run,
        NUMPYRO: partial(numpyro_run, options.data),
        BLACKJAX: partial(blackjax_run, options.data),
        LONG: classic_run,
    }
    for method, run in peers.items():
        n_steps = [LONGER * n for n in counts] if method == LONG else counts
        seeds = options.seeds if method == CLASSIC else options.seeds[:1]
        try:
            rows += [row | {"method": method} for row in tuned(run, posterior, seeds, n_steps)]
        except ImportError:
            rows.append({"method": method, "failure": NOT_INSTALLED})
    return [shared | row for row in rows]


def gaussian_rows(d: int, n: int, correlated: bool, options: Options) -> list[dict[str, Any]]:
    """Return the rows of all kernels on a Gaussian of unit variances, a row a seed of ours."""
    lags = np.abs(np.arange(d)[:, None] - np.arange(d))
    target = GaussianTarget(np.zeros(d), covariance=CORRELATION**lags if correlated else None)
    rows = []
    for name, kernel in KERNELS.items():
        for seed in options.seeds if kernel is None else options.seeds[:1]:
            start = START_MEAN + START_SD * standard_starts(d, n, seed)
            settings = {"max_iter": 5} if options.quick else {}
            began = time.process_time()
            sampler, warned = quiet_fit(
                SVGDSampler(target, kernel=kernel, random_state=seed, **settings), start.numpy()
            )
            rows.append(
                {
                    "part": "gaussians",
                    "target": "correlated" if correlated else "N(0, I)",
                    "d": d,
                    "n": n,
                    "method": name,
                    "seed": seed,
                    "error": float(np.abs(sampler.particles_.mean(0)).max()),
                    "variance": float(sampler.particles_.var(0, ddof=1).mean()),
                    "warned": warned,
                    "evaluations": sampler.n_iter_,
                    "seconds": time.process_time() - began,
                    "converged": sampler.converged_,
                }
            )
    return rows


def searched(sampler: SVGDSampler, scoring: Any) -> GridSearchCV:
    """Return a search for the scale of the prior."""
    grid = {"svgdsampler__target__prior_scale": PRIOR_SCALES}
    model = make_pipeline(StandardScaler(), sampler)
    return GridSearchCV(model, grid, scoring=scoring, cv=FOLDS)


def predictive_density(model: Pipeline, X: np.ndarray, y: np.ndarray) -> float:
    """Return the mean log predictive density of rows, a score for a search."""
    density: float = model[-1].log_predictive_density(model[:-1].transform(X), y)
    return density


def classification_rows(seed: int) -> list[dict[str, Any]]:
    """Return accuracy and log loss on breast_cancer."""
    X, y = load_breast_cancer(return_X_y=True)
    X, X_test, y, y_test = train_test_split(
        X, y, test_size=TEST_SHARE, stratify=y, random_state=seed
    )
    peer = LogisticRegressionCV(
        cv=FOLDS,
        scoring="neg_log_loss",
        max_iter=1000,
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
    )
    models = {
        "GridSearchCV of SVGDSampler": searched(
            SVGDSampler(LogisticRegressionPosterior(), random_state=seed), "neg_log_loss"
        ),
        "SVGDSampler, default": make_pipeline(
            StandardScaler(), SVGDSampler(LogisticRegressionPosterior(), random_state=seed)
        ),
        "LogisticRegressionCV": make_pipeline(StandardScaler(), peer),
    }
    rows = []
    for name, model in models.items():
        began = time.process_time()
        quiet_fit(model, X, y)
        seconds = time.process_time() - began
        rows.append(
            {
                "method": name,
                "accuracy": accuracy_score(y_test, model.predict(X_test)),
                "log_loss": log_loss(y_test, model.predict_proba(X_test)),
                "chosen": chosen(model),
                "seconds": seconds,
            }
        )
    return [{"part": "pipelines", "target": "breast_cancer", "seed": seed} | row for row in rows]


def regression_rows(seed: int) -> list[dict[str, Any]]:
    """Return errors and intervals on diabetes."""
    X, y = load_diabetes(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=TEST_SHARE, random_state=seed)
    ours = SVGDSampler(LinearRegressionPosterior(), random_state=seed)
    models = {
        "GridSearchCV of SVGDSampler": searched(ours, predictive_density),
        "SVGDSampler, default": make_pipeline(StandardScaler(), ours),
        "BayesianRidge": make_pipeline(StandardScaler(), BayesianRidge()),
    }
    rows = []
    for name, model in models.items():
        began = time.process_time()
        quiet_fit(model, X, y)
        seconds = time.process_time() - began
        fitted = model.best_estimator_ if isinstance(model, GridSearchCV) else model
        if name == "BayesianRidge":
            mean, sd = fitted.predict(X_test, return_std=True)
            # Its predictions are normal: the 95% quantile of N(0, 1) bounds 90% of them.
            limits = mean[:, None] + sd[:, None] * 1.6448536 * np.array([-1, 1])
            density = -0.5 * ((y_test - mean) / sd) ** 2 - np.log(math.sqrt(2 * math.pi) * sd)
            lpd = float(density.mean())
        else:
            mean, limits = fitted.predict(X_test, interval=LEVEL)
            lpd = predictive_density(fitted, X_test, y_test)
        rows.append(
            {
                "method": name,
                "rmse": float(np.sqrt(np.mean((mean - y_test) ** 2))),
                "log_density": lpd,
                "coverage": float(((limits[:, 0] <= y_test) & (y_test <= limits[:, 1])).mean()),
                "chosen": chosen(model),
                "seconds": seconds,
            }
        )
    return [{"part": "pipelines", "target": "diabetes", "seed": seed} | row for row in rows]


def chosen(model: Any) -> float:
    """Return the scale of the prior that a search has found, NaN without one."""
    best = getattr(model, "best_params_", {})
    return float(best.get("svgdsampler__target__prior_scale", math.nan))


def sd_range(rows: pd.DataFrame) -> str:
    """Return the least and the greatest ratio of sds in some runs."""
    return f"{rows['sd_least'].min():.2f} to {rows['sd_greatest'].max():.2f}"


def default_table(raw: pd.DataFrame, posteriors: list[Posterior]) -> str:
    """Return the table of the default beside the floor of independent draws."""
    lines = []
    for posterior in posteriors:
        errors, ratios = posterior.floor(N_PARTICLES)
        low, high = np.quantile(ratios, [0.005, 0.995], axis=0)
        rows = raw[(raw["target"] == posterior.name) & (raw["method"] == OURS)]
        median = float(np.median(errors))
        lines.append(
            {
                "posterior": posterior.name,
                "d": posterior.dim,
                "independent draws: error, median": f"{median:.3f}",
                "error, 99%": "{:.3f} to {:.3f}".format(*np.quantile(errors, [0.005, 0.995])),
                "sd ratios, 99%": f"{low.min():.2f} to {high.max():.2f}",
                "ours: error": mean_and_range(rows["error"], 3),
                "of the median": mean_and_range(rows["error"] / median, 2),
                "sd ratios": f"{rows['sd_least'].min():.3f} to {rows['sd_greatest'].max():.3f}",
                "spread_ratio_": mean_and_range(rows["spread_ratio"], 3),
                "evaluations": mean_and_range(rows["evaluations"], 0),
                "processor s": mean_and_range(rows["seconds"], 1),
                "converged": f"{int(rows['converged'].sum())} of {len(rows)}",
            }
        )
    return markdown(pd.DataFrame(lines))


def method_table(raw: pd.DataFrame) -> str:
    """Return the table of all methods: error, sd ratios and step size on each posterior."""
    lines = []
    for method, of_method in raw.groupby("method", sort=False):
        line = {"method": method}
        for target, rows in of_method.groupby("target", sort=False):
            if rows["error"].isna().all():
                failures = rows.get("failure", pd.Series(dtype=object)).dropna()
                line[str(target)] = failures.iloc[0] if len(failures) else "diverged"
                continue
            step = "" if method == OURS else f"; step {rows['step'].iloc[0]:g}"
            line[str(target)] = f"{rows['error'].max():.3g}; {sd_range(rows)}{step}"
        line["evaluations"] = mean_and_range(of_method["evaluations"], 0)
        line["processor s"] = mean_and_range(of_method["seconds"], 1)
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def gaussian_table(raw: pd.DataFrame, column: str, digits: int) -> str:
    """Return a table of the Gaussians: a row a kernel, a column a cell."""
    lines = []
    for method, of_method in raw.groupby("method", sort=False):
        line = {"kernel": method}
        for (d, n), rows in of_method.groupby(["d", "n"]):
            mark = ""
            if column == "variance" and (rows["variance"] < COLLAPSED).any():
                mark = " (warned)" if rows["warned"].all() else " (silent)"
            line[f"d {d:.0f}, n {n:.0f}"] = mean_and_range(rows[column], digits) + mark
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def pipeline_table(raw: pd.DataFrame, columns: dict[str, tuple[str, int]]) -> str:
    """Return the table of one pipeline."""
    lines = []
    for method, rows in raw.groupby("method", sort=False):
        cells = {text: mean_and_range(rows[key], k) for key, (text, k) in columns.items()}
        scales = ", ".join(f"{scale:g}" for scale in rows["chosen"].dropna())
        line = {"model": method, **cells, "prior_scale": scales or "-"}
        lines.append(line | {"processor s": mean_and_range(rows["seconds"], 1)})
    return markdown(pd.DataFrame(lines))


def report(raw: pd.DataFrame, posteriors: list[Posterior], options: Options) -> str:
    """Return the page of results."""
    parts = dict(list(raw.groupby("part")))
    tables = {
        (target, column): gaussian_table(rows, column, digits)
        for target, rows in parts["gaussians"].groupby("target")
        for column, digits in (("variance", 2), ("error", 3), ("seconds", 1))
    }
    pipelines = dict(list(parts["pipelines"].groupby("target")))
    classification = {"accuracy": ("accuracy", 4), "log_loss": ("log loss", 4)}
    regression = {
        "rmse": ("RMSE", 2),
        "log_density": ("log predictive density", 3),
        "coverage": ("coverage of 90% intervals", 3),
    }
    versions = ", ".join(f"{name} {installed(name)}" for name in ("pyro-ppl", NUMPYRO, BLACKJAX))
    return f"""# SVGDSampler on posteriors, Gaussians and in pipelines

{conditions(options)} {versions}.

## Reference posteriors: {N_PARTICLES} particles from N(0, I), default settings

The error is the largest mean error over the parameters of the reference, in its sds; the sd ratios
are the least and the greatest over parameters and seeds. Both are against 10,000 reference draws,
whose own means are off by about .01 to .02. Beside them the same figures of 1000 resamples of
{N_PARTICLES} reference draws. An evaluation is one of the score, of all particles; those of the
start and of the checks around the flow are counted.

{default_table(parts["posteriors"], posteriors)}

## Beside the classic algorithm, at the same number of evaluations

Largest error over the seeds; sd ratios; step size. All classic rows have a Gaussian kernel with a
median heuristic and Adagrad; their step is the better of {" and ".join(map(str, STEPS))}, by the
error on the first seed against the reference, which no user could choose by. The peers, which are
slow, and the longer row run on the first seed only. JAX runs in double precision, and its seconds
contain the compilation.

{method_table(parts["posteriors"])}

## Gaussians of unit variances

Starts from N({START_MEAN:g}, {START_SD:g}^2 I). The correlated ones have correlations
{CORRELATION}^|i - j|. Kernels at the sampler's default settings (Adagrad, step .1, at most 400
steps) on the first seed, the default on all. "Warned" and "silent" say whether the sampler warned
where the variance has fallen below {COLLAPSED}.

Mean marginal variance, N(0, I):

{tables["N(0, I)", "variance"]}

Mean marginal variance, correlated:

{tables["correlated", "variance"]}

Largest mean error, N(0, I):

{tables["N(0, I)", "error"]}

Largest mean error, correlated:

{tables["correlated", "error"]}

Processor seconds, correlated:

{tables["correlated", "seconds"]}

## Pipelines

{TEST_SHARE:.0%} of the rows are held out, a split a seed. The search is a GridSearchCV over
`svgdsampler__target__prior_scale` in {", ".join(map(str, PRIOR_SCALES))} with {FOLDS} folds, by the
log loss or the log predictive density.

breast_cancer:

{pipeline_table(pipelines["breast_cancer"], classification)}

diabetes:

{pipeline_table(pipelines["diabetes"], regression)}"""


def main() -> None:
    """Run all parts and write the tables."""
    options = parse_options(__doc__ or "")
    if options.data is None:
        raise SystemExit("Pass --data the folder that holds posteriordb/.")
    posteriors = load_posteriors(options.data)[: 1 if options.quick else None]
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        rows += classification_rows(seed) + regression_rows(seed)
    print("pipelines", flush=True)
    for d in DIMENSIONS[:2] if options.quick else DIMENSIONS:
        for n in SIZES:
            for correlated in (False, True):
                rows += gaussian_rows(d, n, correlated, options)
        print("Gaussians", d, flush=True)
    for posterior in posteriors:
        rows += posterior_rows(posterior, options)
        print(posterior.name, flush=True)
    raw = pd.DataFrame(rows)
    write_results(options.out, "svgd_posteriors", raw, report(raw, posteriors, options))


if __name__ == "__main__":
    main()
