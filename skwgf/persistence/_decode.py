"""Objects from a tree of JSON nodes: the counterpart of the encoder."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skwgf._tensor import best_float, resolve_device, to_tensor
from skwgf._warnings import caller_level
from skwgf.persistence._allowed import allowed
from skwgf.persistence._encode import DEEPEST, OF_MODULES

__all__ = ["decode"]

Node = Any
Kind = Callable[[Node, int], Any]


def decode(
    document: Any,
    arrays: dict[str, NDArray[Any]],
    users: dict[str, Any],
    *,
    device: torch.device | None = None,
) -> Any:
    """Return the value of a document, with the objects that the user hands back.

    What was on an accelerator goes to `device`; None is the one that the estimator asks for.

    Raises
    ------
    ValueError
        If an object is missing or not asked for, or the document is none that was ever written.
    """
    if not isinstance(document, dict) or not isinstance(document.get("users"), dict):
        raise ValueError("The file holds no estimator.")
    decoder = _Decoder(arrays, _handed_back(document["users"], users))
    try:
        decoder.device = _device_of(document["root"]) if device is None else device
        return decoder.value(document["root"], 0)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        raise ValueError(
            "The file names or holds something that this version of skwgf does not know "
            f"({type(error).__name__}: {error}). Load it with the version that wrote it."
        ) from error


def _handed_back(wanted: dict[str, str], users: dict[str, Any]) -> dict[str, Any]:
    """Return the user's objects by the parameters that they belong to."""
    found, used = {}, set()
    for key in wanted:
        names = key.split("__")
        heads = ("__".join(names[:k]) for k in range(len(names), 0, -1))
        head = next((head for head in heads if head in users), None)
        if head is not None:
            found[key] = _part(users[head], head, names[len(head.split("__")) :])
            used.add(head)
    missing = [key for key in wanted if key not in found]
    if missing:
        listed = ", ".join(f"{key} (a {wanted[key]})" for key in missing)
        given = ", ".join(f"{key.split('__')[0]}=..." for key in missing)
        raise ValueError(
            f"The file does not hold code of yours, which this estimator needs: {listed}. Hand "
            f"it back: load(path, {given}), an object equal to the parameter that was set."
        )
    strange = sorted(set(users) - used)
    if strange:
        asked = f"only {sorted(wanted)}" if wanted else "nothing"
        raise ValueError(
            f"The file asks for {asked} to be handed back, got {', '.join(strange)}. Leave out "
            "what is stored; change other parameters by set_params."
        )
    return found


def _part(given: Any, head: str, names: list[str]) -> Any:
    """Return a nested parameter of an object; what has no parameters stands for itself."""
    for name in names:
        if not isinstance(given, BaseEstimator):
            return given
        params = given.get_params(deep=False)
        if params.get(name) is None:
            raise ValueError(
                f"{head}={given!r} has no {name}, which the fitted one had. Hand back an object "
                "with the parameters of the one that was fitted."
            )
        given = params[name]
    return given


def _device_of(root: Node) -> torch.device:
    """Return the device that an estimator asks for, the CPU where it is not at hand."""
    asked = root["params"].get("device") if isinstance(root, dict) and "params" in root else None
    name = asked["name"] if isinstance(asked, dict) else asked
    try:
        device = resolve_device(name)
    except ValueError:
        warnings.warn(
            f"The estimator was fitted on device={name!r}, which is not available here: it is "
            "loaded to the CPU. Set device=None before fitting it again.",
            UserWarning,
            stacklevel=caller_level(),
        )
        return torch.device("cpu")
    # A fit of another machine may hold numbers of a precision that the device does not have.
    return device if best_float(device) == torch.float64 else torch.device("cpu")


