"""The pipeline on one page.

::

    model ─ analyze ─▶ Analysis ─ score, allocate ─▶ Plan ─ apply ─▶ smaller module ─ reconstruct ─▶ repaired module

:func:`trace` makes a :class:`ChannelGraph`: an :class:`~graphprune.graph.analysis.Analysis` (what can be removed, what
goes with it) with the questions that people ask of it. Its :meth:`~ChannelGraph.plan` decides what is removed.
:meth:`graphprune.Plan.apply` removes it. :func:`prune_model` does all of it in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from graphprune.calibration.batches import Batches, InputsOnly
from graphprune.choosing.automatic import best_plan
from graphprune.choosing.by_default import with_default_criterion
from graphprune.errors import InputError, VerificationError
from graphprune.graph.analysis import Analysis, analyze
from graphprune.graph.cost import Cost
from graphprune.graph.frozen import frozen_axes
from graphprune.graph.groups import Frozen, Group
from graphprune.graph.layer_axes import layer_axis
from graphprune.graph.listing import count_roles, frozen_table, group_table
from graphprune.graph.roles import CHANNELS
from graphprune.inspection.coupling_files import write_couplings
from graphprune.inspection.explaining import Explainer, Explanation
from graphprune.inspection.model_explorer import write_model_explorer
from graphprune.planning.chosen_channels import entry_count, indices, plan_of_kept, plan_of_masks
from graphprune.planning.empty_requests import warn_of_empty_requests, warn_of_kept_channels
from graphprune.planning.keyword_arguments import PlanArguments, takes_options
from graphprune.planning.kv_merging import plan_of_merged_heads
from graphprune.planning.options import PruningOptions
from graphprune.planning.sensitivity import Sensitivity
from graphprune.planning.sensitivity_probe import Evaluate, measure_sensitivity
from graphprune.planning.unreached import warn_of_unreached
from graphprune.pruning.plan import Plan
from graphprune.pruning.plan_costs import plan_cost
from graphprune.pruning.verification import compare_slim
from graphprune.reconstruction.memory_bound import MemorySpec, check_repaired
from graphprune.reconstruction.pipeline import repair as repair_slim
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.running import Outputs
from graphprune.utils.checks import check_flag, check_type, did_you_mean, found_value, shown
from graphprune.utils.collector import gc_paused
from graphprune.utils.compiled import uncompiled_name
from graphprune.utils.dispatched import resident
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import named_modules, output_dim, walked_once
from graphprune.utils.tables import Printed, Table
from graphprune.utils.tied_names import first_name
from graphprune.utils.tree import tensors_of


class ChannelGraph(Printed, Analysis):
    """What can be removed from a model, what goes with it, and why. Made by :func:`trace`.

    ``print(graph)`` lists the groups and what is frozen; where there are many, groups that differ only in the number of
    a layer share one row. The graph holds no weights but those of the model.

    Attributes:
        model: the traced model.
        groups: what can be removed, as :class:`graphprune.Group`.
        frozen: the parameter axes that cannot be pruned, as :class:`graphprune.Frozen`.
        blocks: the residual blocks that ``depth=`` can leave out.
        branches: the residual branches (attention or MLP of a layer) that a search can leave out.
        nx: the couplings as a networkx graph: nodes are parameter axes, edges the operations that tie them.
        examples: the example inputs, as :class:`graphprune.MethodCall`.
    """

    def group(self, name: str) -> Group:
        """The group by its name, or that a module or parameter axis (``"conv1.weight[0]"``) makes or takes part in.

        Raises:
            InputError: there is no such group; the message says why that axis is frozen, if it is.
        """
        check_type("name", name, str, "the name of a group, a module or a parameter axis")
        name = uncompiled_name(name)
        for group in self.groups:
            if group.name == name:
                return group
        axes = self._axes_called(name)
        for axis in axes:
            for group in self.groups:
                if axis in group.axes:
                    return group
        reasons = [str(f) for f in self.frozen if f.axis in axes]
        names = [group.name for group in self.groups]
        others = f"there are {names[:8]}{', ...' if len(names) > 8 else ''}{did_you_mean(name, names)}"
        why = f"it is frozen: {'; '.join(reasons)}" if reasons else others
        raise InputError(
            f"name: no group {name!r}; {why}",
            where=", ".join(map(str, axes)) if reasons else name,
            found=f"{name!r}, {'frozen' if reasons else 'which no group has'}",
            needed="the name of a group, or a module or parameter axis in one",
            do="print(graph) for the groups, graph.explain(name) for what holds an axis",
        )

    def _axes_called(self, name: str) -> tuple[ParameterAxis, ...]:
        """The parameter axes that a name may stand for, whichever of the names that its tensor has."""
        layer = name.removesuffix(".weight")
        out = output_dim(self.trace.modules.get(first_name(self.model, layer), nn.Module))
        own = (name, 0 if layer == name else out)
        meant = (own, (f"{name}.weight", out), (f"{name}.in_proj_weight", 0))
        named = [ParameterAxis(first_name(self.model, parameter), dim) for parameter, dim in meant]
        name = first_name(self.model, name)
        axes = [axis.parameter_axis for axis in self.units.axes]
        modules = dict(named_modules(self.model))
        known = {str(layer_axis(axis, modules)): axis for axis in axes} | {str(axis): axis for axis in axes}
        return (*([known[name]] if name in known else []), *(known.get(axis, axis) for axis in named))

    def explain(self, name: str | nn.Module | Group) -> Explanation:
        """What goes with a part of the model, through which operations and source lines, and what that saves.

        Args:
            name: of a module, parameter, axis (``"fc.weight[0]"``) or group; or a module or group itself. Of tied
                parameters, and of modules that are reached by several paths, each name will do.

        Raises:
            InputError: the model has nothing of that name; the message says which names resemble it.
        """
        return self._explainer.explain(name)

    def why_frozen(self, name: str | nn.Module | Group) -> Explanation:
        """Why channels of a part of the model cannot be removed: the operation, the source line, and what to do.

        Args:
            name: as for :meth:`explain`.

        Raises:
            InputError: the model has nothing of that name; the message says which names resemble it.
        """
        return self._explainer.why_frozen(name)

    @cached_property
    def _explainer(self) -> Explainer:
        return Explainer(self)

    def export(self, path: str | Path) -> None:
        """Write which axes go together, by which operations, as a file: ``.graphml``, ``.dot`` (``.gv``) or ``.json``.

        It is ``graph.nx`` with the groups and what is frozen; :mod:`graphprune.inspection.coupling_files` lists the
        attributes. JSON is networkx's node-link format.

        Raises:
            InputError: the path has another suffix, or there is a file that this method did not write.
        """
        write_couplings(self, path)

    def to_model_explorer(self, directory: str | Path, plan: Plan | None = None) -> None:
        """Write the traced network for Model Explorer, Google's viewer (``pip install ai-edge-model-explorer``).

        ``model-explorer graph.json --node_data_paths=groups.json,frozen.json,macs.json,parameters.json`` in that folder
        shows it: layers that fold, every operation with its groups, source line and reasons, and colors by group,
        multiply-adds or parameters.

        Args:
            directory: a new folder, or one that this method wrote before, which is replaced.
            plan: adds ``kept.json``, the share of every tensor that stays; costs are those after it.

        Raises:
            InputError: the directory holds something else.
            PlanError: the plan is of another model, or merges heads: trace what it makes instead.
        """
        write_model_explorer(self, directory, plan)

    @cached_property
    def frozen(self) -> tuple[Frozen, ...]:
        """Parameter axes that cannot be pruned (wholly or in part), and why."""
        return frozen_axes(self)

    @leaves_torch_alone
    @takes_options
    def plan(self, ratio: float | None = None, **options: Unpack[PlanArguments]) -> Plan:
        """Choose what to remove.

        Args:
            ratio: the fraction of channels removed in each group, 0 <= ratio < 1; no group is emptied. None: budgets
                (``macs=0.5``) or ratios by role are among the options.
            options: the fields of :class:`graphprune.PruningOptions`, by name.

        Raises:
            InputError: an argument is not known or out of range, an override matches nothing, or no group has a role
                of which something is to be removed.
            PlanError: the model has nothing that can be removed, or is on ``meta`` and the criterion reads weights, or
                a budget is out of reach: the message says what the smallest reachable value is.

        Warns:
            NothingRemovedWarning: nothing is removed of what an argument asks for: a ratio is less than one unit, the
                model is within its budget.
            UnreachedWarning: no example runs what uses some parameters, and channels that they may belong to are
                removed.
        """
        return self.plan_of(PruningOptions.of(ratio, options))

    def plan_of(self, asked: PruningOptions, repaired: bool = True, memory: MemorySpec | None = None) -> Plan:
        """The plan for options.

        Args:
            asked: what is asked.
            repaired: with ``importance="auto"``, are slim models repaired before they are compared?
            memory: with ``importance="auto"``, a bound on what each repair holds.

        Raises:
            InputError, PlanError: as for :meth:`plan`.
        """
        check_type("asked", asked, PruningOptions, "a graphprune.PruningOptions")
        with nullcontext() if asked.calibration is not None or asked.latency is not None else gc_paused():
            plan = best_plan(self, asked, repaired, memory)
        warn_of_empty_requests(self, asked, plan)
        warn_of_unreached(self, plan)
        return plan

    def plan_from_kept(self, kept: Mapping[str, Sequence[int] | Tensor]) -> Plan:
        """The plan that keeps these channels, for your own criterion.

        Args:
            kept: by the name of a module, the numbers of its output channels that stay (``{"layer1.0.conv1": [0, 2,
                5]}``); by that of a parameter axis (``"fc.weight[1]"``), the entries; by that of a group of
                ``print(graph)`` (``"blocks.0.attn.qkv:heads"``), the units, unless an axis has this name. A sequence,
                an array, a tensor, or a mask of truth values. Whatever goes with a channel goes too; what is not named
                stays.

        Raises:
            InputError: there is no such name, or it does not have these numbers.
            PlanError: these channels cannot go, or not without others: the message says what else.
        """
        check_type("kept", kept, Mapping, "a dict of the numbers that stay, by names")
        chosen = {}
        for name, value in kept.items():
            channels = self._channels(name)
            chosen[channels] = indices(f"kept[{name!r}]", value, entry_count(self, channels))
        return self._warned(plan_of_kept(self, chosen))

    def plan_from_masks(self, masks: Mapping[str, Tensor]) -> Plan:
        """The plan without the channels of which masks leave nothing, as ``torch.nn.utils.prune`` makes them.

        Args:
            masks: by the name of a parameter, a tensor of its shape that is zero where entries are masked. A channel
                goes if its rows are masked in all weights that make it, or its columns in all that read it, or if it is
                masked in the scale of a normalization. What a masked channel would still pass on (a bias) is not looked
                at. A weight that ``torch.nn.utils.prune`` masks in this model may be called ``weight``.

        Raises:
            InputError: there is no such parameter, or it has another shape.
            PlanError: these channels cannot go, or not without others: the message says what else.

        Warns:
            NothingRemovedWarning: the masks leave something of every channel, or what they leave nothing of is frozen.
            ChannelsKeptWarning: some channels are masked in some weights, and not in others, and stay.
        """
        check_type("masks", masks, Mapping, "a dict of tensors by the names of parameters")
        plan = plan_of_masks(self, masks)
        warn_of_kept_channels(self, masks, plan)
        return self._warned(plan)

    def plan_merged_heads(self, kv_heads: int) -> Plan:
        """The plan that merges key/value heads, each the mean of several, and keeps all query heads.

        Multi-head attention becomes grouped-query attention, or grouped-query attention has larger groups. Which heads
        are merged follows from the program: those whose query heads read one head when there are fewer (neighbors,
        where ``repeat_interleave`` repeats keys and values). Rows of the projections of keys and values are averaged,
        with their biases; the smaller model equals the original in which all heads of a group have the average, which
        :func:`graphprune.verify` compares. :func:`graphprune.repair` fits the other layers to it. Numbers of heads in
        attributes and in the configuration follow.

        Source: Ainslie, Lee-Thorp, de Jong, Zemlyanskiy, Lebron and Sanghai, "GQA: Training Generalized Multi-Query
        Transformer Models from Multi-Head Checkpoints", EMNLP 2023.

        Args:
            kv_heads: how many key/value heads are left in each attention that has a multiple of them.

        Raises:
            InputError: the number is no divisor of a larger number of heads.
            PlanError: the class cannot have fewer heads of keys and values than of queries (``nn.MultiheadAttention``),
                or there is no attention; the message says what it has.
        """
        return plan_of_merged_heads(self, kv_heads)

    def _warned(self, plan: Plan) -> Plan:
        warn_of_unreached(self, plan)
        return plan

    def _channels(self, name: str) -> ParameterAxis | Group:
        """What a name stands for: a group, a parameter axis, or what a module puts out."""
        group = self.group(name)
        name = uncompiled_name(name)
        if name == group.name and group.role not in CHANNELS:
            return group
        return next((axis for axis in self._axes_called(name) if axis in group.axes), group)

    @leaves_torch_alone
    @takes_options
    def sensitivity(
        self, evaluate: Evaluate, ratios: Sequence[float] = (0.25, 0.5, 0.75), **options: Unpack[PlanArguments]
    ) -> Sensitivity:
        """Prune one group at a time, and measure the loss: one call of ``evaluate`` for each group and ratio.

        Args:
            evaluate: ``(model) -> loss``, a number that is higher for a worse model. It is given slim models in
                evaluation mode.
            ratios: the fractions to take from each group.
            options: ``importance``, ``calibration`` and the like, as for :meth:`plan`.

        Returns:
            A table that prints, can be drawn (:func:`graphprune.plot_sensitivity`) and given to ``plan(allocation=)``.

        Warns:
            UnmeasuredGroupsWarning: all ratios are less than one unit of some groups; ``plan(allocation=)`` takes from
                these last.
        """
        return measure_sensitivity(self, evaluate, ratios, options)

    def cost(self, plan: Plan | None = None) -> Cost:
        """MACs (multiply-adds of the traced input), parameters and bytes, of the model or of a plan's slim model."""
        if plan is not None:
            check_type("plan", plan, Plan, "a graphprune.Plan")
            return plan_cost(self, plan)
        return self.costs.at(self.alive({}))

    def _summary(self) -> str:
        roles = f" ({count_roles(self.groups)})" if self.groups else ""
        return f"{type(self).__name__} of {type(self.model).__name__}: {len(self.groups)} groups{roles}"

    def _parts(self) -> Iterator[str | Table]:
        yield f"{self._summary()}, {self.cost()}"
        if self.groups:
            yield group_table(self)
        if self.frozen:
            yield frozen_table(self.frozen)


