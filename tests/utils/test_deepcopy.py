"""Copies are what ``copy.deepcopy`` gives, with functions and references that belong to the copy."""

from __future__ import annotations

import copy
import functools
import io
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.errors import InputError, TraceError
from graphprune.utils.deepcopy import _is_plain_class, copy_module

X, OTHER = torch.randn(2, 4), torch.randn(2, 4)
SEEN: dict[str, Tensor] = {}


class Net(nn.Module):
    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 32), nn.Linear(32, 3)
        self.calls = 0
        vars(self).update(attributes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(torch.relu(self.a(x)))
        return out

    def count(self, *_: Any) -> None:
        self.calls += 1


def slim_of(model: nn.Module) -> Any:
    """Pruned, working, and working once more after a second round."""
    slim = graphprune.prune_model(model, 0.5, X)
    assert slim(X).shape == (2, 3)
    graphprune.prune_model(slim, 0.25, X)
    return slim


def test_a_hook_handle_removes_the_hook_of_the_copy() -> None:
    model: Any = Net()
    model.handle = model.a.register_forward_hook(model.count)
    slim = slim_of(model)
    assert (slim.calls, model.calls) == (1, 0)
    slim.handle.remove()
    slim(X), model(X)
    assert (slim.calls, model.calls) == (1, 1)


HANDLES: dict[str, Any] = {}


def remove_known(*_: Any) -> None:
    HANDLES["a"].remove()


def known_removal(handles: dict[str, Any]) -> Callable[..., None]:
    return remove_known


def closure_removal(handles: dict[str, Any]) -> Callable[..., None]:
    return lambda *_: handles["a"].remove()


def default_removal(handles: dict[str, Any]) -> Callable[..., None]:
    def once(*_: Any, handles: dict[str, Any] = handles) -> None:
        handles["a"].remove()

    return once


def stack_removal(handles: dict[str, Any]) -> Callable[..., None]:
    handles["stack"] = stack = ExitStack()
    return lambda *_: stack.close()


@pytest.mark.parametrize("removal", [known_removal, closure_removal, default_removal, stack_removal])
def test_hooks_that_remove_themselves_are_there_after_a_trace(removal: Any) -> None:
    """A trace ran the hook, which took away that of the user's model."""
    handles: dict[str, Any] = HANDLES if removal is known_removal else {}
    model = Net()
    handles["a"] = model.a.register_forward_hook(removal(handles), always_call=True)
    if "stack" in handles:
        handles["stack"].callback(handles["a"].remove)
    graphprune.trace(model, X)
    assert all(len(table) == 1 for table in _tables(model.a))
    slim = slim_of(model)
    assert all(len(table) == 1 for table in _tables(model.a)) and not any(_tables(slim.a))
    model(X)
    assert not any(_tables(model.a))


def _tables(module: nn.Module) -> list[dict[int, Any]]:
    return [module._forward_hooks, module._forward_hooks_always_called]


class Scaled(nn.Module):
    """Sets its scale by the first batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(32))

        def begin(module: Scaled, args: tuple[Tensor]) -> None:
            module.scale.data.copy_(1 / args[0].std(0))
            handle.remove()

        handle = self.register_forward_pre_hook(begin)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_what_a_hook_initializes_once_is_pruned_before_and_initialized_after() -> None:
    model = nn.Sequential(nn.Linear(4, 32), Scaled(), nn.ReLU(), nn.Linear(32, 3)).eval()
    slim = graphprune.prune_model(model, 0.5, X)
    scales = [m.get_parameter("1.scale") for m in (model, slim)]
    assert all(bool((scale == 1).all()) for scale in scales) and scales[1].shape == (16,)
    model(X), slim(X)
    assert not any(bool((scale == 1).any()) for scale in scales)


def test_hooks_that_forward_removes_by_a_global_name_are_there_after_a_trace() -> None:
    class Removing(Net):
        def forward(self, x: Tensor) -> Tensor:
            HANDLES["a"].remove()
            return super().forward(x)

    model = Removing()
    HANDLES["a"] = model.a.register_forward_hook(lambda *_: None)
    graphprune.prune_model(model, 0.5, X)
    assert len(model.a._forward_hooks) == 1


@pytest.mark.parametrize("first", ["stop", "handles"])
@pytest.mark.parametrize("use", ["stop", "handles"])
def test_functions_and_lists_hold_the_same_handles(first: str, use: str) -> None:
    """The copy of the function held the user's handle, and then so did the copy of the list."""
    model, found = Net(), {}
    handle = model.a.register_forward_hook(lambda module, args, output: found.update(a=output))
    held = {"stop": lambda: handle.remove(), "handles": [handle]}
    vars(model).update({name: held[name] for name in (first, *(held.keys() - {first}))})
    slim: Any = graphprune.prune_model(model, 0.5, X)
    slim.stop() if use == "stop" else slim.handles[0].remove()
    assert not slim.a._forward_hooks and len(model.a._forward_hooks) == 1


def test_handles_of_other_modules_are_no_part_of_a_copy() -> None:
    other, model = nn.Linear(1, 1), Net()
    handle = other.register_forward_hook(lambda *_: None)
    model.a.register_forward_hook(lambda *_: handle.remove())
    graphprune.prune_model(model, 0.5, X)
    assert len(other._forward_hooks) == 1


def test_copies_have_tables_of_hooks_of_their_own() -> None:
    model: Any = Net()
    model.a.register_forward_hook(model.count)
    copied: Any = copy_module(model, {id(p): p for p in model.parameters()})
    tables = [value for module in copied.modules() for value in vars(module).values() if type(value) is OrderedDict]
    theirs = [value for module in model.modules() for value in vars(module).values() if type(value) is OrderedDict]
    assert len({id(table) for table in (*tables, *theirs)}) == 2 * len(theirs)
    assert list(map(len, tables)) == list(map(len, theirs))
    (hook,) = copied.a._forward_hooks.values()
    assert hook == copied.count


def test_what_is_held_twice_is_held_twice_by_the_copy() -> None:
    shared: dict[str, Any] = {"list": []}
    model = Net(one=shared, other=shared["list"], push=shared["list"].append)
    vars(model.a)["two"] = shared
    slim = slim_of(model)
    slim.push(1)
    assert (
        slim.one is slim.a.two is not shared and slim.other is slim.one["list"] and slim.other == [1] != shared["list"]
    )


def test_weak_references_refer_to_the_copy() -> None:
    model: Any = Net()
    vars(model).update(ref=weakref.ref(model.a), proxy=weakref.proxy(model.b), outside=weakref.ref(X))
    slim = slim_of(model)
    assert slim.ref() is slim.a and slim.proxy.weight is slim.b.weight and slim.outside() is X


def with_closure(model: Any) -> Callable[..., Tensor]:
    return lambda x: model.b(torch.relu(model.a(x)))


def with_default(model: Any) -> Callable[..., Tensor]:
    def run(x: Tensor, net: Any = model) -> Tensor:
        return with_closure(net)(x)

    return run


def with_keyword(model: Any) -> Callable[..., Tensor]:
    def run(x: Tensor, *, layers: Any = (model.a, model.b)) -> Tensor:
        out: Tensor = layers[1](torch.relu(layers[0](x)))
        return out

    return run


def with_partial(model: Any) -> Callable[..., Tensor]:
    return functools.partial(lambda net, x: net.b(torch.relu(net.a(x))), model)


def with_method(model: Any) -> Callable[..., Tensor]:
    class Runner:
        def run(self, x: Tensor) -> Tensor:
            return with_closure(model)(x)

    runner = Runner()
    vars(runner)["model"] = model
    return lambda x: runner.model.b(torch.relu(runner.model.a(x)))


def with_tensors(model: Any) -> Callable[..., Tensor]:
    first = model.a.weight

    def run(x: Tensor, second: Tensor = model.b.weight, *, bias: Tensor = model.a.bias) -> Tensor:
        return torch.relu(x @ first.T + bias) @ second.T

    return run


NET: Any = None


def with_global(model: Any) -> Callable[..., Tensor]:
    global NET
    NET = model
    return lambda x: NET.b(torch.relu(NET.a(x)))


@pytest.mark.parametrize(
    "make", [with_closure, with_default, with_keyword, with_partial, with_method, with_tensors, with_global]
)
@pytest.mark.parametrize("inplace", [False, True])
def test_functions_run_the_layers_of_the_copy(make: Callable[[Any], Callable[..., Tensor]], inplace: bool) -> None:
    class Calling(Net):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.run(x)
            return out

    model: Any = Calling()
    model.run = make(model)
    slim: Any = graphprune.prune_model(model, 0.5, X, inplace=inplace)
    slim(X).sum().backward()
    assert slim.a.weight.shape == slim.a.weight.grad.shape == (16, 4)
    assert (slim is model) is inplace and (inplace or model.a.weight.grad is None)


def test_a_function_that_assigns_to_globals_is_refused_by_name() -> None:
    model: Any = Net()

    def hook(*_: Any) -> None:
        global NET
        NET = (NET.a, 0)[0] and NET

    with_global(model)
    model.a.register_forward_hook(hook)
    with pytest.raises(InputError, match=r"model\.a\._forward_hooks\[\d+\].*global name 'NET'"):
        graphprune.prune_model(model, 0.5, X)


class Tapped(nn.Module):
    """The features come by way of a dictionary that a hook fills."""

    def __init__(self, found: dict[str, Tensor], hook: Callable[..., None]) -> None:
        super().__init__()
        self.a, self.b, self.found = nn.Linear(4, 32), nn.Linear(32, 3), found
        self.a.register_forward_hook(hook)

    def forward(self, x: Tensor) -> Tensor:
        self.a(x)
        out: Tensor = self.b(self.found["a"])
        return out


def tapped(glob: bool) -> Tapped:
    local: dict[str, Tensor] = {}
    if glob:
        return Tapped(SEEN, lambda m, i, o: SEEN.__setitem__("a", o))
    return Tapped(local, lambda m, i, o: local.__setitem__("a", o))


@pytest.mark.parametrize("glob", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_hooks_fill_the_dictionary_that_the_copy_reads(glob: bool, used: bool) -> None:
    SEEN.clear()
    model = tapped(glob)
    if used:
        model(X)
    before = dict(model.found)
    slim = graphprune.prune_model(model, 0.5, X)
    assert model.found.keys() == before.keys() and all(model.found[key] is before[key] for key in before)
    assert not torch.equal(slim(X), slim(OTHER))


def keep(store: dict[str, Tensor], module: nn.Module, args: Any, output: Tensor) -> None:
    store["a"] = output


def keep_by_name(module: nn.Module, args: Any, output: Tensor, *, store: dict[str, Tensor]) -> None:
    store["a"] = output


class Keeping:
    def __init__(self, store: dict[str, Tensor]) -> None:
        self.store = store

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.store["a"] = output


KEEPERS: dict[str, Callable[[dict[str, Tensor]], Callable[..., None]]] = {
    "partial": lambda store: functools.partial(keep, store),
    "keyword of a partial": lambda store: functools.partial(keep_by_name, store=store),
    "bound method": lambda store: Keeping(store).keep,
    "function": lambda store: lambda m, i, o: store.__setitem__("a", o),
}


class Read(nn.Module):
    """Reads by way of a function what a hook keeps."""

    def __init__(self, hook: Callable[..., None], read: Callable[[], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.read = nn.Linear(4, 32), nn.Linear(32, 3), read
        self.a.register_forward_hook(hook)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).relu() + self.read())
        return out


class ReadByName(Read):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).relu() + seen())
        return out


