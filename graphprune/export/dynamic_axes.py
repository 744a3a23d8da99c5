"""Which sizes of example inputs an exported program leaves open, and examples from which torch.export sees that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.tracing.meta import is_float
from graphprune.utils.checks import check_count, found_value, shown

BATCH_AXIS = "batch"


TOKENS_AXIS = "sequence"


DynamicDims = Sequence[int] | Mapping[str, Sequence[int]]
"""Dimensions of every input that may change, or those of each by the input's name."""


@dataclass(frozen=True)
class DynamicExample:
    """Tensors of an example by the names of the inputs, and the names of the axes that stay open.

    Attributes:
        axes: by input, by dimension. Axes of one name have one size.
    """

    tensors: Mapping[str, Tensor]
    axes: Mapping[str, Mapping[int, str]]

    def of_batch(self, size: int) -> DynamicExample:
        """The same example with another batch size: what there is, repeated and cut."""
        return DynamicExample({name: self._resized(name, x, size) for name, x in self.tensors.items()}, self.axes)

    def _resized(self, name: str, x: Tensor, size: int) -> Tensor:
        for dim, axis in self.axes.get(name, {}).items():
            if axis == BATCH_AXIS:
                x = torch.cat([x] * -(-size // x.shape[dim]), dim).narrow(dim, 0, size)
        return x

    @property
    def has_batch(self) -> bool:
        """Is the batch size open?"""
        return any(BATCH_AXIS in axes.values() for axes in self.axes.values())


def with_dynamic_axes(tensors: Mapping[str, Tensor], dynamic: DynamicDims | None) -> DynamicExample:
    """An example with its open axes, none of which has size 1: torch.export takes that for a constant.

    Args:
        tensors: by the names of the inputs.
        dynamic: None: dimension 0 of all inputs that have the batch size of the first, and dimension 1 of those among
            them that are token ids or masks (integers or truth values of shape [batch, tokens]).

    Raises:
        InputError: ``dynamic`` names an input or a dimension that does not exist, or an open axis has size 0 or 1.
    """
    wanted = _guessed(tensors) if dynamic is None else _asked(tensors, dynamic)
    axes = {name: dict(_named(name, tensors, dims)) for name, dims in wanted.items() if dims}
    example = DynamicExample(tensors, axes)
    first = next((tensors[name].shape[0] for name in axes if axes[name].get(0) == BATCH_AXIS), 2)
    example = example.of_batch(2) if first == 1 else example
    for name, named in axes.items():
        for dim in named:
            if example.tensors[name].shape[dim] < 2:
                raise InputError(
                    f"example_inputs: dimension {dim} of {name} is to be dynamic but has size "
                    f"{example.tensors[name].shape[dim]} in the example",
                    where=f"input {name!r}",
                    found=f"shape {list(example.tensors[name].shape)}",
                    needed=f"a dimension {dim} of at least 2",
                    do="pass an example in which it is at least 2, or leave it out of dynamic=",
                )
    return example


def _guessed(tensors: Mapping[str, Tensor]) -> dict[str, list[int]]:
    batch = next((x.shape[0] for x in tensors.values() if x.ndim), 0)
    return {
        name: [0, 1] if x.ndim == 2 and not is_float(x) else [0]
        for name, x in tensors.items()
        if x.ndim and x.shape[0] == batch
    }


def _asked(tensors: Mapping[str, Tensor], dynamic: Any) -> dict[str, list[int]]:
    if not isinstance(dynamic, Mapping):
        dims = _checked(dynamic, max(x.ndim for x in tensors.values()), "no input has")
        return {name: [dim for dim in dims if dim < x.ndim] for name, x in tensors.items()}
    unknown = [name for name in dynamic if name not in tensors]
    if unknown:
        raise InputError(
            f"dynamic: there is no input {unknown[0]!r}; the inputs are {', '.join(map(repr, tensors))}",
            found=f"the name {unknown[0]!r}",
            needed=f"one of {', '.join(map(repr, tensors))}",
            do="name inputs as the arguments of forward are named",
        )
    return {
        name: _checked(dims, (ndim := tensors[name].ndim), f"an input of {ndim} dimensions does not have")
        for name, dims in dynamic.items()
    }


def _checked(dims: Any, most: int, lacking: str) -> list[int]:
    """Dimensions below ``most``; ``lacking`` says what does not have others."""
    if not isinstance(dims, Sequence) or isinstance(dims, str):
        raise InputError(
            "dynamic: must be dimensions, such as (0, 1), or a dict of them by the name of the input, but is "
            f"{shown(dims)}",
            found=found_value(dims),
            needed="dimensions, or a dict of them by the name of the input",
            do="pass dynamic=(0,)",
        )
    found = [check_count("dynamic", dim, 0, "a dimension") for dim in dims]
    if any(dim >= most for dim in found):
        raise InputError(
            f"dynamic: {shown(dims)} holds a dimension that {lacking}",
            found=shown(dims),
            needed=f"dimensions below {most}",
            do="name only dimensions that the input has",
        )
    return found


def _named(name: str, tensors: Mapping[str, Tensor], dims: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Names of axes: one for the batch, one for the tokens, and one for each other axis."""
    first = [x for x in tensors.values() if x.ndim]
    tokens = [x for x in first if x.ndim == 2 and not x.is_floating_point()]
    for dim in dims:
        size = tensors[name].shape[dim]
        if dim == 0 and size == first[0].shape[0]:
            yield dim, BATCH_AXIS
        elif dim == 1 and tokens and size == tokens[0].shape[1]:
            yield dim, TOKENS_AXIS
        else:
            yield dim, f"{name}_{dim}"
