"""Which rows of a dense layer's input a slim layer has, where channels run along rows instead of along weights.

A layer along tokens (an MLP-Mixer's, one along time, a convolution that has tokens for channels) multiplies each
channel with the same weight. Where channels went, it has fewer rows than the dense layer, and nothing in its weight
tells which. They are told by the data: of the channels that the plan removes, and of the ways in which they can run
along the rows, those are taken by which the dense layer's inputs are most like the slim layer's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from graphprune.pruning.plan import Plan
from graphprune.reconstruction.call_recorder import Consumer
from graphprune.reconstruction.linear_calls import LinearCall

LIKE = 0.5
"""The least mean cosine between inputs that are taken for those of the same rows."""

_DIMS = (0, 3)
"""Rows of data run along these dimensions of an input [n, blocks, channels, m]."""


@dataclass(frozen=True, eq=False)
class RowLayout:
    """How channels run along the rows of a call.

    Attributes:
        dim: of the input [n, blocks, channels, m], 0 or 3.
        channels: how many the dense model has.
        index: those that the slim model keeps.
        inner: the rows of each channel that follow one another.
    """

    dim: int
    channels: int
    index: Tensor
    inner: int

    def select(self, dense: Tensor, count: int) -> Tensor | None:
        """The entries of a dense tensor that are of the slim model's rows; None if these are not as many as ``count``.

        Args:
            dense: rows run along its dimension 0 or its last one.
            count: the rows that are wanted.
        """
        dim = 0 if self.dim == 0 else dense.ndim - 1
        whole = self.channels * self.inner
        if dense.shape[dim] % whole or dense.shape[dim] // whole * len(self.index) * self.inner != count:
            return None
        parts = dense.unflatten(dim, (-1, self.channels, self.inner))
        chosen: Tensor = parts.index_select(dim + 1, self.index.to(dense.device)).flatten(dim, dim + 2)
        return chosen


@dataclass(eq=False)
class RowChoice:
    """The choice among layouts; it is made with the first call and holds for all.

    Attributes:
        layouts: the ones that fit the numbers of rows.
        columns: the channels of the dense input that the slim input has.
        chosen: the one whose rows are most alike; None: not chosen yet, or none is.
        made: whether it was chosen.
    """

    layouts: tuple[RowLayout, ...]
    columns: Tensor
    chosen: RowLayout | None = None
    made: bool = False

    def make(self, slim: LinearCall, dense: Tensor) -> None:
        """Choose by the inputs of a call.

        Args:
            slim: the slim call.
            dense: the input of the dense call. [n, blocks, channels, m]
        """
        self.made = True
        ((_, x),) = slim.inputs()
        there = dense.index_select(2, self.columns.to(dense.device))
        likeness = [_likeness(layout, x, there) for layout in self.layouts]
        best = max(range(len(likeness)), key=likeness.__getitem__)
        if likeness[best] >= LIKE:
            self.chosen = self.layouts[best]

    def select(self, result: Tensor, count: tuple[int, int]) -> Tensor | None:
        """The rows of a dense result that the slim call has; None if that cannot be told.

        Args:
            result: of the dense call. [n, outputs, m]
            count: of the slim call: n and m.
        """
        return None if self.chosen is None else self.chosen.select(result, count[_DIMS.index(self.chosen.dim)])


def layouts_between(slim: Consumer, dense: Consumer, plan: Plan) -> tuple[RowLayout, ...]:
    """The layouts by which a layer of the slim model can have fewer rows along one dimension than the dense one."""
    found = [dim for dim, ours, theirs in zip(_DIMS, slim.rows, dense.rows, strict=True) if ours != theirs]
    if len(found) != 1 or slim.first.taps != 1:
        return ()
    at = _DIMS.index(found[0])
    return tuple(_layouts(found[0], slim.rows[at], dense.rows[at], plan))


def _layouts(dim: int, ours: int, theirs: int, plan: Plan) -> Iterator[RowLayout]:
    """All layouts of kept channels by which ``theirs`` rows become ``ours``, each once."""
    seen = set()
    for name, dims in plan.kept.items():
        for axis, kept in dims.items():
            channels, index = plan.shapes[name][axis], torch.as_tensor(kept, device="cpu")
            key = channels, tuple(index.tolist())
            if key in seen or theirs % channels or ours * channels != theirs * len(index):
                continue
            seen.add(key)
            for inner in _divisors(theirs // channels):
                yield RowLayout(dim, channels, index, inner)


def _divisors(n: int) -> Iterator[int]:
    return (d for d in range(1, n + 1) if n % d == 0)


def _likeness(layout: RowLayout, slim: Tensor, dense: Tensor) -> float:
    """The mean cosine between the inputs of the slim layer's rows and those that a layout takes them for."""
    rows = layout.select(dense, slim.shape[layout.dim])
    if rows is None or rows.shape != slim.shape:
        return -1.0
    return float(cosine_similarity(rows, slim, dim=2).mean())
