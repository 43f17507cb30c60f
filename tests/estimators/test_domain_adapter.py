"""Source rows are carried to the target, target rows are left alone, their labels never read."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import DomainAdapter, SinkhornFlowGenerator, SourceOnly, W2FlowGenerator
from skwgf.metrics import CircularScorer, EntropyScorer

N = 150
CENTERS = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
ANGLE = 0.6
TURN = np.array([[np.cos(ANGLE), np.sin(ANGLE)], [-np.sin(ANGLE), np.cos(ANGLE)]])


def shifted(seed=0):
    """Return rows of both domains in mixed order, all labels, and the domains.

    Three classes; those of the target are turned and moved, so that a classifier of the source
    misreads them.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 2 * N // 3)
    X = rng.normal(size=(2 * N, 2)) + CENTERS[labels]
    domain = np.where(np.arange(2 * N) % 2, 1, -1)
    X[domain < 0] = X[domain < 0] @ TURN + [2.0, 3.0]
    order = rng.permutation(2 * N)
    return X[order], np.array(["a", "b", "c"])[labels][order], domain[order]


X, Y, DOMAIN = shifted()
SOURCE = DOMAIN > 0
HIDDEN = np.where(SOURCE, Y, "unknown")


def small(**params):
    return W2FlowGenerator(max_iter=40, hidden_layer_sizes=(32, 32), random_state=0, **params)


class Means(TransformerMixin, BaseEstimator):
    """The flow that moves the mean of the source to that of the target."""

    def fit(self, X, y=None, *, X_source):
        self.offset_ = X.mean(0) - X_source.mean(0)
        return self

    def transform(self, X):
        return X + self.offset_


