"""The figures of a fit against iterations or seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._optional_dependencies import check_matplotlib_support

from skwgf.inspection._common import COLORS, add_legend, flow_of, new_axes

# Values that span a smaller factor are drawn on a linear axis.
_SPAN = 5.0
_ATTRIBUTES = {"fit": "history_", "flow": "flow_history_"}


class HistoryDisplay:
    """The energy of a flow, or other figures of its fit, against iterations or seconds.

    It is recommended to use :meth:`from_estimator` to create a display. All parameters are stored
    as attributes.

    Read more in the :ref:`User Guide <inspection>`.

    Parameters
    ----------
    x : ndarray of shape (n_iter,)
        Numbers of the iterations, or seconds.

    values : dict of str to ndarray of shape (n_iter,)
        The curves and their names. NaN stands where there is no figure.

    x_label : str, default="iteration"
        Name of the horizontal axis.

    floor : float, default=None
        A value that the curves cannot go below, or should come to.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curves.

    figure_ : matplotlib Figure
        Figure with the axes.

    lines_ : list of Line2D
        The curves.

    floor_ : Line2D or None
        The floor.

    See Also
    --------
    TrajectoryDisplay : The paths of the same flow.

    Examples
    --------
    >>> import numpy as np
    >>> from skwgf import WSFNOptimizer
    >>> from skwgf.inspection import HistoryDisplay
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> points = WSFNOptimizer(n_particles=5, random_state=0).fit(X)
    >>> display = HistoryDisplay.from_estimator(points, keys=("objective", "gradient_norm"))
    >>> list(display.values)
    ['objective', 'gradient_norm']
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]
    floor_: Any

    def __init__(
        self,
        x: NDArray[Any],
        values: Mapping[str, NDArray[Any]],
        *,
        x_label: str = "iteration",
        floor: float | None = None,
    ) -> None:
        self.x = x
        self.values = values
        self.x_label = x_label
        self.floor = floor

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        keys: str | Sequence[str] = "objective",
        x: str = "iteration",
        floor: float | None = None,
        history: str = "fit",
        name: str | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the history of a fitted estimator.

        Parameters
        ----------
        estimator : estimator of skwgf
            Fitted. Of a :class:`~skwgf.DomainAdapter` the history of its `flow_` is drawn.

        keys : str or sequence of str, default="objective"
            The figures to draw.

        x : {"iteration", "seconds"}, default="iteration"
            The horizontal axis.

        floor : float, default=None
            A value to draw as a horizontal line.

        history : {"fit", "flow"}, default="fit"
            Which figures: those of `history_`, or those of `flow_history_`, the flow of particles
            behind a :class:`~skwgf.SinkhornFlowGenerator`.

        name : str, default=None
            What the legend calls the estimator; for several estimators on the same axes.

        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        **kwargs : dict
            Options of :meth:`plot`.

        Returns
        -------
        display : HistoryDisplay

        Raises
        ------
        TypeError
            If the estimator keeps no such history.
        ValueError
            If it has no such figures, those it has are named; or it is an adapter that was fitted
            to one domain and moves no row.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        flow = flow_of(estimator, f"{cls.__name__}.from_estimator")
        if history not in _ATTRIBUTES:
            raise ValueError(f"history is one of {list(_ATTRIBUTES)}, got {history!r}.")
        attribute = _ATTRIBUTES[history]
        figures = getattr(flow, attribute, None)
        if figures is None:
            raise TypeError(
                f"{cls.__name__}.from_estimator takes a fitted estimator of skwgf, got "
                f"{type(flow).__name__}, which has no {attribute}."
            )
        keys = (keys,) if isinstance(keys, str) else tuple(keys)
        wanted = set(keys) | ({"seconds"} if x == "seconds" else set())
        if x not in ("iteration", "seconds") or not keys or not wanted <= set(figures):
            raise ValueError(
                f"x={x!r} and keys={keys!r} ask for what {attribute} of {type(flow).__name__} does "
                f"not have. x is 'iteration' or 'seconds'; the figures are {list(figures)}."
            )
        n_iter = len(figures[keys[0]])
        times = figures["seconds"] if x == "seconds" else np.arange(1, n_iter + 1)
        prefix = "" if name is None else f"{name}: "
        values = {prefix + key: np.asarray(figures[key]) for key in keys}
        return cls(times, values, x_label=x, floor=floor).plot(ax=ax, **kwargs)

    def plot(self, *, ax: Any = None, log: bool | None = None, **kwargs: Any) -> Self:
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        log : bool, default=None
            Whether the vertical axis is logarithmic. None is when all that it shows is positive and
            spans a factor of five or more.

        **kwargs : dict
            Options of :meth:`matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : HistoryDisplay
        """
        self.ax_ = ax = new_axes(ax, f"{type(self).__name__}.plot")
        self.figure_ = ax.figure
        self.lines_ = [self._curve(ax, name, values, kwargs) for name, values in self._curves()]
        self.floor_ = None
        if self.floor is not None:
            # One entry of the legend is enough for all floors: a label like "_floor" is left out.
            label = "_floor" if any(map(_is_floor, ax.lines)) else "floor"
            self.floor_ = ax.axhline(self.floor, color="0.4", lw=1, ls="--", label=label)
        if log is None:
            shown = np.concatenate([np.ravel(line.get_ydata()) for line in ax.lines])
            shown = shown[np.isfinite(shown)]
            log = bool(len(shown) and shown.min() > 0 and shown.max() >= _SPAN * shown.min())
        ax.set_yscale("log" if log else "linear")
        if self.x_label == "iteration":
            from matplotlib.ticker import MaxNLocator

            ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        ax.set_xlabel(self.x_label)
        names = {line.get_label() for line in ax.lines if not _is_floor(line)}
        ax.set_ylabel(names.pop() if len(names) == 1 else "value")
        add_legend(ax)
        return self

    def _curves(self) -> list[tuple[str, NDArray[Any]]]:
        """Return the names and values of the curves."""
        return [(name, np.asarray(values, dtype=float)) for name, values in self.values.items()]

    def _curve(self, ax: Any, name: str, values: NDArray[Any], kwargs: dict[str, Any]) -> Any:
        """Draw a curve through the figures there are, with marks where they are few."""
        there = np.isfinite(values)
        n_before = sum(not _is_floor(line) for line in ax.lines)
        style: dict[str, Any] = {"color": COLORS[n_before % len(COLORS)], "lw": 1.5, "label": name}
        if there.sum() < 0.5 * len(values) or there.sum() < 8:
            style |= {"marker": "o", "ms": 3.5}
        (line,) = ax.plot(np.asarray(self.x)[there], values[there], **(style | kwargs))
        return line


def _is_floor(line: Any) -> bool:
    """Tell whether a line is a floor, with an entry in the legend or without."""
    return line.get_label() in ("floor", "_floor")
