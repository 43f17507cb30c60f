r"""
How fast Stein variational gradient descent converges
=====================================================

On the torus the theory of Stein variational gradient descent can be watched. With a Riesz kernel,
whose Fourier coefficients are :math:`|2 \pi \xi|^{-2s}`, the mode :math:`\xi` of a small deviation
from the uniform target decays at the rate :math:`|2 \pi \xi|^{2 - 2s}`. For s = 1, the Coulomb
kernel, all modes decay alike and convergence is exponential. For s > 1 the high modes are slow: a
start whose coefficients are of size :math:`|\xi|^{-r - 1/2}` comes closer only as a power of time,

.. math:: \|\rho_t - \pi\|_{L^2} \sim t^{-r / (2 (s - 1))} .

Smoother kernels are slower, rougher starts too. See *Quantitative Local Convergence of Mean-Field
Stein Variational Gradient Flow*, arXiv:2605.09456, for what is proved.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

from skwgf.flows.spectral import rough_field, solve_mean_field, torus_grid
from skwgf.flows.torus import TorusVelocity
from skwgf.kernels import RieszKernel

# %%
# Powers of time
# --------------
# The mean-field equation, solved by a Fourier method. The front of decay is the frequency
# :math:`\xi` with :math:`t = |2 \pi \xi|^{2s - 2} / 2`; measured against it, all solutions with the
# same r fall alike. Slopes are fitted while it is well inside the resolved frequencies.

N_GRID = 1024  # resolves 341 frequencies
front = np.geomspace(1, 60, 50)
fitted = (front > 5) & (front < 30)

fig, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained", sharey=True)
for ax, r in zip(axes, (1, 2), strict=True):
    start = 1 + 0.05 * rough_field(N_GRID, 1, r)
    for s, color in ((1.5, "C0"), (2.0, "C1"), (2.5, "C2")):
        reached = front[front < (60 if s < 2.5 else 25)]
        times = (2 * np.pi * reached) ** (2 * s - 2) / 2
        path = solve_mean_field(start, [0.0, *times], RieszKernel(s))
        distance = path.l2[1:].numpy() / float(path.l2[0])
        inside = fitted[: len(reached)]
        slope = np.polyfit(np.log(times[inside]), np.log(distance[inside]), 1)[0]
        predicted = -r / (2 * (s - 1))
        print(f"r = {r}, s = {s}: slope {slope:.3f}, predicted {predicted:.3f}")
        ax.loglog(times, distance, color=color, label=f"s = {s}: {slope:.2f}")
        middle = len(times) // 2
        line = distance[middle] * (times / times[middle]) ** predicted
        ax.loglog(times, line, "--", color=color, lw=1, alpha=0.8)
    ax.set_title(f"start of regularity r = {r}")
    ax.set_xlabel("flow time t")
    ax.set_ylim(1e-4, 2)
    ax.legend(title="measured slope", loc="upper right")
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel(r"$\|\rho_t - \pi\| \,/\, \|\rho_0 - \pi\|$")

# %%
# The dashed lines have the predicted slopes.
#
# For the Coulomb kernel, s = 1, on the circle and the uniform target the density at a moving point
# solves the logistic equation, even far from the target. At x = 0 an even density does not move.

fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
start = 1 + 0.6 * torch.cos(2 * np.pi * torus_grid(256, 1)[:, 0])
times = np.linspace(0, 12, 25)
path = solve_mean_field(start, times, RieszKernel(1.0))
excess = path.density[:, 0].numpy() - 1
logistic = 1 / (1 + (1 / 1.6 - 1) * np.exp(-times)) - 1
print(f"largest deviation from the logistic solution: {abs(excess - logistic).max():.0e}")
ax.semilogy(times, excess, "o", ms=4, label=r"$\rho_t(0) - 1$")
ax.semilogy(times, logistic, color="0.3", lw=1, label="logistic solution")
ax.set_xlabel("flow time t")
ax.set_title("s = 1: exponential")
ax.legend()
ax.spines[["top", "right"]].set_visible(False)

# %%
# Particles
# ---------
# A thousand particles, here towards :math:`\pi \propto e^{-\cos 2 \pi x}`, have the same low modes
# as the density. Their velocity is exact, by a sort.

n, step = 1000, 0.5
potential = torch.cos(2 * np.pi * torus_grid(192, 1)[:, 0])
field = TorusVelocity(lambda x: 2 * np.pi * torch.sin(2 * np.pi * x), 1, RieszKernel(2.0))
times = np.linspace(0, 200, 11)
path = solve_mean_field(
    torch.ones_like(potential), times, RieszKernel(2.0), potential=potential, max_step=1.0
)
x = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
means, now = [], 0.0
for time in times:
    while now < time:
        middle = x + step / 2 * field(x).direction
        x, now = x + step * field(middle).direction, now + step
    means.append([float(torch.cos(2 * np.pi * xi * x).mean()) for xi in (1, 2, 3)])
grid = torus_grid(192, 1)[:, 0]
exact = torch.stack([path.density @ torch.cos(2 * np.pi * xi * grid) / 192 for xi in (1, 2, 3)], 1)
print(f"largest difference of the first three modes: {abs(exact.numpy() - means).max():.0e}")

fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
for k, color in enumerate(("C0", "C1", "C2")):
    ax.plot(times, exact[:, k], color=color, label=rf"mode {k + 1}")
    ax.plot(times, np.array(means)[:, k], "o", ms=4, color=color)
ax.set_xlabel("flow time t")
ax.set_title("density (lines) and particles (dots)")
ax.legend()
ax.spines[["top", "right"]].set_visible(False)
plt.show()
