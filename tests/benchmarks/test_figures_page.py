"""The pages with figures show what the benchmarks measured."""

import re
from pathlib import Path

import pytest

from benchmarks.common import read_json
from benchmarks.figures_page import LIBRARIES, MARKED, PAGES, TABLES, filled
from benchmarks.libraries.outcomes import WHEN, Outcome, lead


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


def test_the_page_says_in_how_many_comparisons_graphprune_is_ahead() -> None:
    leads = []
    for found in read_json("compare.json")["networks"].values():
        outcomes = [Outcome(**one) for one in found["outcomes"]]
        for share in {one.share for one in outcomes}:
            mine = [one for one in outcomes if one.share == share]
            leads += [lead(mine, other, when, found["higher"]) for other in LIBRARIES[1:] for when in WHEN]
    known = [one for one in leads if one is not None]
    said = f"graphprune is ahead in {sum(one > 0 for one in known)} of {len(known)} comparisons"
    assert said in PAGES[0].read_text()


def test_each_table_says_what_measured_it() -> None:
    for name, made in TABLES.items():
        assert re.search(r"\n\n\*`python -m benchmarks\.\w+`", made()), name
