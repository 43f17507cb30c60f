r"""Draws from a pipeline, in the units of the data that the pipeline was given.

The steps in front of the sampler map rows x of the data to the rows u = T(x) that the sampler saw.
Rows are brought back by the inverse maps, in reverse order. Coefficients of a linear model of u are
brought back by the chain rule: where :math:`T(x) = x A + b`,

.. math:: u \cdot w + c = x \cdot (A w) + (c + b \cdot w) .
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from sklearn.utils.validation import check_is_fitted

from skwgf.targets import LinearRegressionPosterior, LogisticRegressionPosterior

__all__ = ["sample_pipeline"]

Step = tuple[str, Any]

# How far rows may be from an affine map, in units of the terms of the map: rounding stays below.
_AFFINE_TOL = 1e-8


def sample_pipeline(
    pipeline: Any,
    n_samples: int = 1,
    *,
    random_state: int | np.random.RandomState | None = None,
    **sample_params: Any,
) -> Any:
    r"""Draw from the last step of a pipeline, in the units of the data it was fitted to.

    Rows drawn by a generator or a sampler of rows go through the `inverse_transform` of the earlier
    steps, the last one first. Draws of :class:`~skwgf.targets.LinearRegressionPosterior` and
    :class:`~skwgf.targets.LogisticRegressionPosterior` are coefficients: where the earlier steps
    make up an affine map :math:`T(x) = x A + b`, coefficients w and intercept c of the transformed
    columns become

    .. math:: w_\text{user} = A w, \qquad c_\text{user} = c + b \cdot w ,

    which predict the same, :math:`x \cdot w_\text{user} + c_\text{user} = T(x) \cdot w + c`.

    Parameters
    ----------
    pipeline : Pipeline, search or sampler
        A fitted :class:`sklearn.pipeline.Pipeline` whose last step has a method `sample`; a search
        over one, of which the best is taken; or the sampler itself. Steps may be pipelines.

    n_samples : int, default=1
        Number of draws, at least 1.

    random_state : int, RandomState instance or None, default=None
        Seed of the draws. None draws afresh at every call.

    **sample_params
        Further arguments of the last step's `sample`, such as `y` of a conditional generator.

    Returns
    -------
    ndarray, pandas or polars DataFrame of shape (n_samples, n_columns)
        Rows in the columns of the data; or, for a linear model, the coefficients of these columns,
        the intercept, and what else the target samples, in the order of its `parameter_names_`. A
        frame where `set_output` asks the last transformer for one.

    Raises
    ------
    NotFittedError
        If the pipeline is not fitted.
    TypeError
        If the last step has no method `sample`.
    ValueError
        If there are no steps, or a step cannot be undone, or the draws are coefficients and the
        steps are not affine, or the draws are neither rows nor coefficients of a linear model.

    Notes
    -----
    Steps that are "passthrough" or None are passed over, and so are
    :class:`~sklearn.impute.SimpleImputer` and :class:`~sklearn.impute.KNNImputer`: draws have no
    missing values. A step that reduces the dimension, such as PCA, is undone as far as it can be:
    rows lie in its subspace. Coefficients do not need inverses, so that a ColumnTransformer of
    numeric columns or a selection of columns is welcome in front of a linear model. The map is
    found from its values at zero and along the axes, and checked at further rows.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skwgf import SVGDSampler, sample_pipeline
    >>> from skwgf.targets import LinearRegressionPosterior
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(50, [1, 20], size=(100, 2))
    >>> rows = make_pipeline(StandardScaler(), SVGDSampler(random_state=0)).fit(X)
    >>> sample_pipeline(rows, 500, random_state=0).mean(0).round(-1)
    array([50., 50.])
    >>> y = X @ [3.0, -0.1] + 7 + 0.1 * rng.normal(size=100)
    >>> target = LinearRegressionPosterior(prior_scale=10.0)
    >>> model = make_pipeline(StandardScaler(), SVGDSampler(target, random_state=0)).fit(X, y)
    >>> sample_pipeline(model, 200, random_state=0)[:, :2].mean(0).round(1)
    array([ 3. , -0.1])
    """
    steps = list(_flatten("", pipeline))
    if not steps:
        raise ValueError(
            "sample_pipeline draws from the last step of a pipeline, but this one has no steps. "
            "Put a generator or a sampler of skwgf there."
        )
    name, sampler = steps.pop()
    if not hasattr(sampler, "sample"):
        what = f"the last step, {name!r}," if name else "the object"
        raise TypeError(
            f"sample_pipeline draws from {what} with a method sample, but {type(sampler).__name__} "
            "has none. Put a generator or a sampler of skwgf there."
        )
    check_is_fitted(sampler)
    steps = [step for step in steps if step[1] is not None]
    draws = sampler.sample(n_samples, random_state=random_state, **sample_params)
    first, last = (steps[0][1], steps[-1][1]) if steps else (sampler, sampler)
    names = getattr(first, "feature_names_in_", None)
    target = getattr(sampler, "target_", None)
    if isinstance(target, LinearRegressionPosterior | LogisticRegressionPosterior):
        if steps:
            draws = _move_coefficients(draws, target, steps)
        names = _coefficient_names(target, draws.shape[1], names)
    elif steps:
        _check_rows(draws, name, sampler)
        draws = _invert(draws, steps)
    return _contain(draws, _get_output_config("transform", last)["dense"], names)


def _flatten(name: str, estimator: Any) -> Iterator[Step]:
    """Yield the steps of nested pipelines and searches with their names; None is no step."""
    if hasattr(estimator, "best_estimator_"):
        yield from _flatten(name, estimator.best_estimator_)
    elif isinstance(estimator, Pipeline):
        for key, step in estimator.steps:
            yield from _flatten(f"{name}__{key}" if name else key, step)
    elif _is_search(estimator):
        check_is_fitted(estimator)
        raise ValueError(
            f"{type(estimator).__name__} was made with refit=False and holds no fitted pipeline. "
            "Set refit=True."
        )
    else:
        passes = isinstance(estimator, str) and estimator == "passthrough"
        yield name, None if passes else estimator


def _is_search(estimator: Any) -> bool:
    """Tell whether this is a search over the parameters of an estimator."""
    return all(hasattr(estimator, name) for name in ("estimator", "refit", "cv", "scoring"))


def _check_rows(draws: Any, name: str, sampler: Any) -> None:
    """Refuse draws that are parameters of a model."""
    learnt = [getattr(sampler, key, None) for key in ("target_", "functional_")]
    is_model = any(getattr(part, "estimator_type", None) for part in learnt)
    if not is_model and np.shape(draws)[1:] == (sampler.n_features_in_,):
        return
    what = " and ".join(type(part).__name__ for part in learnt if part is not None)
    raise ValueError(
        f"The draws of step {name!r} ({what or type(sampler).__name__}) have shape "
        f"{np.shape(draws)} and are parameters of a model of the transformed columns, which have "
        "no counterpart in the units of the data. Take them as they are, "
        "pipeline[-1].sample(...), and predict with the pipeline."
    )


def _invert(rows: Any, steps: list[Step]) -> Any:
    """Return the rows in front of all steps."""
    for name, step in steps:
        _check_invertible(name, step)
    for name, step in reversed(steps):
        if _only_fills(step):
            continue
        try:
            rows = step.inverse_transform(rows)
        except Exception as error:
            error.add_note(f"Met where sample_pipeline undoes the step {name!r}.")
            raise
    return rows


def _only_fills(step: Any) -> bool:
    """Tell whether a step fills missing values and does nothing else."""
    if not isinstance(step, SimpleImputer | KNNImputer) or step.add_indicator:
        return False
    return bool(len(step.get_feature_names_out()) == step.n_features_in_)


def _check_invertible(name: str, step: Any) -> None:
    """Refuse a step without a way back."""
    what = f"The step {name!r} ({type(step).__name__}) "
    by_hand = (
        "Give it an inverse_transform, or take the draws as they are, pipeline[-1].sample(...)."
    )
    if isinstance(step, FunctionTransformer):
        if step.func is not None and step.inverse_func is None:
            raise ValueError(
                f"{what}has no inverse_func: its inverse_transform would do nothing. Set "
                "inverse_func."
            )
    elif isinstance(step, SelectorMixin):
        if not step.get_support().all():
            raise ValueError(
                f"{what}dropped columns, of which nothing is drawn. Select columns before the "
                "pipeline, or take the draws as they are, pipeline[-1].sample(...)."
            )
    elif _is_column_transformer(step):
        raise ValueError(
            f"{what}has no inverse_transform: scikit-learn does not undo it. Scale all columns "
            "with one transformer, or write one that knows the way back, as the example 'A table "
            "of mixed columns' does."
        )
    elif not _only_fills(step) and not hasattr(step, "inverse_transform"):
        raise ValueError(f"{what}has no inverse_transform. {by_hand}")


def _is_column_transformer(step: Any) -> bool:
    """Tell whether a step treats columns by different transformers."""
    return hasattr(step, "transformers_") or hasattr(step, "transformer_list")


def _move_coefficients(draws: NDArray[Any], target: Any, steps: list[Step]) -> NDArray[Any]:
    """Return coefficients and intercepts of the columns in front of all steps."""
    A, b = _affine_map(steps)
    n, d = len(draws), target.n_features_in_
    n_outputs = _n_outputs(target)
    cut = n_outputs * (d + 1)
    weights = draws[:, :cut].reshape(n, n_outputs, d + 1)
    coefficients, intercepts = weights[..., :d], weights[..., d:]
    moved = np.concatenate([coefficients @ A.T, intercepts + coefficients @ b[:, None]], axis=-1)
    whole = np.concatenate([moved.reshape(n, -1), draws[:, cut:]], axis=1)
    return whole.astype(draws.dtype, copy=False)


def _n_outputs(target: Any) -> int:
    """Return the number of linear forms of a model."""
    return sum(name.startswith("intercept") for name in target.parameter_names_)


def _coefficient_names(target: Any, n_parameters: int, columns: Any) -> list[str]:
    """Return the names of a model's parameters, with those of the columns where they have some."""
    n_outputs = _n_outputs(target)
    others = target.parameter_names_[n_outputs * (target.n_features_in_ + 1) :]
    n_columns = (n_parameters - len(others)) // n_outputs - 1
    labels = range(n_columns) if columns is None else columns
    names = []
    for k in range(n_outputs):
        key, suffix = ("", "") if n_outputs == 1 else (f"{k},", f"[{k}]")
        names += [*(f"coef[{key}{label}]" for label in labels), f"intercept{suffix}"]
    return [*names, *others]


