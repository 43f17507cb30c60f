"""MeanFieldRegressor and MeanFieldClassifier: what they learn, alpha, and the life around them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skwgf.estimators._mean_field_alpha import held_out_rows, search_alpha
from skwgf.estimators.mean_field import MeanFieldClassifier, MeanFieldRegressor

MODELS = (MeanFieldRegressor, MeanFieldClassifier)


def rows(n=150, d=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def teacher(X):
    """Return the outputs of a network of two neurons."""
    return 3 + 5 * np.tanh(X[:, 0] - 0.5 * X[:, 1] + 0.3) - 4 * np.tanh(0.7 * X[:, 2] - 0.2)


def problem(model, n=150):
    """Return rows with numbers, or with labels as strings."""
    X = rows(n)
    y = teacher(X)
    return X, y if model is MeanFieldRegressor else np.where(y > 3, "yes", "no")


def small(model, **options):
    return model(**{"n_particles": 8, "alpha": 1e-2, "random_state": 0, **options})


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([model(n_particles=5, alpha=0.1, max_iter=8) for model in MODELS])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        MeanFieldRegressor(),
        MeanFieldClassifier(),
        MeanFieldClassifier(activation="silu", solver="lanczos", dtype="float32"),
    ]
)
def test_scikit_learn_checks_of_defaults(estimator, check):
    check(estimator)


class TestRegression:
    def test_finds_a_network_of_two_neurons(self):
        # In the class, without noise: the minimum without penalty is the truth.
        X, X_test = rows(200), rows(500, seed=1)
        model = small(MeanFieldRegressor, alpha=1e-6, tol=0.1).fit(X, teacher(X))
        assert model.score(X_test, teacher(X_test)) > 0.999

    def test_alpha_is_chosen_by_noise(self):
        # Bug caught: a search that looks at the rows it learns from, where small is always best.
        X = rows(120)
        y, noise = teacher(X), np.random.default_rng(1).normal(size=120)
        clear = small(MeanFieldRegressor, alpha="auto", n_particles=4).fit(X, y)
        noisy = small(MeanFieldRegressor, alpha="auto").fit(X, y + 8 * noise)
        assert noisy.alpha_ > 30 * clear.alpha_
        for model in (clear, noisy):
            assert model.alpha_ == model.alphas_[model.validation_losses_.argmin()]
            assert model.functional_.alpha == model.alpha_
        assert len(noisy.alphas_) == noisy.alphas_.argmin() + 1 == noisy.validation_losses_.size

    def test_is_the_fit_at_the_alpha_that_was_chosen(self):
        X, y = problem(MeanFieldRegressor)
        y = y + 8 * np.random.default_rng(1).normal(size=len(y))  # the search is a short one
        searched = small(MeanFieldRegressor, alpha="auto").fit(X, y)
        told = small(MeanFieldRegressor, alpha=searched.alpha_).fit(X, y)
        assert np.array_equal(searched.particles_, told.particles_)
        assert told.alphas_.size == told.validation_losses_.size == 0

    def test_on_real_data_better_than_the_mean(self):
        X, y = load_diabetes(return_X_y=True)
        model = MeanFieldRegressor(n_particles=10, alpha=0.03, random_state=0)
        assert cross_val_score(model, X, y, cv=3).mean() > 0.45

    def test_equivariance(self):
        # Both X and y are standardised: their units make no difference but for rounding.
        X, y = problem(MeanFieldRegressor)
        model = small(MeanFieldRegressor).fit(X, y)
        moved = small(MeanFieldRegressor).fit(X * [1e-6, 1.0, 1e8] + [1.0, -2.0, 1e9], 7 + 3e5 * y)
        moved_X = X[:20] * [1e-6, 1.0, 1e8] + [1.0, -2.0, 1e9]
        assert np.allclose((moved.predict(moved_X) - 7) / 3e5, model.predict(X[:20]), atol=1e-4)

    def test_larger_alpha_smaller_neurons(self):
        X, y = problem(MeanFieldRegressor)
        sizes = [
            np.square(small(MeanFieldRegressor, alpha=alpha).fit(X, y).particles_).mean()
            for alpha in (1e-4, 1e-2, 1.0)
        ]
        assert sizes[0] > sizes[1] > sizes[2]
        # The gain of a first small neuron is below the penalty: none is left.
        assert sizes[2] < 1e-3

    def test_several_outputs_share_their_neurons(self):
        X = rows()
        Y = np.column_stack([teacher(X), 100 * X[:, 0]])
        model = small(MeanFieldRegressor, alpha=1e-4).fit(X, Y)
        assert model.predict(X).shape == Y.shape
        assert model.n_outputs_ == 2
        assert model.particles_.shape == (8, 3 + 1 + 2)
        assert model.score(X, Y) > 0.99
        assert small(MeanFieldRegressor).fit(X, Y[:, :1]).predict(X).shape == (len(X),)

    def test_constant_target(self):
        X = rows(60)
        model = small(MeanFieldRegressor, alpha="auto").fit(X, np.full(60, 4.0))
        assert np.allclose(model.predict(X), 4.0, atol=1e-3)


class TestClassification:
    def test_probabilities(self):
        X, y = load_iris(return_X_y=True)
        y = np.array(["setosa", "versicolor", "virginica"])[y]
        model = small(MeanFieldClassifier).fit(X, y)
        proba = model.predict_proba(X)
        assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
        assert np.allclose(proba.sum(1), 1)
        assert np.array_equal(model.classes_[proba.argmax(1)], model.predict(X))
        assert np.allclose(np.exp(model.predict_log_proba(X)), proba)
        assert model.score(X, y) > 0.95

    def test_two_classes_have_one_output(self):
        X, y = problem(MeanFieldClassifier)
        model = small(MeanFieldClassifier).fit(X, y)
        assert model.particles_.shape == (8, 3 + 1 + 1)
        assert set(model.predict(X)) == {"no", "yes"}
        assert np.allclose(model.predict_proba(X).sum(1), 1)
        # Far away a probability of 0 is no logarithm of 0.
        assert np.isfinite(model.predict_log_proba(1e6 * X)).all()

    def test_probabilities_are_calibrated(self):
        # y is drawn with known log-odds: no model has a smaller expected log loss than these.
        # Bug caught: a penalty or a start that leaves probabilities too flat or too steep.
        X, X_test = rows(800, 2), rows(4000, 2, seed=1)
        rng = np.random.default_rng(2)
        odds, odds_test = 2 * X[:, 0] * X[:, 1], 2 * X_test[:, 0] * X_test[:, 1]
        y = rng.uniform(size=800) < 1 / (1 + np.exp(-odds))
        truth = 1 / (1 + np.exp(-odds_test))
        model = small(MeanFieldClassifier, n_particles=20).fit(X, y)
        found = model.predict_proba(X_test)[:, 1]
        excess = np.mean(
            truth * np.log(truth / found) + (1 - truth) * np.log((1 - truth) / (1 - found))
        )
        assert excess < 0.03
        line = LogisticRegression().fit(X, y).predict_proba(X_test)
        assert log_loss(truth > 0.5, found) < 0.7 * log_loss(truth > 0.5, line)

    def test_on_real_data(self):
        X, y = load_breast_cancer(return_X_y=True)
        model = MeanFieldClassifier(n_particles=8, alpha=0.1, random_state=0)
        assert cross_val_score(model, X, y, cv=3).min() > 0.94

    def test_a_class_with_a_single_row_is_learnt(self):
        # Bug caught: a split that leaves a class without rows to learn from.
        X, y = rows(61), np.array(["a", "b", "c"])[np.r_[np.arange(60) % 2, 2]]
        model = small(MeanFieldClassifier, n_particles=5, alpha="auto").fit(X, y)
        assert model.alphas_.size > 0
        assert model.predict_proba(X).shape == (61, 3)


class TestSearch:
    def test_same_share_of_every_code(self):
        codes = np.repeat([0, 1, 2], [100, 40, 1])
        mask = held_out_rows(codes, 0.2, seed=0)
        assert np.bincount(codes[mask], minlength=3).tolist() == [20, 8, 0]
        assert not np.array_equal(mask, held_out_rows(codes, 0.2, seed=1))
        assert held_out_rows(np.zeros(40, dtype=int), 0.2, seed=0) is None

    def test_stops_after_two_rises_and_takes_the_best(self):
        asked = []

        def loss(alpha):
            asked.append(alpha)
            return float("nan") if alpha == 0.3 else abs(np.log(alpha / 0.03))

        search = search_alpha(loss)
        assert asked == search.alphas.tolist() == [0.3, 0.1, 0.03, 0.01, 0.003]
        assert search.best == 0.03

    def test_few_rows_have_none_to_spare(self):
        X, y = problem(MeanFieldRegressor, 30)
        model = small(MeanFieldRegressor, alpha="auto").fit(X, y)
        assert model.alpha_ == 0.01
        assert model.alphas_.size == 0


@pytest.mark.parametrize("model", MODELS)
class TestLife:
    def test_attributes(self, model):
        X, y = problem(model)
        fitted = small(model).fit(X, y)
        assert fitted.particles_.shape == (8, 5)
        assert fitted.converged_
        assert len(fitted.history_["objective"]) == fitted.n_iter_
        assert (np.diff(fitted.history_["objective"]) <= 1e-12).all()
        assert np.isfinite(fitted.hessian_min_eig_)
        assert np.array_equal(fitted.sample(8), fitted.particles_)
        assert fitted.sample(4, random_state=0).shape == (4, 5)
        assert model().fit(*problem(model, 20)).particles_.shape[0] == 100

    def test_seeds(self, model):
        X, y = problem(model)
        state = torch.get_rng_state()
        first, again = small(model).fit(X, y), small(model).fit(X, y)
        other = small(model, random_state=1).fit(X, y)
        assert np.array_equal(first.particles_, again.particles_)
        assert not np.allclose(first.particles_, other.particles_)
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_warm_start_goes_on(self, model):
        X, y = problem(model)
        part = small(model, max_iter=5, warm_start=True).fit(X, y)
        before = part.history_["objective"][-1]
        part.fit(X, y)
        assert len(part.history_["objective"]) == 10
        assert part.history_["objective"][5] < before
        with pytest.raises(ValueError, match="warm_start=True goes on with"):
            part.fit(X[:, :2], y)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_warm_start_keeps_the_alpha_that_was_chosen(self, model):
        X, y = problem(model)
        part = small(model, alpha="auto", n_particles=5, max_iter=5, warm_start=True).fit(X, y)
        chosen = part.alpha_
        assert part.fit(X, y).alpha_ == chosen
        assert part.alphas_.size == 0

    def test_warns_when_the_risk_still_falls(self, model):
        with pytest.warns(ConvergenceWarning, match="Increase max_iter"):
            small(model, max_iter=2).fit(*problem(model))

    def test_start_from_given_neurons(self, model):
        X, y = problem(model)
        first = small(model).fit(X, y)
        start = first.particles_
        again = small(model, n_particles=None, init=start).fit(X, y)
        assert again.history_["objective"][0] <= first.history_["objective"][-1]
        for init, match in (
            (start[:, :4], "table of particles with 5 columns"),
            (np.full((8, 5), np.nan), "NaN"),
            (np.zeros((8, 5)), "on one spot"),
        ):
            with pytest.raises(ValueError, match=match):
                small(model, init=init).fit(X, y)
        with pytest.raises(ValueError, match="n_particles=3"):
            small(model, n_particles=3, init=start).fit(X, y)

    def test_bad_input(self, model):
        X, y = problem(model)
        with pytest.raises(ValueError, match="minimum of 2 is required"):
            small(model).fit(X[:1], y[:1])
        for bad in (np.nan, np.inf):
            spoilt = X.copy()
            spoilt[3, 1] = bad
            with pytest.raises(ValueError, match=r"NaN|infinity"):
                small(model).fit(spoilt, y)
        with pytest.raises(ValueError, match="relu"):
            small(model, activation="relu").fit(X, y)
        with pytest.raises(ValueError, match="alpha"):
            small(model, alpha=-1.0).fit(X, y)
        with pytest.raises(NotFittedError):
            small(model).predict(X)

    def test_constant_column(self, model):
        X, y = problem(model)
        wide = np.column_stack([X, np.full(len(X), 1e9)])
        fitted = small(model).fit(wide, y)
        assert fitted.score(wide, y) > 0.9
        assert np.isfinite(fitted.particles_).all()

    def test_single_precision_follows_the_data(self, model):
        X, y = problem(model)
        single = small(model).fit(X.astype(np.float32), y)
        assert single.particles_.dtype == np.float32
        assert single.score(X, y) == pytest.approx(small(model).fit(X, y).score(X, y), abs=0.02)
        wide = small(model, dtype="float64").fit(X.astype(np.float32), y)
        assert wide.particles_.dtype == np.float64

    def test_clone_and_pickle(self, model):
        X, y = problem(model)
        fitted = small(model, activation="softplus").fit(X, y)
        assert clone(fitted).get_params() == fitted.get_params()
        restored = pickle.loads(pickle.dumps(fitted))
        assert np.array_equal(restored.predict(X), fitted.predict(X))

    def test_search_in_a_pipeline(self, model):
        X, y = problem(model)
        step = model.__name__.lower()
        search = GridSearchCV(
            make_pipeline(StandardScaler(), small(model)),
            {f"{step}__alpha": [1e-2, 1.0]},
            cv=2,
        ).fit(X, y)
        assert search.best_params_[f"{step}__alpha"] == 1e-2
        assert search.best_score_ > 0.9


def test_warm_start_keeps_the_classes():
    X, y = problem(MeanFieldClassifier)
    model = small(MeanFieldClassifier, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="goes on with the classes"):
        model.fit(X, np.where(y == "no", "a", "b"))


def test_numbers_must_be_finite():
    X, y = problem(MeanFieldRegressor)
    y[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        small(MeanFieldRegressor).fit(X, y)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="class"):
        small(MeanFieldClassifier).fit(rows(20), np.zeros(20, dtype=int))


@pytest.mark.slow
def test_default_on_held_out_rows():
    # The search for alpha serves targets with much noise and with little.
    X, y = load_diabetes(return_X_y=True)
    noisy = MeanFieldRegressor(random_state=0)
    assert cross_val_score(noisy, X, y, cv=5).mean() > 0.45
    X = rows(400, 4)
    y = teacher(X)
    train, test, y_train, y_test = train_test_split(X, y, random_state=0)
    assert MeanFieldRegressor(random_state=0).fit(train, y_train).score(test, y_test) > 0.999
