"""What measuring changes and puts back: modes, attributes and buffers of a model, random numbers, threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.run_state import runs_forgotten
from graphprune.utils.equality import same_values
from graphprune.utils.evaluation import preserve_modes
from graphprune.utils.global_state import changing_globals
from graphprune.utils.random_state import random_numbers_kept


@contextmanager
def unchanged(*models: nn.Module, threads: int | None = None) -> Iterator[None]:
    """Restore at the end what runs of models change, also when one fails; meanwhile torch has so many threads."""
    before = torch.get_num_threads()
    with changing_globals(), random_numbers_kept(), ExitStack() as stack:
        for model in models:
            stack.enter_context(preserve_modes(model))
            stack.enter_context(runs_forgotten(model))
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            yield
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)


@contextmanager
def inputs_kept(calls: Sequence[MethodCall]) -> Iterator[None]:
    """Put back the values of inputs that a model writes to."""
    given = [(tensor, tensor.detach().clone()) for call in calls for tensor in call.tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in given:
                if not tensor.is_meta and not same_values(tensor, values):
                    tensor.copy_(values)
