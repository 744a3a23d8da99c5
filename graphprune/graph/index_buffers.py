"""Buffers of integers that put channels in another order: ``x[:, self.order]``.

Such a buffer follows: where a channel goes, so does the entry that names it, and the others are numbered anew. That is
possible where it names every channel, so that what is left of it tells which channels are left. ``gather`` takes such
a buffer too, seen as a row and repeated.

Of a buffer that counts something else, column by column (``x.gather(1, self.rows)``), the columns of channels follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import fx

from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Dims

aten = torch.ops.aten

_AS_ROWS = (aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default, aten.expand.default)


def names_every_channel(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Is a buffer used for nothing but to look up channels of activations, and does it name all of them?

    Args:
        node: the buffer.
        values: the labeled tensors that were made before it.
    """
    numbers = node.meta.get("values")
    if numbers is None or numbers.is_meta or numbers.dtype not in (torch.int32, torch.int64) or len(numbers) < 2:
        return False
    looked_up = [use for user in node.users for use in _looked_up(user, node)]
    found = numbers.unique().tolist()
    first = looked_up[0] if looked_up else None
    if first is None or (first[0] in values and not _has_channels(values[first[0]], first[1])):
        return False
    return all(use is not None and found == list(range(use[0].meta["shape"][use[1]])) for use in looked_up)


def _has_channels(value: Any, dim: int) -> bool:
    return isinstance(value, LabeledTensor) and not value.movable and bool(value.touching([dim]))


def _looked_up(user: fx.Node, node: fx.Node) -> Iterator[tuple[fx.Node, int] | None]:
    """The tensors and dimensions in which a call looks up the numbers of ``node``; None: it does something else."""
    tensor: Any = user.args[0] if user.args else None
    if user.target is aten.index_select.default and tensor is not node:
        dim: Any = user.args[1]
        yield tensor, dim % len(tensor.meta["shape"])
    elif user.target is aten.index.Tensor and tensor is not node:
        given = [(dim, index) for dim, index in enumerate(user.args[1]) if index is not None]  # type: ignore[arg-type]
        yield (tensor, given[0][0]) if len(given) == 1 and given[0][1] is node else None
    elif user.target in _AS_ROWS:
        yield from _gathered(user, math.prod(node.meta["shape"]))
    else:
        yield None


def _gathered(row: fx.Node, count: int) -> Iterator[tuple[fx.Node, int] | None]:
    """As :func:`_looked_up`, of a row of so many numbers that ``gather`` looks up, repeated along other dimensions."""
    wide = [dim for dim, size in enumerate(row.meta["shape"]) if size > 1]
    if row.target is not aten.expand.default and (len(wide) != 1 or row.meta["shape"][wide[0]] != count):
        yield None
        return
    for user in row.users:
        if user.target in _AS_ROWS and row.target is not aten.expand.default:
            yield from _gathered(user, count)
        elif user.target is aten.gather.default and user.args[2] is row and user.args[0] is not row:
            tensor, dim = cast("tuple[fx.Node, int]", user.args[:2])
            dim %= len(row.meta["shape"])
            yield (tensor, dim) if _place_of_numbers(row) == dim else None
        else:
            yield None


def _place_of_numbers(row: fx.Node) -> int:
    """The dimension of a row, repeated or not, in which its numbers differ; the row has one that is larger than 1."""
    shape = row.meta["shape"]
    if row.target is not aten.expand.default:
        return next(dim for dim, size in enumerate(shape) if size > 1)
    before = row.args[0].meta["shape"]  # type: ignore[union-attr]
    return next((dim + len(shape) - len(before) for dim, size in enumerate(before) if size > 1), -1)


def columns_of_numbers(node: fx.Node, values: Mapping[fx.Node, Any]) -> Dims:
    """The dimensions of a buffer of integers in which it has columns of channels that it counts nothing of.

    Args:
        node: the buffer.
        values: the labeled tensors that were made before it.
    """
    rank = len(node.meta["shape"])
    if rank < 2 or node.meta["dtype"] is not torch.int64:
        return frozenset()
    calls = [call for user in node.users for call in _calls_by_column(user, node)]
    counted = {call.args[1] % rank if call is not None else -1 for call in calls}  # type: ignore[operator]
    if len(counted) != 1 or -1 in counted:
        return frozenset()
    operands = [values.get(call.args[0]) for call in calls if call is not None]  # type: ignore[arg-type]
    labeled = [array.dims for x in operands if isinstance(x, LabeledTensor) for array in x.arrays]
    return frozenset[int]().union(*labeled) - counted


def _calls_by_column(user: fx.Node, node: fx.Node) -> Iterator[fx.Node | None]:
    """The calls that count with a buffer, as it is or expanded; None: something else is done with it."""
    if has_trait(user.target, Trait.BY_COLUMN):
        yield user if user.args[2] is node and node not in (user.args[0], *user.args[3:]) else None
    elif user.target is aten.expand.default and len(user.meta["shape"]) == len(node.meta["shape"]):
        for other in user.users:
            yield from _calls_by_column(other, user) if has_trait(other.target, Trait.BY_COLUMN) else (None,)
    else:
        yield None
