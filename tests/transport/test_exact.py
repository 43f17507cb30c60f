"""Exact plans: closed forms, linear-programming duality, units, weights, and bad input."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skwgf.transport import _network_simplex, exact
from skwgf.transport.cost import half_squared_distance, power_cost
from skwgf.transport.exact import exact_plan, quantile_coupling


def cloud(n, d=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def weights(n, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    raw = torch.rand(n, generator=generator, dtype=torch.float64) + 0.05
    return raw / raw.sum()


def test_translation_is_the_optimal_map():
    x, shift = cloud(60, 3), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    plan = exact_plan(x, x + shift)
    assert plan.cost == pytest.approx(float(shift @ shift) / 2, rel=1e-12)
    assert torch.equal(plan.permutation, torch.arange(60))


def test_permutation_of_a_cyclically_monotone_pair_is_found():
    # The gradient of a convex quadratic is optimal (Brenier), however the images are shuffled.
    x = cloud(80, 4)
    root = cloud(4, 4, seed=1)
    shuffle = torch.randperm(80, generator=torch.Generator().manual_seed(2))
    plan = exact_plan(x, (x @ (root @ root.T + torch.eye(4)))[shuffle])
    assert torch.equal(shuffle[plan.permutation], torch.arange(80))


@pytest.mark.parametrize(("n", "m", "d"), [(40, 40, 2), (40, 25, 2), (7, 60, 5), (1, 9, 2)])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_duality(n, m, d, p, weighted):
    # Catches potentials swapped, not scaled back, or of the sign of another convention.
    x, y = cloud(n, d), cloud(m, d, seed=1) + 1
    a = weights(n) if weighted else torch.full((n,), 1 / n, dtype=torch.float64)
    b = weights(m, 1) if weighted else torch.full((m,), 1 / m, dtype=torch.float64)
    plan = exact_plan(x, y, weights_x=a, weights_y=b, p=p)
    slack = power_cost(x, y, p) - plan.potential_x[:, None] - plan.potential_y
    assert slack.min() > -1e-10
    assert slack[plan.rows, plan.cols].abs().max() < 1e-10
    assert plan.cost == pytest.approx(float(a @ plan.potential_x + b @ plan.potential_y), rel=1e-11)
    dense = torch.zeros(n, m, dtype=torch.float64)
    dense[plan.rows, plan.cols] = plan.mass
    torch.testing.assert_close(dense.sum(1), a)
    torch.testing.assert_close(dense.sum(0), b)
    assert float((dense * power_cost(x, y, p)).sum()) == pytest.approx(plan.cost, rel=1e-10)


def test_weight_is_repetition():
    x, y = cloud(12), cloud(15, seed=1)
    counts = torch.arange(12) % 3 + 1
    weighted = exact_plan(x, y, weights_x=counts.to(x))
    repeated = exact_plan(x.repeat_interleave(counts, 0), y)
    assert weighted.cost == pytest.approx(repeated.cost, rel=1e-12)


@pytest.mark.parametrize("unit", [1e-30, 1e-8, 1e8, 1e30])
def test_units_do_not_change_the_plan(unit):
    # The network simplex has absolute tolerances: without a rescaled cost it stops at once, or
    # never, in such units.
    x, y = cloud(50), cloud(50, seed=1)
    plain, scaled = exact_plan(x, y), exact_plan(unit * x, unit * y)
    assert torch.equal(plain.permutation, scaled.permutation)
    assert scaled.cost == pytest.approx(unit**2 * plain.cost, rel=1e-12)
    torch.testing.assert_close(scaled.potential_x / unit**2, plain.potential_x)


def test_far_from_the_origin():
    # |x|^2 + |y|^2 - 2 x.y without centring has an error of about 1 here.
    x, y = cloud(50), cloud(50, seed=1)
    moved = exact_plan(x + 1e8, y + 1e8)
    assert moved.cost == pytest.approx(exact_plan(x, y).cost, rel=1e-6)
    far, near = half_squared_distance(x + 1e8, y + 1e8), half_squared_distance(x, y)
    torch.testing.assert_close(far, near, atol=1e-6, rtol=0)
    assert half_squared_distance(x, x).min() >= 0


def test_gaussians_meet_the_bures_formula():
    n = 600
    root = torch.tensor([[1.5, 0.4], [0.0, 0.7]], dtype=torch.float64)
    shift = torch.tensor([1.0, -1.0], dtype=torch.float64)
    plan = exact_plan(cloud(n), cloud(n, seed=1) @ root + shift)
    covariance = root.T @ root
    # From N(0, I): W2^2 = |shift|^2 + tr(I + C - 2 C^(1/2)).
    eigenvalues = torch.linalg.eigvalsh(covariance)
    formula = float(shift @ shift + ((eigenvalues.sqrt() - 1) ** 2).sum())
    # Central limit theorem: the variance is that of the potentials; the bias is O(log n / n).
    sd = 2 * math.sqrt(float(plan.potential_x.var() + plan.potential_y.var()) / n)
    assert abs(2 * plan.cost - formula) < 3 * sd + 2 * math.log(n) / n


def test_barycenter_and_pushforward_are_conditional_means():
    x, y = cloud(9, 3), cloud(14, 3, seed=1)
    a, b = weights(9), weights(14, 1)
    plan = exact_plan(x, y, weights_x=a, weights_y=b)
    dense = torch.zeros(9, 14, dtype=torch.float64)
    dense[plan.rows, plan.cols] = plan.mass
    labels = cloud(14, 2, seed=3)
    torch.testing.assert_close(plan.barycenter(labels), (dense @ labels) / a[:, None])
    torch.testing.assert_close(plan.pushforward(x), (dense.T @ x) / b[:, None])
    torch.testing.assert_close(a @ plan.barycenter(y), b @ y)  # mass carries the mean over


def test_precision_follows_the_input():
    plan = exact_plan(cloud(20, dtype=torch.float32), cloud(20, seed=1, dtype=torch.float32))
    assert {t.dtype for t in (plan.mass, plan.potential_x, plan.potential_y)} == {torch.float32}
    assert plan.rows.dtype == plan.cols.dtype == torch.int64
    assert plan.barycenter(cloud(20)).dtype == torch.float64


def test_equal_and_coincident_points():
    x = cloud(30)
    assert exact_plan(x, x.flip(0)).cost == 0.0
    same = exact_plan(torch.ones(4, 2), torch.ones(6, 2))
    assert same.cost == 0.0
    assert torch.equal(same.barycenter(torch.ones(6, 2)), torch.ones(4, 2))
    assert exact_plan(torch.zeros(1, 1), torch.full((1, 1), 2.0)).cost == 2.0


def test_negligible_weights_keep_an_image():
    a = torch.ones(20, dtype=torch.float64)
    a[3] = 1e-30
    y = cloud(20, seed=1)
    image = exact_plan(cloud(20), y, weights_x=a).barycenter(y)
    assert torch.isfinite(image).all()
    assert (image[3] >= y.min(0).values).all()
    assert (image[3] <= y.max(0).values).all()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(n=st.integers(1, 12), m=st.integers(1, 12), k=st.integers(1, 12), seed=st.integers(0, 999))
def test_metric_axioms(n, m, k, seed):
    x, y, z = cloud(n, seed=seed), cloud(m, seed=seed + 1), cloud(k, seed=seed + 2)
    xy, yx, yz, xz = (
        math.sqrt(2 * exact_plan(u, v).cost) for u, v in ((x, y), (y, x), (y, z), (x, z))
    )
    assert xy == pytest.approx(yx, rel=1e-12)
    assert xz <= xy + yz + 1e-12


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_quantile_coupling_is_optimal_on_the_line(p):
    x, y, a, b = (
        cloud(30, 1).sort(0).values,
        cloud(17, 1, 1).sort(0).values,
        weights(30),
        weights(17, 1),
    )
    rows, cols, mass = quantile_coupling(a, b)
    torch.testing.assert_close(torch.zeros(30).to(a).index_add(0, rows, mass), a)
    torch.testing.assert_close(torch.zeros(17).to(b).index_add(0, cols, mass), b)
    assert (rows.diff() >= 0).all()
    assert (cols.diff() >= 0).all()
    cost = float(mass @ (x[rows] - y[cols]).abs()[:, 0] ** p) / p
    assert cost == pytest.approx(exact_plan(x, y, weights_x=a, weights_y=b, p=p).cost, rel=1e-11)


def clusters(n, share, seed=0):
    """Two unit clusters a thousand units apart, the given share of the points in the second."""
    points = cloud(n, 2, seed)
    points[: int(share * n), 0] += 1e3
    return points


def lattice(n):
    return torch.cartesian_prod(torch.arange(n // 20), torch.arange(20)).to(torch.float64)


def outlying(points):
    points[0] *= 1e6
    return points


@pytest.fixture
def some_pairs(monkeypatch):
    """Have problems of every size solved on some of the pairs, as large ones are."""
    monkeypatch.setattr(exact, "_FEW_PAIRS", 0)


CASES = {
    "plane": (cloud(300), cloud(300, seed=1) + 1, {}),
    "line": (cloud(300, 1), cloud(300, 1, seed=1) + 1, {}),
    "high dimension": (cloud(300, 64), cloud(300, 64, seed=1) + 1, {}),
    "unequal counts": (cloud(300), cloud(271, seed=1) + 1, {}),
    "counts in proportion": (cloud(400), cloud(200, seed=1) + 1, {}),
    "weights": (
        cloud(300),
        cloud(300, seed=1) + 1,
        {"weights_x": weights(300), "weights_y": weights(300, 1)},
    ),
    "very unequal weights": (
        cloud(300),
        cloud(300, seed=1) + 1,
        {"weights_x": 10 ** (-12 * weights(300) * 300)},
    ),
    "distant clusters": (clusters(300, 0.5), clusters(300, 0.5, 1) + 0.3, {}),
    "mass between clusters": (clusters(300, 0.5), clusters(300, 0.3, 1), {}),
    "an outlier": (outlying(cloud(300)), cloud(300, seed=1), {}),
    "one law, clustered": (
        1e-3 * cloud(300) + lattice(300),
        1e-3 * cloud(300, 2, 1) + lattice(300),
        {},
    ),
    "points that coincide": (cloud(3).repeat(100, 1), cloud(4, seed=1).repeat(75, 1), {}),
    "pairs that coincide": (cloud(150).repeat(2, 1), cloud(150, seed=1).repeat(2, 1), {}),
    "ties": (lattice(300), lattice(300) + torch.tensor([0.5, 0.0]), {}),
    "one point and many": (torch.zeros(300, 2, dtype=torch.float64), cloud(300), {}),
    "far and large": (1e30 * (cloud(300) + 1e6), 1e30 * (cloud(300, seed=1) + 1e6), {}),
}


@pytest.mark.usefixtures("some_pairs")
@pytest.mark.parametrize("case", CASES)
def test_optimum_of_all_pairs(case):
    # The network simplex on the full cost is the reference; the potentials are the proof.
    # Catches pairs left out, potentials shifted apart, and a plan that misses the marginals.
    x, y, options = CASES[case]
    n, m = len(x), len(y)
    plan = exact_plan(x, y, **options)
    cost = half_squared_distance(x, y)
    largest = float(cost.max())
    a, b = (
        options.get(name, torch.ones(k, dtype=torch.float64))
        for name, k in (("weights_x", n), ("weights_y", m))
    )
    a, b = a / a.sum(), b / b.sum()
    reference = ot.emd2(a.numpy(), b.numpy(), (cost / largest).numpy(), numItermax=10**8)
    assert plan.cost == pytest.approx(largest * reference, rel=1e-10, abs=1e-12 * largest)
    slack = (cost - plan.potential_x[:, None] - plan.potential_y) / largest
    assert slack.min() > -1e-11
    assert slack[plan.rows, plan.cols].abs().max() < 1e-11
    assert (plan.mass > 0).all()
    torch.testing.assert_close(a.new_zeros(n).index_add(0, plan.rows, plan.mass), a)
    torch.testing.assert_close(b.new_zeros(m).index_add(0, plan.cols, plan.mass), b)


@pytest.mark.usefixtures("some_pairs")
def test_few_pairs_are_enough(monkeypatch):
    # Catches a start so poor, or a check so strict, that every problem falls back to all pairs.
    def forbidden(*_):
        raise AssertionError("all pairs were taken")

    monkeypatch.setattr(_network_simplex, "_on_all_pairs", forbidden)
    for case in ("plane", "high dimension", "unequal counts", "weights", "ties"):
        x, y, options = CASES[case]
        exact_plan(x, y, **options)


@pytest.mark.usefixtures("some_pairs")
def test_sorted_points_are_matched_on_the_line():
    x, y = cloud(600, 1), cloud(600, 1, seed=1).exp()
    plan = exact_plan(x, y)
    assert torch.equal(plan.permutation[x[:, 0].argsort()], y[:, 0].argsort())


@pytest.mark.usefixtures("some_pairs")
def test_a_brenier_map_is_found_however_shuffled():
    x, root = cloud(600, 3), cloud(3, 3, seed=1)
    y = x @ (root @ root.T + torch.eye(3))
    plan = exact_plan(x, y)
    assert torch.equal(plan.permutation, torch.arange(600))
    shuffles = [torch.randperm(600, generator=torch.Generator().manual_seed(k)) for k in (0, 1)]
    moved = exact_plan(x[shuffles[0]], y[shuffles[1]])
    assert torch.equal(shuffles[1][moved.permutation], shuffles[0])
    assert moved.cost == pytest.approx(plan.cost, rel=1e-12)


@pytest.mark.usefixtures("some_pairs")
@pytest.mark.parametrize("p", [1.0, 2.0])
@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_any_initial_potential_leads_to_the_optimum(p, unit):
    # Catches potentials taken as feasible, or read in the unit of the rescaled cost.
    x, y = unit * cloud(300), unit * (cloud(300, seed=1) + 1)
    cold = exact_plan(x, y, p=p)
    moved = exact_plan(x + 0.1 * unit * cloud(300, seed=2), y, p=p)
    wrong = unit**p * cloud(300, 1, seed=3)[:, 0]
    for init in (
        (cold.potential_x, cold.potential_y),
        (moved.potential_x, moved.potential_y),
        (wrong, wrong),
        (wrong[:7], 100 * wrong),  # only that of y counts
    ):
        warm = exact_plan(x, y, p=p, init=init)
        assert torch.equal(warm.permutation, cold.permutation)
        assert warm.cost == pytest.approx(cold.cost, rel=1e-12)


@pytest.mark.parametrize("n", [4, 300])
@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.tensor(0.0), torch.full((4,), torch.inf)])
def test_bad_initial_potential(n, wrong):
    with pytest.raises(ValueError, match="init must be a pair"):
        exact_plan(cloud(n), cloud(4), init=(torch.zeros(n), wrong))


def test_permutation_refuses_a_plan_that_splits():
    with pytest.raises(ValueError, match="no permutation"):
        _ = exact_plan(cloud(4), cloud(6)).permutation


def test_a_solver_that_stops_early_is_reported(monkeypatch):
    monkeypatch.setattr(_network_simplex, "_MAX_PIVOTS", 1)
    with pytest.raises(RuntimeError, match="Use fewer points"):
        exact_plan(cloud(50), cloud(50, seed=1))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(3), {}, "x must be a cloud of shape"),
        (torch.zeros(0, 2), {}, "at least one point"),
        (torch.zeros(3, 2, dtype=torch.int64), {}, "float32 or float64"),
        (torch.full((3, 2), torch.nan, dtype=torch.float64), {}, "NaN or infinity"),
        (torch.zeros(3, 1, dtype=torch.float64), {}, "must agree"),
        (torch.zeros(3, 2), {}, "must agree"),
        (cloud(3), {"p": 0.5}, "p must be"),
        (cloud(3), {"weights_x": torch.ones(2)}, "one weight per point"),
        (cloud(3), {"weights_x": torch.tensor([1.0, 0.0, 1.0])}, "must be positive"),
        (cloud(3), {"weights_y": torch.tensor([1.0, torch.nan, 1.0, 1.0])}, "must be positive"),
    ],
)
def test_bad_input(x, options, message):
    with pytest.raises(ValueError, match=message):
        exact_plan(x, cloud(4), **options)


def test_bad_values():
    plan = exact_plan(cloud(3), cloud(4))
    with pytest.raises(ValueError, match="values_y must have shape"):
        plan.barycenter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="values_x must have shape"):
        plan.pushforward(torch.zeros(4, 2))
