"""What is global is changed by one thread at a time, restored, and not noticed by threads that run other models."""

from __future__ import annotations

import gc
import math
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

import graphprune
from graphprune.tracing.opaque import ReadTensors
from graphprune.utils.collector import pauses
from graphprune.utils.global_state import changing_globals, leaves_torch_alone, patched
from graphprune.utils.mode_flags import mode_flags
from graphprune.utils.operators import FunctionMode

ROUNDS = 6


def global_state() -> list[Any]:
    module = nn.modules.module
    return [
        torch.get_default_dtype(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.is_grad_enabled(),
        torch.finfo,
        torch.jit.ScriptFunction.__call__,
        math.log,
        np.prod,
        F.has_torch_function,
        F.has_torch_function_unary,
        gc.isenabled(),
        list(warnings.filters),
        [*module._global_forward_pre_hooks.values(), *module._global_forward_hooks.values()],
        mode_flags(),
    ]


def in_threads(jobs: list[Callable[[], None]]) -> None:
    """Run all at once; the first error of any is raised."""
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # an assertion too
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class Tagged(Tensor):
    """A tensor that is watched by its class, as torch functions must go on noticing in other threads."""

    seen = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen += func is F.relu
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("name", ["enter", "leave"])
def test_a_signal_between_a_hook_and_its_context_leaves_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)).eval(), torch.randn(2, 5)
    kind = "forward_pre_hook" if name == "enter" else "forward_hook"
    register = getattr(nn.modules.module, f"register_module_{kind}")

    def interrupted(*args: Any, **kwargs: Any) -> None:
        register(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.modules.module, f"register_module_{kind}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graphprune.prune_model(model, 0.5, x)
    monkeypatch.undo()
    hooks = nn.modules.module
    assert not (hooks._global_forward_pre_hooks or hooks._global_forward_hooks)
    assert not hooks._global_forward_hooks_with_kwargs
    assert graphprune.prune_model(model, 0.5, x)


HOOK_TABLES = ("pre_hooks", "hooks", "hooks_with_kwargs", "hooks_always_called")


@pytest.mark.parametrize("taken", range(1, 5))
def test_a_signal_while_a_hook_is_removed_leaves_no_mark(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It arrives while torch takes a hook from one of its tables after the other."""
    model, x, module = nn.Linear(5, 3).eval(), torch.randn(2, 5), nn.modules.module
    graphprune.trace(model, x)
    tables = [getattr(module, f"_global_forward_{name}") for name in HOOK_TABLES]
    before, removals = [dict(table) for table in tables], count(1)
    remove = RemovableHandle.remove

    def interrupted(handle: RemovableHandle) -> None:
        number = next(removals)
        if number == 2 and taken > 2:  # the hook is gone, and its mark is not
            module._global_forward_hooks.pop(handle.id, None)
        if number == 2 and taken > 3:
            module._global_forward_hooks_always_called.pop(handle.id, None)
        if number == min(taken, 2):
            raise KeyboardInterrupt
        remove(handle)

    monkeypatch.setattr(RemovableHandle, "remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graphprune.trace(model, x)
    monkeypatch.undo()
    assert [dict(table) for table in tables] == before


def test_a_signal_while_a_mode_is_entered_leaves_no_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    before, entered = mode_flags(), TorchDispatchMode.__enter__

    def interrupted(mode: TorchDispatchMode) -> None:
        pushed = entered(mode)
        torch._C._pop_torch_dispatch_stack(None)
        raise KeyboardInterrupt(pushed)

    monkeypatch.setattr(TorchDispatchMode, "__enter__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graphprune.prune_model(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)), 0.5, torch.randn(2, 5))
    assert mode_flags() == before


class Passing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_contexts_that_end_late_take_no_other_mode_off_the_stack() -> None:
    class Late(FunctionMode, Passing):
        pass

    late = Late()
    late.__enter__()  # type: ignore[no-untyped-call]
    torch._C._pop_torch_function_stack()
    with Passing() as other:
        late.__exit__(None, None, None)
        assert torch._C._get_function_stack_at(0) is other
    assert not torch._C._len_torch_function_stack()


def test_a_signal_within_a_pause_lets_the_collector_go_on() -> None:
    @leaves_torch_alone
    def interrupted() -> None:
        pauses.begin()
        raise KeyboardInterrupt

    assert gc.isenabled()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert gc.isenabled()


def test_threads_prune_while_another_infers() -> None:
    x, image = torch.randn(2, 5), torch.randn(1, 3, 8, 8)
    graphprune.prune_model(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)), 0.5, x)  # modules that are imported late
    before = global_state()
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    expected = other(image)
    done = threading.Event()
    running = [2]

    def prune(width: int) -> Callable[[], None]:
        def job() -> None:
            try:
                for _ in range(ROUNDS):
                    model = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 3)).float().eval()
                    plan = graphprune.trace(model, x).plan(0.5)
                    slim = plan.apply(model)
                    assert slim.get_submodule("0").weight.shape == (width // 2, 5)
                    assert graphprune.verify(model, slim, plan, x).passed
                    assert graphprune.trace(model, x).trace.modules.keys() == {"", "0", "1", "2"}
            finally:
                running[0] -= 1
                if not running[0]:
                    done.set()

        return job

    def infer() -> None:
        while not done.is_set():
            assert torch.allclose(other(image), expected, atol=1e-6)
            seen = Tagged.seen
            F.relu(image.as_subclass(Tagged))
            assert Tagged.seen == seen + 1

    in_threads([prune(16), prune(24), infer])
    assert [a == b for a, b in zip(global_state(), before, strict=True)] == [True] * len(before)


class Unseeing(TorchDispatchMode):
    """A mode that is put on the stack and left there."""


def test_what_an_interruption_leaves_of_torch_is_put_back() -> None:
    """As if a signal had arrived while a context of torch was entered."""

    def interrupted() -> None:
        with changing_globals():
            Unseeing().__enter__()
            torch.device("meta").__enter__()
            torch.set_grad_enabled(True)
            raise KeyboardInterrupt

    with torch.no_grad():
        modes = torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()) == modes
        assert not torch.is_grad_enabled()
    assert torch.ones(1).device.type == "cpu"
    assert not any(mode_flags().values())


@pytest.mark.parametrize("outer", [False, True])
def test_modes_that_do_not_end_as_a_stack_leave_torch_alone(outer: bool) -> None:
    """As in threads: torch notes for all of them whether a mode is on, and then compiles nothing."""
    first, second = ReadTensors(), ReadTensors()
    with Unseeing() if outer else nullcontext():
        before = mode_flags()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert mode_flags() == before
        assert set(before.values()) == {outer}
    assert not any(mode_flags().values())


def test_repair_with_several_batches_leaves_torch_alone() -> None:
    """Their passes wait for one another, each in its thread and under its mode."""
    model, batches = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).eval(), list(torch.randn(3, 4, 5))
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    graphprune.repair(plan.apply(model), model, plan, batches)
    assert not any(mode_flags().values())


def test_a_public_function_leaves_torch_alone_where_it_does_not_end() -> None:
    """As if a signal had arrived while a context of the user's own evaluation was entered."""

    def evaluate(model: nn.Module) -> float:
        torch.set_grad_enabled(False)
        torch.device("meta").__enter__()
        torch.rand(1)
        np.random.rand()
        raise KeyboardInterrupt

    model, x = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)), torch.randn(2, 5)
    graph = graphprune.trace(model, x)
    drawn, modes = torch.get_rng_state(), torch._C._len_torch_function_stack()
    numbers = np.random.get_state()[2]
    with pytest.raises(KeyboardInterrupt):
        graph.sensitivity(evaluate, (0.5,))
    assert torch.is_grad_enabled()
    assert torch._C._len_torch_function_stack() == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert np.random.get_state()[2] == numbers


def test_every_public_function_does() -> None:
    settings = ("across_processes", "budget_kind", "check_rule", "criterion", "load_checkpoint", "load_sparse", "rule")
    others = {*settings, "save_checkpoint", "save_sparse", "sparsity_of", "to_semi_structured"}
    public = {name: getattr(graphprune, name) for name in graphprune.__all__}
    functions = {name: one for name, one in public.items() if callable(one) and not isinstance(one, type)}
    unguarded = {n for n, f in functions.items() if f.__code__ is not leaves_torch_alone(f).__code__}
    assert {name for name in unguarded if not name.startswith("plot_")} == others


def test_what_an_interruption_leaves_of_the_process_is_put_back() -> None:
    def interrupted() -> None:
        with changing_globals():
            patched(math, log=math.log2, prod=None).__enter__()
            torch.set_default_dtype(torch.float64)
            torch.backends.mha.set_fastpath_enabled(False)
            raise KeyboardInterrupt

    before = global_state()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert global_state()[:2] == before[:2]
    assert math.log(1) == 0 and math.log(8) < 2.5
    assert math.prod([2, 3]) == 6
