"""Run a model once, on ``meta``, and record every ATen call as a node of a ``torch.fx`` graph.

Floating-point tensors are shapes on ``meta``: nothing is computed and no weight is read. Integer and boolean
tensors keep their values, so that control flow that looks at them still works. A model that looks at the
values of floats (a detector choosing boxes) is run once more with everything real.
"""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.errors import InputError, TraceError
from graphprune.tracing.call_list import CallList, ListedCall
from graphprune.tracing.inputs import advice_on
from graphprune.tracing.kept_tables import emptied_tables, from_empty_tables
from graphprune.tracing.model_copy import MetaCopy, make_meta_copy
from graphprune.tracing.module_sizes import module_sizes
from graphprune.tracing.recorder import ModuleCall, Recorder, is_library, recording
from graphprune.tracing.side_effects import restored_globals
from graphprune.tracing.size_tracking.watching import watching
from graphprune.tracing.sizes import Attr, Size, SizeLog, attributes_of, plain
from graphprune.utils.contexts import eagerly
from graphprune.utils.modules import named_modules, named_tensors
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.random_state import random_state
from graphprune.utils.tree import map_tensors, tensors_of

Outputs = Callable[[Any], Any]


@dataclass
class Trace:
    """What one model did on one input.

    Attributes:
        graph: a ``get_attr`` node for every parameter and buffer that was used (named in ``node.meta["tensor"]``), a
            placeholder for every input tensor, and a call for every ATen operation; each node's meta has ``shape``,
            ``dtype``, ``module`` (path) and ``line`` (of the user's source).
        shapes: of all parameters and buffers.
        inputs, outputs: the nodes of the input tensors, and those that must keep their shape.
        constants: tensors of unknown origin, by the name of their node.
        sizes: what the program did with sizes.
        modules: the class of every module, by path.
        unreached: parameters and buffers that no run used.
        note: why training mode could not be traced, if so.
        evaluated: how many nodes evaluation mode ran; those after it only training runs.
        results: how many of ``outputs`` are those of evaluation mode.
        on_meta: floats had no values; else everything was real.
        calls: the calls of modules in evaluation mode.
        pick: chose ``outputs`` from the model's result; None: all of it.
        random: the state of random numbers at its beginning.
    """

    graph: fx.Graph
    shapes: dict[str, torch.Size]
    inputs: list[fx.Node]
    outputs: list[fx.Node]
    constants: dict[str, Tensor]
    sizes: SizeLog
    modules: dict[str, type]
    unreached: tuple[str, ...] = ()
    note: str = ""
    evaluated: int = 0
    results: int = 0
    on_meta: bool = True
    calls: tuple[ModuleCall, ...] = ()
    pick: Outputs | None = None
    random: Mapping[str, Any] = field(default_factory=dict)

    def evaluation(self) -> fx.Graph:
        """A copy of the part of the graph that evaluation mode runs, with its outputs."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in list(self.graph.nodes)[: self.evaluated]:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            self._originals[copies[node]] = node
        graph.output(tuple(copies[n] for n in self.outputs[: self.results]))
        return graph

    def original(self, node: fx.Node) -> fx.Node:
        """The node of this trace that a node of :meth:`evaluation` copies."""
        return self._originals.get(node, node)

    def node_index(self, node: fx.Node) -> int:
        """The number of a node in execution order."""
        return self._node_indexes.setdefault(self.original(node), -1)

    def __post_init__(self) -> None:
        self._originals: dict[fx.Node, fx.Node] = {}
        self._node_indexes = {node: i for i, node in enumerate(self.graph.nodes)}


def _call(recorder: Recorder, args: Args, kwargs: Kwargs, outputs: Outputs | None) -> list[fx.Node]:
    seen_args = map_tensors(recorder.add_input, args)
    seen_kwargs = map_tensors(recorder.add_input, kwargs)
    module = recorder.model_copy.module
    with recording(recorder), restored_globals(module), emptied_tables(module):
        result = module(*seen_args, **seen_kwargs)
    kept = outputs(result) if outputs else result
    found = [recorder._node_for(t) for t in tensors_of(kept)]
    if not found:
        raise TraceError(
            f"model: its output is a {type(kept).__name__}, in which no tensor was found; pass outputs=, a function "
            "that picks the tensors that must keep their shape"
        )
    return found


@from_empty_tables
@eagerly()
def record(
    model: nn.Module,
    args: Args,
    kwargs: Kwargs,
    outputs: Outputs | None = None,
    on_meta: bool = True,
    make_recorder: Callable[[MetaCopy, SizeLog, bool], Recorder] = Recorder,
) -> Trace:
    """Trace ``model(*args, **kwargs)`` in eval mode, and in train mode too where eval leaves weights unused.

    Raises:
        TraceError: the model failed in ``forward``; the original exception is the cause.
    """
    log = SizeLog()
    recorder = make_recorder(make_meta_copy(model, log, on_meta), log, on_meta)
    random = random_state()
    recorder.model_copy.module.eval()
    results = _call(recorder, args, kwargs, outputs)
    evaluated, count = len(recorder.graph.nodes), len(results)
    note = ""
    if any(name not in recorder.used for name in recorder.parameters):
        note = _record_training(recorder, args, kwargs, outputs, results)
    _note_declared(recorder)
    log.closed = True
    unreached = tuple(n for n in recorder.shapes if n not in recorder.used)
    recorder.graph.output(tuple(results))
    return Trace(
        recorder.graph,
        recorder.shapes,
        recorder.inputs,
        results,
        recorder.constants,
        log,
        {path: type(m) for path, m in named_modules(model)},
        unreached,
        note,
        evaluated,
        count,
        on_meta,
        tuple(call for call in recorder.calls if call.stop <= evaluated),
        outputs,
        random,
    )


@dataclass(frozen=True)
class Replay:
    """What a model did in evaluation mode, without what is known of sizes.

    Attributes:
        calls: as the nodes of :class:`Trace`.
        outputs: the calls that made the results.
        constants: as of :class:`Trace`.
    """

    calls: Iterable[fx.Node | ListedCall]
    outputs: Sequence[fx.Node | ListedCall]
    constants: dict[str, Tensor]

    @staticmethod
    def of(trace: Trace) -> Replay:
        """The part of a trace that evaluation mode ran."""
        return Replay(list(trace.graph.nodes)[: trace.evaluated], trace.outputs[: trace.results], trace.constants)


class _Replayer(Recorder):
    watched = False

    def __init__(self, model_copy: MetaCopy) -> None:
        super().__init__(model_copy, SizeLog(), on_meta=True)
        self.graph: Any = CallList()


@from_empty_tables
@eagerly()
def replay_program(model: nn.Module, args: Args, kwargs: Kwargs, outputs: Outputs | None = None) -> Replay:
    """Run a model whose floating-point tensors are on ``meta``, itself instead of a copy, as :func:`record` would.

    Only in evaluation mode: training may draw random numbers and go another way each time.

    Raises:
        TraceError: its result has no tensor. Whatever its ``forward`` raises is passed on.
    """
    paths = {id(submodule): path for path, submodule in named_modules(model)}
    recorder = _Replayer(MetaCopy(model, named_tensors(model), paths, {}))
    model.eval()
    results: list[Any] = _call(recorder, args, kwargs, outputs)
    return Replay(recorder.graph.nodes, results, recorder.constants)


def _note_declared(recorder: Recorder) -> None:
    """What the program read of torch.nn modules' sizes are sizes of their weights."""
    log = recorder.log
    read = {a.path for expr in log.expressions() for a in attributes_of(expr)}
    owners = {path.rpartition(".")[0] for path in read}
    with watching(log, lambda t: recorder.lookup(t) if recorder.names.get(id(t)) in recorder.used else None):
        for path, module in named_modules(recorder.model_copy.module):
            for name, size in module_sizes(module).items() if path in owners else ():
                attribute = f"{path}.{name}" if path else name
                if attribute in read and type(size) is Size:
                    log.equal(Attr(attribute, plain(size)), size.expr)


