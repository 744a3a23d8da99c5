"""One-line programs that see channels as a grid of heads and widths, pruned at half and verified."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

pytestmark = pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
"""Some layouts may freeze; those that must be smaller say so."""

Function = Callable[[Tensor], Tensor]

# [batch, heads, width] to the same, or to something to be flattened
ALONG_HEADS: dict[str, Function] = {
    "softmax": lambda v: v.softmax(1),
    "log_softmax": lambda v: v.log_softmax(1),
    "cumsum": lambda v: v.cumsum(1),
    "cumprod": lambda v: v.cumprod(1),
    "logcumsumexp": lambda v: v.logcumsumexp(1),
    "mean": lambda v: v - v.mean(1, keepdim=True),
    "norm": lambda v: v / v.norm(dim=1, keepdim=True),
    "amax": lambda v: v - v.amax(1, keepdim=True),
    "logsumexp": lambda v: v - v.logsumexp(1, keepdim=True),
    "std": lambda v: v / v.std(1, keepdim=True),
    "sum": lambda v: v * v.sum(1, keepdim=True),
    "prod": lambda v: v * v.prod(1, keepdim=True),
    "flip": lambda v: v.flip(1) * v,
    "diff": lambda v: v.diff(dim=1),
    "glu": lambda v: F.glu(v, 1),
    "sum only": lambda v: v.sum(1),
    "layer norm by permute": lambda v: F.layer_norm(v.mT, (v.shape[1],)).mT,
    "softmax by permute": lambda v: v.permute(0, 2, 1).softmax(-1).permute(0, 2, 1),
    "cumsum by permute": lambda v: v.permute(0, 2, 1).cumsum(2).permute(0, 2, 1),
}

ALONG_WIDTH: dict[str, Function] = {
    "softmax": lambda v: v.softmax(2),
    "cumsum": lambda v: v.cumsum(-1),
    "cumprod": lambda v: v.cumprod(-1),
    "mean": lambda v: v - v.mean(-1, keepdim=True),
    "amax": lambda v: v - v.amax(-1, keepdim=True),
    "sum": lambda v: v * v.sum(2, keepdim=True),
    "norm by permute": lambda v: v.permute(0, 2, 1).div(v.norm(dim=2)[:, None]).permute(0, 2, 1),
    "softmax by permute": lambda v: v.permute(0, 2, 1).softmax(1).permute(0, 2, 1),
}

ALONG_BOTH: dict[str, Function] = {
    "softmax, then sum": lambda v: v * v.softmax(1).sum(2, keepdim=True),
    "both softmax": lambda v: v.softmax(1) * v.softmax(2),
    "mean": lambda v: v - v.mean((1, 2), keepdim=True),
    "cumsum": lambda v: v.cumsum(1).cumsum(2),
    "softmax of a permuted grid times the grid": lambda v: v.permute(0, 2, 1).softmax(2).permute(0, 2, 1) * v,
}

PROGRAMS = {
    f"{name} along {kind}": function
    for kind, table in (("heads", ALONG_HEADS), ("width", ALONG_WIDTH), ("both", ALONG_BOTH))
    for name, function in table.items()
}

# What freezes the grid, or may: right, whatever is removed.
MAY_FREEZE: dict[str, Function] = {
    "sort": lambda v: v.sort(1).values,
    "median": lambda v: v - v.median(1, keepdim=True)[0],
    "roll": lambda v: v.roll(1, 1) + v,
    "topk": lambda v: v.topk(2, 1).values,
    "product": lambda v: (v @ v.mT).softmax(-1) @ v,
    "one column": lambda v: v * v[:, :, 2:3],
    "sum of one column": lambda v: v * v[:, :, 2].sum(1)[:, None, None],
    "first columns": lambda v: v[:, :, :2],
    "renorm": lambda v: v.renorm(2, 2, 0.5),
}


class Grid(nn.Module):
    """A width of 16 that is seen as four heads of four."""

    def __init__(self, function: Function, split: str) -> None:
        super().__init__()
        width = function(torch.ones(1, 4, 4)).flatten(1).shape[1]
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(width, 3)
        self.function, self.split, self.heads = function, split, 4

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        if self.split == "unflatten":
            grid = y.unflatten(1, (self.heads, -1))
        elif self.split == "view":
            grid = y.view(y.shape[0], self.heads, y.shape[1] // self.heads)
        else:  # the width first
            grid = y.view(y.shape[0], -1, self.heads).permute(0, 2, 1)
        return self.leave(self.function(grid).flatten(1))


def pruned(function: Function, split: str, seed: int) -> tuple[bool, int]:
    """Is the slim model right, and how many channels are left of 16?"""
    torch.manual_seed(seed)
    net, x = Grid(function, split).eval(), torch.randn(4, 5)
    plan = graphprune.trace(net, x).plan(0.5, importance="random", seed=seed)
    slim = plan.apply(net)
    return graphprune.verify(net, slim, plan, x).passed, slim.enter.out_features


@pytest.mark.parametrize("split", ["view", "unflatten", "permute"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_on_a_grid_is_pruned_right(name: str, split: str) -> None:
    for seed in range(3):
        passed, left = pruned(PROGRAMS[name], split, seed)
        assert passed
        assert left < 16 or split == "permute"


@pytest.mark.parametrize("split", ["view", "unflatten", "permute"])
@pytest.mark.parametrize("name", MAY_FREEZE)
def test_a_program_that_may_freeze_its_grid_is_right(name: str, split: str) -> None:
    for seed in range(3):
        try:
            assert pruned(MAY_FREEZE[name], split, seed)[0]
        except graphprune.PlanError as error:
            assert "nothing that can be pruned" in str(error)  # noqa: PT017


class FlatAndGrid(nn.Module):
    """Channels meet what was made of them as a grid once that is flat again."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)
        self.function, self.heads = function, 4

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        return self.leave(y + self.function(y.view(len(y), self.heads, -1)).flatten(1))


