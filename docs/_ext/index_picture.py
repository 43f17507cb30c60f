"""Draw docs/_static/flow.png, the picture of the first page: ``python docs/_ext/index_picture.py``.

Noise follows the gradient flow of the Sinkhorn divergence to a ring of eight modes. Colours are
readable on a light and on a dark page; the background is transparent.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection

from skwgf.datasets import ring_of_gaussians
from skwgf.flows import ParticleCarrier, SinkhornVelocity

GREY, ORANGE = "#8a8f98", "#e07b1a"
N, STEPS = 500, 60
SHOWN = (0, 3, 8, STEPS)


def paths():
    """Return the positions of the particles at all steps, of shape (steps + 1, n, 2)."""
    target = torch.tensor(ring_of_gaussians().stratified(N, random_state=0)[0])
    start = torch.tensor(np.random.default_rng(0).normal(size=(N, 2)))
    field = SinkhornVelocity(target, reg=0.02)
    cloud = ParticleCarrier(start, field, step_size=0.2)
    positions = [start.numpy()]
    for _ in range(STEPS):
        cloud.advance()
        positions.append(cloud.particles.numpy().copy())
    return np.stack(positions)


def main():
    """Draw four moments, with the way that each particle has come."""
    positions = paths()
    fig, axes = plt.subplots(1, len(SHOWN), figsize=(11, 2.9), layout="constrained")
    for ax, k in zip(axes, SHOWN, strict=True):
        way = positions[: k + 1].transpose(1, 0, 2)[::4]
        ax.add_collection(LineCollection(way, colors=GREY, linewidths=0.5, alpha=0.5))
        ax.scatter(*positions[k].T, s=6, color=ORANGE, linewidths=0)
        ax.set(xlim=(-2.9, 2.9), ylim=(-2.9, 2.9), aspect="equal")
        ax.axis("off")
    out = Path(__file__).parents[1] / "_static" / "flow.png"
    fig.savefig(out, dpi=110, transparent=True)
    print(f"wrote {out.name}")


if __name__ == "__main__":
    main()
