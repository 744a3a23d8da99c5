"""Results as JSON data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from graphprune.pruning.plan import Choice, Plan


def _cost_data(cost: Any) -> dict[str, int]:
    return {"parameters": int(cost.params), "macs": int(cost.macs), "bytes": int(cost.bytes)}


def _frozen_data(graph: Any) -> list[dict[str, Any]]:
    return [{"axis": item.axis, "count": item.count, "size": item.size, "reason": item.reason} for item in graph.frozen]


def graph_data(spec: str, model: nn.Module, graph: Any) -> dict[str, Any]:
    """What can be removed from a model, and what not."""
    return {
        "spec": spec,
        "class": type(model).__qualname__,
        "cost": _cost_data(graph.cost()),
        "groups": [_group_data(group) for group in graph.groups],
        "frozen": _frozen_data(graph),
    }


def _group_data(group: Any) -> dict[str, Any]:
    return {
        "name": group.name,
        "role": group.role,
        "units": group.units,
        "axes": list(group.axes),
        "couplings": [str(coupling) for coupling in group.couplings],
    }


def _planned_data(spec: str, planned: Any) -> dict[str, Any]:
    """What was asked of a model, what it costs before and after, and all that goes."""
    plan = planned.plan
    return {
        "spec": spec,
        "class": type(planned.model).__qualname__,
        "requested": dict(plan.requested),
        "before": _cost_data(planned.graph.cost()),
        "after": _cost_data(planned.graph.cost(plan)),
        "groups": [_left_data(one) for one in plan.choices],
        "skipped": list(plan.skipped),
        "zeroed": list(plan.zeroed),
        "merged": list(_merged_data(plan)),
        "stale": list(plan.stale),
        "frozen": _frozen_data(planned.graph),
    }


def _left_data(choice: Choice) -> dict[str, Any]:
    return {
        "name": choice.group,
        "role": choice.role,
        "units": choice.units,
        "kept": choice.kept,
        "macs": choice.macs,
        "params": choice.params,
        "why": choice.why,
    }


def _merged_data(plan: Plan) -> Iterator[dict[str, Any]]:
    for name, dims in plan.merged.items():
        for dim, others in dims.items():
            left = {"entries": plan.shapes[name][dim], "left": len(plan.kept[name][dim])}
            yield {"parameter": name, "dim": dim, **left, "mean_of": 1 + len(others)}


def plan_data(spec: str, planned: Any, written: Path | None) -> dict[str, Any]:
    """What would be removed from a model: costs, what is left of each group, and where the plan is."""
    return {**_planned_data(spec, planned), "written": None if written is None else str(written)}


def prune_data(spec: str, pruned: Any) -> dict[str, Any]:
    """What was removed from a model, whether it was verified and repaired, and where the slim one is."""
    return {
        **_planned_data(spec, pruned.planned),
        "verified": None if pruned.check is None else check_data_of(pruned.check),
        "repaired": None if pruned.repair is None else _repairs(pruned.repair),
        "saved": None if pruned.saved is None else str(pruned.saved),
    }


def repair_data(spec: str, repair: Any, saved: Path) -> dict[str, Any]:
    """What repair changed in a slim model, and where it is."""
    return {"spec": spec, **_repairs(repair), "saved": str(saved)}


def _repairs(repair: Any) -> dict[str, Any]:
    return {
        "fitted": [{"name": one.name, "before": one.before, "after": one.after} for one in repair.repaired],
        "left_alone": [{"name": one.name, "why": one.why} for one in repair.left_alone],
        "norms": list(repair.norms),
    }


def zeros_data(spec: str, found: Any, saved: Path | None) -> dict[str, Any]:
    """Which zero channels a model has, and where the model without them is."""
    return {
        "spec": spec,
        "parameters": list(found.params),
        "zero": found.zero,
        "removed": found.removed,
        "groups": [_zero_group_data(group) for group in found.groups],
        "slices": [{"axis": s.axis, "count": s.count, "size": s.size, "why": s.why} for s in found.slices],
        "saved": None if saved is None else str(saved),
    }


def _zero_group_data(group: Any) -> dict[str, Any]:
    kept = [{"why": why, "count": count} for why, count in group.kept]
    return {"name": group.group, "role": group.role, "units": group.units, "removed": group.removed, "kept": kept}


def check_data_of(check: Any) -> dict[str, Any]:
    """How far a slim model is from the masked original."""
    return {
        "passed": bool(check.passed),
        "relative": float(check.relative),
        "absolute": float(check.absolute),
        "inexact": [str(item) for item in check.inexact],
    }
