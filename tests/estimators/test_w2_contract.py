"""W2FlowGenerator as an estimator: sample, score, kinds of input, persistence, monitoring."""

from __future__ import annotations

import copy
import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import W2FlowGenerator
from skwgf.estimators._validation import Validation
from skwgf.flows import NetworkCarrier
from skwgf.metrics import sinkhorn_divergence

pytestmark = pytest.mark.filterwarnings(
    "ignore:W2FlowGenerator did not converge:sklearn.exceptions.ConvergenceWarning"
)

TINY = {
    "hidden_layer_sizes": (16, 16),
    "batch_size": 128,
    "max_iter": 5,
    "random_state": 0,
}
KINDS = [
    pytest.param({}, id="full"),
    pytest.param({"persistence": 2}, id="int"),
    pytest.param({"persistence": "auto"}, id="auto"),
    pytest.param({"potential": "minibatch"}, id="minibatch"),
    pytest.param({"potential": "network"}, id="network"),
]
FEW = KINDS[0], KINDS[1], KINDS[3]


def tiny(**options):
    return W2FlowGenerator(**{**TINY, **options})


def rows(n=200, d=2, seed=0):
    """Return rows that float32 represents exactly."""
    draws = np.random.default_rng(seed).normal(loc=1.0, scale=2.0, size=(n, d))
    return np.round(64 * draws) / 64


@pytest.fixture(scope="module")
def fitted():
    return tiny().fit(rows())


@pytest.fixture(scope="module")
def carried():
    """Return a generator with 60 source rows."""
    return tiny().fit(rows(), X_source=rows(60, seed=1))


def is_among(draws, images):
    """Tell for each draw whether it is one of the images."""
    distances = np.abs(draws[:, None] - images[None]).max(2)
    return distances.min(1) < 1e-9


class TestSample:
    def test_shape(self, fitted):
        assert fitted.sample().shape == (1, 2)
        assert fitted.sample(7).shape == (7, 2)
        assert fitted.sample(np.int64(3)).shape == (3, 2)
        assert type(fitted.sample(3)) is np.ndarray

    @pytest.mark.parametrize("given", [np.float32, np.float64])
    @pytest.mark.parametrize("asked", [None, "float32", "float64", np.float32, np.dtype("float64")])
    def test_dtype_follows_the_data_or_the_parameter(self, given, asked):
        generator = tiny(max_iter=1, dtype=asked).fit(rows().astype(given))
        assert generator.sample(3).dtype == np.dtype(given if asked is None else asked)

    def test_integers_give_floats(self):
        assert tiny(max_iter=1).fit(rows().astype(int)).sample(3).dtype == np.float64

    def test_same_seed_same_draws(self, fitted):
        assert np.array_equal(fitted.sample(5, random_state=3), fitted.sample(5, random_state=3))
        assert not np.array_equal(
            fitted.sample(5, random_state=3), fitted.sample(5, random_state=4)
        )

    def test_no_seed_gives_fresh_draws(self, fitted):
        # Also when the fit had a seed and numpy's global generator is set back.
        np.random.seed(0)  # noqa: NPY002
        first = fitted.sample(5)
        np.random.seed(0)  # noqa: NPY002
        assert not np.array_equal(first, fitted.sample(5))

    def test_random_state_instance_advances(self, fitted):
        state = np.random.RandomState(5)
        first, second = fitted.sample(5, random_state=state), fitted.sample(5, random_state=state)
        assert not np.array_equal(first, second)
        again = np.random.RandomState(5)
        assert np.array_equal(first, fitted.sample(5, random_state=again))
        assert np.array_equal(second, fitted.sample(5, random_state=again))

    def test_draws_differ_from_each_other(self, fitted):
        assert len(np.unique(fitted.sample(500, random_state=0), axis=0)) == 500

    @pytest.mark.parametrize("which", ["fitted", "carried"])
    def test_leaves_the_estimator_alone(self, which, request):
        generator = request.getfixturevalue(which)
        before, keys = pickle.dumps(generator), list(generator.__dict__)
        generator.sample(50)
        generator.sample(500, random_state=0)
        generator.score(rows(50))
        generator.transform(rows(50))
        assert list(generator.__dict__) == keys
        assert pickle.dumps(generator) == before

    def test_changing_the_draws_changes_nothing(self, carried):
        draws = carried.sample(60, random_state=0)
        kept = draws.copy()
        draws[:] = 0
        assert np.array_equal(carried.sample(60, random_state=0), kept)

    def test_with_a_source_without_replacement_up_to_its_rows(self, carried):
        images = carried.transform(rows(60, seed=1))
        for n in (1, 40, 60):
            draws = carried.sample(n, random_state=1)
            assert np.all(is_among(draws, images))
            assert len(np.unique(draws.round(9), axis=0)) == n

    def test_with_a_source_with_replacement_beyond(self, carried):
        images = carried.transform(rows(60, seed=1))
        draws = carried.sample(1200, random_state=1)
        assert np.all(is_among(draws, images))
        # every row comes up: one is missing with probability 60 exp(-20)
        assert np.all(is_among(images, draws))
        # ... at random: 20 times each would be a cycle through the rows
        nearest = np.abs(draws[:, None] - images[None]).max(2).argmin(1)
        assert np.bincount(nearest, minlength=60).std() > 2

    def test_is_a_subset_at_random(self, carried):
        # Catches the first rows of the source.
        images = carried.transform(rows(60, seed=1))
        draws = carried.sample(30, random_state=1)
        assert not np.all(is_among(draws, images[:30]))


