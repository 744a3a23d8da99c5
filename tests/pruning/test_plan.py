"""Plans: masks, JSON, application, and what the slim module keeps of the original."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.pruning.plan import Plan, from_runs, to_runs
from models import gpt, resnet_cifar

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet_cifar.resnet20().eval()


def plan_of(model: nn.Module, ratio: float = 0.5) -> Plan:
    return graphprune.trace(model, IMAGE).plan(ratio)


def test_masks_have_the_original_shape_and_select_the_slim_entries(model: nn.Module) -> None:
    plan = plan_of(model)
    slim = plan.apply(model).state_dict()
    for name, tensor in model.state_dict().items():
        mask = plan.mask(name)
        assert mask.shape == tensor.shape
        assert torch.equal(tensor[mask].reshape(slim[name].shape), slim[name])
    assert sum(not plan.mask(n).all() for n in plan.shapes) > 50


def test_json_round_trip(model: nn.Module) -> None:
    plan = plan_of(model)
    again = Plan.from_json(plan.to_json())
    assert again.choices == plan.choices
    assert again.sizes == plan.sizes
    assert again.shapes == plan.shapes
    assert again.to_json() == plan.to_json()
    assert torch.equal(again.apply(model)(IMAGE), plan.apply(model)(IMAGE))


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99}'])
def test_json_that_is_no_plan(text: str) -> None:
    with pytest.raises(graphprune.errors.LoadError, match="text: "):
        Plan.from_json(text)


def test_runs() -> None:
    index = np.array([3, 4, 5, 1, 9, 7])
    assert to_runs(index) == "3-5 1 9 7"
    assert np.array_equal(from_runs(to_runs(index)), index)
    assert len(from_runs("")) == 0


def test_the_same_seed_gives_the_same_plan(model: nn.Module) -> None:
    graph = graphprune.trace(model, IMAGE)
    plans = [graph.plan(0.5, importance="random", seed=s).to_json() for s in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def test_ratio_zero_changes_nothing(model: nn.Module) -> None:
    slim = plan_of(model, 0.0).apply(model)
    assert torch.equal(slim(IMAGE), model(IMAGE))
    assert slim is not model


def test_the_original_is_untouched_and_independent(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    slim = plan_of(model).apply(model)
    assert type(slim) is type(model)
    assert slim.state_dict().keys() == model.state_dict().keys()
    slim.register_forward_hook(lambda *_: None)
    for parameter in slim.parameters():
        parameter.data.zero_()
    assert not model._forward_hooks
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_in_place() -> None:
    model = resnet_cifar.resnet20().eval()
    plan = plan_of(model)
    expected = plan.apply(model)(IMAGE)
    assert plan.apply(model, inplace=True) is model
    assert torch.equal(model(IMAGE), expected)


def test_types_and_flags_are_kept() -> None:
    model = resnet_cifar.resnet20().to(torch.bfloat16)
    model.conv1.weight.requires_grad_(False) if hasattr(model, "conv1") else None
    slim = graphprune.prune_model(model, 0.5, IMAGE.to(torch.bfloat16))
    for (name, old), (_, new) in zip(model.named_parameters(), slim.named_parameters(), strict=True):
        assert (new.dtype, new.requires_grad, new.device) == (old.dtype, old.requires_grad, old.device), name


def test_pruning_twice() -> None:
    model = resnet_cifar.resnet20().eval()
    once = graphprune.prune_model(model, 0.5, IMAGE)
    twice = graphprune.prune_model(once, 0.5, IMAGE)
    counts = [sum(p.numel() for p in m.parameters()) for m in (model, once, twice)]
    assert counts[0] > 3 * counts[1] > 9 * counts[2]
    assert len(copy.deepcopy(twice)._graphprune_plans) == 2


def test_the_slim_model_trains() -> None:
    slim = graphprune.prune_model(resnet_cifar.resnet20(), 0.5, IMAGE).train()
    optimizer = torch.optim.SGD(slim.parameters(), 0.1)
    losses = []
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    for _ in range(5):
        loss = nn.functional.cross_entropy(slim(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_tied_weights_stay_tied() -> None:
    model = gpt.gpt(tied=True).eval()
    slim = graphprune.prune_model(model, 0.5, torch.arange(12)[None])
    shared = [n for n, p in slim.named_parameters(remove_duplicate=False) if p.shape == (256, 32)]
    assert len(shared) == 2
    assert len({id(p) for p in slim.parameters()}) == len(list(slim.named_parameters(remove_duplicate=False))) - 1


class WithAuxiliaryHead(nn.Module):
    """Only training runs ``extra``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)
        self.extra = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.body(x).relu().mean((2, 3))
        return (self.head(features), self.extra(features)) if self.training else self.head(features)


def test_what_only_training_runs_is_pruned_too() -> None:
    slim = graphprune.prune_model(WithAuxiliaryHead(), 0.5, IMAGE)
    assert slim.extra.weight.shape == (4, 4)
    main, extra = slim.train()(IMAGE)
    assert main.shape == extra.shape == (1, 4)
