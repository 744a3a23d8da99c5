"""Equations that keep repeated layers alike, and a model such that its configuration can say what it is.

*Repeated layers* are modules of one class in a numbered container (``layers.0``, ``layers.1``). Groups whose names
differ in such numbers only, with the same role and as many units, keep the same number of units. Where a class builds
the model from a configuration, the sizes of parameters are those that some values of its fields give.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from graphprune.graph.analysis import Analysis
from graphprune.graph.config_fields import ConfigFields, Direction
from graphprune.graph.constraints import Equation, SizeConstraints
from graphprune.graph.groups import Group
from graphprune.graph.linear_expressions import LinearExpression, NotLinear
from graphprune.graph.roles import ROLES
from graphprune.graph.size_model import SizeModel
from graphprune.tracing.configured import ATTRIBUTE, Column
from graphprune.tracing.meta import is_float
from graphprune.utils.arrays import Mask
from graphprune.utils.modules import tables
from graphprune.utils.tied_names import first_names

_NUMBER = re.compile(r"(?<![^.])(\d+)(?![^.:\[#])")
"""A component of a path that is a number."""


@dataclass(frozen=True)
class EqualLayers:
    """The equations for one choice, and the directions in which fields of a configuration may change."""

    equations: list[Equation]
    directions: list[Direction]

    @staticmethod
    def of(
        graph: Analysis, free: Mask, constraints: SizeConstraints, joined: Iterable[frozenset[str]] = ()
    ) -> EqualLayers:
        """The equations for a choice among the units that are ``free``.

        Args:
            graph: the analyzed model.
            free: the units that may go. [classes]
            constraints: what sizes in the program demand of them.
            joined: sets of fields of the configuration that are changed in proportion.
        """
        alike = alike_layers(graph, free)
        if graph.config_fields is None:
            return EqualLayers(alike, [])
        sizes = _ConfigSizes(graph, free, constraints, graph.config_fields)
        directions = graph.config_fields.directions(sizes.may_move, sizes.interesting(), joined)
        return EqualLayers([*alike, *_eliminated(sizes.expressions, directions, sizes.names)], directions)


# ---------------------------------------------------------------- repeated layers


def alike_layers(graph: Analysis, free: Mask, roles: Collection[str] = ROLES) -> list[Equation]:
    """For groups of the same role in repeated layers, that the first keeps as many units as each of the others.

    Args:
        graph: the analyzed model.
        free: the units that may go. [classes]
        roles: those of the groups that are to be alike.
    """
    return list(_alike(graph, free, roles))


def _alike(graph: Analysis, free: Mask, roles: Collection[str]) -> Iterator[Equation]:
    repeated: dict[tuple[str, str, int, tuple[type, ...]], list[Group]] = defaultdict(list)
    holding = {path.rpartition(".")[0] for path in graph.trace.modules if path}
    for group in graph.units.groups:
        places = [match.end(1) for match in _NUMBER.finditer(group.name)]
        layers = [group.name[:end] for end in places if group.name[:end] in holding]
        if layers and group.role in roles:
            kinds = tuple(graph.trace.modules[layer] for layer in layers)
            pattern = "".join(_pattern(group.name, layers))
            repeated[pattern, group.role, group.units, kinds].append(group)
    for groups in repeated.values():
        first, *others = (_kept(group, free) for group in groups)
        for other in others:
            difference = other.plus(first, -1)
            if difference.terms:
                yield Equation(difference, None)


def _pattern(name: str, layers: list[str]) -> Iterable[str]:
    """The name with a star for the number of each of the layers that it runs through."""
    start = 0
    for layer in layers:
        yield re.sub(r"\d+$", "*", layer[start:])
        start = len(layer)
    yield name[start:]


def _kept(group: Group, free: Mask) -> LinearExpression:
    """How many units of a group stay."""
    units = np.sort(group.unit_ids[free[group.unit_ids]])
    terms = {units.tobytes(): (Fraction(1), units)} if len(units) else {}
    return LinearExpression(Fraction(group.units - len(units)), terms)


# ---------------------------------------------------------------- a configuration


class _ConfigSizes:
    """The sizes of parameters that change with a choice of units, and which of all sizes may change."""

    def __init__(self, graph: Analysis, free: Mask, constraints: SizeConstraints, fields: ConfigFields) -> None:
        self.graph, self.free, self.constraints, self.fields = graph, free, constraints, fields
        self.sizes = SizeModel(graph.labeling, graph.solution, free)
        self.expressions: dict[Column, LinearExpression] = {}
        for axis in graph.units.axes:
            name = axis.parameter_axis
            try:
                expression = self.sizes.axis(graph.units.labels_of(axis))
            except NotLinear:
                continue
            if expression.terms:
                self.expressions[name.parameter, name.dim] = expression
        own = tables(graph.model)
        self.names = first_names(own)
        saved = graph.model.state_dict(keep_vars=True).keys()
        self.made_anew = {name for name, b in own.buffers.items() if name not in saved and is_float(b)}

    def may_move(self, column: Column) -> bool:
        """May this size be another one? Of buffers that the class makes anew, with other values, it may not."""
        name, dim = column
        if dim != ATTRIBUTE:
            return name not in self.made_anew and (self.names.get(name, name), dim) in self.expressions
        use = self.constraints.attributes.get(name)
        return use is not None and bool(self.free[self.sizes.units_behind(use.node, use.dim)].any())

    def interesting(self) -> list[int]:
        """The sizes that fields may have the values of."""
        base = self.fields.base
        axes = [int(base[c]) for c in self.expressions if c in base]
        attributes = (path for path in self.constraints.attributes if (path, ATTRIBUTE) in base)
        counts = [int(base[path, ATTRIBUTE]) for path in attributes if self.may_move((path, ATTRIBUTE))]
        return list(dict.fromkeys((*axes, *counts, *unit_numbers(self.graph))))


def unit_numbers(graph: Analysis) -> list[int]:
    """The numbers of units of all groups, and of query heads in all groups of keys."""
    of_kind: dict[str, list[int]] = defaultdict(list)
    for group in graph.units.groups:
        of_kind[graph.units.kind_of(group.unit_ids)].append(group.units)
    nested = (a * b for a in set(of_kind["row"]) for b in set(of_kind["repeat"]))
    return list(dict.fromkeys((*(n for numbers in of_kind.values() for n in numbers), *nested)))


def _eliminated(
    expressions: Mapping[Column, LinearExpression], directions: list[Direction], names: Mapping[str, str]
) -> Iterable[Equation]:
    """What is left of the sizes when the scales of all directions are eliminated: combinations that do not change."""
    moves: dict[Column, list[Fraction]] = {}
    for number, direction in enumerate(directions):
        for (name, dim), move in direction.moves.items():
            row = moves.setdefault((names.get(name, name), dim), [Fraction(0)] * len(directions))
            row[number] = move
    solved: list[tuple[int, list[Fraction], LinearExpression]] = []
    known: set[tuple[object, ...]] = set()
    for column, expression in expressions.items():
        row = moves.get(column, [Fraction(0)] * len(directions))
        key = (*row, *sorted((k, weight) for k, (weight, _) in expression.terms.items()))
        if key in known:
            continue
        known.add(key)
        for pivot, other, size in solved:
            if row[pivot]:
                expression = expression.plus(size, -row[pivot])
                row = [a - row[pivot] * b for a, b in zip(row, other, strict=True)]
        place = next((i for i, value in enumerate(row) if value), None)
        if place is not None:
            scale = 1 / row[place]
            solved.append((place, [v * scale for v in row], expression.times(scale)))
        elif expression.terms:
            yield Equation(expression, None)
