"""The pages with figures show what the benchmarks measured."""

import re
from pathlib import Path

import pytest

from benchmarks.common import read_json
from benchmarks.figures_page import LIBRARIES, MARKED, PAGES, TABLES, _best, filled


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_results(page: Path) -> None:
    text = page.read_text()
    assert filled(text) == text


def test_every_table_is_on_the_page() -> None:
    assert [name for _, name, _ in MARKED.findall(PAGES[0].read_text())] != []
    assert {name for _, name, _ in MARKED.findall(PAGES[0].read_text())} == set(TABLES)
    assert {name for _, name, _ in MARKED.findall(PAGES[1].read_text())} <= set(TABLES)


def test_a_table_that_is_not_the_results_is_written_anew() -> None:
    text = "before\n<!-- table: resume -->\n| old |\n<!-- end -->\nafter\n"
    assert "| 20 | 20 |" in filled(text)
    assert "old" not in filled(text)
    assert filled(filled(text)) == filled(text)


def test_graphprune_is_ahead_in_as_many_comparisons_as_the_page_says() -> None:
    data, ahead = read_json("compare.json"), []
    for network in data["dense"]:
        sign = -1 if network.startswith("text") else 1
        for share in (0.5, 0.25):
            ours, *others = (_best(data, network, share, library) for library in LIBRARIES)
            ahead += [sign * a > sign * b for other in others for a, b in zip(ours, other, strict=True)]
    assert f"ahead in all {len(ahead)} comparisons" in PAGES[0].read_text()
    assert all(ahead)


def test_each_table_says_what_measured_it() -> None:
    for name, made in TABLES.items():
        assert re.search(r"\n\n\*`python -m benchmarks\.\w+`", made()), name
