"""timm, with random weights. Inputs are as small as the architecture permits."""

from __future__ import annotations

from functools import partial

from benchmarks.zoos.common import SMALL_IMAGE, Builder, Example, image

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


def models() -> dict[str, Builder]:
    """One or two small members of about a hundred families of timm."""
    small = {name: partial(_build, name, SMALL_IMAGE) for name in _TIMM_CNNS}
    small["inception_v4"] = partial(_build, "inception_v4", 160)
    small["pnasnet5large"] = partial(_build, "pnasnet5large", 160)
    return small | {name: partial(_build, name, None) for name in _TIMM_NATIVE}


def _build(name: str, size: int | None) -> Example:
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, image(size or model.pretrained_cfg["input_size"][-1])
