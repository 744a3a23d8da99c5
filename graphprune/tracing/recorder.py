"""Record every ATen call of a running model as a node of a ``torch.fx`` graph."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel

from graphprune.tracing.aliases import Aliases
from graphprune.tracing.blank_tensors import BlankTensors
from graphprune.tracing.meta import META, MetaExecution, is_float
from graphprune.tracing.model_copy import MetaCopy
from graphprune.tracing.opaque import OnNested, ReadTensors, any_nested, is_opaque, watched_functions
from graphprune.tracing.places import user_line, user_place
from graphprune.tracing.shallow_copies import shallow_copies
from graphprune.tracing.size_tracking.caches import bypassed_caches
from graphprune.tracing.size_tracking.watching import watching
from graphprune.tracing.size_tracking.whole_numbers import whole_numbers
from graphprune.tracing.sizes import Line, SizeLog
from graphprune.utils.global_state import changing_globals, patched
from graphprune.utils.modules import is_parameter
from graphprune.utils.operators import Args, DispatchMode, Kwargs, is_mutable, short_name, written_arguments
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.storages import TensorState
from graphprune.utils.tree import LEAVES, map_tensors, tensors_of

aten = torch.ops.aten
_EMPTY, _SET_STRIDES = aten.empty.memory_format, aten.as_strided_.default


@dataclass(slots=True, eq=False)  # frozen, it would take four times as long to make
class ModuleCall:
    """One call of a module on a tensor that gave a tensor; nodes ``start`` to ``stop`` ran within.

    Attributes:
        source: made the first argument.
        result: made the result, or the first of several.
        results: how many results there are in a tuple; 0: the result is a tensor alone.
        by_name: the first argument is a keyword argument.
        others: the results after the first, those of tuples one by one: None, what made a tensor, or the name of the
            type of anything else.
    """

    path: str
    source: fx.Node
    result: fx.Node
    start: int
    stop: int
    results: int = 0
    by_name: bool = False
    others: tuple[fx.Node | str | None, ...] = ()

    @property
    def plain(self) -> bool:
        """One tensor went in by its position, and one came out."""
        return not self.results and not self.by_name


_NO_CACHES = LEAVES | {Tensor, nn.Parameter, tuple, list, dict}
"""What most arguments of modules are that are no caches."""


class Recorder(DispatchMode):
    """Turn every ATen call into a graph node while it happens."""

    watched = True
    """Are sizes noted, and lines?"""

    def __init__(self, model_copy: MetaCopy, log: SizeLog, on_meta: bool) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self._recorded = self.graph.nodes
        self.log = log
        self.on_meta = on_meta
        self.model_copy = model_copy
        self.names = {id(t): name for name, t in model_copy.tensors}
        self.shapes = {name: t.shape for name, t in model_copy.tensors}
        self.parameters = frozenset([name for name, t in model_copy.tensors if is_parameter(t)])
        self.constants: dict[str, Tensor] = {}
        self.overwritten: list[TensorState] = []
        self.stack: list[str] = [""]
        self.scripts = 0
        self.calls: list[ModuleCall] = []
        self.elsewhere: list[tuple[str, tuple[fx.Node, ...]]] = []  # modules that other threads ran, and on what
        self.handed: dict[int, Any] = {}  # what modules were given that is no tensor, by identity
        self._entered: list[tuple[int, fx.Node | None, int]] = []  # what runs, what it was given, and since when
        self._nodes: dict[int, fx.Node | tuple[fx.Node, int]] = {}
        self._seen = Aliases()
        self._of_model = Aliases([tensor for _, tensor in model_copy.tensors])
        self.device = MetaExecution()
        log.unknown = self.device.unknown
        self._line: Line | None = None
        self._nested = False  # has there been a nested tensor?
        self._blank = BlankTensors()
        self.inputs: list[fx.Node] = []
        self.used: set[str] = set()
        self.ran = False  # has the copy been run?
        self.chosen = False  # may arguments have chosen what of the model was used?
        self.seeded = False  # has the program seeded random numbers?
        self.thread = get_ident()
        if self.watched:
            log.where = lambda: (user_place(sys._getframe(2)), self.stack[-1])

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Nothing is compiled while tracing; this spares every call a detour through the compiler's guards."""
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Models are recorded eagerly, so that there is nothing that every call would have to be hidden from."""
        return False

    def enter(self, module: nn.Module, args: Any) -> None:
        """A module is called. Of what other threads run it is noted that they do; nothing else is known."""
        if get_ident() != self.thread:
            self._note_elsewhere(module, args)
            return
        self.stack.append(self.model_copy.paths.get(id(module), self.stack[-1]))
        self._entered.append((id(module), self._made(args[0]) if args else None, len(self._recorded)))

    def _end_within(self, module: nn.Module) -> None:
        """What a running module called is done; torch tells nobody of one that ended by ``KeyboardInterrupt``."""
        last = max(i for i, (entered, _, _) in enumerate(self._entered) if entered == id(module))
        del self._entered[last + 1 :], self.stack[last + 2 :]

    def abandon(self, module: nn.Module) -> None:
        """A module has raised, which the program may catch. It may be one that a hook kept from being entered."""
        if get_ident() == self.thread and any(id(module) == entered for entered, _, _ in self._entered):
            self._end_within(module)
            self._entered.pop()
            self.stack.pop()

    def _note_elsewhere(self, module: nn.Module, args: Any) -> None:
        """Another thread runs a module, perhaps one of the model's, with tensors that the trace knows."""
        path = self.model_copy.paths.get(id(module))
        if path is None:
            return
        given = [self._nodes.get(id(tensor)) for tensor in tensors_of(args)]
        nodes = [node if isinstance(node, fx.Node) else node[0] for node in given if node is not None]
        self.elsewhere.append((path, tuple(nodes)))

    def leave(self, module: nn.Module, args: Any, *given: Any) -> None:
        """The module that was called last is done; ``given``: keyword arguments and the result.

        Other threads call this without the former too, until torch has noted that they are wanted.
        """
        if get_ident() != self.thread:
            return
        if len(given) == 1:  # it raised: torch gives no keyword arguments then
            self.abandon(module)
            return
        kwargs, output = given
        if not _NO_CACHES.issuperset(map(type, (*args, *kwargs.values()))):
            self.handed.update((id(v), v) for v in (*args, *kwargs.values()) if type(v) not in _NO_CACHES)
        if self._entered[-1][0] != id(module):
            self._end_within(module)
        path, (_, source, start) = self.stack.pop(), self._entered.pop()
        by_name = not args and bool(kwargs)
        if by_name:  # hooks before the call are not told of keyword arguments
            source = self._made(next(iter(kwargs.values())))
        results = len(output) if type(output) is tuple else 0
        result = self._made(output[0] if results else output) if source is not None else None
        if source is not None and result is not None:
            others = tuple(self._others(output[1:])) if results else ()
            self.calls.append(ModuleCall(path, source, result, start, len(self._recorded), results, by_name, others))

    def _made(self, value: Any) -> fx.Node | None:
        """The node that made a tensor; None for parameters and for whatever is no tensor."""
        if not isinstance(value, Tensor) or id(value) not in self._nodes:
            return None
        with torch._C.DisableTorchFunction():  # sizes that are read in here are not read by the program
            return self.lookup(value)

    def _others(self, values: tuple[Any, ...]) -> Iterator[fx.Node | str | None]:
        """See :attr:`ModuleCall.others`. Of one result of several the call is given, which adds no node."""
        for value in values:
            if type(value) is tuple:
                yield from self._others(value)
            else:
                found = self._nodes.get(id(value)) if isinstance(value, Tensor) else None
                made = found[0] if isinstance(found, tuple) else found
                yield type(value).__name__ if made is None and value is not None else made

    def made_by_call(self, tensor: Tensor) -> fx.Node | None:
        """The call that made a tensor; None for those of the model and its inputs, and where the origin is unknown."""
        node = self._made(tensor)
        return node if node is not None and node.op == "call_function" else None

    def add_input(self, tensor: Tensor) -> Tensor:
        """A placeholder for an example input; returns what the program should see."""
        seen = tensor.to(META) if self.on_meta and is_float(tensor) else tensor.detach().clone()
        node = self.graph.placeholder(f"input_{len(self.inputs)}")
        self.inputs.append(self._made_here(node, seen))
        return seen

    def lookup(self, tensor: Tensor) -> fx.Node | None:
        """The node that made ``tensor``, or None where its origin is unknown."""
        if self._blank.left:
            self._forget_if_filled(tensor)
        return self._made_by(tensor) or self._parameter(tensor) or self._alias(tensor)

    def _made_by(self, tensor: Tensor) -> fx.Node | None:
        found = self._nodes.get(id(tensor))
        if found is None or self._seen.moved(tensor):
            return None
        return self._item(tensor, *found) if type(found) is tuple else found  # type: ignore[return-value]

    def _alias(self, tensor: Tensor) -> fx.Node | None:
        """The node of another Python object with the same elements."""
        other = self._seen.find(tensor)
        if other is None:
            other = self._of_model.find(tensor)
        if self._blank.left and other is not None:
            self._forget_if_filled(other)
        return None if other is None else self._made_by(other) or self._parameter(other)

    def lookup_sized(self, tensor: Tensor) -> fx.Node | None:
        """As :meth:`lookup`, but for nested tensors, which have no sizes that could be followed."""
        return None if tensor.is_nested else self.lookup(tensor)

    def _item(self, tensor: Tensor, node: fx.Node, index: int) -> fx.Node:
        item = self.graph.create_node("call_function", operator.getitem, name="getitem")
        _set_arguments(item, (node, index))
        item.meta.update(node.meta)
        self._bind(tensor, item)
        return item

    def _parameter(self, tensor: Tensor) -> fx.Node | None:
        name = self.names.get(id(tensor))
        if name is None or self._of_model.moved(tensor):
            return None
        self.used.add(name)
        node = self._get_attr(name.replace(".", "_"), tensor)
        node.meta["tensor"] = name
        node.meta["parameter"] = name in self.parameters
        if tensor.ndim == 1 and not is_float(tensor):
            node.meta["values"] = tensor
        return node

    def _get_attr(self, target: str, tensor: Tensor) -> fx.Node:
        return self._made_here(self.graph.create_node("get_attr", target, name=target), tensor)

    def _made_here(self, node: fx.Node, tensor: Tensor) -> fx.Node:
        """A node that is no call, where it is first needed."""
        node.meta.update(module=self.stack[-1], line=self._line)
        self._bind(tensor, node)
        return node

    def _constant(self, tensor: Tensor) -> fx.Node:
        name = f"constant_{len(self.constants)}"
        self.constants[name] = self.model_copy.originals.get(id(tensor), tensor)
        node = self._get_attr(name, tensor)
        node.meta["unregistered"] = isinstance(tensor, nn.Parameter)
        node.meta["untraced"] = self.on_meta and tensor.is_meta and id(tensor) not in self.model_copy.originals
        node.meta["read"] = self.log.values_read[-1][1] if self.log.values_read else None
        return node

    def _bind(self, tensor: Tensor, node: fx.Node) -> None:
        self._nodes[id(tensor)] = node
        self._seen.add(tensor)
        nested = tensor.is_nested
        self._nested |= nested
        meta = node.meta
        meta["shape"] = torch.Size() if nested else tensor.shape
        meta["dtype"] = tensor.dtype

    def was_moved(self, tensor: Tensor) -> bool:
        """Was a tensor of the model given other memory?"""
        return self._of_model.moved(tensor)

    def moved(self) -> list[Tensor]:
        """The tensors of the model that were given other memory."""
        return self._of_model.all_moved()

    def made_new(self) -> set[int]:
        """The identities of the tensors that were not there before."""
        return self._nodes.keys() - self.names.keys()

    def forget(self, gone: set[fx.Node]) -> None:
        """Tensors made by these nodes are no longer known."""
        made_by = {k: v[0] if isinstance(v, tuple) else v for k, v in self._nodes.items()}
        self._nodes = {k: v for k, v in self._nodes.items() if made_by[k] not in gone}

    def node_for(self, tensor: Tensor) -> fx.Node:
        """The node that made ``tensor``; a new one where its origin is unknown."""
        if self._blank.left:
            self._forget_if_filled(tensor)
        found = self._nodes.get(id(tensor))
        if found is not None and not isinstance(found, tuple) and not self._seen.moved(tensor):  # as of most tensors
            return found
        return self._made_by(tensor) or self._parameter(tensor) or self._alias(tensor) or self._constant(tensor)

    def _forget_if_filled(self, tensor: Tensor) -> None:
        """What has been filled without an operation is a constant, and not what made room for it."""
        if self._blank.filled(tensor):
            del self._nodes[id(tensor)]

    def execute(self, func: Any, args: Args, kwargs: Kwargs) -> Any:
        """Run a call, on shapes or on values."""
        return self.device.run(func, args, kwargs) if self.on_meta else func(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        with torch._C.DisableTorchFunction():  # sizes that are read in here are not read by the program
            return self._dispatch(func, args, kwargs or {})

    def _dispatch(self, func: Any, args: Args, kwargs: Kwargs) -> Any:
        if self.watched:
            self._line = user_line(sys._getframe(1))
        if type(func) is not OpOverload and is_opaque(func):
            return self._dispatch_opaque(func, args, kwargs)
        if func is _EMPTY and _is_reserve(args, kwargs):
            return self.execute(func, args, kwargs)
        node_args = map_tensors(self.node_for, args)
        node_kwargs = map_tensors(self.node_for, kwargs) if kwargs else {}
        if is_mutable(func):
            for written in written_arguments(func, args, kwargs):
                self._note_written(written)
        if self._nested and any_nested((args, kwargs)):
            return self._dispatch_opaque(func, args, kwargs)
        layout = _layout(args[0]) if func is _SET_STRIDES else None
        out = self.execute(func, args, kwargs)
        if layout is not None and _layout(out) == layout:
            return out  # a change of memory format
        if func is _EMPTY:
            self._blank.add(out)
        if any_nested(out):
            self._nested = True
            self._need_values("makes a nested tensor")
            func = OnNested(func)
        return self._note_call(func, node_args, node_kwargs, out)

    def _note_written(self, written: Any) -> None:
        """A call is about to write to a tensor: one that the program has outside of the model gets its values back."""
        if self._blank.left and isinstance(written, Tensor):
            self._blank.written(written)
        whole = written if not isinstance(written, Tensor) or written._base is None else written._base
        outside = any(whole is constant for constant in self.constants.values())
        if outside and not whole.is_meta and all(whole is not state.tensor for state in self.overwritten):
            self.overwritten.append(TensorState.of(whole))

    def _dispatch_opaque(self, func: Any, args: Args, kwargs: Kwargs) -> Any:
        """A call of which only tensors are noted: the arguments, and what the functions among them read otherwise."""
        self._need_values(f"{short_name(func)} is not looked into")
        reads = ReadTensors()
        operands = {id(t): t for t in tensors_of((args, kwargs))}
        given = {key: self.node_for(t) for key, t in operands.items()}
        out = self.execute(func, watched_functions(args, reads), watched_functions(kwargs, reads))
        known = [t for key, t in reads.found.items() if key in self.names or key in self._nodes]
        given.update((id(t), self.node_for(t)) for t in known if id(t) not in given)
        return self._note_call(func if is_opaque(func) else OnNested(func), tuple(given.values()), {}, out)

    def _need_values(self, text: str) -> None:
        """End a trace without values."""
        if self.on_meta:
            raise NotImplementedError(text)

    def _note_call(self, func: Any, node_args: Any, node_kwargs: Any, out: Any) -> Any:
        """The node of a call, and its results."""
        node = self.graph.create_node("call_function", func, name=short_name(func))
        _set_arguments(node, node_args, node_kwargs)
        meta = node.meta
        meta["module"] = self.stack[-1]
        meta["line"] = self._line
        meta["scripted"] = self.scripts > 0
        if isinstance(out, Tensor):
            self._bind(out, node)
        elif isinstance(out, tuple | list):
            shapes: list[torch.Size | None] = []
            meta["shapes"] = shapes
            for i, tensor in enumerate(out):
                if isinstance(tensor, Tensor):
                    self._nodes[id(tensor)] = (node, i)
                    self._seen.add(tensor)
                    shapes.append(torch.Size() if tensor.is_nested else tensor.shape)
                else:
                    shapes.append(None)
        return out


def _set_arguments(node: Any, args: Args, kwargs: Kwargs | None = None) -> None:
    """Set the arguments of a new node.

    Given to ``create_node``, every number in them is looked at; set as attributes, the node is looked up in its graph.
    """
    object.__setattr__(node, "args", args)
    if kwargs:
        object.__setattr__(node, "kwargs", kwargs)


def _is_reserve(args: Args, kwargs: Kwargs) -> bool:
    """Is it the space that torch's batch norm makes for a backward pass? It has no bytes, and nothing is given it."""
    return args[0] == [0] and kwargs.get("dtype") is torch.uint8


def _layout(tensor: Tensor) -> Any:
    """Where a tensor's elements are; the strides of dimensions of size 1 say nothing."""
    strides = [s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]
    return tensor.shape, strides, tensor.storage_offset()


@contextmanager
def _module_stack(recorder: Recorder) -> Iterator[None]:
    """Keep the path of the running module on top of ``recorder.stack``."""
    handles = (
        nn.modules.module.register_module_forward_pre_hook(recorder.enter),
        nn.modules.module.register_module_forward_hook(recorder.leave, with_kwargs=True, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
            # torch forgets this one, and warns from then on that there are hooks
            nn.modules.module._global_forward_hooks_with_kwargs.pop(handle.id, None)


@contextmanager
def _noticing_scripts(recorder: Recorder) -> Iterator[None]:
    """Count in ``recorder.scripts`` how many TorchScript programs are running: sizes inside them cannot be watched."""

    def noticing(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(script: Any, *args: Any, **kwargs: Any) -> Any:
            if get_ident() != recorder.thread:
                return run(script, *args, **kwargs)
            recorder.scripts += 1
            try:
                return run(script, *args, **kwargs)
            finally:
                recorder.scripts -= 1

        return call

    function, method = torch.jit.ScriptFunction, torch._C.ScriptMethod
    with (
        patched(function, __call__=noticing(function.__call__)),
        patched(method, __call__=noticing(method.__call__)),
    ):
        yield


_UNLIKELY_SEED = 7_046_029_254_386_353_131


@contextmanager
def _noticing_seeds(recorder: Recorder) -> Iterator[None]:
    """Note in ``recorder.seeded`` that the program sets the seed of random numbers: it wants the same ones always.

    A function that was imported by its name is told by the seed that is there in the end, or when ``fork_rng`` ends. On
    shapes, where nothing is drawn, that is one which no program sets.
    """
    seed, set_state = torch.manual_seed, torch.set_rng_state
    if recorder.on_meta:
        torch.default_generator.manual_seed(_UNLIKELY_SEED)
    before = torch.initial_seed()

    def call(*args: Any, **kwargs: Any) -> Any:
        recorder.seeded |= get_ident() == recorder.thread
        return seed(*args, **kwargs)

    def put_back(state: Any) -> None:
        changed = torch.initial_seed() != before
        set_state(state)
        recorder.seeded |= get_ident() == recorder.thread and (changed or torch.initial_seed() != before)

    others = {"manual_seed": call, "set_rng_state": put_back}
    with patched(torch, **others), patched(torch.random, **others):
        yield
    recorder.seeded |= torch.initial_seed() != before


@contextmanager
def recording(recorder: Recorder, reached: Iterable[Any]) -> Iterator[None]:
    """Everything that must hold while a model is traced; all of it is undone afterwards.

    Args:
        recorder: what is called is noted there.
        reached: what the program reaches outside of its model (see
            :func:`graphprune.tracing.may_write.may_write_to`).
    """
    import_module("torch._dynamo")  # which torch does at its first decomposition: amid modes, that of 2.8 fails
    with changing_globals():
        yield from _recording(recorder, reached)


def _recording(recorder: Recorder, reached: Iterable[Any]) -> Iterator[None]:
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(recorder.model_copy.module.training))  # as it is in training
            stack.enter_context(random_numbers_kept())
            stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
            stack.enter_context(_module_stack(recorder))
            stack.enter_context(_noticing_scripts(recorder))
            stack.enter_context(_noticing_seeds(recorder))
            stack.enter_context(shallow_copies())
            stack.enter_context(recorder)
            stack.enter_context(bypassed_caches(recorder.model_copy.modules, recorder.model_copy.holders))
            if recorder.watched:
                stack.enter_context(watching(recorder.log, recorder.lookup_sized))
                own = recorder.model_copy
                stack.enter_context(whole_numbers(own.kinds.values(), own.holders, reached))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for state in recorder.overwritten:
            state.put_back()
        recorder.overwritten.clear()
