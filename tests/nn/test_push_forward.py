from __future__ import annotations

import pytest
import torch
from torch import nn

from skwgf._tensor import make_generator
from skwgf.nn import PushForward, evaluate, mlp


def make_push_forward(*, residual=False, d=3, n_labels=0, zero_last=False, out_scale=None):
    """A map between coordinates of very different sizes, in float64 but for its core."""
    generator = make_generator(0)
    n_in = d + n_labels
    return PushForward(
        mlp(n_in, d, (32, 32), generator=generator, zero_last=zero_last),
        in_shift=torch.linspace(-100, 100, n_in, dtype=torch.float64),
        in_scale=torch.logspace(-2, 3, n_in, dtype=torch.float64),
        out_shift=torch.linspace(1e4, 2e4, d, dtype=torch.float64),
        out_scale=torch.logspace(-1, 2, d, dtype=torch.float64) if out_scale is None else out_scale,
        residual=residual,
    )


def draw_rows(n, n_in=3, dtype=torch.float64):
    return 100 * torch.randn(n, n_in, generator=make_generator(1), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("residual", [False, True])
def test_forward_is_the_stated_formula(residual):
    push_forward = make_push_forward(residual=residual).double()
    z = draw_rows(20)
    core = push_forward.core((z - push_forward.in_shift) / push_forward.in_scale)
    start = z if residual else push_forward.out_shift
    assert torch.equal(push_forward(z), start + push_forward.out_scale * core)
    # The scaled coordinates in which the core is trained are those it is evaluated in.
    assert torch.equal(push_forward.core(push_forward.standardised(z)), core)


def test_coordinates_without_scale_are_exact():
    # Constant columns of the data must come out constant, to the last bit and in float64, even
    # where the network would send them elsewhere.
    scale = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    z = draw_rows(50)
    plain = make_push_forward(out_scale=scale)
    for module in (plain, plain.double()):
        x = module(z)
        assert torch.equal(x[:, [0, 2]], module.out_shift[[0, 2]].expand(50, 2))
        assert x[:, 1].std() > 0
    x = make_push_forward(out_scale=scale, residual=True)(z)
    assert torch.equal(x[:, [0, 2]], z[:, [0, 2]])
    assert not torch.equal(x[:, 1], z[:, 1])


@pytest.mark.parametrize("n_labels", [0, 2])
def test_residual_map_starts_at_the_identity(n_labels):
    z = draw_rows(10, 3 + n_labels)
    push_forward = make_push_forward(residual=True, zero_last=True, n_labels=n_labels)
    assert torch.equal(push_forward(z), z[:, :3])


@pytest.mark.parametrize("residual", [False, True])
def test_result_does_not_depend_on_how_rows_are_grouped(residual):
    push_forward = make_push_forward(residual=residual).double()
    z = draw_rows(5000)
    whole = push_forward(z).detach()
    assert not evaluate(push_forward, z).requires_grad
    # Matrix products of other sizes may sum in another order: rounding relative to the largest
    # term of a sum, not to the sum.
    close = {"rtol": 0, "atol": 1e-12 * float(whole.abs().max())}
    for batch_size in (1, 7, 999, None):
        grouped = evaluate(push_forward, z, batch_size=batch_size)
        torch.testing.assert_close(grouped, whole, **close)
    subset = torch.tensor([3, 500, 17])
    torch.testing.assert_close(evaluate(push_forward, z[subset]), whole[subset], **close)


def test_evaluate_takes_no_rows():
    assert evaluate(make_push_forward(), draw_rows(0)).shape == (0, 3)


def test_core_of_lower_precision_keeps_the_shifts_in_double():
    # While training, the core is float32. Data far from the origin must not be rounded there:
    # float32 would round 2e4 to multiples of .002.
    push_forward = make_push_forward(zero_last=True)
    x = push_forward(draw_rows(5))
    assert x.dtype == torch.float64
    assert torch.equal(x, push_forward.out_shift.expand(5, 3))
    near = push_forward.in_shift + 1e-7 * push_forward.in_scale
    standardised = push_forward.standardised(near.expand(5, 3))
    assert standardised.dtype == torch.float32
    # 100 + 1e-9 rounds to 100 in float32; in float64 the difference keeps four digits.
    torch.testing.assert_close(standardised, torch.full((5, 3), 1e-7), rtol=1e-4, atol=0)


def test_state_dict_and_copies():
    shift = torch.zeros(2)
    push_forward = PushForward(
        nn.Identity(), in_shift=shift, in_scale=shift + 1, out_shift=shift, out_scale=shift + 1
    )
    shift += 5  # the caller's tensor is not the module's
    z = torch.ones(1, 2)
    assert torch.equal(push_forward(z), z)
    source, copy = make_push_forward(), make_push_forward(zero_last=True)
    copy.load_state_dict(source.state_dict())
    assert torch.equal(copy(draw_rows(5)), source(draw_rows(5)))
    assert "residual=False" in repr(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_scale": torch.tensor([1.0, 0.0])}, "in_scale must be positive"),
        ({"in_scale": torch.tensor([1.0, float("nan")])}, "in_scale must be positive"),
        ({"out_scale": torch.tensor([1.0, -1.0])}, "out_scale must be non-negative"),
        ({"in_shift": torch.zeros(3)}, r"in_shift and in_scale.*\(3,\) and \(2,\)"),
        ({"out_shift": torch.zeros(1, 2)}, "out_shift and out_scale must be vectors"),
        (
            {"out_shift": torch.zeros(3), "out_scale": torch.ones(3), "residual": True},
            "3 outputs and only 2 inputs",
        ),
    ],
)
def test_bad_coordinates_are_named(changes, message):
    zero, one = torch.zeros(2), torch.ones(2)
    given = {"in_shift": zero, "in_scale": one, "out_shift": zero, "out_scale": one}
    with pytest.raises(ValueError, match=message):
        PushForward(nn.Identity(), **(given | changes))


