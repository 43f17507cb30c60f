"""Bayesian neural networks on four regressions of the UCI repository, beside their peers.

One hidden layer of 50 units, 100 networks, batches of 100 rows, on the first of the 20 standard
splits. The number of steps, of two, and a factor on the noise are chosen on 15% of the training
rows, by networks that do not see these; then all training rows are fitted. No test row is looked
at. Written to uci.md and uci.csv. Needs --data, the folder that holds uci/.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import Options, conditions, markdown, mean_and_range, parse_options, write_results
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from skwgf import GWGSampler, SVGDSampler
from skwgf.flows import Cooling, ParticleCarrier, Velocity, run_flow
from skwgf.flows.steppers import Adam
from skwgf.kernels import Gaussian
from skwgf.targets import NeuralNetworkPosterior

# MC dropout, its dropout and precision grid-searched: RMSE and log likelihood of a test row.
ANCHORS = {
    "bostonHousing": (2.90, -2.40),
    "concrete": (4.82, -2.93),
    "energy": (0.54, -1.21),
    "yacht": (0.67, -1.25),
}
N_NETWORKS, BATCH, STEP = 100, 100, 0.01
STEPS = (600, 3000)
# The noise that fits the training rows is too small, never too large.
FACTORS = np.exp(np.linspace(0.0, math.log(8), 50))
DEVELOPMENT = 0.15
# Splits of the default; the others take fewer.
N_SPLITS, N_SPLITS_PEERS = 3, 1


@dataclass(frozen=True)
class Split:
    """Rows to learn from and to predict, features standardised by the former."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray

    @classmethod
    def load(cls, data: Path, name: str, k: int) -> Split:
        """Return the k-th standard split of a data set."""
        file = data / "uci" / f"{name}.npz"
        if not file.exists():
            raise SystemExit(f"{file} is missing: pass --data the folder that holds uci/.")
        with np.load(file) as stored:
            X, y, test = stored["X"], stored["y"].ravel(), stored[f"test_{k}"].astype(int)
        train = np.setdiff1d(np.arange(len(X)), test)
        return cls.scaled(X[train], y[train], X[test], y[test])

    @classmethod
    def scaled(cls, X: np.ndarray, y: np.ndarray, X_test: np.ndarray, y_test: np.ndarray) -> Split:
        """Return a split with standardised features."""
        scaler = StandardScaler().fit(X)
        parts = (scaler.transform(X), y, scaler.transform(X_test), y_test)
        return cls(*(part.astype(np.float32) for part in parts))

    def development(self, k: int) -> Split:
        """Return the training rows, some of them as test rows."""
        X, X_dev, y, y_dev = train_test_split(self.X, self.y, test_size=DEVELOPMENT, random_state=k)
        return Split.scaled(X, y, X_dev, y_dev)


@dataclass(frozen=True)
class Prediction:
    """Normal laws of the networks, (networks, rows)."""

    mean: np.ndarray
    sd: np.ndarray

    def rmse(self, y: np.ndarray) -> float:
        """Return the error of the mean over the networks."""
        return float(np.sqrt(np.mean((self.mean.mean(0) - y) ** 2)))

    def log_likelihood(self, y: np.ndarray, factor: float) -> float:
        """Return the mean log density of the mixture, its noise multiplied by a factor."""
        sd = factor * self.sd
        logs = -0.5 * ((y - self.mean) / sd) ** 2 - np.log(sd * math.sqrt(2 * math.pi))
        return float((np.logaddexp.reduce(logs, 0) - math.log(len(logs))).mean())


Fit = Callable[[Split, int, int], tuple[NeuralNetworkPosterior, Tensor]]


