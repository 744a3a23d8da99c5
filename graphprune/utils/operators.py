"""Operators, their arguments, and the mode that sees them called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import Self

Args = tuple[Any, ...]
"""Positional arguments of a call."""
Kwargs = dict[str, Any]
"""Keyword arguments of a call."""


@lru_cache(maxsize=4096)
def short_name(op: Any) -> str:
    """``"addmm"`` for ``aten.addmm.default``."""
    schema = getattr(op, "_schema", None)  # operators that run functions have none
    return str(op.name() if schema is None else schema.name).split("::")[-1]


def is_mutable(op: Any) -> bool:
    """Does an operator write to one of its arguments?"""
    schema = getattr(op, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


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
    """A ``TorchDispatchMode`` whose types are declared. It sees operators that run functions as one call."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)  # type: ignore[no-untyped-call]
