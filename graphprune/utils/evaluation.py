"""Contexts in which models run: eagerly, for evaluation, without what would hide or change their operations."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn

from graphprune.utils.global_state import changing_globals, patched
from graphprune.utils.modules import named_modules
from graphprune.utils.switches import evaluation_mode


@contextmanager
def eagerly() -> Iterator[None]:
    """Run models eagerly and outside inference mode, also where their own code goes into it.

    Compiled code hides its operations from hooks and dispatch modes. In inference mode operations are not decomposed
    before a dispatch mode sees them, and tensors that are made can never be trained.
    """
    with changing_globals(), ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            gradients = torch.is_grad_enabled()
            stack.enter_context(torch.inference_mode(False))  # which would turn gradients on
            stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(_without_gradients_instead())
        if "torch._dynamo" in sys.modules:  # nothing was compiled before it is loaded, which takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        yield


@contextmanager
def _without_gradients_instead() -> Iterator[None]:
    """What this thread does in ``torch.inference_mode()``, it does without gradients only."""
    kind, thread = torch.inference_mode, get_ident()
    enter, leave = kind.__enter__, kind.__exit__

    def without_gradients(mode: torch.inference_mode) -> None:
        if get_ident() != thread:
            enter(mode)
            return
        vars(mode).setdefault(_BEFORE, []).append(torch.is_grad_enabled())
        torch.set_grad_enabled(not mode.mode)

    def as_before(mode: torch.inference_mode, *error: Any) -> None:
        before = vars(mode).get(_BEFORE)
        if not before or get_ident() != thread:
            leave(mode, *error)
        else:
            torch.set_grad_enabled(before.pop())

    with patched(kind, __enter__=without_gradients, __exit__=as_before):
        yield


_BEFORE = "_gradients_before"
"""Of a mode, whether there were gradients before it, each time that it was entered."""


def clear_gradients(parameters: Iterable[torch.Tensor]) -> None:
    """Set ``.grad`` to None."""
    for parameter in parameters:
        parameter.grad = None


@contextmanager
def preserve_modes(*models: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of every submodule at the end."""
    modes = [(module, module.training) for model in models for _, module in named_modules(model)]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Put models in evaluation mode, without gradients, hooks of these and fused attention; restore that at the end."""
    with changing_globals(), ExitStack() as stack:
        for model in models:
            stack.enter_context(_evaluating_one(model))
        yield


@contextmanager
def evaluating_eagerly(*models: nn.Module) -> Iterator[None]:
    """The same, uncompiled and in the precision of the weights, so that dispatch modes see every operation on them."""
    with eagerly(), _without_autocast(), evaluating(*models), ExitStack() as stack:
        modules = [module for model in models for _, module in named_modules(model)]
        if any(isinstance(module, nn.RNNBase) for module in modules):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # it runs whole recurrent layers at once
        if any(isinstance(module, nn.LSTM) for module in modules):
            stack.enter_context(without_onednn())
        yield


@contextmanager
def without_onednn() -> Iterator[None]:
    """Run recurrent layers step by step, where oneDNN would run a layer as one operation."""
    switch: Any = torch.backends.mkldnn
    enabled, switch.enabled = switch.enabled, False
    try:
        yield
    finally:
        switch.enabled = enabled


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Leave the caller's autocast: it would compute with copies of the weights."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def _evaluating_one(model: nn.Module) -> Iterator[None]:
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    hooks = [taken for p, _, _ in parameters for taken in _take_gradient_hooks(p)]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        with evaluation_mode(model):
            torch.backends.mha.set_fastpath_enabled(False)
            clear_gradients(p for p, _, _ in parameters)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for parameter, flag, gradient in parameters:
            if parameter.requires_grad != flag:  # it cannot be set in a tensor of inference mode
                parameter.requires_grad_(flag)
            parameter.grad = gradient
        for table, taken in hooks:
            table.update(taken)


def _take_gradient_hooks(parameter: nn.Parameter) -> list[tuple[dict[int, Any], dict[int, Any]]]:
    """Tables of the hooks that a parameter's gradient calls, which are emptied, and what was in them.

    One may step an optimizer. torch keeps the table of those that come after the gradient, whatever the attribute is.
    """
    tables = [t for t in (parameter._backward_hooks, parameter._post_accumulate_grad_hooks) if t]
    taken = [(table, dict(table)) for table in tables]
    for table in tables:
        table.clear()
    return taken
