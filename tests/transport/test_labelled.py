"""Class terms in the cost: the coordinates that carry them, the smoothing, the labels found."""

from __future__ import annotations

import math

import ot
import pytest
import torch
from scenarios import DTYPE, Clusters, generator, normal
from sklearn.semi_supervised import LabelSpreading
from torch.nn.functional import one_hot

from skwgf._tensor import to_numpy, to_tensor
from skwgf.transport import (
    batch_map,
    cell_index,
    class_coordinates,
    class_sides,
    exact_plan,
    half_squared_distance,
    mean_cost,
    neighbor_disagreement,
    sinkhorn,
    transport_labels,
)
from skwgf.transport.label_graph import contiguity_ratio, label_spreading, smooth_labels

ALPHA = 0.95


def class_problem(n=40, m=30, n_classes=3):
    """Return points with labels, rows with class probabilities, and the explicit cost."""
    x, y = normal(n, 2, 1), normal(m, 2, 2) + 0.5
    labels = torch.randint(n_classes, (n,), generator=generator(3))
    proba = torch.rand(m, n_classes, generator=generator(4), dtype=DTYPE).square()
    proba = proba / proba.sum(1, keepdim=True)
    weight = 2.5
    cost = half_squared_distance(x, y) - weight * proba[:, labels].T
    known = one_hot(labels, n_classes).to(DTYPE)
    source = torch.cat([x, class_coordinates(known, weight)], 1)
    target = torch.cat([y, class_coordinates(proba, weight)], 1)
    return x, y, cost, source, target


def uniform(n):
    return [1 / n] * n


def test_coordinates_give_the_class_term_up_to_a_term_of_the_row():
    # |sqrt(w) e - sqrt(w) P|^2 / 2 = w/2 - w P_label + w |P|^2 / 2.
    _, _, cost, source, target = class_problem()
    difference = half_squared_distance(source, target) - cost
    assert (difference - difference[0]).abs().max() < 1e-12
    # The term of the row is not constant: a test of the whole cost would not do.
    assert difference[0].std() > 0.05


def test_exact_plan_is_that_of_the_explicit_cost():
    _, _, cost, source, target = class_problem()
    plan = exact_plan(source, target)
    dense = torch.zeros(40, 30, dtype=DTYPE)
    dense[plan.rows, plan.cols] = plan.mass
    expected = to_tensor(ot.emd(uniform(40), uniform(30), to_numpy(cost)))
    torch.testing.assert_close(dense, expected, rtol=0, atol=1e-12)


def test_class_term_changes_the_plan():
    # Else the test above would pass without any class term.
    x, y, cost, _, _ = class_problem()
    plain = ot.emd(uniform(40), uniform(30), to_numpy(half_squared_distance(x, y)))
    classes = ot.emd(uniform(40), uniform(30), to_numpy(cost))
    assert abs(plain - classes).sum() > 0.2


def test_entropic_plan_is_that_of_the_explicit_cost():
    _, _, cost, source, target = class_problem()
    expected = ot.sinkhorn(
        uniform(40),
        uniform(30),
        to_numpy(cost),
        0.3,
        method="sinkhorn_log",
        stopThr=1e-12,
        numItermax=20_000,
    )
    coupling = sinkhorn(source, target, 0.3, tol=1e-9).coupling()
    torch.testing.assert_close(coupling, to_tensor(expected), rtol=1e-6, atol=1e-10)


def test_large_weight_keeps_classes_together():
    labels = torch.arange(40) % 2
    known = one_hot(labels, 2).to(DTYPE)
    side = class_coordinates(known, 1e4)
    images = batch_map(normal(40, 2, 5), known, side_x=side, side_y=side)
    assert torch.equal(images, known)


def affinity(y, n_neighbors):
    """Return the symmetric graph of nearest neighbours, from all distances."""
    distances = half_squared_distance(y, y)
    distances.fill_diagonal_(math.inf)
    nearest = distances.topk(n_neighbors, largest=False).indices
    graph = torch.zeros(len(y), len(y), dtype=y.dtype).scatter_(1, nearest, 1.0)
    return torch.maximum(graph, graph.T)


def test_operator_is_the_normalised_graph():
    y = normal(60, 3, 6)
    graph = affinity(y, 5)
    degree = graph.sum(1)
    expected = graph / (degree[:, None] * degree).sqrt()
    operator = label_spreading(y, n_neighbors=5)
    torch.testing.assert_close(operator.to_dense(), expected)
    # Its largest eigenvalue is one, on sqrt(degree): the smoothing neither grows nor dies out.
    torch.testing.assert_close(operator.to_dense() @ degree.sqrt(), degree.sqrt())