def sampler_fit(make: Callable[..., Any], **options: Any) -> Fit:
    """Return a fit by one of the samplers."""

    def fit(split: Split, n_steps: int, seed: int) -> tuple[NeuralNetworkPosterior, Tensor]:
        sampler = make(
            NeuralNetworkPosterior(),
            n_particles=N_NETWORKS,
            batch_size=BATCH,
            max_iter=n_steps,
            step_size=STEP,
            random_state=seed,
            **options,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # noisy flows run to their end
            sampler.fit(split.X, split.y)
        return sampler.target_, sampler.target_.unconstrain(torch.as_tensor(sampler.particles_))

    return fit


def ensemble_fit(split: Split, n_steps: int, seed: int) -> tuple[NeuralNetworkPosterior, Tensor]:
    """Fit a deep ensemble: each network climbs the same posterior on its own."""
    target = NeuralNetworkPosterior().fit(split.X, split.y)
    generator = torch.Generator().manual_seed(seed)

    def field(z: Tensor, side: Tensor | None = None) -> Velocity:
        rows = torch.randperm(len(split.X), generator=generator)[:BATCH]
        return Velocity(target.grad_log_prob(z, rows), 0.0)

    carrier = ParticleCarrier(
        target.draw_start(N_NETWORKS, generator),
        field,
        step_size=STEP,
        stepper=Cooling(Adam(), n_steps),
    )
    run_flow(carrier, max_iter=n_steps)
    return target, carrier.particles


METHODS: dict[str, Fit] = {
    "GWG": sampler_fit(GWGSampler),
    "GWG, adaptive p": sampler_fit(GWGSampler, exponent_rule="dissipation", coordinates="raw"),
    "SVGD": sampler_fit(SVGDSampler, kernel=Gaussian("median"), optimizer="adam"),
    "deep ensemble": ensemble_fit,
}


def predict(fitted: tuple[NeuralNetworkPosterior, Tensor], X: np.ndarray) -> Prediction:
    """Return what each network says of rows."""
    target, z = fitted
    with torch.no_grad():
        found = target.predictive(z, torch.as_tensor(X))
    return Prediction(found.mean.double().numpy(), found.sd.double().numpy())


def evaluate(fit: Fit, split: Split, k: int, steps: tuple[int, ...]) -> dict[str, Any]:
    """Return the figures of a method on a split."""
    began = time.process_time()
    development = split.development(k)
    best = (-math.inf, steps[0], 1.0)
    for n_steps in steps:
        shown = predict(fit(development, n_steps, k), development.X_test)
        likelihoods = [shown.log_likelihood(development.y_test, float(c)) for c in FACTORS]
        top = int(np.argmax(likelihoods))
        best = max(best, (likelihoods[top], n_steps, float(FACTORS[top])))
    _, n_steps, factor = best
    shown = predict(fit(split, n_steps, k), split.X_test)
    return {
        "rmse": shown.rmse(split.y_test),
        "log_likelihood": shown.log_likelihood(split.y_test, factor),
        "raw_log_likelihood": shown.log_likelihood(split.y_test, 1.0),
        "steps": n_steps,
        "factor": factor,
        "seconds": time.process_time() - began,
    }


def _groups(part: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of each method, and those of the default on the splits of the others."""
    found = [(str(method), group) for method, group in part.groupby("method", sort=False)]
    few = part[(part["method"] == "GWG") & (part["split"] < N_SPLITS_PEERS)]
    return [*found, ("GWG, on the splits of the others", few)]


def report(raw: pd.DataFrame, options: Options) -> str:
    """Return the tables in Markdown."""
    lines = [
        "# Bayesian neural networks on UCI splits",
        "",
        conditions(options),
        "",
        f"{N_NETWORKS} networks of one hidden layer of 50 units, batches of {BATCH} rows. The",
        f"number of steps, of {STEPS}, and a factor on the noise were chosen on 15% of the",
        "training rows; then all were fitted. A cell is the mean [least, greatest] over splits;",
        "the raw log likelihood is that without the factor. Seconds are of all three fits. MC",
        "dropout is the published figure over all 20 splits, with a grid search of its own.",
    ]
    for name, part in raw.groupby("data", sort=False):
        rmse, likelihood = ANCHORS[str(name)]
        rows = [
            {
                "method": method,
                "splits": len(group),
                "RMSE": mean_and_range(group["rmse"], 3),
                "log likelihood": mean_and_range(group["log_likelihood"], 3),
                "raw": mean_and_range(group["raw_log_likelihood"], 2),
                "noise factor": mean_and_range(group["factor"], 2),
                "steps": mean_and_range(group["steps"], 0),
                "processor s": mean_and_range(group["seconds"], 0),
            }
            for method, group in _groups(part)
        ]
        anchor = {"method": "MC dropout", "splits": 20, "RMSE": rmse, "log likelihood": likelihood}
        lines += ["", f"## {name}", "", markdown(pd.DataFrame([*rows, anchor]).fillna(""))]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fit all methods on all data sets."""
    options = parse_options(__doc__)
    if options.data is None:
        raise SystemExit("Pass --data, the folder that holds uci/.")
    steps = (20,) if options.quick else STEPS
    rows = []
    for name in ANCHORS:
        for method, fit in METHODS.items():
            n_splits = 1 if options.quick else N_SPLITS if method == "GWG" else N_SPLITS_PEERS
            for k in range(n_splits):
                split = Split.load(options.data, name, k)
                found = evaluate(fit, split, k, steps)
                rows.append({"data": name, "method": method, "split": k} | found)
                print(rows[-1], flush=True)
        write_results(options.out, "uci", pd.DataFrame(rows), report(pd.DataFrame(rows), options))


if __name__ == "__main__":
    main()
