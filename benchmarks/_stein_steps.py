"""One step of Stein variational gradient descent towards N(0, I), by every contender.

A contender is a function `prepare(x, h, step)` of the starting points in float32 and the kernel
exp(-r^2 / h). It returns a function without arguments that makes one step of the given size, the
first time from x, and returns the points. What can be compiled is compiled at its first call.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import NOT_INSTALLED, timed
from _engine import in_turns, status
from torch import Tensor

from skwgf.flows import ParticleCarrier
from skwgf.flows.stein import SteinVelocity
from skwgf.kernels import Gaussian

OURS, LIMIT, NAIVE = "skwgf", "GEMM and exp, half of the pairs", "torch, (n, n, d) arrays"
BLACKJAX, JAX, PYRO = "blackjax", "JAX, by hand", "pyro"
STEP = 0.1
MOST_ENTRIES = 3e8  # of an array of all pairs and coordinates: several of them are held
LIMIT_ROWS = 512
BURST = 0.03  # seconds of steps that are timed as one
SPEND = 5.0  # seconds for a contender that is much slower than ours

Step = Callable[[], Any]


def points(n: int, d: int, seed: int) -> Tensor:
    """Return n points of N(0, I), a little moved, so that no velocity vanishes."""
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + torch.randn(n, d, generator=generator)


def ours(x: Tensor, h: float, step: float) -> Step:
    """The carrier of the package: velocity, discrepancy, step, and its record."""
    field = SteinVelocity(torch.neg, Gaussian(bandwidth=math.sqrt(h / 2)))
    carrier = ParticleCarrier(x, field, step_size=step)

    def run() -> Tensor:
        carrier.advance()
        return carrier.particles

    return run


def limit(x: Tensor, h: float, step: float) -> Step:
    """What the velocity needs at least with these operations, in blocks, and nothing else.

    The product of the points and a power of two for half of the pairs, and the product with d
    columns for all of them. The result is no velocity: norms are left out.
    """
    n, size = len(x), LIMIT_ROWS
    left, right, columns = x * (math.log2(math.e) / h), x.T.contiguous(), x.T.contiguous()
    memory = torch.empty(min(size, n) ** 2)

    def run() -> None:
        sums = torch.zeros_like(columns)
        for i in range(0, n, size):
            for j in range(i, n, size):
                rows, cols = slice(i, min(i + size, n)), slice(j, min(j + size, n))
                shape = rows.stop - i, cols.stop - j
                block = memory[: shape[0] * shape[1]].view(shape)
                torch.mm(left[rows], right[:, cols], out=block).exp2_()
                sums[:, rows].addmm_(columns[:, cols], block.mT)
                if i != j:
                    sums[:, cols].addmm_(columns[:, rows], block)

    return run


def naive(x: Tensor, h: float, step: float) -> Step:
    """The textbook formula in arrays of all pairs and coordinates."""

    def run() -> Tensor:
        gaps = x[:, None] - x
        kernel = torch.exp(-gaps.square().sum(2) / h)
        return x + step * (kernel @ -x + (2 / h) * (kernel[..., None] * gaps).sum(1)) / len(x)

    return run


def blackjax_step(x: Tensor, h: float, step: float) -> Step:
    """The kernel of blackjax with its Gaussian, compiled, at a fixed bandwidth."""
    import jax
    import jax.numpy as jnp
    import optax
    from blackjax.vi import svgd

    gradient = jax.grad(lambda z: -0.5 * jnp.sum(z * z))
    kernel = svgd.build_kernel(optax.sgd(step))
    advance = jax.jit(lambda state: kernel(state, gradient, svgd.rbf_kernel))
    state = svgd.init(jnp.asarray(x.numpy()), {"length_scale": h}, optax.sgd(step))

    def run() -> np.ndarray:
        nonlocal state
        state = advance(state)
        return np.asarray(state.particles)

    return run


def jax_step(x: Tensor, h: float, step: float) -> Step:
    """The two matrix products written out in JAX, compiled, of the whole matrix at once."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def advance(z):
        norms = (z * z).sum(1)
        kernel = jnp.exp((2 * z @ z.T - norms[:, None] - norms) / h)
        pull = kernel @ (-z - (2 / h) * z) + (2 / h) * z * kernel.sum(1)[:, None]
        return z + step * pull / len(z)

    z = jnp.asarray(x.numpy())

    def run() -> np.ndarray:
        nonlocal z
        z = advance(z)
        return np.asarray(z)

    return run


