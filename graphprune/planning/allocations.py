"""How groups share what is removed: one record for each allocation.

An allocation is an order of removal; a budget says how far to go in it (:mod:`graphprune.planning.search`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn

from graphprune.errors import InputError, UnmeasuredGroupsWarning
from graphprune.graph.groups import Group
from graphprune.planning.removal_paths import RemovalPath
from graphprune.planning.sensitivity import Sensitivity
from graphprune.utils.arrays import Scores
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import is_defined_again, shown


@dataclass(frozen=True, eq=False)
class AllocationInputs:
    """What an allocation may look at.

    Attributes:
        paths: what can be removed.
        groups: for each path, the groups that its parts belong to.
        prices: for each path, what each of its units takes of the budgets. [units] each
        modules: the class of every module of the model, by path.
    """

    paths: Sequence[RemovalPath]
    groups: Sequence[Sequence[Group]]
    prices: Sequence[Scores]
    modules: Mapping[str, type]


Priority = Callable[[AllocationInputs], Iterable[Scores]]
"""For each path, how early each of its stops comes: low values first."""


@dataclass(frozen=True)
class Allocation:
    """One way of sharing: its name, its priority, and what it does in a sentence."""

    name: str
    priority: Priority
    help: str


ALLOCATIONS: dict[str, Allocation] = {}


def allocation(name: str, help: str) -> Callable[[Priority], Priority]:
    """Register a priority under a name that ``plan(allocation=...)`` takes.

    Raises:
        InputError: the name is that of another one. What is defined again takes the place of the earlier one.
    """

    def register(priority: Priority) -> Priority:
        if name in ALLOCATIONS and not is_defined_again(priority, ALLOCATIONS[name].priority):
            raise InputError(
                f"name: the allocation {name!r} is registered already",
                found=f"the name {name!r}",
                needed="a name that no other allocation has",
                do="give the allocation another name",
            )
        ALLOCATIONS[name] = Allocation(name, priority, help)
        return priority

    return register


def find_allocation(given: str | Sensitivity | None) -> Allocation:
    """The allocation by its name, or by what was measured; None: ``"global"``."""
    if isinstance(given, Sensitivity):
        return Allocation("sensitivity", partial(by_sensitivity, given), "by the measured rise of the loss")
    return ALLOCATIONS["global" if given is None else given]


@allocation("uniform", "the same fraction of every group (the default of a ratio)")
def uniform(inputs: AllocationInputs) -> Iterator[Scores]:
    """The fraction that is gone at each stop."""
    return (path.gone for path in inputs.paths)


@allocation("global", "the units with the least importance for what they cost (the default of a budget)")
def cost_aware(inputs: AllocationInputs) -> Iterator[Scores]:
    """Importance lost for every unit of cost saved."""
    return (path.lost / _saved(path, price) for path, price in zip(inputs.paths, inputs.prices, strict=True))


def _saved(path: RemovalPath, price: Scores) -> Scores:
    """What each stop saves, where the units of the path have these prices. [stops]"""
    return np.maximum(np.bincount(path.stop, price, len(path.stops)), 1e-15)


def by_sensitivity(measured: Sensitivity, inputs: AllocationInputs) -> list[Scores]:
    """The rise of a measured loss for every unit of cost saved; importance decides where nothing was seen to rise.

    Of the groups of a path, the one that suffers most counts. Paths without a measured group come last.

    Raises:
        InputError: none of the groups was measured.

    Warns:
        UnmeasuredGroupsWarning: some paths have no group that was measured.
    """
    names = [[group.name for group in groups if group.name in measured.losses] for groups in inputs.groups]
    if names and not any(names):
        raise _of_other_groups(measured, inputs)
    unmeasured = [groups[0].name for groups, known in zip(inputs.groups, names, strict=True) if not known]
    if unmeasured:
        _warn_of_unmeasured(unmeasured)
    found = []
    for path, known, price in zip(inputs.paths, names, inputs.prices, strict=True):
        rises = [measured.rise(name, path.gone) for name in known]
        each = np.diff(np.max(rises, axis=0), prepend=0.0) if rises else np.inf
        found.append((each + 1e-6 * path.lost) / _saved(path, price))
    return found


def _of_other_groups(measured: Sensitivity, inputs: AllocationInputs) -> InputError:
    """That a measured sensitivity says nothing of the groups that can lose units."""
    names = list(dict.fromkeys(group.name for groups in inputs.groups for group in groups))
    given = shown(list(measured.losses)[:3])
    what = f"nothing can be removed of the groups that the Sensitivity measured, such as {given}"
    return InputError(
        f"allocation: {what if measured.losses else 'the Sensitivity measured no group'}",
        found=f"a Sensitivity of {len(measured.losses)} groups",
        needed=f"the losses of the groups of this model, such as {names[0]!r}",
        do=_MEASURE,
    )


def _warn_of_unmeasured(names: Sequence[str]) -> None:
    """Warn of groups that a sensitivity has no loss of."""
    others = f" and {len(names) - _SHOWN} others" if len(names) > _SHOWN else ""
    given = f"{', '.join(map(repr, names[:_SHOWN]))}{others}"
    warnings.warn(
        f"allocation: the Sensitivity has no loss of {given}, so that others are pruned first; {_MEASURE}",
        UnmeasuredGroupsWarning,
        stacklevel=frames_of_this_package(),
    )


_MEASURE = (
    "measure this model, graph.sensitivity(evaluate), with the same roles asked for, and ratios= of one unit or more"
)
_SHOWN = 3
"""How many groups a warning names."""


@allocation("isomorphic", "one ranking among groups of equal structure, and the same fraction of every structure")
def isomorphic(inputs: AllocationInputs) -> list[Scores]:
    """The fraction of all stops of paths of equal structure that is passed at each stop.

    Source: Fang et al., "Isomorphic Pruning for Vision Models", ECCV 2024.
    """
    paths = inputs.paths
    structures = [_structure(groups, inputs.modules) for groups in inputs.groups]
    found: list[Scores] = [path.scores for path in paths]
    for structure in set(structures):
        mine = [i for i, s in enumerate(structures) if s == structure]
        each = [np.maximum.accumulate(paths[i].scores) for i in mine]
        ranks = np.argsort(np.argsort(np.concatenate(each), kind="stable")) + 1
        fractions = np.split(ranks / max(len(ranks), 1), np.cumsum([len(e) for e in each])[:-1])
        for i, fraction in zip(mine, fractions, strict=True):
            found[i] = fraction
    return found


SEARCHED = "searched"


@allocation(
    SEARCHED, "the least loss among candidates that exchange width between groups, with calibration= (takes minutes)"
)
def searched(inputs: AllocationInputs) -> list[Scores]:
    """Refuse: where there is only an order to ask for, nothing is searched (see :mod:`graphprune.evolution`).

    Raises:
        InputError: always.
    """
    raise InputError(
        f"allocation: {SEARCHED!r} judges candidates, which is not done here",
        found=f"allocation={SEARCHED!r} where one group is looked at, or a checkpoint is read tensor by tensor",
        needed="an allocation that goes by scores",
        do="leave out allocation=, or use it with graph.plan or graphprune.prune_model",
    )


def _structure(groups: Sequence[Group], modules: Mapping[str, type]) -> tuple[str, ...]:
    """What groups of equal structure have in common: their roles and the layers that they run through."""
    places = sorted((axis.module, axis.tensor, axis.dim) for group in groups for axis in group.axes)
    layers = (f"{modules.get(module, nn.Module).__name__}.{tensor}[{dim}]" for module, tensor, dim in places)
    return *(group.role for group in groups), *sorted(layers)
