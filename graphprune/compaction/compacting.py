"""Remove the channels of a model that are zero already, with outputs that stay equal."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.compaction.masked_copy import entries_left, hidden_entries, masked_copy
from graphprune.compaction.record import ZeroChannels, in_sequence
from graphprune.compaction.report import zero_groups, zero_slices
from graphprune.compaction.search import ZeroSearch
from graphprune.errors import ChannelsKeptWarning, InputError, NothingRemovedWarning
from graphprune.graph.analysis import Analysis, analyze
from graphprune.planning.chosen_channels import masked_units
from graphprune.pruning.no_float64 import float64_required
from graphprune.tracing.meta import is_float
from graphprune.tracing.running import Outputs
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import check_flag, check_optional, found_value, is_finite_number
from graphprune.utils.compiled import compiled_as, uncompiled
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.model_tensors import require_values
from graphprune.utils.modules import named_tensors


@leaves_torch_alone
def compact(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    threshold: float = 0.0,
    relative: bool = False,
    outputs: Outputs | None = None,
) -> nn.Module:
    """A smaller module without the channels that are zero already, whose outputs in evaluation are the same.

    A channel is zero if its rows are zero in all weights that make it, its columns in all that read it, or its scale in
    all normalizations that scale it: by ``torch.nn.utils.prune``, masks, group lasso, or a threshold. So is one of
    which only a part is zero, if nothing but a constant is left of it by the time it is read (the gate of a gated unit,
    a depthwise kernel), and one that only such channels make or read. A constant that a zero channel still passes on (a
    bias, the shift of a batch normalization) is folded into the biases, or the running means of batch normalizations,
    of what reads it. Where these do not take it, as at padded borders, one channel stays and carries the constants of
    all others of its group.

    Args:
        model: a model with weights; unchanged. What ``torch.nn.utils.prune`` registered on it is made permanent in the
            result; parametrizations stay.
        example_inputs: as for :func:`graphprune.trace`; None: found from the model. Random inputs of their shapes show
            what is constant.
        masks: by the name of a parameter, a tensor of its shape that is zero where entries are masked.
        threshold: weights count as zero up to this magnitude; those of zero channels are zero in the result.
        relative: ``threshold`` is a fraction of the largest magnitude in the same parameter.
        outputs: as for :func:`graphprune.trace`.

    Raises:
        InputError: an argument is not what it must be, or there are no weights (``meta``).
        NoFloat64Error: an operation of the model does not run in float64 on the CPU.
        TraceError: the model failed in ``forward``.

    Warns:
        NothingRemovedWarning: no channel is zero.
        ChannelsKeptWarning: some channels are zero and stay; the message says why.
    """
    found = zero_channels(model, example_inputs, masks=masks, threshold=threshold, relative=relative, outputs=outputs)
    if not found.zero:
        near = "".join(f"\n  {one.axis}: {one.count} of {one.size} are zero; {one.why}" for one in found.slices[:5])
        _warn(f"model: no channel is zero, so nothing is removed{near}", NothingRemovedWarning)
    kept = [f"  {one.group}: {count}, {why}" for one in found.groups for why, count in one.kept]
    if kept:
        staying = found.zero - found.removed
        _warn("\n".join([f"model: {staying} zero channels stay", *kept]), ChannelsKeptWarning)
    return found.slim


@leaves_torch_alone
def zero_channels(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    threshold: float = 0.0,
    relative: bool = False,
    outputs: Outputs | None = None,
) -> ZeroChannels:
    """The zero channels of a model: which of them can go, which stay, and why; with the smaller module.

    Args and raises: as :func:`compact`, which returns the smaller module alone, and warns of what stays.

    Returns:
        A record that prints as a table; ``.slim`` is the smaller module.
    """
    check_model(model)
    check_optional("masks", masks, Mapping, "a dict of tensors by the names of parameters")
    check_flag("relative", relative)
    if not is_finite_number(threshold) or threshold < 0:
        raise InputError(
            f"threshold: must be a magnitude of 0 or more, but is {threshold!r}",
            found=found_value(threshold),
            needed="a finite magnitude, 0 or more",
            do="pass threshold=0.0 for exact zeros",
        )
    if relative and not threshold:
        raise InputError(
            "relative: is about threshold=, which is not given",
            found="relative=True and threshold=0",
            needed="a threshold above 0 with it",
            do="pass threshold=1e-3 too, say, or leave out relative=",
        )
    masked = masked_copy(uncompiled(model), masks or {})
    require_values("model", named_tensors(masked), "compare with zero")
    limits = _thresholds(masked, threshold, relative)
    found: list[ZeroChannels] = []
    for narrower in (False, True):
        search = _search(masked, example_inputs, outputs, limits, narrower)
        masked = search.slim()
        found.append(ZeroChannels(masked, zero_groups(search), zero_slices(search), (_count(model), _count(masked))))
        if not search.has_cells:
            break
    record = in_sequence(found)
    return replace(record, slim=compiled_as(model, record.slim))


def _search(
    model: nn.Module, example_inputs: Any, outputs: Outputs | None, limits: dict[str, float], narrower: bool
) -> ZeroSearch:
    """What can go of a model, of which small weights of zero channels become zeros."""
    graph = analyze(model, example_inputs, outputs)
    _clear(graph, limits)
    search = ZeroSearch(graph, outputs, hidden_entries(model), limits, narrower)
    if graph.groups:
        with float64_required(graph):
            search.run()
    return search


def _thresholds(model: nn.Module, threshold: float, relative: bool) -> dict[str, float]:
    """Up to which magnitude entries of each parameter count as zero."""
    if not threshold:
        return {}
    named = [(n, p.detach()) for n, p in model.named_parameters(remove_duplicate=False)]
    named = [(n, p) for n, p in named if p.numel() and is_float(p)]
    return {name: threshold * (float(tensor.abs().max()) if relative else 1.0) for name, tensor in named}


def _clear(graph: Analysis, limits: Mapping[str, float]) -> None:
    """Set small weights of zero channels to zero."""
    if not limits:
        return
    left = {n: some for n, some in entries_left(graph.model, limits).items() if n in graph.trace.shapes}
    alive = graph.solution.alive(np.flatnonzero(masked_units(graph, left)))
    tensors = dict(named_tensors(graph.model))
    with torch.no_grad():
        for axis in graph.units.axes:
            name, dim = axis.parameter_axis.parameter, axis.parameter_axis.dim
            gone = torch.from_numpy(np.flatnonzero(~alive[graph.units.labels_of(axis)]))
            if name in limits and len(gone):
                rows = tensors[name].transpose(0, dim)
                gone = gone.to(rows.device)
                rows[gone] = torch.where(rows[gone].abs() <= limits[name], 0, rows[gone])


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _warn(message: str, kind: type[Warning]) -> None:
    warnings.warn(message, kind, stacklevel=frames_of_this_package())
