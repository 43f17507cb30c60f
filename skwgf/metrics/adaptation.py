"""Scorers of domain adaptation that never read a label of the target.

A search over the settings of an adapted pipeline has no target labels to score with. These take
the place of ``scoring``; they are called with the fitted pipeline, rows of both domains, labels of
which those of target rows are not touched, and `sample_domain`.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from scipy.special import xlogy
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import _safe_indexing, check_scalar
from sklearn.utils.metadata_routing import MetadataRequest

from skwgf._tensor import to_tensor
from skwgf.metrics._domains import Rows, ScoreFunction, ask, default_score, seen
from skwgf.transport.label_graph import contiguity_ratio

# Domains are told apart no more surely than that, so that weights stay finite.
_LEAST_SHARE = 1e-6


class _DomainScorer(BaseEstimator):
    """A scorer that is handed `sample_domain` in a search, without having to ask for it."""

    def get_metadata_routing(self) -> MetadataRequest:
        """Return what a search routes to the scorer: `sample_domain`.

        Returns
        -------
        MetadataRequest
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_domain", alias=True)
        return request


class ImportanceWeightedScorer(_DomainScorer):
    r"""Score on source rows, weighted as if they had been drawn from the target.

    .. math:: \frac{\sum_i w(x_i) \, s(y_i, \hat y_i)}{\sum_i w(x_i)}, \qquad
        w(x) = \frac{p_{target}(x)}{p_{source}(x)},

    over source rows. Where the label depends on x in the same way in both domains this is
    consistent for the score on the target; its variance is large where the domains overlap
    little. The ratio is that of a classifier that tells the domains apart.

    Parameters
    ----------
    score_func : callable, default=None
        ``score_func(y_true, y_pred, sample_weight=w)``, higher is better. None is the accuracy of
        a classifier and the :math:`R^2` of a regressor.

    domain_classifier : estimator object, default=None
        Classifier with ``predict_proba`` that tells source from target rows; it is cloned. None is
        a logistic regression on standardised columns.

    See Also
    --------
    NeighborScorer : Needs no overlap of the domains.

    Notes
    -----
    Of a pipeline the rows are compared where its last step sees them: there the source rows have
    been moved.

    References
    ----------
    M. Sugiyama, M. Krauledat, K.-R. Müller, "Covariate shift adaptation by importance weighted
    cross validation", JMLR 8 (2007).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skwgf.metrics import ImportanceWeightedScorer
    >>> rng = np.random.default_rng(0)
    >>> X = np.concatenate([rng.normal(0, 1, (2000, 1)), rng.normal(1, 1, (2000, 1))])
    >>> y = (np.abs(X[:, 0]) < 1.5).astype(int)
    >>> domain = np.repeat([1, -1], 2000)
    >>> model = LogisticRegression().fit(X[:2000], y[:2000])
    >>> round(model.score(X[:2000], y[:2000]), 1), round(model.score(X[2000:], y[2000:]), 1)
    (0.9, 0.7)
    >>> round(ImportanceWeightedScorer()(model, X, y, sample_domain=domain), 1)
    0.7
    """

    def __init__(
        self, score_func: ScoreFunction | None = None, *, domain_classifier: Any = None
    ) -> None:
        self.score_func = score_func
        self.domain_classifier = domain_classifier

    def __call__(self, estimator: Any, X: Any, y: Any, *, sample_domain: Any = None) -> float:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator object
            Fitted; a pipeline with an adapter, or any predictor.

        X : array-like of shape (n_samples, n_features)
            Rows of both domains.

        y : array-like of shape (n_samples,)
            Labels; those of target rows are not read.

        sample_domain : array-like of shape (n_samples,)
            A number >= 0 for a source row, a number < 0 for a target row.

        Returns
        -------
        float
            Higher is better.
        """
        rows = Rows(X, y, sample_domain, type(self).__name__)
        space = seen(estimator, rows)
        model = self.domain_classifier
        if model is None:
            model = make_pipeline(StandardScaler(), LogisticRegression())
        model = clone(model).fit(space, rows.source)
        share = model.predict_proba(space[rows.source])[:, 1]
        odds = 1 / np.clip(share, _LEAST_SHARE, 1 - _LEAST_SHARE) - 1
        weights = odds / odds.mean()
        score_func = self.score_func or default_score(estimator, accuracy_score)
        answer = ask(estimator, "predict", rows, rows.source)
        return float(score_func(rows.labels(), answer, sample_weight=weights))


class EntropyScorer(_DomainScorer):
    r"""Minus the mean entropy of the class probabilities of target rows.

    .. math:: -\frac1m \sum_j H(p(\cdot \mid x_j)) \quad \big(+ H(\bar p)\big), \qquad
        H(p) = -\sum_k p_k \log p_k,

    over target rows. A classifier that was carried to the right place is sure of itself. So is
    one that calls every row the same; the second term, with `diversity`, is there against that,
    and makes the score the mutual information of row and label.

    Parameters
    ----------
    diversity : bool, default=False
        Whether to add the entropy of the mean probabilities. It prefers classes of equal size.

    See Also
    --------
    NeighborScorer : Sees through a classifier that is sure of itself everywhere.

    References
    ----------
    P. Morerio, J. Cavazza, V. Murino, "Minimal-entropy correlation alignment for unsupervised deep
    domain adaptation", ICLR 2018, arXiv 1711.10288.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skwgf.metrics import EntropyScorer
    >>> X = np.array([[-1.0], [1.0], [-9.0], [9.0]])
    >>> model = LogisticRegression().fit(X[:2], [0, 1])
    >>> EntropyScorer()(model, X, sample_domain=[1, 1, -1, -1]) > -0.1
    True
    """

    def __init__(self, *, diversity: bool = False) -> None:
        self.diversity = diversity

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, *, sample_domain: Any = None
    ) -> float:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator object
            Fitted, with ``predict_proba``.

        X : array-like of shape (n_samples, n_features)
            Rows of both domains.

        y : array-like of shape (n_samples,), default=None
            Not read.

        sample_domain : array-like of shape (n_samples,)
            A number >= 0 for a source row, a number < 0 for a target row.

        Returns
        -------
        float
            In nats, at most 0 without `diversity`. Higher is better.
        """
        rows = Rows(X, None, sample_domain, type(self).__name__)
        proba = ask(estimator, "predict_proba", rows, ~rows.source)
        score = float(xlogy(proba, proba).sum(1).mean())
        if self.diversity:
            mean = proba.mean(0)
            score -= float(xlogy(mean, mean).sum())
        return score


