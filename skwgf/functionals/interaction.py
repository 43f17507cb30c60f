"""The energy of particles that act on each other in pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from sklearn.base import clone
from torch import Tensor

from skwgf.functionals._discrepancy import parted_rows
from skwgf.functionals._pair_sums import PairFunction
from skwgf.functionals._pairs import expand_self, graph_mean, self_value
from skwgf.functionals._radial import differentiated, pair_function
from skwgf.functionals.base import Device, Expansion, Functional, Precision, check_rows, spread
from skwgf.kernels import Kernel

__all__ = ["InteractionEnergy"]

_PROBES = 5  # squared distances that W is tried at, from 0 to those of the starting cloud


class InteractionEnergy(Functional):
    r"""Half the mean of a function of the distance over all pairs of particles.

    .. math:: F(\mu) = \tfrac12 \iint W(|x - x'|^2) \, d\mu(x) \, d\mu(x')

    Parameters
    ----------
    W : callable or Kernel
        A function of the *squared* distances: torch operations, elementwise, from a tensor of any
        shape to one of the same, that can be differentiated twice. Or a kernel of
        :mod:`skwgf.kernels`, whose bandwidth, when it is given as a rule, is taken from X.

    Attributes
    ----------
    kernel_ : Kernel
        The kernel with a number for its bandwidth, where `W` is one.

    length_scale_ : float
        The spread of the starting cloud.

    Raises
    ------
    TypeError
        At `fit`, if `W` is neither a function nor a kernel of the distance.

    ValueError
        At `fit`, if `W` changes the shape, is not elementwise, or has an infinite or undefined
        value or derivative where points coincide, at squared distance 0.

    Notes
    -----
    Each particle makes a pair with itself, so that W, W' and W'' must be finite at 0. The distance
    itself, ``W=torch.sqrt``, and repulsions such as ``-u.log()`` are not: smooth them by a length,
    ``lambda u: (u + 1e-2).sqrt()``. Without data: X is the cloud to start from, and moving all
    particles alike changes nothing.

    Examples
    --------
    Springs between all pairs pull each particle to the mean:

    >>> import numpy as np, torch
    >>> from skwgf.functionals import InteractionEnergy
    >>> springs = InteractionEnergy(lambda u: u / 2).fit(np.ones((2, 1)))
    >>> springs.expand(torch.tensor([[0.0], [4.0]], dtype=torch.float64)).gradient.T
    tensor([[-2.,  2.]], dtype=torch.float64)
    """

    def __init__(self, W: Callable[[Tensor], Tensor] | Kernel) -> None:
        self.W = W

    @property
    def learns_from_data(self) -> bool:
        """False: X is the cloud to start from."""
        return False

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take the shape of a starting cloud and try W on it; y is ignored."""
        array = check_rows(X, self)
        self._settle(
            array.shape[1],
            length_scale=spread(array),
            follow=array.dtype,
            device=device,
            dtype=dtype,
        )
        self._rows = self._tensor(array)
        self._function = self._pair_function()
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of the starting cloud, each before any is repeated, with a little noise."""
        return parted_rows(self._rows, n, generator)

    def _pair_function(self) -> PairFunction:
        """Return W with its derivatives."""
        if isinstance(self.W, Kernel):
            self.kernel_ = clone(self.W).resolve(self._rows)
            return pair_function(self.kernel_)
        if not callable(self.W):
            raise TypeError(
                "W must be a torch function of squared distances or a kernel, got "
                f"{type(self.W).__name__}."
            )
        scale = self.length_scale_**2 * self.n_dim_
        probe = torch.linspace(0, 4 * scale, _PROBES, device=self.device_, dtype=self.dtype_)
        _check_elementwise(self.W, probe)
        function = differentiated(self.W)
        for what, values in zip(("value", "W'", "W''"), function.derivatives(probe), strict=True):
            if not bool(values.isfinite().all()):
                at = float(probe[int((~values.isfinite()).nonzero()[0, 0])])
                raise ValueError(
                    f"W must be finite with its first two derivatives, also where points coincide, "
                    f"but its {what} is {float(values[~values.isfinite()][0])} at squared distance "
                    f"{at:.3g}. Smooth it by a length, as in (u + 1e-2).sqrt() for the distance."
                )
        return function

    def _value(self, z: Tensor) -> Tensor:
        x = z - z.mean(0)
        if x.requires_grad:
            return graph_mean(self._function, x, x) / 2
        return self_value(self._function, x)

    def _expand(self, z: Tensor) -> Expansion:
        return expand_self(self._function, z)


def _check_elementwise(W: Callable[[Tensor], Tensor], probe: Tensor) -> None:
    """Refuse a function that changes the shape, or mixes the entries, of a tensor."""
    result: Any = W(probe.clone())
    if not isinstance(result, Tensor) or result.shape != probe.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise ValueError(
            f"W must map a tensor of squared distances to one of the same shape, got {got} for "
            f"shape {tuple(probe.shape)}."
        )
    alone = torch.cat([W(u[None]) for u in probe])
    if not torch.allclose(result, alone, rtol=1e-4, equal_nan=True):
        raise ValueError(
            "W must act on each squared distance alone: it gives other values for one entry than "
            "for several at once."
        )
