"""Parts that a program cuts out of tensors, beside others that it does not use.

Another run may use those: one in training mode, or one with another argument or attribute, as in
``heads(x).chunk(3, -1)[task]`` and ``mean + deviation * noise if self.training else mean``. Parts of one length keep
the same places, so that each fits what the traced one met. Parts of other lengths stay where numbers or names among
the arguments may have chosen.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from graphprune.graph.unread import UNREAD
from graphprune.rules.labels import LabelArray, LabeledTensor, Labels, all_arrays
from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.tracing.tracer import Trace
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.operators import argument_of, is_mutable

_Values = Mapping[fx.Node, Any]


@dataclass(frozen=True)
class _Cut:
    """A call that cuts parts out of a tensor.

    Attributes:
        number: of its node.
        given: the tensor.
        dim: which dimension is cut.
        used: the results that the program uses.
        starts: where these begin; None: they are no runs of neighbors.
        length: of the parts; 0: they differ.
        several: it makes all parts at once.
    """

    number: int
    given: LabeledTensor
    dim: int
    used: tuple[LabeledTensor, ...]
    starts: tuple[int, ...] | None
    length: int
    several: bool


def settle_left_out(labels: Labels, trace: Trace, values: _Values) -> None:
    """Tie parts that are not used to those of their length that are, entry by entry, or fix them.

    Parts of other lengths, a single entry that a number picks out of a layer's result, and a slice of what something
    else reads whole, say little where arguments are tensors alone: nothing is done then.
    """
    nodes = list(trace.graph.nodes)
    live = _live(nodes, trace)
    cuts = [cut for number, node in enumerate(nodes) if (cut := _cut(number, node, values, live)) is not None]
    picked = np.zeros(labels.count if cuts else 0, bool)
    for array in all_arrays([cut.used for cut in cuts]):
        picked[array.ids] = True
    left = [(cut, array) for cut in cuts for array in cut.given.touching([cut.dim]) if not picked[array.ids].all()]
    if not left:
        return
    consumed = np.zeros(labels.count, bool)
    consumed[_consumed(labels, nodes, values, np.concatenate([array.ids.ravel() for _, array in left]))] = True
    chosen = trace.chosen or bool(trace.sizes.values_read)
    by_array: dict[int, list[tuple[_Cut, LabelArray]]] = {}
    for cut, array in left:
        by_array.setdefault(id(array.ids), []).append((cut, array))
    for pairs in by_array.values():
        ids = pairs[0][1].ids
        _settle(labels, pairs, ~picked[ids], ~picked[ids] & ~consumed[ids], chosen)


def _settle(labels: Labels, pairs: Sequence[tuple[_Cut, LabelArray]], gone: Mask, dead: Mask, chosen: bool) -> None:
    """Tie or fix the labels of one array of which parts are left out.

    Args:
        pairs: the cuts, each with the array.
        gone: which entries are in no part that is used.
        dead: those of them that nothing else uses.
        chosen: arguments may have chosen the parts.
    """
    left = gone.copy()
    for cut, array in pairs:
        labels.node_index = cut.number
        alone = array.dims == {cut.dim}
        if alone and cut.length == 1:
            if dead.any() and (chosen or cut.given.movable):
                labels.fix([LabelArray(array.ids[dead])], UNREAD)
            left[...] = False
        elif _acts(cut, array, alone, dead, chosen):
            left &= ~_tied(labels, cut, array.ids, gone)
        else:
            left[...] = False
    if left.any() and chosen:
        labels.fix([pairs[0][1]], UNREAD)


def _acts(cut: _Cut, array: LabelArray, alone: bool, dead: Mask, chosen: bool) -> bool:
    """Do the parts that are left out of an array say that other runs use them?"""
    if cut.given.movable and not chosen and not cut.several:
        return False  # a table, of which entries that are read beside others that are not are looked at for themselves
    if not alone and not any(np.isin(array.ids, other.ids).any() for other in all_arrays(cut.used)):
        return False  # its rows and cells go by labels of their own
    return cut.several or not alone or chosen or bool(dead.any())


def _tied(labels: Labels, cut: _Cut, ids: Ids, gone: Mask) -> Mask:
    """Tie the parts of one length that are left out whole to one that is used; which entries are tied now."""
    found, size = np.zeros(ids.shape, bool), ids.shape[cut.dim]
    if cut.starts is None or not cut.length or size % cut.length or any(at % cut.length for at in cut.starts):
        return found
    parts, missing = _parts(ids, cut), _parts(gone, cut)
    whole = missing.reshape(-1, *missing.shape[-2:]).all((0, 2))
    if whole.any():
        first = cut.starts[0] // cut.length
        labels.unify(parts[..., whole, :], parts[..., first : first + 1, :])
        _parts(found, cut)[..., whole, :] = True
    return found


def _parts(values: Any, cut: _Cut) -> Any:
    """A view of values by label, with the parts and their entries last."""
    along = np.moveaxis(values, cut.dim, -1)
    return along.reshape(*along.shape[:-1], -1, cut.length)


# ---------------------------------------------------------------- what a call cuts, and what is used of it


def _cut(number: int, node: fx.Node, values: _Values, live: Collection[fx.Node]) -> _Cut | None:
    """What a call cuts out of a tensor; None: it is no such call, or the part is only written to."""
    if node.op != "call_function" or not has_trait(node.target, Trait.PICKS):
        return None
    written = all(user.op == "call_function" and is_mutable(user.target) for user in node.users)
    if written or not (node in live or _meets_others(node)):
        return None
    given = values.get(node.args[0])  # type: ignore[arg-type]
    makes = has_trait(node.target, Trait.MAKES_LABELS, Trait.KNOWS_INDEXES)
    if makes or not isinstance(given, LabeledTensor) or not given.arrays:
        return None
    arguments: dict[str, Any] = {
        argument.name: argument_of(node.target, node.args, node.kwargs, place)
        for place, argument in enumerate(node.target._schema.arguments)  # type: ignore[union-attr]
    }
    dim, found = arguments["dim"] % given.ndim, values[node]
    size = given.shape[dim]
    if isinstance(found, LabeledTensor):
        start = arguments.get("index", arguments.get("start")) or 0
        start = min(start + size if start < 0 else start, size)
        length = 1 if "index" in arguments else found.shape[dim]
        return _Cut(number, given, dim, (found,), (start,) if arguments.get("step", 1) == 1 else None, length, False)
    users = [u for u in node.users if u.target is operator.getitem and (u in live or _meets_others(u))]
    numbers: list[int] = [user.args[1] for user in users]  # type: ignore[misc]
    lengths = [1 if given.ndim > piece.ndim else piece.shape[dim] for piece in found]
    starts = tuple(sum(lengths[:n]) for n in numbers)
    same = lengths[0] if len(set(lengths)) == 1 else 0
    return _Cut(number, given, dim, tuple(found[n] for n in numbers), starts, same, True) if numbers else None


def _meets_others(node: fx.Node) -> bool:
    """Is it combined with something else, also where nothing comes of it? Then it is known what it fits."""
    left = [node]
    while left:
        users = list(left.pop().users)
        if any(len(user.all_input_nodes) > 1 for user in users):
            return True
        left += users
    return False


def _live(nodes: Sequence[fx.Node], trace: Trace) -> set[fx.Node]:
    """The calls that results depend on, or what is written or read as numbers."""
    found = {node for node, _ in trace.sizes.values_read}
    for node in reversed(nodes):
        writes = node.op == "call_function" and is_mutable(node.target)
        if writes or node.op == "output" or node.target is _READS or not found.isdisjoint(node.users):
            found.add(node)
    return found


_READS = torch.ops.aten._local_scalar_dense.default


def _consumed(labels: Labels, nodes: Sequence[fx.Node], values: _Values, asked: Ids) -> Ids:
    """Those of some labels of which a call that cuts nothing out makes something else, or that the model returns."""
    wanted = np.zeros(labels.count, bool)
    wanted[asked] = True
    known: dict[int, Ids] = {}

    def among(value: Any) -> Ids:
        for array in (arrays := list(all_arrays(value))):
            if id(array.ids) not in known:
                known[id(array.ids)] = array.ids[wanted[array.ids]]
        return np.concatenate([asked[:0], *(known[id(array.ids)] for array in arrays)])

    found = [asked[:0]]
    for node in nodes:
        if node.op == "output" or (node.op == "call_function" and not _hands_on(node)):
            given = among([values[of] for of in node.all_input_nodes])
            if given.size:
                found.append(np.setdiff1d(given, among(values[node])))
    return np.concatenate(found)


def _hands_on(node: fx.Node) -> bool:
    """Is it one of several results, or a part?"""
    return node.target is operator.getitem or has_trait(node.target, Trait.PICKS)
