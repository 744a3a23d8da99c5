"""What a recorded run reaches: which tensors its results are made from, and what it does to data on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import fx

from graphprune.tracing.call_list import Node, operands
from graphprune.tracing.running import Replay
from graphprune.utils.ancestors import ancestors
from graphprune.utils.float_types import is_float_type


@dataclass(frozen=True)
class Reach:
    """What a run reaches.

    Attributes:
        origins: the parameters and buffers that results, and what is written to buffers, are made from.
        mixing: how often the model's own code calls operations on data other than elementwise ones and random numbers.
        joined: how often it calls elementwise ones on data with numbers, and with tensors that are made without data,
            by these numbers and the shapes of these tensors. What dropout and stochastic depth multiply data with is in
            its shape, or a number for each sample, and left out, and so are whole numbers that count runs.
    """

    origins: frozenset[str]
    mixing: Counter[str]
    joined: Counter[Hashable]

    @staticmethod
    def of(run: Replay, kinds: Mapping[str, type]) -> Reach:
        """The reach of a run of modules of these classes, by path."""
        facts: dict[Node, _Facts] = {}
        written: list[Node] = []
        mixing: Counter[str] = Counter()
        joined: Counter[Hashable] = Counter()
        samples = _samples(run.calls)
        for node in run.calls:
            if node.op == "call_function":
                known = _known_of(node.target)
                given = {n: facts.get(n) or _facts_before(n) for n in _inputs(node)}
                facts[node] = own = _facts_after(known, node, given)
                if known.writes and own.holds:
                    written.append(node)
                if own.data and _is_own(kinds, node):
                    if not known.elementwise:
                        mixing[known.name] += 1
                    elif others := _others(node, known, given, samples):
                        joined[known.name, others] += 1
        return Reach(_origins([*run.outputs, *written]), mixing, joined)


class _Facts(NamedTuple):
    """What is known of a tensor.

    Attributes:
        data: it is made from values of inputs, parameters or buffers.
        fed: it is made from values of inputs.
        holds: it is the memory of a parameter or buffer.
        alike: it is made without data, in the shape of another tensor.
        random: it is made without data, from random numbers.
        unseen: it is made without data, and its sizes cannot be followed in the code.
    """

    data: bool
    fed: bool = False
    holds: bool = False
    alike: bool = False
    random: bool = False
    unseen: bool = False


class _Known(NamedTuple):
    """What matters of an operation: makes tensors without looking at values, may return its first operand, ..."""

    name: str
    new: bool = False
    aliases: bool = False
    writes: bool = False
    elementwise: bool = False
    random: bool = False
    item: bool = False


_NEW = ("arange", "empty", "full", "new_", "ones", "rand", "zeros")
"""How the names of operations begin that make tensors without looking at values."""


@lru_cache(maxsize=4096)
def _known_of(target: Any) -> _Known:
    name = getattr(target, "__name__", str(target))
    schema = getattr(target, "_schema", None)
    if schema is None:
        return _Known(name, elementwise=True, item=True)  # one of several results
    aliases = bool(schema.arguments and schema.arguments[0].alias_info)
    random = torch.Tag.nondeterministic_seeded in target.tags
    elementwise = random or torch.Tag.pointwise in target.tags
    return _Known(name, name.startswith(_NEW), aliases, schema.is_mutable, elementwise, random)


def _samples(calls: Iterable[Node]) -> frozenset[int]:
    """The first sizes of the inputs, which count their samples."""
    shapes = (node.meta["shape"] for node in calls if node.op == "placeholder")
    return frozenset(shape[0] for shape in shapes if shape)


def _facts_before(node: Node) -> _Facts:
    """Of what no call of the run made."""
    fed, held = node.op == "placeholder", "tensor" in node.meta
    return _Facts(fed or held, fed, held, unseen=not fed and not held)


def _facts_after(known: _Known, node: Node, given: Mapping[Node, _Facts]) -> _Facts:
    """Of the result of a call."""
    first = next(iter(given.values()), None)
    holds = known.aliases and first is not None and first.holds
    if not known.new and True in [one.data for one in given.values()]:
        return _Facts(True, True in [one.fed for one in given.values()], holds)
    alike = known.new and "_like" in known.name
    if not known.new and any(one.alike for one in given.values()):
        alike = all(one.alike or _is_single(n) for n, one in given.items())
    random = known.random or any(one.random for one in given.values())
    unseen = _hides_sizes(known, node) or any(one.unseen for one in given.values())
    return _Facts(False, False, holds, alike, random, unseen)


def _hides_sizes(known: _Known, node: Node) -> bool:
    """Does a call make a tensor of sizes that are not followed?

    These are whole numbers, numbers of a generator of its own, and what old constructors (``torch.FloatTensor``) make:
    they call ``empty`` without the argument that ``torch.empty`` adds.
    """
    if known.name.startswith("randint") or node.kwargs.get("generator") is not None:
        return True
    return known.name.startswith("empty.") and "pin_memory" not in node.kwargs


def _is_single(node: Node) -> bool:
    shape = node.meta.get("shape")
    return shape is not None and shape.numel() == 1


def _others(node: Node, known: _Known, given: Mapping[Node, _Facts], samples: frozenset[int]) -> tuple[Hashable, ...]:
    """The numbers that an elementwise call joins data with, and the shapes of tensors that are made without data."""
    fed = True in [one.fed for one in given.values()]
    if not fed and _is_whole_number(node):
        return ()  # a buffer that counts runs
    numbers = [] if known.random or known.item else [*node.args, *node.kwargs.values()]
    found: list[Hashable] = [float(x) for x in numbers if isinstance(x, int | float) and not isinstance(x, bool)]
    made = [(n, one) for n, one in given.items() if not one.data and not one.alike]
    data = {n.meta.get("shape") for n, one in given.items() if one.data} if made else set()
    for n, one in made:
        rest = _written(node, n, samples if fed else frozenset())
        if not _is_noise(n, one, data) and (not one.random or any(size != 1 for size in rest)):
            found.append(rest)
    return tuple(found)


def _is_whole_number(node: Node) -> bool:
    dtype = node.meta.get("dtype")
    return dtype is not None and not is_float_type(dtype)


def _is_noise(other: Node, facts: _Facts, data: Set[torch.Size | None]) -> bool:
    """Is a tensor noise, one number for each of the data's, whose sizes a trace would take for written ones?

    What is no random number of torch's may be a table of the channels, unless it has further dimensions.
    """
    shape = other.meta["shape"]
    return facts.unseen and shape in data and (facts.random or sum(size > 1 for size in shape) > 1)


def _written(node: Node, other: Node, samples: frozenset[int]) -> tuple[int, ...]:
    """The shape of an operand, with as many dimensions as the result has, but for the samples."""
    shape = (1,) * (len(node.meta["shape"]) - len(other.meta["shape"])) + tuple(other.meta["shape"])
    return shape[1:] if shape and (shape[0] == 1 or shape[0] in samples) and samples else shape


def _inputs(node: Node) -> list[Any]:
    return node.all_input_nodes if isinstance(node, fx.Node) else operands((*node.args, *node.kwargs.values()))


def _is_own(kinds: Mapping[str, type], node: Node) -> bool:
    """Is it called by a module that is not torch's?"""
    kind = kinds.get(node.meta.get("module") or "")
    return kind is None or not kind.__module__.startswith("torch.")


def _origins(nodes: Iterable[Node]) -> frozenset[str]:
    """The names of the parameters and buffers that nodes are made from."""
    return frozenset(str(node.meta["tensor"]) for node in ancestors(nodes, _inputs) if "tensor" in node.meta)
