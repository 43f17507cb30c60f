"""Times, errors and memory of saddle-free Newton directions, one cell at a time."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from skwgf.flows._curvature import dense_hessian, inverse_root
from skwgf.flows.newton import minimize, wsfn_direction
from skwgf.functionals import MMD
from skwgf.functionals.base import Expansion, expand_by_autograd
from skwgf.kernels import Gaussian

STARTS = ("far", "narrow", "rows", "later")
LATER = 30  # steps from the rows
MOST = 600  # products, where 200 do not do
SPREADS = {2: 1.0, 10: 0.45}  # of the rows, in bandwidths: a median distance of 1.7 to 1.9


class ByAutograd:
    """A functional whose gradient and Hessian products come from autograd."""

    def __init__(self, value: Callable[[torch.Tensor], torch.Tensor], length_scale: float) -> None:
        self.value, self.length_scale_ = value, length_scale

    def expand(self, z: torch.Tensor) -> Expansion:
        """Return the expansion of the value."""
        return expand_by_autograd(self.value, z)


def textbook(rows: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the discrepancy as a user would write it, up to a constant."""

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        u = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
        return torch.exp(-0.5 * u)

    return lambda z: 0.5 * kernel(z, z).mean() - kernel(z, rows).mean()


def data(n: int, d: int, seed: int) -> np.ndarray:
    """Return normal rows."""
    return SPREADS[d] * np.random.default_rng(seed).normal(size=(n, d))


def problem(n: int, d: int, start: str, seed: int) -> tuple[MMD, torch.Tensor]:
    """Return MMD to n rows, Gaussian kernel of bandwidth 1, and n particles.

    They are at half the spread of the rows two standard deviations off ("far") or around their
    middle ("narrow"), other rows of the same law ("rows"), or a few steps later.
    """
    energy = MMD(Gaussian(1.0)).fit(data(n, d, seed))
    z = data(n, d, seed + 1000)
    if start in ("far", "narrow"):
        z *= 0.5
    if start == "far":
        z += 2 * SPREADS[d] / math.sqrt(d)
    particles = torch.from_numpy(z)
    if start == "later":
        particles = minimize(energy, particles, max_iter=LATER).particles
    return energy, particles


def fastest(call: Callable[[], object], repeats: int) -> tuple[object, float, float]:
    """Return the result, the least processor and the least wall-clock seconds of some calls."""
    processor = wall = math.inf
    for _ in range(repeats):
        began, ticked = time.perf_counter(), time.process_time()
        result = call()
        processor = min(processor, time.process_time() - ticked)
        wall = min(wall, time.perf_counter() - began)
    return result, processor, wall


