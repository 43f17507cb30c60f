r"""Class proportions of an unlabelled law, and whether they explain how it differs.

Where two laws differ in the proportions of their classes alone, rows must not be carried from the
one to the other: a map of the whole would turn rows of one class into rows of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from skwgf._tensor import best_float
from skwgf.transport.cost import check_clouds, half_squared_distance

_EXPONENT = 0.5  # of the distance: it sees finer differences than 1, and needs no bandwidth
_SOURCE_LEVEL = 0.01  # of the test that the source's own proportions fit
_FIT_LEVEL = 0.1  # of the test that the proportions found fit; high, as a wrong alarm does harm
_TOL, _MAX_ITER = 1e-9, 5000
_ROUNDING = {dtype: 8 * torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}


@dataclass(frozen=True)
class ClassProportions:
    r"""Proportions in which the classes of a labelled law mix to an unlabelled one.

    Parameters
    ----------
    proportions : Tensor of shape (n_classes,)
        The proportions h that were found; zero for classes without rows.
    source_proportions : Tensor of shape (n_classes,)
        Shares of the classes among the labelled rows.
    divergence, divergence_source : float
        Energy distance between the unlabelled rows and the labelled ones in the proportions h,
        and in their own.
    floor, floor_source : float
        What these figures are on average when the laws are equal, for the sake of finite rows.
    p_value, p_value_source : float
        Share of resamples, from equal laws, whose figure is as large as the one found.
    n_iter : int
        Iterations of the quadratic problem for h.
    converged : bool
        Whether it met its tolerance.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.proportions import class_proportions
    >>> generator = torch.Generator().manual_seed(0)
    >>> codes = torch.arange(300) % 2
    >>> x = torch.randn(300, 1, generator=generator) + 4 * codes[:, None]
    >>> y = torch.randn(200, 1, generator=generator) + 4
    >>> found = class_proportions(x, codes, y, n_classes=2, generator=generator)
    >>> found.proportions.round(decimals=1)
    tensor([0., 1.])
    >>> found.shifted, round(found.explained, 2)
    (True, 1.0)
    """

    proportions: Tensor
    source_proportions: Tensor
    divergence: float
    divergence_source: float
    floor: float
    floor_source: float
    p_value: float
    p_value_source: float
    n_iter: int
    converged: bool

    @property
    def explained(self) -> float:
        """Share of the divergence above its floor that the new proportions remove, 0 to 1."""
        excess = self.divergence_source - self.floor_source
        if excess <= 0.0:
            return 0.0
        return min(max(1.0 - (self.divergence - self.floor) / excess, 0.0), 1.0)

    @property
    def shifted(self) -> bool:
        """Whether other class proportions are needed, and enough, to explain the difference.

        True where the labelled rows fit the unlabelled ones in the proportions found, by a test of
        level 0.1, but not in their own, by a test of level 0.01.
        """
        return self.p_value_source <= _SOURCE_LEVEL and self.p_value > _FIT_LEVEL


@torch.no_grad()
def class_proportions(
    x: Tensor,
    codes: Tensor,
    y: Tensor,
    *,
    n_classes: int,
    generator: torch.Generator,
    n_resamples: int = 200,
    max_rows: int = 2000,
) -> ClassProportions:
    r"""Estimate in which proportions the classes of `x` mix to the law of the unlabelled `y`.

    .. math:: \min_{h \in \Delta} D\Big(\sum_k h_k \mu_k, \nu\Big), \qquad
        D(\mu, \nu) = 2 E|x - y|^{1/2} - E|x - x'|^{1/2} - E|y - y'|^{1/2}

    with :math:`\mu_k` the law of class k and D an energy distance, which vanishes for equal laws
    only. This is a convex quadratic of h. Resampled rows tell what D is where the laws are equal;
    h is found anew in each resample, since it fits a part of the noise.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Labelled rows.
    codes : Tensor of shape (n,)
        Their classes, integers from 0 to `n_classes` - 1.
    y : Tensor of shape (m, d)
        Unlabelled rows, of the precision and device of `x`.
    n_classes : int
        Number of classes.
    generator : torch.Generator
        Draws the resamples, on the CPU.
    n_resamples : int, default=200
        Number of resamples, at least 100: fewer have no p-value below 0.01.
    max_rows : int, default=2000
        Of more rows than these, in either cloud, a random choice is taken. At least 2.

    Returns
    -------
    ClassProportions
        Its `shifted` says whether the laws differ in the proportions of the classes alone.

    Raises
    ------
    ValueError
        If the clouds do not fit together, `codes` are not classes of the rows of `x`, or there
        are too few resamples or rows.

    Notes
    -----
    Columns should be of similar size, since the largest dominate the distance. Time and memory are
    those of the distances between all rows: 0.3 s for 900 and 900 rows on one core.

    A difference of another kind is told from one of proportions as far as the rows resolve it: two
    classes whose means are two standard deviations apart and move by half of one look, at 200
    rows, like other proportions in every third case.

    References
    ----------
    H. Kawakubo, M. C. du Plessis, M. Sugiyama, "Computationally efficient class-prior estimation
    under class balance change using energy distance", IEICE Trans. Inf. & Syst. E99-D(1), 2016.
    I. Redko, N. Courty, R. Flamary, D. Tuia, "Optimal transport for multi-source domain adaptation
    under target shift", AISTATS 2019, arXiv 1803.04899.

    Examples
    --------
    >>> import torch
    >>> from skwgf.transport.proportions import class_proportions
    >>> x, codes = torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 1])
    >>> y = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> class_proportions(x, codes, y, n_classes=2, generator=generator).proportions
    tensor([0.2500, 0.7500])
    """
    check_clouds(x, y)
    _check(codes, x, n_classes, n_resamples, max_rows)
    rows, target_rows = (_choice(cloud, max_rows, generator) for cloud in (x, y))
    codes = codes.to(x.device)[rows].long()
    present = codes.bincount().nonzero()[:, 0]
    inverse = torch.searchsorted(present, codes)
    pool = _pooled(x[rows], inverse, y[target_rows])
    shares = inverse.bincount().to(pool.form.dtype) / len(inverse)
    mixing, n_iter, converged = _minimised(pool.quadratic, pool.images.T @ pool.target, shares)
    at_found, at_shares = (pool.classes @ mix - pool.target for mix in (mixing, shares))
    null, null_source = _null_energies(pool, inverse, mixing, n_resamples, generator)
    found, own = float(pool.energy(at_found)), float(pool.energy(at_shares))
    return ClassProportions(
        proportions=_spread(mixing, present, n_classes).to(x.dtype),
        source_proportions=_spread(shares, present, n_classes).to(x.dtype),
        divergence=found,
        divergence_source=own,
        floor=float(null.mean()),
        floor_source=float(null_source.mean()),
        p_value=_p_value(found, null),
        p_value_source=_p_value(own, null_source),
        n_iter=n_iter,
        converged=converged,
    )


class _Pooled(NamedTuple):
    """All rows as one cloud, and the signed measures on it: columns of weights.

    `form` (n + m, n + m) is the energy of such measures, `classes` (n + m, k) and `target` (n + m,)
    are the laws, `images` = form @ classes, and `quadratic` (k, k) the form between classes.
    """

    form: Tensor
    classes: Tensor
    target: Tensor
    images: Tensor
    quadratic: Tensor

    def energy(self, measures: Tensor) -> Tensor:
        """Return the energy of each column."""
        return (measures * (self.form @ measures)).sum(dim=0)


def _pooled(x: Tensor, codes: Tensor, y: Tensor) -> _Pooled:
    """Return the pooled rows of a labelled and an unlabelled cloud."""
    points = torch.cat([x, y]).to(best_float(x.device))
    squares = 2 * half_squared_distance(points, points)
    # The root would make much of the rounding that lies between equal rows.
    squares.masked_fill_(squares <= _ROUNDING[squares.dtype] * float(squares.max()), 0.0)
    form = squares.pow_(_EXPONENT / 2).neg_()
    members = one_hot(codes).to(form.dtype)
    counts = members.sum(dim=0)
    classes = torch.cat([members / counts, form.new_zeros(len(y), len(counts))])
    target = torch.cat([form.new_zeros(len(x)), form.new_full((len(y),), 1.0 / len(y))])
    images = form @ classes
    quadratic = classes.T @ images
    # Without the pairs of a row with itself: they make small classes look narrower than they are.
    quadratic.diagonal().mul_(counts / (counts - 1).clamp_min(1.0))
    return _Pooled(form, classes, target, images, quadratic)


def _null_energies(
    pool: _Pooled, codes: Tensor, mixing: Tensor, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return `n` energies of equal laws: with proportions found in each, and with given ones.

    In the first the rows of each class are resampled, in the second all labelled rows at once, so
    that the counts of the classes are as random as those of the target.
    """
    n_x, n_y = len(codes), len(pool.target) - len(codes)
    whole_x, whole_y = (torch.zeros(k, dtype=torch.long, device=codes.device) for k in (n_x, n_y))
    within = _fluctuations(codes, n, generator).to(pool.form.dtype)
    anywhere = _fluctuations(whole_x, n, generator).to(pool.form.dtype) / n_x
    target = _fluctuations(whole_y, n, generator).to(pool.form.dtype) / n_y
    noise = torch.cat([(pool.classes[:n_x] @ mixing)[:, None] * within, -target])
    linear = (pool.quadratic @ mixing)[:, None] - pool.images.T @ noise
    found, _, _ = _minimised(pool.quadratic, linear, mixing)
    refitted = noise + pool.classes @ (found - mixing[:, None])
    return pool.energy(refitted), pool.energy(torch.cat([anywhere, -target]))


