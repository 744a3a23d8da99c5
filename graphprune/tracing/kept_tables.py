"""Dictionaries in which a program keeps tensors by size or device between calls (masks, tables of positions).

A model that has run before has left entries there for the sizes it had then. They would be compared with sizes that are
watched, which then could not change, and what a slim model works out anew would differ from what the trace takes from
there. So each traced run begins with empty ones, as if the model had never run. A program that asks for an entry and
goes on without making it has not merely kept it: then the run is repeated with the dictionaries as they are. So are
tables of numbers by size, which may be settings: there, a program must make the very numbers that it had before, and
not look at the table as a whole; else the run is repeated with these as they are.

A slim model begins with empty ones too: what the dense model worked out from its weights is nothing of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from graphprune.tracing.rebuilt_tensors import is_filled
from graphprune.tracing.size_places import MOST_HELD
from graphprune.tracing.sizes import plain
from graphprune.utils.held import attribute_table, contents, globals_read
from graphprune.utils.modules import TORCHS_DICTS

Result = TypeVar("Result")

_TORCHS = frozenset(("_parameters", "_buffers", "_modules"))
"""What every module has, by names."""

_emptied: ContextVar[list[KeptTable] | None] = ContextVar("emptied tables", default=None)
"""The tables that this thread's run has emptied; None: it is to leave them as they are."""
_of_numbers: ContextVar[bool] = ContextVar("tables of numbers are emptied", default=False)
"""Does this thread's run empty those in which there are numbers, too?"""


class KeptTable(dict[Any, Any]):
    """Finds what was put in since it was made; earlier entries only where one is taken without asking.

    A program that walks through it, or counts it, wants all of them.
    """

    def __init__(self, earlier: dict[Any, Any]) -> None:
        super().__init__()
        self.earlier = earlier
        self.asked: list[Any] = []
        self.read_whole = False

    def __contains__(self, key: object) -> bool:
        self.asked.append(key)
        return super().__contains__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self.asked.append(key)
        return super().get(key, default)

    def __missing__(self, key: Any) -> Any:
        return self.earlier[key]

    @property
    def recomputed(self) -> bool:
        """Was everything made anew that was asked for and known before?"""
        made = self.made
        known = all(key in made or key not in self.earlier for key in map(_plain_key, self.asked))
        return known and not self.read_whole

    @property
    def made(self) -> dict[Any, Any]:
        """What was put in."""
        return {_plain_key(key): value for key, value in dict.items(self)}


class KeptNumbers(KeptTable):
    """One of numbers, which may as well be settings: then other ones are made, or none."""

    @property
    def recomputed(self) -> bool:
        made = self.made
        same = all(_plain_key(made[key]) == value for key, value in self.earlier.items() if key in made)
        return same and super().recomputed


def _reading_all(name: str) -> Callable[..., Any]:
    """A method that notes that a program looks at more than single entries."""

    def call(self: KeptTable, *args: Any) -> Any:
        self.read_whole = True
        return getattr(dict, name)(self, *args)

    return call


for _name in "__iter__ __len__ __reversed__ __eq__ __ne__ __or__ __ror__ keys values items copy pop popitem".split():
    setattr(KeptTable, _name, _reading_all(_name))


class _NotRecomputed(BaseException):
    """A program did without an entry that it had asked for. No error of its run, which may be handled elsewhere."""


def from_empty_tables(run: Callable[..., Result]) -> Callable[..., Result]:
    """Let a function run models with their tables empty; again with what they hold, where that is another run."""

    @functools.wraps(run)
    def call(*args: Any, **kwargs: Any) -> Result:
        for of_numbers in (True, False):
            tables: list[KeptTable] = []
            tokens = _emptied.set(tables), _of_numbers.set(of_numbers)
            try:
                return run(*args, **kwargs)
            except (Exception, _NotRecomputed):
                if not tables:
                    raise
                if all(type(table) is KeptTable for table in tables):
                    break
            finally:
                _emptied.reset(tokens[0])
                _of_numbers.reset(tokens[1])
        return run(*args, **kwargs)

    return call


@contextmanager
def emptied_tables(submodules: Iterable[tuple[str, nn.Module]], outside: Iterable[Any] = ()) -> Iterator[None]:
    """Within, the tables of modules and of a program are empty; afterwards they are what they were.

    Args:
        submodules: of the model.
        outside: the functions, classes, objects and containers that the program reaches (see
            :func:`graphprune.tracing.may_write.may_write_to`).
    """
    emptied = _emptied.get()
    places = [*_places_in_modules(submodules), *_places_outside(outside)] if emptied is not None else []
    tables = {id(table): _empty(table) for _, table in places}
    if emptied is not None:
        emptied += tables.values()
    try:
        for put, table in places:
            put(tables[id(table)])
        yield
    finally:
        for put, table in places:
            put(table)
    if not all(table.recomputed for table in tables.values()):
        raise _NotRecomputed


