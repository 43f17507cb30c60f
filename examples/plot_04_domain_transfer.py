"""
===============================
Carry a classifier to new data
===============================

A classifier was trained in one place and has to work in another, where no labels are at hand.
With ``X_source`` the flow starts from the rows of the first place, and ``transform`` carries them,
and their labels, over to the second. With ``y_source`` rows of a class stay together on the way.
"""

# %%
# Two places
# ----------
# The source is a pair of moons; the target is another pair, turned by 25 degrees and moved.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from skwgf import W2FlowGenerator
from skwgf.datasets import make_two_moons


def turned(X, degrees, shift):
    """Return the rows, turned about the origin and moved."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return X @ np.array([[c, s], [-s, c]]) + shift


X_source, y_source = make_two_moons(900, noise=0.08, random_state=0)
X_all, y_all = make_two_moons(3000, noise=0.08, random_state=1)
X_all = turned(X_all, 25, [1.2, -0.4])
X_target, y_target = X_all[:1000], y_all[:1000]
X_test, y_test = X_all[1000:], y_all[1000:]

# %%
# Three classifiers
# -----------------
# All are nearest neighbours with the source labels: on the rows where they are, on rows carried
# over by the law alone, and on rows carried over with their labels. Fit sees no target label.
# Plans with labels are entropic; ``reg`` is lowered here from its default, which suits data of
# many columns, so that the carried rows keep the shape of the target.


def accuracy(X):
    """Return the accuracy on target rows that no fit has seen."""
    return KNeighborsClassifier(n_neighbors=1).fit(X, y_source).score(X_test, y_test)


options = {"max_iter": 100, "batch_size": 256, "tol": 0.02, "random_state": 0}
by_law = W2FlowGenerator(**options).fit(X_target, X_source=X_source)
by_label = W2FlowGenerator(reg=0.02, **options).fit(X_target, X_source=X_source, y_source=y_source)
clouds = {
    "source rows": X_source,
    "carried over": by_law.transform(X_source),
    "carried over with labels": by_label.transform(X_source),
}

fig, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharex=True, sharey=True, layout="constrained")
for ax, (name, X) in zip(axes, clouds.items(), strict=True):
    ax.scatter(*X_target.T, s=3, color="0.8")
    for label, color in enumerate(("C0", "C1")):
        ax.scatter(*X[y_source == label].T, s=3, color=color)
    ax.set_title(f"{name}: {accuracy(X):.2f}")
    ax.set_aspect("equal")
fig.suptitle("accuracy of 1-NN on the target (grey: its rows, without labels)")

# %%
# What the fit believes
# ---------------------
# The labelled flow finds class probabilities for the target rows along the way: the plan and the
# graph of nearest neighbours have to agree on them. They are kept, and worth a look: were they
# far from 0 and 1, the transfer would not be trusted.

proba = by_label.target_proba_
print(f"rows with a class above .9: {np.mean(proba.max(axis=1) > 0.9):.2f}")
print(f"right on the rows of the fit: {np.mean(proba.argmax(axis=1) == y_target):.3f}")
fig, ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
points = ax.scatter(*X_target.T, c=proba[:, 1], s=5, cmap="coolwarm", vmin=0, vmax=1)
fig.colorbar(points, label="probability of class 1")
ax.set_aspect("equal")
plt.show()
