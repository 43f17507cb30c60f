r"""Fitting a vector field to a cloud of particles: the objective, and the training of a network.

The objective is the mean over a cloud of :math:`f \cdot s + \operatorname{div} f - g(f)`, with s
the score of the target and g a convex cost, see :mod:`skwgf.flows.residual`.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from skwgf._warnings import caller_level
from skwgf.flows.regularizers import LpCost, Regularizer
from skwgf.nn.adam import load_adam_state, make_adam, pack_adam_state
from skwgf.nn.divergence import DivergenceMLP, DivergenceNetwork
from skwgf.nn.quadratic import has_closed_gradient, quadratic_gradient

_CHECK_EVERY = 5  # optimiser steps between two looks at the held-out particles
_MOST_RISES = 2  # looks in a row without a better figure
_RATE_CUT = 0.1  # on the learning rate, after a fit that was not finite


class Cloud(NamedTuple):
    """Particles as the network sees them: in whitened coordinates, in its precision.

    Attributes
    ----------
    z, scores : Tensor of shape (n, d)
        Coordinates and scores.

    frame : Tensor of shape (d, d) or None
        Takes a velocity to the coordinates in which g measures it, `f @ frame.T`; None where
        these are the whitened ones.
    """

    z: Tensor
    scores: Tensor
    frame: Tensor | None


class InnerFit(NamedTuple):
    """How the fit of the network in one step of the flow went.

    Attributes
    ----------
    n_steps : int
        Number of optimiser steps taken; the weights kept may be earlier ones.

    trained : float
        The objective on the particles trained on, before the last step.

    held_out : float
        The objective of the weights kept on the particles held out; NaN if there are none.
    """

    n_steps: int
    trained: float
    held_out: float


def variational_objective(network: DivergenceNetwork, cloud: Cloud, cost: Regularizer) -> Tensor:
    r"""Return :math:`\mathcal{L}_g(f)`, the mean of f.s + div f - g(f) over a cloud.

    Parameters
    ----------
    network : DivergenceNetwork
        The field f.

    cloud : Cloud
        The particles.

    cost : Regularizer
        The cost g.

    Returns
    -------
    Tensor of shape ()
        Differentiable in the weights. At its largest it is the mean of g*(r).

    Examples
    --------
    The zero field has the value zero:

    >>> import torch
    >>> from skwgf.flows.regularizers import LpCost
    >>> from skwgf.flows.variational import Cloud, variational_objective
    >>> from skwgf.nn.divergence import DivergenceMLP
    >>> generator = torch.Generator().manual_seed(0)
    >>> network = DivergenceMLP(2, generator=generator, zero_last=True)
    >>> z = torch.ones(4, 2)
    >>> float(variational_objective(network, Cloud(z, -z, None), LpCost(2.0)).detach().abs())
    0.0
    """
    f, divergence = network.value_and_divergence(cloud.z)
    measured = f if cloud.frame is None else f @ cloud.frame.T
    return ((f * cloud.scores).sum(1) + divergence - cost.value(measured)).mean()


class FieldTrainer:
    r"""A network in training: Adam, early stopping by held-out particles, and a way back.

    Parameters
    ----------
    network : DivergenceNetwork
        The field f, trained in place.

    learning_rate : float, default=3e-3
        Of Adam, positive.

    betas : tuple of (float, float), default=(0.9, 0.99)
        Decays of Adam's two means, each in [0, 1).

    Attributes
    ----------
    learning_rate : float
        The present learning rate: a fit that is not finite is undone and cuts it to a tenth.

    References
    ----------
    D. Kingma, J. Ba. *Adam: a method for stochastic optimization*. ICLR 2015, arXiv:1412.6980.

    Examples
    --------
    For the cost |f|^2 / 2 and a centred cloud of unit variance the best linear field is the score
    plus the identity:

    >>> import torch
    >>> from skwgf.flows.regularizers import LpCost
    >>> from skwgf.flows.variational import Cloud, FieldTrainer
    >>> from skwgf.nn.divergence import DivergenceMLP
    >>> network = DivergenceMLP(1, (), generator=torch.Generator().manual_seed(0))
    >>> trainer = FieldTrainer(network, learning_rate=0.03)
    >>> z = torch.tensor([[-1.0], [1.0]])
    >>> fit = trainer.fit(Cloud(z, -3 * z, None), None, LpCost(2.0), 400)
    >>> network(z).detach().round(decimals=3).tolist()
    [[2.0], [-2.0]]
    """

    def __init__(
        self,
        network: DivergenceNetwork,
        *,
        learning_rate: float = 3e-3,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        self.network = network
        self.learning_rate = learning_rate
        named = dict(network.named_parameters())
        self._names, self._weights = list(named), list(named.values())
        self._optimizer = make_adam(self._weights, learning_rate=learning_rate, betas=betas)
        self._by_hand = has_closed_gradient(network)
        self._warned = False

    def fit(self, train: Cloud, test: Cloud | None, cost: Regularizer, n_steps: int) -> InnerFit:
        """Take optimiser steps, and keep the weights that are best on the particles held out.

        Parameters
        ----------
        train : Cloud
            Particles to train on, all of them at every step.

        test : Cloud or None
            Particles to judge by, every 5 steps; the fit ends after two looks in a row without a
            better figure, and the weights of the best look, the one at the start included, are put
            back. None takes all steps and keeps the last weights.

        cost : Regularizer
            The cost g.

        n_steps : int
            Largest number of optimiser steps, at least 1.

        Returns
        -------
        InnerFit

        Warns
        -----
        RuntimeWarning
            The first time that a fit is not finite.
        """
        start = self.state_dict()
        kept = self._copy_weights()
        best = math.nan if test is None else self._judge(test, cost)
        rises = 0
        for step in range(1, n_steps + 1):
            objective = self._climb(train, cost)
            if test is None or step % _CHECK_EVERY:
                continue
            value = self._judge(test, cost)
            # Not a number is no better figure.
            rises = 0 if value > best else rises + 1
            if rises == 0:
                best, kept = value, self._copy_weights()
            elif rises == _MOST_RISES or not math.isfinite(value):
                break
        failed = not (math.isfinite(objective) and self._weights_are_finite())
        if failed:
            self.load_state_dict(start)
            self._cut_rate()
        elif test is not None:
            # Adam's moments run on: put back too, they would point the same way at the next call,
            # to be refused again, and a field that is zero would remain so.
            self._assign(kept)
        return InnerFit(step, float(objective), best)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the weights, of Adam's moments and of the learning rate."""
        weights = zip(self._names, self._copy_weights(), strict=True)
        return {
            "learning_rate": self.learning_rate,
            **{f"weight.{name}": weight for name, weight in weights},
            **pack_adam_state(self._optimizer, self._names),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""
        self.learning_rate = state["learning_rate"]
        self._assign([state[f"weight.{name}"] for name in self._names])
        load_adam_state(self._optimizer, self._names, state)

    def _climb(self, cloud: Cloud, cost: Regularizer) -> Tensor:
        """Take one optimiser step and return the objective before it."""
        if self._by_hand and cloud.frame is None and cost == LpCost(2.0):
            network = cast(DivergenceMLP, self.network)
            objective, gradient = quadratic_gradient(network, cloud.z, cloud.scores)
            for name, weight in zip(self._names, self._weights, strict=True):
                weight.grad = gradient[name].neg_()
        else:
            objective = variational_objective(self.network, cloud, cost)
            self._optimizer.zero_grad(set_to_none=True)
            (-objective).backward()  # type: ignore[no-untyped-call]
        self._optimizer.param_groups[0]["lr"] = self.learning_rate
        self._optimizer.step()
        return objective.detach()

    def _judge(self, cloud: Cloud, cost: Regularizer) -> float:
        """Return the objective on particles that are not trained on."""
        with torch.no_grad():
            return float(variational_objective(self.network, cloud, cost))

    def _weights_are_finite(self) -> bool:
        """Tell whether all weights are finite."""
        return all(bool(torch.isfinite(weight).all()) for weight in self._weights)

    def _cut_rate(self) -> None:
        """Lower the learning rate, with a warning the first time."""
        self.learning_rate *= _RATE_CUT
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            "The fit of the residual was not finite: the network is back at its last good weights, "
            f"and the learning rate is now {self.learning_rate:.1e}. Scale the target to unit "
            "spread, or start the particles closer to it.",
            RuntimeWarning,
            stacklevel=caller_level(),
        )

    def _copy_weights(self) -> list[Tensor]:
        """Return copies of the weights."""
        return [weight.detach().clone() for weight in self._weights]

    def _assign(self, values: list[Tensor]) -> None:
        """Give the weights new values, in place."""
        with torch.no_grad():
            for weight, value in zip(self._weights, values, strict=True):
                weight.copy_(value)
