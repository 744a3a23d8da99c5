"""Sparse models as one small file: the entries that are not zero and a code of their places, in safetensors.

The file has two tensors of bytes: ``index``, compressed JSON that says what each tensor is, and ``data``, the bytes of
all of them. Its metadata has the format, a version and a SHA-256 checksum of both.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from msgspec import Struct, to_builtins
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from graphprune.errors import InputError, LoadError, SaveError
from graphprune.pruning.plan import Plan, plans_of, replay
from graphprune.pruning.plan_json import read_plan_data
from graphprune.pruning.resuming import remaining_plans, replayed_without_data
from graphprune.sparsity.gap_coding import Bytes
from graphprune.sparsity.sparse_tensors import (
    ENTRY_TYPES,
    TensorRecord,
    bound_bytes,
    pieces_of,
    read_tensor,
    signed_zeros,
    write_tensor,
)
from graphprune.utils.checks import found_value, shown
from graphprune.utils.files import check_file_path, check_path, make_folder, replace_file, writing_tensors
from graphprune.utils.model_checks import check_model, check_same_tensors
from graphprune.utils.prune_masks import MASK, ORIGINAL
from graphprune.utils.tables import Printed
from graphprune.utils.typed_json import convert_data, parse_json

FORMAT = {"format": "graphprune-sparse", "version": "1"}

_LONGEST_INDEX = 1 << 26
_FREE_INDICES = 1 << 22
_INDICES_PER_ENTRY = 8
_RESTORE = "restore the file from a copy, or write it again with graphprune.save_sparse"


@dataclass(frozen=True, repr=False)
class SparseFile(Printed):
    """What :func:`save_sparse` wrote.

    Attributes:
        path: the file.
        bytes: its size.
        bound: bytes of the entries that are not zero, with the entropy of their places.
        dense: bytes of all entries.
        signed_zeros: entries that are -0.0, which takes a bit for each zero of their tensors;
            :func:`graphprune.make_permanent` clears signs.
    """

    path: Path
    bytes: int
    bound: int
    dense: int
    signed_zeros: int

    def _summary(self) -> str:
        return f"SparseFile: {self}"

    def _parts(self) -> Iterator[str]:
        share = f"{self.bytes / max(self.dense, 1):.1%} of {self.dense:,} dense"
        text = f"{self.path}: {self.bytes:,} bytes, {share}, {self.bytes / max(self.bound, 1):.3f} of the entropy bound"
        yield f"{text}; {self.signed_zeros:,} zeros have signs" if self.signed_zeros else text


class _Index(Struct, frozen=True, forbid_unknown_fields=True):
    """What a file holds.

    Attributes:
        tensors: by name in the order of the state dict; a string is the name of an earlier tensor, which this one is.
        plans: those that the model went through, as JSON data.
    """

    tensors: dict[str, TensorRecord | str]
    plans: tuple[dict[str, Any], ...]


def save_sparse(source: nn.Module | Mapping[str, Tensor], path: str | os.PathLike[str]) -> SparseFile:
    """Write a model with many zeros as a small file, of which every tensor is read back bit for bit.

    Masks of ``torch.nn.utils.prune`` are written as the zeros that they make (as after
    :func:`graphprune.make_permanent`), so the file fits the model without masks. A tensor of few zeros is written
    whole. The plans that a model was pruned by (:func:`graphprune.prune_model`) are part of the file.

    Args:
        source: a model, or a state dict.
        path: of the file; it is replaced whole.

    Returns:
        The size, beside what it could be at best.

    Raises:
        SaveError: something in the state dict is no tensor, or has no values.
        InputError: the path is that of a folder.
    """
    plans, state = _contents(source)
    tensors = _unmasked(_checked(state))
    file = check_file_path("path", path, "model.sparse")
    make_folder("path", file.parent)
    index, data = _packed(tensors, plans)
    sums = FORMAT | {"sha256": _checksum(index, data)}
    with writing_tensors(file):
        replace_file(file, partial(save_file, {"index": index, "data": data}, metadata=sums))
    known = {id(tensor): tensor for tensor in tensors.values()}.values()
    dense, bound = sum(t.nbytes for t in known), sum(map(bound_bytes, known))
    return SparseFile(file, file.stat().st_size, round(bound), dense, sum(map(signed_zeros, known)))


@overload
def load_sparse(path: str | os.PathLike[str]) -> dict[str, Tensor]: ...
@overload
def load_sparse(path: str | os.PathLike[str], model: nn.Module) -> nn.Module: ...
def load_sparse(path: str | os.PathLike[str], model: nn.Module | None = None) -> dict[str, Tensor] | nn.Module:
    """Read what :func:`save_sparse` wrote, as dense tensors.

    Masks are put again by ``graphprune.sparsify(model, 0.0, method="threshold")``, where training is to go on.

    Args:
        path: of the file.
        model: is given the tensors, in place; of the same architecture, either as small as the one that was saved, or
            the dense model from which the saved plans make it.

    Returns:
        The state dict; or the model, if one is given.

    Raises:
        LoadError: the file is damaged, or of another model. The model is unchanged then.
        InputError: the model has masks, or no weights.
    """
    file = check_path("path", path)
    if model is not None:
        check_model(model)
    index, state = _unpacked(file)
    if model is None:
        return state
    _fill(model, state, index.plans, file)
    return model


# ---------------------------------------------------------------- writing


def _contents(source: object) -> tuple[tuple[Plan, ...], Mapping[str, Any]]:
    if isinstance(source, nn.Module):
        check_model(source, "source")
        return plans_of(source), source.state_dict()
    if not isinstance(source, Mapping):
        raise InputError(
            f"source: must be a torch.nn.Module or a state dict, but is {shown(source)}",
            found=found_value(source),
            needed="a torch.nn.Module or a state dict",
            do="pass the model, or model.state_dict()",
        )
    return (), source


def _checked(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise SaveError(
                f"source: {name!r} is {shown(tensor)}, and only tensors can be written",
                where=str(name),
                found=found_value(tensor),
                needed="tensors by names that are strings",
                do="pass model.state_dict(), without what is no tensor",
            )
        if tensor.is_meta:
            raise SaveError(
                f"source: {name} is on meta, and has no values",
                where=name,
                found="a tensor on meta, without values",
                needed="tensors with values",
                do="load the weights first",
            )
        if is_traceable_wrapper_subclass(tensor):
            kind = type(tensor).__name__
            raise SaveError(
                f"source: {name} is a {kind}",
                where=name,
                found=f"a {kind}, a wrapper around other tensors",
                needed="plain tensors",
                do="pass a state dict with the plain tensors that it is made of",
            )
        if tensor.layout != torch.strided or str(tensor.dtype).removeprefix("torch.") not in ENTRY_TYPES:
            raise SaveError(
                f"source: {name} is a {tensor.layout} tensor of {tensor.dtype}",
                where=name,
                found=f"layout {tensor.layout}, {tensor.dtype}",
                needed=f"torch.strided tensors of {', '.join(sorted(ENTRY_TYPES))}",
                do="make it an ordinary one, as with tensor.to_dense()",
            )
    return dict(state)


def _unmasked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict, with zeros in place of masks; the same object for what is tied."""
    found: dict[str, Tensor] = {}
    first: dict[tuple[object, ...], Tensor] = {}
    for name, tensor in state.items():
        if name.endswith(MASK) and name.removesuffix(MASK) + ORIGINAL in state:
            continue
        plain = name.removesuffix(ORIGINAL)
        mask = state.get(plain + MASK) if plain != name else None
        value = tensor if mask is None else torch.where(mask != 0, mask.to(tensor.dtype) * tensor, 0)
        earlier = first.setdefault((mask is None, *_memory(name, tensor)), value)
        same = mask is None or torch.equal(earlier, value)
        found[name if mask is None else plain] = earlier if same else value
    return found


