"""Exact facts about the Wasserstein-2 flow of particles."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scenarios import Permutation, generator, normal, rotation

from skwgf.flows import (
    ParticleCarrier,
    euler,
    run_flow,
    small_step,
    tracked_velocity,
    transport_velocity,
)
from skwgf.metrics import wasserstein_distance
from skwgf.transport import MinibatchTransport, SemidiscreteTransport, exact_plan

N = 64


def flow(x, y, *, step_size, seed=0, **options):
    """Return a carrier of `x` whose batches are all rows of `y`: the plan is exact."""
    field = transport_velocity(MinibatchTransport(y, generator=generator(seed), **options))
    return ParticleCarrier(x, field, step_size=step_size)


def distance(x, y):
    return wasserstein_distance(x, y)


@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize("step_size", [0.1, 0.5])
def test_euler_step_contracts_exactly(d, step_size):
    # W2 falls by the factor 1 - step at every step, not only on average. Bugs caught: a velocity
    # that is not T(x) - x (a factor, a sign, a plan that is not optimal).
    x, y = normal(N, d, 0), 2.0 * normal(N, d, 1) + 1.0
    carrier = flow(x, y, step_size=step_size)
    before = distance(x, y)
    for _ in range(12):
        carrier.advance()
        after = distance(carrier.particles, y)
        assert after == pytest.approx((1 - step_size) * before, rel=1e-6)
        before = after


@pytest.mark.parametrize("d", [2, 8])
def test_optimal_permutation_never_changes(d):
    problem = Permutation.convex(N, d, seed=3)
    carrier = flow(problem.x, problem.y, step_size=0.3)
    for _ in range(10):
        carrier.advance()
        plan = exact_plan(carrier.particles, problem.y)
        assert torch.equal(plan.permutation, problem.image)


@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize("step_size", [0.2, 0.7])
def test_path_is_the_geodesic(d, step_size):
    # After k steps every particle is at (1-eps)^k x + (1 - (1-eps)^k) T_0(x).
    problem = Permutation.convex(N, d, seed=5)
    images = problem.y[problem.image]
    carrier = flow(problem.x, problem.y, step_size=step_size)
    for k in range(1, 9):
        carrier.advance()
        weight = (1 - step_size) ** k
        expected = weight * problem.x + (1 - weight) * images
        torch.testing.assert_close(carrier.particles, expected, rtol=0, atol=1e-12)


def test_unit_step_arrives():
    problem = Permutation.translation(N, 2, seed=7)
    carrier = flow(problem.x, problem.y, step_size=1.0)
    result = run_flow(carrier, max_iter=5, stop=small_step(1e-12))
    assert (result.status, result.n_iter) == ("converged", 2)
    torch.testing.assert_close(carrier.particles, problem.y[problem.image], rtol=0, atol=1e-12)
    assert result.history["step"][0] == pytest.approx(3 * math.sqrt(2), rel=1e-12)


def test_euler_is_of_order_one():
    # The exact flow to time 1 is exp(-1) x + (1 - exp(-1)) T_0(x); the error of Euler's method is
    # exp(-1) tau/2 |x - T_0(x)| to first order: halving the step halves it, up to O(tau).
    problem = Permutation.convex(N, 2, seed=9)
    images = problem.y[problem.image]
    exact = math.exp(-1) * problem.x + (1 - math.exp(-1)) * images
    errors = []
    for n_steps in (4, 8, 16, 32):
        carrier = flow(problem.x, problem.y, step_size=1 / n_steps)
        run_flow(carrier, max_iter=n_steps)
        errors.append(float((carrier.particles - exact).norm()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    # From (1 - tau)^(1/tau) = exp(-1) (1 - tau/2 - 5 tau^2/24 - ...): between the steps tau and
    # tau/2 the order is 1 + 5 tau / (24 log 2) to the next order in tau.
    expected = [1 + 5 * tau / (24 * math.log(2)) for tau in (1 / 4, 1 / 8, 1 / 16)]
    assert orders == pytest.approx(expected, abs=0.02)
    leading = math.exp(-1) / 64 * float((problem.x - images).norm())
    assert errors[-1] == pytest.approx(leading, rel=0.05)


def test_euler_measures_the_field_before_the_step():
    problem = Permutation.convex(N, 3, seed=11)
    transport = MinibatchTransport(problem.y, generator=generator(0))
    moved, energy = euler(transport_velocity(transport), problem.x, 0.25)
    assert energy == pytest.approx(problem.squared_distance() / 2, rel=1e-12)
    expected = 0.75 * problem.x + 0.25 * problem.y[problem.image]
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("d", [2, 8])
def test_recorded_energy_is_half_the_squared_distance(d):
    x, y = normal(N, d, 13), 0.5 * normal(N, d, 14) - 1.0
    carrier = flow(x, y, step_size=0.25)
    squared = []
    for _ in range(6):
        squared.append(distance(carrier.particles, y) ** 2)
        record = carrier.advance()
        assert record["objective"] == pytest.approx(squared[-1] / 2, rel=1e-9)
        # rms displacement: step size times the distance.
        assert record["step"] == pytest.approx(0.25 * math.sqrt(squared[-1]), rel=1e-9)


def test_energy_decays_as_the_exponential():
    # exp(-2t) for the squared distance; (1 - tau)^(2/tau) is exp(-2) up to 1% at tau = .01.
    problem = Permutation.convex(32, 2, seed=15)
    result = run_flow(flow(problem.x, problem.y, step_size=0.01), max_iter=101)
    energy = result.history["objective"]
    assert energy[100] / energy[0] == pytest.approx(0.99**200, rel=1e-9)
    assert energy[100] / energy[0] == pytest.approx(math.exp(-2), rel=0.011)


def test_fewer_particles_than_rows():
    # 32 particles and 64 rows: the batch is as many rows as particles, and every particle moves
    # to a row of its own.
    x, y = normal(32, 2, 17), normal(64, 2, 18) + 4.0
    carrier = flow(x, y, step_size=1.0)
    carrier.advance()
    gaps = (carrier.particles[:, None] - y).abs().sum(2)
    assert (gaps.min(1).values < 1e-12).all()
    assert len(torch.unique(gaps.argmin(1))) == 32


def test_more_particles_than_rows():
    # 96 particles and 32 rows: no mass is split, so each row receives exactly three particles and
    # one unit step arrives at the target law.
    x, y = normal(96, 2, 19), normal(32, 2, 20) - 4.0
    carrier = flow(x, y, step_size=1.0)
    carrier.advance()
    gaps = (carrier.particles[:, None] - y).abs().sum(2)
    assert (gaps.min(1).values < 1e-12).all()
    assert torch.equal(torch.bincount(gaps.argmin(1), minlength=32), torch.full((32,), 3))
    assert distance(carrier.particles, y) < 1e-6


@pytest.mark.parametrize("step_size", [0.3, 1.0])
def test_split_mass(step_size):
    # 48 particles and 32 rows: particles split their mass and move to barycentres T(x). The rest
    # r = y - T(x) is orthogonal to everything that depends on x, so that for the moved cloud
    # W2^2 <= (1-eps)^2 E|x - T|^2 + E|r|^2, with E|r|^2 = W2^2 - E|x - T|^2. Bug caught: a
    # barycentre with weights that do not sum to one.
    x, y = normal(48, 2, 21), normal(32, 2, 22) + 3.0
    squared = distance(x, y) ** 2
    carrier = flow(x, y, step_size=step_size)
    projected = 2 * carrier.advance()["objective"]
    assert 0.9 * squared < projected < squared
    bound = (1 - step_size) ** 2 * projected + (squared - projected)
    assert distance(carrier.particles, y) ** 2 <= bound * (1 + 1e-9)
    expected = (1 - step_size) * x.mean(0) + step_size * y.mean(0)
    torch.testing.assert_close(carrier.particles.mean(0), expected)


@pytest.mark.parametrize("d", [2, 8])
def test_flow_is_equivariant_under_rigid_motions(d):
    # Moving and turning both clouds moves and turns the path.
    x, y = normal(N, d, 23), 1.5 * normal(N, d, 24)
    turn, shift = rotation(d, 25), 10.0 * normal(1, d, 26)
    plain = flow(x, y, step_size=0.3)
    moved = flow(x @ turn + shift, y @ turn + shift, step_size=0.3)
    for _ in range(5):
        one, other = plain.advance(), moved.advance()
        assert other["objective"] == pytest.approx(one["objective"], rel=1e-9)
    expected = plain.particles @ turn + shift
    torch.testing.assert_close(moved.particles, expected, rtol=0, atol=1e-10)


def test_moving_the_target_alone_moves_the_velocity():
    # A shift of the target adds itself to the velocity and leaves the plan.
    x, y = normal(N, 2, 27), normal(N, 2, 28)
    shift = torch.tensor([5.0, -3.0], dtype=x.dtype)
    one = transport_velocity(MinibatchTransport(y, generator=generator(0)))(x)
    other = transport_velocity(MinibatchTransport(y + shift, generator=generator(0)))(x)
    torch.testing.assert_close(other.direction, one.direction + shift, rtol=0, atol=1e-12)


def test_order_of_the_rows_does_not_matter():
    # Bug caught: an image that is read at the wrong row after the random order of the batch.
    x, y = normal(N, 2, 29), normal(N, 2, 30)
    results = []
    for seed in (0, 1):
        carrier = flow(x, y, step_size=0.4, seed=seed)
        run_flow(carrier, max_iter=3)
        results.append(carrier.particles)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)


def test_carrier_copies_its_start_and_its_states():
    x, y = normal(8, 2, 31), normal(8, 2, 32)
    start = x.clone()
    carrier = flow(x, y, step_size=0.5)
    carrier.advance()
    assert torch.equal(x, start)
    state = carrier.state_dict()
    kept = state["particles"].clone()
    carrier.advance()
    assert torch.equal(state["particles"], kept)
    carrier.load_state_dict(state)
    assert torch.equal(carrier.particles, kept)
    carrier.particles += 1.0
    assert torch.equal(state["particles"], kept)
    later = carrier.state_dict()
    carrier.particles += 1.0
    assert torch.equal(later["particles"] + 1.0, carrier.particles)


def test_side_travels_with_the_particles():
    # Two classes whose labels, not places, decide where they go: a large class term swaps them.
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    side = 10.0 * torch.eye(2, dtype=torch.float64)
    y = x + 5.0
    transport = MinibatchTransport(y, side=side.flip(0), generator=generator(0))
    carrier = ParticleCarrier(x, transport_velocity(transport), step_size=0.5, side=side)
    for _ in range(60):
        carrier.advance()
    torch.testing.assert_close(carrier.particles, y.flip(0))


def test_is_finite_sees_one_bad_coordinate():
    carrier = flow(normal(8, 2, 33), normal(8, 2, 34), step_size=0.5)
    assert carrier.is_finite()
    carrier.particles[3, 1] = math.inf
    assert not carrier.is_finite()


def test_scaled_potential_follows_the_flow():
    # Along the flow the potential of the target rows only shrinks: after a step of eps it is
    # (1 - eps) times what it was, and every particle keeps its row.
    problem = Permutation.convex(N, 3, seed=35)
    transport = SemidiscreteTransport(problem.y)
    transport.solve(problem.x)
    rows, x = transport.cells(problem.x), problem.x
    for _ in range(8):
        x = x + 0.25 * transport_velocity(transport)(x).direction
        transport.shrink(0.25)
        assert torch.equal(transport.cells(x), rows)


def test_tracked_flow_does_not_overshoot():
    # Mean and distance fall as (1 - eps)^k; the particles must not run past the target. Allowed
    # is the distance between two samples of 500 points, about .2.
    x, y = normal(500, 2, 36), normal(500, 2, 37)
    y[:, 0] += 5.0
    transport = SemidiscreteTransport(y)
    transport.solve(x)
    carrier = ParticleCarrier(
        x, tracked_velocity(transport), step_size=0.1, on_step=transport.shrink
    )
    for k in range(1, 31):
        carrier.advance()
        gap = float((y.mean(0) - carrier.particles.mean(0))[0])
        assert gap == pytest.approx(5 * 0.9**k, abs=0.3)


def test_parts_are_put_back_with_the_particles():
    # Bug caught: after NaN or an interrupt the particles go back and the potential does not.
    transport = SemidiscreteTransport(normal(50, 2, 41))
    transport.solve(normal(50, 2, 42))
    carrier = ParticleCarrier(
        normal(50, 2, 42),
        tracked_velocity(transport),
        step_size=0.3,
        on_step=transport.shrink,
        parts=(transport,),
    )
    state, potential = carrier.state_dict(), transport.potential.clone()
    carrier.advance()
    assert not torch.equal(transport.potential, potential)
    carrier.load_state_dict(state)
    assert torch.equal(transport.potential, potential)
    assert torch.equal(carrier.particles, normal(50, 2, 42))
