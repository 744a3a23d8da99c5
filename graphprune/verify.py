"""The proof: the slim model against the original graph with its dead channels masked.

The traced graph of the original is run in float64, and wherever a tensor is made, its dead elements are set to zero,
so that they are masked where they are consumed (zeroing only what made them would be wrong: ``sigmoid(0) = 0.5``).
Operations that take statistics over channels take them over the living ones. The slim model runs in float64 too.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.abstract import is_float
from graphprune.copying import copy_module
from graphprune.errors import PlanError
from graphprune.graph import ChannelGraph, trace
from graphprune.inputs import normalise
from graphprune.modules import all_tensors, named_tensors
from graphprune.nested import map_tensors, tensors_of
from graphprune.plan import Plan
from graphprune.rules import RULES
from graphprune.solve import Mask

WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
WIDE |= {torch.complex64: torch.complex128}


@dataclass(frozen=True)
class Check:
    """How far the slim model is from the masked original.

    ``relative`` is the largest difference of an output divided by that output's largest magnitude; ``absolute``
    the largest difference; ``inexact`` names the operations that took statistics over the living channels.
    """

    relative: float
    absolute: float
    outputs: int
    tolerance: float
    inexact: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.relative <= self.tolerance

    def __str__(self) -> str:
        verdict = "equal to" if self.passed else "DIFFERENT from"
        lines = [
            f"The slim model is {verdict} the masked original: largest relative difference {self.relative:.1e} "
            f"(absolute {self.absolute:.1e}) over {self.outputs} output tensors in float64, tolerance "
            f"{self.tolerance:.0e}."
        ]
        if self.inexact:
            lines.append(f"Statistics over the living channels in {len(self.inexact)} places: {self.inexact[0]}, ...")
        return "\n".join(lines)


class Widen(TorchDispatchMode):
    """Run a program in float64 even where it asks for a narrower type."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return func(*_widened(args), **_widened(kwargs or {}))


