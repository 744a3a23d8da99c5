"""The masked original: run in float64 with the dead elements of every tensor set to zero where it is made.

So they are masked where they are consumed: zeroing only what made them would be wrong (``sigmoid(0) = 0.5``).
Operations that take statistics over channels take them over the channels that survive.

A model that was traced on ``meta`` is run as its graph. A model that looks at the values of floats may branch
differently once channels are masked, so the model itself runs, and masks are applied to what its operations return.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import _disable_current_modes

from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis, analysis_of
from graphprune.pruning.float64 import (
    Widen,
    in_float64,
    narrow_finfo,
    reads_default_type,
    wide_module,
    widen,
    widened_tensor,
)
from graphprune.pruning.plan import Plan
from graphprune.pruning.random_draws import Draw, draw_of, values_read
from graphprune.pruning.repeated_entries import copy_like_view
from graphprune.pruning.slim_factors import slim_factors
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import has_trait, in_any_type, rule_of
from graphprune.rules.traits import Trait
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.model_copy import MetaCopy
from graphprune.tracing.recorder import Recorder
from graphprune.tracing.running import Outputs, picked
from graphprune.tracing.side_effects import nothing_kept
from graphprune.tracing.sizes import SizeLog
from graphprune.tracing.tracer import Trace, record
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.evaluation import eagerly
from graphprune.utils.modules import named_tensors
from graphprune.utils.operators import Args, Kwargs, is_random, returns_view, short_name
from graphprune.utils.tree import as_dense, dense_outputs, replaced


@dataclass(frozen=True)
class MaskedRun:
    """What the masked original did.

    Attributes:
        outputs: its output tensors.
        inexact: the operations that took statistics over the surviving channels.
        draws: the random numbers that it drew, in order.
    """

    outputs: list[Tensor]
    inexact: tuple[str, ...]
    draws: tuple[Draw, ...]


# ---------------------------------------------------------------- masks


def living_classes(graph: Analysis, plan: Plan | None) -> Mask:
    """For every class of labels, whether it lives.

    A model that looks at values may reach other modules in every run, and has other groups then; so has one that has
    run since its plan was made and keeps what it worked out. Then what is gone is told by the entries of the parameters
    that lose some. Those that are merged stay, each with the mean in its place.

    Raises:
        PlanError: these entries do not tell it either.
    """
    if plan is None or (graph.trace.on_meta and (graph.has_groups(plan.removed) or not tells_removed(graph, plan))):
        return graph.alive(plan.removed if plan else {})
    return graph.solution.alive(_units_without_entries(graph, plan))


def tells_removed(graph: Analysis, plan: Plan) -> bool:
    """Do units that lose all of their entries tell which entries go of all parameters that a trace reads?"""
    read = {node.meta.get("tensor") for node in graph.trace.graph.nodes}
    lost = {
        (name, dim): kept
        for name, dims in plan.kept.items()
        for dim, kept in dims.items()
        if name in read and dim not in plan.merged.get(name, {})
    }
    axes = {(a.parameter_axis.parameter, a.parameter_axis.dim): i for i, a in enumerate(graph.units.axes)}
    if not lost or not lost.keys() <= axes.keys():
        return False
    gone = _units_without_entries(graph, plan)
    for (name, dim), kept in lost.items():
        units, entries = graph.units.occurrences.along(axes[name, dim])
        expected = np.setdiff1d(np.arange(plan.shapes[name][dim]), kept)
        if not np.array_equal(np.unique(entries[np.isin(units, gone)]), expected):
            return False
    return True


def _units_without_entries(graph: Analysis, plan: Plan) -> Ids:
    """The units that no entry is left of, of parameters that lose some."""
    gone, living = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, axis in enumerate(graph.units.axes):
        name, dim = axis.parameter_axis.parameter, axis.parameter_axis.dim
        kept = plan.kept.get(name, {}).get(dim)
        if kept is not None and dim not in plan.merged.get(name, {}):
            units, entries = graph.units.occurrences.along(number)
            lives = np.isin(entries, kept)
            gone.append(units[~lives])
            living.append(units[lives])
    return np.setdiff1d(np.concatenate(gone), np.concatenate(living))


class Masks:
    """Which elements of every traced tensor survive, and the masked forms of operations that mix channels."""

    def __init__(self, graph: Analysis, plan: Plan | None) -> None:
        self.channels = graph
        self._counted = graph.counted  # worked out here, as it runs operations
        self.alive: Mask = living_classes(graph, plan)
        self.kept_nodes = frozenset(graph.nodes_without(plan.skipped if plan else ()))
        self.mixing: dict[str, None] = {}
        self.factors = slim_factors(graph, plan) if plan else {}
        self.zeroed = frozenset(plan.zeroed if plan else ())
        self.skipped = frozenset(plan.skipped if plan else ()) - self.zeroed
        self.draws: list[Draw] = []
        self._whole: dict[fx.Node, Tensor] = {}  # masks that take whole rows

    def labels(self, node: fx.Node) -> LabeledTensor | None:
        value = self.channels.labeling.values.get(self.channels.trace.original(node))
        return value if isinstance(value, LabeledTensor) else None

    def of(self, node: fx.Node) -> Tensor | None:
        """The surviving elements, broadcasting to the tensor's shape; None: all."""
        return self._surviving(self.labels(node))

    def _surviving(self, value: LabeledTensor | None) -> Tensor | None:
        found = None
        for array in value.arrays if value is not None else ():
            here = self.alive[self.channels.solution.of[array.ids]]
            found = here if found is None else found & here
        return None if found is None or found.all() else torch.from_numpy(np.ascontiguousarray(found))

    def apply(self, out: Any, node: fx.Node) -> Any:
        """Zero the dead elements of what a node made, in place. Those of a view are zeroed in its base.

        The statistics that batch norms leave for gradients are empty on some devices.
        """
        mask = self.of(node) if isinstance(out, Tensor) and out.numel() and not _is_view(node) else None
        return out if mask is None else out.masked_fill_(~mask, 0)

    def expanded(self, out: Any, node: fx.Node) -> Any:
        """A copy with dead elements zeroed, where a view repeats entries along channels that its base does not have."""
        node = self.channels.trace.original(node)
        mask = self.of(node) if isinstance(out, Tensor) and _is_view(node) else None
        if mask is None or not any(
            size > 1 and stride == 0 for size, stride in zip(mask.shape, out.stride()[-mask.ndim :], strict=True)
        ):
            return out
        if any(has_trait(user.target, Trait.TAKES_ROWS) for user in node.users):
            self._whole[node] = out
        return copy_like_view(out).masked_fill_(~mask, 0)

    def with_whole_rows(self, node: fx.Node, args: Args) -> Args:
        """The arguments of a call, with masks that take whole rows as they are: what they take has dead channels."""
        original = self.channels.trace.original(node)
        if not has_trait(original.target, Trait.TAKES_ROWS):
            return args

        def whole(known: Any, given: Any) -> Any:
            if isinstance(known, tuple | list):
                return [whole(*both) for both in zip(known, given, strict=True)]
            return self._whole.get(known, given) if isinstance(known, fx.Node) else given

        return tuple(whole(*both) for both in zip(original.args, args, strict=True))

    def note_draw(self, node: fx.Node, args: Args, kwargs: Kwargs, out: Any) -> None:
        """Keep what survives of the random numbers that a node of an unskipped block drew."""
        node = self.channels.trace.original(node)
        if not is_random(node.target) or node not in self.kept_nodes:
            return
        read: list[fx.Node] = []
        fx.node.map_arg(values_read(node.target, node.args, node.kwargs), read.append)
        values = self.channels.labeling.values
        drawn = values.get(node)
        labels = [*map(values.get, read), *(drawn if isinstance(drawn, tuple | list) else (drawn,))]

        def survivors(number: int, tensor: Tensor) -> Tensor:
            value = labels[number] if number < len(labels) else None
            mask = self._surviving(value) if isinstance(value, LabeledTensor) else None
            return tensor.flatten() if mask is None else tensor[mask.expand(tensor.shape)]

        self.draws.append(draw_of(node.target, args, kwargs, out, survivors))

    def with_factor(self, node: fx.Node, args: Args) -> Args:
        """The arguments of a call, with the number by which the slim model scales its statistic over channels."""
        original = self.channels.trace.original(node)
        if original not in self.factors:
            return args
        text = f"{short_name(node.target)} scales by a number that is worked out from a count of channels"
        self.mixing[f"{text} ({node.name})"] = None
        return (args[0], self.factors[original], *args[2:])

    def statistics(self, node: fx.Node, args: Args, kwargs: Kwargs) -> Any:
        """The result of an operation that mixes channels of which some are dead; None: it needs no masked form."""
        node_index = self.channels.trace.node_index(node)
        if not node.users:  # such as the mean of an attention's weights that nobody asked for
            return None
        text = self.channels.labeling.labels.facts.mixing.get(node_index)
        self._note_count(node, node_index)
        rule = rule_of(node.target)
        mask = self.of(node.args[0]) if text and isinstance(node.args[0], fx.Node) else None
        if mask is None or rule is None or rule.masked is None:
            return None
        if self._mixed(node_index):
            self.mixing[f"{text} ({node.name})"] = None
        return rule.masked(mask.expand(args[0].shape), *args, **kwargs)

    def _mixed(self, node_index: int) -> bool:
        """Is something gone of what an operation mixes, as far as that is known?"""
        known = self.channels.labeling.labels.facts.mixed[node_index]
        return not known or not all(self.alive[self.channels.solution.of[ids]].all() for ids in known)

    def _note_count(self, node: fx.Node, node_index: int) -> None:
        """Name an operation that counts channels of which some are dead."""
        groups = [self.channels.units.groups[g] for g in self._counted.get(node_index, ())]
        if not all(self.alive[group.unit_ids].all() for group in groups):
            text = f"{short_name(node.target)} adds up entries that are not zero in removed channels"
            self.mixing[f"{text} ({node.name})"] = None


