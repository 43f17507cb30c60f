"""SVGD as pyro, numpyro and blackjax have it, and the reference posteriors as densities in JAX."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# Read by JAX at its first import: one thread for all.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import torch
from _posteriors import FOLDER, Posterior, standard_starts
from torch import Tensor


def pyro_run(posterior: Posterior, start: Tensor, n_steps: int, step: float) -> Tensor:
    """Run the SVGD of pyro: multivariate Gaussian kernel, Adagrad."""
    import pyro
    from pyro.distributions import Normal
    from pyro.infer import SVGD, RBFSteinKernel
    from pyro.optim import Adagrad

    zeros = torch.zeros(posterior.dim, dtype=torch.float64)

    def model() -> None:
        z = pyro.sample("z", Normal(zeros, 1.0).to_event(1).mask(False))
        pyro.factor("target", posterior.log_prob(z))

    pyro.clear_param_store()
    optimizer = Adagrad({"lr": step})
    svgd = SVGD(model, RBFSteinKernel(), optimizer, len(start), 0, mode="multivariate")
    svgd.guide()  # makes the particles
    pyro.param("svgd_particles").data.copy_(start.reshape(-1))
    for _ in range(n_steps):
        svgd.step()
    return pyro.param("svgd_particles").detach().reshape(start.shape).clone()


def numpyro_run(
    data: Path, posterior: Posterior, start: Tensor, n_steps: int, step: float
) -> Tensor:
    """Run the SVGD of numpyro: Gaussian kernel, Adagrad, from draws of its own of N(0, I)."""
    import jax
    import numpyro
    from numpyro.contrib.einstein import SVGD, RBFKernel
    from numpyro.distributions import Normal
    from numpyro.infer import init_to_sample
    from numpyro.optim import Adagrad

    jax.config.update("jax_enable_x64", True)
    log_prob = jax_log_prob(data, posterior)

    def model() -> None:
        law = Normal(0.0, 1.0).expand([posterior.dim]).to_event(1)
        z = numpyro.sample("z", law.mask(False))
        numpyro.factor("target", log_prob(z))

    svgd = SVGD(
        model,
        Adagrad(step),
        RBFKernel(),
        num_stein_particles=len(start),
        guide_kwargs={"init_loc_fn": init_to_sample},
    )
    key = jax.random.PRNGKey(int(start[0, 0].abs() * 1e6))
    state = svgd.init(key)
    advance = jax.jit(svgd.update)
    for _ in range(n_steps):
        state, _ = advance(state)
    (particles,) = svgd.get_params(state).values()
    return torch.tensor(np.array(particles), dtype=torch.float64).reshape(start.shape)


def blackjax_run(
    data: Path, posterior: Posterior, start: Tensor, n_steps: int, step: float
) -> Tensor:
    """Run the SVGD of blackjax: Gaussian kernel with its median heuristic, Adagrad."""
    import jax
    import jax.numpy as jnp
    import optax
    from blackjax.vi import svgd

    jax.config.update("jax_enable_x64", True)
    algorithm = svgd.as_top_level_api(jax.grad(jax_log_prob(data, posterior)), optax.adagrad(step))
    x = jnp.asarray(start.numpy())
    state = svgd.update_median_heuristic(algorithm.init(x, {"length_scale": 1.0}))
    advance = jax.jit(algorithm.step)
    for _ in range(n_steps):
        state = advance(state)
    return torch.tensor(np.array(state.particles), dtype=torch.float64)


def jax_log_prob(data: Path, posterior: Posterior) -> Callable[[Any], Any]:
    """Return the log density of one particle in JAX, and check its gradient against torch's."""
    import jax
    import jax.numpy as jnp

    (file,) = (data / FOLDER).glob(f"{FILES[posterior.name]}.data.json")
    read = json.loads(file.read_text())
    values = {key: jnp.asarray(value, dtype=float) for key, value in read.items()}
    log_prob = partial(JAX_DENSITIES[posterior.name], values)
    z = standard_starts(posterior.dim, 3, 0)
    found = np.asarray(jax.vmap(jax.grad(log_prob))(jnp.asarray(z.numpy())))
    np.testing.assert_allclose(found, posterior.score(z).numpy(), rtol=1e-6, atol=1e-6)
    return log_prob


