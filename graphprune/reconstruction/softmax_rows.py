"""Which rows of a consumer's input and result are in one row of the softmax that the results go into.

Attention with a small network for its scores (Bahdanau, Cho and Bengio, "Neural Machine Translation by Jointly Learning
to Align and Translate", ICLR 2015), and pooling by learned weights, have such a consumer. What all scores of a row have
in common is often the largest part of them, and nothing depends on it: a fit to the scores themselves would spend the
weights that are left on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.reconstruction.linear_calls import LinearCall
from graphprune.reconstruction.result_paths import Softmax


@dataclass(frozen=True)
class SoftmaxRows:
    """A call's rows of data [n, m], in their order: ``before * length * after``, of which ``length`` are in one row.

    The same holds for each output.
    """

    before: int
    length: int
    after: int

    @property
    def count(self) -> int:
        """Rows of data."""
        return self.before * self.length * self.after

    @staticmethod
    def of(call: LinearCall, end: Softmax) -> SoftmaxRows | None:
        """The rows of a softmax of a call's result; None where it does not run over rows of data at even distances."""
        places = end.path.places(call.x.device)
        together = places.movedim(end.dim, -1).reshape(-1, places.shape[end.dim])
        count, length = together.numel(), together.shape[1]
        every = torch.arange(count, device=places.device)
        result = call.result(every.view(end.path.shape))  # [n, blocks, outputs, m]
        rows = result.shape[0] * result.shape[3]
        if length < 2 or not count:
            return None
        number = torch.empty_like(every)
        number[result.permute(1, 2, 0, 3).flatten()] = every  # those of one output follow each other
        found = number[together]
        after = int(found[0, 1] - found[0, 0])
        if after < 1 or rows % (length * after):
            return None
        wanted = every.view(-1, length, after).mT.reshape(-1, length)
        same = torch.equal(found[found[:, 0].argsort()], wanted)
        return SoftmaxRows(rows // (length * after), length, after) if same else None

    def centered(self, rows: Tensor) -> Tensor:
        """Rows [n, blocks, channels, m] minus the mean of those that are in one row of the softmax.

        Returns:
            [before, blocks, channels, length * after]
        """
        blocks, channels = rows.shape[1:3]
        opened = rows.permute(0, 3, 1, 2).reshape(self.before, self.length, self.after, blocks, channels)
        opened = opened - opened.mean(1, keepdim=True)
        return opened.flatten(1, 2).permute(0, 2, 3, 1)
