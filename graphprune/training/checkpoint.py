"""Checkpoints of training: a model at any stage of its pruning, optimizers, averages, random numbers, and any data.

A checkpoint is safetensors and JSON, never pickled code. The plans that made the model smaller are part of it, and are
replayed: it can be loaded into the dense model that the training began with.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from graphprune.errors import LoadError, PlanError
from graphprune.pruning.optimizer import Optimizers, prune_in_place, several
from graphprune.pruning.plan import HISTORY, Plan
from graphprune.training.packing import Packer, unpack
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.files import ADVICE, check_version, latest_version, write_version
from graphprune.utils.modules import all_tensors
from graphprune.utils.random_state import random_state, set_random_state

TENSORS = "tensors.safetensors"


DATA = "state.json"


FORMAT = 1


Folder = str | os.PathLike[str]


def save_checkpoint(
    directory: Folder,
    model: nn.Module,
    state: Mapping[str, Any] | None = None,
    *,
    optimizer: Optimizers = None,
    averages: Sequence[nn.Module] = (),
) -> None:
    """Write where training stands. A process that is killed meanwhile leaves the checkpoint before whole.

    Args:
        directory: created where missing; belongs to checkpoints alone.
        model: pruned any number of times, or never.
        state: whatever else is needed to go on: numbers, strings, tensors, and lists, tuples or dicts of them.
        optimizer: one or several.
        averages: modules that hold averages of the model's weights, such as ``torch.optim.swa_utils.AveragedModel``.

    Raises:
        InputError: ``state`` or an optimizer's state holds something that is not data.
    """
    optimizers = several(optimizer)
    packer = Packer()
    parts = {
        "model": own_tensors(model),
        "averages": [own_tensors(average) for average in averages],
        "optimizers": [o.state_dict() for o in optimizers],
        "kinds": [type(o).__name__ for o in optimizers],
        "random": random_state(),
        "state": dict(state or {}),
    }
    data = {
        "format": FORMAT,
        "plans": [json.loads(plan.to_json()) for plan in getattr(model, HISTORY, ())],
        "parts": {name: packer.pack(part, name) for name, part in parts.items()},
    }
    write_version(Path(directory), partial(_write, data=json.dumps(data), tensors=packer.tensors))


def has_checkpoint(directory: Folder) -> bool:
    """Is there anything to go on from?"""
    return latest_version(Path(directory)) is not None


def load_checkpoint(
    directory: Folder,
    model: nn.Module,
    *,
    optimizer: Optimizers = None,
    averages: Sequence[nn.Module] = (),
    check: Callable[[Mapping[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Go on where :func:`save_checkpoint` was called: ``model``, optimizers and averages become what they were.

    The generators of random numbers of torch, numpy and Python do, too.

    Args:
        directory: as it was given to :func:`save_checkpoint`.
        model: the dense model, or one that was pruned by the first of the checkpoint's plans; it is changed in place.
        optimizer: over the parameters of ``model``, of the same classes as those that were saved.
        averages: as many as were saved, made from ``model``.
        check: is given the ``state`` before anything is changed, and may raise.

    Returns:
        The ``state`` that was saved.

    Raises:
        LoadError: there is no checkpoint, it is damaged, or it is of something else. Nothing was changed.
    """
    optimizers = several(optimizer)
    saved = _read(Path(directory))
    if check is not None:
        check(saved.parts["state"])
    plans = _remaining(saved.plans, model)
    _check_model(saved, model, plans)
    _check_companions(saved, optimizers, averages, plans)
    for plan in plans:
        prune_in_place(model, plan, optimizers, averages)
    _fill(model, saved.parts["model"])
    for average, tensors in zip(averages, saved.parts["averages"], strict=True):
        _fill(average, tensors)
    for one, data in zip(optimizers, saved.parts["optimizers"], strict=True):
        one.load_state_dict(data)
    set_random_state(saved.parts["random"])
    return cast("dict[str, Any]", saved.parts["state"])


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by their first name, tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def fingerprint(model: nn.Module) -> int:
    """A number that tells models with other weights apart: CRC-32 of names and values."""
    found = 0
    for name, tensor in own_tensors(model).items():
        found = zlib.crc32(name.encode(), found)
        data = tensor.detach().cpu().contiguous().reshape(-1)
        found = zlib.crc32(data.view(torch.uint8).numpy().data, found)
    return found


# ---------------------------------------------------------------- reading


