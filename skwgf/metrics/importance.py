"""How far importance weights can be trusted."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import genpareto

__all__ = ["pareto_k"]

_FEWEST, _FEWEST_ABOVE = 25, 5


def pareto_k(log_weights: ArrayLike) -> float:
    r"""Return the Pareto k of importance weights, the index of their upper tail.

    A generalised Pareto law is fitted to the largest :math:`\min(n / 5, 3 \sqrt n)` weights, by
    maximum likelihood. Weights of index k have moments of order below 1/k: under 0.5 the variance
    of a weighted mean is finite, up to 0.7 such means are usable, and above 1 the weights have no
    mean to speak of [1]_.

    Parameters
    ----------
    log_weights : array-like of shape (n,)
        Logarithms of the weights, up to a constant; n is 25 at least.

    Returns
    -------
    float
        Minus infinity where the largest weights are all the same; infinity where fewer than five
        draws hold all of the weight, up to rounding.

    Raises
    ------
    ValueError
        If there are too few weights, some are NaN or plus infinity, or all are minus infinity.

    References
    ----------
    .. [1] A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry. *Pareto smoothed importance
       sampling*. Journal of Machine Learning Research 25 (2024), arXiv:1507.02646.

    Examples
    --------
    Weights of N(0, 1) to N(0, 2) have the index 1 - 1/2:

    >>> import numpy as np
    >>> from skwgf.metrics import pareto_k
    >>> x = np.random.default_rng(0).normal(size=100_000)
    >>> bool(0.35 < pareto_k(x**2 / 4) < 0.6)
    True
    """
    logs = np.asarray(log_weights, dtype=np.float64)
    if logs.ndim != 1 or len(logs) < _FEWEST:
        raise ValueError(
            f"log_weights must be a vector of {_FEWEST} at least, got shape {logs.shape}."
        )
    if np.isnan(logs).any() or np.isposinf(logs).any():
        raise ValueError("log_weights contains NaN or infinity.")
    if np.isneginf(logs).all():
        raise ValueError("log_weights are all minus infinity: no draw has a weight.")
    n_tail = math.ceil(min(len(logs) / 5, 3 * math.sqrt(len(logs))))
    largest = np.sort(logs)[-n_tail - 1 :]
    weights = np.exp(largest - largest[-1])
    excess = weights[1:] - weights[0]
    if excess[-1] <= 0:
        return -math.inf
    # Those that tie with the threshold say nothing of the tail, and have no likelihood under it.
    above = excess[excess > 0]
    if len(above) < _FEWEST_ABOVE:  # a few draws hold all of the weight
        return math.inf
    k, _, _ = genpareto.fit(above, floc=0)
    return float(k)
