"""A callback that follows some points of a flow."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Recorder:
    """A callback of scikit-learn that keeps where some points are at some of the steps."""

    def __init__(self, *, n_paths: int, n_steps: int, seed: int, y_source: Any) -> None:
        self.n_paths = n_paths
        self.n_steps = n_steps
        self.rng = np.random.default_rng(seed)
        self.y_source = y_source
        self.stride = 1
        self.index: NDArray[np.int64] | None = None
        self.latents: tuple[NDArray[Any], NDArray[Any] | None] | None = None
        self.found: list[tuple[int, NDArray[np.float64]]] = []
        self.last: tuple[int, NDArray[np.float64]] | None = None

    def setup(self, estimator: Any, context: Any) -> None:
        """Do nothing before the fit."""

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing after it."""

    def on_fit_task_begin(
        self, estimator: Any, context: Any, *, fitted_estimator: Any = None
    ) -> None:
        """Keep the start."""
        if fitted_estimator is not None:
            self._record(0, fitted_estimator)

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, fitted_estimator: Any = None
    ) -> None:
        """Keep the positions after a step."""
        if context.task_name == "iteration":
            self._record(context.task_id + 1, fitted_estimator)

    def kept(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return positions of shape (steps, paths, columns), and the numbers of the steps."""
        found = list(self.found)
        if self.last is not None and found[-1][0] != self.last[0]:
            found.append(self.last)
        chosen = np.linspace(0, len(found) - 1, min(self.n_steps + 1, len(found)))
        chosen = np.unique(chosen.round().astype(int))
        return (
            np.stack([found[k][1] for k in chosen]),
            np.array([found[k][0] for k in chosen]),
        )

    def _record(self, step: int, fitted: Any) -> None:
        """Keep the positions at every so many steps, fewer as the fit goes on, and the last."""
        self.last = (step, self._positions(fitted))
        if step % self.stride == 0:
            self.found.append(self.last)
        if len(self.found) > 2 * self.n_steps + 2:
            self.stride *= 2
            self.found = [(k, x) for k, x in self.found if k % self.stride == 0]

    def _positions(self, fitted: Any) -> NDArray[np.float64]:
        """Return where the points are."""
        if hasattr(fitted, "particles_"):
            if self.index is None:
                self.index = self._choose(len(fitted.particles_))
            positions: NDArray[np.float64] = fitted.particles_[self.index].astype(np.float64)
            return positions
        if self.latents is None:
            self.latents = self._draw_latents(fitted)
        latents, y = self.latents
        with warnings.catch_warnings():
            # Latents have no column names, also where the rows have.
            warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
            images = fitted.transform(latents) if y is None else fitted.transform(latents, y)
        return np.array(images, dtype=np.float64)

    def _choose(self, n: int) -> NDArray[np.int64]:
        """Return the indices of the points to follow."""
        return np.sort(self.rng.choice(n, min(n, self.n_paths), replace=False))

    def _draw_latents(self, fitted: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Return source rows, or points of N(0, I), and the classes a conditional map reads."""
        conditional = getattr(fitted, "classes_", None) is not None
        if fitted.X_source_ is not None:
            index = self._choose(len(fitted.X_source_))
            y = np.asarray(self.y_source)[index] if conditional else None
            return fitted.X_source_[index], y
        latents = self.rng.normal(size=(self.n_paths, fitted.n_features_in_))
        if not conditional:
            return latents, None
        return latents, self.rng.choice(fitted.classes_, self.n_paths, p=fitted.class_share_)
