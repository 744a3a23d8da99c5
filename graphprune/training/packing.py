"""Nested data as JSON and tensors apart, and together again: what checkpoints are made of. Nothing is pickled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.utils.checks import found_value, with_article

_PLAIN = (type(None), bool, int, float, str)


class Packer:
    """Takes the tensors out of nested data, each once, and names them after where they were found first."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._held: list[Tensor] = []
        self._storages: set[int] = set()

    def pack(self, value: Any, path: str) -> Any:
        """``value`` as JSON data; its tensors are in ``tensors``.

        Raises:
            InputError: something in it is neither number, string, tensor nor a list, tuple or mapping of such.
        """
        if isinstance(value, np.generic):
            return value.item()
        if type(value) in _PLAIN:
            return value
        if isinstance(value, Tensor):
            return {"tensor": self.add(value, path)}
        if isinstance(value, np.ndarray):
            return {"array": self.add(torch.from_numpy(value), path)}
        if isinstance(value, Mapping):
            return {"dict": [[self.pack(k, path), self.pack(v, f"{path}.{k}")] for k, v in value.items()]}
        if isinstance(value, tuple | list):
            items = [self.pack(v, f"{path}.{i}") for i, v in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        raise InputError(
            f"{path}: is {with_article(type(value).__name__)}, which a checkpoint cannot hold",
            where=path,
            found=found_value(value),
            needed="numbers, strings, tensors, and lists, tuples or dicts of them",
            do="leave it out of what is saved, or save what it is made from",
        )

    def add(self, tensor: Tensor, path: str) -> str:
        """Keep a tensor, under ``path`` unless it is known already; returns its name."""
        if tensor.is_meta or hasattr(type(tensor), "__tensor_flatten__"):
            what = "a tensor on meta, without values" if tensor.is_meta else f"a {type(tensor).__name__}"
            raise InputError(
                f"{path}: is {what}, which a checkpoint cannot hold",
                where=path,
                found=f"{what}, of shape {list(tensor.shape)}",
                needed="plain tensors with values",
                do="leave it out of what is saved; of a model that is sharded or quantized save the one before",
            )
        if id(tensor) not in self._names:
            name = self._unused(path)
            self._names[id(tensor)] = name
            self._held.append(tensor)  # an id is only good as long as its tensor
            self.tensors[name] = self._alone(tensor.detach())
        return self._names[id(tensor)]

    def _unused(self, path: str) -> str:
        """A name for what is found at a path: ``{"a.b": x, "a": {"b": y}}`` has two tensors at ``a.b``."""
        names = (f"{path}#{number}" if number else path for number in count())
        return next(name for name in names if name not in self.tensors)

    def _alone(self, tensor: Tensor) -> Tensor:
        """A contiguous tensor with a storage of its own, which is what a safetensors file holds."""
        tensor = tensor.contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in self._storages:
            return tensor.clone()
        if storage.nbytes():
            self._storages.add(storage.data_ptr())
        return tensor


def unpack_data(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :meth:`Packer.pack`.

    Raises:
        ValueError: this is not what it returned, or a tensor is missing.
    """
    if isinstance(data, list):
        return [unpack_data(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError(f"found an object with the keys {sorted(data)[:5]}, needed is one of {_FORMS}")
    ((form, value),) = data.items()
    if form in ("tensor", "array"):
        return _unpacked_tensor(form, value, tensors)
    if form == "tuple" and isinstance(value, list):
        return tuple(unpack_data(item, tensors) for item in value)
    if form == "dict" and isinstance(value, list):
        return dict(_unpacked_item(item, tensors) for item in value)
    raise ValueError(f"found {form!r} with {with_article(type(value).__name__)}, needed is one of {_FORMS}")


_FORMS = "'tensor' and 'array' with a name, 'tuple' and 'dict' with a list"


def _unpacked_tensor(form: str, name: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(name, str) or name not in tensors:
        raise ValueError(f"there is no tensor {name!r} among the {len(tensors)} that were saved")
    return tensors[name] if form == "tensor" else tensors[name].numpy()


def _unpacked_item(item: Any, tensors: Mapping[str, Tensor]) -> tuple[Any, Any]:
    if not isinstance(item, list) or len(item) != 2:
        raise ValueError(f"found {item!r:.40} in a dict, needed is a pair of a key and its value")
    key = unpack_data(item[0], tensors)
    if not isinstance(key, Hashable):
        raise ValueError(
            f"found {with_article(type(key).__name__)} as a key, needed is a number, a string or a tuple of them"
        )
    return key, unpack_data(item[1], tensors)
