"""
======================================
Search, then draw in the table's units
======================================

A search of scikit-learn chooses the settings of a sampler or a generator inside a pipeline, and
:func:`~skwgf.sample_pipeline` draws from the best one. What it draws is in the units of the table,
although the sampler saw scaled columns: rows for a generator, coefficients for a model.
"""

# %%
# How strong should a prior be?
# -----------------------------
# Measurements of 60 diabetes patients, in units from mg/dl to kg/m², and the progress of the
# disease a year later; 382 more patients are kept to judge. Columns are scaled, so that one prior
# suits all coefficients. Its width is searched; the figure to compare is the log density that the
# model predicts for held-out patients, which judges intervals as well as means.

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skwgf import SVGDSampler, W2FlowGenerator, sample_pipeline
from skwgf.targets import LinearRegressionPosterior

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=60, random_state=0)


def log_predictive_density(pipeline, X, y):
    """Return the mean log density of y."""
    return pipeline[-1].log_predictive_density(pipeline[:-1].transform(X), y)


sampler = SVGDSampler(LinearRegressionPosterior(), n_particles=100, random_state=0)
model = make_pipeline(StandardScaler(), sampler)
model.set_output(transform="pandas")
scales = np.geomspace(0.01, 10, 7)
search = GridSearchCV(
    model,
    {"svgdsampler__target__prior_scale": scales},
    scoring=log_predictive_density,
    cv=4,
    n_jobs=2,
).fit(X_train, y_train)
best = search.best_params_["svgdsampler__target__prior_scale"]
flat = model.set_params(svgdsampler__target__prior_scale=100.0).fit(X_train, y_train)
print(f"best width of the prior: {best:.2g}")
for label, fitted in ("best", search.best_estimator_), ("flat", flat):
    print(f"{label} prior, on test patients: {log_predictive_density(fitted, X_test, y_test):.3f}")

coefficients = sample_pipeline(search, 100, random_state=0)
print(coefficients.describe().loc[["mean", "std"]].T.round(2))

# %%
# Each column of ``coefficients`` is a coefficient per unit of the table: of the progress per kg/m²
# of body mass index, for instance. Least squares on the unscaled table is the case of a flat prior.

least_squares = LinearRegression().fit(X_train, y_train).coef_
names = list(X.columns)
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
scores, spread = (search.cv_results_[f"{kind}_test_score"] for kind in ("mean", "std"))
left.semilogx(scales, scores, "o-", color="C0")
left.fill_between(scales, *(scores + s * spread / np.sqrt(4) for s in (-1, 1)), alpha=0.15, lw=0)
left.axvline(best, color="0.6", lw=1, zorder=0)
left.set_xlabel("width of the prior, in deviations of y")
left.set_ylabel("log density of held-out y")

drawn = coefficients[[f"coef[{name}]" for name in names]].to_numpy() * X_train.std().to_numpy()
low, middle, high = np.quantile(drawn, [0.05, 0.5, 0.95], axis=0)
places = np.arange(len(names))
right.hlines(places, low, high, color="C0", lw=3, alpha=0.5, label="90 % of the draws")
right.plot(middle, places, "o", color="C0", ms=4)
right.plot(least_squares * X_train.std(), places, "x", color="0.2", ms=6, label="least squares")
right.axvline(0, color="0.8", lw=1, zorder=0)
right.set_yticks(places, names)
right.invert_yaxis()
right.set_xlabel("coefficient x deviation of its column")
right.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)

# %%
# Least squares cannot tell s1 to s4 apart, blood values that are nearly functions of each other,
# and gives them large coefficients of either sign. The prior that the search found brings them
# closer to zero, and predicts new patients better.

# %%
# A generator, by halving
# -----------------------
# Eight candidates are trained for a few iterations, the better half for twice as many, and so on:
# ``resource="max_iter"`` makes the length of the fit what is rationed. Candidates that stop early
# have not converged, which is the point, so that the warnings are silenced. The winner is then
# trained at length.

RATES, SIZES = [0.0001, 0.001, 0.01, 0.1], [(16,), (64, 64)]
table = X[["age", "bmi", "bp", "s3", "s5"]].assign(progress=y)
flow = W2FlowGenerator(batch_size=256, tol=0.02, random_state=0)
generator = make_pipeline(StandardScaler(), flow).set_output(transform="pandas")
halving = HalvingGridSearchCV(
    generator,
    {
        "w2flowgenerator__hidden_layer_sizes": SIZES,
        "w2flowgenerator__learning_rate": RATES,
    },
    resource="w2flowgenerator__max_iter",
    min_resources=12,
    max_resources=96,
    factor=2,
    cv=3,
    n_jobs=2,
    random_state=0,
)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ConvergenceWarning)
    halving.fit(table)
print("best:", halving.best_params_)

winner = clone(halving.best_estimator_).set_params(w2flowgenerator__max_iter=200).fit(table)
rows = sample_pipeline(winner, len(table), random_state=0)
print(rows.describe().loc[["mean", "std"]].round(1))
print(table.describe().loc[["mean", "std"]].round(1))

# %%
# On the left what each candidate reached in each round: the worse half leaves after twelve
# iterations, and what separates the others is noise. On the right draws of the winner, in the units
# of the table. Their deviations, printed above, are about a tenth short of the table's.

fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
results = halving.cv_results_
seen = {}
for k, parameters in enumerate(results["params"]):
    key = tuple(
        parameters[f"w2flowgenerator__{name}"] for name in ("hidden_layer_sizes", "learning_rate")
    )
    point = results["n_resources"][k], -results["mean_test_score"][k]
    seen.setdefault(key, []).append(point)
for (sizes, rate), points in seen.items():
    line = "--" if sizes == (16,) else "-"
    color = f"C{RATES.index(rate)}"
    axes[0].semilogx(*zip(*points, strict=True), line, marker="o", ms=4, color=color)
for k, rate in enumerate(RATES):
    axes[0].plot([], [], color=f"C{k}", label=f"learning rate {rate:g}")
axes[0].plot([], [], "k-", label="two layers of 64")
axes[0].plot([], [], "k--", label="one layer of 16")
axes[0].set_xlabel("iterations")
axes[0].set_ylabel("divergence from held-out rows")
axes[0].set_xticks([12, 24, 48, 96], ["12", "24", "48", "96"])
axes[0].set_ylim(bottom=0)
axes[0].minorticks_off()
axes[0].legend(frameon=False, fontsize=8)
for ax, (a, b) in zip(axes[1:], [("bmi", "progress"), ("s3", "s5")], strict=True):
    ax.scatter(table[a], table[b], s=8, color="0.6", label="table", lw=0)
    ax.scatter(rows[a], rows[b], s=8, color="C0", alpha=0.6, label="drawn", lw=0)
    ax.set_xlabel(a)
    ax.set_ylabel(b)
axes[1].legend(frameon=False)
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
