"""Transport problems whose answer is known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPE = torch.float64


def generator(seed: int) -> torch.Generator:
    """Return a seeded generator, apart from torch's global one."""
    return torch.Generator().manual_seed(seed)


def normal(n: int, d: int, seed: int) -> Tensor:
    """Return n draws from N(0, I_d)."""
    return torch.randn(n, d, generator=generator(seed), dtype=DTYPE)


def rotation(d: int, seed: int) -> Tensor:
    """Return a random orthogonal matrix."""
    return torch.linalg.qr(normal(d, d, seed)).Q


def principal_root(matrix: Tensor) -> Tensor:
    """Return the symmetric root of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.sqrt()) @ vectors.T


@dataclass(frozen=True)
class GaussianPair:
    r"""Two Gaussian laws, and the optimal map between them.

    The map is affine, :math:`T(x) = m_1 + A (x - m_0)` with the symmetric positive definite
    :math:`A = S_0^{-1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{-1/2}`, and the squared distance is
    :math:`|m_0 - m_1|^2 + tr(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2})`.
    """

    mean_x: Tensor
    mean_y: Tensor
    cov_x: Tensor
    cov_y: Tensor

    @classmethod
    def random(cls, d: int, seed: int) -> GaussianPair:
        """Return laws with standard deviations between .6 and 1.5 along random axes."""
        covs = []
        for k in (1, 2):
            axes = rotation(d, seed + 10 * k)
            covs.append((axes * torch.linspace(0.6, 1.5, d, dtype=DTYPE).square()) @ axes.T)
        return cls(normal(1, d, seed)[0], normal(1, d, seed + 1)[0] + 1.0, *covs)

    def _cross(self) -> tuple[Tensor, Tensor]:
        """Return the root of the first covariance and that of the mixed product."""
        root = principal_root(self.cov_x)
        return root, principal_root(root @ self.cov_y @ root)

    def matrix(self) -> Tensor:
        """Return A."""
        root, cross = self._cross()
        inverse = torch.linalg.inv(root)
        return inverse @ cross @ inverse

    def map(self, x: Tensor) -> Tensor:
        """Return T(x)."""
        return self.mean_y + (x - self.mean_x) @ self.matrix()

    def squared_distance(self) -> float:
        """Return the squared Wasserstein-2 distance of the laws."""
        _, cross = self._cross()
        gap = self.mean_x - self.mean_y
        return float(gap @ gap + torch.trace(self.cov_x + self.cov_y - 2 * cross))

    def draw_x(self, n: int, seed: int) -> Tensor:
        """Return n draws of the first law."""
        return self.mean_x + normal(n, len(self.mean_x), seed) @ principal_root(self.cov_x)

    def draw_y(self, n: int, seed: int) -> Tensor:
        """Return n draws of the second law."""
        return self.mean_y + normal(n, len(self.mean_y), seed) @ principal_root(self.cov_y)


def uniform_levels(n: int) -> Tensor:
    """Return the midpoints of n equal intervals of [0, 1]."""
    return (torch.arange(n, dtype=DTYPE) + 0.5) / n


def exponential_quantile(u: Tensor) -> Tensor:
    """Return the quantile of Exp(1): the optimal map from the uniform law on [0, 1]."""
    return -torch.log1p(-u)


def line_problem(n: int, m: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a sorted uniform sample and the m quantiles of Exp(1), as columns.

    On the line the optimal map is increasing: it sends the uniform u to :math:`-\\log(1 - u)`.
    """
    u = torch.rand(n, generator=generator(seed), dtype=DTYPE).sort().values
    return u[:, None], exponential_quantile(uniform_levels(m))[:, None]


@dataclass(frozen=True)
class Permutation:
    """n points, n images in shuffled order, and the index of each point's image."""

    x: Tensor
    y: Tensor
    image: Tensor

    @classmethod
    def convex(cls, n: int, d: int, seed: int) -> Permutation:
        r"""Return images under the gradient of a strictly convex function, shuffled.

        :math:`T(x) = \nabla(\tfrac12 x^T A x + \sum_k x_k^4 / 12) + b` is cyclically monotone, so
        the pairing by T is optimal, and strictly so: it is the only optimal one.
        """
        x = normal(n, d, seed)
        half = normal(d, d, seed + 1) / math.sqrt(d)
        images = x @ (half @ half.T + 0.5 * torch.eye(d, dtype=DTYPE)) + x**3 / 3 + 2.0
        shuffle = torch.randperm(n, generator=generator(seed + 2))
        return cls(x, images[shuffle], torch.argsort(shuffle))

    @classmethod
    def translation(cls, n: int, d: int, seed: int) -> Permutation:
        """Return points and the same points moved by (3, 3, ...), in another order."""
        x = normal(n, d, seed)
        shuffle = torch.randperm(n, generator=generator(seed + 1))
        return cls(x, x[shuffle] + 3.0, torch.argsort(shuffle))

    def squared_distance(self) -> float:
        """Return the squared Wasserstein-2 distance."""
        return float((self.y[self.image] - self.x).square().sum(1).mean())


@dataclass(frozen=True)
class Clusters:
    """Clusters at well separated places, the same clusters moved, and their labels."""

    x: Tensor
    labels_x: Tensor
    y: Tensor
    labels_y: Tensor

    @classmethod
    def shifted(cls, n: int, shift: Tensor, *, shares: tuple[float, ...], seed: int) -> Clusters:
        """Return clusters with given shares, spaced by 4 on the first axis, then moved by `shift`.

        The optimal map is the translation. With a shift of the spacing, each moved cluster lies
        where its neighbour was, and nearest labels are wrong.
        """
        counts = [round(n * share) for share in shares]
        labels = torch.repeat_interleave(torch.arange(len(shares)), torch.tensor(counts))
        d = len(shift)
        centres = torch.zeros(len(shares), d, dtype=DTYPE)
        centres[:, 0] = 4.0 * torch.arange(len(shares), dtype=DTYPE)
        x = centres[labels] + 0.3 * normal(len(labels), d, seed)
        y = centres[labels] + 0.3 * normal(len(labels), d, seed + 1) + shift
        return cls(x, labels, y, labels)


def ring(n: int, seed: int, *, n_modes: int = 8, radius: float = 2.0, scale: float = 0.1) -> Tensor:
    """Return n independent draws of equal modes on a circle."""
    labels = torch.randint(n_modes, (n,), generator=generator(seed))
    angles = 2 * math.pi * labels.to(DTYPE) / n_modes
    centres = radius * torch.stack([angles.cos(), angles.sin()], 1)
    return centres + scale * normal(n, 2, seed + 1)
