"""Riesz kernels on the torus, given by their Fourier coefficients."""

from __future__ import annotations

import math
from typing import Literal

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

_CUT_OFF = (36.0, 8)  # exp(-36 (|xi|^2 / M^2)^8): 0.9995 at M / 2, 2e-16 at M


class RieszKernel(BaseEstimator):
    r"""A kernel on the torus, by its Fourier coefficients.

    .. math:: \hat k(\xi) = |2 \pi \xi|^{-2 s} \quad (\xi \ne 0), \qquad
        \hat k(0) = \text{zero\_mode}

    Parameters
    ----------
    s : float, default=None
        Order, above 0. None is one for the saturated Coulomb kernel, and else left to the dimension
        of the flow: (d + 3) / 2.

    zero_mode : {0, 1}, default=0
        Coefficient of the constant. With 1 the mean of the score drives all particles alike, at a
        rate :math:`|\nabla \log \pi|^2` that leaves those of all other modes far behind: steps must
        be as small as that. The target is the only point of rest with either.

    kind : {"riesz", "coulomb"}, default="riesz"
        "coulomb" is the saturated Coulomb kernel: s = 1 for resolved modes, times a fast and smooth
        cut-off at :math:`|\xi| = M`. All resolved modes decay at about one rate, in any dimension,
        and the kernel is smooth.

    Raises
    ------
    ValueError
        When used, if a parameter is out of its range.

    References
    ----------
    L. Chizat, M. Colombo, R. Colombo, X. Fernández-Real. *Quantitative Local Convergence of
    Mean-Field Stein Variational Gradient Flow*. arXiv:2605.09456.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import RieszKernel
    >>> squares = torch.tensor([0.0, 1.0, 4.0])  # |xi|^2
    >>> (RieszKernel(2.0).symbol(squares, 8) * (2 * torch.pi) ** 4).tolist()
    [0.0, 1.0, 0.0625]
    """

    def __init__(
        self,
        s: float | None = None,
        zero_mode: int = 0,
        kind: Literal["riesz", "coulomb"] = "riesz",
    ) -> None:
        self.s = s
        self.zero_mode = zero_mode
        self.kind = kind

    def resolve(self, d: int) -> RieszKernel:
        """Return a copy with an order, for a torus of dimension `d`; parameters are checked."""
        if self.kind not in ("riesz", "coulomb"):
            raise ValueError(f"kind must be 'riesz' or 'coulomb', got {self.kind!r}.")
        if self.zero_mode not in (0, 1):
            raise ValueError(f"zero_mode must be 0 or 1, got {self.zero_mode!r}.")
        coulomb = self.kind == "coulomb"
        if coulomb and self.s not in (None, 1):
            raise ValueError(f"The Coulomb kernel has s = 1, got s={self.s!r}: leave s out.")
        s = (1.0 if coulomb else (d + 3) / 2) if self.s is None else float(self.s)
        if not 0 < s < math.inf:
            raise ValueError(f"s must be a positive number, got {self.s!r}.")
        return RieszKernel(s, self.zero_mode, self.kind)

    def symbol(self, squares: Tensor, n_modes: int) -> Tensor:
        r"""Return the Fourier coefficients of a kernel that has an order.

        Parameters
        ----------
        squares : Tensor
            :math:`|\xi|^2`.

        n_modes : int
            Highest resolved frequency M, where the Coulomb kernel is cut off.

        Returns
        -------
        Tensor of the shape of `squares`

        Raises
        ------
        ValueError
            If `s` is None: see :meth:`resolve`.
        """
        order = 1.0 if self.s is None and self.kind == "coulomb" else self.s
        if order is None:
            raise ValueError("This kernel has no order yet: take that of kernel.resolve(d).")
        values = (4 * math.pi**2 * squares.clamp(min=1)) ** -float(order)
        if self.kind == "coulomb":
            strength, power = _CUT_OFF
            values = values * torch.exp(-strength * (squares / n_modes**2) ** power)
        return torch.where(squares == 0, float(self.zero_mode), values)
