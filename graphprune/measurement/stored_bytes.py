"""How many bytes tensors take in memory, and in a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from graphprune.utils.tree import tensors_of


def plain_tensors(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The tensors with a storage of their own that others are made of: quantized ones, sparse ones."""
    for tensor in tensors:
        if hasattr(type(tensor), "__tensor_flatten__"):
            names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
            yield from plain_tensors(getattr(tensor, name) for name in names)
        elif tensor.layout is torch.strided:
            yield tensor
        else:
            yield from plain_tensors(_sparse_parts(tensor.detach()))


def _sparse_parts(tensor: Tensor) -> list[Tensor]:
    """Indices and values."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    outer = (tensor.crow_indices(), tensor.col_indices()) if rows else (tensor.ccol_indices(), tensor.row_indices())
    return [*outer, tensor.values()]


def memory_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of all storages, each once."""
    storages = {s._cdata: s.nbytes() for s in (t.untyped_storage() for t in plain_tensors(tensors))}
    return sum(storages.values())


def file_bytes(state: Mapping[str, Any]) -> int:
    """Bytes of the safetensors file of a state dict: its header and the entries of each tensor, tied ones once.

    The format: eight bytes, a header in JSON, filled up to a multiple of eight bytes, and the data, the widest types
    first. What is no tensor is left out; of a quantized tensor, its parts are stored.

    Raises:
        ValueError: there is a tensor that the format does not have.
    """
    stored = sorted(_stored(state), key=lambda pair: (-pair[1].element_size(), pair[0]))
    header, end = {}, 0
    for name, tensor in stored:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _type_name(tensor), "shape": list(tensor.shape), "data_offsets": [begin, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // 8) * 8 + end


def _stored(state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    seen = set()
    for name, value in state.items():
        for tensor in tensors_of(value):
            parts = list(plain_tensors([tensor]))
            for number, part in enumerate(parts):
                key = part.untyped_storage()._cdata, part.storage_offset(), part.shape, part.stride()
                if key not in seen:
                    seen.add(key)
                    yield (name if len(parts) == 1 else f"{name}.{number}"), part


def _type_name(tensor: Tensor) -> str:
    """A type as safetensors names it: F32, BF16, I64, F8_E4M3."""
    name = str(tensor.dtype).removeprefix("torch.")
    if name == "bool":
        return "BOOL"
    for prefix, short in (("bfloat", "BF"), ("float", "F"), ("uint", "U"), ("int", "I"), ("complex64", "C64")):
        if name.startswith(prefix):
            kept = name.removeprefix(prefix).upper().removesuffix("FN")
            return f"{short}{kept}"
    raise ValueError(f"safetensors have no tensors of {tensor.dtype}")
