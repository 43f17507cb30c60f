"""What the samplers share: the target, the starting cloud, draws from the particles, figures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import ClassifierTags, RegressorTags, Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from skwgf._tensor import (
    derive_seed,
    draw_seed,
    make_generator,
    tensor_to_array,
    to_numpy,
)
from skwgf._threads import one_thread_in_pools
from skwgf._warnings import caller_level
from skwgf.estimators._clouds import Minibatches
from skwgf.estimators._particles import FLOW, START, ParticlesMixin
from skwgf.estimators._sampler_start import start_cloud
from skwgf.flows import FlowResult, ParticleCarrier
from skwgf.flows.stein import ksd_squared
from skwgf.flows.torus import TorusVelocity
from skwgf.flows.whitened import fisher_ratio
from skwgf.kernels import InverseMultiquadric, Kernel, RieszKernel
from skwgf.targets import KernelDensityTarget, Target

# A spread ratio that deserves a word.
_LEAST_SPREAD = 0.85
_LEAST_FISHER, _MOST_FISHER = 0.7, 1.4


def estimator_type(target: Target | None) -> str | None:
    """Return "regressor" or "classifier" for a model, "density" for a law of data, or None."""
    if target is None:
        return "density"
    kind: str | None = getattr(target, "estimator_type", None)
    return kind or ("density" if target.learns_from_data else None)


def on_torus(target: Target) -> bool:
    """Tell whether all columns of a fitted target are angles."""
    return all(block.name == "torus" for block in target.support_.blocks)


class Problem(NamedTuple):
    """What a sampler has to do: checked data, fitted target, starting cloud, score and seed."""

    X: NDArray[Any]
    y: Any
    target: Target
    z: Tensor
    score_fn: Callable[[Tensor], Tensor]
    seed: int


class SamplerMixin(ParticlesMixin):
    """The life of `particles_` between the target and the user."""

    target: Target | None
    n_particles: int | None
    init: Any
    n_restarts: int
    batch_size: int | None
    random_state: int | np.random.RandomState | None
    dtype: Any
    spread_ratio_: float
    fisher_ratio_: float
    target_: Target
    particles_: NDArray[Any]
    _cloud: Tensor
    _validate: Callable[..., NDArray[Any]]
    _resolve: Callable[..., tuple[torch.device, torch.dtype]]
    _goes_on: Callable[[], bool]
    _run: Callable[..., FlowResult]
    predict: Callable[..., Any]

    def __sklearn_tags__(self) -> Tags:
        """Return tags that follow the target: a model of labels is a classifier, and so on."""
        tags: Tags = super().__sklearn_tags__()  # type: ignore[misc]
        kind = estimator_type(self.target)
        if kind == "classifier":
            tags.estimator_type, tags.classifier_tags = kind, ClassifierTags()
        elif kind == "regressor":
            tags.estimator_type, tags.regressor_tags = kind, RegressorTags()
        elif kind == "density":
            tags.estimator_type = "density_estimator"
        tags.target_tags.required = kind in ("classifier", "regressor")
        return tags

    def ksd(self, *, kernel: Kernel | RieszKernel | None = None) -> float:
        r"""Return the kernel Stein discrepancy of the particles from the target.

        Parameters
        ----------
        kernel : Kernel or RieszKernel, default=None
            None is :math:`(1 + |z - z'|^2)^{-1/2}`, the same for all fits, so that they compare;
            ``InverseMultiquadric("scale")`` suits a target of another scale better. It acts in the
            coordinates that the target is sampled in. On a torus it is a RieszKernel, None the one
            of order (d + 3) / 2.

        Returns
        -------
        float
            At least 0. Independent draws of the target have about :math:`1/\sqrt n` times the root
            of the mean of :math:`k_\pi(z, z)`, see :func:`skwgf.metrics.ksd`.
        """
        check_is_fitted(self, "particles_")
        return math.sqrt(self._ksd_squared(kernel))

    def _ksd_squared(self, kernel: Kernel | RieszKernel | None = None) -> float:
        """Return KSD^2 of the particles."""
        z, score_fn = self._cloud, self.target_.grad_log_prob
        if on_torus(self.target_):
            field = TorusVelocity(score_fn, z.shape[1], cast("RieszKernel | None", kernel))
            return max(field(z).energy, 0.0)
        kernel = cast(Kernel, kernel) if kernel is not None else InverseMultiquadric(1.0)
        return float(ksd_squared(z, score_fn(z), kernel.resolve(z)))

    def _run_particles(
        self, carrier: ParticleCarrier, target: Target, *, X: NDArray[Any], y: Any, **options: Any
    ) -> None:
        """Run the loop on the particles, set the fitted attributes, and look at their spread."""

        def fitted() -> dict[str, Any]:
            z = carrier.particles
            return {
                "target_": target,
                "particles_": to_numpy(target.constrain(z)),
                "_cloud": z.clone(),
            }

        self._run(carrier, X=X, y=y, fitted=fitted, **options)
        self._judge(target)

    def _judge(self, target: Target) -> None:
        """Set the figures of the cloud, and warn where they are off."""
        self.spread_ratio_ = self.fisher_ratio_ = math.nan
        name, cloud = type(self).__name__, self._cloud
        scores = target.grad_log_prob(cloud)
        lost = ~(scores.isfinite().all(1) & target.log_prob(cloud).isfinite())
        if bool(lost.any()):
            k = int(lost.nonzero()[0, 0])
            _warn(
                f"The log density or its score is not finite at particle {k} of {name}, "
                f"{self.particles_[k].tolist()}: the flow cannot go on from there. Declare the "
                "support of the target, or reduce step_size."
            )
            return
        if on_torus(target) or estimator_type(self.target) == "density":
            return
        clouds = torch.tensor_split(cloud, self.n_restarts)
        parts = torch.tensor_split(scores, self.n_restarts)
        self.spread_ratio_ = _mean(map(spread_ratio, clouds, parts))
        if len(clouds[0]) > 1 and self.spread_ratio_ < _LEAST_SPREAD:
            _warn(
                f"The particles of {name} are closer together than the target's law: their spread "
                f"ratio is {self.spread_ratio_:.2g}, not 1. The default flow with more particles "
                "than dimensions keeps the spread; more iterations may."
            )
            return
        flat = any(bool((z.std(0, correction=0) == 0).any()) for z in clouds)
        if flat or len(clouds[0]) <= cloud.shape[1]:  # no covariance to whiten by
            return
        coins = make_generator(0)
        self.fisher_ratio_ = _mean(
            fisher_ratio(target.grad_log_prob, z, generator=coins) for z in clouds
        )
        if not _LEAST_FISHER < self.fisher_ratio_ < _MOST_FISHER:
            _warn(
                f"The particles of {name} miss Fisher's identity: the ratio of its sides is "
                f"{self.fisher_ratio_:.2g}, not 1. They stray from ridges of the target, or sit on "
                "them; or its density has kinks, where the identity does not hold. More than these "
                f"{len(clouds[0])} particles help, and so does a narrower prior or a "
                "parametrisation with fewer ridges."
            )

    @one_thread_in_pools
    def score(self, X: Any, y: Any = None) -> float:
        """Return how well the particles do; higher is better.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        y : array-like of shape (n_samples,), default=None
            Targets or labels, which models need.

        Returns
        -------
        float
            Model: accuracy of a classifier, R^2 of a regression, as everywhere in scikit-learn; see
            :meth:`log_predictive_density` for the figure that judges the spread as well. Density
            of data: mean log density of X under a kernel density of the particles. Bare log
            density: minus the squared kernel Stein discrepancy of :meth:`ksd`, whatever X.
        """
        check_is_fitted(self, "particles_")
        kind = estimator_type(self.target)
        if kind == "classifier":
            return float(accuracy_score(y, self.predict(X)))
        if kind == "regressor":
            return float(r2_score(y, self.predict(X)))
        if kind == "density":
            return float(self._log_density(X).mean())
        self._validate(X, reset=False)
        return -self._ksd_squared()

    def _log_density(self, X: Any) -> NDArray[Any]:
        """Return the log density of each row under a kernel density of the particles."""
        X = self._validate(X, reset=False)
        density = KernelDensityTarget().fit(self.particles_)
        return density.score_samples(X.astype(self.particles_.dtype, copy=False))

    def _validated(self, X: Any, y: Any) -> tuple[NDArray[Any], Any]:
        """Return X and y, checked as the target needs them."""
        kind = estimator_type(self.target)
        if kind not in ("classifier", "regressor"):
            return self._validate(X, reset=True), None
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

    def _pose(self, X: Any, y: Any) -> Problem:
        """Return the checked data, the fitted target, and the cloud to start from."""
        if isinstance(self.target, type):
            name = self.target.__name__
            raise TypeError(f"target is the class {name}: pass an instance of it, {name}().")
        if callable(self.target):
            raise TypeError(
                "target is a function: wrap it, target=LogDensity(fn), see skwgf.targets."
            )
        X, y = self._validated(X, y)
        device, dtype = self._resolve(X)
        seed = draw_seed(self.random_state)
        target = self._posed(X, y, device, dtype)
        generator = make_generator(derive_seed(seed, START))
        z = start_cloud(
            target,
            X,
            earlier=self._cloud if self._goes_on() else None,
            init=self.init,
            n_particles=self.n_particles,
            n_restarts=self.n_restarts,
            generator=generator,
        )
        target.check_start(z)
        score_fn: Callable[[Tensor], Tensor] = target.grad_log_prob
        if self.batch_size is not None:
            if target.n_rows_ is None:
                raise ValueError(
                    f"batch_size={self.batch_size} takes rows of data, of which a bare log density "
                    "has none. Leave it out."
                )
            if self.batch_size < target.n_rows_:
                score_fn = Minibatches(target, self.batch_size, derive_seed(seed, FLOW))
        return Problem(X, y, target, z, score_fn, seed)

    def _starts_far(self) -> bool:
        """Tell whether the start may be far from the target: it is no sample, and not chosen."""
        chosen = self._goes_on() or not (self.init is None or isinstance(self.init, str))
        return estimator_type(self.target) != "density" and not chosen

    def _posed(self, X: NDArray[Any], y: Any, device: torch.device, dtype: torch.dtype) -> Target:
        """Return a fitted copy of the target."""
        target = KernelDensityTarget() if self.target is None else clone(self.target)
        return target.fit(X, y, device=device, dtype=dtype)


def spread_ratio(z: Tensor, scores: Tensor) -> float:
    r"""Return :math:`-\frac{1}{nd} \sum_i s_i \cdot (z_i - \bar z)`, one on the target."""
    return -float((scores * (z - z.mean(0))).sum(1).mean()) / z.shape[1]


def _warn(message: str) -> None:
    """Warn the user, on the line that called into the package."""
    warnings.warn(message, UserWarning, stacklevel=caller_level())


def _mean(figures: Iterable[float]) -> float:
    """Return the mean over restarts."""
    return float(np.mean(list(figures)))


def warn_of_one_particle(n: int, name: str) -> None:
    """Warn that a single particle has no spread."""
    if n == 1:
        _warn(
            f"{name} has a single particle: it climbs to a mode of the target and says nothing "
            "of its spread. Set n_particles, 200 for instance."
        )
