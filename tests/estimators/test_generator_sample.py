"""Generators as estimators: sample, score, and seeds."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from generators import KINDS, NOT_CONVERGED, rows

from skwgf.metrics import sinkhorn_divergence

pytestmark = pytest.mark.filterwarnings(NOT_CONVERGED)


def is_among(draws, images):
    """Tell for each draw whether it is one of the images."""
    distances = np.abs(draws[:, None] - images[None]).max(2)
    return distances.min(1) < 1e-9


class TestSample:
    def test_shape(self, fitted):
        assert fitted.sample().shape == (1, 2)
        assert fitted.sample(7).shape == (7, 2)
        assert fitted.sample(np.int64(3)).shape == (3, 2)
        assert type(fitted.sample(3)) is np.ndarray

    @pytest.mark.parametrize("given", [np.float32, np.float64])
    @pytest.mark.parametrize("asked", [None, "float32", "float64", np.float32, np.dtype("float64")])
    def test_dtype_follows_the_data_or_the_parameter(self, tiny, given, asked):
        generator = tiny(max_iter=1, dtype=asked).fit(rows().astype(given))
        assert generator.sample(3).dtype == np.dtype(given if asked is None else asked)

    def test_integers_give_floats(self, tiny):
        assert tiny(max_iter=1).fit(rows().astype(int)).sample(3).dtype == np.float64

    def test_same_seed_same_draws(self, fitted):
        assert np.array_equal(fitted.sample(5, random_state=3), fitted.sample(5, random_state=3))
        assert not np.array_equal(
            fitted.sample(5, random_state=3), fitted.sample(5, random_state=4)
        )

    def test_no_seed_gives_fresh_draws(self, fitted):
        # Also when the fit had a seed and numpy's global generator is set back.
        np.random.seed(0)  # noqa: NPY002
        first = fitted.sample(5)
        np.random.seed(0)  # noqa: NPY002
        assert not np.array_equal(first, fitted.sample(5))

    def test_random_state_instance_advances(self, fitted):
        state = np.random.RandomState(5)
        first, second = fitted.sample(5, random_state=state), fitted.sample(5, random_state=state)
        assert not np.array_equal(first, second)
        again = np.random.RandomState(5)
        assert np.array_equal(first, fitted.sample(5, random_state=again))
        assert np.array_equal(second, fitted.sample(5, random_state=again))

    def test_draws_differ_from_each_other(self, fitted):
        assert len(np.unique(fitted.sample(500, random_state=0), axis=0)) == 500

    def test_leaves_the_estimator_alone(self, either):
        before, keys = pickle.dumps(either), list(either.__dict__)
        either.sample(50)
        either.sample(500, random_state=0)
        either.score(rows(50))
        either.transform(rows(50))
        assert list(either.__dict__) == keys
        assert pickle.dumps(either) == before

    def test_changing_the_draws_changes_nothing(self, carried):
        draws = carried.sample(60, random_state=0)
        kept = draws.copy()
        draws[:] = 0
        assert np.array_equal(carried.sample(60, random_state=0), kept)

    def test_with_a_source_without_replacement_up_to_its_rows(self, carried):
        images = carried.transform(rows(60, seed=1))
        for n in (1, 40, 60):
            draws = carried.sample(n, random_state=1)
            assert np.all(is_among(draws, images))
            assert len(np.unique(draws.round(9), axis=0)) == n

    def test_with_a_source_with_replacement_beyond(self, carried):
        images = carried.transform(rows(60, seed=1))
        draws = carried.sample(1200, random_state=1)
        assert np.all(is_among(draws, images))
        # every row comes up: one is missing with probability 60 exp(-20)
        assert np.all(is_among(images, draws))
        # ... at random: 20 times each would be a cycle through the rows
        nearest = np.abs(draws[:, None] - images[None]).max(2).argmin(1)
        assert np.bincount(nearest, minlength=60).std() > 2

    def test_is_a_subset_at_random(self, carried):
        # Catches the first rows of the source.
        images = carried.transform(rows(60, seed=1))
        draws = carried.sample(30, random_state=1)
        assert not np.all(is_among(draws, images[:30]))


class TestScore:
    def test_is_minus_the_debiased_divergence(self, fitted, monkeypatch):
        # reg is .05 of the mean cost within X: it does not depend on the model.
        X, draws = rows(80, seed=2), rows(80, seed=3) + 1.0
        monkeypatch.setattr(fitted, "_draw", lambda n, *args: torch.tensor(draws[:n]))
        reg = 0.05 * X.var(0).sum()  # the mean of |x - x'|^2 / 2 over all pairs
        expected = -sinkhorn_divergence(X, draws, reg=reg)
        assert fitted.score(X) == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("shift", [0.0, 1.0, 100.0])
    def test_of_a_translation(self, fitted, monkeypatch, shift):
        # The divergence of a cloud from itself moved by s is |s|^2 / 2, whatever reg is.
        X = rows(80, seed=2)
        monkeypatch.setattr(fitted, "_draw", lambda n, *args: torch.tensor(X + shift))
        assert fitted.score(X) == pytest.approx(-(shift**2), rel=1e-3, abs=1e-6)

    def test_is_larger_for_a_better_model(self, tiny):
        X, held_out = rows(600), rows(300, seed=1)
        scores = [
            tiny(max_iter=max_iter, learning_rate=rate).fit(X).score(held_out)
            for max_iter, rate in ((1, 1e-8), (3, 0.01), (40, 0.01))
        ]
        assert scores[0] < scores[1] < scores[2] < 0.01

    def test_is_deterministic(self, fitted):
        X = rows(100, seed=1)
        score = fitted.score(X)
        assert isinstance(score, float)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        assert fitted.score(X) == score
        assert fitted.score(X, np.zeros(100)) == score
        assert copy.deepcopy(fitted).score(X) == score

    def test_is_in_squared_units(self, tiny):
        X = rows()
        score = tiny().fit(X).score(X)
        assert tiny().fit(1024 * X).score(1024 * X) == pytest.approx(1024**2 * score, rel=1e-6)

    @pytest.mark.slow
    def test_of_more_than_5000_rows(self, fitted):
        # A fixed random choice of 5000 rows is compared. Catches the first 5000 (here zeros).
        X = np.concatenate([np.zeros((200, 2)), rows(5400, seed=1)])
        score = fitted.score(X)
        assert fitted.score(X) == score
        assert score == pytest.approx(fitted.score(X[np.r_[:100, 200:2900]]), abs=0.1)

    def test_of_one_row(self, fitted):
        score = fitted.score(np.array([[1.0, 1.0]]))
        assert np.isfinite(score)
        assert score < 0

    def test_of_the_source_case(self, carried):
        assert carried.score(rows(100, seed=4)) < 1e-9

    @pytest.mark.parametrize("distance", [1e3, 1e6, 1e12])
    def test_of_a_model_far_off(self, fitted, monkeypatch, distance):
        # A setting that has diverged must lose in a search and not end it.
        X = rows(80, seed=2)
        monkeypatch.setattr(fitted, "_draw", lambda n, *args: torch.tensor(X + distance))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert fitted.score(X) == pytest.approx(-(distance**2), rel=1e-2)

    def test_of_rows_much_closer_together_than_the_draws(self, fitted):
        # Half the mean squared distance of the draws from the place, minus what reg blurs.
        X = 1e-5 * rows(100)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            score = fitted.score(X)
        energy = 0.5 * np.mean(np.sum(fitted.sample(5000, random_state=0) ** 2, axis=1))
        assert score == pytest.approx(-energy, rel=0.3)


class TestDeterminism:
    @pytest.mark.parametrize("tiny", KINDS)
    def test_same_seed_same_fit(self, tiny):
        X = rows()
        first, second = tiny().fit(X), tiny().fit(X)
        assert np.array_equal(first.sample(20, random_state=0), second.sample(20, random_state=0))
        assert first.score(X) == second.score(X)
        for key in set(first.history_) - {"seconds"}:
            assert np.array_equal(first.history_[key], second.history_[key], equal_nan=True)

    def test_held_out_rows_are_the_same_too(self, tiny):
        X = rows(600)
        draws = [tiny().fit(X).sample(20, random_state=0) for _ in range(2)]
        assert np.array_equal(*draws)

    def test_other_seed_other_fit(self, tiny):
        X = rows()
        draws = [tiny(random_state=seed).fit(X).sample(20, random_state=0) for seed in (0, 1)]
        assert not np.allclose(*draws)

    def test_no_seed_fresh_entropy(self, tiny):
        X, draws = rows(), []
        for _ in range(2):
            np.random.seed(0)  # noqa: NPY002
            torch.manual_seed(0)
            draws.append(tiny(random_state=None).fit(X).sample(20, random_state=0))
        assert not np.allclose(*draws)

    def test_random_state_instance(self, tiny):
        X, state = rows(), np.random.RandomState(0)
        first, second = (tiny(random_state=state).fit(X).transform(X) for _ in range(2))
        assert not np.allclose(first, second)
        again = np.random.RandomState(0)
        assert np.array_equal(first, tiny(random_state=again).fit(X).transform(X))

    @pytest.mark.parametrize("tiny", KINDS)
    @pytest.mark.parametrize(("source", "seed"), [(False, None), (True, 0)])
    def test_global_random_states_are_untouched(self, tiny, source, seed):
        X = rows(600)
        X_source = rows(100, seed=1) if source else None
        torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
        generator = tiny().set_params(random_state=seed, max_iter=2)
        generator.fit(X, X_source=X_source)
        generator.sample(5, random_state=seed)
        generator.score(X[:20])
        assert torch.equal(torch.get_rng_state(), torch_state)
        for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
            assert np.array_equal(before, after)
