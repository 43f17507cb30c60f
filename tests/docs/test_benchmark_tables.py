"""The tables of the benchmark pages: means that are exact, and no file that is forgotten."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
try:
    import benchmark_tables as tables
    from benchmark_list import BENCHMARKS
finally:
    sys.path.remove(str(ROOT / "docs" / "_ext"))

CSV = """\
method,law,seed,size,w1,reached,seconds
ours,ring,0,64,0.5,True,1
ours,ring,1,64,0.25,False,3
ours,moons,0,64,8,True,100
theirs,ring,0,128,2,True,
theirs,ring,1,128,3,True,
theirs,ring,0,64.0,0.0001,False,2000
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "made_up.csv").write_text(CSV, encoding="utf-8")
    return tmp_path


def test_means_are_exact(folder):
    # Would catch an average over methods, a row of another law, an empty cell that counts as zero,
    # and a share of successes that is not one.
    table = tables.Table(
        "made_up",
        {"method": "method", "size": "rows"},
        {"w1": "W1", "reached": "reached", "seconds": "s"},
        {"law": "ring"},
    )
    means = tables.aggregate(table, folder)
    assert means.head == ["method", "rows", "W1", "reached", "s"]
    assert means.body == [
        ["ours", "64", "0.375", "0.500", "2.00"],
        ["theirs", "128", "2.50", "1.00", tables.MISSING],
        ["theirs", "64", "1.0e-04", "0", "2000"],
    ]
    assert means.counts == (1, 2)


def test_values_of_a_column_become_columns(folder):
    table = tables.Table("made_up", {"method": "method"}, {"w1": "W1"}, across="law")
    means = tables.aggregate(table, folder)
    assert means.head == ["method", "ring", "moons"]
    assert means.body == [["ours", "0.375", "8.00"], ["theirs", "1.67", tables.MISSING]]


def test_numbers_are_in_order(folder):
    table = tables.Table(
        "made_up", {"size": "rows"}, {"seconds": "s"}, {"law": "ring"}, across="seed"
    )
    means = tables.aggregate(table, folder)
    assert means.head == ["rows", "0", "1"]
    # "64" and "64.0" are the same number: pandas writes the second where a cell is empty.
    assert means.body == [["64", "1000", "3.00"], ["128", tables.MISSING, tables.MISSING]]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (0.99961, "1.00"),
        (12.345, "12.3"),
        (999.6, "1000"),
        (123456.0, "123456"),
        (-0.5, "-0.500"),
        (0.00123, "0.00123"),
        (0.000999, "1.0e-03"),
        (2.5e7, "2.5e+07"),
        (float("inf"), "inf"),
    ],
)
def test_three_digits(value, shown):
    assert tables.three_digits(value) == shown


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (tables.Table("made_up", {"method": "m"}, {"w2": "W2"}), "no column 'w2'"),
        (tables.Table("made_up", {"methods": "m"}, {"w1": "W1"}), "no column 'methods'"),
        (tables.Table("made_up", {"method": "m"}, {"w1": "W1"}, {"part": "x"}), "no column 'part'"),
        (tables.Table("made_up", {"method": "m"}, {"w1": "W1"}, across="of"), "no column 'of'"),
        (tables.Table("made_up", {"method": "m"}, {"w1": "W1"}, {"law": "oval"}), "no row where"),
        (tables.Table("made_up", {"method": "m"}, {"law": "law"}), "is no number"),
    ],
)
def test_a_declaration_that_does_not_fit_is_an_error(folder, table, message):
    # Would catch a page that leaves out, in silence, what a script writes under another name.
    with pytest.raises(ValueError, match=message):
        tables.aggregate(table, folder)


def test_the_machine_has_to_be_named(tmp_path):
    (tmp_path / "x.md").write_text("# Figures\n\n| a |\n| --- |\n| 1 |\n", encoding="utf-8")
    with pytest.raises(ValueError, match="on what machine"):
        tables.machine(tmp_path / "x.md")


def test_markup_in_a_cell_is_text(folder):
    table = tables.Table("made_up", {"method": "method"}, {"w1": "W1 * `x`"}, {"law": "ring"})
    text = tables.rst(table, tables.aggregate(table, folder))
    assert r"W1 \* \`x\`" in text


def test_every_file_of_results_is_on_a_page():
    # A benchmark that is added without its declaration in docs/_ext/benchmark_list.py.
    csv = {table.csv for benchmark in BENCHMARKS.values() for table in benchmark.tables}
    assert csv == {path.stem for path in RESULTS.glob("*.csv")}
    pictures = {name for benchmark in BENCHMARKS.values() for name in benchmark.pictures}
    assert pictures == {path.name for path in RESULTS.glob("*.png")}
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")}
    scripts &= {path.stem for path in RESULTS.glob("*.md")}  # those that have been run
    assert set(BENCHMARKS) == scripts
    pages = (ROOT / "docs" / "benchmarks").glob("*.rst")
    shown = re.findall(r"^\.\. benchmark:: (\w+)$", "\n".join(p.read_text() for p in pages), re.M)
    assert sorted(shown) == sorted(scripts)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_its_section(name):
    text = tables.page(name, BENCHMARKS[name])
    assert text.count(".. list-table::") == len(BENCHMARKS[name].tables)
    assert "Written to" not in text
    assert "Python 3" in text  # the versions
