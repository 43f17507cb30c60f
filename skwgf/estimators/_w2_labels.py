"""What is seen without target labels: whether a map by source labels does more harm than good."""

from __future__ import annotations

import warnings

from torch import Tensor

from skwgf._warnings import caller_level
from skwgf.estimators._w2_problem import Problem
from skwgf.transport import ClassSides
from skwgf.transport.label_graph import nearest_labels

# Disagreement of neighbours that is no noise: beyond it labels are said to fit less well.
_NOTABLE = 0.02
# Target rows that are read to see what a map is good for, and share of them beyond which it is no
# noise that it has others read less well.
_READ_ROWS, _HARM = 1500, 0.005


def warn_of_no_gain(sides: ClassSides) -> None:
    """Warn where the labels of the plan fit the target less well than those of nearest rows."""
    if sides.disagreement <= sides.disagreement_source + _NOTABLE:
        return
    warnings.warn(
        "A map by y_source may do more harm than good here: of neighbouring rows of X "
        f"{sides.disagreement:.2f} times as many as by chance are of different classes by the "
        f"labels that were carried over, and {sides.disagreement_source:.2f} times by those of the "
        "nearest source rows. Compare with a classifier trained on the source rows as they are, or "
        "leave y_source out.",
        UserWarning,
        stacklevel=caller_level(),
    )


def warn_of_harm(problem: Problem, images: Tensor) -> None:
    """Warn where moved rows have the labels of their neighbours in X less often than before."""
    as_they_are, moved = reading(problem, images)
    if moved >= as_they_are - _HARM:
        return
    warnings.warn(
        f"A map by y_source may do more harm than good here: the labels that were carried to X are "
        f"those of the nearest source row for {as_they_are:.1%} of the rows, and of the nearest "
        f"moved row for {moved:.1%}. Compare with a classifier trained on the source rows as they "
        "are, or leave y_source out.",
        UserWarning,
        stacklevel=caller_level(),
    )


def reading(problem: Problem, images: Tensor) -> tuple[float, float]:
    """Return how often nearest source rows, as they are and moved, have the labels carried over.

    The labels are those of both sides of the class term; evenly chosen target rows are read, by
    their features if there are any.
    """
    source, side, side_y = problem.source, problem.side_source, problem.side_target
    assert source is not None
    assert side is not None
    assert side_y is not None
    y = problem.y
    if problem.features is not None:
        assert problem.features_source is not None
        assert problem.features_target is not None
        source, y = problem.features_source, problem.features_target
        images = problem.features(images)
    every = -(-len(y) // _READ_ROWS)
    known, found = side.argmax(1), side_y[::every].argmax(1)
    own, moved = (
        float((nearest_labels(rows, known, y[::every]) == found).double().mean())
        for rows in (source, images)
    )
    return own, moved
