"""The code on the pages of the documentation runs, page by page, from top to bottom."""

from __future__ import annotations

import doctest
import re
import warnings
from pathlib import Path

import matplotlib
import pytest
import sklearn

DOCS = Path(__file__).parents[2] / "docs"
BUILT = {"auto_examples", "generated", "_build"}
# Pages that fit generators at length.
SLOW = {
    "index.rst",
    "user_guide/sinkhorn_flow.rst",
}
NOT_RUN = re.compile(r"\.\. not run: \S.*\n(?:   .*\n)*\n\Z")
# Blocks after "::" that are shown and not run, and where what they say is tested.
LITERAL = {"user_guide/search.rst": 2}  # starts workers and a cluster: tests/test_search.py
# Its blocks make one module: test_developer_page.py runs it.
ASSEMBLED = "developer/add_a_flow.rst"
BLOCK = re.compile(r"^\.\. code-block:: python$", re.MULTILINE)


def pages():
    """Return the pages that are written by hand."""
    found = [path.relative_to(DOCS) for path in DOCS.rglob("*.rst")]
    return sorted(str(path) for path in found if not BUILT & set(path.parts))


def with_code():
    """Return the pages that have doctests, the long ones marked."""
    return [
        pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page
        for page in pages()
        if ">>> " in (DOCS / page).read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("page", with_code())
def test_page_runs(page, monkeypatch, tmp_path):
    # Would catch a page that shows a name, a default or a result that is no more.
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    # A page may switch metadata routing on for its reader; the context puts the settings back.
    with sklearn.config_context(), warnings.catch_warnings():
        # Pages show fits that end with a warning, and say so.
        warnings.simplefilter("ignore")
        result = doctest.testfile(
            str(DOCS / page),
            module_relative=False,
            optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
        )
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("page", [page for page in pages() if page != ASSEMBLED])
def test_blocks_that_do_not_run_say_why(page):
    # A block of Python that is no doctest is run by nobody.
    text = (DOCS / page).read_text(encoding="utf-8")
    for block in BLOCK.finditer(text):
        assert NOT_RUN.search(text[: block.start()]), (
            f"{page}: write the block at line {text[: block.start()].count(chr(10)) + 1} as a "
            "doctest, or put a comment '.. not run: why' above it."
        )


def test_other_blocks_are_known():
    # "text::" and an indented block look like code that runs, and are code that nobody runs.
    found = {}
    for page in pages():
        text = (DOCS / page).read_text(encoding="utf-8")
        if blocks := re.findall(r"^(?!\s*\.\. ).*\S::$", text, re.MULTILINE):
            found[page] = len(blocks)
    assert found == LITERAL
