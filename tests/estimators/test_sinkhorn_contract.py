"""SinkhornFlowGenerator as an estimator: classes, features, what a fit leaves behind.

What it shares with other generators is in the files test_generator_*.py.
"""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from generators import NOT_CONVERGED, SINKHORN, rows
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from skwgf.flows import ParticleCarrier

pytestmark = pytest.mark.filterwarnings(NOT_CONVERGED)

X = rows(300)
Y = np.array(["b", "a", "c"])[np.searchsorted([150, 240], np.arange(300), side="right")]
SHARES = {"a": 0.3, "b": 0.5, "c": 0.2}


@pytest.fixture(params=SINKHORN[:2])
def tiny(request):
    return request.param


@pytest.fixture(scope="module", params=SINKHORN[:2])
def classed(request):
    """Return a generator of three classes."""
    return request.param(conditional=True).fit(X, Y)


def codes(generator, draws):
    """Return the class of each draw, as a stub network that puts classes apart tells it."""
    return generator.classes_[np.round(draws[:, 0]).astype(int)]


class ClassOnly(torch.nn.Module):
    """A stand-in for `network_` that returns the number of the class, so that it can be read."""

    def __init__(self, generator):
        super().__init__()
        self.out_shift = generator.network_.out_shift

    def forward(self, z):
        return z[:, 2:].argmax(1, keepdim=True).double().expand(-1, 2)


@pytest.fixture
def readable(classed, monkeypatch):
    monkeypatch.setattr(classed, "network_", ClassOnly(classed))
    return classed


class TestClassesOfSample:
    def test_attributes(self, classed):
        assert classed.classes_.tolist() == ["a", "b", "c"]
        assert classed.class_share_.tolist() == [0.3, 0.5, 0.2]
        assert classed.classes_source_ is None
        assert classed.target_proba_ is None
        assert len(classed.network_.in_shift) == 5

    @pytest.mark.parametrize("label", ["a", np.str_("b"), np.array("c")])
    def test_one_class_for_all(self, readable, label):
        draws = readable.sample(20, y=label)
        assert set(codes(readable, draws)) == {str(label)}

    @pytest.mark.parametrize("kind", [list, np.array, pd.Series, lambda y: np.array([y]).T])
    @pytest.mark.filterwarnings("ignore:A column-vector y was passed")
    def test_a_class_for_each(self, readable, kind):
        # In their order. Bug caught: rows grouped by class.
        asked = ["c", "a", "a", "b", "c", "a"]
        assert codes(readable, readable.sample(6, y=kind(asked))).tolist() == asked

    def test_none_draws_them_with_their_shares(self, readable):
        # To four standard errors. Bug caught: equal shares, and the order of the rows.
        found = codes(readable, readable.sample(4000, random_state=0))
        for name, share in SHARES.items():
            assert abs(np.mean(found == name) - share) < 4 * (share * (1 - share) / 4000) ** 0.5
        assert np.any(found[:10] != found[0])

    def test_one_for_all_and_one_for_each_agree(self, classed):
        alone = classed.sample(9, y="b", random_state=3)
        assert np.array_equal(alone, classed.sample(9, y=9 * ["b"], random_state=3))
        assert not np.allclose(alone, classed.sample(9, y="a", random_state=3))

    def test_numbers(self, tiny):
        numbers = np.unique(Y, return_inverse=True)[1] * 10 - 5
        generator = tiny(conditional=True).fit(X, numbers)
        assert generator.classes_.tolist() == [-5, 5, 15]
        draws = generator.sample(4, y=15, random_state=0)
        assert np.array_equal(draws, generator.sample(4, y=np.int32(15), random_state=0))
        assert np.array_equal(draws, generator.sample(4, y=4 * [15.0], random_state=0))

    @pytest.mark.parametrize(
        "kind",
        [
            list,
            lambda y: y.astype(object),
            lambda y: pd.Series(y, index=np.arange(300)[::-1]),
            lambda y: pd.Categorical(y, categories=["c", "b", "a"]),
        ],
    )
    def test_kinds_of_labels_give_the_same_fit(self, tiny, kind):
        draws = [tiny(conditional=True).fit(X, y).sample(9, random_state=0) for y in (Y, kind(Y))]
        assert np.array_equal(*draws)

    def test_tensors_and_booleans(self, tiny):
        truth = Y == "a"
        draws = [
            tiny(conditional=True).fit(X, y).sample(9, y=True, random_state=0)
            for y in (truth, torch.tensor(truth), truth.tolist())
        ]
        assert np.array_equal(draws[0], draws[1])
        assert np.array_equal(draws[0], draws[2])

    def test_names_of_classes_do_not_matter_but_their_order_does(self, tiny):
        longer = np.array(["alpha", "beta", "gamma"])[np.unique(Y, return_inverse=True)[1]]
        short, long = (tiny(conditional=True).fit(X, y) for y in (Y, longer))
        draws = short.sample(9, y="b", random_state=0)
        assert np.array_equal(draws, long.sample(9, y="beta", random_state=0))

    def test_with_a_source_rows_of_the_class(self, tiny):
        # Without replacement up to the rows of the class, with replacement beyond.
        X_source, y_source = rows(60, seed=1), np.repeat(["a", "b", "c"], [10, 20, 30])
        generator = tiny(conditional=True).fit(X, Y, X_source=X_source, y_source=y_source)
        images = generator.transform(X_source, y_source)
        for name, n in (("a", 10), ("b", 20), ("c", 30)):
            draws = generator.sample(n, y=name, random_state=0)
            own = images[y_source == name]
            assert np.allclose(np.sort(draws, 0), np.sort(own, 0), atol=1e-9)
            assert not np.allclose(draws, own)
            beyond = generator.sample(200, y=name, random_state=0)
            distances = np.abs(beyond[:, None] - own[None]).max(2)
            assert np.all(distances.min(1) < 1e-9)