def pyro_step(x: Tensor, h: float, step: float) -> Step:
    """The SVGD of pyro with its Gaussian kernel, at a fixed bandwidth."""
    import pyro
    from pyro.distributions import Normal
    from pyro.infer import SVGD, RBFSteinKernel
    from pyro.optim import SGD

    class Fixed(RBFSteinKernel):
        def _bandwidth(self, norm_sq: Tensor) -> Tensor:
            return torch.full(norm_sq.shape[-1:], h)

    zeros = torch.zeros(x.shape[1])

    def model() -> None:
        pyro.sample("z", Normal(zeros, 1.0).to_event(1))

    pyro.clear_param_store()
    svgd = SVGD(model, Fixed(), SGD({"lr": step}), len(x), 0, mode="multivariate")
    svgd.guide()  # makes the particles
    pyro.param("svgd_particles").data.copy_(x.reshape(-1))
    first = True

    def run() -> Tensor:
        nonlocal first
        if first:
            pyro.param("svgd_particles").data.copy_(x.reshape(-1))
        first = False
        svgd.step()
        return pyro.param("svgd_particles").detach().reshape(x.shape)

    return run


CONTENDERS = {
    OURS: ours,
    LIMIT: limit,
    JAX: jax_step,
    BLACKJAX: blackjax_step,
    NAIVE: naive,
    PYRO: pyro_step,
}
LARGE = (NAIVE, PYRO)  # hold arrays of all pairs and coordinates


def cell(n: int, d: int, seed: int, repeats: int) -> list[dict]:
    """Return a row of figures for every contender."""
    x, h = points(n, d, seed), 2.0 * d
    exact = ours(x.double(), h, STEP)()
    rows, runs, spent = {}, {}, {}
    for name, prepare in CONTENDERS.items():
        rows[name] = row = {"n": n, "d": d, "name": name}
        if name in LARGE and n * n * d > MOST_ENTRIES:
            row["failure"] = f"{4 * n * n * d / 1e9:.0f} GB an array"
            continue
        try:
            run = prepare(x, h, STEP)
        except ImportError:
            row["failure"] = NOT_INSTALLED
            continue
        moved, row["first"], _ = timed(run)
        if name != LIMIT:
            moved = torch.tensor(np.array(moved), dtype=torch.float64)
            row["error"] = float((moved - exact).norm() / (exact - x.double()).norm())
        if row["first"] < SPEND:
            run()
        _, row["wall"], spent[name] = timed(run)
        runs[name] = run
    for name, took in per_step(runs, spent, repeats).items():
        rows[name] |= took
    return list(rows.values())


def per_step(runs: dict, spent: dict, repeats: int) -> dict:
    """Return the seconds of a step of every contender, from bursts of many steps in turns.

    A flow is a run of steps: single ones, with others between them, would find the caches cold.
    Contenders that are much slower than ours are called apart, as often as time allows; the
    slowest are not called again after the call in `spent`.
    """
    bursts = {name: max(1, round(BURST / spent[name])) for name in runs}
    calls = {name: partial(repeat, runs[name], bursts[name]) for name in runs}
    slow = [name for name in runs if spent[name] > 10 * max(spent[OURS], BURST)]
    found = in_turns({name: calls[name] for name in runs if name not in slow}, repeats)
    for name in slow:
        if spent[name] > SPEND / 2:
            found[name] = {"seconds": spent[name], "fastest": spent[name], "runs": 1}
        else:
            times = max(1, min(repeats, int(SPEND / spent[name])))
            found |= in_turns({name: calls[name]}, times)
    for name, took in found.items():
        for key in {"seconds", "fastest", "wall"} & took.keys():
            took[key] /= bursts[name]
    return found


def repeat(run: Step, times: int) -> None:
    """Make so many steps."""
    for _ in range(times):
        run()


def peak_memory(n: int, d: int) -> float:
    """Return by how much a new process grows at most, in MiB, over one of our steps; NaN off Linux.

    Counted from after the imports and the making of the points.
    """
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_growth, n, d).result()


def _growth(n: int, d: int) -> float:
    """Return the growth of this process, in MiB, over one step."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    ours(points(64, d, 0), 2.0 * d, STEP)()  # what is loaded at the first call
    run = ours(points(n, d, 0), 2.0 * d, STEP)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmHWM")
    run()
    return (status("VmHWM") - before) / 1024
