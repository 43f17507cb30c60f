r"""Entropic transport costs between equally weighted clouds, to second order.

With the cost :math:`c_{ij} = |x_i - y_j|^2 / 2` and the plan P of the optimal potentials, moving x
by v moves the potentials by :math:`\varphi, \gamma` and the plan by

.. math:: dP_{ij} = P_{ij} \big(\varphi_i + \gamma_j - (x_i - y_j) \cdot v_i\big) / \epsilon,
    \qquad \sum_j dP_{ij} = 0, \quad \sum_i dP_{ij} = 0 .

The two conditions are a linear system in :math:`\varphi` and :math:`\gamma`. Eliminating
:math:`\gamma` leaves one of the size of x, which is factorised once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skwgf.functionals.base import Expansion
from skwgf.transport.cost import half_squared_distance
from skwgf.transport.entropic_plan import EntropicPlan


def expand_transport(plan: EntropicPlan) -> Expansion:
    """Return the expansion, in x, of the cost of a converged plan between different clouds."""
    x, y, reg = plan.x - plan.y.mean(0), plan.y - plan.y.mean(0), plan.reg
    rates = _conditional(plan)
    means = rates @ y
    second = torch.stack([rates @ (y * y[:, a, None]) for a in range(x.shape[1])], 1)
    mixed = x[:, :, None] * (0.5 * x - means)[:, None, :]
    blocks = second + mixed + mixed.mT  # of r r^T, r = x_i - y_j
    shift = x - means
    back = rates.T / rates.sum(0)[:, None]  # their rows sum to one as well
    # The constant potential, which changes no plan, is given the eigenvalue one.
    factor = _factorise(torch.eye(len(x)).to(x) - rates @ back + 1 / len(x))

    def hessian(fields: Tensor) -> Tensor:
        rows = (shift * fields).sum(2).T  # (n, k): n times the sums of P_ij r_ij . v_i over j
        inner, pulled = (x * fields).sum(2), back @ fields
        columns = back @ inner.T - (y * pulled).sum(2).T  # (m, k)
        phi = torch.cholesky_solve(rows - rates @ columns, factor)
        gamma = columns - back @ phi
        lifted = gamma.T[:, :, None]
        driven = x * (rates @ lifted) - rates @ (y * lifted) + shift * phi.T[:, :, None]
        local = (blocks @ fields.permute(1, 2, 0)).permute(2, 0, 1)
        return fields + (driven - local) / reg

    return Expansion(x.new_tensor(plan.value), shift, hessian)


def expand_self_transport(plan: EntropicPlan) -> Expansion:
    """Return the expansion of half the cost of a converged plan of a cloud with itself."""
    x, reg = plan.x - plan.x.mean(0), plan.reg
    rates = _conditional(plan)
    shift = x - rates @ x
    factor = _factorise(torch.eye(len(x)).to(x) + rates)

    def hessian(fields: Tensor) -> Tensor:
        return torch.stack([product(v) for v in fields])

    def product(v: Tensor) -> Tensor:
        inner, mixed = (x * v).sum(1), x @ v.T
        stretch = (inner[:, None] + inner - mixed - mixed.T).mul_(rates)  # r_ij . (v_i - v_j)
        rows = stretch.sum(1, keepdim=True)
        phi = torch.cholesky_solve(rows, factor)
        driven = shift * phi + x * (rates @ phi) - rates @ (x * phi)
        return v - rates @ v + (driven - x * rows + stretch @ x) / reg

    return Expansion(x.new_tensor(plan.value / 2), shift, hessian)


def _conditional(plan: EntropicPlan) -> Tensor:
    """Return the conditional plan given each point x: rows that sum to one."""
    return ((plan.g - half_squared_distance(plan.x, plan.y)) / plan.reg).softmax(1)


def _factorise(system: Tensor) -> Tensor:
    """Return the Cholesky factor of a symmetric matrix with eigenvalues in [0, 2].

    Clusters that exchange no mass leave it singular up to rounding. The potentials that it then
    cannot tell move no mass either, so that a number above the rounding, added to the diagonal,
    changes no product.
    """
    ridge = 8 * len(system) * torch.finfo(system.dtype).eps
    system = (system + system.T) / 2
    system.diagonal().add_(ridge)
    factor: Tensor = torch.linalg.cholesky(system)
    return factor
