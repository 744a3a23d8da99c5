"""What a caller asks of particular groups: ratios, floors, ceilings, multiples, and what must stay."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import floor
from typing import Any

import numpy as np
from torch import nn

from graphprune.errors import InputError
from graphprune.graph.groups import Group
from graphprune.graph.layer_axes import layer_axis
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids
from graphprune.utils.checks import (
    check_callable,
    check_count,
    check_flag,
    check_fraction,
    did_you_mean,
    found_value,
    shown,
    with_article,
)
from graphprune.utils.compiled import uncompiled_name
from graphprune.utils.modules import named_modules, output_dim


@dataclass(frozen=True)
class Override:
    """What holds for some groups, whatever the rest of the plan does.

    What is None is left to the rest of the plan: to its other arguments, and to overrides that match these groups too.
    Of several that say something else of the same, the last holds.

    Args:
        ratio: the fraction removed, 0 <= ratio < 1.
        min_units: the least number of units that stay.
        max_ratio: at most this fraction is removed.
        multiple: the number kept is a multiple of this (8, 16, 32 for tensor cores), where it was one before or can
            become one by removing some. It is the width of the layer: what of it cannot go counts as well.
        frozen: nothing is removed, and ``depth=`` leaves out no block or branch of which this holds a part; False:
            something may be, though an override before this one holds the group.
    """

    ratio: float | None = None
    min_units: int | None = None
    max_ratio: float | None = None
    multiple: int | None = None
    frozen: bool | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None:
            check_fraction("ratio", self.ratio, "a fraction of units to remove")
        if self.max_ratio is not None:
            check_fraction("max_ratio", self.max_ratio, one=True)
        if self.frozen is not None:
            check_flag("frozen", self.frozen)
        for name in ("min_units", "multiple"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), 1, "a whole number of units")

    def given(self) -> dict[str, Any]:
        """What it says, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


def share_kept(units: int, ratio: float) -> int:
    """How many of ``units`` are kept when the fraction ``ratio`` is removed; at least one."""
    return max(1, units - floor(ratio * units + 1e-9))


OverrideKey = str | nn.Module | type[nn.Module] | Callable[[Group], bool]
"""A pattern for the names of groups or modules (``"layer1.*"``), a module of the model (with all that it holds), a
module class, or a question about a group."""


@dataclass(frozen=True)
class GroupNamed:
    """The question whether a group has this name, as a key of an override.

    Attributes:
        name: of the group.
        modules: those among them that put it out that the override is meant for.
    """

    name: str
    modules: tuple[str, ...] = ()

    def __call__(self, group: Group) -> bool:
        return group.name == self.name

    def __str__(self) -> str:
        return "a schedule"


@dataclass(frozen=True)
class Limit:
    """What is asked of one group; ``why`` names what asked for it.

    Where an override says of what its units stay a multiple, they have ``own_multiple``. Modules that are named by
    overrides which freeze what they put out are ``frozen_modules``. ``need``: why an operation runs on no fewer than
    ``least``, where nobody asked for that. ``beside``: how many units' worth of the layer stays anyway: the
    multiple is that of both.
    """

    ratio: float | None = None
    least: int = 1
    multiple: int = 1
    why: str = ""
    frozen: bool = False
    own_multiple: bool = False
    frozen_modules: tuple[str, ...] = ()
    need: str = ""
    beside: int = 0

    def allows(self, kept: Ids, units: int) -> Any:
        """Which numbers of kept units are allowed. Keeping everything always is."""
        multiple = min(self.multiple, units + self.beside + 1)
        return (kept == units) | ((kept >= self.least) & ((kept + self.beside) % multiple == 0))


def group_limits(
    groups: Sequence[Group],
    overrides: Mapping[Any, Override],
    ratios: Mapping[str, float | None],
    default: Override,
    model: nn.Module,
) -> list[Limit]:
    """One limit for each group: of its role's ratio, the defaults, and every override that matches.

    Raises:
        InputError: an override matches no group, or no group has a role of which something is to be removed.
    """
    modules = dict(named_modules(model)) if overrides else {}
    _check_overrides(overrides, modules)
    used: set[Any] = set()
    found, usual = [], _UNBOUND | default.given()
    for group in groups:
        asked = [(f"{by}=", Override(ratio=ratios[by])) for by in ratios if group.asked_by(by)]
        matching = {match: override for match, override in overrides.items() if matches(match, group, modules)}
        asked += [(described(match, modules), override) for match, override in matching.items()]
        used.update(matching)
        limit = _limit(group, usual, asked)
        frozen = _frozen_modules(group, matching, modules) if matching else ()
        found.append(replace(limit, frozen_modules=frozen) if frozen else limit)
    _check_used(overrides, used, groups, modules)
    _check_roles(ratios, groups)
    return found


def _check_overrides(overrides: Mapping[Any, Any], modules: Mapping[str, nn.Module]) -> None:
    """Raise an InputError unless these are keys, and each maps to an override."""
    for match, override in overrides.items():
        if not isinstance(match, str | nn.Module) and not callable(match):
            raise InputError(
                f"overrides: {shown(match)} is no key",
                where=f"overrides[{shown(match)}]",
                found=found_value(match),
                needed="a pattern for names, a module of the model, a module class, or a function (group) -> bool",
                do="give a pattern for names, such as 'layer1.*'",
            )
        if not isinstance(match, str | nn.Module | type):
            check_callable("overrides", match, "a function (group) -> bool", takes="group")
        if not isinstance(override, Override):
            raise InputError(
                f"overrides: {described(match, modules)} maps to {with_article(type(override).__name__)}",
                where=f"overrides[{described(match, modules)}]",
                found=found_value(override),
                needed="a graphprune.Override",
                do="map it to a graphprune.Override, such as Override(ratio=0.3) or Override(frozen=True)",
            )


