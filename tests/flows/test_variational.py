"""The training of a field: its largest objective, early stopping, and the weights that are kept."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from skwgf.flows.regularizers import LpCost
from skwgf.flows.variational import Cloud, FieldTrainer, variational_objective
from skwgf.nn.divergence import DivergenceMLP

F64 = torch.float64


def draws(n, d, seed):
    """Return particles drawn from N(0, I), and their scores: there is nothing to learn."""
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return Cloud(z, -z, None)


def trainer(d=3, **options):
    network = DivergenceMLP(d, (16,), generator=torch.Generator().manual_seed(0), dtype=F64)
    return FieldTrainer(network, **options)


def judge(fitted, cloud):
    with torch.no_grad():
        return float(variational_objective(fitted.network, cloud, LpCost(2.0)))


def test_largest_objective_is_the_mean_conjugate():
    # For an affine field, on a cloud with the empirical moments 0 and 1: r = -2 z.
    z = torch.tensor([[-1.0], [1.0]], dtype=F64)
    network = DivergenceMLP(1, (), generator=torch.Generator().manual_seed(0), dtype=F64)
    fitted = FieldTrainer(network, learning_rate=0.03, betas=(0.9, 0.999))
    fitted.fit(Cloud(z, -3 * z, None), None, LpCost(2.0), 800)
    assert judge(fitted, Cloud(z, -3 * z, None)) == pytest.approx(2.0, abs=1e-8)


@pytest.mark.parametrize("learning_rate", [3e-3, 0.3])
def test_the_weights_that_are_best_on_held_out_particles_are_kept(learning_rate):
    # With the large rate already the first look may be worse than the start, which is kept then.
    train, test = draws(20, 3, 1), draws(20, 3, 2)
    fitted = trainer(learning_rate=learning_rate)
    before = judge(fitted, test)
    fit = fitted.fit(train, test, LpCost(2.0), 500)
    assert judge(fitted, test) == fit.held_out >= before
    # The objective on the particles trained on has no bound: the end was not the budget's.
    assert fit.n_steps < 500
    assert fit.n_steps % 5 == 0


def test_two_looks_in_a_row_without_a_better_figure_end_the_fit():
    train, test = draws(20, 3, 1), draws(20, 3, 2)
    fit = trainer().fit(train, test, LpCost(2.0), 500)
    # The same steps in separate fits: the best of them is where the last ten steps began.
    figures = []
    for n_steps in range(0, fit.n_steps + 1, 5):
        free = trainer()
        if n_steps:
            free.fit(train, None, LpCost(2.0), n_steps)
        figures.append(judge(free, test))
    assert figures.index(max(figures)) == len(figures) - 3
    assert max(figures) == pytest.approx(fit.held_out, rel=1e-12)
    rises = [after <= max(figures[: k + 1]) for k, after in enumerate(figures[1:])]
    assert not any(first and second for first, second in itertools.pairwise(rises[:-1]))


def test_moments_run_on_where_the_weights_are_put_back():
    # Put back as well, they would propose the same step at every call, to be refused every time.
    train, test = draws(20, 3, 1), draws(20, 3, 2)
    fitted = trainer(learning_rate=0.3)
    fitted.fit(train, test, LpCost(2.0), 10)
    start = fitted.state_dict()
    fitted.fit(train, test, LpCost(2.0), 10)
    end = fitted.state_dict()
    assert torch.equal(start["weight.skip"], end["weight.skip"])
    assert int(end["adam_steps"]) == int(start["adam_steps"]) + 10


def test_a_fit_that_is_not_finite_is_undone_and_cuts_the_rate():
    fitted = trainer()
    fitted.fit(draws(20, 3, 1), None, LpCost(2.0), 5)
    start = fitted.state_dict()
    z = torch.full((4, 3), math.inf, dtype=F64)
    with pytest.warns(RuntimeWarning, match="last good weights"):
        fit = fitted.fit(Cloud(z, z, None), draws(20, 3, 2), LpCost(2.0), 10)
    end = fitted.state_dict()
    assert math.isnan(fit.trained)
    assert end.pop("learning_rate") == pytest.approx(0.1 * start.pop("learning_rate"))
    assert all(torch.equal(start[key], end[key]) for key in start)