def _is_view(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    return returns_view(node.target)


# ---------------------------------------------------------------- the graph of a trace on meta


class MaskedInterpreter(fx.Interpreter):
    """Run the evaluation part of a traced graph in float64 with the dead elements of every tensor zeroed."""

    def __init__(self, masks: Masks, shortcuts: Mapping[fx.Node, fx.Node], zeros: Collection[fx.Node]) -> None:
        self.masks = masks
        self.shortcuts = shortcuts
        self.zeros = zeros
        self.kept: dict[fx.Node, Any] = dict.fromkeys(shortcuts.values())
        self.channels = masks.channels
        self.tensors = dict(named_tensors(self.channels.model))
        super().__init__(nn.Module(), graph=self.channels.trace.evaluation)

    def run_node(self, n: fx.Node) -> Any:
        node = self.channels.trace.original(n)
        out = self._run(n) if node not in self.shortcuts else self.kept[self.shortcuts[node]]
        if node in self.zeros:
            out = torch.zeros_like(out)
        if node in self.kept:
            self.kept[node] = out.clone()  # what comes later may work in place
        return out

    def _run(self, n: fx.Node) -> Any:
        if n.op == "get_attr":
            return self.masks.apply(widened_tensor(self._load(n)), n)
        if n.op != "call_function" or n.target is operator.getitem:
            out = super().run_node(n)
            return self.masks.apply(out, n) if n.op == "call_function" else out
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        args = self.masks.with_whole_rows(n, self.masks.with_factor(n, args))
        args, kwargs = widen(replaced(lambda _: torch.device("cpu"), (args, kwargs), torch.device))
        masked = self.masks.statistics(n, args, kwargs)
        # On the CPU a tensor may have another layout than on ``meta``, where a view is not possible.
        target = torch.reshape if has_trait(n.target, Trait.RESHAPES) else in_any_type(n.target)
        out = masked if masked is not None else target(*args, **kwargs)
        self.masks.note_draw(n, args, kwargs, out)
        return self.masks.apply(self.masks.expanded(out, n), n)

    def _load(self, node: fx.Node) -> Tensor:
        name = node.meta.get("tensor")
        return self.tensors[name] if name is not None else self.channels.trace.constants[str(node.target)]


@eagerly()
def run_masked_graph(graph: Analysis, plan: Plan | None, inputs: list[Tensor]) -> MaskedRun:
    """Run the graph of the original with dead channels masked; a skipped block returns its input, a branch zeros."""
    masks = Masks(graph, plan)
    shortcuts = {block.result: block.source for block in graph.blocks if block.path in masks.skipped}
    zeros = {call.result for call in graph.trace.calls if call.path in masks.zeroed}
    with in_float64(reads_default_type(graph.trace.graph)):
        outputs = MaskedInterpreter(masks, shortcuts, zeros).run(*map(widened_tensor, inputs))
    return MaskedRun(list(map(as_dense, outputs)), tuple(masks.mixing), tuple(masks.draws))


def surviving_entries(graph: Analysis, plan: Plan, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of the masked original without the entries that a plan removes: words of a vocabulary."""
    if graph.labeling.labels.vocabulary is None:
        return list(outputs)  # the others keep every entry
    alive = living_classes(graph, plan)
    nodes = graph.trace.outputs[: graph.trace.results]
    found = []
    for node, out in zip(nodes, outputs, strict=True):
        for array in graph.labeling.values[node].arrays:
            kept = alive[graph.solution.of[array.ids]]
            if not kept.all():  # they vary along one dimension, as those of words do
                (dim,) = array.dims
                out = out.index_select(dim, torch.from_numpy(kept.ravel().nonzero()[0]))
        found.append(out)
    return found


# ---------------------------------------------------------------- a model that looks at values


class MaskedRecorder(Recorder):
    """Record a model while it runs masked, as long as it does what the known trace did.

    Each node is compared with the known node of the same number, whose labels say what is dead in it. Once they
    differ, the run has ``diverged``: from there on nothing is masked, and the recording is the trace of another branch.
    A skipped block runs too, and gives what it was given; the modules of a branch that is left out give zeros.
    """

    def __init__(self, model_copy: MetaCopy, log: SizeLog, on_meta: bool, masks: Masks) -> None:
        super().__init__(model_copy, log, on_meta)
        self.masks = masks
        trace = masks.channels.trace
        self.known = trace.evaluated_nodes
        self.diverged = False
        self._given: dict[str, Tensor] = {}  # to skipped blocks

    def enter(self, module: nn.Module, args: Any) -> None:
        """As of any recorder; what a skipped block is given is kept, since it may work in place."""
        super().enter(module, args)
        path = self.model_copy.paths.get(id(module))
        if path in self.masks.skipped:
            self._given[path] = args[0].clone()

    def abandon(self, module: nn.Module) -> None:
        """As of any recorder; nothing takes the place of what the module would have given."""
        super().abandon(module)
        self._given.pop(self.model_copy.paths.get(id(module), ""), None)

    def leave(self, module: nn.Module, args: Any, *given: Any) -> Any:
        """As of any recorder; returns what the program gets in the place of a result, None where it gets that."""
        super().leave(module, args, *given)
        if len(given) == 1:  # it raised
            return None
        path, (_, output) = self.model_copy.paths.get(id(module)), given
        if path in self.masks.zeroed:
            return (torch.zeros_like(output[0]), *output[1:]) if type(output) is tuple else torch.zeros_like(output)
        first = self._given.pop(path, None) if path is not None else None
        return (first, *output[1:]) if first is not None and type(output) is tuple else first

    def execute(self, func: Any, args: Args, kwargs: Kwargs) -> Any:
        known = self._known(len(self.graph.nodes))
        if known is None or known.target is not func:
            return super().execute(func, args, kwargs)
        args = self.masks.with_whole_rows(known, self.masks.with_factor(known, args))
        masked = self.masks.statistics(known, args, kwargs)
        out = masked if masked is not None else super().execute(func, args, kwargs)
        self.masks.note_draw(known, args, kwargs, out)
        return self.masks.expanded(out, known)

    def _bind(self, tensor: Tensor, node: fx.Node) -> None:
        super()._bind(tensor, node)
        known = self._known(len(self.graph.nodes) - 1)
        if known is not None:
            self.diverged = not (_alike(known, node) and _fits(self.masks.labels(known), node.meta["shape"]))
        if known is not None and not self.diverged:
            with _disable_current_modes():  # masking is no part of the program
                self.masks.apply(tensor, known)

    def _known(self, number: int) -> fx.Node | None:
        return self.known[number] if not self.diverged and number < len(self.known) else None


def _alike(known: fx.Node, node: fx.Node) -> bool:
    """The same operation. (Its operands are compared when the run is over.)"""
    return known.op == node.op and known.target == node.target


def _fits(labels: LabeledTensor | None, shape: torch.Size) -> bool:
    """Do the labels still belong to the tensor? Where there are none, a dimension may have become longer."""
    for array in labels.arrays if labels is not None else ():
        sizes = array.ids.shape
        if len(sizes) != len(shape) or any(m not in (1, n) for m, n in zip(sizes, shape, strict=True)):
            return False
    return True


def _did_the_same(known: Trace, trace: Trace) -> bool:
    """Did both evaluations call the same operations with the same operands and the same numbers?

    Each copy of a model draws from a copy of its generators.
    """
    both = known.evaluated_nodes, trace.evaluated_nodes
    number = {node: i for nodes in both for i, node in enumerate(nodes)}

    def calls(nodes: list[fx.Node]) -> list[str]:
        given = (replaced(lambda _: "generator", (n.args, n.kwargs), torch.Generator) for n in nodes)
        named = (fx.node.map_arg(arguments, lambda a: f"%{number[a]}") for arguments in given)
        return [f"{n.op} {n.target} {arguments}" for n, arguments in zip(nodes, named, strict=True)]

    return calls(both[0]) == calls(both[1])


_ATTEMPTS = 12


def run_masked_model(graph: Analysis, plan: Plan, select: Outputs | None = None) -> MaskedRun:
    """Run the original itself, masked, until it does what the trace that its labels come from did.

    A run is right up to the operation where it diverges, and its recording is the trace for the next run, which so
    gets further. ``select`` picks the outputs from the result; None: all tensors.

    Raises:
        PlanError: it branched differently every time.
    """
    examples = graph.examples
    for _ in range(_ATTEMPTS):
        masks = Masks(graph, plan)
        outputs, graph, same = _run_and_record(graph.model, masks, examples, select)
        if same:
            return MaskedRun(outputs, tuple(masks.mixing), tuple(masks.draws))
    raise PlanError(
        f"model: {type(graph.model).__name__} branches differently on every masked run",
        where=type(graph.model).__name__,
        found=f"{_ATTEMPTS} runs, each of which took another way",
        needed="a forward that takes the same way for the same inputs",
        do="remove the control flow that depends on random numbers or on the values of activations, or leave verify "
        "out",
    )


def _run_and_record(
    model: nn.Module, masks: Masks, examples: Sequence[MethodCall], select: Outputs | None
) -> tuple[list[Tensor], Analysis, bool]:
    """The outputs of a masked run, what it did, and whether that is what the known trace did."""
    results: list[Any] = []
    recorders: list[MaskedRecorder] = []

    def keep(result: Any) -> Any:
        results.append(picked(select, result, wide=True) if select is not None else result)
        return results[-1]

    def recorder(model_copy: MetaCopy, log: SizeLog, on_meta: bool) -> Recorder:
        results.clear()  # a run may be repeated
        recorders[:] = [MaskedRecorder(model_copy, log, on_meta, masks)]
        return recorders[0]

    wide, calls = wide_module(model), [call.mapped(widened_tensor, objects=True) for call in examples]
    with nothing_kept(wide), in_float64(), narrow_finfo(model), Widen():
        trace = record(wide, calls, keep, on_meta=False, make_recorder=recorder)
    same = not recorders[0].diverged and _did_the_same(masks.channels.trace, trace)
    found = analysis_of(model, trace, vocabulary=masks.channels.labeling.labels.vocabulary)
    return list(dense_outputs(results[: len(examples)])), found, same