def _limit(group: Group, usual: Mapping[str, Any], asked: Sequence[tuple[str, Override]]) -> Limit:
    said: dict[str, Any] = {}
    for _, override in asked:
        said |= override.given()
    values = {**usual, **said}
    least = max(values["min_units"], group.units - int(np.floor(values["max_ratio"] * group.units + 1e-9)), 1)
    if values["frozen"]:
        least = group.units
    why = ", ".join(name for name, _ in asked)
    own = "multiple" in said
    return Limit(values["ratio"], min(least, group.units), values["multiple"], why, values["frozen"], own)


def _frozen_modules(
    group: Group, overrides: Mapping[Any, Override], modules: Mapping[str, nn.Module]
) -> tuple[str, ...]:
    """The modules that put a group out, and that overrides which freeze it name."""
    found: dict[str, None] = {}
    for match, override in overrides.items():
        named = dict.fromkeys(_named_makers(match, group, modules))
        if override.frozen:
            found |= named
        elif override.frozen is not None:
            found = {name: None for name in found if named and name not in named}
    return tuple(found)


_UNBOUND = {"ratio": None, "min_units": 1, "max_ratio": 1.0, "multiple": 1, "frozen": False}
"""What holds of a group of which nothing is asked."""


def described(match: Any, modules: Mapping[str, nn.Module]) -> str:
    """The key of an override, for messages."""
    if isinstance(match, nn.Module):
        path = _path(match, modules)
        if path is None:
            return f"the {type(match).__name__} given (not in this model)"
        return repr(path) if path else "the model"
    return repr(match) if isinstance(match, str) else str(getattr(match, "__name__", match))


def _path(module: nn.Module, modules: Mapping[str, nn.Module]) -> str | None:
    """Where a module is in the model; None: it is another model's."""
    return next((path for path, own in modules.items() if own is module), None)


def _check_used(
    overrides: Mapping[Any, Override], used: set[Any], groups: Sequence[Group], modules: Mapping[str, nn.Module]
) -> None:
    for match in overrides:
        if match not in used:
            names = ", ".join([*(repr(g.name) for g in groups[:4]), *(["..."] if len(groups) > 4 else [])])
            known = [group.name for group in groups]
            raise InputError(
                f"overrides: {described(match, modules)} matches no group; there are {names}"
                f"{did_you_mean(match, known) if isinstance(match, str) else ''}",
                where=f"overrides[{described(match, modules)}]",
                found=f"{described(match, modules)}, which matches none of {len(groups)} groups",
                needed="a key that matches a group by its name, its layers or its parameters",
                do="print(graph) lists the groups; what is frozen already needs no override",
            )


def _check_roles(ratios: Mapping[str, float | None], groups: Sequence[Group]) -> None:
    """Raise an InputError if something is to be removed of a role that no group has."""
    there = sorted({group.role for group in groups})
    for role, ratio in ratios.items():
        if ratio and not any(group.asked_by(role) for group in groups):
            raise InputError(
                f"{role}: {ratio:g} is asked of {role}, of which nothing can be removed from this model; there are "
                f"groups of {', '.join(there)}",
                found=f"{role}={ratio:g}, and no group of {role}",
                needed=f"one of {', '.join('a ratio for all (0.5)' if one == 'groups' else one for one in there)}",
                do="print(graph) lists the groups, and what is frozen; graph.explain(layer) says why its channels stay",
            )


def matches(match: OverrideKey, group: Group, modules: Mapping[str, nn.Module]) -> bool:
    """Does a pattern, a module, a module class or a function match a group?

    Modules match if they, or modules that they hold, put out its channels, and a class if one of its modules does.
    """
    if isinstance(match, str):
        names = (group.name, group.name.partition("[")[0])  # "w[1]": a dimension of w
        return _fits(match, names) or bool(_named_makers(match, group, modules))
    if isinstance(match, nn.Module | type):
        return bool(_named_makers(match, group, modules))
    return bool(match(group))


def _named_makers(match: OverrideKey, group: Group, modules: Mapping[str, nn.Module]) -> list[str]:
    """The modules that put a group out and that a key names; a function names none, but the group as a whole."""
    if isinstance(match, GroupNamed):
        return list(match.modules)
    makers = _makers(group, modules)
    if isinstance(match, str):
        return [name for name in makers if _fits(match, (name, f"{name}.weight"))]
    if isinstance(match, nn.Module):
        inside = {id(module) for module in match.modules()}
        return [name for name in makers if id(modules.get(name)) in inside]
    if isinstance(match, type):
        return [name for name in makers if any(isinstance(modules.get(path), match) for path in _holders(name))]
    return []


def _fits(pattern: str, names: Iterable[str]) -> bool:
    """Is one of the names this, or of this pattern?"""
    pattern = uncompiled_name(pattern)
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in names)


def _holders(path: str) -> Iterator[str]:
    """A module, and those that hold it."""
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path


def _makers(group: Group, modules: Mapping[str, nn.Module]) -> list[str]:
    """The modules that put these channels out."""
    found: dict[str, None] = {}
    for axis in group.axes:
        own = puts_out(axis, modules)
        if own is not None:
            found[own.module] = None
    return list(found)


def puts_out(axis: ParameterAxis, modules: Mapping[str, nn.Module]) -> ParameterAxis | None:
    """The axis of a layer's own parameter that an axis stands for, if it holds what the layer puts out; else None."""
    own = layer_axis(axis, modules)
    if own is None or own.dim != (output_dim(type(modules.get(own.module))) if own.tensor == "weight" else 0):
        return None
    return own
