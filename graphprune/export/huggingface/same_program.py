"""Do two models compute the same, by what they call? Nothing is worked out, and weights need not be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import TraceError
from graphprune.tracing.call_list import NODES
from graphprune.tracing.example_inputs.guess import first_that_runs
from graphprune.tracing.inputs import MethodCall, calls_of
from graphprune.tracing.running import Replay, replay_on_shapes
from graphprune.utils.equality import same_values


def same_program(one: nn.Module, other: nn.Module, given: Sequence[MethodCall] | None = None) -> bool | None:
    """Do two models call the same operations, with the same numbers, on equal tensors of the same names?

    False: with another number, so that they compute something else. None says nothing: programs may differ in other
    ways and compute the same, and some look at values, which are not there.

    Args:
        one, other: the models.
        given: what both are run on; None: what is guessed.

    Raises:
        TraceError: a result is an object without tensors.
    """
    try:
        calls, run = _first_run(one) if given is None else (given, replay_on_shapes(one, given))
    except TraceError:
        raise
    except Exception:  # of any type: the inputs do not fit, which a run with values says, or values are needed
        return None
    try:
        replay = replay_on_shapes(other, calls)
    except (RuntimeError, ValueError, IndexError):  # sizes do not fit each other
        return None
    mine, others = _content(run), _content(replay)
    if _factors(run) != _factors(replay):
        return False
    return (mine == others and _on_equal_tensors((one, run), (other, replay))) or None


def _first_run(model: nn.Module) -> tuple[Sequence[MethodCall], Replay]:
    inputs, run = first_that_runs(model, lambda guess: replay_on_shapes(model, calls_of(guess)))
    return calls_of(inputs), run


def _factors(run: Replay) -> Counter[Any]:
    """The fractions that operations are given, such as ``1 / sqrt(width)``."""
    given = ((call.target, a) for call in run.calls for a in (*call.args, *call.kwargs.values()))
    return Counter((target, a) for target, a in given if isinstance(a, float))


def _content(run: Replay) -> list[Any]:
    """All calls, with the numbers of other calls in the places of their results."""
    numbers = {id(call): number for number, call in enumerate(run.calls)}
    calls = [
        (call.op, call.target, _numbered((call.args, call.kwargs), numbers), *map(call.meta.get, _FORM))
        for call in run.calls
    ]
    return [calls, [numbers[id(call)] for call in run.outputs]]


_FORM = ("tensor", "shape", "dtype", "shapes")


def _numbered(value: Any, numbers: Mapping[int, int]) -> Any:
    """Arguments in a form in which those of two runs are equal: no number equals a call or a truth value."""
    if isinstance(value, NODES):
        return numbers[id(value)]
    if isinstance(value, tuple | list):
        return [_numbered(one, numbers) for one in value]
    if isinstance(value, Mapping):
        return {key: _numbered(one, numbers) for key, one in value.items()}
    return type(value), value


def _on_equal_tensors(one: tuple[nn.Module, Replay], other: tuple[nn.Module, Replay]) -> bool:
    mine, others = _read(*one), _read(*other)
    return mine.keys() == others.keys() and all(equal_tensors(mine[name], others[name]) for name in mine)


def _read(model: nn.Module, run: Replay) -> dict[str, Tensor]:
    """The tensors that a run reads and that no call makes."""
    own = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    return {**{name: own[name] for name in run.used}, **run.constants}


def equal_tensors(one: Tensor, other: Tensor) -> bool:
    """Have tensors the same shape, type and values? Of what is on ``meta`` nobody knows the values."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_meta or other.is_meta:
        return not one.numel()
    return _same_memory(one, other) or same_values(one, other.to(one.device))


def equal_values(one: Tensor, other: Tensor) -> bool:
    """As :func:`equal_tensors`, of whatever types the tensors are."""
    both = torch.promote_types(one.dtype, other.dtype)
    return equal_tensors(one.to(both), other.to(both))


def _same_memory(one: Tensor, other: Tensor) -> bool:
    """Are these entries in the same places? They need not be read then."""
    both_there = bool(one.data_ptr()) and one.device == other.device
    return both_there and one.data_ptr() == other.data_ptr() and one.stride() == other.stride()
