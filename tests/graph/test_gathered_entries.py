"""``gather`` and its like with buffers of integers: orders of channels follow, and so do columns of what is counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphprune

ORDER = torch.tensor([5, 0, 11, 3, 15, 8, 1, 14, 6, 2, 9, 12, 4, 13, 7, 10])


class Net(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(5, 16), nn.Linear(16, 3), between
        self.register_buffer("order", ORDER.clone())
        self.register_buffer("back", ORDER.argsort())
        self.register_buffer("rows", torch.randint(7, (4,)))
        self.register_buffer("table", torch.randint(7, (1, 4, 16)))
        self.register_buffer("batch", torch.randint(7, (2, 4, 16)))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x).tanh()))


def _both_ways(net: Net, x: Tensor) -> Tensor:
    there = x.gather(2, net.order.expand_as(x))
    return there.sin().gather(2, net.back.expand_as(x)) + x


def _scattered(net: Net, x: Tensor) -> Tensor:
    return torch.zeros_like(x).scatter_add(1, net.batch, x[:, :4])


FOLLOW: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "order": lambda net, x: x.gather(2, net.order.expand(x.shape[0], x.shape[1], -1)),
    "order as another": lambda net, x: x.gather(-1, net.order[None, None].expand_as(x)),
    "order along": lambda net, x: torch.take_along_dim(x, net.order.view(1, 1, -1), 2),
    "method": lambda net, x: x.take_along_dim(net.order.view(1, 1, -1), dim=-1),
    "there and back": _both_ways,
    "rows": lambda net, x: x.gather(1, net.rows.view(1, -1, 1).expand(x.shape[0], -1, x.shape[2])),
    "rows along": lambda net, x: torch.take_along_dim(x, net.rows.view(1, -1, 1), 1),
    "table": lambda net, x: x.gather(1, net.table.expand(x.shape[0], -1, -1)),
    "table along": lambda net, x: torch.take_along_dim(x, net.table, 1),
    "table of a batch": lambda net, x: x.gather(1, net.batch),
    "scattered": _scattered,
    "reduced": lambda net, x: x.scatter_reduce(1, net.batch, x[:, :4].exp(), "amax"),
    "added": lambda net, x: x.scatter(1, net.batch, x[:, :4].exp(), reduce="add"),
    "both": lambda net, x: x.gather(1, net.batch) * x.gather(1, net.batch).exp(),
}


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
@pytest.mark.parametrize("between", FOLLOW.values(), ids=FOLLOW.keys())
@pytest.mark.parametrize("seed", range(2))
def test_buffers_follow(between: Callable[[Net, Tensor], Tensor], seed: int) -> None:
    torch.manual_seed(seed)
    net, x = Net(between).eval(), torch.randn(2, 7, 5)
    plan = graphprune.trace(net, x).plan(0.5, importance="random", seed=seed)
    slim = plan.apply(net)
    assert slim.a.out_features == 8
    assert graphprune.verify(net, slim, plan, x).passed
    again = graphprune.trace(slim, x).plan(0.5, importance="random", seed=seed)
    assert graphprune.verify(slim, again.apply(slim), again, x).passed


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
def test_columns_keep_what_they_count(tmp_path: Path) -> None:
    net, x = Net(FOLLOW["table"]).eval(), torch.randn(2, 7, 5)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    left = plan.mask("a.weight").any(1)
    assert torch.equal(slim.table, net.table[..., left])
    graphprune.save(slim, tmp_path)
    assert torch.equal(graphprune.load(tmp_path, net)(x), slim(x))


def _read_too(net: Net, x: Tensor) -> Tensor:
    return x.gather(1, net.batch) * net.batch


STAY: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "an order for every place": lambda net, x: x.gather(2, torch.stack([net.order] * 7).expand(len(x), -1, -1)),
    "an order that is made": lambda net, x: x.gather(2, net.order.argsort().expand_as(x)),
    "a constant": lambda net, x: x.gather(2, torch.arange(15, -1, -1).expand_as(x)),
    "memory": lambda net, x: x.take(net.batch),
    "numbers": _read_too,
}


@pytest.mark.parametrize("between", STAY.values(), ids=STAY.keys())
def test_other_numbers_hold_their_channels(between: Callable[[Net, Tensor], Tensor]) -> None:
    frozen = {str(f.axis): f for f in graphprune.trace(Net(between).eval(), torch.randn(2, 7, 5)).frozen}
    assert frozen["a.weight[0]"].count == 16
    assert frozen["a.weight[0]"].reason


@pytest.mark.parametrize(
    ("shape", "indices", "dim"),
    [((2, 7, 5), (2, 3, 5), 1), ((2, 7, 5), (1, 3, 1), 1), ((1, 7, 5), (2, 7, 2), 2), ((4,), (6,), 0)],
)
@pytest.mark.parametrize("first", [0, -1])
def test_taking_along_a_dimension_is_traced_as_it_runs(
    shape: tuple[int, ...], indices: tuple[int, ...], dim: int, first: int
) -> None:
    class Taken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)
            self.register_buffer("numbers", torch.randint(first, 4 + first, (*indices, 1)) % 4 + first)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).take_along_dim(self.numbers, dim))

    net, x = Taken().eval(), torch.randn(*shape, 3)
    if first < 0 and not _counts_from_the_end():
        pytest.skip("this version of torch takes no negative numbers here")
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.a.out_features == 4


def _counts_from_the_end() -> bool:
    try:
        return bool(torch.ones(2).take_along_dim(torch.tensor([-1]), 0).all())
    except RuntimeError:
        return False
