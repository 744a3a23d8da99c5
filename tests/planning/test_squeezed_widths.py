"""``squeeze`` takes away a dimension that is left with one entry: two stay, whichever the criterion chooses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Override, PlanError

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
REASON = "squeeze takes away a dimension that is left with one entry"


class Pooled(nn.Module):
    """A convolution of which the first channels matter least, pooled to one place."""

    def __init__(self, width: int, groups: int = 1, squeezed: Callable[[Tensor], Tensor] = torch.squeeze) -> None:
        super().__init__()
        self.conv, self.leave = nn.Conv2d(4, width, 3, groups=groups), nn.Linear(width, 5)
        self.squeezed = squeezed
        with torch.no_grad():
            scale = torch.arange(1, width + 1).reshape(-1, 1, 1, 1)
            self.conv.weight.copy_(scale * torch.ones_like(self.conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.squeezed(self.conv(x).relu().mean((2, 3), keepdim=True)))
        return found


def squeezed_one_by_one(y: Tensor) -> Tensor:
    return y.squeeze(1).squeeze(-1).squeeze(-1)


def squeezed_together(y: Tensor) -> Tensor:
    return y.squeeze((1, 2, 3))


@pytest.mark.parametrize("squeezed", [torch.squeeze, squeezed_one_by_one, squeezed_together])
def test_the_criterion_chooses_which_channels_stay(squeezed: Callable[[Tensor], Tensor]) -> None:
    model = Pooled(16, squeezed=squeezed).eval()
    plan = graphprune.trace(model, IMAGE).plan(0.5)
    (choice,) = plan.choices
    assert (choice.role, choice.units, choice.removed, choice.why) == ("mlp", 16, tuple(range(8)), "ratio 0.5")
    assert plan.apply(model)(IMAGE).shape == (2, 5)


@pytest.mark.parametrize(("width", "ratio", "kept"), [(4, 0.5, 2), (4, 0.75, 2), (3, 0.6, 2), (2, 0.5, 2)])
@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
def test_two_channels_stay(width: int, ratio: float, kept: int) -> None:
    (choice,) = graphprune.trace(Pooled(width).eval(), IMAGE).plan(ratio).choices
    assert choice.kept == kept
    assert choice.why.endswith(f"; at its floor: {REASON}")


def test_budgets_keep_two() -> None:
    graph = graphprune.trace(Pooled(8).eval(), IMAGE)
    with pytest.raises(PlanError, match="out of reach"):
        graph.plan(params=0.1)
    assert graph.plan(params=0.4).choices[0].kept == 3


def test_groups_lose_none_of_their_number() -> None:
    model = Pooled(16, groups=4).eval()
    slim = graphprune.trace(model, IMAGE).plan(0.5).apply(model)
    assert (slim.conv.out_channels, slim.conv.groups) == (8, 4)


def test_a_floor_of_more_holds() -> None:
    plan = graphprune.trace(Pooled(16).eval(), IMAGE).plan(0.9, overrides={"conv": Override(min_units=3)})
    assert (plan.choices[0].kept, plan.choices[0].why) == (3, "ratio 0.9 ('conv'); at its floor")


class Beside(nn.Module):
    """Flattened maps, and channels beside those of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.maps, self.conv, self.leave = nn.Conv2d(4, 2, 3), nn.Conv2d(4, 2, 6), nn.Linear(38, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps, one = self.maps(x).flatten(1).squeeze(), self.conv(x)
        beside = torch.cat([one, x.mean((2, 3), keepdim=True)], 1).squeeze()
        found: Tensor = self.leave(torch.cat([maps, beside], 1))
        return found


def test_one_channel_is_enough_where_more_entries_are_left() -> None:
    plan = graphprune.trace(Beside().eval(), IMAGE).plan(0.5)
    assert {choice.group: choice.kept for choice in plan.choices} == {"maps": 1, "conv": 1}


def test_numbers_and_masks_of_others() -> None:
    model = Pooled(4).eval()
    graph = graphprune.trace(model, IMAGE)
    assert graph.plan_from_kept({"conv.weight[0]": [1, 3]}).apply(model).conv.out_channels == 2
    with pytest.raises(PlanError, match=f"conv cannot lose 1 unit: {REASON}"):
        graph.plan_from_kept({"conv.weight[0]": [2]})
    with torch.no_grad():
        model.conv.weight[1:] = 0
        assert model.conv.bias is not None
        model.conv.bias[1:] = 0
    with pytest.warns(graphprune.ChannelsKeptWarning, match=REASON):
        assert graphprune.compact(model, IMAGE).conv.out_channels == 2


def test_channels_of_which_a_deviation_is_taken_are_no_experts() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.enter(x)
            found: Tensor = self.leave(y / y.std(1, keepdim=True))
            return found

    (group,) = graphprune.trace(Scaled().eval(), torch.randn(2, 4)).groups
    assert (group.name, group.role) == ("enter", "mlp")


def test_a_larger_max_ratio_is_not_advised_where_an_operation_needs_what_is_left() -> None:
    with pytest.raises(PlanError, match="out of reach") as raised:
        graphprune.trace(Pooled(4).eval(), IMAGE).plan(params=0.1)
    assert "max_ratio" not in str(raised.value.do)
