"""One file for a JSON document and its arrays: safetensors, sealed by its length and a checksum."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

__all__ = ["FORMAT", "read_file", "write_file"]

FORMAT = 1
# The header holds the document: more than this is no estimator.
_LONGEST_HEADER = 64 * 2**20
# The length and the SHA-256 of the file, taken with zeros in the place of the seal.
_SEAL = re.compile("[0-9]{20}-[0-9a-f]{64}")
_NO_SEAL = 20 * "0" + "-" + 64 * "0"
_FIELDS = ("skwgf-format", "skwgf-version", "document", "seal")

Arrays = dict[str, NDArray[Any]]


def write_file(path: str | os.PathLike[str], document: Any, arrays: Arrays) -> None:
    """Write a JSON document and arrays to one file, which is there as a whole or not at all.

    Raises
    ------
    ValueError
        If the document is too long for a file that :func:`read_file` accepts.
    """
    metadata = {
        "skwgf-format": str(FORMAT),
        "skwgf-version": str(sys.modules["skwgf"].__version__),
        "document": json.dumps(document, allow_nan=False),
        "seal": _NO_SEAL,
    }
    packed = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = bytearray(save_arrays(packed, metadata))
    if int.from_bytes(content[:8], "little") > _LONGEST_HEADER:
        raise ValueError(
            f"What describes this estimator takes more than {_LONGEST_HEADER // 2**20} MiB, beyond "
            "what such a file may hold. Use pickle or joblib."
        )
    place = _place_of_seal(content, _NO_SEAL)
    content[place] = _seal(content).encode()
    _replace(Path(path), content)


def read_file(path: str | os.PathLike[str]) -> tuple[Any, Arrays]:
    """Read what :func:`write_file` wrote: the document and the arrays.

    Raises
    ------
    ValueError
        If the file is of another kind or format, or not byte for byte what was written.
    """
    path = Path(path)
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= _LONGEST_HEADER:
            raise _not_ours(path)
        head = stream.read(length)
        metadata = _metadata(head, path)
        size = os.fstat(stream.fileno()).st_size
        if size != int(metadata["seal"][:20]):
            raise ValueError(
                f"{path} has {size} bytes, but was written with {int(metadata['seal'][:20])}: it "
                "is truncated, or something was added. Copy it again, or save again."
            )
        content = bytearray(start + head + stream.read())
    content[_place_of_seal(content, metadata["seal"])] = _NO_SEAL.encode()
    if _seal(content) != metadata["seal"]:
        raise ValueError(
            f"{path} is not what was written: its checksum does not match its contents. Copy it "
            "again, or save again."
        )
    try:
        return json.loads(metadata["document"]), load_arrays(bytes(content))
    except (ValueError, RecursionError, SafetensorError, KeyError) as error:
        raise _not_ours(path) from error


def _metadata(head: bytes, path: Path) -> dict[str, str]:
    """Return the metadata of a header of this format."""
    try:
        header = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise _not_ours(path) from error
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("skwgf-format"), str):
        raise _not_ours(path)
    if metadata["skwgf-format"] != str(FORMAT):
        raise ValueError(
            f"{path} has format {metadata['skwgf-format'][:20]!r}, of skwgf "
            f"{str(metadata.get('skwgf-version'))[:20]}; this version reads format {FORMAT}. "
            "Load it with that version."
        )
    fields = [metadata.get(name) for name in _FIELDS]
    if not all(isinstance(field, str) for field in fields):
        raise _not_ours(path)
    seal = metadata["seal"]
    if not _SEAL.fullmatch(seal) or f'"seal":"{seal}"'.encode() not in head:
        raise _not_ours(path)
    return metadata


def _not_ours(path: Path) -> ValueError:
    """Return the error for a file that is no estimator, or no longer one."""
    return ValueError(
        f"{path} is not a file that an estimator was saved to with save(path), or is damaged. "
        "Files of pickle and joblib are read with pickle.load and joblib.load."
    )


def _place_of_seal(content: bytearray, seal: str) -> slice:
    """Return where the seal is in a file: within strings JSON escapes the quotes around the key."""
    start = content.index(b'"seal":"' + seal.encode()) + len(b'"seal":"')
    return slice(start, start + len(seal))


def _seal(content: bytearray) -> str:
    """Return the seal of a file that has none."""
    return f"{len(content):020d}-{hashlib.sha256(content).hexdigest()}"


def _replace(path: Path, content: bytearray) -> None:
    """Put a file in the place of another in one step, once it is on the disk."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with draft.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    if os.name == "posix":  # the directory's entry as well; other systems cannot open it
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
