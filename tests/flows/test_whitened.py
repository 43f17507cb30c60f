"""The default sampler and its affine start: Gaussians, equivariance, spread, and stopping."""

from __future__ import annotations

import math

import pytest
import torch

from skwgf.flows import run_flow
from skwgf.flows._stein_features import _second_moments, regress_score_ratio
from skwgf.flows.affine import affine_start, whiten
from skwgf.flows.whitened import (
    CautiousEuler,
    WhitenedStein,
    at_level,
    fisher_ratio,
    stopping_level,
    whitened_carrier,
)

F64 = torch.float64
EULER_GAMMA = 0.5772156649


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(n, d=2, seed=0, dtype=F64):
    return torch.randn(n, d, generator=generator(seed), dtype=F64).to(dtype)


def gaussian(d, seed=7, spread=100.0, dtype=F64):
    """Return the mean and the covariance of a correlated Gaussian, and its score."""
    axes = torch.linalg.qr(cloud(d, d, seed)).Q
    values = torch.logspace(-0.5, 0.5, d, base=spread, dtype=F64)
    covariance, mean = (axes * values) @ axes.T, 3 + cloud(1, d, seed + 1)[0]
    precision = torch.linalg.inv(covariance).to(dtype)
    return mean, covariance, lambda x: (mean.to(dtype) - x) @ precision


def log_gamma_score(x):
    """Return the score of independent logarithms of exponential variables, which are skewed."""
    return 1 - x.exp()


def sample(score_fn, x, max_iter=300):
    """Return the particles of the default sampler and how the run ended."""
    start, _ = affine_start(score_fn, x)
    carrier = whitened_carrier(score_fn, start)
    result = run_flow(carrier, max_iter=max_iter, stop=at_level(stopping_level(*x.shape)))
    return carrier.particles, result


@pytest.mark.parametrize(("d", "dtype"), [(1, F64), (2, torch.float32), (10, F64), (50, F64)])
def test_affine_start_is_exact_on_gaussians(d, dtype):
    # Catches a wrong sign or transposition, which an isotropic target would hide.
    mean, covariance, score_fn = gaussian(d, dtype=dtype)
    x, info = affine_start(score_fn, cloud(200, d, dtype=dtype), tol=1e-4)
    assert info.converged
    assert x.dtype == dtype
    root = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(root, (x.to(F64) - mean).T, upper=False).T
    assert z.mean(0).abs().max() < 1e-3
    assert (z.T.cov(correction=0) - torch.eye(d)).abs().max() < 2e-3


def test_affine_start_moves_by_affine_maps():
    start = cloud(60, 3)
    x, _ = affine_start(log_gamma_score, start)
    ones = torch.ones(60, 1, dtype=F64)
    fitted = torch.linalg.lstsq(torch.cat([ones, start], 1), x).solution
    torch.testing.assert_close(torch.cat([ones, start], 1) @ fitted, x, rtol=0, atol=1e-10)


def test_affine_start_from_afar():
    # A normal model of unknown mean and log sd, started where curvatures are 1e8 times those at
    # the mode: catches a shift held to the spread of a cloud that has shrunk on the way.
    y = 5000 + 300 * cloud(400, 1)[:, 0]

    def score_fn(x):
        precision = torch.exp(-2 * x[:, 1])
        squares = (y - x[:, :1]).square().sum(1)
        return torch.stack(
            [precision * (y.sum() - len(y) * x[:, 0]), precision * squares - len(y)], 1
        )

    x, info = affine_start(score_fn, cloud(100))
    assert info.converged
    assert float(x[:, 0].mean()) == pytest.approx(float(y.mean()), abs=3)
    assert float(x[:, 1].mean()) == pytest.approx(math.log(float(y.std())), abs=0.02)
    assert float(x[:, 0].std()) == pytest.approx(float(y.std()) / 20, rel=0.05)
    assert float(x[:, 1].std()) == pytest.approx(1 / math.sqrt(800), rel=0.05)


def test_affine_start_steps_back_from_scores_that_overflow():
    def score_fn(x):  # N(-5, 1), that cannot be evaluated below -6
        return torch.where(x < -9, math.nan, -5 - x)

    x, info = affine_start(score_fn, cloud(100, 1))
    assert torch.isfinite(x).all()
    assert info.converged
    assert float(x.mean()) == pytest.approx(-5, abs=0.02)


