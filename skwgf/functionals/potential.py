"""The mean of a potential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from skwgf.functionals._start import jitter_rows
from skwgf.functionals._trial import try_function
from skwgf.functionals.base import (
    Device,
    Expansion,
    Functional,
    Precision,
    check_rows,
    expand_by_autograd,
    spread,
)

__all__ = ["PotentialEnergy"]


class PotentialEnergy(Functional):
    r"""The mean of a potential, :math:`F(\mu) = \int V \, d\mu`.

    Its Wasserstein gradient is :math:`\nabla V`, and its Hessian acts on each particle alone,
    :math:`(H v)(x) = \nabla^2 V(x) \, v(x)`.

    Parameters
    ----------
    V : callable
        The potential: a torch function from (n, d) to (n,), which can be differentiated twice.

    Attributes
    ----------
    length_scale_ : float
        The spread of the cloud that it is fitted to, 1 for a single particle.

    Raises
    ------
    TypeError
        At `fit`, if `V` cannot be called or does not return a tensor.

    ValueError
        At `fit`, if what `V` returns for the starting cloud has another shape, is not finite, or
        does not depend on the particles by torch operations.

    Notes
    -----
    Without data: X is the cloud to start from. `draw_start` draws its rows with replacement and
    moves them by a tenth of their spread; for one row, which has none, it draws from N(0, I).

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import PotentialEnergy
    >>> well = PotentialEnergy(lambda x: x.pow(4).sum(1) / 4).fit(np.ones((3, 1)))
    >>> _, gradient, hessian = well.expand(torch.tensor([[1.0], [2.0]], dtype=torch.float64))
    >>> gradient.T, hessian(torch.ones(1, 2, 1, dtype=torch.float64)).flatten()
    (tensor([[1., 8.]], dtype=torch.float64), tensor([ 3., 12.], dtype=torch.float64))
    """

    def __init__(self, V: Callable[[Tensor], Tensor]) -> None:
        self.V = V

    @property
    def learns_from_data(self) -> bool:
        """False: X is the cloud to start from."""
        return False

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take the shape of a starting cloud and try the potential there; y is ignored."""
        rows = check_rows(X, self)
        self._settle(
            rows.shape[1],
            length_scale=spread(rows),
            follow=rows.dtype,
            device=device,
            dtype=dtype,
        )
        self._rows = self._tensor(rows)
        try_function(self.V, self._rows, (len(rows),), name="V")
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of the starting cloud, with jitter."""
        return jitter_rows(self._rows, n, self.length_scale_, generator)

    def _value(self, z: Tensor) -> Tensor:
        return self.V(z).mean()

    def _expand(self, z: Tensor) -> Expansion:
        # The rows do not interact, so that one backward pass holds all their Hessian products.
        return expand_by_autograd(self._value, z)
