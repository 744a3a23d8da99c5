"""A model of which layers were left out, as one of its class that has fewer layers."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from torch import nn

from graphprune.errors import ExportError
from graphprune.pruning.plan import plans_of
from graphprune.tracing.configured import (
    Refused,
    build_on_meta,
    changed_config,
    config_fields,
    config_of,
    keep_layers,
)
from graphprune.utils.checks import with_article
from graphprune.utils.modules import named_modules

Plain = bool | int | float | str


@dataclass(frozen=True)
class KeptLayers:
    """A list of layers, by its path, and the numbers of those that are left of ``count``."""

    path: str
    count: int
    kept: tuple[int, ...]


def with_fewer_layers(slim: nn.Module) -> nn.Module:
    """A model that does what ``slim`` does and shares its tensors, without places for layers that were left out.

    Raises:
        ExportError: the class builds no such model from a configuration; the message says why.
    """
    skipped = tuple(dict.fromkeys(path for plan in plans_of(slim) for path in plan.skipped))
    if not skipped:
        return slim
    _refuse_branches(slim)
    lists = _lists(slim, skipped)
    built = next(_candidates(slim, lists), None)
    if built is None:
        raise ExportError(
            f"slim: {skipped[0]} was left out ({len(skipped)} such), and {type(slim).__name__} builds no such model "
            "from a configuration with fewer layers",
            where=skipped[0],
            found=f"{len(skipped)} blocks that were left out",
            needed="a class that can be built with fewer layers",
            do="save it with graphprune.save, or plan without depth=",
        )
    state = {_renamed(name, lists): tensor for name, tensor in slim.state_dict().items()}
    built.load_state_dict(state, assign=True)
    for name, buffer in slim.named_buffers(remove_duplicate=False):
        path, _, own = _renamed(name, lists).rpartition(".")
        built.get_submodule(path)._buffers[own] = buffer
    built.tie_weights()  # type: ignore[operator]
    if getattr(slim, "generation_config", None) is not None:
        built.generation_config = copy.deepcopy(slim.generation_config)
    return built


def _refuse_branches(slim: nn.Module) -> None:
    """Raise an ExportError if parts of layers were left out."""
    for path in (path for plan in plans_of(slim) for path in plan.zeroed):
        raise ExportError(
            f"slim: {path} was left out alone, without the rest of its layer, and no number of layers can say that",
            where=path,
            found="a residual branch that was left out of a layer",
            needed="layers that are whole, or left out whole",
            do="save it with graphprune.save, or plan without depth=",
        )


def _lists(slim: nn.Module, skipped: tuple[str, ...]) -> list[KeptLayers]:
    """The lists of layers that lost some.

    Raises:
        ExportError: what was left out is no layer of a list.
    """
    found: dict[str, set[int]] = {}
    for path in skipped:
        owner, _, number = path.rpartition(".")
        if not isinstance(slim.get_submodule(owner), nn.ModuleList):
            raise ExportError(
                f"slim: {path} was left out, which is no layer of a list of layers, and no configuration can say that",
                where=path,
                found=f"a part of {with_article(type(slim.get_submodule(owner)).__name__)}",
                needed="layers of an nn.ModuleList",
                do="save it with graphprune.save, or plan without depth=",
            )
        found.setdefault(owner, set()).add(int(number))
    counts = {owner: len(slim.get_submodule(owner)) for owner in found}  # type: ignore[arg-type]
    return [KeptLayers(o, counts[o], tuple(sorted({*range(counts[o])} - gone))) for o, gone in found.items()]


def _candidates(slim: nn.Module, lists: list[KeptLayers]) -> Iterator[nn.Module]:
    """What the class builds from configurations with fewer layers, where that is the same model."""
    config = config_of(slim)
    numbers = config_fields(config)
    fields = [[name for name, value in numbers.items() if value == one.count] for one in lists]
    for names in product(*fields):
        shorter = copy.deepcopy(config)
        for name, one in zip(names, lists, strict=True):
            keep_layers(shorter, name, one.count, one.kept)
        try:
            built = build_on_meta(slim, changed_config(shorter, {})).train(slim.training)
        except Refused:
            continue
        if _alike(slim, built, lists):
            yield built


def _renamed(path: str, lists: list[KeptLayers]) -> str:
    """The path of a module or tensor when layers are numbered anew."""
    for one in lists:
        match = re.match(rf"{re.escape(one.path)}\.(\d+)(?=\.|$)", path)
        if match is not None and int(match[1]) in one.kept:
            path = f"{one.path}.{one.kept.index(int(match[1]))}{path[match.end() :]}"
    return path


def _alike(slim: nn.Module, built: nn.Module, lists: list[KeptLayers]) -> bool:
    """Have both the same tensors and settings, but for the numbers of layers?"""
    shapes = {_renamed(name, lists): tensor.shape for name, tensor in slim.state_dict().items()}
    if shapes != {name: tensor.shape for name, tensor in built.state_dict().items()}:
        return False
    mine = {_renamed(path, lists): module for path, module in named_modules(slim) if not _left_out(path, lists)}
    other = dict(named_modules(built))
    return mine.keys() == other.keys() and all(_same(mine[path], other[path], lists) for path in mine)


def _left_out(path: str, lists: list[KeptLayers]) -> bool:
    numbers = (path.removeprefix(f"{one.path}.") for one in lists if path.startswith(f"{one.path}."))
    return any(int(number) not in one.kept for number, one in zip(numbers, lists, strict=False) if number.isdigit())


def _same(mine: nn.Module, other: nn.Module, lists: list[KeptLayers]) -> bool:
    """Have two modules the same class and settings? A number may be that of a layer."""
    one, two = _settings(mine), _settings(other)
    numbers = {(number, new) for layers in lists for new, number in enumerate(layers.kept)}
    return type(mine) is type(other) and all(
        one[name] == two[name] or (one[name], two[name]) in numbers for name in one.keys() & two.keys()
    )


def _settings(module: nn.Module) -> Mapping[str, Plain]:
    return {name: value for name, value in vars(module).items() if type(value) in (bool, int, float, str)}
