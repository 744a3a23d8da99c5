"""The names of tied tensors, and of modules that are reached by several paths: the first of each, and the others."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from graphprune.utils.modules import Tables, named_modules, named_tensors, tables


def first_names(own: Tables) -> dict[str, str]:
    """For the name of every parameter and buffer, the first one that this tensor has."""
    first: dict[int, str] = {}
    named = (*own.parameters.items(), *own.buffers.items())
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def later_names(model: nn.Module) -> dict[str, str]:
    """The other names of tied parameters and buffers, and of those of modules with several paths, with the first."""
    own = tables(model)
    children = sum([len(module._modules) for _, module in own.modules])
    if children < len(own.modules) and len(own.unique()) == len(tuple(own.named())):
        return {}  # every module has one path, and every tensor one name
    firsts = {id(tensor): name for name, tensor in own.unique()}
    found = {}
    for path, module in _every_path(model):
        for table in (module._parameters, module._buffers):
            named = {f"{path}.{name}" if path else name: firsts.get(id(t)) for name, t in table.items()}
            found.update({name: first for name, first in named.items() if first not in (None, name)})
    return found


def _every_path(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All paths of modules, of which none leads through the same module twice."""
    stack: list[tuple[str, nn.Module, frozenset[int]]] = [("", model, frozenset())]
    while stack:
        path, module, above = stack.pop()
        yield path, module
        above |= {id(module)}
        prefix = f"{path}." if path else ""
        children = ((prefix + name, child) for name, child in module._modules.items() if child is not None)
        stack += [(below, child, above) for below, child in children if id(child) not in above]


def first_name(model: nn.Module, name: str) -> str:
    """The first name of the module, parameter or buffer that has this one; of its axis (``"fc.weight[0]"``) as well.

    Modules may be reached by several paths, and tensors be tied. A name of neither stays as it is.
    """
    whole, bracket, dim = name.partition("[")
    path, _, attribute = whole.rpartition(".")
    module, holder = _module_at(model, whole), _module_at(model, path)
    held = {} if holder is None else {**vars(holder), **holder._buffers, **holder._parameters}
    tensor = held.get(attribute)
    if module is not None:
        whole = next(known for known, other in named_modules(model) if other is module)
    elif isinstance(tensor, Tensor):
        whole = next(known for known, other in named_tensors(model) if other is tensor)
    return f"{whole}{bracket}{dim}"


def _module_at(model: nn.Module, path: str) -> nn.Module | None:
    """The submodule that a path leads to, whether it is the first one or not; None: there is none."""
    found: nn.Module | None = model
    for name in path.split(".") if path else ():
        found = found._modules.get(name) if found is not None else None
    return found
