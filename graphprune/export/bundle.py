"""Save a slim model as safetensors and JSON, and load it again. Nothing is pickled.

A bundle is a folder with one version of a model in a folder of its own, so that it is replaced whole:

- ``bundle.json``: what builds the dense model, the structure of the slim one, costs, inputs and versions;
- ``plan-0.json`` and so on: the plans that the model went through;
- ``model.safetensors``, or several with an index: every parameter and buffer, also those that no state dict has;
- ``checksums.json``: SHA-256 of all of these.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import InputError, LoadError, PlanError, UnsavedValuesWarning
from graphprune.export.architecture import IMPORT, Architecture, build
from graphprune.export.libraries import packed, unpacked
from graphprune.export.manifest import BUNDLE_FORMAT, MANIFEST, Manifest, read_manifest, write_manifest
from graphprune.export.rebuilding import (
    check_restorable,
    differing_values,
    find_architecture,
    given_architecture,
    module_limit,
)
from graphprune.export.restoring import missing_hooks, restore
from graphprune.export.shards import ShardReader, check_types, write_shards
from graphprune.export.structure import LAYOUTS, Structure, TensorData, describe_structure
from graphprune.export.unsaved import unsaved_values
from graphprune.pruning.plan import Plan, PruningHistory, history_of, plans_of, record_history
from graphprune.pruning.plan_json import read_plan_data
from graphprune.pruning.resuming import fitting_plans, replayed_without_data
from graphprune.utils.byte_sizes import read_size
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import check_flag
from graphprune.utils.compiled import compiled_as, uncompiled
from graphprune.utils.devices import device_with_values
from graphprune.utils.files import check_path
from graphprune.utils.folders import ADVICE, Versions, check_version, found_instead
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.typed_json import read_json

PLANS = "plan-{number}.json"

_FREE_INDICES = 1 << 22

_INDICES_PER_BYTE = 8
"""A plan may name so many indices for a byte of weights: no more memory is needed for it than the files justify."""


@leaves_torch_alone
def save(
    slim: nn.Module,
    directory: str | os.PathLike[str],
    *,
    factory: Callable[..., nn.Module] | None = None,
    arguments: Mapping[str, Any] | None = None,
    max_shard_size: int | str = "5GB",
    beside_others: bool = False,
) -> None:
    """Write a slim model with everything that is needed to load it.

    If the process is killed, the directory holds the bundle that was there before, or the new one.

    The bundle records how to build the dense model again, where that is known: by torchvision, timm or Transformers,
    by the ``factory``, or by a class that can be imported and takes no arguments. It is tried on ``meta`` and compared.
    Otherwise, ``load`` needs the dense model.

    Args:
        slim: a model made by ``prune_model`` or ``Plan.apply``, trained further or not, compiled or not. Heads, layers
            and settings may have been changed since, as long as what is new consists of modules of ``torch.nn``.
        directory: created where missing; holds nothing but versions of this bundle.
        factory: a function or class that can be imported and makes the dense model, or a ``functools.partial`` of one
            with arguments that are JSON data. Whoever loads the bundle must trust it.
        arguments: its keyword arguments, JSON data; they override those of a partial.
        max_shard_size: bytes of weights in one file, as a number or such as ``"5GB"``.
        beside_others: the directory may hold other files, which are left alone.

    Warns of arrays of numpy, of generators of random numbers, of modules in plain lists, of a ``forward`` that was set
    on a module, and of dictionaries, nested lists and long texts that differ from what the class makes without
    arguments: a bundle holds parameters, buffers, tensors, numbers, flags and short names.

    Raises:
        PlanError: the model was not made by graphprune, so there is no plan to save.
        InputError: the directory holds something else, or the factory cannot be imported or has arguments that cannot
            be written. Nothing of it is changed.
        SaveError: the model could not be loaded again; the message says what is in the way.
    """
    plans = _plans_to_save(slim)
    slim = uncompiled(slim)
    folder, most = check_path("directory", directory), read_size("max_shard_size", max_shard_size)
    versions = bundle_versions(folder)
    check_flag("beside_others", beside_others)
    if not beside_others:
        versions.check_own()
    structure, tensors = describe_structure(slim)
    check_types(tensors)
    architecture, unknown = _architecture(slim, structure, factory, arguments)
    _warn_of_unsaved(unsaved_values(slim, structure))
    if architecture is None:
        _warn_of_unsaved(differing_values(slim, structure))
    manifest = _manifest(slim, structure, architecture, unknown)
    versions.write(partial(_write, manifest=manifest, plans=plans, tensors=tensors, most=most))


def _some(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _warn_of_unsaved(lost: list[str]) -> None:
    """Warn of values that ``load`` cannot bring back: it leaves what the dense model's own code makes."""
    if lost:
        warnings.warn(
            f"slim: a bundle holds parameters, buffers and tensors, but not {_some(lost)}; a loaded "
            "model has there what its class makes. Values that were changed since belong into buffers "
            "(register_buffer) and nn.ModuleList, or use torch.save(slim)",
            UnsavedValuesWarning,
            stacklevel=frames_of_this_package(),
        )