def test_smoothing_is_the_label_spreading_of_scikit_learn():
    # Same graph, same alpha; the reference is iterated to rest, and agrees with the closed form
    # (I - alpha S)^-1. Ours has 60 sweeps: .95^60 = .05 of the start is left.
    y, labels = normal(40, 2, 7), torch.full((40,), -1)
    labels[:6] = torch.tensor([0, 1, 2, 0, 1, 2])
    known = torch.zeros(40, 3, dtype=DTYPE)
    known[torch.arange(6), labels[:6]] = 1.0
    graph = to_numpy(affinity(y, 8))
    reference = LabelSpreading(kernel=lambda *_: graph, alpha=ALPHA, max_iter=5000, tol=1e-14)
    reference.fit(to_numpy(y), to_numpy(labels))
    operator = label_spreading(y)
    closed = torch.linalg.solve(torch.eye(40, dtype=DTYPE) - ALPHA * operator.to_dense(), known)
    closed = closed / closed.sum(1, keepdim=True)
    expected = to_tensor(reference.label_distributions_)
    torch.testing.assert_close(closed, expected, rtol=0, atol=1e-8)
    smooth = smooth_labels(known, operator)
    torch.testing.assert_close(smooth, expected, rtol=0, atol=ALPHA**60)
    assert torch.equal(smooth.argmax(1), expected.argmax(1))
    torch.testing.assert_close(smooth.sum(1), torch.ones(40, dtype=DTYPE))


def test_constant_probabilities_stay():
    operator = label_spreading(normal(30, 2, 8))
    proba = torch.tensor([0.2, 0.3, 0.5], dtype=DTYPE).expand(30, 3)
    torch.testing.assert_close(smooth_labels(proba, operator), proba)


@pytest.mark.parametrize("m", [2, 5, 8, 9])
def test_graph_of_few_rows(m):
    # No more neighbours than other rows: 8 are asked for.
    operator = label_spreading(normal(m, 2, 9)).to_dense()
    torch.testing.assert_close(operator, operator.T)
    assert (operator.diagonal() == 0).all()
    off_diagonal = (1 - torch.eye(m, dtype=DTYPE)) / (m - 1)  # all are neighbours
    torch.testing.assert_close(operator, off_diagonal)


def accuracy(predicted, truth):
    return float((predicted == truth).to(DTYPE).mean())


