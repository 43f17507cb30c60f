r"""Where points of N(0, I) end: a smooth flow to the rows, then an exact plan in local maps.

The exact plan between N(0, I) and n rows has one cell for each row, and its map is constant on it.
A regression on such images averages over neighbouring cells, which in more than a few dimensions
takes a good part of the variance, since the cells are laid out as the noise of the rows has it.
Here the plan carries neighbourhoods: around row j the law of the points and that of the rows are
taken as Gaussian, and

.. math:: T(x) = m_j + B_j (x - a_j), \qquad
    B_j = L^{-\top} (L^\top \Sigma_j L)^{1/2} L^{-1}, \quad L L^\top = S_j

for x in cell j is the optimal map between them, with the means a, m and covariances S, Σ.
"""

from __future__ import annotations

import math

import torch
from scipy.sparse import csr_array
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from skwgf._tensor import derive_seed, make_generator, to_numpy, to_tensor
from skwgf.estimators._generator import POTENTIAL
from skwgf.estimators._sinkhorn_particles import run_group
from skwgf.estimators._sinkhorn_problem import Problem as SmoothProblem
from skwgf.estimators._sinkhorn_problem import finest_reg, make_group
from skwgf.estimators._validation import by_region
from skwgf.transport import cell_index
from skwgf.transport.exact import exact_plan

# Regularisation of the smooth flow, relative to the mean cost within the rows, and most rows and
# particles that it is run on: what they leave out, the exact plans after it correct.
_SMOOTH_REG, _SMOOTH_ROWS = 0.2, 1000
# Rows of one exact plan, and number of plans: rows beyond that are left out, evenly.
_PLAN_ROWS, _LEAST_POINTS, _MOST_PLANS = 5000, 1000, 8
# Rows of a neighbourhood: so many, or so many for each column. It ends at a gap: where rows are so
# many times farther than the tenth one.
_NEIGHBORS, _NEIGHBORS_A_COLUMN, _GAP, _INNERMOST = 50, 16, 4.0, 10
# Points that are mapped, or as many numbers, and for each at least so many uses.
_POINTS, _POINT_NUMBERS, _USES = 200_000, 2**22, 4
# Points mapped in one go hold as many numbers.
_TILE_NUMBERS = 2**24
# Least variance, relative to that of the rows.
_FLOOR = 1e-9


