"""Steps along a velocity, checked where it is known in closed form."""

from __future__ import annotations

import pytest
import torch
from scenarios import normal

from skwgf.flows import ParticleCarrier, Velocity, euler, projected_euler, run_flow

INF = torch.inf


def toward(centre):
    """Return the velocity c - x, whose flow is c + (x - c) exp(-t)."""

    def field(x, side=None):
        gap = torch.as_tensor(centre).to(x) - x
        return Velocity(gap, 0.5 * float(gap.square().sum(1).mean()))

    return field


def box(low, high):
    return projected_euler(torch.tensor(low).double(), torch.tensor(high).double())


def end(stepper, start, field, *, step_size, n_steps):
    carrier = ParticleCarrier(start, field, step_size=step_size, stepper=stepper)
    run_flow(carrier, max_iter=n_steps)
    return carrier.particles


def test_euler_is_of_order_one():
    # Half the step, half the error at time 1.
    x = normal(20, 2, 0)
    exact = 3 + (x - 3) * torch.exp(torch.tensor(-1.0).double())
    errors = [
        float((end(euler, x, toward(3.0), step_size=1 / n, n_steps=n) - exact).abs().max())
        for n in (20, 40)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


def test_without_limits_it_is_the_euler_step():
    x = normal(50, 2, 0)
    step = box([-INF, -INF], [INF, INF])
    moved, energy = step(toward(3.0), x, 0.3, None)
    expected, expected_energy = euler(toward(3.0), x, 0.3)
    assert torch.equal(moved, expected)
    assert energy == expected_energy


def test_within_the_box_points_move_freely_and_others_stay_on_its_border():
    # Bug caught: a point that is thrown back into the box instead of put on its border, and a
    # limit of one column that holds for all.
    x = torch.tensor([[0.0, 0.0], [0.9, 0.0], [0.0, -4.0]]).double()
    moved, _ = box([-1.0, -INF], [1.0, INF])(toward([3.0, 3.0]), x, 0.5, None)
    assert moved.tolist() == [[1.0, 1.5], [1.0, 1.5], [1.0, -0.5]]


def test_energy_is_that_of_the_start():
    x = normal(50, 2, 0)
    _, energy = box([-1.0, -1.0], [1.0, 1.0])(toward(3.0), x, 0.5, None)
    assert energy == toward(3.0)(x).energy


def test_side_reaches_the_field():
    seen = []

    def field(x, side=None):
        seen.append(side)
        return Velocity(-x, 0.0)

    side = torch.ones(5, 1)
    box([0.0], [1.0])(field, torch.ones(5, 1).double(), 0.5, side)
    assert seen == [side]


def test_the_flow_ends_at_the_nearest_point_of_the_box():
    # The minimum of |x - c|^2 / 2 over the box: projected gradient steps converge to it.
    x = normal(20, 2, 0)
    stepper = box([-1.0, 0.25], [1.0, INF])
    arrived = end(stepper, x, toward([4.0, -2.0]), step_size=0.5, n_steps=40)
    assert torch.equal(arrived, torch.tensor([[1.0, 0.25]]).double().expand(20, 2))


def test_limits_of_single_precision_are_met_to_the_bit():
    limit = torch.tensor([0.1])
    moved, _ = projected_euler(limit, limit + INF)(toward(-3.0), torch.ones(9, 1), 1.0, None)
    assert torch.equal(moved, limit.expand(9, 1))
