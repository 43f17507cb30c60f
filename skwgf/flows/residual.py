r"""The generalised Wasserstein gradient flow: its velocity, learnt from the cloud by a network.

The flow of KL(rho | pi) for a convex cost g of velocities is [1]_

.. math:: v = \nabla g^*(r), \qquad r = \nabla \log \pi - \nabla \log \rho, \qquad
    \frac{d}{dt} \mathrm{KL} = -\mathbb{E}_\rho [v \cdot r] ,

and v is the field f at which

.. math:: \mathcal{L}_g(f) = \mathbb{E}_\rho \bigl[ f \cdot \nabla\log\pi + \operatorname{div} f
    - g(f) \bigr]

is largest, since by parts :math:`\mathbb{E}_\rho \operatorname{div} f =
-\mathbb{E}_\rho f \cdot \nabla\log\rho`. Replaced by the mean over the particles it is unbounded:
a field with a steep slope at each particle would make the divergence as large as one likes. Hence
the small network, the few optimiser steps from where the last ones ended, the particles that are
held out to say when to stop, and a last layer that is solved for, see
:mod:`skwgf.flows.last_layer`: the hidden layers then only supply its features.

The network works in coordinates whitened by the cloud, :math:`z = L^{-1}(x - \bar x)`, where the
score is :math:`L^\top s`, a velocity :math:`L^{-1} v`, and f.s and div f are what they were.

References
----------
.. [1] Z. Cheng, S. Zhang, L. Yu, C. Zhang. *Particle-based variational inference with generalized
   Wasserstein gradient flow*. NeurIPS 2023, arXiv:2310.16516.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from skwgf.flows.affine import ScoreFunction, standardize, whiten
from skwgf.flows.carriers import Velocity
from skwgf.flows.frozen import FrozenVelocity, shorten
from skwgf.flows.last_layer import solve_last_layer
from skwgf.flows.regularizers import (
    EXPONENT_RANGE,
    ExponentRule,
    LpCost,
    Regularizer,
    next_exponent,
)
from skwgf.flows.variational import Cloud, FieldTrainer, InnerFit
from skwgf.nn.divergence import DivergenceMLP, DivergenceNetwork

Parametrization = Literal["residual", "direct"]
Coordinates = Literal["whitened", "raw"]
Whitening = Literal["full", "diagonal"]


def length_limit(r: Tensor, quantile: float) -> float:
    """Return a quantile in (0, 1] of the lengths of the rows of `r`; at 1, no limit at all."""
    return math.inf if quantile >= 1 else float(torch.quantile(r.norm(dim=1), quantile))


class ResidualVelocity:
    r"""The velocity :math:`\nabla g^*(\nabla\log\pi - \nabla\log\rho)`, learnt at every step.

    Each call fits the network to the cloud by Adam, from the weights of the call before. A fifth of
    the particles, chosen anew at each call, only judge: the objective on them is looked at every
    5 optimiser steps, the fit ends after two looks without a better value, and the best weights,
    those of the start among them, are kept. A fixed choice would let the network learn the noise of
    the others over many calls, and end at a field that no further step improves on those few. Then
    the last layer is solved for on all particles.

    Parameters
    ----------
    score_fn : callable
        Gradient of the log density, (n, d) to (n, d); called once per call.

    network : DivergenceNetwork
        The field in whitened coordinates, such as :class:`skwgf.nn.divergence.DivergenceMLP`.
        Trained in place.

    generator : torch.Generator
        Chooses the particles held out; on any device. It belongs to the state, so that a network
        that draws probes from it is restored with the rest.

    cost : Regularizer, default=LpCost(2.0)
        The cost g.

    parametrization : {"residual", "direct"}, default="residual"
        What the network learns. "residual": r, as the best f at p = 2, and the velocity is
        grad g*(r), so that g may change between the steps. "direct": the velocity, as the best f
        for this g. At p = 2 in whitened coordinates both are the same.

    coordinates : {"whitened", "raw"}, default="whitened"
        Where g measures velocities. "whitened" makes the flow affine invariant; in either case the
        network works in whitened coordinates.

    whitening : {"full", "diagonal"}, default="full"
        Whether these are whitened by the covariance, or by the variances alone, as few particles
        allow.

    solve : bool, default=False
        Whether the last layer is solved for, with "residual" and a DivergenceMLP.

    ridge : float, default=0.1
        Of that solution, in [0, 1], see :func:`~skwgf.flows.last_layer.solve_last_layer`.

    score_skip : bool, default=False
        Whether the score itself is added to what the network gives, which then has to learn
        :math:`-\nabla\log\rho` alone. Particles follow their own scores, with all their detail, and
        the steps have to be as short as the steepest asks. With "residual" only.

    exponent_rule : {"dissipation", "conjugate", "frozen"}, default=None
        The quantity that the exponent of an `LpCost` climbs, one step a call, see
        :func:`~skwgf.flows.regularizers.exponent_gradient`. None leaves it.

    exponent_rate : float, default=0.1
        Step of the exponent along the derivative per coordinate.

    exponent_range : tuple of (float, float), default=(1.1, 6.0)
        Least and largest exponent, above 1.

    learning_rate : float, default=3e-3
        Of Adam, positive. A fit that is not finite is undone and cuts it to a tenth.

    betas : tuple of (float, float), default=(0.9, 0.99)
        Decays of Adam's two means. The short memory follows a moving cloud; on one at rest 0.999
        comes much closer to the optimum.

    first_inner_steps : int, default=100
        Largest number of optimiser steps at the first call.

    inner_steps : int, default=10
        Largest number of them at each later call.

    held_out : float, default=0.2
        Share of the particles held out, in [0, 0.5]; at least one unless 0, which takes all steps.
        Without it a field of more freedom than an affine one fits the noise of the cloud.

    clip_quantile : float, default=0.99
        Quantile of \|r\| beyond which residuals are shortened to it, in (0, 1]; 1 shortens none.

    max_speed : float, default=inf
        Largest root mean square of the coordinates of a velocity, in whitened coordinates.

    Attributes
    ----------
    cost : Regularizer
        The present cost.

    last_fit : InnerFit or None
        How the fit of the last call went.

    last_cloud : tuple of Tensor or None
        Particles and scores of the last call, in whitened coordinates.

    Raises
    ------
    ValueError
        If a parameter is out of its range, an exponent rule meets a cost without exponent, or the
        parts do not fit together.

    Notes
    -----
    The energy of the returned velocity is the dissipation :math:`\mathbb{E}[v \cdot r]`, the rate
    at which KL falls, with the clipped residuals. It is itself an estimate from the network: zero
    on the target, and too large where the network follows noise.

    Examples
    --------
    A cloud is carried to N(0, I), and its spread stays that of the target:

    >>> import torch
    >>> from skwgf.flows import ParticleCarrier, run_flow
    >>> from skwgf.flows.residual import ResidualVelocity
    >>> from skwgf.nn.divergence import DivergenceMLP
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = DivergenceMLP(2, (8, 8), generator=generator)
    >>> field = ResidualVelocity(lambda x: -x, network, generator=generator, solve=True)
    >>> start = 1 + 2 * torch.randn(200, 2, generator=generator)
    >>> carrier = ParticleCarrier(start, field, step_size=0.2, parts=(field,))
    >>> result = run_flow(carrier, max_iter=60)
    >>> bool(carrier.particles.mean(0).norm() < 0.01), carrier.particles.std().round(decimals=1)
    (True, tensor(1.))
    """

    def __init__(
        self,
        score_fn: ScoreFunction,
        network: DivergenceNetwork,
        *,
        generator: torch.Generator,
        cost: Regularizer | None = None,
        parametrization: Parametrization = "residual",
        coordinates: Coordinates = "whitened",
        whitening: Whitening = "full",
        solve: bool = False,
        ridge: float = 0.1,
        score_skip: bool = False,
        exponent_rule: ExponentRule | None = None,
        exponent_rate: float = 0.1,
        exponent_range: tuple[float, float] = EXPONENT_RANGE,
        learning_rate: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.99),
        first_inner_steps: int = 100,
        inner_steps: int = 10,
        held_out: float = 0.2,
        clip_quantile: float = 0.99,
        max_speed: float = math.inf,
    ) -> None:
        cost = LpCost(2.0) if cost is None else cost
        _check_choice("parametrization", parametrization, get_args(Parametrization))
        _check_choice("coordinates", coordinates, get_args(Coordinates))
        _check_choice("whitening", whitening, get_args(Whitening))
        if exponent_rule is not None:
            _check_choice("exponent_rule", exponent_rule, get_args(ExponentRule))
            if not isinstance(cost, LpCost):
                raise ValueError(
                    f"exponent_rule={exponent_rule!r} needs an LpCost, got {cost!r}. Pass one, or "
                    "exponent_rule=None."
                )
        if parametrization == "direct" and (solve or score_skip):
            raise ValueError(
                "parametrization='direct' has no solved last layer and no score skip, which are "
                "for the residual. Leave them out, or use 'residual'."
            )
        if solve and not isinstance(network, DivergenceMLP):
            raise ValueError(
                f"solve=True needs a DivergenceMLP, got a {type(network).__name__}. Leave it out."
            )
        _check_steps(first_inner_steps, inner_steps)
        _check_shares(exponent_range, ridge, held_out, clip_quantile)
        self.score_fn = score_fn
        self.network = network
        self.generator = generator
        self.cost = cost
        self.parametrization: Parametrization = parametrization
        self.coordinates: Coordinates = coordinates
        self.whitening = whitening
        self.solve = solve
        self.ridge = ridge
        self.score_skip = score_skip
        self.exponent_rule = exponent_rule
        self.exponent_rate = exponent_rate
        self.exponent_range = exponent_range
        self.first_inner_steps = first_inner_steps
        self.inner_steps = inner_steps
        self.held_out = held_out
        self.clip_quantile = clip_quantile
        self.max_speed = max_speed
        self.last_fit: InnerFit | None = None
        self.last_cloud: tuple[Tensor, Tensor] | None = None
        self._frozen: FrozenVelocity | None = None
        self._trainer = FieldTrainer(network, learning_rate=learning_rate, betas=betas)
        self._n_calls = 0

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity and the dissipation; both are NaN where a score is not finite."""
        scores = self.score_fn(x)
        if not bool(torch.isfinite(scores).all()):
            return Velocity(torch.full_like(x, math.nan), math.nan)
        z, root = whiten(x) if self.whitening == "full" else standardize(x)
        inner = scores @ root
        self.last_cloud = (z, inner)
        field = self._learn(z, inner, root)
        with torch.no_grad():
            output = field(z) + inner if self.score_skip else field(z)
        frozen = FrozenVelocity(
            x.mean(0),
            root,
            field,
            self.cost,
            self.parametrization == "direct",
            self.coordinates == "raw",
            math.inf,
            self.max_speed * math.sqrt(x.shape[1]),
        )
        residual = frozen.residual(output)
        longest = length_limit(residual, self.clip_quantile)
        self._frozen = frozen = replace(frozen, longest=longest)
        residual = shorten(residual, longest)
        speed = self.cost.conjugate_gradient(residual)
        energy = float((speed * residual).sum(1).mean())
        velocity = frozen.velocity(residual)
        if self.exponent_rule is not None and isinstance(self.cost, LpCost):
            p = next_exponent(
                residual, self.cost.p, self.exponent_rule, self.exponent_rate, self.exponent_range
            )
            self.cost = LpCost(p)
        return Velocity(velocity, energy)

    def freeze(self) -> FrozenVelocity:
        """Return the velocity of the last call as a function, which later calls leave alone.

        Raises
        ------
        RuntimeError
            Before the first call, or with `score_skip`, where it is no function of x alone.
        """
        if self._frozen is None or self.score_skip:
            raise RuntimeError(
                "There is no velocity to freeze: call the field first, without skip."
            )
        return replace(self._frozen, field=copy.deepcopy(self._frozen.field))

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of all that later calls depend on."""
        return {
            "trainer": self._trainer.state_dict(),
            "cost": self.cost,
            "n_calls": self._n_calls,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""
        self._trainer.load_state_dict(state["trainer"])
        self.cost = state["cost"]
        self._n_calls = state["n_calls"]
        self.generator.set_state(state["generator"])

    def _learn(self, z: Tensor, scores: Tensor, root: Tensor) -> Callable[[Tensor], Tensor]:
        """Fit the network to a cloud, and return it, or the field of its solved last layer."""
        weight = next(self.network.parameters())
        target = torch.zeros_like(scores) if self.score_skip else scores
        if not self.solve:
            frame = root.to(weight) if self.coordinates == "raw" else None
            self.last_fit = self._fit(Cloud(z.to(weight), target.to(weight), frame))
            return _InPrecision(self.network)
        network = cast(DivergenceMLP, self.network)
        if network.n_hidden > 0:
            self.last_fit = self._fit(Cloud(z.to(weight), target.to(weight), None))
        diagonal = self.whitening == "diagonal"
        return solve_last_layer(network, z, target, ridge=self.ridge, diagonal=diagonal)

    def _split(self, cloud: Cloud) -> tuple[Cloud, Cloud | None]:
        """Return the particles to train on and those held out, chosen anew."""
        n = len(cloud.z)
        count = min(max(1, round(self.held_out * n)), n - 1) if self.held_out > 0 else 0
        if count == 0:
            return cloud, None
        order = torch.randperm(n, generator=self.generator, device=self.generator.device)
        parts = order.to(cloud.z.device).tensor_split([n - count])
        train, test = (Cloud(cloud.z[rows], cloud.scores[rows], cloud.frame) for rows in parts)
        return train, test

    def _fit(self, cloud: Cloud) -> InnerFit:
        """Train the network for this call."""
        n_steps = self.inner_steps if self._n_calls else self.first_inner_steps
        self._n_calls += 1
        if self.parametrization == "direct":
            return self._trainer.fit(*self._split(cloud), self.cost, n_steps)
        # At p = 2 the best field is the residual, in the coordinates in which it is measured.
        return self._trainer.fit(*self._split(cloud._replace(frame=None)), LpCost(2.0), n_steps)


@dataclass(frozen=True, eq=False)
class _InPrecision:
    """A network that takes and gives tensors of any precision."""

    network: DivergenceNetwork

    def __call__(self, z: Tensor) -> Tensor:
        """Return the field at points z (n, d)."""
        output: Tensor = self.network(z.to(next(self.network.parameters())))
        return output.to(z)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a ValueError unless a value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not known. Use one of {choices}.")


def _check_shares(
    exponent_range: tuple[float, float], ridge: float, held_out: float, clip_quantile: float
) -> None:
    """Raise a ValueError for numbers out of their range."""
    if not 1 < exponent_range[0] <= exponent_range[1] < math.inf:
        raise ValueError(f"exponent_range must be ascending, above 1, got {exponent_range!r}.")
    if not 0 <= ridge <= 1:
        raise ValueError(f"ridge must lie in [0, 1], got {ridge!r}.")
    if not 0 <= held_out <= 0.5:
        raise ValueError(f"held_out must lie in [0, 0.5], got {held_out!r}.")
    if not 0 < clip_quantile <= 1:
        raise ValueError(f"clip_quantile must lie in (0, 1], got {clip_quantile!r}.")


def _check_steps(first_inner_steps: int, inner_steps: int) -> None:
    """Raise a ValueError for fits without steps."""
    if min(first_inner_steps, inner_steps) < 1:
        raise ValueError(
            "first_inner_steps and inner_steps must be at least 1, got "
            f"{first_inner_steps} and {inner_steps}."
        )
