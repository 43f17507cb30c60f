"""Entropic transport: POT as reference, limits, gradients, invariances, and degenerate clouds."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from skwgf.transport import _tiles
from skwgf.transport.cost import half_squared_distance
from skwgf.transport.exact import exact_plan
from skwgf.transport.sinkhorn import sinkhorn, sinkhorn_divergence, sinkhorn_self


def cloud(n, d=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def weights(n, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    raw = torch.rand(n, generator=generator, dtype=torch.float64) + 0.05
    return raw / raw.sum()


def mean_cost(x, y):
    return float(half_squared_distance(x, y).mean())


def pot_plan(x, y, a, b, reg):
    cost = half_squared_distance(x, y)
    plan = ot.bregman.sinkhorn_log(
        a.numpy(), b.numpy(), cost.numpy(), reg, stopThr=1e-12, numItermax=20000
    )
    return torch.tensor(plan), cost


@pytest.mark.parametrize("fraction", [10.0, 0.5, 0.05, 0.02])
@pytest.mark.parametrize(("n", "m", "d"), [(40, 55, 2), (30, 30, 8), (1, 20, 3)])
def test_value_and_plan_agree_with_pot(n, m, d, fraction):
    # Catches the other conventions of the entropy: without the product measure, or the halving.
    x, y, a, b = cloud(n, d), cloud(m, d, 1) + 0.5, weights(n), weights(m, 1)
    reg = fraction * mean_cost(x, y)
    reference, cost = pot_plan(x, y, a, b, reg)
    divergence = torch.xlogy(reference, reference / (a[:, None] * b)).sum()
    value = float((reference * cost).sum() + reg * divergence)
    ours = sinkhorn(x, y, reg, weights_x=a, weights_y=b, tol=1e-8)
    assert ours.converged
    assert ours.value == pytest.approx(value, rel=1e-6)
    assert (ours.coupling() - reference).abs().sum() < 1e-5
    torch.testing.assert_close(
        ours.barycentric_map(), reference @ y / a[:, None], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("fraction", [0.5, 0.05, 0.005])
def test_marginals_and_potentials(fraction):
    x, y, a, b = cloud(90), cloud(70, seed=1) + 1, weights(90), weights(70, 1)
    reg = fraction * mean_cost(x, y)
    plan = sinkhorn(x, y, reg, weights_x=a, weights_y=b, tol=1e-5)
    coupling = plan.coupling()
    torch.testing.assert_close(coupling.sum(1), a)
    assert plan.marginal_error <= 1e-5
    assert float((coupling.sum(0) - b).abs().sum()) == pytest.approx(plan.marginal_error, rel=1e-3)
    scores = (plan.g - half_squared_distance(x, y)) / reg + b.log()
    torch.testing.assert_close(plan.f, -reg * scores.logsumexp(1))
    kernel = torch.exp((plan.f[:, None] + plan.g - half_squared_distance(x, y)) / reg)
    torch.testing.assert_close(coupling, a[:, None] * b * kernel)


def test_self_problem():
    x, a = cloud(60, 3), weights(60)
    own = sinkhorn_self(x, 0.1, weights=a, tol=1e-10)
    cross = sinkhorn(x, x, 0.1, weights_x=a, weights_y=a, tol=1e-8)
    assert torch.equal(own.f, own.g)
    assert own.value == pytest.approx(cross.value, rel=1e-7)
    torch.testing.assert_close(own.coupling(), own.coupling().T, atol=1e-10, rtol=1e-6)
    # The damped iteration cuts the error to a third, at any reg: an undamped one oscillates.
    for reg in (1e-3, 1e-2, 1.0):
        assert sinkhorn_self(x, reg).n_iter <= 12


def test_unseen_points():
    x, y = cloud(30), cloud(40, seed=1)
    plan = sinkhorn(x, y, 0.1, tol=1e-6)
    new = cloud(25, seed=2)
    scores = (plan.g - half_squared_distance(new, y)) / 0.1
    torch.testing.assert_close(plan.barycentric_map(new), scores.softmax(1) @ y)
    torch.testing.assert_close(plan.barycentric_map(x[:7]), plan.barycentric_map()[:7])
    torch.testing.assert_close(
        plan.transpose().barycentric_map(), plan.coupling().T @ x * 40, atol=1e-4, rtol=1e-4
    )
    # Far away the map goes to the extreme point in that direction, without overflow.
    far = torch.tensor([[1e6, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(plan.barycentric_map(far)[0], y[y[:, 0].argmax()])


def test_tiles_do_not_change_the_result(monkeypatch):
    # Catches a tile that is written to the wrong rows, or a last tile of another size.
    x, y, a = cloud(130), cloud(50, seed=1), weights(130)
    whole = sinkhorn(x, y, 0.1, weights_x=a, tol=1e-9)
    monkeypatch.setattr(_tiles, "_TILE_ENTRIES", 50 * 17)
    tiled = sinkhorn(x, y, 0.1, weights_x=a, tol=1e-9)
    torch.testing.assert_close(tiled.f - tiled.f[0], whole.f - whole.f[0], atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(tiled.coupling(), whole.coupling(), atol=1e-9, rtol=1e-6)
    assert tiled.n_iter == whole.n_iter


def test_extrapolation_saves_iterations():
    # The plain iteration takes about 80 and 1000 sweeps here.
    x, y = cloud(500), cloud(500, seed=1)
    scale = mean_cost(x, y)
    assert sinkhorn(x, y, 0.05 * scale).n_iter < 30
    assert sinkhorn(x, y, 0.005 * scale).n_iter < 200


def test_small_reg_gives_the_exact_plan():
    x, y = cloud(40, 3), cloud(40, 3, 1)
    exact = exact_plan(x, y)
    plan = sinkhorn(x, y, 2e-4 * mean_cost(x, y), max_iter=5000)
    # The entropic map leaves the exact one where two plans cost nearly the same.
    close = (plan.barycentric_map() - exact.barycenter(y)).norm(dim=1) < 0.05
    assert close.double().mean() > 0.9
    # 0 <= OT_eps - OT <= eps log n.
    assert -1e-9 < plan.value - exact.cost < plan.reg * math.log(40)


def test_large_reg_gives_the_mean():
    x, y, b = cloud(40, 3), cloud(30, 3, 1) + 2, weights(30, 1)
    for dtype in (torch.float64, torch.float32):
        args = x.to(dtype), y.to(dtype), 1e6
        image = sinkhorn(*args, weights_y=b).barycentric_map()
        torch.testing.assert_close(image, (b @ y).to(dtype).expand(40, 3), atol=1e-4, rtol=0)
        # S tends to half the squared distance of the means; float32 alone would lose it.
        half = float(((x.mean(0) - b @ y) ** 2).sum()) / 2
        assert float(sinkhorn_divergence(*args, weights_y=b)) == pytest.approx(half, rel=1e-3)


def test_divergence_of_a_translation():
    # The cross problem of a translate is the self problem plus |shift|^2/2, at any reg.
    x, shift = cloud(50, 3), torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64)
    for reg in (0.01, 0.5, 20.0):
        value = float(sinkhorn_divergence(x, x + shift, reg, tol=1e-6))
        assert value == pytest.approx(4.5, rel=1e-6)


@pytest.mark.parametrize("reg", [0.05, 0.5])
def test_gradients_meet_finite_differences(reg):
    # Catches a factor two (both arguments of the self term move) and a missing weight.
    x, y = cloud(12, 3).requires_grad_(), cloud(9, 3, 1).requires_grad_()
    a, b = weights(12), weights(9, 1)

    def divergence(x, y):
        return sinkhorn_divergence(x, y, reg, weights_x=a, weights_y=b, tol=1e-11)

    assert torch.autograd.gradcheck(divergence, (x, y), eps=1e-5, atol=1e-7, rtol=1e-4)


def test_gradient_only_where_it_is_asked_for():
    x, y = cloud(8).requires_grad_(), cloud(9, seed=1)
    value = sinkhorn_divergence(2 * x, y, 0.1)
    (gradient,) = torch.autograd.grad(3 * value + (x**2).sum(), x, create_graph=True)
    assert not sinkhorn_divergence(x.detach(), y, 0.1).requires_grad
    # The potentials are constants in the gradient: its derivative would be silently wrong, the
    # more so inside a sum with terms that have one.
    with pytest.raises(RuntimeError, match="differentiable once"):
        gradient.sum().backward()


def test_gradient_follows_the_chain_rule():
    x, y = cloud(8).requires_grad_(), cloud(9, seed=1).requires_grad_()
    plain = torch.autograd.grad(sinkhorn_divergence(x, y, 0.1), (x, y))
    chained = torch.autograd.grad(3 * sinkhorn_divergence(2 * (x / 2), y, 0.1), (x, y))
    torch.testing.assert_close(chained, tuple(3 * gradient for gradient in plain))


def test_symmetry_and_zero():
    x, y, a, b = cloud(40), cloud(30, seed=1), weights(40), weights(30, 1)
    forth = sinkhorn_divergence(x, y, 0.1, weights_x=a, weights_y=b, tol=1e-7)
    back = sinkhorn_divergence(y, x, 0.1, weights_x=b, weights_y=a, tol=1e-7)
    assert float(forth) == pytest.approx(float(back), rel=1e-9)
    assert abs(float(sinkhorn_divergence(x, x.flip(0), 0.1, tol=1e-6))) < 1e-9
    assert abs(float(sinkhorn_divergence(x.float(), x.float(), 0.1))) < 1e-5


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 30),
    m=st.integers(1, 30),
    d=st.integers(1, 6),
    log_fraction=st.floats(-2.0, 2.0),
    seed=st.integers(0, 999),
)
def test_divergence_is_not_negative(n, m, d, log_fraction, seed):
    x, y = cloud(n, d, seed), cloud(m, d, seed + 1)
    scale = mean_cost(x, y)
    value = float(sinkhorn_divergence(x, y, 10**log_fraction * scale, tol=1e-6))
    assert -1e-6 * scale < value


def test_moving_turning_and_shuffling():
    x, y, a = cloud(40, 3), cloud(30, 3, 1), weights(40)
    rotation = torch.linalg.qr(cloud(3, 3, 5)).Q
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    base = sinkhorn(x, y, 0.2, weights_x=a, tol=1e-9)
    turned = sinkhorn(x @ rotation + 100, y @ rotation + 100, 0.2, weights_x=a, tol=1e-9)
    mixed = sinkhorn(x[order], y, 0.2, weights_x=a[order], tol=1e-9)
    scaled = sinkhorn(1e6 * x, 1e6 * y, 0.2e12, weights_x=a, tol=1e-9)
    image = base.barycentric_map()
    close = {"atol": 1e-7, "rtol": 1e-7}
    torch.testing.assert_close(turned.barycentric_map(), image @ rotation + 100, **close)
    torch.testing.assert_close(mixed.barycentric_map(), image[order], **close)
    torch.testing.assert_close(scaled.barycentric_map() / 1e6, image, **close)
    values = [plan.value for plan in (turned, mixed)] + [scaled.value / 1e12]
    assert values == pytest.approx([base.value] * 3, rel=1e-9)


def test_weight_is_repetition():
    x, y = cloud(20), cloud(25, seed=1)
    counts = torch.arange(20) % 3 + 1
    weighted = sinkhorn_divergence(x, y, 0.1, weights_x=counts.to(x), tol=1e-8)
    repeated = sinkhorn_divergence(x.repeat_interleave(counts, 0), y, 0.1, tol=1e-8)
    assert float(weighted) == pytest.approx(float(repeated), rel=1e-8)


def test_warm_start():
    x, y = cloud(200), cloud(150, seed=1) + 1
    cold = sinkhorn(x, y, 0.02)
    again = sinkhorn(x, y, 0.02, init=(cold.f, cold.g))
    assert again.n_iter == 1
    moved = x + 0.01 * (cold.barycentric_map() - x)
    assert sinkhorn(moved, y, 0.02, init=(cold.f, cold.g)).n_iter < sinkhorn(moved, y, 0.02).n_iter
    own = sinkhorn_self(x, 0.02)
    assert sinkhorn_self(x, 0.02, init=own.f).n_iter == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_useless_start_does_no_harm(dtype):
    # Potentials wrong by thousands of reg leave whole columns of the kernel below its floor.
    x, y = cloud(60, dtype=dtype), cloud(50, seed=1, dtype=dtype)
    bad = 1000 * cloud(50, 1, 3)[:, 0].to(dtype)
    plan = sinkhorn(x, y, 0.1, init=(torch.zeros(60, dtype=dtype), bad))
    assert plan.converged
    assert plan.value == pytest.approx(sinkhorn(x, y, 0.1).value, rel=1e-4)
    own = sinkhorn_self(y, 0.1, init=bad)
    assert own.converged
    assert own.value == pytest.approx(sinkhorn_self(y, 0.1).value, rel=1e-4)


def test_float32_agrees_with_float64():
    x, y = cloud(300, 5), cloud(250, 5, 1) + 1
    for fraction in (0.05, 0.005):
        reg = fraction * mean_cost(x, y)
        wide, narrow = sinkhorn(x, y, reg), sinkhorn(x.float(), y.float(), reg)
        assert narrow.f.dtype == narrow.coupling().dtype == torch.float32
        assert narrow.value == pytest.approx(wide.value, rel=2e-6)
        difference = narrow.barycentric_map() - wide.barycentric_map()
        assert difference.norm() < 5e-3 * wide.barycentric_map().norm()


def two_far_clusters(n, share):
    x = cloud(n, seed=n)
    x[: int(share * n)] += 1000
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fraction", [1e4, 1.0, 0.05, 1e-4])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(1, 2), torch.ones(1, 2)),
        (torch.zeros(1, 2), cloud(20)),
        (torch.ones(5, 2), torch.ones(7, 2)),
        (cloud(10).repeat(3, 1), cloud(10).repeat(2, 1)),
        (two_far_clusters(60, 0.5), two_far_clusters(50, 0.3)),
        (two_far_clusters(60, 0.5), two_far_clusters(60, 0.5)),
        (1e-9 * cloud(20), 1e-9 * cloud(20, seed=1)),
    ],
)
def test_degenerate_clouds_stay_finite(x, y, fraction, dtype):
    x, y = x.to(dtype).requires_grad_(), y.to(dtype)
    cost = mean_cost(x.detach(), y)
    reg = fraction * cost if cost > 0 else fraction
    plan = sinkhorn(x, y, reg, max_iter=200)
    for tensor in (plan.f, plan.g, plan.barycentric_map(), plan.coupling()):
        assert torch.isfinite(tensor).all()
    assert plan.marginal_error < 0.05
    assert plan.value <= cost * 1.01
    value = sinkhorn_divergence(x, y, reg, tol=0.05)
    assert value > -0.01 * cost - 1e-15 * reg  # reg carries the rounding of sums near one
    assert torch.isfinite(torch.autograd.grad(value, x)[0]).all()


def test_two_far_clusters_move_the_least_mass():
    # 30 of 60 points against 15 of 50: a fifth of the mass crosses, at a cost of 100 reg.
    x, y = two_far_clusters(60, 0.5), two_far_clusters(50, 0.3)
    coupling = sinkhorn(x, y, 1e4).coupling()
    assert float(coupling[:30, 15:].sum()) == pytest.approx(0.2, abs=1e-4)
    assert float(coupling[30:, :15].sum()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clusters_of_unequal_shares_exchange_mass(dtype):
    # 2^-38 and less passes between clusters: below the rounding of a float32 product.
    def categories(n, seed):
        rng = np.random.default_rng(seed)
        codes = rng.choice(3, p=[0.5, 0.3, 0.2], size=n)
        table = np.column_stack([np.eye(3)[codes], 4 * codes + rng.normal(size=n)])
        return torch.tensor(table / table.std(0), dtype=dtype)

    plan = sinkhorn(categories(600, 0), categories(600, 1), 0.2, max_iter=200)
    assert plan.converged


def test_stopping_short_is_reported():
    x, y = cloud(100), cloud(100, seed=1)
    plan = sinkhorn(x, y, 0.01, max_iter=1)
    assert not plan.converged
    assert plan.marginal_error > 1e-4
    assert plan.n_iter == 1
    with pytest.warns(ConvergenceWarning, match=r"marginal error .* Raise reg"):
        sinkhorn_divergence(x, y, 0.01, max_iter=1)


def test_random_states_are_left_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    sinkhorn_divergence(cloud(300), cloud(300, seed=1), 0.1)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reg": 0.0}, "reg must be a positive"),
        ({"reg": -1.0}, "reg must be a positive"),
        ({"reg": math.nan}, "reg must be a positive"),
        ({"reg": 1e-20}, "below what torch.float64 resolves"),
        ({"weights_x": torch.zeros(5)}, "weights_x must be positive"),
        ({"weights_y": torch.ones(5)}, "one weight per point"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"tol": -1.0}, "tol not negative"),
        ({"init": (torch.zeros(5), torch.zeros(5))}, "must hold 6 finite numbers"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn(cloud(5), cloud(6), **{"reg": 0.1, **options})


def test_bad_values():
    plan = sinkhorn(cloud(5), cloud(6), 0.1)
    with pytest.raises(ValueError, match="values_y must have shape"):
        plan.barycenter(torch.zeros(5, 1))
    with pytest.raises(ValueError, match="must agree"):
        plan.barycentric_map(torch.zeros(5, 3, dtype=torch.float64))