@leaves_torch_alone
def load(
    directory: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    device: str | torch.device = "cpu",
    trust_factory: bool = False,
) -> nn.Module:
    """Load a saved slim model. Weights are memory-mapped on the CPU, and no dense weights are needed or allocated.

    Args:
        directory: as it was given to :func:`save`.
        model: a fresh dense model of the original architecture, or the model as it was before a later pruning, on any
            device (``meta`` too); it is not changed. Layers that got other sizes between two prunings get these again;
            after other changes between them it has to be the model before the last one. None: it is built as the
            bundle says, with torchvision, timm or Transformers.
        device: where the weights of the model go.
        trust_factory: let the bundle import and call the factory that it names. That may run any code.

    Raises:
        InputError: ``device`` is none, or is not there.
        LoadError: files are missing, damaged or of another architecture, or ``model`` or ``trust_factory`` is needed.

    Warns:
        UnsavedValuesWarning: modules had hooks that nothing has registered here.
    """
    folder = check_path("directory", directory)
    check_flag("trust_factory", trust_factory)
    where = device_with_values(device)
    if model is not None:
        check_model(model)
    versions = bundle_versions(folder)
    while True:
        latest = versions.latest()
        try:
            return _loaded(folder, model, where, trust_factory)
        except LoadError:
            if versions.latest() == latest:
                raise  # else another process wrote a version meanwhile, in the place of this one


def _loaded(folder: Path, model: nn.Module | None, where: torch.device, trust_factory: bool) -> nn.Module:
    """What the last version of a bundle holds; see :func:`load`."""
    version, files = _last_version(folder)
    manifest = read_manifest(files[MANIFEST])
    plans = _read_plans(version, files, manifest)
    dense = uncompiled(model) if model is not None else _build(version, manifest, trust_factory)
    left = fitting_plans(dense, plans)
    slim = replayed_without_data(dense, left, str(version), len(plans) - len(left), reshaping=True)
    tensors = ShardReader(version, files, where).read(_needed(manifest.structure))
    tensors = {name: _laid_out(tensor, manifest.structure.tensors[name]) for name, tensor in tensors.items()}
    problems = restore(slim, manifest.structure, tensors)
    if problems:
        more = f" ({len(problems)} such differences)" if len(problems) > 1 else ""
        raise LoadError(
            f"model: is not what was saved in {version}: {problems[0]}{more}",
            where=str(version),
            found=problems[0],
            needed="a model that the plans make what was saved",
            do=_OWN if len(plans) == 1 else f"{_OWN}, or the model as it was before its last pruning",
        )
    _warn_of_hooks(slim, manifest.structure)
    kinds = {module.path: module.kind for module in manifest.structure.modules}
    record_history(slim, PruningHistory(plans, unpacked(manifest.config), kinds))
    return slim if model is None else compiled_as(model, slim)


def _warn_of_hooks(slim: nn.Module, structure: Structure) -> None:
    """Warn of hooks that the saved model had and no code of the loaded one has registered."""
    lost = missing_hooks(slim, structure)
    if lost:
        warnings.warn(
            f"directory: when it was saved, {_some(lost)} had hooks that this model does not have, since "
            "a bundle holds none; flags and tensors that they set are loaded. If the outputs depend on them, register "
            "them again",
            UnsavedValuesWarning,
            stacklevel=frames_of_this_package(),
        )


