"""Tensors that a model keeps between calls and makes anew when they do not fit: tables of positions, masks.

A model that has run before holds one that fits. The trace sees that it is used, not how it is made: for inputs of
another size, forward would make it as wide as it was.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import FunctionType

from torch import fx

from graphprune.utils.reached_functions import methods_from
from graphprune.utils.weak_caches import once_for_each


def rebuilt_tensors(nodes: Iterable[fx.Node], kinds: Mapping[str, type]) -> Iterator[fx.Node]:
    """The nodes of buffers and tensors in attributes that forward, or a method that it calls, makes anew.

    What is worked out from its own last value, such as an average, is not made anew; neither is what is made once,
    ``if self.table is None``.

    Args:
        nodes: of the trace.
        kinds: the classes of the model's modules by their paths.
    """
    for node in nodes:
        constant = node.op == "get_attr" and node.meta.get("parameter") is False
        if constant and _is_made(_made_again_by, kinds, node.meta["tensor"]):
            yield node


def is_rebuilt(kinds: Mapping[str, type], name: str) -> bool:
    """Does forward, or a cached property, make a buffer or a tensor in an attribute anew, or where there is none?

    Args:
        kinds: the classes of the model's modules by their paths.
        name: of the tensor.
    """
    return _is_made(_made_by, kinds, name)


def _is_made(made_by: Callable[[type], frozenset[str]], kinds: Mapping[str, type], name: str) -> bool:
    return any(rest in made_by(kinds[path]) for path, rest in _owners(name) if path in kinds)


def is_made_of_weights(kinds: Mapping[str, type], name: str) -> bool:
    """Does forward, or a cached property, make a tensor in an attribute of what the model holds, and of sizes alone?

    What it is given, a prompt or the statistics of a batch, and what it draws, another call does not bring back.

    Args:
        kinds: the classes of the model's modules by their paths.
        name: of the tensor.
    """
    return _is_made(_made_of_weights_by, kinds, name)


def rebuild_any(kinds: Iterable[type]) -> bool:
    """Does forward of one of these classes make a tensor in an attribute anew?"""
    return any(map(_made_by, set(kinds)))


def is_filled(kind: type, name: str) -> bool:
    """Does ``forward`` of a class put entries into a dictionary in an attribute, none of which depends on others?"""
    return name in _filled_by(kind)


@once_for_each
def _filled_by(kind: type) -> frozenset[str]:
    entries = [entry for function in methods_from("forward", kind) for entry in _entries_in(function)]
    names = {path for path, _ in entries}
    return frozenset(names - {path for path, depends in entries if depends})


def is_set_when_built(kinds: Mapping[str, type], name: str) -> bool:
    """Has a new model this attribute, which may be None?"""
    return any(rest in _set_by(kinds[path]) for path, rest in _owners(name) if path in kinds)


def _owners(name: str) -> list[tuple[str, str]]:
    """The paths of the modules that may make a tensor, and how they call it."""
    steps = name.split(".")
    return [(".".join(steps[:at]), ".".join(steps[at:])) for at in range(len(steps))]


@once_for_each
def _made_by(kind: type) -> frozenset[str]:
    """The cached properties of a class, and what ``forward`` or a method that it calls makes anew or once."""
    made = (name for f in methods_from("forward", kind) for name, _ in _made_in(f))
    return frozenset([*_cached_properties(kind), *made])


def _cached_properties(kind: type) -> list[str]:
    """The names that are cached properties of instances of a class, whatever they are in its bases."""
    members = {name: value for base in reversed(kind.__mro__) for name, value in vars(base).items()}
    return [name for name, value in members.items() if isinstance(value, cached_property)]


@once_for_each
def _made_again_by(kind: type) -> frozenset[str]:
    """Those of them that are made anew where there is one already."""
    made = (pair for f in methods_from("forward", kind) for pair in _made_in(f))
    return frozenset(name for name, once in made if not once)


@once_for_each
def _made_of_weights_by(kind: type) -> frozenset[str]:
    """Those of them that depend on no argument and on no random number."""
    functions = {function.__name__: function for function in methods_from("forward", kind)}
    handed = _handed_inputs(functions)
    given = {path for name in handed for path in _made_of_inputs(functions[name])}
    drawn = {path for f in functions.values() for path, value, tree in _given_in(f) if _comes_of(value, tree, _draws)}
    drawn.update(name for name in _cached_properties(kind) if _draws_when_asked(kind, name))
    return _made_by(kind) - given - drawn


def _handed_inputs(functions: Mapping[str, FunctionType]) -> set[str]:
    """The names of the methods that are handed what forward is given, and not only sizes of it."""
    found = {"forward"} & functions.keys()
    for _ in range(_ROUNDS):
        for name in sorted(found):
            found.update(functions.keys() & _handed_by(functions[name]))
    return found


def _handed_by(function: FunctionType) -> set[str]:
    """The names of the methods that one calls with what depends on its arguments."""
    tree, owner, found = _tree(function), _owner(function), set()
    if tree is None:
        return set()
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        values = (*call.args, *(keyword.value for keyword in call.keywords))
        if any(_is_given(value, tree, function) for value in values):
            found.add(_path(call.func, owner))
    return found


def _made_of_inputs(function: FunctionType) -> list[str]:
    """The attributes that a function sets to what depends on its arguments."""
    return [path for path, value, tree in _given_in(function) if _is_given(value, tree, function)]


def _draws(node: ast.AST) -> bool:
    """Is it the name of a function that draws random numbers?"""
    return _is_of_draws(getattr(node, "attr", None) or getattr(node, "id", None) or "")


def _draws_when_asked(kind: type, name: str) -> bool:
    """Does a cached property, or a method that it calls, draw random numbers?"""
    return any(_is_of_draws(used) for function in methods_from(name, kind) for used in function.__code__.co_names)


def _is_of_draws(name: str) -> bool:
    return name.startswith("rand") or name.rstrip("_") in _DRAWS


_DRAWS = frozenset(
    "normal log_normal standard_normal trunc_normal uniform bernoulli binomial multinomial exponential geometric "
    "cauchy poisson gumbel_softmax sample rsample xavier_normal xavier_uniform kaiming_normal kaiming_uniform "
    "orthogonal".split()
)
"""What draws random numbers, beside names such as ``randn`` and ``random``; in place, with a ``_`` at the end."""


def _is_given(value: ast.AST, tree: ast.AST, function: FunctionType) -> bool:
    """Does a value depend on an argument of a function, and not only on its sizes?"""
    code = function.__code__
    several = sum(bool(code.co_flags & flag) for flag in (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS))
    arguments = set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount + several])
    return _comes_of(value, tree, lambda node: isinstance(node, ast.Name) and node.id in arguments)


@once_for_each
def _set_by(kind: type) -> frozenset[str]:
    """The attributes that building an instance of a class sets."""
    return frozenset(name for f in methods_from("__init__", kind) for name, *_ in _given_in(f))


def _made_in(function: FunctionType) -> Iterator[tuple[str, bool]]:
    """The attributes that one function gives a value which does not depend on what they hold, and whether it does so
    only where there is none."""
    owner = _owner(function)
    for path, value, tree in _given_in(function):
        if not isinstance(value, ast.Constant) and not _depends(value, path, tree, owner):
            yield path, any(part is value for part in _made_once(tree, path, owner))


def _made_once(tree: ast.AST, path: str, owner: tuple[str, ...]) -> Iterator[ast.AST]:
    """The expressions that are worked out only where an attribute is None or missing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If | ast.IfExp):
            parts = node.body if isinstance(node, ast.If) else [node.body]
            if _is_missing(node.test, path, owner):
                yield from (inner for part in parts for inner in ast.walk(part))


