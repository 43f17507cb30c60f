"""A predictor on the source rows alone, in and out of pipelines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import SourceOnly

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
DOMAIN = np.where(np.arange(60) % 3, 1, -2)
SOURCE = DOMAIN > 0
Y = np.where(X[:, 0] > 0, "right", "left")
WEIGHTS = RNG.uniform(0.1, 5, size=60)


class Untouchable:
    """A label that must not be looked at."""

    def _refuse(self, *args):
        raise AssertionError("a label of the target was read")

    __eq__ = __lt__ = __gt__ = __hash__ = __str__ = __repr__ = __float__ = __int__ = _refuse


def hidden(y):
    """Return the labels with those of the target rows made untouchable."""
    labels = np.empty(len(y), object)
    for k, label in enumerate(y):
        labels[k] = label if SOURCE[k] else Untouchable()
    return labels


def test_it_is_the_predictor_of_the_source_rows():
    model = SourceOnly(LogisticRegression()).fit(X, hidden(Y), sample_domain=DOMAIN)
    peer = LogisticRegression().fit(X[SOURCE], Y[SOURCE])
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(model, method)(X), getattr(peer, method)(X))
    assert model.score(X, Y) == peer.score(X, Y)
    np.testing.assert_array_equal(model.classes_, ["left", "right"])
    assert model.n_features_in_ == 2


def test_without_domains_all_rows_are_source():
    with pytest.warns(UserWarning, match="without sample_domain: all rows count as source"):
        model = SourceOnly(LogisticRegression()).fit(X, Y)
    np.testing.assert_array_equal(
        model.predict_proba(X), LogisticRegression().fit(X, Y).predict_proba(X)
    )


def test_weights_are_cut_to_the_source():
    # Bug caught: weights of the first rows, whatever their domain.
    model = SourceOnly(LinearRegression())
    model.fit(X, X[:, 0] ** 2, sample_domain=DOMAIN, sample_weight=WEIGHTS)
    peer = LinearRegression().fit(X[SOURCE], X[SOURCE, 0] ** 2, sample_weight=WEIGHTS[SOURCE])
    np.testing.assert_array_equal(model.estimator_.coef_, peer.coef_)


def test_metadata_are_routed_on_request():
    with sklearn.config_context(enable_metadata_routing=True):
        model = SourceOnly(LogisticRegression())
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            model.fit(X, Y, sample_domain=DOMAIN, sample_weight=WEIGHTS)
        model = SourceOnly(LogisticRegression().set_fit_request(sample_weight=True))
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        pipeline.fit(X, hidden(Y), sample_domain=DOMAIN, sample_weight=WEIGHTS)
        Z = StandardScaler().fit_transform(X)
        peer = LogisticRegression().fit(Z[SOURCE], Y[SOURCE], sample_weight=WEIGHTS[SOURCE])
        np.testing.assert_array_equal(pipeline.predict_proba(X), peer.predict_proba(Z))


def test_metadata_of_the_score():
    y = X[:, 0] ** 2
    with sklearn.config_context(enable_metadata_routing=True):
        model = SourceOnly(LinearRegression().set_score_request(sample_weight=True))
        found = model.fit(X, y, sample_domain=DOMAIN).score(X, y, sample_weight=WEIGHTS)
    peer = LinearRegression().fit(X[SOURCE], y[SOURCE])
    assert found == peer.score(X, y, sample_weight=WEIGHTS) != peer.score(X, y)


def test_tensors():
    model = SourceOnly(LinearRegression())
    rows = torch.tensor(X, requires_grad=True)
    model.fit(rows, rows[:, 0] ** 2, sample_domain=torch.tensor(DOMAIN))
    peer = LinearRegression().fit(X[SOURCE], X[SOURCE, 0] ** 2)
    np.testing.assert_allclose(model.predict(rows), peer.predict(X), rtol=1e-12)


def test_frames_lists_and_names():
    frame = pd.DataFrame(X, columns=["width", "height"])
    labels = pd.Series(Y, index=RNG.permutation(60))  # the index says nothing about the order
    model = SourceOnly(KNeighborsClassifier(1)).fit(frame, labels, sample_domain=DOMAIN.tolist())
    np.testing.assert_array_equal(model.feature_names_in_, ["width", "height"])
    np.testing.assert_array_equal(model.predict(frame[SOURCE]), Y[SOURCE])


def test_it_is_of_the_kind_of_its_predictor():
    assert is_classifier(SourceOnly(LogisticRegression()))
    assert is_regressor(SourceOnly(LinearRegression()))
    assert not hasattr(SourceOnly(LinearRegression()), "predict_proba")
    assert clone(SourceOnly(LinearRegression())).get_params()["estimator__fit_intercept"]


def test_errors_say_what_is_wrong():
    model = SourceOnly(LogisticRegression())
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(ValueError, match="None of the 60 rows is of the source"):
        model.fit(X, Y, sample_domain=-np.ones(60))
    with pytest.raises(ValueError, match=r"one number for each of the 60 rows.*\(59,\)"):
        model.fit(X, Y, sample_domain=DOMAIN[:-1])
    with pytest.raises(ValueError, match="source rows >= 0"):
        model.fit(X, Y, sample_domain=["source"] * 60)
    with pytest.raises(ValueError, match=r"np\.where\(mask, 1, -1\)"):
        model.fit(X, Y, sample_domain=SOURCE)
    objects = model.fit(X, Y, sample_domain=DOMAIN.astype(object)).predict(X)
    np.testing.assert_array_equal(objects, model.fit(X, Y, sample_domain=DOMAIN).predict(X))
