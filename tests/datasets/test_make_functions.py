"""One battery over all generators: what scikit-learn users rely on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from skwgf import datasets
from skwgf.datasets import (
    make_circle,
    make_oval,
    make_ring,
    make_six_plus_two,
    make_swiss_roll_2d,
    make_two_moons,
)

MAKERS = [make_circle, make_oval, make_ring, make_six_plus_two, make_swiss_roll_2d, make_two_moons]
all_makers = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
both_kinds = pytest.mark.parametrize("stratified", [False, True])


def wasserstein(X, Y):
    """Exact W2 between equally many points."""
    cost = cdist(X, Y, "sqeuclidean")
    return np.sqrt(cost[linear_sum_assignment(cost)].mean())


@all_makers
@both_kinds
@pytest.mark.parametrize("n", [1, 2, 100, np.int64(33)])
def test_shapes_and_types(make, stratified, n):
    X, y = make(n, stratified=stratified, random_state=0)
    assert X.shape == (n, 2)
    assert y.shape == (n,)
    assert X.dtype == np.float64
    assert y.dtype in (np.dtype(np.float64), np.dtype(np.intp))
    assert np.isfinite(X).all()
    assert X.flags.writeable


@all_makers
@both_kinds
def test_the_seed_decides_the_draw(make, stratified):
    first, again = (make(50, stratified=stratified, random_state=5) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    other, _ = make(50, stratified=stratified, random_state=6)
    assert not np.array_equal(first[0], other)


@all_makers
@both_kinds
def test_a_random_state_object_moves_on(make, stratified):
    state = np.random.RandomState(0)
    first, second = (make(20, stratified=stratified, random_state=state)[0] for _ in range(2))
    assert not np.array_equal(first, second)
    again, _ = make(20, stratified=stratified, random_state=np.random.RandomState(0))
    np.testing.assert_array_equal(first, again)


@all_makers
@both_kinds
def test_global_states_are_neither_read_nor_written(make, stratified):
    # catches np.random.*, scipy's default generator, and None read as numpy's global state
    draws = []
    for _ in range(2):
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        draws.append(make(20, stratified=stratified)[0])
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_before)
    assert not np.array_equal(*draws)


@all_makers
def test_the_reference_is_closer_to_the_law_than_a_sample(make):
    # W2^2(sample, reference) = error of both; W2(reference, reference') shows the reference's own.
    # Catches a stratified sampler that is no better than i.i.d. draws (the ratio would be 1).
    n = 400
    references = [make(n, stratified=True, random_state=seed)[0] for seed in range(2)]
    floor = wasserstein(*references)
    sample = np.median([wasserstein(make(n, random_state=s)[0], references[0]) for s in range(5)])
    assert floor < 0.7 * sample


@all_makers
@pytest.mark.parametrize("n_samples", [0, -1, 10.0, (5, 5)])
def test_bad_sample_sizes_are_refused(make, n_samples):
    with pytest.raises(ValueError, match="'n_samples' parameter"):
        make(n_samples)


@pytest.mark.parametrize("make", [make_circle, make_oval, make_swiss_roll_2d, make_two_moons])
@pytest.mark.parametrize("noise", [-0.1, np.nan, np.inf, "small"])
def test_bad_noise_is_refused(make, noise):
    with pytest.raises(ValueError, match=f"'noise' parameter of {make.__name__}"):
        make(10, noise=noise)


@all_makers
def test_all_but_the_size_is_keyword_only(make):
    with pytest.raises(TypeError, match="positional"):
        make(10, 0.1)


def test_public_names_are_complete():
    assert sorted(datasets.__all__) == datasets.__all__
    assert {make.__name__ for make in MAKERS} <= set(datasets.__all__)
    for name in datasets.__all__:
        assert getattr(datasets, name).__doc__


def test_import_loads_no_optional_package():
    code = (
        "import sys, skwgf.datasets;"
        "print(sorted({'h5py', 'mlxtend', 'matplotlib', 'ot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
