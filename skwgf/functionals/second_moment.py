"""Matching of second moments."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from skwgf._tensor import tensor_to_array
from skwgf.functionals._start import jitter_rows
from skwgf.functionals.base import (
    Device,
    Expansion,
    Functional,
    Precision,
    check_rows,
    spread,
)

__all__ = ["SecondMoment"]


class SecondMoment(Functional):
    r"""The distance of the second moment from a matrix.

    .. math:: F(\mu) = \tfrac14 \| S_\mu - A \|_F^2, \qquad S_\mu = \int x x^T d\mu

    With :math:`\delta S = \int (v x^T + x v^T) d\mu`,

    .. math:: g(x) = (S_\mu - A) \, x, \qquad (H v)(x) = (S_\mu - A) \, v(x) + \delta S \, x .

    For positive definite A it has strict saddles at :math:`\delta_0` and at every law whose second
    moment keeps some eigenpairs of A and has none of the others; all of its local minima are
    global [1]_.

    Parameters
    ----------
    A : array of shape (d, d), default=None
        A symmetric matrix. None is the second moment of the rows of X, about the origin.

    Attributes
    ----------
    matrix_ : Tensor of shape (d, d)
        The matrix used.

    length_scale_ : float
        The root of the mean diagonal entry of the matrix.

    Raises
    ------
    ValueError
        At `fit`, if `A` is not a finite symmetric matrix with as many rows as X has columns.

    Notes
    -----
    With a matrix A, X is the cloud to start from. `draw_start` draws rows of X with replacement
    and moves them by a tenth of their spread; for one row it draws from N(0, I).

    References
    ----------
    .. [1] R. Lascu, T. Suzuki. *From saddle points toward global minima: a Newton-type method on
       Wasserstein space*. arXiv:2605.17963.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import SecondMoment
    >>> moments = SecondMoment().fit(np.array([[1.0], [3.0]]))  # mean square 5
    >>> moments.value(torch.tensor([[1.0], [1.0]], dtype=torch.float64))
    tensor(4., dtype=torch.float64)
    """

    def __init__(self, A: ArrayLike | None = None) -> None:
        self.A = A

    @property
    def learns_from_data(self) -> bool:
        """Whether the matrix comes from the rows of X."""
        return self.A is None

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take the second moment of X, or X as the starting cloud; y is ignored."""
        rows = check_rows(X, self)
        if self.A is None:
            exact = rows.astype(np.float64)
            matrix = exact.T @ exact / len(rows)
        else:
            matrix = _check_symmetric(self.A, rows.shape[1])
        self._settle(
            rows.shape[1],
            length_scale=math.sqrt(max(float(np.trace(matrix)) / len(matrix), 0.0)),
            follow=rows.dtype,
            device=device,
            dtype=dtype,
        )
        self.matrix_ = self._tensor(matrix)
        self._rows, self._spread = self._tensor(rows), spread(rows) or 1.0
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of X, with jitter."""
        return jitter_rows(self._rows, n, self._spread, generator)

    def _residual(self, z: Tensor) -> Tensor:
        """Return the second moment minus the matrix."""
        return z.T @ z / len(z) - self.matrix_

    def _value(self, z: Tensor) -> Tensor:
        return 0.25 * self._residual(z).square().sum()

    def _expand(self, z: Tensor) -> Expansion:
        residual = self._residual(z)

        def hessian(fields: Tensor) -> Tensor:
            mixed = fields.mT @ z / len(z)
            return fields @ residual + z @ (mixed + mixed.mT)

        return Expansion(0.25 * residual.square().sum(), z @ residual, hessian)


def _check_symmetric(A: ArrayLike, d: int) -> NDArray[Any]:
    """Return A as a finite symmetric (d, d) matrix, symmetric to the last digit."""
    matrix = np.asarray(tensor_to_array(A), dtype=np.float64)
    if matrix.shape != (d, d):
        raise ValueError(
            f"A must be a matrix of shape ({d}, {d}), as X has {d} columns, got shape "
            f"{matrix.shape}."
        )
    if not np.isfinite(matrix).all():
        raise ValueError("A must be finite, got NaN or infinity among its entries.")
    gap = float(np.abs(matrix - matrix.T).max())
    if gap > 1e-6 * np.abs(matrix).max():
        raise ValueError(
            f"A must be symmetric, got A - A^T up to {gap:.3g}. Use (A + A.T) / 2, which has the "
            "same minimisers."
        )
    return 0.5 * (matrix + matrix.T)
