"""A second opinion: the dense model with zeros in place of all that was removed, run in float64.

Nothing of graphprune is used but what a plan says of itself. Where every removed channel is multiplied with removed
weights, or is 0 all the way, the outputs are those of the slim model. Normalizations that are modules take their
statistics over the channels that are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from graphprune import Plan


def zeroed(model: nn.Module, slim: nn.Module, plan: Plan) -> nn.Module:
    """Make all removed entries of a model 0."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in plan.kept and tensor.is_floating_point():
                tensor.mul_(plan.mask(name))
    for name, module in model.named_modules():
        kept = plan.kept.get(f"{name}.weight", {}).get(0)
        if kept is not None and isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
            module.forward = _over(module, torch.as_tensor(kept.copy()), slim.get_submodule(name))  # type: ignore[method-assign]
    return model


def _over(module: nn.Module, kept: Tensor, slim: nn.Module) -> Callable[[Tensor], Tensor]:
    """The normalization over kept channels only; 0 elsewhere."""

    def forward(x: Tensor) -> Tensor:
        dim = 1 if isinstance(module, nn.GroupNorm) else -1
        out = torch.zeros_like(x)
        part, weight = x.index_select(dim, kept), module.weight[kept]
        bias = None if getattr(module, "bias", None) is None else module.bias[kept]
        if isinstance(module, nn.GroupNorm):
            made = F.group_norm(part, slim.num_groups, weight, bias, module.eps)
        elif isinstance(module, nn.RMSNorm):
            made = F.rms_norm(part, (len(kept),), weight, module.eps)
        else:
            made = F.layer_norm(part, (len(kept),), weight, bias, module.eps)
        return out.index_copy(dim, kept, made)

    return forward


@contextmanager
def doubles() -> Iterator[None]:
    """New tensors are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """The output tensors, of inputs in float64; with gradients, so that no layer calls a fused kernel instead."""
    wide = [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs]
    with doubles():
        return [t.detach() for t in tree_flatten(model(*wide))[0] if isinstance(t, Tensor)]


def difference(model: nn.Module, slim: nn.Module, plan: Plan, inputs: tuple[Any, ...]) -> float:
    """The largest difference of an output, relative to its largest entry; infinite where shapes differ.

    Both models are changed: they are of no use afterwards.
    """
    masked = outputs(zeroed(model.double(), slim, plan), inputs)
    found = outputs(slim.double(), inputs)
    if [t.shape for t in masked] != [t.shape for t in found]:
        return float("inf")
    apart = [(a - b).abs().max() / a.abs().max().clamp(min=1e-12) for a, b in zip(masked, found, strict=True)]
    return max(map(float, apart))
