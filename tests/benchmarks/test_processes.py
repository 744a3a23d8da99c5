"""The table of docs/many_processes.md is what the benchmark measured."""

from pathlib import Path

from benchmarks.common import read_json
from benchmarks.processes import CASES, CRITERIA, Comparison, page_table

PAGE = Path(__file__).parents[2] / "docs" / "many_processes.md"


def test_the_page_has_the_results() -> None:
    results = read_json("processes.json")
    assert page_table(results) in PAGE.read_text()
    found = [Comparison(**one) for kind in ("processes", "offloaded") for one in results[kind]]
    assert len(found) == 2 * len(CASES) * (len(CRITERIA) + 1)
    assert all(one.passed for one in found)
    assert max(one.difference or 0.0 for one in found) < 1e-15


def test_what_does_not_pass() -> None:
    assert not Comparison("net", "wanda", False, None, 1.0, 1.0).passed
    assert not Comparison("net", "repair", None, 2e-5, 1.0, 1.0).passed
