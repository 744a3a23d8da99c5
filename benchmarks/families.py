"""Small models of Transformers, one of each family that people prune, with random weights and example inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.common import enliven

VOCABULARY = 96
Made = tuple[str, dict[str, Any]]
"""The class of a model and the fields of its configuration."""

_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "max_position_embeddings": 64,
}
_SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_DECODER = _ENCODER | _SPECIAL | {"num_key_value_heads": 4}
_IMAGE: dict[str, Any] = {"image_size": 16, "patch_size": 4}
_VISION = {n: v for n, v in _ENCODER.items() if n not in ("vocab_size", "max_position_embeddings")} | _IMAGE
_WHISPER = _SPECIAL | {
    "vocab_size": VOCABULARY,
    "num_mel_bins": 16,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "max_source_positions": 20,
    "max_target_positions": 40,
    "decoder_start_token_id": 1,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 8,
    "d_ff": 96,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 8,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
_GPT2 = _SPECIAL | {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 3, "n_head": 8, "n_positions": 64}
_CLIP = {
    "text_config": _ENCODER | _SPECIAL | {"num_hidden_layers": 2, "max_position_embeddings": 20},
    "vision_config": _VISION | {"num_hidden_layers": 2},
    "projection_dim": 32,
}

FAMILIES: dict[str, Made] = {
    "bert": ("BertForMaskedLM", _ENCODER),
    "roberta": ("RobertaForSequenceClassification", _ENCODER | {"pad_token_id": 1}),
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "llama": ("LlamaForCausalLM", _DECODER),
    "qwen2": ("Qwen2ForCausalLM", _DECODER),
    "qwen3": ("Qwen3ForCausalLM", _DECODER | {"head_dim": 16}),
    "mistral": ("MistralForCausalLM", _DECODER | {"head_dim": 8, "sliding_window": 5}),
    "gemma3": ("Gemma3ForCausalLM", _DECODER | {"head_dim": 8, "sliding_window": 5}),
    "mixtral": ("MixtralForCausalLM", _DECODER | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "vit": ("ViTForImageClassification", _VISION),
    "t5": ("T5ForConditionalGeneration", _T5),
    "whisper": ("WhisperForConditionalGeneration", _WHISPER),
    "clip": ("CLIPModel", _CLIP),
}


def family(name: str, seed: int = 0) -> nn.Module:
    """A model of the family, in evaluation mode, with biases and norms as training would leave them."""
    import transformers

    kind, fields = FAMILIES[name]
    model_class = getattr(transformers, kind)
    torch.manual_seed(seed)
    model: nn.Module = model_class(model_class.config_class(**fields)).eval()
    enliven(model)
    return model


def inputs_for(name: str) -> dict[str, Any]:
    """A batch of two, always the same."""
    return _INPUTS.get(name, _tokens)()


def _tokens(length: int = 7) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (2, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _images() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}


def _sound() -> dict[str, Any]:
    return {"input_features": torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0))}


_INPUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "vit": _images,
    "whisper": _sound,
    "clip": lambda: _tokens() | _images(),
}
