"""Key/value heads, query heads and head width are told apart, whatever numbers they are."""

from __future__ import annotations

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
