"""Linear layers of the pattern 2:4 in the form that sparse tensor cores multiply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from graphprune.errors import InputError
from graphprune.sparsity.permanent import make_permanent
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import named_modules
from graphprune.utils.prune_masks import ORIGINAL

_TYPES = (torch.float16, torch.bfloat16)
_LEAST_CAPABILITY = (8, 0)
_NEEDED = "a CUDA device of compute capability 8.0 or higher (Ampere), with weights in float16 or bfloat16"


@dataclass(frozen=True)
class SemiStructured:
    """What :func:`to_semi_structured` converted: paths of modules, and of those that it left why."""

    converted: tuple[str, ...]
    left: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{path}: 2:4" for path in self.converted]
        return "\n".join([*lines, *(f"{path}: dense, {why}" for path, why in self.left.items())])


def to_semi_structured(model: nn.Module) -> SemiStructured:
    """Convert the linear layers whose weights have the pattern 2:4, in place, for inference on sparse tensor cores.

    Weights become tensors of ``torch.sparse.to_sparse_semi_structured``, of about half the memory. Layers without the
    pattern, or of a shape that torch does not take, stay dense. Masks of the converted layers are made permanent.

    Args:
        model: sparsified by ``graphprune.sparsify(model, "2:4")``, then moved to the device, in float16 or bfloat16.

    Raises:
        InputError: the device has no such units, or no layer can be converted. The model is unchanged.
    """
    check_model(model)
    layers = {path: module for path, module in named_modules(model) if isinstance(module, nn.Linear)}
    weights = {path: _weight(module).detach() for path, module in layers.items()}
    left = {path: "its weight does not have the pattern" for path, w in weights.items() if not has_pattern(w)}
    found = {path: weight for path, weight in weights.items() if path not in left}
    if not found:
        raise InputError(
            "model: no linear layer has the pattern 2:4",
            where=", ".join(list(layers)[:3]) or type(model).__name__,
            found=f"{len(layers)} linear layers, none with two zeros in every four weights",
            needed="linear layers with the pattern 2:4",
            do="call graphprune.sparsify(model, '2:4') first",
        )
    for path, weight in found.items():
        _check_device(path, weight)
    sparse: dict[str, Tensor] = {}
    for path, weight in found.items():
        try:
            sparse[path] = to_sparse_semi_structured(weight.contiguous())
        except RuntimeError as error:
            left[path] = " ".join(str(error).split())
    if not sparse:
        path, why = next((path, left[path]) for path in found)
        raise InputError(
            f"model: no layer can be converted; {path}: {why}",
            where=path,
            found=why,
            needed="shapes that torch.sparse.to_sparse_semi_structured takes",
            do="use layers whose rows and columns are multiples of 64",
        )
    for path, weight in sparse.items():
        make_permanent(layers[path]).weight = nn.Parameter(weight, requires_grad=False)
    return SemiStructured(tuple(sparse), left)


def has_pattern(weight: Tensor) -> bool:
    """Are at most 2 of every 4 entries along the inputs not zero? ``weight`` is [outputs, inputs]."""
    if weight.shape[1] % 4 or not weight.numel():
        return False
    return bool((weight.unflatten(1, (-1, 4)).count_nonzero(-1) <= 2).all())


def _weight(module: nn.Linear) -> Tensor:
    original = module._parameters.get(f"weight{ORIGINAL}")
    return module.weight if original is None else module.get_buffer("weight_mask") * original


def _check_device(path: str, weight: Tensor) -> None:
    """Raise an InputError unless the device multiplies such weights."""
    device = weight.device
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        raise InputError(
            f"model: {path}.weight is on {device}, which has no units for 2:4",
            where=f"{path}.weight",
            found=f"the device {device}",
            needed=_NEEDED,
            do="move the model to such a device; elsewhere zeros are multiplied as any other number: use "
            "graphprune.prune_model to be faster",
        )
    if weight.dtype not in _TYPES:
        raise InputError(
            f"model: {path}.weight is of {weight.dtype}",
            where=f"{path}.weight",
            found=str(weight.dtype),
            needed=_NEEDED,
            do="call model.half()",
        )
