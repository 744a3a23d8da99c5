"""How many multiply-adds an operation takes: a product of dimensions of the tensors that it is given or makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

SizeFactor = tuple[fx.Node, int]
"""One dimension of a traced tensor, whose size is a factor of a count."""


MacsFunction = Callable[[fx.Node], list[SizeFactor]]
"""From the node of a call to the dimensions whose sizes, multiplied, are its multiply-adds."""


def size_factors(value: Any, first: int = 0) -> list[SizeFactor]:
    """The dimensions of a tensor from ``first`` on."""
    assert isinstance(value, fx.Node)
    return [(value, d) for d in range(first, len(value.meta["shape"]))]


def elementwise_macs(argument: int) -> MacsFunction:
    """One multiply-add for every entry of an argument."""
    return lambda node: size_factors(node.args[argument])


def product_macs(left: int, right: int) -> MacsFunction:
    """Matrix product of arguments ``left`` and ``right``."""

    def factors(node: fx.Node) -> list[SizeFactor]:
        b = size_factors(node.args[right])
        return [*size_factors(node.args[left]), *(b[-1:] if len(b) > 1 else [])]

    return factors


def linear_macs(node: fx.Node) -> list[SizeFactor]:
    """Every entry of the input meets every row of the weight."""
    return [*size_factors(node.args[0]), size_factors(node.args[1])[0]]


def trilinear_macs(node: fx.Node) -> list[SizeFactor]:
    """Every entry of the space of all three operands, such as batch, outputs and both inputs of ``nn.Bilinear``."""
    operands: Any = node.args[:3]
    expanded: Any = node.args[3:6]
    rank = len(size_factors(operands[0])) + len(expanded[0])
    found: dict[int, SizeFactor] = {}
    for operand, new in zip(operands, expanded, strict=True):
        own = [d for d in range(rank) if d not in new]
        found |= zip(own, size_factors(operand), strict=True)
    return [found[d] for d in sorted(found)]


def convolution_macs(node: fx.Node) -> list[SizeFactor]:
    """Every output element (input element, if transposed) meets one kernel."""
    transposed = node.args[6]
    return [*size_factors(node.args[0] if transposed else node), *size_factors(node.args[1], first=1)]


def convolution_gradient_macs(node: fx.Node) -> list[SizeFactor]:
    """Every element of the output's gradient (of the input's, if transposed) meets one kernel."""
    transposed = node.args[7]
    return [*size_factors(node.args[1 if transposed else 0]), *size_factors(node.args[2], first=1)]
