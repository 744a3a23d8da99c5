"""What a model keeps of its runs is put back: counters, caches, buffers, metrics, generators of random numbers.

Data is run through the user's own model, which may count its calls, or write into buffers that its ``state_dict`` has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.tracing.containers import contained, container_base
from graphprune.tracing.may_write import may_keep
from graphprune.tracing.side_effects import Restore, outside_generators_kept, restores_of
from graphprune.tracing.sizes import Size
from graphprune.tracing.written_parameters import ParametersWatched
from graphprune.utils.evaluation import evaluating_eagerly
from graphprune.utils.held import attribute_table, slot_values
from graphprune.utils.modules import Modules, is_parameter, named_modules
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.storages import TensorState

_TORCHS = frozenset(vars(nn.Module()))
"""Attributes of every module: tables of what it holds, of hooks, and its mode."""
_TABLES = ("_buffers", "_modules", "_non_persistent_buffers_set")
_GROWING = sorted(name for name in _TORCHS.difference(_TABLES) if isinstance(vars(nn.Module())[name], dict))
"""Parameters and hooks, which are changed on purpose too: only new ones are removed."""
_MOST_FOLLOWED, _MOST_ENTRIES = 5_000, 1_000
"""A trainer or a tokenizer leads to all that there is, and a data set is long."""
_HOLD_NO_TENSORS = frozenset((type(None), bool, int, Size, float, str, torch.dtype, torch.device))
_NOT_FOLLOWED = (nn.Module, type, FunctionType, MethodType, BaseException)


@dataclass
class RunState:
    """What models held before they ran.

    Attributes:
        restores: put back everything but the values of tensors.
        tensors: buffers and other tensors, with their memory and values, by identity; of parameters those that a
            program writes to.
    """

    restores: list[Restore] = field(default_factory=list)
    tensors: dict[int, TensorState] = field(default_factory=dict)

    def leave(self, tensors: Iterable[Tensor]) -> None:
        """These were given other values on purpose, and keep them."""
        for tensor in tensors:
            self.tensors.pop(id(tensor), None)

    def note(self, modules: Modules) -> None:
        """Remember what modules hold."""
        waiting: list[Any] = [buffer for _, module in modules for buffer in module.buffers(recurse=False)]
        for _, module in modules:
            if isinstance(module, torch.jit.ScriptModule):  # its attributes are not in Python
                continue
            held = vars(module)
            own = {name: value for name, value in held.items() if name not in _TORCHS}
            self.restores.append(partial(_put_back_attributes, held, own))
            self.restores += [
                partial(_remove_others, held[name], frozenset(held[name])) for name in _GROWING if name in held
            ]
            waiting.extend(own.values())
            for name in _TABLES:
                self.restores += restores_of(held[name])
        self._follow(waiting)

    def _follow(self, values: Iterable[Any]) -> None:
        for value in _followed(values):
            if isinstance(value, Tensor):
                self._note_tensor(value)
            else:
                self.restores += restores_of(value) if may_keep(value) else ()

    def note_parameter(self, parameter: nn.Parameter) -> None:
        """Remember what a parameter is before it is written to for the first time."""
        if id(parameter) not in self.tensors:
            self.tensors[id(parameter)] = TensorState.of(parameter)

    def _note_tensor(self, tensor: Tensor) -> None:
        fixed = tensor.is_meta or tensor.is_inference() or is_parameter(tensor)
        if not fixed and tensor.layout is torch.strided:
            self.tensors[id(tensor)] = TensorState.of(tensor)

    def put_back(self) -> None:
        """Give modules back what they held."""
        for restore in reversed(self.restores):
            restore()
        for state in self.tensors.values():
            state.put_back()


@contextmanager
def evaluating_unchanged(*models: nn.Module) -> Iterator[RunState]:
    """:func:`evaluating_eagerly`, after which the models hold what they held. Of their parameters, those that their own
    programs write to get their values back.

    Generators of random numbers go on as if nothing had been drawn: the global ones, and those of the user's program.
    The state that is yielded is told of buffers that are written to on purpose.
    """
    parameters = [parameter for model in models for parameter in model.parameters()]
    with (
        random_numbers_kept(),
        outside_generators_kept(*models),
        evaluating_eagerly(*models),
        runs_forgotten(*models) as state,
        ParametersWatched(parameters, state.note_parameter),
    ):
        yield state


@contextmanager
def runs_forgotten(*models: nn.Module) -> Iterator[RunState]:
    """Put back what models hold, but for parameters. What hooks and ``forward`` keep outside of them is left alone."""
    state = RunState()
    for model in models:
        state.note(named_modules(model))
    try:
        yield state
    finally:
        state.put_back()


def tensors_kept(modules: Modules, known: Set[int]) -> list[Tensor]:
    """The tensors that modules hold beside parameters: buffers, attributes, and those in containers and objects.

    Args:
        modules: of a model.
        known: the identities of those that are looked for.
    """
    values = [value for _, m in modules for value in m._buffers.values() if id(value) in known]
    for _, module in modules:
        held = vars(module)
        for name, value in held.items():
            if name in _TORCHS:
                continue
            if type(value) in (tuple, list):
                values += () if _HOLD_NO_TENSORS.issuperset(map(type, value)) else (value,)
            elif type(value) not in _HOLD_NO_TENSORS:
                values.append(value)
    return [value for value in _followed(values) if isinstance(value, Tensor) and id(value) in known]


def _followed(values: Iterable[Any]) -> Iterator[Any]:
    """Values and what they hold, each once, but for numbers and text; what may change while it is handed out is looked
    at afterwards."""
    waiting, seen = deque(values), set[int]()
    while waiting and len(seen) < _MOST_FOLLOWED:
        value = waiting.popleft()
        if type(value) not in _HOLD_NO_TENSORS and id(value) not in seen and not isinstance(value, _NOT_FOLLOWED):
            seen.add(id(value))
            yield value
            waiting.extend(() if isinstance(value, Tensor) else _held_by(value))


def _put_back_attributes(held: dict[str, Any], before: dict[str, Any]) -> None:
    _remove_others(held, before.keys() | _TORCHS)
    held.update(before)


def _remove_others(table: dict[Any, Any], names: Set[Any]) -> None:
    for name in table.keys() - names:
        del table[name]


def _held_by(value: Any) -> Iterator[Any]:
    if container_base(value) is not None or type(value) is tuple:
        entries = value if type(value) is tuple else contained(value)
        yield from entries if len(entries) <= _MOST_ENTRIES else ()
    if may_keep(value):
        yield from (attribute_table(value) or {}).values()
        yield from slot_values(value).values()