class TestScore:
    def test_is_minus_the_debiased_divergence(self, fitted, monkeypatch):
        # reg is .05 of the mean cost within X: it does not depend on the model.
        X, draws = rows(80, seed=2), rows(80, seed=3) + 1.0
        monkeypatch.setattr(fitted, "_draw", lambda n, *args: torch.tensor(draws[:n]))
        reg = 0.05 * X.var(0).sum()  # the mean of |x - x'|^2 / 2 over all pairs
        expected = -sinkhorn_divergence(X, draws, reg=reg)
        assert fitted.score(X) == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("shift", [0.0, 1.0, 100.0])
    def test_of_a_translation(self, fitted, monkeypatch, shift):
        # The divergence of a cloud from itself moved by s is |s|^2 / 2, whatever reg is.
        X = rows(80, seed=2)
        monkeypatch.setattr(fitted, "_draw", lambda n, *args: torch.tensor(X + shift))
        assert fitted.score(X) == pytest.approx(-(shift**2), rel=1e-3, abs=1e-6)

    def test_is_larger_for_a_better_model(self):
        X, held_out = rows(600), rows(300, seed=1)
        scores = [
            tiny(max_iter=max_iter, learning_rate=rate).fit(X).score(held_out)
            for max_iter, rate in ((1, 1e-8), (3, 0.01), (40, 0.01))
        ]
        assert scores[0] < scores[1] < scores[2] < 0.01

    def test_is_deterministic(self, fitted):
        X = rows(100, seed=1)
        score = fitted.score(X)
        assert isinstance(score, float)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        assert fitted.score(X) == score
        assert fitted.score(X, np.zeros(100)) == score
        assert copy.deepcopy(fitted).score(X) == score

    def test_is_in_squared_units(self):
        X = rows()
        score = tiny().fit(X).score(X)
        assert tiny().fit(1024 * X).score(1024 * X) == pytest.approx(1024**2 * score, rel=1e-6)

    @pytest.mark.slow
    def test_of_more_than_5000_rows(self, fitted):
        # A fixed random choice of 5000 rows is compared. Catches the first 5000 (here zeros).
        X = np.concatenate([np.zeros((200, 2)), rows(5400, seed=1)])
        score = fitted.score(X)
        assert fitted.score(X) == score
        assert score == pytest.approx(fitted.score(X[np.r_[:100, 200:2900]]), abs=0.1)

    def test_of_one_row(self, fitted):
        score = fitted.score(np.array([[1.0, 1.0]]))
        assert np.isfinite(score)
        assert score < 0

    def test_of_the_source_case(self, carried):
        assert carried.score(rows(100, seed=4)) < 1e-9

    @pytest.mark.parametrize("distance", [1e3, 1e6, 1e12])
    def test_of_a_model_far_off(self, fitted, monkeypatch, distance):
        # A setting that has diverged must lose in a search and not end it.
        X = rows(80, seed=2)
        monkeypatch.setattr(fitted, "_draw", lambda n, *args: torch.tensor(X + distance))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert fitted.score(X) == pytest.approx(-(distance**2), rel=1e-2)

    def test_of_rows_much_closer_together_than_the_draws(self, fitted):
        # Half the mean squared distance of the draws from the place, minus what reg blurs.
        X = 1e-5 * rows(100)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            score = fitted.score(X)
        energy = 0.5 * np.mean(np.sum(fitted.sample(5000, random_state=0) ** 2, axis=1))
        assert score == pytest.approx(-energy, rel=0.3)


