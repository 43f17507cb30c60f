"""Label-free scorers: what they compute, and that they read no label of the target."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, cohen_kappa_score, mean_absolute_error
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skwgf import DomainAdapter, SourceOnly
from skwgf.metrics import (
    CircularScorer,
    EntropyScorer,
    ImportanceWeightedScorer,
    NeighborScorer,
)

RNG = np.random.default_rng(0)
N = 3000
X = np.concatenate([RNG.normal(0, 1, (N, 1)), RNG.normal(0.7, 1, (N, 1))])
DOMAIN = np.repeat([1, -1], N)
SOURCE = DOMAIN > 0
Y = (X[:, 0] > 0.5).astype(int)
SCORERS = [
    ImportanceWeightedScorer(),
    EntropyScorer(),
    EntropyScorer(diversity=True),
    CircularScorer(),
    NeighborScorer(),
]
every_scorer = pytest.mark.parametrize("scorer", SCORERS, ids=repr)


class Threshold(ClassifierMixin, BaseEstimator):
    """A classifier that is sure of itself, with a fixed threshold."""

    def __init__(self, at=0.0, sureness=0.9):
        self.at = at
        self.sureness = sureness

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return (np.asarray(X)[:, 0] > self.at).astype(int)

    def predict_proba(self, X):
        right = np.where(self.predict(X), self.sureness, 1 - self.sureness)
        return np.column_stack([1 - right, right])


def test_importance_weights_give_the_score_on_the_target():
    # The log ratio of the densities is linear here, which a logistic regression learns.
    model = Threshold().fit(X, Y)  # wrong between 0 and .5
    on_source = model.score(X[SOURCE], Y[SOURCE])
    on_target = model.score(X[~SOURCE], Y[~SOURCE])
    found = ImportanceWeightedScorer()(model, X, Y, sample_domain=DOMAIN)
    weights = np.exp(0.7 * X[SOURCE, 0] - 0.7**2 / 2)
    effective = weights.sum() ** 2 / (weights**2).sum()
    assert abs(found - on_target) < 3 * np.sqrt(0.16 * (1 / effective + 1 / N))
    # Away from the wrong part there is less to be wrong about: the two differ on another target.
    far = X + np.where(SOURCE, 0.0, 1.0)[:, None]
    found = ImportanceWeightedScorer()(model, far, Y, sample_domain=DOMAIN)
    truth = model.score(far[~SOURCE], (far[~SOURCE, 0] > 0.5).astype(int))
    assert truth - on_source > 0.05
    assert abs(found - truth) < abs(on_source - truth) / 2


class Means(TransformerMixin, BaseEstimator):
    """The flow that moves the mean of the source to that of the target."""

    def fit(self, X, y=None, *, X_source):
        self.offset_ = X.mean(0) - X_source.mean(0)
        return self

    def transform(self, X):
        return X + self.offset_


def test_a_pipeline_is_told_its_domains():
    # Bug caught: rows compared, or predicted, where they were before the adapter moved them.
    rng = np.random.default_rng(0)
    y, domain = np.tile([0, 1], 200), np.repeat([1, -1], 200)
    rows = rng.normal(size=(400, 2)) + 6.0 * y[:, None] + 9.0 * (domain < 0)[:, None]
    model = make_pipeline(DomainAdapter(Means()), SourceOnly(LogisticRegression()))
    seen = {}

    def keep(truth, answer, sample_weight):
        seen.update(hits=(truth == answer).mean(), weight=sample_weight)
        return 0.0

    with sklearn.config_context(enable_metadata_routing=True):
        model.fit(rows, y, sample_domain=domain)
        ImportanceWeightedScorer(keep)(model, rows, y, sample_domain=domain)
        assert CircularScorer()(model, rows, y, sample_domain=domain) > 0.98
    assert seen["hits"] > 0.98
    weight = seen["weight"]
    assert weight.sum() ** 2 / (weight**2).sum() > 0.9 * len(weight)  # moved rows overlap
    for scorer in (ImportanceWeightedScorer(), CircularScorer()):  # no wrong figure in silence
        with pytest.raises(ValueError, match="metadata routing"):
            scorer(model, rows, y, sample_domain=domain)


@every_scorer
def test_a_pipeline_of_one_step_and_tensors(scorer):
    model = make_pipeline(SourceOnly(LogisticRegression()))
    rows = torch.tensor(X, requires_grad=True)
    with sklearn.config_context(enable_metadata_routing=True):
        model.fit(rows, torch.tensor(Y), sample_domain=torch.tensor(DOMAIN))
        found = scorer(model, rows, torch.tensor(Y), sample_domain=torch.tensor(DOMAIN))
        assert found == scorer(model[0], X, Y, sample_domain=DOMAIN)


def test_weights_of_a_regressor_and_an_own_score():
    y = X[:, 0] ** 2
    model = LinearRegression().fit(X[SOURCE], y[SOURCE])

    def minus_mae(truth, answer, sample_weight):
        return -mean_absolute_error(truth, answer, sample_weight=sample_weight)

    found = ImportanceWeightedScorer(minus_mae)(model, X, y, sample_domain=DOMAIN)
    truth = -mean_absolute_error(y[~SOURCE], model.predict(X[~SOURCE]))
    stay = -mean_absolute_error(y[SOURCE], model.predict(X[SOURCE]))
    assert abs(found - truth) < 0.25 * abs(stay - truth)
    assert ImportanceWeightedScorer()(model, X, y, sample_domain=DOMAIN) < 1


def test_rows_that_no_source_row_is_near_have_a_limit():
    far = X + np.where(SOURCE, 0.0, 50.0)[:, None]
    model = DecisionTreeClassifier().fit(far, SOURCE)  # tells them apart for sure
    scorer = ImportanceWeightedScorer(domain_classifier=model)
    threshold = Threshold().fit(X, Y)
    found = scorer(threshold, far, Y, sample_domain=DOMAIN)
    assert found == pytest.approx(threshold.score(far[SOURCE], Y[SOURCE]))  # equal weights are left


@pytest.mark.parametrize("sureness", [0.5, 0.9, 1.0])
def test_entropy(sureness):
    model = Threshold(0.7, sureness).fit(X, Y)
    p = np.array([sureness, 1 - sureness])
    exact = (p * np.log(np.maximum(p, 1e-300))).sum()
    assert EntropyScorer()(model, X, sample_domain=DOMAIN) == pytest.approx(exact, abs=1e-12)
    share = (X[~SOURCE, 0] > 0.7).mean()
    q = share * sureness + (1 - share) * (1 - sureness)
    more = EntropyScorer(diversity=True)(model, X, sample_domain=DOMAIN)
    assert more == pytest.approx(exact - q * np.log(q) - (1 - q) * np.log(1 - q), abs=1e-12)


def test_diversity_sees_a_single_class():
    # Bug caught: a classifier that calls every row the same is best by the plain entropy.
    lazy, fair = Threshold(-99).fit(X, Y), Threshold(0.7, 0.89).fit(X, Y)
    plain, diverse = EntropyScorer(), EntropyScorer(diversity=True)
    given = {"X": X, "sample_domain": DOMAIN}
    assert plain(lazy, **given) > plain(fair, **given)
    assert diverse(lazy, **given) < diverse(fair, **given)


def test_the_way_back():
    model = SourceOnly(LogisticRegression()).fit(X, Y, sample_domain=DOMAIN)
    peer = LogisticRegression().fit(X[SOURCE], Y[SOURCE])
    back = LogisticRegression().fit(X[~SOURCE], peer.predict(X[~SOURCE]))
    exact = accuracy_score(Y[SOURCE], back.predict(X[SOURCE]))
    scorer = CircularScorer(accuracy_score)
    for routing in (False, True):  # without routing the clone is told its rows by hand
        with sklearn.config_context(enable_metadata_routing=routing):
            assert scorer(model, X, Y, sample_domain=DOMAIN) == exact


def test_one_label_comes_home_as_it_is():
    model = Threshold(at=-99).fit(X, Y)  # a logistic regression could not be fitted to one class
    assert CircularScorer()(model, X, Y, sample_domain=DOMAIN) == 0.5


def test_neighbours_agree_beyond_chance():
    # Cohen's kappa of rows and their nearest neighbour.
    model = Threshold(0.7).fit(X, Y)
    target = X[~SOURCE]
    near = NearestNeighbors(n_neighbors=1).fit(target).kneighbors(return_distance=False)[:, 0]
    own, other = model.predict(target), model.predict(target[near])
    found = NeighborScorer(n_neighbors=1)(model, X, sample_domain=DOMAIN)
    # The two raters have nearly, not exactly, the same shares of labels.
    assert found == pytest.approx(cohen_kappa_score(own, other), abs=1e-3)
    assert NeighborScorer()(Threshold(at=-99).fit(X, Y), X, sample_domain=DOMAIN) == 0

    class Coin(Threshold):
        def predict(self, X):
            return np.random.default_rng(0).integers(2, size=len(X))

    by_chance = NeighborScorer()(Coin().fit(X, Y), X, sample_domain=DOMAIN)
    assert abs(by_chance) < 4 / np.sqrt(5 * N / 2)


def test_neighbours_of_a_regressor():
    # Half the mean squared difference of independent values is their variance: the score is 0. A
    # smooth prediction is nearly that of the neighbours.
    smooth = LinearRegression().fit(X[SOURCE], X[SOURCE, 0])
    assert NeighborScorer()(smooth, X, sample_domain=DOMAIN) > 0.99
    values = np.random.default_rng(1).normal(size=2 * N)
    jumpy = KNeighborsRegressor(1).fit(X, values)
    assert abs(NeighborScorer()(jumpy, X, sample_domain=DOMAIN)) < 4 / np.sqrt(5 * N / 2)


def test_a_cut_cluster_is_seen():
    # Bug caught: a classifier that cuts a cluster is as sure, and as good on the way back.
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal([9, 0], 1, (300, 2))])
    domain = np.where(np.arange(600) % 2, 1, -1)
    right, cut = Threshold(4.5).fit(rows, [0, 1]), Threshold(0.0).fit(rows, [0, 1])
    scorer = NeighborScorer()
    assert scorer(right, rows, sample_domain=domain) == 1
    assert scorer(cut, rows, sample_domain=domain) < 0.95


@every_scorer
def test_no_label_of_the_target_is_read(scorer):
    class Untouchable:
        def _refuse(self, *args):
            raise AssertionError("a label of the target was read")

        __eq__ = __lt__ = __gt__ = __hash__ = __str__ = __repr__ = __int__ = __float__ = _refuse

    names = np.array(["left", "right"], object)[Y]
    hidden = names.copy()
    hidden[~SOURCE] = Untouchable()
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[SOURCE], names[SOURCE])
    with sklearn.config_context(enable_metadata_routing=True):
        found = scorer(model, X, hidden, sample_domain=DOMAIN)
        assert found == scorer(model, X, names, sample_domain=DOMAIN)


@every_scorer
def test_in_a_search(scorer):
    pipeline = make_pipeline(StandardScaler(), SourceOnly(LogisticRegression()))
    cv = list(StratifiedKFold(2).split(X, DOMAIN))
    with sklearn.config_context(enable_metadata_routing=True):
        for scoring in (scorer, {"a": scorer, "b": EntropyScorer()}):
            search = GridSearchCV(
                pipeline,
                {"sourceonly__estimator__C": [1e-4, 1.0]},
                scoring=scoring,
                refit="a" if isinstance(scoring, dict) else True,
                cv=cv,
                error_score="raise",
            ).fit(X, np.where(SOURCE, Y, -1), sample_domain=DOMAIN)
            # All of them prefer the classifier that knows where the classes part.
            assert search.best_params_ == {"sourceonly__estimator__C": 1.0}


@every_scorer
def test_errors_say_what_is_missing(scorer):
    model = Threshold().fit(X, Y)
    with pytest.raises(ValueError, match=r"needs sample_domain.*metadata routing"):
        scorer(model, X, Y)
    with pytest.raises(ValueError, match="6000 source row"):
        scorer(model, X, Y, sample_domain=np.ones(2 * N))
    if not isinstance(scorer, EntropyScorer | NeighborScorer):
        for y in (None, Y[:-1]):
            with pytest.raises(ValueError, match="y must hold a label for each of the 6000 rows"):
                scorer(model, X, y, sample_domain=DOMAIN)
