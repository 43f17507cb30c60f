"""Particles against the density of their target."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_scalar
from sklearn.utils._optional_dependencies import check_matplotlib_support

from skwgf.inspection._common import COLORS, QUIET, add_legend, column_names, flow_of, new_axes
from skwgf.inspection._grid import axis_limits, grid_density, mass_levels, von_mises_density

# Shares of the mass that the lines of two dimensions hold.
LINES = (0.8, 0.5, 0.2)


class DensityDisplay:
    r"""Particles against the density of their target, in one or two dimensions.

    The target's density is computed on a grid and normalised there. One dimension shows it as a
    curve over the histogram of the particles; two dimensions show the smallest regions that hold
    20, 50, 80, 95 and 99% of its mass, with the particles on top. On a torus the density of the
    particles by a von Mises kernel is drawn as well,

    .. math:: \hat\rho(x) = \frac1n \sum_i \prod_j
        \frac{\exp(\kappa_j \cos 2\pi (x_j - x_{ij}))}{I_0(\kappa_j)} .

    It is recommended to use :meth:`from_estimator` to create a display. All parameters are stored
    as attributes.

    Read more in the :ref:`User Guide <inspection>`.

    Parameters
    ----------
    particles : ndarray of shape (n_particles, d)
        The cloud, d is 1 or 2.

    grid : tuple of d ndarrays
        Increasing points on each axis.

    density : ndarray of shape (len(grid[0]),) or (len(grid[0]), len(grid[1]))
        The target's density at the points of the grid, of integral one over it.

    estimate : ndarray of the same shape, default=None
        The density of the particles.

    axis_labels : sequence of str, default=("x0", "x1")
        Names of the coordinates.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the density.

    figure_ : matplotlib Figure
        Figure with the axes.

    density_ : Line2D or QuadContourSet
        The density of the target.

    estimate_ : Line2D, QuadContourSet or None
        That of the particles.

    particles_ : PathCollection or list of Patch
        The particles, or their histogram.

    See Also
    --------
    FlowDisplay : Samples against rows of data, in any dimension.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skwgf import SVGDSampler
    >>> from skwgf.inspection import DensityDisplay
    >>> from skwgf.targets import LogDensity
    >>> wave = LogDensity(lambda x: torch.cos(2 * torch.pi * x).sum(1), support="torus")
    >>> start = np.random.default_rng(0).uniform(size=(100, 1))
    >>> sampler = SVGDSampler(wave, random_state=0).fit(start)
    >>> display = DensityDisplay.from_estimator(sampler)
    >>> float(abs(display.density - display.estimate).max()) < 0.1
    True
    """

    ax_: Any
    figure_: Any
    density_: Any
    estimate_: Any
    particles_: Any

    def __init__(
        self,
        particles: NDArray[Any],
        *,
        grid: tuple[NDArray[Any], ...],
        density: NDArray[Any],
        estimate: NDArray[Any] | None = None,
        axis_labels: Sequence[str] = ("x0", "x1"),
    ) -> None:
        self.particles = particles
        self.grid = grid
        self.density = density
        self.estimate = estimate
        self.axis_labels = axis_labels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        grid_resolution: int = 100,
        bandwidth: float | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> Self:
        r"""Draw the particles of a fitted sampler with the density of its target.

        Parameters
        ----------
        estimator : SVGDSampler or GWGSampler
            Fitted, in one or two dimensions. Their support is a torus, or made of lines, half lines
            and intervals.

        grid_resolution : int, default=100
            Number of points on each axis, at least 2.

        bandwidth : float, default=None
            Width h > 0 of the von Mises kernel on a torus, in turns,
            :math:`\kappa = (2 \pi h)^{-2}`. None is half of Scott's rule in each column, since the
            particles of a flow are spread more evenly than independent draws.

        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        **kwargs : dict
            Options of :meth:`plot`.

        Returns
        -------
        display : DensityDisplay

        Raises
        ------
        TypeError
            If the estimator has no target with a log density.
        ValueError
            If it has more than two columns, or columns that are tied to each other; or a number is
            out of its range.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_scalar(grid_resolution, "grid_resolution", Integral, min_val=2)
        if bandwidth is not None:
            check_scalar(bandwidth, "bandwidth", Real, min_val=0, include_boundaries="neither")
        flow = flow_of(estimator, f"{cls.__name__}.from_estimator")
        target = getattr(flow, "target_", None)
        if target is None:
            raise TypeError(
                f"{cls.__name__}.from_estimator takes a sampler of a target, got "
                f"{type(flow).__name__}. FlowDisplay draws the samples of any estimator."
            )
        particles = np.asarray(flow.particles_, dtype=np.float64)
        ends = axis_limits(target, particles)
        grid = tuple(np.linspace(*pair, grid_resolution) for pair in ends)
        estimate = None
        if all(block.name == "torus" for block in target.support_.blocks):
            estimate = von_mises_density(particles, grid, bandwidth)
        display = cls(
            particles,
            grid=grid,
            density=grid_density(target, grid),
            estimate=estimate,
            axis_labels=tuple(column_names(flow, particles.shape[1])),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax: Any = None, show_particles: bool = True, **kwargs: Any) -> Self:
        """Plot the density and the particles.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        show_particles : bool, default=True
            Whether to draw the particles, or their histogram.

        **kwargs : dict
            Options of the curve, or of the filled contours, of the target's density.

        Returns
        -------
        display : DensityDisplay
        """
        self.ax_ = ax = new_axes(ax, f"{type(self).__name__}.plot")
        self.figure_ = ax.figure
        self.estimate_, self.particles_ = None, []
        handles: list[Any] = []
        if len(self.grid) == 1:
            self._curves(ax, show_particles, kwargs)
            ax.set_ylabel("density")
        else:
            handles = self._regions(ax, show_particles, kwargs)
            ax.set_ylabel(self.axis_labels[1])
            ax.set_ylim(self.grid[1][0], self.grid[1][-1])
        ax.set_xlabel(self.axis_labels[0])
        ax.set_xlim(self.grid[0][0], self.grid[0][-1])
        # Two dimensions fill the axes: the legend goes above them.
        above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3, "frameon": False}
        above |= {"borderaxespad": 0.1, "columnspacing": 1.0}
        add_legend(ax, handles, **(above if handles else {}))
        return self

    def _curves(self, ax: Any, show_particles: bool, kwargs: dict[str, Any]) -> None:
        """Draw one dimension."""
        (x,) = self.grid
        if show_particles:
            edges = np.histogram_bin_edges(self.particles, "auto", range=(x[0], x[-1]))
            style: dict[str, Any] = {"histtype": "stepfilled", "color": QUIET, "alpha": 0.6}
            self.particles_ = ax.hist(
                self.particles[:, 0], edges, density=True, label="particles", **style
            )[2]
        if self.estimate is not None:
            style = {"color": COLORS[1], "ls": "--", "label": "smoothed particles"}
            (self.estimate_,) = ax.plot(x, self.estimate, **style)
        style = {"color": COLORS[0], "lw": 1.6, "label": "target"}
        (self.density_,) = ax.plot(x, self.density, **(style | kwargs))
        ax.set_ylim(0, ax.get_ylim()[1])

    def _regions(self, ax: Any, show_particles: bool, kwargs: dict[str, Any]) -> list[Any]:
        """Draw two dimensions, and return what the legend needs beside labelled artists."""
        from matplotlib import colormaps
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        levels = mass_levels(self.density)
        top = max(float(self.density.max()), levels[-1]) * (1 + 1e-9) + np.finfo(float).tiny
        blues = colormaps["Blues"](np.linspace(0.15, 0.6, len(levels)))
        style: dict[str, Any] = {} if "cmap" in kwargs else {"colors": blues}
        self.density_ = ax.contourf(
            *self.grid, self.density.T, levels=[*levels, top], **(style | kwargs)
        )
        handles: list[Any] = [Patch(color=blues[len(blues) // 2], label="target")]
        if self.estimate is not None:
            style = {"colors": COLORS[1], "linewidths": 0.9}
            self.estimate_ = ax.contour(
                *self.grid, self.estimate.T, levels=mass_levels(self.estimate, LINES), **style
            )
            handles.append(Line2D([], [], color=COLORS[1], lw=0.9, label="smoothed"))
        if show_particles:
            size = float(np.clip(1500 / len(self.particles), 2, 12))
            self.particles_ = ax.scatter(
                *self.particles.T, s=size, color="0.1", lw=0, label="particles", zorder=3
            )
        return handles
