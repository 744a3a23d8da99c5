"""Numbers by which a slim model scales statistics over its channels, where the original has others.

The slim model is run on shapes, which shows the numbers that it works out; its calls that scale by a number are matched
with those of the original by their place among such calls of the same module.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import fx

from graphprune.graph.analysis import Analysis
from graphprune.graph.statistic_scales import factor_of
from graphprune.pruning.plan import Plan, slim_on_meta
from graphprune.tracing.running import Replay
from graphprune.tracing.tracer import record
from graphprune.utils.global_state import changing_globals
from graphprune.utils.random_state import random_numbers_kept, set_random_state


def slim_factors(graph: Analysis, plan: Plan) -> dict[fx.Node, float]:
    """By the call that scales a statistic over channels, the number that it has in the slim model, where it changes."""
    if not graph.scales.of or not plan.kept:
        return {}
    with changing_globals(), random_numbers_kept():
        set_random_state(graph.trace.random)
        run = _slim_run(graph, plan)
    slim = {place: factor_of(call) for place, call in _places(run.calls)}
    pairs = ((node, slim.get(place)) for place, node in _places(graph.nodes_without(())))
    return {n: new for n, new in pairs if n in graph.scales.of and new is not None and new != factor_of(n)}


def _slim_run(graph: Analysis, plan: Plan) -> Replay:
    """What the slim model does: on shapes, or, if the model looks at values, with them."""
    on_meta = graph.trace.on_meta
    slim = slim_on_meta(plan, graph.model) if on_meta else plan.apply(graph.model)
    return record(slim, graph.examples, graph.trace.pick, on_meta).replayed()


def _places(calls: Iterable[Any]) -> Iterable[tuple[tuple[str, Any, int], Any]]:
    """The calls that scale by a number: the module, the operation and how many such calls came before."""
    counts: dict[tuple[str, Any], int] = {}
    for call in calls:
        if call.op == "call_function" and factor_of(call) is not None:
            key = call.meta.get("module") or "", call.target
            counts[key] = counts.get(key, -1) + 1
            yield (*key, counts[key]), call
