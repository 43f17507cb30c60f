"""What the generators share: the network's training, sample, transform and score."""

from __future__ import annotations

import copy
from collections.abc import Callable
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import check_scalar
from torch import Tensor

from skwgf._tensor import derive_seed, draw_seed, make_generator, to_numpy, to_tensor
from skwgf.estimators._coordinates import Coordinates, fit_coordinates, push_forward
from skwgf.estimators._inputs import check_layers
from skwgf.estimators._validation import Validation, divergence
from skwgf.flows import FlowResult, NetworkCarrier, plateau, settled
from skwgf.flows.carriers import Stateful
from skwgf.flows.loop import History
from skwgf.flows.regression import Update
from skwgf.nn import Activation, PushForward, Regressor, evaluate, mlp

# Independent random streams of one fit.
SPLIT, VALIDATION, POTENTIAL, SCORE = 1, 2, 3, 4
# The score compares at most that many rows: its cost grows with their square.
_SCORE_ROWS = 5000
# Hidden layers where none are given. A regression on end points wants depth: number and width. In a
# loop, whose targets move, so many layers may die at once.
_DEPTH, _LEAST_WIDTH, _WIDTH_A_COLUMN, _MOST_WIDTH = 6, 48, 2, 256
_IN_A_LOOP = (64, 64, 64, 64)
# Number of validations in a fit.
_VALIDATIONS = 20


