"""Operations that make tensors out of sizes and constants."""

from __future__ import annotations

from typing import Any

import torch

from graphprune.rules.labels import LabelArray, LabeledTensor
from graphprune.rules.registry import Call, Slim, rule
from graphprune.rules.samples import sample, t
from graphprune.rules.traits import Trait
from graphprune.utils.operators import Args

aten = torch.ops.aten


def _size_after_tensor(slim: Slim, args: Args) -> Args:
    return args[0], list(slim.outs[0]), *args[2:]


@rule(
    aten.new_zeros.default,
    samples=[sample(t(2, 3), [3, 4])],
    resize=_size_after_tensor,
    traits=[Trait.MAKES_LABELS, Trait.KNOWS_INDEXES],
)
@rule(
    aten.new_empty.default,
    samples=[sample(t(2, 3), [3, 4])],
    resize=_size_after_tensor,
    traits=[Trait.MAKES_LABELS, Trait.KNOWS_INDEXES, Trait.NO_VALUES],
)
@rule(
    aten.new_ones.default,
    samples=[sample(t(2, 3), [3, 4])],
    resize=_size_after_tensor,
    traits=[Trait.MAKES_LABELS],
)
@rule(
    aten.new_full.default,
    samples=[sample(t(2, 3), [3, 4], 0.5)],
    resize=_size_after_tensor,
    traits=[Trait.MAKES_LABELS],
)
def new_tensor(call: Call, like: LabeledTensor, *_: Any, **__: Any) -> LabeledTensor:
    """One value everywhere: any entry can go. The example tensor only lends its type."""
    arrays = (LabelArray(call.labels.fresh(call.out, [d], "filled")) for d, n in enumerate(call.out) if n > 1)
    return LabeledTensor(call.out, tuple(arrays))


def _size_first(slim: Slim, args: Args) -> Args:
    return list(slim.outs[0]), *args[1:]


_SIZED = (Trait.MAKES_LABELS, Trait.FROM_SIZES)


@rule(aten.zeros.default, aten.ones.default, samples=[sample([3, 4])], resize=_size_first, traits=_SIZED)
@rule(aten.empty.memory_format, samples=[sample([3, 4])], resize=_size_first, traits=[*_SIZED, Trait.NO_VALUES])
@rule(
    aten.randn.default,
    aten.rand.default,
    samples=[sample([3, 4])],
    resize=_size_first,
    traits=[*_SIZED, Trait.NO_VALUES],
)
@rule(aten.full.default, samples=[sample([3, 4], 0.5)], resize=_size_first, traits=_SIZED)
def sized_tensor(call: Call, *_: Any, **__: Any) -> LabeledTensor:
    """One value everywhere, as :func:`new_tensor`, or noise, of which any entry is as good as another.

    Where the code does not show a size, the dimension is fixed. Noise of a generator of its own is a table of numbers.
    """
    return new_tensor(call, LabeledTensor(()))


def _size_third(slim: Slim, args: Args) -> Args:
    return *args[:2], list(slim.outs[0]), *args[3:]


@rule(
    aten.normal.float_float,
    samples=[sample(0.0, 1.0, [3, 4])],
    resize=_size_third,
    traits=[*_SIZED, Trait.NO_VALUES],
)
def normal_numbers(call: Call, *args: Any, generator: Any = None, **_: Any) -> LabeledTensor:
    """Noise as that of :func:`sized_tensor`; that of a generator of its own is a table of numbers here too."""
    return sized_tensor(call) if generator is None else constant(call)


@rule(
    aten._efficientzerotensor.default,
    samples=[sample([3, 4])],
    resize=_size_first,
    reference=aten.zeros.default,
    traits=[Trait.MAKES_LABELS],
)
def no_tangent(call: Call, *_: Any, **__: Any) -> LabeledTensor:
    """Zeros that torch makes in forward-mode differentiation, of the size of what has no tangent."""
    return new_tensor(call, LabeledTensor(()))


@rule(aten.eye.default, samples=[sample(4)], resize=lambda slim, args: (slim.outs[0][0], *args[1:]), traits=_SIZED)
def identity_matrix(call: Call, *_: Any, **__: Any) -> LabeledTensor:
    """Rows and columns go together, and what is left is a smaller one."""
    rows = call.labels.fresh(call.out, [0], "filled")
    arrays = (rows, rows.reshape(1, -1)) if rows.size > 1 else ()
    return LabeledTensor(call.out, tuple(map(LabelArray, arrays)))


@rule(aten.zeros_like.default, samples=[sample(t(2, 3))], traits=[Trait.ENTRYWISE, Trait.LIKE, Trait.KNOWS_INDEXES])
@rule(aten.empty_like.default, samples=[sample(t(2, 3))], traits=[Trait.LIKE, Trait.KNOWS_INDEXES, Trait.NO_VALUES])
@rule(aten.rand_like.default, aten.randn_like.default, samples=[sample(t(2, 3))], traits=[Trait.NO_VALUES])
@rule(aten.ones_like.default, samples=[sample(t(2, 3))], traits=[Trait.ENTRYWISE, Trait.LIKE])
@rule(aten.full_like.default, samples=[sample(t(2, 3), 0.5)], traits=[Trait.ENTRYWISE, Trait.LIKE])
def like(call: Call, x: LabeledTensor, *_: Any, **__: Any) -> LabeledTensor:
    return LabeledTensor(x.shape, x.arrays)


def constant(call: Call, *_: Any, **__: Any) -> Any:
    """Tensors made from nothing but numbers have no channels: their dimensions are positional."""
    outs = tuple(LabeledTensor(shape) for shape in call.outs)
    return outs if len(outs) > 1 else outs[0]
