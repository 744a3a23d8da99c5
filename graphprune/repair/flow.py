"""What tensors of a run depend on, by the storage that they lie in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from graphprune.repair.memory import Memory, address


class Flow:
    """Hands on, call by call, marks of the tensors that the calls make.

    A storage's mark is that of all tensors in it. A tensor whose storage is new has the marks of the operands only,
    though its address may be that of a tensor that is gone.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._reach: dict[int, int] = {}
        self._made: dict[int, frozenset[str]] = {}

    def clear(self) -> None:
        self._reach.clear()
        self._made.clear()

    def reach(self, tensors: Iterable[Tensor]) -> int:
        """The consumers that any of the tensors depends on, as a set of bits."""
        found = 0
        for tensor in tensors:
            found |= self._reach.get(address(tensor), 0)
        return found

    def sources(self, tensor: Tensor) -> frozenset[str] | None:
        """The parameters and buffers that a tensor was computed from, if from nothing else."""
        name = self._memory.owner(tensor)
        return self._made.get(address(tensor)) if name is None else frozenset((name,))

    def follow(self, func: Any, operands: Sequence[Tensor], results: Sequence[Tensor], site: int = 0) -> set[int]:
        """Hand on what the results of a call depend on. Returns the addresses of new storages.

        Args:
            site: the bit of the consumer that was called.
        """
        reach = self.reach(operands) | site
        made = [self.sources(t) for t in operands]
        alone = frozenset().union(*(m for m in made if m)) if made and None not in made else None
        old = {address(t) for t in operands}
        written = operands[:1] if func._schema.is_mutable else ()
        new = {address(t) for t in results} - old - {0}
        for place in (new | {address(t) for t in (*results, *written)}) - {0}:
            self._reach[place] = reach | (0 if place in new else self._reach.get(place, 0))
            self._made.pop(place, None)
            if alone is not None:
                self._made[place] = alone
        return new
