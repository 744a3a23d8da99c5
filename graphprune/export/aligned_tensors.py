"""Write safetensors so that a mapped file can be computed with as it is.

Kernels go other ways, and round otherwise, where memory does not begin at a multiple of 64 bytes. The format has no
room between tensors, so those whose size is such a multiple come first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from graphprune.errors import ExportError

_ALIGNMENT = 64

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_aligned(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file of safetensors.

    Args:
        tensors: strided ones with storage, on any device.
        path: where.
        metadata: strings by name.

    Raises:
        ExportError: the format has no name for a tensor's type.
    """
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % _ALIGNMENT != 0, -tensors[name].element_size()))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    offset = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _TYPES:
            raise ExportError(f"slim: {name} is of {tensor.dtype}, which safetensors cannot hold; convert it first")
        place = [offset, offset := offset + tensor.nbytes]
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            bytes_of(tensors[name]).numpy().tofile(file)


def bytes_of(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, on the CPU, in the order of its dimensions."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
