"""Features in the cost of W2FlowGenerator: what is compared, while the rows are what moves."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils.validation import check_is_fitted

from skwgf import DomainAdapter, W2FlowGenerator
from skwgf.estimators._w2_labels import reading
from skwgf.estimators._w2_problem import Problem, source_images
from skwgf.transport import exact_plan

pytestmark = pytest.mark.filterwarnings(
    "ignore:W2FlowGenerator did not converge:sklearn.exceptions.ConvergenceWarning"
)
RNG = np.random.default_rng(0)
LABELS = np.arange(50) % 2
X_SOURCE = RNG.normal(size=(50, 2)) + 5 * LABELS[:, None]
X = RNG.normal(size=(60, 2)) @ [[1.0, 0.4], [0.0, 0.5]] + 5 * (np.arange(60) % 2)[:, None] + 3.0
DOMAIN = np.repeat([1, -1], [50, 60])


def small(**options):
    settings = {"hidden_layer_sizes": (32, 32), "batch_size": 50, "max_iter": 10}
    return W2FlowGenerator(**settings | {"random_state": 0} | options)


def fit(flow, **more):
    return flow.fit(X, X_source=X_SOURCE, **more)


def turned(rows):
    """Return rows turned by an angle, a tensor or an array."""
    matrix = [[0.6, 0.8], [-0.8, 0.6]]
    return rows @ torch.tensor(matrix).to(rows)


def problem(y, **options):
    """Return the problem of carrying a source to the rows `y`."""
    free = torch.full_like(y[0], torch.inf)
    settings = {"side_source": None, "side_target": None, "weights": None, "reg": 0.0, "seed": 0}
    return Problem(y=y, low=-free, high=free, **settings | options)


class TestPlan:
    @pytest.mark.parametrize("reg", [0.0, 0.3])
    def test_it_is_that_of_the_features(self, reg):
        # Bugs caught: rows compared, features carried, the plan of the two sides exchanged.
        source, y = (torch.tensor(rows) for rows in (X_SOURCE, X))
        matrix = torch.tensor([[0.1, 2.0, 0.3], [1.0, -0.5, 4.0]], dtype=torch.float64)
        posed = problem(
            y,
            source=source,
            reg=reg,
            features_source=source @ matrix,
            features_target=y @ matrix,
        )
        plain = problem(y @ matrix, source=source @ matrix, reg=reg)
        images = source_images(posed)
        # A barycentre of images of a linear map is the image of the barycentre.
        torch.testing.assert_close(images @ matrix, source_images(plain), rtol=0, atol=1e-5)
        if reg == 0:
            assert torch.equal(images, exact_plan(source @ matrix, y @ matrix).barycenter(y))

    def test_beyond_the_size_of_an_exact_plan(self, monkeypatch):
        # There one dual vector maps the features: on a line in order, whatever its values.
        monkeypatch.setattr("skwgf.estimators._w2_problem._EXACT_POINTS", 20)
        source, y = torch.tensor(X_SOURCE), torch.tensor(X)
        posed = problem(y, source=source, features_source=source[:, 1:], features_target=y[:, 1:])
        images = source_images(posed)[source[:, 1].argsort()]
        assert (images[:, 1].diff() >= 0).all()
        assert len(images.unique(dim=0)) > 30
        assert (images[:, None] == y).all(2).any(1).all()

    @pytest.mark.parametrize("labels", [None, LABELS])
    def test_a_turn_changes_nothing(self, labels):
        # Distances stay, and with them plan, labels, images and network. Plans on the way to the
        # labels are not solved to the end, which rounding shows in.
        plain = fit(small(), y_source=labels)
        other = fit(small(feature_map=turned), y_source=labels)
        assert np.allclose(plain.transform(X_SOURCE), other.transform(X_SOURCE), atol=0.02)
        if labels is not None:
            assert np.allclose(plain.target_proba_, other.target_proba_, atol=0.02)

    def test_what_the_features_do_not_see_does_not_count(self):
        # The second column of the target goes with the first; the source's own is noise.
        u = np.linspace(-1, 1, 200)
        X = np.c_[u, np.sign(u)]
        source = np.c_[u, RNG.normal(size=200)]
        flow = small(feature_map=lambda x: x[:, :1], max_iter=100, batch_size=200)
        images = flow.fit(X, X_source=source).transform(source)
        away = np.abs(u) > 0.1
        assert np.mean((images[:, 1] > 0) == (u > 0)) > 0.95
        assert np.abs(images[away, 1] - np.sign(u[away])).mean() < 0.2

    @pytest.mark.filterwarnings("ignore:A map by y_source may do more harm:UserWarning")
    def test_labels_are_found_among_the_features(self):
        # Two rings, told apart by the radius; the source is their left half, the target the right.
        label = np.arange(300) % 2
        radius = 1.0 + label + 0.05 * RNG.normal(size=300)
        angle = RNG.uniform(-1.4, 1.4, 300)
        X = np.c_[radius * np.cos(angle), radius * np.sin(angle)]
        source = X * [-1.0, 1.0]
        flows = [small(feature_map=f) for f in (None, lambda x: x.norm(dim=1, keepdim=True))]
        right = [
            np.mean(flow.fit(X, X_source=source, y_source=label).target_proba_.argmax(1) == label)
            for flow in flows
        ]
        assert right[0] < 0.9
        assert right[1] == 1.0
        near_ring = np.linalg.norm(flows[1].transform(source), axis=1)
        assert near_ring[label == 1].mean() - near_ring[label == 0].mean() > 0.5

    @pytest.mark.parametrize("labels", [None, LABELS])
    @pytest.mark.filterwarnings("ignore:A map by y_source may do more harm:UserWarning")
    def test_constant_features(self, labels):
        # Nothing tells rows apart: the cost is zero everywhere, and nothing breaks.
        flow = fit(small(feature_map=lambda x: torch.zeros(len(x), 1)), y_source=labels)
        assert np.isfinite(flow.transform(X_SOURCE)).all()

    @pytest.mark.parametrize("size", [1e-12, 1e12])
    def test_features_of_any_size(self, size):
        plain, scaled = (
            fit(small(feature_map=lambda x, by=by: by * x), y_source=LABELS) for by in (1.0, size)
        )
        assert np.allclose(plain.transform(X_SOURCE), scaled.transform(X_SOURCE), atol=0.02)

    @pytest.mark.parametrize("place", [1e8, -1e8])
    def test_features_of_any_place(self, place):
        # In single precision a place of 1e8 would leave steps of 8 between features of order one.
        maps = (FunctionTransformer(), FunctionTransformer(lambda x: x + place))
        plain, moved = (fit(small(feature_map=found), y_source=LABELS) for found in maps)
        assert np.allclose(plain.transform(X_SOURCE), moved.transform(X_SOURCE), atol=0.02)

    def test_a_map_sees_the_rows_as_they_were_given(self):
        # Bug caught: rows that went to scaled single precision and back, where zeros are no zeros
        # and categories unknown.
        rows, source = (rng.integers(0, 3, (60, 2)).astype(float) for rng in (RNG, RNG))
        seen = []

        def spy(found):
            seen.append(found)
            return found

        small(feature_map=FunctionTransformer(spy)).fit(rows, X_source=source)
        assert np.array_equal(seen[-2], source)
        assert np.array_equal(seen[-1], rows)
        encoder = OneHotEncoder(sparse_output=False).fit(np.tile(np.arange(3.0)[:, None], 2))
        flow = small(feature_map=encoder).fit(rows, X_source=source)
        assert np.isfinite(flow.transform(source)).all()


class TestReading:
    def test_nearest_rows_before_and_after(self):
        # Two target rows of each of two classes; the source is right about three of the four, and
        # the images, in features, about all. Bugs caught: sides exchanged, pixels for features.
        y = torch.tensor([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0], [5.0, 0.0]])
        source = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 0.0]])
        images = torch.tensor([[0.5, 90.0], [4.2, 90.0], [4.8, 90.0]])
        posed = problem(
            y,
            source=source,
            side_source=torch.eye(2)[[0, 1, 1]],
            side_target=torch.tensor([[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.4, 0.6]]),
            features_source=source[:, :1],
            features_target=y[:, :1],
            features=lambda x: x[:, :1],
        )
        assert reading(posed, images) == (1.0, 1.0)
        left = source[:, :1] - 0.8
        closer = replace(posed, features_source=left)
        assert reading(closer, images) == (0.75, 1.0)
        assert reading(posed, images.flip(0))[1] < 1.0

    @pytest.mark.parametrize(("moved", "said"), [(0.9, True), (0.949, False), (1.0, False)])
    def test_harm_is_said(self, monkeypatch, moved, said):
        monkeypatch.setattr("skwgf.estimators._w2_labels.reading", lambda *_: (0.95, moved))
        with warnings.catch_warnings(record=True) as caught:
            fit(small(max_iter=2), y_source=LABELS)
        found = [str(w.message) for w in caught if "more harm than good" in str(w.message)]
        assert len(found) == said
        assert not said or "95.0% of the rows, and of the nearest moved row for 90.0%" in found[0]


class TestMap:
    def test_a_clone_is_fitted_on_the_target_rows(self):
        scaler = StandardScaler()
        flow = fit(small(feature_map=scaler))
        with pytest.raises(NotFittedError):
            check_is_fitted(scaler)
        assert np.array_equal(flow.feature_map_.mean_, X.mean(0))

    def test_a_fitted_one_is_used_as_it_is(self):
        scaler = StandardScaler().fit(100 * X)
        assert fit(small(feature_map=scaler)).feature_map_ is scaler
        assert fit(small(feature_map=torch.sin)).feature_map_ is torch.sin
        assert fit(small()).feature_map_ is None

    @pytest.mark.parametrize(
        "options",
        [{"potential": "minibatch"}, {"persistence": 2}, {"persistence": "auto"}],
    )
    def test_it_needs_one_plan_to_the_end(self, options):
        message = r"feature_map .* needs X_source, .*'full'.* SinkhornFlowGenerator"
        with pytest.raises(ValueError, match=message):
            fit(small(feature_map=StandardScaler(), **options))

    def test_it_needs_a_source(self):
        with pytest.raises(ValueError, match="X_source=None"):
            small(feature_map=StandardScaler()).fit(X)

    @pytest.mark.parametrize("given", ["pca", 3])
    def test_it_is_a_transformer_or_a_function(self, given):
        with pytest.raises(ValueError, match="'feature_map' parameter"):
            fit(small(feature_map=given))

    def test_its_table_is_checked(self):
        with pytest.raises(ValueError, match="feature_map returned NaN"):
            fit(small(feature_map=lambda x: x * torch.nan))


class TestAdapter:
    ROWS = np.concatenate([X_SOURCE, X])
    Y = np.concatenate([LABELS, np.full(60, -1)])

    def fit(self, estimator):
        return estimator.fit(self.ROWS, self.Y, sample_domain=DOMAIN)

    def test_it_reaches_the_flow(self):
        adapter = DomainAdapter(small(), target_shift="ignore")
        adapter = self.fit(clone(adapter).set_params(flow__feature_map=PCA(1)))
        assert np.allclose(adapter.flow_.feature_map_.mean_, X.mean(0))

    def test_a_frozen_map_survives_the_clones(self):
        # Bug caught: features learnt on other rows are thrown away by a clone.
        frozen = FrozenEstimator(StandardScaler().fit(100 * X))
        adapter = DomainAdapter(small(feature_map=frozen), target_shift="ignore")
        found = self.fit(clone(adapter)).flow_.feature_map_
        assert np.array_equal(found.mean_, (100 * X).mean(0))

    def test_a_search_tunes_it(self):
        search = GridSearchCV(
            DomainAdapter(small(max_iter=2), target_shift="ignore"),
            {"flow__feature_map": [None, PCA(1)]},
            scoring=lambda estimator, X, y=None: float(estimator.flow_.feature_map is not None),
            cv=[(np.arange(110), np.arange(110))],
        )
        # Without routing a search hands on what has one entry a row.
        search.fit(self.ROWS, self.Y, sample_domain=DOMAIN)
        assert search.cv_results_["mean_test_score"].tolist() == [0.0, 1.0]
        assert search.best_estimator_.flow_.feature_map_.n_components_ == 1
