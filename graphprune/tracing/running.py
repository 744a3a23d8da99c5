"""Run a model, or a copy of it, under a recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from graphprune.errors import InputError, TraceError
from graphprune.tracing.call_list import CallList, ListedCall
from graphprune.tracing.inputs import MethodCall, may_choose
from graphprune.tracing.kept_tables import emptied_tables, from_empty_tables
from graphprune.tracing.meta import has_readable_values
from graphprune.tracing.model_copy import MetaCopy, make_meta_copy
from graphprune.tracing.places import raised_at
from graphprune.tracing.recorder import Recorder, recording
from graphprune.tracing.side_effects import restored_globals
from graphprune.tracing.sizes import SizeLog
from graphprune.utils.checks import with_article
from graphprune.utils.evaluation import eagerly
from graphprune.utils.global_state import changing_globals
from graphprune.utils.held import tensors_in_objects
from graphprune.utils.modules import tables
from graphprune.utils.switches import set_training
from graphprune.utils.tree import PLAIN, iterators_in, output_tensors

Outputs = Callable[[Any], Any]


class RunResults(NamedTuple):
    """The calls that made what a model returned.

    Attributes:
        results: its tensors.
        in_objects: those that objects of other classes hold: they keep their shape, and are not compared.
    """

    results: list[Any]
    in_objects: list[Any]


def run_recorded(recorder: Recorder, call: MethodCall, outputs: Outputs | None) -> RunResults:
    """Run the recorder's copy of the model; the nodes of its results.

    Raises:
        TraceError: the result is an object in which there is no tensor, or holds an iterator. Whatever ``forward``
            raises is passed on, and so is what ``outputs`` raises on ``meta``.
        InputError: ``outputs`` failed on real tensors.
    """
    seen = call.mapped(recorder.add_input)
    recorder.chosen |= may_choose((call.args, call.kwargs))
    own = recorder.model_copy
    holders = own.modules if recorder.ran else own.holders  # a run may leave something in its modules
    recorder.ran = True
    if recorder.on_meta and own.module.training:
        _give_buffers_values(recorder)
    restored = restored_globals(own.modules, holders)
    with changing_globals(), restored as reached, recording(recorder, reached), emptied_tables(holders, reached):
        result = seen.run(own.module)
        # It may compute, as forward does, and look at values: then the trace with real tensors says what fails.
        kept = result if outputs is None else outputs(result) if recorder.on_meta else picked(outputs, result)
    if (unread := next(iterators_in(kept), None)) is not None:
        raise _not_read(recorder, with_article(type(unread).__name__))
    found = [recorder.node_for(t) for t in output_tensors(kept)]
    if not found and type(kept) not in PLAIN:
        kind = with_article(type(kept).__name__)
        raise _no_tensors(recorder, f"its output is {kind}, in which no tensor was found", kind)
    return RunResults(found, [node for node in _made_in_objects(recorder, kept) if node not in found])


def _give_buffers_values(recorder: Recorder) -> None:
    """Let training read small floating-point buffers as it reads integers: ``if not self.initialized``."""
    originals = recorder.model_copy.originals
    for name, tensor in recorder.model_copy.tensors:
        original = originals.get(id(tensor))
        if name not in recorder.parameters and original is not None and has_readable_values(original):
            recorder.device.give_values(tensor, original)


def picked(outputs: Outputs, result: Any, wide: bool = False) -> Any:
    """What a function picks from the result of a model.

    Args:
        outputs: the function.
        result: what the model returned.
        wide: is it compared, on the CPU and in float64?

    Raises:
        InputError: the function failed.
    """
    try:
        return outputs(result)
    except (torch.OutOfMemoryError, InputError):
        raise
    except Exception as error:  # of any kind, as the function is the user's
        kind, how = with_article(type(result).__name__), " in float64" if wide else ""
        raise InputError(
            f"outputs: the function failed on what the model returned{how}, {kind}: {type(error).__name__}: {error}",
            where=raised_at(error),
            found=f"{type(error).__name__}: {error}",
            needed=f"a function that picks tensors from {kind}" + (", on the CPU and in float64 too" if wide else ""),
            do=_COMPUTE_IN_FORWARD if wide else _PICK_ALONE,
        ) from error


_PICK_ALONE = "let it pick from what model(...) returns for the example inputs, or leave outputs= out"
_COMPUTE_IN_FORWARD = (
    "let it pick tensors alone, and compute with them (a head, a loss) in the forward of a module around the model and "
    "what else it computes with; trace, prune and verify that one"
)


def check_results(recorder: Recorder, results: Sequence[Any]) -> None:
    """What several calls returned; some of them, such as an update of averages, may return nothing.

    Raises:
        TraceError: none of them returned a tensor.
    """
    if not results:
        raise _no_tensors(recorder, "it returned no tensor", "no output in which a tensor was found")


def _no_tensors(recorder: Recorder, what: str, found: str) -> TraceError:
    return TraceError(
        f"model: {what}",
        where=f"the output of {type(recorder.model_copy.module).__name__}",
        found=found,
        needed="tensors, in tuples, lists, dicts and dataclasses",
        do="pass outputs=, a function that picks the tensors that must keep their shape: outputs=lambda out: "
        "out.logits",
    )


def _not_read(recorder: Recorder, iterator: str) -> TraceError:
    return TraceError(
        f"model: its output holds {iterator}, whose items are made only when it is read",
        where=f"the output of {type(recorder.model_copy.module).__name__}",
        found=iterator,
        needed="tensors that are there when forward returns",
        do="return a list of the items, or pass outputs=, a function that picks the other tensors",
    )


def _made_in_objects(recorder: Recorder, result: Any) -> list[fx.Node]:
    """The calls that made the tensors in objects of other classes, closures too.

    The model's own modules are none, and neither is what they were handed: these are caches.
    """
    passed_over = recorder.handed.keys() | recorder.model_copy.paths.keys()
    found = (recorder.made_by_call(t) for t in tensors_in_objects(result, passed_over))
    return list(dict.fromkeys(node for node in found if node is not None))


@dataclass(frozen=True)
class Replay:
    """What a model did, without what is known of sizes.

    Attributes:
        calls: as the nodes of :class:`graphprune.tracing.tracer.Trace`.
        outputs: the calls that made the results.
        constants: tensors of unknown origin, by the name of their call.
        used: parameters and buffers that were used.
    """

    calls: Iterable[fx.Node | ListedCall]
    outputs: Sequence[fx.Node | ListedCall]
    constants: dict[str, Tensor]
    used: frozenset[str] = frozenset()


class _Replayer(Recorder):
    """Record what was called where, without sizes, lines and the calls of modules."""

    watched = False

    def __init__(self, model_copy: MetaCopy) -> None:
        super().__init__(model_copy, SizeLog(), on_meta=True)
        self.graph: Any = CallList()

    def enter(self, module: nn.Module, args: Any) -> None:
        if get_ident() == self.thread:
            self.stack.append(self.model_copy.paths.get(id(module), self.stack[-1]))
            self._entered.append((id(module), None, 0))

    def leave(self, module: nn.Module, args: Any, *given: Any) -> None:
        if len(given) == 1:  # it raised
            self.abandon(module)
        elif get_ident() == self.thread:
            if self._entered[-1][0] != id(module):
                self._end_within(module)
            self._entered.pop()
            self.stack.pop()


def replay_copy(model_copy: MetaCopy, calls: Iterable[MethodCall], outputs: Outputs | None) -> Replay:
    """Run a copy in the mode that it is in, and note no sizes."""
    recorder = _Replayer(model_copy)
    results = [result for call in calls for result in run_recorded(recorder, call, outputs).results]
    return Replay(recorder.graph.nodes, results, recorder.constants, frozenset(recorder.used))


def replay_rounds(model_copy: MetaCopy, calls: Sequence[MethodCall], outputs: Outputs | None) -> Iterator[Replay]:
    """Run a copy on calls again and again; what each round did, which begins with what the last one left."""
    recorder = _Replayer(model_copy)
    while True:
        start = len(recorder.graph.nodes)
        results = [result for call in calls for result in run_recorded(recorder, call, outputs).results]
        yield Replay(recorder.graph.nodes[start:], results, recorder.constants, frozenset(recorder.used))


@from_empty_tables
@eagerly()
def replay_on_shapes(model: nn.Module, calls: Iterable[MethodCall], outputs: Outputs | None = None) -> Replay:
    """Run a copy of a model in evaluation mode, with floating-point tensors on ``meta``, and note no sizes.

    Args:
        model: it is not changed, and no value of its floating-point tensors is read.
        calls: what is run, one after the other.
        outputs: picks from a result what is returned; None: all tensors.

    Raises:
        TraceError: a result is an object without tensors. Whatever ``forward`` raises is passed on, and so is what
            torch raises where it looks at values.
    """
    model_copy = make_meta_copy(model, SizeLog())
    set_training(model_copy.modules, False, model_copy.by_flags)
    return replay_copy(model_copy, calls, outputs)


@from_empty_tables
@eagerly()
def replay_program(
    model: nn.Module,
    calls: Iterable[MethodCall],
    outputs: Outputs | None = None,
    training: bool = False,
    by_flags: bool = True,
    values: Mapping[str, Tensor] | None = None,
) -> Replay:
    """Run a model whose floating-point tensors are on ``meta``, itself instead of a copy, as a trace would.

    Args:
        model: is put into evaluation or training mode.
        calls: what is run, one after the other.
        outputs: picks from a result what is returned; None: all tensors.
        training: in training mode. It may draw random numbers and go another way each time.
        by_flags: is the mode alone to be set: see :func:`graphprune.utils.switches.switches_by_flags`.
        values: of floating-point buffers, by name, that training may read.

    Raises:
        TraceError: a result is an object without tensors. Whatever ``forward`` raises is passed on.
    """
    own = tables(model)
    real = {id(tensor): values[name] for name, tensor in own.unique() if name in values} if values else {}
    paths = {id(submodule): path for path, submodule in own.modules}
    set_training(own.modules, training, by_flags)
    copy = MetaCopy(model, own.modules, own.unique(), paths, real, own.holders, by_flags=by_flags)
    return replay_copy(copy, calls, outputs)
