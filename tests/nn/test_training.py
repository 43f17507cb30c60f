from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from skwgf._tensor import make_generator
from skwgf.nn import (
    Regressor,
    constant_schedule,
    cosine_schedule,
    mlp,
    norm_loss,
    squared_loss,
)
from skwgf.nn.training import make_adam


def draw_problem(n=64):
    """Inputs in the plane and the images to learn."""
    z = torch.randn(n, 2, generator=make_generator(1))
    return z, torch.stack([z[:, 0] + z[:, 1].square(), -z[:, 1]], dim=1)


def make_regressor(seed=0, **parameters):
    return Regressor(mlp(2, 2, (16, 16), generator=make_generator(seed)), **parameters)


def train(regressor, n_steps, start=0):
    z, target = draw_problem()
    return [float(regressor.step(z, target, k / 100)) for k in range(start, start + n_steps)]


def weights_of(module):
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# ---- losses


def test_squared_loss_is_minimal_at_the_mean_and_norm_loss_at_the_median():
    # The median is what keeps a few stray targets from pulling the image off a mode. Catches a
    # squared loss under the name of the other one.
    targets = torch.tensor([[0.0, 0.0]] * 7 + [[10.0, 0.0]] * 3, dtype=torch.float64)
    for loss, minimiser in ((squared_loss, 3.0), (norm_loss, 0.0)):
        points = torch.linspace(-1, 11, 1201, dtype=torch.float64)
        values = [float(loss(torch.tensor([p, 0.0]) - targets)) for p in points]
        best = float(points[values.index(min(values))])
        # Near 0 the smoothed norm has its minimum within delta = .01 of the median.
        assert abs(best - minimiser) <= 0.015


@pytest.mark.parametrize("loss", [squared_loss, norm_loss])
def test_losses_average_over_rows_and_add_over_columns(loss):
    residual = torch.randn(8, 3, generator=make_generator(0), dtype=torch.float64)
    assert torch.isclose(loss(residual.repeat(5, 1)), loss(residual), rtol=1e-14)
    padded = torch.cat([residual, torch.zeros(8, 4)], dim=1)
    assert torch.isclose(loss(padded), loss(residual), rtol=1e-14)


def test_norm_loss_has_a_finite_gradient_at_zero():
    residual = torch.zeros(3, 2, requires_grad=True)
    loss = norm_loss(residual)
    loss.backward()
    assert loss.item() == pytest.approx(1e-2)
    assert torch.equal(residual.grad, torch.zeros(3, 2))


# ---- schedules


def test_cosine_schedule_rises_peaks_and_falls_to_its_floor():
    schedule = partial(cosine_schedule, warm_up=0.1, floor=0.25)
    assert schedule(0.0) == 0.0
    assert schedule(0.05) == pytest.approx(0.5)
    assert schedule(0.1) == 1.0
    assert schedule(0.55) == pytest.approx(0.625)  # half way down
    assert schedule(1.0) == pytest.approx(0.25)
    # Past the end it stays there: a cosine that is followed further would rise again.
    assert schedule(1.7) == pytest.approx(0.25)
    falling = [schedule(p / 100) for p in range(10, 101)]
    assert falling == sorted(falling, reverse=True)
    assert cosine_schedule(0.0, warm_up=0.0) == 1.0
    assert constant_schedule(0.3) == 1.0


# ---- the step


def test_first_step_is_adams_sign_step_of_the_scheduled_length():
    # Adam's first step is lr * sign(gradient), whatever the scale of the gradient: the step then
    # shows the learning rate in force. Catches a schedule that is applied one step late.
    z, target = draw_problem()
    for progress, factor in ((0.01, 0.5), (0.02, 1.0), (0.51, 0.5)):
        regressor = make_regressor(learning_rate=1e-3, loss=squared_loss)
        before = weights_of(regressor.module)
        loss = squared_loss(regressor.module(z) - target)
        gradients = torch.autograd.grad(loss, list(regressor.module.parameters()))
        returned = regressor.step(z, target, progress)
        assert returned == loss.detach()
        assert not returned.requires_grad
        for (name, weight), gradient in zip(before.items(), gradients, strict=True):
            moved = regressor.module.get_parameter(name).detach() - weight
            clear = gradient.abs() > 1e-4  # Adam's epsilon is 1e-8: relative error below 1e-4
            expected = -1e-3 * factor * gradient.sign()
            # and float32 weights of order one round to 1e-7, here 1e-4 of the step
            torch.testing.assert_close(moved[clear], expected[clear], rtol=1e-3, atol=1e-7)


