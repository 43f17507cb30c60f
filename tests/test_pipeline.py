"""Draws from pipelines: rows and coefficients in the units of the data."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_regression
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from skwgf import (
    DomainAdapter,
    GWGSampler,
    MeanFieldRegressor,
    SinkhornFlowGenerator,
    SVGDSampler,
    W2FlowGenerator,
    WSFNOptimizer,
    sample_pipeline,
)
from skwgf.functionals import MeanFieldRisk
from skwgf.targets import (
    Gaussian,
    LinearRegressionPosterior,
    LogisticRegressionPosterior,
    NeuralNetworkPosterior,
)

# Few iterations of few particles: what is drawn is not at issue here, but where it comes back.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:The particles of"),
]

# Columns far from zero, of very different size: as real tables are.
RNG = np.random.default_rng(0)
X = RNG.normal([1e4, -3.0, 0.5, 40.0], [3.0, 0.01, 100.0, 1.0], size=(60, 4))
X[:, 3] += 0.3 * X[:, 0]
NAMES = ["pressure", "slope", "flow", "height"]


class Keeper(BaseEstimator):
    """A sampler whose draws are the rows it was fitted to, in their order."""

    def fit(self, X, y=None):
        self.rows_ = np.asarray(X)
        self.n_features_in_ = self.rows_.shape[1]
        return self

    def sample(self, n_samples=1, *, random_state=None, shift=0.0):
        return self.rows_[:n_samples] + shift


def close(rows, expected):
    """Compare to rounding, in units of the columns' spread and size."""
    return np.allclose(rows, expected, rtol=1e-9, atol=0)


class TestRows:
    @pytest.mark.parametrize(
        "steps",
        [
            [StandardScaler()],
            [MinMaxScaler(), RobustScaler(), MaxAbsScaler()],
            [StandardScaler(), PCA(whiten=True)],
            [StandardScaler(), PowerTransformer()],
            ["passthrough", StandardScaler(), None, MinMaxScaler()],
            [make_pipeline(StandardScaler(), PCA()), MinMaxScaler()],
            [FunctionTransformer(np.arcsinh, np.sinh), StandardScaler()],
            [FunctionTransformer(), StandardScaler()],
            [VarianceThreshold(), StandardScaler()],
        ],
        ids=lambda steps: "-".join(getattr(s, "__class__", s).__name__ for s in steps),
    )
    def test_what_was_learnt_by_heart_comes_back(self, steps):
        # Bug caught: inverses in the order of the steps, a step forgotten, columns permuted.
        named = [(f"s{i}", step) for i, step in enumerate(steps)]
        pipeline = Pipeline([*named, ("end", Keeper())])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # None as a step is on its way out of scikit-learn
            pipeline.fit(X)
        drawn = sample_pipeline(pipeline, len(X))
        assert type(drawn) is np.ndarray
        assert close(drawn, X)

    def test_reduction_gives_rows_of_its_subspace(self):
        pipeline = make_pipeline(StandardScaler(), PCA(2), Keeper()).fit(X)
        scaled = pipeline[0].transform(X)
        expected = pipeline[0].inverse_transform(
            pipeline[1].inverse_transform(pipeline[1].transform(scaled))
        )
        assert close(sample_pipeline(pipeline, len(X)), expected)

    @pytest.mark.parametrize("imputer", [SimpleImputer(), KNNImputer()])
    def test_filled_values_stay(self, imputer):
        holes = X.copy()
        holes[::7, 2] = np.nan
        pipeline = make_pipeline(imputer, StandardScaler(), Keeper()).fit(holes)
        assert close(sample_pipeline(pipeline, len(X)), imputer.fit_transform(holes))

    def test_last_step_a_pipeline_or_a_search(self):
        nested = Pipeline([("outer", StandardScaler()), ("inner", make_pipeline(PCA(), Keeper()))])
        assert close(sample_pipeline(nested.fit(X), len(X)), X)
        search = GridSearchCV(
            make_pipeline(StandardScaler(), KernelDensity()),
            {"kerneldensity__bandwidth": [0.01, 0.02]},
        ).fit(X)
        drawn = sample_pipeline(search, 500, random_state=0)
        again = sample_pipeline(search.best_estimator_, 500, random_state=0)
        assert np.array_equal(drawn, again)
        assert np.allclose(drawn.mean(0), X.mean(0), atol=0.3 * X.std(0).max())
        inside = make_pipeline(
            StandardScaler(), clone(search).set_params(estimator=KernelDensity())
        )
        inside.set_params(gridsearchcv__param_grid={"bandwidth": [0.01]}).fit(X)
        assert sample_pipeline(inside, 3).mean() > 1000

    def test_bare_sampler(self):
        sampler = WSFNOptimizer(n_particles=5, max_iter=2, random_state=0).fit(X[:, 1:2])
        assert np.array_equal(sample_pipeline(sampler, 5), sampler.particles_)

    def test_sample_params_go_on(self):
        pipeline = make_pipeline(StandardScaler(), Keeper()).fit(X)
        moved = sample_pipeline(pipeline, len(X), shift=1.0)
        assert close(moved, X + pipeline[0].scale_)

    def test_conditional_generator(self):
        rows, y = load_iris(return_X_y=True)
        flow = SinkhornFlowGenerator(
            conditional=True, hidden_layer_sizes=(16,), max_iter=20, random_state=0
        )
        pipeline = make_pipeline(StandardScaler(), flow).fit(rows, y)
        wanted = np.repeat([2, 0], 40)
        drawn = sample_pipeline(pipeline, 80, random_state=0, y=wanted)
        # Petals of the third kind are longer by four centimetres. Bug caught: y not handed on.
        assert drawn[:40, 2].mean() - drawn[40:, 2].mean() > 2

    @pytest.mark.parametrize(
        "sampler",
        [
            W2FlowGenerator(hidden_layer_sizes=(16,), max_iter=20, random_state=0),
            SVGDSampler(max_iter=5, random_state=0),
            SVGDSampler(Gaussian(), max_iter=30, random_state=0),
            GWGSampler(Gaussian(), max_iter=5, random_state=0),
            WSFNOptimizer(n_particles=20, max_iter=3, random_state=0),
        ],
        ids=["w2", "svgd-data", "svgd-density", "gwg", "wsfn"],
    )
    def test_every_sampler_of_rows(self, sampler):
        pipeline = make_pipeline(StandardScaler(), sampler).fit(X[:, :2])
        drawn = sample_pipeline(pipeline, 50, random_state=1)
        scaled = pipeline[-1].sample(50, random_state=1)
        assert close(drawn, pipeline[0].inverse_transform(scaled))
        assert np.array_equal(drawn, sample_pipeline(pipeline, 50, random_state=1))
        assert abs(drawn[:, 0].mean() - 1e4) < 6  # two deviations of the column


