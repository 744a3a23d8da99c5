"""Plans of channels that somebody else chose, by number or by masks: for criteria of one's own.

The choice is completed by what goes with it, and refused where it cannot be carried out as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError, PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import CELL
from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.groups import Group
from graphprune.graph.parameter_uses import consumed_axes, scale_axes
from graphprune.planning.masked_comparison import Renumbering
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import Chooser, planned
from graphprune.planning.setup import PlanSetup
from graphprune.planning.validate import UNEVEN
from graphprune.pruning.plan import Plan
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids, Mask, distinct_columns
from graphprune.utils.checks import did_you_mean, found_value, shown
from graphprune.utils.compiled import uncompiled_name


def plan_of_kept(graph: Analysis, kept: Mapping[ParameterAxis | Group, Ids]) -> Plan:
    """A plan that keeps these entries of parameter axes, and these units of groups; see ``plan_from_kept``."""
    choice = _Entries(graph)
    removed = {axis: _others(axis, index, entry_count(graph, axis)) for axis, index in kept.items()}
    dead = choice.dead({axis: gone for axis, gone in removed.items() if isinstance(axis, ParameterAxis)})
    for group, gone in removed.items():
        if isinstance(group, Group):
            dead[group.unit_ids[gone]] = True
    return whole_plan(graph, dead, "kept", "the numbers given")


def plan_of_masks(graph: Analysis, masks: Mapping[str, Tensor]) -> Plan:
    """A plan without the channels that masks of parameters leave nothing of; see ``plan_from_masks``."""
    return whole_plan(graph, masked_units(graph, masks), "masks", "the masks")


def masked_units(graph: Analysis, masks: Mapping[str, Tensor]) -> Mask:
    """The units that are masked in all weights that make them, in all that read them, or in all scales. [classes]

    Args:
        graph: the analyzed model.
        masks: by the name of a parameter, a tensor of its shape that is zero where entries are masked.

    Raises:
        InputError: there is no such parameter, or it has another shape.
    """
    return _Entries(graph).masked(empty_entries(graph, masks))


def partly_masked_units(graph: Analysis, masks: Mapping[str, Tensor]) -> Mask:
    """The units that are masked in some weight or scale: what it multiplies is zero, what is added to it need not be.

    Args, returns and raises: as :func:`masked_units`.
    """
    return _Entries(graph).partly_masked(empty_entries(graph, masks))


def entry_count(graph: Analysis, of: ParameterAxis | Group) -> int:
    """How many entries an axis has, or units a group."""
    return of.units if isinstance(of, Group) else int(graph.trace.shapes[of.parameter][of.dim])


def _others(axis: ParameterAxis | Group, index: Ids, size: int) -> Ids:
    """The entries that are not kept.

    Raises:
        InputError: an index is out of range, or nothing would stay.
    """
    name = axis.name if isinstance(axis, Group) else axis
    wrong = index[(index < 0) | (index >= size)]
    if len(wrong):
        raise InputError(
            f"kept: {name} has {size} entries, numbered from 0, and {int(wrong[0])} is none of them",
            where=str(name),
            found=f"the number {int(wrong[0])}",
            needed=f"numbers from 0 to {size - 1}",
            do="give the numbers of the entries that stay",
        )
    gone = np.setdiff1d(np.arange(size), index)
    if len(gone) == size:
        raise InputError(
            f"kept: nothing of {name} would stay; keep at least one of its {size} entries",
            where=str(name),
            found="no entry that stays",
            needed=f"at least one of its {size} entries",
            do="name one entry to keep, or leave out the layer's block with depth=",
        )
    return gone


def empty_entries(graph: Analysis, masks: Mapping[str, Tensor]) -> dict[str, tuple[Ids, ...]]:
    """By parameter, for every dimension the entries of which masks leave nothing.

    A weight that ``torch.nn.utils.prune`` masks is a product of two tensors: where it is zero, both count as masked.
    """
    found: dict[str, tuple[Ids, ...]] = {}
    for given, mask in masks.items():
        name = uncompiled_name(given)
        weight = name.removesuffix("_orig").removesuffix("_mask")
        factors = [f"{weight}_orig", f"{weight}_mask"]
        both = all(one in graph.trace.shapes for one in factors)
        empty = _empty(graph, factors[0] if both else name, mask)
        for one in factors if both else [name]:
            before = found.get(one, empty)
            found[one] = tuple(np.union1d(*dims) for dims in zip(before, empty, strict=True))
    return found


def check_mask(name: str, mask: object) -> None:
    """Raise an InputError unless the mask of a parameter is a tensor."""
    if not isinstance(mask, Tensor):
        raise InputError(
            f"masks: the mask of {name} must be a tensor of the parameter's shape, but is {shown(mask)}",
            where=name,
            found=found_value(mask),
            needed="a tensor of the parameter's shape",
            do="pass a tensor; torch.as_tensor makes one of an array or a list",
        )


def _empty(graph: Analysis, name: str, mask: Tensor) -> tuple[Ids, ...]:
    """For every dimension of a parameter, the entries of which a mask leaves nothing.

    Raises:
        InputError: there is no such parameter, or the mask has another shape.
    """
    shape = graph.trace.shapes.get(name)
    check_mask(name, mask)
    if shape is None:
        known = list(graph.trace.shapes)
        raise InputError(
            f"masks: there is no parameter {name!r}{did_you_mean(name, known)}",
            found=f"the name {name!r}",
            needed=f"a name of the {len(known)} parameters and buffers, such as {next(iter(known), '')!r}",
            do="name it as model.state_dict() does",
        )
    if tuple(mask.shape) != tuple(shape):
        raise InputError(
            f"masks: the mask of {name} has shape {list(mask.shape)}, the parameter has {list(shape)}",
            where=name,
            found=f"shape {list(mask.shape)}",
            needed=f"shape {list(shape)}",
            do="pass a mask with one entry for each of the parameter's",
        )
    left = mask.detach().cpu() != 0
    others = [tuple(d for d in range(left.ndim) if d != dim) for dim in range(left.ndim)]
    found = [left.any(dim=dims) if dims else left for dims in others]
    return tuple(np.flatnonzero(~one.numpy()) for one in found)


# ---------------------------------------------------------------- entries of parameters and the units in them


class _Entries:
    """Which units the entries of parameter axes need."""

    def __init__(self, graph: Analysis) -> None:
        self._graph = graph
        self._axes = {axis.parameter_axis: number for number, axis in enumerate(graph.units.axes)}
        self._classes = graph.solution.count

    def dead(self, removed: Mapping[ParameterAxis, Ids]) -> Mask:
        """The units of which every entry on these axes is removed. [classes]

        Raises:
            PlanError: an entry is removed whose units others need.
        """
        alive, gone = np.zeros(self._classes, bool), np.zeros(self._classes, bool)
        for axis, index in removed.items():
            unit, entry = self._needed(axis)
            out = np.isin(entry, index)
            gone[unit[out]] = True
            alive[unit[~out]] = True
        dead = gone & ~alive
        for axis, index in removed.items():
            self._require_covered(axis, index, dead)
        return dead

    def masked(self, empty: Mapping[str, Sequence[Ids]]) -> Mask:
        """The units of which nothing is left on one side: making them, reading them, or scaling them. [classes]"""
        found = np.zeros(self._classes, bool)
        for side in self._sides:
            out, left = np.zeros(self._classes, bool), np.zeros(self._classes, bool)
            for axis in side:
                gone, others = self._masked_on(axis, empty)
                out |= gone
                left |= others
            found |= out & ~left
        return found

    def partly_masked(self, empty: Mapping[str, Sequence[Ids]]) -> Mask:
        """The units of which nothing is left on some axis that makes, reads or scales them. [classes]"""
        found = np.zeros(self._classes, bool)
        for axis in (axis for side in self._sides for axis in side):
            gone, others = self._masked_on(axis, empty)
            found |= gone & ~others
        return found

    def _masked_on(self, axis: ParameterAxis, empty: Mapping[str, Sequence[Ids]]) -> tuple[Mask, Mask]:
        """The units of which entries on an axis are masked, and those of which some are not. [classes]"""
        unit, entry = self._needed(axis)
        gone = np.isin(entry, empty[axis.parameter][axis.dim]) if axis.parameter in empty else entry < 0
        out, left = np.zeros(self._classes, bool), np.zeros(self._classes, bool)
        out[unit[gone]] = True
        left[unit[~gone]] = True
        return out, left

    @cached_property
    def _sides(self) -> tuple[list[ParameterAxis], ...]:
        """Axes of matrices that make channels, of those that read them, and of the scales of normalizations."""
        shapes, labeling = self._graph.trace.shapes, self._graph.labeling
        read, scales = consumed_axes(labeling), scale_axes(labeling)
        matrices = [axis for axis in self._axes if len(shapes[axis.parameter]) > 1]
        return [a for a in matrices if a not in read], [a for a in matrices if a in read], list(scales)

    def _needed(self, axis: ParameterAxis) -> tuple[Ids, Ids]:
        """The units that entries of an axis need, and these entries."""
        return self._graph.units.occurrences.along(self._axes[axis])

    def _require_covered(self, axis: ParameterAxis, index: Ids, dead: Mask) -> None:
        unit, entry = self._needed(axis)
        alone = np.setdiff1d(index, entry[dead[unit]])
        if not len(alone):
            return
        first = int(alone[0])
        units = unit[entry == first]
        if not len(units):
            raise PlanError(
                f"kept: entry {first} of {axis} cannot go",
                where=str(axis),
                found=f"entry {first} of a frozen axis",
                needed="entries that can go",
                do="keep all of it; graph.frozen says why",
            )
        groups = [self._graph.groups[n] for n in np.unique(self._graph.units.group_of[units]).tolist() if n >= 0]
        named = " and ".join(f"{group.name} ({group.role}, {', '.join(group.axes[:3])})" for group in groups)
        raise PlanError(
            f"kept: entry {first} of {axis} cannot go alone: it belongs to {named}, of which other entries stay",
            where=str(axis),
            found=f"entry {first} without the others of its unit",
            needed="whole units",
            do="remove all of a unit, or nothing of it",
        )


# ---------------------------------------------------------------- the plan


def plan_of_units(
    graph: Analysis, dead: Mask, chosen_by: str, renumbered: Renumbering | None = None
) -> tuple[Plan, dict[int, str]]:
    """A plan that removes as many of these units as can go, and why others stay.

    Args:
        graph: the analyzed model.
        dead: the units that are to go. [classes]
        chosen_by: who says so, for the plan's record.
        renumbered: as in a :class:`PlanSetup`.
    """
    dead = _outermost(graph, dead)
    setup = replace(PlanSetup.of(graph, PruningOptions(0.0)), renumbered=renumbered)
    last = _needed_of(setup, dead)
    reached = np.array([bool(dead[g.unit_ids].any()) for g in setup.groups], bool)

    def choose(
        free: Mask, constraints: SizeConstraints, same_entries: frozenset[int], multiples: Mapping[int, int]
    ) -> tuple[Ids, dict[int, str]]:
        going = dead & free
        going[list(last)] = False
        going = _evened(graph, going)
        return np.flatnonzero(going), {
            number: chosen_by if some else f"nothing of it goes by {chosen_by}" for number, some in enumerate(reached)
        }

    narrower = ("head_width",) if (graph.solution.kind[dead] == CELL).any() else ()
    plan, held = planned(setup, Chooser(reached, narrower, choose))
    plan = replace(plan, requested={"chosen by": chosen_by})
    gone = ~graph.alive(plan.removed)
    staying = np.flatnonzero(dead & ~gone).tolist()
    uneven = np.flatnonzero(dead & ~_evened(graph, dead)).tolist()
    why = held | dict.fromkeys(uneven, UNEVEN) | last
    return plan, {unit: why.get(unit, _NESTED) for unit in staying}


def _needed_of(setup: PlanSetup, dead: Mask) -> dict[int, str]:
    """The first of the units that are to go, as many as each group is short of what has to stay of it, and why."""
    found: dict[int, str] = {}
    for group, limit in zip(setup.groups, setup.limits, strict=True):
        going = group.unit_ids[dead[group.unit_ids]]
        why = limit.need or "all of its units would go, and one has to stay"
        found |= dict.fromkeys(going[: max(limit.least - group.units + len(going), 0)].tolist(), why)
    return found


_NESTED = "heads either go whole or become narrower: make one plan, then another"


def _outermost(graph: Analysis, dead: Mask) -> Mask:
    """These units without the cells of heads and groups among them, where there are no other cells. [classes]"""
    cells = dead & (graph.solution.kind == CELL)
    whole = dead & ~cells
    return whole if whole.any() and not (cells & units_left(graph, whole)).any() else dead


def units_left(graph: Analysis, removed: Mask) -> Mask:
    """The units of which some entries are left without these: cells of a head go with it. [classes]"""
    left = np.zeros_like(removed)
    for number in range(len(graph.units.axes)):
        unit, entry = graph.units.occurrences.along(number)
        left[unit[~np.isin(entry, entry[removed[unit]])]] = True
    return left


def _evened(graph: Analysis, going: Mask) -> Mask:
    """As many of these units as leave every row of a rectangle (a head, a group) equally many entries. [classes]"""
    going = going.copy()
    changed = True
    while changed and going.any():
        changed = False
        for ids, _ in graph.labeling.labels.facts.rectangles:
            released = _released(graph, going, graph.solution.of[ids])
            changed |= bool(going[released].any())
            going[released] = False
    return going


def _released(graph: Analysis, going: Mask, classes: Ids) -> Ids:
    """Of the units that go, those that have to stay so that the rows of a rectangle lose equally many entries."""
    gone = ~graph.solution.alive(np.flatnonzero(going))[classes]
    counts, none = gone.sum(axis=1), np.zeros(0, np.int64)
    if (counts == counts[0]).all():
        return none
    rows = np.arange(len(classes))
    unit, row, entry = graph.solution.expand(classes.ravel(), *np.indices(classes.shape).reshape(2, -1))
    pairs, _ = distinct_columns(np.stack([unit, row, entry])[:, going[unit]])
    units, times = distinct_columns(pairs[:2])
    whole = units[:, times == classes.shape[1]]
    rows = np.setdiff1d(rows, whole[1])
    most = int(counts[rows].min()) if len(rows) else 0
    kept = [pairs[0, (pairs[1] == r) & np.isin(pairs[2], np.flatnonzero(gone[r])[most:])] for r in rows.tolist()]
    return np.unique(np.concatenate([none, *kept]))


def whole_plan(
    graph: Analysis, dead: Mask, argument: str, chosen_by: str, renumbered: Renumbering | None = None
) -> Plan:
    """The plan that removes all of these units.

    Args:
        graph, dead, chosen_by, renumbered: as for :func:`plan_of_units`.
        argument: which argument says so, for errors.

    Raises:
        PlanError: some of them cannot go, or not without others.
    """
    plan, staying = plan_of_units(graph, dead, chosen_by, renumbered)
    if staying:
        by_group = units_by_group(graph, staying)
        named = "; ".join(
            f"{name} cannot lose {len(units)} unit{'s' if len(units) > 1 else ''}: {staying[units[0]]}"
            for name, units in by_group
        )
        raise PlanError(
            f"{argument}: {named}",
            where=", ".join(name for name, _ in by_group),
            found=f"{len(staying)} unit{'s' if len(staying) > 1 else ''} that cannot go, or not without others",
            needed="units that can go together",
            do="choose others, or let graph.plan choose",
        )
    return plan


def units_by_group(graph: Analysis, units: Iterable[int]) -> list[tuple[str, list[int]]]:
    """Units by the name of their group."""
    found: dict[str, list[int]] = {}
    for unit in units:
        number = int(graph.units.group_of[unit])
        found.setdefault(graph.units.groups[number].name if number >= 0 else "a parameter", []).append(unit)
    return list(found.items())


def indices(name: str, value: object, size: int) -> Ids:
    """Numbers that somebody gives: a sequence, an array, or a tensor; a mask of truth values too.

    Args:
        name: what they are given as, for messages.
        value: what was given.
        size: how many entries they choose among.

    Raises:
        InputError: they are none of these, a number is there twice, as in masks of zeros and ones, or a mask has
            another length.
    """
    array = _array(value)
    if array.dtype == bool and array.ndim == 1:
        _check_length(name, len(array), size)
        return np.flatnonzero(array)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise InputError(
            f"{name}: is {shown(value)}",
            where=name,
            found=found_value(value),
            needed="whole numbers in one dimension, or a mask of truth values",
            do="give the numbers of the entries that stay, such as [0, 1, 5]",
        )
    numbers, times = np.unique(array.astype(np.int64), return_counts=True)
    if len(numbers) < len(array):
        first = int(times.argmax())
        raise InputError(
            f"{name}: are {len(array)} numbers, of which {int(numbers[first])} is there {int(times[first])} times",
            where=name,
            found=found_value(value),
            needed="every number once, or a mask of truth values",
            do="give the numbers of the entries that stay, such as [0, 1, 5]; make truth values of a mask of zeros and "
            "ones: mask.bool()",
        )
    return numbers


def _check_length(name: str, length: int, size: int) -> None:
    """Raise an InputError if a mask does not say of every entry whether it stays."""
    if length != size:
        raise InputError(
            f"{name}: is a mask of {length} truth values, and there are {size} entries",
            where=name,
            found=f"{length} truth values",
            needed=f"{size}, one for each entry",
            do="say of each entry whether it stays, or give the numbers of those that do, such as [0, 1, 5]",
        )


def _array(value: object) -> Any:
    """What somebody gives as an array; what is none is one of no numbers."""
    if isinstance(value, torch.Tensor):
        return np.array(None) if value.is_meta else value.detach().cpu().numpy()
    try:
        return np.asarray(value)
    except ValueError:  # lists of several lengths
        return np.array(None)
