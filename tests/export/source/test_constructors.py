"""The arguments of every layer of torch that builds from plain ones are found from an instance."""

from typing import Any

import pytest
import torch
from torch import nn

from graphprune.export.source.constructors import constructor_arguments

LAYERS: list[tuple[type[nn.Module], dict[str, Any]]] = [
    (nn.Linear, {"in_features": 3, "out_features": 5, "bias": False}),
    (nn.Bilinear, {"in1_features": 3, "in2_features": 4, "out_features": 5}),
    (nn.Conv1d, {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": "same", "groups": 2}),
    (nn.Conv2d, {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 1), "stride": 2, "padding": (1, 0)}),
    (nn.ConvTranspose2d, {"in_channels": 4, "out_channels": 6, "kernel_size": 2, "stride": 2, "bias": False}),
    (nn.BatchNorm2d, {"num_features": 4, "momentum": None, "affine": False}),
    (nn.BatchNorm1d, {"num_features": 4, "eps": 0.1, "track_running_stats": False}),
    (nn.GroupNorm, {"num_groups": 2, "num_channels": 4, "affine": False}),
    (nn.LayerNorm, {"normalized_shape": 8, "bias": False}),
    (nn.LayerNorm, {"normalized_shape": (4, 8), "elementwise_affine": False}),
    (nn.RMSNorm, {"normalized_shape": 8, "eps": 0.1}),
    (nn.Embedding, {"num_embeddings": 5, "embedding_dim": 3, "padding_idx": 0}),
    (nn.LSTM, {"input_size": 3, "hidden_size": 4, "num_layers": 2, "bidirectional": True, "proj_size": 2}),
    (nn.GRU, {"input_size": 3, "hidden_size": 4, "bias": False, "batch_first": True}),
    (nn.RNN, {"input_size": 3, "hidden_size": 4, "nonlinearity": "relu"}),
    (nn.LSTMCell, {"input_size": 3, "hidden_size": 4}),
    (nn.MultiheadAttention, {"embed_dim": 8, "num_heads": 2, "dropout": 0.1, "bias": False, "batch_first": True}),
    (nn.MultiheadAttention, {"embed_dim": 8, "num_heads": 2, "add_bias_kv": True, "kdim": 4, "vdim": 6}),
    (nn.MaxPool2d, {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    (nn.MaxPool2d, {"kernel_size": 2}),
    (nn.AvgPool2d, {"kernel_size": 2, "count_include_pad": False}),
    (nn.AdaptiveAvgPool2d, {"output_size": (1, None)}),
    (nn.Upsample, {"scale_factor": 2.0, "mode": "bilinear", "align_corners": True}),
    (nn.Dropout, {"p": 0.1}),
    (nn.Dropout, {}),
    (nn.ReLU, {"inplace": True}),
    (nn.Hardtanh, {"min_val": -2.0}),
    (nn.PReLU, {"num_parameters": 4}),
    (nn.GELU, {"approximate": "tanh"}),
    (nn.Softmax, {"dim": -1}),
    (nn.Flatten, {"start_dim": 2}),
    (nn.Unflatten, {"dim": 1, "unflattened_size": (2, 3)}),
    (nn.PixelShuffle, {"upscale_factor": 2}),
    (nn.ZeroPad2d, {"padding": (1, 0, 1, 0)}),
    (nn.Identity, {}),
    (nn.Tanh, {}),
]


@pytest.mark.parametrize(("kind", "arguments"), LAYERS)
def test_arguments_are_found(kind: type[nn.Module], arguments: dict[str, Any]) -> None:
    assert constructor_arguments(kind(**arguments), kind) == arguments


def test_sizes_that_no_constructor_makes() -> None:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.ones(3, 5))
    assert constructor_arguments(layer, nn.Linear) is None
    assert constructor_arguments(nn.TransformerEncoderLayer(8, 2), nn.TransformerEncoderLayer) is None
