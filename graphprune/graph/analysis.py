"""What a traced model says about its channels: the data that every later stage works on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
from torch import Tensor, fx, nn
from typing_extensions import Self

from graphprune.errors import InputError, PlanError
from graphprune.graph.blocks import Block, find_blocks
from graphprune.graph.branches import Branch, find_branches
from graphprune.graph.budget_kinds import counted_kinds
from graphprune.graph.config_fields import ConfigFields, read_attributes
from graphprune.graph.constraints import SizeConstraints, read_constraints
from graphprune.graph.copies_for_inputs import fix_copies_for_inputs
from graphprune.graph.cost import CostModel
from graphprune.graph.couplings import Couplings
from graphprune.graph.dimensions import Dimensions
from graphprune.graph.groups import Group, Units
from graphprune.graph.living_sizes import LivingSizes
from graphprune.graph.propagate import Labeling, propagate
from graphprune.graph.rectangles import Rectangles
from graphprune.graph.removed_values import RemovedValues
from graphprune.graph.size_model import SizeModel
from graphprune.graph.solve import Solution, solve
from graphprune.graph.stated_sizes import fix_stated_sizes
from graphprune.graph.statistic_scales import StatisticScales
from graphprune.rules.labels import LabeledTensor
from graphprune.tracing.example_inputs.guess import first_that_runs
from graphprune.tracing.inputs import MethodCall, calls_of, check_samples
from graphprune.tracing.tracer import Trace, trace_model
from graphprune.utils.arrays import Mask
from graphprune.utils.checks import check_callable
from graphprune.utils.collector import gc_paused
from graphprune.utils.compiled import uncompiled
from graphprune.utils.dispatched import resident
from graphprune.utils.model_checks import check_model
from graphprune.utils.model_tensors import check_tensors
from graphprune.utils.modules import named_modules, tables, within
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.torch_modes import check_torch_modes


@dataclass(eq=False, repr=False)
class Analysis:
    """A trace, the labels of its tensors, what follows from them, and what all of that costs.

    Attributes:
        model: what was traced; only its shapes were looked at.
        trace: what it did on its example inputs.
        labeling: the label arrays of every traced tensor.
        solution: classes of labels that live and die together.
        units: what can be removed, grouped.
        examples: the calls that were traced.
    """

    model: nn.Module
    trace: Trace
    labeling: Labeling
    solution: Solution
    units: Units
    examples: tuple[MethodCall, ...] = ()

    def __post_init__(self) -> None:
        self._constrained: tuple[Mask, SizeConstraints] | None = None
        self._costs: CostModel | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {type(self.model).__name__}: {len(self.units.groups)} groups>"

    def __getstate__(self) -> None:
        raise InputError(
            "graph: cannot be pickled, since it holds operations of torch",
            where=repr(self),
            found="pickle, torch.save, or a value that is sent to another process",
            needed="a plan, which is data",
            do="keep graph.plan(...).to_json(), and trace the model again where a graph is needed",
        )

    def __copy__(self) -> Self:
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """The same analysis of a copy of the model."""
        memo[id(self)] = made = replace(self, model=copy.deepcopy(self.model, memo))
        return made

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Everything that can be removed, in the order of execution."""
        return tuple(replace(g, source=self._couplings.within) for g in self.units.groups)

    @cached_property
    def nx(self) -> nx.MultiGraph:
        """Nodes: axes (of parameters, rows, cells). Edges: couplings with ``op``, ``line`` and ``node_index``."""
        return self._couplings.graph

    @cached_property
    def _couplings(self) -> Couplings:
        return Couplings(self.labeling)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks that can be left out whole."""
        return find_blocks(self.trace, self.model)

    def results_of(self, skipped: Collection[str], zeroed: Collection[str]) -> dict[str, int]:
        """How many results whole blocks that return tuples have, of what is left out.

        Args:
            skipped: the paths of what is left out.
            zeroed: those of it that are no whole blocks.
        """
        whole = [block for block in self.blocks if block.path in skipped] if skipped else []
        return {block.path: block.results for block in whole if block.results and block.path not in zeroed}

    @cached_property
    def branches(self) -> tuple[Branch, ...]:
        """The residual branches that can be left out: attention or MLP of a layer alone."""
        return find_branches(self.trace, self.model, self.dimensions)

    @cached_property
    def config_fields(self) -> ConfigFields | None:
        """The fields of the configuration that the model's class builds it from; None: there is none."""
        return ConfigFields.of(self.model, self.reads)

    @cached_property
    def reads(self) -> list[str]:
        """The paths of the integers of the model that ``forward`` works with, but for those of configurations."""
        return read_attributes(self.trace, self.model)

    def size_model(self) -> SizeModel:
        """Sizes of all traced tensors as functions of what lives."""
        return SizeModel(self.labeling, self.solution, self.solution.prunable)

    @cached_property
    def dimensions(self) -> Dimensions:
        """The dimensions of traced tensors: those that the program takes sizes of, and others once asked for."""
        found = Dimensions(self.size_model())
        for use in self.trace.sizes.uses:
            if isinstance(use.dim, int) and isinstance(self.labeling.values.get(use.node), LabeledTensor):
                found.number(use.node, use.dim)
        return found

    def living_sizes(self, alive: Mask) -> LivingSizes:
        """The sizes of all traced tensors in one choice. ``alive`` [classes]"""
        return LivingSizes(self.dimensions, alive)

    @cached_property
    def rectangles(self) -> Rectangles:
        """What the program demands to stay a rectangle."""
        return Rectangles.of([ids for ids, _ in self.labeling.labels.facts.rectangles], self.solution)

    @cached_property
    def scales(self) -> StatisticScales:
        """Which calls of the evaluated program scale statistics over channels by numbers."""
        nodes = self.trace.evaluated_nodes if self.trace.on_meta else []
        return StatisticScales(nodes, self.labeling, self.solution)

    def constraints(self, selectable: Mask) -> SizeConstraints:
        """What the sizes of the program demand of these units; those asked for last are known."""
        if self._constrained is None or not np.array_equal(self._constrained[0], selectable):
            found = self.constraints_of_sizes(selectable, self.rectangles)
            self._constrained = selectable, found
        return self._constrained[1].copy()

    def constraints_of_sizes(self, selectable: Mask, rectangles: Rectangles | None = None) -> SizeConstraints:
        """The same of sizes alone; of rows of heads, which lose equally many entries, only where they are given."""
        sizes = SizeModel(self.labeling, self.solution, selectable)
        return read_constraints(self.trace, sizes, self.units, self.scales, rectangles)

    @cached_property
    def counted(self) -> dict[int, frozenset[int]]:
        """By number, the nodes that add up entries of channels: the groups whose removed ones are not zero there."""
        return RemovedValues(self.trace, self.labeling, self.solution, self.units).counted

    @property
    def costs(self) -> CostModel:
        """The cost of any choice of channels, in all kinds that are registered by now."""
        if self._costs is None or self._costs.counted != counted_kinds():
            self._costs = self.costs_without(())
        return self._costs

    def costs_without(self, skipped: Sequence[str]) -> CostModel:
        """The cost of any choice of channels when these modules are left out."""
        tensors = self._kept_tensors()
        if skipped:
            tensors = [(name, tensor) for name, tensor in tensors if not within(name, skipped)]
        return CostModel(self.dimensions, self.units, self.nodes_without(skipped), tensors)

    def _kept_tensors(self) -> list[tuple[str, Tensor]]:
        """Parameters, buffers and the other tensors of modules that runs read, by name.

        What is worked out before each call (the ``weight`` of ``weight_norm`` or of a mask), or left by the last one,
        is not kept.
        """
        own = tables(self.model)
        if not own.plain:
            return own.unique()
        read = {node.meta.get("tensor") for node in self.trace.graph.nodes if node.op == "get_attr"}
        return [(name, tensor) for name, tensor in own.unique() if name not in own.plain or name in read]

    def nodes_without(self, skipped: Sequence[str]) -> list[fx.Node]:
        """What evaluation runs of the trace when these modules are left out."""
        nodes = self.trace.evaluated_nodes
        if not skipped:
            return nodes
        gone = {node for call in self.trace.calls if call.path in skipped for node in nodes[call.start : call.stop]}
        return [node for node in nodes if node not in gone]

    def has_groups(self, removed: Mapping[str, tuple[int, Sequence[int]]]) -> bool:
        """Are there all groups that lose units, with as many units? See :meth:`alive`."""
        units = {g.name: g.units for g in self.groups}
        return all(units.get(name) == count for name, (count, numbers) in removed.items() if numbers)

    def alive(self, removed: Mapping[str, tuple[int, Sequence[int]]]) -> Mask:
        """For every class of labels, whether it lives.

        Args:
            removed: by the name of a group, how many units it has and the numbers of those that are gone.

        Raises:
            PlanError: there is no such group, or it has another number of units; a group that keeps all need not be.
        """
        gone = [np.zeros(0, np.int64)]
        by_name = {g.name: g for g in self.groups}
        for name, (units, numbers) in removed.items():
            if not numbers:
                continue
            group = by_name.get(name)
            if group is None or group.units != units:
                raise PlanError(
                    f"plan: it speaks of group {name!r}, which this model does not have",
                    where=f"group {name!r}",
                    found="no such group" if group is None else f"a group of {group.units} units",
                    needed=f"a group {name!r} of {units} units",
                    do="pass a plan that was made for this model, or make one: graph.plan(0.5)",
                )
            gone.append(group.unit_ids[list(numbers)])
        return self.solution.alive(np.concatenate(gone))