@pytest.mark.parametrize("name", ["mean", "amax", "sum", "norm", "softmax"])
def test_rows_and_columns_of_what_is_flat_again(name: str) -> None:
    """They are heads and widths, as they are where the grid itself is added: not all one unit."""
    torch.manual_seed(0)
    net, x = FlatAndGrid(ALONG_HEADS[name]).eval(), torch.randn(4, 5)
    graph = graphprune.trace(net, x)
    assert {group.role: group.units for group in graph.groups} == {"heads": 4, "head_width": 4}
    for options in ({"ratio": 0.5}, {"ratio": 0.0, "head_width": 0.5}):
        plan = graph.plan(**options)
        slim = plan.apply(net)
        assert slim.enter.out_features == 8
        assert graphprune.verify(net, slim, plan, x).passed


class WalkOfVectors(nn.Module):
    """Vectors are cut in rows, put side by side again, and mixed: there are as many results of ``unbind`` as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.rows, self.back = nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(3, 8)
        self.gain = nn.Parameter(torch.randn(3))
        self.halves, self.leave = nn.Linear(8, 8), nn.Linear(3, 8)
        self.mixed = nn.Parameter(torch.randn(8, 3))
        self.head = nn.Linear(8, 5)
        self.count, self.width = 3, 4

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        y = self.rows(x)
        y = F.hardswish(y.reshape(y.shape[0], self.count, y.size(1) // self.count))
        y = y / (1 + y.norm(dim=2, keepdim=True))
        y = torch.cat(y.unbind(1), 1)[:, ::2] * self.gain
        x = x + self.back(y)
        y = self.halves(x).unflatten(1, (-1, self.width))
        y = torch.einsum("...i,io->...o", torch.cat(y.unbind(1), 1), self.mixed)
        return self.head(self.leave(y))


@pytest.mark.parametrize("seed", range(4))
def test_fewer_results_than_in_the_dense_run_are_no_crash(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = WalkOfVectors().eval(), torch.randn(2, 8)
    plan = graphprune.trace(model, x).plan(0.5, importance="random", seed=seed)
    assert graphprune.verify(model, plan.apply(model), plan, x).passed