class TestFrames:
    @pytest.mark.parametrize("library", ["pandas", "polars"])
    def test_follows_set_output(self, library):
        frame = {"pandas": pd.DataFrame(X, columns=NAMES), "polars": pl.DataFrame(X, schema=NAMES)}
        pipeline = make_pipeline(StandardScaler(), PCA(), Keeper())
        pipeline[:-1].set_output(transform=library)
        drawn = sample_pipeline(pipeline.fit(frame[library]), 7)
        assert type(drawn) is type(frame[library])
        assert list(drawn.columns) == NAMES  # and not pca0, ...
        assert close(np.asarray(drawn), X[:7])

    def test_array_unless_asked_and_global_setting(self):
        pipeline = make_pipeline(StandardScaler(), Keeper()).fit(pd.DataFrame(X, columns=NAMES))
        assert type(sample_pipeline(pipeline, 3)) is np.ndarray
        with config_context(transform_output="pandas"):
            assert list(sample_pipeline(pipeline, 3).columns) == NAMES
            unnamed = make_pipeline(StandardScaler(), Keeper()).fit(X)
            assert list(sample_pipeline(unnamed, 3).columns) == ["x0", "x1", "x2", "x3"]

    def test_generator_alone(self):
        flow = W2FlowGenerator(hidden_layer_sizes=(4,), max_iter=2, random_state=0)
        flow.set_output(transform="pandas").fit(pd.DataFrame(X, columns=NAMES))
        assert list(sample_pipeline(flow, 3).columns) == NAMES

    def test_frame_of_an_inverse_stays(self):
        class Framed(StandardScaler):
            def inverse_transform(self, X):
                return pd.DataFrame(super().inverse_transform(X), columns=NAMES)

        drawn = sample_pipeline(make_pipeline(Framed(), Keeper()).fit(X), 4)
        assert close(drawn.to_numpy(), X[:4])


def linear_data():
    """Return a response that is linear in the columns, of their size."""
    scaled = (X - X.mean(0)) / X.std(0)
    return 5.0 + scaled @ [1.0, -2.0, 0.0, 0.5] + 0.1 * RNG.normal(size=len(X))


