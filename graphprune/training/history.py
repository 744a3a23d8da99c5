"""What a training went through, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from graphprune.errors import InputError
from graphprune.utils.typed_json import Count, convert_data, parse_json

_ADVICE = "pass what History.to_json() returned"


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
    metrics: Mapping[Count, float] = field(default_factory=dict)
    epochs: tuple[Count, ...] = ()

    def __post_init__(self) -> None:
        if len(self.loss) != len(self.lr):
            raise InputError(f"loss: has {len(self.loss)} steps, but lr has {len(self.lr)}")
        beyond = [step for step in (*self.epochs, *self.metrics) if step > self.steps]
        if beyond:
            raise InputError(f"epochs, metrics: there is step {beyond[0]}, but there are {self.steps} steps in all")

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
        """The inverse of :meth:`to_json`.

        Raises:
            LoadError: the text is no history, or is damaged.
        """
        return convert_data(parse_json(text, "text", _ADVICE), History, "text", _ADVICE)

    def __str__(self) -> str:
        ends = [*self.epochs, *([self.steps] if self.steps > max(self.epochs, default=0) else [])]
        lines = [f"{'epoch':>5}  {'steps':>7}  {'mean loss':>10}  {'last lr':>9}  {'metric':>8}"]
        for number, (start, end) in enumerate(zip([0, *ends], ends, strict=False), 1):
            part = self.loss[start:end]
            mean = f"{sum(part) / max(len(part), 1):10.4f}"
            metric = f"{self.metrics[end]:8.4f}" if end in self.metrics else ""
            lines.append(f"{number:>5}  {end:>7}  {mean}  {self.lr[end - 1]:9.2e}  {metric:>8}".rstrip())
        return "\n".join(lines)
