"""Which numbers a model has to change to have fewer key/value heads: candidates, which the program then decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from typing import Any

from torch import nn

from graphprune.graph.analysis import Analysis
from graphprune.graph.config_fields import compared_attributes, read_attributes
from graphprune.planning.config_sizes import changed_fields
from graphprune.planning.kv_attention import Attention, entries
from graphprune.planning.unread_sizes import Attribute, attributes_in, is_inside
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.configured import Columns, Refused, columns, config_fields, config_of, rebuilt
from graphprune.tracing.model_copy import is_torchs
from graphprune.tracing.size_places import SizePlace, attributes_held
from graphprune.utils.modules import named_modules, tables

MOST_TRIED = 512
"""So many ways to change numbers are tried at most."""

Parts = tuple[tuple[Attention, tuple[ParameterAxis, ...]], ...]
"""Attentions, each with the parameter axes of which rows of keys and values go."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """What may be changed.

    Attributes:
        parts: of which attentions and parameters.
        sizes: new values of integers that ``forward`` reads or compares.
        unread: of others.
    """

    parts: Parts
    sizes: Mapping[str, int]
    unread: Mapping[str, int]

    @staticmethod
    def joined(many: Sequence[Candidate]) -> Candidate:
        """All changes together."""
        sizes = {path: size for one in many for path, size in one.sizes.items()}
        unread = {path: size for one in many for path, size in one.unread.items()}
        return Candidate(tuple(part for one in many for part in one.parts), sizes, unread)


def fewer(graph: Analysis, one: Attention, axis: ParameterAxis, kv_heads: int) -> int:
    """How long a parameter axis is when fewer of its rows are keys and values."""
    rows = len(entries(one.rows[axis]))
    return graph.trace.shapes[axis.parameter][axis.dim] - rows + rows * kv_heads // one.heads


# ---------------------------------------------------------------- classes that build models from a configuration


def by_configuration(graph: Analysis, attentions: Sequence[Attention], kv_heads: int) -> list[Candidate]:
    """Fields of the configuration with which the class builds a model that has fewer rows of keys and values."""
    config = config_of(graph.model)
    if config is None:
        return []
    try:
        base = rebuilt(graph.model, {})
    except Refused:
        return []
    sizes = {one.heads for one in attentions}
    fields = config_fields(config)
    for names in ([n for n, v in fields.items() if v in sizes], [n for n, v in fields.items() if v is None]):
        tried = (_of_field(graph, attentions, base, {name: kv_heads}) for name in names)
        if found := [one for one in tried if one is not None]:
            return found
    return []


def _of_field(
    graph: Analysis, attentions: Sequence[Attention], base: nn.Module, values: Mapping[str, int]
) -> Candidate | None:
    """What changes with the value of a field, if that is nothing but rows of attention and integers."""
    try:
        built = rebuilt(graph.model, values)
    except Refused:
        return None
    (kv_heads,) = values.values()
    new, old, own = (columns(model, ()) for model in (built, base, graph.model))
    changed = {column: size for column, size in new.items() if old.get(column) != size}
    if not changed or old.keys() != new.keys() or any(own.get(column) != old[column] for column in changed):
        return None
    parts = tuple(_parts_of(graph, attentions, changed, kv_heads))
    explained = {(axis.parameter, axis.dim) for _, axes in parts for axis in axes}
    if {column for column in changed if column in _own_columns(graph.model)} != explained:
        return None
    found = _changed_integers(graph.model, base, built) | changed_fields(graph.model, built)
    read = {*read_attributes(graph.trace, graph.model), *compared_attributes(graph.trace, graph.model)}
    return Candidate(parts, *({p: n for p, n in found.items() if (p in read) is known} for known in (True, False)))


def _parts_of(
    graph: Analysis, attentions: Sequence[Attention], changed: Columns, kv_heads: int
) -> Iterator[tuple[Attention, tuple[ParameterAxis, ...]]]:
    """The attentions of which rows go, as many as there should, with the parameter axes."""
    for one in attentions:
        wanted = {axis: fewer(graph, one, axis, kv_heads) for axis in one.rows}
        axes = tuple(axis for axis, size in wanted.items() if changed.get((axis.parameter, axis.dim)) == size)
        if axes:
            yield one, axes


def _own_columns(model: nn.Module) -> set[tuple[str, int]]:
    """The dimensions of tensors under their first names."""
    return {(name, dim) for name, tensor in tables(model).unique() for dim in range(tensor.dim())}


def _changed_integers(model: nn.Module, base: nn.Module, built: nn.Module) -> dict[str, int]:
    """The integers of modules that are others in what was built, where the model has what it had before."""
    known = [dict(_integers(one)) for one in (model, base, built)]
    own, old, new = known
    return {path: size for path, size in new.items() if path in old and old[path] != size and own.get(path) == old[path]}


def _integers(model: nn.Module) -> Iterator[tuple[str, int]]:
    for path, module in named_modules(model):
        held: dict[str, Any] = {} if is_torchs(module) else attributes_held(module)
        yield from ((f"{path}.{n}" if path else n, v) for n, v in held.items() if type(v) is int)


# ---------------------------------------------------------------- other classes


def by_numbers(graph: Analysis, attentions: Sequence[Attention], kv_heads: int) -> Iterator[Candidate]:
    """Integers that have the value of a number of heads, changed in every way, those with few changes first."""
    kinds = dict(named_modules(graph.model))
    own = [one for one in attentions if not _is_torchs_attention(kinds, one)]
    grouped = [one for one in own if one.is_grouped]
    chosen = grouped or own
    if len({(one.heads, one.shared) for one in chosen}) != 1:
        return
    ways = list(_ways(graph, chosen, kv_heads))
    named = [tuple((one, tuple(one.rows)) for one in chosen)] if grouped else _pairs(chosen)
    tried = ((parts, way) for way in ways for parts in named)
    unread = _unread(graph, chosen, kv_heads)
    yield from (Candidate(parts, way, unread) for parts, way in islice(tried, MOST_TRIED))


def _is_torchs_attention(kinds: Mapping[str, nn.Module], one: Attention) -> bool:
    """Is it of ``nn.MultiheadAttention``, which has one number of heads?"""
    owners = {axis.module for axis in one.group.axes}
    return any(
        isinstance(kinds.get(path), nn.MultiheadAttention) for owner in owners for path in (owner, owner.rpartition(".")[0])
    )


def _pairs(attentions: Sequence[Attention]) -> list[Parts]:
    """Keys and values may be any two of the projections of heads that all attentions have."""
    names = [list(dict.fromkeys(map(_projection, one.rows))) for one in attentions]
    common = [name for name in names[0] if all(name in others for others in names)]
    return [
        tuple((one, tuple(axis for axis in one.rows if _projection(axis) in pair)) for one in attentions)
        for pair in combinations(common, 2)
    ]


def _projection(axis: ParameterAxis) -> str:
    """The name of the layer, or of the parameter if that is the attention's own."""
    return axis.module.rpartition(".")[2] if axis.tensor in ("weight", "bias") else axis.tensor