class TestDeterminism:
    @pytest.mark.parametrize("options", KINDS)
    def test_same_seed_same_fit(self, options):
        X = rows()
        first, second = tiny(**options).fit(X), tiny(**options).fit(X)
        assert np.array_equal(first.sample(20, random_state=0), second.sample(20, random_state=0))
        assert first.score(X) == second.score(X)
        for key in set(first.history_) - {"seconds"}:
            assert np.array_equal(first.history_[key], second.history_[key], equal_nan=True)

    def test_held_out_rows_are_the_same_too(self):
        X = rows(600)
        draws = [tiny().fit(X).sample(20, random_state=0) for _ in range(2)]
        assert np.array_equal(*draws)

    def test_other_seed_other_fit(self):
        X = rows()
        draws = [tiny(random_state=seed).fit(X).sample(20, random_state=0) for seed in (0, 1)]
        assert not np.allclose(*draws)

    def test_no_seed_fresh_entropy(self):
        X, draws = rows(), []
        for _ in range(2):
            np.random.seed(0)  # noqa: NPY002
            torch.manual_seed(0)
            draws.append(tiny(random_state=None).fit(X).sample(20, random_state=0))
        assert not np.allclose(*draws)

    def test_random_state_instance(self):
        X, state = rows(), np.random.RandomState(0)
        first, second = (tiny(random_state=state).fit(X).transform(X) for _ in range(2))
        assert not np.allclose(first, second)
        again = np.random.RandomState(0)
        assert np.array_equal(first, tiny(random_state=again).fit(X).transform(X))

    @pytest.mark.parametrize("options", KINDS)
    @pytest.mark.parametrize(("source", "seed"), [(False, None), (True, 0)])
    def test_global_random_states_are_untouched(self, options, source, seed):
        X = rows(600)
        X_source = rows(100, seed=1) if source else None
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        generator = tiny(**options).set_params(random_state=seed, max_iter=2)
        generator.fit(X, X_source=X_source)
        generator.sample(5, random_state=seed)
        generator.score(X[:20])
        assert torch.equal(torch.get_rng_state(), torch_state)
        for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
            assert np.array_equal(before, after)


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


INPUTS = {
    "read-only": read_only,
    "float32": lambda X: X.astype(np.float32),
    "Fortran order": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "list": np.ndarray.tolist,
    "object": lambda X: X.astype(object),
    "pandas": lambda X: pd.DataFrame(X, columns=["a", "b"]),
    "polars": lambda X: pl.DataFrame(X, schema=["a", "b"]),
    "tensor": lambda X: torch.tensor(X, requires_grad=True),
    "tensor, float32": lambda X: torch.tensor(X, dtype=torch.float32, requires_grad=True),
}


