"""The Stein flow: its energy, its ends, and the resolvent against a dense solve."""

from __future__ import annotations

import math

import pytest
import torch
from scenarios import generator, normal

from skwgf.flows import ParticleCarrier, run_flow
from skwgf.flows.stein import (
    SteinVelocity,
    bootstrap_floor,
    ksd_plateau,
    ksd_squared,
    resolvent,
)
from skwgf.kernels import Gaussian, Laplace, Linear, Preconditioned


def standard(x):
    """Return the scores of N(0, I)."""
    return -x


def test_velocity_and_energy_are_those_of_the_kernel():
    x, kernel = normal(40, 3, 0) + 1, Gaussian("median")
    velocity = SteinVelocity(standard, kernel)(x)
    resolved = kernel.resolve(x)
    torch.testing.assert_close(velocity.direction, resolved.stein(x, -x).velocity)
    assert velocity.energy == pytest.approx(ksd_squared(x, -x, resolved), rel=1e-12)


def test_energy_is_the_squared_norm_of_the_velocity():
    # |v|^2 in the kernel's space is the mean over i of <s_i, v(x_i)> + div v(x_i), with v as a
    # function of the point; its divergence by central differences of a free point.
    x, kernel, step = normal(15, 2, 0) + 1, Gaussian(bandwidth=0.8), 1e-5

    def velocity_at(y):
        k = kernel.gram(y, x)
        pull = (y[:, None] - x) / 0.8**2  # the gradient by x_j, over k
        return (k[..., None] * (-x + pull)).mean(1)

    units = step * torch.eye(2, dtype=x.dtype)
    divergence = sum(
        (velocity_at(x + e) - velocity_at(x - e))[:, i] / (2 * step) for i, e in enumerate(units)
    )
    expected = float(((-x * velocity_at(x)).sum(1) + divergence).mean())
    assert SteinVelocity(standard, kernel)(x).energy == pytest.approx(expected, rel=1e-7)


def test_a_rough_kernel_has_the_mean_square_for_its_energy():
    x = normal(20, 2, 0)
    velocity = SteinVelocity(standard, Laplace(bandwidth=1.0))(x)
    assert velocity.energy == pytest.approx(float(velocity.direction.square().sum(1).mean()))


@pytest.mark.parametrize(("every", "expected"), [(0, 1), (1, 6), (2, 3), (4, 2)])
def test_how_often_the_kernel_is_resolved(every, expected):
    field = SteinVelocity(standard, Gaussian("median"), resolve_every=every)
    seen = {field(normal(10, 2, k)) and field.resolved.bandwidth for k in range(6)}
    assert len(seen) == expected


def test_its_state_is_put_back():
    field = SteinVelocity(standard, Gaussian("median"), resolve_every=3)
    field(normal(10, 2, 0))
    state, kernel = field.state_dict(), field.resolved
    for seed in range(1, 5):
        field(normal(10, 2, seed))
    assert field.resolved is not kernel
    field.load_state_dict(state)
    assert field.resolved is kernel
    assert field.age == 1


def test_scores_of_another_shape():
    field = SteinVelocity(lambda x: x.sum(1), Gaussian("median"))
    with pytest.raises(ValueError, match="one gradient for each point"):
        field(normal(10, 2, 0))
    with pytest.raises(ValueError, match="resolve_every"):
        SteinVelocity(standard, Linear(), resolve_every=-1)


def test_the_flow_ends_at_the_target():
    # In two dimensions the classic flow still has the right spread, which without repulsion would
    # be zero; what is left of the mean is small against that of independent draws, n^(-1/2).
    n = 100
    mean = torch.tensor([[3.0, -1.0]], dtype=torch.float64)
    field = SteinVelocity(lambda x: 4 * (mean - x), Gaussian("median"))
    carrier = ParticleCarrier(normal(n, 2, 0), field, step_size=0.2)
    run_flow(carrier, max_iter=400)
    arrived = carrier.particles
    assert (arrived.mean(0) - mean).abs().max() < 0.05 / math.sqrt(n)
    assert (2 * arrived.std(0) - 1).abs().max() < 0.1
    # It lies more evenly than draws do.
    floor = bootstrap_floor(
        arrived, field.score_fn(arrived), field.resolved, generator=generator(0)
    )
    assert ksd_squared(arrived, field.score_fn(arrived), field.resolved) < float(floor.mean())


