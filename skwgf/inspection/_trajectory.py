"""The paths of a flow."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.utils import check_scalar
from sklearn.utils._optional_dependencies import check_matplotlib_support

from skwgf._tensor import draw_seed
from skwgf.inspection._common import (
    COLORS,
    QUIET,
    add_legend,
    check_rows,
    column_names,
    fit_projection,
    learns_from_data,
    marker_size,
    new_axes,
)
from skwgf.inspection._recorder import Recorder

# Paths shorter than this share of the axes carry no arrow.
_SHORT = 0.03
# Length of an arrow head in inches.
_HEAD = 0.075


class TrajectoryDisplay:
    """Paths of particles, or of the images of fixed latents of a generator, during a fit.

    Two columns are drawn as paths with arrows, more by their first two principal components, and
    one column against the iterations. It is recommended to use :meth:`from_estimator` to create a
    display. All parameters are stored as attributes.

    Read more in the :ref:`User Guide <inspection>`.

    Parameters
    ----------
    paths : ndarray of shape (n_steps, n_paths, 1) or (n_steps, n_paths, 2)
        Positions at some steps of the flow, in the coordinates to plot.

    steps : ndarray of shape (n_steps,)
        The numbers of these steps; 0 is the start.

    X : ndarray of shape (n_rows, 1) or (n_rows, 2), default=None
        Rows that the flow goes towards.

    axis_labels : sequence of str, default=("x0", "x1")
        Names of the coordinates.

    period : float, default=None
        Length of the circles that the coordinates live on; paths are cut where they cross the ends.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the paths.

    figure_ : matplotlib Figure
        Figure with the axes.

    lines_ : LineCollection
        The paths, one line each; several for a path that is cut.

    arrows_ : Quiver or None
        Their arrows, half way along; None for one column.

    starts_, ends_ : PathCollection
        The first and the last positions.

    See Also
    --------
    FlowDisplay : The cloud at the end.
    HistoryDisplay : The energy on the way.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf import SVGDSampler
    >>> from skwgf.inspection import TrajectoryDisplay
    >>> from skwgf.targets import Ring
    >>> start = np.random.default_rng(0).normal(size=(100, 2))
    >>> sampler = SVGDSampler(Ring(), random_state=0)
    >>> display = TrajectoryDisplay.from_estimator(sampler, start, n_paths=20)
    >>> display.paths.shape[1:], hasattr(sampler, "particles_")
    ((20, 2), False)
    """

    ax_: Any
    figure_: Any
    lines_: Any
    arrows_: Any
    starts_: Any
    ends_: Any

    def __init__(
        self,
        paths: NDArray[Any],
        steps: NDArray[Any],
        *,
        X: NDArray[Any] | None = None,
        axis_labels: Sequence[str] = ("x0", "x1"),
        period: float | None = None,
    ) -> None:
        self.paths = paths
        self.steps = steps
        self.X = X
        self.axis_labels = axis_labels
        self.period = period

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike | None = None,
        *,
        n_paths: int = 50,
        n_steps: int = 100,
        columns: Sequence[Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
        **fit_params: Any,
    ) -> Self:
        """Fit a clone of an estimator, and draw the paths on the way.

        What is drawn of a posterior, a risk or a network are its parameters. The estimator is not
        changed; its callbacks and checkpoints are left alone.

        Parameters
        ----------
        estimator : estimator of skwgf
            Fitted or not. Set its `random_state`, if the paths are to be those of another fit.

        X, y : array-like
            What to fit to.

        n_paths : int, default=50
            Number of paths at most, 1 or more, of particles picked at random; for a generator of
            source rows, or of points of its reference.

        n_steps : int, default=100
            Number of steps kept at most, 1 or more, evenly spaced, beside the start.

        columns : sequence of one or two int or str, default=None
            Columns to show, by position or by name. None shows up to two columns as they are, more
            by the first two principal components of X (of the final particles, where these are
            parameters, or X is where they start).

        random_state : int, RandomState instance or None, default=None
            Seed of the choice of paths.

        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        **fit_params : dict
            Further arguments of `fit`, such as `X_source`.

        Returns
        -------
        display : TrajectoryDisplay

        Raises
        ------
        TypeError
            If the estimator has no flow whose steps could be followed.
        ValueError
            If `n_paths` or `n_steps` is less than 1.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        for key, number in (("n_paths", n_paths), ("n_steps", n_steps)):
            check_scalar(number, key, Integral, min_val=1)
        if not (hasattr(estimator, "sample") and hasattr(estimator, "set_callbacks")):
            raise TypeError(
                f"{cls.__name__}.from_estimator takes an estimator of skwgf with particles or a "
                f"network, got {type(estimator).__name__}. Of a pipeline pass the last step with "
                "the rows that the others make of yours; of an adapter pass its flow with X_source."
            )
        recorder = Recorder(
            n_paths=n_paths,
            n_steps=n_steps,
            seed=draw_seed(random_state),
            y_source=fit_params.get("y_source"),
        )
        fitted = clone(estimator).set_params(checkpoint=None).set_callbacks(recorder)
        fitted.fit(X, y, **fit_params)
        paths, steps = recorder.kept()
        d = paths.shape[2]
        rows = None
        if learns_from_data(fitted):
            rows = check_rows(X, d, "X")
        final = rows if rows is not None else fitted.particles_
        angles = _on_torus(fitted)
        if angles and d > 2 and columns is None:
            columns = (0, 1)  # circles have no principal components
        project = fit_projection(final, column_names(fitted, d), columns)
        display = cls(
            project(paths),
            steps,
            X=None if rows is None else project(rows),
            axis_labels=project.labels,
            period=1.0 if angles else None,
        )
        return display.plot(ax=ax)

    def plot(self, *, ax: Any = None, arrows: bool = True, **kwargs: Any) -> Self:
        """Plot the paths.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        arrows : bool, default=True
            Whether to draw an arrow half way along each path that leads away from its start.

        **kwargs : dict
            Options of the :class:`~matplotlib.collections.LineCollection` of the paths.

        Returns
        -------
        display : TrajectoryDisplay
        """
        self.ax_ = ax = new_axes(ax, f"{type(self).__name__}.plot")
        self.figure_ = ax.figure
        from matplotlib.collections import LineCollection

        flat = self.paths.shape[2] == 1
        points = self._points()
        if self.X is not None and not flat:
            size = marker_size(len(self.X))
            ax.scatter(*self.X.T, color=QUIET, alpha=0.5, s=size, lw=0, zorder=1, label="data")
        lines = [part for k in range(points.shape[1]) for part in self._parts(points[:, k])]
        style: dict[str, Any] = {"colors": COLORS[0], "alpha": 0.45, "linewidths": 0.9, "zorder": 2}
        self.lines_ = ax.add_collection(LineCollection(lines, **(style | kwargs)))
        dot: dict[str, Any] = {"s": 9, "zorder": 3, "linewidths": 0.8}
        start = {"facecolors": "white", "edgecolors": "0.45", "label": "start"}
        self.starts_ = ax.scatter(*points[0].T, **dot, **start)
        self.ends_ = ax.scatter(*points[-1].T, **dot, color=COLORS[1], label="end")
        ax.autoscale_view()
        self.arrows_ = self._arrows(ax, points) if arrows and not flat else None
        labels = ("iteration", self.axis_labels[0]) if flat else tuple(self.axis_labels)
        ax.set_xlabel(labels[0])
        ax.set_ylabel(labels[1])
        add_legend(ax)
        return self

    def _points(self) -> NDArray[np.float64]:
        """Return the points to join, of shape (n_steps, n_paths, 2)."""
        if self.paths.shape[2] == 2:
            return self.paths
        times = np.broadcast_to(np.asarray(self.steps)[:, None], self.paths.shape[:2])
        return np.stack([times, self.paths[:, :, 0]], axis=2)

    def _parts(self, path: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return a path, cut where it crosses the ends of a circle."""
        if self.period is None:
            return [path]
        jumps = np.abs(np.diff(path[:, -self.paths.shape[2] :], axis=0)).max(axis=1)
        return np.split(path, np.flatnonzero(jumps > self.period / 2) + 1)

    def _arrows(self, ax: Any, points: NDArray[np.float64]) -> Any:
        """Draw arrow heads half way along the paths, all of one size."""
        size = np.maximum(np.ptp(points, axis=(0, 1)), np.finfo(float).tiny)
        tips, directions = [], []
        for k in range(points.shape[1]):
            path = max(self._parts(points[:, k]), key=len)
            if np.linalg.norm((path[-1] - path[0]) / size) < _SHORT:
                continue
            lengths = np.linalg.norm(np.diff(path, axis=0) / size, axis=1)
            way = np.cumsum(lengths)
            j = int(np.searchsorted(way, way[-1] / 2))
            share = 1 - (way[j] - way[-1] / 2) / lengths[j]
            tips.append(path[j] + share * (path[j + 1] - path[j]))
            move = path[j + 1] - path[j]
            directions.append(move / np.linalg.norm(move))
        if not tips:
            return None
        # Directions are those of the data, the size of the heads is that of the paper.
        return ax.quiver(
            *np.transpose(tips),
            *np.transpose(directions),
            angles="xy",
            pivot="mid",
            units="inches",
            scale_units="inches",
            scale=1 / _HEAD,
            width=_HEAD / 8,
            headwidth=6,
            headlength=8,
            headaxislength=6.5,
            color=COLORS[0],
            zorder=2.5,
        )


def _on_torus(fitted: Any) -> bool:
    """Tell whether the columns are angles."""
    support = getattr(getattr(fitted, "target_", None), "support_", None)
    return support is not None and all(block.name == "torus" for block in support.blocks)
