"""Mixtures of experts: whole experts go with their rows of the router, as long as enough are left to choose from."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import InputError, NothingRemovedWarning

TOKENS = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))


class LookedUp(nn.Module):
    """Each token gathers the weights of its experts: [n, 12] -> [n, 12]."""

    def __init__(self, experts: int = 6, chosen: int = 2) -> None:
        super().__init__()
        self.chosen = chosen
        self.enter = nn.Linear(12, 12)
        self.router = nn.Linear(12, experts, bias=False)
        self.up = nn.Parameter(torch.randn(experts, 12, 16) / 4)
        self.bias = nn.Parameter(torch.randn(experts, 16))
        self.down = nn.Parameter(torch.randn(experts, 16, 12) / 4)
        self.leave = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weights, which = self.router(x).softmax(-1).topk(self.chosen)
        hidden = F.relu(torch.einsum("nd,nkdh->nkh", x, self.up[which]) + F.embedding(which, self.bias))
        down = self.down.index_select(0, which.view(-1)).unflatten(0, which.shape)
        out = torch.einsum("nkh,nkhd->nkd", hidden, down)
        return self.leave(x + (out * weights[..., None]).sum(1))


class Sorted(LookedUp):
    """Tokens are sorted by expert and meet their weights in runs."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        experts = len(self.up)
        weights, which = self.router(x).softmax(-1).topk(self.chosen)
        order = which.view(-1).argsort()
        counts = torch.histc(which.view(-1)[order].float(), bins=experts, min=0, max=experts - 1)
        ends = counts.cumsum(0, dtype=torch.int32)
        rows = x[order // self.chosen]
        hidden = F.relu(torch._grouped_mm(rows, self.up, offs=ends))
        out = torch._grouped_mm(hidden, self.down, offs=ends) * weights.view(-1)[order, None]
        return self.leave(x + torch.zeros_like(x).index_add(0, order // self.chosen, out))


class Arithmetic(LookedUp):
    """The numbers of experts are used as numbers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weights, which = self.router(x).softmax(-1).topk(self.chosen)
        return self.leave(x + self.up[(which + 1) % 6, :, 0].sum(1) * weights.sum(1, keepdim=True) + which.sum() * 0.1)


def group_of_experts(graph: graphprune.ChannelGraph) -> Any:
    return next((c for c in graph.plan(0.0).choices if c.role == "experts"), None)


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_experts_go_with_their_rows_of_the_router(ratio: float) -> None:
    torch.manual_seed(0)
    model = LookedUp().eval()
    graph = graphprune.trace(model, TOKENS)
    assert group_of_experts(graph).units == 6
    plan = graph.plan(ratio)
    slim = plan.apply(model)
    left = max(2, 6 - int(6 * ratio))
    assert slim.router.out_features == len(slim.up) == len(slim.bias) == len(slim.down) == left
    assert slim.up.shape[2] == slim.down.shape[1] < 16
    check = graphprune.verify(model, slim, plan, TOKENS)
    assert check.passed, str(check)
    slim.train()(TOKENS).square().mean().backward()
    assert slim.router.weight.grad is not None


grouped_product = pytest.mark.skipif(
    not torch._C._dispatch_has_computed_kernel_for_dispatch_key("aten::_grouped_mm", "CPU"),
    reason="this torch multiplies runs of rows on GPUs alone",
)


@grouped_product
def test_runs_of_sorted_tokens() -> None:
    """float32 runs need rows of eight numbers to begin at: the widths that are left are multiples of eight."""
    torch.manual_seed(0)
    model = Sorted().eval()
    graph = graphprune.trace(model, torch.randn(5, 12))
    assert group_of_experts(graph) is None or group_of_experts(graph).units == 6
    with pytest.warns(NothingRemovedWarning, match="experts=0.5: nothing is removed"):
        plan = graph.plan(experts=0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, TOKENS).passed


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
def test_numbers_that_are_calculated_with_hold_all_experts() -> None:
    torch.manual_seed(0)
    model = Arithmetic().eval()
    graph = graphprune.trace(model, TOKENS)
    assert group_of_experts(graph) is None
    assert any("used as numbers" in f.reason for f in graph.frozen)
    plan = graph.plan(0.5)
    assert graphprune.verify(model, plan.apply(model), plan, TOKENS).passed


def test_experts_by_role() -> None:
    graph = graphprune.trace(LookedUp().eval(), TOKENS)
    plan = graph.plan(0.5, experts=0.0)
    assert next(c for c in plan.choices if c.role == "experts").kept == 6
    with pytest.raises(InputError, match="experts: must be a fraction"):
        graph.plan(0.5, experts=2)


class SoftExperts(nn.Module):
    """Experts with slots, which take means over tokens; a softmax over all slots of all experts. [n, t, 8] -> [n, t, 3]

    ``merged`` and ``split`` tell the number of slots, and of those of an expert, as einops does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 12), nn.Linear(12, 3)
        self.slots = nn.Parameter(torch.randn(12, 6, 4))
        self.up, self.down = nn.Parameter(torch.randn(6, 12, 10)), nn.Parameter(torch.randn(6, 10, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        scores = torch.einsum("ntd,des->ntes", x, self.slots)
        merged = scores.reshape(*x.shape[:2], scores.shape[2] * scores.shape[3]).softmax(-1)
        back = merged.reshape(*x.shape[:2], self.slots.shape[1], merged.shape[2] // self.slots.shape[1])
        slots = torch.einsum("ntd,ntes->nesd", x, scores.softmax(1))
        hidden = torch.einsum("nesd,edh->nesh", slots, self.up).relu()
        y: Tensor = self.leave(torch.einsum("nesh,ehd,ntes->ntd", hidden, self.down, back))
        return y


def test_experts_and_slots_that_a_softmax_takes_as_one() -> None:
    """The product of two sizes that may both change is what was merged, and the quotient what is split from it."""
    torch.manual_seed(0)
    model, x = SoftExperts().eval(), torch.randn(2, 5, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.slots.shape == (6, 3, 2)
    assert slim.up.shape == (3, 6, 5)
    assert graphprune.verify(model, slim, plan, torch.randn(3, 7, 8)).passed
