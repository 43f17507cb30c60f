"""scikit-learn's own callbacks on the estimators: progress, logs of scores, early stops."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import rich
from persistence_cases import CASES, LABELS, NUMBERS, X
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import SVGDSampler

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:The particles of:UserWarning"
)
# One of each class, of three iterations.
KINDS = ["w2", "sinkhorn", "svgd data", "svgd logistic", "gwg", "wsfn", "neurons numbers"]
every_kind = pytest.mark.parametrize("kind", KINDS)


def own_score(estimator, X, y):
    # y is zeros for the estimators that read none.
    return estimator.score(X, y)


def in_pipeline(kind):
    return Pipeline([("scale", StandardScaler()), ("flow", CASES[kind].make())])


def search(kind, **options):
    grid = {"flow__step_size": [0.5, 0.25]}
    return GridSearchCV(in_pipeline(kind), grid, cv=2, error_score="raise", **options)


@pytest.fixture
def lines(capsys):
    """Return a function that gives the lines that the progress bars leave on the screen."""
    console = rich.get_console()
    before = console.width
    console.width = 160

    def read():
        captured = capsys.readouterr()
        assert captured.err == ""
        return [line.rstrip() for line in captured.out.splitlines() if line.strip()]

    yield read
    console.width = before


@pytest.fixture(autouse=True)
def _no_bar_is_left_behind():
    yield
    # Bug caught: a monitor whose queue is never closed, which hangs the interpreter at its end.
    assert "RichProgressMonitor" not in {type(thread).__name__ for thread in threading.enumerate()}


class Counter:
    """A callback that counts iterations, and stops or interrupts after some."""

    def __init__(self, stop_at=None, interrupt_at=None):
        self.stop_at, self.interrupt_at = stop_at, interrupt_at
        self.n = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if context.task_name != "iteration":
            return False
        self.n += 1
        if self.n == self.interrupt_at:
            raise KeyboardInterrupt
        return self.n == self.stop_at


# ---------------------------------------------------------------------------- progress


@every_kind
def test_bar_of_an_estimator(kind, lines):
    estimator = CASES[kind].make().set_callbacks(ProgressBar())
    CASES[kind].fit(estimator)
    (line,) = lines()
    assert line.startswith(f"{type(estimator).__name__} - fit")
    assert "100%" in line


@every_kind
def test_bars_of_a_pipeline(kind, lines):
    pipeline = in_pipeline(kind).set_callbacks(ProgressBar())
    pipeline.fit(CASES[kind].X, CASES[kind].y)
    found = lines()
    name = type(pipeline[-1]).__name__
    assert found[0].startswith("Pipeline - fit")
    assert found[2].startswith(f"  Pipeline - fit-final-estimator | {name} - fit")
    assert len(found) == 3
    assert all("100%" in line for line in found)
    assert not hasattr(pipeline[-1], "_skl_callbacks")  # lent for the fit only


@pytest.mark.parametrize("kind", ["w2", "svgd logistic", "wsfn"])
def test_bars_of_a_search(kind, lines):
    bars = ProgressBar(max_propagation_depth=None)
    searched = search(kind).set_callbacks(bars).fit(CASES[kind].X, CASES[kind].y)
    found = lines()
    name = type(searched.best_estimator_[-1]).__name__
    # Two candidates on two splits, and the best one on all rows.
    fits = [line for line in found if f"fit-final-estimator | {name} - fit" in line]
    assert len(fits) == 5
    assert sum("candidate-split-evaluation | Pipeline" in line for line in found) == 4
    assert sum("refit-with-best-params | Pipeline" in line for line in found) == 1
    assert all("100%" in line for line in found)


def test_bar_of_a_nested_estimator_belongs_on_the_pipeline():
    # What scikit-learn says to those who set it inside.
    pipeline = in_pipeline("wsfn")
    pipeline[-1].set_callbacks(ProgressBar())
    with pytest.raises(TypeError, match="Register them directly on the meta-estimator"):
        pipeline.fit(X)


def test_bar_of_a_nested_adapter_shows_its_flow(lines):
    case = CASES["adapter"]
    case.fit(case.make().set_callbacks(ProgressBar(max_propagation_depth=None)))
    found = lines()
    assert found[0].startswith("DomainAdapter - fit")
    assert any("W2FlowGenerator - fit" in line for line in found)
    assert all("100%" in line for line in found)


@every_kind
def test_bar_of_a_fit_that_is_stopped_early_is_complete(kind, lines):
    estimator = CASES[kind].make().set_callbacks(ProgressBar(), Counter(stop_at=2))
    CASES[kind].fit(estimator)
    assert estimator.n_iter_ == 2
    (line,) = lines()
    assert "100%" in line


def test_bar_of_an_interrupted_fit_is_taken_down(lines):
    sampler = CASES["svgd data"].make().set_callbacks(ProgressBar(), Counter(interrupt_at=2))
    with pytest.warns(UserWarning, match="interrupted after 2 iterations"):
        sampler.fit(X)
    assert len(lines()) == 1
    assert sampler.sample(3).shape == (3, 2)


# ---------------------------------------------------------------------------- scores


def check_log(log, *, fits):
    """Check a log of fits of three iterations each, the last of which is the whole fit's state."""
    scores = {row["task_id_path"]: row["score"] for row in log.data if "score" in row}
    assert np.isfinite(list(scores.values())).all()
    whole = [row["task_id_path"] for row in log.data if row["task_name"] == "fit"]
    assert len(whole) == fits
    assert len(log.data) == 4 * fits
    for path in whole:
        assert [scores[(*path, k)] for k in range(3)][-1] == scores[path]
        assert len({scores[(*path, k)] for k in range(3)}) > 1  # it looks at each, not at the last


