r"""The squared kernel Stein discrepancy of a cloud, and what independent draws would have.

With scores :math:`s = \nabla \log \pi` the Stein kernel :math:`k_\pi` has mean zero under the
target in each argument, so that its mean over the pairs of a cloud tells how far the cloud is from
the target without its normalising constant.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skwgf.kernels.base import Kernel

_STRIP_ENTRIES = 2**20  # of the Stein kernel's matrix, held at a time


def ksd_squared(x: Tensor, scores: Tensor, kernel: Kernel, *, unbiased: bool = False) -> float:
    r"""Return the squared kernel Stein discrepancy of a cloud.

    .. math:: V = \frac1{n^2} \sum_{i, j} k_\pi(x_i, x_j), \qquad
        U = \frac1{n (n - 1)} \sum_{i \neq j} k_\pi(x_i, x_j)

    Parameters
    ----------
    x : Tensor of shape (n, d)
        The cloud.

    scores : Tensor of shape (n, d)
        The gradient of the target's log density at the points.

    kernel : Kernel
        With numbers for its rules, see :meth:`~skwgf.kernels.Kernel.resolve`.

    unbiased : bool, default=False
        Return U, whose mean over independent draws of any law is that law's discrepancy, 0 for
        the target: it may be negative. V is not negative, and over independent draws of the target
        its mean is that of :math:`k_\pi(x, x) / n`.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the kernel is too rough to have a discrepancy, or U is asked for one point.

    References
    ----------
    Q. Liu, J. Lee, M. Jordan. *A kernelized Stein discrepancy for goodness-of-fit tests*. ICML
    2016, arXiv:1602.03253.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Gaussian
    >>> from skwgf.kernels.discrepancy import ksd_squared
    >>> x = torch.tensor([[-1.0], [0.0], [1.0]])
    >>> figures = [ksd_squared(z, -z, Gaussian(bandwidth=1.0)) for z in (x, x + 3)]
    >>> [round(figure, 3) for figure in figures]
    [0.045, 5.742]
    """
    diagonal = kernel.stein_diagonal(x, scores)  # refuses kernels without a discrepancy
    n = len(x)
    biased = float(kernel.stein(x, scores).discrepancy.mean())
    if not unbiased:
        return max(biased, 0.0)
    if n < 2:
        raise ValueError("The U-statistic needs at least two points, got one.")
    return (n * biased - float(diagonal.mean())) / (n - 1)


def bootstrap_floor(
    x: Tensor, scores: Tensor, kernel: Kernel, *, generator: torch.Generator, n_draws: int = 500
) -> Tensor:
    r"""Draw squared discrepancies that as many independent draws of the target could have.

    The wild bootstrap of the V-statistic,

    .. math:: \frac1{n^2} \sum_{i, j} w_i w_j \, k_\pi(x_i, x_j)

    with independent signs w. Its law, given points that are spread as the target is, approaches
    that of the V-statistic of independent draws. Its mean over the signs is that of
    :math:`k_\pi(x_i, x_i) / n`, see :meth:`~skwgf.kernels.Kernel.stein_diagonal`.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        The cloud.

    scores : Tensor of shape (n, d)
        The gradient of the target's log density at the points.

    kernel : Kernel
        With numbers for its rules.

    generator : torch.Generator
        Draws the signs, on its device.

    n_draws : int, default=500
        Number of draws.

    Returns
    -------
    Tensor of shape (n_draws,)
        Compare V with their mean, or their quantiles.

    Raises
    ------
    ValueError
        If the kernel is too rough to have a discrepancy.

    Notes
    -----
    Particles that repel each other lie more evenly than independent draws do: where they have
    converged, V is below the floor. Particles that all missed one mode may be below it as well.

    References
    ----------
    K. Chwialkowski, H. Strathmann, A. Gretton. *A kernel test of goodness of fit*. ICML 2016,
    arXiv:1602.02964.

    Examples
    --------
    >>> import torch
    >>> from skwgf.kernels import Gaussian
    >>> from skwgf.kernels.discrepancy import bootstrap_floor, ksd_squared
    >>> generator = torch.Generator().manual_seed(0)
    >>> x, kernel = torch.randn(200, 2, generator=generator), Gaussian(bandwidth=1.0)
    >>> level = float(bootstrap_floor(x, -x, kernel, generator=generator).quantile(0.99))
    >>> ksd_squared(x, -x, kernel) < level < ksd_squared(x + 1, -x - 1, kernel)
    True
    """
    n = len(x)
    signs = torch.randint(2, (n, n_draws), generator=generator, device=generator.device)
    signs = (2 * signs - 1).to(x)
    total = x.new_zeros(n_draws)
    for rows in torch.split(torch.arange(n, device=x.device), max(1, _STRIP_ENTRIES // n)):
        strip = kernel.stein_gram(x[rows], scores[rows], x, scores)
        total += (signs[rows] * (strip @ signs)).sum(0)
    return total / n**2
