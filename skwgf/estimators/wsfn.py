r"""Saddle-free Newton minimisation over laws of equally weighted particles.

.. math:: x_i \leftarrow x_i - \eta \, d_i, \qquad d = (H^2 + \beta I)^{-1/2} \, g
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context, clone
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags, Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from skwgf._tensor import (
    derive_seed,
    draw_seed,
    make_generator,
    tensor_to_array,
    to_numpy,
    to_tensor,
)
from skwgf._threads import one_thread_in_pools
from skwgf._warnings import caller_level
from skwgf.base import BaseFlow
from skwgf.estimators._functional_start import LEAST, part, start_cloud
from skwgf.estimators._particles import FLOW, START, ParticlesMixin
from skwgf.flows.newton import NewtonCarrier, check_start
from skwgf.functionals import MMD, Functional, as_functional


def _has(method: str) -> Callable[[Any], bool]:
    """Return a check for `available_if`: the functional is a model with that method."""

    def check(estimator: Any) -> bool:
        functional = estimator.functional
        known = getattr(functional, "estimator_type", None) is not None
        if method == "probability":
            known = known and functional.estimator_type == "classifier"
        if not (known and hasattr(functional, method)):
            raise AttributeError(
                f"This {type(estimator).__name__} has the functional {functional!r}, which does "
                "not predict. Use functionals.MeanFieldRisk, for instance."
            )
        return True

    return check


class WSFNOptimizer(ParticlesMixin, BaseFlow):
    r"""Minimiser of a functional of a law, by a saddle-free Newton method.

    n particles of equal weight go down a functional :math:`F(\mu)` with its Wasserstein gradient g
    and Hessian H [1]_,

    .. math:: x_i \leftarrow x_i - \eta \, d_i, \qquad d = (H^2 + \beta I)^{-1/2} \, g .

    The matrix is positive definite: steps go down, along negative curvature too, and leave a
    saddle at a rate that hardly depends on how flat it is. With its default functional this is a
    quantiser: `n_particles` points that stand for all rows of X in maximum mean discrepancy.

    Read more in the :ref:`User Guide <wsfn>`.

    Parameters
    ----------
    functional : Functional or callable, default=None
        What to minimise, see :mod:`skwgf.functionals`. One that learns from data is conditioned on
        X and y; for any other one X is the starting cloud. A torch function `f(particles)` or
        `f(particles, X)` will do. None is :class:`~skwgf.functionals.MMD`, the squared discrepancy
        from the rows of X, halved.

    n_particles : int or None, default=None
        Number of particles, at least 2. None is the number of rows of X where X is the starting
        cloud, else 100.

    init : {"data", "normal"}, array-like or None, default=None
        Where particles start: rows of X, as they are where X is the starting cloud and with noise
        where it is data; N(0, I); or an array of particles. None is "data" where X is the starting
        cloud, else draws of the functional (rows of X with noise; neurons).

    method : {"wsfn", "newton", "gradient", "perturbed"}, default="wsfn"
        Saddle-free Newton; Newton's method, which is drawn to saddles; gradient descent; or
        gradient descent with noise at saddles. The last three are there to compare with.

    beta : float or "auto", default="auto"
        Regularisation :math:`\beta`, in the unit of a squared curvature. "auto" is :math:`\frac1n
        \sum_i |g_i|^2 / r^2`, r the functional's `length_scale_`: no step is longer than r, and
        beta vanishes with the gradient, so that convergence is faster than linear.

    solver : {"auto", "eigh", "lanczos"}, default="auto"
        Decompose the dense Hessian, or apply its function by Lanczos, which takes memory linear in
        the number of coordinates. "auto" is "eigh" up to 300 coordinates.

    line_search : bool, default=True
        Whether steps are shortened until the functional falls (Armijo).

    max_step : float or None, default=None
        Longest way of a particle in one step.

    noise : {"isotropic", "hessian"}, default="isotropic"
        Noise of ``method="perturbed"``: white, or white with the Hessian applied to it.

    max_iter : int, default=200
        Largest number of steps.

    step_size : float, default=1.0
        The step :math:`\eta`: the first one tried, or that of all steps without a line search.

    tol : float, default=1e-7
        The run ends at a minimum to second order whose gradient has a root mean square of at most
        tol times the largest curvature times `length_scale_`.

    warm_start : bool, default=False
        Whether fit goes on from the particles of the previous fit.

    device : None, str or torch.device, default=None
        Where to compute: None is the CPU, "auto" the first accelerator.

    dtype : {"float32", "float64"} or None, default=None
        Precision; None is that of X. Second-order steps are at their best in float64.

    random_state : int, RandomState instance or None, default=None
        Seed of the start and of the kicks out of saddles.

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
    particles_ : ndarray of shape (n_particles, n_dim)
        The cloud.

    functional_ : Functional
        The fitted copy of the functional.

    classes_ : ndarray of shape (n_classes,)
        The labels, where the functional is the risk of a classifier.

    hessian_min_eig_ : float
        Smallest eigenvalue of the Hessian at the end (with Lanczos an upper bound, from a random
        start). A stationary cloud is a strict local minimum where it is positive.

    n_iter_ : int
        Number of steps of the last fit; `history_` goes on over warm starts.

    converged_ : bool
        Whether the gradient is small and no curvature negative beyond rounding.

    history_ : dict of ndarray
        A value a step: "objective" (the functional) and "gradient_norm" (root mean square) after
        it, "step" (root mean square displacement), "hessian_products", "seconds"; for "wsfn" and
        "newton" also "beta" and "smallest_ritz" before it, the smallest eigenvalue of the Hessian
        that was seen.

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, when X has string column names.

    Raises
    ------
    ValueError
        When parameters, functional and data do not fit together, there are fewer than two
        particles, or the functional is not finite or not twice differentiable at the start.
    TypeError
        When `functional` is neither a functional nor a function of torch tensors.

    Warns
    -----
    ConvergenceWarning
        When the functional was still falling at the end, the run ended at a saddle or where no step
        leads down, or NaN was met.
    UserWarning
        When particles of the start coincide, which are parted by noise; or when the fit was
        interrupted from the keyboard: the best state so far is kept.

    Notes
    -----
    A minimum is a local one. Discrepancies with short-ranged kernels have local minima with too
    many particles in one cluster, which no curvature betrays: compare fits from several seeds, or
    take a wider kernel. A fixed small `beta` makes long first steps, into the flat tails of such a
    functional; "auto" does not.

    See Also
    --------
    skwgf.functionals : What to minimise.
    skwgf.flows.newton.minimize : The same for torch tensors.

    References
    ----------
    .. [1] R. Lascu, T. Suzuki. *From Saddle Points Toward Global Minima: A Newton-Type Method on
       Wasserstein Space*. arXiv:2605.17963.

    Examples
    --------
    Twenty points that stand for five hundred:

    >>> import numpy as np
    >>> from skwgf import WSFNOptimizer
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> quantiser = WSFNOptimizer(n_particles=20, random_state=0).fit(X)
    >>> quantiser.particles_.shape, quantiser.hessian_min_eig_ > 0
    ((20, 2), True)
    >>> float(quantiser.history_["objective"][-1]) < 0.01
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseFlow._parameter_constraints,
        "functional": [HasMethods(["fit", "expand"]), callable, None],
        "n_particles": [Interval(Integral, LEAST, None, closed="left"), None],
        "init": [StrOptions({"data", "normal"}), "array-like", None],
        "method": [StrOptions({"wsfn", "newton", "gradient", "perturbed"})],
        "beta": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "solver": [StrOptions({"auto", "eigh", "lanczos"})],
        "line_search": ["boolean"],
        "max_step": [Interval(Real, 0, None, closed="neither"), None],
        "noise": [StrOptions({"isotropic", "hessian"})],
    }

    functional_: Functional
    particles_: NDArray[Any]
    hessian_min_eig_: float
    _cloud: Tensor

    def __init__(
        self,
        functional: Functional | Callable[..., Tensor] | None = None,
        *,
        n_particles: int | None = None,
        init: Any = None,
        method: str = "wsfn",
        beta: float | str = "auto",
        solver: str = "auto",
        line_search: bool = True,
        max_step: float | None = None,
        noise: str = "isotropic",
        max_iter: int = 200,
        step_size: float = 1.0,
        tol: float = 1e-7,
        warm_start: bool = False,
        device: str | torch.device | None = None,
        dtype: Any = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | bool = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 50,
    ) -> None:
        self.functional = functional
        self.n_particles = n_particles
        self.init = init
        self.method = method
        self.beta = beta
        self.solver = solver
        self.line_search = line_search
        self.max_step = max_step
        self.noise = noise
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

    def __sklearn_tags__(self) -> Tags:
        """Return tags that follow the functional: the risk of a classifier is one, and so on."""
        tags: Tags = super().__sklearn_tags__()
        kind = self._kind()
        if kind == "classifier":
            tags.estimator_type, tags.classifier_tags = kind, ClassifierTags()
        elif kind == "regressor":
            tags.estimator_type, tags.regressor_tags = kind, RegressorTags()
        elif self.functional is None or getattr(self.functional, "learns_from_data", False):
            tags.estimator_type = "density_estimator"
        tags.target_tags.required = kind is not None
        return tags

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels of a classifier, sorted."""
        classes: NDArray[Any] = self.functional_.classes_
        return classes

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=False)
    @one_thread_in_pools
    def fit(self, X: Any, y: Any = None) -> Self:
        """Move the particles to a minimum.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data that the functional is conditioned on; the starting cloud of one without data.

        y : array-like of shape (n_samples,), default=None
            Targets or labels, which risks need and other functionals ignore.

        Returns
        -------
        self : WSFNOptimizer
        """
        X, targets = self._validated(X, y)
        device, dtype = self._resolve(X)
        functional = self._posed().fit(X, targets, device=device, dtype=dtype)
        seed = draw_seed(self.random_state)
        z = self._start(functional, X, make_generator(derive_seed(seed, START)))
        generator = make_generator(derive_seed(seed, FLOW))
        check_start(functional, z, generator)
        carrier = NewtonCarrier(
            functional,
            z,
            generator=generator,
            method=self.method,
            beta=self.beta,
            solver=self.solver,
            step_size=self.step_size,
            line_search=self.line_search,
            max_step=self.max_step,
            noise=self.noise,
            tol=self.tol,
        )

        def fitted() -> dict[str, Any]:
            return {
                "functional_": functional,
                "particles_": to_numpy(carrier.particles),
                "_cloud": carrier.particles.clone(),
            }

        self._run(
            carrier,
            X=X,
            y=targets,
            fitted=fitted,
            stop=lambda history: carrier.verdict is not None,
            remedies="Increase max_iter, or accept a larger tol.",
        )
        self.converged_ = carrier.verdict == "converged"
        self.hessian_min_eig_ = float(carrier.extremes().values[0])
        self._warn_of(carrier.verdict)
        return self

    @one_thread_in_pools
    def score(self, X: Any, y: Any = None) -> float:
        """Return how well the particles do; higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        y : array-like of shape (n_samples,), default=None
            Targets or labels, which risks need.

        Returns
        -------
        float
            Risk of a model: accuracy of a classifier, R^2 of a regression, as everywhere in
            scikit-learn. Other functionals of data: minus the functional of the particles,
            conditioned on X. Functionals without data: minus the functional, whatever X.
        """
        check_is_fitted(self, "particles_")
        kind = self._kind()
        if kind == "classifier":
            return float(accuracy_score(y, self.predict(X)))
        if kind == "regressor":
            return float(r2_score(y, self.predict(X)))
        X = self._validate(X, reset=False)
        functional = self.functional_
        if functional.learns_from_data:
            functional = clone(functional).fit(
                X, tensor_to_array(y), device=functional.device_, dtype=functional.dtype_
            )
        return -float(functional.value(self._cloud))

    @available_if(_has("outputs"))
    def predict(self, X: Any) -> NDArray[Any]:
        """Return what the network of the particles predicts.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        ndarray of shape (n_samples,)
            Values of a regression, or the most probable labels.
        """
        check_is_fitted(self, "particles_")
        if self._kind() == "classifier":
            labels: NDArray[Any] = self.classes_[self.predict_proba(X).argmax(1)]
            return labels
        outputs = to_numpy(self._evaluated("outputs", X))
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs

    @available_if(_has("probability"))
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return the probability of each class.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of `classes_`.
        """
        check_is_fitted(self, "particles_")
        return to_numpy(self._evaluated("probability", X))

    def _kind(self) -> str | None:
        """Return "classifier" or "regressor" where the functional is the risk of a model."""
        kind: str | None = getattr(self.functional, "estimator_type", None)
        return kind

    def _evaluated(self, method: str, X: Any) -> Tensor:
        """Return what a method of the functional gives for the particles and rows."""
        functional = self.functional_
        rows = to_tensor(
            self._validate(X, reset=False), device=functional.device_, dtype=functional.dtype_
        )
        result: Tensor = getattr(functional, method)(self._cloud, rows)
        return result

    def _validated(self, X: Any, y: Any) -> tuple[NDArray[Any], Any]:
        """Return X and y, checked as the functional needs them."""
        kind = self._kind()
        if kind is None:
            # Not looked at here: sums may hold a risk, which checks what it needs.
            return self._validate(X, reset=True), tensor_to_array(y)
        X, y = validate_data(
            self,
            tensor_to_array(X),
            tensor_to_array(y),
            dtype=[np.float64, np.float32],
            y_numeric=kind == "regressor",
            reset=True,
        )
        if kind == "classifier":
            check_classification_targets(y)
        return X, y

    def _posed(self) -> Functional:
        """Return an unfitted copy of the functional."""
        if self.functional is None:
            return MMD()
        copy: Functional = clone(as_functional(self.functional))
        return copy

    def _start(self, functional: Functional, X: NDArray[Any], generator: torch.Generator) -> Tensor:
        """Return the cloud to start from, without particles on one spot."""
        z = start_cloud(
            functional,
            X,
            earlier=self._cloud if self._goes_on() else None,
            init=self.init,
            n_particles=self.n_particles,
            generator=generator,
        )
        if len(z) < LEAST:
            raise ValueError(
                f"{type(self).__name__} needs at least {LEAST} particles, got {len(z)} (X with "
                f"n_samples = {len(X)}). Pass more rows, or n_particles with init='normal'."
            )
        parted, n_moved, amount = part(z, functional.length_scale_, generator)
        if n_moved:
            _warn(
                f"{n_moved} of the particles that {type(self).__name__} starts from are on one "
                "spot with others and would stay there for ever: they are parted by noise of size "
                f"{amount:.2g}.",
                UserWarning,
            )
        return parted

    def _warn_of(self, verdict: str | None) -> None:
        """Warn about a run that ended where it is no minimum."""
        name = type(self).__name__
        if verdict == "saddle":
            _warn(
                f"{name} ended at a saddle: the smallest curvature is "
                f"{self.hessian_min_eig_:.2g}. "
                + (
                    "No step along it was found to lead down; other starts may do better."
                    if self.method == "wsfn"
                    else "method='wsfn' leaves saddles."
                ),
                ConvergenceWarning,
            )
        elif verdict == "stalled":
            _warn(
                f"{name} found no step that lowers the functional after {self.n_iter_} iterations, "
                f"at a gradient of {self.history_['gradient_norm'][-1]:.2g}: the functional is "
                "flat to the last digit, has a kink or a wrong gradient. Use dtype='float64', "
                "rescale the data, smooth the functional, or start elsewhere.",
                ConvergenceWarning,
            )


def _warn(message: str, category: type[Warning]) -> None:
    """Warn the user, on the line that called into the package."""
    warnings.warn(message, category, stacklevel=caller_level())
