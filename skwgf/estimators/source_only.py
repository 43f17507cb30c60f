"""The last step of an adapted pipeline: a predictor that is fitted on source rows alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Tags, _safe_indexing, get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples, check_is_fitted

from skwgf._domains import source_rows
from skwgf._tensor import tensor_to_array
from skwgf._warnings import caller_level

# What is handed to the predictor as it is.
_METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score")


def _has(method: str) -> Callable[[SourceOnly], bool]:
    """Return the check that the predictor has a method, which raises as its absence would."""

    def check(self: SourceOnly) -> bool:
        getattr(getattr(self, "estimator_", self.estimator), method)
        return True

    return check


class SourceOnly(MetaEstimatorMixin, CallbackSupportMixin, BaseEstimator):
    """Predictor that is fitted on the source rows of a table that holds both domains.

    The last step of a pipeline sees all rows, those of the target among them, whose labels are
    unknown or must not be used. This one hands only the source rows, and their labels, to
    `estimator`.

    Read more in the :ref:`User Guide <adaptation>`.

    Parameters
    ----------
    estimator : estimator object
        A classifier or regressor; it is cloned, and fitted on the source rows.

    Attributes
    ----------
    estimator_ : estimator object
        The fitted clone.

    classes_ : ndarray of shape (n_classes,)
        The labels of the source rows, of a classifier.

    n_features_in_ : int
        Number of columns that the fitted clone has seen.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, when X has string column names.

    See Also
    --------
    DomainAdapter : Carry the source rows to the target domain, the step before.

    Notes
    -----
    `sample_domain` is requested by default: with metadata routing switched on,
    ``pipeline.fit(X, y, sample_domain=...)`` is all it takes. Other metadata, such as
    `sample_weight`, go to `estimator` as it requests, cut to the source rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from skwgf import SourceOnly
    >>> X = np.array([[0.0], [1.0], [5.0]])
    >>> y = ["left", "right", "unknown"]
    >>> model = SourceOnly(KNeighborsClassifier(n_neighbors=1))
    >>> model.fit(X, y, sample_domain=[1, 1, -1]).predict([[5.0]])
    array(['right'], dtype='<U5')
    """

    __metadata_request__fit: ClassVar[dict[str, bool]] = {"sample_domain": True}

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    @with_callbacks
    def fit(self, X: Any, y: Any = None, *, sample_domain: Any = None, **params: Any) -> Self:
        """Fit the predictor on the source rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of both domains.

        y : array-like of shape (n_samples,), default=None
            Labels or values; those of target rows are never read.

        sample_domain : array-like of shape (n_samples,), default=None
            A number >= 0 for a source row, a number < 0 for a target row. None takes all rows as
            source, with a UserWarning.

        **params : dict
            Metadata for the predictor's `fit`; of what has an entry a row, those of the source.

        Returns
        -------
        self : SourceOnly

        Raises
        ------
        ValueError
            If no row is of the source, or `sample_domain` is not one number a row.
        """
        X, y = tensor_to_array(X), tensor_to_array(y)
        context = self._init_callback_context(max_subtasks=1)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", sample_domain=sample_domain, **params)
            params = routed.estimator.fit
        if sample_domain is None:
            warnings.warn(
                "SourceOnly was fitted without sample_domain: all rows count as source. Pass "
                "sample_domain (1 for source rows, -1 for target rows); in a pipeline with "
                "sklearn.set_config(enable_metadata_routing=True).",
                UserWarning,
                stacklevel=caller_level(),
            )
        else:
            n = _num_samples(X)
            rows = np.flatnonzero(source_rows(sample_domain, n))
            if len(rows) == 0:
                raise ValueError(
                    f"None of the {n} rows is of the source: sample_domain is negative everywhere."
                )
            X, y = _safe_indexing(X, rows), None if y is None else _of_rows(y, rows, n)
            params = {name: _of_rows(value, rows, n) for name, value in params.items()}
        self.estimator_ = clone(self.estimator)
        step = context.subcontext(task_name="estimator")
        with step.propagate_callback_context(self.estimator_):
            step.call_on_fit_task_begin(estimator=self, X=X, y=y)
            self.estimator_.fit(X, y, **params)
            step.call_on_fit_task_end(estimator=self, X=X, y=y)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    @available_if(_has("predict"))
    def predict(self, X: Any, **params: Any) -> NDArray[Any]:
        """Return the predictor's answer for rows of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of either domain, in the coordinates that it was fitted in.

        **params : dict
            Metadata for the predictor.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        answer: NDArray[Any] = self._ask("predict", X, **params)
        return answer

    @available_if(_has("predict_proba"))
    def predict_proba(self, X: Any, **params: Any) -> NDArray[Any]:
        """Return the predictor's class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As for `predict`.

        **params : dict
            Metadata for the predictor.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        answer: NDArray[Any] = self._ask("predict_proba", X, **params)
        return answer

    @available_if(_has("predict_log_proba"))
    def predict_log_proba(self, X: Any, **params: Any) -> NDArray[Any]:
        """Return the logarithms of the predictor's class probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As for `predict`.

        **params : dict
            Metadata for the predictor.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        answer: NDArray[Any] = self._ask("predict_log_proba", X, **params)
        return answer

    @available_if(_has("decision_function"))
    def decision_function(self, X: Any, **params: Any) -> NDArray[Any]:
        """Return the predictor's decision function.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As for `predict`.

        **params : dict
            Metadata for the predictor.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
        """
        answer: NDArray[Any] = self._ask("decision_function", X, **params)
        return answer

    @available_if(_has("score"))
    def score(self, X: Any, y: Any = None, **params: Any) -> float:
        """Return the predictor's score on the rows given, whatever their domain.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As for `predict`.

        y : array-like of shape (n_samples,)
            The truth for them.

        **params : dict
            Metadata for the predictor.

        Returns
        -------
        float
        """
        answer: float = self._ask("score", X, y, **params)
        return answer

    def _ask(self, method: str, *args: Any, **params: Any) -> Any:
        """Return what a method of the fitted predictor answers."""
        check_is_fitted(self, "estimator_")
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, method, **params).estimator[method]
        return getattr(self.estimator_, method)(*map(tensor_to_array, args), **params)

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels of the source rows."""
        labels: NDArray[Any] = self.estimator_.classes_
        return labels

    @property
    def n_features_in_(self) -> int:
        """The number of columns of the fit."""
        n: int = self.estimator_.n_features_in_
        return n

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """The names of the columns of the fit."""
        names: NDArray[Any] = self.estimator_.feature_names_in_
        return names

    def get_metadata_routing(self) -> MetadataRouter:
        """Return where metadata go: `sample_domain` is read here, the rest by the predictor.

        Returns
        -------
        MetadataRouter
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        for method in _METHODS:
            mapping.add(caller=method, callee=method)
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=mapping)
        )

    def __sklearn_tags__(self) -> Tags:
        """Return the tags of the predictor."""
        tags, inner = super().__sklearn_tags__(), get_tags(self.estimator)
        for name in ("estimator_type", "classifier_tags", "regressor_tags", "target_tags"):
            setattr(tags, name, getattr(inner, name))
        tags.input_tags = inner.input_tags
        return tags


def _of_rows(value: Any, rows: NDArray[np.intp], n: int) -> Any:
    """Return the entries of `rows`, or the value itself where it has not one for each of n rows."""
    per_row = hasattr(value, "__len__") and not isinstance(value, str | bytes | dict)
    return _safe_indexing(value, rows) if per_row and _num_samples(value) == n else value
