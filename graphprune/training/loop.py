"""The training loop: steps, epochs, and where it stands, so that it can be left and taken up again at any step."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor, nn
from torch.optim import Optimizer

from graphprune.errors import InputError, LoadError
from graphprune.tracing.places import raised_at
from graphprune.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from graphprune.training.data import NEEDED, in_order
from graphprune.training.distributed import Processes
from graphprune.training.history import History
from graphprune.training.learning_rate import Rates
from graphprune.training.losses import Objective, ObjectiveState
from graphprune.training.weight_sketch import WeightSketch, other_weight, sketch_of
from graphprune.utils.checks import found_value, is_number, shown, with_article
from graphprune.utils.evaluation import clear_gradients, preserve_modes
from graphprune.utils.modules import all_tensors
from graphprune.utils.prune_masks import apply_masks
from graphprune.utils.random_state import seed_all
from graphprune.utils.switches import evaluation_mode
from graphprune.utils.typed_json import Count, convert_data

Quality = Callable[[nn.Module], float]
"""How good a model is: a number that is higher for a better one."""


_trained_in: WeakKeyDictionary[nn.Module, set[Path]] = WeakKeyDictionary()
"""The folders of checkpoints in which this process trained a model."""

OnStep = Callable[[int, nn.Module, Optimizer], object]


@dataclass(eq=False)
class Position:
    """Where a training stands.

    Attributes:
        epoch, taken: the epoch, counted from 0, and how many of its batches were taken.
        loss, lr, metrics, epochs: as in :class:`History`; the latest losses may still be in ``pending``.
    """

    epoch: Count = 0
    taken: Count = 0
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    metrics: dict[Count, float] = field(default_factory=dict)
    epochs: list[Count] = field(default_factory=list)

    @property
    def step(self) -> int:
        """The number of steps taken."""
        return len(self.lr)

    @property
    def history(self) -> History:
        return History(tuple(self.loss), tuple(self.lr), dict(self.metrics), tuple(self.epochs))


class _SavedTraining(Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint says of a training."""

    asked: dict[str, Any]
    position: Position
    objective: ObjectiveState
    scaler: dict[str, Any] | None
    begun: list[WeightSketch] | None = None

    def __post_init__(self) -> None:
        at = self.position
        if len(at.loss) != at.step:
            raise ValueError(f"position: there are {len(at.loss)} losses, but {at.step} learning rates")


