"""Transformers that see or hear: small members of its models of images, of sound, and of images with text."""

from __future__ import annotations

from typing import Any

from benchmarks.zoos.transformers_text import DECODER, ENCODER_DECODER, SPECIAL, TEXT, Members, Options

_VISION: Options = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
_STAGES: Options = {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]}
_SWIN: Options = {
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "image_size": 32,
    "patch_size": 2,
    "window_size": 4,
}
_BACKBONE: Options = _STAGES | {"model_type": "resnet", "embedding_size": 16, "out_features": ["stage4"]}
_DETECTOR: Options = ENCODER_DECODER | {"num_queries": 8, "backbone_config": _BACKBONE, "use_timm_backbone": False}
_AUDIO: Options = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}
_SQUEEZED: Options = _AUDIO | {
    "conv_dim": (16, *(32,) * 8, *(64,) * 4),
    "mask_time_prob": 0.0,
}


def _pyramid(**more: Any) -> Options:
    """Four stages of widths 16 to 128 with 1 to 8 heads."""
    return _STAGES | {"num_attention_heads": [1, 2, 4, 8]} | more


IMAGES: Members = {
    "vit": ("ViTForImageClassification", _VISION),
    "deit": ("DeiTForImageClassification", _VISION),
    "beit": ("BeitForImageClassification", _VISION),
    "data2vec_vision": ("Data2VecVisionForImageClassification", _VISION),
    "dinov2": ("Dinov2ForImageClassification", _VISION),
    "dinov2_registers": ("Dinov2WithRegistersForImageClassification", _VISION),
    "dinov3": ("DINOv3ViTModel", _VISION),
    "vit_msn": ("ViTMSNForImageClassification", _VISION),
    "vit_mae": (
        "ViTMAEForPreTraining",
        _VISION
        | {"decoder_hidden_size": 32, "decoder_num_attention_heads": 4}
        | {"decoder_num_hidden_layers": 2, "decoder_intermediate_size": 64},
    ),
    "swin": ("SwinForImageClassification", _SWIN),
    "swinv2": ("Swinv2ForImageClassification", _SWIN),
    "hiera": (
        "HieraForImageClassification",
        {"embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "image_size": [64, 64]}
        | {"num_query_pool": 2, "masked_unit_size": [4, 4], "masked_unit_attention": [True, False, False]},
    ),
    "segformer": (
        "SegformerForImageClassification",
        _STAGES | {"decoder_hidden_size": 32},
    ),
    "segformer_segmentation": (
        "SegformerForSemanticSegmentation",
        _STAGES | {"decoder_hidden_size": 32},
    ),
    "pvt": ("PvtForImageClassification", _pyramid(image_size=64, num_labels=10)),
    "pvt_v2": ("PvtV2ForImageClassification", _pyramid(image_size=64)),
    "cvt": (
        "CvtForImageClassification",
        {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]},
    ),
    "levit": (
        "LevitForImageClassification",
        {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1]}
        | {"key_dim": [8, 8, 8]},
    ),
    "mobilevit": ("MobileViTForImageClassification", {"image_size": 64}),
    "mobilevitv2": ("MobileViTV2ForImageClassification", {"image_size": 64, "width_multiplier": 0.25}),
    "poolformer": ("PoolFormerForImageClassification", _STAGES),
    "swiftformer": ("SwiftFormerForImageClassification", {"embed_dims": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}),
    "focalnet": (
        "FocalNetForImageClassification",
        {"image_size": 32, "embed_dim": 16, "hidden_sizes": [32, 64], "depths": [1, 1]}
        | {"focal_levels": [2, 2], "focal_windows": [3, 3]},
    ),
    "resnet": ("ResNetForImageClassification", _STAGES | {"embedding_size": 16}),
    "bit": ("BitForImageClassification", _STAGES | {"embedding_size": 16, "num_groups": 4}),
    "regnet": ("RegNetForImageClassification", _STAGES | {"embedding_size": 16, "groups_width": 8}),
    "convnext": ("ConvNextForImageClassification", _STAGES | {"image_size": 64}),
    "convnextv2": ("ConvNextV2ForImageClassification", _STAGES | {"image_size": 64}),
    "mobilenet_v1": ("MobileNetV1ForImageClassification", {"depth_multiplier": 0.25}),
    "mobilenet_v2": ("MobileNetV2ForImageClassification", {"depth_multiplier": 0.35}),
    "efficientnet": (
        "EfficientNetForImageClassification",
        {"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    ),
    "dpt": (
        "DPTForSemanticSegmentation",
        _VISION
        | {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "fusion_hidden_size": 32}
        | {"neck_hidden_sizes": [16, 32, 32, 64], "pooler_output_size": 64},
    ),
    "glpn": ("GLPNForDepthEstimation", _pyramid(decoder_hidden_size=32)),
    "upernet": (
        "UperNetForSemanticSegmentation",
        {"hidden_size": 32, "auxiliary_channels": 32, "auxiliary_in_channels": 64}
        | {"backbone_config": _BACKBONE | {"out_features": ["stage1", "stage2", "stage3", "stage4"]}},
    ),
    "yolos": ("YolosForObjectDetection", _VISION | {"image_size": [32, 32], "num_detection_tokens": 8}),
    "detr": ("DetrForObjectDetection", _DETECTOR),
    "conditional_detr": ("ConditionalDetrForObjectDetection", _DETECTOR),
    "rt_detr": (
        "RTDetrForObjectDetection",
        {"d_model": 64, "num_queries": 8, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128}
        | {"encoder_hidden_dim": 64, "encoder_in_channels": [32, 64, 128], "encoder_ffn_dim": 128}
        | {"encoder_attention_heads": 4, "decoder_in_channels": [64, 64, 64], "hidden_expansion": 0.5}
        | {
            "backbone_config": _STAGES
            | {"model_type": "rt_detr_resnet", "embedding_size": 16, "out_features": ["stage2", "stage3", "stage4"]}
        },
    ),
    "sam": (
        "SamModel",
        {
            "vision_config": {
                "hidden_size": 32,
                "output_channels": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 64,
                "window_size": 2,
                "global_attn_indexes": [1],
                "num_pos_feats": 16,
                "mlp_dim": 64,
            },
            "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "mask_input_channels": 8},
            "mask_decoder_config": {
                "hidden_size": 32,
                "mlp_dim": 64,
                "num_attention_heads": 2,
                "iou_head_hidden_dim": 32,
            },
        },
    ),
    "videomae": (
        "VideoMAEForVideoClassification",
        _VISION | {"num_frames": 4},
    ),
    "timesformer": ("TimesformerForVideoClassification", _VISION | {"num_frames": 2}),
    "vivit": (
        "VivitForVideoClassification",
        {k: v for k, v in _VISION.items() if k != "patch_size"} | {"num_frames": 4, "tubelet_size": [2, 8, 8]},
    ),
}
"""Models of images and videos."""

_CLIP: Options = {"text_config": TEXT | SPECIAL, "vision_config": _VISION, "projection_dim": 32}

PAIRS: Members = {
    "clip": ("CLIPModel", _CLIP),
    "chinese_clip": ("ChineseCLIPModel", _CLIP),
    "altclip": ("AltCLIPModel", _CLIP | {"text_config": TEXT | SPECIAL | {"project_dim": 32}}),
    "clipseg": (
        "CLIPSegForImageSegmentation",
        _CLIP | {"extract_layers": [0, 1], "reduce_dim": 16, "decoder_intermediate_size": 32},
    ),
    "siglip": ("SiglipModel", {"text_config": TEXT, "vision_config": _VISION}),
    "owlvit": ("OwlViTForObjectDetection", _CLIP | {"projection_dim": 64}),
    "groupvit": (
        "GroupViTModel",
        {
            "text_config": TEXT | SPECIAL,
            "vision_config": _VISION
            | {
                "depths": [1, 1, 1],
                "num_hidden_layers": 3,
                "num_group_tokens": [4, 2, 0],
                "num_output_groups": [4, 2, 2],
            },
            "projection_dim": 32,
            "projection_intermediate_dim": 64,
        },
    ),
    "blip": (
        "BlipForConditionalGeneration",
        _CLIP | {"text_config": TEXT | SPECIAL | {"encoder_hidden_size": 64, "projection_dim": 32}},
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": DECODER | {"model_type": "llama"},
            "vision_config": _VISION | {"model_type": "clip_vision_model"},
            "image_token_index": 3,
            "image_seq_length": 16,
        },
    ),
    "vilt": ("ViltForQuestionAnswering", TEXT | _VISION),
    "git": ("GitForCausalLM", TEXT | SPECIAL | {"vision_config": _VISION}),
}
"""Models of text and images."""