@gc_paused()
@random_numbers_kept()
def analyze(model: nn.Module, example_inputs: Any = None, outputs: Callable[[Any], Any] | None = None) -> Analysis:
    """Trace a model and draw all conclusions; see :func:`graphprune.trace`."""
    check_torch_modes()
    check_model(model)
    model = uncompiled(model)
    modules = named_modules(model)
    check_tensors(modules)
    model = resident(model, modules=modules)
    if outputs is not None:
        check_callable("outputs", outputs, "a function that picks tensors from the model's result", takes="result")
    if example_inputs is None:
        example_inputs, traced = first_that_runs(model, lambda i: trace_model(model, calls_of(i), outputs))
    else:
        traced = trace_model(model, calls_of(example_inputs), outputs)
    calls = calls_of(example_inputs)
    check_samples(calls, [node.meta["shape"] for node in traced.outputs])
    return analysis_of(model, traced, calls)


def analysis_of(
    model: nn.Module, traced: Trace, examples: tuple[MethodCall, ...] = (), vocabulary: int | None = None
) -> Analysis:
    """What a trace of ``model`` says about its channels.

    Args:
        model: what was traced.
        traced: what it did.
        examples: the calls that were traced.
        vocabulary: see :class:`~graphprune.rules.labels.Labels`.
    """
    labeling = propagate(traced, vocabulary)
    solution = solve(labeling.labels)
    units = Units(labeling, solution)
    stated, copied = fix_stated_sizes(model, traced, units), fix_copies_for_inputs(traced, units)
    if stated or copied:
        solution = solve(labeling.labels)
        units = Units(labeling, solution)
    return Analysis(model, traced, labeling, solution, units, examples)
