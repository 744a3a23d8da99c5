"""Buffers of integers that put channels in another order: ``x[:, self.order]``.

Such a buffer follows: where a channel goes, so does the entry that names it, and the others are numbered anew. That is
possible where it names every channel, so that what is left of it tells which channels are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from graphprune.rules.labels import LabelledTensor

aten = torch.ops.aten


def names_every_channel(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Is a buffer used for nothing but to look up channels of activations, and does it name all of them?

    Args:
        node: the buffer.
        values: the labelled tensors that were made before it.
    """
    numbers = node.meta.get("values")
    if numbers is None or numbers.is_meta or numbers.dtype not in (torch.int32, torch.int64) or len(numbers) < 2:
        return False
    looked_up = [_looked_up(user, node) for user in node.users]
    found = numbers.unique().tolist()
    first = looked_up[0] if looked_up else None
    labelled = values.get(first[0]) if first else None
    if not isinstance(labelled, LabelledTensor) or labelled.movable or not labelled.touching([first[1]]):  # type: ignore[index]
        return False
    return all(use is not None and found == list(range(use[0].meta["shape"][use[1]])) for use in looked_up)


def _looked_up(user: fx.Node, node: fx.Node) -> tuple[fx.Node, int] | None:
    """The tensor and dimension in which a call looks up the numbers of ``node``; None: it does something else."""
    tensor: Any = user.args[0] if user.args else None
    if user.target is aten.index_select.default and tensor is not node:
        dim: Any = user.args[1]
        return tensor, dim % len(tensor.meta["shape"])
    if user.target is aten.index.Tensor and tensor is not node:
        given = [(dim, index) for dim, index in enumerate(user.args[1]) if index is not None]  # type: ignore[arg-type]
        return (tensor, given[0][0]) if len(given) == 1 and given[0][1] is node else None
    return None
