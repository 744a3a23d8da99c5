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
from typing import Any

import torch
from msgspec import Struct, convert
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import TypedDict

from graphprune.errors import LoadError
from graphprune.pruning.optimizer import AVERAGES, Optimizers, check_trains, prune_in_place, several
from graphprune.pruning.plan import Plan, plans_of
from graphprune.pruning.resuming import remaining_plans, replayed_without_data
from graphprune.training.extra_states import check_extra_states, extra_states, set_extra_states
from graphprune.training.packing import Packer, unpack_data
from graphprune.utils.checks import check_callable, check_optional, check_sequence, check_type, with_article
from graphprune.utils.compiled import uncompiled
from graphprune.utils.files import check_path, make_folder, writing_tensors
from graphprune.utils.folders import ADVICE, Versions, check_version, found_instead
from graphprune.utils.model_checks import check_same_tensors
from graphprune.utils.random_state import check_random_state, random_state, set_random_state
from graphprune.utils.typed_json import Count, convert_data, read_json

TENSORS = "tensors.safetensors"


DATA = "state.json"


CHECKPOINT_FORMAT = 2


Folder = str | os.PathLike[str]


def save_checkpoint(
    directory: Folder,
    model: nn.Module,
    state: Mapping[str, Any] | None = None,
    *,
    optimizer: Optimizers = None,
    averages: Sequence[nn.Module] = (),
) -> None:
    """Write where training stands. If the process is killed, the earlier checkpoint stays whole.

    What modules hand to ``state_dict`` beside their tensors (``get_extra_state``) is part of it.

    Args:
        directory: created where missing; belongs to checkpoints alone.
        model: pruned any number of times, or never.
        state: whatever else is needed to go on: numbers, strings, tensors, and lists, tuples or dicts of them.
        optimizer: one or several.
        averages: modules that hold averages of the model's weights, such as ``torch.optim.swa_utils.AveragedModel``.

    Raises:
        InputError: ``state`` or an optimizer's state holds something that is not data, or an optimizer trains another
            model.
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    check_optional("state", state, Mapping, "a dict of what else is needed to go on")
    check_sequence("averages", averages, nn.Module, AVERAGES)
    optimizers, folder = several(optimizer), check_path("directory", directory)
    check_trains(optimizers, model)
    model = uncompiled(model)
    packer = Packer()
    parts = {
        "model": own_tensors(model),
        "averages": [own_tensors(average) for average in averages],
        "optimizers": [o.state_dict() for o in optimizers],
        "kinds": [type(o).__name__ for o in optimizers],
        "random": random_state(),
        "state": dict(state or {}),
    }
    extra = [extra_states(one) for one in (model, *averages)]
    if any(extra):
        parts["extra"] = extra
    data = {
        "format": CHECKPOINT_FORMAT,
        "plans": [plan.to_data() for plan in plans_of(model)],
        "parts": {name: packer.pack(part, name) for name, part in parts.items()},
    }
    _versions(folder).write(partial(_write, data=json.dumps(data), tensors=packer.tensors))


def checkpoint_folder(checkpoint: Folder) -> Path:
    """The folder of the argument ``checkpoint=`` of a training, which is made if it is missing.

    Raises:
        InputError: it is no folder, or nothing can be written there.
    """
    folder = check_path("checkpoint", checkpoint)
    make_folder("checkpoint", folder)
    return folder


def has_checkpoint(directory: Folder) -> bool:
    """Is there anything to go on from?"""
    return _versions(Path(directory)).latest() is not None


def load_checkpoint(
    directory: Folder,
    model: nn.Module,
    *,
    optimizer: Optimizers = None,
    averages: Sequence[nn.Module] = (),
    check: Callable[[Mapping[str, Any]], object] | None = None,
) -> dict[str, Any]:
    """Continue where :func:`save_checkpoint` was called: ``model``, optimizers and averages become what they were.

    So do the random generators of torch, numpy and Python.

    Args:
        directory: as it was given to :func:`save_checkpoint`.
        model: the dense model, or one that was pruned by the first of the checkpoint's plans; it is changed in place.
            Where more than the plans changed it between two prunings, the model before the last of them.
        optimizer: over the parameters of ``model``, of the same classes as those that were saved.
        averages: as many as were saved, made from ``model``.
        check: is given the ``state`` before anything is changed, and may raise.

    Returns:
        The ``state`` that was saved.

    Raises:
        LoadError: there is no checkpoint, it is damaged, or it is of something else. Nothing was changed.
        InputError: an optimizer trains another model.
    """
    check_type("model", model, nn.Module, "a torch.nn.Module")
    if check is not None:
        check_callable("check", check, "a function (state)", takes="state")
    check_sequence("averages", averages, nn.Module, AVERAGES)
    optimizers = several(optimizer)
    check_trains(optimizers, model)
    model = uncompiled(model)
    saved = _read(check_path("directory", directory))
    if check is not None:
        check(saved.parts.state)
    plans = remaining_plans(model, saved.plans, "checkpoint")
    _check_model(saved, model, plans)
    _check_companions(saved, optimizers, averages, plans)
    for plan in plans:
        prune_in_place(model, plan, optimizers, averages)
    for one, tensors, extra in zip((model, *averages), saved.parts.tensors, saved.parts.extras, strict=True):
        _fill(one, tensors)
        set_extra_states(one, extra)
    for each, data in zip(optimizers, saved.parts.optimizers, strict=True):
        each.load_state_dict(data)
    set_random_state(saved.parts.random)
    return saved.parts.state


def _versions(folder: Path) -> Versions:
    return Versions(folder, DATA, "a checkpoint")


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


class _Data(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON of a checkpoint."""

    format: int
    plans: list[dict[str, Any]]
    parts: dict[str, Any]


