r"""Generalised Wasserstein gradient flow: particles that follow a learnt residual.

.. math:: \dot x = \nabla g^*(r(x)), \qquad r = \nabla\log\pi - \nabla\log\rho
"""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skwgf._tensor import draw_seed, make_generator
from skwgf._threads import one_thread_in_pools
from skwgf.base import BaseFlow
from skwgf.estimators._importance import ImportanceSample, weigh
from skwgf.estimators._predictions import PredictionMixin
from skwgf.estimators._residual_flow import check_widths, residual_flow
from skwgf.estimators._sampler import SamplerMixin
from skwgf.flows.frozen import FlowMap
from skwgf.flows.regularizers import LpCost, Regularizer
from skwgf.targets import Target

_FEWEST = 10  # particles of a cloud that a network can be trained on


class GWGSampler(PredictionMixin, SamplerMixin, BaseFlow):
    r"""Sampler by the generalised Wasserstein gradient flow.

    n particles of the law :math:`\rho` follow the steepest descent of the Kullback-Leibler
    divergence from the target :math:`\pi`, where a convex function g says what a velocity costs,

    .. math:: \dot x = \nabla g^*(r(x)), \qquad r = \nabla\log\pi - \nabla\log\rho, \qquad
        \frac{d}{dt} \mathrm{KL} = -\mathbb{E}_\rho \bigl[ r \cdot \nabla g^*(r) \bigr] .

    The residual r maximises :math:`\mathbb{E}_\rho [ f \cdot \nabla\log\pi + \operatorname{div} f -
    |f|^2 / 2 ]`, which needs no density of the cloud: a network is fitted to it at every step, by a
    few optimiser steps for its hidden layers, with the exact divergence, and a linear solve for the
    last one. The default flow takes an affine start and works in coordinates whitened by the
    running covariance.

    Read more in the :ref:`User Guide <gwg>`.

    Parameters
    ----------
    target : Target, default=None
        What to sample from, see :mod:`skwgf.targets`. A model is conditioned on X and y; a bare log
        density takes X as the starting cloud; None is the law of the rows of X,
        :class:`~skwgf.targets.KernelDensityTarget`.

    regularizer : {"lp", "quadratic", "huber"} or Regularizer, default="lp"
        The cost g: :math:`|f|_p^p / p`; the quadratic one that weighs coordinates by the inverse
        variances of the start (in "raw" `coordinates`; in the others all are one); one that bounds
        the pull on stray particles; or an object of :mod:`skwgf.flows.regularizers`.

    p : float, default=2.0
        Exponent of "lp", above 1; where it starts, with an `exponent_rule`.

    exponent_rule : {"dissipation", "conjugate", "frozen"} or None, default=None
        What the exponent of "lp" climbs while particles move, named by the quantity whose
        derivative in p is followed: :math:`E|r|_q^q`; :math:`E|r|_q^q / q`;
        :math:`E|f|_p^p / p` at the present velocities f. None leaves p as it is. "dissipation" with
        "raw" `coordinates` brings particles into heavy tails in fewer steps; in "whitened" ones
        p = 2 is best.

    exponent_rate : float, default=1.0
        Step of the exponent along the derivative per coordinate.

    exponent_range : tuple of (float, float), default=(2.0, 6.0)
        Least and largest exponent, above 1. Below 2 the long residuals of particles that are far
        away make steps that overshoot: rules that may go there did worse than p = 2.

    parametrization : {"residual", "direct"}, default="residual"
        What the network learns: r, to which the gradient of g* is applied, or the velocity itself.

    coordinates : {"whitened", "raw"}, default="whitened"
        Where g measures velocities: in coordinates of unit covariance, or in those of the target.

    hidden_layer_sizes : tuple of int or None, default=None
        Widths of the network's hidden layers, at most three; () is an affine field. None is
        (32, n/5), the second within 8 and 100, () for clouds of fewer than two particles per
        dimension, and (32, 32) with "direct".

    activation : {"tanh", "silu"}, default="tanh"
        Activation of the hidden layers.

    last_layer : {"solved", "trained"} or None, default=None
        Whether the last layer is solved for or trained with the rest. None is "solved", and
        "trained" with "direct", which has no other.

    score_skip : bool or None, default=None
        Whether the score is added to the output of the network, which then learns
        :math:`-\nabla\log\rho`. None does so where there are fewer than two particles per
        dimension.

    learning_rate : float, default=3e-3
        Of the optimiser of the network, Adam.

    first_inner_steps, inner_steps : int, default=100, 10
        Largest number of optimiser steps at the first step of the flow, and at each later one.

    held_out : float, default=0.2
        Share of the particles that are not trained on, chosen anew at each step, and say when to
        stop, in [0, 0.5].

    clip_quantile : float, default=0.99
        Residuals longer than this quantile of their lengths are cut to it.

    optimizer : {"euler", "adam", "rmsprop"} or None, default=None
        How particles follow the velocity: as it is, with step control; or divided by a running size
        of it. None is "euler", and "adam" where there are fewer than two particles per dimension.

    n_particles : int or None, default=None
        Number of particles of each cloud, at least 10. None is the number of rows of X where X is
        the starting cloud, else 200.

    init : {"prior", "normal", "data"}, array-like or None, default=None
        Where particles start: draws of the prior, or rows of a density's data with noise: "prior";
        N(0, I); rows of X, for bare log densities; or an array of particles, taken as they are,
        without the affine start. With restarts it holds all clouds, one after the other. None is
        "data" for bare log densities and "prior" else.

    n_restarts : int, default=1
        Number of independent clouds; `particles_` holds all of them, one after the other.

    batch_size : int or None, default=None
        Number of data rows of a score, with the likelihood scaled up. All of `max_iter` is run
        then, and the steps shrink over its last 40 per cent. None takes all rows.

    track_density : bool, default=False
        Whether the cloud starts from a Gaussian law, of the mean and the covariance of the affine
        start, and its steps are kept, so that :meth:`importance_sample` can tell the density that
        the flow ended with. With p above 2 steps fold the space where r = 0, which is warned of.

    max_iter : int, default=400
        Largest number of steps; each costs one evaluation of the score. The affine start before
        them takes up to a hundred more.

    step_size : float or None, default=None
        Step in flow time; with Adam and RMSProp the length of a step of a coordinate. None is 0.15
        (0.03 with `batch_size`), and 0.01 with these two.

    tol : float or None, default=None
        The Stein energy at which the flow stops; None is
        :func:`~skwgf.flows.whitened.stopping_level`. Where there are fewer than two particles per
        dimension nothing tells, and all of `max_iter` is run, with steps that shrink over its last
        40 per cent.

    warm_start : bool, default=False
        Whether fit goes on from the particles of the previous fit.

    device : None, str or torch.device, default=None
        Where to compute: None is the CPU, "auto" the first accelerator.

    dtype : {"float32", "float64"} or None, default=None
        Precision of the particles; None is that of X. Networks are of single precision.

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

    networks_ : list of torch.nn.Module
        The network of each cloud, in whitened coordinates; with "solved" the hidden layers only
        matter.

    classes_ : ndarray of shape (n_classes,)
        The labels, with a classification model.

    exponent_ : float
        The exponent at the end, of the first cloud; NaN for other costs.

    spread_ratio_, fisher_ratio_ : float
        Figures of the cloud, one on the target; see :class:`~skwgf.SVGDSampler`.

    n_iter_ : int
        Number of steps of the last fit; `history_` goes on over warm starts.

    converged_ : bool
        Whether the stopping rule was met.

    history_ : dict of ndarray
        A value a step: "objective" (the Stein energy: a squared kernel Stein discrepancy over its
        mean for independent draws; the dissipation where there are fewer than two particles per
        dimension), "dissipation" (of KL, as the network sees it), "exponent" (with "lp"), "step"
        (rms displacement in unconstrained coordinates), "seconds".

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, when X has string column names.

    Raises
    ------
    ValueError
        When parameters, target and data do not fit together, there are fewer than 10 particles, or
        the log density is not finite at the start (the first such row is named).

    Warns
    -----
    ConvergenceWarning
        When the flow was still moving at the end, or a score became NaN.
    RuntimeWarning
        When a fit of the network was not finite: its weights are restored, and its rate lowered.
    UserWarning
        When the particles ended too close together or miss Fisher's identity; or when the fit was
        interrupted from the keyboard: the best state so far is kept.

    See Also
    --------
    SVGDSampler : Another flow of the same energy, without a network.
    skwgf.targets : What to sample from.

    References
    ----------
    .. [1] Z. Cheng, S. Zhang, L. Yu, C. Zhang. *Particle-based variational inference with
       generalized Wasserstein gradient flow*. NeurIPS 2023, arXiv:2310.16516.

    Examples
    --------
    A posterior, as a regressor with intervals:

    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skwgf import GWGSampler
    >>> from skwgf.targets import LinearRegressionPosterior
    >>> X, y = load_diabetes(return_X_y=True)
    >>> sampler = GWGSampler(LinearRegressionPosterior(), random_state=0)
    >>> model = make_pipeline(StandardScaler(), sampler).fit(X, y)
    >>> mean, low_high = model.predict(X[:3], interval=0.9)
    >>> mean.shape, low_high.shape
    ((3,), (3, 2))
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseFlow._parameter_constraints,
        "target": [HasMethods(["fit", "grad_log_prob"]), callable, None],
        "regularizer": [
            StrOptions({"lp", "quadratic", "huber"}),
            HasMethods(["gradient", "conjugate_gradient"]),
        ],
        "p": [Interval(Real, 1, None, closed="neither")],
        "exponent_rule": [StrOptions({"dissipation", "conjugate", "frozen"}), None],
        "exponent_rate": [Interval(Real, 0, None, closed="neither")],
        "exponent_range": [tuple, list],
        "parametrization": [StrOptions({"residual", "direct"})],
        "coordinates": [StrOptions({"whitened", "raw"})],
        "hidden_layer_sizes": [tuple, list, None],
        "activation": [StrOptions({"tanh", "silu"})],
        "last_layer": [StrOptions({"solved", "trained"}), None],
        "score_skip": ["boolean", None],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "first_inner_steps": [Interval(Integral, 1, None, closed="left")],
        "inner_steps": [Interval(Integral, 1, None, closed="left")],
        "held_out": [Interval(Real, 0, 0.5, closed="both")],
        "clip_quantile": [Interval(Real, 0, 1, closed="right")],
        "optimizer": [StrOptions({"euler", "adam", "rmsprop"}), None],
        "n_particles": [Interval(Integral, 1, None, closed="left"), None],
        "init": [StrOptions({"prior", "normal", "data"}), "array-like", None],
        "n_restarts": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "track_density": ["boolean"],
        "step_size": [Interval(Real, 0, None, closed="neither"), None],
        "tol": [Interval(Real, 0, None, closed="left"), None],
    }

    def __init__(
        self,
        target: Target | None = None,
        *,
        regularizer: str | Regularizer = "lp",
        p: float = 2.0,
        exponent_rule: str | None = None,
        exponent_rate: float = 1.0,
        exponent_range: tuple[float, float] = (2.0, 6.0),
        parametrization: str = "residual",
        coordinates: str = "whitened",
        hidden_layer_sizes: tuple[int, ...] | None = None,
        activation: str = "tanh",
        last_layer: str | None = None,
        score_skip: bool | None = None,
        learning_rate: float = 3e-3,
        first_inner_steps: int = 100,
        inner_steps: int = 10,
        held_out: float = 0.2,
        clip_quantile: float = 0.99,
        optimizer: str | None = None,
        n_particles: int | None = None,
        init: Any = None,
        n_restarts: int = 1,
        batch_size: int | None = None,
        track_density: bool = False,
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
        self.regularizer = regularizer
        self.p = p
        self.exponent_rule = exponent_rule
        self.exponent_rate = exponent_rate
        self.exponent_range = exponent_range
        self.parametrization = parametrization
        self.coordinates = coordinates
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.last_layer = last_layer
        self.score_skip = score_skip
        self.learning_rate = learning_rate
        self.first_inner_steps = first_inner_steps
        self.inner_steps = inner_steps
        self.held_out = held_out
        self.clip_quantile = clip_quantile
        self.optimizer = optimizer
        self.n_particles = n_particles
        self.init = init
        self.n_restarts = n_restarts
        self.batch_size = batch_size
        self.track_density = track_density
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
        self : GWGSampler
        """
        problem = self._pose(X, y)
        self._check(problem.target, len(problem.z) // self.n_restarts)
        check_widths(self.hidden_layer_sizes)
        built = residual_flow(
            problem.score_fn,
            problem.target.grad_log_prob,
            problem.z,
            regularizer=self.regularizer,
            p=self.p,
            exponent_rule=self.exponent_rule,
            exponent_rate=self.exponent_rate,
            exponent_range=tuple(self.exponent_range),
            parametrization=self.parametrization,
            coordinates=self.coordinates,
            hidden_layer_sizes=self.hidden_layer_sizes,
            activation=self.activation,
            last_layer=self.last_layer,
            score_skip=self.score_skip,
            learning_rate=self.learning_rate,
            first_inner_steps=self.first_inner_steps,
            inner_steps=self.inner_steps,
            held_out=self.held_out,
            clip_quantile=self.clip_quantile,
            optimizer=self.optimizer,
            step_size=self.step_size,
            tol=self.tol,
            max_iter=self.max_iter,
            n_restarts=self.n_restarts,
            affine=self._starts_far(),
            track_density=self.track_density,
            seed=problem.seed,
        )
        if self.track_density:  # the cloud was drawn anew
            problem.target.check_start(built.flow.carrier.particles)
        self._run_particles(
            built.flow.carrier,
            problem.target,
            X=problem.X,
            y=problem.y,
            stop=built.flow.stop,
            remedies=(
                "Increase max_iter, or n_particles; a multimodal target may need init and "
                "n_restarts. ksd() and fisher_ratio_ tell how far off the cloud is."
            ),
        )
        costs = [field.cost for field in built.fields]
        self.exponent_ = costs[0].p if isinstance(costs[0], LpCost) else float("nan")
        self.networks_ = [field.network for field in built.fields]
        self._flow_map = built.flow_map()
        return self

    def importance_sample(
        self, n_samples: int = 1000, *, random_state: int | np.random.RandomState | None = None
    ) -> ImportanceSample:
        r"""Draw afresh from the law that the flow ended with, with weights to the target.

        Points of the Gaussian law that the flow started with are taken along its steps, and the
        logarithm of their density with them, by the determinants of the steps. Unlike `particles_`
        they are independent, and their weights :math:`\tilde\pi(x) / q(x)` make any average that of
        the target; the mean weight is the evidence, the integral of the density
        :math:`\tilde\pi` that the target has, up to the constants that it leaves out.

        Parameters
        ----------
        n_samples : int, default=1000
            Number of draws, at least 25.

        random_state : int, RandomState instance or None, default=None
            Seed of the draws. None draws afresh at every call.

        Returns
        -------
        ImportanceSample

        Raises
        ------
        ValueError
            If the sampler was not fitted with `track_density=True`, or `n_samples` is too small.

        Examples
        --------
        The integral of an unnormalised Gaussian density:

        >>> import numpy as np
        >>> from skwgf import GWGSampler
        >>> from skwgf.targets import LogDensity
        >>> bell = LogDensity(lambda x: -0.5 * x.square().sum(1))
        >>> start = np.random.default_rng(0).normal(size=(200, 2))
        >>> sampler = GWGSampler(bell, track_density=True, random_state=0).fit(start)
        >>> draws = sampler.importance_sample(random_state=0)
        >>> round(draws.log_evidence, 1), round(float(np.log(2 * np.pi)), 1)
        (1.8, 1.8)
        """
        check_is_fitted(self, "particles_")
        flow_map: FlowMap | None = self._flow_map
        if flow_map is None:
            raise ValueError(
                "importance_sample needs the steps of the flow: fit with track_density=True."
            )
        generator = make_generator(draw_seed(random_state))
        return weigh(self.target_, flow_map, n_samples, generator)

    def _check(self, target: Target, n: int) -> None:
        """Refuse what the flow cannot do."""
        if n < _FEWEST:
            raise ValueError(
                f"A network cannot be trained on a cloud of {n} particles: {type(self).__name__} "
                f"needs {_FEWEST} at least. Set n_particles, 200 for instance, or use SVGDSampler."
            )
        if any(block.name == "torus" for block in target.support_.blocks):
            raise ValueError(
                "support='torus' has no residual flow here. Use SVGDSampler, or give the angles "
                "support='interval'."
            )
        if self.exponent_rule is not None and self.regularizer != "lp":
            raise ValueError(
                f"exponent_rule={self.exponent_rule!r} moves the exponent of regularizer='lp', "
                f"got {self.regularizer!r}. Use 'lp', or exponent_rule=None."
            )
