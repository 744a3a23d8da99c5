"""Sizes that a forward reads from a plain object such as a configuration, and values of floats that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

import pytest
import torch
from torch import Tensor, nn

import graphprune


@dataclass
class Sizes:
    width: int
    heads: int
    widths: list[int] = field(default_factory=list)


@dataclass
class Settings:
    sizes: Sizes
    unused: int = 7


class Attention(nn.Module):
    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.sizes.width
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        sizes = self.settings.sizes
        q, k, v = self.qkv(x).view(b, n, 3, sizes.heads, -1).permute(2, 0, 3, 1, 4)
        attended = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + self.out(attended.transpose(1, 2).reshape(b, n, sizes.widths[0]))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings(Sizes(16, 4, [16, 3]))
        self.stem = nn.Linear(5, 16)
        self.blocks = nn.Sequential(Attention(self.settings), Attention(self.settings))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


def test_sizes_of_a_shared_object_follow_in_the_slim_model_alone() -> None:
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 6, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert plan.sizes == {"settings.sizes.heads": 2, "settings.sizes.widths[0]": 8}
    assert plan.unread == {"settings.sizes.width": 8}
    assert slim.settings.sizes == Sizes(8, 2, [8, 3])
    assert slim.blocks[1].settings is slim.settings
    assert model.settings == Settings(Sizes(16, 4, [16, 3]))
    assert type(slim.settings.sizes.heads) is int
    assert graphprune.verify(model, slim, plan, x).passed


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[:2])
        mask[:, 0] = 2.0
        if bool((mask > 1).all()):
            raise AssertionError("the mask was not followed")
        return self.down(self.up(x).relu() * mask[..., None])


def test_a_program_may_look_at_floats_that_no_weight_touches() -> None:
    x = torch.randn(2, 6, 4)
    graph = graphprune.trace(Padded(), x)
    assert graph.trace.on_meta
    plan = graph.plan(0.5)
    assert graphprune.verify(graph.model, plan.apply(graph.model), plan, x).passed


class Positioned(nn.Module):
    """Keeps its table of positions as a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.randn(6, 8)
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.up(x) + self.table
        return self.down(self.seen.relu())


def test_a_plain_tensor_is_sliced_with_what_it_is_added_to() -> None:
    model, x = Positioned().eval(), torch.randn(2, 6, 4)
    plan = graphprune.trace(model, x).plan(0.5)
    model(x[:1])  # what it remembers may change its shape
    slim = plan.apply(model)
    assert slim.table.shape == (6, 4)
    assert model.table.shape == (6, 8)
    assert graphprune.verify(model, slim, plan, x).passed


class Width(IntEnum):
    INPUT = 8
    HIDDEN = 24


class Enumerated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = Width.HIDDEN
        self.enter, self.leave = nn.Linear(Width.INPUT, Width.HIDDEN), nn.Linear(Width.HIDDEN, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.leave(self.enter(x).relu().view(len(x), self.width.value))
        return out


def test_a_member_of_an_enumeration_is_everybodys() -> None:
    model, x = Enumerated(), torch.randn(2, Width.INPUT)
    with pytest.warns(graphprune.NothingRemovedWarning, match="the size 24 is a (plain number|literal)"):
        plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert (Width.HIDDEN.value, model.enter.out_features) == (24, 24)
    assert plan.sizes == {}
    assert graphprune.verify(model, slim, plan, x).passed


PAIRS = [(i, [i + 1]) for i in range(500)]
MADE: dict[int, Tensor] = {}


def made(n: int) -> Tensor:
    if n not in MADE:
        MADE[n] = torch.ones(n)
    return MADE[n]


def with_made(x: Tensor) -> Tensor:
    return x + made(x.shape[-1])


class Paired(nn.Module):
    """Reads a large table beside what keeps tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(with_made(self.enter(x))) * len(PAIRS)


def test_large_tables_hide_nothing_that_a_program_writes_to() -> None:
    """A trace left its tensors in the program's own table."""
    MADE.clear()
    model, x = Paired().eval(), torch.randn(2, 5)
    graphprune.trace(model, x)
    assert not MADE
    model(x)


WRITES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "in place": lambda known, new: known.add_(new),
    "to a part": lambda known, new: known[:, :4].copy_(new[:, :4]),
    "to several": lambda known, new: torch._foreach_add_([torch.zeros(2, 16), known], [new, new]),
    "as out": lambda known, new: torch.mul(new, new, out=known),
    "as one of several": lambda known, new: torch.max(new, 1, out=(known[:, 0], torch.zeros(2, dtype=torch.long))),
    "drawn": lambda known, new: known.normal_(),
    "drawn as out": lambda known, new: torch.randn(2, 16, out=known),
}


@pytest.mark.parametrize("name", WRITES)
def test_values_are_not_known_any_more_once_others_are_written_there(name: str) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave, self.other = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            y, known = self.enter(x), torch.zeros(2, 16)
            WRITES[name](known, y.detach())
            return self.other(y) if bool((known == 0).all()) else self.leave(y)

    model, x = Writing().eval(), torch.randn(2, 8)
    graph = graphprune.trace(model, x)
    assert graph.trace.unreached == ("other.weight", "other.bias")
