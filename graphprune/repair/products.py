"""Watch products of two projections, queries with keys: which rows of which parameters each head multiplies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.nested import tensors_of
from graphprune.repair.calls import Contact, contact
from graphprune.repair.memory import Memory, View
from graphprune.trace import short_name

aten = torch.ops.aten
_VIEWS = frozenset((aten.view.default, aten._unsafe_view.default))
_MOVES = frozenset(
    getattr(aten, name).default
    for name in "permute t unsqueeze expand repeat clone alias detach squeeze split_with_sizes index_select".split()
) | {aten.transpose.int, aten.unbind.int, aten.select.int, aten.slice.Tensor, aten.split.Tensor, aten.squeeze.dim}
_FACTORS = frozenset((aten.mul.Scalar, aten.mul.Tensor, aten.div.Scalar, aten.div.Tensor))
_SUMS = frozenset((aten.add.Tensor, aten.add_.Tensor))
_CLOSE = 1e-4
"""How near an operand must be to the projection's output up to a factor, as a fraction of its largest entry."""


@dataclass(frozen=True, eq=False)
class Projection:
    """What a contraction with a parameter returned.

    Attributes:
        name, dim: the parameter, and the dimension of it that makes outputs.
        rows: the entry of that dimension that makes each output. [outputs]
        bias: the vector that is added, if it is a parameter, and the entry of it for each output.
        values: a copy of what was returned, flat.
        outputs: the output that each of the values belongs to.
    """

    name: str
    dim: int
    rows: Tensor
    bias: str
    bias_rows: Tensor
    values: Tensor
    outputs: Tensor


@dataclass(frozen=True, eq=False)
class _Moved:
    """Where each entry of a tensor is in the values of a projection; None if it was changed, by ``op``."""

    projection: Projection
    places: Tensor | None
    op: str = ""


@dataclass(frozen=True)
class Side:
    """One operand of one head: rows of a parameter, and the entries of the bias that go with them."""

    name: str
    dim: int
    rows: tuple[int, ...]
    bias: str
    bias_rows: tuple[int, ...]


@dataclass(eq=False)
class Head:
    """Second moments [width, width] of a head's queries and of the keys they met, summed over rows."""

    keys: set[Side]
    query_moments: Tensor
    key_moments: Tensor
    count: int = 0
    key_count: int = 0


