"""Attention that turns a part of every head by its position: the parts are joined again, and heads stay heads."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import graphprune

Joined = Callable[[Tensor, Tensor, int], Tensor]

WIDTH, HEADS, DIM = 48, 6, 8


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """[..., heads, positions, width] with angles of [positions, width]."""
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * angles.cos() + torch.cat((-second, first), -1) * angles.sin()


def sliced(x: Tensor, angles: Tensor, turning: int) -> Tensor:
    return torch.cat((_turned(x[..., :turning], angles), x[..., turning:]), -1)


def passing_first(x: Tensor, angles: Tensor, turning: int) -> Tensor:
    return torch.cat((x[..., turning:], _turned(x[..., :turning], angles)), -1)


def split(x: Tensor, angles: Tensor, turning: int) -> Tensor:
    turned, passing = x.split([turning, x.shape[-1] - turning], -1)
    return torch.cat((_turned(turned, angles), passing), -1)


def halves(x: Tensor, angles: Tensor, turning: int) -> Tensor:
    turned, passing = x.chunk(2, -1)
    return torch.cat((_turned(turned, angles), passing), -1)


def from_behind(x: Tensor, angles: Tensor, turning: int) -> Tensor:
    return torch.cat((x[..., :-turning], _turned(x[..., -turning:], angles)), -1)


def positions_first(x: Tensor, angles: Tensor, turning: int) -> Tensor:
    y = x.transpose(1, 2)
    return torch.cat((_turned(y[..., :turning], angles[:, None]), y[..., turning:]), -1).transpose(1, 2)


def padded(x: Tensor, angles: Tensor, turning: int) -> Tensor:
    left = F.pad(_turned(x[..., :turning], angles), (0, x.shape[-1] - turning))
    return left + F.pad(x[..., turning:], (turning, 0))


def every_two(x: Tensor, angles: Tensor, turning: int) -> Tensor:
    y = x[..., :turning]
    other = torch.stack((-y[..., 1::2], y[..., ::2]), -1).flatten(-2)
    return torch.cat((y * angles.cos() + other * angles.sin(), x[..., turning:]), -1)


class Attention(nn.Module):
    """Attention of six heads (or key/value groups of two), a part of which is turned."""

    def __init__(self, joined: Joined, turning: int = 4, groups: int = HEADS) -> None:
        super().__init__()
        self.joined, self.turning, self.heads, self.groups = joined, turning, HEADS, groups
        self.enter, self.leave = nn.Linear(5, WIDTH), nn.Linear(WIDTH, 3)
        self.q, self.out = nn.Linear(WIDTH, HEADS * DIM), nn.Linear(HEADS * DIM, WIDTH)
        self.k, self.v = nn.Linear(WIDTH, groups * DIM), nn.Linear(WIDTH, groups * DIM)
        self.register_buffer("frequencies", torch.rand(turning // 2))

    def _by_heads(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        angles = torch.arange(x.shape[1])[:, None] * self.frequencies
        angles = torch.cat((angles, angles), -1)
        q = self.joined(self._by_heads(self.q(x), self.heads), angles, self.turning)
        k, v = self._by_heads(self.k(x), self.groups), self._by_heads(self.v(x), self.groups)
        k, v = (y.repeat_interleave(self.heads // self.groups, 1) for y in (self.joined(k, angles, self.turning), v))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.3).transpose(1, 2).flatten(2)
        return self.leave(x + self.out(y))


WAYS = [sliced, passing_first, split, halves, from_behind, positions_first, padded, every_two]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("groups", [HEADS, 3])
def test_heads_of_which_a_part_is_turned_go_whole(way: Joined, groups: int) -> None:
    torch.manual_seed(0)
    net, x = Attention(way, groups=groups).eval(), torch.randn(2, 7, 5)
    graph = graphprune.trace(net, x)
    role = {"heads": 0.5} if groups == HEADS else {"kv_groups": 0.34}
    plan = graph.plan(**role)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.k.out_features == (3 if groups == HEADS else 2) * DIM


@pytest.mark.parametrize("turning", [2, 4, 6, 8])
@pytest.mark.parametrize("option", ["heads", "head_width", "width"])
def test_any_part_of_a_head_may_be_turned(turning: int, option: str) -> None:
    """The part that passes is empty where all of a head is turned."""
    torch.manual_seed(0)
    net, x = Attention(sliced, turning).eval(), torch.randn(2, 7, 5)
    plan = graphprune.trace(net, x).plan(**{option: 0.5})
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in net.parameters())


class FusedByPosition(nn.Module):
    """Queries, keys and values are slices of one product; a configuration has the number of heads."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.config, self.dim, self.groups = SimpleNamespace(heads=HEADS), DIM, groups
        self.enter, self.leave = nn.Linear(5, (HEADS + 2 * groups) * DIM), nn.Linear(HEADS * DIM, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, queries = self.enter(x), self.config.heads * self.dim
        parts = y[..., :queries], y[..., queries : queries + self.groups * self.dim]
        parts = *parts, y[..., queries + self.groups * self.dim :]
        q, k, v = (part.view(*x.shape[:2], -1, self.dim).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.3, enable_gqa=self.groups != self.config.heads)
        return self.leave(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("groups", "left"), [(6, 3), (3, 2)])
def test_positions_of_slices_tell_the_number_of_heads(groups: int, left: int) -> None:
    torch.manual_seed(0)
    net, x = FusedByPosition(groups).eval(), torch.randn(2, 7, 5)
    plan = graphprune.trace(net, x).plan(**({"heads": 0.5} if groups == HEADS else {"kv_groups": 0.34}))
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.groups == left
    assert slim.config.heads == left * HEADS // groups


def _language_model(name: str, **fields: object) -> nn.Module:
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 64, "num_hidden_layers": 2}
    config = getattr(transformers, f"{name}Config")(vocab_size=64, pad_token_id=0, **sizes, **fields)
    model: nn.Module = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    return model


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Phi", {"partial_rotary_factor": 0.5}),
        ("StableLm", {"partial_rotary_factor": 0.25, "num_key_value_heads": HEADS}),
        ("GPTNeoX", {"rotary_pct": 0.5}),
        ("Phi3", {"partial_rotary_factor": 0.5, "num_key_value_heads": HEADS}),
        ("Phi3", {"num_key_value_heads": HEADS}),
    ],
)
@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
@pytest.mark.parametrize("option", ["heads", "head_width"])
def test_language_models_that_turn_a_part_of_each_head(name: str, fields: dict[str, object], option: str) -> None:
    torch.manual_seed(0)
    model, ids = _language_model(name, **fields), torch.randint(0, 64, (2, 7))
    graph = graphprune.trace(model, ids)
    assert [g.units for g in graph.groups if g.role == "heads"] == [HEADS, HEADS]
    if option == "head_width" and int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("attention of Transformers 4 works its scale out from the width")
    plan = graph.plan(**{option: 0.5})
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, ids).passed
    assert sum(p.numel() for p in slim.parameters()) < sum(p.numel() for p in model.parameters())
