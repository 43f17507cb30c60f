r"""A log density given as a function, on the whole space or on a constrained set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from skwgf._tensor import make_generator
from skwgf.targets._functions import RowFunction, find_form
from skwgf.targets.base import (
    Device,
    Precision,
    Target,
    check_rows,
    differentiate,
    standard_normal,
)
from skwgf.targets.support import parse_support

__all__ = ["LogDensity"]


class LogDensity(Target):
    r"""The density of a log density function, up to a constant.

    On a constrained set the sampler moves in unconstrained coordinates z, and the log-Jacobian of
    x = T(z) is added:

    ============ ====================== ============================================= ==========
    support      set                    map                                           dimensions
    ============ ====================== ============================================= ==========
    "real"       the line               x = z                                         p
    "positive"   x > 0                  x = exp(z)                                    p
    "interval"   low < x < high         x = low + (high - low) / (1 + exp(-z))        p
    "simplex"    x > 0, sum 1           stick breaking                                p - 1
    "ordered"    increasing             x_1 = z_1, x_i = x_{i-1} + exp(z_i)           p
    "torus"      [0, 1), ends joined    x = z modulo 1, no Jacobian                   p
    ============ ====================== ============================================= ==========

    Parameters
    ----------
    fn : callable
        The log density of constrained coordinates x: from a tensor (n, n_features) to (n,), or
        from (n_features,) to a scalar. It is a torch function, or, when `grad` is given, a torch
        or numpy function. Which of these it is, a trial call tells at `fit`.

    n_features : int, default=None
        Number of constrained coordinates; None takes it from `support` or from X.

    support : None, str or tuple, default=None
        None is "real". A name holds for all columns, of which "simplex" and "ordered" make one
        block. A tuple has one entry per block of columns: a name (one column), `(name, size)`, or
        `("interval", size, low, high)`; intervals are (0, 1) unless told.

    batched : bool, default=None
        Whether `fn` and `grad` take all rows at once; None finds out. Functions of one row are
        mapped with :func:`torch.vmap` where it can, else called in a loop.

    grad : callable, default=None
        The gradient of `fn` by x, of the same shape as x; None differentiates `fn` by autograd.
        The gradient by z follows by the chain rule.

    Attributes
    ----------
    n_dim_ : int
        Number of unconstrained coordinates.

    Raises
    ------
    ValueError
        At `fit`, if the dimension is not known or does not agree, `fn` cannot be called, returns a
        wrong shape or cannot be differentiated; if a row of X is outside of the support, or the
        log density or its gradient is not finite there. The row is named.

    Notes
    -----
    `log_prob` of a numpy function carries no graph; `grad_log_prob` uses `grad`.

    Any model that gives a log density and its gradient in numpy is a target. For one of BridgeStan
    on its unconstrained scale, with `n = model.param_unc_num()`::

        LogDensity(model.log_density, n, batched=False,
                   grad=lambda z: model.log_density_gradient(z)[1])

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.targets import LogDensity
    >>> gamma = LogDensity(lambda x: x.log().sum() - x.sum(), support="positive")
    >>> gamma = gamma.fit(np.ones((1, 1)))
    >>> z = torch.zeros(1, 1, dtype=torch.float64)
    >>> gamma.log_prob(z), gamma.grad_log_prob(z)  # z + (z - exp(z)): the mode is at log 2
    (tensor([-1.], dtype=torch.float64), tensor([[1.]], dtype=torch.float64))
    >>> LogDensity(
    ...     lambda x: -0.5 * np.sum(x**2, axis=1), n_features=2, grad=lambda x: -x
    ... ).fit().grad_log_prob(torch.ones(1, 2, dtype=torch.float64))
    tensor([[-1., -1.]], dtype=torch.float64)
    """

    learns_from_data: ClassVar[bool] = False

    def __init__(
        self,
        fn: Callable[[Any], Any],
        n_features: int | None = None,
        *,
        support: str | tuple[Any, ...] | None = None,
        batched: bool | None = None,
        grad: Callable[[Any], Any] | None = None,
    ) -> None:
        self.fn = fn
        self.n_features = n_features
        self.support = support
        self.batched = batched
        self.grad = grad

    def fit(
        self, X: Any = None, y: Any = None, *, device: Device = None, dtype: Precision = None
    ) -> Self:
        """Find out the forms of the functions, and check them at the rows of X.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), default=None
            Points of the support to start from.

        y : None
            Ignored.

        device : str or torch.device, default=None
            None is the CPU.

        dtype : dtype, default=None
            "float32" or "float64"; None follows X, and is float64 without X.

        Returns
        -------
        self
        """
        start = None if X is None else check_rows(X, self, self.n_features)
        n_features = self.n_features if start is None else start.shape[1]
        support = parse_support(self.support, n_features)
        follow = np.dtype(np.float64) if start is None else start.dtype
        self._settle(support, follow=follow, device=device, dtype=dtype)
        z = self.draw_start(support.n_features + 1, make_generator(0, self.device_))
        if start is not None:
            z = self.unconstrain(self._tensor(start))
        self._find_functions(z)
        if start is not None:
            self.check_start(z)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, k) points of N(0, I) in unconstrained coordinates."""
        return standard_normal(self, n, self.n_dim_, generator)

    def _find_functions(self, z: Tensor) -> None:
        """Find out in which form to call `fn` and `grad`, at points that repeat those given."""
        n = self.support_.n_features + 1
        probe = self.support_.constrain(z[torch.arange(n) % len(z)]).x.detach()
        with torch.enable_grad():
            self._try(probe, n)

    def _try(self, probe: Tensor, n: int) -> None:
        """Find out how `fn` and `grad` want their points, and whether they can be used."""
        self._log_density = find_form(
            self.fn,
            probe.requires_grad_(self.grad is None),
            (n,),
            name="fn",
            batched=self.batched,
            may_be_numpy=self.grad is not None,
        )
        self._score: RowFunction | None = None
        if self.grad is not None:
            self._score = find_form(
                self.grad,
                probe,
                tuple(probe.shape),
                name="grad",
                batched=self.batched,
                may_be_numpy=True,
            )
        elif not self._log_density(probe).requires_grad:
            raise ValueError(
                "fn is not differentiable: its result carries no gradient by its argument. Write "
                "it in torch operations, without detach, numpy or item, or pass grad. A constant "
                "may be written as 0 * x.sum(1)."
            )

    def _log_prob(self, z: Tensor, rows: Tensor | None) -> Tensor:
        x, log_jacobian = self.support_.constrain(z)
        return self._log_density(x) + log_jacobian

    def _gradient(self, z: Tensor, rows: Tensor | None) -> Tensor:
        score_fn = self._score
        if score_fn is None:
            return differentiate(lambda z: self._log_prob(z, rows), z)
        score = score_fn(self.support_.constrain(z).x).detach()
        if self.support_.is_real:
            return score

        # Its gradient by z is the chain rule.
        def linearised(z: Tensor) -> Tensor:
            x, log_jacobian = self.support_.constrain(z)
            return (x * score).sum(1) + log_jacobian

        return differentiate(linearised, z)
