"""Saddle-free Newton: the rates of the theory, its linear algebra, and how a run ends."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from skwgf._tensor import make_generator
from skwgf.flows._curvature import (
    dense_hessian,
    inverse_root,
    newton_solution,
    smallest_eigenpairs,
)
from skwgf.flows._smoothness import check_twice_differentiable
from skwgf.flows.newton import NewtonCarrier, minimize, wsfn_direction
from skwgf.functionals import (
    KSD,
    MMD,
    EnergyDistance,
    InteractionEnergy,
    MeanFieldRisk,
    PotentialEnergy,
    SecondMoment,
    SinkhornDivergence,
    SmoothedEntropy,
    TorchFunctional,
    VarianceCosine,
)
from skwgf.kernels import Gaussian
from skwgf.targets import Gaussian as GaussianTarget


def cloud(n=20, d=2, seed=0):
    return torch.randn(n, d, generator=make_generator(seed), dtype=torch.float64)


def blobs(seed, n=100, scale=0.3):
    rows = scale * np.random.default_rng(seed).normal(size=(n, 2))
    rows[: n // 2, 0] -= 2
    rows[n // 2 :, 0] += 2
    return rows


def symmetric(values, seed=0):
    """Return products with a random symmetric matrix of given eigenvalues, and the matrix."""
    values = torch.as_tensor(values, dtype=torch.float64)
    basis = torch.linalg.qr(cloud(len(values), len(values), seed)).Q
    matrix = basis @ torch.diag(values) @ basis.T
    return lambda v: (v.reshape(len(v), -1) @ matrix).reshape(v.shape), matrix


def quadratic(matrix):
    """Return a fitted functional with that Hessian, over particles of two coordinates."""
    n = len(matrix) // 2

    def energy(z):
        return 0.5 * z.reshape(-1) @ matrix @ z.reshape(-1) / n

    return TorchFunctional(energy).fit(cloud(n))


def wells(start):
    """Two wells at -1 and 1 in each coordinate, of curvature 8, with saddles between them."""
    energy = PotentialEnergy(lambda x: (x.square() - 1).square().sum(1))
    return energy.fit(start)


def mmd_problem(seed=0, n=20):
    X = blobs(seed, scale=0.5)
    return MMD(Gaussian(1.0)).fit(X), torch.from_numpy(X[:: len(X) // n][:n]) + 0.1 * cloud(n)


class TestLinearAlgebra:
    values = (-3.0, -1.0, -0.2, -1e-3, 1e-3, 0.05, 0.3, 1.0, 2.0, 5.0)

    @pytest.mark.parametrize("beta", [1e-8, 1e-2, 10.0])
    def test_dense_is_the_definition(self, beta):
        product, matrix = symmetric(self.values)
        g = cloud(5)
        found = inverse_root(product, g, beta, dense=True).field.reshape(-1)
        # (H^2 + beta)^(-1/2) squared is (H^2 + beta)^(-1), and it is symmetric and positive.
        twice = inverse_root(product, found.reshape(5, 2), beta, dense=True).field.reshape(-1)
        back = matrix @ matrix @ twice + beta * twice
        assert torch.allclose(back, g.reshape(-1), atol=1e-6)
        assert found @ g.reshape(-1) > 0

    @pytest.mark.parametrize("beta", [1e-8, 1e-2, 10.0])
    def test_lanczos_is_eigh_at_full_rank(self, beta):
        product, _ = symmetric(np.linspace(-2, 3, 40))
        g = cloud(20)
        dense = inverse_root(product, g, beta, dense=True)
        lanczos = inverse_root(product, g, beta, dense=False, tol=0.0, max_products=40)
        error = (dense.field - lanczos.field).norm() / dense.field.norm()
        assert error < 1e-10
        assert lanczos.values[0] == pytest.approx(-2.0, abs=1e-10)

    def test_invariant_space_ends_the_iteration(self):
        # Bug caught: going on with a basis vector made of rounding errors.
        product, _ = symmetric([-1.0] * 10 + [0.5] * 10 + [2.0] * 10)
        g = cloud(15)
        lanczos = inverse_root(product, g, 0.1, dense=False)
        dense = inverse_root(product, g, 0.1, dense=True)
        assert lanczos.n_products == 3
        assert lanczos.error == 0.0
        assert torch.allclose(lanczos.field, dense.field, rtol=1e-10)

    def test_error_estimate_raises_the_number_of_products(self):
        # Bug caught: a fixed number of products, which leaves errors of order one at small beta.
        product, _ = symmetric(np.sort(np.random.default_rng(0).uniform(-1, 1, 200)))
        g, counts = cloud(100), []
        for beta in (1.0, 0.1, 0.01):
            dense = inverse_root(product, g, beta, dense=True).field
            lanczos = inverse_root(product, g, beta, dense=False, tol=1e-6)
            error = float((dense - lanczos.field).norm() / dense.norm())
            assert error <= 1e-6
            assert 0.3 * error < lanczos.error < 1e-6
            counts.append(lanczos.n_products)
        assert counts[0] < counts[1] < counts[2]

    def test_capped_lanczos_still_goes_down(self):
        product, _ = symmetric(np.linspace(-1, 1, 200))
        g = cloud(100)
        capped = inverse_root(product, g, 1e-10, dense=False, max_products=10)
        assert capped.n_products == 10
        assert capped.error > 1e-3
        assert (capped.field * g).sum() > 0

    @pytest.mark.parametrize("dense", [True, False])
    def test_newton_solves(self, dense):
        product, matrix = symmetric(self.values)
        g = cloud(5)
        exact = torch.linalg.solve(matrix, g.reshape(-1)).reshape(5, 2)
        found = newton_solution(product, g, dense=dense, tol=1e-12).field
        assert torch.allclose(found, exact, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("dense", [True, False])
    def test_newton_leaves_the_kernel_alone(self, dense):
        product, matrix = symmetric([0.0] * 4 + [1.0, 2.0, 3.0, -4.0])
        g = product(cloud(4)[None])[0]
        found = newton_solution(product, g, dense=dense).field
        exact = torch.linalg.pinv(matrix, rtol=1e-10) @ g.reshape(-1)
        assert torch.allclose(found.reshape(-1), exact, atol=1e-10)

    @pytest.mark.parametrize("dense", [True, False])
    def test_smallest_eigenpairs(self, dense):
        product, matrix = symmetric([-2.0, -0.5, *np.linspace(0, 5, 58)])
        ends = smallest_eigenpairs(product, cloud(30), make_generator(0), dense=dense)
        assert torch.allclose(ends.values[:2], torch.tensor([-2.0, -0.5]).double(), atol=1e-4)
        assert ends.scale == pytest.approx(5.0, rel=1e-3)
        vector = ends.vectors[0].reshape(-1)
        assert torch.allclose(matrix @ vector, -2 * vector, atol=1e-4)

    def test_dense_hessian_is_symmetric(self):
        energy, z = mmd_problem()
        hessian = dense_hessian(energy.expand(z).hessian, z)
        v = cloud(20, seed=1)
        product = energy.expand(z).hessian(v[None])[0].reshape(-1)
        assert torch.equal(hessian, hessian.T)
        assert torch.allclose(hessian @ v.reshape(-1), product)

    def test_single_precision(self):
        product, _ = symmetric(np.linspace(0.1, 1, 60))
        g = cloud(30)

        def rounded(v):
            return product(v.double()).float()

        exact = inverse_root(product, g, 0.01, dense=True).field
        for dense in (True, False):
            found = inverse_root(rounded, g.float(), 0.01, dense=dense)
            assert found.field.dtype == torch.float32
            assert (found.field - exact).norm() < 1e-5 * exact.norm()


class TestDirection:
    @pytest.mark.parametrize("solver", ["eigh", "lanczos"])
    @pytest.mark.parametrize("beta", ["auto", 1e-3])
    def test_duplicated_particles_go_the_same_way(self, solver, beta):
        # Bug caught: forgetting the n in g = n grad f and H = n Hess f, which rescales beta.
        energy, z = mmd_problem()
        options = {"beta": beta, "solver": solver, "tol": 1e-13}
        once = wsfn_direction(energy, z, **options).direction
        twice = wsfn_direction(energy, torch.cat([z, z]), **options).direction
        assert torch.allclose(torch.cat([once, once]), twice, rtol=1e-10, atol=1e-10)

    def test_large_beta_is_gradient_descent(self):
        energy, z = mmd_problem()
        g = energy.expand(z).gradient
        d = wsfn_direction(energy, z, beta=1e12).direction
        assert torch.allclose(1e6 * d, g, rtol=1e-8)

    def test_small_beta_is_newton_where_convex(self):
        _, matrix = symmetric(np.linspace(0.5, 2, 20))
        energy, z = quadratic(matrix), cloud(10)
        # On a positive definite quadratic Newton's step is z, to the minimum at 0.
        assert torch.allclose(wsfn_direction(energy, z, beta=1e-14).direction, z, rtol=1e-9)

    def test_negative_curvature_is_left_not_sought(self):
        _, matrix = symmetric([-1.0, *np.linspace(0.5, 2, 19)])
        energy, z = quadratic(matrix), cloud(10)
        d = wsfn_direction(energy, z, beta=1e-14).direction.reshape(-1)
        values, vectors = torch.linalg.eigh(matrix)
        expected = values.sign() * (vectors.T @ z.reshape(-1))
        assert torch.allclose(vectors.T @ d, expected, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("solver", ["eigh", "lanczos"])
    def test_auto_beta_is_a_trust_region(self, solver):
        energy, z = mmd_problem()
        for shift in (0.0, 3.0, 10.0):
            result = wsfn_direction(energy, z + shift, solver=solver)
            length = float(result.direction.square().sum(1).mean().sqrt())
            assert length <= energy.length_scale_ * (1 + 1e-6)
            assert result.beta == pytest.approx((result.gradient_norm / energy.length_scale_) ** 2)
            assert (result.direction * energy.expand(z + shift).gradient).sum() > 0

    def test_auto_solver_is_dense_when_small(self):
        energy, z = mmd_problem()
        assert wsfn_direction(energy, z).n_products == 40
        many = cloud(400)
        assert wsfn_direction(energy, many).n_products < 200

    def test_stationary(self):
        energy = VarianceCosine().fit(np.zeros((4, 1)))
        result = wsfn_direction(energy, torch.ones(4, 1, dtype=torch.float64) * 0)
        assert not result.direction.any()

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"beta": 0.0}, "beta must be a positive number"),
            ({"beta": -1.0}, "beta"),
            ({"beta": "none"}, "beta"),
            ({"beta": math.inf}, "beta"),
            ({"beta": True}, "beta"),
            ({"solver": "cg"}, "solver must be one of"),
        ],
    )
    def test_bad_options(self, options, match):
        energy, z = mmd_problem()
        with pytest.raises(ValueError, match=match):
            wsfn_direction(energy, z, **options)

    def test_not_finite(self):
        energy = PotentialEnergy(lambda x: x.sum(1).log()).fit(torch.ones(3, 1))
        with pytest.raises(ValueError, match="nan at the particles"):
            wsfn_direction(energy, -torch.ones(3, 1))


class TestTheory:
    """VarianceCosine: the spectrum is a and -b pi^2 cos(pi m)."""

    @pytest.mark.parametrize("beta", [0.001, 0.01, 0.1, 1.0])
    def test_linear_rate(self, beta):
        # At m = 1 the curvatures are 1 for the spread and .02 pi^2 for the mean.
        eta, b = 0.5, 0.02
        energy = VarianceCosine(1.0, b).fit(np.zeros((2, 1)))
        z = 1 + 1e-3 + 1e-3 * cloud(10, 1)
        means, spreads = [], []

        def watch(particles):
            means.append(float(particles.mean() - 1))
            spreads.append(float(particles.std(correction=0)))
            return False

        minimize(
            energy,
            z,
            beta=beta,
            line_search=False,
            step_size=eta,
            max_iter=8,
            tol=0.0,
            monitor=watch,
        )
        for curvature, errors in ((b * math.pi**2, means), (1.0, spreads)):
            rate = (errors[-1] / errors[0]) ** (1 / 7)
            theory = 1 - eta * curvature / math.sqrt(curvature**2 + beta)
            assert rate == pytest.approx(theory, abs=1e-3)

    def test_auto_beta_is_faster_than_linear(self):
        energy = VarianceCosine().fit(np.zeros((2, 1)))
        errors = []

        def watch(particles):
            errors.append(float((particles - 1).square().mean().sqrt()))
            return False

        minimize(energy, 1.2 + 0.1 * cloud(10, 1), line_search=False, max_iter=30, monitor=watch)
        # A factor of about beta / (2 lambda^2), and beta goes with the square of the error.
        assert 1e-8 < errors[1] < 1e-2 * errors[0]
        assert errors[2] < 1e-4 * errors[1]

    @pytest.mark.parametrize("b", [0.1, 0.01, 0.001, 0.0001])
    @pytest.mark.parametrize("beta", [1e-10, "auto"])
    def test_escape_takes_as_long_however_flat(self, b, beta):
        # |lambda| = b pi^2 from .99 to .00099. The distance to the saddle grows by a factor
        # 1 + eta |lambda| / sqrt(lambda^2 + beta), with "auto" 1 + eta to first order.
        energy = VarianceCosine(1.0, b).fit(np.zeros((2, 1)))
        z = 1e-6 + 1e-9 * torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
        result = minimize(
            energy,
            z,
            beta=beta,
            line_search=False,
            step_size=0.5,
            tol=0.0,
            monitor=lambda particles: bool(particles.mean() >= 0.5),
        )
        curvature = b * math.pi**2
        ratio = 1.0 if beta == "auto" else curvature / math.sqrt(curvature**2 + beta)
        theory = math.log(0.5e6) / math.log(1 + 0.5 * ratio)
        assert result.status == "stopped"
        assert result.n_iter == pytest.approx(theory, rel=0.1)

    @pytest.mark.parametrize("b", [0.1, 0.01])
    def test_gradient_descent_escapes_slowly(self, b):
        energy = VarianceCosine(1.0, b).fit(np.zeros((2, 1)))
        z = 1e-6 + 1e-9 * torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
        result = minimize(
            energy,
            z,
            method="gradient",
            line_search=False,
            step_size=0.5,
            tol=0.0,
            max_iter=1000,
            monitor=lambda particles: bool(particles.mean() >= 0.5),
        )
        theory = math.log(0.5e6) / math.log(1 + 0.5 * b * math.pi**2)
        assert result.n_iter == pytest.approx(theory, rel=0.1)

    def test_newton_goes_to_the_saddle(self):
        energy = VarianceCosine().fit(np.zeros((2, 1)))
        z = 0.3 + 0.01 * cloud(10, 1)
        for line_search in (True, False):
            newton = minimize(energy, z, method="newton", line_search=line_search)
            assert newton.status == "saddle"
            assert not newton.converged
            assert newton.hessian_min_eig == pytest.approx(-0.02 * math.pi**2, rel=1e-6)
            assert float(newton.particles.abs().max()) < 1e-6
        wsfn = minimize(energy, z)
        assert wsfn.converged
        assert float((wsfn.particles - 1).abs().max()) < 1e-6
        assert wsfn.hessian_min_eig == pytest.approx(0.02 * math.pi**2, rel=1e-6)

    @pytest.mark.parametrize("solver", ["eigh", "lanczos"])
    def test_kick_leaves_an_exact_saddle(self, solver):
        # A symmetric start has no gradient along the translation, the only way down.
        energy = VarianceCosine().fit(np.zeros((2, 1)))
        z = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
        result = minimize(energy, z, solver=solver)
        assert result.converged
        assert result.value == pytest.approx(-0.02)
        assert float((result.particles.abs() - 1).abs().max()) < 1e-5
        plain = minimize(energy, z, method="gradient")
        assert plain.status == "saddle"
        assert plain.value == pytest.approx(0.02)

    @pytest.mark.parametrize("noise", ["isotropic", "hessian"])
    @pytest.mark.parametrize("line_search", [True, False])
    def test_noise_leaves_a_saddle(self, noise, line_search):
        energy = VarianceCosine(1.0, 0.1).fit(np.zeros((2, 1)))
        z = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
        result = minimize(
            energy, z, method="perturbed", noise=noise, line_search=line_search, max_iter=500
        )
        assert result.converged
        assert result.value == pytest.approx(-0.1)


class TestMinimize:
    @pytest.mark.parametrize("seed", range(3))
    def test_the_functional_never_rises(self, seed):
        energy, z = mmd_problem(seed)
        result = minimize(energy, z, max_iter=60)
        values = [float(energy.value(z)), *result.history["objective"]]
        assert np.diff(values).max() <= 1e-15
        assert result.value == values[-1]
        assert values[-1] < 1e-2 * values[0]

    @pytest.mark.parametrize("seed", range(6))
    def test_two_blobs(self, seed):
        # Forty particles can do that for blobs that are narrow beside the kernel, and only with
        # twenty in each.
        X = blobs(seed, scale=0.2)
        energy = MMD(Gaussian(1.0)).fit(X)
        start = torch.from_numpy(np.concatenate([X[:20], X[-20:]]))
        result = minimize(energy, start + 0.1 * cloud(40))
        assert result.value < 1e-9
        assert result.converged

    def test_second_moments(self):
        # From the saddle at delta_0 to moments that are exact.
        moments = np.diag([1.0, 0.5, 0.1])
        energy = SecondMoment(moments).fit(cloud(30, 3))
        result = minimize(energy, 1e-6 * cloud(30, 3))
        assert result.converged
        assert result.value < 1e-12
        found = result.particles.T @ result.particles / 30
        assert torch.allclose(found, torch.from_numpy(moments), atol=1e-6)

    @pytest.mark.parametrize("seed", range(3))
    def test_network_from_its_saddle(self, seed):
        rng = np.random.default_rng(seed)
        X, teacher = rng.normal(size=(100, 2)), rng.normal(size=(3, 2))
        y = np.tanh(X @ teacher.T) @ rng.normal(size=3) / 3  # the mean over three neurons
        risk = MeanFieldRisk(alpha=0.0, normalize_y=False).fit(X, y)
        result = minimize(risk, 1e-2 * cloud(20, 4, seed), max_iter=50)
        assert result.value < 1e-8

    def test_lanczos_ends_where_eigh_does(self):
        energy, z = mmd_problem()
        dense, lanczos = (minimize(energy, z, solver=name) for name in ("eigh", "lanczos"))
        assert dense.converged
        assert lanczos.converged
        assert lanczos.value == pytest.approx(dense.value, rel=1e-6)

    def test_flat_to_the_last_digit_is_converged(self):
        # The energy is one plus a parabola: it is flat where the gradient is 1e-8, and a strict
        # search for lower values would end there or go on for ever.
        energy = PotentialEnergy(lambda x: 1 + x.square().sum(1) + x.pow(4).sum(1)).fit(cloud(5))
        for method in ("wsfn", "gradient"):
            result = minimize(energy, cloud(5), tol=0.0, method=method)
            assert result.converged
            assert result.n_iter < 60
            assert result.history["gradient_norm"][-1] < 1e-6

    def test_single_precision(self):
        X = blobs(0, scale=0.5)
        energy = MMD(Gaussian(1.0)).fit(X, dtype="float32")
        result = minimize(energy, torch.from_numpy(X[::5]).float() + 0.1 * cloud(20).float())
        assert result.particles.dtype == torch.float32
        assert result.converged
        assert result.value < 1e-3

    def test_start_at_a_minimum(self):
        z = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
        result = minimize(wells(z), z)
        assert result.converged
        assert result.n_iter == 1
        assert torch.equal(result.particles, z)
        assert result.hessian_min_eig == pytest.approx(8.0)

    def test_max_step(self):
        energy, z = mmd_problem()
        places = [z]
        minimize(energy, z, max_step=0.01, max_iter=5, monitor=lambda x: places.append(x))
        for before, after in itertools.pairwise(places):
            assert float((after - before).norm(dim=1).max()) <= 0.01 * (1 + 1e-9)

    def test_nan_in_the_line_search_shortens_the_step(self):
        # The step is far too long, past the wall at 1, where the logarithm is NaN.
        energy = PotentialEnergy(lambda x: ((x - 0.5).square() - 0.01 * (1 - x).log()).sum(1))
        start = -1 + 0.1 * cloud(5, 1)
        result = minimize(energy.fit(start), start, step_size=100.0)
        assert result.converged
        assert np.isfinite(result.history["objective"]).all()
        assert np.diff(result.history["objective"]).max() <= 1e-15

    def test_nan_without_a_line_search_is_undone(self):
        energy = PotentialEnergy(lambda x: ((x - 0.5).square() - 0.01 * (1 - x).log()).sum(1))
        start = -1 + 0.1 * cloud(5, 1)
        result = minimize(energy.fit(start), start, step_size=100.0, line_search=False)
        assert result.status == "non_finite"
        assert torch.isfinite(result.particles).all()

    def test_no_way_down_is_said_so(self):
        # Bug caught: an endless search, or convergence claimed, with a gradient that is wrong.
        class Wrong(VarianceCosine):
            def _expand(self, z):
                value, gradient, hessian = super()._expand(z)
                return type(super()._expand(z))(value, -gradient, lambda v: -hessian(v))

        energy = Wrong(1.0, 1.0).fit(np.zeros((2, 1)))
        start = 0.7 + cloud(8, 1)
        result = minimize(energy, start)
        assert result.status == "stalled"
        assert torch.equal(result.particles, start)

    def test_interrupt_keeps_the_last_state(self):
        energy, z = mmd_problem()
        places = []

        def watch(particles):
            places.append(particles)
            if len(places) == 4:
                raise KeyboardInterrupt
            return False

        result = minimize(energy, z, monitor=watch)
        assert result.status == "interrupted"
        assert torch.equal(result.particles, places[-1])
        assert result.n_iter == 4

    def test_seeds_and_global_state(self):
        energy = VarianceCosine().fit(np.zeros((2, 3)))
        z = torch.zeros(9, 3, dtype=torch.float64)
        z += torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]  # an exact saddle again
        before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        ends = [minimize(energy, z, generator=make_generator(s)).particles for s in (1, 1, 2, 3)]
        assert torch.equal(ends[0], ends[1])
        assert not (torch.equal(ends[0], ends[2]) and torch.equal(ends[0], ends[3]))
        assert torch.equal(before[0], torch.random.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002

    def test_start_is_left_alone(self):
        energy, z = mmd_problem()
        copy = z.clone()
        minimize(energy, z, max_iter=3)
        assert torch.equal(z, copy)

    def test_carrier_goes_back(self):
        energy, z = mmd_problem()
        carrier = NewtonCarrier(energy, z, generator=make_generator(0))
        carrier.advance()
        state = carrier.state_dict()
        first = carrier.advance()
        moved = carrier.particles
        carrier.load_state_dict(state)
        assert carrier.advance() == first
        assert torch.equal(carrier.particles, moved)

    def test_figures(self):
        energy, z = mmd_problem()
        result = minimize(energy, z, max_iter=5)
        columns = {
            "objective",
            "gradient_norm",
            "beta",
            "step",
            "smallest_ritz",
            "hessian_products",
            "seconds",
        }
        assert set(result.history) == columns
        assert result.n_products >= sum(result.history["hessian_products"])
        assert result.history["hessian_products"][1] == 40
        plain = minimize(energy, z, max_iter=5, method="gradient")
        assert set(plain.history) == columns - {"beta", "smallest_ritz"}

    def test_coincident_particles_are_mentioned(self):
        energy, z = mmd_problem()
        z[3] = z[7]
        with pytest.warns(UserWarning, match="never separate"):
            minimize(energy, z, max_iter=1)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"method": "lbfgs"}, "method must be one of"),
            ({"noise": "pink"}, "noise must be one of"),
            ({"step_size": 0.0}, "step_size"),
            ({"max_step": -1.0}, "max_step"),
            ({"noise_size": math.nan}, "noise_size"),
        ],
    )
    def test_bad_options(self, options, match):
        energy, z = mmd_problem()
        with pytest.raises(ValueError, match=match):
            minimize(energy, z, **options)


class TestProbe:
    @pytest.mark.parametrize(
        "fn",
        [
            lambda z, X: z.abs().sum(1).mean(),
            lambda z, X: (z[:, None] - z[None]).abs().mean(),
            lambda z, X: (torch.relu(X @ z.T).mean(1) - 1).square().mean(),
        ],
        ids=["abs", "distances", "relu"],
    )
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_kinks_are_refused(self, fn, dtype):
        energy = TorchFunctional(fn).fit(cloud(100).numpy(), dtype=dtype)
        with pytest.raises(ValueError, match="not twice differentiable"):
            minimize(energy, cloud(40, seed=1).to(energy.dtype_))

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize(
        "functional",
        [
            EnergyDistance(),
            InteractionEnergy(lambda u: u * (u - 1)),
            KSD(GaussianTarget(np.zeros(2))),
            MMD(),
            MMD(Gaussian(0.05)),
            MeanFieldRisk(),
            PotentialEnergy(lambda x: torch.nn.functional.softplus(20 * x).sum(1)),
            SecondMoment(),
            SinkhornDivergence(),
            SmoothedEntropy(),
            VarianceCosine(),
        ],
        ids=lambda functional: type(functional).__name__,
    )
    def test_smooth_functionals_pass(self, functional, dtype):
        # Bug caught: finite differences at one step, which alarm where curvature varies fast.
        X = cloud(60).numpy() * [3.0, 1.0]
        y = X[:, 0] ** 2 if isinstance(functional, MeanFieldRisk) else None
        functional.fit(X, y, dtype=dtype)
        for seed in range(3):
            z = functional.draw_start(20, make_generator(seed))
            check_twice_differentiable(functional, z, make_generator(seed))

    def test_linear_functional(self):
        energy = PotentialEnergy(lambda x: x.sum(1)).fit(cloud(5))
        check_twice_differentiable(energy, cloud(5), make_generator(0))
