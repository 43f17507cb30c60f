"""The features of the cost, and the limits that columns keep to."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted

from skwgf.estimators._coordinates import fit_coordinates
from skwgf.estimators._features import atoms, cost_features, fit_feature_map, share_a_unit

X = np.random.default_rng(0).normal(loc=[5.0, -300.0], scale=[1.0, 64.0], size=(40, 2))
COORDINATES = fit_coordinates(X, standardize=True)
SCALED = COORDINATES.apply(X)


class Doubled:
    """A transformer that has nothing to fit."""

    def transform(self, rows):
        return 2 * rows


class TestFit:
    def test_a_clone_is_fitted_on_the_rows(self):
        # Bug caught: fit changes what it was given.
        scaler = StandardScaler(with_std=False)
        fitted = fit_feature_map(scaler, X)
        with pytest.raises(NotFittedError):
            check_is_fitted(scaler)
        assert fitted.with_std is False
        assert np.array_equal(fitted.mean_, X.mean(0))

    def test_what_is_fitted_stays_as_it_is(self):
        scaler = StandardScaler().fit(100 * X)
        assert fit_feature_map(scaler, X) is scaler
        assert np.array_equal(scaler.mean_, (100 * X).mean(0))

    @pytest.mark.parametrize("given", [None, torch.sin, torch.nn.Identity(), Doubled()])
    def test_what_needs_no_fit(self, given):
        assert fit_feature_map(given, X) is given

    def test_a_class_is_no_instance(self):
        with pytest.raises(TypeError, match="the class StandardScaler: pass an instance"):
            fit_feature_map(StandardScaler, X)


class TestFeatures:
    @pytest.mark.filterwarnings("error")
    def test_a_transformer_of_a_frame_sees_its_names(self):
        # Bug caught: a warning about missing names at every evaluation of the cost.
        pd = pytest.importorskip("pandas")
        scaler = StandardScaler().fit(pd.DataFrame(X, columns=list("abcdefgh")[: X.shape[1]]))
        found = cost_features(scaler, COORDINATES)(SCALED)
        plain = cost_features(StandardScaler().fit(X), COORDINATES)(SCALED)
        torch.testing.assert_close(found, plain)

    def test_none_compares_scaled_rows(self):
        assert cost_features(None, COORDINATES)(SCALED) is SCALED

    @pytest.mark.parametrize("given", [Doubled(), lambda rows: 2 * rows])
    def test_maps_see_rows_in_the_units_of_the_data(self, given):
        # Bug caught: features of scaled rows, which a fitted network or PCA has never seen.
        found = cost_features(given, COORDINATES)(SCALED)
        assert np.allclose(found.numpy(), 2 * X)

    def test_precision_is_that_of_the_flow(self):
        for given in (Doubled(), lambda rows: rows.double(), lambda rows: rows > 0):
            found = cost_features(given, COORDINATES)(SCALED.float())
            assert found.dtype == torch.float32

    def test_a_function_gets_tensors_without_a_graph(self):
        # Bug caught: a network of features whose weights gather a graph along the flow.
        network = torch.nn.Linear(2, 3)
        found = cost_features(network, COORDINATES)(SCALED.float())
        assert found.shape == (40, 3)
        assert not found.requires_grad
        expected = network(torch.tensor(X, dtype=torch.float32)).detach()
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)

    @pytest.mark.parametrize("output", ["default", "pandas", "polars"])
    def test_frames_are_read_as_tables(self, output):
        pca = PCA(1).set_output(transform=output).fit(X)
        found = cost_features(pca, COORDINATES)(SCALED)
        assert np.allclose(found.numpy(), PCA(1).fit_transform(X))

    @pytest.mark.parametrize(
        "given",
        [
            lambda rows: rows * torch.nan,
            lambda rows: rows.where(rows > 0, torch.inf),
            FunctionTransformer(lambda rows: rows / 0.0),
        ],
    )
    @pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
    def test_not_finite(self, given):
        with pytest.raises(ValueError, match="feature_map returned NaN or infinity"):
            cost_features(given, COORDINATES)(SCALED)

    @pytest.mark.parametrize(
        ("given", "shape"),
        [
            (lambda rows: rows[:3], r"\(3, 2\)"),
            (lambda rows: rows[:, 0], r"\(40,\)"),
            (lambda rows: rows[None], r"\(1, 40, 2\)"),
            (lambda rows: rows[:, :0], r"\(40, 0\)"),
            (lambda rows: rows.sum(), r"\(\)"),
        ],
    )
    def test_wrong_shape(self, given, shape):
        with pytest.raises(ValueError, match=f"feature_map must .* each of the 40 .*{shape}"):
            cost_features(given, COORDINATES)(SCALED)

    @pytest.mark.parametrize(
        ("given", "kind"),
        [
            (lambda rows: rows.numpy(), "ndarray"),
            (lambda rows: None, "NoneType"),
            (lambda rows: rows + 1j, "complex"),
        ],
    )
    def test_no_tensor_of_real_numbers(self, given, kind):
        with pytest.raises(TypeError, match=f"feature_map must return real numbers.*{kind}"):
            cost_features(given, COORDINATES)(SCALED)

    def test_sparse(self):
        with pytest.raises(ValueError, match=r"feature_map .*sparse_output=False"):
            cost_features(OneHotEncoder(handle_unknown="ignore").fit(X), COORDINATES)(SCALED)

    def test_errors_of_the_map_itself_come_through(self):
        # Bug caught: a swallowed error, such as a PCA fitted on other columns.
        pca = PCA(2).fit(np.random.default_rng(0).normal(size=(20, 3)))
        with pytest.raises(ValueError, match="expecting 3 features"):
            cost_features(pca, COORDINATES)(SCALED)


class TestLimits:
    def limits(self, column):
        low, high = atoms(np.asarray(column)[:, None])
        return float(low), float(high)

    def test_a_continuous_column_has_none(self):
        assert self.limits(X[:, 0]) == (-np.inf, np.inf)

    @pytest.mark.parametrize(("n", "least"), [(40, 2), (200, 2), (1000, 10)])
    def test_where_one_row_in_a_hundred_lies_at_the_extreme(self, n, least):
        # ... and two rows at the least.
        column = np.random.default_rng(0).uniform(1.0, 2.0, n)
        column[: least - 1] = 0.3
        assert self.limits(column) == (-np.inf, np.inf)
        column[least - 1] = 0.3
        assert self.limits(column) == (0.3, np.inf)
        assert self.limits(-column) == (-np.inf, -0.3)

    def test_a_value_inside_is_no_limit(self):
        column = np.r_[np.zeros(50), -1.0, 1.0]
        assert self.limits(column) == (-np.inf, np.inf)

    def test_constant_and_binary_columns_have_both(self):
        assert self.limits(np.full(9, 0.7)) == (0.7, 0.7)
        assert self.limits(np.arange(10) % 2) == (0.0, 1.0)

    def test_columns_are_judged_one_by_one(self):
        table = pd.DataFrame({"count": [0, 0, 3, 5], "size": [0.1, 0.2, 0.3, 0.4]}).to_numpy()
        low, high = atoms(table)
        assert low.tolist() == [0.0, -np.inf]
        assert high.tolist() == [np.inf, np.inf]

    def test_single_precision_is_kept_to_the_bit(self):
        column = np.float32([0.1, 0.1, 0.7, 0.7])
        assert self.limits(column) == (float(np.float32(0.1)), float(np.float32(0.7)))


@pytest.mark.filterwarnings("error:overflow:RuntimeWarning")
def test_pixels_share_a_unit_and_tables_do_not():
    # Catches columns that are counted although they are constant, and limits of different columns
    # that are taken for one although they lie at different values.
    rng = np.random.default_rng(0)
    table = rng.normal(size=(200, 4))
    counts = rng.poisson(0.5, size=(200, 4)).astype(float)
    assert share_a_unit(counts)
    assert share_a_unit(np.column_stack([counts, table[:, :3]]))
    assert not share_a_unit(np.column_stack([counts, table]))
    assert not share_a_unit(counts + np.arange(4))
    assert share_a_unit(np.column_stack([counts[:, :2], np.full((200, 9), 7.0)]))
    assert not share_a_unit(table)
    assert not share_a_unit(np.ones((5, 2)))
    # Revenue beside counts, and income beside a class in five columns, have units of their own.
    revenue = 5000.0 * counts[:, 0] * rng.exponential(size=200)
    assert not share_a_unit(np.column_stack([counts[:, 0], revenue]))
    income, codes = 30_000 + 9000 * table[:, 0], np.arange(200) % 5
    assert share_a_unit(np.eye(5)[codes])
    # The widest of these ranges is beyond the largest number.
    assert share_a_unit(1.7e308 * (2 * np.eye(5)[codes] - 1))
    assert not share_a_unit(np.column_stack([income, np.eye(5)[codes]]))
