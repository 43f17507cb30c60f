"""How a network follows a flow: optimiser steps, records, states, and a linear answer."""

from __future__ import annotations

import math

import pytest
import torch
from scenarios import DTYPE, GaussianPair, generator, normal

from skwgf.flows import (
    NetworkCarrier,
    Velocity,
    pair_update,
    persistent_update,
    run_flow,
    transport_velocity,
)
from skwgf.nn import Regressor, constant_schedule, cosine_schedule, mlp, norm_loss, squared_loss
from skwgf.transport import MinibatchTransport


def network(seed=0, n_in=2, n_out=2, sizes=(16,)):
    return mlp(n_in, n_out, sizes, activation="tanh", generator=generator(seed), dtype=DTYPE)


def make_regressor(module=None, **options):
    options = {"schedule": constant_schedule, "learning_rate": 0.01} | options
    return Regressor(network() if module is None else module, **options)


def make_draw(seed=0, d=2):
    source = generator(seed)
    return lambda n: (torch.randn(n, d, generator=source, dtype=DTYPE), None)


def constant_field(shift):
    """Return the velocity that moves everything by the same vector."""

    def field(x, side=None):
        return Velocity(shift.expand_as(x).clone(), energy=7.0)

    return field


def towards(centre, matrix):
    """Return the linear velocity v(x) = M (centre - x), M symmetric."""

    def field(x, side=None):
        direction = (centre - x) @ matrix
        return Velocity(direction, 0.5 * float(direction.detach().square().sum(1).mean()))

    return field


def weights_of(module):
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def assert_same_weights(module, expected, **tolerances):
    tolerances = tolerances or {"rtol": 0, "atol": 0}
    for name, weight in module.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], **tolerances)


class Recorder:
    """A regressor that keeps what it is handed and stays behind the target by chosen lengths."""

    def __init__(self, lags):
        self.lags = iter(lags)
        self.seen = []
        self.reached = None

    def module(self, z):
        return z if self.reached is None else self.reached

    def follow(self, prediction, target, progress):
        self.seen.append((prediction, target, progress))
        behind = torch.zeros_like(target)
        behind[:, 0] = next(self.lags)
        self.reached = target - behind


@pytest.mark.parametrize("loss", [norm_loss, squared_loss])
def test_persistence_one_is_a_plain_adam_step(loss):
    field = towards(torch.tensor([3.0, -1.0], dtype=DTYPE), torch.eye(2, dtype=DTYPE))
    regressor = make_regressor(loss=loss)
    update = persistent_update(make_draw(), field, step_size=0.4, persistence=1, batch_size=32)
    plain, draw = network(), make_draw()
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, betas=(0.9, 0.99))
    for _ in range(5):
        update(regressor, 0.5)
        z, _ = draw(32)
        x = plain(z)
        target = (x + 0.4 * field(x).direction).detach()  # no gradient through the velocity
        optimizer.zero_grad()
        loss(x - target).backward()
        optimizer.step()
    assert_same_weights(regressor.module, weights_of(plain), rtol=1e-10, atol=1e-12)
    assert regressor.n_steps == 5


@pytest.mark.parametrize("persistence", [2, 7])
def test_integer_persistence_repeats_the_same_pairs(persistence):
    # Against a loop that evaluates the velocity again at every inner step, which would be
    # persistence 1 with more iterations, and against fresh draws.
    calls = {"draw": 0, "field": 0}
    draw, field = make_draw(), towards(torch.ones(2, dtype=DTYPE), torch.eye(2, dtype=DTYPE))

    def counted_draw(n):
        calls["draw"] += 1
        return draw(n)

    def counted_field(x, side=None):
        calls["field"] += 1
        return field(x)

    regressor = make_regressor()
    update = persistent_update(
        counted_draw, counted_field, step_size=0.5, persistence=persistence, batch_size=16
    )
    record = update(regressor, 0.1)
    assert calls == {"draw": 1, "field": 1}
    assert regressor.n_steps == persistence
    assert record["n_inner"] == persistence

    other = make_regressor()
    z, _ = make_draw()(16)
    x = other.module(z).detach()
    target = x + 0.5 * field(x).direction
    for _ in range(persistence):
        other.step(z, target, 0.1)
    assert_same_weights(regressor.module, weights_of(other.module), rtol=1e-12, atol=1e-14)
    # The lag is what is left after the last step.
    step = float((target - x).square().sum(1).mean().sqrt())
    left = float((target - other.module(z)).detach().square().sum(1).mean().sqrt())
    assert record["lag"] == pytest.approx(left / step, rel=1e-10)