def quiet(adapter, *args, **kwargs):
    """Fit, whatever the flow has to say about its own convergence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        return adapter.fit(*args, **kwargs)


@pytest.fixture(scope="module")
def adapter():
    return quiet(DomainAdapter(small()), X, HIDDEN, sample_domain=DOMAIN)


def test_a_translation_is_found():
    # The optimal map between a law and its translate is the translation.
    rows = np.random.default_rng(1).normal(size=(200, 2))
    offset = np.array([3.0, -1.0])
    both = np.concatenate([rows, rows + offset])
    domain = np.repeat([1, -1], 200)
    found = quiet(DomainAdapter(small()), both, sample_domain=domain)
    moved = found.transform(rows, sample_domain=np.ones(200))
    np.testing.assert_allclose(moved.mean(0) - rows.mean(0), offset, atol=0.1)
    np.testing.assert_allclose(moved.std(0), rows.std(0), rtol=0.1)  # and nothing shrinks
    assert np.abs(moved - rows - offset).mean() < 0.2


def test_it_is_the_map_of_its_flow(adapter):
    flow = quiet(small(), X[~SOURCE], X_source=X[SOURCE], y_source=Y[SOURCE])
    moved = adapter.transform(X, sample_domain=DOMAIN)
    np.testing.assert_array_equal(moved[SOURCE], flow.transform(X[SOURCE]))
    np.testing.assert_array_equal(moved[~SOURCE], X[~SOURCE])


def test_classes_arrive_where_they_belong(adapter):
    moved = adapter.transform(X, sample_domain=DOMAIN)
    model = KNeighborsClassifier(1).fit(moved[SOURCE], Y[SOURCE])
    stay = KNeighborsClassifier(1).fit(X[SOURCE], Y[SOURCE])
    assert stay.score(X[~SOURCE], Y[~SOURCE]) < 0.85
    assert model.score(X[~SOURCE], Y[~SOURCE]) > 0.93


def test_new_rows_of_either_domain(adapter):
    other, labels, domain = shifted(1)
    moved = adapter.transform(other, sample_domain=domain)
    np.testing.assert_array_equal(moved[domain < 0], other[domain < 0])
    model = KNeighborsClassifier(1).fit(moved[domain > 0], labels[domain > 0])
    assert model.score(X[~SOURCE], Y[~SOURCE]) > 0.9
    # One domain alone, and rows one at a time: the map is frozen.
    alone = adapter.transform(other[domain > 0], sample_domain=np.zeros((domain > 0).sum()))
    np.testing.assert_array_equal(alone, moved[domain > 0])
    one = adapter.transform(other[domain > 0][:1], sample_domain=[7])
    np.testing.assert_allclose(one, alone[:1], rtol=1e-6)


def test_unknown_domains_are_target(adapter):
    moved = adapter.transform(X)
    np.testing.assert_array_equal(moved, X)
    assert not np.shares_memory(moved, X)


def test_fit_transform_moves_the_source(adapter):
    # Bug caught: the inherited fit_transform, which would call transform without domains.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        moved = clone(adapter).fit_transform(X, HIDDEN, sample_domain=DOMAIN)
    np.testing.assert_array_equal(moved, adapter.transform(X, sample_domain=DOMAIN))


@pytest.mark.parametrize("secret", ["truth", "one of the source", "mixture", "numbers"])
def test_target_labels_are_never_read(adapter, secret):
    labels = HIDDEN.astype(object)
    if secret == "truth":
        labels = Y
    elif secret == "one of the source":
        labels[~SOURCE] = "a"
    elif secret == "mixture":
        labels[~SOURCE] = [None, np.nan, ()] * ((~SOURCE).sum() // 3)
    else:
        labels[~SOURCE] = np.arange((~SOURCE).sum())
    other = quiet(DomainAdapter(small()), X, labels, sample_domain=DOMAIN)
    np.testing.assert_array_equal(
        other.transform(X, sample_domain=DOMAIN), adapter.transform(X, sample_domain=DOMAIN)
    )
    assert other.source_classes_.tolist() == ["a", "b", "c"]


def test_without_labels_rows_go_where_they_are_near():
    plain = quiet(DomainAdapter(small()), X, sample_domain=DOMAIN)
    off = quiet(DomainAdapter(small(), use_labels=False), X, Y, sample_domain=DOMAIN)
    values = quiet(DomainAdapter(small()), X, X[:, 0] ** 2, sample_domain=DOMAIN)
    moved = plain.transform(X, sample_domain=DOMAIN)
    for other in (off, values):  # numbers are no class labels
        np.testing.assert_array_equal(other.transform(X, sample_domain=DOMAIN), moved)
    assert values.source_classes_ is None
    assert values.class_weight_ is None


def test_a_sinkhorn_flow_and_an_own_one():
    flow = SinkhornFlowGenerator(max_iter=60, hidden_layer_sizes=(32, 32), random_state=0)
    found = quiet(DomainAdapter(flow), X, HIDDEN, sample_domain=DOMAIN)
    moved = found.transform(X, sample_domain=DOMAIN)
    model = KNeighborsClassifier(1).fit(moved[SOURCE], Y[SOURCE])
    assert model.score(X[~SOURCE], Y[~SOURCE]) > 0.9
    assert not hasattr(flow, "network_")

    moved = DomainAdapter(Means()).fit_transform(X, HIDDEN, sample_domain=DOMAIN)
    np.testing.assert_allclose(moved[SOURCE].mean(0), X[~SOURCE].mean(0), atol=1e-12)


def test_one_domain_is_the_identity_and_says_so():
    with pytest.warns(UserWarning, match="without sample_domain: all rows count as target"):
        found = DomainAdapter().fit(X, Y)
    assert found.flow_ is None
    np.testing.assert_array_equal(found.transform(X, sample_domain=DOMAIN), X)


def test_frames_and_precision(adapter):
    frame = pd.DataFrame(X.astype(np.float32), columns=["width", "height"])
    found = quiet(
        DomainAdapter(small()).set_output(transform="pandas"),
        frame,
        pd.Series(HIDDEN),
        sample_domain=pd.Series(DOMAIN),
    )
    moved = found.transform(frame, sample_domain=DOMAIN)
    assert list(moved.columns) == list(found.get_feature_names_out()) == ["width", "height"]
    assert set(moved.dtypes) == {np.dtype("float32")}
    assert not isinstance(adapter.transform(X), pd.DataFrame)


def test_numbers_that_are_no_classes(adapter):
    # Bug caught: whole numbers taken for hundreds of classes, which takes minutes.
    counts = np.random.default_rng(0).permutation(len(X))
    found = quiet(DomainAdapter(small()), X, counts, sample_domain=DOMAIN)
    assert found.source_classes_ is None


def test_a_fit_that_fails_leaves_no_identity_behind():
    adapter = quiet(DomainAdapter(Means()), X, HIDDEN, sample_domain=DOMAIN)
    with pytest.raises(ValueError, match="two of each"):
        adapter.fit(X, HIDDEN, sample_domain=np.ones(len(X)))
    with pytest.raises(NotFittedError):
        adapter.transform(X, sample_domain=DOMAIN)


def first_source_label(label):
    """Return the labels with that of a source row replaced."""
    labels = HIDDEN.astype(object)
    labels[np.flatnonzero(SOURCE)[0]] = label
    return labels


BAD_INPUT = {
    **{
        f"{label!r} for a label": (
            {"y": first_source_label(label), "sample_domain": DOMAIN},
            ValueError,
            "missing or infinite labels",
        )
        for label in (None, np.nan, pd.NA)
    },
    "a number among names": (
        {"y": first_source_label(1), "sample_domain": DOMAIN},
        TypeError,
        "mixes strings",
    ),
    "one row short": ({"sample_domain": DOMAIN[:-1]}, ValueError, "one number for each of the 300"),
    "names": ({"sample_domain": ["a"] * 300}, ValueError, "source rows >= 0"),
    "nan": ({"sample_domain": np.full(300, np.nan)}, ValueError, "source rows >= 0"),
    "source alone": ({"sample_domain": np.ones(300)}, ValueError, r"300 source.* 0 target"),
    "target alone": ({"sample_domain": -np.ones(300)}, ValueError, r"0 source.*300 target"),
    "short y": ({"y": Y[:-1], "sample_domain": DOMAIN}, ValueError, "299 entries but X has 300"),
    "missing label": (
        {"y": np.where(SOURCE, np.nan, 0.0), "sample_domain": DOMAIN},
        ValueError,
        "missing or infinite labels",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(case):
    given, error, message = BAD_INPUT[case]
    with pytest.raises(error, match=message):
        DomainAdapter(small()).fit(X, **given)


def test_bad_parameters():
    with pytest.raises(TypeError, match=r"StandardScaler\.fit takes no X_source"):
        DomainAdapter(StandardScaler()).fit(X, sample_domain=DOMAIN)
    with pytest.raises(ValueError, match="Set conditional=False"):
        DomainAdapter(SinkhornFlowGenerator(conditional=True)).fit(X, Y, sample_domain=DOMAIN)
    with pytest.raises(ValueError, match="flow"):
        DomainAdapter("w2").fit(X, sample_domain=DOMAIN)
    with pytest.raises(NotFittedError):
        DomainAdapter().transform(X)


def skewed(seed=0):
    """Return rows of two classes, .5 and .5 in the source, .9 and .1 in the target."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 0, 1], [150, 150, 270, 30])
    return rng.normal(size=(600, 2)) + 5 * labels[:, None], labels, np.repeat([1, -1], 300)


