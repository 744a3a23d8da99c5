"""Training and evaluation mode, and the classes that have a way of their own to switch.

Most of these switch a part, make a table, or work out a weight for evaluation: they are left to do so, and what they
changed is put back afterwards. Others merge weights into one another and take them apart again (the adapters of
loralib), which rounds; and what is merged is not what is to be cut. These get the mode, and keep their weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from graphprune.utils.kept_values import KeptValues
from graphprune.utils.modules import Modules, named_modules, within

_SWITCHES = frozenset(("train", "eval"))
_TABLES = ("_parameters", "_buffers", "_modules")
_MISSING = object()
_ROUNDING = 1e-3
"""What is merged and taken apart again is the same up to this fraction of the largest entry, in any precision."""


@contextmanager
def evaluation_mode(*models: nn.Module) -> Iterator[None]:
    """Models in evaluation mode; afterwards in the modes, and with the tensors and attributes, that they had."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_evaluation_of_one(named_modules(model)))
        yield


@contextmanager
def _evaluation_of_one(modules: Modules) -> Iterator[None]:
    modes = [(module, module.training) for _, module in modules]
    try:
        by_flags = not [module for module, training in modes if training] or switches_by_flags(modules)
        with ExitStack() as stack:
            if by_flags:
                set_training(modules, training=False, by_flags=True)
            else:
                stack.callback(_switched(modules).put_back)
            yield
    finally:
        for module, training in modes:
            module.training = training


def _switched(modules: Modules) -> _Held:
    """Let a model switch to evaluation in its own way; what it held before, of what that changed."""
    held = _Held.of(modules)
    try:
        with held.keeping:
            set_training(modules, training=False, by_flags=False)
    except BaseException:
        held.changed().put_back()
        raise
    return held.changed()


def set_evaluation(model: nn.Module) -> nn.Module:
    """Put a model in evaluation mode for good, and return it."""
    modules = named_modules(model)
    set_training(modules, training=False, by_flags=switches_by_flags(modules))
    return model


def set_training(modules: Modules, training: bool, by_flags: bool) -> None:
    """Put a model, given as its :func:`named_modules`, in training or evaluation mode, if it is not in that.

    Args:
        modules: of the model.
        training: the mode.
        by_flags: of the model, or the one that it is a copy of: see :func:`switches_by_flags`.
    """
    others = [module for _, module in modules if module.training is not training]
    if others and not by_flags:
        model = modules[0][1]
        model.train() if training else model.eval()
        return
    for module in others:
        module.training = training


def switches_by_flags(modules: Modules) -> bool:
    """Is the mode alone to be set? Where no class has a way of its own, and where one changes tensors and takes that
    back when it is switched back: which of them do is tried, and undone."""
    if not switching(modules):
        return True
    held, model = _Held.of(modules), modules[0][1]
    modes = [(module, module.training) for _, module in modules]
    try:
        with held.keeping:
            model.train(not model.training)
            changed = bool(held.changed().tensors)
            model.train(not model.training)
        return changed and not held.changed(_ROUNDING).tensors
    finally:
        held.changed().put_back()
        for module, training in modes:
            module.training = training


def switching(modules: Modules) -> list[str]:
    """The paths of the modules that have a way of their own to switch."""
    kinds = {type(module) for _, module in modules}
    own = {kind for kind in kinds if not _class_switches_as_torch_does(kind)}  # type: ignore[arg-type]  # by identity
    return [path for path, module in modules if type(module) in own or not _SWITCHES.isdisjoint(vars(module))]


@lru_cache(maxsize=1024)
def _class_switches_as_torch_does(kind: type[nn.Module]) -> bool:
    return kind.train is nn.Module.train and kind.eval is nn.Module.eval


@dataclass(frozen=True, eq=False)
class _Held:
    """What modules with a way of their own to switch hold, and those in them.

    Attributes:
        attributes: of each module, with its tables; :data:`_MISSING` of what it has not.
        tensors: whose they are, their names there, and themselves; those on ``meta`` have no values.
        keeping: keeps the values of the tensors while it is on.
    """

    attributes: list[tuple[nn.Module, dict[str, Any]]]
    tensors: list[tuple[nn.Module, str, Tensor]]
    keeping: KeptValues

    @staticmethod
    def of(modules: Modules) -> _Held:
        own = switching(modules)
        inside = [m for path, m in modules if "" in own or path in own or within(path, own)]
        found = [(m, name, t) for m in inside for name, t in (*m._parameters.items(), *m._buffers.items())]
        tensors = [(m, name, t) for m, name, t in found if t is not None and not t.is_meta]
        keeping = KeptValues(tensor for _, _, tensor in tensors)
        return _Held([(module, _copied(vars(module))) for module in inside], tensors, keeping)

    def changed(self, rounding: float = 0.0) -> _Held:
        """Of this what is otherwise now: attributes that are others, tensors of other values or that are gone."""
        tensors = [(m, name, t) for m, name, t in self.tensors if not self.keeping.same(t, _found(m, name), rounding)]
        attributes = [(module, _differing(before, vars(module))) for module, before in self.attributes]
        return _Held(attributes, tensors, self.keeping)

    def put_back(self) -> None:
        """Let everything be as it was."""
        for module, attributes in self.attributes:
            for name, value in _copied(attributes).items():
                if value is _MISSING:
                    vars(module).pop(name, None)
                else:
                    vars(module)[name] = value
        for _, _, tensor in self.tensors:
            self.keeping.put_back(tensor)


def _copied(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: dict(value) if name in _TABLES else value for name, value in attributes.items()}


def _differing(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What was before under the names under which something else is now."""
    names = [name for name in {**before, **now} if not _is_same(before.get(name, _MISSING), now.get(name, _MISSING))]
    return {name: before.get(name, _MISSING) for name in names}


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is dict and type(other) is dict:
        return list(map(id, one.values())) == list(map(id, other.values())) and [*one] == [*other]
    return one is other


def _found(module: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer that a module has under a name now."""
    return module._parameters.get(name, module._buffers.get(name))
