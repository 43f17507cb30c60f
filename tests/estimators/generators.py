"""The generators in their kinds, small enough to be fitted many times, and rows to fit them to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skwgf import SinkhornFlowGenerator, W2FlowGenerator

NOT_CONVERGED = (
    "ignore:(W2|Sinkhorn)FlowGenerator did not converge:sklearn.exceptions.ConvergenceWarning"
)
TINY = {"hidden_layer_sizes": (16, 16), "batch_size": 128, "max_iter": 5, "random_state": 0}
# A flow of three steps, with few particles.
SHORT: dict[type, dict[str, Any]] = {SinkhornFlowGenerator: {"reg": 0.2, "batch_size": 64}}
SMALL = {"hidden_layer_sizes": (32, 32), "batch_size": 256, "max_iter": 60, "random_state": 0}


class Kind:
    """A generator with the options that make its kind; calling it makes a tiny instance."""

    def __init__(self, generator: type, **options: Any) -> None:
        self.generator = generator
        self.options = SHORT.get(generator, {}) | options
        # Whether the flow is that of the network's own law, step by step.
        self.loops = "potential" in options or "persistence" in options

    def __call__(self, **options: Any) -> Any:
        return self.generator(**{**TINY, **self.options, **options})

    @property
    def name(self) -> str:
        return self.generator.__name__


def _kinds(generator: type, prefix: str, kinds: dict[str, dict[str, Any]]) -> list[Any]:
    return [pytest.param(Kind(generator, **kinds[k]), id=f"{prefix} {k}") for k in kinds]


W2 = _kinds(
    W2FlowGenerator,
    "w2",
    {
        "full": {},
        "int": {"persistence": 2},
        "auto": {"persistence": "auto"},
        "minibatch": {"potential": "minibatch"},
        "network": {"potential": "network"},
    },
)
SINKHORN = _kinds(
    SinkhornFlowGenerator,
    "sinkhorn",
    {
        "full": {},
        "int": {"persistence": 2},
        "auto": {"persistence": "auto"},
        "kl": {"velocity": "kl"},
        "mmd, int": {"velocity": "mmd", "persistence": 2},
    },
)
# One of each generator, a few that train in different ways, and all.
PLAIN = [W2[0], SINKHORN[0]]
FEW = [W2[0], W2[1], W2[3], SINKHORN[0], SINKHORN[1]]
KINDS = [*W2, *SINKHORN]


def rows(n: int = 200, d: int = 2, seed: int = 0) -> np.ndarray:
    """Return rows that float32 represents exactly."""
    draws = np.random.default_rng(seed).normal(loc=1.0, scale=2.0, size=(n, d))
    return np.round(64 * draws) / 64


class Recorder:
    """A callback that counts, and stops or interrupts after some iterations."""

    def __init__(self, *, stop_at: int | None = None, interrupt_at: int | None = None) -> None:
        self.stop_at, self.interrupt_at = stop_at, interrupt_at
        self.events: list[str] = []
        self.scores: list[float] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self.events.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, fitted_estimator: Any = None
    ) -> bool:
        self.events.append(f"end {context.task_name}")
        self.scores.append(fitted_estimator.score(X))
        done = self.events.count("end iteration")
        if context.task_name == "iteration" and done == self.interrupt_at:
            raise KeyboardInterrupt
        return context.task_name == "iteration" and done == self.stop_at
