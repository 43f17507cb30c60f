r"""Class terms in the cost, so that rows of a class travel together.

Rows :math:`x_i` of a source have labels, rows :math:`y_j` of a target have none. With
:math:`P_{jc}` the probability that :math:`y_j` is of class c, the cost

.. math:: c_{ij} = \tfrac12 |x_i - y_j|^2 - \lambda P_{j, label(i)}

keeps classes together. P is not known: it is found with the plan, in turn. A plan carries the
labels to the target, the graph of nearest neighbours in the target smooths them [1]_, and the
next plan uses the result, with a larger :math:`\lambda`.

The term is a squared distance between extra coordinates, :math:`\sqrt\lambda` times the one-hot
labels on one side and :math:`\sqrt\lambda P` on the other: what :math:`|P_j|^2` adds depends on
j only and is taken up by the potential. So every solver of this package takes it as `side`.

A plan between equal weights gives the classes the shares in the target that they have in the
source. Where these differ it moves rows between classes. So the shares :math:`s` may be found as
well, at a price of :math:`\rho \lambda KL(s | s^{source})`.

References
----------
.. [1] D. Zhou, O. Bousquet, T. N. Lal, J. Weston, B. Schoelkopf. *Learning with local and global
   consistency*. NeurIPS 2003.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from skwgf.transport.cost import mean_cost
from skwgf.transport.label_graph import label_spreading, smooth_labels
from skwgf.transport.sinkhorn import sinkhorn

# The first weight and the price are middle ones: over ten pairs of digit collections a quarter or
# four times the one, a half or twice the other, changed the mean disagreement of neighbours in the
# target, .27 with 400 rows, by at most .013.
# Plans on the way need not be exact: their labels are smoothed and solved for again.
_MARGINAL = 1e-3
_SINKHORN_ITER = 50
# The class term starts at that share of its weight: labels of the first plans are often wrong.
_FIRST_WEIGHT = 0.125
# Price of other class shares, relative to the weight of the class term, and how far shares go
# towards the best ones from one plan to the next.
_SHARE_PRICE = 0.5
_SHARE_STEP = 0.5


def class_coordinates(proba: Tensor, weight: float) -> Tensor:
    r"""Return :math:`\sqrt\lambda P`, the coordinates that add the class term to the cost.

    Parameters
    ----------
    proba : Tensor of shape (n, n_classes)
        Class probabilities; one-hot rows for known labels.

    weight : float
        Weight :math:`\lambda`, in the unit of the cost.

    Returns
    -------
    Tensor of shape (n, n_classes)

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import class_coordinates, half_squared_distance
    >>> sides = class_coordinates(torch.eye(2), weight=4.0)
    >>> half_squared_distance(sides, sides)  # two classes are 4 apart, in the unit of the cost
    tensor([[0., 4.],
            [4., 0.]])
    """
    return math.sqrt(weight) * proba


@torch.no_grad()
def transport_labels(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    *,
    n_classes: int,
    weight: float = 8.0,
    reg: float = 0.03,
    n_rounds: int = 12,
    relax: bool = False,
    operator: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Return class probabilities of the target rows that plan and graph agree on, and shares.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Source rows.

    labels : Tensor of shape (n,), int64
        Their classes, in 0 ... n_classes - 1.

    y : Tensor of shape (m, d)
        Target rows.

    n_classes : int
        Number of classes.

    weight : float, default=8.0
        Weight :math:`\lambda` of the class term, relative to the mean cost between `x` and `y`.
        It rises geometrically, from an eighth of this.

    reg : float, default=0.03
        Regularisation of the plans, relative to the mean cost.

    n_rounds : int, default=12
        Number of plans. The first sees no label.

    relax : bool, default=False
        Whether the shares of the classes in the target may differ from those in the source. Else
        rows of a class that is rarer in the source are given to another.

    operator : Tensor of shape (m, m), default=None
        The graph of the target from :func:`skwgf.transport.label_graph.label_spreading`, where it
        is at hand.

    Returns
    -------
    proba : Tensor of shape (m, n_classes)
        Rows sum to one.

    shares : Tensor of shape (n_classes,)
        Shares of the classes in the last plan, of sum one.

    Examples
    --------
    Two classes, moved far to the right:

    >>> import torch
    >>> from skwgf.transport.labelled import transport_labels
    >>> x = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
    >>> y = torch.tensor([[9.0], [9.1], [8.1], [8.0]])
    >>> proba, shares = transport_labels(x, torch.tensor([0, 0, 1, 1]), y, n_classes=2)
    >>> proba.argmax(1), shares
    (tensor([1, 1, 0, 0]), tensor([0.5000, 0.5000]))
    """
    unit = mean_cost(x, y)
    known = one_hot(labels, n_classes).to(x.dtype)
    first = shares = known.mean(0)
    if unit == 0:
        return shares.expand(len(y), n_classes).clone(), shares
    proba = torch.zeros(len(y), n_classes, dtype=x.dtype, device=x.device)
    init = None
    if operator is None and len(y) > 1:
        operator = label_spreading(y)
    for k in range(n_rounds):
        now = weight * unit * _FIRST_WEIGHT ** (1.0 - k / max(n_rounds - 1, 1))
        source = torch.cat([x, class_coordinates(known, now)], 1)
        target = torch.cat([y, class_coordinates(proba, now)], 1)
        plan = sinkhorn(
            source,
            target,
            reg * unit,
            weights_x=class_weights(labels, shares),
            init=init,
            tol=_MARGINAL,
            max_iter=_SINKHORN_ITER,
        )
        init = (plan.f, plan.g)
        proba = plan.transpose().barycenter(known)
        if operator is not None:
            proba = smooth_labels(proba, operator)
        if relax and weight > 0:
            price = (plan.f @ known) / known.sum(0).clamp_min(1.0)
            cheap = torch.softmax(first.log() - price / (_SHARE_PRICE * now), 0)
            shares = (1.0 - _SHARE_STEP) * shares + _SHARE_STEP * cheap
    return proba, shares


def class_weights(labels: Tensor, shares: Tensor) -> Tensor:
    """Return row weights of sum one, equal within a class, that give the classes these shares."""
    counts = labels.bincount(minlength=len(shares)).to(shares)
    weights = (shares / counts)[labels]
    return weights / weights.sum()
