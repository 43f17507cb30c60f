"""GWGSampler: every option finds the same skewed law, and does what its name says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skwgf import GWGSampler
from skwgf.flows.regularizers import DiagonalQuadratic, HuberCost, LpCost
from skwgf.targets import Gaussian, LogDensity

EULER_GAMMA, LOG_GAMMA_SD = 0.5772156649, math.pi / math.sqrt(6)


def cloud(n=150, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def log_gamma(scale=1.0):
    """Return the law of `scale` times logarithms of exponential variables, which are skewed."""
    return LogDensity(lambda x: (x / scale - (x / scale).exp()).sum(1), 2, batched=True)


def fitted(scale=1.0, **options):
    return GWGSampler(log_gamma(scale), random_state=0, **options).fit(scale * cloud())


def figures(sampler, scale=1.0):
    """Return mean, spread and skewness of each coordinate, the first two in units of the law."""
    standard = (sampler.particles_ / scale + EULER_GAMMA) / LOG_GAMMA_SD
    centred = standard - standard.mean(0)
    return standard.mean(0), standard.std(0), ((centred / standard.std(0)) ** 3).mean(0)


def assert_near(sampler, scale=1.0):
    """Compare with the law: 150 draws have errors .08, .08 and .3; affine fields .05, .81, -.2.

    The mean of both coordinates is taken, and two standard errors of it allowed.
    """
    mean, spread, skewness = figures(sampler, scale)
    assert abs(mean.mean()) < 0.12
    assert abs(spread.mean() - 1) < 0.12
    assert -1.7 < skewness.mean() < -0.65
    assert np.isfinite(sampler.history_["dissipation"]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"p": 1.5, "tol": 0.15},
        {"p": 3.0},
        {"p": 3.0, "coordinates": "raw"},
        {"coordinates": "raw"},
        {"regularizer": "quadratic"},
        {"regularizer": "huber"},
        {"regularizer": HuberCost(0.5, 0.3)},
        {"regularizer": DiagonalQuadratic(torch.tensor([1.0, 0.5]))},
        {"exponent_rule": "dissipation"},
        {"exponent_rule": "conjugate"},
        {"exponent_rule": "frozen"},
        {"exponent_rule": "conjugate", "coordinates": "raw", "exponent_rate": 5.0},
        {"activation": "silu"},
        {"hidden_layer_sizes": [16]},
        {"hidden_layer_sizes": (8, 8, 16)},
        {"n_restarts": 2, "n_particles": 75},
        {"held_out": 0.0},
        {"clip_quantile": 1.0},
        {"score_skip": True, "hidden_layer_sizes": None},
        {"step_size": 0.3},
        {"optimizer": "adam", "step_size": 0.05},
        {"optimizer": "rmsprop", "step_size": 0.05},
    ],
    ids=str,
)
def test_options_find_the_law(options):
    assert_near(fitted(**{"hidden_layer_sizes": (16,)} | options))


@pytest.mark.parametrize(
    "options",
    [
        {"parametrization": "direct"},
        {"parametrization": "direct", "p": 3.0},
        {"parametrization": "direct", "regularizer": "huber"},
        {"last_layer": "trained"},
        {"last_layer": "trained", "coordinates": "raw"},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_trained_last_layers_come_near(options):
    # Their noise leaves the spread within a sixth; catches a field that is stuck at zero (.82 and
    # a skewness of -.2) and one that follows the noise.
    mean, spread, skewness = figures(fitted(max_iter=150, **options))
    assert abs(mean.mean()) < 0.15
    assert abs(spread.mean() - 1) < 0.16
    assert skewness.mean() < -0.5


@pytest.mark.parametrize("step", [{"step_size": 0.03}, {"optimizer": "adam"}], ids=str)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_short_steps_are_not_taken_for_rest(step):
    # The energy falls by less than 15 per cent in ten steps of this size. Bug caught: a run that
    # calls itself converged at its 18th step, with a spread of .85.
    sampler = fitted(**step)
    if sampler.converged_:
        assert_near(sampler)


class TestQuadratic:
    @pytest.mark.parametrize("scale", [2.0**-6, 2.0**6])
    @pytest.mark.parametrize("coordinates", ["whitened", "raw"])
    def test_it_makes_units_play_no_role(self, scale, coordinates):
        # Weighed by the variances of the start, in the coordinates that g measures in. Bug caught:
        # those of the target's coordinates in whitened ones, where all are one: a flow that takes
        # steps of (1/64)^2 there does not move.
        one, other = (
            fitted(s, regularizer="quadratic", coordinates=coordinates, max_iter=80)
            for s in (1.0, scale)
        )
        assert_near(one)
        assert_near(other, scale)

    def test_raw_coordinates_of_different_scales(self):
        # Raw residuals of 1/64 and 64 alike are brought to order one by the weights. The flow
        # without them moves the first coordinate 4096 times slower than the second.
        scales = np.array([64.0, 1 / 64])
        units = torch.tensor(scales)
        target = LogDensity(lambda x: (x / units - (x / units).exp()).sum(1), 2, batched=True)
        sampler = GWGSampler(target, regularizer="quadratic", coordinates="raw", random_state=0)
        assert_near(sampler.fit(scales * cloud()), scales)


class TestExponent:
    @pytest.mark.parametrize("rule", ["dissipation", "conjugate", "frozen"])
    def test_it_moves_by_its_rule(self, rule):
        # Residuals below one in size, as near the end, raise p under "conjugate" and lower it under
        # "frozen"; the larger ones at the start lower it under "dissipation" first.
        sampler = fitted(exponent_rule=rule, exponent_range=(1.1, 6.0))
        exponents = sampler.history_["exponent"]
        assert sampler.exponent_ == exponents[-1]
        assert np.all((exponents >= 1.1) & (exponents <= 6))
        assert np.abs(np.diff(exponents)).max() > 1e-4
        if rule != "dissipation":
            assert (exponents[-1] < 2) == (rule == "frozen")

    def test_frozen_and_conjugate_part_by_the_same_amount(self):
        first = [
            fitted_once(exponent_rule=rule, exponent_range=(1.1, 6)).history_["exponent"][0] - 2
            for rule in ("conjugate", "frozen")
        ]
        assert first[0] == pytest.approx(-first[1], rel=1e-9)
        assert first[0] != 0

    def test_it_stays_within_its_range(self):
        # A rate that would throw it far out. Catches an exponent of one and less.
        for rule, end in (("frozen", 1.2), ("conjugate", 5.0)):
            sampler = fitted_once(exponent_rule=rule, exponent_rate=1e3, exponent_range=(1.2, 5.0))
            assert sampler.history_["exponent"][0] == end

    def test_it_starts_from_two_up(self):
        # Bug caught: the default that lets long residuals draw the exponent towards one.
        assert fitted_once(exponent_rule="frozen", exponent_rate=1e3).exponent_ == 2

    def test_range_is_checked(self):
        for bad in ((1.0, 3.0), (3.0, 2.0)):
            with pytest.raises(ValueError, match="exponent_range"):
                fitted(exponent_rule="frozen", exponent_range=bad)

    def test_without_a_rule_it_stays(self):
        sampler = fitted_once(p=3.0)
        assert np.all(sampler.history_["exponent"] == 3.0)
        assert sampler.exponent_ == 3.0
        assert fitted_once(regularizer=LpCost(2.5)).exponent_ == 2.5

    def test_other_costs_have_none(self):
        sampler = fitted_once(regularizer="huber")
        assert math.isnan(sampler.exponent_)
        assert "exponent" not in sampler.history_


def fitted_once(**options):
    """Return a sampler after a step."""
    with pytest.warns(ConvergenceWarning):
        return fitted(max_iter=1, tol=0.0, **options)


class TestFields:
    def test_networks_have_the_widths_asked_for(self):
        def widths(**options):
            network = fitted_once(**options).networks_[0]
            return [part.out_features for part in network.core if hasattr(part, "out_features")]

        assert widths() == [32, 30, 2]
        assert widths(hidden_layer_sizes=(5, 4)) == [5, 4, 2]
        assert widths(hidden_layer_sizes=()) == [2]
        assert widths(parametrization="direct") == [32, 32, 2]

    def test_dissipation_is_at_most_that_of_unclipped_residuals(self):
        # Shorter residuals, less of it. Catches a quantile that is taken from below.
        clipped, plain = (fitted_once(clip_quantile=q) for q in (0.5, 1.0))
        ratio = clipped.history_["dissipation"][0] / plain.history_["dissipation"][0]
        assert 0.1 < ratio < 0.95

    def test_an_affine_field_moves_only_the_first_two_moments(self):
        # The cloud stays an affine image of its start, so that a fit to it has no rest.
        start = cloud()
        with pytest.warns(ConvergenceWarning):
            sampler = GWGSampler(
                log_gamma(), hidden_layer_sizes=(), init=start, max_iter=5, random_state=0
            ).fit(start)
        design = np.c_[start, np.ones(len(start))]
        _, rest, _, _ = np.linalg.lstsq(design, sampler.particles_)
        # The longest hundredth of the residuals is cut.
        assert rest.max() < 0.01 * len(start)
        assert np.abs(sampler.particles_ - start).max() > 0.1

    def test_first_inner_steps_are_the_first(self):
        # With one optimiser step each, the hidden layers are as good as drawn; still a flow.
        sampler = fitted(first_inner_steps=1, inner_steps=1)
        mean, spread, _ = figures(sampler)
        assert abs(mean.mean()) < 0.15
        assert abs(spread.mean() - 1) < 0.2

    def test_score_skip_by_default_for_few_particles_only(self):
        # 15 particles in 20 dimensions: None is what True is, and not what False is.
        start, runs = cloud(15, 20), []
        target = LogDensity(lambda x: (x - x.exp()).sum(1), 20, batched=True)
        for skip in (None, True, False):
            with pytest.warns(ConvergenceWarning):
                sampler = GWGSampler(target, score_skip=skip, max_iter=3, random_state=0).fit(start)
            runs.append(sampler.history_["dissipation"])
        assert np.array_equal(runs[0], runs[1])
        assert not np.allclose(runs[0], runs[2], rtol=0.01)

    @pytest.mark.parametrize("n", [10, 12])
    def test_the_fewest_particles(self, n):
        # Catches a whitening or a held-out part that does not take so few.
        sampler = GWGSampler(Gaussian(), random_state=0).fit(2 * cloud(n))
        assert abs(sampler.particles_.var(0).mean() - 1) < 0.1
        with pytest.warns(ConvergenceWarning):
            many = GWGSampler(Gaussian(np.zeros(11)), max_iter=5, random_state=0).fit(cloud(n, 11))
        assert np.isfinite(many.particles_).all()
