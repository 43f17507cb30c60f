"""The border between numpy and torch: the only module that converts one into the other.

Arrays become tensors exactly once, on entry, as a copy on the chosen device; results leave as
fresh numpy arrays. Random numbers come from explicit :class:`torch.Generator` objects; the global
torch and numpy states are neither read nor written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from sklearn.utils import check_random_state
from torch import Tensor

_MAX_SEED = 2**31 - 1
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def resolve_device(device: str | torch.device | None) -> torch.device:
    """Return the torch device named by an estimator's `device` parameter.

    Parameters
    ----------
    device : None, "auto", str or torch.device
        None is the CPU; "auto" is the first accelerator that torch sees, or else the CPU; any
        other value is read by :class:`torch.device`.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If torch does not know the device or it is not available on this machine.
    """
    if device is None:
        return torch.device("cpu")
    if isinstance(device, str) and device == "auto":
        for name, available in (
            ("cuda", torch.cuda.is_available),
            ("mps", torch.backends.mps.is_available),
        ):
            if available():
                return torch.device(name)
        return torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={device!r} cannot be used on this machine ({error}). "
            "Use None for the CPU or 'auto' for the first available accelerator."
        ) from error
    if resolved.type == "meta":
        raise ValueError("device='meta' holds no data. Use None for the CPU or 'auto'.")
    return resolved


def resolve_dtype(dtype: DTypeLike | None, follow: DTypeLike, device: torch.device) -> torch.dtype:
    """Return the torch precision for computations on data of type `follow`.

    `dtype` wins when given ("float32" or "float64"); else float32 data stays float32 and
    everything else is computed in float64, but on devices that have no float64 (Apple's mps).
    """
    name = np.dtype(follow if dtype is None else dtype).name
    if device.type == "mps":
        return torch.float32
    return _DTYPES["float32" if name in ("float32", "float16") else "float64"]


def best_float(device: torch.device) -> torch.dtype:
    """Return the widest floating type of a device: float64, or float32 on Apple's mps."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_tensor(X: Any) -> bool:
    """Tell whether `X` is a torch tensor."""
    return isinstance(X, Tensor)


def to_tensor(
    X: Any,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Copy an array or a tensor to a new tensor that shares no memory and no graph with it.

    The copy is made once, in `dtype` (None keeps the precision of `X`), so that read-only and
    memory-mapped arrays are safe to pass.
    """
    if isinstance(X, Tensor):
        return X.detach().to(device=device, dtype=dtype, copy=True)
    array = np.asarray(X)
    if array.dtype.kind not in "fiub" or (array.dtype.kind == "f" and array.itemsize not in (4, 8)):
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.tensor(np.array(array, copy=True, order="C"), device=device, dtype=dtype)


def to_numpy(tensor: Tensor, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Copy a tensor from any device to a new numpy array of type `dtype` (None: the same)."""
    if tensor.dtype == torch.bfloat16:  # which numpy does not have
        tensor = tensor.float()
    array = np.array(tensor.detach().cpu().numpy(), copy=True)
    return array if dtype is None else array.astype(dtype, copy=False)


def tensor_to_array(X: Any) -> Any:
    """Return a numpy array when `X` is a tensor (any device, with or without gradient), else `X`.

    This is what lets estimators accept tensors: scikit-learn's validation sees an array.
    """
    return to_numpy(X) if isinstance(X, Tensor) else X


def draw_seed(random_state: int | np.random.RandomState | None) -> int:
    """Draw a non-negative integer seed from a scikit-learn `random_state`.

    None takes fresh entropy from the operating system, so that numpy's global generator is left
    alone; an integer or a RandomState gives a reproducible seed.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0] % _MAX_SEED)
    return int(check_random_state(random_state).randint(_MAX_SEED))


def derive_seed(seed: int, stream: int) -> int:
    """Return the seed of an independent stream (validation, scoring, ...) of a fit's main seed."""
    return int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0] % _MAX_SEED)


def make_generator(seed: int, device: torch.device | None = None) -> torch.Generator:
    """Return a torch generator on `device` (None: the CPU), seeded, apart from torch's own."""
    generator = torch.Generator(device=device or torch.device("cpu"))
    generator.manual_seed(seed)
    return generator


def argmax_rows(scores: Tensor) -> Tensor:
    """Return the index of the largest entry of each row.

    On the CPU numpy's vectorised search is ten times faster than torch's, at no copy.
    """
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.detach().numpy().argmax(1))
    return scores.argmax(1)
