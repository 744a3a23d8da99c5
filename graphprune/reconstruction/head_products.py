"""Products of two projections for each head: queries with keys, and values with the weight that is applied to them.

The source of each entry of a tensor is tracked from the projections, and from values averaged by attention, to the
product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphprune.calibration.communicator import Communicator
from graphprune.reconstruction.linear_calls import LinearCall, ParameterMemory, ParameterView, flat, linear_call
from graphprune.rules.registry import has_trait, matmul_views
from graphprune.rules.traits import Trait
from graphprune.utils.operators import Args, DispatchMode, Kwargs, is_mutable, short_name
from graphprune.utils.tree import tensors_of


@dataclass(frozen=True)
class HeadFactor:
    """One factor of one head: indexes along a dimension of a parameter, and the corresponding ones of its bias.

    ``made``: the dimension is that of outputs; otherwise that of input channels, which are summed over.
    """

    name: str
    dim: int
    rows: tuple[int, ...]
    bias: str = ""
    bias_rows: tuple[int, ...] = ()
    made: bool = True


@dataclass(frozen=True, eq=False)
class Projection:
    """The result of a contraction with a parameter.

    Attributes:
        name, dim: the parameter, and its dimension of outputs.
        rows: the index along that dimension of each output. [outputs]
        bias, bias_rows: the parameter that is added, or an empty name, and its index for each output. [outputs]
        values: a copy of the result, flattened.
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
class Mixture:
    """Values averaged by attention: each row of a head is a weighted sum of rows of one projection.

    Attributes:
        sides: the factor that each head's values come from. [heads]
        heads, columns: the head, and its column, that each of the values belongs to.
        values: a copy of the result, flattened.
    """

    sides: list[HeadFactor]
    heads: Tensor
    columns: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Moved:
    """The index of each entry of a tensor in the values of ``source``; None if operation ``op`` changed the values."""

    source: Projection | Mixture
    places: Tensor | None
    op: str = ""

    @staticmethod
    def not_at_all(source: Projection | Mixture, out: Tensor) -> Moved:
        """The source of its own result ``out``, without any rearrangement."""
        return Moved(source, torch.arange(out.numel(), device=out.device).view(out.shape))


class SourceMap:
    """The sources of the tensors of one forward pass."""

    def __init__(self, memory: ParameterMemory, names: frozenset[str]) -> None:
        self._memory = memory
        self._names = names
        self._known: dict[int, tuple[Tensor, Moved]] = {}  # with references to the tensors, so that ids are not reused

    def clear(self) -> None:
        self._known.clear()

    def of(self, tensor: Tensor) -> Moved | None:
        found = self._known.get(id(tensor))
        return found[1] if found is not None else None

    def begin(self, out: Tensor, source: Projection | Mixture) -> None:
        """Track ``out``, the result of ``source``."""
        self._known[id(out)] = out, Moved.not_at_all(source, out)

    def project(self, met: LinearCall, out: Tensor) -> None:
        """Track the result ``out`` of a contraction with a parameter."""
        if met.matmul.result is None or met.key.blocks != 1 or met.scaled:
            return
        found = output_rows(self._memory.whole(met.key.name), met.places()[0])
        if found is None:
            return
        places = torch.arange(out.numel(), device=out.device).view(out.shape)
        formed = met.result(places)
        outputs = torch.empty(out.numel(), dtype=torch.long, device=out.device)
        outputs[formed] = torch.arange(formed.shape[2], device=out.device).view(1, 1, -1, 1).expand(formed.shape)
        view = self._memory.find(met.bias) if met.bias is not None else None
        bias, bias_rows = (
            (view.name, view.places().flatten()) if view else ("", torch.zeros(0, dtype=torch.long, device="cpu"))
        )
        values = out.detach().clone().flatten()
        projection = Projection(met.key.name, found[0], found[1], bias, bias_rows, values, outputs)
        self.begin(out, projection)

    def follow(self, func: Any, args: Args, kwargs: Kwargs, out: Any) -> None:
        """Track the result ``out`` of any other operation on tracked tensors."""
        first = next(filter(None, map(self.of, tensors_of((args, kwargs)))), None)
        if first is None:
            return
        results = list(tensors_of(out))
        if first.places is None:
            moved: Iterator[Moved] = iter([first] * len(results))
        elif has_trait(func, Trait.MOVES, Trait.PICKS):
            reshapes = has_trait(func, Trait.RESHAPES)
            made = first.places.reshape(args[1]) if reshapes else func(first.places, *args[1:])
            moved = (Moved(first.source, p) for p in tensors_of(made))
        elif has_trait(func, Trait.ADDS) and (biased := self._biased(first, args, out)) is not None:
            moved = iter([biased])
        elif _multiplies(func) and _is_number(args[1]) and self.of(args[0]) is not None:
            moved = iter([first])
        else:
            moved = iter([Moved(first.source, None, short_name(func))] * len(results))
        for tensor, what in zip(results, moved, strict=True):
            self._known[id(tensor)] = tensor, what

    def _biased(self, before: Moved, args: Args, out: Tensor) -> Moved | None:
        """A projection whose bias is added by a call of its own; None for any other sum."""
        made, view = before.source, self._memory.find(args[1]) if isinstance(args[1], Tensor) else None
        if before.places is None or view is None or view.name not in self._names:
            return None
        if isinstance(made, Mixture) or made.bias:
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
        return Moved.not_at_all(projection, out)


