"""The displays: what the artists hold, against exact numbers."""

from __future__ import annotations

import copy
import itertools
import sys
import warnings

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt
from numpy.testing import assert_allclose, assert_array_equal
from persistence_cases import CASES, FRAME, LABELS, X, difference
from scipy import stats
from scipy.integrate import trapezoid
from scipy.special import i0
from sklearn.exceptions import NotFittedError
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skwgf
from skwgf import SinkhornFlowGenerator, SVGDSampler, W2FlowGenerator, WSFNOptimizer, targets
from skwgf.estimators.domain_adapter import DomainAdapter
from skwgf.inspection import DensityDisplay, FlowDisplay, HistoryDisplay, TrajectoryDisplay
from skwgf.inspection._common import COLORS
from skwgf.inspection._grid import mass_levels, von_mises_density
from skwgf.kernels import Gaussian

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:The particles of:UserWarning"
)
DISPLAYS = [FlowDisplay, TrajectoryDisplay, HistoryDisplay, DensityDisplay]
TINY = {"hidden_layer_sizes": (8, 8), "batch_size": 32, "max_iter": 3, "random_state": 0}
# Thin tables whose principal axes and shares are known: 9/14, 4/14 and 1/14 of the variance.
_ROWS = np.random.default_rng(1).normal(size=(40, 3))
_Q = np.linalg.qr(_ROWS - _ROWS.mean(axis=0))[0]
AXES = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
TABLE = 5.0 + _Q * [3.0, 2.0, 1.0] @ AXES.T


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    """A small fit of every kind."""
    return {name: case.fit() for name, case in CASES.items()}


def offsets(artist):
    return np.asarray(artist.get_offsets())


def rows_of(x):
    """Return the rows in an order of their own, to compare sets of rows."""
    return x[np.lexsort(x.T)]


# ---------------------------------------------------------------------------- clouds


def test_two_columns_are_drawn_as_they_are(fitted):
    sampler = fitted["svgd data"]
    display = FlowDisplay.from_estimator(sampler, FRAME)
    assert_array_equal(offsets(display.samples_[0]), sampler.particles_)
    assert_array_equal(offsets(display.X_[0]), X)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("x0", "x1")
    assert [t.get_text() for t in display.ax_.get_legend().texts] == ["data", "particles"]
    assert display.source_ is None
    assert display.figure_ is display.ax_.figure


def test_column_names_label_the_axes(fitted):
    display = FlowDisplay.from_estimator(fitted["w2 frame float32"], FRAME, random_state=0)
    assert (display.ax_.get_xlabel(), display.ax_.get_ylabel()) == ("width", "height")
    assert_array_equal(
        offsets(display.samples_[0]), fitted["w2 frame float32"].sample(60, random_state=_seed(0))
    )


def _seed(random_state):
    return skwgf._tensor.draw_seed(random_state)


def test_one_column_is_a_histogram_of_densities():
    column = X[:, :1]
    sampler = SVGDSampler(max_iter=3, random_state=0).fit(column)
    display = FlowDisplay.from_estimator(sampler, column)
    for (patch,), rows in ((display.samples_, sampler.particles_), (display.X_, column)):
        corners = patch.get_xy()
        edges = np.unique(corners[:, 0])
        heights, _ = np.histogram(rows[:, 0], edges, density=True)
        # Bug caught: counts, which two clouds of different size do not share an axis with.
        assert_allclose(corners[:, 1].max(), heights.max())
        assert_allclose(heights @ np.diff(edges), 1)
    assert display.ax_.get_ylabel() == "density"


def test_many_columns_are_projected_on_the_principal_axes_of_the_data():
    particles = TABLE[:5] + 1.0
    sampler = WSFNOptimizer(init=particles, max_iter=1).fit(TABLE)
    display = FlowDisplay.from_estimator(sampler, TABLE)
    assert display.ax_.get_xlabel() == "PC 1 (64% of variance)"
    assert display.ax_.get_ylabel() == "PC 2 (29% of variance)"
    signs = np.sign(np.sum(display.X * (_Q * [3, 2, 1])[:, :2], axis=0))
    assert_allclose(display.X * signs, (_Q * [3, 2, 1])[:, :2], atol=1e-12)
    # Bug caught: samples that are centred by themselves, or have axes of their own.
    expected = (sampler.particles_ - 5.0) @ AXES[:, :2]
    assert_allclose(offsets(display.samples_[0]) * signs, expected, atol=1e-12)


