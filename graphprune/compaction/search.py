"""Find which zero channels can go without a change of the outputs, and fold what they pass on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.compaction.folding import ConstantFolding
from graphprune.compaction.masked_copy import entries_left
from graphprune.compaction.merging import merge_constants
from graphprune.compaction.readers import Reader, find_readers, forward_batches, multiplied_inputs
from graphprune.compaction.variants import varied_calls
from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import CELL, REPEAT, ROW
from graphprune.planning.chosen_channels import masked_units, partly_masked_units, plan_of_units
from graphprune.planning.translation import responsible
from graphprune.pruning.comparison import difference
from graphprune.pruning.float64 import wide_module, widened_tensor
from graphprune.pruning.plan import Plan
from graphprune.pruning.wide_run import run_slim
from graphprune.rules.labels import LabeledTensor
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.running import Outputs
from graphprune.utils.arrays import Mask
from graphprune.utils.modules import named_tensors

EXACT = 1e-10
"""The largest relative difference of outputs in float64."""
CHOSEN_BY = "zeros"
DIFFERS = "without them the outputs differ"
UNFIT = "a size or an order in the code would not fit"
VARYING = "what they pass on is no constant: something else than zeros makes it, or a kernel that pads with zeros"


class ZeroSearch:
    """A model some of whose channels are zero, and a copy in float64 in which constants are folded step by step.

    The copy gives the same outputs after every step, and reads fewer channels.

    Args:
        graph: the analyzed model.
        outputs: picks from a result what is compared.
        hidden: by the name of a parameter, which entries are zero in the weight that is made of it. [its shape]
        threshold: up to which magnitude entries of each parameter count as zero.
        narrower: channels within heads go, and no whole heads; else whole heads, and no channels within them.

    Attributes:
        going: the units that go. [classes]
        kept: units that are zero and stay, and why.
        has_cells: are there zero channels within heads, which this search leaves alone?
    """

    def __init__(
        self,
        graph: Analysis,
        outputs: Outputs | None,
        hidden: dict[str, Tensor],
        threshold: dict[str, float],
        narrower: bool,
    ) -> None:
        self.graph = graph
        self.outputs = outputs
        self.hidden = hidden
        self.threshold = threshold
        self.eligible: Mask = ~np.isin(graph.solution.kind, (ROW, REPEAT) if narrower else (CELL,))
        self.has_cells = False
        self.work = wide_module(graph.model)
        self.going = np.zeros(graph.solution.count, bool)
        self.kept: dict[int, str] = {}

    def run(self) -> None:
        """Find all that can go."""
        suspects = masked_units(self.graph, self.left) | partly_masked_units(self.graph, self.left)
        self.has_cells = bool((suspects & ~self.eligible & (self.graph.solution.kind == CELL)).any())
        if not suspects.any():
            return
        while self._step():
            pass
        while not self._equal(self.going):
            self._hold_what_differs()

    @cached_property
    def left(self) -> dict[str, Tensor]:
        """By the name of a parameter, where the model as it was is not zero."""
        return self._left(self.graph.model)

    # ------------------------------------------------------------ what is measured once

    @cached_property
    def _calls(self) -> list[MethodCall]:
        return varied_calls(wide_module(self.graph.model), self.graph.examples)

    @cached_property
    def _examples(self) -> list[MethodCall]:
        return [call.mapped(widened_tensor, objects=True) for call in self.graph.examples]

    @cached_property
    def _expected(self) -> list[Tensor]:
        return run_slim(self.graph.model, self._calls, outputs=self.outputs)

    @cached_property
    def _readers(self) -> list[Reader]:
        return find_readers(wide_module(self.graph.model), self.graph.units, self._calls)

    @cached_property
    def _folding(self) -> ConstantFolding:
        return ConstantFolding(self.work, forward_batches(self._examples))

    # ------------------------------------------------------------ one step

    def _step(self) -> bool:
        """Fold what can be folded now; else merge what can be merged. Did anything change?"""
        status = self._status()
        free = status.zero & ~status.stuck & ~self.going & ~self._staying
        if free.any():
            self._let_go(free)
            return True
        carriers = self._merged(status.zero & status.stuck & ~self._staying)
        for unit, count in carriers.items():
            self.kept[unit] = f"it carries the constants of {count} others, {status.why[unit]}"
        if not carriers:
            self._explain(status)
        return bool(carriers)

    def _status(self) -> _Status:
        left = self._left(self.work)
        dead, partly = masked_units(self.graph, left), partly_masked_units(self.graph, left)
        multiplied = multiplied_inputs(self.work, self.graph.units, self._examples)
        return _Status(self._readers, multiplied, self._folding, dead, partly, self.eligible)

    @property
    def _staying(self) -> Mask:
        found = np.zeros_like(self.going)
        found[list(self.kept)] = True
        return found

    def _let_go(self, units: Mask) -> None:
        """Fold what units pass on and clear what makes them, as far as they can go and nothing changes."""
        units = self._in_multiples(units)
        if not units.any():
            return
        try:
            plan, staying = plan_of_units(self.graph, self.going | units, CHOSEN_BY)
            if self._tried(lambda: self._fold(plan)):
                self.kept |= staying
                self.going |= ~self.graph.alive(plan.removed) & units
                return
            why = DIFFERS
        except PlanError:
            why = UNFIT
        parts = self._by_group(units)
        if len(parts) == 1:
            self.kept |= {unit: self._mixing.get(unit, why) for unit in np.flatnonzero(units).tolist()}
        for part in parts if len(parts) > 1 else ():
            self._let_go(part)

    def _in_multiples(self, units: Mask) -> Mask:
        """Those of the units without which what is left is a multiple of what sizes of the code divide it by."""
        found: Mask = units.copy()
        for ids, number in self.graph.constraints(self.graph.solution.prunable).multiples:
            mine = ids[found[ids]]
            surplus = (np.count_nonzero(self.going[ids]) + len(mine)) % number
            staying = mine[max(len(mine) - surplus, 0) :]
            found[staying] = False
            self.kept |= dict.fromkeys(staying.tolist(), f"sizes of the code divide what is left by {number}")
        return found

    def _fold(self, plan: Plan) -> None:
        self._folding.fold(plan)
        for name, tensor in named_tensors(self.work):
            if name in self._folding.by_parameter and name in plan.kept:
                tensor[~plan.mask(name)] = 0

    def _merged(self, units: Mask) -> dict[int, int]:
        """The units that carry the constants of others from now on, and of how many."""
        found: dict[int, int] = {}
        if self._tried(lambda: found.update(merge_constants(self.graph, self._folding, units))):
            return found
        parts = self._by_group(units)
        found.clear()
        for part in parts if len(parts) > 1 else ():
            found |= self._merged(part)
        return found

    def _tried(self, change: Callable[[], object]) -> bool:
        """Change the copy, and change it back if its outputs are others then. Are they the same?"""
        before = {name: tensor.clone() for name, tensor in named_tensors(self.work)}
        with torch.no_grad():
            change()
            found = run_slim(self.work, self._calls, outputs=self.outputs)
            if difference(self._expected, found).relative <= EXACT:
                return True
            for name, tensor in named_tensors(self.work):
                tensor.copy_(before[name])
        return False

    def _by_group(self, units: Mask) -> list[Mask]:
        """Units by their group. [classes]"""
        numbers = self.graph.units.group_of
        return [units & (numbers == number) for number in np.unique(numbers[units]).tolist()]

    def _explain(self, status: _Status) -> None:
        """Note why zero channels stay that can go at no step."""
        for unit in np.flatnonzero((status.zero | status.dead) & ~self.going & ~self._staying).tolist():
            self.kept[unit] = status.why.get(unit) or self._mixing.get(unit, VARYING)

    @cached_property
    def _mixing(self) -> dict[int, str]:
        """Units that are counted by operations that mix channels, and what these do."""
        found: dict[int, str] = {}
        labeling, solution = self.graph.labeling, self.graph.solution
        for number, text in labeling.labels.facts.mixing.items():
            for node in labeling.nodes[number].all_input_nodes[:1]:
                value = labeling.values.get(node)
                for array in value.arrays if isinstance(value, LabeledTensor) else ():
                    units = solution.expand(np.unique(solution.of[array.ids]))[0]
                    found |= dict.fromkeys(units.tolist(), text)
        return found

    # ------------------------------------------------------------ what is zero

    def _left(self, model: nn.Module) -> dict[str, Tensor]:
        """By the name of a parameter, where it is not zero."""
        found = {n: some for n, some in entries_left(model, self.threshold).items() if n in self.graph.trace.shapes}
        return found | {n: found[n] & ~gone.to(found[n].device) for n, gone in self.hidden.items() if n in found}

    # ------------------------------------------------------------ the proof

    def plan(self, units: Mask) -> Plan:
        """The plan of some units."""
        return plan_of_units(self.graph, units, CHOSEN_BY)[0]

    def _equal(self, units: Mask) -> bool:
        """Are the outputs the same without these units?"""
        if not units.any():
            return True
        try:
            slim = self.plan(units).apply(self.work)
        except PlanError:
            return False
        found = run_slim(slim, self._calls, outputs=self.outputs)
        return difference(self._expected, found).relative <= EXACT

    def _hold_what_differs(self) -> None:
        """Keep the channels whose removal changes the outputs."""
        numbers = np.unique(self.graph.units.group_of[self.going]).tolist()
        for number in responsible(numbers, lambda part: not self._equal(self._within(part))):
            units = np.flatnonzero(self._within([number])).tolist()
            for unit in responsible(units, lambda part: not self._equal(self._only(part))):
                self.kept[unit] = self._mixing.get(unit, DIFFERS)
                self.going[unit] = False

    def _only(self, units: Iterable[int]) -> Mask:
        found = np.zeros_like(self.going)
        found[list(units)] = True
        return found

    def _within(self, numbers: Iterable[int]) -> Mask:
        """The units of some groups that go. [classes]"""
        return self.going & np.isin(self.graph.units.group_of, list(numbers))

    # ------------------------------------------------------------ the result

    def slim(self) -> nn.Module:
        """The smaller module, with the biases and weights that make up for what went."""
        if not self.going.any():
            return self.graph.model
        plan = self.plan(self.going)
        slim = plan.apply(self.graph.model)
        before = dict(named_tensors(plan.apply(wide_module(self.graph.model))))
        after = dict(named_tensors(plan.apply(self.work)))
        with torch.no_grad():
            for name, tensor in named_tensors(slim):
                if not torch.equal(before[name], after[name]):
                    tensor.copy_(after[name])
        return slim


class _Status:
    """What is zero at this step, and what reads it.

    Attributes:
        dead: the units that are zero on one side. [classes]
        zero: those, and others that share what is read with units of which something is zero, that pass on constants
            at most. [classes]
        stuck: the units that pass on a constant which no bias takes. [classes]
        why: why not.
    """

    def __init__(
        self,
        readers: list[Reader],
        multiplied: list[Mask],
        folding: ConstantFolding,
        dead: Mask,
        partly: Mask,
        eligible: Mask,
    ) -> None:
        varies, self.stuck, near = (np.zeros_like(dead) for _ in range(3))
        self.why: dict[int, str] = {}
        for reader, used in zip(readers, multiplied, strict=True):
            near[reader.sharing(dead | partly)] = True
            here = used[reader.place]
            varying = here & reader.varying[reader.place]
            varies[reader.unit[varying]] = True
            units = reader.unit[here & ~varying & (reader.mean[reader.place] != 0)]
            if len(units) and not folding.takes(reader.axes):
                self.stuck[units] = True
                self.why |= dict.fromkeys(units.tolist(), folding.why_not(reader.axes))
        self.dead = dead & eligible
        self.zero: Mask = (dead | near) & eligible & ~varies
