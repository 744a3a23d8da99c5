"""Run a model once, on ``meta``, and record every ATen call as a node of a ``torch.fx`` graph.

Floating-point tensors are shapes on ``meta``: nothing is computed and no weight is read. Integer and boolean
tensors keep their values, so that control flow that looks at them still works. A model that looks at the
values of floats (a detector choosing boxes) is run once more with everything real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.errors import InputError, TraceError
from graphprune.tracing.further_calls import record_further
from graphprune.tracing.inputs import MethodCall, advice_on, describe
from graphprune.tracing.kept_tables import from_empty_tables
from graphprune.tracing.made_parameters import check_none_made, parameters_by_path
from graphprune.tracing.model_copy import MetaCopy, make_meta_copy
from graphprune.tracing.module_sizes import module_sizes
from graphprune.tracing.places import raised_at
from graphprune.tracing.rebuilt_tensors import is_rebuilt, rebuild_any
from graphprune.tracing.recorded_runs import Run, record_run
from graphprune.tracing.recorder import ModuleCall, Recorder
from graphprune.tracing.running import Outputs, Replay, check_results
from graphprune.tracing.size_tracking.watching import watching
from graphprune.tracing.sizes import Attr, Size, SizeLog, attributes_of, plain
from graphprune.tracing.training_mode import record_training
from graphprune.tracing.unused_tensors import unused_tensors
from graphprune.utils.checks import with_article
from graphprune.utils.evaluation import eagerly
from graphprune.utils.modules import Modules, named_modules
from graphprune.utils.random_state import random_state
from graphprune.utils.switches import set_training


@dataclass(repr=False)
class Trace:
    """What one model did on its example inputs.

    Attributes:
        graph: a ``get_attr`` node for every parameter and buffer that was used (named in ``node.meta["tensor"]``), a
            placeholder for every input tensor, and a call for every ATen operation; each node's meta has ``shape``,
            ``dtype``, ``module`` (path) and ``line`` (of the user's source).
        shapes: of all parameters and buffers.
        inputs, outputs: the nodes of the input tensors, and those that must keep their shape.
        constants: tensors of unknown origin, by the name of their node.
        sizes: what the program did with sizes.
        modules: the class of every module, by path.
        unreached: parameters, buffers and tensors in attributes that no run used.
        note: why something was not traced, if so: training mode, a second call, or what another thread ran.
        elsewhere: the modules that other threads ran, and the nodes that went in.
        evaluated: how many nodes evaluation mode ran; those after it only further calls and training run.
        repeated: how many nodes evaluation mode and further calls ran.
        results: how many of ``outputs`` are those of evaluation mode.
        on_meta: floats had no values; else everything was real.
        calls: the calls of modules in evaluation mode.
        pick: chose ``outputs`` from the model's result; None: all of it.
        random: the state of random numbers at its beginning.
        trained: the calls that were traced in training mode too.
        replaceable: the paths of the attention modules of torch that pruning may put others in the place of.
        replaced: what evaluation mode put in the place of tensors that the model held, by the names of these.
        resized: the dimensions of tensors that the model held, in which what evaluation mode put in their place has
            another size, by the names of these.
        unused: calls whose results, made of sizes alone, nothing uses.
        chosen: arguments that are no tensors may have chosen what of the model was used.
        seeded: the program sets the seed of random numbers.
        by_flags: its mode alone is set: see :func:`graphprune.utils.switches.switches_by_flags`.
    """

    graph: fx.Graph
    shapes: dict[str, torch.Size]
    inputs: list[fx.Node]
    outputs: list[fx.Node]
    constants: dict[str, Tensor]
    sizes: SizeLog
    modules: dict[str, type]
    replaceable: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    note: str = ""
    evaluated: int = 0
    repeated: int = 0
    results: int = 0
    on_meta: bool = True
    calls: tuple[ModuleCall, ...] = ()
    pick: Outputs | None = None
    random: Mapping[str, Any] = field(default_factory=dict)
    trained: tuple[MethodCall, ...] = ()
    elsewhere: tuple[tuple[str, tuple[fx.Node, ...]], ...] = ()
    replaced: tuple[tuple[str, fx.Node], ...] = ()
    resized: Mapping[str, frozenset[int]] = field(default_factory=dict)
    unused: frozenset[fx.Node] = frozenset()
    chosen: bool = False
    seeded: bool = False
    by_flags: bool = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self._node_indexes)} nodes, {len(self.shapes)} parameters and buffers>"

    @cached_property
    def evaluated_nodes(self) -> list[fx.Node]:
        """The nodes that evaluation mode ran, in execution order."""
        return list(self.graph.nodes)[: self.evaluated]

    @cached_property
    def evaluation(self) -> fx.Graph:
        """A copy of the part of the graph that evaluation mode runs, with its outputs."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.evaluated_nodes:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            self._originals[copies[node]] = node
        graph.output(tuple(copies[n] for n in self.outputs[: self.results]))
        return graph

    def replayed(self) -> Replay:
        """The part of it that evaluation mode ran."""
        return Replay(self.evaluated_nodes, self.outputs[: self.results], self.constants)

    def original(self, node: fx.Node) -> fx.Node:
        """The node of this trace that a node of :attr:`evaluation` copies."""
        return self._originals.get(node, node)

    def node_index(self, node: fx.Node) -> int:
        """The number of a node of the graph, or of :attr:`evaluation`, in execution order."""
        return self._node_indexes[self.original(node)]

    def __post_init__(self) -> None:
        self._originals: dict[fx.Node, fx.Node] = {}
        self._node_indexes = {node: i for i, node in enumerate(self.graph.nodes)}


@from_empty_tables
@eagerly()
def record(
    model: nn.Module,
    calls: Iterable[MethodCall],
    outputs: Outputs | None = None,
    on_meta: bool = True,
    make_recorder: Callable[[MetaCopy, SizeLog, bool], Recorder] = Recorder,
) -> Trace:
    """Trace calls of a model in eval mode, and in train mode too where that reaches something else.

    Raises:
        TraceError: there is no tensor in the results. Whatever ``forward`` raises is passed on.
    """
    log = SizeLog(on_meta=on_meta)
    recorder = make_recorder(make_meta_copy(model, log, on_meta), log, on_meta)
    random = random_state()
    set_training(recorder.model_copy.modules, False, recorder.model_copy.by_flags)
    runs, modules = _run_all(recorder, calls, outputs)
    replaced, resized = tuple(_replaced(recorder)), dict(_resized(recorder))
    evaluated, results = len(recorder.graph.nodes), [node for run in runs for node in run.results]
    further = record_further(recorder, runs, outputs, modules, may_raise=True)
    repeated = len(recorder.graph.nodes)
    trained = record_training(recorder, further.runs[-len(runs) :] or runs, outputs, modules)
    again = [node for run in further.runs for node in (*run.results, *run.in_objects)]
    kept = [*results, *again, *trained.results, *(node for run in runs for node in run.in_objects)]
    _note_declared(recorder)
    log.close()
    recorder.graph.output(tuple(kept))
    return Trace(
        graph=recorder.graph,
        shapes=recorder.shapes,
        inputs=recorder.inputs,
        outputs=kept,
        constants=recorder.constants,
        sizes=log,
        modules=dict(recorder.model_copy.kinds),
        replaceable=recorder.model_copy.replaceable,
        unreached=tuple(_unreached(recorder)),
        note=_threads_note(recorder) or further.note or trained.note,
        evaluated=evaluated,
        repeated=repeated,
        results=len(results),
        on_meta=on_meta,
        calls=tuple(call for call in recorder.calls if call.stop <= evaluated),
        pick=outputs,
        random=random,
        trained=trained.calls,
        elsewhere=tuple(recorder.elsewhere),
        replaced=replaced,
        resized=resized,
        unused=_passed_over(recorder, [node for _, node in replaced]),
        chosen=recorder.chosen,
        seeded=recorder.seeded,
        by_flags=recorder.model_copy.by_flags,
    )


def _passed_over(recorder: Recorder, replaced: Iterable[fx.Node]) -> frozenset[fx.Node]:
    """The calls whose results, made of sizes alone, nothing uses; the log forgets what sizes these were given."""
    handed = (node for _, nodes in recorder.elsewhere for node in nodes)
    unused, log = unused_tensors(recorder.graph, [*handed, *replaced], recorder.log), recorder.log
    log.uses[:] = [use for use in log.uses if use.node not in unused]
    return unused


def _unreached(recorder: Recorder) -> Iterator[str]:
    """The parameters, buffers and tensors in attributes that no run used or put something else in the place of.

    What was given other entries, ``self.v.data = value``, was used.
    """
    modules = dict(recorder.model_copy.modules)
    for name, tensor in recorder.model_copy.tensors:
        if name in recorder.used or recorder.was_moved(tensor) or _is_worked_out(name, recorder):
            continue
        if not _is_put_anew(name, tensor, modules):
            yield name


def _is_put_anew(name: str, tensor: Tensor, modules: Mapping[str, nn.Module]) -> bool:
    """Is it in an attribute to which the runs gave another value, in ``forward`` or a hook?"""
    path, _, attribute = name.rpartition(".")
    held = vars(modules[path]) if path in modules else {}
    return attribute in held and held[attribute] is not tensor


def _is_worked_out(name: str, recorder: Recorder) -> bool:
    """Is it an attribute that a hook of ``torch.nn.utils`` sets at each call, from parameters named after it?"""
    parts = ({f"{name}_g", f"{name}_v"}, {f"{name}_orig"})
    return name not in recorder.parameters and any(part <= recorder.parameters for part in parts)


def _run_all(recorder: Recorder, calls: Iterable[MethodCall], outputs: Outputs | None) -> tuple[list[Run], Modules]:
    """Run the copy in eval mode; what each call did, and the copy's modules afterwards."""
    before = parameters_by_path(recorder.model_copy.modules).keys()
    runs = [record_run(recorder, call, outputs) for call in calls]
    modules = named_modules(recorder.model_copy.module)
    check_none_made(recorder, modules, before)
    check_results(recorder, [node for run in runs for node in run.results])
    return runs, modules


def _replaced(recorder: Recorder) -> Iterator[tuple[str, fx.Node]]:
    """What a run put in the place of tensors that it looked at and makes anew when they do not fit: names and nodes."""
    kinds = recorder.model_copy.kinds
    modules = dict(recorder.model_copy.modules) if rebuild_any(kinds.values()) else {}
    for identity, name in recorder.names.items() if modules else ():
        path, _, attribute = name.rpartition(".")
        now = getattr(modules.get(path), attribute, None)
        if name in recorder.used and isinstance(now, Tensor) and id(now) != identity and is_rebuilt(kinds, name):
            node = recorder.lookup(now)
            if node is not None:
                yield name, node


def _resized(recorder: Recorder) -> Iterator[tuple[str, frozenset[int]]]:
    """What a run put a larger or smaller tensor in the place of: names, and the dimensions of another size."""
    modules = dict(recorder.model_copy.modules)
    for name in [name for name in recorder.names.values() if name in recorder.used and name not in recorder.parameters]:
        path, _, attribute = name.rpartition(".")
        module, before = modules.get(path), recorder.shapes[name]
        if module is None or isinstance(module, torch.jit.ScriptModule):  # its attributes are not in Python
            continue
        now = module._buffers.get(attribute, vars(module).get(attribute))
        if isinstance(now, Tensor) and now.ndim == len(before) and now.shape != before:
            yield name, frozenset(dim for dim, size in enumerate(before) if size != now.shape[dim])


def _threads_note(recorder: Recorder) -> str:
    paths = dict.fromkeys(path for path, _ in recorder.elsewhere)
    return f"{next(iter(paths))} ran in another thread; only forward's own thread is traced" if paths else ""


def _note_declared(recorder: Recorder) -> None:
    """What the program read of torch.nn modules' sizes are sizes of their weights."""
    log = recorder.log
    read = {a.path for expr in log.expressions() for a in attributes_of(expr)}
    owners = {path.rpartition(".")[0] for path in read}
    with watching(log, lambda t: recorder.lookup(t) if recorder.names.get(id(t)) in recorder.used else None):
        for path, module in recorder.model_copy.modules:
            for name, size in module_sizes(module).items() if path in owners else ():
                attribute = f"{path}.{name}" if path else name
                if attribute in read and type(size) is Size:
                    log.equal(Attr(attribute, plain(size)), size.expr)


def trace_model(model: nn.Module, calls: Sequence[MethodCall], outputs: Outputs | None = None) -> Trace:
    """Trace on ``meta``; a model that looks at the values of floats is traced with everything real.

    Raises:
        TraceError: a call failed in the model; the original exception is the cause.
    """
    begun: list[MethodCall] = []
    try:
        return record(model, _Noted(calls, begun), outputs)
    except (TraceError, InputError):
        raise
    except Exception as abstract_error:
        try:
            return record(model, _Noted(calls, begun), outputs, on_meta=False)
        except (TraceError, InputError):
            raise
        except Exception as error:
            cause = error if type(error) is type(abstract_error) else abstract_error
            if not begun:
                raise _copy_failure(model, error) from cause
            raise call_failure(model, begun[-1], error) from cause


@dataclass(frozen=True)
class _Noted:
    """Calls, each of which is put down in ``begun`` whenever its turn comes."""

    calls: Sequence[MethodCall]
    begun: list[MethodCall]

    def __iter__(self) -> Iterator[MethodCall]:
        for call in self.calls:
            self.begun.append(call)
            yield call


def call_failure(model: nn.Module, call: MethodCall, error: Exception) -> TraceError:
    """What a user is told of an error in a call."""
    shapes = ", ".join(str(tuple(t.shape)) for t in call.tensors)
    shown = f"of shape {shapes}" if shapes else "without a tensor"
    needed, do = advice_on(call, error)
    return TraceError(
        f"model: {type(model).__name__}.{call.method} failed on example_inputs {shown}: "
        f"{type(error).__name__}: {error}",
        where=raised_at(error),
        found=f"{call.method}({describe((*call.args, *call.kwargs.values()))})"[:_LONGEST_CALL],
        needed=needed,
        do=do,
    )


def _copy_failure(model: nn.Module, error: Exception) -> TraceError:
    """What a user is told of a model of which no copy can be made to be traced."""
    return TraceError(
        f"model: {type(model).__name__} cannot be copied: {type(error).__name__}: {error}",
        where=raised_at(error),
        found=f"{with_article(type(model).__name__)} that raised {type(error).__name__} when its tensors were copied",
        needed="a model of which copy.deepcopy(model) makes another one",
        do="pass the model as its class builds it, before it is frozen, quantized or compiled",
    )


_LONGEST_CALL = 200