def test_target_shift_is_seen_and_mended():
    rows, labels, domain = skewed()
    source, target = domain > 0, domain < 0
    accuracy = {}
    for how in ("warn", "reweight", "ignore"):
        adapter = DomainAdapter(small(), target_shift=how)
        if how == "warn":
            with pytest.warns(
                UserWarning, match=r"other proportions.*0 0\.\d\d.*instead of 0 0.50"
            ):
                quiet(adapter, rows, labels, sample_domain=domain)
        else:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="The classes seem")
                warnings.filterwarnings("ignore", message="A map by y_source")  # and so it does
                warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
                adapter.fit(rows, labels, sample_domain=domain)
        moved = adapter.transform(rows, sample_domain=domain)[source]
        model = KNeighborsClassifier().fit(moved, labels[source])
        accuracy[how] = model.score(rows[target], labels[target])
        np.testing.assert_array_equal(adapter.source_proportions_, [0.5, 0.5])
        assert adapter.target_shift_ == (how != "ignore")
        assert (adapter.flow_ is None) == (how == "reweight")
        if how == "ignore":
            assert adapter.target_proportions_ is None
            assert adapter.class_weight_ == {0: 1.0, 1: 1.0}
        else:  # two standard errors of the share among 300 rows
            share = adapter.target_proportions_[0]
            assert share == pytest.approx(0.9, abs=0.035)
            assert adapter.class_weight_ == pytest.approx({0: 2 * share, 1: 2 - 2 * share})
    # A map of all rows to all rows turns four fifths of one class into the other.
    assert accuracy["warn"] == accuracy["ignore"] < 0.8
    assert accuracy["reweight"] > 0.98


def test_weights_with_unequal_shares_and_huge_values():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 0, 1], [240, 60, 30, 270])
    rows = 1e200 * (rng.normal(size=(600, 2)) + 5 * labels[:, None])
    adapter = DomainAdapter(target_shift="reweight")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapter.fit(rows, labels, sample_domain=np.repeat([1, -1], 300))
    assert adapter.target_shift_
    shares = zip(adapter.target_proportions_, [0.8, 0.2], strict=True)
    assert list(adapter.class_weight_.values()) == pytest.approx([a / b for a, b in shares])
    assert adapter.target_proportions_[0] == pytest.approx(0.1, abs=0.035)


