"""Libraries that read sequences: language models, attention of all kinds, series, quantizers."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks.zoos.common import image
from benchmarks.zoos.third_party.later import Later, Table, found_in_library, later, noise, tokens

_IDS, _ROWS = partial(tokens, 1, 32), partial(noise, 1, 32, 48)

# ---------------------------------------------------------------- x-transformers

_LAYERS: dict[str, Any] = {"dim": 48, "depth": 2, "heads": 4, "attn_dim_head": 16}


def _language(layers: str = "Decoder", **options: Any) -> Later:
    inner = later(f"x_transformers:{layers}", **_LAYERS, **options)
    return later("x_transformers:TransformerWrapper", num_tokens=64, max_seq_len=64, attn_layers=inner)


def _image_classifier() -> Later:
    inner = later("x_transformers:Encoder", **_LAYERS)
    return later("x_transformers:ViTransformerWrapper", image_size=32, patch_size=8, num_classes=10, attn_layers=inner)


_VARIANTS: dict[str, dict[str, Any]] = {
    "decoder": {},
    "rotary": {"rotary_pos_emb": True},
    "alibi": {"alibi_pos_bias": True, "alibi_num_heads": 2},
    "relative_bias": {"rel_pos_bias": True},
    "glu_rmsnorm": {"ff_glu": True, "ff_swish": True, "use_rmsnorm": True},
    "scalenorm": {"use_scalenorm": True},
    "one_kv_head": {"attn_one_kv_head": True},
    "grouped_queries": {"attn_kv_heads": 2},
    "talking_heads": {"attn_pre_talking_heads": True, "attn_post_talking_heads": True},
    "gated_values": {"attn_gate_values": True},
    "qk_norm": {"attn_qk_norm": True, "attn_qk_norm_dim_scale": True},
    "memory_key_values": {"attn_num_mem_kv": 4},
    "macaron": {"macaron": True},
    "sandwich": {"sandwich_coef": 1},
    "sandwich_norm": {"sandwich_norm": True},
    "shift_tokens": {"shift_tokens": 1},
    "scaled_residual": {"scale_residual": True},
    "gated_residual": {"gate_residual": True},
    "attention_on_attention": {"attn_on_attn": True},
    "dynamic_bias": {"dynamic_pos_bias": True, "dynamic_pos_bias_log_distance": False},
    "residual_attention": {"residual_attn": True},
    "value_residual": {"add_value_residual": True},
    "hyper_connections": {"num_residual_streams": 2},
    "no_feedforward_bias": {"ff_no_bias": True, "ff_relu_squared": True},
}

_X_TRANSFORMERS: Table = {name: (_language(**options), _IDS) for name, options in _VARIANTS.items()} | {
    "encoder": (_language("Encoder"), _IDS),
    "vit": (_image_classifier(), partial(image, 32)),
    "continuous": (
        later(
            "x_transformers:ContinuousTransformerWrapper",
            dim_in=12,
            dim_out=12,
            max_seq_len=64,
            attn_layers=later("x_transformers:Decoder", **_LAYERS),
        ),
        partial(noise, 1, 32, 12),
    ),
    "encoder_decoder": (
        later(
            "x_transformers:XTransformer",
            dim=48,
            enc_num_tokens=64,
            enc_depth=1,
            enc_heads=4,
            enc_attn_dim_head=16,
            enc_max_seq_len=64,
            dec_num_tokens=64,
            dec_depth=1,
            dec_heads=4,
            dec_attn_dim_head=16,
            dec_max_seq_len=64,
        ),
        lambda: (tokens(1, 16), tokens(1, 16)),
    ),
}

# ---------------------------------------------------------------- vector-quantize-pytorch


class Quantized(nn.Module):
    """A quantizer between two layers; its output without indices and losses."""

    def __init__(self, quantizer: nn.Module, width: int = 32) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, width))
        self.quantizer = quantizer
        self.decode = nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, 12))

    def forward(self, x: Tensor) -> Tensor:
        found = self.quantizer(self.encode(x))
        return self.decode(found[0] if isinstance(found, tuple) else found)


def _quantized(name: str, width: int, **options: Any) -> nn.Module:
    return Quantized(found_in_library(f"vector_quantize_pytorch:{name}")(**options), width)


_QUANTIZERS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vector_quantize": ("VectorQuantize", 32, {"dim": 32, "codebook_size": 16}),
    "cosine": ("VectorQuantize", 32, {"dim": 32, "codebook_size": 16, "use_cosine_sim": True}),
    "projected": ("VectorQuantize", 32, {"dim": 32, "codebook_size": 16, "codebook_dim": 8}),
    "heads": ("VectorQuantize", 32, {"dim": 32, "codebook_size": 16, "heads": 4, "codebook_dim": 8}),
    "residual": ("ResidualVQ", 32, {"dim": 32, "codebook_size": 16, "num_quantizers": 2}),
    "fsq": ("FSQ", 32, {"levels": [8, 5, 5], "dim": 32}),
    "residual_fsq": ("ResidualFSQ", 32, {"levels": [8, 5, 5], "dim": 32, "num_quantizers": 2}),
    "lfq": ("LFQ", 32, {"codebook_size": 64, "dim": 32}),
    "sim_vq": ("SimVQ", 32, {"dim": 32, "codebook_size": 16}),
    "latent": ("LatentQuantize", 16, {"levels": [5, 5, 8], "dim": 16}),
    "affine": ("VectorQuantize", 32, {"dim": 32, "codebook_size": 16, "affine_param": True}),
}
_VECTOR_QUANTIZE: Table = {
    name: (partial(_quantized, kind, width, **options), partial(noise, 1, 16, 12))
    for name, (kind, width, options) in _QUANTIZERS.items()
}

# ---------------------------------------------------------------- others


class Wrapped(nn.Module):
    """A block of a library between an input layer and an output layer, so that its width is inside."""

    def __init__(self, block: nn.Module, width: int = 48) -> None:
        super().__init__()
        self.before, self.block, self.after = nn.Linear(12, width), block, nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = self.block(self.before(x))
        return self.after(found[0] if isinstance(found, tuple) else found)


def _within(path: str, *arguments: Any, width: int = 48, **options: Any) -> Later:
    return Later("benchmarks.zoos.third_party.sequences:Wrapped", (later(path, *arguments, **options), width))


_SERIES = partial(noise, 1, 32, 12)
_HEADS: dict[str, Any] = {"dim": 48, "depth": 1, "heads": 4, "dim_head": 16}

_OTHERS: Table = {
    "perceiver_pytorch.perceiver": (
        later(
            "perceiver_pytorch:Perceiver",
            num_freq_bands=4,
            depth=2,
            max_freq=10.0,
            num_latents=8,
            latent_dim=48,
            latent_heads=4,
            cross_dim_head=16,
            latent_dim_head=16,
            num_classes=10,
        ),
        partial(noise, 1, 16, 16, 3),
    ),
    "perceiver_pytorch.io": (
        later(
            "perceiver_pytorch:PerceiverIO",
            depth=2,
            dim=12,
            queries_dim=12,
            logits_dim=10,
            num_latents=8,
            latent_dim=48,
            latent_heads=4,
            cross_dim_head=16,
            latent_dim_head=16,
        ),
        lambda: {"data": noise(1, 16, 12), "queries": noise(4, 12)},
    ),
    "performer_pytorch.performer": (_within("performer_pytorch:Performer", **_HEADS, nb_features=16), _SERIES),
    "performer_pytorch.language_model": (
        later("performer_pytorch:PerformerLM", num_tokens=64, max_seq_len=32, **_HEADS, nb_features=16),
        _IDS,
    ),
    "linformer.linformer": (_within("linformer:Linformer", 48, 32, 1, k=8, heads=4), _SERIES),
    "linformer.language_model": (later("linformer:LinformerLM", 64, 48, 32, 1, k=8, heads=4), _IDS),
    "g_mlp_pytorch.language_model": (later("g_mlp_pytorch:gMLP", num_tokens=64, dim=48, depth=2, seq_len=32), _IDS),
    "conformer.conformer": (_within("conformer:Conformer", **_HEADS, conv_kernel_size=7), _SERIES),
    "iTransformer.iTransformer": (
        later(
            "iTransformer:iTransformer",
            num_variates=5,
            lookback_len=24,
            dim=48,
            depth=1,
            heads=4,
            dim_head=16,
            pred_length=6,
            num_tokens_per_variate=1,
        ),
        partial(noise, 1, 24, 5),
    ),
    "local_attention.transformer": (
        later(
            "local_attention:LocalTransformer",
            num_tokens=64,
            max_seq_len=32,
            **_HEADS,
            local_attn_window_size=8,
            causal=True,
        ),
        _IDS,
    ),
    "linear_attention_transformer.transformer": (
        _within("linear_attention_transformer:LinearAttentionTransformer", **_HEADS, max_seq_len=32),
        _SERIES,
    ),
    "nystrom_attention.nystromformer": (
        _within("nystrom_attention:Nystromformer", **_HEADS, num_landmarks=8, pinv_iterations=2),
        _SERIES,
    ),
    "axial_attention.attention": (
        later("axial_attention:AxialAttention", dim=32, heads=4, dim_index=1, num_dimensions=2),
        partial(noise, 1, 32, 8, 8),
    ),
    "soft_moe_pytorch.experts": (_within("soft_moe_pytorch:SoftMoE", 48, seq_len=32, num_experts=4), _SERIES),
    "minGRU_pytorch.gru": (_within("minGRU_pytorch:minGRU", 48, expansion_factor=1.5), _SERIES),
    "gateloop_transformer.transformer": (
        later(
            "gateloop_transformer:Transformer",
            num_tokens=64,
            **_HEADS,
            use_gate_looped_attn=False,
        ),
        _IDS,
    ),
    "pytorch_tcn.tcn": (later("pytorch_tcn:TCN", 12, [24, 24, 32], kernel_size=3), partial(noise, 1, 12, 32)),
    "pytorch_tcn.gated": (
        later("pytorch_tcn:TCN", 12, [24, 24], kernel_size=3, use_gate=True, use_skip_connections=True),
        partial(noise, 1, 12, 32),
    ),
    "ncps.cfc": (_within("ncps.torch:CfC", 48, 48), _SERIES),
    "ncps.ltc": (_within("ncps.torch:LTC", 48, 48), partial(noise, 1, 4, 12)),
}

TABLE: Table = {
    **{f"x_transformers.{name}": entry for name, entry in _X_TRANSFORMERS.items()},
    **{f"vector_quantize_pytorch.{name}": entry for name, entry in _VECTOR_QUANTIZE.items()},
    **_OTHERS,
}
