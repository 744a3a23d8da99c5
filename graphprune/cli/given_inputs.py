"""``--input``: the inputs that a shape or a function of the user stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn

from graphprune.cli.references import value_of
from graphprune.errors import InputError
from graphprune.tracing.example_inputs.from_configs import from_timm, from_transformers
from graphprune.tracing.example_inputs.from_layers import from_layers
from graphprune.tracing.example_inputs.maker import TensorMaker, floating_dtype
from graphprune.tracing.inputs import Inputs, calls_of
from graphprune.utils.tree import tensors_of

SEVERAL = (
    "for a model of several inputs give --input module:function, a function without arguments that returns them: a "
    "tuple, or a dict by the names of arguments"
)
"""What to do where one shape is not enough."""


def given_inputs(model: nn.Module, given: Sequence[int] | str) -> Any:
    """What ``--input`` stands for, in a form that :func:`graphprune.trace` takes.

    Args:
        model: what reads it.
        given: a shape, or ``module:function``.

    Raises:
        InputError: the function fails, or returns no inputs.
    """
    if not isinstance(given, str):
        return _inputs_of_shape(model, given)
    found = value_of("--input", given, "example inputs")
    try:
        calls_of(found)
    except InputError as error:
        raise InputError(
            f"--input: {given} gave no inputs: {error.what.removeprefix('example_inputs: ')}",
            where=given,
            found=error.found,
            needed=error.needed,
            do="return a tensor, a tuple of the positional arguments, or a dict by the names of arguments",
        ) from error
    return found


def _inputs_of_shape(model: nn.Module, shape: Sequence[int]) -> Inputs:
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
