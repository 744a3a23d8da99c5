"""Run the rules over a traced graph: every tensor gets its label arrays."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from graphprune.labels import Labelled, Labels, all_labs
from graphprune.rules import RULES
from graphprune.rules.factories import constant
from graphprune.rules.pointwise import pointwise
from graphprune.rules.registry import Call, RuleFunction
from graphprune.trace import Trace, short_name

aten = torch.ops.aten
_MAKES_LABELS = {aten.expand.default, aten.repeat.default, aten.new_zeros.default, aten.new_ones.default}
_MAKES_LABELS |= {aten.new_empty.default, aten.new_full.default}


@dataclass
class Labelling:
    """The label arrays of every traced tensor, and the facts that rules wrote down."""

    labels: Labels
    nodes: list[fx.Node]
    values: dict[fx.Node, Any] = field(default_factory=dict)
    counts: dict[fx.Node, dict[str, Labelled]] = field(default_factory=dict)

    def value(self, node: fx.Node) -> Labelled:
        return self.values[node]

    def dimension(self, node: fx.Node, dim: int | str) -> tuple[Labelled, int] | None:
        """The labelled tensor and dimension that a size refers to; None where there are no labels."""
        if isinstance(dim, str):
            call = node.args[0] if node.target is operator.getitem else node
            counted = self.counts.get(call, {}).get(dim)  # type: ignore[arg-type]
            return (counted, 0) if counted else None
        value = self.values[node]
        return (value, dim) if isinstance(value, Labelled) else None


def label(trace: Trace) -> Labelling:
    """Label all tensors of ``trace``. Outputs of the model are fixed."""
    labelling = Labelling(Labels(), list(trace.graph.nodes))
    for site, node in enumerate(labelling.nodes):
        labelling.labels.site = site
        labelling.values[node] = _label_node(labelling, trace, node)
    return labelling


def _label_node(labelling: Labelling, trace: Trace, node: fx.Node) -> Any:
    if node.op == "call_function":
        return _label_call(labelling, node)
    if node.op == "get_attr":
        name = node.meta.get("tensor")
        if name is not None and (node.meta["dtype"].is_floating_point or node.meta["dtype"].is_complex):
            return labelling.labels.parameter(name, tuple(node.meta["shape"]))
    if node.op == "output":
        outputs = [labelling.values[n] for n in trace.outputs]
        labelling.labels.fix(all_labs(outputs), "output of the model")
        return None
    return Labelled(tuple(node.meta["shape"]))


def _label_call(labelling: Labelling, node: fx.Node) -> Any:
    values = labelling.values
    args = _substitute(node.args, values)
    if node.target is operator.getitem:
        source = args[0]
        return source[args[1]] if isinstance(source, tuple) else source
    kwargs = {k: _substitute(v, values) for k, v in node.kwargs.items()}
    shapes = node.meta.get("shapes") or [node.meta.get("shape", ())]
    outs = tuple(tuple(s) if s is not None else () for s in shapes)
    op: Any = node.target
    call = Call(short_name(op), labelling.labels, outs)
    function = rule_for(op, all_labs(args, *kwargs.values()))
    result = function(call, *args, **kwargs)
    if call.counts:
        labelling.counts[node] = call.counts
    return result


def rule_for(op: Any, labs: list[Any]) -> RuleFunction:
    """The rule of an operation; without one, and not elementwise, its operands' labels are fixed."""
    if not labs and op not in _MAKES_LABELS:
        return constant
    if op in RULES:
        return RULES[op].function
    return pointwise if torch.Tag.pointwise in op.tags else unknown


def unknown(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Nothing is known of the operation: nothing that goes in can be removed."""
    call.freeze([*args, *kwargs.values()], "operation without a rule")
    return constant(call)


def _substitute(value: Any, values: dict[fx.Node, Any]) -> Any:
    if isinstance(value, fx.Node):
        return values[value]
    if isinstance(value, tuple | list):
        return [_substitute(v, values) for v in value]
    return value
