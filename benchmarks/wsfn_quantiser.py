"""Fifty points that stand for thousands: the quantiser against k-means, herding, thinning, chance.

Written to wsfn_quantiser.md, wsfn_quantiser.csv and wsfn_quantiser.png.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from _common import (
    Column,
    Options,
    comparison,
    conditions,
    parse_options,
    save_picture,
    timed,
    write_results,
)
from _wsfn_coresets import DATA, METHODS, Points, default_kernel, figures

N, M = 50, 5000
COLUMNS = {
    "w2": Column("W2 to the rows", 4, 0.0),
    "mmd": Column("MMD x 1000", 2, 0.0),
    "energy": Column("energy distance x 1000", 2, 0.0),
    "seconds": Column("processor s", 2),
    "steps": Column("steps", 0),
}
DRAWN = ("WSFNOptimizer()", "k-means, equal weights", "kernel thinning", "rows at random")


def measure(options: Options) -> tuple[list[dict], dict[tuple[str, str], Points]]:
    """Return a row for each data set, seed and method, and the points of the first seed."""
    n, m = (5, 200) if options.quick else (N, M)
    rows, kept = [], {}
    for data, draw in DATA.items():
        for seed in options.seeds:
            X = draw(seed, m)
            kernel = default_kernel(X)
            for method, choose in METHODS.items():
                points, wall, processor = timed(choose, X, n, seed, kernel)
                found = figures(X, points, kernel)
                rows.append(
                    {
                        "data": data,
                        "rows": len(X),
                        "seed": seed,
                        "method": method,
                        "w2": found["w2"],
                        "mmd": 1e3 * found["mmd"],
                        "energy": 1e3 * found["energy"],
                        "seconds": processor,
                        "wall": wall,
                        "steps": points.steps,
                    }
                )
                kept.setdefault((data, method), points)
                kept.setdefault((data, "rows"), Points(X))
    return rows, kept


def draw(points: dict[tuple[str, str], Points], path: Path) -> None:
    """Draw the points of the first seed on the planar data."""
    import matplotlib.pyplot as plt

    planar = [data for data in DATA if points[data, "rows"].rows.shape[1] == 2]
    figure, panels = plt.subplots(
        len(planar), len(DRAWN), figsize=(3.6 * len(DRAWN), 3.4 * len(planar)), layout="constrained"
    )
    for line, data in zip(panels, planar, strict=True):
        X = points[data, "rows"].rows
        for axes, method in zip(line, DRAWN, strict=True):
            axes.plot(*X.T, ".", ms=1, color="0.8", zorder=1)
            axes.scatter(*points[data, method].rows.T, s=14, color="C3", zorder=2)
            axes.set(title=f"{method}\n{data}", xticks=[], yticks=[], aspect="equal")
    save_picture(figure, path)


def report(raw: pd.DataFrame, options: Options) -> str:
    """Return the page of results."""
    text = f"""# Few points for many rows

{N} points for {M} rows (digits: all 1797). {conditions(options)}

W2 is exact, with the weights of the points. MMD is that of the default kernel of the functional
`MMD`, which the first row minimises; the energy distance (not smoothed, its root) is nearly what
the second row minimises. All points have equal weights but in the row that says otherwise: k-means
minimises W2 over points and weights, and with equal weights its centres do not have the density of
the rows. Herding takes the row that reduces the MMD most, one after the other. Kernel thinning is a
simple version written for this comparison: rows are halved by a self-balancing walk over pairs,
down a tree, the part with the least MMD is kept and each of its rows exchanged once for the best of
all. Herding and thinning are given the kernel, the quantiser finds its bandwidths. Bold: the least
mean.
"""
    for data, group in raw.groupby("data", sort=False):
        text += f"\n## {data[0].upper()}{data[1:]}, {group['rows'].iloc[0]} rows\n\n"
        text += comparison(group, COLUMNS, apart=()) + "\n"
    return text + "\n![points of the first seed](wsfn_quantiser.png)\n"


def main() -> None:
    """Run everything and write the results."""
    options = parse_options(__doc__)
    rows, points = measure(options)
    raw = pd.DataFrame(rows).replace({None: np.nan})
    write_results(options.out, "wsfn_quantiser", raw, report(raw, options))
    draw(points, options.out / "wsfn_quantiser.png")


if __name__ == "__main__":
    main()
