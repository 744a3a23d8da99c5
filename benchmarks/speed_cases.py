"""The networks of the benchmark of speed, and what Torch-Pruning has to be told of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from benchmarks.common import image, llama, token_ids

RATIO = 0.5
LLAMA_LAYERS = (4, 8, 16, 32, 80)
_HEADS = {"prune_num_heads": True, "head_pruning_ratio": RATIO, "prune_head_dims": False}
"""Whole heads, as graphprune removes them."""
_CONVOLUTIONAL = {
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3-L": "mobilenet_v3_large",
    "EfficientNet-B0": "efficientnet_b0",
    "RegNetY-400MF": "regnet_y_400mf",
    "ResNet-50": "resnet50",
    "VGG-16": "vgg16_bn",
    "DenseNet-121": "densenet121",
    "DenseNet-201": "densenet201",
    "ConvNeXt-T": "convnext_tiny",
    "ConvNeXt-B": "convnext_base",
    "Swin-T": "swin_t",
    "MaxViT-T": "maxvit_t",
}
_TRANSFORMERS = {"ViT-B/16": "vit_b_16", "ViT-L/16": "vit_l_16", "ViT-H/14": "vit_h_14"}

_LONGEST = ("ViT-L/16", "Llama, 32 layers", "DenseNet-201", "ViT-H/14", "Llama, 80 layers", "Swin-T", "MaxViT-T")


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and the keyword arguments that Torch-Pruning needs for it."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    hints: Callable[[nn.Module], dict[str, Any]]


def all_cases() -> list[Case]:
    """The networks, those that take Torch-Pruning longest last."""
    cases = [Case(name, partial(torchvision, m), image, classifier_hints) for name, m in _CONVOLUTIONAL.items()]
    cases += [Case(name, partial(torchvision, m), image, _vit_hints) for name, m in _TRANSFORMERS.items()]
    cases += [Case(f"Llama, {n} layers", partial(llama, n), token_ids, _llama_hints) for n in LLAMA_LAYERS]
    return sorted(cases, key=lambda case: _LONGEST.index(case.name) if case.name in _LONGEST else -1)


def torchvision(name: str) -> nn.Module:
    """A model of torchvision with random weights."""
    from torchvision import models

    return models.get_model(name, weights=None).eval()


def classifier_hints(model: nn.Module) -> dict[str, Any]:
    """That the classifier is to be left alone."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    return {"ignored_layers": [last]}


def _vit_hints(model: Any) -> dict[str, Any]:
    heads = {block.self_attention: block.num_heads for block in model.encoder.layers}
    return classifier_hints(model) | {"num_heads": heads, "prune_num_heads": True, "head_pruning_ratio": RATIO}


def _llama_hints(model: Any) -> dict[str, Any]:
    model.config.use_cache = False
    config = model.config
    heads: dict[nn.Module, int] = {}
    for layer in model.model.layers:
        attention = layer.self_attn
        heads[attention.q_proj] = config.num_attention_heads
        heads |= dict.fromkeys((attention.k_proj, attention.v_proj), config.num_key_value_heads)
    return {
        "ignored_layers": [model.lm_head],
        "num_heads": heads,
        **_HEADS,
        "root_module_types": [nn.Linear],
        "output_transform": lambda output: output.logits,
    }
