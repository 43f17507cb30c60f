"""The mean-field equation on the torus: exact solutions, conserved and falling quantities, rates,
and the particles that approximate it.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skwgf.flows.spectral import rough_field, solve_mean_field, torus_grid
from skwgf.flows.torus import TorusVelocity
from skwgf.kernels import RieszKernel


def cosine(n, d=1, k=1):
    """The sum of cos(2 pi k x) over the coordinates."""
    return torch.cos(2 * math.pi * k * torus_grid(n, d)).sum(-1)


def tilted_start(n, d=1):
    """A smooth start that is neither even nor small."""
    grid = 2 * math.pi * torus_grid(n, d)
    return torch.exp(0.5 * torch.sin(grid).sum(-1) + 0.3 * torch.cos(2 * grid[..., 0] + 1))


def slope(times, values):
    """The slope of the logarithms."""
    return float(np.polyfit(np.log(times.numpy()), np.log(values.numpy()), 1)[0])


@pytest.mark.parametrize("amplitude", [0.1, 0.6])
def test_the_logistic_solution_of_the_coulomb_flow(amplitude):
    # For s = 1 and the uniform target div v = rho - 1, so that along a characteristic rho solves
    # rho' = -rho (rho - 1). By symmetry 0 and 1/2 are characteristics.
    start = 1 + amplitude * cosine(256)
    path = solve_mean_field(start, [0, 0.5, 1, 2, 4], RieszKernel(1.0), max_step=0.02)
    for index in (0, 128):
        exact = 1 / (1 + (1 / start[index] - 1) * torch.exp(-path.times))
        assert (path.density[:, index] - exact).abs().max() < 1e-8


@pytest.mark.parametrize(("d", "s"), [(1, 1.5), (1, 2.0), (1, 2.5), (2, 2.0)])
def test_small_waves_decay_at_their_rates(d, s):
    n, size = (64, 1e-5) if d == 1 else (24, 1e-5)
    time = (2 * math.pi) ** (2 * s - 2)
    modes = [(1,), (2,), (5,)] if d == 1 else [(1, 0), (2, 1), (0, 3)]
    grid = torus_grid(n, d)
    waves = [torch.cos(2 * math.pi * grid @ grid.new_tensor(xi) + 1) for xi in modes]
    path = solve_mean_field(1 + size * sum(waves), [0.0, time], RieszKernel(s))
    for xi, wave in zip(modes, waves, strict=True):
        shares = (path.density * wave).flatten(1).mean(1)
        rate = float(np.linalg.norm(xi)) ** (2 - 2 * s)
        # Products of two waves are of order size^2.
        assert float(torch.log(shares[0] / shares[1])) == pytest.approx(rate, rel=1e-3)


@pytest.mark.parametrize("zero_mode", [0, 1])
@pytest.mark.parametrize(("d", "s", "n"), [(1, 2.0, 96), (1, 1.0, 192), (2, 2.5, 32)])
def test_the_divergence_falls_by_the_dissipation(d, s, n, zero_mode):
    # |dKL/dt + I| < 1e-3 I, by differences over an interval that is short against the rates.
    potential = 0.6 * cosine(n, d)
    top = (2 * math.pi) ** (2 - 2 * s) + zero_mode * 0.36 * 4 * math.pi**2
    marks = [k / top for k in (0.0, 0.1, 0.5, 2.0, 8.0)]
    gap = 1e-3 / top
    times = sorted({mark + shift for mark in marks for shift in (0.0, gap, 2 * gap)})
    path = solve_mean_field(
        tilted_start(n, d), times, RieszKernel(s, zero_mode), potential=potential
    )
    for k in range(0, len(times), 3):
        change = float(path.kl[k + 2] - path.kl[k]) / (times[k + 2] - times[k])
        assert change == pytest.approx(-float(path.dissipation[k + 1]), rel=1e-4)
    assert bool((path.kl.diff() < 0).all())
    assert (path.density.flatten(1).mean(1) - 1).abs().max() < 1e-13  # mass


@pytest.mark.parametrize(("d", "n"), [(1, 64), (2, 32)])
def test_the_target_is_at_rest(d, n):
    potential = cosine(n, d)
    kernel = RieszKernel((d + 3) / 2)
    path = solve_mean_field(torch.exp(-potential), [0.0, 1e4], kernel, potential=potential)
    assert path.l2.max() < 1e-9
    assert path.dissipation.abs().max() < 1e-15
    # And it is where other starts go.
    path = solve_mean_field(tilted_start(n, d), [0.0, 1e4], kernel, potential=potential)
    assert path.l2[1] < 0.1 * path.l2[0]


def test_moving_start_and_target_together():
    n, shift = 64, 9
    start, potential = tilted_start(n), cosine(n) + 0.3 * cosine(n, k=2)
    one = solve_mean_field(start, [0, 50.0], RieszKernel(2.0), potential=potential)
    other = solve_mean_field(
        start.roll(shift), [0, 50.0], RieszKernel(2.0), potential=potential.roll(shift)
    )
    torch.testing.assert_close(other.density, one.density.roll(shift, 1), rtol=1e-10, atol=1e-10)


def test_one_dimension_within_two():
    # A density of the first coordinate alone moves as it does on the circle.
    n = 32
    line, plane = tilted_start(n), tilted_start(n)[:, None].expand(n, n)
    potential = 0.5 * cosine(n)
    one = solve_mean_field(line, [0, 40.0], RieszKernel(2.0), potential=potential)
    two = solve_mean_field(
        plane, [0, 40.0], RieszKernel(2.0), potential=potential[:, None].expand(n, n)
    )
    torch.testing.assert_close(two.density, one.density[:, :, None].expand(2, n, n))
    for name in ("kl", "l2", "dissipation"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name))


def test_finer_grids_and_shorter_steps_change_little():
    times = [0.0, 10.0, 100.0]

    def solve(n, max_step=math.inf):
        start, potential = tilted_start(n), cosine(n)
        return solve_mean_field(
            start, times, RieszKernel(2.0), potential=potential, max_step=max_step
        )

    best, coarse, long = solve(192, 0.2), solve(96, 0.2), solve(192)
    assert (best.density[:, ::2] - coarse.density).abs().max() < 1e-7
    assert (best.density - long.density).abs().max() < 1e-4
    # Runge-Kutta's fourth order: halving the step divides the error by 16.
    gaps = [(solve(96, step).density - coarse.density)[2].abs().max() for step in (1.0, 0.5)]
    assert float(gaps[0] / gaps[1]) == pytest.approx(16, rel=0.2)


def test_the_divergence_near_the_target_keeps_its_digits():
    # KL = L2^2 / 2 up to a relative error of the order of the perturbation.
    for size in (1e-2, 1e-5, 1e-9):
        path = solve_mean_field(1 + size * cosine(32), [0.0], RieszKernel(2.0))
        assert float(path.kl[0]) == pytest.approx(size**2 / 4, rel=2 * size + 1e-5)


def modes(weights, points):
    """The Fourier coefficients 1 to 5 of a measure."""
    xi = torch.arange(1.0, 6.0, dtype=torch.float64)
    waves = torch.polar(torch.ones(()).double(), -2 * math.pi * xi[:, None] * points)
    return waves @ weights.to(waves.dtype)


def quantiles(start, n):
    """The quantiles (i + 1/2) / n of a smooth density on the grid, by Newton's method."""
    waves = torch.fft.rfft(start / start.mean(), norm="forward")[1:-1, None]
    xi = torch.arange(1.0, len(waves) + 1, dtype=torch.float64)[:, None]
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = levels.clone()
    for _ in range(30):
        turns = torch.polar(torch.ones(()).double(), 2 * math.pi * xi * x)
        primitive = x + (waves * (turns - 1) / (1j * math.pi * xi)).sum(0).real
        x = x - (primitive - levels) / (1 + 2 * (waves * turns).sum(0).real)
    return x


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_particles_follow_the_density(strength):
    # From the quantiles of the start, modes 1 to 5, at n = 1000 and s = 2.
    n_grid, n, step = 192, 1000, 1.0
    start, potential = tilted_start(n_grid), strength * cosine(n_grid)
    times = [0.0, 20.0, 100.0]
    path = solve_mean_field(start, times, RieszKernel(2.0), potential=potential, max_step=step)

    def score(z):
        return 2 * math.pi * strength * torch.sin(2 * math.pi * z)

    field = TorusVelocity(score, 1, RieszKernel(2.0))
    grid, even = torus_grid(n_grid, 1)[:, 0], torch.full((n,), 1 / n, dtype=torch.float64)
    x, now = quantiles(start, n)[:, None], 0.0
    for time, density, dissipation in zip(times, path.density, path.dissipation, strict=True):
        while now < time:
            k1 = field(x).direction
            k2 = field(x + step / 2 * k1).direction
            k3 = field(x + step / 2 * k2).direction
            k4 = field(x + step * k3).direction
            x, now = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4), now + step
        gap = modes(even, x[:, 0]) - modes(density / n_grid, grid)
        assert gap.abs().max() < 1e-6
        # Particles are a lattice locally, and the kernel sees its grain: 1 / (12 n^2) more.
        grain = 1 / (12 * n**2)
        assert field(x).energy == pytest.approx(float(dissipation) + grain, rel=1e-6)


