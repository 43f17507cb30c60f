"""One generator network, trained against a critic or by potentials, one iteration a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from _peers import (
    BATCH,
    CRITIC_HIDDEN,
    CRITIC_STEPS,
    HIDDEN,
    gradient_penalty,
    scaled,
)
from torch import Tensor

from skwgf.flows import VelocityField, persistent_update, tracked_velocity, transport_velocity
from skwgf.nn import Regressor, constant_schedule, evaluate, mlp, norm_loss, squared_loss
from skwgf.nn.adam import make_adam
from skwgf.transport import NetworkTransport, SemidiscreteTransport

# Short enough for runs of some hundred steps, long enough to calm an adversary.
EMA_DECAY = 0.99
WGAN_BETAS = (0.0, 0.9)


@dataclass(frozen=True)
class Contender:
    """A generator in training.

    `advance()` makes one iteration and returns how many optimiser steps it took, of all networks
    together; `draw(n, seed)` returns rows from the averaged weights of the generator.
    """

    advance: Callable[[], int]
    draw: Callable[[int, int], np.ndarray]


def wgan_gp(
    X: np.ndarray, *, learning_rate: float, critic_rate: float, penalty: float, seed: int
) -> Contender:
    """Return a Wasserstein GAN with gradient penalty (Gulrajani et al., arXiv:1704.00028)."""
    rows, shift, scale = scaled(X)
    generator, d = torch.Generator().manual_seed(seed), rows.shape[1]
    # Half the squared distance to x + grad f(x), held constant, has the gradient of -f(x): a step
    # of the adversarial game is a regression step, with the optimiser and the average of the rest.
    network = new_network(
        d, learning_rate, generator, betas=WGAN_BETAS, loss=lambda r: squared_loss(r) / 2
    )
    critic = mlp(d, 1, CRITIC_HIDDEN, generator=generator)
    optimizer = make_adam(list(critic.parameters()), learning_rate=critic_rate, betas=WGAN_BETAS)

    def improve_critic() -> None:
        real = rows[torch.randint(len(rows), (BATCH,), generator=generator)]
        with torch.no_grad():
            fake = network.module(torch.randn(BATCH, d, generator=generator))
        between = torch.lerp(real, fake, torch.rand(BATCH, 1, generator=generator))
        of_fake, of_real = critic(torch.cat([fake, real])).chunk(2)
        loss = of_fake.mean() - of_real.mean() + penalty * gradient_penalty(critic, between)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def advance() -> int:
        for _ in range(CRITIC_STEPS):
            improve_critic()
        fake = network.module(torch.randn(BATCH, d, generator=generator))
        points = fake.detach().requires_grad_()
        (ascent,) = torch.autograd.grad(critic(points).sum(), points)
        network.follow(fake, points.detach() + ascent, 0.5)
        return CRITIC_STEPS + 1

    return Contender(advance, drawing(network, d, shift, scale))


def network_flow(
    X: np.ndarray,
    *,
    learning_rate: float,
    dual_rate: float,
    penalty: float,
    step_size: float = 1.0,
    persistence: int | str,
    loss: Callable[[Tensor], Tensor] = norm_loss,
    seed: int,
) -> Contender:
    """Return the loop of W2FlowGenerator(potential="network").

    With one step and squared lengths it is the W2-GAN. The estimator has one rate and one penalty
    for its potentials, and regresses on lengths; here they can be tuned.
    """
    rows, shift, scale = scaled(X)
    generator, d = torch.Generator().manual_seed(seed), rows.shape[1]
    network = new_network(d, learning_rate, generator, loss=loss)
    transport = NetworkTransport(
        rows, batch_size=BATCH, learning_rate=dual_rate, penalty=penalty, generator=generator
    )
    advance = loop(
        network,
        transport_velocity(transport),
        d,
        generator,
        step_size=step_size,
        persistence=persistence,
        dual_steps=transport.n_steps,
    )
    return Contender(advance, drawing(network, d, shift, scale))


def exact_flow(X: np.ndarray, *, learning_rate: float, persistence: int, seed: int) -> Contender:
    """Return the loop of W2FlowGenerator(potential="semidiscrete"), steps of 1 in flow time."""
    rows, shift, scale = scaled(X)
    generator, d = torch.Generator().manual_seed(seed), rows.shape[1]
    network = new_network(d, learning_rate, generator)
    transport = SemidiscreteTransport(rows)
    transport.solve(evaluate(network.module, torch.randn(len(rows), d, generator=generator)))
    advance = loop(
        network,
        tracked_velocity(transport),
        d,
        generator,
        step_size=1.0,
        persistence=persistence,
        on_step=transport.shrink,
    )
    return Contender(advance, drawing(network, d, shift, scale))


def loop(
    network: Regressor,
    field: VelocityField,
    d: int,
    generator: torch.Generator,
    *,
    step_size: float,
    persistence: int | str,
    dual_steps: int = 0,
    on_step: Callable[[float], None] | None = None,
) -> Callable[[], int]:
    """Return an iteration of persistent training from N(0, I)."""
    update = persistent_update(
        lambda n: (torch.randn(n, d, generator=generator), None),
        field,
        step_size=step_size,
        persistence=persistence,
        batch_size=BATCH,
        on_step=on_step,
    )
    return lambda: dual_steps + int(update(network, 0.5)["n_inner"])


def new_network(
    d: int,
    learning_rate: float,
    generator: torch.Generator,
    *,
    betas: tuple[float, float] = (0.9, 0.99),
    **options: Callable[[Tensor], Tensor],
) -> Regressor:
    """Return the generator of all methods, with its optimiser at a constant learning rate."""
    return Regressor(
        mlp(d, d, HIDDEN, generator=generator),
        learning_rate=learning_rate,
        betas=betas,
        schedule=constant_schedule,
        ema_decay=EMA_DECAY,
        **options,
    )


def drawing(
    network: Regressor, d: int, shift: np.ndarray, scale: float
) -> Callable[[int, int], np.ndarray]:
    """Return what draws rows in the units of the data."""

    def draw(n: int, seed: int) -> np.ndarray:
        z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
        with network.averaged() as module:
            return evaluate(module, z).double().numpy() * scale + shift

    return draw
