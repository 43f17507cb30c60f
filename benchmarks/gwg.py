"""Speed of the generalised flow: its inner step, the noise of a probe, and a step of a network.

The inner optimiser step with the exact divergence and a cached score, against the published style:
a Hutchinson probe by automatic differentiation, and the score recomputed at every inner step from
the log density. Then what the probe adds to the variance of the gradient, and the share of a step
of the flow that the gradient of a Bayesian neural network takes. Written to gwg.md and gwg.csv.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from _common import Options, machine, markdown, parse_options, write_results
from torch import Tensor, nn

from skwgf import GWGSampler
from skwgf.flows.regularizers import LpCost
from skwgf.flows.variational import Cloud, FieldTrainer, variational_objective
from skwgf.nn import mlp
from skwgf.nn.divergence import DivergenceMLP
from skwgf.targets import NeuralNetworkPosterior

N, WIDTHS, DIMENSIONS = 1000, (32, 200), (2, 10, 50)
REPEATS, INNER, LEARNING_RATE = 7, 10, 3e-3
N_MODES = 10  # of the mixture whose score the published style differentiates
N_PROBES, TRAINED = 50, 100  # probes, and optimiser steps before their variance is taken again
OURS, PUBLISHED, CACHED = "exact, score cached", "published style", "probe, score cached"

ROWS, COLUMNS, PARTICLES, BATCH, STEPS = 1000, 8, 100, 100, 30
NETWORKS: dict[str, dict[str, Any]] = {
    "default": {},
    "the paper's 300, 300, trained": {
        "hidden_layer_sizes": (300, 300),
        "last_layer": "trained",
        "score_skip": False,
    },
}


def make_log_density(d: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return the log density of a mixture of normals, up to a constant."""
    centres = torch.randn(N_MODES, d, generator=generator)

    def log_density(x: Tensor) -> Tensor:
        squares = x.square().sum(1, keepdim=True) - 2 * x @ centres.T + centres.square().sum(1)
        return torch.logsumexp(-0.5 * squares, 1)

    return log_density


def differentiate(log_density: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the score by automatic differentiation."""
    points = x.detach().requires_grad_()
    (score,) = torch.autograd.grad(log_density(points).sum(), points)
    return score


def probe_objective(network: nn.Module, x: Tensor, scores: Tensor, signs: Tensor) -> Tensor:
    """Return the objective at p = 2 with a probe for the divergence."""
    points = x.detach().requires_grad_()
    f = network(points)
    (slopes,) = torch.autograd.grad((f * signs).sum(), points, create_graph=True)
    return ((f * scores).sum(1) + (slopes * signs).sum(1) - 0.5 * f.square().sum(1)).mean()


def draw_signs(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return independent signs."""
    return 2.0 * torch.randint(2, shape, generator=generator) - 1


def contenders(d: int, width: int, seed: int) -> dict[str, Callable[[], object]]:
    """Return what takes INNER optimiser steps, in each of the styles."""
    generator = torch.Generator().manual_seed(seed)
    log_density = make_log_density(d, generator)
    x = torch.randn(N, d, generator=generator)
    scores = differentiate(log_density, x)
    trainer = FieldTrainer(
        DivergenceMLP(d, (width, width), generator=generator), learning_rate=LEARNING_RATE
    )
    cloud, cost = Cloud(x, scores, None), LpCost(2.0)

    def published(score_fn: Callable[[], Tensor]) -> Callable[[], None]:
        network = mlp(d, d, (width, width), activation="tanh", generator=generator)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

        def climb() -> None:
            for _ in range(INNER):
                signs = draw_signs(x.shape, generator)
                loss = -probe_objective(network, x, score_fn(), signs)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return climb

    return {
        OURS: lambda: trainer.fit(cloud, None, cost, INNER),
        PUBLISHED: published(lambda: differentiate(log_density, x)),
        CACHED: published(lambda: scores),
    }


def speed(d: int, width: int, seed: int, repeats: int) -> dict[str, Any]:
    """Return the median processor milliseconds of an inner step, the contenders in turns."""
    calls = contenders(d, width, seed)
    for call in calls.values():
        call()
    rounds: list[dict[str, float]] = []
    for _ in range(repeats):
        row = {}
        for name, call in calls.items():
            began = time.process_time()
            call()
            row[name] = 1e3 * (time.process_time() - began) / INNER
        rounds.append(row)
    frame = pd.DataFrame(rounds)
    return {
        "part": "speed",
        "d": d,
        "width": width,
        **frame.median().to_dict(),
        "ratio": (frame[PUBLISHED] / frame[OURS]).median(),
        "ratio_cached": (frame[CACHED] / frame[OURS]).median(),
    }


def flat_gradient(network: nn.Module, objective: Tensor) -> Tensor:
    """Return the gradient of an objective by all weights, in one vector."""
    weights = list(network.parameters())
    gradients = torch.autograd.grad(objective, weights, allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for w, g in pairs])


