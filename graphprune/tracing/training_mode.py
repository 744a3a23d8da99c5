"""Trace what only training does: auxiliary heads, buffers of moving averages, additional outputs.

Most models do the same in both modes, but for dropout and batch norms. So training is only looked at if some class
of the model reads ``training`` for something else, or evaluation left parameters unused. Then it is run once without
noting sizes, and traced if that run reaches something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.tracing.aliases import Aliases
from graphprune.tracing.call_list import Node
from graphprune.tracing.containers import container_base, put_back
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.model_copy import MetaCopy
from graphprune.tracing.reach import Reach
from graphprune.tracing.recorder import Recorder
from graphprune.tracing.running import Outputs, Replay, replay_copy, run_recorded
from graphprune.tracing.size_places import attributes_held
from graphprune.tracing.training_reads import reads_training
from graphprune.utils.modules import Modules, named_modules
from graphprune.utils.switches import set_training


@dataclass(frozen=True)
class Run:
    """One recorded call: what it did, and its results, also those in objects."""

    call: MethodCall
    done: Replay
    results: list[fx.Node]
    in_objects: list[fx.Node]


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


def record_run(recorder: Recorder, call: MethodCall, outputs: Outputs | None) -> Run:
    """Run a call under a recorder."""
    start = len(recorder.graph.nodes)
    results, in_objects = run_recorded(recorder, call, outputs)
    done = Replay(list(recorder.graph.nodes)[start:], results, {}, frozenset(recorder.used))
    return Run(call, done, results, in_objects)


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
        before, inputs, used = len(recorder.graph.nodes), len(recorder.inputs), set(recorder.used)
        try:
            if recorder.on_meta and not _differs(recorder, run.done, _tried(recorder, call, outputs), times):
                return Trained()
            trained = record_run(recorder, call, outputs)
            if recorder.on_meta or _differs(recorder, run.done, trained.done, times):
                return Trained((call,), (*trained.results, *trained.in_objects))
            _forget(recorder, before, inputs, used)
            return Trained()
        except Exception as error:
            note = f"training mode could not be traced: {type(error).__name__}: {_first_line(error)}"
            _forget(recorder, before, inputs, used)
    return Trained(note=note)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _repeated(times: int, tensor: Tensor) -> Tensor:
    return torch.cat([tensor] * times) if tensor.ndim else tensor


def _tried(recorder: Recorder, call: MethodCall, outputs: Outputs | None) -> Replay:
    """What a call does, without noting it."""
    recorder.log.closed = True
    try:
        with _restored_tensors(recorder.model_copy):
            return replay_copy(recorder.model_copy, [call], outputs)
    finally:
        recorder.log.closed = False


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


@contextmanager
def _restored_tensors(model_copy: MetaCopy) -> Iterator[None]:
    """Give modules back the tensors that a run exchanges, and these their memory: they are known to the recorder.

    Lists and dictionaries that are attributes get theirs back too.
    """
    modules = [module for _, module in named_modules(model_copy.module)]
    found = [(table, dict(table)) for m in modules for table in (vars(m), m._parameters, m._buffers)]
    held = [value for _, m in model_copy.holders for value in attributes_held(m).values()]
    restores = [put_back(value) for value in held if container_base(value) is not None]
    memory = Aliases(tensor for _, tensor in model_copy.tensors)
    values = [(tensor, tensor.detach()) for _, tensor in model_copy.tensors]
    try:
        yield
    finally:
        for table, before in found:
            table.clear()
            table.update(before)
        for restore in restores:
            restore()
        for tensor, value in values:
            if memory.moved(tensor):  # by ``tensor.data = other``
                tensor.data = value


def _shapes(nodes: Iterable[Node], times: int) -> list[tuple[int, ...]]:
    """The shapes of results, apart from the batch if that was repeated."""
    return [tuple(node.meta["shape"])[0 if times == 1 else 1 :] for node in nodes]


# ---------------------------------------------------------------- a run that failed


def _forget(recorder: Recorder, nodes: int, inputs: int, used: set[str]) -> None:
    """Drop the nodes that a training run added, and the sizes it noted."""
    dropped = list(recorder.graph.nodes)[nodes:]
    gone = set(dropped)
    log = recorder.log
    log.uses[:] = [u for u in log.uses if u.node not in gone]
    log.equalities[:] = [e for e in log.equalities if not any(_refers(x, gone) for x in e[:2])]
    log.numbers[:] = [n for n in log.numbers if not _refers(n[0], gone)]
    log.comparisons = {
        key: outcome for key, outcome in log.comparisons.items() if not any(_refers(x, gone) for x in key[1:])
    }
    log.orderings = {sides: where for sides, where in log.orderings.items() if not any(_refers(x, gone) for x in sides)}
    recorder.forget(gone)
    for node in reversed(dropped):
        recorder.graph.erase_node(node)
    del recorder.inputs[inputs:]
    recorder.used = used


def _refers(expr: Any, nodes: set[fx.Node]) -> bool:
    """Does a size expression refer to one of ``nodes``?"""
    if hasattr(expr, "left"):
        return _refers(expr.left, nodes) or _refers(expr.right, nodes)
    return getattr(expr, "node", None) in nodes
