"""The loop's state on disk: what is written when, and that a run goes on from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from skwgf.flows import ParticleCarrier, Velocity, run_flow
from skwgf.flows.whitened import CautiousEuler
from skwgf.persistence import Checkpoint, fingerprint


class PowerCut(BaseException):
    """What no handler of the loop expects, as little as a SIGKILL."""


class Noise:
    """A velocity with noise, whose generator is a part of the state."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, x, side=None):
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        return Velocity(noise - x, float(x.square().sum()))

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


def cloud():
    noise, stepper = Noise(), CautiousEuler()
    start = torch.linspace(1.0, 2.0, 6, dtype=torch.float64).reshape(3, 2)
    return ParticleCarrier(start, noise, step_size=0.3, stepper=stepper, parts=(stepper, noise))


def cut_at(step, error=PowerCut):
    """Return a monitor that ends the process, so to say, after so many steps."""

    def monitor(k, history):
        if k + 1 == step:
            raise error
        return False

    return monitor


@pytest.fixture
def checkpoint(tmp_path):
    return Checkpoint(tmp_path / "run", every=3, mark="a", device=torch.device("cpu"))


def figure(carrier):
    return lambda: float(carrier.particles.square().sum())


@pytest.mark.parametrize("step", [1, 3, 4, 8, 10])
def test_a_run_goes_on(checkpoint, step):
    # Particles, the last point that stands, the generator, the best state so far, and the columns
    # of the history: all of them bit for bit, after a cut before, at and between the states.
    undisturbed = cloud()
    options = {"max_iter": 10, "validate_every": 2, "slack": 0.1}
    expected = run_flow(undisturbed, validate=figure(undisturbed), **options)
    carrier = cloud()
    with pytest.raises(PowerCut):
        run_flow(
            carrier,
            validate=figure(carrier),
            monitor=cut_at(step),
            checkpoint=checkpoint,
            **options,
        )
    again, steps = cloud(), []
    result = run_flow(
        again,
        validate=figure(again),
        monitor=lambda k, history: steps.append(k),
        checkpoint=checkpoint,
        **options,
    )
    assert steps == list(range((step - 1) // 3 * 3, 10))
    assert torch.equal(again.particles, undisturbed.particles)
    assert (result.n_iter, result.status, result.best_iter) == (10, "max_iter", expected.best_iter)
    assert sorted(result.history["seconds"]) == result.history.pop("seconds")
    expected.history.pop("seconds")
    for key, values in expected.history.items():
        assert np.array_equal(values, result.history[key], equal_nan=True)
    assert not checkpoint.path.exists()


def test_the_history_before_the_run_is_kept(checkpoint):
    earlier = {"objective": [9.0], "step": [1.0], "seconds": [100.0]}
    with pytest.raises(PowerCut):
        run_flow(cloud(), max_iter=5, history=earlier, monitor=cut_at(4), checkpoint=checkpoint)
    result = run_flow(cloud(), max_iter=5, history=earlier, checkpoint=checkpoint)
    assert result.history["objective"][0] == 9.0
    assert len(result.history["objective"]) == 6
    assert 100.0 < result.history["seconds"][1] < result.history["seconds"][-1] < 200.0


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"stop": lambda history: len(history["step"]) == 4}, "converged"),
        ({"monitor": lambda k, history: k == 4}, "stopped"),
        ({}, "max_iter"),
    ],
)
def test_the_file_is_deleted_when_the_run_is_over(checkpoint, options, status):
    assert run_flow(cloud(), max_iter=6, checkpoint=checkpoint, **options).status == status
    assert list(checkpoint.path.parent.iterdir()) == []


def test_a_keyboard_interrupt_leaves_the_last_state(checkpoint):
    expected = run_flow(cloud(), max_iter=9)
    first = run_flow(
        cloud(), max_iter=9, monitor=cut_at(5, KeyboardInterrupt), checkpoint=checkpoint
    )
    assert (first.status, first.n_iter) == ("interrupted", 5)
    result = run_flow(cloud(), max_iter=9, checkpoint=checkpoint)
    assert result.history["objective"] == expected.history["objective"]


def test_an_undone_step_deletes_the_file(checkpoint):
    def spoil(x, side=None):
        return Velocity(x * math.nan, 1.0)

    carrier = ParticleCarrier(torch.ones(2, 1), spoil, step_size=1.0)
    assert run_flow(carrier, max_iter=3, checkpoint=checkpoint).status == "non_finite"
    assert not checkpoint.path.exists()


def test_what_cannot_be_written_is_told_before_the_first_step(checkpoint):
    class Strange(Noise):
        n_calls = 0

        def __call__(self, x, side=None):
            Strange.n_calls += 1
            return super().__call__(x, side)

        def state_dict(self):
            return {"object": object()}

    noise = Strange()
    carrier = ParticleCarrier(torch.ones(2, 1), noise, step_size=1.0, parts=(noise,))
    with pytest.raises(TypeError, match="object"):
        run_flow(carrier, max_iter=3, checkpoint=checkpoint)
    assert Strange.n_calls == 0


def test_the_state_of_another_run_is_refused(checkpoint):
    with pytest.raises(PowerCut):
        run_flow(cloud(), max_iter=5, monitor=cut_at(4), checkpoint=checkpoint)
    other = Checkpoint(checkpoint.path, every=3, mark="b", device=torch.device("cpu"))
    with pytest.raises(ValueError, match="the state of another fit"):
        run_flow(cloud(), max_iter=5, checkpoint=other)


def test_fingerprints():
    def bell(x):
        return x

    same = [{"a": 1, "b": [np.arange(3.0), None]}, bell, (1.0, math.nan), torch.ones(2)]
    again = [{"a": 1, "b": [np.arange(3.0), None]}, bell, (1.0, math.nan), torch.ones(2)]
    marks = {fingerprint(same)}
    assert fingerprint(again) in marks
    for other in (
        [{"a": 2}, bell],
        [{"a": 1, "b": [np.arange(3.0), None]}, bell, (1.0, math.nan), torch.zeros(2)],
        [{"a": 1, "b": [np.arange(3), None]}, bell, (1.0, math.nan), torch.ones(2)],
        [{"a": 1, "b": [np.arange(3.0), None]}, cloud, (1.0, math.nan), torch.ones(2)],
        [{"a": 1, "b": [np.arange(3.0)[:, None], None]}, bell, (1.0, math.nan), torch.ones(2)],
        [{"a": 1, "b": [np.arange(3.0), None]}, bell, [1.0, math.nan], torch.ones(2)],
    ):
        assert fingerprint(other) not in marks
        marks.add(fingerprint(other))
