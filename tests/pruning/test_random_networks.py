"""A hundred random networks hold in every check; the checks see what is planted, and failures shrink.

``make fuzz`` runs thousands of others.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from graphprune import Plan
from tests.random_networks.__main__ import standalone
from tests.random_networks.checker import Outcome, check
from tests.random_networks.generator import Program, program_of
from tests.random_networks.shrinking import shrink
from tests.random_networks.writer import BLOCKS, Facts

COUNT = 100
BATCH = 10


@pytest.fixture(autouse=True)
def _calm() -> Iterator[None]:
    """Torch warns of what old programs do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def wrong(seeds: range) -> dict[int, str]:
    outcomes = {seed: check(program_of(seed, most=2)) for seed in seeds}
    return {seed: f"{o.kind}: {o.detail}" for seed, o in outcomes.items() if not o.right}


@pytest.mark.parametrize("start", range(0, COUNT, BATCH))
def test_random_networks(start: int) -> None:
    assert wrong(range(start, start + BATCH)) == {}


def test_a_seed_makes_the_same_program_again() -> None:
    assert program_of(7) == program_of(7)
    assert program_of(7).source != program_of(8).source


def test_every_block_occurs() -> None:
    known = {name for blocks in BLOCKS.values() for name in blocks}
    assert {name for seed in range(3000) for name in program_of(seed).blocks} == known


PLAIN = """
import torch
from torch import nn
from torch.nn import functional as F


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 8)
        self.unused = nn.Identity()
        self.b = nn.Linear(8, 8)
        self.c = nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = self.unused(x)
        x = F.relu(self.b(x))
        return self.c(x)


def example(batch):
    return (torch.randn(batch, 3, generator=torch.Generator().manual_seed(1)),)
"""


def plain(**options: Any) -> Program:
    return Program(0, PLAIN, {"ratio": 0.5} | options, Facts(), ())


def broken(monkeypatch: pytest.MonkeyPatch, damage: Callable[[nn.Module], object]) -> None:
    """Let every plan make a damaged model."""
    apply = Plan.apply

    def damaged(plan: Plan, model: nn.Module, inplace: bool = False) -> nn.Module:
        slim = apply(plan, model, inplace)
        damage(slim)
        return slim

    monkeypatch.setattr(Plan, "apply", damaged)


def scale(slim: nn.Module) -> None:
    with torch.no_grad():
        slim.get_parameter("b.weight").mul_(1.01)


def test_a_right_program_is_right() -> None:
    found = check(plain())
    assert (found.kind, found.compared) == ("pruned", True)
    assert 0 < found.kept < 0.6


def test_a_changed_weight_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, scale)
    assert check(plain()).kind == "wrong, says verify"


def test_the_zeroed_model_sees_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, scale)
    monkeypatch.setattr("graphprune.Verification.passed", True)
    assert check(plain()).kind == "wrong, says the zeroed model"


def test_a_parameter_that_is_not_trained_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda slim: slim.get_parameter("a.bias").requires_grad_(False))
    assert check(plain()).kind == "does not train"


def test_a_changed_model_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Plan.apply

    def careless(plan: Plan, model: nn.Module, inplace: bool = False) -> nn.Module:
        slim = apply(plan, model, inplace)
        model.train(not model.training)
        return slim

    monkeypatch.setattr(Plan, "apply", careless)
    assert check(plain()).kind == "changed the model"


def test_changed_random_numbers_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda slim: torch.rand(1))
    assert check(plain()) == Outcome("changed torch", "['random numbers']")


def test_a_failure_shrinks_to_what_causes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda slim: slim.get_parameter("a.weight").data.mul_(1.01))
    small = shrink(plain(), check)
    assert "unused" not in small.source and "self.b" not in small.source
    assert "self.a" in small.source
    assert "graphprune.verify" in standalone(small, check(small))


def test_what_cannot_be_pruned_is_no_failure() -> None:
    source = PLAIN.replace("self.b(x))", "self.b(x)).view(-1, 8)").replace("self.a(x))", "self.a(x)).view(-1, 8)")
    found = check(Program(0, source, {"ratio": 0.5}, Facts(), ()))
    assert (found.kind, found.kept) == ("nothing", 1.0)
    assert any(reason.startswith("the size N is a literal") for reason in found.frozen)


def test_a_program_that_does_not_run_is_invalid() -> None:
    assert (
        check(Program(0, PLAIN.replace("nn.Linear(8, 2)", "nn.Linear(7, 2)"), {"ratio": 0.5}, Facts(), ())).kind
        == "invalid"
    )
