from __future__ import annotations

import numpy as np
import pytest
import torch

import graphprune
from graphprune.graph.item_pieces import item_pieces, needed_units
from graphprune.utils.arrays import Ids


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=8, num_key_value_heads=4, use_cache=False)
    return graphprune.trace(transformers.LlamaForCausalLM(config).eval(), torch.arange(6)[None])


def _by_entry(graph: graphprune.ChannelGraph, classes: Ids) -> dict[tuple[int, int], int]:
    """By row and unit, how many entries of the row need the unit."""
    row = np.repeat(np.arange(len(classes)), classes.shape[1])
    unit, row = graph.solution.expand(classes.ravel(), row)
    pairs, counts = np.unique(np.stack([row, unit]), axis=1, return_counts=True)
    return {(r, u): n for (r, u), n in zip(pairs.T.tolist(), counts.tolist(), strict=True)}


def test_units_that_rows_need_are_counted_as_entry_by_entry(graph: graphprune.ChannelGraph) -> None:
    items, rectangles = graph.solution.items, graph.labeling.labels.facts.rectangles
    assert rectangles
    for ids, _ in rectangles:
        classes = graph.solution.of[ids]
        found = needed_units(classes, items)
        assert found is not None
        every = {
            (row, unit): times
            for row, item, times in zip(found.row.tolist(), found.item.tolist(), found.times.tolist(), strict=True)
            for unit in items.classes(np.array([item])).tolist()
        }
        assert every == _by_entry(graph, classes)


def test_a_part_of_an_item_is_no_whole_one(graph: graphprune.ChannelGraph) -> None:
    items = graph.solution.items
    item = int(items.size.argmax())
    classes = items.first[item] + np.arange(items.size[item])[None]
    assert item_pieces(classes, items).whole
    assert not item_pieces(classes[:, 1:], items).whole
    assert needed_units(classes[:, 1:], items) is None
    assert item_pieces(classes[:, 1:], items).item.tolist() == [item]


def test_pieces_end_with_rows(graph: graphprune.ChannelGraph) -> None:
    items = graph.solution.items
    item = int(items.size.argmax())
    halves = (items.first[item] + np.arange(items.size[item])).reshape(2, -1)
    found = item_pieces(halves, items)
    assert found.row.tolist() == [0, 1]
    assert found.item.tolist() == [item, item]
    assert not found.whole


def test_constraints_that_are_known_are_handed_out_as_copies(graph: graphprune.ChannelGraph) -> None:
    free = graph.solution.prunable
    one = graph.constraints(free)
    count = len(one.equations)
    one.equations.clear()
    one.frozen[0] = "changed"
    other = graph.constraints(free.copy())
    assert len(other.equations) == count > 0
    assert 0 not in other.frozen
