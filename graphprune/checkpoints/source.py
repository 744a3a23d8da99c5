"""A folder that Transformers wrote: its model without weights, and its tensors in files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import InputError, LoadError
from graphprune.tracing.built_empty import build_empty
from graphprune.tracing.configured import needs_code
from graphprune.utils.modules import tables
from graphprune.utils.tensor_files import StoredTensor, TensorFiles

_GENERATION = "generation_config.json"

IN_MEMORY = "load it with from_pretrained, and use graphprune.prune_model and graphprune.save_pretrained"

_WITH_CODE = (
    "if you trust that code, load the model with from_pretrained(..., trust_remote_code=True), and use "
    "graphprune.prune_model and graphprune.save (on the command line: graphprune prune FILE.py:FUNCTION, of a function "
    "that returns the model)"
)


@dataclass(frozen=True)
class SourceCheckpoint:
    """A checkpoint that is to be pruned.

    Attributes:
        folder: with ``config.json`` and safetensors files.
        kind: the class of Transformers that ``config.json`` names.
        config: the configuration.
        dtype: of the model.
        files: the tensors, by their names in the files.
    """

    folder: Path
    kind: Any
    config: Any
    dtype: torch.dtype
    files: TensorFiles

    @staticmethod
    def of(folder: Path) -> SourceCheckpoint:
        """Read the configuration and the headers of all files.

        Raises:
            InputError: it is no folder of Transformers, or its class is not part of Transformers.
            LoadError: files are missing or damaged.
        """
        if not (folder / "config.json").is_file():
            raise InputError(
                f"source: {folder} has no config.json",
                where=str(folder / "config.json"),
                found="no such file",
                needed="a folder that save_pretrained of Transformers wrote",
                do="pass such a folder",
            )
        config, kind = _architecture(folder)
        files = TensorFiles(folder)
        return SourceCheckpoint(folder, kind, config, _dtype(config, files), files)

    def build(self) -> tuple[nn.Module, dict[str, StoredTensor]]:
        """The model with its parameters on ``meta``, and by name where each of its tensors is.

        Buffers have their values: those of the files, or those that the class gives them.

        Raises:
            LoadError: the files have other tensors than the model, or the model cannot be built.
        """
        model = self._empty()
        if (self.folder / _GENERATION).is_file() and model.can_generate():
            model.generation_config = type(model.generation_config).from_pretrained(self.folder)
        stored = _stored_of(model, self.files.stored, self.folder)
        for name, buffer in tables(model).buffers.items():
            if name in stored:
                buffer.copy_(stored[name].map())
        return model, stored

    def _empty(self) -> Any:
        """What the class builds of the configuration, if that is not far more than there is in the files."""
        try:
            return build_empty(self.kind, self.config, self.dtype, most=2 * len(self.files.stored) + MORE_PARAMETERS)
        except LoadError:
            raise
        except Exception as error:  # of any kind: classes do with a configuration what they like
            raise LoadError(
                f"source: {self.kind.__name__} cannot be built as {self.folder / 'config.json'} says: {error}",
                where=str(self.folder / "config.json"),
                found=f"{type(error).__name__}: {error}",
                needed="the configuration that the checkpoint was written with",
                do="get the file again",
            ) from error

    def fingerprint(self) -> dict[str, list[int]]:
        """By the name of each file that matters, its size and the time of its last change."""
        stats = {path.name: path.stat() for path in (self.folder / "config.json", *self.files.files)}
        return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _architecture(folder: Path) -> tuple[Any, Any]:
    """The configuration and the class of a folder.

    Raises:
        InputError: Transformers cannot read it, or the class is not part of it, or it is quantized.
    """
    import transformers

    file = folder / "config.json"
    config = _configuration(folder, file)
    names = getattr(config, "architectures", None) or []
    kind = next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None)
    if kind is None and getattr(config, "auto_map", None):
        raise _own_code(file)
    if kind is None:
        raise InputError(
            f"source: {file} names no class of Transformers among its architectures {names}",
            where=str(file),
            found=f"architectures {names}",
            needed="a class of Transformers",
            do=IN_MEMORY,
        )
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"source: the checkpoint in {folder} is quantized",
            where=str(file),
            found="a quantization_config",
            needed="weights in floating point",
            do="prune the one that it was made from, and quantize the slim one",
        )
    return config, kind


def _configuration(folder: Path, file: Path) -> Any:
    """The configuration of a folder, which is in this file.

    Raises:
        InputError: Transformers cannot read it.
    """
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any kind, as classes of configurations check what they like
        if needs_code(error):
            raise _own_code(file) from error
        raise InputError(
            f"source: {file} is no configuration of Transformers: {error}",
            where=str(file),
            found=f"{type(error).__name__}: {error}",
            needed="a configuration that this version of Transformers knows",
            do="pass a folder that save_pretrained wrote, or install the version of Transformers that wrote it",
        ) from error


def _own_code(file: Path) -> InputError:
    """The error about a configuration whose model is a class of Python files that come with the checkpoint."""
    return InputError(
        f"source: {file} names classes of Python files that come with the checkpoint, and these are not run",
        where=f"{file}: auto_map",
        found="an auto_map, which Transformers follows with trust_remote_code=True",
        needed="a class of Transformers",
        do=_WITH_CODE,
    )


def _dtype(config: Any, files: TensorFiles) -> torch.dtype:
    """The type that Transformers loads a checkpoint in: that of its configuration, or of its first tensor."""
    named = getattr(config, "dtype", None)
    if isinstance(named, str):
        named = getattr(torch, named, None)
    stored = (one.dtype for one in files.stored.values() if one.dtype.is_floating_point)
    return named if isinstance(named, torch.dtype) else next(stored, torch.float32)


MORE_PARAMETERS = 1000
"""Parameters that a model may have beyond twice the tensors of its checkpoint, such as ones that are shared."""


# ---------------------------------------------------------------- tensors of the model and of the files


def _stored_of(model: nn.Module, files: Mapping[str, StoredTensor], folder: Path) -> dict[str, StoredTensor]:
    """For the first name of every tensor of the model that is saved, where it is.

    Raises:
        LoadError: one is missing, has another shape, or there are others.
    """
    names = _names_in_files(model, files)
    state = model.state_dict(keep_vars=True)
    found: dict[int, StoredTensor] = {}
    for name, tensor in state.items():
        if names[name] in files:
            found.setdefault(id(tensor), files[names[name]])
    _check_shapes(state, found, folder)
    used = {names[name] for name in state}
    ignored = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    others = sorted(n for n in files.keys() - used if not any(re.search(pattern, n) for pattern in ignored))
    if others:
        raise LoadError(
            f"source: {folder} has a tensor {others[0][:80]!r} ({len(others)} such names), which "
            f"{type(model).__name__} does not have under this name",
            where=f"{folder}: {others[0][:80]}",
            found=f"{len(others)} names that the model does not have",
            needed=f"the names of {type(model).__name__}",
            do=IN_MEMORY,
        )
    return {name: found[id(tensor)] for name, tensor in tables(model).unique() if id(tensor) in found}


def _check_shapes(state: Mapping[str, Any], found: Mapping[int, StoredTensor], folder: Path) -> None:
    missing = [name for name, tensor in state.items() if id(tensor) not in found]
    if missing:
        raise LoadError(
            f"source: {folder} has no tensor {missing[0]!r} ({len(missing)} such names), which the model has",
            where=f"{folder}: {missing[0]}",
            found=f"{len(missing)} names that are missing",
            needed=f"the {len(state)} tensors of the model",
            do=f"get the files again, or {IN_MEMORY}",
        )
    for name, tensor in state.items():
        if tuple(tensor.shape) != found[id(tensor)].shape:
            raise LoadError(
                f"source: {name} has shape {list(found[id(tensor)].shape)} in {found[id(tensor)].path}, and "
                f"{list(tensor.shape)} by config.json",
                where=f"{found[id(tensor)].path}: {name}",
                found=f"shape {list(found[id(tensor)].shape)}",
                needed=f"shape {list(tensor.shape)}, by config.json",
                do="get the files again",
            )


def _names_in_files(model: Any, files: Mapping[str, StoredTensor]) -> dict[str, str]:
    """For every name in the state of the model, that in the files: the base model may stand alone there."""
    names = list(model.state_dict())
    prefix = f"{getattr(model, 'base_model_prefix', '') or ''}."
    changes: tuple[Callable[[str], str], ...] = (
        str,
        lambda name: name.removeprefix(prefix),
        lambda name: prefix + name,
    )
    best = max(changes, key=lambda change: sum(change(name) in files for name in names))
    return {name: name if name in files else best(name) for name in names}


class SourceTensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint by their names in the model, each mapped when it is asked for."""

    def __init__(self, stored: Mapping[str, StoredTensor], read: Any) -> None:
        self._stored = stored
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        found: Tensor = self._read(self._stored[name])
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)
