"""Random numbers that are drawn entry by entry, each by the values at its place."""

from __future__ import annotations

from typing import Any

import torch

from graphprune.rules.labels import LabeledTensor
from graphprune.rules.pointwise import drawn_from, elementwise
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import fractions, positive, sample, t
from graphprune.rules.traits import Trait

aten = torch.ops.aten

_RANDOM = (Trait.NO_VALUES,)


@rule(aten.poisson.default, aten._standard_gamma.default, samples=[sample(positive(2, 6))], traits=_RANDOM)
@rule(aten.normal.Tensor_float, samples=[sample(t(2, 6), 0.5)], traits=_RANDOM)
@rule(aten.normal.float_Tensor, samples=[sample(0.5, positive(2, 6))], traits=_RANDOM)
@rule(aten.normal.Tensor_Tensor, samples=[sample(t(2, 6), positive(6))], traits=_RANDOM)
@rule(aten.bernoulli.default, samples=[sample(fractions(2, 6))], traits=_RANDOM)
@rule(aten.bernoulli_.Tensor, samples=[sample(t(2, 6), fractions(6))], traits=_RANDOM)
@rule(aten.binomial.default, samples=[sample(positive(2, 6), fractions(2, 6))], traits=_RANDOM)
@rule(
    aten.exponential_.default,
    aten.cauchy_.default,
    aten.log_normal_.default,
    aten.random_.default,
    samples=[sample(t(2, 6))],
    traits=_RANDOM,
)
@rule(aten.geometric_.default, samples=[sample(t(2, 6), 0.5)], traits=_RANDOM)
@rule(aten.random_.to, aten.randint_like.default, samples=[sample(t(2, 6), 3)], traits=_RANDOM)
@rule(getattr(aten.random_, "from"), aten.randint_like.low_dtype, samples=[sample(t(2, 6), 1, 3)], traits=_RANDOM)
def draw(call: Call, *args: Any, generator: Any = None, **kwargs: Any) -> LabeledTensor:
    """Those of a generator of its own are a table of numbers: fewer would be others.

    ``poisson`` and the gamma distribution are given it by position.
    """
    given = generator or next((value for value in args if isinstance(value, torch.Generator)), None)
    return drawn_from(call, elementwise(call, *args, **kwargs), given)
