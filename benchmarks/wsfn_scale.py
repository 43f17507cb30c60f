"""Saddle-free Newton directions of many particles: time, error and memory.

Against a decomposition of the dense Hessian and against Hessian products by autograd, and what a
small beta costs. Written to wsfn_scale.md and wsfn_scale.csv.
"""

from __future__ import annotations

import pandas as pd
import torch
from _common import Options, machine, markdown, parse_options, write_results
from _wsfn_directions import (
    LATER,
    SPREADS,
    STARTS,
    against_autograd,
    against_dense,
    by_beta,
    large,
)

DENSE = ((200, 10), (1000, 2))
AUTOGRAD = ((2000, 10), (2000, 2))
LARGE = ((2500, 2), (5000, 2), (10_000, 2), (20_000, 2), (2500, 10), (5000, 10), (10_000, 10))
EXPONENTS = range(0, -9, -1)
REPEATS = 7


def measure(options: Options) -> list[dict]:
    """Return the rows of all parts."""
    seed, quick = options.seeds[0], options.quick
    repeats = 1 if quick else REPEATS
    rows = [
        against_dense(n, d, start, seed, repeats)
        for n, d in (((20, 10), (100, 2)) if quick else DENSE)
        for start in STARTS
    ]
    rows += by_beta(100 if quick else 1000, 2, seed, EXPONENTS)
    rows += [
        against_autograd(200 if quick else n, d, start, seed, threads, repeats)
        for threads in (1, 2)
        for n, d in AUTOGRAD
        for start in ("far", "rows")
    ]
    rows += [
        large(n // 10 if quick else n, d, "far", seed, autograd=n == 5000 and d == 2)
        for n, d in LARGE
    ]
    return rows


def dense_table(rows: pd.DataFrame) -> str:
    """Return directions beside the dense decomposition as Markdown."""
    cells = []
    for _, row in rows.iterrows():
        cell = {
            "N, d": f"{row['n']:.0f}, {row['d']:.0f}",
            "start": row["start"],
            "beta / Lambda^2": f"{row['beta'] / row['norm'] ** 2:.1e}",
            "dense, s": f"{row['dense_seconds']:.2f} ({row['eigh_seconds']:.2f})",
        }
        for tol in ("1e-06", "0.001"):
            ratio = row["dense_seconds"] / row[f"seconds_{tol}"]
            least = row["eigh_seconds"] / row[f"seconds_{tol}"]
            cell |= {
                f"tol {tol}: products": f"{row[f'products_{tol}']:.0f}",
                f"s, tol {tol}": f"{row[f'seconds_{tol}']:.4f}",
                f"dense over it, tol {tol}": f"{ratio:.0f}x ({least:.0f}x)",
                f"error, tol {tol}": f"{row[f'error_{tol}']:.0e}",
            }
        cells.append(cell)
    return markdown(pd.DataFrame(cells))


def beta_table(rows: pd.DataFrame) -> str:
    """Return products and errors against beta as Markdown."""
    cells = [
        {
            "beta": f"{row['name']} = {row['beta']:.1e}",
            "20 products: estimate": f"{row['estimate_20']:.0e}",
            "true error": f"{row['error_20']:.0e}",
            "default (at most 200): products": f"{row['products_200']:.0f}",
            "estimate": f"{row['estimate_200']:.0e}",
            "true error ": f"{row['error_200']:.0e}",
            "at most 600: products": f"{row['products_600']:.0f}",
            "estimate ": f"{row['estimate_600']:.0e}",
            "true error  ": f"{row['error_600']:.0e}",
        }
        for _, row in rows.iterrows()
    ]
    return markdown(pd.DataFrame(cells))


def autograd_table(rows: pd.DataFrame) -> str:
    """Return directions beside those by autograd as Markdown."""

    def ratio(row: pd.Series, rival: str) -> str:
        clock = "seconds" if row["threads"] == 1 else "wall"
        return f"{row[f'{rival}_{clock}'] / row[clock]:.1f}x"

    cells = [
        {
            "threads": f"{row['threads']:.0f}",
            "N, d": f"{row['n']:.0f}, {row['d']:.0f}",
            "start": row["start"],
            "products": f"{row['products']:.0f}",
            "estimated error": f"{row['estimate']:.0e}",
            "processor s": f"{row['seconds']:.3f}",
            "wall s": f"{row['wall']:.3f}",
            "autograd of `value`, over it": ratio(row, "autograd"),
            "autograd of the formula, over it": ratio(row, "textbook"),
            "difference": f"{row['autograd_difference']:.0e}, {row['textbook_difference']:.0e}",
        }
        for _, row in rows.iterrows()
    ]
    return markdown(pd.DataFrame(cells))


def memory_table(rows: pd.DataFrame) -> str:
    """Return the memory of a direction as Markdown."""
    cells = [
        {
            "N": f"{row['n']:.0f}",
            "d": f"{row['d']:.0f}",
            "products": f"{row['products']:.0f}",
            "s": f"{row['seconds']:.1f}",
            "peak, MiB": f"{row['peak_mib']:.0f}",
            "kB per N d": f"{1.024 * row['peak_mib'] * 1024 / (row['n'] * row['d']):.1f}",
            "by autograd, MiB": f"{row['autograd_mib']:.0f}" if row["autograd_mib"] > 0 else "-",
        }
        for _, row in rows.iterrows()
    ]
    return markdown(pd.DataFrame(cells))


def report(raw: pd.DataFrame, options: Options) -> str:
    """Return the page of results."""
    parts = dict(list(raw.groupby("part", sort=False)))
    quick = "**A run with --quick: its figures mean nothing.** " if options.quick else ""
    spreads = ", ".join(f"{sd} in {d} dimensions" for d, sd in SPREADS.items())
    return f"""# Saddle-free Newton directions of many particles

{quick}Seed {options.seeds[0]}. {machine()}

MMD with a Gaussian kernel of bandwidth 1 from N particles to N normal rows, of standard deviation
{spreads}. Starts: "far" (half as wide, two standard deviations off), "narrow" (half as wide,
around the middle), "rows" (other draws of the law of the rows), "later" ({LATER} steps from there,
near the optimum). Least processor seconds of up to {REPEATS} calls; a direction includes value,
gradient and the preparation of the products.

## Against the dense decomposition

N d = 2000, beta = "auto", Lambda the largest curvature. "Dense": the direction with
`solver="eigh"`; in brackets the decomposition of the ready matrix alone. Errors are relative to it.
1e-6 is the default of `wsfn_direction`, which stops at 200 products, 1e-3 that of `minimize`, whose
directions are cut at 100.

{dense_table(parts["dense"])}

## What a small beta costs

{parts["beta"]["n"].iloc[0]:.0f} particles in the plane, "far". With a fixed number of products the
error grows as beta falls; the estimate sees it and asks for more.

{beta_table(parts["beta"])}

## Against products by autograd

The same Lanczos iteration with as many products, by double backward of the value: `value` of the
functional, whose nodes are written for it, and the plain formula. Ratios of processor seconds, with
two threads of wall-clock seconds.

{autograd_table(parts["autograd"])}

## Memory

Peak of a fresh process over its size after the imports, for making the rows, `fit` and one
direction from "far".

{memory_table(parts["memory"])}
"""


def main() -> None:
    """Run everything and write the results."""
    options = parse_options(__doc__, seeds=(0,))
    torch.set_num_threads(1)
    raw = pd.DataFrame(measure(options))
    write_results(options.out, "wsfn_scale", raw, report(raw, options))


if __name__ == "__main__":
    main()
