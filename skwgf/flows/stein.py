r"""The Stein flow of a cloud of particles towards a target density.

Among the unit vectors of a kernel's function space the Stein velocity

.. math:: v(x_i) = \frac1n \sum_j \big[k(x_j, x_i) \, \nabla \log \pi(x_j)
    + \nabla_{x_j} k(x_j, x_i)\big]

is the direction in which the Kullback-Leibler divergence of the particles' law from the target
falls fastest, and it falls at the rate of the squared kernel Stein discrepancy,

.. math:: \frac{d}{dt} KL(\mu_t | \pi) = -\|v\|^2 = -KSD^2(\mu_t | \pi)

for the same kernel [1]_.

References
----------
.. [1] Q. Liu. *Stein variational gradient descent as gradient flow*. NeurIPS 2017,
   arXiv:1704.07520.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skwgf.flows.carriers import Velocity
from skwgf.flows.loop import History
from skwgf.kernels import Kernel
from skwgf.kernels.discrepancy import bootstrap_floor, ksd_squared

__all__ = ["SteinVelocity", "bootstrap_floor", "ksd_plateau", "ksd_squared", "resolvent"]


class SteinVelocity:
    r"""The Stein velocity of a target, as a field for the loop.

    Called with points it returns the velocity, and for the energy the squared kernel Stein
    discrepancy (V-statistic) under the same kernel. For a kernel without one, such as Laplace, the
    energy is the mean of :math:`|v|^2`.

    Parameters
    ----------
    score_fn : callable
        Returns the gradient of the target's log density, (n, d) for (n, d).

    kernel : Kernel
        Its rules, such as a median bandwidth, are resolved at the cloud.

    resolve_every : int, default=1
        Number of calls after which the rules are resolved anew; 0 keeps the first answer.

    Attributes
    ----------
    resolved : Kernel or None
        The kernel with numbers that was used last.

    points, scores : Tensor of shape (n, d) or None
        The points of the last call, and the scores there.

    Notes
    -----
    The rule "median" makes the kernel, and so the energy, move with the cloud; energies compare
    between steps only while the kernel stays.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import ParticleCarrier, run_flow
    >>> from skwgf.flows.stein import SteinVelocity
    >>> from skwgf.kernels import Gaussian
    >>> start = torch.linspace(2.0, 3.0, 20, dtype=torch.float64)[:, None]
    >>> field = SteinVelocity(lambda x: -x, Gaussian("median"))
    >>> cloud = ParticleCarrier(start, field, step_size=0.5)
    >>> result = run_flow(cloud, max_iter=300)
    >>> bool(cloud.particles.mean().abs() < 0.01), bool((cloud.particles.var() - 1).abs() < 0.1)
    (True, True)
    """

    def __init__(
        self,
        score_fn: Callable[[Tensor], Tensor],
        kernel: Kernel,
        resolve_every: int = 1,
    ) -> None:
        if resolve_every < 0:
            raise ValueError(f"resolve_every must not be negative, got {resolve_every!r}.")
        self.score_fn = score_fn
        self.kernel = kernel
        self.resolve_every = resolve_every
        self.resolved: Kernel | None = None
        self.points: Tensor | None = None
        self.scores: Tensor | None = None
        self.age = 0

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity and the energy at the points `x`; `side` is not used."""
        scores = self.score_fn(x)
        if scores.shape != x.shape:
            raise ValueError(
                f"score_fn must return one gradient for each point, shape {tuple(x.shape)}, got "
                f"{tuple(scores.shape)}."
            )
        if self.resolved is None or 0 < self.resolve_every <= self.age:
            self.resolved, self.age = self.kernel.resolve(x), 0
        self.points, self.scores, self.age = x, scores, self.age + 1
        velocity, discrepancy = self.resolved.stein(x, scores)
        rough = not self.resolved.has_discrepancy
        energies = velocity.square().sum(1) if rough else discrepancy
        return Velocity(velocity, float(energies.mean()))

    def state_dict(self) -> dict[str, Any]:
        """Return the kernel in use and its age; a resolved kernel never changes."""
        return {"resolved": self.resolved, "age": self.age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the kernel in use back."""
        self.resolved, self.age = state["resolved"], state["age"]


def ksd_plateau(
    floor: Callable[[], float], *, tol: float = 0.01, patience: int = 20, key: str = "objective"
) -> Callable[[History], bool]:
    """Return a stopping rule: the discrepancy has stalled, below what independent draws have.

    A discrepancy that stalls above the floor is no convergence: the steps are too long or too
    short, or the kernel cannot move the particles where they should be.

    Parameters
    ----------
    floor : callable
        Returns the squared discrepancy to be below, such as the mean or a quantile of
        :func:`bootstrap_floor` at the present particles. It is called at a plateau only.

    tol : float, default=0.01
        Fall, relative to the best value before, that counts as progress. The first value is no
        measure here: clouds start many orders of magnitude away.

    patience : int, default=20
        Number of steps without improvement.

    key : str, default="objective"
        The column of the history with the squared discrepancy.

    Returns
    -------
    callable
        A function of the history.

    Examples
    --------
    >>> from skwgf.flows.stein import ksd_plateau
    >>> rule = ksd_plateau(lambda: 0.1, patience=2)
    >>> rule({"objective": [1.0, 0.2, 0.2, 0.2]}), rule({"objective": [1.0, 0.05, 0.05, 0.05]})
    (False, True)
    """

    def rule(history: History) -> bool:
        values = history[key]
        if len(values) <= patience:
            return False
        best = min(values[:-patience])
        return best - min(values[-patience:]) <= tol * abs(best) and values[-1] <= floor()

    return rule


def resolvent(
    gram_product: Callable[[Tensor], Tensor],
    v: Tensor,
    nu: float,
    *,
    tol: float = 1e-4,
    max_iter: int = 100,
) -> Tensor:
    r"""Solve for the velocity of the regularised Stein flow by conjugate gradients.

    .. math:: \Big((1 - \nu) \frac Kn + \nu I\Big) w = v

    With a kernel's Gram matrix K and its Stein velocity v this is the flow between Stein's
    (:math:`\nu = 1`) and the Wasserstein gradient flow (:math:`\nu \to 0`) [1]_.

    Parameters
    ----------
    gram_product : callable
        Returns K times a tensor of the shape of `v`; K is symmetric and positive semi-definite.

    v : Tensor of shape (n, q)
        Right-hand sides. Each column is solved on its own, all in the same products.

    nu : float
        Weight of the identity, in (0, 1].

    tol : float, default=1e-4
        The residual of each column, relative to the column, at which the iteration ends.

    max_iter : int, default=100
        Largest number of products. What has been reached by then is returned, which is a
        descent direction as well.

    Returns
    -------
    Tensor of shape (n, q)
        The solution w.

    Raises
    ------
    ValueError
        If `nu` is not in (0, 1].

    References
    ----------
    .. [1] Y. He, K. Balasubramanian, B. Sriperumbudur, J. Lu. *Regularized Stein variational
       gradient flow*. Foundations of Computational Mathematics, 2024, arXiv:2211.07861.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.stein import resolvent
    >>> gram = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> w = resolvent(lambda v: gram @ v, torch.tensor([[1.0], [0.0]]), nu=0.5, tol=1e-6)
    >>> torch.allclose(w, torch.tensor([[1.3714], [-0.2286]]), atol=1e-4)
    True
    """
    if not 0 < nu <= 1:
        raise ValueError(f"nu must be above 0 and at most 1, got {nu!r}.")
    scale = (1 - nu) / len(v)
    solution, residual, direction = torch.zeros_like(v), v, v
    squared = residual.square().sum(0)
    goal = tol**2 * squared
    for _ in range(max_iter):
        # A column that has arrived stands still: its next step would be a quotient of roundings.
        active = squared > goal
        if not bool(active.any()):
            break
        image = scale * gram_product(direction) + nu * direction
        length = torch.where(active, squared / (direction * image).sum(0), 0.0)
        solution = solution + length * direction
        residual = residual - length * image
        following = residual.square().sum(0)
        direction = residual + torch.where(active, following / squared, 0.0) * direction
        squared = torch.where(active, following, squared)
    return solution
