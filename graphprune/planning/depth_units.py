"""What can go of a model's depth, piece by piece: attention or MLP of a layer alone, and blocks that have no parts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from torch import nn

from graphprune.graph.analysis import Analysis
from graphprune.graph.blocks import Block
from graphprune.graph.branches import Branch
from graphprune.planning.frozen_parts import NOTHING_FROZEN, FrozenParts
from graphprune.planning.masked_comparison import slim_check
from graphprune.pruning.later_tensors import known_shapes
from graphprune.pruning.plan import Plan
from graphprune.utils.modules import tables, within

REMOVABLE = "branches and blocks"
"""Where ``requested`` of a plan has how many units of depth there were to choose from."""


@dataclass(frozen=True)
class LeftOut:
    """Modules that are left out, as ``skipped`` and ``zeroed`` of a :class:`graphprune.Plan`."""

    skipped: tuple[str, ...] = ()
    zeroed: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def all_of(parts: Iterable[LeftOut]) -> LeftOut:
        """What is left out with all of these."""
        parts = list(parts)
        zeroed = {path: results for part in parts for path, results in part.zeroed.items()}
        return LeftOut(tuple(chain.from_iterable(part.skipped for part in parts)), zeroed)

    def runs_in(self, graph: Analysis) -> bool:
        """Does the model run the rest as before without these?"""
        shapes = known_shapes(tables(graph.model), {}, graph.trace.modules)
        results = graph.results_of(self.skipped, self.zeroed)
        plan = Plan({}, shapes, {}, (), {}, self.skipped, zeroed=self.zeroed, results=results)
        alive = graph.solution.alive(np.zeros(0, np.int64))
        return slim_check(graph, self.skipped, self.zeroed).difference(plan, alive) is None


@dataclass(frozen=True)
class DepthUnit:
    """A residual branch, or a block that has no branches to choose from.

    Attributes:
        left_out: what goes with it.
        block: the block that goes whole once all of its branches do; empty: none.
    """

    left_out: LeftOut
    block: str = ""


@dataclass(frozen=True)
class DepthUnits:
    """All of a model, in the order of execution."""

    units: tuple[DepthUnit, ...] = ()

    def __len__(self) -> int:
        return len(self.units)

    @staticmethod
    def of(graph: Analysis, frozen: FrozenParts = NOTHING_FROZEN) -> DepthUnits:
        """Those without each of which the rest of the model runs as before, in generation too.

        Args:
            graph: the analyzed model.
            frozen: parts of which none is left out.
        """
        units, rest = [], list(graph.branches)
        for block in graph.blocks:
            own = [branch for branch in rest if within(branch.path, [block.path])]
            rest = [branch for branch in rest if branch not in own]
            units += _units_of(graph, block, own, frozen)
        units += [DepthUnit(left_out) for left_out in map(_of, rest) if _may_go(graph, left_out, frozen)]
        order = {call.path: number for number, call in enumerate(graph.trace.calls)}
        return DepthUnits(tuple(sorted(units, key=lambda unit: order[unit.left_out.skipped[-1]])))

    def left_out(self, gone: Collection[int], whole: bool = True) -> LeftOut:
        """What is left out with these units, by number.

        Args:
            gone: the numbers.
            whole: blocks of which all branches go are left out whole.
        """
        units = [self.units[number] for number in sorted(gone)]
        rest = {unit.block for number, unit in enumerate(self.units) if number not in gone}
        blocks = {unit.block: None for unit in units if whole and unit.block and unit.block not in rest}
        parts = [unit.left_out for unit in units if unit.block not in blocks]
        return LeftOut.all_of([*parts, *(LeftOut((path,)) for path in blocks)])


def _units_of(graph: Analysis, block: Block, own: Sequence[Branch], frozen: FrozenParts) -> list[DepthUnit]:
    """Several branches of a block one by one, or the block."""
    if len(own) < 2:
        alone = LeftOut((block.path,))
        return [DepthUnit(alone)] if _may_go(graph, alone, frozen) else []
    free = [left_out for left_out in map(_of, own) if _may_go(graph, left_out, frozen)]
    whole = len(free) == len(own) and _is_all(graph.model, block, own) and not frozen.are_in([block.path])
    return [DepthUnit(left_out, block.path if whole else "") for left_out in free]


def _may_go(graph: Analysis, left_out: LeftOut, frozen: FrozenParts) -> bool:
    """Is nothing of it frozen, and does the rest of the model run as before, in generation too?"""
    return (
        not frozen.are_in(left_out.skipped)
        and not counts_tokens(graph.model, left_out.skipped)
        and left_out.runs_in(graph)
    )


def counts_tokens(model: nn.Module, paths: Collection[str]) -> bool:
    """Is there the attention in it by whose cache Transformers counts the tokens that it has generated?"""
    generates = getattr(model, "can_generate", None)
    modules = (module for path in paths for module in model.get_submodule(path).modules())
    return bool(generates and generates()) and any(
        getattr(module, name, None) == 0 for module in modules for name in ("layer_idx", "layer_id")
    )


def _of(branch: Branch) -> LeftOut:
    return LeftOut(tuple(branch.modules), branch.modules)


def _is_all(model: nn.Module, block: Block, own: Sequence[Branch]) -> bool:
    """Are all weights of a block, but for vectors, those of its branches?"""
    paths = [path for branch in own for path in branch.modules]
    names = (f"{block.path}.{name}" for name, p in model.get_submodule(block.path).named_parameters() if p.ndim > 1)
    return all(within(name, paths) for name in names)
