"""The weights of a model on ``meta``, from where they are: a folder of safetensors files, or tensors by name."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.tracing.built_empty import build_empty
from graphprune.tracing.configured import config_of
from graphprune.utils.checks import found_value, shown
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import Tables, copied_as, is_parameter, tables
from graphprune.utils.tensor_files import TensorFiles

GivenWeights = str | os.PathLike[str] | Mapping[str, Tensor]
"""A folder that Transformers wrote, tensors by name, or what ``safetensors.safe_open`` gives."""


def read_weights(weights: Any) -> Mapping[str, Tensor]:
    """Tensors by name, each of which is read when it is asked for.

    Raises:
        InputError: it is no folder and no tensors by name.
        LoadError: the files in the folder are damaged.
    """
    if isinstance(weights, str | os.PathLike):
        folder = Path(os.fsdecode(weights))
        if not folder.is_dir():
            raise InputError(
                f"weights: {folder} is no folder",
                where=str(folder),
                found="a file" if folder.exists() else "nothing at this path",
                needed="a folder that save_pretrained of Transformers wrote",
                do="pass such a folder, or a dict of tensors by name",
            )
        return TensorFiles(folder)
    if isinstance(weights, Mapping):
        return weights
    if hasattr(weights, "get_tensor") and hasattr(weights, "keys"):
        return _Opened(weights)
    raise InputError(
        f"weights: must be a folder or tensors by name, but is {shown(weights)}",
        found=found_value(weights),
        needed="a folder with safetensors files, a mapping of tensors by name, or a file that safetensors.safe_open "
        "opened",
        do="pass the folder of the checkpoint",
    )


class _Opened(Mapping[str, Tensor]):
    """A file that ``safetensors.safe_open`` opened."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._names = tuple(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        found: Tensor = self._file.get_tensor(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _GivenTensors(Mapping[str, Tensor]):
    """Tensors of a model, some of which come from ``weights``. None of them is kept.

    Args:
        own: the model's, by name.
        source: the names that ``weights`` has for those that come from there.
    """

    def __init__(self, own: Mapping[str, Tensor], source: Mapping[str, str], weights: Mapping[str, Tensor]) -> None:
        self._own, self._source, self._weights = own, source, weights

    def __getitem__(self, name: str) -> Tensor:
        own = self._own[name]
        return given_tensor(self._source[name], own, self._weights) if name in self._source else own

    def __contains__(self, name: object) -> bool:
        return name in self._own

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


class GivenParameters(_GivenTensors):
    """The parameters of a model that have entries, and buffers that are weights; those on ``meta`` from ``weights``.

    None of them is kept: a criterion that takes them one by one needs the memory of one.

    Args:
        own: the tensors of the model.
        parameters: of these the ones that are asked for, by first name.
        weights: by any of the names that a parameter has.

    Raises:
        InputError: ``weights`` lacks one.
    """

    def __init__(self, own: Tables, parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        given = {n: t for n, t in parameters.items() if is_parameter(t) or _found(n, t, own, weights)}
        source = {n: _source(n, t, own, weights) for n, t in given.items() if t.is_meta}
        super().__init__({n: t for n, t in parameters.items() if n in source or not t.is_meta}, source, weights)


class KnownBuffers(_GivenTensors):
    """The tensors of a model beside parameters that have values; those on ``meta`` where ``weights`` has them.

    Args:
        own: the tensors of the model.
        weights: by any of the names that a buffer has.
    """

    def __init__(self, own: Tables, weights: Mapping[str, Tensor]) -> None:
        tensors = own.buffers | own.plain
        source = {n: found for n, t in tensors.items() if t.is_meta and (found := _found(n, t, own, weights))}
        super().__init__({n: t for n, t in tensors.items() if n in source or not t.is_meta}, source, weights)


def _found(name: str, tensor: Tensor, own: Tables, weights: Mapping[str, Tensor]) -> str | None:
    """The name under which ``weights`` has a tensor of the model; None: it has not."""
    return name if name in weights else next((n for n, t in own.named() if t is tensor and n in weights), None)


def _source(name: str, tensor: Tensor, own: Tables, weights: Mapping[str, Tensor]) -> str:
    """The name under which ``weights`` must have a tensor of the model."""
    found = _found(name, tensor, own, weights)
    if found is None:
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        raise _lacking(name, kind, weights, "pass the weights of this very model, or load it")
    return found


def _lacking(name: str, kind: str, weights: Mapping[str, Tensor], advice: str) -> InputError:
    return InputError(
        f"weights: has no {name!r}, a {kind} of the model that is on the meta device",
        where=name,
        found=f"{len(weights)} tensors, such as {next(iter(weights), None)!r}",
        needed=f"{name!r}",
        do=advice,
    )


def given_tensor(name: str, own: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """A tensor of ``weights`` in the type of the model's own.

    Raises:
        InputError: it has another shape.
    """
    found = weights[name]
    if found.shape != own.shape:
        raise InputError(
            f"weights: {name!r} has shape {list(found.shape)}, and {list(own.shape)} in the model",
            where=name,
            found=f"shape {list(found.shape)}",
            needed=f"shape {list(own.shape)}",
            do="pass the weights of this very model",
        )
    return found.detach().to(own.dtype)


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model on ``meta`` that has weights and can be run; tensors that are not on ``meta`` are shared.

    Tensors that no checkpoint has, such as the frequencies of rotary embeddings, have the values that the class gives
    them, where it builds the model from a configuration.

    Raises:
        InputError: ``weights`` lacks a parameter or buffer, or has it in another shape.
    """
    own = tables(model)
    tensors = own.everything()
    unsaved = _unsaved_tensors(model, own, weights)
    for name, tensor in own.unique():
        if tensor.is_meta:
            source = unsaved if name in unsaved else weights
            found = given_tensor(_source(name, tensor, own, source), tensor, source)
            tensors[id(tensor)] = copied_as(tensor, found)
    return copy_module(model, tensors)


def _unsaved_tensors(model: nn.Module, own: Tables, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By name those on ``meta`` that no checkpoint has and ``weights`` has not, as the class makes them.

    Raises:
        InputError: the class builds no model from a configuration, or one with other tensors.
    """
    lacking = {
        name: tensor
        for name, tensor in own.unique()
        if tensor.is_meta and not own.is_saved(name) and _found(name, tensor, own, weights) is None
    }
    made = _as_built(model, own) if lacking else {}
    for name, tensor in lacking.items():
        if name not in made or made[name].shape != tensor.shape:
            advice = "give the model this tensor with its values before it is traced, or load the model"
            raise _lacking(name, "buffer that no state dict has (persistent=False)", weights, advice)
    return {name: made[name] for name in lacking}


def _as_built(model: nn.Module, own: Tables) -> dict[str, Tensor]:
    """The tensors beside parameters that the class of a model makes, if it builds it from a configuration."""
    config = config_of(model)
    if config is None:
        return {}
    dtype = next((p.dtype for p in own.parameters.values() if p.is_floating_point()), torch.float32)
    try:
        built = tables(build_empty(type(model), copy.deepcopy(config), dtype))
    except TypeError:  # its constructor asks for more than a configuration
        return {}
    return built.buffers | built.plain
