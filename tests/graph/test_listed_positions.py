"""Entries that are picked by a list of numbers, ``x[..., [-2], :]``: lists of neighbors cut as slices do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import graphprune
from graphprune.tracing.size_tracking.parts import _neighbors

HEADS, DIM = 6, 8


class SharedKeys(nn.Module):
    """Queries of six heads, then one key and one value, of one projection."""

    def __init__(self, keys: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.keys, self.heads, self.dim = keys, HEADS, DIM
        self.enter, self.qkv, self.out = nn.Linear(5, 32), nn.Linear(32, (HEADS + 2) * DIM), nn.Linear(HEADS * DIM, 3)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.enter(x).relu()).view(*x.shape[:2], self.heads + 2, self.dim)
        k, v = self.keys(qkv)
        q, k, v = (y.transpose(1, 2) for y in (qkv[..., :-2, :], k, v))
        y = F.scaled_dot_product_attention(q, k.expand_as(q), v.expand_as(q), scale=0.3)
        return self.out(y.transpose(1, 2).reshape(*x.shape[:2], self.heads * self.dim))


def _added_to(x: Tensor) -> tuple[Tensor, Tensor]:
    """What lists pick is a copy: the value is not written to."""
    k = x[..., [-1], :]
    k += 1
    return k, x[..., [-1], :]


PICKS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "lists": lambda x: (x[..., [-2], :], x[..., [-1], :]),
    "in all dimensions": lambda x: (x[:, :, [-2]], x[:, :, [-1], :]),
    "ranges": lambda x: (x[:, :, range(-2, -1)], x[:, :, range(-1, 0)]),
    "both together": lambda x: x[:, :, [-2, -1]].split(1, 2),  # type: ignore[dict-item]
    "numbers": lambda x: (x[:, :, -2:-1], x[:, :, -1].unsqueeze(2)),
    "with a new dimension": lambda x: (x[None, :, :, [-2]][0], x[:, :, [-1], None][:, :, :, 0]),
    "a copy": _added_to,
}


@pytest.mark.parametrize("keys", PICKS.values(), ids=PICKS.keys())
@pytest.mark.parametrize("option", ["heads", "width"])
def test_heads_beside_listed_keys_go(keys: Callable[[Tensor], tuple[Tensor, Tensor]], option: str) -> None:
    torch.manual_seed(0)
    net, x = SharedKeys(keys).eval(), torch.randn(2, 7, 5)
    plan = graphprune.trace(net, x).plan(**({option: 0.5} if option == "heads" else {"ratio": 0.5}))
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.heads == 3
    assert slim.qkv.out_features == (3 + 2) * DIM


class Listed(nn.Module):
    """Picks channels by a list."""

    def __init__(self, index: Any) -> None:
        super().__init__()
        self.index, self.enter = index, nn.Linear(5, 12)
        self.hidden = nn.Linear(12, 12)
        self.leave = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.hidden(self.enter(x).tanh()).tanh()
        return self.leave(y[self.index].flatten(1))


NEIGHBORS = ([3], [0, 1], [2, 3, 4], [-1], [-3, -2], [11], [10, 11], [-12], [-2, -1])
ALL = (list(range(12)), list(range(-12, 0)))
LISTS = (*NEIGHBORS, *ALL, [0, 5], [4, 2], [1, 1], [[0, 1]], [-1, 0], [True, False] * 6)


@pytest.mark.parametrize("index", LISTS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_channels_picked_by_a_list_are_those_of_the_dense_model(index: list[Any], seed: int) -> None:
    torch.manual_seed(seed)
    net, x = Listed((slice(None), index)).eval(), torch.randn(4, 5)
    net(x)
    plan = graphprune.trace(net, x).plan(0.5, importance="random", seed=seed)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([-2], slice(-2, -1)),
        ([-1], slice(-1, None)),
        ([-2, -1], slice(-2, None)),
        ([0, 1], slice(0, 2)),
        ((3,), slice(3, 4)),
        (range(2, 4), slice(2, 4)),
        ([-1, 0], None),
        ([0, 2], None),
        ([1, 0], None),
        ([], None),
        ([True], None),
        ([[0, 1]], None),
    ],
    ids=str,
)
def test_neighbors_are_a_slice(numbers: Any, expected: slice | None) -> None:
    assert _neighbors(numbers) == expected


FALCONS: dict[str, dict[str, Any]] = {
    "groups": {"new_decoder_architecture": True, "num_kv_heads": 3},
    "a key for each head": {"new_decoder_architecture": True, "num_kv_heads": HEADS},
    "one key": {"new_decoder_architecture": False, "multi_query": True},
    "interleaved": {"new_decoder_architecture": False, "multi_query": False, "bias": True},
}


@pytest.mark.parametrize("fields", FALCONS.values(), ids=FALCONS.keys())
def test_fused_projections_of_a_language_model_lose_heads(fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    role = "kv_groups" if fields.get("num_kv_heads") == 3 else "heads"
    config = transformers.FalconConfig(
        vocab_size=64, hidden_size=48, num_hidden_layers=2, num_attention_heads=HEADS, **fields
    )
    model, ids = transformers.FalconForCausalLM(config).eval(), torch.randint(0, 64, (2, 7))
    plan = graphprune.trace(model, ids).plan(**{role: 0.4})
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, ids).passed
    attention = slim.transformer.h[0].self_attention
    assert attention.num_heads == 4
    assert attention.dense.in_features == 4 * DIM
