"""The squared kernel Stein discrepancy: exact draws are at the bootstrap floor, others above."""

from __future__ import annotations

import math

import pytest
import torch
from scenarios import generator, normal

from skwgf.kernels import Gaussian, InverseMultiquadric, Laplace, Linear, discrepancy
from skwgf.kernels.discrepancy import bootstrap_floor, ksd_squared

IMQ = InverseMultiquadric(bandwidth=1.0)


@pytest.mark.parametrize("kernel", [IMQ, Gaussian(bandwidth=1.0) + Linear()], ids=["imq", "sum"])
def test_both_statistics_are_the_explicit_means(kernel):
    x, n = normal(30, 3, 0) + 0.5, 30
    gram = kernel.stein_gram(x, -x, x, -x)
    unpaired = float(gram.sum() - gram.diagonal().sum()) / (n * (n - 1))
    assert ksd_squared(x, -x, kernel) == pytest.approx(float(gram.mean()), rel=1e-10)
    assert ksd_squared(x, -x, kernel, unbiased=True) == pytest.approx(unpaired, rel=1e-9)


def test_the_u_statistic_is_unbiased_and_v_has_the_diagonal_on_top():
    # Under the target the mean of U is 0 and that of V is E k(x, x)/n.
    n, repeats = 40, 300
    clouds = [normal(n, 2, seed) for seed in range(repeats)]
    for unbiased in (True, False):
        figures = torch.tensor([ksd_squared(x, -x, IMQ, unbiased=unbiased) for x in clouds])
        diagonal = torch.stack([IMQ.stein_diagonal(x, -x).mean() for x in clouds]).mean() / n
        expected = 0.0 if unbiased else float(diagonal)
        error = float(figures.std()) / math.sqrt(repeats)
        assert abs(float(figures.mean()) - expected) < 4 * error


def test_the_discrepancy_of_a_shift_under_the_linear_kernel():
    # For k = c + x.y and N(m, I) against N(0, I), E_x v(x) in closed form: the mean of s is -m and
    # of s x' is -(I + m m'), so that KSD^2 = c |m|^2 + |m m'|_F^2 in the limit.
    shift = torch.tensor([[0.6, -0.3]], dtype=torch.float64)
    x = normal(20000, 2, 0) + shift
    squared = float((shift**2).sum())
    expected = 0.7 * squared + squared**2
    # Its sd is that of a mean of n terms of size about one.
    assert ksd_squared(x, -x, Linear(offset=0.7)) == pytest.approx(
        expected, abs=5 / math.sqrt(20000)
    )


def test_exact_draws_are_at_the_floor():
    # A test at the level of 10% rejects 10% of independent draws of the target.
    n, repeats = 60, 150
    rejected = 0
    for seed in range(repeats):
        x = normal(n, 2, seed)
        floor = bootstrap_floor(x, -x, IMQ, generator=generator(1000 + seed), n_draws=200)
        rejected += ksd_squared(x, -x, IMQ) > float(floor.quantile(0.9))
    sd = math.sqrt(0.1 * 0.9 / repeats)
    assert abs(rejected / repeats - 0.1) < 4 * sd


@pytest.mark.parametrize("change", [lambda x: x + 0.5, lambda x: 0.6 * x, lambda x: 1.6 * x])
def test_other_laws_are_above_the_floor(change):
    # Spread as well as place.
    x = change(normal(300, 2, 0))
    floor = bootstrap_floor(x, -x, IMQ, generator=generator(1))
    assert ksd_squared(x, -x, IMQ) > float(floor.max())


def test_mean_of_the_floor_is_known():
    # Over signs the mean is that of k(x, x)/n, and the variance 2 |offdiagonal|^2 / n^4.
    x, n, n_draws = normal(50, 3, 0), 50, 4000
    floor = bootstrap_floor(x, -x, IMQ, generator=generator(0), n_draws=n_draws)
    gram = IMQ.stein_gram(x, -x, x, -x)
    variance = 2 * float((gram - gram.diagonal().diag()).square().sum()) / n**4
    mean = float(gram.diagonal().mean()) / n
    assert abs(float(floor.mean()) - mean) < 4 * math.sqrt(variance / n_draws)
    assert float(floor.var()) == pytest.approx(variance, rel=0.2)


def test_strips_do_not_show(monkeypatch):
    x = normal(50, 3, 0)
    whole = bootstrap_floor(x, -x, IMQ, generator=generator(0))
    monkeypatch.setattr(discrepancy, "_STRIP_ENTRIES", 333)
    torch.testing.assert_close(bootstrap_floor(x, -x, IMQ, generator=generator(0)), whole)


def test_refusals():
    x = normal(5, 2, 0)
    for call in (ksd_squared, lambda *args: bootstrap_floor(*args, generator=generator(0))):
        with pytest.raises(ValueError, match="Use InverseMultiquadric"):
            call(x, -x, Laplace(bandwidth=1.0))
    with pytest.raises(ValueError, match="two points"):
        ksd_squared(x[:1], -x[:1], IMQ, unbiased=True)
