"""The script that prunes around torch's operations, and the page that it writes."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.common import RESULTS
from benchmarks.opinfo import PAGE, examine, operations, page
from graphprune.rules import RULES
from graphprune.rules.pointwise import elementwise
from graphprune.rules.registry import Rule


@pytest.mark.parametrize(
    ("name", "state"),
    [("add", "supported"), ("rot90", "supported"), ("linalg.inv", "frozen"), ("rand_like", "skipped")],
)
def test_the_state_of_an_operation(name: str, state: str) -> None:
    found = examine(*operations([name]), most=2)
    assert found.state == state, found.messages
    assert (state == "frozen") is bool(found.reasons and not any(found.removed))


def test_a_wrong_rule_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    (op,) = operations(["flip"])
    assert examine(op, most=2).state == "supported"
    monkeypatch.setitem(RULES, torch.ops.aten.flip.default, Rule(elementwise, ()))
    assert examine(op, most=2).state == "wrong"


def test_the_page_is_of_the_results() -> None:
    data = json.loads((RESULTS / "opinfo.json").read_text())
    assert PAGE.read_text() == page(data["torch"], data["operations"])
    assert not [one["operation"] for one in data["operations"] if one["state"] in ("wrong", "crashed")]
