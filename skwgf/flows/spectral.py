r"""The mean-field equation of Stein variational gradient descent on the torus.

A density :math:`\rho` on :math:`\mathbb{T}^d`, d = 1 or 2, towards :math:`\pi \propto e^{-V}`:

.. math:: \partial_t \rho = - \operatorname{div}(\rho v), \qquad
    v = k * (- \rho \nabla V - \nabla \rho) ,

with a kernel of :class:`~skwgf.kernels.RieszKernel`. Along it
:math:`\frac{d}{dt} \mathrm{KL}(\rho_t | \pi) = -I(\rho_t)`, I the squared kernel Stein discrepancy.

To first order about the uniform target the Fourier mode :math:`\xi` decays like
:math:`\exp(-|2 \pi \xi|^{2 - 2s} t)`. For s > 1 high modes are slow, and a start whose coefficients
are of size :math:`|\xi|^{-r - d/2}` comes closer like

.. math:: \|\rho_t - \pi\|_{L^2} \sim t^{-r / (2 (s - 1))}, \qquad
    \mathrm{KL}(\rho_t | \pi) \sim t^{-r / (s - 1)} ;

for s = 1 everything decays exponentially [1]_. Grids see these powers in a window: after the modes
of the start's own scale have gone, and well before :math:`t = |2 \pi \xi_{\max}|^{2s - 2}`.

References
----------
.. [1] L. Chizat, M. Colombo, R. Colombo, X. Fernández-Real. *Quantitative Local Convergence of
   Mean-Field Stein Variational Gradient Flow*. arXiv:2605.09456.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from skwgf._tensor import best_float
from skwgf.kernels import RieszKernel

_CFL = 1.5  # dt times the largest frequency times the speed; the Runge-Kutta step allows 2.8
_STABLE = 2.0  # dt times the largest rate of decay; it allows 2.78
_ACCURATE = 0.2  # the same where the fastest modes are to be followed
_ELAPSED = 0.05  # dt over the time since the start: modes that live on are slower than 1 / time
_GOLDEN = (1 + math.sqrt(5)) / 2
_SERIES = 1e-3  # |rho / pi - 1| below which the divergence is summed as a series


@dataclass(frozen=True)
class MeanFieldPath:
    r"""A solution of the mean-field equation.

    Attributes
    ----------
    times : Tensor of shape (T,)
        Times.

    density : Tensor of shape (T, N) or (T, N, N)
        The density on the grid of points i / N, resolved up to frequencies below N / 3.

    target : Tensor of shape (N,) or (N, N)
        The density of the target.

    kl : Tensor of shape (T,)
        Kullback-Leibler divergence :math:`\int \rho \log(\rho / \pi)`, to full relative precision
        near the target; infinite where the density is negative.

    l2 : Tensor of shape (T,)
        :math:`\|\rho - \pi\|_{L^2}`.

    dissipation : Tensor of shape (T,)
        :math:`I(\rho)`, minus the slope of `kl`.

    n_steps : int
        Number of Runge-Kutta steps.
    """

    times: Tensor
    density: Tensor
    target: Tensor
    kl: Tensor
    l2: Tensor
    dissipation: Tensor
    n_steps: int


def solve_mean_field(
    density: Tensor,
    times: Tensor | Sequence[float],
    kernel: RieszKernel,
    *,
    potential: Tensor | None = None,
    max_step: float = math.inf,
) -> MeanFieldPath:
    r"""Solve the mean-field equation by a Fourier method.

    Frequencies up to a third of the grid's are kept (the 2/3 rule), so that products are free of
    aliasing. Classical Runge-Kutta steps of order four satisfy
    :math:`\Delta t \, k_{\max} \|v\|_\infty \le 1.5` and stay below the largest rate of decay; they
    grow with the time, since what is left by then decays slowly.

    Parameters
    ----------
    density : Tensor of shape (N,) or (N, N)
        Positive density at the points i / N; divided by its mean. N is even and at least 8.

    times : sequence of float
        Increasing times at which the solution is wanted; the start is at the first of them.

    kernel : RieszKernel
        The kernel. Orders below the d / 2 that particles need are allowed.

    potential : Tensor of the shape of `density`, default=None
        V at the same points, smooth; None is the uniform target.

    max_step : float, default=inf
        Largest :math:`\Delta t`.

    Returns
    -------
    MeanFieldPath
        In float64 (float32 on devices that have no more).

    Raises
    ------
    ValueError
        If an argument is out of its range, or the density is negative once its high frequencies
        have been cut off: then it varies too much for the grid.

    RuntimeError
        If the solution is no longer finite.

    Examples
    --------
    With s = 1 in one dimension the density at a point of rest solves the logistic equation:

    >>> import math, torch
    >>> from skwgf.flows.spectral import solve_mean_field, torus_grid
    >>> from skwgf.kernels import RieszKernel
    >>> start = 1 + 0.5 * torch.cos(2 * torch.pi * torus_grid(64, 1)[:, 0])
    >>> path = solve_mean_field(start, [0.0, 1.0, 2.0], RieszKernel(1.0))
    >>> [round(float(row[0]), 4) for row in path.density]
    [1.5, 1.1398, 1.0472]
    >>> [round(1 / (1 + (1 / 1.5 - 1) * math.exp(-t)), 4) for t in (0, 1, 2)]
    [1.5, 1.1398, 1.0472]
    """
    marks = [float(time) for time in times]
    _check(density, marks, potential, max_step)
    equation = _Equation(density, kernel, potential)
    waves = equation.transform(density.to(equation.target) / float(density.mean()))
    waves = waves * equation.resolved
    if not bool((equation.back(waves) > 0).all()):
        raise ValueError(
            f"The density is negative after frequencies above {density.shape[0] / 3:.0f} have been "
            "cut off. Take more points or a smaller perturbation."
        )
    time, n_steps, records = marks[0], 0, []
    for mark in marks:
        while time < mark:
            state = equation.state(waves)
            stable, accurate = equation.steps(state)
            step = min(stable, max(accurate, _ELAPSED * (time - marks[0])), max_step)
            left = mark - time
            # The last two steps before a mark are of equal length.
            step = left if step >= left else min(step, left / 2)
            waves = equation.advance(waves, state.slope, step)
            time = mark if step == left else time + step
            n_steps += 1
        records.append(equation.record(waves))
        if not bool(torch.isfinite(records[-1].figures[1:]).all()):
            raise RuntimeError(f"The solution has left the finite numbers before time {mark:g}.")
    figures = torch.stack([record.figures for record in records])
    return MeanFieldPath(
        times=torch.tensor(marks, dtype=figures.dtype, device=figures.device),
        density=torch.stack([record.density for record in records]),
        target=equation.target,
        kl=figures[:, 0],
        l2=figures[:, 1],
        dissipation=figures[:, 2],
        n_steps=n_steps,
    )


def torus_grid(n: int, d: int) -> Tensor:
    """Return the points i / n of the torus, in float64.

    Parameters
    ----------
    n : int
        Points of an axis.

    d : int
        Dimension.

    Returns
    -------
    Tensor of shape (n, ..., n, d)

    Examples
    --------
    >>> from skwgf.flows.spectral import torus_grid
    >>> torus_grid(4, 1).ravel().tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    line = torch.arange(n, dtype=torch.float64) / n
    return torch.stack(torch.meshgrid(*[line] * d, indexing="ij"), dim=-1)


