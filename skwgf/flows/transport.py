r"""The velocity of the Wasserstein-2 flow.

The gradient flow of :math:`\mu \mapsto \tfrac12 W_2^2(\mu, \nu)` moves every point towards its
image under the optimal map T from :math:`\mu` to :math:`\nu`,

.. math:: v(x) = T(x) - x, \qquad \tfrac12 W_2^2(\mu, \nu) = \tfrac12 \mathbb{E}\,|v(x)|^2 .

Along the exact flow the optimal map stays the same up to time,
:math:`W_2(\mu_t, \nu) = e^{-t} W_2(\mu_0, \nu)`, and an Euler step of size :math:`\tau` contracts
the distance by exactly :math:`1 - \tau` [1]_.

References
----------
.. [1] Y.-J. Huang, Z. Malik. *Generative Modeling by Minimizing the Wasserstein-2 Loss*.
   arXiv:2406.13619.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from skwgf.flows.carriers import Draw, Velocity, VelocityField
from skwgf.transport import SemidiscreteTransport, batch_map


class TransportMap(Protocol):
    """A map `T(x, side)` from points of the moving law to images of the same shape."""

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return the images of `x`."""


def transport_velocity(transport: TransportMap) -> VelocityField:
    r"""Return the velocity field :math:`v(x) = T(x) - x`.

    Parameters
    ----------
    transport : callable
        The map T, such as :class:`~skwgf.transport.SemidiscreteTransport`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import transport_velocity
    >>> from skwgf.transport import MinibatchTransport
    >>> y = torch.tensor([[2.0], [0.0]])
    >>> transport = MinibatchTransport(y, generator=torch.Generator().manual_seed(0))
    >>> transport_velocity(transport)(torch.tensor([[-1.0], [0.0]]))
    Velocity(direction=tensor([[1.],
            [2.]]), energy=1.25)
    """

    def field(x: Tensor, side: Tensor | None = None) -> Velocity:
        direction = transport(x, side) - x
        return Velocity(direction, 0.5 * float(direction.square().sum(1).mean()))

    return field


def tracked_velocity(transport: SemidiscreteTransport) -> VelocityField:
    r"""Return :math:`v(x) = T(x) - x`, the potential of T corrected on `x` before every use.

    Parameters
    ----------
    transport : SemidiscreteTransport
        The map; its potential must have been solved for at the start of the flow. Hand its
        `shrink` to the carrier as `on_step`, so that the potential keeps pace with large steps.

    Returns
    -------
    VelocityField

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import ParticleCarrier, run_flow, tracked_velocity
    >>> from skwgf.transport import SemidiscreteTransport
    >>> x = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
    >>> transport = SemidiscreteTransport(x + 5)
    >>> _ = transport.solve(x)
    >>> field = tracked_velocity(transport)
    >>> cloud = ParticleCarrier(
    ...     x, field, step_size=0.5, on_step=transport.shrink, parts=(transport,)
    ... )
    >>> _ = run_flow(cloud, max_iter=20)
    >>> bool((cloud.particles - x - 5).abs().max() < 0.05)
    True
    """
    velocity = transport_velocity(transport)

    def field(x: Tensor, side: Tensor | None = None) -> Velocity:
        transport.update(x, side)
        return velocity(x, side)

    return field


def debiased_velocity(
    transport: TransportMap, draw: Draw, batch_size: Callable[[int], int], reg: float
) -> VelocityField:
    r"""Return the two-batch velocity :math:`v(x) = T_{x \to y}(x) - T_{x \to x'}(x)`.

    `x'` is a second, independent batch of the moving law, of the same size as the target batch
    and mapped by the same solver. When the law equals the target, both terms have the same law,
    so that the mean velocity vanishes whatever the batch size and the solver; the one-sided
    :math:`T_{x \to y}(x) - x` does not.

    Parameters
    ----------
    transport : MinibatchTransport
        The map onto batches of the target.

    draw : callable
        `draw(n)` returns n fresh points of the moving law and what travels with them.

    batch_size : callable
        Size of the target batch as a function of the number of points.

    reg : float
        Regularisation of the plans, as in `transport`.

    Returns
    -------
    VelocityField
        Its energy is half the mean squared distance from x to its images.

    Examples
    --------
    Where the law is that of the target the mean velocity vanishes:

    >>> import torch
    >>> from skwgf.flows import debiased_velocity
    >>> from skwgf.transport import MinibatchTransport
    >>> generator = torch.Generator().manual_seed(0)
    >>> y = torch.randn(4000, 1, generator=generator)
    >>> field = debiased_velocity(
    ...     MinibatchTransport(y, generator=generator),
    ...     lambda n: (torch.randn(n, 1, generator=generator), None),
    ...     batch_size=lambda n: n,
    ...     reg=0.0,
    ... )
    >>> x = torch.randn(1000, 1, generator=generator)
    >>> bool(field(x).direction.mean().abs() < 4 * (2 / 1000) ** 0.5)
    True
    """

    def field(x: Tensor, side: Tensor | None = None) -> Velocity:
        toward = transport(x, side)
        other, side_other = draw(batch_size(len(x)))
        direction = toward - batch_map(x, other, side_x=side, side_y=side_other, reg=reg)
        return Velocity(direction, 0.5 * float((toward - x).square().sum(1).mean()))

    return field
