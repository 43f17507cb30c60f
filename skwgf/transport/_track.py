"""The potentials of a moving cloud, kept so that the next problem starts close to its solution."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from skwgf.transport._problem import Solution
from skwgf.transport._scaling import Secants

# Sweeps up to which the secants of one solution serve the next: those of long runs are worn out.
_FEW_SWEEPS = 24


class PotentialTrack:
    """What is kept of the last two problems: the clouds, the potentials and the secants.

    Along a flow the potential changes as steadily as the cloud, so that it is extrapolated by as
    much as the cloud went on in the direction of its last move; and the response of the residual
    to the potential hardly changes, so that the secants are taken over.
    """

    def __init__(self) -> None:
        self._clouds: list[Tensor] = []
        self._potentials: list[Tensor] = []
        self._reg = 0.0
        self._secants: Secants | None = None

    def predict(self, x: Tensor, size: int) -> Tensor | None:
        """Return a potential of `size` points to start from, None for a cold start."""
        if not self._potentials or self._potentials[-1].shape[1] != size:
            return None
        latest = self._potentials[-1]
        if len(self._potentials) < 2 or self._clouds[-1].shape != x.shape:
            return latest
        before, last = self._clouds
        move = last - before
        ratio = float(((x - last) * move).sum() / (move * move).sum())
        if not ratio > 0:  # also where the cloud stood still
            return latest
        return latest + min(ratio, 2.0) * (latest - self._potentials[0])

    def secants(self, weights: Tensor, reg: float, damping: float) -> Secants:
        """Return the secants of the last problem if they serve for one of `weights`, or none."""
        kept = self._secants
        if kept is None or reg != self._reg or kept.root.shape != weights.shape:
            kept = Secants(weights, damping)
        self._secants, self._reg = kept, reg
        return kept

    def record(self, x: Tensor, solution: Solution) -> None:
        """Keep the potential found for the cloud x."""
        if self._clouds and self._clouds[-1].shape != x.shape:
            self._clouds, self._potentials = [], []
        self._clouds = [*self._clouds[-1:], x.clone()]
        self._potentials = [*self._potentials[-1:], solution.g]
        if solution.n_iter > _FEW_SWEEPS:
            self._secants = None

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state."""
        kept = self._secants
        return {
            "clouds": [cloud.clone() for cloud in self._clouds],
            "potentials": [potential.clone() for potential in self._potentials],
            "reg": self._reg,
            "secants": None if kept is None else kept.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""
        self._clouds = [cloud.clone() for cloud in state["clouds"]]
        self._potentials = [potential.clone() for potential in state["potentials"]]
        self._reg = state["reg"]
        self._secants = None if state["secants"] is None else Secants.from_state(state["secants"])
