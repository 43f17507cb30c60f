r"""
=========================
A flow that is learnt
=========================

:class:`~skwgf.GWGSampler` fits a network to :math:`r = \nabla\log\pi - \nabla\log\rho` at every
step, :math:`\pi` the target and :math:`\rho` the law of its particles, and moves these by
:math:`\nabla g^*(r)`, where g says what a velocity costs. The velocity is a function of space, so
that fresh points can be sent along and their density is known at the end: weights and evidence
follow.
"""

# %%
# Particles, and draws with weights
# ---------------------------------
# A bent Gaussian. Particles come to rest where the features of the network see no difference from
# the target any more, which is short of the tips, as it is for :class:`~skwgf.SVGDSampler`. With
# ``track_density=True`` the steps are kept, and ``importance_sample`` gives independent draws whose
# weights make up for most of the rest.

from __future__ import annotations

import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch

from skwgf import GWGSampler, SVGDSampler
from skwgf.targets import Banana, LogDensity, MonomialGamma

rng = np.random.default_rng(0)
banana = Banana(curvature=0.35)
start = rng.normal(size=(400, 2))

stein = SVGDSampler(banana, random_state=0).fit(start)
learnt = GWGSampler(banana, random_state=0).fit(start)
tracked = GWGSampler(banana, track_density=True, random_state=0).fit(start)
draws = tracked.importance_sample(2000, random_state=0)
weights = np.exp(draws.log_weights - draws.log_weights.max())
weights /= weights.sum()

spread = np.sqrt(np.diag(banana.moments()[1]))
weighted_mean = weights @ draws.particles
weighted = np.sqrt(weights @ (draws.particles - weighted_mean) ** 2)
for name, std in (
    ("SVGDSampler, particles", stein.particles_.std(axis=0)),
    ("GWGSampler, particles", learnt.particles_.std(axis=0)),
    ("GWGSampler, weighted draws", weighted),
):
    print(f"{name:27s} standard deviations over the exact ones {(std / spread).round(2)}")
print(
    f"2000 draws are worth {draws.effective_size:.0f}, Pareto k {draws.pareto_k:.2f}, log of the "
    f"integral {draws.log_evidence:.3f} +- {draws.standard_error:.3f} (exact: 0)"
)

fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.6), layout="constrained", sharex=True, sharey=True)
side = np.linspace(-6, 6, 121), np.linspace(-6, 11, 171)
cells = np.stack(np.meshgrid(*side), axis=-1).reshape(-1, 2)
height = banana.fit().log_prob(torch.tensor(cells)).reshape(171, 121)
kept = rng.choice(2000, 400, replace=False)
panels = (
    ("SVGDSampler", stein.particles_, 6.0, "C1"),
    ("GWGSampler", learnt.particles_, 6.0, "C0"),
    ("weighted draws (size: weight)", draws.particles[kept], 12000 * weights[kept], "C2"),
)
for ax, (title, x, size, color) in zip(axes, panels, strict=True):
    ax.contour(
        *side,
        height - height.max(),
        levels=[-6, -4, -2, -0.5],
        colors="0.7",
        linewidths=0.8,
        linestyles="solid",
    )
    ax.scatter(*x.T, s=size, color=color, alpha=0.7, linewidths=0)
    ax.set_title(title)
    ax.set_xlabel("$x_1$")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("$x_2$")

## %%
# What a velocity costs
# ---------------------
# With the cost :math:`|f|_p^p / p` a residual r gives the velocity :math:`|r|^{1/(p-1)}`, with the
# sign of r: a larger p hurries small residuals along. In the target's own coordinates
# (``coordinates="raw"``) they are small where tails are heavy, and ``exponent_rule`` then raises p
# from step to step. Each coordinate here has the density :math:`e^{-0.3 |x|^{0.905}}`.

heavy = MonomialGamma()
start = rng.normal(size=(500, 2))
settings = {
    "whitened, p = 2": {},
    "raw, p = 2": {"coordinates": "raw"},
    "raw, p climbs": {"coordinates": "raw", "exponent_rule": "dissipation"},
}
exact = np.quantile(abs(heavy.sample(100_000, random_state=0)), [0.5, 0.9, 0.99])
print("quantiles of the size of a coordinate, at 50, 90 and 99 per cent")
print(f"{'exact':16s} {exact.round(1)}")

