r"""Bayesian linear regression with Gaussian noise."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import softplus

from skwgf.targets._likelihood import (
    LOG_2PI,
    check_gamma,
    check_regression,
    check_scale,
    draw_log_gamma,
    gamma_log_density,
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
from skwgf.targets.posterior import NormalPredictive
from skwgf.targets.support import Block, Support

__all__ = ["LinearRegressionPosterior"]


class LinearRegressionPosterior(Target):
    r"""The posterior of a linear regression.

    .. math:: y_i \mid x_i \sim N(w \cdot x_i + b, \sigma^2), \quad
        w_j \sim N(0, s^2), \quad b \sim N(0, s_0^2), \quad \sigma \sim \text{prior}

    The coordinates are w, b and :math:`\log \sigma`; the gradient is in closed form.

    Parameters
    ----------
    prior_scale : float, default=1.0
        Standard deviation s of the coefficients; infinity makes their prior flat.

    intercept_scale : float, default=None
        Standard deviation :math:`s_0` of the intercept; None takes `prior_scale`.

    noise_scale : float, default=None
        The noise :math:`\sigma`, if it is known; None samples it.

    noise_prior : tuple, default=("half_cauchy", 1.0)
        Prior of the noise. `("half_cauchy", scale)` is :math:`p(\sigma) \propto 1 / (1 +
        \sigma^2 / \text{scale}^2)`; `("gamma", shape, rate)` is the law of the precision
        :math:`\sigma^{-2}`.

    normalize_y : bool, default=True
        Whether y is centred and divided by its standard deviation inside. All scales above are
        then in units of that deviation. Constrained coordinates and predictions are in the units
        of y in either case.

    Attributes
    ----------
    n_dim_ : int
        Number of features plus two, or plus one when the noise is known.

    parameter_names_ : list of str
        "coef[0]", ..., "intercept" and "noise_scale", in the units of y.

    estimator_type : "regressor"

    Raises
    ------
    ValueError
        At `fit`, if a scale is not positive, the prior is unknown, or X and y are no regression
        data.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import LinearRegressionPosterior
    >>> X, y = np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0])
    >>> model = LinearRegressionPosterior(noise_scale=0.1, normalize_y=False).fit(X, y)
    >>> z = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    >>> model.predictive(z, torch.tensor([[3.0]], dtype=torch.float64)).mean
    tensor([[7.]], dtype=torch.float64)
    """

    learns_from_data: ClassVar[bool] = True

    def __init__(
        self,
        prior_scale: float = 1.0,
        *,
        intercept_scale: float | None = None,
        noise_scale: float | None = None,
        noise_prior: tuple[Any, ...] = ("half_cauchy", 1.0),
        normalize_y: bool = True,
    ) -> None:
        self.prior_scale = prior_scale
        self.intercept_scale = intercept_scale
        self.noise_scale = noise_scale
        self.noise_prior = noise_prior
        self.normalize_y = normalize_y

    @property
    def estimator_type(self) -> Literal["regressor", "classifier"]:
        """What the model makes of its sampler."""
        return "regressor"

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Condition on the rows of X and y."""
        check_scale(
            prior_scale=self.prior_scale,
            intercept_scale=self.intercept_scale,
            noise_scale=self.noise_scale,
        )
        self._check_noise_prior()
        X, y, scaling = check_regression(X, y, self, normalize=self.normalize_y)
        n_rows, d = X.shape
        names = [f"coef[{j}]" for j in range(d)] + ["intercept"]
        blocks = [Block("real", d + 1)]
        if self.noise_scale is None:
            names.append("noise_scale")
            blocks.append(Block("positive", 1))
        self.n_features_in_ = d
        self.scaling_ = scaling
        self._settle(
            Support(tuple(blocks)),
            names=names,
            follow=X.dtype,
            n_rows=n_rows,
            device=device,
            dtype=dtype,
        )
        # From the model's units to those of y.
        unit = scaling.scale
        shift = [0.0] * d + [scaling.mean] + [0.0] * (len(names) - d - 1)
        self.support_ = Support(
            tuple(blocks), shift=self._tensor(shift), scale=self._tensor([unit] * len(names))
        )
        self._design = with_ones(self._tensor(X))
        self._y = self._tensor((np.asarray(y, dtype=np.float64) - scaling.mean) / unit)
        last = self.prior_scale if self.intercept_scale is None else self.intercept_scale
        self._prior_scales = self._tensor([float(self.prior_scale)] * d + [float(last)])
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, k) points from the prior, with N(0, 1) where it is flat."""
        scales = torch.where(self._prior_scales.isfinite(), self._prior_scales, 1)
        weights = standard_normal(self, n, len(scales), generator) * scales
        if self.noise_scale is not None:
            return weights
        if self.noise_prior[0] == "gamma":
            shape, rate = self._check_noise_prior()
            log_precision = draw_log_gamma(n, shape, rate, generator, self)
            return torch.cat([weights, -0.5 * log_precision], dim=1)
        # The ratio of two normals is a Cauchy variable.
        normals = standard_normal(self, n, 2, generator).abs().log()
        log_noise = normals[:, :1] - normals[:, 1:] + math.log(self.noise_prior[1])
        return torch.cat([weights, log_noise], dim=1)

    @property
    def row_width(self) -> int:
        """Values that a row takes in a prediction."""
        return 1

    def encode(self, y: ArrayLike) -> Tensor:
        """Return y as a tensor."""
        return self._tensor(y)

    def log_likelihood(self, z: Tensor, X: Tensor, y: Tensor) -> Tensor:
        """Return the log density of each y, in its units, under each particle: (n, rows)."""
        self._check_points(z)
        mean, scale = self.scaling_
        return self._log_likelihood(z, with_ones(X), (y - mean) / scale) - math.log(scale)

    def predictive(self, z: Tensor, X: Tensor) -> NormalPredictive:
        """Return the mean and the standard deviation of y under each particle: (n, rows)."""
        self._check_points(z)
        weights, log_noise = self._split(z)
        mean, scale = self.scaling_
        means = weights @ with_ones(X).T * scale + mean
        return NormalPredictive(mean=means, sd=(log_noise.exp() * scale).expand_as(means))

    def _check_noise_prior(self) -> tuple[float, ...]:
        """Return the numbers of the noise prior."""
        name, *numbers = self.noise_prior
        if name == "gamma":
            return check_gamma("noise_prior[1:]", tuple(numbers))
        if name == "half_cauchy" and len(numbers) == 1 and numbers[0] > 0:
            return (float(numbers[0]),)
        raise ValueError(
            "noise_prior must be ('half_cauchy', scale) or ('gamma', shape, rate) with positive "
            f"numbers, got {self.noise_prior!r}."
        )

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return coefficients with intercept (n, d + 1), and the log noise (n, 1)."""
        weights = z[:, : self.n_features_in_ + 1]
        if self.noise_scale is None:
            return weights, z[:, -1:]
        return weights, z.new_full((len(z), 1), math.log(self.noise_scale))

    def _log_likelihood(self, z: Tensor, design: Tensor, y: Tensor) -> Tensor:
        """Return the (n, rows) log densities of scaled targets."""
        weights, log_noise = self._split(z)
        squares = ((y - weights @ design.T) / log_noise.exp()).square()
        return -0.5 * squares - log_noise - 0.5 * LOG_2PI

    def _log_noise_prior(self, log_noise: Tensor) -> Tensor:
        """Return the log density of the log noise."""
        numbers = self._check_noise_prior()
        if self.noise_prior[0] == "gamma":
            return gamma_log_density(-2 * log_noise, *numbers) + math.log(2)
        offset = log_noise - math.log(numbers[0])
        return math.log(2 / math.pi) + offset - softplus(2 * offset)

    def _noise_prior_slope(self, log_noise: Tensor) -> Tensor:
        """Return the derivative of :meth:`_log_noise_prior`."""
        numbers = self._check_noise_prior()
        if self.noise_prior[0] == "gamma":
            shape, rate = numbers
            return 2 * (rate * (-2 * log_noise).exp() - shape)
        return 1 - 2 * (2 * (log_noise - math.log(numbers[0]))).sigmoid()

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        weights, log_noise = self._split(z)
        prior = normal_log_density(weights, self._prior_scales)
        if self.noise_scale is None:
            prior = prior + self._log_noise_prior(log_noise[:, 0])
        return prior + sum_tiles(
            lambda design, y: self._log_likelihood(z, design, y).sum(1),
            take_batch(self._design, self._y, rows),
            len(z),
        )

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        weights, log_noise = self._split(z)
        precision = (-2 * log_noise).exp()

        def term(design: Tensor, y: Tensor) -> Tensor:
            residuals = y - weights @ design.T
            squares = residuals.square().sum(1, keepdim=True)
            return torch.cat([precision * (residuals @ design), precision * squares - len(y)], 1)

        slope = sum_tiles(term, take_batch(self._design, self._y, rows), len(z))
        slope[:, :-1] -= weights / self._prior_scales.square()
        if self.noise_scale is not None:
            return slope[:, :-1]
        slope[:, -1:] += self._noise_prior_slope(log_noise)
        return slope
