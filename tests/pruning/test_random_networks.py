"""Networks with random structure: the slim model equals the masked original, trains, and leaves the original alone."""

from __future__ import annotations

import copy
from math import floor
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import graphprune
from graphprune.api import ChannelGraph
from graphprune.graph.candidates import candidates
from graphprune.pruning.plan import Plan
from tests.networks import (
    Branches,
    Concat,
    ConvNorm,
    FlatTail,
    FusedAttention,
    Gate,
    Grouped,
    GroupedQueryAttention,
    ImageNetwork,
    PooledTail,
    Residual,
    Shuffle,
    SqueezeExcite,
    TextNetwork,
    TokenTail,
    TorchAttention,
    TransformerBlock,
    Twice,
    randomize,
)

SIZE = 4
WIDTHS = st.integers(3, 9)
BLOCKS = "conv residual concat gate shuffle grouped squeeze twice branches".split()


@st.composite
def image_blocks(draw: Any, channels: int) -> tuple[nn.Module, int]:
    """One block, and how many channels it puts out."""
    kind = draw(st.sampled_from(BLOCKS))
    width = draw(WIDTHS)
    flag = draw(st.booleans())
    if kind == "conv":
        outputs = 2 * draw(st.integers(2, 4))
        return ConvNorm(channels, outputs, draw(st.sampled_from(["batch", "group", ""]))), outputs
    if kind == "concat":
        return Concat(channels, width, with_image=flag), channels + width + 3 * flag
    if kind == "branches":
        widths = draw(st.lists(st.integers(2, 5), min_size=2, max_size=3))
        return Branches(channels, widths), sum(widths)
    if kind == "grouped":
        return Grouped(channels, draw(st.integers(2, 4)), draw(st.integers(1, 3)), 1 + flag), channels
    if kind == "shuffle" and channels % 2 == 0:
        return Shuffle(channels), channels
    if kind == "gate":
        return Gate(channels, width, chunk=flag), channels
    if kind == "squeeze":
        return SqueezeExcite(channels, width), channels
    if kind == "twice":
        return Twice(channels), channels
    return Residual(channels, width, project=flag), channels


@st.composite
def attentions(draw: Any, dim: int) -> nn.Module:
    heads = draw(st.sampled_from([h for h in (2, 3, 4) if dim % h == 0]))
    kind = draw(st.sampled_from(["fused", "torch", "grouped"]))
    if kind == "grouped":
        return GroupedQueryAttention(dim, draw(st.integers(1, 3)), draw(st.integers(1, 3)), 4)
    return FusedAttention(dim, heads) if kind == "fused" else TorchAttention(dim, heads)


@st.composite
def transformer_blocks(draw: Any, dim: int) -> list[nn.Module]:
    count = draw(st.integers(1, 2))
    return [TransformerBlock(dim, draw(attentions(dim)), draw(WIDTHS), draw(st.booleans())) for _ in range(count)]


@st.composite
def image_networks(draw: Any) -> tuple[nn.Module, Tensor]:
    stem = channels = 2 * draw(st.integers(2, 4))
    blocks = []
    for _ in range(draw(st.integers(1, 4))):
        block, channels = draw(image_blocks(channels))
        blocks.append(block)
    tail = draw(st.sampled_from(["pooled", "flat", "tokens"]))
    if tail == "tokens":
        dim = 2 * draw(st.integers(2, 6))
        blocks.append(ConvNorm(channels, dim))
        end: nn.Module = TokenTail(dim, SIZE**2, draw(transformer_blocks(dim)))
    elif tail == "flat":
        end = FlatTail(channels, draw(WIDTHS), SIZE**2)
    else:
        end = PooledTail(channels, draw(WIDTHS))
    return ImageNetwork(stem, blocks, end), torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@st.composite
def text_networks(draw: Any) -> tuple[nn.Module, Tensor]:
    dim = 2 * draw(st.integers(2, 6))
    network = TextNetwork(dim, draw(transformer_blocks(dim)), tied=draw(st.booleans()))
    return network, torch.arange(10).view(2, 5)


def snapshot(model: nn.Module) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """All tensors, and all other attributes, of all submodules."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hidden = ("_parameters", "_buffers", "_modules")
    return state, [copy.copy({k: v for k, v in vars(m).items() if k not in hidden}) for m in model.modules()]


def unchanged(model: nn.Module, before: tuple[dict[str, Tensor], list[dict[str, Any]]]) -> bool:
    state, attributes = snapshot(model)
    same = all(torch.equal(state[name], tensor) for name, tensor in before[0].items())
    return same and state.keys() == before[0].keys() and attributes == before[1]


def wrong_counts(graph: ChannelGraph, plan: Plan, ratio: float) -> list[str]:
    """Groups that lost more or less than their share, though no size in the program ties them to others."""
    reached = np.array([int(ratio * g.units + 1e-9) > 0 and g.units > 1 for g in graph.units.groups], bool)
    free, constraints = candidates(graph, reached, head_width=False)
    tied = np.zeros(len(free), bool)
    for equation in constraints.equations:
        tied[equation.expression.units] = True
    wrong = []
    for group, choice in zip(graph.groups, plan.choices, strict=True):
        if not 1 <= choice.kept <= group.units:
            wrong.append(str(choice))
        independent = free[group.unit_ids].all() and not tied[group.unit_ids].any()
        if independent and choice.kept != max(1, group.units - floor(ratio * group.units + 1e-9)):
            wrong.append(str(choice))
    return wrong


def trains(slim: nn.Module, inputs: Tensor) -> bool:
    """Does every parameter get a finite gradient?"""
    slim.train()(inputs).square().sum().backward()
    return all(p.grad is not None and bool(p.grad.isfinite().all()) for p in slim.parameters())


@given(
    case=st.one_of(image_networks(), image_networks(), text_networks()),
    ratio=st.sampled_from([0.0, 0.2, 0.34, 0.5, 0.7, 0.9]),
    seed=st.integers(0, 3),
)
def test_slim_equals_masked(case: tuple[nn.Module, Tensor], ratio: float, seed: int) -> None:
    model, inputs = case
    randomize(model, seed)
    before = snapshot(model)
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(ratio, importance="random", seed=seed)
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, inputs)
    assert check.relative <= 1e-10, f"{check}\n{plan}"
    assert wrong_counts(graph, plan, ratio) == []
    assert trains(slim, inputs)
    assert unchanged(model, before)
