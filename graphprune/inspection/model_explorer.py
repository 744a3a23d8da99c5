"""Files for Model Explorer, Google's viewer of graphs: the traced network, and data on its nodes.

The formats are those of the package ``ai-edge-model-explorer`` (0.1.34): a list of graphs as in its
``graph_builder.Graph``, and node data by the name of the graph as in its ``node_data_builder.GraphNodeData``; see
https://github.com/google-ai-edge/model-explorer/wiki/4.-API-Guide.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import fx

from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.dimensions import Dimensions
from graphprune.graph.frozen import frozen_axes
from graphprune.graph.groups import Frozen, Group
from graphprune.graph.living import all_living
from graphprune.inspection.wording import describe_place, shorten_paths
from graphprune.pruning.plan import Plan
from graphprune.rules.labels import LabeledTensor, ParameterAxis
from graphprune.rules.registry import macs_of
from graphprune.utils.arrays import Ids
from graphprune.utils.checks import check_type
from graphprune.utils.files import check_path
from graphprune.utils.folders import replace_folder
from graphprune.utils.modules import within
from graphprune.utils.operators import short_name

_OUTPUTS = "outputs"

_COLORS = ("#8dd3c7", "#ffffb3", "#bebada", "#fb8072", "#80b1d3", "#fdb462", "#b3de69", "#fccde5", "#bc80bd", "#ccebc5")
"""Of groups, in turn: ColorBrewer's Set3, on which black text is readable."""
_LESS_TO_MORE = [{"stop": 0, "bgColor": "#f7fbff"}, {"stop": 1, "bgColor": "#6baed6"}]
_FROZEN = "#d9d9d9"
_NOT_ADDED_UP = {"hideInAggregatedStatsTable": True, "hideInChildrenStatsTable": True}
"""Of data of which no sum means anything: names, reasons, shares."""