def _is_missing(test: ast.expr, path: str, owner: tuple[str, ...]) -> bool:
    """Does a test hold only where an attribute is None, or not there?"""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return any(_is_missing(part, path, owner) for part in test.values)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Call):
        called = test.operand
        return getattr(called.func, "id", "") == "hasattr" and _asked_of(called, owner) == path
    if not (isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is) and _is_none(test.comparators[0])):
        return False
    left = test.left
    by_name = isinstance(left, ast.Call) and getattr(left.func, "id", "") == "getattr"
    return (_asked_of(left, owner) if by_name else _path(left, owner)) == path  # type: ignore[arg-type]


def _asked_of(call: ast.Call, owner: tuple[str, ...]) -> str:
    """The path of the attribute that ``hasattr(self, "table")`` and ``getattr(self, "table", None)`` ask for."""
    if len(call.args) < 2 or not isinstance(call.args[1], ast.Constant):
        return ""
    return _path(ast.Attribute(call.args[0], str(call.args[1].value)), owner)


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _entries_in(function: FunctionType) -> Iterator[tuple[str, bool]]:
    """The attributes into which one function puts an entry, and whether that depends on what they hold."""
    tree, owner = _tree(function), _owner(function)
    if tree is None:
        return
    for place, value in _assignments(tree):
        if isinstance(place, ast.Subscript) and (path := _path(place.value, owner)):
            yield path, _depends(value, path, tree, owner)


def _given_in(function: FunctionType) -> Iterator[tuple[str, ast.expr, ast.AST]]:
    """The attributes that one function sets, to what, and its source; none where there is no source."""
    tree, owner = _tree(function), _owner(function)
    if tree is None:
        return
    given = [(path, value) for place, value in _assignments(tree) if (path := _path(place, owner))]
    yield from ((path, value, tree) for path, value in (*given, *_registrations(tree, owner)))


def _tree(function: FunctionType) -> ast.AST | None:
    """The source of a function; None: there is none."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return None


def _owner(function: FunctionType) -> tuple[str, ...]:
    """What a method calls its instance."""
    return function.__code__.co_varnames[:1]


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
    """Does a value depend on what an attribute holds?"""
    return _comes_of(value, tree, lambda node: _path(node, owner) == path)


def _comes_of(value: ast.AST, tree: ast.AST, is_source: Callable[[ast.AST], bool]) -> bool:
    """Does a value depend on something, also by way of local names?"""
    names: set[str] = set()

    def mentions(part: ast.AST) -> bool:
        return any((isinstance(n, ast.Name) and n.id in names) or is_source(n) for n in _values_in(part))

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
