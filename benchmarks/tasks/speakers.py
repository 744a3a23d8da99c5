"""Who speaks: recordings alike by Resemblyzer's published encoder, an LSTM of three layers.

Wan, Wang, Papir and Moreno, "Generalized End-to-End Loss for Speaker Verification", ICASSP 2018; weights of the package
``Resemblyzer`` (2019).
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.packages import file
from benchmarks.tasks.pretrained import Pretrained
from benchmarks.tasks.sentences import agreement
from benchmarks.tasks.sounds import RATE, recordings
from benchmarks.tasks.task import each_output

BANDS, WINDOW, STEP = 40, 400, 160
FRAMES = 160
"""Of a sample: 1.6 seconds."""
LOUDNESS = 10 ** (-30 / 20)
LINEAR, FIRST, GROWTH = 200 / 3, 1000.0, np.log(6.4) / 27
"""Of Slaney's mel scale ("Auditory Toolbox", 1998): hertz for a mel below ``FIRST`` hertz, logarithmic above."""


class Encoder(nn.Module):
    """Frames of mel bands to a vector of length 1; layers are called as in the published weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, bands: Tensor) -> Tensor:
        """[b, t, 40] -> [b, 256]."""
        last = self.lstm(bands)[1][0][-1]
        return F.normalize(self.linear(last).relu(), dim=1)


def hertz(mels: np.ndarray) -> np.ndarray:
    """Frequencies of places on the mel scale."""
    turn = FIRST / LINEAR
    return np.where(mels < turn, mels * LINEAR, FIRST * np.exp(GROWTH * np.maximum(mels - turn, 0)))


@cache
def filters() -> Tensor:
    """How much of each frequency goes into each band: triangles of equal area. [40, 201]"""
    highest = FIRST / LINEAR + np.log(RATE / 2 / FIRST) / GROWTH
    corners = hertz(np.linspace(0, highest, BANDS + 2))
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    up = (frequencies - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    down = (corners[2:, None] - frequencies) / (corners[2:] - corners[1:-1])[:, None]
    area = 2 / (corners[2:] - corners[:-2])
    return torch.from_numpy(np.maximum(np.minimum(up, down), 0) * area[:, None]).float()


def mel_bands(sounds: Tensor) -> Tensor:
    """Sounds [b, n] as the power of 40 bands, a frame every ten milliseconds: [b, 160, 40]."""
    spectrum = torch.stft(
        sounds, WINDOW, STEP, window=torch.hann_window(WINDOW), pad_mode="constant", return_complex=True
    )
    return torch.einsum("mf,bft->btm", filters(), spectrum.abs().square())[:, :FRAMES]


def clips(split: str, count: int, seed: int) -> Tensor:
    """Random pieces of random recordings, equally loud: [count, 25600]."""
    generator, length = torch.Generator().manual_seed(seed), FRAMES * STEP
    long = [sound for sound in recordings(split) if len(sound) >= length]
    found = []
    for _ in range(count):
        sound = long[int(torch.randint(len(long), (), generator=generator))]
        start = int(torch.randint(len(sound) - length + 1, (), generator=generator))
        found.append(sound[start : start + length])
    pieces = torch.stack(found)
    return pieces * (LOUDNESS / pieces.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6))


class Speakers(Pretrained):
    """Find the recordings alike that the dense encoder finds alike.

    The metric is Spearman's rank correlation between the similarities of all pairs.
    """

    name = "speakers-resemblyzer"
    metric: ClassVar[str] = "similarity agreement"
    share = 0.7
    package = ("resemblyzer/pretrained.pt", "sounds")

    def fresh(self) -> nn.Module:
        model = Encoder()
        weights = torch.load(file("resemblyzer/pretrained.pt"), map_location="cpu", weights_only=True)
        model.load_state_dict({name: t for name, t in weights["model_state"].items() if "similarity" not in name})
        return model

    @property
    def example_inputs(self) -> Tensor:
        return self.calibration(2, 0)[0]

    def calibration(self, samples: int, seed: int) -> list[Tensor]:
        return list(mel_bands(clips("training", samples, seed)).split(32))

    def decide(self, output: Tensor) -> Tensor:
        """Vectors have no hard answers: random directions, always the same, in which their gradients are taken."""
        return torch.randn(output.shape, generator=torch.Generator().manual_seed(len(output)))

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """One minus the cosine."""
        return 1 - F.cosine_similarity(output, target).mean()

    def judge(self, model: nn.Module, split: str) -> float:
        sounds, wanted = self._wanted[split]
        return agreement(self._similarities(model, sounds), wanted)

    def _similarities(self, model: nn.Module, sounds: Tensor) -> Tensor:
        vectors = each_output(model, sounds.split(64), lambda m, x: m(x))
        return vectors @ vectors.T

    @cached_property
    def _wanted(self) -> dict[str, tuple[Tensor, Tensor]]:
        most = 24 if self.quick else 300
        found = {split: mel_bands(clips(split, most, 0)) for split in ("validation", "test")}
        return {split: (sounds, self._similarities(self.dense(0), sounds)) for split, sounds in found.items()}