def test_without_data_the_axes_are_those_of_the_samples():
    sampler = WSFNOptimizer(init=TABLE, max_iter=1).fit(TABLE)
    sampler.particles_ = TABLE
    display = FlowDisplay.from_estimator(sampler)
    assert display.axis_labels == ("PC 1 (64% of variance)", "PC 2 (29% of variance)")
    assert display.X_ == []
    assert display.ax_.get_legend() is None


def test_chosen_columns():
    sampler = WSFNOptimizer(init=TABLE[:4], max_iter=1)
    sampler.fit(pd.DataFrame(TABLE, columns=["a", "b", "c"]))
    display = FlowDisplay.from_estimator(sampler, TABLE, columns=("c", 0))
    assert_array_equal(display.X, TABLE[:, [2, 0]])
    assert display.axis_labels == ("c", "a")
    assert FlowDisplay.from_estimator(sampler, columns="b").samples.shape == (4, 1)
    for columns in (("a", "d"), (0, 3), ("a", "b", "c"), ()):
        with pytest.raises(ValueError, match="column"):
            FlowDisplay.from_estimator(sampler, columns=columns)


def test_classes_have_their_colours(fitted):
    generator = fitted["sinkhorn conditional"]
    display = FlowDisplay.from_estimator(generator, X, LABELS, random_state=0)
    draws = generator.sample(60, y=LABELS, random_state=_seed(0))
    for k, label in enumerate(("left", "right")):
        assert_array_equal(offsets(display.samples_[k]), draws[label == LABELS])
        assert_array_equal(offsets(display.X_[k]), X[label == LABELS])
        colors = (display.samples_[k].get_facecolor(), display.X_[k].get_facecolor())
        assert_array_equal(colors[0][0, :3], colors[1][0, :3])
    texts = [t.get_text() for t in display.ax_.get_legend().texts]
    assert texts == ["data", "samples left", "samples right"]
    few = FlowDisplay.from_estimator(generator, y=LABELS, n_samples=10, random_state=0)
    assert sum(len(offsets(artist)) for artist in few.samples_) == 10
    with pytest.raises(ValueError, match="n_samples == -1, must be"):
        FlowDisplay.from_estimator(generator, y=LABELS, n_samples=-1)
    with pytest.raises(ValueError, match="60 rows, but y has 59"):
        FlowDisplay.from_estimator(generator, X, LABELS[1:])


def test_columns_in_another_order_are_refused(fitted):
    # Bug caught: the heights drawn under the name of the widths.
    adapter = DomainAdapter(W2FlowGenerator(**TINY))
    adapter.fit(pd.concat([FRAME, FRAME]), sample_domain=np.repeat([1, -1], len(FRAME)))
    swapped = FRAME[FRAME.columns[::-1]]
    for estimator in (fitted["w2 frame float32"], adapter):
        with pytest.raises(ValueError, match=r"\['height', 'width'\], but.*\['width', 'height'\]"):
            FlowDisplay.from_estimator(estimator, swapped)
        assert FlowDisplay.from_estimator(estimator, FRAME).axis_labels == ("width", "height")
    FlowDisplay.from_estimator(fitted["svgd data"], swapped)  # a fit without names has no order


@pytest.mark.parametrize("name", ["w2 source", "sinkhorn source"])
def test_source_rows_and_their_images(fitted, name):
    generator = fitted[name]
    display = FlowDisplay.from_estimator(generator, X)
    assert_array_equal(offsets(display.source_), X + 1)
    images = generator.transform(X + 1)
    assert_allclose(rows_of(display.samples), rows_of(images))


def test_models_show_their_parameters_and_not_the_rows(fitted):
    display = FlowDisplay.from_estimator(fitted["svgd linear"], X, columns=("coef[1]", 2))
    assert display.axis_labels == ("coef[1]", "intercept")
    assert display.X_ == []
    assert_array_equal(display.samples, fitted["svgd linear"].particles_[:, [1, 2]])
    assert FlowDisplay.from_estimator(fitted["neurons labels"], columns=0).axis_labels == (
        "parameter 0",
    )


def test_start_of_a_bare_log_density_is_not_called_data(fitted):
    display = FlowDisplay.from_estimator(fitted["svgd banana"], X)
    assert display.X_label == "rows of X"


