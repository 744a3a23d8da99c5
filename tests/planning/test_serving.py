"""Plans for servers: query heads equal in all layers, heads as wide as before, widths that formats can say."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune
from graphprune.errors import InputError

CONFIG = LlamaConfig(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=4,
    bos_token_id=1,
    eos_token_id=2,
)


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    return graphprune.trace(LlamaForCausalLM(CONFIG).eval())


def sizes(graph: graphprune.ChannelGraph, **options: Any) -> list[tuple[int, int, int]]:
    """Query heads, key/value heads and inner width of every layer."""
    slim: Any = graph.plan(importance="random", **options).apply(graph.model)
    layers = slim.model.layers
    return [
        (a.q_proj.out_features // 8, a.k_proj.out_features // 8, layer.mlp.up_proj.out_features)
        for layer in layers
        for a in (layer.self_attn,)
    ]


def test_heads_are_equal_and_widths_multiples(graph: graphprune.ChannelGraph) -> None:
    found = sizes(graph, params=0.5, serve="vllm")
    assert len({heads for heads, _, _ in found}) == 1
    assert not any(inner % 32 for _, _, inner in found)
    assert len({heads for heads, _, _ in sizes(graph, params=0.3, seed=2)}) > 1, "not so by itself"


def test_a_multiple_of_an_override_takes_the_place_of_that_of_kernels(graph: graphprune.ChannelGraph) -> None:
    overrides = {"*.0.mlp.*": graphprune.Override(multiple=1)}
    assert [inner for _, _, inner in sizes(graph, mlp=0.1, serve="vllm", overrides=overrides)] == [461, 448, 448]
    assert sizes(graph, mlp=0.4, serve="sglang", overrides=overrides)[0][2] == 256, "its format holds no other"


def test_devices_share_heads(graph: graphprune.ChannelGraph) -> None:
    found = sizes(graph, params=0.4, serve="vllm", tensor_parallel=2)
    assert not any(heads % 2 or kv_heads % 2 or inner % 32 for heads, kv_heads, inner in found)


def test_formats_with_multipliers(graph: graphprune.ChannelGraph) -> None:
    assert {inner for _, _, inner in sizes(graph, mlp=0.4, serve="sglang")} == {256}


def test_what_excludes_it(graph: graphprune.ChannelGraph) -> None:
    with pytest.raises(InputError, match="keeps the width of heads"):
        graph.plan(head_width=0.5, serve="vllm")
    with pytest.raises(InputError, match="tensor_parallel: given without serve="):
        graph.plan(0.5, tensor_parallel=2)
    with pytest.raises(InputError, match="serve"):
        graph.plan(0.5, serve="vlm")
