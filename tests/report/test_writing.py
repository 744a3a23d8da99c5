"""A report is one file, written whole, in the place of nothing but a report."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import InputError
from graphprune.report.measured import measured_results


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    return graphprune.trace(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.randn(1, 3))


def test_a_report_is_one_file_that_may_load_nothing(graph: graphprune.ChannelGraph, tmp_path: Path) -> None:
    assert graphprune.write_report(tmp_path / "report.html", graph) == tmp_path / "report.html"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text()
    assert re.findall(r'(?:src|href)="([^#][^"]*)"', text) == [] and "url(" not in text and "@import" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    for tag in ("style", "script"):
        code = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert code is not None
        digest = base64.b64encode(hashlib.sha256(code[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]


def test_a_report_takes_the_place_of_a_report_alone(graph: graphprune.ChannelGraph, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("<p>my notes</p>")
    with pytest.raises(InputError, match=r"exists and is no report that graphprune wrote[\s\S]*give another path"):
        graphprune.write_report(path, graph)
    assert path.read_text() == "<p>my notes</p>"
    path.unlink()
    graphprune.write_report(path, graph)
    before = path.read_text()
    graphprune.write_report(path, graph, graph.plan(0.5))
    assert path.read_text() != before
    with pytest.raises(InputError, match=r"exists and is no report"):
        graphprune.write_report(tmp_path, graph)
    with pytest.raises(InputError, match=r"the folder .* does not exist[\s\S]*create it"):
        graphprune.write_report(tmp_path / "no" / "report.html", graph)
    with pytest.raises(InputError, match=r"report.pdf would be opened as something else[\s\S]*report.html"):
        graphprune.write_report(tmp_path / "report.pdf", graph)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"graph": nn.Linear(2, 2)}, "graph: "),
        ({"plan": 0.5}, "plan: "),
        ({"repair": "all"}, "repair: "),
        ({"sensitivity": {}}, "sensitivity: "),
        ({"verification": True}, "verification: "),
        ({"latency": [1.0]}, "latency: "),
        ({"latency": {"dense": -1.0}}, r"latency: 'dense' maps to -1.0[\s\S]*map what was timed to its seconds"),
    ],
)
def test_what_is_no_result_is_refused(
    graph: graphprune.ChannelGraph, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        graphprune.write_report(tmp_path / "report.html", **{"graph": graph, **given})
    assert list(tmp_path.iterdir()) == []


def test_latencies_are_taken_from_measurements(graph: graphprune.ChannelGraph) -> None:
    taken = graphprune.measure(graph.model, torch.randn(1, 3), batch_sizes=(1, 2))
    found = measured_results(None, None, None, {"dense": taken, "slim": 0.5}).latency
    assert found is not None
    assert found[-1] == ("slim", 0.5)
    assert [seconds for _, seconds in found[:-1]] == [one.seconds for one in taken.latencies]
    assert [name for name, _ in found] == ["dense, batch 1", "dense, batch 2", "slim"]


def test_what_measure_returned_is_taken_as_it_is(graph: graphprune.ChannelGraph, tmp_path: Path) -> None:
    one = graphprune.measure(graph.model, torch.randn(1, 3))
    both = graphprune.measure({"dense": graph.model, "slim": graph.model}, torch.randn(1, 3))
    for given, names in ((one, [one.model]), (both, ["dense", "slim"])):
        found = measured_results(None, None, None, given).latency
        assert found is not None
        assert [name.partition(",")[0] for name, _ in found] == names
        graphprune.write_report(tmp_path / "report.html", graph, latency=given)


def test_the_parts_of_the_page_are_in_the_wheel(wheel: Path) -> None:
    assert {path.name for path in (wheel / "graphprune/report").glob("page.*")} == {"page.html", "page.css", "page.js"}


def test_losses_that_diverge_are_told(graph: graphprune.ChannelGraph, tmp_path: Path) -> None:
    names = [group.name for group in graph.groups]
    found = graphprune.Sensitivity(1.0, (0.25, 0.5), {names[0]: ((0.25, float("nan")), (0.5, float("inf")))})
    text = graphprune.write_report(tmp_path / "page.html", graph, sensitivity=found).read_text()
    assert '[[0.25,"NaN"],[0.5,"Infinity"]]' in text
