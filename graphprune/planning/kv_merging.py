"""Fewer key/value heads, each the mean of several; all query heads stay (grouped-query attention).

Nothing is known of a class or its attributes. Where a class builds its models from a configuration, the field is the
one with which it builds a model whose keys and values have fewer rows. Elsewhere integers that have the value of a
number of heads are changed until the program runs. In both, the smaller program itself says which query heads read
which key/value head, and so which heads are merged; it must otherwise be the program that was traced.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphprune.errors import InputError, PlanError
from graphprune.graph.analysis import Analysis, analysis_of
from graphprune.graph.parameter_uses import consumed_axes
from graphprune.graph.solve import KINDS
from graphprune.planning.kv_attention import Attention, HeadRows, attentions_of, entries
from graphprune.planning.kv_candidates import MergeCandidate, by_configuration, by_numbers, is_as_built
from graphprune.planning.program_steps import StepReader
from graphprune.pruning.later_tensors import known_shapes
from graphprune.pruning.plan import Plan, slim_on_meta
from graphprune.pruning.rewrite import is_computed
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.input_specs import input_specs
from graphprune.tracing.tracer import record
from graphprune.utils.arrays import Ids, Mask, distinct_columns
from graphprune.utils.checks import found_value
from graphprune.utils.global_state import changing_globals
from graphprune.utils.modules import named_modules, tables
from graphprune.utils.random_state import random_numbers_kept, set_random_state
from graphprune.utils.tied_names import later_names

KV_HEADS = "kv_heads"
"""Where :attr:`Plan.requested` has the number of heads that are left by merging."""


def plan_of_merged_heads(graph: Analysis, kv_heads: int) -> Plan:
    """The plan after which attention has so many key/value heads; see ``plan_merged_heads``."""
    _check_number(kv_heads)
    attentions = _mergeable(graph, kv_heads)
    found, why = _fitting(graph, by_configuration(graph, attentions, kv_heads), kv_heads)
    if not found and not is_as_built(graph.model):
        found, reason = _first_fitting(graph, by_numbers(graph, attentions, kv_heads), kv_heads)
        why = why or reason
    if not found:
        raise _inexpressible(graph, attentions, kv_heads, why)
    return _together(graph, attentions, found, kv_heads)


def _together(graph: Analysis, attentions: Sequence[Attention], found: Sequence[_Fitting], kv_heads: int) -> Plan:
    """The plan of all candidates that fit, of which some are for other attentions than others.

    Raises:
        PlanError: they do not go together.
    """
    apart: list[MergeCandidate] = []
    for one in found:
        if not any(one.candidate.lengths.keys() & other.lengths.keys() for other in apart):
            apart.append(one.candidate)
    if len(apart) == 1:
        return found[0].plan
    whole = _tried(graph, MergeCandidate.joined(apart), kv_heads)
    if isinstance(whole, str):
        raise _inexpressible(graph, attentions, kv_heads, whole or "attentions do not change together")
    return whole.plan


def _check_number(kv_heads: int) -> None:
    if type(kv_heads) is not int or kv_heads < 1:
        raise InputError(
            f"kv_heads: must be a number of key/value heads, 1 or more, but is {kv_heads!r}",
            found=found_value(kv_heads),
            needed="a whole number above 0 that divides the number of key/value heads",
            do="pass kv_heads=1 for one key/value head that all query heads share",
        )


def _mergeable(graph: Analysis, kv_heads: int) -> list[Attention]:
    """The attentions with a multiple of so many heads.

    Raises:
        PlanError: there is no attention whose heads can be told.
        InputError: none has such a number of heads.
    """
    found = attentions_of(graph)
    if not found:
        raise PlanError(
            f"kv_heads: {type(graph.model).__name__} has no attention with several key/value heads that can be merged",
            where=type(graph.model).__name__,
            found=f"the groups {', '.join(group.name for group in graph.units.groups[:4]) or 'none'}",
            needed="attention whose heads are told apart by labels: groups of the role heads or kv_groups",
            do="look at print(graph) and graph.explain(name of a projection) for what holds its heads",
        )
    mergeable = [one for one in found if one.heads > kv_heads and one.heads % kv_heads == 0]
    if not mergeable:
        counts = sorted({one.heads for one in found})
        raise InputError(
            f"kv_heads: {kv_heads} does not divide a larger number of key/value heads; there are {counts}",
            where=found[0].group.name,
            found=f"kv_heads={kv_heads}",
            needed=f"a divisor of {counts[0]} below it" if len(counts) == 1 else f"a divisor of one of {counts}",
            do=f"pass kv_heads={max(n for n in range(1, counts[-1]) if counts[-1] % n == 0)}",
        )
    _check_plain(graph, mergeable)
    return mergeable


def _check_plain(graph: Analysis, attentions: Sequence[Attention]) -> None:
    """Raise a PlanError if a weight is computed from what would be averaged: it would not be an average itself."""
    modules = dict(named_modules(graph.model))
    for axis in dict.fromkeys(axis for one in attentions for axis in one.rows):
        path, parametrized, _ = axis.parameter.partition(".parametrizations.")
        module = modules.get(path if parametrized else axis.module)
        if parametrized or (module is not None and is_computed(module)):
            raise PlanError(
                f"kv_heads: the weight of {path if parametrized else axis.module} is computed from other parameters",
                where=axis.parameter,
                found="a parametrization, a mask of torch.nn.utils.prune, or weight or spectral normalization",
                needed="plain weights, of which the mean is a weight",
                do="make it permanent first: torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') or "
                "torch.nn.utils.prune.remove(layer, 'weight')",
            )


def _inexpressible(graph: Analysis, attentions: Sequence[Attention], kv_heads: int, why: str) -> PlanError:
    one = attentions[0]
    kind = graph.trace.modules.get(one.group.axes[0].module.rpartition(".")[0])
    owner = kind.__name__ if kind is not None else type(graph.model).__name__
    return PlanError(
        f"kv_heads: {owner} cannot have {kv_heads} key/value heads for its query heads{f': {why}' if why else ''}",
        where=one.group.name,
        found=f"{one.heads} heads of keys and values in {', '.join(map(str, one.group.axes[:4]))}, and no field of a "
        "configuration and no attribute with which the same program runs with fewer of them",
        needed="a class that repeats keys and values for its query heads (num_key_value_heads, n_kv_heads, enable_gqa)",
        do="write the attention with repeat_interleave and a number of key/value heads, load the weights, and merge "
        "then; or remove whole heads: graph.plan(heads=0.5)",
    )


# ---------------------------------------------------------------- candidates, tried


@dataclass(frozen=True)
class _Fitting:
    """A candidate that does what it should, and its plan."""

    candidate: MergeCandidate
    plan: Plan


def _fitting(graph: Analysis, candidates: Sequence[MergeCandidate], kv_heads: int) -> tuple[list[_Fitting], str]:
    """All candidates that fit; and why one of the others does not."""
    tried = [_tried(graph, one, kv_heads) for one in candidates]
    found = [one for one in tried if isinstance(one, _Fitting)]
    return found, next((one for one in tried if isinstance(one, str)), "")


def _first_fitting(graph: Analysis, candidates: Iterable[MergeCandidate], kv_heads: int) -> tuple[list[_Fitting], str]:
    """The first candidate that fits, if any; and why one of the others that run does not.

    One head may meet several by broadcasting, whichever projection it is of. Then nothing tells which are the queries.
    """
    why = ""
    found: list[_Fitting] = []
    for one in candidates:
        if found and one.sizes != found[0].candidate.sizes:
            break
        fits = _tried(graph, one, kv_heads)
        if isinstance(fits, _Fitting):
            found.append(fits)
        else:
            why = why or fits
    if len(found) > 1:
        return [], "nothing tells which projection is that of the queries, since one head of any would be broadcast"
    return found, why


def _tried(graph: Analysis, candidate: MergeCandidate, kv_heads: int) -> _Fitting | str:
    """A candidate with its plan, or why it is none; empty: it does not run."""
    plan = _outline(graph, candidate, kv_heads)
    merged = _analyzed(graph, plan)
    if merged is None:
        return ""
    if difference := _difference(graph, merged):
        return difference
    entries_of = _merged_entries(candidate, merged, kv_heads)
    if isinstance(entries_of, str):
        return entries_of
    kept = {axis.parameter: {axis.dim: index[0]} for axis, index in entries_of.items()}
    others = {axis.parameter: {axis.dim: tuple(index[1:])} for axis, index in entries_of.items()}
    before, after = graph.costs.dense, merged.costs.dense
    costs = {kind: (before[kind], after[kind]) for kind in before.counts if kind in after.counts}
    return _Fitting(candidate, replace(plan, kept=kept, merged=others, costs=costs))


def _outline(graph: Analysis, candidate: MergeCandidate, kv_heads: int) -> Plan:
    """A plan with the sizes of a candidate, and the first rows in the place of means."""
    kept = {axis.parameter: {axis.dim: np.arange(n, dtype=np.int64)} for axis, n in candidate.lengths.items()}
    return Plan(
        kept,
        known_shapes(tables(graph.model), kept, graph.trace.modules),
        candidate.sizes,
        (),
        {KV_HEADS: kv_heads},
        unread=candidate.unread,
        inputs=input_specs(graph.examples),
        tied=later_names(graph.model),
    )


def _analyzed(graph: Analysis, plan: Plan) -> Analysis | None:
    """The smaller model, run on shapes where the model was; None: it does not run."""
    on_meta = graph.trace.on_meta
    try:
        slim = slim_on_meta(plan, graph.model) if on_meta else plan.apply(graph.model)
        with changing_globals(), random_numbers_kept():
            set_random_state(graph.trace.random)
            traced = record(slim, graph.examples, graph.trace.pick, on_meta=on_meta)
    except Exception:  # programs with sizes that do not fit raise what they like: this is how candidates are told
        return None
    return analysis_of(slim, traced, graph.examples)


def _difference(graph: Analysis, merged: Analysis) -> str:
    """How the program differs but for sizes; empty: it is the same."""
    pairs = []
    for one in (graph, merged):
        reader = StepReader(one.trace.replayed(), one.trace.replaceable)
        steps = [(step.operation, step.module, step.numbers, step.sources) for step in reader.read()]
        shapes = [tuple(node.meta.get("shape", ())) for node in one.trace.outputs]
        pairs.append((steps, reader.sources(one.trace.outputs), shapes))
    (steps, *results), (others, *other_results) = pairs
    for old, new in zip(steps, others, strict=False):
        if old != new:
            return f"{old[0]} of {old[1] or 'the model'} becomes another operation, {new[0]}, or is given other numbers"
    if len(steps) != len(others) or results != other_results:
        return "the program does more or less, or returns something else"
    return ""


# ---------------------------------------------------------------- which entries are merged


def _merged_entries(candidate: MergeCandidate, merged: Analysis, kv_heads: int) -> dict[ParameterAxis, list[Ids]] | str:
    """By parameter axis, the entries of which each surviving one is the mean; or why this cannot be told."""
    theirs = attentions_of(merged)
    found: dict[ParameterAxis, list[Ids]] = {}
    for old, axes in candidate.parts:
        new = next((one for one in theirs if axes[0] in one.rows), None) if kv_heads > 1 else None
        if kv_heads > 1 and (new is None or new.heads != kv_heads):
            return f"there would be {new.heads if new is not None else 1} key/value heads in {axes[0]}"
        for axis in axes:
            old = _told_apart(old, axis, _asking(merged, new, axis), kv_heads)
        if not old.queries and old.rows.keys() <= set(axes):
            return "its query heads would become fewer too"
        sources = _sources(old, new, axes, kv_heads)
        if isinstance(sources, str):
            return sources
        for axis in axes:
            size = merged.trace.shapes[axis.parameter][axis.dim]
            alone = {0: np.setdiff1d(np.arange(size), _headed(merged, axis))}
            rows = new.rows.get(axis, {}) if new is not None else alone
            index = _means(old, axis, rows, sources, size)
            if index is None:
                return f"the rows of {axis} cannot be told from those of queries"
            found[axis] = index
    return found


def _sources(old: Attention, new: Attention | None, axes: Sequence[ParameterAxis], heads: int) -> list[list[int]] | str:
    """For each new head the old ones whose query heads read it; or why there are none."""
    if new is None:
        return [list(range(old.heads))]
    becomes: dict[int, set[int]] = {head: set() for head in range(old.heads)}
    for axis in old.everything.keys() & new.everything.keys():
        first, second = (_owners((one.queries if axis in axes else one.everything).get(axis, {})) for one in (old, new))
        if len(first) != len(second):
            return f"{axis} would have {len(second)} entries of query heads instead of {len(first)}"
        for head, other in distinct_columns(np.stack([first, second]))[0].T.tolist():
            becomes[head].add(other)
    found: list[list[int]] = [[] for _ in range(heads)]
    for head, others in becomes.items():
        if len(others) != 1:
            return "query heads that share a key/value head would read different ones"
        found[others.pop()].append(head)
    even = len({len(one) for one in found}) == 1
    return found if even else "key/value heads would be read by uneven numbers of query heads"


def _owners(rows: HeadRows) -> Ids:
    """The heads of all entries, in the order of the entries."""
    none = np.zeros(0, np.int64)
    index = np.concatenate([none, *rows.values()])
    heads = np.concatenate([none, *(np.full(len(one), head) for head, one in rows.items())])
    return heads[np.argsort(index, kind="stable")]


def _asking(merged: Analysis, new: Attention | None, axis: ParameterAxis) -> Mask:
    """Which rows of the first key/value head of the smaller parameter are those of query heads. [rows of that head]"""
    if new is None:
        return np.isin(np.arange(merged.trace.shapes[axis.parameter][axis.dim]), _headed(merged, axis))
    first = new.everything[axis].get(0, np.zeros(0, np.int64))
    return np.isin(first, new.queries.get(axis, {}).get(0, first[:0]))


def _told_apart(old: Attention, axis: ParameterAxis, asking: Mask, kv_heads: int) -> Attention:
    """The attention whose queries are told from keys and values in a parameter that all are rows of.

    Labels of the original do not tell them, but those of the smaller program do, and both have the same order.
    """
    queries = np.flatnonzero(asking)
    if axis in old.queries or not len(queries) or np.ptp(queries) >= len(queries):
        return old
    mine = slice(queries[0], queries[0] + len(queries) * kv_heads // old.heads)
    asks = {head: rows[mine] for head, rows in old.rows[axis].items()}
    others = {head: np.delete(rows, mine) for head, rows in old.rows[axis].items()}
    return replace(old, rows={**old.rows, axis: others}, queries={**old.queries, axis: asks})


def _headed(merged: Analysis, axis: ParameterAxis) -> Ids:
    """The rows that belong to some head; those of keys and values of one head alone do not, nor any that cannot go.

    Without rows of keys, query heads are repeats of nothing. Those alone are read by a layer: what repeats within a
    head, as angles of positions do, ends in the product of queries and keys.
    """
    found = merged.units.occurrences
    place = next((n for n, one in enumerate(merged.units.axes) if one.parameter_axis == axis), -1)
    kinds, reading = merged.solution.kind[found.unit], consumed_axes(merged.labeling)
    read = np.array([one.parameter_axis in reading for one in merged.units.axes], bool)[found.axis]
    repeats = np.unique(found.unit[read & (kinds == KINDS.index("repeat"))])
    headed = ((kinds == KINDS.index("row")) | np.isin(found.unit, repeats)) & (found.axis == place)
    return np.unique(found.index[headed])


def _means(
    old: Attention, axis: ParameterAxis, rows: HeadRows, sources: Sequence[Sequence[int]], size: int
) -> list[Ids] | None:
    """The entries of which each new one is the mean, one array for each of the heads that are merged."""
    mine = old.rows[axis]
    found = np.full((len(sources[0]), size), -1, np.int64)
    for head, merged in enumerate(sources):
        if head not in rows or any(one not in mine or len(mine[one]) != len(rows[head]) for one in merged):
            return None
        found[:, rows[head]] = [mine[one] for one in merged]
    whole = size - len(entries(rows)) + len(entries(mine))
    others = np.setdiff1d(np.arange(whole), entries(mine))
    places = np.flatnonzero(found[0] < 0)
    found[:, places] = others
    return list(found)
