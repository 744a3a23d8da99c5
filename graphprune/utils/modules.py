"""Walk a module's submodules and tensors once, in torch's order and under torch's names.

``nn.Module.named_modules`` nests a generator for every level; on deep networks the walks that analysis needs would
take longer than the analysis.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

_NO_TENSORS = frozenset((type(None), bool, int, float, str, tuple, dict, OrderedDict, set))
"""What most attributes of modules are. Asking whether something is a tensor takes several times as long."""


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All submodules with their paths, shared ones once, as ``model.named_modules()`` gives them."""
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found.append((path, module))
        prefix = f"{path}." if path else ""
        children = [(prefix + name, child) for name, child in module._modules.items() if child is not None]
        stack.extend(reversed(children))
    return found


@dataclass(frozen=True)
class Tables:
    """Parameters, buffers and tensors kept as plain attributes, by every name they have.

    Plain ones are a table of positions that is no buffer, or something cached.
    """

    parameters: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    plain: dict[str, Tensor]

    def unique(self) -> list[tuple[str, Tensor]]:
        """All tensors, parameters first; tied ones once, under their first name."""
        first: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in (*self.parameters.items(), *self.buffers.items(), *self.plain.items()):
            first.setdefault(id(tensor), (name, tensor))
        return list(first.values())


def tables(model: nn.Module) -> Tables:
    """All tensors of a model, by kind."""
    found = Tables({}, {}, {})
    for path, module in named_modules(model):
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                found.parameters[prefix + name] = parameter
        for name, buffer in module._buffers.items():
            if buffer is not None:
                found.buffers[prefix + name] = buffer
        for name, value in vars(module).items():
            if type(value) not in _NO_TENSORS and isinstance(value, Tensor):
                found.plain[prefix + name] = value
    return found


def first_names(own: Tables) -> dict[str, str]:
    """For the name of every parameter and buffer, the first one that this tensor has."""
    first: dict[int, str] = {}
    named = (*own.parameters.items(), *own.buffers.items())
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """All tensors by qualified name, parameters first; tied ones once, under their first name."""
    return tables(model).unique()


def all_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers and tensors kept as plain attributes or in a list (``nn.LSTM``), of every submodule."""
    for _, module in named_modules(model):
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if type(value) is list:
                yield from (item for item in value if isinstance(item, Tensor))
            elif type(value) not in _NO_TENSORS and isinstance(value, Tensor):
                yield value


def within(name: str, paths: Sequence[str]) -> bool:
    """Is a parameter or module inside one of these modules?"""
    return any(name.startswith(f"{path}.") for path in paths)
