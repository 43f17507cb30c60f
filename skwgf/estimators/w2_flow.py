r"""Generative modelling by the gradient flow of the Wasserstein-2 loss.

The flow of :math:`\mu \mapsto \tfrac12 W_2^2(\mu, \nu)` moves a law towards the law of the data,
:math:`\dot x = T(x) - x` with T the optimal map; a network is trained to follow it.
"""

from __future__ import annotations

import os
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import _fit_context
from sklearn.callback import with_callbacks
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
from skwgf.estimators._features import (
    atoms,
    fit_feature_map,
    share_a_unit,
)
from skwgf.estimators._generator import SPLIT, VALIDATION, GeneratorMixin
from skwgf.estimators._inputs import check_labels, check_source
from skwgf.estimators._validation import held_out_divergence, split_rows
from skwgf.estimators._w2_labels import warn_of_harm, warn_of_no_gain
from skwgf.estimators._w2_problem import Problem, compared, end_points, velocity
from skwgf.flows import pair_update, persistent_update
from skwgf.flows.carriers import RandomStream, Stateful
from skwgf.flows.regression import Pairs, Update
from skwgf.nn import Regressor, evaluate
from skwgf.transport import class_sides, mean_cost

# Optimiser steps of an iteration when the plan is held to the end.
_INNER_STEPS = 10
# Regularisation of plans with a class term, relative to the mean cost.
_LABEL_REG = 0.03


