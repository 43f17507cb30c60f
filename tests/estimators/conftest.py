"""Generators that many tests look at and none changes."""

from __future__ import annotations

import pytest
from generators import PLAIN, rows


@pytest.fixture(params=PLAIN)
def tiny(request):
    """Return what makes tiny generators: one of each, unless a test asks for others."""
    return request.param


@pytest.fixture(scope="module", params=PLAIN)
def fitted(request):
    """Return a fitted generator."""
    return request.param().fit(rows())


@pytest.fixture(scope="module", params=PLAIN)
def carried(request):
    """Return a generator with 60 source rows."""
    return request.param().fit(rows(), X_source=rows(60, seed=1))


@pytest.fixture(
    scope="module",
    params=[(kind.values[0], n) for n in (0, 60) for kind in PLAIN],
    ids=["w2", "sinkhorn", "w2 with a source", "sinkhorn with a source"],
)
def either(request):
    """Return a fitted generator, without or with source rows."""
    kind, n_source = request.param
    return kind().fit(rows(), X_source=rows(n_source, seed=1) if n_source else None)
