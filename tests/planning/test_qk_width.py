"""Queries and keys become narrower, and values keep their width, where the code has a size for each."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

import graphprune
from graphprune.errors import InputError, NothingRemovedWarning

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """[n, tokens, 16] -> [n, tokens, 16] with 4 heads; sizes of heads are worked out, and the scale is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width, self.scale = 4, 4, 1 / math.sqrt(4)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        return x + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.mT * self.scale).softmax(-1) @ v


class Fused(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)


class OneWidth(Attention):
    """One attribute is the width of queries, keys and values."""

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.width)).transpose(1, 2)


class OwnScale(Attention):
    """torch works the scale out from the width."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("made", [Attention, Fused])
def test_values_and_the_scale_stay(made: type[Attention]) -> None:
    torch.manual_seed(0)
    model = made().eval()
    graph = graphprune.trace(model, X)
    assert [group.scoring for group in graph.groups if group.role == "head_width"] == [True, False]
    plan = graph.plan(qk_width=0.5)
    slim = plan.apply(model)
    assert [layer.out_features for layer in (slim.q, slim.k, slim.v)] == [8, 8, 16]
    assert slim.scale == model.scale and slim.out.in_features == 16
    assert graphprune.verify(model, slim, plan, X).passed
    with torch.no_grad():
        q, k, v = slim.split(slim.q(X)), slim.split(slim.k(X)), model.split(model.v(X))
        expected = X + model.out(((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(slim(X), expected)


def test_beside_other_ratios() -> None:
    model = Attention().eval()
    graph = graphprune.trace(model, X)
    both = graph.plan(head_width=0.25, qk_width=0.5).apply(model)
    assert [layer.out_features for layer in (both.q, both.k, both.v)] == [8, 8, 12]
    all_of_it = graph.plan(head_width=0.5).apply(model)
    assert [layer.out_features for layer in (all_of_it.q, all_of_it.v)] == [8, 8]
    values = graph.plan(head_width=0.5, qk_width=0.0).apply(model)
    assert [layer.out_features for layer in (values.q, values.v)] == [16, 8]
    with pytest.raises(InputError, match="qk_width: given together with heads or kv_groups"):
        graph.plan(heads=0.5, qk_width=0.5)


def bert() -> nn.Module:
    config = BertConfig(vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4)
    return BertModel(config)


scaled = pytest.mark.skipif(
    not hasattr(bert().encoder.layer[0].attention.self, "scaling"), reason="Transformers 4 has torch derive the scale"
)


@pytest.mark.parametrize("made", [OneWidth, pytest.param(bert, marks=scaled)])
def test_one_size_for_queries_and_values_is_a_reason(made: type[nn.Module]) -> None:
    model = made().eval()
    graph = graphprune.trace(model, X if made is OneWidth else torch.ones(1, 4, dtype=torch.int64))
    with pytest.warns(
        NothingRemovedWarning, match=r"one size for them and for channels that stay \(head_width= .*, at .*py:\d+"
    ):
        plan = graph.plan(qk_width=0.5)
    assert not any(choice.removed for choice in plan.choices)
    assert any(choice.removed for choice in graph.plan(head_width=0.5).choices)


def test_head_width_is_not_named_where_it_cannot_help() -> None:
    graph = graphprune.trace(OwnScale().eval(), X)
    why = {choice.group: choice.why for choice in graph.plan(0.5).choices}
    assert "is used as a number" in why["q:head_width"]
    why = {choice.group: choice.why for choice in graphprune.trace(Attention().eval(), X).plan(0.5).choices}
    assert why["v:head_width"] == "heads and groups keep their width unless head_width is given"
    assert "is used as a number" in str(graph.explain("q:head_width"))


class Halves(Attention):
    """Queries and keys meet a table of angles, and values share a layer with them."""

    def __init__(self) -> None:
        super().__init__()
        del self.q, self.k, self.v
        self.qkv = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.split(part) for part in self.qkv(x).chunk(3, -1))
        angles = torch.outer(torch.arange(x.shape[1]), 0.1 ** torch.arange(self.width))
        q, k = q * angles.cos(), k * angles.cos()
        return x + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))


def test_what_holds_widths_is_said_where_they_are_asked_for() -> None:
    graph = graphprune.trace(Halves().eval(), X)
    why = {choice.group: choice.why for choice in graph.plan(0.5).choices}["qkv:head_width"]
    with pytest.warns(NothingRemovedWarning, match=r"one size for them and for channels that stay, at .*chunk"):
        asked = {choice.group: choice.why for choice in graph.plan(head_width=0.5).choices}["qkv:head_width"]
    assert "chunk" in why and asked == why


def test_models_without_attention_are_refused() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(InputError, match=r"qk_width: 0\.5 is asked of qk_width, of which nothing can be removed"):
        graphprune.trace(model, X).plan(qk_width=0.5)
