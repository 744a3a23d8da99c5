"""Example inputs: guessing them for a model, and bringing what a user passed into one form.

This is the only file of the library that knows the conventions of other libraries (the configuration of
Transformers, the ``pretrained_cfg`` of timm). Everything else sees tensors.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from graphprune.eager import eagerly
from graphprune.errors import InputError
from graphprune.lending import modes_kept

Inputs: TypeAlias = "tuple[Any, ...] | dict[str, Any]"
T = TypeVar("T")

SEQUENCE = 16
"""Length of a guessed sequence: long enough to tell the dimension apart, short enough to be cheap."""

IMAGE_SIZES = (224, 32, 64, 299, 28, 128, 256, 96, 384, 512, 16)
SIGNAL_SIZES = (1024, 128, 16000, 16, 64, 256, 100, 4096)
VOLUME_SIZES = ((16, 112, 112), (32, 32, 32), (8, 64, 64), (16, 224, 224), (64, 64, 64), (8, 32, 32))

_MAX_LAYERS = 3
_MAX_CANDIDATES = 48
_SEED = 0


# ---------------------------------------------------------------- what a user passed


def normalise(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Bring example inputs into the form of a call, ``(args, kwargs)``.

    Args:
        example_inputs: A tensor (the only argument), a tuple or list (the positional arguments) or a mapping
            (the keyword arguments, such as what a Transformers tokenizer returns).

    Raises:
        InputError: If it is anything else.

    >>> args, kwargs = normalise(torch.zeros(1, 3, 8, 8))
    >>> len(args), kwargs
    (1, {})
    """
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Mapping):
        return (), _keyword_arguments(example_inputs)
    raise InputError(
        f"example_inputs is {_a(type(example_inputs).__name__)}; needed is a tensor (the only argument of "
        "forward), a tuple or list of the positional arguments, or a dict of the keyword arguments, "
        "for instance example_inputs=torch.randn(1, 3, 224, 224)"
    )


