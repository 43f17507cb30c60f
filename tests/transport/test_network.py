from __future__ import annotations

import math

import pytest
import torch

from skwgf._tensor import make_generator
from skwgf.nn import mlp
from skwgf.transport.network import DualTerms, NetworkTransport, dual_terms, gradient_map

# Root of the target covariance (symmetric positive definite, so z -> R z + m is optimal).
ROOT = {1: torch.tensor([[0.5]]), 2: torch.tensor([[0.8, 0.3], [0.3, 0.4]])}
MEAN = {1: torch.tensor([1.0]), 2: torch.tensor([1.0, -0.5])}
PENALTY = 20.0


def draw_gaussians(d, root, n=4000, seed=0):
    """Rows of N(0, I) and of its image under the optimal map."""
    generator = make_generator(seed)
    x, z = torch.randn(2, n, d, generator=generator)
    return x, z @ root + MEAN[d]


def make_transport(y, *, seed=0, **parameters):
    small = {"hidden_layer_sizes": (64, 64), "batch_size": 256, "penalty": PENALTY}
    return NetworkTransport(y, generator=make_generator(seed), **(small | parameters))


@pytest.fixture(
    scope="module", params=[(1, "bures"), (2, "bures"), (2, "shift")], ids=lambda p: f"{p[1]}{p[0]}"
)
def fitted(request):
    """A trained transport and the exact map it should have found."""
    d, kind = request.param
    root = ROOT[d] if kind == "bures" else torch.eye(d)
    x, y = draw_gaussians(d, root)
    transport = make_transport(y, activation="silu", learning_rate=2e-3)
    for _ in range(120):
        transport(x)
    transport.n_steps = 0
    return transport, d, root


def wasserstein(d, root):
    """Distance between N(0, I) and N(m, R^2): |m|^2 + |I - R|^2 is its square."""
    return math.sqrt(MEAN[d].square().sum() + (torch.eye(d) - root).square().sum())


def test_map_is_the_optimal_map_between_gaussians(fitted):
    transport, d, root = fitted
    x, _ = draw_gaussians(d, root, seed=1)  # rows that were not trained on
    image, exact = transport(x), x @ root + MEAN[d]
    # A tenth of the distance the rows travel; the identity has error 1 on this scale, a shift by
    # the means alone .45 and .56 on the two Bures problems. Catches a wrong sign of the
    # gradient, a cost without its factor 1/2, and a potential pair that is swapped.
    error = (image - exact).square().sum(1).mean().sqrt()
    assert error < 0.15 * wasserstein(d, root)
    # Shrunk images would keep a small error: the covariance itself must be that of the target.
    # Its sampling error is sqrt(2 / 4000) = .022 of a variance, on both sides.
    torch.testing.assert_close(torch.cov(image.T), torch.cov(exact.T), rtol=0, atol=0.1)


def test_dual_value_is_half_the_squared_distance(fitted):
    transport, d, root = fitted
    x, y = draw_gaussians(d, root, n=20000, seed=1)
    mixing = torch.rand(2, 20000, 1, generator=make_generator(2))
    with torch.no_grad():
        terms = dual_terms(transport.potential, transport.excess, x, y, mixing)
    # The penalty lets the value overshoot by at most the order of 1 / penalty = .05: raising the
    # value by h over all pairs costs penalty * h^2. The sampling error of the means is below .01.
    assert abs(terms.value - wasserstein(d, root) ** 2 / 2) < 1 / PENALTY
    # The pair (x, T(x)) is tight to the same order, and violations elsewhere are rare.
    assert terms.slackness.sqrt() < 1 / PENALTY
    assert terms.violation.sqrt() < 1 / PENALTY


def test_inequalities_bound_the_value_before_the_map_arrives():
    # Two narrow laws 4 apart: the tight pairs (x, T(x)) do not reach the target at first, and only
    # the inequalities at random pairs keep psi from growing there. Without them the value climbs
    # past 200; with them it stays at 4^2 / 2 = 8 up to the penalty's overshoot.
    generator = make_generator(0)
    x, y = 0.1 * torch.randn(2, 500, 1, generator=generator)
    transport = make_transport(y + 4.0, n_steps=1, learning_rate=1e-2)
    values = []
    for _ in range(150):
        transport(x)
        values.append(float(transport.last_terms.value))
    assert 4.0 < max(values) < 12.0


def test_potential_follows_a_law_that_moves():
    # Along x <- x + tau (T(x) - x) the law reaches the target and the value falls to zero.
    # Catches a potential that is rebuilt at every call, or that is trained on the first rows only.
    x, y = draw_gaussians(1, ROOT[1], n=1000)
    transport = make_transport(y, n_steps=3, learning_rate=2e-3)
    start = (x.sort(0).values - y.sort(0).values).square().mean().sqrt()
    for _ in range(150):
        x = x + 0.05 * (transport(x) - x)
    # In one dimension sorting gives the exact distance.
    end = (x.sort(0).values - y.sort(0).values).square().mean().sqrt()
    assert end < 0.1 * start
    assert abs(x.std() / y.std() - 1) < 0.1
    assert abs(transport.last_terms.value) < 1 / PENALTY


def test_map_starts_at_the_identity_with_zero_terms():
    x, y = draw_gaussians(2, ROOT[2], n=100)
    transport = make_transport(y, n_steps=0)
    assert torch.equal(transport(x), x)
    assert transport.last_terms is None
    transport.n_steps = 1
    transport(x)
    assert transport.last_terms.value == 0
    assert transport.last_terms.violation == 0


