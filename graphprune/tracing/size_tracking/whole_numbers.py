"""``int(size)`` and ``int(size / 2)`` in the files of a model are sizes.

Python makes a plain integer of whatever ``__int__`` returns. So while a model is traced, the name ``int`` means another
type in the files of its classes and of the functions that these import, as far as they do no more than call it and ask
``isinstance``: an argument such as ``dtype=int`` wants the type itself.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

from graphprune.tracing.may_write import is_own
from graphprune.tracing.sizes import Ratio, Size
from graphprune.utils.contexts import patched


class _AnyInteger(type):
    """The type of a type that has Python's integers as its instances."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, int)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, int)


class _Whole(int, metaclass=_AnyInteger):
    """``int``, but for sizes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        given = args[0] if len(args) == 1 and not kwargs else None
        if type(given) is Ratio:
            return given.__trunc__()
        return given if type(given) is Size else int(*args, **kwargs)


@contextmanager
def whole_numbers(kinds: Iterable[type]) -> Iterator[None]:
    """Within, sizes that the files of these classes and their helpers make integers stay sizes.

    Args:
        kinds: the classes of a model's modules.
    """
    with ExitStack() as stack:
        for module in _files(set(kinds)):
            if only_called(module):
                stack.enter_context(patched(module, int=_Whole))
        yield


def _files(kinds: Iterable[type]) -> list[ModuleType]:
    """The modules that define these classes, and those of the functions that they have imported."""
    names = {base.__module__ for kind in kinds for base in kind.__mro__}
    found = [sys.modules[name] for name in names if not is_own(name) and name in sys.modules]
    functions = [value for module in found for value in vars(module).values() if isinstance(value, FunctionType)]
    helpers = {str(function.__module__) for function in functions} - names
    return found + [sys.modules[name] for name in helpers if not is_own(name) and name in sys.modules]


def only_called(module: ModuleType) -> bool:
    """Does a file use the name ``int``, and only to call it, to ask ``isinstance``, and in annotations?"""
    try:
        return "int" not in vars(module) and _only_called_in(inspect.getsource(module))
    except (OSError, TypeError):  # there is no file
        return False


_CALLED = re.compile(r"\bint\(|\(int,")


@lru_cache(maxsize=1 << 8)
def _only_called_in(source: str) -> bool:
    """:func:`only_called` of a file's text."""
    if _CALLED.search(source) is None:
        return False
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the file was changed since
        return False
    names = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "int"}
    return bool(names) and names <= {id(name) for node in ast.walk(tree) for name in _allowed(node)}


def _allowed(node: ast.AST) -> Iterator[ast.AST]:
    """The names in places where another type may stand."""
    if isinstance(node, ast.Call):
        yield node.func
        if isinstance(node.func, ast.Name) and node.func.id in ("map", "isinstance"):
            yield from ast.walk(node.args[0] if node.func.id == "map" else node.args[-1])
    elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        yield from ast.walk(node.annotation)
    elif isinstance(node, ast.FunctionDef) and node.returns is not None:
        yield from ast.walk(node.returns)
