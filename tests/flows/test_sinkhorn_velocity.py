"""The Sinkhorn velocity: gradients, limits, fixed points, warm starts, tracers, groups."""

from __future__ import annotations

import math

import pytest
import torch

from skwgf.flows import ParticleCarrier, run_flow
from skwgf.flows.sinkhorn import SinkhornVelocity, debiased_map
from skwgf.transport.cost import half_squared_distance, mean_cost
from skwgf.transport.sinkhorn import sinkhorn, sinkhorn_divergence, sinkhorn_self

KINDS = ["sinkhorn", "kl", "mmd"]


def cloud(n, d=2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def weights(n, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.rand(n, generator=generator, dtype=torch.float64) + 0.1


def pair(n=60, m=50, d=3):
    return cloud(n, d), 0.5 * cloud(m, d, 1) + 1.0


@pytest.mark.parametrize("velocity", ["sinkhorn", "mmd"])
def test_direction_is_minus_the_gradient_of_the_energy(velocity):
    # Catches a factor two in the self term, a missing weight, and an energy of another flow.
    x, y = pair(12, 9, 2)
    b = weights(9)
    field = SinkhornVelocity(y, 0.4, weights_y=b, velocity=velocity, tol=1e-12)
    direction, _ = field(x)
    h = 1e-5
    for i, k in ((0, 0), (5, 1), (11, 0)):
        ends = []
        for sign in (1, -1):
            moved = x.clone()
            moved[i, k] += sign * h
            ends.append(field(moved).energy)
        slope = 12 * (ends[0] - ends[1]) / (2 * h)
        assert slope == pytest.approx(-float(direction[i, k]), rel=1e-4, abs=1e-7)


def test_energy_is_the_divergence():
    x, y = pair()
    b = weights(50)
    for p in (1, 2):
        energy = SinkhornVelocity(y, 0.2, weights_y=b, p=p, tol=1e-9)(x).energy
        value = sinkhorn_divergence(x, y, 0.2, weights_y=b, p=p, tol=1e-9)
        assert energy == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("tiled", [False, True])
def test_maps_are_those_of_the_plans(p, tiled):
    x, y = pair()
    other, reg = 2 * cloud(40, 3, 2), 0.3
    toward = sinkhorn(x, y, reg, p=p, tol=1e-9).barycentric_map()
    alone = sinkhorn_self(x, reg, p=p, tol=1e-9).barycentric_map()
    second = sinkhorn(x, other, reg, p=p, tol=1e-9).barycentric_map()
    options = {"p": p, "tol": 1e-9, "tiled": tiled}
    close = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(debiased_map(x, y, reg, **options), toward - alone, **close)
    torch.testing.assert_close(
        debiased_map(x, y, reg, other=other, **options), toward - second, **close
    )
    field = SinkhornVelocity(y, reg, **options)
    torch.testing.assert_close(field(x).direction, toward - alone, **close)


@pytest.mark.parametrize("p", [1, 2])
def test_half_an_iteration_and_none(p):
    # The formulas, term by term, with an independent second batch.
    x, y = pair()
    other, b, reg = cloud(40, 3, 2), weights(50), 0.7
    b = b / b.sum()
    kernels = []
    for target in (y, other):
        squares = 2 * half_squared_distance(x, target)
        kernels.append(torch.exp(-(squares ** (p / 2)) / p / reg))
    k_y, k_x = kernels[0] * b, kernels[1] / 40
    kl = k_y @ y / k_y.sum(1, keepdim=True) - k_x @ other / k_x.sum(1, keepdim=True)
    mmd = k_y @ y - k_y.sum(1, keepdim=True) * x - k_x @ other + k_x.sum(1, keepdim=True) * x
    for velocity, expected in (("kl", kl), ("mmd", mmd)):
        v = debiased_map(x, y, reg, other=other, weights_y=b, velocity=velocity, p=p)
        torch.testing.assert_close(v, expected)


@pytest.mark.parametrize("velocity", KINDS)
def test_the_target_is_a_fixed_point(velocity):
    # Also with another order of the points, and with a repeated cloud.
    y = cloud(40)
    field = SinkhornVelocity(y, 0.1, velocity=velocity, tol=1e-10)
    for x in (y, y.flip(0), y.repeat(2, 1)):
        direction, energy = field(x)
        assert direction.abs().max() < 1e-7
        assert abs(energy) < 1e-9


def test_large_reg_moves_the_mean():
    # All three velocities tend to the difference of the means.
    x, y = pair()
    shift = (y.mean(0) - x.mean(0)).expand_as(x)
    for velocity in KINDS:
        for p in (1, 2):
            v = debiased_map(x, y, 1e7, velocity=velocity, p=p)
            torch.testing.assert_close(v, shift, atol=1e-5, rtol=0)


@pytest.mark.parametrize("velocity", KINDS)
def test_moving_turning_and_shuffling(velocity):
    x, y = pair()
    rotation = torch.linalg.qr(cloud(3, 3, 5)).Q
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    options = {"velocity": velocity, "tol": 1e-10}
    base = debiased_map(x, y, 0.3, **options)
    turned = debiased_map(x @ rotation + 50, y @ rotation + 50, 0.3, **options)
    torch.testing.assert_close(turned, base @ rotation, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(debiased_map(x[order], y, 0.3, **options), base[order])


def test_weight_is_repetition():
    x, y = pair(30, 20)
    counts = torch.arange(20) % 3 + 1
    for velocity in KINDS:
        weighted = debiased_map(x, y, 0.2, weights_y=counts.to(x), velocity=velocity, tol=1e-9)
        repeated = debiased_map(x, y.repeat_interleave(counts, 0), 0.2, velocity=velocity, tol=1e-9)
        torch.testing.assert_close(weighted, repeated, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("velocity", KINDS)
def test_tracers(velocity):
    # At the points of the cloud a tracer moves with them, and close to them nearly so.
    x, y = pair()
    field = SinkhornVelocity(y, 0.2, velocity=velocity, tol=1e-10)
    with pytest.raises(ValueError, match="no cloud yet"):
        field.at(x)
    direction, _ = field(x)
    torch.testing.assert_close(field.at(x[:7]), direction[:7], atol=1e-7, rtol=1e-6)
    assert (field.at(x[:7] + 1e-6) - direction[:7]).abs().max() < 1e-4
    far = field.at(1e5 * torch.ones(1, 3, dtype=torch.float64))
    assert torch.isfinite(far).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fraction", [0.05, 0.01])
def test_warm_is_cold_along_a_flow(fraction, dtype):
    # Catches a prediction in the wrong direction, and secants that lead astray.
    x, y = cloud(200, dtype=dtype), 0.3 * cloud(150, seed=1, dtype=dtype) + 2.0
    reg = fraction * mean_cost(x, y)
    warm = SinkhornVelocity(y, reg, tol=1e-5)
    sweeps = []
    for _ in range(6):
        cold = SinkhornVelocity(y, reg, tol=1e-5)
        direction, energy = warm(x)
        reference = cold(x)
        difference = (direction - reference.direction).norm() / reference.direction.norm()
        assert difference < 1e-3
        assert energy == pytest.approx(reference.energy, rel=1e-3, abs=1e-5)
        assert warm.marginal_error <= 1e-5
        sweeps.append((warm.n_iter[0], cold.n_iter[0]))
        x = x + 0.1 * direction
    if fraction == 0.05:
        assert all(ours < fresh for ours, fresh in sweeps[2:])
    # Points that jump, a repeated call, and another number of points.
    for points in (x.flip(0), x.flip(0), x[:90], x):
        torch.testing.assert_close(
            warm(points).direction,
            SinkhornVelocity(y, reg, tol=1e-5)(points).direction,
            atol=2e-3,
            rtol=1e-2,
        )


def test_default_tolerance_leaves_a_small_error():
    # The reference is converged in float64; the clouds are those of the benchmark, smaller.
    for d in (2, 64):
        x, y = cloud(500, d), cloud(500, d, 1) + 0.5
        reg = 0.05 * mean_cost(x, y)
        reference = debiased_map(x, y, reg, tol=1e-10)
        ours = debiased_map(x.float(), y.float(), reg)
        assert (ours - reference).norm() < 1e-3 * reference.norm()


def test_annealing_the_regularisation():
    x, y = pair()
    field = SinkhornVelocity(y, 2.0, tol=1e-8)
    for reg in (2.0, 0.5, 0.1):
        field.reg = reg
        direction, energy = field(x)
        torch.testing.assert_close(
            direction, debiased_map(x, y, reg, tol=1e-8), atol=1e-5, rtol=1e-5
        )
        assert energy == pytest.approx(float(sinkhorn_divergence(x, y, reg, tol=1e-8)), rel=1e-5)


def test_a_restored_flow_goes_on_as_it_would_have():
    x, y = pair()
    field = SinkhornVelocity(y, 0.1)
    carrier = ParticleCarrier(x, field, step_size=0.2, parts=(field,))
    for _ in range(3):
        carrier.advance()
    state = carrier.state_dict()
    records = [carrier.advance() for _ in range(3)]
    fresh = SinkhornVelocity(y, 0.1)
    second = ParticleCarrier(x, fresh, step_size=0.2, parts=(fresh,))
    second.load_state_dict(state)
    assert [second.advance() for _ in range(3)] == records
    assert torch.equal(second.particles, carrier.particles)


def test_the_flow_reaches_the_target():
    # The self term keeps the spread: without it the cloud would shrink to the blurred target.
    x, y = cloud(120), cloud(120, seed=1) * torch.tensor([2.0, 0.5], dtype=torch.float64) + 3.0
    field = SinkhornVelocity(y, 0.05)
    result = run_flow(ParticleCarrier(x, field, step_size=0.5, parts=(field,)), max_iter=40)
    history = result.history["objective"]
    assert history[-1] < 1e-3 * history[0]
    assert (field.at(y).norm(dim=1).mean()) < 0.1


def test_features_and_side_enter_the_cost_only():
    x, y = pair()
    scale = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    reg, side = 0.4, cloud(60, 1, 7).sign()
    side_y = cloud(50, 1, 8).sign()
    field = SinkhornVelocity(y, reg, feature_map=lambda z: z * scale, side=side_y, tol=1e-9)
    features = torch.cat([x * scale, side], 1), torch.cat([y * scale, side_y], 1)
    expected = sinkhorn(*features, reg, tol=1e-9).barycenter(y) - sinkhorn_self(
        features[0], reg, tol=1e-9
    ).barycenter(x)
    torch.testing.assert_close(field(x, side).direction, expected, atol=1e-6, rtol=1e-6)
    one_shot = debiased_map(*features, reg, values_x=x, values_y=y, tol=1e-9)
    torch.testing.assert_close(one_shot, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(field.at(x[:5], side[:5]), expected[:5], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("velocity", KINDS)
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("tiled", [False, True])
def test_groups_are_independent(velocity, p, tiled):
    # Catches a product over the wrong dimension, and an extrapolation that mixes groups.
    x = torch.stack([cloud(30, 3, k) * (k + 1) for k in range(4)])
    y = torch.stack([cloud(20, 3, 10 + k) + k for k in range(4)])
    other = torch.stack([cloud(25, 3, 20 + k) for k in range(4)])
    a, b = (torch.stack([weights(n, k) for k in range(4)]) for n in (30, 20))
    for second in (None, other):
        options = {"velocity": velocity, "p": p, "tol": 1e-9, "tiled": tiled}
        whole = debiased_map(x, y, 0.5, other=second, weights_x=a, weights_y=b, **options)
        for k in range(4):
            single = debiased_map(
                *(x[k], y[k], 0.5),
                other=None if second is None else second[k],
                weights_x=a[k],
                weights_y=b[k],
                **options,
            )
            torch.testing.assert_close(whole[k], single, atol=1e-5, rtol=1e-5)


def test_two_batches_are_unbiased_at_equilibrium():
    # One-sided and same-batch velocities have a mean of order one over the batch size; that of
    # two independent batches vanishes, even after two iterations. 400 draws of 16 points on a
    # line: the noise of the mean in each of 8 bins is about .01.
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(400, 16, 1, generator=generator, dtype=torch.float64)  # noqa: E731
    x, y, other = draw(), draw(), draw()
    debiased = debiased_map(x, y, 0.05, other=other, max_iter=2)
    same = debiased_map(x, y, 0.05, max_iter=100)
    outer = x > 1.0
    noise = float(debiased[outer].std()) / math.sqrt(int(outer.sum()))
    assert abs(float(debiased[outer].mean())) < 3 * noise
    assert float(same[outer].mean()) < -3 * noise


@pytest.mark.parametrize("velocity", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.zeros(1, 2), torch.ones(1, 2)),
        (torch.zeros(1, 2), cloud(9)),
        (torch.ones(5, 2), torch.ones(7, 2)),
        (cloud(9).repeat(2, 1), cloud(9)),
        (cloud(20), 1000 + cloud(20, seed=1)),
    ],
)
def test_degenerate_clouds(x, y, velocity, dtype):
    x, y = x.to(dtype), y.to(dtype)
    for p in (1, 2):
        for fraction in (1e-4, 0.05):
            scale = mean_cost(x, y) or 1.0
            field = SinkhornVelocity(y, fraction * scale, velocity=velocity, p=p, max_iter=100)
            direction, energy = field(x)
            assert torch.isfinite(direction).all()
            assert math.isfinite(energy)
            if len(x) == 1 == len(y) and velocity != "mmd":
                torch.testing.assert_close(direction, y - x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"velocity": "drift"}, "velocity must be one of"),
        ({"p": 3}, "p must be 1 or 2"),
        ({"max_iter": 0}, "max_iter must be"),
        ({"weights_y": torch.zeros(6)}, "weights_y must be positive"),
        ({"weights_y": torch.ones(5)}, "one weight per point"),
        ({"values_y": torch.ones(5, 2)}, "values_y must have one row"),
        ({"values_y": torch.ones(6, 3, dtype=torch.float64)}, "must agree in groups"),
        ({"other": torch.ones(6, 3, dtype=torch.float64)}, "must agree in groups"),
        ({"other": torch.full((6, 2), math.nan, dtype=torch.float64)}, "NaN or infinity"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        debiased_map(cloud(5), cloud(6), 0.1, **options)


def test_groups_must_match():
    with pytest.raises(ValueError, match="must agree in groups"):
        debiased_map(cloud(5)[None], cloud(6).repeat(2, 1, 1), 0.1)
    with pytest.raises(ValueError, match="must agree in groups"):
        SinkhornVelocity(cloud(5), 0.1)(cloud(5, 3))
