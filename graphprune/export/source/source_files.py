"""Source files as their authors wrote them: where functions, classes, imports and assignments stand.

Source is parsed, never run.
"""

from __future__ import annotations

import ast
import linecache
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias

from graphprune.utils.text_lines import lines_of

FunctionNode: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Edit:
    """Replace the text between two places (line from 1, column in bytes) by another."""

    start: tuple[int, int]
    stop: tuple[int, int]
    text: str

    @staticmethod
    def of(node: Any, text: str) -> Edit:
        """Replace a node of the syntax tree."""
        return Edit((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset), text)


@dataclass
class SourceFile:
    """One file.

    Attributes:
        name: its path, or what Python calls the cell of a notebook.
        lines: with their line ends.
        functions: by first line, decorators included.
        classes: by qualified name; of several, in order.
        imports: by the name that they define at the top level, the statement's (module, name or None, level).
        assignments: at the top level, by name, the last one.
    """

    name: str
    lines: list[str]
    tree: ast.Module
    functions: dict[int, FunctionNode] = field(default_factory=dict)
    classes: dict[str, list[ast.ClassDef]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None, int]] = field(default_factory=dict)
    assignments: dict[str, ast.Assign | ast.AnnAssign] = field(default_factory=dict)

    def cut(self, node: Any, edits: Iterable[Edit] = (), indent: int = 0) -> str:
        """The source of a statement with some parts replaced, moved to another indentation.

        Lines within strings stay where they are.
        """
        first, last = first_line(node), node.end_lineno
        lines = [line.encode() for line in self.lines[first - 1 : last]]
        ends_with = lines[-1][: node.end_col_offset]
        comment = lines[-1][node.end_col_offset :].strip()
        lines[-1] = ends_with + (b"  " + comment if comment.startswith(b"#") else b"")
        fixed = _within_strings(node)
        marked = _edited(lines, [e for e in edits if first <= e.start[0] <= last], first)
        moved = [line if number in fixed else _moved(line, node.col_offset, indent) for number, line in marked]
        return b"\n".join(moved).decode().rstrip()

    def text(self, node: Any) -> str:
        """The source of an expression."""
        return ast.get_source_segment("".join(self.lines), node) or ast.unparse(node)


def first_line(node: Any) -> int:
    """The first line of a statement, decorators included."""
    return min([int(node.lineno), *(int(d.lineno) for d in getattr(node, "decorator_list", ()))])


def _edited(lines: list[bytes], edits: list[Edit], first: int) -> list[tuple[int, bytes]]:
    """The lines with their numbers; those that an edit empties are left out."""
    marked = [(first + i, line.rstrip(b"\r\n")) for i, line in enumerate(lines)]
    for edit in sorted(edits, key=lambda e: e.start, reverse=True):
        start, stop = edit.start[0] - first, edit.stop[0] - first
        text = marked[start][1][: edit.start[1]] + edit.text.encode() + marked[stop][1][edit.stop[1] :]
        marked[start : stop + 1] = [(edit.start[0], text)] if text.strip() else []
    return marked


_LINT = re.compile(rb"\s*# (noqa|type: ignore|pyre-|pylint:|mypy:).*$")
"""Comments for linters and type checkers."""


def _moved(line: bytes, before: int, after: int) -> bytes:
    line = _LINT.sub(b"", line)
    if not line.strip():
        return b""
    depth = len(line) - len(line.lstrip())
    return b" " * max(0, depth - before + after) + line.lstrip()


def _within_strings(node: ast.AST) -> set[int]:
    """The lines that begin within a string that is no docstring's first line."""
    strings = (n for n in ast.walk(node) if isinstance(n, ast.JoinedStr | ast.Constant))
    texts = (n for n in strings if isinstance(n, ast.JoinedStr) or isinstance(n.value, str | bytes))
    docs = {id(n.body[0].value) for n in ast.walk(node) if _has_docstring(n)}  # type: ignore[attr-defined]
    return {line for n in texts if id(n) not in docs for line in range(n.lineno + 1, (n.end_lineno or n.lineno) + 1)}


def _has_docstring(node: ast.AST) -> bool:
    return isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and ast.get_docstring(node, clean=False) is not None


# ---------------------------------------------------------------- reading


def source_file(name: str, module_globals: Mapping[str, Any] | None = None) -> SourceFile | None:
    """The file of this name, if its source can be had; also the cells of notebooks, which are no files."""
    linecache.checkcache(name)
    lines = linecache.getlines(name, dict(module_globals) if module_globals is not None else None)
    return _parsed(name, "".join(lines)) if lines else None


def module_file(module_name: str) -> SourceFile | None:
    """The source of an imported module."""
    name = getattr(sys.modules.get(module_name), "__file__", None)
    return source_file(name) if name and name.endswith(".py") else None


@lru_cache(maxsize=256)
def _parsed(name: str, text: str) -> SourceFile | None:
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a cell with commands of the notebook
        return None
    found = SourceFile(name, lines_of(text, ends=True), tree)
    _index(found, tree, "")
    for statement in _top_level(tree.body):
        _note(found, statement)
    return found


def _index(found: SourceFile, node: ast.AST, prefix: str) -> None:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, _FUNCTIONS):
            found.functions[first_line(child)] = child
            inner = f"{prefix}{child.name}.<locals>."
        elif isinstance(child, ast.ClassDef):
            found.classes.setdefault(prefix + child.name, []).append(child)
            inner = f"{prefix}{child.name}."
        _index(found, child, inner)


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, also those under a condition or in a try block."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            handlers = getattr(statement, "handlers", [])
            yield from _top_level([*(s for h in handlers for s in h.body), *statement.orelse, *statement.body])
        else:
            yield statement


def _note(found: SourceFile, statement: ast.stmt) -> None:
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            name = alias.asname or alias.name.partition(".")[0]
            found.imports[name] = (alias.name if alias.asname else name, None, 0)
    elif isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            found.imports[alias.asname or alias.name] = (statement.module or "", alias.name, statement.level)
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            names = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            found.assignments.update({n.id: statement for n in names if isinstance(n, ast.Name)})
    elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        found.assignments[statement.target.id] = statement
