"""A run's state on disk, so that a fit that was cut off can go on."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from skwgf.persistence._decode import decode
from skwgf.persistence._encode import encode
from skwgf.persistence._file import read_file, write_file

__all__ = ["Checkpoint", "fingerprint"]


class Checkpoint:
    """A file that holds the latest state of a run, for :func:`skwgf.flows.run_flow`.

    Parameters
    ----------
    path : str or path
        The file. It is replaced in one step, so that it always holds a whole state.

    every : int
        Number of steps between two states.

    mark : str
        What tells this fit from another one, see :func:`fingerprint`.

    device : torch.device
        Where the state lives in memory.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, every: int, mark: str, device: torch.device
    ) -> None:
        self.path = Path(path)
        self.every = every
        self.mark = mark
        self.device = device

    def read(self) -> dict[str, Any] | None:
        """Return the state in the file, None without a file.

        Raises
        ------
        ValueError
            If the file is none of these, or of another fit.
        """
        if not self.path.exists():
            return None
        found = decode(*read_file(self.path), {}, device=self.device)
        if not isinstance(found, dict) or found.get("mark") != self.mark:
            raise ValueError(
                f"checkpoint={str(self.path)!r} holds the state of another fit: the parameters, "
                "the data, the starting point or the version of skwgf are not the same. Delete "
                "the file to begin anew, or name another one."
            )
        state: dict[str, Any] = found["state"]
        return state

    def write(self, state: dict[str, Any]) -> None:
        """Put a state in the place of the one before."""
        write_file(self.path, *encode({"mark": self.mark, "state": state}))

    def remove(self) -> None:
        """Delete the file: the run is over."""
        self.path.unlink(missing_ok=True)


def fingerprint(value: Any) -> str:
    """Return a digest of a value, in which objects of the user count by their names or types."""
    document, arrays = encode(value, opaque=True)
    written_by = sys.modules["skwgf"].__version__
    digest = hashlib.sha256(json.dumps([written_by, document], sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
