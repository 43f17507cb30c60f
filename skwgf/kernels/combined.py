"""Kernels made of others: sums, multiples, and linear coordinates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skwgf._tensor import to_tensor
from skwgf.kernels._parameters import check_number
from skwgf.kernels.base import Kernel, SteinField


class Sum(Kernel):
    """The sum of two kernels, also written ``left + right``.

    Parameters
    ----------
    left, right : Kernel
        What is added.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Gaussian, Linear
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> (Gaussian(bandwidth=1.0) + Linear()).gram(x, x)
    tensor([[2.0000, 1.6065],
            [1.6065, 3.0000]])
    """

    def __init__(self, left: Kernel, right: Kernel) -> None:
        self.left = left
        self.right = right

    @property
    def has_discrepancy(self) -> bool:
        """Whether both kernels are smooth enough for a kernel Stein discrepancy."""
        return self.left.has_discrepancy and self.right.has_discrepancy

    def resolve(self, x: Tensor) -> Sum:
        """Return the sum of the kernels resolved at `x`."""
        return Sum(self.left.resolve(x), self.right.resolve(x))

    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix k(x_i, y_j), of shape (n, m), for x (n, d) and y (m, d)."""
        return self.left.gram(x, y) + self.right.gram(x, y)

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the Gram matrix of `x` times `v`, of shape (n, q), without keeping the matrix."""
        return self.left.product(x, v) + self.right.product(x, v)

    def stein(self, x: Tensor, scores: Tensor) -> SteinField:
        """Return the Stein velocity and discrepancy of a cloud `x` with `scores`, both (n, d)."""
        left, right = self.left.stein(x, scores), self.right.stein(x, scores)
        return SteinField(left.velocity + right.velocity, left.discrepancy + right.discrepancy)

    def stein_gram(self, x: Tensor, scores_x: Tensor, y: Tensor, scores_y: Tensor) -> Tensor:
        """Return the matrix of the Stein kernel between x (n, d) and y (m, d), shape (n, m)."""
        left = self.left.stein_gram(x, scores_x, y, scores_y)
        return left + self.right.stein_gram(x, scores_x, y, scores_y)

    def stein_diagonal(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return the Stein kernel of each point with itself, of shape (n,)."""
        return self.left.stein_diagonal(x, scores) + self.right.stein_diagonal(x, scores)


