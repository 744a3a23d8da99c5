"""Follow the result of a consumer to the residual sum that it is added to: a residual stream, a shortcut.

On the way it may be rearranged, and multiplied by factors that do not depend on the input, such as a batch norm's
scale. The consumer can then be fitted to the residual of the sum, which includes the errors of the other operand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphprune.reconstruction.linear_calls import ParameterMemory, address
from graphprune.rules.registry import has_trait, norm_call
from graphprune.rules.traits import Trait
from graphprune.utils.operators import Args, Kwargs, is_mutable
from graphprune.utils.tree import tensors_of


@dataclass(frozen=True, eq=False)
class SumPath:
    """The rearrangement and scaling of a followed result so far.

    Attributes:
        token: identifies the followed call.
        shape: of the result.
        places: the index in the flattened result of each entry of the current tensor.
        factor: the factor of each entry.
        steps: the calls so far.
    """

    token: Any
    shape: tuple[int, ...]
    places: Tensor
    factor: Tensor
    steps: tuple[Step, ...] = ()

    def laid_out(self, tensor: Tensor) -> Tensor:
        """A tensor of the current shape, rearranged to the order and shape of the result."""
        out = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        out[self.places.flatten()] = tensor.flatten()
        return out.view(self.shape)

    def replay(self, result: Tensor) -> Tensor:
        """What the calls make of another result, which they may overwrite."""
        for step in self.steps:
            result = step(result)
        return result


@dataclass(frozen=True, eq=False)
class Step:
    """A call that rearranges or multiplies a followed tensor, its operand number ``position``."""

    func: Any
    args: Args
    kwargs: Kwargs
    position: int

    @staticmethod
    def of(func: Any, args: Args, kwargs: Kwargs, operand: Tensor) -> Step:
        """The call without the tensor that is followed, which need not stay in memory."""
        position = position_of(operand, args)
        return Step(func, (*args[:position], None, *args[position + 1 :]), kwargs, position)

    def __call__(self, tensor: Tensor) -> Tensor:
        """The result of the call with a tensor in its place."""
        args = (*self.args[: self.position], tensor, *self.args[self.position + 1 :])
        return next(tensors_of(self.func(*args, **self.kwargs)))


@dataclass(frozen=True, eq=False)
class ResidualSum:
    """The sum ``total`` of a followed result, operand number ``position`` of the call, and ``other``."""

    path: SumPath
    position: int
    other: Tensor
    total: Tensor


@dataclass(frozen=True, eq=False)
class OtherUse:
    """The result of ``token`` has a use other than a residual sum."""

    token: Any


class SumPaths:
    """Follows results, call by call.

    Tensors are tracked by identity and by storage, so that uses through other views are noticed.
    """

    def __init__(self, memory: ParameterMemory) -> None:
        self._memory = memory
        self._known: dict[int, tuple[Tensor, SumPath]] = {}
        self._at: dict[int, Any] = {}

    def clear(self) -> None:
        self._known.clear()
        self._at.clear()

    def start(self, token: Any, result: Tensor) -> None:
        """Follow a new result."""
        shape = tuple(result.shape)
        places = torch.arange(result.numel(), device=result.device).view(shape)
        self._set(result, SumPath(token, shape, places, result.new_ones(1).expand(shape)))

    def follow(
        self,
        func: Any,
        args: Args,
        kwargs: Kwargs,
        operands: Sequence[Tensor],
        results: Sequence[Tensor],
    ) -> list[ResidualSum | OtherUse]:
        """Process a call, and return the ends of paths in it."""
        for place in {address(t) for t in results} - {address(t) for t in operands}:
            self._at.pop(place, None)  # a new storage, possibly at the address of a freed one
        found = [self._at[address(t)] for t in operands if address(t) in self._at]
        met = {id(token): token for token in found}.values()
        if not met:
            return []
        ends = self._ends(func, args, kwargs, results)
        if ends:
            return [*ends, *(OtherUse(token) for token in met if all(token is not end.path.token for end in ends))]
        path = self._next(func, args, kwargs, results)
        if path is not None:
            self._set(results[0], path)
        elif is_mutable(func) or not {address(t) for t in results} <= {address(t) for t in operands}:
            for token in met:
                self._forget(token)
            return [OtherUse(token) for token in met]
        return []

    def _set(self, tensor: Tensor, path: SumPath) -> None:
        if place := address(tensor):
            self._at[place] = path.token
            self._known[id(tensor)] = tensor, path

    def _forget(self, token: Any) -> None:
        """Stop following a result. Its storage is still tracked, so that later uses are noticed."""
        self._known = {key: known for key, known in self._known.items() if known[1].token is not token}

    def follows(self, tensor: Any) -> bool:
        """Whether a tensor is a followed result."""
        return self._path(tensor) is not None

    def _path(self, tensor: Any) -> SumPath | None:
        return self._known[id(tensor)][1] if id(tensor) in self._known else None

    # ------------------------------------------------------------ sums

    def _ends(self, func: Any, args: Args, kwargs: Kwargs, results: Sequence[Tensor]) -> list[ResidualSum]:
        found = []
        for one, other in _pairs(func, args, kwargs) if has_trait(func, Trait.ADDS) else ():
            path = self._path(one)
            if path is not None and not self._constant(other) and one.shape == other.shape == results[0].shape:
                found.append(ResidualSum(path, position_of(one, args), other, results[0]))
        for end in found:
            self._forget(end.path.token)
        if found and is_mutable(func):
            self._at.pop(address(results[0]), None)
        return found

    def _constant(self, value: Any) -> bool:
        return not isinstance(value, Tensor) or self._memory.owner(value) is not None

    # ------------------------------------------------------------ rearrangements and factors

    def _next(self, func: Any, args: Args, kwargs: Kwargs, results: Sequence[Tensor]) -> SumPath | None:
        """The path of a call's first result, if the call only rearranges or multiplies a followed tensor."""
        path = self._path(args[0]) if args else None
        if path is not None and has_trait(func, Trait.MOVES, Trait.SHIFTS):
            places, factor = (_move(t, func, args, kwargs) for t in (path.places, path.factor))
            return replace(
                path, places=places, factor=factor, steps=(*path.steps, Step.of(func, args, kwargs, args[0]))
            )
        if path is not None and (call := norm_call(func, args, kwargs)) is not None:
            step = Step.of(func, args, kwargs, args[0])
            return self._scaled(path, call.scale(), results[0], step) if call.uses_running_statistics else None
        for one, other in _pairs(func, args, kwargs):
            path = self._path(one)
            if path is not None and self._constant(other):
                step = Step.of(func, args, kwargs, one)
                return self._scaled(path, 1.0 if has_trait(func, Trait.ADDS) else other, results[0], step)
        return None

    def _scaled(self, path: SumPath, factor: Tensor | float, result: Tensor, step: Step) -> SumPath | None:
        self._known = {key: known for key, known in self._known.items() if address(known[0]) != address(result)}
        if result.shape != path.places.shape:
            return None
        return replace(path, factor=path.factor * factor, steps=(*path.steps, step))


def position_of(operand: Any, args: Args) -> int:
    """The position of an operand among the arguments of a call."""
    return next(i for i, a in enumerate(args) if a is operand)


def _pairs(func: Any, args: Args, kwargs: Kwargs) -> tuple[tuple[Any, ...], ...]:
    """The operands of a sum or a product, either way round."""
    if (has_trait(func, Trait.ADDS) and kwargs.get("alpha", 1) == 1) or has_trait(func, Trait.SCALES):
        return args[:2], args[1::-1]
    return ()


def _move(tensor: Tensor, func: Any, args: Args, kwargs: Kwargs) -> Tensor:
    """A tensor moved as the call moves its first operand, which may lie in memory in another order."""
    if has_trait(func, Trait.RESHAPES):
        return tensor.reshape(args[1])
    moved: Tensor = func(tensor, *args[1:], **kwargs)
    return moved
