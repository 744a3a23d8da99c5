"""What operations make of zeros: of the entries that removed channels would have had."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx
from torch._ops import OpOverload

from graphprune.rules.registry import in_any_type, is_elementwise, rule_of
from graphprune.rules.samples import T
from graphprune.rules.traits import Trait
from graphprune.utils.float_types import is_float_type
from graphprune.utils.global_state import changing_globals
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.tree import replaced, tensors_of

_PROBES = {torch.bool: (0, 1), torch.int64: (-1, 1, 2), torch.float64: (-2.0, -0.5, 0.3, 1.0, 3.0)}
_WITH_ZERO = {kind: (0, *numbers) for kind, numbers in _PROBES.items()}
"""For comparisons; other operations (divisions, powers) are undefined there, or have another number than around it."""
_OF_MANY = {torch.ops.aten.fill_.Tensor: torch.ops.aten.copy_.default}
"""Operations that take one number, and those that do the same with a number for each entry."""
_PLACES = ("device", "layout", "memory_format", "pin_memory", "non_blocking")


@dataclass(frozen=True)
class _Operand:
    """The number of a tensor among the arguments of a call."""

    number: int


def is_pointwise(op: Any) -> bool:
    """Is every entry of the result a function of the operands' entries at its place, and not random?"""
    if not isinstance(op, OpOverload) or op.namespace != "aten" or torch.Tag.nondeterministic_seeded in op.tags:
        return False
    return is_elementwise(op, Trait.ENTRYWISE)


def zero_at_zero(call: fx.Node, zeros: Sequence[bool]) -> bool:
    """Is the result of a pointwise call zero at a place where some operands are, whatever the others are there?

    Args:
        call: of the operation.
        zeros: for every tensor among the arguments, in their order, whether it is zero.
    """
    kinds: list[torch.dtype] = []

    def known(value: Any) -> Hashable:
        if isinstance(value, fx.Node):
            kinds.append(_kind(value.meta["dtype"]))
            return _Operand(len(kinds) - 1)
        return tuple(map(known, value)) if isinstance(value, tuple | list) else value

    args = tuple(map(known, call.args))
    kwargs = tuple((name, known(value)) for name, value in call.kwargs.items() if name not in _PLACES)
    return _probed(call.target, args, kwargs, tuple(kinds), tuple(zeros))


def _kind(dtype: torch.dtype) -> torch.dtype:
    if dtype == torch.bool:
        return dtype
    return torch.float64 if is_float_type(dtype) else torch.int64


@lru_cache(maxsize=4096)
def _probed(
    op: Any,
    args: tuple[Any, ...],
    kwargs: tuple[tuple[str, Any], ...],
    kinds: tuple[torch.dtype, ...],
    zeros: tuple[bool, ...],
) -> bool:
    def tried(probes: Mapping[torch.dtype, Sequence[float]]) -> Any:
        rows = list(product(*((0,) if zero else probes[kind] for kind, zero in zip(kinds, zeros, strict=True))))
        columns = [torch.tensor(column, device="cpu") for column in zip(*rows, strict=True)]

        def given(value: Any) -> Any:
            if isinstance(value, _Operand):
                return columns[value.number].to(kinds[value.number])
            return [given(item) for item in value] if isinstance(value, tuple) else value

        return _OF_MANY.get(op, op)(*map(given, args), **{name: given(value) for name, value in kwargs})

    found = tried(_PROBES)
    compares = isinstance(found, Tensor) and found.dtype == torch.bool
    return _all_zero(found) and (not compares or _all_zero(tried(_WITH_ZERO)))


@lru_cache(maxsize=4096)
def keeps_zeros(op: Any) -> bool:
    """Does an operation of torch make zeros of zeros, as far as the samples of its rule show?"""
    known = rule_of(op)
    if known is None or op.namespace != "aten":
        return False

    with changing_globals(), random_numbers_kept():
        given = [replaced(_zeros, (one.args, one.kwargs), (T, Tensor)) for one in known.samples]
        results = [in_any_type(op)(*args, **kwargs) for args, kwargs in given]
    return all(map(_all_zero, results))


def _zeros(value: T | Tensor) -> Tensor:
    """Zeros in the place of a tensor that a sample describes; one that it gives itself is copied."""
    if isinstance(value, Tensor):
        return value.clone()
    kinds = {"bool": torch.bool, "rows": torch.bool, "complex": torch.complex128}
    whole = torch.int64 if value.kind.startswith("int") else torch.float64
    return torch.zeros(value.shape, dtype=kinds.get(value.kind, whole), device="cpu")


def _all_zero(result: Any) -> bool:
    """Are all values zero? Positions beside the values (of a maximum) do not matter."""
    tensors = list(tensors_of(result))
    values = [t for t in tensors if is_float_type(t.dtype)] or tensors
    return not any(bool((t != 0).any()) for t in values)
