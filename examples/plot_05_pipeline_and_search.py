"""
====================
Pipelines and search
====================

:class:`~skwgf.W2FlowGenerator` is a scikit-learn estimator: it scales, searches, reports and stops
like any other.
"""

# %%
# In a pipeline
# -------------
# The wine table has thirteen columns of very different size. The Wasserstein distance would see the
# largest only, so the columns are scaled first. Draws come out scaled as well; the first step takes
# them back to the units of the table.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import W2FlowGenerator

wine = load_wine(as_frame=True)
X_train, X_test = train_test_split(wine.data, random_state=0)
small = {"hidden_layer_sizes": (64, 64), "batch_size": 128, "max_iter": 60, "tol": 0.02}
pipeline = make_pipeline(StandardScaler(), W2FlowGenerator(**small, random_state=0)).fit(X_train)
scaler, generator = pipeline[0], pipeline[-1]
drawn = scaler.inverse_transform(generator.sample(500, random_state=0))

fig, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
pairs = [("alcohol", "color_intensity"), ("flavanoids", "hue"), ("proline", "magnesium")]
for ax, (a, b) in zip(axes, pairs, strict=True):
    i, j = wine.data.columns.get_loc(a), wine.data.columns.get_loc(b)
    ax.scatter(drawn[:, i], drawn[:, j], s=3, color="C0", label="drawn")
    ax.scatter(X_test[a], X_test[b], s=12, color="0.2", marker="x", lw=0.8, label="test rows")
    ax.set_xlabel(a)
    ax.set_ylabel(b)
axes[0].legend()

# %%
# A search
# --------
# ``score`` needs no labels and compares settings on the same rows, so that every search of
# scikit-learn works. Here it weighs the width of the network against the length of the fit.

search = GridSearchCV(
    pipeline,
    {
        "w2flowgenerator__hidden_layer_sizes": [(16,), (64, 64)],
        "w2flowgenerator__max_iter": [20, 60],
    },
    cv=3,
    n_jobs=2,
).fit(X_train)
for parameters, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    print(f"{score:8.3f}  {parameters}")
print("best:", search.best_params_)
print(f"on test rows: {search.score(X_test):.3f}")

# %%
# Monitoring
# ----------
# Callbacks of scikit-learn follow the fit: ``ProgressBar`` draws a bar, ``ScoringMonitor`` logs a
# score an iteration. A callback of one's own may return True to stop.


def sinkhorn_score(estimator, X, y):
    """Return the estimator's own score under a name."""
    return {"score": estimator.score(X)}


class EnoughIsEnough:
    """Stop when the score on the training rows is good enough."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        return context.task_name == "iteration" and fitted_estimator.score(X) > -1.5


X_scaled = scaler.transform(X_train)
monitor = ScoringMonitor(scoring=sinkhorn_score)
stopped = W2FlowGenerator(**small, random_state=0).set_callbacks(monitor, EnoughIsEnough())
stopped.fit(X_scaled)
log = monitor.get_logs().data_as_pandas.query("task_name == 'iteration'")
print(f"stopped after {stopped.n_iter_} of {stopped.max_iter} iterations")

fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(np.arange(1, len(log) + 1), log["score"])
ax.set_xlabel("iteration")
ax.set_ylabel("score on the training rows")
ax.spines[["top", "right"]].set_visible(False)
plt.show()
