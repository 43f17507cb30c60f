"""The loop's promises: how it ends, what state it leaves, and what it records."""

from __future__ import annotations

import itertools
import math

import pytest

from skwgf.flows import plateau, run_flow, settled, small_step


class Counter:
    """A carrier whose state is the number of its steps, with an event at a chosen step."""

    def __init__(self, *, nan_state_at=None, nan_record_at=None, interrupt_at=None):
        self.state = 0
        self.nan_state_at = nan_state_at
        self.nan_record_at = nan_record_at
        self.interrupt_at = interrupt_at

    def advance(self):
        self.state += 1
        step = self.state
        if step == self.nan_state_at:
            self.state = math.nan
        if step == self.interrupt_at:
            self.state = -99  # half way through a step the state is of no use
            raise KeyboardInterrupt
        objective = math.inf if step == self.nan_record_at else 1.0 / step
        return {"objective": objective, "step": 0.5**step}

    def is_finite(self):
        return not math.isnan(self.state)

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, state):
        self.state = state["state"]


def figures(*values):
    """Return a validation function that gives these values in turn."""
    series = iter(values)
    return lambda: next(series)


def test_budget_is_used_up():
    carrier = Counter()
    result = run_flow(carrier, max_iter=7)
    assert (result.status, result.n_iter, carrier.state) == ("max_iter", 7, 7)
    assert not result.converged
    assert result.best_iter is None
    assert result.history["objective"] == [1 / k for k in range(1, 8)]
    assert set(result.history) == {"objective", "step", "seconds"}
    assert {len(values) for values in result.history.values()} == {7}


def test_no_step_leaves_the_start():
    carrier = Counter()
    result = run_flow(carrier, max_iter=0, validate=figures())
    assert (result.status, result.n_iter, carrier.state) == ("max_iter", 0, 0)
    assert result.history == {}


@pytest.mark.parametrize("event", ["nan_state_at", "nan_record_at"])
@pytest.mark.parametrize("at", [1, 4])
def test_non_finite_step_is_undone(event, at):
    # Bug caught: testing only the state, or only the record; counting the bad step.
    carrier = Counter(**{event: at})
    result = run_flow(carrier, max_iter=10)
    assert (result.status, result.n_iter, carrier.state) == ("non_finite", at - 1, at - 1)
    assert len(result.history.get("objective", [])) == at - 1
    assert all(map(math.isfinite, result.history.get("objective", [])))


def test_non_finite_step_is_not_validated():
    # The figure of a state with NaN would enter the history, or raise inside the user's function.
    result = run_flow(Counter(nan_state_at=3), max_iter=10, validate=figures(3.0, 2.0))
    assert result.history["validation"] == [3.0, 2.0]
    assert result.best_iter == 1


def test_non_finite_step_returns_to_the_best_state_not_the_last():
    carrier = Counter(nan_state_at=5)
    result = run_flow(carrier, max_iter=10, validate=figures(3.0, 1.0, 2.0, 2.0))
    assert (result.status, result.n_iter) == ("non_finite", 4)
    assert (carrier.state, result.best_iter) == (2, 1)


@pytest.mark.parametrize("at", [1, 4])
def test_interrupt_in_a_step_undoes_the_step(at):
    carrier = Counter(interrupt_at=at)
    result = run_flow(carrier, max_iter=10)
    assert (result.status, result.n_iter, carrier.state) == ("interrupted", at - 1, at - 1)
    assert len(result.history.get("objective", [])) == at - 1


def test_interrupt_in_the_monitor_keeps_the_step():
    def monitor(k, history):
        if k == 3:
            raise KeyboardInterrupt
        return False

    carrier = Counter()
    result = run_flow(carrier, max_iter=10, monitor=monitor)
    assert (result.status, result.n_iter, carrier.state) == ("interrupted", 4, 4)
    assert {len(values) for values in result.history.values()} == {4}


def test_interrupt_in_the_validation_undoes_the_step():
    # The step is complete but its figure is missing: history and state must tell the same story.
    calls = itertools.count()

    def validate():
        if next(calls) == 2:
            raise KeyboardInterrupt
        return 1.0

    carrier = Counter()
    result = run_flow(carrier, max_iter=10, validate=validate)
    assert (result.status, result.n_iter, carrier.state) == ("interrupted", 2, 2)
    assert {len(values) for values in result.history.values()} == {2}


def test_interrupt_returns_to_the_best_state():
    carrier = Counter(interrupt_at=5)
    result = run_flow(carrier, max_iter=10, validate=figures(4.0, 1.0, 3.0, 2.0))
    assert (result.status, result.n_iter) == ("interrupted", 4)
    assert (carrier.state, result.best_iter) == (2, 1)


