"""Numbers that a program takes of weights alone, over channels that are gone: ``weight / weight.norm(dim=1)``.

Removing a channel is the same as setting it to zero, and the layers that put it out or read it have weights for it
still. The channels that stay, and products with zero, are the same whatever these weights are; a norm of them is not.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphprune.graph.analysis import Analysis
from graphprune.graph.parameter_uses import parameters_only
from graphprune.pruning.float64 import in_float64, reads_default_type
from graphprune.pruning.masked import MaskedInterpreter, Masks
from graphprune.pruning.plan import Plan
from graphprune.rules.labels import all_arrays
from graphprune.rules.registry import has_trait, matmul_views
from graphprune.rules.traits import Trait
from graphprune.tracing.meta import is_float
from graphprune.utils.arrays import Mask
from graphprune.utils.evaluation import eagerly
from graphprune.utils.operators import is_random, short_name

_SAME = 1e-10
"""Results may differ by this fraction of their largest entry."""
_LAYOUT = (Trait.IDENTITY, Trait.DETACHES, Trait.DROPS, Trait.MOVES, Trait.RESHAPES, Trait.TRANSPOSES, Trait.EXPANDS)


@eagerly()
def weight_statistics(graph: Analysis, plan: Plan) -> tuple[str, ...]:
    """The operations on weights alone whose results depend on weights of channels that a plan removes."""
    masks = Masks(graph, plan)
    read = _Read(graph, ~masks.alive)
    if not read.computed:
        return ()
    all_weights = _WithWeights(graph, plan, read)
    with in_float64(reads_default_type(graph.trace.graph)), torch.no_grad():
        slim, dense = (_values(graph, each, read.computed) for each in (masks, all_weights))
    return tuple(dict.fromkeys(_differing(masks, slim, dense)))


class _Read:
    """Which weights of layers are of removed channels, and multiplied with activations.

    Args:
        graph: of the model.
        dead: of every class of labels, whether it is removed.

    Attributes:
        classes: of every class of labels, whether it is removed, and such weights have it.
        computed: what such weights are computed from, in steps that do more than arrange entries.
    """

    def __init__(self, graph: Analysis, dead: Mask) -> None:
        self._graph = graph
        self._nodes = graph.trace.evaluated_nodes
        self._alone = parameters_only([node for node in self._nodes if not is_random(node.target)])
        self.classes = np.zeros_like(dead)
        self.computed: set[fx.Node] = set()
        worked = self._worked_out()
        for weight in self._multiplied(worked) if worked else ():
            found = self._classes(weight) & dead
            if found.any():
                self.classes |= found
                self.computed.add(weight)
        for node in reversed(self._nodes):
            if node in self.computed:
                self.computed.update(node.all_input_nodes)

    def _worked_out(self) -> set[fx.Node]:
        """What is computed from weights alone, and is more than their entries."""
        found: set[fx.Node] = set()
        for node in self._nodes:
            if node in self._alone and node.op == "call_function":
                arranges = has_trait(node.target, *_LAYOUT) or node.target is operator.getitem
                if not arranges or not found.isdisjoint(node.all_input_nodes):
                    found.add(node)
        return found

    def _multiplied(self, worked: Collection[fx.Node]) -> Iterator[fx.Node]:
        """What is computed from weights alone, and multiplied with an activation.

        In a product of two stacks of matrices it is no weight, but an activation that depends on no input.
        """
        for node in self._nodes:
            layer = matmul_views(node.target) and not has_trait(node.target, Trait.BATCHED_PRODUCT)
            if layer and not self._alone.issuperset(node.all_input_nodes):
                yield from (x for x in node.all_input_nodes if x in worked)

    def _classes(self, node: fx.Node) -> Mask:
        """Of every class of labels, whether a tensor has it."""
        found = np.zeros_like(self.classes)
        for array in all_arrays(self._graph.labeling.values[node]):
            found[self._graph.solution.of[array.ids]] = True
        return found


class _WithWeights(Masks):
    """Masks that leave the weights of removed channels as they are, and what is computed from them alone."""

    def __init__(self, graph: Analysis, plan: Plan, read: _Read) -> None:
        super().__init__(graph, plan)
        self.alive = self.alive | read.classes


def _values(graph: Analysis, masks: Masks, nodes: Collection[fx.Node]) -> dict[fx.Node, Any]:
    """What some nodes of the evaluation give with dead entries zeroed."""
    interpreter = MaskedInterpreter(masks, {}, ())
    found = {}
    for node in interpreter.graph.nodes:
        original = graph.trace.original(node)
        if original in nodes:
            found[original] = interpreter.env[node] = interpreter.run_node(node)
    return found


def _differing(masks: Masks, slim: Mapping[fx.Node, Any], dense: Mapping[fx.Node, Any]) -> Iterator[str]:
    """The operations whose results differ where their operands are alike; those are left out that are named anyway."""
    differ: set[fx.Node] = set()
    named = masks.channels.labeling.labels.facts.mixing
    for node, value in slim.items():
        if not isinstance(value, Tensor) or _same(masks.of(node), value, dense[node]):
            continue
        differ.add(node)
        made_by = node.all_input_nodes[0] if node.target is operator.getitem else node
        known = masks.channels.trace.node_index(made_by) in named or not differ.isdisjoint(made_by.all_input_nodes)
        if not known and node.op == "call_function":
            yield f"{short_name(made_by.target)} is taken over weights of removed channels ({made_by.name})"


def _same(alive: Tensor | None, mine: Tensor, theirs: Tensor) -> bool:
    """Are the entries that survive the same?"""
    apart = (mine - theirs).abs() if is_float(mine) else (mine != theirs).to(torch.float64)
    if alive is not None:
        apart = apart.masked_fill(~alive, 0)
    size = mine.abs().max() if is_float(mine) and mine.numel() else 1
    return not apart.numel() or bool(apart.max() <= _SAME * size)
