r"""How a network follows a flow: regression on moved points.

The law of :math:`G(z)`, z drawn from a reference, moves along a velocity when :math:`G` is
regressed on its own moved output,

.. math:: G(z_i) \approx \zeta_i = \mathrm{stopgrad}\big(G(z_i) + \tau v(G(z_i))\big).

*Persistent training* takes several optimiser steps on the same pairs :math:`(z_i, \zeta_i)`
[1]_. Since the optimal map T from the reference to the target stays the same along the exact
Wasserstein-2 flow, it may also be held to the end: then the pairs are :math:`(z_i, T(z_i))` and
the flow is one regression.

References
----------
.. [1] Y.-J. Huang, Z. Malik. *Generative Modeling by Minimizing the Wasserstein-2 Loss*.
   arXiv:2406.13619.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skwgf.flows.carriers import Draw, RandomStream, VelocityField, rms
from skwgf.nn import Regressor

Update = Callable[[Regressor, float], dict[str, float]]

# "auto" persistence: the network may lag behind the moved points by this share of the step, and
# stops trying after this many optimiser steps.
_LAG = 0.25
_MOST_STEPS = 50


def persistent_update(
    draw: Draw,
    field: VelocityField,
    *,
    step_size: float,
    persistence: int | str,
    batch_size: int,
    on_step: Callable[[float], None] | None = None,
) -> Update:
    r"""Return the update of one outer iteration of persistent training.

    Parameters
    ----------
    draw : callable
        `draw(n)` returns n reference points and what travels with them (or None).

    field : VelocityField
        The velocity.

    step_size : float
        Step :math:`\tau` in flow time.

    persistence : int or "auto"
        Number of optimiser steps on the same pairs. "auto" stops as soon as the network lags
        behind the moved points by less than a quarter of the step, after 50 steps at the latest.

    batch_size : int
        Number of pairs.

    on_step : callable, default=None
        Called after the optimiser steps with the flow time that the network has really made,
        :math:`\tau (1 - lag)`.

    Returns
    -------
    callable
        For :class:`~skwgf.flows.NetworkCarrier`. Its records hold the energy ("objective"), the
        rms displacement ("step"), the rms distance that is left between the network and the moved
        points, as a share of it ("lag"), and the number of optimiser steps ("n_inner").

    Examples
    --------
    A network that starts near 0 follows the velocity :math:`v(x) = 3 - x`:

    >>> import torch
    >>> from skwgf.flows import NetworkCarrier, Velocity, persistent_update, run_flow
    >>> from skwgf.nn import Regressor, mlp
    >>> generator = torch.Generator().manual_seed(0)
    >>> def field(x, side=None):
    ...     return Velocity(3 - x, energy=0.5 * float((3 - x).square().sum(1).mean()))
    >>> update = persistent_update(
    ...     lambda n: (torch.randn(n, 1, generator=generator), None),
    ...     field, step_size=0.2, persistence="auto", batch_size=64,
    ... )
    >>> regressor = Regressor(mlp(1, 1, (16,), generator=generator))
    >>> result = run_flow(NetworkCarrier(regressor, update, max_iter=60), max_iter=60)
    >>> result.history["objective"][-1] < 0.01 * result.history["objective"][0]
    True
    """
    most = _MOST_STEPS if persistence == "auto" else int(persistence)

    def update(regressor: Regressor, progress: float) -> dict[str, float]:
        z, side = draw(batch_size)
        prediction = regressor.module(z)
        x = prediction.detach()
        velocity = field(x, side)
        displacement = step_size * velocity.direction
        target, step = x + displacement, rms(displacement)
        lag, n_inner = math.inf, 0
        while n_inner < most and (persistence != "auto" or lag > _LAG):
            regressor.follow(prediction, target, progress)
            prediction = regressor.module(z)
            lag = rms(target - prediction.detach()) / step if step > 0 else 0.0
            n_inner += 1
        if on_step is not None:
            on_step(step_size * max(0.0, 1.0 - lag))
        return {
            "objective": velocity.energy,
            "step": step,
            "lag": lag,
            "n_inner": float(n_inner),
        }

    return update


class Pairs(RandomStream):
    """Pairs of reference points and images, drawn with replacement.

    Parameters
    ----------
    z, image : Tensor of shape (n, d_in) and (n, d)
        The pairs.

    generator : torch.Generator
        Source of the draws, on the CPU.
    """

    def __init__(self, z: Tensor, image: Tensor, generator: torch.Generator) -> None:
        super().__init__(generator)
        self.z = z
        self.image = image

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        """Return n pairs."""
        index = torch.randint(len(self.z), (n,), generator=self.generator).to(self.z.device)
        return self.z[index], self.image[index]


def pair_update(
    draw: Callable[[int], tuple[Tensor, Tensor]], *, batch_size: int, n_inner: int
) -> Update:
    r"""Return the update that regresses the network on the end points of the exact flow.

    Parameters
    ----------
    draw : callable
        `draw(n)` returns n reference points z and their images :math:`T(z)`.

    batch_size : int
        Number of pairs of one optimiser step.

    n_inner : int
        Number of optimiser steps of one iteration, each on fresh pairs.

    Returns
    -------
    callable
        For :class:`~skwgf.flows.NetworkCarrier`. Its records hold the energy
        :math:`\tfrac12 \mathbb{E} |T(z) - G(z)|^2` ("objective") and the rms distance that is
        left ("step"), on the last pairs of the iteration.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows import pair_update
    >>> from skwgf.nn import Regressor, mlp
    >>> z = torch.linspace(-1, 1, 50)[:, None]
    >>> update = pair_update(lambda n: (z[:n], z[:n] + 1), batch_size=50, n_inner=20)
    >>> regressor = Regressor(mlp(1, 1, (16,), generator=torch.Generator().manual_seed(0)))
    >>> steps = [update(regressor, progress)["step"] for progress in (0.2, 0.4, 0.6, 0.8)]
    >>> steps[-1] < 0.2 * steps[0]
    True
    """

    def update(regressor: Regressor, progress: float) -> dict[str, float]:
        for _ in range(n_inner):
            z, image = draw(batch_size)
            prediction = regressor.module(z)
            regressor.follow(prediction, image, progress)
        step = rms(image - prediction.detach())
        return {"objective": 0.5 * step * step, "step": step}

    return update