def front(xi, s, least=1.0):
    """Times at which modes below xi have decayed where the target has the density `least`."""
    return [0.0, *((2 * math.pi * np.asarray(xi)) ** (2 * s - 2) / (2 * least))]


@pytest.mark.parametrize(
    ("s", "r"),
    [
        pytest.param(s, r, marks=[pytest.mark.slow] * (s == 2.5))
        for s in (1.5, 2.0, 2.5)
        for r in (1, 2)
    ],
)
def test_algebraic_rates_about_the_uniform_target(s, r):
    n = 1024  # resolved up to 341
    start = 1 + 0.05 * rough_field(n, 1, r)
    path = solve_mean_field(start, front(np.geomspace(5, 30, 30), s), RieszKernel(s))
    rate = r / (2 * (s - 1))
    assert slope(path.times[1:], path.l2[1:]) == pytest.approx(-rate, rel=0.05)
    assert slope(path.times[1:], path.kl[1:]) == pytest.approx(-2 * rate, rel=0.05)


@pytest.mark.parametrize("r", [1, 2])
def test_algebraic_rates_about_another_target(r):
    # Modes couple, so that the powers show later; the other orders are in benchmarks/torus.py.
    n, s = 8192, 1.5
    potential = cosine(n)
    target = torch.exp(-potential)
    least = float(target.min() / target.mean())
    start = target * (1 + 0.05 * rough_field(n, 1, r))
    times = front(np.geomspace(80, 300, 30), s, least)
    path = solve_mean_field(start, times, RieszKernel(s), potential=potential)
    rate = r / (2 * (s - 1))
    assert slope(path.times[1:], path.l2[1:]) == pytest.approx(-rate, rel=0.1)
    assert slope(path.times[1:], path.kl[1:]) == pytest.approx(-2 * rate, rel=0.1)