def ends_from_noise(
    y: Tensor, low: Tensor, high: Tensor, *, n_pairs: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return points of N(0, I) and where they end among the rows `y`, within limits.

    `n_pairs` bounds the number of pairs that will be used in all.
    """
    n, d = y.shape
    generator = make_generator(derive_seed(seed, POTENTIAL))
    order = by_region(y, derive_seed(seed, POTENTIAL), generator).to(y.device)
    n_points = min(_POINTS, max(_POINT_NUMBERS // d, 1), n_pairs // _USES)
    few = n <= max(_NEIGHBORS, _NEIGHBORS_A_COLUMN * d)
    z, x = smooth_flow(
        y[order[:: math.ceil(n / _SMOOTH_ROWS)]],
        low,
        high,
        reg=finest_reg(y) if few else _SMOOTH_REG,
        n_points=n_points,
        generator=generator,
    )
    if few:
        return z, overall_map(x, y).clamp(low, high)
    n_plans = min(math.ceil(n / _PLAN_ROWS), _MOST_PLANS)
    image = torch.empty_like(x)
    for k in range(n_plans):
        rows = y[order[k::n_plans]]
        image[k::n_plans] = local_maps(x[k::n_plans], rows[:: math.ceil(len(rows) / _PLAN_ROWS)])
    return z, image.clamp(low, high)


def smooth_flow(
    y: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    reg: float,
    n_points: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return points of N(0, I) and where the debiased entropic flow to the rows takes them.

    It starts from the affine map that has the mean and the covariance of the rows.
    """
    group = make_group(y, None, y.new_empty(0), lambda x: x)
    problem = SmoothProblem(
        groups=(group,),
        n_classes=0,
        features=lambda x: x,
        low=low,
        high=high,
        velocity="sinkhorn",
        step_size=1.0,
        guidance=0.0,
        reg_start=max(reg, _SMOOTH_REG),
        reg=reg,
        seed=0,
    )
    n_particles = max(len(y), min(_SMOOTH_ROWS, n_points))
    z, x, _ = run_group(
        problem,
        group,
        n_particles=n_particles,
        n_tracers=max(n_points, 1),
        generator=generator,
    )
    return z, x


def overall_map(x: Tensor, y: Tensor) -> Tensor:
    """Return the images of the points under the Gaussian map between all points and all rows."""
    points, rows = x.double(), y.double()
    a, m = points.mean(0, keepdim=True), rows.mean(0, keepdim=True)
    b = gaussian_maps(
        *(
            torch.cov(cloud.T, correction=0).reshape(1, *2 * x.shape[1:])
            for cloud in (points, rows)
        ),
        n_rows=torch.full((1,), float(len(y)), device=y.device),
    )
    return (m + (points - a) @ b[0]).to(x)


def local_maps(x: Tensor, y: Tensor) -> Tensor:
    """Return the images of the points under the exact plan to the rows, locally affine."""
    size = min(max(len(y), _LEAST_POINTS), _PLAN_ROWS, len(x))
    points, d = x[:size], x.shape[1]
    plan = exact_plan(points, y)
    weights = neighborhoods(y)
    share = csr_array(
        (to_numpy(plan.mass.double()) * len(y), (to_numpy(plan.cols), to_numpy(plan.rows))),
        shape=(len(y), size),
    )
    a, s = moments(weights @ share, points)
    m, v = moments(weights, y)
    n_rows = to_tensor(1.0 / (weights.multiply(weights)).sum(1), device=y.device)
    b = gaussian_maps(s, v, n_rows=n_rows).to(x)
    a, m = a.to(x), m.to(x)
    images = []
    for tile in torch.split(x, max(_TILE_NUMBERS // (d * d), 1)):
        j = cell_index(tile, y, plan.potential_y)
        images.append(m[j] + torch.einsum("nij,nj->ni", b[j], tile - a[j]))
    return torch.cat(images)


def neighborhoods(y: Tensor) -> csr_array:
    """Return the weights of the neighbours of each row, equal ones that sum to one."""
    rows = to_numpy(y, "float64")
    n, d = rows.shape
    n_neighbors = min(max(_NEIGHBORS, _NEIGHBORS_A_COLUMN * d), n)
    distances, index = NearestNeighbors(n_neighbors=n_neighbors).fit(rows).kneighbors(rows)
    near = distances <= _GAP * distances[:, [min(_INNERMOST, n_neighbors - 1)]]
    weights = near / near.sum(1, keepdims=True)
    indptr = range(0, n * n_neighbors + 1, n_neighbors)
    return csr_array((weights.ravel(), index.ravel(), list(indptr)), shape=(n, n))


def moments(weights: csr_array, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means and covariances of the points `x` under each row of weights."""
    points = to_numpy(x, "float64")
    n, d = points.shape
    mean = weights @ points
    products = (points[:, :, None] * points[:, None, :]).reshape(n, d * d)
    second = (weights @ products).reshape(-1, d, d)
    return tuple(
        to_tensor(found, device=x.device)
        for found in (mean, second - mean[:, :, None] * mean[:, None, :])
    )


def gaussian_maps(s: Tensor, v: Tensor, *, n_rows: Tensor) -> Tensor:
    """Return the matrices of the optimal maps between centred Gaussians of covariance s and v.

    Of covariances taken on few rows for their size only the trace is reliable: both are drawn
    towards a multiple of the identity by d over the number of rows.
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
    return inverse.mT @ middle @ inverse
