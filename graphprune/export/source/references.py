"""What a piece of the author's source refers to: names of its module, attributes, annotations and imports."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_ATTRIBUTE_READERS = ("getattr", "hasattr", "setattr", "delattr")

_TELEMETRY = "_log_api_usage_once"
"""The function by which torchvision counts what is used."""

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass
class References:
    """What was found in one statement.

    Attributes:
        names: expressions that begin with a name, the longest chains of attributes (``nn.init.zeros_``).
        annotations: with what they annotate.
        attributes: the names of all attributes that are read or set.
        patterns: regular expressions of attribute names that are put together by the program.
        imports: import statements within functions.
        guarded: those of them that may fail, because what they raise is caught.
        telemetry: statements that are left out.
        globals_set: global names that are assigned.
    """

    names: list[ast.expr] = field(default_factory=list)
    annotations: list[tuple[ast.AST, ast.expr]] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)
    imports: list[ast.Import | ast.ImportFrom] = field(default_factory=list)
    guarded: list[ast.Import | ast.ImportFrom] = field(default_factory=list)
    telemetry: list[ast.stmt] = field(default_factory=list)
    globals_set: set[str] = field(default_factory=set)


def references_in(*roots: ast.AST) -> References:
    """Everything that statements and expressions refer to."""
    found = References()
    visitor = _Visitor(found)
    for root in roots:
        visitor.visit(root)
    return found


def root_of(chain: ast.expr) -> ast.Name | None:
    """The name that a chain of attributes begins with."""
    while isinstance(chain, ast.Attribute):
        chain = chain.value
    return chain if isinstance(chain, ast.Name) else None


def links_of(chain: ast.expr) -> list[ast.expr]:
    """The name, the name with its first attribute, ..., the whole chain."""
    links = [chain]
    while isinstance(chain, ast.Attribute):
        chain = chain.value
        links.insert(0, chain)
    return links


def is_builtin(name: str) -> bool:
    """Is this one of Python's own names?"""
    return hasattr(builtins, name)


class _Visitor(ast.NodeVisitor):
    def __init__(self, found: References) -> None:
        self._found = found
        self._guarded = False

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.stmt) and _counts_usage(node):
            self._found.telemetry.append(node)
            return
        super().visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        self._found.names.append(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._found.attributes.add(node.attr)
        if root_of(node) is None:
            self.generic_visit(node)
            return
        self._found.attributes.update(link.attr for link in links_of(node) if isinstance(link, ast.Attribute))
        self._found.names.append(node)
        if node.attr == "__dict__":
            self._found.patterns.add(".*")

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in _ATTRIBUTE_READERS and len(node.args) > 1:
            self._note_attribute(node.args[1])
        if name == "vars":
            self._found.patterns.add(".*")
        self.generic_visit(node)

    def _note_attribute(self, name: ast.expr) -> None:
        if isinstance(name, ast.Constant):
            self._found.attributes.add(str(name.value))
        else:
            self._found.patterns.add(pattern_of(name))

    def visit_arg(self, node: ast.arg) -> None:
        if node.annotation is not None:
            self._found.annotations.append((node, node.annotation))

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._found.annotations.append((node, node.annotation))
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_Try(self, node: ast.Try) -> None:
        with self._guard(self._guarded or any(map(_catches_imports, node.handlers))):
            self._visit_any(node.body)
        self._visit_any([*node.handlers, *node.orelse, *node.finalbody])

    @contextmanager
    def _guard(self, guarded: bool) -> Iterator[None]:
        before, self._guarded = self._guarded, guarded
        yield
        self._guarded = before

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        with self._guard(False):
            self._visit_function(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for name, value in ast.iter_fields(node):
            if name == "returns" and value is not None:
                self._found.annotations.append((node, value))
            elif name != "decorator_list" or not isinstance(node, _SCOPES):
                self._visit_any(value)
        for decorator in node.decorator_list:
            self.visit(decorator)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _visit_any(self, value: Any) -> None:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                self.visit(item)

    def visit_Global(self, node: ast.Global) -> None:
        self._found.globals_set.update(node.names)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        (self._found.guarded if self._guarded else self._found.imports).append(node)

    visit_ImportFrom = visit_Import


def _catches_imports(handler: ast.ExceptHandler) -> bool:
    """Does it catch what an import raises of which there is no module?"""
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = ("ModuleNotFoundError", "ImportError", "Exception", "BaseException")
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in names) for kind in kinds)


def pattern_of(name: ast.expr) -> str:
    """A regular expression of the attribute names that an expression may make: ``f"layer{i}"`` is ``layer.*``."""
    if isinstance(name, ast.Constant):
        return _escaped(str(name.value))
    if isinstance(name, ast.JoinedStr):
        return "".join(pattern_of(v) if isinstance(v, ast.Constant) else ".*" for v in name.values)
    if isinstance(name, ast.BinOp) and isinstance(name.op, ast.Add):
        return pattern_of(name.left) + pattern_of(name.right)
    return ".*"


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else f"\\{c}" for c in text)


def _counts_usage(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return not node.orelse and all(map(_counts_usage, node.body))
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == _TELEMETRY


def names_bound_in(node: ast.AST) -> Iterator[str]:
    """Names that a class body, a function or an expression binds itself."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        elif isinstance(child, ast.arg):
            yield child.arg
        elif isinstance(child, ast.FunctionDef | ast.ClassDef) and child is not node:
            yield child.name
