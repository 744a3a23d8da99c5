"""From a channel graph and a ratio to a plan: score, allocate, choose, and check every size in the user's code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from graphprune.allocate import allocate, make_parts, share_kept
from graphprune.equations import Demands, Sizes, attributes_of, dims_of, read_demands
from graphprune.errors import PlanError
from graphprune.importance import WEIGHTLESS, Context, Importance, Scores, criterion
from graphprune.labels import Ids
from graphprune.modules import named_tensors
from graphprune.order import Disorder, Orders, orders_of, ragged
from graphprune.plan import Choice, Plan
from graphprune.sizes import COMPARISONS, OPERATORS, Attr, BinOp, Const, Expr, SizeUse
from graphprune.solve import KINDS, Mask

if TYPE_CHECKING:
    from graphprune.graph import ChannelGraph

_CHANNEL, _FILLED, _ROW, _REPEAT, _CELL = range(len(KINDS))


@dataclass
class Chosen:
    """One complete choice: which classes live, and what attributes become."""

    alive: Mask
    sizes: dict[str, int]
    orders: Orders = field(default_factory=dict)


def make_plan(graph: ChannelGraph, ratio: float, importance: str | Importance, seed: int, head_width: bool) -> Plan:
    """See :meth:`graphprune.graph.ChannelGraph.plan`."""
    score = criterion(importance)
    free, demands = selectable(graph, ratio, head_width)
    sizes = graph.sizes()
    scores: dict[int, Scores] = {}
    context = _context(graph, score, seed)
    for _ in range(8):
        alive = _choose(graph, ratio, free, demands, lambda g: _score(graph, g, score, context, scores))
        chosen = Chosen(alive, _attribute_values(sizes, demands, alive))
        broken = _broken(graph, sizes, demands, chosen)
        if not len(broken):
            broken = _put_in_order(graph, sizes, chosen)
        if not len(broken):
            return _plan(graph, chosen, ratio, importance, seed)
        free = free & ~np.isin(np.arange(len(free)), broken)
    raise PlanError(
        "ratio: no choice of channels satisfies the sizes that the code asks for; "
        f"still broken: {graph.units.groups[int(graph.units.group_of[broken[0]])].name}"
    )


def _context(graph: ChannelGraph, score: Importance, seed: int) -> Context:
    tensors = {name: t for name, t in named_tensors(graph.model) if isinstance(t, nn.Parameter)}
    abstract = [n for n, t in tensors.items() if t.is_meta]
    if abstract and score not in WEIGHTLESS:
        raise PlanError(
            f"importance: it reads weights, but {abstract[0]} is on the meta device; use importance='random' or load "
            "the weights first"
        )
    return Context(tensors, graph.units, seed)


def selectable(graph: ChannelGraph, ratio: float, head_width: bool) -> tuple[Mask, Demands]:
    """The atoms that may be removed, and what sizes demand of them.

    Of nested kinds it is the outermost that the ratio reaches: key/value groups, else query heads within them. What the
    sizes freeze may pass the choice on to the next kind, so the question is asked until the answer stays.
    """
    frozen: dict[int, str] = {}
    while True:
        free = _outermost(graph, ratio, head_width, frozen)
        demands = read_demands(graph.trace, graph.labelling, graph.solution, free)
        if demands.frozen.keys() <= frozen.keys():
            demands.frozen.update(frozen)
            return free, demands
        frozen |= demands.frozen


def _outermost(graph: ChannelGraph, ratio: float, head_width: bool, frozen: dict[int, str]) -> Mask:
    kind = graph.solution.kind
    free = graph.solution.atoms & (graph.units.group_of >= 0)
    free[list(frozen)] = False
    if head_width:
        return free & (kind != _ROW) & (kind != _REPEAT)
    free &= kind != _CELL
    reached = np.array([share_kept(g.units, ratio) < g.units for g in graph.units.groups], bool)
    rows = free & (kind == _ROW)
    rows[rows] = reached[graph.units.group_of[rows]]
    free[_repeated(graph, rows)] = False
    return free


def _repeated(graph: ChannelGraph, rows: Mask) -> Ids:
    """Atoms of kind repeat whose rows can be removed themselves."""
    parts, kind = graph.solution.parts, graph.solution.kind
    composed = np.flatnonzero(parts[:, 0] >= 0)
    found = [np.zeros(0, np.int64)]
    for mine, other in ((0, 1), (1, 0)):
        pairs = parts[composed[kind[parts[composed, mine]] == _REPEAT]]
        atom, repeat = graph.solution.expand(pairs[:, other], pairs[:, mine])
        found.append(repeat[rows[atom]])
    return np.concatenate(found)


def _score(graph: ChannelGraph, group: int, score: Importance, context: Context, cache: dict[int, Scores]) -> Scores:
    if group not in cache:
        public = graph.groups[group]
        values = score(public, context)
        if values.shape != (public.units,):
            raise PlanError(
                f"importance: returned shape {list(values.shape)} for group {public.name!r}; one score for each of its "
                f"{public.units} units is needed"
            )
        cache[group] = values.detach().to(device="cpu").double().numpy()
    return cache[group]


def _choose(graph: ChannelGraph, ratio: float, free: Mask, demands: Demands, score: object) -> Mask:
    """Which classes live: the highest scores of every part."""
    groups = graph.units.groups
    members = [g.atoms[free[g.atoms]] for g in groups]
    shares = [max(share_kept(g.units, ratio) - (g.units - len(m)), 1) for g, m in zip(groups, members, strict=True)]
    classes = len(graph.solution.reason)
    parts = make_parts(members, demands.equations, classes)
    kept = allocate(parts, shares, demands.equations, classes)
    removed = [np.zeros(0, np.int64)]
    for part, count in zip(parts, kept, strict=True):
        if count < len(part.atoms):
            position = np.searchsorted(np.sort(groups[part.group].atoms), part.atoms)
            order = np.argsort(groups[part.group].atoms)
            values = score(part.group)[order[position]]  # type: ignore[operator]
            removed.append(part.atoms[np.argsort(-values, kind="stable")[count:]])
    return graph.solution.alive(np.concatenate(removed))


def _attribute_values(sizes: Sizes, demands: Demands, alive: Mask) -> dict[str, int]:
    """The new value of every attribute whose value changes."""
    values = {}
    for path, use in demands.attributes.items():
        attribute = next(a for a in attributes_of(use.expr) if a.path == path)
        new = _solved(use.expr, attribute, sizes.count(alive, use.node, use.dim), sizes, alive)
        if new != attribute.value:
            values[path] = new
    return values


def _solved(expr: Expr, attribute: Attr, size: int, sizes: Sizes, alive: Mask) -> int:
    if isinstance(expr, BinOp):
        other = expr.right if expr.left == attribute else expr.left
        return size // max(evaluate(other, {}, sizes, alive), 1)
    return size


def evaluate(expr: Expr, values: dict[str, int], sizes: Sizes, alive: Mask) -> int:
    """What a size expression is in the slim model."""
    if isinstance(expr, Const):
        return expr.value
    if isinstance(expr, Attr):
        return values.get(expr.path, expr.value)
    if isinstance(expr, BinOp):
        right = evaluate(expr.right, values, sizes, alive)
        if expr.op == "//" and not right:
            return 0
        return OPERATORS[expr.op](evaluate(expr.left, values, sizes, alive), right)
    return sizes.count(alive, expr.node, expr.dim)


def _broken(graph: ChannelGraph, sizes: Sizes, demands: Demands, chosen: Chosen) -> Ids:
    """The atoms behind every size in the user's code that would not be the size of the slim tensor.

    Comparisons count too: a program that went one way because ``heads > 1`` must not go another way.
    """
    found = [np.zeros(0, np.int64)]
    for use in _checked_uses(graph, sizes):
        stop = use.expr.value if use.prefix else None
        wanted = sizes.count(chosen.alive, use.node, use.dim, stop)
        if evaluate(use.expr, chosen.sizes, sizes, chosen.alive) != wanted:
            found.append(sizes.atoms(use.node, use.dim))
    for (symbol, left, right), outcome in graph.trace.sizes.comparisons.items():
        if isinstance(left, Attr) and isinstance(right, Const) and left.path not in chosen.sizes:
            continue
        values = [evaluate(e, chosen.sizes, sizes, chosen.alive) for e in (left, right)]
        if COMPARISONS[symbol](*values) != outcome:
            found.extend(_atoms_behind(sizes, demands, left, right))
    return np.unique(np.concatenate(found))


def _atoms_behind(sizes: Sizes, demands: Demands, *exprs: Expr) -> Iterable[Ids]:
    for expr in exprs:
        for dim in dims_of(expr):
            yield sizes.atoms(dim.node, dim.dim)
        for attribute in attributes_of(expr):
            use = demands.attributes.get(attribute.path)
            if use is not None:
                yield sizes.atoms(use.node, use.dim)


def _checked_uses(graph: ChannelGraph, sizes: Sizes) -> Iterable[SizeUse]:
    for use in graph.trace.sizes.uses:
        kind = graph.trace.modules.get(use.module, nn.Module)
        if not issubclass(kind, nn.MultiheadAttention) and sizes.labelled(use.node, use.dim):
            yield use


def _put_in_order(graph: ChannelGraph, sizes: Sizes, chosen: Chosen) -> Ids:
    """Find the order of the survivors; where there is none, return the atoms of the ragged rectangles."""
    rectangles = ragged(graph.labelling, graph.solution, chosen.alive)
    if rectangles:
        try:
            chosen.orders = orders_of(graph.labelling, sizes, chosen.alive)
        except Disorder:
            classes = graph.solution.of[np.concatenate([ids.ravel() for ids in rectangles])]
            return np.unique(graph.solution.expand(classes)[0])
    return np.zeros(0, np.int64)


def _plan(graph: ChannelGraph, chosen: Chosen, ratio: float, importance: str | Importance, seed: int) -> Plan:
    choices = []
    for group in graph.units.groups:
        removed = np.flatnonzero(~chosen.alive[group.atoms])
        choices.append(Choice(group.name, group.kind, group.units, tuple(removed.tolist())))
    kept: dict[str, dict[int, Ids]] = {}
    for axis in graph.units.axes:
        alive = chosen.alive[graph.units.labels_of(axis)]
        if not alive.all():
            name, dim = axis.name[:-1].rsplit("[", 1)
            kept.setdefault(name, {})[int(dim)] = chosen.orders.get(axis, np.flatnonzero(alive))
    shapes = {name: tuple(t.shape) for name, t in named_tensors(graph.model)}
    name = importance if isinstance(importance, str) else getattr(importance, "__name__", "custom")
    return Plan(kept, shapes, chosen.sizes, tuple(choices), float(ratio), name, seed)