def test_the_linear_kernel_ends_at_mean_and_covariance():
    # Centred and preconditioned it fits both moments, here exactly: the target is Gaussian.
    root = torch.tensor([[2.0, 0.0], [1.5, 0.5]], dtype=torch.float64)
    covariance, shift = root @ root.T, torch.tensor([[5.0, -3.0]], dtype=torch.float64)
    precision = torch.linalg.inv(covariance)
    field = SteinVelocity(lambda x: (shift - x) @ precision, Preconditioned(Linear()))
    carrier = ParticleCarrier(normal(60, 2, 0), field, step_size=0.1)
    run_flow(carrier, max_iter=400)
    torch.testing.assert_close(carrier.particles.mean(0, keepdim=True), shift, atol=1e-6, rtol=0)
    found = carrier.particles.T.cov(correction=0)
    torch.testing.assert_close(found, covariance, atol=1e-6, rtol=0)


class TestPlateau:
    still = {"objective": [4.0, 1.0, 1.0, 1.0, 1.0]}  # noqa: RUF012

    def test_it_needs_the_floor_as_well(self):
        assert ksd_plateau(lambda: 1.5, patience=3)(self.still)
        assert not ksd_plateau(lambda: 0.5, patience=3)(self.still)

    def test_the_floor_is_read_at_a_plateau_only(self):
        def floor():
            raise AssertionError("read")

        assert not ksd_plateau(floor, patience=3)({"objective": [4.0, 3.0, 2.0, 1.0, 0.5]})


class TestResolvent:
    def problem(self, n=60, q=3):
        x = normal(n, 2, 0)
        gram = Gaussian(bandwidth=1.0).gram(x, x) + Linear().gram(x, x)
        return gram, normal(n, q, 1)

    def dense(self, gram, v, nu):
        n = len(v)
        return torch.linalg.solve((1 - nu) * gram / n + nu * torch.eye(n, dtype=v.dtype), v)

    @pytest.mark.parametrize("nu", [1.0, 0.5, 0.1, 0.001])
    def test_against_a_dense_solve(self, nu):
        gram, v = self.problem()
        found = resolvent(lambda w: gram @ w, v, nu, tol=1e-10)
        torch.testing.assert_close(found, self.dense(gram, v, nu), rtol=1e-7, atol=1e-7)

    def test_the_tolerance_is_that_of_every_column(self):
        # Columns of very different size, one of them zero.
        gram, v = self.problem()
        v = v * torch.tensor([1.0, 1e6, 0.0], dtype=v.dtype)
        found = resolvent(lambda w: gram @ w, v, 0.1, tol=1e-4)
        left = v - 0.9 * gram @ found / len(v) - 0.1 * found
        assert (left.norm(dim=0)[:2] / v.norm(dim=0)[:2]).max() < 1e-4
        assert torch.equal(found[:, 2], torch.zeros(60, dtype=v.dtype))

    def test_number_of_products(self):
        # The bound of conjugate gradients: tol = 2 ((sqrt k - 1)/(sqrt k + 1))^m sqrt k, with the
        # condition k <= (largest eigenvalue + nu)/nu.
        gram, v = self.problem(300)
        products = []
        nu, tol = 0.1, 1e-4

        def product(w):
            products.append(w)
            return gram @ w

        resolvent(product, v, nu, tol=tol)
        top = float(torch.linalg.eigvalsh(gram)[-1]) / 300
        root = math.sqrt(((1 - nu) * top + nu) / nu)
        bound = math.log(2 * root / tol) / math.log((root + 1) / (root - 1))
        assert len(products) <= math.ceil(bound)

    def test_what_is_reached_in_few_products_still_descends(self):
        gram, v = self.problem()
        found = resolvent(lambda w: gram @ w, v, 0.01, max_iter=2)
        assert ((found * v).sum(0) > 0).all()

    def test_it_is_of_the_precision_of_the_velocity(self):
        gram, v = self.problem()
        found = resolvent(lambda w: gram.float() @ w, v.float(), 0.1)
        assert found.dtype == torch.float32
        gap = (found - self.dense(gram, v, 0.1)).norm() / found.norm()
        assert gap < 1e-3

    @pytest.mark.parametrize("nu", [0.0, -0.1, 1.1])
    def test_bad_weights(self, nu):
        with pytest.raises(ValueError, match="nu must be"):
            resolvent(lambda w: w, torch.ones(2, 1), nu)
