"""Check that the slim model runs the program that was traced: it is built without values, run, and compared.

Sizes reach programs in ways without end. Whatever the way, the slim model's own run shows it: another operation,
number, constant or shape than the plan says. What it depends on then stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from math import prod
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from torch import Tensor, fx, nn

from graphprune.errors import GraphpruneError
from graphprune.graph.analysis import Analysis
from graphprune.graph.couplings import describe_line
from graphprune.graph.dimensions import is_grid
from graphprune.graph.slim_arguments import slim_arguments, slim_shapes
from graphprune.graph.statistic_scales import entries_key, living_entries
from graphprune.planning.program_steps import Step, StepReader
from graphprune.pruning.plan import Plan, slim_on_meta
from graphprune.pruning.rewrite import slim_tensor
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.tracing.meta import has_readable_values, is_float
from graphprune.tracing.places import raised_at
from graphprune.tracing.running import Replay, replay_program
from graphprune.tracing.tracer import record
from graphprune.utils.arrays import Mask
from graphprune.utils.collector import gc_paused
from graphprune.utils.equality import same_values
from graphprune.utils.global_state import changing_globals
from graphprune.utils.modules import is_parameter, tables
from graphprune.utils.random_state import random_numbers_kept, set_random_state

Shapes = Sequence[tuple[int, ...] | int | None]


@dataclass(frozen=True)
class ProgramDifference:
    """Where a slim model's program is another one, in words, and what it raised, if so."""

    text: str
    line: str
    cause: Exception | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.text}, at {self.line}"

    @classmethod
    def failure(cls, error: Exception, doing: str = "the slim model fails") -> ProgramDifference:
        """That the slim model raises an error, in one line, where it does so."""
        text, place = f"{type(error).__name__}: {error}", raised_at(error)
        if isinstance(error, GraphpruneError):
            text, place = error.found or error.what, error.place
        return cls(f"{doing}: {' '.join(text.split())}", place or "its forward", error)


class _Program(NamedTuple):
    """What a traced model does.

    Attributes:
        steps: of its program.
        outputs: where its results come from.
        constants: tensors of unknown origin.
        numbers: by step, the numbers of the dimensions of its result, None for those that do not change, or the number
            of a grid; None where nothing can be said.
        grids: tensors of which rows may keep other columns, those with the same entries once.
    """

    steps: list[Step]
    outputs: list[Hashable]
    constants: list[Tensor]
    numbers: list[list[int | None] | int | None]
    grids: list[LabeledTensor]


_PROGRAMS: WeakKeyDictionary[Analysis, _Program] = WeakKeyDictionary()
"""Those that leave out no block: all plans of a model are compared with the same one."""