def limited(*, low=None, high=None, scale=1.0):
    """Return the map z -> 1 + scale * z within limits, in float64."""
    zero, one = torch.zeros(3).double(), torch.ones(3).double()
    coordinates = {"in_shift": zero, "in_scale": one, "out_shift": one, "out_scale": scale * one}
    low = None if low is None else torch.tensor(low, dtype=torch.float64)
    high = None if high is None else torch.tensor(high, dtype=torch.float64)
    return PushForward(nn.Identity(), **coordinates, low=low, high=high)


INF = torch.inf


def test_images_beyond_a_limit_are_moved_to_it_exactly():
    # Zeros have to be zeros, for tables of counts and for pixels. .1 and .3 are not what rounding
    # of a sum gives.
    z = draw_rows(2000).double()
    plain, low, high = limited()(z), [0.1, -INF, 0.3], [INF, 0.3, 0.3]
    images = limited(low=low, high=high)(z)
    assert torch.equal(images[:, 0], plain[:, 0].clamp_min(0.1))
    assert torch.equal(images[:, 1], plain[:, 1].clamp_max(0.3))
    assert torch.equal(images[:, 2], torch.full((2000,), 0.3, dtype=torch.float64))
    assert 900 < int((images[:, 0] == 0.1).sum()) < 1100


def test_without_limits_images_are_as_they_were():
    z = draw_rows(50).double()
    assert torch.equal(limited(low=3 * [-INF], high=3 * [INF])(z), limited()(z))
    assert torch.equal(limited().low, torch.full((3,), -INF).double())
    assert torch.equal(limited().high, torch.full((3,), INF).double())


def test_gradient_passes_beyond_the_limits():
    # Bug caught: a plain clamp has no gradient there, and a network that starts beyond a limit
    # never comes back.
    z = draw_rows(50).double().requires_grad_()
    limited(low=3 * [0.0], high=3 * [0.5], scale=7.0)(z).sum().backward()
    assert torch.equal(z.grad, torch.full((50, 3), 7.0).double())


def test_limits_hold_for_residual_maps_and_in_blocks():
    module = make_push_forward(residual=True, zero_last=True)
    limits = {"low": torch.full((3,), -50.0), "high": torch.tensor([0.0, INF, INF])}
    coordinates = {name: getattr(module, name) for name in ("in_shift", "in_scale", "out_shift")}
    bounded = PushForward(
        module.core, **coordinates, out_scale=module.out_scale, residual=True, **limits
    )
    z = draw_rows(500)
    expected = torch.clamp(z, limits["low"].double(), limits["high"].double())
    assert torch.equal(bounded(z), expected)
    assert torch.equal(evaluate(bounded, z, batch_size=77), expected)


def test_limits_travel_with_the_module():
    source, copy = limited(low=3 * [0.25]), limited()
    copy.load_state_dict(source.state_dict())
    z = draw_rows(50).double()
    assert torch.equal(copy(z), source(z))
    assert source.float().low.dtype == torch.float32


@pytest.mark.parametrize(
    ("low", "high"),
    [
        ([0.0, 0.0], None),
        (None, [[0.0, 0.0, 0.0]]),
        ([0.0, 2.0, 0.0], [1.0, 1.0, 1.0]),
    ],
)
def test_bad_limits_are_named(low, high):
    with pytest.raises(ValueError, match="low and high must hold a limit for each of the 3"):
        limited(low=low, high=high)
