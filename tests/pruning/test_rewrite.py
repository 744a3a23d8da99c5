"""What pruning has nothing to do with survives: memory format, types, flags, classes and marks of parameters."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.pruning.float64 import wide_module
from graphprune.pruning.rewrite import slim_tensor
from graphprune.utils.modules import copied_as
from models import gpt, resnet_cifar

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Marked(nn.Parameter):
    """A parameter of a class of its own."""


def plan_for(model: nn.Module, inputs: Tensor = IMAGE) -> graphprune.Plan:
    return graphprune.trace(model, inputs).plan(0.5)


@pytest.mark.parametrize("inplace", [False, True])
def test_channels_last(inplace: bool) -> None:
    model = resnet_cifar.resnet20().eval().to(memory_format=torch.channels_last)
    slim = plan_for(model).apply(model, inplace=inplace)
    convolutions = [m for m in slim.modules() if isinstance(m, nn.Conv2d)]
    expected = [m.weight.to(memory_format=torch.channels_last).stride() for m in convolutions]
    assert [m.weight.stride() for m in convolutions] == expected
    assert any(not m.weight.is_contiguous() for m in convolutions)
    plain = resnet_cifar.resnet20().eval()
    assert all(p.is_contiguous() for p in plan_for(plain).apply(plain).parameters())


def test_a_weight_that_is_kept_transposed() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
    slim = plan_for(model, torch.randn(2, 8)).apply(model)
    assert slim[0].weight.shape == (8, 8)
    assert slim[0].weight.stride() == (1, 8)


@pytest.mark.parametrize("inplace", [False, True])
def test_types_flags_classes_and_marks(inplace: bool) -> None:
    model: Any = resnet_cifar.resnet20().eval()
    plan = plan_for(model)
    model.fc.double()
    model.conv1.requires_grad_(False)
    model.bn1.weight = Marked(model.bn1.weight.detach())
    model.bn1.bias.no_decay = True
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    kept_class = model.bn1.weight
    slim: Any = plan.apply(model, inplace=inplace)
    assert slim.fc.weight.dtype == torch.float64
    assert slim.layer1[0].conv1.weight.dtype == torch.float32
    assert not slim.conv1.weight.requires_grad
    assert all(p.requires_grad for name, p in slim.named_parameters() if not name.startswith("conv1"))
    assert type(slim.bn1.weight) is Marked
    assert slim.bn1.weight is not kept_class
    assert slim.bn1.bias.no_decay
    cut = [p for name, p in slim.named_parameters() if name in plan.kept]
    assert all(p.grad is None for p in cut)


@pytest.mark.parametrize("inplace", [False, True])
def test_tensors_that_are_noted_on_parameters_are_cut_with_them(inplace: bool) -> None:
    model: Any = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    weight, bias = model[0].weight, model[0].bias
    dense, scale = weight.detach().clone(), torch.ones(3)
    weight.anchor, weight.scale, weight.moments = dense * 2, scale, {"first": [dense * 3], "steps": 7}
    weight.twin, model[2].bias.anchor = bias, torch.ones(4)
    bias.counts, bias.made_of = torch.arange(32), weight * 2
    plan = graphprune.trace(model, torch.randn(2, 8)).plan(0.5)
    slim: Any = plan.apply(model, inplace=inplace)
    now = slim[0].weight
    assert torch.equal(now.anchor, now * 2) and torch.equal(now.moments["first"][0], now * 3)
    assert now.moments["steps"] == 7 and now.twin is slim[0].bias
    assert torch.equal(now.scale, scale) and (now.scale is scale) == inplace
    assert torch.equal(slim[2].bias.anchor, torch.ones(4))
    assert torch.equal(slim[0].bias.counts, torch.from_numpy(plan.kept["0.bias"][0]))
    assert torch.equal(slim[0].bias.made_of, dense * 2)
    assert torch.equal(weight.anchor, dense * 2)


def test_notes_on_parameters_survive_every_round_of_pruning() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    for parameter in model.parameters():
        parameter.anchor = parameter.detach().clone()
    slim: Any = graphprune.prune_iteratively(model, torch.randn(2, 8), ratio=0.5, rounds=2, tune=lambda model: None)
    assert all(torch.equal(parameter, parameter.anchor) for parameter in slim.model.parameters())


def test_sizes_of_tied_layers_are_those_of_their_weight() -> None:
    slim: Any = graphprune.prune_model(gpt.gpt(tied=True).eval(), 0.5, torch.arange(12)[None])
    for module in slim.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == module.weight.shape


class Fast(nn.Linear):
    """Has weights for a task beside its own, which are noted on these."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight.fast = None  # type: ignore[attr-defined]

    def forward(self, input: Tensor) -> Tensor:
        fast = self.weight.fast  # type: ignore[attr-defined]
        return nn.functional.linear(input, self.weight if fast is None else fast, self.bias)


def test_what_programs_note_on_parameters_is_there_in_all_copies() -> None:
    model, x = nn.Sequential(Fast(8, 32), nn.ReLU(), Fast(32, 4)), torch.randn(16, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed
    assert graphprune.repair(slim, model, plan, [x]).repaired


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex128])
@pytest.mark.parametrize(
    ("shape", "dim"), [((700, 300), 1), ((90, 40, 5, 9), 1), ((50, 7, 600), 2), ((3, 40_000, 2), 1)]
)
def test_rows_and_entries_of_them_are_cut_block_by_block(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randint(0, 100, shape, generator=generator).to(dtype)
    kept = {d: torch.randperm(shape[d], generator=generator)[: shape[d] // 2].numpy() for d in (dim, 0)}
    slim = slim_tensor(tensor, kept)
    assert torch.equal(slim, tensor[torch.from_numpy(kept[0])].index_select(dim, torch.from_numpy(kept[dim])))
    assert slim.dtype == dtype
    assert slim.is_contiguous()


@pytest.mark.parametrize(("rows", "columns"), [([0, 9], [1]), ([0], [1, 9]), ([-1], [0]), ([0], [-1])])
def test_entries_that_a_tensor_lacks_are_not_cut(rows: list[int], columns: list[int]) -> None:
    with pytest.raises(IndexError, match="has no entry"):
        slim_tensor(torch.zeros(4, 4), {0: np.array(rows), 1: np.array(columns)})


def test_no_rows_or_no_entries_of_them() -> None:
    none, two = np.zeros(0, np.int64), np.array([0, 3])
    assert slim_tensor(torch.zeros(4, 4, 2), {0: none, 1: two}).shape == (0, 2, 2)
    assert slim_tensor(torch.zeros(4, 4, 2), {0: two, 1: none}).shape == (2, 0, 2)
    assert slim_tensor(torch.zeros(4, 4, 0), {0: two, 1: two}).shape == (2, 2, 0)


class Sorted(nn.Module):
    """``forward`` treats parameters of one class in another way, and asks them what their class alone knows."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)
        self.scale = Marked(torch.rand(16) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        for parameter in self.parameters(recurse=False):
            if isinstance(parameter, Marked):
                return self.leave(self.enter(x) * parameter)
        return self.leave(self.enter(x).sum(-1, keepdim=True).expand(-1, self.enter.out_features))


def test_every_copy_of_a_parameter_has_its_class() -> None:
    model, x = Sorted().eval(), torch.randn(2, 8)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5)
    assert "enter.weight" in plan.kept
    assert type(plan.apply(model).scale) is Marked
    assert type(wide_module(model).scale) is Marked
    assert type(copied_as(model.scale, torch.zeros(2, device="cpu"))) is Marked
