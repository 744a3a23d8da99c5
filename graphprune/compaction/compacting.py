"""Remove the channels of a model that are zero already, with outputs that stay equal."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.compaction.constants import ConstantFolding
from graphprune.compaction.masked_copy import masked_copy
from graphprune.errors import ChannelsKeptWarning, InputError, NothingRemovedWarning
from graphprune.graph.analysis import Analysis, analyze
from graphprune.planning.chosen_channels import masked_units, partly_masked_units, plan_of_units, units_by_group
from graphprune.planning.translation import responsible
from graphprune.pruning.plan import Plan
from graphprune.tracing.running import Outputs
from graphprune.utils.arrays import Mask
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import check_type, is_number
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import named_tensors

NOT_EXACT = "what they still pass on (a bias, at padded borders perhaps) cannot be folded exactly into what reads them"


def compact(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    threshold: float = 0.0,
    outputs: Outputs | None = None,
) -> nn.Module:
    """A smaller module without the channels that are zero already, whose outputs in evaluation are the same.

    A channel is zero if its rows are zero in all weights that make it, its columns in all that read it, or its scale in
    all normalizations that scale it: by ``torch.nn.utils.prune``, masks, group lasso, or a threshold. So is one that is
    multiplied by zeros (the gate of a gated unit), whatever the other weights. A constant that a zero channel still
    passes on (a bias, the shift of a batch normalization) is folded into the biases, or the running means of
    batch normalizations, of what reads it. Where that is not exact, as at padded borders, the channel stays.

    Args:
        model: a model with weights; unchanged. What ``torch.nn.utils.prune`` registered on it is made permanent in the
            result.
        example_inputs: as for :func:`graphprune.trace`; None: found from the model. Random inputs of their shapes show
            what is constant.
        masks: by the name of a parameter, a tensor of its shape that is zero where entries are masked.
        threshold: weights count as zero up to this magnitude; they are zero in the result.
        outputs: as for :func:`graphprune.trace`.

    Raises:
        InputError: an argument is not what it must be, or there are no weights (``meta``).
        TraceError: the model failed in ``forward``.

    Warns:
        NothingRemovedWarning: no channel is zero.
        ChannelsKeptWarning: some channels are zero and stay; the message says why.
    """
    check_model(model)
    check_type("masks", masks or {}, Mapping, "a dict of tensors by the names of parameters")
    if not is_number(threshold) or not 0 <= threshold < float("inf"):
        raise InputError(f"threshold: must be a magnitude of 0 or more, but is {threshold!r}")
    masked = masked_copy(model, masks or {})
    _require_values(masked)
    graph = analyze(masked, example_inputs, outputs)
    left = {n: t.abs() > threshold for n, t in named_tensors(masked) if n in graph.trace.shapes}
    _clear(graph, masked_units(graph, left), threshold)
    folding = ConstantFolding(graph, outputs)
    dead = masked_units(graph, left)
    partly = partly_masked_units(graph, left) & ~dead
    return _Compaction(graph, folding, dead | (partly & ~folding.sounding) if partly.any() else dead).slim()


def _require_values(model: nn.Module) -> None:
    name = next((name for name, tensor in named_tensors(model) if tensor.is_meta), None)
    if name is not None:
        raise InputError(f"model: {name} is on meta, and whether it is zero cannot be told; load the weights first")


def _clear(graph: Analysis, dead: Mask, threshold: float) -> None:
    """Set small weights of dead channels to zero."""
    if not threshold or not dead.any():
        return
    plan = plan_of_units(graph, dead, "zeros")[0]
    with torch.no_grad():
        for name, tensor in named_tensors(graph.model):
            if name in plan.kept:
                tensor[~plan.mask(name).to(tensor.device) & (tensor.abs() <= threshold)] = 0


class _Compaction:
    """Finds which of the dead units can go without a change of the outputs."""

    def __init__(self, graph: Analysis, folding: ConstantFolding, dead: Mask) -> None:
        self.graph = graph
        self.folding = folding
        self.dead = dead
        self.kept: dict[int, str] = {}

    def slim(self) -> nn.Module:
        """The smaller module."""
        if not self.dead.any():
            _warn("model: no channel is zero, so nothing is removed", NothingRemovedWarning)
            return self.graph.model
        self._keep(self.dead & self.folding.varying, "something else than zeros makes them")
        plan, changed = self._plan()
        slim = plan.apply(self.graph.model)
        with torch.no_grad():
            for name, tensor in named_tensors(slim):
                if name in changed:
                    tensor.copy_(changed[name])
        self._report()
        return slim

    def _plan(self) -> tuple[Plan, dict[str, Tensor]]:
        """The plan of all that can go, and the biases that make up for it."""
        while True:
            plan, staying = plan_of_units(self.graph, self.dead, "zeros")
            changed = self.folding.folded(plan)
            if changed is not None:
                self.kept.update(staying)
                return plan, changed
            self._hold_what_differs(plan)

    def _hold_what_differs(self, plan: Plan) -> None:
        """Of the groups that change the outputs, keep what passes on a constant; else all of them."""
        groups = self.graph.units.groups
        losing = [number for number, choice in enumerate(plan.choices) if choice.removed]
        found = responsible(losing, lambda part: self.folding.folded(self._plan_of(part)) is None)
        units = self._within(found)
        constant = units & self.folding.passing
        self._keep(constant if constant.any() else units, NOT_EXACT)
        if not units.any():
            raise AssertionError(f"{[groups[n].name for n in found]} lose nothing, and the outputs differ")

    def _plan_of(self, numbers: Iterable[int]) -> Plan:
        """The plan that removes what is dead in some groups only."""
        return plan_of_units(self.graph, self._within(numbers), "zeros")[0]

    def _within(self, numbers: Iterable[int]) -> Mask:
        """The dead units of some groups. [classes]"""
        found = np.zeros_like(self.dead)
        for number in numbers:
            units = self.graph.units.groups[number].unit_ids
            found[units] = self.dead[units]
        return found

    def _keep(self, units: Mask, why: str) -> None:
        self.kept |= dict.fromkeys(np.flatnonzero(units).tolist(), why)
        self.dead = self.dead & ~units

    def _report(self) -> None:
        """Warn of the channels that are zero and stay."""
        if not self.kept:
            return
        lines = [
            f"  {name}: {len(units)}, {self.kept[units[0]]}" for name, units in units_by_group(self.graph, self.kept)
        ]
        _warn("\n".join([f"model: {len(self.kept)} zero channels stay", *lines]), ChannelsKeptWarning)


def _warn(message: str, kind: type[Warning]) -> None:
    warnings.warn(message, kind, stacklevel=frames_of_this_package())
