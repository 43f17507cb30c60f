"""The velocity on the torus: lattices, all pairs, autograd, symmetries, one method by another."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from skwgf.flows import ParticleCarrier, run_flow
from skwgf.flows.torus import (
    TorusVelocity,
    fourier_velocity,
    line_velocity,
    mode_weights,
    wrap,
)
from skwgf.kernels import RieszKernel


def cloud(n, d, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, d, generator=generator, dtype=torch.float64).to(dtype)


def tilted(x):
    """A score without symmetries."""
    return 2 * math.pi * torch.sin(2 * math.pi * x) + torch.cos(4 * math.pi * x.flip(1) + 1)


def bernoulli(m, u):
    """B_m(u) / m!, for u in [0, 1), from the tables of Abramowitz and Stegun."""
    tables = {
        0: (1,),
        1: (-1 / 2, 1),
        2: (1 / 6, -1, 1),
        3: (0, 1 / 2, -3 / 2, 1),
        4: (-1 / 30, 0, 1, -2, 1),
        5: (0, -1 / 6, 0, 5 / 3, -5 / 2, 1),
        6: (1 / 42, 0, -1 / 2, 0, 5 / 2, -3, 1),
    }
    return sum(c * u**k for k, c in enumerate(tables[m])) / math.factorial(m)


def double_sum(x, scores, s, zero_mode):
    """The velocity and the dissipation by the sum over all pairs; at s = 1 without own terms."""
    u = wrap(x[:, None] - x[None])
    sign = (-1) ** (s + 1)
    value, slope, bend = (sign * bernoulli(2 * s - k, u) for k in range(3))
    value = value + zero_mode
    if s == 1:
        slope, bend = (part - torch.diag(part.diag()) for part in (slope, bend))
    direction = (value @ scores - slope.sum(1)) / len(x)
    energy = scores @ value @ scores - 2 * scores @ slope.sum(1) - bend.sum()
    return direction, float(energy) / len(x) ** 2


def trigonometric(x, y, kernel, n_modes):
    """k(x, y) of one pair by the complex series, differentiable."""
    d = len(x)
    xi = torch.cartesian_prod(*[torch.arange(-n_modes, n_modes + 1.0)] * d).view(-1, d).to(x)
    symbol = kernel.symbol(xi.square().sum(1), n_modes)
    return (symbol * torch.cos(2 * math.pi * xi @ (x - y))).sum()


@pytest.mark.parametrize("zero_mode", [0, 1])
@pytest.mark.parametrize("s", [1, 2, 3])
def test_the_line_against_all_pairs(s, zero_mode):
    x = cloud(300, 1)[:, 0]
    scores = tilted(x[:, None])[:, 0]
    direction, energy = double_sum(x, scores, s, zero_mode)
    velocity = line_velocity(x, scores, s, zero_mode=zero_mode)
    assert (velocity.direction - direction).abs().max() < 1e-12
    assert velocity.energy == pytest.approx(energy, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize(("s", "n_modes"), [(2, 8192), (3, 800), (4, 200), (8, 50)])
def test_the_line_against_the_series(s, n_modes):
    # The tail of the velocity is below sum_(m > M) 2 (2 pi m)^(1 - 2 s).
    x = cloud(40, 1)
    exact = TorusVelocity(tilted, 1, RieszKernel(s, 1))
    series = TorusVelocity(tilted, 1, RieszKernel(s, 1), n_modes=n_modes)
    assert (exact.n_modes, series.n_modes) == (None, n_modes)
    gap = (exact(x).direction - series(x).direction).abs().max()
    assert gap < 1e-10
    # Of the energy 2 sum (2 pi m)^(2 - 2 s), over the count.
    tail = 2 * (2 * math.pi) ** (2 - 2 * s) * n_modes ** (3 - 2 * s) / (2 * s - 3)
    assert exact(x).energy == pytest.approx(series(x).energy, rel=1e-12, abs=2 * tail)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kind", ["riesz", "coulomb"])
def test_the_series_against_autograd(d, kind):
    # Velocity and k_pi from the complex series and derivatives of it: catches a factor of a mode
    # on an axis, a wrong sign of the repulsion, axes that are mixed up.
    n, n_modes = 4, {1: 6, 2: 3, 3: 2}[d]
    field = TorusVelocity(tilted, d, RieszKernel(None, 1, kind), n_modes=n_modes)
    x = cloud(n, d)
    scores = tilted(x)
    direction, energy = torch.zeros_like(x), 0.0
    for i in range(n):
        for j in range(n):
            a, b = x[i].clone().requires_grad_(), x[j].clone().requires_grad_()
            value = trigonometric(a, b, field.kernel, n_modes)
            grad_a, grad_b = torch.autograd.grad(value, (a, b), create_graph=True)
            mixed = sum(
                torch.autograd.grad(grad_a[k], b, retain_graph=True)[0][k] for k in range(d)
            )
            direction[i] += (value * scores[j] + grad_b).detach() / n
            stein = value * scores[i] @ scores[j] + scores[i] @ grad_b + scores[j] @ grad_a + mixed
            energy += float(stein.detach()) / n**2
    velocity = field(x)
    torch.testing.assert_close(velocity.direction, direction, rtol=1e-11, atol=1e-13)
    assert velocity.energy == pytest.approx(energy, rel=1e-11)


@pytest.mark.parametrize("s", [1, 2, 3])
def test_evenly_spaced_particles_rest(s):
    # Only modes that are multiples of n are left: I = 2 n^(2 - 2 s) zeta(2 s - 2) (2 pi)^(2 - 2 s).
    n, zeta = 50, {2: math.pi**2 / 6, 3: math.pi**4 / 90}
    x = (torch.arange(n, dtype=torch.float64)[:, None] + 0.3) / n
    velocity = line_velocity(x[:, 0], torch.zeros(n, dtype=torch.float64), s)
    assert velocity.direction.abs().max() < 1e-14
    # At s = 1 without own terms: the whole of -k'' is -1 off the diagonal.
    exact = -(1 - 1 / n) if s == 1 else 2 * zeta[s] * (2 * math.pi * n) ** (2 - 2 * s)
    assert velocity.energy == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_wave_decays_at_its_rate(d):
    # A lattice moved by a small wave of frequency xi: v = -|2 pi xi|^(2 - 2 s) times the wave.
    n = {1: 400, 2: 40, 3: 20}[d]
    lattice = torch.cartesian_prod(*[torch.arange(n, dtype=torch.float64) / n] * d).view(-1, d)
    xi = torch.tensor([2.0, 1.0, 0.0][:d], dtype=torch.float64)
    size = 1e-6
    wave = size * xi * torch.sin(2 * math.pi * lattice @ xi)[:, None]
    for s, n_modes in ((3.0, None if d == 1 else 6), (2.5, 6)):
        field = TorusVelocity(torch.zeros_like, d, RieszKernel(s), n_modes=n_modes)
        velocity = field(lattice + wave)
        rate = (4 * math.pi**2 * float(xi.square().sum())) ** (1 - s)
        # Second order in the size; on the line the lattice itself has the error 1 / n^2.
        assert (velocity.direction + rate * wave).abs().max() < 1e-4 * rate * size * 4


@pytest.mark.parametrize("d", [1, 2, 3])
def test_all_resolved_modes_of_the_saturated_kernel_decay_alike(d):
    squares = torch.tensor([1.0, 4.0, 9.0, 16.0, 25.0], dtype=torch.float64) * d
    kernel = RieszKernel(kind="coulomb")
    rates = 4 * math.pi**2 * squares * kernel.symbol(squares, 20)
    assert (rates - 1).abs().max() < 2e-3
    assert float(kernel.symbol(squares.new_tensor(400.0), 20)) < 1e-15
    field = TorusVelocity(torch.zeros_like, d, RieszKernel(kind="coulomb"), n_modes=8)
    assert field(cloud(30, d)).energy > 0


@pytest.mark.parametrize(("d", "s"), [(1, 2), (1, 1.5), (2, None), (3, None)])
def test_symmetries(d, s):
    # Moving cloud and target together, whole turns, and the order of the particles.
    x = cloud(60, d, seed=1)
    shift = cloud(1, d, seed=2)
    shuffle = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    base = TorusVelocity(tilted, d, RieszKernel(s))(x)
    moved = TorusVelocity(lambda z: tilted(z - shift), d, RieszKernel(s))(x + shift)
    turned = TorusVelocity(tilted, d, RieszKernel(s))(x + torch.arange(-30.0, 30.0)[:, None])
    shuffled = TorusVelocity(tilted, d, RieszKernel(s))(x[shuffle])
    for other in (moved, turned):
        torch.testing.assert_close(other.direction, base.direction, rtol=1e-9, atol=1e-11)
        assert other.energy == pytest.approx(base.energy, rel=1e-9)
    torch.testing.assert_close(shuffled.direction, base.direction[shuffle], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_blocks_and_tables_made_twice_change_nothing(d, monkeypatch):
    # Catches a last block that is cut short, and sums that are started again.
    x, weights = cloud(500, d), mode_weights(RieszKernel(3.0), d, 3, torch.zeros(1).double())
    whole = fourier_velocity(x, tilted(x), weights)
    monkeypatch.setattr("skwgf.flows.torus._BLOCK_ENTRIES", 2000)
    for kept in (0, 10**9):
        monkeypatch.setattr("skwgf.flows.torus._KEPT_ENTRIES", kept)
        parts = fourier_velocity(x, tilted(x), weights)
        torch.testing.assert_close(parts.direction, whole.direction, rtol=1e-12, atol=1e-13)
        assert parts.energy == pytest.approx(whole.energy, rel=1e-12)


@pytest.mark.parametrize(("d", "s"), [(1, 2), (1, 2.5), (2, None), (3, None)])
def test_single_precision(d, s):
    x = cloud(2000, d, dtype=torch.float32)
    field = TorusVelocity(tilted, d, RieszKernel(s))
    velocity, wide = field(x), field(x.double())
    assert velocity.direction.dtype == torch.float32
    assert (velocity.direction - wide.direction).abs().max() < 2e-5 * wide.direction.abs().max()
    assert velocity.energy == pytest.approx(wide.energy, rel=1e-4)


def test_coincident_particles():
    # For s >= 2 they stay together; for s = 1 they push each other apart.
    x = torch.tensor([0.2, 0.2, 0.7], dtype=torch.float64)
    together = line_velocity(x, torch.zeros_like(x), 2).direction
    assert together[0] == pytest.approx(float(together[1]), abs=1e-15)
    apart = line_velocity(x, torch.zeros_like(x), 1).direction
    assert float(apart[1] - apart[0]) == pytest.approx(1 / 3)


def test_particles_end_at_the_law_of_the_target():
    # Spread as well as place, on the circle and in two dimensions; I falls at every step.
    for d, n, mode_step in ((1, 200, 10.0), (2, 400, 40.0)):
        field = TorusVelocity(lambda z: 2 * math.pi * torch.sin(2 * math.pi * z), d)
        carrier = ParticleCarrier(cloud(n, d) * 0.4, field, step_size=mode_step)
        energies = run_flow(carrier, max_iter=400).history["objective"]
        assert all(b < a for a, b in itertools.pairwise(energies))
        # E cos 2 pi x = -I_1(1) / I_0(1), E cos 4 pi x = I_2(1) / I_0(1) under exp(-cos 2 pi x).
        x = 2 * math.pi * carrier.particles
        for order, bessel in ((1, -0.4463899658965345), (2, 0.1072200682069310)):
            means = torch.cos(order * x).mean(0)
            assert (means - bessel).abs().max() < 0.01, (d, order)
            assert torch.sin(order * x).mean(0).abs().max() < 0.01


def test_orders_that_are_too_small():
    for d in (1, 2, 3):
        with pytest.raises(ValueError, match=r"s > d / 2 = .*coulomb"):
            TorusVelocity(tilted, d, RieszKernel(d / 2))
        with pytest.warns(UserWarning, match=r"\(d \+ 1\) / 2"):
            TorusVelocity(tilted, d, RieszKernel((d + 1) / 2))
        TorusVelocity(tilted, d, RieszKernel(kind="coulomb"))
        assert TorusVelocity(tilted, d).kernel.s == (d + 3) / 2


def test_bad_arguments():
    for arguments, match in (
        ({"d": 4}, "d must be"),
        ({"d": 1, "n_modes": 0}, "n_modes"),
        ({"d": 1, "kernel": RieszKernel(zero_mode=2)}, "zero_mode"),
        ({"d": 1, "kernel": RieszKernel(kind="gauss")}, "kind"),
        ({"d": 1, "kernel": RieszKernel(2, kind="coulomb")}, "leave s out"),
        ({"d": 1, "kernel": RieszKernel(math.inf)}, "positive number"),
    ):
        with pytest.raises(ValueError, match=match):
            TorusVelocity(tilted, **arguments)
    with pytest.raises(ValueError, match=r"shape \(n, 2\)"):
        TorusVelocity(tilted, 2)(cloud(5, 1))
    with pytest.raises(ValueError, match="score_fn"):
        TorusVelocity(lambda z: z[:, 0], 2)(cloud(5, 2))
