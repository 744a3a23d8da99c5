from __future__ import annotations

import numpy as np
import pytest

from graphprune.utils.arrays import distinct, distinct_columns, set_in_runs, stable_order


@pytest.mark.parametrize(
    "values", [[3.0, 1.0, 2.0], [2.0, 1.0, 2.0, 1.0, 0.0], [], [1.0], [np.inf, np.nan, 0.0, np.nan]]
)
def test_equal_values_keep_their_order(values: list[float]) -> None:
    given = np.array(values, float)
    assert stable_order(given).tolist() == np.argsort(given, kind="stable").tolist()


@pytest.mark.parametrize("size", [1, 7, 8, 9, 64, 203, (1 << 19) + 5])
def test_what_is_set_in_runs_that_begin_anywhere(size: int) -> None:
    random = np.random.default_rng(size)
    for _ in range(20 if size < 1000 else 1):
        mask = random.random(size) < 0.6
        first = np.flatnonzero((random.random(size) < 0.3) | (np.arange(size) == 0))
        ends = [*first[1:].tolist(), size]
        counts = [int(mask[a:b].sum()) for a, b in zip(first.tolist(), ends, strict=True)]
        assert set_in_runs(mask, first).tolist() == counts


@pytest.mark.parametrize("largest", [3, 10**9], ids=["close", "far apart"])
def test_numbers_in_arrays_are_found_once_and_in_order(largest: int) -> None:
    parts = [np.random.default_rng(0).integers(0, largest, 50), np.array([largest, 0, largest]), np.zeros(0, np.int64)]
    assert distinct(parts).tolist() == sorted({number for part in parts for number in part.tolist()})


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_distinct_columns_are_those_of_numpy(count: int) -> None:
    rows = np.random.default_rng(count).integers(-3, 4, (3, count))
    columns, times = distinct_columns(rows)
    found = sorted(set(zip(*rows.tolist(), strict=True)))
    assert columns.T.tolist() == [list(column) for column in found]
    assert times.tolist() == [int((column == rows.T).all(1).sum()) for column in columns.T]
