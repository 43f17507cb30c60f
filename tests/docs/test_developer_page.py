"""The page on adding a flow: its blocks, put together as a reader would, make an estimator."""

from __future__ import annotations

import importlib
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

PAGE = Path(__file__).parents[2] / "docs" / "developer" / "add_a_flow.rst"
BLOCK = re.compile(r"^\.\. code-block:: python\n\n((?:(?:   .*)?\n)+)", re.MULTILINE)


@pytest.fixture(scope="module")
def spring(tmp_path_factory):
    """Write the blocks to one module, in the order of the page, and import it."""
    blocks = [textwrap.dedent(block) for block in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]
    folder = tmp_path_factory.mktemp("flow")
    source = "\n\n".join(blocks)
    (folder / "spring_flow.py").write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("spring_flow")
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("spring_flow", None)


def test_loop_on_the_page_converges(spring):
    assert spring.result.status == "converged"
    # The step is .5 and the stiffness 1: the energy falls by a factor of 4.
    energy = np.asarray(spring.result.history["objective"])
    np.testing.assert_allclose(energy[1:10] / energy[:9], 0.25, rtol=1e-4)


@pytest.mark.parametrize(("stiffness", "step_size"), [(1.0, 0.5), (2.5, 0.1)])
def test_contraction_is_that_of_the_theorem(spring, stiffness, step_size):
    # Would catch a step of another sign or size, and a centre that moves with the particles.
    X = np.random.default_rng(0).normal(size=(40, 3)) * [1.0, 5.0, 0.1] + 2.0
    k = 12
    flow = spring.SpringFlow(stiffness, step_size=step_size, max_iter=k, tol=0.0)
    with pytest.warns(UserWarning, match="Increase max_iter"):
        flow.fit(X)
    assert flow.n_iter_ == k
    center = X.mean(0)
    exact = center + (1 - step_size * stiffness) ** k * (X - center)
    np.testing.assert_allclose(flow.particles_, exact, rtol=1e-12)  # k roundings
    # ... and the spread, of which the mean says nothing.
    ratio = flow.particles_.std(0) / X.std(0)
    np.testing.assert_allclose(ratio, (1 - step_size * stiffness) ** k, rtol=1e-10)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimator_on_the_page_passes_the_common_checks(spring):
    results = check_estimator(spring.SpringFlow(), on_skip=None)
    assert results
    assert {check["status"] for check in results} == {"passed"}  # none failed, none was skipped


def test_each_section_has_its_block():
    # The fixture joins blocks; a block that is not found would go untested.
    text = PAGE.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == text.count(".. code-block:: python") == 3
