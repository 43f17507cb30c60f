r"""Where points of N(0, I) end: the exact plan to the rows, carried by local Gaussian maps.

The exact plan to n rows has one cell for each row, and its map is constant on it. A regression on
such images averages over neighbouring cells, which in more than a few dimensions takes a good part
of the variance, since there the cells are laid out as the noise of the rows has it. Here the plan
says which neighbourhood of points goes to which neighbourhood of rows. Around row j both are taken
as Gaussian, and for x in cell j

.. math:: T(x) = m_j + B_j (x - a_j), \qquad
    B_j = L^{-\top} (L^\top \Sigma_j L)^{1/2} L^{-1}, \quad L L^\top = S_j,

is the optimal map between them, with the means a, m and the covariances S, Σ.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from skwgf._tensor import derive_seed, make_generator, to_numpy, to_tensor
from skwgf.estimators._coordinates import normal_points
from skwgf.estimators._generator import POTENTIAL
from skwgf.estimators._sinkhorn_particles import affine_map, run_group
from skwgf.estimators._sinkhorn_problem import FIRST_REG, Problem, finest_reg, make_group
from skwgf.estimators._validation import by_region
from skwgf.transport import cell_index
from skwgf.transport.exact import exact_plan

# Rows of one exact plan, least and most points to solve it on, and number of plans: rows beyond
# that are left out, evenly. A single plan has two points a row: its cells err half as much. The
# errors of several plans average out, so that one a row has to do there.
_PLAN_ROWS, _LEAST_POINTS, _MOST_POINTS, _MOST_PLANS = 5000, 1000, 8000, 8
_POINTS_A_ROW = 2
# Rows of a neighbourhood: so many, or so many for each column. It ends at a gap, where rows are so
# many times farther than the tenth one.
_NEIGHBORS, _NEIGHBORS_A_COLUMN, _GAP, _INNERMOST = 50, 16, 4.0, 10
# Rows that make fewer neighbourhoods than that have no room for local maps.
_LEAST_NEIGHBORHOODS = 4
# Points that are mapped, or as many numbers, each for at least so many uses; points that are
# carried by the smooth flow.
_POINTS, _POINT_NUMBERS, _USES, _CARRIED = 400_000, 2**23, 4, 40_000
# Points mapped in one go take as many numbers.
_TILE_NUMBERS = 2**24
# Least variance, in units of the scale of the rows.
_FLOOR = 1e-9


def ends_from_noise(
    y: Tensor, low: Tensor, high: Tensor, *, n_pairs: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return points of N(0, I) and where they end among the rows `y`, within limits.

    `n_pairs` bounds the number of pairs that will be used in all.
    """
    n, d = y.shape
    generator = make_generator(derive_seed(seed, POTENTIAL))
    n_points = max(min(_POINTS, _POINT_NUMBERS // d, n_pairs // _USES), 1)
    if n < _LEAST_NEIGHBORHOODS * n_neighbors(d):
        z, x = smooth_flow(y, low, high, n_points=min(n_points, _CARRIED), generator=generator)
        return z, overall_map(x, y).clamp(low, high)
    z = normal_points(n_points, d, int(torch.randint(2**31, (1,), generator=generator))).to(y)
    x = affine_map(y)(z)
    if n <= _PLAN_ROWS:
        n_solved = min(max(_POINTS_A_ROW * n, _LEAST_POINTS), _MOST_POINTS)
        return z, local_maps(x, y, n_points=n_solved).clamp(low, high)
    order = by_region(y, derive_seed(seed, POTENTIAL), generator).to(y.device)
    n_plans = min(math.ceil(n / _PLAN_ROWS), _MOST_PLANS, n_points)
    image = torch.empty_like(x)
    for k in range(n_plans):
        rows = y[order[k::n_plans]]
        rows = rows[:: math.ceil(len(rows) / _PLAN_ROWS)]
        image[k::n_plans] = local_maps(x[k::n_plans], rows, n_points=len(rows))
    return z, image.clamp(low, high)


def n_neighbors(d: int) -> int:
    """Return the number of rows of a neighbourhood in d columns."""
    return max(_NEIGHBORS, _NEIGHBORS_A_COLUMN * d)


def smooth_flow(
    y: Tensor, low: Tensor, high: Tensor, *, n_points: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return points of N(0, I) and where the debiased entropic flow to the rows takes them.

    It starts from the affine map that has the mean and the covariance of the rows, and ends at the
    regularisation that their spacing supports.
    """
    group, reg = make_group(y, None, y.new_empty(0), lambda x: x), finest_reg(y)
    problem = Problem(
        groups=(group,),
        n_classes=0,
        features=lambda x: x,
        low=low,
        high=high,
        velocity="sinkhorn",
        step_size=1.0,
        guidance=0.0,
        reg_start=max(reg, FIRST_REG),
        reg=reg,
        seed=0,
    )
    z, x, _ = run_group(
        problem,
        group,
        n_particles=max(len(y), min(_LEAST_POINTS, n_points)),
        n_tracers=n_points,
        generator=generator,
    )
    return z, x


def overall_map(x: Tensor, y: Tensor) -> Tensor:
    """Return the images of the points under the Gaussian map between all points and all rows."""
    points, rows = x.double(), y.double()
    s, v = (
        torch.cov(cloud.T, correction=0).reshape(1, *2 * x.shape[1:]) for cloud in (points, rows)
    )
    b = gaussian_maps(s, v, torch.full((1,), float(len(y)), device=y.device))[0]
    return (rows.mean(0) + (points - points.mean(0)) @ b).to(x)


def local_maps(x: Tensor, y: Tensor, *, n_points: int) -> Tensor:
    """Return the images of the points under the exact plan to the rows, in local Gaussian maps.

    The plan is solved on the first `n_points` points.
    """
    d, points = x.shape[1], x[:n_points]
    plan = exact_plan(points, y)
    share = csr_array(
        (to_numpy(plan.mass.double()) * len(y), (to_numpy(plan.cols), to_numpy(plan.rows))),
        shape=(len(y), len(points)),
    )
    weights = neighborhoods(y)
    a, s = moments(weights @ share, points)
    m, v = moments(weights, y)
    n_rows = to_tensor(1.0 / weights.power(2).sum(1), device=y.device)
    b = gaussian_maps(s, v, n_rows).to(x)
    a, m = a.to(x), m.to(x)
    images = []
    for tile in torch.split(x, max(_TILE_NUMBERS // (d * d), 1)):
        j = cell_index(tile, y, plan.potential_y)
        images.append(m[j] + torch.einsum("nij,nj->ni", b[j], tile - a[j]))
    return torch.cat(images)


def neighborhoods(y: Tensor) -> csr_array:
    """Return the weights of the neighbours of each row, equal ones that sum to one."""
    rows = to_numpy(y, "float64")
    n, size = len(rows), min(n_neighbors(rows.shape[1]), len(rows))
    distances, index = NearestNeighbors(n_neighbors=size).fit(rows).kneighbors(rows)
    near = distances <= _GAP * distances[:, [min(_INNERMOST, size - 1)]]
    weights = near / near.sum(1, keepdims=True)
    starts = np.arange(0, n * size + 1, size)
    return csr_array((weights.ravel(), index.ravel(), starts), shape=(n, n))


def moments(weights: csr_array, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means and covariances of the points `x` under each row of weights."""
    points = to_numpy(x, "float64")
    n, d = points.shape
    mean = weights @ points
    products = (points[:, :, None] * points[:, None, :]).reshape(n, d * d)
    covariance = (weights @ products).reshape(-1, d, d) - mean[:, :, None] * mean[:, None, :]
    return to_tensor(mean, device=x.device), to_tensor(covariance, device=x.device)


def gaussian_maps(s: Tensor, v: Tensor, n_rows: Tensor) -> Tensor:
    """Return the matrices of the optimal maps between centred Gaussians of covariance s and v.

    Of a covariance that was taken on few rows for its size only the trace is reliable: it is drawn
    towards a multiple of the identity, by d over the number of rows.
    """
    d = s.shape[1]
    identity = torch.eye(d, dtype=s.dtype, device=s.device)
    share = (d / n_rows).clamp_max(1.0).to(s)[:, None, None]

    def shrunk(covariance: Tensor) -> Tensor:
        mean = covariance.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        return (1 - share) * covariance + (share * mean + _FLOOR) * identity

    root = torch.linalg.cholesky(shrunk(s))
    values, vectors = torch.linalg.eigh(root.mT @ shrunk(v) @ root)
    middle = (vectors * values.clamp_min(0.0).sqrt()[:, None, :]) @ vectors.mT
    inverse = torch.linalg.solve_triangular(root, identity.expand_as(root), upper=False)
    maps: Tensor = inverse.mT @ middle @ inverse
    return maps
