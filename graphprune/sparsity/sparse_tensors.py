"""A tensor as bytes: the entries that are not zero and the code of their places, or all entries where that is less."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from graphprune.sparsity.gap_coding import Bytes, decoded, encoded, entropy_bits, plane_bytes
from graphprune.utils.typed_json import Count

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""An integer of as many bytes as an entry has."""
_KNOWN = re.compile(r"torch\.(bool|u?int(8|16|32|64)|bfloat16|float(16|32|64)|float8_\w+|complex(64|128))")
ENTRY_TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and _KNOWN.fullmatch(str(dtype))
}
_ONE_ZERO = ("torch.float8_e4m3fnuz", "torch.float8_e5m2fnuz", "torch.float8_e8m0fnu")
"""Floats whose zero has no sign."""


class TensorRecord(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename={"unary": "u"}):
    """How a tensor is written; its bytes follow those of the tensors before it.

    Attributes:
        t: the data type.
        s: the shape.
        n: how many entries are not zero; None: all entries are written.
        k: the shift of the gap code.
        unary: bytes of its quotients.
        signed: zeros have signs, a bit each.
    """

    t: str
    s: tuple[Count, ...]
    n: Count | None = None
    k: Count = 0
    unary: Count = 0
    signed: bool = False

    @property
    def entries(self) -> int:
        """How many entries the tensor has."""
        return math.prod(self.s)

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """Bytes of quotients, remainders, signs of zeros, and values."""
        width = ENTRY_TYPES[self.t].itemsize
        if self.n is None:
            return 0, 0, 0, width * self.entries
        signs = (self.entries - self.n + 7) // 8 if self.signed else 0
        return self.unary, self.k * plane_bytes(self.n), signs, width * self.n


def write_tensor(tensor: Tensor) -> tuple[TensorRecord, Sequence[Bytes]]:
    """The record of a tensor, and its bytes in several pieces."""
    flat = _flat(tensor)
    kind, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    none = np.empty(0, np.uint8)
    dense = TensorRecord(kind, shape), [none, none, none, _raw(flat)]
    if flat.dtype.itemsize not in _BITS or not len(flat):
        return dense
    bits = _as_bits(flat)
    used = _used(bits, tensor.dtype)
    places = used.nonzero().reshape(-1)
    shift, unary, remainders = encoded(places.numpy(), len(flat))
    signs = bits[~used] != 0
    record = TensorRecord(kind, shape, len(places), shift, len(unary), bool(signs.any()))
    pieces = [unary, remainders, np.packbits(signs.numpy()) if record.signed else none, _raw(bits[used])]
    return (record, pieces) if sum(map(len, pieces)) < len(dense[1][3]) else dense


def read_tensor(record: TensorRecord, pieces: Sequence[Bytes]) -> Tensor:
    """The tensor that :func:`write_tensor` wrote so.

    Raises:
        ValueError: the bytes are none of it. Entries are allocated after the places were read.
    """
    dtype = ENTRY_TYPES[record.t]
    if record.n is None:
        return _values(pieces[3], dtype).reshape(record.s)
    if dtype.itemsize not in _BITS:
        raise ValueError(f"entries of {record.t} are not written with their places")
    places = decoded(record.n, record.entries, record.k, pieces[0], pieces[1])
    kind = _BITS[dtype.itemsize]
    found = torch.zeros(record.entries, dtype=kind, device="cpu")
    if record.signed:
        negative = _negative_zero(dtype)
        if negative is None:
            raise ValueError(f"zeros of {record.t} have no signs")
        signs = np.unpackbits(pieces[2], count=record.entries - record.n).astype(np.bool_)
        unused = np.ones(record.entries, np.bool_)
        unused[places] = False
        found[torch.from_numpy(np.flatnonzero(unused)[signs])] = negative
    found[torch.from_numpy(places)] = _values(pieces[3], kind)
    return found.view(dtype).reshape(record.s)


def bound_bytes(tensor: Tensor) -> float:
    """Bytes of the entries that are not zero, with the entropy of their places; of all entries where that is less."""
    width, size = tensor.dtype.itemsize, tensor.numel()
    if width not in _BITS or not size:
        return float(size * width)
    count = int(_used(_as_bits(_flat(tensor)), tensor.dtype).sum())
    return min(count * width + entropy_bits(count, size) / 8, float(size * width))


def signed_zeros(tensor: Tensor) -> int:
    """How many entries are -0.0."""
    if _negative_zero(tensor.dtype) is None or not tensor.numel():
        return 0
    bits = _as_bits(_flat(tensor))
    return int((~_used(bits, tensor.dtype) & (bits != 0)).sum())


def pieces_of(data: Bytes, records: Sequence[TensorRecord]) -> Iterator[list[Bytes]]:
    """The pieces of each tensor.

    Raises:
        ValueError: there are more or fewer bytes.
    """
    needed = sum(sum(record.lengths) for record in records)
    if needed != len(data):
        raise ValueError(f"there are {len(data)} bytes of tensors, needed are {needed}")
    start = 0
    for record in records:
        pieces = []
        for length in record.lengths:
            pieces.append(data[start : start + length])
            start += length
        yield pieces


def _raw(flat: Tensor) -> Bytes:
    if not len(flat):
        return np.empty(0, np.uint8)
    return flat.view(torch.uint8).numpy() if flat.dtype.itemsize > 1 else _as_bits(flat).numpy()


def _values(data: Bytes, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(data.copy()).view(dtype) if len(data) else torch.empty(0, dtype=dtype, device="cpu")


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1)


def _as_bits(flat: Tensor) -> Tensor:
    return flat.view(_BITS[flat.dtype.itemsize])


def _used(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Which entries are not zero, of either sign."""
    negative = _negative_zero(dtype)
    return bits != 0 if negative is None else (bits != 0) & (bits != negative)


def _negative_zero(dtype: torch.dtype) -> int | None:
    """The bits of -0.0, if there is such a number."""
    if not dtype.is_floating_point or str(dtype) in _ONE_ZERO:
        return None
    width = dtype.itemsize
    return 128 if width == 1 else -(1 << (8 * width - 1))
