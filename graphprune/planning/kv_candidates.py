"""Which numbers a model has to change to have fewer key/value heads: candidates, which the program then decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, islice

from torch import nn

from graphprune.graph.analysis import Analysis
from graphprune.graph.config_fields import compared_attributes, read_attributes
from graphprune.planning.config_sizes import changed_fields
from graphprune.planning.kv_attention import Attention, entries
from graphprune.planning.unread_sizes import Attribute, attributes_in, is_inside, not_torchs
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.configured import Columns, Refused, columns, config_fields, config_of, rebuilt
from graphprune.tracing.size_places import SizePlace, attributes_held
from graphprune.utils.modules import named_modules, tables
from graphprune.utils.tied_names import first_names

MOST_WAYS = 256
"""So many ways to change numbers are tried at most."""

MergedParts = tuple[tuple[Attention, tuple[ParameterAxis, ...]], ...]
"""Attentions, each with the parameter axes of which rows of keys and values go."""


@dataclass(frozen=True, eq=False)
class MergeCandidate:
    """What may be changed.

    Attributes:
        parts: of which attentions and parameters.
        lengths: of these parameter axes, afterwards.
        sizes: new values of integers that ``forward`` reads or compares.
        unread: of others.
    """

    parts: MergedParts
    lengths: Mapping[ParameterAxis, int]
    sizes: Mapping[str, int]
    unread: Mapping[str, int]

    @staticmethod
    def joined(many: Sequence[MergeCandidate]) -> MergeCandidate:
        """All changes together."""
        parts = tuple(part for one in many for part in one.parts)
        lengths = {axis: length for one in many for axis, length in one.lengths.items()}
        sizes = {path: size for one in many for path, size in one.sizes.items()}
        unread = {path: size for one in many for path, size in one.unread.items()}
        return MergeCandidate(parts, lengths, sizes, unread)


def _length(graph: Analysis, axis: ParameterAxis) -> int:
    return graph.trace.shapes[axis.parameter][axis.dim]


def _fewer(graph: Analysis, one: Attention, axis: ParameterAxis, kv_heads: int, share: Fraction = Fraction(1)) -> int:
    """How long a parameter axis is with fewer keys and values, which are this share of its rows."""
    rows = len(entries(one.rows[axis])) * share
    return int(_length(graph, axis) - rows * (one.heads - kv_heads) / one.heads)


# ---------------------------------------------------------------- classes that build models from a configuration


def by_configuration(graph: Analysis, attentions: Sequence[Attention], kv_heads: int) -> list[MergeCandidate]:
    """Fields of the configuration with which the class builds a model that has fewer rows of keys and values."""
    config, base = config_of(graph.model), _as_built(graph.model)
    if base is None:
        return []
    sizes = {one.heads for one in attentions}
    fields = config_fields(config)
    for names in ([n for n, v in fields.items() if v in sizes], [n for n, v in fields.items() if v is None]):
        tried = (_of_field(graph, attentions, base, {name: kv_heads}) for name in names)
        if found := [one for one in tried if one is not None]:
            return found
    return []


def is_as_built(model: nn.Module) -> bool:
    """Does the class of a model build one with these tensors from its configuration?"""
    base = _as_built(model)
    if base is None:
        return False
    shapes = ({name: t.shape for name, t in tables(one).parameters.items()} for one in (model, base))
    return next(shapes) == next(shapes)


def _as_built(model: nn.Module) -> nn.Module | None:
    """What the class of a model builds from its configuration; None: nothing."""
    try:
        return rebuilt(model, {}) if config_of(model) is not None else None
    except Refused:
        return None


def _of_field(
    graph: Analysis, attentions: Sequence[Attention], base: nn.Module, values: Mapping[str, int]
) -> MergeCandidate | None:
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
    tied = first_names(tables(graph.model))
    if not parts or {(tied.get(name, name), dim) for name, dim in changed} != explained:
        return None
    found = _changed_integers(graph.model, base, built) | changed_fields(graph.model, built)
    read = {*read_attributes(graph.trace, graph.model), *compared_attributes(graph.trace, graph.model)}
    lengths = {axis: int(changed[axis.parameter, axis.dim]) for _, axes in parts for axis in axes}
    unread = {path: size for path, size in found.items() if path not in read}
    return MergeCandidate(parts, lengths, {path: size for path, size in found.items() if path in read}, unread)


def _parts_of(
    graph: Analysis, attentions: Sequence[Attention], changed: Columns, kv_heads: int
) -> Iterator[tuple[Attention, tuple[ParameterAxis, ...]]]:
    """The attentions of which rows go, as many as there should, with the parameter axes."""
    for one in attentions:
        gone = {axis: _length(graph, axis) - changed.get((axis.parameter, axis.dim), 0) for axis in one.rows}
        axes = tuple(
            axis
            for axis, count in gone.items()
            if (axis.parameter, axis.dim) in changed and _may_lose(one, axis, Fraction(count), kv_heads)
        )
        if axes:
            yield one, axes


def _may_lose(one: Attention, axis: ParameterAxis, gone: Fraction, kv_heads: int) -> bool:
    """Can so many rows be those of keys and values that go? Where queries are not told from them, of some rows."""
    rows, keys = len(entries(one.rows[axis])), gone * one.heads / (one.heads - kv_heads)
    return keys == rows or (not one.is_grouped and 0 < keys < rows and keys % one.heads == 0)


def _changed_integers(model: nn.Module, base: nn.Module, built: nn.Module) -> dict[str, int]:
    """The integers of modules that are others in what was built, where the model has what it had before."""
    own, old, new = (dict(_integers(one)) for one in (model, base, built))
    changed = {path: size for path, size in new.items() if old.get(path, size) != size}
    return {path: size for path, size in changed.items() if own.get(path) == old[path]}


def _integers(model: nn.Module) -> Iterator[tuple[str, int]]:
    for path, module in not_torchs(named_modules(model)):
        yield from ((f"{path}.{n}" if path else n, v) for n, v in attributes_held(module).items() if type(v) is int)


# ---------------------------------------------------------------- other classes


def by_numbers(graph: Analysis, attentions: Sequence[Attention], kv_heads: int) -> Iterator[MergeCandidate]:
    """Integers that have the value of a number of heads, changed in every way, those with few changes first."""
    kinds = dict(named_modules(graph.model))
    own = [one for one in attentions if not _is_torchs_attention(kinds, one)]
    grouped = [one for one in own if one.is_grouped]
    chosen = grouped or own
    if len({(one.heads, one.shared) for one in chosen}) != 1:
        return
    named = [(parts, Fraction(1)) for parts in ([_all_axes(chosen)] if grouped else _pairs(chosen))]
    named += [] if grouped else [(parts, Fraction(2, 3)) for parts in _fused(chosen)]
    unread = _unread(graph, chosen, kv_heads)
    tried = ((parts, share, way) for way in _ways(graph, chosen, kv_heads) for parts, share in named)
    for parts, share, way in islice(tried, MOST_WAYS):
        lengths = {axis: _fewer(graph, one, axis, kv_heads, share) for one, axes in parts for axis in axes}
        yield MergeCandidate(parts, lengths, way, unread)


def _all_axes(attentions: Sequence[Attention]) -> MergedParts:
    return tuple((one, tuple(one.rows)) for one in attentions)


def _is_torchs_attention(kinds: Mapping[str, nn.Module], one: Attention) -> bool:
    """Is it of ``nn.MultiheadAttention``, which has one number of heads?"""
    layers = {axis.module for axis in one.group.axes}
    owners = {path for layer in layers for path in (layer, layer.rpartition(".")[0])}
    return any(isinstance(kinds.get(path), nn.MultiheadAttention) for path in owners)


def _pairs(attentions: Sequence[Attention]) -> list[MergedParts]:
    """Keys and values may be any two of the projections of heads that all attentions have."""
    names = [list(dict.fromkeys(map(_projection, one.rows))) for one in attentions]
    common = [name for name in names[0] if all(name in others for others in names)]
    return [
        tuple((one, tuple(axis for axis in one.rows if _projection(axis) in pair)) for one in attentions)
        for pair in combinations(common, 2)
    ]


def _fused(attentions: Sequence[Attention]) -> list[MergedParts]:
    """Queries, keys and values may be rows of one projection, which has three times as many as others."""
    found = []
    for one in attentions:
        counts = {axis: len(entries(rows)) for axis, rows in one.rows.items()}
        found.append((one, tuple(axis for axis, count in counts.items() if count == 3 * min(counts.values()))))
    return [tuple(found)] if all(axes for _, axes in found) else []


def _projection(axis: ParameterAxis) -> str:
    """The name of the layer, or of the parameter if that is the attention's own."""
    return axis.module.rpartition(".")[2] if axis.tensor in ("weight", "bias") else axis.tensor


