"""Trace what only training does: auxiliary heads, buffers of moving averages, additional outputs.

Most models do the same in both modes, but for dropout and batch norms. So training is only looked at if some class
of the model reads ``training`` for something else, or evaluation left parameters unused. Then it is run once without
noting sizes, and traced if that run reaches something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx

from graphprune.tracing.call_list import Node
from graphprune.tracing.further_calls import record_further
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.reach import Reach
from graphprune.tracing.recorded_runs import Noted, Run, failure_of, forget, record_run, tried
from graphprune.tracing.recorder import Recorder
from graphprune.tracing.running import Outputs, Replay
from graphprune.tracing.training_reads import reads_training
from graphprune.utils.modules import Modules, named_modules
from graphprune.utils.switches import set_training


@dataclass(frozen=True)
class Trained:
    """What was traced in training mode.

    Attributes:
        calls: those that reach something there that evaluation does not.
        results: theirs.
        note: why a call could not be traced, or "".
    """

    calls: tuple[MethodCall, ...] = ()
    results: tuple[fx.Node, ...] = ()
    note: str = ""


def record_training(recorder: Recorder, runs: Sequence[Run], outputs: Outputs | None, modules: Modules) -> Trained:
    """Trace the calls in training mode too that reach something there that evaluation does not.

    Args:
        recorder: recorded the runs.
        runs: the calls in evaluation mode.
        outputs: picks what counts of a result; None: all tensors.
        modules: those of the recorder's copy after the runs.
    """
    if not reads_training(modules, recorder.model_copy.holders) and recorder.parameters <= recorder.used:
        return Trained()
    set_training(recorder.model_copy.modules, True, recorder.model_copy.by_flags)
    for _, tensor in recorder.model_copy.tensors:
        tensor.requires_grad_(False)  # or torch would run dropout and others in another way
    found = [_record_trained(recorder, run, outputs) for run in runs]
    calls = tuple(call for trained in found for call in trained.calls)
    results = tuple(node for trained in found for node in trained.results)
    return Trained(calls, results, next((trained.note for trained in found if trained.note), ""))


# ---------------------------------------------------------------- does training reach something else?


def _record_trained(recorder: Recorder, run: Run, outputs: Outputs | None) -> Trained:
    """As :func:`record_training`, for one call.

    It is tried on the example and on a batch of it twice, since BatchNorm wants more than one value.
    """
    note = ""
    for times in (1, 2):
        call = run.call.mapped(partial(_repeated, times), objects=True)
        before = Noted.by(recorder)
        try:
            if recorder.on_meta and not _differs(recorder, run.done, tried(recorder, call, outputs), times):
                return Trained()
            trained = record_run(recorder, call, outputs)
            if recorder.on_meta or _differs(recorder, run.done, trained.done, times):
                further = record_further(recorder, [trained], outputs, named_modules(recorder.model_copy.module))
                results = (node for one in (trained, *further.runs) for node in (*one.results, *one.in_objects))
                return Trained((call,), tuple(results), further.note)
            forget(recorder, before)
            return Trained()
        except Exception as error:
            note = f"training mode could not be traced: {failure_of(error)}"
            forget(recorder, before)
    return Trained(note=note)


def _repeated(times: int, tensor: Tensor) -> Tensor:
    return torch.cat([tensor] * times) if tensor.ndim else tensor


def _differs(recorder: Recorder, evaluated: Replay, trained: Replay, times: int) -> bool:
    """Does a call in training mode reach what evaluation did not, or return something else?"""
    shaped = {name for name, shape in recorder.shapes.items() if len(shape)}
    return (
        bool((trained.used - evaluated.used) & shaped)
        or _shapes(trained.outputs, times) != _shapes(evaluated.outputs, times)
        or _reaches_more(recorder, evaluated, trained, shaped)
    )


def _reaches_more(recorder: Recorder, evaluated: Replay, trained: Replay, shaped: set[str]) -> bool:
    """Are results made from other ``shaped`` tensors in training, or is more data moved, mixed or joined?"""
    kinds = {path: type(m) for path, m in named_modules(recorder.model_copy.module)}
    before, after = Reach.of(evaluated, kinds), Reach.of(trained, kinds)
    more = after.mixing - before.mixing or after.joined - before.joined
    return bool((after.origins - before.origins) & shaped or more)


def _shapes(nodes: Iterable[Node], times: int) -> list[tuple[int, ...]]:
    """The shapes of results, apart from the batch if that was repeated."""
    return [tuple(node.meta["shape"])[0 if times == 1 else 1 :] for node in nodes]