class TestClassesElsewhere:
    def test_transform_reads_points_with_their_class(self, classed):
        z, y = np.random.default_rng(0).normal(size=(30, 2)), Y[::10]
        images = classed.transform(z, y)
        alone = [classed.transform(z[[i]], y[[i]])[0] for i in range(30)]
        assert np.allclose(images, alone, atol=1e-9)
        assert not np.allclose(images, classed.transform(z, np.roll(y, 11)), atol=0.01)

    def test_precision_of_transform(self, classed):
        assert classed.transform(X.astype(np.float32), Y).dtype == np.float32

    def test_fit_transform_hands_the_classes_on(self, tiny):
        images = tiny(conditional=True).fit_transform(X, Y)
        assert np.array_equal(images, tiny(conditional=True).fit(X, Y).transform(X, Y))

    def test_score_with_classes_draws_as_many_of_each(self, classed, monkeypatch):
        asked = []
        monkeypatch.setattr(
            classed, "_draw_like", lambda c, n, g: asked.append(c) or torch.zeros(n, 2).double()
        )
        classed.score(X[:40], Y[:40])
        classed.score(X[:40])
        assert np.array_equal(asked[0], np.full(40, 1))
        assert asked[1] is None

    def test_score_is_deterministic(self, classed):
        assert classed.score(X, Y) == classed.score(X, Y)
        assert classed.score(X) == classed.score(X)

    def test_a_twin_is_the_same_to_the_bit(self, classed):
        twin = pickle.loads(pickle.dumps(classed))
        assert np.array_equal(twin.sample(9, random_state=0), classed.sample(9, random_state=0))
        assert np.array_equal(twin.transform(X, Y), classed.transform(X, Y))
        assert twin.score(X, Y) == classed.score(X, Y)

    def test_y_is_not_read_without_conditional(self, tiny):
        # Not even looked at: continuous values and missing ones are fine.
        plain = tiny().fit(X)
        for y in (Y, X[:, 0], np.full(300, np.nan)):
            generator = tiny().fit(X, y)
            assert generator.classes_ is None
            assert generator.class_share_ is None
            assert np.array_equal(generator.transform(X, y), plain.transform(X))

    @pytest.mark.parametrize("options", [{}, {"guidance": 0.5}, {"validation_fraction": 0.3}])
    def test_same_seed_same_fit(self, tiny, options):
        states = torch.get_rng_state()
        draws = [
            tiny(conditional=True, **options).fit(X, Y).sample(9, random_state=0) for _ in range(2)
        ]
        assert np.array_equal(*draws)
        assert torch.equal(torch.get_rng_state(), states)

    def test_in_a_pipeline(self, tiny):
        scale = np.array([1.0, 64.0])
        pipeline = make_pipeline(StandardScaler(), tiny(conditional=True)).fit(scale * X, Y)
        generator = pipeline[-1]
        assert generator.sample(3, y="b").shape == (3, 2)
        scaled = pipeline[0].transform(scale * X)
        assert pipeline.score(scale * X, Y) == generator.score(scaled, Y)

    def test_in_a_search(self, tiny):
        # The labels reach fit and score of each fold, which has to have rows of all classes.
        grid = {"learning_rate": [1e-8, 0.02]}
        folds = StratifiedKFold(2)
        search = GridSearchCV(tiny(conditional=True, max_iter=20), grid, cv=folds).fit(X, Y)
        assert search.best_params_ == {"learning_rate": 0.02}
        assert search.best_estimator_.classes_.tolist() == ["a", "b", "c"]

    def test_warm_start_with_other_classes(self, tiny):
        generator = tiny(conditional=True, warm_start=True).fit(X, Y)
        with pytest.raises(ValueError, match=r"warm_start=True .* classes, layers or columns"):
            generator.fit(X, Y == "a")

    def test_refit_forgets_the_classes(self, tiny):
        generator = tiny(conditional=True).fit(X, Y)
        generator.set_params(conditional=False).fit(X)
        assert generator.classes_ is None
        assert np.array_equal(generator.transform(X), tiny().fit(X).transform(X))


