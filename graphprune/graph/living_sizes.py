"""How many entries of traced tensors live in one choice, all dimensions being counted at once."""

from __future__ import annotations

from torch import fx

from graphprune.graph.dimensions import Dimensions
from graphprune.rules.labels import LabeledTensor
from graphprune.utils.arrays import Mask


class LivingSizes:
    """The sizes of traced tensors when the classes ``alive`` live.

    Args:
        dimensions: the dimensions of the traced tensors.
        alive: which classes live; not changed afterwards.
    """

    def __init__(self, dimensions: Dimensions, alive: Mask) -> None:
        self.sizes = dimensions.sizes
        self.alive = alive
        self._dimensions = dimensions
        self._counts = dimensions.counts(alive)

    def count(self, node: fx.Node, dim: int | str, stop: int | None = None) -> int:
        """The number of living entries of a dimension (before ``stop``)."""
        value = self.sizes.labeling.values.get(node)
        if stop is not None or isinstance(dim, str) or not isinstance(value, LabeledTensor):
            return self.sizes.count(self.alive, node, dim, stop)
        number = self._dimensions.number(node, dim)
        if number >= len(self._counts):  # it was asked for after the others had been counted
            return self.sizes.count(self.alive, node, dim)
        return int(self._counts[number])
