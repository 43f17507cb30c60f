"""Rates of saddle-free Newton steps where the theory knows them: escape and convergence."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import save_picture

from skwgf._tensor import make_generator
from skwgf.flows.newton import minimize
from skwgf.functionals import EnergyDistance, Functional, VarianceCosine
from skwgf.metrics import wasserstein_distance

ETA = 0.5
BETAS = (0.001, 0.01, 0.1, 1.0)
WEIGHTS = (0.1, 0.01, 0.001, 0.0001)  # b, so that the curvature at the saddle is -b pi^2
NEAR, FAR = 1e-6, 0.5  # distances from the saddle between which steps are counted
# Name, options of `minimize`, and the growth of the distance to the saddle (None: not predicted).
ESCAPES = {
    "WSFN, beta auto": ({"beta": "auto"}, "auto"),
    "WSFN, beta 1e-10": ({"beta": 1e-10}, 1e-10),
    "WSFN, beta 1e-6": ({"beta": 1e-6}, 1e-6),
    "WSFN, beta 1e-4": ({"beta": 1e-4}, 1e-4),
    "WSFN, beta 1e-2": ({"beta": 1e-2}, 1e-2),
    "gradient descent": ({"method": "gradient"}, "gradient"),
    "perturbed gradient, isotropic": ({"method": "perturbed", "noise": "isotropic"}, None),
    "perturbed gradient, Hessian-guided": ({"method": "perturbed", "noise": "hessian"}, None),
    "Newton": ({"method": "newton"}, None),
}
FLAT_BETAS = (1e-6, 1e-5, 1e-4, 1e-3)  # for an energy with a curvature of a few thousandths
FLOOR = 1e-13  # distances below are rounding
FIXED = {"line_search": False, "tol": 0.0}


def pair() -> np.ndarray:
    """Return rows that tell VarianceCosine only how many coordinates there are."""
    return np.zeros((2, 1))


def cloud(n: int, d: int, seed: int) -> torch.Tensor:
    """Return standard normal particles."""
    return torch.randn(n, d, generator=make_generator(seed), dtype=torch.float64)


def factor(curvature: float, beta: float | str) -> float:
    """Return what a unit step multiplies the distance by, less one, for "gradient" as well."""
    if beta == "gradient":
        return -curvature
    # "auto" vanishes with the gradient.
    return -curvature / math.sqrt(curvature**2 + (0.0 if beta == "auto" else float(beta)))


def rates(seed: int) -> list[dict]:
    """Return measured and predicted factors at a minimiser, for the mean and for the spread."""
    rows = []
    for beta in BETAS:
        energy, means, spreads = VarianceCosine(1.0, 0.02).fit(pair()), [], []

        def watch(z: torch.Tensor, means: list = means, spreads: list = spreads) -> bool:
            means.append(float(z.mean() - 1))
            spreads.append(float(z.std(correction=0)))
            return False

        start = 1.001 + 1e-3 * cloud(10, 1, seed)
        minimize(energy, start, beta=beta, step_size=ETA, max_iter=8, monitor=watch, **FIXED)
        for curvature, errors in ((0.02 * math.pi**2, means), (1.0, spreads)):
            rows.append(
                {
                    "part": "rate",
                    "beta": beta,
                    "curvature": curvature,
                    "measured": (errors[-1] / errors[0]) ** (1 / 7),
                    "predicted": 1 + ETA * factor(curvature, beta),
                }
            )
    return rows


def escapes(seeds: tuple[int, ...], max_iter: int) -> list[dict]:
    """Return how many steps each method takes from a saddle to half way to a minimiser."""
    rows = []
    for b in WEIGHTS:
        for name, (method, growth) in ESCAPES.items():
            for seed in seeds if method.get("method") == "perturbed" else seeds[:1]:
                rows.append(escape(b, name, method, growth, seed, max_iter))
    return rows


def escape(
    b: float, name: str, method: dict, growth: float | str | None, seed: int, max_iter: int
) -> dict:
    """Return the row of one method at one flatness."""
    energy = VarianceCosine(1.0, b).fit(pair())
    start = NEAR + 1e-9 * torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    newton = name == "Newton"
    result = minimize(
        energy,
        start,
        step_size=1.0 if newton else ETA,
        max_iter=max_iter,
        generator=make_generator(seed),
        monitor=lambda z: bool(z.mean().abs() >= FAR),
        **method,
        **({"line_search": False} if newton else FIXED),
    )
    curvature = b * math.pi**2
    predicted = np.nan
    if growth is not None:
        predicted = math.log(FAR / NEAR) / math.log(1 + ETA * factor(-curvature, growth))
    return {
        "part": "escape",
        "method": name,
        "curvature": curvature,
        "seed": seed,
        "steps": result.n_iter,
        "status": "escaped" if result.status == "stopped" else result.status,
        "predicted": predicted,
    }


def distances(seed: int) -> list[dict]:
    """Return the W2 distance to a minimiser at every step, for two problems."""
    cosine = VarianceCosine(1.0, 0.02).fit(pair())
    X = np.random.default_rng(seed).normal(size=(200, 2))
    energy = EnergyDistance(0.3).fit(X)
    best = minimize(energy, energy.draw_start(20, make_generator(seed)), tol=1e-13)
    return [
        *trajectories(
            cosine,
            1.2 + 0.1 * cloud(10, 1, seed),
            torch.ones(10, 1, dtype=torch.float64),
            0.02 * math.pi**2,
            BETAS,
        ),
        *trajectories(
            energy,
            best.particles + 0.05 * cloud(20, 2, seed + 1),
            best.particles,
            best.hessian_min_eig,
            FLAT_BETAS,
        ),
    ]


def trajectories(
    energy: Functional,
    start: torch.Tensor,
    goal: torch.Tensor,
    curvature: float,
    betas: tuple[float, ...],
) -> list[dict]:
    """Return the distances to the goal from one start, for every beta, with unit steps."""
    rows = []
    for beta in ("auto", *betas):
        path = [start]
        minimize(
            energy,
            start,
            beta=beta,
            max_iter=60,
            monitor=lambda z, path=path: path.append(z),
            **FIXED,
        )
        for k, z in enumerate(path):
            rows.append(
                {
                    "part": "distance",
                    "problem": type(energy).__name__,
                    "method": str(beta),
                    "curvature": curvature,
                    "steps": k,
                    "w2": wasserstein_distance(z, goal),
                    "predicted": 1 + factor(curvature, beta),
                }
            )
    return rows


def final_factor(distance: np.ndarray) -> float:
    """Return the mean factor of the last three steps before rounding."""
    tail = distance[distance > 1e-11][-4:]
    return float((tail[-1] / tail[0]) ** (1 / (len(tail) - 1)))


def factors(distance: np.ndarray) -> list[float]:
    """Return the factor of each step until rounding."""
    return [after / before for before, after in pairwise(distance[distance > FLOOR])]


def draw_escapes(raw: pd.DataFrame, path: Path) -> None:
    """Draw steps to leave the saddle against its curvature, and the formula."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5.2), layout="constrained")
    rows = raw[(raw["part"] == "escape") & (raw["status"] == "escaped")]
    markers = iter("o^v<>sDP")
    flat = np.geomspace(raw["curvature"].min() / 2, 1.3, 60)
    for name, group in rows.groupby("method", sort=False):
        median = group.groupby("curvature")["steps"].median()
        points = axes.plot(median.index, median, next(markers), label=name, mfc="none", ms=8)
        growth = ESCAPES[name][1]
        if growth is not None:
            counts = [math.log(FAR / NEAR) / math.log(1 + ETA * factor(-c, growth)) for c in flat]
            axes.plot(flat, counts, "-", color=points[0].get_color(), lw=1)
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(flat[0], flat[-1]),
        xlabel=r"curvature at the saddle, $|\lambda|$",
        ylabel=f"steps from a distance of {NEAR:g} to {FAR}",
        title="Leaving a saddle of VarianceCosine (lines: the formula; Newton never leaves)",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    save_picture(figure, path)


