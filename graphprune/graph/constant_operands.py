"""Constants that channels meet: numbers made in ``forward``, buffers of integers, tensors that no module owns.

Such tensors have no labels, because nothing of them can be removed: a table made anew from a smaller width has other
values. Reasons say which one it is, and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import fx

from graphprune.graph.propagate import Labelling
from graphprune.rules.labels import LabelledTensor
from graphprune.utils.operators import short_name


def constant_operand(labelling: Labelling, node: fx.Node) -> str:
    """What the operand of a call is that has no channels, in words; empty where it depends on an input."""
    operands = [operand for operand in node.all_input_nodes if _unlabelled(labelling, operand)]
    sources = [list(_sources(operand)) for operand in operands]
    if not sources or any(source.op == "placeholder" for found in sources for source in found):
        return ""
    made = [source for source in sources[0] if source.op == "call_function"]
    return _made(operands[0], made[0]) if made else _kept(operands[0], sources[0][0])


def _unlabelled(labelling: Labelling, node: fx.Node) -> bool:
    value = labelling.values.get(node)
    return isinstance(value, LabelledTensor) and not value.arrays and math.prod(value.shape) > 1


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes without operands from which a tensor was computed."""
    seen, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        before = one.all_input_nodes
        if not before:
            yield one
        waiting += [other for other in before if other not in seen]
        seen.update(before)


def _made(operand: fx.Node, source: fx.Node) -> str:
    line = source.meta.get("line")
    where = f", {line[0]}:{line[1]}" if line else ""
    advice = "made once and registered as a buffer, it would follow" if _is_float(operand) else _STAYS
    return f"a constant that the program makes ({short_name(source.target)}{where}); {advice}"


def _kept(operand: fx.Node, source: fx.Node) -> str:
    name = source.meta.get("tensor")
    if name is not None:
        return f"the buffer {name} of {source.meta['dtype']}; {_STAYS}"
    advice = "registered as a buffer, it would follow" if _is_float(operand) else _STAYS
    return f"a constant tensor that is neither a parameter nor a buffer; {advice}"


_STAYS = "no entry of it can be removed, as it holds no floating-point numbers"


def _is_float(node: fx.Node) -> bool:
    return bool(node.meta["dtype"].is_floating_point)
