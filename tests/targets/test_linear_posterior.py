"""The linear model: conjugate answers, priors against scipy, units, and predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from skwgf.targets import LinearRegressionPosterior

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = 50 + 20 * (X @ [1.0, -0.5, 0.2]) + 5 * RNG.normal(size=40)
DESIGN = np.column_stack([X, np.ones(40)])


def tensor(array):
    return torch.tensor(np.asarray(array).tolist(), dtype=torch.float64)


Z = 0.5 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_conjugate_posterior_of_known_noise():
    # Gaussian: precision A = D'D / sigma^2 + I / s^2, mean A^-1 D'y / sigma^2.
    scale, noise = 3.0, 4.0
    model = LinearRegressionPosterior(scale, noise_scale=noise, normalize_y=False).fit(X, Y)
    precision = DESIGN.T @ DESIGN / noise**2 + np.eye(4) / scale**2
    mean = np.linalg.solve(precision, DESIGN.T @ Y / noise**2)
    law = stats.multivariate_normal(mean, np.linalg.inv(precision))
    z = Z[:, :4] + tensor(mean)
    gaps = model.log_prob(z) - tensor(law.logpdf(np.array(z.tolist())))
    assert float(gaps.std()) < 1e-9
    torch.testing.assert_close(
        model.grad_log_prob(z), (tensor(mean) - z) @ tensor(precision), rtol=1e-9, atol=1e-8
    )


def test_the_constant_of_known_noise_is_the_evidence():
    # With all constants in place the gap above is log p(y), y ~ N(0, sigma^2 I + s^2 D D').
    scale, noise = 3.0, 4.0
    model = LinearRegressionPosterior(scale, noise_scale=noise, normalize_y=False).fit(X, Y)
    precision = DESIGN.T @ DESIGN / noise**2 + np.eye(4) / scale**2
    mean = np.linalg.solve(precision, DESIGN.T @ Y / noise**2)
    log_posterior = stats.multivariate_normal(mean, np.linalg.inv(precision)).logpdf(mean)
    evidence = stats.multivariate_normal(
        np.zeros(40), noise**2 * np.eye(40) + scale**2 * DESIGN @ DESIGN.T
    ).logpdf(Y)
    found = float(model.log_prob(tensor(mean)[None]))
    assert found - log_posterior == pytest.approx(evidence, abs=1e-7)


@pytest.mark.parametrize("prior", [("half_cauchy", 2.5), ("gamma", 2.0, 0.5)])
@pytest.mark.parametrize("normalize_y", [True, False])
def test_the_log_density_by_scipy(prior, normalize_y):
    model = LinearRegressionPosterior(
        1.5, intercept_scale=7.0, noise_prior=prior, normalize_y=normalize_y
    ).fit(X, Y)
    targets = (Y - Y.mean()) / Y.std() if normalize_y else Y
    for row, found in zip(Z.tolist(), model.log_prob(Z).tolist(), strict=True):
        weights, noise = np.array(row[:4]), math.exp(row[4])
        expected = stats.norm(DESIGN @ weights, noise).logpdf(targets).sum()
        expected += stats.norm(0, [1.5, 1.5, 1.5, 7.0]).logpdf(weights).sum()
        if prior[0] == "half_cauchy":
            expected += stats.halfcauchy(scale=2.5).logpdf(noise) + row[4]
        else:
            # d precision / d log sigma = -2 precision
            expected += stats.gamma(2.0, scale=2).logpdf(noise**-2) + math.log(2 * noise**-2)
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("prior", [("half_cauchy", 2.5), ("gamma", 2.0, 0.5)])
def test_the_prior_of_the_log_noise_has_unit_mass(prior):
    model = LinearRegressionPosterior(noise_prior=prior).fit(X, Y)
    mass, _ = integrate.quad(
        lambda z: math.exp(float(model._log_noise_prior(tensor(z)))), -40, 40, points=[0.0]
    )
    assert mass == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("prior", [("half_cauchy", 2.5), ("gamma", 2.0, 0.5)])
def test_the_start_has_the_law_of_the_prior(prior):
    # Kolmogorov's distance of 4000 draws exceeds .031 once in a thousand.
    model = LinearRegressionPosterior(
        1.5, intercept_scale=7.0, noise_prior=prior, normalize_y=False
    ).fit(X, Y)
    start = model.constrain(model.draw_start(4000, torch.Generator().manual_seed(0)))
    draws = np.array(start.tolist())
    noise = draws[:, 4] if prior[0] == "half_cauchy" else draws[:, 4] ** -2
    law = stats.halfcauchy(scale=2.5) if prior[0] == "half_cauchy" else stats.gamma(2, scale=2)
    for column, exact in (
        (draws[:, 0], stats.norm(0, 1.5)),
        (draws[:, 3], stats.norm(0, 7.0)),
        (noise, law),
    ):
        assert stats.kstest(column, exact.cdf).statistic < 0.031


def test_a_flat_prior_is_least_squares():
    model = LinearRegressionPosterior(float("inf"), noise_scale=1.0).fit(X, Y)
    solution = np.linalg.lstsq(DESIGN, (Y - Y.mean()) / Y.std(), rcond=None)[0]
    assert model.grad_log_prob(tensor(solution)[None]).abs().max() < 1e-10
    assert model.draw_start(5, torch.Generator().manual_seed(0)).isfinite().all()


def test_units_of_y():
    # y in other units moves predictions and parameters with it, and nothing else.
    model = LinearRegressionPosterior().fit(X, Y)
    other = LinearRegressionPosterior().fit(X, 10 * Y + 3)
    torch.testing.assert_close(other.log_prob(Z), model.log_prob(Z))
    rows = tensor(X[:7])
    a, b = model.predictive(Z, rows), other.predictive(Z, rows)
    torch.testing.assert_close(b.mean, 10 * a.mean + 3)
    torch.testing.assert_close(b.sd, 10 * a.sd)
    torch.testing.assert_close(
        other.log_likelihood(Z, rows, other.encode(10 * Y[:7] + 3)),
        model.log_likelihood(Z, rows, model.encode(Y[:7])) - math.log(10),
    )


def test_predictions_by_the_parameters_of_the_user():
    # An explicit loop over particles and rows, in the units of y.
    model = LinearRegressionPosterior().fit(X, Y)
    assert model.parameter_names_ == ["coef[0]", "coef[1]", "coef[2]", "intercept", "noise_scale"]
    x = np.array(model.constrain(Z).tolist())
    predicted = model.predictive(Z, tensor(X))
    found = model.log_likelihood(Z, tensor(X), model.encode(Y))
    for i, parameters in enumerate(x):
        for j, row in enumerate(X):
            mean = row @ parameters[:3] + parameters[3]
            assert float(predicted.mean[i, j]) == pytest.approx(mean)
            assert float(predicted.sd[i, j]) == pytest.approx(parameters[4])
            expected = stats.norm(mean, parameters[4]).logpdf(Y[j])
            assert float(found[i, j]) == pytest.approx(expected)
    known = LinearRegressionPosterior(noise_scale=0.3).fit(X, Y)
    sd = known.predictive(Z[:, :4], tensor(X)).sd
    torch.testing.assert_close(sd, torch.full_like(sd, 0.3 * Y.std()))


def test_a_constant_y_keeps_its_unit():
    model = LinearRegressionPosterior().fit(X, np.full(40, 7.0))
    assert model.scaling_ == (7.0, 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prior_scale": 0.0}, "prior_scale must be positive"),
        ({"intercept_scale": -1.0}, "intercept_scale must be positive"),
        ({"noise_scale": 0.0}, "noise_scale must be positive"),
        ({"noise_prior": ("normal", 1.0)}, "noise_prior must be"),
        ({"noise_prior": ("half_cauchy", -1.0)}, "noise_prior must be"),
        ({"noise_prior": ("gamma", 1.0)}, "positive shape and rate"),
        ({"noise_prior": "gamma"}, "noise_prior must be"),
    ],
)
def test_wrong_parameters_are_told_at_fit(options, words):
    with pytest.raises(ValueError, match=words):
        LinearRegressionPosterior(**options).fit(X, Y)


def test_wrong_data_are_told():
    with pytest.raises(ValueError, match="requires y to be passed"):
        LinearRegressionPosterior().fit(X)
    with pytest.raises(ValueError, match="NaN"):
        LinearRegressionPosterior().fit(X, np.full(40, np.nan))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LinearRegressionPosterior().fit(X, Y[:5])
