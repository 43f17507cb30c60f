r"""The pair of potential networks of the Wasserstein-2 flow: the map :math:`x - \nabla\phi(x)`.

For the cost :math:`c(x, y) = |x - y|^2 / 2` the Kantorovich problem between the law of `x` and the
target is

.. math::
    \tfrac12 W_2^2 = \max_{\phi, \psi} \; E\,\phi(x) + E\,\psi(y)
    \quad \text{subject to} \quad \phi(x) + \psi(y) \le c(x, y),

with equality at :math:`y = T(x) = x - \nabla\phi(x)`, the optimal map. Both potentials are
networks, :math:`\psi = -\phi + e`, and the constraints are squared penalties on sampled pairs. This
is the potential of the published algorithm; the exact ones of this package are the ones to beat it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skwgf.nn.adam import load_adam_state, make_adam, pack_adam_state
from skwgf.nn.mlp import Activation, mlp

__all__ = ["DualTerms", "NetworkTransport", "dual_terms", "gradient_map"]

# Rows in one pass of the map: the activations of a block stay in the cache.
_BLOCK_ROWS = 2048


class DualTerms(NamedTuple):
    r"""The three parts of the penalised dual problem, tensors of shape ().

    Attributes
    ----------
    value : Tensor
        :math:`E\,\phi(x) + E\,\psi(y)`: half the squared Wasserstein distance at the optimum.
    violation : Tensor
        Mean square of :math:`\max(0, \phi(x) + \psi(y) - c(x, y))` over random pairs, plus the
        same over random pairs of points between them.
    slackness : Tensor
        Mean square of :math:`\phi(x) + \psi(T(x)) - c(x, T(x))`.
    """

    value: Tensor
    violation: Tensor
    slackness: Tensor


def gradient_map(potential: nn.Module, x: Tensor) -> Tensor:
    r"""Return :math:`T(x) = x - \nabla\phi(x)`, detached.

    Parameters
    ----------
    potential : torch.nn.Module
        The function :math:`\phi`, from (n, d) to (n, 1), differentiable and row by row.
    x : Tensor of shape (n, d)
        Points.

    Returns
    -------
    Tensor of shape (n, d)

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.network import gradient_map
    >>> potential = torch.nn.Linear(2, 1, bias=False)
    >>> _ = potential.weight.data.copy_(torch.tensor([[1.0, -2.0]]))
    >>> gradient_map(potential, torch.zeros(1, 2))
    tensor([[-1.,  2.]])
    """
    with torch.enable_grad():
        points = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(potential(points).sum(), points)
    return x.detach() - gradient


def dual_terms(
    potential: nn.Module, excess: nn.Module, x: Tensor, y: Tensor, mixing: Tensor
) -> DualTerms:
    r"""Evaluate the penalised dual problem on as many source rows as target rows.

    Parameters
    ----------
    potential : torch.nn.Module
        :math:`\phi`, from (n, d) to (n, 1).
    excess : torch.nn.Module
        :math:`e = \phi + \psi`, from (n, d) to (n, 1).
    x : Tensor of shape (n, d)
        Source rows in random order, so that row `i` of `x` and of `y` are a random pair.
    y : Tensor of shape (n, d)
        Target rows.
    mixing : Tensor of shape (2, n, 1)
        Weights in [0, 1] that place the interpolated pairs on the segments from `x` to `y`.

    Returns
    -------
    DualTerms
        With their graph.

    Examples
    --------
    Between equal laws the zero potentials are optimal:

    >>> import torch
    >>> from skwgf.nn import mlp
    >>> from skwgf.transport.network import dual_terms
    >>> generator = torch.Generator().manual_seed(0)
    >>> zero = mlp(2, 1, (8,), activation="silu", generator=generator, zero_last=True)
    >>> x, y = torch.randn(2, 16, 2, generator=generator)
    >>> terms = dual_terms(zero, zero, x, y, torch.rand(2, 16, 1, generator=generator))
    >>> [term.item() for term in terms]
    [0.0, 0.0, 0.0]
    """
    between = torch.lerp(x, y, mixing)
    # The map is held constant in the slackness: its gradient vanishes where the pair is optimal,
    # and a second derivative through the network would cost half as much again.
    image = gradient_map(potential, x)
    # One pass of each network for all the points they are needed at.
    phi_x, phi_y, phi_from, phi_to, phi_image = (
        potential(torch.cat([x, y, between[0], between[1], image])).squeeze(1).chunk(5)
    )
    excess_y, excess_to, excess_image = (
        excess(torch.cat([y, between[1], image])).squeeze(1).chunk(3)
    )
    psi_y, psi_to, psi_image = excess_y - phi_y, excess_to - phi_to, excess_image - phi_image
    pairs = phi_x + psi_y - _half_square(x - y)
    between_pairs = phi_from + psi_to - _half_square(between[0] - between[1])
    return DualTerms(
        value=phi_x.mean() + psi_y.mean(),
        violation=pairs.relu().square().mean() + between_pairs.relu().square().mean(),
        slackness=(phi_x + psi_image - _half_square(x - image)).square().mean(),
    )


class NetworkTransport:
    r"""Optimal map towards a target from a pair of potential networks.

    Every call first takes `n_steps` optimiser steps on

    .. math::
        \max_{\phi, e} \; value - \lambda \, (violation + slackness)

    (see :class:`DualTerms`; :math:`\lambda` the penalty) with batches of the rows it is given and
    of the target, and then maps the rows by :math:`x - \nabla\phi(x)`. The networks persist, so
    they follow a slowly moving law. They start at zero, where the map is the identity.

    Parameters
    ----------
    y : Tensor of shape (m, d)
        Target rows, scaled to order one. The networks take their precision and device.
    n_steps : int, default=5
        Optimiser steps per call. With 0 the potential is frozen.
    hidden_layer_sizes : sequence of int, default=(128, 128, 128)
        Widths of the hidden layers of both networks.
    activation : {"relu", "silu", "tanh", "elu"}, default="relu"
        With "relu" the map shifts each of many small pieces rigidly. Along a flow this followed
        clusters and even Gaussian targets more closely than the smooth maps of the others; a
        single smooth map without a flow is better learnt with "silu".
    learning_rate : float, default=5e-4
        Of Adam with betas (0.9, 0.999), positive.
    penalty : float, default=200.0
        Weight :math:`\lambda` of the constraints, positive, for data scaled to order one. The
        value overshoots by a quantity of order :math:`1/\lambda`; on the other hand a map that
        starts far from the target is found several times faster with 20 to 50.
    batch_size : int, default=512
        Rows per optimiser step, drawn with replacement.
    generator : torch.Generator
        Source of the starting weights and of the batches. It is used at every call.

    Attributes
    ----------
    potential : torch.nn.Module
        :math:`\phi`.
    excess : torch.nn.Module
        :math:`e = \phi + \psi`.
    last_terms : DualTerms or None
        The terms on the last batch, before its step; their `value` estimates half the squared
        Wasserstein distance.

    Raises
    ------
    ValueError
        If `y` is not a matrix with rows, or a number is out of its range.

    References
    ----------
    Huang and Malik, "Generative Modeling by Minimizing the Wasserstein-2 Loss"
    (arXiv 2406.13619), algorithm W2-FE.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.network import NetworkTransport
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(200, 1, generator=generator)
    >>> transport = NetworkTransport(
    ...     x + 1.0,
    ...     hidden_layer_sizes=(32, 32),
    ...     activation="silu",
    ...     learning_rate=5e-3,
    ...     penalty=20.0,
    ...     batch_size=128,
    ...     generator=generator,
    ... )
    >>> for _ in range(40):
    ...     image = transport(x)
    >>> bool((image - x - 1.0).abs().mean() < 0.2)
    True
    """

    def __init__(
        self,
        y: Tensor,
        *,
        n_steps: int = 5,
        hidden_layer_sizes: Sequence[int] = (128, 128, 128),
        activation: Activation = "relu",
        learning_rate: float = 5e-4,
        penalty: float = 200.0,
        batch_size: int = 512,
        generator: torch.Generator,
    ) -> None:
        if y.ndim != 2 or len(y) == 0:
            raise ValueError(f"y must be a matrix with at least one row, got {tuple(y.shape)}.")
        if n_steps < 0 or batch_size < 1 or not penalty > 0:
            raise ValueError(
                "n_steps must be at least 0, batch_size at least 1 and penalty positive, got "
                f"n_steps={n_steps}, batch_size={batch_size}, penalty={penalty}."
            )
        self.y = y.detach()
        self.n_steps = n_steps
        self.penalty = penalty
        self.batch_size = batch_size
        self.generator = generator
        self.last_terms: DualTerms | None = None
        self.potential, self.excess = (
            mlp(
                y.shape[1],
                1,
                hidden_layer_sizes,
                activation=activation,
                generator=generator,
                zero_last=True,
                dtype=y.dtype,
                device=y.device,
            )
            for _ in range(2)
        )
        self._networks = nn.ModuleDict({"potential": self.potential, "excess": self.excess})
        named = dict(self._networks.named_parameters())
        self._names = list(named)
        self._optimizer = make_adam(
            list(named.values()), learning_rate=learning_rate, betas=(0.9, 0.999)
        )

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        r"""Improve the potentials on the rows of `x`, then return their images.

        Parameters
        ----------
        x : Tensor of shape (n, d)
            Rows of the moving law, in the precision of the target.
        side : None
            Only there for the signature that all potentials share.

        Returns
        -------
        Tensor of shape (n, d)
            :math:`x - \nabla\phi(x)`, detached. Values that are not finite are returned as they
            are.

        Raises
        ------
        ValueError
            If `side` is given.
        """
        if side is not None:
            raise ValueError(
                "A network potential has no place for class terms, but side was given. Use a "
                "potential that is based on a plan, such as 'minibatch' or 'semidiscrete'."
            )
        for _ in range(self.n_steps):
            self.last_terms = self._improve(x.detach())
        blocks = torch.split(x, _BLOCK_ROWS)
        return torch.cat([gradient_map(self.potential, rows) for rows in blocks])

    def _improve(self, x: Tensor) -> DualTerms:
        """Take one dual step and return the terms before it."""
        with torch.enable_grad():
            terms = dual_terms(
                self.potential, self.excess, self._draw(x), self._draw(self.y), self._draw_mixing()
            )
            loss = self.penalty * (terms.violation + terms.slackness) - terms.value
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return DualTerms(*(term.detach() for term in terms))

    def _draw(self, rows: Tensor) -> Tensor:
        """Draw a batch of rows with replacement."""
        index = torch.randint(
            len(rows), (self.batch_size,), generator=self.generator, device=self.generator.device
        )
        return rows[index.to(rows.device)]

    def _draw_mixing(self) -> Tensor:
        """Draw the places of the interpolated pairs on their segments."""
        mixing = torch.rand(
            (2, self.batch_size, 1), generator=self.generator, device=self.generator.device
        )
        return mixing.to(self.y)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the weights and of the optimiser's state as a flat dictionary.

        The state of the generator belongs to its owner and is not part of it.
        """
        weights = {
            f"weight.{name}": weight.detach().clone()
            for name, weight in self._networks.named_parameters()
        }
        return weights | pack_adam_state(self._optimizer, self._names)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state given by :meth:`state_dict`; the mapping is copied.

        Parameters
        ----------
        state : mapping of str to Tensor
            From a transport with networks of the same sizes.

        Raises
        ------
        KeyError
            If a parameter of the networks is missing from `state`.
        """
        with torch.no_grad():
            for name, weight in self._networks.named_parameters():
                weight.copy_(state[f"weight.{name}"])
        load_adam_state(self._optimizer, self._names, state)


def _half_square(difference: Tensor) -> Tensor:
    """Return half the squared length of each row."""
    return difference.square().sum(dim=1) / 2
