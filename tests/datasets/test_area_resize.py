"""Area averages against block means, and crops against shifts and magnifications of the digit."""

from __future__ import annotations

import numpy as np
import pytest

from skwgf.datasets import _resize
from skwgf.datasets._resize import area_resize, area_weights, crop_resize


def random_images(n, side, seed=0):
    return np.random.default_rng(seed).random((n, side, side))


def blocks(images, size):
    """Area averages the long way: magnify to the least common multiple, then block means."""
    n, side, _ = images.shape
    fine = np.lcm(side, size)
    magnified = np.kron(images, np.ones((1, fine // side, fine // side)))
    return magnified.reshape(n, size, fine // size, size, fine // size).mean(axis=(2, 4))


@pytest.mark.parametrize(
    ("side", "size"), [(28, 8), (28, 16), (16, 8), (8, 16), (16, 16), (28, 7), (5, 3), (7, 1)]
)
def test_area_resize_is_the_block_mean_of_the_magnified_image(side, size):
    # catches point sampling, wrong cell edges, rows and columns exchanged
    images = random_images(3, side)
    np.testing.assert_allclose(area_resize(images, size), blocks(images, size), rtol=1e-12)


@pytest.mark.parametrize(("side", "size"), [(28, 8), (28, 16), (16, 8), (8, 16), (9, 4)])
def test_area_resize_keeps_the_mean_of_every_image(side, size):
    images = random_images(5, side)
    resized = area_resize(images, size)
    np.testing.assert_allclose(resized.mean(axis=(1, 2)), images.mean(axis=(1, 2)), rtol=1e-14)


def test_area_resize_to_the_same_size_is_the_identity():
    images = random_images(4, 16)
    np.testing.assert_array_equal(area_resize(images, 16), images)


def test_area_resize_by_an_integer_factor_is_the_block_mean():
    images = random_images(4, 16)
    means = images.reshape(4, 8, 2, 8, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(area_resize(images, 8), means, rtol=1e-14)


def test_area_resize_commutes_with_the_symmetries_of_the_square():
    # catches an offset of the grid by part of a pixel
    images = random_images(4, 28)
    resized = area_resize(images, 8)
    np.testing.assert_allclose(area_resize(images[:, ::-1], 8), resized[:, ::-1], rtol=1e-12)
    np.testing.assert_allclose(area_resize(images[:, :, ::-1], 8), resized[:, :, ::-1], rtol=1e-12)
    np.testing.assert_allclose(
        area_resize(images.transpose(0, 2, 1), 8), resized.transpose(0, 2, 1), rtol=1e-12
    )


@pytest.mark.parametrize(("start", "length"), [(0.0, 10.0), (2.5, 4.0), (3.0, 1.0)])
def test_weights_of_a_window_inside_are_averages_with_equal_use_of_its_pixels(start, length):
    weights = area_weights(10, 4, np.array([start]), np.array([length]))[0]
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-14)
    covered = np.clip(
        np.minimum(np.arange(10) + 1, start + length) - np.maximum(np.arange(10), start), 0, 1
    )
    np.testing.assert_allclose(weights.sum(axis=0), 4 / length * covered, atol=1e-14)


def test_weights_outside_the_row_are_zero():
    # a window that hangs over by half sees half of its ink
    weights = area_weights(4, 2, np.array([-2.0]), np.array([4.0]))[0]
    np.testing.assert_allclose(weights @ np.ones(4), [0.0, 1.0])


def digit(side=28, top=5, left=9):
    """A blot of ink, 11 tall and 6 wide, in an empty frame."""
    image = np.zeros((1, side, side))
    image[0, top : top + 11, left : left + 6] = 0.3 + 0.7 * random_images(1, 11)[0][:, :6]
    return image


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (17, 22), (3, 8), (8, 3), (0, 22)])
def test_crop_does_not_see_where_the_digit_is(size, top, left):
    # also at the border, where the square hangs over the frame
    np.testing.assert_allclose(
        crop_resize(digit(top=top, left=left), size), crop_resize(digit(), size), atol=1e-13
    )


def test_crop_does_not_see_how_large_the_digit_is():
    magnified = np.kron(digit(), np.ones((1, 3, 3)))
    np.testing.assert_allclose(crop_resize(magnified, 8), crop_resize(digit(), 8), atol=1e-13)


def test_crop_keeps_the_aspect():
    # a bar of 12 x 3 fills the rows and the middle quarter of the columns
    image = np.zeros((1, 28, 28))
    image[0, 10:22, 4:7] = 1.0
    expected = np.zeros((8, 8))
    expected[:, 3:5] = 1.0
    np.testing.assert_allclose(crop_resize(image, 8)[0], expected, atol=1e-14)


def test_crop_commutes_with_transposition():
    # a wide digit is treated as a tall one: catches a square centred along one axis only
    image = digit()
    np.testing.assert_allclose(
        crop_resize(image.transpose(0, 2, 1), 8),
        crop_resize(image, 8).transpose(0, 2, 1),
        atol=1e-13,
    )


def test_crop_keeps_the_ink():
    # all ink lies inside the square: cells times their area sum to the ink of the image
    image = digit()
    side = 11.0
    assert crop_resize(image, 8).mean() * side**2 == pytest.approx(image.sum(), rel=1e-13)


def test_crop_of_a_digit_that_fills_the_frame_is_the_plain_resize():
    images = 0.5 + 0.5 * random_images(3, 16)
    np.testing.assert_allclose(crop_resize(images, 8), area_resize(images, 8), rtol=1e-13)


def test_crop_ignores_faint_smudges_outside_the_digit():
    image = digit()
    smudged = image.copy()
    smudged[0, 26, 1] = 0.2
    np.testing.assert_allclose(crop_resize(smudged, 8), crop_resize(image, 8), atol=1e-13)
    smudged[0, 26, 1] = 0.21  # ink: the square grows
    assert crop_resize(smudged, 8).sum() < 0.5 * crop_resize(image, 8).sum()


def test_crop_of_an_image_without_ink_keeps_the_frame():
    faint = np.full((1, 28, 28), 0.1)
    np.testing.assert_allclose(crop_resize(faint, 8), 0.1, rtol=1e-13)
    assert not crop_resize(np.zeros((1, 28, 28)), 8).any()


def test_crop_treats_every_image_by_itself(monkeypatch):
    # catches windows shared among images and rows lost between batches
    images = np.concatenate([digit(top=k, left=2 * k) for k in range(8)])
    images *= np.linspace(0.7, 1.0, 8)[:, None, None]
    monkeypatch.setattr(_resize, "_BATCH", 3)
    together = crop_resize(images, 8)
    for image, cropped in zip(images, together, strict=True):
        np.testing.assert_allclose(crop_resize(image[None], 8)[0], cropped, atol=1e-14)
