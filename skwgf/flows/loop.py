r"""The one loop that every estimator of the package runs.

A *carrier* holds a measure :math:`\mu_k` (a cloud of particles, or a network that pushes a
reference forward) and moves it along one step :math:`x \leftarrow x + \tau v(x)`. The loop knows
nothing of velocities: it times and records the steps, decides when to stop, and makes sure that
the carrier always ends in a usable state, whatever happened on the way.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Record = Mapping[str, float]
History = dict[str, list[float]]
Status = Literal["converged", "max_iter", "stopped", "interrupted", "non_finite"]


class Carrier(Protocol):
    """What the loop needs of an object that carries a measure.

    Examples
    --------
    One point that halves its distance from zero, as a carrier of its own:

    >>> from skwgf.flows import run_flow, small_step
    >>> class Point:
    ...     x = 8.0
    ...     def advance(self):
    ...         self.x /= 2
    ...         return {"objective": self.x**2 / 2, "step": self.x}
    ...     def is_finite(self):
    ...         return abs(self.x) < float("inf")
    ...     def state_dict(self):
    ...         return {"x": self.x}
    ...     def load_state_dict(self, state):
    ...         self.x = state["x"]
    >>> run_flow(Point(), max_iter=10, stop=small_step(1.0)).history["step"]
    [4.0, 2.0, 1.0]
    """

    def advance(self) -> Record:
        """Move the measure along one step; return at least its "objective" and "step"."""

    def is_finite(self) -> bool:
        """Tell whether the state holds neither NaN nor infinity."""

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state that later steps leave alone."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""


class Checkpoint(Protocol):
    """Where the loop keeps its state, so that a run that was cut off can go on."""

    every: int

    def read(self) -> dict[str, Any] | None:
        """Return the state that was written last, None if there is none."""

    def write(self, state: dict[str, Any]) -> None:
        """Put a state in the place of the one before."""

    def remove(self) -> None:
        """Delete the state: the run is over."""


@dataclass(frozen=True)
class FlowResult:
    """How a run of the loop ended.

    Attributes
    ----------
    n_iter : int
        Number of completed steps.

    status : {"converged", "max_iter", "stopped", "interrupted", "non_finite"}
        Why the loop ended: the stopping rule was met; the budget was used up; the monitor asked
        for it; a KeyboardInterrupt; NaN or infinity was met and the last good state restored.

    history : dict of str to list of float
        One value a step for each quantity of the carrier's records, plus "seconds" since the
        start and, with a validation function, "validation" (NaN at steps without one).

    best_iter : int or None
        The step whose state the carrier was left in; None without validation.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import ParticleCarrier, Velocity, run_flow
    >>> def field(x, side=None):
    ...     return Velocity(-x, energy=0.5 * float(x.square().sum(1).mean()))
    >>> result = run_flow(ParticleCarrier(torch.ones(3, 2), field, step_size=0.5), max_iter=2)
    >>> result.n_iter, result.status, result.converged
    (2, 'max_iter', False)
    >>> result.history["objective"]
    [1.0, 0.25]
    """

    n_iter: int
    status: Status
    history: History
    best_iter: int | None = None

    @property
    def converged(self) -> bool:
        """Whether the stopping rule was met."""
        return self.status == "converged"


def plateau(key: str, *, tol: float, patience: int) -> Callable[[History], bool]:
    """Return a stopping rule: `key` has not improved for `patience` of its values.

    An improvement is a fall below the best value so far by more than `tol` times the absolute
    value of the first one. Entries that are not finite (steps without a figure) are skipped.

    Parameters
    ----------
    key : str
        A quantity of the history, smaller is better.

    tol : float
        Least improvement, as a share of the first value.

    patience : int
        Number of values without one.

    Examples
    --------
    >>> from skwgf.flows import plateau
    >>> rule = plateau("objective", tol=0.1, patience=2)
    >>> rule({"objective": [1.0, 0.5, 0.3]}), rule({"objective": [1.0, 0.5, 0.45, 0.44]})
    (False, True)
    """

    def rule(history: History) -> bool:
        values = [value for value in history.get(key, []) if math.isfinite(value)]
        if len(values) <= patience:
            return False
        reference = min(values[:-patience])
        return min(values[-patience:]) >= reference - tol * abs(values[0])

    return rule


def settled(key: str, *, tol: float, after: int) -> Callable[[History], bool]:
    """Return a stopping rule for schedules: `key` has come to rest at the end of them.

    The rule waits for `after` steps. Then the best value in the last quarter must not lie below
    the best one before by more than `tol` times the absolute value of the first. Entries that are
    not finite are skipped; fewer than eight values never count as settled.

    Parameters
    ----------
    key : str
        A quantity of the history, smaller is better.

    tol : float
        Largest improvement in the last quarter, as a share of the first value.

    after : int
        Number of steps before the rule is asked.

    Examples
    --------
    >>> from skwgf.flows import settled
    >>> rule = settled("objective", tol=0.01, after=9)
    >>> rule({"objective": [1.0, 0.5, 0.3, 0.2] + 4 * [0.2]})
    False
    >>> rule({"objective": [1.0, 0.5, 0.3, 0.2] + 5 * [0.2]})
    True
    """

    def rule(history: History) -> bool:
        entries = history.get(key, [])
        values = [value for value in entries if math.isfinite(value)]
        if len(entries) < after or len(values) < 8:
            return False
        quarter = len(values) // 4
        gain = min(values[:-quarter]) - min(values[-quarter:])
        return gain <= tol * abs(values[0])

    return rule


def small_step(tol: float) -> Callable[[History], bool]:
    """Return a stopping rule: the last step's size is at most `tol`.

    Parameters
    ----------
    tol : float
        Largest step that counts as small, in the unit of the points.

    Examples
    --------
    >>> from skwgf.flows import small_step
    >>> small_step(1e-3)({"step": [0.1, 1e-4]})
    True
    """
    return lambda history: history["step"][-1] <= tol


def run_flow(
    carrier: Carrier,
    *,
    max_iter: int,
    stop: Callable[[History], bool] | None = None,
    validate: Callable[[], float] | None = None,
    validate_every: int = 1,
    slack: float = 0.0,
    monitor: Callable[[int, History], bool] | None = None,
    history: History | None = None,
    checkpoint: Checkpoint | None = None,
) -> FlowResult:
    r"""Advance a carrier until it has converged or its budget is used up.

    Parameters
    ----------
    carrier : Carrier
        What moves, see :class:`~skwgf.flows.ParticleCarrier` and
        :class:`~skwgf.flows.NetworkCarrier`. It is changed in place.

    max_iter : int
        Largest number of steps.

    stop : callable, default=None
        Stopping rule, a function of the history so far, such as :func:`plateau` or
        :func:`small_step`. None runs all steps.

    validate : callable, default=None
        Returns a held-out figure of the present state (lower is better). The carrier is left
        in the latest state whose figure was within `slack` of the best one up to then.

    validate_every : int, default=1
        Number of steps between two validations; the last step is always validated.

    slack : float, default=0.0
        Difference between two figures that means nothing: the noise of the validation.

    monitor : callable, default=None
        Called after every step with its number (from 0) and the history; returning True ends
        the run.

    history : dict, default=None
        The history of an earlier run to go on from; it is copied.

    checkpoint : Checkpoint, default=None
        Keeps the state every so many steps. A run that finds one goes on from there, to the same
        result bit for bit if the state of the carrier holds all that later steps depend on. It is
        removed at the end, unless that is a KeyboardInterrupt.

    Returns
    -------
    FlowResult

    Notes
    -----
    A step that ends in NaN or infinity is undone and ends the run. A KeyboardInterrupt undoes the
    step in progress, ends the run and is not raised again, so that the work done is not lost.

    Examples
    --------
    A cloud drawn to the origin by the velocity :math:`v(x) = -x`:

    >>> import torch
    >>> from skwgf.flows import ParticleCarrier, Velocity, run_flow, small_step
    >>> def field(x, side=None):
    ...     return Velocity(-x, energy=0.5 * float(x.square().sum(1).mean()))
    >>> cloud = ParticleCarrier(torch.ones(5, 2), field, step_size=0.5)
    >>> result = run_flow(cloud, max_iter=100, stop=small_step(1e-6))
    >>> result.status, result.n_iter
    ('converged', 21)
    """
    history = {key: list(values) for key, values in (history or {}).items()}
    judge = _Judge(carrier, validate, slack)
    status: Status = "max_iter"
    n_iter = 0
    if checkpoint is not None:
        # Written before the first step too: what is in the way of it shows at once.
        n_iter, history = _resume(checkpoint, carrier, judge, history)
    offset = history["seconds"][-1] if history.get("seconds") else 0.0
    start = time.perf_counter()
    good = carrier.state_dict()
    try:
        for k in range(n_iter, max_iter):
            record = dict(carrier.advance())
            if not (carrier.is_finite() and all(map(math.isfinite, record.values()))):
                carrier.load_state_dict(good)
                status = "non_finite"
                break
            state = carrier.state_dict()
            if validate is not None:
                due = k == max_iter - 1 or (k + 1) % validate_every == 0
                record["validation"] = judge(k, state) if due else math.nan
            record["seconds"] = offset + time.perf_counter() - start
            good, n_iter = state, k + 1
            _append(history, record)
            if monitor is not None and monitor(k, history):
                status = "stopped"
            elif stop is not None and stop(history):
                status = "converged"
            if status != "max_iter":
                if validate is not None and math.isnan(history["validation"][-1]):
                    history["validation"][-1] = judge(k, good)
                break
            if checkpoint is not None and n_iter % checkpoint.every == 0:
                _keep(checkpoint, good, judge, n_iter, history)
    except KeyboardInterrupt:
        carrier.load_state_dict(good)
        status = "interrupted"
    if checkpoint is not None:
        if status == "interrupted":
            _keep(checkpoint, good, judge, n_iter, history)
        else:
            checkpoint.remove()
    if judge.state is not None and judge.best_iter != n_iter - 1:
        carrier.load_state_dict(judge.state)
    return FlowResult(n_iter, status, history, judge.best_iter)


class _Judge:
    """Keep the latest state whose held-out figure is within the noise of the best one."""

    def __init__(
        self, carrier: Carrier, validate: Callable[[], float] | None, slack: float
    ) -> None:
        self.carrier = carrier
        self.validate = validate
        self.slack = slack
        self.best_figure = sys.float_info.max
        self.best_iter: int | None = None
        self.state: dict[str, Any] | None = None

    def __call__(self, k: int, state: dict[str, Any]) -> float:
        """Validate the state of step k and return its figure."""
        assert self.validate is not None
        figure = self.validate()
        if figure <= self.best_figure + self.slack:
            self.best_figure = min(self.best_figure, figure)
            self.best_iter, self.state = k, state
        return figure


def _keep(
    checkpoint: Checkpoint, state: dict[str, Any], judge: _Judge, n_iter: int, history: History
) -> None:
    """Write down all that the following steps depend on."""
    checkpoint.write(
        {
            "carrier": state,
            "judge": (judge.best_figure, judge.best_iter, judge.state),
            "n_iter": n_iter,
            "history": history,
        }
    )


def _resume(
    checkpoint: Checkpoint, carrier: Carrier, judge: _Judge, history: History
) -> tuple[int, History]:
    """Return the number of steps made and the history, with the carrier in that state."""
    kept = checkpoint.read()
    if kept is None:
        _keep(checkpoint, carrier.state_dict(), judge, 0, history)
        return 0, history
    carrier.load_state_dict(kept["carrier"])
    judge.best_figure, judge.best_iter, judge.state = kept["judge"]
    return kept["n_iter"], kept["history"]


def _append(history: History, record: Record) -> None:
    """Append a record to the columns of a history, NaN where one lacks the other's key."""
    length = max(map(len, history.values()), default=0)
    for key in record:
        history.setdefault(key, [math.nan] * length)
    for key, values in history.items():
        values.append(record.get(key, math.nan))
