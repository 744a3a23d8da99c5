"""Watch products of two projections, head by head: queries with keys, and values with the weights that read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.repair.calls import Contact, contact
from graphprune.repair.memory import Memory, flat
from graphprune.repair.sources import Mixture, Moved, Projection, Side, Sources, output_rows

aten = torch.ops.aten
_CLOSE = 1e-4
"""How near an operand must be to the projection's output up to a factor, as a fraction of its largest entry."""


@dataclass(eq=False)
class Head:
    """Second moments [width, width] of the two factors of a head, summed over rows.

    Attributes:
        left: the queries that meet keys; or the channels of weights that read values.
        left_moments, right_moments: of these, and of the keys or (mixed) values.
    """

    left: dict[Side, None]
    left_moments: Tensor
    right_moments: Tensor


class Products(TorchDispatchMode):
    """Finds the products of projections in one run after the other.

    Only views, transpositions, copies and one common factor may lie between a projection and the product, or between
    mixed values and the weight that reads them: that is checked on the numbers.

    Attributes:
        heads: by keys or values, what they meet.
        changed: projections with something else in between, and what that is.
    """

    def __init__(self, memory: Memory, names: frozenset[str]) -> None:
        super().__init__()
        self._memory = memory
        self._names = names
        self._sources = Sources(memory, names)
        self.heads: dict[Side, Head] = {}
        self.changed: dict[tuple[str, int], str] = {}

    def __enter__(self) -> Products:
        self._sources.clear()
        self._sdpa = sdpa_kernel(SDPBackend.MATH)
        self._sdpa.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._sdpa.__exit__(*failure)
        self._sources.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        met = contact(func, args, kwargs, self._memory, self._names)
        out = func(*args, **kwargs)
        if met is not None:
            self._read(met)
            self._sources.project(met, out)
        elif func in (aten.bmm.default, aten.baddbmm.default):
            left, right = args[-2:]
            self._multiply(left, right, out)
        else:
            self._sources.follow(func, args, kwargs, out)
        return out

    # ------------------------------------------------------------ to products

    def _multiply(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """``left`` [heads, queries, width] with ``right`` [heads, width, keys], or weights with values."""
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
            self._meet(left, right.mT, query, key)
        elif "" not in (query, key):
            for side, found in zip((mine, theirs), (query, key), strict=True):
                if isinstance(side.source, Projection):
                    where = side.source.name, side.source.dim
                    self.changed.setdefault(where, found if isinstance(found, str) else "")

    @staticmethod
    def _rows(operand: Tensor, side: Moved, turned: bool) -> list[Side] | str:
        """What each head of an operand [heads, n, width] is made of; else what changed it, empty if it is no head's."""
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
        return [Side(made.name, made.dim, tuple(r), made.bias, tuple(b)) for r, b in zip(rows, bias, strict=True)]

    def _meet(self, queries: Tensor, keys: Tensor, query: list[Side], key: list[Side]) -> None:
        """Count the products of queries and keys in. [heads, n, width] both"""
        moments = ((x.mT @ x).double().cpu() for x in (queries, keys))
        for left, right, mine, theirs in zip(query, key, *moments, strict=True):
            self._count(left, right, mine, theirs)

    def _count(self, left: Side, right: Side, mine: Tensor, theirs: Tensor) -> None:
        head = self.heads.setdefault(right, Head({}, torch.zeros_like(mine), torch.zeros_like(theirs)))
        head.left[left] = None
        head.left_moments += mine
        head.right_moments += theirs

    # ------------------------------------------------------------ values, and what reads them

    def _mix(self, sides: list[Side], out: Tensor) -> None:
        """Mixed values ``out`` [heads, n, width]."""
        heads, _, columns = torch.meshgrid(*(torch.arange(n, device=out.device) for n in out.shape), indexing="ij")
        mixture = Mixture(sides, heads.flatten(), columns.flatten(), out.detach().clone().flatten())
        self._sources.begin(out, mixture)

    def _read(self, met: Contact) -> None:
        """A weight that sums over mixed values: which of its channels belong to which head."""
        moved = self._sources.of(met.x)
        if moved is None or moved.places is None or not isinstance(moved.source, Mixture):
            return
        if met.key.blocks != 1 or met.key.op is aten.convolution.default:
            return
        found = output_rows(self._memory.whole(met.key.name), met.places()[0].T)
        if found is None or met.scaled or not _proportional(met.x, moved.source.values[moved.places]):
            return
        x, places = (met.form.open(t, met.args[met.form.weight], met.args, 1)[0] for t in (met.x, moved.places))
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
                left = Side(met.key.name, found[0], tuple(found[1][mine.cpu()].tolist()), made=False)
                values = x[:, 0, mine].double().transpose(0, 1).flatten(1)
                read = weight[mine]
                self._count(left, made.sides[number], (read @ read.T).cpu(), (values @ values.T).cpu())


def _proportional(operand: Tensor, values: Tensor) -> bool:
    """Is an operand a multiple of the values?"""
    a, b = operand.detach().double(), values.double()
    factor = (a * b).sum() / b.square().sum().clamp(min=torch.finfo(b.dtype).tiny)
    return bool((a - factor * b).abs().max() <= _CLOSE * a.abs().max())
