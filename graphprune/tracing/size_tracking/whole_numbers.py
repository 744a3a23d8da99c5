"""``int(size)`` and ``int(size / 2)`` in the files of a model are sizes, and ``type(size)`` is ``int``.

Python makes a plain integer of whatever ``__int__`` returns. So while a model is traced, the name ``int`` means another
type in the files of its classes and of the functions that ``forward`` reaches, as far as they do no more than call it
and ask ``isinstance``: an argument such as ``dtype=int`` wants the type itself. So does the name ``type``, which tells
of a size what it is in the program.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import filterfalse
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from graphprune.tracing.may_write import function_of, is_own
from graphprune.tracing.rebuilt_tensors import methods_from
from graphprune.tracing.sizes import Ratio, Size
from graphprune.utils.global_state import patched


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
def whole_numbers(kinds: Iterable[type]) -> Iterator[None]:
    """Within, sizes that the files of these classes and their helpers make integers stay sizes, and have their type.

    Args:
        kinds: the classes of a model's modules.
    """
    found = [_files(kind) for kind in set(kinds)]
    names = {name for files in found for name in (*files.integers, *files.types) if name in sys.modules}
    types = frozenset[str]().union(*(files.types for files in found))
    with ExitStack() as stack:
        for name in names:
            module = sys.modules[name]
            if only_called(module):
                stack.enter_context(patched(module, int=_Whole))
            if name in types and only_called(module, "type"):
                stack.enter_context(patched(module, type=_Type))
        yield


class _Files(NamedTuple):
    """The names of modules: of that which defines a class, and of those whose functions ``forward`` reaches and that
    use ``int``; and of those that use ``type``."""

    integers: frozenset[str]
    types: frozenset[str]


_known: WeakKeyDictionary[type, _Files] = WeakKeyDictionary()


def _files(kind: type) -> _Files:
    """Where a class and what its ``forward`` reaches use these names."""
    if kind not in _known:
        named = [(str(f.__module__), _names(f.__code__)) for f in _reached(kind)]
        users = (frozenset(module for module, names in named if name in names) for name in ("int", "type"))
        integers, types = (frozenset(filterfalse(is_own, modules)) for modules in users)
        own = () if is_own(kind.__module__) else (kind.__module__,)
        _known[kind] = _Files(integers.union(own), types)
    return _known[kind]


def _reached(kind: type) -> Iterator[FunctionType]:
    """``forward`` of a class, the methods that it calls, and the functions that these name, and so on."""
    waiting, done = [*methods_from("forward", kind)], set[FunctionType]()
    while waiting:
        function = waiting.pop()
        if function not in done:
            done.add(function)
            named = _looked_up(function)
            waiting += [f for f in named if isinstance(f, FunctionType) and not is_own(str(f.__module__))]
            yield function


def _looked_up(function: FunctionType) -> Iterator[Any]:
    """What a function may find by its names: ``halves``, ``helpers.halves``."""
    names, own = _names(function.__code__), function.__globals__
    imported = [value for name in names if isinstance(value := own.get(name), ModuleType)]
    spaces = (own, *(vars(module) for module in imported if not is_own(module.__name__)))
    return (space[name] for space in spaces for name in names if name in space)


def _names(code: CodeType) -> frozenset[str]:
    """The names that a piece of code and the functions within it look up."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(code.co_names).union(*inner)


def only_called(module: ModuleType, name: str = "int") -> bool:
    """Do functions of a file use the name, ``int`` or ``type``, and only to call it, to ask ``isinstance``, and in
    annotations? What the file itself does with it was done when it was imported."""
    try:
        return name not in vars(module) and _only_called_in(_source(module, name), name)
    except (OSError, TypeError):  # the file is gone, or what was typed in is
        return False


def _source(module: ModuleType, name: str) -> str:
    """The text of a file, or of the functions and methods of a notebook that use a name."""
    if getattr(module, "__file__", None) is not None:
        return inspect.getsource(module)
    defined = [value for value in vars(module).values() if isinstance(value, type | FunctionType)]
    own = [value for value in defined if value.__module__ == module.__name__]
    members = (v for kind in own if isinstance(kind, type) for v in vars(kind).values())
    functions = {f for value in (*own, *members) if (f := function_of(value)) and name in _names(f.__code__)}
    return "\n".join(sorted(textwrap.dedent(inspect.getsource(function)) for function in functions))


@lru_cache(maxsize=1 << 8)
def _only_called_in(source: str, name: str) -> bool:
    """:func:`only_called` of a file's text."""
    if re.search(rf"\b{name}\(|\({name},", source) is None:
        return False
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the file was changed since
        return False
    run = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    bodies = [line for node in run for line in (node.body if isinstance(node.body, list) else [node.body])]
    inner = {id(node): node for line in bodies for node in ast.walk(line)}
    found = {key for key, node in inner.items() if isinstance(node, ast.Name) and node.id == name}
    return bool(found) and found <= {id(node) for one in inner.values() for node in _allowed(one)}


def _allowed(node: ast.AST) -> Iterator[ast.AST]:
    """The names in places where another type may stand, as in ``add_argument("--epochs", type=int)``."""
    if isinstance(node, ast.Call):
        yield node.func
        yield from (given.value for given in node.keywords if given.arg == "type")
        if node.args and isinstance(node.func, ast.Name) and node.func.id in ("map", "isinstance"):
            yield from ast.walk(node.args[0] if node.func.id == "map" else node.args[-1])
    elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        yield from ast.walk(node.annotation)
    elif isinstance(node, ast.FunctionDef) and node.returns is not None:
        yield from ast.walk(node.returns)