class Translation:
    """The program of a traced model, and what it must be in a slim one.

    Args:
        graph: the analyzed model.
        skipped: the modules that slim models do without.
        zeroed: those of them in whose places zeros stand.
    """

    def __init__(self, graph: Analysis, skipped: Sequence[str], zeroed: Collection[str] = ()) -> None:
        self.graph = graph
        self._opaque = (*graph.trace.replaceable, *zeroed)
        self._zeroed = frozenset(zeroed)
        self._sizes = graph.size_model()
        self._dimensions = graph.dimensions
        known = _PROGRAMS.get(graph) if not skipped else None
        self._program = known or self._read(skipped)
        if not skipped:
            _PROGRAMS[graph] = self._program

    def _read(self, skipped: Sequence[str]) -> _Program:
        whole = set(skipped) - self._zeroed
        blocks = [block for block in self.graph.blocks if block.path in whole] if skipped else []
        gone = {node for block in blocks for node in block.nodes}
        traced = self.graph.trace.replayed()
        reader = StepReader(traced, self._opaque, gone, {block.result: block.source for block in blocks})
        steps = reader.read()
        grids: dict[Hashable, tuple[int, LabeledTensor]] = {}
        branches = self.graph.branches if self._zeroed else ()
        idle = {node for branch in branches if branch.path in self._zeroed for node in branch.idle}
        idle |= self.graph.trace.unused
        numbers = [None if step.node in idle else self._dimension_numbers(step.node, grids) for step in steps]
        different = [value for _, value in grids.values()]
        return _Program(steps, reader.sources(traced.outputs), reader.constants(), numbers, different)

    def _shapes(self, alive: Mask) -> list[tuple[int, ...] | int | None]:
        """The shape of every step's result; of a grid whose rows may keep other columns, the number of entries."""
        counts = self._dimensions.counts(alive).tolist()
        grids = [living_entries(self.graph.solution, value, alive) for value in self._program.grids]
        found: list[tuple[int, ...] | int | None] = []
        for step, dims in zip(self._program.steps, self._program.numbers, strict=True):
            if isinstance(dims, list):
                dense = step.node.meta["shape"]
                found.append(tuple([n if d is None else counts[d] for n, d in zip(dense, dims, strict=True)]))
            else:
                found.append(None if dims is None else grids[dims])
        return found

    @gc_paused()
    def difference(self, plan: Plan, alive: Mask) -> ProgramDifference | None:
        """The first difference between the slim model's program and what the plan says of it.

        Args:
            plan: of the choice.
            alive: the classes that live.
        """
        slim, shapes = slim_on_meta(plan, self.graph.model), self._shapes(alive)
        run = self._run(partial(replay_program, by_flags=self.graph.trace.by_flags), slim)
        if isinstance(run, Replay) and self._compared(run, shapes, alive, unknown_differ=True) is None:
            return self._training_failure(slim, plan)
        fresh = slim_on_meta(plan, self.graph.model)  # a run may leave something in the modules
        run = self._run(_recorded, fresh)
        return self._compared(run, shapes, alive) if isinstance(run, Replay) else run

    def model_changed(self) -> bool:
        """Does the model do something else than when it was traced, and the same each time?"""
        recorded = partial(_recorded, on_meta=self.graph.trace.on_meta)
        runs = [self._run(recorded, self.graph.model) for _ in range(2)]
        first, second = ([*map(_done, self._steps_of(run))] if isinstance(run, Replay) else None for run in runs)
        return first is not None and first == second != [*map(_done, self._program.steps)]

    def _steps_of(self, run: Replay) -> list[Step]:
        return StepReader(run, self._opaque).read()

    def _training_failure(self, slim: nn.Module, plan: Plan) -> ProgramDifference | None:
        """What the slim model raises in training mode, if the model was traced in that too."""
        if not self.graph.trace.trained:
            return None
        try:
            with changing_globals(), random_numbers_kept():
                trace, values = self.graph.trace, _buffer_values(self.graph.model, plan)
                replay_program(slim, trace.trained, trace.pick, True, trace.by_flags, values)
        except Exception as error:
            return ProgramDifference.failure(error, "the slim model fails in training")
        return None

    def _run(self, run: Callable[..., Replay], slim: nn.Module) -> Replay | ProgramDifference:
        """The slim model's program, or that it fails."""
        try:
            with changing_globals(), random_numbers_kept():
                set_random_state(self.graph.trace.random)
                return run(slim, self.graph.examples, self.graph.trace.pick)
        except Exception as error:
            return ProgramDifference.failure(error)

    def _compared(
        self, run: Replay, shapes: Shapes, alive: Mask, unknown_differ: bool = False
    ) -> ProgramDifference | None:
        """The first difference; with ``unknown_differ`` also between constants of which one has no values: what is
        made of sizes on ``meta`` (``x.new_tensor(n)``) has some only while sizes are noted."""
        reader = StepReader(run, self._opaque)
        steps = reader.read()
        for expected, step, shape in zip_longest(self._program.steps, steps, shapes):
            found = self._first_difference(expected, step, shape, alive)
            if found is not None:
                return found
        if reader.sources(run.outputs) != self._program.outputs:
            return ProgramDifference("the model returns something else", "its forward")
        for number, pair in enumerate(zip(self._program.constants, reader.constants(), strict=False)):
            text = _constant_difference(*pair, unknown_differ)
            if text:
                user = next((step for step in steps if f"constant {number}" in step.sources), None)
                return ProgramDifference(text, _where(user) if user else "its forward")
        return None

    def _first_difference(
        self, expected: Step | None, step: Step | None, shape: tuple[int, ...] | int | None, alive: Mask
    ) -> ProgramDifference | None:
        """How one step of the slim program differs from what is expected of it."""
        if expected is None or step is None:
            there = expected or step
            assert there is not None
            return ProgramDifference(
                f"{there.operation} is {'not ' if step is None else ''}run in addition", _where(there)
            )
        if (expected.operation, expected.module) != (step.operation, step.module):
            return ProgramDifference(f"{expected.operation} becomes {step.operation}", _where(step))
        if expected.numbers != step.numbers:
            number = self._number_difference(expected, step, alive)
            if number is not None:
                return number
        if expected.sizes != step.sizes:
            size = self._size_difference(expected, step, alive)
            if size is not None:
                return size
        if expected.sources != step.sources and not _same_sources(expected, step):
            return ProgramDifference(f"{step.operation} is given other tensors", _where(step))
        return _shape_difference(expected, step, shape)

    def _number_difference(self, expected: Step, step: Step, alive: Mask) -> ProgramDifference | None:
        """The first number that is another one, but for counts of channels that statistics are taken over."""
        for (name, old), (_, new) in zip(expected.numbers, step.numbers, strict=False):
            same = old == new or (old != old and new != new)
            if not same and not self.graph.scales.explains(expected.node, old, new, alive):  # type: ignore[arg-type]
                text = f"the number {old!r} ({name} of {step.operation}) becomes {new!r}"
                return ProgramDifference(text, _where(step))
        return None

    def _size_difference(self, expected: Step, step: Step, alive: Mask) -> ProgramDifference | None:
        """The first size, count or place that is not what the operation's rule makes of it."""
        node = expected.node
        if not isinstance(node, fx.Node) or not _is_labeled(self.graph.labeling.values.get(node)):
            return None
        wanted = slim_arguments(self._sizes, alive, node, slim_shapes(self._sizes, alive, node))
        for place, value in step.sizes:
            if place < len(wanted) and _place(value, step) != _place(wanted[place], step):
                text = f"the size {wanted[place]} of {step.operation} is {value} in the slim model"
                return ProgramDifference(text, _where(step))
        return None

    def _dimension_numbers(
        self, node: Any, grids: dict[Hashable, tuple[int, LabeledTensor]]
    ) -> list[int | None] | int | None:
        """The numbers of a result's dimensions; None where the size does not change, or nothing can be said.

        Of grids, which are added to ``grids``, the entries of the whole tensor are counted.
        """
        value = self.graph.labeling.values.get(node)
        if not isinstance(value, LabeledTensor) or 0 in node.meta.get("shape", (0,)):
            return None
        labeled = {d for array in value.arrays for d in array.dims}
        wide = [array for array in value.arrays if len(array.dims) > 1]
        if wide and any(is_grid(value, d) for d in labeled):
            return grids.setdefault(entries_key(value), (len(grids), value))[0]
        return [self._dimensions.number(node, d) if d in labeled else None for d in range(value.ndim)]


