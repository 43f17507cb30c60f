"""Where a minimisation starts that has rows to start from."""

from __future__ import annotations

import torch
from torch import Tensor

_JITTER = 0.1  # of the spread of the rows


def draw_normal(n: int, d: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw an (n, d) tensor of N(0, 1), with the device and the precision of `like`."""
    draws = torch.randn(n, d, generator=generator, device=generator.device, dtype=torch.float64)
    return draws.to(like)


def jitter_rows(rows: Tensor, n: int, spread: float, generator: torch.Generator) -> Tensor:
    """Draw n of the rows with replacement and part them; a single row gives N(0, I)."""
    noise = draw_normal(n, rows.shape[1], generator, rows)
    if len(rows) == 1:
        return noise
    chosen = torch.randint(len(rows), (n,), generator=generator, device=generator.device)
    return rows[chosen.to(rows.device)] + _JITTER * spread * noise
