"""Literals in the user's source: a size that is written down there, as it is written, and what to write instead.

Source is parsed, never run. Where there is none (a prompt), or Python does not tell columns (before 3.11), the reason
gives the number alone.
"""

from __future__ import annotations

import ast
import linecache
import operator
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from types import CodeType

from torch import fx

from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.tracing.places import Place
from graphprune.tracing.sizes import OPERATORS, Line, SizeUse
from graphprune.utils.arrays import Shape

Span = tuple[int, int, int, int]
"""First line, last line, first column, column after the last; columns count bytes, lines from 1."""


_LONGEST = 80
"""How many characters of an expression are shown."""


@dataclass(frozen=True)
class UsedSize:
    """How a size is used: ``dim`` of a tensor of shape ``out``, made of one of shape ``source`` (None: not known).

    ``flattens``: a view that makes one dimension of all but the first.
    """

    dim: int | None = None
    out: Shape = ()
    source: Shape | None = None
    flattens: bool = False


NOT_USED = UsedSize()
"""The size was only compared."""


def used_size(use: SizeUse) -> UsedSize:
    """What a size of the log was used for."""
    made = use.node.args[0] if use.node.target is operator.getitem else use.node
    source = made.args[0] if isinstance(made, fx.Node) and made.args and not use.prefix else None
    before = tuple(source.meta.get("shape", ())) if isinstance(source, fx.Node) else ()
    after = tuple(use.node.meta["shape"])
    flattens = has_trait(use.node.target, Trait.RESHAPES) and len(after) == 2 < len(before) and before[0] == after[0]
    return UsedSize(use.dim if isinstance(use.dim, int) else None, after, before or None, flattens)


def literal_reason(size: int, line: Line | None, use: UsedSize) -> tuple[str, Line | None]:
    """Why a size cannot change that the program gives as a number, and the line on which the number is written.

    Args:
        size: the number; ``-size`` is looked for too.
        line: where it was used; a :class:`~graphprune.tracing.places.Place` knows which expression did so.
        use: what it was used for.
    """
    running = list(_running(line))
    for file, expression in running:
        literal = _find(expression, size) if expression is not None else None
        if expression is not None and literal is not None:
            written, whole = _text(file, literal), _text(file, expression)
            within = f"in {whole}" if written.lstrip("-") == str(size) else f"{written} in {whole}"
            text = f"the size {size} is a literal ({within}); {_advice(expression, file, size, use)}"
            return text, (file, literal.lineno)
    file, expression = running[0] if running else ("", None)
    if expression is None:
        return f"the size {size} is a literal; {_flattened('x') if use.flattens else _READ}", line
    advice = _advice(expression, file, size, use) if use.flattens or isinstance(expression, ast.Compare) else _FOLLOWED
    return f"the size {size} is a plain number (in {_text(file, expression)}); {advice}", line


# ---------------------------------------------------------------- source


def _running(line: Line | None) -> Iterator[tuple[str, ast.expr | None]]:
    """The expressions that were being computed (None: not known), with their files, the innermost first."""
    for code, instruction in line.running if isinstance(line, Place) else ():
        span = _span(code, instruction)
        yield code.co_filename, _expressions(code.co_filename).get(span) if span else None


def _span(code: CodeType, instruction: int) -> Span | None:
    """Where the expression is written that an instruction computes."""
    if sys.version_info < (3, 11):
        return None
    first, last, start, end = next(islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    if first is None or last is None or start is None or end is None:
        return None
    return first, last, start, end


@lru_cache(maxsize=64)
def _expressions(file: str) -> Mapping[Span, ast.expr]:
    """The calls, subscripts and comparisons in a file of source, by their place. Empty: it cannot be read."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return {}
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Call | ast.Subscript | ast.Compare))
    return {_span_of(node): node for node in nodes}


def _span_of(node: ast.expr) -> Span:
    return node.lineno, node.end_lineno or 0, node.col_offset, node.end_col_offset or 0


def _text(file: str, node: ast.expr) -> str:
    """The source of an expression on one line."""
    source = ast.get_source_segment("".join(linecache.getlines(file)), node) or ast.unparse(node)
    line = " ".join(source.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..."


def _find(expression: ast.expr, size: int) -> ast.expr | None:
    """The first, and largest, part of what an expression is given that is made of literals alone and is ``size``."""
    return next((node for node in _given(expression) if _folded(node) in (size, -size)), None)


def _given(expression: ast.expr) -> Iterator[ast.expr]:
    """All expressions within the arguments, the subscript or the comparison, outer ones first."""
    if isinstance(expression, ast.Call):
        roots: Sequence[ast.expr] = [*expression.args, *(keyword.value for keyword in expression.keywords)]
    elif isinstance(expression, ast.Compare):
        roots = [expression.left, *expression.comparators]
    else:
        roots = [expression.slice] if isinstance(expression, ast.Subscript) else []
    return (node for root in roots for node in ast.walk(root) if isinstance(node, ast.expr))


_SYMBOLS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%"}


def _folded(node: ast.expr) -> int | None:
    """The value of an expression of integer literals; None for any other."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _folded(node.operand)
        return None if value is None else -value
    symbol = _SYMBOLS.get(type(node.op)) if isinstance(node, ast.BinOp) else None
    if not isinstance(node, ast.BinOp) or symbol is None:
        return None
    left, right = _folded(node.left), _folded(node.right)
    if left is None or right is None or (symbol in "//%" and not right):
        return None
    return OPERATORS[symbol](left, right)


# ---------------------------------------------------------------- advice


_READ = "read it from a tensor or a layer instead (x.shape[1], layer.out_features)"
_FOLLOWED = (
    "give x.shape[1] or layer.out_features itself: what int(), len(), shape.numel() and entries of tensors and "
    "arrays give is not followed"
)


def _advice(expression: ast.expr, file: str, size: int, use: UsedSize) -> str:
    """What to write instead."""
    if isinstance(expression, ast.Compare):
        return "compare with the size of a layer instead, or leave the comparison out"
    name, tensor = _function(expression, file)
    if name in ("view", "reshape") and use.flattens:
        return _flattened(tensor, name)
    if name in ("view", "reshape") and not any(_folded(node) == -1 for node in _given(expression)):
        return f"write -1 for it, or read it from a tensor or a layer ({tensor}.shape[1])"
    if name == "split" and use.source is not None and use.dim is not None and use.source[use.dim] % size == 0:
        return f"write {tensor}.chunk({use.source[use.dim] // size}, {use.dim})"
    if isinstance(expression, ast.Subscript) and use.dim is not None and use.out[use.dim] == 2 * size:
        return f"write {tensor}.shape[{use.dim}] // 2"
    return _READ


def _function(expression: ast.expr, file: str) -> tuple[str, str]:
    """The name of the function that is called, and its tensor as it is written. ``x.view(n)``: view, x."""
    if isinstance(expression, ast.Subscript):
        return "", _text(file, expression.value)
    function = expression.func if isinstance(expression, ast.Call) else expression
    if not isinstance(function, ast.Attribute):
        return (function.id if isinstance(function, ast.Name) else ""), "x"
    of_torch = isinstance(function.value, ast.Name) and function.value.id == "torch"
    first = expression.args[:1] if isinstance(expression, ast.Call) and of_torch else [function.value]
    return function.attr, _text(file, first[0]) if first else "x"


def _flattened(tensor: str, name: str = "view") -> str:
    return f"write {tensor}.flatten(1), or {tensor}.{name}({tensor}.size(0), -1)"
