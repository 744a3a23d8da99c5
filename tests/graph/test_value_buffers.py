"""Buffers of truth values and integers that channels meet entry by entry follow what is removed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(2, 3, 6, 6)


class Net(nn.Module):
    """Two convolutions with a function between them that is given masks and integers of 16 channels."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 16, 3), nn.Conv2d(16, 4, 3)
        self.between = between
        self.register_buffer("mask", torch.arange(16) % 3 == 0)
        self.register_buffer("maps", (torch.arange(16) % 3 == 0).view(1, 16, 1, 1))
        self.register_buffer("levels", torch.arange(16).view(16, 1, 1))
        self.register_buffer("alike", torch.ones(16, dtype=torch.bool))
        self.register_buffer("stages", torch.arange(32).view(2, 16) % 3 == 0)
        self.register_buffer("line", torch.arange(16))
        self.register_buffer("squares", torch.rand(4, 4) > 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(self.stem(x))))


def _before(net: Net, x: Tensor) -> Tensor:
    hidden = ~net.mask.view(1, -1, 1, 1)
    return x.masked_fill(hidden, 0.5)


def _in_place(net: Net, x: Tensor) -> Tensor:
    return x.masked_fill_(net.maps, 0.5)


def _written(net: Net, x: Tensor) -> Tensor:
    x[:, net.mask] = 0.5
    return x


def _weight_written(net: Net, x: Tensor) -> Tensor:
    weight = net.b.weight.clone()
    weight[:, ~net.mask] = 0
    return x + nn.functional.conv2d(x, weight, padding=1).mean(1, keepdim=True)


FOLLOW: dict[str, tuple[str, Callable[[Net, Tensor], Tensor]]] = {
    "masked_fill": ("maps", lambda net, x: x.masked_fill(net.maps, 0)),
    "in place": ("maps", _in_place),
    "written": ("mask", _written),
    "a weight, written": ("mask", _weight_written),
    "row": ("mask", lambda net, x: x.masked_fill(net.mask[:, None, None], 0)),
    "row of equals": ("alike", lambda net, x: x * net.alike[:, None, None]),
    "one of several": ("stages", lambda net, x: x * net.stages[1].view(1, -1, 1, 1)),
    "the last of several": ("stages", lambda net, x: x * net.stages[1:, :, None, None]),
    "one part": ("stages", lambda net, x: x * net.stages.unbind()[1][:, None, None]),
    "halves": ("stages", lambda net, x: x * net.stages.chunk(2)[0].view(1, -1, 1, 1)),
    "where": ("maps", lambda net, x: torch.where(net.maps, x, x * 2)),
    "numbers": ("maps", lambda net, x: torch.where(net.maps, 1.0, 0.5) * x),
    "product": ("maps", lambda net, x: x * net.maps),
    "floats": ("maps", lambda net, x: x * net.maps.to(x.dtype)),
    "not": ("mask", _before),
    "compared": ("levels", lambda net, x: x * (net.levels > 3)),
    "integers": ("levels", lambda net, x: (x + net.levels) * net.levels),
    "counted": ("maps", lambda net, x: (x * net.maps).sum(1, keepdim=True) / net.maps.sum() + x),
    "any": ("maps", lambda net, x: x * net.maps * net.maps.any()),
    "summed": ("levels", lambda net, x: x * net.levels / net.levels.float().sum()),
}


@pytest.mark.parametrize("name", FOLLOW)
def test_the_buffer_follows(name: str) -> None:
    buffer, between = FOLLOW[name]
    net = Net(between).eval()
    graph = graphprune.trace(net, X)
    plan = graph.plan(0.5)
    slim = plan.apply(net)
    assert slim.a.out_channels == 8
    kept = plan.kept["a.weight"][0]
    before, after = getattr(net, buffer), getattr(slim, buffer)
    assert after.equal(before.index_select(before.shape.index(16), torch.tensor(kept)))
    assert graphprune.verify(net, slim, plan, X).passed
    assert net.mask.sum() == 6, "verify leaves the model's own buffers alone"


def _indexes(net: Net, x: Tensor) -> Tensor:
    return x[:, (net.levels.flatten() + 3) % 16]


STAY: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "indexes": _indexes,
    "indexes too": lambda net, x: _indexes(net, x * net.levels),
    "picked": lambda net, x: x + x[:, net.mask].mean(1, keepdim=True),
    "looked up": lambda net, x: x * torch.linspace(0, 1, 16)[net.levels],
    "all": lambda net, x: x * net.maps * ~net.maps.all(),
    "integers in a line": lambda net, x: x * net.line[:, None, None],
    "softmax of integers in a line": lambda net, x: x * net.line.double().softmax(0).to(x.dtype)[:, None, None],
    "rolled": lambda net, x: x * net.mask.roll(1)[:, None, None],
}


@pytest.mark.parametrize("name", STAY)
def test_other_uses_hold_channels(name: str) -> None:
    net = Net(STAY[name]).eval()
    graph = graphprune.trace(net, X)
    assert "a.weight[0]" in {str(frozen.axis) for frozen in graph.frozen}
    plan = graph.plan(0.5)
    assert graphprune.verify(net, plan.apply(net), plan, X).passed


def test_positions_are_no_channels() -> None:
    net = Net(lambda net, x: x.masked_fill(net.squares, 0)).eval()
    graph = graphprune.trace(net, X)
    assert not [frozen for frozen in graph.frozen if frozen.axis.startswith("squares")]
    assert graphprune.prune_model(net, 0.5, X, verify=True).a.out_channels == 8
