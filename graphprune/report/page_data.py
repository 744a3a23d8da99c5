"""Everything that a page knows, as JSON."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from graphprune.graph.analysis import Analysis
from graphprune.graph.budget_kinds import BudgetKind, Counted
from graphprune.graph.groups import Group
from graphprune.pruning.plan import Plan
from graphprune.pruning.plan_costs import plan_cost
from graphprune.report.frozen_shares import FreeShares, FrozenReason, free_shares, frozen_reasons
from graphprune.report.measured import MeasuredResults
from graphprune.report.module_tree import ModuleTree, TreeModule, TreeTensor
from graphprune.report.page_groups import PageGroup, page_groups
from graphprune.report.ratio_costs import HIGHEST, RatioRange, ratio_ranges
from graphprune.report.short_paths import without_folders
from graphprune.rules.registry import macs_of
from graphprune.utils.modules import named_tensors


class CostSum(Struct, frozen=True):
    """One kind of cost, as a sum of products.

    Attributes:
        name, help: of the kind.
        rows: for each product the number of the module that causes it, a whole number, and the numbers of the
            dimensions whose sizes it is multiplied with.
    """

    name: str
    help: str
    rows: list[tuple[int, ...]]


class PagePlan(Struct, frozen=True):
    """What a plan does.

    Attributes:
        asked: how it was made, in words.
        sizes: of all dimensions.
        kept: for each group the number of units that stay.
        why: for each group, what decided it.
        skipped: the numbers of modules that are left out.
        costs: by kind, what the slim model costs.
        merged: by the number of a tensor of which heads are merged, its shape after that.
    """

    asked: str
    sizes: list[int]
    kept: list[int]
    why: list[str]
    skipped: list[int]
    costs: dict[str, int]
    merged: dict[int, tuple[int, ...]]


class PageData(Struct, frozen=True):
    """Everything.

    Attributes:
        title: the model's class.
        modules, tensors: the network, see :class:`~graphprune.report.module_tree.ModuleTree`.
        sizes: of all dimensions of the dense model.
        costs: what it costs.
        groups: what can be removed.
        highest: the last percentage of the slider.
        ranges: what its percentages remove.
        frozen: what cannot go, and why.
        free: how much can.
        plan: what was planned; None: nothing.
        measured: what was measured.
    """

    title: str
    modules: list[TreeModule]
    tensors: list[TreeTensor]
    sizes: list[int]
    costs: list[CostSum]
    groups: list[PageGroup]
    highest: int
    ranges: list[RatioRange]
    frozen: list[FrozenReason]
    free: FreeShares
    plan: PagePlan | None
    measured: MeasuredResults

    def to_json(self) -> str:
        """JSON that can stand in an HTML file, whatever a model's names hold."""
        text = msgspec.json.encode(self).decode()
        return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def page_data(graph: Analysis, plan: Plan | None, measured: MeasuredResults) -> PageData:
    """What there is to tell of a model, a plan for it, and what was measured.

    Raises:
        PlanError: the plan is for another model.
    """
    tree = ModuleTree(graph)
    costs = [_cost_sum(graph, tree, kind) for kind in graph.costs.counted if kind.name in graph.costs.terms]
    ranges = ratio_ranges(graph)
    return PageData(
        title=type(graph.model).__name__,
        modules=tree.modules,
        tensors=tree.tensors,
        sizes=graph.costs.dense_counts.tolist(),
        costs=costs,
        groups=page_groups(graph, tree),
        highest=HIGHEST,
        ranges=ranges,
        frozen=frozen_reasons(graph, tree),
        free=free_shares(graph, tree),
        plan=None if plan is None else _page_plan(graph, tree, plan),
        measured=measured,
    )


def _cost_sum(graph: Analysis, tree: ModuleTree, kind: BudgetKind) -> CostSum:
    """The products of one kind; equal ones of a module are one."""
    terms = graph.costs.terms[kind.name]
    found: dict[tuple[int, ...], int] = {}
    for owner, scale, dims in zip(_owners(graph, tree, kind), terms.scale.tolist(), terms.dims.tolist(), strict=True):
        key = owner, *sorted(d for d in dims if d)
        found[key] = found.get(key, 0) + scale
    return CostSum(kind.name, kind.help, [(owner, scale, *dims) for (owner, *dims), scale in found.items()])


def _owners(graph: Analysis, tree: ModuleTree, kind: BudgetKind) -> list[int]:
    """For each product of a kind, the module that causes it; those of kinds from outside are of the whole model."""
    counted = Counted(graph.nodes_without(()), named_tensors(graph.model))
    if kind.name == "macs":
        paths = [node.meta.get("module", "") for node in counted.nodes if macs_of(node.target) is not None]
        return [tree.numbers[path] for path in paths]
    if kind.name in ("params", "bytes"):
        return [t.module for t in tree.tensors if t.parameter or kind.name == "bytes"]
    return [0] * len(graph.costs.terms[kind.name].scale)


def _page_plan(graph: Analysis, tree: ModuleTree, plan: Plan) -> PagePlan:
    alive = graph.alive(plan.removed)
    choices = {choice.group: choice for choice in plan.choices}
    return PagePlan(
        asked=", ".join(f"{name} {value}" for name, value in plan.requested.items()),
        sizes=graph.costs.dimensions.counts(alive).tolist(),
        kept=[choices[g.name].kept if g.name in choices else _merged_units(g, plan) for g in graph.groups],
        why=[without_folders(choices[g.name].why) if g.name in choices else "" for g in graph.groups],
        skipped=[tree.numbers[path] for path in plan.skipped if path in tree.numbers],
        costs=dict(plan_cost(graph, plan).counts),
        merged={number: plan.shape(name) for number, name in enumerate(tree.names) if name in plan.merged},
    )


def _merged_units(group: Group, plan: Plan) -> int:
    """The units of a group of heads that merging leaves; all of any other group."""
    axes = [axis for axis in group.axes if axis.dim in plan.merged.get(axis.parameter, {})]
    if not axes or group.role not in ("heads", "kv_groups"):
        return group.units
    name, dim = axes[0].parameter, axes[0].dim
    return group.units * len(plan.kept[name][dim]) // plan.shapes[name][dim]
