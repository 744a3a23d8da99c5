"""The masked original: run in float64 with the dead elements of every tensor set to zero where it is made.

So they are masked where they are consumed: zeroing only what made them would be wrong (``sigmoid(0) = 0.5``).
Operations that take statistics over channels take them over the living ones.

A model that was traced abstractly is run as its graph. A model that looks at the values of floats may choose
otherwise once channels are masked, so it runs itself, and masks are applied to what its operations return.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from graphprune.copying import copy_module
from graphprune.eager import eagerly
from graphprune.errors import PlanError
from graphprune.graph import ChannelGraph, channel_graph
from graphprune.labels import Labelled
from graphprune.modules import all_tensors, named_tensors
from graphprune.nested import map_tensors, tensors_of
from graphprune.plan import Plan
from graphprune.rules.registry import in_any_type, rule_of
from graphprune.shadow import Shadow
from graphprune.sizes import SizeLog
from graphprune.solve import Mask
from graphprune.trace import Recorder, Trace, record

WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
WIDE |= {torch.complex64: torch.complex128}

Masked = tuple[list[Tensor], tuple[str, ...]]
"""The outputs of the masked original, and the operations that took statistics over the living."""


# ---------------------------------------------------------------- float64


class Widen(TorchDispatchMode):
    """Run a program in float64 even where it asks for a narrower type."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return in_any_type(func)(*_widened(args), **_widened(kwargs or {}))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return WIDE.get(value, value)
    if isinstance(value, tuple | list):
        return type(value)([_widened(v) for v in value])
    if isinstance(value, dict):
        return {k: _widened(v) for k, v in value.items()}
    return value


