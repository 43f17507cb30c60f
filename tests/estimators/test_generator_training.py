"""Generators in training: warm starts, history, warnings, callbacks and interrupts."""

from __future__ import annotations

import pickle
import sys
import warnings

import numpy as np
import pytest
from generators import FEW, KINDS, NOT_CONVERGED, Recorder, rows
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import ConvergenceWarning

from skwgf.estimators._validation import Validation
from skwgf.flows import NetworkCarrier

pytestmark = pytest.mark.filterwarnings(NOT_CONVERGED)


class TestWarmStart:
    def test_history_grows(self, tiny):
        generator = tiny(warm_start=True).fit(rows())
        first = {key: values.copy() for key, values in generator.history_.items()}
        generator.fit(rows())
        assert generator.n_iter_ == 5
        for key, values in generator.history_.items():
            assert len(values) == 10
            assert np.array_equal(values[:5], first[key])
        assert np.all(np.diff(generator.history_["seconds"]) > 0)

    @pytest.mark.parametrize("tiny", FEW)
    def test_goes_on_from_the_weights(self, tiny):
        # With a vanishing learning rate the second fit stays where the first ended. ema_decay=0
        # makes the fitted network the last one. Catches a new start.
        X = rows()
        generator = tiny(warm_start=True, ema_decay=0.0).fit(X)
        before = generator.transform(X)
        generator.set_params(learning_rate=1e-12, max_iter=2).fit(X)
        assert np.allclose(generator.transform(X), before, atol=1e-5)
        start = tiny(learning_rate=1e-12, ema_decay=0.0, max_iter=2).fit(X)
        assert not np.allclose(start.transform(X), before, atol=1e-2)

    def test_without_it_fit_starts_anew(self, tiny):
        X = rows()
        generator = tiny().fit(X)
        draws = generator.sample(9, random_state=0)
        assert np.array_equal(generator.fit(X).sample(9, random_state=0), draws)
        assert len(generator.history_["objective"]) == 5

    @pytest.mark.parametrize(
        ("before", "after", "d"),
        [
            ((16, 16), (16, 8), 2),
            ((16, 16), (16, 16, 16), 2),
            ((16, 16, 16), (16, 16), 2),
            # With as many columns as units the shapes of the first layers all fit.
            ((16, 16, 16), (16, 16), 16),
        ],
    )
    def test_changed_layers(self, tiny, before, after, d):
        generator = tiny(warm_start=True, hidden_layer_sizes=before).fit(rows(d=d))
        with pytest.raises(ValueError, match=r"warm_start=True .* layers .* Set warm_start=False"):
            generator.set_params(hidden_layer_sizes=after).fit(rows(d=d))

    def test_changed_columns(self, tiny):
        generator = tiny(warm_start=True).fit(rows(d=2))
        with pytest.raises(ValueError, match=r"warm_start=True .* columns have changed"):
            generator.fit(rows(d=3))

    def test_changed_activation(self, tiny):
        # The same weights are another map then.
        generator = tiny(warm_start=True).fit(rows())
        with pytest.raises(ValueError, match="warm_start=True"):
            generator.set_params(activation="tanh").fit(rows())

    def test_source_given_to_one_fit_only(self, tiny):
        # The weights of a map from N(0, I) would be read as a displacement.
        generator = tiny(warm_start=True).fit(rows())
        with pytest.raises(ValueError, match="warm_start=True"):
            generator.fit(rows(), X_source=rows(60))


