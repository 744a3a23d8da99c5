"""What every library is given, and the search for how much it must prune."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import call
from benchmarks.tasks import Task

TRIALS = 14
"""Steps in which a library's own measure of strength is sought."""
NEAR = 0.99
"""So much of the budget is near enough."""


class TooLong(BaseException):
    """Raised amid pruning when the time is up. Not an error, so that no library takes it for one of its own."""


@dataclass(frozen=True)
class Case:
    """A dense network, how many MACs may be left of it, and the samples that may be looked at.

    Attributes:
        share: the MACs that may be left, as a fraction of those of ``dense``.
        samples, seed: how many training samples, and which; all may be seen as training would vary them.
        hints: strengths that were right for another seed, by method.
    """

    task: Task
    dense: nn.Module
    share: float
    samples: int
    seed: int
    hints: dict[str, float] = field(default_factory=dict)

    @property
    def example(self) -> Any:
        return self.task.example_inputs

    @cached_property
    def labeled(self) -> list[tuple[Any, Any]]:
        return self.task.varied(self.samples, self.seed)

    @cached_property
    def unlabeled(self) -> list[Any]:
        return [inputs for inputs, _ in self.labeled]

    def left(self, slim: nn.Module) -> float:
        """The fraction of the MACs that a network has."""
        return macs(slim, self.example) / self._all_macs

    @torch.no_grad()
    def loss(self, slim: nn.Module) -> float:
        """The mean over the labeled samples."""
        losses = (self.task.loss(call(slim.eval(), inputs), target) * len(target) for inputs, target in self.labeled)
        return float(sum(losses)) / self._rows

    @cached_property
    def _rows(self) -> int:
        return sum(len(target) for _, target in self.labeled)

    @cached_property
    def _all_macs(self) -> int:
        return macs(self.dense, self.example)

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Of the loss, by parameter: the mean over all samples."""
        return self._mean_gradients(self.labeled, lambda gradient: gradient)

    @cached_property
    def squared_gradients(self) -> dict[str, Tensor]:
        """The mean over the samples of the squares of each one's gradients."""
        singles = [
            pair for inputs, target in self.labeled for pair in zip(inputs.split(1), target.split(1), strict=True)
        ]
        return self._mean_gradients(singles, torch.square)

    def copy_with(self, gradients: Mapping[str, Tensor] | None = None) -> nn.Module:
        """A copy of the dense network whose parameters have these gradients."""
        model = copy.deepcopy(self.dense)
        for name, parameter in model.named_parameters():
            parameter.grad = None if gradients is None else gradients[name].clone()
        return model

    def _mean_gradients(self, pairs: Any, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        model = copy.deepcopy(self.dense).eval()
        found = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
        for inputs, target in pairs:
            model.zero_grad()
            self.task.loss(call(model, inputs), target).backward()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    found[name] += function(parameter.grad) * (len(target) / self._rows)
        return found

    def largest(self, prune: Callable[[float], nn.Module], hint: str, step: float = 0.0) -> nn.Module:
        """A network that nearly uses the budget up, among those that ``prune(strength)`` makes, 0 < strength < 1.

        A library has its own measure of strength (a ratio of channels, of parameters), and every one is held to the
        same count of MACs: found along lines between what was too weak and what was too strong, or in the middle
        where a line led to no other network, beginning where the last search with the same ``hint`` ended. A strength
        at which pruning fails, or gives a network that does not run, counts as too strong. Strengths less than
        ``step`` apart give the same network: there the search ends.

        Raises:
            RuntimeError: no strength gave a network within the budget; the last error is the cause.
        """
        best, most, error, stuck = None, 0.0, None, False
        low, high = (0.0, 1.0), (1.0, 0.0)  # strengths, and the shares of the MACs that they leave
        aim = self.share * (1 + NEAR) / 2
        strength = self.hints.get(hint, _between(low, high, aim))
        for _ in range(TRIALS):
            try:
                found = prune(strength)
                left = self.left(found)
            except Exception as caught:  # whatever a library raises is its answer, and is reported
                error, high, stuck = caught, (strength, 0.0), False
            else:
                stuck = left in (low[1], high[1])
                low, high = ((strength, left), high) if left > self.share else (low, (strength, left))
                if most < left <= self.share:
                    best, most, self.hints[hint] = found, left, strength
            if most >= NEAR * self.share or high[0] - low[0] < step:
                break
            strength = (low[0] + high[0]) / 2 if stuck else _between(low, high, aim)
        if best is None:
            raise RuntimeError(
                f"no network within {self.share:.0%} of the MACs ({error or 'all are larger'})"
            ) from error
        return best


def _between(low: tuple[float, float], high: tuple[float, float], aim: float) -> float:
    """Where a line leads to ``aim``; not nearer to the ends than a tenth.

    The line is of widths: MACs go with inputs times outputs, so their root falls evenly with the strength.
    """
    (weak, more), (strong, less) = low, high
    more, less, aim = math.sqrt(more), math.sqrt(less), math.sqrt(aim)
    return weak + (strong - weak) * min(max((more - aim) / (more - less), 0.1), 0.9)


def macs(model: nn.Module, inputs: Any) -> int:
    """Multiply-adds of one forward pass, as torch counts them: attention's as products, its kernels count none."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call(model.eval(), inputs)
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class Method:
    """One way to prune: a library, and what it goes by."""

    library: str
    name: str
    prune: Callable[[Case], nn.Module]
