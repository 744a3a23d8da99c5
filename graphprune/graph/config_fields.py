"""Which fields of a configuration move which sizes of the model that a class builds from it.

Nothing is known of the names of fields. One after the other is changed, the class builds the model on ``meta``, and the
sizes that moved are noted. Fields that only go together (a width and a number of heads, where a class works the width
of a head out from both) are found by what must not move: a *direction* is a set of fields that, scaled together, moves
only sizes that may change, and all of them linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations

from torch import nn

from graphprune.graph.built_sizes import BuiltSizes
from graphprune.tracing.configured import (
    ATTRIBUTE,
    Column,
    Columns,
    Refused,
    changed_config,
    config_fields,
    config_of,
    configurations,
    rebuilt,
)
from graphprune.tracing.sizes import Expr, attributes_of
from graphprune.tracing.tracer import Trace
from graphprune.utils.modules import tables, within

FACTORS = (Fraction(2), Fraction(3), Fraction(1, 2))
"""By which fields are scaled; a class may refuse some (heads that do not divide a width)."""
TOGETHER = 4
"""So many fields are scaled together at most."""

Moves = dict[Column, Fraction]
"""By how much each size grows when a field is doubled."""


@dataclass(frozen=True)
class Direction:
    """Fields, with their values, that are scaled together, and how each size grows when they are doubled."""

    fields: Mapping[str, int]
    moves: Mapping[Column, Fraction]

    def at(self, scale: Fraction) -> dict[str, int] | None:
        """The values of the fields at a scale; None: they are no whole numbers above zero."""
        return _scaled(self.fields, scale)

    def joined(self, other: Direction) -> Direction:
        """Both, in proportion."""
        moves = {
            c: self.moves.get(c, Fraction(0)) + other.moves.get(c, Fraction(0)) for c in (*self.moves, *other.moves)
        }
        return Direction({**self.fields, **other.fields}, moves)


def _scaled(fields: Mapping[str, int], scale: Fraction) -> dict[str, int] | None:
    values = {name: value * scale for name, value in fields.items()}
    whole = all(v.denominator == 1 and v >= 1 for v in values.values())
    return {name: int(v) for name, v in values.items()} if whole else None


@dataclass(frozen=True)
class _Response:
    """What moves when fields are doubled.

    Attributes:
        moves: by how much each size grows, as ``factor`` tells.
        factor: the first by which the class takes the fields; None: it builds no model from any change that was tried.
    """

    moves: Moves = field(default_factory=dict)
    factor: Fraction | None = None

    @property
    def refused(self) -> bool:
        """Does the class refuse all changes?"""
        return self.factor is None


class ConfigFields:
    """The fields of one model's configuration. Made by :meth:`of`.

    Attributes:
        base: the sizes of what the class builds from the configuration as it is.
        explicit: fields that hold nothing, and the values that stand for what the class takes then.
    """

    def __init__(self, model: nn.Module, sizes: BuiltSizes) -> None:
        self.model = model
        self.base = sizes.base
        self._sizes = sizes
        self.explicit: dict[str, int] = {}
        own = tables(model)
        self._parameters = {(name, dim) for name, p in own.parameters.items() for dim in range(p.dim())}
        self._tensors = own.parameters.keys() | own.buffers.keys()
        self._responses: dict[frozenset[tuple[str, int]], _Response | None] = {}
        self._linear: dict[frozenset[tuple[str, int]], bool] = {}

    @staticmethod
    def of(model: nn.Module, reads: Sequence[str]) -> ConfigFields | None:
        """The fields of a model; None: its class does not build it, as it is, from a configuration.

        Args:
            model: in any state.
            reads: the paths of the integers that ``forward`` reads.
        """
        if config_of(model) is None:
            return None
        try:
            sizes = BuiltSizes(model, reads)
        except Refused:
            return None
        parameters = tables(model).parameters.items()
        same = all(sizes.base.get((name, dim)) == size for name, p in parameters for dim, size in enumerate(p.shape))
        return ConfigFields(model, sizes) if same else None

    # ------------------------------------------------------------ directions

    def directions(
        self, may_move: Callable[[Column], bool], sizes: Collection[int], joined: Iterable[frozenset[str]] = ()
    ) -> list[Direction]:
        """All directions in which only sizes move that may.

        Args:
            may_move: may this size change?
            sizes: the values that fields of interest have.
            joined: sets of fields whose directions are taken in proportion, because the class refuses them otherwise.
        """
        fields = {n: v for n, v in config_fields(config_of(self.model)).items() if v is not None and v in sizes}
        self._make_explicit([size for size in sizes if size not in fields.values()], may_move)
        fields |= self.explicit
        found, others = [], {}
        for name, value in fields.items():
            response = self._response({name: value})
            if response is None or not (response.moves or response.refused):
                continue
            against = {c for c in response.moves if not may_move(c)}
            if response.refused or against or not self._is_linear({name: value}, response):
                others[name] = against, response.refused
            else:
                found.append(Direction({name: value}, response.moves))
        for component in _components(others):
            found += self._together({n: fields[n] for n in component}, may_move)
        return _join(found, joined)

    def _together(self, fields: Mapping[str, int], may_move: Callable[[Column], bool]) -> list[Direction]:
        """The smallest sets of these fields that are a direction."""
        found: list[Direction] = []
        for count in range(2, min(len(fields), TOGETHER) + 1):
            for names in combinations(fields, count):
                if any(direction.fields.keys() <= set(names) for direction in found):
                    continue
                chosen = {name: fields[name] for name in names}
                response = self._response(chosen)
                if response is None or not response.moves or not all(map(may_move, response.moves)):
                    continue
                if self._is_linear(chosen, response):
                    found.append(Direction(chosen, response.moves))
        return found

    def _make_explicit(self, sizes: Sequence[int], may_move: Callable[[Column], bool]) -> None:
        """Find the fields that hold nothing, from which the class works out a size that no other field has."""
        empty = [n for n, v in config_fields(config_of(self.model)).items() if v is None and n not in self.explicit]
        for name in self._sizes_among(empty, sizes):
            for size in sizes:
                moves = self._doubled(name, size)
                if moves == {}:  # it is no size
                    break
                if moves and all(may_move(c) and self.base[c] == size == delta for c, delta in moves.items()):
                    self.explicit[name] = size
                    self._responses.clear()
                    self._linear.clear()
                    break

    def _sizes_among(self, empty: Sequence[str], sizes: Sequence[int]) -> Sequence[str]:
        """The empty fields without those that are no sizes, as far as one look at all of them tells."""
        taken = [name for name in empty if sizes and self._allowed({name: 2 * sizes[0]})]
        try:
            unmoved = len(taken) > 1 and self._moves(dict.fromkeys(taken, 2 * sizes[0])) == {}
        except _Restructured:
            unmoved = False
        return [name for name in empty if name not in taken] if unmoved else empty

    def _allowed(self, values: Mapping[str, int]) -> bool:
        """Do the configuration's own checks pass?"""
        try:
            changed_config(config_of(self.model), values)
        except Refused:
            return False
        return True

    def _doubled(self, name: str, size: int) -> Moves | None:
        """What moves when an empty field gets twice a size."""
        try:
            return self._moves({name: 2 * size})
        except _Restructured:
            return None

    # ------------------------------------------------------------ probing

    def _response(self, fields: Mapping[str, int]) -> _Response | None:
        """What scaling fields together does; None: the model has other tensors then."""
        key = frozenset(fields.items())
        if key not in self._responses:
            try:
                self._responses[key] = self._probed(fields)
            except _Restructured:
                self._responses[key] = None
        return self._responses[key]

    def _probed(self, fields: Mapping[str, int]) -> _Response:
        seen = next(self._scaled_moves(fields, FACTORS), None)
        return _Response() if seen is None else _Response(seen[1], seen[0])

    def _is_linear(self, fields: Mapping[str, int], response: _Response) -> bool:
        """Does another factor move the same sizes, in proportion? Asked for only where it matters: it takes a model."""
        key = frozenset(fields.items())
        if key not in self._linear:
            others = FACTORS[FACTORS.index(response.factor) + 1 :] if response.factor is not None else ()
            try:
                seen = next(self._scaled_moves(fields, others), None)
                self._linear[key] = seen is None or seen[1] == response.moves
            except _Restructured:
                self._linear[key] = False
        return self._linear[key]

    def _scaled_moves(self, fields: Mapping[str, int], factors: Iterable[Fraction]) -> Iterator[tuple[Fraction, Moves]]:
        """What each of these factors moves, as if it were two; those that the class refuses are left out."""
        for factor in factors:
            values = _scaled(fields, factor)
            moves = self._moves({**self.explicit, **values}) if values is not None else None
            if moves is not None:
                yield factor, {c: delta / (factor - 1) for c, delta in moves.items()}

    def _moves(self, values: Mapping[str, int]) -> Moves | None:
        """By how much each size is another one with these values; None: the class refuses them.

        Raises:
            _Restructured: the model has other parameters.
        """
        try:
            found = self._sizes.at(values)
        except Refused:
            return None
        if not found.keys() >= self._parameters:
            raise _Restructured
        both = ((c, size, self.base[c]) for c, size in found.items() if c[1] == ATTRIBUTE or c[0] in self._tensors)
        return {c: Fraction(size) - Fraction(base) for c, size, base in both if size != base}

    # ------------------------------------------------------------ values

    def scales(self, wanted: Columns, units: Iterable[int]) -> list[tuple[Direction, Fraction]]:
        """How far to go in each direction so that the class builds a model of the ``wanted`` sizes.

        A direction of which sizes do not agree is left out.

        Args:
            wanted: the sizes of a slim model; what it does not have may be anything.
            units: numbers that fields may count (heads), which no size of a tensor is.
        """
        change = {c: Fraction(size) - Fraction(self.base[c]) for c, size in wanted.items() if c in self.base}
        sizes = {int(self.base[c]) for c, delta in change.items() if delta}.union(units)
        directions = self.directions(lambda c: c not in change or bool(change[c]), sizes)
        left = dict(change)
        found = []
        while directions:
            scale, direction = _next_scale(directions, left)
            if direction is None:
                break
            directions.remove(direction)
            if direction.at(scale) is not None:
                found.append((direction, scale))
                for column in direction.moves.keys() & left.keys():
                    left[column] -= direction.moves[column] * (scale - 1)
        return found

    def values(self, scales: Iterable[tuple[Direction, Fraction]]) -> dict[str, int]:
        """The values of fields at some scales."""
        found = dict(self.explicit)
        for direction, scale in scales:
            found |= direction.at(scale) or {}
        return found

    def in_proportion(
        self, scales: Sequence[tuple[Direction, Fraction]], directions: Sequence[Direction]
    ) -> frozenset[frozenset[str]]:
        """The fields of pairs of directions of which the class refuses one alone, but takes both in proportion.

        Args:
            scales: those that are not to be as they are, and how far they go.
            directions: all that a plan has.
        """
        wanted = {frozenset(direction.fields): scale for direction, scale in scales}
        found = set()
        for one in directions:
            for factor in (wanted.get(frozenset(one.fields), Fraction(1)), *map(Fraction, (3, 5, 7))):
                if not self._builds((one, factor)):
                    others = (other for other in directions if other is not one)
                    pairs = [other for other in others if self._builds((one, factor), (other, factor))]
                    found |= {frozenset((*one.fields, *other.fields)) for other in pairs}
        return frozenset(found)

    def undivided(self, scales: Sequence[tuple[Direction, Fraction]]) -> Iterator[tuple[Direction, int]]:
        """Directions of which a field has to be a multiple of another field and is none, with that one's new value.

        A width that is no multiple of the number of heads, which classes refuse even if the width of heads has a field.
        """
        new = self.values(scales)
        numbers = {n: v for n, v in config_fields(config_of(self.model)).items() if v is not None and v > 1}
        for one, _ in scales:
            for name, value in one.fields.items():
                others = {n: new.get(n, v) for n, v in numbers.items() if n not in one.fields and value % v == 0}
                for divisor in sorted({d for d in others.values() if new[name] % d}):
                    if self._accepts({**new, name: max(new[name] // divisor, 1) * divisor}):
                        yield one, divisor
                        break

    def _builds(self, *scales: tuple[Direction, Fraction]) -> bool:
        return all(direction.at(scale) is not None for direction, scale in scales) and self._accepts(
            self.values(scales)
        )

    def _accepts(self, values: Mapping[str, int]) -> bool:
        """Does the class build a model from these values of fields?"""
        try:
            rebuilt(self.model, values)
        except Refused:
            return False
        return True


def read_attributes(trace: Trace, model: nn.Module) -> list[str]:
    """The paths of the integers of a model that ``forward`` works with, but for those of configurations."""
    return _paths(trace.sizes.worked_with(), model)


def compared_attributes(trace: Trace, model: nn.Module) -> list[str]:
    """The paths of those that ``forward`` only compares."""
    read = set(read_attributes(trace, model))
    return [path for path in _paths(trace.sizes.expressions(), model) if path not in read]


def _paths(expressions: Iterable[Expr], model: nn.Module) -> list[str]:
    held = tuple(path for path, _ in configurations(model))
    paths = {a.path: None for expr in expressions for a in attributes_of(expr)}
    return [path for path in paths if not within(path, held)]


class _Restructured(Exception):
    """A change of a field gives a model other parameters: a number of layers."""


def _components(others: Mapping[str, tuple[set[Column], bool]]) -> list[list[str]]:
    """Fields that move the same sizes that must stay; those that the class refuses to change go with all."""
    refused = [name for name, (_, refuses) in others.items() if refuses]
    if refused:
        return [list(others)]
    found: list[tuple[list[str], set[Column]]] = []
    for name, (against, _) in others.items():
        touching = [one for one in found if one[1] & against]
        found = [one for one in found if not one[1] & against]
        names = [n for one in touching for n in one[0]]
        found.append(([*names, name], against.union(*(one[1] for one in touching))))
    return [names for names, _ in found]


def _join(directions: list[Direction], joined: Iterable[frozenset[str]]) -> list[Direction]:
    for names in joined:
        mine = [d for d in directions if d.fields.keys() & names]
        directions = [d for d in directions if not d.fields.keys() & names]
        for other in mine[1:]:
            mine[0] = mine[0].joined(other)
        directions += mine[:1]
    return directions


def _next_scale(directions: Sequence[Direction], left: Mapping[Column, Fraction]) -> tuple[Fraction, Direction | None]:
    """A direction of which sizes that no other one moves tell the scale, and that scale."""
    for direction in directions:
        others = {c for d in directions if d is not direction for c in d.moves}
        scales = {left[c] / move + 1 for c, move in direction.moves.items() if c in left and c not in others}
        if len(scales) == 1:
            return scales.pop(), direction
    return Fraction(1), None