def rough_field(n: int, d: int, regularity: float) -> Tensor:
    r"""Return a real function on the torus whose Sobolev regularity is known.

    .. math:: f(x) \propto \sum_\xi |\xi|^{-r - d/2}
        \cos\big(2 \pi \xi \cdot x + \pi g |\xi|^2\big)

    over the frequencies that the grid of the mean-field equation resolves. The energy of those
    above :math:`|\xi|` is of order :math:`|\xi|^{-2r}`: the function is of :math:`H^{r'}` for all
    r' < r, and misses r by a logarithm. Phases that grow as squares, g the golden ratio, spread the
    energy of high frequencies over the torus, on the circle evenly.

    Parameters
    ----------
    n : int
        Points of an axis.

    d : int
        Dimension.

    regularity : float
        The r above.

    Returns
    -------
    Tensor of shape (n, ..., n), with d axes, float64
        Of mean zero and largest absolute value one.

    Examples
    --------
    >>> import torch
    >>> from skwgf.flows.spectral import rough_field
    >>> sizes = torch.fft.rfft(rough_field(64, 1, 1.0)).abs()
    >>> [round(float(sizes[1] / sizes[k]), 4) for k in (4, 16)]
    [8.0, 64.0]
    """
    frequencies, squares, resolved = _frequencies(n, d)
    sizes = squares.clamp(min=1) ** (-regularity / 2 - d / 4) * resolved * (squares > 0)
    # Odd in the frequency, so that the function is real.
    sign = torch.sign(n * frequencies[-1] + frequencies[0])
    waves = torch.polar(sizes, _GOLDEN * math.pi * sign * squares)
    field: Tensor = torch.fft.irfftn(waves, s=(n,) * d)
    return field / field.abs().max()


class _State(NamedTuple):
    """Density and velocity on the grid, the coefficients of w, and the slope of the density's."""

    density: Tensor
    velocity: Tensor
    flux: Tensor
    slope: Tensor


class _Record(NamedTuple):
    """What is reported of a time: the density, and KL, L2 and I."""

    density: Tensor
    figures: Tensor


