"""The table of criteria on networks that were really trained."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.accuracy import cells, failures, medians


def runs() -> list[dict[str, Any]]:
    def run(criterion: str, draw: int, plain: float, repaired: float) -> dict[str, Any]:
        times = {"planned": 1.0, "fitted": 2.0}
        return {"criterion": criterion, "draw": draw, "plain": plain, "repaired": repaired, **times}

    l2 = [run("l2", draw, 0.2, repaired) for draw, repaired in enumerate((0.6, 0.5, 0.7))]
    wanda = [run("wanda", draw, 0.4, repaired) for draw, repaired in enumerate((0.76, 0.84, 1.0))]
    lost = [{"criterion": "taylor", "draw": 0, "error": "no gradients"}]
    return [{"criterion": "dense", "repaired": 1.0}, *l2, *wanda, *lost]


def test_gaps_are_those_of_plain_l2_in_the_same_draw() -> None:
    found = medians(runs())
    assert found["l2"]["closed"] == pytest.approx(0.5)
    assert found["l2"]["least"] == pytest.approx(0.375)
    assert found["wanda"]["closed"] == pytest.approx(0.8)
    assert cells(found["wanda"]) == ["0.4000", "0.8400", "80%", "70%", "3"]
    assert cells(found["dense"]) == ["", "1.0000", "", "", ""]


def test_a_criterion_that_failed_has_no_median_and_a_reason() -> None:
    assert "taylor" not in medians(runs())
    assert failures(runs()) == {"taylor": "no gradients"}


def test_there_is_no_gap_where_l2_loses_nothing() -> None:
    kept = [dict(run, plain=1.0) if run["criterion"] == "l2" else run for run in runs()]
    assert "closed" not in medians(kept)["wanda"]
