"""torch-kirigami, called as its documentation calls it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
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
"""Its metrics, and the budgets under which each is tried."""
SINGLE, BLOCKS = 1000, 250
"""It looks at every candidate by itself: 700 channels take half a minute, 1900 take over four. Where there are more
than ``SINGLE``, neighbours are made one candidate, so that there are ``BLOCKS``."""


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
    candidates, strategy = _in_blocks(pruner.discover_candidates()), _pruning().Greedy(METRICS[metric][0]())

    def at(ratio: float) -> nn.Module:
        plan = pruner.plan(candidates, budget=BUDGETS[budget](model, ratio), strategy=strategy)
        slim, _ = _pruning().Pruner(case.copy_with()).apply(plan)
        return slim

    return case.largest(at, f"{metric}, {budget}")


def _in_blocks(space: Any) -> Any:
    """So few candidates that a plan takes about a minute."""
    from torch_kirigami.pruning import Candidate, CandidateSpace

    if len(space.candidates) <= SINGLE:
        return space
    size = -(-len(space.candidates) // BLOCKS)
    blocks = []
    for axis, same in groupby(space.candidates, lambda candidate: candidate.axis):
        found = list(same)
        parts = (found[i : i + size] for i in range(0, len(found), size))
        blocks += [Candidate(part[0].key, tuple(s for c in part for s in c.remove), axis) for part in parts]
    return CandidateSpace(tuple(blocks), space.channel_axes, space.excluded_channel_axes, space.exclusions)


def _unchecked(model: gpt.GPT, ids: Tensor) -> Tensor:
    """The GPT's ``forward`` without the check of the length, on which its symbolic tracing would end."""
    cos, sin = model.rope(ids)
    x = model.embed(ids)
    for block in model.blocks:
        x = block(x, cos, sin)
    return model.lm_head(model.norm(x))