def output_rows(whole: ParameterView, places: Tensor) -> tuple[int, Tensor] | None:
    """The dimension of a parameter that outputs belong to, and the index along it of each output. None: there is none.

    Args:
        whole: the parameter.
        places: the places in it of the entries of a weight. [channels, outputs]
    """
    for dim in range(len(whole.size)):
        entry = torch.zeros(whole.span, dtype=torch.long, device="cpu")
        wide = torch.arange(whole.size[dim], device="cpu").view([-1 if d == dim else 1 for d in range(len(whole.size))])
        entry[whole.places()] = wide.expand(whole.size)
        rows = entry[places]
        if bool((rows == rows[:1]).all()) and len(rows[0].unique()) == rows.shape[1]:
            return dim, rows[0]
    return None


def _multiplies(func: Any) -> bool:
    """Is it a product or a quotient? Not in place: other views of the tensor would be multiplied as well."""
    return has_trait(func, Trait.SCALES, Trait.DIVIDES) and not is_mutable(func)


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1


_CLOSE = 1e-4
"""Tolerance for an operand to be a multiple of the projection's output, as a fraction of its largest entry."""


@dataclass(eq=False)
class HeadMoments:
    """Second moments [width, width] of the two factors of a head, summed over rows.

    Attributes:
        left: the queries that are multiplied with the keys, or the input channels of weights applied to the values.
        left_moments, right_moments: of these, and of the keys or averaged values.
    """

    left: dict[HeadFactor, None]
    left_moments: Tensor
    right_moments: Tensor


