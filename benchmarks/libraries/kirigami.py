"""torch-kirigami, called as its documentation calls it: a graph, candidates, a plan with a budget, and its application.

The candidates are its own, each once, and put together in blocks where there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any
from unittest import mock

from torch import Tensor, nn

from benchmarks.libraries.case import Case, Method
from models import gpt

LIBRARY = "torch-kirigami"
SCOPES = {"each layer": "local", "channels": "global"}
METRICS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "group magnitude": (lambda: _pruning().GroupMagnitude(), ("each layer", "channels")),
    "taylor": (lambda: _pruning().WeightTaylor(), ("channels",)),
}
"""Its metrics, and the scopes of the channels' ratio with which each is tried."""
SINGLE, BLOCKS = 1000, 600
"""It looks at every candidate by itself, and MobileNetV2 has 4136: many minutes for a search. Where there are more
than ``SINGLE``, neighbors are made one candidate: all of the same size and at most ``BLOCKS``, or, where each layer
has a ratio of its own and scores are compared in it alone, as many in each and about ``BLOCKS`` in all."""
TOKENS = 4
"""The length of the texts on which its graph is built: what it does for a reshape grows with it."""


def methods() -> list[Method]:
    """Its metrics in their scopes."""
    return [
        Method(LIBRARY, f"{metric}, {scope}", partial(_prune, metric=metric, scope=scope))
        for metric, (_, scopes) in METRICS.items()
        for scope in scopes
    ]


def _pruning() -> Any:
    from torch_kirigami import pruning

    return pruning


def _prune(case: Case, metric: str, scope: str) -> nn.Module:
    """Each plan is made of one graph, and applied to a copy."""
    strategy = _pruning().Greedy(METRICS[metric][0]())
    with mock.patch.object(gpt.GPT, "forward", _unchecked):
        pruner, space = _analyzed(case, case.gradients if metric == "taylor" else None)
        space = _in_blocks(space, scope)

        def at(ratio: float) -> nn.Module:
            budget = _pruning().ChannelRatio(ratio, scope=SCOPES[scope])
            slim, _ = _pruning().Pruner(case.copy_with()).apply(pruner.plan(space, budget=budget, strategy=strategy))
            return slim

        return case.largest(at, f"{metric}, {scope}", 1 / len(space.candidates))


def _analyzed(case: Case, gradients: Mapping[str, Tensor] | None) -> tuple[Any, Any]:
    """A pruner of a copy of the dense network with these gradients, and the candidates."""
    from torch_kirigami import DependencyGraph

    model = case.copy_with(gradients).eval()
    example = case.example if case.example.is_floating_point() else case.example[:, :TOKENS]
    graph = DependencyGraph.build(model, args=(example,))
    pruner = _pruning().Pruner(model, graph=graph)
    return pruner, _distinct(pruner.discover_candidates(), graph)


def _distinct(space: Any, graph: Any) -> Any:
    """Each removal once: what makes a channel and what comes after it may both be candidates that mean the same."""
    found: dict[Any, Any] = {}
    for candidate in space.candidates:
        removed = graph.propagate(remove=candidate.remove).selections.items()
        found.setdefault(frozenset((tensor, s.regions) for tensor, s in removed), candidate)
    return _with(space, list(found.values()))


def _in_blocks(space: Any, scope: str) -> Any:
    """So few candidates that a search takes minutes; as large as a power of two, to fit into heads."""
    from torch_kirigami.pruning import Candidate

    if len(space.candidates) <= SINGLE:
        return space
    layers = [list(same) for _, same in groupby(space.candidates, lambda candidate: candidate.axis)]
    in_layer = 1 << (BLOCKS // len(layers)).bit_length()
    blocks = []
    for found in layers:
        size = _size(len(found), in_layer) if scope == "each layer" else _size(len(space.candidates), BLOCKS)
        parts = (found[i : i + size] for i in range(0, len(found), size))
        blocks += [Candidate(part[0].key, tuple(s for c in part for s in c.remove), part[0].axis) for part in parts]
    return _with(space, blocks)


def _size(candidates: int, blocks: int) -> int:
    """The least power of two that makes at most so many blocks."""
    return 1 << ((candidates - 1) // blocks).bit_length()


def _with(space: Any, candidates: Sequence[Any]) -> Any:
    """The same channels, and other candidates for their removal."""
    kind = _pruning().CandidateSpace
    return kind(tuple(candidates), space.channel_axes, space.excluded_channel_axes, space.exclusions)


def _unchecked(model: gpt.GPT, ids: Tensor) -> Tensor:
    """The GPT's ``forward`` without the check of the length, on which its symbolic tracing would end."""
    cos, sin = model.rope(ids)
    x = model.embed(ids)
    for block in model.blocks:
        x = block(x, cos, sin)
    return model.lm_head(model.norm(x))
