"""Key/value heads, query heads and head width are told apart, whatever numbers they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Grouped(nn.Module):
    """Attention in which ``heads // kv_heads`` query heads share each head of keys and values."""

    def __init__(self, heads: int, kv_heads: int, width: int) -> None:
        super().__init__()
        self.repeats, self.width = heads // kv_heads, width
        self.q = nn.Linear(6, heads * width)
        self.k = nn.Linear(6, kv_heads * width)
        self.v = nn.Linear(6, kv_heads * width)
        self.o = nn.Linear(heads * width, 6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).view(*x.shape[:2], -1, self.width).transpose(1, 2) for part in (self.q, self.k, self.v))
        k, v = self.repeated(k), self.repeated(v)
        y = (q @ k.transpose(-1, -2) * 0.3).softmax(-1) @ v
        return self.o(y.transpose(1, 2).flatten(2))

    def repeated(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        return x[:, :, None].expand(batch, heads, self.repeats, length, width).reshape(batch, -1, length, width)


@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(8, 2, 4), (8, 2, 2), (8, 2, 5), (8, 4, 2), (9, 3, 3)])
def test_roles_do_not_depend_on_the_numbers(heads: int, kv_heads: int, width: int) -> None:
    graph = graphprune.trace(Grouped(heads, kv_heads, width), torch.randn(2, 5, 6))
    roles = {(group.role, group.units) for group in graph.groups if group.name.startswith(("q", "v"))}
    assert {("kv_groups", kv_heads), ("heads", heads // kv_heads)} <= roles
    assert {units for role, units in roles if role not in ("kv_groups", "heads")} == {kv_heads * width}


def test_key_value_heads_go_where_each_serves_as_many_queries_as_it_is_wide() -> None:
    model, x = Grouped(8, 2, 4).eval(), torch.randn(2, 5, 6)
    plan = graphprune.trace(model, x).plan(kv_groups=0.5)
    slim = plan.apply(model)
    assert slim.get_parameter("k.weight").shape[0] == 4 and slim.get_parameter("q.weight").shape[0] == 16
    assert graphprune.verify(model, slim, plan, x).passed


class SharedKeys(nn.Module):
    """Attention that works out how many query heads share keys in forward, or views of a product. [n, rows, 6]"""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.groups = 8, 4
        self.query, self.keys, self.leave = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, rows, _ = x.shape
        q = self.query(x).view(n, rows, self.groups, self.heads // self.groups, -1).permute(0, 2, 3, 1, 4)
        k, v = self.keys(x).view(n, rows, 2, self.groups, 1, -1).permute(2, 0, 3, 4, 1, 5)
        return self.leave(((q @ k.mT).softmax(-1) @ v).permute(0, 3, 1, 2, 4).reshape(n, rows, -1))


class RepeatedGate(nn.Module):
    """Each gate is repeated for eight channels. [n, 6] -> [n, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.keys, self.leave = nn.Linear(6, 32), nn.Linear(6, 4), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.keys(x).sigmoid()
        repeated = gate[..., None].expand(-1, -1, 8).reshape(len(x), gate.shape[1] * 8)
        return self.leave(self.query(x) * repeated)


@pytest.mark.parametrize(("make", "shape", "left"), [(SharedKeys, (2, 5, 6), 16), (RepeatedGate, (4, 6), 2)])
def test_whole_groups_go_where_a_size_is_a_product(make: type[Any], shape: tuple[int, ...], left: int) -> None:
    """A quotient of two numbers of heads tells one of them; what a literal holds is no factor that may change."""
    net, x = make().eval(), torch.randn(shape)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert (slim.query.out_features, slim.keys.out_features) == (16, left)
    assert graphprune.verify(net, slim, plan, x).passed
    assert not isinstance(slim, SharedKeys) or (slim.heads, slim.groups) == (4, 2)


class Queried(nn.Module):
    """Learned queries, repeated for each sample, look at a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.enter = nn.Parameter(torch.randn(5, 32)), nn.Linear(8, 32)
        self.attention, self.leave = nn.MultiheadAttention(32, 4), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).transpose(0, 1)
        queries = self.queries.unsqueeze(1).repeat(1, x.shape[1], 1)
        return self.leave(self.attention(queries, x, x)[0])


def test_heads_are_heads_whatever_the_batch_size() -> None:
    model, x = Queried().eval(), torch.randn(2, 7, 8)
    plan = graphprune.trace(model, x).plan(heads=0.5)
    slim = plan.apply(model)
    assert [choice.role for choice in plan.choices if choice.removed] == ["heads"]
    assert graphprune.verify(model, slim, plan, x[:1]).passed
    assert graphprune.trace(model, x[:1]).plan(heads=0.5).removed == plan.removed


class HeadsBeforeSamples(nn.Module):
    """As in "Attention is all you need" of the first years: one mask for each head, one behind another."""

    def __init__(self, heads: int = 4, width: int = 16) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.query, self.key, self.value, self.leave = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        parts = x.view(*x.shape[:2], self.heads, self.each).permute(2, 0, 1, 3)
        return parts.contiguous().view(-1, x.shape[1], self.each)

    def masks(self, mask: Tensor) -> Tensor:
        return mask.unsqueeze(1).expand(-1, mask.shape[1], -1).repeat(self.heads, 1, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (self.split(layer(x)) for layer in (self.query, self.key, self.value))
        scores = (q @ k.mT / 2).masked_fill(self.masks(mask), -1e9).softmax(2)
        found = (scores @ v).view(self.heads, *x.shape[:2], self.each).permute(1, 2, 0, 3)
        y: Tensor = self.leave(found.contiguous().view(*x.shape[:2], -1))
        return y


class Tiled(HeadsBeforeSamples):
    def masks(self, mask: Tensor) -> Tensor:
        return mask[:, None].tile(self.heads, 1, 1)


@pytest.mark.parametrize("kind", [HeadsBeforeSamples, Tiled])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_masks_that_are_repeated_for_each_head_lose_heads(kind: type[HeadsBeforeSamples], batch: int) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    inputs = [(torch.randn(n, 3, 16), torch.rand(n, 3) < 0.3) for n in (batch, 1, 2, 5)]
    plan = graphprune.trace(model, inputs[0]).plan(0.5)
    slim = plan.apply(model)
    assert slim.heads == 2
    assert all(graphprune.verify(model, slim, plan, one).passed for one in inputs)


def test_masks_that_are_repeated_a_number_of_times_hold_heads() -> None:
    class Four(HeadsBeforeSamples):
        def masks(self, mask: Tensor) -> Tensor:
            return mask[:, None].repeat(4, 1, 1)

    torch.manual_seed(0)
    for batch in (1, 2):
        inputs = torch.randn(batch, 3, 16), torch.rand(batch, 3) < 0.3
        slim = graphprune.prune_model(Four().eval(), 0.5, inputs, verify=True)
        assert (slim.heads, slim.each, slim.leave.in_features) == (4, 2, 8)