def test_errors_of_the_carrier_are_not_hidden():
    class Broken(Counter):
        def advance(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_flow(Broken(), max_iter=3)


def test_best_validated_state_is_restored():
    carrier = Counter()
    result = run_flow(carrier, max_iter=5, validate=figures(5.0, 3.0, 1.0, 2.0, 4.0))
    assert (carrier.state, result.best_iter) == (3, 2)
    # What is left is the state; the steps that were taken are still reported.
    assert result.n_iter == 5
    assert result.history["validation"] == [5.0, 3.0, 1.0, 2.0, 4.0]


def test_later_of_equal_states_is_kept():
    carrier = Counter()
    assert run_flow(carrier, max_iter=4, validate=figures(2.0, 1.0, 1.0, 2.0)).best_iter == 2
    assert carrier.state == 3


@pytest.mark.parametrize(("slack", "best"), [(0.0, 2), (0.05, 2), (0.1, 3), (0.35, 4), (9.0, 5)])
def test_slack_keeps_the_latest_state_within_it(slack, best):
    # Figures above the best one, 1.0, by .1, .3 and .5.
    carrier = Counter()
    values = (2.0, 1.5, 1.0, 1.0625, 1.3, 1.5)
    result = run_flow(carrier, max_iter=6, validate=figures(*values), slack=slack)
    assert (result.best_iter, carrier.state) == (best, best + 1)


def test_slack_does_not_creep():
    # Bug caught: measuring from the state kept last and not from the best figure, so that many
    # small losses, each within the slack, add up to a large one.
    carrier = Counter()
    values = (1.0, 1.25, 1.5, 1.75, 2.0)
    result = run_flow(carrier, max_iter=5, validate=figures(*values), slack=0.25)
    assert (result.best_iter, carrier.state) == (1, 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_figures_are_never_the_best(bad):
    carrier = Counter()
    result = run_flow(carrier, max_iter=4, validate=figures(bad, 2.0, bad, bad))
    assert (carrier.state, result.best_iter) == (2, 1)
    carrier = Counter()
    result = run_flow(carrier, max_iter=2, validate=figures(bad, bad))
    assert (carrier.state, result.best_iter) == (2, None)


def test_negative_figures():
    carrier = Counter()
    result = run_flow(carrier, max_iter=3, validate=figures(-1.0, -3.0, -2.0))
    assert (carrier.state, result.best_iter) == (2, 1)


@pytest.mark.parametrize(
    ("every", "validated"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [2, 5, 6]), (7, [6]), (50, [6])]
)
def test_validation_is_made_every_so_often_and_at_the_last_step(every, validated):
    carrier = Counter()
    seen = []

    def validate():
        seen.append(carrier.state - 1)
        return 1.0

    result = run_flow(carrier, max_iter=7, validate=validate, validate_every=every)
    assert seen == validated
    made = [k for k, value in enumerate(result.history["validation"]) if not math.isnan(value)]
    assert made == validated
    assert len(result.history["validation"]) == 7


def test_only_validated_steps_can_be_the_best():
    carrier = Counter()
    result = run_flow(carrier, max_iter=7, validate=figures(1.0, 2.0, 3.0), validate_every=3)
    assert (carrier.state, result.best_iter) == (3, 2)


def test_monitor_stops_the_run():
    seen = []

    def monitor(k, history):
        seen.append((k, len(history["objective"]), history["objective"][-1]))
        return k == 2

    carrier = Counter()
    result = run_flow(carrier, max_iter=10, monitor=monitor)
    assert (result.status, result.n_iter, carrier.state) == ("stopped", 3, 3)
    assert not result.converged
    assert seen == [(0, 1, 1.0), (1, 2, 0.5), (2, 3, 1 / 3)]


def test_monitor_sees_the_history_of_earlier_runs():
    seen = []
    first = run_flow(Counter(), max_iter=2)
    run_flow(
        Counter(),
        max_iter=2,
        history=first.history,
        monitor=lambda k, history: bool(seen.append((k, len(history["step"])))),
    )
    assert seen == [(0, 3), (1, 4)]


def test_rule_ends_the_run_as_converged():
    carrier = Counter()
    result = run_flow(carrier, max_iter=10, stop=small_step(0.5**4))
    assert (result.status, result.n_iter, carrier.state) == ("converged", 4, 4)
    assert result.converged


def test_rule_met_at_the_last_step_counts_as_converged():
    # Bug caught: "max_iter" reported, and a ConvergenceWarning given, after a converged run.
    result = run_flow(Counter(), max_iter=4, stop=small_step(0.5**4))
    assert (result.status, result.n_iter) == ("converged", 4)


def test_rule_sees_the_validation():
    rule = plateau("validation", tol=0.01, patience=2)
    result = run_flow(Counter(), max_iter=9, validate=figures(2.0, 1.0, 1.5, 1.5, 0.1), stop=rule)
    assert (result.status, result.n_iter, result.best_iter) == ("converged", 4, 1)


@pytest.mark.parametrize("option", ["stop", "monitor"])
def test_last_step_is_validated_however_the_run_ends(option):
    # Improving all the time and stopped at step 5: the state of step 5 is the best there is.
    carrier = Counter()
    end = {
        "stop": lambda history: len(history["step"]) == 5,
        "monitor": lambda k, history: k == 4,
    }
    result = run_flow(
        carrier,
        max_iter=9,
        validate=lambda: 1.0 / carrier.state,
        validate_every=3,
        **{option: end[option]},
    )
    assert result.n_iter == 5
    assert carrier.state == 5


def test_history_goes_on():
    first = run_flow(Counter(), max_iter=3)
    kept = {key: list(values) for key, values in first.history.items()}
    carrier = Counter()
    second = run_flow(carrier, max_iter=2, history=first.history)
    assert first.history == kept  # it is copied
    assert second.n_iter == 2
    assert second.history["objective"] == kept["objective"] + [1.0, 0.5]
    seconds = second.history["seconds"]
    assert seconds[:3] == kept["seconds"]
    # Bug caught: a clock that starts again at zero in the middle of the history.
    assert all(earlier <= later for earlier, later in itertools.pairwise(seconds))
    assert seconds[0] >= 0


def test_seconds_go_on_from_the_earlier_run():
    history = {"objective": [1.0], "step": [1.0], "seconds": [1000.0]}
    result = run_flow(Counter(), max_iter=2, history=history)
    assert all(1000 <= value < 1010 for value in result.history["seconds"])


def test_states_are_copies():
    # Bug caught: the best state kept by reference and moved on by later steps.
    class Growing(Counter):
        def __init__(self):
            super().__init__()
            self.values = []

        def advance(self):
            self.values.append(len(self.values))
            return super().advance()

        def state_dict(self):
            return {"values": list(self.values), "state": self.state}

        def load_state_dict(self, state):
            super().load_state_dict(state)
            self.values = state["values"]

    carrier = Growing()
    run_flow(carrier, max_iter=4, validate=figures(3.0, 1.0, 2.0, 2.0))
    assert carrier.values == [0, 1]


@pytest.mark.parametrize(
    ("values", "stops"),
    [
        ([1.0, 0.5], False),  # patience not yet used up
        ([1.0, 0.5, 0.6], False),
        ([1.0, 0.5, 0.6, 0.7], True),
        ([1.0, 0.5, 0.6, 0.2], False),  # improved at the end of the patience
        ([1.0, 0.5, 0.2, 0.6], False),  # ... or within it
        ([1.0, 0.5, 0.45, 0.45], True),  # by less than a tenth of the first value
        ([1.0, 0.5, 0.35, 0.45], False),
        ([1.0, 0.2, 0.9, 0.5, 0.4], True),  # the best is older than the patience
        ([1.0, math.nan, 0.5, math.nan], False),  # NaN use up no patience
        ([1.0, math.nan, 0.5, math.nan, 0.6, math.nan, 0.6], True),
        ([-1.0, -5.0, -5.05, -5.05], True),  # negative figures
        ([-1.0, -5.0, -5.05, -5.2], False),
        ([], False),
    ],
)
def test_plateau(values, stops):
    assert plateau("v", tol=0.1, patience=2)({"v": values}) is stops


def test_plateau_of_a_missing_key_never_stops():
    assert plateau("v", tol=0.1, patience=2)({"other": [1.0] * 9}) is False


def test_plateau_with_zero_tolerance_stops_on_a_constant():
    assert plateau("v", tol=0.0, patience=2)({"v": [1.0, 0.5, 0.5, 0.5]}) is True


FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]


