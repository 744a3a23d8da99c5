"""Deep copies that also rebind what ``copy.deepcopy`` shares: functions, weak references and methods of containers."""

from __future__ import annotations

import copyreg
import dis
import functools
import gc
import queue
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import BuiltinMethodType, CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, NamedTuple
from weakref import getweakrefcount

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from graphprune.errors import GraphpruneError, InputError
from graphprune.utils.checks import with_article
from graphprune.utils.held import code_objects, contents, global_names, globals_read, reachable

ATOMIC = frozenset((int, float, bool, str, bytes, type(None), type, complex, torch.dtype, torch.device, range))
_SHARED = (
    type,
    ModuleType,
    CodeType,
    ContextVar,
    property,
    torch.jit.ScriptFunction,
    type(Ellipsis),
    type(NotImplemented),
)
_NEW: dict[type, Callable[[], Any]] = {
    type(threading.Lock()): threading.Lock,
    type(threading.RLock()): threading.RLock,
    threading.local: threading.local,
    queue.SimpleQueue: queue.SimpleQueue,
}
"""What cannot be copied, but has nothing in it that a copy would want."""

_MISSING = object()
_CONTAINERS = frozenset((dict, OrderedDict, set))

Substitute = Callable[[str, Any, Exception], Any]
"""From the path of an attribute, its value and the error: what the copy has in its place."""


def refuse(path: str, value: Any, error: Exception) -> Any:
    """Raise an InputError that names the attribute."""
    raise InputError(
        f"{path}: {with_article(type(value).__name__)} cannot be copied",
        where=path,
        found=f"{with_article(type(value).__name__)}, of which Python says: {error}",
        needed="attributes that copy.deepcopy can copy, since the model itself is left as it is",
        do="remove the attribute before pruning and set it on the slim model, or change the model itself with "
        "inplace=True",
    ) from error


