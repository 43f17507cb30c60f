r"""Bayesian logistic regression of two or more classes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import logsigmoid

from skwgf._tensor import to_tensor
from skwgf.targets._likelihood import (
    check_classification,
    check_scale,
    encode_labels,
    normal_log_density,
    sum_tiles,
    take_batch,
    with_ones,
)
from skwgf.targets.base import (
    Device,
    Precision,
    Target,
    standard_normal,
)
from skwgf.targets.posterior import ClassPredictive
from skwgf.targets.support import Block, Support

__all__ = ["LogisticRegressionPosterior"]


class LogisticRegressionPosterior(Target):
    r"""The posterior of a logistic regression.

    With two classes one vector of coefficients gives the log odds of the second one,

    .. math:: p(y = 1 \mid x) = 1 / (1 + e^{-(w \cdot x + b)}), \qquad
        w_j \sim N(0, s^2), \quad b \sim N(0, s_0^2) ;

    with more classes each has its own, :math:`p(y = k \mid x) \propto e^{w_k \cdot x + b_k}`, so
    that the order of the classes does not matter. The gradient is in closed form.

    Parameters
    ----------
    prior_scale : float, default=1.0
        Standard deviation s of the coefficients. In the terms of
        :class:`sklearn.linear_model.LogisticRegression`, :math:`C = s^2`.

    intercept_scale : float, default=None
        Standard deviation :math:`s_0` of the intercepts; None takes `prior_scale`.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        The labels, in the order of :func:`numpy.unique`.

    n_dim_ : int
        Number of features plus one, times the number of classes if there are more than two.

    parameter_names_ : list of str
        "coef[0]", ..., "intercept"; "coef[k,j]" and "intercept[k]" of class k if there are more
        than two.

    estimator_type : "classifier"

    Raises
    ------
    ValueError
        At `fit`, if a scale is not positive, or X and y are no classification data of at least
        two classes.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import LogisticRegressionPosterior
    >>> model = LogisticRegressionPosterior().fit([[-1.0], [1.0]], ["no", "yes"])
    >>> model.classes_
    array(['no', 'yes'], dtype='<U3')
    >>> X = torch.zeros(1, 1, dtype=torch.float64)
    >>> model.predictive(torch.zeros(1, 2, dtype=torch.float64), X).probability
    tensor([[[0.5000, 0.5000]]], dtype=torch.float64)
    """

    learns_from_data: ClassVar[bool] = True

    def __init__(self, prior_scale: float = 1.0, *, intercept_scale: float | None = None) -> None:
        self.prior_scale = prior_scale
        self.intercept_scale = intercept_scale

    @property
    def estimator_type(self) -> Literal["regressor", "classifier"]:
        """What the model makes of its sampler."""
        return "classifier"

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Condition on the rows of X and their labels y."""
        check_scale(prior_scale=self.prior_scale, intercept_scale=self.intercept_scale)
        X, codes, self.classes_ = check_classification(X, y, self)
        n_rows, d = X.shape
        n_classes = len(self.classes_)
        # Two classes need one vector of coefficients.
        self._n_outputs = 1 if n_classes == 2 else n_classes
        keys = [""] if self._n_outputs == 1 else [f"{k}," for k in range(n_classes)]
        names: list[str] = []
        for key in keys:
            names += [f"coef[{key}{j}]" for j in range(d)]
            names.append("intercept" + (f"[{key[:-1]}]" if key else ""))
        self.n_features_in_ = d
        self._settle(
            Support((Block("real", len(names)),)),
            names=names,
            follow=X.dtype,
            n_rows=n_rows,
            device=device,
            dtype=dtype,
        )
        self._design = with_ones(self._tensor(X))
        self._y = to_tensor(codes, device=self.device_, dtype=torch.int64)
        last = self.prior_scale if self.intercept_scale is None else self.intercept_scale
        scales = [float(self.prior_scale)] * d + [float(last)]
        self._prior_scales = self._tensor(scales * self._n_outputs)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, k) points from the prior, with N(0, 1) where it is flat."""
        scales = torch.where(self._prior_scales.isfinite(), self._prior_scales, 1)
        return standard_normal(self, n, self.n_dim_, generator) * scales

    @property
    def row_width(self) -> int:
        """Values that a row takes in a prediction."""
        return len(self.classes_)

    def encode(self, y: ArrayLike) -> Tensor:
        """Return the index of each label in `classes_`; ValueError if one is not there."""
        return encode_labels(y, self.classes_, self.device_)

    def log_likelihood(self, z: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """Return the log probability of each class index y under each particle: (n, rows)."""
        self._check_points(z)
        return self._log_likelihood(z, with_ones(X), y)

    def predictive(self, z: Tensor, X: Tensor) -> ClassPredictive:
        """Return the probabilities of the classes under each particle: (n, rows, classes)."""
        self._check_points(z)
        logits = self._logits(z, with_ones(X))
        if self._n_outputs == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return ClassPredictive(probability=logits.softmax(1).transpose(1, 2))

    def _logits(self, z: Tensor, design: Tensor) -> Tensor:
        """Return w_k . x + b_k of shape (n, outputs, rows), by one product."""
        weights = z.reshape(len(z) * self._n_outputs, self.n_features_in_ + 1)
        return (weights @ design.T).reshape(len(z), self._n_outputs, len(design))

    def _log_likelihood(self, z: Tensor, design: Tensor, y: Tensor) -> Tensor:
        """Return the (n, rows) log probabilities of the labels."""
        logits = self._logits(z, design)
        if self._n_outputs == 1:
            return logsigmoid(logits[:, 0] * (2 * y - 1))
        chosen = logits.gather(1, y.expand(len(z), 1, len(y)))[:, 0]
        return chosen - logits.logsumexp(1)

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        return normal_log_density(z, self._prior_scales) + sum_tiles(
            lambda design, y: self._log_likelihood(z, design, y).sum(1),
            take_batch(self._design, self._y, rows),
            len(z) * self._n_outputs,
        )

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        outputs = range(1, 2) if self._n_outputs == 1 else range(self._n_outputs)

        def term(design: Tensor, y: Tensor) -> Tensor:
            logits = self._logits(z, design)
            expected = logits.sigmoid() if self._n_outputs == 1 else logits.softmax(1)
            observed = torch.stack([y == k for k in outputs]).to(z.dtype)
            surprise = (observed - expected).reshape(-1, len(y))
            return (surprise @ design).reshape(z.shape)

        batch = take_batch(self._design, self._y, rows)
        slope = sum_tiles(term, batch, len(z) * self._n_outputs)
        return slope - z / self._prior_scales.square()
