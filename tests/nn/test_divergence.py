"""Divergences of networks: the closed forms against autograd, and the estimate without bias."""

from __future__ import annotations

import pytest
import torch

from skwgf.nn.divergence import (
    DivergenceMLP,
    WithDivergence,
    exact_divergence,
    hutchinson_divergence,
)
from skwgf.nn.quadratic import has_closed_gradient, quadratic_gradient

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, d, dtype=F64, seed=5):
    return torch.randn(n, d, generator=generator(seed), dtype=F64).to(dtype)


def random_network(d, hidden, seed=1, **options):
    """Return a network whose weights, the last layer and the skip too, are of order one."""
    draws = generator(seed)
    network = DivergenceMLP(d, hidden, generator=draws, **options)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.5 * torch.randn(weight.shape, generator=draws))
    return network


# Widths that all differ, so that a transposed matrix does not fit; both sides of d = width, where
# the sum for three layers is taken the other way around.
WIDTHS = [(), (5,), (5, 4), (6, 5, 4)]


@pytest.mark.parametrize("hidden", WIDTHS)
@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize("linear_skip", [True, False])
@pytest.mark.parametrize("d", [1, 3, 9])
@pytest.mark.parametrize(("dtype", "tol"), [(F64, 1e-10), (torch.float32, 2e-5)])
def test_closed_form_equals_autograd(hidden, activation, linear_skip, d, dtype, tol):
    network = random_network(d, hidden, activation=activation, linear_skip=linear_skip, dtype=dtype)
    x = points(7, d, dtype)
    value, divergence = network.value_and_divergence(x)
    jacobians = torch.stack([torch.autograd.functional.jacobian(network, row[None]) for row in x])
    traces = jacobians[:, 0, :, 0, :].diagonal(dim1=1, dim2=2).sum(1)
    assert divergence.shape == (7,)
    torch.testing.assert_close(value, network(x), rtol=tol, atol=tol)
    torch.testing.assert_close(divergence, traces, rtol=tol, atol=tol)


@pytest.mark.parametrize("d", [2, 10, 100])
def test_single_precision_is_exact_to_1e_6(d):
    # With the starting law of the weights, whose sums are of order one.
    network = DivergenceMLP(d, (32, 32), generator=generator())
    x = points(20, d, torch.float32)
    exact = exact_divergence(network.double(), x.double())[1]
    divergence = network.float().value_and_divergence(x)[1]
    gap, size = (divergence - exact).detach().abs().max(), exact.detach().abs().max()
    assert gap <= 1e-6 * max(1, size)


@pytest.mark.parametrize("hidden", WIDTHS)
def test_gradient_in_the_weights_equals_that_of_autograd(hidden):
    # Training needs the derivative of the divergence; catches a detached slope.
    network = random_network(3, hidden, dtype=F64)
    x = points(6, 3)
    weights = list(network.parameters())
    ours, theirs = (
        torch.autograd.grad(
            (value.sin().sum() + divergence.square().sum()), weights, allow_unused=True
        )
        for value, divergence in (network.value_and_divergence(x), exact_divergence(network, x))
    )
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("hidden", WIDTHS)
@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize("d", [1, 3, 9])
def test_mean_gradient_of_the_features_equals_autograd(hidden, activation, d):
    # What the last layer is solved with. Catches means that are taken before the product of two
    # layers' slopes, which agree at a single point only.
    network = random_network(d, hidden, activation=activation, dtype=F64)
    x = points(7, d)
    features, gradient = network.hidden_features(x)
    width = hidden[-1] if hidden else 0
    assert features.shape == (7, width)
    assert gradient.shape == (width, d)
    if hidden:
        torch.testing.assert_close(features, network.hidden(x), rtol=1e-12, atol=1e-12)
        jacobians = [torch.autograd.functional.jacobian(network.hidden, row[None]) for row in x]
        expected = torch.stack([jacobian[0, :, 0] for jacobian in jacobians]).mean(0)
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)
        last = network.core[-1]
        value = features @ last.weight.T + last.bias + x @ network.skip.T
        torch.testing.assert_close(value, network(x))


def test_the_network_may_start_as_the_zero_field():
    network = DivergenceMLP(4, generator=generator(), zero_last=True)
    value, divergence = network.value_and_divergence(points(5, 4, torch.float32))
    assert not value.any()
    assert not divergence.any()


