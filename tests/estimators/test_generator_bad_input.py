"""Bad input to generators: a clear error that says what to do, or a correct result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generators import FEW, KINDS, NOT_CONVERGED, W2, rows
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

pytestmark = pytest.mark.filterwarnings(NOT_CONVERGED)


def spoilt(value):
    X = rows()
    X[7, 1] = value
    return X


class TestRowsThatAreNoNumbers:
    @pytest.mark.parametrize(
        ("value", "message"),
        [(np.nan, "contains NaN"), (np.inf, "infinity"), (-np.inf, "infinity")],
    )
    def test_not_finite(self, fitted, value, message):
        for bad in (spoilt(value), spoilt(value).astype(np.float32), torch.tensor(spoilt(value))):
            with pytest.raises(ValueError, match=message):
                clone(fitted).fit(bad)
            with pytest.raises(ValueError, match=message):
                fitted.transform(bad)
            with pytest.raises(ValueError, match=message):
                fitted.score(bad)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite_in_the_source(self, tiny, value):
        # X is clean: an error that blames X sends the user to the wrong array.
        with pytest.raises(ValueError, match="X_source contains"):
            tiny().fit(rows(), X_source=spoilt(value))

    def test_strings(self, tiny):
        words = np.array([["a", "b"]] * 20)
        with pytest.raises(ValueError, match="could not convert string to float"):
            tiny().fit(words)
        with pytest.raises(ValueError, match="could not convert string to float"):
            tiny().fit(rows(), X_source=words)

    @pytest.mark.parametrize("kind", [sparse.csr_array, sparse.coo_matrix])
    def test_sparse(self, fitted, kind):
        with pytest.raises(TypeError, match=r"Sparse data .*toarray"):
            clone(fitted).fit(kind(rows()))
        with pytest.raises(TypeError, match=r"Sparse data .*toarray"):
            clone(fitted).fit(rows(), X_source=kind(rows()))
        with pytest.raises(TypeError, match=r"Sparse data .*toarray"):
            fitted.transform(kind(rows()))

    @pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
    def test_complex(self, tiny, kind):
        with pytest.raises(ValueError, match="Complex data not supported"):
            tiny().fit(kind(rows() + 1j))
        with pytest.raises(ValueError, match="Complex data not supported"):
            tiny().fit(rows(), X_source=kind(rows() + 1j))


class TestShapes:
    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few_target_rows(self, tiny, n):
        with pytest.raises(ValueError, match=rf"{n} sample\(s\) .* minimum of 2 is required"):
            tiny().fit(rows(n))

    @pytest.mark.parametrize("n", [0, 1])
    def test_too_few_source_rows(self, tiny, n):
        # The message must say which of the two arrays it means.
        with pytest.raises(ValueError, match="X_source"):
            tiny().fit(rows(), X_source=rows(n))

    def test_no_columns(self, tiny):
        with pytest.raises(ValueError, match=r"0 feature\(s\)"):
            tiny().fit(rows()[:, :0])

    def test_one_dimension(self, fitted):
        with pytest.raises(ValueError, match="Expected 2D array"):
            clone(fitted).fit(rows()[:, 0])
        with pytest.raises(ValueError, match="Expected 2D array"):
            clone(fitted).fit(rows(), X_source=rows()[:, 0])
        with pytest.raises(ValueError, match="Expected 2D array"):
            fitted.transform(rows()[0])

    @pytest.mark.parametrize("kind", [np.asarray, torch.tensor, np.ndarray.tolist])
    @pytest.mark.parametrize("d", [1, 3])
    def test_source_with_other_columns(self, tiny, kind, d):
        with pytest.raises(ValueError, match=rf"X_source has {d} columns but X has 2\. .*same"):
            tiny().fit(rows(), X_source=kind(rows(d=d)))

    @pytest.mark.parametrize("d", [1, 3])
    def test_transform_and_score_with_other_columns(self, fitted, d):
        with pytest.raises(ValueError, match=rf"X has {d} features, but .* expecting 2"):
            fitted.transform(rows(d=d))
        with pytest.raises(ValueError, match=rf"X has {d} features, but .* expecting 2"):
            fitted.score(rows(d=d))

    def test_transform_of_nothing(self, fitted):
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            fitted.transform(rows(0))

    @pytest.mark.parametrize("tiny", FEW)
    @pytest.mark.parametrize("n", [2, 30])
    def test_fewer_target_rows_than_the_batch(self, tiny, n):
        # The law is that of the few rows: the right place and size after a short fit.
        X = rows(n)
        generator = tiny(max_iter=60).fit(X)
        draws = generator.sample(1000, random_state=0)
        assert draws.shape == (1000, 2)
        size = X.std(0).max()
        assert np.all(abs(draws.mean(0) - X.mean(0)) < 0.5 * size)
        assert draws.std(0).max() < 1.5 * size

    @pytest.mark.parametrize("tiny", KINDS)
    def test_fewer_source_rows_than_the_batch(self, tiny):
        images = tiny().fit(rows(), X_source=rows(3)).transform(rows(3))
        assert images.shape == (3, 2)
        assert np.isfinite(images).all()


class TestConstantAndRepeatedRows:
    # Values for which division and multiplication by another number are not exact inverses.
    @pytest.mark.parametrize("value", [0.0, 0.3, -7.7, 1 / 3, 123.456, 1e8 + 0.1, -1e-8])
    @pytest.mark.parametrize("factor", [1.0, 7.1])
    @pytest.mark.parametrize("options", [{}, {"max_iter": 1, "dtype": "float32"}])
    def test_constant_column(self, tiny, value, factor, options):
        X = rows(d=3) * factor
        X[:, 1] = value
        draws = tiny(**options).fit(X).sample(100, random_state=0)
        assert np.all(draws[:, 1] == draws.dtype.type(value))
        assert np.all(draws[:, [0, 2]].std(0) > 0)

    @pytest.mark.parametrize("value", [0.0, 0.3, -7.7, 1 / 3])
    @pytest.mark.parametrize("factor", [1.0, 7.1])
    def test_constant_column_of_source_and_target(self, tiny, value, factor):
        # As in digits, whose corners are empty in both collections.
        X, X_source = rows(d=3) * factor, rows(60, d=3, seed=1) * factor
        X[:, 1] = X_source[:, 1] = value
        generator = tiny().fit(X, X_source=X_source)
        assert np.all(generator.sample(100, random_state=0)[:, 1] == value)
        assert np.all(generator.transform(X_source)[:, 1] == value)

    def test_constant_column_of_the_target_alone(self, tiny):
        # It has to be learnt. The source is two deviations away from it.
        X, X_source = rows(d=2), rows(300, d=2, seed=1)
        X[:, 1] = 5.0
        images = tiny(max_iter=60).fit(X, X_source=X_source).transform(X_source)
        assert np.all(abs(images[:, 1] - 5.0).mean() < 0.3)
        assert images[:, 0].std() > 1.0

    @pytest.mark.parametrize("tiny", KINDS)
    @pytest.mark.parametrize("n", [60, 600])
    def test_all_columns_constant(self, tiny, n):
        X = np.tile([3.3, -7.7], (n, 1))
        generator = tiny().fit(X)
        assert np.all(generator.sample(50, random_state=0) == X[0])
        assert generator.score(X) == 0.0
        assert np.isfinite(generator.score(X + 1))

    @pytest.mark.parametrize("tiny", FEW)
    def test_all_rows_of_the_source_are_one(self, tiny):
        # One point has one image. The best place is the mean of the target; a loop may choose any
        # row as the optimal image of the point at each step, and ends among the rows.
        X, X_source = rows(), np.full((60, 2), 3.3)
        images = tiny(max_iter=40).fit(X, X_source=X_source).transform(X_source)
        assert np.all(images == images[0])
        if tiny.loops:
            assert np.all((images[0] > X.min(0)) & (images[0] < X.max(0)))
        else:
            assert np.all(abs(images[0] - X.mean(0)) < 1.0)

    @pytest.mark.parametrize("tiny", [*FEW, W2[2]])
    def test_repeated_rows(self, tiny):
        # Three rows, 100 times each: draws fall on or between them, all three are reached. Catches
        # a potential that takes wrong shares for right as soon as the points lie on the rows.
        X = np.repeat([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]], 100, axis=0)
        generator = tiny(max_iter=80).fit(X)
        draws = generator.sample(1000, random_state=0)
        assert np.isfinite(draws).all()
        assert np.all(abs(draws.mean(0) - X.mean(0)) < 1.0)
        if not tiny.loops:
            nearest = np.linalg.norm(draws[:, None] - X[None, ::100], axis=2).argmin(1)
            assert np.all(abs(np.bincount(nearest, minlength=3) / 1000 - 1 / 3) < 0.1)

    def test_repeated_rows_with_labels(self, tiny):
        X = np.repeat([[0.0, 0.0], [6.0, 0.0]], 20, axis=0)
        labels = np.repeat([0, 1], 20)
        generator = tiny().fit(X + [0.0, 9.0], X_source=X, y_source=labels)  # noqa: RUF005
        assert np.array_equal(generator.target_proba_.argmax(1), labels)


class TestScales:
    @pytest.mark.parametrize(("scale", "source"), [(1e30, False), (1e-30, True)])
    @pytest.mark.parametrize("tiny", KINDS)
    def test_huge_and_tiny(self, tiny, scale, source):
        # All but the units is the same. Catches squares of raw data, fixed tolerances, and
        # float32 before the scaling.
        X, X_source = rows(600), rows(100, seed=1) if source else None
        unit = tiny(max_iter=2).fit(X, X_source=X_source)
        scaled_source = scale * X_source if source else None
        scaled = tiny(max_iter=2).fit(scale * X, X_source=scaled_source)
        expected = unit.sample(50, random_state=0)
        draws = scaled.sample(50, random_state=0) / scale
        assert np.allclose(draws, expected, rtol=1e-5, atol=1e-5)
        score = scaled.score(scale * X[:100]) / scale**2
        assert score == pytest.approx(unit.score(X[:100]), rel=1e-5)
        objective = scaled.history_["objective"]
        assert np.allclose(objective, unit.history_["objective"], rtol=1e-5)

    @pytest.mark.parametrize("scale", [2.0**100, 2.0**-100])
    def test_huge_and_tiny_in_single_precision(self, tiny, scale):
        X = rows(300).astype(np.float32)
        expected = tiny(max_iter=3).fit(X).sample(50, random_state=0)
        scaled = tiny(max_iter=3).fit(X * np.float32(scale))
        draws = scaled.sample(50, random_state=0)
        assert draws.dtype == np.float32
        # powers of two are not rounded: whatever differs is a unit that was left in
        assert np.allclose(draws.astype(float) / scale, expected, atol=1e-6)

    def test_far_from_the_origin(self, tiny):
        X = rows(300)
        expected = tiny(max_iter=3).fit(X).sample(50, random_state=0)
        draws = tiny(max_iter=3).fit(X + 2.0**30).sample(50, random_state=0) - 2.0**30
        # rounding there is 2e-7, and takes points at the border of two cells across it
        assert np.allclose(draws, expected, atol=3e-3)


class TestDevice:
    @pytest.mark.parametrize("device", ["nonsense", "cuda:99", "xpu"])
    def test_not_available(self, tiny, device):
        with pytest.raises(ValueError, match=rf"device='{device}' cannot be used .* Use None"):
            tiny(device=device).fit(rows())

    @pytest.mark.parametrize("device", ["meta", torch.device("meta")])
    def test_meta(self, tiny, device):
        with pytest.raises(ValueError, match=r"device='meta' holds no data\. Use None"):
            tiny(device=device).fit(rows())

    @pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
    def test_the_cpu_by_name(self, tiny, device):
        named = tiny(device=device, max_iter=2).fit(rows())
        assert np.array_equal(
            named.transform(rows()), tiny(max_iter=2).fit(rows()).transform(rows())
        )

    @pytest.mark.parametrize("device", ["nonsense", "meta"])
    def test_a_failed_fit_leaves_no_half_fitted_estimator(self, tiny, device):
        generator = tiny(device=device)
        with pytest.raises(ValueError, match="device"):
            generator.fit(rows())
        with pytest.raises(NotFittedError):
            generator.sample()


class TestSample:
    @pytest.mark.parametrize("n", [0, -1])
    def test_too_few(self, fitted, n):
        with pytest.raises(ValueError, match=rf"n_samples == {n}, must be >= 1"):
            fitted.sample(n)

    @pytest.mark.parametrize("n", [2.5, 3.0, "3", None, [3]])
    def test_not_an_integer(self, fitted, n):
        with pytest.raises(TypeError, match="n_samples must be an instance of int"):
            fitted.sample(n)

    @pytest.mark.parametrize("seed", ["x", -1, 2.5])
    def test_no_seed(self, fitted, seed):
        with pytest.raises(ValueError, match=r"seed|Seed"):
            fitted.sample(3, random_state=seed)

    def test_before_fit(self, tiny):
        with pytest.raises(NotFittedError, match=r"not fitted yet\. Call 'fit'"):
            tiny().sample(3)
        with pytest.raises(NotFittedError, match=r"not fitted yet\. Call 'fit'"):
            tiny().transform(rows())
        with pytest.raises(NotFittedError, match=r"not fitted yet\. Call 'fit'"):
            tiny().score(rows())


class TestLabelsOfTheSource:
    X_SOURCE = rows(60, seed=1)
    LABELS = np.arange(60) % 3

    @pytest.fixture
    def fit(self, tiny):
        def fit(y_source, **options):
            return tiny(**options).fit(rows(), X_source=self.X_SOURCE, y_source=y_source)

        return fit

    def test_without_source(self, tiny):
        with pytest.raises(ValueError, match=r"y_source labels .* X_source is None"):
            tiny().fit(rows(), y_source=self.LABELS)

    @pytest.mark.parametrize("n", [0, 59, 61])
    def test_wrong_length(self, fit, n):
        with pytest.raises(ValueError, match="y_source"):
            fit(np.zeros(n, dtype=int))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, fit, value):
        labels = self.LABELS.astype(float)
        labels[3] = value
        with pytest.raises(ValueError, match="y_source contains"):
            fit(labels)

    @pytest.mark.parametrize("missing", [None, np.nan])
    def test_missing_name(self, fit, missing):
        names = np.array(["a", "b", "c"], dtype=object)[self.LABELS]
        names[3] = missing
        with pytest.raises(ValueError, match="y_source"):
            fit(names)

    def test_two_columns(self, fit):
        with pytest.raises(ValueError, match="y_source"):
            fit(np.c_[self.LABELS, self.LABELS])

    def test_one_class_is_no_information(self, fit):
        # The class term is the same everywhere: the plan without labels (at the same reg).
        labelled, plain = fit(np.zeros(60), reg=0.1), fit(None, reg=0.1)
        assert np.allclose(labelled.target_proba_, 1.0)
        images = labelled.transform(self.X_SOURCE)
        assert np.allclose(images, plain.transform(self.X_SOURCE), atol=0.05)


# What both generators refuse, and what the message says is allowed.
INVALID = [
    ("step_size", 0.0, r"\(0.0, 1.0\]"),
    ("step_size", 1.5, r"\(0.0, 1.0\]"),
    ("persistence", 0, r"\[1, inf\)"),
    ("persistence", 2.5, "auto"),
    ("persistence", "always", "auto"),
    ("debias", "yes", "bool"),
    ("reg", -0.1, r"0.0, inf\)"),
    ("reg", np.nan, r"0.0, inf\)"),
    ("label_weight", -1.0, r"\[0.0, inf\)"),
    ("hidden_layer_sizes", 16, "array-like"),
    ("hidden_layer_sizes", "wide", "array-like"),
    ("hidden_layer_sizes", (0,), "at least one"),
    ("hidden_layer_sizes", (16, -3), "at least one"),
    ("hidden_layer_sizes", (2.5,), ""),
    ("hidden_layer_sizes", ((16, 16),), ""),
    ("hidden_layer_sizes", ("16",), ""),
    ("activation", "gelu", "relu"),
    ("batch_size", 0, r"\[1, inf\)"),
    ("batch_size", 2.5, r"\[1, inf\)"),
    ("learning_rate", 0.0, r"\(0.0, inf\)"),
    ("learning_rate", np.inf, r"\(0.0, inf\)"),
    ("ema_decay", 1.0, r"\[0.0, 1.0\)"),
    ("max_iter", 0, r"\[1, inf\)"),
    ("max_iter", 2.5, r"\[1, inf\)"),
    ("tol", -1e-3, r"\[0.0, inf\)"),
    ("n_iter_no_change", 0, r"\[1, inf\)"),
    ("validation_fraction", 1.0, r"\[0.0, 1.0\)"),
    ("warm_start", "yes", "bool"),
    ("device", 3, "torch.device"),
    ("dtype", "int32", "float32"),
    ("dtype", int, "float32"),
    ("dtype", np.dtype("int64"), "float32"),
    ("dtype", complex, "float32"),
    ("dtype", str, "float32"),
    ("random_state", -1, "int in the range"),
    ("random_state", "now", "RandomState"),
    ("verbose", -1, r"\[0, inf\)"),
]


class TestParameters:
    @pytest.mark.parametrize(("name", "value", "remedy"), INVALID)
    def test_out_of_range(self, tiny, name, value, remedy):
        # The message names the parameter and what it may be.
        generator = tiny(**{name: value})
        with pytest.raises((ValueError, TypeError), match=rf"(?s)(?=.*{name})(?=.*{remedy})"):
            generator.fit(rows())

    def test_the_constructor_checks_nothing(self, tiny):
        assert tiny(reg="small", max_iter=-1).max_iter == -1