def wide(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the processor, in double precision if it is a float."""
    tensor = tensor.detach().to("cpu", copy=True)
    return tensor.to(WIDE.get(tensor.dtype, tensor.dtype))


def wide_module(model: nn.Module) -> nn.Module:
    """A copy of a module in evaluation mode and float64."""
    return copy_module(model, {id(t): _wide_like(t) for t in all_tensors(model)}).eval()


def _wide_like(tensor: Tensor) -> Tensor:
    copy = wide(tensor)
    return nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy


@contextmanager
def in_float64() -> Iterator[None]:
    """What holds while a program runs in float64."""
    default = torch.get_default_dtype()
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.set_default_dtype(torch.float64)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(default)
        torch.backends.mha.set_fastpath_enabled(fastpath)


class FixedEps(TorchFunctionMode):
    """``rms_norm`` without an ``eps`` would take that of the type of its input."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.rms_norm, torch.rms_norm):
            given = dict(zip(("input", "normalized_shape", "weight", "eps"), args, strict=False)) | kwargs
            return func(**{**given, "eps": self.eps if given.get("eps") is None else given["eps"]})
        return func(*args, **kwargs)


@contextmanager
def limits_of(model: nn.Module) -> Iterator[None]:
    """What a program is told about its floating-point type stays what it was before the type became float64."""
    narrow = next((t.dtype for t in all_tensors(model) if t.dtype in WIDE), torch.float64)
    finfo = torch.finfo

    def told(kind: torch.dtype = torch.float64) -> torch.finfo:
        return finfo(narrow if kind is torch.float64 else kind)

    with mock.patch.object(torch, "finfo", told), FixedEps(finfo(narrow).eps):
        yield


# ---------------------------------------------------------------- masks


class Masks:
    """Which elements of every traced tensor live, and the masked forms of operations that mix channels."""

    def __init__(self, graph: ChannelGraph, alive: Mask) -> None:
        self.channels = graph
        self.alive = alive
        self.inexact: dict[str, None] = {}

    def labels(self, node: fx.Node) -> Labelled | None:
        value = self.channels.labelling.values.get(self.channels.trace.original(node))
        return value if isinstance(value, Labelled) else None

    def of(self, node: fx.Node) -> Tensor | None:
        """The living elements, broadcasting to the tensor's shape; None: all."""
        value, found = self.labels(node), None
        for lab in value.labs if value is not None else ():
            here = self.alive[self.channels.solution.of[lab.ids]]
            found = here if found is None else found & here
        return None if found is None or found.all() else torch.from_numpy(np.ascontiguousarray(found))

    def apply(self, out: Any, node: fx.Node) -> Any:
        """Zero the dead elements of what a node made, in place. A view's are dead in what it is a view of."""
        mask = self.of(node) if isinstance(out, Tensor) and not _is_view(node) else None
        return out if mask is None else out.masked_fill_(~mask, 0)

    def statistics(self, node: fx.Node, args: tuple, kwargs: dict) -> Any:
        """The result of an operation that mixes channels some of which are dead; None: nothing to heed."""
        site = self.channels.trace.site(node)
        text = self.channels.labelling.labels.facts.inexact.get(site)
        rule = rule_of(node.target)
        mask = self.of(node.args[0]) if text and isinstance(node.args[0], fx.Node) else None
        if mask is None or rule is None or rule.masked is None:
            return None
        self.inexact[f"{text} ({node.name})"] = None
        return rule.masked(mask.expand(args[0].shape), *args, **kwargs)


def _is_view(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is operator.getitem:
        return False
    returns = node.target._schema.returns  # type: ignore[union-attr]
    return bool(returns and returns[0].alias_info is not None and not returns[0].alias_info.is_write)


# ---------------------------------------------------------------- the graph of an abstract trace


class MaskedInterpreter(fx.Interpreter):
    """Run the evaluation part of a traced graph in float64 with the dead elements of every tensor zeroed."""

    def __init__(self, masks: Masks, ways: Mapping[fx.Node, fx.Node]) -> None:
        self.masks = masks
        self.ways = ways
        self.kept: dict[fx.Node, Any] = dict.fromkeys(ways.values())
        self.channels = masks.channels
        self.tensors = dict(named_tensors(self.channels.model))
        super().__init__(nn.Module(), graph=self.channels.trace.evaluation())

    def run_node(self, n: fx.Node) -> Any:
        node = self.channels.trace.original(n)
        out = self._run(n) if node not in self.ways else self.kept[self.ways[node]]
        if node in self.kept:
            self.kept[node] = out.clone()  # what comes later may work in place
        return out

    def _run(self, n: fx.Node) -> Any:
        if n.op == "get_attr":
            return self.masks.apply(wide(self._load(n)), n)
        if n.op != "call_function" or n.target is operator.getitem:
            out = super().run_node(n)
            return self.masks.apply(out, n) if n.op == "call_function" else out
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        args, kwargs = _widened(_on_cpu(args)), _widened(_on_cpu(kwargs))
        masked = self.masks.statistics(n, args, kwargs)
        # The processor may lay a tensor out in another order than ``meta`` did, where a view is not possible.
        target = torch.reshape if n.target is torch.ops.aten.view.default else in_any_type(n.target)
        out = masked if masked is not None else target(*args, **kwargs)
        return self.masks.apply(out, n)

    def _load(self, node: fx.Node) -> Tensor:
        name = node.meta.get("tensor")
        return self.tensors[name] if name is not None else self.channels.trace.constants[str(node.target)]


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, tuple | list):
        return type(value)([_on_cpu(v) for v in value])
    if isinstance(value, dict):
        return {k: _on_cpu(v) for k, v in value.items()}
    return value


@eagerly()
def run_masked(graph: ChannelGraph, plan: Plan | None, inputs: list[Tensor]) -> Masked:
    """Run the graph of the original with the dead masked; a block that is left out gives back what it is given."""
    masks = Masks(graph, graph.alive(plan))
    skipped = plan.skipped if plan else ()
    ways = {block.result: block.source for block in graph.blocks if block.path in skipped}
    with in_float64():
        outputs = MaskedInterpreter(masks, ways).run(*map(wide, inputs))
    return list(outputs), tuple(masks.inexact)


# ---------------------------------------------------------------- a model that looks at values


class MaskedRecorder(Recorder):
    """Record a model while it runs masked, as long as it does what the known trace did.

    Each node is compared with the known node of the same number, whose labels say what is dead in it. Once they
    differ the run has ``strayed``: from there on nothing is masked, and what is recorded shows another way.
    """

    def __init__(self, shadow: Shadow, log: SizeLog, abstract: bool, masks: Masks) -> None:
        super().__init__(shadow, log, abstract)
        self.masks = masks
        trace = masks.channels.trace
        self.known = list(trace.graph.nodes)[: trace.evaluated]
        self.strayed = False

    def execute(self, func: Any, args: tuple, kwargs: dict) -> Any:
        known = self._known(len(self.graph.nodes))
        masked = self.masks.statistics(known, args, kwargs) if known is not None and known.target is func else None
        return masked if masked is not None else super().execute(func, args, kwargs)

    def _bind(self, tensor: Tensor, node: fx.Node) -> None:
        super()._bind(tensor, node)
        known = self._known(len(self.graph.nodes) - 1)
        if known is not None:
            self.strayed = not (_alike(known, node) and _fits(self.masks.labels(known), tensor.shape))
        if known is not None and not self.strayed:
            with _disable_current_modes():  # masking is no part of the program
                self.masks.apply(tensor, known)

    def _known(self, number: int) -> fx.Node | None:
        return self.known[number] if not self.strayed and number < len(self.known) else None


def _alike(known: fx.Node, node: fx.Node) -> bool:
    """The same operation. (Its operands are compared when the run is over.)"""
    return known.op == node.op and known.target == node.target


def _fits(labels: Labelled | None, shape: torch.Size) -> bool:
    """Do the labels still belong to the tensor? Where there are none, a dimension may have become longer."""
    for lab in labels.labs if labels is not None else ():
        sizes = lab.ids.shape
        if len(sizes) != len(shape) or any(m not in (1, n) for m, n in zip(sizes, shape, strict=True)):
            return False
    return True


def _did_the_same(known: Trace, trace: Trace) -> bool:
    """Did both evaluations call the same operations with the same operands and the same numbers?"""
    both = [list(t.graph.nodes)[: t.evaluated] for t in (known, trace)]
    number = {node: i for nodes in both for i, node in enumerate(nodes)}

    def calls(nodes: list[fx.Node]) -> list[str]:
        named = (fx.node.map_arg((n.args, n.kwargs), lambda a: f"%{number[a]}") for n in nodes)
        return [f"{n.op} {n.target} {arguments}" for n, arguments in zip(nodes, named, strict=True)]

    return calls(both[0]) == calls(both[1])


_ATTEMPTS = 12


def follow_masked(graph: ChannelGraph, plan: Plan, args: tuple, kwargs: dict) -> Masked:
    """Run the original itself, masked, until it does what the trace that its labels come from did.

    A run is right up to the operation where it strays, and its recording is the trace of the next, which so comes
    further.

    Raises:
        PlanError: it took another way every time.
    """
    for _ in range(_ATTEMPTS):
        masks = Masks(graph, graph.alive(plan))
        outputs, graph, same = _run_and_record(graph.model, masks, args, kwargs)
        if same:
            return outputs, tuple(masks.inexact)
    raise PlanError(f"model: {type(graph.model).__name__} takes another way through its code on every masked run")


def _run_and_record(
    model: nn.Module, masks: Masks, args: tuple, kwargs: dict
) -> tuple[list[Tensor], ChannelGraph, bool]:
    """The outputs of a masked run, what it did, and whether that is what the known trace did."""
    results: list[Any] = []
    recorders: list[MaskedRecorder] = []

    def keep(result: Any) -> Any:
        results.append(result)
        return result

    def recorder(shadow: Shadow, log: SizeLog, abstract: bool) -> Recorder:
        recorders.append(MaskedRecorder(shadow, log, abstract, masks))
        return recorders[0]

    with in_float64(), limits_of(model), Widen():
        wide_inputs: tuple[tuple, dict] = map_tensors(wide, (args, kwargs))
        trace = record(wide_module(model), *wide_inputs, outputs=keep, abstract=False, make_recorder=recorder)
    same = not recorders[0].strayed and _did_the_same(masks.channels.trace, trace)
    return list(tensors_of(results[0])), channel_graph(model, trace), same
