r"""Labels on the graph of nearest neighbours: smoothed by it, and judged by it.

References
----------
.. [1] D. Zhou, O. Bousquet, T. N. Lal, J. Weston, B. Schoelkopf. *Learning with local and global
   consistency*. NeurIPS 2003.
"""

from __future__ import annotations

import torch
from sklearn.neighbors import KNeighborsClassifier, kneighbors_graph
from torch import Tensor

from skwgf._tensor import to_numpy, to_tensor

# Weight of the neighbours' labels against the row's own in the smoothing, the number of its
# sweeps (.95^60 = .05 of the start is left), and that of neighbours.
_SPREAD = 0.95
_SWEEPS = 60
NEIGHBORS = 8


def label_spreading(y: Tensor, *, n_neighbors: int = NEIGHBORS) -> Tensor:
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
    >>> from skwgf.transport.label_graph import label_spreading, smooth_labels
    >>> y = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> proba = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.5, 0.5]])
    >>> smooth_labels(proba, label_spreading(y, n_neighbors=1)).argmax(1)
    tensor([0, 0, 1, 1])
    """
    smooth = proba
    for _ in range(_SWEEPS):
        smooth = _SPREAD * torch.sparse.mm(operator, smooth) + (1.0 - _SPREAD) * proba
    return smooth / smooth.sum(1, keepdim=True)


def neighbor_disagreement(proba: Tensor, operator: Tensor) -> float:
    """Return how often neighbours are of different classes, relative to rows at random.

    Parameters
    ----------
    proba : Tensor of shape (m, n_classes)
        Class probabilities; the largest counts.

    operator : Tensor of shape (m, m)
        From :func:`label_spreading`: its pattern says who are neighbours.

    Returns
    -------
    float
        0 where no neighbours differ, about 1 for labels drawn at random, 1 for a single class.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.label_graph import label_spreading, neighbor_disagreement
    >>> operator = label_spreading(torch.tensor([[0.0], [0.1], [5.0], [5.1]]), n_neighbors=1)
    >>> neighbor_disagreement(torch.eye(2)[[0, 0, 1, 1]], operator)
    0.0
    >>> neighbor_disagreement(torch.eye(2)[[0, 1, 0, 1]], operator)
    2.0
    """
    return contiguity_ratio(proba.argmax(1), *operator.indices())


def contiguity_ratio(values: Tensor, rows: Tensor, cols: Tensor) -> float:
    r"""Return how much neighbours differ, relative to two rows at random [1]_.

    .. math:: \frac{\#\{i \sim j\}^{-1} \sum_{i \sim j} |u_i - u_j|^2}
        {2 \, m^{-1} \sum_i |u_i - \bar u|^2}.

    For classes u is one-hot: both terms then count pairs of rows of different classes.

    Parameters
    ----------
    values : Tensor of shape (m,), int64, or (m, c), float
        Classes of the rows, from 0, or numbers.

    rows, cols : Tensor of int64, shape (k,)
        The pairs of neighbours.

    Returns
    -------
    float
        0 where neighbours are alike, about 1 for values at random, and 1 where all are the same.

    References
    ----------
    .. [1] R. C. Geary. *The contiguity ratio and statistical mapping*. The Incorporated
       Statistician 5 (1954).

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.label_graph import contiguity_ratio
    >>> rows, cols = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 3, 2])
    >>> contiguity_ratio(torch.tensor([[0.0], [0.0], [5.0], [5.0]]), rows, cols)
    0.0
    >>> contiguity_ratio(torch.tensor([0, 1, 2, 2]), rows, cols)
    0.8
    """
    if bool((values == values[0]).all()):
        return 1.0
    if values.is_floating_point():
        values = values.double()
        apart = float((values[rows] - values[cols]).square().sum(1).mean())
        return apart / (2.0 * float(values.var(0, correction=0).sum()))
    shares = values.bincount().double() / len(values)
    differ = float((values[rows] != values[cols]).double().mean())
    return differ / (1.0 - float(shares.square().sum()))


def nearest_labels(x: Tensor, labels: Tensor, y: Tensor) -> Tensor:
    """Return the labels of the nearest rows of `x`."""
    model = KNeighborsClassifier(1).fit(to_numpy(x), to_numpy(labels))
    return to_tensor(model.predict(to_numpy(y)), device=y.device).long()
