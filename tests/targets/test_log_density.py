"""User functions: every form they come in, and every way in which they go wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skwgf.targets import LogDensity

P = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 1.5]])
P_TORCH = torch.tensor(P.tolist(), dtype=torch.float64)
Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def batched(x):
    return -0.5 * ((x @ P_TORCH) * x).sum(1)


def single(x):
    return -0.5 * x @ P_TORCH @ x


def branching(x):
    return single(x) if x[0] > 0 else single(x) - 0.0


def numpy_batched(x):
    return -0.5 * np.einsum("ni,ij,nj->n", x, P, x)


def numpy_single(x):
    return -0.5 * float(x @ P @ x)


def polymorphic(x):
    return -0.5 * (x**2).sum(-1)


FORMS = {
    "batched": (batched, None, "batched"),
    "single": (single, None, "vmap"),
    "branching": (branching, None, "loop"),
    "torch gradient": (single, lambda x: -P_TORCH @ x, "vmap"),
    "batched torch gradient": (batched, lambda x: -x @ P_TORCH, "batched"),
    "numpy": (numpy_batched, lambda x: -x @ P, "batched"),
    "numpy single": (numpy_single, lambda x: -P @ x, "loop"),
    "single with batched gradient": (numpy_single, lambda x: -x @ P, "loop"),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("start", [None, np.ones((1, 3)), np.ones((3, 3)), np.ones((4, 3))])
def test_forms_are_found_and_agree(name, start):
    # As many rows as columns is where a function of one row could pass for one of a batch.
    fn, grad, mode = FORMS[name]
    target = LogDensity(fn, 3, grad=grad).fit(start)
    assert target._log_density.mode == mode
    assert target._log_density.is_numpy is name.startswith(("numpy", "single with"))
    torch.testing.assert_close(target.log_prob(Z), batched(Z))
    torch.testing.assert_close(target.grad_log_prob(Z), -Z @ P_TORCH)


def test_a_gradient_of_one_row_that_accepts_many():
    # -x |x|^2 of one row returns the right shape for a batch, with wrong numbers.
    target = LogDensity(
        lambda x: -(np.sum(x**2) ** 2) / 4, 3, grad=lambda x: -x * np.sum(x**2)
    ).fit()
    expected = -Z * Z.square().sum(1, keepdim=True)
    torch.testing.assert_close(target.grad_log_prob(Z), expected)


def test_a_function_that_mixes_rows_is_refused():
    with pytest.raises(ValueError, match="depends on the other rows"):
        LogDensity(lambda x: -(x - x.mean(0)).square().sum(1), 3, batched=True).fit()


@pytest.mark.parametrize("flag", [True, False])
def test_the_form_may_be_told(flag):
    target = LogDensity(polymorphic, 3, batched=flag).fit()
    assert target._log_density.mode == ("batched" if flag else "vmap")
    torch.testing.assert_close(target.grad_log_prob(Z), -Z)
    wrong = single if flag else batched
    with pytest.raises(ValueError, match="fn does not work"):
        LogDensity(wrong, 3, batched=flag).fit()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_functions_keep_their_precision_and_their_argument(dtype):
    seen = []

    def fn(x):
        seen.append(x.dtype)
        x *= 0.0  # what a user does to the argument must not reach the particles
        return np.zeros(len(x))

    target = LogDensity(fn, 3, grad=lambda x: x.astype(np.float64)).fit(dtype=dtype)
    z = Z.to(target.dtype_)
    before = z.clone()
    assert target.log_prob(z).dtype == target.dtype_
    assert target.grad_log_prob(z).dtype == target.dtype_
    assert torch.equal(z, before)
    assert set(seen) == {np.dtype(dtype)}


@pytest.mark.parametrize(
    ("fn", "options", "words"),
    [
        (lambda x: -x.square(), {}, r"a result of shape \(4,\) is needed"),
        (lambda x: -x.square(), {}, r"shape \(4, 3\) in all"),
        (lambda x: -x.square().sum(1, keepdim=True), {"batched": True}, r"shape \(4, 1\) in all"),
        (lambda x: -np.sum(np.asarray(x) ** 2, axis=1), {}, "a numpy function needs its gradient"),
        (lambda x: 1.0, {}, "returned float, not a torch tensor"),
        (lambda x: -x.detach().square().sum(1), {}, "not differentiable"),
        (lambda x: x.no_such_method(), {}, "no_such_method"),
        (lambda x: "text", {"grad": lambda x: -x}, "returned str, not a numpy array"),
        (numpy_batched, {"grad": lambda x: x.sum(1)}, "grad does not work"),
        (numpy_batched, {"grad": lambda x: x[:, :2]}, r"shape \(4, 2\) in all"),
    ],
)
def test_functions_that_cannot_be_used(fn, options, words):
    with pytest.raises(ValueError, match=words):
        LogDensity(fn, 3, **options).fit(np.ones((2, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_density_that_is_not_finite_names_the_row(value):
    def fn(x):
        return torch.where(x[:, 0] > 5, value, 0.0) - x.square().sum(1)

    X = np.array([[0.0, 1.0], [0.0, 2.0], [6.0, 3.0], [7.0, 4.0]])
    with pytest.raises(ValueError, match=rf"is {value} at row 2 of the start, .*\[6.0, 3.0\]"):
        LogDensity(fn).fit(X)
    LogDensity(fn).fit(X[:2])


def test_a_gradient_that_is_not_finite_names_the_row():
    X = np.array([[1.0], [0.0]])
    with pytest.raises(ValueError, match=r"gradient .* at row 1 of the start"):
        LogDensity(lambda x: -x.abs().sqrt().sum(1)).fit(X)


def test_a_start_outside_of_the_support_names_the_row():
    with pytest.raises(ValueError, match="Row 1 is outside of the support"):
        LogDensity(lambda x: -x.sum(1), support="positive").fit([[1.0], [-1.0]])


def test_a_start_of_another_dimension():
    with pytest.raises(ValueError, match="has 3 features, but X has 2"):
        LogDensity(polymorphic, 3).fit(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="have 3 columns in all, but there are 2 features"):
        LogDensity(polymorphic, support=(("real", 3),)).fit(np.zeros((2, 2)))


def test_the_law_of_a_constrained_density():
    # x ~ Gamma(3, 1): z = log x has mode log 3, where the plain density has its mode at 2.
    law = torch.distributions.Gamma(torch.tensor(3.0, dtype=torch.float64), 1.0)
    target = LogDensity(lambda x: law.log_prob(x).sum(-1), support="positive").fit(np.ones((1, 1)))
    mode = torch.log(torch.tensor([[3.0]], dtype=torch.float64))
    assert abs(float(target.grad_log_prob(mode))) < 1e-12
