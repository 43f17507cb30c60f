"""The risk of a two-layer network: one neuron by hand, losses of scikit-learn, saddles, blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mean_squared_error

from skwgf._tensor import make_generator
from skwgf.functionals import MeanFieldRisk
from skwgf.functionals.base import expand_by_autograd

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
Y = 50 + 20 * np.sin(X[:, 0]) + RNG.normal(size=60)
TABLE = np.column_stack([Y, 1e-3 * X[:, 1] ** 2])
LABELS = np.where(X[:, 0] + 0.5 * RNG.normal(size=60) > 0.4, "yes", "no")
COLOURS = np.array(["red", "green", "blue"])[RNG.choice(3, 60, p=[0.5, 0.3, 0.2])]
DOUBLE = torch.float64
NUMPY = {
    "tanh": np.tanh,
    "softplus": lambda u: np.log1p(np.exp(u)),
    "silu": lambda u: u / (1 + np.exp(-u)),
}


def tensor(array):
    return torch.tensor(np.asarray(array).tolist(), dtype=DOUBLE)


def neurons(risk, n, seed=0):
    return risk.draw_start(n, make_generator(seed))


def test_one_neuron_by_hand():
    # f(x) = a tanh(w x + b) at x = 1, y = 2: with t = tanh(w + b), r = a t - 2 and t' = 1 - t^2,
    # g = r (a t', a t', t) + alpha theta and the Hessian follows by the rule of products.
    alpha, w, b, a = 0.3, 0.5, -0.2, 1.5
    risk = MeanFieldRisk(alpha=alpha, normalize_y=False).fit([[1.0]], [2.0])
    theta = tensor([[w, b, a]])
    value, gradient, hessian = risk.expand(theta)
    t = np.tanh(w + b)
    r, t1, t2 = a * t - 2, 1 - t**2, -2 * t * (1 - t**2)
    jacobian = np.array([a * t1, a * t1, t])
    inner, outer = r * a * t2, r * t1
    second = np.array([[inner, inner, outer], [inner, inner, outer], [outer, outer, 0.0]])
    expected = np.outer(jacobian, jacobian) + second + alpha * np.eye(3)
    assert float(value) == pytest.approx(0.5 * r**2 + 0.5 * alpha * (w**2 + b**2 + a**2))
    assert np.allclose(gradient.tolist(), r * jacobian + alpha * np.array([w, b, a]), atol=1e-14)
    found = hessian(torch.eye(3, dtype=DOUBLE)[:, None])[:, 0]
    assert np.allclose(found.tolist(), expected, atol=1e-14)


@pytest.mark.parametrize("activation", NUMPY)
def test_outputs_are_the_formula(activation):
    risk = MeanFieldRisk(activation, output_scale=2.5).fit(X, TABLE)
    assert (risk.n_features_in_, risk.n_outputs_, risk.n_dim_) == (3, 2, 6)
    z = neurons(risk, 7)
    w, b, a = np.split(np.array(z.tolist()), [3, 4], axis=1)
    hidden = NUMPY[activation](X @ w.T + b.T)
    expected = TABLE.mean(0) + TABLE.std(0) * 2.5 * (hidden @ a) / 7
    found = np.array(risk.outputs(z, tensor(X)).tolist())
    assert np.allclose(found, expected, rtol=1e-12)
    # The risk is half the mean square in the units of each column, summed over the columns.
    squares = mean_squared_error(TABLE, found, multioutput="raw_values") / TABLE.var(0)
    penalty = 0.5 * 1e-2 * float(z.square().sum(1).mean())
    assert float(risk.value(z)) == pytest.approx(0.5 * squares.sum() + penalty)


def test_without_normalisation_targets_are_as_they_are():
    risk = MeanFieldRisk(alpha=0.0, normalize_y=False).fit(X, Y)
    silent = torch.zeros(4, 5, dtype=DOUBLE)
    assert torch.equal(risk.outputs(silent, tensor(X)), torch.zeros(60, 1, dtype=DOUBLE))
    assert float(risk.value(silent)) == pytest.approx(0.5 * np.mean(Y**2))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_silent_neurons_have_the_mean_of_y_and_the_risk_of_its_variance(alpha):
    risk = MeanFieldRisk(alpha=alpha).fit(X, Y)
    silent = torch.zeros(4, 5, dtype=DOUBLE)
    assert np.allclose(risk.outputs(silent, tensor(X)).tolist(), Y.mean())
    assert float(risk.value(silent)) == pytest.approx(0.5)


def test_the_risk_does_not_depend_on_the_unit_of_y():
    one, other = MeanFieldRisk().fit(X, Y), MeanFieldRisk().fit(X, 1e6 * Y - 3)
    z = neurons(one, 5)
    assert float(one.value(z)) == pytest.approx(float(other.value(z)), rel=1e-9)
    found, expected = other.outputs(z, tensor(X)), 1e6 * one.outputs(z, tensor(X)) - 3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_a_constant_target_is_predicted():
    risk = MeanFieldRisk().fit(X, np.full(60, 7.3))
    assert float(risk.outputs(torch.zeros(2, 5, dtype=DOUBLE), tensor(X))[0, 0]) == 7.3
    assert bool(risk.expand(neurons(risk, 4)).gradient.isfinite().all())


@pytest.mark.parametrize("y", [LABELS, COLOURS], ids=["two", "three"])
def test_the_logistic_risk_is_scikit_learns_log_loss(y):
    risk = MeanFieldRisk(loss="logistic", alpha=0.2).fit(X, y)
    assert risk.classes_.tolist() == sorted(set(y))
    z, v = neurons(risk, 6), torch.randn(6, risk.n_dim_, generator=make_generator(1), dtype=DOUBLE)

    def loss(z):
        probability = np.array(risk.probability(z, tensor(X)).tolist())
        return log_loss(y, probability) + 0.1 * float(z.square().sum(1).mean())

    assert float(risk.value(z)) == pytest.approx(loss(z), rel=1e-12)
    # Five points: an error of h^4 f^(5) / 30, and of rounding 1e-16 / h.
    h = 1e-3
    slope = (
        8 * (loss(z + h * v) - loss(z - h * v)) - loss(z + 2 * h * v) + loss(z - 2 * h * v)
    ) / (12 * h)
    found = float((risk.expand(z).gradient * v).sum()) / 6
    assert found == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("y", [LABELS, COLOURS], ids=["two", "three"])
def test_silent_neurons_have_the_shares_of_the_classes(y):
    risk = MeanFieldRisk(loss="logistic").fit(X, y)
    silent = torch.zeros(3, risk.n_dim_, dtype=DOUBLE)
    shares = np.unique(y, return_counts=True)[1] / 60
    assert np.allclose(risk.probability(silent, tensor(X)).tolist(), np.tile(shares, (60, 1)))
    even = MeanFieldRisk(loss="logistic", normalize_y=False).fit(X, y)
    found = even.probability(silent, tensor(X)[:1])[0]
    assert np.allclose(found.tolist(), 1 / len(shares))


def test_two_classes_have_one_output_and_three_have_three():
    assert MeanFieldRisk(loss="logistic").fit(X, LABELS).n_dim_ == 5
    assert MeanFieldRisk(loss="logistic").fit(X, COLOURS).n_dim_ == 7


def test_log_odds_have_a_larger_scale_than_standardised_numbers():
    assert MeanFieldRisk().fit(X, Y).output_scale_ == 1.0
    assert MeanFieldRisk(loss="logistic").fit(X, LABELS).output_scale_ == 10.0
    assert MeanFieldRisk(loss="logistic", output_scale=2).fit(X, LABELS).output_scale_ == 2.0


def test_large_log_odds_stay_finite():
    # Softmax and softplus must not overflow where a line search steps too far.
    for y in (LABELS, COLOURS):
        risk = MeanFieldRisk(loss="logistic", output_scale=1e4).fit(X, y)
        z = 10 * neurons(risk, 5)
        value, gradient, hessian = risk.expand(z)
        assert bool(value.isfinite())
        assert bool(gradient.isfinite().all())
        assert bool(hessian(torch.ones_like(z)[None]).isfinite().all())


def test_a_symmetric_pair_of_neurons_is_a_strict_saddle():
    # Neurons with a = 0 and w = b = 0 do not see each other: g is zero, and F falls when w and a
    # grow together, as y is correlated with x. The curvature there is -|E y x|.
    risk = MeanFieldRisk(alpha=0.0).fit(X, Y)
    saddle = torch.zeros(2, 5, dtype=DOUBLE)
    _, gradient, hessian = risk.expand(saddle)
    assert float(gradient.abs().max()) < 1e-15
    matrix = hessian(torch.eye(10, dtype=DOUBLE).reshape(10, 2, 5)).reshape(10, 10)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    correlation = np.linalg.norm(X.T @ (Y - Y.mean())) / (60 * Y.std())
    assert float(eigenvalues[0]) == pytest.approx(-correlation, rel=1e-12)
    # ... on the neurons together and, as they do not interact there, against each other.
    assert float(eigenvalues[1]) == pytest.approx(-correlation, rel=1e-12)


def test_neurons_on_one_spot_feel_the_same():
    # Two neurons that are equal get equal gradients: a saddle in the direction that parts them.
    risk = MeanFieldRisk().fit(X, Y)
    z = neurons(risk, 1).repeat(2, 1)
    gradient = risk.expand(z).gradient
    torch.testing.assert_close(gradient[0], gradient[1], rtol=0, atol=1e-15)


def test_linear_neurons_reach_the_logistic_regression():
    # At small weights tanh is linear: the gradient by a of a neuron with small w is that of a
    # logistic regression, zero at its optimum but for the intercept and the cube of w.
    y = (LABELS == "yes").astype(int)
    peer = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(X, y)
    small = 1e-4
    w = peer.coef_[0]
    risk = MeanFieldRisk(loss="logistic", alpha=0.0, normalize_y=False, output_scale=1.0).fit(X, y)
    # Neurons small (e_j, 0) that give w x, and one that is saturated for the intercept.
    z = torch.zeros(4, 5, dtype=DOUBLE)
    for j in range(3):
        z[j, j], z[j, 4] = small, 4 * w[j] / small
    z[3, 3], z[3, 4] = 20.0, 4 * float(peer.intercept_[0])
    outputs = np.array(risk.outputs(z, tensor(X))[:, 0].tolist())
    assert np.allclose(outputs, peer.decision_function(X), atol=1e-6)
    gradient = risk.expand(z).gradient[:, 4]
    assert np.allclose((gradient / tensor([small] * 3 + [1.0])).tolist(), 0, atol=1e-5)


@pytest.mark.parametrize(("loss", "y"), [("squared", TABLE), ("logistic", COLOURS)])
def test_blocks_of_rows_change_nothing(monkeypatch, loss, y):
    whole = MeanFieldRisk(loss=loss).fit(X, y)
    z = neurons(whole, 8)
    fields = torch.randn(5, 8, whole.n_dim_, generator=make_generator(1), dtype=DOUBLE)
    value, gradient, hessian = whole.expand(z)
    product, outputs = hessian(fields), whole.outputs(z, tensor(X))
    module = "skwgf.functionals.mean_field"
    monkeypatch.setattr(f"{module}._LEAST_ROWS", 1)
    monkeypatch.setattr(f"{module}._CPU_BLOCK", 7 * 8)
    for kept in (2**24, 0):  # with the blocks kept for the products, and computed anew
        monkeypatch.setattr(f"{module}._KEPT", kept)
        found = whole.expand(z)
        torch.testing.assert_close(found.value, value, rtol=1e-13, atol=0)
        torch.testing.assert_close(found.gradient, gradient, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(found.hessian(fields), product, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(whole.outputs(z, tensor(X)), outputs, rtol=1e-13, atol=0)
    torch.testing.assert_close(whole.value(z), value, rtol=1e-13, atol=0)


@pytest.mark.parametrize("activation", ["tanh", "softplus", "silu", "gelu"])
@pytest.mark.parametrize(
    ("loss", "y"), [("squared", Y), ("squared", TABLE), ("logistic", LABELS), ("logistic", COLOURS)]
)
def test_closed_forms_are_those_of_autograd(activation, loss, y):
    risk = MeanFieldRisk(activation, loss, alpha=0.1, output_scale=3.0).fit(X, y)
    z = 2 * neurons(risk, 6)
    fields = torch.randn(4, 6, risk.n_dim_, generator=make_generator(1), dtype=DOUBLE)
    found, expected = risk.expand(z), expand_by_autograd(risk.value, z)
    torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        found.hessian(fields), expected.hessian(fields), rtol=1e-10, atol=1e-12
    )


def test_outputs_can_be_differentiated():
    risk = MeanFieldRisk().fit(X, Y)
    z, rows = neurons(risk, 4).requires_grad_(), tensor(X).requires_grad_()
    risk.outputs(z, rows).sum().backward()
    assert float(z.grad.abs().sum()) > 0
    assert float(rows.grad.abs().sum()) > 0


@pytest.mark.parametrize("unit", [1.0, 1e3])
def test_starting_neurons_see_the_rows_at_the_scale_asked_for(unit):
    risk = MeanFieldRisk(init_scale=2.0).fit(unit * X, Y)
    w, b, a = neurons(risk, 20_000).split([3, 1, 1], dim=1)
    # Five standard errors: a factor (1 +- 5 / sqrt(2 n)) for the standard deviation of n draws, of
    # which the draws of w x over the 60 rows have 3 x 20,000.
    inputs = w @ tensor(unit * X).T
    assert float(inputs.square().mean().sqrt()) == pytest.approx(2.0, rel=5 / 40_000**0.5)
    assert float(b.std()) == pytest.approx(2.0, rel=5 / 40_000**0.5)
    assert float(a.std()) == pytest.approx(1.0, rel=5 / 40_000**0.5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"activation": "relu"}, r"no second derivative.*Use 'softplus', 'silu' or 'gelu'"),
        ({"activation": "sin"}, "activation must be one of"),
        ({"loss": "hinge"}, "loss must be 'squared' or 'logistic'"),
        ({"alpha": -1.0}, "alpha must be finite and not negative"),
        ({"alpha": np.nan}, "alpha must be finite and not negative"),
        ({"output_scale": 0.0}, "output_scale must be positive"),
        ({"init_scale": None}, "init_scale must be positive"),
    ],
)
def test_parameters_that_make_no_risk(parameters, message):
    with pytest.raises(ValueError, match=message):
        MeanFieldRisk(**parameters).fit(X, Y)


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        ("squared", None, "requires y to be passed"),
        ("squared", Y[:-1], "inconsistent numbers of samples"),
        ("squared", LABELS, "needs numbers as y, got"),
        ("squared", np.where(Y > 50, Y, np.nan), "contains NaN"),
        ("logistic", Y, "Unknown label type"),
        ("logistic", np.zeros(60, int), r"at least 2 classes.*1 class"),
    ],
)
def test_targets_that_do_not_suit_the_loss(loss, y, message):
    with pytest.raises(ValueError, match=message):
        MeanFieldRisk(loss=loss).fit(X, y)


def test_rows_of_other_width_and_probabilities_of_numbers_are_refused():
    risk = MeanFieldRisk().fit(X, Y)
    with pytest.raises(ValueError, match="X must have 3 columns"):
        risk.outputs(neurons(risk, 2), tensor(X[:, :2]))
    with pytest.raises(ValueError, match="Only loss='logistic' gives probabilities"):
        risk.probability(neurons(risk, 2), tensor(X))
    assert (risk.estimator_type, MeanFieldRisk(loss="logistic").estimator_type) == (
        "regressor",
        "classifier",
    )
