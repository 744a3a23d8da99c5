"""Name the operation that keeps a model from running in float64, in which models are compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from graphprune.errors import NoFloat64Error
from graphprune.graph.analysis import Analysis
from graphprune.pruning.own_types import fails
from graphprune.pruning.wide_run import run_slim
from graphprune.tracing.places import raised_at
from graphprune.utils.operators import Args, DispatchMode, Kwargs, short_name


class _Failing(DispatchMode):
    """Note the operation that raised last."""

    def __init__(self) -> None:
        super().__init__()
        self.operation = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.operation = short_name(func)
            raise


@contextmanager
def float64_required(graph: Analysis) -> Iterator[None]:
    """Where what runs within fails because the analyzed model cannot run in float64, say so.

    Raises:
        NoFloat64Error: the model runs in its own types, and fails in float64.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception:
        _require_float64(graph)
        raise


def _require_float64(graph: Analysis) -> None:
    failing = _Failing()
    try:
        with failing:
            run_slim(graph.model, graph.examples)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind, as forward is the user's
        if fails(graph.model, graph.examples):
            return
        raise _no_float64(graph, failing.operation, error) from error


def _no_float64(graph: Analysis, operation: str, error: Exception) -> NoFloat64Error:
    model = type(graph.model).__name__
    return NoFloat64Error(
        f"model: {operation or model + '.forward'} does not run in float64 on the CPU, in which models are compared",
        where=raised_at(error) or model,
        found=f"{type(error).__name__}: {error}",
        needed="operations and functions that take float64 on the CPU",
        do="give the operation an implementation for float64 on the CPU (one that computes in float32 needs "
        "tolerance=1e-5); a plan can be applied without verify",
    )
