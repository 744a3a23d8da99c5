"""The channel graph: what a traced model offers for pruning. The place from which all later stages are reached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import networkx as nx
import numpy as np
from torch import fx, nn
from torch.nn.modules.conv import _ConvTransposeNd
from typing_extensions import Unpack

from graphprune.collector import collector_paused
from graphprune.cost import Cost, CostModel
from graphprune.couplings import Coupling, coupling_graph, couplings_within, describe_line
from graphprune.depth import Block, find_blocks, within
from graphprune.eligible import eligible
from graphprune.equations import Demands, Sizes
from graphprune.errors import InputError, PlanError
from graphprune.groups import Frozen, Group, Units
from graphprune.inputs import first_that_runs, normalise
from graphprune.label import Labelling, label
from graphprune.modules import named_tensors
from graphprune.plan import Plan
from graphprune.planner import make_plan
from graphprune.probe import Evaluate, measure_sensitivity
from graphprune.request import Options, Request
from graphprune.sensitivity import Sensitivity
from graphprune.solve import Solution, solve
from graphprune.timed import plan_in_time
from graphprune.trace import Trace, trace_model


@dataclass(eq=False)
class ChannelGraph:
    """What can be removed from a model, what goes with it, and why. Made by :func:`trace`.

    ``print(graph)`` lists the groups and what is frozen. The graph holds no weights but those of the model.
    """

    model: nn.Module
    trace: Trace
    labelling: Labelling
    solution: Solution
    units: Units
    example: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Everything that can be removed, in the order of execution."""
        return tuple(replace(g, source=self._couplings) for g in self.units.groups)

    def group(self, name: str) -> Group:
        """The group by its name, or that a module or parameter axis (``"conv1.weight[0]"``) makes or takes part in.

        Raises:
            InputError: there is no such group; the message says why that axis is frozen, if it is.
        """
        for group in self.groups:
            if group.name == name:
                return group
        kind = self.trace.modules.get(name, nn.Module)
        out = 1 if issubclass(kind, nn.Embedding | _ConvTransposeNd) else 0
        axes = (name, f"{name}[0]", f"{name}.weight[{out}]", f"{name}.in_proj_weight[0]")
        for axis in axes:
            for group in self.groups:
                if axis in group.axes:
                    return group
        reasons = [str(f) for f in self.frozen if f.axis in axes]
        why = (
            f"it is frozen: {'; '.join(reasons)}" if reasons else f"there are {[g.name for g in self.groups][:8]}, ..."
        )
        raise InputError(f"name: no group {name!r}; {why}")

    @cached_property
    def nx(self) -> nx.MultiGraph:
        """Nodes: axes (of parameters, rows, cells). Edges: couplings with ``op``, ``line`` and ``site``."""
        return coupling_graph(self.labelling)

    def _couplings(self, axes: tuple[str, ...]) -> tuple[Coupling, ...]:
        return couplings_within(self.nx, axes)

    @cached_property
    def frozen(self) -> tuple[Frozen, ...]:
        """Parameter axes that cannot be pruned (wholly or in part), and why."""
        demanded = self.demands.frozen
        found = []
        for axis in self.units.axes:
            classes = self.units.labels_of(axis)
            reasons = self.solution.reason[classes]
            fixed = (reasons >= 0) & self._reported[reasons]
            if fixed.any():
                number = int(reasons[fixed][0])
                found.append(Frozen(axis.name, int(fixed.sum()), axis.size, self._reason(number)))
            elif demanded:
                atoms = self.solution.expand(classes)[0]
                held = [a for a in np.unique(atoms).tolist() if a in demanded]
                if held:
                    found.append(Frozen(axis.name, len(held), axis.size, demanded[held[0]]))
        unused = ((n, s) for n in self.trace.unreached for s in [self.trace.shapes[n]] if len(s))
        note = f" ({self.trace.note})" if self.trace.note else ""
        found += [Frozen(n, s[0], s[0], f"not used in the traced run{note}") for n, s in unused]
        return tuple(found)

    @cached_property
    def _reported(self) -> Any:
        """Which reasons are about channels at all: kernel sizes and the like are not."""
        return np.array([bool(r.text) for r in self.labelling.labels.facts.reasons] or [False])

    def _reason(self, number: int) -> str:
        reason = self.labelling.labels.facts.reasons[number]
        node = self.labelling.nodes[reason.site]
        line = node.meta.get("line")
        return f"{reason.text}, at {describe_line(line)}" if line else reason.text

    @cached_property
    def demands(self) -> Demands:
        """What the sizes in the program demand when something is to be taken from everything."""
        return eligible(self, np.ones(len(self.units.groups), bool), head_width=False)[1]

    def sizes(self) -> Sizes:
        """Sizes of all traced tensors as functions of what lives."""
        return Sizes(self.labelling, self.solution, self.solution.atoms)

    def plan(self, ratio: float | None = None, **options: Unpack[Options]) -> Plan:
        """Choose what to remove.

        Args:
            ratio: the fraction of channels removed in each group, 0 <= ratio < 1; no group is emptied. None: budgets
                (``macs=0.5``) or ratios by role are among the options.
            options: see :class:`graphprune.request.Options`.

        Raises:
            InputError: an argument is not known or out of range, or an override matches nothing.
            PlanError: the model has nothing that can be removed, or is on ``meta`` and the criterion reads weights, or
                a budget is out of reach: the message says what the smallest reachable value is.
        """
        request = Request.of(ratio, options)
        if not self.groups:
            reasons = "\n  ".join(map(str, self.frozen[:5])) or "it has no parameters"
            raise PlanError(f"model: {type(self.model).__name__} has nothing that can be pruned:\n  {reasons}")
        timed = request.budgets.get("latency") is not None
        return plan_in_time(self, request) if timed else make_plan(self, request)

    def sensitivity(
        self, evaluate: Evaluate, ratios: Sequence[float] = (0.25, 0.5, 0.75), **options: Unpack[Options]
    ) -> Sensitivity:
        """Prune one group at a time, and measure the loss: one call of ``evaluate`` for each group and ratio.

        Args:
            evaluate: ``(model) -> loss``, a number that is higher for a worse model. It is given slim models.
            ratios: the fractions to take from each group.
            options: ``importance``, ``calibration`` and the like, as for :meth:`plan`.

        Returns:
            A table that prints, ``plot(path)``s, and can be given to ``plan(..., allocation=)``.
        """
        return measure_sensitivity(self, evaluate, ratios, options)

    def cost(self, plan: Plan | None = None) -> Cost:
        """MACs (multiply-adds of the traced input), parameters and bytes, of the model or of a plan's slim model."""
        costs = self.costs_without(plan.skipped) if plan and plan.skipped else self.costs
        return costs.at(self.alive(plan))

    @cached_property
    def costs(self) -> CostModel:
        """The cost of any choice of channels."""
        return self.costs_without(())

    def costs_without(self, skipped: Sequence[str]) -> CostModel:
        """The cost of any choice of channels when these blocks are left out."""
        tensors = [(n, t) for n, t in named_tensors(self.model) if not within(n, skipped)]
        return CostModel(self.labelling, self.units, self.nodes_without(skipped), tensors)

    def nodes_without(self, skipped: Sequence[str]) -> list[fx.Node]:
        """What evaluation runs of the trace when these blocks are left out."""
        nodes = self.labelling.nodes[: self.trace.evaluated]
        if not skipped:
            return nodes
        gone = [block.nodes for block in self.blocks if block.path in skipped]
        return [node for node in nodes if not any(node in inside for inside in gone)]

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The residual blocks that can be left out whole. Only of models that do not look at the values of floats."""
        return find_blocks(self.trace, self.model) if self.trace.abstract else ()

    def alive(self, plan: Plan | None) -> Any:
        """For every class of labels, whether it lives under a plan."""
        removed = [np.zeros(0, np.int64)]
        by_name = {g.name: g for g in self.groups}
        for choice in plan.choices if plan else ():
            group = by_name.get(choice.group)
            if group is None or group.units != choice.units:
                raise PlanError(f"plan: it speaks of group {choice.group!r}, which this model does not have")
            removed.append(group.atoms[list(choice.removed)])
        return self.solution.alive(np.concatenate(removed))

    def __str__(self) -> str:
        total = sum(t.numel() for _, t in named_tensors(self.model))
        lines = [f"ChannelGraph of {type(self.model).__name__}: {len(self.groups)} groups, {total:,} entries"]
        width = max((len(g.name) for g in self.groups), default=0)
        lines += [f"  {g.name:<{width}}  {g.kind:<7} {g.units:>6} units in {len(g.axes)} axes" for g in self.groups]
        lines += ["frozen:", *(f"  {f}" for f in self.frozen)] if self.frozen else []
        return "\n".join(lines)


@collector_paused()
def trace(model: nn.Module, example_inputs: Any = None, *, outputs: Callable[[Any], Any] | None = None) -> ChannelGraph:
    """Trace a model once and infer its channel graph. The model is not changed and no weight is read.

    Args:
        model: any ``nn.Module``, on any device (``meta`` too).
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments; None: found from the model.
        outputs: picks from the model's result what must keep its shape; None: everything.

    Raises:
        InputError: ``model`` is no module, or the inputs are of a wrong type or cannot be guessed.
        TraceError: the model failed in ``forward``.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model: must be a torch.nn.Module, but is a {type(model).__name__}")
    if example_inputs is None:
        example_inputs, traced = first_that_runs(model, lambda i: trace_model(model, *normalise(i), outputs))
    else:
        traced = trace_model(model, *normalise(example_inputs), outputs)
    return replace(channel_graph(model, traced), example=normalise(example_inputs))


def channel_graph(model: nn.Module, traced: Trace) -> ChannelGraph:
    """What a trace of ``model`` says about its channels."""
    labelling = label(traced)
    solution = solve(labelling.labels)
    return ChannelGraph(model, traced, labelling, solution, Units(labelling, solution))
