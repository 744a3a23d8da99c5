"""Libraries for medical images, in two and three dimensions."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks.zoos.third_party.later import Later, Table, later, noise

_FLAT, _VOLUME, _CUBE = partial(noise, 1, 1, 32, 32), partial(noise, 1, 1, 16, 16, 16), partial(noise, 1, 1, 32, 32, 32)
_TWO: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}
_THREE: dict[str, Any] = _TWO | {"spatial_dims": 3}
_STEPS: dict[str, Any] = {"channels": (16, 24, 32), "strides": (2, 2)}
_FEATURES = (16, 16, 24, 32, 48, 16)
_VIT: dict[str, Any] = {"in_channels": 1, "img_size": 32, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}
_DIFFUSION: dict[str, Any] = {
    "num_res_blocks": 1,
    "channels": (16, 32),
    "attention_levels": (False, True),
    "norm_num_groups": 8,
}


def _net(name: str, **options: Any) -> Later:
    return later(f"monai.networks.nets:{name}", **options)


class LastOutput(nn.Module):
    """A model without its intermediate results."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[-1]


_MONAI: Table = {
    "unet": (_net("UNet", **_TWO, **_STEPS), _FLAT),
    "unet_residual_3d": (_net("UNet", **_THREE, **_STEPS, num_res_units=2, norm="batch"), _VOLUME),
    "attention_unet": (_net("AttentionUnet", **_TWO, **_STEPS), _FLAT),
    "autoencoder": (
        _net("AutoEncoder", **_TWO, channels=(16, 24), strides=(2, 2), num_res_units=1, inter_channels=[32, 32]),
        _FLAT,
    ),
    "var_autoencoder": (
        _net(
            "VarAutoEncoder",
            spatial_dims=2,
            in_shape=(1, 32, 32),
            out_channels=1,
            latent_size=8,
            channels=(16, 24),
            strides=(2, 2),
        ),
        _FLAT,
    ),
    "basic_unet": (_net("BasicUNet", **_THREE, features=_FEATURES), _CUBE),
    "basic_unet_plus_plus": (_net("BasicUNetPlusPlus", **_TWO, features=_FEATURES), _FLAT),
    "densenet": (_net("DenseNet", **_TWO, init_features=16, growth_rate=8, block_config=(2, 2)), _FLAT),
    "dynunet": (
        _net(
            "DynUNet",
            **_TWO,
            kernel_size=[3, 3, 3],
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            filters=[16, 24, 32],
            res_block=True,
        ),
        _FLAT,
    ),
    "efficientnet": (
        _net("EfficientNetBN", model_name="efficientnet-b0", pretrained=False, in_channels=1, num_classes=3),
        _FLAT,
    ),
    "flexible_unet": (
        _net(
            "FlexibleUNet",
            in_channels=1,
            out_channels=3,
            backbone="efficientnet-b0",
            decoder_channels=(64, 32, 24, 16, 16),
        ),
        _FLAT,
    ),
    "highresnet": (_net("HighResNet", **_TWO), _FLAT),
    "mednext": (_net("MedNeXt", **_TWO, init_filters=16, kernel_size=3), _FLAT),
    "quicknat": (_net("Quicknat", num_classes=3, num_filters=16, kernel_size=3), _FLAT),
    "resnet_3d": (_net("resnet10", spatial_dims=3, n_input_channels=1, num_classes=3), _VOLUME),
    "segresnet": (_net("SegResNet", **_TWO, init_filters=16, blocks_down=(1, 1, 1), blocks_up=(1, 1)), _FLAT),
    "segresnet_ds": (_net("SegResNetDS", **_TWO, init_filters=16, blocks_down=(1, 1, 1)), _FLAT),
    "segresnet_vae": (
        _net(
            "SegResNetVAE",
            **_TWO,
            input_image_size=(32, 32),
            init_filters=16,
            vae_nz=16,
            blocks_down=(1, 1, 1),
            blocks_up=(1, 1),
        ),
        _FLAT,
    ),
    "seresnet50": (_net("SEResNet50", spatial_dims=2, in_channels=1, num_classes=3), partial(noise, 1, 1, 64, 64)),
    "swin_unetr": (
        _net(
            "SwinUNETR",
            in_channels=1,
            out_channels=3,
            spatial_dims=2,
            feature_size=24,
            depths=(1, 1, 1, 1),
            window_size=4,
        ),
        partial(noise, 1, 1, 64, 64),
    ),
    "unetr": (_net("UNETR", **_VIT, out_channels=3, feature_size=16, spatial_dims=2), _FLAT),
    "vit": (
        _net("ViT", **_VIT, patch_size=8, num_layers=2, classification=True, num_classes=3, spatial_dims=2),
        _FLAT,
    ),
    "vit_autoencoder": (_net("ViTAutoEnc", **_VIT, patch_size=16, num_layers=2, spatial_dims=2), _FLAT),
    "vnet": (_net("VNet", **_TWO, dropout_dim=2), _FLAT),
    "voxelmorph": (
        _net(
            "VoxelMorphUNet",
            spatial_dims=2,
            in_channels=2,
            unet_out_channels=16,
            channels=(16, 16, 16, 16, 16, 16),
            final_conv_channels=(16, 16),
        ),
        partial(noise, 1, 2, 32, 32),
    ),
    "regunet": (
        _net("RegUNet", spatial_dims=2, in_channels=2, num_channel_initial=16, depth=2, out_channels=2),
        partial(noise, 1, 2, 32, 32),
    ),
    "localnet": (
        _net(
            "LocalNet", spatial_dims=2, in_channels=2, num_channel_initial=16, extract_levels=(0, 1, 2), out_channels=2
        ),
        partial(noise, 1, 2, 32, 32),
    ),
    "globalnet": (
        _net("GlobalNet", image_size=[32, 32], spatial_dims=2, in_channels=2, num_channel_initial=16, depth=2),
        partial(noise, 1, 2, 32, 32),
    ),
    "ahnet": (
        _net("AHNet", spatial_dims=2, in_channels=1, out_channels=3, layers=(1, 1, 1, 1), upsample_mode="bilinear"),
        partial(noise, 1, 1, 128, 128),
    ),
    "hovernet": (
        _net("HoVerNet", mode="fast", out_classes=3),
        partial(noise, 1, 3, 256, 256),
    ),
    "classifier": (_net("Classifier", in_shape=(1, 32, 32), classes=3, **_STEPS), _FLAT),
    "regressor": (_net("Regressor", in_shape=(1, 32, 32), out_shape=(2,), **_STEPS), _FLAT),
    "generator": (
        _net("Generator", latent_shape=(12,), start_shape=(16, 4, 4), channels=(24, 16, 1), strides=(2, 2, 1)),
        partial(noise, 1, 12),
    ),
    "fully_connected": (
        _net("FullyConnectedNet", in_channels=12, out_channels=3, hidden_channels=[32, 24]),
        partial(noise, 1, 12),
    ),
    "autoencoder_kl": (
        _net("AutoencoderKL", spatial_dims=2, **_DIFFUSION, latent_channels=3),
        _FLAT,
    ),
    "diffusion_unet": (
        _net("DiffusionModelUNet", spatial_dims=2, in_channels=1, out_channels=1, **_DIFFUSION, num_head_channels=8),
        lambda: (noise(1, 1, 16, 16), noise(1).abs()),
    ),
    "vqvae": (
        _net(
            "VQVAE",
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(16, 32),
            num_res_layers=1,
            num_res_channels=(16, 32),
            downsample_parameters=((2, 4, 1, 1),) * 2,
            upsample_parameters=((2, 4, 1, 1, 0),) * 2,
            num_embeddings=16,
            embedding_dim=16,
        ),
        _FLAT,
    ),
    "patch_discriminator": (
        Later(
            "benchmarks.zoos.third_party.medical:LastOutput",
            (_net("PatchDiscriminator", spatial_dims=2, channels=16, in_channels=1, out_channels=1, num_layers_d=2),),
        ),
        _FLAT,
    ),
    "decoder_only": (
        _net(
            "DecoderOnlyTransformer",
            num_tokens=64,
            max_seq_len=32,
            attn_layers_dim=48,
            attn_layers_depth=2,
            attn_layers_heads=4,
        ),
        lambda: noise(1, 32).argsort(),
    ),
}

_UNET: dict[str, Any] = {
    "input_channels": 1,
    "n_stages": 3,
    "features_per_stage": [16, 24, 32],
    "conv_op": nn.Conv2d,
    "kernel_sizes": 3,
    "strides": [1, 2, 2],
    "num_classes": 3,
    "n_conv_per_stage_decoder": 1,
    "norm_op": nn.InstanceNorm2d,
    "norm_op_kwargs": {"affine": True},
    "nonlin": nn.LeakyReLU,
}
_NNUNET = "dynamic_network_architectures.architectures.unet"

TABLE: Table = {
    **{f"monai.{name}": entry for name, entry in _MONAI.items()},
    "dynamic_network_architectures.plain_unet": (
        later(f"{_NNUNET}:PlainConvUNet", **_UNET, n_conv_per_stage=1, conv_bias=True),
        _FLAT,
    ),
    "dynamic_network_architectures.residual_unet": (
        later(f"{_NNUNET}:ResidualEncoderUNet", **_UNET, n_blocks_per_stage=1, conv_bias=True, deep_supervision=True),
        _FLAT,
    ),
}
