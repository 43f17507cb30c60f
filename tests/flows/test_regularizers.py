"""Costs of a velocity and their conjugates, and the rules for an adaptive exponent."""

from __future__ import annotations

import math

import pytest
import torch

from skwgf.flows.regularizers import (
    DiagonalQuadratic,
    HuberCost,
    LpCost,
    exponent_gradient,
    next_exponent,
)

F64 = torch.float64
COSTS = [
    LpCost(1.2),
    LpCost(1.5),
    LpCost(2.0),
    LpCost(3.0),
    LpCost(6.0),
    DiagonalQuadratic(torch.tensor([0.5, 1.0, 4.0], dtype=F64)),
    HuberCost(0.7, 0.2),
    HuberCost(2.0, 1.0),
]


def residuals(n=40, d=3, seed=0, scale=1.5):
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_fenchel_equality_and_inverse_gradients(cost):
    # One equality ties all four methods together: catches p in the place of q in any of them.
    r = residuals()
    f = cost.conjugate_gradient(r)
    torch.testing.assert_close(cost.value(f) + cost.conjugate(r), (f * r).sum(1))
    torch.testing.assert_close(cost.gradient(f), r)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_fenchel_inequality_elsewhere(cost):
    f, r = residuals(seed=1), residuals(seed=2)
    assert bool((cost.value(f) + cost.conjugate(r) - (f * r).sum(1) > -1e-9).all())


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_gradients_equal_finite_differences(cost):
    x, gap = residuals(), 1e-5
    for value, gradient in (
        (cost.value, cost.gradient),
        (cost.conjugate, cost.conjugate_gradient),
    ):
        shifts = gap * torch.eye(3, dtype=F64)
        slopes = [(value(x + shift) - value(x - shift)) / (2 * gap) for shift in shifts]
        torch.testing.assert_close(torch.stack(slopes, 1), gradient(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_autograd_of_the_cost_is_its_gradient_and_finite_at_zero(cost):
    # The direct parametrisation differentiates the cost, and the network starts at zero.
    f = residuals()
    f[0] = 0.0
    f.requires_grad_()
    (slope,) = torch.autograd.grad(cost.value(f).sum(), f)
    torch.testing.assert_close(slope, cost.gradient(f.detach()))
    assert bool(torch.isfinite(cost.conjugate_gradient(f.detach())).all())


def test_quadratic_cases_agree():
    r = residuals()
    for cost in (DiagonalQuadratic(torch.ones(3)), HuberCost(0.3, 1.0), HuberCost(100.0)):
        torch.testing.assert_close(cost.value(r), LpCost(2.0).value(r))
        torch.testing.assert_close(cost.conjugate_gradient(r), r)


def test_huber_pace_is_bounded_up_to_its_slope():
    r = torch.tensor([[100.0, -100.0]])
    velocity = HuberCost(delta=1.0, slope=1e-3).conjugate_gradient(r)
    torch.testing.assert_close(velocity, torch.tensor([[1.099, -1.099]]))


def dissipation(r, p):
    q = p / (p - 1)
    return float(r.abs().pow(q).sum(1).mean())


def conjugate(r, p):
    return float(LpCost(p).conjugate(r).mean())


@pytest.mark.parametrize("p", [1.3, 2.0, 3.0, 5.5])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_rules_equal_finite_differences(p, scale):
    r, gap = residuals(scale=scale), 1e-4
    fixed = LpCost(p).conjugate_gradient(r)

    def frozen(p):
        return float(LpCost(p).value(fixed).mean())

    rules = {
        "dissipation": lambda p: dissipation(r, p),
        "conjugate": lambda p: conjugate(r, p),
        "frozen": frozen,
    }
    for rule, value in rules.items():
        # Fourth order: the error of the difference is far below 1e-6 of the size of the value.
        near = (value(p + gap) - value(p - gap)) / (2 * gap)
        wide = (value(p + 2 * gap) - value(p - 2 * gap)) / (4 * gap)
        slope = exponent_gradient(r, p, rule)
        assert slope == pytest.approx((4 * near - wide) / 3, rel=1e-6, abs=1e-6), rule


@pytest.mark.parametrize("p", [1.3, 2.0, 5.0])
def test_frozen_is_minus_conjugate(p):
    r = residuals()
    frozen, conjugate = (exponent_gradient(r, p, rule) for rule in ("frozen", "conjugate"))
    assert frozen == -conjugate != 0
    # By its definition, not by the envelope theorem that the code relies on.
    f = LpCost(p).conjugate_gradient(r).abs()
    expected = (f.pow(p) * f.log()).sum(1).mean() / p - f.pow(p).sum(1).mean() / p**2
    assert frozen == pytest.approx(float(expected), rel=1e-9)


def test_rules_survive_residuals_of_zero():
    for rule in ("dissipation", "conjugate", "frozen"):
        assert exponent_gradient(torch.zeros(4, 2), 2.0, rule) == 0


def test_dissipation_raises_p_where_residuals_are_small_and_lowers_it_where_they_are_large():
    # |r|^q falls with q below 1 and grows with it above; q falls with p.
    assert next_exponent(torch.full((5, 2), 0.5), 2.0, "dissipation", 0.1) > 2
    assert next_exponent(torch.full((5, 2), 2.0), 2.0, "dissipation", 0.1) < 2


def test_exponent_stays_in_its_range_and_does_not_depend_on_the_dimension():
    large = torch.full((5, 2), 3.0)
    assert next_exponent(large, 2.0, "dissipation", 1e9) == 1.1
    assert next_exponent(0.1 * large, 2.0, "dissipation", 1e9) == 6.0
    assert next_exponent(large.tile(1, 7), 2.0, "conjugate", 0.01) == pytest.approx(
        next_exponent(large, 2.0, "conjugate", 0.01)
    )


@pytest.mark.parametrize("p", [1.0, 0.5, math.inf, math.nan])
def test_exponents_that_are_not_above_one_are_refused(p):
    with pytest.raises(ValueError, match="p must be a finite number above 1"):
        LpCost(p)


def test_other_bad_parameters_are_refused():
    with pytest.raises(ValueError, match="vector of positive numbers"):
        DiagonalQuadratic(torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="vector of positive numbers"):
        DiagonalQuadratic(torch.ones(2, 2))
    with pytest.raises(ValueError, match="delta must be a positive number"):
        HuberCost(0.0)
    with pytest.raises(ValueError, match="slope must lie in"):
        HuberCost(1.0, 0.0)
    with pytest.raises(ValueError, match="rule='best' is not known"):
        exponent_gradient(torch.ones(1, 1), 2.0, "best")