class _ParamGroup(TypedDict):
    """What every group of an optimizer's state has, among other things."""

    params: list[Count]


class _OptimizerState(TypedDict):
    state: dict[Any, Any]
    param_groups: list[_ParamGroup]


class _Parts(Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint holds, by name.

    ``kinds`` are the classes of the optimizers, ``extra`` what the modules of the model and of each average hand to
    ``state_dict`` beside their tensors, by path; it is there where any module does.
    """

    model: dict[str, Tensor]
    averages: list[dict[str, Tensor]]
    optimizers: list[dict[str, Any]]
    kinds: list[str]
    random: dict[str, Any]
    state: dict[Any, Any]
    extra: list[dict[str, Any]] = []

    @property
    def tensors(self) -> list[dict[str, Tensor]]:
        """Of the model and of each average."""
        return [self.model, *self.averages]

    @property
    def extras(self) -> list[dict[str, Any]]:
        """Of the model and of each average."""
        return self.extra or [{} for _ in self.tensors]

    def __post_init__(self) -> None:
        convert(self.optimizers, list[_OptimizerState])
        convert(self.random.get("cuda"), list[Tensor])
        check_random_state(self.random)
        if len(self.extras) != len(self.tensors):
            raise ValueError(f"there are {len(self.extra)} extra states of {len(self.tensors)} modules")
        if len(self.kinds) != len(self.optimizers):
            raise ValueError(f"there are {len(self.kinds)} kinds, but {len(self.optimizers)} optimizers")
        for parameter, found in ((p, s) for one in self.optimizers for p, s in one["state"].items()):
            if isinstance(parameter, int) and not isinstance(found, dict):
                raise ValueError(
                    f"the state of parameter {parameter} is {with_article(type(found).__name__)}, needed is a dict"
                )


@dataclass(frozen=True, eq=False)
class _Saved:
    """A checkpoint that was read."""

    version: Path
    plans: tuple[Plan, ...]
    parts: _Parts


def _write(folder: Path, data: str, tensors: dict[str, Tensor]) -> None:
    (folder / DATA).write_text(data)
    with writing_tensors(folder / TENSORS):
        save_file(tensors, folder / TENSORS)


def _read(folder: Path) -> _Saved:
    version = _versions(folder).latest()
    if version is None:
        raise LoadError(
            f"directory: {folder} holds no checkpoint",
            where=str(folder),
            found=found_instead(folder),
            needed="a folder that graphprune.save_checkpoint wrote",
            do="pass the directory that save_checkpoint wrote",
        )
    check_version(version)
    what = f"directory: {version} is no checkpoint"
    data = read_json(version / DATA, what, ADVICE)
    found = data.get("format") if isinstance(data, dict) else type(data).__name__
    if found != CHECKPOINT_FORMAT:
        raise LoadError(
            f"directory: {version} has format {found!r}; this version reads format {CHECKPOINT_FORMAT}",
            where=str(version / DATA),
            found=f"format {found!r}",
            needed=f"format {CHECKPOINT_FORMAT}",
            do="load it with the version of graphprune that wrote it, or train again",
        )
    saved = convert_data(data, _Data, what, ADVICE)
    try:
        tensors = load_file(version / TENSORS)
        parts = {name: unpack_data(part, tensors) for name, part in saved.parts.items()}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise LoadError(
            f"{what} ({type(error).__name__}: {error})",
            where=str(version),
            found=f"{type(error).__name__}: {error}",
            needed=f"{DATA} and {TENSORS} that fit to each other",
            do=ADVICE,
        ) from error
    plans = tuple(Plan.from_data(plan, what) for plan in saved.plans)
    return _Saved(version, plans, convert_data(parts, _Parts, what, ADVICE))


# ---------------------------------------------------------------- does it fit?


def _check_model(saved: _Saved, model: nn.Module, plans: Sequence[Plan]) -> None:
    """Replay the plans on a copy without data, and compare every tensor with the checkpoint's."""
    copy = replayed_without_data(model, plans, str(saved.version), before=len(saved.plans) - len(plans))
    check_same_tensors(
        f"model: this {type(model).__name__}", own_tensors(copy), saved.parts.model, "checkpoint", _OTHER
    )
    check_extra_states(copy, saved.parts.extras[0], saved.version)


_OTHER = "pass the model that the training began with, or another directory"


def _check_companions(
    saved: _Saved, optimizers: Sequence[Optimizer], averages: Sequence[nn.Module], plans: Sequence[Plan]
) -> None:
    kinds, needed = [type(o).__name__ for o in optimizers], saved.parts.kinds
    if kinds != needed:
        raise LoadError(
            f"optimizer: the checkpoint was saved with {needed}, but given are {kinds}",
            where=str(saved.version),
            found=f"{kinds}",
            needed=f"{needed}",
            do="pass optimizers of the same kinds, in the same order",
        )
    if len(averages) != len(saved.parts.averages):
        raise LoadError(
            f"averages: the checkpoint was saved with {len(saved.parts.averages)}, but given are {len(averages)}",
            where=str(saved.version),
            found=f"{len(averages)} averages",
            needed=f"{len(saved.parts.averages)}",
            do="pass averages= as they were when it was saved",
        )
    for average, extra in zip(averages, saved.parts.extras[1:], strict=True):
        check_extra_states(average, extra, saved.version)
    for one, data in zip(optimizers, saved.parts.optimizers, strict=True):
        _check_groups(one.param_groups, data["param_groups"], exact=not plans)
    if not plans:
        for average, tensors in zip(averages, saved.parts.averages, strict=True):
            what = f"averages: a {type(average).__name__}"
            check_same_tensors(what, own_tensors(average), tensors, "checkpoint", _OTHER)


def _check_groups(own: Sequence[Any], saved: Sequence[Any], exact: bool) -> None:
    """Pruning may take parameters out of a group (``exact`` is false then), but never puts one in."""
    counts, needed = [len(g["params"]) for g in own], [len(g["params"]) for g in saved]
    fits = counts == needed if exact else len(counts) == len(needed) and all(map(int.__ge__, counts, needed))
    if not fits:
        raise LoadError(
            f"optimizer: has groups of {counts} parameters, but the checkpoint has {needed}",
            where="optimizer.param_groups",
            found=f"groups of {counts} parameters",
            needed=f"groups of {needed}",
            do="make the optimizer as it was made before saving",
        )


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in own_tensors(model).items():
            tensor.copy_(tensors[name])
