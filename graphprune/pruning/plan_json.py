"""What a plan is in JSON, and what must hold there. Nothing is allocated for it that the file does not justify."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from graphprune.errors import InputError, LoadError
from graphprune.pruning.runs import Runs
from graphprune.utils.checks import found_value, shown, with_article
from graphprune.utils.modules import within
from graphprune.utils.typed_json import Count, convert_data

PLAN_FORMAT = 3

MOST_INDICES = 1 << 26
"""Indices that are expanded at most, all of a plan together: 512 MiB."""

MOST_REMOVED = 1 << 24
"""Units that groups lose at most, all together: as Python's numbers these are 512 MiB, too."""

MOST_ENTRIES = 1 << 48
"""Entries that a parameter has at most."""

DEEPEST = 16
"""Levels of lists and dicts in what was requested, at most."""

MOST_RESULTS = 64
"""Results that a module has at most."""

_AROUND = ("heads", "kv_groups", "groups", "experts")
"""Roles of groups whose units take channels with them that have units of their own."""

Share = Annotated[float, Meta(ge=0, le=1 + 1e-9)]


class ChoiceData(Struct, frozen=True, forbid_unknown_fields=True):
    """A :class:`graphprune.pruning.plan.Choice`."""

    group: str
    units: Annotated[int, Meta(ge=1, le=MOST_ENTRIES)]
    removed: Runs
    role: str
    macs: Share
    params: Share
    why: str

    def __post_init__(self) -> None:
        _check_runs(self.removed, self.units, f"removed of group {self.group!r}")


class PlanData(Struct, frozen=True, forbid_unknown_fields=True):
    """A :class:`graphprune.Plan`. The structure and everything that can be told without a model is checked."""

    format: int
    requested: dict[str, Any]
    choices: tuple[ChoiceData, ...]
    sizes: dict[str, Count]
    skipped: tuple[str, ...]
    shapes: dict[str, tuple[Count, ...]]
    kept: dict[str, dict[int, Runs]]
    unread: dict[str, Count] = {}
    stale: tuple[str, ...] = ()
    costs: dict[str, tuple[int, int]] = {}
    inputs: tuple[dict[str, Any], ...] = ()
    merged: dict[str, dict[int, tuple[Runs, ...]]] = {}
    zeroed: dict[str, Annotated[int, Meta(ge=0, le=MOST_RESULTS)]] = {}
    results: dict[str, Annotated[int, Meta(ge=1, le=MOST_RESULTS)]] = {}
    tied: dict[str, str] = {}

    def __post_init__(self) -> None:
        _check_json("requested", self.requested, DEEPEST)
        _check_json("inputs", list(self.inputs), DEEPEST)
        _check_different([c.group for c in self.choices], "choices")
        _check_different(self.skipped, "skipped")
        for path in (*self.sizes, *self.unread, *self.skipped):
            _check_path(path)
        for path in self.zeroed:
            if path not in self.skipped:
                raise ValueError(f"zeroed: {path!r} is not among the {len(self.skipped)} modules in skipped")
        for path in self.results:
            if path not in self.skipped or path in self.zeroed:
                raise ValueError(f"results: {path!r} is not among the whole blocks in skipped")
        for name, first in self.tied.items():
            if name in self.shapes or first not in self.shapes:
                raise ValueError(f"tied: {name!r} is no other name of {first!r}, one of those in shapes")
        for name, shape in self.shapes.items():
            if math.prod(shape) > MOST_ENTRIES:
                raise ValueError(f"shapes: {name!r} has {list(shape)}, needed are at most {MOST_ENTRIES} entries")
        for name, dims in self.kept.items():
            self._check_kept(name, dims)
        for name, merged in self.merged.items():
            self._check_merged(name, merged)
        self._check_choices()
        self._check_any_choice()
        if (count := self.indices) > MOST_INDICES:
            raise ValueError(f"kept: there are {count} indices in all, needed are at most {MOST_INDICES}")
        if (count := sum(choice.removed.count for choice in self.choices)) > MOST_REMOVED:
            raise ValueError(f"choices: {count} units are removed in all, needed are at most {MOST_REMOVED}")

    @property
    def indices(self) -> int:
        """How many indices survive, of all dimensions together."""
        kept = sum(runs.count for dims in self.kept.values() for runs in dims.values())
        merged = (runs.count for dims in self.merged.values() for many in dims.values() for runs in many)
        return kept + sum(merged)

    def _check_choices(self) -> None:
        """Groups that are whole dimensions, or all outputs of a layer, lose what they are said to lose.

        They may lose more where a plan has heads or groups of channels, which take the channels within them.
        """
        around = any(choice.role in _AROUND for choice in self.choices)
        for choice in self.choices:
            if not within(f"{choice.group}.", self.skipped):
                for name, dim in _places(choice.group):
                    self._check_choice(choice, name, dim, around)

    def _check_choice(self, choice: ChoiceData, name: str, dim: int, around: bool) -> None:
        shape, left = self.shapes.get(name, ()), choice.units - choice.removed.count
        if dim >= len(shape) or shape[dim] != choice.units:
            return
        found = self._left(name, dim)
        unread = name == f"{choice.group}.bias" and dim not in self.kept.get(name, {})  # by a forward of its own
        if (found > left and not unread) or (found < left and not around):
            raise ValueError(
                f"choices: group {choice.group!r} is said to keep {left} of {choice.units} units, and kept names "
                f"{found} entries of dimension {dim} of {name!r}"
            )

    def _check_any_choice(self) -> None:
        """What loses entries that are not merged into others loses them by a choice."""
        if self.merged or any(choice.removed.count for choice in self.choices):
            return
        for name, dims in self.kept.items():
            for dim, runs in dims.items():
                gone = self.shapes[name][dim] - runs.count
                if gone and not within(name, self.skipped):
                    raise ValueError(
                        f"choices: there is none that removes units, and kept lacks {gone} of {self.shapes[name][dim]} "
                        f"entries of dimension {dim} of {name!r}"
                    )

    def _left(self, name: str, dim: int) -> int:
        """How many entries survive along a dimension."""
        runs = self.kept.get(name, {}).get(dim)
        return self.shapes[name][dim] if runs is None else runs.count

    def _check_merged(self, name: str, dims: Mapping[int, tuple[Runs, ...]]) -> None:
        for dim, many in dims.items():
            kept = self.kept.get(name, {}).get(dim)
            if kept is None or not all(runs.count == kept.count for runs in many):
                raise ValueError(f"merged: of dimension {dim} of {name!r} there are not as many indices as survive")
            for runs in many:
                _check_runs(runs, self.shapes[name][dim], f"merged of dimension {dim} of {name!r}")

    def _check_kept(self, name: str, dims: Mapping[int, Runs]) -> None:
        if name not in self.shapes:
            raise ValueError(f"kept: {name!r} is not among the {len(self.shapes)} names in shapes")
        shape = self.shapes[name]
        for dim, runs in dims.items():
            if not 0 <= dim < len(shape):
                raise ValueError(f"kept: {name!r} has the shape {list(shape)}, so there is no dimension {dim}")
            if not runs.count:
                raise ValueError(f"kept: nothing is left of dimension {dim} of {name!r}, needed is one entry at least")
            _check_runs(runs, shape[dim], f"kept of dimension {dim} of {name!r}")


