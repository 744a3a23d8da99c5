"""Weights as a model uses them, where it works them out from parameters and buffers: masked, normalized, merged.

``F.linear(x, self.weight * self.mask)`` reads zeros where the parameter has other numbers. What matters of such a
parameter is the tensor that stands in its place: made from parameters and buffers alone, with its shape and channels.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphprune.graph.analysis import Analysis
from graphprune.pruning.float64 import in_float64, reads_default_type, widen, widened_tensor
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import has_trait, in_any_type
from graphprune.rules.traits import Trait
from graphprune.utils.ancestors import ancestors
from graphprune.utils.evaluation import eagerly
from graphprune.utils.operators import is_mutable, is_random

_LAYOUT = (Trait.IDENTITY, Trait.DETACHES, Trait.DROPS, Trait.MOVES, Trait.RESHAPES, Trait.TRANSPOSES, Trait.EXPANDS)


class WeightsInEffect(Mapping[str, Tensor]):
    """What a model makes of parameters before it uses them, by their names; worked out each time, none is kept.

    Args:
        graph: of the model.
        parameters: by name.
        buffers: by name, those that have values. What is made of others is left out.
    """

    def __init__(self, graph: Analysis, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        constants = {name: tensor for name, tensor in graph.trace.constants.items() if not tensor.is_meta}
        self._parameters, self._tables = parameters, (parameters, buffers, constants)
        self._steps: dict[str, list[fx.Node]] = {}
        for name, node in _made(graph).items():
            steps = sorted(ancestors([node]), key=graph.trace.node_index)
            if name in parameters and all(self._has_value(step) for step in steps if step.op == "get_attr"):
                self._steps[name] = steps
        self._as_default = bool(self._steps) and reads_default_type(graph.trace.graph)

    def __getitem__(self, name: str) -> Tensor:
        steps, like = self._steps[name], self._parameters[name]
        with eagerly(), in_float64(self._as_default):
            found: dict[fx.Node, Any] = {}
            for step in steps:
                found[step] = self._run(step, found)
        value: Tensor = found[steps[-1]]
        return value.to(like.device, like.dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._steps  # without working it out

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def _has_value(self, step: fx.Node) -> bool:
        return any(_name(step) in table for table in self._tables)

    def _run(self, step: fx.Node, found: Mapping[fx.Node, Any]) -> Any:
        if step.op == "get_attr":
            return widened_tensor(next(table[_name(step)] for table in self._tables if _name(step) in table))
        given: Any = fx.node.map_arg((step.args, step.kwargs), found.__getitem__)
        args, kwargs = given
        target = torch.reshape if has_trait(step.target, Trait.RESHAPES) else in_any_type(step.target)
        device = {"device": torch.device("cpu")} if kwargs.get("device") is not None else {}
        return target(*widen(args), **widen({**kwargs, **device}))


def _name(node: fx.Node) -> str:
    """Of a parameter, buffer or constant."""
    return str(node.meta.get("tensor", node.target))


# ---------------------------------------------------------------- which tensor stands in a parameter's place


def _made(graph: Analysis) -> dict[str, fx.Node]:
    """By the name of a parameter, the tensor that is made of it wherever it is used."""
    nodes = graph.trace.evaluated_nodes
    alone = _without_inputs(nodes)
    if not any(node.all_input_nodes and _computes(node) for node in alone):
        return {}
    others = {*nodes}.difference(alone)
    found: dict[str, list[fx.Node | None]] = {}
    for node in nodes:
        if node in alone and (node in graph.trace.outputs or not others.isdisjoint(node.users)):
            for source in ancestors([node]):
                if source.op == "get_attr" and "tensor" in source.meta:
                    found.setdefault(source.meta["tensor"], []).append(_stand_in(graph, source, node))
    return {name: made[0] for name, made in found.items() if made[0] is not None and None not in made}


def _without_inputs(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """What is the same in every run, whatever the inputs: parameters, buffers, constants, and what is made of them."""
    found: set[fx.Node] = set()
    for node in nodes:
        computed = node.op == "call_function" and found.issuperset(node.all_input_nodes)
        if node.op == "get_attr" or (computed and _is_known(node.target)):
            found.add(node)
    return found


def _is_known(op: Any) -> bool:
    """Does an operation only make a result, the same each time?"""
    return not (is_random(op) or is_mutable(op) or has_trait(op, Trait.NO_VALUES))


def _computes(node: fx.Node) -> bool:
    """Does a call do more than arrange entries?"""
    return node.op == "call_function" and node.target is not operator.getitem and not has_trait(node.target, *_LAYOUT)


def _stand_in(graph: Analysis, parameter: fx.Node, used: fx.Node) -> fx.Node | None:
    """The first result of what a parameter goes into that only needs to be arranged, and has its channels in place."""
    ways = [used]
    while has_trait(ways[-1].target, *_LAYOUT):
        ways.append(ways[-1].all_input_nodes[0])
    computed = ways[-1].op == "call_function"
    return next((way for way in reversed(ways) if _alike(graph, parameter, way)), None) if computed else None


def _alike(graph: Analysis, parameter: fx.Node, made: fx.Node) -> bool:
    """Has a tensor the shape and kind of a parameter, and the same channels in every dimension?"""
    value, other = (graph.labeling.values.get(node) for node in (parameter, made))
    if not isinstance(value, LabeledTensor) or not isinstance(other, LabeledTensor) or value.shape != other.shape:
        return False
    kinds = {(kind.is_floating_point, kind.is_complex) for kind in (node.meta["dtype"] for node in (parameter, made))}
    mine, theirs = ([graph.solution.of[array.ids] for array in one.arrays] for one in (value, other))
    free = [classes for classes in mine if (graph.solution.reason_of(classes) < 0).any()]
    same = (any(np.array_equal(classes, others) for others in theirs) for classes in free)
    return len(kinds) == 1 and bool(free) and all(same)
