"""Objects as a tree of JSON nodes, with the arrays apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skwgf._tensor import to_numpy
from skwgf.persistence._allowed import name_of

__all__ = ["DEEPEST", "OF_MODULES", "Place", "encode"]

Node = Any
# Nesting that no estimator comes near.
DEEPEST = 100
# What a bare torch module keeps: its parts are written down one by one.
OF_MODULES = frozenset(vars(nn.Module()))
# Callbacks belong to a session, not to a model.
_OF_A_SESSION = frozenset({"_skl_callbacks", "_parent_callback_ctx"})
_NATIVE = "fiub"


class Place(NamedTuple):
    """Where in an estimator a value is: for messages, and as a parameter that names it, if any."""

    path: str
    key: str | None

    def inside(self, part: object) -> Place:
        """Return the place of a part that no parameter names."""
        return Place(f"{self.path}{part}", None)


def encode(value: Any, *, opaque: bool = False) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a value as a document and its arrays.

    The document holds the tree, and for each object of the user, which a file cannot hold, its
    parameter and its type. With `opaque` such an object may be anywhere, and only its type is
    written down: the document cannot be read again, but compared.

    Raises
    ------
    TypeError
        If it holds something of the user that is no parameter, or is nested too deeply.
    """
    encoder = _Encoder(opaque)
    root = encoder.node(value, Place("", ""), 0)
    return {"root": root, "users": encoder.users}, encoder.arrays


