"""Operators that run functions, or on nested tensors: what they read stays, the rest of the model is pruned."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.attention.flex_attention import flex_attention

import graphprune

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Net(nn.Module):
    """A hidden layer, something in the middle, and another hidden layer."""

    def __init__(self, middle: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.middle = middle
        self.enter, self.first, self.second = nn.Linear(5, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.slopes = nn.Parameter(torch.randn(4))
        self.up, self.leave = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(self.enter(x).relu())
        return self.leave(self.up(self.second(self.middle(self, y))).relu())


def flexible(net: Net, y: Tensor) -> Tensor:
    q = y.view(*y.shape[:2], 4, -1).transpose(1, 2)
    slopes = net.slopes.exp()

    def nearer(score: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes[head] * (i - j).abs()

    out: Tensor = flex_attention(q, q, q, score_mod=nearer)  # type: ignore[assignment]
    return out.transpose(1, 2).flatten(2)


def chosen(net: Net, y: Tensor) -> Tensor:
    scale = net.up(y).sum(-1, keepdim=True)
    out: Tensor = torch.cond(torch.tensor(True), lambda z: z * scale, lambda z: z - scale, (y,))
    return out


def repeated(net: Net, y: Tensor) -> Tensor:
    out: Tensor = while_loop(lambda i, _: i < 2, lambda i, z: (i + 1, net.second(z)), (torch.tensor(0), y))[1]
    return out


MIDDLES = {"flex_attention": flexible, "cond": chosen, "while_loop": repeated}


@pytest.mark.parametrize("name", MIDDLES)
def test_what_goes_in_stays_and_the_rest_is_pruned(name: str) -> None:
    torch.manual_seed(0)
    net, x = Net(MIDDLES[name]).eval().requires_grad_(False), torch.randn(2, 6, 5)
    graph = graphprune.trace(net, x)
    reasons = {f.axis: f.reason for f in graph.frozen}
    assert f"{name}: runs functions that are not looked into" in reasons["first.weight[0]"]
    plan = graph.plan(0.5, importance="random")
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert (slim.enter.out_features, slim.first.out_features, slim.up.out_features) == (8, 16, 12)


def test_parameters_that_only_a_function_reads_stay() -> None:
    net, x = Net(repeated).eval().requires_grad_(False), torch.randn(2, 6, 5)
    reasons = {f.axis: f.reason for f in graphprune.trace(net, x).frozen}
    assert "while_loop: runs functions that are not looked into" in reasons["second.weight[0]"]
    net = Net(flexible).eval().requires_grad_(False)
    reasons = {f.axis: f.reason for f in graphprune.trace(net, x).frozen}
    assert "flex_attention: runs functions that are not looked into" in reasons["slopes[0]"]


def padded(net: Net, y: Tensor) -> Tensor:
    nested = torch.nested.as_nested_tensor([y[0, :3], y[1]])
    return torch.nested.to_padded_tensor(net.second(nested), 0.0)


def jagged(net: Net, y: Tensor) -> Tensor:
    nested = torch.nested.nested_tensor_from_jagged(y.flatten(0, 1), torch.tensor([0, 3, 12]))
    return net.second(nested).relu().values().view(y.shape)


@pytest.mark.parametrize("middle", [padded, jagged])
def test_what_becomes_nested_stays(middle: Callable[[Net, Tensor], Tensor]) -> None:
    net, x = Net(middle).eval(), torch.randn(2, 6, 5)
    graph = graphprune.trace(net, x)
    reasons = {f.axis: f.reason for f in graph.frozen}
    assert "nested tensors have no sizes" in reasons["first.weight[0]"]
    plan = graph.plan(0.5, importance="random")
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert (slim.enter.out_features, slim.second.out_features, slim.up.out_features) == (8, 16, 12)


class Ragged(nn.Module):
    """Returns nested tensors, and may take another way each time."""

    def __init__(self, layout: torch.layout, steps: Callable[[], int] = lambda: 1) -> None:
        super().__init__()
        self.first, self.last, self.layout, self.steps = nn.Linear(6, 16), nn.Linear(16, 4), layout, steps

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        y = self.last(self.first(x).relu())
        for _ in range(self.steps()):
            y = y.sin()
        return {"rows": [torch.nested.as_nested_tensor([y[:1], y[1:]], layout=self.layout), y]}


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_results_are_compared_part_by_part(layout: torch.layout) -> None:
    net, x = Ragged(layout).eval(), torch.randn(3, 6)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    check = graphprune.verify(net, slim, plan, x)
    assert check.passed and check.outputs == 3
    with torch.no_grad():
        slim.last.bias += 1e-3
    assert not graphprune.verify(net, slim, plan, x).passed


def test_nested_results_of_a_program_that_changes() -> None:
    net = Ragged(torch.jagged, steps=lambda: int.from_bytes(os.urandom(2), "big") % 1000).eval()
    with pytest.raises(graphprune.PlanError, match="does not do the same again"):
        graphprune.trace(net, torch.randn(3, 6)).plan(0.5)
