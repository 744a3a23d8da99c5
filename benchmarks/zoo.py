"""The models that ``make sweep`` prunes, by zoo: torchvision, timm and Transformers, all with random weights.

``zoo(name)`` maps a model's name to a function that builds it and its example inputs (``None``: let
graphprune guess). Inputs are as small as the architecture permits, because a sweep asks whether pruning is
right, not how fast it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

Example = tuple[nn.Module, Any]
Builder = Callable[[], Example]

ZOOS = ("torchvision", "timm", "transformers")

HEAVY = frozenset(
    "regnet_y_128gf regnet_y_32gf regnet_x_32gf vit_h_14 vit_l_16 vit_l_32 convnext_large convnext_base "
    "efficientnet_v2_l vgg16_bn vgg16 vgg19 vgg19_bn vgg13 vgg13_bn vgg11 vgg11_bn wide_resnet101_2 "
    "resnext101_64x4d resnext101_32x8d swin_v2_b swin_b regnet_y_16gf".split()
)
"""Models that are run alone, because several of them together would not fit into 24 GB."""

SAMPLE = {
    "torchvision": "resnet18 mobilenet_v2 densenet121 googlenet shufflenet_v2_x0_5 efficientnet_b0 "
    "convnext_tiny resnext50_32x4d vit_b_32 swin_t".split(),
    "timm": "resnet18 resnext26ts mobilenetv3_small_050 convnext_atto vit_tiny_patch16_224 "
    "xcit_nano_12_p16_224 regnety_002 mixer_s32_224".split(),
    "transformers": "bert gpt2 llama_gqa vit t5 whisper".split(),
}
"""A fixed sample of every zoo, for a sweep of a few minutes."""


def zoo(name: str) -> dict[str, Builder]:
    """The builders of one zoo.

    Raises:
        KeyError: If ``name`` is not in ``ZOOS``.
    """
    return {"torchvision": torchvision_zoo, "timm": timm_zoo, "transformers": transformers_zoo}[name]()


def _image(size: int) -> torch.Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- torchvision

_TORCHVISION_SIZE = {"vit": 224, "swin": 224, "maxvit": 224, "inception": 299}
_SMALL_IMAGE = 64


def torchvision_zoo() -> dict[str, Builder]:
    """Every classification model of torchvision."""
    import torchvision

    return {name: partial(_torchvision, name) for name in torchvision.models.list_models(module=torchvision.models)}


def _torchvision(name: str) -> Example:
    import torchvision

    # Their own initialisation takes a minute and warns that it will change; torch's default serves as well.
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = next((s for prefix, s in _TORCHVISION_SIZE.items() if name.startswith(prefix)), _SMALL_IMAGE)
    return torchvision.models.get_model(name, weights=None, **extra), _image(size)


# ---------------------------------------------------------------- timm

_TIMM_CNNS = """
    resnet18 resnet26d resnet50 resnext26ts resnext50_32x4d seresnext26d_32x4d legacy_seresnet18
    ecaresnet26t mobilenetv2_100 mobilenetv3_small_050 mobilenetv3_large_100 mnasnet_small
    efficientnet_b0 efficientnetv2_rw_t mixnet_s convnext_atto convnextv2_atto densenet121 regnetx_002
    regnety_002 dla34 dpn48b cspresnet50 cs3darknet_s darknet53 vovnet39a ese_vovnet19b_dw ghostnet_050
    ghostnetv2_100 hrnet_w18_small hardcorenas_a res2net50_26w_4s resnest14d rexnet_100 selecsls42b
    skresnet18 tresnet_m repvgg_a0 repghostnet_050 vgg11_bn resnetv2_50 nfnet_f0 xception41 inception_v4
    pnasnet5large lcnet_035 tinynet_e fbnetv3_b gernet_s starnet_s050 inception_next_atto fasternet_t0
    hgnetv2_b0 mambaout_femto rdnet_tiny
""".split()

_TIMM_NATIVE = """
    vit_tiny_patch16_224 vit_small_patch32_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224
    deit3_small_patch16_224 beit_base_patch16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
    mixer_s32_224 gmlp_ti16_224 resmlp_12_224 xcit_nano_12_p16_224 cait_xxs24_224 poolformer_s12
    poolformerv2_s12 pvt_v2_b0 twins_svt_small twins_pcpvt_small coat_lite_tiny convit_tiny
    crossvit_9_240 pit_ti_224 levit_128s mobilevit_xxs mobilevitv2_050 efficientformer_l1
    efficientformerv2_s0 edgenext_xx_small maxvit_rmlp_pico_rw_256 coatnet_pico_rw_224 nest_tiny
    tnt_s_patch16_224 visformer_tiny volo_d1_224 fastvit_t8 repvit_m0_9 efficientvit_b0 efficientvit_m0
    focalnet_tiny_srf gcvit_xxtiny davit_tiny hiera_tiny_224 caformer_s18 mvitv2_tiny swiftformer_xs
    tiny_vit_5m_224 convmixer_768_32 eva02_tiny_patch14_224 sequencer2d_s vit_relpos_small_patch16_224
    botnet26t_256 shvit_s1
""".split()


def timm_zoo() -> dict[str, Builder]:
    """One or two small members of about a hundred families of timm."""
    small = {name: partial(_timm, name, _SMALL_IMAGE) for name in _TIMM_CNNS}
    small["inception_v4"] = partial(_timm, "inception_v4", 160)
    small["pnasnet5large"] = partial(_timm, "pnasnet5large", 160)
    return small | {name: partial(_timm, name, None) for name in _TIMM_NATIVE}


def _timm(name: str, size: int | None) -> Example:
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, _image(size or model.pretrained_cfg["input_size"][-1])


# ---------------------------------------------------------------- Transformers

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


def transformers_zoo() -> dict[str, Builder]:
    """Small random members of some fifty families of Transformers."""
    return {name: partial(_transformers, *spec) for name, spec in _TRANSFORMERS.items()}


def _transformers(class_name: str, options: dict[str, Any]) -> Example:
    import transformers

    cls = getattr(transformers, class_name)
    return cls(cls.config_class(**options)), None