SOUND: Members = {
    "wav2vec2": ("Wav2Vec2ForCTC", _AUDIO),
    "wav2vec2_conformer": ("Wav2Vec2ConformerForCTC", _AUDIO),
    "hubert": ("HubertForCTC", _AUDIO),
    "wavlm": ("WavLMForCTC", _AUDIO),
    "unispeech": ("UniSpeechForCTC", _AUDIO),
    "unispeech_sat": ("UniSpeechSatForCTC", _AUDIO),
    "data2vec_audio": ("Data2VecAudioForCTC", _AUDIO | {"num_conv_pos_embeddings": 2}),
    "sew": ("SEWForCTC", _SQUEEZED),
    "sew_d": ("SEWDForCTC", _SQUEEZED | {"max_position_embeddings": 64, "position_buckets": 8}),
    "whisper": (
        "WhisperForConditionalGeneration",
        ENCODER_DECODER
        | SPECIAL
        | {
            "num_mel_bins": 16,
            "max_source_positions": 32,
            "max_target_positions": 32,
            "decoder_start_token_id": 1,
            "suppress_tokens": None,
        },
    ),
    "speech_to_text": (
        "Speech2TextForConditionalGeneration",
        ENCODER_DECODER | {"conv_channels": 64, "input_feat_per_channel": 16, "max_target_positions": 32},
    ),
    "ast": (
        "ASTForAudioClassification",
        {k: v for k, v in _VISION.items() if k not in ("image_size", "patch_size")}
        | {"max_length": 64, "num_mel_bins": 32},
    ),
    "encodec": (
        "EncodecModel",
        {"num_filters": 8, "hidden_size": 32, "codebook_dim": 32, "codebook_size": 16, "upsampling_ratios": [4, 2]},
    ),
}
"""Models of sound."""