def draw_distances(raw: pd.DataFrame, path: Path) -> None:
    """Draw the distance to a minimiser against steps, and the slope of the formula."""
    import matplotlib.pyplot as plt

    rows = raw[raw["part"] == "distance"]
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    for axes, (problem, group) in zip(panels, rows.groupby("problem", sort=False), strict=True):
        for name, run in group.groupby("method", sort=False):
            within = run["w2"].gt(FLOOR).shift(fill_value=True).cummin()  # and the step below
            seen = run[within].assign(w2=run["w2"].clip(lower=FLOOR))
            label = rf"$\beta$ = {name}"
            line = axes.plot(seen["steps"], seen["w2"], ".-", lw=1, ms=4, label=label)
            if name != "auto" and seen["w2"].iloc[-1] < 1:
                last = run[run["w2"] > 1e-11].iloc[-1]
                linear = last["w2"] * last["predicted"] ** (seen["steps"] - last["steps"])
                axes.plot(seen["steps"], linear, "--", color=line[0].get_color(), lw=0.8)
        axes.set(
            yscale="log",
            ylim=(FLOOR, 3),
            xlabel="steps",
            title=rf"{problem}, $\lambda_{{min}}$ = {group['curvature'].iloc[0]:.3g}",
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel("W2 to the minimiser (dashed: the slope of the formula)")
    save_picture(figure, path)
