"""A call that a dispatch mode sees, with the addresses of its tensors, which several records ask for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from graphprune.reconstruction.linear_calls import address
from graphprune.utils.operators import Args, Kwargs, is_mutable
from graphprune.utils.tree import tensors_of


@dataclass(frozen=True, eq=False)
class ExecutedCall:
    """A call and its results."""

    func: Any
    args: Args
    kwargs: Kwargs
    out: Any

    @cached_property
    def operands(self) -> list[Tensor]:
        return [*tensors_of(self.args), *tensors_of(self.kwargs)]

    @cached_property
    def results(self) -> list[Tensor]:
        return list(tensors_of(self.out))

    @cached_property
    def read(self) -> list[int]:
        """The addresses of the operands' storages."""
        return [address(t) for t in self.operands]

    @cached_property
    def made(self) -> list[int]:
        """The addresses of the results' storages."""
        return [address(t) for t in self.results]

    @property
    def created(self) -> list[Tensor]:
        """The results in storages of their own."""
        return [t for t, place in zip(self.results, self.made, strict=True) if place and place not in self.read]

    @cached_property
    def is_mutable(self) -> bool:
        """Does it write to its first operand?"""
        return is_mutable(self.func)

    @cached_property
    def is_view(self) -> bool:
        """Are all its results in the storages of its operands?"""
        return set(self.made) <= set(self.read)
