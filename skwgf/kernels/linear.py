"""The linear kernel, whose sums over pairs need no pairs."""

from __future__ import annotations

from torch import Tensor

from skwgf.kernels._parameters import check_number
from skwgf.kernels.base import Kernel, SteinField


class Linear(Kernel):
    r"""The linear kernel, :math:`k(x, y) = c + x \cdot y`.

    Its Stein flow is affine: it fits mean and covariance, as a Gaussian approximation would.

    Parameters
    ----------
    offset : float, default=1.0
        The constant c, not negative; it moves the mean.

    Notes
    -----
    The velocity costs :math:`O(n d^2)`. The kernel depends on where the origin is: put it in the
    middle of the cloud with :class:`Preconditioned`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Linear
    >>> x = torch.tensor([[-2.0], [2.0]])
    >>> Linear().stein(x, scores=-x).velocity
    tensor([[ 6.],
            [-6.]])
    """

    def __init__(self, offset: float = 1.0) -> None:
        self.offset = offset

    def resolve(self, x: Tensor) -> Linear:
        """Return a copy: there is nothing to resolve."""
        return Linear(self._constant())

    def gram(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix k(x_i, y_j), of shape (n, m), for x (n, d) and y (m, d)."""
        return self._constant() + x @ y.T

    def product(self, x: Tensor, v: Tensor) -> Tensor:
        """Return the Gram matrix of `x` times `v`, of shape (n, q), without keeping the matrix."""
        return self._constant() * v.sum(0) + x @ (x.T @ v)

    def stein(self, x: Tensor, scores: Tensor) -> SteinField:
        """Return the Stein velocity and discrepancy of a cloud `x` with `scores`, both (n, d)."""
        drift = self._constant() * scores.mean(0) + x @ (x.T @ scores / len(x))
        inner = (x * scores).sum(1)
        discrepancy = (scores * drift).sum(1) + inner + inner.mean() + x.shape[1]
        return SteinField(drift + x, discrepancy)

    def stein_gram(self, x: Tensor, scores_x: Tensor, y: Tensor, scores_y: Tensor) -> Tensor:
        """Return the matrix of the Stein kernel between x (n, d) and y (m, d), shape (n, m)."""
        single = (x * scores_x).sum(1)[:, None] + (y * scores_y).sum(1)
        return (scores_x @ scores_y.T) * self.gram(x, y) + single + x.shape[1]

    def stein_diagonal(self, x: Tensor, scores: Tensor) -> Tensor:
        """Return the Stein kernel of each point with itself, of shape (n,)."""
        value = self._constant() + x.square().sum(1)
        return scores.square().sum(1) * value + 2 * (x * scores).sum(1) + x.shape[1]

    def _constant(self) -> float:
        """Return the offset, checked."""
        wanted = "a number that is not negative"
        return check_number(self.offset, "offset", wanted, lambda offset: offset >= 0)
