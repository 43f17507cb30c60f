"""Both samplers side by side on reference posteriors, with 500 and with 100 particles.

GWGSampler and SVGDSampler at their default settings, and SVGD with as many evaluations of the score
and as many seconds as GWG. Written to gwg_posteriors.md and gwg_posteriors.csv. Needs --data, the
folder that holds posteriordb/.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import Options, conditions, markdown, mean_and_range, parse_options, write_results
from _posteriors import Posterior, load_posteriors, standard_starts
from svgd_posteriors import quiet_fit, sd_range
from torch import Tensor

from skwgf import GWGSampler, SVGDSampler
from skwgf.targets import LogDensity

SIZES = (500, 100)
MOST_STEPS = 2000
GWG, SVGD = "GWG", "SVGD"
EQUAL_GRADIENTS, EQUAL_SECONDS = "SVGD, GWG's evaluations", "SVGD, GWG's seconds"


def run(
    sampler: Any, posterior: Posterior, n: int, seed: int, **settings: Any
) -> tuple[dict[str, Any], int]:
    """Return the figures of a sampler, and how many steps it took."""
    n_evaluations, start = 0, standard_starts(posterior.dim, n, seed)

    def score(z: Tensor) -> Tensor:
        nonlocal n_evaluations
        n_evaluations += len(z) == n  # not the trial of single rows
        return posterior.score(z)

    target = LogDensity(posterior.log_prob, posterior.dim, batched=True, grad=score)
    began = time.process_time()
    fitted, _ = quiet_fit(sampler(target, random_state=seed, **settings), start.numpy())
    seconds = time.process_time() - began
    error, ratios = posterior.figures(torch.as_tensor(fitted.particles_))
    row = {
        "seed": seed,
        "error": error,
        "sd_least": ratios.min(),
        "sd_greatest": ratios.max(),
        "evaluations": n_evaluations,
        "seconds": seconds,
        "converged": fitted.converged_,
        "spread_ratio": fitted.spread_ratio_,
        "fisher_ratio": fitted.fisher_ratio_,
    }
    return row, fitted.n_iter_


def posterior_rows(posterior: Posterior, n: int, options: Options) -> list[dict[str, Any]]:
    """Return the rows of a posterior and a number of particles."""
    rows = []
    for seed in options.seeds:
        gwg, _ = run(GWGSampler, posterior, n, seed)
        svgd, steps = run(SVGDSampler, posterior, n, seed)
        found = {GWG: gwg, SVGD: svgd}
        # What comes before and after the steps costs evaluations too.
        left = max(1, gwg["evaluations"] - (svgd["evaluations"] - steps))
        longer = {"tol": 0, "max_iter": left}
        if seed == options.seeds[0]:
            found[EQUAL_GRADIENTS] = run(SVGDSampler, posterior, n, seed, **longer)[0]
            pace = svgd["seconds"] / svgd["evaluations"]
            longer["max_iter"] = int(np.clip(gwg["seconds"] / pace, 1, MOST_STEPS))
            found[EQUAL_SECONDS] = run(SVGDSampler, posterior, n, seed, **longer)[0]
        shared = {"target": posterior.name, "n": n}
        rows += [shared | {"method": method} | row for method, row in found.items()]
    return rows


def table(raw: pd.DataFrame, posteriors: list[Posterior]) -> str:
    """Return the table of one number of particles."""
    n, lines = int(raw["n"].iloc[0]), []
    for posterior in posteriors:
        of_target = raw[raw["target"] == posterior.name]
        if of_target.empty:  # not yet
            continue
        errors, ratios = posterior.floor(n)
        low, high = np.quantile(ratios, [0.005, 0.995], axis=0)
        median = float(np.median(errors))
        lines.append(
            {
                "posterior": posterior.name,
                "method": "independent draws, median or 99%",
                "error": f"{median:.3f}",
                "of the median": "1",
                "sd ratios": f"{low.min():.2f} to {high.max():.2f}",
            }
        )
        for method, rows in of_target.groupby("method", sort=False):
            lines.append(
                {
                    "posterior": posterior.name,
                    "method": method,
                    "error": mean_and_range(rows["error"], 3),
                    "of the median": mean_and_range(rows["error"] / median, 2),
                    "sd ratios": sd_range(rows),
                    "spread_ratio_": f"{rows['spread_ratio'].mean():.2f}",
                    "fisher_ratio_": f"{rows['fisher_ratio'].mean():.2f}",
                    "evaluations": mean_and_range(rows["evaluations"], 0),
                    "processor s": mean_and_range(rows["seconds"], 1),
                    "converged": f"{int(rows['converged'].sum())} of {len(rows)}",
                }
            )
    return markdown(pd.DataFrame(lines).fillna(""))


def report(raw: pd.DataFrame, posteriors: list[Posterior], options: Options) -> str:
    """Return the page of results."""
    tables = "\n\n".join(
        f"## {n} particles\n\n{table(rows, posteriors)}" for n, rows in raw.groupby("n", sort=False)
    )
    return f"""# GWGSampler and SVGDSampler on reference posteriors

{conditions(options)}

Particles from N(0, I), default settings. The error is the largest mean error over the parameters of
the reference, in its sds; the sd ratios are the least and the greatest over parameters and seeds.
Both are against 10,000 reference draws, whose own means are off by about .01 to .02. Above them the
same figures of 1000 resamples of as many reference draws. An evaluation is one of the score, of all
particles; those of the start and of the checks around the flow are counted. The two rows below
SVGD's own, of the first seed, run it with `tol=0`: for as many evaluations as GWG took, and for as
long as GWG took (at most {MOST_STEPS} steps): where SVGD has stopped by itself before, it goes on
as long as it gets anywhere.

{tables}"""


def main() -> None:
    """Run the comparison and write the tables."""
    options = parse_options(__doc__ or "")
    if options.data is None:
        raise SystemExit("Pass --data the folder that holds posteriordb/.")
    posteriors = load_posteriors(options.data)[: 1 if options.quick else None]
    # The first fit imports much of torch.
    run(GWGSampler, posteriors[0], SIZES[-1], options.seeds[0], max_iter=1)
    rows: list[dict[str, Any]] = []
    for n in SIZES[1:] if options.quick else SIZES:
        for posterior in posteriors:
            rows += posterior_rows(posterior, n, options)
            raw = pd.DataFrame(rows)
            write_results(options.out, "gwg_posteriors", raw, report(raw, posteriors, options))
            print(n, posterior.name, flush=True)


if __name__ == "__main__":
    main()
