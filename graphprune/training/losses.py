"""The loss that a training step goes down: of the targets, of the teacher, or of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import torch
from msgspec import Struct
from torch import Tensor, nn

from graphprune.calibration.communicator import Communicator
from graphprune.calibration.output_kinds import SCORES, OutputKind
from graphprune.calibration.statistics import LossFunction, own_loss
from graphprune.errors import InputError
from graphprune.tracing.inputs import describe
from graphprune.tracing.places import raised_at
from graphprune.tracing.run_state import runs_forgotten
from graphprune.training.cross_entropy import cross_entropy
from graphprune.training.data import training_call
from graphprune.training.distances import Yardstick, said_by
from graphprune.training.features import FeatureHooks, FeatureLoss, Mean
from graphprune.utils.checks import check_optional, check_positive, check_type, found_value, is_number, with_article
from graphprune.utils.evaluation import evaluating
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.own_objects import with_own_objects
from graphprune.utils.random_state import random_numbers_kept, random_state, set_random_state
from graphprune.utils.tree import map_tensors, tensors_of

_LABELS = "pass loss_fn= or batches of pairs (inputs, target); batches with which the model computes its own loss; or "
_TAUGHT = "teacher= to learn from another model's outputs"
_TAUGHT_ALONE = "distill=graphprune.Distillation(alpha=1) to learn from the teacher's outputs alone"


class ObjectiveState(Struct, frozen=True, forbid_unknown_fields=True):
    """What an :class:`Objective` has found so far.

    Attributes:
        features: by name, the moments of each feature.
        yardstick: by what outputs are compared; None: none were, yet.
    """

    features: dict[str, list[Tensor]]
    yardstick: Yardstick | None


class Objective:
    """``objective(run, batch)`` is the loss of a batch, a number that depends on the weights.

    Args:
        loss_fn: ``(output, target) -> loss``; None: cross-entropy, or the model's own loss where a batch has no
            target.
        teacher: None: there is no distillation.
        mean: takes the mean of a tensor over all processes.
        communicator: these processes.
    """

    def __init__(
        self,
        loss_fn: LossFunction | None,
        teacher: nn.Module | None,
        distill: Distillation,
        mean: Mean,
        communicator: Communicator,
    ) -> None:
        self.loss_fn = loss_fn
        self.teacher = teacher
        self.distill = distill
        self._yardstick = None if distill.dim is None else Yardstick(OutputKind(SCORES, int(distill.dim)))
        self._communicator = communicator
        self.features = {name: FeatureLoss(name, mean) for name in distill.features} if teacher is not None else {}
        self._taps: tuple[FeatureHooks, ...] = ()

    @contextmanager
    def attached(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """Ready to be called. The teacher, moved to ``device``, is in evaluation mode meanwhile."""
        with ExitStack() as stack:
            if self.teacher is not None:
                self.teacher.to(device)
                stack.enter_context(runs_forgotten(self.teacher))
                stack.enter_context(evaluating(self.teacher))
                for whose, network in (("student", model), ("teacher", self.teacher)):
                    taps = FeatureHooks(network, self.features, whose)
                    stack.callback(taps.close)
                    self._taps += (taps,)
            yield
        self._taps = ()

    def __call__(self, run: Callable[..., Any], batch: Any, device: torch.device) -> Tensor:
        """The loss of ``run(*args, **kwargs)``.

        Raises:
            InputError: the batch has no target and the model no loss, or the loss is not one number.
        """
        args, kwargs, target = training_call(batch, device)
        if self.teacher is not None:  # the student may write to its inputs, and draw random numbers
            taught_args, taught_kwargs = with_own_objects(map_tensors(torch.clone, (args, kwargs)))
            drawn_from = random_state()
        output = _output_of(run, args, kwargs, "batches")
        losses = []
        if self._reads_targets:
            share = 1.0 if self.teacher is None else 1 - self.distill.alpha
            losses.append(share * self._hard(output, target, kwargs))
        if self.teacher is not None:
            with torch.no_grad(), random_numbers_kept():
                set_random_state(drawn_from)
                teacher_output = _output_of(self.teacher, taught_args, taught_kwargs, "teacher")
            losses += self._soft(output, teacher_output, target)
        return torch.stack(losses).sum()

    @property
    def _reads_targets(self) -> bool:
        return self.teacher is None or self.distill.alpha < 1

    def _hard(self, output: Any, target: Any, kwargs: Kwargs) -> Tensor:
        if self.loss_fn is not None:
            if target is None and not kwargs:
                raise InputError(
                    "batches: this one has no target, which loss_fn= compares the output with",
                    found="inputs alone",
                    needed="pairs (inputs, target), or dicts of keyword arguments, of which the target is the dict",
                    do="give batches as pairs (inputs, target)",
                )
            loss = self.loss_fn(output, kwargs if target is None else target)
        elif target is None:
            loss = own_loss(output, "training", _LABELS + (_TAUGHT if self.teacher is None else _TAUGHT_ALONE))
        else:
            loss = cross_entropy(logits_of(output), target)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InputError(
                f"loss_fn: must give one number that depends on the weights, but gave {loss!r:.80}",
                found=f"{loss!r:.80}",
                needed="a tensor with one entry and requires_grad, loss_fn(output, target)",
                do="return the mean of the loss, without detach(), item() or torch.no_grad()",
            )
        return loss.reshape(())

    def _soft(self, output: Any, teacher_output: Any, target: Any) -> Iterator[Tensor]:
        distill = self.distill
        if distill.alpha:
            said, told = logits_of(output), logits_of(teacher_output)
            if self._yardstick is None:
                self._yardstick = Yardstick.of(said, told, self._said_by(target, told), self._communicator)
            yield distill.alpha * self._yardstick.distance(said, told, distill.temperature)
        if self.features:
            student, teacher = self._taps
            for name, loss in self.features.items():
                yield distill.feature_weight * loss(student.outputs[name], teacher.outputs[name])

    def _said_by(self, target: Any, output: Tensor) -> OutputKind | None:
        """What the target says of the outputs: those of which the cross-entropy is taken are scores of classes."""
        crossed = self._reads_targets and self.loss_fn is None and target is not None
        return OutputKind(SCORES, 1) if crossed else said_by(target, output)

    def state(self) -> dict[str, Any]:
        """What has to be kept to go on, the data of an :class:`ObjectiveState`."""
        yardstick = None if self._yardstick is None else asdict(self._yardstick)
        return {"features": {name: loss.moments for name, loss in self.features.items()}, "yardstick": yardstick}

    def restore(self, state: ObjectiveState, device: torch.device) -> None:
        """Go on from a :meth:`state`."""
        self._yardstick = state.yardstick
        for name, moments in state.features.items():
            self.features[name].moments = [moment.to(device) for moment in moments]


@dataclass(frozen=True)
class Distillation:
    """How much a student follows its teacher.

    The loss is ``alpha * T² * KL(teacher || student) + (1 - alpha) * loss of the targets``, with both distributions
    at temperature T: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. To it the loss of
    every feature is added (see :class:`graphprune.training.features.FeatureLoss`).

    What is compared are the ``logits`` of an output, or its first tensor. Where these are no scores of classes, another
    distance takes the place of T² * KL (see :class:`graphprune.training.distances.Yardstick`): of probabilities and
    logits of yes or no their own divergence, and of values, such as those of a regression, the mean squared error.

    Args:
        temperature: T > 0.
        alpha: 0 (targets only) to 1 (teacher only: no targets are needed).
        features: names of modules whose outputs are compared too.
        feature_weight: the factor of each feature's loss, which is 1 when nothing of the teacher's is explained.
        dim: the dimension of the outputs that holds the scores of classes, such as 1 for maps [b, classes, h, w]. None:
            it, and what the outputs are, is found from the first batch: by cross-entropy with the targets, where that
            is the loss; by targets that are numbers of classes, or ones and zeros for each output; or else by the
            teacher's outputs (:func:`graphprune.calibration.output_kinds.kinds_of`).
    """

    temperature: float = 4.0
    alpha: float = 0.9
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    dim: int | None = None

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature, "positive")
        if not is_number(self.alpha) or not 0 <= self.alpha <= 1:
            raise InputError(
                f"alpha: must be between 0 and 1, but is {self.alpha!r}",
                found=found_value(self.alpha),
                needed="a number between 0 and 1",
                do="pass alpha=0.5",
            )
        check_type("features", self.features, Sequence, "a tuple of names of modules")
        check_optional("dim", self.dim, Integral, "the number of a dimension")
        if isinstance(self.features, str):
            raise InputError(
                f"features: is the string {self.features!r}",
                found=found_value(self.features),
                needed="a tuple of names of modules",
                do=f"pass features=({self.features!r},)",
            )
        if not is_number(self.feature_weight) or not self.feature_weight >= 0:
            raise InputError(
                f"feature_weight: must not be negative, but is {self.feature_weight!r}",
                found=found_value(self.feature_weight),
                needed="a number, 0 or more",
                do="pass feature_weight=1.0",
            )


def _output_of(run: Callable[..., Any], args: Args, kwargs: Kwargs, argument: str) -> Any:
    """What a model gives for a batch; ``argument`` is what does not fit if it fails."""
    try:
        return run(*args, **kwargs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind, as forward is the user's
        given = describe((*args, *kwargs.values()))
        raise InputError(
            f"{argument}: {type(run).__name__}.forward failed on a batch: {type(error).__name__}: {error}",
            where=raised_at(error),
            found=given,
            needed=f"inputs that {type(run).__name__}.forward takes",
            do="run model(*inputs) on one batch by itself, and give batches as pairs (inputs, target)",
        ) from error


def logits_of(output: Any) -> Tensor:
    """The scores in a model's output: the output itself, what it calls ``logits``, or its first tensor.

    Raises:
        InputError: there is no tensor in it.
    """
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    found = named if isinstance(named, Tensor) else next(tensors_of(output), None)
    if found is None:
        raise InputError(
            f"model: its output, {with_article(type(output).__name__)}, holds no tensor of logits",
            where="the output of the model",
            found=found_value(output),
            needed="a tensor, or an output with logits",
            do="pass loss_fn=, called as loss_fn(output, target)",
        )
    return found
