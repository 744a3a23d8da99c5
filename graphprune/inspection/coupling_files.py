"""The coupling graph as a file for other programs: GraphML, DOT (Graphviz) or JSON.

``graph.nx`` has attributes that no file format holds (pairs, None). What is written has text and whole numbers only:

- the graph: ``model``, the name of its class, and ``generator`` (in DOT a comment);
- nodes: ``kind``, ``size``; of parameter axes ``parameter``, ``dim``, ``groups`` and ``role``; ``frozen``, the reason;
- edges: ``op``, ``node_index``, and ``file``, ``line`` and ``code`` where the line of the program is known.
"""

from __future__ import annotations

import json
import linecache
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import networkx as nx

from graphprune.errors import InputError
from graphprune.graph.analysis import Analysis
from graphprune.graph.frozen import frozen_axes
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.sizes import Line
from graphprune.utils.files import check_file_path, check_own_file, make_folder, replace_file

_Attributes = dict[str, str | int]

_GENERATOR = "graphprune: couplings"
"""What every file says, so that an older one may be replaced."""


def plain_couplings(graph: Analysis) -> nx.MultiGraph:
    """``graph.nx`` with attributes that every format of networkx can write."""
    plain = nx.MultiGraph(generator=_GENERATOR, model=type(graph.model).__name__)
    groups = {axis: [g for g in graph.groups if axis in g.axes] for axis in graph.nx.nodes}
    frozen = {one.axis: one.reason for one in frozen_axes(graph)}
    for name, data in graph.nx.nodes(data=True):
        members: _Attributes = {}
        if isinstance(name, ParameterAxis):
            members = {"parameter": name.parameter, "dim": name.dim}
        if groups[name]:
            members["groups"] = ", ".join(group.name for group in groups[name])
            members["role"] = ", ".join(dict.fromkeys(group.role for group in groups[name]))
        if str(name) in frozen:
            members["frozen"] = frozen[str(name)]
        plain.add_node(str(name), kind=data["kind"], size=int(data["size"]), **members)
    for first, second, data in graph.nx.edges(data=True):
        where = _place(data["line"])
        plain.add_edge(str(first), str(second), op=data["op"], node_index=int(data["node_index"]), **where)
    return plain


def _place(line: Line | None) -> _Attributes:
    if line is None:
        return {}
    return {"file": line[0], "line": line[1], "code": linecache.getline(*line).strip()}


def write_couplings(graph: Analysis, path: object) -> None:
    """Write the coupling graph in the format that the suffix of a path names.

    Raises:
        InputError: the path has another suffix, or there is a folder or another file.
    """
    file = check_file_path("path", path, "couplings.json")
    write = _WRITERS.get(file.suffix.lower())
    if write is None:
        raise InputError(
            f"path: {file} ends with {file.suffix or 'no suffix'!r}; use one of {', '.join(_WRITERS)}",
            where=str(file),
            found=f"the suffix {file.suffix!r}",
            needed=f"one of {', '.join(_WRITERS)}",
            do=f"pass {str(file.with_suffix(next(iter(_WRITERS))))!r}",
        )
    check_own_file("path", file, _GENERATOR, "file of couplings")
    make_folder("path", file.parent)
    plain = plain_couplings(graph)
    replace_file(file, lambda temporary: write(plain, temporary))


def _write_graphml(plain: nx.MultiGraph, path: Path) -> None:
    nx.write_graphml(plain, path, named_key_ids=True)


def _write_json(plain: nx.MultiGraph, path: Path) -> None:
    """The node-link format: ``networkx.node_link_graph(data, edges="edges")`` reads it (``link=`` before 3.4)."""
    nodes = [{"id": name, **data} for name, data in plain.nodes(data=True)]
    ends = plain.edges(keys=True, data=True)
    edges = [{"source": a, "target": b, "key": key, **data} for a, b, key, data in ends]
    data = {"directed": False, "multigraph": True, "graph": plain.graph, "nodes": nodes, "edges": edges}
    path.write_text(json.dumps(data, indent=1), encoding="utf-8")


def _write_dot(plain: nx.MultiGraph, path: Path) -> None:
    """The language of Graphviz, https://graphviz.org/doc/info/lang.html."""
    lines = [f"// {plain.graph['generator']}", f"graph {_quoted(plain.graph['model'])} {{"]
    lines += [f"  {_quoted(name)} [{_dot_attributes(data)}];" for name, data in plain.nodes(data=True)]
    ends = plain.edges(data=True)
    lines += [f"  {_quoted(a)} -- {_quoted(b)} [{_dot_attributes(data, data['op'])}];" for a, b, data in ends]
    path.write_text("\n".join([*lines, "}"]) + "\n", encoding="utf-8")


def _dot_attributes(data: Mapping[str, Any], label: str = "") -> str:
    named = {**({"label": label} if label else {}), **data}
    return ", ".join(f"{name}={_quoted(str(value))}" for name, value in named.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


_WRITERS: dict[str, Callable[[nx.MultiGraph, Path], None]] = {
    ".graphml": _write_graphml,
    ".dot": _write_dot,
    ".gv": _write_dot,
    ".json": _write_json,
}
"""By suffix."""

COUPLING_SUFFIXES = tuple(_WRITERS)
"""The suffixes that :func:`write_couplings` knows."""
