"""Fits that were cut off go on from their checkpoint, to the result of an undisturbed fit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from persistence_cases import CASES, X, bell, difference
from sklearn.base import clone

from skwgf import GWGSampler, SVGDSampler, W2FlowGenerator, WSFNOptimizer, targets

ROOT = Path(__file__).parents[1]


class PowerCut(BaseException):
    """What no handler of the loop expects, as little as a SIGKILL."""


class Cut:
    """A callback that ends the process, so to say, after so many iterations."""

    def __init__(self, after):
        self.left = after

    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context, **kwargs): ...

    def on_fit_task_end(self, estimator, context, **kwargs):
        self.left -= 1
        if self.left == 0:
            raise PowerCut


def fitted(case, estimator):
    case.fit(estimator)
    attributes = {
        key: value
        for key, value in vars(estimator).items()
        if key not in ("_skl_callbacks", *estimator.get_params(deep=False))
    }
    attributes["history_"].pop("seconds")
    return attributes


# One for each kind of carrier, field, stepper and potential that has a state of its own.
SETTINGS = {
    "w2": {},
    "w2 source": {"persistence": "auto"},
    "w2 network": {"potential": "network"},
    "w2 semidiscrete": {"persistence": 3, "validation_fraction": 0.9},
    "sinkhorn": {"validation_fraction": 0.9},
    "sinkhorn conditional": {"guidance": 0.5},
    "svgd data": {},
    "svgd log density": {"optimizer": "adagrad"},
    "svgd torus": {},
    "svgd mixture": {"n_restarts": 2},
    "svgd logistic": {},
    "svgd network classes": {},
    "gwg": {"n_restarts": 2},
    "gwg log density": {"optimizer": "adam"},
    "gwg density": {},
    "gwg logistic": {"batch_size": 20},
    "wsfn": {"tol": 1e-2},
    "wsfn lanczos": {"solver": "lanczos", "tol": 0.3},
    "wsfn cosine": {"init": np.linspace(-0.1, 0.11, 20)[:, None] * [1.0, -1.0]},
    "wsfn perturbed": {"method": "perturbed"},
    "wsfn labels": {"solver": "lanczos"},
    "neurons labels": {},
}
SAME_AS = {
    "w2 network": "w2",
    "w2 semidiscrete": "w2",
    "wsfn lanczos": "wsfn",
    "wsfn perturbed": "wsfn cosine",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_fit_that_was_cut_off_goes_on(tmp_path, name):
    # Every bit is compared, but for the seconds: a state that a carrier forgets, or a generator
    # that begins anew, shows. The state is that after 4 iterations.
    case, path = CASES[SAME_AS.get(name, name)], tmp_path / "fit"
    made = case.make().set_params(**SETTINGS[name], max_iter=7)
    expected = fitted(case, clone(made))
    made.set_params(checkpoint=path, checkpoint_every=2)
    with pytest.raises(PowerCut):
        case.fit(clone(made).set_callbacks(Cut(5)))
    assert path.exists()
    counter = Cut(10**6)
    again = fitted(case, clone(made).set_callbacks(counter))
    assert difference(expected, again) == ""
    assert not path.exists()
    # It went on, and did not begin anew: the ends of the other iterations, and that of the fit.
    assert 10**6 - counter.left == len(expected["history_"]["objective"]) - 4 + 1


def test_killed_by_the_system(tmp_path):
    path = tmp_path / "fit"
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from persistence_cases import CASES
class Kill:
    left = 4
    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context, **kwargs): ...
    def on_fit_task_end(self, estimator, context, **kwargs):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
case = CASES["w2 source"]
estimator = case.make().set_params(max_iter=6, checkpoint={str(path)!r}, checkpoint_every=3)
case.fit(estimator.set_callbacks(Kill()))
"""
    case = CASES["w2 source"]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    made = case.make().set_params(max_iter=6)
    again = fitted(case, clone(made).set_params(checkpoint=str(path), checkpoint_every=1))
    assert difference(fitted(case, made), again) == ""
    assert os.listdir(tmp_path) == []


