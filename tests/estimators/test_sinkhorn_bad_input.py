"""Bad input to SinkhornFlowGenerator: labels, sources, features and parameters of its own.

What it shares with other generators is in test_generator_bad_input.py.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from generators import NOT_CONVERGED, SINKHORN, rows
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skwgf import SinkhornFlowGenerator

pytestmark = pytest.mark.filterwarnings(NOT_CONVERGED)

X = rows()
Y = np.arange(200) % 3


@pytest.fixture(params=SINKHORN[:2])
def tiny(request):
    return request.param


@pytest.fixture(scope="module")
def classed():
    return SINKHORN[1].values[0](conditional=True).fit(X, Y)


class TestLabels:
    def test_missing(self, tiny):
        with pytest.raises(ValueError, match=r"conditional=True learns .* given y, but y is None"):
            tiny(conditional=True).fit(X)

    def test_continuous(self, tiny):
        with pytest.raises(ValueError, match="Unknown label type: continuous"):
            tiny(conditional=True).fit(X, X[:, 0])

    @pytest.mark.parametrize("n", [0, 1, 199, 201])
    def test_wrong_length(self, tiny, n):
        with pytest.raises(ValueError, match=rf"y has {n} labels but X has 200 rows"):
            tiny(conditional=True).fit(X, np.zeros(n, dtype=int))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, tiny, value):
        labels = Y.astype(float)
        labels[3] = value
        with pytest.raises(ValueError, match="y contains missing or infinite labels"):
            tiny(conditional=True).fit(X, labels)

    @pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
    def test_missing_name(self, tiny, missing):
        names = np.array(["a", "b", "c"], dtype=object)[Y]
        names[3] = missing
        with pytest.raises((ValueError, TypeError)):
            tiny(conditional=True).fit(X, names)

    def test_more_than_one_column(self, tiny):
        with pytest.raises(ValueError, match=r"y must be a vector of 200 labels, got .*\(200, 2\)"):
            tiny(conditional=True).fit(X, np.c_[Y, Y])

    def test_kinds_that_do_not_compare(self, tiny):
        mixed = np.array(["a", 1] * 100, dtype=object)
        with pytest.raises((ValueError, TypeError), match=r"(?s)\by\b"):
            tiny(conditional=True).fit(X, mixed)

    def test_one_class(self, tiny):
        generator = tiny(conditional=True).fit(X, np.full(200, "all"))
        assert generator.class_share_.tolist() == [1.0]
        assert generator.sample(3, y="all").shape == (3, 2)

    @pytest.mark.filterwarnings("ignore:The number of unique classes is greater")
    def test_every_row_its_own_class(self, tiny):
        with pytest.warns(UserWarning, match=r"a single row in X: \[0, 1, .*\]"):
            generator = tiny(conditional=True, max_iter=1).fit(X[:40], np.arange(40))
        assert np.isfinite(generator.sample(50)).all()

    def test_class_with_one_row(self, tiny):
        # Its draws are that row, as well as a network learns it; other classes are not touched.
        # Measured: off by .1 (full) and .4 (loop) on average.
        many = np.r_[X, [[20.0, -15.0]]]
        labels = np.r_[np.zeros(200), 1.0]
        generator = tiny(conditional=True, max_iter=60 if not tiny.loops else 300)
        with pytest.warns(UserWarning, match=r"Classes with a single row in X: \[1\.0\]") as record:
            generator.fit(many, labels)
        assert record[0].filename == __file__
        draws = generator.sample(200, y=1.0, random_state=0)
        assert np.linalg.norm(draws - many[-1], axis=1).mean() < 1.5
        assert draws.std(0).max() < 0.5
        others = generator.sample(1000, y=0.0, random_state=0)
        assert np.all(abs(others.mean(0) - X.mean(0)) < 1.0)


class TestSample:
    @pytest.mark.parametrize("label", [7, "0", -1, 1.5e9, [0, 1, 7]])
    def test_label_that_the_fit_did_not_see(self, classed, label):
        with pytest.raises(ValueError, match=r"labels that the fit did not see.* \[0, 1, 2\]"):
            classed.sample(3, y=label)

    def test_unseen_labels_are_named(self, classed):
        with pytest.raises(ValueError, match=r"did not see: \[5, 9\]\. Known are \[0, 1, 2\]"):
            classed.sample(4, y=[9, 0, 5, 5])
        with pytest.raises(ValueError, match=r"did not see: \[3\]"):
            classed.transform(X[:4], [0, 1, 2, 3])
        with pytest.raises(ValueError, match=r"did not see: \[3\]"):
            classed.score(X[:4], [0, 1, 2, 3])

    @pytest.mark.parametrize("n", [1, 2, 5])
    def test_number_of_labels(self, classed, n):
        with pytest.raises(ValueError, match=f"y has {n} labels but n_samples"):
            classed.sample(3, y=n * [0])

    @pytest.mark.parametrize("value", [np.nan, [0, np.nan, 1], [None, 0, 1]])
    def test_missing(self, classed, value):
        with pytest.raises(ValueError, match="y contains missing"):
            classed.sample(3, y=value)

    def test_no_classes_learnt(self, tiny):
        with pytest.raises(ValueError, match=r"y names classes, which conditional=False"):
            tiny(max_iter=1).fit(X, Y).sample(3, y=0)

    def test_transform_without_classes(self, classed):
        with pytest.raises(ValueError, match=r"maps rows of known classes: pass y"):
            classed.transform(X)

    @pytest.mark.parametrize("n", [0, 2.5])
    def test_number_of_draws(self, classed, n):
        with pytest.raises((ValueError, TypeError), match="n_samples"):
            classed.sample(n, y=0)

    def test_before_fit(self, tiny):
        with pytest.raises(NotFittedError):
            tiny(conditional=True).sample(3, y=0)


class TestSource:
    X_SOURCE = rows(60, seed=1)

    def test_classes_without_labels_of_the_source(self, tiny):
        with pytest.raises(ValueError, match=r"pass y_source, or set conditional=False"):
            tiny(conditional=True).fit(X, Y, X_source=self.X_SOURCE)

    def test_labels_without_a_source(self, tiny):
        with pytest.raises(ValueError, match="X_source is None"):
            tiny(conditional=True).fit(X, Y, y_source=np.arange(60) % 3)

    def test_class_that_the_source_lacks(self, tiny):
        with pytest.raises(ValueError, match=r"Classes of y without a row in the source: \[2\]"):
            tiny(conditional=True).fit(X, Y, X_source=self.X_SOURCE, y_source=np.arange(60) % 2)

    def test_class_that_the_target_lacks(self, tiny):
        with pytest.raises(ValueError, match=r"y_source holds labels .* \[3\]"):
            tiny(conditional=True).fit(X, Y, X_source=self.X_SOURCE, y_source=np.arange(60) % 4)

    @pytest.mark.parametrize("d", [1, 3])
    def test_other_columns(self, tiny, d):
        with pytest.raises(ValueError, match=rf"X_source has {d} columns but X has 2"):
            tiny(conditional=True).fit(X, Y, X_source=rows(60, d), y_source=np.arange(60) % 3)

    def test_one_row_of_a_class(self, tiny):
        y_source = np.r_[0, np.full(30, 1), np.full(29, 2)]
        generator = tiny(conditional=True)
        generator.fit(X, Y, X_source=self.X_SOURCE, y_source=y_source)
        draws = generator.sample(5, y=0)
        assert np.all(draws == draws[0])


class TestFeatureMap:
    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            (lambda x: x * torch.nan, ValueError, "returned NaN or infinity"),
            (lambda x: x / 0, ValueError, "returned NaN or infinity"),
            (lambda x: x[:3], ValueError, "must return a table"),
            (lambda x: x[:, 0], ValueError, "must return a table"),
            (lambda x: x[:, :0], ValueError, "at least one column"),
            (lambda x: x.numpy(), TypeError, "as a tensor"),
            (lambda x: None, TypeError, "NoneType"),
            (OneHotEncoder(handle_unknown="ignore"), ValueError, "sparse_output=False"),
            (StandardScaler, TypeError, "pass an instance"),
        ],
    )
    def test_what_it_returns(self, tiny, given, error, message):
        generator = tiny(feature_map=given)
        with pytest.raises(error, match=f"(?s)feature_map.*{message}"):
            generator.fit(X)
        with pytest.raises(NotFittedError):
            generator.sample()

    def test_not_finite_outside_the_range_of_the_rows(self):
        # Rows of X are fine, particles on their way are not: the message says so.
        full, positive = SINKHORN[0].values[0], np.abs(X) + 1.0
        with pytest.raises(ValueError, match=r"(?s)feature_map returned NaN .* generated"):
            full(feature_map=lambda x: (x - 0.99).log()).fit(positive)

    def test_errors_of_its_own(self, tiny):
        with pytest.raises(ValueError, match="n_components=5 must be between"):
            tiny(feature_map=PCA(5)).fit(X)

    def test_constant_features(self, tiny):
        # Nothing tells rows apart: the cost is zero everywhere, and nothing breaks.
        generator = tiny(feature_map=lambda x: torch.zeros(len(x), 1)).fit(X)
        assert np.isfinite(generator.sample(20)).all()

    @pytest.mark.parametrize("size", [1e-12, 1e12])
    def test_features_of_any_size(self, tiny, size):
        plain = tiny(standardize=False).fit(X).sample(20, random_state=0)
        generator = tiny(standardize=False, feature_map=lambda x: size * x).fit(X)
        assert np.allclose(generator.sample(20, random_state=0), plain, atol=1e-3)


INVALID = [
    ("velocity", "exact", "sinkhorn"),
    ("velocity", None, "sinkhorn"),
    ("persistence", None, "auto"),
    ("reg", 0.0, r"\(0.0, inf\)"),
    ("reg", -0.1, r"\(0.0, inf\)"),
    ("reg", np.inf, r"\(0.0, inf\)"),
    ("reg", "auto", "None"),
    ("reg_start", 0, r"\(0.0, inf\)"),
    ("reg_start", np.nan, r"\(0.0, inf\)"),
    ("conditional", "yes", "bool"),
    ("conditional", None, "bool"),
    ("guidance", -1.0, r"\[0.0, inf\)"),
    ("guidance", None, r"\[0.0, inf\)"),
    ("feature_map", "pca", "transform"),
    ("feature_map", 3, "callable"),
    ("standardize", "yes", "bool"),
    ("max_grad_norm", 0.0, r"\(0.0, inf\)"),
]


class TestParameters:
    @pytest.mark.parametrize(("name", "value", "remedy"), INVALID)
    def test_out_of_range(self, tiny, name, value, remedy):
        # The message names the parameter and what it may be.
        generator = tiny(**{name: value})
        with pytest.raises(ValueError, match=rf"(?s)(?=.*{name})(?=.*{remedy})"):
            generator.fit(X, Y)

    def test_guidance_without_classes(self, tiny):
        message = r"guidance=1\.5 .*conditional=False .* Set conditional=True, or guidance=0"
        with pytest.raises(ValueError, match=message):
            tiny(guidance=1.5).fit(X, Y)

    def test_the_constructor_checks_nothing(self):
        assert SinkhornFlowGenerator("exact", reg=-1).reg == -1

    @pytest.mark.parametrize(
        "options",
        [
            {"reg": 1e-9},
            {"reg": 1e12},
            {"reg_start": 1e9},
            {"reg": 0.5, "reg_start": 0.1},
            {"conditional": True, "guidance": 1e6},
            {"step_size": 0.01},
            {"batch_size": 1, "max_iter": 1, "conditional": True},
            {"max_grad_norm": 1e-9},
            {"validation_fraction": 0.9},
        ],
        ids=str,
    )
    def test_extremes_are_survived(self, tiny, options):
        generator = tiny(**options).fit(X, Y)
        assert np.isfinite(generator.sample(50, random_state=0)).all()
        assert np.isfinite(generator.score(X))


class TestUnusualRows:
    @pytest.mark.parametrize("shape", [(2, 1), (2, 5), (3, 40), (60, 200), (50, 1)])
    def test_few_rows_and_many_columns(self, tiny, shape):
        generator = tiny().fit(rows(*shape))
        assert generator.sample(7).shape == (7, shape[1])
        assert np.isfinite(generator.sample(50)).all()

    def test_a_row_a_million_times_farther_out(self, tiny):
        generator = tiny().fit(np.r_[X, [[1e6, 1e6]]])
        assert np.isfinite(generator.sample(50)).all()

    def test_a_source_a_million_times_farther_out(self, tiny):
        # The map is a translation: no digits are lost on the way but those of float32.
        X_source = rows(60, seed=1) + 2.0**20
        images = tiny().fit(X, X_source=X_source).transform(X_source)
        assert np.isfinite(images).all()

    def test_all_rows_of_a_class_equal(self, tiny):
        equal = np.where(Y[:, None] == 1, [[7.0, 8.0]], X)
        generator = tiny(conditional=True, max_iter=1).fit(equal, Y)
        assert np.isfinite(generator.sample(50, y=1)).all()
