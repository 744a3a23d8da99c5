"""Parameters that no call reached, beside channels that are gone: what uses them may not fit any more."""

from __future__ import annotations

import warnings
from math import isqrt

from torch import nn
from torch.nn.modules.conv import _ConvNd

from graphprune.errors import UnreachedWarning
from graphprune.graph.analysis import Analysis
from graphprune.pruning.plan import Plan
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.modules import named_modules, named_tensors, tables, within
from graphprune.utils.switches import switching

NAMED = 4
"""How many parameters a warning names."""


def warn_of_unreached(graph: Analysis, plan: Plan) -> None:
    """Warn of parameters and buffers that stay as they are and may be used with channels that are gone."""
    names = _unreached(graph, plan)
    if not names:
        return
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    switch = _switch(graph.model, names)
    note = f" ({graph.trace.note})" if graph.trace.note else ""
    message = (
        f"{', '.join(names[:NAMED])}{more}: no example runs what uses this{note}, and it has the size of channels of "
        "which some are removed, so it may not fit them any more. Pass a list of examples that run all of the model, "
        f"example_inputs=[first, second] (graphprune.MethodCall for methods other than forward){switch}; if nothing "
        "uses it, ignore this warning"
    )
    warnings.warn(message, UnreachedWarning, stacklevel=frames_of_this_package())


def _switch(model: nn.Module, names: list[str]) -> str:
    """What to do where the classes of these parameters have a way of their own to switch modes, or nothing."""
    own = switching(named_modules(model)) if not model.training else []
    kinds = {type(model.get_submodule(path)).__name__ for path in own if any(within(name, [path]) for name in names)}
    return f", or call model.train() first, as {', '.join(sorted(kinds))} may use it in training" if kinds else ""


def _unreached(graph: Analysis, plan: Plan) -> list[str]:
    """The names of floating-point tensors that no call reached, with a size of which something is gone."""
    kept = [(plan.shapes[name][dim], len(index)) for name, dims in plan.kept.items() for dim, index in dims.items()]
    shrunk = {size for size, left in kept if left < size}
    made = tables(graph.model).plain  # in attributes; forward makes them anew
    missed = (name for name in graph.trace.unreached if name in plan.shapes and name not in made)
    found = [name for name in missed if any(_fits(size, shrunk) for size in _sizes(graph, plan, name))]
    tensors = dict(named_tensors(graph.model)) if found else {}
    return [name for name in found if name in tensors and tensors[name].is_floating_point()]


def _sizes(graph: Analysis, plan: Plan, name: str) -> tuple[int, ...]:
    """The sizes of a tensor, without those of kernels."""
    kind = graph.trace.modules.get(name.rpartition(".")[0], nn.Module)
    return plan.shapes[name][: 2 if issubclass(kind, _ConvNd) else None]


def _fits(size: int, shrunk: set[int]) -> bool:
    """Is it a number of channels, or that times a square: a flattened map?"""
    return any(size % n == 0 and isqrt(size // n) ** 2 == size // n for n in shrunk if n > 1)