def test_adapter_shows_its_flow():
    rows = np.concatenate([X + 1, X])
    domain = np.repeat([1, -1], 60)
    adapter = DomainAdapter(W2FlowGenerator(**TINY)).fit(rows, sample_domain=domain)
    display = FlowDisplay.from_estimator(adapter, X)
    assert_allclose(rows_of(display.samples), rows_of(adapter.flow_.transform(X + 1)))
    assert_array_equal(
        HistoryDisplay.from_estimator(adapter).values["objective"],
        adapter.flow_.history_["objective"],
    )
    with warnings.catch_warnings(action="ignore"):
        alone = DomainAdapter(W2FlowGenerator(**TINY)).fit(X)
    for show in (FlowDisplay, HistoryDisplay, DensityDisplay):
        with pytest.raises(ValueError, match=f"{show.__name__}.*moves no row"):
            show.from_estimator(alone)


@pytest.mark.parametrize("name", [name for name in CASES if name != "adapter default"])
def test_every_estimator_is_drawn_and_left_alone(fitted, name):
    estimator = fitted[name]
    before = copy.deepcopy(estimator)
    flow = getattr(estimator, "flow_", estimator)
    rows = getattr(flow, "X_source_", None)
    n = len(getattr(flow, "particles_", CASES[name].X if rows is None else rows))
    display = FlowDisplay.from_estimator(estimator, CASES[name].X, CASES[name].y, random_state=0)
    assert sum(len(offsets(artist)) for artist in display.samples_) == n
    values = HistoryDisplay.from_estimator(estimator, ax=display.ax_).values
    assert_array_equal(values["objective"], flow.history_["objective"])
    assert difference(vars(before), vars(estimator)) == ""


@pytest.mark.parametrize("name", ["w2 frame float32", "svgd torus", "wsfn", "gwg logistic"])
def test_loaded_estimators_are_drawn_the_same(fitted, name, tmp_path):
    fitted[name].save(tmp_path / "file")
    again = skwgf.load(tmp_path / "file", **CASES[name].hand_back)
    for draw in (
        lambda e: FlowDisplay.from_estimator(e, X, random_state=0).samples,
        lambda e: HistoryDisplay.from_estimator(e, x="seconds").x,
        lambda e: DensityDisplay.from_estimator(e).density if name == "svgd torus" else 0,
    ):
        assert_array_equal(draw(fitted[name]), draw(again))


def test_given_axes_are_drawn_on(fitted):
    _, ax = plt.subplots()
    start = np.abs(X) % 1
    torus = CASES["svgd torus"].make()
    for display in (
        FlowDisplay.from_estimator(fitted["wsfn"], X, ax=ax),
        TrajectoryDisplay.from_estimator(torus, start, ax=ax),
        HistoryDisplay.from_estimator(fitted["wsfn"], ax=ax),
        DensityDisplay.from_estimator(fitted["svgd torus"], ax=ax),
    ):
        assert display.ax_ is ax
        assert display.figure_ is ax.figure
        assert display.plot(ax=ax) is display
    assert len(plt.get_fignums()) == 1
    assert display.plot().ax_ is not ax


def test_options_reach_the_artists(fitted):
    display = FlowDisplay.from_estimator(
        fitted["svgd data"], X, marker="s", X_kwargs={"alpha": 0.125}, color="red"
    )
    assert display.X_[0].get_alpha() == 0.125
    assert_array_equal(display.samples_[0].get_facecolor()[0, :3], [1, 0, 0])
    lines = HistoryDisplay.from_estimator(fitted["wsfn"], color="red").lines_
    assert lines[0].get_color() == "red"


# ---------------------------------------------------------------------------- paths


def test_paths_end_where_the_fit_ends():
    sampler = SVGDSampler(targets.Ring(), kernel=Gaussian(1.0), max_iter=7, random_state=0)
    display = TrajectoryDisplay.from_estimator(sampler, X, n_paths=100)
    assert not hasattr(sampler, "particles_")
    assert display.steps[-1] == 7
    assert_array_equal(display.paths[-1], sampler.fit(X).particles_)
    assert_array_equal(offsets(display.ends_), sampler.particles_)
    assert_array_equal(offsets(display.starts_), display.paths[0])
    for k, line in enumerate(display.lines_.get_segments()):
        assert_array_equal(line, display.paths[:, k])


def test_paths_begin_at_the_start():
    # Bug caught: paths that begin after the first step, the largest of many flows.
    sampler = SVGDSampler(targets.Ring(), kernel=Gaussian(1.0), max_iter=4, random_state=0)
    display = TrajectoryDisplay.from_estimator(sampler, X, n_paths=100)
    assert_array_equal(display.steps, range(5))
    assert_array_equal(display.paths[0], X)