def test_gradient_map_matches_finite_differences_and_ignores_no_grad():
    potential = mlp(2, 1, (8,), activation="silu", generator=make_generator(0), dtype=torch.float64)
    x = torch.randn(5, 2, generator=make_generator(1), dtype=torch.float64)
    h = 1e-6
    with torch.no_grad():
        image = gradient_map(potential, x)
        for k in range(2):
            e = h * torch.eye(2, dtype=torch.float64)[k]
            slope = (potential(x + e) - potential(x - e)).squeeze(1) / (2 * h)
            # The error of central differences is of order h^2 + 1e-16 / h = 1e-10.
            torch.testing.assert_close(image[:, k], x[:, k] - slope, rtol=0, atol=1e-8)
    assert not image.requires_grad
    assert not x.requires_grad


def test_terms_are_exact_for_known_potentials():
    # phi(x) = -m.x - |m|^2/2 and psi(y) = m.y are an optimal pair from a law to its shift by m:
    # phi(x) + psi(y) = c(x, y) - |y - x - m|^2 / 2. So e(y) = -|m|^2/2.
    m = torch.tensor([1.0, -2.0], dtype=torch.float64)
    potential = torch.nn.Linear(2, 1).double()
    excess = torch.nn.Linear(2, 1).double()
    with torch.no_grad():
        potential.weight.copy_(-m[None])
        potential.bias.fill_(-m.square().sum() / 2)
        excess.weight.zero_()
        excess.bias.fill_(-m.square().sum() / 2)
    x = torch.randn(500, 2, generator=make_generator(0), dtype=torch.float64)
    y = x.flip(0) + m
    mixing = torch.rand(2, 500, 1, generator=make_generator(1), dtype=torch.float64)
    with torch.no_grad():
        terms = dual_terms(potential, excess, x, y, mixing)
        raised = dual_terms(potential, lambda y: excess(y) + 0.5, x, y, mixing)
    torch.testing.assert_close(
        terms, DualTerms(m.square().sum() / 2, x.new_zeros(()), x.new_zeros(())), rtol=0, atol=1e-12
    )
    # Raising psi by h raises the value by h and breaks the constraint by h at the tight pairs.
    torch.testing.assert_close(raised.value - terms.value, x.new_tensor(0.5))
    torch.testing.assert_close(raised.slackness, x.new_tensor(0.25))
    # Elsewhere it breaks it by what is left of h after the gap: catches pairs that are mixed up.
    expected = x.new_zeros(())
    for a, b in ((x, y), torch.lerp(x, y, mixing)):
        gap = (b - a - m).square().sum(1) / 2
        expected = expected + (0.5 - gap).relu().square().mean()
    torch.testing.assert_close(raised.violation, expected)


def test_same_seed_gives_the_same_bits_and_no_global_draws():
    x, y = draw_gaussians(2, ROOT[2], n=200)
    before = torch.get_rng_state()
    first, second, other = make_transport(y), make_transport(y), make_transport(y, seed=1)
    for _ in range(3):
        image = first(x)
        assert torch.equal(image, second(x))
        assert not torch.equal(image, other(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_call_leaves_its_input_and_works_without_gradients():
    x, y = draw_gaussians(2, ROOT[2], n=200)
    kept = x.clone()
    with torch.no_grad():
        image = make_transport(y)(x)
    assert torch.equal(image, make_transport(y)(x.requires_grad_()))
    assert torch.equal(x.detach(), kept)
    assert x.grad is None
    assert not image.requires_grad


def test_images_do_not_depend_on_how_rows_are_grouped():
    x, y = draw_gaussians(2, ROOT[2], n=10000)
    transport = make_transport(y.double())
    transport(x.double())
    transport.n_steps = 0
    whole = transport(x.double())
    torch.testing.assert_close(
        transport(x.double()[4000:4200]), whole[4000:4200], rtol=1e-12, atol=0
    )


def test_snapshot_brings_back_the_same_steps():
    x, y = draw_gaussians(2, ROOT[2], n=200)
    transport = make_transport(y)
    transport(x)
    snapshot, draws = transport.state_dict(), transport.generator.get_state()
    kept = {name: value.clone() for name, value in snapshot.items()}
    image = transport(x)
    resumed = make_transport(y, seed=3)
    for _ in range(2):  # twice: loading must not tie the snapshot to the optimiser
        resumed.load_state_dict(snapshot)
        resumed.generator.set_state(draws)
        assert torch.equal(resumed(x), image)
        assert all(torch.equal(value, kept[name]) for name, value in snapshot.items())


def test_nan_rows_spoil_the_networks_until_they_are_put_back():
    x, y = draw_gaussians(2, ROOT[2], n=200)
    transport = make_transport(y)
    transport(x)
    snapshot = transport.state_dict()
    assert torch.isnan(transport(x * math.nan)).all()
    transport.load_state_dict(snapshot)
    assert torch.isfinite(transport(x)).all()


def test_bad_arguments_are_named():
    y = torch.zeros(5, 2)
    with pytest.raises(ValueError, match="plan"):
        make_transport(y)(y, side=torch.zeros(5, 1))
    for bad in (torch.zeros(5), torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="at least one row"):
            make_transport(bad)
    for changes in ({"n_steps": -1}, {"batch_size": 0}, {"penalty": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))}="):
            make_transport(y, **changes)
