"""The kernel Stein discrepancy of particles from a target density."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from skwgf._tensor import make_generator, to_numpy
from skwgf.functionals._discrepancy import parted_rows
from skwgf.functionals.base import (
    Device,
    Expansion,
    Functional,
    Precision,
    check_rows,
    expand_by_autograd,
    spread,
)
from skwgf.kernels import Gaussian, InverseMultiquadric, Kernel, Scaled, Sum
from skwgf.targets import Target

__all__ = ["KSD"]

_N_DRAWS = 256  # from the start of a target, to take its scale


class KSD(Functional):
    r"""Half the squared kernel Stein discrepancy of the particles from a target [1]_ [2]_.

    .. math:: F(\mu) = \tfrac12 \iint k_\pi(z, z') \, d\mu(z) \, d\mu(z'), \quad
        k_\pi = s(z) \cdot s(z') \, k + s(z) \cdot \nabla_{z'} k + s(z') \cdot \nabla_z k
        + \mathrm{tr} \, \nabla_z \nabla_{z'} k

    with the gradient s of the log density. It needs no draws of the target, is not negative, and
    vanishes only for the target.

    Parameters
    ----------
    target : Target
        The density, one of :mod:`skwgf.targets` whose log density is written in torch. The
        particles are its unconstrained coordinates z.

    kernel : Kernel, default=None
        `InverseMultiquadric` or `Gaussian`, or sums and multiples of them; a bandwidth given as a
        rule is taken from the points to start from. None is ``InverseMultiquadric(bandwidth=1.0)``,
        as in :func:`skwgf.metrics.ksd`.

    Attributes
    ----------
    target_ : Target
        The fitted copy of the target.

    kernel_ : Kernel
        The kernel with a number for its bandwidth.

    length_scale_ : float
        The spread of the points to start from.

    Raises
    ------
    TypeError
        At `fit`, if the target is none, or the kernel is not one of those above.

    ValueError
        At `fit`, if the log density carries no graph to differentiate it three times.

    Notes
    -----
    A target that learns from data is conditioned on X and y, and `draw_start` draws from its
    prior or near its data; for a bare one X is the cloud to start from, in constrained
    coordinates.

    For a target of several modes it has *spurious minima*, which are true local minima that no
    saddle-free method leaves: the score, all that is known of the target, hardly sees the relative
    masses of modes that lie far apart, and particles between them can come to rest. Start with
    particles in all modes.

    Derivatives are taken by autograd, in :math:`O(n^2)` memory: for up to some thousand particles.

    References
    ----------
    .. [1] A. Korba, P. Aubin-Frankowski, S. Majewski, P. Ablin. *Kernel Stein discrepancy descent*.
       ICML 2021, arXiv:2105.09994.
    .. [2] J. Gorham, L. Mackey. *Measuring sample quality with kernels*. ICML 2017,
       arXiv:1703.01717.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import KSD
    >>> from skwgf.targets import Gaussian
    >>> energy = KSD(Gaussian(mean=(0.0,))).fit(np.array([[1.0], [2.0]]))
    >>> energy.value(torch.zeros(1, 1, dtype=torch.float64))  # half the trace at one point
    tensor(0.5000, dtype=torch.float64)
    """

    target_: Target
    kernel_: Kernel

    def __init__(self, target: Target, kernel: Kernel | None = None) -> None:
        self.target = target
        self.kernel = kernel

    @property
    def learns_from_data(self) -> bool:
        """Whether the target does."""
        return self.target.learns_from_data

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Condition the target on X and y, or take X as the cloud to start from."""
        if not isinstance(self.target, Target):
            raise TypeError(
                f"target must be one of skwgf.targets, got {type(self.target).__name__}: wrap a "
                "log density function in LogDensity."
            )
        self.target_ = clone(self.target).fit(X, y, device=device, dtype=dtype)
        self._rows: Tensor | None = None
        if self.learns_from_data:
            generator = make_generator(0, self.target_.device_)
            start = self.target_.draw_start(_N_DRAWS, generator)
        else:
            array = check_rows(X, self)
            start = self._rows = self.target_.unconstrain(self.target_._tensor(array))
        self._settle(
            self.target_.n_dim_,
            length_scale=spread(to_numpy(start)),
            follow=np.float64,
            device=self.target_.device_,
            dtype=self.target_.dtype_,
        )
        kernel = InverseMultiquadric(bandwidth=1.0) if self.kernel is None else clone(self.kernel)
        _check_smooth(kernel)
        self.kernel_ = kernel.resolve(start)
        self._check_graph(start[:1])
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw as the target does; for a bare one rows of the starting cloud, with jitter."""
        if self._rows is None:
            return self.target_.draw_start(n, generator)
        return parted_rows(self._rows, n, generator)

    def _value(self, z: Tensor) -> Tensor:
        scores = self._scores(z)
        centred = z - z.mean(0)
        norms = centred.square().sum(1)
        # Not clamped at zero, where the kernels are smooth: that would part coincident particles.
        u = torch.addmm(norms[:, None] + norms, centred, centred.T, alpha=-2)
        value, slope, bend = _jet(self.kernel_, u)
        inner = (centred * scores).sum(1)
        mixed = scores @ centred.T
        along = inner[:, None] + inner - mixed - mixed.T  # (s - s') . (z - z')
        total = (scores @ scores.T) * value - 2 * slope * (along + z.shape[1]) - 4 * u * bend
        return 0.5 * total.mean()

    def _expand(self, z: Tensor) -> Expansion:
        return expand_by_autograd(self._value, z)

    def _scores(self, z: Tensor) -> Tensor:
        """Return the gradient of the log density, with a graph where `z` asks for one."""
        graph = z.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            point = z if graph else z.detach().requires_grad_()
            (scores,) = torch.autograd.grad(
                self.target_.log_prob(point).sum(), point, create_graph=graph
            )
        return scores

    def _check_graph(self, z: Tensor) -> None:
        """Refuse a target whose log density cannot be differentiated by autograd."""
        with torch.enable_grad():
            has_graph = self.target_.log_prob(z.detach().requires_grad_()).requires_grad
        if not has_graph:
            raise ValueError(
                f"The log density of {type(self.target_).__name__} carries no graph: KSD "
                "differentiates it three times. Write it in torch operations, without numpy, "
                "detach() or no_grad()."
            )


class _Jet(NamedTuple):
    """A function of squared distances and its first two derivatives, with their graphs."""

    value: Tensor
    slope: Tensor
    bend: Tensor


def _check_smooth(kernel: Kernel) -> None:
    """Refuse kernels that are not smooth functions of the squared distance."""
    if isinstance(kernel, Sum):
        _check_smooth(kernel.left)
        _check_smooth(kernel.right)
    elif isinstance(kernel, Scaled):
        _check_smooth(kernel.kernel)
    elif not isinstance(kernel, Gaussian | InverseMultiquadric):
        raise TypeError(
            "KSD differentiates its kernel four times, which InverseMultiquadric, Gaussian, and "
            f"their sums and multiples allow, got {kernel!r}."
        )


def _jet(kernel: Kernel, u: Tensor) -> _Jet:
    """Return a resolved kernel and its derivatives at squared distances."""
    if isinstance(kernel, Sum):
        left, right = _jet(kernel.left, u), _jet(kernel.right, u)
        return _Jet(*(a + b for a, b in zip(left, right, strict=True)))
    if isinstance(kernel, Scaled):
        assert kernel.factor is not None  # the kernel is resolved
        return _Jet(*(kernel.factor * a for a in _jet(kernel.kernel, u)))
    assert isinstance(kernel, Gaussian | InverseMultiquadric)
    square = kernel._length() ** 2
    if isinstance(kernel, Gaussian):
        value = torch.exp(-0.5 / square * u)
        return _Jet(value, -0.5 / square * value, 0.25 / square**2 * value)
    b, base = kernel.exponent, 1 + u / square
    value = base**b
    slope = b / square * value / base
    return _Jet(value, slope, (b - 1) / square * slope / base)
