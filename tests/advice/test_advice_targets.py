"""What users write as a target."""

from __future__ import annotations

from typing import Any

import pytest

from graphprune.advice.targets import RUNTIMES, parse_target
from graphprune.errors import InputError
from graphprune.planning.options import PruningOptions


@pytest.mark.parametrize(
    ("given", "budgets", "runtime"),
    [
        (None, {"macs": 0.5}, None),
        ({"macs": 0.3, "params": "5M"}, {"macs": 0.3, "params": "5M"}, None),
        ("macs=0.3", {"macs": 0.3}, None),
        ("latency=5ms", {"latency": "5ms"}, None),
        ("macs=0.5, bytes = 20MB", {"macs": 0.5, "bytes": "20MB"}, None),
        ("params=2000000", {"params": "2000000"}, None),
        ("vllm", {"macs": 0.5}, "vllm"),
        ("llama.cpp, bytes=0.5", {"bytes": 0.5}, "llama.cpp"),
        ("size on disk", {"bytes": 0.5}, "size on disk"),
        ({"runtime": "cuda", "latency": 0.5}, {"latency": 0.5}, "cuda"),
    ],
)
def test_targets_are_read(given: Any, budgets: dict[str, Any], runtime: str | None) -> None:
    found = parse_target(given)
    assert found.budgets == budgets
    assert (found.runtime.name if found.runtime else None) == runtime
    assert found.text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vlm", "did you mean vllm"),
        ({"mac": 0.5}, "did you mean macs"),
        ({"macs": -1}, "macs: must be"),
        ({"latency": 3}, "has no unit"),
        ("macs=lots", "macs: must be"),
        (0.5, "target: must be budgets"),
        (["macs"], "target: must be budgets"),
    ],
)
def test_targets_that_are_none(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_target(given)


def test_what_is_timed() -> None:
    assert parse_target("latency=0.5").timed
    assert parse_target("cuda").timed
    assert not parse_target("macs=0.5").timed
    assert not parse_target("size on disk").timed


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=lambda r: r.name)
def test_the_arguments_of_a_runtime_are_those_of_a_plan(runtime: Any) -> None:
    assert PruningOptions.of(None, {"macs": 0.5, **runtime.arguments})
    if runtime.export:
        compile(runtime.export, "export", "eval")