def choose(n_rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Return n indices of rows, without repetition as long as there are enough."""
    if n <= n_rows:
        return torch.randperm(n_rows, generator=generator)[:n]
    return torch.randint(n_rows, (n,), generator=generator)


def averaged_core(regressor: Regressor) -> torch.nn.Module:
    """Return a copy of the trained network with its averaged weights."""
    with regressor.averaged() as module:
        return copy.deepcopy(cast(PushForward, module).core)


class GeneratorMixin(OneToOneFeatureMixin, TransformerMixin):
    """Training and use of a network, the fitted `network_`, that maps a reference to data.

    The reference is N(0, I) when the fitted `X_source_` is None, else the rows of `X_source_`.
    """

    hidden_layer_sizes: tuple[int, ...] | None
    activation: str
    learning_rate: float
    ema_decay: float
    max_iter: int
    tol: float
    n_iter_no_change: int | None
    dtype: Any
    network_: PushForward
    X_source_: NDArray[Any] | None
    _seed: int
    _to_the_end: bool
    _draws_dtype: np.dtype[Any]
    _architecture: tuple[Any, ...]
    _training_state: dict[str, Tensor]
    _goes_on: Callable[[], bool]
    _run: Callable[..., FlowResult]
    _validate: Callable[..., NDArray[Any]]

    def _new_regressor(
        self,
        n_inputs: int,
        d: int,
        *,
        residual: bool,
        generator: torch.Generator,
        device: torch.device,
        max_grad_norm: float | None = None,
        limits: tuple[Tensor, Tensor] | None = None,
    ) -> Regressor:
        """Return the network to train with its optimiser, in the state of an earlier fit or new."""
        sizes = self._layers(d)
        core = mlp(
            n_inputs,
            d,
            sizes,
            activation=cast(Activation, self.activation),
            generator=generator,
            zero_last=residual,
            device=device,
        )
        inputs, outputs = torch.zeros(n_inputs, device=device), torch.zeros(d, device=device)
        module = PushForward(
            core,
            in_shift=inputs,
            in_scale=inputs + 1,
            out_shift=outputs,
            out_scale=outputs + 1,
            residual=residual,
            **_limits(limits, device),
        )
        regressor = Regressor(
            module,
            learning_rate=self.learning_rate,
            ema_decay=self.ema_decay,
            max_grad_norm=max_grad_norm,
        )
        if self._goes_on():
            if self._describe(module) != self._architecture:
                raise ValueError(
                    "warm_start=True goes on with the network of the previous fit, but its "
                    "classes, layers or columns have changed, or the kind of reference. Set "
                    "warm_start=False, or fit a clone."
                )
            regressor.load_state_dict(self._training_state)
        return regressor

    def _describe(self, module: PushForward) -> tuple[Any, ...]:
        """Return what the network of a warm start must share with the one before it."""
        n_inputs, d = len(module.in_shift), len(module.out_shift)
        return n_inputs, d, self._layers(d), self.activation, module.residual

    def _layers(self, d: int) -> tuple[int, ...]:
        """Return the widths of the hidden layers for rows of d columns."""
        if self.hidden_layer_sizes is None:
            if not self._to_the_end:
                return _IN_A_LOOP
            return _DEPTH * (min(max(_LEAST_WIDTH, _WIDTH_A_COLUMN * d), _MOST_WIDTH),)
        return check_layers(self.hidden_layer_sizes)

    def _train(
        self,
        X: NDArray[Any],
        y: Any,
        regressor: Regressor,
        update: Update,
        *,
        given: tuple[Any, ...],
        parts: tuple[Stateful, ...],
        validation: Validation | None,
        coordinates: Coordinates,
        found: dict[str, Any],
        seed: int,
        device: torch.device,
        limits: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Run the loop on the network and set the fitted attributes, `found` among them.

        The `limits` of the columns are in the units of the data; `given` is what the fit was given
        beside X and y.
        """
        module = cast(PushForward, regressor.module)

        def fitted() -> dict[str, Any]:
            return found | {
                "network_": push_forward(
                    averaged_core(regressor),
                    coordinates,
                    n_inputs=len(module.in_shift),
                    residual=module.residual,
                    device=device,
                    **_limits(limits, device),
                ),
                "_architecture": self._describe(module),
                "_seed": seed,
                "_training_state": regressor.state_dict(),
                "_draws_dtype": X.dtype if self.dtype is None else np.dtype(self.dtype),
            }

        self._run(
            NetworkCarrier(regressor, update, max_iter=self.max_iter, parts=parts),
            X=X,
            y=y,
            given=given,
            fitted=fitted,
            stop=self._stopping_rule("objective" if validation is None else "validation"),
            validate=None if validation is None else validation.figure,
            slack=0.0 if validation is None else validation.noise,
            validate_every=max(1, self.max_iter // _VALIDATIONS),
            remedies="Increase max_iter, or accept a larger tol.",
        )

    def _stopping_rule(self, key: str) -> Callable[[History], bool]:
        """Return when to stop: at the end of the schedule, or on a plateau if asked for."""
        if self.n_iter_no_change is not None:
            return plateau(key, tol=self.tol, patience=self.n_iter_no_change)
        return settled(key, tol=self.tol, after=self.max_iter)

    def _sample(
        self,
        n_samples: int,
        random_state: int | np.random.RandomState | None,
        draw: Callable[[int, torch.Generator], Tensor],
    ) -> NDArray[Any]:
        """Return `n_samples` of what `draw` gives, with a fresh or a fixed seed."""
        n = check_scalar(n_samples, "n_samples", Integral, min_val=1)
        return to_numpy(draw(int(n), make_generator(draw_seed(random_state))), self._draws_dtype)

    def _score(
        self, X: NDArray[Any], draw: Callable[[NDArray[Any], torch.Generator], Tensor]
    ) -> float:
        """Return minus the divergence between X and what `draw` gives for the rows of X.

        `draw(index, generator)` returns one draw for each row of X in `index`.
        """
        generator = make_generator(derive_seed(self._seed, SCORE))
        index = np.arange(len(X))
        if len(X) > _SCORE_ROWS:
            index = to_numpy(torch.randperm(len(X), generator=generator)[:_SCORE_ROWS])
        coordinates = fit_coordinates(X[index])
        rows, draws = coordinates.apply(X[index]), to_numpy(draw(index, generator))
        unit = float(coordinates.scale[0])
        return -divergence(rows, coordinates.apply(draws)) * unit * unit

    def _draw(
        self, n: int, generator: torch.Generator, reference: NDArray[Any] | None = None
    ) -> Tensor:
        """Return n draws as a tensor, from N(0, I) or from rows of `reference`."""
        if reference is None:
            d = len(self.network_.out_shift)
            return self._push(torch.randn(n, d, dtype=torch.float64, generator=generator))
        return self._push(reference[to_numpy(choose(len(reference), n, generator))])

    def _push(self, rows: Any) -> Tensor:
        """Return the images of reference rows."""
        buffer = self.network_.out_shift
        return evaluate(self.network_, to_tensor(rows, device=buffer.device, dtype=buffer.dtype))


def _limits(limits: tuple[Tensor, Tensor] | None, device: torch.device) -> dict[str, Tensor]:
    """Return the limits of the columns by the names that a push-forward has for them."""
    if limits is None:
        return {}
    return {name: limit.to(device) for name, limit in zip(("low", "high"), limits, strict=True)}
