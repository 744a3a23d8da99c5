"""Transformers: small members of its families, with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoos.common import Builder, Example, image
from benchmarks.zoos.transformers_senses import IMAGES, PAIRS, SOUND
from benchmarks.zoos.transformers_text import DECODERS, ENCODER_DECODERS, ENCODERS

_MEMBERS = ENCODERS | DECODERS | ENCODER_DECODERS | IMAGES | PAIRS | SOUND


def models() -> dict[str, Builder]:
    """Small random members of the families of Transformers."""
    return {name: partial(_build, name, *spec) for name, spec in _MEMBERS.items()}


def _build(name: str, class_name: str, options: dict[str, Any]) -> Example:
    import transformers

    cls = getattr(transformers, class_name)
    example = _EXAMPLES.get(name)
    return cls(cls.config_class(**options)), example() if example else None


def _tokens(*shape: int) -> Tensor:
    """Token ids, none of them special."""
    return torch.randint(8, 128, shape, generator=torch.Generator().manual_seed(0))


def _looking_everywhere() -> dict[str, Tensor]:
    """Text whose first token attends to all others, which local attention has weights of its own for."""
    everywhere = torch.zeros(1, 16)
    everywhere[0, 0] = 1
    return {"input_ids": _tokens(1, 16), "global_attention_mask": everywhere}


def _with_image(token: int, places: int) -> dict[str, Tensor]:
    """Text that has an image in place of its first tokens."""
    places_of_image = torch.full((1, places), token)
    return {"input_ids": torch.cat([places_of_image, _tokens(1, 8)], 1), "pixel_values": image(32)}


_EXAMPLES: dict[str, Any] = {
    "longformer": _looking_everywhere,
    "led": lambda: _looking_everywhere() | {"decoder_input_ids": _tokens(1, 16)},
    "llava": lambda: _with_image(3, 16),
    "owlvit": lambda: {"input_ids": _tokens(1, 16), "pixel_values": image(32)},
    "blip": lambda: {"input_ids": _tokens(1, 16), "pixel_values": image(32)},
    "vilt": lambda: {"input_ids": _tokens(1, 16), "pixel_values": image(32)},
}
"""Inputs of models for which they cannot be guessed."""