@pytest.mark.parametrize(
    ("x", "score_fn", "message"),
    [
        (torch.zeros(1, 2), torch.neg, "two particles"),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), torch.neg, "coordinate 1"),
        (torch.eye(3), lambda x: x / (x[:, :1]), "particle 1"),
    ],
)
def test_bad_starts(x, score_fn, message):
    with pytest.raises(ValueError, match=message):
        affine_start(score_fn, x)


def test_whitened_clouds():
    x = cloud(300, 4) @ cloud(4, 4, seed=1) + 5
    z, root = whiten(x)
    torch.testing.assert_close(z.T.cov(correction=0), torch.eye(4, dtype=F64))
    torch.testing.assert_close(z @ root.T + x.mean(0), x)
    few, _ = whiten(cloud(5, 20))  # a singular covariance
    assert torch.isfinite(few).all()
    assert few.square().mean() < 3


def features(z, centers, h):
    d = z.shape[1]
    squares = (z[:, None] - centers).square().sum(2)
    gaussian_features = (1 + 4 / h) ** (d / 2) * torch.exp(-squares / h)
    return torch.cat([torch.ones(len(z), 1, dtype=F64), z, gaussian_features], 1)


def test_velocity_against_its_definition():
    # Everything by arrays of all particles, features and coordinates, gradients by autograd.
    n, d, m, h, reg = 30, 3, 5, 6.0, 0.1
    z, centers = cloud(n, d), cloud(m, d, seed=1)
    scores = -z + 0.3 * cloud(n, d, seed=2)
    phi = features(z, centers, h)
    jacobian = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda p: features(p[None], centers, h)[0], row)
            for row in z
        ]
    )
    terms = phi[:, :, None] * scores[:, None, :] + jacobian
    gram = torch.eye(1 + d + m, dtype=F64)
    gram[1 + d :, 1 + d :] = features(centers, centers, h)[:, 1 + d :]
    matrix = (1 - reg) * phi.T @ phi / n + reg * gram
    fit = regress_score_ratio(z, scores, centers, h, reg, 1.0)
    velocity = phi @ torch.linalg.solve(matrix, terms.mean(0))
    torch.testing.assert_close(fit.velocity, velocity, rtol=1e-8, atol=1e-8)
    moments = torch.einsum("iqa,ira->qr", terms, terms)
    gradients = jacobian[:, 1 + d :].sum(0)
    torch.testing.assert_close(_second_moments(z, scores, centers, h, phi, gradients), moments)


def test_energy_of_independent_draws_is_one():
    # The unit of the energy, on which the stopping level rests: the mean over 40 clouds.
    score_fn = torch.neg
    field = WhitenedStein(score_fn, level=0.0)
    energies = torch.tensor([field(cloud(200, 3, seed=seed)).energy for seed in range(40)])
    # Whitening by the cloud leaves each Gaussian one about its mean; spread .2 a cloud.
    assert float(energies.mean()) == pytest.approx(1.0, abs=0.35)
    wrong = torch.tensor([field(1.5 * cloud(200, 3, seed=seed)).energy for seed in range(3)])
    assert float(wrong.min()) > 10


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize("d", [2, 10, 50])
def test_spread_of_gaussians(d, dtype):
    # The classic kernel and bandwidth leave .12 of the variance at d = 50.
    n = 200
    mean, covariance, score_fn = gaussian(d, dtype=dtype)
    x, result = sample(score_fn, cloud(n, d, dtype=dtype))
    assert result.converged
    ratios = x.to(F64).var(0) / covariance.diagonal()
    assert float(ratios.mean()) == pytest.approx(1, abs=0.03)
    assert ((x.mean(0) - mean).abs() / covariance.diagonal().sqrt()).max() < 0.03


@pytest.mark.parametrize(("n", "d"), [(500, 2), (300, 8), (50, 2), (30, 5)])
def test_skewed_target_better_than_independent_draws(n, d):
    # Mean -gamma and variance pi^2 / 6: the affine start alone has .8 of the sd.
    x, result = sample(log_gamma_score, cloud(n, d))
    sd = math.pi / math.sqrt(6)
    assert result.converged
    assert ((x.mean(0) + EULER_GAMMA) / sd).square().mean() < 0.5 / n
    # Independent draws: the kurtosis of 5.4 gives an sd of 1.05 n^(-1/2).
    assert (x.std(0) / sd - 1).abs().max() < max(0.05, 1.5 / math.sqrt(n))
    # No collapse of neighbours onto each other.
    assert torch.pdist(x).min() > 1e-3


