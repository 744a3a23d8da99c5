"""What a recorded run reaches: which tensors its results are made from, and what it does to data on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import fx

from graphprune.tracing.call_list import Node, operands
from graphprune.tracing.running import Replay


@dataclass(frozen=True)
class Reach:
    """What a run reaches.

    Attributes:
        origins: the parameters and buffers that results, and what is written to buffers, are made from.
        mixing: how often the model's own code calls operations on data other than elementwise ones and random numbers.
    """

    origins: frozenset[str]
    mixing: Counter[str]

    @staticmethod
    def of(run: Replay, kinds: Mapping[str, type]) -> Reach:
        """The reach of a run of modules of these classes, by path."""
        data: dict[Node, bool] = {}
        holds: dict[Node, bool] = {}
        written: list[Node] = []
        mixing: Counter[str] = Counter()
        for node in run.calls:
            if node.op == "call_function":
                known, given = _known_of(node.target), _inputs(node)
                data[node] = not known.new and any(data.get(n, _has_data(n)) for n in given)
                holds[node] = known.aliases and bool(given) and holds.get(given[0], "tensor" in given[0].meta)
                if known.writes and holds[node]:
                    written.append(node)
                if data[node] and not known.elementwise and _is_own(kinds, node):
                    mixing[known.name] += 1
        return Reach(_origins([*run.outputs, *written]), mixing)


class _Known(NamedTuple):
    """What matters of an operation: makes tensors without looking at values, may return its first operand, ..."""

    name: str
    new: bool = False
    aliases: bool = False
    writes: bool = False
    elementwise: bool = False


_NEW = ("arange", "empty", "full", "new_", "ones", "rand", "zeros")
"""How the names of operations begin that make tensors without looking at values."""


@lru_cache(maxsize=4096)
def _known_of(target: Any) -> _Known:
    name = getattr(target, "__name__", str(target))
    schema = getattr(target, "_schema", None)
    if schema is None:
        return _Known(name, elementwise=True)  # an item of several results
    aliases = bool(schema.arguments and schema.arguments[0].alias_info)
    elementwise = torch.Tag.pointwise in target.tags or torch.Tag.nondeterministic_seeded in target.tags
    return _Known(name, name.startswith(_NEW), aliases, schema.is_mutable, elementwise)


def _inputs(node: Node) -> list[Any]:
    return node.all_input_nodes if isinstance(node, fx.Node) else operands((*node.args, *node.kwargs.values()))


def _has_data(node: Node) -> bool:
    return node.op == "placeholder" or "tensor" in node.meta


def _is_own(kinds: Mapping[str, type], node: Node) -> bool:
    """Is it called by a module that is not torch's?"""
    kind = kinds.get(node.meta.get("module") or "")
    return kind is None or not kind.__module__.startswith("torch.")


def _origins(nodes: list[Node]) -> frozenset[str]:
    """The names of the parameters and buffers that nodes are made from."""
    stack = list(nodes)
    seen = set(stack)
    while stack:
        new = [n for n in _inputs(stack.pop()) if n not in seen]
        seen.update(new)
        stack += new
    return frozenset(str(node.meta["tensor"]) for node in seen if "tensor" in node.meta)
