"""Libraries that look at images: classifiers, segmentation, detection, super-resolution."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from benchmarks.zoos.common import SMALL_IMAGE, image
from benchmarks.zoos.third_party.later import Later, Table, found_in_library, later, noise, tokens

_PHOTO, _PATCH = partial(image, SMALL_IMAGE), partial(image, 32)

# ---------------------------------------------------------------- vit-pytorch

_BASE: dict[str, Any] = {"num_classes": 10, "dim": 48, "depth": 2, "heads": 4, "mlp_dim": 96, "dim_head": 16}
_VIT: dict[str, Any] = _BASE | {"image_size": 64, "patch_size": 16}
_CLIP: dict[str, Any] = _BASE | {"image_size": 32, "image_patch_size": 16, "frames": 4, "frame_patch_size": 2}
_SERIES: dict[str, Any] = _BASE | {"seq_len": 64, "patch_size": 8}
_STAGES: dict[str, Any] = {"num_classes": 10, "depth": (1, 1, 1, 1)}


def _vit(module: str, name: str, **options: Any) -> Later:
    return later(f"vit_pytorch.{module}:{name}", **options)


def _without(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}


_VIT_PYTORCH: Table = {
    "vit": (_vit("vit", "ViT", **_VIT), _PHOTO),
    "vit_mean": (_vit("vit", "ViT", **_VIT, pool="mean"), _PHOTO),
    "simple_vit": (_vit("simple_vit", "SimpleViT", **_VIT), _PHOTO),
    "cait": (_vit("cait", "CaiT", **_VIT, cls_depth=1), _PHOTO),
    "deepvit": (_vit("deepvit", "DeepViT", **_VIT), _PHOTO),
    "parallel_vit": (_vit("parallel_vit", "ViT", **_VIT), _PHOTO),
    "rvt": (_vit("rvt", "RvT", **_VIT), _PHOTO),
    "xcit": (_vit("xcit", "XCiT", **_VIT, cls_depth=1), _PHOTO),
    "normalized_vit": (_vit("normalized_vit", "nViT", **_VIT), _PHOTO),
    "jumbo_vit": (_vit("jumbo_vit", "JumboViT", **_VIT, jumbo_cls_k=2), _PHOTO),
    "vit_5": (_vit("vit_5", "ViT", **_VIT), _PHOTO),
    "vit_for_small_dataset": (_vit("vit_for_small_dataset", "ViT", **_VIT), _PHOTO),
    "vit_with_patch_merger": (
        _vit("vit_with_patch_merger", "ViT", **_VIT, patch_merge_layer=1, patch_merge_num_tokens=4),
        _PHOTO,
    ),
    "vit_with_patch_dropout": (_vit("vit_with_patch_dropout", "ViT", **_VIT), _PHOTO),
    "vit_with_decorr": (_vit("vit_with_decorr", "ViT", **_VIT), _PHOTO),
    "vit_with_keel_post_ln": (_vit("vit_with_keel_post_ln", "ViT", **_VIT), _PHOTO),
    "simple_uvit": (_vit("simple_uvit", "SimpleUViT", **_VIT), _PHOTO),
    "simple_vit_attn_residual": (_vit("simple_vit_attn_residual", "SimpleViTAttnResidual", **_VIT), _PHOTO),
    "simple_vit_with_value_residual": (_vit("simple_vit_with_value_residual", "SimpleViT", **_VIT), _PHOTO),
    "simple_vit_with_qk_norm": (_vit("simple_vit_with_qk_norm", "SimpleViT", **_VIT), _PHOTO),
    "simple_vit_with_register_tokens": (_vit("simple_vit_with_register_tokens", "SimpleViT", **_VIT), _PHOTO),
    "simple_vit_with_fft": (_vit("simple_vit_with_fft", "SimpleViT", **_VIT, freq_patch_size=8), _PHOTO),
    "simple_vit_with_hyper_connections": (
        _vit("simple_vit_with_hyper_connections", "SimpleViT", **_VIT, num_residual_streams=2),
        _PHOTO,
    ),
    "simple_flash_attn_vit": (_vit("simple_flash_attn_vit", "SimpleViT", **_VIT), _PHOTO),
    "ats_vit": (_vit("ats_vit", "ViT", **_VIT, max_tokens_per_depth=(12, 8)), _PHOTO),
    "cct": (
        later(
            "vit_pytorch.cct:CCT",
            img_size=32,
            embedding_dim=48,
            n_conv_layers=2,
            num_layers=2,
            num_heads=4,
            mlp_ratio=2,
            num_classes=10,
        ),
        _PATCH,
    ),
    "cross_vit": (
        _vit(
            "cross_vit",
            "CrossViT",
            image_size=64,
            num_classes=10,
            sm_dim=32,
            lg_dim=48,
            sm_patch_size=16,
            sm_enc_heads=2,
            sm_enc_mlp_dim=64,
            sm_enc_dim_head=16,
            lg_patch_size=32,
            lg_enc_depth=1,
            lg_enc_heads=3,
            lg_enc_mlp_dim=96,
            lg_enc_dim_head=16,
            cross_attn_depth=1,
            cross_attn_heads=2,
            cross_attn_dim_head=16,
            depth=1,
        ),
        _PHOTO,
    ),
    "crossformer": (
        _vit(
            "crossformer",
            "CrossFormer",
            **_STAGES,
            dim=(32, 48, 64, 96),
            global_window_size=(4, 2, 1, 1),
            local_window_size=2,
        ),
        _PHOTO,
    ),
    "cvt": (
        _vit("cvt", "CvT", num_classes=10, s1_emb_dim=32, s2_emb_dim=48, s3_emb_dim=64, s2_depth=1, s3_depth=1),
        _PHOTO,
    ),
    "levit": (
        _vit(
            "levit",
            "LeViT",
            image_size=64,
            num_classes=10,
            dim=(32, 48, 64),
            depth=1,
            heads=(2, 3, 4),
            mlp_mult=2,
            dim_key=8,
            dim_value=16,
        ),
        _PHOTO,
    ),
    "max_vit": (_vit("max_vit", "MaxViT", num_classes=10, dim=32, depth=(1, 1), dim_head=16, window_size=4), _PHOTO),
    "mobile_vit": (
        _vit(
            "mobile_vit",
            "MobileViT",
            image_size=(64, 64),
            dims=[32, 48, 64],
            channels=[16, 16, 24, 24, 32, 32, 40, 40, 48, 48, 64],
            num_classes=10,
        ),
        _PHOTO,
    ),
    "nest": (
        _vit(
            "nest",
            "NesT",
            image_size=32,
            patch_size=4,
            num_classes=10,
            dim=32,
            heads=2,
            num_hierarchies=2,
            block_repeats=(1, 1),
            dim_head=16,
        ),
        _PATCH,
    ),
    "pit": (
        _vit("pit", "PiT", **_without(_VIT, "depth"), depth=(1, 1)),
        _PHOTO,
    ),
    "regionvit": (_vit("regionvit", "RegionViT", **_STAGES, dim=(32, 48, 64, 96), window_size=4), partial(image, 128)),
    "scalable_vit": (
        _vit(
            "scalable_vit",
            "ScalableViT",
            num_classes=10,
            dim=32,
            heads=(2, 4),
            depth=(1, 1),
            ssa_dim_key=(8, 8),
            ssa_dim_value=(16, 16),
            iwsa_dim_key=(8, 8),
            iwsa_dim_value=(16, 16),
            reduction_factor=(4, 2),
            window_size=(8, 4),
        ),
        _PHOTO,
    ),
    "sep_vit": (
        _vit("sep_vit", "SepViT", num_classes=10, dim=32, dim_head=16, heads=(1, 2), depth=(1, 1)),
        partial(image, 56),
    ),
    "t2t": (_vit("t2t", "T2TViT", **_without(_VIT, "patch_size")), _PHOTO),
    "twins_svt": (
        _vit(
            "twins_svt",
            "TwinsSVT",
            num_classes=10,
            s1_emb_dim=32,
            s1_local_patch_size=4,
            s1_global_k=4,
            s2_emb_dim=48,
            s2_local_patch_size=4,
            s2_global_k=4,
            s3_emb_dim=64,
            s3_local_patch_size=4,
            s3_global_k=4,
            s3_depth=1,
            s4_emb_dim=96,
            s4_local_patch_size=2,
            s4_global_k=2,
            s4_depth=1,
        ),
        _PHOTO,
    ),
    "look_vit": (
        _vit(
            "look_vit",
            "LookViT",
            image_size=64,
            num_classes=10,
            dim=48,
            depth=1,
            heads=3,
            dim_head=16,
            patch_size=32,
            highres_patch_size=16,
            cross_attn_heads=3,
            cross_attn_dim_head=16,
        ),
        _PHOTO,
    ),
    "vit_1d": (_vit("vit_1d", "ViT", **_SERIES), partial(noise, 1, 3, 64)),
    "simple_vit_1d": (_vit("simple_vit_1d", "SimpleViT", **_SERIES), partial(noise, 1, 3, 64)),
    "vit_3d": (_vit("vit_3d", "ViT", **_CLIP), partial(noise, 1, 3, 4, 32, 32)),
    "simple_vit_3d": (_vit("simple_vit_3d", "SimpleViT", **_CLIP), partial(noise, 1, 3, 4, 32, 32)),
    "vivit": (
        _vit("vivit", "ViViT", **_without(_CLIP, "depth"), spatial_depth=1, temporal_depth=1),
        partial(noise, 1, 3, 4, 32, 32),
    ),
    "vit_nd_rotary": (
        _vit("vit_nd_rotary", "ViTND", **_BASE, ndim=2, input_shape=(64, 64), patch_size=16),
        _PHOTO,
    ),
    "efficient": (
        _vit(
            "efficient",
            "ViT",
            image_size=64,
            patch_size=16,
            num_classes=10,
            dim=48,
            transformer=later("linformer:Linformer", dim=48, seq_len=17, depth=2, heads=4, k=8),
        ),
        _PHOTO,
    ),
}

# ---------------------------------------------------------------- segmentation-models-pytorch


def _segmentation(name: str, encoder: str, **options: Any) -> tuple[Later, Any]:
    path = f"segmentation_models_pytorch:{name}"
    return later(path, encoder_name=encoder, encoder_weights=None, classes=3, **options), _PHOTO


_SEGMENTATION: Table = {
    "unet": _segmentation("Unet", "resnet18"),
    "unet_scse": _segmentation("Unet", "mobilenet_v2", decoder_attention_type="scse"),
    "unetplusplus": _segmentation("UnetPlusPlus", "resnet18"),
    "manet": _segmentation("MAnet", "resnet18"),
    "linknet": _segmentation("Linknet", "resnet18"),
    "fpn": _segmentation("FPN", "efficientnet-b0"),
    "pspnet": _segmentation("PSPNet", "resnet18"),
    "pan": (_segmentation("PAN", "resnet18")[0], partial(image, 128)),
    "deeplabv3": _segmentation("DeepLabV3", "resnet18"),
    "deeplabv3plus": _segmentation("DeepLabV3Plus", "resnet18"),
    "upernet": _segmentation("UPerNet", "resnet18"),
    "segformer": _segmentation("Segformer", "mit_b0"),
    "dpt": _segmentation("DPT", "tu-vit_tiny_patch16_224", dynamic_img_size=True),
    "unet_densenet": _segmentation("Unet", "densenet121"),
    "unet_vgg": _segmentation("Unet", "vgg11_bn"),
    "unet_xception": (_segmentation("Unet", "xception")[0], _PHOTO),
    "unet_mobileone": _segmentation("Unet", "mobileone_s0"),
}

# ---------------------------------------------------------------- ultralytics


def _yolo(config: str, task: str = "DetectionModel") -> Later:
    return later(f"ultralytics.nn.tasks:{task}", config, verbose=False)


_ULTRALYTICS: Table = {
    "yolov8n": (_yolo("yolov8n.yaml"), _PHOTO),
    "yolov8n_seg": (_yolo("yolov8n-seg.yaml", "SegmentationModel"), _PHOTO),
    "yolov8n_pose": (_yolo("yolov8n-pose.yaml", "PoseModel"), _PHOTO),
    "yolov8n_obb": (_yolo("yolov8n-obb.yaml", "OBBModel"), _PHOTO),
    "yolov8n_cls": (_yolo("yolov8n-cls.yaml", "ClassificationModel"), _PHOTO),
    "yolov8n_ghost": (_yolo("yolov8n-ghost.yaml"), _PHOTO),
    "yolov3_tiny": (_yolo("yolov3-tiny.yaml"), _PHOTO),
    "yolov5n": (_yolo("yolov5n.yaml"), _PHOTO),
    "yolov6n": (_yolo("yolov6n.yaml"), _PHOTO),
    "yolov9t": (_yolo("yolov9t.yaml"), _PHOTO),
    "yolov10n": (_yolo("yolov10n.yaml"), _PHOTO),
    "yolo11n": (_yolo("yolo11n.yaml"), _PHOTO),
    "yolo12n": (_yolo("yolo12n.yaml"), _PHOTO),
    "yolo26n": (_yolo("yolo26n.yaml"), _PHOTO),
    "rtdetr_l": (_yolo("rtdetr-l.yaml", "RTDETRDetectionModel"), _PHOTO),
}

# ---------------------------------------------------------------- pytorchcv


def _cv(name: str, **options: Any) -> Later:
    return later("pytorchcv.model_provider:get_model", name, pretrained=False, num_classes=10, **options)


_CV_NAMES = """
    resnet10 preresnet10 resnext14_16x4d seresnet10 airnet50_1x64d_r16 diracnet18v2 sharesnet18 densenet121
    condensenet74_c4_g4 peleenet resnet20_cifar10 drnc26 dpn68 darknet_tiny squeezenet_v1_0 squeezeresnet_v1_0
    shufflenet_g3_wd4 shufflenetv2_wd2 menet108_8x1_g3 mobilenet_wd4 fdmobilenet_wd4 igcv3_wd4 mnasnet_b1
    bninception proxylessnas_cpu hrnet_w18_small_v1 vovnet27s dla34 resdropresnet20_cifar10 fishnet99
    resnesta18 scnet50 regnetx002 ibn_resnet50 channelnet