def _keyword_arguments(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    wrong = [key for key in mapping if not isinstance(key, str)]
    if wrong:
        raise InputError(
            f"example_inputs is a dict with the key {wrong[0]!r}; its keys are the names of forward's "
            "arguments, so they must be strings. If the dict is itself the argument, pass a tuple that "
            "contains it: example_inputs=(d,)"
        )
    return dict(mapping)


# ---------------------------------------------------------------- trying the guesses


def example_inputs_for(model: nn.Module) -> Inputs:
    """Example inputs that ``model`` accepts, found by running it in eval mode without gradients.

    Raises:
        InputError: If no guess runs; it says what was tried and what to pass.
    """
    inputs, _ = first_that_runs(model, lambda guess: _forward(model, guess))
    return inputs


def first_that_runs(model: nn.Module, run: Callable[[Inputs], T]) -> tuple[Inputs, T]:
    """Give ``run`` one guess after the other until it does not raise.

    Args:
        model: The model whose inputs are guessed.
        run: Called with a tuple (positional arguments) or a dict (keyword arguments).

    Returns:
        The inputs that ran, and what ``run`` returned for them.

    Raises:
        InputError: If every guess failed, or there was nothing to guess from. The last failure is its cause.
    """
    tried: list[str] = []
    failure: Exception | None = None
    for inputs in islice(candidates(model), _MAX_CANDIDATES):
        try:
            return inputs, run(inputs)
        except Exception as error:
            tried.append(describe(inputs))
            failure = error
    raise InputError(_nothing_ran(model, tried, failure)) from failure


def _forward(model: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = normalise(inputs)
    with eagerly(), modes_kept(model), torch.no_grad():
        return model.eval()(*args, **kwargs)


def _nothing_ran(model: nn.Module, tried: list[str], failure: Exception | None) -> str:
    name = type(model).__name__
    takes = f"{name}.forward{_signature(model)}"
    advice = "Pass inputs that fit, for instance example_inputs=torch.randn(1, 3, 64, 64), or a tuple or a dict."
    if not tried:
        return (
            f"no example inputs for {name} can be guessed: it is neither a Transformers nor a timm model, "
            "and has no convolution, embedding, linear or recurrent layer to read a shape from. "
            f"{takes} is what is called. {advice}"
        )
    shown = ", ".join(tried[:4]) + (f" and {len(tried) - 4} more" if len(tried) > 4 else "")
    return (
        f"no guessed example inputs fit {name}: tried {shown}. The last one, {tried[-1]}, failed with "
        f"{type(failure).__name__}: {_one_line(failure)}. {takes} is what is called. {advice}"
    )


def describe(inputs: Any) -> str:
    """Inputs in a word: dtype and shape of each tensor.

    >>> describe({"input_ids": torch.zeros(1, 16, dtype=torch.long)})
    'input_ids=i64[1, 16]'
    """
    if isinstance(inputs, Tensor):
        return f"{_dtype(inputs.dtype)}{list(inputs.shape)}"
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key}={describe(value)}" for key, value in inputs.items())
    if isinstance(inputs, (tuple, list)):
        return ", ".join(describe(value) for value in inputs)
    return repr(inputs)


def _dtype(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return name.replace("bfloat", "bf").replace("float", "f").replace("uint", "u").replace("int", "i")


def _signature(model: nn.Module) -> str:
    try:
        return str(inspect.signature(model.forward))
    except (TypeError, ValueError):
        return "(...)"


def _one_line(error: Exception | None, limit: int = 300) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


# ---------------------------------------------------------------- the guesses


def candidates(model: nn.Module) -> Iterator[Inputs]:
    """Guesses for the inputs of ``model``, the most likely first; each a tuple (args) or a dict (kwargs).

    The order is: what Transformers or timm record about the model, then what its first layers accept. Random
    numbers come from a generator of their own, so that neither the global state nor an earlier guess changes
    them.
    """
    make = _Maker(_floating_dtype(model))
    seen: set[str] = set()
    for source in (_from_transformers, _from_timm, _from_layers):
        for inputs in source(model, make):
            if (text := describe(inputs)) not in seen:
                seen.add(text)
                yield inputs


class _Maker:
    """Makes example tensors of one floating dtype, always the same ones."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def floats(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator()).to(self.dtype)

    def ids(self, *shape: int, below: int, avoid: frozenset[int] = frozenset()) -> Tensor:
        """Indices in ``[0, below)``, none of them in ``avoid`` as far as that leaves a choice."""
        ids = torch.randint(max(below, 1), shape, generator=self._generator())
        allowed = next((i for i in range(below) if i not in avoid), 0)
        forbidden = torch.tensor(sorted(avoid), dtype=torch.long)
        return torch.where(torch.isin(ids, forbidden), allowed, ids)

    @staticmethod
    def _generator() -> torch.Generator:
        return torch.Generator().manual_seed(_SEED)


def _floating_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


# ---------------------------------------------------------------- Transformers


def _from_transformers(model: nn.Module, make: _Maker) -> Iterator[Inputs]:
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


def _main_inputs(config: Any, main: str, make: _Maker) -> Iterator[Tensor]:
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


def _decoder_inputs(config: Any, main: str, accepted: set[str], make: _Maker) -> dict[str, Tensor]:
    if not getattr(config, "is_encoder_decoder", False) or "decoder_input_ids" not in accepted:
        return {}
    decoder = _sub_config(config, "decoder")
    return {"decoder_input_ids": _token_ids(decoder, make)}


def _texts(config: Any, make: _Maker) -> Iterator[Tensor]:
    ids = _token_ids(config, make)
    yield ids
    yield ids.unsqueeze(1).repeat(1, 2, 1)  # multiple choice: [batch, choices, tokens]


def _token_ids(config: Any, make: _Maker) -> Tensor:
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


def _pixel_values(config: Any, make: _Maker) -> Iterator[Tensor]:
    """Images ``[1, c, h, w]``, or ``[1, frames, c, h, w]`` where the configuration counts frames."""
    vision = _sub_config(config, "vision_config", "encoder", "backbone_config")
    channels = _number(vision, "num_channels", "in_channels", "in_chans", default=3)
    frames = _number(vision, "num_frames", "frames_per_clip", default=0)
    lead = (1, frames) if frames else (1,)
    declared = _sizes(getattr(vision, "image_size", None)) or _sizes(getattr(vision, "crop_size", None))
    for height, width in [*declared, *((s, s) for s in IMAGE_SIZES[:3])]:
        yield make.floats(*lead, channels, height, width)


def _input_features(config: Any, make: _Maker) -> Iterator[Tensor]:
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


def _input_values(config: Any, make: _Maker) -> Iterator[Tensor]:
    """Sound: a spectrogram ``[1, frames, mels]`` if the configuration has bins, else samples ``[1, n]``."""
    mels = _number(config, "num_mel_bins", default=0)
    if mels:
        yield make.floats(1, _number(config, "max_length", default=1024), mels)
    yield make.floats(1, 4000)
    yield make.floats(1, 16000)
    yield make.floats(1, _number(config, "audio_channels", default=1), 4000)


def _past_values(config: Any, make: _Maker) -> Iterator[Tensor]:
    length = _number(config, "context_length", default=4 * SEQUENCE)
    yield make.floats(1, length, _number(config, "num_input_channels", "input_size", default=1))
    yield make.floats(1, length)


def _hidden_states(config: Any, make: _Maker) -> Iterator[Tensor]:
    yield make.floats(1, SEQUENCE, _number(config, "hidden_size", "d_model", default=64))


def _sub_config(config: Any, *names: str) -> Any:
    """The first part of a composite configuration that exists, else the configuration itself."""
    parts = (getattr(config, name, None) for name in names)
    return next((part for part in parts if hasattr(part, "model_type")), config)


def _number(config: Any, *names: str, default: int) -> int:
    values = (getattr(config, name, None) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), default)


def _sizes(value: Any) -> list[tuple[int, int]]:
    """An ``image_size`` in any of its spellings as at most one pair (height, width)."""
    if isinstance(value, int) and value > 0:
        return [(value, value)]
    if isinstance(value, (tuple, list)) and len(value) >= 2 and all(isinstance(v, int) for v in value):
        return [(value[-2], value[-1])]
    return []


# ---------------------------------------------------------------- timm


def _from_timm(model: nn.Module, make: _Maker) -> Iterator[Inputs]:
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


# ---------------------------------------------------------------- the first layers


def _from_layers(model: nn.Module, make: _Maker) -> Iterator[Inputs]:
    declared = _declared_sizes(model)
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


def _declared_sizes(model: nn.Module) -> list[tuple[int, int]]:
    """Image sizes that modules keep as an attribute, as most vision transformers do."""
    found: dict[tuple[int, int], None] = {}
    for module in model.modules():
        for name in ("image_size", "img_size"):
            found |= dict.fromkeys(_sizes(getattr(module, name, None)))
    return list(found)


def _images(layer: Any, make: _Maker, declared: list[tuple[int, int]]) -> Iterator[Tensor]:
    channels = getattr(layer, "in_channels", None) or layer.num_features
    usual = (28, 32, *IMAGE_SIZES) if channels == 1 else IMAGE_SIZES
    for height, width in [*declared, *((s, s) for s in usual)]:
        yield make.floats(1, channels, height, width)


def _upsampled(layer: Any, make: _Maker, _: Any) -> Iterator[Tensor]:
    dims = len(layer.kernel_size)
    for size in (4, 8, 16, 1):
        yield make.floats(1, layer.in_channels, *[size] * dims)


def _signals(layer: Any, make: _Maker, _: Any) -> Iterator[Tensor]:
    for length in SIGNAL_SIZES:
        yield make.floats(1, layer.in_channels, length)


def _volumes(layer: Any, make: _Maker, _: Any) -> Iterator[Tensor]:
    for size in VOLUME_SIZES:
        yield make.floats(1, layer.in_channels, *size)


def _tokens(layer: Any, make: _Maker, _: Any) -> Iterator[Tensor]:
    avoid = frozenset(() if layer.padding_idx is None else (layer.padding_idx,))
    yield make.ids(1, SEQUENCE, below=layer.num_embeddings, avoid=avoid)


def _features(layer: Any, make: _Maker, _: Any) -> Iterator[Tensor]:
    yield make.floats(1, layer.in_features)
    yield make.floats(1, SEQUENCE, layer.in_features)


def _sequences(layer: Any, make: _Maker, _: Any) -> Iterator[Tensor]:
    width = layer.input_size if isinstance(layer, nn.RNNBase) else layer.embed_dim
    yield make.floats(1, SEQUENCE, width)


def _normalised(layer: Any, make: _Maker, _: Any) -> Iterator[Tensor]:
    yield make.floats(1, SEQUENCE, *layer.normalized_shape)
    yield make.floats(1, *layer.normalized_shape)


def _batch_features(layer: Any, make: _Maker, _: Any) -> Iterator[Tensor]:
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
    (nn.LayerNorm, _normalised),
)
