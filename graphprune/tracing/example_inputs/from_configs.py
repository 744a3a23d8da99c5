"""Guesses from what Transformers and timm record about a model.

This is the only file of the library, beside the command line, that knows the conventions of other libraries. Everything
else sees tensors."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from graphprune.tracing.example_inputs.maker import IMAGE_SIZES, SEQUENCE, TensorMaker, image_sizes
from graphprune.tracing.inputs import Inputs

# ---------------------------------------------------------------- Transformers


def from_transformers(model: nn.Module, make: TensorMaker) -> Iterator[Inputs]:
    config = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    if not hasattr(config, "model_type") or not isinstance(main, str):
        return
    accepted = set(inspect.signature(model.forward).parameters)
    decoder = _decoder_inputs(config, main, accepted, make)
    if main == "input_ids" and "pixel_values" in accepted and _sub_config(config, "vision_config") is not config:
        for image in _pixel_values(config, make):
            yield {"input_ids": _token_ids(config, make), "pixel_values": image} | decoder
    for value in _main_inputs(config, main, make):
        if decoder:
            yield {main: value} | decoder
        yield {main: value}
    yield from _dummy_inputs(model, main)


def _main_inputs(config: Any, main: str, make: TensorMaker) -> Iterator[Tensor]:
    builders = {
        "pixel_values": _pixel_values,
        "pixel_values_videos": _pixel_values,
        "input_features": _input_features,
        "input_values": _input_values,
        "past_values": _past_values,
        "inputs_embeds": _hidden_states,
        "hidden_states": _hidden_states,
    }
    yield from builders.get(main, _texts)(config, make)


def _dummy_inputs(model: nn.Module, main: str) -> Iterator[Inputs]:
    """The model's own ``dummy_inputs``; the inherited default is text, whatever the model reads."""
    try:
        dummy = getattr(model, "dummy_inputs", None)
    except Exception as error:
        warnings.warn(
            f"{type(model).__name__}.dummy_inputs failed with {type(error).__name__}: {error}; it is not among the "
            "inputs that are tried",
            stacklevel=2,
        )
        return
    if isinstance(dummy, dict) and main in dummy:
        yield dummy


def _decoder_inputs(config: Any, main: str, accepted: set[str], make: TensorMaker) -> dict[str, Tensor]:
    if not getattr(config, "is_encoder_decoder", False) or "decoder_input_ids" not in accepted:
        return {}
    decoder = _sub_config(config, "decoder")
    return {"decoder_input_ids": _token_ids(decoder, make)}


def _texts(config: Any, make: TensorMaker) -> Iterator[Tensor]:
    ids = _token_ids(config, make)
    yield ids
    yield ids.unsqueeze(1).repeat(1, 2, 1)  # multiple choice: [batch, choices, tokens]


def _token_ids(config: Any, make: TensorMaker) -> Tensor:
    """Token ids ``[1, 16]`` that end in an end-of-sequence token, which some heads look for."""
    text = _sub_config(config, "text_config", "text_encoder", "decoder")
    vocabulary = _number(text, "vocab_size", default=100)
    positions = _number(text, "max_position_embeddings", "n_positions", default=SEQUENCE)
    length = min(SEQUENCE, positions) if positions > 0 else SEQUENCE
    avoid = frozenset(_special_tokens(config) | _special_tokens(text))
    ids = make.ids(1, length, below=vocabulary, avoid=avoid)
    end = getattr(text, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < vocabulary:
        ids[0, -1] = end
    return ids


def _special_tokens(config: Any) -> set[int]:
    names = ("_token_id", "_token_index")
    fields = vars(config).items() if hasattr(config, "__dict__") else ()
    return {value for name, value in fields if name.endswith(names) and isinstance(value, int)}


def _pixel_values(config: Any, make: TensorMaker) -> Iterator[Tensor]:
    """Images ``[1, c, h, w]``, or ``[1, frames, c, h, w]`` where the configuration counts frames."""
    vision = _sub_config(config, "vision_config", "encoder", "backbone_config")
    channels = _number(vision, "num_channels", "in_channels", "in_chans", default=3)
    frames = _number(vision, "num_frames", "frames_per_clip", default=0)
    lead = (1, frames) if frames else (1,)
    declared = image_sizes(getattr(vision, "image_size", None)) or image_sizes(getattr(vision, "crop_size", None))
    for height, width in [*declared, *((s, s) for s in IMAGE_SIZES[:3])]:
        yield make.floats(*lead, channels, height, width)


def _input_features(config: Any, make: TensorMaker) -> Iterator[Tensor]:
    """Spectrograms ``[1, mels, frames]``, of the length that a position table asks for, or transposed."""
    audio = _sub_config(config, "audio_config", "encoder_config")
    mels = _number(
        audio, "num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "n_mels", default=80
    )
    positions = _number(audio, "max_source_positions", default=0)
    for frames in [2 * positions] * bool(positions) + [4 * SEQUENCE]:
        yield make.floats(1, mels, frames)
        yield make.floats(1, frames, mels)
    yield make.floats(1, 1, 1024, mels)


def _input_values(config: Any, make: TensorMaker) -> Iterator[Tensor]:
    """Sound: a spectrogram ``[1, frames, mels]`` if the configuration has bins, else samples ``[1, n]``."""
    mels = _number(config, "num_mel_bins", default=0)
    if mels:
        yield make.floats(1, _number(config, "max_length", default=1024), mels)
    yield make.floats(1, 4000)
    yield make.floats(1, 16000)
    yield make.floats(1, _number(config, "audio_channels", default=1), 4000)


def _past_values(config: Any, make: TensorMaker) -> Iterator[Tensor]:
    length = _number(config, "context_length", default=4 * SEQUENCE)
    yield make.floats(1, length, _number(config, "num_input_channels", "input_size", default=1))
    yield make.floats(1, length)


def _hidden_states(config: Any, make: TensorMaker) -> Iterator[Tensor]:
    yield make.floats(1, SEQUENCE, _number(config, "hidden_size", "d_model", default=64))


def _sub_config(config: Any, *names: str) -> Any:
    """The first part of a composite configuration that exists, else the configuration itself."""
    parts = (getattr(config, name, None) for name in names)
    return next((part for part in parts if hasattr(part, "model_type")), config)


def _number(config: Any, *names: str, default: int) -> int:
    values = (getattr(config, name, None) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), default)


# ---------------------------------------------------------------- timm


def from_timm(model: nn.Module, make: TensorMaker) -> Iterator[Inputs]:
    sizes = list(_timm_sizes(model))
    first = next((m for m in model.modules() if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d))), None)
    for channels, *space in sizes:
        yield (make.floats(1, channels, *space),)
        if first is not None and first.in_channels != channels:  # built with another in_chans
            yield (make.floats(1, first.in_channels, *space),)


def _timm_sizes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    for attribute in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, attribute, None)
        size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
        if isinstance(size, (tuple, list)) and len(size) >= 2:
            yield tuple(size)
