"""A model that is lent: whatever happens meanwhile, its modes and gradients are afterwards as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from graphprune.eager import eagerly
from graphprune.modules import named_modules


def forget_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Free what ``.grad`` holds."""
    for parameter in parameters:
        parameter.grad = None


@contextmanager
def modes_kept(*models: nn.Module) -> Iterator[None]:
    """Training and evaluation modes of all submodules are afterwards as they were."""
    modes = [(module, module.training) for model in models for _, module in named_modules(model)]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def lent(*models: nn.Module) -> Iterator[None]:
    """Models in evaluation mode and without gradients; afterwards everything is as it was."""
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(_one(model))
        yield


@contextmanager
def watched(*models: nn.Module) -> Iterator[None]:
    """Lent models whose operations are all to be seen."""
    with eagerly(), lent(*models):
        yield


@contextmanager
def _one(model: nn.Module) -> Iterator[None]:
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        with modes_kept(model):
            torch.backends.mha.set_fastpath_enabled(False)
            model.eval()
            forget_gradients(p for p, _, _ in parameters)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for parameter, flag, gradient in parameters:
            parameter.requires_grad_(flag)
            parameter.grad = gradient
