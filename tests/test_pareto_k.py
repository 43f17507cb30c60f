"""The index of the tail of importance weights, where it is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skwgf.metrics import pareto_k


def tail_error(n, k):
    """Return the standard error (1 + k) / sqrt(m) of the maximum likelihood, m in the tail."""
    return (1 + k) / math.sqrt(math.ceil(min(n / 5, 3 * math.sqrt(n))))


@pytest.mark.parametrize("k", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("n", [1000, 20_000])
def test_exact_pareto_weights(k, n):
    # The excesses over any threshold of a Pareto law of index k are generalised Pareto of the same
    # k. The mean over 20 samples meets it within four standard errors, each sample does so within
    # five. Catches the exponent 1/k in the place of k, and a threshold that is among the excesses.
    rng = np.random.default_rng(0)
    found = [pareto_k(-k * np.log(rng.uniform(size=n))) for _ in range(20)]
    error = tail_error(n, k)
    assert np.abs(np.array(found) - k).max() < 5 * error
    # The bias of the maximum likelihood is of the order of the squared error.
    assert abs(np.mean(found) - k) < 4 * error / math.sqrt(20) + error**2
    assert 0.5 * error < np.std(found) < 1.6 * error


@pytest.mark.parametrize("variance", [1.5, 2.0, 4.0])
def test_gaussian_ratio(variance):
    # The weights of N(0, 1) to N(0, s^2) have the index 1 - 1 / s^2, which the tail comes to at
    # the pace of 1 / log n only: with the slowly varying factor of w^-(1/k) (log w)^(-1/2) the
    # index that is seen at the threshold is lower, and higher than .7 of it here.
    rng = np.random.default_rng(0)
    x = rng.normal(size=200_000)
    expected = 1 - 1 / variance
    found = pareto_k(0.5 * expected * x**2)
    assert 0.7 * expected < found < expected + 4 * tail_error(200_000, expected)


def test_thin_and_bounded_tails():
    rng = np.random.default_rng(0)
    # An exponential tail has the index 0, a uniform one -1.
    assert abs(pareto_k(np.log(rng.exponential(size=20_000)))) < 4 * tail_error(20_000, 0)
    assert pareto_k(np.log(rng.uniform(size=20_000))) == pytest.approx(-1, abs=0.3)
    # A proposal of wider tails than the target's: weights bounded, and no index above zero.
    x = 2 * rng.normal(size=20_000)
    assert pareto_k(-0.5 * x**2 + 0.125 * x**2) < 0


def test_constants_and_order_play_no_role():
    # Logarithms of evidence are of any size: catches weights that overflow.
    logs = -0.5 * np.log(np.random.default_rng(0).uniform(size=1000))
    found = pareto_k(logs)
    assert pareto_k(logs + 5000) == pytest.approx(found, rel=1e-6)
    assert pareto_k(logs - 5000) == pytest.approx(found, rel=1e-6)
    assert pareto_k(np.sort(logs)) == found
    assert pareto_k(list(logs)) == found


def test_draws_without_weight_count_as_small_ones():
    rng = np.random.default_rng(0)
    logs = -0.5 * np.log(rng.uniform(size=1000))
    thinned = np.where(rng.uniform(size=1000) < 0.5, -np.inf, logs)
    assert pareto_k(thinned) == pytest.approx(0.5, abs=5 * tail_error(1000, 0.5))


@pytest.mark.filterwarnings("error")
class TestTies:
    def test_weights_that_are_all_the_same_have_no_tail(self):
        assert pareto_k(np.zeros(100)) == -math.inf
        assert pareto_k(np.where(np.arange(100) < 50, -1.0, 3.0)) == -math.inf

    def test_weights_tied_with_the_threshold(self):
        # Half of the tail is clipped to one value: excesses of zero have no likelihood for k > 0,
        # and would drag the fit far down. Those above are of index 1/2.
        rng = np.random.default_rng(0)
        logs = np.zeros(10_000)
        logs[:150] = -0.5 * np.log(rng.uniform(size=150))
        assert pareto_k(logs) == pytest.approx(0.5, abs=4 * 1.5 / math.sqrt(150))


@pytest.mark.filterwarnings("error")
class TestFewDrawsHoldAllWeight:
    # As bad as it gets. Catches a fit to the few excesses that are left, which calls one of them a
    # bounded tail: of k = -1.4, the best there is.
    @pytest.mark.parametrize("n", [25, 400])
    def test_one_weight_above_all_others(self, n):
        logs = np.zeros(n)
        logs[3] = 20.0
        assert pareto_k(logs) > 0.7

    @pytest.mark.parametrize("finite", [1, 2, 3])
    def test_few_draws_with_a_weight(self, finite):
        logs = np.full(1000, -np.inf)
        logs[:finite] = np.arange(finite)
        assert pareto_k(logs) > 0.7

    @pytest.mark.parametrize("spread", [10, 100, 1000])
    def test_ratios_beyond_the_range_of_numbers(self, spread):
        # Log weights of a bad proposal in many dimensions; all but a few weights underflow.
        logs = spread * np.random.default_rng(3).normal(size=(5, 1000))
        assert min(pareto_k(row) for row in logs) > 0.7


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("logs", "message"),
    [
        (np.zeros(24), "25 at least"),
        (np.zeros((50, 2)), r"got shape \(50, 2\)"),
        (np.r_[np.zeros(30), math.nan], "NaN or infinity"),
        (np.r_[np.zeros(30), math.inf], "NaN or infinity"),
        (np.full(30, -np.inf), "log_weights"),  # no weight at all
    ],
)
def test_bad_weights(logs, message):
    with pytest.raises(ValueError, match=message):
        pareto_k(logs)
