"""What the generators share: coordinates, the reference law, sample, transform and score."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skwgf._tensor import (
    best_float,
    derive_seed,
    draw_seed,
    make_generator,
    to_numpy,
    to_tensor,
)
from skwgf.nn import PushForward, Regressor, evaluate
from skwgf.transport import mean_cost, sinkhorn_divergence

# Independent random streams of one fit.
SPLIT, VALIDATION, POTENTIAL, SCORE = 1, 2, 3, 4
# The score compares at most that many rows: its cost grows with their square.
_SCORE_ROWS = 5000
# Held-out rows: at most so many, and none at all when there would be fewer than the least.
_LEAST_HELD_OUT, _MOST_HELD_OUT = 50, 1000
# Regularisation of the score relative to the mean cost within the data, but never less than a share
# of the mean cost between data and draws: a fit that went astray gets a finite, bad score.
_SCORE_REG, _ASTRAY = 0.05, 1e-3


@dataclass(frozen=True)
class Coordinates:
    """Coordinates of order one: `(x - shift) / scale`, with one scale for all columns.

    One scale keeps the geometry, and with it the optimal plan, of the data.
    """

    shift: Tensor
    scale: float
    constant: Tensor

    def apply(self, X: NDArray[Any]) -> Tensor:
        """Return the rows of X in these coordinates, in float64 on the CPU."""
        return (to_tensor(X, dtype=torch.float64) - self.shift) / self.scale


def fit_coordinates(X: NDArray[Any]) -> Coordinates:
    """Return coordinates in which X is centred, with a mean squared entry of one.

    Constant columns count for nothing. Squares are taken after a division by the largest entry,
    so that data of any size is welcome.
    """
    rows = to_tensor(X, dtype=torch.float64)
    first = rows[0]
    constant = (rows == first).all(0)
    size = float(rows.abs().max()) or 1.0
    rows = rows / size
    center = rows.mean(0)
    n_varying = max(int((~constant).sum()), 1)
    variance = float((rows[:, ~constant] - center[~constant]).square().mean(0).sum()) / n_varying
    shift = torch.where(constant, first, center * size)
    return Coordinates(shift, size * variance**0.5 or 1.0, constant)


def normal_points(n: int, d: int, seed: int) -> Tensor:
    """Return n scrambled Sobol points of N(0, I_d): spread more evenly than random draws."""
    engine = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
        d, scramble=True, seed=seed
    )
    points: Tensor = torch.special.ndtri(engine.draw(n).double().clamp(1e-6, 1 - 1e-6))
    return points


def push_forward(
    core: torch.nn.Module, coordinates: Coordinates, *, residual: bool, device: torch.device
) -> PushForward:
    """Return the map in the units of the data, for float64 where the device has it."""
    d = len(coordinates.shift)
    scale = torch.full((d,), coordinates.scale, dtype=torch.float64)
    zero, one = torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64)
    module = PushForward(
        core,
        in_shift=coordinates.shift if residual else zero,
        in_scale=scale if residual else one,
        out_shift=coordinates.shift,
        out_scale=torch.where(coordinates.constant, 0.0, scale),
        residual=residual,
    )
    return module.to(device=device, dtype=best_float(device)).requires_grad_(False).eval()


def divergence(rows: Tensor, draws: Tensor) -> float:
    """Return the debiased Sinkhorn divergence that `score` and validation share, or infinity."""
    if not bool(torch.isfinite(draws).all()):
        return math.inf
    unit = max(mean_cost(rows, rows), _ASTRAY * mean_cost(rows, draws))
    return float(sinkhorn_divergence(rows, draws, _SCORE_REG * unit)) if unit > 0 else 0.0


def split_rows(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the rows to learn from and of those held out."""
    n_held_out = min(int(fraction * n), _MOST_HELD_OUT)
    if n_held_out < _LEAST_HELD_OUT:
        return torch.arange(n), torch.arange(0)
    order = torch.randperm(n, generator=make_generator(seed))
    return order[n_held_out:].sort().values, order[:n_held_out]