def test_some_of_many_paths_and_steps():
    sampler = SVGDSampler(targets.Ring(), kernel=Gaussian(1.0), max_iter=50, tol=0, random_state=0)
    whole = TrajectoryDisplay.from_estimator(sampler, X, n_paths=100)
    some = TrajectoryDisplay.from_estimator(sampler, X, n_paths=5, n_steps=6, random_state=0)
    assert len(some.steps) <= 7
    assert some.steps[-1] == 50
    assert np.ptp(np.diff(some.steps)) <= np.diff(some.steps).max() / 2  # about even
    at = np.searchsorted(whole.steps, some.steps)
    assert_array_equal(whole.steps[at], some.steps)
    same = (whole.paths[at][:, :, None] == some.paths[:, None]).all(axis=(0, 3))
    assert_array_equal(same.sum(axis=0), 1)  # each is one of all, at all steps


@pytest.mark.parametrize("generator", [W2FlowGenerator, SinkhornFlowGenerator])
def test_paths_of_a_generator_are_images_of_fixed_source_rows(generator):
    network = generator(**TINY)
    display = TrajectoryDisplay.from_estimator(network, X, X_source=X + 1, n_paths=60)
    ends = network.fit(X, X_source=X + 1).transform(X + 1)
    assert_allclose(display.paths[-1], ends)  # fewer than 500 rows: none is held out
    assert_array_equal(display.X, X)


def test_paths_of_a_conditional_generator_with_a_source():
    generator = SinkhornFlowGenerator(conditional=True, **TINY)
    given = {"X_source": X + 1, "y_source": LABELS}
    display = TrajectoryDisplay.from_estimator(generator, X, LABELS, n_paths=60, **given)
    ends = generator.fit(X, LABELS, **given).transform(X + 1, LABELS)
    assert_allclose(display.paths[-1], ends)


@pytest.mark.parametrize(
    "name",
    [
        "w2 frame float32",
        "sinkhorn conditional",
        "sinkhorn features",
        "svgd data",
        "svgd logistic",
        "gwg",
        "wsfn function",
        "neurons labels",
    ],
)
def test_paths_of_every_kind(name):
    estimator = CASES[name].make()
    before = copy.deepcopy(vars(estimator))
    display = TrajectoryDisplay.from_estimator(
        estimator, CASES[name].X, CASES[name].y, n_paths=6, random_state=0, **CASES[name].more
    )
    assert display.paths.shape[1:] == (6, 2)
    assert np.isfinite(display.paths).all()
    assert np.abs(np.diff(display.paths, axis=0)).max() > 0
    assert difference(before, vars(estimator)) == ""


def test_fitted_estimators_callbacks_and_checkpoints_are_left_alone(tmp_path):
    class Loud:
        def setup(self, estimator, context):
            raise AssertionError("the callback of the user was called")

        teardown = on_fit_task_begin = on_fit_task_end = setup

    path = tmp_path / "checkpoint"
    path.write_bytes(b"the state of a fit that was cut off")
    sampler = CASES["wsfn"].fit().set_params(checkpoint=path).set_callbacks(Loud())
    before = copy.copy(vars(sampler))
    TrajectoryDisplay.from_estimator(sampler, X)
    assert before.keys() == vars(sampler).keys()
    assert all(before[key] is vars(sampler)[key] for key in before)
    assert path.read_bytes() == b"the state of a fit that was cut off"


def test_arrows_lie_half_way_along_and_point_onwards():
    corner = [(0, 0), (1, 0), (1, 1), (1, 3)]  # 4 long, half of it at (1, 1)
    still = [(2, 2), (1.999, 2), (2, 2), (2, 2.001)]
    straight = [(0, 3), (0, 2), (0, 1), (0, 0)]
    paths = np.array([corner, still, straight], dtype=float).transpose(1, 0, 2)
    display = TrajectoryDisplay(paths, np.arange(4)).plot()
    # Lengths are measured in units of the axes, two wide and three high.
    arrows = display.arrows_
    assert arrows.N == 2  # none on the path that leads nowhere
    assert_allclose([arrows.X[0], arrows.Y[0]], [1, 0.75])
    assert_allclose([arrows.X[1], arrows.Y[1]], [0, 1.5])
    assert_allclose(np.stack([arrows.U, arrows.V], 1), [[0, 1], [0, -1]], atol=1e-12)
    assert TrajectoryDisplay(paths, np.arange(4)).plot(arrows=False).arrows_ is None
    display.figure_.canvas.draw()  # the size of the heads is settled when they are drawn


