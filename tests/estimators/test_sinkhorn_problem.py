"""The rows that flow together, and the finest regularisation that they support."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flow_problems import NO_CODE, cloud, group, problem, unchanged
from scenarios import generator, rotation

from skwgf.estimators._inputs import Labels
from skwgf.estimators._sinkhorn_problem import Group, finest_reg, make_group, make_groups


class TestFinestReg:
    """Twice the mean cost between nearest neighbours over the mean cost, in [.005, .2]."""

    @pytest.mark.parametrize("n", [12, 20, 40])
    def test_of_a_grid_on_the_line(self, n):
        # Neighbours are h apart, the variance is (n^2 - 1) h^2 / 12: 12 / (n^2 - 1).
        grid = torch.linspace(-3, 5, n)[:, None]
        assert finest_reg(grid) == pytest.approx(12 / (n * n - 1), rel=1e-4)

    def test_units_place_and_turn_do_not_matter(self):
        rows = cloud(150, 0, d=3)
        expected = finest_reg(rows)
        assert 0.005 < expected < 0.2
        for moved in (1e4 * rows, rows + 50, rows @ rotation(3, 1).float()):
            assert finest_reg(moved) == pytest.approx(expected, rel=1e-3)

    def test_of_many_rows_a_share_is_asked_for_its_neighbours(self):
        # Those among all rows. Catches neighbours within the share, which are farther away.
        grid = torch.linspace(0, 1, 24).double()
        rows = torch.stack(torch.meshgrid(*3 * [grid], indexing="ij"), -1).reshape(-1, 3).float()
        h = 1 / 23
        assert len(rows) > 4000
        unit = 3 * (24**2 - 1) * h**2 / 12
        assert finest_reg(rows) == pytest.approx(h * h / unit, rel=1e-3)

    @pytest.mark.parametrize(
        "rows", [torch.zeros(1, 2), torch.ones(5, 2), torch.tensor([[0.0], [1.0]])]
    )
    def test_of_next_to_nothing(self, rows):
        assert finest_reg(rows) == 0.2

    def test_of_repeated_rows(self):
        assert finest_reg(cloud(50, 0).repeat(2, 1)) == 0.005


class TestGroups:
    def test_normal_inputs_with_the_code(self):
        drawn, side = group(cloud(5, 0), code=torch.tensor([0.0, 1.0])).draw(4000, generator(0))
        assert side is None
        assert drawn.shape == (4000, 4)
        assert torch.equal(drawn[:, 2:], torch.tensor([[0.0, 1.0]]).expand(4000, 2))
        # four standard errors
        assert torch.all(drawn[:, :2].mean(0).abs() < 4 / 4000**0.5)
        assert torch.allclose(torch.cov(drawn[:, :2].T), torch.eye(2), atol=4 * 2**0.5 / 4000**0.5)

    def test_source_rows_travel_with_their_side(self):
        # Catches sides drawn apart from the rows, and rows drawn twice while others are left.
        source = cloud(50, 0)
        posed = Group(
            cloud(9, 1), source, NO_CODE, 1.0, side_y=cloud(9, 2), side_source=10 * source
        )
        drawn, side = posed.draw(50, generator(0))
        assert torch.equal(side, 10 * drawn)
        assert torch.equal(drawn.sort(0).values, source.sort(0).values)
        assert not torch.equal(drawn, source)
        assert posed.draw(80, generator(0))[0].shape == (80, 2)

    def test_one_group_a_class_of_the_rows_learnt_from(self):
        y = cloud(9, 0)
        codes = np.array([0, 1, 2, 0, 1, 2, 0, 1, 1])
        labels = Labels(np.array(["a", "b", "c"]), codes)
        rows = torch.tensor([8, 0, 2, 4, 5])
        groups, proba = make_groups(y, None, labels, rows, unchanged, label_weight=4.0)
        assert proba is None
        assert [posed.y.tolist() for posed in groups] == [
            y[[0]].tolist(),
            y[[8, 4]].tolist(),
            y[[2, 5]].tolist(),
        ]
        assert torch.equal(torch.stack([posed.code for posed in groups]), torch.eye(3))

    def test_source_rows_go_to_the_group_of_their_class(self):
        y, source = cloud(4, 0), cloud(5, 1)
        labels = Labels(np.arange(2), np.array([0, 1, 0, 1]), np.arange(2), [1, 1, 0, 1, 0])
        groups, _ = make_groups(y, source, labels, torch.arange(4), unchanged, label_weight=4.0)
        assert torch.equal(groups[0].source, source[[2, 4]])
        assert torch.equal(groups[1].source, source[[0, 1, 3]])

    def test_unit_is_the_mean_cost_between_features(self):
        # Half the mean squared distance over all pairs is the variance.
        y = cloud(200, 0)
        made = make_group(y, None, NO_CODE, lambda x: 3 * x)
        assert made.unit == pytest.approx(9 * float(y.var(0, correction=0).sum()), rel=1e-5)
        assert group(torch.ones(4, 2)).unit == 1.0

    def test_draws_of_given_classes(self):
        groups = [group(cloud(5, c), code=torch.eye(3)[c]) for c in range(3)]
        drawn = problem(*groups).draw_like(np.array([2, 0, 2, 2]), 4, generator(0))
        assert drawn[:, 2:].sum(0).tolist() == [1.0, 0.0, 3.0]
