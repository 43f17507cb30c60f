"""A small fit of every kind of estimator, and what to compare of two that should be equal."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.preprocessing import StandardScaler

from skwgf import (
    DomainAdapter,
    GWGSampler,
    SinkhornFlowGenerator,
    SVGDSampler,
    W2FlowGenerator,
    WSFNOptimizer,
    functionals,
    kernels,
    targets,
)
from skwgf.estimators.mean_field import MeanFieldClassifier, MeanFieldRegressor

_rng = np.random.default_rng(0)
X = _rng.normal(size=(60, 2))
LABELS = np.where(X[:, 0] + 0.3 * _rng.normal(size=60) > 0, "right", "left")
NUMBERS = X @ [2.0, -1.0] + 0.1 * _rng.normal(size=60)
FRAME = pd.DataFrame(X, columns=["width", "height"])


def bell(x):
    return -0.5 * x.square().sum(1)


def numpy_bell(x):
    return -0.5 * (x**2).sum(1)


def numpy_bell_slope(x):
    return -x


def gap(z, rows):
    return (z.mean(0) - rows.mean(0)).square().sum() + 0.1 * z.square().mean()


def springs(u):
    return u / 2


class Well:
    """A callable object, which cloning copies, unlike a function."""

    def __call__(self, x):
        return x.square().sum(1)


@dataclass
class Case:
    """An estimator, how it is fitted, and what has to be handed back at load."""

    make: Callable[[], BaseEstimator]
    X: Any = field(default_factory=lambda: X)
    y: Any = None
    more: dict[str, Any] = field(default_factory=dict)
    hand_back: dict[str, Any] = field(default_factory=dict)

    def fit(self, estimator: BaseEstimator | None = None) -> BaseEstimator:
        estimator = self.make() if estimator is None else estimator
        with warnings.catch_warnings(action="ignore"):
            return estimator.fit(self.X, self.y, **self.more)


def _small(cls, *args, **params):
    return lambda: cls(*args, max_iter=3, random_state=0, **params)


_NET = {"hidden_layer_sizes": (8, 8), "batch_size": 32}
CASES = {
    "w2": Case(_small(W2FlowGenerator, **_NET)),
    "w2 frame float32": Case(_small(W2FlowGenerator, dtype=np.float32, **_NET), X=FRAME),
    "w2 source": Case(
        _small(W2FlowGenerator, "minibatch", activation="silu", **_NET),
        more={"X_source": X + 1, "y_source": LABELS},
    ),
    "w2 features": Case(
        _small(W2FlowGenerator, feature_map=StandardScaler(), **_NET),
        more={"X_source": X + 1},
        hand_back={"feature_map": StandardScaler()},
    ),
    "sinkhorn": Case(_small(SinkhornFlowGenerator, activation="elu", **_NET)),
    "sinkhorn conditional": Case(
        _small(SinkhornFlowGenerator, conditional=True, persistence=2, **_NET), y=LABELS
    ),
    "sinkhorn source": Case(
        _small(SinkhornFlowGenerator, activation="tanh", **_NET),
        more={"X_source": X + 1, "y_source": LABELS},
    ),
    "sinkhorn features": Case(
        _small(SinkhornFlowGenerator, feature_map=StandardScaler(), **_NET),
        hand_back={"feature_map": StandardScaler()},
    ),
    "adapter": Case(
        lambda: DomainAdapter(_small(W2FlowGenerator, **_NET)()),
        y=LABELS,
        more={"sample_domain": np.where(np.arange(60) % 2, 1, -1)},
    ),
    "adapter features": Case(
        lambda: DomainAdapter(_small(W2FlowGenerator, feature_map=torch.sin, **_NET)()),
        y=LABELS,
        more={"sample_domain": np.where(np.arange(60) % 2, 1, -1)},
        hand_back={"flow__feature_map": torch.sin},
    ),
    "adapter default": Case(DomainAdapter, more={"sample_domain": None}),
    "svgd data": Case(_small(SVGDSampler)),
    "svgd log density": Case(
        _small(SVGDSampler, targets.LogDensity(bell), kernel=kernels.InverseMultiquadric("scale")),
        hand_back={"target": targets.LogDensity(bell)},
    ),
    "svgd numpy": Case(
        _small(SVGDSampler, targets.LogDensity(numpy_bell, 2, grad=numpy_bell_slope)),
        hand_back={"target__fn": numpy_bell, "target__grad": numpy_bell_slope},
    ),
    "svgd support": Case(
        _small(
            SVGDSampler, targets.LogDensity(bell, support=("positive", ("interval", 1, 0.0, 9.0)))
        ),
        X=np.abs(X) + 0.1,
        hand_back={"target": bell},
    ),
    "svgd torus": Case(
        _small(SVGDSampler, targets.LogDensity(bell, support="torus")),
        hand_back={"target": targets.LogDensity(bell)},
    ),
    "svgd mixture": Case(
        _small(SVGDSampler, targets.GaussianMixture(), optimizer="adam", kernel=kernels.Matern())
    ),
    "svgd banana": Case(_small(SVGDSampler, targets.Banana())),
    "svgd funnel": Case(_small(SVGDSampler, targets.Funnel())),
    "svgd monomial": Case(_small(SVGDSampler, targets.MonomialGamma())),
    "svgd ring": Case(_small(SVGDSampler, targets.Ring())),
    "svgd linear": Case(
        _small(SVGDSampler, targets.LinearRegressionPosterior(), n_particles=20), y=NUMBERS
    ),
    "svgd logistic": Case(
        _small(SVGDSampler, targets.LogisticRegressionPosterior(), n_particles=20), y=LABELS
    ),
    "svgd network": Case(
        _small(SVGDSampler, targets.NeuralNetworkPosterior((3,)), n_particles=20), y=NUMBERS
    ),
    "svgd network classes": Case(
        _small(
            SVGDSampler,
            targets.NeuralNetworkPosterior((3,), task="classification"),
            n_particles=20,
            batch_size=10,
            n_restarts=2,
        ),
        y=LABELS,
    ),
    "gwg": Case(_small(GWGSampler, targets.Gaussian())),
    "gwg log density": Case(
        _small(GWGSampler, targets.LogDensity(bell), parametrization="direct", regularizer="huber"),
        hand_back={"target": targets.LogDensity(bell)},
    ),
    "gwg density": Case(
        _small(GWGSampler, targets.Gaussian(), track_density=True, exponent_rule="dissipation")
    ),
    "gwg raw density": Case(
        _small(
            GWGSampler,
            targets.Gaussian(),
            track_density=True,
            coordinates="raw",
            last_layer="trained",
        )
    ),
    "gwg logistic": Case(
        _small(
            GWGSampler,
            targets.LogisticRegressionPosterior(),
            n_particles=20,
            regularizer="quadratic",
        ),
        y=LABELS,
    ),
    "wsfn": Case(_small(WSFNOptimizer, n_particles=8)),
    "wsfn function": Case(_small(WSFNOptimizer, gap, n_particles=8), hand_back={"functional": gap}),
    "wsfn well": Case(
        _small(WSFNOptimizer, functionals.PotentialEnergy(Well())),
        hand_back={"functional__V": Well()},
    ),
    "wsfn interaction": Case(
        _small(
            WSFNOptimizer,
            functionals.InteractionEnergy(springs) + functionals.PotentialEnergy(bell) * -1.0,
        ),
        hand_back={"functional__left__W": springs, "functional__right__functional__V": bell},
    ),
    "wsfn kernels": Case(
        _small(
            WSFNOptimizer,
            functionals.MMD(kernels.Gaussian() + 0.5 * kernels.Matern())
            + functionals.SmoothedEntropy(),
        ),
    ),
    "wsfn ksd": Case(
        _small(WSFNOptimizer, functionals.KSD(targets.LogDensity(bell))),
        X=X[:10],
        hand_back={"functional__target__fn": bell},
    ),
    "wsfn energy": Case(_small(WSFNOptimizer, functionals.EnergyDistance(), n_particles=8)),
    "wsfn sinkhorn": Case(_small(WSFNOptimizer, functionals.SinkhornDivergence(), n_particles=8)),
    "wsfn moment": Case(_small(WSFNOptimizer, functionals.SecondMoment())),
    "wsfn cosine": Case(_small(WSFNOptimizer, functionals.VarianceCosine())),
    "wsfn risk": Case(_small(WSFNOptimizer, functionals.MeanFieldRisk(), n_particles=8), y=NUMBERS),
    "wsfn labels": Case(
        _small(WSFNOptimizer, functionals.MeanFieldRisk(loss="logistic"), n_particles=8), y=LABELS
    ),
    "neurons numbers": Case(_small(MeanFieldRegressor, n_particles=8, alpha=0.1), y=NUMBERS),
    "neurons labels": Case(
        _small(MeanFieldClassifier, n_particles=8, alpha=0.1), X=FRAME, y=LABELS
    ),
}


def answers(estimator: BaseEstimator, case: Case) -> dict[str, Any]:
    """Return all that a user may ask of a fitted estimator."""
    calls = {
        "sample": lambda: estimator.sample(7, random_state=1),
        "score": lambda: estimator.score(case.X, case.y),
        "predict": lambda: estimator.predict(case.X),
        "predict_proba": lambda: estimator.predict_proba(case.X),
        "predict_log_proba": lambda: estimator.predict_log_proba(case.X),
        "score_samples": lambda: estimator.score_samples(case.X),
        "ksd": lambda: estimator.ksd(),
        "transform": lambda: (
            estimator.transform(case.X, case.y)
            if getattr(estimator, "classes_", None) is not None
            else estimator.transform(case.X, **case.more)
            if isinstance(estimator, DomainAdapter)
            else estimator.transform(case.X)
        ),
        "get_feature_names_out": lambda: estimator.get_feature_names_out(),
    }
    if getattr(estimator, "track_density", False):
        calls["importance_sample"] = lambda: tuple(
            vars(estimator.importance_sample(30, random_state=0)).values()
        )
    return {name: call() for name, call in calls.items() if hasattr(estimator, name)}


def difference(a: Any, b: Any, path: str = "") -> str:
    """Return where two values differ in content, type or precision, "" where they do not."""
    if type(a) is not type(b):
        return f"{path}: {type(a)} and {type(b)}"
    if isinstance(a, np.ndarray):
        equal = a.dtype == b.dtype and a.shape == b.shape
        nan = a.dtype.kind == "f"
        return "" if equal and np.array_equal(a, b, equal_nan=nan) else f"{path}: {a!r}, {b!r}"
    if isinstance(a, torch.Tensor):
        equal = a.dtype == b.dtype and a.requires_grad == b.requires_grad
        return "" if equal and torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)) else path
    if isinstance(a, float | np.floating):
        return "" if a == b or (np.isnan(a) and np.isnan(b)) else f"{path}: {a!r}, {b!r}"
    if isinstance(a, dict):
        keys = f"{path}: {list(a)} and {list(b)}" if set(a) != set(b) else ""
        return keys or _first(difference(a[k], b[k], f"{path}[{k!r}]") for k in a)
    if isinstance(a, list | tuple):
        size = f"{path}: {len(a)} and {len(b)} items" if len(a) != len(b) else ""
        pairs = enumerate(zip(a, b, strict=False))
        return size or _first(difference(u, v, f"{path}[{k}]") for k, (u, v) in pairs)
    if isinstance(a, torch.device | torch.dtype | np.dtype | str | int | np.generic) or a is None:
        return "" if a == b else f"{path}: {a!r}, {b!r}"
    if isinstance(a, torch.nn.Module):
        parts = ("_parameters", "_buffers", "_modules", "training")
        return _first(difference(getattr(a, k), getattr(b, k), f"{path}.{k}") for k in parts)
    if hasattr(a, "__dict__") and not callable(getattr(a, "__code__", None)):
        return difference(vars(a), vars(b), path) if vars(a) else ""
    return ""


def _first(found):
    return next(filter(None, found), "")
