"""Which rows are of the source domain and which of the target."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skwgf._tensor import tensor_to_array


def source_rows(sample_domain: Any, n: int) -> NDArray[np.bool_]:
    """Return which of `n` rows are of the source: those with a domain that is not negative."""
    domain: NDArray[Any] = np.asarray(tensor_to_array(sample_domain))
    if domain.shape != (n,):
        raise ValueError(
            f"sample_domain must hold one number for each of the {n} rows of X, got the shape "
            f"{domain.shape}."
        )
    if domain.dtype == object:
        domain = np.asarray(domain.tolist())
    if domain.dtype.kind not in "iuf" or (domain.dtype.kind == "f" and np.isnan(domain).any()):
        raise ValueError(
            "sample_domain must hold numbers, those of source rows >= 0 (such as 1) and those of "
            f"target rows < 0 (such as -1), got {domain[:5].tolist()} ... Of a mask of the source "
            "pass np.where(mask, 1, -1)."
        )
    source: NDArray[np.bool_] = domain >= 0
    return source


def both_domains(sample_domain: Any, n: int) -> NDArray[np.bool_]:
    """Return which rows are of the source, or raise when a domain has fewer than two rows."""
    source = source_rows(sample_domain, n)
    n_source = int(source.sum())
    if min(n_source, n - n_source) < 2:
        raise ValueError(
            f"sample_domain marks {n_source} source row(s), with a number >= 0, and "
            f"{n - n_source} target row(s), with a number < 0 such as -1, while two of each are "
            "required. In a search, split the rows so that every part has both: "
            "cv=list(StratifiedKFold().split(X, sample_domain))."
        )
    return source