@dataclass(eq=False)
class Training:
    """One call of :func:`graphprune.finetune`; the arguments are explained there.

    Attributes:
        rates_of: the learning rates of a training of so many steps.
        asked: what decides the result besides data and model, as JSON data: a checkpoint of another one is refused.
        begun: what is known of the weights that the model began with; None: a checkpoint does not say.
    """

    model: nn.Module
    batches: Iterable[Any]
    optimizer: Optimizer
    objective: Objective
    processes: Processes
    rates_of: Callable[[int], Rates]
    asked: Mapping[str, Any]
    clip: float | None
    evaluate: Quality | None
    on_step: OnStep | None
    checkpoint: Path | None
    every: int | None
    shown: bool
    position: Position = field(default_factory=Position)
    pending: list[Tensor] = field(default_factory=list)
    begun: list[WeightSketch] | None = None

    def run(self) -> History:
        """Train to the end, from the checkpoint on if there is one."""
        if self.checkpoint is not None:
            if has_checkpoint(self.checkpoint):
                self._resume(self.checkpoint)
            else:
                self.begun = sketch_of(self.model)
            _trained_in.setdefault(self.model, set()).add(self.checkpoint.resolve())
        with _given_back(self.model), self.objective.attached(self.model, self.processes.device):
            self.optimizer.zero_grad(set_to_none=True)
            try:
                dealt = self.processes.prepare(self.model, self.optimizer, self.batches)
                self._train(dealt, self._total(dealt))
                self.processes.agree()
            finally:
                self.processes.close()
        return self.position.history

    def _total(self, dealt: Iterable[Any]) -> int:
        if self.asked["steps"] is not None:
            return int(self.asked["steps"])
        length = _length(dealt)
        if length is None:
            raise InputError(
                f"epochs: {with_article(type(dealt).__name__)} does not say how many batches it has",
                found=f"{with_article(type(dealt).__name__)} without len()",
                needed="steps=, or batches with a length",
                do="pass steps= instead of epochs=",
            )
        if not length:
            raise InputError(
                "batches: there are none",
                found=f"{with_article(type(dealt).__name__)} of length 0",
                needed=NEEDED,
                do="pass one batch at least",
            )
        return int(self.asked["epochs"]) * length

    def _train(self, dealt: Iterable[Any], total: int) -> None:
        rates = self.rates_of(total)
        with _progress(total, self.position.step, self.shown and self.processes.rank == 0) as advance:
            while self.position.step < total:
                self._epoch(dealt, rates, total, advance)
                self._measure()
                self._save()

    def _epoch(self, dealt: Iterable[Any], rates: Rates, total: int, advance: Callable[[], object]) -> None:
        """What is left of an epoch, or of the training."""
        at = self.position
        self.model.train()
        for batch in in_order(dealt, self.batches, self.asked["seed"], at.epoch, at.taken):
            if at.step == total:
                return
            self._step(batch, rates(at.step))
            advance()
            if self.every is not None and at.step % self.every == 0 and at.step < total:
                self._save()
        if at.taken == 0:
            raise InputError(
                f"batches: there are none in epoch {at.epoch}",
                where=f"epoch {at.epoch}",
                found=f"{with_article(type(dealt).__name__)} that ends at once",
                needed=NEEDED,
                do="pass a DataLoader or a list: a generator ends with its first epoch",
            )
        at.epoch, at.taken = at.epoch + 1, 0
        at.epochs.append(at.step)

    def _step(self, batch: Any, rate: float) -> None:
        at = self.position
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        seed_all(self.asked["seed"], at.step, self.processes.rank)
        with self.processes.precision():
            loss = self.objective(self.processes.run, batch, self.processes.device)
        self.processes.update(loss, self.clip)
        self.pending.append(loss.detach())
        at.lr.append(rate)
        at.taken += 1
        if self.on_step is not None:
            self.on_step(at.step, self.model, self.optimizer)

    def _settle(self) -> None:
        """Read the losses from the device, where they wait until they are needed."""
        if not self.pending:
            return
        found = self.processes.mean(torch.stack(self.pending).float()).tolist()
        self.pending.clear()
        wrong = next((i for i, loss in enumerate(found) if not math.isfinite(loss)), None)
        if wrong is not None:
            raise self._not_finite(len(self.position.loss) + wrong, found[wrong])
        self.position.loss += found

    def _not_finite(self, step: int, loss: float) -> InputError:
        """The error of a loss; at the first one no learning rate is at fault, as nothing was learned."""
        learned = InputError(
            f"lr: training diverged: the loss of step {step} is {loss}",
            where=f"step {step}",
            found=f"a loss of {loss}",
            needed="finite losses",
            do="use a lower learning rate, warmup= or clip=",
        )
        half = ", or pass precision='bf16', which reaches as far" if self.asked["precision"] == "fp16" else ""
        begun = InputError(
            f"batches: the loss of step 0, before anything was learned, is {loss}",
            where="step 0",
            found=f"a loss of {loss}",
            needed="a finite loss of the model as it is given",
            do=f"look for NaN in the weights and the data, and for a division by zero in the loss{half}",
        )
        return learned if step else begun

    def _measure(self) -> None:
        self._settle()
        self.processes.agree()
        if self.evaluate is not None:
            self.position.metrics[self.position.step] = quality_of(self.evaluate, self.model)

    # ------------------------------------------------------------ checkpoints

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        self._settle()
        self.processes.agree()
        if self.processes.rank == 0:
            scaler = self.processes.scaler
            state = {
                "asked": dict(self.asked),
                "position": asdict(self.position),
                "objective": self.objective.state(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "begun": self.begun,
            }
            save_checkpoint(self.checkpoint, self.model, state, optimizer=self.optimizer)

    def _resume(self, folder: Path) -> None:
        state = load_checkpoint(folder, self.model, optimizer=self.optimizer, check=self._check_began)
        saved = self._checked(state)
        self.position, self.begun = saved.position, saved.begun
        self.objective.restore(saved.objective, self.processes.device)
        if self.processes.scaler is not None and saved.scaler is not None:
            self.processes.scaler.load_state_dict(saved.scaler)

    def _checked(self, state: Mapping[str, Any]) -> _SavedTraining:
        """The state of a checkpoint, which must be one of this training."""
        saved = convert_data(state, _SavedTraining, "checkpoint: is not one of finetune", "pass another folder")
        for name, value in self.asked.items():
            found = saved.asked.get(name)
            if found != value:
                raise LoadError(
                    f"checkpoint: is of a training with {name}={found!r}, but asked for is {name}={value!r}",
                    where=f"checkpoint: {name}",
                    found=f"{name}={found!r}",
                    needed=f"{name}={value!r}",
                    do="ask for the same to go on with it, or pass another folder",
                )
        return saved

    def _check_began(self, state: Mapping[str, Any]) -> None:
        """Raise a LoadError unless the training that a checkpoint is of began with this model.

        A model that was trained in this folder by this process has other weights by now.
        """
        saved, folder = self._checked(state), self.checkpoint
        assert folder is not None
        if saved.begun is None or folder.resolve() in _trained_in.get(self.model, ()):
            return
        other = other_weight(saved.begun, self.model)
        if other is not None:
            raise LoadError(
                f"checkpoint: {folder} is of a training that began with another model: {other} has other values",
                where=f"checkpoint: {folder}",
                found=f"{other} unlike the one with which that training began",
                needed="the model with which it began, with its weights of then",
                do="build the model as for the first call to go on, or pass another folder",
            )


def _length(batches: Iterable[Any]) -> int | None:
    """How many batches there are, if they say so: a loader of a stream has ``__len__``, which raises."""
    try:
        return len(batches) if isinstance(batches, Sized) else None
    except TypeError:
        return None


def quality_of(evaluate: Quality, model: nn.Module) -> float:
    """The result of ``evaluate`` for a model in evaluation mode without gradients; modes are restored.

    Raises:
        InputError: it gives no number.
    """
    try:
        with evaluation_mode(model), torch.no_grad():
            found: object = evaluate(model)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"evaluate: must give a number, higher for a better model, but failed: {error}",
            where=raised_at(error),
            found=f"{type(error).__name__}: {error}",
            needed="a function (model) -> number",
            do="run evaluate(model) once by itself, and let it return a number",
        ) from error
    number = found.item() if isinstance(found, Tensor | np.ndarray) and math.prod(found.shape) == 1 else found
    if not is_number(number):
        raise InputError(
            f"evaluate: must give a number, higher for a better model, but returned {shown(found)}",
            found=found_value(found),
            needed="a function (model) -> number",
            do="return one number from evaluate(model), such as the accuracy",
        )
    return float(number)


@contextmanager
def _given_back(model: nn.Module) -> Iterator[None]:
    """Modes are as before afterwards, and after an error weights, buffers and gradients; not if a person interrupts.

    Masked weights are without the gradients that the last step left on them.
    """
    before = [(tensor, tensor.detach().clone()) for tensor in all_tensors(model)]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    restored: list[tuple[nn.Parameter, Tensor | None]] = []
    try:
        with preserve_modes(model):
            yield
    except Exception:
        with torch.no_grad():
            for tensor, values in before:
                tensor.copy_(values)
        restored = gradients
        raise
    finally:
        clear_gradients(model.parameters())
        apply_masks(model)
        for parameter, gradient in restored:
            parameter.grad = gradient


@contextmanager
def _progress(total: int, done: int, shown: bool) -> Iterator[Callable[[], object]]:
    """A bar if stderr is a terminal; yields what is called after each step."""
    if not shown or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # loading them takes longer than tracing a model
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("fine-tuning", total=total, completed=done)
        yield lambda: progress.advance(task)