def test_pairs_and_progress_are_handed_on():
    recorder = Recorder([0.5, 0.4, 0.3])
    shift = torch.tensor([2.0, 0.0], dtype=DTYPE)
    z = normal(8, 2, 0)
    update = persistent_update(
        lambda n: (z[:n], None), constant_field(shift), step_size=0.25, persistence=3, batch_size=8
    )
    record = update(recorder, 0.75)
    assert len(recorder.seen) == 3
    assert torch.equal(recorder.seen[0][0], z)
    for _, target, progress in recorder.seen:
        torch.testing.assert_close(target, z + 0.25 * shift)
        assert progress == 0.75
    assert record == pytest.approx(
        {"objective": 7.0, "step": 0.5, "lag": 0.3 / 0.5, "n_inner": 3.0}, rel=1e-6
    )


@pytest.mark.parametrize(
    ("lags", "n_inner"),
    [
        ([0.2], 1),  # there already
        ([1.0, 0.6, 0.26, 0.24, 0.1], 4),
        ([1.0, 0.25, 0.1], 2),  # a quarter is enough
        ([1.0] * 49 + [0.1] + [0.0] * 9, 50),
        ([1.0] * 60, 50),  # the cap
    ],
)
def test_auto_stops_at_a_quarter_of_the_step_or_at_fifty(lags, n_inner):
    # The step has the length one: lengths are shares of it.
    recorder = Recorder(lags)
    shift = torch.tensor([0.6, 0.8], dtype=DTYPE)
    update = persistent_update(
        make_draw(), constant_field(4 * shift), step_size=0.25, persistence="auto", batch_size=8
    )
    record = update(recorder, 0.5)
    assert (record["n_inner"], len(recorder.seen)) == (n_inner, n_inner)
    assert record["lag"] == pytest.approx(lags[n_inner - 1], rel=1e-6)
    assert record["step"] == pytest.approx(1.0, rel=1e-12)


def test_auto_on_a_network():
    regressor = make_regressor()
    field = constant_field(torch.tensor([3.0, 0.0], dtype=DTYPE))
    update = persistent_update(make_draw(), field, step_size=0.1, persistence="auto", batch_size=64)
    records = [update(regressor, 0.5) for _ in range(5)]
    for record in records:
        assert 1 < record["n_inner"] < 50
        assert 0 < record["lag"] <= 0.25
    assert regressor.n_steps == sum(record["n_inner"] for record in records)


def test_auto_works_for_small_steps():
    # The last bias alone can follow a constant displacement of .03, in about ten optimiser steps.
    regressor = make_regressor(learning_rate=0.003)
    field = constant_field(torch.tensor([0.03, 0.0], dtype=DTYPE))
    update = persistent_update(make_draw(), field, step_size=1.0, persistence="auto", batch_size=64)
    assert update(regressor, 0.5)["n_inner"] < 50


@pytest.mark.parametrize("loss", [norm_loss, squared_loss])
def test_lag_is_a_share_of_the_step_for_every_loss(loss):
    # A learning rate of almost nothing leaves the whole step. Bug caught: a lag read off the loss,
    # which is a squared length in one case and never falls below its delta in the other.
    regressor = make_regressor(loss=loss, learning_rate=1e-12)
    field = constant_field(torch.tensor([0.5, 0.0], dtype=DTYPE))
    update = persistent_update(make_draw(), field, step_size=1.0, persistence=1, batch_size=64)
    assert update(regressor, 0.5)["lag"] == pytest.approx(1.0, rel=1e-6)


