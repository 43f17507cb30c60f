"""What a sampler draws from: an unnormalised log density and its gradient."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array
from torch import Tensor

from skwgf._tensor import resolve_device, resolve_dtype, tensor_to_array, to_tensor
from skwgf.targets.support import Block, Support

__all__ = ["Target", "differentiate"]

Device = str | torch.device | None
Precision = DTypeLike | torch.dtype | None
Seed = int | np.random.RandomState | None


class Target(BaseEstimator, ABC):
    r"""An unnormalised log density of :math:`z \in \mathbb{R}^k`.

    A target is a small estimator: `fit` takes the data it is conditioned on, or, for a bare
    density, the points a sampler starts from. All other methods work on tensors in the precision
    and on the device of the fit. z are unconstrained coordinates; :meth:`constrain` maps them to
    those of the user.

    Attributes
    ----------
    learns_from_data : bool
        Whether `fit` conditions on X; a bare density only reads its shape and precision.

    n_dim_ : int
        Number k of unconstrained coordinates.

    parameter_names_ : list of str
        Names of the p constrained coordinates.

    n_rows_ : int or None
        Number of data rows; None for bare densities.

    support_ : Support
        The set of the constrained coordinates.

    device_, dtype_ : torch.device, torch.dtype
        Where and how precisely the density is computed.

    Notes
    -----
    A subclass writes `fit`, which calls `_settle`, and `_log_prob`, `_gradient` and `draw_start`;
    :func:`differentiate` is the gradient of those that have no closed form.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import Gaussian
    >>> target = Gaussian(mean=(1.0, 0.0)).fit(np.zeros((5, 2)))
    >>> target.grad_log_prob(torch.zeros(1, 2, dtype=torch.float64))
    tensor([[1., 0.]], dtype=torch.float64)
    """

    learns_from_data: ClassVar[bool]

    n_dim_: int
    n_rows_: int | None
    parameter_names_: list[str]
    support_: Support
    device_: torch.device
    dtype_: torch.dtype

    @abstractmethod
    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Condition on the data, or take the shape of a starting cloud.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Data rows; for a bare density starting points in constrained coordinates.

        y : array of shape (n_samples,), default=None
            Targets of a regression or class labels.

        device : str or torch.device, default=None
            None is the CPU.

        dtype : dtype, default=None
            "float32" or "float64"; None follows X.

        Returns
        -------
        self
        """

    @abstractmethod
    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw points to start from, of shape (n, k).

        They come from the prior of a model, near the rows of a density of data, and from N(0, I)
        for a bare density.
        """

    @abstractmethod
    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        """Return the log density at checked points."""

    @abstractmethod
    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        """Return the gradient of the log density at checked points."""

    def log_prob(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        r"""Return the log density, up to a constant that does not depend on `z`.

        Parameters
        ----------
        z : Tensor of shape (n, k)
            Points in unconstrained coordinates; the log-Jacobian is included.

        rows : Tensor of int64 of shape (n_batch,), default=None
            Data rows to use in place of all N. The log likelihood of a model is then multiplied by
            N / n_batch, which makes it unbiased.

        Returns
        -------
        Tensor of shape (n,)

        Raises
        ------
        ValueError
            If `z` does not have k columns in the precision of the fit, or `rows` is given for a
            bare density.
        """
        self._check_points(z, rows)
        return self._log_prob(z, rows)

    def grad_log_prob(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the gradient of :meth:`log_prob`, of shape (n, k), without a graph.

        Parameters and errors are those of :meth:`log_prob`.
        """
        self._check_points(z, rows)
        return self._gradient(z.detach(), rows)

    def constrain(self, z: Tensor) -> Tensor:
        """Return the constrained coordinates (n, p) of unconstrained points `z` (n, k)."""
        self._check_points(z)
        return self.support_.constrain(z).x

    def unconstrain(self, x: Tensor) -> Tensor:
        """Return the unconstrained coordinates (n, k) of points `x` (n, p).

        Raises
        ------
        ValueError
            If a row is not inside the support (the first one is named), or the shape is wrong.
        """
        self._check_fitted()
        if x.ndim != 2 or x.shape[1] != self.support_.n_features:
            raise ValueError(
                f"{type(self).__name__} has points of {self.support_.n_features} constrained "
                f"coordinates, got an array of shape {tuple(x.shape)}."
            )
        return self.support_.unconstrain(x)

    def check_start(self, z: Tensor) -> None:
        """Check that the log density and its gradient are finite at the points `z` (n, k).

        Raises
        ------
        ValueError
            If they are not; the first such row is named.
        """
        for what, value in (
            ("log density", self.log_prob(z)[:, None]),
            ("gradient of the log density", self.grad_log_prob(z)),
        ):
            bad = ~value.isfinite().all(1)
            if bad.any():
                row = int(bad.nonzero()[0, 0])
                raise ValueError(
                    f"The {what} of {type(self).__name__} is {value[row].squeeze().tolist()} at "
                    f"row {row} of the start, the point {self.constrain(z)[row].tolist()}. Start "
                    "where the density is positive and smooth, or declare its support."
                )

    def _settle(
        self,
        support: Support,
        *,
        names: Sequence[str] | None = None,
        follow: DTypeLike = np.float64,
        n_rows: int | None = None,
        device: Device,
        dtype: Precision,
    ) -> None:
        """Set what every fitted target has; `follow` is the precision of the data."""
        self.device_ = resolve_device(device)
        self.dtype_ = (
            dtype if isinstance(dtype, torch.dtype) else resolve_dtype(dtype, follow, self.device_)
        )
        self.support_ = support
        self.n_dim_ = support.n_dim
        self.n_rows_ = n_rows
        columns = [f"x{i}" for i in range(support.n_features)]
        self.parameter_names_ = columns if names is None else list(names)

    def _tensor(self, array: ArrayLike) -> Tensor:
        """Copy an array to the device and the precision of the fit."""
        return to_tensor(array, device=self.device_, dtype=self.dtype_)

    def _check_fitted(self) -> None:
        """Refuse to go on before `fit`; cheaper than scikit-learn's check in an inner loop."""
        if not hasattr(self, "n_dim_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet: call fit first.")

    def _check_points(self, z: Tensor, rows: Tensor | None = None) -> None:
        """Refuse points of another shape or precision, and rows of a density without data."""
        self._check_fitted()
        if z.ndim != 2 or z.shape[1] != self.n_dim_ or z.dtype != self.dtype_:
            raise ValueError(
                f"z must have shape (n, {self.n_dim_}) in {self.dtype_}, as "
                f"{type(self).__name__} was fitted, got shape {tuple(z.shape)} in {z.dtype}."
            )
        if rows is not None and self.n_rows_ is None:
            raise ValueError(f"{type(self).__name__} has no data rows to take a minibatch of.")