def held_out_divergence(
    regressor: Regressor, z: Tensor, held_out: Tensor, rows: Tensor, generator: torch.Generator
) -> tuple[Callable[[], float], float]:
    """Return the divergence of the averaged network's law from the held-out rows, and its noise.

    The reference points `z` are the same at every call, so that the figures compare. The noise is
    the divergence between the held-out rows and as many of the others: two samples of one law.
    """

    def validate() -> float:
        with regressor.averaged() as module:
            return divergence(held_out, evaluate(module, z))

    others = torch.randperm(len(rows), generator=generator)[: len(held_out)]
    return validate, divergence(held_out, rows[others])


def averaged_core(regressor: Regressor) -> torch.nn.Module:
    """Return a copy of the trained network with its averaged weights."""
    with regressor.averaged() as module:
        return copy.deepcopy(cast(PushForward, module).core)


class GeneratorMixin(OneToOneFeatureMixin, TransformerMixin):
    """Sample, transform and score of an estimator whose `network_` maps a reference to data.

    The reference is N(0, I) when the fitted `X_source_` is None, else the rows of `X_source_`.
    """

    network_: PushForward
    X_source_: NDArray[Any] | None
    _seed: int
    _draws_dtype: np.dtype[Any]
    _validate: Callable[..., NDArray[Any]]

    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: int | np.random.RandomState | None = None,
    ) -> NDArray[Any]:
        """Draw new rows: reference points mapped by the network in one pass.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows, at least 1.

        random_state : int, RandomState instance or None, default=None
            Seed of the draws. None gives fresh draws at every call, whatever the seed of the fit.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            With a source, images of source rows: without replacement up to their number, with
            replacement beyond.

        Raises
        ------
        ValueError
            If `n_samples` is below 1.
        TypeError
            If `n_samples` is not an integer.
        """
        check_is_fitted(self, "network_")
        n = check_scalar(n_samples, "n_samples", Integral, min_val=1)
        draws = self._draw(int(n), make_generator(draw_seed(random_state)))
        return to_numpy(draws, self._draws_dtype)

    def transform(self, X: Any) -> NDArray[Any]:
        """Map rows read as reference points; the map is frozen, rows do not influence each other.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Source rows, seen in fit or not; without a source, points of N(0, I).

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the precision of X.
        """
        check_is_fitted(self, "network_")
        X = self._validate(X, reset=False)
        return to_numpy(evaluate(self.network_, self._reference(X)), X.dtype)

    def score(self, X: Any, y: Any = None) -> float:
        r"""Return minus the debiased Sinkhorn divergence between X and as many draws.

        The draws are the same at every call. The regularisation is .05 times the mean cost
        :math:`|x - x'|^2/2` within X, so that settings compare on the same X (with draws a
        thousand times farther off than that it grows with their distance).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the law to compare with. Of more than 5000 rows a fixed random choice of 5000
            is compared, since the cost grows with the square of their number.

        y : None
            Ignored.

        Returns
        -------
        float
            In squared units of X; 0 is perfect.
        """
        check_is_fitted(self, "network_")
        X = self._validate(X, reset=False)
        generator = make_generator(derive_seed(self._seed, SCORE))
        if len(X) > _SCORE_ROWS:
            X = X[to_numpy(torch.randperm(len(X), generator=generator)[:_SCORE_ROWS])]
        coordinates = fit_coordinates(X)
        rows = coordinates.apply(X)
        draws = coordinates.apply(to_numpy(self._draw(len(X), generator)))
        return -divergence(rows, draws) * coordinates.scale * coordinates.scale

    def _draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n draws as a tensor."""
        if self.X_source_ is None:
            reference = torch.randn(
                n, len(self.network_.out_shift), dtype=torch.float64, generator=generator
            )
            return evaluate(self.network_, self._reference(reference))
        n_source = len(self.X_source_)
        if n <= n_source:
            index = torch.randperm(n_source, generator=generator)[:n]
        else:
            index = torch.randint(n_source, (n,), generator=generator)
        return evaluate(self.network_, self._reference(self.X_source_[to_numpy(index)]))

    def _reference(self, X: Any) -> Tensor:
        """Return reference rows on the device and in the precision of the network."""
        buffer = self.network_.out_shift
        return to_tensor(X, device=buffer.device, dtype=buffer.dtype)
