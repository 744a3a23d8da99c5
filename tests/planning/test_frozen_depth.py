"""``depth=`` leaves out no block or branch of which an override freezes a part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Override
from graphprune.errors import PlanError
from graphprune.planning.depth_units import DepthUnits
from graphprune.planning.frozen_parts import FrozenParts
from graphprune.planning.limits import group_limits
from graphprune.training.gradual import GradualPruner
from graphprune.training.schedules import Iterative

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
FROZEN, FREE = Override(frozen=True), Override(frozen=False)


class Layer(nn.Module):
    """``x + f(x)``; ``scale`` says how much it adds."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 16)
        with torch.no_grad():
            self.b.weight.mul_(scale)
            self.b.bias.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.b(self.a(x).relu())
        return out


class TwoSums(nn.Module):
    """A block with two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.one(x)
        out: Tensor = x + self.other(x)
        return out


def net() -> nn.Sequential:
    """The third block adds the least, then the second."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), Layer(1.0), Layer(0.1), Layer(0.01), nn.Linear(16, 4)).eval()


MODEL = net()


@pytest.mark.parametrize(
    ("overrides", "skipped"),
    [
        ({}, "3"),
        ({"3.*": FROZEN}, "2"),
        ({"3.a": FROZEN}, "2"),
        ({"3.b": FROZEN}, "2"),
        ({MODEL[3]: FROZEN}, "2"),
        ({MODEL[3].b: FROZEN}, "2"),
        ({lambda group: group.name == "3.a": FROZEN}, "2"),
        ({"*": FROZEN, "2.*": FREE}, "2"),
        ({"[23].*": FROZEN, Layer: FREE}, "3"),
        ({"3.*": FROZEN, "0": FREE}, "2"),
        ({"0": FROZEN}, "3"),  # the stream alone
        ({lambda group: group.role == "width": FROZEN}, "3"),
        ({"*": Override(ratio=0.0)}, "3"),
        ({"*": Override(min_units=32)}, "3"),
    ],
)
@pytest.mark.parametrize("asked", [{}, {"ratio": 0.25}])
def test_frozen_blocks_stay(overrides: dict[Any, Override], skipped: str, asked: dict[str, float]) -> None:
    assert graphprune.trace(MODEL, X).plan(depth=0.34, overrides=overrides, **asked).skipped == (skipped,)


@pytest.mark.parametrize("key", ["*", Layer, nn.Linear])
def test_where_every_block_is_frozen_none_goes(key: Any) -> None:
    with pytest.raises(PlanError, match=r"depth: parts of 1, 2, 3 are frozen by overrides=, and of the rest nothing"):
        graphprune.trace(MODEL, X).plan(depth=0.34, overrides={key: FROZEN})


def test_where_too_many_blocks_are_frozen_it_is_said_how_many_can_go() -> None:
    graph, overrides = graphprune.trace(MODEL, X), {MODEL[1]: FROZEN, MODEL[2]: FROZEN}
    with pytest.raises(PlanError, match=r"of the rest 1 can be left out[\s\S]*ask for depth=0.334"):
        graph.plan(depth=0.67, overrides=overrides)
    assert graph.plan(depth=0.334, overrides=overrides).skipped == ("3",)


def test_a_search_has_no_frozen_branches_to_choose_from() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), TwoSums(), TwoSums(), nn.Linear(16, 4)).eval()
    graph = graphprune.trace(model, X)
    limits = group_limits(graph.groups, {"1.one.*": FROZEN}, {}, Override(), model)
    units = DepthUnits.of(graph, FrozenParts.of(graph.groups, limits)).units
    assert [unit.left_out.skipped[-1] for unit in units] == ["1.other", "2.one", "2.other"]
    assert [unit.block for unit in units] == ["", "2", "2"]
    asked: dict[str, Any] = {"macs": 0.75, "allocation": "searched", "calibration": [X, X], "candidates": 5}
    plan = graph.plan(depth=0.7, overrides={"1.*": FROZEN}, **asked)
    assert plan.requested["branches and blocks"] == 2 and not any(path.startswith("1") for path in plan.skipped)
    with pytest.raises(PlanError, match=r"depth: parts of 1, 2 are frozen by overrides="):
        graph.plan(depth=0.7, overrides={TwoSums: FROZEN, "0": FREE, "?.one.0": Override(frozen=False)}, **asked)


@pytest.mark.parametrize("held", ["2.*", "2.b"])
def test_schedules_leave_frozen_blocks_alone(held: str) -> None:
    model = net()
    pruner = GradualPruner(model, X, Iterative(2), ratio=0.0, depth=0.67, overrides={held: FROZEN})
    plans = [pruner.step() for _ in range(2)]
    assert [plan.skipped for plan in plans if plan is not None] == [("3",), ("1",)]


def test_schedules_that_freeze_too_much_are_refused_at_once() -> None:
    with pytest.raises(PlanError, match=r"of the rest 1 can be left out"):
        GradualPruner(net(), X, Iterative(2), ratio=0.0, depth=0.67, overrides={"[12].*": FROZEN})
