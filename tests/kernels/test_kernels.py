"""Kernels against explicit sums over pairs, and the symmetries of the Stein field."""

from __future__ import annotations

import math

import pytest
import torch
from scenarios import normal, rotation
from sklearn.base import clone

from skwgf.kernels import (
    Gaussian,
    InverseMultiquadric,
    Laplace,
    Linear,
    Matern,
    Preconditioned,
    Scaled,
    Sum,
    _tiles,
)

MATRIX = ((2.0, 0.5, 0.0), (0.5, 1.0, 0.2), (0.0, 0.2, 0.5))
CENTRE = (4.0, 5.0, 6.0)

RULES = ("scale", "median")
RADIAL = [
    Gaussian(bandwidth=1.3),
    InverseMultiquadric(bandwidth=1.3),
    InverseMultiquadric(bandwidth=0.7, exponent=-0.3),
    Laplace(bandwidth=1.1),
    Matern(bandwidth=1.2, nu=1.5),
    Matern(bandwidth=1.2, nu=2.5),
]
LIGHT_TAILED = [kernel for kernel in RADIAL if not isinstance(kernel, InverseMultiquadric)]
KERNELS = [
    *RADIAL,
    Linear(offset=0.7),
    Gaussian(bandwidth=0.8) + Linear(),
    2.5 * Matern(bandwidth=1.0, nu=2.5),
    Preconditioned(Gaussian(bandwidth=1.4) + Linear(), MATRIX, CENTRE),
]
SMOOTH = [kernel for kernel in KERNELS if kernel.has_discrepancy]


def cloud(n=25, d=3, seed=0):
    """Return points away from the origin, and scores that belong to no density."""
    return 2 * normal(n, d, seed) + 5, normal(n, d, seed + 100)


def formula(kernel, x, y):
    """Return k(x, y) of points in the last dimension, from its definition."""
    r = ((x - y) ** 2).sum(-1).sqrt()
    match kernel:
        case Gaussian():
            return torch.exp(-(((x - y) / kernel.bandwidth) ** 2).sum(-1) / 2)
        case InverseMultiquadric():
            return (1 + (((x - y) / kernel.bandwidth) ** 2).sum(-1)) ** kernel.exponent
        case Laplace():
            return torch.exp(-r / kernel.bandwidth)
        case Matern(nu=1.5):
            z = math.sqrt(3) * r / kernel.bandwidth
            return (1 + z) * torch.exp(-z)
        case Matern():
            z = math.sqrt(5) * r / kernel.bandwidth
            return (1 + z + z**2 / 3) * torch.exp(-z)
        case Linear():
            return kernel.offset + (x * y).sum(-1)
        case Sum():
            return formula(kernel.left, x, y) + formula(kernel.right, x, y)
        case Scaled():
            return kernel.factor * formula(kernel.kernel, x, y)
        case Preconditioned():
            centre = x.new_tensor(CENTRE)
            inverse = torch.linalg.inv(torch.linalg.cholesky(x.new_tensor(MATRIX)))
            return formula(kernel.kernel, (x - centre) @ inverse.T, (y - centre) @ inverse.T)


def metric(kernel, x):
    """Return the matrix that the kernel is multiplied with: the identity but for one."""
    if isinstance(kernel, Preconditioned):
        return x.new_tensor(MATRIX)
    return torch.eye(x.shape[1], dtype=x.dtype)


def explicit(kernel, x, y):
    """Return for each pair k, its gradients by x and y, and the trace of A times the mixed one."""
    d = x.shape[1]
    one = x[:, None].expand(-1, len(y), -1).clone().requires_grad_()
    other = y.expand(len(x), -1, -1).clone().requires_grad_()
    value = formula(kernel, one, other)
    by_x, by_y = torch.autograd.grad(value.sum(), (one, other), create_graph=True)
    mixed = torch.stack(
        [
            torch.autograd.grad(by_y[..., k].sum(), one, retain_graph=True, allow_unused=True)[0]
            for k in range(d)
        ],
        -1,
    )
    trace = (mixed @ metric(kernel, x)).diagonal(dim1=-2, dim2=-1).sum(-1)
    return value.detach(), by_x.detach(), by_y.detach(), trace.detach()


def off_diagonal(matrix):
    """Return a matrix (or the pairs' vectors) with zeros for the pairs of a point with itself."""
    mask = ~torch.eye(len(matrix), dtype=torch.bool)
    return torch.where(mask.reshape(mask.shape + (1,) * (matrix.ndim - 2)), matrix, 0.0)


