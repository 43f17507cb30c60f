"""One battery over all targets: gradients, shapes, precision, minibatches, start, clone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skwgf import targets
from skwgf.targets import (
    Banana,
    Funnel,
    Gaussian,
    GaussianMixture,
    KernelDensityTarget,
    LinearRegressionPosterior,
    LogDensity,
    LogisticRegressionPosterior,
    MonomialGamma,
    NeuralNetworkPosterior,
    Ring,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)) * [1.0, 2.0, 0.5] + [0.0, 1.0, 5.0]
Y = 40 + 8 * X[:, 0] - 3 * X[:, 1] + RNG.normal(size=24)
LABELS = np.array(["b", "a", "c"])[np.arange(24) % 3]
COVARIANCE = np.array([[2.0, 0.6, 0.1], [0.6, 1.0, -0.2], [0.1, -0.2, 0.5]])


def quartic(x):
    return -x.pow(4).sum(-1) / 4 - x[..., 0] * x[..., 1]


def numpy_quartic(x):
    return -np.sum(x**4, axis=-1) / 4 - x[..., 0] * x[..., 1]


def numpy_quartic_slope(x):
    slope = -(x**3)
    slope[..., 0] -= x[..., 1]
    slope[..., 1] -= x[..., 0]
    return slope


CONSTRAINED = ("real", "positive", ("interval", 2, -1.0, 3.0), ("simplex", 3), ("ordered", 2))

BARE = {
    "gaussian": Gaussian((1.0, -1.0, 0.5), covariance=COVARIANCE),
    "mixture": GaussianMixture(
        ((0.0, 1.0, 0.0), (1.0, -1.0, 2.0)), covariances=(COVARIANCE, 0.3), weights=(2.0, 1.0)
    ),
    "banana": Banana(1.5, curvature=0.4),
    "funnel": Funnel(4, scale=1.2),
    "ring": Ring(1.3, width=0.4),
    "monomial": MonomialGamma(3, exponent=1.4),
    "log_density": LogDensity(quartic, 3),
    "constrained": LogDensity(quartic, support=CONSTRAINED),
    "torus": LogDensity(lambda x: torch.cos(2 * torch.pi * x).sum(-1), 2, support="torus"),
    "numpy": LogDensity(numpy_quartic, 3, grad=numpy_quartic_slope),
    "numpy_constrained": LogDensity(numpy_quartic, support=CONSTRAINED, grad=numpy_quartic_slope),
}
CONDITIONED = {
    "density": (KernelDensityTarget(0.8), None),
    "linear": (LinearRegressionPosterior(0.7, intercept_scale=2.0), Y),
    "linear_gamma": (
        LinearRegressionPosterior(noise_prior=("gamma", 2.0, 0.5), normalize_y=False),
        Y,
    ),
    "linear_fixed": (LinearRegressionPosterior(float("inf"), noise_scale=0.5), Y),
    "logistic": (LogisticRegressionPosterior(1.5, intercept_scale=3.0), LABELS == "a"),
    "multinomial": (LogisticRegressionPosterior(0.8), LABELS),
    "network": (NeuralNetworkPosterior((4, 3), activation="tanh"), Y),
    "network_classes": (
        NeuralNetworkPosterior((4,), activation="silu", task="classification"),
        LABELS,
    ),
}
POSTERIORS = [name for name in CONDITIONED if name != "density"]
EVERY = [*BARE, *CONDITIONED]


def fitted(name, **options):
    if name in BARE:
        return clone(BARE[name]).fit(**options)
    target, y = CONDITIONED[name]
    return clone(target).fit(X, y, **options)


def points(target, n=7, seed=0):
    """Points of moderate density: near enough to zero for finite differences."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, target.n_dim_, generator=generator, dtype=torch.float64)
    return (0.6 * z).to(target.dtype_)


every_target = pytest.mark.parametrize("name", EVERY)


def test_every_public_target_is_here():
    tried = {type(t) for t in BARE.values()} | {type(t) for t, _ in CONDITIONED.values()}
    public = {getattr(targets, name) for name in targets.__all__}
    assert {t for t in public if isinstance(t, type) and issubclass(t, targets.Target)} == (
        tried | {targets.Target}
    )


@every_target
def test_gradient_by_finite_differences(name):
    # Central differences of step h are off by h^2 times a third derivative, and rounding / h.
    target = fitted(name)
    z, step = points(target), 1e-5
    shifts = step * torch.eye(target.n_dim_, dtype=torch.float64)
    slopes = torch.stack(
        [(target.log_prob(z + s) - target.log_prob(z - s)) / (2 * step) for s in shifts], dim=1
    )
    gradient = target.grad_log_prob(z)
    assert gradient.shape == z.shape
    assert not gradient.requires_grad
    assert (gradient - slopes).abs().max() < 1e-6 * (1 + gradient.abs().max())


@pytest.mark.parametrize("name", [n for n in EVERY if not n.startswith("numpy")])
def test_closed_form_is_the_gradient_of_autograd(name):
    target = fitted(name)
    z = points(target, seed=1)
    by_autograd = targets.base.differentiate(target.log_prob, z)
    torch.testing.assert_close(target.grad_log_prob(z), by_autograd, rtol=1e-9, atol=1e-9)


@every_target
def test_rows_do_not_depend_on_each_other(name):
    target = fitted(name)
    z = points(target)
    for method in (target.log_prob, target.grad_log_prob, target.constrain):
        torch.testing.assert_close(method(z)[2:3], method(z[2:3]), rtol=1e-10, atol=1e-10)