def test_paths_on_a_torus_are_cut_at_its_ends():
    # Bug caught: lines right across the picture.
    paths = np.array([[[0.8, 0.5]], [[0.95, 0.5]], [[0.1, 0.5]], [[0.2, 0.5]]])
    display = TrajectoryDisplay(paths, np.arange(4), period=1.0).plot()
    first, second = display.lines_.get_segments()
    assert_array_equal(first, paths[:2, 0])
    assert_array_equal(second, paths[2:, 0])
    fit = TrajectoryDisplay.from_estimator(CASES["svgd torus"].make(), X % 1)
    assert fit.period == 1.0


def test_one_column_is_drawn_against_the_iterations():
    sampler = SVGDSampler(max_iter=3, random_state=0)
    display = TrajectoryDisplay.from_estimator(sampler, X[:, :1], n_paths=4)
    assert display.paths.shape[1:] == (4, 1)
    line = display.lines_.get_segments()[0]
    assert_array_equal(line, np.stack([display.steps, display.paths[:, 0, 0]], 1))
    assert display.ax_.get_xlabel() == "iteration"
    assert display.arrows_ is None


# ---------------------------------------------------------------------------- histories


def test_curves_are_those_of_the_history(fitted):
    optimizer = fitted["wsfn"]
    keys = ("objective", "gradient_norm")
    display = HistoryDisplay.from_estimator(optimizer, keys=keys, floor=1e-9)
    for line, key in zip(display.lines_, keys, strict=True):
        assert_array_equal(line.get_xdata(), [1, 2, 3])
        assert_array_equal(line.get_ydata(), optimizer.history_[key])
    assert_array_equal(display.floor_.get_ydata(), [1e-9, 1e-9])
    assert display.ax_.get_yscale() == "log"
    texts = [t.get_text() for t in display.ax_.get_legend().texts]
    assert texts == ["objective", "gradient_norm", "floor"]
    assert display.ax_.get_ylabel() == "value"
    timed = HistoryDisplay.from_estimator(optimizer, x="seconds")
    assert_array_equal(timed.lines_[0].get_xdata(), optimizer.history_["seconds"])
    assert (timed.ax_.get_xlabel(), timed.ax_.get_ylabel()) == ("seconds", "objective")
    flow = HistoryDisplay.from_estimator(fitted["sinkhorn"], history="flow")
    assert_array_equal(flow.values["objective"], fitted["sinkhorn"].flow_history_["objective"])


def test_steps_without_a_figure_are_left_out():
    values = np.array([np.nan, 2.0, np.nan, 1.0, np.nan])
    display = HistoryDisplay(np.arange(1, 6), {"validation": values}).plot()
    assert_array_equal(display.lines_[0].get_xydata(), [[2, 2], [4, 1]])
    assert display.lines_[0].get_marker() == "o"  # or two points far apart look like a trend


@pytest.mark.parametrize(
    ("values", "floor", "scale"),
    [
        ([10.0, 1.0], None, "log"),
        ([10.0, 1.0], 0.5, "log"),
        ([10.0, 1.0], 0.0, "linear"),
        ([10.0, -1.0], None, "linear"),
        ([1.0, 0.9], None, "linear"),
        ([1.0, 0.9], 1e-3, "log"),
    ],
)
def test_axis_is_logarithmic_where_that_shows_more(values, floor, scale):
    display = HistoryDisplay(np.array([1, 2]), {"objective": np.array(values)}, floor=floor)
    assert display.plot().ax_.get_yscale() == scale
    assert display.plot(log=scale != "log").ax_.get_yscale() != scale


def test_histories_of_several_estimators_on_the_same_axes(fitted):
    first = HistoryDisplay.from_estimator(fitted["wsfn"], name="MMD", floor=1e-9)
    second = HistoryDisplay.from_estimator(fitted["wsfn energy"], name="energy", ax=first.ax_)
    texts = [t.get_text() for t in first.ax_.get_legend().texts]
    assert texts == ["MMD: objective", "floor", "energy: objective"]
    assert first.lines_[0].get_color() != second.lines_[0].get_color()


