"""Dataclasses as inputs: they stay as they are, whatever made them."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.utils.tree import map_tensors, tensors_of


@dataclass
class Derived:
    x: Tensor
    scale: Tensor = field(init=False)
    times: int = field(init=False, default=3)

    def __post_init__(self) -> None:
        self.scale = (self.x > 0).to(self.x.dtype)
        self.beside = self.x * 2


@dataclass(frozen=True)
class Asking:
    x: Tensor
    factor: InitVar[float]
    scale: Any = field(init=False, default=None)
    times: int = 1
    beside: int = 0

    def __post_init__(self, factor: float) -> None:
        object.__setattr__(self, "scale", self.x * factor)


@dataclass(frozen=True, slots=True)
class Slots:
    x: Tensor
    scale: Tensor
    times: int = 2
    beside: float = 0.5


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, given: Any) -> Tensor:
        hidden: Tensor = self.first(given.x * given.scale + given.beside) * given.times
        return self.second(hidden.relu())  # type: ignore[no-any-return]


def changed() -> Derived:
    made = Derived(torch.randn(3, 8))
    made.scale, made.times, made.beside = torch.full((3, 8), 0.5), 7, torch.randn(3, 8)
    return made


@pytest.fixture(params=["derived", "asking", "slots"])
def given(request: Any) -> Any:
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    return {"derived": changed, "asking": lambda: Asking(x, 2.0), "slots": lambda: Slots(x, x)}[request.param]()


def test_copies_have_what_the_dataclass_has(given: Any) -> None:
    made = map_tensors(torch.clone, given)
    assert type(made) is type(given) and (made.times, type(made.beside)) == (given.times, type(given.beside))
    pairs = list(zip(tensors_of(made), tensors_of(given), strict=True))
    assert len(pairs) >= 2 and all(a is not b and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("alone", [True, False])
def test_a_model_of_a_dataclass_is_pruned_repaired_and_trained(given: Any, alone: bool) -> None:
    model, inputs = Network().eval(), given if alone else (given,)
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.first.out_features == 8
    assert graphprune.verify(model, slim, plan, inputs).passed
    batch = given if alone else (given,)
    graphprune.repair(slim, model, plan, [batch, batch])
    before = slim.second.bias.detach().clone()
    graphprune.finetune(slim, [(batch, torch.zeros(3, 4))], epochs=1, lr=0.1, loss_fn=nn.functional.mse_loss)
    assert not torch.equal(slim.second.bias, before)


@dataclass
class Tree:
    x: Tensor
    children: list[Any] = field(default_factory=list)


class OfTree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, tree: Any) -> Tensor:
        hidden = sum((self.first(child.x) for child in tree.children), self.first(tree.x))
        return self.second(hidden.relu())  # type: ignore[no-any-return]


def test_dataclasses_that_know_their_parents() -> None:
    tree, child = Tree(torch.randn(2, 8)), Tree(torch.randn(2, 8))
    tree.children.append(child)
    child.parent = tree  # type: ignore[attr-defined]
    model = OfTree().eval()
    plan = graphprune.trace(model, (tree,)).plan(0.5)
    slim = plan.apply(model)
    assert slim.first.out_features == 8 and graphprune.verify(model, slim, plan, (tree,)).passed


def test_an_object_is_given_in_a_tuple() -> None:
    class Data:
        x = torch.zeros(2, 8)

    with pytest.raises(graphprune.InputError, match=r"a tuple with it: example_inputs=\(batch,\)"):
        graphprune.trace(Network(), Data())
