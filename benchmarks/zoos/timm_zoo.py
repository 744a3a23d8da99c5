"""timm, with random weights: every module file of ``timm.models``. Inputs are as small as the architecture permits."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.zoos.common import SMALL_IMAGE, Builder, Example, image

CLASSES = 10

_ANY_SIZE = """
    cs3darknet_focus_s cs3darknet_s cs3se_edgenet_x cspresnet50 cspnext_tiny darknet53 darknetaa53 convmixer_768_32
    convnext_atto convnext_zepto_rms convnextv2_atto test_convnext3 cpubone_nano densenet121 densenetblur121d dla34
    dla46x_c dpn48b ecaresnet26t ecaresnet50d_pruned edgenext_xx_small efficientnet_b0 efficientnet_b1_pruned
    efficientnet_blur_b0 efficientnet_cc_b0_4e efficientnet_es efficientnetv2_rw_t gc_efficientnetv2_rw_t
    mnasnet_small mixnet_s mobilenetv1_100 mobilenetv2_100 test_efficientnet_evos test_efficientnet_gn
    test_efficientnet_ln tf_efficientnet_b0 tf_mixnet_s tinynet_e fbnetv3_b lcnet_035 mobilenetv3_large_100
    mobilenetv3_small_050 mobilenetv4_conv_aa_medium mobilenetv4_conv_blur_medium mobilenetv4_conv_small_035
    mobilenetv4_hybrid_medium_075 efficientvim_m1 ese_vovnet19b_dw eca_vovnet39b vovnet39a fasternet_t0
    gcresnext26ts gernet_s mobileone_s1 regnetz_b16 regnetz_b16_evos repvgg_a0 resnet50_clip resnet50_mlp resnet51q
    resnext26ts test_byobnet ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0
    hieradet_small sam2_hiera_tiny hrnet_w18_small iformer_m_distilled inception_next_atto lambda_resnet26t
    lcnetv2_small legacy_seresnet18 legacy_xception lowformer_b0 mambaout_femto nextvit_small eca_nfnet_l0
    nf_ecaresnet26 nfnet_f0 test_nfnet rdnet_tiny regnetx_002 regnety_002 regnety_040_sgn repghostnet_050
    repvit_m0_9 res2net50_26w_4s resnest14d resnet18 resnet26d resnet50 resnet50_gn resnetblur18 resnetrs50
    resnext50_32x4d seresnext26d_32x4d test_resnet resnetv2_50 resnetv2_50d_evos resnetv2_50d_frn resnetv2_50d_gn
    resnetv2_50x1_bit rexnet_100 selecsls42b skresnet18 skresnext50_32x4d starnet_s050 tresnet_m vgg11_bn xception41
    csatv2 caformer_s18 poolformer_s12 poolformerv2_s12 davit_tiny efficientvit_b0 efficientvit_l1 fastvit_sa12
    fastvit_t8 focalnet_tiny_srf mobilevitv2_050 mvitv2_small_cls pvt_v2_b0 pvt_v2_b2_li shvit_s1
    vit_tiny_patch16_dinov3_qkvb xcit_nano_12_p8_224
""".split()

_RESIZED = """
    beit_base_patch16_224 coat_tiny eca_botnext26ts_256 lambda_resnet26rpt_256 sebotnet33ts_256
    eva02_small_patch14_224 vit_medium_patch16_rope_reg1_gap_256 vit_pe_core_tiny_patch16_384
    vit_pe_spatial_tiny_patch16_512 vit_small_patch16_rope_mixed_ape_224 gcvit_xtiny hiera_small_abswin_256
    levit_conv_128s coatnet_0_224 coatnet_nano_cc_224 coatnext_nano_rw_224 maxvit_tiny_tf_224
    maxxvit_rmlp_nano_rw_256 maxxvitv2_nano_rw_256 test_coatnet test_maxvit gmixer_12_224 gmlp_ti16_224 nest_tiny_jx
    pit_ti_distilled_224 samvit_base_patch16_224 swinv2_cr_tiny_ns_224 swinv2_tiny_window16_256
    tnt_s_legacy_patch16_224 flexivit_small test_vit test_vit3 vit_dpwee_patch16_reg1_gap_256
    vit_pwee_patch16_reg1_gap_256 vit_small_patch14_reg4_dinov2 vit_xsmall_patch16_clip_224 vit_small_r26_s32_224
    vit_tiny_r_s16_p8_224 test_vit_relpos vit_relpos_medium_patch16_cls_224 vit_relpos_small_patch16_rpn_224
    vit_srelpos_small_patch16_224 vitamin_small_224
""".split()
"""With ``img_size=`` the small image."""

_NATIVE = """
    vit_tiny_patch16_224 vit_small_patch32_224 deit_tiny_patch16_224 deit_tiny_distilled_patch16_224
    deit3_small_patch16_224 swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 mixer_s32_224 resmlp_12_224
    xcit_nano_12_p16_224 cait_xxs24_224 twins_svt_small twins_pcpvt_small coat_lite_tiny convit_tiny crossvit_9_240
    pit_ti_224 levit_128s mobilevit_xxs efficientformer_l1 efficientformerv2_s0 maxvit_rmlp_pico_rw_256
    coatnet_pico_rw_224 nest_tiny tnt_s_patch16_224 visformer_tiny volo_d1_224 efficientvit_m0 gcvit_xxtiny
    hiera_tiny_224 mvitv2_tiny swiftformer_xs tiny_vit_5m_224 eva02_tiny_patch14_224 sequencer2d_s
    vit_relpos_small_patch16_224 botnet26t_256 halonet_h1 eca_halonext26ts haloregnetz_b bat_resnext26ts
""".split()
"""The size of image that the architecture was made for."""

_AT_SIZE = {
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
    "nasnetalarge": 96,
    "pnasnet5large": 96,
    "lamhalobotnet50ts_256": 128,
    "deepseek_vit_412m": 56,
    "gemma4_vit_167m": 96,
    "mobilenetv5_base": 64,
    "naflexvit_base_patch16_map": 64,
    "qwen3_vit_88m": 64,
    "qwen3_vit_88m_merge": 64,
}

_OPTIONS: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2},
    "deepseek_vit_412m": {"depth": 2},
    "gemma4_vit_167m": {"depth": 2},
    "lamhalobotnet50ts_256": {"img_size": 128},
    "mobilenetv5_base": {"channel_multiplier": 0.5},
    "naflexvit_base_patch16_map": {"depth": 2},
    "qwen3_vit_88m": {"depth": 2},
    "qwen3_vit_88m_merge": {"depth": 2},
    "samvit_base_patch16_224": {"depth": 3},
}
"""What makes an architecture, of which even the smallest member is large, a small one."""


def models() -> dict[str, Builder]:
    """Members of all families of timm, small ones."""
    sizes: dict[str, int | None] = dict.fromkeys(_ANY_SIZE, SMALL_IMAGE) | dict.fromkeys(_NATIVE, None) | _AT_SIZE
    built: dict[str, Builder] = {name: partial(_build, name, sizes[name]) for name in sizes}
    return built | {name: partial(_build, name, SMALL_IMAGE, img_size=SMALL_IMAGE) for name in _RESIZED}


def _build(name: str, size: int | None, **options: Any) -> Example:
    """A model and its image; one that gives features is given a head, since an output's width cannot change."""
    import timm

    config = timm.get_pretrained_cfg(name)
    head = {} if config.num_classes else {"num_classes": CLASSES}
    model = timm.create_model(name, pretrained=False, **options, **head, **_OPTIONS.get(name, {}))
    return model, image(size or config.input_size[-1])
