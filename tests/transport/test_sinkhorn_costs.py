"""Both costs, tiles, groups and closed forms of the entropic problem."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skwgf.transport import _tiles
from skwgf.transport.cost import power_cost
from skwgf.transport.exact import exact_plan
from skwgf.transport.sinkhorn import sinkhorn, sinkhorn_divergence, sinkhorn_self
from skwgf.transport.sinkhorn_groups import sinkhorn_groups


def cloud(n, d=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def weights(n, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    raw = torch.rand(n, generator=generator, dtype=torch.float64) + 0.05
    return raw / raw.sum()


def distances(x, y):
    return (x[:, None] - y).norm(dim=2)


@pytest.mark.parametrize("fraction", [10.0, 0.5, 0.05, 0.02])
@pytest.mark.parametrize(("n", "m", "d"), [(40, 55, 2), (30, 30, 20), (1, 20, 3)])
def test_distance_cost_agrees_with_pot(n, m, d, fraction):
    # d = 20 takes the distances from expanded squares.
    x, y, a, b = cloud(n, d), cloud(m, d, 1) + 0.5, weights(n), weights(m, 1)
    cost = distances(x, y)
    reg = fraction * float(cost.mean())
    reference = torch.tensor(
        ot.bregman.sinkhorn_log(
            a.numpy(), b.numpy(), cost.numpy(), reg, stopThr=1e-12, numItermax=20000
        )
    )
    divergence = torch.xlogy(reference, reference / (a[:, None] * b)).sum()
    value = float((reference * cost).sum() + reg * divergence)
    ours = sinkhorn(x, y, reg, weights_x=a, weights_y=b, p=1, tol=1e-8)
    assert ours.converged
    assert ours.value == pytest.approx(value, rel=1e-6)
    assert (ours.coupling() - reference).abs().sum() < 1e-5
    torch.testing.assert_close(
        ours.barycentric_map(), reference @ y / a[:, None], atol=1e-5, rtol=1e-5
    )
    new = cloud(7, d, 2)
    scores = ((ours.g - power_cost(new, y, 1)) / reg + b.log()).softmax(1)
    torch.testing.assert_close(ours.barycentric_map(new), scores @ y, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(9, 1), (7, 3), (3, 20)])
def test_gradient_of_the_distance_cost(n, d):
    x, y = cloud(n, d).requires_grad_(), cloud(5, d, 1).requires_grad_()
    a, b = weights(n), weights(5, 1)

    def divergence(x, y):
        return sinkhorn_divergence(x, y, 0.5, weights_x=a, weights_y=b, p=1, tol=1e-11)

    assert torch.autograd.gradcheck(divergence, (x, y), eps=1e-5, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_at_coincident_points_is_zero(d, dtype):
    # The distance has a kink there: its subgradient of least norm is taken. All pairs of the self
    # problem's diagonal are such points.
    x = cloud(30, d, dtype=dtype)
    for y in (x.flip(0).clone(), torch.cat([x, x])):
        moving = x.clone().requires_grad_()
        value = sinkhorn_divergence(moving, y, 0.1, p=1, tol=1e-5)
        (gradient,) = torch.autograd.grad(value, moving)
        assert gradient.norm() < 1e-3 / math.sqrt(30)
    plan = sinkhorn(torch.zeros(1, d, dtype=dtype), torch.zeros(4, d, dtype=dtype), 0.1, p=1)
    assert torch.equal(plan.potential_gradient(), torch.zeros(1, d, dtype=dtype))


@pytest.mark.parametrize("d", [2, 20])
def test_near_points_keep_their_distance(d):
    # Expanded squares in float32 would lose distances below 3e-4 of the cloud, and with them the
    # plan: every point would go to any of its two neighbours.
    x = 10 * cloud(40, d, dtype=torch.float32)
    step = torch.zeros(d)
    step[0] = 1e-3
    y = torch.cat([x + step, x - 3 * step])
    plan = sinkhorn_self(y, 1e-4, p=1).coupling()
    near = torch.exp(-torch.tensor(4e-3 / 1e-4))
    assert float(plan[:40, 40:].sum()) < 10 * float(near) + 1e-6
    wide = sinkhorn(x.double(), y.double(), 5e-4, p=1).coupling()
    narrow = sinkhorn(x, y, 5e-4, p=1).coupling()
    assert float((narrow - wide).abs().sum()) < 0.02


def test_distance_cost_on_a_line():
    # All plans between two separated clouds on a line have one cost: the difference of the means.
    x, y = cloud(30, 1), cloud(30, 1, 1) + 20.0
    gap = float(y.mean() - x.mean())
    assert sinkhorn(x, y, 0.01, p=1, tol=1e-9).value == pytest.approx(gap, rel=1e-9)
    value = sinkhorn_divergence(x, x + 20.0, 0.01, p=1, tol=1e-9)
    own = sinkhorn_self(x, 0.01, p=1, tol=1e-9).value
    assert float(value) == pytest.approx(20.0 - own, rel=1e-9)


def test_small_reg_is_the_exact_distance():
    x, y = cloud(40, 3), cloud(40, 3, 1)
    exact = float(ot.emd2([], [], power_cost(x, y, 1).numpy()))
    reg = 1e-3
    plan = sinkhorn(x, y, reg, p=1, tol=1e-6)
    assert plan.converged
    assert -1e-6 < plan.value - exact < reg * math.log(40)


def gaussian_value(A, B, shift, reg):
    r"""Entropic value between N(0, A) and N(shift, B) for the cost |x-y|^2/2.

    The plan is Gaussian with cross-covariance
    C = A^1/2 (A^1/2 B A^1/2 + reg^2/4)^1/2 A^-1/2 - reg/2 (Janati et al. 2020, with their sigma^2
    half of reg); the value is its mean cost plus reg times its mutual information.
    """

    def root(M):
        values, vectors = torch.linalg.eigh(M)
        return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T

    eye = torch.eye(len(A), dtype=A.dtype)
    half = root(A)
    middle = root(half @ B @ half + reg**2 / 4 * eye)
    cross = half @ middle @ torch.linalg.inv(half) - reg / 2 * eye
    joint = torch.cat([torch.cat([A, cross], 1), torch.cat([cross.T, B], 1)])
    information = 0.5 * (A.logdet() + B.logdet() - joint.logdet())
    cost = 0.5 * (A.trace() + B.trace() - 2 * cross.trace() + shift @ shift)
    return float(cost + reg * information)


@pytest.mark.parametrize("reg", [0.3, 1.0, 5.0])
def test_gaussians_meet_their_closed_form(reg):
    # Catches a regularisation that is off by the factor 1/2 of the cost. 3000 points: the value
    # has a standard error of about .02, its bias at these reg is smaller.
    A = torch.tensor([[1.0, 0.4], [0.4, 0.6]], dtype=torch.float64)
    B = torch.tensor([[0.5, -0.2], [-0.2, 1.5]], dtype=torch.float64)
    shift = torch.tensor([1.0, 0.5], dtype=torch.float64)

    def sample(covariance, seed):
        z = cloud(3000, 2, seed)
        z = z - z.mean(0)  # exact first and second moments: what remains is of higher order
        z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / 3000)).T
        return z @ torch.linalg.cholesky(covariance).T

    x, y = sample(A, 0), sample(B, 1) + shift
    value = sinkhorn(x.float(), y.float(), reg).value
    assert value == pytest.approx(gaussian_value(A, B, shift, reg), rel=0.01)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 25),
    m=st.integers(1, 25),
    d=st.integers(1, 20),
    p=st.sampled_from([1, 2]),
    log_fraction=st.floats(-2.0, 1.0),
    seed=st.integers(0, 999),
)
def test_invariances(n, m, d, p, log_fraction, seed):
    # Symmetry, sign, zero, translation of both clouds, rotation and order, at any size and reg.
    x, y = cloud(n, d, seed), cloud(m, d, seed + 1)
    scale = float(power_cost(x, y, p).mean())
    reg = 10**log_fraction * scale
    value = float(sinkhorn_divergence(x, y, reg, p=p, tol=1e-7))
    rotation = torch.linalg.qr(cloud(d, d, seed + 2)).Q
    turned = sinkhorn_divergence(y.flip(0) @ rotation + 7, x @ rotation + 7, reg, p=p, tol=1e-7)
    assert float(turned) == pytest.approx(value, rel=1e-4, abs=1e-6 * scale)
    assert value > -1e-6 * scale
    assert abs(float(sinkhorn_divergence(x, x.flip(0), reg, p=p, tol=1e-7))) < 1e-6 * scale


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("d", [2, 20])
def test_tiled_is_the_same(monkeypatch, p, d):
    # Catches a tile written to the wrong rows, and the triangle of the self problem. The last
    # tile has another size.
    monkeypatch.setattr(_tiles, "_TILE_ENTRIES", 50 * 17)
    x, y, a = cloud(130, d), cloud(50, d, 1), weights(130)
    reg = 0.1 * float(power_cost(x, y, p).mean())
    options = {"p": p, "tol": 1e-9}
    pairs = [
        [sinkhorn(x, y, reg, weights_x=a, tiled=tiled, **options) for tiled in (False, True)],
        [sinkhorn_self(x, reg, weights=a, tiled=tiled, **options) for tiled in (False, True)],
    ]
    for whole, tiled in pairs:
        assert tiled.value == pytest.approx(whole.value, rel=1e-9)
        torch.testing.assert_close(
            tiled.barycentric_map(), whole.barycentric_map(), atol=1e-7, rtol=1e-7
        )


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("d", [2, 20])
def test_tiled_never_holds_the_matrix(monkeypatch, p, d):
    # Every allocation above twice a tile is found, in the solver and in its results.
    tile = 2**11
    monkeypatch.setattr(_tiles, "_TILE_ENTRIES", tile)
    n = 250
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest.append(result.untyped_storage().nbytes() // result.element_size())
            return result

    x, y = cloud(n, d), cloud(n, d, 1)
    reg = 0.01 * float(power_cost(x, y, p).mean())
    with Watch():
        plan = sinkhorn(x, y, reg, p=p, tiled=True)
        plan.barycentric_map()
        plan.potential_gradient()
        sinkhorn_self(x, reg, p=p, tiled=True)
    assert max(largest) <= max(2 * tile, 24 * n)
    assert max(largest) < n * n / 4


def test_extended_potential_starts_the_next_batch():
    for p in (1, 2):
        x, y = cloud(300), cloud(300, seed=1) + 1
        reg = 0.02 * float(power_cost(x, y, p).mean())
        plan = sinkhorn(x, y, reg, p=p, tol=1e-7)
        torch.testing.assert_close(plan.extended_potential(y), plan.g, atol=1e-5, rtol=1e-5)
        new_x, new_y = cloud(300, seed=2), cloud(300, seed=3) + 1
        start = plan.extended_potential(new_y)
        warm = sinkhorn(new_x, new_y, reg, p=p, init=(plan.f, start))
        cold = sinkhorn(new_x, new_y, reg, p=p, init=(plan.f, torch.zeros_like(start)))
        assert warm.n_iter < cold.n_iter
        assert warm.value == pytest.approx(cold.value, rel=1e-5)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_are_their_own_problems(p, dtype):
    # One group is hard, one all equal points, one far away: each is solved as if alone.
    x = torch.stack([cloud(30), 3 * cloud(30, seed=1), torch.ones(30, 2), cloud(30, seed=2) + 50])
    y = torch.stack([cloud(20), cloud(20, seed=3) + 2, torch.ones(20, 2), cloud(20, seed=4) + 50])
    x, y = x.to(dtype), y.to(dtype)
    a = torch.stack([weights(30, k) for k in range(4)])
    plans = sinkhorn_groups(x, y, 0.1, weights_x=a, p=p)
    for k, plan in enumerate(plans):
        single = sinkhorn(x[k], y[k], 0.1, weights_x=a[k], p=p)
        assert plan.converged
        assert plan.value == pytest.approx(single.value, rel=1e-4, abs=1e-5)
        torch.testing.assert_close(
            plan.barycentric_map(), single.barycentric_map(), atol=5e-3, rtol=1e-3
        )


def test_padding_by_repetition():
    # How groups of unequal size become one call.
    x, y = cloud(12), cloud(20, seed=1)
    rows = torch.arange(20) % 12
    share = 1.0 / torch.bincount(rows)[rows].double()
    padded = sinkhorn_groups(x[rows][None], y[None], 0.1, weights_x=share[None], tol=1e-9)[0]
    alone = sinkhorn(x, y, 0.1, tol=1e-9)
    assert padded.value == pytest.approx(alone.value, rel=1e-9)
    torch.testing.assert_close(padded.barycentric_map()[:12], alone.barycentric_map())


def test_hard_problems_converge():
    # Loose steps of a cold start leave the finest problem with tens of thousands of sweeps.
    for n, d, seed in ((60, 2, 0), (100, 8, 1), (40, 1, 2)):
        x, y = cloud(n, d, seed), cloud(n, d, seed + 50)
        for p in (1, 2):
            reg = 1e-4 * float(power_cost(x, y, p).mean())
            plan = sinkhorn(x, y, reg, p=p, tol=1e-3, max_iter=600)
            assert plan.converged
            if p == 2:
                exact = exact_plan(x, y).cost
                assert exact - 1e-9 < plan.value < exact + reg * math.log(n)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fraction", [1e4, 1.0, 0.05, 1e-4])
def test_two_clusters_far_apart_and_single_points(p, dtype, fraction):
    x, y = cloud(40, dtype=dtype), cloud(30, seed=1, dtype=dtype)
    x[:20] += 1000
    y[:9] += 1000
    for first, second in ((x, y), (x[:1], y), (x, y[:1]), (x[:1], x[:1]), (x[:1], y[-1:])):
        cost = float(power_cost(first, second, p).mean())
        reg = fraction * cost or fraction
        moving = first.clone().requires_grad_()
        value = sinkhorn_divergence(moving, second, reg, p=p, tol=0.05)
        (gradient,) = torch.autograd.grad(value, moving)
        assert torch.isfinite(gradient).all()
        assert -0.01 * cost - 1e-6 * reg <= value.item() <= 1.01 * cost + 1e-6 * reg
        plan = sinkhorn(first, second, reg, p=p, max_iter=200)
        assert plan.marginal_error < 0.05
        for tensor in (plan.f, plan.g, plan.barycentric_map(), plan.potential_gradient()):
            assert torch.isfinite(tensor).all()


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (cloud(5), cloud(6), {}, "one cloud for each group"),
        (cloud(5)[None], cloud(6).repeat(2, 1, 1), {}, "must agree in groups"),
        (cloud(5)[None], cloud(6)[None], {"p": 1.5}, "p must be 1 or 2"),
        (cloud(5)[None], cloud(6)[None], {"weights_x": torch.ones(5)}, "one weight per point"),
        (cloud(5)[None], cloud(6)[None, :0], {}, "must not be empty"),
        (cloud(5)[None], math.nan * cloud(6)[None], {}, "NaN or infinity"),
    ],
)
def test_bad_groups(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        sinkhorn_groups(x, y, 0.1, **options)
