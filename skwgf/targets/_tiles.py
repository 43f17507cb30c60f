"""How many rows of a matrix to hold at a time."""

from __future__ import annotations

import torch

# Entries of a few MB on the CPU; other devices want few, large calls.
_CPU_TILE, _OTHER_TILE = 2**20, 2**24
_LEAST_ROWS = 16


def tile_rows(width: int, device: torch.device) -> int:
    """Return the number of rows of a tile, for `width` entries a row."""
    entries = _CPU_TILE if device.type == "cpu" else _OTHER_TILE
    return max(_LEAST_ROWS, entries // width)
