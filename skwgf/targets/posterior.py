"""What Bayesian models have besides the methods of a target."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from numpy.typing import ArrayLike
from torch import Tensor

__all__ = ["ClassPredictive", "NormalPredictive", "Posterior", "Predictive"]


class NormalPredictive(NamedTuple):
    """The normal law of y that every particle of a regression predicts.

    Attributes
    ----------
    mean, sd : Tensor of shape (n, rows)
        Mean and standard deviation of the noise, in the units of y.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import LinearRegressionPosterior
    >>> model = LinearRegressionPosterior().fit(np.array([[0.0], [1.0], [2.0]]), [0.0, 1.0, 3.0])
    >>> z = torch.zeros(4, model.n_dim_, dtype=torch.float64)  # four particles
    >>> law = model.predictive(z, torch.zeros(5, 1, dtype=torch.float64))
    >>> law.mean.shape, law.sd.shape
    (torch.Size([4, 5]), torch.Size([4, 5]))
    """

    mean: Tensor
    sd: Tensor


class ClassPredictive(NamedTuple):
    """The law of the label that every particle of a classification predicts.

    Attributes
    ----------
    probability : Tensor of shape (n, rows, classes)
        Probability of each class.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import LogisticRegressionPosterior
    >>> model = LogisticRegressionPosterior().fit(np.array([[0.0], [1.0]]), [0, 1])
    >>> z = torch.zeros(3, model.n_dim_, dtype=torch.float64)  # three particles
    >>> model.predictive(z, torch.zeros(5, 1, dtype=torch.float64)).probability.shape
    torch.Size([3, 5, 2])
    """

    probability: Tensor


Predictive = NormalPredictive | ClassPredictive


class Posterior(Protocol):
    """What Bayesian models have besides the methods of a target.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import LogisticRegressionPosterior
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), ["a", "b", "b"]
    >>> model = LogisticRegressionPosterior().fit(X, y)
    >>> model.estimator_type, model.encode(y)
    ('classifier', tensor([0, 1, 1]))
    >>> z = torch.zeros(1, model.n_dim_, dtype=torch.float64)
    >>> model.log_likelihood(z, torch.tensor(X), model.encode(y)).exp()
    tensor([[0.5000, 0.5000, 0.5000]], dtype=torch.float64)
    """

    @property
    def estimator_type(self) -> Literal["regressor", "classifier"]:
        """What the model makes of its sampler; known before the fit."""

    @property
    def row_width(self) -> int:
        """Largest number of values that a row of data takes in a prediction of a particle."""

    def encode(self, y: ArrayLike) -> Tensor:
        """Return targets as :meth:`log_likelihood` reads them: numbers, or indices of classes."""

    def log_likelihood(self, z: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """Return the log density of every target under every particle, of shape (n, rows)."""

    def predictive(self, z: Tensor, X: Tensor) -> Predictive:
        """Return what every particle predicts for the rows of `X`."""
