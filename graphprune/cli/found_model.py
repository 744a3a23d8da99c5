"""What a SPEC led to, in words: which model, whose weights, which inputs and where they are from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from torch import nn

import graphprune
from graphprune.cli.bundles import is_bundle
from graphprune.cli.given_inputs import SEVERAL
from graphprune.cli.model_options import WeightOptions
from graphprune.cli.models import has_random_weights
from graphprune.cli.output import Output
from graphprune.errors import InputError, TraceError
from graphprune.tracing.example_inputs.from_configs import from_timm, from_transformers
from graphprune.tracing.example_inputs.from_layers import from_layers
from graphprune.tracing.example_inputs.maker import TensorMaker, floating_dtype
from graphprune.tracing.inputs import MethodCall, describe

TRAINED = "to prune a trained one give --weights PATH, --pretrained (torchvision, timm) or a checkpoint (hf:DIRECTORY)"
SOURCES_OF_INPUTS = (
    (from_transformers, "from its config"),
    (from_timm, "from its default_cfg"),
    (from_layers, "from its first layers"),
)
MOST_GUESSES = 48


def traced(
    out: Output,
    spec: str,
    given: WeightOptions,
    meta: bool = False,
    planned: Sequence[MethodCall] = (),
    pruned: bool = False,
) -> tuple[nn.Module, Any]:
    """The model of a SPEC and its graph; what was found is said on the way.

    Args:
        planned: the calls that a plan was made with, which are traced unless a shape is given.
        pruned: it is to be pruned, so that weights matter.
    """
    with out.stage(f"building {spec}"):
        model = given.model_of(spec, out.note, meta)
    if pruned and not meta and given.weights is None and not given.pretrained and has_random_weights(spec):
        out.warn(f"{spec} has RANDOM weights, and so will the slim model; {TRAINED}")
    with out.stage(f"tracing {type(model).__name__}"):
        graph = _graph_of(model, given, list(planned))
    how = "as in the plan" if planned or is_bundle(spec) else where_inputs_are_from(model, graph.examples)
    how = "as given" if given.input is not None else how
    out.note(
        f"{model_in_words(spec, model)}, {weights_in_words(spec, given, meta)}, input {inputs_in_words(graph)} {how}"
    )
    return model, graph


def built(out: Output, spec: str, given: WeightOptions, meta: bool = False) -> nn.Module:
    """The model of a SPEC; what was found is said."""
    with out.stage(f"building {spec}"):
        model: nn.Module = given.model_of(spec, out.note, meta)
    out.note(f"{model_in_words(spec, model)}, {weights_in_words(spec, given, meta)}")
    return model


def _graph_of(model: nn.Module, given: WeightOptions, planned: list[MethodCall]) -> graphprune.ChannelGraph:
    try:
        return graphprune.trace(model, (planned if given.input is None else None) or given.inputs(model))
    except TraceError as error:
        if given.input is None:
            raise
        raise _unfit(model, given.input, error) from error
    except InputError as error:
        if planned or given.input is not None:
            raise
        raise InputError(
            error.what.removeprefix("example_inputs: "),
            where=error.place,
            found=error.found,
            needed=error.needed,
            do=f"give the shape of its input, such as --input 1,3,224,224; {SEVERAL}",
        ) from error


def _unfit(model: nn.Module, given: Sequence[int] | str, error: TraceError) -> TraceError:
    if isinstance(given, str):
        return TraceError(
            f"--input {given}: {type(model).__name__} does not run with what it gives",
            where=error.place,
            found="\n".join(filter(None, (error.what, error.found))),
            needed="the arguments of its forward",
            do="let the function return a tuple of the positional arguments, or a dict by the names of arguments",
        )
    shape = ",".join(map(str, given))
    return TraceError(
        f"--input {shape}: {type(model).__name__} does not take it as its only input",
        where=error.place,
        found="\n".join(filter(None, (error.what, error.found))),
        needed="the shape of what the model reads, with its batch dimension",
        do=f"give another shape, such as --input 1,3,224,224, or leave it out; {SEVERAL}",
    )


def model_in_words(spec: str, model: nn.Module) -> str:
    """Which model it is, and whose.

    >>> model_in_words("torchvision:resnet18", nn.Identity())
    'resnet18 of torchvision.models'
    """
    kind, _, name = spec.rpartition(":") if ".py:" in spec else spec.partition(":")
    if is_bundle(spec):
        return f"the slim {type(model).__name__} in {spec}"
    if kind.endswith(".py"):
        return f"{type(model).__name__}, which {name} of {kind} gives"
    if kind == "hf":
        return f"{type(model).__name__} of transformers, {name}"
    return f"{name} of {'torchvision.models' if kind == 'torchvision' else kind}"


def weights_in_words(spec: str, given: WeightOptions, meta: bool = False) -> str:
    """Whose weights a model has."""
    if given.weights is not None:
        return f"weights of {given.weights}"
    if meta:
        return "without weights"
    if given.pretrained:
        return "published weights"
    if is_bundle(spec):
        return "with its own weights"
    if has_random_weights(spec):
        return "random weights"
    return "weights as the function makes them" if ".py:" in spec else "weights of the checkpoint"


def inputs_in_words(graph: Any) -> str:
    """The example inputs of a graph: shapes of images, in a word, and what else there is."""
    return "; ".join(_call_in_words(call) for call in graph.examples)


def _call_in_words(call: MethodCall) -> str:
    tensors = call.tensors
    if len(tensors) == 1 and len(call.args) == 1 and tensors[0].is_floating_point():
        return "x".join(map(str, tensors[0].shape))
    return ", ".join(filter(None, (describe(call.args), describe(call.kwargs))))


def where_inputs_are_from(model: nn.Module, calls: Sequence[MethodCall]) -> str:
    """Which guess it is that fits."""
    if len(calls) != 1:
        return "as guessed"
    found = describe(calls[0].kwargs or calls[0].args)
    make = TensorMaker(floating_dtype(model))
    for guesses, said in SOURCES_OF_INPUTS:
        if any(describe(guess) == found for guess in islice(guesses(model, make), MOST_GUESSES)):
            return said
    return "as guessed"
