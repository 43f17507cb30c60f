"""Pairs of domains for the domain-shift benchmark, and the adapters of skada on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

with sklearn.config_context():  # skada switches metadata routing on: not for the whole script
    from skada import (
        ClassRegularizerOTMappingAdapter,
        CORALAdapter,
        EntropicOTMappingAdapter,
        LinearOTMappingAdapter,
        OTMappingAdapter,
    )
    from skada.datasets import make_shifted_datasets

# 400 rows of the source, 400 of the target to fit to and 400 to score on.
ROWS_PER_CLUSTER = 50
SKADA_SHIFTS = ("covariate_shift", "target_shift", "conditional_shift", "subspace")
# Every column of the second laboratory is multiplied by exp(GAIN z) and moved by OFFSET z' of its
# standard deviations, z and z' normal.
GAIN, OFFSET = 0.3, 0.5
KEPT = 0.2  # share of the rows of class 0 that an unequal second laboratory keeps
# The default of reg_e is 1 for costs as they are. Smaller ones take half a minute a fit.
ENTROPIC_GRID = ((10.0, None), (0.05, "max"), (0.1, "max"))
CLASS_GRID = ((0.1, 0.1), (0.1, 1.0), (1.0, 1.0))
SHRINKAGES = ("auto", None, 0.1, 0.5)


@dataclass(frozen=True)
class Domains:
    """Rows of a source, rows of a target to fit to, and rows of the target to score on."""

    X_source: np.ndarray
    y_source: np.ndarray
    X_target: np.ndarray
    y_target: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray

    @classmethod
    def of(
        cls, source: tuple[np.ndarray, ...], target: tuple[np.ndarray, ...], seed: int
    ) -> Domains:
        """Split the rows of the target in two halves, with equal shares of the classes."""
        X, X_test, y, y_test = train_test_split(
            *target, test_size=0.5, stratify=target[1], random_state=seed
        )
        return cls(*source, X, y, X_test, y_test)

    def stacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all rows of a fit, labels without those of the target, and the domains."""
        unknown = np.full(len(self.X_target), -1)
        domain = np.repeat([1, -1], [len(self.X_source), len(self.X_target)])
        X = np.concatenate([self.X_source, self.X_target])
        return X, np.concatenate([self.y_source, unknown]), domain


def simulated(shift: str, label: str, seed: int) -> Domains:
    """Return a simulated shift of skada in the plane."""
    X, y, domain = make_shifted_datasets(
        ROWS_PER_CLUSTER, 2 * ROWS_PER_CLUSTER, shift=shift, label=label, random_state=seed
    )
    y = y.astype(int)
    source, target = domain > 0, domain < 0
    return Domains.of((X[source], y[source]), (X[target], y[target]), seed)


def laboratories(
    load: Callable[..., Any], seed: int, *, batch: bool = True, unequal: bool = False
) -> Domains:
    """Return the rows of a real table as measured by two laboratories, 2 in 5 by the first.

    Columns have the units of their standard deviation in the first one.
    """
    rng = np.random.default_rng(seed)
    X, y = load(return_X_y=True)
    first, second, y_first, y_second = train_test_split(
        X, y, test_size=0.6, stratify=y, random_state=seed
    )
    scaler = StandardScaler().fit(first)
    first, second = scaler.transform(first), scaler.transform(second)
    if unequal:
        keep = (y_second != 0) | (rng.random(len(y_second)) < KEPT)
        second, y_second = second[keep], y_second[keep]
    if batch:
        gains, offsets = rng.normal(size=(2, X.shape[1]))
        second = second * np.exp(GAIN * gains) + OFFSET * offsets
    return Domains.of((first, y_first), (second, y_second), seed)


def cases() -> dict[str, Callable[[int], Domains]]:
    """Return all pairs of domains by name, as functions of the seed."""
    found: dict[str, Callable[[int], Domains]] = {}
    for shift, label in itertools.product(SKADA_SHIFTS, ("binary", "multiclass")):
        found[f"{shift.replace('_', ' ')}, {label}"] = lambda seed, shift=shift, label=label: (
            simulated(shift, label, seed)
        )
    tables = {"breast cancer": load_breast_cancer, "wine": load_wine}
    kinds = {
        "batch effect": {},
        "batch effect and class proportions": {"unequal": True},
        "class proportions": {"unequal": True, "batch": False},
    }
    for (table, load), (kind, options) in itertools.product(tables.items(), kinds.items()):
        if table == "wine" and kind == "class proportions":
            continue  # a dozen rows of class 0 would be left
        found[f"{table}, {kind}"] = lambda seed, load=load, options=options: laboratories(
            load, seed, **options
        )
    return found


class EachStandardised(TransformerMixin, BaseEstimator):
    """Adapter that standardises the columns of each domain by itself."""

    def fit(self, X: np.ndarray, y: Any = None, *, sample_domain: np.ndarray) -> EachStandardised:
        """Learn the means and spreads of both domains."""
        self.source_ = StandardScaler().fit(X[sample_domain >= 0])
        self.target_ = StandardScaler().fit(X[sample_domain < 0])
        return self

    def fit_transform(
        self, X: np.ndarray, y: Any = None, *, sample_domain: np.ndarray
    ) -> np.ndarray:
        """Learn, and standardise rows."""
        return self.fit(X, y, sample_domain=sample_domain).transform(X, sample_domain=sample_domain)

    def transform(self, X: np.ndarray, *, sample_domain: np.ndarray) -> np.ndarray:
        """Standardise rows of either domain."""
        source = sample_domain >= 0
        moved = X.astype(float)
        for rows, scaler in ((source, self.source_), (~source, self.target_)):
            if rows.any():
                moved[rows] = scaler.transform(moved[rows])
        return moved


def peers() -> Iterator[tuple[str, str, Any]]:
    """Yield name, setting and unfitted adapter; the first setting of a name is the default."""
    yield "each domain standardised", "", EachStandardised()
    yield "OTMapping", "", OTMappingAdapter()
    yield "EntropicOTMapping", "default", EntropicOTMappingAdapter()
    for reg, norm in ENTROPIC_GRID:
        adapter = EntropicOTMappingAdapter(reg_e=reg, norm=norm)
        yield "EntropicOTMapping", f"reg_e={reg:g}, norm={norm}", adapter
    yield "ClassRegularizerOTMapping", "default", ClassRegularizerOTMappingAdapter()
    for reg, group in CLASS_GRID:
        adapter = ClassRegularizerOTMappingAdapter(reg_e=reg, reg_cl=group)
        yield "ClassRegularizerOTMapping", f"reg_e={reg:g}, reg_cl={group:g}", adapter
    yield "LinearOTMapping", "default", LinearOTMappingAdapter()
    for shrinkage in (1e-3, 1e-1):
        yield "LinearOTMapping", f"reg={shrinkage:g}", LinearOTMappingAdapter(reg=shrinkage)
    for shrinkage in SHRINKAGES:
        setting = "default" if shrinkage == "auto" else f"reg={shrinkage}"
        yield "CORAL", setting, CORALAdapter(reg=shrinkage)