class _Decoder:
    """The values of the nodes of one document."""

    device: torch.device

    def __init__(self, arrays: dict[str, NDArray[Any]], users: dict[str, Any]) -> None:
        self.arrays = arrays
        self.users = users
        self.objects: dict[int, Any] = {}
        self._data: dict[tuple[str, str], Any] = {}
        self.kinds: dict[str, Kind] = {
            "float": lambda node, _: float(node["value"]),
            "user": lambda node, _: self.users[node["key"]],
            "same": lambda node, _: self.objects[node["object"]],
            "scalar_type": lambda node, _: np.dtype(node["name"]).type,
            "dtype": lambda node, _: np.dtype(node["name"]),
            "torch_dtype": lambda node, _: _torch_dtype(node["name"]),
            "device": lambda node, _: torch.device(node["name"]),
            "place": lambda node, _: self._place(node["name"]),
            "function": lambda node, _: _known(node["name"]),
            "tensor": self._tensor,
            "array": self._array,
            "scalar": lambda node, depth: self._array(node["array"], depth)[()],
            "generator": self._generator,
            "random_state": self._random_state,
            "partial": self._partial,
            "list": lambda node, depth: self._items(node, depth),
            "tuple": lambda node, depth: tuple(self._items(node, depth)),
            "dict": self._dict,
            "record": self._record,
            "named_tuple": self._named_tuple,
            "estimator": self._estimator,
            "module": self._module,
        }

    def value(self, node: Node, depth: int) -> Any:
        """Return the value of a node."""
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if depth > DEEPEST or node["type"] not in self.kinds:
            raise ValueError(
                f"The file holds a node that is unknown or nested too deeply: "
                f"{str(node['type'])[:50]!r}."
            )
        return self.kinds[node["type"]](node, depth + 1)

    def _items(self, node: Node, depth: int) -> list[Any]:
        return [self.value(item, depth) for item in node["items"]]

    def _fields(self, nodes: dict[str, Node], depth: int) -> dict[str, Any]:
        return {name: self.value(node, depth) for name, node in nodes.items()}

    def _place(self, name: str) -> torch.device:
        return torch.device("cpu") if name == "cpu" else self.device

    def _tensor(self, node: Node, depth: int) -> Tensor:
        name, turned = node["data"]
        if ("tensor", name) not in self._data:
            tensor = to_tensor(
                self.arrays[name],
                device=self._place(node["place"]),
                dtype=_torch_dtype(node["dtype"]),
            )
            self._data["tensor", name] = (
                tensor.permute(*reversed(range(tensor.ndim))) if turned else tensor
            )
        kept: Tensor = self._data["tensor", name]
        return kept

    def _array(self, node: Node, depth: int) -> NDArray[Any]:
        if "data" not in node:
            items = self._items(node, depth)
            if node["kind"] == "U":
                return np.array([str(item) for item in items], dtype=np.str_).reshape(node["shape"])
            array = np.empty(len(items), dtype=object)
            array[:] = items
            return array.reshape(node["shape"])
        name, turned = node["data"]
        if ("array", name) not in self._data:
            array = self.arrays[name].copy()  # those of the file are read-only
            if "time" in node:
                if np.dtype(node["time"]).kind not in "mM":
                    raise ValueError(f"{node['time']!r} is no type of times.")
                array = array.view(node["time"])
            self._data["array", name] = array.T if turned else array
        kept: NDArray[Any] = self._data["array", name]
        return kept

    def _generator(self, node: Node, depth: int) -> torch.Generator:
        generator = torch.Generator(device=self._place(node["place"]))
        generator.set_state(to_tensor(self.arrays[node["state"][0]], dtype=torch.uint8))
        return generator

    def _random_state(self, node: Node, depth: int) -> np.random.RandomState:
        state = np.random.RandomState(0)
        state.set_state(self.value(node["state"], depth))
        return state

    def _partial(self, node: Node, depth: int) -> Any:
        function = self.value(node["function"], depth)
        return partial(function, *self._items(node, depth), **self._fields(node["named"], depth))

    def _dict(self, node: Node, depth: int) -> dict[Any, Any]:
        return {self.value(k, depth): self.value(v, depth) for k, v in node["items"]}

    def _record(self, node: Node, depth: int) -> Any:
        record = object.__new__(_class(node))
        self.objects[node["object"]] = record
        vars(record).update(self._fields(node["fields"], depth))  # frozen: not by setattr
        return record

    def _named_tuple(self, node: Node, depth: int) -> Any:
        values = _class(node)(**self._fields(node["fields"], depth))
        self.objects[node["object"]] = values
        return values

    def _estimator(self, node: Node, depth: int) -> Any:
        estimator = _class(node)(**self._fields(node["params"], depth))
        self.objects[node["object"]] = estimator
        vars(estimator).update(self._fields(node["attributes"], depth))
        if node["requests"] is not None:
            requests = estimator._get_metadata_request()
            for method, wanted in node["requests"].items():
                for param, alias in wanted.items():
                    getattr(requests, method).add_request(param=param, alias=alias)
            estimator._metadata_request = requests
        return estimator

    def _module(self, node: Node, depth: int) -> nn.Module:
        cls = _class(node)
        module: nn.Module = cls.__new__(cls)
        nn.Module.__init__(module)
        self.objects[node["object"]] = module
        for name, weight in node["parameters"].items():
            kept = weight and nn.Parameter(self._tensor(weight[0], depth), requires_grad=weight[1])
            module.register_parameter(name, kept)
        for name, buffer in self._fields(node["buffers"], depth).items():
            module.register_buffer(name, buffer)
        for name, part in self._fields(node["modules"], depth).items():
            module.add_module(name, part)
        own = self._fields(node["attributes"], depth)
        if OF_MODULES & set(own):
            raise ValueError(f"A module of the file sets {sorted(OF_MODULES & set(own))}.")
        vars(module).update(own)
        return module.train(bool(node["training"]))


def _known(name: str) -> Any:
    """Return a class or function by its name, if a file may name it."""
    table = allowed()
    if name not in table:
        raise ValueError(
            f"The file names {str(name)[:100]!r}, which this version of skwgf does not know. Load "
            "it with the version that wrote it, and only if you trust where it comes from."
        )
    return table[name]


def _class(node: Node) -> Any:
    """Return the class of a node, which has to be of its kind."""
    cls = _known(node["class"])
    kind = {"estimator": BaseEstimator, "module": nn.Module, "named_tuple": tuple}
    if not isinstance(cls, type) or not issubclass(cls, kind.get(node["type"], object)):
        raise ValueError(f"{node['class']} is no {node['type']}.")
    return cls


def _torch_dtype(name: str) -> torch.dtype:
    """Return a torch precision by its name."""
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no precision.")
    return dtype
