"""Guesses from what the first layers of a model accept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor, nn

from graphprune.tracing.example_inputs.maker import (
    IMAGE_SIZES,
    SEQUENCE,
    SIGNAL_SIZES,
    VOLUME_SIZES,
    TensorMaker,
    image_sizes,
)
from graphprune.tracing.inputs import Inputs

_MAX_LAYERS = 3


# ---------------------------------------------------------------- the first layers


def from_layers(model: nn.Module, make: TensorMaker) -> Iterator[Inputs]:
    declared = _declared_image_sizes(model)
    for layer in islice(_first_layers(model), _MAX_LAYERS):
        for kind, guess in _GUESSES:
            if isinstance(layer, kind):
                yield from ((tensor,) for tensor in guess(layer, make, declared))
                break


def _first_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Layers that fix a shape, in module order, one of every type and input width."""
    seen: set[tuple[Any, ...]] = set()
    kinds = tuple(kind for kind, _ in _GUESSES)
    for module in model.modules():
        key = (type(module), *(getattr(module, name, None) for name in _WIDTHS))
        if isinstance(module, kinds) and not _is_lazy(module) and key not in seen:
            seen.add(key)
            yield module


def _is_lazy(module: nn.Module) -> bool:
    return any(nn.parameter.is_lazy(p) for p in module.parameters(recurse=False))


def _declared_image_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Image sizes that modules keep as an attribute, as most vision transformers do."""
    found: dict[tuple[int, int], None] = {}
    for module in model.modules():
        for name in ("image_size", "img_size"):
            found |= dict.fromkeys(image_sizes(getattr(module, name, None)))
    return list(found)


def _images(layer: Any, make: TensorMaker, declared: list[tuple[int, int]]) -> Iterator[Tensor]:
    channels = getattr(layer, "in_channels", None) or layer.num_features
    usual = (28, 32, *IMAGE_SIZES) if channels == 1 else IMAGE_SIZES
    for height, width in [*declared, *((s, s) for s in usual)]:
        yield make.floats(1, channels, height, width)


def _upsampled(layer: Any, make: TensorMaker, _: Any) -> Iterator[Tensor]:
    dims = len(layer.kernel_size)
    for size in (4, 8, 16, 1):
        yield make.floats(1, layer.in_channels, *[size] * dims)


def _signals(layer: Any, make: TensorMaker, _: Any) -> Iterator[Tensor]:
    for length in SIGNAL_SIZES:
        yield make.floats(1, layer.in_channels, length)


def _volumes(layer: Any, make: TensorMaker, _: Any) -> Iterator[Tensor]:
    for size in VOLUME_SIZES:
        yield make.floats(1, layer.in_channels, *size)


def _tokens(layer: Any, make: TensorMaker, _: Any) -> Iterator[Tensor]:
    avoid = frozenset(() if layer.padding_idx is None else (layer.padding_idx,))
    yield make.ids(1, SEQUENCE, below=layer.num_embeddings, avoid=avoid)


def _features(layer: Any, make: TensorMaker, _: Any) -> Iterator[Tensor]:
    yield make.floats(1, layer.in_features)
    yield make.floats(1, SEQUENCE, layer.in_features)


def _sequences(layer: Any, make: TensorMaker, _: Any) -> Iterator[Tensor]:
    width = layer.input_size if isinstance(layer, nn.RNNBase) else layer.embed_dim
    yield make.floats(1, SEQUENCE, width)


def _normalized(layer: Any, make: TensorMaker, _: Any) -> Iterator[Tensor]:
    yield make.floats(1, SEQUENCE, *layer.normalized_shape)
    yield make.floats(1, *layer.normalized_shape)


def _batch_features(layer: Any, make: TensorMaker, _: Any) -> Iterator[Tensor]:
    yield make.floats(1, layer.num_features)
    yield make.floats(1, layer.num_features, SEQUENCE)


_WIDTHS = (
    "in_channels",
    "in_features",
    "num_embeddings",
    "input_size",
    "embed_dim",
    "num_features",
    "normalized_shape",
)


_GUESSES: tuple[tuple[Any, Callable[..., Iterator[Tensor]]], ...] = (
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _upsampled),
    (nn.Conv1d, _signals),
    (nn.Conv2d, _images),
    (nn.Conv3d, _volumes),
    ((nn.Embedding, nn.EmbeddingBag), _tokens),
    (nn.Linear, _features),
    ((nn.RNNBase, nn.MultiheadAttention), _sequences),
    (nn.BatchNorm2d, _images),
    (nn.BatchNorm1d, _batch_features),
    (nn.LayerNorm, _normalized),
)
