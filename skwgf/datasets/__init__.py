"""Toy measures with exact and low-variance samplers, and real digits from several domains."""

from skwgf.datasets.curves import make_circle, make_oval, make_swiss_roll_2d, make_two_moons
from skwgf.datasets.digits import load_digit_domains
from skwgf.datasets.mixtures import GaussianMixtureSpec
from skwgf.datasets.modes import (
    make_ring,
    make_six_plus_two,
    random_gaussian_mixture,
    ring_of_gaussians,
    six_plus_two,
)

__all__ = [
    "GaussianMixtureSpec",
    "load_digit_domains",
    "make_circle",
    "make_oval",
    "make_ring",
    "make_six_plus_two",
    "make_swiss_roll_2d",
    "make_two_moons",
    "random_gaussian_mixture",
    "ring_of_gaussians",
    "six_plus_two",
]