class TestKindsOfInput:
    @pytest.mark.parametrize("kind", INPUTS.values(), ids=INPUTS)
    def test_all_give_the_same_result(self, kind):
        # The rows are exact in float32, so that even float32 must agree but for its output.
        X, X_source, new = rows(), rows(60, seed=1), rows(30, seed=2)
        expected = tiny().fit(X, X_source=X_source)
        generator = tiny().fit(kind(X), X_source=kind(X_source))
        images = generator.transform(kind(new))
        assert np.allclose(images, expected.transform(new), rtol=1e-6, atol=1e-6)
        draws = generator.sample(30, random_state=0)
        assert np.allclose(draws, expected.sample(30, random_state=0), rtol=1e-6, atol=1e-6)
        assert generator.score(kind(new)) == pytest.approx(expected.score(new), rel=1e-6)
        narrow = isinstance(images, np.ndarray) and images.dtype == np.float32
        assert narrow == (kind in (INPUTS["float32"], INPUTS["tensor, float32"]))

    def test_integers(self):
        X = np.round(4 * rows())
        expected = tiny().fit(X).transform(X)
        assert np.array_equal(tiny().fit(X.astype(np.int64)).transform(X.astype(np.int8)), expected)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_fit_and_transform_leave_the_data_alone(self, dtype):
        X, X_source = rows().astype(dtype), rows(60, seed=1).astype(dtype)
        y_source = np.arange(60) % 3
        kept = X.copy(), X_source.copy(), y_source.copy()
        tiny().fit(X, X_source=X_source, y_source=y_source).transform(X_source)
        for given, copied in zip((X, X_source, y_source), kept, strict=True):
            assert np.array_equal(given, copied)

    def test_tensors_keep_their_graph(self):
        X = torch.tensor(rows(), requires_grad=True)
        tiny().fit(X)
        assert X.requires_grad
        assert X.grad is None

    def test_precision_of_transform_is_that_of_its_rows(self, fitted):
        for dtype in (np.float32, np.float64):
            assert fitted.transform(rows(5).astype(dtype)).dtype == dtype

    def test_fitted_source_is_a_copy(self):
        # Catches a reference to the caller's array: what is done to it later would reach sample.
        X_source = rows(60, seed=1)
        generator = tiny().fit(rows(), X_source=X_source)
        before = generator.sample(60, random_state=0)
        X_source[:] = 1e6
        assert np.array_equal(generator.sample(60, random_state=0), before)

    def test_feature_names(self):
        frame = pd.DataFrame(rows(), columns=["height", "weight"])
        generator = tiny().fit(frame)
        assert generator.n_features_in_ == 2
        assert list(generator.feature_names_in_) == ["height", "weight"]
        assert list(generator.get_feature_names_out()) == ["height", "weight"]
        with pytest.raises(ValueError, match="feature names"):
            generator.transform(frame.rename(columns={"height": "width"}))
        assert not hasattr(tiny().fit(rows()), "feature_names_in_")

    def test_names_of_the_source_must_be_those_of_the_target(self):
        frame = pd.DataFrame(rows(), columns=["height", "weight"])
        with pytest.raises(ValueError, match="feature names"):
            tiny().fit(frame, X_source=frame.rename(columns={"height": "width"}))

    @pytest.mark.parametrize(
        ("library", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]
    )
    def test_set_output(self, library, kind):
        frame = INPUTS[library](rows())
        generator = tiny().set_output(transform=library).fit(frame)
        images = generator.transform(frame)
        assert isinstance(images, kind)
        assert list(images.columns) == ["a", "b"]
        expected = tiny().fit(rows()).transform(rows())
        assert np.array_equal(images.to_numpy(), expected)


