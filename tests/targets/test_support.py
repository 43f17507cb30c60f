"""Supports: volumes against quadrature and torch, boundaries, wrapping, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from skwgf.targets import LogDensity
from skwgf.targets.support import parse_support

ONE_DIMENSIONAL = {
    "real": ("real", stats.norm(0.3, 0.7)),
    "positive": ("positive", stats.gamma(2.5)),
    "interval": ((("interval", 1, -1.0, 2.0),), stats.beta(2, 3, loc=-1, scale=3)),
    "unit": ("interval", stats.beta(1.5, 1.5)),
    "ordered": ("ordered", stats.norm(1, 2)),
}


def as_row(value):
    return torch.tensor([[value]], dtype=torch.float64)


@pytest.mark.parametrize("name", ONE_DIMENSIONAL)
def test_the_density_of_z_integrates_to_one(name):
    # Catches a Jacobian of the wrong sign or of the wrong way round.
    support, law = ONE_DIMENSIONAL[name]
    target = LogDensity(
        lambda x: law.logpdf(x[:, 0]), 1, support=support, grad=lambda x: np.zeros_like(x)
    ).fit()
    mass, error = integrate.quad(
        lambda z: math.exp(target.log_prob(as_row(z)).item()), -30, 30, points=[0.0], limit=200
    )
    assert mass == pytest.approx(1, abs=max(1e-7, 10 * error))


def test_the_density_on_the_circle_integrates_to_one_over_a_turn():
    law = stats.vonmises_line(2.0)
    target = LogDensity(
        lambda x: law.logpdf(2 * np.pi * x[:, 0] - np.pi) + np.log(2 * np.pi),
        1,
        support="torus",
        grad=lambda x: np.zeros_like(x),
    ).fit()
    for first in (0.0, -3.7):
        mass, _ = integrate.quad(
            lambda z: math.exp(target.log_prob(as_row(z)).item()), first, first + 1
        )
        assert mass == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("support", ["simplex", "ordered"])
def test_volume_of_the_coupled_maps(support):
    # The Jacobian by autograd; on the simplex of all but the last coordinate.
    parsed = parse_support(support, 4)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, parsed.n_dim, generator=generator, dtype=torch.float64)
    found = parsed.constrain(z).log_jacobian
    for row, log_jacobian in zip(z, found, strict=True):
        matrix = torch.autograd.functional.jacobian(
            lambda v: parsed.constrain(v[None]).x[0, : parsed.n_dim], row
        )
        assert float(torch.linalg.slogdet(matrix).logabsdet) == pytest.approx(
            float(log_jacobian), abs=1e-10
        )


def test_dirichlet_on_the_simplex_integrates_to_one():
    law = torch.distributions.Dirichlet(torch.tensor([1.5, 2.0, 3.0], dtype=torch.float64))
    target = LogDensity(law.log_prob, support=(("simplex", 3),)).fit()
    assert target.n_dim_ == 2
    # The trapezoidal rule converges faster than any power for a density that dies away.
    grid = torch.linspace(-16, 16, 401, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    mass = target.log_prob(z).exp().sum() * (grid[1] - grid[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-6)


def test_blocks_take_their_columns_in_order():
    support = parse_support(("positive", ("ordered", 2), ("simplex", 3), "real"))
    assert (support.n_features, support.n_dim) == (7, 6)
    x = torch.tensor([[2.0, -1.0, 3.0, 0.2, 0.3, 0.5, 7.0]], dtype=torch.float64)
    z = support.unconstrain(x)
    torch.testing.assert_close(support.constrain(z).x, x)
    expected = torch.tensor([math.log(2.0), -1.0, math.log(4.0), 7.0], dtype=torch.float64)
    torch.testing.assert_close(z[0, [0, 1, 2, 5]], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_torus_wraps(dtype):
    support = parse_support("torus", 1)
    tiny = torch.finfo(dtype).tiny
    z = torch.tensor([[0.25], [1.25], [-0.75], [1.0], [-tiny], [0.0]], dtype=dtype)
    x = support.constrain(z).x
    assert ((x >= 0) & (x < 1)).all()
    assert x[:, 0].tolist() == [0.25, 0.25, 0.25, 0.0, 0.0, 0.0]
    assert support.unconstrain(z)[:, 0].tolist() == x[:, 0].tolist()
    z.requires_grad_()
    (slope,) = torch.autograd.grad(support.constrain(z).x.sum(), z)
    assert slope.tolist() == [[1.0]] * 6


def test_far_points_stay_finite():
    support = parse_support(("positive", "interval", ("simplex", 3), ("ordered", 2)))
    for size in (-40.0, 40.0):
        x, log_jacobian = support.constrain(torch.full((1, 6), size, dtype=torch.float64))
        assert x.isfinite().all()
        assert log_jacobian.isfinite().all()


@pytest.mark.parametrize(
    ("support", "good", "bad", "words"),
    [
        ("positive", [1.0, 2.0], [1.0, 0.0], r"columns 0 to 1 must be positive, got \[1.0, 0.0\]"),
        ("interval", [0.1, 0.9], [0.1, 1.0], "strictly between 0 and 1"),
        ((("interval", 2, -3, 3),), [-2.0, 2.0], [-2.0, 4.0], "strictly between -3 and 3"),
        ("simplex", [0.4, 0.6], [0.4, 0.7], "positive with sum 1"),
        ("simplex", [0.4, 0.6], [0.0, 1.0], "positive with sum 1"),
        ("ordered", [1.0, 2.0], [2.0, 2.0], "strictly increasing"),
        ("torus", [0.1, 5.0], [0.1, math.nan], "finite"),
        (("real", "positive"), [-1.0, 1.0], [-1.0, -2.0], r"column 1 must be positive, got \[-2"),
    ],
)
def test_the_first_row_outside_is_named(support, good, bad, words):
    parsed = parse_support(support, 2)
    rows = torch.tensor([good, good, bad, bad], dtype=torch.float64)
    with pytest.raises(ValueError, match="Row 2 is outside of the support: .*" + words):
        parsed.unconstrain(rows)
    assert parsed.unconstrain(rows[:2]).isfinite().all()


def test_a_simplex_in_single_precision_sums_to_one():
    # Rows normalised in float32 are a few units in the last place off.
    parsed = parse_support("simplex", 100)
    rows = torch.rand(200, 100, generator=torch.Generator().manual_seed(0)) + 0.01
    rows = rows / rows.sum(1, keepdim=True)
    torch.testing.assert_close(parsed.constrain(parsed.unconstrain(rows)).x, rows)


@pytest.mark.parametrize(
    "support",
    [
        "line",
        3,
        ["positive", "real"],
        (),
        ("positive", 2),
        (("simplex", 1),),
        "simplex",
        (("positive", 0),),
        (("positive", 2, 0.0, 1.0),),
        (("interval", 1, 1.0, 1.0),),
        (("interval", 1, 0.0),),
        (("interval", 1, 0.0, math.inf),),
        (("interval", 1, "a", "b"),),
        ("real", "real"),
    ],
)
def test_what_is_no_support_is_refused(support):
    with pytest.raises(ValueError, match=r"block|columns"):
        parse_support(support, 1)


def test_a_missing_dimension_is_told():
    with pytest.raises(ValueError, match="pass n_features"):
        parse_support("positive")
    with pytest.raises(ValueError, match="pass n_features"):
        LogDensity(lambda x: -x.square().sum()).fit()
