"""Where a warning points."""

from __future__ import annotations

import sys

# Warnings name the line that called into these packages.
_INSIDE = ("skwgf", "sklearn", "joblib")


def caller_level() -> int:
    """Return the `stacklevel` at which a warning of the calling function names the user's line."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].split(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    return level
