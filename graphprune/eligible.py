"""Which units a plan may remove at all: of nested kinds only one, and nothing that a size in the code holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphprune.equations import Demands, read_demands
from graphprune.labels import Ids
from graphprune.solve import KINDS, Mask

if TYPE_CHECKING:
    from graphprune.graph import ChannelGraph

ROW, REPEAT, CELL = (KINDS.index(kind) for kind in ("row", "repeat", "cell"))


def eligible(graph: ChannelGraph, reached: Mask, head_width: bool) -> tuple[Mask, Demands]:
    """The atoms that may be removed, and what sizes demand of them.

    Of nested kinds it is the outermost that the plan reaches: key/value groups, else query heads within them. What the
    sizes freeze may pass the choice on to the next kind, so the question is asked until the answer stays.

    Args:
        reached: which groups the plan means to take something from. [groups]
        head_width: shrink heads (cells) instead of removing whole ones (rows).
    """
    frozen: dict[int, str] = {}
    while True:
        free = _outermost(graph, reached, head_width, frozen)
        demands = read_demands(graph.trace, graph.labelling, graph.solution, free)
        if demands.frozen.keys() <= frozen.keys():
            demands.frozen.update(frozen)
            return free, demands
        frozen |= demands.frozen


def _outermost(graph: ChannelGraph, reached: Mask, head_width: bool, frozen: dict[int, str]) -> Mask:
    kind = graph.solution.kind
    free = graph.solution.atoms & (graph.units.group_of >= 0)
    free[list(frozen)] = False
    if head_width:
        return free & (kind != ROW) & (kind != REPEAT)
    free &= kind != CELL
    rows = free & (kind == ROW)
    rows[rows] = reached[graph.units.group_of[rows]]
    free[_repeated(graph, rows)] = False
    return free


def _repeated(graph: ChannelGraph, rows: Mask) -> Ids:
    """Atoms of kind repeat whose rows can be removed themselves."""
    parts, kind = graph.solution.parts, graph.solution.kind
    composed = np.flatnonzero(parts[:, 0] >= 0)
    found = [np.zeros(0, np.int64)]
    for mine, other in ((0, 1), (1, 0)):
        pairs = parts[composed[kind[parts[composed, mine]] == REPEAT]]
        atom, repeat = graph.solution.expand(pairs[:, other], pairs[:, mine])
        found.append(repeat[rows[atom]])
    return np.concatenate(found)
