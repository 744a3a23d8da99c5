"""What a model costs: counted on the traced graph, for any choice of channels, without building it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx, nn

from graphprune.equations import Sizes
from graphprune.label import Labelling
from graphprune.modules import named_tensors
from graphprune.plan import Plan
from graphprune.solve import Mask, Solution

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """``macs`` (1 MAC = one multiply-add) of the traced input, ``params``, and ``bytes`` of parameters and buffers."""

    macs: int
    params: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.macs / 1e6:,.1f} M MACs, {self.params / 1e6:,.2f} M parameters, {self.bytes / 1e6:,.1f} MB"


Shape = Callable[[fx.Node], list[int]]


def _product(shape: Shape, node: fx.Node, left: int, right: int) -> int:
    """Matrix product of arguments ``left`` and ``right``."""
    a, b = shape(_node(node.args[left])), shape(_node(node.args[right]))
    return prod(a) * (b[-1] if len(b) > 1 else 1)


def _linear(shape: Shape, node: fx.Node) -> int:
    return prod(shape(_node(node.args[0]))) * shape(_node(node.args[1]))[0]


def _convolution(shape: Shape, node: fx.Node) -> int:
    """Every output element (input element, if transposed) meets one kernel."""
    x, weight = shape(_node(node.args[0])), shape(_node(node.args[1]))
    transposed = node.args[6]
    return prod(x if transposed else shape(node)) * prod(weight[1:])


def _node(value: Any) -> fx.Node:
    assert isinstance(value, fx.Node)
    return value


MACS: dict[Any, Callable[[Shape, fx.Node], int]] = {
    aten.mm.default: lambda shape, node: _product(shape, node, 0, 1),
    aten.bmm.default: lambda shape, node: _product(shape, node, 0, 1),
    aten.mv.default: lambda shape, node: _product(shape, node, 0, 1),
    aten.dot.default: lambda shape, node: prod(shape(_node(node.args[0]))),
    aten.addmm.default: lambda shape, node: _product(shape, node, 1, 2),
    aten.baddbmm.default: lambda shape, node: _product(shape, node, 1, 2),
    aten.linear.default: _linear,
    aten.convolution.default: _convolution,
}


def count_cost(
    model: nn.Module, labelling: Labelling, solution: Solution, alive: Mask, plan: Plan | None, evaluated: int
) -> Cost:
    """The cost of the traced evaluation when the classes ``alive`` live."""
    sizes = Sizes(labelling, solution, solution.atoms)

    def shape(node: fx.Node) -> list[int]:
        return [sizes.count(alive, node, d) for d in range(len(node.meta["shape"]))]

    macs = sum(MACS[node.target](shape, node) for node in labelling.nodes[:evaluated] if node.target in MACS)
    params = total = 0
    for name, tensor in named_tensors(model):
        entries = prod(plan.shape(name)) if plan else tensor.numel()
        params += entries if isinstance(tensor, nn.Parameter) else 0
        total += entries * tensor.element_size()
    return Cost(macs, params, total)
