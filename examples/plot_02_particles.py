r"""
==============================
The flow itself, on particles
==============================

The gradient flow of :math:`\tfrac12 W_2^2(\cdot, \nu)` moves every point towards its image under
the optimal map, :math:`\dot x = T(x) - x`. On a cloud of particles its exact facts can be seen:
the distance falls as :math:`e^{-t}`, and points travel along straight lines.
"""

# %%
# From an oval to a circle
# ------------------------
# With as many particles as target rows, the optimal plan is a permutation, and it stays the same
# along the flow. An Euler step of size :math:`\tau` then contracts the distance by exactly
# :math:`1 - \tau`.

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch

from skwgf.datasets import make_circle, make_oval
from skwgf.flows import ParticleCarrier, run_flow, transport_velocity
from skwgf.metrics import wasserstein_distance
from skwgf.transport import MinibatchTransport

start, _ = make_oval(150, random_state=0)
target, _ = make_circle(150, random_state=1)
start = start + np.array([2.5, 0.0])

y = torch.tensor(target)
velocity = transport_velocity(MinibatchTransport(y, generator=torch.Generator().manual_seed(0)))
cloud = ParticleCarrier(torch.tensor(start), velocity, step_size=0.1)
path = [start]
result = run_flow(
    cloud, max_iter=40, monitor=lambda k, history: path.append(cloud.particles.numpy().copy())
)

fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
ax.plot(*np.stack(path).transpose(2, 0, 1), color="0.8", lw=0.6, zorder=0)
for k, color in zip((0, 3, 8, 40), plt.cm.viridis(np.linspace(0.9, 0.1, 4)), strict=True):
    ax.scatter(*path[k].T, s=8, color=color, label=f"t = {0.1 * k:.1f}")
ax.scatter(*target.T, s=12, marker="x", color="C3", lw=0.7, label="target")
ax.set_aspect("equal")
ax.legend(ncol=5, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)

# %%
# The distance to the target
# --------------------------
# The recorded energy is half the squared distance. The dots lie on :math:`(1 - \tau)^k`, to the
# last digit, and smaller steps come closer to :math:`e^{-t}`.

fig, ax = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
w0 = wasserstein_distance(start, target)
for tau in (0.5, 0.25, 0.1):
    cloud = ParticleCarrier(torch.tensor(start), velocity, step_size=tau)
    result = run_flow(cloud, max_iter=round(4 / tau))
    t = tau * np.arange(result.n_iter)
    distance = np.sqrt(2 * np.array(result.history["objective"]))
    print(f"step {tau}: largest deviation {abs(distance / w0 - (1 - tau) ** (t / tau)).max():.1e}")
    ax.semilogy(t, distance / w0, "o", ms=4, label=rf"Euler, $\tau$ = {tau}")
t = np.linspace(0, 4)
ax.semilogy(t, np.exp(-t), color="0.3", lw=1, label="exp(-t)")
ax.set_xlabel("flow time t")
ax.set_title(r"$W_2(\mu_t, \nu) \,/\, W_2(\mu_0, \nu)$")
ax.legend()
ax.spines[["top", "right"]].set_visible(False)
plt.show()
