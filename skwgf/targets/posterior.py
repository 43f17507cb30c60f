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
    """

    mean: Tensor
    sd: Tensor


class ClassPredictive(NamedTuple):
    """The law of the label that every particle of a classification predicts.

    Attributes
    ----------
    probability : Tensor of shape (n, rows, classes)
        Probability of each class.
    """

    probability: Tensor


Predictive = NormalPredictive | ClassPredictive


class Posterior(Protocol):
    """What Bayesian models have besides the methods of a target."""

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
