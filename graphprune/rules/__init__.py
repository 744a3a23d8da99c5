"""What every ATen operation does to labels: one small function each, or one for a whole family.

==================  ====================================================================
``pointwise``       operands' channels are the same
``movement``        what is done to the tensor is done to its label arrays
``contraction``     contracted channels of both sides are the same; the rest pass
``convolution``     a contraction by group
``normalization``   parameters follow the channel; statistics over channels are inexact
``reduction``       channels end
``pooling``         channels pass
``factories``       tensors made from sizes
==================  ====================================================================
"""

from graphprune.rules import (  # noqa: F401  (importing a module registers its rules)
    contraction,
    convolution,
    factories,
    movement,
    normalization,
    pointwise,
    pooling,
    reduction,
)
from graphprune.rules.registry import RULES, Call, Sample, Slim, rule, sample, t

__all__ = ["RULES", "Call", "Sample", "Slim", "rule", "sample", "t"]
