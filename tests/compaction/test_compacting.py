"""Channels that are zero already go, and the outputs stay the same."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import graphprune
from graphprune.errors import ChannelsKeptWarning, InputError, NothingRemovedWarning
from models import gpt, resnet_cifar

IMAGE = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Convolutions(nn.Module):
    """Two convolutions with whatever stands between them."""

    def __init__(self, padding: int, *between: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.between = nn.Sequential(*between)
        self.second = nn.Conv2d(8, 6, 3, padding=padding, bias=bias)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.second(self.between(self.first(x)))).relu().mean((2, 3)))


def randomized(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(noise.abs() + 0.5 if "var" in name else 0.3 * noise)
    return model.eval()


def difference(model: nn.Module, slim: nn.Module, x: Tensor) -> float:
    """Of outputs in float64, for other inputs than those that were traced."""
    x = torch.randn(3, *x.shape[1:], dtype=torch.float64) if x.is_floating_point() else x.flip(0)
    dense, small = (copy.deepcopy(net).double() for net in (model, slim))
    with torch.no_grad():
        expected, found = dense(x), small(x)
    return float((expected - found).abs().max() / expected.abs().max())


def masked(model: nn.Module) -> nn.Module:
    """As ``ln_structured`` leaves a model: half of the filters are zero, their biases are not."""
    prune.ln_structured(model.first, "weight", 0.5, n=2, dim=0)
    prune.remove(model.first, "weight")
    return model


@pytest.mark.parametrize(
    "between", [[nn.ReLU()], [nn.BatchNorm2d(8), nn.GELU()], [nn.MaxPool2d(2), nn.Sigmoid()], [nn.AvgPool2d(2)]]
)
@pytest.mark.parametrize("bias", [True, False])
def test_constants_of_dead_filters_are_folded(between: list[nn.Module], bias: bool) -> None:
    model = masked(randomized(Convolutions(0, *copy.deepcopy(between), bias=bias)))
    before = copy.deepcopy(model.state_dict())
    slim = graphprune.compact(model, IMAGE)
    assert slim.first.out_channels == 4
    assert slim.second.in_channels == 4
    assert difference(model.double(), slim.double(), IMAGE) < 1e-6  # biases were rounded to float32
    assert all(
        torch.equal(before[name], tensor.float()) for name, tensor in model.state_dict().items() if "num" not in name
    )


def test_the_outputs_are_equal_in_float64() -> None:
    model = masked(randomized(Convolutions(0, nn.BatchNorm2d(8), nn.GELU()))).double()
    slim = graphprune.compact(model, IMAGE.double())
    assert slim.first.out_channels == 4
    assert difference(model, slim, IMAGE) < 1e-10


def test_at_padded_borders_one_channel_carries_the_constants_of_the_others() -> None:
    model = masked(randomized(Convolutions(1, nn.ReLU())))
    dead = ~model.first.weight.flatten(1).any(dim=1)
    loud = int((dead & (model.first.bias > 0)).sum())
    assert 1 < loud < int(dead.sum())
    with pytest.warns(ChannelsKeptWarning, match=r"1 zero channels stay\n  first: 1, it carries the constants of 2"):
        slim = graphprune.compact(model, IMAGE)
    assert slim.first.out_channels == 8 - int(dead.sum()) + 1
    assert difference(model, slim, IMAGE) < 1e-6


@pytest.mark.parametrize("way", ["hooks", "masks", "columns", "scales", "threshold"])
def test_ways_of_being_zero(way: str) -> None:
    model = randomized(Convolutions(0, nn.BatchNorm2d(8), nn.ReLU()))
    mask, given = torch.ones(8, 3, 3, 3), {}
    mask[:4] = 0
    expected = copy.deepcopy(model)
    expected.first.weight.data *= mask
    if way == "hooks":
        prune.custom_from_mask(model.first, "weight", mask)
    elif way == "masks":
        given = {"masks": {"first.weight": mask}}
    elif way == "threshold":
        model.first.weight.data[:4] = 1e-4
        given = {"threshold": 1e-3}
    else:
        expected = model
        with torch.no_grad():
            (model.second.weight[:, :4] if way == "columns" else model.between[0].weight[:4]).zero_()
    slim = graphprune.compact(model, IMAGE, **given)
    assert slim.first.out_channels == 4
    assert not [name for name in slim.state_dict() if "mask" in name or "orig" in name]
    assert difference(expected, slim, IMAGE) < 1e-6


def test_a_residual_stream_loses_channels_that_nothing_writes() -> None:
    model = randomized(resnet_cifar.resnet20())
    graph = graphprune.trace(model, IMAGE)
    width = next(group for group in graph.groups if group.role == "width")
    with torch.no_grad():
        for axis in width.axes:
            if axis.dim == 0 and "running" not in axis.parameter:
                dict(model.named_parameters())[axis.parameter][[2, 5]] = 0
    slim = graphprune.compact(model, IMAGE)
    removed = slim.state_dict()[width.axes[0].parameter].shape[0]
    assert removed == width.units - 2
    assert difference(model, slim, IMAGE) < 1e-6


def test_a_scale_that_is_zero_within_a_residual_stream_removes_nothing() -> None:
    model = randomized(resnet_cifar.resnet20())
    with torch.no_grad():
        next(m for name, m in model.named_modules() if name.endswith("bn2")).weight[:3] = 0
    with pytest.warns(NothingRemovedWarning, match="no channel is zero"):
        slim = graphprune.compact(model, IMAGE)
    assert difference(model, slim, IMAGE) == 0


def test_heads_and_hidden_units_of_a_language_model() -> None:
    model = gpt.gpt().eval()
    tokens = torch.arange(12).view(2, 6)
    graph = graphprune.trace(model, tokens)
    heads = next(group for group in graph.groups if group.role == "heads")
    hidden = next(group for group in graph.groups if group.role == "mlp")
    masks = {}
    for group, gone in ((heads, [1]), (hidden, [0, 3, 9])):
        plan = graph.plan_from_kept({group.name: [i for i in range(group.units) if i not in gone]})
        changed = [name for name in plan.kept if len(graph.trace.shapes[name]) > 1]
        masks |= {name: plan.mask(name) * masks.get(name, 1) for name in changed}
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            dict(expected.named_parameters())[name].mul_(mask)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        slim = graphprune.compact(model, tokens, masks=masks)
    plan = graphprune.pruning.plan.plans_of(slim)[0]
    assert len(plan.removed[hidden.name][1]) == 3
    assert len(plan.removed[heads.name][1]) == 1
    assert difference(expected, slim, tokens) < 1e-5


class Product(nn.Module):
    """Two layers whose results are multiplied, after a sum with a third if there is one."""

    def __init__(self, added: bool) -> None:
        super().__init__()
        self.first, self.gate, self.head = nn.Linear(5, 8), nn.Linear(5, 8, bias=False), nn.Linear(8, 3)
        self.added = nn.Linear(5, 8) if added else None

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x) if self.added is None else self.gate(x) + self.added(x)
        return self.head(self.first(x) * gate.relu())


@pytest.mark.parametrize(("added", "left"), [(False, 5), (True, 8)])
def test_what_a_gate_multiplies_by_zero_goes(added: bool, left: int) -> None:
    model, x = randomized(Product(added)), torch.randn(4, 5)
    model.gate.weight.data[:3] = 0
    if added:
        with torch.no_grad():  # the ReLU cuts them off on all inputs of this size
            model.added.weight[:3], model.added.bias[:3] = 1e-3, -1.0
        with pytest.warns(NothingRemovedWarning):
            slim = graphprune.compact(model, x)
    else:
        slim = graphprune.compact(model, x)
    assert slim.first.out_features == left
    assert difference(model, slim, x) < 1e-6


def test_a_constant_that_multiplies_others_keeps_its_channel() -> None:
    model, x = randomized(Product(False)), torch.randn(4, 5)
    model.first.weight.data[:4] = 0
    with pytest.warns(NothingRemovedWarning, match="no channel is zero"):
        slim = graphprune.compact(model, x)
    assert difference(model, slim, x) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"threshold": -1}, "threshold: must be a magnitude"),
        ({"threshold": "small"}, "threshold: must be a magnitude"),
        ({"masks": [1]}, "masks: must be"),
        ({"masks": {"first": torch.ones(1)}}, "masks: there is no parameter 'first'"),
        (
            {"masks": {"first.bias": torch.ones(1)}},
            r"the mask of first.bias has shape \[1\], the parameter \[8\]",
        ),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        graphprune.compact(Convolutions(0), IMAGE, **arguments)


def test_a_model_without_weights() -> None:
    with torch.device("meta"):
        model = Convolutions(0)
    with pytest.raises(InputError, match=r"model: first.weight is on meta"):
        graphprune.compact(model, IMAGE)


class Gated(nn.Module):
    """A size that is a product of two attributes: what is left is a multiple of four."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.expand = 12, 4
        self.up, self.down = nn.Linear(8, 96), nn.Linear(48, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(x).split(self.width * self.expand, -1)
        found: Tensor = self.down(a * b.sigmoid())
        return found


@pytest.mark.filterwarnings(
    "ignore::graphprune.errors.ChannelsKeptWarning", "ignore::graphprune.errors.NothingRemovedWarning"
)
@pytest.mark.parametrize(("zero", "left"), [(12, 36), (11, 40), (3, 48)])
def test_as_many_zero_channels_go_as_sizes_of_the_code_divide(zero: int, left: int) -> None:
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(3, 8)
    with torch.no_grad():
        for half in model.up.weight.view(2, 48, 8), model.up.bias.view(2, 48):
            half[:, 10 : 10 + zero] = 0
    slim = graphprune.compact(model, x)
    assert slim.down.in_features == left == 4 * slim.width
    assert torch.allclose(slim(x), model(x), atol=1e-6)
