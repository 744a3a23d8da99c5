"""torch-kirigami, called as its documentation calls it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

from torch import Tensor, nn

from benchmarks.libraries.case import Case, Method
from models import gpt

LIBRARY = "torch-kirigami"
BUDGETS: dict[str, Callable[[nn.Module, float], Any]] = {
    "each layer": lambda model, ratio: _pruning().ChannelRatio(ratio, scope="local"),
    "channels": lambda model, ratio: _pruning().ChannelRatio(ratio, scope="global"),
}
METRICS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "group magnitude": (lambda: _pruning().GroupMagnitude(), ("each layer", "channels")),
    "taylor": (lambda: _pruning().WeightTaylor(), ("channels",)),
}
"""Its metrics, and the budgets under which each is tried. A plan takes it half a minute and more."""


def methods() -> list[Method]:
    """Its metrics under its budgets."""
    return [
        Method(LIBRARY, f"{metric}, {budget}", partial(_prune, metric=metric, budget=budget))
        for metric, (_, budgets) in METRICS.items()
        for budget in budgets
    ]


def _pruning() -> Any:
    from torch_kirigami import pruning

    return pruning


def _prune(case: Case, metric: str, budget: str) -> nn.Module:
    """The graph is analysed once; each plan is applied to a copy."""
    from torch_kirigami import DependencyGraph

    model = case.copy_with(case.gradients if metric == "taylor" else None).eval()
    with mock.patch.object(gpt.GPT, "forward", _unchecked):
        pruner = _pruning().Pruner(model, graph=DependencyGraph.build(model, args=(case.example,)))
    candidates, strategy = pruner.discover_candidates(), _pruning().Greedy(METRICS[metric][0]())

    def at(ratio: float) -> nn.Module:
        plan = pruner.plan(candidates, budget=BUDGETS[budget](model, ratio), strategy=strategy)
        slim, _ = _pruning().Pruner(case.copy_with()).apply(plan)
        return slim

    return case.largest(at, f"{metric}, {budget}")


def _unchecked(model: gpt.GPT, ids: Tensor) -> Tensor:
    """The GPT's ``forward`` without the check of the length, on which its symbolic tracing would end."""
    cos, sin = model.rope(ids)
    x = model.embed(ids)
    for block in model.blocks:
        x = block(x, cos, sin)
    return model.lm_head(model.norm(x))
