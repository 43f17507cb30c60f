"""Generators as estimators: kinds of input, copies, pipelines and searches."""

from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from generators import NOT_CONVERGED, rows
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

pytestmark = pytest.mark.filterwarnings(NOT_CONVERGED)


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
    def test_all_give_the_same_result(self, tiny, kind):
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

    def test_integers(self, tiny):
        X = np.round(4 * rows())
        expected = tiny().fit(X).transform(X)
        assert np.array_equal(tiny().fit(X.astype(np.int64)).transform(X.astype(np.int8)), expected)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_fit_and_transform_leave_the_data_alone(self, tiny, dtype):
        X, X_source = rows().astype(dtype), rows(60, seed=1).astype(dtype)
        y_source = np.arange(60) % 3
        kept = X.copy(), X_source.copy(), y_source.copy()
        tiny().fit(X, X_source=X_source, y_source=y_source).transform(X_source)
        for given, copied in zip((X, X_source, y_source), kept, strict=True):
            assert np.array_equal(given, copied)

    def test_tensors_keep_their_graph(self, tiny):
        X = torch.tensor(rows(), requires_grad=True)
        tiny().fit(X)
        assert X.requires_grad
        assert X.grad is None

    def test_precision_of_transform_is_that_of_its_rows(self, fitted):
        for dtype in (np.float32, np.float64):
            assert fitted.transform(rows(5).astype(dtype)).dtype == dtype

    def test_fitted_source_is_a_copy(self, tiny):
        # Catches a reference to the caller's array: what is done to it later would reach sample.
        X_source = rows(60, seed=1)
        generator = tiny().fit(rows(), X_source=X_source)
        before = generator.sample(60, random_state=0)
        X_source[:] = 1e6
        assert np.array_equal(generator.sample(60, random_state=0), before)

    def test_feature_names(self, tiny):
        frame = pd.DataFrame(rows(), columns=["height", "weight"])
        generator = tiny().fit(frame)
        assert generator.n_features_in_ == 2
        assert list(generator.feature_names_in_) == ["height", "weight"]
        assert list(generator.get_feature_names_out()) == ["height", "weight"]
        with pytest.raises(ValueError, match="feature names"):
            generator.transform(frame.rename(columns={"height": "width"}))
        assert not hasattr(tiny().fit(rows()), "feature_names_in_")

    def test_names_of_the_source_must_be_those_of_the_target(self, tiny):
        frame = pd.DataFrame(rows(), columns=["height", "weight"])
        with pytest.raises(ValueError, match="feature names"):
            tiny().fit(frame, X_source=frame.rename(columns={"height": "width"}))

    @pytest.mark.parametrize(
        ("library", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]
    )
    def test_set_output(self, tiny, library, kind):
        frame = INPUTS[library](rows())
        generator = tiny().set_output(transform=library).fit(frame)
        images = generator.transform(frame)
        assert isinstance(images, kind)
        assert list(images.columns) == ["a", "b"]
        expected = tiny().fit(rows()).transform(rows())
        assert np.array_equal(images.to_numpy(), expected)


class TestLifeOfTheEstimator:
    def test_fit_returns_self_and_keeps_the_parameters(self, tiny):
        generator = tiny(reg=None, hidden_layer_sizes=[16, 16])
        parameters = copy.deepcopy(generator.get_params())
        assert generator.fit(rows(), X_source=rows(60), y_source=np.arange(60) % 2) is generator
        assert generator.get_params() == parameters

    def test_refit_forgets(self, tiny):
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

    @pytest.mark.parametrize("way", ["pickle", "joblib", "deepcopy"])
    def test_copies_act_the_same_to_the_bit(self, either, way, tmp_path):
        if way == "pickle":
            twin = pickle.loads(pickle.dumps(either))
        elif way == "joblib":
            joblib.dump(either, tmp_path / "generator.joblib")
            twin = joblib.load(tmp_path / "generator.joblib")
        else:
            twin = copy.deepcopy(either)
        X = rows(20, seed=5)
        assert np.array_equal(twin.transform(X), either.transform(X))
        assert np.array_equal(twin.sample(9, random_state=0), either.sample(9, random_state=0))
        assert twin.score(X) == either.score(X)

    @pytest.mark.slow
    def test_grid_search_in_two_processes(self, tiny):
        grid = {"learning_rate": [1e-8, 0.02]}
        search = GridSearchCV(tiny(max_iter=10), grid, cv=2, n_jobs=2).fit(rows())
        alone = GridSearchCV(tiny(max_iter=10), grid, cv=2, n_jobs=1).fit(rows())
        assert search.best_params_ == {"learning_rate": 0.02}
        key = "mean_test_score"
        assert np.allclose(search.cv_results_[key], alone.cv_results_[key], rtol=1e-4)
        assert search.best_estimator_.sample(3).shape == (3, 2)

    def test_in_a_pipeline(self, tiny):
        X = rows() * [1.0, 64.0]
        pipeline = make_pipeline(StandardScaler(), tiny()).fit(X)
        inside = StandardScaler().fit(X)
        expected = tiny().fit(inside.transform(X))
        assert np.array_equal(pipeline.transform(X), expected.transform(inside.transform(X)))
        assert pipeline.score(X) == expected.score(inside.transform(X))

    def test_source_is_scaled_with_the_target_in_a_pipeline(self, tiny):
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
