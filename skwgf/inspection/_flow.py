"""The cloud of an estimator, or what it generates, against data."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_scalar
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import _get_feature_names

from skwgf._tensor import draw_seed
from skwgf.inspection._common import (
    COLORS,
    QUIET,
    SOURCE,
    add_legend,
    check_rows,
    class_colors,
    column_names,
    fit_projection,
    flow_of,
    is_model,
    learns_from_data,
    marker_size,
    new_axes,
)

# Draws of a generator where nothing else gives their number.
_DRAWS = 500


class FlowDisplay:
    """Samples of a flow against rows of data.

    One column is drawn as a histogram, two as a scatter plot, more by their first two principal
    components. It is recommended to use :meth:`from_estimator` to create a display. All parameters
    are stored as attributes.

    Read more in the :ref:`User Guide <inspection>`.

    Parameters
    ----------
    samples : ndarray of shape (n_samples, 1) or (n_samples, 2)
        Particles or draws, in the coordinates to plot.

    X : ndarray of shape (n_rows, 1) or (n_rows, 2), default=None
        Rows to compare with.

    X_source : ndarray of shape (n_source, 1) or (n_source, 2), default=None
        Rows that the flow started from.

    axis_labels : sequence of str, default=("x0", "x1")
        Names of the coordinates.

    samples_y, y : ndarray of shape (n_samples,) and (n_rows,), default=None
        Classes of the samples and of the rows of X, which colours show.

    samples_label, X_label : str, default="samples", "data"
        Names in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the clouds.

    figure_ : matplotlib Figure
        Figure with the axes.

    samples_ : list of artists
        For each class, or for all, the scatter or the outline of the histogram of the samples.

    X_ : list of artists
        The same of the rows of X; empty without them.

    source_ : artist or None
        That of the source rows.

    See Also
    --------
    TrajectoryDisplay : How the cloud got there.
    DensityDisplay : Particles against the density of their target.

    Examples
    --------
    >>> from skwgf import SVGDSampler
    >>> from skwgf.datasets import make_two_moons
    >>> from skwgf.inspection import FlowDisplay
    >>> X, _ = make_two_moons(200, random_state=0)
    >>> sampler = SVGDSampler(random_state=0).fit(X)
    >>> display = FlowDisplay.from_estimator(sampler, X)
    >>> display.samples.shape, display.X.shape
    ((200, 2), (200, 2))
    """

    ax_: Any
    figure_: Any
    samples_: list[Any]
    X_: list[Any]
    source_: Any

    def __init__(
        self,
        samples: NDArray[Any],
        *,
        X: NDArray[Any] | None = None,
        X_source: NDArray[Any] | None = None,
        axis_labels: Sequence[str] = ("x0", "x1"),
        samples_y: NDArray[Any] | None = None,
        y: NDArray[Any] | None = None,
        samples_label: str = "samples",
        X_label: str = "data",
    ) -> None:
        self.samples = samples
        self.X = X
        self.X_source = X_source
        self.axis_labels = axis_labels
        self.samples_y = samples_y
        self.y = y
        self.samples_label = samples_label
        self.X_label = X_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any = None,
        y: ArrayLike | None = None,
        *,
        n_samples: int | None = None,
        columns: Sequence[Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw samples of a fitted estimator, with rows of data.

        Parameters
        ----------
        estimator : estimator of skwgf
            Fitted. Of a :class:`~skwgf.DomainAdapter` its `flow_` is drawn.

        X : array-like of shape (n_rows, n_features), default=None
            Rows to compare with. Ignored for posteriors, risks and networks, whose samples are
            parameters and not rows like these.

        y : array-like of shape (n_rows,), default=None
            Their classes. A conditional generator draws with these, and colours show them; else
            ignored. Without X they are the classes of the samples.

        n_samples : int, default=None
            Number of draws. None is all particles; for a generator the number of source rows, of
            rows of X, or 500.

        columns : sequence of one or two int or str, default=None
            Columns to show, by position or by name. None shows up to two columns as they are, more
            by the first two principal components of X (of the samples, where X is None).

        random_state : int, RandomState instance or None, default=None
            Seed of the draws.

        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        **kwargs : dict
            Options of :meth:`plot`.

        Returns
        -------
        display : FlowDisplay

        Raises
        ------
        TypeError
            If the estimator draws no samples.
        ValueError
            If X has other columns than the samples, or columns in another order than in fit; or y
            another length than X.

        Examples
        --------
        >>> from sklearn.datasets import load_iris
        >>> from skwgf import WSFNOptimizer
        >>> from skwgf.inspection import FlowDisplay
        >>> X, _ = load_iris(return_X_y=True, as_frame=True)
        >>> points = WSFNOptimizer(n_particles=10, random_state=0).fit(X)
        >>> FlowDisplay.from_estimator(points, X).axis_labels
        ('PC 1 (92% of variance)', 'PC 2 (5% of variance)')
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        flow = flow_of(estimator, f"{cls.__name__}.from_estimator")
        source = getattr(flow, "X_source_", None)
        if is_model(flow):
            X = None
        conditional = hasattr(flow, "network_") and getattr(flow, "classes_", None) is not None
        labels = np.asarray(y) if conditional and y is not None else None
        samples, drawn = _draw(flow, X, labels, n_samples, random_state)
        d = samples.shape[1]
        named = estimator if hasattr(estimator, "feature_names_in_") else flow
        if X is not None:
            _check_names(X, named)
        rows = None if X is None else check_rows(X, d, "X")
        if rows is not None and labels is not None and len(labels) != len(rows):
            raise ValueError(f"X has {len(rows)} rows, but y has {len(labels)} labels.")
        reference = samples if rows is None else rows
        project = fit_projection(reference, column_names(named, d), columns)
        display = cls(
            project(samples),
            X=None if rows is None else project(rows),
            X_source=None if source is None else project(source),
            axis_labels=project.labels,
            samples_y=drawn,
            y=None if rows is None else labels,
            samples_label="particles" if hasattr(flow, "particles_") else "samples",
            X_label="data" if learns_from_data(flow) else "rows of X",
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self, *, ax: Any = None, X_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> Self:
        """Plot the clouds.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        X_kwargs : dict, default=None
            Options of the scatter plot, or of the histogram, of the rows of X.

        **kwargs : dict
            Those of the samples.

        Returns
        -------
        display : FlowDisplay
        """
        self.ax_ = ax = new_axes(ax, f"{type(self).__name__}.plot")
        self.figure_ = ax.figure
        draw = self._histograms if self.samples.shape[1] == 1 else self._scatters
        draw(ax, X_kwargs or {}, kwargs)
        ax.set_xlabel(self.axis_labels[0])
        ax.set_ylabel("density" if self.samples.shape[1] == 1 else self.axis_labels[1])
        add_legend(ax)
        return self

    def _groups(
        self, rows: NDArray[Any] | None, y: NDArray[Any] | None, one: str
    ) -> list[tuple[str, Any, NDArray[Any]]]:
        """Return the parts of a cloud by class, with a name and a colour; `one` for a single."""
        if rows is None:
            return []
        if y is None:
            return [("", one, rows)]
        known = [labels for labels in (self.samples_y, self.y) if labels is not None]
        classes = np.unique(np.concatenate(known))
        colors = class_colors(len(classes))
        return [(f" {k}", c, rows[y == k]) for k, c in zip(classes, colors, strict=True)]

    def _scatters(self, ax: Any, X_kwargs: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """Draw two columns: data in pale, the source above, samples on top."""
        self.X_, self.samples_, self.source_ = [], [], None
        n_rows = 0 if self.X is None else len(self.X)
        for _, color, rows in self._groups(self.X, self.y, QUIET):
            style: dict[str, Any] = {"color": color, "alpha": 0.7 if color == QUIET else 0.3}
            style |= {"s": 1.6 * marker_size(n_rows), "linewidths": 0}
            style["label"] = f"_{self.X_label}" if self.X_ else self.X_label
            self.X_.append(ax.scatter(*rows.T, **(style | X_kwargs)))
        if self.X_source is not None:
            style = {"color": SOURCE, "s": 0.7 * marker_size(len(self.X_source)), "marker": "^"}
            style |= {"alpha": 0.7, "linewidths": 0, "label": "source"}
            self.source_ = ax.scatter(*self.X_source.T, **style)
        size = marker_size(len(self.samples))
        for name, color, rows in self._groups(self.samples, self.samples_y, COLORS[0]):
            style = {"color": color, "s": size, "alpha": 0.85, "edgecolors": "white"}
            style |= {"linewidths": 0.3 if size > 10 else 0, "label": self.samples_label + name}
            self.samples_.append(ax.scatter(*rows.T, **(style | kwargs)))

    def _histograms(self, ax: Any, X_kwargs: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """Draw one column: data filled in pale, samples as outlines, in the same bins."""
        clouds = [c for c in (self.samples, self.X, self.X_source) if c is not None]
        # No more bins than each of the clouds fills.
        n_bins = min(len(np.histogram_bin_edges(c, "auto")) - 1 for c in clouds)
        bins = np.histogram_bin_edges(np.concatenate(clouds), max(n_bins, 10))
        common: dict[str, Any] = {"bins": bins, "density": True}
        self.X_, self.samples_, self.source_ = [], [], None
        for _, color, rows in self._groups(self.X, self.y, QUIET):
            style: dict[str, Any] = {"histtype": "stepfilled", "color": color}
            style["alpha"] = 0.6 if color == QUIET else 0.25
            style["label"] = f"_{self.X_label}" if self.X_ else self.X_label
            self.X_ += ax.hist(rows[:, 0], **(common | style | X_kwargs))[2]
        if self.X_source is not None:
            style = {"histtype": "step", "ls": "--", "color": SOURCE, "label": "source"}
            (self.source_,) = ax.hist(self.X_source[:, 0], **(common | style))[2]
        for name, color, rows in self._groups(self.samples, self.samples_y, COLORS[0]):
            style = {"histtype": "step", "color": color, "lw": 1.6}
            style["label"] = self.samples_label + name
            self.samples_ += ax.hist(rows[:, 0], **(common | style | kwargs))[2]


def _check_names(X: Any, estimator: Any) -> None:
    """Raise a ValueError where the columns of a frame are not those of the fit, in their order."""
    names, given = getattr(estimator, "feature_names_in_", None), _get_feature_names(X)
    if names is not None and given is not None and list(given) != list(names):
        raise ValueError(f"X has the columns {list(given)}, but the fit saw {list(names)}.")


def _draw(
    flow: Any,
    X: Any,
    y: NDArray[Any] | None,
    n_samples: int | None,
    random_state: int | np.random.RandomState | None,
) -> tuple[NDArray[np.float64], NDArray[Any] | None]:
    """Return samples, and their classes if these were asked for."""
    seed = draw_seed(random_state)
    if n_samples is None:
        given = (getattr(flow, "particles_", None), y, getattr(flow, "X_source_", None), X)
        n_samples = next((np.shape(rows)[0] for rows in given if rows is not None), _DRAWS)
    if y is None:
        draws = flow.sample(n_samples, random_state=seed)
    else:
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        if n_samples != len(y):
            y = np.random.default_rng(seed).choice(y, n_samples, replace=n_samples > len(y))
        draws = flow.sample(n_samples, y=y, random_state=seed)
    return np.asarray(draws, dtype=np.float64), y
