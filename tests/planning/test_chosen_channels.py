"""Plans of channels that somebody else chose."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import graphprune
from graphprune.errors import ChannelsKeptWarning, InputError, NothingRemovedWarning, PlanError
from models import gpt, resnet_cifar, vit

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.first(x)).relu()).mean((2, 3)))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain().eval()


@pytest.mark.parametrize(
    "kept", [[0, 2, 5], np.array([5, 2, 0]), torch.tensor([0, 2, 5]), [i in (0, 2, 5) for i in range(8)]]
)
@pytest.mark.parametrize("name", ["first", "norm", "second.weight[1]", "norm.running_mean[0]"])
def test_what_is_kept_is_kept_and_what_goes_with_it_goes(name: str, kept: object) -> None:
    model = plain()
    plan = graphprune.trace(model, IMAGE).plan_from_kept({name: kept})
    slim = plan.apply(model)
    assert torch.equal(slim.first.weight, model.first.weight[[0, 2, 5]])
    assert torch.equal(slim.norm.weight, model.norm.weight[[0, 2, 5]])
    assert torch.equal(slim.second.weight, model.second.weight[:, [0, 2, 5]])
    assert slim.second.out_channels == 6
    assert graphprune.verify(model, slim, plan, IMAGE).passed
    assert plan.requested == {"chosen by": "the numbers given"}


def test_several_layers_and_residual_sums() -> None:
    model = resnet_cifar.resnet20().eval()
    graph = graphprune.trace(model, IMAGE)
    inner = next(group for group in graph.groups if group.role == "mlp")
    width = next(group for group in graph.groups if group.role == "width")
    plan = graph.plan_from_kept({inner.name: range(4), width.name: [1, 3, 5]})
    assert {name: units - len(gone) for name, (units, gone) in plan.removed.items() if gone} == {
        inner.name: 4,
        width.name: 3,
    }
    assert graphprune.verify(model, plan.apply(model), plan, IMAGE).passed


def test_heads_by_number() -> None:
    model = gpt.gpt().eval()
    tokens = torch.arange(12).view(1, 12)
    graph = graphprune.trace(model, tokens)
    heads = next(group for group in graph.groups if group.role == "heads")
    plan = graph.plan_from_kept({heads.name: [0, 2]})
    assert plan.removed[heads.name] == (heads.units, tuple(i for i in range(heads.units) if i not in (0, 2)))
    assert graphprune.verify(model, plan.apply(model), plan, tokens).passed


@pytest.mark.parametrize(
    ("kept", "error", "said"),
    [
        ({"frist": [0]}, InputError, "no group 'frist'.*; did you mean first"),
        ({"first": [8]}, InputError, "has 8 entries, numbered from 0, and 8 is none"),
        ({"first": [-1]}, InputError, "and -1 is none"),
        ({"first": []}, InputError, "give the numbers of the entries|nothing of first"),
        ({"first": [True, False]}, InputError, r"kept\['first'\]: is a mask of 2 truth values, and there are 8"),
        ({"first": torch.ones(9, dtype=torch.bool)}, InputError, "is a mask of 9 truth values, and there are 8"),
        ({"first": [0.5]}, InputError, "give the numbers of the entries that stay"),
        ({"first": [0, 1], "second.weight[1]": [0, 2]}, PlanError, "cannot go alone: it belongs to first"),
    ],
)
def test_what_cannot_be_chosen(kept: dict[str, list[int]], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        graphprune.trace(plain(), IMAGE).plan_from_kept(kept)


def test_a_part_of_a_head_cannot_go_alone() -> None:
    graph = graphprune.trace(gpt.gpt().eval(), torch.arange(12).view(1, 12))
    axis = next(axis for group in graph.groups if group.role == "heads" for axis in group.axes)
    with pytest.raises(PlanError, match=r"cannot go alone: it belongs to .*head_width.* and .*:heads"):
        graph.plan_from_kept({axis: range(1, graph.trace.shapes[axis.parameter][axis.dim])})


def test_numbers_that_do_not_fit_each_other() -> None:
    model = vit.vit().eval()
    graph = graphprune.trace(model, IMAGE)
    cells = next(group for group in graph.groups if group.role == "head_width")
    heads = next(group for group in graph.groups if group.role == "heads")
    with pytest.raises(PlanError, match="either go whole or become narrower"):
        graph.plan_from_kept({cells.name: range(cells.units - 1), heads.name: range(1, heads.units)})


def of_torch(model: nn.Module) -> dict[str, Tensor]:
    prune.ln_structured(model.first, "weight", 0.5, n=2, dim=0)
    return {"first.weight": model.first.weight_mask}


def columns(model: nn.Module) -> dict[str, Tensor]:
    mask = torch.ones(6, 8, 3, 3)
    mask[:, [1, 4, 6, 7]] = 0
    return {"second.weight": mask}


def scales(model: nn.Module) -> dict[str, Tensor]:
    return {"norm.weight": torch.tensor([1.0, 0, 1, 1, 0, 1, 0, 0])}


@pytest.mark.parametrize("masks_of", [of_torch, columns, scales])
def test_channels_of_which_masks_leave_nothing_go(masks_of: Callable[[nn.Module], dict[str, Tensor]]) -> None:
    masked, model = plain(), plain()
    masks = masks_of(masked)
    plan = graphprune.trace(model, IMAGE).plan_from_masks(masks)
    slim = plan.apply(model)
    assert slim.first.out_channels == 4
    assert plan.removed["first"][0] - len(plan.removed["first"][1]) == 4
    assert graphprune.verify(model, slim, plan, IMAGE).passed


def test_masked_rows_of_outputs_are_said_to_stay() -> None:
    """It was said that no mask leaves nothing of a row."""
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    mask = torch.ones(3, 8)
    mask[:2] = 0
    said = r"masks: nothing is removed\n  2 of 3 entries of 2.weight\[0\] are masked and stay: output of the model$"
    with pytest.warns(NothingRemovedWarning, match=said):
        graphprune.trace(net, torch.randn(2, 6)).plan_from_masks({"2.weight": mask})


def test_masks_of_single_weights_remove_no_channel() -> None:
    mask = (torch.rand(8, 3, 3, 3, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    graph = graphprune.trace(plain(), IMAGE)
    with pytest.warns(NothingRemovedWarning, match="no mask leaves nothing of a row, a column or a scale"):
        plan = graph.plan_from_masks({"first.weight": mask})
    assert {choice.why for choice in plan.choices} == {"nothing of it goes by the masks"}
    assert not any(gone for _, gone in plan.removed.values())


def test_a_channel_that_another_weight_still_makes_stays() -> None:
    model = resnet_cifar.resnet20().eval()
    graph = graphprune.trace(model, IMAGE)
    width = next(group for group in graph.groups if group.role == "width")
    name = next(axis.parameter for axis in width.axes if axis.dim == 0 and len(graph.trace.shapes[axis.parameter]) == 4)
    mask = torch.ones(graph.trace.shapes[name])
    mask[:4] = 0
    kept = f"{width.name} keeps 4 of {width.units} units that are masked in some weights and not in others"
    with pytest.warns(NothingRemovedWarning, match=f"masks: nothing is removed\n  {re.escape(kept)}"):
        plan = graph.plan_from_masks({name: mask})
    assert not any(gone for _, gone in plan.removed.values())
    inner = next(group for group in graph.groups if group.role == "mlp")
    rows = torch.ones(graph.trace.shapes[inner.axes[0].parameter])
    rows[:2] = 0
    with pytest.warns(ChannelsKeptWarning, match=f"masks: some channels stay\n  {re.escape(kept)}"):
        plan = graph.plan_from_masks({name: mask, inner.axes[0].parameter: rows})
    assert [gone for _, gone in plan.removed.values() if gone] == [(0, 1)]


@pytest.mark.parametrize("name", ["first.weight", "first.weight_orig", "first.weight_mask"])
def test_channels_go_of_a_model_that_torch_has_masked(name: str) -> None:
    model = plain()
    prune.ln_structured(model.first, "weight", 0.5, n=2, dim=0)
    plan = graphprune.trace(model, IMAGE).plan_from_masks({name: model.first.weight_mask})
    slim = plan.apply(model)
    living = model.first.weight_mask.flatten(1).any(1)
    assert torch.equal(slim.first.weight_orig, model.first.weight_orig[living])
    assert slim.norm.num_features == 4
    assert graphprune.verify(model, slim, plan, IMAGE).passed


@pytest.mark.parametrize("mask", [[1, 0, 1, 0, 0, 1, 0, 0], torch.tensor([1, 1, 0, 0, 0, 0, 0, 1]), [3, 3]])
def test_numbers_that_are_there_twice_are_refused(mask: object) -> None:
    with pytest.raises(InputError, match=r"is there \d times[\s\S]*mask.bool\(\)"):
        graphprune.trace(plain(), IMAGE).plan_from_kept({"first": mask})


def test_masks_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(InputError, match=r"the mask of first.weight must be a tensor[\s\S]*torch.as_tensor"):
        graphprune.trace(plain(), IMAGE).plan_from_masks({"first.weight": np.ones((8, 3, 3, 3))})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("masks", "said"),
    [({"first": torch.ones(1)}, "no parameter 'first'"), ({"first.bias": torch.ones(3)}, "has shape")],
)
def test_masks_that_fit_no_parameter(masks: dict[str, Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        graphprune.trace(plain(), IMAGE).plan_from_masks(masks)


def test_a_group_of_a_kernel_cannot_lose_all_of_its_channels_and_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    graph = graphprune.trace(model, IMAGE)
    mask = torch.ones(8, 4, 1, 1)
    mask[:4] = 0
    with pytest.raises(PlanError, match="every head or group has to lose equally many channels"):
        graph.plan_from_masks({"1.weight": mask})
    mask[:4], mask[[0, 6]] = 1, 0
    slim = graph.plan_from_masks({"1.weight": mask}).apply(model)
    assert slim[1].out_channels == 6
    slim(IMAGE)


@pytest.mark.parametrize("attention", ["torch's", "grouped convolution"])
def test_masks_of_whole_heads_and_groups_are_those_of_a_plan(attention: str) -> None:
    heads = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    groups = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 4, 1))
    inputs = {"torch's": (heads, torch.randn(2, 5, 16)), "grouped convolution": (groups, torch.randn(2, 3, 8, 8))}
    graph = graphprune.trace(*inputs[attention])
    plan = graph.plan(0.5)
    assert any(choice.role in ("heads", "groups") and choice.removed for choice in plan.choices)
    again = graph.plan_from_masks({name: plan.mask(name) for name in plan.kept})
    assert again.removed == plan.removed