@leaves_torch_alone
def trace(model: nn.Module, example_inputs: Any = None, *, outputs: Outputs | None = None) -> ChannelGraph:
    """Trace a model and infer its channel graph. The model is not changed and no weight is read.

    Args:
        model: any ``nn.Module``, on any device (``meta`` too).
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments, or a
            :class:`graphprune.MethodCall` of another method; a list of several of these, one for each task, optional
            input or method that is to go on working; None: found from the model.
        outputs: picks from a result what must keep its shape; None: everything.

    Raises:
        InputError: ``model`` is no module, or the inputs are of a wrong type or cannot be guessed.
        TraceError: the model failed in ``forward``.
    """
    analysis = analyze(model, example_inputs, outputs)
    return ChannelGraph(*(getattr(analysis, field.name) for field in fields(Analysis)))


_MEASURES = frozenset(("calibration", "latency"))
"""Options with which planning runs the model, perhaps for minutes."""
_RUNS = _MEASURES | {"importance", "weights"}
"""Options with which the model itself may be run, or code of the user's own sees it."""


def _check_no_inputs(ratio: object) -> None:
    """Raise an InputError if example inputs stand where the ratio is."""
    if any(tensor.ndim for tensor in tensors_of(ratio)):
        raise InputError(
            f"ratio: is {shown(ratio)}; example inputs come third",
            found=found_value(ratio),
            needed="a fraction of channels to remove, and then the example inputs",
            do="call prune_model(model, 0.5, example_inputs)",
        )