def _record_training(
    recorder: Recorder, args: Args, kwargs: Kwargs, outputs: Outputs | None, results: list[fx.Node]
) -> str:
    """What only training runs is part of the model. Returns why training could not be traced, or "".

    Training is tried on the example and on a batch of it twice, since BatchNorm wants more than one value.
    """
    recorder.model_copy.module.train()
    note = ""
    for times in (1, 2):
        before, inputs = len(recorder.graph.nodes), len(recorder.inputs)
        used = set(recorder.used)
        longer_args, longer_kwargs = map_tensors(partial(_repeated, times), (args, kwargs))
        try:
            trained = _call(recorder, longer_args, longer_kwargs, outputs)
        except Exception as error:
            note = f"training mode could not be traced: {type(error).__name__}: {error}"
        else:
            if recorder.used != used:
                results.extend(trained)
                return ""
            note = ""
        _forget(recorder, before, inputs, used)
    return note


def _repeated(times: int, tensor: Tensor) -> Tensor:
    return torch.cat([tensor] * times) if tensor.ndim else tensor


def _forget(recorder: Recorder, nodes: int, inputs: int, used: set[str]) -> None:
    """Drop the nodes that a training run added, and the sizes it noted."""
    dropped = list(recorder.graph.nodes)[nodes:]
    gone = set(dropped)
    log = recorder.log
    log.uses[:] = [u for u in log.uses if u.node not in gone]
    log.equalities[:] = [e for e in log.equalities if not any(mentions(x, gone) for x in e[:2])]
    log.numbers[:] = [n for n in log.numbers if not mentions(n[0], gone)]
    log.comparisons = {
        key: outcome for key, outcome in log.comparisons.items() if not any(mentions(x, gone) for x in key[1:])
    }
    recorder.forget(gone)
    for node in reversed(dropped):
        recorder.graph.erase_node(node)
    del recorder.inputs[inputs:]
    recorder.used = used


