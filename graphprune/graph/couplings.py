"""The coupling graph that people look at: which axes go together, by which operation, on which line."""

from __future__ import annotations

import linecache
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import networkx as nx
import numpy as np
from torch import fx

from graphprune.graph.propagate import Labeling
from graphprune.tracing.sizes import Line
from graphprune.utils.arrays import distinct_columns


@dataclass(frozen=True)
class Coupling:
    """Two axes whose entries go together, and the operation that ties them."""

    first: str
    second: str
    op: str
    line: Line | None

    def __str__(self) -> str:
        return f"{self.first} ~ {self.second} by {self.op} at {describe_line(self.line)}"


@dataclass(frozen=True)
class Tie:
    """What one operation on one line of the program ties, in all layers that run it.

    Attributes:
        axes: the parameter axes, in the order of execution.
    """

    op: str
    line: Line | None
    axes: tuple[str, ...]


def ties_of(couplings: Iterable[Coupling]) -> list[Tie]:
    """Couplings by operation and line; rows and cells, which have no names, are left out."""
    found: dict[tuple[str, Line | None], dict[str, None]] = {}
    for one in couplings:
        axes = found.setdefault((one.op, one.line), {})
        axes.update((axis, None) for axis in (one.first, one.second) if "@" not in axis)
    return [Tie(op, line, tuple(axes)) for (op, line), axes in found.items() if axes]


def describe_line(line: Line | None) -> str:
    """``file:number: source`` of a line of the user's code."""
    if line is None:
        return "an unknown line"
    source = linecache.getline(*line).strip()
    return f"{line[0]}:{line[1]}: {source}" if source else f"{line[0]}:{line[1]}"


def operation_name(node: fx.Node) -> str:
    """``"aten::add.Tensor"``: what a node calls."""
    return str(getattr(node.target, "_schema", node.target)).split("(")[0]


def coupling_graph(labeling: Labeling) -> nx.MultiGraph:
    """Nodes are axes (of parameters, rows, cells) with ``kind`` and ``size``.

    Edges are couplings with ``op``, ``line`` and ``node_index``.
    """
    graph = nx.MultiGraph()
    axes = labeling.labels.axes
    names = [a.name or f"{a.kind}@{labeling.nodes[a.node_index].name}#{a.start}" for a in axes]
    for name, axis in zip(names, axes, strict=True):
        graph.add_node(name, kind=axis.kind, size=axis.size)
    for first, second, node_index in _edges(labeling):
        node = labeling.nodes[node_index]
        op, line = operation_name(node), node.meta.get("line")
        graph.add_edge(names[first], names[second], op=op, line=line, node_index=node_index)
    return graph


def _edges(labeling: Labeling) -> list[tuple[int, int, int]]:
    starts = np.array([a.start for a in labeling.labels.axes])
    facts = labeling.labels.facts
    pairs = [*facts.unions, *((whole, part, node_index) for whole, *both, node_index in facts.parts for part in both)]
    edges: dict[tuple[int, int, int], None] = {}
    for a, b, node_index in pairs:
        x, y = (np.searchsorted(starts, v.ravel(), "right") - 1 for v in np.broadcast_arrays(a, b))
        for first, second in distinct_columns(np.stack([x, y]))[0].T.tolist():
            if first >= 0 and second >= 0 and first != second:
                edges[first, second, node_index] = None
    return list(edges)


class Couplings:
    """The couplings of a labeled model, drawn as a graph once somebody asks for them.

    Groups hold this and not the whole analysis, which would hold itself then, and its memory until a collection.
    """

    def __init__(self, labeling: Labeling) -> None:
        self._labeling = labeling

    @cached_property
    def graph(self) -> nx.MultiGraph:
        """See :func:`coupling_graph`."""
        return coupling_graph(self._labeling)

    def within(self, axes: tuple[str, ...]) -> tuple[Coupling, ...]:
        """See :func:`couplings_within`."""
        return couplings_within(self.graph, axes)


def couplings_within(graph: nx.MultiGraph, axes: tuple[str, ...]) -> tuple[Coupling, ...]:
    """Couplings between ``axes``, directly or by way of rows and cells, in the order of execution."""
    named, place = set(axes), {name: number for number, name in enumerate(graph)}
    inner = [n for n, kind in graph.nodes(data="kind") if kind in ("row", "cell", "repeat", "filled")]
    reached = named | {n for n in inner if named & set(graph.neighbors(n))}
    pairs = ((*sorted((a, b), key=place.__getitem__), data) for a, b, data in graph.subgraph(reached).edges(data=True))
    edges = sorted(pairs, key=lambda e: (e[2]["node_index"], place[e[0]], place[e[1]]))
    return tuple(Coupling(a, b, data["op"], data["line"]) for a, b, data in edges)
