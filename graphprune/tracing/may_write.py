"""What a model's forward may reach outside of the model: functions, and what these keep between calls.

The walk begins at the functions that run in any case, and goes by names: to methods that are called so, to globals,
closures, defaults, attributes, and what is in files that functions import or look up. Python's own, torch and numpy
keep nothing of a program in theirs.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from threading import local
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from graphprune.tracing.containers import contained, container_base
from graphprune.utils.held import attribute_table, code_objects, globals_read, held_by_function, slot_values, slots_of
from graphprune.utils.random_state import GENERATORS
from graphprune.utils.reached_functions import CACHED, function_of, is_library, is_library_function

_BY_LANGUAGE = frozenset(("__call__", "__getitem__", "__setitem__", "__contains__", "__getattr__", "__missing__"))
_MOST, _MOST_ENTRIES = 400, 5_000
"""So many are followed, and so many that only containers hold: large libraries lead from everywhere to everything."""
_KEEPERS: tuple[type, ...] = (dict, OrderedDict, defaultdict, Counter, list, set, deque, SimpleNamespace, local)
_KEEPERS += (UserDict, UserList, WeakKeyDictionary, WeakValueDictionary, RemovableHandle)
"""Classes of Python's and torch's whose instances a program may keep something in."""
_ARRAYS_AND_GENERATORS = (np.ndarray, *GENERATORS)
_LARGEST_ARRAY = 1 << 26
"""Bytes: a larger one outside of a model is data rather than what a program writes to."""
_PASSED_OVER = (nn.Module, Tensor, BaseException)
_HOLD_NOTHING = frozenset((bool, int, float, str, bytes, type(None)))


def may_write_to(classes: Iterable[type], held: Iterable[FunctionType], own: Iterable[Any] = ()) -> list[Any]:
    """The functions, classes, objects and containers of users that a run may reach, the nearest first.

    Args:
        classes: of the model's modules.
        held: functions that run, such as hooks.
        own: what modules hold. It is left alone, unlike its classes and functions, and what these reach.
    """
    walk = _Walk()
    for kind in classes:
        walk.found[id(kind)] = kind
        walk.add_class(kind)
    walk.waiting.near.extend(held)
    walk.use(("forward",))
    walk.go()
    walk.waiting.near.extend(_classes_and_functions(own))
    walk.go()
    return list(walk.found.values())


def _classes_and_functions(values: Iterable[Any]) -> Iterator[type | FunctionType]:
    """Those of the objects that are or that hold each other, the nearest first."""
    waiting = _Waiting(deque(values))
    for value in waiting:
        if isinstance(value, type | FunctionType):
            yield value
        else:
            waiting.add_held_by(value)


def functions_held(values: Iterable[Any], names: Iterable[str]) -> list[FunctionType]:
    """The functions of users that a run may reach from values that a model holds, the nearest first.

    Args:
        values: attributes of modules, and hooks.
        names: those that ``forward`` uses: methods that are called so may run.
    """
    walk = _Walk(waiting=_Waiting(deque(values)))
    walk.use(names)
    walk.go()
    return [value for value in walk.found.values() if isinstance(value, FunctionType)]


@dataclass
class _Waiting:
    """Hands out what may hold something, each once: the nearest first, and at the end what only containers hold.

    So what runs is reached however much there is in the tables that it reads. Functions and classes are near wherever
    they are found.

    Attributes:
        near: what waits.
        entries: what waits, was found in containers, and is neither a function nor a class.
        seen: what was handed out, by identity.
        taken: how many of ``entries`` were.
        from_entries: is the last one of these? What it holds is no nearer.
    """

    near: deque[Any] = field(default_factory=deque)
    entries: deque[Any] = field(default_factory=deque)
    seen: dict[int, Any] = field(default_factory=dict)
    taken: int = 0
    from_entries: bool = False

    def __iter__(self) -> Iterator[Any]:
        while waiting := self._next():
            near, value = waiting is self.near, waiting.popleft()
            if type(value) in _HOLD_NOTHING:
                continue
            value = _without_wrappers(value)
            if id(value) not in self.seen and _may_hold(value):
                self.seen[id(value)] = value
                self.from_entries = not near
                self.taken += self.from_entries
                yield value

    def _next(self) -> deque[Any] | None:
        """What the next one is taken of."""
        if self.near and len(self.seen) - self.taken < _MOST:
            return self.near
        return self.entries if self.entries and self.taken < _MOST_ENTRIES else None

    def add_held_by(self, value: Any) -> None:
        """What a container or an object leads to waits."""
        far = self.from_entries or type(value) is tuple or container_base(value) is not None
        for found in _held_by(value):
            (self.entries if far and not isinstance(found, type | FunctionType) else self.near).append(found)


@dataclass
class _Walk:
    """Goes on to what is nearest.

    Attributes:
        found: what was reached, by identity.
        waiting: what leads on.
        used: the names that the functions use which were reached.
        methods: those that no function has used the name of.
    """

    found: dict[int, Any] = field(default_factory=dict)
    waiting: _Waiting = field(default_factory=_Waiting)
    used: set[str] = field(default_factory=set)
    methods: dict[str, list[FunctionType]] = field(default_factory=dict)

    def go(self) -> None:
        """Follow what waits until nothing does, or enough was found."""
        for value in self.waiting:
            if id(value) not in self.found:
                self.found[id(value)] = value
                self._follow(value)

    def _follow(self, value: Any) -> None:
        if isinstance(value, FunctionType):
            self.use(_names(value.__code__))
            self.waiting.near.extend(_led_to_by(value))
        elif isinstance(value, type):
            self.add_class(value)
        else:
            self.waiting.add_held_by(value)

    def use(self, names: Iterable[str]) -> None:
        """Methods of these names may run."""
        new = set(names) - self.used
        self.used |= new
        for name in sorted(new & self.methods.keys()):
            self.waiting.near.extend(self.methods.pop(name))

    def add_class(self, kind: type) -> None:
        """Its attributes may be written to, and its methods run when a name is used, or by the language itself."""
        self.waiting.near.extend((*kind.__mro__[1:], type(kind)))
        for name, value in vars(kind).items():
            function = function_of(value)
            if function is None:
                self.waiting.near.extend(() if name.startswith("__") or isinstance(value, type) else (value,))
            elif name in self.used or name in _BY_LANGUAGE:
                self.waiting.near.append(function)
            else:
                self.methods.setdefault(name, []).append(function)


def _may_hold(value: Any) -> bool:
    """Is it a container, or a function, a class or an object of the user's?"""
    kind = type(value)
    if kind in (functools.partial, MethodType, CACHED):
        return True
    if kind is tuple:
        return not _HOLD_NOTHING.issuperset(map(type, value))
    if kind is FunctionType:
        return not is_library_function(value)
    if isinstance(value, type):
        return not is_library(value.__module__) and not issubclass(value, _PASSED_OVER)
    if issubclass(kind, np.ndarray):
        return bool(value.nbytes <= _LARGEST_ARRAY)
    return may_keep(value) and not issubclass(kind, _PASSED_OVER)


