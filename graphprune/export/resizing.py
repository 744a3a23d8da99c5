"""Give a network of dense sizes its slim ones, with torch alone: generated files contain these functions."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\['([^'\\]*)'\]")


def set_place(holder: Any, place: str, value: Any) -> Any:
    """Set what stands at a place such as ``shape[1]`` or ``config.sizes['heads']``; past the hooks of its class.

    Returns:
        The holder, or the tuple or slice that takes its place.
    """
    step = STEP.match(place)
    assert step is not None
    name, position, key = step.groups()
    rest = place[step.end() :]
    index = int(position) if key is None and position else key
    if rest:
        inner = getattr(holder, name) if name else holder[index]
        value = set_place(inner, rest, value)
    if isinstance(holder, slice):
        return slice(*(value if n == name else getattr(holder, n) for n in ("start", "stop", "step")))
    if name and (name in getattr(holder, "__dict__", {}) or isinstance(holder, nn.Module)):
        vars(holder)[name] = value
    elif name:
        object.__setattr__(holder, name, value)
    elif isinstance(holder, dict):
        dict.__setitem__(holder, index, value)
    elif isinstance(holder, list):
        list.__setitem__(holder, int(position), value)
    else:
        items = [value if i == index else item for i, item in enumerate(holder)]
        return type(holder)(*items) if hasattr(holder, "_fields") else type(holder)(items)
    return holder


def set_attributes(model: nn.Module, attributes: dict[str, dict[str, Any]]) -> None:
    """Set what differs, by module and by place within it; in copies of objects, which other models may share."""
    memo: dict[int, Any] = {id(part): part for part in (*model.modules(), *model.parameters(), *model.buffers())}
    parts = set(memo)
    for path, places in attributes.items():
        held = vars(model.get_submodule(path))
        for name, place in ((place.partition(".")[0].partition("[")[0], place) for place in places):
            if name in held and name != place:
                copy.deepcopy(held[name], memo)
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if id(value) in memo and id(value) not in parts:
                vars(module)[name] = memo[id(value)]
    for path, places in attributes.items():
        for place, value in places.items():
            set_place(model.get_submodule(path), place, value)


def replace_modules(model: nn.Module, paths: list[str], make: Callable[[Any], nn.Module]) -> None:
    """Put what ``make`` makes of the module at each path in its place."""
    for path in paths:
        parent, _, name = path.rpartition(".")
        owner = model.get_submodule(parent)
        owner._modules[name] = make(owner._modules[name])


def set_tensors(model: nn.Module, tensors: dict[str, Tensor | None], tied: dict[str, str]) -> None:
    """Put tensors where parameters, buffers, attributes or what these hold have those names; tied ones are one."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in [*tensors, *tied]:
        path, _, last = name.rpartition(".")
        module, first = modules.get(path), tied.get(name, name)
        tensor = tensors[first]
        if module is not None and last in module._parameters:
            if tensor is not None and not isinstance(tensor, nn.Parameter):
                tensor = tensors[first] = nn.Parameter(tensor, tensor.is_floating_point() or tensor.is_complex())
            module._parameters[last] = tensor
        elif module is not None and last in module._buffers:
            module._buffers[last] = tensor
        else:
            set_place(model, name, tensor)


def aligned(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where its memory is not as torch allocates it: kernels would round otherwise."""
    return tensor.clone() if tensor.data_ptr() % 64 else tensor
