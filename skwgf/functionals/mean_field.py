"""The risk of a two-layer network, as a functional of the law of its neurons."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from skwgf.functionals._activations import ACTIVATIONS
from skwgf.functionals._neurons import Block, Neurons
from skwgf.functionals._problem import read_labels, read_numbers
from skwgf.functionals._start import draw_normal
from skwgf.functionals.base import Device, Expansion, Functional, Precision
from skwgf.targets._likelihood import with_ones
from skwgf.targets.base import check_positive, is_number

__all__ = ["MeanFieldRisk"]

# Entries of a (rows, neurons) matrix that is worked on at a time: on a CPU, one its caches hold.
_CPU_BLOCK, _OTHER_BLOCK, _LEAST_ROWS = 2**17, 2**24, 64
_OUTPUT_SCALES = {"squared": 1.0, "logistic": 10.0}
_KEPT = 2**24  # entries up to which the blocks of an expansion are kept for its products


class MeanFieldRisk(Functional):
    r"""The regularised risk of a two-layer network whose neurons are the particles.

    A neuron is :math:`\theta = (w, b, a)`, with weights :math:`w \in R^p`, bias b and output
    weights :math:`a \in R^q`. The network is a mean over neurons, and its risk a functional of
    their law :math:`\mu` [1]_ [2]_:

    .. math::
        f(x) = c + s \int a \, \sigma(w \cdot x + b) \, d\mu(\theta), \qquad
        F(\mu) = \frac1M \sum_m \ell(f(x_m), y_m) + \frac{\alpha}{2} \int |\theta|^2 \, d\mu .

    With U the slope of the loss by the outputs, g and H have closed forms: the second derivative
    of a neuron weighted by U, on each neuron alone, and the curvature of the loss (the
    Gauss-Newton part), through which all neurons interact. Both are products of
    (rows, neurons) matrices.

    Parameters
    ----------
    activation : {"tanh", "softplus", "silu", "gelu"}, default="tanh"
        The activation :math:`\sigma`.

    loss : {"squared", "logistic"}, default="squared"
        "squared" is :math:`\frac12 |f - y|^2`, with an output per column of y. "logistic" is the
        cross-entropy of labels: two classes have one output, the log-odds of the second one; more
        have one each and a softmax.

    alpha : float, default=1e-2
        Weight of the penalty, not negative. It decides how smooth the network is: targets with
        much noise want 1e-2 to 1e-1, targets with little 1e-4 to 1e-3.

    normalize_y : bool, default=True
        Whether each column of y is measured from its mean in units of its standard deviation, in
        which the loss is taken too; labels then have the log-odds, or the log frequencies, of
        their classes as c. False is c = 0 and y as it is.

    output_scale : float, default=None
        The factor s, in the units of the outputs. With a larger one the same function has smaller
        weights and is penalised less. None is 1 for the squared loss, of outputs in standard
        deviations of y, and 10 for the logistic one, whose log-odds are large where the classes
        are far apart.

    init_scale : float, default=1.0
        Standard deviation of the bias and of :math:`w \cdot x` over the neurons of `draw_start`.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        The labels, in the order of :func:`numpy.unique`; of the logistic loss only.

    n_features_in_, n_outputs_ : int
        The numbers p and q.

    output_scale_ : float
        The factor s used.

    n_dim_ : int
        p + 1 + q coordinates of a neuron: w, b, a.

    length_scale_ : float
        1: a neuron changes its shape over weights of order one.

    Raises
    ------
    ValueError
        At `fit`, if a parameter is not one of the above, or X and y do not suit the loss. "relu"
        is refused: its second derivative is zero but for a spike that no sample shows, so that
        second-order methods are blind to how its weights bend.

    Notes
    -----
    Features are used as they are: standardise them first. The logistic loss of two classes could
    have a softmax over two outputs as well; their common shift, which the loss does not see, would
    only add flat directions.

    References
    ----------
    .. [1] S. Mei, A. Montanari, P.-M. Nguyen. *A mean field view of the landscape of two-layer
       neural networks*. PNAS 115(33), 2018, arXiv:1804.06561.
    .. [2] L. Chizat, F. Bach. *On the global convergence of gradient descent for
       over-parameterized models using optimal transport*. NeurIPS 2018, arXiv:1805.09545.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf.functionals import MeanFieldRisk
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> risk = MeanFieldRisk().fit(X, 3 * X[:, 0])
    >>> neurons = risk.draw_start(10, torch.Generator().manual_seed(0))
    >>> neurons.shape, risk.expand(neurons).gradient.shape
    (torch.Size([10, 3]), torch.Size([10, 3]))
    """

    n_features_in_: int
    n_outputs_: int
    output_scale_: float
    classes_: NDArray[Any]

    def __init__(
        self,
        activation: str = "tanh",
        loss: str = "squared",
        *,
        alpha: float = 1e-2,
        normalize_y: bool = True,
        output_scale: float | None = None,
        init_scale: float = 1.0,
    ) -> None:
        self.activation = activation
        self.loss = loss
        self.alpha = alpha
        self.normalize_y = normalize_y
        self.output_scale = output_scale
        self.init_scale = init_scale

    @property
    def learns_from_data(self) -> bool:
        """True: the risk is that of the rows of X and y."""
        return True

    @property
    def estimator_type(self) -> Literal["regressor", "classifier"]:
        """What the loss makes of a network."""
        return "classifier" if self.loss == "logistic" else "regressor"

    def fit(self, X: Any, y: Any = None, *, device: Device = None, dtype: Precision = None) -> Self:
        """Condition on the rows of X and y, numbers or labels as the loss wants them."""
        self._check_parameters()
        if self.loss == "logistic":
            problem, self.classes_ = read_labels(X, y, self, offset=self.normalize_y)
        else:
            problem = read_numbers(X, y, self, normalize=self.normalize_y)
        p, q = problem.rows.shape[1], problem.targets.shape[1]
        self._settle(
            p + 1 + q, length_scale=1.0, follow=problem.rows.dtype, device=device, dtype=dtype
        )
        self.n_features_in_, self.n_outputs_ = p, q
        scale = _OUTPUT_SCALES[self.loss] if self.output_scale is None else self.output_scale
        self.output_scale_ = float(scale)
        self._loss = problem.loss
        self._X, self._targets = (
            with_ones(self._tensor(problem.rows)),
            self._tensor(problem.targets),
        )
        self._centre, self._unit = self._tensor(problem.centre), self._tensor(problem.unit)
        self._offset = self._tensor(problem.offset)
        return self

    def draw_start(self, n: int, generator: torch.Generator) -> Tensor:
        r"""Draw (n, d) neurons that differ: all coordinates are normal.

        Output weights are of the law N(0, 1), and w and b such that :math:`w \cdot x` and b have
        the standard deviation `init_scale` for a row of typical length.
        """
        p = self.n_features_in_
        size = math.sqrt(float(self._X[:, :p].double().square().sum(1).mean())) or 1.0
        scales = torch.ones(self.n_dim_, dtype=self.dtype_, device=self.device_)
        scales[:p], scales[p] = self.init_scale / size, self.init_scale
        return draw_normal(n, self.n_dim_, generator, self._X) * scales

    def outputs(self, z: Tensor, X: Tensor) -> Tensor:
        """Return what the network of the neurons `z` gives for rows of features.

        Parameters
        ----------
        z : Tensor of shape (n, d)
            Neurons.

        X : Tensor of shape (rows, p)
            Features, in the precision of the fit.

        Returns
        -------
        Tensor of shape (rows, q)
            Values in the units of y, or log-odds: one column, or one per class for a softmax.
            Differentiable in `z` and `X`.

        Raises
        ------
        ValueError
            If `z` or `X` does not have the columns of the fit.
        """
        self._check_particles(z)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X must have {self.n_features_in_} columns, as in the fit, got shape "
                f"{tuple(X.shape)}."
            )
        blocks = torch.split(X, self._block_rows(len(z)))
        added = torch.cat([self._network(z, with_ones(block)) for block in blocks])
        return self._centre + self._unit * added

    def probability(self, z: Tensor, X: Tensor) -> Tensor:
        """Return the probability of each class of the logistic loss, of shape (rows, classes).

        Parameters and errors are those of :meth:`outputs`; the squared loss has none.
        """
        if self.loss != "logistic":
            raise ValueError("Only loss='logistic' gives probabilities; use outputs instead.")
        outputs = self.outputs(z, X)
        if self.n_outputs_ == 1:
            return torch.cat([(-outputs).sigmoid(), outputs.sigmoid()], dim=1)
        return outputs.softmax(1)

    def _check_parameters(self) -> None:
        """Refuse what no risk can be made of."""
        if self.activation == "relu":
            raise ValueError(
                "activation='relu' has no second derivative to descend along: its Hessian misses "
                "how the kinks move. Use 'softplus', 'silu' or 'gelu', which are close to it and "
                "smooth."
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {sorted(ACTIVATIONS)}, got {self.activation!r}."
            )
        if self.loss not in ("squared", "logistic"):
            raise ValueError(f"loss must be 'squared' or 'logistic', got {self.loss!r}.")
        if not (is_number(self.alpha) and 0 <= self.alpha < math.inf):
            raise ValueError(f"alpha must be finite and not negative, got {self.alpha!r}.")
        check_positive(init_scale=self.init_scale)
        if self.output_scale is not None:
            check_positive(output_scale=self.output_scale)

    def _split(self, z: Tensor) -> Neurons:
        """Return the parts of the neurons."""
        first = self.n_features_in_ + 1
        return Neurons(z[..., :first], z[..., first:])

    def _network(self, z: Tensor, X: Tensor) -> Tensor:
        """Return the outputs in the units of the loss, for X with a column of ones."""
        w, a = self._split(z)
        hidden = ACTIVATIONS[self.activation].apply(X @ w.T)
        return self._offset + (self.output_scale_ / len(z)) * (hidden @ a)

    def _block_rows(self, n: int) -> int:
        """Return how many rows to work on at a time, with n neurons."""
        return max(_LEAST_ROWS, self._entries() // n)

    def _rows(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Return blocks of rows with their targets."""
        return zip(torch.split(self._X, size), torch.split(self._targets, size), strict=True)

    def _entries(self) -> int:
        """Return how many entries of a matrix to work on at a time."""
        return _CPU_BLOCK if self.device_.type == "cpu" else _OTHER_BLOCK

    def _value(self, z: Tensor) -> Tensor:
        size = self._block_rows(len(z))
        total = z.new_zeros(())
        for X, y in self._rows(size):
            total = total + self._loss.total(self._network(z, X), y)
        return total / len(self._X) + 0.5 * self.alpha * z.square().sum() / len(z)

    def _expand(self, z: Tensor) -> Expansion:
        n, M = len(z), len(self._X)
        neurons, size = self._split(z), self._block_rows(n)

        def expand_blocks() -> Iterator[Block]:
            for X, y in self._rows(size):
                yield Block.at(
                    X,
                    y,
                    neurons,
                    ACTIVATIONS[self.activation],
                    self._loss,
                    self._offset,
                    self.output_scale_,
                )

        few = n * M <= _KEPT
        kept = list(expand_blocks()) if few else []
        value, gradient = z.new_zeros(()), torch.zeros_like(z)
        for block in kept if few else expand_blocks():
            value += block.loss
            gradient += block.gradient()

        def hessian(fields: Tensor) -> Tensor:
            product = self.alpha * fields
            # As many fields at a time as keep a block of all of them small.
            together = max(1, self._entries() // (n * min(size, M)))
            for block in kept if few else expand_blocks():
                for some, out in zip(
                    torch.split(fields, together), torch.split(product, together), strict=True
                ):
                    out += block.product(self._split(some)) / M
            return product

        penalty = 0.5 * self.alpha * z.square().sum() / n
        return Expansion(value / M + penalty, gradient / M + self.alpha * z, hessian)
