"""Give a model the structure and tensors that were saved: what differs from it is set right, or named as a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.export.held_settings import holds_settings, set_settings
from graphprune.export.plain_data import decode
from graphprune.export.structure import (
    ModuleData,
    Structure,
    function_name,
    hook_count,
    is_setting,
    own_attributes,
    plain_value,
)
from graphprune.utils.exchange import exchange_tensors
from graphprune.utils.held import tensors_in_objects
from graphprune.utils.modules import class_name, module_kind, named_modules, tables
from graphprune.utils.tree import map_tensors, tensors_of

_MISSING = object()


def restore(model: nn.Module, structure: Structure, tensors: Mapping[str, Tensor]) -> list[str]:
    """Make ``model`` what was saved; nothing is run for it but constructors of nothing.

    Modules of ``torch.nn`` that are others than in ``model`` are made anew. Numbers, flags and short names among the
    attributes are set, and those in configurations; parameters and buffers are those that were saved, whatever their
    shapes.

    Args:
        model: as the plans make it, on any device; it is changed.
        structure: of the saved model.
        tensors: by their first name.

    Returns:
        What could not be restored, in words.
    """
    work, before = _Restoring(model, structure, tensors), dict(tables(model).named())
    for data in structure.modules:
        work.module(data)
    for data in structure.modules:
        work.fill(data)
    now = dict(tables(model).named())
    exchange_tensors(model, {id(old): now[name] for name, old in before.items() if name in now})
    return work.problems or _empty_tensors(model)


def missing_hooks(model: nn.Module, structure: Structure) -> list[str]:
    """The modules that have fewer hooks than were there when they were saved, by name."""
    saved = {data.path: data.hooks for data in structure.modules}
    return [_where(path) for path, module in named_modules(model) if hook_count(module) < saved.get(path, 0)]


def stock_class(kind: str) -> type[nn.Module] | None:
    """The class of ``torch.nn`` with this name."""
    found: Any = getattr(nn, kind.rpartition(".")[2], None)
    known = isinstance(found, type) and issubclass(found, nn.Module) and kind.startswith("torch.nn.modules.")
    return found if known and class_name(found) == kind else None


def can_be_made(data: ModuleData) -> bool:
    """Is everything that a module holds in its data, and its class one of torch?"""
    return stock_class(data.kind) is not None and not (data.functions or data.others)


def is_class(name: str, kind: str) -> bool:
    """Do two names stand for the same class? One of torch has a place, those of users may move."""
    if name.startswith("torch.") or kind.startswith("torch."):
        return name == kind
    return name.rpartition(".")[2] == kind.rpartition(".")[2]


def _empty_tensors(model: nn.Module) -> list[str]:
    """Which attributes hold tensors without values, in containers, objects and functions too."""
    found, modules = [], named_modules(model)
    submodules = {id(module) for _, module in modules}
    for path, module in modules:
        held = [(name, tensor) for name, value in own_attributes(module) for tensor in _held(value, submodules)]
        found += [f"{_where(path)}.{name} has no values in the bundle" for name, tensor in held if tensor.is_meta]
    return found


def _held(value: Any, submodules: set[int]) -> Iterator[Tensor]:
    return iter(()) if is_setting(value) else tensors_in_objects(value, submodules)


def _where(path: str) -> str:
    return path or "the model"


class _Restoring:
    """What is known of the model that is restored, and what went wrong so far."""

    def __init__(self, model: nn.Module, structure: Structure, tensors: Mapping[str, Tensor]) -> None:
        self.problems: list[str] = []
        self._existing = dict(named_modules(model))
        self._modules: dict[str, nn.Module] = {}
        self._new: set[str] = set()
        self._data = structure.tensors
        self._tensors = tensors
        self._made: dict[str, Tensor] = {}

    def module(self, data: ModuleData) -> None:
        """The module at a path: the one that is there, or one of torch in its place."""
        there = self._existing.get(data.path)
        if there is not None and is_class(module_kind(there), data.kind):
            self._modules[data.path] = there
        elif can_be_made(data) and data.path:
            self._modules[data.path] = _bare(data)
            self._new.add(data.path)
        else:
            found = "missing" if there is None else f"a {module_kind(there)}"
            self.problems.append(f"{_where(data.path)} was a {data.kind} and is {found}")

    def fill(self, data: ModuleData) -> None:
        """Children, tensors and settings of a module."""
        module = self._modules.get(data.path)
        if module is None:
            return
        if isinstance(module, torch.jit.ScriptModule):
            self._fill_script(module, data)
            return
        module._modules.clear()
        for name, path in data.children.items():
            child = None if path is None else self._modules.get(path)
            if path is None or child is not None:
                module._modules[name] = child
        self._fill_tables(module, data)
        for name, keys in data.held.items():
            self._hold(module, name, keys, data.path)
        for name, value in data.settings.items():
            self._set(module, name, decode(value), data.path)
        for name, found in data.objects.items():
            if holds_settings(holder := vars(module).get(name)):
                set_settings(holder, found)
        for name, function in data.functions.items():
            now = function_name(vars(module).get(name))
            if now is not None and now != function:
                self.problems.append(f"{_where(data.path)}.{name} was {function} and is {now}")
        module.training = data.training
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()

    # ------------------------------------------------------------ tensors

    def _fill_tables(self, module: nn.Module, data: ModuleData) -> None:
        parameters = {name: self._tensor(key, module._parameters.get(name)) for name, key in data.parameters.items()}
        buffers = {name: self._tensor(key, module._buffers.get(name)) for name, key in data.buffers.items()}
        for table, found in ((module._parameters, parameters), (module._buffers, buffers)):
            table.clear()
            table.update(found)  # type: ignore[arg-type]
        module._non_persistent_buffers_set.clear()
        module._non_persistent_buffers_set.update(data.unsaved)

    def _fill_script(self, module: nn.Module, data: ModuleData) -> None:
        """TorchScript has its own tables, of which only the entries can be set; nothing else of it was changed."""
        for name, key in (*data.parameters.items(), *data.buffers.items()):
            if key is not None:
                setattr(module, name, self._tensor(key))
        module.train(data.training)

    def _tensor(self, key: str | None, old: Tensor | None = None) -> Tensor | None:
        """The tensor of a name, one object for every name."""
        if key is None:
            return None
        if key not in self._made:
            data = self._data[key]
            values = self._tensors[data.shares or key]
            made = nn.Parameter(values, data.trained) if data.parameter else values.detach()
            if not data.parameter and data.trained:
                made.requires_grad_()
            if isinstance(made, nn.Parameter) and isinstance(old, nn.Parameter):
                vars(made).update(vars(old))
            self._made[key] = made
        return self._made[key]

    def _hold(self, module: nn.Module, name: str, keys: tuple[str, ...], path: str) -> None:
        """Put tensors into an attribute, also of a number; a list or dictionary that is empty in the model stays so."""
        value = vars(module).get(name)
        found = iter([self._tensor(key) for key in keys])
        count = len(list(tensors_of(value)))
        alone = keys == (f"{path}.{name}" if path else name,)
        if (path in self._new and len(keys) == 1) or (alone and (value is None or _holds_number(value))):
            vars(module)[name] = next(found)
        elif count == len(keys):
            vars(module)[name] = map_tensors(lambda _: next(found), value)
        elif count:
            self.problems.append(f"{_where(path)}.{name} held {len(keys)} tensors and holds {count}")

    # ------------------------------------------------------------ settings

    def _set(self, module: nn.Module, name: str, value: Any, path: str) -> None:
        """Set an attribute that the module has already, if it is a number, a flag or a short name.

        A missing fraction is one that ``forward`` works out when it runs first, of dense sizes; a missing flag or count
        may tell of a cache that a bundle does not hold.
        """
        now = vars(module).get(name, _MISSING)
        now = plain_value(now) if is_setting(now) else now
        if path in self._new or (now is _MISSING and type(value) is float):
            vars(module)[name] = value
        elif now is not _MISSING and is_setting(now) and not _equal(now, value):
            if _may_become(now, value):
                vars(module)[name] = value
            elif not isinstance(now, str) or not isinstance(value, str):
                self.problems.append(f"{_where(path)}.{name} was {value!r} and is {now!r}")


def _bare(data: ModuleData) -> nn.Module:
    kind = stock_class(data.kind)
    assert kind is not None
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    return made


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and a != a:
        return b != b
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _may_become(now: Any, value: Any) -> bool:
    """Numbers another number, flags another flag, names another name; also to and from None."""
    if isinstance(now, tuple | list | None) and isinstance(value, tuple | list):
        return all(_is_number(item) for item in (*(now or ()), *value))
    if isinstance(now, str) and isinstance(value, str):
        return now.isidentifier() and value.isidentifier()
    kinds = [_kind(item) for item in (now, value) if item is not None]
    return "" not in kinds and len(set(kinds)) <= 1


def _kind(value: Any) -> str:
    return "flag" if isinstance(value, bool) else "number" if _is_number(value) else ""


def _holds_number(value: Any) -> bool:
    return is_setting(value) and _is_number(plain_value(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def placeholders(structure: Structure) -> dict[str, Tensor]:
    """Tensors of the shapes and types that a structure has, without memory for their entries."""
    return {
        name: torch.empty((), dtype=getattr(torch, data.dtype), device="cpu").expand(data.shape)
        for name, data in structure.tensors.items()
        if data.shares is None
    }