class _Encoder:
    """The nodes of one value. An object met again is a reference to what was written before."""

    def __init__(self, opaque: bool) -> None:
        self.opaque = opaque
        self.arrays: dict[str, NDArray[Any]] = {}
        self.users: dict[str, str] = {}
        self._known: dict[int, Node] = {}
        self._alive: list[Any] = []  # so that no number of an object is given to another one
        self._n_objects = 0

    def node(self, value: Any, place: Place, depth: int) -> Node:
        """Return a value as a node."""
        if depth > DEEPEST:
            raise TypeError(f"{place.path} is nested more than {DEEPEST} levels deep.")
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"type": "float", "value": repr(value)}
        if id(value) in self._known:
            return self._known[id(value)]
        write = self._writer(value)
        if write is None:
            return self._user(value, place)
        return write(value, place, depth + 1)

    def _writer(self, value: Any) -> Callable[[Any, Place, int], Node] | None:
        """Return what writes values of this kind."""
        if isinstance(value, type):
            scalar = issubclass(value, np.generic)
            return self._plain("scalar_type", np.dtype(value).name) if scalar else None
        for kinds, write in (
            (Tensor, self._tensor),
            (np.ndarray, self._array),
            (np.generic, self._scalar),
            (np.dtype, lambda dtype, *_: {"type": "dtype", "name": dtype.str}),
            (torch.dtype, lambda dtype, *_: {"type": "torch_dtype", "name": str(dtype)[6:]}),
            (torch.device, lambda device, *_: {"type": "place", "name": where(device)}),
            (torch.Generator, self._generator),
            (np.random.RandomState, self._random_state),
        ):
            if isinstance(value, kinds):
                return write
        if isinstance(value, partial):
            ours = hasattr(value.func, "__qualname__") and name_of(value.func) is not None
            return self._partial if ours or self.opaque else None
        if type(value) in (list, tuple):
            return self._sequence
        if type(value) is dict:
            return self._dict
        return self._named(value)

    def _named(self, value: Any) -> Callable[[Any, Place, int], Node] | None:
        """Return what writes a function or an object of an allowed class."""
        if callable(value) and hasattr(value, "__qualname__"):
            name = name_of(value) if not hasattr(value, "__self__") else None
            return None if name is None else self._plain("function", name)
        if name_of(type(value)) is None:
            return None
        if isinstance(value, nn.Module):
            return self._module
        if isinstance(value, BaseEstimator):
            return self._estimator
        if is_dataclass(value):
            return self._record
        return self._named_tuple

    @staticmethod
    def _plain(kind: str, name: str) -> Callable[[Any, Place, int], Node]:
        """Return what writes a name."""
        return lambda *_: {"type": kind, "name": name}

    def _user(self, value: Any, place: Place) -> Node:
        """Write down that the user hands an object back."""
        if self.opaque:
            kind = value if hasattr(value, "__qualname__") else type(value)
            return {"type": "opaque", "name": f"{kind.__module__}.{kind.__qualname__}"}
        if not place.key:
            raise TypeError(
                f"A {type(value).__name__} at {place.path or 'the top'} cannot be written to such "
                "a file: it is neither data, nor of skwgf, nor a parameter that could be handed "
                "back at load. Use pickle or joblib."
            )
        self.users[place.key] = type(value).__name__
        return self._remember(value, {"type": "user", "key": place.key})

    def _remember(self, value: Any, node: Node) -> Node:
        """Let a value that is met again be this node."""
        self._known[id(value)] = node
        self._alive.append(value)
        return node

    def _number(self, value: Any) -> int:
        """Return a number for an object, which is a reference when it is met again."""
        number = self._n_objects
        self._n_objects += 1
        self._remember(value, {"type": "same", "object": number})
        return number

    def _store(self, array: NDArray[Any]) -> Node:
        """Put an array aside, and return its name and whether its columns come first.

        The order in memory is kept, since products of matrices are rounded as it goes.
        """
        name = str(len(self.arrays))
        turned = array.flags.f_contiguous and not array.flags.c_contiguous
        rows = array.T if turned else array
        self.arrays[name] = np.asarray(rows, order="C", dtype=array.dtype.newbyteorder("="))
        return [name, turned]

    def _tensor(self, tensor: Tensor, place: Place, depth: int) -> Node:
        node = {
            "type": "tensor",
            "data": self._store(to_numpy(tensor)),
            "dtype": str(tensor.dtype)[6:],
            "place": where(tensor.device),
        }
        return self._remember(tensor, node)

    def _array(self, array: NDArray[Any], place: Place, depth: int) -> Node:
        kind = array.dtype.kind
        if kind in _NATIVE and array.dtype.itemsize <= 8:
            return self._remember(array, {"type": "array", "data": self._store(array)})
        if kind in "mM":
            numbers = array.astype(array.dtype.newbyteorder("=")).view(np.int64)
            time = array.dtype.newbyteorder("=").str
            return {"type": "array", "data": self._store(numbers), "time": time}
        if kind not in "UO":
            raise TypeError(f"The array at {place.path} is of type {array.dtype}: use pickle.")
        items = [self.node(v, place.inside("[...]"), depth) for v in array.ravel().tolist()]
        return {"type": "array", "kind": kind, "shape": list(array.shape), "items": items}

    def _scalar(self, scalar: np.generic, place: Place, depth: int) -> Node:
        return {"type": "scalar", "array": self._array(np.asarray(scalar), place, depth)}

    def _generator(self, generator: torch.Generator, place: Place, depth: int) -> Node:
        state = self._store(to_numpy(generator.get_state()))
        return {"type": "generator", "place": where(generator.device), "state": state}

    def _random_state(self, state: np.random.RandomState, place: Place, depth: int) -> Node:
        return {"type": "random_state", "state": self.node(state.get_state(), place, depth)}

    def _partial(self, call: partial[Any], place: Place, depth: int) -> Node:
        return {
            "type": "partial",
            "function": self.node(call.func, place.inside(".func"), depth),
            "items": [self.node(v, place.inside(".args"), depth) for v in call.args],
            "named": self._fields(call.keywords, place, depth),
        }

    def _sequence(self, values: Any, place: Place, depth: int) -> Node:
        kind = "list" if type(values) is list else "tuple"
        items = [self.node(v, place.inside(f"[{k}]"), depth) for k, v in enumerate(values)]
        return {"type": kind, "items": items}

    def _dict(self, values: dict[Any, Any], place: Place, depth: int) -> Node:
        pairs = [
            [self.node(k, place, depth), self.node(v, place.inside(f"[{k!r}]"), depth)]
            for k, v in values.items()
        ]
        return {"type": "dict", "items": pairs}

    def _fields(self, values: dict[str, Any], place: Place, depth: int) -> dict[str, Node]:
        """Return attributes by their names."""
        return {k: self.node(v, place.inside(f".{k}"), depth) for k, v in values.items()}

    def _record(self, record: Any, place: Place, depth: int) -> Node:
        number, name = self._number(record), name_of(type(record))
        fields = self._fields(vars(record), place, depth)
        return {"type": "record", "class": name, "object": number, "fields": fields}

    def _named_tuple(self, values: Any, place: Place, depth: int) -> Node:
        number, name = self._number(values), name_of(type(values))
        fields = self._fields(values._asdict(), place, depth)
        return {"type": "named_tuple", "class": name, "object": number, "fields": fields}

    def _estimator(self, estimator: BaseEstimator, place: Place, depth: int) -> Node:
        number, params = self._number(estimator), estimator.get_params(deep=False)
        start = "" if not place.key else f"{place.key}__"
        node = {
            "type": "estimator",
            "class": name_of(type(estimator)),
            "object": number,
            "params": {
                name: self._param(value, Place(f"{place.path}.{name}", start + name), depth)
                for name, value in params.items()
            },
        }
        attributes, requests = {}, None
        for name, value in vars(estimator).items():
            if name == "_metadata_request":
                wanted = {k: v.requests for k, v in vars(value).items() if k != "owner"}
                requests = {method: aliases for method, aliases in wanted.items() if aliases}
                continue
            if name in params or name in _OF_A_SESSION:
                continue
            # The fitted copy of a parameter: a user's object in it is the one in the parameter.
            key = start + name[:-1] if name.endswith("_") and name[:-1] in params else None
            attributes[name] = self.node(value, Place(f"{place.path}.{name}", key), depth)
        return node | {"attributes": attributes, "requests": requests}

    def _param(self, value: Any, place: Place, depth: int) -> Node:
        """Return a parameter: a device in one is kept as it is, wherever the file is loaded."""
        if isinstance(value, torch.device):
            return {"type": "device", "name": str(value)}
        return self.node(value, place, depth)

    def _module(self, module: nn.Module, place: Place, depth: int) -> Node:
        number = self._number(module)
        own = {k: v for k, v in vars(module).items() if k not in OF_MODULES}
        return {
            "type": "module",
            "class": name_of(type(module)),
            "object": number,
            "training": module.training,
            "attributes": self._fields(own, place, depth),
            "parameters": {
                name: None
                if weight is None
                else [self._tensor(weight, place, depth), weight.requires_grad]
                for name, weight in module._parameters.items()
            },
            "buffers": self._fields(module._buffers, place, depth),
            "modules": self._fields(module._modules, place, depth),
        }


def where(device: torch.device) -> str:
    """Return "cpu", or "device" for anything that another machine may not have."""
    return "cpu" if device.type == "cpu" else "device"