def test_a_floor_under_several_histories_is_named_once(fitted):
    first = HistoryDisplay.from_estimator(fitted["wsfn"], name="a", floor=1e-9)
    second = HistoryDisplay.from_estimator(
        fitted["wsfn energy"], name="b", floor=1e-9, ax=first.ax_
    )
    texts = [t.get_text() for t in first.ax_.get_legend().texts]
    assert texts == ["a: objective", "floor", "b: objective"]
    assert_array_equal(second.floor_.get_ydata(), [1e-9, 1e-9])
    third = HistoryDisplay(np.arange(3), {"c": np.ones(3)}).plot(ax=first.ax_)
    # The colour is the third, as if there were no floors.
    assert third.lines_[0].get_color() == COLORS[2]


def test_figures_that_are_not_there_are_named(fitted):
    for options in ({"keys": "energy"}, {"x": "minutes"}, {"keys": ()}):
        with pytest.raises(ValueError, match=r"the figures are \['objective'"):
            HistoryDisplay.from_estimator(fitted["w2"], **options)
    with pytest.raises(TypeError, match="no flow_history_"):
        HistoryDisplay.from_estimator(fitted["wsfn"], history="flow")
    with pytest.raises(ValueError, match="history is one of"):
        HistoryDisplay.from_estimator(fitted["wsfn"], history="history_")
    with pytest.raises(TypeError, match="KernelDensity, which has no history_"):
        HistoryDisplay.from_estimator(KernelDensity().fit(X))
    with pytest.raises(TypeError, match=r"pipeline\[-1\]"):
        HistoryDisplay.from_estimator(StandardScaler().fit(X))


# ---------------------------------------------------------------------------- densities


def wave(x):
    return 2.0 * torch.cos(2 * torch.pi * x).sum(1)


@pytest.mark.parametrize("d", [1, 2])
def test_density_on_the_torus_is_normalised(d):
    start = np.random.default_rng(0).uniform(size=(50, d))
    sampler = SVGDSampler(
        targets.LogDensity(wave, support="torus"), max_iter=3, random_state=0
    ).fit(start)
    display = DensityDisplay.from_estimator(sampler)
    factor = np.exp(2 * np.cos(2 * np.pi * np.linspace(0, 1, 100))) / i0(2.0)
    expected = factor if d == 1 else np.outer(factor, factor)
    assert_allclose(display.density, expected, rtol=1e-10)
    if d == 1:
        assert_allclose(display.density_.get_ydata(), expected, rtol=1e-10)
        assert_array_equal(display.estimate_.get_ydata(), display.estimate)
    else:
        assert_array_equal(offsets(display.particles_), sampler.particles_)
        assert_allclose(display.density_.levels[:-1], mass_levels(expected))


def test_von_mises_density():
    grid = np.linspace(0, 1, 201)
    h = 0.1
    kappa = (2 * np.pi * h) ** -2
    one = von_mises_density(np.array([[0.98]]), (grid,), h)
    exact = np.exp(kappa * np.cos(2 * np.pi * (grid - 0.98))) / i0(kappa)
    assert_allclose(one, exact, rtol=1e-10)
    assert_allclose(trapezoid(one, grid), 1, rtol=1e-10)
    assert_allclose(one[0], one[-1])  # the ends are one point
    even = (np.arange(20)[:, None] + 0.5) / 20
    assert_allclose(von_mises_density(even, (grid,), h), 1, atol=1e-10)
    pair = von_mises_density(np.array([[0.98, 0.2], [0.4, 0.7]]), (grid, grid), h)
    first = np.exp(kappa * np.cos(2 * np.pi * (grid - 0.2))) / i0(kappa)
    assert_allclose(pair[0, :], (one[0] * first) / 2 + _far(grid, kappa), rtol=1e-10)
    narrow = von_mises_density(np.array([[0.5]]), (grid,), 1e-3)  # no overflow in I_0
    assert np.isfinite(narrow).all()


def _far(grid, kappa):
    """Return what the second particle adds at the first points of the grid."""
    weight = np.exp(kappa * np.cos(2 * np.pi * 0.4)) / i0(kappa)
    return weight * np.exp(kappa * np.cos(2 * np.pi * (grid - 0.7))) / i0(kappa) / 2


def test_default_width_is_half_of_scotts_rule():
    angles = (0.5 + 0.05 * np.random.default_rng(0).normal(size=(1000, 1))) % 1
    grid = np.linspace(0, 1, 101)
    expected = von_mises_density(angles, (grid,), 0.5 * angles.std() * 1000**-0.2)
    assert_allclose(von_mises_density(angles, (grid,), None), expected, rtol=0.02, atol=0.02)


