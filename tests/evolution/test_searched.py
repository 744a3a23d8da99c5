"""``allocation="searched"``: the better allocation is found within the budgets, and nothing else changes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.calibration.output_error import DenseOutputs, outputs_of
from graphprune.errors import InputError, SearchInterruptedWarning
from graphprune.evolution.candidates import STARTS
from graphprune.evolution.choosing import _Trials
from graphprune.graph.groups import Group
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import make_plan


class TwoLayers(nn.Module):
    """Two hidden layers one after another; of the first only two units do anything, of the second all do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.between = nn.Linear(8, 32), nn.Linear(32, 8)
        self.second, self.last = nn.Linear(8, 32), nn.Linear(32, 12)
        with torch.no_grad():
            self.between.weight[:, 2:] *= 1e-3

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.between(self.first(x).relu())
        return self.last(self.second(x).relu())


def by_number(group: Group, context: Any) -> Tensor:
    """A criterion that knows which units are better, and nothing of which groups are."""
    return torch.arange(group.units, 0, -1, dtype=torch.float64)


BATCHES = [torch.randn(32, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]
ASKED: dict[str, Any] = {"macs": 0.5, "importance": by_number, "calibration": BATCHES}


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    return graphprune.trace(TwoLayers(), torch.zeros(1, 8))


@pytest.fixture(scope="module")
def plan(graph: graphprune.ChannelGraph) -> graphprune.Plan:
    return graph.plan(allocation="searched", candidates=60, **ASKED)


def repaired_loss(graph: graphprune.ChannelGraph, plan: graphprune.Plan) -> float:
    slim = plan.apply(graph.model)
    graphprune.repair(slim, graph.model, plan, BATCHES)
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(9))
    found, wanted = (outputs_of(model, [(0, x)]) for model in (slim, graph.model))
    return DenseOutputs(wanted).error(found).value


def test_the_better_allocation_is_found(graph: graphprune.ChannelGraph, plan: graphprune.Plan) -> None:
    """It keeps what matters, and loses less than a half of what the best one-shot allocation does."""
    kept = {choice.group: choice.kept for choice in plan.choices}
    assert kept["first"] < 8 < kept["second"]
    others = [repaired_loss(graph, graph.plan(allocation=name, **ASKED)) for name in STARTS]
    assert repaired_loss(graph, plan) < min(others) / 2


def test_the_budget_is_met_and_used_up(plan: graphprune.Plan) -> None:
    before, after = plan.costs["macs"]
    assert 0.46 < after / before <= 0.5


def test_several_budgets_and_a_ratio(graph: graphprune.ChannelGraph) -> None:
    both = graph.plan(allocation="searched", candidates=20, params=0.4, **ASKED)
    assert all(
        after <= share * before
        for (before, after), share in zip((both.costs["macs"], both.costs["params"]), (0.5, 0.4), strict=True)
    )
    half = graph.plan(0.5, allocation="searched", candidates=20, importance=by_number, calibration=BATCHES)
    assert sum(choice.kept for choice in half.choices) <= sum(choice.units for choice in half.choices) / 2


def test_the_plan_says_what_was_tried(plan: graphprune.Plan) -> None:
    assert plan.requested["allocation"] == "searched"
    assert 3 <= plan.requested["candidates tried"] <= 60
    assert float(plan.requested["loss"]) < float(plan.requested["loss of the start"])
    assert graphprune.Plan.from_json(plan.to_json()).requested == plan.requested


def test_what_is_repaired_is_judged_by_all_that_was_held_back(graph: graphprune.ChannelGraph) -> None:
    """Half of the samples, however few are enough for candidates that are assembled."""
    batches = [torch.randn(48, 8, generator=torch.Generator().manual_seed(n)) for n in range(6)]
    plan = graph.plan(allocation="searched", candidates=20, **ASKED | {"calibration": batches})
    slim, judging = plan.apply(graph.model), list(enumerate(batches[1::2]))
    graphprune.repair(slim, graph.model, plan, batches[::2])
    found, wanted = (outputs_of(model, judging) for model in (slim, graph.model))
    assert plan.requested["loss"] == f"{DenseOutputs(wanted).error(found).value:.4g}"


def test_the_same_seed_gives_the_same_plan(graph: graphprune.ChannelGraph, plan: graphprune.Plan) -> None:
    again = graph.plan(allocation="searched", candidates=60, **ASKED)
    assert again.to_json() == plan.to_json()


def test_the_model_and_random_numbers_stay(graph: graphprune.ChannelGraph) -> None:
    model = graph.model.train()
    before, state, numbers = [p.clone() for p in model.parameters()], torch.get_rng_state(), np.random.get_state()[1]
    graph.plan(allocation="searched", candidates=5, **ASKED)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numbers)  # type: ignore[arg-type]
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_interrupted_the_best_so_far_is_taken(graph: graphprune.ChannelGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    judged, real = [], _Trials.loss_of

    def loss_of(self: _Trials, candidate: Any) -> float:
        judged.append(candidate)
        if len(judged) == 6:
            raise KeyboardInterrupt
        return real(self, candidate)

    monkeypatch.setattr(_Trials, "loss_of", loss_of)
    with pytest.warns(SearchInterruptedWarning, match="after 5 candidates; the best of them is taken"):
        plan = graph.plan(allocation="searched", **ASKED)
    assert plan.requested["interrupted"] is True
    assert plan.requested["candidates tried"] == 5
    assert plan.costs["macs"][1] <= 0.5 * plan.costs["macs"][0]


def test_a_time_limit_ends_it(graph: graphprune.ChannelGraph) -> None:
    began = time.monotonic()
    plan = graph.plan(allocation="searched", candidates=100_000, time_limit=1.0, **ASKED)
    assert time.monotonic() - began < 5
    assert plan.requested["candidates tried"] >= len(STARTS)


def test_the_loss_of_the_user_decides(graph: graphprune.ChannelGraph) -> None:
    pairs = [(x, graph.model(x).argmax(1).detach()) for x in BATCHES]
    asked = ASKED | {"calibration": pairs, "loss_fn": nn.functional.cross_entropy}
    plan = graph.plan(allocation="searched", candidates=20, **asked)
    assert float(plan.requested["loss"]) <= float(plan.requested["loss of the start"])


def test_prune_model_repairs_with_the_same_batches(graph: graphprune.ChannelGraph) -> None:
    slim = graphprune.prune_model(
        graph.model, example_inputs=torch.zeros(1, 8), allocation="searched", candidates=10, **ASKED
    )
    assert slim(torch.zeros(2, 8)).shape == (2, 12)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"macs": 0.5, "allocation": "searched"}, "judges candidates on data, and there are none"),
        ({"macs": 0.5, "candidates": 10}, "candidates: given without allocation='searched'"),
        ({"macs": 0.5, "time_limit": 10}, "time_limit: given without allocation='searched'"),
        ({"macs": 0.5, "allocation": "searched", "time_limit": 0}, "must be a number of seconds above 0"),
        ({"latency": 0.5, "allocation": "searched"}, "and latency= is measured"),
    ],
)
def test_errors(graph: graphprune.ChannelGraph, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        graph.plan(**asked)
    error = caught.value
    assert all((error.what, error.found, error.needed, error.do))


def test_where_nothing_is_searched_it_says_so(graph: graphprune.ChannelGraph) -> None:
    asked = {"macs": 0.5, "calibration": BATCHES, "allocation": "searched"}
    with pytest.raises(InputError, match="judges candidates, which is not done here"):
        make_plan(graph, PruningOptions.of(None, asked))