AFFINE = {
    "standard": [StandardScaler()],
    "minmax": [MinMaxScaler((-1, 2))],
    "robust": [RobustScaler(), MaxAbsScaler()],
    "pca": [StandardScaler(), PCA(3, whiten=True)],
    "nested": [make_pipeline(SimpleImputer(), StandardScaler()), "passthrough"],
    "columns": [
        ColumnTransformer([("a", StandardScaler(), [2, 0]), ("b", MinMaxScaler(), [3, 1])]),
    ],
    "selection": [SelectKBest(f_regression, k=2), StandardScaler()],
    "sum": [FunctionTransformer(lambda X: X[:, :2] + X[:, 2:] - 7), StandardScaler()],
}


class TestCoefficients:
    @pytest.mark.parametrize("steps", AFFINE.values(), ids=AFFINE.keys())
    def test_regression_predicts_the_same(self, steps):
        # The theorem: x . (A w) + c + b . w = T(x) . w + c, to rounding. Bug caught: A transposed,
        # the shift forgotten.
        target = LinearRegressionPosterior(prior_scale=3.0)
        sampler = SVGDSampler(target, n_particles=30, max_iter=3, random_state=0)
        pipeline = make_pipeline(*steps, sampler).fit(X, linear_data())
        user, scaled = sample_pipeline(pipeline, 30), pipeline[-1].particles_
        images = pipeline[:-1].transform(X)
        d = images.shape[1]
        expected = images @ scaled[:, :d].T + scaled[:, d]
        found = X @ user[:, :4].T + user[:, 4]
        size = np.abs(X).max(0) @ np.abs(user[:, :4]).max(0)
        assert np.abs(found - expected).max() < 1e-10 * max(size, 1)
        assert np.array_equal(user[:, 5:], scaled[:, d + 1 :])  # the noise is in units of y
        assert user.shape[1] == 6
        assert np.allclose(found.mean(1), pipeline.predict(X), rtol=1e-6)

    def test_a_mean_that_is_large_beside_the_spread(self):
        # Bug caught: slopes from steps of length one, lost in the rounding of an image of size 1e8:
        # predictions are wrong by .9. The limit is rounding, 1e8 times 1e-16, over the spread.
        rows = RNG.normal(1e8, 1.0, size=(60, 2))
        y = (rows - 1e8) @ [1.0, -2.0]
        target = LinearRegressionPosterior(prior_scale=3.0)
        sampler = SVGDSampler(target, n_particles=20, max_iter=3, random_state=0)
        pipeline = make_pipeline(StandardScaler(), sampler).fit(rows, y)
        user, scaled = sample_pipeline(pipeline, 20), pipeline[-1].particles_
        expected = pipeline[0].transform(rows) @ scaled[:, :2].T + scaled[:, 2]
        assert np.abs(rows @ user[:, :2].T + user[:, 2] - expected).max() < 1e-6

    def test_mixed_columns_are_put_in_their_places(self):
        pipeline = make_pipeline(
            SelectKBest(f_regression, k=2),
            SVGDSampler(LinearRegressionPosterior(), n_particles=10, max_iter=2, random_state=0),
        ).fit(X, linear_data())
        user = sample_pipeline(pipeline, 10)
        kept = pipeline[0].get_support()
        assert np.all(user[:, :4][:, ~kept] == 0)
        assert np.allclose(user[:, :4][:, kept], pipeline[-1].particles_[:, :2], rtol=1e-9)

    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_classification_predicts_the_same(self, n_classes):
        rows, y = load_iris(return_X_y=True)
        rows, y = rows[y < n_classes] * [1, 10, 100, 1000], y[y < n_classes]
        pipeline = make_pipeline(
            StandardScaler(),
            PCA(3),
            GWGSampler(LogisticRegressionPosterior(), n_particles=20, max_iter=5, random_state=0),
        ).fit(rows, y)
        scaled = pipeline[-1].particles_.reshape(20, -1, 4)
        user = sample_pipeline(pipeline, 20).reshape(20, -1, 5)
        assert user.shape[1] == (1 if n_classes == 2 else 3)
        images = pipeline[:-1].transform(rows)
        expected = np.einsum("nkd,md->nkm", scaled[..., :3], images) + scaled[..., 3:]
        found = np.einsum("nkd,md->nkm", user[..., :4], rows) + user[..., 4:]
        assert np.abs(found - expected).max() < 1e-10

    def test_agrees_with_least_squares(self):
        # With little noise the coefficients in the units of the data are those of the data.
        y = X @ [0.2, 30.0, -0.01, 1.0] - 3 + 1e-3 * RNG.normal(size=len(X))
        target = LinearRegressionPosterior(prior_scale=100.0)
        model = make_pipeline(StandardScaler(), SVGDSampler(target, random_state=0)).fit(X, y)
        drawn = sample_pipeline(model, 200)
        exact, *_ = np.linalg.lstsq(np.column_stack([X, np.ones(len(X))]), y, rcond=None)
        gap = np.abs(drawn[:, :4].mean(0) - exact[:4])
        assert np.all(gap < 0.5 * drawn[:, :4].std(0) + 1e-6)

    def test_names(self):
        frame = pd.DataFrame(X, columns=NAMES)
        pipeline = make_pipeline(
            ColumnTransformer([("a", StandardScaler(), ["flow", "slope"])]),
            SVGDSampler(LinearRegressionPosterior(), n_particles=10, max_iter=2, random_state=0),
        ).set_output(transform="pandas")
        pipeline.fit(frame, linear_data())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # scikit-learn warns of rows without names
            drawn = sample_pipeline(pipeline, 10)
        expected = [*(f"coef[{name}]" for name in NAMES), "intercept", "noise_scale"]
        assert list(drawn.columns) == expected
        assert np.all(drawn[["coef[pressure]", "coef[height]"]] == 0)
        rows, y = load_iris(return_X_y=True, as_frame=True)
        sampler = SVGDSampler(LogisticRegressionPosterior(), n_particles=20, max_iter=1)
        model = make_pipeline(StandardScaler(), sampler).fit(rows, y)
        with config_context(transform_output="polars"):
            names = sample_pipeline(model, 2).columns
        assert names[:2] == ["coef[0,sepal length (cm)]", "coef[0,sepal width (cm)]"]
        assert (names[4], names[-1]) == ("intercept[0]", "intercept[2]")

    @pytest.mark.parametrize(
        "step",
        [
            PowerTransformer(),
            QuantileTransformer(n_quantiles=20),
            Normalizer(),
            PolynomialFeatures(),
            MinMaxScaler(clip=True),
            FunctionTransformer(np.log),
            make_pipeline(FunctionTransformer(np.reciprocal), StandardScaler()),
            FunctionTransformer(np.abs),
        ],
        ids=lambda step: type(step).__name__,
    )
    def test_maps_that_are_not_affine_are_refused(self, step):
        sampler = SVGDSampler(LinearRegressionPosterior(), n_particles=20, max_iter=1)
        pipeline = make_pipeline(step, sampler).fit(np.abs(X), linear_data())
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # zero may be no valid row
            with pytest.raises(ValueError, match=r"not an affine map.*pipeline\[-1\]"):
                sample_pipeline(pipeline, 5)

    def test_a_kink_far_from_the_data_is_found(self):
        # Linear at all rows, at zero and along the axes. Bug caught: a check near the data alone,
        # after which predictions for rows beyond the kink differ.
        rows = RNG.normal(100.0, 1.0, size=(60, 2))
        cap = FunctionTransformer(lambda X: np.minimum(X, 150.0))
        sampler = SVGDSampler(LinearRegressionPosterior(), n_particles=20, max_iter=1)
        pipeline = make_pipeline(cap, StandardScaler(), sampler).fit(rows, rows.sum(1))
        with pytest.raises(ValueError, match="not an affine map"):
            sample_pipeline(pipeline)

    @pytest.mark.parametrize("encoder", [OneHotEncoder, OrdinalEncoder, TargetEncoder, "function"])
    def test_columns_of_strings_are_refused(self, encoder):
        # Numbers are pushed through the steps, which strings were meant for: TypeErrors of NumPy
        # and AttributeErrors of lambdas do not say what is wrong.
        frame = pd.DataFrame({"size": X[:, 0], "kind": np.array(["a", "b", "c"] * 20)})
        if encoder == "function":
            step = FunctionTransformer(
                lambda X: X.assign(kind=X["kind"].map(lambda name: name.upper() == "A"))
            )
        else:
            step = ColumnTransformer(
                [("n", StandardScaler(), ["size"]), ("s", encoder(), ["kind"])]
            )
        sampler = SVGDSampler(LinearRegressionPosterior(), n_particles=20, max_iter=1)
        pipeline = make_pipeline(step, StandardScaler(), sampler).fit(frame, linear_data())
        with pytest.raises(ValueError, match="not an affine map") as caught:
            sample_pipeline(pipeline)
        assert caught.value.__cause__ is not None

    def test_width_unknown(self):
        class Shy(BaseEstimator):
            def fit(self, X, y=None):
                return self

            def transform(self, X):
                return X / 10

        sampler = SVGDSampler(LinearRegressionPosterior(), n_particles=20, max_iter=1)
        pipeline = make_pipeline(Shy(), sampler).fit(X, linear_data())
        with pytest.raises(ValueError, match=r"'shy'.*n_features_in_"):
            sample_pipeline(pipeline)

    @pytest.mark.parametrize(
        "sampler",
        [
            SVGDSampler(NeuralNetworkPosterior(), n_particles=20, max_iter=1),
            WSFNOptimizer(MeanFieldRisk(), n_particles=10, max_iter=1),
            WSFNOptimizer(1.0 * MeanFieldRisk(), n_particles=10, max_iter=1),
            MeanFieldRegressor(n_particles=10, alpha=0.1, max_iter=1),
        ],
        ids=["network", "risk", "sum", "mean-field"],
    )
    def test_parameters_of_networks_are_refused(self, sampler):
        rows = StandardScaler().fit_transform(X)
        pipeline = make_pipeline(StandardScaler(), sampler).fit(rows, linear_data())
        with pytest.raises(ValueError, match=r"parameters of a model.*pipeline\[-1\].sample"):
            sample_pipeline(pipeline, 3)
        assert len(sample_pipeline(pipeline[-1], 3)) == 3  # with nothing to undo they are welcome

    @pytest.mark.parametrize("name", ["target_", "functional_"])
    def test_parameters_of_a_model_that_are_as_many_as_the_columns(self, name):
        # Coefficients without an intercept have the shape of rows. Bug caught: a look at the shape
        # alone, after which a scaler adds the means of the columns to coefficients.
        pipeline = make_pipeline(StandardScaler(), Keeper()).fit(X)
        setattr(pipeline[-1], name, SimpleNamespace(estimator_type="regressor"))
        with pytest.raises(ValueError, match="parameters of a model"):
            sample_pipeline(pipeline)


