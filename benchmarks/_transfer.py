"""From an oval to a circle: how far and how straight rows are carried, and where new rows land."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ot
import pandas as pd
import torch
from _common import Column, Options, comparison, save_picture, timed

from skwgf import SinkhornFlowGenerator
from skwgf.datasets import make_circle, make_oval
from skwgf.flows.sinkhorn import SinkhornVelocity
from skwgf.metrics import wasserstein_distance
from skwgf.transport import mean_cost

N_ROWS, QUICK_ROWS = 1000, 200
# Of the peers' grids the entry is shown that maps the law best, which favours the peer.
SINKHORN_REGS = (0.003, 0.01, 0.03)
# Paths close to those of the flow in continuous time.
FINE_STEP, FINE_STEPS = 0.1, 60
N_SEEDS, N_LINES = 3, 300
FRESH_SOURCE_SEED, LAW_SEED, FLOOR_SEED, TARGET_SEED = 60_000, 70_000, 80_000, 90_000

OURS: dict[str, dict[str, Any]] = {
    "Sinkhorn flow (default)": {},
    "Sinkhorn flow, standardize=False": {"standardize": False},
}
FLOOR = "draws of the target law itself"
COLUMNS = {
    "fit_seconds": Column("fit, s", 1),
    "fit_processor_seconds": Column("fit, processor s", 1),
    "displacement": Column("mean squared displacement / W2^2", 3, 1.0),
    "path": Column("path / chord, steps of the fit", 3, 1.0),
    "path_fine": Column(f"path / chord, steps of {FINE_STEP:g}", 3, 1.0),
    "w2_law": Column("W2 of the mapped law", 4, 0.0),
    "w2_unseen": Column("W2 of new rows, mapped", 4, 0.0),
    "w2_fitted": Column("W2 of fitted rows, mapped", 4, 0.0),
}

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """Source and target rows, source rows that no fit sees, and stratified samples of both laws."""

    source: np.ndarray
    target: np.ndarray
    unseen: np.ndarray
    source_law: np.ndarray
    target_law: np.ndarray

    @classmethod
    def draw(cls, n: int, seed: int) -> Pair:
        """Draw n rows of each."""
        return cls(
            source=make_oval(n, random_state=seed)[0],
            target=make_circle(n, random_state=TARGET_SEED + seed)[0],
            unseen=make_oval(n, random_state=FRESH_SOURCE_SEED + seed)[0],
            source_law=make_oval(n, stratified=True, random_state=LAW_SEED)[0],
            target_law=make_circle(n, stratified=True, random_state=LAW_SEED + 1)[0],
        )

    def figures(self, mapping: Map) -> dict[str, float]:
        """Return how far a map carries the rows, and how well."""
        moved = mapping(self.source)
        least = wasserstein_distance(self.source, self.target) ** 2
        return {
            "displacement": float(((moved - self.source) ** 2).sum(axis=1).mean()) / least,
            "w2_law": wasserstein_distance(mapping(self.source_law), self.target_law),
            "w2_unseen": wasserstein_distance(mapping(self.unseen), self.target_law),
            "w2_fitted": wasserstein_distance(moved, self.target_law),
        }


def compare_transfer(options: Options, picture: Path) -> pd.DataFrame:
    """Return a row of figures for each method and seed; draw what the first fit does."""
    rows: list[dict[str, object]] = []
    for seed in options.seeds[:N_SEEDS]:
        pair = Pair.draw(QUICK_ROWS if options.quick else N_ROWS, seed)
        found = {}
        for name, settings in OURS.items():
            few = {"max_iter": 2} if options.quick else {}
            flow = SinkhornFlowGenerator(random_state=seed, **settings, **few)
            _, wall, processor = timed(flow.fit, pair.target, X_source=pair.source)
            times = {"fit_seconds": wall, "fit_processor_seconds": processor}
            found[name] = times | pair.figures(flow.transform)
            if not settings.get("standardize", True):
                # The cost compares rows as they are, so that paths are those of the rows.
                n_steps = len(flow.flow_history_["step"])
                found[name] |= {
                    "path": straightness(pair, flow.reg_, 1.0, n_steps),
                    "path_fine": straightness(pair, flow.reg_, FINE_STEP, FINE_STEPS),
                }
        if seed == options.seeds[0]:
            draw_transfer(pair.unseen, flow.transform(pair.unseen), picture)
        found |= {name: best_of(pair, grid) for name, grid in peers()}
        found[FLOOR] = floor(pair, seed)
        rows += [{"method": name, "seed": seed, **row} for name, row in found.items()]
        print(pd.DataFrame(rows[-len(found) :]).to_string())
    return pd.DataFrame(rows)


def floor(pair: Pair, seed: int) -> dict[str, float]:
    """Return the figures of a map that is right: samples of the target, of either kind."""
    n = len(pair.target_law)
    draws = make_circle(n, random_state=FLOOR_SEED + seed)[0]
    regular = make_circle(n, stratified=True, random_state=FLOOR_SEED + seed)[0]
    return {
        "w2_law": wasserstein_distance(regular, pair.target_law),
        "w2_unseen": wasserstein_distance(draws, pair.target_law),
    }


def best_of(pair: Pair, grid: list[ot.da.BaseTransport]) -> dict[str, object]:
    """Return the figures of the transport that maps the law best."""
    found: list[dict[str, object]] = []
    for method in grid:
        _, wall, processor = timed(method.fit, Xs=pair.source, Xt=pair.target)
        times = {"fit_seconds": wall, "fit_processor_seconds": processor}
        figures = pair.figures(lambda X, method=method: method.transform(Xs=X))
        found.append({"setting": str(getattr(method, "reg_e", "")), **times, **figures})
    return min(found, key=lambda row: row["w2_law"])


def peers() -> Iterator[tuple[str, list[ot.da.BaseTransport]]]:
    """Yield POT's transports, each with its grid."""
    yield "POT, EMDTransport", [ot.da.EMDTransport(max_iter=1_000_000)]
    grid = [ot.da.SinkhornTransport(reg_e=reg, norm="max", tol=1e-4) for reg in SINKHORN_REGS]
    yield "POT, SinkhornTransport (barycentric)", grid
    for kernel in ("linear", "gaussian"):
        yield f"POT, MappingTransport, {kernel}", [ot.da.MappingTransport(kernel=kernel)]


