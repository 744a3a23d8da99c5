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
    if isinstance(module, _NormBase):
        vector = weight if weight is not None else module.running_mean
        return {} if vector is None else {"num_features": vector.shape[0]}
    if weight is None:  # a hook makes it before each call
        return {}
    if isinstance(module, nn.Bilinear):
        return dict(zip(("out_features", "in1_features", "in2_features"), weight.shape, strict=True))
    if isinstance(module, nn.Linear):
        return {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    if isinstance(module, _ConvNd):
        first, second = weight.shape[:2]
        inner, outer = (first, second) if module.transposed else (second, first)
        kernel = {"kernel_size": tuple(weight.shape[2:])} if type(module.kernel_size) is tuple else {}
        if module.transposed:
            return {"in_channels": inner, "out_channels": outer * module.groups, **kernel}
        return {"in_channels": inner * module.groups, "out_channels": outer, **kernel}
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": tuple(weight.shape)}
    if isinstance(module, nn.GroupNorm):
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
    """The sizes of a recurrent layer, from those of its weights that are there: a hook may make some before a call."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_hr_l0")
    entering, *others, leaving = [getattr(module, name, None) for name in names]
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    of_gates = next((tensor for tensor in (entering, *others) if tensor is not None), None)
    sizes = {} if entering is None else {"input_size": entering.shape[1]}
    if of_gates is not None:
        sizes["hidden_size"] = of_gates.shape[0] // gates
    return sizes if leaving is None else {**sizes, "proj_size": leaving.shape[0]}
