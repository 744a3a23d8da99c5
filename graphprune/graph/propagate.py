"""Run the rules over a traced graph: every tensor gets its label arrays.

:func:`call_rule` is the only place that runs a rule; whatever else labels tensors goes through it.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from graphprune.errors import RuleError
from graphprune.graph.index_buffers import columns_of_numbers, names_every_channel
from graphprune.graph.left_out import settle_left_out
from graphprune.graph.picked_entries import rules_of_picks
from graphprune.graph.recurrent_states import rules_of_states
from graphprune.graph.unread import (
    fix_cut_entries,
    fix_deciding_entries,
    fix_unread_entries,
    fix_written_entries,
)
from graphprune.graph.value_buffers import meets_channels
from graphprune.rules.factories import constant
from graphprune.rules.indexing import index_tensors, propagate_indexes
from graphprune.rules.labels import LabelArray, LabeledTensor, Labels, all_arrays, operands_of
from graphprune.rules.movement import added_entries
from graphprune.rules.pointwise import elementwise_results
from graphprune.rules.registry import Call, RuleFunction, has_trait, is_elementwise, rule_of
from graphprune.rules.traits import Trait
from graphprune.tracing.opaque import OnNested, is_opaque
from graphprune.tracing.rebuilt_tensors import rebuilt_tensors
from graphprune.tracing.tracer import Trace
from graphprune.utils.ancestors import ancestors
from graphprune.utils.arrays import Dims, Shape
from graphprune.utils.checks import found_value, shown
from graphprune.utils.float_types import is_float_type
from graphprune.utils.operators import Args, Kwargs, is_random, short_name
from graphprune.utils.tree import LEAVES, PLAIN

SEEDED = "drawn with a seed that forward sets, by which fewer numbers are others"


@dataclass(repr=False)
class Labeling:
    """The label arrays of every traced tensor, and the facts that rules wrote down.

    Attributes:
        functions: the rules of calls that have another one than their operation.
    """

    labels: Labels
    nodes: list[fx.Node]
    values: dict[fx.Node, Any] = field(default_factory=dict)
    counts: dict[fx.Node, dict[str, LabeledTensor]] = field(default_factory=dict)
    functions: dict[fx.Node, RuleFunction] = field(default_factory=dict)
    on_meta: bool = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.nodes)} nodes: {self.labels.count} labels>"

    def used(self, node: fx.Node) -> frozenset[int] | None:
        """The results of a call that the program looks at. Where values are real it may look without a trace."""
        if not self.on_meta or "shapes" not in node.meta:
            return None
        return frozenset(user.args[1] for user in node.users if user.target is operator.getitem)  # type: ignore[misc]

    def tensor(self, node: Any) -> LabeledTensor:
        """The labels of what a node makes; without dimensions where that is no single tensor."""
        value = self.values[node]
        return value if isinstance(value, LabeledTensor) else LabeledTensor(())

    def dimension(self, node: fx.Node, dim: int | str) -> tuple[LabeledTensor, int] | None:
        """The labeled tensor and dimension that a size refers to; None where there are no labels."""
        if isinstance(dim, str):
            call = node.args[0] if node.target is operator.getitem else node
            counted = self.counts.get(call, {}).get(dim)  # type: ignore[arg-type]
            return (counted, 0) if counted else None
        value = self.values.get(node)  # none for a node of a training run that was dropped
        return (value, dim) if isinstance(value, LabeledTensor) else None


def propagate(trace: Trace, vocabulary: int | None = None) -> Labeling:
    """Label all tensors of ``trace``. Outputs of the model are fixed, but for words of a vocabulary of so many."""
    nodes = list(trace.graph.nodes)
    labeling = Labeling(Labels(vocabulary), nodes, functions=rules_of_states(nodes), on_meta=trace.on_meta)
    if not trace.on_meta:
        labeling.functions.update(rules_of_picks(nodes, labeling.values))
    noted = {(_made(use.node), use.dim) for use in trace.sizes.uses if not use.prefix}
    for node_index, node in enumerate(labeling.nodes):
        labeling.labels.node_index = node_index
        labeling.values[node] = _label_node(labeling, trace, node)
        if node.op == "call_function" and has_trait(node.target, Trait.FROM_SIZES):
            _fix_unseen_sizes(labeling, node, noted)
        elif node in labeling.counts and has_trait(node.target, Trait.ADDS_ZEROS):
            _fix_unseen_padding(labeling, node, noted)
    if trace.seeded:
        _fix_seeded_draws(labeling)
    _fix_read_values(labeling, trace)
    _fix_rebuilt_tensors(labeling, trace)
    _fix_resized_tensors(labeling, trace)
    _fix_values_elsewhere(labeling, trace)
    fix_unread_entries(labeling.labels, labeling.nodes, labeling.values)
    fix_deciding_entries(labeling.labels, trace, labeling.values)
    fix_written_entries(labeling.labels, labeling.nodes, labeling.values)
    fix_cut_entries(labeling.labels, trace, labeling.values)
    settle_left_out(labeling.labels, trace, labeling.values)
    return labeling


def _fix_seeded_draws(labeling: Labeling) -> None:
    """Random numbers that a program draws with a seed of its own are a table: fewer of them are others."""
    for number, node in enumerate(labeling.nodes):
        if node.op == "call_function" and is_random(node.target):
            labeling.labels.node_index = number
            labeling.labels.fix(all_arrays(labeling.values[node]), SEEDED)


def _fix_read_values(labeling: Labeling, trace: Trace) -> None:
    """Tensors whose entries the program reads as numbers stay whole, and the buffers that these are worked out from."""
    for node, line in trace.sizes.values_read:
        known = {node, *_buffers_behind(node)} & labeling.values.keys()
        for tensor in sorted(known, key=trace.node_index):
            labeling.labels.node_index = trace.node_index(tensor)
            labeling.labels.fix(all_arrays(labeling.values[tensor]), "its entries are read as numbers", line)


def _fix_rebuilt_tensors(labeling: Labeling, trace: Trace) -> None:
    """What forward makes anew for inputs of another size stays as wide as it makes it; of nothing, it makes it new."""
    found = rebuilt_tensors(trace.graph.nodes, trace.modules)
    replaced = ((name, node) for name, node in trace.replaced if 0 not in trace.shapes[name])
    for name, node in (*((node.meta["tensor"], node) for node in found), *replaced):
        labeling.labels.node_index = trace.node_index(node)
        held = all_arrays(labeling.values[node])
        line = next((user.meta["line"] for user in node.users if user.op != "output"), None)
        labeling.labels.fix(held, f"{name} is made anew by forward for inputs of another size", line)


def _fix_resized_tensors(labeling: Labeling, trace: Trace) -> None:
    """Where forward puts a tensor of another size in the place of one, there are positions, and no channels."""
    for node in trace.graph.nodes if trace.resized else ():
        name = node.meta.get("tensor")
        if node.op == "get_attr" and name in trace.resized:
            labeling.labels.node_index = trace.node_index(node)
            held = [array for array in labeling.values[node].arrays if array.dims & trace.resized[name]]
            labeling.labels.fix(held, f"forward puts a tensor of another size in the place of {name}")


def _fix_values_elsewhere(labeling: Labeling, trace: Trace) -> None:
    """Tensors that modules take in other threads stay whole."""
    for path, nodes in trace.elsewhere:
        for node in filter(labeling.values.__contains__, nodes):  # not those of a training run that was dropped
            labeling.labels.node_index = trace.node_index(node)
            held = all_arrays(labeling.values[node])
            labeling.labels.fix(held, f"taken by {path} in another thread, which is not traced")


def _buffers_behind(node: fx.Node) -> set[fx.Node]:
    """The buffers that a tensor is worked out from; none if inputs or parameters are among what it is made of."""
    made = [n for n in ancestors([node]) if n.op != "call_function"]
    return set(made) if all(n.op == "get_attr" and not n.meta.get("parameter") for n in made) else set()


def _made(node: fx.Node) -> fx.Node:
    """The call that made a tensor which Python got detached."""
    return node.args[0] if has_trait(node.target, Trait.DETACHES) else node  # type: ignore[return-value]


def _fix_unseen_sizes(labeling: Labeling, node: fx.Node, noted: set[tuple[fx.Node, int | str]]) -> None:
    """A tensor of one value can only follow where its sizes were seen in the code; integers are not channels."""
    value, dtype = labeling.values[node], node.meta["dtype"]
    follows = is_float_type(dtype) or dtype is torch.bool
    seen = {d for d in range(value.ndim) if follows and (node, d) in noted}
    held = [array for array in value.arrays if not array.dims <= seen]
    why = "made with a size that was not followed" if follows else f"made of {dtype}, which does not follow channels"
    labeling.labels.fix(held, f"{short_name(node.target)}: {why}")


def _fix_unseen_padding(labeling: Labeling, node: fx.Node, noted: set[tuple[fx.Node, int | str]]) -> None:
    """Padding can only follow where the code pads by a size; of those that are added by a number, all are."""
    last = labeling.tensor(node).ndim - 1
    unseen = [dim for dim in range(last + 1) if (node, dim) not in noted]
    names = [added_entries(2 * (last - dim) + side) for dim in unseen for side in (0, 1)]
    held = [labeling.counts[node][name] for name in names if name in labeling.counts[node]]
    labeling.labels.fix(all_arrays(held), f"{short_name(node.target)}: pads by a number, and not by a size")


def _label_node(labeling: Labeling, trace: Trace, node: fx.Node) -> Any:
    if node.op == "call_function":
        return _label_call(labeling, node)
    if node.op == "get_attr":
        name = node.meta.get("tensor")
        if name is not None and is_float_type(node.meta["dtype"]):
            return _label_parameter(labeling, trace, name, tuple(node.meta["shape"]))
        if name is not None and names_every_channel(node, labeling.values):
            value = labeling.labels.parameter(name, tuple(node.meta["shape"]))
            return replace(value, numbers=np.asarray(node.meta["values"].cpu()))
        if name is not None and (columns := columns_of_numbers(node, labeling.values)):
            return labeling.labels.parameter(name, tuple(node.meta["shape"]), columns)
        if name is not None and meets_channels(node, labeling.values):
            return labeling.labels.parameter(name, tuple(node.meta["shape"]))
    if node.op == "output":
        outputs = [labeling.values[n] for n in trace.outputs]
        indexed = [LabelArray(value.indexed) for value in index_tensors(outputs) if value.indexed is not None]
        held = [array for array in all_arrays(outputs) if array.ids.size != labeling.labels.vocabulary]
        labeling.labels.fix([*held, *indexed], "output of the model")
        return None
    return LabeledTensor(tuple(node.meta["shape"]))


def _label_parameter(labeling: Labeling, trace: Trace, name: str, shape: Shape) -> LabeledTensor:
    value = labeling.labels.parameter(name, shape)
    if issubclass(trace.modules.get(name.rpartition(".")[0], nn.Module), torch.jit.ScriptModule):
        labeling.labels.fix(value.arrays, "its module was compiled by TorchScript")
    return value


def _label_call(labeling: Labeling, node: fx.Node) -> Any:
    values = labeling.values
    if node.target is operator.getitem:
        return result_of(values[node.args[0]], node.args[1])  # type: ignore[index]
    shapes = node.meta.get("shapes") or [node.meta.get("shape", ())]
    outs = tuple([tuple(s) if s is not None else () for s in shapes])
    op: Any = node.target
    used, function = labeling.used(node), labeling.functions.get(node)
    result, counts = call_rule(
        op, node.args, node.kwargs, labeling.labels, outs, values=values, used=used, function=function
    )
    if node.meta.get("scripted") and _takes_sizes(op):
        arrays = all_arrays([values[n] for n in node.all_input_nodes], result)
        labeling.labels.fix(arrays, f"{short_name(op)}: sizes inside TorchScript are not followed")
    if counts:
        labeling.counts[node] = counts
    return result


def result_of(value: Any, number: Any) -> Any:
    """One of the labeled results of a call that may have but one."""
    return value[number] if isinstance(value, tuple) else value


def _takes_sizes(op: Any) -> bool:
    """Does the operation have arguments that are sizes?"""
    found = rule_of(op)
    return found is not None and found.resize is not None and Trait.ADDS_ZEROS not in found.traits


# ---------------------------------------------------------------- one call


def call_rule(
    op: Any,
    args: Args,
    kwargs: Mapping[str, Any],
    labels: Labels,
    outs: tuple[Shape, ...],
    *,
    values: Mapping[fx.Node, Any] | None = None,
    used: frozenset[int] | None = None,
    function: RuleFunction | None = None,
) -> tuple[Any, dict[str, LabeledTensor]]:
    """Run the rule of an operation on one call.

    Args:
        op: the operator overload.
        args, kwargs: of the call, with a labeled tensor for every tensor, or a node that has one in ``values``.
        labels: where the rule writes down the facts that it finds.
        outs: the shapes of the results.
        values: labeled tensors of nodes.
        used: the numbers of the results that the program looks at; None: perhaps all of them.
        function: the rule; None: the one that is registered.

    Returns:
        The labeled result (a tuple of several), and what integer arguments count, by name.
    """
    given = [_substitute(value, values or {}) for value in args]
    named: Kwargs = {k: _substitute(v, values or {}) for k, v in kwargs.items()}
    operands = operands_of(given, *named.values())
    call = Call(short_name(op), labels, outs, used=used)
    result = (function or _rule_for(op, operands))(call, *given, **named)
    if [value for value in operands if value.indexed is not None]:
        result = propagate_indexes(call, op, operands, result)
    _check_result(op, result, outs)
    return result, call.counts


def _check_result(op: Any, result: Any, outs: tuple[Shape, ...]) -> None:
    """Raise a RuleError unless a rule gave the labels of as many results as there are.

    Of a list of results (``unbind``) there are others in a slim model.
    """
    several = result if isinstance(result, tuple) else (result,)
    if (len(several) != len(outs) and not _gives_list(op)) or not all(
        isinstance(one, LabeledTensor) for one in several
    ):
        raise RuleError(
            f"{op}: its rule returned {shown(result)}",
            where=str(op),
            found=found_value(result),
            needed=f"{len(outs)} results, each a LabeledTensor; of several a tuple",
            do="return LabeledTensor(call.outs[i]) for a result i that depends on nothing that can be removed",
        )


def _gives_list(op: Any) -> bool:
    return any(isinstance(one.type, torch.ListType) for one in op._schema.returns)


def _rule_for(op: Any, operands: Sequence[LabeledTensor]) -> RuleFunction:
    """The rule of an operation; without one, and not elementwise, its operands' labels are fixed."""
    said = [value for value in operands if value.arrays or value.indexed is not None]
    if not said and not has_trait(op, Trait.MAKES_LABELS):
        return constant
    found = rule_of(op)
    if found is not None:
        return found.function
    if is_opaque(op):
        return on_nested if isinstance(op, OnNested) else opaque
    return elementwise_results if is_elementwise(op) else unknown


