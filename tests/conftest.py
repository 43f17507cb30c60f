"""Settings of the test run."""

from __future__ import annotations

import os

# Read by SciPy at its first import: with it scikit-learn skips none of its array API checks.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
