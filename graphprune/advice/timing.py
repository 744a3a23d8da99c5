"""Times on a device: of the model, of its groups, and of widths that are multiples of a number."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.advice.facts import NO_TIME, GroupFacts, Timing
from graphprune.advice.time_limit import TimeIsUp, TimeLimit
from graphprune.api import ChannelGraph
from graphprune.measurement.latencies import run_calls
from graphprune.planning.kernel_table import KernelTable
from graphprune.planning.latency import Kernel, LatencyModel
from graphprune.planning.latency_search import WATCHED
from graphprune.tracing.run_state import runs_forgotten
from graphprune.utils.arrays import Mask
from graphprune.utils.switches import evaluation_mode
from graphprune.utils.timing import median_seconds

ROUNDINGS_TRIED = (1, 4, 8, 16, 32)
"""Widths that are odd multiples of these are timed."""
_KERNELS_TRIED = 2
_TURN = 0.01
"""Seconds that kernels of different widths run for in turn."""
_NARROWEST = 48
"""Widths below this have too few multiples to compare."""


@dataclass(frozen=True)
class Times:
    """What was measured.

    Attributes:
        timing: None: not even the model was.
        groups: the groups with their times.
        missing: what was not measured, and why.
    """

    timing: Timing | None
    groups: tuple[GroupFacts, ...]
    missing: tuple[str, ...] = ()


def measure_times(
    graph: ChannelGraph, groups: Sequence[GroupFacts], free: Mask, device: torch.device, limit: TimeLimit
) -> Times:
    """The times of a model and its kernels on a device, as far as the limit allows.

    Args:
        free: the units that may go. [classes]
    """
    seconds = _model_seconds(graph, device, limit)
    table = LimitedTable(device, limit=limit)
    found = LatencyModel(graph.labeling, graph.units, graph.nodes_without(()), table)
    everything = np.ones(graph.solution.count, bool)
    try:
        kernels = found.seconds(everything)
    except TimeIsUp:
        return Times(Timing(str(device), seconds, 0.0), tuple(groups), (f"the time of each kernel: {NO_TIME}",))
    timing = Timing(str(device), seconds, kernels)
    shares = dict(zip((g.name for g in graph.groups), found.shares(graph.units).tolist(), strict=True))
    timed = [replace(group, time=shares[group.name]) for group in groups]
    missing: tuple[str, ...] = ()
    try:
        timing = replace(timing, half=_half(graph, found, free, None) / kernels)
        timing, missing = _rounded(timing, found, limit)
        for number in sorted(range(len(timed)), key=lambda n: -(timed[n].time or 0)):
            saved = 1 - _half(graph, found, free, timed[number].name) / kernels
            timed[number] = replace(timed[number], saved=max(saved, 0.0))
    except TimeIsUp:
        missing = (*missing, f"what half of some groups saves: {NO_TIME}")
    table.save()
    return Times(timing, tuple(timed), missing)


@dataclass
class LimitedTable(KernelTable):
    """A table that measures nothing more when time is up.

    Raises:
        TimeIsUp: a kernel that is not in the table is asked for, and no time is left.
    """

    limit: TimeLimit = field(default_factory=lambda: TimeLimit(0))

    def seconds(self, name: str, call: Callable[[], Callable[[], Any]]) -> float:
        """The time of a kernel."""
        if name not in self.times:
            self.limit.check()
        return super().seconds(name, call)


def _model_seconds(graph: ChannelGraph, device: torch.device, limit: TimeLimit) -> float:
    """The time of a forward pass on the example inputs there."""
    here = next((p.device for p in graph.model.parameters()), torch.device("cpu"))
    model: nn.Module = graph.model if here == device else copy.deepcopy(graph.model).to(device)
    calls = [call.mapped(lambda t: t.to(device, copy=True), objects=True) for call in graph.examples]
    with evaluation_mode(model), runs_forgotten(model), torch.no_grad():
        run = partial(run_calls, model, calls)
        (seconds,) = median_seconds(run, shortest=min(WATCHED, limit.left / 4))
    return seconds


def _half(graph: ChannelGraph, found: LatencyModel, free: Mask, name: str | None) -> float:
    """The time of all kernels with half of a group, or of every group."""
    gone = [np.zeros(0, np.int64)]
    for group in graph.groups:
        if name in (None, group.name):
            units = group.unit_ids[free[group.unit_ids]]
            gone.append(units[len(units) - len(units) // 2 :])
    return found.seconds(graph.solution.alive(np.concatenate(gone)))


def _rounded(timing: Timing, found: LatencyModel, limit: TimeLimit) -> tuple[Timing, tuple[str, ...]]:
    """With the times of widths that are multiples of different numbers."""
    chosen = [k for k in _heaviest(found) if all(found.dense_size(dim) >= _NARROWEST for dim in k.dims)]
    if not chosen:
        return timing, ("which multiples of channels are fast: no heavy kernel is wide enough to tell",)
    each = []
    for kernel in chosen[:_KERNELS_TRIED]:
        if limit.over:
            break
        each.append(_by_multiple(kernel, found, timing.device))
    if not each:
        return timing, (f"which multiples of channels are fast: {NO_TIME}",)
    numbers = [n for n in ROUNDINGS_TRIED if all(n in one for one in each)]
    totals = {n: sum(one[n] for one in each) for n in numbers}
    rounding = {n: total / max(totals.values()) for n, total in totals.items()}
    return replace(timing, rounding=rounding), ()


def _heaviest(found: LatencyModel) -> list[Kernel]:
    """The kernels with sizes that may change alone, each name once, those that take most first."""
    named: dict[str, tuple[float, Kernel]] = {}
    for kernel in found.kernels:
        if kernel.dims and not kernel.tied:
            name = kernel.name(tuple(found.dense_size(dim) for dim in kernel.dims))
            before = named.get(name, (0.0, kernel))[0]
            named[name] = (before + found.table.times.get(name, 0.0), kernel)
    return [kernel for _, kernel in sorted(named.values(), key=lambda pair: -pair[0])]


def _by_multiple(kernel: Kernel, found: LatencyModel, device: str) -> dict[int, float]:
    """By a number, the time for one multiply-add at sizes near half that are odd multiples of it.

    Relative to the mean over the numbers, so that kernels count alike.
    """
    sizes = {}
    for number in ROUNDINGS_TRIED:
        near = tuple(odd_multiple(found.dense_size(dim) // 2, number) for dim in kernel.dims)
        if all(0 < n <= found.dense_size(dim) for n, dim in zip(near, kernel.dims, strict=True)):
            sizes[number] = near
    with torch.no_grad():
        runs = [kernel.call(near, torch.device(device)) for near in sizes.values()]
        seconds = median_seconds(*runs, turn=_TURN)
    each = {n: s / float(np.prod(near)) for (n, near), s in zip(sizes.items(), seconds, strict=True)}
    mean = sum(each.values()) / len(each)
    return {number: value / mean for number, value in each.items()}


def odd_multiple(size: int, number: int) -> int:
    """The odd multiple of a number that is nearest to a size.

    >>> [odd_multiple(128, n) for n in (1, 8, 64)]
    [129, 136, 192]
    """
    return number * (2 * (size // (2 * number)) + 1)
