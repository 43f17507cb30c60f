"""The neural network: a loop over particles, layers and rows by hand, priors, units."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import log_softmax

from skwgf.targets import NeuralNetworkPosterior

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = 100 + 30 * np.tanh(X[:, 0]) + 3 * RNG.normal(size=30)
LABELS = np.array(["b", "a", "c"])[(X[:, 0] > 0) + (X[:, 1] > 0.5).astype(int)]
ACTIVATIONS = {
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "silu": lambda a: a / (1 + np.exp(-a)),
}


def tensor(array):
    return torch.tensor(np.asarray(array).tolist(), dtype=torch.float64)


def particles(model, n=4):
    generator = torch.Generator().manual_seed(0)
    return 0.7 * torch.randn(n, model.n_dim_, generator=generator, dtype=torch.float64)


def by_hand(row, sizes, activation):
    """The outputs of one network, its weights taken from a row in the documented order."""
    n_weights = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
    weights = row[:n_weights] / math.exp(row[n_weights] / 2)  # from units of the prior
    hidden, first = X, 0
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        weight = weights[first : first + fan_in * fan_out].reshape(fan_in, fan_out)
        first += fan_in * fan_out
        hidden = hidden @ weight + weights[first : first + fan_out]
        first += fan_out
        if layer < len(sizes) - 2:
            hidden = ACTIVATIONS[activation](hidden)
    return hidden, first


@pytest.mark.parametrize("hidden", [(5,), (4, 3)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_regression_by_hand(hidden, activation):
    model = NeuralNetworkPosterior(
        hidden, activation=activation, weight_prior=(2.0, 0.5), noise_prior=(3.0, 0.7)
    ).fit(X, Y)
    z = particles(model)
    predicted, log_prob = model.predictive(z, tensor(X)), model.log_prob(z)
    likelihood = model.log_likelihood(z, tensor(X), model.encode(Y))
    for i, row in enumerate(np.array(z.tolist())):
        outputs, n_weights = by_hand(row, [3, *hidden, 1], activation)
        assert len(row) == n_weights + 2
        weight_precision, noise_precision = np.exp(row[n_weights:])
        mean = Y.mean() + Y.std() * outputs[:, 0]
        sd = Y.std() / math.sqrt(noise_precision)
        assert np.allclose(predicted.mean[i].tolist(), mean)
        assert np.allclose(predicted.sd[i].tolist(), sd)
        terms = stats.norm(mean, sd).logpdf(Y)
        assert np.allclose(likelihood[i].tolist(), terms)
        expected = terms.sum()
        expected += stats.norm(0, 1).logpdf(row[:n_weights]).sum()
        expected += stats.gamma(2.0, scale=2.0).logpdf(weight_precision) + row[-2]
        expected += stats.gamma(3.0, scale=1 / 0.7).logpdf(noise_precision) + row[-1]
        assert float(log_prob[i]) == pytest.approx(expected, rel=1e-11)


def test_classification_by_hand():
    model = NeuralNetworkPosterior((4,), activation="tanh", task="classification").fit(X, LABELS)
    assert model.classes_.tolist() == ["a", "b", "c"]
    z = particles(model)
    codes = np.searchsorted(["a", "b", "c"], LABELS)
    probability, log_prob = model.predictive(z, tensor(X)).probability, model.log_prob(z)
    likelihood = model.log_likelihood(z, tensor(X), model.encode(LABELS))
    for i, row in enumerate(np.array(z.tolist())):
        outputs, n_weights = by_hand(row, [3, 4, 3], "tanh")
        assert len(row) == n_weights + 1
        logs = log_softmax(outputs, axis=1)
        assert np.allclose(probability[i].tolist(), np.exp(logs))
        terms = logs[np.arange(30), codes]
        assert np.allclose(likelihood[i].tolist(), terms)
        expected = terms.sum()
        expected += stats.norm(0, 1).logpdf(row[:n_weights]).sum()
        expected += stats.gamma(1.0, scale=10.0).logpdf(math.exp(row[-1])) + row[-1]
        assert float(log_prob[i]) == pytest.approx(expected, rel=1e-11)


def test_the_density_is_bounded_where_all_weights_vanish():
    # In weights and their log precision it is not: particles would collect at zero weights.
    model = NeuralNetworkPosterior((4,)).fit(X, Y)
    z = torch.zeros(5, model.n_dim_, dtype=torch.float64)
    z[:, -2] = torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0])
    assert bool((model.log_prob(z).diff()[1:] < 0).all())


def test_the_names_of_the_classes_do_not_matter():
    model = NeuralNetworkPosterior((4,), task="classification").fit(X, LABELS)
    turn = {"a": 2, "b": 0, "c": 1}
    turned = NeuralNetworkPosterior((4,), task="classification").fit(
        X, [turn[label] for label in LABELS]
    )
    z = particles(model)
    moved = z.clone()
    weight, bias = slice(16, 28), slice(28, 31)
    moved[:, weight] = z[:, weight].reshape(4, 4, 3)[:, :, [1, 2, 0]].reshape(4, 12)
    moved[:, bias] = z[:, bias][:, [1, 2, 0]]
    torch.testing.assert_close(turned.log_prob(moved), model.log_prob(z))
    torch.testing.assert_close(
        turned.predictive(moved, tensor(X)).probability[:, :, [2, 0, 1]],
        model.predictive(z, tensor(X)).probability,
    )


def test_units_of_y():
    model = NeuralNetworkPosterior((4,)).fit(X, Y)
    other = NeuralNetworkPosterior((4,)).fit(X, 1000 * Y - 7)
    z, rows = particles(model), tensor(X)
    torch.testing.assert_close(other.grad_log_prob(z), model.grad_log_prob(z))
    torch.testing.assert_close(
        other.predictive(z, rows).mean, 1000 * model.predictive(z, rows).mean - 7
    )
    torch.testing.assert_close(other.predictive(z, rows).sd, 1000 * model.predictive(z, rows).sd)


def test_names_and_sizes():
    model = NeuralNetworkPosterior((2,)).fit(X[:, :1], Y)
    assert model.parameter_names_ == [
        "weight0[0,0]",
        "weight0[0,1]",
        "bias0[0]",
        "bias0[1]",
        "weight1[0,0]",
        "weight1[1,0]",
        "bias1[0]",
        "weight_precision",
        "noise_precision",
    ]
    assert NeuralNetworkPosterior().fit(X, Y).n_dim_ == 3 * 50 + 50 + 50 + 1 + 2
    assert NeuralNetworkPosterior().estimator_type == "regressor"
    assert NeuralNetworkPosterior(task="classification").estimator_type == "classifier"


def test_the_start_is_that_of_a_network():
    # Bug caught: draws of vague priors, whose predictions are thousands of deviations off.
    model = NeuralNetworkPosterior((8,)).fit(X, Y)
    z = model.draw_start(4000, torch.Generator().manual_seed(0))
    fan_in = X.shape[1]
    n_first = (fan_in + 1) * 8
    assert z[:, :n_first].std() == pytest.approx(fan_in**-0.5, rel=0.03)
    assert z[:, n_first : n_first + 9].std() == pytest.approx(8**-0.5, rel=0.03)
    assert z[:, n_first + 9 :].abs().max() < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden_layer_sizes": ()}, "hidden_layer_sizes must be"),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be"),
        ({"hidden_layer_sizes": 3}, "hidden_layer_sizes must be"),
        ({"activation": "step"}, "activation must be one of"),
        ({"task": "ranking"}, "task must be"),
        ({"weight_prior": (1.0,)}, "weight_prior must be"),
        ({"noise_prior": (0.0, 1.0)}, "noise_prior must be"),
    ],
)
def test_wrong_parameters_are_told_at_fit(options, words):
    with pytest.raises(ValueError, match=words):
        NeuralNetworkPosterior(**options).fit(X, Y)


def test_wrong_data_are_told():
    with pytest.raises(ValueError, match="Unknown label type"):
        NeuralNetworkPosterior(task="classification").fit(X, Y)
    with pytest.raises(ValueError, match="requires y to be passed"):
        NeuralNetworkPosterior().fit(X)
    with pytest.raises(ValueError, match=r"needs numbers as y, got '[abc]'"):
        NeuralNetworkPosterior().fit(X, LABELS)
