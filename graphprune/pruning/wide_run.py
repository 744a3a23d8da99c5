"""Run a module as it is compared: in evaluation mode and float64, with given random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from graphprune.pruning.float64 import in_float64, narrow_finfo, wide_module, widened_tensor
from graphprune.pruning.random_draws import Draw, DrawsReplayed
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.kept_tables import from_empty_tables
from graphprune.tracing.running import Outputs, picked
from graphprune.tracing.side_effects import nothing_kept
from graphprune.utils.evaluation import eagerly
from graphprune.utils.global_state import changing_globals
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.tree import dense_outputs


@from_empty_tables
@eagerly()
def run_slim(
    slim: nn.Module,
    calls: Sequence[MethodCall],
    draws: Sequence[Draw] = (),
    outputs: Outputs | None = None,
    as_default: bool = True,
) -> list[Tensor]:
    """The outputs of a module in evaluation mode and float64; the module is not changed.

    Args:
        slim: the module.
        calls: what is run, one after the other.
        draws: the random numbers that it gets; after them, it draws its own.
        outputs: picks from the result what is returned; None: all tensors.
        as_default: is float64 the default type meanwhile, in other threads too?

    Raises:
        InputError: ``outputs`` failed. Whatever ``forward`` raises is passed on.
    """
    module = wide_module(slim)
    with ExitStack() as stack:
        for context in (changing_globals(), random_numbers_kept(), nothing_kept(module), in_float64(as_default)):
            stack.enter_context(context)
        stack.enter_context(narrow_finfo(slim))
        stack.enter_context(DrawsReplayed(draws))
        results = [_run(module, call, outputs) for call in calls]
    return list(dense_outputs(results))


def _run(module: nn.Module, call: MethodCall, outputs: Outputs | None) -> Any:
    result = call.mapped(widened_tensor, objects=True).run(module)
    return result if outputs is None else picked(outputs, result, wide=True)  # which may compute, as forward does