class TestLifeOfTheEstimator:
    def test_fit_returns_self_and_keeps_the_parameters(self):
        generator = tiny(persistence=None, reg=None, hidden_layer_sizes=[16, 16])
        parameters = copy.deepcopy(generator.get_params())
        assert generator.fit(rows(), X_source=rows(60), y_source=np.arange(60) % 2) is generator
        assert generator.get_params() == parameters

    def test_refit_forgets(self):
        generator = tiny().fit(rows(), X_source=rows(60, d=2), y_source=np.arange(60) % 2)
        again = generator.fit(rows(d=3))
        fresh = tiny().fit(rows(d=3))
        assert again.X_source_ is None
        assert again.classes_source_ is None
        assert again.target_proba_ is None
        assert again.n_features_in_ == 3
        assert len(again.history_["objective"]) == 5
        assert np.array_equal(again.sample(9, random_state=0), fresh.sample(9, random_state=0))

    def test_clone_is_unfitted_with_the_same_parameters(self, fitted):
        twin = clone(fitted)
        assert twin.get_params() == fitted.get_params()
        with pytest.raises(NotFittedError):
            twin.sample()

    @pytest.mark.parametrize("which", ["fitted", "carried"])
    @pytest.mark.parametrize("way", ["pickle", "joblib", "deepcopy"])
    def test_copies_act_the_same_to_the_bit(self, which, way, request, tmp_path):
        generator = request.getfixturevalue(which)
        if way == "pickle":
            twin = pickle.loads(pickle.dumps(generator))
        elif way == "joblib":
            joblib.dump(generator, tmp_path / "generator.joblib")
            twin = joblib.load(tmp_path / "generator.joblib")
        else:
            twin = copy.deepcopy(generator)
        X = rows(20, seed=5)
        assert np.array_equal(twin.transform(X), generator.transform(X))
        assert np.array_equal(twin.sample(9, random_state=0), generator.sample(9, random_state=0))
        assert twin.score(X) == generator.score(X)

    @pytest.mark.slow
    def test_grid_search_in_two_processes(self):
        grid = {"learning_rate": [1e-8, 0.02]}
        search = GridSearchCV(tiny(max_iter=10), grid, cv=2, n_jobs=2).fit(rows())
        alone = GridSearchCV(tiny(max_iter=10), grid, cv=2, n_jobs=1).fit(rows())
        assert search.best_params_ == {"learning_rate": 0.02}
        key = "mean_test_score"
        assert np.allclose(search.cv_results_[key], alone.cv_results_[key], rtol=1e-4)
        assert search.best_estimator_.sample(3).shape == (3, 2)

    def test_in_a_pipeline(self):
        X = rows() * [1.0, 64.0]
        pipeline = make_pipeline(StandardScaler(), tiny()).fit(X)
        inside = StandardScaler().fit(X)
        expected = tiny().fit(inside.transform(X))
        assert np.array_equal(pipeline.transform(X), expected.transform(inside.transform(X)))
        assert pipeline.score(X) == expected.score(inside.transform(X))

    def test_source_is_scaled_with_the_target_in_a_pipeline(self):
        X, X_source = rows() * [1.0, 64.0], rows(60, seed=1) * [1.0, 64.0] + 8.0
        with config_context(enable_metadata_routing=True):
            generator = tiny().set_fit_request(X_source=True)
            pipeline = Pipeline(
                [("scaler", StandardScaler()), ("flow", generator)], transform_input=["X_source"]
            )
            pipeline.fit(X, X_source=X_source)
            images = pipeline.transform(X_source)
        scaler = StandardScaler().fit(X)
        expected = tiny().fit(scaler.transform(X), X_source=scaler.transform(X_source))
        assert np.array_equal(pipeline[-1].X_source_, scaler.transform(X_source))
        assert np.array_equal(images, expected.transform(scaler.transform(X_source)))


