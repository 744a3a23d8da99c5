"""Runs under a recorder: of calls that are noted, of such as are only tried, and of such as are forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx

from graphprune.tracing.aliases import Aliases
from graphprune.tracing.containers import container_base, put_back
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.model_copy import MetaCopy
from graphprune.tracing.recorder import Recorder
from graphprune.tracing.running import Outputs, Replay, replay_copy, run_recorded
from graphprune.tracing.size_places import attributes_held
from graphprune.utils.modules import named_modules


@dataclass(frozen=True)
class Run:
    """One recorded call: what it did, and its results, also those in objects."""

    call: MethodCall
    done: Replay
    results: list[fx.Node]
    in_objects: list[fx.Node]


def record_run(recorder: Recorder, call: MethodCall, outputs: Outputs | None) -> Run:
    """Run a call under a recorder."""
    start = len(recorder.graph.nodes)
    results, in_objects = run_recorded(recorder, call, outputs)
    done = Replay(list(recorder.graph.nodes)[start:], results, {}, frozenset(recorder.used))
    return Run(call, done, results, in_objects)


def tried(recorder: Recorder, call: MethodCall, outputs: Outputs | None) -> Replay:
    """What a call does, without noting it."""
    with trying(recorder):
        return replay_copy(recorder.model_copy, [call], outputs)


@contextmanager
def trying(recorder: Recorder) -> Iterator[None]:
    """Within, runs of the copy note no sizes; afterwards it holds the tensors that it held."""
    recorder.log.closed = True
    try:
        with _restored_tensors(recorder.model_copy):
            yield
    finally:
        recorder.log.closed = False


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


class Noted(NamedTuple):
    """What a recorder had noted before runs that may be forgotten.

    Attributes:
        nodes, inputs, values_read: how many there were.
        used: the parameters and buffers that had been used.
    """

    nodes: int
    inputs: int
    values_read: int
    used: frozenset[str]

    @staticmethod
    def by(recorder: Recorder) -> Noted:
        read = len(recorder.log.values_read)
        return Noted(len(recorder.graph.nodes), len(recorder.inputs), read, frozenset(recorder.used))


def forget(recorder: Recorder, before: Noted) -> None:
    """Drop what runs added, and the sizes that they noted."""
    dropped = list(recorder.graph.nodes)[before.nodes :]
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
    del recorder.inputs[before.inputs :]
    del log.values_read[before.values_read :]
    recorder.used = set(before.used)


def _refers(expr: Any, nodes: set[fx.Node]) -> bool:
    """Does a size expression refer to one of ``nodes``?"""
    if hasattr(expr, "left"):
        return _refers(expr.left, nodes) or _refers(expr.right, nodes)
    return getattr(expr, "node", None) in nodes


def failure_of(error: Exception) -> str:
    """An error as a note of a trace shows it."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
