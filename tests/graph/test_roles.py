"""Roles: which channels a residual sum ties, and which belong to one block."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from tests.networks import randomize

WIDTH, INNER = 32, 48


class Block(nn.Module):
    """A residual block whose inner channels go through a GELU that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)

    def inner(self, x: Tensor) -> Tensor:
        h: Tensor = self.up(x)
        return 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.down(self.inner(x))
        return found


class Gated(Block):
    """A gate beside a scaled copy of what it gates, as at the end of Mamba's scan."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.scale = nn.Linear(WIDTH, INNER), nn.Parameter(torch.ones(INNER))

    def inner(self, x: Tensor) -> Tensor:
        h: Tensor = self.up(x)
        return (h + 1) * self.gate(x) + h * self.scale


@pytest.mark.parametrize("kind", [Block, Gated])
def test_channels_that_are_added_to_functions_of_themselves_are_inner_ones(kind: type[Block]) -> None:
    model = nn.Sequential(nn.Linear(8, WIDTH), kind(), nn.Linear(WIDTH, 4)).eval()
    graph = graphprune.trace(model, torch.randn(2, 3, 8))
    assert {(group.role, group.units) for group in graph.groups} == {("width", WIDTH), ("mlp", INNER)}
    plan = graph.plan(mlp=0.5)
    assert {(c.role, c.kept) for c in plan.choices} == {("width", WIDTH), ("mlp", INNER // 2)}
    assert graphprune.verify(model, plan.apply(model), plan, torch.randn(2, 3, 8)).passed


class Added(Block):
    """The result of a block is brought back to its input in some other way than by a sum of both."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.down(self.up(x).relu()))


def into_zeros(x: Tensor, y: Tensor) -> Tensor:
    return x + torch.zeros(x.shape).index_add(0, torch.arange(len(x)), y)


def into_alike(x: Tensor, y: Tensor) -> Tensor:
    return x + torch.zeros_like(x).index_add(0, torch.arange(len(x)), y)


def into_empty(x: Tensor, y: Tensor) -> Tensor:
    made = torch.empty_like(x)
    made[:] = y
    return x + made


@pytest.mark.parametrize(
    "add",
    [
        into_zeros,
        into_alike,
        into_empty,
        lambda x, y: x + y * torch.sigmoid(x),
        lambda x, y: torch.lerp(x, y, 0.3),
        lambda x, y: torch.addcmul(x, y, torch.sigmoid(x)),
        lambda x, y: torch.stack([x, y]).sum(0),
        lambda x, y: torch.stack([y, x.tanh(), x], -1).mean(-1),
    ],
)
def test_residual_sums_in_other_words(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    """As experts add their results into zeros: the stream was taken for inner channels."""
    model = nn.Sequential(nn.Linear(8, WIDTH), Added(add), nn.Linear(WIDTH, 4)).eval()
    graph = graphprune.trace(model, torch.randn(3, 8))
    assert {(group.role, group.units) for group in graph.groups} == {("width", WIDTH), ("mlp", INNER)}


class PlusProduct(Block):
    """What is added is the product itself, without a result of its own."""

    def forward(self, x: Tensor) -> Tensor:
        h, weight = self.up(x).relu(), self.down.weight.T
        return torch.addmm(x, h, weight) if x.ndim == 2 else torch.baddbmm(x, h, weight.expand(len(x), -1, -1))


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8)])
def test_products_that_are_added_are_branches(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(8, WIDTH), PlusProduct(), nn.Linear(WIDTH, 4)).eval()
    graph = graphprune.trace(model, torch.randn(shape))
    assert {(group.role, group.units) for group in graph.groups} == {("width", WIDTH), ("mlp", INNER)}


class Experts(nn.Module):
    """Experts whose weights and biases are taken by the numbers of those that each token chose."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDTH, 4)
        self.up, self.up_bias = nn.Parameter(torch.randn(4, WIDTH, INNER)), nn.Parameter(torch.randn(4, INNER))
        self.down = nn.Parameter(torch.randn(4, INNER, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x).softmax(-1).topk(2)
        h = torch.einsum("ni,nkij->nkj", x, self.up[chosen]) + self.up_bias[chosen]
        found: Tensor = x + (torch.einsum("nkj,nkji->nki", h.relu(), self.down[chosen]) * weights[..., None]).sum(1)
        return found


def test_biases_of_chosen_experts_are_no_residual_sum() -> None:
    model = nn.Sequential(nn.Linear(8, WIDTH), Experts(), nn.Linear(WIDTH, 4)).eval()
    graph = graphprune.trace(model, torch.randn(5, 8))
    roles = {(group.role, group.units) for group in graph.groups}
    assert roles == {("width", WIDTH), ("mlp", INNER), ("experts", 4)}


class Tables(nn.Module):
    """A sum of two embeddings, which are tables of their own, before anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, WIDTH), nn.Embedding(9, WIDTH)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.words(ids) + self.places(torch.arange(ids.shape[1])))
        return found