def _jax_schools(data: dict[str, Any], z: Any) -> Any:
    """Return the log density of `eight_schools`."""
    import jax.numpy as jnp

    theta = z[8] + jnp.exp(z[9]) * z[:8]
    likelihood = -0.5 * (((data["y"] - theta) / data["sigma"]) ** 2).sum()
    prior = -0.5 * (z[:8] ** 2).sum() - 0.5 * (z[8] / 5) ** 2
    return likelihood + prior + z[9] - jnp.log1p((jnp.exp(z[9]) / 5) ** 2)


def _jax_regression(X: Any, y: Any, z: Any) -> Any:
    """Return the log likelihood of a linear regression, z = (beta, log sigma)."""
    import jax.numpy as jnp

    return -0.5 * ((y - X @ z[:-1]) ** 2).sum() * jnp.exp(-2 * z[-1]) - len(y) * z[-1]


def _jax_kidiq(data: dict[str, Any], z: Any) -> Any:
    """Return the log density of `kidiq`."""
    import jax.numpy as jnp

    hs, iq = data["mom_hs"], data["mom_iq"]
    X = jnp.stack([jnp.ones_like(iq), hs, iq, hs * iq], 1)
    noise = z[-1] - jnp.log1p((jnp.exp(z[-1]) / 2.5) ** 2)
    return _jax_regression(X, data["kid_score"], z) + noise


def _jax_sblrc(data: dict[str, Any], z: Any) -> Any:
    """Return the log density of `sblrc`."""
    import jax.numpy as jnp

    prior = -0.005 * ((z[:-1] ** 2).sum() + jnp.exp(2 * z[-1])) + z[-1]
    return _jax_regression(data["X"], data["y"], z) + prior


def _jax_ark(data: dict[str, Any], z: Any) -> Any:
    """Return the log density of `arK`."""
    import jax.numpy as jnp

    y, k = data["y"], 5
    X = jnp.stack(
        [jnp.ones(len(y) - k), *(y[k - lag : len(y) - lag] for lag in range(1, k + 1))], 1
    )
    prior = -0.005 * (z[:-1] ** 2).sum() + z[-1] - jnp.log1p((jnp.exp(z[-1]) / 2.5) ** 2)
    return _jax_regression(X, y[k:], z) + prior


def _jax_mixture(data: dict[str, Any], z: Any) -> Any:
    """Return the log density of `low_dim_gauss_mix`."""
    import jax
    import jax.numpy as jnp

    mu = jnp.array([z[0], z[0] + jnp.exp(z[1])])
    sigma = jnp.exp(z[2:4])
    share = jax.nn.log_sigmoid(jnp.array([z[4], -z[4]]))
    parts = share - 0.5 * ((data["y"][:, None] - mu) / sigma) ** 2 - jnp.log(sigma)
    prior = -0.125 * ((mu**2).sum() + (sigma**2).sum()) + z[1:4].sum() + 5 * share.sum()
    return jax.nn.logsumexp(parts, axis=1).sum() + prior


FILES = {
    "eight_schools": "eight_schools-*",
    "kidiq": "kidiq-*",
    "sblrc": "sblrc-*",
    "arK": "arK-*",
    "low_dim_gauss_mix": "low_dim_gauss_mix-*",
}
JAX_DENSITIES = {
    "eight_schools": _jax_schools,
    "kidiq": _jax_kidiq,
    "sblrc": _jax_sblrc,
    "arK": _jax_ark,
    "low_dim_gauss_mix": _jax_mixture,
}