@leaves_torch_alone
@takes_options
def prune_model(
    model: nn.Module,
    ratio: float | None = None,
    example_inputs: Any = None,
    *,
    outputs: Outputs | None = None,
    inplace: bool = False,
    repair: bool = True,
    memory: MemorySpec | None = None,
    verify: bool = False,
    **options: Unpack[PlanArguments],
) -> nn.Module:
    """A smaller module of the same class, with the fraction ``ratio`` of each group's channels gone.

    Args:
        model: any ``nn.Module``; unchanged unless ``inplace``.
        ratio: fraction of channels removed in each group, 0 <= ratio < 1; no group is emptied. None: ``options`` give
            budgets (``macs=0.5``) or ratios by role.
        example_inputs: a tensor, a tuple, a dict of keyword arguments, a :class:`graphprune.MethodCall`, or a list of
            these; None: found from the model.
        outputs: picks from the model's result what must keep its shape; None: everything.
        inplace: make the model itself smaller.
        repair: with ``calibration`` among the options, fit the remaining weights to the dense model (see
            :func:`graphprune.repair`); the batches are iterated several times. Without, nothing is repaired.
        memory: a bound on what repair holds beside the models and the batches, such as ``"4GB"``; None: no bound. It is
            given with ``calibration`` only.
        verify: compare the slim model with the masked original before it is repaired (see :func:`graphprune.verify`).
        options: the fields of :class:`graphprune.PruningOptions`, by name. Where ``importance`` is not among them, and
            the model is repaired, it is ``"auto"``: six plans are tried, each with a repair on about 256 samples at
            most, and the best criterion plans with all of them; ``importance="l2"`` is one plan and one repair. Without
            calibration or repair, for a measured latency, a searched allocation, or a model that Accelerate dispatched,
            it is ``"l2"`` unless it is given.

    Raises:
        InputError: an argument is out of range, inputs cannot be guessed, or calibration batches do not fit.
        TraceError: the model failed in ``forward``.
        PlanError: the model has nothing to prune, or a budget is out of reach.
        VerificationError: with ``verify``, the slim model did not pass; the model is unchanged.

    Warns:
        NothingRemovedWarning, UnreachedWarning: as for :meth:`ChannelGraph.plan`.
    """
    for name, flag in (("inplace", inplace), ("repair", repair), ("verify", verify)):
        check_flag(name, flag)
    _check_no_inputs(ratio)
    if inplace:
        resident(model, inplace, check_model(model))
    calibration = options.get("calibration") if repair else None
    check_repaired(memory, calibration is not None)
    if calibration is not None:
        Batches(calibration)
    runs = verify or inplace or _RUNS & options.keys()
    with nullcontext() if _MEASURES & options.keys() else gc_paused(), nullcontext() if runs else walked_once(model):
        asked = PruningOptions.of(ratio, options)
        if calibration is not None and "importance" not in options:
            asked = with_default_criterion(model, asked)
        plan = _planned(trace(model, example_inputs, outputs=outputs), asked, outputs, verify, repair, memory)
        if calibration is None:
            return plan.apply(model, inplace=inplace)
    slim = apply_and_repair(model, plan, calibration, options.get("loss_fn"), memory)
    return _take_over(model, plan, slim) if inplace else slim