def _ways(graph: Analysis, attentions: Sequence[Attention], kv_heads: int) -> Iterator[dict[str, int]]:
    """New values of integers that forward reads or compares; those of one name change alike."""
    paths = [*read_attributes(graph.trace, graph.model), *compared_attributes(graph.trace, graph.model)]
    alike: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        alike[path.rpartition(".")[2], SizePlace.of(graph.model, path).value].append(path)
    options = {key: _options(attentions[0], key[1], kv_heads) for key in alike}
    keys = [key for key, values in options.items() if values]
    chosen = sorted(product(*((None, *options[key]) for key in keys)), key=lambda way: len(way) - way.count(None))
    for way in islice(chosen, MOST_TRIED):
        yield {path: new for key, new in zip(keys, way, strict=True) if new is not None for path in alike[key]}


def _options(one: Attention, value: int, kv_heads: int) -> list[int]:
    """What an integer of this value may become: a number of heads, of query heads for each, or of rows."""
    rows = {len(entries(some)) for some in one.rows.values()}
    fewer_heads = [value * kv_heads // one.heads] if value in {one.heads, *rows, sum(rows), 2 * min(rows)} else []
    more_each = [value * one.heads // kv_heads] if value == one.shared else []
    return list(dict.fromkeys([*fewer_heads, *more_each]))


def _unread(graph: Analysis, attentions: Sequence[Attention], kv_heads: int) -> dict[str, int]:
    """Integers that forward does not read and that are called numbers of key/value heads."""
    read = {*read_attributes(graph.trace, graph.model), *compared_attributes(graph.trace, graph.model)}
    found = (a for a in attributes_in(named_modules(graph.model)) if a.path not in read and a.words & {"kv", "key"})
    pairs = ((a, _called(a, attentions, kv_heads)) for a in found)
    return {a.path: new for a, new in pairs if new is not None}


def _called(attribute: Attribute, attentions: Iterable[Attention], kv_heads: int) -> int | None:
    """The new value of an integer by its name, if it is one of an attention."""
    for one in attentions:
        if any(is_inside(axis.parameter, attribute.owner) for axis in one.rows):
            if attribute.kind == "heads" and attribute.value == one.heads:
                return kv_heads
            if attribute.kind == "groups" and attribute.value == one.shared:
                return attribute.value * one.heads // kv_heads
    return None
