"""Parameters and other tensors that no call reached, beside channels that are gone: users of them may not fit."""

from __future__ import annotations

import warnings

from torch import nn

from graphprune.errors import UnreachedWarning
from graphprune.graph.analysis import Analysis
from graphprune.pruning.added_tensors import fits_channels, listed_names, shrunk_sizes
from graphprune.pruning.plan import Plan
from graphprune.tracing.rebuilt_tensors import is_rebuilt
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.modules import named_modules, named_tensors, tables, within
from graphprune.utils.reached_functions import bases_of_users, function_of
from graphprune.utils.switches import switching


def warn_of_unreached(graph: Analysis, plan: Plan) -> None:
    """Warn of tensors of the model that stay as they are and may be used with channels that are gone."""
    names = _unreached(graph, plan)
    if not names:
        return
    switch = _switch(graph.model, names)
    note = f" ({graph.trace.note})" if graph.trace.note else ""
    message = (
        f"{listed_names(names)}: no example runs what uses this{note}, and it has the size of channels of which "
        "some are removed, so it may not fit them any more. Pass a list of examples that run all of the model, "
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
    shrunk = shrunk_sizes(plan.shapes, plan.kept)
    shapes, classes = graph.trace.shapes, graph.trace.modules
    plain = tables(graph.model).plain
    missed = (n for n in graph.trace.unreached if n in shapes and n not in plan.kept)
    missed = (n for n in missed if n not in plain or _may_be_read(graph, n))
    kinds = ((name, classes.get(name.rpartition(".")[0], nn.Module)) for name in missed)
    found = [name for name, kind in kinds if fits_channels(shapes[name], kind, shrunk)]
    tensors = dict(named_tensors(graph.model)) if found else {}
    return [name for name in found if name in tensors and tensors[name].is_floating_point()]


def _may_be_read(graph: Analysis, name: str) -> bool:
    """Do methods know a tensor in an attribute, which forward does not make anew and which is no example of inputs?"""
    path, _, attribute = name.rpartition(".")
    shape, kind = graph.trace.shapes[name], graph.trace.modules.get(path, nn.Module)
    inputs = (node.meta["shape"] for node in graph.trace.inputs)
    if is_rebuilt(graph.trace.modules, name) or any(len(shape) > 1 and shape[1:] == one[1:] for one in inputs):
        return False
    members = (member for base in bases_of_users(kind) for member in vars(base).values())
    return any(attribute in found.__code__.co_names for found in map(function_of, members) if found is not None)
