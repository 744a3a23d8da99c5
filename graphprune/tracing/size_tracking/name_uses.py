"""How the functions of a file use a built-in name, ``int`` or ``type``: may another type stand in its place?

It may where a function does no more than call it and ask ``isinstance`` or ``issubclass``. An argument such as
``dtype=int`` wants the type itself; so the name stays what it is where a function that may run gives one. Parameters
and local variables of the same name are something else.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import UnionType
from typing import NamedTuple

_ALWAYS = ""
"""Stands for the name of code that may run whatever is mentioned."""
_ANY = "*"
"""Stands for a name that is put together while a program runs."""
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_SCOPES = _FUNCTIONS | _COMPREHENSIONS | ast.ClassDef
_LEFT_WHERE_THEY_ARE = frozenset(
    "property setter staticmethod classmethod cached_property cache lru_cache no_grad inference_mode wraps".split()
)
"""Decorators that hand a function to nobody else."""
_MADE_BY = frozenset(("__class__", "cls", "type"))
"""Names by which an instance is made without naming its class."""
_REACH_ANYTHING = frozenset("globals locals vars dir eval exec getmembers __dict__ __getattribute__".split())
_NAME_GIVEN = {"getattr": slice(1, 2), "methodcaller": slice(1), "attrgetter": slice(None)}
"""What looks up a name that it is given, and which of its arguments that is."""
MAY_LOOK_UP = _REACH_ANYTHING | _NAME_GIVEN.keys()


class NameUses(NamedTuple):
    """How the functions of a file use a name.

    Attributes:
        called: is it called by any, or handed to ``isinstance`` or ``issubclass``?
        others: the names of the definitions that use it in another way.
        mentioned: the names that each definition mentions; nothing where ``others`` is empty.
    """

    called: bool
    others: frozenset[str]
    mentioned: Mapping[str, frozenset[str]]

    def allow_another(self, names: Iterable[str] | None) -> bool:
        """May another type stand for the name where what runs mentions ``names``? None: anything may run."""
        if not self.called or not self.others or names is None:
            return self.called and not self.others
        waiting, run = [_ALWAYS, *names], set[str]()
        while waiting:
            name = waiting.pop()
            if name not in run:
                run.add(name)
                waiting += self.mentioned.get(name, ())
        return _ANY not in run and run.isdisjoint(self.others)


_NOT_USED = NameUses(False, frozenset(), {})


@lru_cache(maxsize=1 << 8)
def uses_of_name(source: str, name: str) -> NameUses:
    """How the functions in a file's text use a name."""
    if re.search(rf"\b{name}\(|\({name},", source) is None:
        return _NOT_USED
    try:
        tree = ast.parse(source)
    except SyntaxError:  # the file was changed since
        return _NOT_USED
    defined = list(_definitions(tree))
    uses = [(key, *_uses_in(node, name)) for key, node in defined]
    others = frozenset(key for key, used, allowed in uses if not used <= allowed)
    return NameUses(any(used for _, used, _ in uses), others, _mentions(defined) if others else {})


def looks_up_computed(tree: ast.AST) -> bool:
    """Does code look up names that are not written in it, such as ``getattr(self, "act_" + kind)``?"""
    nodes = list(ast.walk(tree))
    written = {id(node.func) for node in nodes if isinstance(node, ast.Call) and _name_is_written(node)}
    named = ((node, _last_name(node)) for node in nodes)
    return any(name in _REACH_ANYTHING or (name in _NAME_GIVEN and id(node) not in written) for node, name in named)


def _name_is_written(call: ast.Call) -> bool:
    given = call.args[_NAME_GIVEN.get(_last_name(call.func), slice(0))]
    return bool(given) and all(isinstance(name, ast.Constant) for name in given)


def _last_name(node: ast.AST) -> str:
    return str(getattr(node, "attr", getattr(node, "id", _ALWAYS)))