def _memory(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Equal for tensors that are one."""
    if not tensor.numel():
        return (name,)
    place = tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.device
    return (*place, tensor.dtype, tensor.shape, tensor.stride())


def _packed(tensors: Mapping[str, Tensor], plans: Iterable[Plan]) -> tuple[Bytes, Bytes]:
    """The index and the data of a file."""
    records: dict[str, Any] = {}
    first: dict[int, str] = {}
    pieces: list[Bytes] = []
    for name, tensor in tensors.items():
        if id(tensor) in first:
            records[name] = first[id(tensor)]
            continue
        first[id(tensor)] = name
        record, bytes_ = write_tensor(tensor)
        records[name] = to_builtins(record)
        pieces += bytes_
    index = {"tensors": records, "plans": [plan.to_data() for plan in plans]}
    text = json.dumps(index, separators=(",", ":")).encode()
    return np.frombuffer(zlib.compress(text, 9), np.uint8), np.concatenate([np.empty(0, np.uint8), *pieces])


def _checksum(index: Bytes, data: Bytes) -> str:
    found = hashlib.sha256(index.data)
    found.update(data.data)
    return found.hexdigest()


# ---------------------------------------------------------------- reading


def _unpacked(file: Path) -> tuple[_Index, dict[str, Tensor]]:
    what = f"path: {file} is no sparse file of graphprune"
    parts = _checked_parts(file, what)
    index = convert_data(parse_json(_inflated(parts["index"], what), what, _RESTORE), _Index, what, _RESTORE)
    try:
        return index, _tensors(index.tensors, parts["data"])
    except (ValueError, RuntimeError, MemoryError, OverflowError) as error:
        raise LoadError(
            f"path: {file} is damaged: {error}",
            where=str(file),
            found=str(error),
            needed="an index that its data fit to",
            do=_RESTORE,
        ) from error


def _checked_parts(file: Path, what: str) -> dict[str, Bytes]:
    """The index and the data of a file.

    Raises:
        LoadError: it is no such file, or its checksum differs.
    """
    try:
        parts, metadata = _parts(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise LoadError(
            f"{what} ({type(error).__name__}: {error})",
            where=str(file),
            found=f"{type(error).__name__}: {error}",
            needed="a file that graphprune.save_sparse wrote",
            do=_RESTORE,
        ) from error
    if {name: metadata.get(name) for name in FORMAT} != FORMAT or parts.keys() != {"index", "data"}:
        raise LoadError(
            f"{what}, or of another version than {FORMAT['version']}",
            where=str(file),
            found=f"metadata {dict(list(metadata.items())[:4])}",
            needed=f"metadata {FORMAT}",
            do=_RESTORE,
        )
    if any(part.dtype != np.uint8 or part.ndim != 1 for part in parts.values()):
        raise LoadError(
            f"{what}: its tensors are not of bytes",
            where=str(file),
            found=", ".join(f"{name} of {part.dtype}" for name, part in parts.items()),
            needed="index and data of uint8",
            do=_RESTORE,
        )
    if metadata.get("sha256") != _checksum(parts["index"], parts["data"]):
        raise LoadError(
            f"path: {file} is damaged: its checksum differs",
            where=str(file),
            found=f"the checksum {_checksum(parts['index'], parts['data'])}",
            needed=f"the checksum {metadata.get('sha256')}",
            do=_RESTORE,
        )
    return parts


def _parts(file: Path) -> tuple[dict[str, Bytes], dict[str, str]]:
    with safe_open(file, framework="numpy") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def _inflated(index: Bytes, what: str) -> str:
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(index.tobytes(), _LONGEST_INDEX)
        if not inflater.eof:
            raise ValueError("it goes on, or is cut")
        return text.decode()
    except (zlib.error, ValueError) as error:
        raise LoadError(
            f"{what}: its index cannot be read ({error})",
            where=f"{what}: the index",
            found=str(error),
            needed="an index that is compressed with zlib",
            do=_RESTORE,
        ) from error


def _tensors(entries: Mapping[str, TensorRecord | str], data: Bytes) -> dict[str, Tensor]:
    records = {name: record for name, record in entries.items() if isinstance(record, TensorRecord)}
    for name, record in records.items():
        if record.t not in ENTRY_TYPES:
            raise ValueError(f"{name} is of {record.t!r}, which is no data type")
    pieces = pieces_of(data, list(records.values()))
    own = {name: read_tensor(record, each) for (name, record), each in zip(records.items(), pieces, strict=True)}
    found = {}
    for name, entry in entries.items():
        first = entry if isinstance(entry, str) else name
        if first not in own:
            raise ValueError(f"{name} is said to be {first!r}, which is not there")
        found[name] = own[first]
    return found


def _fill(model: nn.Module, state: Mapping[str, Tensor], data: Sequence[Mapping[str, Any]], file: Path) -> None:
    own = model.state_dict()
    masked = next((name for name in own if name.endswith(ORIGINAL) and name.removesuffix(ORIGINAL) + MASK in own), None)
    if masked is not None:
        raise InputError(
            f"model: has masks ({masked})",
            where=masked,
            found="masks of torch.nn.utils.prune",
            needed="a model without masks, as the file has it",
            do="pass it without, then graphprune.sparsify(model, 0.0, method='threshold') masks its zeros",
        )
    if any(tensor.is_meta for tensor in own.values()):
        raise InputError(
            "model: is on meta",
            where=next(name for name, tensor in own.items() if tensor.is_meta),
            found="tensors on meta, which have no values to fill",
            needed="a model with weights",
            do="pass a model with weights, or load_sparse(path) to load_state_dict(..., assign=True)",
        )
    plans = _plans(data, state, file)
    left = remaining_plans(model, plans, f"file {file}") if plans else ()
    own = replayed_without_data(model, left, str(file), before=len(plans) - len(left)).state_dict()
    other = f"pass the model that was saved in {file}, or the dense one that it was made from"
    check_same_tensors(f"model: this {type(model).__name__}", own, state, "file", other)
    for plan in left:
        replay(plan, model)
    model.load_state_dict(dict(state))


def _plans(data: Sequence[Mapping[str, Any]], state: Mapping[str, Tensor], file: Path) -> list[Plan]:
    """The plans, of which none names more indices than the tensors can need."""
    what = f"path: {file}"
    most = _FREE_INDICES + _INDICES_PER_ENTRY * sum(tensor.numel() for tensor in state.values())
    for plan in data:
        if (count := read_plan_data(plan, what).indices) > most:
            raise LoadError(
                f"{what}: a plan has {count} indices, more than its tensors can need",
                where=str(file),
                found=f"{count} indices",
                needed=f"at most {most}",
                do=_RESTORE,
            )
    return [Plan.from_data(plan, what) for plan in data]