def test_fused_adam_follows_the_plain_one():
    z, target = draw_problem()
    fused = mlp(2, 2, (16, 16), generator=make_generator(0), dtype=torch.float64)
    plain = mlp(2, 2, (16, 16), generator=make_generator(0), dtype=torch.float64)
    optimizers = (
        make_adam(list(fused.parameters()), learning_rate=1e-2, betas=(0.9, 0.99)),
        torch.optim.Adam(plain.parameters(), lr=1e-2, betas=(0.9, 0.99), foreach=False),
    )
    for _ in range(20):
        for module, optimizer in zip((fused, plain), optimizers, strict=True):
            optimizer.zero_grad()
            squared_loss(module(z.double()) - target).backward()
            optimizer.step()
    for a, b in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", [squared_loss, norm_loss])
def test_network_learns_a_smooth_map(loss):
    losses = train(make_regressor(loss=loss), 100)
    assert losses[-1] < 0.1 * losses[0]


def test_follow_is_step_without_the_forward_pass():
    z, target = draw_problem()
    first, second = make_regressor(), make_regressor()
    for k in range(5):
        a = first.step(z, target, k / 5)
        b = second.follow(second.module(z), target, k / 5)
        assert torch.equal(a, b)
    assert_same(first.state_dict(), second.state_dict())


def test_target_is_held_constant():
    # The target G(z) + v has a graph of its own; a gradient through it would cancel the step.
    z, _ = draw_problem()
    regressor = make_regressor(loss=squared_loss)
    before = weights_of(regressor.module)
    regressor.step(z, regressor.module(z) + 1.0, 0.5)
    assert not torch.equal(before["0.weight"], regressor.module.get_parameter("0.weight").detach())


def test_gradient_is_clipped_to_its_longest_length():
    # Adam's first step does not depend on the length of the gradient, but its first moment does:
    # it is then (1 - beta_1) = .1 times the gradient. Catches clipping after the step.
    z, target = draw_problem()
    for max_grad_norm in (0.1, 1e6, None):
        regressor = make_regressor(max_grad_norm=max_grad_norm, loss=squared_loss)
        loss = squared_loss(regressor.module(z) - target)
        free = torch.autograd.grad(loss, list(regressor.module.parameters()))
        length = math.sqrt(sum(float(gradient.square().sum()) for gradient in free))
        regressor.step(z, target, 0.5)
        state = regressor.state_dict()
        moments = [value for name, value in state.items() if name.startswith("exp_avg.")]
        taken = math.sqrt(sum(float(moment.square().sum()) for moment in moments)) / 0.1
        expected = length if max_grad_norm is None else min(length, max_grad_norm)
        assert taken == pytest.approx(expected, rel=1e-4)


def test_same_inputs_give_the_same_bits_and_no_global_draws():
    before = torch.get_rng_state()
    first, second = make_regressor(max_grad_norm=1.0), make_regressor(max_grad_norm=1.0)
    assert train(first, 30) == train(second, 30)
    assert_same(first.state_dict(), second.state_dict())
    assert torch.equal(torch.get_rng_state(), before)


# ---- averaged weights


def test_average_is_the_debiased_exponential_mean_of_the_weights():
    decay, n = 0.9, 12
    regressor = make_regressor(ema_decay=decay)
    history = []
    for k in range(n):
        train(regressor, 1, start=k)
        history.append(weights_of(regressor.module))
    mass = [decay ** (n - 1 - k) for k in range(n)]
    # Catches an average that still holds the starting weights, and one that lags a step behind.
    for name, average in regressor.ema_state().items():
        expected = sum(m * w[name].double() for m, w in zip(mass, history, strict=True)) / sum(mass)
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)


