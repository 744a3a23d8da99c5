"""Constants that channels meet: numbers made in ``forward``, buffers of indexes, tensors that no module owns.

Such tensors have no labels, because nothing of them can be removed: a table made anew from a smaller width has other
values. Reasons say which one it is, and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch
from torch import fx

from graphprune.graph.propagate import Labeling
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import has_trait, is_elementwise
from graphprune.rules.traits import Trait
from graphprune.utils.ancestors import ancestors
from graphprune.utils.arrays import Dims, Ids
from graphprune.utils.float_types import is_float_type
from graphprune.utils.operators import short_name

_REGISTERED = "in an nn.ModuleList or nn.ParameterList instead of a plain list or dictionary, it would follow"


def constant_operand(labeling: Labeling, node: fx.Node) -> str:
    """What the operand of a call is that has no channels, in words; empty where it depends on inputs or parameters."""
    operands = _without_channels(labeling, node)
    if not operands or not all(map(_all_constant, operands)):
        return ""
    return _in_words(operands[0], _sizes_met(labeling, node, operands[0]))


def constant_in_one(labeling: Labeling, node: fx.Node, labels: Ids) -> str:
    """What the constant operand of a call is that has these labels, in words; empty where there is none."""
    for operand in filter(_all_constant, node.all_input_nodes):
        for array in labeling.tensor(operand).arrays:
            if np.isin(labels, array.ids).all():
                return _in_words(operand, [operand.meta["shape"][d] for d in sorted(array.dims)])
    return ""


def _in_words(operand: fx.Node, met: Sequence[int]) -> str:
    """A constant whose sizes ``met`` channels."""
    sources = list(_sources(operand))
    made = [source for source in sources if source.op == "call_function"]
    if not made:
        return _kept(operand, sources[0])
    return _made(operand, max(made, key=lambda source: _likeness(source.meta["shape"], met)))


def constant_before(labeling: Labeling, node: fx.Node, losing: Collection[fx.Node]) -> str:
    """The constant to which an operand of a call lost its channels before, in words; empty where there is none.

    Args:
        losing: the calls in which channels met a dimension without channels.
    """

    def before(one: fx.Node) -> list[fx.Node]:
        return [operand for operand in one.all_input_nodes if _unlabeled(labeling, operand)]

    lost = (constant_operand(labeling, one) for one in ancestors(before(node), before) if one in losing)
    return next(filter(None, lost), "")


def _without_channels(labeling: Labeling, node: fx.Node) -> list[fx.Node]:
    """The operands of a call that have no channels; of a pointwise one, constants that lack those of others."""
    operands = node.all_input_nodes
    found = [operand for operand in operands if _unlabeled(labeling, operand)]
    if not found and is_elementwise(node.target):
        found = [operand for operand in operands if _sizes_met(labeling, node, operand) and _all_constant(operand)]
    return found


def _unlabeled(labeling: Labeling, node: fx.Node) -> bool:
    value = labeling.values.get(node)
    return isinstance(value, LabeledTensor) and not value.arrays and math.prod(value.shape) > 1


def _sizes_met(labeling: Labeling, node: fx.Node, operand: fx.Node) -> list[int]:
    """The sizes of an operand's dimensions in which all others with channels have some, and it has none."""
    values = {one: labeling.values.get(one) for one in node.all_input_nodes}
    dims = {one: _labeled_dims(value) for one, value in values.items() if isinstance(value, LabeledTensor)}
    if operand not in dims:
        return []
    shape = operand.meta["shape"]
    others = [labeled for one, labeled in dims.items() if one is not operand and labeled]
    met = frozenset[int].intersection(*others) - dims[operand] if others else ()
    return [shape[d] for d in sorted(met) if d >= -len(shape) and shape[d] > 1]


def _likeness(shape: Sequence[int], met: Sequence[int]) -> int:
    """The largest size in a shape of which one that channels met is a multiple: it may come from there."""
    return max((n for n in shape for size in met if n and size % n == 0), default=0)


def _labeled_dims(value: LabeledTensor) -> Dims:
    """The dimensions that have channels, counted from the last one."""
    return frozenset(d - value.ndim for array in value.arrays for d in array.dims)


def _all_constant(operand: fx.Node) -> bool:
    """Is a tensor worked out from constants alone?"""
    return all(map(_is_constant, _sources(operand)))


def _is_constant(source: fx.Node) -> bool:
    """Is a tensor that was not computed from others no input, and no parameter or buffer that has channels?"""
    follows = "tensor" in source.meta and is_float_type(source.meta["dtype"])
    return source.op != "placeholder" and not follows


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes without operands from which a tensor was computed."""
    return (one for one in ancestors([node]) if not one.all_input_nodes)


def _made(operand: fx.Node, source: fx.Node) -> str:
    line = source.meta.get("line")
    where = f", {line[0]}:{line[1]}" if line else ""
    advice = _advice(operand, "made once and ")
    return f"a constant that the program makes ({short_name(source.target)}{where}); {advice}"


def _kept(operand: fx.Node, source: fx.Node) -> str:
    name = source.meta.get("tensor")
    if source.meta.get("unregistered"):
        return f"a parameter of no module in the model; {_REGISTERED}"
    if source.meta.get("untraced"):
        return "a tensor that was computed where nothing is traced, such as in another thread"
    if name is None:
        return f"a constant tensor that is neither a parameter nor a buffer; {_unless_read(_advice(operand), source)}"
    return f"the buffer {name} of {source.meta['dtype']}; {_needed(operand, source)}"


def _unless_read(advice: str, source: fx.Node) -> str:
    """Advice about a constant, which may depend on what was read as numbers before it was met."""
    line = source.meta.get("read")
    return f"{advice}, unless it is made of numbers that were read ({line[0]}:{line[1]})" if line else advice


def _needed(operand: fx.Node, source: fx.Node) -> str:
    if _counts(operand):
        return "to follow, it would have to be looked up with alone, and name every channel"
    if _writes(operand) or _looked_up(operand):
        return "nothing of it can be removed"
    if source.meta["dtype"] is not torch.bool and len(source.meta["shape"]) == 1:
        return "integers in one dimension count as indexes; to follow, it would have to be of floating-point numbers"
    return "to follow, it would have to meet channels entry by entry alone, or be of floating-point numbers"


def _advice(operand: fx.Node, first: str = "") -> str:
    if _writes(operand):
        return "nothing of it can be removed"
    if operand.meta["dtype"].is_floating_point or operand.meta["dtype"] is torch.bool:
        return f"{first}registered as a buffer, it would follow"
    if _counts(operand):
        return f"{first}registered as a buffer, it would follow if it names every channel"
    return f"{first}registered as a buffer of floating-point numbers, it would follow"


def _counts(operand: fx.Node) -> bool:
    """Are channels looked up by it?"""
    return operand.meta["dtype"] is not torch.bool and _looked_up(operand)


def _looked_up(operand: fx.Node) -> bool:
    """Are entries looked up by its numbers, or where it is true?"""
    calls = (torch.ops.aten.index.Tensor, torch.ops.aten.index_select.default)
    return any(user.target in calls for user in operand.users)


def _writes(operand: fx.Node) -> bool:
    """Are entries written by it, or gathered?"""
    return any(has_trait(user.target, Trait.SCATTERS, Trait.BY_COLUMN) for user in operand.users)
