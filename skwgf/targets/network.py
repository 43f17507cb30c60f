r"""Bayesian neural networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from skwgf._tensor import to_tensor
from skwgf.targets._likelihood import (
    LOG_2PI,
    Scaling,
    check_classification,
    check_gamma,
    check_regression,
    encode_labels,
    gamma_log_density,
    sum_tiles,
    take_batch,
)
from skwgf.targets.base import (
    Device,
    Precision,
    Target,
    differentiate,
    is_number,
    standard_normal,
)
from skwgf.targets.posterior import ClassPredictive, NormalPredictive, Predictive
from skwgf.targets.support import Block, Support

__all__ = ["NeuralNetworkPosterior"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "silu": torch.nn.functional.silu,
}


class _Layer(NamedTuple):
    """Weights (n, inputs, outputs) and biases (n, 1, outputs) of n networks."""

    weight: Tensor
    bias: Tensor


class NeuralNetworkPosterior(Target):
    r"""The posterior of a neural network f, of all its weights :math:`\theta`.

    .. math:: \theta_j \mid \lambda \sim N(0, 1 / \lambda), \qquad \lambda \sim \Gamma(a, b)

    A regression has :math:`y \mid x \sim N(f(x), 1 / \gamma)` with
    :math:`\gamma \sim \Gamma(a', b')`, and a classification
    :math:`p(y = k \mid x) \propto e^{f_k(x)}`. The coordinates are the weights in units of their
    prior, :math:`\sqrt\lambda \theta`, layer by layer, each with its biases, then
    :math:`\log \lambda` and, for a regression, :math:`\log \gamma`.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(50,)
        Width of each hidden layer, one at least.

    activation : {"relu", "tanh", "silu"}, default="relu"
        Activation of the hidden layers.

    task : {"regression", "classification"}, default="regression"
        What y is.

    weight_prior : tuple of (float, float), default=(1.0, 0.1)
        Shape a and rate b of the prior of the precision :math:`\lambda` of the weights.

    noise_prior : tuple of (float, float), default=(1.0, 0.1)
        Shape a' and rate b' of the prior of the precision :math:`\gamma` of the noise; not used
        by a classification.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        The labels, in the order of :func:`numpy.unique`; of a classification only.

    n_dim_ : int
        Number of weights and biases, plus one or two.

    parameter_names_ : list of str
        "weight0[i,j]", "bias0[j]", ..., "weight_precision" and "noise_precision".

    estimator_type : {"regressor", "classifier"}
        What `task` makes of the sampler.

    Raises
    ------
    ValueError
        At `fit`, if a parameter is not one of the above, or X and y do not suit the task.

    Notes
    -----
    The targets of a regression are standardised inside: weights and precisions are in units of
    the standard deviation of y, predictions and log likelihoods in the units of y. Features are
    used as they are: standardise them first.

    In the coordinates :math:`(\theta, \log\lambda)` the density is not bounded: it grows without
    end as all weights go to zero and :math:`\lambda` to infinity. Little of the posterior is there,
    but particles, which climb, would collect at it. In units of the prior there is no such place.

    References
    ----------
    .. [1] J. M. Hernández-Lobato, R. P. Adams. *Probabilistic backpropagation for scalable
       learning of Bayesian neural networks*. ICML 2015, arXiv:1502.05336.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import NeuralNetworkPosterior
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> model = NeuralNetworkPosterior((5,)).fit(X, X[:, 0] ** 2)
    >>> model.n_dim_  # 5 + 5 + 5 + 1 weights and biases, 2 precisions
    18
    >>> z = model.draw_start(3, torch.Generator().manual_seed(0))
    >>> model.grad_log_prob(z).shape
    torch.Size([3, 18])
    """

    learns_from_data: ClassVar[bool] = True

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (50,),
        *,
        activation: str = "relu",
        task: str = "regression",
        weight_prior: tuple[float, float] = (1.0, 0.1),
        noise_prior: tuple[float, float] = (1.0, 0.1),
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.task = task
        self.weight_prior = weight_prior
        self.noise_prior = noise_prior

    @property
    def estimator_type(self) -> Literal["regressor", "classifier"]:
        """What `task` makes of the sampler."""
        return "classifier" if self.task == "classification" else "regressor"

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Condition on the rows of X and y."""
        self._check_parameters()
        if self._is_regression():
            X, y, self.scaling_ = check_regression(X, y, self, normalize=True)
            n_outputs = 1
        else:
            X, y, self.classes_ = check_classification(X, y, self)
            n_outputs = len(self.classes_)
        self.n_features_in_ = X.shape[1]
        self._sizes = [X.shape[1], *self.hidden_layer_sizes, n_outputs]
        names = _weight_names(self._sizes)
        self._n_weights = len(names)
        names += ["weight_precision", "noise_precision"][: 1 + self._is_regression()]
        blocks = (
            Block("real", self._n_weights),
            Block("positive", len(names) - self._n_weights),
        )
        self._settle(
            Support(blocks),
            names=names,
            follow=X.dtype,
            n_rows=len(X),
            device=device,
            dtype=dtype,
        )
        self._X = self._tensor(X)
        if self._is_regression():
            self._y = self._tensor(y)
        else:
            self._y = to_tensor(y, device=self.device_, dtype=torch.int64)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        r"""Draw (n, k) points as networks are usually started, with noise as large as y.

        Weights and biases are of the law :math:`N(0, 1/m)`, m the inputs of their layer, and the
        precisions start near one: draws of a vague prior predict nothing, and few particles would
        not come back from there.
        """
        scales = torch.cat(
            [
                torch.full(((fan_in + 1) * fan_out,), fan_in**-0.5)
                for fan_in, fan_out in itertools.pairwise(self._sizes)
            ]
        )
        weights = standard_normal(self, n, self._n_weights, generator) * self._tensor(scales)
        logs = 0.1 * standard_normal(self, n, self.n_dim_ - self._n_weights, generator)
        return torch.cat([weights * (0.5 * logs[:, :1]).exp(), logs], dim=1)

    @property
    def row_width(self) -> int:
        """Values that a row takes in a prediction: those of the widest layer."""
        width: int = max(self._sizes[1:])
        return width

    def encode(self, y: ArrayLike) -> Tensor:
        """Return y as a tensor; labels become indices in `classes_`."""
        if self._is_regression():
            return self._tensor(y)
        return encode_labels(y, self.classes_, self.device_)

    def log_likelihood(self, z: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """Return the log density of each y under each particle, of shape (n, rows).

        A regression takes y in its units, a classification the index of the class.
        """
        self._check_points(z)
        outputs = self._outputs(z, X)
        if not self._is_regression():
            chosen = outputs.gather(2, y[None, :, None].expand(len(z), -1, 1))[:, :, 0]
            return chosen - outputs.logsumexp(2)
        mean, scale = self.scaling_
        log_precision = z[:, -1:]
        squares = ((y - mean) / scale - outputs[:, :, 0]).square()
        density = 0.5 * (log_precision - log_precision.exp() * squares - LOG_2PI)
        return density - math.log(scale)

    def predictive(self, z: Tensor, X: Tensor) -> Predictive:
        """Return mean and sd (n, rows), or probabilities (n, rows, classes), of each particle."""
        self._check_points(z)
        outputs = self._outputs(z, X)
        if not self._is_regression():
            return ClassPredictive(probability=outputs.softmax(2))
        scaling: Scaling = self.scaling_
        means = scaling.mean + scaling.scale * outputs[:, :, 0]
        sd = scaling.scale * (-0.5 * z[:, -1:]).exp()
        return NormalPredictive(mean=means, sd=sd.expand_as(means))

    def _is_regression(self) -> bool:
        """Tell whether y is a number."""
        return self.task == "regression"

    def _check_parameters(self) -> None:
        """Refuse what no network can be made of."""
        sizes: Any = self.hidden_layer_sizes
        listed = isinstance(sizes, tuple | list) and len(sizes) > 0
        if not (
            listed and all(is_number(size) and size > 0 and size == int(size) for size in sizes)
        ):
            raise ValueError(
                f"hidden_layer_sizes must be a tuple of positive widths, got {sizes!r}."
            )
        if self.activation not in _ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {sorted(_ACTIVATIONS)}, got {self.activation!r}."
            )
        if self.task not in ("regression", "classification"):
            raise ValueError(f"task must be 'regression' or 'classification', got {self.task!r}.")
        check_gamma("weight_prior", self.weight_prior)
        check_gamma("noise_prior", self.noise_prior)

    def _layers(self, z: Tensor) -> list[_Layer]:
        """Return the layers of the networks that the rows of `z` are."""
        scale = (-0.5 * z[:, self._n_weights, None, None]).exp()
        layers, first = [], 0
        for fan_in, fan_out in itertools.pairwise(self._sizes):
            middle, last = first + fan_in * fan_out, first + (fan_in + 1) * fan_out
            weight = z[:, first:middle].reshape(len(z), fan_in, fan_out)
            layers.append(_Layer(scale * weight, scale * z[:, None, middle:last]))
            first = last
        return layers

    def _outputs(self, z: Tensor, X: Tensor) -> Tensor:
        """Return the outputs of all networks at all rows, of shape (n, rows, outputs)."""
        activate = _ACTIVATIONS[self.activation]
        hidden = X.expand(len(z), -1, -1)
        *inner, last = self._layers(z)
        for layer in inner:
            hidden = activate(torch.baddbmm(layer.bias, hidden, layer.weight))
        return torch.baddbmm(last.bias, hidden, last.weight)

    def _log_prior(self, z: Tensor) -> Tensor:
        """Return the log density of the prior."""
        weights, log_precision = z[:, : self._n_weights], z[:, self._n_weights]
        normals = -self._n_weights * LOG_2PI - weights.square().sum(1)
        prior = 0.5 * normals + gamma_log_density(log_precision, *self.weight_prior)
        if self._is_regression():
            prior = prior + gamma_log_density(z[:, -1], *self.noise_prior)
        return prior

    def _tile_width(self, z: Tensor) -> int:
        """Return how many numbers a row of data takes in a pass."""
        width: int = len(z) * sum(self._sizes[1:])
        return width

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        return self._log_prior(z) + sum_tiles(
            lambda X, y: self.log_likelihood(z, X, y).sum(1),
            take_batch(self._X, self._y, rows),
            self._tile_width(z),
        )

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        # One graph per tile, so that the memory does not grow with the data.
        return differentiate(self._log_prior, z) + sum_tiles(
            lambda X, y: differentiate(lambda z: self.log_likelihood(z, X, y).sum(1), z),
            take_batch(self._X, self._y, rows),
            self._tile_width(z),
        )


def _weight_names(sizes: list[int]) -> list[str]:
    """Return the names of weights and biases, in the order of the coordinates."""
    names = []
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        names += [f"weight{layer}[{i},{j}]" for i in range(fan_in) for j in range(fan_out)]
        names += [f"bias{layer}[{j}]" for j in range(fan_out)]
    return names