class TestWarmStart:
    def test_history_grows(self):
        generator = tiny(warm_start=True).fit(rows())
        first = {key: values.copy() for key, values in generator.history_.items()}
        generator.fit(rows())
        assert generator.n_iter_ == 5
        for key, values in generator.history_.items():
            assert len(values) == 10
            assert np.array_equal(values[:5], first[key])
        assert np.all(np.diff(generator.history_["seconds"]) > 0)

    @pytest.mark.parametrize("options", FEW)
    def test_goes_on_from_the_weights(self, options):
        # With a vanishing learning rate the second fit stays where the first ended. ema_decay=0
        # makes the fitted network the last one. Catches a new start.
        X = rows()
        generator = tiny(warm_start=True, ema_decay=0.0, **options).fit(X)
        before = generator.transform(X)
        generator.set_params(learning_rate=1e-12, max_iter=2).fit(X)
        assert np.allclose(generator.transform(X), before, atol=1e-5)
        start = tiny(learning_rate=1e-12, ema_decay=0.0, max_iter=2, **options).fit(X)
        assert not np.allclose(start.transform(X), before, atol=1e-2)

    def test_without_it_fit_starts_anew(self):
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
    def test_changed_layers(self, before, after, d):
        generator = tiny(warm_start=True, hidden_layer_sizes=before).fit(rows(d=d))
        with pytest.raises(ValueError, match=r"warm_start=True .* layers .* Set warm_start=False"):
            generator.set_params(hidden_layer_sizes=after).fit(rows(d=d))

    def test_changed_columns(self):
        generator = tiny(warm_start=True).fit(rows(d=2))
        with pytest.raises(ValueError, match=r"warm_start=True .* columns have changed"):
            generator.fit(rows(d=3))

    def test_changed_activation(self):
        # The same weights are another map then.
        generator = tiny(warm_start=True).fit(rows())
        with pytest.raises(ValueError, match="warm_start=True"):
            generator.set_params(activation="tanh").fit(rows())

    def test_source_given_to_one_fit_only(self):
        # The weights of a map from N(0, I) would be read as a displacement.
        generator = tiny(warm_start=True).fit(rows())
        with pytest.raises(ValueError, match="warm_start=True"):
            generator.fit(rows(), X_source=rows(60))


class TestHistory:
    @pytest.mark.parametrize("options", KINDS)
    @pytest.mark.parametrize("n", [200, 600])
    def test_keys_and_lengths(self, options, n):
        generator = tiny(**options).fit(rows(n))
        keys = {"objective", "step", "seconds"}
        if options:
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
        if options.get("persistence") == 2:
            assert np.all(generator.history_["n_inner"] == 2)

    def test_about_twenty_validations(self):
        generator = tiny(max_iter=61, persistence=1).fit(rows(600))
        made = np.flatnonzero(~np.isnan(generator.history_["validation"]))
        assert np.array_equal(made, [*range(2, 60, 3), 60])  # every third, and the last

    def test_all_steps_are_made(self):
        generator = tiny(max_iter=7).fit(rows())
        assert generator.n_iter_ == 7
        assert not generator.converged_

    def test_converged_when_the_figures_settle(self):
        # A tolerance that everything meets; fewer than eight figures are never enough.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            generator = tiny(max_iter=9, tol=10.0).fit(rows())
        assert generator.converged_
        assert generator.n_iter_ == 9

    @pytest.mark.parametrize("n", [200, 600])
    def test_early_stopping(self, n):
        # Nothing moves, so that nothing improves by half: one figure, and three without gain.
        stuck = {"learning_rate": 1e-12, "tol": 0.5, "max_iter": 15}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            generator = tiny(**stuck, n_iter_no_change=3).fit(rows(n))
        assert generator.n_iter_ == 4
        assert generator.converged_
        assert len(generator.history_["objective"]) == 4
        assert tiny(**stuck).fit(rows(n)).n_iter_ == 15

    def test_best_weights_are_kept(self, monkeypatch):
        # The figures rise after the third, by more than their noise: the third is kept, which is
        # the state that a run of three iterations on the same schedule ends in.
        import skwgf.estimators.w2_flow as module

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
    def test_not_converged(self):
        with pytest.warns(ConvergenceWarning) as record:
            generator = tiny().fit(rows())
        (warning,) = record
        figure = generator.history_["objective"][-1]
        assert str(warning.message) == (
            f"W2FlowGenerator did not converge in 5 iterations: the objective is {figure:.3g}. "
            "Increase max_iter, or accept a larger tol."
        )
        assert warning.filename == __file__

    def test_interrupted(self):
        with pytest.warns(UserWarning, match="interrupted") as record:
            tiny().set_callbacks(Recorder(interrupt_at=2)).fit(rows())
        assert [warning.filename for warning in record] == [__file__]

    @pytest.mark.parametrize("options", KINDS)
    @pytest.mark.parametrize("n", [200, 600])
    @pytest.mark.parametrize("learning_rate", [1e2, 1e12])
    def test_divergence_ends_in_a_warning(self, options, n, learning_rate):
        # Neither an error from deep inside nor NaN. 600 rows are validated on, 200 are not.
        generator = tiny(**options, learning_rate=learning_rate)
        with pytest.warns(ConvergenceWarning) as record:
            generator.fit(rows(n))
        assert [warning.filename for warning in record] == [__file__]
        assert np.isfinite(generator.sample(50, random_state=0)).all()
        assert np.isfinite(generator.transform(rows(50))).all()
        for values in generator.history_.values():
            assert len(values) == generator.n_iter_

    def test_nan_on_the_way(self):
        with pytest.warns(ConvergenceWarning, match=r"met NaN or infinity at iteration 1; .*learn"):
            generator = tiny(learning_rate=1e30).fit(rows())
        assert generator.n_iter_ == 0
        assert not generator.converged_
        assert set(generator.history_) >= {"objective", "step", "seconds"}
        # the state before the spoilt step: the start
        start = tiny(learning_rate=1e-12, max_iter=1).fit(rows())
        assert np.allclose(generator.transform(rows(9)), start.transform(rows(9)), atol=1e-6)


