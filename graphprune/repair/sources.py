"""Where each entry of a tensor comes from: followed from projections, and from mixed values, to where they meet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphprune.nested import tensors_of
from graphprune.repair.calls import Contact
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


@dataclass(frozen=True)
class Side:
    """One factor of one head: entries of a parameter along a dimension, and those of the bias that go with them.

    ``made``: the dimension is that of outputs, else that of channels which are summed over.
    """

    name: str
    dim: int
    rows: tuple[int, ...]
    bias: str = ""
    bias_rows: tuple[int, ...] = ()
    made: bool = True


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
class Mixture:
    """What a product with values returned: each row of a head is a sum of rows of one projection.

    Attributes:
        sides: what each head is made of. [heads]
        heads, columns: the head, and its column, that each of the values belongs to.
        values: a copy of what was returned, flat.
    """

    sides: list[Side]
    heads: Tensor
    columns: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Moved:
    """Where each entry of a tensor is in the values of ``source``; None if it was changed, by ``op``."""

    source: Projection | Mixture
    places: Tensor | None
    op: str = ""

    @staticmethod
    def not_at_all(source: Projection | Mixture, out: Tensor) -> Moved:
        """``out`` is what the source returned, entry by entry."""
        return Moved(source, torch.arange(out.numel(), device=out.device).view(out.shape))


class Sources:
    """What is known of the tensors of one run."""

    def __init__(self, memory: Memory, names: frozenset[str]) -> None:
        self._memory = memory
        self._names = names
        self._known: dict[int, tuple[Tensor, Moved]] = {}  # the tensors too, so that no other one gets their ids

    def clear(self) -> None:
        self._known.clear()

    def of(self, tensor: Tensor) -> Moved | None:
        found = self._known.get(id(tensor))
        return found[1] if found is not None else None

    def begin(self, out: Tensor, source: Projection | Mixture) -> None:
        """``out`` is what the source returned, entry by entry."""
        self._known[id(out)] = out, Moved.not_at_all(source, out)

    def project(self, met: Contact, out: Tensor) -> None:
        """``out`` is what a contraction with a parameter returned."""
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
        self.begin(out, projection)

    def follow(self, func: Any, args: tuple, kwargs: dict, out: Any) -> None:
        """``out`` is what any other operation returned."""
        first = next(filter(None, map(self.of, tensors_of((args, kwargs)))), None)
        if first is None:
            return
        results = list(tensors_of(out))
        if first.places is None:
            moved: Iterator[Moved] = iter([first] * len(results))
        elif func in _MOVES or func in _VIEWS:
            made = first.places.reshape(args[1]) if func in _VIEWS else func(first.places, *args[1:])
            moved = (Moved(first.source, p) for p in tensors_of(made))
        elif func in _SUMS and (biased := self._biased(first, args, out)) is not None:
            moved = iter([biased])
        elif func in _FACTORS and _is_number(args[1]) and self.of(args[0]) is not None:
            moved = iter([first])
        else:
            moved = iter([Moved(first.source, None, short_name(func))] * len(results))
        for tensor, what in zip(results, moved, strict=True):
            self._known[id(tensor)] = tensor, what

    def _biased(self, before: Moved, args: tuple, out: Tensor) -> Moved | None:
        """A projection to which the program adds its bias itself; None for any other sum."""
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