def test_two_modes_keep_their_masses_and_widths():
    centers = torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=F64)

    def score_fn(x):
        logits = -0.5 * (x[:, None] - centers).square().sum(2)
        return logits.softmax(1) @ centers - x

    # Between modes the masses hardly move: they keep the shares of the start's basins.
    x, _ = sample(score_fn, 2 * cloud(500))
    right = x[:, 0] > 0
    assert float(right.double().mean()) == pytest.approx(0.5, abs=0.1)
    assert x[right].var(0).tolist() == pytest.approx([1, 1], abs=0.15)


def test_affine_equivariance():
    # Twenty steps: small differences grow along a flow.
    matrix, shift = cloud(3, 3, seed=1) + 2 * torch.eye(3, dtype=F64), cloud(1, 3, seed=2)
    inverse = torch.linalg.inv(matrix)

    def mapped_score(x):
        return log_gamma_score((x - shift) @ inverse.T) @ inverse

    start = cloud(100, 3)
    x, mapped = (
        sample(score_fn, begin, max_iter=20)[0]
        for score_fn, begin in (
            (log_gamma_score, start),
            (mapped_score, start @ matrix.T + shift),
        )
    )
    torch.testing.assert_close(x @ matrix.T + shift, mapped, rtol=1e-5, atol=1e-5)


def test_a_restarted_run_is_the_same():
    # Ten steps at once, and five, a copy, and five: catches state outside of the carrier's. The
    # step of 3 is too long, so that undone steps take part.
    def carrier():
        return whitened_carrier(log_gamma_score, cloud(60, 2), step_size=3.0, level=0.0)

    whole, first, second = carrier(), carrier(), carrier()
    whole_record = [whole.advance() for _ in range(10)]
    first_record = [first.advance() for _ in range(5)]
    second.load_state_dict(first.state_dict())
    for _ in range(3):
        first.advance()
    assert first_record + [second.advance() for _ in range(5)] == whole_record
    assert torch.equal(second.particles, whole.particles)
    assert whole.stepper.factor < 1


def test_running_on_does_no_harm():
    x, result = sample(log_gamma_score, cloud(100, 2))
    assert result.history["objective"][-1] <= stopping_level(100, 2)
    carrier = whitened_carrier(log_gamma_score, x)
    run_flow(carrier, max_iter=5)
    assert torch.equal(carrier.particles, x)


def test_more_coordinates_than_particles():
    x, _ = sample(torch.neg, 3 + cloud(20, 40), max_iter=30)
    assert torch.isfinite(x).all()
    # Such a cloud spans 19 dimensions: (n - 1) / d of the variance is what it can have.
    assert 0.2 < float(x.var(0).mean()) < 1.2
    assert float(x.mean(0).square().mean()) < 0.1


def test_scores_that_are_not_finite_end_the_run_at_the_last_good_state():
    def score_fn(x):
        return x / 0 if calls.append(1) or len(calls) > 5 else log_gamma_score(x)

    calls = []
    carrier = whitened_carrier(score_fn, cloud(50, 2), level=0.0)
    result = run_flow(carrier, max_iter=30)
    # Undone and halved, time and again; never NaN.
    assert result.n_iter == 30
    assert torch.isfinite(carrier.particles).all()
    broken = whitened_carrier(lambda x: x / 0, cloud(50, 2))
    assert run_flow(broken, max_iter=3).status == "non_finite"


def test_fisher_ratio_tells_ridges():
    score_fn = gaussian(3)[2]
    mean, covariance, _ = gaussian(3)
    root = torch.linalg.cholesky(covariance)
    draws = cloud(4000, 3)
    ratios = [
        fisher_ratio(score_fn, mean + scale * draws @ root.T, generator=generator(1))
        for scale in (1.0, 0.5, 2.0)
    ]
    assert ratios == pytest.approx([1, 0.25, 4], rel=0.05)
    single = fisher_ratio(torch.neg, draws.float(), generator=generator(1))
    assert single == pytest.approx(1, rel=0.05)


def test_bad_parameters():
    with pytest.raises(ValueError, match="reg"):
        WhitenedStein(torch.neg, reg=0.0)
    with pytest.raises(ValueError, match="n_centers"):
        WhitenedStein(torch.neg, n_centers=0)


def test_cautious_euler_grows_back():
    stepper = CautiousEuler()
    stepper.factor = 0.5
    x, energies = torch.ones(1, 1), []
    for _ in range(20):
        x, energy = stepper(lambda x, side=None: field_to_origin(x), x, 0.1)
        energies.append(energy)
    assert energies == sorted(energies, reverse=True)
    assert stepper.factor == 1.0


def field_to_origin(x):
    from skwgf.flows import Velocity

    return Velocity(-x, float(x.square().sum()))
