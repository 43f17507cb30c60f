"""Problems of particles, and what minimises them: WSFN, L-BFGS, Adam, gradient descent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize as scipy_minimize

from skwgf._tensor import make_generator
from skwgf.flows.newton import minimize
from skwgf.functionals import MMD, Functional, MeanFieldRisk, SecondMoment
from skwgf.functionals.base import Expansion
from skwgf.kernels import Gaussian

BUDGET = 4000  # gradients of a first-order method
ADAM_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
# Steps of gradient descent, over the inverse of the largest curvature at the start.
STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)


class Problem(NamedTuple):
    """A fitted functional, a cloud to start from, and the value that counts as solved."""

    energy: Functional
    start: torch.Tensor
    target: float


class Effort(NamedTuple):
    """What had been spent when a value was seen."""

    value: float
    values: int
    gradients: int
    products: int
    seconds: float


class Meter:
    """A functional that keeps account of what is asked of it.

    Gradients are taken in the cheaper of two ways, the closed form or autograd of the value, where
    a method wants no Hessian.
    """

    def __init__(self, problem: Problem) -> None:
        self.energy, self.length_scale_ = problem.energy, problem.energy.length_scale_
        self.values = self.gradients = self.products = 0
        self.trace: list[Effort] = []
        z = problem.start
        self.closed = seconds(self._closed, z) < seconds(self._autograd, z)
        self.started = time.process_time()

    def value(self, z: torch.Tensor) -> torch.Tensor:
        """Return the value."""
        self.values += 1
        value = self.energy.value(z)
        self._note(float(value))
        return value

    def expand(self, z: torch.Tensor) -> Expansion:
        """Return the expansion."""
        self.gradients += 1
        here = self.energy.expand(z)
        self._note(float(here.value))

        def hessian(fields: torch.Tensor) -> torch.Tensor:
            self.products += len(fields)
            return here.hessian(fields)

        return Expansion(here.value, here.gradient, hessian)

    def slope(self, z: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Return the value and the Wasserstein gradient."""
        self.gradients += 1
        value, gradient = (self._closed if self.closed else self._autograd)(z)
        self._note(value)
        return value, gradient

    def _closed(self, z: torch.Tensor) -> tuple[float, torch.Tensor]:
        value, gradient, _ = self.energy.expand(z)
        return float(value), gradient

    def _autograd(self, z: torch.Tensor) -> tuple[float, torch.Tensor]:
        point = z.detach().requires_grad_()
        value = self.energy.value(point)
        (gradient,) = torch.autograd.grad(value, point)
        return float(value.detach()), len(z) * gradient

    def _note(self, value: float) -> None:
        spent = time.process_time() - self.started
        self.trace.append(Effort(value, self.values, self.gradients, self.products, spent))


def seconds(function: Callable, *args: object, repeats: int = 10) -> float:
    """Return the least processor seconds of a call."""
    least = np.inf
    for _ in range(repeats):
        started = time.process_time()
        function(*args)
        least = min(least, time.process_time() - started)
    return least


@dataclass(frozen=True)
class Run:
    """How a minimisation went; `reached` is the effort to the target, None if it was not met."""

    value: float
    iterations: int
    total: Effort
    reached: Effort | None
    status: str = ""


def closed(meter: Meter, target: float, value: float, iterations: int, status: str = "") -> Run:
    """Return the record of a finished minimisation."""
    reached = next((effort for effort in meter.trace if effort.value <= target), None)
    return Run(value, iterations, meter.trace[-1], reached, status)


def wsfn(problem: Problem, **options: object) -> Run:
    """Run `minimize` with its defaults or other options."""
    meter = Meter(problem)
    result = minimize(meter, problem.start, **options)  # type: ignore[arg-type]
    return closed(meter, problem.target, result.value, result.n_iter, result.status)


def lbfgs(problem: Problem, memory: int, budget: int) -> Run:
    """Run scipy's L-BFGS-B to the end of its floats or of the budget."""
    meter, z = Meter(problem), problem.start

    def ordinary(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = meter.slope(torch.from_numpy(flat).reshape(z.shape))
        return value, gradient.reshape(-1).numpy() / len(z)

    options = {"maxcor": memory, "maxfun": budget, "maxiter": budget, "ftol": 0.0, "gtol": 1e-14}
    found = scipy_minimize(
        ordinary, z.reshape(-1).numpy(), jac=True, method="L-BFGS-B", options=options
    )
    return closed(meter, problem.target, float(found.fun), int(found.nit))


def adam(problem: Problem, rate: float, budget: int) -> Run:
    """Run torch's Adam; its rate falls by a cosine over the budget."""
    meter, z = Meter(problem), problem.start.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget)
    for _ in range(budget):
        _, gradient = meter.slope(z)
        z.grad = gradient / len(z)
        optimizer.step()
        schedule.step()
    return closed(meter, problem.target, min(e.value for e in meter.trace), budget)


