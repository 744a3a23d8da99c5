"""What a model holds beside its tensors and settings, and a bundle therefore does not hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.export.structure import Structure, own_attributes
from graphprune.tracing.rebuilt_tensors import is_set_when_built
from graphprune.utils.modules import all_tensors, named_modules
from graphprune.utils.random_state import GENERATORS


def unsaved_values(model: nn.Module, structure: Structure) -> list[str]:
    """Attributes that hold arrays of numpy, generators of random numbers, modules that are no submodules, or a forward
    that was set from outside: their paths, and what they hold.

    What other objects hold (a trainer, a data set) does not count: nobody can tell what is the model's.
    """
    known = {id(tensor) for tensor in all_tensors(model)}
    others = {data.path: {*data.others, *data.functions} for data in structure.modules}
    return [
        f"{path}.{name} ({kind})" if path else f"{name} ({kind})"
        for path, module in named_modules(model)
        for name, value in own_attributes(module)
        if name in others.get(path, ())
        for kind in (*_kinds(value, known), *_forwards(module, name))
    ]


def _forwards(module: nn.Module, name: str) -> list[str]:
    """Says so of a forward that was put in the place of the class's own; what is compiled has it from torch."""
    was_set = name == "forward" and not isinstance(module, torch._dynamo.OptimizedModule)
    return ["a function that was set"] if was_set and not is_set_when_built({"": type(module)}, name) else []


def _kinds(value: Any, known: set[int]) -> list[str]:
    """What of a value is lost, each kind once."""
    kinds = (_kind(part) for part in _parts(value, set()) if not isinstance(part, Tensor) or id(part) not in known)
    return list(dict.fromkeys(kinds))


def _kind(part: Any) -> str:
    if isinstance(part, GENERATORS):
        return "a generator of random numbers"
    return "a numpy array" if isinstance(part, np.ndarray) else "a tensor in a list of modules"


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """The arrays, generators and tensors in containers, modules and dataclasses, however deep."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray | Tensor):
        if not isinstance(value, np.ndarray) or value.dtype.kind in "biufc":
            yield value
    elif isinstance(value, GENERATORS):
        yield value
    elif isinstance(value, nn.Module):
        yield from (*value.parameters(), *value.buffers())
    elif isinstance(value, dict):
        yield from (part for entry in value.values() for part in _parts(entry, seen))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from (part for entry in value for part in _parts(entry, seen))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (part for f in dataclasses.fields(value) for part in _parts(getattr(value, f.name, None), seen))
