from __future__ import annotations

import numpy as np
import pytest

from graphprune.planning.removal_order import RemovalOrder
from graphprune.utils.arrays import Ids, Scores


def _paths(seed: int) -> list[Scores]:
    """A few paths, short and long, with many equal priorities or hardly any, some of which fall."""
    draw = np.random.default_rng(seed)
    kinds, lengths = draw.choice([3, 50, 10**6], 10), draw.choice([0, 1, 5, 300, 4000], 10)
    found = [draw.integers(0, kind, length).astype(float) for kind, length in zip(kinds, lengths, strict=True)]
    found[0][: lengths[0] // 2] = -np.inf
    return found


def _order(priority: list[Scores]) -> RemovalOrder:
    return RemovalOrder.of(iter(priority), np.array([len(values) for values in priority], np.int64))


def _sorted(priority: list[Scores]) -> Ids:
    """The path of every stop in the order of removal."""
    rising = np.concatenate([np.maximum.accumulate(values) for values in priority])
    path = np.repeat(np.arange(len(priority)), [len(values) for values in priority])
    return path[np.argsort(rising, kind="stable")]


@pytest.mark.parametrize("seed", range(20))
def test_what_comes_first_is_what_sorting_all_stops_puts_first(seed: int) -> None:
    priority = _paths(seed)
    order, expected = _order(priority), _sorted(priority)
    assert len(order) == len(expected)
    for count in [0, len(expected), *np.random.default_rng(seed).integers(0, len(expected) + 1, 30).tolist()]:
        assert order.after(count).tolist() == np.bincount(expected[:count], minlength=len(priority)).tolist()
        assert count == len(expected) or order.path_of(count) == expected[count]


@pytest.mark.parametrize("seed", range(20))
def test_a_path_can_be_left_from_a_stop_on(seed: int) -> None:
    priority = _paths(seed)
    everything = _sorted(priority)
    count = int(np.random.default_rng(seed).integers(0, len(everything)))
    path, rest = int(everything[count]), everything[count:]
    order = _order(priority).without(path, count)
    expected = np.concatenate([everything[:count], rest[rest != path]])
    assert len(order) == len(expected)
    for number in range(0, len(expected) + 1, 37):
        assert order.after(number).tolist() == np.bincount(expected[:number], minlength=len(priority)).tolist()


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_can_come_first(seed: int) -> None:
    """With those before it on its path."""
    priority = _paths(seed)
    everything = _sorted(priority)
    number = int(np.random.default_rng(seed).integers(0, len(everything)))
    path = int(everything[number])
    order = _order(priority).beginning_with(path, number)
    begun = int((everything[: number + 1] == path).sum())
    for count in range(0, len(everything) + 1, 37):
        expected = np.bincount(everything[:count], minlength=len(priority))
        expected[path] = max(expected[path], begun)
        assert order.after(count).tolist() == expected.tolist()


def test_an_order_is_uneven_where_a_path_is_ahead_of_another_by_more_than_a_stop() -> None:
    order = _order([np.arange(1, 9) / 8, np.arange(1, 4) / 3, np.arange(1, 9) / 8])
    assert max(order.unevenness(order.after(n)) for n in range(len(order) + 1)) == 0
    assert order.unevenness(np.array([2, 1, 2], np.int64)) == 0
    assert order.unevenness(np.array([0, 1, 0], np.int64)) == 0
    assert order.unevenness(np.array([5, 0, 5], np.int64)) == pytest.approx(4 / 8 - 1 / 3)
    assert order.unevenness(np.array([0, 2, 0], np.int64)) == pytest.approx(1 / 3 - 1 / 8)
    assert _order([]).unevenness(np.zeros(0, np.int64)) == 0


def test_there_may_be_no_paths() -> None:
    assert len(_order([])) == 0
    assert _order([]).after(0).tolist() == []
