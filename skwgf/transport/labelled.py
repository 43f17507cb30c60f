r"""Class terms in the cost, so that rows of a class travel together.

Rows :math:`x_i` of a source have labels, rows :math:`y_j` of a target have none. With
:math:`P_{jc}` the probability that :math:`y_j` is of class c, the cost

.. math:: c_{ij} = \tfrac12 |x_i - y_j|^2 - \lambda P_{j, label(i)}

keeps classes together. P is not known: it is found with the plan, in turn. A plan carries the
labels to the target, the graph of nearest neighbours in the target smooths them [1]_, and the
next plan uses the result. The rows stay where they are meanwhile, since intermediate positions
along the exact flow do not change the plan.

The term is a squared distance between extra coordinates, :math:`\sqrt\lambda` times the one-hot
labels on one side and :math:`\sqrt\lambda P` on the other: what :math:`|P_j|^2` adds depends on
j only and is taken up by the potential. So every solver of this package takes it as `side`.

References
----------
.. [1] D. Zhou, O. Bousquet, T. N. Lal, J. Weston, B. Schoelkopf. *Learning with local and global
   consistency*. NeurIPS 2003.
"""

from __future__ import annotations

import math

import torch
from sklearn.neighbors import kneighbors_graph
from torch import Tensor
from torch.nn.functional import one_hot

from skwgf._tensor import to_numpy, to_tensor
from skwgf.transport.cost import mean_cost
from skwgf.transport.sinkhorn import sinkhorn

# Weight of the neighbours' labels against the row's own in the smoothing, the number of its
# sweeps (.9^50 = .005 of the start is left), and that of neighbours.
_SPREAD = 0.9
_SWEEPS = 50
_NEIGHBORS = 8
# Plans on the way need not be exact: their labels are smoothed and solved for again.
_MARGINAL = 1e-3
_SINKHORN_ITER = 50


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


def label_spreading(y: Tensor, *, n_neighbors: int = _NEIGHBORS) -> Tensor:
    r"""Return the operator :math:`S = D^{-1/2} A D^{-1/2}` of the neighbours' graph.

    Parameters
    ----------
    y : Tensor of shape (m, d)
        Rows.

    n_neighbors : int, default=8
        Each row is joined to that many nearest rows; the graph is made symmetric.

    Returns
    -------
    Tensor of shape (m, m)
        Sparse (COO).
    """
    n_neighbors = min(n_neighbors, len(y) - 1)
    graph = kneighbors_graph(to_numpy(y), n_neighbors)
    graph = graph.maximum(graph.T).tocoo()
    rows, cols = to_tensor(graph.row), to_tensor(graph.col)
    degree = torch.bincount(rows.long(), minlength=len(y)).to(y.dtype)
    weights = (degree[rows] * degree[cols]).rsqrt()
    index = torch.stack([rows, cols]).long()
    operator: Tensor = torch.sparse_coo_tensor(
        index, weights, (len(y), len(y)), check_invariants=True
    ).coalesce()
    return operator.to(y.device)


def smooth_labels(proba: Tensor, operator: Tensor) -> Tensor:
    r"""Return the rows of :math:`(I - \alpha S)^{-1} P`, made to sum to one.

    Examples
    --------
    Two pairs of rows, each with one labelled row:

    >>> import torch
    >>> from skwgf.transport.labelled import label_spreading, smooth_labels
    >>> y = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> proba = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]])
    >>> smooth_labels(proba, label_spreading(y, n_neighbors=1)).argmax(1)
    tensor([0, 0, 1, 1])
    """
    smooth = proba
    for _ in range(_SWEEPS):
        smooth = _SPREAD * torch.sparse.mm(operator, smooth) + (1.0 - _SPREAD) * proba
    return smooth / smooth.sum(1, keepdim=True)


@torch.no_grad()
def transport_labels(
    x: Tensor,
    labels: Tensor,
    y: Tensor,
    *,
    n_classes: int,
    weight: float = 4.0,
    reg: float = 0.1,
    n_rounds: int = 20,
) -> Tensor:
    r"""Return the class probabilities of the target rows that plan and graph agree on.

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

    weight : float, default=4.0
        Weight :math:`\lambda` of the class term, relative to the mean cost between `x` and `y`.

    reg : float, default=0.1
        Regularisation of the plans, relative to the mean cost.

    n_rounds : int, default=20
        Number of plans. The first sees no label.

    Returns
    -------
    Tensor of shape (m, n_classes)
        Rows sum to one.

    Notes
    -----
    The plans are balanced, so that the classes get the shares in the target that they have in the
    source; where these differ much, rows of a rarer class are given to another.

    Examples
    --------
    Two classes, moved far to the right:

    >>> import torch
    >>> from skwgf.transport.labelled import transport_labels
    >>> x, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([[9.0], [9.1], [8.1]])
    >>> transport_labels(x, torch.tensor([0, 0, 1, 1]), y, n_classes=2).argmax(1)
    tensor([1, 1, 0])
    """
    unit = mean_cost(x, y)
    known = one_hot(labels, n_classes).to(x.dtype)
    if unit == 0:
        return known.mean(0).expand(len(y), n_classes).clone()
    operator = label_spreading(y) if len(y) > 1 else None
    source = torch.cat([x, class_coordinates(known, weight * unit)], 1)
    proba = torch.zeros(len(y), n_classes, dtype=x.dtype, device=x.device)
    init = None
    for _ in range(n_rounds):
        target = torch.cat([y, class_coordinates(proba, weight * unit)], 1)
        plan = sinkhorn(
            source, target, reg * unit, init=init, tol=_MARGINAL, max_iter=_SINKHORN_ITER
        )
        init = (plan.f, plan.g)
        proba = plan.transpose().barycenter(known)
        if operator is not None:
            proba = smooth_labels(proba, operator)
    return proba


def class_sides(
    source: Tensor, labels: Tensor, y: Tensor, *, n_classes: int, weight: float, reg: float
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return the class coordinates of source and target, and the target's class probabilities.

    Parameters
    ----------
    source : Tensor of shape (n, d)
        Rows with labels.

    labels : Tensor of int64, shape (n,)
        Their classes, from 0.

    y : Tensor of shape (m, d)
        Rows without labels.

    n_classes : int
        Number of classes.

    weight, reg : float
        Weight of the class term and regularisation of the plans, relative to the mean cost.

    Returns
    -------
    side_source : Tensor of shape (n, n_classes)
    side_y : Tensor of shape (m, n_classes)
    proba : Tensor of shape (m, n_classes)
        From :func:`transport_labels`.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import class_sides
    >>> source, y = torch.tensor([[0.0], [0.1], [1.0], [1.1]]), torch.tensor([[9.0], [9.1], [8.1]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> side_source, side_y, proba = class_sides(
    ...     source, labels, y, n_classes=2, weight=4.0, reg=0.1
    ... )
    >>> side_source.shape, side_y.shape, proba.argmax(1)
    (torch.Size([4, 2]), torch.Size([3, 2]), tensor([1, 1, 0]))
    """
    proba = transport_labels(source, labels, y, n_classes=n_classes, weight=weight, reg=reg)
    unit = weight * mean_cost(source, y)
    known = one_hot(labels, n_classes).to(source)
    return class_coordinates(known, unit), class_coordinates(proba, unit), proba
