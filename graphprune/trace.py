"""Run a model once, abstractly, and record every ATen call as a node of a ``torch.fx`` graph.

Floating-point tensors are shapes on ``meta``: nothing is computed and no weight is read. Integer and boolean
tensors keep their values, so that control flow that looks at them still works. A model that looks at the
values of floats (a detector choosing boxes) is run once more with everything real.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.abstract import META, AbstractDevice, is_float
from graphprune.declared import declared_sizes
from graphprune.eager import eagerly
from graphprune.errors import TraceError
from graphprune.modules import named_modules, tables
from graphprune.nested import map_tensors, tensors_of
from graphprune.provenance import watching
from graphprune.shadow import Shadow, make_shadow
from graphprune.sizes import Attr, Line, Size, SizeLog, attributes_of, plain

aten = torch.ops.aten
Outputs = Callable[[Any], Any]


@lru_cache(maxsize=4096)
def short_name(op: Any) -> str:
    """``"addmm"`` for ``aten.addmm.default``."""
    return str(op._schema.name).split("::")[-1]


@dataclass(frozen=True, eq=False)
class ModuleCall:
    """One call of a module on a tensor that gave a tensor; nodes ``start`` to ``stop`` ran within."""

    path: str
    source: fx.Node
    result: fx.Node
    start: int
    stop: int


@dataclass
class Trace:
    """What one model did on one input.

    ``graph`` holds a ``get_attr`` node for every parameter and buffer that was used (named in
    ``node.meta["tensor"]``), a placeholder for every input tensor, and a call for every ATen operation; each
    node's meta has ``shape``, ``dtype``, ``module`` (path) and ``line`` (of the user's source).
    """

    graph: fx.Graph
    shapes: dict[str, torch.Size]
    inputs: list[fx.Node]
    outputs: list[fx.Node]
    constants: dict[str, Tensor]
    sizes: SizeLog
    modules: dict[str, type]
    aliases: dict[str, tuple[str, ...]]
    unreached: tuple[str, ...] = ()
    note: str = ""
    evaluated: int = 0
    results: int = 0
    abstract: bool = True
    calls: tuple[ModuleCall, ...] = ()

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

    def site(self, node: fx.Node) -> int:
        """The number of a node in execution order."""
        return self._sites.setdefault(self.original(node), -1)

    def __post_init__(self) -> None:
        self._originals: dict[fx.Node, fx.Node] = {}
        self._sites = {node: i for i, node in enumerate(self.graph.nodes)}


class Recorder(TorchDispatchMode):
    """Turn every ATen call into a graph node while it happens."""

    def __init__(self, shadow: Shadow, log: SizeLog, abstract: bool) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.log = log
        self.abstract = abstract
        self.shadow = shadow
        self.names = {id(t): name for name, t in shadow.tensors}
        self.shapes = {name: t.shape for name, t in shadow.tensors}
        self.parameters = [name for name, t in shadow.tensors if isinstance(t, nn.Parameter)]
        self.constants: dict[str, Tensor] = {}
        self.stack: list[str] = [""]
        self.scripts = 0
        self.calls: list[ModuleCall] = []
        self._entered: list[tuple[fx.Node | None, int]] = []
        self._nodes: dict[int, fx.Node | tuple[fx.Node, int]] = {}
        self._alive: list[Tensor] = []
        self.device = AbstractDevice()
        self._line: Line | None = None
        self.inputs: list[fx.Node] = []
        self.used: set[str] = set()
        log.where = lambda: (user_line(sys._getframe(2)), self.stack[-1])

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Nothing is compiled while tracing; this spares every call a detour through the compiler's guards."""
        return True

    def enter(self, module: nn.Module, args: Any) -> None:
        """A module is called."""
        self.stack.append(self.shadow.paths.get(id(module), self.stack[-1]))
        self._entered.append((self._made(args[0]) if args else None, len(self.graph.nodes)))

    def leave(self, output: Any) -> None:
        """The module that was called last is done."""
        path = self.stack.pop()
        source, start = self._entered.pop()
        result = self._made(output) if source is not None else None
        if source is not None and result is not None:
            self.calls.append(ModuleCall(path, source, result, start, len(self.graph.nodes)))

    def _made(self, value: Any) -> fx.Node | None:
        """The node that made a tensor; None for parameters and for whatever is no tensor."""
        if not isinstance(value, Tensor) or id(value) not in self._nodes:
            return None
        with torch._C.DisableTorchFunction():  # sizes that are read in here are not read by the program
            return self.lookup(value)

    def add_input(self, tensor: Tensor) -> Tensor:
        """A placeholder for an example input; returns what the program should see."""
        seen = tensor.to(META) if self.abstract and is_float(tensor) else tensor.detach().clone()
        node = self.graph.placeholder(f"input_{len(self.inputs)}")
        self._bind(seen, node)
        self.inputs.append(node)
        return seen

    def lookup(self, tensor: Tensor) -> fx.Node | None:
        """The node that made ``tensor``, or None where its origin is unknown."""
        found = self._nodes.get(id(tensor))
        if isinstance(found, tuple):
            found = self._item(tensor, *found)
        return found if found is not None else self._parameter(tensor)

    def _item(self, tensor: Tensor, node: fx.Node, index: int) -> fx.Node:
        item = self.graph.call_function(operator.getitem, (node, index))
        item.meta.update(node.meta)
        self._bind(tensor, item)
        return item

    def _parameter(self, tensor: Tensor) -> fx.Node | None:
        name = self.names.get(id(tensor))
        if name is None:
            return None
        self.used.add(name)
        node = self._get_attr(name.replace(".", "_"), tensor)
        node.meta["tensor"] = name
        return node

    def _get_attr(self, target: str, tensor: Tensor) -> fx.Node:
        node = self.graph.create_node("get_attr", target, name=target)
        self._bind(tensor, node)
        return node

    def _constant(self, tensor: Tensor) -> fx.Node:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.shadow.originals.get(id(tensor), tensor)
        return self._get_attr(name, tensor)

    def _bind(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._alive.append(tensor)
        node.meta["shape"] = tensor.shape
        node.meta["dtype"] = tensor.dtype
        node.meta.setdefault("module", self.stack[-1])
        node.meta.setdefault("line", self._line)

    def forget(self, gone: set[fx.Node]) -> None:
        """Tensors made by these nodes are no longer known."""
        made_by = {k: v[0] if isinstance(v, tuple) else v for k, v in self._nodes.items()}
        self._nodes = {k: v for k, v in self._nodes.items() if made_by[k] not in gone}

    def _node_for(self, tensor: Tensor) -> fx.Node:
        return self.lookup(tensor) or self._constant(tensor)

    def execute(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Run a call, on shapes or on values."""
        return self.device.run(func, args, kwargs) if self.abstract else func(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with torch._C.DisableTorchFunction():  # sizes that are read in here are not read by the program
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func: Any, args: tuple, kwargs: dict) -> Any:
        self._line = user_line(sys._getframe(1))
        node_args = map_tensors(self._node_for, args)
        node_kwargs = map_tensors(self._node_for, kwargs)
        layout = _layout(args[0]) if func is aten.as_strided_.default else None
        out = self.execute(func, args, kwargs)
        if layout is not None and _layout(out) == layout:
            return out  # a change of memory format
        node = self.graph.create_node("call_function", func, name=short_name(func))
        node.args = node_args  # given to create_node, every number in them is looked at
        if node_kwargs:
            node.kwargs = node_kwargs
        node.meta["module"] = self.stack[-1]
        node.meta["line"] = self._line
        node.meta["scripted"] = self.scripts > 0
        if isinstance(out, Tensor):
            self._bind(out, node)
        elif isinstance(out, tuple | list):
            node.meta["shapes"] = [t.shape if isinstance(t, Tensor) else None for t in out]
            for i, tensor in enumerate(out):
                if isinstance(tensor, Tensor):
                    self._nodes[id(tensor)] = (node, i)
                    self._alive.append(tensor)
        return out


def _layout(tensor: Tensor) -> Any:
    """Where a tensor's elements are; the strides of dimensions of size 1 say nothing."""
    strides = [s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]
    return tensor.shape, strides, tensor.storage_offset()


_LIBRARY = (torch.__path__[0] + "/", __file__.rsplit("/", 1)[0] + "/")
_BETWEEN = re.compile(r"/unittest/|/contextlib\.py$|^<")
_is_library: dict[str, bool] = {}


def user_line(frame: FrameType | None) -> Line | None:
    """The innermost line that is neither torch's nor this library's."""
    while frame is not None:
        file = frame.f_code.co_filename
        library = _is_library.get(file)
        if library is None:
            library = _is_library[file] = file.startswith(_LIBRARY) or bool(_BETWEEN.search(file))
        if not library:
            return file, frame.f_lineno
        frame = frame.f_back
    return None


@contextmanager
def _module_stack(recorder: Recorder) -> Iterator[None]:
    """Keep the path of the running module on top of ``recorder.stack``."""

    handles = (
        nn.modules.module.register_module_forward_pre_hook(recorder.enter),
        nn.modules.module.register_module_forward_hook(lambda module, args, output: recorder.leave(output)),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _noticing_scripts(recorder: Recorder) -> Iterator[None]:
    """Count in ``recorder.scripts`` how many TorchScript programs are running: sizes inside them cannot be watched."""

    def noticing(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(script: Any, *args: Any, **kwargs: Any) -> Any:
            recorder.scripts += 1
            try:
                return run(script, *args, **kwargs)
            finally:
                recorder.scripts -= 1

        return call

    function, method = torch.jit.ScriptFunction, torch._C.ScriptMethod
    with (
        mock.patch.object(function, "__call__", noticing(function.__call__)),
        mock.patch.object(method, "__call__", noticing(method.__call__)),
    ):
        yield


@contextmanager
def recording(recorder: Recorder) -> Iterator[None]:
    """Everything that must hold while a model is traced; all of it is undone afterwards."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
            stack.enter_context(_module_stack(recorder))
            stack.enter_context(_noticing_scripts(recorder))
            stack.enter_context(recorder)
            stack.enter_context(watching(recorder.log, recorder.lookup))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _call(recorder: Recorder, args: tuple, kwargs: dict, outputs: Outputs | None) -> list[fx.Node]:
    seen_args = map_tensors(recorder.add_input, args)
    seen_kwargs = map_tensors(recorder.add_input, kwargs)
    with recording(recorder):
        result = recorder.shadow.module(*seen_args, **seen_kwargs)
    kept = outputs(result) if outputs else result
    found = [recorder._node_for(t) for t in tensors_of(kept)]
    if not found:
        raise TraceError(
            f"model: its output is a {type(kept).__name__}, in which no tensor was found; pass outputs=, a function "
            "that picks the tensors that must keep their shape"
        )
    return found


@eagerly()
def record(
    model: nn.Module,
    args: tuple,
    kwargs: dict,
    outputs: Outputs | None = None,
    abstract: bool = True,
    make_recorder: Callable[[Shadow, SizeLog, bool], Recorder] = Recorder,
) -> Trace:
    """Trace ``model(*args, **kwargs)`` in eval mode, and in train mode too where eval leaves weights unused.

    Raises:
        TraceError: the model failed in ``forward``; the original exception is the cause.
    """
    log = SizeLog()
    recorder = make_recorder(make_shadow(model, log, abstract), log, abstract)
    recorder.shadow.module.eval()
    results = _call(recorder, args, kwargs, outputs)
    evaluated, count = len(recorder.graph.nodes), len(results)
    note = ""
    if any(name not in recorder.used for name in recorder.parameters):
        note = _record_training(recorder, args, kwargs, outputs, results)
    _note_declared(recorder)
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
        _aliases(model),
        unreached,
        note,
        evaluated,
        count,
        abstract,
        tuple(call for call in recorder.calls if call.stop <= evaluated),
    )


def _note_declared(recorder: Recorder) -> None:
    """What the program read of torch.nn modules' sizes are sizes of their weights."""
    log = recorder.log
    read = {a.path for expr in log.expressions() for a in attributes_of(expr)}
    owners = {path.rpartition(".")[0] for path in read}
    with watching(log, lambda t: recorder.lookup(t) if recorder.names.get(id(t)) in recorder.used else None):
        for path, module in named_modules(recorder.shadow.module):
            for name, size in declared_sizes(module).items() if path in owners else ():
                attribute = f"{path}.{name}" if path else name
                if attribute in read and type(size) is Size:
                    log.equal(Attr(attribute, plain(size)), size.expr)


def _record_training(
    recorder: Recorder, args: tuple, kwargs: dict, outputs: Outputs | None, results: list[fx.Node]
) -> str:
    """What only training runs is part of the model. Returns why training could not be traced, or "".

    Training is tried on the example and on a batch of it twice, since BatchNorm wants more than one value.
    """
    recorder.shadow.module.train()
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


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For every tied tensor, by its first name, the other names it has."""
    names: dict[int, list[str]] = {}
    found = tables(model)
    for table in (found.parameters, found.buffers):
        for name, tensor in table.items():
            names.setdefault(id(tensor), []).append(name)
    return {first: tuple(rest) for first, *rest in names.values() if rest}


def trace_model(model: nn.Module, args: tuple, kwargs: dict, outputs: Outputs | None = None) -> Trace:
    """Trace abstractly; a model that looks at the values of floats is traced with everything real."""
    try:
        return record(model, args, kwargs, outputs)
    except TraceError:
        raise
    except Exception as abstract_error:
        try:
            return record(model, args, kwargs, outputs, abstract=False)
        except Exception as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in (*tensors_of(args), *tensors_of(kwargs)))
            raise TraceError(
                f"model: {type(model).__name__}.forward failed on example_inputs of shape {shapes}:\n"
                f"  {type(error).__name__}: {error}\n"
                "Pass example_inputs with which model(...) runs in eval mode: a tensor, a tuple of positional "
                "arguments, or a dict of keyword arguments."
            ) from (error if type(error) is type(abstract_error) else abstract_error)
