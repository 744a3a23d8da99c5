"""What is global in torch and Python is as it was after a call, whatever ends it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from threading import get_ident
from traceback import clear_frames
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from graphprune.utils.collector import pauses
from graphprune.utils.mode_flags import Flags
from graphprune.utils.operators import DispatchMode
from graphprune.utils.random_state import random_state, set_random_state

_GLOBAL_STATE = threading.RLock()
P = ParamSpec("P")
Returned = TypeVar("Returned")


@contextmanager
def changing_globals() -> Iterator[None]:
    """Let one thread at a time change what is global in torch and Python, and restore it.

    Threads that restored in another order than they changed would leave the process changed for good. A signal that
    arrives while a context of torch is entered or left would leave its gradients off, or a mode on the stack: these are
    put back here too.
    """
    with _GLOBAL_STATE:
        thread, process, patches = _ThreadState.now(), _ProcessState.now(), len(_patches)
        try:
            yield
        except BaseException:
            for patch in reversed(_patches[patches:]):
                patch.undo()
            thread.put_back()
            process.put_back()
            raise


@contextmanager
def patched(owner: Any, **attributes: Any) -> Iterator[None]:
    """Other attributes in the place of those of a module or class, within :func:`changing_globals`."""
    made = [_Patch(owner, name, vars(owner).get(name, _Patch)) for name in attributes]
    _patches.extend(made)
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for patch in reversed(made):
            patch.undo()


@dataclass(frozen=True, eq=False)
class _Patch:
    """An attribute that was replaced; ``before`` is this class if it was inherited."""

    owner: Any
    name: str
    before: Any

    def undo(self) -> None:
        """Put back what was there, unless that was done."""
        if self not in _patches:
            return
        if self.before is _Patch and self.name in vars(self.owner):
            delattr(self.owner, self.name)
        elif self.before is not _Patch:
            setattr(self.owner, self.name, self.before)
        _patches.remove(self)


_patches: list[_Patch] = []
"""What is replaced now."""


def leaves_torch_alone(function: Callable[P, Returned]) -> Callable[P, Returned]:
    """A public function that leaves gradients, modes and random numbers as they were where it does not end.

    Contexts restore what they change, but not if a signal arrives while they, or those in the user's own code, are
    entered or left. The outermost of public functions that call each other sees to it.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Returned:
        if getattr(_within, "public", False):
            return function(*args, **kwargs)
        thread, random, handled = _ThreadState.now(), random_state(), sys.exc_info()[1]
        marks = [frozenset(table) for table in _HOOK_MARKS]
        try:
            _within.public = True
            return function(*args, **kwargs)
        except BaseException as error:
            if not isinstance(error, Exception):
                _end_contexts(error, handled)
            thread.put_back()
            _remove_hooks_of(get_ident(), marks)
            pauses.end_all_of(get_ident())
            set_random_state(random)
            raise
        finally:
            _within.public = False

    return call


def _end_contexts(error: BaseException, handled: BaseException | None) -> None:
    """End the contexts that an error broke off, which would end later, and restore again; ``handled``: what the caller
    was handling, whose frames are the caller's."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = {id(handled)}
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            clear_frames(one.__traceback__)
            waiting += [one.__context__, one.__cause__]


_within = threading.local()
"""``public``: has this thread called a public function that has not ended?"""


@dataclass(frozen=True)
class _ThreadState:
    """Whether gradients are on in this thread, and how many modes see its operations and functions."""

    gradients: bool
    dispatch_modes: int
    function_modes: int
    mode_flags: Flags

    @staticmethod
    def now() -> _ThreadState:
        modes = torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
        return _ThreadState(torch.is_grad_enabled(), *modes, DispatchMode.overlapping.flags_without())

    def put_back(self) -> None:
        """Make it so again; modes that were there stay."""
        found = self.now()
        modes = _get_current_dispatch_mode_stack()  # torch 2.8 crashes if nothing else holds a mode that is popped
        for mode in modes[self.dispatch_modes :]:
            torch._C._pop_torch_dispatch_stack(None)
            DispatchMode.overlapping.end(mode)
        DispatchMode.overlapping.end_all_of(get_ident(), self.mode_flags)
        for _ in range(found.function_modes - self.function_modes):
            torch._C._pop_torch_function_stack()
        torch.set_grad_enabled(self.gradients)


_HOOK_MARKS = (
    nn.modules.module._global_forward_hooks_with_kwargs,
    nn.modules.module._global_forward_hooks_always_called,
)
"""How torch calls hooks of all modules, by their numbers. While there is a mark, it warns that there are hooks."""


def _remove_hooks_of(thread: int, marks: Sequence[frozenset[int]]) -> None:
    """Remove the hooks of all modules that objects of this package registered for a thread that is done.

    Args:
        thread: by its identity.
        marks: those in each table of :data:`_HOOK_MARKS` that were there before. Others without a hook are left from
            one whose removal a signal broke off.
    """
    hooks = nn.modules.module._global_forward_hooks
    tables: Any = (nn.modules.module._global_forward_pre_hooks, hooks)
    for table in tables:
        for key, hook in list(table.items()):
            owner = getattr(hook, "__self__", None)
            if type(owner).__module__.startswith("graphprune.") and getattr(owner, "thread", None) == thread:
                table.pop(key, None)
    for marked, before in zip(_HOOK_MARKS, marks, strict=True):
        for key in marked.keys() - before - hooks.keys():
            marked.pop(key, None)


@dataclass(frozen=True)
class _ProcessState:
    """What one thread at a time changes for all: the default type, and which kernels run."""

    default_type: torch.dtype
    fast_attention: bool
    onednn: bool
    cudnn: bool

    @staticmethod
    def now() -> _ProcessState:
        return _ProcessState(
            torch.get_default_dtype(),
            torch.backends.mha.get_fastpath_enabled(),
            torch._C._get_mkldnn_enabled(),
            torch._C._get_cudnn_enabled(),
        )

    def put_back(self) -> None:
        torch.set_default_dtype(self.default_type)
        torch.backends.mha.set_fastpath_enabled(self.fast_attention)
        torch._C._set_mkldnn_enabled(self.onednn)
        torch._C._set_cudnn_enabled(self.cudnn)
