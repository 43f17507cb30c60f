r"""Functions of a Hessian that is known by its products: dense, or in a Krylov space.

Vector fields are tensors of shape (n, d); a product takes k of them at once, (k, n, d), and is
symmetric. With :math:`\theta_j, s_j` the eigenpairs of the tridiagonal matrix T of m Lanczos steps
from g, whose basis is Q,

.. math:: f(H) g \approx |g| \, Q f(T) e_1 .

All sums are in the widest precision of the device; the products are in their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import best_float

__all__ = [
    "Extremes",
    "Krylov",
    "Solution",
    "dense_hessian",
    "inverse_root",
    "newton_solution",
    "smallest_eigenpairs",
]

Product = Callable[[Tensor], Tensor]

# Up to so many coordinates a dense eigendecomposition takes no longer than Lanczos.
DENSE_UP_TO = 300
# Fields in one batched product, and products between two looks at the error.
_CHUNK, _STRIDE = 32, 5
# Eigenvalues below that share of the largest one count as zero for Newton's direction.
_RANK_TOL = 1e-13
# Residual of the smallest Ritz pair, relative to the largest eigenvalue.
_PAIR_TOL = 1e-6
# Nodes of the integral in the estimate of the error.
_NODES = 65


class Solution(NamedTuple):
    """A function of the Hessian applied to a field, and what was seen of the spectrum.

    `field` has shape (n, d), `values` are eigenvalues or Ritz values in ascending order, and
    `error` is an estimate of the relative error of the field.
    """

    field: Tensor
    values: Tensor
    n_products: int
    error: float


class Extremes(NamedTuple):
    """The low end of a spectrum.

    `values` of shape (k,) ascend, `vectors` of shape (k, n, d) have unit length, `scale` is the
    largest absolute eigenvalue.
    """

    values: Tensor
    vectors: Tensor
    scale: float
    n_products: int


class Krylov:
    """The Krylov space of a Hessian and a field, grown by one product at a time.

    Every new basis vector is made orthogonal to all earlier ones, twice, so that no eigenvalue
    comes up again as a ghost. When the space is invariant, or is everything, it is `closed`, and
    functions of the Hessian are exact in it.
    """

    def __init__(self, product: Product, start: Tensor) -> None:
        self.product = product
        self.like = start
        vector = start.reshape(-1).to(best_float(start.device))
        self.norm = float(vector.norm())
        self.basis = (vector / self.norm)[None]
        self.diagonal: list[float] = []
        self.coupling: list[float] = []  # the last entry leads out of the space
        self.closed = False

    def __len__(self) -> int:
        """Return the dimension, which is the number of products."""
        return len(self.diagonal)

    def grow(self, n_products: int) -> None:
        """Take up to that many more products."""
        for _ in range(n_products):
            if self.closed:
                return
            self._step()

    def _step(self) -> None:
        """Add the image of the last basis vector."""
        m = len(self)
        if m + 1 >= len(self.basis):  # doubled, so that the basis is rarely copied
            room = self.basis.new_empty(len(self.basis), self.basis.shape[1])
            self.basis = torch.cat([self.basis, room])
        rows = self.basis[: m + 1]
        field = rows[m].to(self.like.dtype).reshape(1, *self.like.shape)
        image = self.product(field).reshape(-1).to(rows.dtype)
        self.diagonal.append(float(rows[m] @ image))
        for _ in range(2):
            image = image - rows.T @ (rows @ image)
        rest = float(image.norm())
        scale = max(map(abs, self.diagonal + self.coupling))
        rounding = 10 * torch.finfo(self.like.dtype).eps * max(scale, rest)
        self.closed = m + 1 == self.basis.shape[1] or not rest > rounding
        self.coupling.append(0.0 if self.closed else rest)
        if not self.closed:
            self.basis[m + 1] = image / rest

    def tridiagonal(self) -> Tensor:
        """Return T, of shape (m, m), on the CPU."""
        couplings = torch.tensor(self.coupling[:-1], dtype=torch.float64)
        diagonal = torch.tensor(self.diagonal, dtype=torch.float64)
        return torch.diag(diagonal) + torch.diag(couplings, 1) + torch.diag(couplings, -1)

    def fields(self, coefficients: Tensor) -> Tensor:
        """Return combinations of the basis: (k, n, d) from (k, m)."""
        rows = coefficients.to(self.basis) @ self.basis[: len(self)]
        return rows.to(self.like.dtype).reshape(-1, *self.like.shape)


def dense_hessian(product: Product, like: Tensor) -> Tensor:
    """Return the Hessian as a symmetric matrix (nd, nd), from products with unit fields."""
    n, d = like.shape
    hessian = torch.empty(n * d, n * d, device=like.device, dtype=best_float(like.device))
    for start in range(0, n * d, _CHUNK):
        k = min(_CHUNK, n * d - start)
        units = torch.zeros(k, n * d, device=like.device, dtype=like.dtype)
        units.diagonal(start).fill_(1.0)
        hessian[start : start + k] = product(units.reshape(k, n, d)).reshape(k, n * d)
    return 0.5 * (hessian + hessian.T)


def inverse_root(
    product: Product,
    g: Tensor,
    beta: float,
    *,
    dense: bool,
    tol: float = 1e-6,
    max_products: int = 200,
) -> Solution:
    r"""Apply :math:`(H^2 + \beta I)^{-1/2}` to a field.

    Parameters
    ----------
    product : callable
        Products with H, from (k, n, d) to (k, n, d).

    g : Tensor of shape (n, d)
        The field, not zero.

    beta : float
        A positive number.

    dense : bool
        Whether to decompose the dense matrix; else Lanczos, in which H is never squared.

    tol : float, default=1e-6
        Lanczos: products are added until the estimated relative error is below it.

    max_products : int, default=200
        Lanczos: the most products. What has been reached by then is a descent direction too.

    Returns
    -------
    Solution

    Notes
    -----
    For s > 0 the residual of the Lanczos solution of :math:`(H - is) x = g` is known for nothing,
    and :math:`\tfrac\pi2 (H^2 + \beta)^{-1/2} = \int_0^\infty s^{-1} Im (H - is)^{-1} du` with
    :math:`s = \sqrt\beta \cosh u`. The integral of residual times norm of the resolvent
    bounds the error; that norm is estimated by the Ritz value next to zero.
    """
    if dense:
        values, vectors, weights = _spectral(product, g)
        image = vectors @ (weights / (values.square() + beta).sqrt())
        return Solution(image.to(g.dtype).reshape(g.shape), values, len(values), 0.0)
    krylov = Krylov(product, g)
    tol = max(tol, 10 * torch.finfo(g.dtype).eps)
    while True:
        krylov.grow(min(_STRIDE, max_products - len(krylov)))
        values, vectors = torch.linalg.eigh(krylov.tridiagonal())
        weights = vectors @ (vectors[0] / (values.square() + beta).sqrt())
        error = _root_error(values, vectors, krylov.coupling[-1], beta) / float(weights.norm())
        if error <= tol or krylov.closed or len(krylov) >= max_products:
            break
    field = krylov.fields(krylov.norm * weights[None])[0]
    return Solution(field, values, len(krylov), error)


def newton_solution(
    product: Product,
    g: Tensor,
    *,
    dense: bool,
    tol: float = 1e-6,
    max_products: int = 200,
) -> Solution:
    """Solve H x = g in the sense of least squares: the direction of Newton's method.

    In the Krylov space it is the solution with the smallest residual (MINRES), and the error is
    that of the residual relative to g. Parameters are those of :func:`inverse_root`.
    """
    if dense:
        values, vectors, weights = _spectral(product, g)
        regular = values.abs() > _RANK_TOL * values.abs().amax()
        image = vectors @ torch.where(regular, weights / values.where(regular, 1.0), 0.0)
        return Solution(image.to(g.dtype).reshape(g.shape), values, len(values), 0.0)
    krylov = Krylov(product, g)
    tol = max(tol, 10 * torch.finfo(g.dtype).eps)
    while True:
        krylov.grow(min(_STRIDE, max_products - len(krylov)))
        square = krylov.tridiagonal()
        tall = torch.cat([square, torch.zeros_like(square[:1])])
        tall[-1, -1] = krylov.coupling[-1]
        weights = torch.linalg.pinv(tall, rtol=_RANK_TOL)[:, 0]
        residual = tall @ weights
        residual[0] -= 1
        error = float(residual.norm())
        if error <= tol or krylov.closed or len(krylov) >= max_products:
            break
    field = krylov.fields(krylov.norm * weights[None])[0]
    return Solution(field, torch.linalg.eigvalsh(square), len(krylov), error)


def smallest_eigenpairs(
    product: Product,
    like: Tensor,
    generator: torch.Generator,
    *,
    dense: bool,
    max_products: int = 150,
) -> Extremes:
    """Return the low end of the spectrum: all of it if dense, else Ritz pairs of a random start.

    A gradient may be orthogonal to the directions of negative curvature, as it is on the stable
    side of a saddle; a random field is not.
    """
    if dense:
        values, vectors = torch.linalg.eigh(dense_hessian(product, like))
        fields = vectors.T.to(like.dtype).reshape(-1, *like.shape)
        return Extremes(values, fields, float(values.abs().amax()), len(values))
    krylov = Krylov(product, normal_like(like, generator))
    while True:
        krylov.grow(min(_STRIDE, max_products - len(krylov)))
        values, vectors = torch.linalg.eigh(krylov.tridiagonal())
        scale = float(values.abs().amax())
        residual = krylov.coupling[-1] * abs(float(vectors[-1, 0]))
        if residual <= _PAIR_TOL * scale or krylov.closed or len(krylov) >= max_products:
            break
    return Extremes(values, krylov.fields(vectors.T), scale, len(krylov))


def normal_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return a field of independent normal numbers."""
    noise = torch.randn(
        like.shape, generator=generator, device=generator.device, dtype=best_float(generator.device)
    )
    return noise.to(like)


def _spectral(product: Product, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the eigenpairs of the dense Hessian and the coefficients of g."""
    values, vectors = torch.linalg.eigh(dense_hessian(product, g))
    return values, vectors, vectors.T @ g.reshape(-1).to(values)


def _root_error(values: Tensor, vectors: Tensor, coupling: float, beta: float) -> float:
    """Return the estimate of the error for g of unit length, see :func:`inverse_root`."""
    if coupling == 0:
        return 0.0
    root = math.sqrt(beta)
    reach = math.acosh(max(2.0, 100 * float(values.abs().amax()) / root))
    u = torch.linspace(0, reach, _NODES, dtype=torch.float64)
    s = root * torch.cosh(u)
    corner = (vectors[-1] * vectors[0] / torch.complex(values, -s[:, None])).sum(1).abs()
    nearest = float(values.abs().amin())
    integrand = corner / (nearest**2 + s.square()).sqrt()
    return 2 / math.pi * coupling * float(torch.trapezoid(integrand, u))
