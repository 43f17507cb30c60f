"""What to sample from: log densities, densities of data, and Bayesian models.

The particles of a sampler are rows of constrained coordinates, named by `parameter_names_`. For
ArviZ (1.0 or later), with one row of `clouds` per restart as a chain::

    names = sampler.target_.parameter_names_
    draws = {name: clouds[:, :, j] for j, name in enumerate(names)}  # (restarts, particles)
    data = arviz.from_dict({"posterior": draws})

Convergence figures made for Markov chains, such as the effective sample size, mean nothing for
one interacting cloud.
"""

from __future__ import annotations

from skwgf.targets.base import Target
from skwgf.targets.density import KernelDensityTarget
from skwgf.targets.gaussian import Gaussian, GaussianMixture
from skwgf.targets.known import Banana, Funnel, MonomialGamma
from skwgf.targets.linear import LinearRegressionPosterior
from skwgf.targets.log_density import LogDensity
from skwgf.targets.logistic import LogisticRegressionPosterior
from skwgf.targets.network import NeuralNetworkPosterior
from skwgf.targets.posterior import ClassPredictive, NormalPredictive, Posterior
from skwgf.targets.ring import Ring

__all__ = [
    "Banana",
    "ClassPredictive",
    "Funnel",
    "Gaussian",
    "GaussianMixture",
    "KernelDensityTarget",
    "LinearRegressionPosterior",
    "LogDensity",
    "LogisticRegressionPosterior",
    "MonomialGamma",
    "NeuralNetworkPosterior",
    "NormalPredictive",
    "Posterior",
    "Ring",
    "Target",
]