class Computed(nn.Module):
    """Weights that are worked out from parameters: a norm of their own, and two small factors added."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, WIDTH)
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))
        self.a, self.b = nn.Parameter(torch.randn(WIDTH, 3)), nn.Parameter(torch.randn(3, WIDTH))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + torch.tanh(nn.functional.linear(x, self.inner.weight + self.a @ self.b))
        found: Tensor = self.head(x)
        return found


@pytest.mark.parametrize(
    ("model", "given"),
    [(Tables(), torch.randint(50, (2, 9))), (Computed(), torch.randn(2, 8))],
    ids=["rows", "computed"],
)
def test_sums_of_what_different_layers_made_tie_the_width(model: nn.Module, given: Tensor) -> None:
    graph = graphprune.trace(model.eval(), given)
    assert next(group for group in graph.groups if group.units == WIDTH).role == "width"


class Conditioned(nn.Module):
    """A residual block whose inner channels are shifted by a vector of each sample, such as a time embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, WIDTH, 1), nn.Conv2d(WIDTH, 3, 1)
        self.up, self.down = nn.Conv2d(WIDTH, INNER, 3, padding=1), nn.Conv2d(INNER, WIDTH, 3, padding=1)
        self.shift = nn.Linear(6, INNER)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        x = self.enter(x)
        h = self.up(x) + self.shift(time)[:, :, None, None]
        found: Tensor = self.leave(x + self.down(h.relu()))
        return found


class InParts(nn.Module):
    """A residual block whose inner layer is a sum of linear ones: a matrix and a product of two small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.a, self.b = nn.Linear(WIDTH, 3, bias=False), nn.Linear(3, INNER, bias=False)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        h = self.up(x) + self.b(self.a(self.dropout(x))) * 2.0
        found: Tensor = self.leave(x + self.down(h.relu()))
        return found


class InOneCall(InParts):
    """The same, of which the sum is one call with the last product."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        h = torch.addmm(self.up(x), self.a(x), self.b.weight.T)
        found: Tensor = self.leave(x + self.down(h.relu()))
        return found


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (Conditioned(), (torch.randn(2, 3, 4, 4), torch.randn(2, 6))),
        (InParts(), (torch.randn(2, 6),)),
        (InOneCall(), (torch.randn(2, 6),)),
    ],
    ids=["conditioned", "in parts", "in one call"],
)
def test_inner_sums_of_a_block_are_no_residual_sums(model: nn.Module, given: tuple[Tensor, ...]) -> None:
    graph = graphprune.trace(model.eval(), given)
    roles = {group.role for group in graph.groups if group.units == INNER}
    assert roles == {"mlp"}
    assert next(group for group in graph.groups if group.units == WIDTH).role == "width"


class Positions(nn.Module):
    """A residual stream that a convolution reads in groups, as positions in wav2vec 2.0, or a norm does."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 5)
        self.grouped = nn.GroupNorm(4, WIDTH) if norm else nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=4)
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        found: Tensor = self.leave(self.block(x + self.grouped(x.transpose(1, 2)).transpose(1, 2)))
        return found


@pytest.mark.parametrize("norm", [False, True], ids=["convolution", "norm"])
@pytest.mark.parametrize(
    ("asked", "groups", "within"),
    [
        ({"width": 0.5}, 4, 4),
        ({"ratio": 0.5}, 2, 8),
        ({"ratio": 0.5, "width": 0.25}, 4, 6),
        ({"ratio": 0.5, "width": 0.0}, 4, 8),
        ({"mlp": 0.5}, 4, 8),
        ({"params": 0.6, "width": 0.25}, 4, 6),
    ],
    ids=str,
)
def test_channels_of_a_stream_that_is_read_in_groups_go_by_width(
    norm: bool, asked: dict[str, Any], groups: int, within: int
) -> None:
    model, x = randomize(Positions(norm)), torch.randn(2, 7, 8)
    plan = graphprune.trace(model, x).plan(**asked)
    assert [choice.kept for choice in plan.choices if choice.role == "groups"] == [groups]
    slim = plan.apply(model)
    assert slim.enter.out_features == groups * within
    assert graphprune.verify(model, slim, plan, x).passed


def test_channels_within_groups_of_a_stream_tell_why_they_stay() -> None:
    graph = graphprune.trace(Positions(norm=False).eval(), torch.randn(2, 7, 8))
    why = {choice.group: choice.why for choice in graph.plan(0.5, width=0.25).choices}
    assert why["enter"] == "ratio 0.25 (width=)"
    assert why["enter:groups"] == "ratio 0 (width= is of the channels within them)"
    assert graph.plan(mlp=0.5).choices[1].why == "nothing is asked of it"
    assert graph.plan(0.5).choices[1].why == "whole groups of them go instead unless width is given"
    assert "Plans leave them: whole groups of them go instead unless width is given." in str(graph.explain("enter"))
