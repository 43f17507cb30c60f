"""The logistic model: scikit-learn's optimum, scipy's values, labels of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from skwgf.targets import LogisticRegressionPosterior

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
BINARY = (X @ [1.0, -2.0] + RNG.logistic(size=60) > 0).astype(int)
CLASSES = (X @ [[1.0, -2.0, 0.5], [0.0, 1.0, -1.0]] + RNG.gumbel(size=(60, 3))).argmax(1)


def tensor(array):
    return torch.tensor(np.asarray(array).tolist(), dtype=torch.float64)


def particles(k, n=5):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_binary_by_scipy():
    model = LogisticRegressionPosterior(1.5, intercept_scale=4.0).fit(X, BINARY)
    z = particles(3)
    predicted = model.predictive(z, tensor(X)).probability
    assert predicted.shape == (5, 60, 2)
    for i, row in enumerate(np.array(z.tolist())):
        p = expit(X @ row[:2] + row[2])
        expected = stats.bernoulli(p).logpmf(BINARY).sum()
        expected += stats.norm(0, [1.5, 1.5, 4.0]).logpdf(row).sum()
        assert float(model.log_prob(z)[i]) == pytest.approx(expected, rel=1e-12)
        assert np.allclose(predicted[i, :, 1].tolist(), p)
    torch.testing.assert_close(predicted.sum(2), torch.ones(5, 60, dtype=torch.float64))


def test_multinomial_by_loops():
    model = LogisticRegressionPosterior(0.7).fit(X, CLASSES)
    z = particles(9)
    predicted = model.predictive(z, tensor(X)).probability
    likelihood = model.log_likelihood(z, tensor(X), model.encode(CLASSES))
    for i, row in enumerate(np.array(z.tolist()).reshape(5, 3, 3)):
        p = softmax(X @ row[:, :2].T + row[:, 2], axis=1)
        assert np.allclose(predicted[i].tolist(), p)
        chosen = np.log([p[j, label] for j, label in enumerate(CLASSES)])
        assert np.allclose(likelihood[i].tolist(), chosen)
        expected = chosen.sum() + stats.norm(0, 0.7).logpdf(row).sum()
        assert float(model.log_prob(z)[i]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("labels", [BINARY, CLASSES], ids=["binary", "multinomial"])
def test_the_mode_is_that_of_scikit_learn(labels):
    # C = s^2, and no prior on the intercept. With three classes all intercepts may move together.
    scale = 0.8
    model = LogisticRegressionPosterior(scale, intercept_scale=float("inf")).fit(X, labels)
    peer = LogisticRegression(C=scale**2, tol=1e-12, max_iter=10_000).fit(X, labels)
    mode = tensor(np.column_stack([peer.coef_, peer.intercept_])).reshape(1, -1)
    assert model.grad_log_prob(mode).abs().max() < 1e-4
    found = model.predictive(mode, tensor(X)).probability[0]
    assert np.allclose(found.tolist(), peer.predict_proba(X))


def test_the_names_of_the_classes_do_not_matter():
    # Catches a class order other than that of np.unique.
    z = particles(9)
    model = LogisticRegressionPosterior().fit(X, CLASSES)
    names = np.array(["x", "y", "z"])
    named = LogisticRegressionPosterior().fit(X, names[CLASSES])
    assert named.classes_.tolist() == ["x", "y", "z"]
    torch.testing.assert_close(named.log_prob(z), model.log_prob(z))
    turn = np.array([2, 0, 1])
    turned = LogisticRegressionPosterior().fit(X, turn[CLASSES])
    blocks = torch.empty(5, 3, 3, dtype=torch.float64)
    blocks[:, turn.tolist()] = z.reshape(5, 3, 3)
    torch.testing.assert_close(turned.log_prob(blocks.reshape(5, 9)), model.log_prob(z))
    torch.testing.assert_close(
        turned.predictive(blocks.reshape(5, 9), tensor(X)).probability[:, :, turn.tolist()],
        model.predictive(z, tensor(X)).probability,
    )


def test_swapped_binary_labels_turn_the_sign():
    z = particles(3)
    model = LogisticRegressionPosterior().fit(X, BINARY)
    swapped = LogisticRegressionPosterior().fit(X, np.where(BINARY, "a", "b"))
    torch.testing.assert_close(swapped.log_prob(-z), model.log_prob(z))
    torch.testing.assert_close(swapped.grad_log_prob(-z), -model.grad_log_prob(z))


@pytest.mark.parametrize("labels", [BINARY, CLASSES], ids=["binary", "multinomial"])
def test_extreme_logits_stay_finite(labels):
    model = LogisticRegressionPosterior().fit(X, labels)
    z = 1e4 * particles(model.n_dim_)
    assert model.log_prob(z).isfinite().all()
    assert model.grad_log_prob(z).isfinite().all()
    assert model.predictive(z, tensor(X)).probability.isfinite().all()


def test_the_start_has_the_spread_of_the_prior():
    model = LogisticRegressionPosterior(0.5, intercept_scale=3.0).fit(X, CLASSES)
    sd = model.draw_start(4000, torch.Generator().manual_seed(0)).std(0).reshape(3, 3)
    # Five standard errors of a standard deviation: 5 / sqrt(2 n) = 5.6%.
    assert torch.allclose(sd, tensor([0.5, 0.5, 3.0]).expand(3, 3), rtol=0.056)


def test_names():
    model = LogisticRegressionPosterior()
    assert model.fit(X, BINARY).parameter_names_ == ["coef[0]", "coef[1]", "intercept"]
    names = model.fit(X, CLASSES).parameter_names_
    assert names[:4] == ["coef[0,0]", "coef[0,1]", "intercept[0]", "coef[1,0]"]
    assert model.estimator_type == "classifier"


def test_wrong_data_are_told():
    model = LogisticRegressionPosterior()
    with pytest.raises(ValueError, match="at least 2 classes in y, got one class"):
        model.fit(X, np.zeros(60))
    with pytest.raises(ValueError, match="Unknown label type"):
        model.fit(X, RNG.normal(size=60))
    with pytest.raises(ValueError, match="requires y to be passed"):
        model.fit(X)
    model.fit(X, np.array(["b", "a", "c"])[CLASSES])
    with pytest.raises(ValueError, match="label 'd' is not among the classes"):
        model.encode(["a", "d"])
    with pytest.raises(ValueError, match="prior_scale must be positive"):
        LogisticRegressionPosterior(-1.0).fit(X, BINARY)
