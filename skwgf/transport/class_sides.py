r"""Labels carried to a target by the plan that suits its neighbourhoods best.

:func:`~skwgf.transport.transport_labels` depends on where it starts and on whether the class shares
are free. Which of several runs is right can be told without labels of the target: neighbours are
mostly of one class, so that wrong labels tell more of them apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from skwgf._tensor import make_generator
from skwgf.transport.cost import mean_cost
from skwgf.transport.label_graph import (
    NEIGHBORS,
    label_spreading,
    nearest_labels,
    neighbor_disagreement,
    smooth_labels,
)
from skwgf.transport.labelled import class_coordinates, class_weights, transport_labels

# Free shares are one more thing to get wrong: their labels must be that much better.
_CLEARLY = 0.9
# Of more rows than these a fixed random choice tells which run is best.
_TRIAL_ROWS = 1500


@dataclass(frozen=True)
class ClassSides:
    """The class term between a source and a target, and what it was made of.

    Attributes
    ----------
    source, target : Tensor of shape (n, n_classes) and (m, n_classes)
        Coordinates that add the class term to the cost.

    proba : Tensor of shape (m, n_classes)
        Class probabilities of the target rows.

    shares : Tensor of shape (n_classes,)
        Shares of the classes in the target.

    weights : Tensor of shape (n,) or None
        Weights of the source rows that give the classes these shares; None where they have them.

    disagreement, disagreement_source : float
        How often neighbours in the target are of different classes, relative to rows at random:
        by `proba`, and by the labels of the nearest source rows, smoothed alike.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import class_sides
    >>> x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    >>> codes = torch.arange(2).repeat_interleave(20)
    >>> x = x + 6 * codes[:, None]
    >>> sides = class_sides(x, codes, x + 1, n_classes=2, weight=8.0, reg=0.03)
    >>> bool((sides.proba.argmax(1) == codes).all()), sides.source.shape
    (True, torch.Size([40, 2]))
    """

    source: Tensor
    target: Tensor
    proba: Tensor
    shares: Tensor
    weights: Tensor | None
    disagreement: float
    disagreement_source: float


@torch.no_grad()
def class_sides(
    source: Tensor,
    labels: Tensor,
    y: Tensor,
    *,
    n_classes: int,
    weight: float,
    reg: float,
    relax: bool = True,
) -> ClassSides:
    r"""Find the class probabilities of target rows, and the coordinates of the class term.

    :func:`transport_labels` is run from the rows and from their images under a Gaussian map, both
    with the class shares of the source and with free ones. Kept is the run whose labels tell the
    fewest neighbours in the target apart.

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

    relax : bool, default=True
        Whether class shares other than those of the source are tried.

    Returns
    -------
    ClassSides

    Notes
    -----
    Of more than 1500 rows a fixed random choice decides which run to keep.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport import class_sides
    >>> source = torch.tensor([[0.0], [0.1], [1.0], [1.1]])
    >>> y = torch.tensor([[9.0], [9.1], [8.1], [8.0]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> sides = class_sides(source, labels, y, n_classes=2, weight=4.0, reg=0.1)
    >>> sides.source.shape, sides.target.shape, sides.proba.argmax(1)
    (torch.Size([4, 2]), torch.Size([4, 2]), tensor([1, 1, 0, 0]))
    """
    rows, target_rows = (_trial_rows(cloud) for cloud in (source, y))
    few = (source[rows], labels[rows], y[target_rows])
    options: dict[str, Any] = {"n_classes": n_classes, "weight": weight, "reg": reg}
    gaussian, free = _best_run(*few, relax=relax, **options)
    start = _gaussian_images(source, y) if gaussian else source
    operator = label_spreading(y) if len(y) > 1 else None
    proba, shares = transport_labels(start, labels, y, relax=free, operator=operator, **options)
    unit = weight * mean_cost(source, y)
    own = disagreement = 1.0
    if operator is not None:
        nearest = one_hot(nearest_labels(source, labels, y), n_classes).to(y)
        own = neighbor_disagreement(smooth_labels(nearest, operator), operator)
        disagreement = neighbor_disagreement(proba, operator)
    return ClassSides(
        source=class_coordinates(one_hot(labels, n_classes).to(source), unit),
        target=class_coordinates(proba, unit),
        proba=proba,
        shares=shares,
        weights=class_weights(labels, shares) if free else None,
        disagreement=disagreement,
        disagreement_source=own,
    )


def _best_run(
    x: Tensor, labels: Tensor, y: Tensor, *, relax: bool, **options: Any
) -> tuple[bool, bool]:
    """Return whether to start from Gaussian images, and with free shares."""
    runs = [(False, False), (True, False), (False, True), (True, True)]
    best, least = runs[0], math.inf
    if len(y) <= 2 * NEIGHBORS:
        return best  # all rows are neighbours, which tells nothing
    operator = label_spreading(y)
    starts = {False: x, True: _gaussian_images(x, y)}
    for gaussian, free in runs if relax else runs[:2]:
        proba, _ = transport_labels(
            starts[gaussian], labels, y, relax=free, operator=operator, **options
        )
        figure = neighbor_disagreement(proba, operator) / (_CLEARLY if free else 1.0)
        if figure < least:
            best, least = (gaussian, free), figure
    return best


def _trial_rows(cloud: Tensor) -> Tensor:
    """Return the index of all rows, or of a fixed random choice of them."""
    n = len(cloud)
    order = torch.randperm(n, generator=make_generator(0))[:_TRIAL_ROWS]
    return (order if n > _TRIAL_ROWS else torch.arange(n)).to(cloud.device)


def _gaussian_images(x: Tensor, y: Tensor) -> Tensor:
    """Return the images of `x` under the optimal map between Gaussians of the same moments.

    Both covariances are raised by their mean eigenvalue, so that directions of little variance
    stay as they are.
    """
    centre_x, centre_y = x.double().mean(0), y.double().mean(0)
    moved = x.double() - centre_x
    a, b = (_raised_covariance(c) for c in (moved, y.double() - centre_y))
    root, inverse = _power(a, 0.5), _power(a, -0.5)
    matrix = inverse @ _power(root @ b @ root, 0.5) @ inverse
    return (moved @ matrix + centre_y).to(x.dtype)


def _raised_covariance(rows: Tensor) -> Tensor:
    """Return the covariance of centred rows plus its mean eigenvalue, or the identity of none."""
    covariance = rows.T @ rows / len(rows)
    eye = torch.eye(len(covariance), dtype=rows.dtype, device=rows.device)
    mean = covariance.trace() / len(covariance)
    return covariance + mean * eye if mean > 0 else eye


def _power(matrix: Tensor, power: float) -> Tensor:
    """Return a power of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    result: Tensor = (vectors * values.pow(power)) @ vectors.T
    return result
