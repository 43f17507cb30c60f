"""The semi-discrete map: known maps, equal masses, and a potential that follows a moving law."""

from __future__ import annotations

import math

import pytest
import torch
from scenarios import (
    DTYPE,
    GaussianPair,
    Permutation,
    exponential_quantile,
    generator,
    line_problem,
    normal,
    uniform_levels,
)

from skwgf.transport import (
    SemidiscreteTransport,
    cell_index,
    cell_probabilities,
    exact_plan,
    half_squared_distance,
    semidiscrete,
    sinkhorn,
)
from skwgf.transport.semidiscrete import dual_sweep, self_dual


def solved(x, y, **options):
    transport = SemidiscreteTransport(y, **options)
    transport.solve(x)
    return transport


def rms(x):
    return float(x.square().sum(1).mean().sqrt())


@pytest.mark.parametrize("n", [500, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gaussian_to_gaussian_is_the_bures_map(n, seed):
    # In two dimensions n points and n rows determine the map up to sqrt(log(n) / n), the rate of
    # the empirical Wasserstein distance. Measured on unseen points, with standard deviations of
    # order one: 2.2 to 3.1 times that for n = 250 ... 2000. The translation between the means,
    # the best map that ignores the covariances, is off by .40 to 1.17.
    pair = GaussianPair.random(2, seed)
    transport = solved(pair.draw_x(n, seed + 60), pair.draw_y(n, seed + 50))
    x = pair.draw_x(4000, seed + 70)
    images = transport(x)
    assert rms(images - pair.map(x)) < 4 * math.sqrt(math.log(n) / n)
    # The affine fit averages the cells: its error is that of a mean and a covariance of n draws,
    # a few times 1 / sqrt(n). The identity is off by .25 to .89.
    design = torch.cat([x - pair.mean_x, torch.ones(len(x), 1, dtype=DTYPE)], 1)
    fit = torch.linalg.lstsq(design, images).solution
    assert (fit[:2] - pair.matrix()).abs().max() < 4 / math.sqrt(n)
    assert (fit[2] - pair.mean_y).abs().max() < 5 / math.sqrt(n)


@pytest.mark.parametrize(("n", "m"), [(200, 200), (1000, 500), (2000, 500)])
def test_line_is_the_quantile_map(n, m):
    # Increasing on unseen points, and right in level up to the sample of the uniform law, which
    # is within sqrt(log(2 / .001) / (2 n)) of its distribution function with probability .999
    # (Dvoretzky, Kiefer, Wolfowitz), and one row.
    x, y = line_problem(n, m, seed=0)
    unseen = uniform_levels(4001)[:, None]
    cells = solved(x, y).cells(unseen)
    assert (cells.diff() >= 0).all()
    levels = (cells.to(DTYPE) + 0.5) / m
    bound = math.sqrt(math.log(2000) / (2 * n)) + 1 / m
    assert (levels - unseen[:, 0]).abs().max() < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sweeps_on_the_line(dtype):
    # 8192 points are more than the exact plan takes: the potential comes from sweeps. They blur
    # by sqrt(reg), and the first correction is that of equal laws, not of these two.
    y = exponential_quantile(uniform_levels(500))[:, None].to(dtype)
    x = torch.rand(8192, 1, generator=generator(3), dtype=DTYPE).to(dtype)
    transport = solved(x, y)
    unseen = uniform_levels(4001)[:, None].to(dtype)
    cells = transport.cells(unseen)
    assert transport.potential.dtype == dtype
    assert (cells.diff() >= 0).all()
    levels = (cells.to(DTYPE) + 0.5) / 500
    # sqrt(reg) = .1 on the unit interval; measured .028 rms, .040 at most.
    assert (levels - unseen[:, 0].to(DTYPE)).square().mean().sqrt() < 0.05
    assert (levels - unseen[:, 0].to(DTYPE)).abs().max() < 0.08


def test_more_than_five_thousand_rows_on_the_line():
    # Rows 2u + 1 in shuffled order. sqrt(reg) = .08; measured .025 rms, .042 at most.
    m = 5100
    shuffle = torch.randperm(m, generator=generator(4))
    y = (2 * uniform_levels(m)[:, None] + 1)[shuffle].float()
    x = torch.rand(5120, 1, generator=generator(3), dtype=DTYPE).float()
    unseen = uniform_levels(2001)[:, None].float()
    error = solved(x, y)(unseen) - (2 * unseen + 1)
    assert rms(error) < 0.05
    assert error.abs().max() < 0.08


def test_cells_have_equal_mass():
    # 1000 points and 200 rows: five points to a row. The potential is a vertex of the dual
    # polyhedron, which puts some points on the border of two cells: these may go either way.
    pair = GaussianPair.random(2, 0)
    x, y = pair.draw_x(1000, 2), pair.draw_y(200, 1)
    plan = exact_plan(x, y)
    transport = solved(x, y)
    counts = torch.bincount(transport.cells(x), minlength=200)
    assert counts.min() >= 2
    assert counts.max() <= 9
    assert counts.to(DTYPE).std() < 1.0
    # Exactly: every point is in a cell whose row the plan sends it to, up to ties.
    reduced = half_squared_distance(x, y) - transport.potential
    best = reduced.min(1).values
    assert (reduced[plan.rows, plan.cols] - best[plan.rows]).abs().max() < 1e-10
    # The mass of a cell on fresh points is known to 1/sqrt(5) = .45 (measured .42), while the
    # rows' own cells (potential zero) are wide of the mark.
    fresh = pair.draw_x(100_000, 3)
    mass = torch.bincount(transport.cells(fresh), minlength=200).to(DTYPE) / 500
    assert mass.std() < 0.55
    own = torch.bincount(cell_index(fresh, y, torch.zeros(200, dtype=DTYPE)), minlength=200)
    assert (own.to(DTYPE) / 500).std() > 2.0


@pytest.mark.parametrize("reg", [0.0, 1e-9])
def test_map_agrees_with_the_exact_plan(reg):
    # 200 points and 20 rows: ten points to a row. The potential is a vertex of the dual
    # polyhedron, which puts at most 19 points on the border of two cells, where both rows are
    # optimal; all others go where the plan sends them, also with a smoothing far below the gaps.
    x, y = normal(200, 3, 1), 2.0 * normal(20, 3, 2) + 1.0
    plan = exact_plan(x, y)
    transport = solved(x, y, reg=reg)
    two = (half_squared_distance(x, y) - transport.potential).topk(2, largest=False).values
    clear = two[:, 1] - two[:, 0] > 1e-6
    assert clear.sum() >= 181
    expected = plan.barycenter(y)[clear]
    torch.testing.assert_close(transport(x)[clear], expected, rtol=0, atol=1e-9)


def test_entropic_potential_tends_to_the_exact_one():
    # Between the dual of reg and the exact dual lies at most reg log n (the entropy of a plan),
    # and the entropic map tends to the permutation.
    problem = Permutation.convex(40, 2, seed=2)
    images = problem.y[problem.image]
    exact = problem.squared_distance() / 2
    errors = []
    for reg in (1e-1, 1e-2, 1e-3):
        plan = sinkhorn(problem.x, problem.y, reg, tol=1e-5, max_iter=100_000)
        assert plan.converged
        assert exact - 1e-4 <= plan.value <= exact + reg * math.log(40)
        transport = SemidiscreteTransport(problem.y, reg=reg)
        transport.potential = plan.g
        torch.testing.assert_close(transport(problem.x), plan.barycentric_map())
        errors.append(rms(transport(problem.x) - images))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_cell_index_is_the_argmin():
    x, y = normal(3000, 4, 3), normal(50, 4, 4)  # three tiles
    potential = normal(50, 1, 5)[:, 0]
    expected = (half_squared_distance(x, y) - potential).argmin(1)
    assert torch.equal(cell_index(x, y, potential), expected)


def test_cell_probabilities_are_the_softmin():
    x, y = normal(30, 4, 3), normal(50, 4, 4)
    potential = normal(50, 1, 5)[:, 0]
    expected = (-(half_squared_distance(x, y) - potential) / 0.3).softmax(1)
    torch.testing.assert_close(cell_probabilities(x, y, potential, 0.3), expected)


def test_constant_added_to_the_potential_changes_nothing():
    x, y = normal(200, 2, 6), normal(50, 2, 7)
    transport = solved(x, y, reg=0.1)
    cells, images = transport.cells(x), transport(x)
    transport.potential = transport.potential + 3.0
    assert torch.equal(transport.cells(x), cells)
    torch.testing.assert_close(transport(x), images)


def test_fixed_point_of_the_sweep_has_equal_masses():
    x, y = normal(400, 2, 8) + 1.0, normal(60, 2, 9)
    dual = sinkhorn(x, y, 0.2, tol=1e-10).g
    torch.testing.assert_close(dual_sweep(x, y, dual, 0.2), dual, rtol=0, atol=1e-8)
    # From elsewhere the mass of a row that has too much falls.
    raised = dual.clone()
    raised[7] += 0.3
    assert dual_sweep(x, y, raised, 0.2)[7] < raised[7] - 0.1


def test_sweep_survives_an_empty_cell():
    # A row that no point of the batch is near: its potential rises, but stays finite.
    x, y = normal(50, 2, 10).float(), torch.tensor([[0.0, 0.0], [1e4, 0.0]])
    dual = dual_sweep(x, y, torch.zeros(2), 0.01)
    assert torch.isfinite(dual).all()
    assert dual[1] > dual[0]


def test_self_dual_is_that_of_the_rows_to_themselves():
    y = normal(300, 2, 11)
    dual = self_dual(y, 0.1)
    mass = cell_probabilities(y, y, dual, 0.1).mean(0) * len(y)
    assert (mass - 1).abs().mean() < 1e-4


def test_rows_that_are_their_own_law_have_potential_zero():
    # The exact statement behind the correction: at equilibrium every row maps to itself.
    y = normal(400, 2, 12)
    transport = SemidiscreteTransport(y)
    transport.update(y)
    centred = transport.potential - transport.potential.mean()
    assert centred.abs().max() < 1e-3 * transport.sweep_reg
    assert torch.equal(transport(y), y)


def share_of_own_dual(y, n_batches, *, sweep_reg):
    """Return how much of the rows' own dual vector an update adds to a potential of zero.

    The updates are made on fresh draws of the rows' law. Returned are the mean over the batches
    of the regression coefficient of the potential on that vector, and its standard error.
    """
    transport = SemidiscreteTransport(y, sweep_reg=sweep_reg)
    own = self_dual(y, transport.sweep_reg)
    own = own - own.mean()
    source, shares = generator(13), []
    for _ in range(n_batches):
        transport.potential = torch.zeros(len(y), dtype=y.dtype)
        transport.update(y[torch.randint(len(y), (4096,), generator=source)])
        shares.append(float(transport.potential @ own / (own @ own)))
    sample = torch.tensor(shares)
    return float(sample.mean()), float(sample.std()) / math.sqrt(n_batches)


def test_update_is_unbiased_at_equilibrium(monkeypatch):
    # On fresh samples of the rows' own law the potential is zero up to the noise of the batch.
    # Without the correction it heads for the potential of smoothed cells, which read without
    # smoothing gives the rows at the rim more than their share; the coarse sweeps make it several
    # times the own dual of the fine one. Bug caught: the missing (or added) own dual vector, by
    # which a law that has arrived goes on to spread outwards.
    y = normal(200, 2, 12)
    share, error = share_of_own_dual(y, 20, sweep_reg=0.1)
    assert abs(share) < 4 * error
    assert error < 0.05
    monkeypatch.setattr(
        semidiscrete,
        "self_dual",
        lambda rows, reg: torch.zeros(len(rows), dtype=DTYPE),
    )
    share, error = share_of_own_dual(y, 20, sweep_reg=0.1)
    assert share > 1 + 4 * error


@pytest.mark.slow
def test_update_is_unbiased_at_equilibrium_with_the_default_regularisation():
    # The same where the noise of a batch is as large as the bias: 150 batches make it visible.
    y = normal(200, 2, 12)
    share, error = share_of_own_dual(y, 150, sweep_reg=0.01)
    assert abs(share) < 3 * error
    assert error < 0.15


def test_update_tracks_a_translated_law_at_the_rate_of_sinkhorn():
    # When the law moves by s the potential gains -s.y. A sweep between Gaussians of unit variance
    # contracts the error of that slope by rho^2, rho = sqrt(1 + r^2/4) - r/2 the correlation of
    # the entropic plan at regularisation r; an update sweeps at three of them. The sample's
    # variance and mean are off by some percent.
    y, x = normal(400, 2, 14), normal(4000, 2, 15)
    shift = torch.tensor([0.2, -0.1], dtype=DTYPE)
    resting, moving = (solved(x, y, sweep_reg=0.05) for _ in range(2))
    kept_error = 1.0
    for factor in (100, 10, 1):
        r = factor * resting.sweep_reg
        kept_error *= (math.sqrt(1 + r * r / 4) - r / 2) ** 2
    design = torch.cat([y, torch.ones(400, 1, dtype=DTYPE)], 1)
    for k in range(1, 5):
        resting.update(x)
        moving.update(x + shift)
        change = (moving.potential - resting.potential)[:, None]
        slope = torch.linalg.lstsq(design, change).solution[:2, 0]
        expected = -shift * (1 - kept_error**k)
        torch.testing.assert_close(slope, expected, rtol=0.1, atol=0.003)
    # Then nearly all of the moved points have the rows they had.
    kept = moving.cells(x + shift) == resting.cells(x)
    assert kept.to(DTYPE).mean() > 0.9


def test_side_decides_but_is_not_mapped():
    # Two rows at the same distance: the side coordinate tells them apart.
    y = torch.tensor([[1.0], [-1.0]], dtype=DTYPE)
    side_y = torch.tensor([[0.0], [4.0]], dtype=DTYPE)
    x, side_x = torch.zeros(6, 1, dtype=DTYPE), torch.tensor([[4.0], [0.0]] * 3, dtype=DTYPE)
    for reg in (0.0, 0.01):
        transport = SemidiscreteTransport(y, side=side_y, reg=reg)
        transport.solve(x, side_x)
        expected = torch.tensor([[-1.0], [1.0]] * 3, dtype=DTYPE)
        torch.testing.assert_close(transport(x, side_x), expected)
        transport.update(x, side_x)
        torch.testing.assert_close(transport(x, side_x), expected)


def test_side_is_the_same_as_more_columns():
    x, y = normal(300, 4, 16), normal(80, 4, 17) + 1.0
    joint = solved(x, y)
    transport = SemidiscreteTransport(y[:, :3], side=y[:, 3:])
    transport.solve(x[:, :3], x[:, 3:])
    torch.testing.assert_close(transport.potential, joint.potential)
    torch.testing.assert_close(transport(x[:, :3], x[:, 3:]), joint(x)[:, :3])
    joint.update(x + 0.1)
    transport.update(x[:, :3] + 0.1, x[:, 3:] + 0.1)
    torch.testing.assert_close(transport.potential, joint.potential)


def test_smoothed_map_is_tiled_right():
    x, y = normal(2500, 2, 18), normal(30, 2, 19)
    transport = solved(x[:500], y, reg=0.2)
    expected = cell_probabilities(x, y, transport.potential, 0.2) @ y
    torch.testing.assert_close(transport(x), expected)


def test_state_round_trip():
    x, y = normal(300, 2, 20), normal(50, 2, 21)
    transport = solved(x, y)
    state = transport.state_dict()
    kept = state["potential"].clone()
    transport.update(x + 1.0)
    changed = transport.potential.clone()
    assert not torch.equal(changed, kept)
    assert torch.equal(state["potential"], kept)  # it is a copy
    transport.load_state_dict(state)
    assert torch.equal(transport.potential, kept)
    transport.update(x + 1.0)
    assert torch.equal(transport.potential, changed)
    transport.load_state_dict(state)
    transport.potential += 1.0
    assert torch.equal(state["potential"], kept)


@pytest.mark.parametrize("n_rows", [1, 3])
def test_identical_rows(n_rows):
    y = torch.ones(n_rows, 2, dtype=DTYPE)
    x = normal(20, 2, 22)
    transport = solved(x, y)
    transport.update(x)
    assert torch.equal(transport(x), torch.ones(20, 2, dtype=DTYPE))


def test_identical_rows_and_many_points():
    transport = solved(normal(5001, 2, 23), torch.ones(3, 2, dtype=DTYPE))
    assert torch.equal(transport(normal(9, 2, 24)), torch.ones(9, 2, dtype=DTYPE))


def skipped_rows_share(monkeypatch, d):
    """Return the mass of every other row when there are too many rows for an exact plan."""
    monkeypatch.setattr(semidiscrete, "_EXACT_ROWS", 500)
    transport = solved(normal(4096, d, 25), normal(1000, d, 26))
    return float((transport.cells(normal(4096, d, 27)) % 2 == 1).to(DTYPE).mean())


def test_rows_that_are_skipped_get_their_mass_on_the_line(monkeypatch):
    assert skipped_rows_share(monkeypatch, 1) == pytest.approx(0.5, abs=0.06)


def test_rows_that_are_skipped_get_their_mass(monkeypatch):
    # In several dimensions the nearest other row is far away in units of reg. Half the mass
    # belongs to each half of the rows; measured 0 in eight dimensions.
    assert skipped_rows_share(monkeypatch, 8) == pytest.approx(0.5, abs=0.06)
