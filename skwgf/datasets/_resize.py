"""Grey images on a common grid: exact area averages, of the whole frame or of the ink's square."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches

INK_THRESHOLD = 0.2

_BATCH = 4096


def area_weights(
    n_in: int, n_out: int, start: NDArray[np.float64], length: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the linear maps that average a row of pixels over equal cells of windows of it.

    The pixel j covers [j, j + 1). The window k starts at `start[k]`, has the length `length[k]`
    and is cut into `n_out` equal cells; the weight of a pixel in a cell is the share of the cell
    that it covers. What lies outside the row counts as 0. Shape (n_windows, n_out, n_in).
    """
    edges = start[:, None] + length[:, None] * np.arange(n_out + 1) / n_out
    pixels = np.arange(n_in)
    left = np.maximum(edges[:, :-1, None], pixels)
    right = np.minimum(edges[:, 1:, None], pixels + 1)
    weights: NDArray[np.float64] = np.maximum(right - left, 0.0)
    return weights * (n_out / length)[:, None, None]


def area_resize(images: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Average images (n, h, w) over a grid of size x size equal cells; keeps the mean intensity."""
    _, height, width = images.shape
    rows = area_weights(height, size, np.zeros(1), np.full(1, float(height)))[0]
    columns = area_weights(width, size, np.zeros(1), np.full(1, float(width)))[0]
    resized: NDArray[np.float64] = rows @ images @ columns.T
    return resized


def crop_resize(images: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Average the square around the ink of each image (n, h, w) over size x size equal cells.

    The square is centred on the bounding box of the pixels above INK_THRESHOLD and as wide as its
    longer side, so that the digit keeps its aspect; outside the frame is no ink. An image without
    ink keeps its frame.
    """
    parts = [
        _crop_resize_batch(images[rows], size)
        for rows in gen_batches(len(images), _BATCH)  # bounds the memory of the weights
    ]
    return np.concatenate(parts)


def _crop_resize_batch(images: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Do the work of crop_resize on rows that fit in memory together with their weights."""
    _, height, width = images.shape
    ink = images > INK_THRESHOLD
    top, tall = _extent(np.any(ink, axis=2))
    left, wide = _extent(np.any(ink, axis=1))
    side = np.maximum(tall, wide)
    rows = area_weights(height, size, top - (side - tall) / 2, side)
    columns = area_weights(width, size, left - (side - wide) / 2, side)
    resized: NDArray[np.float64] = rows @ images @ columns.transpose(0, 2, 1)
    return resized


def _extent(marked: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the start and the length of the marked stretch of each row; all of an unmarked row."""
    start = marked.argmax(axis=1)
    stop = marked.shape[1] - marked[:, ::-1].argmax(axis=1)
    return start.astype(np.float64), (stop - start).astype(np.float64)