def test_density_in_the_plane_is_that_of_the_constrained_coordinates():
    # Bug caught: the density of log x in the place of that of x, which has its mode elsewhere.
    def exponential_and_bell(x):
        return -x[:, 0] - 0.5 * x[:, 1].square()

    start = np.abs(np.random.default_rng(0).normal(size=(400, 2)))
    start[:, 0] = np.linspace(0.01, 12, 400)
    start[:, 1] = np.linspace(-4, 4, 400)
    sampler = SVGDSampler(
        targets.LogDensity(exponential_and_bell, support=("positive", "real")), max_iter=1
    ).fit(start)
    sampler.particles_ = start
    display = DensityDisplay.from_estimator(sampler, grid_resolution=400)
    x, y = display.grid
    assert x[0] > 0
    assert y[0] < -5
    expected = np.outer(stats.expon.pdf(x), stats.norm.pdf(y))
    assert_allclose(display.density / display.density.max(), expected / expected.max(), atol=1e-9)
    assert_allclose(display.density, expected, atol=0.03 * expected.max())


def test_density_on_a_line():
    sampler = SVGDSampler(targets.Gaussian(mean=(1.0,), covariance=((4.0,),)), max_iter=1)
    sampler.fit(np.linspace(-7, 9, 100)[:, None])
    sampler.particles_ = np.linspace(-7, 9, 100)[:, None]
    display = DensityDisplay.from_estimator(sampler)
    assert_allclose(display.density, stats.norm(1, 2).pdf(display.grid[0]), atol=1e-6)
    assert display.estimate is None
    assert_allclose(sum(patch.get_xy()[:, 1].max() > 0 for patch in display.particles_), 1)


def test_levels_hold_their_shares():
    # Of a normal law in the plane the region of mass m ends where the density is (1 - m) of the
    # largest.
    grid = np.linspace(-6, 6, 401)
    bell = np.exp(-0.5 * (grid[:, None] ** 2 + grid**2))
    assert_allclose(mass_levels(bell), [0.01, 0.05, 0.2, 0.5, 0.8], rtol=0.02)
    flat = mass_levels(np.ones((5, 5)))
    assert_array_equal(flat, [1.0])
    display = DensityDisplay(X, grid=(grid, grid), density=np.ones((401, 401)))
    assert display.plot(show_particles=False).particles_ == []  # a uniform law is drawn too


def test_data_have_a_density_too(fitted):
    display = DensityDisplay.from_estimator(fitted["svgd data"], grid_resolution=40)
    x, y = display.grid
    points = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    expected = np.exp(fitted["svgd data"].target_.score_samples(points)).reshape(40, 40)
    assert_allclose(display.density / display.density.max(), expected / expected.max(), rtol=1e-6)


def test_density_of_a_posterior_is_where_its_particles_are():
    # Coefficients have units of their own, which the support of the target puts back.
    sampler = SVGDSampler(targets.LogisticRegressionPosterior(), random_state=0)
    sampler.fit(5 + 10 * X[:, :1], LABELS)
    display = DensityDisplay.from_estimator(sampler)
    assert display.axis_labels == ("coef[0]", "intercept")
    for k, axis in enumerate(display.grid):
        marginal = trapezoid(display.density, display.grid[1 - k], axis=1 - k)
        mean = trapezoid(axis * marginal, axis)
        spread = trapezoid((axis - mean) ** 2 * marginal, axis) ** 0.5
        column = sampler.particles_[:, k]
        assert_allclose(column.mean(), mean, atol=0.15 * spread)
        assert_allclose(column.std(), spread, rtol=0.15)


def test_densities_that_cannot_be_drawn(fitted):
    with pytest.raises(TypeError, match="a sampler of a target, got WSFNOptimizer"):
        DensityDisplay.from_estimator(fitted["wsfn"])
    with pytest.raises(TypeError, match="got W2FlowGenerator"):
        DensityDisplay.from_estimator(fitted["w2"])
    with pytest.raises(ValueError, match="one or two columns, but the particles have 4"):
        DensityDisplay.from_estimator(fitted["svgd linear"])
    tied = targets.LogDensity(lambda x: -x.square().sum(1), support=(("ordered", 2),))
    ordered = SVGDSampler(tied, max_iter=2, random_state=0).fit(np.sort(X, axis=1))
    with pytest.raises(ValueError, match="'ordered' are tied"):
        DensityDisplay.from_estimator(ordered)