def nearest_labels(x, labels, y):
    return labels[cell_index(y, x, torch.zeros(len(x), dtype=x.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_follow_a_shift(dtype):
    # Three clusters moved by their spacing: each lies where another class was.
    shift = torch.tensor([4.0, 1.0], dtype=DTYPE)
    problem = Clusters.shifted(300, shift, shares=(0.5, 0.3, 0.2), seed=10)
    x, y = problem.x.to(dtype), problem.y.to(dtype)
    proba, _ = transport_labels(x, problem.labels_x, y, n_classes=3)
    assert proba.dtype == dtype
    assert accuracy(proba.argmax(1), problem.labels_y) == 1.0
    torch.testing.assert_close(proba.sum(1), torch.ones(300, dtype=dtype))
    assert (proba >= 0).all()
    assert accuracy(nearest_labels(x, problem.labels_x, y), problem.labels_y) < 0.3


def turned_problem():
    """Return three clusters, turned by 50 degrees, moved, and with slightly other shares."""
    angles = 2 * math.pi * torch.arange(3, dtype=DTYPE) / 3
    centres = 3.0 * torch.stack([angles.cos(), angles.sin()], 1)
    labels_x = torch.repeat_interleave(torch.arange(3), torch.tensor([100, 100, 100]))
    labels_y = torch.repeat_interleave(torch.arange(3), torch.tensor([110, 100, 90]))
    turn = math.radians(50.0)
    matrix = torch.tensor(
        [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]], dtype=DTYPE
    )
    x = centres[labels_x] + 0.4 * normal(300, 2, 11)
    y = (centres[labels_y] + 0.4 * normal(300, 2, 12)) @ matrix
    return x, labels_x, y + torch.tensor([4.0, -2.0], dtype=DTYPE), labels_y


def test_labels_follow_a_turn_where_the_plan_alone_does_not():
    # At a turn of 50 degrees out of the 60 at which the pairing of three clusters is open, plans
    # split the clusters: measured .74 right with the exact plan, .88 with the entropic one. Graph
    # and class term put them together again. Bugs caught: either of them without effect.
    x, labels_x, y, labels_y = turned_problem()
    found = transport_labels(x, labels_x, y, n_classes=3)[0].argmax(1)
    assert accuracy(found, labels_y) > 0.99
    known = one_hot(labels_x, 3).to(DTYPE)
    exact = exact_plan(y, x).barycenter(known).argmax(1)
    assert accuracy(exact, labels_y) < 0.8
    entropic = sinkhorn(y, x, 0.1 * mean_cost(x, y)).barycenter(known).argmax(1)
    assert accuracy(entropic, labels_y) < 0.92
    for without in ({"weight": 0.0}, {"n_rounds": 1}):
        less = transport_labels(x, labels_x, y, n_classes=3, **without)[0].argmax(1)
        assert accuracy(less, labels_y) < 0.98
    assert accuracy(nearest_labels(x, labels_x, y), labels_y) < 0.5


def test_labels_do_not_depend_on_place_and_unit():
    x, labels_x, y, _ = turned_problem()
    expected, _ = transport_labels(x, labels_x, y, n_classes=3)
    moved, _ = transport_labels(1e3 * x + 50.0, labels_x, 1e3 * y - 7.0, n_classes=3)
    # Moving the target changes the mean cost, and with it reg and the weight: labels, not figures.
    assert torch.equal(moved.argmax(1), expected.argmax(1))
    # A power of two: other factors round, and plans that are not solved to the end amplify that.
    scaled, _ = transport_labels(1024.0 * x, labels_x, 1024.0 * y, n_classes=3)
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-6)


def test_labels_come_without_graph():
    x = normal(20, 2, 13).requires_grad_()
    proba, _ = transport_labels(x, torch.arange(20) % 2, normal(10, 2, 14), n_classes=2)
    assert not proba.requires_grad


def test_one_target_row_gets_the_class_shares():
    labels = torch.tensor([0, 0, 0, 1])
    proba, _ = transport_labels(normal(4, 2, 15), labels, normal(1, 2, 16), n_classes=2)
    torch.testing.assert_close(proba, torch.tensor([[0.75, 0.25]], dtype=DTYPE))


@pytest.mark.parametrize("gap", [0.0, 3.0])
def test_identical_rows_get_the_class_shares(gap):
    # No cost at all (gap 0), or nothing to tell the rows apart by.
    x, labels = torch.ones(8, 2, dtype=DTYPE), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    proba, _ = transport_labels(x, labels, x[:5] + gap, n_classes=2)
    assert proba.shape == (5, 2)
    expected = torch.tensor([0.75, 0.25], dtype=DTYPE).expand(5, 2)
    torch.testing.assert_close(proba, expected, rtol=0, atol=1e-6)


def test_some_identical_rows():
    # A duplicated row has zero distance to its copy: no division by it, and equal labels.
    shift = torch.tensor([4.0, 0.0], dtype=DTYPE)
    problem = Clusters.shifted(60, shift, shares=(0.5, 0.5), seed=17)
    y = problem.y.clone()
    y[1:20] = y[0]
    proba, _ = transport_labels(problem.x, problem.labels_x, y, n_classes=2)
    assert torch.isfinite(proba).all()
    assert accuracy(proba.argmax(1), problem.labels_y) == 1.0


def test_single_class():
    proba, _ = transport_labels(
        normal(20, 2, 18), torch.zeros(20, dtype=torch.int64), normal(15, 2, 19), n_classes=1
    )
    torch.testing.assert_close(proba, torch.ones(15, 1, dtype=DTYPE))


def test_class_without_source_rows_gets_nothing():
    proba, _ = transport_labels(
        normal(20, 2, 20), torch.arange(20) % 2, normal(15, 2, 21), n_classes=3
    )
    assert (proba[:, 2] == 0).all()
    torch.testing.assert_close(proba.sum(1), torch.ones(15, dtype=DTYPE))


def shares_problem(shares_x, shares_y, shift=1.0, n=300):
    """Return three clusters whose shares differ between the clouds, which are shifted a little."""
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]], dtype=DTYPE)
    labels_x, labels_y = (
        torch.repeat_interleave(torch.arange(3), (n * torch.tensor(s)).round().long())
        for s in (shares_x, shares_y)
    )
    x = centres[labels_x] + 0.5 * normal(len(labels_x), 2, 22)
    y = centres[labels_y] + 0.5 * normal(len(labels_y), 2, 23) + shift
    return x, labels_x, y, labels_y