@pytest.mark.parametrize(
    ("values", "after", "stops"),
    [
        ([*FALLING, 0.4, 0.4], 9, True),
        ([*FALLING, 0.4], 9, False),  # the schedule is not over
        ([*FALLING, 0.4, 0.3], 9, False),  # still falling
        ([*FALLING, 0.4, 0.395], 9, True),  # by less than .01 of the first value
        ([*FALLING, 0.5, 0.6], 9, True),  # risen: at rest
        ([*FALLING], 3, False),  # fewer than eight values
        ([*FALLING, math.nan, math.nan], 9, False),  # ... and NaN do not count
        ([*FALLING, math.nan, 0.4, 0.4], 10, True),
        ([10.0, 9.0, 8.0, 7.0, 6.0, 4.0, 3.95, 3.92], 8, True),  # relative to the first
        ([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 1.0], 8, False),  # one fall in the last quarter
        ([], 0, False),
    ],
)
def test_settled(values, after, stops):
    assert settled("v", tol=0.01, after=after)({"v": values}) is stops


def test_settled_looks_at_the_last_quarter_only():
    # A fall in the third quarter is over; the last quarter of 16 values is 4 of them.
    assert settled("v", tol=0.01, after=16)({"v": [1.0] * 8 + [0.2] * 8})
    assert not settled("v", tol=0.01, after=16)({"v": [1.0] * 12 + [0.2] * 4})


def test_small_step_reads_the_last_step_only():
    rule = small_step(0.1)
    assert rule({"step": [1.0, 0.1]})
    assert not rule({"step": [0.01, 0.2]})
