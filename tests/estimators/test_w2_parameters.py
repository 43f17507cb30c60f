"""Parameters of W2FlowGenerator that do not fit together."""

from __future__ import annotations

import numpy as np
import pytest

from skwgf import W2FlowGenerator

X = np.random.default_rng(0).normal(size=(60, 2))
LABELS = np.arange(60) % 2


@pytest.mark.parametrize("potential", ["minibatch", "network"])
def test_full_persistence_needs_the_semidiscrete_potential(potential):
    generator = W2FlowGenerator(potential, persistence="full")
    message = r"persistence='full' .* Use potential='semidiscrete', or an integer or 'auto'"
    with pytest.raises(ValueError, match=message):
        generator.fit(X)


def test_network_potential_has_no_class_term():
    message = r"potential='network' .* Use potential='semidiscrete'"
    with pytest.raises(ValueError, match=message):
        W2FlowGenerator("network").fit(X, X_source=X + 1, y_source=LABELS)


@pytest.mark.parametrize("potential", ["exact", "Semidiscrete", None, 3])
def test_unknown_potential_names_the_choices(potential):
    with pytest.raises(ValueError, match=r"'potential' parameter .* must be a str among"):
        W2FlowGenerator(potential).fit(X)