def seen() -> Tensor:
    return SEEN["a"]


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("where", ["closure", "global", "global of forward"])
@pytest.mark.parametrize("keeper", KEEPERS)
def test_what_partials_and_methods_keep_is_what_functions_read(keeper: str, where: str, used: bool) -> None:
    """The hook of the slim model filled a copy, and the function read what the user's model had left, if anything."""
    SEEN.clear()
    store: dict[str, Tensor] = {} if where == "closure" else SEEN
    read: Callable[[], Tensor] = (lambda: store["a"]) if where == "closure" else seen
    model = (ReadByName if where == "global of forward" else Read)(KEEPERS[keeper](store), read).eval()
    wanted = model(OTHER)
    store.clear()
    if used:
        model(X)
    assert torch.equal(graphprune.prune_model(model, 0.0, X)(OTHER), wanted)
    assert graphprune.prune_model(model, 0.5, X)(OTHER).shape == (2, 3)


class Kept:
    """Keeps what a layer gives."""

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.a = output


def keep_last(store: deque[Tensor], module: nn.Module, args: Any, output: Tensor) -> None:
    store.append(output)


def keep_counted(store: dict[str, Any], module: nn.Module, args: Any, output: Tensor) -> None:
    store.update(a=output, calls=store["calls"] + 1)


