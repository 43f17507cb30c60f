"""Rows held out of a fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenarios import Clusters, normal

from skwgf.estimators._validation import divergence, split_rows


class TestSplit:
    @pytest.mark.parametrize(
        ("n", "fraction", "held"),
        [
            (499, 0.1, 0),
            (500, 0.1, 50),
            (2000, 0.1, 200),
            (300, 0.5, 150),
            (60, 0.95, 57),
            (20_000, 0.1, 1000),
            (800, 0.0, 0),
        ],
    )
    def test_every_row_once(self, n, fraction, held):
        # Catches rows that are in both parts (a validation that cannot fail) or in neither.
        rows, held_out = split_rows(normal(n, 2, 0).float(), fraction, seed=0)
        assert len(held_out) == held
        together = torch.cat([rows, held_out])
        assert torch.equal(together.sort().values, torch.arange(n))
        assert torch.equal(rows, rows.sort().values)

    def test_equal_shares_of_regions(self):
        # Eight clusters of unequal size, far apart: a tenth of each, to within the two rows at the
        # ends of a region, where a choice at random is off by 9 rows (3 sd) of 100.
        shares = (0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02)
        clusters = Clusters.shifted(2000, torch.zeros(2), shares=shares, seed=0)
        for seed in range(5):
            _, held_out = split_rows(clusters.x.float(), 0.1, seed=seed)
            counts = torch.bincount(clusters.labels_x[held_out], minlength=8)
            expected = 200 * torch.tensor(shares)
            assert torch.all((counts - expected).abs() <= 2)

    def test_within_a_region_rows_are_taken_at_random(self):
        # Catches the first rows of each region: rows are often sorted. The mean position of 200 of
        # 2000 rows is .5 +- .02 of the length.
        rows = normal(2000, 2, 0).float()
        positions = [
            float(split_rows(rows, 0.1, seed=seed)[1].double().mean()) / 2000 for seed in range(5)
        ]
        assert np.all(np.abs(np.array(positions) - 0.5) < 0.1)

    def test_seeds(self):
        rows = normal(600, 2, 0).float()
        held = [split_rows(rows, 0.1, seed=seed)[1] for seed in (0, 0, 1)]
        assert torch.equal(held[0], held[1])
        assert not torch.equal(held[0], held[2])

    def test_one_row_of_every_class_is_left_to_learn_from(self):
        # Half of the rows are held out, and half of the classes have a single row: without care
        # 50 of them would lose it.
        codes = np.r_[np.arange(100), np.full(500, 100)]
        rows, held_out = split_rows(normal(600, 2, 0).float(), 0.5, seed=0, codes=codes)
        assert set(codes[rows]) == set(range(101))
        assert 200 < len(held_out) < 300
        assert set(codes[held_out]) == {100}
        together = torch.cat([rows, held_out])
        assert torch.equal(together.sort().values, torch.arange(600))

    @pytest.mark.parametrize("rows", [torch.ones(600, 2), torch.arange(600)[:, None] // 200 + 0.5])
    @pytest.mark.filterwarnings("error")
    def test_repeated_rows(self, rows):
        # Fewer distinct rows than regions.
        _, held_out = split_rows(rows, 0.1, seed=0)
        assert len(held_out) == 60


class TestDivergence:
    def test_of_a_translation(self):
        # |s|^2 / 2, whatever the regularisation.
        x = normal(100, 2, 0)
        assert divergence(x, x + 3) == pytest.approx(9.0, rel=1e-3)

    def test_of_rows_that_are_all_one(self):
        x = torch.zeros(60, 2, dtype=torch.float64)
        assert divergence(x, x) == 0.0
        assert divergence(x, x + 1) == pytest.approx(1.0, rel=1e-3)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_of_a_network_that_went_astray(self, value):
        x = normal(60, 2, 0)
        draws = x.clone()
        draws[3, 1] = value
        assert divergence(x, draws) == torch.inf

    def test_falls_towards_the_law(self):
        x, scale = normal(200, 2, 0), torch.tensor([1.0, 1.5, 3.0]).double()
        figures = [divergence(x, s * normal(200, 2, 1)) for s in scale]
        assert figures[0] < figures[1] < figures[2]
        assert abs(figures[0]) < 0.1