def test_step_hook_gets_the_time_that_was_made():
    # Three quarters of a step of .4 are made. Bug caught: a potential that is shrunk by the whole
    # step although the network lags behind.
    made = []
    update = persistent_update(
        make_draw(),
        constant_field(torch.tensor([2.5, 0.0], dtype=DTYPE)),
        step_size=0.4,
        persistence=1,
        batch_size=8,
        on_step=made.append,
    )
    update(Recorder([0.25]), 0.5)
    assert made == pytest.approx([0.3], rel=1e-6)


def test_no_velocity_no_lag():
    # Bug caught: 0/0 in the record, which the loop would take for a spoilt state.
    field = constant_field(torch.zeros(2, dtype=DTYPE))
    update = persistent_update(make_draw(), field, step_size=1.0, persistence=2, batch_size=8)
    record = update(make_regressor(), 0.5)
    assert (record["step"], record["lag"]) == (0.0, 0.0)


def test_side_reaches_the_field():
    seen = []

    def field(x, side=None):
        seen.append(side)
        return Velocity(torch.zeros_like(x), 0.0)

    side = torch.eye(2, dtype=DTYPE).repeat(4, 1)
    update = persistent_update(
        lambda n: (normal(n, 2, 0), side), field, step_size=1.0, persistence=1, batch_size=8
    )
    update(make_regressor(), 0.5)
    assert len(seen) == 1
    assert seen[0] is side


def test_pair_update_takes_steps_on_fresh_pairs():
    source, sizes = generator(3), []

    def draw(n):
        sizes.append(n)
        z = torch.randn(n, 2, generator=source, dtype=DTYPE)
        return z, 2.0 * z + 1.0

    regressor = make_regressor()
    record = pair_update(draw, batch_size=32, n_inner=4)(regressor, 0.5)
    assert sizes == [32] * 4
    assert regressor.n_steps == 4

    source = generator(3)
    other = make_regressor()
    for _ in range(4):
        z = torch.randn(32, 2, generator=source, dtype=DTYPE)
        before = other.module(z).detach()
        other.step(z, 2.0 * z + 1.0, 0.5)
    assert_same_weights(regressor.module, weights_of(other.module), rtol=1e-12, atol=1e-14)
    # The record is of the last pairs, before the last optimiser step.
    left = float((2.0 * z + 1.0 - before).square().sum(1).mean().sqrt())
    assert record == pytest.approx({"objective": left**2 / 2, "step": left}, rel=1e-10)


def test_carrier_hands_the_progress_to_the_schedule():
    # Midpoints of the iterations: never 0, where a warm-up has the learning rate 0, nor 1.
    seen = []
    carrier = NetworkCarrier(
        make_regressor(), lambda regressor, progress: seen.append(progress) or {}, max_iter=4
    )
    for _ in range(5):
        carrier.advance()
    assert seen == pytest.approx([0.125, 0.375, 0.625, 0.875, 1.0])


