"""Facts that are read off a graph and its weights, without a run of the model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.advice.facts import BlockFacts, FrozenFacts, GroupFacts, ModelFacts
from graphprune.api import ChannelGraph
from graphprune.graph.candidates import candidates
from graphprune.graph.frozen import frozen_by_reason
from graphprune.pruning.plan import plans_of
from graphprune.rules.registry import macs_of
from graphprune.utils.arrays import Mask
from graphprune.utils.modules import named_modules
from graphprune.utils.prune_masks import ORIGINAL, prune_masks

_FROZEN_SHOWN = 5


def read_facts(graph: ChannelGraph) -> ModelFacts:
    """What a graph says about its model."""
    model, cost = graph.model, graph.cost()
    tensors = [*model.parameters(), *model.buffers()]
    channels, weights = _zeros(model)
    free, _ = candidates(graph)
    products = graph.costs.products
    return ModelFacts(
        model=type(model).__name__,
        macs=cost.macs,
        params=cost.params,
        bytes=cost.bytes,
        prunable=_pair(graph.costs.dependent(free)),
        ends=(_part(products[:1], products), _part(products[-1:], products)),
        groups=_groups(graph, free),
        frozen=_frozen(graph),
        blocks=_blocks(graph),
        batch_norms=sum(getattr(module, "running_var", None) is not None for _, module in named_modules(model)),
        zero_channels=channels,
        zero_weights=weights,
        pruned=bool(plans_of(model)),
        configured=getattr(type(model), "config_class", None) is not None,
        tokens=any(not t.is_floating_point() for call in graph.examples for t in call.tensors),
        on_meta=any(t.is_meta for t in tensors),
        device=str(tensors[0].device) if tensors else "cpu",
        low_precision=any(p.is_floating_point() and p.element_size() <= 2 for p in model.parameters()),
    )


def _pair(values: np.ndarray) -> tuple[float, float]:
    macs, params = values.tolist()
    return macs, params


def _part(some: np.ndarray, whole: np.ndarray) -> float:
    return float(some.sum() / max(whole.sum(), 1.0))


def _groups(graph: ChannelGraph, free: Mask) -> tuple[GroupFacts, ...]:
    """The groups of which something may go."""
    macs, params = graph.costs.shares(graph.units).tolist()
    return tuple(
        GroupFacts(group.name, group.role, group.units, macs[number], params[number])
        for number, group in enumerate(graph.groups)
        if free[group.unit_ids].any()
    )


def _frozen(graph: ChannelGraph) -> tuple[FrozenFacts, ...]:
    found = list(frozen_by_reason(graph.frozen).items())[:_FROZEN_SHOWN]
    return tuple(FrozenFacts(" ".join(why.split()), len(axes), str(axes[0].axis)) for why, axes in found)


def _blocks(graph: ChannelGraph) -> tuple[BlockFacts, ...]:
    """The residual blocks, with their parts of the MACs."""
    counted = [node for node in graph.nodes_without(()) if macs_of(node.target) is not None]
    products = graph.costs.products
    found = []
    for block in graph.blocks:
        inside = np.array([node in block.nodes for node in counted], bool)
        found.append(BlockFacts(block.path, _part(products[inside], products)))
    return tuple(found)


def _zeros(model: nn.Module) -> tuple[float | None, float | None]:
    """The part of the rows of weights that are zero, and of single weights; None: there are no weights to look at."""
    rows = empty_rows = weights = zeros = 0
    with torch.no_grad():
        for weight in _weights(model):
            if weight.is_meta:
                return None, None
            zero = (weight == 0).flatten(1)
            rows, empty_rows = rows + len(zero), empty_rows + int(zero.all(1).sum())
            weights, zeros = weights + zero.numel(), zeros + int(zero.sum())
    return empty_rows / max(rows, 1), zeros / max(weights, 1)


def _weights(model: nn.Module) -> list[Tensor]:
    """All floating-point parameters of two and more dimensions, as masks of ``torch.nn.utils.prune`` leave them."""
    found: dict[int, Tensor] = {}
    for _, module in named_modules(model):
        masks = {plain + ORIGINAL: mask for plain, mask in prune_masks(module)}
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point() and parameter.ndim > 1 and parameter.numel():
                mask = masks.get(name)
                found.setdefault(id(parameter), parameter if mask is None else parameter * mask)
    return list(found.values())