def _fluctuations(groups: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Return how often each row is drawn in `n` resamples of each group, less the mean of one."""
    counts = torch.zeros(len(groups), n, device=groups.device)
    for k in range(int(groups.max()) + 1):
        rows = (groups == k).nonzero()[:, 0]
        picks = torch.randint(len(rows), (len(rows), n), generator=generator).to(groups.device)
        counts.scatter_add_(0, rows[picks], torch.ones_like(counts[rows]))
    return counts - 1.0


def _minimised(quadratic: Tensor, linear: Tensor, start: Tensor) -> tuple[Tensor, int, bool]:
    r"""Minimise :math:`h \cdot A h / 2 - h \cdot b` on the simplex, for each column b.

    Accelerated projected gradient, started again where the momentum points uphill. Directions that
    do not matter, such as between classes of one law, keep the values of `start`.
    """
    b = linear if linear.ndim == 2 else linear[:, None]
    means = quadratic.mean(dim=0)
    centred = quadratic - means - means[:, None] + means.mean()
    values, vectors = torch.linalg.eigh(centred)
    matrix = (vectors * values.clamp_min(0.0)) @ vectors.T
    # On the simplex h = 1/k + (its part of sum zero): the means of A enter the linear term.
    b = b - means[:, None]
    b = b - b.mean(dim=0)
    resolution = torch.finfo(values.dtype)
    step = 1.0 / values[-1].clamp_min(
        resolution.eps * float(quadratic.abs().max()) + resolution.tiny
    )
    h = ahead = start[:, None].expand_as(b)
    momentum, n_iter, change = 1.0, 0, torch.inf
    while n_iter < _MAX_ITER and change > _TOL:
        new = _on_simplex(ahead - step * (matrix @ ahead - b))
        move = new - h
        change = float(move.abs().max())
        uphill = float(((ahead - new) * move).sum()) > 0
        longer = 1.0 if uphill else (1.0 + (1.0 + 4.0 * momentum**2) ** 0.5) / 2.0
        ahead = new if uphill else new + (momentum - 1.0) / longer * move
        h, momentum, n_iter = new, longer, n_iter + 1
    return h.reshape(linear.shape), n_iter, change <= _TOL


def _on_simplex(points: Tensor) -> Tensor:
    """Return the nearest point of the simplex to each column."""
    ordered = points.sort(dim=0, descending=True).values
    counts = torch.arange(1, len(points) + 1, dtype=points.dtype, device=points.device)[:, None]
    levels = (ordered.cumsum(dim=0) - 1.0) / counts
    last = (ordered > levels).sum(dim=0, keepdim=True) - 1
    return (points - levels.gather(0, last)).clamp_min(0.0)


def _spread(values: Tensor, present: Tensor, n_classes: int) -> Tensor:
    """Return values of the present classes among zeros for the others."""
    return values.new_zeros(n_classes).index_copy(0, present, values)


def _p_value(value: float, null: Tensor) -> float:
    """Return the share of figures, its own included, that are as large as `value`."""
    return (1 + int((null >= value).sum())) / (1 + len(null))


def _choice(cloud: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return the indices of all rows, or of a random choice of `most`."""
    n = len(cloud)
    chosen = torch.randperm(n, generator=generator)[:most] if n > most else torch.arange(n)
    return chosen.to(cloud.device)


def _check(codes: Tensor, x: Tensor, n_classes: int, n_resamples: int, max_rows: int) -> None:
    """Raise a ValueError unless `codes` are classes of rows of `x` and numbers suffice."""
    if codes.shape != (len(x),) or codes.dtype.is_floating_point:
        raise ValueError(
            f"codes must hold one integer for each of the {len(x)} rows of x, got shape "
            f"{tuple(codes.shape)} of {codes.dtype}."
        )
    least, most = int(codes.min()), int(codes.max())
    if least < 0 or most >= n_classes:
        raise ValueError(
            f"codes must lie between 0 and n_classes - 1 = {n_classes - 1}, got {least} to {most}."
        )
    if n_resamples < 100:
        raise ValueError(f"n_resamples must be at least 100, got {n_resamples}.")
    if max_rows < 2:
        raise ValueError(f"max_rows must be at least 2, got {max_rows}.")