def label(kernel):
    return repr(kernel).replace("\n", " ")


@pytest.mark.parametrize("kernel", KERNELS, ids=label)
def test_velocity_is_the_explicit_sum(kernel):
    # Catches the sign and the factor of the repulsion, and K X taken for x K 1.
    x, scores = cloud()
    a = metric(kernel, x)
    value, _, by_y, _ = explicit(kernel, x, x)
    rough = isinstance(kernel, Laplace | Matern | Scaled)
    # Autograd has no derivative of r at 0; by symmetry it vanishes there for these.
    force = off_diagonal(by_y) if rough else by_y
    expected = (value @ (scores @ a) + force.sum(1) @ a) / len(x)
    torch.testing.assert_close(kernel.stein(x, scores).velocity, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(kernel.gram(x, x), value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kernel", SMOOTH, ids=label)
def test_stein_kernel_is_the_explicit_one(kernel):
    # Catches a cross term left out, which velocities do not see.
    (x, scores_x), (y, scores_y) = cloud(), cloud(18, seed=3)
    value, by_x, by_y, trace = explicit(kernel, x, y)
    a = metric(kernel, x)
    expected = (
        (scores_x @ a @ scores_y.T) * value
        + ((scores_x @ a)[:, None] * by_y).sum(-1)
        + ((scores_y @ a) * by_x).sum(-1)
        + trace
    )
    found = kernel.stein_gram(x, scores_x, y, scores_y)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kernel", SMOOTH, ids=label)
def test_discrepancy_is_the_mean_of_the_stein_kernel(kernel):
    x, scores = cloud()
    gram = kernel.stein_gram(x, scores, x, scores)
    found = kernel.stein(x, scores).discrepancy
    torch.testing.assert_close(found, gram.mean(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        kernel.stein_diagonal(x, scores), gram.diagonal(), rtol=1e-10, atol=1e-10
    )
    # A positive semi-definite kernel: catches a wrong diagonal.
    assert torch.linalg.eigvalsh(gram)[0] > -1e-10 * gram.diagonal().max()


@pytest.mark.parametrize("kernel", SMOOTH, ids=label)
def test_diagonal_is_the_limit_of_near_pairs(kernel):
    # The trace at r = 0, where autograd of the Matérn kernels fails.
    x, scores = cloud()
    near = x + 1e-7 * normal(len(x), 3, 9)
    found = kernel.stein_gram(x, scores, near, scores).diagonal()
    torch.testing.assert_close(kernel.stein_diagonal(x, scores), found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 25])
@pytest.mark.parametrize("kernel", KERNELS, ids=label)
def test_blocks_do_not_show(kernel, rows, monkeypatch):
    # Catches a transpose that is added twice on the diagonal, and a block cut short at the end.
    x, scores = cloud()
    whole, product = kernel.stein(x, scores), kernel.product(x, scores)
    monkeypatch.setattr(_tiles, "_BLOCK_ROWS", rows)
    blocks = kernel.stein(x, scores)
    torch.testing.assert_close(blocks.velocity, whole.velocity, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        blocks.discrepancy, whole.discrepancy, rtol=1e-12, atol=1e-12, equal_nan=True
    )
    torch.testing.assert_close(kernel.product(x, scores), product, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS, ids=label)
def test_product_is_that_of_the_gram_matrix(kernel):
    x, _ = cloud()
    v = normal(25, 2, 7)
    expected = kernel.gram(x, x) @ v
    torch.testing.assert_close(kernel.product(x, v), expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS, ids=label)
def test_single_precision(kernel):
    x, scores = cloud(300, 3)
    exact = kernel.stein(x, scores)
    found = kernel.stein(x.float(), scores.float())
    assert found.velocity.dtype == torch.float32
    # Unit directions between near points are what rounding of squared distances costs most.
    tol = 1e-3 if isinstance(kernel, Laplace) else 2e-5
    gap = (found.velocity - exact.velocity).norm() / exact.velocity.norm()
    assert gap < tol


@pytest.mark.parametrize("kernel", RADIAL, ids=label)
def test_moved_and_turned_clouds(kernel):
    # v(Q x + b) = Q v(x): catches what is not centred, or centred on one side only.
    x, scores = cloud()
    turn = rotation(3, 5)
    one, other = kernel.stein(x, scores), kernel.stein(x @ turn.T + 1e3, scores @ turn.T)
    torch.testing.assert_close(other.velocity, one.velocity @ turn.T, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        other.discrepancy, one.discrepancy, rtol=0, atol=1e-8, equal_nan=True
    )


@pytest.mark.parametrize("kernel", KERNELS, ids=label)
def test_order_does_not_matter(kernel):
    x, scores = cloud()
    order = torch.arange(25).flip(0)
    one, other = kernel.stein(x, scores), kernel.stein(x[order], scores[order])
    torch.testing.assert_close(other.velocity, one.velocity[order])
    torch.testing.assert_close(other.discrepancy, one.discrepancy[order], equal_nan=True)


@pytest.mark.parametrize("kernel", RADIAL, ids=label)
def test_one_particle_climbs_the_gradient(kernel):
    x, scores = cloud(1)
    torch.testing.assert_close(kernel.stein(x, scores).velocity, scores)


@pytest.mark.parametrize("kernel", RADIAL, ids=label)
def test_points_that_coincide(kernel):
    # Two particles at one place do not push each other, and nothing is infinite.
    x, scores = cloud(4)
    x[1] = x[0]
    velocity = kernel.stein(x, scores).velocity
    assert velocity.isfinite().all()
    gap = velocity[1] - velocity[0]
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", LIGHT_TAILED, ids=label)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_clouds_far_apart_do_not_see_each_other(kernel, dtype):
    # Kernels that underflow: each half moves as it would alone.
    x, scores = (part.to(dtype) for part in cloud(10))
    # Squares lose digits with the distance, which single precision has fewer of.
    far = torch.cat([x, x + (60.0 if dtype == torch.float32 else 3e4)])
    velocity = kernel.stein(far, scores.repeat(2, 1)).velocity
    alone = kernel.stein(x, scores).velocity / 2
    tol = 1e-2 if dtype == torch.float32 else 1e-6
    torch.testing.assert_close(velocity, alone.repeat(2, 1), rtol=0, atol=tol)


def test_the_linear_flow_dissipates_at_its_discrepancy():
    # The linear kernel moves mean and covariance by an affine field v(x) = A x + b. Towards
    # N(0, I), KL of the moments is (tr C + |m|^2 - log det C - d)/2 and falls by
    # E x.v - tr A: exactly KSD^2.
    x, _ = cloud(40)
    field = Linear(offset=0.7).stein(x, -x)
    design = torch.cat([x, torch.ones(40, 1, dtype=x.dtype)], 1)
    affine = torch.linalg.lstsq(design, field.velocity).solution
    torch.testing.assert_close(design @ affine, field.velocity)
    fall = (x * field.velocity).sum(1).mean() - affine[:3].trace()
    assert float(-fall) == pytest.approx(float(field.discrepancy.mean()), rel=1e-9)


class TestPreconditioned:
    def test_it_does_not_depend_on_the_units(self):
        # v(A x + b) = A v(x) when scores follow: affine equivariance.
        x, scores = cloud(40)
        kernel = Preconditioned(Gaussian("median") + Linear())
        warp, shift = normal(3, 3, 1), normal(1, 3, 2)
        moved, pulled = x @ warp.T + shift, scores @ torch.linalg.inv(warp)
        one = kernel.resolve(x).stein(x, scores)
        other = kernel.resolve(moved).stein(moved, pulled)
        torch.testing.assert_close(other.velocity, one.velocity @ warp.T, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(other.discrepancy, one.discrepancy, rtol=1e-9, atol=1e-9)

    def test_it_resolves_to_the_covariance(self):
        x, _ = cloud(40)
        kernel = Preconditioned(Gaussian()).resolve(x)
        torch.testing.assert_close(kernel.matrix, x.T.cov(correction=0))
        torch.testing.assert_close(kernel.centre, x.mean(0))

    def test_with_the_identity_it_is_the_inner_kernel(self):
        x, scores = cloud()
        inner = Gaussian(bandwidth=1.3)
        found = Preconditioned(inner, torch.eye(3)).resolve(x).stein(x, scores)
        torch.testing.assert_close(found.velocity, inner.stein(x, scores).velocity)

    @pytest.mark.parametrize(
        ("kernel", "points", "message"),
        [
            (Preconditioned(Linear()), normal(3, 3, 0), "more particles than dimensions"),
            (Preconditioned(Linear()), torch.ones(9, 3), "constant"),
            (Preconditioned(Linear(), -torch.eye(3)), normal(9, 3, 0), "positive definite"),
            (Preconditioned(Linear(), torch.eye(2)), normal(9, 3, 0), r"shape \(3, 3\)"),
        ],
    )
    def test_bad_matrices(self, kernel, points, message):
        with pytest.raises(ValueError, match=message):
            kernel.resolve(points)

    def test_it_has_to_be_resolved(self):
        with pytest.raises(ValueError, match="resolve"):
            Preconditioned(Linear()).product(*cloud())


class TestBandwidth:
    def squares(self, x):
        return torch.pdist(x).median() ** 2

    @pytest.mark.parametrize("kind", [Gaussian, InverseMultiquadric, Laplace, Matern])
    def test_rules(self, kind):
        x, _ = cloud(50)
        share = 0.5 if kind is Gaussian else 1.0
        scale, median = (kind(rule).resolve(x).bandwidth ** 2 / share for rule in RULES)
        assert scale == pytest.approx(float(self.squares(x)), rel=1e-12)
        assert median == pytest.approx(scale / math.log(51), rel=1e-12)

    def test_large_clouds_use_a_fixed_subset(self):
        # The median of a subset of the pairs, but the logarithm of the whole count.
        x, _ = cloud(4000)
        first, again = (Gaussian("median").resolve(x).bandwidth for _ in range(2))
        assert first == again
        expected = math.sqrt(float(self.squares(x[::2])) / math.log(4001) / 2)
        assert first == pytest.approx(expected, rel=0.05)

    def test_points_that_coincide(self):
        x, scores = torch.ones(6, 2), normal(6, 2, 0).float()
        kernel = InverseMultiquadric("scale").resolve(x)
        assert kernel.bandwidth == 1.0
        torch.testing.assert_close(
            kernel.stein(x, scores).velocity, scores.mean(0).expand(6, 2), rtol=1e-5, atol=1e-6
        )
        # With a majority in one place the median is over the other pairs.
        x[:2] += 3.0
        assert Laplace("scale").resolve(x).bandwidth == pytest.approx(3 * math.sqrt(2), rel=1e-6)

    def test_other_parameters_are_kept(self):
        x, _ = cloud()
        assert Matern("scale", nu=2.5).resolve(x).nu == 2.5
        assert Matern(bandwidth=2.0).resolve(x).bandwidth == 2.0

    def test_a_rule_has_to_be_resolved(self):
        x, scores = cloud()
        for call in (
            lambda kernel: kernel.stein(x, scores),
            lambda kernel: kernel.gram(x, x),
            lambda kernel: kernel.product(x, scores),
        ):
            with pytest.raises(ValueError, match="resolve"):
                call(Gaussian("median"))


class TestScaled:
    def test_by_default_the_mean_of_the_gram_matrix_is_one(self):
        x, _ = cloud()
        kernel = Scaled(Gaussian("scale")).resolve(x)
        assert float(kernel.gram(x, x).mean()) == pytest.approx(1.0, rel=1e-12)

    def test_it_has_to_be_resolved(self):
        x, _ = cloud()
        with pytest.raises(ValueError, match="resolve"):
            Scaled(Gaussian(bandwidth=1.0)).gram(x, x)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (Gaussian(bandwidth=-1.0), "bandwidth must be a positive"),
        (Gaussian(bandwidth="mean"), "bandwidth must be a positive"),
        (Laplace(bandwidth=math.nan), "bandwidth must be a positive"),
        (InverseMultiquadric(bandwidth=1.0, exponent=0.5), "exponent must be a negative"),
        (Matern(bandwidth=1.0, nu=2.0), "nu must be 1.5 or 2.5"),
        (Linear(offset=-1.0), "offset must be"),
        (0.0 * Linear(), "factor must be"),
    ],
    ids=label,
)
def test_bad_parameters(kernel, message):
    with pytest.raises(ValueError, match=message):
        kernel.gram(*cloud())


def test_the_laplace_kernel_has_no_discrepancy():
    x, scores = cloud()
    kernel = Linear() + Laplace(bandwidth=1.0)
    assert not kernel.has_discrepancy
    assert kernel.stein(x, scores).discrepancy.isnan().all()
    with pytest.raises(ValueError, match="Use InverseMultiquadric"):
        kernel.stein_gram(x, scores, x, scores)
    with pytest.raises(ValueError, match="Use InverseMultiquadric"):
        kernel.stein_diagonal(x, scores)


def test_kernels_are_estimators():
    kernel = Gaussian("scale") + 2 * Linear()
    copy = clone(kernel).set_params(left__bandwidth=3.0, right__kernel__offset=0.5)
    assert copy.left.bandwidth == 3.0
    assert copy.right.kernel.offset == 0.5
    assert kernel.left.bandwidth == "scale"
    with pytest.raises(TypeError):
        kernel + 1.0