def test_state_round_trip_repeats_the_run():
    # Weights, average, moments, learning rate and the draws of the potential all go back: the
    # same iterations give the same weights bit by bit. Bug caught: any of them left out.
    y = normal(200, 2, 4) + 2.0
    transport = MinibatchTransport(y, generator=generator(5))
    draws = generator(6)

    class Draws:
        """The reference's generator as a part of the state."""

        def state_dict(self):
            return {"state": draws.get_state()}

        def load_state_dict(self, state):
            draws.set_state(state["state"])

    update = persistent_update(
        lambda n: (torch.randn(n, 2, generator=draws, dtype=DTYPE), None),
        transport_velocity(transport),
        step_size=0.5,
        persistence=2,
        batch_size=32,
    )
    regressor = make_regressor(schedule=cosine_schedule)
    carrier = NetworkCarrier(regressor, update, max_iter=12, parts=(transport, Draws()))

    def go_on():
        records = [carrier.advance() for _ in range(4)]
        return records, weights_of(regressor.module), regressor.ema_state()

    go_on()
    state = carrier.state_dict()
    first = go_on()
    carrier.load_state_dict(state)
    assert carrier.n_advanced == 4
    second = go_on()
    assert first[0] == second[0]
    for one, other in zip(first[1:], second[1:], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    # ... twice: the first return must not have changed the saved state.
    carrier.load_state_dict(state)
    assert go_on()[0] == first[0]


def test_state_of_other_parts_is_refused():
    transport = MinibatchTransport(normal(4, 2, 0), generator=generator(0))
    update = pair_update(lambda n: (normal(n, 2, 0), normal(n, 2, 1)), batch_size=4, n_inner=1)
    state = NetworkCarrier(make_regressor(), update, max_iter=3).state_dict()
    carrier = NetworkCarrier(make_regressor(), update, max_iter=3, parts=(transport,))
    with pytest.raises(ValueError, match="zip"):
        carrier.load_state_dict(state)


def test_spoilt_weights_are_undone_by_the_loop():
    regressor = make_regressor()
    calls = []

    def update(regressor, progress):
        calls.append(progress)
        if len(calls) == 3:
            with torch.no_grad():
                next(regressor.module.parameters()).fill_(math.nan)
        else:
            z = normal(8, 2, 0)
            regressor.step(z, z, progress)
        return {"objective": 1.0, "step": 1.0}

    carrier = NetworkCarrier(regressor, update, max_iter=9)
    result = run_flow(carrier, max_iter=9)
    assert (result.status, result.n_iter) == ("non_finite", 2)
    assert regressor.is_finite()
    assert regressor.n_steps == 2


def affine(seed=0):
    return make_regressor(
        mlp(2, 2, (), generator=generator(seed), dtype=DTYPE),
        loss=squared_loss,
        learning_rate=0.05,
    )


def matrix_and_shift(regressor):
    """Return A and b of the affine network z -> A z + b."""
    layer = regressor.module[0]
    return layer.weight.detach().clone(), layer.bias.detach().clone()


def test_affine_network_follows_a_linear_flow():
    # v(x) = M (c - x): after k Euler steps b_k = c + (I - eps M)^k (b_0 - c) and
    # A_k = (I - eps M)^k A_0. The regression is solved to 1e-3 in every iteration, and the flow
    # contracts, so that errors do not add up beyond 1e-3 / (eps lambda_min) = 1e-2.
    centre = torch.tensor([3.0, -1.0], dtype=DTYPE)
    matrix = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=DTYPE)
    regressor = affine()
    start, shift = matrix_and_shift(regressor)
    update = persistent_update(
        make_draw(), towards(centre, matrix), step_size=0.3, persistence=400, batch_size=64
    )
    carrier = NetworkCarrier(regressor, update, max_iter=6)
    euler = torch.eye(2, dtype=DTYPE) - 0.3 * matrix
    power = torch.eye(2, dtype=DTYPE)
    for _ in range(6):
        carrier.advance()
        power = euler @ power
        now, moved = matrix_and_shift(regressor)
        torch.testing.assert_close(now, power @ start, rtol=0, atol=1e-2)
        torch.testing.assert_close(moved, centre + power @ (shift - centre), rtol=0, atol=1e-2)
    assert regressor.n_steps == 2400


def test_regression_on_end_points_finds_the_bures_map():
    # Pairs (z, T(z)) of two Gaussians: the affine network has the Bures matrix as its minimiser,
    # at loss zero.
    pair = GaussianPair.random(2, seed=1)
    source = generator(2)

    def draw(n):
        z = torch.randn(n, 2, generator=source, dtype=DTYPE)
        return z, pair.map(z)

    regressor = Regressor(
        mlp(2, 2, (), generator=generator(0), dtype=DTYPE), loss=squared_loss, learning_rate=0.1
    )
    carrier = NetworkCarrier(regressor, pair_update(draw, batch_size=128, n_inner=10), max_iter=60)
    result = run_flow(carrier, max_iter=60)
    now, moved = matrix_and_shift(regressor)
    torch.testing.assert_close(now, pair.matrix(), rtol=0, atol=1e-3)
    expected = pair.mean_y - pair.mean_x @ pair.matrix()
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-3)
    assert result.history["step"][-1] < 1e-3