def test_weights_are_those_of_the_target():
    # Classes that overlap: the boundary depends on the shares. That of the optimal classifier of
    # the target is moved by log(.9 / .1) / |difference of the means|, towards the rarer class.
    rows, labels, domain = skewed()
    rows = rows - 3.5 * labels[:, None]
    adapter = DomainAdapter(target_shift="reweight").fit(rows, labels, sample_domain=domain)
    assert adapter.target_shift_
    source, target = domain > 0, domain < 0
    plain = LogisticRegression().fit(rows[source], labels[source])
    model = LogisticRegression(class_weight=adapter.class_weight_)
    model.fit(rows[source], labels[source])
    truth = LogisticRegression().fit(rows[target], labels[target])
    gap = abs(plain.predict_proba(rows) - truth.predict_proba(rows)).mean()
    assert abs(model.predict_proba(rows) - truth.predict_proba(rows)).mean() < gap / 3


def test_other_shifts_are_not_taken_for_it(adapter):
    assert not adapter.target_shift_
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
        clone(adapter).fit(X, HIDDEN, sample_domain=DOMAIN)


def test_a_class_that_the_target_does_not_have():
    rows, labels, domain = skewed()
    keep = (domain > 0) | (labels == 0)
    rows, labels, domain = rows[keep], labels[keep], domain[keep]
    adapter = quiet(
        DomainAdapter(small(), target_shift="reweight"), rows, labels, sample_domain=domain
    )
    assert adapter.target_shift_
    assert adapter.target_proportions_[1] < 0.03
    np.testing.assert_array_equal(adapter.transform(rows, sample_domain=domain), rows)


def pipeline():
    return make_pipeline(StandardScaler(), DomainAdapter(small()), SourceOnly(LogisticRegression()))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_in_a_pipeline_with_and_without_routing():
    routed, named = pipeline(), pipeline()
    with sklearn.config_context(enable_metadata_routing=True):
        routed.fit(X, HIDDEN, sample_domain=DOMAIN)
        accuracy = routed.score(X[~SOURCE], Y[~SOURCE])
        # Told their domain, source rows are moved before they are read.
        told = routed.predict(X[SOURCE], sample_domain=DOMAIN[SOURCE])
    named.fit(X, HIDDEN, domainadapter__sample_domain=DOMAIN, sourceonly__sample_domain=DOMAIN)
    np.testing.assert_array_equal(named.predict(X), routed.predict(X))
    stay = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[SOURCE], Y[SOURCE])
    assert accuracy > 0.95 > 0.8 > stay.score(X[~SOURCE], Y[~SOURCE])
    assert (told == Y[SOURCE]).mean() > 0.95 > (routed.predict(X[SOURCE]) == Y[SOURCE]).mean()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("scorer", [EntropyScorer(), CircularScorer()], ids=repr)
def test_searches_choose_without_target_labels(scorer):
    # No adaptation, and one that is stopped before it has begun, are there to be found worse.
    cv = list(StratifiedKFold(2).split(X, DOMAIN))
    with sklearn.config_context(enable_metadata_routing=True):
        grid = [
            {"domainadapter": ["passthrough"]},
            {"domainadapter__flow__max_iter": [1, 40]},
        ]
        search = GridSearchCV(pipeline(), grid, scoring=scorer, cv=cv, error_score="raise")
        search.fit(X, HIDDEN, sample_domain=DOMAIN)
    assert search.best_params_ == {"domainadapter__flow__max_iter": 40}
    assert search.best_estimator_.score(X[~SOURCE], Y[~SOURCE]) > 0.95


def test_a_search_that_leaves_a_domain_out_says_how_to_split():
    rows = np.arange(len(X))
    search = GridSearchCV(
        pipeline(),
        {"domainadapter__flow__max_iter": [1]},
        scoring=EntropyScorer(),
        cv=[(rows[SOURCE], rows[~SOURCE])],
        error_score="raise",
    )
    with (
        sklearn.config_context(enable_metadata_routing=True),
        pytest.raises(ValueError, match=r"StratifiedKFold\(\)\.split\(X, sample_domain\)"),
    ):
        search.fit(X, HIDDEN, sample_domain=DOMAIN)
