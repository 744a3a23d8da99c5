"""The structure of a model as data: its modules, what they hold, and where each of its tensors stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn

from graphprune.errors import SaveError
from graphprune.export.held_settings import described_settings, holds_settings
from graphprune.export.plain_data import encode
from graphprune.tracing.size_places import attributes_held
from graphprune.utils.checks import with_article
from graphprune.utils.modules import module_kind, named_modules
from graphprune.utils.tree import tensors_of
from graphprune.utils.typed_json import Count

LAYOUTS = {"channels_last": torch.channels_last, "channels_last_3d": torch.channels_last_3d}

LONGEST_SETTING = 64
"""Entries of a tuple, and characters of a string, that still are a setting."""


class TensorData(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tensor of a model.

    Attributes:
        parameter: an ``nn.Parameter``, which is trained if ``trained``.
        layout: its memory format, if it is another than the usual one.
        shares: the name of the tensor with the same memory, if that one is another object.
    """

    shape: tuple[Count, ...]
    dtype: str
    parameter: bool = False
    trained: bool = False
    layout: str = ""
    shares: str | None = None


class ModuleData(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A module of a model. Tensors and modules go by their first name.

    Attributes:
        kind: its class (see :func:`graphprune.utils.modules.module_kind`).
        children: by name the path of each, or None.
        parameters, buffers: by name the name of the tensor, or None.
        unsaved: the buffers that are not part of the state dict.
        held: by attribute the tensors in it, in order.
        settings: plain attributes; a tuple is ``{"tuple": [...]}``.
        functions: by attribute the name of the function or class in it.
        others: the other attributes that are not None.
        objects: by attribute the settings of a configuration or the like in it, where it is met first.
        hooks: how many hooks its calls have, but for those of ``torch.nn.utils``.
    """

    path: str
    kind: str
    training: bool
    children: dict[str, str | None] = {}
    parameters: dict[str, str | None] = {}
    buffers: dict[str, str | None] = {}
    unsaved: tuple[str, ...] = ()
    held: dict[str, tuple[str, ...]] = {}
    settings: dict[str, Any] = {}
    functions: dict[str, str] = {}
    others: tuple[str, ...] = ()
    objects: dict[str, dict[str, Any]] = {}
    hooks: int = 0


class Structure(Struct, frozen=True, forbid_unknown_fields=True):
    """All modules, each before those it holds, and all tensors by their first name."""

    modules: tuple[ModuleData, ...]
    tensors: dict[str, TensorData]


def describe_structure(model: nn.Module) -> tuple[Structure, dict[str, Tensor]]:
    """The structure of a model, and its tensors by name; those that share memory once.

    Raises:
        SaveError: there is a tensor or module that cannot be written.
    """
    walk = _Walk()
    modules = named_modules(model)
    paths = {id(module): path for path, module in modules}
    tables = [walk.tables(path, module) for path, module in modules]
    described = [_module(walk, paths, *one, *both) for one, both in zip(modules, tables, strict=True)]
    return Structure(tuple(described), walk.data), walk.tensors


class _Walk:
    """Gives every tensor its first name, and notes what it is."""

    def __init__(self) -> None:
        self.data: dict[str, TensorData] = {}
        self.tensors: dict[str, Tensor] = {}
        self.objects: set[int] = set()
        self._names: dict[int, str] = {}
        self._memory: dict[Any, str] = {}
        self._alive: list[Tensor] = []

    def tables(self, path: str, module: nn.Module) -> tuple[dict[str, str | None], dict[str, str | None]]:
        """The names of parameters and buffers."""
        _check_module(path, module)
        prefix = f"{path}." if path else ""
        return (
            {name: None if t is None else self.name(t, prefix + name) for name, t in module._parameters.items()},
            {name: None if t is None else self.name(t, prefix + name) for name, t in module._buffers.items()},
        )

    def name(self, tensor: Tensor, name: str) -> str:
        """The first name of a tensor, which is ``name`` if it was not seen before."""
        if id(tensor) not in self._names:
            _check_tensor(tensor, name)
            self._names[id(tensor)] = name
            self._alive.append(tensor)
            place = _memory(tensor)
            shares = self._memory.setdefault(place, name)
            self.data[name] = _tensor(tensor, None if shares == name else shares)
            if shares == name:
                self.tensors[name] = tensor.detach()
        return self._names[id(tensor)]


def _memory(tensor: Tensor) -> Any:
    """What two tensors with the same entries in the same memory have in common."""
    if not tensor.numel():
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _tensor(tensor: Tensor, shares: str | None) -> TensorData:
    layouts = (name for name, kind in LAYOUTS.items() if _has_layout(tensor, kind))
    parameter = isinstance(tensor, nn.Parameter)
    return TensorData(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        parameter=parameter,
        trained=tensor.requires_grad and tensor.is_leaf,
        layout=next(layouts, ""),
        shares=shares,
    )


def _has_layout(tensor: Tensor, kind: torch.memory_format) -> bool:
    if tensor.dim() != (4 if kind is torch.channels_last else 5):
        return False
    usual, laid_out = (
        torch.empty(tensor.shape, device="meta", memory_format=f) for f in (torch.contiguous_format, kind)
    )
    return tensor.stride() == laid_out.stride() != usual.stride()


def _module(
    walk: _Walk,
    paths: dict[int, str],
    path: str,
    module: nn.Module,
    parameters: dict[str, str | None],
    buffers: dict[str, str | None],
) -> ModuleData:
    own = _Attributes(walk, path, module)
    return ModuleData(
        path=path,
        kind=module_kind(module),
        training=module.training,
        children={n: None if child is None else paths[id(child)] for n, child in module._modules.items()},
        parameters=parameters,
        buffers=buffers,
        unsaved=tuple(sorted(module._non_persistent_buffers_set)),
        held=own.held,
        settings=own.settings,
        functions=own.functions,
        others=tuple(own.others),
        objects=own.objects,
        hooks=hook_count(module),
    )


def hook_count(module: nn.Module) -> int:
    """How many hooks the calls of a module have, but for those of ``torch.nn.utils``, which its kind tells."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return sum(not type(hook).__module__.startswith("torch.nn.utils") for hook in hooks)


class _Attributes:
    """The attributes of a module, by what they are."""

    def __init__(self, walk: _Walk, path: str, module: nn.Module) -> None:
        self.held: dict[str, tuple[str, ...]] = {}
        self.settings: dict[str, Any] = {}
        self.functions: dict[str, str] = {}
        self.others: list[str] = []
        self.objects: dict[str, dict[str, Any]] = {}
        for name, value in own_attributes(module):
            held = list(tensors_of(value))
            if held:
                single = isinstance(value, Tensor)
                first = f"{path}.{name}" if path else name
                names = [first if single else f"{first}[{i}]" for i in range(len(held))]
                self.held[name] = tuple(map(walk.name, held, names))
            elif is_setting(value):
                self.settings[name] = encode(plain_value(value))
            elif (function := function_name(value)) is not None:
                self.functions[name] = function
            else:
                self.others.append(name)
                if holds_settings(value) and (found := described_settings(value, walk.objects)):
                    self.objects[name] = found


def own_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module, but for those that torch or graphprune keep; TorchScript keeps all."""
    for name, value in attributes_held(module).items() if not isinstance(module, torch.jit.ScriptModule) else ():
        if name != "_graphprune_plans":
            yield name, value


def function_name(value: Any) -> str | None:
    """The name of a function or class; None of anything else."""
    if not callable(value) or isinstance(value, nn.Module):
        return None
    return getattr(value, "__qualname__", None)


# ---------------------------------------------------------------- settings


def plain_value(value: Any) -> Any:
    """A tuple or list of a class of its own (``torch.Size``) as one of Python's, and a number of numpy as well."""
    if isinstance(value, tuple | list):
        items = map(plain_value, value)
        return tuple(items) if isinstance(value, tuple) else list(items)
    return value.item() if isinstance(value, np.bool_ | np.integer | np.floating) else value


def is_setting(value: Any) -> bool:
    """A plain value, or a tuple or list of some."""
    if isinstance(value, tuple | list):
        return len(value) <= LONGEST_SETTING and all(_is_plain(item) for item in value)
    return _is_plain(value)


def _is_plain(value: Any) -> bool:
    value = value if isinstance(value, tuple | list) else plain_value(value)
    if type(value) is int:
        return abs(value) < 1 << 63
    if type(value) is str:
        return len(value) <= LONGEST_SETTING
    return value is None or type(value) in (bool, float)


# ---------------------------------------------------------------- what cannot be written


def _check_tensor(tensor: Tensor, name: str) -> None:
    kind = type(tensor)
    if tensor.is_meta:
        raise SaveError(
            f"slim: {name} is on meta and has no values",
            where=name,
            found="a tensor on meta, without values",
            needed="a model with weights",
            do="save a model with weights: apply the plan to the real model",
        )
    if kind not in (Tensor, nn.Parameter) or tensor.is_quantized or tensor.layout is not torch.strided:
        what = kind.__name__ if kind not in (Tensor, nn.Parameter) else str(tensor.layout)
        raise SaveError(
            f"slim: {name} is a {what}, of which only the entries could be written",
            where=name,
            found=f"a {what}",
            needed="plain tensors",
            do="save before you quantize, shard or make it sparse, or use torch.save(slim)",
        )


def _check_module(path: str, module: nn.Module) -> None:
    where = path or "the model"
    if type(module).get_extra_state is not nn.Module.get_extra_state:
        raise SaveError(
            f"slim: {where} is {with_article(type(module).__name__)} with a state of its own (get_extra_state), "
            "which a bundle "
            "does not hold",
            where=where,
            found=f"{with_article(type(module).__name__)} with get_extra_state",
            needed="modules whose state is parameters and buffers",
            do="use torch.save(slim)",
        )
