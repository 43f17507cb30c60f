r"""Domain adaptation as a transformer: source rows are carried to the law of the target.

A classifier learnt from labelled rows of a source law fails on rows of a target law. A flow
carries the source rows over, and what is fitted on the carried rows, with their labels, reads the
target.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    OneToOneFeatureMixin,
    TransformerMixin,
    _fit_context,
    clone,
)
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import HasMethods, StrOptions
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data

from skwgf._domains import both_domains, source_rows
from skwgf._tensor import make_generator, tensor_to_array, to_numpy, to_tensor
from skwgf._warnings import caller_level
from skwgf.estimators._inputs import check_present
from skwgf.estimators.w2_flow import W2FlowGenerator
from skwgf.persistence import SaveMixin
from skwgf.transport import class_proportions


class DomainAdapter(
    SaveMixin, CallbackSupportMixin, OneToOneFeatureMixin, TransformerMixin, BaseEstimator
):
    r"""Transformer that carries source rows to the law of the target rows.

    With :math:`\mu` the law of the source rows and :math:`\nu` that of the target rows, a flow is
    fitted whose map :math:`T` has :math:`T_\# \mu = \nu`. :meth:`transform` moves source rows, of
    the fit or new, to :math:`T(x)` and leaves target rows as they are. In a pipeline the last step
    is then fitted on moved rows with their labels, see :class:`SourceOnly`, and predicts target
    rows that nothing has been done to.

    Read more in the :ref:`User Guide <adaptation>`.

    Parameters
    ----------
    flow : estimator object, default=None
        What learns the map: an unfitted :class:`W2FlowGenerator` or :class:`SinkhornFlowGenerator`,
        or a transformer of your own with ``fit(X, X_source=...)``. It is cloned. None is
        ``W2FlowGenerator()``.

    use_labels : bool, default=True
        Whether the flow is handed the labels of the source rows, if there are class labels and it
        takes them: rows of a class are then carried together. Labels of target rows are never
        read.

    target_shift : {"warn", "reweight", "ignore"}, default="warn"
        What to do where the domains differ in the proportions of their classes alone, so that a
        map of all rows to all rows would carry rows to the wrong class. The proportions are
        estimated without target labels. "warn" says so and goes on; "reweight" weights the source
        instead of moving it: in the new proportions it has the law of the target, and the map is
        the identity, with `class_weight_` for a classifier that takes weights; "ignore" does not
        look.

    Attributes
    ----------
    flow_ : estimator object or None
        The fitted clone, None for the identity.

    source_classes_ : ndarray of shape (n_classes,) or None
        The labels of the source rows, None where there are no class labels.

    source_proportions_ : ndarray of shape (n_classes,) or None
        Their shares in the source.

    target_proportions_ : ndarray of shape (n_classes,) or None
        Their shares in the target, as estimated; None also with ``target_shift="ignore"``.

    target_shift_ : bool
        Whether the two differ by more than chance, and explain how the domains differ.

    class_weight_ : dict or None
        Weight of the source rows of each label in the law of the target, the ratio of its
        proportions where `target_shift_` is set, else 1; None without class labels. A pipeline
        does not hand it on.

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, when X has string column names.

    Raises
    ------
    ValueError
        When parameters or inputs do not fit together; the message says what to change.
    TypeError
        If `flow` cannot be fitted from source rows.

    Warns
    -----
    UserWarning
        Without `sample_domain`, as all rows are of one domain then and none is moved; and for a
        shift of the class proportions.

    See Also
    --------
    SourceOnly : The step behind it, which is fitted on source rows alone.
    skwgf.metrics.NeighborScorer : One of the scorers that need no label of the target.

    Notes
    -----
    `sample_domain` is requested by default: with metadata routing switched on,
    ``pipeline.fit(X, y, sample_domain=...)`` is all it takes. The numbers are those of skada,
    whose pipelines take this transformer too.

    References
    ----------
    .. [1] N. Courty, R. Flamary, D. Tuia, A. Rakotomamonjy. *Optimal transport for domain
       adaptation*. IEEE TPAMI 39 (2017). arXiv:1507.00504.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from skwgf import DomainAdapter, W2FlowGenerator
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(2, size=200)
    >>> source = rng.normal(size=(200, 2)) + 6 * labels[:, None]
    >>> target = rng.normal(size=(200, 2)) + 6 * labels[:, None] + [4, 0]
    >>> X = np.concatenate([source, target])
    >>> y = np.concatenate([labels, np.full(200, -1)])  # those of the target are unknown
    >>> domain = np.repeat([1, -1], 200)
    >>> adapter = DomainAdapter(W2FlowGenerator(max_iter=50, random_state=0))
    >>> moved = adapter.fit_transform(X, y, sample_domain=domain)
    >>> bool(np.abs(moved[:200].mean(0) - target.mean(0)).max() < 0.2)
    True
    >>> model = KNeighborsClassifier().fit(moved[:200], labels)
    >>> model.score(target, labels) > 0.95
    True
    """

    __metadata_request__fit: ClassVar[dict[str, bool]] = {"sample_domain": True}
    __metadata_request__transform: ClassVar[dict[str, bool]] = {"sample_domain": True}

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "flow": [HasMethods(["fit", "transform"]), None],
        "use_labels": ["boolean"],
        "target_shift": [StrOptions({"warn", "reweight", "ignore"})],
    }

    flow_: Any
    source_classes_: NDArray[Any] | None
    source_proportions_: NDArray[np.float64] | None
    target_proportions_: NDArray[np.float64] | None
    class_weight_: dict[Any, float] | None

    def __init__(
        self, flow: Any = None, *, use_labels: bool = True, target_shift: str = "warn"
    ) -> None:
        self.flow = flow
        self.use_labels = use_labels
        self.target_shift = target_shift

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: Any, y: Any = None, *, sample_domain: Any = None) -> Self:
        """Learn the map from the source rows to the target rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of both domains.

        y : array-like of shape (n_samples,), default=None
            Labels; those of target rows are never read and may be anything. Values that are no
            class labels are ignored: fractions, and whole numbers of which most occur once. For
            counts pass ``use_labels=False`` and ``target_shift="ignore"``.

        sample_domain : array-like of shape (n_samples,), default=None
            A number >= 0 for a source row, a number < 0 for a target row; several sources are
            taken as one. None takes all rows as target, and the map is the identity.

        Returns
        -------
        self : DomainAdapter
        """
        X = self._validate(X, reset=True)
        context = self._init_callback_context(max_subtasks=1)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self.__dict__.pop("flow_", None)  # set last: no identity is left by a fit that failed
        self.source_classes_ = self.source_proportions_ = None
        self.target_proportions_ = self.class_weight_ = None
        self.target_shift_ = False
        flow = None
        if sample_domain is None:
            warnings.warn(
                "DomainAdapter was fitted without sample_domain: all rows count as target, and "
                "none will be moved. Pass sample_domain (1 for source rows, -1 for target rows); "
                "in a pipeline with sklearn.set_config(enable_metadata_routing=True).",
                UserWarning,
                stacklevel=caller_level(),
            )
        else:
            flow = self._fit_flow(X, y, both_domains(sample_domain, len(X)), context)
        self.flow_ = flow
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def transform(self, X: Any, *, sample_domain: Any = None) -> NDArray[Any]:
        """Move source rows by the frozen map; target rows pass unchanged.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of either domain, seen in fit or not.

        sample_domain : array-like of shape (n_samples,), default=None
            As in `fit`; one of the domains may be absent. None takes all rows as target.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the precision of X.
        """
        check_is_fitted(self, "flow_")
        X = self._validate(X, reset=False)
        moved: NDArray[Any] = X.copy()
        if sample_domain is not None:
            source = source_rows(sample_domain, len(X))
            if self.flow_ is not None and source.any():
                moved[source] = self.flow_.transform(X[source])
        return moved

    def fit_transform(self, X: Any, y: Any = None, *, sample_domain: Any = None) -> NDArray[Any]:
        """Learn the map, and move the source rows among X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of both domains.

        y : array-like of shape (n_samples,), default=None
            As in `fit`.

        sample_domain : array-like of shape (n_samples,), default=None
            As in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            All rows in their order.
        """
        fitted = self.fit(X, y, sample_domain=sample_domain)
        moved: NDArray[Any] = fitted.transform(X, sample_domain=sample_domain)
        return moved

    def _validate(self, X: Any, *, reset: bool) -> NDArray[Any]:
        """Return X as a finite 2-D float array; tensors, frames and lists are welcome."""
        array: NDArray[Any] = validate_data(
            self, tensor_to_array(X), dtype=[np.float64, np.float32], reset=reset
        )
        return array

    def _fit_flow(self, X: NDArray[Any], y: Any, source: NDArray[np.bool_], context: Any) -> Any:
        """Return the flow from the source rows to the target rows, None where rows stay."""
        flow = W2FlowGenerator() if self.flow is None else clone(self.flow)
        if not has_fit_parameter(flow, "X_source"):
            raise TypeError(
                f"{type(flow).__name__}.fit takes no X_source: it cannot learn a map from one "
                "domain to another. Use W2FlowGenerator or SinkhornFlowGenerator."
            )
        if getattr(flow, "conditional", False):
            raise ValueError(
                "A flow with conditional=True needs labels of the target rows, which are never "
                "read. Set conditional=False."
            )
        X_source, X_target = X[source], X[~source]
        labels, more = self._labels(y, source), {}
        if labels is not None:
            self._look_at_proportions(X_source, labels, X_target)
            if self.target_shift_ and self.target_shift == "reweight":
                return None
            if self.use_labels and has_fit_parameter(flow, "y_source"):
                more["y_source"] = labels
        step = context.subcontext(task_name="flow")
        with step.propagate_callback_context(flow):
            step.call_on_fit_task_begin(estimator=self, X=X, y=y)
            flow.fit(X_target, X_source=X_source, **more)
            step.call_on_fit_task_end(estimator=self, X=X, y=y)
        return flow

    def _labels(self, y: Any, source: NDArray[np.bool_]) -> NDArray[Any] | None:
        """Return the class labels of the source rows, None where there are none to use."""
        if y is None:
            return None
        every: NDArray[Any] = np.asarray(tensor_to_array(y))
        if len(every) != len(source):
            raise ValueError(
                f"y has {len(every)} entries but X has {len(source)} rows. Pass one for each row, "
                "and anything for those of the target."
            )
        check_present(every[source], name="y", rows="the source")
        known = np.asarray(every[source].tolist())
        n_classes = len(np.unique(known))
        if type_of_target(known) not in ("binary", "multiclass") or 2 * n_classes > len(known):
            return None
        return known if n_classes > 1 else None

    def _look_at_proportions(
        self, X_source: NDArray[Any], labels: NDArray[Any], X_target: NDArray[Any]
    ) -> None:
        """Estimate the class proportions of the target, and tell whether they are what differs."""
        self.source_classes_, codes = np.unique(labels, return_inverse=True)
        n_classes = len(self.source_classes_)
        self.source_proportions_ = np.bincount(codes, minlength=n_classes) / len(codes)
        self.class_weight_ = dict.fromkeys(self.source_classes_.tolist(), 1.0)
        if self.target_shift == "ignore":
            return
        both = np.concatenate([X_source, X_target]).astype(np.float64)
        rows = StandardScaler().fit_transform(both / max(float(np.abs(both).max()), 1e-300))
        found = class_proportions(
            to_tensor(rows[: len(codes)]),
            to_tensor(codes).long(),
            to_tensor(rows[len(codes) :]),
            n_classes=n_classes,
            generator=make_generator(0),
        )
        self.target_proportions_ = to_numpy(found.proportions)
        self.target_shift_ = found.shifted
        if not found.shifted:
            return
        weights = self.target_proportions_ / self.source_proportions_
        self.class_weight_ = dict(zip(self.source_classes_.tolist(), weights.tolist(), strict=True))
        if self.target_shift == "warn":
            warnings.warn(
                "The classes seem to have other proportions in the target than in the source: "
                f"{_listed(self.source_classes_, self.target_proportions_)} instead of "
                f"{_listed(self.source_classes_, self.source_proportions_)}, and this explains "
                f"{found.explained:.0%} of the difference between the domains. A map of all "
                "source rows to all target rows then carries rows to the wrong class. Set "
                "target_shift='reweight', which leaves the rows where they are.",
                UserWarning,
                stacklevel=caller_level(),
            )


def _listed(classes: NDArray[Any], proportions: NDArray[np.float64]) -> str:
    """Return the proportions of the first classes in words."""
    pairs = zip(classes.tolist()[:5], proportions.tolist()[:5], strict=True)
    more = ", ..." if len(classes) > 5 else ""
    return ", ".join(f"{label!r} {share:.2f}" for label, share in pairs) + more
