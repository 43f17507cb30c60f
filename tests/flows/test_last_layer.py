"""The solved last layer: the maximiser of the objective, its fixed points, and its symmetries."""

from __future__ import annotations

import pytest
import torch
from scenarios import normal, rotation

from skwgf.flows.affine import standardize, whiten
from skwgf.flows.last_layer import solve_last_layer
from skwgf.flows.regularizers import LpCost
from skwgf.flows.residual import ResidualVelocity
from skwgf.flows.variational import Cloud, variational_objective
from skwgf.nn.divergence import DivergenceMLP

F64 = torch.float64
HIDDEN = [(), (6,), (7, 6), (5, 7, 6)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_network(d, hidden, seed=1, **options):
    """Return a network of double precision whose features bend on the scale of the cloud."""
    draws = generator(seed)
    network = DivergenceMLP(d, hidden, generator=draws, dtype=F64, **options)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draws, dtype=F64))
    return network


def skewed(n, d, seed=3):
    """Return a whitened cloud that is no Gaussian one, and scores that are no affine function."""
    x = normal(n, d, seed)
    z, _ = whiten(x + 0.3 * x.square() @ rotation(d, 5))
    return z, -z - 0.3 * z**3 + 0.5


def copied(network, layer):
    """Return the solved field as a network, so that its divergence is known."""
    twin = random_network(network.skip.shape[0], [*widths(network)])
    twin.load_state_dict(network.state_dict())
    with torch.no_grad():
        twin.skip.copy_(layer.linear)
        twin.core[-1].bias.copy_(layer.bias)
        twin.core[-1].weight.copy_(layer.hidden.T if widths(network) else 0 * twin.skip)
    return twin


def widths(network):
    return [part.out_features for part in network.core if isinstance(part, torch.nn.Linear)][:-1]


def slopes_of_the_objective(twin, z, scores, free):
    """Return the derivatives of the objective at p = 2 in some of the weights."""
    objective = variational_objective(twin, Cloud(z, scores, None), LpCost(2.0))
    return torch.autograd.grad(objective, free)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("d", [1, 3])
def test_without_a_ridge_it_is_the_maximiser_of_the_objective(hidden, d):
    # The objective is concave in the last layer: it is the maximiser where the derivatives by
    # autograd vanish. Catches a missing or transposed mean gradient of the features, and a
    # correction of the affine part for the hidden one that is left out.
    network, (z, scores) = random_network(d, hidden), skewed(120, d)
    layer = solve_last_layer(network, z, scores, ridge=0.0)
    twin = copied(network, layer)
    free = [twin.skip, twin.core[-1].bias] + ([twin.core[-1].weight] if hidden else [])
    # What keeps the matrix regular, 1e-10 of its mean diagonal, leaves as much of the weights.
    tol = 1e-10 * (10 + (float(layer.hidden.abs().max()) if hidden else 0.0))
    for slope in slopes_of_the_objective(twin, z, scores, free):
        assert float(slope.abs().max()) < tol


@pytest.mark.parametrize("hidden", HIDDEN[1:])
def test_without_a_ridge_it_equals_the_normal_equations(hidden):
    # All features (1, z, h(z)) at once, with the gradient of each by autograd: the blocks that are
    # eliminated one after the other have to come to the same field.
    d = 3
    network, (z, scores) = random_network(d, hidden), skewed(120, d)
    features = torch.cat([torch.ones(len(z), 1, dtype=F64), z, network.hidden(z)], 1).detach()
    gradient = torch.autograd.functional.jacobian(lambda z: network.hidden(z).sum(0), z)
    gradient = torch.cat([torch.zeros(1, d, dtype=F64), torch.eye(d, dtype=F64), gradient.mean(1)])
    moment = features.T @ scores / len(z) + gradient
    weights = torch.linalg.solve(features.T @ features / len(z), moment)
    found = solve_last_layer(network, z, scores, ridge=0.0)(z).detach()
    torch.testing.assert_close(found, features @ weights, rtol=0, atol=1e-7)


