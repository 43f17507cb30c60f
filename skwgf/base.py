"""What all estimators share: validation, device, precision, callbacks, history, warnings.

No mathematics lives here. An estimator validates through :meth:`BaseFlow._validate`, builds a
carrier, hands it to :meth:`BaseFlow._run`, and stores what it learnt.
"""

from __future__ import annotations

import math
import os
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
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import validate_data

from skwgf._tensor import resolve_device, resolve_dtype, tensor_to_array
from skwgf._warnings import caller_level
from skwgf.flows import Carrier, FlowResult, run_flow
from skwgf.flows.loop import History
from skwgf.persistence import Checkpoint, SaveMixin, fingerprint


class BaseFlow(SaveMixin, CallbackSupportMixin, BaseEstimator):
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
        "dtype": [
            StrOptions({"float32", "float64"}),
            Options(type, {np.float32, np.float64}),
            Options(np.dtype, {np.dtype(np.float32), np.dtype(np.float64)}),
            None,
        ],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "checkpoint": [str, os.PathLike, None],
        "checkpoint_every": [Interval(Integral, 1, None, closed="left")],
    }

    # Declared by the subclasses' constructors and by _run.
    max_iter: int
    warm_start: bool
    device: str | torch.device | None
    dtype: Any
    random_state: int | np.random.RandomState | None
    verbose: int | bool
    checkpoint: str | os.PathLike[str] | None
    checkpoint_every: int
    n_iter_: int
    converged_: bool
    history_: dict[str, NDArray[np.float64]]

    def _validate(self, X: Any, *, reset: bool, min_samples: int = 1) -> NDArray[Any]:
        """Return X as a finite 2-D float array; tensors, frames and lists are welcome."""
        array: NDArray[Any] = validate_data(
            self,
            tensor_to_array(X),
            dtype=[np.float64, np.float32],
            ensure_min_samples=min_samples,
            reset=reset,
        )
        return array

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
        stop: Callable[[History], bool] | None = None,
        given: tuple[Any, ...] = (),
        **options: Any,
    ) -> FlowResult:
        """Run the loop under scikit-learn's callbacks and report how it ended.

        `fitted` returns the attributes that make the estimator usable at the present step, which
        are set at the end; `stop` sees the history of this run alone; `remedies` ends the warning
        of a run that did not converge; `given` is what the fit was given beside X and y; `options`
        go to :func:`skwgf.flows.run_flow`.
        """
        earlier = self.history_ if self._goes_on() else {}
        history = {key: list(values) for key, values in earlier.items()}
        previous = len(history.get("objective", []))
        # ScoringMonitor passes over tasks without y. Scores of unsupervised estimators do not
        # read it, so that zeros will do.
        data = {"X": X, "y": (lambda: np.zeros(len(X))) if y is None else y}
        context = self._init_callback_context(max_subtasks=self.max_iter)
        context.call_on_fit_task_begin(estimator=self, reconstruction_attributes=fitted, **data)

        def monitor(k: int, history: History) -> bool:
            self._print(k, history)
            if not hasattr(self, "_skl_callbacks"):
                return False
            step = context.subcontext(task_name="iteration")
            step.call_on_fit_task_begin(estimator=self, **data)
            stop = step.call_on_fit_task_end(
                estimator=self, reconstruction_attributes=fitted, **data
            )
            return bool(stop)

        def stop_this_run(history: History) -> bool:
            return stop is not None and stop({k: v[previous:] for k, v in history.items()})

        result = run_flow(
            carrier,
            max_iter=self.max_iter,
            monitor=monitor,
            stop=stop_this_run,
            history=history,
            checkpoint=self._open_checkpoint([X, y, *given], history),
            **options,
        )
        self.n_iter_ = result.n_iter
        self.converged_ = result.converged
        self.history_ = {key: np.asarray(value) for key, value in result.history.items()}
        for key in ("objective", "step", "seconds"):
            self.history_.setdefault(key, np.empty(0))
        for name, value in fitted().items():
            setattr(self, name, value)
        context.call_on_fit_task_end(estimator=self, reconstruction_attributes=fitted, **data)
        self._report(result, remedies)
        return result

    def _open_checkpoint(self, given: list[Any], history: History) -> Checkpoint | None:
        """Return the file that keeps the state of a fit to what is given, if one is asked for."""
        if self.checkpoint is None:
            return None
        if self.random_state is None:
            raise ValueError(
                "checkpoint needs a random_state: a fit with other random numbers cannot go on "
                "from the state of this one. Set random_state to an integer."
            )
        params = self.get_params(deep=False)
        for name in ("checkpoint", "checkpoint_every", "verbose"):
            del params[name]
        earlier = {key: values for key, values in history.items() if key != "seconds"}
        mark = fingerprint([type(self).__name__, params, given, earlier])
        return Checkpoint(
            self.checkpoint,
            every=self.checkpoint_every,
            mark=mark,
            device=resolve_device(self.device),
        )

    def _goes_on(self) -> bool:
        """Tell whether this fit goes on from an earlier one."""
        return self.warm_start and hasattr(self, "history_")

    def _print(self, k: int, history: History) -> None:
        """Print the figures of an iteration when `verbose` asks for it."""
        if self.verbose and (k + 1) % int(self.verbose) == 0:
            figures = "  ".join(f"{key} {values[-1]:.4g}" for key, values in history.items())
            print(f"[{type(self).__name__}] iteration {k + 1}  {figures}")

    def _report(self, result: FlowResult, remedies: str) -> None:
        """Warn about a run that did not end in convergence, with the figure and what to do."""
        name = type(self).__name__
        if result.status == "max_iter":
            validated = not math.isnan(result.history.get("validation", [math.nan])[-1])
            key = "validation" if validated else "objective"
            message, category = (
                (
                    f"{name} did not converge in {result.n_iter} iterations: the {key} is "
                    f"{result.history[key][-1]:.3g}. {remedies}"
                ),
                ConvergenceWarning,
            )
        elif result.status == "non_finite":
            message, category = (
                (
                    f"{name} met NaN or infinity at iteration {result.n_iter + 1}; the last good "
                    "state is kept. Reduce step_size or the learning rate, or rescale the data."
                ),
                ConvergenceWarning,
            )
        elif result.status == "interrupted":
            message, category = (
                (
                    f"{name}.fit was interrupted after {result.n_iter} iterations; the best state "
                    "so far is kept."
                ),
                UserWarning,
            )
        else:
            return
        warnings.warn(message, category, stacklevel=caller_level())
