"""Five posteriors of posteriordb: log densities on the unconstrained scale, and reference draws.

Parameters of the reference that must be positive, ordered or in (0, 1) are sampled as logarithms,
logarithms of gaps or log odds, and the log-Jacobian is added. Constants are left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

FOLDER = "posteriordb"
# Resamples that say how far independent reference draws are from the reference.
N_RESAMPLES, RESAMPLE_SEED = 1000, 0


@dataclass(frozen=True)
class Posterior:
    """A posterior with draws of reference.

    `log_prob` maps (n, dim) unconstrained particles to (n,), `constrain` to the (n, p) parameters
    `names` of the reference, whose draws are `draws` of shape (N, p).
    """

    name: str
    dim: int
    names: tuple[str, ...]
    draws: np.ndarray
    log_prob: Callable[[Tensor], Tensor]
    constrain: Callable[[Tensor], Tensor]

    def score(self, z: Tensor) -> Tensor:
        """Return the gradient of the log density at each particle."""
        z = z.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.log_prob(z).sum(), z)
        return gradient

    def figures(self, z: Tensor) -> tuple[float, np.ndarray]:
        """Return max |mean error| / sd and the ratio of the sds, of particles."""
        return moments(self.constrain(z).numpy(), self.draws)

    def floor(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the same figures of resamples of n reference draws: (N_RESAMPLES,), (.., p)."""
        rng = np.random.default_rng(RESAMPLE_SEED)
        found = [
            moments(self.draws[rng.choice(len(self.draws), n)], self.draws)
            for _ in range(N_RESAMPLES)
        ]
        return np.array([error for error, _ in found]), np.array([ratio for _, ratio in found])


def moments(X: np.ndarray, reference: np.ndarray) -> tuple[float, np.ndarray]:
    """Return max |mean error| / sd and the ratio of the sds, against reference draws."""
    mean, sd = reference.mean(0), reference.std(0)
    return float(np.abs((X.mean(0) - mean) / sd).max()), X.std(0, ddof=1) / sd


def load_posteriors(data: Path) -> list[Posterior]:
    """Return the posteriors of the files NAME.npz and NAME.data.json in data/posteriordb."""
    folder = data / FOLDER
    return [build(folder) for build in (_eight_schools, _kidiq, _sblrc, _ark, _mixture)]


def _read(folder: Path, name: str) -> tuple[dict[str, Any], np.ndarray, tuple[str, ...]]:
    """Return the data, the reference draws and the names of their columns."""
    file = folder / f"{name}.npz"
    if not file.exists():
        raise SystemExit(f"{file} is missing: pass --data the folder that holds {FOLDER}/.")
    with np.load(file) as stored:
        draws, names = stored["draws"], tuple(map(str, stored["names"]))
    return json.loads((folder / f"{name}.data.json").read_text()), draws, names


