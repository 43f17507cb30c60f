r"""Energies :math:`F(\mu)` of a law, evaluated at equally weighted particles.

=========================== ======================================================== ===========
functional                  what it is small for                                     X
=========================== ======================================================== ===========
:class:`EnergyDistance`     particles that stand for the rows of X                   data
:class:`InteractionEnergy`  pairs at the distances that W likes                      start
:class:`KSD`                particles that stand for a density, without draws of it  the target's
:class:`MMD`                particles that stand for the rows of X, under a kernel   data
:class:`MeanFieldRisk`      neurons whose network predicts y from X                  data
:class:`PotentialEnergy`    particles where V is low                                 start
:class:`SecondMoment`       particles with a given second moment, or that of X       data if None
:class:`SinkhornDivergence` particles that stand for the rows of X, by transport     data
:class:`SmoothedEntropy`    particles that spread                                    start
:class:`TorchFunctional`    whatever a function says                                 as it reads
:class:`VarianceCosine`     mass one at an odd integer, with known saddles           start
=========================== ======================================================== ===========

"data" means that the functional is conditioned on X, and "start" that X is the cloud to start
from. They add with ``+`` and are multiplied by numbers with ``*``. Gradients and Hessian products
are those of Wasserstein space: n times the ordinary derivatives.
"""

from __future__ import annotations

from skwgf.functionals.base import Expansion, Functional
from skwgf.functionals.combined import Scaled, Sum
from skwgf.functionals.custom import TorchFunctional, as_functional
from skwgf.functionals.energy_distance import EnergyDistance
from skwgf.functionals.entropy import SmoothedEntropy
from skwgf.functionals.interaction import InteractionEnergy
from skwgf.functionals.ksd import KSD
from skwgf.functionals.mean_field import MeanFieldRisk
from skwgf.functionals.mmd import MMD
from skwgf.functionals.potential import PotentialEnergy
from skwgf.functionals.second_moment import SecondMoment
from skwgf.functionals.sinkhorn import SinkhornDivergence
from skwgf.functionals.variance_cosine import VarianceCosine

__all__ = [
    "KSD",
    "MMD",
    "EnergyDistance",
    "Expansion",
    "Functional",
    "InteractionEnergy",
    "MeanFieldRisk",
    "PotentialEnergy",
    "Scaled",
    "SecondMoment",
    "SinkhornDivergence",
    "SmoothedEntropy",
    "Sum",
    "TorchFunctional",
    "VarianceCosine",
    "as_functional",
]