def differentiate(value: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return the gradient of each entry of `value(z)` in its row of `z`, by autograd.

    Parameters
    ----------
    value : callable
        Maps (n, k) to (n,), each entry a function of its own row.

    z : Tensor of shape (n, k)
        Points.

    Returns
    -------
    Tensor of shape (n, k)

    Examples
    --------
    >>> import torch
    >>> from skwgf.targets.base import differentiate
    >>> differentiate(lambda z: z.square().sum(1), torch.ones(1, 2))
    tensor([[2., 2.]])
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(value(z).sum(), z)
    return gradient


def standard_normal(target: Target, n: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw an (n, k) tensor of N(0, 1) on the generator's device, for a fitted target's."""
    draws = torch.randn(n, k, generator=generator, device=generator.device, dtype=target.dtype_)
    return draws.to(target.device_)


def check_rows(X: Any, estimator: Target, n_features: int | None = None) -> NDArray[Any]:
    """Return X as a finite 2-D float array with `n_features` columns."""
    array: NDArray[Any] = check_array(
        tensor_to_array(X), dtype=[np.float64, np.float32], estimator=estimator
    )
    if n_features is not None and array.shape[1] != n_features:
        raise ValueError(
            f"{type(estimator).__name__} has {n_features} features, but X has {array.shape[1]}."
        )
    return array


def settle_bare(
    target: Target,
    X: Any,
    n_features: int,
    *,
    device: Device,
    dtype: Precision,
) -> None:
    """Set the attributes of a density on all of R^d, whose starting cloud X may be None."""
    follow = np.dtype(np.float64) if X is None else check_rows(X, target, n_features).dtype
    target._settle(Support((Block("real", n_features),)), follow=follow, device=device, dtype=dtype)


def is_number(value: Any) -> bool:
    """Tell whether a parameter is a real number."""
    return isinstance(value, Real)


def check_positive(**values: Any) -> None:
    """Refuse parameters that are not positive and finite."""
    for name, value in values.items():
        if not (is_number(value) and 0 < value < math.inf):
            raise ValueError(f"{name} must be positive and finite, got {value!r}.")