def cut_off(estimator, path, data=X):
    with warnings.catch_warnings(action="ignore"), pytest.raises(PowerCut):
        estimator.set_params(checkpoint=path, checkpoint_every=1).set_callbacks(Cut(2)).fit(data)


@pytest.mark.parametrize(
    "change",
    [
        {"data": X + 1e-12},
        {"random_state": 1},
        {"step_size": 0.11},
        {"target": targets.Gaussian((0.0, 1e-9))},
        {"max_iter": 5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_state_of_another_fit_is_refused(tmp_path, change):
    path = tmp_path / "fit"
    cut_off(SVGDSampler(targets.Gaussian(), max_iter=4, random_state=0), path)
    other = SVGDSampler(targets.Gaussian(), max_iter=4, random_state=0, checkpoint=path)
    data = change.get("data", X)
    other.set_params(**{k: v for k, v in change.items() if k != "data"})
    with pytest.raises(ValueError, match="the state of another fit"):
        other.fit(data)
    assert path.exists()


@pytest.mark.parametrize("change", ["X_source", "y_source"])
def test_other_sources_are_refused(tmp_path, change):
    case, path = CASES["w2 source"], tmp_path / "fit"
    made = case.make().set_params(checkpoint=path, checkpoint_every=1)
    with pytest.raises(PowerCut):
        case.fit(clone(made).set_callbacks(Cut(2)))
    more = dict(case.more)
    more[change] = more[change][::-1]
    with pytest.raises(ValueError, match="the state of another fit"):
        made.fit(X, **more)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "fit"
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not a file"):
        SVGDSampler(max_iter=2, random_state=0, checkpoint=path).fit(X)
    assert path.read_bytes() == b"something else"


def test_fresh_random_numbers_cannot_go_on(tmp_path):
    with pytest.raises(ValueError, match="checkpoint needs a random_state"):
        SVGDSampler(max_iter=2, checkpoint=tmp_path / "fit").fit(X)


def test_a_place_that_cannot_be_written_to_is_told_at_once(tmp_path):
    estimator = WSFNOptimizer(n_particles=4, random_state=0, checkpoint=tmp_path / "no" / "fit")
    with pytest.raises(FileNotFoundError):
        estimator.fit(X)


def test_a_keyboard_interrupt_keeps_the_state(tmp_path):
    class Interrupt(Cut):
        def on_fit_task_end(self, estimator, context, **kwargs):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    path = tmp_path / "fit"
    made = GWGSampler(targets.Gaussian(), max_iter=6, random_state=0, tol=0.0)
    estimator = clone(made).set_params(checkpoint=path).set_callbacks(Interrupt(3))
    with pytest.warns(UserWarning, match="interrupted after 3"):
        estimator.fit(X)
    with warnings.catch_warnings(action="ignore"):
        again = clone(made).set_params(checkpoint=path).fit(X)
        expected = clone(made).fit(X)
    assert np.array_equal(again.particles_, expected.particles_)
    assert again.n_iter_ == 6


def test_warm_starts_have_states_of_their_own(tmp_path):
    path = tmp_path / "fit"
    made = W2FlowGenerator(
        hidden_layer_sizes=(8,), max_iter=4, random_state=0, warm_start=True, validation_fraction=0
    )
    with warnings.catch_warnings(action="ignore"):
        expected, again = clone(made).fit(X), clone(made).fit(X)
        expected.fit(X)
        again.set_params(checkpoint=path, checkpoint_every=1).set_callbacks(Cut(3))
        with pytest.raises(PowerCut):
            again.fit(X)
        again.set_callbacks().fit(X)
    assert len(again.history_["objective"]) == 8
    assert np.array_equal(again.sample(5, random_state=0), expected.sample(5, random_state=0))


def test_nothing_is_written_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(action="ignore"):
        SVGDSampler(targets.LogDensity(bell), max_iter=2, random_state=0).fit(X)
    assert os.listdir(tmp_path) == []