class Copier:
    """Copy values deeply, each once.

    Args:
        memo: the copies by the identity of what they are copies of. It is filled while copying.
        parts: what the model holds (see :func:`graphprune.utils.held.parts_of`). A function is copied if it holds any.
        substitute: gives what stands for a value that cannot be copied.
        everything: copy whatever functions hold, also what is no part of the model.
        assigned: the cells of variables that functions of the model assign (see :func:`assigned_cells`).
    """

    def __init__(
        self,
        memo: dict[int, Any],
        parts: Callable[[], set[int]],
        substitute: Substitute = refuse,
        everything: bool = False,
        assigned: Callable[[], set[int]] = set,
    ) -> None:
        self.memo = memo
        self._parts = parts
        self._assigned = assigned
        self._substitute = substitute
        self._everything = everything
        self._path: list[str] = ["model"]
        self._functions = 0
        self._originals: list[Any] = []

    @contextmanager
    def at(self, step: str) -> Iterator[None]:
        """Copy within an attribute (``".name"``) or entry (``"[key]"``)."""
        self._path.append(step)
        try:
            yield
        finally:
            self._path.pop()

    def copied(self, value: Any) -> Any:
        """The copy of a value."""
        kind = type(value)
        if kind in ATOMIC:
            return value
        known = self.memo.get(id(value), _MISSING)
        if known is not _MISSING:
            return known
        copy_kind = _KINDS.get(kind)
        if copy_kind is None and isinstance(value, _SHARED):
            return value
        self._originals.append(value)  # its identity must not become that of another object
        try:
            made = copy_kind(self, value) if copy_kind else self._object(value)
        except GraphpruneError:
            raise
        except Exception as error:
            made = value if self._functions else self._substitute("".join(self._path), value, error)
        self.memo[id(value)] = made
        return made

    def attributes(
        self, attributes: dict[str, Any], step: str = "", own: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """Copies by name.

        Args:
            attributes: what is copied; the copies are put in its place.
            step: where they are found in what is being copied.
            own: names of containers that nothing else holds, but for weak references.
        """
        kinds = _kinds_of(tuple(attributes), tuple(map(type, attributes.values())), own)
        tables = [attributes[name] for name in kinds.tables]
        if any(tables) or any(map(getweakrefcount, tables)):
            left = kinds.everything
        else:
            left = kinds.others
            for name in kinds.tables:
                attributes[name] = OrderedDict()
        self._path.append(step)
        try:
            for name, empty in left:
                value = attributes[name]
                if type(value) is tuple:
                    if not ATOMIC.issuperset(map(type, value)):
                        attributes[name] = self._attribute(name, value)
                elif empty is None or value or getweakrefcount(value):
                    attributes[name] = self._attribute(name, value)
                else:
                    attributes[name] = empty()
        finally:
            self._path.pop()
        return attributes

    def _attribute(self, name: str, value: Any) -> Any:
        known = self.memo.get(id(value), _MISSING)
        if known is not _MISSING:
            return known
        self._path.append(f".{name}")
        try:
            return self.copied(value)
        finally:
            self._path.pop()

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        memo = self.memo
        made = memo[id(value)] = type(value)()
        for key, item in value.items():
            known = memo.get(id(item), _MISSING)  # as are all parameters and submodules
            if type(key) is str and known is not _MISSING:
                made[key] = known
                continue
            self._path.append(f"[{key!r}]" if type(key) in (str, int) else "[...]")
            try:
                made[self.copied(key)] = self.copied(item)
            finally:
                self._path.pop()
        return made

    def _read_only(self, value: MappingProxyType[Any, Any]) -> MappingProxyType[Any, Any]:
        (mapping,) = gc.get_referents(value)
        return MappingProxyType(self.copied(mapping))

    def _list(self, value: list[Any]) -> list[Any]:
        made = self.memo[id(value)] = []
        made.extend(value if ATOMIC.issuperset(map(type, value)) else self._items(value))
        return made

    def _items(self, values: Iterable[Any]) -> Iterator[Any]:
        for i, item in enumerate(values):
            if type(item) in ATOMIC:
                yield item
            else:
                with self.at(f"[{i}]"):
                    yield self.copied(item)

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if ATOMIC.issuperset(map(type, value)):
            return value
        items = tuple(self._items(value))
        if id(value) in self.memo:  # it holds itself
            return self.memo[id(value)]  # type: ignore[no-any-return]
        return value if all(a is b for a, b in zip(value, items, strict=True)) else items

    def _object(self, value: Any) -> Any:
        kind = type(value)
        if kind in _NEW:
            return _NEW[kind]()
        if isinstance(value, Tensor) and not value.is_leaf:
            return value.detach().clone()
        if (
            self._functions
            and kind.__module__.partition(".")[0] == "torch"
            and not isinstance(value, nn.Module | Tensor)
        ):
            return value
        own = getattr(value, "__deepcopy__", None)  # None of a dictionary that answers any name
        if own is not None:
            return own(self.memo)
        reduced = copyreg.dispatch_table[kind](value) if kind in copyreg.dispatch_table else value.__reduce_ex__(4)
        return value if isinstance(reduced, str) else self._rebuilt(value, *reduced)

    def _rebuilt(
        self,
        value: Any,
        make: Callable[..., Any],
        args: tuple[Any, ...],
        state: Any = None,
        items: Iterable[Any] | None = None,
        pairs: Iterable[tuple[Any, Any]] | None = None,
        set_state: Callable[[Any, Any], None] | None = None,
    ) -> Any:
        """A new object from what ``__reduce_ex__`` gives."""
        made = make(*[self.copied(a) for a in args])
        self.memo[id(value)] = made
        if state is not None:
            self._set_state(made, self._state(state), set_state)
        for item in items or ():
            made.append(self.copied(item))
        for key, item in pairs or ():
            with self.at(f"[{key!r}]" if type(key) in (str, int) else "[...]"):
                made[self.copied(key)] = self.copied(item)
        return made

    def _state(self, state: Any) -> Any:
        if type(state) is dict and all(type(name) is str for name in state):
            return self.attributes(dict(state))
        return self.copied(state)

    def _set_state(self, made: Any, state: Any, set_state: Callable[[Any, Any], None] | None) -> None:
        if set_state is not None:
            set_state(made, state)
        elif hasattr(made, "__setstate__"):
            made.__setstate__(state)
        else:
            attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
            if attributes:
                vars(made).update(attributes)
            for name, item in (slots or {}).items():
                setattr(made, name, item)

    # ------------------------------------------------------------ functions

    def _function(self, function: FunctionType) -> FunctionType:
        rebound = {name: value for name, value in globals_read(function) if self._reaches(value)}
        private = self._everything and not _is_importable(function)
        if not private and not rebound and not self._holds_part(function):
            return function
        if rebound and global_names(function.__code__, "STORE_GLOBAL"):
            path, name = "".join(self._path), next(iter(rebound))
            raise InputError(
                f"{path}: the function {function.__qualname__} finds a part of the model under the global name "
                f"{name!r}",
                where=path,
                found=f"a function that reads the global name {name!r} and assigns to globals",
                needed="functions whose copies can be given the copy of that part",
                do="give the function the part as an argument",
            )
        made, same = self._refilled(function, rebound)
        return function if same else made

    def _refilled(self, function: FunctionType, rebound: dict[str, Any]) -> tuple[FunctionType, bool]:
        """A function with copies in its closure, defaults and globals, and whether they are what they were."""
        old = function.__closure__ or ()
        cells = tuple(self.memo.get(id(c)) or CellType() for c in old)
        seen = OtherGlobals(function.__globals__) if rebound else function.__globals__
        made = FunctionType(function.__code__, seen, function.__name__, None, cells if old else None)
        self.memo[id(function)] = made
        self._functions += 1
        try:
            with self.at(f" (function {function.__qualname__})"):
                changed = [self._fill(*both) for both in zip(old, cells, strict=True)]
                seen.update(others := self._changed(rebound))
                made.__defaults__ = self.copied(function.__defaults__)
                made.__kwdefaults__ = function.__kwdefaults__ and self.attributes(dict(function.__kwdefaults__))
                made.__dict__.update(self.attributes(dict(vars(function))))
        finally:
            self._functions -= 1
        for name in ("__module__", "__qualname__", "__doc__", "__annotations__"):
            setattr(made, name, getattr(function, name))
        same = made.__defaults__ is function.__defaults__ and not any(changed) and not others
        same = same and not self._changed(function.__kwdefaults__ or {}) and not self._changed(vars(function))
        return made, same and not (self._everything and self._may_change(function))

    def _may_change(self, function: FunctionType) -> bool:
        """Does this function or another one of the model assign to a variable around it?"""
        cells = function.__closure__ or ()
        return _assigns(function.__code__) or any(id(cell) in self._assigned() for cell in cells)

    def _changed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The copies of those that are not their own copies."""
        return {name: copy for name, copy in self.attributes(dict(values)).items() if copy is not values[name]}

    def _fill(self, old: CellType, new: CellType) -> bool:
        """Copy the contents of a closure's cell; tells whether they are other ones."""
        if id(old) not in self.memo:
            self.memo[id(old)] = new
            self._originals.append(old)
            for value in contents(old):
                new.cell_contents = self.copied(value) if self._everything or self._reaches(value) else value
        pairs = zip(contents(old), contents(new), strict=False)
        return any(a is not b for a, b in pairs)

    def _holds_part(self, function: FunctionType) -> bool:
        if not (function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function)):
            return False
        return self._reaches(function)

    def _reaches(self, value: Any) -> bool:
        parts = self._parts()
        return bool(parts) and any(id(v) in parts for v in reachable([value]))

    def _method(self, method: MethodType) -> MethodType:
        owner, function = self.copied(method.__self__), self.copied(method.__func__)
        same = owner is method.__self__ and function is method.__func__
        return method if same else MethodType(function, owner)

    def _builtin(self, method: BuiltinMethodType) -> Any:
        """``self.items.append`` belongs to the copy of the list."""
        owner = method.__self__
        copied = owner if owner is None else self.copied(owner)
        return method if copied is owner else getattr(copied, method.__name__)

    def _cached(self, function: Any) -> Any:
        """A function with a cache; another function has another cache."""
        wrapped = self.copied(function.__wrapped__)
        same = wrapped is function.__wrapped__ and not self._everything
        return function if same else functools.lru_cache(**function.cache_parameters())(wrapped)

    # ------------------------------------------------------------ references

    def _target(self, value: Any) -> Any:
        return self.memo.get(id(value), value)

    def _reference(self, reference: weakref.ref[Any]) -> weakref.ref[Any]:
        target = reference()
        copied = self._target(target)
        return reference if copied is target else weakref.ref(copied, self.copied(reference.__callback__))

    def _handle(self, handle: RemovableHandle) -> RemovableHandle:
        """The handle of the copy's hook, in functions too.

        Hooks of tensors and of modules elsewhere are not copied: then it has nothing to remove, as with ``deepcopy``.
        """
        hooks, number, *extra = handle.__getstate__()
        own = id(hooks) in self._parts()
        made = self.memo[id(handle)] = object.__new__(type(handle))
        made.__setstate__((self.copied(hooks) if own else None, number, *(self.copied(extra) if own else ())))
        return made

    def _weak_method(self, reference: weakref.WeakMethod[Any]) -> Any:
        method = reference()
        copied = None if method is None else self._target(method.__self__)
        if method is None or copied is method.__self__:
            return reference
        return weakref.WeakMethod(MethodType(method.__func__, copied))

    def _proxy(self, proxy: Any) -> Any:
        target = proxy.__init__.__self__
        copied = self._target(target)
        return proxy if copied is target else weakref.proxy(copied)

    def _weak_keys(self, value: weakref.WeakKeyDictionary[Any, Any]) -> Any:
        made = self.memo[id(value)] = weakref.WeakKeyDictionary()
        made.update({self._target(k): self.copied(v) for k, v in value.items()})
        return made

    def _weak_values(self, value: weakref.WeakValueDictionary[Any, Any]) -> Any:
        made = self.memo[id(value)] = weakref.WeakValueDictionary()
        made.update({self.copied(k): self._target(v) for k, v in value.items()})
        return made

    def _generator(self, generator: torch.Generator) -> torch.Generator:
        made = torch.Generator(generator.device)
        made.set_state(generator.get_state())
        return made


