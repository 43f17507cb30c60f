"""Rows of two domains for the scorers of adaptation, and an estimator told which is whose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import is_regressor
from sklearn.metrics import r2_score
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import _num_samples

from skwgf._domains import both_domains
from skwgf._tensor import tensor_to_array

ScoreFunction = Callable[..., float]


class Rows:
    """Rows of both domains, with the labels of the source."""

    def __init__(self, X: Any, y: Any, sample_domain: Any, name: str) -> None:
        if sample_domain is None:
            raise ValueError(
                f"{name} needs sample_domain. In a search switch metadata routing on, "
                "sklearn.set_config(enable_metadata_routing=True), and pass sample_domain to fit, "
                "and to score. For another score of the best pipeline call best_estimator_.score."
            )
        self.X, self._y = tensor_to_array(X), tensor_to_array(y)
        self.domain = np.asarray(tensor_to_array(sample_domain))
        self.source = both_domains(self.domain, _num_samples(self.X))

    def labels(self) -> NDArray[Any]:
        """Return the labels of the source rows; the others are not touched."""
        n = len(self.source)
        if self._y is None or _num_samples(self._y) != n:
            found = "none" if self._y is None else str(_num_samples(self._y))
            raise ValueError(
                f"y must hold a label for each of the {n} rows of X, and anything for those of the "
                f"target, got {found}."
            )
        return np.asarray(_safe_indexing(self._y, np.flatnonzero(self.source)))

    def taken(self, estimator: Any, method: str) -> dict[str, Any]:
        """Return which of `sample_domain` and skada's `allow_source` a method reads."""
        offered = {"sample_domain": self.domain, "allow_source": True}
        read = get_routing_for_object(estimator).consumes(method=method, params=offered)
        routing = get_config()["enable_metadata_routing"]
        if read and isinstance(estimator, Pipeline) and not routing:
            raise ValueError(
                f"The {method} of the pipeline reads {', '.join(sorted(read))}, which only "
                "metadata routing hands on. Switch it on: "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
        return {name: offered[name] for name in read}


def ask(
    estimator: Any, method: str, rows: Rows, chosen: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Return what a method answers for the `chosen` rows, all by default, told their domain."""
    X, more = rows.X, rows.taken(estimator, method)
    if chosen is not None:
        index = np.flatnonzero(chosen)
        X = _safe_indexing(X, index)
        if "sample_domain" in more:
            more["sample_domain"] = rows.domain[index]
    answer: NDArray[Any] = getattr(estimator, method)(X, **more)
    return answer


def seen(estimator: Any, rows: Rows) -> NDArray[Any]:
    """Return the rows where the predictor sees them, which is the last step of a pipeline."""
    if isinstance(estimator, Pipeline) and len(estimator) > 1:
        return np.asarray(ask(estimator[:-1], "transform", rows))
    return np.asarray(rows.X)


def default_score(estimator: Any, of_classes: ScoreFunction) -> ScoreFunction:
    """Return how to score without `score_func`."""
    return r2_score if is_regressor(estimator) else of_classes
