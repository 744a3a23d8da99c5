"""What each module holds: parameters, zeros, and the width of what it puts out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from graphprune.measurement.records import MeasuredLayer
from graphprune.utils.evaluation import preserve_modes
from graphprune.utils.modules import named_modules, output_dim
from graphprune.utils.prune_masks import ORIGINAL, prune_masks

_WIDTHS = ("out_channels", "out_features", "embedding_dim", "embed_dim", "nf", "hidden_size")
"""Attributes in which modules keep the number of channels that they put out, the most telling first."""


def layer_sizes(model: nn.Module) -> tuple[MeasuredLayer, ...]:
    """What each module holds, in the order of the model; tied parameters are those of the first that has them."""
    seen: set[int] = set()
    found = []
    for path, module in named_modules(model):
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            continue  # the module that it belongs to counts it
        tensors = [t for t in _own_parameters(module) if id(t) not in seen]
        count = sum(t.numel() for t in tensors)
        found.append(MeasuredLayer(path, _kind(module), count, _nonzero(module, seen), _width(module)))
        seen |= {id(t) for t in tensors}
    return tuple(found)


def with_costs(
    layers: Iterable[MeasuredLayer], macs: Mapping[str, int] | None, seconds: Mapping[str, float]
) -> tuple[MeasuredLayer, ...]:
    """The layers that hold parameters, compute or took time, with what they took.

    Args:
        layers: of all modules.
        macs: by the path of a module; None: not known.
        seconds: by the path of a module.
    """
    known = (
        replace(one, macs=None if macs is None else macs.get(one.name, 0), seconds=seconds.get(one.name))
        for one in layers
    )
    return tuple(one for one in known if one.parameters or one.macs or one.seconds is not None)


def _own_parameters(module: nn.Module) -> Iterator[Tensor]:
    """Those of the module itself, and what parametrizations keep for it."""
    yield from module.parameters(recurse=False)
    yield from (tensor for _, tensor in _parametrized(module))


def _parametrizations(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """By the name of a tensor, what makes it."""
    made_by = module._modules.get("parametrizations") if is_parametrized(module) else None
    return [] if made_by is None else list(made_by.named_children())


def _kind(module: nn.Module) -> str:
    """The class; that which parametrizations derive from another is called after it."""
    kind = type(module)
    return (kind.__mro__[1] if is_parametrized(module) else kind).__name__


def _nonzero(module: nn.Module, seen: set[int]) -> int | None:
    """Entries of own parameters that are not zero where they are used; those of ``seen`` count elsewhere."""
    masks = {f"{name}{ORIGINAL}": mask for name, mask in prune_masks(module)}
    count = 0
    if any(parameter.is_meta for parameter in _own_parameters(module)):
        return None
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) not in seen:
            count += nonzero_entries(parameter, masks.get(name))
    return count + _nonzero_parametrized(module, seen)


def _nonzero_parametrized(module: nn.Module, seen: set[int]) -> int:
    """Of a tensor that a parametrization makes from one of its shape, as it is used; else of what it is made from."""
    count = 0
    with preserve_modes(module), torch.no_grad():
        for name, made_by in _parametrizations(module):
            own = [p for p in made_by.parameters() if id(p) not in seen]
            made_by.eval()  # a power iteration would take a step
            used = getattr(module, name)
            alone = len(own) == 1 and own[0].shape == used.shape
            count += sum(nonzero_entries(tensor) for tensor in ([used] if alone else own))
    return count


def nonzero_entries(tensor: Tensor, mask: Tensor | None = None) -> int:
    """Entries that are not zero, of a quantized tensor too; what ``mask`` has zeros for counts as zero."""
    values = ordinary(tensor)
    return int(torch.count_nonzero(values if mask is None else (values != 0) & (mask != 0)))


def ordinary(tensor: Tensor) -> Tensor:
    """The values of a parameter that may be quantized, sparse or of one byte each, for torch to compute with."""
    tensor = tensor.detach()
    if tensor.is_quantized or hasattr(type(tensor), "__tensor_flatten__"):
        return tensor.dequantize()
    if tensor.layout is not torch.strided:
        return tensor.to_dense()
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _width(module: nn.Module) -> int | None:
    """How many channels the module puts out, by its weight; None: it has no weight matrix."""
    named = [*module.named_parameters(recurse=False), *_parametrized(module)]
    matrix = next((tensor for name, tensor in named if tensor.ndim > 1 and "weight" in name), None)
    if matrix is None:
        return None
    stated = (getattr(module, name, None) for name in _WIDTHS)
    width = next((value for value in stated if type(value) is int), None)
    if width is not None:
        return width
    return int(matrix.shape[output_dim(type(module))])


def _parametrized(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What parametrizations make tensors of, by the name of those."""
    for name, made_by in _parametrizations(module):
        yield from ((name, tensor) for tensor in made_by.parameters())
