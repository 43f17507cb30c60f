r"""
==================
Pictures of a flow
==================

Four displays, which work as those of scikit-learn do: ``from_estimator`` draws a fitted estimator,
on axes of yours if you pass ``ax=``, and returns an object that keeps what it drew.
"""

# %%
# Clouds
# ------
# :class:`~skwgf.inspection.FlowDisplay` draws samples against rows. A conditional generator draws
# each class in its colour, on the paler rows of the same class. A table of 13 columns is shown by
# its first two principal components; here 30 weighted alike stand for the 178 wines.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from skwgf import SinkhornFlowGenerator, SVGDSampler, W2FlowGenerator, WSFNOptimizer
from skwgf.datasets import make_two_moons
from skwgf.functionals import EnergyDistance
from skwgf.inspection import DensityDisplay, FlowDisplay, HistoryDisplay, TrajectoryDisplay
from skwgf.kernels import Gaussian as GaussianKernel
from skwgf.targets import Banana, LogDensity

X, y = make_two_moons(600, random_state=0)
generator = SinkhornFlowGenerator(conditional=True, max_iter=150, random_state=0).fit(X, y)
wine = StandardScaler().set_output(transform="pandas").fit_transform(load_wine(as_frame=True).data)
quantiser = WSFNOptimizer(n_particles=30, random_state=0).fit(wine)

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
FlowDisplay.from_estimator(generator, X, y, n_samples=400, random_state=0, ax=axes[0])
display = FlowDisplay.from_estimator(quantiser, wine, ax=axes[1])
print("shown:", ", ".join(display.axis_labels))
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)

# %%
# Paths
# -----
# :class:`~skwgf.inspection.TrajectoryDisplay` fits a clone and follows it step by step through
# scikit-learn's callbacks. On the left rows of a source go to the moons, one network after the
# other of a training; on the right particles of Stein variational gradient descent start above a
# banana, come down on its arms, and slide along them to the middle.

rng = np.random.default_rng(0)
source = rng.normal([0.5, 2.5], 0.35, size=(300, 2))
mapping = W2FlowGenerator(max_iter=150, random_state=0)
stein = SVGDSampler(Banana(), kernel=GaussianKernel("median"), max_iter=1000, random_state=0)
above = rng.normal([0, 9], 0.5, size=(100, 2))

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
TrajectoryDisplay.from_estimator(mapping, X, X_source=source, random_state=0, ax=axes[0])
TrajectoryDisplay.from_estimator(stein, above, n_paths=40, random_state=0, ax=axes[1])
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)

# %%
# Energies
# --------
# :class:`~skwgf.inspection.HistoryDisplay` draws ``history_`` against iterations or seconds, with a
# floor if there is one. On a line the n points of the smallest energy distance from a sample are
# known: they are its quantiles of the levels :math:`(2 i - 1) / 2n`, up to what the distance is
# smoothed by. The particles start far away.

N, N_POINTS = 2000, 20
sample = np.sort(rng.gamma(2.0, size=(N, 1)), axis=0)
far = rng.normal(20.0, size=(N_POINTS, 1))
points = WSFNOptimizer(EnergyDistance(smoothing=0.01), init=far, random_state=0).fit(sample)
first = np.arange(N_POINTS) * N // N_POINTS + N // N_POINTS // 2
quantiles = (sample[first - 1] + sample[first]) / 2
floor = float(points.functional_.value(torch.tensor(quantiles)))
print(f"energy {points.history_['objective'][-1]:.6f}, that of the quantiles {floor:.6f}")
print(
    f"largest distance from a quantile: {abs(np.sort(points.particles_, 0) - quantiles).max():.3f}"
)

fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained", sharey=True)
for ax, x in zip(axes, ("iteration", "seconds"), strict=True):
    HistoryDisplay.from_estimator(points, x=x, floor=floor, ax=ax)
    ax.label_outer()
    ax.spines[["top", "right"]].set_visible(False)

# %%
# Densities
# ---------
# :class:`~skwgf.inspection.DensityDisplay` draws particles against the density of their target: as
# a curve for one angle or one coordinate, and as the regions that hold 20, 50, 80, 95 and 99% of
# the mass for two. On a torus the density of the particles is drawn as well, smoothed by a von
# Mises kernel; its lines are those of 20, 50 and 80%.


def one_angle(x):
    angle = 2 * torch.pi * x[:, 0]
    return 1.5 * angle.cos() + (2 * angle).sin()


def two_angles(x):
    first, second = 2 * torch.pi * x.T
    return 1.5 * (first - second).cos() + first.cos()


on_circle = SVGDSampler(LogDensity(one_angle, support="torus"), random_state=0)
on_torus = SVGDSampler(LogDensity(two_angles, support="torus"), random_state=0)
in_plane = SVGDSampler(Banana(), random_state=0)

fig, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
DensityDisplay.from_estimator(on_circle.fit(rng.uniform(size=(200, 1))), ax=axes[0])
display = DensityDisplay.from_estimator(on_torus.fit(rng.uniform(size=(300, 2))), ax=axes[1])
DensityDisplay.from_estimator(in_plane.fit(rng.normal(size=(300, 2))), ax=axes[2])
for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
difference = abs(display.estimate - display.density).mean()
print(f"on the torus the two densities, of mean 1, differ by {difference:.2f} in the mean")
plt.show()
