r"""Two-layer networks in the mean-field scaling: neurons as particles, moved by saddle-free Newton.

.. math:: f(x) = c + s \int a \, \sigma(w \cdot x + b) \, d\mu(w, b, a)
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from skwgf._tensor import tensor_to_array, to_numpy
from skwgf._threads import one_thread_in_pools
from skwgf.estimators._mean_field import NeuronsFlow

__all__ = ["MeanFieldClassifier", "MeanFieldRegressor"]


class MeanFieldRegressor(RegressorMixin, NeuronsFlow):
    r"""Regression by a two-layer network whose neurons are particles.

    A neuron is :math:`\theta = (w, b, a)`. The network is a mean over neurons, and its risk a
    functional of their law :math:`\mu` [1]_ [2]_,

    .. math::
        f(x) = c + s \, \frac1n \sum_i a_i \, \sigma(w_i \cdot x + b_i), \qquad
        F(\mu) = \frac1M \sum_m \tfrac12 |f(x_m) - y_m|^2 + \frac\alpha2 \int |\theta|^2 \, d\mu ,

    in standardised columns of X and y. It is minimised over all neurons together by a second-order
    method that leaves saddles [3]_, on all rows at once: tens of steps instead of thousands of
    stochastic ones, without a learning rate.

    Read more in the :ref:`User Guide <mean_field>`.

    Parameters
    ----------
    n_particles : int or None, default=None
        Number of neurons, at least 2. None is 100.

    activation : {"tanh", "softplus", "silu", "gelu"}, default="tanh"
        The activation :math:`\sigma`.

    alpha : float or "auto", default="auto"
        Weight :math:`\alpha` of the penalty, which decides how smooth the network is. "auto" holds
        rows out, fits networks with 0.3, 0.1, 0.03, ... down to 1e-5 to the others until the
        held-out loss has risen twice, and takes the best of these values for the fit to all rows.
        That is up to ten more fits, coarse ones in single precision. Where less than ten rows would
        be held out "auto" is 0.01, and with `warm_start` it is the value of the earlier fit.

    validation_fraction : float, default=0.2
        Share of the rows held out for ``alpha="auto"``.

    output_scale : float or None, default=None
        The factor s. With a larger one the same function has smaller weights and is penalised less.
        None is 1.

    init : array-like of shape (n_particles, n_parameters) or None, default=None
        Neurons to start from, in the coordinates of `particles_`. None draws them.

    beta : float or "auto", default="auto"
        Regularisation of the step :math:`(H^2 + \beta I)^{-1/2} g`, see
        :func:`~skwgf.flows.newton.wsfn_direction`.

    solver : {"auto", "eigh", "lanczos"}, default="auto"
        How that step is computed: from the dense Hessian, or by Lanczos. "auto" is "eigh" up to 300
        coordinates, n_particles times n_parameters.

    max_iter : int, default=100
        Largest number of steps of a fit.

    step_size : float, default=1.0
        First step of the line search.

    tol : float, default=1e-2
        A fit ends when the risk has fallen by a share of at most tol over five steps.

    warm_start : bool, default=False
        Whether fit goes on from the neurons of the previous fit.

    device : None, str or torch.device, default=None
        Where to compute: None is the CPU, "auto" the first accelerator.

    dtype : {"float32", "float64"} or None, default=None
        Precision; None is that of X. Single precision takes about two thirds of the time.

    random_state : int, RandomState instance or None, default=None
        Seed of the start, of the rows held out, and of the kicks out of saddles.

    verbose : int, default=0
        Print a line every `verbose` iterations, and for every alpha that is tried.

    checkpoint : str, path or None, default=None
        File that keeps the state of the fit. Where it is there from a fit that was cut off, one of
        the same parameters and data goes on from it; at the end it is deleted. It needs a
        `random_state`, and is not for searches, whose fits would share the file.

    checkpoint_every : int, default=50
        Number of iterations between two states.

    Attributes
    ----------
    particles_ : ndarray of shape (n_particles, n_parameters)
        The neurons: weights of the standardised features, bias, and output weights.

    functional_ : MeanFieldRisk
        The risk, conditioned on the standardised rows.

    alpha_ : float
        The weight of the penalty that was used.

    alphas_, validation_losses_ : ndarray of shape (n_alphas,)
        What was tried for ``alpha="auto"`` and the losses of the rows held out, mean squares in
        units of the variance of y; empty without a search.

    hessian_min_eig_ : float
        Smallest eigenvalue of the Hessian of the risk at the end; by Lanczos an upper bound of it.

    n_iter_ : int
        Number of steps of the last fit, without the search; `history_` goes on over warm starts.

    converged_ : bool
        Whether `tol` was met.

    history_ : dict of ndarray
        A value a step: "objective" (the risk), "gradient_norm", "step", "beta", "smallest_ritz",
        "hessian_products", "seconds"; see :func:`~skwgf.flows.newton.minimize`.

    n_outputs_ : int
        Number of columns of y.

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, when X has string column names.

    Raises
    ------
    ValueError
        When parameters and data do not fit together, `init` has neurons on one spot, which would
        stay together, or X or y is not finite.

    Warns
    -----
    ConvergenceWarning
        When the risk was still falling after `max_iter` steps, or NaN was met.
    UserWarning
        When the fit was interrupted from the keyboard: the best state so far is kept. An interrupt
        during the search is raised.

    See Also
    --------
    skwgf.functionals.MeanFieldRisk : The risk.
    MeanFieldClassifier : The same for labels.

    References
    ----------
    .. [1] S. Mei, A. Montanari, P.-M. Nguyen. *A mean field view of the landscape of two-layer
       neural networks*. PNAS 115(33), 2018, arXiv:1804.06561.
    .. [2] L. Chizat, F. Bach. *On the global convergence of gradient descent for
       over-parameterized models using optimal transport*. NeurIPS 2018, arXiv:1805.09545.
    .. [3] R. Lascu, T. Suzuki. *From Saddle Points Toward Global Minima: A Newton-Type Method on
       Wasserstein Space*. arXiv:2605.17963.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf import MeanFieldRegressor
    >>> X = np.random.default_rng(0).uniform(-2, 2, size=(200, 2))
    >>> y = np.sin(X[:, 0]) * X[:, 1]
    >>> model = MeanFieldRegressor(n_particles=20, alpha=1e-4, random_state=0)
    >>> model.fit(X[:150], y[:150]).score(X[150:], y[150:]) > 0.99
    True
    """

    _LOSS: ClassVar[str] = "squared"

    @property
    def n_outputs_(self) -> int:
        """Number of columns of y."""
        return self.functional_.n_outputs_

    def __sklearn_tags__(self) -> Tags:
        """Return tags that allow several columns of y."""
        tags: Tags = super().__sklearn_tags__()
        tags.target_tags.single_output, tags.target_tags.multi_output = True, True
        return tags

    def predict(self, X: Any) -> NDArray[Any]:
        """Return what the network gives.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
        """
        check_is_fitted(self, "particles_")
        outputs = to_numpy(self.functional_.outputs(self._cloud, self._rows(X)))
        return outputs[:, 0] if self.n_outputs_ == 1 else outputs

    @one_thread_in_pools
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination R^2 of the predictions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True values.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        float
            1 for perfect predictions, 0 for those of the mean, the mean over outputs.
        """
        return float(super().score(X, y, sample_weight=sample_weight))

    def _validated(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        X, y = validate_data(
            self,
            tensor_to_array(X),
            tensor_to_array(y),
            dtype=[np.float64, np.float32],
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        return X, y

    def _codes(self, y: NDArray[Any]) -> NDArray[np.int64]:
        return np.zeros(len(y), dtype=np.int64)

    def _held_out_loss(self, outputs: Tensor, y: NDArray[Any], learnt: NDArray[Any]) -> float:
        spread = learnt.std(0)
        gaps = (to_numpy(outputs) - y.reshape(len(y), -1)) / np.where(spread > 0, spread, 1.0)
        return float(np.square(gaps).mean())


class MeanFieldClassifier(ClassifierMixin, NeuronsFlow):
    r"""Classification by a two-layer network whose neurons are particles.

    The network f of :class:`MeanFieldRegressor` gives log-odds: one output for two classes, one per
    class and a softmax for more. The risk is the cross-entropy with a penalty [1]_,

    .. math::
        F(\mu) = -\frac1M \sum_m \log p(y_m \,|\, f(x_m)) + \frac\alpha2 \int |\theta|^2 \, d\mu ,

    minimised over all neurons together, on all rows at once, by a second-order method that leaves
    saddles [2]_.

    Read more in the :ref:`User Guide <mean_field>`.

    Parameters
    ----------
    n_particles : int or None, default=None
        Number of neurons, at least 2. None is 100.

    activation : {"tanh", "softplus", "silu", "gelu"}, default="tanh"
        The activation :math:`\sigma`.

    alpha : float or "auto", default="auto"
        Weight :math:`\alpha` of the penalty. "auto" chooses it by the log loss of rows held out, of
        each class the same share, see :class:`MeanFieldRegressor`.

    validation_fraction : float, default=0.2
        Share of the rows held out for ``alpha="auto"``.

    output_scale : float or None, default=None
        The factor s of the log-odds. With a larger one the same function has smaller weights and is
        penalised less. None is 10.

    init : array-like of shape (n_particles, n_parameters) or None, default=None
        Neurons to start from, in the coordinates of `particles_`. None draws them.

    beta : float or "auto", default="auto"
        Regularisation of the step :math:`(H^2 + \beta I)^{-1/2} g`, see
        :func:`~skwgf.flows.newton.wsfn_direction`.

    solver : {"auto", "eigh", "lanczos"}, default="auto"
        How that step is computed: from the dense Hessian, or by Lanczos. "auto" is "eigh" up to 300
        coordinates, n_particles times n_parameters.

    max_iter : int, default=100
        Largest number of steps of a fit.

    step_size : float, default=1.0
        First step of the line search.

    tol : float, default=1e-2
        A fit ends when the risk has fallen by a share of at most tol over five steps.

    warm_start : bool, default=False
        Whether fit goes on from the neurons of the previous fit.

    device : None, str or torch.device, default=None
        Where to compute: None is the CPU, "auto" the first accelerator.

    dtype : {"float32", "float64"} or None, default=None
        Precision; None is that of X. Single precision takes about two thirds of the time.

    random_state : int, RandomState instance or None, default=None
        Seed of the start, of the rows held out, and of the kicks out of saddles.

    verbose : int, default=0
        Print a line every `verbose` iterations, and for every alpha that is tried.

    checkpoint : str, path or None, default=None
        File that keeps the state of the fit. Where it is there from a fit that was cut off, one of
        the same parameters and data goes on from it; at the end it is deleted. It needs a
        `random_state`, and is not for searches, whose fits would share the file.

    checkpoint_every : int, default=50
        Number of iterations between two states.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.

    particles_ : ndarray of shape (n_particles, n_parameters)
        The neurons: weights of the standardised features, bias, and output weights.

    functional_ : MeanFieldRisk
        The risk, conditioned on the standardised rows.

    alpha_ : float
        The weight of the penalty that was used.

    alphas_, validation_losses_ : ndarray of shape (n_alphas,)
        What was tried for ``alpha="auto"`` and the log losses of the rows held out; empty without a
        search.

    hessian_min_eig_ : float
        Smallest eigenvalue of the Hessian of the risk at the end; by Lanczos an upper bound of it.

    n_iter_ : int
        Number of steps of the last fit, without the search; `history_` goes on over warm starts.

    converged_ : bool
        Whether `tol` was met.

    history_ : dict of ndarray
        A value a step, see :class:`MeanFieldRegressor`.

    n_features_in_ : int
        Number of columns of X.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, when X has string column names.

    Raises
    ------
    ValueError
        When parameters and data do not fit together, `init` has neurons on one spot, which would
        stay together, there are fewer than two classes, or X is not finite.

    Warns
    -----
    ConvergenceWarning
        When the risk was still falling after `max_iter` steps, or NaN was met.
    UserWarning
        When the fit was interrupted from the keyboard: the best state so far is kept. An interrupt
        during the search is raised.

    See Also
    --------
    skwgf.functionals.MeanFieldRisk : The risk.
    MeanFieldRegressor : The same for numbers.

    References
    ----------
    .. [1] S. Mei, A. Montanari, P.-M. Nguyen. *A mean field view of the landscape of two-layer
       neural networks*. PNAS 115(33), 2018, arXiv:1804.06561.
    .. [2] R. Lascu, T. Suzuki. *From Saddle Points Toward Global Minima: A Newton-Type Method on
       Wasserstein Space*. arXiv:2605.17963.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skwgf import MeanFieldClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MeanFieldClassifier(n_particles=20, alpha=0.03, random_state=0).fit(X, y)
    >>> model.predict_proba(X[:3]).shape, model.score(X, y) > 0.95
    ((3, 3), True)
    """

    _LOSS: ClassVar[str] = "logistic"

    @property
    def classes_(self) -> NDArray[Any]:
        """The labels, sorted."""
        return self.functional_.classes_

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable labels.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to predict for.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        probabilities = self.predict_proba(X)  # raises NotFittedError, which classes_ does not
        labels: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return labels

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
        return to_numpy(self.functional_.probability(self._cloud, self._rows(X)))

    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Return the logarithm of the probability of each class, which does not underflow.

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
        return to_numpy(_log_probability(self.functional_.outputs(self._cloud, self._rows(X))))

    @one_thread_in_pools
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the share of rows whose label is predicted.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        y : array-like of shape (n_samples,)
            True labels.

        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        float
            Accuracy, in [0, 1].
        """
        return float(super().score(X, y, sample_weight=sample_weight))

    def _validated(self, X: Any, y: Any) -> tuple[NDArray[Any], NDArray[Any]]:
        X, y = validate_data(
            self,
            tensor_to_array(X),
            tensor_to_array(y),
            dtype=[np.float64, np.float32],
            ensure_min_samples=2,
        )
        check_classification_targets(y)
        if self._goes_on() and not np.array_equal(np.unique(y), self.classes_):
            raise ValueError(
                f"warm_start=True goes on with the classes {self.classes_.tolist()}, but y has "
                f"{np.unique(y).tolist()}. Set warm_start=False, or fit a clone."
            )
        return X, y

    def _codes(self, y: NDArray[Any]) -> NDArray[np.int64]:
        codes: NDArray[np.int64] = np.unique(y, return_inverse=True)[1]
        return codes

    def _held_out_loss(self, outputs: Tensor, y: NDArray[Any], learnt: NDArray[Any]) -> float:
        codes = np.searchsorted(np.unique(learnt), y)
        return -float(to_numpy(_log_probability(outputs))[np.arange(len(y)), codes].mean())


def _log_probability(outputs: Tensor) -> Tensor:
    """Return log probabilities (rows, classes) from log-odds, of one column or one per class."""
    if outputs.shape[1] == 1:
        return torch.nn.functional.logsigmoid(torch.cat([-outputs, outputs], dim=1))
    return outputs.log_softmax(1)
