r"""Stein variational gradient descent: particles that sample a target together.

.. math:: \dot x_i = \frac1n \sum_j \bigl[ k(x_j, x_i) \nabla \log\pi(x_j)
    + \nabla_{x_j} k(x_j, x_i) \bigr]
"""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import _fit_context, clone
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skwgf._threads import one_thread_in_pools
from skwgf.base import BaseFlow
from skwgf.estimators._predictions import PredictionMixin
from skwgf.estimators._sampler import SamplerMixin, on_torus, warn_of_one_particle
from skwgf.estimators._stein_flow import stein_flow
from skwgf.kernels import Kernel, RieszKernel
from skwgf.targets import Target


class SVGDSampler(PredictionMixin, SamplerMixin, BaseFlow):
    r"""Sampler by Stein variational gradient descent.

    n particles move together along the steepest descent of the Kullback-Leibler divergence from
    the target :math:`\pi` within the unit ball of a kernel's function space,

    .. math:: \dot x_i = \frac1n \sum_j \bigl[ k(x_j, x_i) \nabla \log\pi(x_j)
        + \nabla_{x_j} k(x_j, x_i) \bigr] :

    the first term draws them to high density, the second keeps them apart. The default flow takes
    an affine start, whitens by the running covariance, joins a Gaussian kernel to a linear one and
    regularises, which keeps the spread of the target in tens of dimensions; `kernel` asks for the
    classic flow instead. On a torus the kernel is a Riesz kernel.

    Read more in the :ref:`User Guide <svgd>`.

    Parameters
    ----------
    target : Target, default=None
        What to sample from, see :mod:`skwgf.targets`. A model is conditioned on X and y; a bare log
        density takes X as the starting cloud; None is the law of the rows of X,
        :class:`~skwgf.targets.KernelDensityTarget`.

    kernel : Kernel, RieszKernel or None, default=None
        None is the default flow (on a torus: the Riesz kernel of order (d + 3)/2). With a kernel of
        :mod:`skwgf.kernels` particles follow its velocity, in the classic way with
        ``Gaussian("median")``, whose spread shrinks as the dimension grows; None does so as well
        where there are no more particles than dimensions, which cannot be whitened. For a density
        of data None is a Gaussian kernel of the bandwidth of the density, with Heun steps: it evens
        out a sample without dragging particles out of light modes.

    optimizer : {"euler", "adagrad", "adam", "heun"} or None, default=None
        How steps follow the velocity: as they are; divided by a running size of the velocity
        (Adagrad, Adam; with a `kernel` only); or adaptive ones of second order in flow time (Heun).
        None is Euler with step control for the default flow, Adagrad with a `kernel`, and Heun on
        a torus.

    n_particles : int or None, default=None
        Number of particles of each cloud. None is the number of rows of X where X is the starting
        cloud, else 200, however many rows there are.

    init : {"prior", "normal", "data"}, array-like or None, default=None
        Where particles start: draws of the prior (models; networks as they usually start), or rows
        of X with the noise of the kernel (densities of data): "prior"; N(0, I) in unconstrained
        coordinates; rows of X, for bare log densities; or an array of particles, which are taken as
        they are, without the affine start: particles in every mode of a target stay there (those on
        one spot are parted by a tenth of a standard deviation). With restarts it holds all clouds,
        one after the other. None is "data" for bare log densities and "prior" else.

    n_restarts : int, default=1
        Number of independent clouds; `particles_` holds all of them, one after the other.

    batch_size : int or None, default=None
        Number of data rows of a score, with the likelihood scaled up; the affine start takes all of
        them. The noise of the batches never settles, so that the whole of `max_iter` is run. None
        takes all rows.

    max_iter : int, default=400
        Largest number of steps; each costs one evaluation of the score, two with Heun. The affine
        start before them takes up to a hundred more.

    step_size : float or None, default=None
        Step :math:`\tau` in flow time; with Adagrad and Adam the length of a step of a coordinate.
        None is 0.3 for the default flow (0.03 with `batch_size`), else 0.1.

    tol : float or None, default=None
        When to stop. Default flow: squared Stein discrepancy relative to that of independent draws;
        None leaves the choice to :func:`~skwgf.flows.whitened.stopping_level`. With a `kernel`: its
        squared discrepancy has fallen by a smaller share over 20 steps, and lies below that of
        independent draws; None is .01, on a torus .1 without a comparison.

    warm_start : bool, default=False
        Whether fit goes on from the particles of the previous fit.

    device : None, str or torch.device, default=None
        Where to compute: None is the CPU, "auto" the first accelerator.

    dtype : {"float32", "float64"} or None, default=None
        Precision; None is that of X.

    random_state : int, RandomState instance or None, default=None
        Seed of the fit.

    verbose : int, default=0
        Print a line every `verbose` iterations.

    checkpoint : str, path or None, default=None
        File that keeps the state of the fit. Where it is there from a fit that was cut off, one of
        the same parameters and data goes on from it; at the end it is deleted. It needs a
        `random_state`, and is not for searches, whose fits would share the file.

    checkpoint_every : int, default=50
        Number of iterations between two states.

    Attributes
    ----------
    particles_ : ndarray of shape (n_restarts * n_particles, n_parameters)
        The cloud, in the coordinates of the user: `target_.parameter_names_`.

    target_ : Target
        The fitted copy of the target.

    kernel_ : Kernel, RieszKernel or None
        A copy of the kernel, None for the default flow.

    classes_ : ndarray of shape (n_classes,)
        The labels, with a classification model.

    spread_ratio_ : float
        :math:`-\frac{1}{nd} \sum_i s_i \cdot (x_i - \bar x)`, one where the particles are spread as
        the target is, below it where they are too close; the mean over restarts. NaN on a torus,
        and for densities of data, whose start is a sample already.

    fisher_ratio_ : float
        Sides of Fisher's identity, :math:`E|s|^2 = -E \operatorname{div} s`, over each other, in
        whitened coordinates: an identity that no flow uses. Below one particles sit on ridges of
        the density, above it they stray from them. NaN where `spread_ratio_` is, and where there
        are no more particles than dimensions.

    n_iter_ : int
        Number of steps of the last fit; `history_` goes on over warm starts.

    converged_ : bool
        Whether the stopping rule was met, which is no proof: see the notes.

    history_ : dict of ndarray
        A value a step: "objective" (the squared Stein discrepancy), "step" (rms displacement in
        unconstrained coordinates), "seconds".

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, when X has string column names.

    Raises
    ------
    ValueError
        When parameters, target and data do not fit together, or the log density is not finite at
        the start (the first such row is named).

    Warns
    -----
    ConvergenceWarning
        When the discrepancy was still falling at the end, or a score became NaN.
    UserWarning
        When the particles ended too close together or miss Fisher's identity, or there is only one;
        or when the fit was interrupted from the keyboard during its steps: the best state so far is
        kept. An interrupt before them, in the affine start, is raised.

    Notes
    -----
    What no figure here sees: a mode that has no particle, where the score of the others is right;
    and a sharply curved ridge, whose ends the default flow reaches late. Nor does a few times as
    many particles as dimensions suffice for skewed targets. Start particles in all modes by `init`,
    take restarts, or more particles, where such things are to be expected.

    See Also
    --------
    skwgf.targets : What to sample from.
    skwgf.kernels : Kernels of the classic flow.

    References
    ----------
    .. [1] Q. Liu, D. Wang. *Stein variational gradient descent: a general purpose Bayesian
       inference algorithm*. NeurIPS 2016, arXiv:1608.04471.
    .. [2] L. Chizat, M. Colombo, R. Colombo, X. Fernández-Real. *Quantitative Local Convergence of
       Mean-Field Stein Variational Gradient Flow*. arXiv:2605.09456.

    Examples
    --------
    A posterior, as a classifier:

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skwgf import SVGDSampler
    >>> from skwgf.targets import LogisticRegressionPosterior
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> sampler = SVGDSampler(LogisticRegressionPosterior(), random_state=0)
    >>> model = make_pipeline(StandardScaler(), sampler).fit(X, y)
    >>> model.predict_proba(X[:3]).shape
    (3, 2)
    """

    kernel_: Kernel | RieszKernel | None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseFlow._parameter_constraints,
        "target": [HasMethods(["fit", "grad_log_prob"]), callable, None],
        "kernel": [Kernel, RieszKernel, None],
        "optimizer": [StrOptions({"euler", "adagrad", "adam", "heun"}), None],
        "n_particles": [Interval(Integral, 1, None, closed="left"), None],
        "init": [StrOptions({"prior", "normal", "data"}), "array-like", None],
        "n_restarts": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "step_size": [Interval(Real, 0, None, closed="neither"), None],
        "tol": [Interval(Real, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        target: Target | None = None,
        *,
        kernel: Kernel | RieszKernel | None = None,
        optimizer: str | None = None,
        n_particles: int | None = None,
        init: Any = None,
        n_restarts: int = 1,
        batch_size: int | None = None,
        max_iter: int = 400,
        step_size: float | None = None,
        tol: float | None = None,
        warm_start: bool = False,
        device: str | torch.device | None = None,
        dtype: Any = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | bool = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 50,
    ) -> None:
        self.target = target
        self.kernel = kernel
        self.optimizer = optimizer
        self.n_particles = n_particles
        self.init = init
        self.n_restarts = n_restarts
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.step_size = step_size
        self.tol = tol
        self.warm_start = warm_start
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint
        self.checkpoint_every = checkpoint_every

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=False)
    @one_thread_in_pools
    def fit(self, X: Any, y: Any = None) -> Self:
        """Move the particles to the target.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data that the target is conditioned on; the starting cloud of a bare log density.

        y : array-like of shape (n_samples,), default=None
            Targets or labels, which models need and other targets ignore.

        Returns
        -------
        self : SVGDSampler
        """
        problem = self._pose(X, y)
        periodic = self._check_kernel(problem.target)
        warn_of_one_particle(len(problem.z) // self.n_restarts, type(self).__name__)
        self.kernel_ = None if self.kernel is None else clone(self.kernel)
        flow = stein_flow(
            problem.score_fn,
            problem.target,
            problem.z,
            kernel=self.kernel_,
            optimizer=self.optimizer,
            step_size=self.step_size,
            tol=self.tol,
            n_restarts=self.n_restarts,
            on_torus=periodic,
            affine=self._starts_far(),
        )
        self._run_particles(
            flow.carrier,
            problem.target,
            X=problem.X,
            y=problem.y,
            stop=flow.stop,
            remedies=(
                "Increase max_iter, or n_particles; a multimodal target may need init and "
                "n_restarts. ksd() and fisher_ratio_ tell how far off the cloud is."
            ),
        )
        return self

    def _check_kernel(self, target: Target) -> bool:
        """Tell whether the target lives on a torus; refuse a mixture, and a kernel that misfits."""
        periodic = on_torus(target)
        if not periodic and any(block.name == "torus" for block in target.support_.blocks):
            raise ValueError(
                "support mixes 'torus' with other columns, which no kernel of this sampler does. "
                "Sample the angles on their own, or give them support='interval'."
            )
        if self.kernel is not None and isinstance(self.kernel, RieszKernel) != periodic:
            raise ValueError(
                f"kernel={self.kernel!r} does not live where the target does: a torus takes a "
                "RieszKernel, all other supports take a kernel of skwgf.kernels."
            )
        return periodic