class Scaled(Kernel):
    """A multiple of a kernel, also written ``factor * kernel``.

    Parameters
    ----------
    kernel : Kernel
        What is multiplied.

    factor : float, default=None
        The positive factor. None makes the mean of the Gram matrix of the cloud one, so that
        kernels of different reach can be added on equal terms.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Gaussian, Scaled
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> Scaled(Gaussian(bandwidth=1.0)).resolve(x).gram(x, x).mean()
    tensor(1.)
    """

    def __init__(self, kernel: Kernel, factor: float | None = None) -> None:
        self.kernel = kernel
        self.factor = factor

    @property
    def has_discrepancy(self) -> bool:
        """Whether the kernel is smooth enough for a kernel Stein discrepancy."""
        return self.kernel.has_discrepancy

    def resolve(self, x: Tensor) -> Scaled:
        """Return a number times the kernel resolved at `x`."""
        kernel = self.kernel.resolve(x)
        if self.factor is not None:
            return Scaled(kernel, self._number())
        return Scaled(kernel, 1.0 / float(kernel.product(x, x.new_ones(len(x), 1)).mean() / len(x)))

    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix k(x_i, y_j), of shape (n, m), for x (n, d) and y (m, d)."""
        return self._number() * self.kernel.gram(x, y)

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the Gram matrix of `x` times `v`, of shape (n, q), without keeping the matrix."""
        return self._number() * self.kernel.product(x, v)

    def stein(self, x: Tensor, scores: Tensor) -> SteinField:
        """Return the Stein velocity and discrepancy of a cloud `x` with `scores`, both (n, d)."""
        factor, field = self._number(), self.kernel.stein(x, scores)
        return SteinField(factor * field.velocity, factor * field.discrepancy)

    def stein_gram(self, x: Tensor, scores_x: Tensor, y: Tensor, scores_y: Tensor) -> Tensor:
        """Return the matrix of the Stein kernel between x (n, d) and y (m, d), shape (n, m)."""
        return self._number() * self.kernel.stein_gram(x, scores_x, y, scores_y)

    def stein_diagonal(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return the Stein kernel of each point with itself, of shape (n,)."""
        return self._number() * self.kernel.stein_diagonal(x, scores)

    def _number(self) -> float:
        """Return the factor, which must be a number by now."""
        if self.factor is None:
            raise ValueError("factor=None needs a cloud: call resolve(x) first, or give a number.")
        return check_number(self.factor, "factor", "a positive number", lambda factor: factor > 0)


class Preconditioned(Kernel):
    r"""A kernel in the coordinates :math:`z = L^{-1} (x - m)`, with a matrix :math:`A = L L^T`.

    The Stein flow is the one of the inner kernel in these coordinates, under the scores
    :math:`L^T s`: in those of x it has the matrix-valued kernel :math:`A \, k(z, z')` and the
    velocity :math:`L \, v_z`. With the covariance for A the flow does not depend on the units and
    directions of the coordinates.

    Parameters
    ----------
    kernel : Kernel
        The kernel of z.

    matrix : array-like or Tensor of shape (d, d), default=None
        The symmetric positive definite matrix A. None takes the covariance of the cloud.

    centre : array-like or Tensor of shape (d,), default=None
        The point m. None takes the mean of the cloud. It matters for the linear kernel only.

    References
    ----------
    D. Wang, Z. Tang, C. Bajaj, Q. Liu. *Stein variational gradient descent with matrix-valued
    kernels*. NeurIPS 2019, arXiv:1910.12794.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Gaussian, Preconditioned
    >>> x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1000.0]])
    >>> kernel = Preconditioned(Gaussian(bandwidth=1.0)).resolve(x)
    >>> kernel.gram(x, x)  # all are at the same distance, whatever the units
    tensor([[1.0000, 0.0498, 0.0498],
            [0.0498, 1.0000, 0.0498],
            [0.0498, 0.0498, 1.0000]])
    """

    def __init__(self, kernel: Kernel, matrix: Any = None, centre: Any = None) -> None:
        self.kernel = kernel
        self.matrix = matrix
        self.centre = centre

    @property
    def has_discrepancy(self) -> bool:
        """Whether the kernel is smooth enough for a kernel Stein discrepancy."""
        return self.kernel.has_discrepancy

    def resolve(self, x: Tensor) -> Preconditioned:
        """Return a copy with matrix and centre, and the kernel resolved at z."""
        if self.matrix is None:
            if len(x) <= x.shape[1]:
                raise ValueError(
                    f"The covariance of {len(x)} points in {x.shape[1]} dimensions is singular: "
                    "use more particles than dimensions, or give matrix=."
                )
            matrix = x.T.cov(correction=0).reshape(x.shape[1], x.shape[1])
        else:
            matrix = to_tensor(self.matrix, device=x.device, dtype=x.dtype)
        given = self.centre is not None
        centre = to_tensor(self.centre, device=x.device, dtype=x.dtype) if given else x.mean(0)
        found = Preconditioned(self.kernel, matrix, centre)
        return Preconditioned(self.kernel.resolve(found._coordinates(x)[0]), matrix, centre)

    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix k(z_i, z_j), of shape (n, m), for x (n, d) and y (m, d)."""
        return self.kernel.gram(self._coordinates(x)[0], self._coordinates(y)[0])

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the Gram matrix of `x` times `v`, of shape (n, q), without keeping the matrix."""
        return self.kernel.product(self._coordinates(x)[0], v)

    def stein(self, x: Tensor, scores: Tensor) -> SteinField:
        """Return the Stein velocity and discrepancy of a cloud `x` with `scores`, both (n, d)."""
        z, factor = self._coordinates(x)
        field = self.kernel.stein(z, scores @ factor)
        return SteinField(field.velocity @ factor.T, field.discrepancy)

    def stein_gram(self, x: Tensor, scores_x: Tensor, y: Tensor, scores_y: Tensor) -> Tensor:
        """Return the matrix of the Stein kernel between x (n, d) and y (m, d), shape (n, m)."""
        (z, factor), (w, _) = self._coordinates(x), self._coordinates(y)
        return self.kernel.stein_gram(z, scores_x @ factor, w, scores_y @ factor)

    def stein_diagonal(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return the Stein kernel of each point with itself, of shape (n,)."""
        z, factor = self._coordinates(x)
        return self.kernel.stein_diagonal(z, scores @ factor)

    def _coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return z, and the factor L."""
        if self.matrix is None or self.centre is None:
            raise ValueError(
                "Preconditioned takes its matrix and centre from a cloud: call resolve(x) first "
                "and use the kernel that it returns, or give both."
            )
        d = x.shape[1]
        matrix = to_tensor(self.matrix, device=x.device, dtype=x.dtype)
        centre = to_tensor(self.centre, device=x.device, dtype=x.dtype)
        if matrix.shape != (d, d) or centre.shape != (d,):
            raise ValueError(
                f"For points of {d} features the matrix must have shape ({d}, {d}) and the centre "
                f"({d},), got {tuple(matrix.shape)} and {tuple(centre.shape)}."
            )
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed) or not torch.allclose(matrix, matrix.T):
            raise ValueError(
                "The matrix must be symmetric and positive definite. The covariance of a cloud is "
                "not where a feature is constant or a combination of others: give matrix=."
            )
        return torch.linalg.solve_triangular(factor, (x - centre).T, upper=False).T, factor
