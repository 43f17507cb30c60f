from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from skwgf._tensor import make_generator
from skwgf.nn import mlp

ACTIVATIONS = ["relu", "silu", "tanh", "elu"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_layer_sizes", [(), (7,), (7, 5, 3)])
def test_modules_are_plain_and_have_the_named_sizes(hidden_layer_sizes, activation):
    network = mlp(4, 2, hidden_layer_sizes, activation=activation, generator=make_generator(0))
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.in_features for layer in linear] == [4, *hidden_layer_sizes]
    assert [layer.out_features for layer in linear] == [*hidden_layer_sizes, 2]
    # One activation between any two layers and none after the last: an activation there would
    # keep a generator from reaching half of the space.
    assert len(network) == 2 * len(linear) - 1
    assert isinstance(network[-1], nn.Linear)


def test_same_seed_gives_the_same_weights_in_every_precision():
    single = mlp(3, 2, (8, 8), generator=make_generator(5))
    double = mlp(3, 2, (8, 8), generator=make_generator(5), dtype=torch.float64)
    other = mlp(3, 2, (8, 8), generator=make_generator(6))
    for a, b, c in zip(single.parameters(), double.parameters(), other.parameters(), strict=True):
        assert b.dtype == torch.float64
        assert torch.equal(a.double(), b)
        assert not torch.equal(a, c)


def test_global_generator_is_untouched_and_without_influence():
    # Catches layers built by nn.Linear(...), which draws its weights from the global state.
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mlp(3, 2, generator=make_generator(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = mlp(3, 2, generator=make_generator(0))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_and_biases_follow_the_uniform_law_of_torch():
    fan_in, fan_out = 400, 300
    layer = mlp(fan_in, fan_out, (), generator=make_generator(0))[0]
    bound = 1 / math.sqrt(fan_in)
    for values in (layer.weight.flatten(), layer.bias):
        assert values.abs().max() <= bound
        # A uniform law has standard deviation bound / sqrt(3); the relative error of an estimate
        # from n draws is sqrt(.2 / n), and five of them are allowed. Catches a bound that is
        # taken from the outputs, and biases left at zero.
        spread = values.std() * math.sqrt(3) / bound
        assert abs(spread - 1) < 5 * math.sqrt(0.2 / values.numel())


def test_zero_last_gives_the_zero_function_that_can_still_learn():
    network = mlp(3, 2, (16, 16), generator=make_generator(0), zero_last=True)
    x = torch.randn(10, 3, generator=make_generator(1))
    assert torch.equal(network(x), torch.zeros(10, 2))
    network(x).sum().backward()
    # Catches zeroing every layer, after which no gradient would ever flow.
    assert network[-1].weight.grad.abs().max() > 0
    assert network[0].weight.abs().max() > 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_match_finite_differences(activation):
    # Catches an activation applied in place over values that the gradient still needs.
    network = mlp(
        3, 2, (5, 5), activation=activation, generator=make_generator(0), dtype=torch.float64
    )
    x = torch.randn(4, 3, generator=make_generator(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, x)


def test_bad_arguments_are_named():
    generator = make_generator(0)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes=\(8, 0\)"):
        mlp(2, 2, (8, 0), generator=generator)
    with pytest.raises(ValueError, match="n_out=0"):
        mlp(2, 0, generator=generator)
    with pytest.raises(ValueError, match=r"activation='swish'.*silu"):
        mlp(2, 2, activation="swish", generator=generator)
