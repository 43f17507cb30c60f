r"""Transport between a batch of points and a batch of target rows.

The plan is exact or entropic; the image of a point is its barycentre
:math:`T(x_i) = \sum_j \pi_{ij} y_j / \sum_j \pi_{ij}`. A map estimated on batches is biased
towards the batch: subtract the same map onto a second batch of the moving law itself
(:func:`skwgf.flows.debiased_velocity`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skwgf.transport.exact import exact_plan
from skwgf.transport.sinkhorn import sinkhorn


def batch_map(
    x: Tensor,
    y: Tensor,
    *,
    side_x: Tensor | None = None,
    side_y: Tensor | None = None,
    images: Tensor | None = None,
    weights_x: Tensor | None = None,
    reg: float = 0.0,
) -> Tensor:
    r"""Return the barycentric images of the points `x` among the points `y`.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Points to move.

    y : Tensor of shape (m, d)
        Points to move towards.

    side_x, side_y : Tensor of shape (n, k) and (m, k), default=None
        Coordinates that enter the cost :math:`|x - y|^2/2` but not the image.

    images : Tensor of shape (m, k), default=None
        What stands for the rows of `y` in the barycentres, if not these rows: `x` and `y` may be
        features of what is moved.

    weights_x : Tensor of shape (n,), default=None
        Positive weights of the points; None gives equal weights.

    reg : float, default=0.0
        Entropic regularisation in the unit of the cost; 0 is the exact plan.

    Returns
    -------
    Tensor of shape (n, d), or (n, k) with `images`

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import batch_map
    >>> batch_map(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [4.0]]))
    tensor([[4.],
            [5.]])
    """
    a = x if side_x is None else torch.cat([x, side_x], 1)
    b = y if side_y is None else torch.cat([y, side_y], 1)
    images = y if images is None else images
    if reg == 0:
        return exact_plan(a, b, weights_x=weights_x).barycenter(images)
    return sinkhorn(a, b, reg, weights_x=weights_x).barycenter(images)


class MinibatchTransport:
    """Map each batch towards as many target rows, drawn afresh at every call.

    Parameters
    ----------
    y : Tensor of shape (m, d)
        Target rows.

    side : Tensor of shape (m, k), default=None
        Coordinates that enter the cost but not the image.

    reg : float, default=0.0
        Entropic regularisation in the unit of the cost; 0 is the exact plan.

    generator : torch.Generator
        Source of the draws, on the CPU.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import MinibatchTransport
    >>> y = torch.tensor([[10.0], [11.0], [12.0]])
    >>> transport = MinibatchTransport(y, generator=torch.Generator().manual_seed(0))
    >>> transport(torch.tensor([[2.0], [0.0], [1.0]])).flatten()
    tensor([12., 10., 11.])
    """

    def __init__(
        self,
        y: Tensor,
        *,
        side: Tensor | None = None,
        reg: float = 0.0,
        generator: torch.Generator,
    ) -> None:
        self.y = y
        self.side = side
        self.reg = reg
        self.generator = generator

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return the images T(x), of the shape of `x`."""
        size = min(len(x), len(self.y))
        rows = torch.randperm(len(self.y), generator=self.generator)[:size].to(self.y.device)
        side_y = None if self.side is None else self.side[rows]
        return batch_map(x, self.y[rows], side_x=side, side_y=side_y, reg=self.reg)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from call to call: the state of the draws."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state returned by `state_dict`."""
        self.generator.set_state(state["generator"])
