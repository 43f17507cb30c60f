"""Three targets of the generalised flow's paper, draws of reference, and a nearest-neighbour KL."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from skwgf.targets import MonomialGamma

MIXTURE, GAMMA, DIFFUSION = "mixture", "monomial gamma", "diffusion"

N_MODES, MODE_SD, MODES_SEED = 10, 0.1, 0
EXPONENT, RATE = 0.905, 0.3
N_TIMES, DT, N_OBSERVED, NOISE, DRIFT, PATH_SEED = 100, 0.01, 20, 0.1, 10.0, 0

# Hamiltonian Monte Carlo for the diffusion: chains, sweeps, and leapfrog steps of a sweep.
N_CHAINS, N_WARM, N_KEPT, N_LEAPFROG, LEAP = 500, 100, 200, 8, 0.3
N_NEIGHBORS = 5


@dataclass(frozen=True)
class Toy:
    """A target, where clouds start, and draws of it.

    `log_prob` maps (n, dim) to (n,), `score` is its gradient, `start` and `sample` take a number of
    rows and a generator of numbers.
    """

    name: str
    dim: int
    log_prob: Callable[[Tensor], Tensor]
    score: Callable[[Tensor], Tensor]
    start: Callable[[int, np.random.Generator], np.ndarray]
    sample: Callable[[int, np.random.Generator], np.ndarray]


def mixture_means() -> np.ndarray:
    """Return the centres of the modes, (N_MODES, 2)."""
    return np.random.default_rng(MODES_SEED).standard_normal((N_MODES, 2))


def mixture() -> Toy:
    """Ten round modes of equal mass."""
    centres = torch.as_tensor(mixture_means())

    def logits(x: Tensor) -> Tensor:
        squares = (x[:, None] - centres.to(x)).square().sum(2)
        return -0.5 * squares / MODE_SD**2

    def score(x: Tensor) -> Tensor:
        return (logits(x).softmax(1) @ centres.to(x) - x) / MODE_SD**2

    def sample(n: int, rng: np.random.Generator) -> np.ndarray:
        chosen = mixture_means()[rng.integers(N_MODES, size=n)]
        return chosen + MODE_SD * rng.standard_normal((n, 2))

    return Toy(MIXTURE, 2, lambda x: logits(x).logsumexp(1), score, _normal_start(2), sample)


def monomial_gamma() -> Toy:
    """Tails a little heavier than exponential ones, from a start of a sixth of their spread."""
    target = MonomialGamma(2, exponent=EXPONENT, rate=RATE).fit()

    def sample(n: int, rng: np.random.Generator) -> np.ndarray:
        return target.sample(n, random_state=int(rng.integers(2**31)))

    return Toy(GAMMA, 2, target.log_prob, target.grad_log_prob, _normal_start(2), sample)


def diffusion() -> Toy:
    """A path of du = 10 u (1 - u^2) / (1 + u^2) dt + dW with u(0) = 0, seen at 20 times."""
    truth, observed = _observed_path()
    values, seen = torch.as_tensor(observed), N_TIMES // N_OBSERVED

    def log_prob(u: Tensor) -> Tensor:
        before = torch.nn.functional.pad(u[:, :-1], (1, 0))
        jumps = u - before - DT * _drift(before)
        misfit = u[:, seen - 1 :: seen] - values.to(u)
        return -0.5 * (jumps.square().sum(1) / DT + misfit.square().sum(1) / NOISE**2)

    def score(u: Tensor) -> Tensor:
        before = torch.nn.functional.pad(u[:, :-1], (1, 0))
        jumps = (u - before - DT * _drift(before)) / DT
        result = -jumps
        result[:, :-1] += jumps[:, 1:] * (1 + DT * _slope(u[:, :-1]))
        result[:, seen - 1 :: seen] -= (u[:, seen - 1 :: seen] - values.to(u)) / NOISE**2
        return result

    def start(n: int, rng: np.random.Generator) -> np.ndarray:
        return math.sqrt(DT) * rng.standard_normal((n, N_TIMES)).cumsum(1)

    draws = _reference(log_prob, score, torch.as_tensor(truth))

    def sample(n: int, rng: np.random.Generator) -> np.ndarray:
        return draws[rng.choice(len(draws), n, replace=False)]

    return Toy(DIFFUSION, N_TIMES, log_prob, score, start, sample)


def _normal_start(d: int) -> Callable[[int, np.random.Generator], np.ndarray]:
    """Return a function that draws rows of N(0, I)."""
    return lambda n, rng: rng.standard_normal((n, d))


def _drift(u: Tensor) -> Tensor:
    """Return the drift of the diffusion."""
    return DRIFT * u * (1 - u.square()) / (1 + u.square())


def _slope(u: Tensor) -> Tensor:
    """Return the derivative of the drift."""
    squares = u.square()
    return DRIFT * (1 - 4 * squares - squares.square()) / (1 + squares).square()


def _observed_path() -> tuple[np.ndarray, np.ndarray]:
    """Return a path of the diffusion, and what is seen of it."""
    rng, path, u = np.random.default_rng(PATH_SEED), [], torch.zeros(1)
    for jump in math.sqrt(DT) * rng.standard_normal(N_TIMES):
        u = u + DT * _drift(u) + jump
        path.append(float(u))
    seen = np.array(path)[N_TIMES // N_OBSERVED - 1 :: N_TIMES // N_OBSERVED]
    return np.array(path), seen + NOISE * rng.standard_normal(N_OBSERVED)


def _reference(
    log_prob: Callable[[Tensor], Tensor], score: Callable[[Tensor], Tensor], start: Tensor
) -> np.ndarray:
    """Return draws of the diffusion, (chains x sweeps, d), kept in a file from run to run."""
    path = Path(tempfile.gettempdir()) / "skwgf-benchmarks-diffusion.npz"
    if path.exists():
        return np.load(path)["draws"]
    chains, accepted = hamiltonian(log_prob, score, start, seed=0)
    ratio = r_hat(chains)
    print(f"diffusion: {accepted:.2f} of the proposals accepted, R-hat {ratio.max():.3f}")
    if ratio.max() > 1.01:
        raise RuntimeError(f"The chains of the reference have not mixed: R-hat {ratio.max():.3f}.")
    draws = chains[:, ::2].reshape(-1, chains.shape[2])
    np.savez(path, draws=draws, r_hat=ratio, accepted=accepted)
    return draws


def hamiltonian(
    log_prob: Callable[[Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
    start: Tensor,
    seed: int,
) -> tuple[np.ndarray, float]:
    """Return many chains of Hamiltonian Monte Carlo, (chains, sweeps, d), and their acceptance.

    Chains start around a point, and move in coordinates in which the curvature there is the
    identity.
    """
    generator = torch.Generator().manual_seed(seed)
    d = len(start)
    jacobian = torch.autograd.functional.jacobian(lambda u: score(u[None])[0], start)
    # The curvature at a path of noise need not be definite: the part of it that is.
    values, vectors = torch.linalg.eigh(-0.5 * (jacobian + jacobian.T))
    root = vectors * values.clamp(min=10.0).rsqrt()

    def noise() -> Tensor:
        return torch.randn(N_CHAINS, d, generator=generator, dtype=torch.float64)

    u, kept, accepted = start + 2 * noise() @ root.T, [], 0.0
    for sweep in range(N_WARM + N_KEPT):
        momentum = noise()
        step = LEAP * (0.8 + 0.4 * float(torch.rand(1, generator=generator)))
        proposal, end = u, momentum + 0.5 * step * score(u) @ root
        for leap in range(N_LEAPFROG):
            proposal = proposal + step * end @ root.T
            end = end + (0.5 if leap == N_LEAPFROG - 1 else 1.0) * step * score(proposal) @ root
        gain = log_prob(proposal) - log_prob(u)
        gain += 0.5 * (momentum.square().sum(1) - end.square().sum(1))
        luck = torch.rand(N_CHAINS, generator=generator, dtype=torch.float64).log()
        u = torch.where((luck < gain)[:, None], proposal, u)
        if sweep >= N_WARM:
            kept.append(u)
            accepted += float((luck < gain).double().mean()) / N_KEPT
    return torch.stack(kept, 1).numpy(), accepted


def r_hat(chains: np.ndarray) -> np.ndarray:
    """Return the split R-hat of each coordinate of chains (chains, sweeps, d)."""
    n_chains, length, d = chains.shape
    halves = chains[:, : length // 2 * 2].reshape(2 * n_chains, length // 2, d)
    within = halves.var(1, ddof=1).mean(0)
    between = halves.mean(1).var(0, ddof=1)
    return np.sqrt((length // 2 - 1) / (length // 2) + between / within)


def neighbor_kl(X: np.ndarray, Y: np.ndarray, k: int = N_NEIGHBORS) -> float:
    """Return an estimate of KL(X | Y) from the distances to k-th neighbours.

    Draws of one law give zero up to noise. Rows of X that lie more evenly than independent draws
    bias it downwards: it may be negative.
    """
    n, d = X.shape
    own = cKDTree(X).query(X, k + 1)[0][:, -1]
    other = cKDTree(Y).query(X, k)[0][:, -1]
    # Particles on one spot have no density.
    tiny = np.finfo(float).tiny
    logs = np.log(np.maximum(other, tiny)) - np.log(np.maximum(own, tiny))
    return float(d * logs.mean() + math.log(len(Y) / (n - 1)))
