"""The Sinkhorn divergence to data rows, to second order."""

from __future__ import annotations

import warnings
from typing import Any, Self

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.functionals._closed_form import closed_form
from skwgf.functionals._discrepancy import parted_rows
from skwgf.functionals._entropic import expand_self_transport, expand_transport
from skwgf.functionals.base import Device, Expansion, Functional, Precision, check_rows, spread
from skwgf.kernels._parameters import check_number
from skwgf.transport.cost import mean_cost
from skwgf.transport.entropic_plan import EntropicPlan
from skwgf.transport.sinkhorn import sinkhorn, sinkhorn_self

__all__ = ["SinkhornDivergence"]

_SHARE = 0.05  # of the mean cost within X, the default of reg
_TOL = 1e-11  # marginal error that the solver is asked for
_ENOUGH = 1e-7  # ... and that goes without a warning: Hessians are then right to about as much
_MAX_SWEEPS = 3000
_MOST_PAIRS = 5 * 10**7  # particles times rows, or particles squared, of a Hessian
_MOST_ROWS = 3000  # whose kernel `fit` holds in memory


class SinkhornDivergence(Functional):
    r"""The debiased entropic transport cost between the particles and the rows of X [1]_.

    .. math:: F(\mu) = OT_\epsilon(\mu, \nu) - \tfrac12 OT_\epsilon(\mu, \mu)
        - \tfrac12 OT_\epsilon(\nu, \nu)

    for the cost :math:`|x - y|^2 / 2`, with :math:`\nu` the law of the rows. It is not negative,
    zero only for the law of the rows, and for small :math:`\epsilon` half the squared Wasserstein
    distance.

    Parameters
    ----------
    reg : float, default=None
        The regularisation :math:`\epsilon`, in the unit of the cost. None takes .05 of the mean
        cost within X.

    Attributes
    ----------
    reg_ : float
        The regularisation used.

    length_scale_ : float
        The spread of X.

    Raises
    ------
    ValueError
        At `fit`, if `reg` is not positive; at `expand`, beyond 5e7 pairs of particles and rows or
        of particles, whose plans have to be in memory.

    Warns
    -----
    ConvergenceWarning
        If the plans did not converge to a marginal error of 1e-7: the Hessian is then neither
        exact nor quite symmetric.

    Notes
    -----
    The gradient is that of the potentials held constant, by their optimality; Hessian products
    differentiate the optimality conditions themselves: n particles and m rows take one dense
    factorisation, :math:`O(n^2 (n + m))`, at each expansion, and :math:`O(n (n + m) d)` for each
    product. All is solved in double precision where the device has it. The value is twice
    differentiable through autograd.

    References
    ----------
    .. [1] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré. *Interpolating
       between optimal transport and MMD using Sinkhorn divergences*. AISTATS 2019,
       arXiv:1810.08278.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import SinkhornDivergence
    >>> energy = SinkhornDivergence(reg=0.1).fit(np.array([[0.0], [1.0]]))
    >>> moved = torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    >>> value, gradient, _ = energy.expand(moved)
    >>> round(float(value), 6), gradient.T.round(decimals=6)
    (2.0, tensor([[2., 2.]], dtype=torch.float64))
    """

    def __init__(self, reg: float | None = None) -> None:
        self.reg = reg

    @property
    def learns_from_data(self) -> bool:
        """True: the particles stand for the rows of X."""
        return True

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Take the rows of X to represent; y is ignored."""
        array = check_rows(X, self)
        self._settle(
            array.shape[1],
            length_scale=spread(array),
            follow=array.dtype,
            device=device,
            dtype=dtype,
        )
        self._rows = self._tensor(array)
        self._centre = self._rows.mean(0)
        self._centred = (self._rows - self._centre).to(best_float(self.device_))
        if self.reg is None:
            self.reg_ = _SHARE * mean_cost(self._centred, self._centred) or 1.0
        else:
            self.reg_ = check_number(self.reg, "reg", "a positive number or None", lambda r: r > 0)
        self._constant = self._self_plan(self._centred).value / 2
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw rows of X, each before any is repeated, with a little noise."""
        return parted_rows(self._rows, n, generator)

    def _value(self, z: Tensor) -> Tensor:
        return closed_form(z, self._plain_value, self._expand)

    def _plain_value(self, z: Tensor) -> Tensor:
        """Return the value without a graph."""
        x = (z - self._centre).to(self._centred)
        value = self._plan(x).value - self._self_plan(x).value / 2 - self._constant
        return z.new_tensor(value)

    def _expand(self, z: Tensor) -> Expansion:
        n, m = len(z), len(self._rows)
        if n * max(n, m) > _MOST_PAIRS:
            raise ValueError(
                f"The Hessian of SinkhornDivergence holds the plans of all pairs: {n} particles "
                f"and {m} rows are more than {_MOST_PAIRS:.0e} pairs. Use fewer particles, a "
                "subset of the rows, or MMD or EnergyDistance."
            )
        x = (z - self._centre).to(self._centred)
        cross = expand_transport(self._plan(x))
        own = expand_self_transport(self._self_plan(x))

        def hessian(fields: Tensor) -> Tensor:
            wide = fields.to(x)
            return (cross.hessian(wide) - own.hessian(wide)).to(fields)

        value = cross.value - own.value - self._constant
        return Expansion(value.to(z), (cross.gradient - own.gradient).to(z), hessian)

    def _plan(self, x: Tensor) -> EntropicPlan:
        """Return the plan from centred particles to the rows."""
        plan = sinkhorn(x, self._centred, self.reg_, tol=_TOL, max_iter=_MAX_SWEEPS)
        return self._checked(plan)

    def _self_plan(self, x: Tensor) -> EntropicPlan:
        """Return the plan of centred points with themselves."""
        tiled = len(x) > _MOST_ROWS
        plan = sinkhorn_self(x, self.reg_, tol=_TOL, max_iter=_MAX_SWEEPS, tiled=tiled)
        return self._checked(plan)

    def _checked(self, plan: EntropicPlan) -> EntropicPlan:
        """Warn of a plan that is too far from optimal to be differentiated twice."""
        if not plan.marginal_error <= _ENOUGH:
            warnings.warn(
                f"The Sinkhorn iterations reached a marginal error of {plan.marginal_error:.1e} "
                f"in {plan.n_iter} sweeps, and the Hessian is right to about as much only. Raise "
                f"reg (now {self.reg_:.3g}).",
                ConvergenceWarning,
                stacklevel=2,
            )
        return plan
