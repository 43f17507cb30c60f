"""Tables of the benchmark pages: means of the raw figures, written as reStructuredText.

Nothing here needs sphinx: `benchmark_list` declares what is shown, `benchmark_directive` puts it on
a page.
"""

from __future__ import annotations

import ast
import csv
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2] / "benchmarks"
MISSING = "–"
FOLDED = 36  # tables of more lines are folded

# What `benchmarks/_common.py` writes about the machine, and the versions of peers that may follow.
_VERSION = r"[\w-]+ (?:\(not installed\)|\d[\w.+]*\w)"
_MACHINE = re.compile(
    rf"Times: .*?Python [\d.]+(?:, {_VERSION})+\.(?: {_VERSION}(?:, {_VERSION})*\.)?"
)


@dataclass(frozen=True)
class Table:
    """A table of means.

    Parameters
    ----------
    csv : str
        Name of the file in `benchmarks/results`, without its ending.

    rows : dict of str to str
        Columns of the file whose values make the rows of the table, and their headings. What
        differs in other columns, such as the seed, is averaged over.

    figures : dict of str to str
        Columns that are averaged, and their headings.

    where : dict of str to str or tuple of str, default={}
        Values that a column has to have for a row of the file to count.

    across : str, default=""
        A column whose values become the columns of the table; takes one figure.

    title : str, default=""
        Sentence above the table.
    """

    csv: str
    rows: dict[str, str]
    figures: dict[str, str]
    where: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    across: str = ""
    title: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A script, its tables and its pictures."""

    title: str
    tables: tuple[Table, ...]
    pictures: dict[str, str] = field(default_factory=dict)  # name of the file, what it shows


class Means(NamedTuple):
    """Headings and cells of a table, and the least and the greatest number of values in a cell."""

    head: list[str]
    body: list[list[str]]
    counts: tuple[int, int]


def read_rows(table: Table, folder: Path) -> list[dict[str, str]]:
    """Return the rows of the file that count; a column that is not there is an error."""
    path = folder / f"{table.csv}.csv"
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        declared = {*table.rows, *table.figures, *table.where, table.across} - {""}
        if lacking := sorted(declared - set(reader.fieldnames or ())):
            raise ValueError(
                f"{path.name} has no column {', '.join(map(repr, lacking))}, which a table in "
                "docs/_ext/benchmark_list.py asks for; it has "
                f"{', '.join(reader.fieldnames or ())}."
            )
        kept = [
            row
            for row in reader
            if all(row[name] in _several(v) for name, v in table.where.items())
        ]
    if not kept:
        raise ValueError(f"{path.name} has no row where {table.where}.")
    return kept


def aggregate(table: Table, folder: Path = ROOT / "results") -> Means:
    """Return the means of the figures over the rows that agree in `rows` (and `across`)."""
    if table.across and len(table.figures) != 1:
        raise ValueError(f"A table of {table.csv}.csv with `across` takes one figure.")
    cells: dict[tuple[str, ...], dict[str, list[float]]] = {}
    columns = {} if table.across else dict.fromkeys(table.figures)
    for row in read_rows(table, folder):
        line = cells.setdefault(tuple(plain(row[name]) for name in table.rows), {})
        for name in table.figures:
            column = plain(row[table.across]) if table.across else name
            columns.setdefault(column)
            line.setdefault(column, []).extend(_number(row[name], name, table.csv))
    ordered = _in_order([(name,) for name in columns]) if table.across else [(n,) for n in columns]
    head = [table.figures.get(name, name) for (name,) in ordered]
    body = [
        [*key, *(_mean(cells[key].get(name, [])) for (name,) in ordered)]
        for key in _in_order(list(cells))
    ]
    counts = [len(values) for line in cells.values() for values in line.values() if values]
    if not counts:
        raise ValueError(f"{table.csv}.csv has no value of {', '.join(table.figures)}.")
    return Means([*table.rows.values(), *head], body, (min(counts), max(counts)))


def plain(text: str) -> str:
    """Return a value of the file as it is shown: numbers without needless zeros."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return text or MISSING