def unknown(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Nothing is known of the operation: nothing that goes in can be removed."""
    call.freeze([*args, *kwargs.values()], "operation without a rule")
    return constant(call)


def opaque(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Functions run inside of the operation: nothing that these read can be removed."""
    call.freeze([*args, *kwargs.values()], "runs functions that are not looked into")
    return constant(call)


def on_nested(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Nested tensors have no sizes: nothing that meets them, or that they are made of, can be removed."""
    call.freeze([*args, *kwargs.values()], "nested tensors have no sizes that could be followed")
    return constant(call)


def _substitute(value: Any, values: Mapping[fx.Node, Any]) -> Any:
    if type(value) is fx.Node:
        found = values[value]
        is_mask = value.meta.get("dtype") is torch.bool
        return replace(found, boolean=True, repeats=_repeats(value)) if is_mask else found
    if type(value) in LEAVES or not isinstance(value, tuple | list):
        return value
    if PLAIN.issuperset(map(type, value)):
        return list(value)
    return [_substitute(v, values) for v in value]


def _repeats(mask: fx.Node) -> Dims:
    """The dimensions along which a mask was expanded."""
    if not has_trait(mask.target, Trait.EXPANDS):
        return frozenset()
    new, old = mask.meta["shape"], mask.args[0].meta["shape"]  # type: ignore[union-attr]
    old = (1,) * (len(new) - len(old)) + tuple(old)
    return frozenset(d for d, (m, n) in enumerate(zip(old, new, strict=True)) if m == 1 < n)