ORDERED: OrderedDict[str, Tensor] = OrderedDict()
LAST: deque[Tensor] = deque(maxlen=1)
COUNTED: dict[str, Any] = {"calls": 0}
BOUND, HELD = Kept(), Kept()
ELSEWHERE: Any = ModuleType("elsewhere")
ELSEWHERE.found = {}
STORES: dict[str, tuple[Callable[..., None], Callable[[Any], Tensor]]] = {
    "ordered": (functools.partial(keep, ORDERED), lambda self: ORDERED["a"]),
    "deque": (functools.partial(keep_last, LAST), lambda self: LAST[-1]),
    "with a count": (functools.partial(keep_counted, COUNTED), lambda self: COUNTED["a"]),
    "bound method": (BOUND.keep, lambda self: BOUND.a),
    "object": (functools.partial(Kept.keep, HELD), lambda self: HELD.a),
    "imported": (functools.partial(keep, ELSEWHERE.found), lambda self: ELSEWHERE.found["a"]),
    "class": (functools.partial(keep, SEEN), lambda self: self.ON_CLASS["a"]),
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("store", STORES)
def test_hooks_fill_what_forward_finds_outside_of_the_model(store: str, used: bool) -> None:
    """The hook of the slim model filled a copy; it computed with what the dense one had left, and verify passed."""
    hook, read = STORES[store]

    class Reads(Read):
        ON_CLASS = SEEN
        found = read

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x).relu() + self.found())
            return out

    model = Reads(hook, seen).eval()
    del model.read
    if used:
        model(X)
    slim = graphprune.prune_model(model, 0.5, X)
    assert slim(X).shape == slim(OTHER).shape and not torch.equal(slim(X), slim(OTHER))
    assert slim.a.out_features == slim.b.in_features < 32
    assert model(X).shape == (2, 3)