def _last_version(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The last version of a bundle, and its files by name.

    Raises:
        LoadError: there is none, or files of it are missing or damaged.
    """
    version = bundle_versions(folder).latest()
    if version is None:
        raise LoadError(
            f"directory: {folder} holds no saved model",
            where=str(folder),
            found=found_instead(folder),
            needed="a folder that graphprune.save wrote",
            do="pass the directory that graphprune.save wrote",
        )
    files = check_version(version)
    if MANIFEST not in files:
        raise LoadError(
            f"directory: {version} is incomplete: {MANIFEST} is not among its files",
            where=str(version / MANIFEST),
            found=f"the files {', '.join(sorted(files)[:6])}",
            needed=MANIFEST,
            do=ADVICE,
        )
    return version, files


_OWN = "pass the architecture that was pruned"


def bundle_versions(folder: Path) -> Versions:
    """The versions of a bundle in its folder."""
    return Versions(folder, MANIFEST, "a bundle")


# ---------------------------------------------------------------- writing


def _plans_to_save(slim: nn.Module) -> tuple[Plan, ...]:
    """The plans that a model went through.

    Raises:
        PlanError: there are none.
    """
    check_model(slim, "slim")
    plans = plans_of(slim)
    if not plans:
        raise PlanError(
            f"slim: this {type(slim).__name__} carries no plan",
            where=type(slim).__name__,
            found="a model that graphprune did not make",
            needed="the module that prune_model(...) or plan.apply(...) returned",
            do="pass that module; for others use torch.save(model.state_dict(), path)",
        )
    return plans


def _architecture(
    slim: nn.Module,
    structure: Structure,
    factory: Callable[..., nn.Module] | None,
    arguments: Mapping[str, Any] | None,
) -> tuple[Architecture | None, str]:
    """What builds the dense model again; None: ``load`` has to be given it, and why."""
    if factory is not None:
        return given_architecture(slim, structure, factory, arguments), ""
    if arguments is not None:
        raise InputError(
            "arguments: are those of a factory",
            found="arguments= and no factory=",
            needed="factory= with them",
            do="pass factory= too, or leave out arguments=",
        )
    architecture, unknown = find_architecture(slim, structure)
    if architecture is None:
        check_restorable(slim, structure)
    return architecture, unknown


def _manifest(slim: nn.Module, structure: Structure, architecture: Architecture | None, unknown: str) -> Manifest:
    history = history_of(slim)
    first, last = history.plans[0], history.plans[-1]
    after = {kind: costs[1] for kind, costs in last.costs.items()}
    return Manifest(
        format=BUNDLE_FORMAT,
        versions=_library_versions(architecture),
        architecture=architecture,
        unknown=unknown,
        config=packed(dict(history.config)) if history.config is not None else None,
        plans=len(history.plans),
        inputs=first.inputs,
        costs={kind: (costs[0], after.get(kind, costs[1])) for kind, costs in first.costs.items()},
        structure=structure,
    )


def _library_versions(architecture: Architecture | None) -> dict[str, str]:
    names = ["graphprune", "torch"]
    if architecture is not None:
        names.append(architecture.source if architecture.source != IMPORT else architecture.name.partition(".")[0])
    found = {name: getattr(importlib.import_module(name.partition(":")[0]), "__version__", None) for name in names}
    return {name: str(version) for name, version in found.items() if version is not None}


def _write(folder: Path, manifest: Manifest, plans: tuple[Plan, ...], tensors: dict[str, Tensor], most: int) -> None:
    for number, plan in enumerate(plans):
        (folder / PLANS.format(number=number)).write_text(json.dumps(plan.to_data()))
    write_shards(folder, tensors, most)
    (folder / MANIFEST).write_text(json.dumps(write_manifest(manifest), indent=1))


# ---------------------------------------------------------------- reading


def _read_plans(version: Path, files: Mapping[str, Path], manifest: Manifest) -> tuple[Plan, ...]:
    """The plans, of which none names more indices than the weights are large."""
    names = [PLANS.format(number=number) for number in range(min(manifest.plans, len(files)))]
    if len(names) < manifest.plans or not names or any(name not in files for name in names):
        raise LoadError(
            f"directory: {version} does not hold the {manifest.plans} plans that it should",
            where=str(version),
            found=f"{sum(name in files for name in names)} plans",
            needed=f"{manifest.plans} plans",
            do=ADVICE,
        )
    weights = sum(path.stat().st_size for path in files.values())
    most = _FREE_INDICES + _INDICES_PER_BYTE * weights
    found = []
    for name in names:
        what = f"directory: {files[name]}"
        data = read_json(files[name], what, ADVICE)
        if (count := read_plan_data(data, what).indices) > most:
            raise LoadError(
                f"{what}: has {count} indices, more than weights of {weights} bytes can need",
                where=str(files[name]),
                found=f"{count} indices",
                needed=f"at most {most}",
                do=ADVICE,
            )
        found.append(Plan.from_data(data, what))
    return tuple(found)


def _build(version: Path, manifest: Manifest, trusted: bool) -> nn.Module:
    if manifest.architecture is None:
        raise LoadError(
            f"directory: {version} does not say how its {manifest.structure.modules[0].kind} is built "
            f"({manifest.unknown})",
            where=str(version / MANIFEST),
            found="no architecture",
            needed="the dense model, on any device"
            + (", or the model as it was before its last pruning" if manifest.plans > 1 else ""),
            do="pass it: load(directory, model=...)",
        )
    return build(manifest.architecture, module_limit(manifest.structure), trusted)


def _needed(structure: Structure) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    found = {name: data for name, data in structure.tensors.items() if data.shares is None}
    return {name: (data.shape, getattr(torch, data.dtype)) for name, data in found.items()}


def _laid_out(tensor: Tensor, data: TensorData) -> Tensor:
    """The tensor with the strides that it had, also where dimensions of one entry leave a choice."""
    return torch.empty_like(tensor, memory_format=LAYOUTS[data.layout]).copy_(tensor) if data.layout else tensor
