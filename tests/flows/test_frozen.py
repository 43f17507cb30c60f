"""Frozen velocities, recorded steps, and the density that is carried along them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scenarios import normal

from skwgf.flows import ParticleCarrier, Velocity, run_flow
from skwgf.flows.frozen import FlowMap, RecordingStepper, shorten
from skwgf.flows.regularizers import DiagonalQuadratic, HuberCost, LpCost
from skwgf.flows.residual import ResidualVelocity
from skwgf.nn.divergence import DivergenceMLP, WithDivergence

F64 = torch.float64
COSTS = [
    LpCost(1.5),
    LpCost(2.0),
    LpCost(4.0),
    HuberCost(0.5, 0.2),
    DiagonalQuadratic(torch.tensor([0.5, 2.0], dtype=F64)),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def skewed_score(x):
    """Return the score of independent logarithms of exponential variables."""
    return 1 - x.exp()


def field(score_fn=skewed_score, d=2, hidden=(8,), dtype=torch.float32, **options):
    network = DivergenceMLP(d, hidden, generator=generator(), dtype=dtype)
    settings = {"first_inner_steps": 10, "max_speed": 1.0, "clip_quantile": 0.9}
    return ResidualVelocity(score_fn, network, generator=generator(), **(settings | options))


def bent_cloud(n=60):
    """Return a cloud with correlation, other scales and residuals long enough to be cut."""
    return normal(n, 2, 0) @ torch.tensor([[1.5, 0.0], [0.4, 0.3]], dtype=F64) + 0.5


class TestFrozenVelocity:
    @pytest.mark.parametrize("cost", COSTS, ids=repr)
    @pytest.mark.parametrize("coordinates", ["whitened", "raw"])
    @pytest.mark.parametrize("mode", ["solved", "trained", "direct"])
    @pytest.mark.parametrize("whitening", ["full", "diagonal"])
    def test_on_the_cloud_it_is_the_velocity_of_the_call(self, cost, coordinates, mode, whitening):
        # Catches a root on the wrong side, cuts of length that are left out, and a g that is
        # measured in the other coordinates.
        options = {"parametrization": "direct"} if mode == "direct" else {"solve": mode == "solved"}
        moving = field(cost=cost, coordinates=coordinates, whitening=whitening, **options)
        x = bent_cloud()
        direction = moving(x).direction
        # The network is of single precision.
        torch.testing.assert_close(moving.freeze()(x), direction, rtol=1e-4, atol=1e-4)

    def test_cuts_are_those_of_the_cloud_at_other_points(self):
        # Residuals longer than the quantile of the cloud's are cut to it wherever they are.
        moving = field(max_speed=math.inf, solve=True)
        moving(bent_cloud())
        frozen = moving.freeze()
        z = torch.linalg.solve_triangular(
            frozen.root, frozen(100 * bent_cloud(9)).detach().T, upper=False
        ).T
        torch.testing.assert_close(z.norm(dim=1), torch.full((9,), frozen.longest, dtype=F64))

    def test_fastest_is_a_mean_over_the_coordinates(self):
        moving = field(max_speed=0.01, solve=True)
        direction = moving(bent_cloud()).direction
        root = moving.freeze().root
        z = torch.linalg.solve_triangular(root, direction.T, upper=False).T
        assert float(z.square().mean(1).sqrt().max()) == pytest.approx(0.01)

    @pytest.mark.parametrize("solve", [False, True])
    def test_later_calls_leave_it_alone(self, solve):
        # Catches a network that is shared with the field in training.
        moving, x = field(solve=solve, exponent_rule="conjugate", exponent_rate=1.0), bent_cloud()
        moving(x)
        frozen = moving.freeze()
        before = frozen(x).detach()
        for _ in range(3):
            moving(2 * x - 1)
        assert torch.equal(frozen(x).detach(), before)
        assert not torch.allclose(moving.freeze()(x).detach(), before)

    def test_the_exponent_is_that_of_the_velocity_not_of_the_next(self):
        moving, x = field(exponent_rule="conjugate", exponent_rate=5.0, solve=True), bent_cloud()
        direction = moving(x).direction
        assert moving.cost.p != 2
        assert moving.freeze().cost.p == 2
        torch.testing.assert_close(moving.freeze()(x).detach(), direction, rtol=1e-4, atol=1e-4)

    def test_it_has_the_derivative_of_a_function(self):
        moving, x = field(dtype=F64, solve=True, clip_quantile=1.0), bent_cloud()
        moving(x)
        frozen = moving.freeze()
        points = x[:5].clone().requires_grad_()
        (slope,) = torch.autograd.grad(frozen(points)[:, 1].sum(), points)
        gap, axis = 1e-5, torch.tensor([1.0, 0.0], dtype=F64)
        numbers = (frozen(x[:5] + gap * axis) - frozen(x[:5] - gap * axis))[:, 1] / (2 * gap)
        torch.testing.assert_close(slope[:, 0], numbers.detach(), rtol=1e-5, atol=1e-5)

    def test_other_networks_can_be_frozen(self):
        network = WithDivergence(torch.nn.Linear(2, 2), generator=generator())
        moving = ResidualVelocity(skewed_score, network, generator=generator())
        direction = moving(bent_cloud()).direction
        torch.testing.assert_close(
            moving.freeze()(bent_cloud()), direction, rtol=1e-4, atol=1e-4, check_dtype=False
        )

    def test_nothing_to_freeze(self):
        with pytest.raises(RuntimeError, match="call the field first"):
            field().freeze()
        # The velocity at a point needs the score there.
        moving = field(score_skip=True)
        moving(bent_cloud())
        with pytest.raises(RuntimeError, match="without skip"):
            moving.freeze()


def test_shortened_rows_keep_their_direction():
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(
        shorten(rows, 2.5), torch.tensor([[1.5, 2.0], [0.3, 0.4], [0.0, 0.0]])
    )
    assert shorten(rows, math.inf) is rows


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_shortening_has_a_derivative_at_zero(dtype):
    # The root of zero has none. Catches a least length that is zero in single precision, and the
    # density of a draw at rest that is not a number.
    rows = torch.zeros(1, 2, requires_grad=True, dtype=dtype)
    shorten(rows, 1.0).sum().backward()
    assert torch.equal(rows.grad, torch.ones(1, 2, dtype=dtype))


class Scripted:
    """A velocity -x whose energies are given, which counts its calls, and can be frozen."""

    def __init__(self, energies):
        self.energies = iter(energies)
        self.n_calls = 0

    def __call__(self, x, side=None):
        self.n_calls += 1
        return Velocity(-self.n_calls * x, next(self.energies))

    def freeze(self):
        rate = self.n_calls
        return lambda x: -rate * x


def recorded_run(energies, n_steps=None, step_size=0.1):
    scripted = Scripted(energies)
    stepper, x = RecordingStepper(scripted), normal(20, 2, 0)
    path = [x]
    for _ in range(n_steps or len(energies)):
        x, _ = stepper(scripted, x, step_size)
        path.append(x)
    return stepper, path


def replay(steps, x):
    for velocity, time in steps:
        x = (x + time * velocity(x)).detach()
    return x


class TestRecordingStepper:
    @pytest.mark.parametrize(
        "energies",
        [
            [5.0, 4.0, 3.0, 2.0],
            [5.0, 4.0, 9.0, 3.0],  # one step is undone
            [5.0, 4.0, 9.0, 9.0, 9.0, 3.0, 2.0],  # one is undone three times
            [5.0, 9.0, 4.0],  # the first is
            [5.0, 4.0, 9.0],  # the run ends on one that is taken again
            [5.0, math.nan, 4.0],
        ],
    )
    def test_steps_that_stand_lead_where_the_cloud_is(self, energies):
        # Catches an undone step that is kept beside the shorter one, and a factor that is that of
        # the step before.
        stepper, path = recorded_run(energies)
        torch.testing.assert_close(replay(stepper.steps, path[0]), path[-1], rtol=1e-12, atol=1e-12)

    def test_an_undone_step_is_popped(self):
        stepper, path = recorded_run([5.0, 4.0, 9.0, 9.0])
        # Two that stand: the last was halved twice, along the velocity of the second call.
        assert len(stepper.steps) == 2
        velocity, time = stepper.steps[-1]
        assert time == pytest.approx(0.1 / 4)
        assert torch.equal(velocity(path[0]), -2 * path[0])

    def test_a_restored_state_drops_the_steps_after_it(self):
        scripted = Scripted(itertools.repeat(1.0))
        stepper = RecordingStepper(scripted)
        carrier = ParticleCarrier(
            normal(20, 2, 0), scripted, step_size=0.1, stepper=stepper, parts=(stepper,)
        )
        start = carrier.particles
        run_flow(carrier, max_iter=2)
        state = carrier.state_dict()
        run_flow(carrier, max_iter=3)
        carrier.load_state_dict(state)
        assert len(stepper.steps) == 2
        torch.testing.assert_close(replay(stepper.steps, start), carrier.particles)
        run_flow(carrier, max_iter=1)
        assert len(stepper.steps) == 3
        assert len(state["parts"][0]["steps"]) == 2

    @pytest.mark.parametrize("cost", [LpCost(2.0), LpCost(1.5)])
    def test_a_residual_flow_is_replayed(self, cost):
        moving = field(cost=cost, solve=True, dtype=F64)
        stepper, x = RecordingStepper(moving), bent_cloud()
        carrier = ParticleCarrier(x, moving, step_size=0.2, stepper=stepper, parts=(stepper,))
        run_flow(carrier, max_iter=8)
        # The same function on the same points, but for the rounding of z = root^-1 (x - mean).
        torch.testing.assert_close(
            replay(stepper.steps, x), carrier.particles, rtol=1e-9, atol=1e-9
        )


def flow_map(d=1, n_steps=8, n=200, seed=4, **options):
    """Return a residual flow from N(0, I) to a skewed law, as a map."""
    moving = field(d=d, dtype=F64, solve=True, **options)
    stepper = RecordingStepper(moving)
    carrier = ParticleCarrier(normal(n, d, seed), moving, step_size=0.15, stepper=stepper)
    run_flow(carrier, max_iter=n_steps)
    return FlowMap(torch.full((d,), 0.1, dtype=F64), torch.eye(d, dtype=F64), tuple(stepper.steps))


def affine_step(matrix, shift):
    return lambda x: x @ matrix.T + shift


class TestFlowMap:
    def test_density_integrates_to_one_on_the_line(self):
        # Draws sorted by x: log_prob at them is a function of x, whose integral by the trapezoid
        # rule is one but for the tails beyond the draws, 2 / n each, and the curvature. Catches
        # a determinant of the wrong sign (an integral of the squared slope).
        flow = flow_map()
        x, log_prob, folds = flow.draw(20_000, generator(1))
        order = x[:, 0].argsort()
        mass = torch.trapezoid(log_prob[order].exp(), x[order, 0])
        assert folds == 0
        skewness = ((x - x.mean()) / x.std()).pow(3).mean()
        assert float(skewness) < -0.4  # the flow bent the law
        assert float(mass) == pytest.approx(1, abs=1e-3)

    def test_density_is_the_slope_of_the_distribution_function(self):
        # An increasing map on the line keeps the order: F(x(xi)) = Phi(xi), and the density is its
        # derivative, here by differences of neighbouring draws.
        flow = flow_map()
        x, log_prob, _ = flow.draw(20_000, generator(1))
        xi = torch.randn(20_000, 1, generator=generator(1), dtype=F64)
        order = xi[:, 0].argsort()
        x, levels = x[order, 0], torch.special.ndtr(xi[order, 0])
        assert bool((x.diff() > 0).all())
        inner = slice(1000, 19_000, 1000)
        far = slice(1100, 19_100, 1000)
        slope = (levels[far] - levels[inner]) / (x[far] - x[inner])
        between = 0.5 * (log_prob[order][inner] + log_prob[order][far])
        # Over a hundred draws the density turns by some 1e-2.
        torch.testing.assert_close(slope.log(), between, rtol=0, atol=2e-3)

    def test_mass_of_the_plane_by_importance_sampling(self):
        # E[h(x) / q(x)] over q is the integral of h, the density of a law that q covers: catches a
        # Jacobian of the other order, and rows of it that are mixed up.
        flow = flow_map(d=2)
        x, log_prob, folds = flow.draw(5000, generator(1))
        spread = x.std(0) / 1.5
        narrow = torch.distributions.Normal(x.mean(0), spread).log_prob(x).sum(1)
        weights = (narrow - log_prob).exp()
        assert folds == 0
        error = float(weights.std()) / 5000**0.5
        assert error < 0.05
        assert float(weights.mean()) == pytest.approx(1, abs=4 * error)

    @pytest.mark.parametrize("d", [1, 3])
    def test_affine_steps_keep_a_gaussian(self, d):
        # Exact: the push-forward of N(m, R R') by x + t (A x + b), step after step.
        root = (0.3 * normal(d, d, 1)).tril(-1) + torch.diag(torch.linspace(0.5, 2, d, dtype=F64))
        mean = normal(1, d, 2)[0]
        steps, m, covariance = [], mean, root @ root.T
        for k in range(4):
            matrix, shift = 0.5 * normal(d, d, 10 + k), normal(1, d, 20 + k)[0]
            steps.append((affine_step(matrix, shift), 0.1 * (k + 1)))
            jacobian = torch.eye(d, dtype=F64) + 0.1 * (k + 1) * matrix
            m = jacobian @ m + 0.1 * (k + 1) * shift
            covariance = jacobian @ covariance @ jacobian.T
        x, log_prob, folds = FlowMap(mean, root, tuple(steps)).draw(500, generator())
        law = torch.distributions.MultivariateNormal(m, covariance)
        assert folds == 0
        torch.testing.assert_close(log_prob, law.log_prob(x), rtol=0, atol=1e-9)
        # And the draws are draws of it.
        whitened = torch.linalg.solve_triangular(
            torch.linalg.cholesky(covariance), (x - m).T, upper=False
        )
        assert float(whitened.mean(1).abs().max()) < 4 / 500**0.5
        assert float((whitened.std(1) - 1).abs().max()) < 4 / 1000**0.5

    def test_without_steps_it_is_the_base(self):
        root = torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=F64)
        mean = torch.tensor([1.0, -1.0], dtype=F64)
        x, log_prob, folds = FlowMap(mean, root, ()).draw(10, generator())
        law = torch.distributions.MultivariateNormal(mean, scale_tril=root)
        torch.testing.assert_close(log_prob, law.log_prob(x))
        assert folds == 0

    def test_folds_are_counted_once_for_each_draw(self):
        # x - 2 relu(x) turns the right half of the line over; a second step of the same kind does
        # so with no draw, all of which are on the left then.
        def fold(x):
            return -2 * x.clamp(min=0)

        flow = FlowMap(torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64), ((fold, 1.0),) * 2)
        x, _, folds = flow.draw(1000, generator())
        right = torch.randn(1000, 1, generator=generator(), dtype=F64) > 0
        assert folds == int(right.sum())
        assert float(x.max()) <= 0

    def test_blocks_of_rows_are_the_whole(self, monkeypatch):
        # Catches a block that is moved before its neighbour's determinant is taken, or left out.
        flow = flow_map(d=2, n_steps=3)
        whole = flow.draw(50, generator(1))
        monkeypatch.setattr("skwgf.flows.frozen._BLOCK", 4 * 7)
        parts = flow.draw(50, generator(1))
        torch.testing.assert_close(parts.log_prob, whole.log_prob)
        torch.testing.assert_close(parts.x, whole.x)
        assert not parts.x.requires_grad
        assert not parts.log_prob.requires_grad

    def test_precision_is_that_of_the_base(self):
        flow = FlowMap(torch.zeros(2), torch.eye(2), ((lambda x: -x, 0.5),))
        x, log_prob, _ = flow.draw(5, generator())
        assert x.dtype == log_prob.dtype == torch.float32
