"""What the networks of neurons share: parameters, the search for alpha, and the fit."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from skwgf._tensor import (
    derive_seed,
    draw_seed,
    make_generator,
    resolve_device,
    to_numpy,
    to_tensor,
)
from skwgf._threads import one_thread_in_pools
from skwgf.base import BaseFlow
from skwgf.estimators._coordinates import Coordinates, fit_coordinates
from skwgf.estimators._functional_start import LEAST, start_cloud
from skwgf.estimators._mean_field_alpha import AlphaSearch, held_out_rows, search_alpha
from skwgf.estimators._particles import FLOW, START, ParticlesMixin
from skwgf.flows import run_flow
from skwgf.flows.loop import History
from skwgf.flows.newton import NewtonCarrier, coincident
from skwgf.functionals import MeanFieldRisk

__all__ = ["NeuronsFlow"]

# Where there are too few rows to hold some out.
_ALPHA = 1e-2
# A random stream beside those of the start and of the flow.
_SPLIT = 3
# Steps over which the risk has to fall, and how much larger tol is while alpha is searched, in
# single precision: the late steps are the dear ones, and the order of the alphas shows before.
_PATIENCE, _COARSE = 5, 5.0
# Directions need not be exact, since the line search makes any of them go down: more products are
# better spent on further steps.
_SOLVER_TOL = 0.1


class NeuronsFlow(ParticlesMixin, BaseFlow, ABC):
    """Base of the networks. A subclass knows its loss and how to read y and predict."""

    _LOSS: ClassVar[str]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseFlow._parameter_constraints,
        "n_particles": [Interval(Integral, LEAST, None, closed="left"), None],
        "activation": [str],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "output_scale": [Interval(Real, 0, None, closed="neither"), None],
        "init": ["array-like", None],
        "beta": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "solver": [StrOptions({"auto", "eigh", "lanczos"})],
    }

    particles_: NDArray[Any]
    functional_: MeanFieldRisk
    alpha_: float
    alphas_: NDArray[np.float64]
    validation_losses_: NDArray[np.float64]
    hessian_min_eig_: float
    _cloud: Tensor
    _coordinates: Coordinates

    def __init__(
        self,
        *,
        n_particles: int | None = None,
        activation: str = "tanh",
        alpha: float | str = "auto",
        validation_fraction: float = 0.2,
        output_scale: float | None = None,
        init: Any = None,
        beta: float | str = "auto",
        solver: str = "auto",
        max_iter: int = 100,
        step_size: float = 1.0,
        tol: float = 1e-2,
        warm_start: bool = False,
        device: str | torch.device | None = None,
        dtype: Any = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | bool = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 50,
    ) -> None:
        self.n_particles = n_particles
        self.activation = activation
        self.alpha = alpha
        self.validation_fraction = validation_fraction
        self.output_scale = output_scale
        self.init = init
        self.beta = beta
        self.solver = solver
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
    @_fit_context(prefer_skip_nested_validation=True)
    @one_thread_in_pools
    def fit(self, X: Any, y: Any) -> Self:
        """Fit the network.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features; each column is standardised within.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Numbers, several columns of which share their neurons; or one label a row.

        Returns
        -------
        self : object
        """
        X, y = self._validated(X, y)
        seed = draw_seed(self.random_state)
        coordinates = fit_coordinates(X, standardize=True)
        rows = to_numpy(coordinates.apply(X))
        search, alpha = self._choose_alpha(rows, y, seed)
        risk = self._risk(rows, y, alpha, self._resolve(X)[1])
        carrier = self._carrier(risk, self._start(risk, seed), seed)

        def fitted() -> dict[str, Any]:
            return {
                "functional_": risk,
                "particles_": to_numpy(carrier.particles),
                "_cloud": carrier.particles.clone(),
                "_coordinates": coordinates,
            }

        self._run(
            carrier,
            X=X,
            y=y,
            fitted=fitted,
            stop=lambda history: _has_settled(carrier, history, self.tol),
            remedies="Increase max_iter, or accept a larger tol or alpha.",
        )
        self.alpha_, self.alphas_, self.validation_losses_ = alpha, search.alphas, search.losses
        self.hessian_min_eig_ = float(carrier.extremes().values[0])
        return self

    @abstractmethod
    def _validated(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return X and y, checked."""

    @abstractmethod
    def _codes(self, y: NDArray[Any]) -> NDArray[np.int64]:
        """Return the groups of rows of each of which the same share is held out."""

    @abstractmethod
    def _held_out_loss(self, outputs: Tensor, y: NDArray[Any], learnt: NDArray[Any]) -> float:
        """Return the loss of outputs at rows held out, whose y is given beside that learnt."""

    def _rows(self, X: Any) -> Tensor:
        """Return rows of the user as the network takes them."""
        rows = self._coordinates.apply(self._validate(X, reset=False))
        return to_tensor(rows, device=self._cloud.device, dtype=self._cloud.dtype)

    def _risk(
        self, rows: NDArray[Any], y: NDArray[Any], alpha: float, dtype: torch.dtype
    ) -> MeanFieldRisk:
        """Return the risk on standardised rows."""
        risk = MeanFieldRisk(
            self.activation, self._LOSS, alpha=alpha, output_scale=self.output_scale
        )
        return risk.fit(rows, y, device=resolve_device(self.device), dtype=dtype)

    def _carrier(self, risk: MeanFieldRisk, z: Tensor, seed: int) -> NewtonCarrier:
        """Return what moves neurons down a risk."""
        return NewtonCarrier(
            risk,
            z,
            generator=make_generator(derive_seed(seed, FLOW)),
            beta=self.beta,
            solver=self.solver,
            step_size=self.step_size,
            solver_tol=_SOLVER_TOL,
        )

    def _choose_alpha(
        self, rows: NDArray[Any], y: NDArray[Any], seed: int
    ) -> tuple[AlphaSearch, float]:
        """Return what was tried for alpha, and its value."""
        none = AlphaSearch(np.empty(0), np.empty(0))
        if self.alpha != "auto":
            return none, float(self.alpha)
        if self._goes_on():
            return none, self.alpha_
        out = held_out_rows(self._codes(y), self.validation_fraction, derive_seed(seed, _SPLIT))
        if out is None:
            return none, _ALPHA

        def loss(alpha: float) -> float:
            risk = self._risk(rows[~out], y[~out], alpha, torch.float32)
            carrier = self._carrier(risk, self._start(risk, seed), seed)
            result = run_flow(
                carrier,
                max_iter=self.max_iter,
                stop=lambda history: _has_settled(carrier, history, _COARSE * self.tol),
            )
            if result.status == "interrupted":
                raise KeyboardInterrupt
            points = to_tensor(rows[out], device=risk.device_, dtype=risk.dtype_)
            found = self._held_out_loss(risk.outputs(carrier.particles, points), y[out], y[~out])
            if self.verbose:
                print(f"[{type(self).__name__}] alpha {alpha:g}  held-out loss {found:.4g}")
            return found

        search = search_alpha(loss)
        return search, search.best

    def _start(self, risk: MeanFieldRisk, seed: int) -> Tensor:
        """Return the neurons to start from."""
        z = start_cloud(
            risk,
            np.empty((0, 0)),
            earlier=self._cloud if self._goes_on() else None,
            init=self.init,
            n_particles=self.n_particles,
            generator=make_generator(derive_seed(seed, START)),
        )
        if len(z) < LEAST or bool(coincident(z).any()):
            raise ValueError(
                f"init has {len(z)} neurons, some on one spot, which would stay together. Pass "
                f"{LEAST} at least, and add noise to them."
            )
        return z


def _has_settled(carrier: NewtonCarrier, history: History, tol: float) -> bool:
    """Tell whether the risk falls by no more than a share of `tol` over the last steps."""
    risks = history["objective"]
    if carrier.verdict is not None or len(risks) <= _PATIENCE:
        return carrier.verdict is not None
    return risks[-1 - _PATIENCE] - risks[-1] <= tol * abs(risks[-1])
