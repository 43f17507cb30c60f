"""The sliced velocity: the line, moved and scaled targets, unequal counts, and POT's gradient."""

from __future__ import annotations

import itertools
import math

import ot
import pytest
import torch

from skwgf.flows import ParticleCarrier, euler
from skwgf.flows.sliced import random_directions, sliced_velocity
from skwgf.transport import exact_plan


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(n, d=2, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 37), (37, 50), (60, 20), (1, 9), (9, 1)])
def test_on_the_line_it_is_exact_transport(n, m):
    # Catches a rank taken for an order, and unequal counts paired by interpolation.
    x, y = cloud(n, 1), cloud(m, 1, seed=1).exp()
    plan = exact_plan(x, y)
    velocity = sliced_velocity(y, 3, generator=generator())(x)
    torch.testing.assert_close(velocity.direction, plan.barycenter(y) - x)
    assert velocity.energy == pytest.approx(plan.cost, rel=1e-12)


@pytest.mark.parametrize("d", [2, 5])
def test_a_moved_and_scaled_law_is_approached_as_by_the_exact_flow(d):
    # Catches the factor d, on which the rate depends.
    x, shift = cloud(80, d), cloud(1, d, seed=1)
    shuffle = torch.randperm(80, generator=generator(2))
    for y in ((x + shift)[shuffle], (0.25 * x + shift)[shuffle]):
        velocity = sliced_velocity(y, 4 * d, generator=generator())(x)
        plan = exact_plan(x, y)
        torch.testing.assert_close(velocity.direction, plan.barycenter(y) - x)
        assert velocity.energy == pytest.approx(plan.cost, rel=1e-12)


def test_rate_of_a_translation_without_full_frames():
    # The mean of theta theta' over n directions is I/d up to order (d n)^(-1/2).
    d, n = 3, 2000
    x, shift = cloud(40, d), torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    direction = sliced_velocity(x + shift, n + 1, generator=generator())(x).direction
    assert (direction - shift).norm(dim=1).max() < 10 / n * shift.norm()


