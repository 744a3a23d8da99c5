"""Which layer an axis belongs to, where ``torch.nn.utils`` keeps a weight as other tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from graphprune.rules.labels import ParameterAxis


def layer_axis(axis: ParameterAxis, modules: Mapping[str, nn.Module]) -> ParameterAxis | None:
    """The axis of a layer's own parameter that an axis stands for.

    Masks, weight and spectral normalization keep a weight as a product or in parts, which mostly have its dimensions:
    ``weight_orig`` and ``weight_mask``, ``weight_g`` and ``weight_v``, ``parametrizations.weight.original``.

    Args:
        axis: of any parameter or buffer.
        modules: those of the model by their paths.

    Returns:
        The axis itself where a layer keeps its parameters as they are; None: it has no dimension of the layer's
        parameter, as the singular vectors of spectral normalization.
    """
    layer, parametrized, rest = f".{axis.parameter}".partition(".parametrizations.")
    if parametrized:
        name, _, part = rest.rpartition(".")
        return ParameterAxis(f"{layer}.{name}"[1:], axis.dim) if part.startswith("original") else None
    weight, _, part = axis.parameter.rpartition("_")
    name, module = weight.rpartition(".")[2], modules.get(axis.module)
    beside = {other for other in ("orig", "mask", "g", "v", "u") if hasattr(module, f"{name}_{other}")}
    if {"orig", "u"} <= beside and part in ("u", "v"):
        return None
    is_kept = any(part in parts <= beside for parts in ({"orig", "mask"}, {"g", "v"}, {"orig", "u"}))
    return ParameterAxis(weight, axis.dim) if is_kept else axis