class CircularScorer(_DomainScorer):
    r"""Score on the source of the way back: to the target by the estimator, and home again.

    The target rows are labelled by the estimator. A clone of it is fitted with the domains
    exchanged, from the target rows with these labels to the source rows without any, and its
    predictions are compared with the true labels of the source.

    Parameters
    ----------
    score_func : callable, default=None
        ``score_func(y_true, y_pred)``, higher is better. None is the balanced accuracy of a
        classifier and the :math:`R^2` of a regressor.

    See Also
    --------
    NeighborScorer : Needs no second fit.

    Notes
    -----
    Each call fits the estimator once more. A map that exchanges two classes on the way there and
    back again scores as well as one that leaves them in place.

    References
    ----------
    E. Zhong, W. Fan, Q. Yang, O. Verscheure, J. Ren, "Cross validation framework to choose amongst
    models and datasets for transfer learning", ECML 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from skwgf import SourceOnly
    >>> from skwgf.metrics import CircularScorer
    >>> X = np.array([[0.0], [1.0], [0.1], [1.2]])
    >>> y, domain = np.array([0, 1, -1, -1]), [1, 1, -1, -1]
    >>> model = SourceOnly(KNeighborsClassifier(1)).fit(X, y, sample_domain=domain)
    >>> CircularScorer()(model, X, y, sample_domain=domain)
    1.0
    """

    def __init__(self, score_func: ScoreFunction | None = None) -> None:
        self.score_func = score_func

    def __call__(self, estimator: Any, X: Any, y: Any, *, sample_domain: Any = None) -> float:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator object
            Fitted; a pipeline with an adapter, or any predictor.

        X : array-like of shape (n_samples, n_features)
            Rows of both domains.

        y : array-like of shape (n_samples,)
            Labels; those of target rows are not read.

        sample_domain : array-like of shape (n_samples,)
            A number >= 0 for a source row, a number < 0 for a target row.

        Returns
        -------
        float
            Higher is better.
        """
        rows = Rows(X, y, sample_domain, type(self).__name__)
        found = np.asarray(ask(estimator, "predict", rows, ~rows.source))
        score_func = self.score_func or default_score(estimator, balanced_accuracy_score)
        truth = rows.labels()
        if is_classifier(estimator) and len(np.unique(found)) == 1:
            # Nothing to learn from labels that are all the same: they come home as they are.
            return float(score_func(truth, np.full(len(truth), found[0])))
        back = Rows(X, None, np.where(rows.source, -1, 1), type(self).__name__)
        labels = np.empty(len(rows.source), found.dtype)
        labels[back.source] = found
        labels[~back.source] = found[0]  # any: they are of what is the target now
        again = clone(estimator)
        if back.taken(estimator, "fit"):
            again.fit(back.X, labels, sample_domain=back.domain)
        else:
            again.fit(_safe_indexing(back.X, np.flatnonzero(back.source)), found)
        return float(score_func(truth, ask(again, "predict", back, ~back.source)))


class NeighborScorer(_DomainScorer):
    r"""Agreement of the predictions of target rows with those of their nearest target rows.

    .. math:: 1 - \frac{\sum_{i \sim j} |u_i - u_j|^2 / \#\{i \sim j\}}
        {2 \, m^{-1} \sum_i |u_i - \bar u|^2},

    with :math:`i \sim j` where target row j is among the nearest of row i, and :math:`u_i` the
    prediction, for a classifier the one-hot label. The score is then Cohen's kappa between the
    labels of neighbours: 1 where all agree, 0 where they agree by chance, or where all rows are
    called the same. A classifier that is right, or wrong about whole clusters, has a boundary where
    there are few rows; one that was carried to the wrong place cuts clusters in two.

    Parameters
    ----------
    n_neighbors : int, default=5
        Number of nearest rows.

    See Also
    --------
    CircularScorer : Fits the estimator once more.

    Notes
    -----
    Of a pipeline the rows are compared where its last step sees them. Only rows of the target are
    looked at.

    References
    ----------
    R. C. Geary, "The contiguity ratio and statistical mapping", The Incorporated Statistician 5
    (1954); K. Saito, D. Kim, P. Teterwak, S. Sclaroff, T. Darrell, K. Saenko, "Tune it the right
    way: unsupervised validation of domain adaptation via soft neighborhood density", ICCV 2021,
    arXiv 2108.10860.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from skwgf.metrics import NeighborScorer
    >>> X = np.array([[0.0], [5.0], [0.2], [0.1], [5.1], [5.2]])
    >>> domain = [1, 1, -1, -1, -1, -1]
    >>> model = KNeighborsClassifier(1).fit(X[:2], [0, 1])
    >>> NeighborScorer(n_neighbors=1)(model, X, sample_domain=domain)
    1.0
    """

    def __init__(self, *, n_neighbors: int = 5) -> None:
        self.n_neighbors = n_neighbors

    def __call__(
        self, estimator: Any, X: Any, y: Any = None, *, sample_domain: Any = None
    ) -> float:
        """Score a fitted estimator.

        Parameters
        ----------
        estimator : estimator object
            Fitted; a pipeline with an adapter, or any predictor.

        X : array-like of shape (n_samples, n_features)
            Rows of both domains.

        y : array-like of shape (n_samples,), default=None
            Not read.

        sample_domain : array-like of shape (n_samples,)
            A number >= 0 for a source row, a number < 0 for a target row.

        Returns
        -------
        float
            At most 1. Higher is better.
        """
        rows = Rows(X, None, sample_domain, type(self).__name__)
        k = check_scalar(self.n_neighbors, "n_neighbors", Integral, min_val=1)
        target = ~rows.source
        found = np.asarray(ask(estimator, "predict", rows, target))
        space = seen(estimator, rows)[target]
        search = NearestNeighbors(n_neighbors=min(k, len(space) - 1)).fit(space)
        near = to_tensor(search.kneighbors(return_distance=False)).long()
        if is_regressor(estimator):
            values = to_tensor(found, dtype=torch.float64).reshape(len(space), -1)
        else:
            values = to_tensor(np.unique(found, return_inverse=True)[1]).long()
        own = torch.arange(len(space))[:, None].expand_as(near)
        return 1.0 - contiguity_ratio(values, own.flatten(), near.flatten())
