"""Real small networks with residual branches, and plans that leave some of these out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

from graphprune import ChannelGraph, Plan
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import plan_once
from graphprune.planning.setup import PlanSetup
from models import gpt, resnet_cifar, vit

IDS = torch.arange(12)[None]
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
_SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}


def bert() -> nn.Module:
    return BertModel(BertConfig(vocab_size=99, **_SIZES))


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(vocab_size=99, num_key_value_heads=2, **_SIZES))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=99, n_embd=32, n_layer=3, n_head=4))


def hf_vit() -> nn.Module:
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **_SIZES))


def swin() -> nn.Module:
    sizes = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=32, window_size=4, patch_size=2, **sizes)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "post-norm bert": (bert, IDS, 6),
    "llama": (llama, IDS, 6),
    "gpt2": (gpt2, IDS, 6),
    "pre-norm gpt": (gpt.gpt, IDS, 8),
    "transformers' vit": (hf_vit, IMAGE, 6),
    "vit": (vit.vit, IMAGE, 8),
    "swin": (swin, IMAGE, 8),
    "resnet": (resnet_cifar.resnet20, IMAGE, 7),
}
"""By name: what makes it, example inputs, and how many branches it has."""


def plan_without(graph: ChannelGraph, *paths: str, **asked: Any) -> Plan:
    """A plan that leaves out the branches which these modules end."""
    branches = [branch for branch in graph.branches if branch.path in paths]
    assert {branch.path for branch in branches} == set(paths)
    zeroed = {path: results for branch in branches for path, results in branch.modules.items()}
    setup = PlanSetup.of(graph, PruningOptions.of(None, asked))
    return plan_once(replace(setup, skipped=tuple(zeroed), zeroed=zeroed))
