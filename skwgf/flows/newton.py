r"""Saddle-free Newton steps on Wasserstein space.

With the Wasserstein gradient g and Hessian H of a functional :math:`F(\mu)` at a cloud,

.. math:: d = (H^2 + \beta I)^{-1/2} \, g, \qquad x_i \leftarrow x_i - \eta \, d_i .

The matrix is positive definite, so that -d goes down. Along an eigenvector of H with the eigenvalue
:math:`\lambda` the distance to a stationary point is multiplied by

.. math:: 1 - \eta \frac{\lambda}{\sqrt{\lambda^2 + \beta}}

in a step: it falls linearly if :math:`\lambda > 0` and grows if :math:`\lambda < 0`, at rates that
hardly depend on :math:`\lambda` while :math:`|\lambda| \gg \sqrt\beta` [1]_.

References
----------
.. [1] R. Lascu, T. Suzuki. *From Saddle Points Toward Global Minima: A Newton-Type Method on
   Wasserstein Space*. arXiv:2605.17963.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import make_generator
from skwgf.flows._curvature import Krylov, inverse_root
from skwgf.flows._newton_carrier import NewtonCarrier, is_dense, resolve_beta
from skwgf.flows._smoothness import check_finite, check_start, coincident
from skwgf.flows.carriers import rms
from skwgf.flows.loop import History, run_flow
from skwgf.functionals.base import Functional

__all__ = [
    "MinimizeResult",
    "NewtonCarrier",
    "NewtonDirection",
    "check_start",
    "coincident",
    "minimize",
    "wsfn_direction",
]

Method = Literal["wsfn", "newton", "gradient", "perturbed"]
Solver = Literal["auto", "eigh", "lanczos"]
Beta = float | Literal["auto"]

_CHOICES = {
    "method": ("wsfn", "newton", "gradient", "perturbed"),
    "solver": ("auto", "eigh", "lanczos"),
    "noise": ("isotropic", "hessian"),
}


class NewtonDirection(NamedTuple):
    """A saddle-free Newton direction, and what was seen on the way to it.

    Attributes
    ----------
    direction : Tensor of shape (n, d)
        The field d; the step is against it.

    value : float
        The functional.

    gradient_norm : float
        Root mean square over the particles of the length of the gradient.

    beta : float
        The regularisation that was used.

    smallest_ritz : float
        With "eigh" the smallest eigenvalue of the Hessian, else an upper bound of it: the smallest
        Ritz value in the Krylov space of the gradient.

    n_products : int
        Number of Hessian products.

    error : float
        Estimated relative error of the direction; 0 with "eigh".

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import wsfn_direction
    >>> from skwgf.functionals import PotentialEnergy
    >>> start = torch.tensor([[0.1], [2.0]], dtype=torch.float64)
    >>> saddle = PotentialEnergy(lambda x: (x[:, 0] ** 2 - 1) ** 2).fit(start.numpy())
    >>> step = wsfn_direction(saddle, start, beta=1e-8, solver="eigh")
    >>> step.smallest_ritz < 0, (step.direction[:, 0] < 0).tolist()  # the first leaves the top at 0
    (True, [True, False])
    """

    direction: Tensor
    value: float
    gradient_norm: float
    beta: float
    smallest_ritz: float
    n_products: int
    error: float


@dataclass(frozen=True)
class MinimizeResult:
    """How a minimisation ended.

    Attributes
    ----------
    particles : Tensor of shape (n, d)
        The cloud at the end.

    value : float
        The functional there.

    n_iter : int
        Number of steps.

    status : str
        "converged": the gradient is small, and no curvature is negative beyond rounding. "saddle":
        the gradient is small but some curvature is negative. "stalled": no step leads down. Else
        "max_iter", "stopped" (by the monitor), "interrupted" or "non_finite", as in
        :class:`~skwgf.flows.FlowResult`.

    history : dict of str to list of float
        A value a step: "objective" and "gradient_norm" after it, "step" (rms displacement),
        "hessian_products" and "seconds" (since the start); for "wsfn" and "newton" also "beta" and
        "smallest_ritz", before the step.

    hessian_min_eig : float
        Smallest eigenvalue of the Hessian at the end (with Lanczos an upper bound by a random
        start); a positive one makes a stationary cloud a strict local minimum.

    n_products : int
        Number of Hessian products in all.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import minimize
    >>> from skwgf.functionals import PotentialEnergy
    >>> start = torch.tensor([[0.5], [1.5]], dtype=torch.float64)
    >>> bowl = PotentialEnergy(lambda x: x[:, 0].cosh()).fit(start.numpy())
    >>> result = minimize(bowl, start)
    >>> result.converged, round(result.value, 6), round(result.hessian_min_eig, 6)
    (True, 1.0, 1.0)
    """

    particles: Tensor
    value: float
    n_iter: int
    status: str
    history: History
    hessian_min_eig: float
    n_products: int

    @property
    def converged(self) -> bool:
        """Whether the cloud is a minimum to second order."""
        return self.status == "converged"


def wsfn_direction(
    functional: Functional,
    particles: Tensor,
    beta: Beta = "auto",
    solver: Solver = "auto",
    *,
    tol: float = 1e-6,
    max_products: int = 200,
) -> NewtonDirection:
    r"""Return the saddle-free Newton direction :math:`(H^2 + \beta I)^{-1/2} g`.

    Parameters
    ----------
    functional : Functional
        A fitted functional.

    particles : Tensor of shape (n, d)
        Where to compute it.

    beta : float or "auto", default="auto"
        Regularisation, positive, in the unit of a squared curvature. "auto" is :math:`\frac1n
        \sum_i |g_i|^2 / r^2` with r the functional's `length_scale_`: then the root mean square
        of the direction is at most r, a trust region, and beta vanishes with the gradient.

    solver : {"auto", "eigh", "lanczos"}, default="auto"
        Decompose the dense Hessian, n d products; or Lanczos, a few tens. "auto" is "eigh" up to
        300 coordinates.

    tol : float, default=1e-6
        Lanczos takes more products until the estimated relative error is below it.

    max_products : int, default=200
        The most products of Lanczos. The direction that is reached by then goes down too.

    Returns
    -------
    NewtonDirection

    Raises
    ------
    ValueError
        If a parameter is out of its range, or the functional is not finite at the particles.

    References
    ----------
    .. [1] R. Lascu, T. Suzuki. *From Saddle Points Toward Global Minima: A Newton-Type Method on
       Wasserstein Space*. arXiv:2605.17963.

    Examples
    --------
    A bowl of curvature 2, far less than which beta is: Newton's step, to the minimum.

    >>> import torch
    >>> from skwgf.flows.newton import wsfn_direction
    >>> from skwgf.functionals import PotentialEnergy
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> bowl = PotentialEnergy(lambda x: x.square().sum(1)).fit(x)
    >>> wsfn_direction(bowl, x, beta=1e-12).direction
    tensor([[1.],
            [3.]])
    """
    _check_options(beta=beta, solver=solver)
    value, g, product = functional.expand(particles)
    check_finite(functional, value, g)
    regularisation = resolve_beta(beta, g, functional.length_scale_)
    if not bool(g.any()):
        return NewtonDirection(g, float(value), 0.0, regularisation, _some_ritz(product, g), 1, 0.0)
    solution = inverse_root(
        product,
        g,
        regularisation,
        dense=is_dense(solver, particles),
        tol=tol,
        max_products=max_products,
    )
    return NewtonDirection(
        solution.field,
        float(value),
        rms(g),
        regularisation,
        float(solution.values[0]),
        solution.n_products,
        solution.error,
    )


def minimize(
    functional: Functional,
    particles: Tensor,
    *,
    method: Method = "wsfn",
    beta: Beta = "auto",
    solver: Solver = "auto",
    step_size: float = 1.0,
    line_search: bool = True,
    max_step: float | None = None,
    max_iter: int = 200,
    tol: float = 1e-7,
    noise: Literal["isotropic", "hessian"] = "isotropic",
    noise_size: float = 1e-3,
    solver_tol: float = 1e-3,
    generator: torch.Generator | None = None,
    monitor: Callable[[Tensor], bool] | None = None,
) -> MinimizeResult:
    r"""Minimise a functional over the positions of equally weighted particles.

    Parameters
    ----------
    functional : Functional
        A fitted functional, twice differentiable.

    particles : Tensor of shape (n, d)
        Where they start. Particles that coincide stay together.

    method : {"wsfn", "newton", "gradient", "perturbed"}, default="wsfn"
        Saddle-free Newton; Newton's method, which goes to any stationary point; gradient descent;
        or gradient descent with noise at saddles. The last three are there to compare with.

    beta : float or "auto", default="auto"
        See :func:`wsfn_direction`.

    solver : {"auto", "eigh", "lanczos"}, default="auto"
        See :func:`wsfn_direction`.

    step_size : float, default=1.0
        The step :math:`\eta`: the first one tried, or that of all steps without a line search.

    line_search : bool, default=True
        Whether steps are shortened until the functional falls (Armijo; gradient descent also
        lengthens them). Up to rounding it never rises then, and NaN or infinity counts as too
        long. For Newton's method the norm of the gradient takes the place of the functional.

    max_step : float or None, default=None
        Longest way of a particle in one step, to which the whole step is scaled down.

    max_iter : int, default=200
        Largest number of steps.

    tol : float, default=1e-7
        The gradient is small when its root mean square is at most tol times the largest curvature
        times `length_scale_`. Then the smallest curvature decides: a minimum ends the run; a
        saddle is left along a random combination of its directions of negative curvature.

    noise : {"isotropic", "hessian"}, default="isotropic"
        Perturbed descent: white noise [2]_, or a white field to which the Hessian was applied,
        which prefers directions of strong curvature [3]_. It is added every hundred steps at most,
        where the gradient is small and some curvature is negative.

    noise_size : float, default=1e-3
        Perturbed descent: root mean square of the noise, in length scales.

    solver_tol : float, default=1e-3
        Relative error of directions by Lanczos, which take up to 100 products: more exact ones
        hardly save steps.

    generator : torch.Generator, default=None
        Draws kicks and noise. None is one with the seed 0.

    monitor : callable, default=None
        Called with the particles after every step; returning True ends the run.

    Returns
    -------
    MinimizeResult

    Raises
    ------
    ValueError
        If a parameter is out of its range, the functional is not finite at the start, or it is not
        twice differentiable there.

    Warns
    -----
    UserWarning
        If particles coincide at the start.

    Notes
    -----
    Where the energy is flat to its last digit a step has to halve the gradient instead. When no
    step does, the run ends.

    References
    ----------
    .. [1] R. Lascu, T. Suzuki. *From Saddle Points Toward Global Minima: A Newton-Type Method on
       Wasserstein Space*. arXiv:2605.17963.
    .. [2] C. Jin, R. Ge, P. Netrapalli, S. Kakade, M. Jordan. *How to escape saddle points
       efficiently*. ICML 2017, arXiv:1703.00887.
    .. [3] N. Yamamoto, J. Kim, T. Suzuki. *Hessian-guided Perturbed Wasserstein Gradient Flows for
       Escaping Saddle Points*. NeurIPS 2025, arXiv:2509.16974.

    Examples
    --------
    Wells at -1 and 1 with a saddle at 0, where the gradient vanishes:

    >>> import torch
    >>> from skwgf.flows.newton import minimize
    >>> from skwgf.functionals import PotentialEnergy
    >>> start = torch.tensor([[-0.1], [0.0], [0.1]], dtype=torch.float64)
    >>> wells = PotentialEnergy(lambda x: (x.square().sum(1) - 1).square()).fit(start)
    >>> result = minimize(wells, start)
    >>> result.status, result.particles.abs().T.round(decimals=6)
    ('converged', tensor([[1., 1., 1.]], dtype=torch.float64))
    """
    _check_options(
        method=method,
        solver=solver,
        noise=noise,
        beta=beta,
        step_size=step_size,
        max_step=max_step,
        noise_size=noise_size,
        solver_tol=solver_tol,
    )
    generator = make_generator(0) if generator is None else generator
    check_start(functional, particles, generator)
    if bool(coincident(particles).any()):
        warnings.warn(
            "Particles that coincide never separate. Add noise to the start, of a hundredth of its "
            "spread for instance.",
            UserWarning,
            stacklevel=2,
        )
    carrier = NewtonCarrier(
        functional,
        particles,
        generator=generator,
        method=method,
        beta=beta,
        solver=solver,
        step_size=step_size,
        line_search=line_search,
        max_step=max_step,
        noise=noise,
        noise_size=noise_size,
        tol=tol,
        solver_tol=solver_tol,
    )
    result = run_flow(
        carrier,
        max_iter=max_iter,
        stop=lambda history: carrier.verdict is not None,
        monitor=None if monitor is None else lambda k, history: monitor(carrier.particles.clone()),
    )
    smallest = float(carrier.extremes().values[0])
    return MinimizeResult(
        carrier.particles,
        float(carrier.expansion().value),
        result.n_iter,
        carrier.verdict or result.status,
        result.history,
        smallest,
        carrier.n_products,
    )


def _some_ritz(product: Callable[[Tensor], Tensor], g: Tensor) -> float:
    """Return a Rayleigh quotient where the gradient gives no direction."""
    krylov = Krylov(product, torch.ones_like(g))
    krylov.grow(1)
    return krylov.diagonal[0]


def _check_options(**options: Any) -> None:
    """Raise a ValueError for an option out of its range."""
    for name, value in options.items():
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise ValueError(f"{name} must be one of {_CHOICES[name]}, got {value!r}.")
        elif not ((name == "beta" and value == "auto") or (name == "max_step" and value is None)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 < value < float("inf")):
                raise ValueError(f"{name} must be a positive number, got {value!r}.")