def _places(group: str) -> tuple[tuple[str, int], ...]:
    """The tensors and dimensions that may be all of the channels of a group, by its name."""
    name, _, dim = group.removesuffix("]").rpartition("[")
    return ((name, int(dim)),) if name and dim.isdecimal() else ((f"{group}.weight", 0), (f"{group}.bias", 0))


def read_plan_data(data: object, what: str) -> PlanData:
    """Parsed JSON as the data of a plan; ``what`` names the argument it came with.

    Raises:
        LoadError: it is not a plan of a format that this version reads, or contradicts itself.
    """
    if not isinstance(data, dict) or data.get("format") != PLAN_FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise LoadError(
            f"{what}: plan format {found!r}; this version reads format {PLAN_FORMAT}",
            where=what,
            found=f"format {found!r}",
            needed=f"format {PLAN_FORMAT}",
            do="pass what Plan.to_json() of this version returned, or make the plan again: graph.plan(...)",
        )
    return convert_data(data, PlanData, what, "pass what Plan.to_json() returned", _parsed)


def write_plan_data(data: PlanData) -> dict[str, Any]:
    """The inverse of :func:`read_plan_data`."""
    written: dict[str, Any] = msgspec.to_builtins(data, str_keys=True, enc_hook=_written)
    for name in ("merged", "results", "tied"):  # of few plans
        if not written[name]:
            del written[name]
    return written


def _parsed(kind: type, data: Any) -> Any:
    if kind is not Runs or not isinstance(data, str):
        raise ValueError(f"found {with_article(type(data).__name__)}, needed are runs of indices such as '0-31 40'")
    return Runs.parse(data)


def _written(value: Any) -> str | int | float:
    """What JSON has no form for: runs, and the numbers of other libraries."""
    if isinstance(value, Runs):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise InputError(
        f"requested: a plan holds numbers and strings, but there is {with_article(type(value).__name__)}: "
        f"{shown(value)}",
        where="plan.requested",
        found=found_value(value),
        needed="numbers, strings, truth values, None, and lists and dicts of them",
        do="leave it out of requested, or write it as a string",
    )


def _check_runs(runs: Runs, size: int, where: str) -> None:
    try:
        runs.check(size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_different(names: list[str] | tuple[str, ...], where: str) -> None:
    if len(set(names)) < len(names):
        again = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{where}: {again!r} is there twice")


def _check_path(path: str) -> None:
    """Names of attributes with dots between them, without the ones that Python itself uses."""
    for name in path.split("."):
        if not name or (name.startswith("__") and name.endswith("__")):
            raise ValueError(f"{path!r} is no path of a module or attribute, such as 'blocks.0.attn.num_heads'")


def _check_json(where: str, value: Any, levels: int) -> None:
    """Raise a ValueError for what is nested deeper than ``levels``, or a number that is none."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: found the number {value}, needed is a finite one")
    if isinstance(value, dict | list):
        if not levels:
            raise ValueError(f"{where}: is nested deeper than {DEEPEST} levels")
        for item in value.values() if isinstance(value, dict) else value:
            _check_json(where, item, levels - 1)
