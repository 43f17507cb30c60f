"""The regression step by which a network follows moved particles.

A generator `G` carries the measure: particles `G(z)` are moved to targets, and the network is
regressed on them. This module holds one optimiser step of that regression; the loop lives with
the flows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from skwgf.nn.adam import load_adam_state, make_adam, pack_adam_state

__all__ = [
    "Regressor",
    "constant_schedule",
    "cosine_schedule",
    "norm_loss",
    "squared_loss",
]


def squared_loss(residual: Tensor) -> Tensor:
    r"""Mean squared length :math:`\frac1n \sum_i |r_i|^2` of the rows of `residual`.

    The minimiser is the conditional mean: rows that are pulled to several places end up between.

    Parameters
    ----------
    residual : Tensor of shape (n, d)
        Predictions minus targets.

    Returns
    -------
    Tensor of shape ()

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn import squared_loss
    >>> squared_loss(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    tensor(13.)
    """
    return residual.square().sum(dim=1).mean()


def norm_loss(residual: Tensor, *, delta: float = 1e-2) -> Tensor:
    r"""Mean length :math:`\frac1n \sum_i \sqrt{|r_i|^2 + \delta^2}` of the rows of `residual`.

    Long residuals weigh less than in :func:`squared_loss`, so a network that cannot represent the
    jumps of an optimal map places them sharply instead of bridging them: fewer samples fall
    between the modes.

    Parameters
    ----------
    residual : Tensor of shape (n, d)
        Predictions minus targets.
    delta : float, default=1e-2
        Length below which the loss becomes quadratic, in the (scaled) units of the residual.
        Positive, since the gradient of a length is undefined at 0.

    Returns
    -------
    Tensor of shape ()

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn import norm_loss
    >>> norm_loss(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), delta=1e-6)
    tensor(3.)
    """
    return (residual.square().sum(dim=1) + delta * delta).sqrt().mean()


def cosine_schedule(progress: float, *, warm_up: float = 0.02, floor: float = 0.0) -> float:
    r"""Learning-rate factor: a linear rise, then half a cosine down to `floor`.

    With `w` the warm-up and `p` the progress, the factor is :math:`p / w` for :math:`p < w` and
    :math:`floor + (1 - floor)(1 + \cos(\pi (p - w) / (1 - w))) / 2` after it.

    Parameters
    ----------
    progress : float
        Share of the training that is done; values outside [0, 1] are clipped.
    warm_up : float, default=0.02
        Share of the training in which the factor rises from 0 to 1, in [0, 1).
    floor : float, default=0.0
        Factor at the end, in [0, 1].

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> from skwgf.nn import cosine_schedule
    >>> [round(cosine_schedule(p, warm_up=0.2), 3) for p in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warm_up:
        return progress / warm_up
    angle = math.pi * (progress - warm_up) / (1.0 - warm_up)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(angle))


def constant_schedule(progress: float) -> float:
    """Learning-rate factor 1 at every progress.

    Parameters
    ----------
    progress : float
        Not used.

    Returns
    -------
    float

    Examples
    --------
    >>> from skwgf.nn import constant_schedule
    >>> constant_schedule(0.7)
    1.0
    """
    return 1.0


