r"""
====================
Leaving a saddle
====================

Gradient flows slow down at saddles, Newton's method runs into them. A saddle-free Newton step
divides by the size of the curvature and keeps its sign,
:math:`d = (H^2 + \beta I)^{-1/2} g`, and leaves a flat saddle as fast as a steep one.
"""

# %%
# Time to escape
# --------------
# The functional :math:`\tfrac12 \mathrm{Var}(\mu) + b \cos(\pi m)`, m the mean of :math:`\mu`, has
# a saddle at the point of mass one at 0, where the only negative curvature is
# :math:`\lambda = -b \pi^2`. How many steps of size 1/2 does a cloud take whose mean starts at
# :math:`10^{-6}`, until it is at 1/2?

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import scipy.optimize
import torch

from skwgf.flows.newton import minimize
from skwgf.functionals import MeanFieldRisk, SecondMoment, VarianceCosine

rng = np.random.default_rng(0)
cloud = rng.normal(size=(10, 1))
start = torch.tensor(1e-3 * (cloud - cloud.mean()) + 1e-6)

methods = {
    "gradient": {"method": "gradient"},
    "perturbed gradient": {"method": "perturbed"},
    "saddle-free, beta = 0.01": {"beta": 0.01},
    "saddle-free, beta = 'auto'": {"beta": "auto"},
}
curvatures = np.geomspace(0.99, 0.003, 6)
steps = {name: [] for name in methods}
for curvature in curvatures:
    energy = VarianceCosine(a=1.0, b=curvature / np.pi**2).fit(start)
    for name, options in methods.items():
        result = minimize(
            energy,
            start,
            step_size=0.5,
            line_search=False,
            tol=0.0,
            max_iter=20_000,
            monitor=lambda x: bool(x.mean().abs() >= 0.5),
            **options,
        )
        steps[name].append(result.n_iter)
    newton = minimize(energy, start + 0.3, method="newton")
    print(
        f"curvature {-curvature:.4f}: {[found[-1] for found in steps.values()]} steps; Newton's "
        f"method, from 0.3: {newton.status} at {abs(float(newton.particles.mean())):.0e}"
    )

fig, ax = plt.subplots(figsize=(5.6, 4), layout="constrained")
colors = ("C3", "C1", "C2", "C0")
for (name, found), color in zip(steps.items(), colors, strict=True):
    ax.loglog(curvatures, found, "o-", ms=5, color=color, label=name)
fine = np.geomspace(0.99, 0.003)
for growth in (0.5 * fine, 0.5 * fine / np.sqrt(fine**2 + 0.01)):
    ax.loglog(fine, np.log(0.5e6) / np.log1p(growth), ":", color="0.3", lw=1)
ax.set_xlabel(r"size of the negative curvature, $|\lambda|$")
ax.set_ylabel("steps until the saddle is left")
ax.set_ylim(top=3e4)
ax.legend(frameon=False)
ax.spines[["top", "right"]].set_visible(False)

# %%
# The distance to the saddle grows by the factor :math:`1 + \eta \, |\lambda|` in a gradient step of
# size :math:`\eta`, and by :math:`1 + \eta \, |\lambda| / \sqrt{\lambda^2 + \beta}` in a
# saddle-free one (dotted lines). With ``beta="auto"``, the squared norm of the gradient over that
# of a length, :math:`\beta` vanishes at the saddle, and the factor is :math:`1 + \eta`. Noise
# shortens the way of a gradient flow and does not change its pace. Newton's method arrives at the
# saddle.
#
# A network
# ---------
# Neurons as particles: the risk of a two-layer network is a functional of their law. Where all
# weights are zero its gradient vanishes, and a start nearby has to find its way out. Twenty neurons
# learn a teacher of three, without noise, so that the least risk is 0. Gradient descent has a line
# search here; L-BFGS, from scipy, is counted by evaluations.

X, teacher = rng.normal(size=(100, 2)), rng.normal(size=(3, 2))
y = np.tanh(X @ teacher.T) @ rng.normal(size=3) / 3
risk = MeanFieldRisk(alpha=0.0, normalize_y=False).fit(X, y)
start = torch.tensor(1e-2 * rng.normal(size=(20, 4)))


def lbfgs(functional, start, n_evaluations):
    """Return the least value so far of a functional at each evaluation of L-BFGS."""
    values = []

    def value_and_gradient(flat):
        value, gradient, _ = functional.expand(torch.tensor(flat).reshape(start.shape))
        values.append(float(value))
        return values[-1], gradient.numpy().ravel() / len(start)

    options = {"maxfun": n_evaluations, "maxiter": n_evaluations, "ftol": 0, "gtol": 1e-12}
    scipy.optimize.minimize(
        value_and_gradient, start.numpy().ravel(), jac=True, method="L-BFGS-B", options=options
    )
    return np.minimum.accumulate(values)


fig, ax = plt.subplots(figsize=(5.6, 4), layout="constrained")
for name, options, color in (
    ("gradient", {"method": "gradient"}, "C3"),
    ("saddle-free", {}, "C0"),
):
    result = minimize(risk, start, max_iter=60 if name == "saddle-free" else 1000, **options)
    values = result.history["objective"]
    print(
        f"{name:11s} {result.n_iter:4d} steps, {result.n_products:5d} Hessian products, "
        f"{result.history['seconds'][-1]:.1f} s: {result.value:.0e}, {result.status}"
    )
    ax.loglog(np.arange(1, len(values) + 1), values, color=color, label=name)
values = lbfgs(risk, start, 1000)
print(f"{'L-BFGS':11s} {len(values):4d} evaluations: {values[-1]:.0e}")
ax.loglog(np.arange(1, len(values) + 1), values, color="0.5", label="L-BFGS")
ax.set_xlabel("steps, or evaluations")
ax.set_ylabel("risk F")
ax.legend(frameon=False, loc="lower left")
ax.spines[["top", "right"]].set_visible(False)

# %%
# Steps are not seconds: a saddle-free step takes the whole Hessian, or some tens of products with
# it. Where a problem is easy L-BFGS is the cheaper choice. Matching second moments, next to the
# saddle where all particles are at the origin:

moments = SecondMoment(np.diag([1.0, 0.5, 0.1])).fit(np.zeros((30, 3)))
start = torch.tensor(1e-6 * rng.normal(size=(30, 3)))
result = minimize(moments, start)
values = lbfgs(moments, start, 1000)
print(
    f"saddle-free: {result.value:.0e} after {result.n_iter} steps and {result.n_products} Hessian "
    f"products; L-BFGS: {values[-1]:.0e} after {len(values)} evaluations"
)
plt.show()