def test_jacobian_of_the_features_that_the_check_above_relies_on():
    # The mean over the rows is taken of (h, n, d): each feature depends on its own row alone.
    network, z = random_network(2, (4, 3)), normal(7, 2, 0)
    gradient = torch.autograd.functional.jacobian(lambda z: network.hidden(z).sum(0), z).sum(1) / 7
    torch.testing.assert_close(network.hidden_features(z)[1], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ridge", [0.1, 1.0])
def test_the_ridge_is_on_the_bent_part_of_the_features(ridge):
    # The objective less the ridge's share of it: (1 - r) C + r mean(diag C) in the place of the
    # covariance C of the bent features. At 1 it is the plain Stein velocity of these features.
    d, n = 2, 150
    network, (z, scores) = random_network(d, (6, 5)), skewed(n, d)
    layer = solve_last_layer(network, z, scores, ridge=ridge)
    values, gradient = (part.detach() for part in network.hidden_features(z))
    affine = torch.cat([torch.ones(n, 1, dtype=F64), z], 1)
    fit = torch.linalg.lstsq(affine, values).solution
    bent, moment = values - affine @ fit, gradient - fit[1:].T
    covariance = bent.T @ bent / n
    level = covariance.diagonal().mean()
    matrix = (1 - ridge) * covariance + ridge * level * torch.eye(5, dtype=F64)
    expected = torch.linalg.solve(matrix, bent.T @ scores / n + moment)
    torch.testing.assert_close(layer.hidden, expected, rtol=1e-7, atol=1e-8)
    plain = scores.mean(0) + z @ (torch.eye(d, dtype=F64) + z.T @ scores / n)
    torch.testing.assert_close(layer(z).detach(), plain + bent @ expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("hidden", HIDDEN)
def test_diagonal_treats_coordinates_on_their_own_then_the_features(hidden):
    # First the affine part is best for each coordinate, then the hidden part for what it leaves.
    # Catches a tilt that is taken out although the cloud is correlated.
    d = 3
    network = random_network(d, hidden)
    z, _ = standardize(normal(100, d, 0) @ (torch.eye(d, dtype=F64) + 0.5))
    scores = -z - 0.3 * z**3 + 0.5
    layer = solve_last_layer(network, z, scores, ridge=0.0, diagonal=True)
    bare = solve_last_layer(random_network(d, ()), z, scores, diagonal=True)
    twin = copied(random_network(d, ()), bare)
    skip, bias = slopes_of_the_objective(twin, z, scores, [twin.skip, twin.core[-1].bias])
    assert float(torch.cat([skip.diagonal(), bias]).abs().max()) < 1e-10
    assert torch.equal(bare.linear, bare.linear.diagonal().diag())
    torch.testing.assert_close(layer.linear, bare.linear)
    if hidden:
        twin = copied(network, layer)
        (slope,) = slopes_of_the_objective(twin, z, scores, [twin.core[-1].weight])
        # The bias goes with the features, whose mean is taken out.
        (mean,) = slopes_of_the_objective(twin, z, scores, [twin.core[-1].bias])
        slope = slope - mean[:, None] * network.hidden(z).mean(0).detach()
        assert float(slope.abs().max()) < 1e-8


@pytest.mark.parametrize("ridge", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_field_vanishes_where_the_stein_identities_hold(hidden, diagonal, ridge):
    # Scores -z - c with c chosen so that all moments of the features are zero: particles come to
    # rest there, whatever the ridge. A field of trained weights would keep moving them.
    d, n = 2, 80
    network = random_network(d, hidden)
    z, _ = whiten(normal(n, d, 0))
    values, gradient = (part.detach() for part in network.hidden_features(z))
    features = torch.cat([torch.ones(n, 1, dtype=F64), z, values], 1)
    wanted = -torch.cat([torch.zeros(1, d, dtype=F64), torch.eye(d, dtype=F64), gradient])
    defect = wanted - features.T @ -z / n
    scores = -z + features @ torch.linalg.solve(features.T @ features / n, defect)
    layer = solve_last_layer(network, z, scores, ridge=ridge, diagonal=diagonal)
    assert float(scores.add(z).abs().max()) > (0.01 if hidden else -1)
    assert float(layer(z).detach().abs().max()) < 1e-8


def test_scores_of_zero_give_minus_the_score_of_the_cloud():
    # -grad log rho is z on quantiles of N(0, 1); what the empirical moments leave is O(1/n).
    levels = (torch.arange(400, dtype=F64) + 0.5) / 400
    z, _ = whiten(torch.special.ndtri(levels)[:, None])
    layer = solve_last_layer(random_network(1, (6,)), z, torch.zeros_like(z))
    inner = z.abs()[:, 0] < 2
    assert float((layer(z).detach() - z)[inner].abs().max()) < 0.05


def test_the_solution_of_the_whitened_field_moves_with_the_coordinates():
    # Under x -> a + B x, B lower triangular, the whitened cloud and its scores stay the same.
    shift = torch.tensor([[3.0, 0.0], [1.0, 0.2]], dtype=F64)
    inverse = torch.linalg.inv(shift)

    def field(score_fn):
        network = random_network(2, (8,))
        return ResidualVelocity(score_fn, network, generator=generator(), solve=True)

    x = normal(60, 2, 0)
    plain = field(lambda x: 1 - x.exp())(x)
    mapped = field(lambda y: (1 - ((y - 5) @ inverse.T).exp()) @ inverse)(x @ shift.T + 5)
    torch.testing.assert_close(mapped.direction, plain.direction @ shift.T, rtol=1e-7, atol=1e-7)
    assert mapped.energy == pytest.approx(plain.energy, rel=1e-7)


def test_a_feature_that_comes_twice_counts_once():
    # Without a ridge the matrix is singular; catches a factorisation that fails, and weights of
    # opposite signs that grow without end.
    network, (z, scores) = random_network(2, (6,)), skewed(100, 2)
    single = random_network(2, (5,))
    with torch.no_grad():
        network.core[0].weight[5] = network.core[0].weight[4]
        network.core[0].bias[5] = network.core[0].bias[4]
        single.core[0].weight.copy_(network.core[0].weight[:5])
        single.core[0].bias.copy_(network.core[0].bias[:5])
    layer = solve_last_layer(network, z, scores, ridge=0.0)
    expected = solve_last_layer(single, z, scores, ridge=0.0)(z)
    torch.testing.assert_close(layer.hidden[4], layer.hidden[5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(z), expected, rtol=0, atol=1e-5)


def test_constant_features_play_no_role():
    # A layer of weights zero has no gradient and no variance.
    network, (z, scores) = random_network(2, (6,)), skewed(100, 2)
    with torch.no_grad():
        network.core[0].weight.zero_()
    plain = solve_last_layer(random_network(2, ()), z, scores)
    layer = solve_last_layer(network, z, scores)
    torch.testing.assert_close(layer(z), plain(z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("weights", [torch.float32, F64])
@pytest.mark.parametrize("points", [torch.float32, F64])
def test_precisions_of_network_and_cloud_may_differ(weights, points):
    network, (z, scores) = random_network(2, (6, 5)), skewed(100, 2)
    expected = solve_last_layer(network, z, scores)(z)
    found = solve_last_layer(network.to(weights), z.to(points), scores.to(points))(z.to(points))
    assert found.dtype == points
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_solution_leaves_the_network_alone_and_has_a_gradient():
    network, (z, scores) = random_network(2, (6,)), skewed(50, 2)
    before = [weight.detach().clone() for weight in network.parameters()]
    layer = solve_last_layer(network, z, scores)
    for weight, kept in zip(network.parameters(), before, strict=True):
        assert torch.equal(weight, kept)
    # What a density along the flow needs: catches features that are taken without a graph.
    points = z[:3].clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(points)[:, 0].sum(), points)
    gap, axis = 1e-5, torch.tensor([1.0, 0.0], dtype=F64)
    numbers = (layer(z[:3] + gap * axis) - layer(z[:3] - gap * axis))[:, 0] / (2 * gap)
    torch.testing.assert_close(slope[:, 0], numbers.detach(), rtol=1e-6, atol=1e-6)