def test_algebraic_rates_in_two_dimensions():
    n, s, r = 144, 2.0, 1.0
    start = 1 + 0.05 * rough_field(n, 2, r)
    path = solve_mean_field(start, front(np.geomspace(2, 8, 15), s), RieszKernel(s))
    assert slope(path.times[1:], path.l2[1:]) == pytest.approx(-r / 2, rel=0.05)
    assert slope(path.times[1:], path.kl[1:]) == pytest.approx(-r, rel=0.05)


def test_exponential_rates_of_the_coulomb_flow():
    n, times = 256, torch.linspace(0, 30, 31)
    late = torch.linspace(0, 60, 31)
    rough = 1 + 0.3 * rough_field(n, 1, 1.0)
    path = solve_mean_field(rough, times, RieszKernel(1.0))
    assert slope(torch.exp(path.times[5:]), path.l2[5:]) == pytest.approx(-1, rel=0.01)
    assert slope(torch.exp(path.times[5:]), path.kl[5:]) == pytest.approx(-2, rel=0.01)
    # Towards exp(-V) waves at x decay at the rate of the density there. For V = cos 2 pi x the
    # least is .2906, but the linearised equation has the eigenvalues .2768 and .2827 as well.
    potential = cosine(n)
    path = solve_mean_field(
        torch.exp(-potential) * rough, late, RieszKernel(1.0), potential=potential
    )
    rates = -path.l2.log().diff() / 2
    assert bool((rates.diff() < 0).all())
    assert float(path.target.min()) == pytest.approx(0.2906, abs=1e-4)
    assert 0.2768 < float(rates[-1]) < 0.2906


@pytest.mark.parametrize(("d", "n"), [(1, 1024), (2, 96)])
def test_rough_fields(d, n):
    # Coefficients |xi|^(-r - d/2), in one dimension and two.
    field = rough_field(n, d, 1.5)
    assert float(field.abs().max()) == pytest.approx(1)
    sizes = torch.fft.fftn(field).abs()
    first = float(sizes[(0,) * (d - 1) + (1,)])
    assert float(sizes.flatten()[0]) < 1e-12 * first
    other = float(sizes[(3,) * (d - 1) + (4,)])
    assert first / other == pytest.approx((5.0 if d == 2 else 4.0) ** (1.5 + d / 2))


def test_rough_fields_are_rough_everywhere():
    # The energy of the upper octave in eighths of the circle: equal, not in one place.
    waves = torch.fft.rfft(rough_field(1024, 1, 1.5))
    waves[:171] = 0
    parts = torch.fft.irfft(waves).square().view(8, 128).mean(1)
    assert float(parts.std() / parts.mean()) < 0.1


def test_bad_arguments():
    kernel, flat = RieszKernel(2.0), torch.ones(16)
    for arguments, match in (
        ((torch.ones(16, 8), [0.0], kernel), "shape"),
        ((torch.ones(9), [0.0], kernel), "even"),
        ((flat - 1, [0.0], kernel), "positive"),
        ((flat, [1.0, 0.0], kernel), "increasing"),
        ((flat, [], kernel), "increasing"),
    ):
        with pytest.raises(ValueError, match=match):
            solve_mean_field(*arguments)
    with pytest.raises(ValueError, match="shape of density"):
        solve_mean_field(flat, [0.0], kernel, potential=torch.ones(8))
    with pytest.raises(ValueError, match="finite"):
        solve_mean_field(flat, [0.0], kernel, potential=flat * math.inf)
    with pytest.raises(ValueError, match="max_step"):
        solve_mean_field(flat, [0.0], kernel, max_step=0.0)
    spike = torch.full((16,), 1e-3)
    spike[3] = 1.0
    with pytest.raises(ValueError, match="cut off"):
        solve_mean_field(spike, [0.0], kernel)