class Regressor:
    r"""Network, optimiser and averaged weights of a regression on moving targets.

    One :meth:`step` lowers :math:`\ell(G(z) - \zeta)`, :math:`\zeta` held constant, by Adam with
    learning rate ``learning_rate * schedule(progress)`` and then updates the exponential moving
    average :math:`a \leftarrow \beta a + (1 - \beta) w` of the weights. The average starts from
    zero and is divided by :math:`1 - \beta^t` where it is read, so the starting weights leave no
    trace in it. Nothing is random here and nothing is checked: a loss that is not finite is
    returned as it is, after a step that may have spoilt the weights, and the caller goes back by
    :meth:`load_state_dict`.

    Parameters
    ----------
    module : torch.nn.Module
        Network to train, in place. Its buffers are left alone.
    learning_rate : float, default=1e-2
        Largest learning rate, positive.
    betas : tuple of (float, float), default=(0.9, 0.99)
        Decay rates of Adam's two moments, each in [0, 1).
    schedule : callable, default=cosine_schedule
        Factor of the learning rate as a function of the progress in [0, 1].
    loss : callable, default=norm_loss
        Function of the residual of shape (n, d); returns a tensor of shape ().
    max_grad_norm : float or None, default=None
        Longer gradients are shortened to this length; None leaves them.
    ema_decay : float, default=0.995
        Decay of the averaged weights per step, in [0, 1). With 0 the average is the last weights.

    Attributes
    ----------
    module : torch.nn.Module
        The network, with its current weights.
    n_steps : int
        Number of steps taken.

    References
    ----------
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015 (arXiv 1412.6980).

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn import Regressor, mlp, squared_loss
    >>> generator = torch.Generator().manual_seed(0)
    >>> z = torch.randn(256, 1, generator=generator)
    >>> regressor = Regressor(mlp(1, 1, (16,), generator=generator), loss=squared_loss)
    >>> losses = [float(regressor.step(z, 2.0 * z, k / 100)) for k in range(100)]
    >>> losses[-1] < 0.05 * losses[0]
    True
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        learning_rate: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.99),
        schedule: Callable[[float], float] = cosine_schedule,
        loss: Callable[[Tensor], Tensor] = norm_loss,
        max_grad_norm: float | None = None,
        ema_decay: float = 0.995,
    ) -> None:
        if not 0.0 <= ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}. Use 0 for no average.")
        self.module = module
        self.n_steps = 0
        self._learning_rate = learning_rate
        self._schedule = schedule
        self._loss = loss
        self._max_grad_norm = max_grad_norm
        self._ema_decay = ema_decay
        named = dict(module.named_parameters())
        self._names = list(named)
        self._weights = list(named.values())
        self._average = [torch.zeros_like(weight, requires_grad=False) for weight in self._weights]
        self._update_average = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
        self._optimizer = make_adam(self._weights, learning_rate=learning_rate, betas=betas)

    def step(self, z: Tensor, target: Tensor, progress: float) -> Tensor:
        """Take one optimiser step towards ``module(z) = target``.

        Parameters
        ----------
        z : Tensor of shape (n, d_in)
            Inputs of the network.
        target : Tensor of shape (n, d)
            Where the outputs should be; held constant.
        progress : float
            Share of the training that is done, in [0, 1].

        Returns
        -------
        Tensor of shape ()
            The loss before the step, detached; read it only when needed, since reading waits for
            an accelerator.

        Raises
        ------
        ValueError
            If the output of the network and the target differ in shape.
        """
        return self.follow(self.module(z), target, progress)

    def follow(self, prediction: Tensor, target: Tensor, progress: float) -> Tensor:
        """Take one optimiser step from outputs that were computed with the current weights.

        This saves a forward pass where the outputs were needed already, to find the velocity.

        Parameters
        ----------
        prediction : Tensor of shape (n, d)
            Outputs of the network, with their graph.
        target : Tensor of shape (n, d)
            Where the outputs should be; held constant.
        progress : float
            Share of the training that is done, in [0, 1].

        Returns
        -------
        Tensor of shape ()
            The loss before the step, detached.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"The network returned shape {tuple(prediction.shape)} but the target has shape "
                f"{tuple(target.shape)}. Pass one target row per input row."
            )
        loss = self._loss(prediction - target.detach())
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._max_grad_norm is not None:
            clip_grad_norm_(self._weights, self._max_grad_norm)
        self._optimizer.param_groups[0]["lr"] = self._learning_rate * self._schedule(progress)
        self._optimizer.step()
        self._update_average(self._average, self._weights, None)
        self.n_steps += 1
        return loss.detach()

    def is_finite(self) -> bool:
        """Tell whether all weights are finite."""
        return all(bool(torch.isfinite(weight).all()) for weight in self._weights)

    def ema_state(self) -> dict[str, Tensor]:
        """Return the averaged weights by parameter name, as copies.

        Before the first step these are the weights themselves. The dictionary suits
        ``module.load_state_dict(..., strict=False)`` and :func:`torch.func.functional_call`.
        """
        if self.n_steps == 0:
            averaged = [weight.detach().clone() for weight in self._weights]
        else:
            mass = 1.0 - self._ema_decay**self.n_steps
            averaged = [average / mass for average in self._average]
        return dict(zip(self._names, averaged, strict=True))

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Give the module its averaged weights within a ``with`` block, then the current ones.

        Yields
        ------
        torch.nn.Module
            The module itself. Do not take steps inside the block.
        """
        current = [weight.detach().clone() for weight in self._weights]
        try:
            _assign(self._weights, list(self.ema_state().values()))
            yield self.module
        finally:
            _assign(self._weights, current)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that later steps depend on, as copies: weights, average, moments, counter.

        The dictionary is flat and holds tensors only, so it can be written to disk as it is.
        """
        state = {"n_steps": torch.tensor(self.n_steps)}
        for name, weight, average in zip(self._names, self._weights, self._average, strict=True):
            state[f"weight.{name}"] = weight.detach().clone()
            state[f"average.{name}"] = average.clone()
        return state | pack_adam_state(self._optimizer, self._names)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state given by :meth:`state_dict`; the mapping is copied and left unchanged.

        Parameters
        ----------
        state : mapping of str to Tensor
            From a regressor of a module with the same parameters.

        Raises
        ------
        KeyError
            If a parameter of the module is missing from `state`.
        """
        _assign(self._weights, [state[f"weight.{name}"] for name in self._names])
        _assign(self._average, [state[f"average.{name}"] for name in self._names])
        load_adam_state(self._optimizer, self._names, state)
        self.n_steps = int(state["n_steps"])


def _assign(destination: Sequence[Tensor], source: Sequence[Tensor]) -> None:
    """Copy values into tensors in place, outside any graph."""
    with torch.no_grad():
        for kept, value in zip(destination, source, strict=True):
            kept.copy_(value)
