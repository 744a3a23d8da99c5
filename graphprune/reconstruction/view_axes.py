"""Views of parameters whose axes run along single dimensions: which entries they hold is known without listing them.

A table of the entries of a weight takes eight bytes for each, which for the vocabulary of a large language model is
gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from graphprune.reconstruction.linear_calls import ParameterView
from graphprune.utils.arrays import Ids

BLOCKS, CHANNELS, OUTPUTS = range(3)
"""The axes of a weight that is seen as a product of matrices."""


class DimensionRun(NamedTuple):
    """What a view takes of one dimension of a parameter: ``first + step * i``, for ``i`` along an axis of the view.

    Attributes:
        first: the index of the view's first entry.
        step: from one place of the axis to the next.
        axis: of the view; None: the view has the first index alone.
    """

    first: int
    step: int
    axis: int | None


def runs_of(view: ParameterView, whole: ParameterView) -> list[DimensionRun] | None:
    """What a view takes of each dimension; None: an axis runs along several dimensions, or entries share memory."""
    order = sorted((d for d, n in enumerate(whole.size) if n > 1), key=lambda d: -whole.stride[d])
    inner = [whole.stride[d] * whole.size[d] for d in order[1:]]
    if any(whole.stride[d] < least for d, least in zip(order, [*inner, 1], strict=False)):
        return None
    runs = [DimensionRun(0, 1, None)] * len(whole.size)
    rest = view.offset
    for dim in order:
        first, rest = divmod(rest, whole.stride[dim])
        runs[dim] = DimensionRun(first, 1, None)
    for axis, (size, stride) in enumerate(zip(view.size, view.stride, strict=True)):
        if size == 1:
            continue
        along = next((d for d in order if whole.stride[d] <= stride), None)
        if along is None or stride % whole.stride[along] or runs[along].axis is not None:
            return None
        run = DimensionRun(runs[along].first, stride // whole.stride[along], axis)
        if run.first + (size - 1) * run.step >= whole.size[along]:
            return None
        runs[along] = run
    return None if rest else runs


def rows_between(
    slim: tuple[ParameterView, Sequence[DimensionRun]],
    dense: tuple[ParameterView, Sequence[DimensionRun]],
    kept: Mapping[int, Ids],
) -> Tensor | None:
    """The outputs of a dense weight that the outputs of a slim one come from; None: it lacks some. [blocks * outputs]

    Args:
        slim: a weight [blocks, channels, outputs], and what it takes of each dimension.
        dense: the same of the dense parameter.
        kept: by dimension, the indexes that the slim parameter keeps.
    """
    (mine, mine_runs), (theirs, their_runs) = slim, dense
    rows = torch.zeros(mine.size[BLOCKS], mine.size[OUTPUTS], dtype=torch.long, device="cpu")
    for dim, (here, there) in enumerate(zip(mine_runs, their_runs, strict=True)):
        index = here.first + here.step * torch.arange(1 if here.axis is None else mine.size[here.axis], device="cpu")
        if dim in kept:
            index = torch.as_tensor(kept[dim], device="cpu")[index]
        place = torch.div(index - there.first, there.step, rounding_mode="floor")
        size = 1 if there.axis is None else theirs.size[there.axis]
        if bool(((place * there.step + there.first != index) | (place < 0) | (place >= size)).any()):
            return None
        each = {BLOCKS: theirs.size[OUTPUTS], OUTPUTS: 1}.get(-1 if there.axis is None else there.axis, 0)
        if each and here.axis == CHANNELS:
            return None
        if each:
            rows += each * (place[:, None] if here.axis == BLOCKS else place)
    return rows.flatten()
