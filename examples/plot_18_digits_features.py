"""
=======================
Compare digits by edges
=======================

Digits of MNIST have labels, those of optdigits are to be read. The two were framed differently, and
a plan between pixels carries many digits to another one's place: the right labels cost more than
wrong ones. ``feature_map=`` lets the plan compare something else, while pixels are what moves.
"""

# %%
# Two collections
# ---------------
# Images of 8 x 8 pixels. MNIST leaves a margin around its digits, optdigits does not. No label of
# optdigits is used before the scores at the end.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import FunctionTransformer

from skwgf import W2FlowGenerator
from skwgf.datasets import load_digit_domains

digits = load_digit_domains("mnist", "optdigits")
rows = np.random.default_rng(0).choice(len(digits.X_source), 1500, replace=False)
source, labels = digits.X_source[rows], digits.y_source[rows]

# %%
# Histograms of edges
# -------------------
# The gradient of the grey value points across a stroke. Its length is dealt out to eight directions
# and summed over windows of 3 x 3 pixels; each window is divided by its length, so that it does not
# matter how dark the stroke is.


def edges(X):
    images = np.pad(np.asarray(X).reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    down = images[:, 2:, 1:-1] - images[:, :-2, 1:-1]
    right = images[:, 1:-1, 2:] - images[:, 1:-1, :-2]
    turn = np.arctan2(down, right)[..., None] * 4 / np.pi - np.arange(8)
    votes = np.clip(1 - np.abs((turn + 4) % 8 - 4), 0, None) * np.hypot(down, right)[..., None]
    windows = np.lib.stride_tricks.sliding_window_view(votes, (3, 3), (1, 2)).sum((-1, -2))
    windows = windows / np.sqrt((windows**2).sum(-1, keepdims=True) + 0.1)
    return windows.reshape(len(images), -1)


# %%
# Four ways
# ---------
# A nearest-neighbour classifier learns from source rows, as they are or moved, and compares pixels
# or edges.


def accuracy(moved, features):
    model = KNeighborsClassifier(1).fit(features(moved), labels)
    return model.score(features(digits.X_target_test), digits.y_target_test)


def pixels(X):
    return X


settings = {"hidden_layer_sizes": (256, 256), "batch_size": 256, "max_iter": 60, "tol": 0.1}
flows = {
    "W2 flow": W2FlowGenerator(random_state=0, **settings),
    "W2 flow, edges": W2FlowGenerator(
        feature_map=FunctionTransformer(edges), random_state=0, **settings
    ),
}
moved = {"source as it is": source}
for name, flow in flows.items():
    flow.fit(digits.X_target, X_source=source, y_source=labels)
    moved[name] = flow.transform(source)

print("trained on         pixels  edges")
for name, images in moved.items():
    print(f"{name:16} {accuracy(images, pixels):8.3f} {accuracy(images, edges):6.3f}")

# %%
# Edges help by themselves, though not much. The plan that compares them, and finds the labels of
# the target among its neighbours in edges, carries each digit to its own kind. Then pixels will do
# as well.

fig, axes = plt.subplots(3, 10, figsize=(7, 2.6), layout="constrained")
shown = [np.flatnonzero(labels == k)[0] for k in range(10)]
for line, (name, images) in zip(axes, moved.items(), strict=True):
    line[0].set_title(name, loc="left", fontsize="small")
    for ax, i in zip(line, shown, strict=True):
        ax.imshow(images[i].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set_axis_off()

# %%
# A network whose last layer but one makes the features does still better; hand it over fitted, in a
# :class:`~sklearn.frozen.FrozenEstimator` if the flow is going to be cloned. See
# ``benchmarks/digits_adaptation.py``.

plt.show()
