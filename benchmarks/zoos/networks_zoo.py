"""The odd networks: whole designs that the big zoos do not have, each as small as it can be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoos import networks_more as more
from benchmarks.zoos import networks_programs as programs
from benchmarks.zoos import networks_tokens as tokens
from benchmarks.zoos import networks_vision as vision
from benchmarks.zoos.common import Builder, Example, image


def models() -> dict[str, Builder]:
    """Small networks by design."""
    table = {**_VISION, **_TOKENS, **_GRAPHS, **_MORE, **_PROGRAMS}
    return {name: partial(_example, make, inputs) for name, (make, inputs) in table.items()}


def _example(make: Callable[[], nn.Module], inputs: Callable[[], Any]) -> Example:
    return make(), inputs()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _graph() -> tuple[Tensor, Tensor]:
    """Ten nodes with twelve features and thirty edges [from, to]."""
    edges = torch.randint(10, (30, 2), generator=torch.Generator().manual_seed(0))
    return noise(10, 12), edges


Table = dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]]
_IMAGE, _LARGE = partial(image, 16, 2), partial(image, 32, 2)
_ROWS, _SEQUENCE, _WAVE = partial(noise, 2, 12), partial(noise, 2, 8, 12), partial(noise, 2, 4, 16)


def _in(block: Callable[..., nn.Module], *sizes: int) -> Callable[[], nn.Module]:
    """A block of 32 channels between a convolution and a classifier."""
    return lambda: vision.network(block(*sizes))


def _kan(basis: str) -> nn.Module:
    return nn.Sequential(tokens.Kan(12, 24, basis), tokens.Kan(24, 16, basis), tokens.Kan(16, 5, basis))


def _dense() -> nn.Module:
    return nn.Sequential(vision.conv(3, 16), vision.DenseBlock(16, 12, 3), vision.conv(52, 32), vision.Head(32))


def _c2f() -> nn.Module:
    return nn.Sequential(vision.conv(3, 24), vision.C2f(24, 32), vision.C3(32, 32), vision.Sppf(32), vision.Head(32))


def _reversible() -> nn.Module:
    blocks = (programs.ReversibleBlock(32) for _ in range(2))
    return nn.Sequential(nn.Linear(12, 32), *blocks, nn.Linear(32, 5))


_VISION: Table = {
    "espcn": (partial(vision.SuperResolution, False), _IMAGE),
    "pixel_shuffle": (partial(vision.SuperResolution, True), _IMAGE),
    "pixel_unshuffle": (vision.SpaceToDepth, _IMAGE),
    "fold_unfold": (vision.FoldUnfold, _IMAGE),
    "deformable": (vision.Deformable, _IMAGE),
    "deformable_groups": (partial(vision.Deformable, 2), _IMAGE),
    "spatial_transformer": (vision.SpatialTransformer, _IMAGE),
    "sampled_attention": (vision.SampledAttention, _IMAGE),
    "unet": (partial(vision.UNet, False), _IMAGE),
    "attention_unet": (partial(vision.UNet, True), _IMAGE),
    "dense_block": (_dense, _IMAGE),
    "c2f": (_c2f, _IMAGE),
    "detector": (vision.Detector, _LARGE),
    "squeeze_excite": (_in(vision.SqueezeExcite, 32, 16), _IMAGE),
    "cbam": (_in(vision.Cbam, 32, 16), _IMAGE),
    "selective_kernel": (_in(vision.SelectiveKernel, 32), _IMAGE),
    "aspp": (_in(vision.Aspp, 32, 32), _IMAGE),
    "fpn": (vision.Fpn, _LARGE),
    "bifpn": (vision.BiFpn, _LARGE),
    "involution": (_in(vision.Involution), _IMAGE),
    "shift": (_in(vision.Shift), _IMAGE),
    "acmix": (_in(vision.AcMix), _IMAGE),
    "channel_shuffle": (_in(nn.ChannelShuffle, 4), _IMAGE),
    "capsules": (vision.Capsules, _IMAGE),
    "vae": (vision.Vae, _IMAGE),
    "film": (vision.Film, lambda: (image(16, 2), noise(2, 8))),
    "modulated_conv": (vision.Styled, lambda: (image(16, 2), noise(2, 8))),
    "adain": (vision.AdaIn, lambda: (image(16, 2), noise(2, 3, 16, 16, seed=1))),
}

_TOKENS: Table = {
    "einsums": (tokens.Einsums, partial(image, 4, 2)),
    "mlp_mixer": (tokens.Mixer, _IMAGE),
    "wavenet": (tokens.WaveNet, _WAVE),
    "tcn": (tokens.Tcn, _WAVE),
    "soft_experts": (tokens.SoftExperts, _ROWS),
    "fused_experts": (tokens.FusedExperts, _ROWS),
    "perceiver": (tokens.Perceiver, _SEQUENCE),
    "linear_attention": (tokens.LinearAttention, _SEQUENCE),
    "conformer_conv": (tokens.ConformerConv, _SEQUENCE),
    "kan_fourier": (partial(_kan, "fourier"), _ROWS),
    "kan_splines": (partial(_kan, "splines"), _ROWS),
    "hopfield": (tokens.Memory, _SEQUENCE),
    "hypernetwork": (tokens.HyperNetwork, lambda: (noise(2, 12), noise(2, 8, seed=1))),
    "nerf": (tokens.Nerf, lambda: (noise(6, 3), noise(6, 3, seed=1))),
    "pointnet": (tokens.PointNet, partial(noise, 2, 3, 20)),
    "edge_conv": (tokens.EdgeConv, partial(noise, 2, 3, 12)),
    "token_drop": (tokens.TokenDrop, _SEQUENCE),
    "image_tokens": (tokens.ImageTokens, lambda: (torch.tensor([[1, 7, 7, 3], [7, 2, 0, 7]]), noise(2, 2, 12))),
    "slot_attention": (tokens.SlotAttention, _SEQUENCE),
}

_GRAPHS: Table = {
    "gcn_index_add": (partial(tokens.Gcn, "index_add"), _graph),
    "gcn_scatter_add": (partial(tokens.Gcn, "scatter_add"), _graph),
    "gcn_zeros": (partial(tokens.Gcn, "zeros"), _graph),
    "gat": (tokens.Gat, _graph),
    "gin": (tokens.Gin, _graph),
}

_MORE: Table = {
    "vector_quantizer": (more.VectorQuantiser, _IMAGE),
    "coupling_flow": (more.CouplingFlow, _ROWS),
    "conv_lstm": (more.ConvLstm, _IMAGE),
    "neighborhood": (more.Neighborhood, _IMAGE),
    "focus": (more.Focus, _IMAGE),
    "adapters": (more.Adapted, _SEQUENCE),
    "gumbel_choice": (more.GumbelChoice, _ROWS),
    "set_pooling": (more.SetPooling, lambda: (noise(2, 8, 12), noise(2, 8, seed=1) > -1)),
    "bilinear_pooling": (more.BilinearPooling, _IMAGE),
}

_PROGRAMS: Table = {
    "autograd_function": (programs.CustomGradient, _ROWS),
    "reversible": (_reversible, _ROWS),
    "scripted_module": (programs.Scripted, _ROWS),
    "scripted_function": (programs.ScriptedFunction, _ROWS),
    "scripted_sizes": (programs.ScriptedSizes, _ROWS),
    "siamese": (programs.Siamese, lambda: (image(16, 2), noise(2, 3, 16, 16, seed=1))),
    "multi_task": (programs.MultiTask, _IMAGE),
    "dataclass_output": (programs.DataclassOutput, _IMAGE),
    "shape_dependent": (programs.ShapeDependent, partial(image, 14, 2)),
    **{
        f"flatten_{way}": (partial(programs.ReshapeHead, way), _IMAGE)
        for way in ("reshape", "view", "product", "channels_last", "flatten")
    },
    "split_sizes": (programs.SplitSizes, _ROWS),
    "sliced_halves": (programs.SlicedHalves, _ROWS),
    "shared_weights": (programs.SharedWeights, _ROWS),
    "checkpoint": (programs.Checkpointed, _ROWS),
    "parametrized": (programs.Parametrized, _IMAGE),
}