class TestHistory:
    @pytest.mark.parametrize("tiny", KINDS)
    @pytest.mark.parametrize("n", [200, 600])
    def test_keys_and_lengths(self, tiny, n):
        generator = tiny().fit(rows(n))
        keys = {"objective", "step", "seconds"}
        if tiny.loops:
            keys |= {"lag", "n_inner"}
        if n == 600:  # a tenth is held out, when that makes 50 rows
            keys |= {"validation"}
        assert set(generator.history_) == keys
        for values in generator.history_.values():
            assert isinstance(values, np.ndarray)
            assert values.shape == (5,)
            assert np.isfinite(values).all()
        assert np.all(np.diff(generator.history_["seconds"]) > 0)
        assert generator.history_["seconds"][0] > 0
        assert np.all(generator.history_["objective"] >= 0)
        if tiny.options.get("persistence") == 2:
            assert np.all(generator.history_["n_inner"] == 2)

    def test_about_twenty_validations(self, tiny):
        generator = tiny(max_iter=61, persistence=1).fit(rows(600))
        made = np.flatnonzero(~np.isnan(generator.history_["validation"]))
        assert np.array_equal(made, [*range(2, 60, 3), 60])  # every third, and the last

    def test_all_steps_are_made(self, tiny):
        generator = tiny(max_iter=7).fit(rows())
        assert generator.n_iter_ == 7
        assert not generator.converged_

    def test_converged_when_the_figures_settle(self, tiny):
        # A tolerance that everything meets; fewer than eight figures are never enough.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            generator = tiny(max_iter=9, tol=10.0).fit(rows())
        assert generator.converged_
        assert generator.n_iter_ == 9

    @pytest.mark.parametrize("n", [200, 600])
    def test_early_stopping(self, tiny, n):
        # Nothing moves, so that nothing improves by half: one figure, and three without gain.
        stuck = {"learning_rate": 1e-12, "tol": 0.5, "max_iter": 15}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            generator = tiny(**stuck, n_iter_no_change=3).fit(rows(n))
        assert generator.n_iter_ == 4
        assert generator.converged_
        assert len(generator.history_["objective"]) == 4
        assert tiny(**stuck).fit(rows(n)).n_iter_ == 15

    def test_best_weights_are_kept(self, tiny, monkeypatch):
        # The figures rise after the third, by more than their noise: the third is kept, which is
        # the state that a run of three iterations on the same schedule ends in.
        module = sys.modules[tiny.generator.__module__]
        calls = iter([3.0, 2.0, 1.0, 5.0, 6.0])
        validation = Validation(lambda: next(calls), 0.1)
        monkeypatch.setattr(module, "held_out_divergence", lambda *_: validation)
        kept = tiny().fit(rows(600))
        stop = Recorder(stop_at=3)
        calls = iter([3.0, 2.0, 1.0])
        stopped = tiny().set_callbacks(stop).fit(rows(600))
        assert kept.n_iter_ == 5
        assert np.array_equal(kept.transform(rows(9)), stopped.transform(rows(9)))
        monkeypatch.undo()
        whole = tiny(validation_fraction=0.1, tol=0.0).fit(rows(600))
        assert not np.array_equal(kept.transform(rows(9)), whole.transform(rows(9)))


class TestWarnings:
    def test_not_converged(self, tiny):
        with pytest.warns(ConvergenceWarning) as record:
            generator = tiny().fit(rows())
        (warning,) = record
        figure = generator.history_["objective"][-1]
        assert str(warning.message) == (
            f"{tiny.name} did not converge in 5 iterations: the objective is {figure:.3g}. "
            "Increase max_iter, or accept a larger tol."
        )
        assert warning.filename == __file__

    def test_interrupted(self, tiny):
        with pytest.warns(UserWarning, match="interrupted") as record:
            tiny().set_callbacks(Recorder(interrupt_at=2)).fit(rows())
        assert [warning.filename for warning in record] == [__file__]

    @pytest.mark.parametrize("tiny", KINDS)
    @pytest.mark.parametrize("n", [200, 600])
    @pytest.mark.parametrize("learning_rate", [1e2, 1e12])
    def test_divergence_ends_in_a_warning(self, tiny, n, learning_rate):
        # Neither an error from deep inside nor NaN. 600 rows are validated on, 200 are not.
        generator = tiny(learning_rate=learning_rate)
        with pytest.warns(ConvergenceWarning) as record:
            generator.fit(rows(n))
        assert [warning.filename for warning in record] == [__file__]
        assert np.isfinite(generator.sample(50, random_state=0)).all()
        assert np.isfinite(generator.transform(rows(50))).all()
        for values in generator.history_.values():
            assert len(values) == generator.n_iter_

    def test_nan_on_the_way(self, tiny):
        with pytest.warns(ConvergenceWarning, match=r"met NaN or infinity at iteration 1; .*learn"):
            generator = tiny(learning_rate=1e30).fit(rows())
        assert generator.n_iter_ == 0
        assert not generator.converged_
        assert set(generator.history_) >= {"objective", "step", "seconds"}
        # the state before the spoilt step: the start
        start = tiny(learning_rate=1e-12, max_iter=1).fit(rows())
        assert np.allclose(generator.transform(rows(9)), start.transform(rows(9)), atol=1e-6)