_KINDS: dict[type, Callable[[Copier, Any], Any]] = {
    dict: Copier._dict,
    OrderedDict: Copier._dict,
    MappingProxyType: Copier._read_only,
    list: Copier._list,
    tuple: Copier._tuple,
    FunctionType: Copier._function,
    MethodType: Copier._method,
    BuiltinMethodType: Copier._builtin,
    functools._lru_cache_wrapper: Copier._cached,
    RemovableHandle: Copier._handle,
    weakref.ref: Copier._reference,
    weakref.ReferenceType: Copier._reference,
    weakref.WeakMethod: Copier._weak_method,
    weakref.ProxyType: Copier._proxy,
    weakref.CallableProxyType: Copier._proxy,
    weakref.WeakKeyDictionary: Copier._weak_keys,
    weakref.WeakValueDictionary: Copier._weak_values,
    torch.Generator: Copier._generator,
}


class OtherGlobals(dict[str, Any]):
    """The globals of a function, some of them replaced: what is not in the dictionary is looked up in theirs."""

    def __init__(self, theirs: dict[str, Any]) -> None:
        super().__init__({"__name__": theirs.get("__name__"), "__builtins__": theirs["__builtins__"]})
        self.theirs = theirs

    def __missing__(self, name: str) -> Any:
        return self.theirs[name]


