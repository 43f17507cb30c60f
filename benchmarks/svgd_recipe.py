"""The default recipe of the sampler, and what each of its parts is for.

Five reference posteriors are sampled from N(0, I) on the unconstrained scale, with the recipe as
it stands and with one part changed at a time; then targets with known moments. Writes
svgd_recipe.md and svgd_recipe.csv. Needs --data, the folder that holds posteriordb/.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import Options, conditions, markdown, mean_and_range, parse_options, write_results
from _posteriors import Posterior, load_posteriors, standard_starts
from torch import Tensor

from skwgf.flows import run_flow
from skwgf.flows.affine import affine_start
from skwgf.flows.whitened import at_level, fisher_ratio, stopping_level, whitened_carrier

N_PARTICLES, FEW = 500, (100, 50, 30)
MAX_ITER = 300
AXES_SEED = 7

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """A variant of the recipe: options of the carrier, the affine start, the largest count."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    affine: bool = True
    max_iter: int = MAX_ITER


DEFAULT = Setting("default")
SETTINGS = (
    DEFAULT,
    Setting("affine start alone", max_iter=0),
    Setting("no affine start", affine=False),
    Setting("no linear kernel", {"linear_weight": 1e-6}),
    Setting("ridge .01", {"reg": 0.01}),
    Setting("ridge .5", {"reg": 0.5}),
    Setting("ridge 1 (plain SVGD)", {"reg": 1.0}),
    Setting("25 centres", {"n_centers": 25}),
    Setting("a centre each", {"n_centers": N_PARTICLES}),
    Setting("bandwidth halved", {"bandwidth": 0.5}),
    Setting("bandwidth doubled", {"bandwidth": 2.0}),
    Setting("step .1", {"step_size": 0.1}),
    Setting("step .6", {"step_size": 0.6}),
    Setting("speed without limit", {"max_speed": math.inf}),
    Setting("stop at .16", {"level": 0.16}),
    Setting("stop at .04", {"level": 0.04}),
    Setting("run on to 300 steps", {"level": 0.0}),
)


def sample(score_fn: Score, start: Tensor, setting: Setting) -> tuple[Tensor, dict[str, float]]:
    """Return the particles of one run and what it took."""
    began = time.process_time()
    n_evaluations = 0
    x = start
    if setting.affine:
        x, info = affine_start(score_fn, x)
        n_evaluations = info.n_evaluations
    cost: dict[str, float] = {"converged": 1.0}
    if setting.max_iter:
        carrier = whitened_carrier(score_fn, x, **setting.options)
        level = setting.options.get("level", stopping_level(*x.shape))
        # Without a level the run goes on to the end, whatever becomes of the energy.
        stop = at_level(level) if level > 0 else None
        result = run_flow(carrier, max_iter=setting.max_iter, stop=stop)
        x = carrier.particles
        n_evaluations += result.n_iter
        cost = {
            "converged": float(result.converged),
            "energy": result.history["objective"][-1],
        }
    cost |= {"evaluations": n_evaluations, "seconds": time.process_time() - began}
    return x, cost


def judge(score_fn: Score, x: Tensor) -> float:
    """Return Fisher's ratio, with the same directions for all clouds."""
    return fisher_ratio(score_fn, x, generator=torch.Generator().manual_seed(0))


def posterior_rows(
    posterior: Posterior, setting: Setting, n: int, options: Options
) -> list[dict[str, Any]]:
    """Return the figures of a setting on a posterior, a row a seed."""
    rows = []
    for seed in options.seeds:
        x, cost = sample(posterior.score, standard_starts(posterior.dim, n, seed), setting)
        error, ratios = posterior.figures(x)
        rows.append(
            {
                "target": posterior.name,
                "setting": setting.name,
                "n": n,
                "seed": seed,
                "error": error,
                "sd_least": ratios.min(),
                "sd_greatest": ratios.max(),
                "fisher": judge(posterior.score, x),
                **cost,
            }
        )
    return rows


