"""Toy laws made of Gaussian modes: rows, figures of a sampler on them, and the table of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from _common import Column, comparison, timed
from _peers import Sampler

from skwgf.datasets import GaussianMixtureSpec, ring_of_gaussians, six_plus_two
from skwgf.metrics import ModeCoverage, mode_coverage, two_sample_accuracy, wasserstein_distance

N_TRAIN, N_SHAPE, N_TIMED, N_FLOOR = 4000, 20_000, 10_000, 10
# A single call of a few milliseconds is at the mercy of the machine: the median of so many is told.
TIMED_CALLS = 5
# Seeds of everything that is not the fit: no two draws share one.
REFERENCE_SEED, FLOOR_SEED, FRESH_SEED, DRAW_SEED, VALIDATION_SEED = (
    10_000,
    20_000,
    30_000,
    40_000,
    50_000,
)
TRUTH = "draws of the law itself"

COLUMNS = {
    "fit_seconds": Column("fit, s", 1),
    "fit_processor_seconds": Column("fit, processor s", 1),
    "sample_processor_seconds": Column(f"{N_TIMED} samples, processor s", 3),
    "passes": Column("network passes a sample", 0),
    "time_ratio": Column("sampling time, times the first row's", 1),
    "w1": Column("W1", 3, 0.0),
    "w2": Column("W2", 3, 0.0),
    "mass_tv": Column("mode-mass TV", 3, 0.0),
    "off_mode": Column("off-mode share", 4, 0.0),
    "eigenvalue_min": Column("least eigenvalue ratio", 2, 1.0),
    "eigenvalue_max": Column("greatest eigenvalue ratio", 2, 1.0),
    "trace_median": Column("median trace ratio", 2, 1.0),
    "rare_mass": Column("rare mass over that of the rows", 2, 1.0),
    "two_sample": Column("two-sample 1-NN", 3, 0.5),
}
COST = (
    "fit_seconds",
    "fit_processor_seconds",
    "sample_processor_seconds",
    "passes",
    "time_ratio",
    "w1",
    "w2",
)


@dataclass(frozen=True)
class Law:
    """A mixture of isotropic Gaussian modes of one scale; `rare` numbers its light modes."""

    name: str
    spec: GaussianMixtureSpec
    rare: tuple[int, ...] = ()

    def rows(self, n: int, seed: int, *, stratified: bool = False) -> np.ndarray:
        """Return rows of the law: independent ones, or a stratified reference."""
        draw = self.spec.stratified if stratified else self.spec.sample
        return draw(n, random_state=seed)[0]

    def coverage(self, X: np.ndarray) -> ModeCoverage:
        """Return how rows are spread over the modes."""
        return mode_coverage(X, self.spec.centers, self.spec.scale)


RING = Law("Ring of 8", ring_of_gaussians(8, radius=2.0, scale=0.1))
SIX_PLUS_TWO = Law("Six plus two", six_plus_two(), rare=(6, 7))


def mass_distance(found: ModeCoverage, trained: ModeCoverage) -> float:
    """Return the total variation between shares of the modes and of "no mode"."""
    gap = np.abs(found.mass - trained.mass).sum() + abs(found.off_mode - trained.off_mode)
    return 0.5 * float(gap)


def mass_noise(trained: ModeCoverage) -> float:
    """Return the mean total variation of as many draws that have the masses of the rows."""
    shares = np.append(trained.mass, trained.off_mode)
    counts = np.random.default_rng(DRAW_SEED).multinomial(N_SHAPE, shares, size=200)
    return float(0.5 * np.abs(counts / N_SHAPE - shares).sum(axis=1).mean())


def figures(
    sampler: Sampler,
    X: np.ndarray,
    reference: np.ndarray,
    seed: int,
    law: Law,
    *,
    to_rows: bool = False,
) -> dict[str, float]:
    """Return the figures of a fitted sampler; X are the rows that it was fitted to.

    Covariances of the modes are compared with the true ones, or, if `to_rows`, with those of X.
    """
    seconds = [timed(sampler.draw, N_TIMED, DRAW_SEED)[2] for _ in range(TIMED_CALLS)]
    Z = sampler.draw(N_SHAPE, DRAW_SEED + seed)
    found, trained = law.coverage(Z), law.coverage(X)
    spectra, traces = found.eigenvalue_ratios, found.trace_ratios
    if to_rows:
        spectra, traces = spectra / trained.eigenvalue_ratios, traces / trained.trace_ratios
    ratios = spectra[np.isfinite(spectra)]
    few = Z[: len(reference)]
    row = {
        "sample_processor_seconds": float(np.median(seconds)),
        "passes": sampler.passes,
        "w1": wasserstein_distance(few, reference, p=1),
        "w2": wasserstein_distance(few, reference, p=2),
        "mass_tv": mass_distance(found, trained),
        "off_mode": found.off_mode,
        "eigenvalue_min": ratios.min(initial=np.inf),
        "eigenvalue_max": ratios.max(initial=-np.inf),
        "trace_median": np.median(traces),
        "two_sample": two_sample_accuracy(Z[:N_TRAIN], law.rows(N_TRAIN, FRESH_SEED + seed)),
    }
    if law.rare:
        rare = list(law.rare)
        row["rare_mass"] = float(found.mass[rare].sum() / trained.mass[rare].sum())
    return row


def distance_floor(law: Law, reference: np.ndarray, n_draws: int) -> pd.DataFrame:
    """Return W1 and W2 of independent samples of the law to the reference, a row for each."""
    draws = [law.rows(len(reference), FLOOR_SEED + i) for i in range(n_draws)]
    return pd.DataFrame(
        {f"w{p}": [wasserstein_distance(Z, reference, p=p) for Z in draws] for p in (1, 2)}
    )


def truth(law: Law) -> Sampler:
    """Return the sampler that draws from the law itself."""
    return Sampler(lambda n, seed: law.rows(n, FLOOR_SEED + 1000 + seed), passes=0)


def table(raw: pd.DataFrame, names: Sequence[str]) -> str:
    """Return some columns as Markdown, best in bold."""
    return comparison(raw, {name: COLUMNS[name] for name in names}, apart=(TRUTH,))
