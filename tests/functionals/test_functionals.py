"""What every functional keeps to: derivatives, symmetries of a law, precision, and parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from skwgf import functionals
from skwgf._tensor import make_generator
from skwgf.functionals import (
    KSD,
    MMD,
    EnergyDistance,
    Functional,
    InteractionEnergy,
    MeanFieldRisk,
    PotentialEnergy,
    Scaled,
    SecondMoment,
    SinkhornDivergence,
    SmoothedEntropy,
    Sum,
    TorchFunctional,
    VarianceCosine,
    as_functional,
)
from skwgf.functionals.base import expand_by_autograd
from skwgf.kernels import Gaussian, InverseMultiquadric
from skwgf.targets import Banana, KernelDensityTarget
from skwgf.targets import Gaussian as GaussianTarget

RNG = np.random.default_rng(0)
X = RNG.normal(size=(25, 2)) @ [[1.0, 0.3], [0.0, 0.7]] + [0.5, -1.0]
FEATURES = RNG.normal(size=(40, 3))
NUMBERS = np.sin(FEATURES[:, 0]) + 0.1 * RNG.normal(size=40)
TABLE = np.column_stack([NUMBERS, FEATURES[:, 1] ** 2])
LABELS = np.where(FEATURES[:, 0] > 0.2, "yes", "no")
COLOURS = np.array(["red", "green", "blue"])[RNG.integers(0, 3, 40)]
N = 9
DOUBLE = torch.float64


class Case(NamedTuple):
    """A functional with its data, and the motions of particles and data that change nothing.

    Unless told, derivatives in closed form are exact to `exact`, relative to their size.
    """

    functional: Functional
    X: Any = X
    y: Any = None
    motion: str = "none"
    exact: float = 1e-10


def quartic(x):
    return (0.25 * x.pow(4) + x.prod(1, keepdim=True)).sum(1)


def spring(z):
    return (z.var(0, correction=0).sum() - 1) ** 2


def mean_gap(z, X):
    return (z.mean(0) - X.mean(0)).square().sum() + (z @ X.T).tanh().mean()


POTENTIAL = PotentialEnergy(quartic)
CASES = {
    "potential": Case(POTENTIAL),
    "second moment": Case(SecondMoment(), motion="rotation"),
    "second moment of A": Case(SecondMoment([[1.0, 0.2], [0.2, 0.5]])),
    "variance cosine": Case(VarianceCosine(a=0.7, b=0.1)),
    "entropy": Case(SmoothedEntropy(), motion="rigid"),
    "narrow entropy": Case(SmoothedEntropy(0.3), motion="rigid"),
    "regression": Case(MeanFieldRisk(alpha=0.1), FEATURES, NUMBERS, "rotation"),
    "regressions": Case(MeanFieldRisk("softplus", output_scale=2.0), FEATURES, TABLE, "rotation"),
    "two classes": Case(MeanFieldRisk("silu", "logistic", alpha=0.0), FEATURES, LABELS, "rotation"),
    "classes": Case(MeanFieldRisk("gelu", "logistic"), FEATURES, COLOURS, "rotation"),
    "custom": Case(TorchFunctional(spring), motion="rigid"),
    "custom with data": Case(TorchFunctional(mean_gap), motion="rotation"),
    "sum": Case(POTENTIAL + SmoothedEntropy(0.8)),
    "sum with data": Case(SecondMoment() + 0.5 * VarianceCosine()),
    "multiple": Case(-2.5 * SecondMoment(), motion="rotation"),
    "mmd": Case(MMD(), motion="rigid"),
    "mmd of a sum": Case(MMD(Gaussian(1.0) + 0.5 * InverseMultiquadric("scale")), motion="rigid"),
    # Its plans are solved to marginal errors of 1e-11, which entropic problems magnify.
    "sinkhorn": Case(SinkhornDivergence(), motion="rigid", exact=1e-7),
    "sinkhorn, blurred": Case(SinkhornDivergence(reg=2.0), motion="rigid", exact=1e-9),
    "energy distance": Case(EnergyDistance(), motion="rigid"),
    "interaction": Case(InteractionEnergy(lambda u: (1 + u).sqrt()), motion="rigid"),
    "interaction by a kernel": Case(InteractionEnergy(Gaussian("scale")), motion="rigid"),
    "discrepancy": Case(KSD(Banana())),
    "discrepancy, round": Case(KSD(GaussianTarget((0.0, 0.0))), motion="rotation"),
    "discrepancy, of data": Case(KSD(KernelDensityTarget(0.7)), motion="rigid"),
}


def fit(name, dtype=None):
    case = CASES[name]
    return clone(case.functional).fit(case.X, case.y, dtype=dtype)


def draw(functional, *shape, seed=0, dtype=DOUBLE):
    size = (*shape, functional.n_dim_)
    return torch.randn(size, generator=make_generator(seed), dtype=DOUBLE).to(dtype)


def close(found, expected, tol):
    """Compare to `tol` times the largest entry, or one."""
    assert found.shape == expected.shape
    size = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= tol * size


def five_points(f, z, v, h=1e-3):
    """Differentiate f along v with an error of h^4 / 30 times the fifth derivative."""
    near, far = f(z + h * v) - f(z - h * v), f(z + 2 * h * v) - f(z - 2 * h * v)
    return (8 * near - far) / (12 * h)


every = pytest.mark.parametrize("name", CASES)

# A fifth derivative of 1e5 (a length of .1) and h = 1e-3 leave 3e-9; rounding leaves 1e-13.
FINITE = 1e-7


@every
def test_the_gradient_is_n_times_that_of_the_value(name):
    functional = fit(name)
    z, v = draw(functional, N), draw(functional, N, seed=1)
    found = (functional.expand(z).gradient * v).sum() / N
    close(found, five_points(functional.value, z, v), max(FINITE, CASES[name].exact))


@every
def test_the_hessian_is_the_derivative_of_the_gradient(name):
    functional = fit(name)
    z, fields = draw(functional, N), draw(functional, 3, N, seed=1)
    found = functional.expand(z).hessian(fields)
    for v, product in zip(fields, found, strict=True):
        expected = five_points(lambda z: functional.expand(z).gradient, z, v)
        close(product, expected, max(FINITE, CASES[name].exact))


@every
def test_closed_forms_are_those_of_autograd(name):
    # Also where particles coincide, and where one is far from all others.
    functional, tol = fit(name), CASES[name].exact
    z = draw(functional, N)
    z[1], z[2] = z[0], 4 * z[2]
    fields = draw(functional, 4, N, seed=1)
    found, expected = functional.expand(z), expand_by_autograd(functional.value, z)
    close(found.value, expected.value, tol)
    close(found.gradient, expected.gradient, tol)
    close(found.hessian(fields), expected.hessian(fields), tol)
    assert not any(part.requires_grad for part in found[:2])
    assert functional.value(z.requires_grad_()).requires_grad


@every
def test_the_hessian_is_symmetric_and_linear(name):
    functional, tol = fit(name), CASES[name].exact
    z, fields = draw(functional, N), draw(functional, 3, N, seed=1)
    hessian = functional.expand(z).hessian
    products = hessian(fields)
    table = torch.einsum("ind,jnd->ij", fields, products)
    close(table, table.T, tol)
    # A field alone has the product that it has among others.
    close(hessian(fields[1:2]), products[1:2], tol)
    mixed = hessian((2 * fields[0] - 3 * fields[2])[None])
    close(mixed[0], 2 * products[0] - 3 * products[2], tol)


@every
def test_the_order_of_the_particles_does_not_matter(name):
    functional, tol = fit(name), CASES[name].exact
    z, fields = draw(functional, N), draw(functional, 2, N, seed=1)
    order = torch.randperm(N, generator=make_generator(2))
    found, expected = functional.expand(z[order]), functional.expand(z)
    close(found.value, expected.value, tol)
    close(found.gradient, expected.gradient[order], tol)
    close(found.hessian(fields[:, order]), expected.hessian(fields)[:, order], tol)


@every
def test_doubling_every_particle_changes_nothing(name):
    # Without the factor n a gradient would halve, and its Hessian product too.
    functional, tol = fit(name), CASES[name].exact
    z, fields = draw(functional, N), draw(functional, 2, N, seed=1)
    found, expected = functional.expand(torch.cat([z, z])), functional.expand(z)
    close(found.value, expected.value, tol)
    close(found.gradient, torch.cat([expected.gradient] * 2), tol)
    products = expected.hessian(fields)
    close(found.hessian(torch.cat([fields] * 2, 1)), torch.cat([products] * 2, 1), tol)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.motion != "none"])
def test_moving_particles_and_data_alike_changes_nothing(name):
    case, before = CASES[name], fit(name)
    p = case.X.shape[1]
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(p, p)))[0]
    shift = np.arange(1.0, p + 1) if case.motion == "rigid" else np.zeros(p)
    after = clone(case.functional).fit(case.X @ turn.T + shift, case.y)
    turn, shift = (torch.tensor(part.tolist(), dtype=DOUBLE) for part in (turn, shift))

    def rotate(v):
        return torch.cat([v[..., :p] @ turn.T, v[..., p:]], -1)  # of a neuron its weights

    z, fields = draw(before, N), draw(before, 2, N, seed=1)
    moved = rotate(z)
    moved[:, :p] += shift
    found, expected = after.expand(moved), before.expand(z)
    # The bandwidths and means of the moved data differ in their last digits.
    tol = max(1e-9, case.exact)
    close(found.value, expected.value, tol)
    close(found.gradient, rotate(expected.gradient), tol)
    close(found.hessian(rotate(fields)), rotate(expected.hessian(fields)), tol)
    # That of a KSD is the spread of 256 draws of its target: five standard errors, twice.
    assert after.length_scale_ == pytest.approx(before.length_scale_, rel=10 / (4 * 256) ** 0.5)


@every
def test_single_precision(name):
    # Of 24 bits, a dozen may go in sums of terms larger than the result.
    single, double = fit(name, dtype="float32"), fit(name, dtype="float64")
    assert single.dtype_ is torch.float32
    z, fields = draw(single, N), draw(single, 2, N, seed=1)
    found, expected = single.expand(z.float()), double.expand(z)
    products = found.hessian(fields.float())
    for part in (found.value, found.gradient, products):
        assert part.dtype is torch.float32
    close(found.value.double(), expected.value, 2e-4)
    close(found.gradient.double(), expected.gradient, 2e-4)
    close(products.double(), expected.hessian(fields), 1e-3)


@every
def test_particles_of_another_shape_or_precision_are_refused(name):
    functional, z = fit(name), draw(fit(name), N)
    for wrong in (z[:, :-1], z[0], z[:0], z.float(), z[None]):
        with pytest.raises(ValueError, match=r"Particles must have shape"):
            functional.value(wrong)
        with pytest.raises(ValueError, match=r"Particles must have shape"):
            functional.expand(wrong)
    with pytest.raises(NotFittedError, match="call fit first"):
        clone(functional).value(z)


@every
def test_a_fit_leaves_the_parameters_alone(name):
    functional = CASES[name].functional
    copy = clone(functional)
    before = copy.get_params()
    copy.fit(CASES[name].X, CASES[name].y)
    after = copy.get_params()
    assert all(after[key] is before[key] for key in before)
    assert not any(
        hasattr(part, "n_dim_") for part in after.values() if isinstance(part, Functional)
    )
    assert not hasattr(clone(copy), "n_dim_")
    assert repr(clone(copy)) == repr(functional)


@every
def test_starting_particles(name):
    functional, state = fit(name), torch.get_rng_state()
    z = functional.draw_start(30, make_generator(0))
    assert z.shape == (30, functional.n_dim_)
    assert z.dtype is DOUBLE
    assert torch.equal(z, functional.draw_start(30, make_generator(0)))
    assert not torch.equal(z, functional.draw_start(30, make_generator(1)))
    assert len(z.unique(dim=0)) == 30  # particles that coincide never part
    assert bool(functional.expand(z).gradient.isfinite().all())
    assert torch.equal(state, torch.get_rng_state())
    assert fit(name, "float32").draw_start(2, make_generator(0)).dtype is torch.float32


@every
def test_it_depends_on_the_rows_of_x_if_it_learns_from_them(name):
    case, here = CASES[name], fit(name)
    there = clone(case.functional).fit(case.X[::-1] ** 2 + 0.5, case.y)
    z = draw(here, N)
    same = torch.equal(here.value(z), there.value(z))
    rule = name in ("entropy", "interaction by a kernel")  # whose bandwidth is that of the start
    assert same != (here.learns_from_data or rule)


@pytest.mark.parametrize(
    "functional",
    [
        POTENTIAL,
        SecondMoment([[2.0]]),
        VarianceCosine(),
        SmoothedEntropy(),
        TorchFunctional(spring),
    ],
)
def test_one_particle_to_start_from_gives_normal_draws(functional):
    z = clone(functional).fit(np.full((1, 1), 7.0)).draw_start(4000, make_generator(0))
    # Five standard errors of mean and standard deviation.
    assert abs(float(z.mean())) < 5 / 4000**0.5
    assert abs(float(z.std()) - 1) < 5 / (2 * 4000) ** 0.5


def test_starting_particles_are_rows_a_tenth_of_the_spread_away():
    rows = np.array([[0.0, 0.0], [200.0, 0.0]])  # spread 100 / sqrt 2
    z = VarianceCosine().fit(rows).draw_start(4000, make_generator(0))
    noise = torch.stack([z[:, 0] - 200 * (z[:, 0] > 100), z[:, 1]])
    sd = 0.1 * 100 / 2**0.5
    assert float(noise.std()) == pytest.approx(sd, rel=5 / (2 * 8000) ** 0.5)
    assert float((z[:, 0] > 100).double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)


# Sums and multiples.


def test_sums_and_multiples_are_what_they_say():
    one, two = CASES["second moment"].functional, CASES["entropy"].functional
    both = (one + 3.0 * two * 0.5 + POTENTIAL).fit(X)
    parts = [clone(one).fit(X), clone(POTENTIAL).fit(X)]
    # Beside a functional of data, one without is fitted to particles that the first one draws.
    entropy = both.left_.right_.functional_.functional_
    assert isinstance(both, Sum)
    z, fields = draw(both, N), draw(both, 2, N, seed=1)
    found = both.expand(z)
    a, b, c = (part.expand(z) for part in (parts[0], entropy, parts[1]))
    close(found.value, a.value + 1.5 * b.value + c.value, 1e-12)
    close(found.gradient, a.gradient + 1.5 * b.gradient + c.gradient, 1e-12)
    close(
        found.hessian(fields),
        a.hessian(fields) + 1.5 * b.hessian(fields) + c.hessian(fields),
        1e-12,
    )


def test_who_learns_from_data_in_a_sum():
    assert not (POTENTIAL + VarianceCosine()).learns_from_data
    assert (POTENTIAL + SecondMoment()).learns_from_data
    assert (2 * SecondMoment()).learns_from_data
    # A penalty on neurons has their coordinates, 5, and not those of X.
    risk = (MeanFieldRisk() + PotentialEnergy(quartic)).fit(FEATURES, NUMBERS)
    assert risk.n_dim_ == 5
    assert risk.draw_start(4, make_generator(0)).shape == (4, 5)


def test_parts_of_different_coordinates_do_not_add():
    with pytest.raises(ValueError, match=r"same coordinates, got 5 and 3"):
        (MeanFieldRisk() + SecondMoment()).fit(FEATURES, NUMBERS)
    with pytest.raises(TypeError):
        SecondMoment() + 1.0
    with pytest.raises(TypeError):
        SecondMoment() * SecondMoment()
    with pytest.raises(ValueError, match="factor must be finite"):
        (SecondMoment() * float("nan")).fit(X)


def test_nested_parameters_can_be_set():
    nested = Sum(Scaled(VarianceCosine(), 2.0), KSD(GaussianTarget((0.0, 0.0))))
    nested.set_params(left__functional__a=5.0, left__factor=3.0, right__target__mean=(1.0, 2.0))
    nested.set_params(right__kernel=InverseMultiquadric(1.0))
    nested.set_params(right__kernel__bandwidth=2.0)
    params = clone(nested).get_params()
    assert params["left__functional__a"] == 5.0
    assert params["right__target__mean"] == (1.0, 2.0)
    assert params["right__kernel__bandwidth"] == 2.0
    z = torch.ones(3, 2, dtype=DOUBLE)
    z[0] = 0.0
    alone = VarianceCosine(a=5.0).fit(X)
    found = clone(nested).set_params(left__factor=3.0).fit(X)
    close(found.left_.value(z), 3 * alone.value(z), 1e-14)


# Single functionals.


def test_second_moments_spectrum_at_the_origin():
    # H at delta_0 is -A on every field: a strict saddle.
    A = torch.diag(torch.tensor([2.0, 0.5], dtype=DOUBLE))
    functional = SecondMoment(A).fit(np.zeros((3, 2)))
    expansion = functional.expand(torch.zeros(4, 2, dtype=DOUBLE))
    fields = draw(functional, 2, 4)
    assert float(expansion.gradient.abs().max()) == 0
    close(expansion.hessian(fields), -fields @ A, 1e-15)
    assert functional.length_scale_ == pytest.approx(1.25**0.5)


@pytest.mark.parametrize(
    ("A", "message"),
    [
        (np.eye(3), r"shape \(2, 2\).*got shape \(3, 3\)"),
        ([[1.0, 0.5], [0.0, 1.0]], "A must be symmetric"),
        ([[1.0, np.nan], [np.nan, 1.0]], "A must be finite"),
        (2.0, "got shape"),
    ],
)
def test_matrices_that_are_no_second_moment(A, message):
    with pytest.raises(ValueError, match=message):
        SecondMoment(A).fit(X)


@pytest.mark.parametrize("m", [0.0, 0.3, 1.0, 2.0])
def test_variance_cosine_spectrum(m):
    a, b = 1.3, 0.05
    functional = VarianceCosine(a, b).fit(np.zeros((1, 1)))
    hessian = functional.expand(torch.full((6, 1), m, dtype=DOUBLE)).hessian
    matrix = hessian(torch.eye(6, dtype=DOUBLE)[:, :, None])[:, :, 0]
    expected = sorted([a] * 5 + [-b * np.pi**2 * np.cos(np.pi * m)])
    assert np.allclose(torch.linalg.eigvalsh(matrix).tolist(), expected, atol=1e-14)


@pytest.mark.parametrize("bad", [{"a": 0.0}, {"b": -1.0}, {"a": float("inf")}, {"b": "one"}])
def test_weights_must_be_positive(bad):
    with pytest.raises(ValueError, match="must be positive and finite"):
        VarianceCosine(**bad).fit(X)


def test_smoothed_entropy_of_a_normal_cloud():
    # Smoothing N(0, 1) gives N(0, 1 + h^2): the integral is known, and the pair of a particle with
    # itself raises it by about log(1 + 1 / (n h sqrt(2 pi) p)), of which p >= .05 holds for 95%.
    n, h = 4000, 0.5
    z = torch.special.ndtri((torch.arange(n, dtype=DOUBLE) + 0.5) / n)[:, None]
    found = float(SmoothedEntropy(h).fit(np.zeros((1, 1))).value(z))
    variance = 1 + h**2
    exact = -0.5 * np.log(2 * np.pi * variance) - 0.5 / variance
    assert found == pytest.approx(exact, abs=1 / (n * h * (2 * np.pi) ** 0.5 * 0.05))
    assert found < -0.5 * np.log(2 * np.pi * np.e)  # below the negative entropy itself


def test_smoothed_entropy_is_bounded_on_both_sides():
    # By a cloud on one spot and by one that flew apart.
    n, h, d = 5, 0.3, 2
    functional = SmoothedEntropy(h).fit(np.zeros((1, d)))
    top = -0.5 * d * np.log(2 * np.pi * h**2)
    spot, apart = torch.ones(n, d, dtype=DOUBLE), 100.0 * torch.arange(2.0 * n).reshape(n, d)
    assert float(functional.value(spot)) == pytest.approx(top, abs=1e-12)
    assert float(functional.value(apart.double())) == pytest.approx(top - np.log(n), abs=1e-12)


def test_the_bandwidth_is_scotts_and_fixed_by_the_fit():
    functional = SmoothedEntropy().fit(X)
    scale = float(np.sqrt(X.var(0).mean()))
    assert functional.bandwidth_ == pytest.approx(scale * len(X) ** (-1 / 6))
    assert SmoothedEntropy().fit(np.ones((4, 2))).bandwidth_ == 1.0
    with pytest.raises(ValueError, match="bandwidth must be positive"):
        SmoothedEntropy(0.0).fit(X)


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (3.0, TypeError, "fn must be a function of the particles, got float"),
        (lambda z: z.mean().item(), TypeError, "must return a torch tensor, got float"),
        (lambda z: z.square().sum(1), ValueError, r"shape \(\) .*got shape \(25,\)"),
        (lambda z: z.mean().reshape(1), ValueError, r"got shape \(1,\)"),
        (lambda z: z.detach().mean(), ValueError, "cannot be differentiated"),
        (lambda z: torch.ones((), requires_grad=True), ValueError, "cannot be differentiated"),
        (lambda z: (z - 50).log().mean(), ValueError, "NaN or infinite at the trial"),
        (lambda z: (z - z).square().sum().sqrt(), ValueError, "gradient of fn is NaN"),
        (lambda z, X, other: z.mean(), TypeError, "other"),
    ],
)
def test_functions_that_cannot_be_minimised_are_told_apart(fn, error, message):
    with pytest.raises(error, match=message):
        TorchFunctional(fn).fit(X)


@pytest.mark.parametrize(
    ("V", "error", "message"),
    [
        ("bowl", TypeError, "V must be a function of the particles, got str"),
        (lambda x: x.square().sum(), ValueError, r"shape \(25,\) .*got shape \(\)"),
        (lambda x: x.square().sum(1, keepdim=True), ValueError, r"got shape \(25, 1\)"),
        (lambda x: -x[:, 0].log(), ValueError, "NaN or infinite"),
        (lambda x: x.detach().sum(1), ValueError, "cannot be differentiated"),
    ],
)
def test_potentials_that_are_none(V, error, message):
    with pytest.raises(error, match=message):
        PotentialEnergy(V).fit(X)


def test_an_error_of_the_function_says_where_it_came_from():
    with pytest.raises(RuntimeError) as caught:
        TorchFunctional(lambda z: z @ torch.ones(7, dtype=DOUBLE)).fit(X)
    assert "trial call of fn with particles of shape (25, 2)" in caught.value.__notes__[0]


def test_a_linear_potential_has_no_curvature():
    functional = PotentialEnergy(lambda x: x.sum(1)).fit(X)
    _, gradient, hessian = functional.expand(draw(functional, N))
    close(gradient, torch.ones(N, 2, dtype=DOUBLE), 1e-15)
    assert float(hessian(draw(functional, 2, N)).abs().max()) == 0


def test_which_functions_read_the_data():
    class Module(torch.nn.Module):
        def forward(self, z, X):
            return (z.mean(0) - X.mean(0)).square().sum()

    assert TorchFunctional(mean_gap).learns_from_data
    assert TorchFunctional(Module()).learns_from_data
    assert not TorchFunctional(spring).learns_from_data
    assert not TorchFunctional(lambda z, X=None: z.sum()).learns_from_data
    assert not TorchFunctional(lambda z, *, scale=2.0: z.sum()).learns_from_data
    assert not TorchFunctional(torch.sum).learns_from_data
    z = torch.zeros(2, 2, dtype=DOUBLE)
    found = TorchFunctional(Module()).fit(X).value(z)
    assert float(found) == pytest.approx(float((X.mean(0) ** 2).sum()))


def test_what_passes_for_a_functional():
    entropy = SmoothedEntropy()
    assert as_functional(entropy) is entropy
    assert as_functional(spring).fn is spring
    with pytest.raises(TypeError, match=r"got the class SmoothedEntropy: add parentheses"):
        as_functional(SmoothedEntropy)
    with pytest.raises(TypeError, match="got str"):
        as_functional("mmd")


def test_every_name_is_in_the_battery_and_in_the_table():
    plain = {"Expansion", "Functional", "Scaled", "Sum", "as_functional"}
    tried = {type(case.functional).__name__ for case in CASES.values()}
    assert set(functionals.__all__) - plain == tried - plain
    assert all(f":class:`{name}`" in functionals.__doc__ for name in tried - plain)
