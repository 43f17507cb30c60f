"""The torus: measured rates of the mean-field equation against the prediction, and speed.

The first part fits slopes of log L2 and log KL against log t in a window of the solution of the
equation; the second times the velocity of particles against a dense sum, a sort and the matrix
products in it. Written to torus.md and torus.csv.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from _common import machine, markdown, parse_options, timed, write_results

from skwgf.flows.spectral import rough_field, solve_mean_field, torus_grid
from skwgf.flows.torus import TorusVelocity, wrap
from skwgf.kernels import RieszKernel

UNIFORM, COSINE = "uniform", "V = cos 2 pi x"
AMPLITUDE = 0.05  # largest relative deviation of the start from the target
# Target, d, s, points of an axis, and the window in frequencies of the front, see `times_of`.
CASES = (
    (UNIFORM, 1, 1.5, 1024, (5, 30)),
    (UNIFORM, 1, 2.0, 1024, (5, 30)),
    (UNIFORM, 1, 2.5, 1024, (5, 30)),
    (COSINE, 1, 1.5, 8192, (80, 300)),
    (COSINE, 1, 2.0, 2048, (15, 45)),
    (COSINE, 1, 2.5, 1024, (14, 27)),
    (UNIFORM, 2, 2.0, 256, (3, 12)),
)
REGULARITIES = (1, 2)
FITTED = 24  # times in a window
GAP = 1e-3  # relative distance of the times that dKL/dt is the difference quotient of
EXPONENTIAL_TIMES = (20.0, 60.0)
N_LINE, N_PLANE, N_DENSE, MODES, REPEATS = 100_000, 10_000, 10_000, 24, 21


def times_of(window: tuple[float, float], s: float, least: float) -> np.ndarray:
    """Return the times at which the front of decay passes the frequencies of a window.

    Where the target is least, modes below xi are gone by about |2 pi xi|^(2 s - 2) / (2 least).
    """
    return (2 * math.pi * np.geomspace(*window, FITTED)) ** (2 * s - 2) / (2 * least)


def problem(target: str, d: int, n: int, r: float, amplitude: float) -> tuple:
    """Return the start, the potential (None: uniform) and the least density of the target."""
    perturbed = 1 + amplitude * rough_field(n, d, r)
    if target == UNIFORM:
        return perturbed, None, 1.0
    potential = torch.cos(2 * math.pi * torus_grid(n, d)).sum(-1)
    density = torch.exp(-potential)
    return density * perturbed, potential, float(density.min() / density.mean())


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """Return the slope of a straight line fitted to y(x)."""
    return float(np.polyfit(x, y, 1)[0])


def algebraic(case: tuple, r: float, amplitude: float = AMPLITUDE) -> dict:
    """Return the slopes of one solution, and how far dKL/dt is from -I along it."""
    target, d, s, n, window = case
    start, potential, least = problem(target, d, n, r, amplitude)
    marks = times_of(window, s, least)
    times = [0.0, *np.outer(marks, (1 - GAP, 1, 1 + GAP)).ravel().tolist()]
    path, _, seconds = timed(solve_mean_field, start, times, RieszKernel(s), potential=potential)
    kl, l2, dissipation = (
        figure[1:].reshape(-1, 3).numpy() for figure in (path.kl, path.l2, path.dissipation)
    )
    identity = (kl[:, 2] - kl[:, 0]) / (2 * GAP * marks) / dissipation[:, 1] + 1
    return {
        "part": "algebraic",
        "target": target,
        "d": d,
        "s": s,
        "r": r,
        "amplitude": amplitude,
        "points": n,
        "from": window[0],
        "to": window[1],
        "l2_predicted": -r / (2 * (s - 1)),
        "l2_slope": slope(np.log(marks), np.log(l2[:, 1])),
        "kl_slope": slope(np.log(marks), np.log(kl[:, 1])),
        "identity": np.abs(identity).max(),
        "steps": path.n_steps,
        "seconds": seconds,
    }


def exponential(target: str) -> dict:
    """Return the rates of the Coulomb flow in the second half of an interval of time."""
    start, potential, least = problem(target, 1, 256, 1, 6 * AMPLITUDE)
    first, last = EXPONENTIAL_TIMES if potential is not None else (5.0, 20.0)
    times = np.linspace(first, last, FITTED)
    path = solve_mean_field(start, [0.0, *times], RieszKernel(1.0), potential=potential)
    return {
        "part": "exponential",
        "target": target,
        "from": first,
        "to": last,
        "least_density": least,
        "l2_slope": slope(times, np.log(path.l2[1:].numpy())),
        "kl_slope": slope(times, np.log(path.kl[1:].numpy())),
    }


def dense_velocity(x: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return the velocity on the line for s = 2 by all pairs, in tiles of rows."""
    parts = []
    for tile in x.split(max(1, 2**18 // len(x))):
        u = wrap(tile[:, None] - x)
        slopes = u * (u - 0.5) * (1 - u) / 6  # k' = -B_3 / 3!
        values = (1 / 30 - (u * (1 - u)) ** 2) / 24  # k = -B_4 / 4!
        parts.append(values @ scores - slopes.sum(1))
    return torch.cat(parts) / len(x)


def score(x: torch.Tensor) -> torch.Tensor:
    """Return the score of the target exp(-sum cos 2 pi x)."""
    return 2 * math.pi * torch.sin(2 * math.pi * x)


def contenders(dtype: torch.dtype, seed: int) -> dict[str, Callable[[], object]]:
    """Return what is timed; scores are computed beforehand."""
    generator = torch.Generator().manual_seed(seed)

    def field(n: int, d: int, **options: object) -> Callable[[], object]:
        x = torch.rand(n, d, generator=generator, dtype=torch.float64).to(dtype)
        scores = score(x)
        velocity = TorusVelocity(lambda _: scores, d, **options)
        return lambda: velocity(x)

    x = torch.rand(N_LINE, generator=generator, dtype=torch.float64).to(dtype)
    few = x[:N_DENSE].clone()
    size = 2 * MODES + 1
    tables = torch.rand(3 * size, N_PLANE, generator=generator, dtype=torch.float64).to(dtype)
    coefficients = tables[: 2 * size, :size].contiguous()
    return {
        "exact": field(N_LINE, 1, kernel=RieszKernel(2.0)),
        "sort": lambda: torch.sort(x),
        "exact, few": field(N_DENSE, 1, kernel=RieszKernel(2.0)),
        "dense, few": lambda: dense_velocity(few, score(few)),
        "plane": field(N_PLANE, 2, n_modes=MODES),
        "products": lambda: (tables @ tables[:size].T, coefficients @ tables[:size]),
    }


def speed(dtype: torch.dtype, seed: int, repeats: int) -> dict:
    """Return the least processor times of the contenders, in milliseconds, taken in turns."""
    calls = contenders(dtype, seed)
    for call in calls.values():
        call()
    rounds = [{name: timed(call)[2] for name, call in calls.items()} for _ in range(repeats)]
    least = (1e3 * pd.DataFrame(rounds).min()).to_dict()
    return {"part": "speed", "dtype": str(dtype).removeprefix("torch.")} | least


def off(value: float, exact: float) -> str:
    """Return a value and its deviation from the exact one in per cent."""
    return f"{value:.3f} ({100 * (value / exact - 1):+.1f}%)"


def rate_table(rows: pd.DataFrame) -> str:
    """Return slopes against the prediction as Markdown."""
    cells = [
        {
            "target": row["target"],
            "d": f"{row['d']:.0f}",
            "s": f"{row['s']:g}",
            "r": f"{row['r']:g}",
            "amplitude": f"{row['amplitude']:g}",
            "L2, predicted": f"{row['l2_predicted']:.3f}",
            "L2": off(row["l2_slope"], row["l2_predicted"]),
            "KL, predicted": f"{2 * row['l2_predicted']:.3f}",
            "KL": off(row["kl_slope"], 2 * row["l2_predicted"]),
            "largest dKL/dt / I + 1": f"{row['identity']:.0e}",
            "window": f"{row['from']:g} to {row['to']:g} of {row['points'] / 3:.0f}",
            "steps": f"{row['steps']:.0f}",
        }
        for _, row in rows.iterrows()
    ]
    return markdown(pd.DataFrame(cells))


def exponential_table(rows: pd.DataFrame) -> str:
    """Return the rates of the Coulomb flow as Markdown."""
    cells = [
        {
            "target": row["target"],
            "least density of the target": f"{row['least_density']:.4f}",
            "rate of L2": f"{-row['l2_slope']:.4f}",
            "rate of KL": f"{-row['kl_slope']:.4f}",
            "times": f"{row['from']:g} to {row['to']:g}",
        }
        for _, row in rows.iterrows()
    ]
    return markdown(pd.DataFrame(cells))


def speed_table(rows: pd.DataFrame) -> str:
    """Return times and ratios as Markdown."""
    cells = [
        {
            "precision": row["dtype"],
            f"1-D exact, N = {N_LINE}": f"{row['exact']:.1f}",
            "over torch.sort of as many": f"{row['exact'] / row['sort']:.2f}x",
            f"1-D exact, N = {N_DENSE}": f"{row['exact, few']:.2f}",
            "all pairs over it": f"{row['dense, few'] / row['exact, few']:.0f}x",
            f"2-D, N = {N_PLANE}, {2 * MODES + 1}^2 modes": f"{row['plane']:.1f}",
            "over its matrix products": f"{row['plane'] / row['products']:.2f}x",
        }
        for _, row in rows.iterrows()
    ]
    return markdown(pd.DataFrame(cells))


def report(raw: pd.DataFrame, seed: int) -> str:
    """Return the page of results."""
    parts = dict(tuple(raw.groupby("part")))
    rates = parts["algebraic"]
    small = rates["amplitude"] == AMPLITUDE
    return f"""# Stein variational gradient descent on the torus

Seed {seed}. {machine()}

## Algebraic rates of the mean-field equation

Riesz kernel of order s > 1, no zero mode; starts of Sobolev regularity r (coefficients of size
|xi|^(-r - d/2)) with a largest relative deviation of {AMPLITUDE:g} from the target.
Slopes of log L2 and log KL against log t, in brackets their deviation from -r / (2 (s - 1)) and
-r / (s - 1). The window is given by the frequency xi of the front of decay, t = |2 pi xi|^(2 s - 2)
/ (2 min pi), beside the highest resolved one.

{rate_table(rates[small])}

The prediction is for small deviations. From larger starts the powers show later:

{rate_table(rates[~small])}

## Exponential rates for s = 1

The rate of the uniform target is one. For the other target the rates of waves fill the range of its
density, and the linearised equation has two eigenvalues below, .2768 and .2827.

{exponential_table(parts["exponential"])}

## Speed of the velocity of particles

Least of {REPEATS} processor times, in milliseconds, the contenders in turns: others share the
caches. s = 2 in one dimension, unsorted particles; scores not included. "All pairs" is the same sum
over the tiles of a dense matrix, "matrix products" are the two that the Fourier method needs, and
nothing else.

{speed_table(parts["speed"])}
"""


def main() -> None:
    """Run the comparison."""
    options = parse_options(__doc__, seeds=(0,))
    seed = options.seeds[0]
    cases = CASES[:1] if options.quick else CASES
    rows = [speed(dtype, seed, REPEATS) for dtype in (torch.float32, torch.float64)]
    for case in cases:
        for r in REGULARITIES:
            rows.append(algebraic(case, r))
            print({key: rows[-1][key] for key in ("s", "r", "l2_slope", "kl_slope", "seconds")})
    rows += [algebraic(CASES[0], r, amplitude=0.5) for r in REGULARITIES]
    rows += [exponential(target) for target in (UNIFORM, COSINE)]
    raw = pd.DataFrame(rows)
    write_results(options.out, "torus", raw, report(raw, seed))


if __name__ == "__main__":
    main()
