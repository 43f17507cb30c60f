"""Plans between batches: exact and entropic images, draws, and the two-batch velocity."""

from __future__ import annotations

import math

import pytest
import torch
from scenarios import DTYPE, Permutation, generator, normal, ring

from skwgf.flows import debiased_velocity, transport_velocity
from skwgf.transport import (
    MinibatchTransport,
    batch_map,
    exact_plan,
    half_squared_distance,
    sinkhorn,
)


def rms(x):
    return float(x.square().sum(1).mean().sqrt())


@pytest.mark.parametrize("d", [1, 5])
def test_exact_batch_map_is_the_permutation(d):
    problem = Permutation.convex(60, d, seed=1)
    assert torch.equal(batch_map(problem.x, problem.y), problem.y[problem.image])


def test_exact_batch_map_of_unequal_counts_is_the_barycentre():
    x, y = normal(30, 2, 2), normal(20, 2, 3) + 1.0
    plan = exact_plan(x, y)
    dense = torch.zeros(30, 20, dtype=DTYPE)
    dense[plan.rows, plan.cols] = plan.mass
    torch.testing.assert_close(batch_map(x, y), 30 * dense @ y)


def test_entropic_batch_map_is_the_barycentre_of_the_softmin():
    # Written out: log-domain Sinkhorn to convergence.
    x, y, reg = normal(30, 2, 4), normal(20, 2, 5) + 1.0, 0.5
    cost = half_squared_distance(x, y)
    g = torch.zeros(20, dtype=DTYPE)
    for _ in range(2000):
        f = -reg * ((g - cost) / reg - math.log(20)).logsumexp(1)
        g = -reg * ((f[:, None] - cost) / reg - math.log(30)).logsumexp(0)
    expected = ((g - cost) / reg).softmax(1) @ y
    # sinkhorn stops at a marginal error of 1e-4.
    torch.testing.assert_close(batch_map(x, y, reg=reg), expected, rtol=0, atol=1e-3)