class TestErrors:
    def test_not_fitted(self):
        for model in (
            make_pipeline(StandardScaler(), W2FlowGenerator()),
            W2FlowGenerator(),
            GridSearchCV(make_pipeline(StandardScaler(), KernelDensity()), {}),
        ):
            with pytest.raises(NotFittedError):
                sample_pipeline(model)

    @pytest.mark.parametrize("pipeline", [Pipeline([]), Pipeline([("in", Pipeline([]))])])
    def test_no_steps(self, pipeline):
        with pytest.raises(ValueError, match="has no steps"):
            sample_pipeline(pipeline)

    def test_search_without_refit(self):
        search = GridSearchCV(KernelDensity(), {"bandwidth": [1.0]}, refit=False).fit(X)
        with pytest.raises(ValueError, match="refit=True"):
            sample_pipeline(search)

    @pytest.mark.parametrize(
        ("last", "name"), [(LogisticRegression(), "LogisticRegression"), ("passthrough", "None")]
    )
    def test_nothing_to_draw_from(self, last, name):
        pipeline = Pipeline([("scale", StandardScaler()), ("end", last)])
        with pytest.raises(TypeError, match=f"'end'.*method sample, but {name}"):
            sample_pipeline(pipeline)
        with pytest.raises(TypeError, match="StandardScaler has none"):
            sample_pipeline(StandardScaler().fit(X))

    @pytest.mark.parametrize(
        ("step", "message"),
        [
            (Normalizer(), r"\(Normalizer\) has no inverse_transform.*\[-1\]"),
            (ColumnTransformer([("a", StandardScaler(), [0, 1])]), "one transformer"),
            (FeatureUnion([("a", StandardScaler())]), "one transformer"),
            (FunctionTransformer(np.arcsinh), "inverse_func"),
            (SelectKBest(lambda X, y: X.mean(0), k=2), "dropped columns"),
            (DomainAdapter(W2FlowGenerator(max_iter=1)), "has no inverse_transform"),
        ],
        ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
    )
    @pytest.mark.filterwarnings("ignore:DomainAdapter was fitted without")
    def test_steps_without_a_way_back(self, step, message):
        # FunctionTransformer and selectors have an inverse_transform, which would make values up.
        pipeline = Pipeline(
            [("outer", Pipeline([("scale", StandardScaler()), ("step", step)])), ("m", Keeper())]
        )
        pipeline.fit(X, np.zeros(len(X)))
        with pytest.raises(ValueError, match=f"outer__step.*{message}"):
            sample_pipeline(pipeline)

    def test_failing_inverse_is_named(self):
        pipeline = make_pipeline(SimpleImputer(add_indicator=True), Keeper()).fit(X)
        pipeline[0].inverse_transform = None  # anything but an inverse
        with pytest.raises(TypeError) as caught:
            sample_pipeline(pipeline)
        assert any("'simpleimputer'" in note for note in caught.value.__notes__)
