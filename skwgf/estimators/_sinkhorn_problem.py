"""The problem behind a Sinkhorn generator, in scaled coordinates: what flows where."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from skwgf._tensor import to_numpy, to_tensor
from skwgf.estimators._features import Features
from skwgf.estimators._generator import choose
from skwgf.estimators._inputs import Labels
from skwgf.flows.sinkhorn import Kind
from skwgf.transport import class_sides, mean_cost

# The finest regularisation that the rows support: so many times the mean cost between nearest
# neighbours, relative to that between all rows, and never outside of these limits. Below it the
# field follows single rows, and what lies between them is carried too far out.
_NEIGHBOR_COSTS, _LEAST_REG, _MOST_REG = 2.0, 0.005, 0.2
_NEIGHBOR_ROWS = 2000
# Where the regularisation starts from: no structure of the rows is seen yet. And where it ends at
# least with a source: a finer map follows the noise of its rows.
FIRST_REG, SOURCE_REG = 0.2, 0.05
# Least share of the mean cost between points and rows that a plan is solved for.
_ASTRAY = 1e-6
# Regularisation of the plans that carry labels, relative to the mean cost.
_LABEL_REG = 0.1


@dataclass(frozen=True)
class Group:
    """Rows that flow to rows of the same class, or all rows where there are no classes.

    Attributes
    ----------
    y : Tensor of shape (m, d)
        Target rows.

    source : Tensor of shape (n, d) or None
        Reference rows; None is N(0, I).

    code : Tensor of shape (k,)
        What the network reads beside a reference point; empty without classes.

    unit : float
        The mean cost within the rows, which the regularisation is relative to.

    side_y, side_source : Tensor of shape (m, s) and (n, s), or None
        Coordinates that enter the cost but do not move.
    """

    y: Tensor
    source: Tensor | None
    code: Tensor
    unit: float
    side_y: Tensor | None = None
    side_source: Tensor | None = None

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return n inputs of the network, and what travels with them."""
        if self.source is None:
            z, side = torch.randn(n, self.y.shape[1], generator=generator).to(self.y), None
        else:
            index = choose(len(self.source), n, generator).to(self.y.device)
            z = self.source[index]
            side = None if self.side_source is None else self.side_source[index]
        return self.with_code(z), side

    def with_code(self, z: Tensor) -> Tensor:
        """Append the class code to reference points."""
        return torch.cat([z, self.code.expand(len(z), -1)], 1)


@dataclass(frozen=True)
class Problem:
    """A reference law to be moved to that of the rows, class by class.

    `reg` and `reg_start` are relative to the mean cost within the rows of a group; `low` and
    `high` limit the columns. There are as many groups as classes, and one where `n_classes` is 0.
    """

    groups: tuple[Group, ...]
    n_classes: int
    features: Features
    low: Tensor
    high: Tensor
    velocity: Kind
    step_size: float
    guidance: float
    reg_start: float
    reg: float
    seed: int

    def compared(self, group: Group, x: Tensor, side: Tensor | None) -> Tensor:
        """Return what the cost compares, in units in which its mean within the rows is one."""
        found = self.features(x)
        found = found if side is None else torch.cat([found, side], 1)
        return found / math.sqrt(group.unit)

    def all_rows(self, most: int) -> Tensor:
        """Return rows of all groups, at most that many."""
        rows = torch.cat([group.y for group in self.groups])
        return rows[:: math.ceil(len(rows) / most)]

    def draw_like(
        self, codes: NDArray[np.int64] | None, n: int, generator: torch.Generator
    ) -> Tensor:
        """Return n inputs of the network, of the classes numbered by `codes` if there are any."""
        if codes is None:
            return self.groups[0].draw(n, generator)[0]
        counts = np.bincount(codes, minlength=len(self.groups)).tolist()
        drawn = [
            group.draw(count, generator)[0]
            for group, count in zip(self.groups, counts, strict=True)
        ]
        return torch.cat(drawn)


def make_groups(
    y: Tensor,
    source: Tensor | None,
    labels: Labels,
    rows: Tensor,
    features: Features,
    *,
    label_weight: float,
) -> tuple[tuple[Group, ...], Tensor | None]:
    """Return the groups that flow apart, made of the rows of `y` in the index `rows`.

    With labels of the source alone there is one group, with the class term in its cost; then the
    class probabilities found for all rows of `y` come with it.
    """
    if labels.classes is not None:
        classes = range(len(labels.classes))
        codes = to_tensor(labels.codes, device=y.device)[rows]
        owner = None if source is None else to_tensor(labels.source_codes, device=y.device)
        names = torch.eye(len(classes)).to(y)
        return tuple(
            make_group(
                y[rows][codes == c],
                None if source is None else source[owner == c],
                names[c],
                features,
            )
            for c in classes
        ), None
    group = make_group(y[rows], source, y.new_empty(0), features)
    if source is None or labels.source_classes is None:
        return (group,), None
    # The flow is balanced: every class has to find its share.
    sides = class_sides(
        features(source),
        to_tensor(labels.source_codes, device=y.device).long(),
        features(y),
        n_classes=len(labels.source_classes),
        weight=label_weight,
        reg=_LABEL_REG,
        relax=False,
    )
    return (replace(group, side_source=sides.source, side_y=sides.target[rows]),), sides.proba


def make_group(y: Tensor, source: Tensor | None, code: Tensor, features: Features) -> Group:
    """Return a group without class term."""
    compared = features(y)
    return Group(y=y, source=source, code=code, unit=mean_cost(compared, compared) or 1.0)


def resolved_reg(reg: float, x: Tensor, y: Tensor) -> float:
    """Return a regularisation that can be worked with where `x` has gone astray.

    Where all is well it is `reg`; it is not finite when the distance to `y` is not.
    """
    return max(_ASTRAY * mean_cost(x, y), reg)


def finest_reg(features: Tensor) -> float:
    """Return the regularisation that the spacing of the rows supports, relative to the mean cost.

    Examples
    --------
    >>> import torch
    >>> from skwgf.estimators._sinkhorn_problem import finest_reg
    >>> finest_reg(torch.linspace(0, 1, 1000)[:, None])
    0.005
    """
    unit = mean_cost(features, features)
    if len(features) < 2 or unit == 0:
        return _MOST_REG
    rows = to_numpy(features, "float64")
    neighbors = NearestNeighbors(n_neighbors=2).fit(rows)
    distances, _ = neighbors.kneighbors(rows[:: math.ceil(len(rows) / _NEIGHBOR_ROWS)])
    ratio = 0.5 * float((distances[:, 1] ** 2).mean()) / unit
    return min(max(_NEIGHBOR_COSTS * ratio, _LEAST_REG), _MOST_REG)