class TestFeatureMap:
    def test_the_argument_is_left_alone(self, tiny):
        scaler = StandardScaler()
        generator = tiny(feature_map=scaler).fit(X)
        assert generator.feature_map is scaler
        with pytest.raises(NotFittedError):
            check_is_fitted(scaler)
        assert np.array_equal(generator.feature_map_.mean_, X.mean(0))

    def test_a_fitted_one_is_used_as_it_is(self, tiny):
        scaler = StandardScaler().fit(100 * X)
        generator = tiny(feature_map=scaler).fit(X)
        assert generator.feature_map_ is scaler
        assert tiny(feature_map=torch.sin).fit(X).feature_map_ is torch.sin
        assert tiny().fit(X).feature_map_ is None

    def test_a_search_fits_it_on_each_fold_and_tunes_it(self, tiny):
        grid = {"feature_map__n_components": [1, 2]}
        search = GridSearchCV(tiny(feature_map=PCA()), grid, cv=2).fit(X)
        best = search.best_estimator_
        assert best.feature_map_.n_components_ == search.best_params_["feature_map__n_components"]
        assert np.allclose(best.feature_map_.mean_, X.mean(0))

    def test_clone_has_its_own(self, tiny):
        generator = tiny(feature_map=PCA(1)).fit(X)
        twin = clone(generator)
        assert twin.feature_map is not generator.feature_map
        assert not hasattr(twin, "feature_map_")

    def test_it_may_return_another_number_of_columns(self, tiny):
        for given in (PCA(1), lambda x: torch.cat([x, x.square(), x.sin()], 1)):
            assert tiny(feature_map=given).fit(X).sample(3).shape == (3, 2)

    def test_a_fit_with_it_can_be_copied(self, tiny):
        generator = tiny(feature_map=PCA(1)).fit(X)
        twin = pickle.loads(pickle.dumps(generator))
        assert np.array_equal(twin.transform(X), generator.transform(X))


class TestFlow:
    """What the particle flow leaves behind."""

    def test_history(self, tiny):
        generator = tiny(reg=0.05, step_size=0.5).fit(X)
        if tiny.loops:
            assert generator.flow_history_ == {}
            return
        assert set(generator.flow_history_) == {"objective", "step"}
        for values in generator.flow_history_.values():
            assert isinstance(values, np.ndarray)
            assert values.shape == (12,)  # three steps down, three at the end, all twice
            assert np.isfinite(values).all()
        assert len(generator.history_["objective"]) == 5

    def test_reg(self, tiny):
        assert tiny(reg=0.07).fit(X).reg_ == 0.07
        # Few rows support no fine regularisation, many rows do.
        coarse, fine = (tiny(reg=None, max_iter=1).fit(rows(n)).reg_ for n in (20, 2000))
        assert 0.05 < coarse <= 0.2
        assert 0.005 <= fine < 0.01

    def test_interrupt_is_raised_and_nothing_is_fitted(self, monkeypatch):
        # There is no state to keep yet: the network has not seen a pair.
        def interrupted(carrier):
            raise KeyboardInterrupt

        monkeypatch.setattr(ParticleCarrier, "advance", interrupted)
        generator = SINKHORN[0].values[0]()
        with pytest.raises(KeyboardInterrupt):
            generator.fit(X)
        with pytest.raises(NotFittedError):
            generator.sample()

    def test_interrupt_leaves_an_earlier_fit_usable(self, monkeypatch):
        generator = SINKHORN[0].values[0](warm_start=True).fit(X)
        draws = generator.sample(9, random_state=0)
        monkeypatch.setattr(
            ParticleCarrier, "advance", lambda carrier: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            generator.fit(X)
        assert np.array_equal(generator.sample(9, random_state=0), draws)

    def test_the_loop_goes_on_from_the_flow(self):
        # As for digits: the flow to its end first, then the loop from its weights.
        full = SINKHORN[0].values[0]
        generator = full(conditional=True, warm_start=True, ema_decay=0.0).fit(X, Y)
        before = generator.transform(X, Y)
        generator.set_params(persistence=1, learning_rate=1e-12, max_iter=2).fit(X, Y)
        assert np.allclose(generator.transform(X, Y), before, atol=1e-5)
        assert len(generator.history_["objective"]) == 7
        assert np.isnan(generator.history_["lag"][:5]).all()
        assert np.isfinite(generator.history_["lag"][5:]).all()

    def test_conditional_history_is_one_for_all_classes(self, tiny):
        generator = tiny(conditional=True).fit(X, Y)
        assert all(len(values) == 3 for values in generator.flow_history_.values())
        assert len(generator.history_["step"]) == 5

    def test_no_warnings_beside_that_of_convergence(self, tiny):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message=".* did not converge")
            tiny(conditional=True, guidance=1.0, feature_map=PCA(1)).fit(X, Y).score(X, Y)
            tiny().fit(X, X_source=rows(60), y_source=np.arange(60) % 2)
