"""Calls that read what an earlier one left in the model are recorded: states, memories, features of the last frame.

What a call leaves in an attribute, a buffer, a container or an object is no result, and need not keep its shape. But
what the next call does with it is a part of the program: the channels of both go together. So the calls of a model that
leave something are tried some more times, and those recorded that read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from graphprune.tracing.call_list import Node, operands
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.recorded_runs import Noted, Run, failure_of, forget, record_run, trying
from graphprune.tracing.recorder import Recorder
from graphprune.tracing.run_state import runs_forgotten, tensors_kept
from graphprune.tracing.running import Outputs, Replay, replay_rounds
from graphprune.utils.modules import Modules

_MOST = 3
"""So many times calls are repeated: a tensor may be handed on from attribute to attribute before it is read."""
_LEFT = "left by an earlier call"


@dataclass(frozen=True)
class Further:
    """What was recorded of further calls.

    Attributes:
        runs: of all calls, as often as they do something else with what was left.
        note: why they could not be traced, or "".
    """

    runs: tuple[Run, ...] = ()
    note: str = ""


def record_further(
    recorder: Recorder, runs: Sequence[Run], outputs: Outputs | None, modules: Modules, may_raise: bool = False
) -> Further:
    """Record calls once more, or several times, where they read what they left in the model.

    Args:
        recorder: recorded the runs.
        runs: the calls as they were recorded first.
        outputs: picks what counts of a result; None: all tensors.
        modules: those of the recorder's copy after the runs.
        may_raise: pass on what a call raises on shapes, if there are values with which it may do better.
    """
    left = _left(recorder, modules)
    if not left:
        return Further()
    calls = [run.call for run in runs]
    before = Noted.by(recorder)
    try:
        rounds = _rounds(recorder, calls, outputs, left) if recorder.on_meta else 1
        return Further(tuple(record_run(recorder, call, outputs) for _ in range(rounds) for call in calls))
    except Exception as error:
        forget(recorder, before)
        if may_raise and recorder.on_meta and not any(t.is_meta for t in recorder.model_copy.originals.values()):
            raise
        return Further(note=f"a second call could not be traced: {failure_of(error)}")


def _left(recorder: Recorder, modules: Modules) -> list[Tensor]:
    """The tensors in a model that a run has made, and put there; single numbers, such as losses, have no channels."""
    found = tensors_kept(modules, recorder.made_new())
    made = (tensor for tensor in found if recorder.made_by_call(tensor) is not None)
    return [tensor for tensor in (*recorder.moved(), *made) if tensor.numel() > 1]


def _rounds(recorder: Recorder, calls: Sequence[MethodCall], outputs: Outputs | None, left: Sequence[Tensor]) -> int:
    """How often calls are to be repeated until they do the same with what was left; 0: they read nothing of it."""
    done: list[list[_Step]] = []
    with runs_forgotten(recorder.model_copy.module), trying(recorder):
        try:
            for one in islice(replay_rounds(recorder.model_copy, calls, outputs), _MOST):
                done.append(_steps(one, {id(tensor) for tensor in left}, recorder.names))
        except Exception:  # of a later round, as where a cache is full: those before it are recorded
            if not done:
                raise
    if not any(_LEFT in sources for steps in done for _, sources in steps):
        return 0
    return max([1, *(number + 1 for number in range(1, len(done)) if done[number] != done[number - 1])])


_Step = tuple[Any, frozenset[str]]
"""An operation, and what it is given: the names of parameters and buffers, and kinds of other tensors."""


def _steps(run: Replay, left: Set[int], names: Mapping[int, str]) -> list[_Step]:
    """What a round of calls did, with the tensors ``left`` before it, by identity, and those of earlier rounds."""
    own = set(run.calls)
    known = {names[identity] for identity in left if identity in names}
    known |= {name for name, tensor in run.constants.items() if id(tensor) in left}

    def source(node: Node) -> str:
        if node.op == "get_attr":
            name = str(node.meta.get("tensor", node.target))
            return _LEFT if name in known else name
        return _LEFT if node.op == "call_function" and node not in own else node.op

    calls = (node for node in run.calls if node.op == "call_function")
    return [(node.target, frozenset(map(source, operands((*node.args, *node.kwargs.values()))))) for node in calls]
