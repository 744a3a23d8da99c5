"""What a training went through, as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from graphprune.errors import InputError
from graphprune.utils.tables import Printed, Table
from graphprune.utils.typed_json import Count, convert_data, parse_json

_ADVICE = "pass what History.to_json() returned"


@dataclass(frozen=True, repr=False)
class History(Printed):
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
            raise InputError(
                f"loss: has {len(self.loss)} steps, but lr has {len(self.lr)}",
                found=f"{len(self.loss)} losses and {len(self.lr)} learning rates",
                needed="one of each for every step",
                do="pass loss= and lr= of equal length",
            )
        beyond = [step for step in (*self.epochs, *self.metrics) if step > self.steps]
        if beyond:
            raise InputError(
                f"epochs, metrics: there is step {beyond[0]}, but there are {self.steps} steps in all",
                found=f"step {beyond[0]}",
                needed=f"steps up to {self.steps}",
                do="count steps from the beginning of the training",
            )

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

    def _summary(self) -> str:
        metric = "" if self.metric is None else f", metric {self.metric:.4f}"
        loss = f", loss {self.loss[-1]:.4f}" if self.loss else ""
        return f"History: {self.steps} steps, {len(self.epochs)} epochs{loss}{metric}"

    def _parts(self) -> Iterator[Table]:
        ends = [*self.epochs, *([self.steps] if self.steps > max(self.epochs, default=0) else [])]
        spans = enumerate(zip([0, *ends], ends, strict=False), 1)
        columns = ("epoch", "steps", "mean loss", "last lr", "metric")
        rows = tuple(self._row(number, start, end) for number, (start, end) in spans)
        yield Table("", columns, rows, numbers=columns)

    def _row(self, number: int, start: int, end: int) -> tuple[str, ...]:
        part = self.loss[start:end]
        metric = f"{self.metrics[end]:.4f}" if end in self.metrics else ""
        return str(number), str(end), f"{sum(part) / max(len(part), 1):.4f}", f"{self.lr[end - 1]:.2e}", metric