class HeadProducts(DispatchMode):
    """Finds products of projections and accumulates their second moments over forward passes.

    Between a projection and the product, or between averaged values and the weight that is applied to them, only views,
    transpositions, copies and one common factor are allowed; this is checked on the values.

    Attributes:
        heads: the other factors and the moments, by the factor of keys or values.
        changed: projections with another operation in between, and the name of that operation.
    """

    def __init__(self, memory: ParameterMemory, names: frozenset[str]) -> None:
        super().__init__()
        self._memory = memory
        self._names = names
        self._sources = SourceMap(memory, names)
        self.heads: dict[HeadFactor, HeadMoments] = {}
        self.changed: dict[tuple[str, int], str] = {}

    def __enter__(self) -> HeadProducts:
        self._sources.clear()
        self._sdpa = sdpa_kernel(SDPBackend.MATH)
        self._sdpa.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._sdpa.__exit__(*failure)
        self._sources.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        met = linear_call(func, args, kwargs, self._memory, self._names)
        out = func(*args, **kwargs)
        if met is not None:
            self._read(met)
            self._sources.project(met, out)
        elif has_trait(func, Trait.BATCHED_PRODUCT):
            usual = matmul_views(func)[0]
            self._multiply(args[usual.x], args[usual.weight], out)
        else:
            self._sources.follow(func, args, kwargs, out)
        return out

    def pool(self, communicator: Communicator) -> None:
        """Pool the moments of all processes."""
        if communicator.count == 1:
            return
        found = communicator.gather((self.heads, self.changed))
        self.heads, self.changed = {}, {}
        for heads, changed in found:
            self.changed = {**changed, **self.changed}
            for right, head in heads.items():
                for left in head.left:
                    self.heads.setdefault(right, head).left[left] = None
                if self.heads[right] is not head:
                    self.heads[right].left_moments += head.left_moments
                    self.heads[right].right_moments += head.right_moments

    # ------------------------------------------------------------ products of queries and keys

    def _multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Queries [heads, queries, width] times keys [heads, width, keys], or attention weights times values."""
        mine, theirs = self._sources.of(left), self._sources.of(right)
        if theirs is None:
            return
        if mine is None:
            values = self._rows(right, theirs, turned=False)
            if isinstance(values, list):
                self._mix(values, out)
            return
        query, key = self._rows(left, mine, turned=False), self._rows(right.mT, theirs, turned=True)
        if isinstance(query, list) and isinstance(key, list):
            self._record_product(left, right.mT, query, key)
        elif "" not in (query, key):
            for side, found in zip((mine, theirs), (query, key), strict=True):
                if isinstance(side.source, Projection):
                    where = side.source.name, side.source.dim
                    self.changed.setdefault(where, found if isinstance(found, str) else "")

    @staticmethod
    def _rows(operand: Tensor, side: Moved, turned: bool) -> list[HeadFactor] | str:
        """The factor of each head of an operand [heads, n, width], or the operation that changed it; "": no heads."""
        made = side.source
        if side.places is None or isinstance(made, Mixture):
            return side.op
        outputs = made.outputs[side.places.mT if turned else side.places]
        one = outputs[:, 0]
        ordered = one.sort(dim=1).values
        if bool((outputs != one.unsqueeze(1)).any()) or bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            return ""
        if not _proportional(operand, made.values[side.places.mT if turned else side.places]):
            return "an operation that changes values in place"
        one = one.cpu()
        bias = made.bias_rows[one].tolist() if made.bias else [[]] * len(one)
        rows = made.rows[one].tolist()
        return [HeadFactor(made.name, made.dim, tuple(r), made.bias, tuple(b)) for r, b in zip(rows, bias, strict=True)]

    def _record_product(self, queries: Tensor, keys: Tensor, query: list[HeadFactor], key: list[HeadFactor]) -> None:
        """Add the second moments of queries and keys, [heads, n, width] each."""
        moments = ((x.mT @ x).double().cpu() for x in (queries, keys))
        for left, right, mine, theirs in zip(query, key, *moments, strict=True):
            self._count(left, right, mine, theirs)

    def _count(self, left: HeadFactor, right: HeadFactor, mine: Tensor, theirs: Tensor) -> None:
        head = self.heads.setdefault(right, HeadMoments({}, torch.zeros_like(mine), torch.zeros_like(theirs)))
        head.left[left] = None
        head.left_moments += mine
        head.right_moments += theirs

    # ------------------------------------------------------------ values and the weights that are applied to them

    def _mix(self, sides: list[HeadFactor], out: Tensor) -> None:
        """Track values averaged by attention, ``out`` [heads, n, width]."""
        heads, _, columns = torch.meshgrid(*(torch.arange(n, device=out.device) for n in out.shape), indexing="ij")
        mixture = Mixture(sides, heads.flatten(), columns.flatten(), out.detach().clone().flatten())
        self._sources.begin(out, mixture)

    def _read(self, met: LinearCall) -> None:
        """Process a weight that is applied to averaged values: add the moments of each head's input channels."""
        moved = self._sources.of(met.x)
        if moved is None or moved.places is None or not isinstance(moved.source, Mixture):
            return
        if met.key.blocks != 1 or met.matmul.kernel is not None:
            return
        found = output_rows(self._memory.whole(met.key.name), met.places()[0].T)
        if found is None or met.scaled or not _proportional(met.x, moved.source.values[moved.places]):
            return
        x, places = (met.matmul.open(t, met.args[met.matmul.weight], met.args, 1)[0] for t in (met.x, moved.places))
        weight = flat(self._memory.tensors[met.key.name])[met.places()[0].to(x.device)].double()
        made = moved.source
        rows = torch.tensor([side.rows for side in made.sides], device=x.device)
        source, column = rows[made.heads[places], made.columns[places]][:, 0], made.columns[places][0, 0, :, 0]
        if bool((source != source[:1, :, :1]).any()):
            return
        head = made.heads[places][0, 0, :, 0]
        for number in head.unique().tolist():
            mine = (head == number).nonzero().flatten()
            mine = mine[column[mine].argsort()]
            if len(mine) == rows.shape[1] and bool((column[mine].diff() == 1).all()):
                left = HeadFactor(met.key.name, found[0], tuple(found[1][mine.cpu()].tolist()), made=False)
                values = x[:, 0, mine].double().transpose(0, 1).flatten(1)
                read = weight[mine]
                self._count(left, made.sides[number], (read @ read.T).cpu(), (values @ values.T).cpu())


def _proportional(operand: Tensor, values: Tensor) -> bool:
    """Whether an operand is a multiple of the values."""
    a, b = operand.detach().double(), values.double()
    factor = (a * b).sum() / b.square().sum().clamp(min=torch.finfo(b.dtype).tiny)
    return bool((a - factor * b).abs().max() <= _CLOSE * a.abs().max())
