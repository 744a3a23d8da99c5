"""Walk a module's submodules and tensors once, in torch's order and under torch's names.

``nn.Module.named_modules`` nests a generator for every level; on deep networks the walks that analysis needs would
take longer than the analysis.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


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


def all_names(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    """Parameters and buffers by every name they have."""
    parameters: dict[str, nn.Parameter] = {}
    buffers: dict[str, Tensor] = {}
    for path, module in named_modules(model):
        prefix = f"{path}." if path else ""
        parameters.update((prefix + n, p) for n, p in module._parameters.items() if p is not None)
        buffers.update((prefix + n, b) for n, b in module._buffers.items() if b is not None)
    return parameters, buffers


def plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that modules keep as plain attributes: a table of positions that is no buffer, or something cached."""
    found: dict[str, Tensor] = {}
    for path, module in named_modules(model):
        prefix = f"{path}." if path else ""
        found.update((prefix + n, v) for n, v in vars(module).items() if isinstance(v, Tensor))
    return found


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers, then plain tensors, by qualified name; tied ones once, under their first name."""
    parameters, buffers = all_names(model)
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in (*parameters.items(), *buffers.items(), *plain_tensors(model).items()):
        first.setdefault(id(tensor), (name, tensor))
    return list(first.values())


def all_tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers and tensors kept as plain attributes or in a list (``nn.LSTM``), of every submodule."""
    for _, module in named_modules(model):
        for value in (*module._parameters.values(), *module._buffers.values(), *vars(module).values()):
            if isinstance(value, Tensor):
                yield value
            elif type(value) is list:
                yield from (item for item in value if isinstance(item, Tensor))
