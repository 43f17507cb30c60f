"""Runs of samplers on the targets of the generalised flow, and the figures of their clouds."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from _gwg_targets import Toy, neighbor_kl

from skwgf.metrics import wasserstein_distance
from skwgf.targets import LogDensity

N, N_REFERENCE = 1000, 1000
LANGEVIN_TIME, LANGEVIN_STEP = 1.0, 1e-3


def watch(toy: Toy) -> tuple[Callable[[torch.Tensor], torch.Tensor], list[np.ndarray]]:
    """Return the score of a toy, and the list of clouds that it will have been asked for."""
    clouds: list[np.ndarray] = []

    def score(x: torch.Tensor) -> torch.Tensor:
        if len(x) == N:  # not the trial of a few rows
            clouds.append(x.numpy().copy())
        return toy.score(x)

    return score, clouds


def draws(toy: Toy, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the start and two independent samples of a seed."""
    rng = np.random.default_rng(seed)
    return toy.start(N, rng), toy.sample(N_REFERENCE, rng), toy.sample(N, rng)


def judged(x: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return the figures of a cloud."""
    return {
        "w2": wasserstein_distance(x, reference),
        "kl": neighbor_kl(x, reference),
        "kl_back": neighbor_kl(reference, x),
        "sd": float(np.mean(x.std(0) / reference.std(0))),
    }


def fitted(
    make: Callable[..., Any], toy: Toy, seed: int, own_start: bool, **settings: Any
) -> tuple[Any, list[np.ndarray], float]:
    """Return a sampler after its fit, its clouds, and its processor seconds."""
    (score, clouds), start = watch(toy), draws(toy, seed)[0]
    target = LogDensity(toy.log_prob, toy.dim, batched=True, grad=score)
    sampler = make(target, init=start if own_start else None, random_state=seed, **settings)
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler.fit(start)
    return sampler, clouds, time.process_time() - began


def run(
    make: Callable[..., Any], toy: Toy, seed: int, own_start: bool, **settings: Any
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the figures of a sampler, and the clouds on its way."""
    sampler, clouds, seconds = fitted(make, toy, seed, own_start, **settings)
    row = judged(sampler.particles_, draws(toy, seed)[1]) | {
        "seed": seed,
        "evaluations": len(clouds),
        "steps": sampler.n_iter_,
        "exponent": getattr(sampler, "exponent_", math.nan),
        "converged": sampler.converged_,
        "seconds": seconds,
    }
    return row, clouds


def langevin(toy: Toy, start: np.ndarray, seed: int) -> np.ndarray:
    """Return particles of the law that the flow at p = 2 has, moved by noise instead of a field."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.as_tensor(start)
    for _ in range(round(LANGEVIN_TIME / LANGEVIN_STEP)):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + LANGEVIN_STEP * toy.score(x) + math.sqrt(2 * LANGEVIN_STEP) * noise
    return x.numpy()
