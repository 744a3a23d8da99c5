"""The samples of a calibration batch, so that what is computed from them does not depend on how they are batched."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import BatchedSamplesWarning
from graphprune.tracing.inputs import describe
from graphprune.tracing.meta import is_float
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.tree import as_dense, map_tensors, tensors_of

LossOfCall = Callable[[int, Any], tuple[Any, Tensor]]
"""``(number, call) -> (output, loss)`` of a batch, given as (positional arguments, keyword arguments, target)."""


@dataclass(frozen=True)
class SampleAxes:
    """Where the samples of a batch lie.

    Attributes:
        count: the number of samples.
        dims: for each tensor of the batch, in order, its dimension of samples; None: the same for every sample.
    """

    count: int
    dims: tuple[int | None, ...]

    @staticmethod
    def of(call: Any, dim: int) -> SampleAxes | None:
        """The axes if the first tensor with a dimension ``dim`` has its samples there; None if there is no such tensor.

        Tensors that do not have as many entries in this dimension, and do in the first (a target beside inputs whose
        first dimension is time), have them there.
        """
        sizes: list[tuple[int, ...]] = []
        map_tensors(lambda t: sizes.append(tuple(t.shape)), call)
        count = next((size[dim] for size in sizes if len(size) > dim), 0)
        if not count:
            return None
        return SampleAxes(
            count, tuple(next((d for d in (dim, 0) if size[d : d + 1] == (count,)), None) for size in sizes)
        )

    def sample(self, call: Any, index: int) -> Any:
        """One sample, as a batch of its own."""
        return self.samples(call, index, 1)

    def samples(self, call: Any, start: int, count: int) -> Any:
        """``count`` samples from ``start`` on, as a batch."""
        dims = iter(self.dims)

        def narrowed(tensor: Tensor) -> Tensor:
            dim = next(dims)
            return tensor if dim is None else _narrowed(tensor, dim, start, count)

        return map_tensors(narrowed, call)

    def twice(self, call: Any) -> Any:
        """A batch that has its samples twice."""
        dims = iter(self.dims)

        def doubled(tensor: Tensor) -> Tensor:
            dim = next(dims)
            return tensor if dim is None else torch.cat([tensor, tensor], dim)

        return map_tensors(doubled, call)


def _narrowed(tensor: Tensor, dim: int, start: int, count: int) -> Tensor:
    """Entries along a dimension: a view, or of a sparse tensor a copy in its layout."""
    if tensor.layout is torch.strided:
        return tensor.narrow(dim, start, count)
    narrowed: Tensor = tensor.to_sparse_coo().narrow_copy(dim, start, count)
    return narrowed if tensor.layout is torch.sparse_coo else narrowed.to_sparse(layout=tensor.layout)


def spread_numbers(batches: Sequence[Any], wanted: int, least: int = 1, most: int = sys.maxsize) -> list[int]:
    """The numbers of batches at even distances that have about so many samples together.

    Args:
        batches: with their samples in the first dimension; one without a tensor counts as one sample.
        wanted: how many samples; all batches if they have no more.
        least, most: how many batches at least, if there are so many, and at most.
    """
    samples = sum(1 if (axes := SampleAxes.of(batch, 0)) is None else axes.count for batch in batches)
    share = min(wanted / max(samples, 1), 1.0)
    count = min(max(round(len(batches) * share), least), most, len(batches))
    return [i * len(batches) // count for i in range(count)]


class SampleSplitter:
    """Splits batches into samples, each a batch of its own.

    Samples lie along the first dimension, or the second (recurrent networks with time first). Which one is checked on
    the first batch of each shape: every sample alone must give its part of the batch's output, and the batch's loss
    must be the sum or a weighted mean of theirs; a single one in the second dimension (it may as well be the channel of
    gray images) must give the same with another beside it. Where neither holds (outputs or losses compare samples with
    each other), a batch is one sample, with a warning.

    Args:
        run: the model's output and loss for a batch.
    """

    def __init__(self, run: LossOfCall) -> None:
        self._run = run
        self._axes: dict[str, SampleAxes | None] = {}
        self._warned = False

    def samples(self, number: int, call: Any) -> Iterator[Any]:
        """The samples of batch ``number``, each given as a batch of its own.

        Warns:
            BatchedSamplesWarning: samples cannot be told apart.
        """
        shapes = describe(call)
        if shapes not in self._axes:
            self._axes[shapes] = self._found(number, call)
        axes = self._axes[shapes]
        if axes is None:
            yield call
        else:
            for index in range(axes.count):
                yield axes.sample(call, index)

    @torch.no_grad()
    def _found(self, number: int, call: Any) -> SampleAxes | None:
        first = SampleAxes.of(call, 0)
        if first is not None and first.count == 1:
            return first
        whole = self._run(number, call)
        reasons = []
        for axes in (first, SampleAxes.of(call, 1)):
            if axes is not None:
                why = self._objection(axes, number, call, *whole)
                if why is None:
                    return axes
                reasons.append(why)
        self._warn(number, "; ".join(reasons) or "it has no tensor")
        return None

    def _warn(self, number: int, why: str) -> None:
        """Warn of the first batch whose samples cannot be told apart."""
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"calibration: the samples of batch {number} cannot be told apart ({why}), so the gradient of its "
                "whole loss is taken, and scores depend on how samples are batched; pass batches of one sample",
                BatchedSamplesWarning,
                stacklevel=frames_of_this_package(),
            )

    def _objection(self, axes: SampleAxes, number: int, call: Any, output: Any, loss: Tensor) -> str | None:
        """Why these are not the axes of samples; None if they are."""
        if axes.count == 1:
            return self._objection_to_one(axes, number, call, output)
        losses = []
        for index in range(axes.count):
            try:
                own, value = self._run(number, axes.sample(call, index))
            except Exception as error:  # of a model that was run on the whole batch: these are no samples
                return f"{_place(axes)}, one sample alone fails: {type(error).__name__}: {error}".partition("\n")[0]
            if not _is_part(own, output, index, axes.count):
                return f"{_place(axes)}, the output of one sample depends on others"
            losses.append(float(value))
        combined = _is_combination(float(loss), losses, _tolerance(loss))
        return None if combined else f"{_place(axes)}, the loss is no sum or mean over samples"

    def _objection_to_one(self, axes: SampleAxes, number: int, call: Any, output: Any) -> str | None:
        """Why the only entry in a dimension is no sample; None if a second one beside it changes nothing."""
        place = f"{_place(axes)}, with another beside it"
        try:
            both, _ = self._run(number, axes.twice(call))
        except Exception as error:  # of a model that was run on the batch: this is no dimension of samples
            return f"{place} the model fails: {type(error).__name__}: {error}".partition("\n")[0]
        return None if _is_part(output, both, 0, 2) else f"{place} the output is another"


def _place(axes: SampleAxes) -> str:
    return f"split into {axes.count} along dimension {next(d for d in axes.dims if d is not None)}"


def _is_part(own: Any, whole: Any, index: int, count: int) -> bool:
    """Whether the output of a sample alone is that of the sample in its batch; scalars are not compared."""
    pairs = list(zip(map(as_dense, tensors_of(own)), map(as_dense, tensors_of(whole)), strict=False))
    return all(is_part(a, b, index, 1, count) for a, b in pairs if a.ndim and b.ndim and a.is_floating_point())


def is_part(own: Tensor, whole: Tensor, start: int, taken: int, count: int) -> bool:
    """Whether one output of ``taken`` samples alone is theirs in a batch of ``count``, in which they begin at one."""
    if own.shape == whole.shape and _close(own, whole):
        return True  # the same for every sample, or the only one
    places = [d for d in range(own.ndim) if own.ndim == whole.ndim and whole.shape[d] * taken == own.shape[d] * count]
    parts = (whole.narrow(d, start * own.shape[d] // taken, own.shape[d]) for d in places)
    return any(part.shape == own.shape and _close(own, part) for part in parts)


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape differ by rounding only; whole numbers and truth values do not round."""
    if not is_float(a):
        return torch.equal(a, b)
    scale = float(b.abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=0, atol=_tolerance(a) * scale, equal_nan=True)


def _tolerance(tensor: Tensor) -> float:
    """The relative difference that another batch size may make by rounding."""
    return float(torch.finfo(tensor.dtype).eps ** 0.5)


def _is_combination(loss: float, parts: list[float], tolerance: float) -> bool:
    """Whether a loss is the sum or a weighted mean of others, of which NaN has no weight."""
    known = [part for part in parts if part == part]
    if not known or loss != loss:
        return True
    room = tolerance * max(map(abs, known))
    return min(known) - room <= loss <= max(known) + room or abs(loss - sum(known)) <= room * len(known)
