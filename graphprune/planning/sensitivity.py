"""How much a model suffers when one group is pruned alone: as a table, printed, plotted, and interpolated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprune.utils.checks import check_known
from graphprune.utils.tables import Printed, Table


@dataclass(frozen=True, eq=False, repr=False)
class Sensitivity(Printed):
    """The loss of a model with one group pruned, by group and ratio.

    Attributes:
        dense: the loss of the whole model.
        ratios: the fractions that were asked of each group, increasing.
        losses: for each group, at each ratio, the fraction really removed and the loss.
    """

    dense: float
    ratios: tuple[float, ...]
    losses: Mapping[str, tuple[tuple[float, float], ...]]

    def rise(self, group: str, gone: Any) -> Any:
        """How much the loss has risen when the fraction ``gone`` of a group is gone: linear between measurements.

        Beyond the last measurement the last slope goes on; a fall of the loss counts as no rise.

        Raises:
            InputError: the group was not measured.
        """
        check_known("group", group, self.losses)
        points = [(0.0, 0.0), *((g, max(loss - self.dense, 0.0)) for g, loss in self.losses[group])]
        at, rises = (np.array(column) for column in zip(*points, strict=True))
        rises = np.maximum.accumulate(rises)
        inside = np.interp(gone, at, rises)
        if len(at) < 2:
            return inside
        slope = (rises[-1] - rises[-2]) / max(at[-1] - at[-2], 1e-9)
        return inside + np.maximum(np.asarray(gone) - at[-1], 0.0) * slope

    def _summary(self) -> str:
        return f"Sensitivity: {len(self.losses)} groups at {len(self.ratios)} ratios, dense loss {self.dense:.4g}"

    def _parts(self) -> Iterator[Table]:
        ratios = tuple(f"{ratio:.0%}" for ratio in self.ratios)
        rows = tuple((name, *(f"{loss:.4g}" for _, loss in points)) for name, points in self.losses.items())
        title = f"Loss with one group pruned alone; the whole model: {self.dense:.4g}"
        yield Table(title, ("group", *ratios), rows, numbers=ratios)
