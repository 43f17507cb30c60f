r"""The default sampler: Stein variational gradient descent that keeps the spread of the target.

The classic velocity shrinks the cloud as the dimension grows. Here it is taken in coordinates z
whitened by the cloud, for the sum of a Gaussian kernel and a linear one,

.. math:: k(z, z') = c\, e^{-|z - z'|^2 / 2d} + 1 + \langle z, z' \rangle, \qquad
    c = (1 + 2/d)^{d/2} ,

where 2d is the mean squared distance of two particles and 1/c the mean of the Gaussian kernel over
a Gaussian cloud. Its Gaussian part is carried by m centres, particles of the cloud, so that a field
is :math:`v(z) = W^\top \phi(z)` with the features :math:`\phi = (1, z, k_G(z, u_1), \dots,
k_G(z, u_m))`. The velocity is the field that regresses :math:`\nabla \log (\pi / \mu)` on them with
a ridge :math:`\nu` in the norm of the kernel [1]_ [2]_. The energy is a kernel Stein discrepancy

.. math:: T = \frac{n^2 \, \mathrm{tr}(M^\top Q^{-1} M)}{\sum_i \mathrm{tr}(A_i^\top Q^{-1} A_i)},
    \quad A_i = \phi(z_i) s_i^\top + \nabla\phi(z_i), \quad M = \tfrac1n \sum_i A_i ,

with Q the matrix of the regression, over its mean for n independent draws of the target: 1 says as
good as these. It is taken for the linear features and for what the Gaussian ones add; the larger of
the two counts.

No smooth field can hold particles in a neck of the density that is narrower than its features:
there they settle on the ridge, where the score that should bring them back vanishes, and drift
outwards for as long as the flow goes on. That is why it stops at a level of T, and why
:func:`fisher_ratio` judges the cloud by an identity that the features do not contain.

References
----------
.. [1] Q. Liu, D. Wang. *Stein variational gradient descent*. NeurIPS 2016, arXiv:1608.04471.
.. [2] Y. He, K. Balasubramanian, B. Sriperumbudur, J. Lu. *Regularized Stein variational gradient
   flow*. 2022, arXiv:2211.07861.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skwgf.flows._stein_features import regress_score_ratio
from skwgf.flows.affine import ScoreFunction, whiten
from skwgf.flows.carriers import ParticleCarrier, Velocity, VelocityField
from skwgf.flows.loop import History

# The Stein identities count as met at 40 / n of their mean square among independent draws, which
# is 1 / n: each is off by some 6 / n then, the share of six particles. Beyond, noise is fitted. In
# low dimension less is fitted, and the level is lower in proportion.
_SHARE, _LEAST_LEVEL, _LARGE_DIMENSION = 40.0, 0.05, 10


def stopping_level(n: int, d: int = _LARGE_DIMENSION) -> float:
    """Return the energy at which a cloud of n particles is as good as such a field makes it.

    Examples
    --------
    >>> from skwgf.flows.whitened import stopping_level
    >>> stopping_level(100), stopping_level(5000), round(stopping_level(100, d=2), 3)
    (0.4, 0.05, 0.08)
    """
    return min(1.0, d / _LARGE_DIMENSION) * min(1.0, max(_SHARE / n, _LEAST_LEVEL))


def at_level(
    level: float, key: str = "objective", *, window: int = 25, fall: float = 0.85
) -> Callable[[History], bool]:
    """Return the stopping rule of the default sampler, on the energy T.

    The run ends when T is at most `level`; or at most 1, as for independent draws, without a value
    in the last `window` below `fall` times the least one before, as happens in high dimension.

    Examples
    --------
    >>> from skwgf.flows.whitened import at_level
    >>> rule = at_level(0.02)
    >>> rule({"objective": [0.5, 0.01]}), rule({"objective": [0.5, 0.4]})
    (True, False)
    >>> rule({"objective": 30 * [0.9]}), rule({"objective": 30 * [1.1]})
    (True, False)
    """

    def rule(history: History) -> bool:
        values = history[key]
        if values[-1] <= level:
            return True
        early, late = values[:-window], values[-window:]
        return bool(early) and values[-1] <= 1 and min(late) > fall * min(early)

    return rule


class WhitenedStein:
    r"""The regularised Stein velocity of a Gaussian and a linear kernel, in whitened coordinates.

    Parameters
    ----------
    score_fn : callable
        Gradient of the log density, (n, d) to (n, d).

    reg : float, default=0.1
        The ridge :math:`\nu` in (0, 1]. At 1 this is plain SVGD with the kernel.

    n_centers : int, default=None
        Number m of centres, every (n/m)-th particle. None takes a fifth of the particles, at most
        100: a field of more freedom follows the noise of few particles.

    bandwidth : float, default=1.0
        Factor on the squared bandwidth 2d.

    linear_weight : float, default=1.0
        Weight of the linear kernel.

    max_speed : float, default=1.0
        Largest root mean square of the coordinates of a particle's velocity, in whitened
        coordinates; longer ones are cut to it.

    level : float, default=None
        Energy at which the cloud is left where it is, so that running on does no harm. None takes
        :func:`stopping_level` of the numbers of particles and coordinates.

    Notes
    -----
    The field keeps no state. It moves with the coordinates: under an affine map of the target and
    of the cloud the particles are mapped likewise, up to rounding, for more than d particles. A
    step costs one evaluation of the score and :math:`O(n (m + d)^2)`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import run_flow
    >>> from skwgf.flows.affine import affine_start
    >>> from skwgf.flows.whitened import at_level, stopping_level, whitened_carrier
    >>> score_fn = lambda x: 2 - x.exp()  # the logarithm of a Gamma(2, 1) variable
    >>> start = torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    >>> x, info = affine_start(score_fn, start)
    >>> cloud = whitened_carrier(score_fn, x)
    >>> result = run_flow(cloud, max_iter=300, stop=at_level(stopping_level(200, 1)))
    >>> result.converged, round(float(cloud.particles.exp().mean()), 1)
    (True, 2.0)
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        *,
        reg: float = 0.1,
        n_centers: int | None = None,
        bandwidth: float = 1.0,
        linear_weight: float = 1.0,
        max_speed: float = 1.0,
        level: float | None = None,
    ) -> None:
        if not 0 < reg <= 1:
            raise ValueError(f"reg must lie in (0, 1], got {reg!r}.")
        if n_centers is not None and n_centers < 1:
            raise ValueError(f"n_centers must be at least 1, got {n_centers!r}.")
        self.score_fn = score_fn
        self.reg = reg
        self.n_centers = n_centers
        self.bandwidth = bandwidth
        self.linear_weight = linear_weight
        self.max_speed = max_speed
        self.level = level

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity and the energy T; both are NaN where a score is not finite."""
        n, d = x.shape
        scores = self.score_fn(x)
        if not bool(torch.isfinite(scores).all()):
            return Velocity(torch.full_like(x, math.nan), math.nan)
        z, root = whiten(x)
        h = 2 * d * self.bandwidth
        centers = _centers(z, self.n_centers)
        fit = regress_score_ratio(z, scores @ root, centers, h, self.reg, self.linear_weight)
        level = stopping_level(n, d) if self.level is None else self.level
        if fit.energy <= level:
            return Velocity(torch.zeros_like(x), fit.energy)
        speed = fit.velocity.norm(dim=1, keepdim=True) / math.sqrt(d)
        velocity = fit.velocity / (speed / self.max_speed).clamp(min=1)
        return Velocity(velocity @ root.T, fit.energy)


def stein_energy(z: Tensor, scores: Tensor) -> float:
    """Return the energy T of a whitened cloud, at the default settings of `WhitenedStein`.

    Parameters
    ----------
    z, scores : Tensor of shape (n, d)
        Particles and scores in whitened coordinates, see :func:`skwgf.flows.affine.whiten`.

    Returns
    -------
    float
        About 1 for independent draws of the target.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.affine import whiten
    >>> from skwgf.flows.whitened import stein_energy
    >>> z, _ = whiten(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)))
    >>> stein_energy(z, -z) < 2 < stein_energy(z, -2 * z)
    True
    """
    return regress_score_ratio(z, scores, _centers(z), 2 * z.shape[1], 0.1, 1.0).energy


def _centers(z: Tensor, n_centers: int | None = None) -> Tensor:
    """Return every (n/m)-th particle; m is a fifth of them, at most 100, unless told."""
    n = len(z)
    m = min(n, n_centers or max(1, min(n // 5, 100)))
    return z[torch.linspace(0, n - 1, m, device=z.device).long()]


class CautiousEuler:
    r"""Euler steps that are undone and halved when the energy rises, and then grow again.

    After a step that raised the energy by more than the factor `rise` above the least one so far,
    the cloud goes back, and a step of half the size is tried; after any other the size grows by
    `growth`, up to `step_size`.

    Parameters
    ----------
    growth : float, default=1.05
        Growth of the size after a step that stands.

    rise : float, default=1.7
        Largest ratio of the energy after a step that stands to the least one, about 1.3 squared.
        Compared with the last one alone, small rises would add up.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import Velocity
    >>> from skwgf.flows.whitened import CautiousEuler
    >>> field = lambda x, side=None: Velocity(-3 * x, float(x.square().sum()))
    >>> stepper, x = CautiousEuler(), torch.ones(1, 1)
    >>> for _ in range(3):
    ...     x, energy = stepper(field, x, 1.0)
    ...     print(round(x.item(), 4), energy)
    -2.0 1.0
    -0.5 1.0
    0.2875 0.25
    """

    def __init__(self, *, growth: float = 1.05, rise: float = 1.7) -> None:
        self.growth = growth
        self.rise = rise
        self.factor = 1.0
        self.least = math.inf
        self.kept: tuple[Tensor, Velocity] | None = None

    def __call__(
        self, field: VelocityField, x: Tensor, step_size: float, side: Tensor | None = None
    ) -> tuple[Tensor, float]:
        """Return the moved points, and the energy of the points that they were moved from."""
        velocity = field(x, side)
        # A comparison with NaN is false: a step into it is undone as well.
        if self.kept is None or velocity.energy <= self.rise * self.least:
            self.kept = (x, velocity)
            self.least = min(velocity.energy, self.least)
            self.factor = min(1.0, self.growth * self.factor)
        else:
            self.factor *= 0.5
        origin, taken = self.kept
        return origin + self.factor * step_size * taken.direction, taken.energy

    def state_dict(self) -> dict[str, Any]:
        """Return the size of the steps, the least energy and the last point that stands."""
        return {"factor": self.factor, "least": self.least, "kept": self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the size, the energy and the point back."""
        self.factor, self.least, self.kept = state["factor"], state["least"], state["kept"]


