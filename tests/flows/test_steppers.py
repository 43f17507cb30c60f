"""Steps along a velocity, checked where it is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scenarios import normal

from skwgf.flows import ParticleCarrier, Velocity, euler, projected_euler, run_flow
from skwgf.flows.steppers import Adagrad, Adam, Cooling, Heun

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


def steep(scales):
    """Return the velocity -s x, of a different speed s in every coordinate."""
    return lambda x, side=None: Velocity(-torch.tensor(scales).to(x) * x, 0.5)


class TestAdagrad:
    def test_first_step_is_the_step_size_whatever_the_velocity(self):
        x = torch.tensor([[1.0, -1.0]]).double()
        moved, energy = Adagrad()(steep([1e-3, 1e3]), x, 0.25)
        torch.testing.assert_close(moved, torch.tensor([[0.75, -0.75]]).double(), atol=1e-3, rtol=0)
        assert energy == 0.5

    def test_against_the_recursion_in_numbers(self):
        # Catches the memory on the wrong term, and a root taken before the mean.
        adagrad, x = Adagrad(memory=0.9, epsilon=0.0), torch.ones(1, 1).double()
        squares = None
        expected = 1.0
        for _ in range(5):
            x, _ = adagrad(steep([2.0]), x, 0.1)
            v = -2 * expected
            squares = v**2 if squares is None else 0.9 * squares + 0.1 * v**2
            expected += 0.1 * v / math.sqrt(squares)
        assert float(x) == pytest.approx(expected, rel=1e-12)

    def test_a_velocity_of_zero_stays(self):
        moved, _ = Adagrad()(steep([0.0]), torch.ones(3, 1), 0.25)
        assert torch.equal(moved, torch.ones(3, 1))


def test_adam_is_the_one_of_torch():
    start = normal(8, 3, 0)
    adam, x = Adam(betas=(0.8, 0.95)), start.clone()
    theirs = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.95))
    for _ in range(20):
        theirs.grad = -toward(3.0)(theirs.detach()).direction
        optimizer.step()
        x, _ = adam(toward(3.0), x, 0.1)
    torch.testing.assert_close(x, theirs.detach(), rtol=1e-10, atol=1e-10)


class TestHeun:
    def error(self, step, **options):
        """Return the error at time 1 on the flow of v(x) = -x^3 / 2, x0 (1 + t x0^2)^(-1/2)."""
        heun = Heun(**options)

        def field(x, side=None):
            return Velocity(-0.5 * x**3, 0.0)

        start = torch.linspace(0.5, 2, 7).double()[:, None]
        x, n = start, 0
        while heun.time < 1 - 1e-9:
            heun.max_step = min(heun.max_step, 1 - heun.time)
            x, _ = heun(field, x, step)
            n += 1
        return float((x - start / (1 + start**2).sqrt()).abs().max()), n

    def test_it_is_of_order_two(self):
        # Half the step, a quarter of the error at time 1; max_step keeps the step from growing.
        one, two = (self.error(1 / n, tol=1.0, max_step=1 / n)[0] for n in (40, 80))
        assert one / two == pytest.approx(4, rel=0.1)

    def test_the_tolerance_sets_the_error(self):
        # The error of a step goes with h^2 in the estimate and h^3 in truth, so that the one at
        # time 1 follows tol, at a cost of tol^(-1/2).
        errors, counts = zip(
            *(self.error(0.5, tol=tol) for tol in (1e-2, 1e-3, 1e-4, 1e-5)), strict=True
        )
        for error, tol in zip(errors, (1e-2, 1e-3, 1e-4, 1e-5), strict=True):
            assert error < tol
        assert counts[3] / counts[1] == pytest.approx(10, rel=0.3)

    def test_a_first_step_too_long_is_taken_again(self):
        # The Euler step of 1 at speed 100 would end at -99.
        heun = Heun(tol=1e-3)
        moved, energy = heun(steep([100.0]), torch.tensor([[1.0], [-1.0]]).double(), 1.0)
        assert energy == 0.5
        assert heun.time < 1e-3
        torch.testing.assert_close(
            moved,
            torch.tensor([[1.0], [-1.0]]).double() * math.exp(-100 * heun.time),
            rtol=0,
            atol=1e-3,
        )

    def test_the_step_grows_as_the_flow_calms_down(self):
        # Under v = -x^3/2 the cloud shrinks like t^(-1/2) and bends like t^(-5/2): h goes with t.
        heun, x = Heun(tol=1e-3), torch.linspace(-2, 2, 8).double()[:, None]
        shares = []
        for _ in range(60):
            before = heun.time
            x, _ = heun(lambda x, side=None: Velocity(-0.5 * x**3, 0.0), x, 0.01)
            shares.append((heun.time - before) / heun.time)
        assert heun.time > 3
        assert shares[-1] == pytest.approx(shares[40], rel=0.2)
        expected = torch.linspace(-2, 2, 8).double()[:, None]
        expected = expected / (1 + heun.time * expected**2).sqrt()
        torch.testing.assert_close(x, expected, rtol=0.02, atol=0)

    def test_a_cloud_at_rest(self):
        heun, x = Heun(), torch.ones(4, 2)
        for _ in range(5):
            x, _ = heun(steep([0.0]), x, 0.5)
        assert torch.equal(x, torch.ones(4, 2))
        assert heun.time == 2.5

    def test_a_velocity_that_is_no_number_ends_the_run(self):
        # It must neither hang nor be accepted.
        def field(x, side=None):
            return Velocity(torch.full_like(x, math.nan), 0.0)

        carrier = ParticleCarrier(normal(4, 2, 0), field, step_size=0.1, stepper=Heun())
        result = run_flow(carrier, max_iter=5)
        assert result.status == "non_finite"
        assert torch.equal(carrier.particles, normal(4, 2, 0))

    @pytest.mark.parametrize("options", [{"tol": 0.0}, {"max_step": -1.0}, {"tol": math.nan}])
    def test_bad_options(self, options):
        with pytest.raises(ValueError, match="must be positive"):
            Heun(**options)


class TestCooling:
    def sizes(self, n_steps, n_taken=None, share=0.4):
        """Return the sizes of the steps, of 1 in full."""
        x = torch.zeros(n_taken or n_steps).double()
        stepper, places = Cooling(euler, n_steps, share=share), [0.0]
        for _ in range(n_taken or n_steps):
            x, _ = stepper(lambda x, side=None: Velocity(torch.ones_like(x), 0.0), x, 1.0)
            places.append(float(x[0]))
        return torch.tensor(places, dtype=torch.float64).diff()

    @pytest.mark.parametrize("share", [0.4, 1.0])
    def test_steps_are_full_then_fall_linearly_to_the_last(self, share):
        # Catches a cooling that starts at the end, and one whose last step is zero: a run of one
        # step would not move.
        sizes = self.sizes(50, share=share)
        n_cooling = round(50 * share)
        expected = torch.ones(50).double()
        expected[-n_cooling:] = torch.arange(n_cooling, 0, -1).double() / n_cooling
        torch.testing.assert_close(sizes, expected)

    def test_short_and_long_runs(self):
        assert self.sizes(1).tolist() == [1.0]
        # Past the end nothing moves any more.
        assert self.sizes(5, 8)[5:].tolist() == [0.0, 0.0, 0.0]

    def test_noise_of_the_velocity_is_averaged_out(self):
        # Under the velocity e - x, e of variance 1, steps t take the variance V of x to
        # (1 - t)^2 V + t^2. Catches a schedule that has no effect, and one that ends too early.
        def trembling(seed):
            draws = torch.Generator().manual_seed(seed)

            def field(x, side=None):
                noise = torch.randn(x.shape, generator=draws, dtype=x.dtype)
                return Velocity(noise - x, 0.0)

            return field

        x = torch.zeros(2000, 1).double()
        plain = end(euler, x, trembling(0), step_size=0.2, n_steps=100).var()
        cooled = end(Cooling(euler, 100), x, trembling(0), step_size=0.2, n_steps=100).var()
        # A variance of 2000 draws has a relative error of (2 / 2000)^(1/2) = .03.
        assert float(plain) == pytest.approx(0.2**2 / (1 - 0.8**2), rel=0.13)
        variance = 0.0
        for size in 0.2 * self.sizes(100):
            variance = float((1 - size) ** 2 * variance + size**2)
        assert float(cooled) == pytest.approx(variance, rel=0.13)
        assert float(cooled) < 0.5 * float(plain)

    def test_its_stepper_keeps_its_own_state(self):
        # Catches the state of a stepper inside that is not put back.
        assert Cooling(euler, 5).state_dict() == {"n_taken": 0, "stepper": None}
        inner = Adam()
        cooling = Cooling(inner, 5)
        cooling(toward(3.0), normal(4, 2, 0), 0.1)
        state = cooling.state_dict()
        cooling(toward(3.0), normal(4, 2, 0), 0.1)
        cooling.load_state_dict(state)
        assert (cooling.n_taken, inner.n_steps) == (1, 1)

    @pytest.mark.parametrize("share", [0.0, 1.5, math.nan])
    def test_bad_share(self, share):
        with pytest.raises(ValueError, match="share must lie in"):
            Cooling(euler, 5, share=share)


@pytest.mark.parametrize("make", [Adagrad, Adam, Heun, lambda: Cooling(Adam(), 5)])
def test_the_state_goes_back_with_the_particles(make):
    # A step from a state that was put back is the step that was made from it first.
    stepper = make()
    carrier = ParticleCarrier(
        normal(6, 2, 0), toward(3.0), step_size=0.1, stepper=stepper, parts=(stepper,)
    )
    fresh = carrier.state_dict()
    run_flow(carrier, max_iter=3)
    state = carrier.state_dict()
    run_flow(carrier, max_iter=2)
    arrived = carrier.particles
    carrier.load_state_dict(state)
    run_flow(carrier, max_iter=2)
    assert torch.equal(carrier.particles, arrived)
    carrier.load_state_dict(fresh)
    run_flow(carrier, max_iter=5)
    assert torch.equal(carrier.particles, arrived)


@pytest.mark.parametrize("make", [lambda: Adagrad(memory=1.0), lambda: Adam(betas=(0.9, -0.1))])
def test_bad_decays(make):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        make()
