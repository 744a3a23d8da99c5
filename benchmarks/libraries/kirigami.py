"""torch-kirigami, called as its documentation calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
SINGLE, BLOCKS = 1000, 500
"""It looks at every candidate by itself, and the GPT has 3500: four minutes for a search. Where there are more
than ``SINGLE``, neighbours are made one candidate, so that there are at most ``BLOCKS``."""
CACHES = ("impact_cache_size", "normalization_cache_size", "attribute_cache_size", "recipe_cache_size")
REMEMBERED = 100_000
"""What its caches may hold. By default they hold 32 answers, and a plan takes over twice as long."""
TOKENS = 4
"""The length of the texts on which its graph is built: what it does for a reshape grows with it."""


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
    from torch_kirigami import DependencyGraph, config

    config.update(**dict.fromkeys(CACHES, REMEMBERED))
    model = case.copy_with(case.gradients if metric == "taylor" else None).eval()
    strategy = _pruning().Greedy(METRICS[metric][0]())

    def at(ratio: float) -> nn.Module:
        plan = pruner.plan(space, budget=BUDGETS[budget](model, ratio), strategy=strategy)
        slim, _ = _pruning().Pruner(case.copy_with()).apply(plan)
        return slim

    example = case.example if case.example.is_floating_point() else case.example[:, :TOKENS]
    with mock.patch.object(gpt.GPT, "forward", _unchecked), _remembering():
        pruner = _pruning().Pruner(model, graph=DependencyGraph.build(model, args=(example,)))
        space = _in_blocks(pruner.discover_candidates())
        return case.largest(at, f"{metric}, {budget}", 1 / len(space.candidates))


@contextmanager
def _remembering() -> Iterator[None]:
    """Do each propagation once, and do not look whether the model has changed.

    During a search it does not change: plans stay the same, and take a tenth of the time.
    """
    from torch_kirigami import DependencyGraph

    done: dict[Any, Any] = {}
    propagate = DependencyGraph.propagate

    def once(graph: Any, *, remove: Iterable[Any], constraints: Iterable[Any] = ()) -> Any:
        removed = tuple(remove)
        key = graph.id, tuple((s.tensor, s.regions) for s in removed), tuple(constraints)
        if key not in done:
            done[key] = propagate(graph, remove=removed, constraints=constraints)
        return done[key]

    with (
        mock.patch.object(DependencyGraph, "propagate", once),
        mock.patch.object(DependencyGraph, "_check_fresh", return_value=None),
    ):
        yield


def _in_blocks(space: Any) -> Any:
    """So few candidates that a search takes a minute; as large as a power of two, to fit into heads."""
    from torch_kirigami.pruning import Candidate, CandidateSpace

    if len(space.candidates) <= SINGLE:
        return space
    size = 1 << ((len(space.candidates) - 1) // BLOCKS).bit_length()
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
