"""The script that prunes around torch's operations, and the page that it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.common import RESULTS
from benchmarks.opinfo import PAGE, page

STATES = {
    "add": "supported",
    "rot90": "supported",
    "linalg.inv": "supported",
    "cholesky_inverse": "frozen",
    "rand_like": "skipped",
    "flip": "wrong",
}

PROGRAM = """
import json, torch
from benchmarks.opinfo import examine, operations
from graphprune.rules import RULES
from graphprune.rules.pointwise import elementwise
from graphprune.rules.registry import Rule

def found(name):
    return examine(operations([name])[0], most=2)

right = found("flip").state
RULES[torch.ops.aten.flip.default] = Rule(elementwise, ())  # as if entries stayed in their places
all_of_them = {name: found(name) for name in %s}
print(json.dumps([right, {n: [f.state, sorted(f.reasons), sum(f.removed)] for n, f in all_of_them.items()}]))
"""


@pytest.fixture(scope="module")
def right_flip_and_states() -> tuple[str, dict[str, tuple[str, list[str], float]]]:
    """In a process of its own: torch locks its settings when its descriptions of operations are imported."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM % list(STATES)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    right, found = json.loads(done.stdout.splitlines()[-1])
    return right, found


@pytest.mark.parametrize("name", STATES)
def test_the_state_of_an_operation(
    name: str, right_flip_and_states: tuple[str, dict[str, tuple[str, list[str], float]]]
) -> None:
    state, reasons, removed = right_flip_and_states[1][name]
    assert state == STATES[name]
    assert (state == "frozen") is bool(reasons and not removed)


def test_it_is_the_wrong_rule_that_is_seen(
    right_flip_and_states: tuple[str, dict[str, tuple[str, list[str], float]]],
) -> None:
    assert right_flip_and_states[0] == "supported"


def test_the_page_is_of_the_results() -> None:
    data = json.loads((RESULTS / "opinfo.json").read_text())
    assert PAGE.read_text() == page(data["torch"], data["operations"])
    assert not [one["operation"] for one in data["operations"] if one["state"] in ("wrong", "crashed")]