def straightness(pair: Pair, reg: float, step: float, n_steps: int) -> float:
    """Return the mean path length over the mean chord, along the particle flow at one reg."""
    x, y = (torch.as_tensor(rows) for rows in (pair.source, pair.target))
    field = SinkhornVelocity(y, reg * mean_cost(y, y), tol=1e-3, max_iter=100)
    start, length = x, torch.zeros(len(x), dtype=x.dtype)
    for _ in range(n_steps):
        move = step * field(x).direction
        length += move.norm(dim=1)
        x = x + move
    return float(length.mean() / (x - start).norm(dim=1).mean())


def transfer_table(raw: pd.DataFrame) -> str:
    """Return the table with what it shows."""
    return f"""## From an oval to a circle

{N_ROWS} source and {N_ROWS} target rows, seeds {", ".join(map(str, sorted(set(raw["seed"]))))}.
Displacement of the fitted source rows over the exact W2^2 between the rows: 1 is optimal, less is a
map that falls short. Path over chord: means over the particles of the flow at the fitted
regularisation. W2 of {N_ROWS} mapped rows to a stratified sample of the target as large, first of
a stratified sample of the source, which shows the error of the map alone, then of independent new
rows, whose own noise hides most differences, and of the fitted rows. Of POT's SinkhornTransport the
regularisation (of {SINKHORN_REGS}, shares of the largest cost) that maps the law best is shown: an
upper bound that favours the peer. The transports of POT keep all rows; ours is a network.

{comparison(raw, COLUMNS, apart=(FLOOR,))}

![New rows and where they land](one_step_transfer.png)
"""


def draw_transfer(rows: np.ndarray, mapped: np.ndarray, path: Path) -> None:
    """Draw rows and their images, some joined by lines."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for start, end in zip(rows[:N_LINES], mapped[:N_LINES], strict=True):
        axis.plot(*zip(start, end, strict=True), color="0.75", lw=0.5, zorder=0)
    axis.scatter(*rows.T, s=3, label="new source rows")
    axis.scatter(*mapped.T, s=3, label="where they land")
    axis.set_aspect("equal")
    axis.legend(loc="upper right", markerscale=4, fontsize="small")
    save_picture(figure, path)