fig, (ax, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for (name, options), color in zip(settings.items(), ("0.4", "C3", "C0"), strict=True):
    sampler = GWGSampler(heavy, random_state=0, **options)
    with warnings.catch_warnings(action="ignore"):  # a cusp breaks Fisher's identity
        sampler.fit(start)
    steps = np.arange(1, sampler.n_iter_ + 1)
    found = np.quantile(abs(sampler.particles_), [0.5, 0.9, 0.99])
    print(f"{name:16s} {found.round(1)} after {sampler.n_iter_} steps")
    ax.semilogy(steps, sampler.history_["objective"], color=color, label=name)
    right.plot(steps, sampler.history_["exponent"], color=color)
ax.set_ylabel("Stein energy of the particles")
right.set_ylabel("exponent p")
ax.legend(frameon=False)
for part in (ax, right):
    part.set_xlabel("steps of the flow")
    part.spines[["top", "right"]].set_visible(False)

# %%
# In raw coordinates the adaptive exponent saves a third of the steps. Whitening, the default, saves
# as many and ends lower, with more of the tails: there p = 2 is the exponent to take.
#
# Evidence
# --------
# How many powers of x does a curve need? The evidence of a model, the integral of prior times
# likelihood, weighs fit against freedom. It is the mean weight of the draws. For a polynomial with
# normal priors the integral over the coefficients is known, and that over the noise is one over a
# line, so that the exact value is at hand.

x = np.linspace(-1, 1, 30)
y = np.sin(3 * x) + 0.2 * rng.normal(size=30)
degrees = np.arange(8)


def posterior(degree):
    """Return prior times likelihood: coefficients N(0, 2^2), noise of an exponential law."""
    powers = torch.tensor(np.vander(x, degree + 1, increasing=True))
    values = torch.tensor(y)

    def log_density(rows):
        w, noise = rows[:, :-1], rows[:, -1]
        misfit = ((values - w @ powers.T) / noise[:, None]).square().sum(1)
        fit = -0.5 * misfit - len(y) * (noise.log() + 0.5 * math.log(2 * math.pi))
        return fit - w.square().sum(1) / 8 - (degree + 1) / 2 * math.log(8 * math.pi) - noise

    return LogDensity(log_density, support=(("real", degree + 1), "positive"))


def exact_evidence(degree):
    """Integrate the density of y, which is normal given the noise, over a grid of noises."""
    powers = np.vander(x, degree + 1, increasing=True)
    sizes, basis = np.linalg.eigh(4 * powers @ powers.T)
    log_noise = np.linspace(-4, 2, 2001)[:, None]
    variances = sizes.clip(0) + np.exp(2 * log_noise)
    logs = -0.5 * (np.log(2 * np.pi * variances) + (basis.T @ y) ** 2 / variances).sum(1)
    logs += log_noise[:, 0] - np.exp(log_noise[:, 0])  # the prior of the noise, and d(log noise)
    return logs.max() + np.log(np.trapezoid(np.exp(logs - logs.max()), log_noise[:, 0]))


found, exact = [], [exact_evidence(degree) for degree in degrees]
for degree in degrees:
    start = np.column_stack([rng.normal(size=(300, degree + 1)), rng.exponential(size=300)])
    sampler = GWGSampler(posterior(degree), track_density=True, random_state=0).fit(start)
    found.append(sampler.importance_sample(1000, random_state=0))
    print(
        f"degree {degree}: {found[-1].log_evidence:7.2f} +- {found[-1].standard_error:.2f}, exact "
        f"{exact[degree]:7.2f}, Pareto k {found[-1].pareto_k:5.2f}, worth "
        f"{found[-1].effective_size:.0f} draws of 1000"
    )

fig, (ax, below) = plt.subplots(
    2, 1, figsize=(5.4, 4.6), layout="constrained", sharex=True, height_ratios=[2, 1]
)
ax.plot(degrees, exact, color="0.5", lw=1, label="exact")
ax.errorbar(
    degrees,
    [sample.log_evidence for sample in found],
    [2 * sample.standard_error for sample in found],
    fmt="o",
    ms=5,
    label="from 1000 weighted draws",
)
ax.set_ylabel("log evidence")
ax.legend(frameon=False)
below.axhline(0.7, color="C3", lw=1, ls="--")
below.text(degrees[-1], 0.74, "not to be trusted", color="C3", ha="right", fontsize=8)
below.plot(degrees, [sample.pareto_k for sample in found], "o", ms=5)
below.set_ylabel("Pareto k")
below.set_ylim(top=1)
below.set_xlabel("degree of the polynomial")
for part in (ax, below):
    part.spines[["top", "right"]].set_visible(False)

# %%
# Weights see what draws saw. A part of the target that the law of the flow does not reach has no
# weight at all, and neither Pareto k nor the standard error can tell.
plt.show()
