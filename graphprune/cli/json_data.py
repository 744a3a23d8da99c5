"""Results as JSON data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn


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


def prune_data(spec: str, model: nn.Module, graph: Any, plan: Any, check: Any, saved: Path | None) -> dict[str, Any]:
    """What was removed from a model, whether it was verified, and where the slim one is."""
    return {
        "spec": spec,
        "class": type(model).__qualname__,
        "requested": dict(plan.requested),
        "before": _cost_data(graph.cost()),
        "after": _cost_data(graph.cost(plan)),
        "frozen": _frozen_data(graph),
        "verified": None if check is None else _check_data(check),
        "saved": None if saved is None else str(saved),
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


def _check_data(check: Any) -> dict[str, Any]:
    return {
        "passed": bool(check.passed),
        "relative": float(check.relative),
        "absolute": float(check.absolute),
        "inexact": [str(item) for item in check.inexact],
    }
