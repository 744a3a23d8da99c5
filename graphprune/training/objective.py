"""The loss that a training step goes down: of the targets, of the teacher, or of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune.calibration import LossFunction, own_loss
from graphprune.errors import InputError
from graphprune.lending import lent
from graphprune.training.batches import call_of
from graphprune.training.distillation import Distillation, distillation_loss, logits_of
from graphprune.training.features import FeatureLoss, Mean, Taps


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
        self._taps: tuple[Taps, ...] = ()

    @contextmanager
    def attached(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """Ready to be called. The teacher, moved to ``device``, is in evaluation mode meanwhile."""
        with ExitStack() as stack:
            if self.teacher is not None:
                self.teacher.to(device)
                stack.enter_context(lent(self.teacher))
                for whose, network in (("student", model), ("teacher", self.teacher)):
                    taps = Taps(network, self.features, whose)
                    stack.callback(taps.close)
                    self._taps += (taps,)
            yield
        self._taps = ()

    def __call__(self, run: Callable[..., Any], batch: Any, device: torch.device) -> Tensor:
        """The loss of ``run(*args, **kwargs)``.

        Raises:
            InputError: the batch has no target and the model no loss, or the loss is not one number.
        """
        args, kwargs, target = call_of(batch, device)
        output = run(*args, **kwargs)
        losses = []
        if self.teacher is None or self.distill.alpha < 1:
            share = 1.0 if self.teacher is None else 1 - self.distill.alpha
            losses.append(share * self._hard(output, target, kwargs))
        if self.teacher is not None:
            with torch.no_grad():
                told = self.teacher(*args, **kwargs)
            losses += self._soft(output, told)
        return torch.stack(losses).sum()

    def _hard(self, output: Any, target: Any, kwargs: dict[str, Any]) -> Tensor:
        if self.loss_fn is not None:
            loss = self.loss_fn(output, kwargs if target is None else target)
        elif target is None:
            loss = own_loss(output)
        else:
            loss = F.cross_entropy(logits_of(output), target)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise InputError(f"loss_fn: must give one number that depends on the weights, but gave {loss!r:.80}")
        return loss.reshape(())

    def _soft(self, output: Any, told: Any) -> Iterator[Tensor]:
        distill = self.distill
        if distill.alpha:
            soft = distillation_loss(logits_of(output), logits_of(told), distill.temperature, distill.dim)
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
