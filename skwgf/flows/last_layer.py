r"""The last layer of a residual network, solved for instead of trained.

At p = 2 the objective :math:`\mathbb{E}[f \cdot s + \operatorname{div} f - |f|^2 / 2]` is quadratic
in the last layer of f. With the features :math:`\phi` that this layer sees, its best weights are
those of a regression without targets,

.. math:: W = \bigl( \mathbb{E}\, \phi \phi^\top \bigr)^{-1} M, \qquad
    M = \mathbb{E} \bigl[ \phi s^\top + \nabla \phi \bigr] ,

by parts the regression of :math:`\nabla\log\pi - \nabla\log\rho` on the features. First the affine
part is solved for, then the hidden features, made orthogonal to it, with a ridge. The field
vanishes where the Stein identities M = 0 of its features hold on the cloud itself: particles come
to rest there, where a field that is trained, with the noise of its training, keeps them moving.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.nn.divergence import DivergenceMLP

__all__ = ["LastLayer", "solve_last_layer"]


@dataclass(frozen=True, eq=False)
class LastLayer:
    """A field with solved weights: :math:`b + A z + W^T h(z)`, h the hidden features.

    Attributes
    ----------
    network : DivergenceMLP
        Whose hidden layers are the features.

    bias : Tensor of shape (d,)
    linear : Tensor of shape (d, d)
    hidden : Tensor of shape (h, d)
    """

    network: DivergenceMLP
    bias: Tensor
    linear: Tensor
    hidden: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        """Return the field at points z (n, d), differentiable in them."""
        value = z @ self.linear.T + self.bias
        if len(self.hidden) == 0:
            return value
        features = self.network.hidden(z.to(next(self.network.parameters())))
        return value + features.to(z) @ self.hidden


def solve_last_layer(
    network: DivergenceMLP,
    z: Tensor,
    scores: Tensor,
    *,
    ridge: float = 0.1,
    diagonal: bool = False,
) -> LastLayer:
    r"""Return the field whose last layer is the best one on a cloud.

    Parameters
    ----------
    network : DivergenceMLP
        Gives the features; its own last layer and linear skip play no role.

    z : Tensor of shape (n, d)
        Particles of mean zero and unit variances, uncorrelated unless `diagonal`.

    scores : Tensor of shape (n, d)
        Scores in these coordinates; zeros give the estimate of :math:`-\nabla\log\rho`.

    ridge : float, default=0.1
        Weight in [0, 1] of the mean variance of the hidden features against their covariance.

    diagonal : bool, default=False
        Whether the affine part treats each coordinate on its own, as few particles allow.

    Returns
    -------
    LastLayer

    Examples
    --------
    The residual of a standardised cloud under the score -3z is -2z:

    >>> import torch
    >>> from skwgf.flows.last_layer import solve_last_layer
    >>> from skwgf.nn.divergence import DivergenceMLP
    >>> network = DivergenceMLP(1, (), generator=torch.Generator().manual_seed(0))
    >>> z = torch.tensor([[-1.0], [1.0]])
    >>> solve_last_layer(network, z, -3 * z)(z)
    tensor([[ 2.],
            [-2.]])
    """
    n = len(z)
    wide = best_float(z.device)
    bias = scores.mean(0)
    if diagonal:
        linear = torch.diag(1 + (scores * z).mean(0))
    else:
        linear = torch.eye(z.shape[1]).to(z) + scores.T @ z / n
    with torch.no_grad():
        raw, slopes = network.hidden_features(z.to(next(network.parameters())))
    features, gradient = raw.to(wide), slopes.to(wide)
    if features.shape[1] == 0:
        return LastLayer(network, bias, linear, z.new_empty(0, z.shape[1]))
    # What an affine field does not do: for its part hidden features would only add noise.
    mean, tilt = features.mean(0), features.T @ z.to(wide) / n
    if diagonal:
        tilt = torch.zeros_like(tilt)
    bent = features - mean - z.to(wide) @ tilt.T
    rest = (scores - (z @ linear.T + bias)) if diagonal else scores
    defects = bent.T @ rest.to(wide) / n + gradient - tilt
    products = bent.T @ bent / n
    # Features that are constant, as saturated ones are, have only rounding for a variance.
    rounding = torch.finfo(raw.dtype).eps * float(features.square().mean())
    level = max(float(products.diagonal().mean()), rounding, torch.finfo(wide).tiny)
    matrix = (1 - ridge) * products
    matrix.diagonal().add_((ridge + 1e-10) * level)
    hidden = torch.cholesky_solve(defects, torch.linalg.cholesky(matrix))
    return LastLayer(
        network,
        bias - (mean @ hidden).to(z),
        linear - (hidden.T @ tilt).to(z),
        hidden.to(z),
    )