def test_what_a_method_of_a_list_fills_is_what_functions_read() -> None:
    rows: list[Tensor] = []
    model: Any = Read(lambda module, args, output: None, lambda: rows[-1])
    model.push = rows.append
    model.a.register_forward_hook(lambda module, args, output: model.push(output))
    assert slim_of(model.eval()).a.out_features < 32 and not rows


class Listed(Net):
    """Has a list of sizes that its file has too."""

    def forward(self, x: Tensor) -> Tensor:
        assert len(SIZES) == 1
        out: Tensor = self.b(torch.relu(self.a(x)).view(-1, self.sizes[0]))
        return out


SIZES = [32]


def test_global_sizes_that_a_model_holds_are_its_own() -> None:
    assert slim_of(Listed(sizes=SIZES)).sizes != [32] and SIZES == [32]


def test_tracing_leaves_what_closures_write_to_alone() -> None:
    found: dict[str, Tensor] = {}
    count = 0

    def hook(module: nn.Module, args: Any, output: Tensor, times: list[int] = []) -> None:  # noqa: B006
        nonlocal count
        count += 1
        found["a"] = output
        times.append(1)

    model = Net()
    model.a.register_forward_hook(hook)
    plan = graphprune.trace(model, X).plan(0.5)
    assert not found and count == 0 and hook.__defaults__ == ([],)
    plan.apply(model)(X)
    assert found["a"].shape == (2, 16)  # no part of the model: one for all copies, as copy.deepcopy has it
    assert count == 1


