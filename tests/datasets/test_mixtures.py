"""The mixture object: its moments are exact and both samplers draw from it."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from skwgf.datasets import GaussianMixtureSpec, random_gaussian_mixture, six_plus_two
from skwgf.datasets._sampling import largest_remainder

# tilted, unequal modes: a transposed Cholesky factor or swapped axes cannot hide
TILTED = GaussianMixtureSpec(
    weights=[0.2, 0.5, 0.3],
    centers=[[0.0, 0.0], [6.0, 1.0], [-2.0, 8.0]],
    covariances=[
        [[1.0, 0.8], [0.8, 1.0]],
        [[4.0, -0.3], [-0.3, 0.25]],
        [[0.1, 0.0], [0.0, 2.0]],
    ],
)


def test_moments_follow_the_law_of_total_variance():
    # catches a between-mode term around 0 instead of the mean, or a dropped weight
    w, c, C = TILTED.weights, TILTED.centers, TILTED.covariances
    mean = sum(w[k] * c[k] for k in range(3))
    second = sum(w[k] * (C[k] + np.outer(c[k], c[k])) for k in range(3))
    np.testing.assert_allclose(TILTED.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(TILTED.covariance, second - np.outer(mean, mean), rtol=1e-13)
    np.testing.assert_array_equal(TILTED.covariance, TILTED.covariance.T)


def test_moments_of_two_modes_by_hand():
    # +-1 with sd 1/2: mean 0, variance 1/4 + 1
    spec = GaussianMixtureSpec.isotropic([[-1.0], [1.0]], 0.5)
    assert spec.mean == 0.0
    assert spec.covariance == 1.25
    assert spec.scale == 0.5


def test_moments_are_equivariant_under_affine_maps():
    # X -> A X + b maps the moments to A m + b and A S A^T, whatever the mixture
    A, b = np.array([[2.0, -1.0], [0.5, 3.0]]), np.array([10.0, -4.0])
    mapped = GaussianMixtureSpec(
        TILTED.weights, TILTED.centers @ A.T + b, A @ TILTED.covariances @ A.T
    )
    np.testing.assert_allclose(mapped.mean, A @ TILTED.mean + b, rtol=1e-13)
    np.testing.assert_allclose(mapped.covariance, A @ TILTED.covariance @ A.T, rtol=1e-12)


@pytest.mark.parametrize("kind", ["sample", "stratified"])
def test_samplers_reproduce_every_mode(kind):
    # catches root.T @ root in place of root @ root.T, and labels shuffled apart from the points
    n = 30_000
    X, labels = getattr(TILTED, kind)(n, random_state=0)
    for k in range(3):
        rows, C = X[labels == k], TILTED.covariances[k]
        m = len(rows)
        assert abs(m - n * TILTED.weights[k]) < 4.0 * np.sqrt(n * 0.25)
        mean_error = np.abs(rows.mean(axis=0) - TILTED.centers[k])
        assert (mean_error < 4.5 * np.sqrt(np.diag(C) / m)).all()
        # standard error of a Wishart entry: sqrt((C_ii C_jj + C_ij^2) / m)
        error = np.sqrt((np.outer(np.diag(C), np.diag(C)) + C**2) / m)
        assert (np.abs(np.cov(rows.T) - C) < 4.5 * error).all()


def test_eight_dimensional_mixture_of_ten_has_its_exact_moments():
    n = 20_000
    spec = random_gaussian_mixture(10, 8, anisotropy=3.0, random_state=0)
    X, _ = spec.sample(n, random_state=1)
    centred = X - spec.mean
    assert (np.abs(centred.mean(axis=0)) < 4.5 * np.sqrt(np.diag(spec.covariance) / n)).all()
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0) / np.sqrt(n)
    assert (np.abs(products.mean(axis=0) - spec.covariance) < 4.5 * error).all()


@pytest.mark.parametrize("n", [1, 7, 40, 1000, 1001])
def test_stratified_counts_are_the_largest_remainder(n):
    spec = six_plus_two()
    _, labels = spec.stratified(n, random_state=0)
    counts = np.bincount(labels, minlength=8)
    assert counts.tolist() == largest_remainder(spec.weights, n).tolist()


@pytest.mark.parametrize("kind", ["sample", "stratified"])
def test_rows_come_in_random_order(kind):
    # catches rows sorted by mode: a prefix of the sample would then miss modes
    n = 2000
    X, labels = getattr(six_plus_two(), kind)(n, random_state=0)
    first = np.bincount(labels[: n // 2], minlength=8)
    counts = np.bincount(labels, minlength=8)
    # hypergeometric: half of each mode, variance at most counts / 4
    assert (np.abs(first - counts / 2) < 4.5 * np.sqrt(counts / 4.0)).all()
    assert X.shape == (n, 2)


def test_stratified_mean_beats_the_sampling_error_by_an_order_of_magnitude():
    # counts are exact and Sobol within modes: the error left is far below sqrt(trace / n)
    n, repeats = 1000, 20
    spec = TILTED
    errors = [
        spec.stratified(n, random_state=seed)[0].mean(axis=0) - spec.mean for seed in range(repeats)
    ]
    rms = np.sqrt((np.array(errors) ** 2).sum(axis=1).mean())
    assert rms < 0.1 * np.sqrt(np.trace(spec.covariance) / n)


def test_stratified_mean_is_unbiased():
    # scrambling makes every point exactly distributed: catches an unscrambled net, which is
    # biased towards its corner. Counts are exact for this n.
    n, repeats = 40, 300
    spec = GaussianMixtureSpec.isotropic([[0.0, 0.0], [1.0, 1.0]], 0.5)
    means = np.array([spec.stratified(n, random_state=s)[0].mean(axis=0) for s in range(repeats)])
    error = means.std(axis=0) / np.sqrt(repeats)
    assert (np.abs(means.mean(axis=0) - spec.mean) < 4.5 * error).all()


def test_arrays_are_copies_and_read_only():
    weights = np.array([0.5, 0.5])
    spec = GaussianMixtureSpec.isotropic([[0.0], [1.0]], 0.1, weights)
    weights[0] = 9.0
    assert spec.weights.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        spec.centers[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.weights = weights


def test_copies_and_pickles_keep_the_law():
    for other in (copy.deepcopy(TILTED), pickle.loads(pickle.dumps(TILTED))):
        np.testing.assert_array_equal(
            other.sample(5, random_state=0)[0], TILTED.sample(5, random_state=0)[0]
        )


def test_isotropic_and_anisotropic_scale():
    assert six_plus_two(scale=0.3).scale == pytest.approx(0.3, rel=1e-14)
    spec = random_gaussian_mixture(4, 5, scale=0.7, anisotropy=6.0, random_state=0)
    assert spec.scale == pytest.approx(0.7, rel=1e-12)
    deviations = np.sqrt(np.linalg.eigvalsh(spec.covariances))
    np.testing.assert_allclose(deviations[:, -1] / deviations[:, 0], 6.0, rtol=1e-9)
    np.testing.assert_allclose(np.diff(np.log(deviations), 2), 0.0, atol=1e-8)


def test_isotropic_modes_need_no_rotation():
    spec = random_gaussian_mixture(3, 4, scale=0.5, random_state=0)
    np.testing.assert_allclose(spec.covariances, np.tile(0.25 * np.eye(4), (3, 1, 1)), atol=1e-15)


def test_spread_of_the_random_centres():
    spec = random_gaussian_mixture(500, 8, spread=3.0, random_state=0)
    assert spec.centers.std() == pytest.approx(3.0, rel=4.0 / np.sqrt(2 * spec.centers.size))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [[0.0]], [[1.0]]), "shapes"),
        (([0.5, 0.5], [[0.0]], [[[1.0]]]), "shapes"),
        (([1.0], [0.0], [[[1.0]]]), "shapes"),
        (([1.0], [[0.0, 0.0]], [[[1.0]]]), "shapes"),
        (([], np.zeros((0, 2)), np.zeros((0, 2, 2))), "shapes"),
        (([0.5, 0.6], [[0.0], [1.0]], [[[1.0]], [[1.0]]]), "sum to 1"),
        (([0.0, 1.0], [[0.0], [1.0]], [[[1.0]], [[1.0]]]), "positive and sum to 1"),
        (([1.5, -0.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]]), "positive and sum to 1"),
        (([1.0], [[np.nan]], [[[1.0]]]), "centers has NaN"),
        (([1.0], [[0.0]], [[[np.inf]]]), "covariances has NaN or infinite"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "positive definite.*mode 0"),
    ],
)
def test_bad_laws_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureSpec(*arguments)


def test_bad_isotropic_arguments_are_refused():
    with pytest.raises(ValueError, match=r"centers must have shape"):
        GaussianMixtureSpec.isotropic([0.0, 1.0], 0.1)
    for scale in (0.0, -1.0, np.nan, np.inf, "wide"):
        with pytest.raises(ValueError, match=r"'scale' parameter"):
            GaussianMixtureSpec.isotropic([[0.0]], scale)


@pytest.mark.parametrize("kind", ["sample", "stratified"])
@pytest.mark.parametrize("n_samples", [0, -3, 2.5, None, "10"])
def test_bad_sample_sizes_are_refused(kind, n_samples):
    with pytest.raises(ValueError, match=rf"'n_samples' parameter of GaussianMixtureSpec.{kind}"):
        getattr(TILTED, kind)(n_samples)


def test_unknown_random_state_is_refused():
    with pytest.raises(ValueError, match="cannot be used to seed"):
        TILTED.sample(3, random_state="seed")
