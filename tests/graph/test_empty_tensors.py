"""Tensors without entries: an empty memory that is concatenated and reshaped, a slice of nothing, no repetition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune


class EmptyMemory(nn.Module):
    """Concatenates a memory of no entries, and reshapes it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        empty = h.new_zeros(1, 0, 16)
        h = torch.cat([h, empty], 1)
        return self.leave(self.hidden(h).relu()) + empty.view(2, 8, 0).sum()


def test_a_reshaped_empty_tensor_freezes_only_its_own_channels() -> None:
    net, x = EmptyMemory().eval(), torch.randn(1, 3, 8)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert (slim.enter.out_features, slim.hidden.out_features) == (16, 6)


class NoTokens(nn.Module):
    """As many tokens of its own as it is told, here none, before those of the input."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(tokens, 16))
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens.unsqueeze(0).expand(x.shape[0], -1, -1)
        return self.leave(torch.cat([tokens, self.enter(x)], 1).relu())


@pytest.mark.parametrize("tokens", [0, 1, 2])
@pytest.mark.parametrize("importance", ["l1", "l2", "lamp", "fpgm", "random"])
def test_an_empty_parameter_is_as_wide_as_what_it_is_joined_to(tokens: int, importance: str) -> None:
    net, x = NoTokens(tokens).eval(), torch.randn(2, 3, 8)
    plan = graphprune.trace(net, x).plan(0.5, importance=importance)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.tokens.shape == (tokens, 8)


class NoPrompt(nn.Module):
    """Projects a learned prompt of no tokens and puts it before the input's."""

    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(0, 6))
        self.project, self.enter, self.leave = nn.Linear(6, 16, bias=False), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        prompt = (
            torch.mm(self.prompt, self.project.weight.t()).view(0, self.project.out_features).expand(len(x), -1, -1)
        )
        return self.leave(torch.cat([prompt, self.enter(x)], 1))


def test_a_product_without_rows_has_no_rows() -> None:
    net, x = NoPrompt().eval(), torch.randn(2, 3, 8)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.enter.out_features == slim.project.out_features == 8


class Beside(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between: Callable[[Beside, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(3, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(8))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x) * self.scale))


BETWEEN: dict[str, Callable[[Beside, Tensor], Tensor]] = {
    "repeated": lambda net, y: y + net.scale.repeat(0).sum(),
    "rows repeated": lambda net, y: y + y.repeat(0, 1).sum(0),
    "sliced": lambda net, y: y + y[:, :0].sum(1, keepdim=True),
    "product": lambda net, y: y * y[:, :0].prod(1, keepdim=True),
    "norm": lambda net, y: y + y[:, :0].norm(),
    "put together": lambda net, y: torch.cat([y[:, :0], y], 1),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_channels_beside_nothing_go(name: str) -> None:
    net, x = Beside(BETWEEN[name]).eval(), torch.randn(2, 3)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert slim.first.out_features == 4
    assert graphprune.verify(net, slim, plan, x).passed