class Configured(Net):
    """Reads a size from a view of a dictionary, and keeps an activation in a context variable."""

    def forward(self, x: Tensor) -> Tensor:
        self.variable.set(torch.relu(self.a(x)).view(-1, self.read_only["width"]))
        out: Tensor = self.b(self.variable.get())
        return out


def test_views_of_dictionaries_and_context_variables_are_copied() -> None:
    sizes = {"width": 32}
    model = Configured(sizes=sizes, read_only=MappingProxyType(sizes), variable=ContextVar("activation"))
    slim = slim_of(model)
    assert (slim.read_only["width"], slim.sizes["width"], model.read_only["width"]) == (16, 16, 32)


class Told(Net):
    """Reads what its hook assigned to a variable around both."""

    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        out: Tensor = self.b(self.latest())
        return out


@pytest.mark.parametrize("reader_first", [False, True])
def test_functions_that_share_a_variable_share_it_in_copies(reader_first: bool) -> None:
    latest: Any = None

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal latest
        latest = output

    model = Told(**{"latest": lambda: latest} if reader_first else {})
    model.a.register_forward_hook(hook)
    if not reader_first:
        vars(model)["latest"] = lambda: latest
    slim = graphprune.prune_model(model, 0.5, X)
    assert latest is None
    assert slim(X).shape == (2, 3)


CALLED: list[int] = []


class Unpacking(Net):
    """Takes a function out of a tuple in its first call, and calls it in later ones."""

    def forward(self, x: Tensor) -> Tensor:
        for function in filter(None, [getattr(self, "function", None)]):
            function()
        self.function = self.functions[0]
        return super().forward(x)


def test_what_a_function_writes_that_an_earlier_call_left_is_undone() -> None:
    graphprune.trace(Unpacking(functions=(lambda: CALLED.append(1),)), [X, X, X])
    assert not CALLED


class Locked(Net):
    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.last = super().forward(x)
            return self.last


@pytest.mark.parametrize("lock", [threading.Lock, threading.RLock, threading.Condition])
def test_locks_and_activations_of_earlier_runs_are_copied(lock: Callable[[], Any]) -> None:
    model = Locked(lock=lock(), seen={})
    model.seen["y"] = model(X)
    slim = slim_of(model)
    assert slim.lock is not model.lock and not slim.seen["y"].requires_grad
    with model.lock:
        slim(X)  # does not wait


class Rebuilt(Net):
    """Its copies are built anew, as those of torch_geometric's layers are."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Rebuilt:
        new = Rebuilt()
        new.load_state_dict(self.state_dict())
        return new


@pytest.mark.parametrize("parametrized", [False, True])
def test_a_module_that_would_build_its_copy_is_copied_as_it_is(parametrized: bool) -> None:
    model = Rebuilt(note=1)
    model.unused = nn.Parameter(torch.randn(3))
    if parametrized:
        nn.utils.parametrize.register_parametrization(model, "unused", nn.Identity())
    model.eval()
    before = torch.get_rng_state()
    plan = graphprune.trace(model, X).plan(0.5)
    slim: Any = plan.apply(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [choice.kept for choice in plan.choices] == [16]
    assert type(slim) is type(model) and slim.note == 1 and not any(m.training for m in slim.modules())
    assert graphprune.verify(model, slim, plan, X).passed


class InTrainingAtFirst(torch.fx.GraphModule):
    """Its copies are made by its class, in training mode, as those of torchvision's feature extractors are."""

    def __init__(self, root: nn.Module, graph: torch.fx.Graph) -> None:
        super().__init__(root, graph)
        self.start = float(torch.rand(1))
        self.train()

    def _deepcopy_init(self) -> Any:
        return InTrainingAtFirst.__init__


