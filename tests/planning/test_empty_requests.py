"""A request of which nothing comes is an error or a warning."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import InputError, NothingRemovedWarning

X = torch.randn(2, 6)


class Net(nn.Module):
    """Two hidden layers and a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.block = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(x + self.block(x))
        return out


@pytest.fixture
def model() -> Net:
    return Net().eval()


Asked = dict[str, Any]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ratio": 0.01}, r"ratio=0.01: nothing is removed; the ratio is less than one unit .* has 12 units"),
        ({"ratio": 0.5, "multiple": 1000}, r"no group has more than multiple=1000 units: ask for a smaller multiple"),
        ({"ratio": 0.5, "max_ratio": 0}, r"max_ratio=0 lets less than one unit of each group go"),
        ({"macs": "10T"}, r"macs=10T: nothing is removed; the model is within the budget"),
        ({"params": 10**9}, r"params=1000000000: nothing is removed"),
        ({"mlp": 0.1, "ratio": 0.5}, r"mlp=0.1: nothing is removed"),
        (
            {"ratio": 0.5, "overrides": {"stem": graphprune.Override(ratio=0.01)}},
            r"overrides of 'stem', ratio=0.01: nothing is removed; .*\n  stem keeps all of its 12 units",
        ),
        ({"ratio": 0.5, "overrides": {"*": graphprune.Override(frozen=True)}}, r"ratio=0.5: nothing is removed"),
        (
            {"ratio": 0.5, "overrides": {"stem": graphprune.Override(min_units=13)}},
            r"overrides of 'stem', min_units=13: no group that it is for has more than 12 units",
        ),
        (
            {"ratio": 0.5, "overrides": {"stem": graphprune.Override(multiple=16)}},
            r"overrides of 'stem', multiple=16: no group that it is for has more than 12 units",
        ),
    ],
)
def test_nothing_removed_is_warned_of(model: Net, asked: Asked, message: str) -> None:
    with pytest.warns(NothingRemovedWarning, match=message) as found:
        graphprune.trace(model, X).plan(**asked)
    assert [w.filename for w in found] == [__file__]
    with pytest.warns(NothingRemovedWarning, match=message) as found:
        graphprune.prune_model(model, example_inputs=X, **asked)
    assert [w.filename for w in found] == [__file__]


@pytest.mark.parametrize(
    "asked",
    [
        {"ratio": 0},
        {"ratio": 0.5},
        {"macs": 1.0},
        {"macs": 0.5},
        {"mlp": 0.0, "ratio": 0.5},
        {"heads": 0.0, "ratio": 0.5},
        {"ratio": 0.5, "overrides": {"stem": graphprune.Override(min_units=12)}},
        {"ratio": 0.5, "overrides": {"*": graphprune.Override(multiple=4)}},
    ],
)
def test_what_is_met_is_not_warned_of(model: Net, asked: Asked) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphprune.trace(model, X).plan(**asked)


@pytest.mark.parametrize("role", ["heads", "kv_groups", "head_width", "experts"])
def test_a_role_that_no_group_has(model: Net, role: str) -> None:
    with pytest.raises(
        InputError, match=rf"{role}: 0.5 is asked of {role}, of which nothing can .* groups of mlp, width"
    ):
        graphprune.prune_model(model, example_inputs=X, **{role: 0.5})


def test_depth_of_less_than_a_block() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks, self.head = nn.Linear(6, 8), nn.Sequential(Block(), Block()), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.blocks(self.stem(x)))
            return out

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x).relu()

    graph = graphprune.trace(Deep().eval(), X)
    with pytest.warns(
        NothingRemovedWarning, match=r"depth=0.3: no block is left out; 2 can be, so ask for 0.5 or more"
    ):
        graph.plan(depth=0.3)
    assert len(graph.plan(depth=0.5).skipped) == 1


class TestModulesAsKeys:
    def test_a_layer(self, model: Net) -> None:
        plan = graphprune.trace(model, X).plan(0.5, overrides={model.stem: graphprune.Override(frozen=True)})
        assert {c.group: c.kept for c in plan.choices} == {"stem": 12, "block.0": 4}

    def test_what_a_module_holds(self, model: Net) -> None:
        plan = graphprune.trace(model, X).plan(0.0, overrides={model.block[0]: graphprune.Override(ratio=0.5)})
        assert {c.group: c.kept for c in plan.choices} == {"stem": 12, "block.0": 4}
        plan = graphprune.trace(model, X).plan(0.0, overrides={model.block: graphprune.Override(ratio=0.5)})
        assert {c.group: c.kept for c in plan.choices} == {"stem": 6, "block.0": 4}

    def test_modules_of_another_model(self, model: Net) -> None:
        with pytest.raises(InputError, match=r"the Linear given \(not in this model\) matches no group"):
            graphprune.trace(model, X).plan(0.5, overrides={Net().stem: graphprune.Override(frozen=True)})

    def test_a_module_that_makes_no_group(self, model: Net) -> None:
        with pytest.raises(InputError, match=r"overrides: 'head' matches no group; there are 'stem', 'block.0'"):
            graphprune.trace(model, X).plan(0.5, overrides={model.head: graphprune.Override(frozen=True)})


@pytest.mark.parametrize("override", [graphprune.Override(frozen=True), graphprune.Override(min_units=3)])
def test_overrides_that_only_hold_ask_for_nothing(model: Net, override: graphprune.Override) -> None:
    with pytest.raises(InputError, match=r"ratio: nothing is asked for, and overrides= say only what stays"):
        graphprune.trace(model, X).plan(overrides={"*": override})


@pytest.mark.parametrize("asked", [{"mlp": 0.5}, {"overrides": {"*": graphprune.Override(ratio=0.5)}}])
def test_an_allocation_has_something_to_share_out(model: Net, asked: dict[str, Any]) -> None:
    graph = graphprune.trace(model, X)
    with pytest.raises(InputError, match=r"allocation: 'global' has nothing to share out: [\s\S]*give a ratio"):
        graph.plan(allocation="global", **asked)
    assert graph.plan(allocation="uniform", **asked).kept
