"""Make integers that a copied model holds into sizes that remember their place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from graphprune.tracing.size_places import (
    UNCHANGING,
    attributes_held,
    class_integers,
    is_integer,
    same_pairs,
    steps_into,
    write,
)
from graphprune.tracing.sizes import Attr, Size, SizeLog


def holders_within(value: Any, seen: set[int]) -> Iterator[Any]:
    """The containers, slices and plain objects within a value, itself included, but for those ``seen`` already."""
    stack = [value]
    while stack:
        holder = stack.pop()
        entries = steps_into(holder) if id(holder) not in seen else []
        if entries:
            yield holder
            seen.add(id(holder))
            stack.extend(item for _, item in entries)


class SizeMarker:
    """Marks integers in attributes, and in what these hold.

    Args:
        log: where the sizes note what is done with them.
        known: the identities of what is not to be written to: the user's, or marked already. One that several modules
            hold goes by its first name.
    """

    def __init__(self, log: SizeLog, known: set[int]) -> None:
        self.log = log
        self.known = known

    def mark_attributes(self, module: nn.Module, prefix: str) -> None:
        """Mark what a module holds; integers of its class become its own."""
        repeated = list(same_pairs(module))
        for name, value in {**class_integers(type(module)), **attributes_held(module)}.items():
            vars(module)[name] = self.marked(value, prefix + name)
        for name, table in repeated:
            vars(module)[name] = type(vars(module)[name])(vars(module)[table].items())

    def marked(self, value: Any, path: str) -> Any:
        """An integer as a size, tuples and slices with their integers as sizes; other holders are written to."""
        if is_integer(value):
            size = Size(int(value), Attr(path, int(value)), self.log)
            size.kind = None if type(value) is int else type(value)
            return size
        if id(value) in self.known and not isinstance(value, UNCHANGING):
            return value
        if not isinstance(value, UNCHANGING):
            self.known.add(id(value))
        made = value
        for step, item in steps_into(value):
            new = self.marked(item, path + step)
            if new is not item:
                made = write(made, step, new)
        return made
