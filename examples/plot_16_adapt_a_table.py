"""
=====================
Adapt to another site
=====================

A classifier is learnt in one laboratory and used in another, whose instruments have other gains and
offsets and whose rows nobody has labelled. :class:`~skwgf.DomainAdapter` carries the labelled rows
over before the classifier sees them.
"""

# %%
# Two laboratories
# ----------------
# Half of the wine table stands for the first laboratory. The columns of the other half are scaled
# and moved, each by its own factor and offset. ``sample_domain`` says which row is whose.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import sklearn
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import DomainAdapter, SinkhornFlowGenerator, SourceOnly, W2FlowGenerator
from skwgf.metrics import NeighborScorer

rng = np.random.default_rng(1)
table, labels = load_wine(return_X_y=True)
source, target, y_source, y_target = train_test_split(
    table, labels, test_size=0.5, stratify=labels, random_state=1
)
gain = rng.lognormal(0, 0.3, table.shape[1])
target = target * gain + table.std(0) * rng.normal(size=table.shape[1])

X = np.concatenate([source, target])
y = np.concatenate([y_source, np.full(len(target), -1)])  # nobody knows those of the target
domain = np.repeat([1, -1], [len(source), len(target)])

# %%
# One pipeline
# ------------
# The scaler sees all rows, the adapter moves those of the source, and the classifier is fitted on
# them alone. Metadata routing brings ``sample_domain`` to the steps that ask for it.

sklearn.set_config(enable_metadata_routing=True)
w2 = W2FlowGenerator(max_iter=60, tol=0.05, random_state=0)
pipeline = make_pipeline(
    StandardScaler(), DomainAdapter(w2), SourceOnly(LogisticRegression(max_iter=1000))
)
pipeline.fit(X, y, sample_domain=domain)

fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True, layout="constrained")
scaled = pipeline[0].transform(X)
moved = pipeline[:2].transform(X, sample_domain=domain)
plane = PCA(2).fit(scaled)
for ax, rows, title in zip(
    axes, (scaled, moved), ("as measured", "source rows moved"), strict=True
):
    at = plane.transform(rows)
    ax.scatter(*at[domain < 0].T, s=14, color="0.6", marker="x", lw=0.8, label="target")
    for k in range(3):
        chosen = (domain > 0) & (y == k)
        ax.scatter(*at[chosen].T, s=12, color=f"C{k}", label=f"source, wine {k}")
    ax.set_title(title)
    ax.set_xlabel("first principal component")
axes[0].set_ylabel("second")
axes[0].legend(fontsize="small")

# %%
# Which adaptation?
# -----------------
# There are no target labels to choose by. :class:`~skwgf.metrics.NeighborScorer` asks whether
# target rows are called the same as their nearest target rows, beyond chance: a map to the wrong
# place cuts clusters in two. No adaptation at all is one of the candidates.

sinkhorn = SinkhornFlowGenerator(max_iter=60, tol=0.05, random_state=0)
candidates = {
    "none": "passthrough",
    "W2": DomainAdapter(w2, use_labels=False),
    "W2, labels": DomainAdapter(w2),
    "Sinkhorn": DomainAdapter(sinkhorn, use_labels=False),
    "Sinkhorn, labels": DomainAdapter(sinkhorn),
}
search = GridSearchCV(
    pipeline,
    {"domainadapter": list(candidates.values())},
    scoring=NeighborScorer(),
    cv=list(StratifiedKFold(2, shuffle=True, random_state=0).split(X, domain)),
    n_jobs=2,
).fit(X, y, sample_domain=domain)

# %%
# The target labels are known here after all, and tell how good the choice was.

accuracy = []
for candidate in candidates.values():
    fitted = sklearn.base.clone(pipeline).set_params(domainadapter=candidate)
    accuracy.append(fitted.fit(X, y, sample_domain=domain).score(target, y_target))
print("name                   score  accuracy on the target")
for name, score, truth in zip(
    candidates, search.cv_results_["mean_test_score"], accuracy, strict=True
):
    print(f"{name:18} {score:9.3f} {truth:9.3f}")
print("chosen:", list(candidates)[search.best_index_])
sklearn.set_config(enable_metadata_routing=False)

plt.show()
