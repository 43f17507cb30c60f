"""What all estimators share: validation, device, precision, seeds, callbacks, history, warnings.

No mathematics lives here. An estimator validates through :meth:`BaseFlow._validate`, builds a
carrier, hands it to :meth:`BaseFlow._run`, and stores what it learnt.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

from skwgf._tensor import resolve_device, resolve_dtype, tensor_to_array
from skwgf.flows import Carrier, FlowResult, run_flow
from skwgf.flows.loop import History


class BaseFlow(CallbackSupportMixin, BaseEstimator):
    """Base of all estimators: the life around the one loop.

    A subclass declares its parameters, among them the common ones constrained here, and may
    rely on the fitted attributes `n_iter_`, `converged_` and `history_` that :meth:`_run` sets.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "step_size": [Interval(Real, 0, None, closed="neither")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "device": [str, torch.device, None],
        "dtype": [StrOptions({"float32", "float64"}), type, np.dtype, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def _validate(self, X: Any, *, reset: bool, min_samples: int = 2) -> NDArray[Any]:
        """Return X as a finite 2-D float array; tensors, frames and lists are welcome."""
        X: NDArray[Any] = validate_data(
            self,
            tensor_to_array(X),
            dtype=[np.float64, np.float32],
            ensure_min_samples=min_samples,
            reset=reset,
        )
        return X

    def _resolve(self, X: NDArray[Any]) -> tuple[torch.device, torch.dtype]:
        """Return the device and the precision of the computations on X."""
        device = resolve_device(self.device)
        return device, resolve_dtype(self.dtype, X.dtype, device)

    def _run(
        self,
        carrier: Carrier,
        *,
        X: NDArray[Any],
        y: Any,
        fitted: Callable[[], dict[str, Any]],
        remedies: str,
        **options: Any,
    ) -> FlowResult:
        """Run the loop under scikit-learn's callbacks and report how it ended.

        `fitted` returns the attributes that make the estimator usable at the present step;
        `remedies` ends the warning of a run that did not converge; `options` go to
        :func:`skwgf.flows.run_flow`.
        """
        history = dict(self.history_) if self.warm_start and hasattr(self, "history_") else None
        result = run_flow(
            carrier,
            max_iter=self.max_iter,
            monitor=self._monitor(X, y, fitted),
            history={key: list(values) for key, values in history.items()} if history else None,
            **options,
        )
        self.n_iter_ = max(result.n_iter, 1)
        self.converged_ = result.converged
        self.history_ = {key: np.asarray(values) for key, values in result.history.items()}
        self._report(result, remedies)
        return result

    def _monitor(
        self, X: NDArray[Any], y: Any, fitted: Callable[[], dict[str, Any]]
    ) -> Callable[[int, History], bool]:
        """Return the function that the loop calls after every step: verbosity and callbacks."""
        context = self._init_callback_context(max_subtasks=self.max_iter)
        # ScoringMonitor skips tasks without y; scores that do not read y are computed with one.
        data = {"X": X, "y": y if y is not None else lambda: np.zeros(len(X))}
        context.call_on_fit_task_begin(estimator=self, **data)
        has_callbacks = bool(getattr(self, "_skl_callbacks", None))

        def monitor(k: int, history: History) -> bool:
            if self.verbose and (k + 1) % int(self.verbose) == 0:
                figures = "  ".join(f"{key} {values[-1]:.4g}" for key, values in history.items())
                print(f"[{type(self).__name__}] iteration {k + 1}  {figures}")
            if not has_callbacks:
                return False
            step = context.subcontext(task_name="iteration")
            step.call_on_fit_task_begin(estimator=self, **data)
            return bool(
                step.call_on_fit_task_end(
                    estimator=self, reconstruction_attributes=fitted, **data
                )
            )

        self._finish_callbacks = lambda: context.call_on_fit_task_end(
            estimator=self, reconstruction_attributes=fitted, **data
        )
        return monitor

    def _report(self, result: FlowResult, remedies: str) -> None:
        """Warn about a run that did not end in convergence, with the figure and what to do."""
        name = type(self).__name__
        figure = result.history.get("objective", [float("nan")])[-1]
        if result.status == "max_iter":
            warnings.warn(
                f"{name} did not converge in {result.n_iter} iterations (objective "
                f"{figure:.3g}). {remedies}",
                ConvergenceWarning,
                stacklevel=3,
            )
        elif result.status == "non_finite":
            warnings.warn(
                f"{name} met NaN or infinity at iteration {result.n_iter + 1}; the last good "
                f"state is kept. Reduce step_size or learning_rate, or rescale the data.",
                ConvergenceWarning,
                stacklevel=3,
            )
        elif result.status == "interrupted":
            warnings.warn(
                f"{name}.fit was interrupted after {result.n_iter} iterations; the best state "
                "so far is kept.",
                UserWarning,
                stacklevel=3,
            )
