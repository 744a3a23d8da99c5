"""What servers of language models ask of the sizes of a slim model.

They know models whose layers differ as ``DeciLMForCausalLM``: one number of query heads for all layers, heads as wide
as before, and in every layer its own number of key/value heads and inner width. Read in their sources, November 2026:
vLLM takes any inner width (``intermediate_size``), SGLang and TensorRT-LLM multiples of 256 (``ffn_mult``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm

from graphprune.graph.groups import Group
from graphprune.graph.roles import CHANNELS
from graphprune.planning.limits import Limit

FAST = 32
"""Widths that are no multiple of this lose time in the kernels that multiply matrices."""


@dataclass(frozen=True)
class Server:
    """What one server asks.

    Attributes:
        inner_multiple: inner widths are multiples of this, or its format cannot say them.
        equal_kv_heads: all layers must have the same number of key/value heads.
    """

    inner_multiple: int
    equal_kv_heads: bool


SERVERS = {
    "vllm": Server(inner_multiple=1, equal_kv_heads=False),
    "sglang": Server(inner_multiple=256, equal_kv_heads=True),
    "tensorrt_llm": Server(inner_multiple=256, equal_kv_heads=False),
}

HEADS = ("heads", "kv_groups")
"""The roles whose groups keep the same number of units in all layers."""


def serving_limits(
    limits: Sequence[Limit], groups: Sequence[Group], serve: str, multiple: int | None, tensor_parallel: int
) -> list[Limit]:
    """The limits of groups, with what a server asks.

    Args:
        limits: those that hold anyway.
        groups: what they hold for.
        serve: a name in :data:`SERVERS`.
        multiple: what was asked of all groups; None: widths are multiples of :data:`FAST`, but for groups that have
            multiples of their own.
        tensor_parallel: the number of devices that share the heads of every layer.
    """
    return [
        _serving_limit(limit, group, SERVERS[serve], multiple, tensor_parallel)
        for limit, group in zip(limits, groups, strict=True)
    ]


def _serving_limit(limit: Limit, group: Group, server: Server, multiple: int | None, tensor_parallel: int) -> Limit:
    if group.role == "head_width":
        return replace(limit, least=group.units)
    if group.role in HEADS:
        return replace(limit, multiple=lcm(limit.multiple, tensor_parallel))
    if group.role not in CHANNELS:
        return limit
    asked = FAST if multiple is None and not limit.own_multiple else 1
    needed = lcm(asked, server.inner_multiple, tensor_parallel) if group.role == "mlp" else asked
    return replace(limit, multiple=lcm(limit.multiple, needed))
