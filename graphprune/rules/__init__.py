"""What is known of every ATen operation: a record each, :class:`~graphprune.rules.registry.Rule`.

What it does to labels is one small function, or one for a whole family. The record may also say how its multiply-adds
are counted (``macs``), how it is seen as a product of an input with a weight (``matmul_view``), where a normalization
has its statistics (``norm``), and plain facts (``traits``). No other room has tables of operations, but for tracing.

Begin with ``labels`` (what rules are about), ``registry`` (the record) and ``samples`` (calls that prove it). Rules
share ``alignment`` (operands are aligned, dimensions are reduced), ``ending`` (dimensions that keep every entry),
``im2col`` (convolutions as products) and ``zeros`` (what becomes of zeros). Then a file for each kind of operation:

==================  ====================================================================
``pointwise``       operands' channels are the same
``movement``        what is done to the tensor is done to its label arrays
``contraction``     contracted channels of both sides are the same; the rest pass
``grouped``         products of runs of rows with matrices of their own
``convolution``     a contraction by group
``normalization``   parameters follow the channel; statistics over channels are inexact
``reduction``       channels end
``pooling``         channels pass
``gradients``       channels go the way back that they came
``losses``          elementwise, then averaged over everything
``factories``       tensors made from sizes
``scattering``      entries are read and written by their numbers
``sliding``         windows over space, space that becomes channels
``selection``       entries are chosen by their values
``indexing``        numbers of entries that were chosen
``aggregation``     extremes, products, counts; running ones; diagonals
``recurrent``       gates of recurrent layers, packed batches
``spectral``        Fourier transforms, complex numbers
``matrices``        functions of whole matrices, systems of equations
``looking``         what returns no tensor
``draws``           random numbers, each by the values at its place
``detection``       what torchvision adds to torch
==================  ====================================================================

Words: docs/glossary.md.
"""

from graphprune.rules import (  # noqa: F401  (importing a module registers its rules)
    aggregation,
    contraction,
    convolution,
    detection,
    draws,
    factories,
    gradients,
    grouped,
    indexing,
    looking,
    losses,
    matrices,
    movement,
    normalization,
    pointwise,
    pooling,
    recurrent,
    reduction,
    scattering,
    selection,
    sliding,
    spectral,
)
from graphprune.rules.alignment import align
from graphprune.rules.contraction import contract, placed
from graphprune.rules.ending import ended
from graphprune.rules.labels import LabelArray, LabeledTensor
from graphprune.rules.macs import elementwise_macs, linear_macs, product_macs
from graphprune.rules.matmul_view import left_factor, linear_rows, right_factor
from graphprune.rules.movement import reshape
from graphprune.rules.norm import Norm
from graphprune.rules.normalization import per_channel
from graphprune.rules.pointwise import elementwise
from graphprune.rules.reduction import reduced
from graphprune.rules.registry import RULES, Call, Slim, rule
from graphprune.rules.samples import Sample, bools, ints, positive, sample, t
from graphprune.rules.traits import Trait

__all__ = [
    "RULES",
    "Call",
    "LabelArray",
    "LabeledTensor",
    "Norm",
    "Sample",
    "Slim",
    "Trait",
    "align",
    "bools",
    "contract",
    "elementwise",
    "elementwise_macs",
    "ended",
    "ints",
    "left_factor",
    "linear_macs",
    "linear_rows",
    "per_channel",
    "placed",
    "positive",
    "product_macs",
    "reduced",
    "reshape",
    "right_factor",
    "rule",
    "sample",
    "t",
]
