"""What the callbacks for training loops of other libraries share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from graphprune.errors import InputError, LoadError, UnfinishedScheduleWarning
from graphprune.planning.keyword_arguments import PlanArguments
from graphprune.planning.options import PruningOptions
from graphprune.pruning.optimizer import AVERAGES, several
from graphprune.training.gradual import GradualPruner
from graphprune.training.gradual_sparsity import GradualSparsifier
from graphprune.training.schedules import Gradual, Iterative, OneShot, Schedule, check_schedule
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import check_callable, check_sequence, check_type


@dataclass(eq=False)
class PreparedPruner:
    """The arguments of a :class:`GradualPruner`, which is made when the loop hands over its model.

    Attributes:
        pruner: None before.
        saved: where to go on from, if training does.

    Raises:
        InputError: one of them is none, whatever the model is.
    """

    schedule: Schedule
    example_inputs: Any
    ratio: float | None
    averages: Sequence[nn.Module]
    outputs: Callable[[Any], Any] | None
    options: PlanArguments
    pruner: GradualPruner | None = None
    saved: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        check_sequence("averages", self.averages, nn.Module, AVERAGES)
        if self.outputs is not None:
            check_callable("outputs", self.outputs, "a function of the model's result")
        PruningOptions.of(self.ratio, self.options)

    def begin(self, model: nn.Module, optimizers: Sequence[Optimizer], processes: int) -> None:
        """Training begins, or goes on from the state that was loaded.

        Raises:
            InputError: there are several processes: what holds the model in each would have to be made again.
        """
        if processes > 1:
            raise InputError(
                f"callback: prunes in training with one process, but this one has {processes}",
                found=f"{processes} processes",
                needed="one process, since what holds the model in each would have to be made again",
                do="prune between trainings, with graphprune.prune_iteratively(..., tune={'accelerator': ...})",
            )
        pruner = self._pruner_of(model)
        if self.saved:
            pruner.restore(self.saved)
            self.saved = {}
        pruner.optimizers = several(list(optimizers))

    def resume(self, model: nn.Module, state: Mapping[str, Any], where: str) -> None:
        """Make the dense model as small as it was when ``state`` was saved.

        Raises:
            LoadError: there is no state, or it is of another model.
        """
        if not state:
            raise LoadError(
                f"checkpoint: {where} is not of a training with this callback",
                where=where,
                found="no state of the callback",
                needed="a checkpoint that was saved with this callback",
                do="resume from such a checkpoint, or train without the callback",
            )
        self._pruner_of(model).restore(state)
        self.saved = state

    def at(self, step: int) -> bool:
        """So many steps of the optimizer were taken; was the model pruned? Nothing happens if this is known already."""
        return self.pruner is not None and step > self.pruner.steps and self.pruner.at(step) is not None

    def end(self) -> None:
        """Training ends: warn if the schedule does not."""
        if self.pruner is not None:
            warn_of_unfinished(self.schedule, self.pruner.steps)

    def state(self) -> dict[str, Any]:
        """JSON data."""
        return {} if self.pruner is None else self.pruner.state()

    def _pruner_of(self, model: nn.Module) -> GradualPruner:
        if self.pruner is None or self.pruner.model is not model:
            given: dict[str, Any] = {"averages": self.averages, "outputs": self.outputs, **self.options}
            self.pruner = GradualPruner(model, self.example_inputs, self.schedule, ratio=self.ratio, **given)
        return self.pruner


def check_sparsifier(sparsifier: object) -> None:
    """Raise an InputError unless this can be called after every step of a loop."""
    what = "a graphprune.GradualSparsifier, made of the model that is trained"
    check_type("sparsifier", sparsifier, GradualSparsifier, what)


def warn_of_unfinished(schedule: Schedule, steps: int) -> None:
    """Warn if a schedule of graphprune was to go on after so many steps, with which training ended."""
    if isinstance(schedule, OneShot | Iterative | Gradual) and steps < schedule.last:
        warnings.warn(
            f"schedule: training ended after {steps} steps, and {schedule} goes on to step {schedule.last}, so less is "
            "gone than was asked for. Train longer, or pass a schedule that ends earlier",
            UnfinishedScheduleWarning,
            stacklevel=frames_of_this_package(),
        )
