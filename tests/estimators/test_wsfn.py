"""WSFNOptimizer: quantisers, functionals of all kinds, and the life around them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from skwgf.estimators.wsfn import WSFNOptimizer
from skwgf.functionals import (
    KSD,
    MMD,
    MeanFieldRisk,
    PotentialEnergy,
    SecondMoment,
    VarianceCosine,
)
from skwgf.kernels import Gaussian, InverseMultiquadric
from skwgf.targets import Gaussian as GaussianTarget


def rows(n=200, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def bowl(x):
    return ((x - 1) ** 2).sum(1)


def double_well(z):
    return (z.square() - 1).square().sum(1).mean()


def moment_gap(z, X):
    return (z.mean(0) - X.mean(0)).square().sum() + (z.var(0) - X.var(0)).square().sum()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [WSFNOptimizer(n_particles=20), WSFNOptimizer(SecondMoment(), n_particles=20)]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestQuantiser:
    def test_better_than_rows(self):
        X = rows(500)
        quantiser = WSFNOptimizer(n_particles=30, random_state=0).fit(X)
        energy = MMD().fit(X)
        drawn = [float(energy.value(torch.from_numpy(rows(30, seed=s)))) for s in range(1, 6)]
        assert quantiser.particles_.shape == (30, 2)
        assert quantiser.converged_
        assert quantiser.hessian_min_eig_ > 0
        assert quantiser.history_["objective"][-1] < 0.2 * min(drawn)
        assert quantiser.score(X) == pytest.approx(-quantiser.history_["objective"][-1])

    def test_spread_is_kept(self):
        # Bug caught: particles that stop short of the tails, whose variance is too small.
        X = rows(2000) * [3.0, 0.5] + [5.0, -1.0]
        quantiser = WSFNOptimizer(n_particles=60, random_state=0).fit(X)
        assert np.allclose(quantiser.particles_.mean(0), X.mean(0), atol=0.1)
        assert np.allclose(quantiser.particles_.std(0), X.std(0), rtol=0.1)

    def test_default_number_of_particles(self):
        assert WSFNOptimizer(max_iter=1).fit(rows(30)).particles_.shape == (100, 2)

    def test_score_is_on_the_rows_given(self):
        X = rows(300)
        quantiser = WSFNOptimizer(n_particles=20, random_state=0).fit(X)
        near, far = quantiser.score(rows(300, seed=1)), quantiser.score(X + 3)
        assert far < near < 0
        assert np.array_equal(quantiser.functional_.fit(X)._rows.numpy(), X)

    def test_search_over_the_kernel(self):
        search = GridSearchCV(
            WSFNOptimizer(MMD(Gaussian(1.0)), n_particles=10, random_state=0),
            {"functional__kernel__bandwidth": [0.5, 1.0], "n_particles": [5, 10]},
            cv=2,
        ).fit(rows(60))
        assert search.best_params_["n_particles"] == 10

    def test_single_precision_follows_the_data(self):
        quantiser = WSFNOptimizer(n_particles=20, random_state=0).fit(rows().astype(np.float32))
        assert quantiser.particles_.dtype == np.float32
        assert quantiser.converged_
        wide = WSFNOptimizer(n_particles=20, dtype="float64", random_state=0)
        assert wide.fit(rows().astype(np.float32)).particles_.dtype == np.float64


class TestFunctionals:
    def test_without_data_the_rows_are_the_start(self):
        X = rows(20)
        optimizer = WSFNOptimizer(PotentialEnergy(bowl)).fit(X)
        assert optimizer.particles_.shape == X.shape
        assert np.allclose(optimizer.particles_, 1.0)
        assert optimizer.score(X) == pytest.approx(0.0, abs=1e-12)
        assert optimizer.score(X + 100) == optimizer.score(X)

    def test_function_of_particles(self):
        optimizer = WSFNOptimizer(double_well, random_state=0).fit(rows(20))
        assert np.allclose(np.abs(optimizer.particles_), 1.0, atol=1e-6)

    def test_function_of_particles_and_data(self):
        X = rows(100) * 2 + 3
        optimizer = WSFNOptimizer(moment_gap, n_particles=10, random_state=0).fit(X)
        assert np.allclose(optimizer.particles_.mean(0), X.mean(0))
        assert np.allclose(optimizer.particles_.var(0, ddof=1), X.var(0, ddof=1))
        assert optimizer.score(X) == pytest.approx(0.0, abs=1e-9)

    def test_density(self):
        target = GaussianTarget(np.zeros(2))
        optimizer = WSFNOptimizer(KSD(target), random_state=0).fit(rows(30) + 2)
        assert np.allclose(optimizer.particles_.mean(0), 0, atol=0.05)
        assert np.allclose(optimizer.particles_.var(0), 1, atol=0.15)

    def test_sum(self):
        # A potential pulls to 1 against the discrepancy.
        X = rows(50)
        pulled = WSFNOptimizer(MMD() + 0.1 * PotentialEnergy(bowl), n_particles=10, random_state=0)
        assert pulled.fit(X).particles_.mean() > 0.3

    def test_sum_with_a_risk_reads_y(self):
        X = rows(50)
        total = MeanFieldRisk() + 0.01 * PotentialEnergy(bowl)
        optimizer = WSFNOptimizer(total, n_particles=6, max_iter=30, random_state=0).fit(X, X[:, 0])
        assert optimizer.particles_.shape == (6, 4)
        assert optimizer.score(X, X[:, 0]) > optimizer.score(X, -X[:, 0])

    def test_escapes_the_saddle_that_newton_seeks(self):
        X = 0.3 + 0.01 * rows(10, 1)
        optimizer = WSFNOptimizer(VarianceCosine(), random_state=0).fit(X)
        assert optimizer.converged_
        assert np.allclose(optimizer.particles_, 1.0, atol=1e-5)
        assert optimizer.hessian_min_eig_ == pytest.approx(0.02 * np.pi**2, rel=1e-5)
        with pytest.warns(ConvergenceWarning, match="ended at a saddle"):
            newton = WSFNOptimizer(VarianceCosine(), method="newton", random_state=0).fit(X)
        assert not newton.converged_
        assert newton.hessian_min_eig_ < 0

    def test_regression(self):
        X = rows(150)
        y = np.tanh(X[:, 0] - X[:, 1])
        model = WSFNOptimizer(MeanFieldRisk(), n_particles=15, max_iter=40, random_state=0)
        assert is_regressor(model)
        assert not is_classifier(model)
        assert cross_val_score(model, X, y, cv=3).min() > 0.95
        assert not hasattr(model, "predict_proba")
        assert model.fit(X, y).predict(X).shape == (150,)

    def test_classification(self):
        X, y = load_iris(return_X_y=True)
        names = np.array(["a", "b", "c"])[y]
        X = (X - X.mean(0)) / X.std(0)
        risk = MeanFieldRisk(loss="logistic")
        model = WSFNOptimizer(risk, n_particles=10, max_iter=30, random_state=0).fit(X, names)
        assert is_classifier(model)
        assert model.score(X, names) > 0.95
        assert set(model.predict(X)) == {"a", "b", "c"}
        assert np.allclose(model.predict_proba(X).sum(1), 1)

    def test_no_prediction_without_a_model(self):
        optimizer = WSFNOptimizer(n_particles=5)
        assert not hasattr(optimizer, "predict")
        assert not hasattr(optimizer, "predict_proba")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestStart:
    def test_array(self):
        start = rows(7, seed=5)
        optimizer = WSFNOptimizer(init=start, max_iter=1, step_size=1e-12)
        assert np.allclose(optimizer.fit(rows()).particles_, start, atol=1e-9)

    @pytest.mark.parametrize("init", ["data", "normal"])
    def test_words(self, init):
        X = rows(50) + 100
        optimizer = WSFNOptimizer(init=init, n_particles=10, max_iter=1, step_size=1e-12)
        distance = np.abs(optimizer.fit(X).particles_[:, None] - X[None]).sum(2).min(1).max()
        assert (distance < 1) == (init == "data")

    def test_fewer_and_more_particles_than_rows(self):
        X = rows(10)
        few = WSFNOptimizer(PotentialEnergy(bowl), n_particles=4, max_iter=1, step_size=1e-12)
        start = few.fit(X).particles_
        assert np.allclose(np.abs(start[:, None] - X[None]).sum(2).min(1), 0, atol=1e-9)
        many = WSFNOptimizer(PotentialEnergy(bowl), n_particles=25, max_iter=1, step_size=1e-12)
        assert len(np.unique(many.fit(X).particles_, axis=0)) == 25

    def test_coincident_particles_are_parted(self):
        start = np.zeros((6, 2))
        with pytest.warns(UserWarning, match="on one spot"):
            quantiser = WSFNOptimizer(init=start, random_state=0).fit(rows())
        assert len(np.unique(quantiser.particles_.round(3), axis=0)) == 6
        assert not start.any()

    def test_warm_start_goes_on(self):
        X = rows()
        warm = WSFNOptimizer(n_particles=20, max_iter=3, warm_start=True, random_state=0)
        warm.fit(X).fit(X)
        once = WSFNOptimizer(n_particles=20, max_iter=6, random_state=0).fit(X)
        assert len(warm.history_["objective"]) == 6
        assert warm.n_iter_ == 3
        assert np.allclose(warm.particles_, once.particles_)
        assert (np.diff(warm.history_["seconds"]) > 0).all()

    def test_warm_start_with_other_columns(self):
        warm = WSFNOptimizer(n_particles=5, max_iter=1, warm_start=True).fit(rows())
        with pytest.raises(ValueError, match="warm_start=True goes on with 5 particles"):
            warm.fit(rows(d=3))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestLife:
    def test_seeds(self):
        X = rows()
        first, again, other = (
            WSFNOptimizer(n_particles=10, max_iter=5, random_state=seed).fit(X).particles_
            for seed in (0, 0, 1)
        )
        assert np.array_equal(first, again)
        assert not np.allclose(first, other)

    def test_global_state_is_left_alone(self):
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        quantiser = WSFNOptimizer(n_particles=10, max_iter=2).fit(rows())
        quantiser.sample(3)
        assert torch.equal(before[0], torch.random.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002

    def test_functional_passed_is_left_alone(self):
        functional = MMD(Gaussian("median"))
        optimizer = WSFNOptimizer(functional, n_particles=5, max_iter=2).fit(rows())
        assert not hasattr(functional, "kernel_")
        assert functional.kernel.bandwidth == "median"
        assert optimizer.functional_ is not functional

    def test_sample(self):
        optimizer = WSFNOptimizer(n_particles=10, max_iter=2, random_state=0).fit(rows())
        assert np.array_equal(optimizer.sample(10), optimizer.particles_)
        assert len(np.unique(optimizer.sample(5, random_state=0), axis=0)) == 5
        assert optimizer.sample(50).shape == (50, 2)
        with pytest.raises(ValueError, match="n_samples"):
            optimizer.sample(0)

    def test_not_fitted(self):
        for method in ("score", "sample"):
            with pytest.raises(NotFittedError):
                getattr(WSFNOptimizer(), method)(3)

    def test_history(self):
        optimizer = WSFNOptimizer(n_particles=10, random_state=0).fit(rows())
        columns = "objective gradient_norm beta step smallest_ritz hessian_products seconds"
        assert set(optimizer.history_) == set(columns.split())
        assert all(len(v) == optimizer.n_iter_ for v in optimizer.history_.values())
        assert np.diff(optimizer.history_["objective"]).max() <= 1e-15

    def test_max_iter_is_said(self):
        with pytest.warns(ConvergenceWarning, match="did not converge in 2 iterations"):
            optimizer = WSFNOptimizer(n_particles=10, max_iter=2, random_state=0).fit(rows())
        assert not optimizer.converged_
        assert np.isfinite(optimizer.hessian_min_eig_)

    def test_interrupt_keeps_the_best_state(self):
        calls = []

        def counted(z):
            calls.append(1)
            if len(calls) == 15:
                raise KeyboardInterrupt
            return double_well(z)

        with pytest.warns(UserWarning, match="was interrupted"):
            optimizer = WSFNOptimizer(counted, tol=0.0, max_iter=500).fit(10 * rows(10))
        assert 0 < optimizer.n_iter_ < 15
        value = double_well(torch.from_numpy(optimizer.particles_))
        assert float(value) == pytest.approx(optimizer.history_["objective"][-1])

    def test_pickle_and_clone(self):
        optimizer = WSFNOptimizer(n_particles=10, max_iter=2, random_state=0).fit(rows())
        again = pickle.loads(pickle.dumps(optimizer))
        assert again.score(rows()) == optimizer.score(rows())
        assert not hasattr(clone(optimizer), "particles_")

    def test_verbose(self, capsys):
        WSFNOptimizer(n_particles=5, max_iter=4, verbose=2, random_state=0).fit(rows(20))
        assert capsys.readouterr().out.count("[WSFNOptimizer] iteration") == 2

    def test_tensors_and_names(self):
        X = torch.from_numpy(rows()).requires_grad_()
        assert WSFNOptimizer(n_particles=5, max_iter=1).fit(X).n_features_in_ == 2

    @pytest.mark.parametrize("method", ["newton", "gradient", "perturbed"])
    def test_rivals_run(self, method):
        optimizer = WSFNOptimizer(
            MMD(InverseMultiquadric(1.0)), n_particles=5, method=method, max_iter=3, random_state=0
        ).fit(rows())
        assert np.isfinite(optimizer.particles_).all()


class TestBadInput:
    @pytest.mark.parametrize(
        ("parameters", "match"),
        [
            ({"n_particles": 1}, "n_particles"),
            ({"init": "kmeans"}, "init"),
            ({"init": np.zeros((5, 3))}, "2 columns, those of particles_, got shape"),
            ({"init": np.full((5, 2), np.nan)}, "NaN"),
            ({"init": np.zeros((5, 2)), "n_particles": 6}, "5 particles, but n_particles=6"),
            ({"init": np.zeros((1, 2))}, "at least 2 particles"),
            ({"method": "lbfgs"}, "method"),
            ({"beta": 0.0}, "beta"),
            ({"beta": -1.0}, "beta"),
            ({"solver": "cg"}, "solver"),
            ({"max_step": 0.0}, "max_step"),
            ({"noise": "pink"}, "noise"),
            ({"step_size": 0.0}, "step_size"),
            ({"tol": -1.0}, "tol"),
            ({"max_iter": 0}, "max_iter"),
            ({"functional": MeanFieldRisk(), "init": "data"}, "init='data'"),
        ],
    )
    def test_parameters(self, parameters, match):
        with pytest.raises(ValueError, match=match):
            WSFNOptimizer(**parameters).fit(rows(20), rows(20)[:, 0])

    def test_one_row_is_no_cloud(self):
        with pytest.raises(ValueError, match="at least 2 particles, got 1"):
            WSFNOptimizer(PotentialEnergy(bowl)).fit(rows(1))

    @pytest.mark.parametrize("functional", [MMD, "mmd", 3.0])
    def test_no_functional(self, functional):
        with pytest.raises((TypeError, ValueError), match="functional"):
            WSFNOptimizer(functional).fit(rows())

    def test_not_a_scalar(self):
        with pytest.raises(ValueError, match="shape"):
            WSFNOptimizer(lambda z: z.square().sum(1)).fit(rows())

    def test_not_differentiable(self):
        with pytest.raises(ValueError, match="differentiated"):
            WSFNOptimizer(lambda z: z.detach().square().mean()).fit(rows())

    def test_not_twice_differentiable(self):
        with pytest.raises(ValueError, match="not twice differentiable"):
            WSFNOptimizer(lambda z: z.abs().mean()).fit(rows())

    def test_risk_without_targets(self):
        with pytest.raises(ValueError, match="requires y"):
            WSFNOptimizer(MeanFieldRisk()).fit(rows())

    def test_data(self):
        X = rows()
        X[3, 1] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            WSFNOptimizer().fit(X)
        with pytest.raises(ValueError, match="features"):
            WSFNOptimizer(n_particles=5).fit(rows()).score(rows(d=3))