def test_hutchinson_is_unbiased_and_exact_for_a_diagonal_jacobian():
    network, x = random_network(4, (6, 5), dtype=F64), points(3, 4)
    with torch.no_grad():
        exact = exact_divergence(network, x)[1]
        draws = generator(9)
        estimates = torch.stack(
            [hutchinson_divergence(network, x, generator=draws)[1] for _ in range(2000)]
        )
    standard_error = estimates.std(0) / 2000**0.5
    assert bool((standard_error > 0).all())
    # Gaussian probes would pass this but not the next: their variance is not zero there.
    assert bool(((estimates.mean(0) - exact).abs() <= 4 * standard_error).all())
    value, divergence = hutchinson_divergence(torch.sin, x, generator=draws)
    torch.testing.assert_close(divergence, x.cos().sum(1))
    torch.testing.assert_close(value, x.sin())


def test_hutchinson_averages_its_probes():
    network, x = random_network(4, (6, 5), dtype=F64), points(300, 4)
    with torch.no_grad():
        exact = exact_divergence(network, x)[1]
        one, many = (
            hutchinson_divergence(network, x, generator=generator(2), n_probes=k)[1] - exact
            for k in (1, 16)
        )
    # The variance falls as 1/16; the ratio over 300 points is within 40 per cent of it.
    assert 0.6 / 16 <= float(many.square().mean() / one.square().mean()) <= 1.4 / 16
    with pytest.raises(ValueError, match="n_probes must be at least 1, got 0"):
        hutchinson_divergence(network, x, generator=generator(), n_probes=0)


def test_any_module_is_exact_up_to_its_limit_and_estimated_beyond():
    module, x = random_network(4, (6, 5), dtype=F64), points(3, 4)
    exact = module.value_and_divergence(x)[1]
    close = WithDivergence(module, generator=generator(), exact_up_to=4)
    far = WithDivergence(module, generator=generator(), exact_up_to=3)
    torch.testing.assert_close(close.value_and_divergence(x)[1], exact)
    assert not torch.allclose(far.value_and_divergence(x)[1], exact)
    torch.testing.assert_close(far(x), module(x))


def test_no_graph_is_left_where_gradients_are_off():
    network, x = random_network(2, (3,), dtype=F64), points(3, 2)
    with torch.no_grad():
        value, divergence = exact_divergence(network, x)
    assert not value.requires_grad
    assert not divergence.requires_grad


def test_global_generator_is_left_alone():
    before = torch.get_rng_state()
    network = random_network(2, (3,), dtype=F64)
    hutchinson_divergence(network, points(3, 2), generator=generator())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("hidden", "options", "match"),
    [
        ((4, 4, 4, 4), {}, "more than 3 layers"),
        ((4,), {"activation": "relu"}, "activation='relu'"),
        ((0,), {}, "at least one unit"),
    ],
)
def test_bad_shapes_are_refused(hidden, options, match):
    with pytest.raises(ValueError, match=match):
        DivergenceMLP(2, hidden, generator=generator(), **options)


@pytest.mark.parametrize("sizes", [(5, 7), (16, 3)])
@pytest.mark.parametrize("d", [1, 4])
def test_gradient_by_hand_is_that_of_autograd(sizes, d):
    # The same sums in another order: equal to rounding. Bug caught: a term of the product rule of
    # W_2 o (W_1 W_3)^T that is left out.
    draws = torch.Generator().manual_seed(3)
    network = DivergenceMLP(d, sizes, generator=draws, dtype=torch.float64)
    with torch.no_grad():
        network.skip.normal_(generator=draws)
    x, scores = torch.randn(2, 30, d, generator=draws, dtype=torch.float64)
    assert has_closed_gradient(network)
    value, gradient = quadratic_gradient(network, x, scores)
    f, divergence = network.value_and_divergence(x)
    objective = ((f * scores).sum(1) + divergence - 0.5 * f.square().sum(1)).mean()
    names, weights = zip(*network.named_parameters(), strict=True)
    expected = torch.autograd.grad(objective, weights)
    torch.testing.assert_close(value, objective.detach(), rtol=1e-12, atol=1e-12)
    for name, derivative in zip(names, expected, strict=True):
        torch.testing.assert_close(gradient[name], derivative, rtol=1e-11, atol=1e-12)


def test_other_networks_have_no_gradient_by_hand():
    draws = torch.Generator().manual_seed(0)
    assert not has_closed_gradient(DivergenceMLP(2, (4,), generator=draws))
    assert not has_closed_gradient(DivergenceMLP(2, (4, 4), activation="silu", generator=draws))
    assert not has_closed_gradient(DivergenceMLP(2, (4, 4), linear_skip=False, generator=draws))
