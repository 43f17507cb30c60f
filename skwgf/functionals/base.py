r"""What every energy of the package can do.

A functional :math:`F(\mu)` of a law is evaluated at n equally weighted particles,
:math:`f(z) = F(\mu_n)`. Its Wasserstein gradient and Hessian at the particles are n times the
ordinary derivatives of f,

.. math:: g_i = n \, \partial_{z_i} f, \qquad (H v)_i = n \sum_j \partial_{z_i} \partial_{z_j} f
    \; v_j ,

so that they do not change when every particle is doubled: g is the gradient of the first
variation, and H acts on vector fields of :math:`L^2(\mu; R^d)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_array
from torch import Tensor

from skwgf._tensor import resolve_device, resolve_dtype, tensor_to_array, to_tensor

if TYPE_CHECKING:
    from skwgf.functionals.combined import Scaled, Sum

__all__ = ["Expansion", "Functional", "expand_by_autograd"]

Device = str | torch.device | None
Precision = DTypeLike | torch.dtype | None


class Expansion(NamedTuple):
    r"""A functional near a cloud, to second order.

    Attributes
    ----------
    value : Tensor of shape ()
        :math:`F(\mu_n)`.

    gradient : Tensor of shape (n, d)
        The Wasserstein gradient, n times the gradient of the value.

    hessian : callable
        Applies the Wasserstein Hessian, n times that of the value, to k vector fields at once:
        from (k, n, d) to (k, n, d).

    Examples
    --------
    >>> import torch
    >>> from skwgf.functionals import PotentialEnergy
    >>> z = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    >>> near = PotentialEnergy(lambda x: x[:, 0] ** 2).fit(z.numpy()).expand(z)
    >>> float(near.value), near.gradient.flatten().tolist()
    (5.0, [2.0, 6.0])
    >>> near.hessian(torch.ones(1, 2, 1, dtype=torch.float64)).flatten().tolist()
    [2.0, 2.0]
    """

    value: Tensor
    gradient: Tensor
    hessian: Callable[[Tensor], Tensor]


class Functional(BaseEstimator, ABC):
    r"""An energy :math:`F(\mu)` of a law, evaluated at equally weighted particles.

    A functional is a small estimator: `fit` takes the data that it is conditioned on, or, for one
    without data, the particles that a minimisation starts from. All other methods work on tensors
    in the precision and on the device of the fit. Functionals add with ``+`` and are multiplied by
    numbers with ``*``.

    Attributes
    ----------
    n_dim_ : int
        Number d of coordinates of a particle.

    length_scale_ : float
        A typical length of the problem, in the unit of the particles: how far a second-order
        expansion may be expected to hold.

    device_, dtype_ : torch.device, torch.dtype
        Where and how precisely the functional is computed.

    Notes
    -----
    A subclass writes the property `learns_from_data`, `fit`, which calls `_settle`, `_value`,
    `_expand` (:func:`expand_by_autograd` serves those without a closed form) and `draw_start`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.functionals import MMD, Functional, PotentialEnergy
    >>> X = [[0.0], [1.0], [2.0]]
    >>> energy = MMD() + 0.5 * PotentialEnergy(lambda x: x[:, 0] ** 2)
    >>> isinstance(energy, Functional), energy.learns_from_data
    (True, True)
    >>> bool(energy.fit(X).value(torch.tensor(X, dtype=torch.float64)) > 0.8)
    True
    """

    n_dim_: int
    length_scale_: float
    device_: torch.device
    dtype_: torch.dtype

    @property
    @abstractmethod
    def learns_from_data(self) -> bool:
        """Whether `fit` conditions on X; otherwise X is the cloud to start from."""

    @abstractmethod
    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Condition on the data, or take the shape of a starting cloud.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Data rows; without data: particles to start from.

        y : array of shape (n_samples,), default=None
            Targets of a regression or class labels, where they are needed.

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
        """Draw particles to start a minimisation from, of shape (n, d)."""

    @abstractmethod
    def _value(self, z: Tensor) -> Tensor:
        """Return the value at checked particles, differentiable in them."""

    @abstractmethod
    def _expand(self, z: Tensor) -> Expansion:
        """Return the expansion at checked particles that need no gradient."""

    def value(self, z: Tensor) -> Tensor:
        """Return the functional at particles.

        Parameters
        ----------
        z : Tensor of shape (n, d)
            Particles.

        Returns
        -------
        Tensor of shape ()
            Differentiable in `z`.

        Raises
        ------
        ValueError
            If `z` does not have d columns in the precision of the fit.
        """
        self._check_particles(z)
        return self._value(z)

    def expand(self, z: Tensor) -> Expansion:
        """Return value, Wasserstein gradient and Hessian products, without a graph.

        Parameters and errors are those of :meth:`value`.
        """
        self._check_particles(z)
        return self._expand(z.detach())

    def __add__(self, other: Functional) -> Sum:
        """Return the sum of two functionals."""
        from skwgf.functionals.combined import Sum

        return Sum(self, other) if isinstance(other, Functional) else NotImplemented

    def __mul__(self, factor: float) -> Scaled:
        """Return the functional times a number."""
        from skwgf.functionals.combined import Scaled

        return Scaled(self, factor) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    def _settle(
        self,
        n_dim: int,
        *,
        length_scale: float,
        follow: DTypeLike,
        device: Device,
        dtype: Precision,
    ) -> None:
        """Set what every fitted functional has; `follow` is the precision of the data."""
        self.device_ = resolve_device(device)
        self.dtype_ = (
            dtype if isinstance(dtype, torch.dtype) else resolve_dtype(dtype, follow, self.device_)
        )
        self.n_dim_ = n_dim
        # A cloud on one spot, or data that are constant, have no length of their own.
        self.length_scale_ = float(length_scale) if length_scale > 0 else 1.0

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        """Copy an array to the device and the precision of the fit."""
        return to_tensor(array, device=self.device_, dtype=self.dtype_)

    def _check_particles(self, z: Tensor) -> None:
        """Refuse particles of another shape or precision."""
        if not hasattr(self, "n_dim_"):
            raise NotFittedError(f"This {type(self).__name__} is not fitted yet: call fit first.")
        if z.ndim != 2 or z.shape[1] != self.n_dim_ or z.dtype != self.dtype_ or len(z) == 0:
            raise ValueError(
                f"Particles must have shape (n, {self.n_dim_}) in {self.dtype_}, as "
                f"{type(self).__name__} was fitted, got shape {tuple(z.shape)} in {z.dtype}."
            )


def expand_by_autograd(value: Callable[[Tensor], Tensor], z: Tensor) -> Expansion:
    """Return the expansion of a function of all particles, by differentiating it twice.

    Parameters
    ----------
    value : callable
        From particles (n, d) to a scalar tensor.

    z : Tensor of shape (n, d)
        Particles.

    Returns
    -------
    Expansion
        The graph of the gradient lives as long as its Hessian products.

    Examples
    --------
    >>> import torch
    >>> from skwgf.functionals.base import expand_by_autograd
    >>> z = torch.tensor([[1.0], [3.0]])
    >>> _, gradient, hessian = expand_by_autograd(lambda z: z.mean() ** 2, z)
    >>> gradient, hessian(torch.ones(1, 2, 1))
    (tensor([[4.],
            [4.]]), tensor([[[2.],
             [2.]]]))
    """
    n = len(z)
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        energy = value(point)
        (slope,) = torch.autograd.grad(energy, point, create_graph=True)

    def hessian(fields: Tensor) -> Tensor:
        if not slope.requires_grad:  # a linear functional
            return torch.zeros_like(fields)
        (product,) = torch.autograd.grad(
            slope,
            point,
            n * fields,
            retain_graph=True,
            is_grads_batched=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return product

    return Expansion(energy.detach(), n * slope.detach(), hessian)


def check_rows(X: Any, functional: Functional) -> NDArray[Any]:
    """Return X as a finite 2-D float array."""
    array: NDArray[Any] = check_array(
        tensor_to_array(X), dtype=[np.float64, np.float32], estimator=functional
    )
    return array


def spread(rows: NDArray[Any]) -> float:
    """Return the root mean square distance of rows from their mean, over the root of d."""
    return float(np.sqrt(np.mean(np.var(rows.astype(np.float64), axis=0))))
