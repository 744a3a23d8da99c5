"""The configuration of a slim model: which values of its fields the class builds a model of these sizes from.

They are checked by building it. Where a plan fits, all integers that ``forward`` does not read are known with
certainty: those of the model that was built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from graphprune.graph.analysis import Analysis
from graphprune.graph.config_fields import Direction, compared_attributes
from graphprune.graph.equal_layers import unit_numbers
from graphprune.pruning.plan import Plan
from graphprune.tracing.configured import (
    ATTRIBUTE,
    Columns,
    Refused,
    columns,
    config_fields,
    config_of,
    configurations,
    rebuilt,
)
from graphprune.tracing.size_places import SizePlace
from graphprune.utils.modules import tables, within
from graphprune.utils.tied_names import first_names

CONFIG = "config."
"""Where a model has its configuration."""


@dataclass(frozen=True)
class FollowedSizes:
    """The integers that ``forward`` does not read.

    Attributes:
        unread: new values, by path.
        stale: those that keep their value although they may be sizes of what shrank.
        expressed: does the model's class build the slim model from its configuration?
        scales: how far fields went, as far as they did.
    """

    unread: dict[str, int]
    stale: tuple[str, ...]
    expressed: bool = False
    scales: Sequence[tuple[Direction, Fraction]] = ()


def config_sizes(graph: Analysis, plan: Plan, unread: Mapping[str, int], stale: Sequence[str]) -> FollowedSizes:
    """What becomes of integers, where names suggest ``unread`` and ``stale`` ones.

    Of the fields of configurations only those follow that the class needs to build the sizes of a plan. Values are
    guessed first, from names and from what became of sizes of that value; only where the class builds something else
    from them, it is built with other values of each field, which takes longer than all the rest of planning.
    """
    if config_of(graph.model) is None:
        return FollowedSizes(dict(unread), tuple(stale))
    held = tuple(path for path, _ in configurations(graph.model))
    others = {path: size for path, size in unread.items() if not within(path, held)}
    left = tuple(path for path in stale if not within(path, held))
    suggested = {p.removeprefix(CONFIG): n for p, n in unread.items() if p.startswith(CONFIG)}
    wanted = _wanted(graph, plan)
    built, scales = _built(graph, suggested, wanted) or _guessed(graph, suggested, wanted), []
    fields = graph.config_fields if built is None else None
    if fields is not None:
        scales = fields.scales(wanted, unit_numbers(graph))
        built = _built(graph, fields.values(scales), wanted)
    if built is not None:
        built = _counting(graph, built, wanted)
        settled, left = _settled(graph, built, others, left)
        return FollowedSizes({**settled, **changed_fields(graph.model, built)}, left, True, scales)
    partly, unsaid = _partly(
        graph, fields.values(scales) if scales and fields else {}, _alike(graph, suggested, wanted)
    )
    return FollowedSizes({**others, **partly}, (*left, *unsaid), False, scales)


def _partly(graph: Analysis, values: Mapping[str, int], alike: nn.Module | None) -> tuple[dict[str, int], list[str]]:
    """The fields that follow although the class builds something else, and those of its own that stay.

    Args:
        graph: the analyzed model.
        values: of fields that some of the sizes tell.
        alike: what the class builds in all sizes, with other numbers. With all of its fields the class would load the
            weights without a word, and compute something else.
    """
    if alike is None:
        partly = _rebuilt(graph.model, values) if values else None
        return (changed_fields(graph.model, partly) if partly else {}), []
    known = config_fields(config_of(alike))
    agreed = {name: value for name, value in values.items() if known.get(name) == value}
    followed, unsaid = _partly(graph, agreed, None)[0], changed_fields(graph.model, alike)
    return followed, [path for path in unsaid if path.startswith(CONFIG) and path not in followed]


def _wanted(graph: Analysis, plan: Plan) -> Columns:
    """The sizes that a slim model has."""
    found = columns(graph.model, graph.reads)
    found = {column: size for column, size in found.items() if not within(column[0], plan.skipped)}
    for name, first in first_names(tables(graph.model)).items():
        if not within(name, plan.skipped) and first in plan.shapes:
            found.update({(name, dim): size for dim, size in enumerate(plan.shape(first))})
    found.update({(path, ATTRIBUTE): plan.sizes[path] for path in graph.reads if path in plan.sizes})
    return found


def _guessed(graph: Analysis, suggested: Mapping[str, int], wanted: Columns) -> nn.Module | None:
    """What the class builds if fields follow that have the value of a size, those without which it is no other."""
    values = {**_by_size(graph, wanted), **suggested}
    built = _built(graph, values, wanted) if values.keys() > suggested.keys() else None
    for name in list(values) if built is not None else ():
        fewer = {field: value for field, value in values.items() if field != name}
        if (again := _built(graph, fewer, wanted)) is not None:
            values, built = fewer, again
    return built


def _by_size(graph: Analysis, wanted: Columns) -> dict[str, int]:
    """The fields whose value is a size that became the same other one everywhere."""
    became: dict[float, set[float]] = {}
    for column, size in columns(graph.model, graph.reads).items():
        became.setdefault(size, set()).add(wanted.get(column, size))
    fields = config_fields(config_of(graph.model))
    new = {name: became.get(value, {value}) for name, value in fields.items() if value is not None}
    return {name: int(*sizes) for name, sizes in new.items() if len(sizes) == 1 and sizes != {fields[name]}}


def _rebuilt(model: nn.Module, values: Mapping[str, int]) -> nn.Module | None:
    """What the class builds with these values of fields; None: it refuses them."""
    try:
        return rebuilt(model, values)
    except Refused:
        return None


def _built(graph: Analysis, values: Mapping[str, int], wanted: Columns) -> nn.Module | None:
    """What the class builds, if that has the sizes that are wanted."""
    built = _rebuilt(graph.model, values)
    if built is None:
        return None
    found = columns(built, graph.reads)
    own = tables(graph.model)
    parameters = {(name, dim) for name, p in own.parameters.items() for dim in range(p.dim())} & wanted.keys()
    same = all(found[c] == wanted[c] for c in found.keys() & wanted.keys())
    return built if same and parameters <= found.keys() else None


def _alike(graph: Analysis, suggested: Mapping[str, int], wanted: Columns) -> nn.Module | None:
    """What the class builds with all parameters as they are wanted, and all integers that ``forward`` reads.

    A number that it works out from a size (``head_dim ** -0.5``), or a buffer that nothing reads, may be another one.
    """
    parameters = tables(graph.model).parameters
    sizes = {c: n for c, n in wanted.items() if (c[0] in parameters if c[1] != ATTRIBUTE else c[0] in graph.reads)}
    return _built(graph, suggested, sizes) or _guessed(graph, suggested, sizes)


def _counting(graph: Analysis, built: nn.Module, wanted: Columns) -> nn.Module:
    """The model that the class builds, or one of the same sizes in which no number that is compared becomes 0.

    No size tells how many heads of keys there are where all heads read the same latent keys; a number of query heads
    for each of them, which the class works out, is 0 if their field does not go where that of the heads goes.
    """
    if not _vanished(graph, built):
        return built
    old, made = (config_fields(config_of(model)) for model in (graph.model, built))
    changed = {name: value for name, value in made.items() if value is not None and value != old.get(name)}
    left = {name: value for name, value in old.items() if value and name not in changed}
    alike = ((name, new) for one, new in changed.items() for name, value in left.items() if value == old.get(one))
    others = (_built(graph, {**changed, name: value}, wanted) for name, value in alike)
    return next((other for other in others if other is not None and not _vanished(graph, other)), built)


def _vanished(graph: Analysis, built: nn.Module) -> bool:
    """Is a number 0 that forward compares, and that is another one in the model?"""
    paths = compared_attributes(graph.trace, graph.model)
    return any(_number(built, path) == 0 != _number(graph.model, path) for path in paths)


# ---------------------------------------------------------------- integers that follow


def _settled(
    graph: Analysis, built: nn.Module, unread: Mapping[str, int], stale: Sequence[str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The integers that names suggest or that are only compared, with their values in the model that was built."""
    model, found, left = graph.model, dict(unread), []
    for path in (*unread, *stale, *compared_attributes(graph.trace, graph.model)):
        value = _number(built, path)
        if value is None:
            left += [path] if path in stale else []
        elif value != _number(model, path):
            found[path] = value
        else:
            found.pop(path, None)
    return found, tuple(left)


def _number(model: nn.Module, path: str) -> int | None:
    """What stands at a path; None: a model of its sizes has no such place."""
    try:
        value: int = SizePlace.of(model, path).value
    except (AttributeError, LookupError, TypeError):
        return None
    return value


def changed_fields(model: nn.Module, built: nn.Module) -> dict[str, int]:
    """The fields of all configurations of a model that have other values in the one that was built."""
    new, old = _all_fields(built), _all_fields(model)
    changed = {path: new.get(path, value) for path, value in old.items()}
    return {path: size for path, size in changed.items() if size is not None and size != old[path]}


def _all_fields(model: nn.Module) -> dict[str, int | None]:
    found = ((f"{path}.", config_fields(config)) for path, config in configurations(model))
    return {prefix + name: value for prefix, fields in found for name, value in fields.items()}