_Place = tuple[Callable[[dict[Any, Any]], Any], dict[Any, Any]]
"""What puts a dictionary in the place of a table, and that table."""


def _places_in_modules(submodules: Iterable[tuple[str, nn.Module]]) -> Iterator[_Place]:
    for _, module in submodules:
        attributes = vars(module)
        for name, table in _tables_in(attributes):
            if _is_table(table) or is_filled(type(module), name):
                yield partial(attributes.__setitem__, name), table


def _places_outside(reached: Iterable[Any]) -> Iterator[_Place]:
    """Where the functions, classes, objects and dictionaries of a program hold tables."""
    seen: set[tuple[int, str]] = set()
    for value in reached:
        if isinstance(value, FunctionType):
            yield from _places_in_function(value)
            names, read = value.__globals__, globals_read(value)
            found = [(name, held) for name, held in read if (id(names), name) not in seen and _is_kept(held)]
            seen.update((id(names), name) for name, _ in found)
            yield from ((partial(names.__setitem__, name), held) for name, held in found)
        elif isinstance(value, type):
            yield from ((partial(setattr, value, n), held) for n, held in vars(value).items() if _is_kept(held))
        else:
            table = value if type(value) is dict else attribute_table(value) or {}
            yield from ((partial(table.__setitem__, n), held) for n, held in table.items() if _is_kept(held))


def _places_in_function(function: FunctionType) -> Iterator[_Place]:
    """Where a function itself holds tables: in its closure, among its defaults, and as attributes."""
    cells = ((cell, held) for cell in function.__closure__ or () for held in contents(cell))
    yield from ((partial(setattr, cell, "cell_contents"), held) for cell, held in cells if _is_kept(held))
    for place, held in enumerate(function.__defaults__ or ()):
        if _is_kept(held):
            yield partial(_put_default, function, place), held
    for named in (function.__kwdefaults__ or {}, vars(function)):
        yield from ((partial(named.__setitem__, name), held) for name, held in named.items() if _is_kept(held))


def _put_default(function: FunctionType, place: int, value: Any) -> None:
    defaults = function.__defaults__ or ()
    function.__defaults__ = (*defaults[:place], value, *defaults[place + 1 :])


def _is_kept(value: Any) -> bool:
    """Is it a table in which there is something?"""
    return type(value) is dict and bool(value) and (_is_table(value) or (_of_numbers.get() and _has_numbers(value)))


def _empty(table: dict[Any, Any]) -> KeptTable:
    return KeptTable(table) if _is_table(table) else KeptNumbers(table)


def forget_tables(submodules: Iterable[tuple[str, nn.Module]]) -> None:
    """Let the tables that ``forward`` fills be empty, as before the first call."""
    for _, module in submodules:
        attributes = vars(module)
        for name, _ in _tables_in(attributes):
            if is_filled(type(module), name):
                attributes[name] = {}


def _tables_in(attributes: dict[str, Any]) -> list[tuple[str, dict[Any, Any]]]:
    """The tables among the attributes of a module, with their names."""
    if tuple(map(type, attributes.values())).count(dict) <= TORCHS_DICTS:
        return []
    return [(name, value) for name, value in attributes.items() if name not in _TORCHS and _is_kept(value)]


def _is_table(value: dict[Any, Any]) -> bool:
    """Is it a dictionary of tensors by integers, by devices, or by tuples with one of these?"""
    return all(map(_has_size_or_device, value)) and all(isinstance(v, Tensor) for v in value.values())


def _has_numbers(value: dict[Any, Any]) -> bool:
    """Is it a small dictionary of numbers, or tuples of such, by integers or by tuples with one of these?"""
    return len(value) <= MOST_HELD and all(map(_has_size_or_device, value)) and all(map(_is_number, value.values()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, tuple) and all(map(_is_number, value)))


def _has_size_or_device(key: Any) -> bool:
    if isinstance(key, tuple):
        return any(map(_has_size_or_device, key))
    return isinstance(key, int | torch.device) or (isinstance(key, str) and _is_device(key))


@functools.lru_cache(maxsize=1024)
def _is_device(name: str) -> bool:
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def _plain_key(key: Any) -> Any:
    """A key with integers instead of sizes."""
    if isinstance(key, tuple):
        return tuple(map(_plain_key, key))
    return plain(key) if isinstance(key, int) else key
