"""Conclusions from facts: worked out for runs of labels, and the same as label by label."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from graphprune.graph.label_runs import find_runs
from graphprune.graph.segments import SegmentTable
from graphprune.graph.solve import solve
from graphprune.rules.labels import LabelArray, Labels, ParameterAxis
from graphprune.utils.arrays import Ids

NONE = np.zeros(0, np.int64)


def random_labels(rng: np.random.Generator) -> Labels:
    """A few axes, and facts about the whole of them, parts, rows of views, shifts and single labels."""
    labels = Labels()
    sizes = rng.choice([2, 6, 12], size=int(rng.integers(2, 7)))
    axes = [labels.fresh((n,), [0], "channel", ParameterAxis(f"p{i}", 0)) for i, n in enumerate(sizes.tolist())]
    for _ in range(int(rng.integers(1, 7))):
        one, other = (axes[i] for i in rng.integers(len(axes), size=2))
        n = min(len(one), len(other))
        start, rows = int(rng.integers(n)), one.reshape(2, -1)
        facts = [
            lambda one=one, other=other, n=n: labels.unify(one[:n], other[:n]),
            lambda one=one, other=other, n=n, at=start: labels.unify(one[at:n], other[at:n]),
            lambda one=one: labels.unify(one[1:], one[:-1]),
            lambda rows=rows: labels.unify(rows[0], rows[1]),
            lambda rows=rows, other=other: labels.unify(rows, other[:1]),
            lambda one=one, at=start: labels.unify(one[at:], np.zeros(1, np.int64)),
            lambda one=one, at=start: labels.fix([LabelArray(one[at:])], "a reason"),
            lambda one=one, other=other, n=n, at=start: labels.define(one[:n], other[:n], other[at : at + 1]),
            lambda rows=rows: axes.extend(a.ids.ravel() for a in labels.refine(LabelArray(rows), frozenset([0]))),
        ]
        facts[int(rng.integers(len(facts)))]()
    return labels


class LabelByLabel:
    """The same conclusions, one label after the other."""

    def __init__(self, labels: Labels) -> None:
        self.of = list(range(labels.count))
        self.fixed = {0}
        facts = labels.facts
        for pair in (pair for a, b, _ in facts.unions for pair in _rows(a, b)):
            if 0 in pair:
                self.fixed.add(max(pair))
            else:
                self.unite(*pair)
        self.fixed |= {label for ids, _ in facts.fixed for label in ids.ravel().tolist()}
        table = [row for *arrays, _ in facts.parts for row in _rows(*arrays)]
        self.parts = self.composed(table)
        self.spread()
        while circle := self.circle():
            self.fixed |= circle
            self.spread()

    def find(self, label: int) -> int:
        while self.of[label] != label:
            label = self.of[label]
        return label

    def unite(self, a: int, b: int) -> bool:
        a, b = sorted((self.find(a), self.find(b)))
        self.of[b] = a
        return a != b

    def composed(self, table: list[tuple[int, ...]]) -> dict[int, tuple[int, int]]:
        """One composition of each class; those of others are equal to it."""
        while True:
            known: dict[int, tuple[int, int]] = {}
            changed = False
            for whole, *both in table:
                first = known.setdefault(self.find(whole), (both[0], both[1]))
                changed |= sum(self.unite(a, b) for a, b in zip(first, both, strict=True)) > 0
            if not changed:
                return {self.find(whole): (self.find(a), self.find(b)) for whole, (a, b) in known.items()}

    def spread(self) -> None:
        self.fixed = {self.find(label) for label in self.fixed}
        while new := {p for w, both in self.parts.items() if w in self.fixed for p in both} - self.fixed:
            self.fixed |= new

    def left(self) -> dict[int, tuple[int, int]]:
        """What is composed, and not of itself and of what is always there."""
        left = {whole: both for whole, both in self.parts.items() if whole not in self.fixed}
        return {whole: both for whole, both in left.items() if not (whole in both and self.fixed & set(both))}

    def circle(self) -> set[int]:
        left = self.left()
        while ready := [whole for whole, both in left.items() if left.keys().isdisjoint(both)]:
            for whole in ready:
                del left[whole]
        return set(left)


def _rows(*arrays: Ids) -> Iterable[tuple[int, ...]]:
    return zip(*(array.ravel().tolist() for array in np.broadcast_arrays(*arrays)), strict=True)


@pytest.mark.parametrize("seed", range(300))
def test_conclusions_are_those_drawn_label_by_label(seed: int) -> None:
    labels = random_labels(np.random.default_rng(seed))
    expected, solution = LabelByLabel(labels), solve(labels)
    roots = np.array([expected.find(label) for label in range(labels.count)])
    classes = solution.of[np.arange(labels.count)]
    first = np.unique(classes, return_index=True)[1]
    assert (roots == first[classes]).all()
    everything = np.arange(solution.count)
    assert {first[c] for c in np.flatnonzero(solution.reason_of(everything) >= 0)} == expected.fixed
    parts = expected.left()
    composed = np.flatnonzero(solution.parts_of(everything)[:, 0] >= 0)
    assert {int(first[c]): tuple(first[solution.parts_of(np.array(c))].tolist()) for c in composed} == parts
    levels = map(solution.items.classes, solution.items.levels)
    assert set(np.concatenate([NONE, *levels]).tolist()) == set(composed.tolist())


def test_a_dimension_that_moves_as_a_whole_is_one_run() -> None:
    labels = Labels()
    wide = [labels.fresh((5000,), [0], "channel", ParameterAxis(name, 0)) for name in "abc"]
    for ids in wide[1:]:
        labels.unify(wide[0], ids)
    heads = labels.fresh((8 * 100,), [0], "channel", ParameterAxis("q", 0))
    labels.refine(LabelArray(heads.reshape(8, 100)), frozenset([0]))
    runs = find_runs(labels, NONE)
    assert len(runs.start) == 1 + 3 + 8 + 8 + 8  # label 0, three axes, and for every head: channels, row, cells
    assert len(runs.size) == 1 + 1 + 8 + 8 + 8


def test_rows_that_are_equal_are_composed_once() -> None:
    """A detector asks for the scores of each class by itself, of thousands of boxes that are few rows of labels."""
    labels = Labels()
    scores = labels.fresh((4, 90), [0, 1], "channel")
    row, cell = labels.refine(LabelArray(np.tile(scores, (1000, 1))), frozenset([0]))
    assert (row.ids.shape, cell.ids.shape) == ((4000, 1), (4000, 90))
    assert [whole.size for whole, *_ in labels.facts.parts] == [4 * 90]


def test_channels_that_are_all_tied_to_their_neighbors_are_told_apart_in_few_rounds() -> None:
    labels = Labels()
    ids = labels.fresh((3000,), [0], "channel", ParameterAxis("a", 0))
    labels.unify(ids[1:], ids[:-1])
    assert len(set(solve(labels).of[ids].tolist())) == 1


def test_segments_go_on_as_long_as_all_columns_do() -> None:
    table = SegmentTable(2)
    table.add(np.arange(10, 16).reshape(2, 3), np.array([[4], [5]]))
    found = table.found()
    assert found.start.tolist() == [[10, 4], [13, 5]] and found.size.tolist() == [3, 3]
    assert found.step.tolist() == [[1, 0], [1, 0]]
    assert [part.tolist() for part in found.cut(np.array([12, 13, 14]))[:3]] == [
        [[10, 4], [12, 4], [13, 5], [14, 5]],
        [[1, 0], [0, 0], [0, 0], [1, 0]],
        [2, 1, 1, 2],
    ]


@pytest.mark.parametrize(
    ("rows", "alike"),
    [([[5, 6], [1, 2], [5, 6]], [1, 0, 1]), ([[5, 6], [1, 2], [5, 3]], [2, 0, 1]), ([[5, 6], [1, 2]], [0, 1])],
    ids=["equal rows", "rows that begin alike", "rows that begin differently stay in their order"],
)
def test_equal_rows_are_refined_to_equal_labels(rows: list[list[int]], alike: list[int]) -> None:
    row, cell = Labels().refine(LabelArray(np.array(rows)), frozenset([0]))
    assert (row.ids.ravel() - 1).tolist() == alike
    first = 1 + len(set(alike))
    assert cell.ids.tolist() == [[first + 2 * n, first + 2 * n + 1] for n in alike]
