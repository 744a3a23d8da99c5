"""Copy the author's functions, classes and constants, with everything that they refer to, into one file."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from graphprune.errors import ExportError
from graphprune.export.source.names import Names, imported_from, is_importable
from graphprune.export.source.references import (
    References,
    is_builtin,
    links_of,
    names_bound_in,
    references_in,
    root_of,
)
from graphprune.export.source.source_files import Edit, FunctionNode, SourceFile, module_file, source_file
from graphprune.utils.held import contents, global_names

OTHER_EXPORTS = (
    "graphprune.export_loader writes a loader that needs the library of the model as well, and "
    "graphprune.save keeps the model as a bundle"
)

_JIT = ("torch.jit.", "torch.fx.wrap")
"""Decorators that say something to TorchScript and symbolic tracing only."""

_NAMESPACES = ("aten", "prims", "higher_order")
"""Of operators that torch brings along."""

_NO_OPS = {("typing_extensions", "override"), ("typing_extensions", "final")}


@dataclass
class Definition:
    """A top-level statement of the file: its text, and the names of those that it refers to."""

    name: str
    text: str = ""
    needs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scope:
    """Where a piece of source stands: its file, what its names mean, and how messages call it."""

    file: SourceFile
    values: Mapping[str, Any]
    where: str
    names: frozenset[str] | None = None
    """The global names that it reads; None: all that ``values`` has."""
    local: frozenset[str] = frozenset()
    """The names that it binds itself."""


def unwritable(what: str, where: str, advice: str = "") -> ExportError:
    """The error for what cannot be written with torch alone."""
    return ExportError(
        f"slim: {where} {what}, which a file that needs torch alone cannot hold",
        where=where,
        found=f"{where} {what}",
        needed="modules, functions and values that can be written with torch and Python alone",
        do="; ".join(filter(None, (advice, OTHER_EXPORTS))),
    )


def plain_function(value: Any) -> FunctionType | None:
    """The function that decorators were put around, or None for what is no function written in Python."""
    value = getattr(value, "_torchdynamo_inline", value)
    if not callable(value) or isinstance(value, type):
        return None
    found = inspect.unwrap(value)
    return found if isinstance(found, FunctionType) else None


class Collector:
    """The definitions that a file needs, by name, in the order in which they were found.

    Attributes:
        names: of the file.
        definitions: functions, classes and constants.
        read: the names of attributes that the copied source reads or sets.
        patterns: regular expressions of such names.
        sources: the modules that source was copied from.
    """

    def __init__(self, names: Names, module_class: Callable[[type, list[str]], str | None]) -> None:
        """``module_class``: the name of a class whose constructor is written anew, or None; it notes what it needs."""
        self.names = names
        self.definitions: dict[str, Definition] = {}
        self.read: set[str] = set()
        self.patterns: set[str] = set()
        self.sources: dict[str, None] = {}
        self._module_class = module_class
        self._alive: list[Any] = []

    def reads(self, name: str) -> bool:
        """Does the copied source read or set an attribute of this name?"""
        return name in self.read or any(re.fullmatch(pattern, name) for pattern in self.patterns)

    def has(self, value: Any) -> bool:
        """Does the file define this function or class?"""
        function = plain_function(value)
        return self.names.has(("object", id(value if function is None else function)))

    # ------------------------------------------------------------ functions

    def function_text(self, value: Any, where: str, needs: list[str], indent: int, name: str = "") -> str:
        """The source of a function, with its references resolved. ``name``: another name for it.

        Raises:
            ExportError: there is no source, or it refers to what cannot be written.
        """
        function = plain_function(value)
        if function is None:
            raise unwritable(f"is {_kind(value)} without source in Python", where)
        file, node = self._source_of(function, where)
        code, values = function.__code__, _visible(function)
        scope = Scope(file, values, where, global_names(code) | frozenset(code.co_freevars))
        edits = [*self._decorator_edits(node, scope), *self.edits(references_in(node), scope, needs, node)]
        if name and name != node.name:
            edits.append(_renamed(file, node, name))
        self.note_source(function.__module__)
        return file.cut(node, edits, indent)

    def _source_of(self, function: FunctionType, where: str) -> tuple[SourceFile, FunctionNode]:
        code = function.__code__
        file = source_file(code.co_filename, function.__globals__)
        node = file.functions.get(code.co_firstlineno) if file is not None else None
        if file is None or node is None or node.name != code.co_name:
            raise ExportError(
                f"slim: the source of {where} is not there ({code.co_filename}, line {code.co_firstlineno})",
                where=f"{where}\n{code.co_filename}:{code.co_firstlineno}",
                found="a definition that was typed at a prompt, made by a program, or has changed since it was "
                "imported",
                needed="its source, in a file",
                do=f"define it in a file, import it from there, and export again; otherwise {OTHER_EXPORTS}",
            )
        return file, node

    def _decorator_edits(self, node: FunctionNode, scope: Scope) -> list[Edit]:
        return [
            Edit((d.lineno, 0), _end_of_line(scope.file, d), "")
            for d in node.decorator_list
            if self._is_left_out(d, scope)
        ]

    def _is_left_out(self, decorator: ast.expr, scope: Scope) -> bool:
        chain = decorator.func if isinstance(decorator, ast.Call) else decorator
        root = root_of(chain)
        if root is None or root.id not in scope.values:
            return False
        value = scope.values[root.id]
        text = scope.file.text(chain)
        if isinstance(value, ModuleType):
            text = value.__name__ + text[len(root.id) :]
        found = scope.file.imports.get(root.id, ("", None, 0))
        return text.startswith(_JIT) or text == "torch.compile" or found[:2] in _NO_OPS

    # ------------------------------------------------------------ references

    def edits(self, found: References, scope: Scope, needs: list[str], node: ast.AST) -> list[Edit]:
        """Write what source refers to under the names of this file, and define or import it."""
        self._check_imports(found, scope)
        if found.globals_set:
            name = min(found.globals_set)
            raise unwritable(f"assigns the global name {name}", scope.where, "make it an attribute of the module")
        dropped = [d for d in getattr(node, "decorator_list", ()) if self._is_left_out(d, scope)]
        unseen = {id(child) for d in dropped for child in ast.walk(d)}
        self.read |= found.attributes
        self.patterns |= found.patterns
        outside = {id(n) for d in _outside_of_body(node) for n in ast.walk(d)}
        edits = [Edit.of(statement, "") for statement in found.telemetry]
        edits += [_failing(statement) for statement in found.guarded if _imports_of_others(statement)]
        scope = replace(scope, local=frozenset(names_bound_in(node)))
        for chain in found.names:
            root = root_of(chain)
            if root is None or id(root) in unseen or not isinstance(root.ctx, ast.Load):
                continue
            if id(root) in outside or scope.names is None or root.id in scope.names:
                edits += self._not_hidden(self._reference(chain, scope, needs), scope)
        return edits + [e for owner, a in found.annotations for e in self._annotation(owner, a, scope, needs)]

    def _check_imports(self, found: References, scope: Scope) -> None:
        relative = [statement for statement in found.guarded if getattr(statement, "level", 0)]
        for statement in (*found.imports, *relative):
            if _imports_of_others(statement):
                text = scope.file.text(statement)
                raise unwritable(f"has {text!r} in line {statement.lineno} of {scope.file.name}", scope.where)

    def _reference(self, chain: ast.expr, scope: Scope, needs: list[str]) -> list[Edit]:
        links = links_of(chain)
        root = links[0]
        assert isinstance(root, ast.Name)
        if root.id not in scope.values:
            return []  # a builtin, or nothing yet
        value, link = scope.values[root.id], links[0]
        for longer in links[1:]:
            if not isinstance(value, ModuleType) or is_importable(value.__name__):
                break
            file = module_file(value.__name__)
            scope = replace(scope, file=file, values=vars(value)) if file is not None else scope
            value, link = getattr(value, longer.attr), longer  # type: ignore[attr-defined]
        self._check_operators(links, value, scope)
        name = link.attr if isinstance(link, ast.Attribute) else root.id
        text = self.resolve(name, value, scope, needs)
        return [] if text == ast.unparse(link) else [Edit.of(link, text)]

    def _not_hidden(self, edits: list[Edit], scope: Scope) -> list[Edit]:
        """Names that are put into a function must not be those of its variables."""
        for edit in edits:
            root = edit.text.partition(".")[0]
            if root in scope.local:
                raise unwritable(
                    f"has a variable {root}, which is a name that its file needs", scope.where, "rename it"
                )
        return edits

    def _check_operators(self, links: list[ast.expr], value: Any, scope: Scope) -> None:
        """Operators that other libraries register with torch are not there without them."""
        parts = [link.attr for link in links if isinstance(link, ast.Attribute)]
        is_operator = getattr(value, "__name__", "") == "torch" and parts[:1] == ["ops"] and len(parts) > 1
        if is_operator and parts[1] not in _NAMESPACES:
            raise unwritable(f"calls torch.ops.{'.'.join(parts[1:])}, an operator of another library", scope.where)

    def resolve(self, name: str, value: Any, scope: Scope, needs: list[str]) -> str:
        """How the file writes what the author calls ``name``."""
        if name in ("__name__", "__class__"):
            return name
        if isinstance(value, ModuleType):
            if is_importable(value.__name__):
                return self.names.module(value, name, scope.local)
            raise unwritable(f"uses {value.__name__}", scope.where)
        imported = imported_from(scope.file, name)
        if imported is not None and imported[1] is not None:
            return self._imported(imported[0], imported[1], value, name)
        if is_of_torch(value):
            return self.names.torch_object(value)
        self._alive.append(value)
        if plain_function(value) is not None and not isinstance(value, nn.Module):
            return self.define_function(value, scope.where, needs)
        if isinstance(value, type):
            return self.define_class(value, scope.where, needs)
        return self.define_constant(name, value, scope, needs)

    def _imported(self, module: str, member: str, value: Any, name: str) -> str:
        self._alive.append(value)
        return self.names.member(module, member, name)

    def _annotation(self, owner: ast.AST, annotation: ast.expr, scope: Scope, needs: list[str]) -> list[Edit]:
        """Resolve the names of an annotation, or leave it out if it has others than those of torch and Python."""
        parsed = annotation
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                parsed = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                return _without_annotation(owner, annotation, scope.file)
        roots = [n for n in ast.walk(parsed) if isinstance(n, ast.Name)]
        if not all(self._is_known(root.id, scope) for root in roots):
            return _without_annotation(owner, annotation, scope.file)
        chains = [n for n in references_in(parsed).names if root_of(n).id in scope.values]  # type: ignore[union-attr]
        edits = [e for chain in chains for e in self._reference(chain, scope, needs if parsed is annotation else [])]
        if parsed is not annotation:
            return [] if not edits else _without_annotation(owner, annotation, scope.file)
        return edits

    def _is_known(self, name: str, scope: Scope) -> bool:
        if name not in scope.values:
            return is_builtin(name)
        value = scope.values[name]
        if isinstance(value, ModuleType):
            return is_importable(value.__name__)
        return imported_from(scope.file, name) is not None or is_of_torch(value)

    # ------------------------------------------------------------ definitions

    def define_function(self, value: Any, where: str, needs: list[str]) -> str:
        """Copy a function; its name in the file."""
        function = plain_function(value)
        assert function is not None
        if function.__name__ == "<lambda>":
            raise unwritable(f"uses a lambda ({_place(function)})", where, "write it as a function with a name")
        made, new = self._definition(function.__name__, ("object", id(function)))
        self._alive.append(function)
        needs.append(made.name)
        if new:
            where = f"{function.__qualname__}, which {where} uses," if " uses," not in where else where
            made.text = self.function_text(value, where, made.needs, 0, made.name)
        return made.name

    def define_class(self, kind: type, where: str, needs: list[str]) -> str:
        """Copy a class that is no module, or refer to one whose constructor is written anew; its name in the file."""
        name = self._module_class(kind, needs)
        if name is not None:
            return name
        file, node = class_source(kind)
        if file is None or node is None:
            return self._define_unnamed_class(kind, where, needs)
        made, new = self._definition(kind.__name__, ("object", id(kind)))
        needs.append(made.name)
        if new:
            self.note_source(kind.__module__)
            made.text = self._class_text(kind, file, node, made)
        return made.name

    def _class_text(self, kind: type, file: SourceFile, node: ast.ClassDef, made: Definition) -> str:
        values = {**vars(sys.modules.get(kind.__module__, ModuleType(""))), **_globals_of(kind)}
        bound = set(names_bound_in(node))
        scope = Scope(file, {k: v for k, v in values.items() if k not in bound or k == node.name}, kind.__qualname__)
        found = references_in(node)
        fields = [(owner, a) for owner, a in found.annotations if isinstance(owner, ast.AnnAssign)]
        found.annotations = [pair for pair in found.annotations if pair not in fields]
        edits = self.edits(found, scope, made.needs, node)
        for _, annotation in fields:  # of a dataclass: it has to stay
            roots = [n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)]
            known = all(self._is_known(r, scope) or isinstance(scope.values.get(r), type) for r in roots)
            chains = references_in(annotation).names if known else []
            edits += [e for c in chains for e in self._reference(c, scope, made.needs)]
            edits += [] if known else [Edit.of(annotation, "object")]
        if made.name != node.name:
            edits.append(_renamed(file, node, made.name))
        return file.cut(node, edits)

    def _define_unnamed_class(self, kind: type, where: str, needs: list[str]) -> str:
        """A named tuple or an enumeration that is made by a call stands in an assignment."""
        file = module_file(kind.__module__)
        if file is None or kind.__name__ not in file.assignments:
            raise unwritable(f"uses the class {kind.__module__}.{kind.__qualname__}, whose source is not there", where)
        scope = Scope(file, vars(sys.modules[kind.__module__]), where)
        return self.define_constant(kind.__name__, kind, scope, needs)

    def define_constant(self, name: str, value: Any, scope: Scope, needs: list[str]) -> str:
        """Copy the assignment of a global name, or write its value; its name in the file."""
        statement = scope.file.assignments.get(name)
        home = scope
        if statement is None and (entry := scope.file.imports.get(name)) is not None:
            home, name, statement = self._imported_constant(entry, name, scope)
        key: Hashable = ("object", id(value)) if isinstance(value, type) else ("constant", home.file.name, name)
        made, new = self._definition(name, key)
        needs.append(made.name)
        if new:
            made.text = f"{made.name} = {self._constant_text(statement, value, home, made)}"
        return made.name

    def _imported_constant(
        self, entry: tuple[str, str | None, int], name: str, scope: Scope
    ) -> tuple[Scope, str, ast.Assign | ast.AnnAssign | None]:
        """Where the user's own module that a constant is imported from defines it."""
        package = str(scope.values.get("__package__") or "").split(".")
        parent = ".".join(package[: len(package) - entry[2] + 1]) if entry[2] else ""
        module = ".".join(filter(None, (parent, entry[0])))
        file, original = module_file(module), entry[1] or name
        if file is None:
            return scope, name, None
        home = Scope(file, vars(sys.modules[module]), scope.where)
        return home, original, file.assignments.get(original)

    def _constant_text(self, statement: Any, value: Any, scope: Scope, made: Definition) -> str:
        simple = literal_text(value)
        if statement is None or (isinstance(statement, ast.Assign) and not isinstance(statement.targets[0], ast.Name)):
            if simple is None:
                raise unwritable(f"uses {scope.values.get('__name__', '')}.{made.name}", scope.where)
            return simple
        if simple is not None and not _evaluates_to(statement.value, value) and _is_changed(statement.value, value):
            return simple
        inner = Scope(scope.file, scope.values, f"{made.name}, which {scope.where} uses,")
        edits = self.edits(references_in(statement.value), inner, made.needs, statement.value)
        self.note_source(str(scope.values.get("__name__", "")))
        return _expression_text(scope.file, statement.value, edits)

    def _definition(self, preferred: str, key: Hashable) -> tuple[Definition, bool]:
        name = self.names.claim(preferred, key)
        new = name not in self.definitions
        return self.definitions.setdefault(name, Definition(name)), new

    def note_source(self, module: str) -> None:
        """Note that source was copied from a module."""
        if not module.startswith("graphprune"):
            self.sources.setdefault(module)


