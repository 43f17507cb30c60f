"""Saddle-free Newton: rates against the theory, and against L-BFGS, Adam and gradient descent.

The first part measures rates of convergence and times of escape where they are known; the second
minimises functionals of particles and counts iterations, gradients, Hessian products and seconds.
Written to wsfn.md, wsfn.csv, wsfn_escape.png and wsfn_distance.png.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from _common import (
    Options,
    machine,
    markdown,
    mean_and_range,
    parse_options,
    write_results,
)
from _wsfn_peers import BUDGET, Problem, Run, contenders, problems
from _wsfn_theory import (
    ESCAPES,
    ETA,
    FAR,
    NEAR,
    distances,
    draw_distances,
    draw_escapes,
    escapes,
    factors,
    final_factor,
    rates,
)

MAX_ESCAPE = 30_000


def compare(seeds: tuple[int, ...], budget: int) -> list[dict]:
    """Return a row for each problem, method and instance."""
    rows = []
    for name, instances in problems(seeds):
        for method, settings in contenders(budget).items():
            runs = tuned(settings, instances)
            rows += [record(name, method, k, run) for k, run in enumerate(runs)]
    return rows


def tuned(settings: list, instances: list[Problem]) -> list[Run]:
    """Return the runs of the setting that does best on the first instance."""
    firsts = [run(instances[0]) for run in settings]
    best = min(range(len(settings)), key=lambda k: merit(firsts[k]))
    return [firsts[best], *(settings[best](problem) for problem in instances[1:])]


def merit(run: Run) -> tuple[float, float]:
    """Return what is to be small: the gradients to the target, then the value."""
    return (np.inf if run.reached is None else run.reached.gradients, run.value)


def record(problem: str, method: str, instance: int, run: Run) -> dict:
    """Return a run as a row."""
    row = {
        "part": "minimisation",
        "problem": problem,
        "method": method,
        "instance": instance,
        "value": run.value,
        "iterations": run.iterations,
        "status": run.status,
        "seconds": run.total.seconds,
        "reached": run.reached is not None,
    }
    if run.reached is not None:
        spent = run.reached
        row |= {
            "gradients_to_target": spent.gradients,
            "values_to_target": spent.values,
            "products_to_target": spent.products,
            "seconds_to_target": spent.seconds,
        }
    return row


def rate_table(rows: pd.DataFrame) -> str:
    """Return measured and predicted factors as Markdown."""
    cells = [
        {
            "beta": f"{row['beta']:g}",
            "curvature": f"{row['curvature']:.4f}",
            "predicted": f"{row['predicted']:.5f}",
            "measured": f"{row['measured']:.5f}",
            "difference": f"{row['measured'] - row['predicted']:+.0e}",
        }
        for _, row in rows.iterrows()
    ]
    return markdown(pd.DataFrame(cells))


def escape_table(rows: pd.DataFrame) -> str:
    """Return steps to leave a saddle as Markdown."""
    cells = []
    for method in ESCAPES:
        row = {"method": method}
        for curvature, runs in rows[rows["method"] == method].groupby("curvature", sort=False):
            row[f"{curvature:.2g}"] = escape_cell(runs)
        cells.append(row)
    return markdown(pd.DataFrame(cells))


def escape_cell(runs: pd.DataFrame) -> str:
    """Return the steps of the runs of one method, and how far they are from the formula."""
    left = runs[runs["status"] == "escaped"]
    if left.empty:
        return "to the saddle" if (runs["status"] == "saddle").all() else f"> {MAX_ESCAPE}"
    text = mean_and_range(left["steps"], 0)
    if len(left) < len(runs):
        text += f", {len(runs) - len(left)} of {len(runs)} not within {MAX_ESCAPE}"
    predicted = runs["predicted"].iloc[0]
    if np.isfinite(predicted):
        text += f" ({100 * (left['steps'].mean() / predicted - 1):+.1f}%)"
    return text


def distance_table(rows: pd.DataFrame) -> str:
    """Return factors by which the distance falls in a step as Markdown."""
    cells = []
    for (problem, method), run in rows.groupby(["problem", "method"], sort=False):
        w2 = run["w2"].to_numpy()
        fixed = method != "auto"
        seen = factors(w2)
        lost = w2[-1] > w2[0]
        cells.append(
            {
                "functional": problem,
                "beta": method,
                "least curvature": f"{run['curvature'].iloc[0]:.4g}",
                "predicted factor": f"{run['predicted'].iloc[0]:.4f}" if fixed else "to 0",
                "measured": "goes away"
                if lost
                else f"{final_factor(w2):.4f}"
                if fixed
                else ", ".join(f"{x:.1e}" for x in [*seen, 0.0][:7]),
                "steps to 1e-10": steps_to(w2, 1e-10),
            }
        )
    return markdown(pd.DataFrame(cells))


def steps_to(distance: np.ndarray, level: float) -> str:
    """Return the first step at which a distance is below a level."""
    below = np.flatnonzero(distance < level)
    return str(below[0]) if len(below) else f"> {len(distance) - 1}"


def effort_table(rows: pd.DataFrame) -> str:
    """Return what it took to reach the target as Markdown; least seconds are bold."""
    cells = []
    for problem, group in rows.groupby("problem", sort=False):
        table = dict(list(group.groupby("method", sort=False)))
        medians = {m: runs["seconds_to_target"].median() for m, runs in table.items()}
        all_reach = {m: int(runs["reached"].astype(bool).sum()) for m, runs in table.items()}
        most = max(all_reach.values())
        able = {m: s for m, s in medians.items() if most > 0 and all_reach[m] == most}
        best = min(able, key=able.__getitem__, default=None)
        for method, runs in table.items():
            seconds = f"{medians[method]:.3f}" if all_reach[method] else "-"
            cells.append(
                {
                    "problem": problem,
                    "method": method,
                    "reached": f"{all_reach[method]} of {len(runs)}",
                    "gradients": median(runs["gradients_to_target"]),
                    "Hessian products": median(runs["products_to_target"]),
                    "seconds": f"**{seconds}**" if method == best else seconds,
                    "value at the end": f"{runs['value'].median():.1e} [{runs['value'].min():.1e}, "
                    f"{runs['value'].max():.1e}]",
                    "iterations in all": median(runs["iterations"]),
                    "seconds in all": f"{runs['seconds'].median():.2f}",
                }
            )
    return markdown(pd.DataFrame(cells))


def median(values: pd.Series) -> str:
    """Return a median, a dash if there is none."""
    return "-" if values.isna().all() else f"{values.median():.0f}"


def report(raw: pd.DataFrame, options: Options, budget: int) -> str:
    """Return the page of results."""
    parts = dict(list(raw.groupby("part", sort=False)))
    quick = "**A run with --quick: its figures mean nothing.** " if options.quick else ""
    return f"""# Saddle-free Newton: theory and peers

