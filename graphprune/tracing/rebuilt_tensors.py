"""Tensors that a model keeps between calls and makes anew for inputs of another size: tables of positions, masks.

A model that has run before holds one that fits. The trace sees that it is used, not how it is made: for inputs of
another size, forward would make it as wide as it was.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from itertools import chain
from types import CodeType, FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from torch import fx

from graphprune.tracing.sizes import Attr, Dim, Expr, attributes_of, dims_of
from graphprune.tracing.tracer import Trace

_known: WeakKeyDictionary[type, frozenset[str]] = WeakKeyDictionary()


def rebuilt_tensors(trace: Trace) -> Iterator[tuple[fx.Node, frozenset[int]]]:
    """The buffers and tensors in attributes that forward makes anew where a size does not fit.

    They are assigned by forward, or by a method that it calls, after a size of theirs, or another attribute that is
    assigned there, was compared with a size of an activation.

    Yields:
        The node of such a tensor, and the dimensions whose sizes were compared.
    """
    kept = [node for node in trace.graph.nodes if node.op == "get_attr" and node.meta.get("parameter") is False]
    asked = list(_compared_with_activations(trace)) if kept else []
    attributes = {_split(leaf.path.partition("[")[0]) for leaf in asked if isinstance(leaf, Attr)}
    for node in kept:
        path, name = _split(node.meta["tensor"])
        dims = frozenset(leaf.dim for leaf in asked if isinstance(leaf, Dim) and leaf.node is node)
        assigned = _assigned(trace.modules[path]) if asked and path in trace.modules else frozenset()
        if name in assigned and (dims or any((path, other) in attributes for other in assigned)):
            yield node, dims


def _compared_with_activations(trace: Trace) -> Iterator[Attr | Dim]:
    """The sizes of attributes and of tensors in attributes that were compared with such of activations."""
    sizes = trace.sizes
    for left, right in chain((e[:2] for e in sizes.equalities), (key[1:] for key in sizes.comparisons)):
        for one, other in ((left, right), (right, left)):
            if any(dim.node.op != "get_attr" for dim in dims_of(other)):
                yield from _kept_sizes(one)


def _kept_sizes(expr: Expr) -> Iterator[Attr | Dim]:
    yield from attributes_of(expr)
    yield from (dim for dim in dims_of(expr) if dim.node.op == "get_attr")


def _split(path: str) -> tuple[str, str]:
    """The path of a module, and the name of what it holds."""
    module, _, name = path.rpartition(".")
    return module, name


def _assigned(kind: type) -> frozenset[str]:
    """The attributes and buffers that ``forward`` of a class assigns, and the methods that it calls."""
    if kind not in _known:
        done: dict[str, frozenset[str]] = {}
        waiting = ["forward"]
        while waiting:
            name = waiting.pop()
            code = _code_of(kind, name)
            if name not in done and code is not None:
                done[name] = _assigned_by(code)
                waiting.extend(_names(code))
        _known[kind] = frozenset[str]().union(*done.values())
    return _known[kind]


def _code_of(kind: type, name: str) -> CodeType | None:
    """The code of a method that is neither torch's nor Python's."""
    owner = next((base for base in kind.__mro__ if name in vars(base)), object)
    own: Any = vars(owner).get(name)
    found = inspect.unwrap(getattr(own, "fget", own))
    users = owner.__module__.partition(".")[0] not in ("torch", "builtins")
    return found.__code__ if users and isinstance(found, FunctionType) else None


def _names(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _assigned_by(code: CodeType) -> frozenset[str]:
    own = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"}
    registered = (c for c in code.co_consts if isinstance(c, str) and "register_buffer" in code.co_names)
    inner = (_assigned_by(c) for c in code.co_consts if isinstance(c, CodeType))
    return frozenset(own).union(registered, *inner)