@dataclass(frozen=True, eq=False)
class _Saved:
    """What a checkpoint holds."""

    version: Path
    plans: tuple[Plan, ...]
    parts: dict[str, Any]


def _write(folder: Path, data: str, tensors: dict[str, Tensor]) -> None:
    (folder / DATA).write_text(data)
    save_file(tensors, folder / TENSORS)


def _read(folder: Path) -> _Saved:
    version = latest_version(folder)
    if version is None:
        raise LoadError(f"directory: {folder} holds no checkpoint; pass the directory that save_checkpoint wrote")
    check_version(version)
    try:
        data = json.loads((version / DATA).read_text())
        if data["format"] != FORMAT:
            raise LoadError(f"directory: {version} has format {data['format']}; this version reads format {FORMAT}")
        tensors = load_file(version / TENSORS)
        plans = tuple(Plan.from_json(json.dumps(plan)) for plan in data["plans"])
        parts = {name: unpack(part, tensors) for name, part in data["parts"].items()}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"directory: {version} is no checkpoint ({type(error).__name__}: {error}); {ADVICE}") from error
    return _Saved(version, plans, parts)


# ---------------------------------------------------------------- does it fit?


def _remaining(saved: Sequence[Plan], model: nn.Module) -> tuple[Plan, ...]:
    """The plans of the checkpoint that the model has still before it."""
    done: tuple[Plan, ...] = getattr(model, HISTORY, ())
    same = len(done) <= len(saved) and all(a.to_json() == b.to_json() for a, b in zip(done, saved, strict=False))
    if not same:
        raise LoadError(
            f"model: was pruned {len(done)} times, but not as the checkpoint's model was (pruned {len(saved)} times); "
            "pass the dense model that the training began with"
        )
    return tuple(saved[len(done) :])


def _check_model(saved: _Saved, model: nn.Module, plans: Sequence[Plan]) -> None:
    """Replay the plans on a copy without data, and compare every tensor with the checkpoint's."""
    twin = copy_module(model, {id(t): _without_data(t) for t in all_tensors(model)})
    try:
        for plan in plans:
            twin = plan.apply(twin, inplace=True)
    except PlanError as error:
        raise LoadError(f"model: {saved.version} is not of this {type(model).__name__}: {error}") from error
    _check_tensors(f"model: this {type(model).__name__}", own_tensors(twin), saved.parts["model"])


def _without_data(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _check_tensors(what: str, own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    odd = sorted(own.keys() ^ saved.keys())
    if odd:
        where = "has" if odd[0] in own else "lacks"
        raise LoadError(f"{what} {where} {odd[0]!r}, unlike the checkpoint ({len(odd)} such names); {_OTHER}")
    for name, tensor in own.items():
        found, needed = (tuple(tensor.shape), tensor.dtype), (tuple(saved[name].shape), saved[name].dtype)
        if found != needed:
            raise LoadError(f"{what} has {name} of {found}, but the checkpoint has {needed}; {_OTHER}")


_OTHER = "pass the model that the training began with, or another directory"


def _check_companions(
    saved: _Saved, optimizers: Sequence[Optimizer], averages: Sequence[nn.Module], plans: Sequence[Plan]
) -> None:
    kinds, needed = [type(o).__name__ for o in optimizers], saved.parts["kinds"]
    if kinds != needed:
        raise LoadError(f"optimizer: the checkpoint was saved with {needed}, but given are {kinds}")
    if len(averages) != len(saved.parts["averages"]):
        raise LoadError(
            f"averages: the checkpoint was saved with {len(saved.parts['averages'])}, but given are {len(averages)}"
        )
    for one, data in zip(optimizers, saved.parts["optimizers"], strict=True):
        _check_groups(one.param_groups, data["param_groups"], exact=not plans)
    if not plans:
        for average, tensors in zip(averages, saved.parts["averages"], strict=True):
            _check_tensors(f"averages: a {type(average).__name__}", own_tensors(average), tensors)


def _check_groups(own: Sequence[Any], saved: Sequence[Any], exact: bool) -> None:
    """Pruning may take parameters out of a group (``exact`` is false then), but never puts one in."""
    counts, needed = [len(g["params"]) for g in own], [len(g["params"]) for g in saved]
    fits = counts == needed if exact else len(counts) == len(needed) and all(map(int.__ge__, counts, needed))
    if not fits:
        raise LoadError(
            f"optimizer: has groups of {counts} parameters, but the checkpoint has {needed}; make it as it was made "
            "before saving"
        )


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in own_tensors(model).items():
            tensor.copy_(tensors[name])
