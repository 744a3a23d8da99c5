"""Matrix products and look-ups: contracted channels of both sides are the same, the others pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

from graphprune.rules.alignment import align, reduce_dims, tie
from graphprune.rules.indexing import looked_up
from graphprune.rules.labels import LabelArray, LabeledTensor, Labels
from graphprune.rules.macs import elementwise_macs, linear_macs, product_macs, trilinear_macs
from graphprune.rules.matmul_view import left_factor, linear_rows, matrix_of_vector, right_factor, vector_of_matrix
from graphprune.rules.registry import Call, Sums, rule
from graphprune.rules.samples import ints, sample, t
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Shape

aten = torch.ops.aten


def placed(x: LabeledTensor, dims: Sequence[int], rank: int) -> LabeledTensor:
    """``x`` seen in a space of ``rank`` dimensions: its dimension ``i`` is ``dims[i]`` there, the others are 1."""
    dims = tuple(dims)
    order = sorted(range(len(dims)), key=dims.__getitem__)
    placed_ids = [array.ids.transpose(order).reshape(_place(dims, rank, array.ids.shape)) for array in x.arrays]
    arrays = tuple([array.at(ids) for array, ids in zip(x.arrays, placed_ids, strict=True)])
    return LabeledTensor(_place(dims, rank, x.shape), arrays, x.movable)


@lru_cache(maxsize=4096)
def _place(dims: tuple[int, ...], rank: int, shape: Shape) -> Shape:
    """A shape with its sizes at the places ``dims`` of ``rank``, and 1 at all others."""
    sizes = [1] * rank
    for d, n in zip(dims, shape, strict=True):
        sizes[d] = n
    return tuple(sizes)


def contract(labels: Labels, a: LabeledTensor, b: LabeledTensor, gone: Sequence[int]) -> LabeledTensor:
    """Multiply two operands placed in one space and sum over the dimensions ``gone``, which are dropped."""
    space = tuple(n if m == 1 else m for m, n in zip(a.shape, b.shape, strict=True))
    product = LabeledTensor(space, tuple(align(labels, (a, b), space)))
    arrays = reduce_dims(labels, product, gone)
    keep = [d for d in range(len(space)) if d not in gone]
    return LabeledTensor(tuple(space[d] for d in keep), tuple(_drop(array, gone) for array in arrays))


def _drop(array: LabelArray, dims: Sequence[int]) -> LabelArray:
    return array.at(array.ids.squeeze(tuple(dims)))


def _products(left: int, right: int) -> Sums:
    """Matrices at these positions are multiplied."""
    return lambda *_, **__: [(left, [-1]), (right, [-2])]


@rule(
    aten.mm.default,
    samples=[sample(t(3, 4), t(4, 5))],
    sums=_products(0, 1),
    macs=product_macs(0, 1),
    matmul=(right_factor(0, 1), left_factor(1, 0)),
)
def mm(call: Call, a: LabeledTensor, b: LabeledTensor) -> LabeledTensor:
    return contract(call.labels, placed(a, (0, 1), 3), placed(b, (1, 2), 3), [1])


@rule(
    aten.addmm.default,
    samples=[sample(t(5), t(3, 4), t(4, 5)), sample(t(3, 5), t(3, 4), t(4, 5))],
    sums=_products(1, 2),
    macs=product_macs(1, 2),
    matmul=(right_factor(1, 2, bias=0), left_factor(2, 1)),
)
def addmm(call: Call, bias: LabeledTensor, a: LabeledTensor, b: LabeledTensor, **_: Any) -> LabeledTensor:
    product = mm(call, a, b)
    return LabeledTensor(call.out, tuple(align(call.labels, (product, bias), call.out)))


@rule(
    aten.bmm.default,
    samples=[sample(t(2, 3, 4), t(2, 4, 5)), sample(t(4, 3, 2, labeled=[0]), t(4, 2, 3))],
    sums=_products(0, 1),
    macs=product_macs(0, 1),
    matmul=(right_factor(0, 1), left_factor(1, 0)),
    traits=[Trait.BATCHED_PRODUCT],
)
def bmm(call: Call, a: LabeledTensor, b: LabeledTensor) -> LabeledTensor:
    return contract(call.labels, placed(a, (0, 1, 2), 4), placed(b, (0, 2, 3), 4), [2])


@rule(
    aten.baddbmm.default,
    samples=[sample(t(2, 3, 5), t(2, 3, 4), t(2, 4, 5))],
    sums=_products(1, 2),
    macs=product_macs(1, 2),
    matmul=(right_factor(1, 2), left_factor(2, 1)),
    traits=[Trait.BATCHED_PRODUCT],
)
def baddbmm(call: Call, bias: LabeledTensor, a: LabeledTensor, b: LabeledTensor, **_: Any) -> LabeledTensor:
    product = bmm(call, a, b)
    return LabeledTensor(call.out, tuple(align(call.labels, (product, bias), call.out)))


@rule(
    aten.addbmm.default,
    samples=[sample(t(3, 5), t(2, 3, 4), t(2, 4, 5)), sample(t(3, 5), t(2, 3, 4), t(2, 4, 5), beta=0.5, alpha=2)],
    sums=lambda *_, **__: [(1, [0, 2]), (2, [0, 1])],
    macs=product_macs(1, 2),
)
def addbmm(call: Call, bias: LabeledTensor, a: LabeledTensor, b: LabeledTensor, **_: Any) -> LabeledTensor:
    """The products of a batch, added up."""
    product = contract(call.labels, placed(a, (0, 1, 2), 4), placed(b, (0, 2, 3), 4), [0, 2])
    return LabeledTensor(call.out, tuple(align(call.labels, (product, bias), call.out)))


@rule(
    aten.mv.default,
    samples=[sample(t(3, 4), t(4))],
    sums=lambda *_: [(0, [1]), (1, [0])],
    macs=product_macs(0, 1),
    matmul=(matrix_of_vector(1, 0), vector_of_matrix(0, 1)),
)
def mv(call: Call, a: LabeledTensor, b: LabeledTensor) -> LabeledTensor:
    return contract(call.labels, placed(a, (0, 1), 2), placed(b, (1,), 2), [1])


@rule(
    aten.addmv.default,
    samples=[sample(t(3), t(3, 4), t(4)), sample(t(3), t(3, 4), t(4), beta=0.5, alpha=2)],
    sums=lambda *_, **__: [(1, [1]), (2, [0])],
    macs=product_macs(1, 2),
)
def addmv(call: Call, bias: LabeledTensor, a: LabeledTensor, b: LabeledTensor, **_: Any) -> LabeledTensor:
    product = mv(call, a, b)
    return LabeledTensor(call.out, tuple(align(call.labels, (product, bias), call.out)))


@rule(aten.addr.default, samples=[sample(t(3, 4), t(3), t(4)), sample(t(3, 4), t(3), t(4), beta=0.5, alpha=2)])
def addr(call: Call, x: LabeledTensor, a: LabeledTensor, b: LabeledTensor, **_: Any) -> LabeledTensor:
    """``x[i, j] + a[i] * b[j]``."""
    operands = (x, placed(a, (0,), 2), placed(b, (1,), 2))
    return LabeledTensor(call.out, tuple(align(call.labels, operands, call.out)))


@rule(aten.dot.default, samples=[sample(t(4), t(4))], macs=elementwise_macs(0), sums=lambda *_: [(0, [0]), (1, [0])])
@rule(aten.vdot.default, samples=[sample(t(4), t(4))], macs=elementwise_macs(0), sums=lambda *_: [(0, [0]), (1, [0])])
def dot(call: Call, a: LabeledTensor, b: LabeledTensor) -> LabeledTensor:
    return contract(call.labels, a, b, [0])


@rule(
    aten.linear.default,
    samples=[sample(t(2, 3, 4), t(5, 4), t(5)), sample(t(3, 4), t(5, 4))],
    sums=lambda *_: [(0, [-1]), (1, [1])],
    macs=linear_macs,
    matmul=(linear_rows(0, 1, bias=2),),
)
def linear(call: Call, x: LabeledTensor, weight: LabeledTensor, bias: LabeledTensor | None = None) -> LabeledTensor:
    rank = x.ndim + 1
    product = contract(
        call.labels, placed(x, range(x.ndim), rank), placed(weight, (rank - 1, rank - 2), rank), [rank - 2]
    )
    operands = (product,) if bias is None else (product, bias)
    return LabeledTensor(call.out, tuple(align(call.labels, operands, call.out)))


@rule(
    aten.embedding.default,
    samples=[sample(t(7, 4), ints(2, 3, below=7)), sample(t(7, 4), ints(2, 3, below=7, labeled=[1]))],
    traits=[Trait.LOOKS_UP, Trait.KNOWS_INDEXES],
)
def embedding(call: Call, weight: LabeledTensor, indices: LabeledTensor, *_: Any) -> LabeledTensor:
    """A row for each number: numbers that channels made (``(y > 0).long()``) go with these."""
    if indices.indexed is not None:
        weight = looked_up(call, weight, 0, indices.indexed)
    _hold_rows(call, weight)
    rank = len(call.out)
    arrays = [array.at(array.ids.reshape((1,) * (rank - 1) + (-1,))) for array in weight.arrays if array.dims == {1}]
    made = [array.at(array.ids[..., None]) for array in indices.arrays]
    return LabeledTensor(call.out, (*made, *arrays))


@rule(
    aten.embedding_renorm_.default,
    samples=[sample(t(7, 4), ints(6, below=7), 1.0, 2.0)],
    traits=[Trait.LOOKS_UP, Trait.KNOWS_INDEXES],
)
def embedding_renorm(call: Call, weight: LabeledTensor, indices: LabeledTensor, *_: Any) -> LabeledTensor:
    """``max_norm`` of embeddings."""
    if indices.indexed is not None:
        weight = looked_up(call, weight, 0, indices.indexed)
    _hold_rows(call, weight)
    columns = LabeledTensor(weight.shape, tuple(weight.touching([1])))
    call.freeze(columns, "max_norm makes rows shorter by their norm over all columns")
    return weight


def _hold_rows(call: Call, table: LabeledTensor) -> None:
    """The rows of a table stay, since they are looked up by number, unless it is that of a vocabulary."""
    if table.shape[0] != call.labels.vocabulary:
        call.freeze(LabeledTensor(table.shape, tuple(table.touching([0]))), "rows are looked up by number")


@rule(
    aten._embedding_bag_forward_only.default,
    aten._embedding_bag.default,
    samples=[
        sample(t(7, 4), ints(6, below=7), torch.tensor([0, 2], device="cpu")),
        sample(t(7, 4), ints(6, below=7), torch.tensor([0, 2], device="cpu"), False, 1),
        sample(t(7, 4), ints(6, below=7), torch.tensor([0, 2], device="cpu"), False, 2),
        sample(t(7, 4), ints(6, below=7), torch.tensor([0, 2], device="cpu"), False, 0, False, t(6, labeled=[])),
    ],
)
def embedding_bag(
    call: Call,
    weight: LabeledTensor,
    indices: LabeledTensor,
    offsets: LabeledTensor,
    scale: bool = False,
    mode: int = 0,
    sparse: bool = False,
    factors: LabeledTensor | None = None,
    *_: Any,
) -> tuple[LabeledTensor, ...]:
    """Rows are looked up and summed, averaged or compared, column by column."""
    _hold_rows(call, weight)
    call.freeze((indices, factors), "words of a bag are counted")
    columns = tuple(array for array in weight.arrays if array.dims == {1})
    bags, *rest = call.outs
    return tuple(LabeledTensor(shape, columns if len(shape) == 2 else ()) for shape in (bags, *rest))


@rule(
    aten._trilinear.default,
    samples=[
        sample(t(3, 4), t(6, 4, 5), t(3, 5), [1, 3], [0], [1, 2], [2, 3]),
        sample(t(3, 4), t(3, 4), t(3, 4), [], [], [], [1]),
    ],
    macs=trilinear_macs,
)
def trilinear(
    call: Call,
    a: LabeledTensor,
    b: LabeledTensor,
    c: LabeledTensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    gone: Sequence[int],
    *_: Any,
) -> LabeledTensor:
    """The product of three operands, each with new dimensions ``expand``, summed over ``gone``."""
    for x in (a, b, c):
        for d in range(x.ndim):
            tie(call.labels, x, [d])
    rank = a.ndim + len(expand_a)
    spaces = [[d for d in range(rank) if d not in new] for new in (expand_a, expand_b, expand_c)]
    a, b, c = (placed(x, space, rank) for x, space in zip((a, b, c), spaces, strict=True))
    return contract(call.labels, contract(call.labels, a, b, []), c, list(gone))


@rule(
    aten._cdist_forward.default,
    samples=[sample(t(2, 3, 4), t(2, 5, 4), 1.0, None), sample(t(3, 4), t(5, 4), 2.0, None)],
    sums=lambda *_: [(0, [-1]), (1, [-1])],
    traits=[Trait.COMPARES],
)
@rule(
    aten._euclidean_dist.default,
    samples=[sample(t(3, 4), t(5, 4))],
    sums=lambda *_: [(0, [-1]), (1, [-1])],
    traits=[Trait.COMPARES],
)
def distances(call: Call, x: LabeledTensor, y: LabeledTensor, *_: Any) -> LabeledTensor:
    """[..., P, M] and [..., R, M] to [..., P, R]: where both have lost an entry, it adds nothing."""
    rank = len(call.out) + 1
    places = [*range(rank - 3), rank - 3, rank - 1], [*range(rank - 3), rank - 2, rank - 1]
    a, b = (placed(v, dims[-v.ndim :], rank) for v, dims in zip((x, y), places, strict=True))
    return contract(call.labels, a, b, [rank - 1])


@rule(aten._pdist_forward.default, samples=[sample(t(3, 4), 2.0)], sums=lambda *_: [(0, [1])])
def distances_within(call: Call, x: LabeledTensor, *_: Any) -> LabeledTensor:
    """[N, M] to the N (N - 1) / 2 distances of its rows."""
    call.freeze(LabeledTensor(x.shape, tuple(x.touching([0]))), "pairs of rows are counted")
    reduce_dims(call.labels, x, [1])
    return LabeledTensor(call.out)
