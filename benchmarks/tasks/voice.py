"""Speech or not, by Silero's detector with its published weights.

Silero Team, "Silero VAD: pre-trained enterprise-grade Voice Activity Detector", 2024; weights of the package
``silero-vad``.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained
from benchmarks.tasks.sounds import speech
from benchmarks.tasks.task import each_output

STEP, CONTEXT = 512, 64
"""Samples of a frame, and how many of the frame before it come with it."""
FRAMES = 32
"""Of a sample: a second of sound."""
LIKELY = 0.5


class Detector(nn.Module):
    """Frames of sound to how likely each is speech: a Fourier transform, four convolutions and an LSTM.

    Its layers are called as in the published weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(129, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)

    def forward(self, sound: Tensor) -> Tensor:
        """[b, frames, 576] -> [b, frames]."""
        batch, steps, length = sound.shape
        x = F.pad(sound.reshape(batch * steps, 1, length), (0, 64), mode="reflect")
        real, imaginary = self.stft_conv(x).chunk(2, dim=1)
        x = torch.sqrt(real.square() + imaginary.square())
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        x = x.reshape(batch, steps, -1)
        state: tuple[Tensor, Tensor] | None = None
        states = []
        for step in range(steps):
            state = self.lstm_cell(x[:, step], state)
            states.append(state[0])
        return self.final_conv(torch.stack(states, dim=2).relu()).sigmoid()[:, 0]


def framed(sound: Tensor) -> Tensor:
    """Sounds [b, 64 + 512 frames] cut into frames that overlap: [b, frames, 576]."""
    return sound.unfold(1, STEP + CONTEXT, STEP)


class Voice(Pretrained):
    """Decide as the dense network does which frames are speech, where there are pauses and noise.

    The metric is the share of frames of which the same is said. Pauses and noise are in every sound, so that a
    constant answer is often wrong.
    """

    name = "voice-silero"
    metric: ClassVar[str] = "same decisions"
    package = ("silero_vad/data/silero_vad_16k.safetensors", "sounds")

    def fresh(self) -> nn.Module:
        model = Detector()
        model.load_state_dict(load_file(file("silero_vad/data/silero_vad_16k.safetensors")))
        return model

    @property
    def example_inputs(self) -> Tensor:
        return self._sounds("training", 1, 0)

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        return list(self._sounds("training", samples, seed).split(32))

    def decide(self, output: Tensor) -> Tensor:
        return (output > LIKELY).float()

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(output.clamp(1e-7, 1 - 1e-7), target)

    def judge(self, model: nn.Module, split: str) -> float:
        sounds, wanted = self._wanted[split]
        return (self._decided(model, sounds) == wanted).float().mean().item()

    @cached_property
    def _wanted(self) -> dict[str, tuple[Tensor, Tensor]]:
        splits = {split: self._sounds(split, 8 if self.quick else 256, 0) for split in ("validation", "test")}
        return {split: (sounds, self._decided(self.dense(0), sounds)) for split, sounds in splits.items()}

    def _decided(self, model: nn.Module, sounds: Tensor) -> Tensor:
        return each_output(model, sounds.split(64), lambda m, x: m(x) > LIKELY)

    def _sounds(self, split: str, count: int, seed: int) -> Tensor:
        """Speech with a pause at a random place of each, and noise whose loudness is random: [count, frames, 576]."""
        generator = torch.Generator().manual_seed(seed)
        length = FRAMES * STEP
        sound = speech(split, count * length, generator).reshape(count, length)
        start, span = torch.rand(2, count, 1, generator=generator) * length
        place = torch.arange(length)
        pause = (place >= start) & (place < start + span)
        loudness = 10 ** (-1.5 - 2 * torch.rand(count, 1, generator=generator))  # of 1: -30 to -70 dB
        noise = loudness * torch.randn(count, length, generator=generator)
        return framed(F.pad(sound * ~pause + noise, (CONTEXT, 0)))
