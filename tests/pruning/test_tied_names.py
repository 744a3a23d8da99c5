"""A plan knows every name of a tied parameter, and of a module that is reached by several paths."""

import pytest
import torch
from torch import Tensor, nn

import graphprune

WORDS = torch.arange(10).view(2, 5)


class Language(nn.Module):
    """Its head is tied to the embedding, and its hidden layer has two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(20, 12), nn.Linear(12, 16), nn.Linear(16, 12)
        self.lm_head = nn.Linear(12, 20, bias=False)
        self.lm_head.weight = self.embed.weight
        self.again = self.up

    def forward(self, words: Tensor) -> Tensor:
        h = self.embed(words)
        out: Tensor = self.lm_head(h + self.down(torch.relu(self.again(h))))
        return out


def plan_of(model: nn.Module) -> graphprune.Plan:
    return graphprune.trace(model, WORDS).plan(0.5)


def test_every_name_is_known() -> None:
    model = Language().eval()
    plan = plan_of(model)
    assert plan.tied == {"lm_head.weight": "embed.weight", "again.weight": "up.weight", "again.bias": "up.bias"}
    slim = plan.apply(model).state_dict()
    for name, tensor in slim.items():
        assert plan.shape(name) == tuple(tensor.shape)
        assert int(plan.mask(name).sum()) == tensor.numel()
    assert {*plan.shapes, *plan.tied} == slim.keys()


def test_the_names_go_through_json() -> None:
    plan = plan_of(Language().eval())
    assert graphprune.Plan.from_json(plan.to_json()) == plan
    wrong = plan.to_data() | {"tied": {"lm_head.weight": "nothing.weight"}}
    with pytest.raises(graphprune.LoadError, match=r"is no other name of 'nothing\.weight'"):
        graphprune.Plan.from_data(wrong)


def test_state_dicts_whose_tensors_are_not_one() -> None:
    """As files are read: each name has memory of its own."""
    model = Language().eval()
    plan = plan_of(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cut = plan.apply_to_state_dict(state)
    for name, tensor in plan.apply(model).state_dict().items():
        assert torch.equal(cut[name], tensor)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(graphprune.InputError, match=r"'lm_haed\.weight'.*did you mean lm_head\.weight"):
        plan_of(Language().eval()).mask("lm_haed.weight")


def test_modules_that_hold_each_other() -> None:
    """The walk over all paths ends."""
    model = Language().eval()
    model.up.add_module("owner", model)
    plan = plan_of(model)
    assert plan.tied["lm_head.weight"] == "embed.weight"
