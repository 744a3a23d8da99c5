"""diffusers: denoising networks and autoencoders."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.zoos.third_party.later import Later, Table, later, noise

_SMALL = partial(noise, 1, 3, 16, 16)
_TIME = torch.tensor([3.0])
_UNET: dict[str, Any] = {"sample_size": 16, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
_ATTENTION: dict[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 12}
_VAE: dict[str, Any] = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}


def _net(name: str, **options: Any) -> Later:
    return later(f"diffusers:{name}", **options)


def _latents(channels: int = 4) -> Tensor:
    return noise(1, channels, 8, 8)


def _conditioned(*shape: int, text: int = 24, **more: Any) -> dict[str, Any]:
    """Noise at a time, and the states of a text of seven tokens."""
    return {"hidden_states": noise(*shape), "timestep": _TIME, "encoder_hidden_states": noise(1, 7, text)} | more


def _flux(images: int = 1) -> dict[str, Any]:
    """Places are the same for all images."""
    tokens, text = 16, 7
    return {
        "hidden_states": noise(images, tokens, 16),
        "encoder_hidden_states": noise(images, text, 24),
        "pooled_projections": noise(images, 24),
        "timestep": _TIME.repeat(images),
        "img_ids": torch.zeros(tokens, 3),
        "txt_ids": torch.zeros(text, 3),
    }


_DIFFUSERS: Table = {
    "unet2d": (
        _net(
            "UNet2DModel",
            **_UNET,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=16,
        ),
        lambda: (noise(1, 3, 16, 16), _TIME),
    ),
    "unet2d_condition": (
        _net(
            "UNet2DConditionModel",
            **_UNET,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=4,
        ),
        lambda: {"sample": _latents(), "timestep": _TIME, "encoder_hidden_states": noise(1, 7, 24)},
    ),
    "unet1d": (
        _net(
            "UNet1DModel",
            sample_size=32,
            in_channels=2,
            out_channels=2,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
            up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
            extra_in_channels=32,
        ),
        lambda: (noise(1, 2, 32), _TIME),
    ),
    "autoencoder_kl": (
        _net(
            "AutoencoderKL",
            **_VAE,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        _SMALL,
    ),
    "autoencoder_tiny": (
        _net(
            "AutoencoderTiny",
            encoder_block_out_channels=(16, 16),
            decoder_block_out_channels=(16, 16),
            num_encoder_blocks=(1, 2),
            num_decoder_blocks=(2, 1),
        ),
        _SMALL,
    ),
    "vq_model": (
        _net(
            "VQModel",
            **_VAE,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            num_vq_embeddings=16,
        ),
        _SMALL,
    ),
    "autoencoder_dc": (
        _net(
            "AutoencoderDC",
            latent_channels=4,
            attention_head_dim=8,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(16, 32),
            decoder_block_out_channels=(16, 32),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            upsample_block_type="interpolate",
            downsample_block_type="stride_conv",
            decoder_norm_types="rms_norm",
            decoder_act_fns="silu",
        ),
        _SMALL,
    ),
    "dit": (
        _net("DiTTransformer2DModel", **_ATTENTION, in_channels=4, num_layers=2, sample_size=8, num_embeds_ada_norm=10),
        lambda: {"hidden_states": _latents(), "timestep": torch.tensor([3]), "class_labels": torch.tensor([1])},
    ),
    "transformer2d": (
        _net(
            "Transformer2DModel", **_ATTENTION, in_channels=48, num_layers=1, norm_num_groups=8, cross_attention_dim=24
        ),
        lambda: {"hidden_states": noise(1, 48, 8, 8), "encoder_hidden_states": noise(1, 7, 24)},
    ),
    "pixart": (
        _net(
            "PixArtTransformer2DModel",
            **_ATTENTION,
            sample_size=8,
            num_layers=1,
            caption_channels=24,
            cross_attention_dim=48,
            use_additional_conditions=False,
        ),
        lambda: _conditioned(1, 4, 8, 8, added_cond_kwargs={"resolution": None, "aspect_ratio": None}),
    ),
    "sd3": (
        _net(
            "SD3Transformer2DModel",
            **_ATTENTION,
            sample_size=8,
            in_channels=4,
            num_layers=2,
            joint_attention_dim=24,
            caption_projection_dim=48,
            pooled_projection_dim=24,
            out_channels=4,
            pos_embed_max_size=8,
        ),
        lambda: _conditioned(1, 4, 8, 8, pooled_projections=noise(1, 24)),
    ),
    "flux": (
        _net(
            "FluxTransformer2DModel",
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=24,
            pooled_projection_dim=24,
            axes_dims_rope=(4, 6, 6),
        ),
        _flux,
        _flux,
    ),
    "sana": (
        _net(
            "SanaTransformer2DModel",
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=12,
            num_layers=1,
            num_cross_attention_heads=4,
            cross_attention_head_dim=12,
            cross_attention_dim=48,
            caption_channels=24,
            sample_size=8,
        ),
        lambda: _conditioned(1, 4, 8, 8),
    ),
    "wan": (
        _net(
            "WanTransformer3DModel",
            in_channels=4,
            out_channels=4,
            num_attention_heads=4,
            attention_head_dim=12,
            text_dim=24,
            freq_dim=32,
            ffn_dim=96,
            num_layers=1,
            patch_size=(1, 2, 2),
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
            rope_max_seq_len=32,
        ),
        lambda: _conditioned(1, 4, 2, 8, 8),
    ),
    "cogvideox": (
        _net(
            "CogVideoXTransformer3DModel",
            **_ATTENTION | {"attention_head_dim": 16},
            in_channels=4,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=24,
            num_layers=1,
            sample_width=8,
            sample_height=8,
            sample_frames=5,
            patch_size=2,
            max_text_seq_length=7,
        ),
        lambda: _conditioned(1, 2, 4, 8, 8),
    ),
    "ltx_video": (
        _net(
            "LTXVideoTransformer3DModel",
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=12,
            cross_attention_dim=48,
            num_layers=1,
            caption_channels=24,
        ),
        lambda: _conditioned(1, 32, 8, encoder_attention_mask=torch.ones(1, 7), num_frames=2, height=4, width=4),
    ),
    "uvit": (
        _net(
            "UVit2DModel",
            hidden_size=48,
            cond_embed_dim=24,
            micro_cond_encode_dim=8,
            micro_cond_embed_dim=40,
            encoder_hidden_size=24,
            vocab_size=32,
            codebook_size=24,
            num_hidden_layers=1,
            num_attention_heads=4,
            in_channels=32,
            block_out_channels=32,
            block_num_heads=4,
            num_res_blocks=1,
            intermediate_size=96,
            sample_size=8,
        ),
        lambda: {
            "input_ids": torch.arange(16).view(1, 4, 4),
            "encoder_hidden_states": noise(1, 7, 24),
            "pooled_text_emb": noise(1, 24),
            "micro_conds": torch.ones(1, 5),
        },
    ),
    "controlnet": (
        _net(
            "ControlNetModel",
            block_out_channels=(32, 64),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            cross_attention_dim=24,
            attention_head_dim=4,
            conditioning_embedding_out_channels=(16, 32),
        ),
        lambda: {
            "sample": _latents(),
            "timestep": _TIME,
            "encoder_hidden_states": noise(1, 7, 24),
            "controlnet_cond": noise(1, 3, 16, 16),
        },
    ),
    "stable_audio": (
        _net(
            "StableAudioDiTModel",
            sample_size=32,
            in_channels=4,
            out_channels=4,
            num_layers=1,
            attention_head_dim=12,
            num_attention_heads=4,
            num_key_value_attention_heads=2,
            cross_attention_dim=24,
            cross_attention_input_dim=24,
            global_states_input_dim=24,
            time_proj_dim=16,
        ),
        lambda: _conditioned(1, 4, 32, global_hidden_states=noise(1, 1, 24)),
    ),
    "oobleck": (
        _net(
            "AutoencoderOobleck",
            encoder_hidden_size=16,
            downsampling_ratios=[2, 4],
            decoder_channels=8,
            decoder_input_channels=8,
            audio_channels=1,
            channel_multiples=[1, 2],
        ),
        partial(noise, 1, 1, 128),
    ),
}

TABLE: Table = {f"diffusers.{name}": entry for name, entry in _DIFFUSERS.items()}