def test_average_before_training_and_without_decay_is_the_weights():
    regressor = make_regressor(ema_decay=0.0)
    assert_same(regressor.ema_state(), weights_of(regressor.module))
    train(regressor, 3)
    assert_same(regressor.ema_state(), weights_of(regressor.module))


def test_averaged_weights_are_lent_and_given_back():
    regressor = make_regressor()
    train(regressor, 5)
    current, average = weights_of(regressor.module), regressor.ema_state()
    with regressor.averaged() as module:
        assert_same(weights_of(module), average)
    assert_same(weights_of(regressor.module), current)
    with pytest.raises(KeyboardInterrupt), regressor.averaged():
        raise KeyboardInterrupt
    assert_same(weights_of(regressor.module), current)


def test_averaged_state_loads_into_a_module_with_buffers():
    module = nn.Sequential(mlp(2, 2, (4,), generator=make_generator(0)), nn.BatchNorm1d(2))
    regressor = Regressor(module)
    train(regressor, 2)
    module.load_state_dict(regressor.ema_state(), strict=False)
    assert_same(weights_of(module), regressor.ema_state())


# ---- snapshots


def test_training_resumes_bit_for_bit_from_a_snapshot():
    whole, parts = make_regressor(), make_regressor()
    losses = train(whole, 20)
    train(parts, 8)
    resumed = make_regressor(seed=9)  # other weights: all must come from the snapshot
    resumed.load_state_dict(parts.state_dict())
    assert train(resumed, 12, start=8) == losses[8:]
    assert_same(resumed.state_dict(), whole.state_dict())


def test_snapshot_survives_the_steps_after_it():
    # torch's optimisers keep the tensors that are loaded and then change them in place: a
    # snapshot that is not copied on its way in would be good for one return only.
    regressor = make_regressor()
    train(regressor, 5)
    snapshot = regressor.state_dict()
    kept = {name: value.clone() for name, value in snapshot.items()}
    first = train(regressor, 5, start=5)
    assert_same(snapshot, kept)
    for _ in range(2):
        regressor.load_state_dict(snapshot)
        assert train(regressor, 5, start=5) == first
        assert_same(snapshot, kept)


def test_snapshot_taken_before_training_forgets_the_moments():
    regressor = make_regressor()
    fresh = regressor.state_dict()
    first = train(regressor, 5)
    regressor.load_state_dict(fresh)
    assert regressor.n_steps == 0
    assert train(regressor, 5) == first


def test_nan_is_returned_and_can_be_undone():
    z, target = draw_problem()
    regressor, untouched = make_regressor(max_grad_norm=1.0), make_regressor(max_grad_norm=1.0)
    train(regressor, 5)
    snapshot = regressor.state_dict()
    assert regressor.is_finite()
    loss = regressor.step(z, target * math.nan, 0.05)
    assert torch.isnan(loss)
    assert not regressor.is_finite()
    regressor.load_state_dict(snapshot)
    assert regressor.is_finite()
    train(untouched, 5)
    assert train(regressor, 5, start=5) == train(untouched, 5, start=5)


def test_snapshot_of_another_network_is_refused():
    snapshot = make_regressor().state_dict()
    larger = Regressor(mlp(2, 2, (16, 16, 16), generator=make_generator(0)))
    with pytest.raises(KeyError, match=r"weight\.6"):
        larger.load_state_dict(snapshot)


def test_targets_of_another_shape_are_refused():
    # (n, 1) minus (n,) would broadcast to (n, n) and train towards the mean without a word.
    z, target = draw_problem()
    with pytest.raises(ValueError, match=r"\(64, 2\).*\(64,\)"):
        make_regressor().step(z, target[:, 0], 0.0)


def test_decay_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"ema_decay.*1\.0"):
        make_regressor(ema_decay=1.0)
