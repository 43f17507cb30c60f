"""Where points of N(0, I) end: maps between Gaussians, neighbourhoods, local maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skwgf._tensor import make_generator
from skwgf.estimators._coordinates import normal_points
from skwgf.estimators._validation import by_region
from skwgf.estimators._w2_ends import (
    ends_from_noise,
    gaussian_maps,
    local_maps,
    moments,
    neighborhoods,
)

MANY = torch.full((1,), 1e15, dtype=torch.float64)


def covariance(d, seed):
    root = torch.randn(d, d, generator=make_generator(seed), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)


def no_limits(d):
    return torch.full((d,), -torch.inf), torch.full((d,), torch.inf)


class TestGaussianMaps:
    @pytest.mark.parametrize("d", [1, 2, 5])
    def test_carries_one_covariance_to_the_other(self, d):
        # B S B = V with B symmetric and positive is the optimal map, and the only one. Catches a
        # factor on the wrong side, and a map that is no gradient.
        s, v = covariance(d, 0), covariance(d, 1)
        b = gaussian_maps(s[None], v[None], MANY)[0]
        assert torch.allclose(b @ s @ b, v, atol=1e-6)
        assert torch.allclose(b, b.T, atol=1e-8)
        assert float(torch.linalg.eigvalsh(b).min()) > 0

    def test_few_rows_keep_the_total_variance(self):
        # With as many columns as rows the map is the multiple of the identity that has the trace.
        s, v = covariance(4, 0), covariance(4, 1)
        b = gaussian_maps(s[None], v[None], torch.tensor([4.0]))[0]
        factor = (torch.trace(v) / torch.trace(s)).sqrt()
        assert torch.allclose(b, factor * torch.eye(4, dtype=torch.float64), atol=1e-6)

    def test_constant_columns_stay_finite(self):
        zero = torch.zeros(1, 2, 2, dtype=torch.float64)
        assert torch.isfinite(gaussian_maps(zero, zero, MANY)).all()


def test_neighborhoods_end_at_gaps():
    # Two clusters of 40 rows, far apart: no row has neighbours in the other, though 50 are asked
    # for. Catches covariances that span two modes.
    y = torch.randn(80, 2, generator=make_generator(0))
    y[40:] += 100.0
    weights = neighborhoods(y).toarray()
    assert np.allclose(weights.sum(1), 1.0)
    assert np.all(weights[:40, 40:] == 0)
    assert np.all(weights[40:, :40] == 0)


def test_moments_are_those_of_the_weighted_points():
    x = torch.randn(60, 3, generator=make_generator(0), dtype=torch.float64)
    weights = neighborhoods(x)
    mean, found = moments(weights, x)
    row = weights.toarray()[7]
    assert np.allclose(mean[7], np.average(x, axis=0, weights=row))
    assert np.allclose(found[7], np.cov(x.T, aweights=row, ddof=0))


def test_local_maps_are_exact_for_affine_laws():
    # Rows that are the affine image of the points themselves: the plan is the map, and every local
    # map is it too, but for the covariances' drift towards the identity. Catches means and cells
    # of different rows. Points beside the plan's own are mapped alike.
    x = normal_points(2000, 2, 0).float()
    a = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    image = local_maps(x, x[:1000] @ a + 3.0, n_points=1000)
    error = (image - x @ a - 3.0).square().sum(1).sqrt()
    assert float(error.median()) < 0.05
    assert float(error.mean()) < 0.1


def test_ends_have_the_masses_and_the_variance_of_the_modes():
    # Two modes of .3 and .7 in eight dimensions, 1000 rows. Catches masses of cells that are off,
    # images that are the rows' means (variance), and limits that are not kept.
    generator = make_generator(0)
    y = 0.2 * torch.randn(1000, 8, generator=generator)
    y[:300, 0] += 2.0
    y -= y.mean(0)
    low, high = no_limits(8)
    high[1] = 0.5
    _, image = ends_from_noise(y, low, high, n_pairs=80_000, seed=0)
    right = image[:, 0] > 0.4
    assert abs(float(right.float().mean()) - 0.3) < 0.01
    assert float(image[:, 1].max()) <= 0.5
    ratio = image[~right].var(0)[2:].mean() / y[300:].var(0)[2:].mean()
    assert 0.8 < float(ratio) < 1.1


def test_many_rows_are_dealt_out_evenly():
    # 12,000 rows make three plans. Every third row of the order has the share of a rare mode.
    y = torch.randn(12_000, 2, generator=make_generator(0))
    y[:240] += 20.0
    order = by_region(y, 0, make_generator(0))
    shares = [float((order[k::3] < 240).float().mean()) for k in range(3)]
    assert np.allclose(shares, 0.02, atol=0.002)


@pytest.mark.parametrize(
    ("n", "solved"),
    [
        (300, [(300, 1000)]),
        (600, [(600, 1200)]),
        (4500, [(4500, 8000)]),
        (12_000, 3 * [(4000,) * 2]),
    ],
)
def test_a_single_plan_has_two_points_a_row(monkeypatch, n, solved):
    # Several plans have one, so that their time stays that of a single one each.
    seen = []

    def spy(x, y, *, n_points):
        seen.append((len(y), n_points))
        return x

    monkeypatch.setattr("skwgf.estimators._w2_ends.local_maps", spy)
    low, high = no_limits(2)
    y = torch.randn(n, 2, generator=make_generator(0))
    ends_from_noise(y, low, high, n_pairs=40_000, seed=0)
    assert seen == solved