def _affine_map(steps: list[Step]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return A (p, d) and b (d,) of the steps' map, :math:`T(x) = x A + b`.

    A step along an axis is as long as moves the image by about b: the slope would be lost in the
    rounding of b otherwise, as it is for a column of mean 1e6 and deviation 1.
    """
    name, first = steps[0]
    if not hasattr(first, "n_features_in_"):
        raise ValueError(
            f"The step {name!r} ({type(first).__name__}) has no attribute n_features_in_, which "
            "tells how many coefficients there are. Set it in its fit."
        )
    p = first.n_features_in_
    lengths = np.ones(p)
    for _ in range(2):
        images = _push(np.vstack([np.zeros(p), np.diag(lengths)]), steps)
        b = images[0]
        A = (images[1:] - b) / lengths[:, None]
        slopes = np.abs(A).max(1)
        slopes[slopes == 0] = 1.0
        lengths = max(1.0, np.abs(b).max()) / slopes
    # Rows near those that the map sends to the origin, where scaled data lie, and far from them.
    rng = np.random.default_rng(0)
    near = (rng.normal(size=(32, len(b))) - b) @ np.linalg.pinv(A)
    rows = np.vstack([near, near + rng.normal(size=(32, p)) * lengths])
    gap = np.abs(_push(rows, steps) - (rows @ A + b))
    if not (gap <= _AFFINE_TOL * (np.abs(rows) @ np.abs(A) + np.abs(b))).all():
        raise _not_affine(steps)
    return A, b


def _push(rows: NDArray[np.float64], steps: list[Step]) -> NDArray[np.float64]:
    """Return the images of rows, which are no data, under all steps."""
    names = getattr(steps[0][1], "feature_names_in_", None)
    # Steps that were fitted to a frame may ask for columns by name.
    library = "default" if names is None else "pandas" if "pandas" in sys.modules else "polars"
    images = _contain(rows, library, names)
    try:
        with np.errstate(all="ignore"):
            for _, step in steps:
                images = step.transform(images)
        images = np.asarray(images, dtype=np.float64)
    except Exception as error:  # infinity on the way, an unknown category, numbers for names
        raise _not_affine(steps) from error
    if not np.isfinite(images).all():
        raise _not_affine(steps)
    return images


def _not_affine(steps: list[Step]) -> ValueError:
    """Return the error of steps that are no affine map."""
    names = ", ".join(f"{name!r} ({type(step).__name__})" for name, step in steps)
    return ValueError(
        f"The steps {names} are not an affine map, T(x) = x A + b, of all rows x: coefficients of "
        "the transformed columns have no counterpart in the units of the data. Use scalers, PCA "
        "or selections of columns, or take the coefficients of the transformed columns, "
        "pipeline[-1].sample(...)."
    )


def _contain(draws: Any, library: str, names: Any) -> Any:
    """Return draws as a frame of a library, unless they are one or are to stay an array."""
    if library == "default" or not isinstance(draws, np.ndarray):
        return draws
    if names is None:
        names = [f"x{j}" for j in range(draws.shape[1])]
    adapter = ADAPTERS_MANAGER.adapters[library]
    return adapter.create_container(draws, None, columns=np.asarray(names, dtype=object))
