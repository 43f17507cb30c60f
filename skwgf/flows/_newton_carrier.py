r"""What the loop moves in a minimisation: a cloud, by saddle-free Newton steps and their rivals."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from skwgf.flows import _line_search as search
from skwgf.flows._curvature import (
    DENSE_UP_TO,
    Extremes,
    Krylov,
    Solution,
    inverse_root,
    newton_solution,
    normal_like,
    smallest_eigenpairs,
)
from skwgf.flows.carriers import rms
from skwgf.functionals.base import Expansion, Functional

__all__ = ["NewtonCarrier", "is_dense", "resolve_beta"]

Verdict = Literal["converged", "saddle", "stalled"]

# Curvature below minus that share of the largest counts as negative.
_NEGATIVE = 1e-6
# Products for a first estimate of the largest curvature, and the most for a direction.
_PROBES, _MOST_PRODUCTS = 5, 100
# Perturbed descent: gradients, relative to length scale times curvature, at which noise is added,
# and steps between two additions.
_NOISE_BELOW, _NOISE_EVERY = 1e-3, 100
# Where the energy is flat to the last digit, the gradient of a minimum is up to that times the root
# of the rounding unit.
_FLAT = 100.0


def resolve_beta(beta: float | str, g: Tensor, radius: float) -> float:
    r"""Return beta, or :math:`\frac1n \sum_i |g_i|^2 / r^2` for "auto", but never zero.

    With "auto" no direction has a root mean square above r.
    """
    number = (rms(g) / radius) ** 2 if beta == "auto" else float(beta)
    return max(number, torch.finfo(torch.float64).tiny)  # the squares may underflow


def is_dense(solver: str, z: Tensor) -> bool:
    """Tell whether a solver decomposes the dense Hessian of a cloud."""
    return solver == "eigh" or (solver == "auto" and z.numel() <= DENSE_UP_TO)


class NewtonCarrier:
    r"""A cloud that goes down a functional.

    Parameters
    ----------
    functional : Functional
        A fitted functional.

    particles : Tensor of shape (n, d)
        Where the cloud starts; copied.

    generator : torch.Generator
        Draws the kicks and the noise.

    method, beta, solver, step_size, line_search, max_step, noise, noise_size, tol, solver_tol
        See :func:`skwgf.flows.newton.minimize`.

    Attributes
    ----------
    particles : Tensor of shape (n, d)
        The cloud.

    verdict : {"converged", "saddle", "stalled"} or None
        Why no more steps are to be made; None while they are.

    n_products : int
        Number of Hessian products so far.
    """

    def __init__(
        self,
        functional: Functional,
        particles: Tensor,
        *,
        generator: torch.Generator,
        method: str = "wsfn",
        beta: float | str = "auto",
        solver: str = "auto",
        step_size: float = 1.0,
        line_search: bool = True,
        max_step: float | None = None,
        noise: str = "isotropic",
        noise_size: float = 1e-3,
        tol: float = 1e-7,
        solver_tol: float = 1e-3,
    ) -> None:
        self.functional = functional
        self.particles = particles.detach().clone()
        self.generator = generator
        self.method = method
        self.beta = beta
        self.dense = is_dense(solver, particles)
        self.step_size = step_size
        self.line_search = line_search
        self.max_step = max_step
        self.noise = noise
        self.noise_size = noise_size
        self.tol = tol
        self.solver_tol = solver_tol
        self.verdict: Verdict | None = None
        self.n_products = 0
        self.last_step = 0.5 * step_size  # the search of plain descent starts at twice the last one
        self.quiet = _NOISE_EVERY  # steps since noise was added
        self.start_energy: float | None = None
        self.scale: float | None = None  # the largest absolute curvature, as last seen
        self._here: Expansion | None = None
        self._escape: Extremes | None = None  # a saddle's negative curvature, to be left next
        self._extremes: Extremes | None = None  # of the present cloud, once looked at

    def advance(self) -> dict[str, float]:
        """Move the cloud along one step, or find out why there is none to make."""
        before = self.n_products
        if self.start_energy is None:
            self._arrive(self.particles)
        here, x = self.expansion(), self.particles
        figures: dict[str, float] = {}
        if self.verdict is None:
            figures = self._step(here, x)
        return {
            "objective": float(self.expansion().value),
            "gradient_norm": rms(self.expansion().gradient),
            **(self._idle(here) if self.method in ("wsfn", "newton") else {}),
            "step": rms(self.particles - x),
            **figures,
            "hessian_products": float(self.n_products - before),
        }

    def is_finite(self) -> bool:
        """Tell whether all coordinates are finite."""
        return bool(torch.isfinite(self.particles).all())

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the cloud and of what the next steps depend on."""
        return {
            "particles": self.particles.clone(),
            "generator": self.generator.get_state(),
            "figures": (
                self.verdict,
                self.n_products,
                self.last_step,
                self.quiet,
                self.start_energy,
                self.scale,
            ),
            "extremes": self._extremes,
            "escapes": self._escape is not None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the cloud back."""
        self.particles = state["particles"].clone()
        self.generator.set_state(state["generator"])
        (
            self.verdict,
            self.n_products,
            self.last_step,
            self.quiet,
            self.start_energy,
            self.scale,
        ) = state["figures"]
        self._here, self._extremes = None, state["extremes"]
        self._escape = self._extremes if state["escapes"] else None

    def extremes(self) -> Extremes:
        """Return the low end of the spectrum at the present cloud."""
        if self._extremes is None:
            product = self.expansion().hessian
            self._extremes = smallest_eigenpairs(
                product, self.particles, self.generator, dense=self.dense
            )
            self.n_products += self._extremes.n_products
            self.scale = self._extremes.scale
        return self._extremes

    def expansion(self) -> Expansion:
        """Return the expansion at the present cloud."""
        if self._here is None:
            self._here = self.functional.expand(self.particles)
        return self._here

    def _arrive(self, x: Tensor) -> None:
        """Take a cloud for the present one, and look around if its gradient is small."""
        self.particles = x
        self._here = self._extremes = self._escape = None
        here = self.expansion()
        if self.start_energy is None:
            self.start_energy = float(here.value)
        if self.scale is None:
            self.scale = self._first_scale(here)
        if self._is_small(here.gradient, self.tol):
            self._look_around(here)

    def _first_scale(self, here: Expansion) -> float:
        """Return an estimate of the largest curvature by a few products."""
        krylov = Krylov(here.hessian, normal_like(self.particles, self.generator))
        krylov.grow(_PROBES)
        self.n_products += len(krylov)
        return float(torch.linalg.eigvalsh(krylov.tridiagonal()).abs().amax())

    def _is_small(self, g: Tensor, tol: float) -> bool:
        """Tell whether a gradient is small, in units of curvature and length."""
        assert self.scale is not None
        return rms(g) <= tol * self.scale * self.functional.length_scale_

    def _look_around(self, here: Expansion, tol: float | None = None) -> None:
        """Judge a stationary cloud by its curvature."""
        ends = self.extremes()
        if not self._is_small(here.gradient, self.tol if tol is None else tol):
            return  # the curvature has changed
        if float(ends.values[0]) >= -_NEGATIVE * ends.scale:
            self.verdict = "converged"
        elif self.method == "wsfn":
            self._escape = ends
        elif self.method != "perturbed":
            self.verdict = "saddle"

    def _step(self, here: Expansion, x: Tensor) -> dict[str, float]:
        """Make a step of the method and return its figures."""
        if self._escape is not None:
            return self._kick(here, x, self._escape)
        if self.method == "perturbed" and self._is_time_for_noise(here):
            self._arrive(x + self._noise(here))
            return {}
        direction, figures = self._direction(here)
        d = search.limited(direction, self.step_size, self.max_step)
        found = self._search(here, x, d)
        self.quiet += 1
        if found is not None:
            moved, self.last_step = found
            self._arrive(moved)
        else:
            self._give_up(here)
        return figures

    def _direction(self, here: Expansion) -> tuple[Tensor, dict[str, float]]:
        """Return the direction to go against, and the figures of the method."""
        g = here.gradient
        if self.method in ("gradient", "perturbed"):
            return g, {}
        effort: dict[str, Any] = {
            "dense": self.dense,
            "tol": self.solver_tol,
            "max_products": _MOST_PRODUCTS,
        }
        if self.method == "newton":
            solution = newton_solution(here.hessian, g, **effort)
            return solution.field, self._seen(solution, 0.0)
        beta = self._beta(g)
        solution = inverse_root(here.hessian, g, beta, **effort)
        return solution.field, self._seen(solution, beta)

    def _beta(self, g: Tensor) -> float:
        """Return the regularisation at a gradient."""
        return resolve_beta(self.beta, g, self.functional.length_scale_)

    def _seen(self, solution: Solution, beta: float) -> dict[str, float]:
        """Take down what a solution saw of the spectrum, and return it as figures."""
        self.n_products += solution.n_products
        self.scale = float(solution.values.abs().amax())
        return {"beta": beta, "smallest_ritz": float(solution.values[0])}

    def _idle(self, here: Expansion) -> dict[str, float]:
        """Return the figures of a step without a direction."""
        smallest = 0.0 if self._extremes is None else float(self._extremes.values[0])
        beta = 0.0 if self.method == "newton" else self._beta(here.gradient)
        return {"beta": beta, "smallest_ritz": smallest}

    def _search(self, here: Expansion, x: Tensor, d: Tensor) -> tuple[Tensor, float] | None:
        """Return the next cloud along d and the step, None if there is none."""
        g, step = here.gradient, self.step_size
        if not self.line_search:
            return x - step * d, step
        if self.method == "newton":
            return search.newton_search(self._gradient, x, g, d, step)
        start, slope, noise = float(here.value), search.inner(g, d), self._rounding(here)
        if self.method != "wsfn":
            step = 2 * self.last_step
        if step * slope <= 2 * noise:
            return search.polish(self._energy, self._gradient, x, start, d, g, step, noise)
        return search.armijo(self._energy, x, start, d, slope, step, noise)

    def _give_up(self, here: Expansion) -> None:
        """Judge a cloud from which no step leads down."""
        flat = _FLAT * math.sqrt(torch.finfo(self.particles.dtype).eps)
        self._look_around(here, tol=flat)
        if self.verdict is not None or self._escape is not None:
            return
        if self.method == "perturbed" and self.quiet < _NOISE_EVERY:
            self.quiet = _NOISE_EVERY  # now or never
        else:
            self.verdict = "stalled"

    def _kick(self, here: Expansion, x: Tensor, ends: Extremes) -> dict[str, float]:
        """Leave a saddle along a random combination of its directions of negative curvature."""
        negative = ends.values < -_NEGATIVE * ends.scale
        values, vectors = ends.values[negative], ends.vectors[negative.to(ends.vectors.device)]
        weights = normal_like(values, self.generator)
        field = torch.tensordot(weights.to(vectors), vectors, dims=1)
        curvature = float((weights.square() * values).sum() / weights.square().sum())
        radius = self.functional.length_scale_
        reach = search.limited(field / rms(field), radius, self.max_step)
        curvature *= rms(reach) ** 2
        moved = search.escape(
            self._energy, x, float(here.value), reach, curvature, radius, self._rounding(here)
        )
        figures = {**self._idle(here), "smallest_ritz": float(ends.values[0])}
        if moved is None:
            self.verdict = "saddle"
        else:
            self._arrive(moved)
        return figures

    def _is_time_for_noise(self, here: Expansion) -> bool:
        """Tell whether the gradient is small at a saddle, and noise has not just been added."""
        if self.quiet < _NOISE_EVERY or not self._is_small(here.gradient, _NOISE_BELOW):
            return False
        ends = self.extremes()
        return float(ends.values[0]) < -_NEGATIVE * ends.scale

    def _noise(self, here: Expansion) -> Tensor:
        """Return a random field, white or coloured by the Hessian, of the size that was asked."""
        field = normal_like(self.particles, self.generator)
        if self.noise == "hessian":
            field = here.hessian(field[None])[0]
            self.n_products += 1
        self.quiet = 0
        return field * (self.noise_size * self.functional.length_scale_ / rms(field))

    def _rounding(self, here: Expansion) -> float:
        """Return what the energy may be off by: its terms were as large as it was at the start."""
        assert self.start_energy is not None
        size = max(abs(float(here.value)), abs(self.start_energy))
        return 4 * torch.finfo(self.particles.dtype).eps * size

    @torch.no_grad()
    def _energy(self, x: Tensor) -> float:
        """Return the energy, NaN and infinity included."""
        return float(self.functional.value(x))

    def _gradient(self, x: Tensor) -> Tensor:
        """Return the gradient at a trial."""
        return self.functional.expand(x).gradient
