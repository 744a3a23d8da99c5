"""Functions are short: the median under ten lines, none above sixty."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "graphprune"
MEDIAN, MOST = 10, 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


def lengths(source: str) -> Iterator[tuple[str, int]]:
    """The name and the number of lines of each function, decorators and docstring not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            yield node.name, _lines(node) - (_lines(node.body[0]) if ast.get_docstring(node) is not None else 0)


def _lines(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_functions_are_short() -> None:
    found = [(length, name, file) for file in PACKAGE.rglob("*.py") for name, length in lengths(file.read_text())]
    assert statistics.median(length for length, *_ in found) < MEDIAN
    assert [function for function in found if function[0] > MOST] == []


def test_docstrings_and_decorators_are_not_counted() -> None:
    source = '@cache\ndef f(\n    x: int,\n) -> int:\n    """One.\n\n    Two.\n    """\n    return x\n'
    assert list(lengths(source)) == [("f", 4)]