def test_entropic_batch_map_between_its_limits():
    problem = Permutation.convex(40, 2, seed=6)
    images = problem.y[problem.image]
    exact = batch_map(problem.x, problem.y, reg=1e-3)
    assert rms(exact - images) < 0.01
    mean = batch_map(problem.x, problem.y, reg=1e6)
    torch.testing.assert_close(mean, problem.y.mean(0).expand(40, 2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("reg", [0.0, 0.3])
def test_side_enters_the_cost_but_not_the_image(reg):
    x, y = normal(40, 3, 7), normal(40, 3, 8)
    images = batch_map(x[:, :2], y[:, :2], side_x=x[:, 2:], side_y=y[:, 2:], reg=reg)
    assert images.shape == (40, 2)
    torch.testing.assert_close(images, batch_map(x, y, reg=reg)[:, :2])
    assert not torch.allclose(images, batch_map(x[:, :2], y[:, :2], reg=reg))


def test_rows_and_sides_are_drawn_together():
    # Bug caught: side[rows] of other rows. The side repeats the first coordinate, so that the
    # exact map is that of the cost |x - y|^2/2 + |x_1 - y_1|^2/2, which scaling makes plain.
    y = normal(50, 2, 9)
    x = normal(50, 2, 10)
    transport = MinibatchTransport(y, side=y[:, :1], generator=generator(0))
    stretch = torch.tensor([math.sqrt(2.0), 1.0], dtype=DTYPE)
    expected = batch_map(x * stretch, y * stretch) / stretch
    torch.testing.assert_close(transport(x, x[:, :1]), expected)


def test_batch_is_fresh_and_without_repetition():
    # Far rows on a grid: each image is one row, and all images of a batch differ.
    y = 10.0 * torch.arange(100, dtype=DTYPE)[:, None]
    transport = MinibatchTransport(y, generator=generator(1))
    x = normal(30, 1, 11)
    first, second = transport(x), transport(x)
    for images in (first, second):
        assert len(torch.unique(images)) == 30
        assert (x.argsort(0) == images.argsort(0)).all()
    assert not torch.equal(first, second)
    # Every row has its turn: 50 batches of 30 out of 100 miss one with probability 100 * .7^50.
    seen = torch.cat([transport(x) for _ in range(50)]).unique()
    assert len(seen) == 100


@pytest.mark.parametrize("m", [1, 10, 29])
def test_fewer_rows_than_points(m):
    # All rows are used, and mass is split where the numbers ask for it.
    x, y = normal(30, 2, 12), normal(m, 2, 13) + 2.0
    images = MinibatchTransport(y, generator=generator(2))(x)
    torch.testing.assert_close(images, batch_map(x, y))
    torch.testing.assert_close(images.mean(0), y.mean(0))


def test_generator_state_round_trip():
    transport = MinibatchTransport(normal(100, 2, 14), generator=generator(3))
    x = normal(20, 2, 15)
    transport(x)
    state = transport.state_dict()
    first = [transport(x) for _ in range(3)]
    transport.load_state_dict(state)
    second = [transport(x) for _ in range(3)]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


def test_draws_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    MinibatchTransport(normal(100, 2, 16), generator=generator(4))(normal(20, 2, 17))
    assert torch.equal(torch.get_rng_state(), before)


def mean_velocity(field, x, n_batches):
    """Return the rms over points of the mean velocity, and of its standard error."""
    velocity = torch.stack([field(x).direction for _ in range(n_batches)])
    error = (velocity.var(0) / n_batches).sum(1).mean().sqrt()
    return rms(velocity.mean(0)), float(error)


def equilibrium(reg):
    """Return a batch of a ring of eight modes, and both velocities at the target law itself."""
    y, source = ring(2048, 18), generator(5)

    def draw(n):
        return y[torch.randperm(len(y), generator=source)[:n]], None

    transport = MinibatchTransport(y, reg=reg, generator=source)
    two = debiased_velocity(transport, draw, lambda n: n, reg)
    return y[:256], transport_velocity(transport), two


@pytest.mark.parametrize("reg", [0.0, 0.1])
def test_two_batch_velocity_has_mean_zero_at_equilibrium(reg):
    # Both terms have the same law given x, so that the mean vanishes at every point, for any
    # batch size and solver: its rms over the points is the standard error of the average. The
    # one-sided velocity pulls towards the batch (counts of the modes): rms about .3 at m = 256.
    # Bug caught: a self term on the same batch, of another size, or with another reg.
    x, one_sided, two_batch = equilibrium(reg)
    bias, error = mean_velocity(two_batch, x, 24)
    assert 0.5 * error < bias < 1.5 * error
    assert error < 0.13
    bias, error = mean_velocity(one_sided, x, 24)
    assert bias > 3 * error
    assert bias > 0.2


@pytest.mark.slow
def test_two_batch_velocity_has_mean_zero_in_the_long_run():
    # 400 batches: a bias of a tenth of the one-sided one would show.
    x, one_sided, two_batch = equilibrium(0.0)
    bias, error = mean_velocity(two_batch, x, 400)
    assert 0.5 * error < bias < 1.5 * error
    assert bias < 0.04
    bias, _ = mean_velocity(one_sided, x, 50)
    assert bias > 0.3


def test_two_batch_velocity_points_to_the_target_away_from_it():
    # Far away both differences agree up to the law's own size.
    y = ring(512, 19) + torch.tensor([20.0, 0.0], dtype=DTYPE)
    source = generator(6)
    x = ring(256, 20)

    def draw(n):
        return ring(n, int(torch.randint(2**31, (1,), generator=source))), None

    transport = MinibatchTransport(y, generator=source)
    velocity = debiased_velocity(transport, draw, lambda n: n, 0.0)(x)
    # The mean of 256 points of the ring is known to 2/sqrt(2 * 256) in each coordinate.
    mean = velocity.direction.mean(0)
    torch.testing.assert_close(mean, torch.tensor([20.0, 0.0], dtype=DTYPE), rtol=0, atol=0.5)
    # The energy is the one-sided one: half the squared distance, at least that of the means.
    assert velocity.energy == pytest.approx(200.0, rel=0.03)


def test_batch_of_the_second_term_has_the_size_asked_for():
    # With fewer rows than points, the rows' number.
    seen = []

    def draw(n):
        seen.append(n)
        return normal(n, 2, 21), None

    transport = MinibatchTransport(normal(7, 2, 22), generator=generator(7))
    debiased_velocity(transport, draw, lambda n: min(n, 7), 0.0)(normal(20, 2, 23))
    assert seen == [7]


def test_sides_reach_both_terms():
    # Two classes that lie on top of each other and must not mix: with a large class term the
    # images are of the own class in both terms.
    labels = torch.arange(40) % 2
    side = 100.0 * torch.nn.functional.one_hot(labels, 2).to(DTYPE)
    y = torch.stack([labels.to(DTYPE), normal(40, 1, 24)[:, 0]], 1)
    other = normal(40, 2, 25)
    other[:, 0] = labels.to(DTYPE)
    transport = MinibatchTransport(y, side=side, generator=generator(8))
    field = debiased_velocity(transport, lambda n: (other, side), lambda n: n, 0.0)
    x = normal(40, 2, 26)
    direction = field(x, side).direction
    torch.testing.assert_close(direction[:, 0], torch.zeros(40, dtype=DTYPE))
    toward = transport(x, side) - batch_map(x, other, side_x=side, side_y=side)
    torch.testing.assert_close(direction, toward)


def test_sinkhorn_and_batch_map_agree():
    x, y = normal(25, 2, 27), normal(35, 2, 28)
    expected = sinkhorn(x, y, 0.2).barycentric_map()
    torch.testing.assert_close(batch_map(x, y, reg=0.2), expected)
