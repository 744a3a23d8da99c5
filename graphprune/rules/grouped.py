"""Products in groups: runs of rows that each meet a matrix of their own, such as tokens sorted by their expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphprune.rules.contraction import bmm, contract, placed
from graphprune.rules.im2col import Opened
from graphprune.rules.indexing import column
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.macs import product_macs
from graphprune.rules.matmul_view import AxisTable, MatmulView, Owners
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import sample, t

aten = torch.ops.aten


ALIGNED = 8
"""Rows must begin at multiples of 16 bytes: at every eighth number of two bytes."""


_ENDS = torch.tensor([2, 3, 6], dtype=torch.int32, device="cpu")


def product_of_runs(
    rows: Tensor, matrices: Tensor, ends: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """[s, k] by [groups, k, n] is [s, n]; rows before ``ends[0]`` meet the first matrix, and so on.

    Rows behind the last end are zero.
    """
    if ends is None or rows.ndim == 3:
        return rows @ matrices
    starts = [0, *ends.cummax(0).values.tolist()]  # the end of a run that is masked is zero: it is empty
    pieces = [rows[a:b] @ m for a, b, m in zip(starts[:-1], starts[1:], matrices, strict=True)]
    left = rows.new_zeros(len(rows) - starts[-1], matrices.shape[2])
    return torch.cat([*pieces, left])


def _owners(weight: LabeledTensor, args: Sequence[Any], table: AxisTable) -> Owners | None:
    """One matrix for each part of the rows, [parts, channels, outputs]; channels that all of them share."""
    arrays = weight.touching([1]) if weight.ndim == 3 else []
    if not arrays or not all(array.dims == {1} and table.named(array) for array in arrays):
        return None
    return Owners(1, weight.shape[1], tuple(array.ids.reshape(1, -1) for array in arrays))


def _open(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    """All parts as one product: each is taken to have the moments of all rows, an approximation."""
    return x.reshape(-1, 1, x.shape[-1], 1), weight.transpose(0, 1).flatten(1).unsqueeze(0)


@rule(
    aten._grouped_mm.default,
    samples=[
        sample(t(6, 4, labeled=[1]), t(3, 4, 5, labeled=[1, 2]), _ENDS),
        sample(t(6, 4), t(3, 4, 5), _ENDS),
        sample(t(2, 3, 4), t(2, 4, 5)),
    ],
    reference=product_of_runs,
    macs=product_macs(0, 1),
    matmul=(MatmulView(0, 1, _owners, _open),),
)
def grouped_product(
    call: Call,
    a: LabeledTensor,
    b: LabeledTensor,
    ends: LabeledTensor | None = None,
    bias: LabeledTensor | None = None,
    *_: Any,
) -> LabeledTensor:
    """Rows are counted by ``ends``, and so are the matrices; contracted channels of both sides are the same."""
    if a.ndim == b.ndim == 3 and ends is None:
        return bmm(call, a, b)
    if (a.ndim, b.ndim) != (2, 3) or bias is not None:
        call.freeze((a, b, bias), "a product in groups of another form")
        return LabeledTensor(call.out)
    call.freeze(LabeledTensor(a.shape, tuple(a.touching([0]))), "rows are counted")
    _number_of_matrices(call, b, ends)
    for array in (*a.touching([1]), *b.touching([1, 2])):
        call.labels.multiple(array.ids, ALIGNED)
    arrays = tuple(array.at(array.ids[0]) for array in b.arrays if 0 not in array.dims)
    rows = LabeledTensor(a.shape, tuple(array for array in a.arrays if 0 not in array.dims), a.movable)
    return contract(
        call.labels, placed(rows, (0, 1), 3), placed(LabeledTensor(b.shape[1:], arrays, b.movable), (1, 2), 3), [1]
    )


def _number_of_matrices(call: Call, b: LabeledTensor, ends: LabeledTensor | None) -> None:
    """A matrix goes with its run, where the runs are counted by what chose them."""
    matrices = column(b, 0)
    runs = column(ends, 0) if ends is not None else None
    if matrices is not None and runs is not None:
        call.labels.unify(runs, matrices)
    else:
        call.freeze((LabeledTensor(b.shape, tuple(b.touching([0]))), ends), "matrices are chosen by number")