def test_copies_of_modules_that_make_their_copies_are_in_the_same_modes() -> None:
    body = InTrainingAtFirst(Net(), torch.fx.symbolic_trace(Net()).graph)
    model = nn.Sequential(body, nn.Linear(3, 3)).eval()
    body.b.train()
    before = torch.get_rng_state()
    slim = slim_of(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [name for name, module in slim.named_modules() if module.training] == ["0.b"]


def endless() -> Iterator[int]:
    while True:
        yield 1


@pytest.mark.parametrize("make", [endless, io.BytesIO().getbuffer, lambda: io.TextIOWrapper(io.BytesIO())])
def test_what_cannot_be_copied_is_refused_by_its_path(make: Callable[[], Any]) -> None:
    model = Net(settings={"things": [make()]})
    with pytest.raises(
        InputError, match=r"^model\.settings\['things'\]\[0\]: a \w+ cannot be copied[\s\S]*inplace=True"
    ):
        graphprune.prune_model(model, 0.5, X)
    assert graphprune.prune_model(model, 0.5, X, inplace=True)(X).shape == (2, 3)
    assert model.a.out_features == 16


def test_a_traced_run_does_not_use_up_a_generator() -> None:
    class Drawing(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * next(self.draw)

    numbers = iter(n for n in (1, 2))
    with pytest.raises(TraceError, match=r"^model\.draw: forward uses this generator"):
        graphprune.trace(Drawing(draw=numbers), X)
    assert next(numbers) == 1


class Building(dict[str, Any]):
    """A table whose entries are made when they are asked for."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name)()


LAYERS = Building(relu=nn.ReLU)


def test_a_table_that_makes_its_entries_is_left_alone() -> None:
    class Asking(Net):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(LAYERS["relu"](self.a(x)))
            return out

    slim_of(Asking())
    assert dict.__getitem__(LAYERS, "relu") is nn.ReLU


def test_modules_are_copied_as_fast_once_torch_has_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def tagging(module: nn.Module, state: object) -> None:
        raise AssertionError("a copy is not read from a file")

    tagging.__module__ = "torch._dynamo.mutation_guard"  # which puts a function of its own there
    monkeypatch.setattr(nn.Module, "__setstate__", tagging)
    assert _is_plain_class.__wrapped__(nn.ReLU)
    tagging.__module__ = "library"
    assert not _is_plain_class.__wrapped__(nn.ReLU)


def test_a_traced_module_keeps_hooks_and_attributes() -> None:
    body: Any = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 8)))
    body.width = 8
    body.register_forward_hook(lambda module, args, out: 2 * out)
    body.register_forward_pre_hook(lambda module, args, kwargs: (args, kwargs), with_kwargs=True)
    model, x = nn.Sequential(body, nn.ReLU(), nn.Linear(8, 3)).eval(), torch.randn(2, 3)
    plan = graphprune.trace(model, x).plan(0.5)
    slim: Any = plan.apply(model)
    assert slim[0].width == slim[0].get_submodule("2").out_features == 4
    assert graphprune.verify(model, slim, plan, x).passed
    whole: Any = graphprune.trace(model, x).plan(0.0).apply(model)
    assert torch.equal(whole(x), model(x))


class Logging(nn.Module):
    """Has a file, which its copies share."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 16), nn.Linear(16, 3)
        self.file = Path(os.devnull).open("w")  # noqa: SIM115

    def __deepcopy__(self, memo: dict[int, Any]) -> Logging:
        new = Logging.__new__(Logging)
        nn.Module.__init__(new)
        memo[id(self)] = new
        for name, value in vars(self).items():
            vars(new)[name] = value if name == "file" else copy.deepcopy(value, memo)
        return new

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x).relu())
        return found


def test_a_module_that_can_only_copy_itself_does_so() -> None:
    model = Logging().eval()
    slim = graphprune.prune_model(model, 0.5, torch.randn(2, 3))
    assert slim.enter.out_features == 8 and slim.file is model.file
    model.file.close()
