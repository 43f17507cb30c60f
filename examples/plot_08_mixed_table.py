"""
========================
A table of mixed columns
========================

Numbers in different units, whole numbers and categories: how such a table is generated, and how the
draws come back as a table of the same kind.
"""

# %%
# The table
# ---------
# Measurements of 442 diabetes patients. Age and some blood values are whole numbers, sex is a
# category, and the units differ.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from skwgf import SinkhornFlowGenerator

table = load_diabetes(scaled=False, as_frame=True).frame
table["sex"] = table["sex"].map({1.0: "a", 2.0: "b"})
WHOLE = ["age", "s6", "target"]
print(table.head())

# %%
# There and back
# --------------
# Categories become one-hot columns. The way back takes the largest entry of each group, so that the
# result is always one of the categories, and rounds whole numbers. Scaling is not needed: the
# generator standardises columns itself, and keeps one-hot columns between 0 and 1.


class TableEncoder(TransformerMixin, BaseEstimator):
    """Numbers as they are, categories one-hot; and the way back."""

    def __init__(self, *, categories, whole):
        self.categories = categories
        self.whole = whole

    def fit(self, X, y=None):
        self.columns_ = list(X.columns)
        self.numbers_ = [name for name in self.columns_ if name not in self.categories]
        self.encoder_ = OneHotEncoder(sparse_output=False).fit(X[self.categories])
        return self

    def transform(self, X):
        return np.hstack([X[self.numbers_], self.encoder_.transform(X[self.categories])])

    def inverse_transform(self, X):
        cut = len(self.numbers_)
        table = pd.DataFrame(X[:, :cut], columns=self.numbers_)
        table[self.whole] = table[self.whole].round().astype(int)
        table[self.categories] = self.encoder_.inverse_transform(X[:, cut:])
        return table[self.columns_]


pipeline = make_pipeline(
    TableEncoder(categories=["sex"], whole=WHOLE),
    SinkhornFlowGenerator(max_iter=200, random_state=0),
)
pipeline.fit(table)
drawn = pipeline[:-1].inverse_transform(pipeline[-1].sample(442, random_state=0))
print(drawn.head())

# %%
# Is it the same table?
# ---------------------
# Shares of the categories, means and spreads column by column, and the correlations.

shares = [frame["sex"].value_counts(normalize=True) for frame in (table, drawn)]
print(pd.concat(shares, axis=1, keys=["data", "drawn"]))
numbers = [name for name in table if name != "sex"]
print(
    pd.DataFrame(
        {
            "mean": table[numbers].mean(),
            "mean drawn": drawn[numbers].mean(),
            "sd": table[numbers].std(),
            "sd drawn": drawn[numbers].std(),
        }
    ).round(1)
)

fig, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
for ax, frame, title in zip(axes, (table, drawn), ("data", "drawn"), strict=False):
    image = ax.imshow(frame[numbers].corr(), vmin=-1, vmax=1, cmap="RdBu_r")
    ax.set_title(f"correlations, {title}")
    ax.set_xticks([])
    ax.set_yticks(range(len(numbers)), numbers, fontsize=7)
fig.colorbar(image, ax=axes[:2])
for frame, label in ((table, "data"), (drawn, "drawn")):
    axes[2].scatter(frame["bmi"], frame["target"], s=5, alpha=0.6, label=label)
axes[2].set_xlabel("bmi")
axes[2].set_ylabel("target")
axes[2].legend()
plt.show()
