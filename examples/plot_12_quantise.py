r"""
=====================================
Fifty points that stand for thousands
=====================================

:class:`~skwgf.WSFNOptimizer` minimises a functional of the law of its particles. By default that is
the maximum mean discrepancy from the rows of ``X``: the particles are then points of equal weight
that stand for all rows together.
"""

# %%
# A set with large and small clusters, an arc, and 5000 rows.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.cluster import KMeans

from skwgf import WSFNOptimizer
from skwgf.metrics import wasserstein_distance

rng = np.random.default_rng(0)
N, N_POINTS = 5000, 50
kind = rng.choice(4, N, p=[0.55, 0.25, 0.15, 0.05])
angle = rng.uniform(0, np.pi, N)
clusters = np.stack(
    [
        rng.normal([0, 0], 0.35, (N, 2)),
        2.5 * np.column_stack([np.cos(angle), np.sin(angle)]) + rng.normal(0, 0.08, (N, 2)),
        rng.normal([-2, -2], [0.9, 0.25], (N, 2)),
        rng.normal([2.5, -1.5], 0.2, (N, 2)),
    ]
)
X = clusters[kind, np.arange(N)]

quantiser = WSFNOptimizer(n_particles=N_POINTS, random_state=0).fit(X)
print(
    f"{quantiser.n_iter_} steps in {quantiser.history_['seconds'][-1]:.1f} s, smallest curvature "
    f"{quantiser.hessian_min_eig_:.1e}"
)

# %%
# The smallest eigenvalue of the Hessian is positive: this is a strict local minimum.
#
# Beside it: centres of k-means; kernel herding, which adds one row after the other, each where the
# discrepancy of the same kernel falls most; and rows drawn at random.


def herd(n):
    """Choose rows one by one by the kernel of the quantiser."""
    kernel = quantiser.functional_.kernel_
    rows = torch.tensor(X)
    attraction = torch.cat([kernel.gram(block, rows).mean(1) for block in rows.split(500)])
    crowd, chosen = torch.zeros(N, dtype=torch.float64), []
    for k in range(n):
        chosen.append(int((attraction - crowd / (k + 1)).argmax()))
        crowd += kernel.gram(rows, rows[chosen[-1:]])[:, 0]
    return X[chosen]


counts = (10, 20, 50, 100)
herded = herd(max(counts))
k_means = KMeans(N_POINTS, n_init=3, random_state=0).fit(X)
points = {
    "WSFNOptimizer()": quantiser.particles_,
    "kernel herding": herded[:N_POINTS],
    "k-means centres": k_means.cluster_centers_,
    "random rows": X[rng.choice(N, N_POINTS, replace=False)],
}
distances = {}
print(f"{'50 points of equal weight':26s} W2 to X   half squared MMD")
for name, z in points.items():
    distances[name] = wasserstein_distance(z, X)
    energy = float(quantiser.functional_.value(torch.tensor(z)))
    print(f"{name:26s} {distances[name]:.3f}     {energy:.1e}")
weighted = np.sqrt(k_means.inertia_ / N)
print(f"k-means centres, weighted by the rows of their cells: W2 {weighted:.3f}")

fig, axes = plt.subplots(2, 2, figsize=(8, 7), layout="constrained", sharex=True, sharey=True)
for ax, (name, z), color in zip(axes.flat, points.items(), ("C0", "C2", "C1", "C3"), strict=True):
    ax.scatter(*X.T, s=1, color="0.8", rasterized=True)
    ax.scatter(*z.T, s=22, color=color, edgecolor="white", linewidth=0.5)
    ax.set_title(f"{name}: W2 {distances[name]:.2f}")
    ax.set_aspect("equal")
    ax.spines[["top", "right"]].set_visible(False)
for ax in axes[1]:
    ax.set_xlabel("$x_1$")
for ax in axes[:, 0]:
    ax.set_ylabel("$x_2$")

# %%
# The comparison is unfair to k-means, whose centres are made to have weights: those of the heavy
# cluster in the middle stand for many rows each, and as equals they put too much on the arc. With
# their weights they are closer in W2, which is what k-means minimises, than points of equal weight
# can be. Equal weights are what one wants where points are used as if they were data: to start a
# cloud of particles, to thin a chain, to train on.
#
# How many points
# ---------------
# The discrepancy of random rows falls like :math:`n^{-1/2}`. That of points which move together
# falls faster, and stays below that of points which are chosen one after the other.

found = {"WSFNOptimizer()": [], "kernel herding": [], "random rows": []}


def discrepancy(z):
    """Return the maximum mean discrepancy of points from the rows."""
    return np.sqrt(2 * float(quantiser.functional_.value(torch.tensor(z))))


for n in counts:
    z = WSFNOptimizer(n_particles=n, random_state=0).fit(X).particles_
    found["WSFNOptimizer()"].append(discrepancy(z))
    found["kernel herding"].append(discrepancy(herded[:n]))
    few = [discrepancy(X[rng.choice(N, n, replace=False)]) for _ in range(20)]
    found["random rows"].append(np.mean(few))

fig, ax = plt.subplots(figsize=(5, 3.6), layout="constrained")
for (name, values), color in zip(found.items(), ("C0", "C2", "C3"), strict=True):
    slope = np.polyfit(np.log(counts), np.log(values), 1)[0]
    ax.loglog(counts, values, "o-", ms=4, color=color, label=f"{name}: slope {slope:.2f}")
ax.set_xticks(counts, counts)
ax.minorticks_off()
ax.set_xlabel("number of points")
ax.set_ylabel("MMD to the 5000 rows")
ax.legend(frameon=False, loc="lower left")
ax.spines[["top", "right"]].set_visible(False)
plt.show()