@dataclass(frozen=True)
class Law:
    """A law with a score and known moments; `scale` is that of the normal start."""

    name: str
    score_fn: Score
    mean: np.ndarray
    sd: np.ndarray
    scale: float = 1.0


def laws() -> list[Law]:
    """Return Gaussians, then laws that are skewed, curved, or have two modes."""
    rng = np.random.default_rng(AXES_SEED)
    found = []
    for d in (2, 10, 50, 100):
        axes, widths = np.linalg.qr(rng.standard_normal((d, d)))[0], np.logspace(-1, 1, d)
        precision = torch.tensor((axes / widths**2) @ axes.T)
        sd = np.sqrt(((axes * widths) ** 2).sum(1))
        found.append(Law(f"N(0, I), d = {d}", torch.neg, np.zeros(d), np.ones(d)))
        found.append(
            Law(f"Gaussian, axes .1 to 10, d = {d}", partial(linear, precision), np.zeros(d), sd)
        )
    for d in (2, 10, 50, 100):
        mean, sd = np.full(d, -np.euler_gamma), np.full(d, math.pi / math.sqrt(6))
        found.append(Law(f"log-exponential, d = {d}", log_exponential, mean, sd))
    for bend, width in ((0.5, 1.0), (1.0, 0.5)):
        sd = np.array([1.0, math.hypot(math.sqrt(2) * bend, width)])
        name = f"banana, bend {bend:g}, width {width:g}"
        found.append(Law(name, partial(banana, bend, width), np.array([0, bend]), sd))
    for half in (1.5, 2.0, 3.0, 5.0):
        sd = np.array([math.hypot(half, 1.0), 1.0])
        name = f"two unit modes, {2 * half:g} apart"
        found.append(Law(name, partial(two_modes, half), np.zeros(2), sd, scale=2.0))
    return found


def linear(precision: Tensor, x: Tensor) -> Tensor:
    """Return the score of a centred Gaussian."""
    return -x @ precision


def log_exponential(x: Tensor) -> Tensor:
    """Return the score of independent logarithms of exponential variables."""
    return 1 - x.exp()


def banana(bend: float, width: float, x: Tensor) -> Tensor:
    """Return the score of (a, bend a^2 + width b), a and b standard normal."""
    pull = (x[:, 1] - bend * x[:, 0] ** 2) / width**2
    return torch.stack([2 * bend * x[:, 0] * pull - x[:, 0], -pull], 1)


def two_modes(half: float, x: Tensor) -> Tensor:
    """Return the score of an even mixture of unit Gaussians at (+-half, 0)."""
    centre = half * torch.tanh(half * x[:, :1])
    return torch.cat([centre - x[:, :1], -x[:, 1:]], 1)


def law_rows(law: Law, setting: Setting, n: int, options: Options) -> list[dict[str, Any]]:
    """Return the figures of a setting on a law, a row a seed."""
    rows = []
    for seed in options.seeds:
        start = law.scale * standard_starts(len(law.mean), n, seed)
        x, cost = sample(law.score_fn, start, setting)
        ratios = x.std(0).numpy() / law.sd
        rows.append(
            {
                "target": law.name,
                "setting": setting.name,
                "n": n,
                "seed": seed,
                "error": float((np.abs(x.mean(0).numpy() - law.mean) / law.sd).max()),
                "variance": float((ratios**2).mean()),
                "sd_least": ratios.min(),
                "sd_greatest": ratios.max(),
                "fisher": judge(law.score_fn, x),
                **cost,
            }
        )
    return rows


def summary(rows: pd.DataFrame) -> dict[str, str]:
    """Return the cells of the runs of one target in one setting."""
    return {
        "max mean error / sd": mean_and_range(rows["error"], 3),
        "sd ratios": f"{rows['sd_least'].min():.2f} to {rows['sd_greatest'].max():.2f}",
        "Fisher ratio": mean_and_range(rows["fisher"], 2),
        "evaluations": mean_and_range(rows["evaluations"], 0),
        "processor s": mean_and_range(rows["seconds"], 1),
        "converged": f"{int(rows['converged'].sum())} of {len(rows)}",
    }