def test_class_shares_that_differ_are_found():
    # .2 of the rows change class in any plan that keeps the shares of the source. Bugs caught:
    # shares that stay, weights that do not sum to them, the run with kept shares preferred.
    wanted = (0.5, 0.25, 0.25)
    x, labels_x, y, labels_y = shares_problem((0.3, 0.35, 0.35), wanted)
    sides = class_sides(x, labels_x, y, n_classes=3, weight=8.0, reg=0.03)
    assert accuracy(sides.proba.argmax(1), labels_y) > 0.99
    torch.testing.assert_close(sides.shares, torch.tensor(wanted, dtype=DTYPE), rtol=0, atol=0.1)
    by_class = one_hot(labels_x, 3).to(DTYPE).T @ sides.weights
    torch.testing.assert_close(by_class, sides.shares)
    kept, shares = transport_labels(x, labels_x, y, n_classes=3)
    assert accuracy(kept.argmax(1), labels_y) < 0.9
    torch.testing.assert_close(shares, torch.tensor([0.3, 0.35, 0.35], dtype=DTYPE))


def test_equal_class_shares_are_kept():
    # Free shares do as well here, and are not asked for.
    x, labels_x, y, labels_y = shares_problem((0.4, 0.4, 0.2), (0.4, 0.4, 0.2))
    sides = class_sides(x, labels_x, y, n_classes=3, weight=8.0, reg=0.03)
    assert sides.weights is None
    assert accuracy(sides.proba.argmax(1), labels_y) > 0.99


def test_without_relax_shares_are_those_of_the_source():
    x, labels_x, y, _ = shares_problem((0.2, 0.4, 0.4), (0.6, 0.2, 0.2))
    sides = class_sides(x, labels_x, y, n_classes=3, weight=8.0, reg=0.03, relax=False)
    assert sides.weights is None


def test_disagreement_is_that_of_the_pairs():
    y = normal(200, 2, 24)
    operator = label_spreading(y)
    labels = torch.randint(3, (200,), generator=generator(25))
    known = one_hot(labels, 3).to(DTYPE)
    pairs = operator.to_dense() > 0
    differ = (labels[:, None] != labels)[pairs].to(DTYPE).mean()
    chance = 1 - known.mean(0).square().sum()
    assert neighbor_disagreement(known, operator) == pytest.approx(float(differ / chance))
    # Labels at random: neighbours differ as often as any rows (about 1000 pairs).
    assert neighbor_disagreement(known, operator) == pytest.approx(1.0, abs=0.1)
    # A single class tells nothing apart, which must not look like the best labelling.
    assert neighbor_disagreement(torch.ones(200, 1, dtype=DTYPE), operator) == 1.0


def test_disagreement_prefers_right_labels():
    # Two close clusters: the share of wrong labels raises the figure.
    problem = Clusters.shifted(300, torch.zeros(2, dtype=DTYPE), shares=(0.5, 0.5), seed=26)
    operator = label_spreading(problem.y)
    figures = []
    for wrong in (0, 15, 60):
        labels = problem.labels_y.clone()
        labels[:wrong] = 1 - labels[:wrong]
        figures.append(neighbor_disagreement(one_hot(labels, 2).to(DTYPE), operator))
    assert figures[0] < 0.01
    assert figures == sorted(figures)


def test_sides_tell_that_a_map_does_not_help():
    # The source has none of the two upper clusters' order: nearest rows are right, and the plan,
    # bound to the shares of the source, is not.
    x, labels_x, y, _ = shares_problem((0.05, 0.475, 0.475), (0.6, 0.2, 0.2), shift=0.0)
    bound = class_sides(x, labels_x, y, n_classes=3, weight=8.0, reg=0.03, relax=False)
    assert bound.disagreement > bound.disagreement_source
    x, labels_x, y, _ = turned_problem()
    turned = class_sides(x, labels_x, y, n_classes=3, weight=8.0, reg=0.03)
    assert turned.disagreement < 0.05


def test_contiguity_of_numbers_and_of_classes():
    # Catches classes that count as numbers, and values whose variance is only rounding: fifty times
    # a tenth is a constant.
    rows, cols = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 3, 2])
    codes = torch.tensor([0, 3, 1, 1])
    assert contiguity_ratio(codes, rows, cols) == pytest.approx(0.5 / (1 - 0.375))
    one_hots = one_hot(codes, 4).to(DTYPE)
    assert contiguity_ratio(one_hots, rows, cols) == pytest.approx(0.5 / (1 - 0.375))
    numbers = codes[:, None].to(DTYPE)
    assert contiguity_ratio(numbers, rows, cols) == pytest.approx(4.5 / (2 * 1.1875))
    near = torch.arange(50)
    assert contiguity_ratio(torch.full((50, 1), 0.1, dtype=DTYPE), near, near.flip(0)) == 1.0
