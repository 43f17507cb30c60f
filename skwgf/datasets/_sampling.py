"""How points are drawn: the random generator, counts by mode, normals, checks of the arguments.

Every sampler of this subpackage comes in two kinds that share one code path. The i.i.d. kind draws
multinomial counts and pseudo-random points; the stratified kind takes the counts closest to the
weights and scrambled Sobol points, so that its own error is small beside that of an i.i.d. sample.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import qmc
from sklearn.utils._param_validation import Interval, validate_parameter_constraints

from skwgf._tensor import draw_seed

RandomState = int | np.random.RandomState | None

_SOBOL_BITS = 30

_COUNT = [Interval(Integral, 1, None, closed="left")]
_POSITIVE = [Interval(Real, 0, None, closed="neither")]
_CONSTRAINTS: dict[str, list[Any]] = {
    "n_samples": _COUNT,
    "n_modes": _COUNT,
    "n_features": _COUNT,
    "radius": _POSITIVE,
    "far": _POSITIVE,
    "scale": _POSITIVE,
    "spread": _POSITIVE,
    "rare_weight": [Interval(Real, 0, 0.5, closed="neither")],
    "anisotropy": [Interval(Real, 1, None, closed="left")],
    "noise": [Interval(Real, 0, None, closed="left")],
    "stratified": ["boolean"],
}


def check_parameters(caller: str, **parameters: Any) -> None:
    """Raise scikit-learn's InvalidParameterError for the first argument out of its range."""
    constraints = {name: _CONSTRAINTS[name] for name in parameters}
    validate_parameter_constraints(constraints, parameters, caller_name=caller)


def make_rng(random_state: RandomState) -> np.random.Generator:
    """Return a generator of its own; None seeds it with fresh entropy of the system."""
    return np.random.default_rng(draw_seed(random_state))


def largest_remainder(weights: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Round `n * weights` to integers that sum to `n`, each less than 1 away (Hamilton's rule)."""
    quotas = n * weights
    counts = np.floor(quotas).astype(np.intp)
    # stable: equal remainders are served in the order of the modes, whatever the platform
    by_remainder = np.argsort(counts - quotas, kind="stable")
    counts[by_remainder[: n - counts.sum()]] += 1
    return counts


def draw_counts(
    weights: NDArray[np.float64], n: int, rng: np.random.Generator, *, stratified: bool
) -> NDArray[np.intp]:
    """Share `n` points among modes: at random (multinomial), or as close as integers can be."""
    if stratified:
        return largest_remainder(weights, n)
    return rng.multinomial(n, weights).astype(np.intp)


def sobol_uniforms(n: int, d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return `n` scrambled Sobol points of the open unit cube, shape (n, d)."""
    engine = qmc.Sobol(d, scramble=True, bits=_SOBOL_BITS, seed=rng)
    points = engine.random_base2(max(int(n) - 1, 0).bit_length())[:n]
    # the middle of the finest cell: a coordinate of exactly 0 would become an infinite normal
    uniforms: NDArray[np.float64] = points + 0.5 ** (_SOBOL_BITS + 1)
    return uniforms


def draw_normals(
    n: int, d: int, rng: np.random.Generator, *, stratified: bool
) -> NDArray[np.float64]:
    """Return `n` standard normal vectors, shape (n, d), independent or quasi-random."""
    if stratified:
        normals: NDArray[np.float64] = ndtri(sobol_uniforms(n, d, rng))
        return normals
    return rng.standard_normal((n, d))
