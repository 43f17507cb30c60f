"""The classes and functions that a file may name: nothing else is ever built from one.

A name is that of the subpackage or module where the object is found, so that what is public keeps
its name in the files when the code moves.
"""

from __future__ import annotations

import inspect
from functools import cache
from importlib import import_module
from typing import Any

from sklearn.base import BaseEstimator, MetaEstimatorMixin
from torch import nn

from skwgf.flows import _curvature, carriers, frozen, last_layer, regularizers, residual
from skwgf.functionals import _discrepancy, _losses, _pair_sums, _radial
from skwgf.nn import divergence, push_forward
from skwgf.targets import _functions, _likelihood, support

__all__ = ["allowed", "name_of"]

# All estimators that these make public: targets, functionals, kernels, and what is fitted, but for
# wrappers of the user's own estimators, which files do not hold. The last two lie above this
# module, which is why they are looked up only when a file is read or written.
_PUBLIC = (
    "skwgf.targets",
    "skwgf.functionals",
    "skwgf.kernels",
    "skwgf.estimators",
)
# What their fitted attributes are made of.
_PARTS: tuple[Any, ...] = (
    support.Block,
    support.Support,
    _functions.RowFunction,
    _likelihood.Scaling,
    _discrepancy.Discrepancy,
    _pair_sums.PairFunction,
    _losses.Loss,
    _curvature.Extremes,
    carriers.Velocity,
    regularizers.DiagonalQuadratic,
    regularizers.HuberCost,
    regularizers.LpCost,
    frozen.FlowMap,
    frozen.FrozenVelocity,
    last_layer.LastLayer,
    residual._InPrecision,
    divergence.DivergenceMLP,
    push_forward.PushForward,
    nn.Sequential,
    nn.Linear,
    nn.ReLU,
    nn.SiLU,
    nn.Tanh,
    nn.ELU,
)
_HIGHER_PARTS = (("skwgf.estimators._coordinates", "Coordinates"),)
_FUNCTIONS: tuple[Any, ...] = (
    divergence._tanh,
    divergence._silu,
    _losses._squared,
    _losses._squared_jet,
    _losses._binary,
    _losses._binary_jet,
    _losses._softmax,
    _losses._softmax_jet,
    _radial._differentiate,
    _radial._power,
    _radial._powers,
    _radial._root,
    _radial._roots,
    _radial._profile_value,
    _radial._profile,
    _radial._total_value,
    _radial._total_derivatives,
)


@cache
def allowed() -> dict[str, Any]:
    """Return the classes and functions that a file may name, by their names."""
    table: dict[str, Any] = {}
    for name in _PUBLIC:
        module = import_module(name)
        for public in module.__all__:
            member = getattr(module, public)
            if (
                inspect.isclass(member)
                and issubclass(member, BaseEstimator)
                and not issubclass(member, MetaEstimatorMixin)
            ):
                table[f"{name}.{public}"] = member
    for module_name, name in _HIGHER_PARTS:
        table[f"{module_name}.{name}"] = getattr(import_module(module_name), name)
    for part in (*_PARTS, *_FUNCTIONS):
        table[f"{part.__module__}.{part.__qualname__}"] = part
    return table


@cache
def _names() -> dict[Any, str]:
    """Return the names by the objects."""
    names: dict[Any, str] = {}
    for name, member in allowed().items():
        names.setdefault(member, name)
    return names


def name_of(member: Any) -> str | None:
    """Return the name of a class or function in files, None where it may not be named."""
    return _names().get(member)
