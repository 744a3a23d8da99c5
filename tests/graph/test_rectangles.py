from __future__ import annotations

import numpy as np
import pytest
import torch

import graphprune
from graphprune.graph import rectangles
from graphprune.graph.channel_order import ragged
from graphprune.graph.rectangles import Rectangles
from graphprune.graph.size_model import SizeModel
from graphprune.graph.solve import KINDS
from graphprune.rules.labels import LabeledTensor
from graphprune.utils.arrays import Mask

CHOICES = [((), 0.0), (("row",), 0.5), (("cell",), 0.3), (("cell",), 1.0), (("row", "cell"), 0.4), (KINDS, 0.2)]


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4, use_cache=False)
    return graphprune.trace(transformers.LlamaForCausalLM(config).eval(), torch.arange(6)[None])


def _alive(graph: graphprune.ChannelGraph, kinds: tuple[str, ...], share: float, seed: int = 0) -> Mask:
    """What lives without a share of the units of these kinds; of rows and cells, whole rows go in part.

    Of no item all classes go, as in no plan, unless the share is 1.
    """
    solution, draw = graph.solution, np.random.default_rng((len(kinds), seed))
    chosen = np.isin(solution.kind, [KINDS.index(kind) for kind in kinds]) & solution.prunable
    chosen[solution.items.first] &= share == 1
    return solution.alive(np.flatnonzero(chosen & (draw.random(solution.count) < share)))


@pytest.mark.parametrize(("kinds", "share"), CHOICES)
def test_no_rectangle_is_passed_over_that_lost_unequally_many(
    graph: graphprune.ChannelGraph, kinds: tuple[str, ...], share: float
) -> None:
    alive = _alive(graph, kinds, share)
    found = {id(ids) for ids in graph.rectangles.uneven(alive)}
    for ids in graph.rectangles.labels:
        left = alive[graph.solution.of[ids]].sum(axis=1)
        rest = left[left > 0]
        if len(rest) and (rest != rest[0]).any():
            assert id(ids) in found
        elif (left == left[0]).all():
            assert id(ids) not in found


@pytest.mark.parametrize(("kinds", "share"), CHOICES)
def test_no_rectangle_is_passed_over_that_is_ragged(
    graph: graphprune.ChannelGraph, kinds: tuple[str, ...], share: float
) -> None:
    alive = _alive(graph, kinds, share)
    every = ragged(graph.rectangles.labels, graph.solution, alive)
    found = ragged(graph.rectangles.ragged(alive), graph.solution, alive)
    assert list(map(id, found)) == list(map(id, every))


def test_whole_heads_that_go_leave_rectangles_as_they_should_be(graph: graphprune.ChannelGraph) -> None:
    group = next(group for group in graph.units.groups if group.role == "kv_groups")
    alive = graph.solution.alive(group.unit_ids[:2])
    assert any((alive[graph.solution.of[ids]].sum(axis=1) == 0).any() for ids in graph.rectangles.labels)
    assert not list(graph.rectangles.uneven(alive)) and not list(graph.rectangles.ragged(alive))


@pytest.mark.parametrize("kinds", [("row",), ("cell",), ("channel",), KINDS])
def test_rectangles_demand_something_only_where_they_vary(
    graph: graphprune.ChannelGraph, kinds: tuple[str, ...]
) -> None:
    solution = graph.solution
    selectable = solution.prunable & np.isin(solution.kind, [KINDS.index(kind) for kind in kinds])
    sizes = SizeModel(graph.labeling, solution, selectable)
    varying = graph.rectangles.varying(selectable)
    assert [bool(sizes.rectangle(ids)) for ids in graph.rectangles.labels] == varying.tolist()


def test_rectangles_that_are_looked_at_in_parts_are_the_same(
    graph: graphprune.ChannelGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rectangles, "CHUNK", 100)
    labels = [*graph.rectangles.labels, np.zeros((2, 0), np.int64), graph.rectangles.labels[0][:, 1:]]
    parts, alive = Rectangles.of(labels, graph.solution), _alive(graph, ("cell",), 0.5)
    assert list(map(id, parts.uneven(alive)))[:-2] == list(map(id, graph.rectangles.uneven(alive)))
    assert parts.exact.tolist() == [*graph.rectangles.exact.tolist(), False, False]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kinds", "share"), [choice for choice in CHOICES if choice[1] < 1])
def test_sizes_in_one_choice_are_those_of_single_dimensions(
    graph: graphprune.ChannelGraph, kinds: tuple[str, ...], share: float, seed: int
) -> None:
    alive = _alive(graph, kinds, share, seed)
    living, sizes = graph.living_sizes(alive), graph.size_model()
    for node, value in graph.labeling.values.items():
        for dim in range(value.ndim if isinstance(value, LabeledTensor) else 0):
            assert living.count(node, dim) == sizes.count(alive, node, dim), (node, dim)
    for use in graph.trace.sizes.uses:
        stop = use.expr.value if use.prefix else None
        assert living.count(use.node, use.dim, stop) == sizes.count(alive, use.node, use.dim, stop)
