"""Energies of pairs and of couplings: closed forms against autograd, differences and symmetry."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skwgf.functionals import (
    KSD,
    MMD,
    EnergyDistance,
    InteractionEnergy,
    SinkhornDivergence,
    _pairs,
)
from skwgf.functionals.base import expand_by_autograd
from skwgf.kernels import Gaussian, InverseMultiquadric, Laplace, Linear, Matern, Scaled
from skwgf.metrics import ksd as ksd_metric
from skwgf.metrics import sinkhorn_divergence
from skwgf.targets import Gaussian as GaussianTarget
from skwgf.targets import GaussianMixture, LinearRegressionPosterior, LogDensity

RADIAL = {
    "gaussian": (Gaussian(bandwidth=0.8), lambda u: torch.exp(-u / (2 * 0.8**2))),
    "multiquadric": (
        InverseMultiquadric(bandwidth=0.7, exponent=-0.6),
        lambda u: (1 + u / 0.7**2) ** -0.6,
    ),
    "sum": (
        2.0 * Gaussian(bandwidth=0.5) + InverseMultiquadric(bandwidth=1.5),
        lambda u: 2 * torch.exp(-u / 0.5) + (1 + u / 1.5**2) ** -0.5,
    ),
}
FUNCTIONALS = {
    "mmd": MMD(),
    "gaussian": MMD(Gaussian(bandwidth="scale")),
    "matern": MMD(Matern(bandwidth=1.0, nu=2.5)),
    "energy": EnergyDistance(smoothing=0.2),
    "interaction": InteractionEnergy(lambda u: u / 2 - torch.exp(-u)),
    "sinkhorn": SinkhornDivergence(),
    "ksd": KSD(GaussianTarget(mean=(0.5, -0.5))),
}
BY_CLOSED_FORM = [name for name in FUNCTIONALS if name != "ksd"]


def cloud(n: int, d: int, seed: int, offset: float = 0.0) -> np.ndarray:
    return offset + np.random.default_rng(seed).normal(size=(n, d))


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array)


def differences(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """All squared distances, without cancellation."""
    return (x[:, None] - y[None]).square().sum(2)


def dense_discrepancy(w, y: torch.Tensor):
    """Half a squared discrepancy as one writes it down, for autograd to differentiate."""

    def value(z: torch.Tensor) -> torch.Tensor:
        own, cross = w(differences(z, z)).mean(), w(differences(z, y)).mean()
        return own / 2 - cross + w(differences(y, y)).mean() / 2

    return value


def assert_expansions_equal(found, wanted, fields: torch.Tensor, rtol: float) -> None:
    assert torch.allclose(found.value, wanted.value, rtol=rtol, atol=rtol)
    product, reference = found.hessian(fields), wanted.hessian(fields)
    for ours, theirs in ((found.gradient, wanted.gradient), (product, reference)):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).norm()) <= rtol * float(theirs.norm())


# d on both sides of the switches from moments to differences (3) and from blocks to projections
# (64); a cloud far from the origin would show products of coordinates that were not centred.
@pytest.mark.parametrize("name", RADIAL)
@pytest.mark.parametrize(
    ("n", "m", "d"), [(7, 30, 1), (30, 7, 2), (9, 1, 3), (12, 20, 10), (5, 8, 70)]
)
def test_discrepancies_equal_autograd_of_the_definition(name: str, n: int, m: int, d: int) -> None:
    kernel, w = RADIAL[name]
    scale = max(1.0, d / 4) ** -0.5  # else all distances are large and all derivatives zero
    X, Z = scale * cloud(m, d, 0, offset=30.0), scale * cloud(n, d, 1, offset=30.2)
    z = tensor(Z)
    reference = expand_by_autograd(dense_discrepancy(w, tensor(X)), z)
    found = MMD(kernel).fit(X).expand(z)
    fields = torch.randn(3, n, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert_expansions_equal(found, reference, fields, 1e-9)
    # Three fields at once are three fields one by one.
    alone = torch.cat([found.hessian(v[None]) for v in fields])
    assert torch.allclose(found.hessian(fields), alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("nu", [1.5, 2.5])
def test_matern_equals_autograd_where_no_points_meet(nu: float) -> None:
    """The dense formula has no derivative at u = 0, which only the self-pairs have."""
    X, z = cloud(15, 2, 0), tensor(cloud(6, 2, 1))
    y, others = tensor(X), ~torch.eye(6, dtype=torch.bool)

    def w(u: torch.Tensor) -> torch.Tensor:
        r = (2 * nu * u).sqrt()
        return (1 + r + (r**2 / 3 if nu == 2.5 else 0)) * torch.exp(-r)

    def value(z: torch.Tensor) -> torch.Tensor:
        own = w(differences(z, z)[others]).sum() / 36
        return own / 2 - w(differences(z, y)).mean()

    reference = expand_by_autograd(value, z)
    found = MMD(Matern(bandwidth=1.0, nu=nu)).fit(X).expand(z)
    fields = tensor(np.stack([cloud(6, 2, 2)]))
    reference = reference._replace(value=found.value)  # they differ by constants
    assert_expansions_equal(found, reference, fields, 1e-9)


def test_energy_distance_equals_autograd_of_the_definition() -> None:
    X, z = cloud(20, 2, 0, offset=5.0), tensor(cloud(8, 2, 1, offset=5.0))
    energy = EnergyDistance(smoothing=0.1).fit(X)
    assert np.isclose(energy.smoothing_, 0.1 * np.sqrt(X.var(0).mean()))
    value = dense_discrepancy(lambda u: -(u + energy.smoothing_**2).sqrt(), tensor(X))
    reference = expand_by_autograd(value, z)
    assert_expansions_equal(energy.expand(z), reference, tensor(np.stack([X[:8]])), 1e-9)


def test_interaction_equals_autograd_of_the_definition() -> None:
    def soft(u: torch.Tensor) -> torch.Tensor:
        return 1 / (1 + u) + u.square() / 20

    z = tensor(cloud(9, 4, 0, offset=3.0))
    reference = expand_by_autograd(lambda z: soft(differences(z, z)).mean() / 2, z)
    found = InteractionEnergy(soft).fit(z).expand(z)
    assert_expansions_equal(found, reference, tensor(np.stack([cloud(9, 4, 1)])), 1e-9)


# 600 points make four blocks of 512 rows: a transpose that was dropped, or counted twice, shows.
@pytest.mark.parametrize("kernel", [Gaussian(bandwidth=1.0), InverseMultiquadric(bandwidth=1.0)])
@pytest.mark.parametrize("d", [2, 5, 70])
def test_many_blocks_kept_or_computed_again(
    kernel: Gaussian, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, z = cloud(700, d, 0) / d**0.5, tensor(cloud(600, d, 1) / d**0.5)
    fields = tensor(np.stack([cloud(600, d, s) for s in (2, 3)]))
    energy = MMD(kernel).fit(X)
    kept = energy.expand(z)
    monkeypatch.setattr(_pairs, "_KEPT_BYTES", 0)
    again = energy.expand(z)
    assert_expansions_equal(again, kept, fields, 1e-12)
    assert torch.allclose(energy.value(z), kept.value, rtol=1e-12)
    if d < 70:  # autograd takes its time
        length = kernel.bandwidth
        w = {
            Gaussian: lambda u: torch.exp(-u / (2 * length**2)),
            InverseMultiquadric: lambda u: (1 + u / length**2) ** -0.5,
        }[type(kernel)]
        y = tensor(X)

        def square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T

        reference = expand_by_autograd(
            lambda z: w(square(z, z)).mean() / 2 - w(square(z, y)).mean(), z
        )
        reference = reference._replace(value=kept.value)
        assert_expansions_equal(kept, reference, fields, 1e-9)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_gradient_and_products_are_differences(name: str) -> None:
    """Central differences, extrapolated once, are exact to the fourth order of the step."""
    X, Z, step = cloud(14, 2, 0), cloud(8, 2, 1), 1e-3
    energy = clone(FUNCTIONALS[name]).fit(X)
    z, v = tensor(Z), tensor(cloud(8, 2, 2))
    _, gradient, hessian = energy.expand(z)

    def difference(function, size: float):
        return (function(z + size * v) - function(z - size * v)) / (2 * size)

    def extrapolated(function):
        return (4 * difference(function, step) - difference(function, 2 * step)) / 3

    slope = extrapolated(energy.value)
    assert torch.allclose(slope, (gradient * v).sum() / 8, rtol=1e-7, atol=1e-9)
    bend = extrapolated(lambda z: energy.expand(z).gradient)
    product = hessian(v[None])[0]
    assert float((bend - product).norm()) <= 1e-6 * float(product.norm())


@pytest.mark.parametrize("d", [2, 5, 70])
@pytest.mark.parametrize("name", BY_CLOSED_FORM)
def test_autograd_differentiates_the_value_by_the_closed_forms(name: str, d: int) -> None:
    scale = (d / 2) ** -0.5
    energy = clone(FUNCTIONALS[name]).fit(scale * cloud(14, d, 0))
    z = tensor(scale * cloud(8, d, 1))
    fields = tensor(np.stack([cloud(8, d, s) for s in (2, 3)]))
    through = expand_by_autograd(lambda z: 3 * energy.value(z), z)
    found = energy.expand(z)
    tripled = found._replace(
        value=3 * found.value,
        gradient=3 * found.gradient,
        hessian=lambda fields: 3 * found.hessian(fields),
    )
    assert_expansions_equal(through, tripled, fields, 1e-12)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_hessian_is_symmetric(name: str) -> None:
    energy = clone(FUNCTIONALS[name]).fit(cloud(14, 2, 0))
    n, d = 6, 2
    hessian = energy.expand(tensor(cloud(n, d, 1))).hessian
    matrix = hessian(torch.eye(n * d, dtype=torch.float64).view(-1, n, d)).flatten(1)
    assert torch.allclose(matrix, matrix.T, rtol=0, atol=1e-10 * float(matrix.abs().max()))


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_every_particle_twice_changes_nothing(name: str) -> None:
    """The factor n: without it, gradients and products would halve."""
    energy = clone(FUNCTIONALS[name]).fit(cloud(14, 2, 0))
    z, v = tensor(cloud(8, 2, 1)), tensor(cloud(8, 2, 2))
    once, twice = energy.expand(z), energy.expand(torch.cat([z, z]))
    assert torch.allclose(once.value, twice.value, rtol=1e-9, atol=1e-12)
    assert torch.allclose(twice.gradient, once.gradient.repeat(2, 1), rtol=1e-7, atol=1e-9)
    double = twice.hessian(torch.cat([v, v])[None])[0]
    assert torch.allclose(double, once.hessian(v[None])[0].repeat(2, 1), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["mmd", "gaussian", "energy", "sinkhorn"])
def test_moving_all_points_alike_changes_nothing(name: str) -> None:
    """A long shift shows what was not centred: it costs 1e-16 times its square otherwise."""
    X, Z, shift = cloud(14, 2, 0), cloud(8, 2, 1), np.array([1e4, -2e4])
    fields = tensor(np.stack([cloud(8, 2, 2)]))
    here = clone(FUNCTIONALS[name]).fit(X).expand(tensor(Z))
    there = clone(FUNCTIONALS[name]).fit(X + shift).expand(tensor(Z + shift))
    assert_expansions_equal(there, here, fields, 1e-7)


def test_interaction_does_not_feel_a_shift_of_its_particles() -> None:
    """A field that is the same everywhere is in the kernel of the Hessian."""
    _, gradient, hessian = (
        InteractionEnergy(torch.cos).fit(cloud(9, 3, 0)).expand(tensor(cloud(9, 3, 0)))
    )
    assert torch.allclose(gradient.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-14)
    constant = torch.ones(1, 9, 3, dtype=torch.float64)
    assert float(hessian(constant).abs().max()) < 1e-13


@pytest.mark.parametrize("name", ["mmd", "gaussian", "energy", "sinkhorn"])
def test_the_rows_themselves_are_a_minimum_with_value_zero(name: str) -> None:
    X = cloud(12, 2, 0)
    energy = clone(FUNCTIONALS[name]).fit(X)
    value, gradient, hessian = energy.expand(tensor(X))
    assert abs(float(value)) < 1e-9
    assert float(gradient.abs().max()) < 1e-7
    matrix = hessian(torch.eye(24, dtype=torch.float64).view(-1, 12, 2)).flatten(1)
    assert float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[0]) > -1e-8


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_single_precision_follows_double(name: str) -> None:
    X, Z = cloud(14, 2, 0).astype(np.float32), cloud(8, 2, 1).astype(np.float32)
    narrow = clone(FUNCTIONALS[name]).fit(X).expand(tensor(Z))
    wide = clone(FUNCTIONALS[name]).fit(X.astype(np.float64)).expand(tensor(Z).double())
    v = tensor(cloud(8, 2, 2))[None]
    assert narrow.value.dtype == narrow.gradient.dtype == torch.float32
    assert narrow.hessian(v.float()).dtype == torch.float32
    for ours, theirs in (
        (narrow.gradient, wide.gradient),
        (narrow.hessian(v.float()), wide.hessian(v)),
    ):
        assert float((ours - theirs).norm()) < 2e-4 * float(theirs.norm())


@pytest.mark.parametrize("name", ["mmd", "gaussian", "matern", "energy", "sinkhorn"])
@pytest.mark.parametrize(
    "X",
    [
        np.array([[3.0, -1.0]]),
        np.array([[3.0, -1.0]] * 6),
        np.column_stack([cloud(9, 1, 0), np.full(9, 0.1)]),
    ],
    ids=["one row", "equal rows", "constant column"],
)
def test_degenerate_rows(name: str, X: np.ndarray) -> None:
    energy = clone(FUNCTIONALS[name]).fit(X)
    start = energy.draw_start(5, torch.Generator().manual_seed(0))
    assert bool((torch.pdist(start) > 0).all())
    if X[:, 0].std() > 0:  # a column that is constant stays so
        assert torch.equal(start[:, 1], torch.full_like(start[:, 1], 0.1))
    expansion = energy.expand(start)
    for found in (expansion.value, expansion.gradient, expansion.hessian(start[None])):
        assert bool(found.isfinite().all())
    assert energy.length_scale_ > 0


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_coincident_particles_are_finite_and_move_alike(name: str) -> None:
    """Square roots at zero would give NaN; rounding would part what is one point."""
    energy = clone(FUNCTIONALS[name]).fit(cloud(14, 2, 0))
    z = tensor(np.repeat(cloud(3, 2, 1), 2, axis=0))
    value, gradient, hessian = energy.expand(z)
    product = hessian(z[None])[0]
    assert bool(value.isfinite())
    assert bool(product.isfinite().all())
    assert torch.allclose(gradient[::2], gradient[1::2], rtol=1e-9, atol=1e-11)
    assert torch.allclose(product[::2], product[1::2], rtol=1e-8, atol=1e-9)


def test_start_takes_each_row_before_it_repeats_one() -> None:
    X = 100.0 * np.arange(10.0)[:, None]
    energy = MMD().fit(X)
    generator = torch.Generator().manual_seed(0)
    fewer, more = energy.draw_start(10, generator), energy.draw_start(25, generator)
    nearest = (fewer[:, 0] / 100).round().sort().values
    assert torch.equal(nearest, torch.arange(10.0, dtype=torch.float64))
    # 25 points on a line of spread 287: noise of about 1.1 (a tenth of 287 / 25)
    _, counts = (more[:, 0] / 100).round().unique(return_counts=True)
    assert sorted(counts.tolist()) == [2] * 5 + [3] * 5


def test_default_kernel_has_reaches_around_the_median_distance() -> None:
    X = np.array([[0.0], [4.0], [8.0]])  # distances 4, 4, 8
    kernel = MMD().fit(X).kernel_
    x, y = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    expected = (1 / 7) * 5**-0.5 + (2 / 7) * 1.25**-0.5 + (4 / 7) * (1 + 1 / 64) ** -0.5
    assert np.isclose(float(kernel.gram(x, x)), 1.0)
    assert np.isclose(float(kernel.gram(x, y)), expected)


def test_mmd_of_two_points_is_known() -> None:
    r"""Delta at 0 against delta at r: 1/2 (k(0) - 2 k(r) + k(0)) = 1 - k(r)."""
    value = MMD(Gaussian(bandwidth=1.0)).fit([[3.0, 4.0]]).value(tensor(np.zeros((1, 2))))
    assert np.isclose(float(value), 1 - np.exp(-12.5), rtol=1e-12)


# --- Sinkhorn divergence


def unrolled(z: torch.Tensor, y: torch.Tensor, reg: float, sweeps: int = 400) -> torch.Tensor:
    """The divergence, less what the rows alone contribute, with the graph of every sweep."""

    def cost(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        c, n, m = differences(x, y) / 2, len(x), len(y)
        g = c.new_zeros(m)
        for _ in range(sweeps):
            f = -reg * (((g - c) / reg).logsumexp(1) - np.log(m))
            g = -reg * (((f[:, None] - c) / reg).logsumexp(0) - np.log(n))
        return f.mean() + g.mean()

    return cost(z, y) - cost(z, z) / 2


@pytest.mark.parametrize(("n", "m", "d"), [(5, 7, 2), (6, 6, 1), (4, 9, 3)])
def test_sinkhorn_products_equal_those_through_all_sweeps(n: int, m: int, d: int) -> None:
    X, z = cloud(m, d, 0, offset=2.0), tensor(cloud(n, d, 1, offset=2.0))
    energy = SinkhornDivergence(reg=0.4).fit(X)
    reference = expand_by_autograd(lambda z: unrolled(z, tensor(X), 0.4), z)
    found = energy.expand(z)
    reference = reference._replace(value=found.value)
    assert_expansions_equal(found, reference, tensor(np.stack([cloud(n, d, 2)])), 1e-7)
    assert np.isclose(float(found.value), sinkhorn_divergence(z.numpy(), X, reg=0.4), atol=1e-7)


def test_sinkhorn_of_a_shifted_cloud_is_half_the_squared_shift() -> None:
    """Exact for any reg, with gradient the shift and the identity on constant fields."""
    X, shift = cloud(15, 2, 0), np.array([3.0, -4.0])
    value, gradient, hessian = SinkhornDivergence().fit(X).expand(tensor(X + shift))
    assert np.isclose(float(value), 12.5, rtol=1e-9)
    assert torch.allclose(gradient, tensor(shift).expand_as(gradient), atol=1e-8)
    constant = tensor(shift).expand(1, 15, 2)
    assert torch.allclose(hessian(constant), constant, atol=1e-7)


def test_sinkhorn_products_survive_clusters_that_exchange_no_mass() -> None:
    """The system of the potentials is then singular, by their heights on each cluster."""
    shift = np.repeat([[0.0, 0.0], [60.0, 0.0]], 6, axis=0)
    X, Z = cloud(12, 2, 0) + shift, cloud(12, 2, 1) + shift
    energy = SinkhornDivergence(reg=0.5).fit(X)
    v = tensor(cloud(12, 2, 2))
    product = energy.expand(tensor(Z)).hessian(v[None])[0]
    parts = []
    for rows in (slice(0, 6), slice(6, 12)):  # each cluster is a problem of its own
        part = SinkhornDivergence(reg=0.5).fit(X[rows])
        parts.append(part.expand(tensor(Z[rows])).hessian(v[None, rows])[0])
    assert torch.allclose(product, torch.cat(parts), atol=1e-6)


def test_sinkhorn_refuses_what_does_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skwgf.functionals.sinkhorn._MOST_PAIRS", 30)
    energy = SinkhornDivergence().fit(cloud(8, 2, 0))
    with pytest.raises(ValueError, match="fewer particles"):
        energy.expand(tensor(cloud(4, 2, 1)))


def test_sinkhorn_warns_when_its_plans_are_not_optimal(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = SinkhornDivergence(reg=1e-3).fit(cloud(20, 2, 0))
    monkeypatch.setattr("skwgf.functionals.sinkhorn._MAX_SWEEPS", 2)
    with pytest.warns(ConvergenceWarning, match="marginal error"):
        energy.value(tensor(cloud(20, 2, 1)))


# --- Kernel Stein discrepancy


@pytest.mark.parametrize(
    "kernel",
    [
        None,
        Gaussian(bandwidth=1.3),
        0.5 * InverseMultiquadric(bandwidth=2.0) + Gaussian(bandwidth=1.0),
    ],
)
def test_ksd_is_half_the_square_of_the_metric(kernel: Gaussian | None) -> None:
    Z = cloud(11, 2, 0)
    target = GaussianMixture()
    value = KSD(target, kernel).fit(Z).value(tensor(Z))
    assert np.isclose(float(value), ksd_metric(Z, target, kernel=kernel) ** 2 / 2, rtol=1e-10)


def test_ksd_of_a_model_learns_from_data() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    y = X @ np.array([1.0, -2.0]) + 0.1 * rng.normal(size=30)
    energy = KSD(LinearRegressionPosterior())
    assert energy.learns_from_data
    assert not KSD(GaussianTarget()).learns_from_data
    energy.fit(X, y)
    start = energy.draw_start(6, torch.Generator().manual_seed(0))
    assert start.shape == (6, energy.n_dim_)
    assert energy.n_dim_ == energy.target_.n_dim_
    value, gradient, hessian = energy.expand(start)
    assert all(bool(t.isfinite().all()) for t in (value, gradient, hessian(start[None])))


def test_ksd_moves_unconstrained_coordinates() -> None:
    """Starting points of a density on x > 0 are given as x, and its particles are log x."""
    target = LogDensity(lambda x: (x.log() - x).sum(1), 1, support="positive")
    energy = KSD(target).fit(np.array([[1.0], [np.e]]))
    start = energy.draw_start(2, torch.Generator().manual_seed(0)).sort(0).values
    assert torch.allclose(start.T, torch.tensor([[0.0, 1.0]], dtype=torch.float64), atol=0.1)


def test_ksd_refuses_what_it_cannot_differentiate() -> None:
    numpy_density = LogDensity(
        lambda x: -0.5 * np.sum(x**2, axis=1), n_features=2, grad=lambda x: -x
    )
    with pytest.raises(ValueError, match="carries no graph"):
        KSD(numpy_density).fit(cloud(3, 2, 0))
    with pytest.raises(TypeError, match="four times"):
        KSD(GaussianTarget(), Matern()).fit(cloud(3, 2, 0))
    with pytest.raises(TypeError, match="LogDensity"):
        KSD(lambda x: x).fit(cloud(3, 2, 0))


# --- parameters


def test_nested_parameters_reach_the_copies_only() -> None:
    kernel = Gaussian(bandwidth="scale")
    energy = MMD(Scaled(kernel, 2.0)).set_params(kernel__kernel__bandwidth=0.5)
    copy = clone(energy).fit(cloud(5, 2, 0))
    assert copy.get_params()["kernel__kernel__bandwidth"] == 0.5
    assert copy.kernel_.kernel.bandwidth == 0.5
    ruled = MMD(Gaussian(bandwidth="scale")).fit(cloud(5, 2, 0))
    assert ruled.kernel.bandwidth == "scale"
    assert isinstance(ruled.kernel_.bandwidth, float)
    mixed = KSD(GaussianTarget(), Gaussian()).set_params(target__mean=(1.0,), kernel__bandwidth=2.0)
    assert clone(mixed).fit([[0.0]]).kernel_.bandwidth == 2.0


@pytest.mark.parametrize(
    ("functional", "error", "message"),
    [
        (MMD(Laplace()), ValueError, "not twice differentiable"),
        (MMD(Linear()), TypeError, "function of the distance"),
        (MMD("gaussian"), TypeError, "skwgf.kernels"),
        (EnergyDistance(smoothing=0.0), ValueError, "no second derivative"),
        (SinkhornDivergence(reg=-1.0), ValueError, "positive number or None"),
        (InteractionEnergy(torch.sqrt), ValueError, "W' is inf at squared distance 0"),
        (InteractionEnergy(lambda u: -u.log()), ValueError, "value is inf"),
        (InteractionEnergy(lambda u: u.pow(1.5)), ValueError, "W'' is inf"),
        (InteractionEnergy(lambda u: u.sum()), ValueError, "same shape"),
        (InteractionEnergy(lambda u: u / u.sum()), ValueError, "each squared distance alone"),
        (InteractionEnergy(3.0), TypeError, "torch function"),
    ],
)
def test_parameters_that_make_no_energy(functional, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        functional.fit(cloud(6, 2, 0))


def test_no_warnings_in_ordinary_use() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for functional in FUNCTIONALS.values():
            energy = clone(functional).fit(cloud(14, 2, 0))
            energy.expand(energy.draw_start(4, torch.Generator().manual_seed(0)))
