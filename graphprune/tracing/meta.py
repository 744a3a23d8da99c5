"""Run one ATen call on shapes: floats without values, integers real.

``meta`` kernels written in Python take up to several milliseconds a call, and a network repeats the same
few shapes: results of calls that only make new tensors are remembered by the call's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphprune.utils.operators import Args, Kwargs, is_mutable, written_arguments
from graphprune.utils.storages import storage_of
from graphprune.utils.tree import LEAVES, map_tensors, tensors_of

aten = torch.ops.aten


META = torch.device("meta")


_Key = tuple[Any, ...]


def is_float(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex  # asked so often that one call counts


class _Execution(NamedTuple):
    """How an operator runs on shapes.

    Attributes:
        func: the operator, which is kept so that no other one gets its identity.
        needs_values: torch cannot run it on shapes alone. What it returns but for floats does not depend on their
            values.
        changes_in_place: it is elementwise and in place, or fills its first argument with random numbers: on shapes
            there is nothing to do. (Some of these torch does not run on shapes with a generator.)
        makes_new_tensors: it returns no view, writes to nothing and draws nothing: equal calls have equal results.
        writes_entries: it writes to entries of its first argument and returns that: a call that went well once does so
            again, and then there is nothing to do.
    """

    func: Any
    needs_values: bool
    changes_in_place: bool
    makes_new_tensors: bool
    writes_entries: bool


_executions: dict[int, _Execution] = {}
"""By the identity of an operator, which is looked up in a fraction of the time that torch takes to hash one."""


def _execution_of(func: Any) -> _Execution:
    found = _executions.get(id(func))
    if found is None:
        packs = func is aten._pack_padded_sequence.default
        parts = packs, _changes_in_place(func), _makes_new_tensors(func), _writes_entries(func)
        found = _executions[id(func)] = _Execution(func, *parts)
    return found


def _any_values(tensor: Tensor) -> Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype, device="cpu") if tensor.device == META else tensor


def _operands(args: Args, kwargs: Kwargs) -> list[Tensor]:
    """The tensors among the arguments of a call. Most are given as such."""
    found: list[Tensor] = []
    for argument in (*args, *kwargs.values()) if kwargs else args:
        kind = type(argument)
        if kind in LEAVES or (kind is list and LEAVES.issuperset(map(type, argument))):
            continue  # asking whether it is a tensor takes several times as long
        if isinstance(argument, Tensor):
            found.append(argument)
        else:
            found.extend(tensors_of(argument))
    return found


class MetaExecution:
    """Run ATen calls with floating-point tensors on ``meta`` and all others with their values.

    Attributes:
        unknown: tensors of integers or truth values to which something without values was written, by storage.
    """

    def __init__(self) -> None:
        self.unknown: dict[int, Tensor] = {}
        self._on_meta_copies: dict[int, tuple[Tensor, Tensor]] = {}
        self._known = KnownValues()

    def run(self, func: Any, args: Args, kwargs: Kwargs) -> Any:
        """The result of ``func(*args, **kwargs)``, its floating-point tensors without values."""
        flat = _operands(args, kwargs)
        if self.unknown and any(storage_of(t) in self.unknown for t in flat):
            args, kwargs = map_tensors(self._without_values, (args, kwargs))
            flat = _operands(args, kwargs)
        execution = _execution_of(func)
        if execution.needs_values:
            args, kwargs = map_tensors(_any_values, (args, kwargs))
            flat = _operands(args, kwargs)
        on_meta = [t.is_meta for t in flat]
        if True not in on_meta:
            return self._run_real(func, args, kwargs, flat)
        if not self._known.covers(func, args, kwargs, flat):
            return self._run_on_meta(func, args, kwargs, all(on_meta), execution)
        real = self._known.run(func, args, kwargs)
        if not any(map(is_float, tensors_of(real))):
            return real
        return self._known.remember(self._run_on_meta(func, args, kwargs, all(on_meta), execution), real)

    def _run_on_meta(self, func: Any, args: Args, kwargs: Kwargs, all_there: bool, execution: _Execution) -> Any:
        if not all_there:
            if not execution.makes_new_tensors:
                self._note_unknown(func, args, kwargs)
            args = map_tensors(self._on_meta, _positions_of_masks(func, args))
            kwargs = map_tensors(self._on_meta, kwargs)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": META}
        if execution.changes_in_place:
            return args[0]
        if execution.makes_new_tensors:
            return _remembered(func, args, kwargs)
        return _written(func, args, kwargs) if execution.writes_entries else func(*args, **kwargs)

    def _run_real(self, func: Any, args: Args, kwargs: Kwargs, flat: list[Tensor]) -> Any:
        device = kwargs.get("device")
        if device is not None and torch.device(device) == META:
            kwargs = {**kwargs, "device": flat[0].device if flat else torch.device("cpu")}
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and not is_float(out):
            return out
        if isinstance(out, Tensor) and not flat:
            return self._known.remember(out.to(META), out)
        given = {id(t) for t in flat}
        seen = map_tensors(lambda t: t.to(META) if is_float(t) and id(t) not in given else t, out)
        return self._known.remember(seen, out)

    def give_values(self, tensor: Tensor, real: Tensor) -> None:
        """Let a tensor on ``meta`` have the values of another one, until something without values is written to it."""
        self._known.remember(tensor, real.detach().to("cpu", copy=True))

    def _note_unknown(self, func: Any, args: Args, kwargs: Kwargs) -> None:
        """Something without values is about to be written: what it is written to has none from then on."""
        if is_mutable(func):
            found = [t for t in tensors_of(list(written_arguments(func, args, kwargs))) if not t.is_meta]
            self.unknown.update({storage_of(t): t for t in found})

    def _without_values(self, tensor: Tensor) -> Tensor:
        return self._on_meta(tensor) if storage_of(tensor) in self.unknown else tensor

    def _on_meta(self, tensor: Tensor) -> Tensor:
        if tensor.device == META:
            return tensor
        found = self._on_meta_copies.get(id(tensor))
        if found is None:
            found = self._on_meta_copies[id(tensor)] = (tensor, tensor.to(META))
        return found[1]


class KnownValues:
    """Values of floating-point tensors that depend on no weight and no input: a mask of ones.

    Programs branch on such values (is anything padded?). Operations on these tensors are computed on their values too;
    large ones are dropped.
    """

    def __init__(self) -> None:
        self._values: dict[int, tuple[Tensor, Tensor]] = {}

    def covers(self, func: Any, args: Args, kwargs: Kwargs, tensors: list[Tensor]) -> bool:
        """Are all values known? If not, or if it draws them, tensors that ``func`` writes to are not known any more.

        Some of ``tensors``, those among the arguments, are on ``meta``.
        """
        if not self._values:
            return False
        known = all(id(t) in self._values for t in tensors if t.is_meta)
        covered = known and torch.Tag.nondeterministic_seeded not in func.tags
        if not covered and is_mutable(func):
            for written in written_arguments(func, args, kwargs):
                self._forget(written)
        return covered

    def _forget(self, changed: Any) -> None:
        """A tensor, and those that have the same memory, get values that are not known."""
        if id(changed) not in self._values:
            return
        storage = self._values[id(changed)][1].untyped_storage().data_ptr()
        self._values = {k: v for k, v in self._values.items() if v[1].untyped_storage().data_ptr() != storage}

    def run(self, func: Any, args: Args, kwargs: Kwargs) -> Any:
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        args, kwargs = map_tensors(self._value, args), map_tensors(self._value, kwargs)
        return func(*args, **kwargs)

    def _value(self, tensor: Tensor) -> Tensor:
        return self._values[id(tensor)][1] if tensor.device == META else tensor

    def remember(self, on_meta: Any, real: Any) -> Any:
        """``on_meta`` (a result without values), after noting the values of its tensors."""
        if isinstance(on_meta, Tensor):
            self._note(on_meta, real)
            return on_meta
        for t, value in zip(tensors_of(on_meta), tensors_of(real), strict=True):
            self._note(t, value)
        return on_meta

    def _note(self, on_meta: Tensor, real: Tensor) -> None:
        if on_meta.is_meta and not real.is_meta and real.numel() <= _LARGEST_KNOWN:
            self._values[id(on_meta)] = on_meta, real


_LARGEST_KNOWN = 1 << 16


def has_readable_values(tensor: Tensor) -> bool:
    """Is it a floating-point tensor of which a program may read the values while it is traced on shapes?"""
    return is_float(tensor) and not tensor.is_meta and tensor.numel() <= _LARGEST_KNOWN


def _positions_of_masks(func: Any, args: Args) -> tuple[Any, ...]:
    """Boolean masks with known values index a shape of known size: give ``meta`` their positions."""
    if func not in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        return args
    indices: list[Tensor | None] = []
    for i in args[1]:
        real_mask = i is not None and i.dtype == torch.bool and i.device != META
        indices.extend(i.nonzero().unbind(1) if real_mask else [i])
    return (args[0], indices, *args[2:])


def _changes_in_place(func: Any) -> bool:
    first = func._schema.arguments[0] if func._schema.arguments else None
    if first is None or first.alias_info is None or first.name != "self":
        return False
    alone = {torch.Tag.pointwise, torch.Tag.nondeterministic_seeded}
    return bool(first.alias_info.is_write and not alone.isdisjoint(func.tags))


def _writes_entries(func: Any) -> bool:
    """Is it the in-place form of an operation that makes a tensor, and neither moves its argument nor draws numbers?"""
    packet, name = getattr(func, "overloadpacket", None), func._schema.name.partition("::")[2]
    first, *others = func._schema.arguments or [None]
    if first is None or first.name != "self" or not name.endswith("_") or not hasattr(aten, name[:-1]):
        return False
    if packet is not getattr(aten, name, None) or any(a.alias_info is not None for a in others):
        return False
    return {torch.Tag.inplace_view, torch.Tag.nondeterministic_seeded}.isdisjoint(func.tags)


def _makes_new_tensors(func: Any) -> bool:
    schema = func._schema
    arguments = (*schema.arguments, *schema.returns)
    return all(a.alias_info is None for a in arguments) and torch.Tag.nondeterministic_seeded not in func.tags


_memory: dict[_Key, Callable[[], Any]] = {}
"""By the metadata of a call, what makes its result."""


_MEMORY_SIZE = 1 << 14


def _remembered(func: Any, args: Args, kwargs: Kwargs) -> Any:
    key = (id(func), _key(args), _key(list(kwargs.items())) if kwargs else ())
    try:
        found = _memory.get(key)
    except TypeError:
        return func(*args, **kwargs)
    if found is None:
        out = func(*args, **kwargs)
        _remember(key, _maker(out))
        return out
    return found()


def _written(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """The first argument, written to; the call is run if none like it was before."""
    key = (id(func), _key(args), _key(list(kwargs.items())) if kwargs else ())
    try:
        known = key in _memory
    except TypeError:
        return func(*args, **kwargs)
    if known:
        return args[0]
    out = func(*args, **kwargs)
    if out is args[0] and _key(args) == key[1]:
        _remember(key, lambda: None)
    return out


def _remember(key: _Key, make: Callable[[], Any]) -> None:
    if len(_memory) >= _MEMORY_SIZE:
        _memory.clear()
    _memory[key] = make


def _key(values: Iterable[Any]) -> _Key:
    """The metadata of arguments, one behind another: what each begins with tells how much of it there is."""
    found: list[Any] = []
    for value in values:
        kind = type(value)
        if kind in LEAVES:
            found += (kind, value)
        elif isinstance(value, Tensor):
            found += (value.shape, value.stride(), value.dtype)
        elif isinstance(value, tuple | list):
            kinds = tuple(map(type, value))
            found.append((kinds, tuple(value)) if LEAVES.issuperset(kinds) else _key(value))
        else:
            found += (kind, value)
    return tuple(found)


def _maker(out: Any) -> Callable[[], Any]:
    """What makes another result like this one."""
    if isinstance(out, Tensor):
        return partial(torch.empty_strided, tuple(out.shape), out.stride(), dtype=out.dtype, device=META)
    if isinstance(out, tuple | list):
        kind, makers = type(out), [_maker(one) for one in out]
        return lambda: kind([make() for make in makers])
    return lambda: out
