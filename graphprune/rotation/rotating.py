"""Rotate residual streams: the channels become the principal components of what they carry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.observer import Observer
from graphprune.calibration.statistics import Statistics
from graphprune.errors import PlanError, VerificationError
from graphprune.graph.analysis import Analysis, analyze
from graphprune.pruning.comparison import difference
from graphprune.pruning.float64 import wide_module
from graphprune.pruning.no_float64 import float64_required
from graphprune.pruning.wide_run import run_slim
from graphprune.rotation.streams import Held, Stream, find_streams
from graphprune.rotation.turned_weights import fold_gains, turn, with_tensors
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.running import Outputs
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_tensors import require_values
from graphprune.utils.modules import named_tensors

FARTHEST = 1e-10
"""The largest relative difference of outputs in float64 that counts as none."""


@leaves_torch_alone
def rotate_streams(
    model: nn.Module, calibration: Iterable[Any], example_inputs: Any = None, *, outputs: Outputs | None = None
) -> nn.Module:
    """A copy with equal outputs, whose residual streams have their principal components as channels.

    The weights that write a stream are multiplied with an orthogonal matrix and those that read it with its inverse,
    which root mean square normalizations in between do not notice; their scales are folded into the weights that read
    their results, and are ones afterwards. The matrix has the eigenvectors of the second moments of what is read, on
    calibration batches, the largest eigenvalue first: the last channels carry least, so that
    ``trace(rotated, x).plan(width=0.25)`` takes little.

    Streams are sums of tensors with the same channels; each has a matrix of its own. One that something else reads or
    writes channel by channel (LayerNorm, an entrywise function, the model's result) stays as it is. Copies of the model
    in float64 are made, several times its memory.

    Source: Ashkboos, Croci, Gennari do Nascimento, Hoefler and Hensman, "SliceGPT: Compress Large Language Models by
    Deleting Rows and Columns", ICLR 2024 (here with one matrix for a whole stream, so that residual connections need
    none).

    Args:
        model: any module with weights; unchanged.
        calibration: batches without targets, as for :func:`graphprune.repair`; they are run once.
        example_inputs, outputs: as for :func:`graphprune.trace`.

    Raises:
        InputError: the weights are on ``meta``, or the model fails on a batch.
        NoFloat64Error: an operation of the model does not run in float64 on the CPU.
        PlanError: no stream can be turned; the message says what holds the widest one.
        VerificationError: the outputs on the example inputs, in float64, are others.
    """
    graph = analyze(model, example_inputs, outputs)
    require_values("model", named_tensors(graph.model), "turn")
    streams, held = find_streams(graph)
    if not streams:
        raise _nothing_turns(graph, held)
    wide = fold_gains(wide_module(graph.model), streams)
    names = {name for stream in streams for name in (*(name for name, _ in stream.roles), *stream.gains)}
    folded = _narrowed(graph.model, wide, names)
    rotated = turn(wide, list(zip(streams, _bases(graph, folded, streams, calibration), strict=True)))
    _check_equal(graph, rotated, outputs)
    return _narrowed(graph.model, rotated, names)


def _narrowed(model: nn.Module, wide: nn.Module, names: set[str]) -> nn.Module:
    """A copy of a model with values of another one, which has them in float64."""
    return with_tensors(model, {name: tensor for name, tensor in named_tensors(wide) if name in names})


def _bases(graph: Analysis, folded: nn.Module, streams: Sequence[Stream], calibration: Iterable[Any]) -> list[Tensor]:
    """For each stream the principal components of what is read from it, the largest first. f64[width, width] each"""
    readers = [[readers[0] for readers in stream.reads.values()] for stream in streams]
    tensors = {name: t for name, t in named_tensors(folded) if any(name == n for some in readers for n, _ in some)}
    statistics = Statistics(folded, graph.units, calibration)
    observer = Observer(tensors, graph.units, products=True, kernel_positions=False)
    statistics.each_forward(observer.batch)
    observer.pool(statistics.communicator, next(iter(tensors.values())).device)
    found = {axis: one.inputs.second.sum(0) for one in observer.consumers for axis in one.axes}
    moments = [[found[axis] for axis in (ParameterAxis(*one) for one in some) if axis in found] for some in readers]
    return [_components(some, stream.width) for some, stream in zip(moments, streams, strict=True)]


def _components(moments: Sequence[Tensor], width: int) -> Tensor:
    """The eigenvectors of the sum of second moments, each in proportion to its trace. f64[width, width]"""
    total = torch.zeros(width, width, dtype=torch.float64, device="cpu")
    for one in moments:
        total += one.double().cpu() / one.trace().double().cpu().clamp(min=torch.finfo(torch.float64).tiny)
    vectors: Tensor = torch.linalg.eigh(total)[1]
    return vectors.flip(1)


def _check_equal(graph: Analysis, rotated: nn.Module, outputs: Outputs | None) -> None:
    """Raise a VerificationError unless the outputs in float64 are those of the original."""
    pair = (wide_module(graph.model), rotated)
    with float64_required(graph):
        before, after = (run_slim(one, graph.examples, outputs=outputs) for one in pair)
    apart = difference(before, after)
    if not apart.relative <= FARTHEST:
        raise VerificationError(
            f"model: rotated, it gives other outputs (a relative difference of {apart.relative:.1e} in float64)",
            where=type(graph.model).__name__,
            found=f"a relative difference of {apart.relative:.1e} over {apart.compared} outputs",
            needed=f"at most {FARTHEST:.0e}",
            do="report the model: something reads channels of the stream in a way that was not seen; prune its width "
            "as it is",
        )


def _nothing_turns(graph: Analysis, held: Sequence[Held]) -> PlanError:
    widest = max(held, key=lambda one: one.width, default=None)
    return PlanError(
        f"model: {type(graph.model).__name__} has no residual stream that can be turned"
        + (f": {widest.reason}" if widest is not None else ""),
        where=widest.where if widest is not None else type(graph.model).__name__,
        found=widest.reason if widest is not None else "no sum of two activations with the same channels",
        needed="sums of what linear layers and embeddings make, read through root mean square normalizations or by "
        "linear layers, with weights of their own",
        do="prune the width as it is, graph.plan(width=0.25); where an embedding is tied to the head, give the head a "
        "copy: model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())",
    )