class _Equation:
    """The right-hand side in Fourier coefficients, and what is measured of a state."""

    def __init__(self, density: Tensor, kernel: RieszKernel, potential: Tensor | None) -> None:
        n, d = density.shape[0], density.ndim
        self.shape = density.shape
        self.axes = tuple(range(-d, 0))
        dtype = best_float(density.device)
        frequencies, squares, resolved = (
            values.to(density.device) for values in _frequencies(n, d)
        )
        self.top = int(frequencies[resolved.expand_as(frequencies)].max())
        self.resolved = resolved
        self.slopes = 2j * math.pi * frequencies.to(dtype)
        self.kept_slopes = self.slopes * resolved
        self.symbol = kernel.resolve(density.ndim).symbol(squares, self.top).to(dtype) * resolved
        values = torch.zeros_like(density) if potential is None else potential
        waves = self.transform(values.to(dtype)) * resolved
        smooth = self.back(waves)
        unnormalised = torch.exp(smooth.min() - smooth)
        self.target = unnormalised / unnormalised.mean()
        self.score = None if potential is None else self.back(-self.slopes * waves)
        self.steepness = 0.0 if self.score is None else self.score.square().sum(0)
        self.decay = float((self.symbol * 4 * math.pi**2 * squares).max())
        self.height = float(self.symbol.max())

    def transform(self, values: Tensor) -> Tensor:
        """Return the Fourier coefficients of functions on the grid."""
        waves: Tensor = torch.fft.rfftn(values, dim=self.axes, norm="forward")
        return waves

    def back(self, waves: Tensor) -> Tensor:
        """Return the functions of these coefficients on the grid."""
        values: Tensor = torch.fft.irfftn(waves, s=self.shape, dim=self.axes, norm="forward")
        return values

    def state(self, waves: Tensor) -> _State:
        """Return what a density does, of given coefficients."""
        density = self.back(waves)
        flux = -self.slopes * waves
        if self.score is not None:
            flux = flux + self.transform(density * self.score) * self.resolved
        velocity = self.back(self.symbol * flux)
        slope = -(self.kept_slopes * self.transform(density * velocity)).sum(0)
        return _State(density, velocity, flux, slope)

    def steps(self, state: _State) -> tuple[float, float]:
        """Return the length of a stable step, and of one that follows all modes."""
        speed = float(state.velocity.abs().flatten(1).amax(1).sum())
        # Of the linearised equation; the second term matters with a zero mode.
        steepness = float((state.density * self.steepness).mean())
        rate = float(state.density.max()) * self.decay + self.height * steepness
        stable = min(_CFL / max(2 * math.pi * self.top * speed, 1e-300), _STABLE / rate)
        return stable, _ACCURATE / rate

    def advance(self, waves: Tensor, slope: Tensor, step: float) -> Tensor:
        """Return the coefficients after a Runge-Kutta step, from those before and their slope."""
        second = self.state(waves + 0.5 * step * slope).slope
        third = self.state(waves + 0.5 * step * second).slope
        fourth = self.state(waves + step * third).slope
        return waves + step / 6 * (slope + 2 * second + 2 * third + fourth)

    def record(self, waves: Tensor) -> _Record:
        """Return what is reported of a state."""
        density, velocity, flux, _ = self.state(waves)
        dissipation = (velocity * self.back(flux)).sum(0).mean()
        excess = density - self.target
        divergence = (self.target * _entropy(excess / self.target)).mean()
        l2 = excess.square().mean().sqrt()
        return _Record(density, torch.stack([divergence, l2, dissipation]))


def _entropy(u: Tensor) -> Tensor:
    """Return (1 + u) log(1 + u) - u, without cancellation; infinite below -1."""
    series = u * u * (1 / 2 - u * (1 / 6 - u * (1 / 12 - u * (1 / 20 - u / 30))))
    whole = torch.xlogy(1 + u, 1 + u) - u
    whole = torch.where(u < -1, torch.inf, whole)
    return torch.where(u.abs() < _SERIES, series, whole)


def _frequencies(n: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the frequencies (d, ...), their squared norm, and which the 2/3 rule keeps."""
    dtype = torch.float64
    whole = torch.fft.fftfreq(n, d=1 / n, dtype=dtype)
    half = torch.fft.rfftfreq(n, d=1 / n, dtype=dtype)
    grids = torch.meshgrid(*[whole] * (d - 1), half, indexing="ij")
    frequencies = torch.stack(grids)
    return frequencies, frequencies.square().sum(0), (3 * frequencies.abs() < n).all(0)


def _check(density: Tensor, times: list[float], potential: Tensor | None, max_step: float) -> None:
    """Raise unless the arguments of `solve_mean_field` fit each other."""
    n = density.shape[0] if density.ndim else 0
    if density.shape not in ((n,), (n, n)) or n < 8 or n % 2:
        raise ValueError(
            "density must have shape (N,) or (N, N) with an even N of at least 8, got "
            f"{tuple(density.shape)}."
        )
    if not bool((density > 0).all() & torch.isfinite(density).all()):
        raise ValueError("density must be positive and finite everywhere.")
    if potential is not None:
        if potential.shape != density.shape:
            raise ValueError(
                f"potential must have the shape of density, {tuple(density.shape)}, got "
                f"{tuple(potential.shape)}."
            )
        if not bool(torch.isfinite(potential).all()):
            raise ValueError("potential must be finite everywhere.")
    if not times or not all(map(math.isfinite, times)) or sorted(set(times)) != times:
        raise ValueError(f"times must be finite and increasing, got {times}.")
    if not max_step > 0:
        raise ValueError(f"max_step must be above 0, got {max_step!r}.")
