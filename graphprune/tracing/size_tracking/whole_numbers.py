"""``int(size)`` and ``int(size / 2)`` in the files of a model are sizes, and ``type(size)`` is ``int``.

Python makes a plain integer of whatever ``__int__`` returns. So while a model is traced, the name ``int`` means another
type in the files of its classes and of the functions that ``forward`` reaches, by a name or through what modules,
closures, containers and objects hold, where these do no more than call it and ask ``isinstance`` (``name_uses``). So
does the name ``type``, which tells of a size what it is in the program.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import filterfalse
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from graphprune.tracing.may_write import functions_held
from graphprune.tracing.size_places import values_held
from graphprune.tracing.size_tracking.name_uses import MAY_LOOK_UP, looks_up_computed, uses_of_name
from graphprune.tracing.sizes import Ratio, Size
from graphprune.utils.global_state import patched
from graphprune.utils.modules import Modules
from graphprune.utils.reached_functions import function_of, functions_from, is_library, names_of
from graphprune.utils.weak_caches import once_for_each


class _AnyInteger(type):
    """The type of a type that has Python's integers as its instances."""

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, int)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, int)


class _Whole(int, metaclass=_AnyInteger):
    """``int``, but for sizes."""

    dtype = np.dtype(int)  # what numpy takes it for, should it be given this one

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        given = args[0] if len(args) == 1 and not kwargs else None
        if type(given) is Ratio:
            return given.__trunc__()
        return given if type(given) is Size else int(*args, **kwargs)


class _AnyType(type):
    """The type of a type that has Python's types as its instances, and of which a call is one of ``type``."""

    def __call__(cls, value: Any, *made_of: Any, **kwargs: Any) -> Any:
        if made_of:
            return type(value, *made_of, **kwargs)
        found = type(value)
        if found is Size:
            return value.kind or int
        return float if found is Ratio else found

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, type)


class _Type(metaclass=_AnyType):
    """``type``, but for sizes."""

    def __class_getitem__(cls, kind: Any) -> Any:
        return type[kind]


@contextmanager
def whole_numbers(kinds: Iterable[type], holders: Modules = (), reached: Iterable[Any] = ()) -> Iterator[None]:
    """Within, sizes that the files of these classes and their helpers make integers stay sizes, and have their type.

    Args:
        kinds: the classes of a model's modules.
        holders: those of its modules that may hold functions or objects.
        reached: what the program reaches outside of its model.
    """
    found = [_users(kind) for kind in set(kinds)]
    names = frozenset[str]().union(*(users.names for users in found))
    found.append(_Users.among(functions_held(values_held(holders), names)))
    found.append(_Users.among(value for value in reached if isinstance(value, FunctionType)))
    run = None if any(users.computed for users in found) else names.union(*(users.names for users in found))
    with ExitStack() as stack:
        for name, another in (("int", _Whole), ("type", _Type)):
            files = {file for users in found for file in getattr(users, f"of_{name}") if file in sys.modules}
            for module in map(sys.modules.__getitem__, files):
                if only_called(module, name, run):
                    stack.enter_context(patched(module, **{name: another}))
        yield


class _Users(NamedTuple):
    """Functions that ``forward`` reaches.

    Attributes:
        of_int: the names of the modules whose functions use ``int``, and of that which defines a class.
        of_type: of those whose functions use ``type``.
        names: what the functions are called, and mention.
        computed: do they look up names that they put together? These may be any.
    """

    of_int: frozenset[str]
    of_type: frozenset[str]
    names: frozenset[str]
    computed: bool

    @staticmethod
    def among(functions: Iterable[FunctionType]) -> _Users:
        """Which of some functions use the names."""
        found = list(functions)
        named = [(str(f.__module__), names_of(f.__code__) | {_defined_in(f)}) for f in found]
        users = (frozenset(file for file, names in named if name in names) for name in ("int", "type"))
        of_int, of_type = (frozenset(filterfalse(is_library, files)) for files in users)
        computed = any(_looks_up_computed(f.__code__) for f in found)
        return _Users(of_int, of_type, frozenset[str]().union(*(names for _, names in named)), computed)


def _defined_in(function: FunctionType) -> str:
    """The name of a function, or of the outermost one around it."""
    return function.__qualname__.partition(".<locals>")[0].rpartition(".")[2]


@once_for_each
def _users(kind: type) -> _Users:
    """What ``forward`` of a class reaches."""
    found = _Users.among(functions_from("forward", kind))
    own = () if is_library(kind.__module__) else (kind.__module__,)
    return found._replace(of_int=found.of_int.union(own))


@lru_cache(maxsize=4096)
def _looks_up_computed(code: CodeType) -> bool:
    """Does a function look up names that it puts together, or that its text does not tell?"""
    if MAY_LOOK_UP.isdisjoint(names_of(code)):
        return False
    try:
        return looks_up_computed(ast.parse(textwrap.dedent(inspect.getsource(code))))
    except (OSError, SyntaxError):  # there is no text, or a part of a line
        return True


def only_called(module: ModuleType, name: str = "int", run: Iterable[str] | None = None) -> bool:
    """Do functions of a file use the name, ``int`` or ``type``, and only to call it, to ask ``isinstance``, and in
    annotations? What the file itself does with it was done when it was imported.

    Args:
        module: the file.
        name: the name.
        run: the names of the functions that may run, and that they mention: others do not count. None: all count,
            since any may run, as do all functions of a notebook.
    """
    try:
        known = run if _has_file(module) else None
        return name not in vars(module) and uses_of_name(_source(module, name), name).allow_another(known)
    except (OSError, TypeError):  # the file is gone, or what was typed in is
        return False


def _has_file(module: ModuleType) -> bool:
    return getattr(module, "__file__", None) is not None


def _source(module: ModuleType, name: str) -> str:
    """The text of a file, or of the functions and methods of a notebook that use a name."""
    if _has_file(module):
        return inspect.getsource(module)
    defined = [value for value in vars(module).values() if isinstance(value, type | FunctionType)]
    own = [value for value in defined if value.__module__ == module.__name__]
    members = (v for kind in own if isinstance(kind, type) for v in vars(kind).values())
    functions = {f for value in (*own, *members) if (f := function_of(value)) and name in names_of(f.__code__)}
    return "\n".join(sorted(textwrap.dedent(inspect.getsource(function)) for function in functions))