def _widened(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return WIDE.get(value, value)
    if isinstance(value, tuple | list):
        return type(value)([_widened(v) for v in value])
    if isinstance(value, dict):
        return {k: _widened(v) for k, v in value.items()}
    return value


def _wide(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().to("cpu", copy=True)
    return tensor.to(WIDE.get(tensor.dtype, tensor.dtype))


@contextmanager
def _in_float64() -> Iterator[None]:
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


class MaskedInterpreter(fx.Interpreter):
    """Run the evaluation part of a traced graph in float64 with the dead elements of every tensor zeroed."""

    def __init__(self, graph: ChannelGraph, alive: Mask) -> None:
        self.channels = graph
        self.alive = alive
        self.tensors = dict(named_tensors(graph.model))
        self.inexact: dict[str, None] = {}
        super().__init__(nn.Module(), graph=graph.trace.evaluation())

    def mask(self, node: fx.Node) -> Tensor | None:
        """Which elements of a node's tensor live; None: all."""
        value = self.channels.labelling.values.get(self.channels.trace.original(node))
        found = None
        for lab in value.labs if value is not None and hasattr(value, "labs") else ():
            here = self.alive[self.channels.solution.of[lab.ids]]
            found = here if found is None else found & here
        return None if found is None or found.all() else torch.from_numpy(np.ascontiguousarray(found))

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "get_attr":
            return self._load(n)
        if n.op != "call_function" or n.target is operator.getitem:
            out = super().run_node(n)
            return self._masked(out, n) if n.op == "call_function" else out
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        args, kwargs = _widened(_on_cpu(args)), _widened(_on_cpu(kwargs))
        masked = self._statistics(n, args, kwargs)
        # The processor may lay a tensor out in another order than ``meta`` did, where a view is not possible.
        target = torch.reshape if n.target is torch.ops.aten.view.default else n.target
        out = masked if masked is not None else target(*args, **kwargs)  # type: ignore[operator]
        return out if _is_view(n.target) else self._masked(out, n)

    def _load(self, node: fx.Node) -> Tensor:
        name = node.meta.get("tensor")
        constants = self.channels.trace.constants
        tensor = self.tensors[name] if name is not None else constants[str(node.target)]
        return self._masked(_wide(tensor), node)

    def _masked(self, out: Any, node: fx.Node) -> Any:
        mask = self.mask(node) if isinstance(out, Tensor) else None
        return out if mask is None else out.masked_fill_(~mask, 0)

    def _statistics(self, node: fx.Node, args: tuple, kwargs: dict) -> Any:
        """The masked form of an operation that mixes channels some of which are dead."""
        site = self.channels.trace.site(node)
        text = self.channels.labelling.labels.facts.inexact.get(site)
        rule = RULES.get(node.target)
        mask = self.mask(node.args[0]) if text and isinstance(node.args[0], fx.Node) else None
        if mask is None or rule is None or rule.masked is None:
            return None
        self.inexact[f"{text} ({node.name})"] = None
        return rule.masked(mask.expand(args[0].shape), *args, **kwargs)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, tuple | list):
        return type(value)([_on_cpu(v) for v in value])
    if isinstance(value, dict):
        return {k: _on_cpu(v) for k, v in value.items()}
    return value


def _is_view(op: Any) -> bool:
    returns = op._schema.returns
    return bool(returns and returns[0].alias_info is not None and not returns[0].alias_info.is_write)


def run_masked(graph: ChannelGraph, alive: Mask, inputs: list[Tensor]) -> tuple[list[Tensor], tuple[str, ...]]:
    """The outputs of the original with the dead masked, and the operations that took masked statistics."""
    with _in_float64():
        interpreter = MaskedInterpreter(graph, alive)
        outputs = interpreter.run(*map(_wide, inputs))
    return list(outputs), tuple(interpreter.inexact)


def run_slim(slim: nn.Module, args: tuple, kwargs: dict) -> list[Tensor]:
    """The outputs of a module in evaluation mode and float64; the module is not changed."""
    wide = copy_module(slim, {id(t): _wide_like(t) for t in all_tensors(slim)}).eval()
    with _in_float64(), Widen():
        result = wide(*map_tensors(_wide, args), **map_tensors(_wide, kwargs))
    return list(tensors_of(result))


def _wide_like(tensor: Tensor) -> Tensor:
    wide = _wide(tensor)
    return nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide


def verify(model: nn.Module, slim: nn.Module, plan: Plan, example_inputs: Any, *, tolerance: float = 1e-10) -> Check:
    """Compare the slim model with the masked original, both in evaluation mode and float64.

    Args:
        model: the original; its weights must be those the slim model was made from.
        slim: the result of ``plan.apply(model)``.
        plan: what was removed.
        example_inputs: as for :func:`graphprune.trace`; real tensors.
        tolerance: largest relative difference that passes.

    Raises:
        PlanError: the plan is not for this model, or the slim outputs differ in number or shape.
    """
    args, kwargs = normalise(example_inputs)
    graph = trace(model, example_inputs)
    inputs = [*tensors_of(args), *tensors_of(kwargs)]
    expected, inexact = run_masked(graph, graph.alive(plan), inputs)
    found = run_slim(slim, args, kwargs)
    if [t.shape for t in expected] != [t.shape for t in found]:
        raise PlanError(
            f"slim: its outputs have shapes {[list(t.shape) for t in found]}, the original's are "
            f"{[list(t.shape) for t in expected]}; pass the module that plan.apply(model) returned"
        )
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a.numel()]
    absolute = [float((a - b).abs().max()) if is_float(a) else float((a != b).any()) for a, b in pairs]
    relative = [d / max(float(a.abs().max()), 1e-300) for d, (a, _) in zip(absolute, pairs, strict=True)]
    worst = max(relative, default=0.0)
    worst = worst if all(r == r for r in relative) else float("nan")
    return Check(worst, max(absolute, default=0.0), len(pairs), tolerance, inexact)
