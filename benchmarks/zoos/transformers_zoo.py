"""Transformers: small members of its families, with random weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.zoos.common import Builder, Example

_TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 128,
    "max_position_embeddings": 64,
}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER = _TEXT | _SPECIAL | {"num_key_value_heads": 2}
_GPT2 = _SPECIAL | {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128, "n_positions": 64}
_VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
_ENCODER_DECODER = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "vocab_size": 128,
}
_T5 = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 128}
_AUDIO = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}
_STAGES = {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]}

_TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    # encoders of text
    "bert": ("BertForSequenceClassification", _TEXT),
    "bert_mlm": ("BertForMaskedLM", _TEXT),
    "roberta": ("RobertaForMaskedLM", _TEXT),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "vocab_size": 128},
    ),
    "electra": ("ElectraForMaskedLM", _TEXT | {"embedding_size": 32}),
    "albert": ("AlbertForMaskedLM", _TEXT | {"embedding_size": 32}),
    "mpnet": ("MPNetForMaskedLM", _TEXT),
    "deberta": ("DebertaForMaskedLM", _TEXT),
    "deberta_v2": ("DebertaV2ForMaskedLM", _TEXT),
    "modernbert": ("ModernBertForMaskedLM", _TEXT | _SPECIAL | {"cls_token_id": 1, "sep_token_id": 2}),
    # decoders
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            **_SPECIAL,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "vocab_size": 128,
            "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", _TEXT),
    "gptj": ("GPTJForCausalLM", _GPT2 | {"rotary_dim": 8}),
    "opt": ("OPTForCausalLM", _TEXT | {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "bloom": ("BloomForCausalLM", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128}),
    "falcon": ("FalconForCausalLM", _TEXT),
    "llama_mha": ("LlamaForCausalLM", _DECODER | {"num_key_value_heads": 4}),
    "llama_gqa": ("LlamaForCausalLM", _DECODER),
    "llama_tied": ("LlamaForCausalLM", _DECODER | {"tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", _DECODER),
    "qwen2": ("Qwen2ForCausalLM", _DECODER),
    "qwen3": ("Qwen3ForCausalLM", _DECODER | {"head_dim": 16}),
    "gemma": ("GemmaForCausalLM", _DECODER | {"head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", _DECODER | {"head_dim": 16}),
    "phi": ("PhiForCausalLM", _DECODER | {"num_key_value_heads": 4}),
    "phi3": ("Phi3ForCausalLM", _DECODER),
    "stablelm": ("StableLmForCausalLM", _DECODER),
    "olmo2": ("Olmo2ForCausalLM", _DECODER),
    "smollm3": ("SmolLM3ForCausalLM", _DECODER),
    "mixtral": ("MixtralForCausalLM", _DECODER | {"num_local_experts": 4}),
    # encoder-decoders
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5_gated": ("T5ForConditionalGeneration", _T5 | {"feed_forward_proj": "gated-gelu"}),
    "bart": ("BartForConditionalGeneration", _ENCODER_DECODER | {"max_position_embeddings": 64}),
    "mbart": ("MBartForConditionalGeneration", _ENCODER_DECODER | {"max_position_embeddings": 64}),
    "pegasus": ("PegasusForConditionalGeneration", _ENCODER_DECODER | {"max_position_embeddings": 64}),
    # images
    "vit": ("ViTForImageClassification", _VISION),
    "deit": ("DeiTForImageClassification", _VISION),
    "beit": ("BeitForImageClassification", _VISION),
    "dinov2": ("Dinov2ForImageClassification", _VISION),
    "swin": (
        "SwinForImageClassification",
        {
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "image_size": 32,
            "patch_size": 2,
            "window_size": 4,
        },
    ),
    "segformer": (
        "SegformerForImageClassification",
        {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32},
    ),
    "resnet": ("ResNetForImageClassification", _STAGES | {"embedding_size": 16}),
    "convnext": ("ConvNextForImageClassification", _STAGES | {"image_size": 64}),
    "mobilevit": ("MobileViTForImageClassification", {"image_size": 64}),
    "poolformer": ("PoolFormerForImageClassification", _STAGES),
    # text and images
    "clip": ("CLIPModel", {"text_config": _TEXT | _SPECIAL, "vision_config": _VISION, "projection_dim": 32}),
    "siglip": ("SiglipModel", {"text_config": _TEXT, "vision_config": _VISION}),
    # sound
    "wav2vec2": ("Wav2Vec2ForCTC", _AUDIO),
    "hubert": ("HubertForCTC", _AUDIO),
    "whisper": (
        "WhisperForConditionalGeneration",
        _ENCODER_DECODER
        | _SPECIAL
        | {
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "decoder_start_token_id": 1,
            "suppress_tokens": None,
        },
    ),
    "ast": (
        "ASTForAudioClassification",
        {k: v for k, v in _VISION.items() if k not in ("image_size", "patch_size")}
        | {"max_length": 64, "num_mel_bins": 32},
    ),
}


def models() -> dict[str, Builder]:
    """Small random members of some fifty families of Transformers."""
    return {name: partial(_build, *spec) for name, spec in _TRANSFORMERS.items()}


def _build(class_name: str, options: dict[str, Any]) -> Example:
    import transformers

    cls = getattr(transformers, class_name)
    return cls(cls.config_class(**options)), None