# ---------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("display", DISPLAYS)
def test_matplotlib_is_asked_for(display, fitted, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = (X,) if display is TrajectoryDisplay else ()
    with pytest.raises(ImportError, match=rf"{display.__name__}.from_estimator requires matpl"):
        display.from_estimator(fitted["svgd data"], *given)
    with pytest.raises(ImportError, match=r"HistoryDisplay.plot requires matplotlib"):
        HistoryDisplay(np.arange(2), {"objective": np.ones(2)}).plot()


@pytest.mark.parametrize("display", [FlowDisplay, HistoryDisplay, DensityDisplay])
def test_unfitted_estimators_are_refused(display):
    with pytest.raises(NotFittedError):
        display.from_estimator(WSFNOptimizer())


def test_pipelines_are_told_what_to_pass():
    pipeline = make_pipeline(StandardScaler(), CASES["wsfn"].make()).fit(X)
    with pytest.raises(TypeError, match=r"pipeline\[-1\]"):
        FlowDisplay.from_estimator(pipeline, X)
    with pytest.raises(TypeError, match="got Pipeline"):
        TrajectoryDisplay.from_estimator(pipeline, X)
    FlowDisplay.from_estimator(pipeline[-1], pipeline[:-1].transform(X))


def test_rows_that_do_not_fit_are_refused(fitted):
    with pytest.raises(ValueError, match="X has 3 columns, but the samples have 2"):
        FlowDisplay.from_estimator(fitted["svgd data"], TABLE)
    with pytest.raises(ValueError, match="NaN"):
        FlowDisplay.from_estimator(fitted["svgd data"], np.full((3, 2), np.nan))
    assert len(FlowDisplay.from_estimator(fitted["svgd data"], torch.ones(3, 2)).X) == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"grid_resolution": 1}, ValueError),
        ({"grid_resolution": 50.0}, TypeError),
        ({"bandwidth": 0}, ValueError),
        ({"bandwidth": -1}, ValueError),
        ({"bandwidth": "scott"}, TypeError),
        ({"n_paths": 0}, ValueError),
        ({"n_paths": 2.5}, TypeError),
        ({"n_steps": -3}, ValueError),
        ({"n_steps": "a"}, TypeError),
    ],
)
def test_numbers_out_of_range_are_named(fitted, options, error):
    # Bug caught: a width of zero that stands for the default, and errors from inside NumPy.
    (name,) = options
    paths = name in ("n_paths", "n_steps")
    display, given = (TrajectoryDisplay, (X,)) if paths else (DensityDisplay, ())
    with pytest.raises(error, match=rf"^{name} (==|must be)"):
        display.from_estimator(fitted["svgd torus"], *given, **options)


@pytest.mark.parametrize("size", [(3, 2.5), (6.4, 4.8)])
def test_nothing_is_cut_off_or_overlaps(fitted, size):
    # Bug caught: labels off the paper, and ticks on top of each other, in small figures.
    with plt.rc_context({"figure.figsize": size}):
        displays = [
            FlowDisplay.from_estimator(fitted["neurons numbers"]),
            FlowDisplay.from_estimator(fitted["w2 source"], X),
            TrajectoryDisplay.from_estimator(CASES["svgd logistic"].make(), X, LABELS),
            HistoryDisplay.from_estimator(fitted["wsfn"], keys=("objective", "step"), floor=1e-4),
            DensityDisplay.from_estimator(fitted["svgd torus"]),
            DensityDisplay.from_estimator(fitted["svgd banana"]),
        ]
    for display in displays:
        figure, ax = display.figure_, display.ax_
        figure.canvas.draw()
        paper = figure.bbox
        texts = [ax.xaxis.label, ax.yaxis.label]
        texts += ax.get_legend().texts if ax.get_legend() else []
        for text in texts:
            box = text.get_window_extent()
            assert paper.x0 <= box.x0 and box.x1 <= paper.x1, text  # noqa: PT018
            assert paper.y0 <= box.y0 and box.y1 <= paper.y1, text  # noqa: PT018
        low, high = sorted(ax.get_xlim())
        ticks = [t.label1 for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
        boxes = sorted((t.get_window_extent() for t in ticks if t.get_text()), key=lambda b: b.x0)
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
