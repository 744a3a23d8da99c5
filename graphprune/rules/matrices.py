"""Functions of whole matrices, the last two dimensions: inverses, determinants, decompositions, systems of equations.

Every entry of a result depends on the whole matrix, so rows and columns stay. In a batch each matrix is one by itself.
"""

from __future__ import annotations

from typing import Any

import torch

from graphprune.rules.alignment import align
from graphprune.rules.ending import ended
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import ints, sample, t

aten = torch.ops.aten

_WHOLE = "a function of the whole matrix"
_MATRICES = [sample(t(4, 3, 3)), sample(t(2, 4, 3, 3))]


# ---------------------------------------------------------------- one matrix


@rule(aten.linalg_matrix_exp.default, samples=_MATRICES)
@rule(aten.linalg_inv_ex.default, samples=_MATRICES)
@rule(aten._linalg_det.default, aten._linalg_slogdet.default, samples=_MATRICES)
@rule(aten.linalg_cholesky_ex.default, samples=[*_MATRICES, sample(t(4, 3, 3), upper=True)])
@rule(aten.linalg_qr.default, samples=[*_MATRICES, sample(t(4, 5, 3), "complete"), sample(t(4, 5, 3), "r")])
@rule(aten._linalg_eigh.default, samples=[*_MATRICES, sample(t(4, 3, 3), "U", False)])
@rule(aten.linalg_eig.default, aten._linalg_eigvals.default, samples=_MATRICES)
@rule(aten._linalg_svd.default, samples=[*_MATRICES, sample(t(4, 5, 3), True), sample(t(4, 5, 3), False, False)])
@rule(
    aten.linalg_pinv.atol_rtol_tensor,
    samples=[*_MATRICES, sample(t(4, 5, 3), rtol=torch.tensor(1e-9, dtype=torch.float64, device="cpu"))],
)
@rule(aten.linalg_lu_factor_ex.default, aten.linalg_lu.default, samples=[*_MATRICES, sample(t(4, 5, 3))])
def of_a_matrix(call: Call, x: LabeledTensor, *_: Any, **__: Any) -> LabeledTensor | tuple[LabeledTensor, ...]:
    """Results have the batch of the matrices in front, or are not worked out and have no entries."""
    outs = tuple(_of_batch(call.result(number), x) for number in range(len(call.outs)))
    return outs if len(outs) > 1 else outs[0]


def _of_batch(call: Call, x: LabeledTensor) -> LabeledTensor:
    count = x.ndim - 2
    arrays = ended(call, x, (-1, -2), _WHOLE).arrays
    if call.out[:count] != x.shape[:count]:
        return LabeledTensor(call.out)
    inner = (1,) * (len(call.out) - count)
    return LabeledTensor(
        call.out, tuple(array.at(array.ids.reshape(*array.ids.shape[:count], *inner)) for array in arrays)
    )


def _not_checked(*_: Any, **__: Any) -> None:
    """A masked matrix is zero, and has no inverse that anybody would miss."""


@rule(
    aten._linalg_check_errors.default,
    samples=[sample(ints(4, below=1, labeled=[0]), "linalg.inv", is_matrix=False)],
    reference=_not_checked,
)
def checked(call: Call, info: LabeledTensor, *_: Any, **__: Any) -> LabeledTensor:
    """Fails where a matrix has no inverse, and returns nothing."""
    return LabeledTensor(call.out)


# ---------------------------------------------------------------- systems of equations


@rule(
    aten._linalg_solve_ex.default,
    samples=[
        sample(t(4, 3, 3), t(4, 3, 5)),
        sample(t(4, 3, 3), t(4, 3)),
        sample(t(3, 3), t(4, 3, 5)),
        sample(t(4, 3, 3), t(4, 5, 3), left=False),
    ],
)
def solve_ex(
    call: Call, a: LabeledTensor, b: LabeledTensor, *, left: bool = True, **_: Any
) -> tuple[LabeledTensor, ...]:
    """The solution of ``A X = B``, or of ``X A = B``, and what was made of A on the way."""
    solution = _solved(call, a, b, left)
    return solution, *(_of_batch(call.result(number), a) for number in range(1, len(call.outs)))


_UPPER = [sample(t(4, 3, 3), t(4, 3, 5), upper=True), sample(t(4, 3, 3), t(4, 5, 3), upper=False, left=False)]


@rule(aten.linalg_solve_triangular.default, samples=_UPPER)
def solve_triangular(call: Call, a: LabeledTensor, b: LabeledTensor, *, left: bool = True, **_: Any) -> LabeledTensor:
    return _solved(call, a, b, left)


@rule(aten.cholesky_solve.default, samples=[sample(t(4, 3, 5), t(4, 3, 3)), sample(t(3, 5), t(4, 3, 3))])
def cholesky_solve(call: Call, b: LabeledTensor, a: LabeledTensor, *_: Any) -> LabeledTensor:
    return _solved(call, a, b, True)


@rule(
    aten.linalg_lstsq.default,
    samples=[sample(t(4, 6, 3), t(4, 6, 5)), sample(t(4, 6, 3), t(4, 6)), sample(t(6, 3), t(6, 5), driver="gelsd")],
)
def least_squares(call: Call, a: LabeledTensor, b: LabeledTensor, *_: Any, **__: Any) -> tuple[LabeledTensor, ...]:
    """The solution for each column of B, and how far it is from it."""
    solution = _solved(call, a, b, True)
    known = call.outs[1] == (*solution.shape[:-2], *solution.shape[-1:])
    arrays = (array.at(array.ids.squeeze(-2)) for array in solution.arrays if known)
    rest = (_of_batch(call.result(number), a) for number in (2, 3))
    return solution, LabeledTensor(call.outs[1], tuple(arrays)), *rest


def _solved(call: Call, a: LabeledTensor, b: LabeledTensor, left: bool) -> LabeledTensor:
    """The columns of B (its rows, where it stands on the left) are solved for one by one, and so is every matrix."""
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    inner = b.ndim - 2 if left and not vector else b.ndim - 1
    matrices, sides = ended(call, a, (-1, -2), _WHOLE), ended(call, b, (inner,), _WHOLE)
    one = (1,) if vector else (1, 1)
    batch = [array.at(array.ids.reshape(*array.ids.shape[:-2], *one)) for array in matrices.arrays]
    matrices = LabeledTensor((*a.shape[:-2], *one), tuple(batch), a.movable)
    sides = LabeledTensor((*b.shape[:inner], 1, *b.shape[inner + 1 :]), sides.arrays, b.movable)
    return LabeledTensor(call.out, tuple(align(call.labels, (matrices, sides), call.out)))
