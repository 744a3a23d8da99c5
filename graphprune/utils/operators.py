"""Operators, their arguments, and the mode that sees them called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch._ops import HigherOrderOperator, _higher_order_ops
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from typing_extensions import Self

from graphprune.utils.mode_flags import OverlappingModes

Args = tuple[Any, ...]
"""Positional arguments of a call."""
Kwargs = dict[str, Any]
"""Keyword arguments of a call."""


@lru_cache(maxsize=4096)
def short_name(op: Any) -> str:
    """``"addmm"`` for ``aten.addmm.default``."""
    schema = getattr(op, "_schema", None)  # operators that run functions have none
    return str(op.name() if schema is None else schema.name).split("::")[-1]


@lru_cache(maxsize=4096)
def is_mutable(op: Any) -> bool:
    """Does an operator write to one of its arguments?"""
    schema = getattr(op, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def written_arguments(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What a call of such an operator writes to: tensors, or whatever stands for them; those of lists one by one."""
    given = [
        kwargs.get(argument.name, args[position] if position < len(args) else None)
        for position, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [one for value in given for one in (value if isinstance(value, list | tuple) else [value])]


@lru_cache(maxsize=4096)
def is_random(func: Any) -> bool:
    """Does an operation draw random numbers? Fused attention is tagged as if it always did."""
    tagged = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
    return tagged and not any(word in func.name() for word in ("attention", "sdp_choice"))


def returns_view(op: Any) -> bool:
    """Is the first result of an operator a view of an argument, which it does not write to?"""
    schema = getattr(op, "_schema", None)
    alias = schema.returns[0].alias_info if schema is not None and schema.returns else None
    return alias is not None and not alias.is_write


def argument_of(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any], position: int) -> Any:
    """The argument of a call at a position of the operator's signature; its default where the call leaves it out."""
    if position < len(args):
        return args[position]
    argument = op._schema.arguments[position]
    return kwargs.get(argument.name, argument.default_value)


class DispatchMode(TorchDispatchMode):
    """A ``TorchDispatchMode`` whose types are declared.

    It sees operators that run functions as one call, and may be on while modes of other threads begin and end.
    """

    supports_higher_order_operators = True
    overlapping = OverlappingModes()

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._depth = 0

    def __enter__(self) -> Self:
        if not hasattr(TorchDispatchMode, "supports_higher_order_operators"):  # torch 2.8: each must know the mode
            for operator in _higher_order_ops.values():
                _show_calls(operator, type(self))
        if self._depth == 0:
            self.overlapping.begin(self)
        self._depth += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *failure: Any) -> None:
        if any(isinstance(mode, DispatchMode) for mode in _get_current_dispatch_mode_stack()):  # as below
            super().__exit__(*failure)  # type: ignore[no-untyped-call]
        self._depth -= 1
        if self._depth == 0:
            self.overlapping.end(self)


class FunctionMode(TorchFunctionMode):
    """A ``TorchFunctionMode`` that takes none of the user's off the stack: after a signal its context may end late."""

    def __exit__(self, *failure: Any) -> None:
        stack = map(torch._C._get_function_stack_at, range(torch._C._len_torch_function_stack()))
        if any(isinstance(mode, FunctionMode) for mode in stack):
            super().__exit__(*failure)  # type: ignore[no-untyped-call]


def _show_calls(operator: HigherOrderOperator, mode: type[DispatchMode]) -> None:
    """Let modes of a type see the calls of an operator that runs functions."""

    def seen(this: DispatchMode, *args: Any, **kwargs: Any) -> Any:
        return this.__torch_dispatch__(operator, (), args, kwargs)  # type: ignore[no-untyped-call]

    if mode not in operator.python_key_table:
        operator.py_impl(mode)(seen)
