"""Find example inputs for a model by trying guesses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import nn

from graphprune.errors import InputError
from graphprune.tracing.example_inputs.from_configs import from_timm, from_transformers
from graphprune.tracing.example_inputs.from_layers import from_layers
from graphprune.tracing.example_inputs.maker import TensorMaker, floating_dtype
from graphprune.tracing.inputs import Inputs, describe, normalize
from graphprune.tracing.places import raised_at
from graphprune.tracing.run_state import evaluating_unchanged

T = TypeVar("T")


_MAX_CANDIDATES = 48


# ---------------------------------------------------------------- trying the guesses


def example_inputs_for(model: nn.Module) -> Inputs:
    """Example inputs that ``model`` accepts, found by running it in eval mode without gradients.

    Raises:
        InputError: If no guess runs; it says what was tried and what to pass.
    """
    inputs, _ = first_that_runs(model, lambda guess: _forward(model, guess))
    return inputs


def first_that_runs(model: nn.Module, run: Callable[[Inputs], T]) -> tuple[Inputs, T]:
    """Give ``run`` one guess after the other until it does not raise.

    Args:
        model: The model whose inputs are guessed.
        run: Called with a tuple (positional arguments) or a dict (keyword arguments).

    Returns:
        The inputs that ran, and what ``run`` returned for them.

    Raises:
        InputError: If every guess failed, or there was nothing to guess from. The first failure is its cause.
    """
    tried: list[str] = []
    failure: Exception | None = None
    for inputs in islice(candidate_inputs(model), _MAX_CANDIDATES):
        try:
            return inputs, run(inputs)
        except Exception as error:
            tried.append(describe(inputs))
            failure = failure or error  # the first guess is the likeliest
    raise _nothing_ran(model, tried, failure) from failure


def _forward(model: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = normalize(inputs)
    with evaluating_unchanged(model), torch.no_grad():
        return model(*args, **kwargs)


def _nothing_ran(model: nn.Module, tried: list[str], failure: Exception | None) -> InputError:
    name = type(model).__name__
    takes = f"{name}.forward{_signature(model)}"
    advice = "pass inputs that fit, for instance example_inputs=torch.randn(1, 3, 64, 64), or a tuple or a dict"
    if failure is None:
        return InputError(
            f"example_inputs: no example inputs for {name} can be guessed",
            where=takes,
            found="neither a Transformers nor a timm model, and no convolution, embedding, linear or recurrent layer "
            "to "
            "read a shape from",
            needed=f"what {takes} takes",
            do=advice,
        )
    shown = ", ".join(tried[:4]) + (f" and {len(tried) - 4} more" if len(tried) > 4 else "")
    return InputError(
        f"example_inputs: no guessed example inputs fit {name}; tried {shown}",
        where=raised_at(failure) or takes,
        found=f"the first one, {tried[0]}, failed with {type(failure).__name__}: {_one_line(failure)}",
        needed=f"what {takes} takes",
        do=advice,
    )


def _signature(model: nn.Module) -> str:
    try:
        return str(inspect.signature(model.forward))
    except (TypeError, ValueError):
        return "(...)"


def _one_line(error: Exception | None, limit: int = 300) -> str:
    text = " ".join(str(getattr(error, "what", error)).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


# ---------------------------------------------------------------- the guesses


def candidate_inputs(model: nn.Module) -> Iterator[Inputs]:
    """Guesses for the inputs of ``model``, the most likely first; each a tuple (args) or a dict (kwargs).

    The order is: what Transformers or timm record about the model, then what its first layers accept. Random
    numbers come from a generator of their own, so that neither the global state nor an earlier guess changes
    them.
    """
    make = TensorMaker(floating_dtype(model))
    seen: set[str] = set()
    for source in (from_transformers, from_timm, from_layers):
        for inputs in source(model, make):
            if (text := describe(inputs)) not in seen:
                seen.add(text)
                yield inputs