def descent(problem: Problem, step: float, budget: int) -> Run:
    """Run gradient descent with a fixed step, over the inverse of the curvature at the start."""
    meter, z = Meter(problem), problem.start
    step /= largest_curvature(problem)
    for _ in range(budget):
        value, gradient = meter.slope(z)
        if not np.isfinite(value):
            break
        z = z - step * gradient
    return closed(meter, problem.target, min(e.value for e in meter.trace), budget)


def largest_curvature(problem: Problem) -> float:
    """Return the largest eigenvalue of the Hessian at the start, by power iterations."""
    product = problem.energy.expand(problem.start).hessian
    v = torch.randn(problem.start.shape, generator=make_generator(0), dtype=torch.float64)
    for _ in range(30):
        v = product((v / v.norm())[None])[0]
    return float(v.norm())


def contenders(budget: int) -> dict[str, list[Callable[[Problem], Run]]]:
    """Return the methods; where there are several settings, the best one is to be found."""
    return {
        "WSFN": [wsfn],
        "WSFN, Lanczos": [lambda p: wsfn(p, solver="lanczos")],
        "L-BFGS": [lambda p: lbfgs(p, 10, budget)],
        "L-BFGS, memory 50": [lambda p: lbfgs(p, 50, budget)],
        "Adam": [lambda p, rate=rate: adam(p, rate, budget) for rate in ADAM_RATES],
        "gradient descent": [lambda p, step=step: descent(p, step, budget) for step in STEPS],
    }


def blobs(seed: int, scale: float) -> np.ndarray:
    """Return 50 rows around (-2, 0), then 50 around (2, 0)."""
    rows = scale * np.random.default_rng(seed).normal(size=(100, 2))
    rows[:50, 0] -= 2
    rows[50:, 0] += 2
    return rows


def two_blobs(seed: int, scale: float, *, even: bool) -> Problem:
    """Return the discrepancy from two blobs, from rows of them with noise."""
    X, rng = blobs(seed, scale), np.random.default_rng(seed + 100)
    chosen = np.r_[:20, 80:100] if even else rng.permutation(100)[:40]
    start = X[chosen] + 0.1 * rng.normal(size=(40, 2))
    return Problem(MMD(Gaussian(1.0)).fit(X), torch.from_numpy(start), 1e-9)


def moments(seed: int, known: int) -> Problem:
    """Return second moments to match, from the saddle that has the first `known` of them."""
    matrix = np.diag([1.0, 0.5, 0.1, 0.01])
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(40, 4)))[0] * np.sqrt(40)
    sizes = np.where(np.arange(4) < known, np.sqrt(np.diag(matrix)), 1e-6)
    start = torch.from_numpy(basis * sizes)
    return Problem(SecondMoment(matrix).fit(start), start, 1e-12)


def network(seed: int, teachers: int, students: int, scale: float) -> Problem:
    """Return the risk of a tanh network with a teacher of its kind, near the saddle at zero."""
    rng = np.random.default_rng(seed)
    X, weights = rng.normal(size=(100, 2)), rng.normal(size=(teachers, 2))
    y = np.tanh(X @ weights.T) @ rng.normal(size=teachers) / teachers
    risk = MeanFieldRisk(alpha=0.0, normalize_y=False).fit(X, y)
    start = torch.from_numpy(scale * rng.normal(size=(students, 4)))
    return Problem(risk, start, 1e-8)


def problems(seeds: tuple[int, ...]) -> Iterator[tuple[str, list[Problem]]]:
    """Yield problems with their instances."""
    twice = (*seeds, *(seed + len(seeds) for seed in seeds))
    yield "MMD, blobs of sd .2, 20 + 20", [two_blobs(s, 0.2, even=True) for s in seeds]
    yield "MMD, blobs of sd .3, 20 + 20", [two_blobs(s, 0.3, even=True) for s in twice]
    yield "MMD, blobs of sd .2, rows at random", [two_blobs(s, 0.2, even=False) for s in seeds]
    yield "second moments, from 0", [moments(s, 0) for s in seeds]
    yield "second moments, from half of them", [moments(s, 2) for s in seeds]
    yield "tanh network, 2 -> 20 neurons", [network(s, 2, 20, 1e-2) for s in seeds]
    yield "tanh network, 3 -> 40 neurons", [network(s, 3, 40, 1e-2) for s in seeds]