def against_dense(n: int, d: int, start: str, seed: int, repeats: int) -> dict:
    """Return the time and the true error of a direction beside the dense decomposition."""
    energy, z = problem(n, d, start, seed)
    wsfn_direction(energy, z, tol=1e-2, solver="lanczos")
    exact, dense, _ = fastest(lambda: wsfn_direction(energy, z, solver="eigh"), 1 + repeats // 4)
    matrix = dense_hessian(energy.expand(z).hessian, z)
    _, decomposition, _ = fastest(lambda: torch.linalg.eigh(matrix), 1 + repeats // 4)
    row = {
        "part": "dense",
        "n": n,
        "d": d,
        "start": start,
        "beta": exact.beta,
        "norm": float(torch.linalg.eigvalsh(matrix).abs().amax()),
        "dense_seconds": dense,
        "eigh_seconds": decomposition,
    }
    for tol in (1e-6, 1e-3):
        found, seconds, _ = fastest(
            lambda tol=tol: wsfn_direction(energy, z, solver="lanczos", tol=tol), repeats
        )
        row |= {
            f"seconds_{tol:g}": seconds,
            f"products_{tol:g}": found.n_products,
            f"error_{tol:g}": relative(found.direction, exact.direction),
        }
    return row


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the relative error of a field."""
    return float((found - exact).norm() / exact.norm())


def by_beta(n: int, d: int, seed: int, exponents: range) -> list[dict]:
    """Return products, estimated and true error for falling beta, from the far start."""
    energy, z = problem(n, d, "far", seed)
    _, g, product = energy.expand(z)
    values, vectors = torch.linalg.eigh(dense_hessian(product, z))
    weights = vectors.T @ g.reshape(-1)
    auto = wsfn_direction(energy, z, solver="lanczos").beta
    square = float(values.abs().amax()) ** 2
    rows = []
    for name, beta in [("auto", auto), *((f"1e{k} Lambda^2", 10.0**k * square) for k in exponents)]:
        exact = (vectors @ (weights / (values.square() + beta).sqrt())).reshape(z.shape)
        row = {"part": "beta", "n": n, "d": d, "name": name, "beta": beta}
        for label, options in {
            "20": {"tol": 0.0, "max_products": 20},
            "200": {"tol": 1e-6, "max_products": 200},
            "600": {"tol": 1e-6, "max_products": MOST},
        }.items():
            found = inverse_root(product, g, beta, dense=False, **options)
            row |= {
                f"products_{label}": found.n_products,
                f"estimate_{label}": found.error,
                f"error_{label}": relative(found.field, exact),
            }
        rows.append(row)
    return rows


def against_autograd(n: int, d: int, start: str, seed: int, threads: int, repeats: int) -> dict:
    """Return the time of a direction, and of the same number of products by autograd."""
    torch.set_num_threads(threads)
    energy, z = problem(n, d, start, seed)
    rows = torch.from_numpy(data(n, d, seed))
    found, processor, wall = fastest(lambda: wsfn_direction(energy, z, solver="lanczos"), repeats)
    rivals = {
        "autograd": ByAutograd(energy.value, energy.length_scale_),
        "textbook": ByAutograd(textbook(rows), energy.length_scale_),
    }
    row = {
        "part": "autograd",
        "n": n,
        "d": d,
        "start": start,
        "threads": threads,
        "products": found.n_products,
        "estimate": found.error,
        "seconds": processor,
        "wall": wall,
    }
    for name, rival in rivals.items():
        same, processor, wall = fastest(
            lambda rival=rival: wsfn_direction(
                rival,  # type: ignore[arg-type]
                z,
                beta=found.beta,
                solver="lanczos",
                tol=1e-15,
                max_products=found.n_products,
            ),
            max(1, repeats // 3),
        )
        assert same.n_products == found.n_products
        row |= {
            f"{name}_seconds": processor,
            f"{name}_wall": wall,
            f"{name}_difference": relative(same.direction, found.direction),
        }
    torch.set_num_threads(1)
    return row


def large(n: int, d: int, start: str, seed: int, *, autograd: bool) -> dict:
    """Return the time of one direction of many particles, and the memory it takes."""
    row = {"part": "memory", "n": n, "d": d, "start": start}
    energy, z = problem(n, d, start, seed)
    found, seconds, _ = fastest(lambda: wsfn_direction(energy, z, solver="lanczos"), 1)
    row |= {"products": found.n_products, "seconds": seconds}
    row["peak_mib"] = peak_memory(n, d, start, seed, False)
    row["autograd_mib"] = peak_memory(n, d, start, seed, True) if autograd else math.nan
    return row


def peak_memory(*cell: object) -> float:
    """Return by how much a new process grows at most, in MiB, over one direction; NaN off Linux.

    Counted from after the imports, before the rows are made.
    """
    if not Path("/proc/self/clear_refs").exists():
        return math.nan
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(growth, *cell).result()


def growth(n: int, d: int, start: str, seed: int, autograd: bool) -> float:
    """Return the growth of this process, in MiB, over a direction from nothing."""
    small, few = problem(64, d, start, seed)
    wsfn_direction(small, few, solver="lanczos")  # what is loaded at the first call
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status("VmHWM")
    energy, z = problem(n, d, start, seed)
    if autograd:
        energy = ByAutograd(energy.value, energy.length_scale_)  # type: ignore[assignment]
    wsfn_direction(energy, z, solver="lanczos")
    return (status("VmHWM") - before) / 1024


def status(field: str) -> int:
    """Return a field of the status of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])
