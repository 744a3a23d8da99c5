"""Pruned networks come back from their source in a process without graphprune: outputs and gradients are equal."""

from pathlib import Path

import pytest

from benchmarks.export_source import is_equal, round_trip


@pytest.mark.parametrize("name", ["transformer"])
def test_a_network_comes_back(name: str, tmp_path: Path) -> None:
    found = round_trip(name, tmp_path / "written")
    assert is_equal(found), found
    assert found["lines"] < 300