class Recorder:
    """A callback that counts, and stops or interrupts after some iterations."""

    def __init__(self, *, stop_at=None, interrupt_at=None):
        self.stop_at, self.interrupt_at = stop_at, interrupt_at
        self.events, self.scores = [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.events.append(f"end {context.task_name}")
        self.scores.append(fitted_estimator.score(X))
        done = self.events.count("end iteration")
        if context.task_name == "iteration" and done == self.interrupt_at:
            raise KeyboardInterrupt
        return context.task_name == "iteration" and done == self.stop_at


class TestCallbacks:
    def test_order_of_the_hooks(self):
        recorder = Recorder()
        tiny(max_iter=3).set_callbacks(recorder).fit(rows())
        iteration = ["begin iteration", "end iteration"]
        assert recorder.events == ["setup", "begin fit", *3 * iteration, "end fit", "teardown"]

    def test_see_the_model_of_each_iteration(self):
        recorder = Recorder()
        generator = tiny(max_iter=12).set_callbacks(recorder).fit(rows())
        assert len(set(recorder.scores[:12])) == 12
        assert recorder.scores[11] > recorder.scores[0]
        assert recorder.scores[-1] == generator.score(rows())

    @pytest.mark.parametrize("options", FEW)
    def test_do_not_change_the_fit(self, options):
        plain = tiny(**options).fit(rows())
        watched = tiny(**options).set_callbacks(Recorder()).fit(rows())
        assert np.array_equal(plain.transform(rows(9)), watched.transform(rows(9)))

    @pytest.mark.parametrize("n", [200, 600])
    def test_hook_that_returns_true_stops(self, n):
        recorder = Recorder(stop_at=3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            generator = tiny(max_iter=20).set_callbacks(recorder).fit(rows(n))
        assert generator.n_iter_ == 3
        assert not generator.converged_
        assert recorder.events.count("end iteration") == 3
        assert recorder.events[-2:] == ["end fit", "teardown"]
        assert {len(values) for values in generator.history_.values()} == {3}
        assert np.isfinite(generator.sample(5)).all()

    def test_scoring_monitor_logs_every_iteration(self):
        monitor = ScoringMonitor(scoring={"score": lambda model, X, y: model.score(X)})
        generator = tiny(max_iter=4).set_callbacks(monitor).fit(rows())
        log = monitor.get_logs().data_as_pandas
        iterations = log[log.task_name == "iteration"]
        assert list(iterations.task_id) == [0, 1, 2, 3]
        assert iterations.score.notna().all()
        assert iterations.score.nunique() == 4
        assert iterations.score.iloc[-1] == pytest.approx(generator.score(rows()))

    def test_progress_bar(self, capsys):
        generator = tiny(max_iter=3).set_callbacks(ProgressBar()).fit(rows())
        assert generator.n_iter_ == 3
        assert "W2FlowGenerator" in capsys.readouterr().out

    def test_verbose_prints_every_few_iterations(self, capsys):
        generator = tiny(max_iter=7, verbose=3).fit(rows())
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        for line, k in zip(lines, (3, 6), strict=True):
            figure = generator.history_["objective"][k - 1]
            assert line.startswith(f"[W2FlowGenerator] iteration {k} ")
            assert f"objective {figure:.4g}" in line

    def test_silent_by_default(self, capsys):
        tiny().fit(rows())
        captured = capsys.readouterr()
        assert captured.out == captured.err == ""


class TestInterrupt:
    def test_in_a_hook(self):
        with pytest.warns(UserWarning, match="interrupted after 3 iterations; the best state"):
            generator = tiny(max_iter=20).set_callbacks(Recorder(interrupt_at=3)).fit(rows())
        assert generator.n_iter_ == 3
        assert not generator.converged_
        assert {len(values) for values in generator.history_.values()} == {3}
        stopped = tiny(max_iter=20).set_callbacks(Recorder(stop_at=3)).fit(rows())
        assert np.array_equal(generator.transform(rows(9)), stopped.transform(rows(9)))
        assert np.isfinite(generator.score(rows()))
        assert np.array_equal(
            pickle.loads(pickle.dumps(generator)).transform(rows(9)), generator.transform(rows(9))
        )

    @pytest.mark.parametrize("options", FEW)
    @pytest.mark.parametrize("at", [0, 3])
    def test_in_the_middle_of_a_step(self, options, at, monkeypatch):
        # The step in progress has spoilt the weights: they must be put back.
        advance = NetworkCarrier.advance

        def interrupted(carrier):
            record = advance(carrier)
            if carrier.n_advanced > at:
                raise KeyboardInterrupt
            return record

        monkeypatch.setattr(NetworkCarrier, "advance", interrupted)
        with pytest.warns(UserWarning, match=f"interrupted after {at} iterations"):
            generator = tiny(max_iter=20, **options).fit(rows())
        monkeypatch.undo()
        assert generator.n_iter_ == at
        assert set(generator.history_) >= {"objective", "step", "seconds"}
        assert {len(values) for values in generator.history_.values()} == {at}
        assert np.isfinite(generator.sample(9)).all()
        if at:
            stop = Recorder(stop_at=at)
            expected = tiny(max_iter=20, **options).set_callbacks(stop).fit(rows())
            assert np.array_equal(generator.transform(rows(9)), expected.transform(rows(9)))

    def test_warm_start_goes_on_after_an_interrupt(self):
        generator = tiny(max_iter=20, warm_start=True).set_callbacks(Recorder(interrupt_at=3))
        with pytest.warns(UserWarning, match="interrupted"):
            generator.fit(rows())
        generator.set_callbacks().fit(rows())
        assert len(generator.history_["objective"]) == 23


class TestAfterAnEarlierFit:
    def test_early_stopping_judges_the_new_run_alone(self):
        # Bug caught: a plateau that reads the figures of the earlier fit ends every later one
        # after one iteration, even on other data.
        stuck = {"learning_rate": 1e-12, "tol": 0.5, "max_iter": 15, "n_iter_no_change": 3}
        generator = tiny(**stuck, warm_start=True).fit(rows())
        assert generator.n_iter_ == 4
        assert generator.fit(rows()).n_iter_ == 4
        assert len(generator.history_["objective"]) == 8

    def test_a_warning_made_an_error_leaves_a_fitted_estimator(self):
        generator = tiny(warm_start=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ConvergenceWarning):
                generator.fit(rows())
        assert np.isfinite(generator.sample(3)).all()
        with pytest.warns(ConvergenceWarning):
            generator.fit(rows())

    def test_a_refused_fit_leaves_the_earlier_one_usable(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            generator = tiny(warm_start=True).fit(rows(d=2))
            draws = generator.sample(3, random_state=0)
            with pytest.raises(ValueError, match="columns have changed"):
                generator.fit(rows(d=4))
        assert np.array_equal(generator.sample(3, random_state=0), draws)
