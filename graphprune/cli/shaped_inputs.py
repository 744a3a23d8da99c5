"""``--input SHAPE``: the tensor that it stands for, as the model reads it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

from torch import Tensor, nn

from graphprune.tracing.example_inputs.from_configs import from_timm, from_transformers
from graphprune.tracing.example_inputs.from_layers import from_layers
from graphprune.tracing.example_inputs.maker import TensorMaker, floating_dtype
from graphprune.tracing.inputs import Inputs
from graphprune.utils.tree import tensors_of

SEVERAL = (
    "for a model of several inputs write a module whose forward takes one, or call graphprune.trace from Python with "
    "all of them"
)
"""What to do where one shape is not enough."""


def inputs_of_shape(model: nn.Module, shape: Sequence[int]) -> Inputs:
    """An input of a shape: tokens where the model reads tokens of as many dimensions, else noise in its precision."""
    make = TensorMaker(floating_dtype(model))
    tokens = _tokens(model, make)
    if tokens is None or tokens.ndim != len(shape):
        return (make.floats(*shape),)
    count = math.prod(shape)
    known = tokens.flatten()
    return (known.repeat(-(-count // known.numel()))[:count].reshape(tuple(shape)),)


def _tokens(model: nn.Module, make: TensorMaker) -> Tensor | None:
    """The only tensor that the model is guessed to read, if it holds whole numbers."""
    guesses = chain.from_iterable(find(model, make) for find in (from_transformers, from_timm, from_layers))
    first = next(guesses, None)
    found = [] if first is None else list(tensors_of(first))
    return found[0] if len(found) == 1 and not found[0].is_floating_point() else None
