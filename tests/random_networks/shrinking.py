"""Make a failing program smaller: leave out lines as long as it fails in the same way."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace

from tests.random_networks.checker import Outcome
from tests.random_networks.generator import Program


def shrink(program: Program, check: Callable[[Program], Outcome], rounds: int = 4) -> Program:
    """The shortest program found whose outcome is of the same kind and begins with the same words."""
    wanted = _signature(check(program))
    for _ in range(rounds):
        smaller = _pass(program, lambda p: _signature(check(p)) == wanted)
        if smaller.source == program.source:
            break
        program = smaller
    return program


def _signature(outcome: Outcome) -> tuple[str, str]:
    return outcome.kind, outcome.detail.split(":")[0] if outcome.kind == "crash" else ""


def _pass(program: Program, fails: Callable[[Program], bool]) -> Program:
    """Try to leave out pieces: first whole classes, then ever fewer lines."""
    for size in (16, 8, 4, 2, 1):
        start = 0
        while start < len(program.source.splitlines()):
            smaller = _without(program, start, size)
            if smaller is not None and fails(smaller):
                program = smaller
            else:
                start += size
    return program


def _without(program: Program, start: int, size: int) -> Program | None:
    """The program without some lines, if that is still Python with a network and an example."""
    lines = program.source.splitlines()
    source = "\n".join([*lines[:start], *lines[start + size :], ""])
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    names = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    return replace(program, source=source) if {"Network", "example"} <= names else None