class TestCallbacks:
    def test_order_of_the_hooks(self, tiny):
        recorder = Recorder()
        tiny(max_iter=3).set_callbacks(recorder).fit(rows())
        iteration = ["begin iteration", "end iteration"]
        assert recorder.events == ["setup", "begin fit", *3 * iteration, "end fit", "teardown"]

    def test_see_the_model_of_each_iteration(self, tiny):
        recorder = Recorder()
        generator = tiny(max_iter=12).set_callbacks(recorder).fit(rows())
        assert len(set(recorder.scores[:12])) == 12
        assert recorder.scores[11] > recorder.scores[0]
        assert recorder.scores[-1] == generator.score(rows())

    @pytest.mark.parametrize("tiny", FEW)
    def test_do_not_change_the_fit(self, tiny):
        plain = tiny().fit(rows())
        watched = tiny().set_callbacks(Recorder()).fit(rows())
        assert np.array_equal(plain.transform(rows(9)), watched.transform(rows(9)))

    @pytest.mark.parametrize("n", [200, 600])
    def test_hook_that_returns_true_stops(self, tiny, n):
        recorder = Recorder(stop_at=3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            generator = tiny(max_iter=8).set_callbacks(recorder).fit(rows(n))
        assert generator.n_iter_ == 3
        assert not generator.converged_
        assert recorder.events.count("end iteration") == 3
        assert recorder.events[-2:] == ["end fit", "teardown"]
        assert {len(values) for values in generator.history_.values()} == {3}
        assert np.isfinite(generator.sample(5)).all()

    def test_scoring_monitor_logs_every_iteration(self, tiny):
        monitor = ScoringMonitor(scoring={"score": lambda model, X, y: model.score(X)})
        generator = tiny(max_iter=4).set_callbacks(monitor).fit(rows())
        log = monitor.get_logs().data_as_pandas
        iterations = log[log.task_name == "iteration"]
        assert list(iterations.task_id) == [0, 1, 2, 3]
        assert iterations.score.notna().all()
        assert iterations.score.nunique() == 4
        assert iterations.score.iloc[-1] == pytest.approx(generator.score(rows()))

    def test_progress_bar(self, tiny, capsys):
        generator = tiny(max_iter=3).set_callbacks(ProgressBar()).fit(rows())
        assert generator.n_iter_ == 3
        assert tiny.name in capsys.readouterr().out

    def test_verbose_prints_every_few_iterations(self, tiny, capsys):
        generator = tiny(max_iter=7, verbose=3).fit(rows())
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        for line, k in zip(lines, (3, 6), strict=True):
            figure = generator.history_["objective"][k - 1]
            assert line.startswith(f"[{tiny.name}] iteration {k} ")
            assert f"objective {figure:.4g}" in line

    def test_silent_by_default(self, tiny, capsys):
        tiny().fit(rows())
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""


class TestInterrupt:
    def test_in_a_hook(self, tiny):
        with pytest.warns(UserWarning, match="interrupted after 3 iterations; the best state"):
            generator = tiny(max_iter=8).set_callbacks(Recorder(interrupt_at=3)).fit(rows())
        assert generator.n_iter_ == 3
        assert not generator.converged_
        assert {len(values) for values in generator.history_.values()} == {3}
        stopped = tiny(max_iter=8).set_callbacks(Recorder(stop_at=3)).fit(rows())
        assert np.array_equal(generator.transform(rows(9)), stopped.transform(rows(9)))
        assert np.isfinite(generator.score(rows()))
        assert np.array_equal(
            pickle.loads(pickle.dumps(generator)).transform(rows(9)), generator.transform(rows(9))
        )

    @pytest.mark.parametrize("tiny", FEW)
    @pytest.mark.parametrize("at", [0, 3])
    def test_in_the_middle_of_a_step(self, tiny, at, monkeypatch):
        # The step in progress has spoilt the weights: they must be put back.
        advance = NetworkCarrier.advance

        def interrupted(carrier):
            record = advance(carrier)
            if carrier.n_advanced > at:
                raise KeyboardInterrupt
            return record

        monkeypatch.setattr(NetworkCarrier, "advance", interrupted)
        with pytest.warns(UserWarning, match=f"interrupted after {at} iterations"):
            generator = tiny(max_iter=8).fit(rows())
        monkeypatch.undo()
        assert generator.n_iter_ == at
        assert set(generator.history_) >= {"objective", "step", "seconds"}
        assert {len(values) for values in generator.history_.values()} == {at}
        assert np.isfinite(generator.sample(9)).all()
        if at:
            stop = Recorder(stop_at=at)
            expected = tiny(max_iter=8).set_callbacks(stop).fit(rows())
            assert np.array_equal(generator.transform(rows(9)), expected.transform(rows(9)))

    def test_warm_start_goes_on_after_an_interrupt(self, tiny):
        generator = tiny(max_iter=8, warm_start=True).set_callbacks(Recorder(interrupt_at=3))
        with pytest.warns(UserWarning, match="interrupted"):
            generator.fit(rows())
        generator.set_callbacks().fit(rows())
        assert len(generator.history_["objective"]) == 11


class TestAfterAnEarlierFit:
    def test_early_stopping_judges_the_new_run_alone(self, tiny):
        # Bug caught: a plateau that reads the figures of the earlier fit ends every later one
        # after one iteration, even on other data.
        stuck = {"learning_rate": 1e-12, "tol": 0.5, "max_iter": 15, "n_iter_no_change": 3}
        generator = tiny(**stuck, warm_start=True).fit(rows())
        assert generator.n_iter_ == 4
        assert generator.fit(rows()).n_iter_ == 4
        assert len(generator.history_["objective"]) == 8

    def test_a_warning_made_an_error_leaves_a_fitted_estimator(self, tiny):
        generator = tiny(warm_start=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ConvergenceWarning):
                generator.fit(rows())
        assert np.isfinite(generator.sample(3)).all()
        with pytest.warns(ConvergenceWarning):
            generator.fit(rows())

    def test_a_refused_fit_leaves_the_earlier_one_usable(self, tiny):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            generator = tiny(warm_start=True).fit(rows(d=2))
            draws = generator.sample(3, random_state=0)
            with pytest.raises(ValueError, match="columns have changed"):
                generator.fit(rows(d=4))
        assert np.array_equal(generator.sample(3, random_state=0), draws)
