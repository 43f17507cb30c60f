"""The learnt residual: exact on Gaussians, falling energy, honest at few particles, restorable."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from skwgf.flows import ParticleCarrier, affine_start, run_flow
from skwgf.flows.frozen import shorten
from skwgf.flows.regularizers import DiagonalQuadratic, HuberCost, LpCost, next_exponent
from skwgf.flows.residual import ResidualVelocity, length_limit
from skwgf.nn.divergence import DivergenceMLP, WithDivergence

F64 = torch.float64
EULER_GAMMA = 0.5772156649


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(n, d, seed=1, dtype=F64):
    return torch.randn(n, d, generator=generator(seed), dtype=F64).to(dtype)


def gaussian(d, seed=2):
    """Return the mean and the precision of a correlated Gaussian, and its score."""
    root = torch.eye(d, dtype=F64) + cloud(d, d, seed) / d**0.5
    precision, mean = root @ root.T + 0.2 * torch.eye(d, dtype=F64), torch.ones(d, dtype=F64)
    return mean, precision, lambda x: (mean.to(x) - x) @ precision.to(x)


def moments(x):
    """Return the mean and the covariance, of divisor n."""
    return x.mean(0), torch.cov(x.T, correction=0).reshape(x.shape[1], -1)


def linear_field(score_fn, d, **options):
    """Return a velocity whose network is affine and follows the cloud at every step."""
    network = DivergenceMLP(d, (), linear_skip=False, generator=generator(), dtype=F64)
    settings = {
        "learning_rate": 0.03,
        "betas": (0.9, 0.999),  # with a shorter memory Adam circles around the optimum
        "first_inner_steps": 600,
        "held_out": 0.0,
        "clip_quantile": 1.0,
    }
    return ResidualVelocity(score_fn, network, generator=generator(), **(settings | options))


def network_field(score_fn, d, seed=0, hidden=(32, 32), **options):
    draws = generator(seed)
    network = DivergenceMLP(d, hidden, generator=draws)
    return ResidualVelocity(score_fn, network, generator=draws, **options)


def log_gamma_score(x):
    """Return the score of independent logarithms of exponential variables, which are skewed."""
    return 1 - x.exp()


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("parametrization", ["residual", "direct"])
@pytest.mark.parametrize("coordinates", ["raw", "whitened"])
def test_residual_of_gaussians_is_that_of_the_empirical_moments(d, parametrization, coordinates):
    # By the normal equations of an affine field with the divisor n, so exact but for the training:
    # catches a covariance of divisor n - 1, a transposed root, and a missing divergence.
    mean, precision, score_fn = gaussian(d)
    x = 0.7 * cloud(200, d) - 0.5
    options = {"parametrization": parametrization, "coordinates": coordinates}
    velocity = linear_field(score_fn, d, **options)(x)
    center, covariance = moments(x)
    residual = (mean - x) @ precision + (x - center) @ torch.linalg.inv(covariance)
    expected = residual if coordinates == "raw" else residual @ covariance
    assert float((velocity.direction - expected).abs().max()) <= 1e-3
    assert velocity.energy == pytest.approx(float((expected * residual).sum(1).mean()), rel=1e-3)


def test_held_out_particles_leave_the_linear_residual_within_their_noise():
    # The normal equations on the 80 per cent trained on: off by the noise of their moments.
    mean, precision, score_fn = gaussian(2)
    x = 0.7 * cloud(2000, 2) - 0.5
    velocity = linear_field(score_fn, 2, held_out=0.2)(x)
    center, covariance = moments(x)
    residual = (mean - x) @ precision + (x - center) @ torch.linalg.inv(covariance)
    gap = (velocity.direction - residual @ covariance).square().mean().sqrt()
    assert float(gap / (residual @ covariance).square().mean().sqrt()) <= 5 / math.sqrt(2000)


def test_direct_and_residual_are_the_same_at_p_2():
    x = cloud(100, 2, dtype=torch.float32)
    both = [
        network_field(log_gamma_score, 2, parametrization=parametrization)(x)
        for parametrization in ("residual", "direct")
    ]
    torch.testing.assert_close(both[0].direction, both[1].direction)
    assert both[0].energy == pytest.approx(both[1].energy, rel=1e-5)


@pytest.mark.parametrize(
    "cost", [LpCost(3.0), HuberCost(1.0, 0.2), DiagonalQuadratic(torch.ones(1) / 3)]
)
def test_direct_learns_the_velocity_of_its_cost(cost):
    # The cloud has the quantiles of N(0, 1), the target is N(0, 1/4): r = -3 x. The velocity of the
    # residual is a function of r; the direct one has to come to it from g alone, which catches g*
    # in the place of g. The network bends, so the comparison is in the mean square.
    n = 200
    levels = (torch.arange(n, dtype=F64) + 0.5) / n
    x = torch.special.ndtri(levels)[:, None]
    field = network_field(
        lambda x: -4 * x,
        1,
        cost=cost,
        parametrization="direct",
        first_inner_steps=600,
        held_out=0.0,
        learning_rate=1e-2,
        clip_quantile=1.0,
    )
    expected = cost.conjugate_gradient(-3 * x)
    gap = (field(x).direction - expected).square().mean().sqrt()
    assert float(gap / expected.square().mean().sqrt()) <= 0.1


def test_raw_and_whitened_coordinates_differ_by_the_covariance():
    x = cloud(100, 2) @ torch.tensor([[2.0, 0.0], [0.5, 0.3]], dtype=F64)
    raw, whitened = (
        network_field(lambda x: -x, 2, coordinates=coordinates, clip_quantile=1.0)(x)
        for coordinates in ("raw", "whitened")
    )
    torch.testing.assert_close(raw.direction @ moments(x)[1], whitened.direction, atol=1e-5, rtol=0)


def test_whitened_flow_moves_with_the_coordinates():
    # Lower triangular maps leave the whitened cloud as it is; a wrong side of the root would not.
    stretch = torch.tensor([[3.0, 0.0], [1.0, 0.2]], dtype=F64)
    x, inverse = cloud(60, 2), torch.linalg.inv(stretch)
    plain = network_field(log_gamma_score, 2, cost=LpCost(3.0))(x)
    mapped = network_field(lambda y: log_gamma_score(y @ inverse.T) @ inverse, 2, cost=LpCost(3.0))(
        x @ stretch.T
    )
    torch.testing.assert_close(plain.direction @ stretch.T, mapped.direction, atol=1e-4, rtol=1e-4)
    assert plain.energy == pytest.approx(mapped.energy, rel=1e-4)


def gaussian_divergence(x, mean, precision):
    """Return KL(N(moments of x) | N(mean, precision^-1))."""
    center, covariance = moments(x)
    shape = precision @ covariance
    shift = mean - center
    return 0.5 * float(shape.trace() - len(mean) - torch.logdet(shape) + shift @ precision @ shift)


@pytest.mark.parametrize("p", [1.5, 2.0, 4.0])
def test_divergence_falls_along_the_flow(p):
    mean, precision, score_fn = gaussian(2)
    field = linear_field(score_fn, 2, cost=LpCost(p), inner_steps=50)
    carrier = ParticleCarrier(cloud(100, 2) - 1, field, step_size=0.02)
    values, energies = [gaussian_divergence(carrier.particles, mean, precision)], []
    for _ in range(12):
        energies.append(carrier.advance()["objective"])
        values.append(gaussian_divergence(carrier.particles, mean, precision))
    assert all(after < before for before, after in itertools.pairwise(values))
    assert min(energies) > 0


@pytest.mark.parametrize("p", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("coordinates", ["raw", "whitened"])
def test_the_energy_is_the_rate_at_which_the_divergence_falls(p, coordinates):
    # With r affine, the moments of the cloud under any velocity make the divergence fall at the
    # rate E[v.r] exactly; the step adds a relative error of its order. Catches an energy |v|^2
    # without the metric.
    mean, precision, score_fn = gaussian(2)
    step = 1e-4
    field = linear_field(score_fn, 2, cost=LpCost(p), coordinates=coordinates)
    carrier = ParticleCarrier(cloud(100, 2) - 1, field, step_size=step)
    before = gaussian_divergence(carrier.particles, mean, precision)
    energy = carrier.advance()["objective"]
    after = gaussian_divergence(carrier.particles, mean, precision)
    assert (before - after) / step == pytest.approx(energy, rel=0.01)


@pytest.mark.parametrize(("n", "d"), [(20, 5), (100, 10)])
def test_held_out_particles_stop_the_fit_of_noise(n, d):
    # The cloud is drawn from the target, so the residual is zero and its energy should be. Without
    # the hold-out the divergence at each particle grows for as long as it is trained.
    x = cloud(n, d)
    options = {"first_inner_steps": 300, "clip_quantile": 1.0}
    free = network_field(lambda x: -x, d, held_out=0.0, **options)
    held = network_field(lambda x: -x, d, **options)
    noise = free(x).energy
    assert noise > 2 * d
    assert held(x).energy < 0.1 * noise
    assert held.last_fit.n_steps < 300
    assert free.last_fit.n_steps == 300
    assert math.isnan(free.last_fit.held_out)


def test_the_flow_reaches_a_skewed_target_with_its_spread():
    # From its Gaussian approximation, of .79 of the spread and skewness 0. A network that is stuck
    # at zero, or that follows the noise, shows in the spread and in the skewness, -1.14.
    x, _ = affine_start(log_gamma_score, cloud(200, 2))
    field = network_field(log_gamma_score, 2)
    carrier = ParticleCarrier(x, field, step_size=0.2, parts=(field,))
    run_flow(carrier, max_iter=120)
    standard = (carrier.particles + EULER_GAMMA) / (math.pi / math.sqrt(6))
    spread = standard.std(0)
    skewness = ((standard - standard.mean(0)) / spread).pow(3).mean()
    assert float(standard.mean(0).abs().max()) <= 0.12
    assert 0.9 <= float(spread.min()) <= float(spread.max()) <= 1.1
    assert float(skewness) <= -0.7


@pytest.mark.parametrize(("n", "d"), [(2, 1), (3, 1), (5, 4), (10, 1), (12, 20)])
@pytest.mark.parametrize("parametrization", ["residual", "direct"])
def test_few_particles_and_one_dimension_stay_finite(n, d, parametrization):
    field = network_field(lambda x: -x, d, parametrization=parametrization, cost=LpCost(3.0))
    carrier = ParticleCarrier(1 + cloud(n, d), field, step_size=0.1, parts=(field,))
    result = run_flow(carrier, max_iter=5)
    assert result.status == "max_iter"
    assert carrier.is_finite()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_restored_state_repeats_the_run(wrapped):
    # All that changes is restored: weights, moments, exponent, counter of calls, generator.
    draws = generator()
    network = DivergenceMLP(2, (8,), generator=draws)
    if wrapped:
        network = WithDivergence(network, generator=draws, exact_up_to=0)
    options = {"exponent_rule": "conjugate", "first_inner_steps": 20}
    field = ResidualVelocity(log_gamma_score, network, generator=draws, **options)
    carrier = ParticleCarrier(cloud(50, 2), field, step_size=0.1, parts=(field,))
    states, paths = [carrier.state_dict()], []
    for k in range(4):
        carrier.advance()
        if k == 1:
            states.append(carrier.state_dict())
    end, exponent = carrier.particles, field.cost.p
    for state, steps in zip(states, (4, 2), strict=True):
        carrier.load_state_dict(state)
        for _ in range(steps):
            carrier.advance()
        paths.append(carrier.particles)
        assert field.cost.p == exponent != 2
    assert all(torch.equal(path, end) for path in paths)


def test_the_exponent_follows_its_rule():
    field = network_field(log_gamma_score, 2, exponent_rule="frozen", exponent_rate=0.5)
    x = cloud(50, 2)
    velocity = field(x)
    # At p = 2 in whitened coordinates the residual is the whitened velocity.
    root = torch.linalg.cholesky(moments(x)[1])
    residual = torch.linalg.solve_triangular(root, velocity.direction.T, upper=False).T
    assert field.cost.p == pytest.approx(next_exponent(residual, 2.0, "frozen", 0.5), rel=1e-6)


def test_clipped_rows_keep_their_direction():
    r = cloud(100, 3) * torch.logspace(-1, 2, 100, dtype=F64)[:, None]
    clipped = shorten(r, length_limit(r, 0.9))
    lengths, limit = r.norm(dim=1), torch.quantile(r.norm(dim=1), 0.9)
    torch.testing.assert_close(clipped.norm(dim=1), lengths.clamp(max=limit))
    torch.testing.assert_close(clipped / clipped.norm(dim=1)[:, None], r / lengths[:, None])
    assert shorten(r, length_limit(r, 1.0)) is r
    still = torch.zeros(4, 2)
    assert not shorten(still, length_limit(still, 0.5)).any()


def test_the_score_is_evaluated_once_a_step():
    calls = []

    def score_fn(x):
        calls.append(len(x))
        return -x

    field = network_field(score_fn, 2)
    field(cloud(30, 2))
    field(cloud(30, 2))
    assert calls == [30, 30]
    assert field.last_fit.n_steps <= 10


def test_scores_that_are_not_finite_are_reported_by_the_velocity():
    velocity = network_field(lambda x: x / 0, 2)(cloud(20, 2))
    assert math.isnan(velocity.energy)
    assert not torch.isfinite(velocity.direction).any()


def test_a_fit_that_is_not_finite_is_undone_with_one_warning():
    field = network_field(lambda x: -x, 2, learning_rate=1e25, held_out=0.0)
    before = [weight.detach().clone() for weight in field.network.parameters()]
    with pytest.warns(RuntimeWarning, match="learning rate is now 1.0e\\+24"):
        velocity = field(cloud(20, 2))
    assert bool(torch.isfinite(velocity.direction).all())
    for weight, start in zip(field.network.parameters(), before, strict=True):
        assert torch.equal(weight, start)
    assert math.isfinite(field(cloud(20, 2)).energy)


def test_runs_repeat_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first, second = (network_field(log_gamma_score, 2, seed=4)(cloud(40, 2)) for _ in range(2))
    assert torch.equal(first.direction, second.direction)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"parametrization": "both"}, "parametrization='both'"),
        ({"coordinates": "polar"}, "coordinates='polar'"),
        ({"exponent_rule": "best"}, "exponent_rule='best'"),
        ({"exponent_rule": "frozen", "cost": HuberCost()}, "needs an LpCost"),
        ({"held_out": 0.6}, "held_out must lie in"),
        ({"clip_quantile": 0.0}, "clip_quantile must lie in"),
        ({"inner_steps": 0}, "at least 1"),
    ],
)
def test_bad_parameters_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        network_field(lambda x: -x, 2, **options)