def _is_importable(function: FunctionType) -> bool:
    """Is it found under its own name in its module? Copies of it are pickled by that name."""
    found: Any = sys.modules.get(function.__module__ or "")
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def assigned_cells(model: nn.Module) -> set[int]:
    """The identities of the cells of functions that a model holds and that assign to variables around them."""
    functions = (f for f in reachable([model]) if isinstance(f, FunctionType))
    return {id(cell) for f in functions if _assigns(f.__code__) for cell in f.__closure__ or ()}


@functools.lru_cache(maxsize=4096)
def _assigns(code: CodeType) -> bool:
    """Does a function assign to variables of the function around it?"""
    every = ((c.co_freevars, i) for c in code_objects(code) for i in dis.get_instructions(c))
    return any(i.opname == "STORE_DEREF" and i.argval in outer for outer, i in every)


class _Kinds(NamedTuple):
    """What copies of the values under some names do not share.

    Attributes:
        everything: the names; with each that is to be one's own the kind of container that it is, else None.
        others: those of them that are not in ``tables``.
        tables: ordered dictionaries that are to be one's own, as modules have many for hooks.
    """

    everything: tuple[tuple[str, type | None], ...]
    others: tuple[tuple[str, type | None], ...]
    tables: tuple[str, ...]


@functools.lru_cache(maxsize=4096)
def _kinds_of(names: tuple[str, ...], kinds: tuple[type, ...], own: frozenset[str]) -> _Kinds:
    """By the kinds of values; modules of a class have the same ones, again and again."""
    named = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind not in ATOMIC]
    found = tuple((name, kind if name in own and kind in _CONTAINERS else None) for name, kind in named)
    others = tuple((name, kind) for name, kind in found if kind is not OrderedDict)
    return _Kinds(found, others, tuple(name for name, kind in found if kind is OrderedDict))
