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


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.filterwarnings("ignore:W2FlowGenerator did not:sklearn.exceptions.ConvergenceWarning")
def test_pixels_and_counts_keep_one_scale(counts):
    # The default is False for the one and True for the other; catches a rule that is not asked.
    rows = np.random.default_rng(0).poisson(0.5, (60, 2)) * [1.0, 3.0] if counts else X * [1.0, 3.0]
    same, other = (
        W2FlowGenerator(standardize=choice, max_iter=2, random_state=0).fit(rows).transform(X)
        for choice in (not counts, counts)
    )
    found = W2FlowGenerator(max_iter=2, random_state=0).fit(rows).transform(X)
    assert np.array_equal(found, same)
    assert not np.allclose(found, other)
