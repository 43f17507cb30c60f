"""The three uses of the README, run as they stand there, with the figures it prints beside them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
USES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def run(code):
    """Return what a script prints, in a process of its own; a warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_there_are_three_short_ones():
    assert len(USES) == 3
    assert all(len(code.splitlines()) <= 20 for code in USES)


@pytest.mark.slow
def test_a_posterior_in_a_pipeline():
    lines = run(USES[0])
    assert float(lines[0]) == pytest.approx(0.975, abs=0.003)
    assert lines[-1] == "(200, 31)"


@pytest.mark.slow
def test_new_rows():
    assert float(run(USES[1])[0]) == pytest.approx(0.935, abs=0.012)


@pytest.mark.slow
def test_a_classifier_for_data_without_labels():
    assert float(run(USES[2])[0]) == pytest.approx(0.96, abs=0.012)
