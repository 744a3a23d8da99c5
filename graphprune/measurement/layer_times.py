"""How long each module takes by itself, without its submodules."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from graphprune.utils.evaluation import eagerly
from graphprune.utils.modules import named_modules
from graphprune.utils.timing import synchronize


def layer_seconds(model: nn.Module, run: Callable[[], Any], repeats: int) -> dict[str, float]:
    """By the path of each module that is called, the median of its own time in one run, in seconds.

    What a module computes outside of its submodules is its own, so that the times add up to that of the model.

    Args:
        model: in evaluation mode; the hooks are global ones, which leave no trace in it.
        run: calls the model.
        repeats: how many times.
    """
    clock = _Clock({id(module): path for path, module in named_modules(model)})
    with eagerly(), torch.no_grad():
        runs = [clock.timed(run) for _ in range(repeats)]
    return {path: statistics.median(own.get(path, 0.0) for own in runs) for path in runs[0]}


class _Clock:
    """Adds up the time between the beginnings and ends of calls; that of the hooks themselves is left out."""

    def __init__(self, paths: dict[int, str]) -> None:
        self.paths = paths
        self.thread = get_ident()
        self.own: dict[str, float] = {}
        self.stack: list[str] = []
        self.since = 0.0

    def timed(self, run: Callable[[], Any]) -> dict[str, float]:
        self.own, self.stack = {}, []
        hooks = (register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave))
        try:
            run()
        finally:
            for hook in hooks:
                hook.remove()
        return self.own

    def _enter(self, module: nn.Module, args: Any) -> None:
        if id(module) in self.paths:
            self._charge()
            self.stack.append(self.paths[id(module)])
            self.since = time.perf_counter()

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if id(module) in self.paths and self.stack:
            self._charge()
            self.stack.pop()
            self.since = time.perf_counter()

    def _charge(self) -> None:
        """The time since the last beginning or end is that of the innermost module."""
        if self.stack:
            synchronize()
            path = self.stack[-1]
            self.own[path] = self.own.get(path, 0.0) + time.perf_counter() - self.since