def _definitions(holder: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What a file or a class defines, with the name by which it is reached."""
    for node in ast.iter_child_nodes(holder):
        if isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(node)
        elif isinstance(node, ast.ClassDef):
            yield from ((node.name, part) for part in (ast.Name("__init__", ast.Load()), *node.bases))
            yield from _definitions(node)
        elif isinstance(node, ast.stmt):
            yield from _defined_by(node)


def _defined_by(statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """What one statement defines. Of a call that is made while a file is imported, what it is given is kept."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        yield _reached_as(statement), statement
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from ((getattr(target, "id", _ALWAYS), statement) for target in targets)
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from ((one.asname, ast.Name(one.name, ast.Load())) for one in statement.names if one.asname)
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        yield from ((_ALWAYS, part) for part in (*statement.value.args, *statement.value.keywords))
    else:
        yield _ALWAYS, statement


def _reached_as(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The name of a function, unless the language or what a decorator hands it to may call it."""
    decorators = (d.func if isinstance(d, ast.Call) else d for d in function.decorator_list)
    handed = any(_last_name(d) not in _LEFT_WHERE_THEY_ARE for d in decorators)
    by_language = function.name.startswith("__") and function.name != "__init__"
    return _ALWAYS if handed or by_language else function.name


def _mentions(defined: Iterable[tuple[str, ast.AST]]) -> dict[str, frozenset[str]]:
    """The names, also of attributes and in text, that definitions mention."""
    found: dict[str, set[str]] = {name: {"__init__"} for name in _MADE_BY}
    for key, tree in defined:
        nodes = list(ast.walk(tree))
        names = set(map(_last_name, nodes))
        text = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
        functions = (node for node in nodes if isinstance(node, _FUNCTIONS))
        names |= {_ANY} if any(map(looks_up_computed, functions)) else set()
        found.setdefault(key, set()).update(names, filter(str.isidentifier, text))
    return {key: frozenset(names) for key, names in found.items()}


def _uses_in(definition: ast.AST, name: str) -> tuple[set[int], set[int]]:
    """Where functions of a definition read the global name, and all places where another type may stand."""
    inner = {id(node): node for scope in ast.walk(definition) for node in _run_in(scope, _FUNCTIONS)}
    read = {key for key, node in inner.items() if _is_read(node, name)}
    local = (scope for scope in ast.walk(definition) if _binds(scope, name)) if read else ()
    read -= {id(node) for scope in local for node in _run_in(scope, _FUNCTIONS | _COMPREHENSIONS)}
    return read, {id(node) for one in inner.values() for node in _allowed(one)} if read else set()


def _is_read(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)


def _run_in(scope: ast.AST, kinds: type | UnionType) -> Iterator[ast.AST]:
    """What runs in the scope of a function, or of a comprehension, when it is called; of other nodes nothing."""
    if isinstance(scope, kinds):
        for part in _body(scope):
            yield from ast.walk(part)


def _body(scope: ast.AST) -> list[ast.AST]:
    """The parts of a function, or of a comprehension, in which its names are known."""
    if isinstance(scope, _COMPREHENSIONS):
        first = scope.generators[0]
        return [part for part in ast.iter_child_nodes(scope) if part is not first] + [first.target, *first.ifs]
    body = getattr(scope, "body", [])
    return body if isinstance(body, list) else [body]


def _binds(scope: ast.AST, name: str) -> bool:
    """Is a name one of a function's, or of a comprehension's, own?"""
    if not isinstance(scope, _FUNCTIONS | _COMPREHENSIONS):
        return False
    own = list(_own_nodes(_body(scope)))
    if any(isinstance(node, ast.Global) and name in node.names for node in own):
        return False
    arguments = ast.iter_child_nodes(scope.args) if isinstance(scope, _FUNCTIONS) else ()
    return any(name in _bound_by(node) for node in (*arguments, *own))


def _own_nodes(parts: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of a scope without those of the scopes in it."""
    for part in parts:
        yield part
        if not isinstance(part, _SCOPES):
            yield from _own_nodes(ast.iter_child_nodes(part))


def _bound_by(node: ast.AST) -> tuple[str | None, ...]:
    """The names that one node gives something to."""
    if isinstance(node, ast.Name):
        return () if isinstance(node.ctx, ast.Load) else (node.id,)
    if isinstance(node, ast.arg):
        return (node.arg,)
    if isinstance(node, ast.alias):
        return (node.asname or node.name.partition(".")[0],)
    named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler | ast.MatchAs | ast.MatchStar
    return (node.name,) if isinstance(node, named) else ()


def _allowed(node: ast.AST) -> Iterator[ast.AST]:
    """The names in places where another type may stand, as in ``add_argument("--epochs", type=int)``."""
    if isinstance(node, ast.Call):
        yield node.func
        yield from (given.value for given in node.keywords if given.arg == "type")
        if node.args and isinstance(node.func, ast.Name) and node.func.id in ("map", "isinstance", "issubclass"):
            yield from ast.walk(node.args[0] if node.func.id == "map" else node.args[-1])
    elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        yield from ast.walk(node.annotation)
    elif isinstance(node, ast.FunctionDef) and node.returns is not None:
        yield from ast.walk(node.returns)