class W2FlowGenerator(GeneratorMixin, BaseFlow):
    r"""Generator trained by the gradient flow of the Wasserstein-2 loss.

    A network :math:`G` carries the law :math:`\mu` of :math:`G(z)`, z drawn from a reference, to
    the law :math:`\nu` of the rows of X along

    .. math:: \dot x = T_\mu(x) - x, \qquad W_2(\mu_t, \nu) = e^{-t} \, W_2(\mu_0, \nu),

    with :math:`T_\mu` the optimal map from :math:`\mu` to :math:`\nu`. An iteration moves
    :math:`x_i = G(z_i)` to :math:`\zeta_i = x_i + \tau (T_\mu(x_i) - x_i)` and regresses
    :math:`G(z_i)` on :math:`\zeta_i` (persistent training). The reference is N(0, I); with
    `X_source` it is the law of the source rows, the network starts at the identity, and
    :meth:`transform` carries rows from one domain to the other.

    Read more in the :ref:`User Guide <w2_flow>`.

    Parameters
    ----------
    potential : {"semidiscrete", "minibatch", "network"}, default="semidiscrete"
        How the optimal map is found: one dual vector over all rows of X; exact or entropic plans
        between batches; or a pair of potential networks, as in the paper.

    step_size : float, default=1.0
        Step :math:`\tau` in flow time, in (0, 1]. Without effect with ``persistence="full"``,
        which goes to the end of the flow.

    persistence : int, "auto", "full" or None, default=None
        Number of optimiser steps on the same pairs :math:`(z_i, \zeta_i)`. "auto" stops when the
        network lags behind by less than a quarter of the step, after 50 at the latest. "full"
        holds the plan to the end: the optimal map stays the same along the exact flow, so that
        its end points are regressed on directly; it needs ``potential="semidiscrete"``. From
        N(0, I) the plan starts from the affine image of the reference that has the mean and the
        covariance of the rows, and its images are made by local Gaussian maps (see Notes). None is
        "full" there, else "auto".

    debias : bool, default=True
        Whether ``potential="minibatch"`` subtracts the plan onto a second generated batch, which
        makes the mean velocity vanish when the law is that of the data. The other potentials do
        not read it.

    reg : float or None, default=None
        Entropic regularisation of the plans, relative to the mean cost :math:`|x - y|^2/2`
        between reference (within X, if it is N(0, I)) and X. None is 0.03 with `y_source`, else 0,
        which means exact plans. Where one dual vector maps fresh points (from N(0, I), and in the
        loop of the semi-discrete potential) it smooths the exact map. ``potential="network"`` does
        not read it.

    standardize : bool or None, default=None
        Whether each column is divided by its own standard deviation inside, so that columns of
        different units weigh alike; False uses one scale for all. None is False with a source,
        whose distances to the target are kept. From N(0, I) it is False where more than half of the
        columns pile up at the same least value, as pixels and counts do at zero, and no column has
        a range of more than ten times theirs; else True.

    feature_map : transformer, callable or None, default=None
        With `X_source` and ``persistence="full"``: the cost compares features of the rows,
        :math:`|\phi(x) - \phi(y)|^2/2`, and labels are found among them, while the rows are what
        moves. A transformer (fitted on X if it is not yet; a search always clones and fits it,
        unless it is a :class:`~sklearn.frozen.FrozenEstimator`), or a function of tensors of rows.
        It need not be differentiable; with `y_source` it is applied to averages of rows as well.

    label_weight : float, default=8.0
        Weight of the class term in the cost when `y_source` is given, relative to the mean cost.
        The labels are found with plans of `reg`, or of 0.03 where `reg` is 0.

    hidden_layer_sizes : tuple of int or None, default=None
        Widths of the hidden layers of the network. None is, with ``persistence="full"``, six layers
        of width 48, or of twice the number of columns where that is more, but at most 256: depth
        places the jumps of the map sharply. Else it is four layers of width 64.

    activation : {"relu", "silu", "tanh", "elu"}, default="relu"
        Activation of the network.

    batch_size : int, default=512
        Number of pairs of an optimiser step.

    learning_rate : float, default=0.01
        Largest learning rate of Adam; it rises over 2% of the iterations and falls along half a
        cosine after that.

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
        held-out rows) bring no improvement by `tol`. None runs the whole schedule, which gives
        the best shapes.

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
        The map from reference rows to data rows, a torch module in the units of the data. From
        N(0, I) it keeps columns within the limits that their values pile up at, such as the zero
        of counts and pixels.

    X_source_ : ndarray of shape (n_source, n_features) or None
        The source rows; None when the reference is N(0, I).

    feature_map_ : transformer, callable or None
        The features of the cost.

    classes_source_ : ndarray of shape (n_classes,) or None
        The labels in `y_source`.

    target_proba_ : ndarray of shape (n_rows, n_classes) or None
        Class probabilities that were found for the rows of X; None without `y_source`.

    target_proportions_ : ndarray of shape (n_classes,) or None
        Shares of the classes that were found in X: those of `y_source`, unless others fit clearly
        better. ``sample`` draws source rows, and with them the classes, as they are.

    n_iter_ : int
        Number of iterations of the last fit; `history_` goes on over warm starts.

    converged_ : bool
        Whether the fit has converged.

    history_ : dict of ndarray
        A value an iteration: "objective" (half the mean squared distance to the images, an upper
        estimate of half the squared Wasserstein distance), "step" (rms displacement), "seconds",
        and "validation" (NaN where none was made) with held-out rows; all lengths in units of the
        scale of X. Loops with integer or "auto" persistence add "lag" and "n_inner".

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
        When the figures were still improving at the end.
    UserWarning
        When the labels carried to X fit its neighbourhoods less well than those of the nearest
        source rows; or, with ``persistence="full"``, when nearest moved rows have them less often
        than nearest source rows: a map may then help no classifier. And when the fit was
        interrupted from the keyboard during its iterations: the best state so far is kept. An
        interrupt before them, while the plan is solved, is raised.

    Notes
    -----
    With ``persistence="full"`` from N(0, I), and ``reg=0``, the image of a point x in the cell of
    row j is not the row but :math:`m_j + B_j (x - a_j)`, the optimal map between two Gaussians:
    that of the points whose rows are among the 16 nearest to row j for each column (50 at least),
    and that of these rows. A regression on the rows themselves would average over cells, and lose
    variance. Fewer than four such neighbourhoods of rows have no room for this; then the debiased
    entropic flow of :class:`SinkhornFlowGenerator` carries the points, followed by the Gaussian map
    between all points and all rows. More than 5000 rows are dealt out evenly to as many plans as
    are needed, at most eight; of more than 40,000 rows an even choice is used.

    References
    ----------
    .. [1] Y.-J. Huang, Z. Malik. *Generative Modeling by Minimizing the Wasserstein-2 Loss*.
       arXiv:2406.13619.

    Examples
    --------
    >>> from skwgf import W2FlowGenerator
    >>> from skwgf.datasets import make_two_moons
    >>> X, _ = make_two_moons(1000, random_state=0)
    >>> generator = W2FlowGenerator(max_iter=150, random_state=0).fit(X)
    >>> generator.sample(5, random_state=0).shape
    (5, 2)
    >>> generator.score(X) > -0.01
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseFlow._parameter_constraints,
        "potential": [StrOptions({"semidiscrete", "minibatch", "network"})],
        "step_size": [Interval(Real, 0, 1, closed="right")],
        "persistence": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto", "full"}),
            None,
        ],
        "debias": ["boolean"],
        "reg": [Interval(Real, 0, None, closed="left"), None],
        "standardize": ["boolean", None],
        "feature_map": [HasMethods("transform"), callable, None],
        "label_weight": [Interval(Real, 0, None, closed="left")],
        "hidden_layer_sizes": ["array-like", None],
        "activation": [StrOptions({"relu", "silu", "tanh", "elu"})],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self,
        potential: str = "semidiscrete",
        *,
        step_size: float = 1.0,
        persistence: int | str | None = None,
        debias: bool = True,
        reg: float | None = None,
        standardize: bool | None = None,
        feature_map: Any = None,
        label_weight: float = 8.0,
        hidden_layer_sizes: tuple[int, ...] | None = None,
        activation: str = "relu",
        batch_size: int = 512,
        learning_rate: float = 0.01,
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
        self.potential = potential
        self.step_size = step_size
        self.persistence = persistence
        self.debias = debias
        self.reg = reg
        self.standardize = standardize
        self.feature_map = feature_map
        self.label_weight = label_weight
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.batch_size = batch_size
        self.learning_rate = learning_rate
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

        y : None
            Ignored.

        X_source : array-like of shape (n_source, n_features), default=None
            Rows of the law to start from; None starts from N(0, I).

        y_source : array-like of shape (n_source,), default=None
            Labels of the source rows. Rows of a class are then carried to the same region of the
            target, whose own labels are not needed.

        Returns
        -------
        self : W2FlowGenerator
        """
        X = self._validate(X, reset=True, min_samples=2)
        if X_source is not None:
            X_source = check_source(self, X, X_source)
        if y_source is not None:
            if X_source is None:
                raise ValueError("y_source labels the rows of X_source, but X_source is None.")
            y_source = check_labels(y_source, len(X_source), name="y_source", rows="X_source")
        persistence = self._check_parameters(
            from_source=X_source is not None, labelled=y_source is not None
        )
        self._to_the_end = persistence == "full"
        device, seed = resolve_device(self.device), draw_seed(self.random_state)
        generator = make_generator(seed)
        standardize = self.standardize
        if standardize is None:
            standardize = X_source is None and not share_a_unit(X)
        coordinates = fit_coordinates(
            X if X_source is None else np.concatenate([X, X_source]), standardize=standardize
        )
        limits = None if X_source is not None else atoms(X)
        problem, held_out, found = self._problem(
            *(X, X_source, y_source, coordinates, limits), seed=seed, device=device
        )
        d = X.shape[1]
        regressor = self._new_regressor(
            *(d, d),
            residual=X_source is not None,
            generator=generator,
            device=device,
            limits=None if limits is None else (problem.low, problem.high),
        )
        update, parts = self._update(problem, persistence, regressor, generator)
        if problem.side_source is not None and isinstance(pairs := parts[0], Pairs):
            warn_of_harm(problem, pairs.image)
        validation = None
        if len(held_out):
            draws = make_generator(derive_seed(seed, VALIDATION))
            z, _ = problem.draw(len(held_out), draws)
            validation = held_out_divergence(regressor, z, held_out, problem.y, draws)
        self._train(
            *(X, y, regressor, update),
            given=(X_source, y_source),
            parts=parts,
            validation=validation,
            coordinates=coordinates,
            found=found,
            seed=seed,
            device=device,
            limits=limits,
        )
        return self

    def sample(
        self,
        n_samples: int = 1,
        *,
        random_state: int | np.random.RandomState | None = None,
    ) -> NDArray[Any]:
        """Draw new rows: reference points mapped by the network in one pass.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows, at least 1.

        random_state : int, RandomState instance or None, default=None
            Seed of the draws. None gives fresh draws at every call, whatever the seed of the fit.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            With a source, images of source rows: without replacement up to their number, with
            replacement beyond.

        Raises
        ------
        ValueError
            If `n_samples` is below 1.
        TypeError
            If `n_samples` is not an integer.
        """
        check_is_fitted(self, "network_")
        return self._sample(
            n_samples, random_state, lambda n, generator: self._draw(n, generator, self.X_source_)
        )

    def transform(self, X: Any) -> NDArray[Any]:
        """Map rows read as reference points; the map is frozen, rows do not influence each other.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Source rows, seen in fit or not; without a source, points of N(0, I).

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the precision of X.
        """
        check_is_fitted(self, "network_")
        X = self._validate(X, reset=False)
        return to_numpy(self._push(X), X.dtype)

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

        y : None
            Ignored.

        Returns
        -------
        float
            In squared units of X; 0 is perfect.
        """
        check_is_fitted(self, "network_")
        X = self._validate(X, reset=False)
        return self._score(
            X, lambda index, generator: self._draw(len(index), generator, self.X_source_)
        )

    def _check_parameters(self, *, from_source: bool, labelled: bool) -> int | str:
        """Return the persistence to use, after checks that involve several parameters."""
        if labelled and self.potential == "network":
            raise ValueError(
                "potential='network' has no place for the class term of y_source. Use "
                "potential='semidiscrete' or 'minibatch', or leave y_source out."
            )
        if self.persistence == "full" and self.potential != "semidiscrete":
            raise ValueError(
                f"persistence='full' holds one plan to the end, which potential="
                f"{self.potential!r} does not have. Use potential='semidiscrete', or an integer "
                "or 'auto' persistence."
            )
        persistence = self.persistence
        if persistence is None:
            persistence = "full" if self.potential == "semidiscrete" else "auto"
        if self.feature_map is not None and not (from_source and persistence == "full"):
            raise ValueError(
                "feature_map compares source rows with rows of X under one plan, which needs "
                "X_source, potential='semidiscrete' and persistence='full' (or None), got "
                f"X_source={'rows' if from_source else None}, potential={self.potential!r} and "
                f"persistence={self.persistence!r}. Leave feature_map out, or use "
                "SinkhornFlowGenerator."
            )
        return persistence

    def _problem(
        self,
        X: NDArray[Any],
        X_source: NDArray[Any] | None,
        y_source: NDArray[Any] | None,
        coordinates: Coordinates,
        limits: tuple[Tensor, Tensor] | None,
        *,
        seed: int,
        device: torch.device,
    ) -> tuple[Problem, Tensor, dict[str, Any]]:
        """Return the problem in scaled coordinates, the held-out rows and what was found."""
        y = coordinates.apply(X).float().to(device)
        if limits is None:
            low, high = torch.full_like(y[0], -torch.inf), torch.full_like(y[0], torch.inf)
        else:
            low, high = (
                ((limit - coordinates.shift) / coordinates.scale).float().to(device)
                for limit in limits
            )
        source = None if X_source is None else coordinates.apply(X_source).float().to(device)
        # What the cost compares, the rows themselves without features.
        end, start = y, y if source is None else source
        feature_map, features = fit_feature_map(self.feature_map, X), None
        if X_source is not None and feature_map is not None:
            start, end, features = compared(feature_map, X_source, X, coordinates, y)
        sides = classes = None
        reg = self.reg if self.reg is not None else (0.0 if y_source is None else _LABEL_REG)
        if y_source is not None:
            classes, codes = np.unique(y_source, return_inverse=True)
            sides = class_sides(
                start,
                to_tensor(codes, device=device).long(),
                end,
                n_classes=len(classes),
                weight=self.label_weight,
                reg=reg or _LABEL_REG,
            )
            warn_of_no_gain(sides)
        rows, held_out = split_rows(y, self.validation_fraction, derive_seed(seed, SPLIT))
        problem = Problem(
            y=y[rows],
            source=source,
            side_source=None if sides is None else sides.source,
            side_target=None if sides is None else sides.target[rows],
            weights=None if sides is None else sides.weights,
            low=low,
            high=high,
            reg=reg * mean_cost(start, end),
            seed=seed,
            features_source=None if features is None else start,
            features_target=None if features is None else end[rows],
            features=features,
        )
        found = {
            "X_source_": X_source,
            "feature_map_": feature_map,
            "classes_source_": classes,
            "target_proba_": None if sides is None else to_numpy(sides.proba),
            "target_proportions_": None if sides is None else to_numpy(sides.shares),
        }
        return problem, y[held_out], found

    def _update(
        self,
        problem: Problem,
        persistence: int | str,
        regressor: Regressor,
        generator: torch.Generator,
    ) -> tuple[Update, tuple[Stateful, ...]]:
        """Return what an iteration does to the network, and the parts that change with it."""
        n_source = self.batch_size if problem.source is None else len(problem.source)
        batch_size = min(self.batch_size, n_source)
        if persistence == "full":
            draw = end_points(problem, self.max_iter * _INNER_STEPS * batch_size)
            return pair_update(draw, batch_size=batch_size, n_inner=_INNER_STEPS), (draw,)

        def push(n: int) -> tuple[Tensor, Tensor | None]:
            z, side = problem.draw(n, generator)
            return evaluate(regressor.module, z), side

        field, potential, on_step = velocity(
            problem,
            self.potential,
            push,
            debias=self.debias,
            batch_size=batch_size,
            generator=generator,
        )
        update = persistent_update(
            lambda n: problem.draw(n, generator),
            field,
            step_size=self.step_size,
            persistence=persistence,
            batch_size=batch_size,
            on_step=on_step,
        )
        return update, (potential, RandomStream(generator))
