"""Follow the result of a consumer to where it ends: in a residual sum (a residual stream, a shortcut), or in a softmax.

On the way it may be rearranged, and multiplied by factors that do not depend on the input, such as a batch norm's
scale. The consumer can then be fitted to the residual of the sum, which includes the errors of the other operand; or to
the differences within each row of the softmax, which is the same whatever is added to a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphprune.reconstruction.executed_call import ExecutedCall
from graphprune.reconstruction.linear_calls import ParameterMemory, address
from graphprune.rules.registry import has_trait, norm_call
from graphprune.rules.traits import Trait
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.tree import tensors_of

LEFT_OUT = -1e3
"""An entry of at most so much has no part in a softmax. With others in their place, such as 0, it matters what is added
to the rest."""


@dataclass(frozen=True, eq=False)
class PathStep:
    """A call that rearranges a followed tensor, multiplies it, adds a constant to it, or overwrites some entries.

    Attributes:
        position: the number of the operand that is the followed tensor; it is left out of ``args``.
        moves: the call rearranges.
        masks: it overwrites some entries.
        factor: what it multiplies with; None: nothing.
    """

    func: Any
    args: Args
    kwargs: Kwargs
    position: int
    moves: bool
    factor: Tensor | float | None = None
    masks: bool = False

    @staticmethod
    def of(
        func: Any,
        args: Args,
        kwargs: Kwargs,
        operand: Tensor,
        moves: bool = False,
        factor: Tensor | float | None = None,
        masks: bool = False,
    ) -> PathStep:
        """The call without the tensor that is followed, which need not stay in memory."""
        position = position_of(operand, args)
        return PathStep(func, (*args[:position], None, *args[position + 1 :]), kwargs, position, moves, factor, masks)

    def __call__(self, tensor: Tensor) -> Tensor:
        """The result of the call with a tensor in its place."""
        args = (*self.args[: self.position], tensor, *self.args[self.position + 1 :])
        return next(tensors_of(self.func(*args, **self.kwargs)))

    @property
    def reshapes(self) -> bool:
        """Is the order of entries, in rows, the same after the call?"""
        return not self.moves or has_trait(self.func, Trait.RESHAPES)

    def moved(self, tensor: Tensor) -> Tensor:
        """A tensor moved as the call moves its operand, which may lie in memory in another order."""
        if not self.moves:
            return tensor
        return tensor.reshape(self.args[1]) if self.reshapes else self(tensor)


@dataclass(frozen=True, eq=False)
class ResultPath:
    """The rearrangement and scaling of a followed result so far.

    Attributes:
        token: identifies the followed call.
        shape: of the result.
        steps: the calls so far.
    """

    token: Any
    shape: tuple[int, ...]
    steps: tuple[PathStep, ...] = ()

    def then(self, step: PathStep) -> ResultPath:
        """The path after another call."""
        return replace(self, steps=(*self.steps, step))

    @property
    def masked(self) -> bool:
        """Were some entries overwritten?"""
        return any(step.masks for step in self.steps)

    def places(self, device: torch.device) -> Tensor:
        """The place in the result of each entry, in the current order and shape."""
        places = torch.arange(math.prod(self.shape), device=device).view(self.shape)
        for step in self.steps:
            places = step.moved(places)
        return places

    def laid_out(self, tensor: Tensor) -> Tensor:
        """A tensor of the current shape, rearranged to the order and shape of the result."""
        if all(step.reshapes for step in self.steps):
            return tensor.reshape(self.shape)
        places = self.places(tensor.device)
        out = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        out[places.flatten()] = tensor.flatten()
        return out.view(self.shape)

    def factor(self, like: Tensor) -> Tensor:
        """The factor of each entry, in the order and shape of the result, of the type of ``like``."""
        total = like.new_ones(1).expand(self.shape)
        for step in self.steps:
            total = step.moved(total) if step.factor is None else total * step.factor
        return self.laid_out(total)

    def replay(self, result: Tensor) -> Tensor:
        """What the calls make of another result, which they may overwrite."""
        for step in self.steps:
            result = step(result)
        return result


@dataclass(frozen=True, eq=False)
class ResidualSum:
    """The sum ``total`` of a followed result, operand number ``position`` of the call, and ``other``."""

    path: ResultPath
    position: int
    other: Tensor
    total: Tensor


@dataclass(frozen=True, eq=False)
class Softmax:
    """A softmax, or its logarithm, of a followed result along the dimension ``dim`` of what was made of it."""

    path: ResultPath
    dim: int


@dataclass(frozen=True, eq=False)
class OtherUse:
    """The result of ``token`` has a use other than a residual sum or a softmax."""

    token: Any


class ResultPaths:
    """Follows results, call by call.

    Tensors are tracked by identity and by storage, so that uses through other views are noticed.
    """

    def __init__(self, memory: ParameterMemory) -> None:
        self._memory = memory
        self._known: dict[int, tuple[Tensor, ResultPath]] = {}
        self._at: dict[int, Any] = {}

    def clear(self) -> None:
        self._known.clear()
        self._at.clear()

    def start(self, token: Any, result: Tensor) -> None:
        """Follow a new result."""
        self._set(result, ResultPath(token, tuple(result.shape)))

    def follow(self, call: ExecutedCall) -> list[ResidualSum | Softmax | OtherUse]:
        """Process a call, and return the ends of paths in it."""
        if not self._at:
            return []
        for place in call.made:
            if place not in call.read:
                self._at.pop(place, None)  # a new storage, possibly at the address of a freed one
        met = {id(self._at[place]): self._at[place] for place in call.read if place in self._at}.values()
        if not met:
            return []
        ends: list[ResidualSum] | list[Softmax] = self._softmaxes(call) or self._ends(call)
        if ends:
            return [*ends, *(OtherUse(token) for token in met if all(token is not end.path.token for end in ends))]
        path = self._next(call.func, call.args, call.kwargs, call.results)
        if path is not None:
            self._set(call.results[0], path)
        elif call.is_mutable or not call.is_view:
            for token in met:
                self._forget(token)
            return [OtherUse(token) for token in met]
        return []

    def followed_in(self, tensors: Iterable[Tensor]) -> list[Any]:
        """The tokens of the results that share memory with some tensors."""
        places = {address(tensor) for tensor in tensors}
        return [token for place, token in self._at.items() if place in places]

    def _set(self, tensor: Tensor, path: ResultPath) -> None:
        if place := address(tensor):
            self._at[place] = path.token
            self._known[id(tensor)] = tensor, path

    def _forget(self, token: Any) -> None:
        """Stop following a result. Its storage is still tracked, so that later uses are noticed."""
        self._known = {key: known for key, known in self._known.items() if known[1].token is not token}

    def drop(self, token: Any) -> None:
        """Stop following a result, and do not notice later uses of it."""
        self._forget(token)
        self._at = {place: known for place, known in self._at.items() if known is not token}

    def move(self, addresses: Mapping[int, int]) -> None:
        """Storages have new addresses, given by the old ones."""
        self._at = {addresses.get(place, place): known for place, known in self._at.items()}

    def follows(self, tensor: Any) -> bool:
        """Whether a tensor is a followed result."""
        return self._path(tensor) is not None

    def _path(self, tensor: Any) -> ResultPath | None:
        return self._known[id(tensor)][1] if id(tensor) in self._known else None

    # ------------------------------------------------------------ softmaxes and sums

    def _softmaxes(self, call: ExecutedCall) -> list[Softmax]:
        path = self._path(call.args[0]) if has_trait(call.func, Trait.SOFTMAX) else None
        if path is None:
            return []
        self._forget(path.token)
        return [Softmax(path, call.args[1])]

    def _ends(self, call: ExecutedCall) -> list[ResidualSum]:
        found, total = [], call.results[0] if call.results else None
        for one, other in _pairs(call.func, call.args, call.kwargs) if has_trait(call.func, Trait.ADDS) else ():
            path = self._path(one)
            if path is None or path.masked or total is None or self._constant(other):
                continue
            if one.shape == other.shape == total.shape:
                found.append(ResidualSum(path, position_of(one, call.args), other, total))
        for end in found:
            self._forget(end.path.token)
        if found and call.is_mutable:
            self._at.pop(call.made[0], None)
        return found

    def _constant(self, value: Any) -> bool:
        return not isinstance(value, Tensor) or self._memory.owner(value) is not None

    # ------------------------------------------------------------ rearrangements and factors

    def _next(self, func: Any, args: Args, kwargs: Kwargs, results: Sequence[Tensor]) -> ResultPath | None:
        """The path of a call's first result, if the call only rearranges or multiplies a followed tensor."""
        path = self._path(args[0]) if args else None
        if path is not None and has_trait(func, Trait.MOVES, Trait.SHIFTS):
            return path.then(PathStep.of(func, args, kwargs, args[0], moves=True))
        if path is not None and (call := norm_call(func, args, kwargs)) is not None:
            if not call.uses_running_statistics:
                return None
            step = PathStep.of(func, args, kwargs, args[0], factor=call.scale())
            return self._scaled(path, step, args[0], results[0])
        if has_trait(func, Trait.MASKS):
            return self._masked(func, args, kwargs, results[0])
        for one, other in _pairs(func, args, kwargs):
            path = self._path(one)
            if path is not None and self._constant(other):
                step = PathStep.of(func, args, kwargs, one, factor=_factor(func, other))
                return self._scaled(path, step, one, results[0])
        return None

    def _masked(self, func: Any, args: Args, kwargs: Kwargs, result: Tensor) -> ResultPath | None:
        """The path of a call's result, if the call leaves some entries of one followed tensor out of a softmax."""
        followed = [a for a in args if self.follows(a)]
        path = self._path(followed[0]) if len(followed) == 1 else None
        others = [a for a in args if not self.follows(a) and not (isinstance(a, Tensor) and a.dtype == torch.bool)]
        if path is None or not all(_is_left_out(a) for a in others):
            return None
        return self._scaled(path, PathStep.of(func, args, kwargs, followed[0], masks=True), followed[0], result)

    def _scaled(self, path: ResultPath, step: PathStep, before: Tensor, result: Tensor) -> ResultPath | None:
        self._known = {key: known for key, known in self._known.items() if address(known[0]) != address(result)}
        return path.then(step) if result.shape == before.shape else None


def position_of(operand: Any, args: Args) -> int:
    """The position of an operand among the arguments of a call."""
    return next(i for i, a in enumerate(args) if a is operand)


def _is_left_out(filling: Any) -> bool:
    return bool((filling <= LEFT_OUT).all()) if isinstance(filling, Tensor) else filling <= LEFT_OUT


def _factor(func: Any, other: Any) -> Any:
    """What a call multiplies with; None: it adds."""
    if has_trait(func, Trait.ADDS):
        return None
    return 1 / other if has_trait(func, Trait.DIVIDES) else other


def _pairs(func: Any, args: Args, kwargs: Kwargs) -> tuple[tuple[Any, ...], ...]:
    """The operands of a sum or a product, either way round; of a quotient, the dividend first."""
    if has_trait(func, Trait.DIVIDES):
        return (args[:2],)
    if (has_trait(func, Trait.ADDS) and kwargs.get("alpha", 1) == 1) or has_trait(func, Trait.SCALES):
        return args[:2], args[1::-1]
    return ()
