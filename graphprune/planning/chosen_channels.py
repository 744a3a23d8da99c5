"""Plans of channels that somebody else chose, by number or by masks: for criteria of one's own.

The choice is completed by what goes with it, and refused where it cannot be carried out as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError, PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import CELL, candidates
from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.groups import Group
from graphprune.graph.parameter_uses import consumed_axes
from graphprune.graph.solve import Solution
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import checked_plan, recorded_plan
from graphprune.planning.setup import PlanSetup
from graphprune.planning.validate import Selection, validate
from graphprune.pruning.plan import Plan
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.checks import did_you_mean


def plan_of_kept(graph: Analysis, kept: Mapping[ParameterAxis | Group, Ids]) -> Plan:
    """A plan that keeps these entries of parameter axes, and these units of groups; see ``plan_from_kept``."""
    choice = _Entries(graph)
    removed = {axis: _others(axis, index, choice.size(axis)) for axis, index in kept.items()}
    dead = choice.dead({axis: gone for axis, gone in removed.items() if isinstance(axis, ParameterAxis)})
    for group, gone in removed.items():
        if isinstance(group, Group):
            dead[group.unit_ids[gone]] = True
    return _plan(graph, dead, "the numbers given")


def plan_of_masks(graph: Analysis, masks: Mapping[str, Tensor]) -> Plan:
    """A plan without the channels that masks of parameters leave nothing of; see ``plan_from_masks``."""
    choice = _Entries(graph)
    return _plan(graph, choice.masked({name: _empty(graph, name, mask) for name, mask in masks.items()}), "the masks")


def _others(axis: ParameterAxis | Group, index: Ids, size: int) -> Ids:
    """The entries that are not kept.

    Raises:
        InputError: an index is out of range, or nothing would stay.
    """
    name = axis.name if isinstance(axis, Group) else axis
    wrong = index[(index < 0) | (index >= size)]
    if len(wrong):
        raise InputError(f"kept: {name} has {size} entries, numbered from 0, and {int(wrong[0])} is none of them")
    gone = np.setdiff1d(np.arange(size), index)
    if len(gone) == size:
        raise InputError(f"kept: nothing of {name} would stay; keep at least one of its {size} entries")
    return gone


def _empty(graph: Analysis, name: str, mask: Tensor) -> tuple[Ids, ...]:
    """For every dimension of a parameter, the entries of which a mask leaves nothing.

    Raises:
        InputError: there is no such parameter, or the mask has another shape.
    """
    shape = graph.trace.shapes.get(name)
    if shape is None:
        known = list(graph.trace.shapes)
        raise InputError(f"masks: there is no parameter {name!r}{did_you_mean(name, known)}; give it as in state_dict")
    if tuple(mask.shape) != tuple(shape):
        raise InputError(f"masks: the mask of {name} has shape {list(mask.shape)}, the parameter has {list(shape)}")
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
        self._classes = len(graph.solution.reason)

    def size(self, of: ParameterAxis | Group) -> int:
        """How many entries there are."""
        return of.units if isinstance(of, Group) else self._graph.units.axes[self._axes[of]].size

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
        """The units that are empty in all weights that make them, in all that read them, or in a vector. [classes]"""
        found = np.zeros(self._classes, bool)
        for side in (self._making, self._reading):
            some, all_of_them = np.zeros(self._classes, bool), np.ones(self._classes, bool)
            for axis in side:
                unit, entry = self._needed(axis)
                dims = empty.get(axis.parameter, ())
                out = np.isin(entry, dims[axis.dim]) if dims else np.zeros(len(entry), bool)
                some[unit] = True
                all_of_them[unit[~out]] = False
            found |= some & all_of_them
        return found | self._in_vectors(empty)

    def _in_vectors(self, empty: Mapping[str, Sequence[Ids]]) -> Mask:
        found = np.zeros(self._classes, bool)
        for name, dims in empty.items():
            if len(dims) == 1 and (axis := ParameterAxis(name, 0)) in self._axes:
                unit, entry = self._needed(axis)
                out = np.isin(entry, dims[0])
                found |= _only(unit[out], unit[~out], self._classes)
        return found

    @cached_property
    def _reading(self) -> list[ParameterAxis]:
        read = consumed_axes(self._graph.labelling)
        return [axis for axis in self._axes if axis in read]

    @cached_property
    def _making(self) -> list[ParameterAxis]:
        """Axes of matrices and kernels that do not meet an input."""
        shapes = self._graph.trace.shapes
        return [a for a in self._axes if a not in set(self._reading) and len(shapes[a.parameter]) > 1]

    def _needed(self, axis: ParameterAxis) -> tuple[Ids, Ids]:
        """The units that entries of an axis need, and these entries."""
        occurrences = self._graph.units.occurrences
        number = self._axes[axis]
        here = slice(*np.searchsorted(occurrences.axis, [number, number + 1]))
        return occurrences.unit[here], occurrences.index[here]

    def _require_covered(self, axis: ParameterAxis, index: Ids, dead: Mask) -> None:
        unit, entry = self._needed(axis)
        alone = np.setdiff1d(index, entry[dead[unit]])
        if not len(alone):
            return
        first = int(alone[0])
        units = unit[entry == first]
        if not len(units):
            raise PlanError(f"kept: entry {first} of {axis} cannot go; graph.frozen says why")
        groups = [self._graph.groups[n] for n in np.unique(self._graph.units.group_of[units]).tolist() if n >= 0]
        named = " and ".join(f"{group.name} ({group.role}, {', '.join(group.axes[:3])})" for group in groups)
        raise PlanError(
            f"kept: entry {first} of {axis} cannot go alone: it belongs to {named}, of which other entries stay; "
            "remove all of a unit, or nothing of it"
        )


def _only(some: Ids, others: Ids, classes: int) -> Mask:
    """The units that are among some and not among others. [classes]"""
    found = np.zeros(classes, bool)
    found[some] = True
    found[others] = False
    return found


# ---------------------------------------------------------------- the plan


@dataclass(frozen=True, eq=False)
class _Choice:
    """Units that somebody wants removed. [classes]"""

    setup: PlanSetup
    dead: Mask

    @property
    def units(self) -> Ids:
        return np.flatnonzero(self.dead)

    @property
    def reached(self) -> Mask:
        """The groups that lose something. [groups]"""
        return np.array([bool(self.dead[g.unit_ids].any()) for g in self.setup.groups], bool)

    @property
    def narrower(self) -> bool:
        """Do heads become narrower?"""
        return bool((self.setup.graph.solution.kind[self.units] == CELL).any())


def _plan(graph: Analysis, dead: Mask, chosen_by: str) -> Plan:
    """The plan that removes these units and nothing else.

    Raises:
        PlanError: they cannot be removed, or not without others.
    """
    setup = PlanSetup.of(graph, PruningOptions(0.0))
    choice = _Choice(setup, dead)
    free, constraints = candidates(graph, choice.reached, choice.narrower)
    _require_free(choice, free, constraints)
    selection, violations = validate(graph, graph.size_model(), constraints, _alive(graph.solution, choice))
    if len(violations.broken):
        raise PlanError(_broken(choice, violations.broken))
    why = [chosen_by if touched else "all of it was to stay" for touched in choice.reached]
    plan = replace(recorded_plan(setup, selection, why), requested={"chosen by": chosen_by})
    return _checked(setup, selection, plan)


def _alive(solution: Solution, choice: _Choice) -> Mask:
    """The classes that live.

    Raises:
        PlanError: nothing would be left of a group.
    """
    empty = next((g for g in choice.setup.groups if choice.dead[g.unit_ids].all()), None)
    if empty is not None:
        raise PlanError(f"kept: nothing of {empty.name} ({empty.units} units) would stay; keep at least one")
    return solution.alive(choice.units)


def _require_free(choice: _Choice, free: Mask, constraints: SizeConstraints) -> None:
    held = [unit for unit in choice.units.tolist() if not free[unit]]
    if not held:
        return
    number = int(choice.setup.graph.units.group_of[held[0]])
    group = choice.setup.groups[number] if number >= 0 else None
    why = constraints.frozen.get(held[0], "heads either go whole or become narrower: make one plan, then another")
    raise PlanError(f"kept: units of {group.name if group else 'a parameter'} cannot go: {why}")


def _broken(choice: _Choice, broken: Iterable[int]) -> str:
    """Which numbers do not fit each other."""
    numbers = dict.fromkeys(choice.setup.graph.units.group_of[list(broken)].tolist())
    groups = [choice.setup.groups[n] for n in numbers if n >= 0]
    left = ", ".join(f"{g.name} keeps {int((~choice.dead[g.unit_ids]).sum())} of {g.units}" for g in groups[:6])
    return f"kept: sizes in the code do not allow these numbers together: {left}; choose others, or use graph.plan"


def _checked(setup: PlanSetup, selection: Selection, plan: Plan) -> Plan:
    checked, difference, _ = checked_plan(setup, selection, plan)
    if difference is not None:
        raise PlanError(f"kept: the program would be another one: {difference}; keep what it depends on")
    return checked


def indices(name: str, value: object) -> Ids:
    """Numbers that somebody gives: a sequence, an array, or a tensor; a mask of truth values too.

    Raises:
        InputError: they are none of these.
    """
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.dtype == bool and array.ndim == 1:
        return np.flatnonzero(array)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"kept: {name} maps to {value!r:.80}; give the numbers of the entries that stay")
    return np.unique(array.astype(np.int64))
