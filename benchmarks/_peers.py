"""Generative peers in torch: WGAN-GP with our generator network, and OT-CFM through torchcfm."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from skwgf.nn import cosine_schedule, evaluate, mlp

HIDDEN = (64, 64, 64, 64)
EMA_DECAY = 0.995
BATCH = 256
CRITIC_HIDDEN = (128, 128, 128)
CRITIC_STEPS = 5
RK4_PASSES = 20
BLOCK = 2048


@dataclass(frozen=True)
class Sampler:
    """A fitted generator: `draw(n, seed)` gives rows, at so many network passes a row."""

    draw: Callable[[int, int], np.ndarray]
    passes: int


def has_torchcfm() -> bool:
    """Return whether torchcfm can be imported."""
    return importlib.util.find_spec("torchcfm") is not None


def wgan_gp(
    X: np.ndarray, *, steps: int, learning_rate: float, seed: int, weight: float = 10.0
) -> Sampler:
    """Train a Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028).

    A step is five of the critic and one of the generator; `weight` is that of the penalty. The
    schedule and the averaging of the generator's weights are those of W2FlowGenerator.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, shift, scale = scaled(X)
    d = rows.shape[1]
    network = mlp(d, d, HIDDEN, generator=generator)
    critic = mlp(d, 1, CRITIC_HIDDEN, generator=generator)
    network_step = Trainer(network, learning_rate, steps, betas=(0.0, 0.9))
    critic_step = Trainer(critic, learning_rate, steps, betas=(0.0, 0.9), every=CRITIC_STEPS)

    def noise() -> Tensor:
        return torch.randn(BATCH, d, generator=generator)

    for _ in range(steps):
        for _ in range(CRITIC_STEPS):
            real = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
            with torch.no_grad():
                fake = network(noise())
            mix = torch.rand(BATCH, 1, generator=generator)
            penalty = gradient_penalty(critic, torch.lerp(real, fake, mix))
            critic_step(critic(fake).mean() - critic(real).mean() + weight * penalty)
        network_step(-critic(network(noise())).mean())
    average = network_step.average

    def draw(n: int, seed: int) -> np.ndarray:
        z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
        return evaluate(average, z).double().numpy() * scale + shift

    return Sampler(draw, passes=1)


def ot_cfm(X: np.ndarray, *, steps: int, learning_rate: float, seed: int) -> Sampler:
    """Train flow matching and draw with as many network evaluations as it can use."""
    return flow_matching(X, steps=steps, learning_rate=learning_rate, seed=seed)(100)


def flow_matching(
    X: np.ndarray,
    *,
    steps: int,
    learning_rate: float,
    seed: int,
    activation: Literal["relu", "silu"] = "silu",
    times: int = 1,
) -> Callable[[int], Sampler]:
    """Train flow matching on exact minibatch plans (Tong et al., arXiv:2302.00482), by torchcfm.

    Every pair of a plan is used at so many `times`. Returns the sampler as a function of the number
    of network evaluations.
    """
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
    from torchcfm.optimal_transport import OTPlanSampler

    generator = torch.Generator().manual_seed(seed)
    rows, shift, scale = scaled(X)
    d = rows.shape[1]
    network = mlp(d + 1, d, HIDDEN, activation=activation, generator=generator)
    step = Trainer(network, learning_rate, steps)
    plans, matcher = OTPlanSampler(method="exact"), ConditionalFlowMatcher(sigma=0.0)
    with global_seed(seed):
        for _ in range(steps):
            z = torch.randn(BATCH, d, generator=generator)
            y = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
            pairs = (points.repeat(times, 1) for points in plans.sample_plan(z, y))
            t, x, velocity = matcher.sample_location_and_conditional_flow(*pairs)
            prediction = network(torch.cat([x, t[:, None]], dim=1))
            step((prediction - velocity).square().sum(dim=1).mean())
    average = step.average

    @torch.no_grad()
    def draw(n: int, seed: int, passes: int) -> np.ndarray:
        z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
        # In blocks that stay in the cache, as W2FlowGenerator does.
        blocks = [integrate(average, rows, passes) for rows in torch.split(z, BLOCK)]
        return torch.cat(blocks).double().numpy() * scale + shift

    return lambda passes: Sampler(partial(draw, passes=passes), passes)


class Trainer:
    """Adam with the warm-up, the cosine and the averaged weights of W2FlowGenerator.

    Parameters
    ----------
    module : the network to train.
    learning_rate : the largest learning rate.
    steps : length of the schedule.
    betas : of Adam.
    every : optimiser steps that count as one step of the schedule.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        steps: int,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        every: int = 1,
    ) -> None:
        self.average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
        self._module = module
        self._adam = torch.optim.Adam(module.parameters(), lr=learning_rate, betas=betas)
        self._schedule = LambdaLR(
            self._adam, lambda i: cosine_schedule((i // every + 1) / (steps + 1))
        )

    def __call__(self, loss: Tensor) -> None:
        """Take one step down the gradient of the loss."""
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self._schedule.step()
        self.average.update_parameters(self._module)


def scaled(X: np.ndarray) -> tuple[Tensor, np.ndarray, float]:
    """Return the rows centred and divided by one scale, the centre and the scale."""
    shift, scale = X.mean(axis=0), float(X.std(axis=0).mean())
    return torch.as_tensor((X - shift) / scale, dtype=torch.float32), shift, scale


def gradient_penalty(critic: nn.Module, x: Tensor) -> Tensor:
    """Return the mean squared distance from 1 of the length of the critic's gradient."""
    x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


def integrate(network: nn.Module, x: Tensor, passes: int) -> Tensor:
    """Follow the velocity from time 0 to 1: classical Runge-Kutta, or Euler with few passes."""
    order = 4 if passes % 4 == 0 and passes >= RK4_PASSES else 1
    h = order / passes

    def velocity(x: Tensor, t: float) -> Tensor:
        return network(torch.cat([x, torch.full((len(x), 1), t)], dim=1))

    for i in range(passes // order):
        t = i * h
        k1 = velocity(x, t)
        if order == 1:
            x = x + h * k1
            continue
        k2 = velocity(x + 0.5 * h * k1, t + 0.5 * h)
        k3 = velocity(x + 0.5 * h * k2, t + 0.5 * h)
        k4 = velocity(x + h * k3, t + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@contextlib.contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seed the global generators, from which torchcfm draws, and restore them afterwards."""
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
