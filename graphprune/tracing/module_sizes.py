"""What modules of torch.nn say of their sizes: integers that their weights tell."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import is_parametrized


def module_sizes(module: nn.Module) -> dict[str, Any]:
    """The size attributes that a torch.nn module must have, given its tensors. Empty for other modules."""
    weight = _weight(module)
    if isinstance(module, nn.RNNBase):
        return _recurrent_sizes(module)
    if isinstance(module, nn.RNNCellBase):
        return {"hidden_size": module.weight_hh.shape[1], "input_size": module.weight_ih.shape[1]}
    if isinstance(module, nn.Bilinear):
        return dict(zip(("out_features", "in1_features", "in2_features"), weight.shape, strict=True))
    if isinstance(module, nn.Linear):
        return {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    if isinstance(module, _ConvNd):
        first, second = weight.shape[:2]
        inner, outer = (first, second) if module.transposed else (second, first)
        if module.transposed:
            return {"in_channels": inner, "out_channels": outer * module.groups}
        return {"in_channels": inner * module.groups, "out_channels": outer}
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
    if isinstance(module, _NormBase):
        vector = weight if weight is not None else module.running_mean
        return {} if vector is None else {"num_features": vector.shape[0]}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and weight is not None:
        return {"normalized_shape": tuple(weight.shape)}
    if isinstance(module, nn.GroupNorm) and weight is not None:
        return {"num_channels": weight.shape[0]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": weight.shape[0]}
    return {}


def _weight(module: nn.Module) -> Any:
    """The weight as it is in evaluation: looking at it must not take a step of a power iteration."""
    if "parametrizations" not in module._modules or not is_parametrized(module, "weight"):
        if "weight" in module._parameters and "weight" not in vars(module):  # torch would search longer
            return module._parameters["weight"]
        return getattr(module, "weight", None)
    training = module.training
    module.parametrizations.eval()  # type: ignore[union-attr]
    weight = module.weight
    module.parametrizations.train(training)  # type: ignore[union-attr]
    return weight


def _recurrent_sizes(module: nn.RNNBase) -> dict[str, int]:
    first, recurrent, *rest = module.all_weights[0]
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    return {
        "input_size": first.shape[1],
        "hidden_size": recurrent.shape[0] // gates,
        "proj_size": rest[-1].shape[0] if module.proj_size else 0,
    }
