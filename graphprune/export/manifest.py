"""``bundle.json``: what a bundle says of its model, and the checks that need no model."""

from __future__ import annotations

import graphlib
import math
from pathlib import Path
from typing import Any

import torch
from msgspec import Struct, to_builtins

from graphprune.errors import LoadError
from graphprune.export.architecture import Architecture
from graphprune.export.held_settings import check_settings
from graphprune.export.libraries import is_data
from graphprune.export.plain_data import decode
from graphprune.export.structure import LAYOUTS, ModuleData, Structure, TensorData
from graphprune.pruning.plan_json import MOST_ENTRIES
from graphprune.utils.float_types import is_float_type
from graphprune.utils.folders import ADVICE
from graphprune.utils.typed_json import Count, convert_data, read_json

BUNDLE_FORMAT = 1

MANIFEST = "bundle.json"

_LONGEST = 1 << 27


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a saved model besides plans and weights.

    Attributes:
        versions: of graphprune, torch, and the library that the model is of.
        architecture: what builds the dense model; None: ``load`` needs it.
        unknown: why there is no architecture.
        config: the dense configuration, of models that have one.
        plans: their number.
        inputs: what the dense model was traced with.
        costs: by budget kind, of the dense and of the slim model.
    """

    format: int
    versions: dict[str, str]
    architecture: Architecture | None
    unknown: str
    config: dict[str, Any] | None
    plans: Count
    inputs: tuple[dict[str, Any], ...]
    costs: dict[str, tuple[Count, Count]]
    structure: Structure

    def __post_init__(self) -> None:
        if not is_data([self.architecture.arguments if self.architecture else None, self.config, list(self.inputs)]):
            raise ValueError("there is a number that is none, or data that is nested too deeply")
        _check_modules(self.structure)
        for name, tensor in self.structure.tensors.items():
            _check_tensor(name, tensor, self.structure)


def write_manifest(data: Manifest) -> dict[str, Any]:
    """The inverse of :func:`read_manifest`, as JSON data."""
    written: dict[str, Any] = to_builtins(data)
    return written


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        LoadError: it is damaged, contradicts itself, or is of another format.
    """
    what = f"directory: {path}"
    data = read_json(path, what, ADVICE, _LONGEST)
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if found != BUNDLE_FORMAT:
        raise LoadError(
            f"{what}: bundle format {str(found)[:40]!r}; this version reads format {BUNDLE_FORMAT}",
            where=str(path),
            found=f"format {str(found)[:40]!r}",
            needed=f"format {BUNDLE_FORMAT}",
            do="load it with the version of graphprune that wrote it, and save it again",
        )
    return convert_data(data, Manifest, what, ADVICE)


def _check_modules(structure: Structure) -> None:
    paths = [module.path for module in structure.modules]
    if len(set(paths)) < len(paths) or paths[:1] != [""]:
        raise ValueError("structure: the modules do not begin with the model, or one is there twice")
    for module in structure.modules:
        _check_module(module, structure, set(paths))
    try:
        graph = {m.path: [c for c in m.children.values() if c is not None] for m in structure.modules}
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        raise ValueError("structure: a module holds itself") from error


def _check_module(module: ModuleData, structure: Structure, paths: set[str]) -> None:
    missing = [path for path in module.children.values() if path is not None and path not in paths]
    keys = [*module.parameters.values(), *module.buffers.values(), *(k for held in module.held.values() for k in held)]
    missing += [key for key in keys if key is not None and key not in structure.tensors]
    if missing:
        raise ValueError(f"structure: {module.path!r} holds {missing[0]!r}, which is not there")
    for value in module.settings.values():
        decode(value)
    for found in module.objects.values():
        check_settings(found)


def _check_tensor(name: str, data: TensorData, structure: Structure) -> None:
    if not isinstance(getattr(torch, data.dtype, None), torch.dtype):
        raise ValueError(f"structure: {name!r} has the type {data.dtype[:40]!r}, which is none")
    if data.layout and (data.layout not in LAYOUTS or len(data.shape) != (4 if data.layout == "channels_last" else 5)):
        raise ValueError(f"structure: {name!r} has the layout {data.layout[:40]!r}, which is none of its shape")
    if math.prod(data.shape) > MOST_ENTRIES or len(data.shape) > 64:
        raise ValueError(f"structure: {name!r} has {list(data.shape)[:8]}, needed are at most {MOST_ENTRIES} entries")
    if data.trained and not is_float_type(getattr(torch, data.dtype)):
        raise ValueError(f"structure: {name!r} is of {data.dtype} and cannot be trained")
    if data.shares is not None:
        other = structure.tensors.get(data.shares)
        if other is None or other.shares is not None or (other.shape, other.dtype) != (data.shape, data.dtype):
            raise ValueError(f"structure: {name!r} shares the memory of {data.shares[:80]!r}, which is not alike")