def _ways(graph: Analysis, attentions: Sequence[Attention], kv_heads: int) -> Iterator[dict[str, int]]:
    """New values of integers that forward reads or compares, or the attention has; those of one name change alike.

    A number of repetitions that is 1 need not be one that forward is seen to read.
    """
    owners = {axis.module.rpartition(".")[0] for one in attentions for axis in one.rows}
    held = [path for path, _ in _integers(graph.model) if path.rpartition(".")[0] in owners]
    paths = [*read_attributes(graph.trace, graph.model), *compared_attributes(graph.trace, graph.model), *held]
    alike: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        alike[path.rpartition(".")[2], SizePlace.of(graph.model, path).value].append(path)
    options = [(paths, _options(attentions[0], value, kv_heads)) for (_, value), paths in alike.items()]
    options = [(paths, values) for paths, values in options if values]
    ways = (way for changes in range(len(options) + 1) for way in _ways_with(changes, options))
    return islice(ways, MOST_WAYS)


def _ways_with(changes: int, options: Sequence[tuple[Sequence[str], Sequence[int]]]) -> Iterator[dict[str, int]]:
    """New values of integers of which so many change, each with its paths; integers that come last change first."""
    if not changes:
        yield {}
    for number in reversed(range(len(options) - changes + 1)) if changes else ():
        paths, values = options[number]
        for new in values:
            for others in _ways_with(changes - 1, options[number + 1 :]):
                yield dict.fromkeys(paths, new) | others


def _options(one: Attention, value: int, kv_heads: int) -> list[int]:
    """What an integer of this value may become: a number of heads, of query heads for each, or of rows."""
    rows = {len(entries(some)) for some in one.rows.values()}
    shares = {one.shared, *(most // least for most in rows for least in rows)}
    fewer_heads = [value * kv_heads // one.heads] if value in {one.heads, *rows, sum(rows), 2 * min(rows)} else []
    more_each = [value * one.heads // kv_heads] if value in shares - {0} else []
    return list(dict.fromkeys([*fewer_heads, *more_each]))


def _unread(graph: Analysis, attentions: Sequence[Attention], kv_heads: int) -> dict[str, int]:
    """Integers that forward does not read and that are called numbers of key/value heads."""
    read = {*read_attributes(graph.trace, graph.model), *compared_attributes(graph.trace, graph.model)}
    found = (
        a
        for a in attributes_in(not_torchs(named_modules(graph.model)))
        if a.path not in read and a.words & {"kv", "key"}
    )
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