def _normal(x: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    """Return the log density of a normal, apart from constants; of its sd only a tensor counts."""
    log_sd = sd.log() if isinstance(sd, Tensor) else 0.0
    return -0.5 * ((x - mean) / sd) ** 2 - log_sd


def _half_cauchy(log_sd: Tensor, scale: float) -> Tensor:
    """Return the log density of the logarithm of a half-Cauchy variable."""
    return log_sd - torch.log1p((log_sd.exp() / scale) ** 2)


def _eight_schools(folder: Path) -> Posterior:
    """theta = mu + tau z, z ~ N(0, 1); particles are (z, mu, log tau)."""
    data, draws, names = _read(folder, "eight_schools-eight_schools_noncentered")
    y, sigma = (torch.tensor(data[key], dtype=torch.float64) for key in ("y", "sigma"))

    def constrain(z: Tensor) -> Tensor:
        mu, tau = z[:, 8:9], z[:, 9:].exp()
        return torch.cat([mu + tau * z[:, :8], mu, tau], 1)

    def log_prob(z: Tensor) -> Tensor:
        theta, mu = constrain(z)[:, :8], z[:, 8]
        likelihood = _normal(y.to(z), theta, sigma.to(z)).sum(1)
        prior = _normal(z[:, :8], 0.0, 1.0).sum(1) + _normal(mu, 0.0, 5.0)
        return likelihood + prior + _half_cauchy(z[:, 9], 5.0)

    return Posterior("eight_schools", 10, names, draws, log_prob, constrain)


def _regression(
    name: str,
    X: Tensor,
    y: Tensor,
    draws: np.ndarray,
    names: tuple[str, ...],
    prior: Callable[[Tensor, Tensor], Tensor],
) -> Posterior:
    """y ~ N(X beta, sigma); particles are (beta, log sigma); `prior` takes these two."""
    k = X.shape[1]

    def log_prob(z: Tensor) -> Tensor:
        beta, log_sigma = z[:, :k], z[:, k]
        squares = (y.to(z) - beta @ X.to(z).T).square().sum(1)
        likelihood = -0.5 * squares * torch.exp(-2 * log_sigma) - len(y) * log_sigma
        return likelihood + prior(beta, log_sigma)

    def constrain(z: Tensor) -> Tensor:
        return torch.cat([z[:, :k], z[:, k:].exp()], 1)

    return Posterior(name, k + 1, names, draws, log_prob, constrain)


def _kidiq(folder: Path) -> Posterior:
    """Score of a child by its mother's schooling, IQ and both; flat coefficients."""
    data, draws, names = _read(folder, "kidiq-kidscore_interaction")
    y, hs, iq = (
        torch.tensor(data[key], dtype=torch.float64) for key in ("kid_score", "mom_hs", "mom_iq")
    )
    X = torch.stack([torch.ones_like(y), hs, iq, hs * iq], 1)
    return _regression(
        "kidiq", X, y, draws, names, lambda _, log_sigma: _half_cauchy(log_sigma, 2.5)
    )


def _sblrc(folder: Path) -> Posterior:
    """Linear regression on five columns; beta ~ N(0, 10), sigma ~ N+(0, 10)."""
    data, draws, names = _read(folder, "sblrc-blr")
    X, y = (torch.tensor(data[key], dtype=torch.float64) for key in ("X", "y"))

    def prior(beta: Tensor, log_sigma: Tensor) -> Tensor:
        return _normal(beta, 0.0, 10.0).sum(1) + _normal(log_sigma.exp(), 0.0, 10.0) + log_sigma

    return _regression("sblrc", X, y, draws, names, prior)


def _ark(folder: Path) -> Posterior:
    """Auto-regression of order five; alpha, beta ~ N(0, 10), sigma ~ half-Cauchy(2.5)."""
    data, draws, names = _read(folder, "arK-arK")
    series, k = torch.tensor(data["y"], dtype=torch.float64), int(data["K"])
    lags = [series[k - lag : len(series) - lag] for lag in range(1, k + 1)]
    X = torch.stack([torch.ones_like(lags[0]), *lags], 1)

    def prior(beta: Tensor, log_sigma: Tensor) -> Tensor:
        return _normal(beta, 0.0, 10.0).sum(1) + _half_cauchy(log_sigma, 2.5)

    return _regression("arK", X, series[k:], draws, names, prior)


def _mixture(folder: Path) -> Posterior:
    """Two normals, mu1 < mu2; particles are (mu1, log gap, log sigma1, log sigma2, logit theta)."""
    data, draws, names = _read(folder, "low_dim_gauss_mix-low_dim_gauss_mix")
    y = torch.tensor(data["y"], dtype=torch.float64)

    def constrain(z: Tensor) -> Tensor:
        mu2 = z[:, :1] + z[:, 1:2].exp()
        return torch.cat([z[:, :1], mu2, z[:, 2:4].exp(), z[:, 4:].sigmoid()], 1)

    def log_prob(z: Tensor) -> Tensor:
        mu1, mu2, sigma1, sigma2 = constrain(z)[:, :4, None].unbind(1)
        log_theta, log_rest = logsigmoid(z[:, 4]), logsigmoid(-z[:, 4])
        rows = torch.logaddexp(
            log_theta[:, None] + _normal(y.to(z), mu1, sigma1),
            log_rest[:, None] + _normal(y.to(z), mu2, sigma2),
        )
        prior = sum(_normal(part[:, 0], 0.0, 2.0) for part in (mu1, mu2, sigma1, sigma2))
        # Beta(5, 5) with its Jacobian, and those of the logarithms.
        return rows.sum(1) + prior + 5 * (log_theta + log_rest) + z[:, 1:4].sum(1)

    return Posterior("low_dim_gauss_mix", 5, names, draws, log_prob, constrain)


def standard_starts(dim: int, n: int, seed: int) -> Tensor:
    """Return n draws of N(0, I)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64)
