r"""One-step generation by the gradient flow of the Sinkhorn divergence.

The debiased entropic map moves a law towards that of the data,
:math:`\dot x = T_{\mu \to \nu}(x) - T_{\mu \to \mu}(x)`, and comes to rest only there; a network is
trained to carry a reference to the end of the flow in one pass.
"""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
from sklearn.utils import check_scalar
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
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
from skwgf.estimators._features import atoms, cost_features, fit_feature_map
from skwgf.estimators._generator import SPLIT, VALIDATION, GeneratorMixin, choose
from skwgf.estimators._inputs import (
    Labels,
    check_labels,
    check_source,
    conditional_labels,
    encode_labels,
    unconditional_labels,
)
from skwgf.estimators._sinkhorn_batches import Batches, affine_pairs, preceded
from skwgf.estimators._sinkhorn_particles import end_points
from skwgf.estimators._sinkhorn_problem import (
    FIRST_REG,
    SOURCE_REG,
    Problem,
    finest_reg,
    make_groups,
)
from skwgf.estimators._validation import held_out_divergence, split_rows
from skwgf.flows import pair_update, persistent_update
from skwgf.flows.carriers import RandomStream, Stateful
from skwgf.flows.regression import Update
from skwgf.flows.sinkhorn import Kind

# Optimiser steps of an iteration when the flow is run to its end first.
_INNER_STEPS = 10
# Share of the iterations in which the loop's network is brought to the affine map it starts from.
_AFFINE_SHARE = 0.05


