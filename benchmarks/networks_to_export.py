"""Small networks of several libraries, with inputs of any batch size and length, to be pruned and exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models import mobilenet_v2, resnet_cifar, vit

VOCABULARY = 300


@dataclass(frozen=True)
class ExportedNetwork:
    """A network, and what it is called with: ``inputs(batch, length)``."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Any]
    generates: bool = False


def _images(batch: int, length: int) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(batch))


def _pixel_values(batch: int, length: int) -> dict[str, Any]:
    return {"pixel_values": _images(batch, length)}


def _ids(batch: int, length: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(batch)
    return {"input_ids": torch.randint(2, VOCABULARY, (batch, length), generator=generator)}


def _transformers(name: str, model: str, **sizes: Any) -> nn.Module:
    import transformers

    made: nn.Module = getattr(transformers, f"{name}{model}")(getattr(transformers, f"{name}Config")(**sizes))
    return made


_ENCODER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_TEXT = {**_ENCODER, "vocab_size": VOCABULARY, "max_position_embeddings": 128}
_GROUPED = {**_TEXT, "num_key_value_heads": 2, "initializer_range": 0.1, "use_cache": False}


def _timm(name: str, **options: Any) -> nn.Module:
    import timm

    made: nn.Module = timm.create_model(name, **options)
    return made


NETWORKS = {
    "ResNet-20": ExportedNetwork(resnet_cifar.resnet20, _images),
    "MobileNet V2": ExportedNetwork(mobilenet_v2.mobilenet_v2, _images),
    "ViT": ExportedNetwork(vit.vit, _images),
    "timm ConvNeXt": ExportedNetwork(lambda: _timm("convnext_atto", num_classes=10, depths=(1, 1, 1, 1)), _images),
    "HF ViT": ExportedNetwork(
        lambda: _transformers("ViT", "ForImageClassification", **_ENCODER, image_size=32, patch_size=8), _pixel_values
    ),
    "HF BERT": ExportedNetwork(lambda: _transformers("Bert", "Model", **_TEXT), _ids),
    "HF Llama": ExportedNetwork(lambda: _transformers("Llama", "ForCausalLM", **_GROUPED), _ids, True),
    "HF Qwen2": ExportedNetwork(lambda: _transformers("Qwen2", "ForCausalLM", **_GROUPED), _ids, True),
}
