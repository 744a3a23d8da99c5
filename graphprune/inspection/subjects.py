"""What a name, a module or a group stands for: parameter axes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from torch import nn

from graphprune.errors import InputError
from graphprune.graph.analysis import Analysis
from graphprune.graph.groups import Group
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.checks import did_you_mean, found_value, shown, with_article
from graphprune.utils.modules import named_modules, named_tensors
from graphprune.utils.tied_names import first_name


@dataclass(frozen=True)
class Subject:
    """What a question is about.

    Attributes:
        name: what it is called in sentences.
        axes: the dimensions of its parameters and buffers in which the graph knows channels.
        parameters: its parameters and buffers by name.
        group: the group that was asked about; None: a module, a parameter or an axis was.
    """

    name: str
    axes: tuple[ParameterAxis, ...]
    parameters: tuple[str, ...]
    group: Group | None = None


def find_subject(graph: Analysis, what: object) -> Subject:
    """The subject that a user means.

    Args:
        graph: where it is looked for.
        what: the path of a module, the name of a parameter or buffer, an axis (``"conv1.weight[0]"``), the name of a
            group; or a module or group itself. A module goes before a group that is named after it.

    Raises:
        InputError: the graph has nothing of that name; the message says which names resemble it.
    """
    if isinstance(what, Group):
        return _of_group(graph, what)
    if isinstance(what, nn.Module):
        return _of_module(graph, _path_of(graph, what), what)
    if not isinstance(what, str):
        raise InputError(
            f"name: must be a name, a module or a group, but is {shown(what)}",
            found=found_value(what),
            needed="a name, a module or a group",
            do="pass the path of a module, such as 'layer1.0.conv1'",
        )
    what, modules = first_name(graph.model, what), dict(named_modules(graph.model))
    if what in modules:
        return _of_module(graph, what, modules[what])
    if what in graph.trace.shapes:
        return Subject(what, _axes_of(graph, [what]), (what,))
    axis = next((axis.parameter_axis for axis in graph.units.axes if axis.parameter_axis == what), None)
    if axis is not None:
        return Subject(what, (axis,), (axis.parameter,))
    group = next((group for group in graph.groups if group.name == what), None)
    if group is not None:
        return _of_group(graph, group)
    raise _unknown(graph, what, modules)


def _of_group(graph: Analysis, group: Group) -> Subject:
    if not any(group is known or group.axes == known.axes for known in graph.groups):
        raise InputError(
            f"name: group {group.name!r} is of another graph",
            where=f"group {group.name!r}",
            found="a group with other axes than those of this graph",
            needed="a group of this graph",
            do="pass one of graph.groups",
        )
    parameters = tuple(dict.fromkeys(axis.parameter for axis in group.axes))
    return Subject(f"group {group.name}", group.axes, parameters, group)


def _path_of(graph: Analysis, module: nn.Module) -> str:
    for path, known in named_modules(graph.model):
        if known is module:
            return path
    raise InputError(
        f"name: this {type(module).__name__} is no module of the traced {type(graph.model).__name__}",
        found=f"{with_article(type(module).__name__)} of another model",
        needed=f"a module of the traced {type(graph.model).__name__}",
        do="pass one of graph.model.modules(), or its name",
    )


def _of_module(graph: Analysis, path: str, module: nn.Module) -> Subject:
    """The parameters of a module and of those within it; tied ones under the name that the graph has for them."""
    held = {id(tensor) for tensor in chain(module.parameters(), module.buffers())}
    names = tuple(name for name, tensor in named_tensors(graph.model) if id(tensor) in held)
    called = f"{path} ({type(module).__name__})" if path else type(module).__name__
    return Subject(called, _axes_of(graph, names), names)


def _axes_of(graph: Analysis, names: tuple[str, ...] | list[str]) -> tuple[ParameterAxis, ...]:
    known = set(names)
    return tuple(a.parameter_axis for a in graph.units.axes if a.parameter_axis.parameter in known)


def _unknown(graph: Analysis, what: str, modules: dict[str, nn.Module]) -> InputError:
    known = dict.fromkeys([*modules, *graph.trace.shapes, *(group.name for group in graph.groups)])
    axes = (str(axis.parameter_axis) for axis in graph.units.axes) if "[" in what else ()
    return InputError(
        f"name: {what!r} is no module, parameter, axis or group of the traced {type(graph.model).__name__}"
        f"{did_you_mean(what, [*known, *axes])}",
        found=f"the name {what!r}",
        needed=f"one of the {len(known)} names of modules, parameters, axes and groups",
        do="print(graph) lists the groups, graph.model.named_modules() the modules",
    )