def is_of_torch(value: Any) -> bool:
    """Is this a class or function that can be imported from torch or from Python?"""
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not is_importable(module):
        return False
    return getattr(sys.modules.get(module), name, None) is value


def class_source(kind: type) -> tuple[SourceFile | None, ast.ClassDef | None]:
    """The file and the statement that define a class, if there is source."""
    methods = [f for value in vars(kind).values() for f in functions_of(value) if _is_written(f, kind)]
    first = methods[0] if methods else None
    file = source_file(first.__code__.co_filename, first.__globals__) if first else module_file(kind.__module__)
    nodes = file.classes.get(kind.__qualname__, []) if file is not None else []
    lines = {m.__code__.co_firstlineno for m in methods}
    fitting = [n for n in nodes if all(n.lineno <= line <= (n.end_lineno or 0) for line in lines)]
    return file, (fitting or nodes or [None])[-1]  # type: ignore[list-item]


def _is_written(function: FunctionType, kind: type) -> bool:
    """Was it written with the class, and not made by a decorator such as ``dataclass``?"""
    return function.__module__ == kind.__module__ and function.__code__.co_filename != "<string>"


def functions_of(member: Any) -> list[FunctionType]:
    """The functions of a method, property, static or class method."""
    if isinstance(member, property):
        found = (member.fget, member.fset, member.fdel)
    elif isinstance(member, staticmethod | classmethod):
        found = (member.__func__, None, None)
    else:
        found = (getattr(member, "func", None) if type(member).__name__ == "cached_property" else member, None, None)
    functions = (plain_function(f) for f in found if f is not None)
    return [f for f in functions if f is not None]


