"""Importance sampling from the law that a flow ended with."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_scalar

from skwgf._tensor import to_numpy
from skwgf._warnings import caller_level
from skwgf.flows.frozen import FlowMap
from skwgf.metrics import pareto_k
from skwgf.targets import Target

_FEWEST = 25


@dataclass(frozen=True, eq=False)
class ImportanceSample:
    r"""Independent draws of a known density q, weighted to the target.

    Attributes
    ----------
    particles : ndarray of shape (n, n_parameters)
        The draws, in the coordinates of the user.

    log_prob : ndarray of shape (n,)
        Log density of q in the unconstrained coordinates.

    log_weights : ndarray of shape (n,)
        Log of the target's density, up to its constant, minus that of q.

    log_evidence : float
        Logarithm of the mean weight, the integral of the target's density.

    standard_error : float
        Of `log_evidence`, from the spread of the weights; to be trusted where `pareto_k` is below
        one half.

    effective_size : float
        :math:`(\sum w)^2 / \sum w^2`: how many draws of the target they are worth.

    pareto_k : float
        Index of the tail of the weights, see :func:`skwgf.metrics.pareto_k`; above 0.7 neither the
        weights nor the evidence are to be trusted.
    """

    particles: NDArray[Any]
    log_prob: NDArray[Any]
    log_weights: NDArray[Any]
    log_evidence: float
    standard_error: float
    effective_size: float
    pareto_k: float


def weigh(
    target: Target, flow_map: FlowMap, n_samples: int, generator: torch.Generator
) -> ImportanceSample:
    """Draw from a flow's law, and weight the draws to the target."""
    n = int(check_scalar(n_samples, "n_samples", Integral, min_val=_FEWEST))
    z, log_prob, folds = flow_map.draw(n, generator)
    if folds:
        warnings.warn(
            f"{folds} of {n} draws passed a place where a step of the flow turns the space over: "
            "their density is that of one branch alone. Reduce step_size.",
            UserWarning,
            stacklevel=caller_level(),
        )
    logs = to_numpy(target.log_prob(z).detach() - log_prob).astype(np.float64)
    # A draw outside of where the density can be computed has no weight.
    logs = np.where(np.isfinite(logs), logs, -np.inf)
    top = float(logs.max())
    if math.isinf(top):
        raise ValueError("The target's density is not finite at any draw of the flow's law.")
    weights = np.exp(logs - top)
    mean = float(weights.mean())
    return ImportanceSample(
        particles=to_numpy(target.constrain(z)),
        log_prob=to_numpy(log_prob),
        log_weights=logs,
        log_evidence=top + math.log(mean),
        standard_error=float(weights.std(ddof=1)) / (mean * math.sqrt(n)),
        effective_size=float(weights.sum() ** 2 / np.square(weights).sum()),
        pareto_k=pareto_k(logs),
    )