def posterior_table(raw: pd.DataFrame, posteriors: list[Posterior]) -> str:
    """Return the table of the default on the posteriors, with the floor of independent draws."""
    lines = []
    for n in (N_PARTICLES, *FEW):
        for posterior in posteriors:
            errors, ratios = posterior.floor(n)
            low, high = np.quantile(ratios, [0.005, 0.995], axis=0)
            chosen = (raw["target"] == posterior.name) & (raw["n"] == n)
            cells = summary(raw[chosen & (raw["setting"] == DEFAULT.name)])
            lines.append(
                {
                    "particles": n,
                    "posterior": posterior.name,
                    "half the error of independent draws": f"{np.median(errors) / 2:.3f}",
                    "their sd ratios, 99%": f"{low.min():.2f} to {high.max():.2f}",
                    **cells,
                }
            )
    return markdown(pd.DataFrame(lines))


def ablation_table(raw: pd.DataFrame, posteriors: list[Posterior]) -> str:
    """Return the table with a row a setting: mean error and sd ratios on each posterior."""
    names = [posterior.name for posterior in posteriors]
    chosen = raw[raw["target"].isin(names) & (raw["n"] == N_PARTICLES)]
    lines = []
    for setting in SETTINGS:
        rows = chosen[chosen["setting"] == setting.name]
        line = {"setting": setting.name}
        for posterior in posteriors:
            found = rows[rows["target"] == posterior.name]
            line[posterior.name] = (
                f"{found['error'].max():.3f}; {found['sd_least'].min():.2f} to "
                f"{found['sd_greatest'].max():.2f}"
            )
        line["evaluations"] = f"{rows['evaluations'].mean():.0f}"
        line["processor s"] = f"{rows['seconds'].mean():.1f}"
        line["converged"] = f"{int(rows['converged'].sum())} of {len(rows)}"
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def law_table(raw: pd.DataFrame, names: list[str]) -> str:
    """Return the table of the known laws."""
    lines = []
    for (target, setting, n), rows in raw[raw["target"].isin(names)].groupby(
        ["target", "setting", "n"], sort=False
    ):
        lines.append(
            {
                "law": target,
                "setting": setting,
                "particles": n,
                "mean variance ratio": mean_and_range(rows["variance"], 3),
                **summary(rows),
            }
        )
    return markdown(pd.DataFrame(lines))


def main() -> None:
    """Run the recipe and its variants and write the tables."""
    options = parse_options(__doc__ or "", seeds=(0, 1))
    if options.data is None:
        raise SystemExit("Pass --data the folder that holds posteriordb/.")
    posteriors = load_posteriors(options.data)
    settings = SETTINGS
    if options.quick:
        settings = tuple(replace(s, max_iter=min(s.max_iter, 5)) for s in SETTINGS)
    rows: list[dict[str, Any]] = []
    for posterior in posteriors:
        for setting in settings:
            rows += posterior_rows(posterior, setting, N_PARTICLES, options)
        for n in FEW:
            rows += posterior_rows(posterior, settings[0], n, options)
        print(posterior.name, flush=True)
    known = laws()
    for law in known:
        for n in (200, N_PARTICLES):
            rows += law_rows(law, settings[0], n, options)
        if "modes" in law.name:
            rows += law_rows(law, settings[2], N_PARTICLES, options)
    raw = pd.DataFrame(rows)
    text = f"""# The default recipe of the sampler

{conditions(options)}

The cloud starts from N(0, I) on the unconstrained scale (4 I for two modes). An evaluation is one
of the score, of all particles. The largest mean error over the parameters and the range of the
ratios of the standard deviations are against 10,000 reference draws, whose own mean errors are
about .01 to .02 of an sd. Half the median error of as many independent draws is the mark to stay
below.

## Reference posteriors

{posterior_table(raw, posteriors)}

## What each part is for: {N_PARTICLES} particles

Largest mean error; range of the sd ratios.

{ablation_table(raw, posteriors)}

## Known laws

{law_table(raw, [law.name for law in known])}"""
    write_results(options.out, "svgd_recipe", raw, text)


if __name__ == "__main__":
    main()