def literal_text(value: Any) -> str | None:
    """The text of numbers, strings, and tuples, lists, sets and dictionaries of them; None for anything else."""
    try:
        text = repr(value)
        return text if _same(ast.literal_eval(text), value) else None
    except (ValueError, SyntaxError, TypeError, RecursionError):
        return None


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _evaluates_to(node: ast.expr, value: Any) -> bool:
    try:
        return _same(ast.literal_eval(node), value)
    except (ValueError, SyntaxError, TypeError):
        return False


def _is_changed(node: ast.expr, value: Any) -> bool:
    """Was a constant given another value, or computed: is its value simpler than its source?"""
    return not references_in(node).names or isinstance(value, int | float | str)


def _visible(function: FunctionType) -> dict[str, Any]:
    """What the names of a function mean: globals, and what its closure holds."""
    closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {**function.__globals__, **{name: v for name, cell in closure for v in contents(cell)}}


def _globals_of(kind: type) -> dict[str, Any]:
    for member in vars(kind).values():
        for function in functions_of(member):
            if function.__module__ == kind.__module__:
                return _visible(function)
    return {}


def _outside_of_body(node: ast.AST) -> Iterable[ast.AST]:
    """The parts of a function that run when it is defined."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    yield from node.decorator_list
    yield from node.args.defaults
    yield from (default for default in node.args.kw_defaults if default is not None)


def _end_of_line(file: SourceFile, node: ast.expr) -> tuple[int, int]:
    line = node.end_lineno or node.lineno
    return line, len(file.lines[line - 1].rstrip("\r\n").encode())


def _renamed(file: SourceFile, node: FunctionNode | ast.ClassDef, name: str) -> Edit:
    line = file.lines[node.lineno - 1].encode()
    column = line.index(node.name.encode(), node.col_offset + len("def "))
    return Edit((node.lineno, column), (node.lineno, column + len(node.name.encode())), name)


def _imports_of_others(statement: ast.Import | ast.ImportFrom) -> bool:
    """Does an import name a module that is neither Python's nor torch's?"""
    of_file = isinstance(statement, ast.ImportFrom)
    modules = [statement.module or ""] if of_file else [a.name for a in statement.names]  # type: ignore[union-attr]
    return bool(getattr(statement, "level", 0)) or not all(map(is_importable, modules))


def _failing(statement: ast.Import | ast.ImportFrom) -> Edit:
    """In place of an import whose failure is caught, what it raises where there is no such module."""
    text = f"not imported: {ast.unparse(statement)}"
    return Edit.of(statement, f"raise ModuleNotFoundError({text!r})")


def _without_annotation(owner: Any, annotation: ast.expr, file: SourceFile) -> list[Edit]:
    stop = annotation.end_lineno or annotation.lineno, annotation.end_col_offset or 0
    if isinstance(owner, ast.arg):
        return [Edit((owner.lineno, owner.col_offset + len(owner.arg.encode())), stop, "")]
    if isinstance(owner, ast.AnnAssign):
        if owner.value is None:
            return [Edit.of(owner, "")]
        return [Edit((owner.target.end_lineno or 0, owner.target.end_col_offset or 0), stop, "")]
    line = file.lines[annotation.lineno - 1].encode()[: annotation.col_offset]
    start = line.rfind(b"->")
    return [Edit((annotation.lineno, len(line[:start].rstrip())), stop, "")] if start >= 0 else []


def _expression_text(file: SourceFile, node: ast.expr, edits: list[Edit]) -> str:
    """The source of an expression of an assignment, moved to the left margin."""
    statement = ast.Expr(node)
    ast.copy_location(statement, node)
    lines = file.cut(statement, edits).split("\n")
    first = file.lines[node.lineno - 1].encode()[: node.col_offset].decode()
    return "\n".join([lines[0].lstrip()[len(first.lstrip()) :], *lines[1:]])


def _place(function: FunctionType) -> str:
    return f"{function.__code__.co_filename}, line {function.__code__.co_firstlineno}"


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeio' else 'a'} {name}"