class SinkhornFlowGenerator(GeneratorMixin, BaseFlow):
    r"""One-step generator trained by the gradient flow of the Sinkhorn divergence.

    A network :math:`G` carries the law :math:`\mu` of :math:`G(z)`, z drawn from a reference, to
    the law :math:`\nu` of the rows of X along the gradient flow of

    .. math:: S_\epsilon(\mu, \nu) = OT_\epsilon(\mu, \nu) - \tfrac12 OT_\epsilon(\mu, \mu)
        - \tfrac12 OT_\epsilon(\nu, \nu), \qquad \dot x = T_{\mu \to \nu}(x) - T_{\mu \to \mu}(x),

    with T the entropic maps for the cost :math:`|x - y|^2/2`. By default a cloud of particles runs
    the flow to its end once, at a regularisation that falls along the way; fresh reference points
    are carried along in its field, and the network is regressed on where they end. The reference is
    N(0, I); with `X_source` it is the law of the source rows, the network starts at the identity,
    and :meth:`transform` carries rows from one domain to the other.

    Read more in the :ref:`User Guide <sinkhorn_flow>`.

    Parameters
    ----------
    velocity : {"sinkhorn", "kl", "mmd"}, default="sinkhorn"
        The field, by how far the entropic problems are solved: to convergence; half an iteration,
        which is the softmax field of kernel density estimates; or not at all, the flow of the
        squared maximum mean discrepancy of the kernel :math:`\exp(-|x - y|^2 / 2\epsilon)`. The
        last is there for comparison: its field vanishes far from the rows, so that it asks for a
        `reg` and a `reg_start` near one and for many small steps.

    step_size : float, default=1.0
        Step :math:`\tau` in flow time, in (0, 1].

    persistence : int, "auto" or "full", default="full"
        "full" runs the flow on particles to its end and regresses on it. A number is the loop of
        the paper, which follows the flow of the network's own law: that many optimiser steps on
        the same pairs before the field is estimated again on fresh batches, from an affine map
        that has the mean and covariance of the rows. "auto" stops
        when the network lags behind by less than a quarter of the step, after 50 at the latest.

    debias : bool, default=True
        Whether the self term of the loop is taken on a second, independent batch, so that the mean
        velocity vanishes when the law is that of the data. ``persistence="full"`` does not read it.

    reg : float or None, default=None
        Regularisation :math:`\epsilon` at the end of the flow, relative to the mean cost within
        the rows of X (of each class, with `conditional`). None is twice the mean cost between
        nearest neighbours, but no less than 0.005 (0.05 with a source) and no more than 0.2.

    reg_start : float or None, default=None
        Regularisation at the start of the flow, from which it falls to `reg`. None is 0.2 from
        N(0, I) and `reg` with a source, whose paths are then straight.

    conditional : bool, default=False
        Whether to learn the law of X given y: a flow for each class of y, all in one network, which
        reads the class. :meth:`sample` then takes labels.

    guidance : float, default=0.0
        Weight w of the class guidance with `conditional`,
        :math:`v + w \, (T_{\mu \to \nu_c} - T_{\mu \to \nu})`: draws lie deeper in their class, at
        the price of diversity.

    feature_map : transformer, callable or None, default=None
        The cost compares features of the rows, :math:`|\phi(x) - \phi(y)|^2/2`, while the rows are
        what moves. A transformer (fitted on X if it is not yet; a search always clones and fits
        it), or a function of tensors of rows. It need not be differentiable.

    standardize : bool, default=True
        Whether each column is divided by its own standard deviation inside, so that columns of
        different units weigh alike. False uses one scale for all, which suits pixels and
        coordinates.

    label_weight : float, default=4.0
        Weight of the class term in the cost when `y_source` is given without `conditional`,
        relative to the mean cost.

    hidden_layer_sizes : tuple of int, default=(48, 48, 48, 48, 48, 48)
        Widths of the hidden layers of the network. Depth places the jumps of the map sharply; data
        of many columns want more width, such as (256, 256, 256).

    activation : {"relu", "silu", "tanh", "elu"}, default="relu"
        Activation of the network.

    batch_size : int, default=512
        Number of pairs of an optimiser step; in the loop, of each of its two batches.

    learning_rate : float, default=0.01
        Largest learning rate of Adam; it rises over 2% of the iterations and falls along half a
        cosine after that.

    max_grad_norm : float or None, default=None
        Longer gradients are shortened to this length; None leaves them.

    ema_decay : float, default=0.995
        Decay per optimiser step of the averaged weights, which make the fitted network.

    max_iter : int, default=600
        Number of iterations, of ten optimiser steps each with ``persistence="full"``.

    tol : float, default=1e-3
        The fit counts as converged when the last quarter of the iterations has not improved the
        held-out divergence (the objective, without held-out rows) by more than `tol` times its
        first value. Fewer than eight figures never count.

    n_iter_no_change : int or None, default=None
        Stop early when as many validations in a row (of about 20 in all; iterations, without
        held-out rows) bring no improvement by `tol`. None runs the whole schedule.

    validation_fraction : float, default=0.1
        Share of the rows of X that is held out, at most 1000 rows, and none when that would be
        fewer than 50. The latest weights are kept whose debiased Sinkhorn divergence to them is
        within the sampling noise of the best one.

    warm_start : bool, default=False
        Whether fit goes on from the weights of the previous fit, with a new schedule.

    device : None, str or torch.device, default=None
        Where to compute: None is the CPU, "auto" the first accelerator.

    dtype : {"float32", "float64"} or None, default=None
        Precision of :meth:`sample`; None is that of X. The network is trained in float32 and
        evaluated in float64 on devices that have it.

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
    network_ : PushForward
        The map from reference rows (followed by the one-hot class, with `conditional`) to data
        rows, a torch module in the units of the data. It keeps columns within the limits that
        their values pile up at, such as the zero of counts and pixels.

    reg_ : float
        Relative regularisation at the end of the flow.

    feature_map_ : transformer, callable or None
        The features of the cost.

    classes_ : ndarray of shape (n_classes,) or None
        The labels in y, with `conditional`.

    class_share_ : ndarray of shape (n_classes,) or None
        Share of the rows of X in each class.

    X_source_ : ndarray of shape (n_source, n_features) or None
        The source rows; None when the reference is N(0, I).

    classes_source_ : ndarray of shape (n_classes,) or None
        The labels in `y_source`.

    target_proba_ : ndarray of shape (n_rows, n_classes) or None
        Class probabilities that were found for the rows of X, with `y_source` and without
        `conditional`.

    flow_history_ : dict of ndarray
        With ``persistence="full"``, "objective" (the Sinkhorn divergence, relative to the mean cost
        within the rows) and "step" (rms displacement) at each step of the particle flow, in the
        mean over classes; else empty.

    n_iter_ : int
        Number of iterations of the last fit; `history_` goes on over warm starts.

    converged_ : bool
        Whether the fit has converged.

    history_ : dict of ndarray
        A value an iteration: "objective" (half the mean squared distance to the ends of the paths,
        or half the mean squared velocity in the loop), "step" (rms displacement), "seconds", and
        "validation" (NaN where none was made) with held-out rows; all lengths in units of the
        scale of X. Loops add "lag" and "n_inner".

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, when X has string column names.

    Raises
    ------
    ValueError
        When parameters or inputs do not fit together; the message says what to change.

    Warns
    -----
    ConvergenceWarning
        When the figures were still improving at the end, or the last plan of the particle flow
        misses more than 2% of the mass.
    UserWarning
        When a class has a single row, which its draws repeat; or when the fit was interrupted from
        the keyboard during its iterations: the best state so far is kept. An interrupt before
        them, while the particles flow, is raised.

    See Also
    --------
    W2FlowGenerator : The flow of the Wasserstein-2 loss.

    References
    ----------
    .. [1] *One-Step Generative Modeling via Wasserstein Gradient Flows*. arXiv:2605.11755.
    .. [2] J. Feydy, T. Séjourné, F.-X. Vialard, S. Amari, A. Trouvé, G. Peyré. *Interpolating
       between optimal transport and MMD using Sinkhorn divergences*. arXiv:1810.08278.

    Examples
    --------
    >>> from skwgf import SinkhornFlowGenerator
    >>> from skwgf.datasets import make_two_moons
    >>> X, y = make_two_moons(1000, random_state=0)
    >>> generator = SinkhornFlowGenerator(max_iter=60, random_state=0).fit(X)
    >>> generator.sample(5, random_state=0).shape
    (5, 2)
    >>> generator.score(X) > -0.01
    True

    With classes:

    >>> generator = SinkhornFlowGenerator(conditional=True, max_iter=60, random_state=0).fit(X, y)
    >>> generator.sample(3, y=[0, 1, 1], random_state=0).shape
    (3, 2)
    """

    classes_: NDArray[Any] | None
    class_share_: NDArray[np.float64] | None
    _source_codes: NDArray[np.int64] | None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseFlow._parameter_constraints,
        "velocity": [StrOptions({"sinkhorn", "kl", "mmd"})],
        "step_size": [Interval(Real, 0, 1, closed="right")],
        "persistence": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto", "full"})],
        "debias": ["boolean"],
        "reg": [Interval(Real, 0, None, closed="neither"), None],
        "reg_start": [Interval(Real, 0, None, closed="neither"), None],
        "conditional": ["boolean"],
        "guidance": [Interval(Real, 0, None, closed="left")],
        "feature_map": [HasMethods("transform"), callable, None],
        "standardize": ["boolean"],
        "label_weight": [Interval(Real, 0, None, closed="left")],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions({"relu", "silu", "tanh", "elu"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        velocity: str = "sinkhorn",
        *,
        step_size: float = 1.0,
        persistence: int | str = "full",
        debias: bool = True,
        reg: float | None = None,
        reg_start: float | None = None,
        conditional: bool = False,
        guidance: float = 0.0,
        feature_map: Any = None,
        standardize: bool = True,
        label_weight: float = 4.0,
        hidden_layer_sizes: tuple[int, ...] = (48,) * 6,
        activation: str = "relu",
        batch_size: int = 512,
        learning_rate: float = 0.01,
        max_grad_norm: float | None = None,
        ema_decay: float = 0.995,
        max_iter: int = 600,
        tol: float = 1e-3,
        n_iter_no_change: int | None = None,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        device: str | torch.device | None = None,
        dtype: Any = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int | bool = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 50,
    ) -> None:
        self.velocity = velocity
        self.step_size = step_size
        self.persistence = persistence
        self.debias = debias
        self.reg = reg
        self.reg_start = reg_start
        self.conditional = conditional
        self.guidance = guidance
        self.feature_map = feature_map
        self.standardize = standardize
        self.label_weight = label_weight
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self.ema_decay = ema_decay
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
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
    def fit(self, X: Any, y: Any = None, *, X_source: Any = None, y_source: Any = None) -> Self:
        """Learn the map from the reference to the law of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the target law, at least two.

        y : array-like of shape (n_samples,), default=None
            Their labels, read with `conditional` only.

        X_source : array-like of shape (n_source, n_features), default=None
            Rows of the law to start from; None starts from N(0, I).

        y_source : array-like of shape (n_source,), default=None
            Labels of the source rows. With `conditional` the rows of a class flow to those of the
            same class in y. Without, they are carried to the same region of the target, whose
            labels are not needed.

        Returns
        -------
        self : SinkhornFlowGenerator
        """
        X = self._validate(X, reset=True, min_samples=2)
        if X_source is not None:
            X_source = check_source(self, X, X_source)
        labels = self._check_labels(X, y, X_source, y_source)
        device, seed = resolve_device(self.device), draw_seed(self.random_state)
        generator = make_generator(seed)
        coordinates = fit_coordinates(
            X if X_source is None else np.concatenate([X, X_source]), standardize=self.standardize
        )
        feature_map, limits = fit_feature_map(self.feature_map, X), atoms(X)
        scaled = coordinates.apply(X).float().to(device)
        rows, held_out = split_rows(
            scaled, self.validation_fraction, derive_seed(seed, SPLIT), labels.codes
        )
        problem, proba = self._problem(
            *(coordinates, X, X_source, labels, rows, limits, feature_map), seed=seed, device=device
        )
        regressor = self._new_regressor(
            X.shape[1] + problem.n_classes,
            X.shape[1],
            residual=X_source is not None,
            generator=generator,
            device=device,
            max_grad_norm=self.max_grad_norm,
            limits=(problem.low, problem.high),
        )
        update, parts, flow_history = self._update(problem, generator)
        validation = None
        if len(held_out):
            draws = make_generator(derive_seed(seed, VALIDATION))
            codes = None if labels.codes is None else labels.codes[to_numpy(held_out)]
            validation = held_out_divergence(
                regressor,
                problem.draw_like(codes, len(held_out), draws),
                scaled[held_out],
                scaled[rows],
                draws,
            )
        self._train(
            *(X, y, regressor, update),
            given=(X_source, y_source),
            parts=parts,
            validation=validation,
            coordinates=coordinates,
            found={
                "reg_": problem.reg,
                "feature_map_": feature_map,
                "classes_": labels.classes,
                "class_share_": labels.shares(),
                "X_source_": X_source,
                "classes_source_": labels.source_classes,
                "target_proba_": proba,
                "_source_codes": labels.source_codes,
                "flow_history_": {key: np.asarray(v) for key, v in flow_history.items()},
            },
            seed=seed,
            device=device,
            limits=limits,
        )
        return self

    def sample(
        self,
        n_samples: int = 1,
        *,
        y: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> NDArray[Any]:
        """Draw new rows: reference points mapped by the network in one pass.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows, at least 1.

        y : label or array-like of shape (n_samples,), default=None
            The classes to draw from, with `conditional`: one for all rows, or one for each. None
            draws classes with the shares they have in X.

        random_state : int, RandomState instance or None, default=None
            Seed of the draws. None gives fresh draws at every call, whatever the seed of the fit.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            With a source, images of source rows (of the class): without replacement up to their
            number, with replacement beyond.

        Raises
        ------
        ValueError
            If `n_samples` is below 1, or `y` holds a label that the fit did not see, has another
            number of labels, or is given without `conditional`.
        TypeError
            If `n_samples` is not an integer.
        """
        check_is_fitted(self, "network_")
        n = check_scalar(n_samples, "n_samples", Integral, min_val=1)
        if y is not None and self.classes_ is None:
            raise ValueError("y names classes, which conditional=False did not learn.")
        if y is not None and np.ndim(y) == 0:
            y = np.full(n, y)
        codes = self._codes(y, int(n), rows="n_samples")
        return self._sample(
            n, random_state, lambda n, generator: self._draw_like(codes, n, generator)
        )

    def transform(self, X: Any, y: Any = None) -> NDArray[Any]:
        """Map rows read as reference points; the map is frozen, rows do not influence each other.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Source rows, seen in fit or not; without a source, points of N(0, I).

        y : array-like of shape (n_samples,), default=None
            Their classes, which `conditional` needs; else ignored.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the precision of X.

        Raises
        ------
        ValueError
            If a conditional generator gets no `y`, or labels that the fit did not see.
        """
        check_is_fitted(self, "network_")
        X = self._validate(X, reset=False)
        codes = None
        if self.classes_ is not None:
            if y is None:
                raise ValueError(
                    "A conditional generator maps rows of known classes: pass y, one label a row."
                )
            codes = self._codes(y, len(X), rows="X")
        return to_numpy(self._push(self._with_classes(X, codes)), X.dtype)

    def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> NDArray[Any]:
        """Fit to X, then map the rows of X read as reference points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the target law.

        y : array-like of shape (n_samples,), default=None
            Their labels, read with `conditional` only.

        **fit_params : dict
            Further arguments of :meth:`fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
        """
        images: NDArray[Any] = self.fit(X, y, **fit_params).transform(X, y)
        return images

    @one_thread_in_pools
    def score(self, X: Any, y: Any = None) -> float:
        r"""Return minus the debiased Sinkhorn divergence between X and as many draws.

        The draws are the same at every call. The regularisation is .05 times the mean cost
        :math:`|x - x'|^2/2` within X, so that settings compare on the same X (with draws a
        thousand times farther off than that it grows with their distance).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows of the law to compare with. Of more than 5000 rows a fixed random choice of 5000
            is compared, since the cost grows with the square of their number.

        y : array-like of shape (n_samples,), default=None
            Their labels: with `conditional` the draws are of the same classes. None draws classes
            with the shares they had in fit.

        Returns
        -------
        float
            In squared units of X; 0 is perfect.
        """
        check_is_fitted(self, "network_")
        X = self._validate(X, reset=False)
        codes = self._codes(y, len(X), rows="X")

        def draw(index: NDArray[np.int64], generator: torch.Generator) -> Tensor:
            return self._draw_like(None if codes is None else codes[index], len(index), generator)

        return self._score(X, draw)

    def _check_labels(self, X: NDArray[Any], y: Any, X_source: Any, y_source: Any) -> Labels:
        """Return the labels that the fit uses, after checks of what was given."""
        if y_source is not None:
            if X_source is None:
                raise ValueError("y_source labels the rows of X_source, but X_source is None.")
            y_source = check_labels(y_source, len(X_source), name="y_source", rows="X_source")
        if not self.conditional:
            if self.guidance > 0:
                raise ValueError(
                    f"guidance={self.guidance} strengthens classes, which conditional=False does "
                    "not learn. Set conditional=True, or guidance=0."
                )
            return unconditional_labels(y_source)
        if y is None:
            raise ValueError("conditional=True learns the law of X given y, but y is None.")
        if X_source is not None and y_source is None:
            raise ValueError(
                "conditional=True carries the source rows of a class to that class: pass "
                "y_source, or set conditional=False."
            )
        return conditional_labels(check_labels(y, len(X), name="y", rows="X"), y_source)

    def _problem(
        self,
        coordinates: Coordinates,
        X: NDArray[Any],
        X_source: NDArray[Any] | None,
        labels: Labels,
        rows: Tensor,
        limits: tuple[Tensor, Tensor],
        feature_map: Any,
        *,
        seed: int,
        device: torch.device,
    ) -> tuple[Problem, NDArray[Any] | None]:
        """Return the problem in scaled coordinates, and the class probabilities of target rows."""

        def scaled(array: NDArray[Any]) -> Tensor:
            return coordinates.apply(array).float().to(device)

        features = cost_features(feature_map, coordinates)
        source = None if X_source is None else scaled(X_source)
        groups, proba = make_groups(
            *(scaled(X), source, labels, rows, features), label_weight=self.label_weight
        )
        reg = self.reg
        if reg is None:
            reg = sum(finest_reg(features(group.y)) for group in groups) / len(groups)
            reg = reg if X_source is None else max(reg, SOURCE_REG)
        start = self.reg_start
        if start is None:
            start = FIRST_REG if X_source is None else reg
        low, high = (
            ((limit - coordinates.shift) / coordinates.scale).float().to(device) for limit in limits
        )
        problem = Problem(
            groups=groups,
            n_classes=0 if labels.classes is None else len(labels.classes),
            features=features,
            low=low,
            high=high,
            velocity=cast(Kind, self.velocity),
            step_size=self.step_size,
            guidance=self.guidance,
            reg_start=max(start, reg),
            reg=reg,
            seed=seed,
        )
        return problem, None if proba is None else to_numpy(proba)

    def _update(
        self, problem: Problem, generator: torch.Generator
    ) -> tuple[Update, tuple[Stateful, ...], dict[str, list[float]]]:
        """Return what an iteration does to the network, and the parts that change with it.

        The last is the history of the particle flow, if there was one.
        """
        if self.persistence == "full":
            draw, history = end_points(problem, self.max_iter * _INNER_STEPS * self.batch_size)
            update = pair_update(draw, batch_size=self.batch_size, n_inner=_INNER_STEPS)
            return update, (draw,), history
        batches = Batches(
            problem,
            batch_size=self.batch_size,
            debias=self.debias,
            n_annealing=max(self.max_iter // 2, 1),
            generator=generator,
        )
        update = persistent_update(
            batches.draw,
            batches.velocity,
            step_size=self.step_size,
            persistence=self.persistence,
            batch_size=self.batch_size,
        )
        if problem.groups[0].source is None and not self._goes_on():
            pairs = affine_pairs(problem, generator)
            first = pair_update(pairs, batch_size=self.batch_size, n_inner=_INNER_STEPS)
            update = preceded(first, update, share=_AFFINE_SHARE)
        return update, (batches, RandomStream(generator)), {}

    def _codes(self, y: Any, n: int, *, rows: str) -> NDArray[np.int64] | None:
        """Return the class codes of n labels; None without labels, or where none are learnt."""
        if self.classes_ is None or y is None:
            return None
        return encode_labels(check_labels(y, n, name="y", rows=rows), self.classes_, name="y")

    def _draw_like(
        self, codes: NDArray[np.int64] | None, n: int, generator: torch.Generator
    ) -> Tensor:
        """Return n draws as a tensor: of these classes, or of classes as frequent as in X."""
        if self.classes_ is None:
            return self._draw(n, generator, self.X_source_)
        if codes is None:
            shares = to_tensor(self.class_share_)
            codes = to_numpy(torch.multinomial(shares, n, replacement=True, generator=generator))
        if self.X_source_ is None:
            d = len(self.network_.out_shift)
            reference = to_numpy(torch.randn(n, d, dtype=torch.float64, generator=generator))
        else:
            reference = np.empty((n, self.X_source_.shape[1]), self.X_source_.dtype)
            for code in np.unique(codes):
                drawn = np.flatnonzero(codes == code)
                rows = np.flatnonzero(self._source_codes == code)
                index = to_numpy(choose(len(rows), len(drawn), generator))
                reference[drawn] = self.X_source_[rows[index]]
        return self._push(self._with_classes(reference, codes))

    def _with_classes(self, rows: NDArray[Any], codes: NDArray[np.int64] | None) -> NDArray[Any]:
        """Append the one-hot classes to reference rows."""
        if codes is None or self.classes_ is None:
            return rows
        return np.hstack([rows, np.eye(len(self.classes_), dtype=rows.dtype)[codes]])