class Products(TorchDispatchMode):
    """Finds the products of projections in one run after the other; see :attr:`heads` and :attr:`changed`.

    Only views, transpositions, copies and one common factor may lie between a projection and the product: that is
    checked on the numbers.
    """

    def __init__(self, memory: Memory, names: frozenset[str]) -> None:
        super().__init__()
        self._memory = memory
        self._names = names
        self._known: dict[int, tuple[Tensor, _Moved]] = {}
        self.heads: dict[Side, Head] = {}
        self.changed: dict[tuple[str, int], str] = {}

    def __enter__(self) -> Products:
        self._known.clear()
        self._sdpa = sdpa_kernel(SDPBackend.MATH)
        self._sdpa.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._sdpa.__exit__(*failure)
        self._known.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        met = contact(func, args, kwargs, self._memory, self._names)
        out = func(*args, **kwargs)
        if met is not None:
            self._project(met, out)
        elif func in (aten.bmm.default, aten.baddbmm.default):
            self._multiply(*args[-2:])
        else:
            self._follow(func, args, kwargs, out)
        return out

    # ------------------------------------------------------------ from projections

    def _project(self, met: Contact, out: Tensor) -> None:
        if met.form.result is None or met.key.blocks != 1 or met.scaled:
            return
        found = output_rows(self._memory.whole(met.key.name), met.places()[0])
        if found is None:
            return
        places = torch.arange(out.numel(), device=out.device).view(out.shape)
        formed = met.result(places)
        outputs = torch.empty(out.numel(), dtype=torch.long, device=out.device)
        outputs[formed] = torch.arange(formed.shape[2], device=out.device).view(1, 1, -1, 1).expand(formed.shape)
        view = self._memory.find(met.bias) if met.bias is not None else None
        bias, bias_rows = (view.name, view.places().flatten()) if view else ("", torch.zeros(0, dtype=torch.long))
        values = out.detach().clone().flatten()
        projection = Projection(met.key.name, found[0], found[1], bias, bias_rows, values, outputs)
        self._known[id(out)] = out, _Moved(projection, places)

    def _follow(self, func: Any, args: tuple, kwargs: dict, out: Any) -> None:
        sources = [self._known[id(t)][1] for t in tensors_of((args, kwargs)) if id(t) in self._known]
        if not sources:
            return
        first, results = sources[0], list(tensors_of(out))
        if first.places is None:
            moved: Iterator[_Moved] = iter([first] * len(results))
        elif func in _MOVES or func in _VIEWS:
            made = first.places.reshape(args[1]) if func in _VIEWS else func(first.places, *args[1:])
            moved = (_Moved(first.projection, p) for p in tensors_of(made))
        elif func in _SUMS and (biased := self._biased(first, args, out)) is not None:
            moved = iter([biased])
        elif func in _FACTORS and _is_number(args[1]) and id(args[0]) in self._known:
            moved = iter([first])
        else:
            moved = iter([_Moved(first.projection, None, short_name(func))] * len(results))
        for tensor, what in zip(results, moved, strict=True):
            self._known[id(tensor)] = tensor, what

    def _biased(self, before: _Moved, args: tuple, out: Tensor) -> _Moved | None:
        """A projection to which the program adds its bias itself; None for any other sum."""
        made, view = before.projection, self._memory.find(args[1]) if isinstance(args[1], Tensor) else None
        if before.places is None or view is None or view.name not in self._names or made.bias:
            return None
        outputs = made.outputs[before.places]
        if view.size != (len(made.rows),) or bool((outputs != torch.arange(len(made.rows), device=out.device)).any()):
            return None
        values = out.detach().clone().flatten()
        projection = replace(
            made,
            bias=view.name,
            bias_rows=view.places(),
            values=values,
            outputs=outputs.broadcast_to(out.shape).flatten(),
        )
        return _Moved(projection, torch.arange(out.numel(), device=out.device).view(out.shape))

    # ------------------------------------------------------------ to products

    def _multiply(self, left: Tensor, right: Tensor) -> None:
        """``left`` [heads, queries, width] with ``right`` [heads, width, keys]."""
        if id(left) not in self._known or id(right) not in self._known:
            return
        sides = self._known[id(left)][1], self._known[id(right)][1]
        query, key = self._rows(left, sides[0], turned=False), self._rows(right.mT, sides[1], turned=True)
        if isinstance(query, list) and isinstance(key, list):
            self._count(left, right.mT, query, key)
        elif "" not in (query, key):
            for side, found in zip(sides, (query, key), strict=True):
                made = side.projection
                self.changed.setdefault((made.name, made.dim), found if isinstance(found, str) else "")

    @staticmethod
    def _rows(operand: Tensor, side: _Moved, turned: bool) -> list[Side] | str:
        """What each head of an operand [heads, n, width] is made of; else what changed it, empty if it is no head's."""
        if side.places is None:
            return side.op
        made, places = side.projection, side.places.mT if turned else side.places
        outputs = made.outputs[places]
        one = outputs[:, 0]
        ordered = one.sort(dim=1).values
        if bool((outputs != one.unsqueeze(1)).any()) or bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            return ""
        if not _proportional(operand, made.values[places]):
            return "an operation that changes values in place"
        one = one.cpu()
        bias = made.bias_rows[one].tolist() if made.bias else [[]] * len(one)
        rows = made.rows[one].tolist()
        return [Side(made.name, made.dim, tuple(r), made.bias, tuple(b)) for r, b in zip(rows, bias, strict=True)]

    def _count(self, queries: Tensor, keys: Tensor, query: list[Side], key: list[Side]) -> None:
        numbers = {side: n for n, side in enumerate(dict.fromkeys(query))}
        index = torch.tensor([numbers[side] for side in query], device=queries.device)
        width = queries.shape[2]
        moments = []
        for x in (queries, keys):
            summed = torch.zeros(len(numbers), width, width, dtype=torch.float64, device=x.device)
            moments.append(summed.index_add_(0, index, (x.mT @ x).double()).cpu())
        for side, mine, theirs in zip(numbers, *moments, strict=True):
            head = self.heads.setdefault(side, Head(set(), torch.zeros_like(mine), torch.zeros_like(theirs)))
            head.query_moments += mine
            head.key_moments += theirs
        for side, other in zip(query, key, strict=True):
            self.heads[side].keys.add(other)
            self.heads[side].count += queries.shape[1]
            self.heads[side].key_count += keys.shape[1]


def output_rows(whole: View, places: Tensor) -> tuple[int, Tensor] | None:
    """The dimension of a parameter along which outputs differ, and each one's entry.

    Args:
        whole: the parameter.
        places: where the entries of a weight [channels, outputs] lie in it.
    """
    for dim in range(len(whole.size)):
        entry = torch.zeros(whole.span, dtype=torch.long)
        wide = torch.arange(whole.size[dim]).view([-1 if d == dim else 1 for d in range(len(whole.size))])
        entry[whole.places()] = wide.expand(whole.size)
        rows = entry[places]
        if bool((rows == rows[:1]).all()) and len(rows[0].unique()) == rows.shape[1]:
            return dim, rows[0]
    return None


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1


def _proportional(operand: Tensor, values: Tensor) -> bool:
    """Is an operand a multiple of the values?"""
    a, b = operand.detach().double(), values.double()
    factor = (a * b).sum() / b.square().sum().clamp(min=torch.finfo(b.dtype).tiny)
    return bool((a - factor * b).abs().max() <= _CLOSE * a.abs().max())