@pytest.mark.parametrize("d", [2, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_pot(d, dtype):
    # Of F = d/2 SW^2 the velocity is -n times the gradient, in the same directions.
    n, n_projections = 200, 100
    x, y = cloud(n, d, dtype=dtype), cloud(n, d, seed=1, dtype=dtype) * 0.5 + 1
    velocity = sliced_velocity(y, n_projections, generator=generator())(x)
    directions = random_directions(n_projections, d, generator()).to(dtype)
    moving = x.clone().requires_grad_()
    value = ot.sliced_wasserstein_distance(moving, y, projections=directions.T) ** 2
    (gradient,) = torch.autograd.grad(d / 2 * value, moving)
    # In float32 projections that nearly tie may be ranked either way.
    tol = 1e-12 if dtype == torch.float64 else 5e-6
    gap = (velocity.direction + n * gradient).norm() / velocity.direction.norm()
    assert gap < tol
    assert velocity.energy == pytest.approx(d / 2 * value.item(), rel=tol)


@pytest.mark.parametrize(("n", "m"), [(30, 30), (30, 45), (45, 30)])
def test_it_descends_the_energy(n, m):
    # v = -n grad E, by differences: unequal counts too, where the spread must be in E.
    x, y = cloud(n, 3), cloud(m, 3, seed=1) + 1
    field = sliced_velocity(y, 20, generator=generator())
    velocity, step = field(x), 1e-5
    towards = cloud(n, 3, seed=2)
    difference = (field(x + step * towards).energy - field(x - step * towards).energy) / (2 * step)
    slope = -float((velocity.direction * towards).sum()) / n
    assert difference == pytest.approx(slope, rel=1e-6)


def test_equal_clouds_stand_still():
    y = cloud(70, 4)
    shuffle = torch.randperm(70, generator=generator(1))
    still = sliced_velocity(y, generator=generator())(y[shuffle])
    assert still.direction.abs().max() < 1e-14
    assert still.energy < 1e-28
    repeated = sliced_velocity(y.repeat(3, 1), generator=generator())(y)
    # The levels of the two quantile functions are equal up to rounding only.
    assert repeated.direction.abs().max() < 1e-12
    assert repeated.energy < 1e-14


def test_permutation_equivariance():
    x, y = cloud(60, 3), cloud(45, 3, seed=1)
    shuffle = torch.randperm(60, generator=generator(2))
    turn = torch.randperm(45, generator=generator(3))
    one = sliced_velocity(y, 16, generator=generator())(x)
    other = sliced_velocity(y[turn], 16, generator=generator())(x[shuffle])
    torch.testing.assert_close(other.direction, one.direction[shuffle])
    assert other.energy == pytest.approx(one.energy, rel=1e-12)


def test_an_euler_step_contracts_the_distance_on_the_line():
    x, y = cloud(100, 1), cloud(100, 1, seed=1) * 2 + 3
    carrier = ParticleCarrier(
        x, sliced_velocity(y, 1, generator=generator()), step_size=0.1, stepper=euler
    )
    energies = [carrier.advance()["objective"] for _ in range(20)]
    ratios = [after / before for before, after in itertools.pairwise(energies)]
    assert ratios == pytest.approx([0.9**2] * 19, rel=1e-9)


def test_a_flow_ends_at_the_law_of_the_target():
    # Spread as well as place: catches a velocity that only moves the mean.
    n, d = 400, 3
    root = torch.tensor([[1.5, 0.0, 0.0], [0.5, 0.3, 0.0], [0.0, 0.2, 1.0]], dtype=torch.float64)
    y = cloud(n, d, seed=1) @ root.T + 2
    carrier = ParticleCarrier(
        cloud(n, d), sliced_velocity(y, 60, generator=generator()), step_size=0.5
    )
    for _ in range(200):
        energy = carrier.advance()["objective"]
    assert energy < 1e-3
    torch.testing.assert_close(carrier.particles.mean(0), y.mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(carrier.particles.T.cov(), y.T.cov(), atol=0.02, rtol=0)


def test_fresh_directions_average_to_the_same_field():
    x, y = cloud(50), cloud(50, seed=1) + 1
    fresh = sliced_velocity(y, 8, generator=generator(), fresh=True)
    draws = torch.stack([fresh(x).direction for _ in range(200)])
    assert not torch.equal(draws[0], draws[1])
    mean = sliced_velocity(y, 4000, generator=generator(1))(x).direction
    # Five standard errors of the mean of 200 draws, at all 100 coordinates.
    assert ((draws.mean(0) - mean).abs() < 5 * draws.std(0) / math.sqrt(200)).all()


def test_the_count_of_the_points_may_change():
    # Catches pairs kept from another count.
    y = cloud(40, 1)
    field = sliced_velocity(y, 2, generator=generator())
    for n in (40, 25, 40, 60, 25):
        x = cloud(n, 1, seed=n)
        torch.testing.assert_close(field(x).direction, exact_plan(x, y).barycenter(y) - x)


def test_directions_are_uniform_frames():
    directions = random_directions(3001, 3, generator())
    assert directions.shape == (3001, 3)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(3001, dtype=torch.float64))
    frames = directions[:3000].reshape(-1, 3, 3)
    torch.testing.assert_close(
        frames @ frames.mT, torch.eye(3, dtype=torch.float64).expand(1000, 3, 3)
    )
    # Archimedes: in three dimensions the square of a coordinate has mean 1/3 and fourth moment 1/5.
    assert float((directions**4).mean()) == pytest.approx(1 / 5, abs=5 * math.sqrt(16 / 225 / 3000))
    assert (directions[:, 0] ** 2 < 0.25).double().mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.full((3, 2), torch.nan)])
def test_bad_target(wrong):
    with pytest.raises(ValueError, match=r"cloud of shape|NaN"):
        sliced_velocity(wrong, generator=generator())


def test_bad_calls():
    with pytest.raises(ValueError, match="n_projections"):
        sliced_velocity(cloud(4), 0, generator=generator())
    field = sliced_velocity(cloud(4), generator=generator())
    for x in (cloud(4, 3), cloud(4, dtype=torch.float32)):
        with pytest.raises(ValueError, match="2 features in"):
            field(x)
