"""Few points that stand for many rows: peers of the quantiser, and how far they are from the rows.

Kernel thinning is a simple version written from the idea of the papers: halving by a self-balancing
walk over pairs of rows, down a tree, then a choice and one round of swaps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

from skwgf.datasets import make_two_moons
from skwgf.estimators.wsfn import WSFNOptimizer
from skwgf.functionals import MMD, EnergyDistance
from skwgf.kernels import Kernel
from skwgf.metrics import wasserstein_distance


class Points(NamedTuple):
    """Points, their weights (None: equal ones) and the steps of an iteration."""

    rows: np.ndarray
    weights: np.ndarray | None = None
    steps: float = math.nan


def moons(seed: int, m: int) -> np.ndarray:
    """Return rows on two moons."""
    return np.asarray(make_two_moons(m, random_state=seed)[0])


def uneven_blobs(seed: int, m: int) -> np.ndarray:
    """Return rows of four blobs of different mass and width."""
    rng = np.random.default_rng(seed)
    centres = np.array([[-3.0, -2.0], [3.0, -2.0], [0.0, 3.0], [4.0, 3.0]])
    kind = rng.choice(4, m, p=[0.55, 0.3, 0.12, 0.03])
    return centres[kind] + np.array([0.8, 0.3, 0.5, 0.15])[kind, None] * rng.normal(size=(m, 2))


def digits(seed: int, m: int) -> np.ndarray:
    """Return all 1797 digits on their first eight principal components, in an order of chance."""
    rows = PCA(8, random_state=0).fit_transform(load_digits().data)
    return np.random.default_rng(seed).permutation(rows)[:m]


DATA = {"moons": moons, "uneven blobs": uneven_blobs, "digits, 8 components": digits}


def default_kernel(X: np.ndarray) -> Kernel:
    """Return the kernel that MMD takes for these rows."""
    return MMD().fit(X).kernel_


def gram(kernel: Kernel, X: np.ndarray, Y: np.ndarray) -> np.ndarray:
    """Return the kernel between rows."""
    return kernel.gram(torch.from_numpy(X), torch.from_numpy(Y)).numpy()


def means(kernel: Kernel, X: np.ndarray) -> np.ndarray:
    """Return the mean of the kernel with all rows, at each row."""
    return np.concatenate([gram(kernel, part, X).mean(1) for part in np.array_split(X, 10)])


def ours(X: np.ndarray, n: int, seed: int, kernel: Kernel) -> Points:
    """Return the quantiser with its default functional."""
    fitted = WSFNOptimizer(n_particles=n, random_state=seed).fit(X)
    return Points(fitted.particles_, steps=fitted.n_iter_)


def ours_energy(X: np.ndarray, n: int, seed: int, kernel: Kernel) -> Points:
    """Return the quantiser with the energy distance."""
    fitted = WSFNOptimizer(EnergyDistance(), n_particles=n, random_state=seed).fit(X)
    return Points(fitted.particles_, steps=fitted.n_iter_)


def k_means(X: np.ndarray, n: int, seed: int, kernel: Kernel) -> Points:
    """Return the centres of k-means with equal weights."""
    return Points(KMeans(n, random_state=seed).fit(X).cluster_centers_)


def k_means_weighted(X: np.ndarray, n: int, seed: int, kernel: Kernel) -> Points:
    """Return the centres of k-means, weighted by the sizes of their clusters."""
    fitted = KMeans(n, random_state=seed).fit(X)
    return Points(fitted.cluster_centers_, np.bincount(fitted.labels_, minlength=n) / len(X))


def herding(X: np.ndarray, n: int, seed: int, kernel: Kernel) -> Points:
    """Return rows that each reduce the discrepancy most, one after the other."""
    pull, push, chosen = means(kernel, X), np.zeros(len(X)), []
    for k in range(n):
        chosen.append(int(np.argmax(pull - push / (k + 1))))
        push += gram(kernel, X, X[chosen[-1:]])[:, 0]
    return Points(X[chosen])


def thinning(X: np.ndarray, n: int, seed: int, kernel: Kernel) -> Points:
    """Return rows by kernel thinning: halvings of n 2^g rows, the best part, and swaps."""
    rng, pull = np.random.default_rng(seed), means(kernel, X)
    depth = int(math.log2(len(X) / n))
    parts = [rng.permutation(len(X))[: n * 2**depth]]
    for _ in range(depth):
        parts = [half for part in parts for half in halves(gram(kernel, X[part], X[part]), part)]
    best = min(parts, key=lambda part: discrepancy(gram(kernel, X[part], X[part]), pull[part]))
    return Points(X[swapped(kernel, X, pull, best.copy())])


def halves(matrix: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two halves of some rows, whose kernel matrix is given, that are alike.

    Of each pair one goes to either half, so that the difference of the sums of the kernel over the
    halves stays small where they were last seen.
    """
    signs = np.zeros(len(part))
    for i in range(0, len(part), 2):
        j = i + 1
        tilt = (matrix[i, :i] - matrix[j, :i]) @ signs[:i]
        signs[i] = -1.0 if tilt > 0 else 1.0
        signs[j] = -signs[i]
    return part[signs > 0], part[signs < 0]


