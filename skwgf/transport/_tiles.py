"""Row tiles of the matrix 2^(potential - cost), the matter of all entropic problems.

Clouds come scaled so that one unit of the cost is one bit of the regularisation: a kernel is then
a power of two, for the cost |x - y|^2/2 of one matrix product, and potentials are in bits. All
tensors have a leading dimension of groups, independent problems that share the calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from skwgf._tensor import best_float

# Exponents are cut here: the powers below are negligible, and ten times slower to compute.
FLOOR = {torch.float32: -120.0, torch.float64: -1000.0}
_TILE_ENTRIES = 2**18  # entries of a row tile that stays in the cache of a processor core
_DIRECT = 16  # largest dimension in which distances are summed over the coordinates

# Writes potential minus cost for some points x into a tile; for p = 2 without the norm of x.
Writer = Callable[[Tensor, Tensor], None]


class Workspace:
    """Memory for one kernel, lent to one problem after the other."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None

    def take(self, entries: int, like: Tensor) -> Tensor:
        """Return uninitialised memory for `entries` numbers of the type of `like`."""
        memory = self._memory
        if (
            memory is None
            or len(memory) < entries
            or (memory.dtype, memory.device) != (like.dtype, like.device)
        ):
            self._memory = memory = None  # release the old memory before the new is taken
            self._memory = memory = like.new_empty(entries)
        return memory[:entries]


def soft_rows(
    x: Tensor, y: Tensor, potential: Tensor, power: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the kernel 2^(potential - cost) in row tiles, each row divided by its largest entry.

    With each tile comes the logarithm divided out. All tiles share their memory: use one before
    asking for the next.
    """
    write = writer(y, potential, power)
    points = torch.split(with_ones(x, power), tile_rows(y), dim=1)
    norms = torch.split(half_norms(x, potential.dtype, power), tile_rows(y), dim=1)
    widths = [y.shape[1]] * len(points)
    tiles = lay_out(points, widths, Workspace(), tiled=True)
    for tile, part, norm in zip(tiles, points, norms, strict=True):
        write(part, tile)
        largest = tile.amax(dim=2)
        exponentiate(tile, largest)
        yield tile, largest.to(norm.dtype) - norm


def soft_minimum(x: Tensor, y: Tensor, potential: Tensor, power: int) -> Tensor:
    """Return the soft minimum over j of cost minus `potential`, at each x, in bits."""
    parts = [
        -torch.log2(tile.sum(dim=2).to(shift.dtype)) - shift
        for tile, shift in soft_rows(x, y, potential, power)
    ]
    return torch.cat(parts, dim=1)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distances of two clouds, to the precision of near points.

    In high dimension expanded squares are faster. In float64 they are right to 1e-8 of the size
    of the clouds; what is not above their rounding is zero.
    """
    if x.shape[-1] <= _DIRECT:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    wide_x, wide_y = (cloud.to(best_float(cloud.device)) for cloud in (x, y))
    wide = torch.cdist(wide_x, wide_y, compute_mode="use_mm_for_euclid_dist")
    size = torch.maximum(wide_x.abs().amax(), wide_y.abs().amax()) * x.shape[-1] ** 0.5
    rounding = 4 * torch.finfo(wide.dtype).eps ** 0.5 * size
    return wide.masked_fill_(wide < rounding, 0.0).to(x.dtype)


def tile_rows(y: Tensor) -> int:
    """Return the rows of a tile: cache-sized on the CPU, many more where a launch costs more."""
    entries = _TILE_ENTRIES if y.device.type == "cpu" else 256 * _TILE_ENTRIES
    return max(1, entries // (y.shape[0] * y.shape[1]))


def writer(y: Tensor, potential: Tensor, power: int) -> Writer:
    """Return the function that writes potential minus cost into a tile, for the last points of y.

    The tile says how many of them. For p = 2 the norm of x is left out.
    """
    if power == 1:

        def write(points: Tensor, tile: Tensor) -> None:
            first = y.shape[1] - tile.shape[2]
            torch.sub(row[..., first:], distances(points, y[:, first:]), out=tile)

        row = potential.to(y.dtype)[:, None]
        return write

    def write_product(points: Tensor, tile: Tensor) -> None:
        torch.bmm(points, columns[..., y.shape[1] - tile.shape[2] :], out=tile)

    last = (potential - half_norms(y, potential.dtype, power)).to(y.dtype)
    columns = torch.cat([y.mT, last[:, None]], dim=1)
    return write_product


def exponentiate(tile: Tensor, shift: Tensor) -> None:
    """Replace the exponents in `tile` by powers of two, each row divided by 2^shift."""
    tile.sub_(shift[..., None]).clamp_(min=FLOOR[tile.dtype]).exp2_()


def lay_out(
    points: tuple[Tensor, ...], widths: list[int], workspace: Workspace, tiled: bool
) -> list[Tensor]:
    """Return memory for the tiles: one after the other, or with `tiled` all in the same place."""
    shapes = [(*part.shape[:2], width) for part, width in zip(points, widths, strict=True)]
    sizes = [math.prod(shape) for shape in shapes]
    memory = workspace.take(max(sizes) if tiled else sum(sizes), points[0])
    tiles, first = [], 0
    for shape, size in zip(shapes, sizes, strict=True):
        tiles.append(memory[first : first + size].view(shape))
        first += 0 if tiled else size
    return tiles


def half_norms(x: Tensor, dtype: torch.dtype, power: int) -> Tensor:
    """Return what the exponents leave out for each point, in `dtype`: |x|^2/2 for p = 2."""
    if power == 1:
        return torch.zeros(x.shape[:2], dtype=dtype, device=x.device)
    x = x.to(dtype)
    return (x * x).sum(dim=2) / 2


def with_ones(x: Tensor, power: int) -> Tensor:
    """Append the coordinate that is one, which the product of p = 2 needs."""
    return torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2) if power == 2 else x