def mentions(expr: Any, nodes: set[fx.Node]) -> bool:
    """Does a size expression refer to one of ``nodes``?"""
    if hasattr(expr, "left"):
        return mentions(expr.left, nodes) or mentions(expr.right, nodes)
    return getattr(expr, "node", None) in nodes


def trace_model(model: nn.Module, args: Args, kwargs: Kwargs, outputs: Outputs | None = None) -> Trace:
    """Trace on ``meta``; a model that looks at the values of floats is traced with everything real."""
    try:
        return record(model, args, kwargs, outputs)
    except (TraceError, InputError):
        raise
    except Exception as abstract_error:
        try:
            return record(model, args, kwargs, outputs, on_meta=False)
        except (TraceError, InputError):
            raise
        except Exception as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in (*tensors_of(args), *tensors_of(kwargs)))
            shown = f"of shape {shapes}" if shapes else "without a tensor"
            raise TraceError(
                f"model: {type(model).__name__}.forward failed on example_inputs {shown}:\n"
                f"  {type(error).__name__}: {_message(error)}{_raised_at(error)}\n"
                f"{advice_on(args, kwargs)}"
            ) from (error if type(error) is type(abstract_error) else abstract_error)


def _message(error: Exception) -> str:
    """What an error says; of an operator that takes functions, what it means for the user."""
    operator = re.search(r"HigherOrderOperator (\w+)", str(error))
    if operator is None:
        return str(error)
    return (
        f"the program calls {operator[1]}, an operator that runs functions given to it, which tracing cannot follow; "
        "let the model do the same with plain operations (attention: F.scaled_dot_product_attention) while it is pruned"
    )


def _raised_at(error: Exception) -> str:
    """The innermost line of the user's program in a traceback, for messages; empty: there is none."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if not is_library(file)]
    if not own:
        return ""
    file, line = own[-1]
    return f"\n  at {file}:{line}: {linecache.getline(file, line).strip()}"
