"""Entries that a program picks by a mask, works on one by one, and writes back by it: ``h[h < 0] *= 0.1``.

How many there are depends on values, so those in between have no channels. All of it together is elementwise: what is
written is laid over what it was picked from, and over the mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx

from graphprune.rules.factories import constant
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, RuleFunction, has_trait, is_elementwise
from graphprune.rules.scattering import INDEX_PUTS, lay_by_mask
from graphprune.rules.traits import Trait
from graphprune.utils.ancestors import ancestors
from graphprune.utils.operators import is_random

aten = torch.ops.aten


def rules_of_picks(nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> dict[fx.Node, RuleFunction]:
    """The rules of calls that pick entries by a mask and write them back, elementwise functions of one another.

    Args:
        nodes: of a trace with values; without them nobody knows how many entries a mask picks.
        values: where the labeled tensors of nodes will be.
    """
    found: dict[fx.Node, RuleFunction] = {}
    for node in nodes:
        picks = _written_back(node) if node.target in INDEX_PUTS else []
        if picks:
            found.update(dict.fromkeys(picks, constant))
            found[node] = _lays(picks, values)
    return found


def _lays(picks: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> RuleFunction:
    sources = [cast("fx.Node", pick.args[0]) for pick in picks]

    def written(call: Call, x: LabeledTensor, index: Sequence[LabeledTensor | None], *_: Any) -> LabeledTensor:
        return lay_by_mask(call, x, index, *(values[source] for source in sources))

    return written


def _written_back(write: fx.Node) -> list[fx.Node]:
    """The picks of which the entries are made that a call writes by the same mask; empty where it writes others."""
    x, index, made = cast("tuple[fx.Node, Sequence[Any], fx.Node]", write.args[:3])
    given = [one for one in index if one is not None]
    if len(given) != 1 or given[0].meta["dtype"] is not torch.bool:
        return []
    steps = {write, made}
    picks = []
    for step in _backwards(_entry(made)):
        picked = step.target is aten.index.Tensor
        if picked and step.args[1] == index and step.args[0].meta["shape"] == x.meta["shape"]:  # type: ignore[union-attr]
            picks.append(step)
        elif picked or not _is_entrywise(step):
            return []
        steps.add(step)
    return picks if all(steps.issuperset(step.users) for step in steps - {write}) else []


def _entry(made: fx.Node) -> fx.Node:
    """What a call makes; of one entry, what it was before torch made a number without dimensions of it to write it."""
    one = math.prod(made.meta["shape"]) == 1 and has_trait(made.target, Trait.RESHAPES)
    return cast("fx.Node", made.args[0]) if one else made


def _backwards(made: fx.Node) -> Iterator[fx.Node]:
    """The calls by which entries were made of picked ones, which are among them; single numbers are left out."""

    def before(step: fx.Node) -> list[fx.Node]:
        given = [] if step.target is aten.index.Tensor else step.all_input_nodes
        return [one for one in given if not _is_number(one, made.meta["shape"])]

    return ancestors([made], before)


def _is_number(one: fx.Node, among: torch.Size) -> bool:
    """Is a tensor a single number that meets entries of another shape?"""
    shape: torch.Size = one.meta["shape"]
    return math.prod(shape) == 1 and shape != among


def _is_entrywise(step: fx.Node) -> bool:
    if step.op != "call_function" or is_random(step.target):
        return False
    copied = step.target is aten._to_copy.default
    return copied or is_elementwise(step.target, Trait.ENTRYWISE, Trait.IDENTITY, Trait.DETACHES)
