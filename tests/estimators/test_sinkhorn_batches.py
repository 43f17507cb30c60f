"""The loop's batches: their sizes, their velocity, and its two-batch debiasing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flow_problems import KINDS, NO_CODE, cloud, group, problem
from scenarios import generator

from skwgf.estimators._sinkhorn_batches import Batches
from skwgf.estimators._sinkhorn_problem import Group
from skwgf.flows.sinkhorn import debiased_map


def batches_of(posed, *, batch_size=32, debias=True, n_annealing=10, seed=0):
    return Batches(
        posed,
        batch_size=batch_size,
        debias=debias,
        n_annealing=n_annealing,
        generator=generator(seed),
    )


class TestBatches:
    @pytest.mark.parametrize("velocity", KINDS)
    def test_mean_velocity_vanishes_at_the_law_with_two_batches(self, velocity):
        # Both terms then have the same law, whatever the size of the batches: the mean pull to
        # the centre, E <v(x), x>, is zero to four standard errors of 60 batches. With the self term
        # on the same batch it is not, since a point meets itself there. Measured: |z| < 1 against
        # 10 (sinkhorn), 20 (kl). Catches halves that are not swapped, and batches of unequal size.
        y = cloud(1000, 0)
        significance = {}
        for debias in (True, False):
            posed = problem(group(y, y), velocity=velocity, reg=0.05, reg_start=0.05)
            batches = batches_of(posed, debias=debias)
            pulls = []
            for _ in range(60):
                x, _ = batches.draw(64)
                pulls.append(float((batches.velocity(x).direction * x).sum(1).mean()))
            significance[debias] = np.mean(pulls) / (np.std(pulls) / len(pulls) ** 0.5)
        assert abs(significance[True]) < 4
        if velocity != "mmd":  # a point pulls itself by nothing there: no bias
            assert significance[False] < -5

    @pytest.mark.parametrize(
        ("batch_size", "n_classes", "size"),
        [(512, 1, 512), (512, 4, 128), (1, 1, 16), (100, 10, 16)],
    )
    def test_sizes(self, batch_size, n_classes, size):
        # Two halves, in each as many points of every class, and no fewer than 16.
        groups = [group(cloud(30, k), code=torch.eye(n_classes)[k]) for k in range(n_classes)]
        batches = batches_of(problem(*groups), batch_size=batch_size)
        x, side = batches.draw(batch_size)
        assert side is None
        assert x.shape == (2 * size * n_classes, 2 + n_classes)
        codes = x[:, 2:].argmax(1).unflatten(0, (2 * n_classes, size))
        assert torch.equal(codes, torch.arange(n_classes).repeat(2)[:, None].expand_as(codes))
        assert batches.velocity(x[:, :2]).direction.shape == (len(x), 2)

    def test_classes_are_moved_to_their_own_rows(self):
        # Catches classes that are mixed up between the two halves.
        places = torch.tensor([[5.0, 0.0], [0.0, 5.0], [-5.0, 0.0]])
        groups = [group(0.5 * cloud(100, k) + places[k], code=torch.eye(3)[k]) for k in range(3)]
        batches = batches_of(problem(*groups), batch_size=96)
        x = 0.5 * cloud(6 * 32, 9)
        moved = (x + batches.velocity(x).direction).unflatten(0, (6, 32)).mean(1)
        torch.testing.assert_close(moved, places.repeat(2, 1), rtol=0, atol=0.4)

    def test_energy_is_half_the_mean_square(self):
        batches = batches_of(problem(group(cloud(100, 0))))
        velocity = batches.velocity(cloud(64, 1))
        expected = 0.5 * float(velocity.direction.square().sum(1).mean())
        assert velocity.energy == pytest.approx(expected)

    def test_reg_falls_by_equal_factors_and_stays(self, monkeypatch):
        import skwgf.estimators._sinkhorn_batches as module

        seen = []

        def recorded(*args, **options):
            seen.append(options["reg"])
            return debiased_map(*args, **options)

        monkeypatch.setattr(module, "debiased_map", recorded)
        posed = problem(group(cloud(100, 0)), reg_start=0.16, reg=0.01)
        batches = batches_of(posed, n_annealing=4)
        for _ in range(7):
            batches.velocity(cloud(64, 1))
        assert seen == pytest.approx([0.16, 0.08, 0.04, 0.02, 0.01, 0.01, 0.01])

    def test_state_goes_back(self):
        batches = batches_of(problem(group(cloud(100, 0)), reg_start=0.16, reg=0.01))
        state = batches.state_dict()
        batches.velocity(cloud(64, 1))
        assert batches.state_dict() != state
        batches.load_state_dict(state)
        assert batches.state_dict() == state

    def test_sides_enter_the_cost(self):
        # Two clusters, and sides that belong to the other one: points cross over, but for those
        # whose class is more frequent in one batch than in the other. Without sides all stay.
        y = 0.1 * cloud(200, 0)
        y[:100, 0] -= 1
        y[100:, 0] += 1
        names = 3 * torch.eye(2).repeat_interleave(100, 0)
        posed = Group(y, y.flip(0), NO_CODE, group(y).unit, side_y=names, side_source=names)
        batches = batches_of(problem(posed), batch_size=128)
        x, side = batches.draw(128)
        crossed = x[:, 0] * (x + batches.velocity(x, side).direction)[:, 0] < 0
        assert crossed.float().mean() > 0.7
        batches = batches_of(problem(group(y, y)), batch_size=128)
        crossed = x[:, 0] * (x + batches.velocity(x).direction)[:, 0] < 0
        assert crossed.float().mean() < 0.3

    def test_in_the_loop_points_away_from_the_other_class(self):
        # Classes at 0 and at (4, 0). Points of the first class that lie in place are sent to the
        # left of it, by about w times half the distance of the centres, those of the second to
        # the right. Catches a wrong sign, and rows of the wrong class.
        y = 0.3 * cloud(200, 0)
        groups = [group(y + torch.tensor([4.0 * k, 0]), code=torch.eye(2)[k]) for k in (0, 1)]
        drift = {}
        for guidance in (0.0, 0.5):
            # with a coarse reg each map is the mean of its rows
            posed = problem(*groups, guidance=guidance, reg=50.0, reg_start=50.0)
            batches = batches_of(posed, batch_size=128)
            x = torch.cat([one.y[:64] for one in 2 * groups])
            drift[guidance] = batches.velocity(x).direction.unflatten(0, (4, 64)).mean(1)
        push = drift[0.5] - drift[0.0]
        expected = 0.5 * torch.tensor([[-2.0, 0.0], [2.0, 0.0]]).repeat(2, 1)
        torch.testing.assert_close(push, expected, rtol=0, atol=0.4)
