"""The models that ``make sweep`` prunes, by zoo, all with random weights.

``zoo(name)`` maps a model's name to a function that builds it and its example inputs. Inputs are as small as
the architecture permits, because a sweep asks whether pruning is right, not how fast it is.
"""

from __future__ import annotations

from benchmarks.zoos import layers_zoo, networks_zoo, third_party_zoo, timm_zoo, torchvision_zoo, transformers_zoo
from benchmarks.zoos.common import Builder

_ZOOS = {
    "torchvision": torchvision_zoo.models,
    "timm": timm_zoo.models,
    "transformers": transformers_zoo.models,
    "layers": layers_zoo.models,
    "networks": networks_zoo.models,
    "third_party": third_party_zoo.models,
}
ZOOS = tuple(_ZOOS)

HEAVY = frozenset(
    "regnet_y_128gf regnet_y_32gf regnet_x_32gf vit_h_14 vit_l_16 vit_l_32 convnext_large convnext_base "
    "efficientnet_v2_l vgg16_bn vgg16 vgg19 vgg19_bn vgg13 vgg13_bn vgg11 vgg11_bn wide_resnet101_2 "
    "resnext101_64x4d resnext101_32x8d swin_v2_b swin_b regnet_y_16gf".split()
)
"""Models that are run alone, because several of them together would not fit into 24 GB."""

SAMPLE = {
    "torchvision": "resnet18 mobilenet_v2 densenet121 googlenet shufflenet_v2_x0_5 efficientnet_b0 convnext_tiny "
    "resnext50_32x4d vit_b_32 swin_t lraspp_mobilenet_v3_large raft_small".split(),
    "timm": "resnet18 resnext26ts mobilenetv3_small_050 convnext_atto vit_tiny_patch16_224 xcit_nano_12_p16_224 "
    "regnety_002 mixer_s32_224".split(),
    "transformers": "bert gpt2 llama_gqa vit t5 whisper albert deberta_v2 falcon phi3 deepseek_v3 mixtral mamba2 swin "
    "detr clip wav2vec2".split(),
    "layers": "lstm gru_packed_bidirectional weight_norm spectral_norm conv_transpose3d_grouped embedding_bag_mean "
    "attention_bias_kv_weights transformer_norm_first fourier_operator group_norm twice channels_last".split(),
    "networks": "unet c2f gat espcn fold_unfold deformable einsums nerf autograd_function scripted_module wavenet "
    "hypernetwork soft_experts".split(),
    "third_party": "timm.repvgg_a0-merged timm.mobileone_s0-merged timm.resnet18-reset timm.regnety_002-reset "
    "vit_pytorch.vit x_transformers.rotary monai.unet vector_quantize_pytorch.fsq torch_geometric.GCNConv".split(),
}
"""A fixed sample of every zoo, for the tests and a sweep of a few minutes."""


def zoo(name: str) -> dict[str, Builder]:
    """The builders of one zoo.

    Raises:
        KeyError: If ``name`` is not in ``ZOOS``.
    """
    return _ZOOS[name]()
