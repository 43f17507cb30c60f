"""The coordinates of the training, and the way back to the units of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skwgf.estimators._coordinates import fit_coordinates, normal_points, push_forward

ROWS = np.random.default_rng(0).normal(loc=[3.0, -20.0, 0.5], scale=[1.0, 9.0, 0.01], size=(200, 3))


@pytest.mark.parametrize("standardize", [False, True])
def test_centred_with_mean_square_one(standardize):
    scaled = fit_coordinates(ROWS, standardize=standardize).apply(ROWS).numpy()
    assert np.allclose(scaled.mean(0), 0, atol=1e-9)
    squares = (scaled**2).mean(0)
    assert np.allclose(squares if standardize else squares.mean(), 1)


def test_one_scale_keeps_the_geometry():
    # Bug caught: columns that are scaled one by one change the optimal plan.
    coordinates = fit_coordinates(ROWS)
    assert len(torch.unique(coordinates.scale)) == 1
    assert len(torch.unique(fit_coordinates(ROWS, standardize=True).scale)) == 3


@pytest.mark.parametrize("standardize", [False, True])
def test_there_and_back(standardize):
    coordinates = fit_coordinates(ROWS, standardize=standardize)
    assert np.allclose(coordinates.undo(coordinates.apply(ROWS)).numpy(), ROWS, rtol=1e-14)


@pytest.mark.parametrize("exponents", [(-20, 0, 20), (-300, 5, 300), (480, 480, 480)])
def test_units_of_the_columns_do_not_matter(exponents):
    # Powers of two are exact: the coordinates agree to the bit. Catches squares of raw data.
    units = 2.0 ** np.array(exponents)
    coordinates = fit_coordinates(ROWS, standardize=True)
    other = fit_coordinates(ROWS * units, standardize=True)
    assert torch.equal(other.apply(ROWS * units), coordinates.apply(ROWS))
    assert torch.equal(other.scale, coordinates.scale * torch.tensor(units))


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("value", [0.0, 0.3, -1e8 - 0.1])
def test_constant_columns_count_for_nothing(standardize, value):
    X = np.c_[ROWS, np.full(200, value)]
    coordinates = fit_coordinates(X, standardize=standardize)
    plain = fit_coordinates(ROWS, standardize=standardize)
    assert coordinates.constant.tolist() == [False, False, False, True]
    assert torch.all(coordinates.apply(X)[:, 3] == 0)
    # one size for all columns: a large constant costs some digits of the centre
    assert np.allclose(coordinates.scale[:3], plain.scale, rtol=1e-6)


def test_all_columns_constant():
    for standardize in (False, True):
        coordinates = fit_coordinates(np.full((5, 2), 7.0), standardize=standardize)
        assert torch.equal(coordinates.scale, torch.ones(2).double())
        assert torch.all(coordinates.apply(np.full((5, 2), 7.0)) == 0)


def test_normal_points_are_even_draws_of_the_normal_law():
    # Mean and covariance are much closer than those of random draws, .02 of 4000.
    points = normal_points(4096, 2, seed=0)
    assert points.shape == (4096, 2)
    assert torch.isfinite(points).all()
    assert torch.all(points.mean(0).abs() < 2e-3)
    torch.testing.assert_close(torch.cov(points.T), torch.eye(2).double(), rtol=0, atol=0.01)
    quantiles = torch.quantile(points[:, 0], torch.tensor([0.025, 0.5, 0.975]).double())
    expected = torch.tensor([-1.96, 0.0, 1.96]).double()
    torch.testing.assert_close(quantiles, expected, rtol=0, atol=0.02)
    assert torch.equal(points, normal_points(4096, 2, seed=0))
    assert not torch.equal(points, normal_points(4096, 2, seed=1))


def test_push_forward_reads_what_follows_the_columns_as_it_is():
    # Bug caught: one-hot classes that are shifted and scaled like the columns before them.
    coordinates = fit_coordinates(ROWS)
    options = {"n_inputs": 5, "residual": True, "device": torch.device("cpu")}
    module = push_forward(torch.nn.Identity(), coordinates, **options)
    z = torch.cat([torch.tensor(ROWS), torch.eye(2).double().repeat(100, 1)], 1)
    standardised = module.standardised(z)
    assert torch.equal(standardised[:, :3], coordinates.apply(ROWS))
    assert torch.equal(standardised[:, 3:], z[:, 3:])