def _without_wrappers(value: Any) -> Any:
    """The function in one that torch, Python or this library has put around it."""
    while isinstance(value, FunctionType) and is_library_function(value) and hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    return value


def may_keep(value: Any) -> bool:
    """Is it a container or an object of the user's, or of a class of others that programs keep something in?

    Arrays and generators of random numbers are such."""
    kind = type(value)
    if kind in _KEEPERS or is_library(kind.__module__):
        return kind in _KEEPERS or issubclass(kind, _ARRAYS_AND_GENERATORS)
    return kind.__dictoffset__ != 0 or bool(slots_of(value)) or container_base(value) is not None


def _held_by(value: Any) -> Iterator[Any]:
    """What a container or an object leads to."""
    if isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif type(value) is CACHED:
        yield value.__wrapped__
    elif type(value) is tuple:
        yield from value
    else:
        yield type(value)
        yield from _objects_in(value) if container_base(value) is not None else ()
        yield from (attribute_table(value) or {}).values()
        yield from slot_values(value).values()


def _objects_in(container: Any) -> list[Any]:
    """What a container holds, but for numbers, text and the like, of which there may be many."""
    return [value for value in contained(container) if type(value) not in _HOLD_NOTHING]


def _led_to_by(function: FunctionType) -> Iterator[Any]:
    yield from held_by_function(function)
    yield from vars(function).values()
    read = [value for _, value in globals_read(function)]
    yield from (value for value in read if not isinstance(value, ModuleType))
    names, texts = _names(function.__code__), _texts(function.__code__)
    yield from _found_in([value for value in read if isinstance(value, ModuleType)], names)
    mentioned = (*names, *texts, *filter(_is_text, read))
    loaded = [sys.modules[name] for name in mentioned if name in sys.modules]
    if loaded:
        yield from _found_in(loaded, tuple(dict.fromkeys((*names, *texts))))
    if "globals" in names:
        yield from (function.__globals__[name] for name in texts if name in function.__globals__)


def _is_text(value: Any) -> bool:
    return type(value) is str


def _found_in(modules: Iterable[Any], names: tuple[str, ...]) -> Iterator[Any]:
    """What modules of users, and those in them, hold under some names."""
    waiting, seen = list(modules), set[int]()
    while waiting:
        module = waiting.pop()
        if not isinstance(module, ModuleType) or id(module) in seen or is_library(module.__name__):
            continue
        seen.add(id(module))
        known = vars(module)
        found = [known[name] for name in names if name in known]
        yield from found
        waiting += found


@functools.lru_cache(maxsize=4096)
def _texts(code: CodeType) -> tuple[str, ...]:
    """The texts in a function and those within it, among which there may be names of modules and globals, sorted."""
    return tuple(sorted({text for c in code_objects(code) for text in c.co_consts if _is_text(text)}))


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    """The names of globals and attributes that a function and those within it use, sorted."""
    return tuple(sorted({name for c in code_objects(code) for name in c.co_names}))
