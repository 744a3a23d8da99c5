"""Does a model ask whether it is trained, other than for dropout?"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from types import FunctionType

from graphprune.utils.held import code_objects, held_by_function, held_functions
from graphprune.utils.modules import Modules
from graphprune.utils.reached_functions import bases_of_users
from graphprune.utils.weak_caches import once_for_each

_NOISE = re.compile(r"drop|stochastic_depth|batch_norm|rrelu")
"""Names of functions that add noise in training, or take other statistics, and do nothing else."""


def reads_training(modules: Modules, holders: Modules | None = None) -> bool:
    """Does a class of these modules, or a function that it holds, read ``training`` for more than dropout and the like?

    Those of torch are passed over. Where there is no source code, every read counts.

    Args:
        modules: all of a model, by path.
        holders: those of them that may hold functions; None: all. What a run leaves in others was made by
            functions of the model's classes, which are looked through with the functions in them.
    """
    kinds = {type(module) for _, module in modules}
    return any(map(_class_reads, kinds)) or any(
        _reads(function) for _, function in held_functions(modules if holders is None else holders)
    )


@once_for_each
def _class_reads(kind: type) -> bool:
    return any(_reads(f) for base in bases_of_users(kind) for f in _functions_of(base))


def _functions_of(kind: type) -> Iterator[FunctionType]:
    """The functions of a class, with those that decorators hide."""
    found = [getattr(value, "fget", getattr(value, "__func__", value)) for value in vars(kind).values()]
    seen: set[int] = set()
    while found:
        function = found.pop()
        if isinstance(function, FunctionType) and id(function) not in seen:
            seen.add(id(function))
            yield function
            found.extend(held_by_function(function))


def _reads(function: FunctionType) -> bool:
    mentions = any("training" in (*c.co_names, *c.co_consts) for c in code_objects(function.__code__))
    return mentions and not _is_for_noise(function)


def _is_for_noise(function: FunctionType) -> bool:
    """Is every ``training`` in a function's source an argument of dropout, or a choice of its probability?"""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function.__code__)))
    except (OSError, SyntaxError, TypeError):
        return False
    read = {id(node) for node in ast.walk(tree) if _is_training(node)}
    harmless = {id(node) for parent in ast.walk(tree) for node in _for_noise(parent)}
    return bool(read) and read <= harmless


def _is_training(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "training"


def _for_noise(parent: ast.AST) -> Iterator[ast.AST]:
    """The direct children of a node that may be ``training`` and make no difference there but noise."""
    if isinstance(parent, ast.Call):
        name = parent.func.attr if isinstance(parent.func, ast.Attribute) else getattr(parent.func, "id", "")
        if _NOISE.search(name):
            yield from (*parent.args, *(keyword.value for keyword in parent.keywords))
    elif isinstance(parent, ast.IfExp) and _is_probability(parent):
        yield parent.test.operand if isinstance(parent.test, ast.UnaryOp) else parent.test
    elif isinstance(parent, ast.BoolOp) and isinstance(parent.op, ast.And) and "checkpoint" in ast.unparse(parent):
        yield from parent.values  # checkpoints of activations: the same computation
    elif isinstance(parent, ast.Compare):
        sides = (parent.left, *parent.comparators)
        yield from sides if any(isinstance(side, ast.Name) and side.id == "mode" for side in sides) else ()  # in train


def _is_probability(choice: ast.IfExp) -> bool:
    """Is it a number or else something called dropout, or its ``p``?"""
    branches = [b for b in (choice.body, choice.orelse) if not _is_number(b)]
    names = [b.attr if isinstance(b, ast.Attribute) else getattr(b, "id", "") for b in branches]
    return len(branches) < 2 and all(name == "p" or "drop" in name for name in names)


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)
