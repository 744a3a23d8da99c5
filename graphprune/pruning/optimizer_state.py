"""Slice the state that an optimizer keeps for a parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from torch import Size, Tensor

from graphprune.errors import InputError
from graphprune.pruning.rewrite import KeptEntries, slim_tensor
from graphprune.utils.tree import tensors_of


def slim_state(state: Mapping[str, Any], shape: Size, kept: KeptEntries, where: str) -> dict[str, Any]:
    """The state of a parameter of this shape, for the entries ``kept``.

    A tensor of the parameter's shape is taken to be about its entries, one by one. A tensor over some of the
    dimensions (the factored second moments of Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear
    Memory Cost", ICML 2018; the covers of SM3) is sliced along these. What is one number is about the whole parameter.

    Args:
        state: an entry of ``torch.optim.Optimizer.state``.
        where: names the optimizer and the parameter in messages.

    Raises:
        InputError: a tensor is of another shape, or could be over other dimensions just as well.
    """
    return {name: _slim_value(name, value, shape, kept, where) for name, value in state.items()}


def _slim_value(name: str, value: Any, shape: Size, kept: KeptEntries, where: str) -> Any:
    if isinstance(value, Tensor):
        dims = _dimensions(name, value, shape, kept, where)
        sliced = {here: kept[dim] for here, dim in dims.items() if dim in kept}
        return slim_tensor(value, sliced, numbered=False) if sliced else value
    for tensor in tensors_of(value):
        if tensor.numel() > 1:
            found = f"{name!r}, a {type(value).__name__} of tensors such as {list(tensor.shape)}"
            raise InputError(
                f"optimizer: {where} keeps {found}",
                where=where,
                found=found,
                needed=_NEEDED,
                do=_DO,
            )
    return value


_NEEDED = "tensors of the shape of the parameter or over some of its dimensions, of which it can be told which they are"
_DO = "prune without the optimizer and make a new one, or use an optimizer such as SGD, Adam or Adafactor"


def _dimensions(name: str, tensor: Tensor, shape: Size, kept: KeptEntries, where: str) -> dict[int, int]:
    """For the dimensions of a state tensor, those of the parameter that they are."""
    if tensor.shape == shape:
        return {d: d for d in range(tensor.ndim)}
    if tensor.numel() <= 1:
        return {}
    found = list(_placements(tensor.shape, shape))
    named = [dims for dims in found if list(dims.values()) == _named(name, len(shape))]
    found = named or found
    if len({tuple(dim if dim in kept else -1 for dim in dims.values()) for dims in found}) == 1:
        return found[0]
    what = "which could be over other dimensions just as well" if found else "which are not its dimensions"
    raise InputError(
        f"optimizer: {where} of shape {list(shape)} keeps {name!r} of shape {list(tensor.shape)}, {what}",
        where=where,
        found=f"{name!r} of shape {list(tensor.shape)}",
        needed=_NEEDED,
        do=_DO,
    )


def _placements(own: Size, shape: Size) -> Iterator[dict[int, int]]:
    """The ways in which a tensor can be one over some of the dimensions of a parameter, in their order."""
    if len(own) == len(shape):  # the others are kept as 1
        if all(n in (1, size) for n, size in zip(own, shape, strict=True)):
            yield {d: d for d, n in enumerate(own) if n == shape[d]}
        return
    for dims in combinations(range(len(shape)), len(own)):
        if all(n == shape[d] for n, d in zip(own, dims, strict=True)):
            yield dict(enumerate(dims))


def _named(name: str, count: int) -> list[int]:
    """Adafactor's row statistics are means over the last dimension, its column statistics over the last but one."""
    last = count - 1 if name.endswith("row") else count - 2 if name.endswith("col") else count
    return [dim for dim in range(count) if dim != last]
