"""What is asked of a run, as JSON data, by which a run that goes on knows that it is asked the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from graphprune.checkpoints.source import SourceCheckpoint
from graphprune.planning.options import OPTION_FIELDS, PruningOptions
from graphprune.utils.tree import tensors_of


def request_of(checkpoint: SourceCheckpoint, options: PruningOptions, others: Mapping[str, Any]) -> dict[str, Any]:
    """The source with the state of its files, the options that are given, and ``others``; batches by a checksum."""
    given = {one.name: getattr(options, one.name) for one in OPTION_FIELDS}
    told = {name: _data(value) for name, value in given.items() if name not in ("calibration", "weights")}
    batches = None if options.calibration is None else _checksum(options.calibration)
    source = {"source": str(checkpoint.folder.resolve()), "files of the source": checkpoint.fingerprint()}
    return source | told | {"calibration": batches} | {name: _data(value) for name, value in others.items()}


def _data(value: Any) -> Any:
    """A value as JSON data that is the same in another process: functions by their names."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(_data(key)): _data(item) for key, item in value.items()}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    tensors = list(tensors_of(value))
    return _checksum([tensors]) if tensors else repr(value)


def _checksum(batches: Iterable[Any]) -> str:
    """A checksum of the tensors in batches."""
    found = hashlib.sha256()
    for tensor in (tensor for batch in batches for tensor in tensors_of(batch)):
        found.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
