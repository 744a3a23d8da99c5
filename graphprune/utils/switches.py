"""Training and evaluation mode, and the classes that have a way of their own to switch.

Most of these switch a part or make a table, which torch is left to let them do. Others merge weights into one another
when they are evaluated (the adapters of loralib): as what they hold would be another model's then, they get the mode
and keep their weights as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import FunctionType

from torch import nn

from graphprune.utils.modules import Modules, named_modules

_SWITCHES = frozenset(("train", "eval"))
_FLAGS = frozenset(("requires_grad_", "register_buffer_"))
"""Names that look like those of operations in place, and write to no values."""


def set_evaluation(model: nn.Module) -> nn.Module:
    """Put a model in evaluation mode, and return it."""
    set_training(named_modules(model), training=False)
    return model


def set_training(modules: Modules, training: bool) -> None:
    """Put a model, given as its :func:`named_modules`, in training or evaluation mode, if it is not in that."""
    others = [module for _, module in modules if module.training is not training]
    if others and not _switch_by_flags(modules):
        model = modules[0][1]
        model.train() if training else model.eval()
        return
    for module in others:
        module.training = training


def _switch_by_flags(modules: Modules) -> bool:
    """Does torch's way do all that is to be done?"""
    kinds = {type(module) for _, module in modules}
    own = all(_SWITCHES.isdisjoint(vars(module)) for _, module in modules)
    others = [kind for kind in kinds if not _switches_as_torch_does(kind)]  # type: ignore[arg-type]  # by identity
    return own and (not others or any(_merges_weights(kind) for kind in others))  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _switches_as_torch_does(kind: type[nn.Module]) -> bool:
    return kind.train is nn.Module.train and kind.eval is nn.Module.eval


@lru_cache(maxsize=1024)
def _merges_weights(kind: type[nn.Module]) -> bool:
    """Does a class write to the entries of tensors when it switches: to ``weight.data``, or by ``weight.add_``?"""
    return any(
        name == "data" or (name.endswith("_") and not name.startswith("_") and name not in _FLAGS)
        for function in _switching(kind)
        for name in function.__code__.co_names
    )


def _switching(kind: type[nn.Module]) -> Iterator[FunctionType]:
    """The methods that switch instances of a class, and the methods of it that these call, but for torch's."""
    waiting, done = sorted(_SWITCHES), set(dir(nn.Module)) - _SWITCHES
    while waiting:
        name = waiting.pop()
        done.add(name)
        for base in kind.__mro__:
            found = vars(base).get(name)
            if isinstance(found, FunctionType) and not base.__module__.startswith("torch."):
                yield found
                waiting += [called for called in found.__code__.co_names if called not in done]