def write_model_explorer(graph: Analysis, directory: object, plan: Plan | None = None) -> None:
    """Write ``graph.json``, and the data on its nodes as files of their own, into a new folder.

    Raises:
        InputError: the directory holds something else.
        PlanError: the plan is of another model, or merges heads, so that no node has a size that the graph knows.
    """
    if plan is not None:
        check_type("plan", plan, Plan, "a graphprune.Plan")
        _check_not_merged(plan)
    path = check_path("directory", directory)
    files = ExplorerFiles(graph, plan).files()

    def write(temporary: Path) -> None:
        for name, data in files.items():
            (temporary / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")

    replace_folder(path, write)


def _check_not_merged(plan: Plan) -> None:
    if plan.merged:
        raise PlanError(
            "plan: it merges heads, after which sizes of operations are not known before the slim model is traced",
            where=next(iter(plan.merged)),
            found=f"{len(plan.merged)} parameters of which means survive",
            needed="a plan that removes channels, heads or blocks",
            do="trace what it makes: graphprune.trace(plan.apply(model), inputs).to_model_explorer(directory)",
        )


class ExplorerFiles:
    """What is written of one graph, and of a plan for it.

    Attributes:
        nodes: the calls that evaluation makes, and what goes into them.
    """

    def __init__(self, graph: Analysis, plan: Plan | None) -> None:
        self.graph, self.plan = graph, plan
        self.nodes = graph.trace.evaluated_nodes
        self.skipped = plan.skipped if plan else ()
        self._alive = graph.alive(plan.removed if plan else {})
        self._left = set(graph.nodes_without(self.skipped))
        self._number_dimensions()

    def files(self) -> dict[str, Any]:
        """By name, the graph and the data on its nodes."""
        name = type(self.graph.model).__name__
        attributes = {"": {"model": name, "cost": str(self.graph.costs.dense)}}
        graph = {
            "id": name,
            "nodes": [*map(self._node, self.nodes), self._outputs()],
            "groupNodeAttributes": attributes,
        }
        tables = {"groups": self._groups_data(), "frozen": self._frozen_data(), "macs": self._macs_data()}
        tables["parameters"] = self._numbers({n: self._entries(n) for n in self.nodes if n.meta.get("parameter")})
        if self.plan:
            shares = {n: self._share(n) for n in self.nodes if self._before[self._dims[n]].all() and self._dims[n]}
            tables["kept"] = {**self._numbers(shares), **_NOT_ADDED_UP}
        return {"graph": [graph], **{key: {name: {"name": key, **table}} for key, table in tables.items()}}

    # ---------------------------------------------------------------- nodes

    def _node(self, node: fx.Node) -> dict[str, Any]:
        return {
            "id": node.name,
            "label": self._label(node),
            "namespace": node.meta["module"].replace(".", "/"),
            "attrs": [{"key": key, "value": value} for key, value in self._attributes(node)],
            "incomingEdges": [_edge(source, i, _result(node)) for i, source in enumerate(node.all_input_nodes)],
            "outputsMetadata": [_output(str(i), shape) for i, shape in enumerate(_shapes(node))],
        }

    def _label(self, node: fx.Node) -> str:
        if node.op != "call_function":
            return str(node.meta.get("tensor", node.name)).rpartition(".")[2]
        return (
            short_name(node.target) if hasattr(node.target, "_schema") else str(getattr(node.target, "__name__", node))
        )

    def _outputs(self) -> dict[str, Any]:
        results = self.graph.trace.outputs[: self.graph.trace.results]
        edges = [_edge(source, i, 0) for i, source in enumerate(results)]
        return {"id": _OUTPUTS, "label": _OUTPUTS, "namespace": "", "attrs": [], "incomingEdges": edges}

    def _attributes(self, node: fx.Node) -> Iterator[tuple[str, str]]:
        if "tensor" in node.meta:
            yield "name", node.meta["tensor"]
        if node.meta.get("line"):
            yield "source", describe_place(node.meta["line"])
        for dim, groups in self._groups[node].items():
            for group in groups:
                yield f"dimension {dim}", f"group {group.name} ({group.role}), {self._kept(group)}"
        for one in self._frozen_of(node):
            yield f"frozen {one.axis}", f"{one.count} of {one.size}: {shorten_paths(one.reason)}"
        if node in self._macs:
            before, after = self._macs[node]
            yield "MACs", f"{before:,} -> {after:,}" if self.plan else f"{before:,}"

    def _kept(self, group: Group) -> str:
        choice = next((c for c in self.plan.choices if c.group == group.name), None) if self.plan else None
        return f"{choice.kept} of {choice.units} units kept: {choice.why}" if choice else f"{group.units} units"

    # ---------------------------------------------------------------- data on nodes

    def _groups_data(self) -> dict[str, Any]:
        colors = {group.name: _COLORS[i % len(_COLORS)] for i, group in enumerate(self.graph.groups)}
        results = {}
        for node, by_dim in self._groups.items():
            names = list(dict.fromkeys(group.name for groups in by_dim.values() for group in groups))
            if names:
                results[node.name] = {"value": ", ".join(names), "bgColor": colors[names[0]]}
        return {"results": results, **_NOT_ADDED_UP}

    def _frozen_data(self) -> dict[str, Any]:
        found = {node.name: self._frozen_of(node) for node in self.nodes}
        reasons = {
            name: "; ".join(dict.fromkeys(shorten_paths(f.reason) for f in frozen)) for name, frozen in found.items()
        }
        results = {name: {"value": text, "bgColor": _FROZEN} for name, text in reasons.items() if text}
        return {"results": results, **_NOT_ADDED_UP}

    def _macs_data(self) -> dict[str, Any]:
        return self._numbers({node: after for node, (_, after) in self._macs.items()})

    def _numbers(self, values: Mapping[fx.Node, float]) -> dict[str, Any]:
        return {"results": {node.name: {"value": v} for node, v in values.items()}, "gradient": _LESS_TO_MORE}

    # ---------------------------------------------------------------- facts

    def _number_dimensions(self) -> None:
        """Give every dimension of every tensor its number in the table of sizes."""
        dimensions = Dimensions(self.graph.size_model())
        values = self.graph.labeling.values
        self._dims = {
            node: [dimensions.number(node, d) for d in range(len(node.meta["shape"]))]
            for node in self.nodes
            if "shape" in node.meta and isinstance(values.get(node), LabeledTensor)
        }
        self._dims = {node: self._dims.get(node, []) for node in self.nodes}
        factors = {node: count(node) for node in self.nodes if (count := macs_of(node.target)) is not None}
        numbered = {node: [dimensions.number(*factor) for factor in row] for node, row in factors.items()}
        self._before: Ids = dimensions.counts_of(all_living(self.graph.solution))
        self._after: Ids = dimensions.counts(self._alive)
        self._macs = {
            node: (int(np.prod(self._before[row])), self._left_of(node, row)) for node, row in numbered.items()
        }

    def _left_of(self, node: fx.Node, row: list[int]) -> int:
        """A product of sizes after the plan; nothing of a block that is left out."""
        return int(np.prod(self._after[row])) if self._runs(node) else 0

    def _runs(self, node: fx.Node) -> bool:
        return node in self._left and not within(node.meta.get("tensor", ""), self.skipped)

    def _entries(self, node: fx.Node) -> int:
        return self._left_of(node, self._dims[node])

    def _share(self, node: fx.Node) -> float:
        """The share of a tensor's entries that the plan keeps."""
        return self._entries(node) / int(np.prod(self._before[self._dims[node]]))

    @cached_property
    def _groups(self) -> dict[fx.Node, dict[int, list[Group]]]:
        """By node and dimension the groups whose units its size depends on."""
        sizes, group_of = self.graph.size_model(), self.graph.units.group_of
        found: dict[fx.Node, dict[int, list[Group]]] = {}
        for node in self.nodes:
            behind = {d: group_of[sizes.units_behind(node, d)] for d in range(len(self._dims[node]))}
            found[node] = {d: [self.graph.groups[i] for i in np.unique(g[g >= 0])] for d, g in behind.items() if len(g)}
        return found

    @cached_property
    def _frozen(self) -> dict[str, Frozen]:
        return {one.axis: one for one in frozen_axes(self.graph)}

    def _frozen_of(self, node: fx.Node) -> list[Frozen]:
        name = node.meta.get("tensor")
        axes = [ParameterAxis(name, d) for d in range(len(node.meta["shape"]))] if name else []
        return [self._frozen[axis] for axis in axes if axis in self._frozen]


def _edge(source: fx.Node, number: int, result: int) -> dict[str, str]:
    return {"sourceNodeId": source.name, "sourceNodeOutputId": str(result), "targetNodeInputId": str(number)}


def _result(node: fx.Node) -> int:
    """Which result of its only input a node takes; the first, but for ``getitem``."""
    return int(node.args[1]) if node.target is operator.getitem else 0  # type: ignore[arg-type]


def _shapes(node: fx.Node) -> list[Any]:
    return list(node.meta.get("shapes") or [node.meta.get("shape")])


def _output(number: str, shape: Any) -> dict[str, Any]:
    text = "x".join(map(str, shape)) if shape is not None else ""
    return {"id": number, "attrs": [{"key": "tensor_shape", "value": text}] if text else []}
