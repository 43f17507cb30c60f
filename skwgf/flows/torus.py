r"""The velocity of Stein variational gradient descent on the torus, with Riesz kernels.

On :math:`\mathbb{T}^d = [0, 1)^d` a kernel :math:`k(x - y)` is given by its Fourier coefficients.
The Riesz kernel of order s has

.. math:: \hat k(\xi) = |2 \pi \xi|^{-2 s}, \qquad \xi \in \mathbb{Z}^d \setminus \{0\} ,

and a *zero mode* :math:`\hat k(0)` of choice. Write :math:`w = \mu \nabla \log \pi - \nabla \mu`.
The velocity is :math:`v = k * w`, in particles

.. math:: v(x) = \frac 1n \sum_j \big[k(x_j - x) \, \nabla \log \pi(x_j)
    + \nabla_{x_j} k(x_j - x)\big] ,

and the Kullback-Leibler divergence falls along the flow of a density by
:math:`I(\mu) = \sum_\xi \hat k(\xi) |\hat w(\xi)|^2`, the squared kernel Stein discrepancy. About
the uniform target a mode decays at the rate :math:`|2 \pi \xi|^{2 - 2s}`: slowly where it is high,
for s > 1, which is why the flow of a rough density is algebraic in time [1]_.

Two methods compute the same sums. On the line with an integer s the kernel is a Bernoulli
polynomial, and a sort and running moments give the velocity exactly in :math:`O(n \log n)`. Else
the series is cut at :math:`|\xi|_\infty \le M` and summed by matrix products.

References
----------
.. [1] L. Chizat, M. Colombo, R. Colombo, X. Fernández-Real. *Quantitative Local Convergence of
   Mean-Field Stein Variational Gradient Flow*. arXiv:2605.09456.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from skwgf._tensor import best_float, to_numpy, to_tensor
from skwgf.flows.carriers import Velocity
from skwgf.kernels import RieszKernel

_DEFAULT_MODES = {1: 128, 2: 24, 3: 8}
_LARGEST_EXACT = 8  # order up to which Bernoulli polynomials serve; above, few modes say it all
_BLOCK_ENTRIES = 2**19  # entries of the matrices of a block of particles, about a cache
_KEPT_ENTRIES = 2**23  # entries of the tables of all blocks that are kept for the second pass


def wrap(x: Tensor) -> Tensor:
    """Return the points of [0, 1)^d that `x` stands for.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.torus import wrap
    >>> wrap(torch.tensor([[1.25], [-0.25], [-1e-20]])).ravel().tolist()
    [0.25, 0.75, 0.0]
    """
    wrapped = x - x.floor()
    return wrapped.masked_fill_(wrapped == 1, 0.0)  # what lies just below zero is rounded up


def line_velocity(x: Tensor, scores: Tensor, s: int, *, zero_mode: int = 0) -> Velocity:
    r"""Return the exact velocity on the circle for a Riesz kernel of integer order.

    There :math:`k(u) = (-1)^{s+1} \beta_{2s}(\{u\})` with :math:`\beta_m = B_m / m!`, B the
    Bernoulli polynomials. As :math:`\beta_m(u + 1) = \beta_m(u) + u^{m-1} / (m-1)!`, the sum over
    the particles is, at each of them, a polynomial whose coefficients are moments of all particles
    and of those to its right.

    Parameters
    ----------
    x : Tensor of shape (n,)
        Points of [0, 1].

    scores : Tensor of shape (n,)
        Derivative of the log density of the target at `x`.

    s : int
        Order, at least 1. For s = 1 the derivative of k jumps at zero: a particle has no influence
        on itself, and coincident ones push each other apart.

    zero_mode : {0, 1}, default=0
        Constant added to the kernel.

    Returns
    -------
    Velocity
        The direction has shape (n,). The energy is :math:`I(\mu_n)`; for s = 1, where that is
        infinite, the part of it that pairs of different particles make, which can be negative.

    Notes
    -----
    Takes :math:`O(n \log n + s n)` operations, in float64 whatever the precision of `x`, on devices
    that have it.

    Examples
    --------
    Two particles and the uniform target:

    >>> import torch
    >>> from skwgf.flows.torus import line_velocity
    >>> velocity = line_velocity(torch.tensor([0.0, 0.5]), torch.zeros(2), 2)
    >>> bool(velocity.direction.abs().max() < 1e-12), round(1 / velocity.energy)
    (True, 48)
    """
    order = _argsort(x)
    wide = best_float(x.device)
    place, weight = (values.index_select(0, order).to(wide) for values in (x - 0.5, scores))
    n, degree = len(x), 2 * s
    # Moments of w: row r holds s_j y_j^[r] - y_j^[r - 1], where y = -x and y^[r] = y^r / r!.
    moments = place.new_empty(degree, n)
    moments[0] = weight
    power = torch.ones_like(place)
    for r in range(1, degree):
        lower, power = power, (power * place).mul_(-1 / r)
        torch.mul(weight, power, out=moments[r]).sub_(lower)
    last = float(weight @ (power * place)) / -degree - float(power.sum())
    totals = [*moments.sum(1).tolist(), last]
    numbers = _bernoulli_numbers(degree)
    smooth = [sum(numbers[r - q] * totals[q] for q in range(r + 1)) for r in range(degree + 1)]
    before = moments.cumsum(1)
    value = place.new_full((n,), smooth[0])
    for r in range(degree):
        value.mul_(place).mul_(1 / (degree - r)).sub_(before[r]).add_(smooth[r + 1] + totals[r])
    energy = sum((-1) ** r * totals[r] * smooth[degree - r] for r in range(degree + 1))
    for r in range(degree):
        energy -= (-1) ** r * float(moments[r] @ before[degree - 1 - r])
    sign, mean = (-1) ** (s + 1), totals[0] / n
    value.mul_(sign / n).add_(zero_mode * mean - (0.5 / n if s == 1 else 0.0))
    direction = torch.empty_like(value).scatter_(0, order, value)
    energy = sign * energy / n**2 + zero_mode * mean**2 + (1 / n if s == 1 else 0.0)
    return Velocity(direction.to(x.dtype), energy)


def fourier_velocity(x: Tensor, scores: Tensor, weights: Tensor) -> Velocity:
    r"""Return the velocity of a kernel that is a trigonometric polynomial.

    In the real basis :math:`\varphi_p` of products of 1, :math:`\cos 2 \pi m x_a` and
    :math:`\sin 2 \pi m x_a` convolutions are diagonal,

    .. math:: v_a(x) = \sum_p g_p W_{a,p} \, \varphi_p(x), \qquad
        W_{a,p} = \frac 1n \sum_j \big[\partial_a \log \pi(x_j) \, \varphi_p(x_j)
        + \partial_a \varphi_p(x_j)\big], \qquad I(\mu_n) = \sum_{a,p} g_p W_{a,p}^2 .

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Points of the torus.

    scores : Tensor of shape (n, d)
        Gradient of the log density of the target at `x`.

    weights : Tensor of shape (2 M + 1, ..., 2 M + 1)
        The :math:`g_p`, as made by :func:`mode_weights`.

    Returns
    -------
    Velocity

    Notes
    -----
    Takes about :math:`(4 d + 2) n (2M+1)^d` operations, nearly all of them in matrix products of
    blocks of particles. The memory is bounded, whatever n, but for a few vectors.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.torus import RieszKernel, fourier_velocity, mode_weights
    >>> weights = mode_weights(RieszKernel(2.0), 2, 3, torch.zeros(1))
    >>> lattice = torch.cartesian_prod(torch.arange(5) / 5, torch.arange(5) / 5)
    >>> bool(fourier_velocity(lattice, torch.zeros(25, 2), weights).direction.abs().max() < 1e-6)
    True
    """
    n, d = x.shape
    size = weights.shape[0]
    rows, columns = size ** (d // 2), size ** (d - d // 2)
    step = max(16, _BLOCK_ENTRIES // ((d + 1) * rows + columns))
    blocks = [slice(first, first + step) for first in range(0, n, step)]

    def make(block: slice) -> tuple[Tensor, Tensor]:
        tables = _waves(x[block], size // 2)
        return _products(tables[:, : d // 2]), _products(tables[:, d // 2 :])

    keep = n * (rows + columns) <= _KEPT_ENTRIES
    kept = [make(block) for block in blocks] if keep else []

    memory = x.new_empty(d * rows * min(n, step))

    def factors() -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        for k, block in enumerate(blocks):
            left, right = kept[k] if keep else make(block)
            count = right.shape[1]
            yield block, left, right, memory[: d * rows * count].view(d, rows, count)

    sums = x.new_zeros((d + 1) * rows, columns)
    score_rows = scores.T.contiguous()
    for block, left, right, work in factors():
        sums[:rows].addmm_(left, right.T)
        torch.mul(left, score_rows[:, None, block], out=work)
        sums[rows:].addmm_(work.flatten(0, 1), right.T)
    means = sums.view(d + 1, *weights.shape) / n
    flux = torch.stack([means[a + 1] + _slope(means[0], a) for a in range(d)])
    moved = weights * flux
    direction = x.new_empty(d, n)
    for block, left, right, work in factors():
        torch.mm(moved.view(d * rows, columns), right, out=work.view(d * rows, -1))
        torch.sum(work.mul_(left), dim=1, out=direction[:, block])
    return Velocity(direction.T.contiguous(), float((moved * flux).sum()))


def mode_weights(kernel: RieszKernel, d: int, n_modes: int, like: Tensor) -> Tensor:
    r"""Return the weights of a kernel in the real trigonometric basis.

    Parameters
    ----------
    kernel : RieszKernel
        The kernel.

    d : int
        Dimension.

    n_modes : int
        Highest frequency M of a coordinate.

    like : Tensor
        Gives the precision and the device.

    Returns
    -------
    Tensor of shape (2 M + 1, ..., 2 M + 1), with d axes
        :math:`\hat k(\xi) / \|\varphi_p\|^2`. Along each axis: 1, the cosines, the sines.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.torus import RieszKernel, mode_weights
    >>> weights = mode_weights(RieszKernel(1.0), 1, 1, torch.zeros(1)) * (2 * torch.pi) ** 2
    >>> [round(weight, 4) for weight in weights.tolist()]
    [0.0, 2.0, 2.0]
    """
    up = torch.arange(1, n_modes + 1, device=like.device, dtype=best_float(like.device))
    line = torch.cat([up.new_zeros(1), up, up]) ** 2
    grids = torch.meshgrid(*[line] * d, indexing="ij")
    squares = torch.stack(grids).sum(0)
    doubled = torch.stack([2.0 ** (grid > 0) for grid in grids]).prod(0)
    return (kernel.symbol(squares, n_modes) * doubled).to(like.dtype)


class TorusVelocity:
    r"""Velocity of Stein variational gradient descent on the torus, a velocity field.

    `field(x, side)` takes x of shape (n, d), any real numbers, which are wrapped to [0, 1); `side`
    is not used. The energy is the dissipation :math:`I(\mu_n)`, the squared kernel Stein
    discrepancy.

    Parameters
    ----------
    score_fn : callable
        Gradient of the log density of the target, (n, d) -> (n, d), on points of [0, 1)^d.

    d : {1, 2, 3}
        Dimension.

    kernel : RieszKernel, default=None
        None has the order (d + 3) / 2, for which the velocity is smooth.

    n_modes : int, default=None
        Highest frequency M of a coordinate; the series has :math:`(2M + 1)^d` terms. None is exact
        for d = 1 and an integer s up to 8; else M is 128, 24 and 8 for d = 1, 2 and 3.

    Attributes
    ----------
    kernel : RieszKernel
        The kernel.

    n_modes : int or None
        Highest frequency; None when the velocity is exact.

    Raises
    ------
    ValueError
        If s is at most d / 2, where the kernel is infinite at zero, or another parameter is out of
        its range; when called, if `x` or the scores have another shape.

    Warns
    -----
    UserWarning
        If s is at most (d + 1) / 2, where the gradient of the kernel is not continuous.

    Notes
    -----
    The velocity changes at the rate :math:`\max(\rho) \max_\xi |2 \pi \xi|^2 \hat k(\xi)`, which is
    :math:`(2\pi)^{2 - 2s}` near the uniform target: times and steps are large for large s.

    In the limit of all modes :math:`I(\mu_n)` is finite for s > (d + 2) / 2 only: below, it tells
    of the cut-off as well.

    References
    ----------
    .. [1] L. Chizat, M. Colombo, R. Colombo, X. Fernández-Real. *Quantitative Local Convergence of
       Mean-Field Stein Variational Gradient Flow*. arXiv:2605.09456.

    Examples
    --------
    Particles spread until they are evenly spaced, where I = 1 / (12 n^2):

    >>> import torch
    >>> from skwgf.flows import ParticleCarrier, run_flow
    >>> from skwgf.flows.torus import TorusVelocity
    >>> field = TorusVelocity(torch.zeros_like, 1)
    >>> x = torch.linspace(0, 0.9, 10, dtype=torch.float64)[:, None] ** 1.2
    >>> result = run_flow(ParticleCarrier(x, field, step_size=40.0), max_iter=400)
    >>> round(1 / result.history["objective"][-1])
    1200
    """

    def __init__(
        self,
        score_fn: Callable[[Tensor], Tensor],
        d: int,
        kernel: RieszKernel | None = None,
        *,
        n_modes: int | None = None,
    ) -> None:
        if d not in _DEFAULT_MODES:
            raise ValueError(f"d must be 1, 2 or 3, got {d!r}.")
        if n_modes is not None and n_modes < 1:
            raise ValueError(f"n_modes must be at least 1, got {n_modes!r}.")
        self.score_fn = score_fn
        self.d = d
        self.kernel = (RieszKernel() if kernel is None else kernel).resolve(d)
        riesz = self.kernel.kind == "riesz"
        if riesz:
            _check_order(self._order(), d)
        exact = riesz and d == 1 and self._order() in range(1, _LARGEST_EXACT + 1)
        self.n_modes = _DEFAULT_MODES[d] if n_modes is None and not exact else n_modes
        self._weights: Tensor | None = None

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Velocity:
        """Return the velocity and the dissipation at `x`."""
        if x.ndim != 2 or x.shape[1] != self.d:
            raise ValueError(f"x must have shape (n, {self.d}), got {tuple(x.shape)}.")
        x = wrap(x.detach())
        scores = self.score_fn(x).detach()
        if scores.shape != x.shape:
            raise ValueError(
                f"score_fn must return the shape of its points, {tuple(x.shape)}, got "
                f"{tuple(scores.shape)}."
            )
        if self.n_modes is None:
            velocity = line_velocity(
                x[:, 0], scores[:, 0], int(self._order()), zero_mode=self.kernel.zero_mode
            )
            return Velocity(velocity.direction[:, None], velocity.energy)
        weights = self._weights
        if weights is None or (weights.dtype, weights.device) != (x.dtype, x.device):
            self._weights = weights = mode_weights(self.kernel, self.d, self.n_modes, x)
        return fourier_velocity(x, scores, weights)

    def _order(self) -> float:
        """Return the order of the kernel."""
        return float(self.kernel.s or 0)


def _check_order(s: float, d: int) -> None:
    """Raise where the kernel is not bounded, warn where its gradient is not continuous."""
    if s <= d / 2:
        raise ValueError(
            f"The kernel sum_xi |2 pi xi|^(-2 s) exp(2 pi i xi.x) is infinite at zero unless "
            f"s > d / 2 = {d / 2:g}, got s={s:g}. Leave s out for (d + 3) / 2 = {(d + 3) / 2:g}, "
            "or take kind='coulomb', the saturated Coulomb kernel."
        )
    if s <= (d + 1) / 2:
        warnings.warn(
            f"s={s:g} is not above (d + 1) / 2 = {(d + 1) / 2:g}: the gradient of the kernel jumps "
            f"at zero, and few particles do not follow the density. (d + 3) / 2 = {(d + 3) / 2:g} "
            "is the default.",
            stacklevel=3,
        )


def _argsort(x: Tensor) -> Tensor:
    """Return the indices that sort numbers of [0, 1], up to a few units of rounding.

    On the CPU numpy's vectorised sort of integers, a position in the high bits and an index in the
    low ones, takes half the time of the sort of indices that torch or numpy offer.
    """
    if x.device.type != "cpu":
        return x.argsort()
    bits = len(x).bit_length()
    keys = (to_numpy(x, np.float64) * 2.0 ** (62 - bits)).astype(np.int64)
    keys <<= bits
    keys |= np.arange(len(x))
    keys.sort()
    keys &= 2**bits - 1
    return to_tensor(keys)


def _bernoulli_numbers(last: int) -> list[float]:
    """Return B_k / k! for k up to `last`, from sum_k (B_k / k!) / (m + 1 - k)! = 0 for m >= 1."""
    numbers = [Fraction(1)]
    for m in range(1, last + 1):
        tail = (b / math.factorial(m + 1 - k) for k, b in enumerate(numbers))
        numbers.append(-sum(tail, Fraction(0)))
    return [float(b) for b in numbers]


def _waves(x: Tensor, n_modes: int) -> Tensor:
    """Return 1, the cosines and the sines of 2 pi m x, of shape (2 n_modes + 1, d, n).

    Rotations double the number of frequencies: fewer operations than sines, and smaller errors
    than those of rounding m x.
    """
    n, d = x.shape
    table = x.new_empty(2 * n_modes + 1, d, n)
    table[0] = 1
    cos, sin = table[1 : n_modes + 1], table[n_modes + 1 :]
    angles = 2 * math.pi * x.T
    torch.cos(angles, out=cos[0])
    torch.sin(angles, out=sin[0])
    done = 1
    while done < n_modes:
        new = min(done, n_modes - done)
        c, s, target = cos[done - 1], sin[done - 1], slice(done, done + new)
        torch.mul(cos[:new], c, out=cos[target]).addcmul_(sin[:new], s, value=-1)
        torch.mul(sin[:new], c, out=sin[target]).addcmul_(cos[:new], s)
        done += new
    return table


def _products(tables: Tensor) -> Tensor:
    """Return all products of one wave of each coordinate, (size^k, n) from (size, k, n)."""
    if tables.shape[1] == 0:
        return tables.new_ones(1, tables.shape[2])
    result = tables[:, 0]
    for table in tables.unbind(1)[1:]:
        result = (result[:, None] * table).flatten(0, 1)
    return result


def _slope(coefficients: Tensor, axis: int) -> Tensor:
    """Return the mean of the derivatives of the basis, from the means of the basis itself."""
    n_modes = coefficients.shape[axis] // 2
    shape = [1] * coefficients.ndim
    shape[axis] = n_modes
    rate = 2 * math.pi * torch.arange(1, n_modes + 1).to(coefficients).view(shape)
    cos = coefficients.narrow(axis, 1, n_modes)
    sin = coefficients.narrow(axis, n_modes + 1, n_modes)
    constant = torch.zeros_like(coefficients.narrow(axis, 0, 1))
    return torch.cat([constant, -rate * sin, rate * cos], dim=axis)
