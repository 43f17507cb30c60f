"""The frozen one-pass map from a reference law to a data law, in the units of the data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PushForward", "evaluate"]

# Rows in one pass. On a CPU the activations of a block should stay in the cache (two to three
# times faster for narrow networks); an accelerator wants few large passes.
_CPU_ROWS = 2048
_ACCELERATOR_ROWS = 65536


class PushForward(nn.Module):
    r"""One-pass map `G` that carries a reference law to a law of data, in data units.

    With `core` a network between standardised coordinates,

    .. math::
        G(z) = b_{out} + s_{out} \odot \mathrm{core}\big((z - b_{in}) / s_{in}\big),

    or, with `residual`, :math:`G(z) = z' + s_{out} \odot \mathrm{core}((z - b_{in}) / s_{in})`
    with `z'` the first `d` columns of `z` (all of them unless labels or other inputs of the
    network follow). The module holds all it needs: calling it on reference rows is the whole
    generator.

    Parameters
    ----------
    core : torch.nn.Module
        Network from (n, d_in) to (n, d). It is trained in the scaled coordinates, where inputs and
        outputs are of order one, and may have a lower precision than the shifts and scales.
    in_shift : Tensor of shape (d_in,)
        Subtracted from the input.
    in_scale : Tensor of shape (d_in,)
        Divides the input; positive.
    out_shift : Tensor of shape (d,)
        Added to the output; not used with `residual`.
    out_scale : Tensor of shape (d,)
        Multiplies the output of the core; non-negative. Where it is 0 the column of `G(z)` equals
        `out_shift` exactly, or the column of `z` with `residual`.
    residual : bool, default=False
        Whether the network is added to its input. With a core that starts at zero the map then
        starts at the identity.
    low, high : Tensor of shape (d,), default=None
        Limits of the columns, which images beyond them are moved to; infinite where there is none,
        which None stands for everywhere. The gradient passes as if they were not there, so that a
        network is not stuck beyond them.

    Attributes
    ----------
    core : torch.nn.Module
        The network.
    in_shift, in_scale, out_shift, out_scale, low, high : Tensor
        Buffers, copies of the arguments. They follow ``.double()`` and ``.to(device)``.
    residual : bool
        As given.

    Raises
    ------
    ValueError
        If shapes disagree, an input scale is not positive, an output scale is negative, or a
        residual map has more outputs than inputs.

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn import PushForward
    >>> core = torch.nn.Identity()
    >>> zero, one = torch.zeros(2), torch.ones(2)
    >>> push_forward = PushForward(
    ...     core, in_shift=zero, in_scale=one, out_shift=one, out_scale=torch.tensor([2.0, 0.0])
    ... )
    >>> push_forward(torch.tensor([[1.0, 5.0]]))
    tensor([[3., 1.]])
    """

    in_shift: Tensor
    in_scale: Tensor
    out_shift: Tensor
    out_scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        core: nn.Module,
        *,
        in_shift: Tensor,
        in_scale: Tensor,
        out_shift: Tensor,
        out_scale: Tensor,
        residual: bool = False,
        low: Tensor | None = None,
        high: Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_coordinates("in", in_shift, in_scale)
        _check_coordinates("out", out_shift, out_scale)
        if not bool((in_scale > 0).all()):
            raise ValueError(
                f"in_scale must be positive, its smallest entry is {float(in_scale.min())}. "
                "Use 1 for constant columns."
            )
        if not bool((out_scale >= 0).all()):
            raise ValueError(
                f"out_scale must be non-negative, its smallest entry is {float(out_scale.min())}."
            )
        if residual and len(in_scale) < len(out_scale):
            raise ValueError(
                f"A residual map adds its output to its input, but there are {len(out_scale)} "
                f"outputs and only {len(in_scale)} inputs. Use residual=False."
            )
        low = torch.full_like(out_shift, -torch.inf) if low is None else low
        high = torch.full_like(out_shift, torch.inf) if high is None else high
        if low.shape != out_shift.shape or high.shape != out_shift.shape or (low > high).any():
            raise ValueError(
                f"low and high must hold a limit for each of the {len(out_shift)} outputs, and no "
                f"low one above the high one; got shapes {tuple(low.shape)}, {tuple(high.shape)}."
            )
        self.core = core
        self.residual = residual
        for name, value in (
            ("in_shift", in_shift),
            ("in_scale", in_scale),
            ("out_shift", out_shift),
            ("out_scale", out_scale),
            ("low", low),
            ("high", high),
        ):
            self.register_buffer(name, value.detach().clone())

    def standardised(self, z: Tensor) -> Tensor:
        """Return the rows as the core reads them: ``(z - in_shift) / in_scale``.

        Parameters
        ----------
        z : Tensor of shape (n, d_in)
            Reference rows, in data units.

        Returns
        -------
        Tensor of shape (n, d_in)
            Scaled rows, in the precision of the core.
        """
        weight = next(self.core.parameters(), self.in_shift)
        return ((z - self.in_shift) / self.in_scale).to(weight.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Map reference rows to data rows.

        Parameters
        ----------
        z : Tensor of shape (n, d_in)
            Reference rows, in data units.

        Returns
        -------
        Tensor of shape (n, d)
            Images, in data units, in the wider of the precisions of `z` and of the buffers.
        """
        core: Tensor = self.core(self.standardised(z))
        start = z[:, : core.shape[1]] if self.residual else self.out_shift
        image = start + self.out_scale * core
        return torch.clamp(image.detach(), self.low, self.high) + (image - image.detach())

    def extra_repr(self) -> str:
        """Describe the map in one line for ``repr``."""
        return f"n_in={len(self.in_scale)}, n_out={len(self.out_scale)}, residual={self.residual}"


def evaluate(module: nn.Module, z: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Apply a module to many rows, block by block and without building a graph.

    Rows do not interact, so the blocks change the result by rounding only: about 1e-15 of its
    size in float64.

    Parameters
    ----------
    module : torch.nn.Module
        Map from (n, d_in) to (n, d), row by row.
    z : Tensor of shape (n, d_in)
        Rows; `n` may be 0.
    batch_size : int or None, default=None
        Largest number of rows in one pass, at least 1. It bounds the memory. None is 2048 on the
        CPU and 65536 elsewhere.

    Returns
    -------
    Tensor of shape (n, d)
        ``module(z)``, detached.

    Examples
    --------
    >>> import torch
    >>> from skwgf.nn import evaluate
    >>> evaluate(torch.nn.ReLU(), torch.tensor([[-1.0], [2.0], [3.0]]), batch_size=2)
    tensor([[0.],
            [2.],
            [3.]])
    """
    if batch_size is None:
        batch_size = _CPU_ROWS if z.device.type == "cpu" else _ACCELERATOR_ROWS
    with torch.no_grad():
        return torch.cat([module(rows) for rows in torch.split(z, batch_size)])


def _check_coordinates(side: str, shift: Tensor, scale: Tensor) -> None:
    """Raise unless shift and scale are vectors of the same length."""
    if shift.ndim != 1 or shift.shape != scale.shape:
        raise ValueError(
            f"{side}_shift and {side}_scale must be vectors of the same length, got shapes "
            f"{tuple(shift.shape)} and {tuple(scale.shape)}."
        )
