from __future__ import annotations

import numpy as np
import pytest
import torch

import graphprune
from graphprune.graph.dimensions import Dimensions
from graphprune.graph.living import Living
from graphprune.graph.solve import KINDS, Solution
from graphprune.planning.unread_sizes import _Within
from graphprune.rules.labels import LabeledTensor
from graphprune.utils.arrays import Ids, Mask


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=50,
        use_cache=False,
    )
    return graphprune.trace(transformers.LlamaForCausalLM(config).eval(), torch.arange(6)[None])


def _living(graph: graphprune.ChannelGraph, gone: Ids) -> Living:
    items = graph.solution.items
    return Living(graph.solution, np.bincount(items.item_of(gone), minlength=len(items.size)), lambda: gone)


def _units(graph: graphprune.ChannelGraph, kinds: tuple[str, ...], share: float) -> Ids:
    solution, draw = graph.solution, np.random.default_rng(len(kinds))
    chosen = np.isin(solution.kind, [KINDS.index(kind) for kind in kinds]) & solution.prunable
    return np.flatnonzero(chosen & (draw.random(solution.count) < share))


@pytest.mark.parametrize("kinds", [(), ("channel",), ("row",)])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_counts_of_many_dimensions_are_those_of_single_ones(
    graph: graphprune.ChannelGraph, kinds: tuple[str, ...], share: float
) -> None:
    gone = _units(graph, kinds, share)
    sizes, dimensions = graph.size_model(), Dimensions(graph.size_model())
    values = {n: v for n, v in graph.labeling.values.items() if isinstance(v, LabeledTensor) and v.arrays}
    numbered = [(node, dim, dimensions.number(node, dim)) for node, v in values.items() for dim in range(v.ndim)]
    alive = graph.solution.alive(gone)
    by_items, by_classes = dimensions.counts_of(_living(graph, gone)), dimensions.counts(alive)
    assert dimensions.grids
    for node, dim, number in numbered:
        assert by_items[number] == by_classes[number] == sizes.count(alive, node, dim), (node, dim)


def _alive_one_by_one(solution: Solution, gone: Ids) -> Mask:
    alive = np.ones(solution.count, bool)
    alive[gone] = False
    for _ in range(len(solution.items.levels)):
        for number in range(solution.count):
            first, second = solution.parts_of(np.array(number)).tolist()
            if first >= 0:
                alive[number] = alive[first] and alive[second]
    return alive


def test_what_lives_is_what_both_parts_of_a_composed_class_let_live(graph: graphprune.ChannelGraph) -> None:
    gone = _units(graph, KINDS, 0.2)
    assert (graph.solution.alive(gone) == _alive_one_by_one(graph.solution, gone)).all()


def test_units_behind_classes_carry_their_columns(graph: graphprune.ChannelGraph) -> None:
    solution = graph.solution
    composed = np.flatnonzero(solution.parts_of(np.arange(solution.count))[:, 0] >= 0)
    units, origin = solution.expand(composed, composed)
    assert solution.prunable[units].all() and set(origin.tolist()) <= set(composed.tolist())
    for number in composed[::37].tolist():
        waiting, expected = [number], set()
        while waiting:
            parts = solution.parts_of(np.array(waiting.pop())[None])[0].tolist()
            waiting += [part for part in parts if solution.parts_of(np.array(part))[0] >= 0]
            expected |= {p for p in parts if solution.prunable[p]}
        assert set(units[origin == number].tolist()) == expected


def test_things_are_found_by_the_modules_that_they_lie_within() -> None:
    found: _Within[int] = _Within()
    for path, number in {"a.b.weight": 1, "a.weight": 2, "ab.weight": 3}.items():
        found.add(path, number)
    assert (found.of(""), found.of("a"), found.of("a.b"), found.of("c")) == ({1, 2, 3}, {1, 2}, {1}, set())
    assert (found.directly("a"), found.directly(""), found.of("a.weight")) == ({2}, set(), {2})
