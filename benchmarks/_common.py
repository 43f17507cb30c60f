"""What the benchmark scripts share: their arguments, the clock, and tables in Markdown and CSV."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

NOT_INSTALLED = "not installed"


@dataclass(frozen=True)
class Options:
    """Arguments of a benchmark script."""

    data: Path | None
    out: Path
    seeds: tuple[int, ...]
    quick: bool
    tune: bool = False


def parse_options(
    description: str, *, tunes: bool = False, seeds: tuple[int, ...] = (0, 1, 2)
) -> Options:
    """Read the command line; `tunes` adds the flag --tune, `seeds` are the default ones."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="folder of data files, see benchmarks/README.md")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few steps of everything on the first seed: shows that the script runs, no more",
    )
    if tunes:
        parser.add_argument(
            "--tune", action="store_true", help="try learning rates instead of comparing"
        )
    arguments = vars(parser.parse_args())
    seeds = tuple(arguments.pop("seeds"))
    return Options(seeds=seeds[:1] if arguments["quick"] else seeds, **arguments)


def timed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, float, float]:
    """Return the result of a call, its wall-clock seconds and its processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    result = function(*args, **kwargs)
    return result, time.perf_counter() - wall, time.process_time() - processor


def mean_and_range(values: Iterable[float], digits: int) -> str:
    """Return "mean [least, greatest]"; a single value stands alone, NaN is a dash."""
    array = np.asarray(list(values), dtype=float)
    array = array[np.isfinite(array)]
    if len(array) == 0:
        return "-"
    if len(array) == 1:
        return f"{array[0]:.{digits}f}"
    return f"{array.mean():.{digits}f} [{array.min():.{digits}f}, {array.max():.{digits}f}]"


def markdown(frame: pd.DataFrame) -> str:
    """Return a frame of strings as a Markdown table, without its index."""
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


@dataclass(frozen=True)
class Column:
    """A figure in a table: heading, digits, and the perfect value (None: not a quality)."""

    heading: str
    digits: int
    perfect: float | None = None


def comparison(raw: pd.DataFrame, columns: dict[str, Column], *, apart: tuple[str, ...]) -> str:
    """Return a table with a row a method as Markdown.

    The least mean distance to the perfect value is bold; distances are averaged, not values, since
    errors to both sides must not cancel. Methods `apart`, such as the data, do not take part.
    """
    groups = dict(list(raw.groupby("method", sort=False)))
    cells = pd.DataFrame({"method": list(groups)})
    for name, column in columns.items():
        texts = {m: mean_and_range(group[name], column.digits) for m, group in groups.items()}
        if column.perfect is not None:
            gaps = {m: (group[name] - column.perfect).abs().mean() for m, group in groups.items()}
            known = pd.Series(gaps).drop(list(apart), errors="ignore").dropna()
            for best in known[known == known.min()].index:
                texts[best] = f"**{texts[best]}**"
        cells[column.heading] = list(texts.values())
    return markdown(cells)


def conditions(options: Options) -> str:
    """Return the sentences that say how often each fit was made, and on what."""
    kind = "**A run with --quick: it shows that the script runs; its figures mean nothing.** "
    return (
        f"{kind if options.quick else ''}Seeds {', '.join(map(str, options.seeds))}; a cell is the "
        f"mean [least, greatest] over them. {machine()}"
    )


def machine() -> str:
    """Return what the figures were taken on and with."""
    packages = ("numpy", "scikit-learn", "torch", "pot", "torchcfm")
    return (
        f"Times: {torch.get_num_threads()} thread(s) of a {os.cpu_count()}-core "
        f"{platform.machine()} CPU that other processes may have shared: compare within this run "
        "and read ratios, not seconds. Processor seconds are less disturbed than wall-clock. "
        f"Python {platform.python_version()}, "
        f"{', '.join(f'{name} {installed(name)}' for name in packages)}."
    )


def installed(package: str) -> str:
    """Return the version of a package, or that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return f"({NOT_INSTALLED})"


def write_results(out: Path, name: str, raw: pd.DataFrame, text: str) -> None:
    """Write the raw figures to NAME.csv and the tables to NAME.md."""
    out.mkdir(parents=True, exist_ok=True)
    raw.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    (out / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {name}.md and {name}.csv")


def save_picture(figure: Any, path: Path) -> None:
    """Write a matplotlib figure beside the tables, and forget it."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"wrote {path.name}")