def _buffer_values(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """The floating-point buffers of a slim model that have values which training may read, by name."""
    buffers = [(name, t) for name, t in tables(model).unique() if not is_parameter(t) and has_readable_values(t)]
    return {name: slim_tensor(t, plan.kept.get(name, {})) for name, t in buffers}


def _recorded(slim: nn.Module, *run: Any, on_meta: bool = True) -> Replay:
    """As :func:`replay_program`, with sizes noted. That takes longer, and lists that index have values then."""
    return record(slim, *run, on_meta=on_meta).replayed()


def _done(step: Step) -> tuple[Any, ...]:
    """What two runs of a program have in common where they do the same."""
    return step.operation, step.module, step.numbers, step.sizes


def _same_sources(expected: Step, step: Step) -> bool:
    """Are the operands the same, though they stand in another order?"""
    return _arranged_by_torch(expected) and Counter(expected.sources) == Counter(step.sources)


def _arranged_by_torch(step: Step) -> bool:
    """Is it a product of einsum, which swaps operands as it likes where dimensions have size 1?"""
    return has_trait(step.node.target, Trait.BATCHED_PRODUCT)


def _shape_difference(expected: Step, step: Step, wanted: tuple[int, ...] | int | None) -> ProgramDifference | None:
    """How a result's shape differs, or, where only that is known, the number of its entries."""
    if wanted is None:
        return None
    slim = tuple(step.node.meta.get("shape", ()))
    if isinstance(wanted, int):
        same = prod(slim) == wanted
    else:
        same = slim == wanted or (_arranged_by_torch(expected) and Counter(wanted) == Counter(slim))
    text = f"{step.operation} makes a tensor of shape {list(slim)}, not {wanted}"
    return None if same else ProgramDifference(text, _where(step))


def _is_labeled(value: Any) -> bool:
    return all(isinstance(one, LabeledTensor) for one in (value if isinstance(value, tuple) else (value,)))


def _place(value: int | None, step: Step) -> int:
    """A place counted from the end, as one from the beginning."""
    value = value or 0
    if value >= 0 or not has_trait(step.node.target, Trait.PICKS):
        return value
    tensor, dim, *_ = step.node.args
    return value + int(tensor.meta["shape"][dim])  # type: ignore[union-attr]


def _where(step: Step) -> str:
    return describe_line(step.line)


def _constant_difference(old: Tensor, new: Tensor, unknown_differ: bool) -> str:
    """How a constant differs, in words; empty: it is the same."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"a constant of shape {list(old.shape)} becomes {list(new.shape)}"
    if (old.is_meta and new.is_meta) or not old.numel():
        return ""
    if not unknown_differ if old.is_meta or new.is_meta else same_values(old, new):
        return ""
    advice = "" if is_float(old) else "; if sizes were put into it (torch.tensor([n])), use them as integers of Python"
    return f"the values of a constant change{advice}"


def responsible(groups: Sequence[int], differs: Callable[[Sequence[int]], Any]) -> list[int]:
    """The groups that make a difference by themselves; if it takes several, so many of them that it takes all of these.

    Args:
        groups: that make one together.
        differs: do these groups, pruned alone, make a difference? False or None where they do not, or cannot be pruned
            alone.
    """
    if len(groups) == 1:
        return list(groups)
    half = len(groups) // 2
    found = []
    for part in (groups[:half], groups[half:]):
        if differs(part):
            found += responsible(part, differs)
    return found or _needed(groups, differs)


def _needed(groups: Sequence[int], differs: Callable[[Sequence[int]], Any]) -> list[int]:
    """Those of the groups that make a difference together without which they make none.

    Source: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE Transactions on Software
    Engineering, 2002 (complements of ever smaller parts).
    """
    needed = list(groups)
    size = max(len(needed) // 4, 1)
    while size:
        at = 0
        while at < len(needed):
            rest = needed[:at] + needed[at + size :]
            if rest and differs(rest):
                needed = rest
            else:
                at += size
        size //= 2
    return needed
