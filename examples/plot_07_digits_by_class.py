"""
================
Digits on demand
================

With ``conditional=True`` a generator learns the law of the rows given their label, and ``sample``
takes labels.
"""

# %%
# Pixels share one unit, so that they are not standardised one by one; and 64 columns want a wider
# network than the default.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from skwgf import SinkhornFlowGenerator
from skwgf.metrics import neighbor_distance_ratio, two_sample_accuracy

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=1 / 3, stratify=y, random_state=0
)
generator = SinkhornFlowGenerator(
    conditional=True,
    standardize=False,
    hidden_layer_sizes=(256, 256, 256),
    max_iter=150,
    random_state=0,
).fit(X_train, y_train)

labels = np.repeat(np.arange(10), 12)
images = generator.sample(len(labels), y=labels, random_state=0)

fig, axes = plt.subplots(10, 12, figsize=(7, 6), layout="constrained")
for ax, image in zip(axes.flat, images, strict=True):
    ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
    ax.set_axis_off()

# %%
# Pixels run from 0 to 16 in the data, and many are exactly 0: columns whose values pile up at a
# limit keep to it. The others (pixels in the middle of the strokes) may go a little beyond.

print("range of the draws:", images.min(), images.max())

# %%
# Good enough to learn from?
# --------------------------
# A classifier that has seen generated digits only is tried on real ones. A second one is asked to
# tell generated digits from held-out ones: .5 means that it cannot. And generated digits must not
# be copies: the ratio compares how close they are to the training rows with how close held-out
# rows are.

drawn_labels = np.tile(y_train, 3)
drawn = generator.sample(len(drawn_labels), y=drawn_labels, random_state=1)
on_drawn = KNeighborsClassifier(1).fit(drawn, drawn_labels).score(X_test, y_test)
on_real = KNeighborsClassifier(1).fit(X_train, y_train).score(X_test, y_test)
new = generator.sample(len(X_test), y=y_test, random_state=2)
print(f"1-NN trained on generated digits {on_drawn:.3f}, on real ones {on_real:.3f}")
print(f"two-sample 1-NN accuracy         {two_sample_accuracy(X_test, new, random_state=0):.3f}")
print(f"neighbour-distance ratio         {neighbor_distance_ratio(new, X_train, X_test):.2f}")
plt.show()
