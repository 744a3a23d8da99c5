"""Bad input gets an error that names the argument, what was found and what to do; the model stays as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import GraphpruneError, InputError, PlanError, TraceError


class Broken(nn.Module):
    """Fails in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("this layer is on strike")


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def state(model: nn.Module) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model: nn.Module, before: dict[str, Any]) -> None:
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_nothing_asked() -> None:
    with pytest.raises(InputError, match=r"ratio: nothing is asked for; give a ratio \(0.5\) or a budget \(macs=0.5\)"):
        graphprune.prune_model(net(), example_inputs=torch.randn(1, 4))


@pytest.mark.parametrize("ratio", [1, 1.0, -0.1, 2, float("nan"), "half", True])
def test_ratio_out_of_range(ratio: Any) -> None:
    model, before = (m := net()), state(m)
    with pytest.raises(InputError, match=r"ratio: must be a fraction .* 0 <= ratio < 1, but is"):
        graphprune.prune_model(model, ratio, torch.randn(1, 4))
    assert_same(model, before)


def test_nothing_to_prune() -> None:
    with pytest.raises(PlanError, match="model: ReLU has nothing that can be pruned"):
        graphprune.prune_model(nn.ReLU(), 0.5, torch.randn(1, 4))
    with pytest.raises(PlanError, match=r"nothing that can be pruned[\s\S]*output of the model"):
        graphprune.prune_model(nn.Linear(4, 4), 0.5, torch.randn(1, 4))


def test_example_inputs_that_do_not_fit() -> None:
    model, before = (m := net()), state(m)
    with pytest.raises(TraceError, match=r"example_inputs of shape \(1, 5\)[\s\S]*pass example_inputs"):
        graphprune.prune_model(model, 0.5, torch.randn(1, 5))
    assert_same(model, before)


def test_example_inputs_of_a_wrong_type() -> None:
    with pytest.raises(InputError, match="example_inputs"):
        graphprune.prune_model(net(), 0.5, "an image")


def test_a_module_that_fails_in_forward() -> None:
    model = Broken()
    before = state(model)
    with pytest.raises(TraceError, match=r"model: Broken.forward failed[\s\S]*this layer is on strike") as caught:
        graphprune.trace(model, torch.randn(1, 4))
    assert isinstance(caught.value.__cause__, ValueError)
    assert_same(model, before)
    assert model.training


def test_a_plan_for_another_model() -> None:
    plan = graphprune.trace(net(), torch.randn(1, 4)).plan(0.5)
    other = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    before = state(other)
    with pytest.raises(PlanError, match=r"model: 0.weight has shape \[16, 4\], the plan was made for \[8, 4\]"):
        plan.apply(other)
    with pytest.raises(PlanError, match=r"model: the plan names '0.bias', which this Linear does not have"):
        plan.apply(nn.Linear(4, 8))
    assert_same(other, before)


def test_a_plan_applied_twice() -> None:
    model = net()
    plan = graphprune.trace(model, torch.randn(1, 4)).plan(0.5)
    with pytest.raises(PlanError, match="apply a plan to the architecture it was made for, once"):
        plan.apply(plan.apply(model))


def test_unknown_names() -> None:
    graph = graphprune.trace(net(), torch.randn(1, 4))
    with pytest.raises(InputError, match=r"name: no group 'nowhere'; there are \['0'\]\n"):
        graph.group("nowhere")
    with pytest.raises(InputError, match=r"overrides: 'nowhere' matches no group; there are '0'\n"):
        graph.plan(0.5, overrides={"nowhere": graphprune.Override(frozen=True)})
    with pytest.raises(InputError, match=r"name: no group '2'; it is frozen: 2.weight\[0\]: output of the model"):
        graph.group("2")
    with pytest.raises(InputError, match=r"importance: 'best' is not known; use one of 'l1', 'l2', 'random'"):
        graph.plan(0.5, importance="best")
    with pytest.raises(InputError, match=r"name: the plan knows no parameter or buffer '5.weight'"):
        graph.plan(0.5).mask("5.weight")


def test_scores_of_a_wrong_shape() -> None:
    graph = graphprune.trace(net(), torch.randn(1, 4))
    with pytest.raises(PlanError, match=r"importance: returned shape \[2\] for group '0'; one score for each of its 8"):
        graph.plan(0.5, importance=lambda group, context: torch.ones(2))


def test_not_a_module() -> None:
    with pytest.raises(InputError, match=r"model: must be a torch.nn.Module, but is a function"):
        graphprune.trace(lambda x: x, torch.randn(1))  # type: ignore[arg-type]


def test_weights_on_meta() -> None:
    with torch.device("meta"):
        model = net()
    graph = graphprune.trace(model, torch.randn(1, 4))
    with pytest.raises(PlanError, match=r"importance: it reads weights, but 0.weight is on the meta device"):
        graph.plan(0.5)
    assert graph.plan(0.5, importance="random").shape("0.weight") == (4, 4)


def test_one_base_class() -> None:
    with pytest.raises(GraphpruneError):
        graphprune.prune_model(net(), 7, torch.randn(1, 4))


def test_messages_of_others_lose_their_colors() -> None:
    error = TraceError("model: \x1b[1mdo not\x1b[0m\n\x1b[31mmore\x1b[0m", found="\x1b[1;32mthis\x1b[0m")
    assert (error.what, error.found) == ("model: do not", "this\nmore")
    assert "\x1b" not in str(error)