def swapped(kernel: Kernel, X: np.ndarray, pull: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Replace each chosen row in turn by the row that leaves the least discrepancy."""
    n = len(chosen)
    columns = gram(kernel, X, X[chosen])
    push, diagonal = columns.sum(1), gram(kernel, X[:1], X[:1])[0, 0]
    for k in range(n):
        push -= columns[:, k]
        chosen[k] = np.argmin((2 * push + diagonal) / n**2 - 2 * pull / n)
        columns[:, k] = gram(kernel, X, X[chosen[k : k + 1]])[:, 0]
        push += columns[:, k]
    return chosen


def discrepancy(matrix: np.ndarray, pull: np.ndarray) -> float:
    """Return the squared discrepancy of equally weighted rows, up to a constant."""
    return float(matrix.mean() - 2 * pull.mean())


def at_random(X: np.ndarray, n: int, seed: int, kernel: Kernel) -> Points:
    """Return rows drawn without replacement."""
    return Points(X[np.random.default_rng(seed).choice(len(X), n, replace=False)])


METHODS = {
    "WSFNOptimizer()": ours,
    "WSFNOptimizer(EnergyDistance())": ours_energy,
    "k-means, equal weights": k_means,
    "k-means, weights of clusters": k_means_weighted,
    "kernel herding": herding,
    "kernel thinning": thinning,
    "rows at random": at_random,
}


def figures(X: np.ndarray, points: Points, kernel: Kernel) -> dict[str, float]:
    """Return distances between weighted points and rows."""
    n = len(points.rows)
    weights = np.full(n, 1 / n) if points.weights is None else points.weights
    inside = weights @ gram(kernel, points.rows, points.rows) @ weights
    across = weights @ gram(kernel, points.rows, X).mean(1)
    square = inside - 2 * across + means(kernel, X).mean()
    return {
        "w2": float(wasserstein_distance(points.rows, X, weights_X=weights)),
        "mmd": math.sqrt(max(square, 0.0)),
        "energy": energy_distance(points.rows, weights, X),
    }


def energy_distance(P: np.ndarray, weights: np.ndarray, X: np.ndarray) -> float:
    """Return the root of the energy distance, with no smoothing."""

    def lengths(A: np.ndarray, B: np.ndarray) -> np.ndarray:
        u = (A**2).sum(1)[:, None] + (B**2).sum(1) - 2 * A @ B.T
        return np.sqrt(np.maximum(u, 0.0))

    rows = np.concatenate([lengths(part, X).mean(1) for part in np.array_split(X, 10)]).mean()
    square = 2 * weights @ lengths(P, X).mean(1) - weights @ lengths(P, P) @ weights - rows
    return math.sqrt(max(float(square), 0.0))
