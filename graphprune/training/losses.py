"""The loss that a training step goes down: of the targets, of the teacher, or of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune.calibration.statistics import LossFunction, own_loss
from graphprune.errors import InputError
from graphprune.tracing.inputs import describe
from graphprune.tracing.places import raised_at
from graphprune.tracing.run_state import runs_forgotten
from graphprune.training.data import training_call
from graphprune.training.features import FeatureHooks, FeatureLoss, Mean
from graphprune.utils.checks import check_positive, check_type, found_value, is_number, with_article
from graphprune.utils.evaluation import evaluating
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.random_state import random_numbers_kept, random_state, set_random_state
from graphprune.utils.tree import map_tensors, tensors_of

_LABELS = (
    "pass loss_fn= or batches of pairs (inputs, target); batches with which the model computes its own loss; or "
    "teacher= to learn from another model's outputs"
)


class Objective:
    """``objective(run, batch)`` is the loss of a batch, a number that depends on the weights.

    Args:
        loss_fn: ``(output, target) -> loss``; None: cross-entropy, or the model's own loss where a batch has no
            target.
        teacher: None: there is no distillation.
        mean: takes the mean of a tensor over all processes.
    """

    def __init__(
        self, loss_fn: LossFunction | None, teacher: nn.Module | None, distill: Distillation, mean: Mean
    ) -> None:
        self.loss_fn = loss_fn
        self.teacher = teacher
        self.distill = distill
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
            taught_args, taught_kwargs = map_tensors(torch.clone, (args, kwargs))
            drawn_from = random_state()
        output = _output_of(run, args, kwargs, "batches")
        losses = []
        if self.teacher is None or self.distill.alpha < 1:
            share = 1.0 if self.teacher is None else 1 - self.distill.alpha
            losses.append(share * self._hard(output, target, kwargs))
        if self.teacher is not None:
            with torch.no_grad(), random_numbers_kept():
                set_random_state(drawn_from)
                teacher_output = _output_of(self.teacher, taught_args, taught_kwargs, "teacher")
            losses += self._soft(output, teacher_output)
        return torch.stack(losses).sum()

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
            loss = own_loss(output, "training", _LABELS)
        else:
            loss = _cross_entropy(logits_of(output), target)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InputError(
                f"loss_fn: must give one number that depends on the weights, but gave {loss!r:.80}",
                found=f"{loss!r:.80}",
                needed="a tensor with one entry and requires_grad, loss_fn(output, target)",
                do="return the mean of the loss, without detach(), item() or torch.no_grad()",
            )
        return loss.reshape(())

    def _soft(self, output: Any, teacher_output: Any) -> Iterator[Tensor]:
        distill = self.distill
        if distill.alpha:
            soft = distillation_loss(logits_of(output), logits_of(teacher_output), distill.temperature, distill.dim)
            yield distill.alpha * soft
        if self.features:
            student, teacher = self._taps
            for name, loss in self.features.items():
                yield distill.feature_weight * loss(student.outputs[name], teacher.outputs[name])

    def state(self) -> dict[str, list[Tensor]]:
        """What has to be kept to go on: the moments of the features."""
        return {name: loss.moments for name, loss in self.features.items()}

    def restore(self, state: dict[str, list[Tensor]], device: torch.device) -> None:
        """Go on from a :meth:`state`."""
        for name, moments in state.items():
            self.features[name].moments = [moment.to(device) for moment in moments]


@dataclass(frozen=True)
class Distillation:
    """How much a student follows its teacher.

    The loss is ``alpha * T² * KL(teacher || student) + (1 - alpha) * loss of the targets``, with both distributions
    at temperature T: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015. To it the loss of
    every feature is added (see :class:`graphprune.training.features.FeatureLoss`).

    Args:
        temperature: T > 0.
        alpha: 0 (targets only) to 1 (teacher only: no targets are needed).
        features: names of modules whose outputs are compared too.
        feature_weight: the factor of each feature's loss, which is 1 when nothing of the teacher's is explained.
        dim: the dimension of the logits that holds the classes: -1, or 1 for maps of classes [b, classes, h, w].
    """

    temperature: float = 4.0
    alpha: float = 0.9
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    dim: int = -1

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
        check_type("dim", self.dim, Integral, "the number of a dimension")
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


def _cross_entropy(logits: Tensor, target: Any) -> Tensor:
    try:
        return F.cross_entropy(logits, target)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"batches: cross entropy of the outputs and the targets of a batch failed: {error}",
            where="the target of a batch",
            found=f"outputs {describe(logits)} and target {describe(target)}",
            needed="logits [batch, classes, ...] and the numbers of classes [batch, ...], or probabilities",
            do="give targets of this form, or pass loss_fn=, called as loss_fn(output, target)",
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


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0, dim: int = -1) -> Tensor:
    """``T² * KL(teacher || student)``, the mean over everything but the classes in ``dim``. Logits of equal shape.

    The factor T² keeps the gradient's size the same at every temperature (Hinton et al., 2015, section 2).

    Raises:
        InputError: the shapes differ, or the logits have no such dimension.
    """
    if student.shape != teacher.shape:
        raise InputError(
            f"teacher: gives logits {list(teacher.shape)}, but the student {list(student.shape)}",
            where="the outputs of teacher and student",
            found=f"{list(teacher.shape)} and {list(student.shape)}",
            needed="logits of one shape",
            do="distil from a network with the same classes",
        )
    if not -student.ndim <= dim < student.ndim:
        raise InputError(
            f"dim: logits {list(student.shape)} have no dimension {dim}",
            where="the outputs of teacher and student",
            found=f"dim={dim} and logits {list(student.shape)}",
            needed="the dimension of the logits that holds the classes",
            do=f"pass Distillation(dim={min(1, student.ndim - 1)}), or -1 for the last",
        )
    teacher_output = F.log_softmax(teacher.detach().float() / temperature, dim).movedim(dim, -1).flatten(0, -2)
    student_log = F.log_softmax(student.float() / temperature, dim).movedim(dim, -1).flatten(0, -2)
    return F.kl_div(student_log, teacher_output, reduction="batchmean", log_target=True) * temperature**2
