"""Which channels another library kept, read off the values of its slim network, and that choice as a plan of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import graphprune


class UnreadableStructureError(Exception):
    """The slim network is no selection of the dense one's channels, or our graph knows no plan for it."""


def plan_like(dense: nn.Module, slim: nn.Module, example: Any) -> graphprune.Plan:
    """The plan that keeps what ``slim`` kept of ``dense``, whose weights it must not have changed otherwise.

    Raises:
        UnreadableStructureError: there is none.
    """
    graph = graphprune.trace(dense, example)
    kept = dict(_kept(graph, dense, slim))
    try:
        plan = graph.plan_from_kept(kept)
    except graphprune.GraphpruneError as error:
        raise UnreadableStructureError(" ".join(str(error).split())) from error
    shapes = {name: tuple(p.shape) for name, p in slim.named_parameters()}
    other = [name for name, shape in shapes.items() if tuple(plan.shape(name)) != shape]
    if other:
        name = other[0]
        raise UnreadableStructureError(f"{name} is {list(shapes[name])}, a plan leaves {list(plan.shape(name))}")
    return plan


def _kept(graph: graphprune.ChannelGraph, dense: nn.Module, slim: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """By a parameter axis of each group of which something is gone, the entries that stay."""
    before, after = dict(dense.named_parameters()), dict(slim.named_parameters())
    for group in graph.groups:
        axis = next((one for one in group.axes if one.parameter in before.keys() & after.keys()), None)
        if axis is not None:
            wide, narrow = before[axis.parameter].detach(), after[axis.parameter].detach()
            if wide.shape[axis.dim] != narrow.shape[axis.dim]:
                yield axis, kept_entries(wide, narrow)[axis.dim]


def kept_entries(dense: Tensor, slim: Tensor) -> list[Tensor]:
    """For each dimension the entries of ``dense`` that ``slim`` consists of; ties of values are decided by the most.

    Raises:
        UnreadableStructureError: it is no such selection.
    """
    values, order = dense.flatten().sort()
    found = order[torch.searchsorted(values, slim.flatten()).clamp(max=len(values) - 1)]
    places = torch.unravel_index(found, dense.shape)
    kept = [place.reshape(slim.shape).transpose(0, d).flatten(1).mode(1).values for d, place in enumerate(places)]
    selected = dense
    for dim, entries in enumerate(kept):
        selected = selected.index_select(dim, entries)
    if not torch.equal(selected, slim):
        raise UnreadableStructureError("its weights are no selection of the dense ones")
    return kept