def three_digits(value: float) -> str:
    """Return a number with three significant digits."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    # The rounded number decides where the digits are: .9996 is 1.00.
    exponent = math.floor(math.log10(abs(float(f"{value:.2e}"))))
    return f"{value:.{max(2 - exponent, 0)}f}"


def _several(values: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return one value or several as a tuple."""
    return (values,) if isinstance(values, str) else values


def _number(text: str, name: str, file: str) -> list[float]:
    """Return the number in a cell, none if it is empty; True is 1, so that means are shares."""
    if text in {"", "True", "False"}:
        return [] if text == "" else [float(text == "True")]
    try:
        return [float(text)]
    except ValueError:
        raise ValueError(f"{text!r} in the column {name!r} of {file}.csv is no number.") from None


def _in_order(keys: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return keys of numbers in increasing order, others as they came."""
    try:
        return sorted(keys, key=lambda key: tuple(map(float, key)))
    except ValueError:
        return keys


def _mean(values: list[float]) -> str:
    """Return the mean of some numbers as it is shown."""
    return three_digits(math.fsum(values) / len(values)) if values else MISSING


def page(name: str, benchmark: Benchmark, root: Path = ROOT) -> str:
    """Return what the pages show of a benchmark as reStructuredText; `/` is the docs folder."""
    parts = [
        docstring(root / f"{name}.py"),
        "Files: "
        + ", ".join(
            f":download:`{label} </../benchmarks/{path}>`"
            for label, path in (
                (f"{name}.py", f"{name}.py"),
                ("tables with ranges", f"results/{name}.md"),
                *((f"{c}.csv", f"results/{c}.csv") for c in _files(benchmark)),
            )
        )
        + ".",
    ]
    for table in benchmark.tables:
        parts += [rst(table, aggregate(table, root / "results"))]
    for picture, text in benchmark.pictures.items():
        parts.append(f".. figure:: /../benchmarks/results/{picture}\n   :alt: {text}\n\n   {text}")
    parts.append(f".. container:: machine\n\n   {machine(root / 'results' / f'{name}.md')}")
    return "\n\n".join(parts) + "\n"


def rst(table: Table, means: Means) -> str:
    """Return a table as reStructuredText, with a line that says what was averaged."""
    lines = [".. list-table::", "   :header-rows: 1", "   :class: benchmark", ""]
    for cells in (means.head, *means.body):
        for i, cell in enumerate(cells):
            lines.append(f"   {'*' if i == 0 else ' '} - {_escaped(cell)}")
    least, most = means.counts
    if most == 1:
        averaged = f"Each line is one of {table.csv}.csv."
    else:
        number = most if least == most else f"{least} to {most}"
        averaged = f"Each figure is the mean of {number} lines of {table.csv}.csv."
    text = "\n".join(lines)
    if len(means.body) > FOLDED:
        fold = f"<details><summary>{len(means.body)} lines</summary>"
        text = f".. raw:: html\n\n   {fold}\n\n{text}\n\n.. raw:: html\n\n   </details>"
    title = f"{table.title} " if table.title else ""
    return f"{title}{averaged}\n\n{text}"


def docstring(path: Path) -> str:
    """Return the docstring of a script, without the sentences on the files that it writes."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{path.name} has no docstring.")
    text = re.sub(r"(?:Written\s+to|Writes)\s.*?\.(?:\s+|$)", "", text, flags=re.S).strip()
    return re.sub(r"(?<!`)--\w+", r"``\g<0>``", text)


def machine(path: Path) -> str:
    """Return the sentences on the machine and the versions of a page of results."""
    text = " ".join(path.read_text(encoding="utf-8").split())
    found = _MACHINE.search(text)
    if found is None:
        raise ValueError(f"{path.name} does not say on what machine its times were taken.")
    return found.group()


def _files(benchmark: Benchmark) -> list[str]:
    """Return the names of the files of figures, each once."""
    return list(dict.fromkeys(table.csv for table in benchmark.tables))


def _escaped(text: str) -> str:
    """Return a cell in which nothing is markup."""
    return re.sub(r"([*`|_\\])", r"\\\1", text)