@every_kind
def test_scores_of_an_estimator_are_logged(kind):
    monitor = ScoringMonitor(scoring={"score": own_score})
    estimator = CASES[kind].make().set_callbacks(monitor)
    CASES[kind].fit(estimator)
    log = monitor.get_logs()
    assert log.estimator_name == type(estimator).__name__
    if kind in ("svgd logistic", "neurons numbers"):  # accuracies may well be equal
        assert np.isfinite([row["score"] for row in log.data]).all()
    else:
        check_log(log, fits=1)
    assert log.data[0]["score"] == own_score(estimator, X, CASES[kind].y)


@pytest.mark.parametrize("kind", ["w2", "svgd data", "wsfn"])
def test_scores_in_a_pipeline_and_a_search_are_logged(kind):
    monitor = ScoringMonitor(scoring={"score": own_score})
    pipeline = in_pipeline(kind)
    pipeline[-1].set_callbacks(monitor)
    pipeline.fit(X)
    check_log(monitor.get_logs(), fits=1)
    assert monitor.get_logs().estimator_name == "Pipeline"
    searched = search(kind)
    searched.estimator[-1].set_callbacks(monitor)
    searched.fit(X)
    log = monitor.get_logs()
    assert log.estimator_name == "GridSearchCV"
    check_log(log, fits=5)
    assert len(monitor.get_logs(select="all")) == 2


def test_scores_of_scikit_learn_by_name():
    monitor = ScoringMonitor(scoring="r2")
    network = CASES["neurons numbers"].make().set_callbacks(monitor).fit(X, NUMBERS)
    assert monitor.get_logs().data[0]["r2"] == network.score(X, NUMBERS)
    monitor = ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    sampler = CASES["svgd logistic"].make().set_callbacks(monitor).fit(X, LABELS)
    row = monitor.get_logs().data_as_pandas.iloc[0]
    assert row["accuracy"] == (sampler.predict(X) == LABELS).mean()
    assert row["neg_log_loss"] < 0


@pytest.mark.slow
def test_callbacks_cross_processes(lines):
    monitor = ScoringMonitor(scoring={"score": own_score})
    searched = search("svgd data", n_jobs=2)
    searched.estimator[-1].set_callbacks(monitor)
    searched.set_callbacks(ProgressBar()).fit(X)
    found = lines()
    assert sum("candidate-split-evaluation | Pipeline" in line for line in found) == 4
    assert all("100%" in line for line in found)
    check_log(monitor.get_logs(), fits=5)


# ---------------------------------------------------------------------------- stops


@every_kind
def test_a_hook_that_returns_true_stops_the_fit(kind):
    counter = Counter(stop_at=1)
    estimator = CASES[kind].make().set_callbacks(counter)
    CASES[kind].fit(estimator)
    assert counter.n == estimator.n_iter_ == 1
    assert not estimator.converged_
    assert all(len(values) == 1 for values in estimator.history_.values())
    assert estimator.sample(2).shape[0] == 2


def test_a_stop_ends_the_flow_and_not_the_pipeline():
    pipeline = in_pipeline("wsfn")
    pipeline[-1].set_callbacks(Counter(stop_at=2))
    assert pipeline.fit(X)[-1].n_iter_ == 2


def test_stopped_state_is_the_one_that_was_seen():
    # Bug caught: a state that is one step ahead of the score it was stopped for.
    class StopAtScore(Counter):
        def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
            if context.task_name == "iteration":
                self.seen = fitted_estimator.particles_.copy()
                self.n += 1
            return self.n == 2

    stopper = StopAtScore()
    sampler = SVGDSampler(max_iter=5, random_state=0).set_callbacks(stopper).fit(X)
    np.testing.assert_array_equal(sampler.particles_, stopper.seen)
    assert sampler.n_iter_ == 2
