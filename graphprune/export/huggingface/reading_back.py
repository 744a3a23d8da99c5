"""Compare a slim model with what was loaded from the folder that was written."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import ExportError
from graphprune.export.huggingface.generated_module import OWN_FIELDS
from graphprune.export.huggingface.same_program import equal_tensors, equal_values, same_program
from graphprune.export.slim_record import slim_record
from graphprune.pruning.comparison import difference
from graphprune.tracing.example_inputs.guess import first_that_runs
from graphprune.tracing.inputs import MethodCall, calls_of
from graphprune.tracing.run_state import runs_forgotten
from graphprune.tracing.tracer import call_failure
from graphprune.utils.evaluation import evaluating
from graphprune.utils.random_state import random_numbers_of

SAVE_INSTEAD = "save it with graphprune.save instead"


SAME = 1e-4
"""A relative difference of outputs in float32 that is no other factor or width in use."""


def differing_buffers(slim: nn.Module, loaded: nn.Module, kept: Sequence[str], fields: Collection[str]) -> list[str]:
    """Buffers that ``state_dict`` leaves out and that have other values in a model that was loaded.

    Args:
        loaded: of the same class.
        kept: buffers that were written with it; they become unsaved ones as they were, and may have another type,
            as the class makes them in one of its own.
        fields: fields of the configuration that differ on purpose.

    Raises:
        ExportError: something else differs: an attribute, a shape, a weight, or which weights are the same.
    """
    for name in kept:
        owner, _, buffer = name.rpartition(".")
        loaded.get_submodule(owner)._non_persistent_buffers_set.add(buffer)
    buffers = dict(slim.named_buffers(remove_duplicate=False))
    own = {f"config.{field}" for field in fields}
    found = dict.fromkeys(name for name in _differences(slim, loaded, kept) if name not in own)
    others = [name for name in found if name not in buffers or name in slim.state_dict()]
    if others:
        raise ExportError(
            f"slim: {others[0]} differs when the folder is loaded ({len(others)} such)",
            where=others[0],
            found="another value in the model that was loaded",
            needed="the value of the slim model",
            do=SAVE_INSTEAD,
        )
    return list(found)


def same_outputs(slim: nn.Module, loaded: nn.Module, given: Sequence[MethodCall] | None = None) -> bool:
    """Do both work out the same for example inputs? Rounding of kernels may differ with where tensors lie.

    Their tensors are the same. Where they call the same with these, nothing needs to be worked out.

    Args:
        slim, loaded: the models.
        given: what both are run on; None: what is guessed.

    Raises:
        InputError: no example inputs were found.
        TraceError: the slim model fails on those that are given; the original exception is the cause.
    """
    same = same_program(slim, loaded, given)
    if same is not None:
        return same
    calls, outputs = _first_outputs(slim) if given is None else (given, _outputs_of_given(slim, given))
    try:
        found = _outputs(loaded, calls)
    except (RuntimeError, ValueError, IndexError):  # sizes do not fit each other
        return False
    return difference(outputs, found).relative <= max(SAME, 2 * _rounding(slim))


def _rounding(model: nn.Module) -> float:
    """The relative rounding of the narrowest type among the parameters of a model."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max((torch.finfo(one).eps for one in types), default=0.0)


def _first_outputs(model: nn.Module) -> tuple[Sequence[MethodCall], list[Tensor]]:
    inputs, outputs = first_that_runs(model, lambda guess: _outputs(model, calls_of(guess)))
    return calls_of(inputs), outputs


def _outputs_of_given(model: nn.Module, calls: Sequence[MethodCall]) -> list[Tensor]:
    found: list[Tensor] = []
    for call in calls:
        try:
            found += _outputs_of(model, call)
        except Exception as error:  # of any type: a user chose the inputs
            raise call_failure(model, call, error) from error
    return found


def _outputs(model: nn.Module, calls: Sequence[MethodCall]) -> list[Tensor]:
    return [tensor for call in calls for tensor in _outputs_of(model, call)]


def _outputs_of(model: nn.Module, call: MethodCall) -> list[Tensor]:
    with evaluating(model), runs_forgotten(model), random_numbers_of(0):  # some mask at random
        found = call.run_afresh(model)
    values = found.values() if isinstance(found, Mapping) else found if isinstance(found, tuple) else [found]
    return [value.detach() for value in values if isinstance(value, Tensor)]


def is_size(value: Any) -> bool:
    """Is this a number, or a list or tuple of numbers?"""
    if isinstance(value, list | tuple):
        return all(map(is_size, value))
    return type(value) in (int, float)


def _differences(slim: nn.Module, loaded: nn.Module, kept: Collection[str]) -> Iterator[str]:
    """The names of attributes and tensors that differ; of ``kept`` buffers only the values count."""
    record = slim_record(slim, loaded)
    for path, values in record.attributes.items():
        places = [place for place, value in values.items() if is_size(value) and not _is_own(place)]
        yield from (f"{path}.{place}" if path else place for place in places)
    mine, other = _tensors(slim, record.unsaved), _tensors(loaded, slim_record(loaded, slim).unsaved)
    for name, tensor in mine.items():
        same = equal_values if name in kept else equal_tensors
        if name not in other or not same(tensor, other[name]):
            yield name
    yield from (names[0] for names in _ties(slim) ^ _ties(loaded))


def _is_own(place: str) -> bool:
    """Is this within a field of the configuration that only such folders have, or that is no part of the file?"""
    return place.startswith(("config._", *(f"config.{field}" for field in OWN_FIELDS)))


def _tensors(model: nn.Module, unsaved: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**unsaved, **dict(model.named_buffers(remove_duplicate=False)), **model.state_dict()}


def _ties(model: nn.Module) -> set[tuple[str, ...]]:
    """The names of weights that are the same tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {tuple(same) for same in names.values() if len(same) > 1}
