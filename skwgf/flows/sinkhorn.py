r"""The velocity of the Sinkhorn flow, and the two simpler ones of the same form.

The debiased entropic map points from a cloud x to a target y,

.. math:: v(x) = T_{x \to y}(x) - T_{x \to x'}(x), \qquad
    T_{x \to y}(x) = \sum_j w_j(x) \, y_j, \quad w_j(x) \propto b_j e^{(g_j - c(x, y_j))/\epsilon},

with x' the cloud itself or an independent batch of the same law. The potential g decides which
energy falls along it:

* ``"sinkhorn"``: g solves the entropic transport problem; minus the Wasserstein gradient of the
  Sinkhorn divergence :math:`S_\epsilon` [1]_;
* ``"kl"``: g = 0, half an iteration, the weights of a kernel density; for p = 2 it is
  :math:`-\epsilon \nabla \log (k*\mu) / (k*\nu)`, :math:`k = e^{-c/\epsilon}`, as in the flow of
  the Kullback-Leibler divergence of the smoothed laws. The mean of that logarithm, times
  :math:`\epsilon`, counts as energy, though its own gradient has one more term;
* ``"mmd"``: no iteration, the weights are not even normalised,
  :math:`v(x) = \sum_j b_j k(x, y_j)(y_j - x) - \sum_j k(x, x'_j)(x'_j - x)/n`; the energy is
  :math:`\epsilon/2` times the squared maximum mean discrepancy.

References
----------
.. [1] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré. *Interpolating between
   optimal transport and MMD using Sinkhorn divergences*. arXiv:1810.08278.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from skwgf.flows.carriers import Velocity
from skwgf.transport._kernel import CrossKernel, SelfKernel
from skwgf.transport._measure import (
    Measure,
    check_agreement,
    entropic_means,
    kernel_direction,
    kernel_means,
    unnormalised,
)
from skwgf.transport._problem import Settings, solve_self
from skwgf.transport._tiles import Workspace
from skwgf.transport._track import PotentialTrack

Kind = Literal["sinkhorn", "kl", "mmd"]


def debiased_map(
    x: Tensor,
    y: Tensor,
    reg: float,
    *,
    other: Tensor | None = None,
    values_x: Tensor | None = None,
    values_y: Tensor | None = None,
    values_other: Tensor | None = None,
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    weights_other: Tensor | None = None,
    velocity: Kind = "sinkhorn",
    p: int = 2,
    tol: float = 1e-4,
    max_iter: int = 1000,
    tiled: bool = False,
) -> Tensor:
    r"""Return :math:`v(x) = T_{x \to y}(x) - T_{x \to x'}(x)` for one cloud, or for many groups.

    With an independent second batch x' of the law of x, of the size of y, both terms have the
    same law when the law of x is that of y: the mean of v then vanishes for any sizes and any
    number of iterations. With x' = x it vanishes at convergence where the clouds are equal.

    Parameters
    ----------
    x : Tensor of shape (n, d) or (k, n, d)
        Points that move; k groups are k independent problems, solved in one call. Groups of
        unequal size are brought to one size by repeating points and dividing their weights.

    y : Tensor of shape (m, d) or (k, m, d)
        Points to move towards.

    reg : float
        Regularisation :math:`\epsilon`, in the unit of the cost.

    other : Tensor of shape (n', d) or (k, n', d), default=None
        The second batch x'; None takes x itself.

    values_x, values_y, values_other : Tensor of shape (..., q), default=None
        What is averaged, one row for each point of x, y and x', where it is not the points that
        enter the cost: rows of data, say, when the points are features of them. `values_x` plays a
        part where x' is x itself and for "mmd".

    weights_x, weights_y, weights_other : Tensor of shape (n,) or (k, n), default=None
        Positive weights, normalised here; None gives equal weights.

    velocity : {"sinkhorn", "kl", "mmd"}, default="sinkhorn"
        Which potential the maps belong to, see :mod:`skwgf.flows.sinkhorn`.

    p : int, default=2
        Power of the distance in the cost :math:`|x - y|^p/p`, 1 or 2.

    tol, max_iter, tiled
        As in :func:`skwgf.transport.sinkhorn.sinkhorn`.

    Returns
    -------
    Tensor of shape (n, q) or (k, n, q)

    Raises
    ------
    ValueError
        If shapes, weights, `reg`, `p` or `velocity` are not as described.

    References
    ----------
    *One-Step Generative Modeling via Wasserstein Gradient Flows*. arXiv:2605.11755.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.sinkhorn import debiased_map
    >>> x = torch.tensor([[0.0], [1.0], [2.0]])
    >>> debiased_map(x, x + 3, reg=0.1, tol=1e-5)
    tensor([[3.0000],
            [3.0000],
            [3.0000]])
    """
    _check_kind(velocity)
    settings = Settings(p, tol, max_iter, tiled)
    mu = Measure.of(x, weights_x, values_x, "x")
    nu = Measure.of(y, weights_y, values_y, "y")
    second = None if other is None else Measure.of(other, weights_other, values_other, "other")
    check_agreement(mu, nu if second is None else second, nu)
    if velocity == "sinkhorn":
        workspace = Workspace()
        toward, _ = entropic_means(mu, nu, reg, settings, workspace=workspace)
        away, _ = entropic_means(mu, second, reg, settings, workspace=workspace)
        direction = toward - away
    else:
        direction, _, _ = kernel_direction(mu, nu, second or mu, reg, p, velocity)
    return direction if x.ndim == 3 else direction[0]


class SinkhornVelocity:
    r"""The velocity of a particle cloud towards a target, warm from one call to the next.

    The field :math:`v(x) = T_{x \to y}(x) - T_{x \to x}(x)` of the cloud x to the target y, with
    the energy of which it is minus the Wasserstein gradient for p = 2: the Sinkhorn divergence
    :math:`S_\epsilon`, or that of `velocity`. Potentials are extrapolated along the path of the
    cloud and the solver's secants carried over, so that a call along a flow takes a few sweeps of
    the kernel.

    Parameters
    ----------
    y : Tensor of shape (m, d)
        Target points.

    reg : float
        Regularisation :math:`\epsilon`, in the unit of the cost. It may be set to another value
        between calls.

    side : Tensor of shape (m, s), default=None
        Coordinates of the target points that enter the cost but do not move.

    weights_y : Tensor of shape (m,), default=None
        Positive weights of the target points; None gives equal weights.

    feature_map : callable, default=None
        The cost compares `feature_map(x)` with `feature_map(y)`, both of shape (n, k), while the
        images are those of the points themselves. None compares the points.

    velocity : {"sinkhorn", "kl", "mmd"}, default="sinkhorn"
        Which potential the maps belong to, see :mod:`skwgf.flows.sinkhorn`.

    p : int, default=2
        Power of the distance in the cost :math:`|x - y|^p/p`, 1 or 2.

    tol, max_iter, tiled
        As in :func:`skwgf.transport.sinkhorn.sinkhorn`. Unless `tiled` one matrix of shape
        (n, max(m, n)) is kept between calls.

    Attributes
    ----------
    marginal_error : float
        The larger of the marginal errors that the last call left; 0 without iterations.

    n_iter : tuple of int
        Sweeps of the last call, for the target and for the cloud itself.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import ParticleCarrier
    >>> from skwgf.flows.sinkhorn import SinkhornVelocity
    >>> y = torch.tensor([[2.0], [3.0]], dtype=torch.float64)
    >>> field = SinkhornVelocity(y, reg=0.1, tol=1e-9)
    >>> carrier = ParticleCarrier(y - 4, field, step_size=0.5, parts=(field,))
    >>> round(carrier.advance()["objective"], 6)
    8.0
    >>> field.at(torch.tensor([[-2.0]], dtype=torch.float64))
    tensor([[4.0000]], dtype=torch.float64)
    """

    def __init__(
        self,
        y: Tensor,
        reg: float,
        *,
        side: Tensor | None = None,
        weights_y: Tensor | None = None,
        feature_map: Callable[[Tensor], Tensor] | None = None,
        velocity: Kind = "sinkhorn",
        p: int = 2,
        tol: float = 1e-4,
        max_iter: int = 1000,
        tiled: bool = False,
    ) -> None:
        _check_kind(velocity)
        self.reg = reg
        self.velocity: Kind = velocity
        self.marginal_error = 0.0
        self.n_iter = (0, 0)
        self._feature_map = feature_map
        self._settings = Settings(p, tol, max_iter, tiled)
        self._target = Measure.of(self._joined(y, side), weights_y, y, "y")
        self._workspace = Workspace()
        self._toward, self._own = PotentialTrack(), PotentialTrack()
        self._target_terms: dict[float, float] = {}
        self._seen: tuple[Measure, Tensor | None, Tensor | None] | None = None

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity and the energy of the cloud `x` of shape (n, d)."""
        mu = Measure.of(self._joined(x, side), None, x, "x")
        check_agreement(mu, self._target, self._target)
        if self.velocity == "sinkhorn":
            return self._converged(mu)
        direction, log_x, log_y = kernel_direction(
            mu, self._target, mu, self.reg, self._settings.p, self.velocity
        )
        self._seen = mu, None, None
        if self.velocity == "kl":
            return Velocity(direction[0], self.reg * float((log_x - log_y).mean()))
        gap = float(log_x.exp().mean() / 2 - log_y.exp().mean()) + self._target_term()
        return Velocity(direction[0], self.reg * gap)

    def at(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return the velocity at points outside the cloud, such as tracers carried along.

        Parameters
        ----------
        x : Tensor of shape (q, d)
            Where to evaluate the field of the cloud of the last call.

        side : Tensor of shape (q, s), default=None
            What travels with these points.

        Returns
        -------
        Tensor of shape (q, d)
        """
        if self._seen is None:
            raise ValueError("The field has no cloud yet: call it on one before asking for `at`.")
        mu, g, f = self._seen
        points = Measure.of(self._joined(x, side), None, x, "x")
        check_agreement(points, mu, mu)
        reg, p = self.reg, self._settings.p
        toward, log_y = kernel_means(points.points, self._target, g, reg, p)
        away, log_x = kernel_means(points.points, mu, f, reg, p)
        if self.velocity == "mmd":
            return unnormalised(points.values, toward, away, log_y, log_x)[0]
        return (toward - away)[0]

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from call to call."""
        return {"toward": self._toward.state_dict(), "own": self._own.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`; `at` waits for the next call."""
        self._toward.load_state_dict(state["toward"])
        self._own.load_state_dict(state["own"])
        self._seen = None

    def _converged(self, mu: Measure) -> Velocity:
        """Return the velocity and the energy of the solved problems."""
        solutions, images = [], []
        for track, nu, kernel in (
            (self._toward, self._target, CrossKernel),
            (self._own, None, SelfKernel),
        ):
            weights = (nu or mu).weights
            mean, solution = entropic_means(
                *(mu, nu, self.reg, self._settings),
                init=track.predict(mu.points, weights.shape[1]),
                workspace=self._workspace,
                secants=track.secants(weights, self.reg, kernel.damping),
            )
            track.record(mu.points, solution)
            solutions.append(solution)
            images.append(mean[0])
        toward, own = solutions
        self.marginal_error = max(float(toward.error), float(own.error))
        self.n_iter = toward.n_iter, own.n_iter
        self._seen = mu, toward.g, own.g
        energy = float((toward.f - own.f).mean() + (self._target.weights * toward.g).sum())
        return Velocity(images[0] - images[1], energy - self._target_term())

    def _target_term(self) -> float:
        """Return the part of the energy that the target alone has, computed once for each reg."""
        if self.reg not in self._target_terms:
            y = self._target
            if self.velocity == "sinkhorn":
                own = solve_self(y.points, y.weights, self.reg, self._settings)
                term = float((y.weights * own.f).sum())
            else:
                _, log_mass = kernel_means(y.points, y, None, self.reg, self._settings.p)
                term = float((y.weights * log_mass.exp()).sum()) / 2
            self._target_terms[self.reg] = term
        return self._target_terms[self.reg]

    def _joined(self, x: Tensor, side: Tensor | None) -> Tensor:
        """Return what enters the cost."""
        features = x if self._feature_map is None else self._feature_map(x)
        return features if side is None else torch.cat([features, side], 1)


def _check_kind(velocity: str) -> None:
    """Raise a ValueError unless `velocity` is known."""
    if velocity not in get_args(Kind):
        raise ValueError(f"velocity must be one of {get_args(Kind)}, got {velocity!r}.")
