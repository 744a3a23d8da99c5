"""How long models take, side by side: eagerly and compiled, with several batch sizes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from graphprune.measurement.batch_resizing import batch_size, with_batch_size
from graphprune.measurement.records import Latency, latency_label
from graphprune.tracing.inputs import MethodCall
from graphprune.utils.evaluation import eagerly
from graphprune.utils.timing import timed_turns

SHORTEST_TIMED = 0.2
"""Seconds for which each model is timed, at least."""


LONGEST_REASON = 300


@dataclass(frozen=True)
class TimingOptions:
    """How models are timed.

    Attributes:
        batch_sizes: those that are timed besides that of the example inputs.
        batch_dim: which dimension of the inputs the batch is; None: nobody knows, so that no size is told.
        compiled: also by ``torch.compile``.
        repeats: how many times each is called, at least.
        warmup: how many times each is called first, not counted.
    """

    batch_sizes: tuple[int, ...] = ()
    batch_dim: int | None = None
    compiled: bool = False
    repeats: int = 10
    warmup: int = 3

    def batches(self, calls: Sequence[MethodCall]) -> dict[int | None, Sequence[MethodCall]]:
        """The calls of each batch size; first as they are."""
        if self.batch_dim is None:
            return {None: calls}
        now = batch_size(calls, self.batch_dim)
        others = [size for size in self.batch_sizes if size != now]
        return {now: calls, **{size: with_batch_size(calls, self.batch_dim, size) for size in others}}


def run_calls(model: Callable[..., Any], calls: Sequence[MethodCall]) -> None:
    """All calls, one after the other."""
    for call in calls:
        call.run_afresh(model)


def latencies(
    models: Mapping[str, nn.Module], calls: Sequence[MethodCall], options: TimingOptions
) -> tuple[dict[str, list[Latency]], dict[str, dict[str, str]]]:
    """The latencies of each model, timed in turns, and why some are missing, by what they are of.

    Args:
        models: by name, in evaluation mode; they run on ``calls``.
    """
    found: dict[str, list[Latency]] = {name: [] for name in models}
    missing: dict[str, dict[str, str]] = {name: {} for name in models}
    for mode in ("eager", "compiled") if options.compiled else ("eager",):
        for batch, same in options.batches(calls).items():
            with _MODES[mode](), torch.no_grad():
                runs, failures = _started(models, mode, same)
                timed = _timed(list(runs.values()), options)
            for name, seconds in zip(runs, timed, strict=True):
                found[name].append(_latency(mode, batch, seconds))
            for name, reason in failures.items():
                missing[name][latency_label(mode, batch)] = reason
    return found, missing


@contextmanager
def _compiled() -> Iterator[None]:
    """Compile for each size anew, as often as is needed: else what is called compiled would silently be eager."""
    from torch._dynamo import config

    with config.patch(recompile_limit=1 << 10, accumulated_recompile_limit=1 << 12):
        yield


_MODES: dict[str, Callable[[], AbstractContextManager[None]]] = {"eager": eagerly, "compiled": _compiled}


def _started(
    models: Mapping[str, nn.Module], mode: str, calls: Sequence[MethodCall]
) -> tuple[dict[str, Callable[[], None]], dict[str, str]]:
    """What runs each model, after it has run once; and why others fail."""
    runs: dict[str, Callable[[], None]] = {}
    failures = {}
    for name, model in models.items():
        try:
            run = partial(run_calls, _in_mode(model, mode), calls)
            run()
        except Exception as error:
            failures[name] = in_one_line(error)
        else:
            runs[name] = run
    return runs, failures


def _in_mode(model: nn.Module, mode: str) -> Callable[..., Any]:
    if mode == "eager" or isinstance(model, torch._dynamo.OptimizedModule):
        return model
    compiled: Callable[..., Any] = torch.compile(model, dynamic=False)
    return compiled


def _timed(runs: Sequence[Callable[[], None]], options: TimingOptions) -> list[list[float]]:
    """The seconds of each counted call."""
    if not runs:
        return []
    turns = timed_turns(*runs, shortest=SHORTEST_TIMED, least=options.repeats, warmup=options.warmup)
    return [[seconds for turn in found for seconds in turn] for found in turns]


def _latency(mode: str, batch: int | None, seconds: list[float]) -> Latency:
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return Latency(mode, batch, median, low, high, len(seconds))


def in_one_line(error: Exception) -> str:
    """An exception in one line, its beginning if it is a long one."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 3]}..."