""".split()

_PYTORCHCV: Table = {name: (_cv(name), _PATCH if "cifar" in name else partial(image, 224)) for name in _CV_NAMES}

# ---------------------------------------------------------------- spandrel

_WINDOWS: dict[str, Any] = {"img_size": 16, "embed_dim": 32, "depths": [2, 2], "num_heads": [4, 4], "window_size": 8}
_TINY = partial(image, 16)


def _restorer(name: str, **options: Any) -> Later:
    return later(f"spandrel.architectures.{name}:{name}", **options)


_SPANDREL: Table = {
    "esrgan": (_restorer("ESRGAN", num_filters=24, num_blocks=2), _TINY),
    "compact": (_restorer("Compact", num_feat=24, num_conv=3), _TINY),
    "swinir": (_restorer("SwinIR", **_WINDOWS, upscale=2, upsampler="pixelshuffle"), _TINY),
    "swin2sr": (_restorer("Swin2SR", **_WINDOWS, upscale=2, upsampler="pixelshuffle"), _TINY),
    "hat": (_restorer("HAT", **_WINDOWS, squeeze_factor=8, upscale=2, upsampler="pixelshuffle"), _TINY),
    "drct": (_restorer("DRCT", **_WINDOWS | {"embed_dim": 64}, gc=16, upscale=2, upsampler="pixelshuffle"), _TINY),
    "atd": (_restorer("ATD", **_WINDOWS, category_size=64, num_tokens=8, upscale=2, upsampler="pixelshuffle"), _TINY),
    "dat": (
        _restorer("DAT", img_size=16, embed_dim=32, split_size=[4, 8], depth=[2], num_heads=[4], upscale=2),
        _TINY,
    ),
    "rgt": (_restorer("RGT", img_size=16, embed_dim=32, depth=[2], num_heads=[4], split_size=[8, 8]), _TINY),
    "craft": (_restorer("CRAFT", embed_dim=48, depths=[2], num_heads=[6], window_size=16), _TINY),
    "dctlsa": (_restorer("DCTLSA", nf=50), _TINY),
    "ditn": (_restorer("DITN", dim=32, ITL_blocks=1, SAL_blocks=1), _TINY),
    "drunet": (_restorer("DRUNet", in_nc=3, out_nc=3, nc=[16, 24, 32, 48], nb=1), _PATCH),
    "dncnn": (_restorer("DnCNN", in_nc=3, out_nc=3, nc=24, nb=4), _TINY),
    "fbcnn": (_restorer("FBCNN", nc=[16, 24, 32, 512], nb=1), _PATCH),
    "fftformer": (_restorer("FFTformer", dim=16, num_blocks=[1, 1, 1], num_refinement_blocks=1), _PATCH),
    "mixdehazenet": (_restorer("MixDehazeNet", out_chans=4), _PHOTO),
    "mosr": (_restorer("MoSR", n_block=2, dim=32), _TINY),
    "moesr": (_restorer("MoESR", dim=32, n_blocks=1, n_block=2), _TINY),
    "nafnet": (_restorer("NAFNet", width=16, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]), _PATCH),
    "omnisr": (_restorer("OmniSR", num_feat=32), _TINY),
    "plksr": (_restorer("PLKSR", dim=32, n_blocks=2), _TINY),
    "realplksr": (later("spandrel.architectures.PLKSR:RealPLKSR", dim=32, n_blocks=2), _TINY),
    "rcan": (_restorer("RCAN", n_resgroups=1, n_resblocks=2, n_feats=32), _TINY),
    "realcugan": (later("spandrel.architectures.RealCUGAN:UpCunet2x"), _PATCH),
    "retinexformer": (_restorer("RetinexFormer", n_feat=32, stage=1), _PATCH),
    "safmn": (_restorer("SAFMN", dim=32, n_blocks=2), _TINY),
    "scunet": (_restorer("SCUNet", config=[1] * 7, dim=64, input_resolution=64), _PHOTO),
    "span": (_restorer("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=24), _TINY),
    "seemore": (_restorer("SeemoRe", num_layers=1, embedding_dim=32), _TINY),
    "swiftsrgan": (_restorer("SwiftSRGAN", num_channels=32, num_blocks=2), _TINY),
    "uformer": (
        _restorer(
            "Uformer", img_size=64, embed_dim=16, depths=[1] * 9, win_size=4, num_heads=[1, 2, 2, 4, 4, 4, 2, 2, 1]
        ),
        _PHOTO,
    ),
    "hvicidnet": (_restorer("HVICIDNet", channels=[16, 16, 32, 64]), _PATCH),
}

# ---------------------------------------------------------------- image and text


def _clip() -> nn.Module:
    vision = {"layers": 2, "width": 64, "head_width": 16, "image_size": 32, "patch_size": 8}
    return found_in_library("open_clip:CLIP")(32, vision, _CLIP_TEXT)


def _clip_resnet() -> nn.Module:
    vision = {"layers": (1, 1, 1, 1), "width": 16, "head_width": 16, "image_size": 64}
    return found_in_library("open_clip:CLIP")(32, vision, _CLIP_TEXT)


def _coca() -> nn.Module:
    vision = {"layers": 2, "width": 64, "head_width": 16, "image_size": 32, "patch_size": 8, "attentional_pool": True}
    vision |= {"attn_pooler_heads": 4, "output_tokens": True}
    text = _CLIP_TEXT | {"embed_cls": True, "output_tokens": True, "context_length": 15}
    multimodal = {"width": 64, "heads": 4, "layers": 1, "context_length": 15, "vocab_size": 64}
    model = found_in_library("open_clip:CoCa")(64, multimodal, text, vision)
    nn.init.normal_(model.text_decoder.text_projection, std=0.1)  # it is left as memory was
    return model


_CLIP_TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 64, "width": 64, "heads": 4, "layers": 2}
_OPEN_CLIP: Table = {
    "vit": (_clip, lambda: (image(32), tokens(1, 16))),
    "resnet": (_clip_resnet, lambda: (image(64), tokens(1, 16))),
    "coca": (_coca, lambda: (image(32), tokens(1, 15))),
}

# ---------------------------------------------------------------- others


def _between_convolutions(layer: Later) -> Later:
    """A layer of 32 channels, so that its width is inside the model."""
    convolution = "torch.nn:Conv2d"
    return later("torch.nn:Sequential", later(convolution, 3, 32, 1), layer, later(convolution, 32, 3, 1))


_HIERA: dict[str, Any] = {
    "input_size": (64, 64),
    "embed_dim": 32,
    "num_heads": 1,
    "stages": (1, 1, 1, 1),
    "num_classes": 10,
}

_OTHERS: Table = {
    "efficientnet_pytorch.b0": (
        later("efficientnet_pytorch:EfficientNet.from_name", "efficientnet-b0", num_classes=10),
        _PHOTO,
    ),
    "geffnet.mixnet_s": (later("geffnet:create_model", "mixnet_s", num_classes=10), _PHOTO),
    "geffnet.tf_mobilenetv3": (later("geffnet:create_model", "tf_mobilenetv3_small_100", num_classes=10), _PHOTO),
    "g_mlp_pytorch.vision": (
        later("g_mlp_pytorch:gMLPVision", image_size=32, patch_size=8, num_classes=10, dim=48, depth=2),
        _PATCH,
    ),
    "res_mlp_pytorch.resmlp": (
        later("res_mlp_pytorch:ResMLP", image_size=32, patch_size=8, num_classes=10, dim=48, depth=2),
        _PATCH,
    ),
    "mlp_mixer_pytorch.mixer": (
        later("mlp_mixer_pytorch:MLPMixer", image_size=32, channels=3, patch_size=8, num_classes=10, dim=48, depth=2),
        _PATCH,
    ),
    "lambda_networks.layer": (
        _between_convolutions(later("lambda_networks:LambdaLayer", 32, dim_k=8, r=5, heads=4)),
        _TINY,
    ),
    "halonet_pytorch.attention": (
        _between_convolutions(
            later("halonet_pytorch:HaloAttention", dim=32, block_size=8, halo_size=4, dim_head=16, heads=2)
        ),
        _TINY,
    ),
    "bottleneck_transformer_pytorch.stack": (
        later(
            "bottleneck_transformer_pytorch:BottleStack",
            dim=32,
            fmap_size=16,
            dim_out=64,
            heads=2,
            dim_head=16,
            num_layers=2,
            rel_pos_emb=True,
        ),
        partial(noise, 1, 32, 16, 16),
    ),
    "axial_attention.image_transformer": (
        later("axial_attention:AxialImageTransformer", dim=32, depth=1, heads=2, reversible=False),
        partial(noise, 1, 32, 8, 8),
    ),
    "x_clip.clip": (
        later(
            "x_clip:CLIP",
            dim_text=48,
            dim_image=48,
            dim_latent=48,
            num_text_tokens=64,
            text_enc_depth=1,
            text_seq_len=16,
            text_heads=4,
            text_dim_head=16,
            visual_enc_depth=1,
            visual_image_size=32,
            visual_patch_size=8,
            visual_heads=4,
            visual_dim_head=16,
        ),
        lambda: {"text": tokens(1, 16), "image": image(32), "return_encodings": True},
    ),
    "denoising_diffusion_pytorch.unet": (
        later("denoising_diffusion_pytorch:Unet", dim=16, dim_mults=(1, 2), attn_dim_head=8, attn_heads=2),
        lambda: (image(16), tokens(1).float()),
    ),
    "denoising_diffusion_pytorch.unet1d": (
        later("denoising_diffusion_pytorch:Unet1D", dim=16, dim_mults=(1, 2), attn_dim_head=8, attn_heads=2),
        lambda: (noise(1, 3, 32), tokens(1).float()),
    ),
    "hiera.hiera": (later("hiera:Hiera", **_HIERA), _PHOTO),
    "segment_anything.image_encoder": (
        later(
            "segment_anything.modeling:ImageEncoderViT",
            img_size=64,
            patch_size=8,
            embed_dim=48,
            depth=2,
            num_heads=4,
            out_chans=16,
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
        ),
        _PHOTO,
    ),
    "segment_anything.two_way_transformer": (
        later("segment_anything.modeling:TwoWayTransformer", depth=2, embedding_dim=32, num_heads=4, mlp_dim=64),
        lambda: (noise(1, 32, 4, 4), noise(1, 32, 4, 4).flip(0), noise(1, 5, 32)),
    ),
    "kornia.disk": (
        later("kornia.feature.disk._unets:Unet", in_features=3, size=5, down=[16, 32, 32], up=[32, 16]),
        _PATCH,
    ),
    "kornia.hardnet": (later("kornia.feature:HardNet", pretrained=False), partial(noise, 2, 1, 32, 32)),
    "kornia.sosnet": (later("kornia.feature:SOSNet", pretrained=False), partial(noise, 2, 1, 32, 32)),
    "kornia.tfeat": (later("kornia.feature:TFeat", pretrained=False), partial(noise, 2, 1, 32, 32)),
    "kornia.hynet": (later("kornia.feature:HyNet", pretrained=False), partial(noise, 2, 1, 32, 32)),
    "kornia.keynet": (later("kornia.feature:KeyNet", pretrained=False), partial(image, 32, 1, 1)),
    "kornia.dexined": (later("kornia.models.dexined:DexiNed", pretrained=False), _PHOTO),
    "kornia.rrdbnet": (
        later("kornia.models.rrdbnet:RRDBNet", num_in_ch=3, num_out_ch=3, num_feat=24, num_block=1, num_grow_ch=16),
        _TINY,
    ),
    "dynamic_network_architectures.resnetd": (
        later("dynamic_network_architectures.architectures.resnet:ResNetD", 10, 3, config="18"),
        _PHOTO,
    ),
}


def _named(library: str, table: Table) -> Table:
    return {f"{library}.{name}": entry for name, entry in table.items()}


TABLE: Table = {
    **_named("vit_pytorch", _VIT_PYTORCH),
    **_named("segmentation_models_pytorch", _SEGMENTATION),
    **_named("ultralytics", _ULTRALYTICS),
    **_named("pytorchcv", _PYTORCHCV),
    **_named("spandrel", _SPANDREL),
    **_named("open_clip", _OPEN_CLIP),
    **_OTHERS,
}
