"""Biases and running means that another call than a consumer's own applies to its results.

A linear layer behind a transposed input is a product and a sum, as is ``x @ w + b``; a batch norm subtracts its running
mean. The result of the product has nothing of it. Once repair, or training, has changed the bias of the slim model, the
difference from the dense one belongs to the result that is compared; without it, a second repair would add the same
difference of means once more.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphprune.reconstruction.call_recorder import BiasTarget, CallRecorder, Consumer
from graphprune.reconstruction.linear_calls import flat


@dataclass(frozen=True, eq=False)
class AppliedVector:
    """What is added to all results of a consumer first, by another call.

    Attributes:
        target: the bias or running mean.
        memory: the parameter or buffer that it is of.
        shape: blocks and outputs of the consumer.
    """

    target: BiasTarget
    memory: Tensor
    shape: tuple[int, int]

    @staticmethod
    def of(consumer: Consumer, recorded: CallRecorder) -> AppliedVector | None:
        """What is added to all results of a consumer alike; None: nothing, or one thing to some and not to others."""
        found, *others = consumer.bias_targets or {None}
        if found is None or others:
            return None
        blocks, _, outputs = consumer.shape
        return AppliedVector(found, recorded.memory.tensors[found.view.name], (blocks, outputs))

    def value(self) -> Tensor:
        """What it is now, in float64. [blocks, outputs]"""
        return self.target.sign * self.target.view.of(flat(self.memory)).double().reshape(self.shape)


@dataclass(frozen=True, eq=False)
class SeparateBias:
    """What other calls add to the results of a consumer and of its counterpart in the dense model."""

    slim: AppliedVector
    dense: AppliedVector

    @staticmethod
    def between(slim: AppliedVector | None, dense: AppliedVector | None) -> SeparateBias | None:
        """The two of one kind; None where one of the models has none."""
        if slim is None or dense is None or slim.target.sign != dense.target.sign:
            return None
        return SeparateBias(slim, dense)