def whitened_carrier(
    score_fn: ScoreFunction, x: Tensor, *, step_size: float = 0.3, **options: Any
) -> ParticleCarrier:
    """Return the cloud of the default sampler, for :func:`skwgf.flows.run_flow`.

    Parameters
    ----------
    score_fn : callable
        Gradient of the log density, (n, d) to (n, d).

    x : Tensor of shape (n, d)
        Where the cloud starts, as a rule the end of :func:`skwgf.flows.affine.affine_start`.

    step_size : float, default=0.3
        Largest step; at 1 the field would replace the linear part of the defects at once.

    **options
        Parameters of :class:`WhitenedStein`.

    Returns
    -------
    ParticleCarrier
    """
    stepper = CautiousEuler()
    field = WhitenedStein(score_fn, **options)
    return ParticleCarrier(x, field, step_size=step_size, stepper=stepper, parts=(stepper,))


def fisher_ratio(
    score_fn: ScoreFunction, x: Tensor, *, generator: torch.Generator, spacing: float = 1e-3
) -> float:
    r"""Return how far a cloud is from Fisher's identity, an independent check of a sampler.

    .. math:: \mathbb{E}_\pi |s|^2 = -\mathbb{E}_\pi \operatorname{div} s

    holds for the score s of the target, here in coordinates whitened by the cloud. The ratio of the
    two sides is 1 on the target; below it the particles sit too close to ridges of the density
    (necks, stiff directions), above it they stray from them.

    Parameters
    ----------
    score_fn : callable
        Gradient of the log density, (n, d) to (n, d).

    x : Tensor of shape (n, d)
        Particles.

    generator : torch.Generator
        Draws the directions, on its own device, along which the divergence is estimated by a
        central difference: two evaluations of the score.

    spacing : float, default=1e-3
        Length of the difference in whitened coordinates (ten times it in single precision).

    Returns
    -------
    float
        NaN if the mean divergence is not negative.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.whitened import fisher_ratio
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 2, generator=generator, dtype=torch.double)
    >>> [round(fisher_ratio(lambda x: -x, c * x, generator=generator), 1) for c in (1.0, 0.5)]
    [1.0, 0.2]
    """
    _, root = whiten(x)
    scores = score_fn(x) @ root
    coins = torch.randint(2, x.shape, generator=generator, device=generator.device)
    signs = (2 * coins - 1).to(x)
    gap = spacing * (10 if x.dtype == torch.float32 else 1)
    move = gap * signs @ root.T
    slopes = (score_fn(x + move) - score_fn(x - move)) @ root * signs / (2 * gap)
    divergence = float(slopes.sum(1).mean())
    return float(scores.square().sum(1).mean()) / -divergence if divergence < 0 else math.nan
