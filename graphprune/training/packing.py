"""Nested data as JSON and tensors apart, and together again: what checkpoints are made of. Nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError

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
            f"{path}: is a {type(value).__name__}, which a checkpoint cannot hold; give numbers, strings, tensors, and "
            "lists, tuples or dicts of them"
        )

    def add(self, tensor: Tensor, path: str) -> str:
        """Keep a tensor, under ``path`` unless it is known already; returns its name."""
        if id(tensor) not in self._names:
            self._names[id(tensor)] = path
            self._held.append(tensor)  # an id is only good as long as its tensor
            self.tensors[path] = self._alone(tensor.detach())
        return self._names[id(tensor)]

    def _alone(self, tensor: Tensor) -> Tensor:
        """A contiguous tensor with a storage of its own, which is what a safetensors file holds."""
        tensor = tensor.contiguous()
        storage = tensor.untyped_storage()
        if storage.nbytes() != tensor.nbytes or storage.data_ptr() in self._storages:
            return tensor.clone()
        if storage.nbytes():
            self._storages.add(storage.data_ptr())
        return tensor


def unpack(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of :meth:`Packer.pack`. KeyError: a tensor is missing."""
    if isinstance(data, list):
        return [unpack(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    if "tensor" in data:
        return tensors[data["tensor"]]
    if "array" in data:
        return tensors[data["array"]].numpy()
    if "tuple" in data:
        return tuple(unpack(item, tensors) for item in data["tuple"])
    return {unpack(k, tensors): unpack(v, tensors) for k, v in data["dict"]}
