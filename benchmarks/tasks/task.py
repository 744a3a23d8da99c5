"""What every task gives: data, a trained dense network for each seed, and a measure of quality."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import graphprune
from benchmarks.common import RESULTS, call

TRAINED = RESULTS / "trained"
"""Weights of dense networks: each is trained once and found there again."""

Pair = tuple[Any, Any]


class Task(ABC):
    """Real data, and a network that is good at it.

    Attributes:
        name: such as ``"digits-resnet20"``.
        metric: what :meth:`evaluate` measures.
        higher: is more of it better?
        training: arguments of :func:`graphprune.finetune` with which the dense network is trained.
        tuning: those with which a pruned network is trained again.
        quick: a few steps of training and few samples of evaluation: to try things out.
        share: the MACs to which the network is pruned in the table of criteria, as a fraction.
        samples: how many it is calibrated with there.
    """

    name: str
    metric: ClassVar[str]
    higher: ClassVar[bool] = True
    training: Mapping[str, Any]
    tuning: Mapping[str, Any]
    share: ClassVar[float] = 0.5
    samples: ClassVar[int] = 128

    def __init__(self, quick: bool = False) -> None:
        self.quick = quick

    @abstractmethod
    def fresh(self) -> nn.Module:
        """An untrained network; its weights follow from torch's random numbers."""

    @property
    @abstractmethod
    def example_inputs(self) -> Any:
        """One sample, for tracing and timing."""

    @property
    @abstractmethod
    def batches(self) -> Iterable[Pair]:
        """Training batches ``(inputs, target)``, drawn anew with torch's random numbers every time they are read."""

    @abstractmethod
    def labeled(self, samples: int, seed: int) -> list[Pair]:
        """So many samples of the training data with their targets, in batches."""

    def varied(self, samples: int, seed: int) -> list[Pair]:
        """The labeled samples, and what training makes of them; as a rule it takes them as they are."""
        return self.labeled(samples, seed)

    @staticmethod
    @abstractmethod
    def loss(output: Any, target: Any) -> Tensor:
        """The loss of a batch, a scalar."""

    @abstractmethod
    def evaluate(self, model: nn.Module) -> float:
        """The metric on data that no network was trained on."""

    @property
    def fine_metric(self) -> str:
        """What :meth:`evaluate_finely` measures."""
        return self.metric

    def evaluate_finely(self, model: nn.Module) -> float:
        """What tells good networks apart, where the metric says the same of all; as a rule it does not."""
        return self.evaluate(model)

    def measures(self, model: nn.Module) -> dict[str, float]:
        """The metric, and others that say something about the same outputs."""
        return {self.metric: self.evaluate(model)}

    def calibration(self, samples: int, seed: int) -> list[Any]:
        """So many samples of the training data without targets, in batches."""
        return [inputs for inputs, _ in self.labeled(samples, seed)]

    def answers(self, dense: nn.Module, samples: int, seed: int) -> list[Pair]:
        """The calibration samples with what ``dense`` decides of them: targets for :meth:`loss`, without labels."""
        found = []
        with torch.no_grad():
            for inputs in self.calibration(samples, seed):
                found.append((inputs, self.decide(call(dense, inputs))))
        return found

    def decide(self, output: Any) -> Any:
        """A network's hard answers, as targets for :meth:`loss`: as a rule, the likeliest class of the last dimension.

        Never its soft output: where a loss compares that with itself, its gradient is zero.
        """
        return output.argmax(-1)

    def dense(self, seed: int) -> nn.Module:
        """The trained network, in evaluation mode; trained if nobody did so before."""
        torch.manual_seed(seed)
        model = self.fresh()
        file = self._file(seed)
        if not file.exists():
            self._train(model, seed)
            _write(model, file)
        model.load_state_dict(load_file(file))
        return model.eval()

    def tune(self, model: nn.Module, seed: int, **more: Any) -> graphprune.History:
        """Train a pruned network again, in place."""
        return graphprune.finetune(
            model, self.batches, loss_fn=self.loss, seed=seed, progress=False, **{**self._short(self.tuning), **more}
        )

    def _train(self, model: nn.Module, seed: int) -> None:
        graphprune.finetune(
            model, self.batches, loss_fn=self.loss, seed=seed, progress=False, **self._short(self.training)
        )

    def _short(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Quickly: two steps."""
        return {**arguments, "epochs": None, "steps": 2, "warmup": 0} if self.quick else dict(arguments)

    def _file(self, seed: int) -> Path:
        """Other settings or another torch make another network."""
        made_by = repr((torch.__version__, sorted(self._short(self.training).items())))
        return TRAINED / f"{self.name}-{seed}-{hashlib.sha256(made_by.encode()).hexdigest()[:8]}.safetensors"


class SplitTask(Task):
    """A task of which settings can be chosen without a look at its test split."""

    @abstractmethod
    def validating(self) -> Task:
        """The same network and metric on the training data alone: a part is held back from training, to test with."""


def _write(model: nn.Module, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{os.getpid()}")
    save_file(model.state_dict(), unfinished)
    os.replace(unfinished, file)


def each_output(model: nn.Module, batches: Iterable[Any], run: Callable[[nn.Module, Any], Tensor]) -> Tensor:
    """What ``run(model, batch)`` gives for all batches, end to end; in evaluation mode and without gradients."""
    training = model.training
    try:
        with torch.no_grad():
            return torch.cat([run(model.eval(), batch) for batch in batches])
    finally:
        model.train(training)