{quick}Seeds {", ".join(map(str, options.seeds))}. {machine()}

## Linear rates

VarianceCosine with a = 1, b = .02 near a minimiser, step {ETA}, no line search: the factor by which
the error falls in a step, along the mean (curvature b pi^2) and the spread (curvature a), against
1 - step * curvature / sqrt(curvature^2 + beta).

{rate_table(parts["rate"])}

## Leaving a saddle

Steps of size {ETA} from a distance of {NEAR:g} to {FAR} for four curvatures -|lambda| = -b pi^2,
and their distance from log({FAR}/{NEAR:g}) / log(1 + {ETA} |lambda| / sqrt(lambda^2 + beta)), with
beta = 0 for "auto" and a growth of {ETA} |lambda| for gradient descent. The noise of perturbed
descent (rms 1e-3, mean [least, greatest] over the seeds) carries particles further than {NEAR:g} at
once. Guided by the Hessian it favours the directions of curvature 1 here, not the flat one that
leads down. Newton's method goes to the saddle in a few steps.

{escape_table(parts["escape"])}

![steps against curvature](wsfn_escape.png)

## Distance to a minimiser

W2 to a minimiser that is not degenerate, unit steps, no line search: the mean factor of the last
three steps against 1 - curvature / sqrt(curvature^2 + beta). With "auto" the factors of the first
steps, until rounding: they go to zero. EnergyDistance has 20 particles for 200 normal rows in the
plane, started near a minimiser. A fixed beta that is too small makes steps that are too long,
without a line search.

{distance_table(parts["distance"])}

![distance against steps](wsfn_distance.png)

## Against L-BFGS, Adam and gradient descent

"Reached": in how many instances the value fell to the target, 1e-9 for MMD (half the squared
discrepancy), 1e-12 for second moments, 1e-8 for networks; gradients, Hessian products and processor
seconds to that are medians over them. "In all" is to the end: WSFN stops by itself, first-order
methods stop after {budget} gradients, L-BFGS (scipy's L-BFGS-B, memory 10 and 50) earlier where
its search gives up. WSFN is `minimize` with default settings: up to 300 coordinates it decomposes
the dense Hessian; "Lanczos" does not. Its first gradients and products are the check that the
functional is smooth. Adam (torch's, rate from five that falls by a cosine) and gradient descent (a
fixed step from five, over the inverse of the largest curvature at the start) have the setting that
was best on the first instance. First-order methods take the gradient from the closed form or from
autograd, whichever is faster. Bold: the least seconds among those that reached the target most
often. Evaluations of the value in line searches are in wsfn.csv.

* MMD: 40 particles for 100 rows in two blobs at (+-2, 0), Gaussian kernel of bandwidth 1; the start
  is rows plus noise of .1. "20 + 20": as many from each blob. "At random": 40 of the 100 rows;
  where the blobs get unequal shares, Gaussian tails do not mend it, and every method ends in a
  local minimum. At a standard deviation of .3 forty particles cannot do as well in all instances.
* Second moments: 40 particles in four dimensions, moments 1, .5, .1, .01, from 1e-6 around zero and
  from the saddle where two of the four are right.
* Networks: tanh neurons with weights of .01 (the saddle at zero), 100 rows, no penalty.

{effort_table(parts["minimisation"])}
"""


def main() -> None:
    """Run everything and write the results."""
    options = parse_options(__doc__, seeds=(0, 1, 2, 3, 4, 5))
    budget = 50 if options.quick else BUDGET
    rows = rates(options.seeds[0])
    rows += escapes(options.seeds[:3], 300 if options.quick else MAX_ESCAPE)
    rows += distances(options.seeds[0])
    rows += compare(options.seeds, budget)
    raw = pd.DataFrame(rows)
    write_results(options.out, "wsfn", raw, report(raw, options, budget))
    draw_escapes(raw, options.out / "wsfn_escape.png")
    draw_distances(raw, options.out / "wsfn_distance.png")


if __name__ == "__main__":
    main()
