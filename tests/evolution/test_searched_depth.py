"""``allocation="searched"`` with ``depth=``: the real loss says which branches go, and how much width of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import NothingRemovedWarning, PlanError
from graphprune.evolution.depth import Depth
from graphprune.planning.depth_units import DepthUnit, DepthUnits, LeftOut
from graphprune.pruning.plan import plans_of
from tests.branches import NETWORKS
from tests.networks import randomize


class Layer(nn.Module):
    """A branch of which every unit counts, and one that adds next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.useful = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
        self.idle = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))
        with torch.no_grad():
            self.idle[2].weight.mul_(1e-3)
            self.idle[2].bias.mul_(1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.useful(x)
        return x + self.idle(x)


def useless_halves() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), *(Layer() for _ in range(3)), nn.Linear(8, 4)).eval()


BATCHES = [torch.randn(32, 8, generator=torch.Generator().manual_seed(n)) for n in range(3)]
ASKED: dict[str, Any] = {"macs": 0.55, "calibration": BATCHES, "allocation": "searched"}


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    return graphprune.trace(useless_halves(), torch.zeros(1, 8))


@pytest.fixture(scope="module")
def plan(graph: graphprune.ChannelGraph) -> graphprune.Plan:
    return graph.plan(depth=0.5, candidates=40, **ASKED)


def test_the_branches_that_do_nothing_go_alone(graph: graphprune.ChannelGraph, plan: graphprune.Plan) -> None:
    """The budget is all but met by them; nobody has to know which of the two branches of each layer they are."""
    assert set(plan.skipped) == {"1.idle", "2.idle", "3.idle"} and plan.zeroed.keys() == set(plan.skipped)
    wide = graph.plan(candidates=40, **ASKED)
    assert float(plan.requested["loss"]) < float(wide.requested["loss"]) / 10
    before, after = plan.costs["macs"]
    assert after / before <= 0.55 and not wide.skipped
    check = graphprune.verify(graph.model, plan.apply(graph.model), plan, torch.zeros(1, 8))
    assert check.passed and check.relative < 1e-10, str(check)


def test_equal_seeds_give_equal_plans(graph: graphprune.ChannelGraph, plan: graphprune.Plan) -> None:
    assert graph.plan(depth=0.5, candidates=40, **ASKED).to_json() == plan.to_json()


def test_no_more_than_asked_goes(graph: graphprune.ChannelGraph) -> None:
    found = graph.plan(depth=0.34, candidates=20, **ASKED)
    assert len(found.skipped) <= 2 and found.requested["branches and blocks"] == 6
    with pytest.warns(NothingRemovedWarning, match=r"depth=0.1: no block is left out; 6 can be, so ask for 0.167"):
        found = graph.plan(depth=0.1, candidates=5, **ASKED)
    assert not found.skipped


def test_a_time_limit_holds_for_all_of_it(graph: graphprune.ChannelGraph) -> None:
    """Where there is no time to measure what each branch does, the one-shot allocations are left."""
    found = graph.plan(depth=0.5, time_limit=1e-3, candidates=10**6, **ASKED)
    assert found.requested["candidates repaired"] <= 2


def test_rounds_leave_out_no_more_than_one_plan() -> None:
    """Branches are counted over all rounds."""
    found = graphprune.prune_iteratively(
        useless_halves(), torch.zeros(1, 8), rounds=2, tune=lambda model: None, depth=0.34, candidates=10, **ASKED
    )
    gone = [path for plan in plans_of(found.model) for path in plan.zeroed]
    assert len(gone) == 2 and len(DepthUnits.of(graphprune.trace(found.model, torch.zeros(1, 8)))) == 4


def test_ratios_of_their_own_leave_blocks_to_their_influence() -> None:
    model = nn.Sequential(nn.Linear(8, 8), *(Layer() for _ in range(3)), nn.Linear(8, 4)).eval()
    graph = graphprune.trace(model, torch.zeros(1, 8))
    found = graph.plan(mlp=0.5, width=0.0, depth=0.34, **ASKED)
    assert len(found.skipped) == 1 and not found.zeroed


def test_what_has_no_depth() -> None:
    graph = graphprune.trace(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.zeros(1, 8))
    with pytest.raises(PlanError, match="depth: the model has no residual block"):
        graph.plan(depth=0.5, **ASKED)


@pytest.mark.parametrize("name", ["post-norm bert", "vit", "swin", "resnet"])
def test_real_networks_are_exact(name: str) -> None:
    """A budget that is out of reach of small widths, so that branches go, and a criterion that reads data."""
    build, inputs, _ = NETWORKS[name]
    torch.manual_seed(0)
    model = randomize(build()).eval()
    generator = torch.Generator().manual_seed(0)
    shape = (4, *inputs.shape[1:])
    batch = torch.randn(shape, generator=generator) if inputs.ndim > 2 else torch.randint(0, 99, shape)
    graph = graphprune.trace(model, inputs)
    found = graph.plan(macs=0.3, depth=0.6, allocation="searched", calibration=[batch], candidates=6)
    slim = found.apply(model)
    check = graphprune.verify(model, slim, found, inputs)
    assert check.passed and check.relative < 1e-10, str(check)
    assert graph.cost(found).macs == graphprune.trace(slim, inputs).cost().macs <= 0.3 * graph.cost().macs


def test_moves_keep_within_what_may_go() -> None:
    """All numbers of units up to the most are reached, and units of little harm go more often."""
    units = DepthUnits(tuple(DepthUnit(LeftOut((str(n),))) for n in range(6)))
    depth = Depth(units, 3, np.arange(6.0))
    rng, gone = np.random.default_rng(0), frozenset[int]()
    seen = []
    for _ in range(300):
        gone = depth.moved(gone, rng)
        seen.append(gone)
    assert {len(one) for one in seen} == {0, 1, 2, 3}
    assert sum(0 in one for one in seen) > sum(5 in one for one in seen)
