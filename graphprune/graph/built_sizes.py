"""The sizes of what a class builds from a configuration, for many values of its fields.

Where layers repeat, a model of a few of them is built: layers with the same modules and sizes have the same ones when
a field changes. Nothing is known of the names of fields: one counts the layers if a smaller value of it gives a model
from which all sizes of the whole one follow.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from torch import nn

from graphprune.tracing.configured import (
    ATTRIBUTE,
    Column,
    Columns,
    Refused,
    build_on_meta,
    changed_config,
    columns,
    config_fields,
    config_of,
    keep_layers,
    rebuilt,
)
from graphprune.utils.modules import named_modules, within

SHORTER = 3
"""Layers are left out if this makes a list of them so many times shorter at least."""


@dataclass(frozen=True)
class _Layers:
    """A list of layers.

    Attributes:
        path: of the list.
        like: for each layer the number of the first one with the same modules and sizes.
    """

    path: str
    like: tuple[int, ...]

    @property
    def kept(self) -> int:
        """How many layers at its beginning stand for all, with one more, so that what is done in turns is seen."""
        return max(self.like) + 2

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.like)

    def split(self, name: str) -> tuple[int, str] | None:
        """The number of the layer that a module, tensor or attribute is in, and its name there; None: in none."""
        if not name.startswith(f"{self.path}."):
            return None
        number, _, own = name[len(self.path) + 1 :].partition(".")
        return (int(number), own) if number.isdigit() else None

    def origin(self, name: str) -> str:
        """The name of the same thing in the first layer like the one that it is in."""
        place = self.split(name)
        return name if place is None else ".".join([self.path, str(self.like[place[0]]), *filter(None, place[1:])])

    def keeps(self, path: str) -> bool:
        """Is a module left if the list is shorter?"""
        place = self.split(path)
        return place is None or place[0] < self.kept


@dataclass(frozen=True)
class _Shorter:
    """A configuration of fewer layers.

    Attributes:
        config: itself.
        counts: the fields that count layers in it.
        layers: the lists that are shorter in its model.
    """

    config: Any
    counts: frozenset[str] = frozenset()
    layers: tuple[_Layers, ...] = ()

    def tells(self, names: Iterable[str]) -> bool:
        """Do the sizes that these fields move follow from fewer layers? An entry of a list may be that of one layer."""
        return not any("[" in name or name in self.counts for name in names)

    def origin(self, name: str) -> str:
        """What stands in its model for a module, tensor or attribute of the whole one."""
        for layers in self.layers:
            name = layers.origin(name)
        return name

    def without(self, layers: _Layers) -> Iterator[_Shorter]:
        """The configurations in which a field says that there are fewer of these layers too."""
        for field, value in config_fields(self.config).items():
            if value == layers.count and "[" not in field:
                config = copy.deepcopy(self.config)
                keep_layers(config, field, layers.count, range(layers.kept))
                yield _Shorter(config, self.counts | {field}, (*self.layers, layers))


class BuiltSizes:
    """The sizes of what the class of a model builds.

    Args:
        model: in any state.
        reads: the paths of the integers that ``forward`` reads.

    Attributes:
        base: the sizes of what it builds from the configuration as it is.

    Raises:
        Refused: it builds none.
    """

    def __init__(self, model: nn.Module, reads: Sequence[str]) -> None:
        self._model, self._reads = model, tuple(reads)
        built = rebuilt(model, {})
        self.base = columns(built, reads)
        self._kinds = {path: type(module) for path, module in named_modules(built)}
        self._lists = [layers for layers in map(self._layers, _lists(built)) if SHORTER * layers.kept <= layers.count]

    def at(self, values: Mapping[str, int]) -> Columns:
        """The sizes when fields have other values, as far as ``base`` has them too.

        Raises:
            Refused: the class builds no model then.
        """
        if self._shorter.tells(values):
            return self._followed(self._built(self._shorter, values), self._origins)
        found = columns(rebuilt(self._model, values), self._reads)
        return {column: size for column, size in found.items() if column in self.base}

    # ------------------------------------------------------------ fewer layers

    def _layers(self, given: tuple[str, int]) -> _Layers:
        """A list of layers by its path and length."""
        path, count = given
        found: list[set[Any]] = [set() for _ in range(count)]
        named = ((name, dim, size) for (name, dim), size in self.base.items())
        kinds = ((name, None, kind) for name, kind in self._kinds.items())
        layers = _Layers(path, tuple(range(count)))
        for name, *rest in chain(named, kinds):
            place = layers.split(name)
            if place is not None:
                found[place[0]].add((place[1], *rest))
        return _Layers(path, tuple(found.index(one) for one in found))

    @cached_property
    def _shorter(self) -> _Shorter:
        """The shortest configuration that tells all sizes; where none does, the one that the model has."""
        found = _Shorter(config_of(self._model))
        for layers in self._lists:
            found = next(filter(self._tells_base, found.without(layers)), found)
        return found

    @cached_property
    def _origins(self) -> dict[Column, Column]:
        """Where in the model of the shortest configuration every size is found."""
        return self._origins_in(self._shorter)

    def _origins_in(self, shorter: _Shorter) -> dict[Column, Column]:
        return {(name, dim): (shorter.origin(name), dim) for name, dim in self.base}

    def _built(self, shorter: _Shorter, values: Mapping[str, int]) -> nn.Module:
        return build_on_meta(self._model, changed_config(shorter.config, values))

    def _followed(self, built: nn.Module, origins: Mapping[Column, Column]) -> Columns:
        """The sizes of the whole model that those of one with fewer layers tell."""
        known = columns(built, dict.fromkeys(name for name, dim in origins.values() if dim == ATTRIBUTE))
        return {column: known[origin] for column, origin in origins.items() if origin in known}

    def _tells_base(self, shorter: _Shorter) -> bool:
        """Do the sizes of the model follow from what is built from this configuration, which has no other modules?"""
        try:
            built = self._built(shorter, {})
        except Refused:
            return False
        kinds = {path: type(module) for path, module in named_modules(built)}
        left = {path: kind for path, kind in self._kinds.items() if all(one.keeps(path) for one in shorter.layers)}
        return kinds == left and self._followed(built, self._origins_in(shorter)) == self.base


def _lists(model: nn.Module) -> Iterator[tuple[str, int]]:
    """The outermost lists of modules, with their lengths."""
    outer: list[str] = []
    for path, module in named_modules(model):
        if isinstance(module, nn.ModuleList) and not within(path, outer):
            outer.append(path)
            yield path, len(module)