@every_target
@pytest.mark.parametrize("dtype", ["float32", "float64", torch.float32])
def test_precision_follows(name, dtype):
    target, exact = fitted(name, dtype=dtype), fitted(name)
    expected = torch.float64 if dtype == "float64" else torch.float32
    assert target.dtype_ == expected
    start = target.draw_start(5, torch.Generator().manual_seed(0))
    z = points(exact).to(expected)
    for value in (start, target.log_prob(z), target.grad_log_prob(z), target.constrain(z)):
        assert value.dtype == expected
    # The same density: float32 has seven digits, and sums of two dozen rows lose one or two.
    torch.testing.assert_close(
        target.log_prob(z).double(), exact.log_prob(z.double()), rtol=1e-4, atol=1e-4
    )


@every_target
def test_precision_follows_the_data(name):
    if name in BARE:
        support = fitted(name).support_
        rows = support.constrain(torch.zeros(4, support.n_dim, dtype=torch.float64)).x + 0.0
        if name in ("ring", "monomial"):
            rows = rows + 0.5
        target = clone(BARE[name]).fit(rows.to(torch.float32))
    else:
        model, y = CONDITIONED[name]
        target = clone(model).fit(X.astype(np.float32), y)
    assert target.dtype_ == torch.float32


@every_target
def test_shapes_and_names(name):
    target = fitted(name)
    z = target.draw_start(9, torch.Generator().manual_seed(0))
    assert z.shape == (9, target.n_dim_)
    assert z.isfinite().all()
    assert target.log_prob(z).shape == (9,)
    x = target.constrain(z)
    assert x.shape == (9, len(target.parameter_names_))
    assert len(set(target.parameter_names_)) == len(target.parameter_names_)
    assert target.n_rows_ == (None if name in BARE else 24)
    assert target.learns_from_data is (name in CONDITIONED)


@every_target
def test_there_and_back(name):
    target = fitted(name)
    z = points(target)
    x = target.constrain(z)
    torch.testing.assert_close(target.constrain(target.unconstrain(x)), x, rtol=1e-9, atol=1e-9)
    if name != "torus":
        torch.testing.assert_close(target.unconstrain(x), z, rtol=1e-8, atol=1e-8)


@every_target
def test_the_start_is_repeatable_and_leaves_the_global_state_alone(name):
    target = fitted(name)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    draws = [target.draw_start(6, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(before, torch.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("name", POSTERIORS)
def test_minibatch_gradients_are_unbiased(name):
    # Over the parts of a partition the mean is the gradient of all rows: catches a prior that is
    # scaled with the likelihood, or a factor that is not N / n_batch.
    target = fitted(name)
    z = points(target)
    parts = torch.randperm(24, generator=torch.Generator().manual_seed(0)).reshape(4, 6)
    for method in (target.log_prob, target.grad_log_prob):
        mean = torch.stack([method(z, rows) for rows in parts]).mean(0)
        torch.testing.assert_close(mean, method(z), rtol=1e-10, atol=1e-8)
        assert not torch.allclose(method(z, parts[0]), method(z))


@pytest.mark.parametrize("name", POSTERIORS)
def test_small_tiles_change_nothing(name, monkeypatch):
    target = fitted(name)
    z = points(target)
    whole = target.log_prob(z), target.grad_log_prob(z)
    monkeypatch.setattr("skwgf.targets._tiles._CPU_TILE", 40)
    monkeypatch.setattr("skwgf.targets._tiles._LEAST_ROWS", 5)
    torch.testing.assert_close(target.log_prob(z), whole[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(target.grad_log_prob(z), whole[1], rtol=1e-11, atol=1e-11)


@every_target
def test_clone_and_set_params(name):
    target = BARE[name] if name in BARE else CONDITIONED[name][0]
    before = {key: repr(value) for key, value in target.get_params().items()}
    copy = clone(target)
    assert {key: repr(value) for key, value in copy.get_params().items()} == before
    fitted(name)
    assert {key: repr(value) for key, value in target.get_params().items()} == before
    assert copy.set_params(**target.get_params()).get_params() == target.get_params()


@every_target
def test_nothing_is_computed_before_the_fit(name):
    target = clone(BARE[name] if name in BARE else CONDITIONED[name][0])
    for method in (target.log_prob, target.grad_log_prob, target.constrain, target.unconstrain):
        with pytest.raises(NotFittedError, match="call fit first"):
            method(torch.zeros(1, 2))


@every_target
def test_wrong_points_are_refused(name):
    target = fitted(name)
    z = points(target)
    for wrong in (z[:, 1:], z[0], z.float()):
        with pytest.raises(ValueError, match=r"z must have shape"):
            target.log_prob(wrong)
        with pytest.raises(ValueError, match=r"z must have shape"):
            target.grad_log_prob(wrong)
    with pytest.raises(ValueError, match="constrained coordinates, got an array of shape"):
        target.unconstrain(target.constrain(z)[:, 1:])


@pytest.mark.parametrize("name", BARE)
def test_a_bare_density_has_no_minibatch(name):
    target = fitted(name)
    with pytest.raises(ValueError, match="no data rows"):
        target.log_prob(points(target), torch.tensor([0]))


@pytest.mark.parametrize("name", [n for n in BARE if n != "torus"])
def test_a_bare_density_checks_the_cloud(name):
    n = fitted(name).support_.n_features
    with pytest.raises(ValueError, match=rf"{n} features|{n + 1} features"):
        clone(BARE[name]).fit(np.full((3, n + 1), 0.1))
