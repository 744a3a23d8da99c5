"""Check that the slim model runs the program that was traced: it is built without values, run, and compared.

Sizes reach programs in ways without end. Whatever the way, the slim model's own run shows it: another operation,
number, constant or shape than the plan says. What it depends on then stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.graph.analysis import Analysis
from graphprune.graph.couplings import describe_line
from graphprune.graph.dimensions import Dimensions
from graphprune.planning.program_steps import Step, StepReader, opaque_modules
from graphprune.pruning.plan import Plan
from graphprune.rules.labels import LabelledTensor
from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.tracing.tracer import Replay, record, replay
from graphprune.utils.arrays import Ids, Mask


@dataclass(frozen=True)
class Difference:
    """Where a slim model's program is another one, in words."""

    text: str
    line: str

    def __str__(self) -> str:
        return f"{self.text}, at {self.line}"


class Translation:
    """The program of a traced model, and what it must be in a slim one.

    Args:
        graph: the analyzed model.
        skipped: the blocks that slim models do without.
    """

    def __init__(self, graph: Analysis, skipped: Sequence[str]) -> None:
        self.graph = graph
        blocks = [block for block in graph.blocks if block.path in skipped] if skipped else []
        gone = {node for block in blocks for node in block.nodes}
        self._opaque = opaque_modules(graph.trace)
        traced = Replay.of(graph.trace)
        reader = StepReader(traced, self._opaque, gone, {block.result: block.source for block in blocks})
        self._steps = reader.read()
        self._outputs = reader.sources(traced.outputs)
        self._constants = reader.constants()
        self._dimensions = Dimensions(graph.size_model())
        self._numbers = [self._dimension_numbers(step.node) for step in self._steps]

    def difference(self, plan: Plan, alive: Mask) -> Difference | None:
        """The first difference between the slim model's program and what the plan says of it.

        Args:
            plan: of the choice.
            alive: the classes that live.
        """
        slim, counts = plan.shapes_only(self.graph.model), self._dimensions.counts(alive)
        if self._difference_in(replay, slim, counts) is None:
            return None
        return self._difference_in(_recorded, slim, counts)

    def _difference_in(self, run: Callable[..., Replay], slim: nn.Module, counts: Ids) -> Difference | None:
        try:
            done = run(slim, *self.graph.example, self.graph.trace.pick)
        except Exception as error:
            return Difference(f"the slim model fails: {type(error).__name__}: {error}", "its forward")
        return self._compared(done, counts)

    def _compared(self, run: Replay, counts: Ids) -> Difference | None:
        reader = StepReader(run, self._opaque)
        steps = reader.read()
        for expected, step, numbers in zip_longest(self._steps, steps, self._numbers):
            found = _first_difference(expected, step, numbers, counts)
            if found is not None:
                return found
        if reader.sources(run.outputs) != self._outputs:
            return Difference("the model returns something else", "its forward")
        return next((d for d in map(_constant_difference, self._constants, reader.constants()) if d), None)

    def _dimension_numbers(self, node: Any) -> list[list[int | None]]:
        """For every result of a call, the numbers of its dimensions; None where the size does not change."""
        value = self.graph.labelling.values.get(node)
        if isinstance(value, LabelledTensor) and "shape" in node.meta:
            return [self._of_tensor(node, value)]
        return []

    def _of_tensor(self, node: fx.Node, value: LabelledTensor) -> list[int | None]:
        return [self._dimensions.number(node, d) if value.touching([d]) else None for d in range(value.ndim)]


def _recorded(slim: nn.Module, *run: Any) -> Replay:
    """The same as :func:`replay` with sizes noted, which takes longer: lists that index then have values too."""
    return Replay.of(record(slim, *run))


def _first_difference(
    expected: Step | None, step: Step | None, numbers: list[list[int | None]] | None, counts: Ids
) -> Difference | None:
    """How one step of the slim program differs from what is expected of it."""
    if expected is None or step is None:
        there = expected or step
        assert there is not None
        return Difference(f"{there.operation} is {'not ' if step is None else ''}run in addition", _where(there))
    if (expected.operation, expected.module) != (step.operation, step.module):
        return Difference(f"{expected.operation} becomes {step.operation}", _where(step))
    for (name, old), (_, new) in zip(expected.numbers, step.numbers, strict=False):
        if old != new and not (old != old and new != new):
            return Difference(f"the number {old!r} ({name} of {step.operation}) becomes {new!r}", _where(step))
    if not _same_sources(expected, step):
        return Difference(f"{step.operation} is given other tensors", _where(step))
    return _shape_difference(expected, step, numbers or [], counts)


def _same_sources(expected: Step, step: Step) -> bool:
    if _arranged_by_torch(expected):
        return Counter(expected.sources) == Counter(step.sources)
    return expected.sources == step.sources


def _arranged_by_torch(step: Step) -> bool:
    """Is it a product of einsum, which swaps operands as it likes where dimensions have size 1?"""
    return has_trait(step.node.target, Trait.BATCHED_PRODUCT)


def _shape_difference(expected: Step, step: Step, numbers: list[list[int | None]], counts: Ids) -> Difference | None:
    for dims in numbers:
        if 0 in expected.node.meta["shape"]:
            continue  # entries of an empty tensor cannot be counted
        dense, slim = tuple(expected.node.meta["shape"]), tuple(step.node.meta.get("shape", ()))
        wanted = tuple(n if d is None else int(counts[d]) for n, d in zip(dense, dims, strict=True))
        if wanted != slim and not (_arranged_by_torch(expected) and Counter(wanted) == Counter(slim)):
            text = f"{step.operation} makes a tensor of shape {list(slim)}, not {list(wanted)}"
            return Difference(text, _where(step))
    return None


def _where(step: Step) -> str:
    return describe_line(step.line)


def _constant_difference(old: Tensor, new: Tensor) -> Difference | None:
    if old.shape != new.shape or old.dtype != new.dtype:
        return Difference(f"a constant of shape {list(old.shape)} becomes {list(new.shape)}", "its forward")
    if old.is_meta or new.is_meta or torch.equal(old, new):
        return None
    return Difference("the values of a constant change", "its forward")


def responsible(groups: Sequence[int], differs: Callable[[Sequence[int]], Any]) -> list[int]:
    """The groups that make a difference by themselves; all of them if it takes several.

    Args:
        groups: that make one together.
        differs: do these groups, pruned alone, make a difference? None: that cannot be told.
    """
    if len(groups) == 1:
        return list(groups)
    half = len(groups) // 2
    found = []
    for part in (groups[:half], groups[half:]):
        if differs(part):
            found += responsible(part, differs)
    return found or list(groups)
