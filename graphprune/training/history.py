"""What a training went through, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class History:
    """Loss and learning rate of every step, and what was measured in between.

    Attributes:
        loss: the training loss of each step, before it was taken; with several processes their mean.
        lr: the learning rate of each step.
        metrics: what ``evaluate`` gave, by the number of steps that had been taken.
        epochs: the number of steps after which each epoch was over.
    """

    loss: tuple[float, ...] = ()
    lr: tuple[float, ...] = ()
    metrics: Mapping[int, float] = field(default_factory=dict)
    epochs: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.loss)

    @property
    def metric(self) -> float | None:
        """What ``evaluate`` gave last."""
        return self.metrics[max(self.metrics)] if self.metrics else None

    def to_json(self) -> str:
        """The history as JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> History:
        """The inverse of :meth:`to_json`."""
        return History.of(json.loads(text))

    @staticmethod
    def of(data: Mapping[str, Any]) -> History:
        """The history that :func:`dataclasses.asdict` took apart."""
        metrics = {int(step): float(value) for step, value in data["metrics"].items()}
        return History(tuple(data["loss"]), tuple(data["lr"]), metrics, tuple(data["epochs"]))

    def __str__(self) -> str:
        ends = [*self.epochs, *([self.steps] if self.steps > max(self.epochs, default=0) else [])]
        lines = [f"{'epoch':>5}  {'steps':>7}  {'mean loss':>10}  {'last lr':>9}  {'metric':>8}"]
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False), 1):
            part = self.loss[start:end]
            mean = f"{sum(part) / max(len(part), 1):10.4f}"
            metric = f"{self.metrics[end]:8.4f}" if end in self.metrics else ""
            lines.append(f"{number:>5}  {end:>7}  {mean}  {self.lr[end - 1]:9.2e}  {metric:>8}".rstrip())
        return "\n".join(lines)