def probe_noise(d: int, width: int, seed: int) -> dict[str, Any]:
    """Return the variance of a probe's gradient over the squared exact one, before and after."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, d, generator=generator)
    scores = differentiate(make_log_density(d, generator), x)
    network = DivergenceMLP(d, (width, width), generator=generator)
    trainer, cloud = FieldTrainer(network, learning_rate=LEARNING_RATE), Cloud(x, scores, None)

    def figures() -> tuple[float, float]:
        exact = flat_gradient(network, variational_objective(network, cloud, LpCost(2.0)))
        probes = [
            flat_gradient(
                network, probe_objective(network, x, scores, draw_signs(x.shape, generator))
            )
            for _ in range(N_PROBES)
        ]
        found = torch.stack(probes)
        bias = float((found.mean(0) - exact).square().sum() / exact.square().sum())
        spread = float((found - exact).square().sum(1).mean() / exact.square().sum())
        return spread, bias * N_PROBES / spread

    start, bias = figures()
    trainer.fit(cloud, None, LpCost(2.0), TRAINED)
    trained, _ = figures()
    return {
        "part": "noise",
        "d": d,
        "width": width,
        "noise_start": start,
        "noise_trained": trained,
        "bias": bias,
    }


class TimedPosterior(NeuralNetworkPosterior):
    """A network posterior that adds up the processor time of its gradients."""

    spent = 0.0

    def grad_log_prob(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the gradient."""
        began = time.process_time()
        result = super().grad_log_prob(z, rows)
        TimedPosterior.spent += time.process_time() - began
        return result


def network_share(name: str, settings: dict[str, Any], seed: int, steps: int) -> dict[str, Any]:
    """Return the share of the gradient in a fit of a Bayesian neural network."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((ROWS, COLUMNS))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 0.1 * rng.standard_normal(ROWS)
    sampler = GWGSampler(
        TimedPosterior((50,)),
        n_particles=PARTICLES,
        batch_size=BATCH,
        max_iter=steps,
        random_state=seed,
        **settings,
    )
    TimedPosterior.spent = 0.0
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler.fit(X, y)
    seconds = time.process_time() - began
    return {
        "part": "network",
        "name": name,
        "dimension": sampler.target_.n_dim_,
        "step_ms": 1e3 * seconds / steps,
        "gradient_ms": 1e3 * TimedPosterior.spent / steps,
        "share": TimedPosterior.spent / seconds,
    }


def speed_table(rows: pd.DataFrame) -> str:
    """Return times and ratios as Markdown."""
    return markdown(
        pd.DataFrame(
            {
                "width": f"{row['width']:.0f}",
                "d": f"{row['d']:.0f}",
                **{f"{name}, ms": f"{row[name]:.2f}" for name in (OURS, PUBLISHED, CACHED)},
                f"{PUBLISHED} over ours": f"{row['ratio']:.2f}x",
                f"{CACHED}, over ours": f"{row['ratio_cached']:.2f}x",
            }
            for _, row in rows.iterrows()
        )
    )


def noise_table(rows: pd.DataFrame) -> str:
    """Return the variance of the probe's gradient as Markdown."""
    return markdown(
        pd.DataFrame(
            {
                "width": f"{row['width']:.0f}",
                "d": f"{row['d']:.0f}",
                "at the start": f"{row['noise_start']:.2g}",
                f"after {TRAINED} steps": f"{row['noise_trained']:.2g}",
            }
            for _, row in rows.iterrows()
        )
    )


def network_table(rows: pd.DataFrame) -> str:
    """Return the shares as Markdown."""
    return markdown(
        pd.DataFrame(
            {
                "network of the flow": row["name"],
                "dimension": f"{row['dimension']:.0f}",
                "step, ms": f"{row['step_ms']:.1f}",
                "gradient of the target, ms": f"{row['gradient_ms']:.1f}",
                "share": f"{row['share']:.0%}",
            }
            for _, row in rows.iterrows()
        )
    )


def report(raw: pd.DataFrame, options: Options) -> str:
    """Return the page of results."""
    parts = dict(list(raw.groupby("part")))
    return f"""# Speed of the generalised flow

Seed {options.seeds[0]}. {machine()}

## An inner step

Processor milliseconds of an optimiser step, {N} particles, tanh networks with two hidden layers of
equal width, single precision: medians of {REPEATS} rounds of {INNER} steps in turns; ratios are
medians of the ratios within a round. The target is a mixture of {N_MODES} normals. The published
style probes the divergence with random signs by automatic differentiation, and computes the score
from the log density at every inner step; the last column leaves this out.

{speed_table(parts["speed"])}

## The noise of the probe

Variance of the gradient by the weights with one probe, over the squared exact gradient, on the same
particles, from {N_PROBES} probes. The exact divergence adds none.

{noise_table(parts["noise"])}

## A step with a Bayesian neural network

One hidden layer of 50, {COLUMNS} features, {PARTICLES} particles, batches of {BATCH} of {ROWS}
rows, {STEPS} steps: processor milliseconds of a step of the flow, all else in `fit` included.

{network_table(parts["network"])}"""


def main() -> None:
    """Run all parts and write the tables."""
    options = parse_options(__doc__ or "", seeds=(0,))
    seed, repeats = options.seeds[0], 2 if options.quick else REPEATS
    rows = [speed(d, width, seed, repeats) for width in WIDTHS for d in DIMENSIONS]
    print("speed", flush=True)
    rows += [probe_noise(d, width, seed) for width in WIDTHS for d in DIMENSIONS]
    print("noise", flush=True)
    steps = 3 if options.quick else STEPS
    network_share("", {}, seed, 1)  # the first fit imports much of torch
    rows += [network_share(name, settings, seed, steps) for name, settings in NETWORKS.items()]
    raw = pd.DataFrame(rows)
    write_results(options.out, "gwg", raw, report(raw, options))


if __name__ == "__main__":
    main()