def _planned(
    graph: ChannelGraph,
    asked: PruningOptions,
    outputs: Outputs | None,
    verify: bool,
    repair: bool,
    memory: MemorySpec | None,
) -> Plan:
    """The plan alone: the graph is let go of before the garbage collector looks at it."""
    plan = graph.plan_of(asked, repair, memory)
    if verify:
        _require_equal(graph, plan, outputs)
    return plan


def _require_equal(graph: ChannelGraph, plan: Plan, outputs: Outputs | None) -> None:
    """Raise a VerificationError unless a slim copy passes."""
    check = compare_slim(graph, plan.apply(graph.model), plan, outputs)
    if not check.passed:
        raise VerificationError(
            "slim: the slim model is not shown to be the masked original",
            found=str(check),
            needed="the outputs of the original with the removed channels masked, up to rounding",
            do="look at graphprune.verify(model, slim, plan, example_inputs), freeze what it names with overrides=, "
            "and report "
            "the model if its outputs differ",
        )


def apply_and_repair(
    model: nn.Module,
    plan: Plan,
    calibration: Iterable[Any],
    loss_fn: Callable[..., Any] | None,
    memory: MemorySpec | None = None,
) -> nn.Module:
    """What the plan makes of the model, repaired; batches are pairs (inputs, target) where there is a ``loss_fn``."""
    slim = plan.apply(model)
    repair_slim(slim, model, plan, calibration if loss_fn is None else InputsOnly(calibration), memory=memory)
    return slim


def _take_over(model: nn.Module, plan: Plan, slim: nn.Module) -> nn.Module:
    """The model itself made smaller, with the values of its slim copy."""
    plan.apply(model, inplace=True)
    values = {**dict(slim.named_parameters()), **dict(slim.named_buffers())}
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.copy_(values[name])
    return model
