"""The commuting square for grids: rows and cells, where each row keeps other columns.

Channels that are seen as ``[heads, width]`` may keep other columns in every head, as long as they are equally many.
What combines the rows then meets columns that do not belong together, and a rule must either tie them or be refused by
:mod:`graphprune.graph.channel_order`. Here, entries of the slim result are told by their labels: every one of them must
be what the dense operation computes for the same labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.graph.channel_order import Disorder, ReplayedLabels, ragged
from graphprune.graph.propagate import Labeling, call_rule
from graphprune.graph.rule_check import (
    MEND_RULE,
    RuleCheckError,
    SampleLabels,
    compare,
    dense_side,
    enough_left,
    flatten,
    living_mask,
    rectangular,
    resized,
    run_operation,
    sample_labels,
    sample_tensor,
    slimmed,
)
from graphprune.graph.solve import Solution, solve
from graphprune.rules.labels import LabelArray, LabeledTensor, Labels, ParameterAxis
from graphprune.rules.registry import Rule, has_trait, in_any_type
from graphprune.rules.samples import Sample, T
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Ids, Mask, Shape
from graphprune.utils.tree import replaced

Pair = tuple[int, int]


GRID_TRIES = 12


def rows_and_columns(placeholder: Any, seed: int, transposed: bool) -> Pair | None:
    """The dimensions of a sample tensor that are rows and columns of its grid; None: it has no room for one."""
    if isinstance(placeholder, Tensor):
        return None
    wanted = range(len(placeholder.shape)) if placeholder.labeled is None else placeholder.labeled
    dims = [d for d in wanted if placeholder.shape[d] > 1]
    if len(dims) < 2:
        return None
    i, j = dims[seed % (len(dims) - 1) :][:2]
    return (j, i) if transposed else (i, j)


def grid_labels(placeholder: Any, labels: Labels, seed: int, transposed: bool) -> LabeledTensor:
    """One label for every cell of a grid, rows first; as usual where there is no room for a grid."""
    pair = rows_and_columns(placeholder, seed, transposed)
    if pair is None:
        return sample_labels(placeholder, labels, 0)
    shape = tuple(placeholder.shape)
    sizes = tuple(shape[d] for d in pair)
    cells = labels.fresh(sizes, (0, 1), "channel", ParameterAxis("x", 0))
    labels.rectangle(cells)
    ids = (cells.T if transposed else cells).reshape([n if d in pair else 1 for d, n in enumerate(shape)])
    return LabeledTensor(shape, (LabelArray(ids),))


def label_grids(
    op: Any, entry: Rule, one: Sample, shapes: tuple[Shape, ...], seed: int, transposed: bool
) -> SampleLabels:
    """Label a sample whose tensors are grids."""
    labels = Labels()
    args, kwargs = replaced(lambda x: grid_labels(x, labels, seed, transposed), (one.args, one.kwargs), (T, Tensor))
    labels.node_index = 0
    result, counts = call_rule(op, args, kwargs, labels, shapes, used=one.used, function=entry.function)
    outs = (result,) if isinstance(result, LabeledTensor) else tuple(result)
    return SampleLabels(args, kwargs, outs, labels, counts, solve(labels), joint=False)


def units_of_cells(solution: Solution, row: Ids) -> list[Ids]:
    """For every entry of a row the units that it needs and not all others do."""
    needed = [set(solution.expand(row[i : i + 1])[0].tolist()) for i in range(len(row))]
    shared = set.intersection(*needed)
    return [np.array(sorted(units - shared), np.int64) for units in needed]


def ragged_choices(found: SampleLabels, rng: np.random.Generator) -> Iterator[Ids]:
    """Sets of units without which every row of a grid keeps equally many columns, but not the same ones."""
    grids = [found.solution.of[ids] for ids, node_index in found.labels.facts.rectangles if node_index < 0]
    cells = [[units_of_cells(found.solution, row) for row in classes] for classes in grids]
    for _ in range(GRID_TRIES if grids else 0):
        removed = [np.zeros(0, np.int64)]
        for rows in cells:
            count = int(rng.integers(1, len(rows[0]) - 1)) if len(rows[0]) > 2 else 0
            removed.extend(row[i] for row in rows for i in rng.choice(len(row), count, replace=False))
        yield np.unique(np.concatenate(removed))


def choose_ragged(found: SampleLabels, rng: np.random.Generator) -> Mask | None:
    """Which classes live after a random choice that leaves other columns in every row; None where all are refused."""
    rectangles = [ids for ids, _ in found.labels.facts.rectangles]
    for removed in ragged_choices(found, rng):
        alive = found.solution.alive(removed)
        masks = [living_mask(x, found.solution, alive) for x in (*found.tensors(), *found.outs)]
        lives = enough_left(found, alive) and all(m.any() for m in masks if m.numel())
        if lives and rectangular(found, alive, same=False) and ragged(rectangles, found.solution, alive):
            return alive
    return None


def cut(x: Tensor, living: Tensor, pair: Pair | None) -> Tensor:
    """The living entries of a tensor, those of each row of its grid side by side."""
    if pair is None or pair[0] < pair[1]:
        return slimmed(x, living)
    return slimmed(x.transpose(*pair), living.transpose(*pair)).transpose(*pair)


def cut_labels(x: LabeledTensor, places: Tensor) -> LabeledTensor:
    """The labels of the entries at ``places``."""
    arrays = []
    for array in x.arrays:
        ids = np.broadcast_to(array.ids, x.shape).ravel()[places.numpy()]
        arrays.append(array.at(ids[tuple(slice(None) if d in array.dims else slice(0, 1) for d in range(x.ndim))]))
    return LabeledTensor(tuple(places.shape), tuple(arrays), x.movable, x.boolean, x.repeats)


def identities(x: LabeledTensor, dims: list[frozenset[int]]) -> Ids:
    """What tells the elements of a tensor apart, a row each: labels, and places in dimensions without any."""
    columns = [np.broadcast_to(array.ids, x.shape).ravel() for array in x.arrays]
    held = frozenset[int]().union(*dims)
    places = np.indices(x.shape).reshape(x.ndim, int(np.prod(x.shape)))
    columns.extend(places[d] for d in range(x.ndim) if d not in held)
    return np.stack([*columns, np.zeros(int(np.prod(x.shape)), np.int64)], axis=1)


def same_entries(dense: LabeledTensor, slim: LabeledTensor) -> Ids | None:
    """For every entry of ``slim`` the entry of ``dense`` with its labels; None where labels do not tell.

    Raises:
        RuleCheckError: the slim tensor has labels that the dense one does not have.
    """
    dims = [array.dims for array in dense.arrays]
    if dims != [array.dims for array in slim.arrays]:
        return None  # of equal labels, others were kept
    known, wanted = identities(dense, dims), identities(slim, dims)
    place = {tuple(row): i for i, row in enumerate(known.tolist())}
    if len(place) < len(known):
        return None
    found = [place.get(tuple(row), -1) for row in wanted.tolist()]
    if -1 in found:
        raise RuleCheckError(
            "entries of a slim tensor that the dense one does not have",
            found="entries of a slim tensor that the dense one does not have",
            needed="slim tensors that are parts of the dense ones",
            do=MEND_RULE,
        )
    return np.array(found)


def check_grid(op: Any, entry: Rule, one: Sample, seed: int, transposed: bool = False) -> bool:
    """Check one choice that leaves other columns in every row. Returns whether there is one that is not refused.

    ``transposed``: the rows of grids are the later one of their two dimensions.

    Raises:
        RuleCheckError: the square does not commute.
    """
    generator = torch.Generator().manual_seed(seed)
    given = replaced(lambda x: sample_tensor(x, generator), (one.args, one.kwargs), (T, Tensor))
    unseen = has_trait(op, Trait.EQUAL_PIECES) or (transposed and entry.resize is not None)
    if unseen or any(0 in x.stride() for x in flatten(given, Tensor)):
        return False  # what their sizes demand is written down by the program that calls them
    dense = run_operation(in_any_type(op), *replaced(Tensor.clone, given, Tensor))
    found = label_grids(op, entry, one, tuple(tuple(out.shape) for out in dense), seed, transposed)
    alive = choose_ragged(found, np.random.default_rng(seed))
    if alive is None:
        return False
    masks = [living_mask(x, found.solution, alive) for x in found.tensors()]
    zeroed = iter([x.masked_fill(~m, 0) for x, m in zip(flatten(given, Tensor), masks, strict=True)])
    expected = dense_side(op, entry, found, alive, *replaced(lambda _: next(zeroed), given, Tensor))
    pairs = [rows_and_columns(x, seed, transposed) for x in flatten((one.args, one.kwargs), (T, Tensor))]
    cuts = list(zip(masks, pairs, strict=True))
    slim = iter([cut(x, *where).contiguous() for x, where in zip(flatten(given, Tensor), cuts, strict=True)])
    args, kwargs = replaced(lambda _: next(slim), given, Tensor)
    args = resized(entry, found, alive, args)
    try:
        actual = run_operation(in_any_type(op), *replaced(Tensor.clone, (args, kwargs), Tensor))
    except (RuntimeError, IndexError, ValueError) as error:
        raise RuleCheckError(
            f"{op} does not run on slim tensors: {error}",
            where=str(op),
            found=str(error),
            needed="arguments with which the operation runs on slim tensors",
            do=MEND_RULE,
        ) from error
    places = (cut(torch.arange(m.numel(), device="cpu").reshape(m.shape), m, pair) for m, pair in cuts)
    labels = iter([cut_labels(x, at) for x, at in zip(found.tensors(), places, strict=True)])
    labeled = replaced(lambda _: next(labels), (args, kwargs), Tensor)
    outs = replay(op, entry, one, found, labeled, tuple(tuple(out.shape) for out in actual))
    for i, (before, after) in enumerate(zip(found.outs, outs, strict=True) if outs else ()):
        if one.used is None or i in one.used:
            compare_entries(op, before, after, expected[i], actual[i])
    return outs is not None


def replay(
    op: Any, entry: Rule, one: Sample, found: SampleLabels, labeled: Any, shapes: tuple[Shape, ...]
) -> tuple[LabeledTensor, ...] | None:
    """The labels of the slim results; None where the choice would be refused."""
    labels = ReplayedLabels(Labeling(found.labels, []), np.zeros(found.labels.count, bool), {})
    labels.node_index = 0
    args, kwargs = labeled
    try:
        result = call_rule(op, args, kwargs, labels, shapes, used=one.used, function=entry.function)[0]
    except Disorder:
        return None
    return (result,) if isinstance(result, LabeledTensor) else tuple(result)


def compare_entries(op: Any, dense: LabeledTensor, slim: LabeledTensor, expected: Tensor, actual: Tensor) -> None:
    """Entries of the slim result are those of the dense one with the same labels."""
    if dense.indexed is not None:
        return
    at = same_entries(dense, slim)
    if at is not None:
        compare(op, expected.flatten()[torch.from_numpy(at)].reshape(slim.shape), actual)
