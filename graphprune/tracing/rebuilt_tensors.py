"""Tensors that a model keeps between calls and makes anew when they do not fit: tables of positions, masks.

A model that has run before holds one that fits. The trace sees that it is used, not how it is made: for inputs of
another size, forward would make it as wide as it was.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType
from weakref import WeakKeyDictionary

from torch import fx

from graphprune.tracing.may_write import function_of, is_own
from graphprune.tracing.tracer import Trace

_known: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()


def rebuilt_tensors(trace: Trace) -> Iterator[fx.Node]:
    """The nodes of buffers and tensors in attributes that forward, or a method that it calls, makes anew.

    What is worked out from its own last value, such as an average, is not made anew.
    """
    for node in trace.graph.nodes:
        if node.op == "get_attr" and node.meta.get("parameter") is False:
            steps = node.meta["tensor"].split(".")
            owners = ((".".join(steps[:at]), ".".join(steps[at:])) for at in range(len(steps)))
            if any(rest in _made_by(trace.modules[path]) for path, rest in owners if path in trace.modules):
                yield node


def _made_by(kind: type) -> frozenset[str]:
    """The attributes that ``forward`` of a class makes anew, and the methods that it calls."""
    if kind not in _known:
        done: dict[str, frozenset[str]] = {}
        waiting = ["forward"]
        while waiting:
            name = waiting.pop()
            function = None if name in done else _method(kind, name)
            if function is not None:
                done[name] = frozenset(_made_in(function))
                waiting.extend(function.__code__.co_names)
        _known[kind] = frozenset[str]().union(*done.values())
    return _known[kind]


def _method(kind: type, name: str) -> FunctionType | None:
    """A method or property that is neither torch's nor Python's."""
    owner = next((base for base in kind.__mro__ if name in vars(base)), object)
    found = function_of(vars(owner).get(name))
    return None if found is None or is_own(owner.__module__) else inspect.unwrap(found)


def _made_in(function: FunctionType) -> Iterator[str]:
    """The attributes that one function gives a value which does not depend on what they hold."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return
    owner = function.__code__.co_varnames[:1]
    given = [(path, value) for place, value in _assignments(tree) if (path := _path(place, owner))]
    given += [(path, value) for path, value in _registrations(tree, owner)]
    for path, value in given:
        if not isinstance(value, ast.Constant) and not _depends(value, path, tree, owner):
            yield path


def _assignments(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What is assigned, and what to."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield from ((place, node.value) for target in node.targets for place in _places(target))
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            yield node.target, node.value


def _places(target: ast.expr) -> Iterator[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        for item in target.elts:
            yield from _places(item)
    else:
        yield target


def _registrations(tree: ast.AST, owner: tuple[str, ...]) -> Iterator[tuple[str, ast.expr]]:
    """Paths and values in ``self.register_buffer("table", value)`` and ``setattr(self, "table", value)``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [node.func.value] if called == "register_buffer" and isinstance(node.func, ast.Attribute) else []
            given += node.args if given or called in ("setattr", "__setattr__") else []
            if len(given) > 2 and isinstance(given[1], ast.Constant):
                holder = ast.Attribute(given[0], str(given[1].value))
                yield from ((path, given[2]) for path in (_path(holder, owner),) if path)


def _path(place: ast.AST, owner: tuple[str, ...]) -> str:
    """The path below the module of an attribute, without ``.data``; empty: of something else."""
    steps: list[str] = []
    while isinstance(place, ast.Attribute):
        steps.insert(0, place.attr)
        place = place.value
    below = isinstance(place, ast.Name) and (place.id,) == owner
    return ".".join(steps).removesuffix(".data") if below else ""


def _depends(value: ast.AST, path: str, tree: ast.AST, owner: tuple[str, ...]) -> bool:
    """Does a value depend on what an attribute holds, also by way of local names?"""
    names: set[str] = set()

    def mentions(part: ast.AST) -> bool:
        return any((isinstance(n, ast.Name) and n.id in names) or _path(n, owner) == path for n in _values_in(part))

    for _ in range(_ROUNDS):
        named = ((place.id, v) for place, v in _assignments(tree) if isinstance(place, ast.Name))
        names |= {name for name, v in named if mentions(v)}
    return mentions(value)


def _values_in(part: ast.AST) -> Iterator[ast.AST]:
    """The nodes of an expression, but for those of which only sizes and the like are asked."""
    asks = (isinstance(part, ast.Attribute) and part.attr in _ASKED) or isinstance(part, ast.Compare)
    counts = isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id in ("len", "hasattr")
    if not (asks or counts):
        yield part
        for child in ast.iter_child_nodes(part):
            yield from _values_in(child)


_ASKED = frozenset(("shape", "size", "numel", "dim", "ndim", "device", "dtype", "is_cuda"))
_ROUNDS = 3
"""Names may depend on names that are assigned after them, in loops."""
